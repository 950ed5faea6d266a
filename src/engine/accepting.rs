//! The listener, and whether the loop may accept from it now.
//!
//! Owns the listening socket, the protocols it makes and the sticky note that peers may wait. Never accepts by itself:
//! the loop does, when the listener's turn in the run queue comes.

use std::fmt;
use std::net::SocketAddr;

/// How many connections are accepted in a row: a burst should be taken quickly, but not at the others' expense. One
/// costs some 10 µs.
pub(crate) const ACCEPT_BUDGET: u32 = 64;

/// A listener and what is known of its backlog.
pub(crate) struct Accepting<L, P> {
    pub(crate) socket: L,
    /// Makes the protocol for a peer.
    pub(crate) protocol_for: Box<dyn FnMut(SocketAddr) -> P>,
    /// Peers may wait. As sticky as a connection's flags: only an accept that finds none clears it.
    pub(crate) ready: bool,
    /// Descriptors or memory have run out: accepting is tried again after a time, or when a connection ends.
    pub(crate) resting: bool,
}

impl<L, P> Accepting<L, P> {
    pub(crate) fn new(socket: L, protocol_for: impl FnMut(SocketAddr) -> P + 'static) -> Accepting<L, P> {
        Accepting { socket, protocol_for: Box::new(protocol_for), ready: false, resting: false }
    }

    /// Notes that the poller reported peers. Returns whether to accept them now: while accepting rests, the note is kept
    /// and nobody is woken up.
    pub(crate) fn note(&mut self) -> bool {
        self.ready = true;
        !self.resting
    }

    /// Ends a rest. Returns whether peers may wait.
    pub(crate) fn resume(&mut self) -> bool {
        self.resting = false;
        self.ready
    }
}

impl<L, P> fmt::Debug for Accepting<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepting").field("ready", &self.ready).field("resting", &self.resting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_comes_during_a_rest_is_kept_and_wakes_nobody() {
        let mut accepting = Accepting::new((), |_| ());
        assert!(!accepting.resume(), "nobody waits");
        accepting.resting = true;
        assert!(!accepting.note());
        assert!(accepting.resume());
        assert!(accepting.note());
    }
}
