//! Which of the loop's log lines are printed, so that they tell the story and never flood.
//!
//! Owns the budget of each kind of line, and the two lines of a connection's traffic. The other lines are written by
//! the roles, which ask here first. Never decides where a line goes: that is the program's logger.

use std::net::SocketAddr;
use std::time::Duration;

use log::{Level, log};

use crate::moment::Moment;

/// How many lines of one kind are printed in a window of one second.
///
/// Small runs are to be whole (50 connections with two messages each make 100 lines of one kind), and a reader cannot
/// follow more; at 200 lines of some 100 bytes, seven kinds come to 140 kB/s, which any terminal or pipe keeps up with.
const LINES_A_WINDOW: u32 = 200;

const WINDOW: Duration = Duration::from_secs(1);

/// The kinds of lines that have a budget, each its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `Accepted connection from …`
    Accepted,
    /// `Starting connection 1 to …`
    Starting,
    /// `Echoing b"…" to …`, `Sending b"…" to connection 1`
    Sending,
    /// `Received b"…" from connection 1`
    Received,
    /// `Closing connection to …`, `Closing connection 1`
    Closing,
    /// An address that did not answer, where the name has another: `Connection 1 to …; trying the next address`
    NextAddress,
    /// A connection that failed, and why.
    Failed,
    /// Accepting has to pause: one line a second, as the state lasts while the loop tries again and again.
    CannotAccept,
}

impl Line {
    const ALL: [Line; 8] = [
        Line::Accepted,
        Line::Starting,
        Line::Sending,
        Line::Received,
        Line::Closing,
        Line::NextAddress,
        Line::Failed,
        Line::CannotAccept,
    ];

    /// The level that its lines have, and the count of those left out with them: who sees the ones sees the other.
    fn level(self) -> Level {
        match self {
            Line::Failed | Line::CannotAccept => Level::Warn,
            _ => Level::Info,
        }
    }

    fn budget(self) -> u32 {
        match self {
            Line::CannotAccept => 1,
            _ => LINES_A_WINDOW,
        }
    }
}

/// How a role tells of its connections' traffic. A `None` stays silent.
///
/// Each function writes one log line about the given bytes, for a connection with the given protocol and peer.
#[derive(Debug)]
pub struct Voice<P> {
    /// How the line about sent bytes begins: `Echoing`.
    pub verb: &'static str,
    /// The socket has taken these bytes.
    pub sending: Option<fn(&P, SocketAddr, &[u8])>,
    /// These bytes have arrived.
    pub received: Option<fn(&P, SocketAddr, &[u8])>,
}

impl<P> Voice<P> {
    /// Says nothing of the traffic.
    pub const SILENT: Voice<P> = Voice { verb: "Sending", sending: None, received: None };
}

/// Lets lines through while their kind has budget left, and counts the others.
#[derive(Debug)]
pub struct Narrator<P> {
    voice: Voice<P>,
    left: [u32; Line::ALL.len()],
    left_out: [u64; Line::ALL.len()],
    window_ends: Moment,
}

impl<P> Narrator<P> {
    /// A narrator with full budgets.
    #[must_use]
    pub fn new(voice: Voice<P>) -> Narrator<P> {
        Narrator {
            voice,
            left: Line::ALL.map(Line::budget),
            left_out: [0; Line::ALL.len()],
            window_ends: Moment::START.plus(WINDOW),
        }
    }

    /// Whether a line of this kind may be printed now. A line that may not costs a comparison or two and no formatting.
    /// Whoever wants the `debug` level wants all of them.
    pub fn allows(&mut self, line: Line) -> bool {
        let kind = line as usize;
        let unlimited = log::max_level() >= Level::Debug && line != Line::CannotAccept;
        if unlimited {
            true
        } else if self.left[kind] > 0 {
            self.left[kind] -= 1;
            true
        } else {
            // A state that lasts is told again while it does; how often it was found to last is nobody's concern.
            self.left_out[kind] += u64::from(line != Line::CannotAccept);
            false
        }
    }

    /// Writes the line about sent bytes. Inlined: a role that says nothing of its traffic pays one comparison.
    #[inline]
    pub(crate) fn sending(&mut self, protocol: &P, addr: impl FnOnce() -> SocketAddr, bytes: &[u8]) {
        if let Some(write_line) = self.voice.sending
            && self.allows(Line::Sending)
        {
            write_line(protocol, addr(), bytes);
        }
    }

    /// Writes the line about received bytes.
    #[inline]
    pub(crate) fn received(&mut self, protocol: &P, addr: impl FnOnce() -> SocketAddr, bytes: &[u8]) {
        if let Some(write_line) = self.voice.received
            && self.allows(Line::Received)
        {
            write_line(protocol, addr(), bytes);
        }
    }

    /// When the loop should call [`refill`](Narrator::refill) even if nothing else happens: there is something to say.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let to_say =
            Line::ALL.into_iter().zip(self.left_out).any(|(line, count)| count > 0 && line.level() <= log::max_level());
        to_say.then_some(self.window_ends)
    }

    /// Begins a new window if the last one is over, and says what it left out.
    pub(crate) fn refill(&mut self, now: Moment) {
        if now >= self.window_ends {
            self.window_ends = now.plus(WINDOW);
            self.left = Line::ALL.map(Line::budget);
            self.tell_left_out();
        }
    }

    /// Says, in one line a kind, how many lines were left out since it was last said.
    pub(crate) fn tell_left_out(&mut self) {
        for (line, count) in Line::ALL.into_iter().zip(&mut self.left_out) {
            match std::mem::take(count) {
                0 => {}
                count => log!(line.level(), "{count} more lines \"{} …\" left out", self.voice.opening(line)),
            }
        }
    }
}

