#![allow(missing_docs)]
pub mod buffer;
pub mod connection;
pub mod descriptors;
pub mod escape;
pub mod event_loop;
pub mod lossy_stderr;
pub mod moment;
pub mod narrator;
pub mod net;
pub mod protocol;
pub mod signals;
