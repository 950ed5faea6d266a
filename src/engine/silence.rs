//! The proof of silence: a deadline may end a connection only if it is known that nothing came before the deadline.
//!
//! Owns what the last waits proved. Knows no connection and no poller: the loop reports how each wait went.

use std::time::Duration;

use crate::engine::time::Moment;

/// A loop that got no CPU for this long was stopped (SIGSTOP, Ctrl-Z, a frozen machine) or starved. A turn takes some
/// milliseconds.
const PAUSE: Duration = Duration::from_millis(500);

/// For how long after such a pause no deadline ends a connection. The peers may have been stopped as well, for instance
/// by the same Ctrl-Z, and need a moment to answer.
const GRACE: Duration = Duration::from_secs(1);

/// How long one wait lasts within the grace, at the most. A second pause within a longer wait would look like the wait
/// itself, and take the grace away.
const GRACE_WAIT: Duration = Duration::from_millis(250);

/// How one wait for events went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// When it began.
    pub(crate) began: Moment,
    /// When it ended.
    pub(crate) ended: Moment,
    /// When the wait before it ended.
    pub(crate) last_ended: Moment,
    /// The timeout that the poller got.
    pub(crate) timeout: Option<Duration>,
    /// How many events it returned; `None` if it was interrupted.
    pub(crate) returned: Option<usize>,
    /// How many events it could have returned.
    pub(crate) most: usize,
    /// How many sources of events are registered.
    pub(crate) sources: usize,
}

/// What the waits of a loop proved.
///
/// The clock alone does not judge deadlines, because a connection must not be called idle while its bytes wait in its
/// socket. When a stopped process goes on, all deadlines may be over, and bytes may wait in every socket. Only a wait
/// that began after a deadline, and returned all that was ready, proves that nothing came.
#[derive(Debug)]
pub(crate) struct Silence {
    /// The round of waits that is not complete, if there is one.
    round: Option<Round>,
    judged_from: Moment,
}

/// A look at everything that was ready at one moment. It takes several waits if more is ready than one of them returns.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// When the first wait began.
    began: Moment,
    /// How many sources may have been ready then and were not returned yet.
    left: usize,
}

impl Silence {
    pub(crate) fn new() -> Silence {
        Silence { round: None, judged_from: Moment::START }
    }

    /// The moment before which no connection is judged.
    pub(crate) fn judged_from(&self) -> Moment {
        self.judged_from
    }

    /// When a wait that begins at `began` has to end, with something to do at `due`.
    pub(crate) fn wait_until(&self, due: Moment, began: Moment) -> Moment {
        if began < self.judged_from { due.min(began.plus(GRACE_WAIT)) } else { due }
    }

    /// Notes how a wait went. Returns the time until which everything that happened is known, if it is known.
    pub(crate) fn after(&mut self, wait: &Wait) -> Option<Moment> {
        let took = wait.ended.since(wait.last_ended);
        // An interrupted wait that took all of its time may have been a stop: SIGCONT interrupts it (signal(7)).
        let interrupted = |timeout: Duration| wait.returned.is_none() && !timeout.is_zero() && took >= timeout;
        if wait.timeout.is_some_and(|timeout| took > timeout + PAUSE || interrupted(timeout)) {
            self.judged_from = wait.ended.plus(GRACE);
        }
        let known_until = self.all_returned_since(wait);
        known_until.filter(|_| wait.ended >= self.judged_from)
    }

    /// A wait that is not full has returned all that was ready when it began. A full wait may have left some behind.
    /// But epoll returns the sources in the order in which they became ready. So several waits that together return as
    /// many events as there are sources have returned all that was ready when the first of them began. What became
    /// ready later is not known. So deadlines are judged even if every wait is full.
    fn all_returned_since(&mut self, wait: &Wait) -> Option<Moment> {
        let round = self.round.take();
        let returned = wait.returned?; // An interrupted wait proves nothing and ends the round.
        if returned < wait.most {
            return Some(wait.began);
        }
        let Round { began, left } = round.unwrap_or(Round { began: wait.began, left: wait.sources });
        let left = left.saturating_sub(returned);
        if left == 0 {
            return Some(began);
        }
        self.round = Some(Round { began, left });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    /// A wait from `began` to `ended`, in milliseconds, with 25 sources, that returned that many of at most 10 events.
    fn wait(began: u64, ended: u64, returned: Option<usize>) -> Wait {
        Wait {
            began: at(began),
            ended: at(ended),
            last_ended: at(began),
            timeout: Some(Duration::ZERO),
            returned,
            most: 10,
            sources: 25,
        }
    }

    #[test]
    fn a_wait_that_is_not_full_proves_what_happened_until_it_began() {
        let mut silence = Silence::new();
        assert_eq!(silence.after(&wait(5, 9, Some(9))), Some(at(5)));
        assert_eq!(silence.after(&wait(12, 13, Some(0))), Some(at(12)));
    }

    #[test]
    fn a_round_of_full_waits_proves_what_happened_until_its_first_wait_began() {
        let mut silence = Silence::new();
        assert_eq!(silence.after(&wait(1, 2, Some(10))), None);
        assert_eq!(silence.after(&wait(3, 4, Some(10))), None);
        assert_eq!(silence.after(&wait(5, 6, Some(10))), Some(at(1)));
        assert_eq!(silence.after(&wait(7, 8, Some(10))), None, "the next round begins");
    }

    #[test]
    fn an_interrupted_wait_ends_a_round() {
        let mut silence = Silence::new();
        silence.after(&wait(1, 2, Some(10)));
        silence.after(&wait(3, 4, Some(10)));
        assert_eq!(silence.after(&wait(5, 6, None)), None);
        assert_eq!(silence.after(&wait(7, 8, Some(10))), None);
        assert_eq!(silence.after(&wait(9, 10, Some(3))), Some(at(9)));
    }

    #[test]
    fn a_deadline_that_passed_in_an_interrupted_wait_is_judged_a_second_later() {
        let mut silence = Silence::new();
        let timeout = Some(Duration::from_secs(4));
        silence.after(&Wait { timeout, ..wait(0, 3000, None) });
        assert_eq!(silence.judged_from(), Moment::START, "the deadline is to come");
        silence.after(&Wait { timeout, ..wait(0, 4100, None) });
        assert_eq!(silence.judged_from(), at(5100));
    }

    #[test]
    fn after_a_pause_no_connection_is_judged_for_a_second() {
        let mut silence = Silence::new();
        silence.after(&wait(1, 2, Some(0)));
        assert_eq!(silence.after(&Wait { ended: at(9000), ..wait(2, 0, Some(0)) }), None);
        assert_eq!(silence.judged_from(), at(10_000));
        assert_eq!(silence.after(&wait(9999, 9999, Some(0))), None);
        assert_eq!(silence.after(&wait(10_000, 10_000, Some(0))), Some(at(10_000)));
    }

    #[test]
    fn a_second_pause_within_the_grace_begins_it_anew() {
        let mut silence = Silence::new();
        silence.after(&Wait { ended: at(9000), ..wait(2, 0, Some(0)) });
        assert_eq!(silence.wait_until(at(10_000), at(9000)), at(9250));
        assert_eq!(silence.wait_until(at(9100), at(9000)), at(9100));
        let timeout = Some(GRACE_WAIT);
        assert_eq!(silence.after(&Wait { timeout, ..wait(9000, 10_450, Some(1)) }), None);
        assert_eq!(silence.judged_from(), at(11_450));
        assert_eq!(silence.wait_until(at(12_000), at(11_450)), at(12_000), "the grace is over");
    }
}
