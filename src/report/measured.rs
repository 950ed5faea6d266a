//! What a run, or one interval of it, came to.
//!
//! Owns what expectations and rates are reckoned from, so that a run and an interval are judged by the same code.

use std::time::Duration;

use crate::client::findings::Findings;
use crate::client::measure::{Figures, ratio};

/// What a run, or one interval of it, came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Its counters and histograms.
    pub figures: &'a Figures,
    /// How long it took: of a run, the measured part.
    pub took: Duration,
    /// Whether messages are scheduled: an open loop.
    pub is_scheduled: bool,
    /// How many connections were established; of an interval, those that stood when it ended.
    pub connections: u32,
    /// How many faults there were.
    pub faults: u32,
    /// Messages that were begun and will never be back.
    pub unanswered: u64,
    /// Scheduled messages that count as longer than all others.
    pub never: u64,
    /// Messages that were due and not back when an interval ended. A run leaves none: it counts them as `never`.
    pub waiting: u64,
    /// What was found in the end, if this is the whole run.
    pub run: Option<&'a Findings>,
}

impl<'a> Measured<'a> {
    /// A whole run.
    #[must_use]
    pub fn of_run(findings: &'a Findings) -> Measured<'a> {
        Measured {
            figures: &findings.figures,
            took: findings.measured,
            is_scheduled: findings.is_scheduled,
            connections: findings.connections.established,
            faults: findings.faults_by_kind.values().sum(),
            unanswered: findings.unanswered,
            never: findings.never,
            waiting: 0,
            run: Some(findings),
        }
    }

    /// Echoed messages by seconds.
    #[must_use]
    pub fn messages_per_second(&self) -> f64 {
        self.a_second(self.figures.messages_echoed)
    }

    /// Echoed bytes by seconds, in 10⁶.
    #[must_use]
    pub fn megabytes_per_second(&self) -> f64 {
        self.a_second(self.figures.bytes_echoed) / 1e6
    }

    fn a_second(&self, count: u64) -> f64 {
        if self.took.is_zero() { 0.0 } else { ratio(count, self.took.as_secs_f64()) }
    }
}
