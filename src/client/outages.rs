//! For how long connections that failed, and the service as a whole, gave no answer.
//!
//! Owns the spans from the last good byte of a slot before a failure to its first good byte afterwards, and what they make
//! together. Has no clock: its caller says when bytes came.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::client::evidence::seconds;
use crate::engine::time::Moment;

/// How many outages of connections are kept, to find out when they were out together: 16 MiB. Later ones are counted, and
/// are in the longest and the total time.
const MOST_KEPT: usize = 1 << 20;

/// How many spans of the service are listed, the longest ones.
const MOST_LISTED: usize = 100;

/// With more than one connection in this number out, the service is degraded.
const DEGRADED: usize = 100;

/// What is known of the slots so far.
#[derive(Debug)]
pub(super) struct Watch {
    slots: Vec<Slot>,
    kept: Vec<(Moment, Moment)>,
    count: u64,
    longest: Duration,
    total: Duration,
    tries: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// When its last good byte came; before the first one, when its first connect was begun.
    heard: Option<Moment>,
    /// A connection failed since then.
    failed: bool,
}

impl Watch {
    pub(super) fn new(slots: u32) -> Watch {
        Watch {
            slots: vec![Slot::default(); slots as usize],
            kept: Vec::new(),
            count: 0,
            longest: Duration::ZERO,
            total: Duration::ZERO,
            tries: 0,
        }
    }

    /// A connect was begun for a slot.
    pub(super) fn begun(&mut self, slot: u32, now: Moment) {
        self.slots[slot as usize].heard.get_or_insert(now);
    }

    /// A slot's connection is over, or the run is. `heard` is when its first and its last good byte came. `failed`: another
    /// connection has to take its place.
    pub(super) fn over(&mut self, slot: u32, heard: Option<(Moment, Moment)>, failed: bool) {
        let slot = &mut self.slots[slot as usize];
        let before = *slot;
        if let Some((_, last)) = heard {
            *slot = Slot { heard: Some(last), failed: false };
        }
        slot.failed |= failed;
        if let (true, Some(from), Some((until, _))) = (before.failed, before.heard, heard) {
            self.add(from, until);
        }
    }

    /// A connect failed while its slot was out.
    pub(super) fn tried(&mut self) {
        self.tries += 1;
    }

    fn add(&mut self, from: Moment, until: Moment) {
        let lasted = until.since(from);
        self.count += 1;
        self.longest = self.longest.max(lasted);
        self.total = self.total.saturating_add(lasted);
        if self.kept.len() < MOST_KEPT {
            self.kept.push((from, until));
        }
    }

    /// What it comes to in a run that began at `began`. What is out still is so until `now`.
    pub(super) fn sum(mut self, began: Moment, now: Moment) -> Outages {
        for index in 0..self.slots.len() {
            if let Slot { heard: Some(heard), failed: true } = self.slots[index] {
                self.add(heard, now);
            }
        }
        let all = self.slots.len();
        Outages {
            count: self.count,
            longest: self.longest,
            total: self.total,
            tries: self.tries,
            gone: Spans::of(&self.kept, all, began),
            degraded: Spans::of(&self.kept, all / DEGRADED + 1, began),
        }
    }
}

/// The outages of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outages {
    /// How often a connection was out: from its last good byte before a failure, to the first good byte of one that took its
    /// place, or to the end of the run.
    pub count: u64,
    /// The longest of them.
    #[serde(rename = "max_seconds", serialize_with = "seconds")]
    pub longest: Duration,
    /// All of them together.
    #[serde(rename = "total_seconds", serialize_with = "seconds")]
    pub total: Duration,
    /// Connects that failed during an outage, and were tried again.
    pub tries: u64,
    /// When all connections were out.
    pub gone: Spans,
    /// When more than 1 % of the connections were out, perhaps all.
    pub degraded: Spans,
}

/// Spans of time in which much was out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spans {
    /// How many there are.
    pub count: u64,
    /// The longest.
    #[serde(rename = "max_seconds", serialize_with = "seconds")]
    pub longest: Duration,
    /// All together.
    #[serde(rename = "total_seconds", serialize_with = "seconds")]
    pub total: Duration,
    /// Up to 100 of them, the longest, in the order in which they began.
    pub spans: Vec<Span>,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// When it began, from the first connect on.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub from: Duration,
    /// How long it lasted.
    #[serde(rename = "lasted_seconds", serialize_with = "seconds")]
    pub lasted: Duration,
}

/// One line, without its name.
impl fmt::Display for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("none");
        }
        let plural = if self.count == 1 { "connection" } else { "connections" };
        write!(f, "{} {plural}, {:.3} s the longest; ", self.count, self.longest.as_secs_f64())?;
        let (what, spans) = match self.gone.count {
            0 => ("more than 1 % of the connections were out", &self.degraded),
            _ => ("the service was gone", &self.gone),
        };
        let longest = spans.spans.iter().max_by_key(|span| span.lasted);
        let Some(Span { from, lasted }) = longest else { return f.write_str("never more than 1 % of them at a time") };
        let (from, lasted) = (from.as_secs_f64(), lasted.as_secs_f64());
        match spans.count {
            1 => write!(f, "{what} from {from:.3} s for {lasted:.3} s"),
            count => write!(f, "{what} {count} times, the longest from {from:.3} s for {lasted:.3} s"),
        }
    }
}

