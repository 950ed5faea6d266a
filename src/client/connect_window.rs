//! How many connects are under way at once.
//!
//! Owns that number and what changes it. A server keeps connects that it has not accepted yet in a backlog, often of 5, 10
//! or 64 places. Connects that find the backlog full are dropped. They are sent again a second later, all at the same
//! time: then more are dropped, or answered and forgotten, which shows as a reset when the first byte is sent. So
//! connecting begins narrow, and widens only while the others under way make no connect slower. Where every connect fails
//! there is no backlog to spare, and the window is as wide as it can be. Has no clock: its caller says how long a connect
//! took.

use std::time::Duration;

/// Narrow enough for all but the smallest backlogs, wide enough to cost nothing where answers take microseconds: 18,000
/// connects over loopback take as long as with [`WIDEST`], to the noise.
const NARROW: u32 = 4;

/// Wide enough to keep a long path busy, and no more than the backlog of most servers.
const WIDEST: u32 = 128;

/// A connect that took this long was dropped and sent again: the first time after a second (RFC 6298, 2.1), less an
/// allowance for inexact clocks and timers. If even the quickest took about as long, the path is that long.
const RETRANSMITTED: Duration = Duration::from_millis(900);

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
    /// Answers that took as long as a connect that is sent again.
    late: u64,
    /// Connects that failed since the last answer.
    failed: u32,
    /// The last connect that was begun, and the last one that had been begun when the window was last narrowed. Failures of
    /// connects up to there have been answered by that.
    newest: u32,
    narrowed_at: u32,
}

impl ConnectWindow {
    /// A window of `fixed` connects, or one that finds out how many are good. `paced`: connects are begun at a rate that the
    /// user chose. Then it begins at its widest, so that the rate is kept.
    #[must_use]
    pub fn new(fixed: Option<u32>, paced: bool) -> ConnectWindow {
        ConnectWindow {
            size: fixed.unwrap_or(if paced { WIDEST } else { NARROW }),
            fixed: fixed.is_some(),
            under_way: 0,
            quickest: None,
            quick: 0,
            late: 0,
            failed: 0,
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
        // Connects of which none is answered fill no backlog, and one after the other they would take for ever.
        let all_fail = !self.fixed && self.failed >= self.size.max(NARROW);
        self.under_way < if all_fail { WIDEST } else { self.size }
    }

    /// How many connects were dropped at first and sent again, as their times show.
    #[must_use]
    pub fn sent_again(&self) -> u64 {
        if self.is_path_short() { self.late } else { 0 }
    }

    /// Connect `number` was begun; for its next address, once more.
    pub fn begun(&mut self, number: u32) {
        self.under_way += 1;
        self.newest = self.newest.max(number);
    }

    /// Connect `number` was answered. `after` is `None` if the time says nothing about the peer and the path.
    pub fn answered(&mut self, number: u32, after: Option<Duration>) {
        self.under_way -= 1;
        self.failed = 0;
        let Some(after) = after else { return };
        let quickest = self.quickest.map_or(after, |quickest| quickest.min(after));
        self.quickest = Some(quickest);
        if after >= RETRANSMITTED {
            self.late += 1;
            if self.is_path_short() {
                return self.narrow(number, 1);
            }
        }
        // With more under way than the path takes at a time, they wait for each other.
        self.quick = if after <= quickest * 2 { self.quick + 1 } else { 0 };
        if self.quick >= self.size && !self.fixed && self.size < WIDEST {
            self.size += 1;
            self.quick = 0;
        }
    }

    /// A connect failed, and its connection tries the next address. That says nothing about the address that works.
    pub fn moved_on(&mut self) {
        self.under_way -= 1;
    }

    /// Connect `number` failed at the last address. `unanswered`: it timed out; any other error is an answer.
    pub fn failed(&mut self, number: u32, unanswered: bool) {
        self.under_way -= 1;
        self.failed = self.failed.saturating_add(1);
        if unanswered && self.is_path_short() {
            self.narrow(number, NARROW);
        }
    }

    /// Connection `number` was answered and then reset, before anything was sent on it.
    pub fn reset(&mut self, number: u32) {
        self.narrow(number, 1);
    }

    /// Whether some answer came so soon that a late one cannot be the path's length.
    fn is_path_short(&self) -> bool {
        self.quickest.is_some_and(|quickest| quickest < RETRANSMITTED / 2)
    }

    /// Halves it, but not below `least`, once for all the connects that suffered together.
    fn narrow(&mut self, number: u32, least: u32) {
        self.quick = 0;
        if !self.fixed && number > self.narrowed_at {
            self.size = (self.size / 2).max(least).min(self.size);
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
            window.answered(number, Some(after(number - first)));
        }
        assert_eq!(window.under_way(), 0);
        count
    }

    #[test]
    fn it_widens_by_one_a_round_while_all_are_answered_at_once_and_then_stays() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        let sizes: Vec<u32> = (0..200).map(|_| round(&mut window, &mut next, |_| MILLISECOND)).collect();
        assert_eq!(sizes[..4], [4, 5, 6, 7]);
        assert_eq!((sizes[123], sizes[124], sizes[199]), (127, 128, 128));
    }

