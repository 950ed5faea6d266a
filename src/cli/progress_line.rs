//! The client program beside its client: the line that shows how the run is getting on, and the table for SIGUSR1. Faults
//! and intervals it hands on.
//!
//! Owns when the line is drawn again. There is none where there is no terminal, and no thread draws: the client calls
//! between its turns. Where the line stands, and how the log gets past it, is the business of [`LossyStderr`].

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::intervals::Intervals;
use crate::cli::standard_error::LossyStderr;
use crate::cli::table;
use crate::client::exchange::Exchange;
use crate::client::fault::FaultyConnection;
use crate::client::side::Side;
use crate::client::timeline::Interval;
use crate::client::{Client, Observer};
use crate::engine::event_loop::EventLoop;
use crate::engine::time::Moment;
use crate::report::fault_log::FaultLog;

/// How often the line is drawn: often enough to look alive, and the percentiles in it cost some 50 µs each time. A run
/// that is over sooner has none.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the client program shows while its client runs, until it is dropped.
pub struct Display<'a> {
    /// When the line is drawn next, if there is one.
    next: Option<Moment>,
    intervals: &'a mut Intervals,
    /// Where faults are written as they happen.
    faults: Option<&'a mut FaultLog>,
}

impl Display<'_> {
    /// A display with a line of progress, if that is wished and standard error is a terminal that can draw one. Where
    /// `intervals` have their lines on the terminal, those show how the run is getting on.
    #[must_use]
    pub fn new<'a>(progress: bool, intervals: &'a mut Intervals, faults: Option<&'a mut FaultLog>) -> Display<'a> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let draws = progress && io::stderr().is_terminal() && !dumb && !intervals.are_on_a_terminal();
        Display { next: draws.then(|| Moment::START.plus(INTERVAL)), intervals, faults }
    }
}

impl Observer for Display<'_> {
    fn watch(&mut self, client: &Client, now: Moment) -> Option<Moment> {
        if let Some(faults) = &mut self.faults {
            faults.flush(); // Those of one turn are one write.
        }
        let next = self.next.as_mut()?;
        if now >= *next {
            *next = now.plus(INTERVAL);
            LossyStderr::draw(&client.progress(now));
        }
        Some(*next)
    }

    fn interval_over(&mut self, interval: Interval) {
        self.intervals.send(interval);
    }

    fn failed(&mut self, faulty: &FaultyConnection) {
        if let Some(faults) = &mut self.faults {
            faults.add(faulty);
        }
    }

    fn status_asked(&mut self, event_loop: &EventLoop<Side>) {
        table::write_table(event_loop, |side| side.exchange().map(Exchange::number));
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        if self.next.is_some() {
            LossyStderr::draw("");
        }
    }
}
