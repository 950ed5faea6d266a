//! Half-close by the server: its FIN right behind its bytes, and what we send afterwards must arrive all the same.
//!
//! Owns the conversation and its row.

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, size};
use crate::probe::conversation::{Ending, Plan, Seen, Step};
use crate::probe::inquiry::{self, Inquiry};

/// What the server sends in front of its FIN.
const FROM_SERVER: u64 = 100_000;
/// What we send when its FIN has come.
const BEHIND: u64 = 1_000;

/// Whether our direction goes on behind the server's FIN (RFC 9293, 3.6).
#[derive(Debug, Default)]
pub struct HalfCloseServer {
    inquiry: Inquiry,
}

impl Behaviour for HalfCloseServer {
    fn next_round(&mut self) -> Vec<Plan> {
        let steps = vec![Step::AwaitEnd, Step::Send(BEHIND), Step::ShutDown];
        self.inquiry.next_round(Plan { ask: Some(Question::Finish(FROM_SERVER)), steps, ..Plan::default() })
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.inquiry.hear(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match self.inquiry.seen() {
            None => (Verdict::Carried, String::new()),
            Some(seen) => {
                let from = format!("{} of {} from the server", size(seen.returned), size(FROM_SERVER));
                match self.inquiry.received() {
                    _ if !seen.came_back() => (Verdict::of(seen), format!("{from}; {}", ending(seen))),
                    _ if seen.step == Some(Step::AwaitEnd) => (Verdict::of(seen), format!("{from}; {}", ending(seen))),
                    None => (Verdict::NotKnown, inquiry::ELSEWHERE.to_owned()),
                    Some(BEHIND) if seen.ending == Ending::Done => {
                        (Verdict::Carried, format!("{from}, and {BEHIND} B to it behind its FIN"))
                    }
                    Some(received) => (
                        if received == BEHIND { Verdict::Changed } else { Verdict::Cut },
                        format!("{from}; behind its FIN {received} of {BEHIND} B reached it; {}", ending(seen)),
                    ),
                }
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: "A server that shuts down behind its answer loses the rest of what its client sends (an upload, a \
                     last command). nginx stream: proxy_half_close on; socat: a longer -t.",
        }
    }
}
