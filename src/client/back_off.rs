//! How long a slot waits for its next connection when the last one failed.
//!
//! Owns the three bounds of that wait. Has no clock: its caller says when the connection failed, and since when the slot is
//! without a good one.

use std::time::Duration;

use crate::engine::time::Moment;

/// The least time between two connects of one slot. A peer that accepts and resets at once would otherwise be met with
/// thousands of connects a second.
const LEAST: Duration = Duration::from_millis(10);

/// The longest wait. A service that was gone for an hour is noticed within a second of its return.
const MOST: Duration = Duration::from_secs(1);

/// A slot waits for this part of the time for which it is out by now. So an outage is found to be over when it has taken a
/// sixteenth longer than it did, 31 ms after half a second, and a host that is down for long is left alone.
const PART: u32 = 16;

/// The least time between two tries of all slots together, 20,000 a second. Thousands of slots that are out at once would
/// otherwise keep this host busy with connects that fail.
const SPACING: Duration = Duration::from_micros(50);

/// When slots that are out are tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    /// The latest try that was allowed.
    latest: Moment,
}

impl BackOff {
    pub(super) const fn new() -> BackOff {
        BackOff { latest: Moment::START }
    }

    /// When a slot may connect again whose connection failed at `now`. Its connect was begun at `begun`, and the slot is out
    /// since the failure at `out_since`, which may be this one.
    pub(super) fn next_try(&mut self, begun: Moment, out_since: Moment, now: Moment) -> Moment {
        let wait = (now.since(out_since) / PART).min(MOST);
        let at = now.plus(wait).max(begun.plus(LEAST)).max(self.latest.plus(SPACING));
        self.latest = at.min(now.plus(MOST)); // One slot's long wait is no reason to keep the others waiting.
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_connection_that_stood_for_long_is_followed_at_once_and_one_that_did_not_after_ten_milliseconds() {
        let mut back_off = BackOff::new();
        assert_eq!(back_off.next_try(at(0), at(5000), at(5000)), at(5000));
        assert_eq!(BackOff::new().next_try(at(5000), at(5001), at(5001)), at(5010));
    }

    #[test]
    fn an_outage_is_found_to_be_over_a_sixteenth_late_at_the_most_and_never_more_than_a_second() {
        let begun = 1000;
        for millis in [1, 100, 500, 10_000, 3_600_000] {
            let (mut back_off, mut now, mut tries) = (BackOff::new(), at(begun), 0);
            while now < at(begun + millis) {
                now = back_off.next_try(now, at(begun), now); // Refused at once.
                tries += 1;
            }
            let late = now.since(at(begun + millis));
            let bound = (Duration::from_millis(millis) / 16).clamp(LEAST, MOST) + SPACING;
            assert!(late <= bound, "{late:?} after {millis} ms");
            assert!(tries <= 100 + millis / 1000, "{tries} tries in {millis} ms");
        }
    }

    #[test]
    fn slots_that_are_out_together_try_one_after_the_other() {
        let mut back_off = BackOff::new();
        let tries: Vec<Moment> = (0..1000).map(|_| back_off.next_try(at(0), at(100), at(100))).collect();
        assert_eq!((tries[0], tries[999]), (at(100), at(100).plus(SPACING * 999)));
    }
}
