//! Which program made a report, on which host, and how it was called.
//!
//! Owns the look at this process. Knows nothing of the run.

use serde::Serialize;

/// The program that makes a report.
#[derive(Clone, Debug, Serialize)]
pub struct Invocation {
    /// The version of this crate.
    pub version: &'static str,
    /// The name of this host, as `uname -n` prints it.
    pub host: String,
    /// The program and its arguments, as it was called.
    pub command_line: Vec<String>,
}

impl Invocation {
    /// That of this process.
    #[must_use]
    pub fn of_this_process() -> Invocation {
        Invocation {
            version: env!("CARGO_PKG_VERSION"),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            command_line: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        }
    }
}
