//! What the client found out, and how it says so.
//!
//! Owns the counts and their layout as text.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::protocol::exchange::Exchange;
use crate::signals::Signal;

/// How many failed connections the report names one by one; all are counted. A report is to fit a screen.
const NAMED_FAILURES: usize = 10;

/// What became of all connections of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The address that was connected to, or the first of several.
    pub target: SocketAddr,
    /// Connections asked for.
    pub requested: u32,
    /// Connections that were established.
    pub established: u32,
    /// Connections on which every byte came back, and nothing else, and which both ends finished.
    pub intact: u32,
    /// Connections that were not over, or not started, when the run was interrupted.
    pub unfinished: u32,
    /// Failed connections, by reason.
    pub by_reason: BTreeMap<Reason, u32>,
    /// The first failed connections, ten at the most.
    pub failures: Vec<Failure>,
    /// Messages sent whole.
    pub messages_sent: u64,
    /// Messages that came back whole.
    pub messages_echoed: u64,
    /// Bytes that the kernel took.
    pub bytes_sent: u64,
    /// Bytes that came back right.
    pub bytes_echoed: u64,
    /// From the first connect to the end of the last connection.
    pub elapsed: Duration,
    /// The signal that ended the run early.
    pub interrupted: Option<Signal>,
}

/// A connection that was not intact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its number, counted from 1.
    pub connection: u32,
    /// The peer's address.
    pub addr: SocketAddr,
    /// What kind of failure.
    pub reason: Reason,
    /// What exactly, for people.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} to {} {}: {}", self.connection, self.addr, self.reason, self.detail)
    }
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody listens there.
    Refused,
    /// The connect was not answered in time.
    ConnectTimeout,
    /// The connect failed in some other way: no route, no free port, no descriptor.
    ConnectFailed,
    /// A byte came back that was not the one sent.
    Corrupted,
    /// The peer finished before everything was back.
    Truncated,
    /// More came back than was sent.
    Extra,
    /// The peer reset the connection.
    Reset,
    /// Nothing moved for too long.
    NoProgress,
    /// Everything came back, but the peer never finished.
    Unclosed,
    /// Anything else that the system said.
    Failed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Refused => "refused",
            Reason::ConnectTimeout => "connect timeout",
            Reason::ConnectFailed => "connect failed",
            Reason::Corrupted => "corrupted",
            Reason::Truncated => "truncated",
            Reason::Extra => "extra",
            Reason::Reset => "reset",
            Reason::NoProgress => "no progress",
            Reason::Unclosed => "unclosed",
            Reason::Failed => "failed",
        })
    }
}

impl Report {
    pub(super) fn new(target: SocketAddr, requested: u32) -> Report {
        Report {
            target,
            requested,
            established: 0,
            intact: 0,
            unfinished: 0,
            by_reason: BTreeMap::new(),
            failures: Vec::new(),
            messages_sent: 0,
            messages_echoed: 0,
            bytes_sent: 0,
            bytes_echoed: 0,
            elapsed: Duration::ZERO,
            interrupted: None,
        }
    }

    /// Adds what one exchange sent and got back.
    pub(super) fn count(&mut self, exchange: &Exchange, bytes_sent: u64) {
        self.messages_sent += exchange.messages_sent();
        self.messages_echoed += exchange.messages_echoed();
        self.bytes_sent += bytes_sent;
        self.bytes_echoed += exchange.bytes_echoed();
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        *self.by_reason.entry(failure.reason).or_default() += 1;
        if self.failures.len() < NAMED_FAILURES {
            self.failures.push(failure);
        }
    }

    /// How many connections failed.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.by_reason.values().sum()
    }

    /// Whether every connection asked for was intact.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.intact == self.requested
    }
}

/// The report for people; it ends with a newline.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { requested, established, intact, unfinished, .. } = self;
        let failed = self.failed();
        writeln!(f, "target       {}", self.target)?;
        write!(f, "connections  {requested} asked for, {established} established, {intact} intact, {failed} failed")?;
        if *unfinished > 0 {
            write!(f, ", {unfinished} unfinished")?;
        }
        writeln!(f)?;
        writeln!(f, "messages     {} sent, {} echoed", self.messages_sent, self.messages_echoed)?;
        writeln!(f, "bytes        {} sent, {} echoed", self.bytes_sent, self.bytes_echoed)?;
        writeln!(f, "elapsed      {:.3} s", self.elapsed.as_secs_f64())?;
        if let Some(signal) = self.interrupted {
            writeln!(f, "interrupted  by {}", signal.name())?;
        }
        if failed > 0 {
            let reasons: Vec<String> =
                self.by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            writeln!(f, "failed       {}", reasons.join(", "))?;
            for failure in &self.failures {
                writeln!(f, "  {failure}")?;
            }
            let unnamed = failed as usize - self.failures.len();
            if unnamed > 0 {
                writeln!(f, "  and {unnamed} more")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_the_first_ones_named() {
        let addr: SocketAddr = "127.0.0.1:65432".parse().unwrap();
        let mut report = Report::new(addr, 14);
        for connection in 1..=12 {
            let reason = if connection == 1 { Reason::Reset } else { Reason::Refused };
            report.fail(Failure { connection, addr, reason, detail: "as it was".to_owned() });
        }
        report.intact = 2;
        assert!(!report.is_intact());
        let text = report.to_string();
        assert!(text.contains("connections  14 asked for, 0 established, 2 intact, 12 failed\n"), "{text}");
        assert!(text.contains("failed       11 refused, 1 reset\n"), "{text}");
        assert!(text.contains("  connection 1 to 127.0.0.1:65432 reset: as it was\n"), "{text}");
        assert!(text.ends_with("  and 2 more\n"), "{text}");
    }

    #[test]
    fn an_intact_run_says_no_more_than_it_has_to() {
        let mut report = Report::new("127.0.0.1:65432".parse().unwrap(), 3);
        report.intact = 3;
        assert!(report.is_intact());
        assert_eq!(report.to_string().lines().count(), 5);
    }
}
