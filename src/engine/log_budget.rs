//! Which log lines are printed, so that the log never floods.
//!
//! Owns a budget for each kind of line, and the count of the lines that were left out. Writes no line but that count, and
//! never decides where a line goes: the program's logger does.

use std::time::Duration;

use log::{Level, log};

use crate::engine::time::Moment;

/// How many lines of one kind are printed in a second.
///
/// The log of a small run should be whole: 50 connections with two messages each make 100 lines of one kind. A reader
/// cannot follow more. At 200 lines of some 100 bytes, seven kinds make 140 kB/s, which any terminal or pipe takes.
const LINES_A_SECOND: u32 = 200;

const WINDOW: Duration = Duration::from_secs(1);

/// A kind of line. Declared as a `static` beside the code that writes it.
#[derive(Debug)]
pub struct Line {
    /// The beginning of its lines. Two kinds with the same beginning share one budget.
    pub opening: &'static str,
    /// The level of its lines and of the count of those left out: a log that shows the lines shows the count.
    pub level: Level,
    /// Whether its lines report a state that lasts. Then one line a second is printed at any level, and the lines that are
    /// left out are not counted.
    pub of_a_state: bool,
}

impl Line {
    /// A kind of line with the usual budget, at `info`.
    #[must_use]
    pub const fn info(opening: &'static str) -> Line {
        Line { opening, level: Level::Info, of_a_state: false }
    }

    /// A kind of line with the usual budget, at `warn`.
    #[must_use]
    pub const fn warn(opening: &'static str) -> Line {
        Line { opening, level: Level::Warn, of_a_state: false }
    }

    fn budget(&self) -> u32 {
        if self.of_a_state { 1 } else { LINES_A_SECOND }
    }
}

/// Allows lines while their kind has budget left, and counts the others.
#[derive(Debug)]
pub struct LogBudget {
    kinds: Vec<Kind>,
    window_ends: Moment,
}

#[derive(Debug)]
struct Kind {
    line: &'static Line,
    left: u32,
    left_out: u64,
}

impl Default for LogBudget {
    fn default() -> LogBudget {
        LogBudget::new()
    }
}

impl LogBudget {
    /// Full budgets for all kinds of lines.
    #[must_use]
    pub fn new() -> LogBudget {
        LogBudget { kinds: Vec::new(), window_ends: Moment::START.plus(WINDOW) }
    }

    /// Whether a line of this kind may be printed now. At the level `debug`, all may. A line below the log's level costs one
    /// comparison, a line without budget a few more. Neither is formatted.
    #[inline]
    pub fn allows(&mut self, line: &'static Line) -> bool {
        line.level <= log::max_level() && self.spend(line)
    }

    fn spend(&mut self, line: &'static Line) -> bool {
        if log::max_level() >= Level::Debug && !line.of_a_state {
            return true;
        }
        let known = self.kinds.iter().position(|kind| kind.line.opening == line.opening);
        let index = known.unwrap_or_else(|| {
            self.kinds.push(Kind { line, left: line.budget(), left_out: 0 });
            self.kinds.len() - 1
        });
        let kind = &mut self.kinds[index];
        if kind.left > 0 {
            kind.left -= 1;
            return true;
        }
        kind.left_out += u64::from(!line.of_a_state);
        false
    }

    /// When the loop must call [`refill`](LogBudget::refill) even if nothing else happens; `None` if no line was left out.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let to_say = self.kinds.iter().any(|kind| kind.left_out > 0 && kind.line.level <= log::max_level());
        to_say.then_some(self.window_ends)
    }

    /// If the window is over, begins a new one and prints how many lines were left out.
    pub(crate) fn refill(&mut self, now: Moment) {
        if now >= self.window_ends {
            self.window_ends = now.plus(WINDOW);
            for kind in &mut self.kinds {
                kind.left = kind.line.budget();
            }
            self.print_left_out();
        }
    }

    /// Prints, in one line a kind, how many lines were left out since the last such line.
    pub(crate) fn print_left_out(&mut self) {
        for Kind { line, left_out, .. } in &mut self.kinds {
            match std::mem::take(left_out) {
                0 => {}
                count => log!(line.level, "{count} more lines \"{} …\" left out", line.opening),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::LevelFilter;
    use std::sync::{Mutex, PoisonError};

    static FIRST: Line = Line::info("Accepted connection from");
    static SECOND: Line = Line::info("Closing connection");
    static FAILED: Line = Line::warn("warning: connection");
    static STATE: Line = Line { opening: "cannot accept", level: Level::Warn, of_a_state: true };

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    /// Runs a test while the log has that level. Other tests that depend on the level wait.
    fn at_level(level: LevelFilter, test: impl FnOnce()) {
        static LEVEL: Mutex<()> = Mutex::new(());
        let _guard = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
        let before = log::max_level();
        log::set_max_level(level);
        test();
        log::set_max_level(before);
    }

    fn left_out(budget: &LogBudget) -> Vec<u64> {
        budget.kinds.iter().map(|kind| kind.left_out).collect()
    }

    #[test]
    fn each_kind_has_its_own_budget_a_second() {
        at_level(LevelFilter::Info, || {
            let mut budget = LogBudget::new();
            let allowed = (0..1000).filter(|_| budget.allows(&FIRST)).count();
            assert_eq!(allowed, LINES_A_SECOND as usize);
            assert!(budget.allows(&SECOND));
            assert_eq!(left_out(&budget), [1000 - allowed as u64, 0]);

            budget.refill(at(0));
            assert!(!budget.allows(&FIRST), "the window is not over yet");
            budget.refill(at(1));
            assert!(budget.allows(&FIRST));
            assert_eq!(left_out(&budget), [0, 0], "the count was printed when the window ended");
        });
    }

    #[test]
    fn a_state_that_lasts_has_one_line_a_second_and_no_count() {
        for level in [LevelFilter::Info, LevelFilter::Debug] {
            at_level(level, || {
                let mut budget = LogBudget::new();
                assert!(budget.allows(&STATE));
                assert!(!budget.allows(&STATE));
                assert_eq!(left_out(&budget), [0]);
            });
        }
    }

    #[test]
    fn at_the_debug_level_every_line_is_printed() {
        at_level(LevelFilter::Debug, || {
            let mut budget = LogBudget::new();
            assert!((0..1000).all(|_| budget.allows(&FIRST)));
        });
    }

    #[test]
    fn the_loop_wakes_for_the_count_only_if_lines_were_left_out() {
        let leaving_out = |line| {
            let mut budget = LogBudget::new();
            assert_eq!(budget.deadline(), None);
            while budget.allows(line) {}
            budget
        };
        at_level(LevelFilter::Info, || {
            let mut budget = leaving_out(&FIRST);
            assert_eq!(budget.deadline(), Some(at(1)));
            budget.refill(at(1));
            assert_eq!(budget.deadline(), None);
        });
        at_level(LevelFilter::Off, || assert_eq!(leaving_out(&FIRST).deadline(), None, "the log does not show it"));
    }

    #[test]
    fn the_count_has_the_level_of_the_lines_that_it_counts() {
        at_level(LevelFilter::Warn, || {
            let mut budget = LogBudget::new();
            assert!(!budget.allows(&FIRST), "information is not logged");
            assert_eq!(left_out(&budget), [0; 0], "nor is its count");
            while budget.allows(&FAILED) {}
            assert_eq!(budget.deadline(), Some(at(1)), "warnings are");
        });
    }
}
