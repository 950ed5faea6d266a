//! System calls, counted by strace in runs of their own: it slows a server down so much that no time means anything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::peers::said_by;
use crate::server::{self, Server};

/// How often each call was made, and how often it failed (`EAGAIN`, most likely).
pub type Calls = BTreeMap<String, Count>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub calls: u64,
    pub failed: u64,
}

/// A strace that looks at a server.
pub struct Tracer {
    process: Child,
    output: PathBuf,
}

/// Why there is none, if there is none.
pub fn absent() -> Option<String> {
    said_by(Command::new("strace").arg("--version")).err()
}

impl Tracer {
    /// Looks at all processes and threads of a server from now on.
    pub fn attach(server: &Server, output: PathBuf) -> anyhow::Result<Tracer> {
        let pids = server.pids()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-o"]).arg(&output).stdin(Stdio::null()).stderr(Stdio::piped());
        command.args(pids.iter().map(|pid| format!("-p{pid}")));
        server::on_core(&mut command, server::CORE);
        let mut process = command.spawn().context("strace")?;
        // It says so of each process that it is attached to.
        let mut complaints = BufReader::new(process.stderr.take().context("strace has an error output")?);
        for _ in pids {
            let mut line = String::new();
            complaints.read_line(&mut line)?;
            ensure!(line.contains("attached"), "strace: {}", line.trim());
        }
        Ok(Tracer { process, output })
    }

    /// Lets the server go. What it did meanwhile.
    pub fn detach(mut self) -> anyhow::Result<Calls> {
        sys::signal(self.process.id(), libc::SIGINT)?;
        self.process.wait()?;
        Ok(parse(&fs::read_to_string(&self.output)?))
    }
}

/// Reads strace's summary: time, seconds, microseconds a call, calls, errors if there were any, name.
pub fn parse(summary: &str) -> Calls {
    let mut calls = Calls::new();
    for line in summary.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(count)) = (words.last(), words.get(3).and_then(|count| count.parse().ok())) else {
            continue;
        };
        if *name != "total" {
            let failed = if words.len() == 6 { words[4].parse().unwrap_or_default() } else { 0 };
            calls.insert((*name).to_owned(), Count { calls: count, failed });
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let calls = parse(
            "% time     seconds  usecs/call     calls    errors syscall\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
             \x2066.08    0.000113           0       126           sendto\n\
             \x2033.92    0.000058           1        51        25 accept4\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
             100.00    0.000171           0       177        25 total\n",
        );
        assert_eq!(calls.len(), 2);
        assert_eq!(calls["sendto"], Count { calls: 126, failed: 0 });
        assert_eq!(calls["accept4"], Count { calls: 51, failed: 25 });
    }
}
