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
    /// Who was asked to greet.
    asked: Option<u64>,
    seen: Option<Seen>,
    /// Where no greeting came: which server says that it knows of the connection.
    reached: Option<u64>,
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
            3 => match &self.seen {
                // A balancer may have led it to another server than the one that was asked to greet.
                Some(seen) if seen.came_back() && seen.greeted_after.is_none() => {
                    vec![Plan { ask: Some(Question::Account(seen.stream)), ..Plan::default() }]
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        let server = seen.answer.as_ref().and_then(|answer| answer.hex("server"));
        match self.rounds {
            1 if server.is_some() => self.asked = server,
            1 | 2 => self.seen = Some(seen),
            _ => self.reached = server.filter(|_| seen.answer.is_some_and(|answer| answer.received().is_some())),
        }
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            None => (Verdict::Carried, String::new()),
            Some(seen) => match seen.greeted_after {
                _ if !seen.came_back() => (Verdict::of(seen), ending(seen)),
                Some(after) => (Verdict::Carried, format!("the server's greeting came after {}", time(after))),
                None if self.reached.is_none() || self.reached != self.asked => {
                    (Verdict::NotKnown, "no greeting; the server that was asked for one may be another".to_owned())
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::question::answer;
    use crate::probe::conversation::Ending;

    #[test]
    fn a_greeting_is_missed_only_at_the_server_that_was_asked_for_it() {
        let row = |told: &str| {
            let mut first_byte = FirstByte::default();
            for answers in [Some("server=a"), None, Some(told)] {
                assert_eq!(first_byte.next_round().len(), 1);
                first_byte.hear(0, Seen { answer: answers.map(answer), ..Seen::example(Ending::Done) });
            }
            assert!(first_byte.next_round().is_empty());
            first_byte.row("it").verdict
        };
        assert_eq!(row("server=a state=fin received=22 right=22"), Verdict::Changed);
        assert_eq!(row("server=b state=fin received=22 right=22"), Verdict::NotKnown);
        assert_eq!(row("server=a state=unknown"), Verdict::NotKnown);
    }
}
