//! Whether the peer takes what waits for it.
//!
//! Owns the time since which it has taken nothing, and what the last look at the kernel's queue found. Knows no socket
//! and no deadline: it says when to look, and what a look means.

use std::time::Duration;

use crate::engine::time::Moment;
use crate::engine::wire::Unacknowledged;

/// How often the kernel's queue is looked at within a time limit while bytes wait for the peer. A peer that stopped
/// reading is found out within the limit and one part of it: its own buffers may take bytes in the first part that it
/// never reads.
pub(crate) const LOOKS: u8 = 4;

/// What is known of the peer's reading.
///
/// The socket says nothing while the peer reads slowly: Linux reports room only when a third of its buffer, which may
/// have grown to megabytes, is free. The kernel's queue shrinks with each acknowledgement. It is looked at when a time
/// limit, or a part of it, has passed, and never on the way of a byte.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Since when we wait for the peer: for it to take what waits or, where we ended first, for it to end as well.
    pub(crate) waiting_since: Moment,
    /// Bytes sent that the peer's kernel had acknowledged at the last look, modulo 2³².
    acknowledged: u32,
    /// The kernel held bytes for the peer at the last look.
    pub(crate) kernel_holds: bool,
    /// Looks in a row that found nothing more acknowledged, fewer than [`LOOKS`].
    pub(crate) looks: u8,
}

impl Progress {
    pub(crate) fn new(now: Moment) -> Progress {
        Progress { waiting_since: now, acknowledged: 0, kernel_holds: false, looks: 0 }
    }

    /// Bytes begin to wait in our own queue.
    pub(crate) fn begin_to_wait(&mut self, now: Moment) {
        self.waiting_since = now;
        self.looks = 0;
    }

    /// When to look next, of a time limit that runs from `since`.
    pub(crate) fn next_look(&self, since: Moment, limit: Duration) -> Moment {
        since.plus(limit / u32::from(LOOKS) * u32::from(self.looks + 1))
    }

    /// Takes note of a look after `sent` bytes. Returns since when the peer is known to have taken nothing more, if it
    /// took something since the last look.
    pub(crate) fn look(&mut self, sent: u64, found: Unacknowledged, now: Moment) -> Option<Moment> {
        self.kernel_holds = found.bytes > 0;
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32, to see a difference")]
        let acknowledged = (sent as u32).wrapping_sub(found.bytes);
        if acknowledged == self.acknowledged {
            return None;
        }
        self.acknowledged = acknowledged;
        self.looks = 0;
        // When it was acknowledged is not known, but not later than the last acknowledgement.
        self.waiting_since = self.waiting_since.max(now.minus(found.last_acknowledgement));
        Some(self.waiting_since)
    }

    /// A look found nothing new. Returns whether there is another to come within the limit.
    pub(crate) fn look_again(&mut self) -> bool {
        let again = self.looks + 1 < LOOKS;
        self.looks += u8::from(again);
        again
    }
}
