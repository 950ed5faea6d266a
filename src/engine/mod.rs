//! One loop over mio, and its parts.
//!
//! Owns what all programs have in common. Knows nothing of echoes, measurements or arguments: a
//! [`protocol`](protocol::Protocol) decides about the bytes, a [`role`](event_loop::Role) about the connections. In the list
//! below, a module names only modules above it.

pub mod time;

pub mod buffer;
pub mod escape;
pub mod log_budget;
pub mod peer_addr;

pub mod protocol;

pub mod wire;

mod progress;

pub mod connection;

pub mod rehearsal;

pub mod descriptors;
pub mod handle;
pub mod signals;
pub mod sockets;
mod timer;

pub mod system;

mod accepting;
mod deadlines;
pub mod listeners;
mod memory;
mod pairs;
mod run_queue;
mod silence;
mod slots;

pub mod event;
pub mod event_loop;
