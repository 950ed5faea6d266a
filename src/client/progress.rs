//! The line that shows how a run is getting on.
//!
//! Owns when it is drawn again. Nothing is shown where there is no terminal, and no thread draws: the client calls in
//! between its turns. Where the line stands, and how the log gets past it, is the business of [`LossyStderr`].

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::cli::standard_error::LossyStderr;
use crate::engine::time::Moment;

/// How often the line is drawn: often enough to look alive, and the percentiles in it cost some 50 µs each time. A run
/// that is over sooner has none.
const INTERVAL: Duration = Duration::from_millis(200);

/// The progress line, on a terminal, until it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    next: Moment,
}

impl Progress {
    /// A line, if standard error is a terminal that can draw one.
    pub(super) fn on_terminal() -> Option<Progress> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        (io::stderr().is_terminal() && !dumb).then_some(Progress { next: Moment::START.plus(INTERVAL) })
    }

    /// When it is to be drawn next.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// Draws what `text` gives, if it is time.
    pub(super) fn draw(&mut self, now: Moment, text: impl FnOnce() -> String) {
        if now >= self.next {
            self.next = now.plus(INTERVAL);
            LossyStderr::draw(&text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        LossyStderr::draw("");
    }
}
