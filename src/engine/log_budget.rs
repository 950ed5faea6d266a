//! Which log lines are printed, so that they tell the story and never flood.
//!
//! Owns a budget for each kind of line, and the count of the lines that had none. Never writes another line than that
//! count, and never decides where a line goes: that is the program's logger.

use std::time::Duration;

use log::{Level, log};

use crate::engine::time::Moment;

/// How many lines of one kind are printed in a second.
///
/// Small runs are to be whole (50 connections with two messages each make 100 lines of one kind), and a reader cannot
/// follow more; at 200 lines of some 100 bytes, seven kinds come to 140 kB/s, which any terminal or pipe keeps up with.
const LINES_A_SECOND: u32 = 200;

const WINDOW: Duration = Duration::from_secs(1);

/// A kind of line. Declared as a `static` beside the code that writes it.
#[derive(Debug)]
pub struct Line {
    /// How its lines begin. Two kinds with the same beginning are one.
    pub opening: &'static str,
    /// The level of its lines, and of the count of those left out: a log that shows the ones shows the other.
    pub level: Level,
    /// It tells of a state that lasts: one line a second, however much the log wants, and the others are not counted.
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

/// Lets lines through while their kind has budget left, and counts the others.
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

    /// Whether a line of this kind may be printed now. At the level `debug`, all may. A line that nobody would see costs a
    /// comparison, one without budget a few more; neither costs any formatting.
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

    /// When the loop should call [`refill`](LogBudget::refill) even if nothing else happens: there is something to say.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let to_say = self.kinds.iter().any(|kind| kind.left_out > 0 && kind.line.level <= log::max_level());
        to_say.then_some(self.window_ends)
    }

    /// Begins a new window if the last one is over, and says what it left out.
    pub(crate) fn refill(&mut self, now: Moment) {
        if now >= self.window_ends {
            self.window_ends = now.plus(WINDOW);
            for kind in &mut self.kinds {
                kind.left = kind.line.budget();
            }
            self.tell_left_out();
        }
    }

    /// Says, in one line a kind, how many lines were left out since it was last said.
    pub(crate) fn tell_left_out(&mut self) {
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

    /// Runs a test while the log has that level; the others that depend on it wait.
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
            assert_eq!(left_out(&budget), [0, 0], "it was said when the window ended");
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
    fn the_loop_is_woken_only_if_there_is_something_to_say() {
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
        at_level(LevelFilter::Off, || assert_eq!(leaving_out(&FIRST).deadline(), None, "nobody would see it"));
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
