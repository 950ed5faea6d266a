//! When messages are begun: what all exchanges of a run have in common, and the schedule of an open loop.
//!
//! Owns the moments at which the run began and its first message was measured, and the arithmetic of when message n is
//! due.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::time::Duration;

use crate::client::load::{Load, Pacing};
use crate::client::measure::Meter;
use crate::client::rate::Rate;
use crate::engine::time::Moment;

/// What the exchanges of a run share.
pub struct Run {
    /// What each of them sends.
    pub load: Load,
    /// How many connections there are at once.
    pub connections: u32,
    /// How long after the end of the schedule a message of it may still be begun. One that has to wait longer is missed.
    pub patience: Duration,
    /// Others follow the connections that end. So time ends the run, whether or not a measured message was ever begun.
    pub is_refilled: bool,
    /// Where measurements go.
    pub meter: Box<dyn Meter>,
    /// The highest stream that was given to a connection.
    newest_stream: Cell<u32>,
    start: Cell<Option<Moment>>,
    first_measured: Cell<Option<Moment>>,
    schedule: OnceCell<Schedule>,
}

impl Run {
    /// A run that has not begun, with endless patience.
    #[must_use]
    pub fn new(load: Load, connections: u32, meter: Box<dyn Meter>) -> Run {
        Run {
            load,
            connections,
            patience: Duration::MAX,
            is_refilled: false,
            meter,
            newest_stream: Cell::new(connections),
            start: Cell::new(None),
            first_measured: Cell::new(None),
            schedule: OnceCell::new(),
        }
    }

    /// Lets all exchanges begin. In an open loop, `slots` of them take turns. To be called once.
    pub fn begin(&self, now: Moment, slots: u32) {
        self.start.set(Some(now));
        if let Pacing::Rate(rate) = self.load.pacing {
            let _ = self.schedule.set(Schedule::new(&self.load, rate, now, slots));
        }
    }

    /// When it began, if it did.
    pub fn start(&self) -> Option<Moment> {
        self.start.get()
    }

    /// The schedule, if this is an open loop and has begun.
    pub fn schedule(&self) -> Option<&Schedule> {
        self.schedule.get()
    }

    /// When the first measured message was begun, or due if it was scheduled; `None`: none was begun yet.
    pub fn first_measured(&self) -> Option<Moment> {
        self.first_measured.get()
    }

    /// From when on messages are measured, if that is known: in an open loop, when the first of them is due.
    pub(super) fn measured_from(&self) -> Option<Moment> {
        self.schedule().map(|schedule| schedule.from).or_else(|| Some(self.start.get()?.plus(self.load.warmup)))
    }

    /// A measured message is begun, or due if it is scheduled. The first decides when the measured part began.
    pub(super) fn measured_begun(&self, now: Moment) {
        if self.first_measured.get().is_none() {
            // In a schedule, the time that counts is when the message was due: a rate and a duration make a number.
            self.first_measured.set(Some(self.schedule().map_or(now, |schedule| schedule.from)));
        }
    }

    /// When a closed loop stops beginning messages, and until when all connections of an open loop stay; if that is known.
    pub fn stop(&self) -> Option<Moment> {
        if let Some(schedule) = self.schedule() {
            return Some(schedule.last_due);
        }
        let from = match self.first_measured.get() {
            None if self.is_refilled => self.measured_from(),
            begun => begun,
        };
        Some(from?.plus(self.load.duration?))
    }

    /// A connection sends this stream.
    pub(super) fn note_stream(&self, stream: u32) {
        self.newest_stream.set(self.newest_stream.get().max(stream));
    }

    /// The highest stream that bytes can belong to.
    pub(super) fn streams(&self) -> u32 {
        self.newest_stream.get()
    }

    /// Whether a message of a closed loop that begins at `when` is measured.
    pub(super) fn is_measured(&self, when: Moment) -> bool {
        self.start.get().is_some_and(|start| when >= start.plus(self.load.warmup))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { load, connections, start, .. } = self;
        f.debug_struct("Run")
            .field("load", load)
            .field("connections", connections)
            .field("start", start)
            .finish_non_exhaustive()
    }
}