    #[test]
    fn it_does_not_widen_where_connects_only_wait_for_each_other() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        for _ in 0..1000 {
            round(&mut window, &mut next, |index| MILLISECOND * (4 - index.min(3)));
        }
        assert_eq!(window.size, NARROW + 1, "the first answer has nothing to be compared with");
    }

    #[test]
    fn it_halves_once_for_all_connects_that_were_dropped_together() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
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
    fn it_halves_when_connections_time_out_or_are_reset_soon_after() {
        let mut window = ConnectWindow { size: 16, ..ConnectWindow::new(None, false) };
        for number in 1..=16 {
            window.begun(number);
        }
        window.answered(1, Some(MILLISECOND));
        window.failed(2, true);
        assert_eq!((window.size, window.under_way()), (8, 14));
        window.reset(1);
        assert_eq!(window.size, 8, "both were under way at the same time");
        for number in 3..=16 {
            window.answered(number, Some(MILLISECOND));
        }
        for number in 17..=24 {
            window.begun(number);
            window.failed(number, true);
        }
        assert_eq!(window.size, NARROW, "not narrower for connects that time out");
        window.begun(25);
        window.answered(25, Some(MILLISECOND));
        window.reset(25);
        assert_eq!(window.size, NARROW / 2);
    }

    /// How many rounds it takes until `connects` have failed.
    fn rounds_of_failures(window: &mut ConnectWindow, first: u32, connects: u32, unanswered: bool) -> u32 {
        let (mut next, mut rounds) = (first, 0);
        while next < first + connects {
            let round = next;
            while window.has_room() && next < first + connects {
                window.begun(next);
                next += 1;
            }
            (round..next).for_each(|number| window.failed(number, unanswered));
            rounds += 1;
        }
        rounds
    }

    #[test]
    fn a_thousand_connects_that_nobody_answers_take_a_few_rounds() {
        for unanswered in [true, false] {
            let mut window = ConnectWindow::new(None, false);
            assert_eq!(rounds_of_failures(&mut window, 1, 1000, unanswered), 1 + 996_u32.div_ceil(WIDEST));
            assert_eq!(window.size, NARROW, "the next answer brings it back");
        }
    }

    #[test]
    fn a_listener_that_never_accepts_costs_a_few_rounds_of_timeouts() {
        let mut window = ConnectWindow::new(None, false);
        let mut next = 1;
        round(&mut window, &mut next, |_| MILLISECOND);
        assert_eq!(rounds_of_failures(&mut window, next, 36, true), 2);
    }

    #[test]
    fn an_answer_ends_the_widest_window_that_failures_have_opened() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        rounds_of_failures(&mut window, next, NARROW, true);
        next += NARROW;
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), WIDEST);
        assert!(round(&mut window, &mut next, |_| MILLISECOND) < WIDEST / 2);
    }

    #[test]
    fn a_first_address_that_fails_neither_narrows_nor_opens_the_window() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        round(&mut window, &mut next, |_| MILLISECOND);
        let size = window.size;
        for number in next..next + 100 {
            window.begun(number);
            window.moved_on();
        }
        assert_eq!(window.under_way(), 0);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), size);
    }

    #[test]
    fn refused_connects_do_not_narrow_it() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        round(&mut window, &mut next, |_| MILLISECOND);
        let size = window.size;
        rounds_of_failures(&mut window, next, 20, false);
        assert_eq!(window.size, size);
    }

    #[test]
    fn a_path_of_a_second_does_not_narrow_it_and_counts_nothing_as_sent_again() {
        let (mut window, mut next, mut rounds) = (ConnectWindow::new(None, false), 1, 0);
        while next <= 1000 {
            round(&mut window, &mut next, |_| Duration::from_secs(1));
            rounds += 1;
        }
        assert!(rounds < 50, "{rounds}");
        assert_eq!(window.sent_again(), 0);
    }

    #[test]
    fn an_answer_whose_time_says_nothing_changes_nothing() {
        let (mut window, mut next) = (ConnectWindow::new(None, false), 1);
        round(&mut window, &mut next, |_| MILLISECOND);
        round(&mut window, &mut next, |index| if index == 0 { RETRANSMITTED } else { MILLISECOND });
        let size = window.size;
        window.begun(next);
        window.answered(next, None);
        assert_eq!((window.size, window.under_way(), window.sent_again()), (size, 0, 1));
    }

    #[test]
    fn with_a_pace_it_begins_at_the_widest_and_still_narrows() {
        let (mut window, mut next) = (ConnectWindow::new(None, true), 1);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), WIDEST);
        window.reset(next - 1);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), WIDEST / 2);
    }

    #[test]
    fn a_fixed_one_stays_as_it_is() {
        let (mut window, mut next) = (ConnectWindow::new(Some(7), false), 1);
        for after in [MILLISECOND, MILLISECOND, RETRANSMITTED, RETRANSMITTED, MILLISECOND] {
            assert_eq!(round(&mut window, &mut next, |_| after), 7);
        }
        window.reset(next - 1);
        assert_eq!(round(&mut window, &mut next, |_| MILLISECOND), 7);
    }
}
