//! The client program beside its client: the line that shows how the run is getting on, and the table for SIGUSR1.
//!
//! Owns when the line is drawn again. There is none where there is no terminal, and no thread draws: the client calls
//! between its turns. Where the line stands, and how the log gets past it, is the business of [`LossyStderr`].

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::standard_error::LossyStderr;
use crate::cli::table;
use crate::client::exchange::Exchange;
use crate::client::side::Side;
use crate::client::{Client, Observer};
use crate::engine::event_loop::EventLoop;
use crate::engine::time::Moment;

/// How often the line is drawn: often enough to look alive, and the percentiles in it cost some 50 µs each time. A run
/// that is over sooner has none.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the client program shows while its client runs, until it is dropped.
#[derive(Debug)]
pub struct Display {
    /// When the line is drawn next, if there is one.
    next: Option<Moment>,
}

impl Display {
    /// A display with a line of progress, if that is wished and standard error is a terminal that can draw one.
    #[must_use]
    pub fn new(progress: bool) -> Display {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let draws = progress && io::stderr().is_terminal() && !dumb;
        Display { next: draws.then(|| Moment::START.plus(INTERVAL)) }
    }
}

impl Observer for Display {
    fn watch(&mut self, client: &Client, now: Moment) -> Option<Moment> {
        let next = self.next.as_mut()?;
        if now >= *next {
            *next = now.plus(INTERVAL);
            LossyStderr::draw(&client.progress(now));
        }
        Some(*next)
    }

    fn status_asked(&mut self, event_loop: &EventLoop<Side>) {
        table::write_table(event_loop, |side| side.exchange().map(Exchange::number));
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if self.next.is_some() {
            LossyStderr::draw("");
        }
    }
}
