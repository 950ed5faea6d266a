//! A run in intervals: when each ends, and what happened in it.
//!
//! Owns the ends of the intervals. What is measured in them is the business of [`measure`](super::measure), what becomes of
//! them that of the [`Observer`](super::Observer). An interval ends between two turns of the loop, at the first look at the
//! clock after its time: a message is in the interval in which it came back, and an interval that is over does not change.

use std::time::Duration;

use super::Client;
use crate::client::measure::Figures;
use crate::client::side::Side;
use crate::engine::event_loop::EventLoop;
use crate::engine::time::Moment;

/// A part of a run.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, from the first connect on.
    pub from: Duration,
    /// When it was over.
    pub to: Duration,
    /// Whether it belongs to the measured part. Before that connections are opened, held, and warmed up.
    pub is_measured: bool,
    /// Connections that stood at its beginning or at its end, the larger number.
    pub connections: u32,
    /// Connections that failed in it.
    pub faults: u64,
    /// Measured messages that were due at its end, or begun if they have no schedule, and not back.
    pub waiting: u64,
    /// How long the oldest of them had been waiting.
    pub oldest: Option<Duration>,
    /// What was measured in it.
    pub figures: Figures,
}

impl Interval {
    /// How long it was.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// Adds the interval after this one.
    pub fn add(&mut self, next: Interval) {
        let Interval { from: _, to, is_measured, connections, faults, waiting, oldest, figures } = next;
        self.is_measured |= is_measured;
        self.faults += faults;
        self.figures.add(&figures);
        self.connections = self.connections.max(connections);
        (self.to, self.waiting, self.oldest) = (to, waiting, oldest);
    }
}

/// The interval that goes on now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    /// How long an interval is.
    length: Duration,
    /// When the first connect was begun.
    began: Moment,
    from: Moment,
    /// When it is to end.
    until: Moment,
    is_measured: bool,
    /// Connections that stood at its beginning.
    connections: u32,
    /// Connections that had failed before it.
    failed_before: u64,
}

impl Timeline {
    pub(super) fn new(length: Duration, began: Moment) -> Timeline {
        let until = began.plus(length);
        Timeline { length, began, from: began, until, is_measured: false, connections: 0, failed_before: 0 }
    }

    /// When to look whether an interval is over.
    pub(super) fn until(&self) -> Moment {
        self.until
    }

    /// When the interval ends that begins `now`, where ends lie at whole lengths after `first`. `stop` is when the run's work
    /// is over, if that is known: less than half an interval before it, there is no end, so that the last interval is no
    /// splinter. It ends with the run.
    fn next_end(&self, first: Moment, now: Moment, stop: Option<Moment>) -> Moment {
        let nanos = now.since(first).as_nanos() % self.length.as_nanos().max(1);
        let past = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let end = now.plus(self.length.saturating_sub(past));
        match stop {
            Some(stop) if stop > now && stop.since(end) < self.length / 2 => stop.plus(self.length),
            _ => end,
        }
    }
}

impl Client {
    /// The interval that is over by `now`, if one is. To be called between turns until there is none. The time stands still
    /// meanwhile: where it takes longer to end an interval than an interval is long, there would always be another.
    pub(super) fn interval_over(&mut self, now: Moment, event_loop: &EventLoop<Side>) -> Option<Interval> {
        let before = self.interval_before_the_measured_part(event_loop);
        if before.is_some() {
            return before;
        }
        let Timeline { until, .. } = self.timeline?;
        if now < until {
            return None;
        }
        let figures = self.figured.next_part();
        Some(self.end_interval(now, figures, until, event_loop))
    }

    /// The last intervals, when the run is over.
    pub(super) fn last_intervals(&mut self, event_loop: &EventLoop<Side>) -> Vec<Interval> {
        let before = self.interval_before_the_measured_part(event_loop);
        let last = self.timeline.is_some().then(|| {
            let figures = self.figured.next_part();
            let now = event_loop.clock_now();
            self.end_interval(now, figures, now, event_loop)
        });
        before.into_iter().chain(last).collect()
    }

    /// The interval that the first measured message has ended, if it goes on still.
    fn interval_before_the_measured_part(&mut self, event_loop: &EventLoop<Side>) -> Option<Interval> {
        let timeline = self.timeline.filter(|timeline| !timeline.is_measured)?;
        let end = self.run.first_measured()?.max(timeline.from);
        // What was measured since then, in the turn that has just been, belongs to the next interval.
        let figures = self.figured.first_measured_part();
        Some(self.end_interval(end, figures, end, event_loop))
    }