impl Spans {
    /// When at least `least` of these outages were under way, in a run that began at `began`.
    fn of(outages: &[(Moment, Moment)], least: usize, began: Moment) -> Spans {
        // Where one ends as another begins, the slot was answered in between: ends come first.
        let lasting = outages.iter().filter(|(from, until)| from < until);
        let mut edges: Vec<(Moment, bool)> =
            lasting.flat_map(|&(from, until)| [(from, true), (until, false)]).collect();
        edges.sort_unstable();
        let (mut out, mut since, mut spans) = (0, None, Vec::new());
        for (when, begins) in edges {
            out = if begins { out + 1 } else { out - 1 };
            if out >= least {
                since.get_or_insert(when);
            } else if let Some(since) = since.take() {
                spans.push(Span { from: since.since(began), lasted: when.since(since) });
            }
        }
        let count = spans.len() as u64;
        let longest = spans.iter().map(|span| span.lasted).max().unwrap_or_default();
        let total = spans.iter().map(|span| span.lasted).sum();
        spans.sort_by_key(|span| std::cmp::Reverse(span.lasted));
        spans.truncate(MOST_LISTED);
        spans.sort_by_key(|span| span.from);
        Spans { count, longest, total, spans }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    fn span(from: u64, until: u64) -> Span {
        Span { from: Duration::from_millis(from), lasted: Duration::from_millis(until - from) }
    }

    /// Slots that all are answered from 0 on, with a failure of each of these: the slot, its last good byte before it, and
    /// its first good byte afterwards.
    fn outages(slots: u32, failures: &[(u32, u64, u64)]) -> Outages {
        let mut watch = Watch::new(slots);
        for slot in 0..slots {
            watch.begun(slot, at(0));
        }
        for &(slot, last, next) in failures {
            watch.over(slot, Some((at(0), at(last))), true);
            watch.over(slot, None, true); // Refused.
            watch.over(slot, Some((at(next), at(next))), false);
        }
        watch.sum(at(0), at(10_000))
    }

    #[test]
    fn an_outage_lasts_from_the_last_good_byte_to_the_next() {
        let found = outages(2, &[(0, 1000, 1500), (0, 3000, 3100), (1, 5000, 5200)]);
        let (longest, total) = (Duration::from_millis(500), Duration::from_millis(800));
        assert_eq!((found.count, found.longest, found.total), (3, longest, total));
        assert_eq!(found.gone, Spans::default(), "the other one was answered");
    }

    #[test]
    fn the_service_is_gone_from_the_last_good_byte_of_any_to_the_first_of_any() {
        let found = outages(3, &[(0, 1000, 1500), (1, 1010, 1490), (2, 1005, 1700)]);
        assert_eq!(found.gone.spans, [span(1010, 1490)]);
        assert_eq!(found.degraded.spans, [span(1000, 1700)]);
    }

    #[test]
    fn the_service_is_degraded_with_more_than_one_percent_out() {
        assert_eq!(outages(200, &[(0, 1000, 2000), (1, 1500, 3000)]).degraded.count, 0, "two of 200 are 1 %");
        let found = outages(200, &[(0, 1000, 2000), (1, 1500, 3000), (2, 1600, 1900)]);
        assert_eq!((found.degraded.spans, found.gone.count), (vec![span(1600, 1900)], 0));
    }

    #[test]
    fn a_connection_that_gives_way_in_order_was_never_out() {
        let mut watch = Watch::new(1);
        watch.begun(0, at(0));
        watch.over(0, Some((at(1), at(100))), false);
        watch.over(0, Some((at(400), at(500))), false);
        assert_eq!(watch.sum(at(0), at(1000)), Outages::default());
    }

    #[test]
    fn what_was_never_answered_is_out_from_its_first_connect_to_the_end() {
        let mut watch = Watch::new(1);
        watch.begun(0, at(5));
        watch.over(0, None, true);
        watch.begun(0, at(20));
        watch.tried();
        let found = watch.sum(at(5), at(1005));
        assert_eq!((found.count, found.longest, found.tries), (1, Duration::from_secs(1), 1));
        assert_eq!(found.gone.spans, [span(0, 1000)]);
    }

    #[test]
    fn outages_that_follow_each_other_at_once_are_two() {
        let found = outages(1, &[(0, 1000, 1500), (0, 1500, 1600)]);
        assert_eq!(found.gone.spans, [span(1000, 1500), span(1500, 1600)]);
    }

    #[test]
    fn of_many_spans_the_longest_are_listed_in_their_order() {
        let failures: Vec<_> = (0..150).map(|index| (0, 100 * index, 100 * index + 1 + index % 75)).collect();
        let found = outages(1, &failures);
        assert_eq!((found.gone.count, found.gone.spans.len()), (150, 100));
        assert!(found.gone.spans.iter().all(|span| span.lasted > Duration::from_millis(25)));
        assert!(found.gone.spans.is_sorted_by_key(|span| span.from));
    }
}