impl<P> Voice<P> {
    /// How a line of this kind begins.
    fn opening(&self, line: Line) -> &'static str {
        match line {
            Line::Accepted => "Accepted connection from",
            Line::Starting => "Starting connection",
            Line::Sending => self.verb,
            Line::Received => "Received",
            Line::Closing => "Closing connection",
            Line::NextAddress => "Connection",
            Line::Failed => "warning: connection",
            Line::CannotAccept => "Cannot accept",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::LevelFilter;
    use std::cell::Cell;
    use std::sync::{Mutex, PoisonError};

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

    #[test]
    fn each_kind_has_its_own_budget_a_second() {
        at_level(LevelFilter::Info, || {
            let mut narrator = Narrator::<()>::new(Voice::SILENT);
            let allowed = (0..1000).filter(|_| narrator.allows(Line::Accepted)).count();
            assert_eq!(allowed, LINES_A_WINDOW as usize);
            assert!(narrator.allows(Line::Closing));
            assert_eq!(narrator.left_out[Line::Accepted as usize], 1000 - allowed as u64);

            narrator.refill(at(0));
            assert!(!narrator.allows(Line::Accepted), "the window is not over yet");
            narrator.refill(at(1));
            assert!(narrator.allows(Line::Accepted));
            assert_eq!(narrator.left_out, [0; 8], "told when the window ended");
        });
    }

    #[test]
    fn a_lasting_state_is_told_once_and_not_counted() {
        for level in [LevelFilter::Info, LevelFilter::Debug] {
            at_level(level, || {
                let mut narrator = Narrator::<()>::new(Voice::SILENT);
                assert!(narrator.allows(Line::CannotAccept));
                assert!(!narrator.allows(Line::CannotAccept));
                assert_eq!(narrator.left_out, [0; 8]);
            });
        }
    }

    #[test]
    fn who_wants_the_debug_level_wants_every_line() {
        at_level(LevelFilter::Debug, || {
            let mut narrator = Narrator::<()>::new(Voice::SILENT);
            assert!((0..1000).all(|_| narrator.allows(Line::Accepted)));
        });
    }

    #[test]
    fn the_loop_is_woken_only_if_there_is_something_to_say() {
        let leaving_out = || {
            let mut narrator = Narrator::<()>::new(Voice::SILENT);
            assert_eq!(narrator.deadline(), None);
            while narrator.allows(Line::Accepted) {}
            narrator
        };
        at_level(LevelFilter::Info, || {
            let mut narrator = leaving_out();
            assert_eq!(narrator.deadline(), Some(at(1)));
            narrator.refill(at(1));
            assert_eq!(narrator.deadline(), None);
        });
        at_level(LevelFilter::Off, || assert_eq!(leaving_out().deadline(), None, "nobody would hear it"));
    }

    #[test]
    fn the_count_has_the_level_of_the_lines_that_it_counts() {
        let leaving_out = |line: Line| {
            let mut narrator = Narrator::<()>::new(Voice::SILENT);
            while narrator.allows(line) {}
            narrator.deadline()
        };
        at_level(LevelFilter::Warn, || {
            assert_eq!(leaving_out(Line::Failed), Some(at(1)), "a warning that nobody counts is lost");
            for unheard in [Line::Accepted, Line::Closing, Line::NextAddress] {
                assert_eq!(leaving_out(unheard), None, "{unheard:?}");
            }
        });
        at_level(LevelFilter::Error, || assert_eq!(leaving_out(Line::Failed), None));
    }

    #[test]
    fn traffic_is_told_within_its_budget() {
        thread_local!(static TOLD: Cell<u32> = const { Cell::new(0) });
        fn line(_: &[u8; 64], _: SocketAddr, bytes: &[u8]) {
            assert_eq!(bytes, b"abc");
            TOLD.set(TOLD.get() + 1);
        }
        at_level(LevelFilter::Info, || {
            let mut narrator = Narrator::new(Voice { verb: "Sending", sending: Some(line), received: Some(line) });
            for _ in 0..1000 {
                narrator.sending(&[0; 64], || "127.0.0.1:1".parse().unwrap(), b"abc");
            }
            assert_eq!(TOLD.get(), LINES_A_WINDOW);
            narrator.received(&[0; 64], || "127.0.0.1:1".parse().unwrap(), b"abc");
            assert_eq!(TOLD.get(), LINES_A_WINDOW + 1);
        });
    }

    #[test]
    fn what_is_left_out_is_named_as_its_lines_begin() {
        let voice = Voice::<()> { verb: "Echoing", ..Voice::SILENT };
        let openings = Line::ALL.map(|line| voice.opening(line));
        assert_eq!(
            openings,
            [
                "Accepted connection from",
                "Starting connection",
                "Echoing",
                "Received",
                "Closing connection",
                "Connection",
                "warning: connection",
                "Cannot accept"
            ]
        );
    }

    #[test]
    fn kinds_index_their_own_budget() {
        for (index, line) in Line::ALL.into_iter().enumerate() {
            assert_eq!(index, line as usize);
        }
    }
}
