//! The server's reset, and its last bytes in front of it.
//!
//! Owns two conversations with a partner, one behaviour each, and their row.

use std::time::Duration;

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// What the server sends last.
const BYTES: u64 = 1_000;
/// What it leaves unread. It fits any socket's buffer.
const UNREAD: u64 = 20_000;
/// For how long it reads nothing: long enough for our bytes to arrive.
const PAUSE: Duration = Duration::from_millis(700);

/// What a reset means that became an end in order.
const LOOKS_WHOLE: &str = "A server's crash looks like the end of its answer, so a download that was cut looks whole. Know \
                           the length of what you read (HTTP Content-Length, a last chunk).";

/// What becomes of a server's last bytes and of the reset behind them.
#[derive(Debug)]
pub struct LastBytes {
    question: Question,
    steps: Vec<Step>,
    advice: &'static str,
    seen: Option<Seen>,
}

impl LastBytes {
    /// The server resets the connection behind its last bytes (RFC 9293, 3.5.2).
    #[must_use]
    pub fn in_front_of_a_reset() -> LastBytes {
        LastBytes { question: Question::Reset(BYTES), steps: vec![Step::AwaitEnd], advice: LOOKS_WHOLE, seen: None }
    }

    /// The server closes its socket, in which bytes of ours are unread: its kernel then sends a reset in place of a FIN
    /// (RFC 9293, 3.10.4; RFC 2525, 2.17).
    #[must_use]
    pub fn in_front_of_a_close_with_unread_bytes() -> LastBytes {
        LastBytes {
            question: Question::Close(BYTES, PAUSE),
            steps: vec![Step::Send(UNREAD), Step::AwaitEnd],
            advice: "A server that refuses a long request with a short answer (HTTP 413) and closes: the reset overtakes \
                     the answer, and the client sees an error without it. The server has to shut down, and read on for a \
                     while (nginx lingering_close).",
            seen: None,
        }
    }
}

impl Behaviour for LastBytes {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.seen.is_some() {
            return Vec::new();
        }
        vec![Plan { ask: Some(self.question), steps: self.steps.clone(), ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            None => (Verdict::Carried, String::new()),
            Some(seen) if seen.connected_after.is_none() || seen.wrong_at.is_some() => {
                (Verdict::of(seen), ending(seen))
            }
            // No partner was there. One whose answer is lost with its last bytes is none of these.
            Some(seen) if seen.unanswered && seen.ending == Ending::Done => (Verdict::of(seen), ending(seen)),
            Some(seen) => {
                let bytes = format!("{} of the server's last {BYTES} B", seen.returned);
                match &seen.ending {
                    Ending::Reset(_) if seen.returned == BYTES => (Verdict::Carried, format!("{bytes}, then a reset")),
                    Ending::Reset(_) => (Verdict::Cut, format!("{bytes}, then a reset")),
                    Ending::Silent => (Verdict::Silent, format!("{bytes}, and no end: {}", ending(seen))),
                    _ if seen.returned < BYTES => (Verdict::Cut, format!("{bytes}, then an orderly end")),
                    _ => (Verdict::Changed, format!("{bytes}, then an orderly end")),
                }
            }
        };
        let advice = if verdict == Verdict::Changed { LOOKS_WHOLE } else { self.advice };
        Row { name, verdict, seen, advice }
    }
}
