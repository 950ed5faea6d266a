//! Whether the peer takes what waits for it.
//!
//! Owns the time since which the peer has taken nothing, and what the last look at the kernel's send queue found. Knows no
//! socket and ends no connection: it says when to look, and what a look means.

use std::time::Duration;

use crate::engine::time::Moment;
use crate::engine::wire::Unacknowledged;

/// How often the kernel's queue is looked at within a timeout while bytes wait for the peer. A peer that stopped reading is
/// found out within the timeout and one part of it: in the first part, the peer's kernel may still take bytes.
pub(crate) const LOOKS: u8 = 4;

/// What is known of the peer's reading.
///
/// While the peer reads slowly, the poller reports nothing: Linux reports room only when a third of the send buffer is
/// free, and that buffer may have grown to megabytes. But the kernel's queue shrinks with each acknowledgement. The
/// connection looks at it when a timeout, or a part of it, has passed, and never on the way of a byte.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Since when we wait for the peer to take what waits; after we shut down first, since when we wait for its FIN.
    pub(crate) waiting_since: Moment,
    /// Bytes sent that the peer's kernel had acknowledged at the last look, modulo 2³².
    acknowledged: u32,
    /// Whether the kernel held bytes for the peer at the last look.
    pub(crate) kernel_holds: bool,
    /// How many looks in a row found nothing more acknowledged: fewer than [`LOOKS`].
    pub(crate) looks: u8,
}

impl Progress {
    pub(crate) fn new(now: Moment) -> Progress {
        Progress { waiting_since: now, acknowledged: 0, kernel_holds: false, looks: 0 }
    }

    /// Notes that bytes begin to wait in our own queue.
    pub(crate) fn begin_to_wait(&mut self, now: Moment) {
        self.waiting_since = now;
        self.looks = 0;
    }

    /// When to look next, for a timeout of `limit` that runs from `since`.
    pub(crate) fn next_look(&self, since: Moment, limit: Duration) -> Moment {
        since.plus(limit / u32::from(LOOKS) * u32::from(self.looks + 1))
    }

    /// Notes what a look found after `sent` bytes were sent. If the peer took bytes since the last look, returns a time
    /// before which it took the last of them.
    pub(crate) fn look(&mut self, sent: u64, found: Unacknowledged, now: Moment) -> Option<Moment> {
        self.kernel_holds = found.bytes > 0;
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32, to see a difference")]
        let acknowledged = (sent as u32).wrapping_sub(found.bytes);
        if acknowledged == self.acknowledged {
            return None;
        }
        self.acknowledged = acknowledged;
        self.looks = 0;
        // The bytes were acknowledged at the last acknowledgement or before.
        self.waiting_since = self.waiting_since.max(now.minus(found.last_acknowledgement));
        Some(self.waiting_since)
    }

    /// Notes that a look found nothing new. Returns whether another look comes within the timeout.
    pub(crate) fn look_again(&mut self) -> bool {
        let again = self.looks + 1 < LOOKS;
        self.looks += u8::from(again);
        again
    }
}
