//! Our reset: whether it reaches the server as one.
//!
//! Owns the conversation and its row.

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Plan, Seen, Step};
use crate::probe::inquiry::{self, Inquiry};

const BYTES: u64 = 1_000;

/// Whether the server sees our reset (RFC 9293, 3.5.2), and the bytes that came before it.
#[derive(Debug, Default)]
pub struct ResetClient {
    inquiry: Inquiry,
}

impl Behaviour for ResetClient {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.inquiry.seen().is_some_and(|seen| !seen.is_whole()) {
            return Vec::new(); // No reset was sent.
        }
        // The bytes are read at the other end when the reset comes: a reset may overtake those that are not.
        let steps = vec![Step::Send(BYTES), Step::AwaitEcho, Step::Reset];
        self.inquiry.next_round(Plan { ask: Some(Question::Who), steps, ..Plan::default() })
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.inquiry.hear(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let row = |verdict, seen| Row {
            name,
            verdict,
            seen,
            advice: "A server does not learn that its client is gone, and works on or waits for it; or it takes half of a \
                     request for a whole one. A proxy that turns resets into FINs has no setting for it: do not take an \
                     end of the connection for the end of a message.",
        };
        match self.inquiry.seen() {
            None => row(Verdict::Carried, String::new()),
            Some(seen) if !seen.is_whole() => row(Verdict::of(seen), ending(seen)),
            Some(_) => {
                let bytes = match self.inquiry.received() {
                    Some(received) if received != BYTES => format!(", behind {received} of {BYTES} B"),
                    _ => String::new(),
                };
                match self.inquiry.state() {
                    Some("reset") => row(Verdict::Carried, format!("the server saw a reset{bytes}")),
                    Some("fin") => row(Verdict::Changed, format!("the server saw an orderly end{bytes}")),
                    Some("open") => row(
                        Verdict::Silent,
                        format!("the server saw nothing of it within {}{bytes}", time(inquiry::ALL)),
                    ),
                    Some("other") => row(Verdict::Changed, format!("the server saw another error{bytes}")),
                    _ => row(Verdict::NotKnown, inquiry::ELSEWHERE.to_owned()),
                }
            }
        }
    }
}
