//! The times that a connection may take: the next that runs out, and what becomes of it.
//!
//! Owns no state: each deadline is a function of the connection's. Looks at the kernel's queue before it calls a peer dead.

use crate::engine::connection::{Connection, Ending, Marks, Reading, Timeout, Timeouts, Transport, Writing};
use crate::engine::protocol::{Expects, Protocol};
use crate::engine::time::Moment;

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// The next time that something runs out, and what. Computed from the state, so that no byte has to update it.
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<(Moment, Timeout)> {
        if self.is_connecting() {
            return timeouts.connect.map(|limit| (self.opened.plus(limit), Timeout::Connect));
        }
        let linger = |since: Moment| timeouts.linger.map(|limit| (since.plus(limit), Timeout::Linger));
        let waiting_since = self.progress.waiting_since;
        if self.reading == Reading::Discarding {
            return if self.ending == Ending::Draining { None } else { linger(waiting_since) };
        }
        let bytes_wait = self.progress.kernel_holds || !self.outbound.is_empty();
        let stall = timeouts
            .stall
            .filter(|_| bytes_wait)
            .map(|limit| (self.progress.next_look(waiting_since, limit), Timeout::Stall));
        let idle = timeouts.idle.and_then(|limit| match self.protocol.expects() {
            _ if self.takes_nothing() => None, // The silence is ours.
            // A peer for which bytes wait is not idle. The stall timeout judges whether the peer still takes them.
            Expects::Anything if stall.is_some() => None,
            Expects::Anything => Some(self.last_active.plus(limit)),
            Expects::AnswerSince(owed) if self.outbound.is_empty() => Some(self.last_active.max(owed).plus(limit)),
            Expects::AnswerSince(owed) => Some(self.progress.next_look(self.last_active.max(owed), limit)),
            Expects::Nothing => None,
        });
        let idle = idle.map(|when| (when, Timeout::Idle));
        // What the far end still has to say comes through the partner, and may take its time.
        let lingers = self.writing == Writing::ShutDown && !self.marks.has(Marks::JOINED);
        let finished = if lingers { linger(self.last_active) } else { None };
        [stall, idle, finished].into_iter().flatten().min_by_key(|&(when, _)| when)
    }

    /// The protocol's own deadline, if the protocol can still do something about it.
    pub(crate) fn protocol_deadline(&self) -> Option<Moment> {
        let deadline = self.protocol.deadline()?;
        let is_over = self.reading == Reading::Discarding || self.ending.due().is_some();
        (!is_over && !self.is_connecting()).then_some(deadline)
    }

    /// Acts on a time that ran out. Returns whether the next service has something to do. It has nothing to do if the
    /// kernel's queue shows that the peer takes what is sent to it: then the connection has a new deadline.
    ///
    /// An idle connection is not closed but shut down, if there is a linger timeout.
    pub fn expire(&mut self, timeout: Timeout, timeouts: &Timeouts, now: Moment) -> bool {
        if self.ending.due().is_some() {
            return true;
        }
        if self.may_go_on(timeout, timeouts, now) {
            return false;
        }
        // With our direction open, there is a gentle way: our FIN. Without time for the peer's, only if that is here. But
        // a FIN would say that a partner's bytes were complete.
        let gentle = self.writing == Writing::Open
            && !self.marks.has(Marks::JOINED)
            && match self.reading {
                Reading::Open | Reading::Held | Reading::Paused => timeouts.linger.is_some(),
                Reading::Ended => true,
                Reading::EndUnheard | Reading::EndHeld | Reading::Discarding => false,
            };
        if timeout == Timeout::Idle && gentle {
            self.stop_answering(now);
            if self.ending == Ending::ByItself {
                self.ending = Ending::Idle;
            }
        } else {
            let idle = self.ending == Ending::Idle;
            self.ending = Ending::TimedOut(if idle { Timeout::Idle } else { timeout });
        }
        true
    }

    /// Looks at the kernel's queue, if that can tell anything. Returns whether the connection goes on in spite of the
    /// time that ran out.
    fn may_go_on(&mut self, timeout: Timeout, timeouts: &Timeouts, now: Moment) -> bool {
        let owes_an_answer = matches!(self.protocol.expects(), Expects::AnswerSince(_));
        let worth_a_look = match timeout {
            Timeout::Stall => true,
            // The kernels of both ends take megabytes for a peer that reads nothing. So if the peer owes an answer,
            // only what they take after they were full is a sign of life.
            Timeout::Idle => !owes_an_answer || !self.outbound.is_empty(),
            Timeout::Linger => self.reading != Reading::Discarding,
            Timeout::Connect | Timeout::Drain => false,
        };
        if !worth_a_look {
            return false;
        }
        let found = self.wire.transport.unacknowledged();
        let progress_since = found.and_then(|found| self.progress.look(self.wire.sent, found, now));
        if timeout == Timeout::Idle && !owes_an_answer && self.progress.kernel_holds {
            // From now on the stall timeout judges the peer. The last of the bytes that the kernel holds were sent no
            // later than a byte last moved; the last acknowledgement may be much older.
            self.progress.waiting_since = self.progress.waiting_since.max(self.last_active);
        }
        if let Some(since) = progress_since {
            self.peer_took_bytes(since);
            return true;
        }
        match timeout {
            Timeout::Idle if !owes_an_answer => {
                if self.progress.kernel_holds && timeouts.stall.is_none() {
                    self.last_active = now; // Without a stall timeout, nothing judges whether the peer takes the bytes.
                }
                self.progress.kernel_holds
            }
            Timeout::Stall | Timeout::Idle => self.progress.look_again(),
            _ => false,
        }
    }

    /// A pair of joined connections is idle only as a whole. Notes when the partner was last active. While it waits for
    /// us, it is active now; and while bytes wait there, in our queue or in the kernel's, its stall timeout judges.
    pub(crate) fn shares_activity(&mut self, partner: &mut Connection<T, P>, timeouts: &Timeouts, now: Moment) {
        let bytes_wait = |partner: &Connection<T, P>| partner.progress.kernel_holds || !partner.outbound.is_empty();
        if !bytes_wait(partner) && !partner.is_connecting() {
            partner.may_go_on(Timeout::Idle, timeouts, now); // Looks at the kernel's queue.
        }
        let is_active = partner.takes_nothing() || bytes_wait(partner);
        self.last_active = self.last_active.max(if is_active { now } else { partner.last_active });
    }
}