    /// Ends an interval. The ends of those that follow lie at whole intervals after `first`.
    fn end_interval(&mut self, end: Moment, figures: Figures, first: Moment, event_loop: &EventLoop<Side>) -> Interval {
        let is_measured = self.run.first_measured().is_some();
        let (failed, connections) = (self.connections.failed, self.standing());
        let timeline = self.timeline.as_mut().expect("only a run with intervals ends one");
        let (mut waiting, mut oldest) = (0, None);
        // Before the measured part, none of its messages was due.
        if timeline.is_measured {
            let exchanges = event_loop.connections().filter_map(|(_, connection)| connection.protocol().exchange());
            let vacant =
                self.run.schedule().into_iter().flat_map(|schedule| {
                    self.slots.vacant().filter_map(|(slot, next)| schedule.waiting(slot, next, end))
                });
            for (count, since) in exchanges.filter_map(|exchange| exchange.waiting(end)).chain(vacant) {
                waiting += count;
                oldest = oldest.max(Some(end.since(since)));
            }
        }
        let interval = Interval {
            from: timeline.from.since(timeline.began),
            to: end.since(timeline.began),
            is_measured: timeline.is_measured,
            connections: connections.max(timeline.connections),
            faults: failed - timeline.failed_before,
            waiting,
            oldest,
            figures,
        };
        let until = timeline.next_end(first, end, self.run.stop());
        *timeline = Timeline { from: end, until, is_measured, connections, failed_before: failed, ..*timeline };
        interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Plan;
    use crate::engine::event_loop::Limits;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn intervals_end_at_whole_lengths_however_late_the_last_one_ended() {
        let timeline = Timeline::new(Duration::from_millis(100), at(7));
        assert_eq!(timeline.until(), at(107));
        let next = |now| timeline.next_end(at(107), at(now), None);
        assert_eq!([next(107), next(108), next(206), next(207), next(555)], [207, 207, 207, 307, 607].map(at));
    }

    #[test]
    fn the_last_interval_is_no_splinter() {
        let timeline = Timeline::new(Duration::from_millis(100), at(0));
        let next = |stop| timeline.next_end(at(0), at(300), Some(at(stop)));
        assert_eq!(next(350), at(450), "the end of the run is nearer");
        assert_eq!(next(400), at(500));
        assert_eq!(next(449), at(549));
        assert_eq!(next(450), at(400));
        assert_eq!(next(300), at(400), "the work is over, and something is still awaited");
    }

    #[test]
    fn after_an_interval_comes_a_turn_however_long_it_took_to_end_it() {
        let plan = Plan { interval: Some(Duration::from_millis(10)), ..Plan::tutorial(1) };
        let event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
        let mut client = Client::new(vec![([192, 0, 2, 1], 7).into()], &plan);
        client.timeline = Some(Timeline::new(Duration::from_millis(10), at(0)));
        let ended = client.interval_over(at(95), &event_loop).unwrap();
        assert_eq!((ended.from, ended.to), (Duration::ZERO, Duration::from_millis(95)));
        assert!(client.interval_over(at(95), &event_loop).is_none());
        assert_eq!(client.timeline.unwrap().until(), at(100));
    }

    #[test]
    fn a_run_that_ends_in_the_turn_of_its_first_message_has_that_in_the_measured_part() {
        let plan = Plan { interval: Some(Duration::from_secs(1)), ..Plan::tutorial(1) };
        let event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
        let mut client = Client::new(vec![([192, 0, 2, 1], 7).into()], &plan);
        client.timeline = Some(Timeline::new(Duration::from_secs(1), at(0)));
        client.figured.connected(Duration::from_millis(1));
        client.run.begin(at(0), 1);
        client.run.measured_begun(at(0));
        client.run.meter.sent(22, 1);
        let [before, measured] = client.last_intervals(&event_loop).try_into().unwrap();
        assert_eq!((before.is_measured, before.figures.connect.len(), before.figures.messages_sent), (false, 1, 0));
        assert_eq!(
            (measured.is_measured, measured.figures.connect.len(), measured.figures.messages_sent),
            (true, 0, 1)
        );
    }

    #[test]
    fn merged_intervals_are_one_longer_interval() {
        let interval = |from, to, connections, echoed| Interval {
            from: Duration::from_secs(from),
            to: Duration::from_secs(to),
            is_measured: from > 0,
            connections,
            faults: 1,
            waiting: connections.into(),
            oldest: None,
            figures: Figures { messages_echoed: echoed, ..Figures::new() },
        };
        let mut merged = interval(0, 1, 7, 10);
        merged.add(interval(1, 3, 5, 20));
        assert_eq!((merged.from, merged.length()), (Duration::ZERO, Duration::from_secs(3)));
        assert_eq!((merged.is_measured, merged.connections, merged.faults, merged.waiting), (true, 7, 2, 5));
        assert_eq!(merged.figures.messages_echoed, 30);
    }
}
