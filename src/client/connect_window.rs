//! How many connects are under way at once.
//!
//! Owns that number and what changes it. A server keeps connects that it has not accepted yet in a backlog, often of 5, 10
//! or 64 places. Connects that find the backlog full are dropped. They are sent again a second later, all at the same
//! time: then more are dropped, or answered and forgotten, which shows as a reset when the first byte is sent. So
//! connecting begins narrow, and widens only while the others under way make no connect slower. Has no clock: its caller
//! says how long a connect took.

use std::time::Duration;

/// Narrow enough for all but the smallest backlogs, wide enough to cost nothing where answers take microseconds: 18,000
/// connects over loopback take as long as with [`WIDEST`], to the noise.
const NARROW: u32 = 4;

/// Wide enough to keep a long path busy, and no more than the backlog of most servers.
const WIDEST: u32 = 128;

/// A connect that took this long was dropped and sent again: the first time after a second (RFC 6298, 2.1), less an
/// allowance for inexact clocks and timers.
pub const RETRANSMITTED: Duration = Duration::from_millis(900);

/// The window: connects, counted from 1 in the order in which they begin.
#[derive(Clone, Copy, Debug)]
pub struct ConnectWindow {
    size: u32,
    fixed: bool,
    under_way: u32,
    /// The shortest answer so far.
    quickest: Option<Duration>,
    /// Answers in a row that came as quickly.
    quick: u32,
    /// The last connect that was begun, and the last one that had been begun when the window was last narrowed. Failures of
    /// connects up to there have been answered by that.
    newest: u32,
    narrowed_at: u32,
}

impl ConnectWindow {
    /// A window of `fixed` connects, or one that finds out how many are good.
    #[must_use]
    pub fn new(fixed: Option<u32>) -> ConnectWindow {
        ConnectWindow {
            size: fixed.unwrap_or(NARROW),
            fixed: fixed.is_some(),
            under_way: 0,
            quickest: None,
            quick: 0,
            newest: 0,
            narrowed_at: 0,
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Whether one more may begin.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way < self.size
    }

    /// Connect `number` was begun; for its next address, once more.
    pub fn begun(&mut self, number: u32) {
        self.under_way += 1;
        self.newest = self.newest.max(number);
    }

    /// Connect `number` was answered.
    pub fn answered(&mut self, number: u32, after: Duration) {
        self.under_way -= 1;
        if after >= RETRANSMITTED {
            return self.narrow(number);
        }
        let quickest = self.quickest.map_or(after, |quickest| quickest.min(after));
        self.quickest = Some(quickest);
        // With more under way than the path takes at a time, they wait for each other.
        self.quick = if after <= quickest * 2 { self.quick + 1 } else { 0 };
        if self.quick >= self.size && !self.fixed && self.size < WIDEST {
            self.size += 1;
            self.quick = 0;
        }
    }

    /// Connect `number` failed.
    pub fn failed(&mut self, number: u32) {
        self.under_way -= 1;
        self.narrow(number);
    }

    /// Connection `number` was answered and then reset, before anything was sent on it.
    pub fn reset(&mut self, number: u32) {
        self.narrow(number);
    }

    /// Halves it, once for all the connects that suffered together.
    fn narrow(&mut self, number: u32) {
        self.quick = 0;
        if !self.fixed && number > self.narrowed_at {
            self.size = (self.size / 2).max(1);
            self.narrowed_at = self.newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Begins as many as there is room for, from `next` on, and answers them in the same order.
    fn round(window: &mut ConnectWindow, next: &mut u32, after: impl Fn(u32) -> Duration) -> u32 {
        let first = *next;
        while window.has_room() {
            window.begun(*next);
            *next += 1;
        }
        let count = *next - first;
        for number in first..*next {
            window.answered(number, after(number - first));
        }
        assert_eq!(window.under_way(), 0);
        count
    }

    #[test]
    fn it_widens_by_one_a_round_while_all_are_answered_at_once_and_then_stays() {
        let (mut window, mut next) = (ConnectWindow::new(None), 1);
        let sizes: Vec<u32> = (0..200).map(|_| round(&mut window, &mut next, |_| MILLISECOND)).collect();
        assert_eq!(sizes[..4], [4, 5, 6, 7]);
        assert_eq!((sizes[123], sizes[124], sizes[199]), (127, 128, 128));
    }

    #[test]
    fn it_does_not_widen_where_connects_only_wait_for_each_other() {
        let (mut window, mut next) = (ConnectWindow::new(None), 1);
        for _ in 0..1000 {
            round(&mut window, &mut next, |index| MILLISECOND * (4 - index.min(3)));
        }
        assert_eq!(window.size, NARROW + 1, "the first answer has nothing to be compared with");
    }

    #[test]
    fn it_halves_once_for_all_connects_that_were_dropped_together() {
        let (mut window, mut next) = (ConnectWindow::new(None), 1);
        for _ in 0..12 {
            round(&mut window, &mut next, |_| MILLISECOND);
        }
        assert_eq!(round(&mut window, &mut next, |_| RETRANSMITTED), 16);
        assert_eq!(round(&mut window, &mut next, |_| RETRANSMITTED), 8);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), 4);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND * 899), 5, "late, but for another reason");
        for _ in 0..5 {
            round(&mut window, &mut next, |_| RETRANSMITTED);
        }
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), 1, "never none");
    }

    #[test]
    fn it_halves_when_connections_fail_or_are_reset_soon_after() {
        let mut window = ConnectWindow::new(None);
        for number in 1..=4 {
            window.begun(number);
        }
        window.answered(1, MILLISECOND);
        window.reset(1);
        window.failed(2);
        assert_eq!((window.size, window.under_way()), (2, 2));
        assert!(!window.has_room());
        window.answered(3, MILLISECOND);
        window.answered(4, MILLISECOND);
        window.begun(5);
        window.failed(5);
        assert_eq!(window.size, 1);
    }

    #[test]
    fn a_fixed_one_stays_as_it_is() {
        let (mut window, mut next) = (ConnectWindow::new(Some(7)), 1);
        for after in [MILLISECOND, MILLISECOND, RETRANSMITTED, RETRANSMITTED, MILLISECOND] {
            assert_eq!(round(&mut window, &mut next, |_| after), 7);
        }
        window.reset(next - 1);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), 7);
    }
}
