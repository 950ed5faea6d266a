//! What can do something now: connections and the listeners.
//!
//! Owns the queue in which each connection stands at most once, and the listeners' mark. Knows nothing of what the
//! tokens name.

use std::collections::VecDeque;

use mio::Token;

/// The connections that can do something, in the order in which they came, and whether a listener can.
///
/// A connection's token is the number of its place. The numbers count up from 0, so they index a list.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    /// Those that are served in this turn.
    now: VecDeque<Token>,
    /// Those that came since the turn began.
    next: VecDeque<Token>,
    /// Whether each connection stands in the queue.
    queued: Vec<bool>,
    listeners: bool,
}

impl RunQueue {
    /// Begins a turn: all that stand in the queue now are served in it. Those that come later have to wait for the next
    /// one.
    pub(crate) fn begin_turn(&mut self) {
        self.now.append(&mut self.next);
    }

    /// Whether neither a connection nor a listener can do anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty() && self.next.is_empty() && !self.listeners
    }

    /// Whether the connection `token` stands in the queue.
    pub(crate) fn contains(&self, token: Token) -> bool {
        self.queued.get(token.0).copied().unwrap_or(false)
    }

    /// Puts the connection `token` at the back, unless it stands in the queue already.
    pub(crate) fn push(&mut self, token: Token) {
        if self.queued.len() <= token.0 {
            self.queued.resize(token.0 + 1, false);
        }
        if !std::mem::replace(&mut self.queued[token.0], true) {
            self.next.push_back(token);
        }
    }

    /// Marks that a listener can accept.
    pub(crate) fn push_listeners(&mut self) {
        self.listeners = true;
    }

    /// Takes the listeners' mark. Returns whether there was one.
    pub(crate) fn take_listeners(&mut self) -> bool {
        std::mem::take(&mut self.listeners)
    }

    /// Takes the connection `token` out, if it stands in the queue. That is rare: it is one whose partner's service ended it.
    /// Nothing of it stays, as its token may soon name another connection.
    pub(crate) fn remove(&mut self, token: Token) {
        if self.queued.get_mut(token.0).is_some_and(std::mem::take) {
            self.now.retain(|&other| other != token);
            self.next.retain(|&other| other != token);
        }
    }

    /// Takes the connection at the front, of those that stood in the queue when the turn began.
    pub(crate) fn pop(&mut self) -> Option<Token> {
        let token = self.now.pop_front()?;
        self.queued[token.0] = false;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in which these stand when a turn begins.
    fn queue(tokens: impl IntoIterator<Item = usize>) -> RunQueue {
        let mut queue = RunQueue::default();
        tokens.into_iter().for_each(|token| queue.push(Token(token)));
        queue.begin_turn();
        queue
    }

    #[test]
    fn a_connection_that_is_pushed_twice_stands_in_the_queue_once() {
        let mut queue = queue([7, 7, 0]);
        assert!(queue.contains(Token(7)) && !queue.contains(Token(9)));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(Token(7)), Some(Token(0)), None]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_comes_during_a_turn_waits_for_the_next_one_behind_what_is_left() {
        let mut queue = queue([1, 2]);
        queue.push(Token(3));
        assert_eq!(queue.pop(), Some(Token(1)));
        queue.push(Token(1));
        queue.begin_turn(); // The last turn's budget was spent.
        let rest: Vec<Option<Token>> = (0..4).map(|_| queue.pop()).collect();
        assert_eq!(rest, [Some(Token(2)), Some(Token(3)), Some(Token(1)), None]);
        queue.push(Token(4));
        assert_eq!(queue.pop(), None);
        assert!(!queue.is_empty());
    }

    #[test]
    fn a_connection_that_was_taken_out_leaves_nothing_behind() {
        let mut queue = queue([1, 2]);
        queue.remove(Token(1));
        assert!(!queue.contains(Token(1)));
        queue.push(Token(1)); // Another connection has the token now, and the role has not heard of it.
        assert_eq!([queue.pop(), queue.pop()], [Some(Token(2)), None]);
        queue.begin_turn();
        assert_eq!(queue.pop(), Some(Token(1)));
    }

    #[test]
    fn a_listener_keeps_the_queue_from_being_empty_until_its_mark_is_taken() {
        let mut queue = queue([]);
        queue.push_listeners();
        queue.push_listeners();
        assert!(!queue.is_empty());
        assert!(queue.take_listeners());
        assert!(!queue.take_listeners() && queue.is_empty());
    }
}
