//! Who can do something now.
//!
//! Owns a queue of tokens in which each stands once, however often it is put there. Knows nothing of what they stand for.

use std::collections::VecDeque;

use mio::Token;

use crate::engine::system::LISTENER;

/// Tokens that can do something, each once, in the order in which they came.
///
/// Connections have the slab's keys as tokens, which count up from 0; the one other token is the listener's.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    queue: VecDeque<Token>,
    /// Whether each connection stands in the queue.
    connections: Vec<bool>,
    listener: bool,
}

impl RunQueue {
    /// How many stand in it.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether `token` stands in it.
    pub(crate) fn contains(&self, token: Token) -> bool {
        if token == LISTENER { self.listener } else { self.connections.get(token.0).copied().unwrap_or(false) }
    }

    /// Puts `token` at the back, unless it stands in the queue already.
    pub(crate) fn push(&mut self, token: Token) {
        let queued = if token == LISTENER {
            &mut self.listener
        } else {
            if self.connections.len() <= token.0 {
                self.connections.resize(token.0 + 1, false);
            }
            &mut self.connections[token.0]
        };
        if !std::mem::replace(queued, true) {
            self.queue.push_back(token);
        }
    }

    /// Takes the one that has stood in it longest.
    pub(crate) fn pop(&mut self) -> Option<Token> {
        let token = self.queue.pop_front()?;
        if token == LISTENER {
            self.listener = false;
        } else {
            self.connections[token.0] = false;
        }
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_in_the_queue_once() {
        let mut queue = RunQueue::default();
        for token in [Token(7), LISTENER, Token(7), Token(0), LISTENER] {
            queue.push(token);
        }
        assert!(queue.contains(Token(7)) && queue.contains(LISTENER) && !queue.contains(Token(9)));
        assert_eq!(queue.len(), 3);
        assert_eq!(queue.pop(), Some(Token(7)));
        assert!(!queue.contains(Token(7)));
        queue.push(Token(7));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(LISTENER), Some(Token(0)), Some(Token(7))]);
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
