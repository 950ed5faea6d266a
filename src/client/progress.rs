//! How far a run is, in one line.
//!
//! Owns the line's words. Where and how often it is drawn is the program's business.

use super::{Client, Phase};
use crate::client::measure;
use crate::engine::time::Moment;

impl Client {
    /// How far the run is: its phase, its connections, and what was measured so far.
    #[must_use]
    pub fn progress(&self, now: Moment) -> String {
        let measuring = self.run.first_measured();
        let (phase, left) = match self.phase {
            Phase::Connecting => ("connecting", None),
            Phase::Holding(until) => ("holding", Some(until)),
            Phase::Working if measuring.is_none() => ("warming up", self.run.measured_from()),
            Phase::Working => ("running", self.run.stop()),
            Phase::Closing => ("closing", None),
        };
        let mut text = vec![format!("{phase}: {} of {} connected", self.standing(), self.plan.connections)];
        // What a narrow terminal has no room for comes last.
        text.push(format!("{} faults", self.connections.failed));
        text.extend(left.map(|left| format!("{:.0} s left", left.since(now).as_secs_f64())));
        if let Some(first) = measuring {
            let figures = self.figured.so_far();
            let seconds = now.since(first).as_secs_f64().max(1e-3);
            let (shown, never) = match self.run.schedule() {
                Some(_) => (&figures.scheduled, self.missed(&figures) + figures.unanswered),
                None => (&figures.service, 0),
            };
            let percentile = |percent: f64| {
                measure::percentile(shown, never, percent).map_or("never".to_owned(), |time| format!("{time} µs"))
            };
            text.push(format!(
                "{:.0} messages/s, p99 {}, p50 {}, {:.1} MB/s",
                measure::ratio(figures.messages_echoed, seconds),
                percentile(99.0),
                percentile(50.0),
                measure::ratio(figures.bytes_echoed, seconds) / 1e6
            ));
        }
        text.join(", ")
    }
}
