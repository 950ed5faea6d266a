//! Backpressure: a server that reads nothing for a while must stop its client, and get everything in the end.
//!
//! Owns the conversation and its row.

use std::time::Duration;

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, size};
use crate::probe::conversation::{Plan, Seen, Step};
use crate::probe::inquiry::{self, Inquiry};

/// More than the kernels' buffers on a path with one proxy (`tcp_rmem` and `tcp_wmem`: 6 and 4 MiB on each leg).
const BYTES: u64 = 32_000_000;
/// Not a round number of seconds, as the timeouts of boxes are.
const DEAF: Duration = Duration::from_millis(1_500);

/// After how many bytes the path stops taking ours while the server reads nothing, and whether it goes on.
#[derive(Debug, Default)]
pub struct Backpressure {
    inquiry: Inquiry,
}

impl Behaviour for Backpressure {
    fn next_round(&mut self) -> Vec<Plan> {
        let steps = vec![Step::Send(BYTES), Step::ShutDown, Step::AwaitEnd];
        self.inquiry.next_round(Plan { ask: Some(Question::Hold(DEAF)), steps, ..Plan::default() })
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.inquiry.hear(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match self.inquiry.seen() {
            None => (Verdict::Carried, String::new()),
            Some(seen) if seen.answer.is_none() => (Verdict::of(seen), ending(seen)),
            Some(seen) => {
                let unread = match self.inquiry.unread() {
                    Some(unread) => format!(" ({} of it unread in its socket)", size(unread)),
                    None => String::new(),
                };
                let taken = match seen.sent_when_stuck {
                    Some(taken) => format!("{} were taken while the server read nothing{unread}", size(taken)),
                    None if seen.sent == BYTES => format!("all were taken while the server read nothing{unread}"),
                    None => format!("{} were sent", size(seen.sent)),
                };
                match self.inquiry.received() {
                    None => (Verdict::NotKnown, format!("{taken}; {}", inquiry::ELSEWHERE)),
                    Some(BYTES) => (Verdict::Carried, format!("{} arrived; {taken}", size(BYTES))),
                    Some(received) => {
                        let verdict = Verdict::of(seen);
                        let verdict = if verdict == Verdict::Carried { Verdict::Cut } else { verdict };
                        (verdict, format!("{} of {} arrived; {taken}; {}", size(received), size(BYTES), ending(seen)))
                    }
                }
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: "An upload to a server that is busy for a while is cut. Look for a timeout on writing, or a limit of a \
                     buffer, that ends a connection whose server pauses (nginx proxy_timeout, haproxy timeout server).",
        }
    }
}
