//! Why nothing moves on a connection, as far as the kernel can tell.
//!
//! Owns the judgement of what the kernel knows, and its words. Takes no look itself.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tcp_state::TcpState;

/// From this many unanswered probes of a closed window on, the peer's host is taken to be silent. One may be on its way, or
/// be left unanswered by a host that limits how many it answers.
const PROBES_OF_SILENCE: u8 = 2;

/// On whom a connection waits on which nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What was sent is not acknowledged.
    Unacknowledged {
        /// How long ago anything came from the peer. It may be shorter than the silence: a peer to which nothing of ours
        /// comes through may still send its own bytes again.
        heard: Duration,
        /// How often the kernel has sent the oldest of it, or a probe of a closed window, in vain.
        again: u32,
    },
    /// The SYN is not answered.
    UnansweredSyn {
        /// How often it was sent again.
        again: u32,
    },
    /// What was sent is acknowledged, and no answer comes.
    NoAnswer,
    /// The peer acknowledges, and has no room for more.
    WindowClosed,
}

impl Cause {
    /// The cause of a connect that was not answered.
    pub(crate) fn of_connect(state: &TcpState) -> Cause {
        Cause::UnansweredSyn { again: state.segments_retransmitted }
    }

    /// The cause of a silence on a connection on which `returned` bytes came back. The peer owes an answer to what we sent,
    /// or to our FIN.
    pub(crate) fn of_silence(state: &TcpState, returned: u64) -> Cause {
        let unacknowledged = |again| Cause::Unacknowledged { heard: state.since_acknowledgement, again };
        let in_flight = state.segments_unacknowledged > 0;
        // With nothing in flight, only the window keeps back what is not sent. It may be narrow and not shut: the kernel
        // sends no part of a segment before it has to.
        let kept_back = !in_flight && state.bytes_unsent.is_some_and(|bytes| bytes > 0);
        if state.peer_window == Some(0) || kept_back {
            return match state.probes_unanswered {
                0..PROBES_OF_SILENCE => Cause::WindowClosed,
                probes => unacknowledged(probes.into()),
            };
        }
        // The SYN counts as an acknowledged byte. Our FIN is sent when all is back.
        let answer_is_due = || state.bytes_acknowledged.is_some_and(|bytes| bytes.saturating_sub(1) > returned);
        match state.timeouts {
            // What is in flight was sent just now if more was acknowledged than came back, as in an open loop.
            0 if !in_flight || answer_is_due() => Cause::NoAnswer,
            timeouts => unacknowledged(timeouts.into()),
        }
    }

    /// Its name for programs.
    fn name(self) -> &'static str {
        match self {
            Cause::Unacknowledged { .. } | Cause::UnansweredSyn { .. } => "unacknowledged",
            Cause::NoAnswer => "no_answer",
            Cause::WindowClosed => "window_closed",
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Unacknowledged { heard, again } => {
                f.write_str("what was sent is not acknowledged")?;
                if *again > 0 {
                    write!(f, ", though sent again {}", times(*again))?;
                }
                let seconds = heard.as_secs_f64();
                write!(f, " (the peer was last heard {seconds:.1} s ago): the path, or the peer's host")
            }
            Cause::UnansweredSyn { again } => write!(f, "the SYN was sent {}", times(again + 1)),
            Cause::NoAnswer => f.write_str(
                "what was sent is acknowledged, and no answer comes: the far program, or a box that acknowledges for it",
            ),
            Cause::WindowClosed => f.write_str("the peer's window is closed: the far program, or a box before it, does not read"),
        }
    }
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes were sent, and are acknowledged.
    fn acknowledged() -> TcpState {
        TcpState {
            bytes_acknowledged: Some(101),
            bytes_unsent: Some(0),
            peer_window: Some(65536),
            since_acknowledgement: Duration::from_millis(1234),
            ..TcpState::default()
        }
    }

    #[test]
    fn what_is_sent_again_in_vain_is_unacknowledged() {
        let state = TcpState { segments_unacknowledged: 3, timeouts: 4, ..acknowledged() };
        for returned in [0, 100] {
            let cause = Cause::of_silence(&state, returned);
            let words = "what was sent is not acknowledged, though sent again 4 times (the peer was last heard 1.2 s ago): \
                         the path, or the peer's host";
            assert_eq!((cause.name(), &*cause.to_string()), ("unacknowledged", words));
        }
    }

    #[test]
    fn what_is_acknowledged_and_not_answered_is_the_far_programs_fault() {
        let words =
            "what was sent is acknowledged, and no answer comes: the far program, or a box that acknowledges for it";
        let cause = Cause::of_silence(&acknowledged(), 0);
        assert_eq!((cause.name(), &*cause.to_string()), ("no_answer", words));
        // All is back, and our FIN is acknowledged.
        let finished = TcpState { bytes_acknowledged: Some(102), ..acknowledged() };
        assert_eq!(Cause::of_silence(&finished, 100), Cause::NoAnswer);
    }

    #[test]
    fn a_message_that_was_sent_just_now_does_not_hide_that_older_ones_have_no_answer() {
        let state = TcpState { segments_unacknowledged: 1, ..acknowledged() };
        assert_eq!(Cause::of_silence(&state, 50), Cause::NoAnswer);
        // Where all that was acknowledged is back, it is the one that is missed.
        let cause = Cause::of_silence(&state, 100);
        assert_eq!(cause, Cause::Unacknowledged { heard: Duration::from_millis(1234), again: 0 });
        assert!(cause.to_string().starts_with("what was sent is not acknowledged (the peer was last heard 1.2 s ago)"));
    }

    #[test]
    fn a_closed_window_is_a_peer_that_does_not_read() {
        let closed = TcpState { peer_window: Some(0), bytes_unsent: Some(5000), ..acknowledged() };
        let words = "the peer's window is closed: the far program, or a box before it, does not read";
        let cause = Cause::of_silence(&closed, 0);
        assert_eq!((cause.name(), &*cause.to_string()), ("window_closed", words));
        for state in [
            // Narrower than a segment.
            TcpState { peer_window: Some(900), ..closed },
            // The kernel is older than the field.
            TcpState { peer_window: None, ..closed },
            // What the last probe carried did not fit.
            TcpState { segments_unacknowledged: 1, timeouts: 1, ..closed },
            // A probe is on its way.
            TcpState { probes_unanswered: 1, ..closed },
        ] {
            assert_eq!(Cause::of_silence(&state, 0), Cause::WindowClosed, "{state:?}");
        }
    }

    #[test]
    fn probes_of_a_closed_window_that_nobody_answers_are_unacknowledged() {
        let state = TcpState { peer_window: Some(0), bytes_unsent: Some(5000), probes_unanswered: 3, ..acknowledged() };
        let cause = Cause::of_silence(&state, 0);
        assert_eq!(cause, Cause::Unacknowledged { heard: Duration::from_millis(1234), again: 3 });
    }

    #[test]
    fn a_connect_that_is_not_answered_says_how_often_it_was_sent() {
        for (again, words) in [(0, "the SYN was sent once"), (2, "the SYN was sent 3 times")] {
            let cause = Cause::of_connect(&TcpState { segments_retransmitted: again, ..TcpState::default() });
            assert_eq!((cause.name(), &*cause.to_string()), ("unacknowledged", words));
        }
    }
}
