//! The first byte: whether a connection reaches the server before we say anything.
//!
//! Owns the conversations and their row.

use std::time::Duration;

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Plan, Seen, Step};

const BYTES: u64 = 22;
/// For how long we say nothing. A partner greets after 0.3 s.
const QUIET: Duration = Duration::from_millis(1_500);

/// Whether the path dials on when we connect, or waits for our first bytes; and whether the server's greeting comes through.
#[derive(Debug, Default)]
pub struct FirstByte {
    rounds: usize,
    seen: Option<Seen>,
}

impl Behaviour for FirstByte {
    fn next_round(&mut self) -> Vec<Plan> {
        self.rounds += 1;
        match self.rounds {
            1 => vec![Plan { ask: Some(Question::Greet(1)), ..Plan::default() }],
            2 if self.seen.is_none() => {
                let quiet = Step::AwaitGreeting(QUIET);
                let steps = vec![quiet, Step::Send(BYTES), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd];
                vec![Plan { steps, ..Plan::default() }]
            }
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        // Where nobody was asked to greet, a greeting that does not come says nothing.
        self.seen = (self.rounds == 2 || seen.unanswered).then_some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            None => (Verdict::Carried, String::new()),
            Some(seen) => match seen.greeted_after {
                _ if !seen.came_back() => (Verdict::of(seen), ending(seen)),
                Some(after) => (Verdict::Carried, format!("the server's greeting came after {}", time(after))),
                None => {
                    (Verdict::Changed, format!("no greeting within {}; our bytes came back afterwards", time(QUIET)))
                }
            },
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Protocols in which the server speaks first (SSH, SMTP, FTP, MySQL) hang: a box waits for our first \
                     bytes before it connects to the server (haproxy tcp-request inspect-delay, nginx ssl_preread, a \
                     SYN proxy), or the listener does (TCP_DEFER_ACCEPT).",
        }
    }
}
