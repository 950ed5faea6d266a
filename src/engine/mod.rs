//! One loop over mio, and all that it is made of.
//!
//! Owns everything that every program has in common. Knows nothing of echoes, measurements or arguments: what is done
//! with the bytes is the [`protocol`](protocol::Protocol)'s, what is done with the connections the
//! [`role`](role::Role)'s. Below, a module names only what stands above it.

pub mod time;

pub mod buffer;
pub mod escape;
pub mod log_budget;
pub mod peer_addr;

pub mod protocol;

pub mod wire;

mod progress;

pub mod connection;

pub mod descriptors;
pub mod signals;
pub mod sockets;
mod timer;

pub mod system;

mod accepting;
mod deadlines;
mod memory;
mod run_queue;
mod silence;

pub mod event_loop;
pub mod role;
