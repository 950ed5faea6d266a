//! What a run, or one interval of it, came to.
//!
//! Owns what expectations and rates are reckoned from, so that a run and an interval are judged by the same code.

use std::time::Duration;

use crate::client::findings::Findings;
use crate::client::measure::{Figures, ratio};
use crate::client::timeline::Interval;

/// What a run, or one interval of it, came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Its counters and histograms.
    pub figures: &'a Figures,
    /// How long it took: of a run, the measured part.
    pub took: Duration,
    /// Whether messages are scheduled: an open loop.
    pub is_scheduled: bool,
    /// Whether it belongs to the measured part. In an interval before, only connects are measured.
    pub is_measured: bool,
    /// How many connections were established; of an interval, how many stood.
    pub connections: u64,
    /// How many faults there were.
    pub faults: u64,
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
            is_measured: true,
            connections: findings.connections.established,
            faults: findings.faults_by_kind.values().sum(),
            unanswered: findings.unanswered,
            never: findings.never,
            waiting: 0,
            run: Some(findings),
        }
    }

    /// An interval of a run.
    #[must_use]
    pub fn of_interval(interval: &'a Interval, is_scheduled: bool) -> Measured<'a> {
        let figures = &interval.figures;
        Measured {
            figures,
            took: interval.length(),
            is_scheduled,
            is_measured: interval.is_measured,
            connections: interval.connections.into(),
            faults: interval.faults,
            unanswered: figures.unanswered,
            never: if is_scheduled { figures.unanswered } else { 0 },
            waiting: interval.waiting,
            run: None,
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

    /// Connections that were intact and over by seconds, where connections come and go.
    #[must_use]
    pub fn connections_per_second(&self) -> Option<f64> {
        Some(self.a_second(self.run?.measured_connections?))
    }

    fn a_second(&self, count: u64) -> f64 {
        if self.took.is_zero() { 0.0 } else { ratio(count, self.took.as_secs_f64()) }
    }
}
