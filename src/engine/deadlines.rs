//! What is due, and when.
//!
//! Owns the loop's own times, and one time for each connection that has a deadline. Ends no connection: the loop asks which
//! times have passed and acts on them.

use std::collections::BTreeSet;

use mio::Token;

use crate::engine::time::Moment;

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// Accepting is tried again after a rest.
    Accept,
    /// Half of the time to drain is over: from now on, peers that never pause get no more answers.
    StopAnswering,
    /// The time to drain is over.
    CutOff,
    /// A connection's deadline may have passed. The loop asks the connection, whose deadline may have moved since.
    Connection(Token),
}

/// Times and what is due at each.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// The loop's own times; there are few.
    own: BTreeSet<(Moment, Due)>,
    connections: BTreeSet<(Moment, Token)>,
    /// The time under which each connection stands in `connections`.
    armed: Vec<Option<Moment>>,
}

impl Deadlines {
    /// Sets one of the loop's own times, in place of an earlier one for the same `due`.
    pub(crate) fn set(&mut self, due: Due, when: Moment) {
        self.cancel(due);
        self.own.insert((when, due));
    }

    /// Forgets one of the loop's own times.
    pub(crate) fn cancel(&mut self, due: Due) {
        self.own.retain(|&(_, other)| other != due);
    }

    /// Sees to it that the loop looks at a connection at `when` or earlier. A time that is set already and is earlier stays,
    /// so a deadline that moves away with every byte costs nothing here.
    pub(crate) fn arm(&mut self, token: Token, when: Moment) {
        if self.armed.len() <= token.0 {
            self.armed.resize(token.0 + 1, None);
        }
        let armed = &mut self.armed[token.0];
        if armed.is_some_and(|armed| armed <= when) {
            return;
        }
        if let Some(later) = armed.replace(when) {
            self.connections.remove(&(later, token));
        }
        self.connections.insert((when, token));
    }

    /// Forgets a connection.
    pub(crate) fn disarm(&mut self, token: Token) {
        if let Some(when) = self.armed.get_mut(token.0).and_then(Option::take) {
            self.connections.remove(&(when, token));
        }
    }

    /// The next time at which something is due. No connection is due before `judged_from`.
    pub(crate) fn next(&self, judged_from: Moment) -> Option<Moment> {
        let own = self.own.first().map(|&(when, _)| when);
        let connection = self.connections.first().map(|&(when, _)| when.max(judged_from));
        own.into_iter().chain(connection).min()
    }

    /// Takes one time that has passed. The loop's own times go by the clock `now`, those of connections by `known_until`:
    /// until then it is known what happened to them ([`Silence`](super::silence::Silence)).
    pub(crate) fn pop(&mut self, now: Moment, known_until: Option<Moment>) -> Option<Due> {
        if let Some(&(when, due)) = self.own.first()
            && when <= now
        {
            self.own.pop_first();
            return Some(due);
        }
        let &(when, token) = self.connections.first()?;
        if known_until.is_none_or(|known_until| when > known_until) {
            return None;
        }
        self.connections.pop_first();
        self.armed[token.0] = None;
        Some(Due::Connection(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_connection_is_due_at_the_earliest_time_that_was_set() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(Token(3), at(9));
        deadlines.arm(Token(3), at(7));
        deadlines.arm(Token(3), at(8));
        assert_eq!(deadlines.next(at(0)), Some(at(7)));
        assert_eq!(deadlines.pop(at(99), Some(at(6))), None);
        assert_eq!(deadlines.pop(at(99), Some(at(7))), Some(Due::Connection(Token(3))));
        assert_eq!(deadlines.pop(at(99), Some(at(99))), None, "the later times are forgotten");
        deadlines.arm(Token(3), at(8));
        deadlines.disarm(Token(3));
        deadlines.disarm(Token(3));
        assert_eq!(deadlines.next(at(0)), None);
    }

    #[test]
    fn the_loops_own_times_go_by_the_clock_and_those_of_connections_by_what_is_known() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(Token(0), at(1));
        deadlines.set(Due::Accept, at(2));
        deadlines.set(Due::Accept, at(3));
        assert_eq!(deadlines.next(at(5)), Some(at(3)), "connections are not judged before 5 s");
        assert_eq!(deadlines.pop(at(2), None), None);
        assert_eq!(deadlines.pop(at(3), None), Some(Due::Accept));
        assert_eq!(deadlines.pop(at(9), None), None, "nothing is known");
        assert_eq!(deadlines.next(at(5)), Some(at(5)));
        deadlines.set(Due::CutOff, at(9));
        deadlines.cancel(Due::CutOff);
        assert_eq!(deadlines.pop(at(9), Some(at(9))), Some(Due::Connection(Token(0))));
        assert_eq!(deadlines.pop(at(9), Some(at(9))), None);
    }
}
