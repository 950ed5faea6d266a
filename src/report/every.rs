//! In how many intervals an expectation held, and where it did not.
//!
//! Owns the count, the first few places and the worst of all: memory that does not grow with the run.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::report::expect::Judgement;

/// How many intervals are named in which an expectation did not hold. A line of the report has room for these.
const NAMED: usize = 5;

/// What was judged so far, of one expectation.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    summary: InIntervals,
    worst: Option<Judgement>,
}

/// In how many intervals an expectation held, and where it did not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InIntervals {
    /// Intervals in which there was something to measure.
    pub judged: u64,
    /// Those of them in which it did not hold.
    pub not_held: u64,
    /// When the first of those began, in seconds since the first connect was begun.
    pub from_seconds: Vec<f64>,
}

impl Intervals {
    /// Adds an interval that began then.
    pub fn add(&mut self, began: Duration, judgement: Judgement) {
        let InIntervals { judged, not_held, from_seconds } = &mut self.summary;
        *judged += 1;
        if !judgement.held {
            *not_held += 1;
            if from_seconds.len() < NAMED {
                from_seconds.push(began.as_secs_f64());
            }
        }
        if self.worst.is_none_or(|worst| judgement.badness > worst.badness) {
            self.worst = Some(judgement);
        }
    }

    /// The worst interval. If the expectation held there, it held in each.
    #[must_use]
    pub fn worst(&self) -> Option<Judgement> {
        self.worst
    }

    /// The counts, and the first places.
    #[must_use]
    pub fn summary(&self) -> InIntervals {
        self.summary.clone()
    }
}

/// What follows `held` or `did NOT hold`.
impl fmt::Display for InIntervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InIntervals { judged, not_held, from_seconds } = self;
        match (*judged, *not_held) {
            (0, _) => return Ok(()),
            (1, 0) => return f.write_str(" in the one interval"),
            (_, 0) => return write!(f, " in {judged} intervals"),
            (1, _) => f.write_str(" in the one interval, at ")?,
            _ => write!(f, " in {not_held} of {judged} intervals, at ")?,
        }
        // In milliseconds, as an interval may be shorter than a second.
        let places: Vec<String> = from_seconds.iter().map(|at| ((at * 1e3).round() / 1e3).to_string()).collect();
        write!(f, "{} s", places.join(", "))?;
        match *not_held - from_seconds.len() as u64 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