/// The messages of an open loop, numbered from 0 over all connections. Known from the moment at which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    rate: Rate,
    /// When message 0 is due.
    start: Moment,
    /// How many connections take turns.
    slots: u32,
    /// The number of the first message that is measured.
    pub first: u64,
    /// The number behind that of the last message.
    pub end: u64,
    /// When the first measured message is due.
    pub from: Moment,
    /// When the last message is due, or later, when the duration is over. All connections stay until then.
    pub last_due: Moment,
    /// When the time is over that the rate gives these messages: N messages at R a second take N / R seconds.
    pub until: Moment,
}

impl Schedule {
    fn new(load: &Load, rate: Rate, start: Moment, slots: u32) -> Schedule {
        let due = |number| start.plus(rate.time_of(number));
        let first = rate.events_within(load.warmup);
        let from = due(first);
        let counted =
            load.messages_each().map_or(u64::MAX, |each| first.saturating_add(each.saturating_mul(u64::from(slots))));
        let stop = load.duration.map(|duration| from.plus(duration));
        let (end, last_due, until) = match stop.map(|stop| (stop, rate.events_within(stop.since(start)))) {
            Some((stop, end)) if end <= counted => (end, stop, stop),
            _ => (counted, due(counted.saturating_sub(1)).max(from), due(counted)),
        };
        Schedule { rate, start, slots, first, end, from, last_due, until }
    }

    /// The number of message `index` of the connection in `slot`: the slots take turns, so that the load is even at any
    /// time.
    #[must_use]
    pub fn number(&self, slot: u32, index: u64) -> u64 {
        index.saturating_mul(u64::from(self.slots)).saturating_add(u64::from(slot))
    }

    /// Whether message `index` of `slot` is one of those that are due before the end.
    pub(super) fn has(&self, slot: u32, index: u64) -> bool {
        self.number(slot, index) < self.end
    }

    /// How many of the messages from `number` on belong to the slot that it belongs to.
    pub(super) fn left_in_slot(&self, number: u64) -> u64 {
        self.end.saturating_sub(number).div_ceil(u64::from(self.slots))
    }

    /// How many measured messages of this slot, from its message `next` on, were due before `now`, and when the first of them
    /// was.
    pub(super) fn waiting(&self, slot: u32, next: u64, now: Moment) -> Option<(u64, Moment)> {
        let next = next.max(self.count_in_slot(slot, self.first));
        let count = self.count_in_slot(slot, self.due_before(now)).saturating_sub(next);
        (count > 0).then(|| (count, self.due(self.number(slot, next))))
    }

    /// How many of the messages before `number` belong to this slot.
    fn count_in_slot(&self, slot: u32, number: u64) -> u64 {
        number.saturating_sub(u64::from(slot)).div_ceil(u64::from(self.slots))
    }

    /// When message `number` is due.
    #[must_use]
    pub fn due(&self, number: u64) -> Moment {
        self.start.plus(self.rate.time_of(number))
    }

    /// How many messages are due before `end`, from the beginning on.
    #[must_use]
    pub fn due_before(&self, end: Moment) -> u64 {
        self.rate.events_within(end.since(self.start)).min(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::load::Content;
    use crate::client::measure::NoMeter;

    #[test]
    fn where_connections_follow_each_other_time_ends_the_run_though_nothing_was_measured() {
        for is_refilled in [false, true] {
            let load = Load::new(Content::Generated { run: 1, size: 10 }, Pacing::InFlight(1));
            let second = Duration::from_secs(1);
            let load = Load { warmup: second, duration: Some(second * 3), ..load };
            let mut run = Run::new(load, 1, Box::new(NoMeter));
            run.is_refilled = is_refilled;
            run.begin(Moment::START, 1);
            assert_eq!(run.stop(), is_refilled.then(|| Moment::after_start(second * 4)));
            run.measured_begun(Moment::after_start(second * 2));
            assert_eq!(run.stop(), Some(Moment::after_start(second * 5)));
        }
    }

    #[test]
    fn measuring_begins_after_the_warm_up_and_in_an_open_loop_with_the_first_message_that_is_due_then() {
        let every_two_seconds = Pacing::Rate("0.5".parse().unwrap());
        for (pacing, seconds) in [(Pacing::InFlight(1), 1), (every_two_seconds, 2)] {
            let content = Content::Generated { run: 1, size: 10 };
            let load = Load { warmup: Duration::from_secs(1), ..Load::new(content, pacing) };
            let run = Run::new(load, 1, Box::new(NoMeter));
            assert_eq!(run.measured_from(), None);
            run.begin(Moment::START, 1);
            assert_eq!(run.measured_from(), Some(Moment::START.plus(Duration::from_secs(seconds))));
        }
    }
}
