#![allow(missing_docs)]
pub mod buffer;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod connection;
pub mod descriptors;
pub mod escape;
pub mod event_loop;
pub mod lossy_stderr;
pub mod moment;
pub mod narrator;
pub mod net;
pub mod protocol;
pub mod server;
pub mod signals;
mod status;
