//! The listener, and whether the loop may accept from it now.
//!
//! Owns the listening socket, the function that makes a protocol for a peer, the sticky flag that peers may wait, the
//! budget of accepting and its rest when descriptors run out. Never accepts by itself: the loop does, at most once a
//! turn.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::{Level, warn};

use crate::engine::log_budget::{Line, LogBudget};

/// How many connections are accepted in one turn. A burst is taken quickly, and the other connections wait less than a
/// millisecond: accepting one costs some 10 µs.
pub(crate) const ACCEPT_BUDGET: u32 = 64;

/// How long accepting rests when descriptors or memory have run out. Accepting is also tried whenever a connection
/// ends. The time is for the case that other processes hold what is missing.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The line that says that accepting rests.
static CANNOT_ACCEPT: Line = Line { opening: "cannot accept", level: Level::Warn, of_a_state: true };

/// A listener and what is known of its backlog.
pub(crate) struct Accepting<L, P> {
    pub(crate) socket: L,
    /// Makes the protocol for a peer.
    pub(crate) protocol_for: Box<dyn FnMut(SocketAddr) -> P>,
    /// Peers may wait in the backlog. The flag is sticky: only an accept that finds no peer clears it.
    pub(crate) ready: bool,
    /// Descriptors or memory have run out: accepting is tried again after a time, or when a connection ends.
    resting: bool,
}

impl<L, P> Accepting<L, P> {
    pub(crate) fn new(socket: L, protocol_for: impl FnMut(SocketAddr) -> P + 'static) -> Accepting<L, P> {
        Accepting { socket, protocol_for: Box::new(protocol_for), ready: false, resting: false }
    }

    /// Notes that the poller reported peers. Returns whether to accept them now: while accepting rests, only the flag
    /// is set.
    pub(crate) fn note(&mut self) -> bool {
        self.ready = true;
        !self.resting
    }

    /// Whether to accept another connection while there are `open` of at most `most`.
    pub(crate) fn may_accept(&self, open: usize, most: usize) -> bool {
        self.ready && !self.resting && open < most
    }

    /// Begins a rest: descriptors or memory have run out, and no edge will say when there are some again.
    pub(crate) fn rest(&mut self, error: &io::Error, open: usize, log: &mut LogBudget) {
        self.resting = true;
        if log.allows(&CANNOT_ACCEPT) {
            warn!(
                "cannot accept with {open} connections open: {error}; new connections wait (ulimit -n shows the limit)"
            );
        }
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
    fn an_edge_that_comes_during_a_rest_is_kept_until_the_rest_ends() {
        let mut accepting = Accepting::new((), |_| ());
        assert!(!accepting.resume(), "no peer waits");
        accepting.ready = true;
        assert!(accepting.may_accept(2, 3) && !accepting.may_accept(3, 3), "not above the limit");
        accepting.rest(&io::ErrorKind::OutOfMemory.into(), 3, &mut LogBudget::new());
        assert!(!accepting.may_accept(2, 3));
        assert!(!accepting.note());
        assert!(accepting.resume());
        assert!(accepting.note());
    }
}
