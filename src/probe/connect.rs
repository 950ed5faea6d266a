//! Connects: one after the other, and many at once.
//!
//! Owns the rounds, the times and the row.

use std::fmt::Write;
use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const IN_A_ROW: usize = 20;
const AT_ONCE: usize = 50;

/// A connect that took as long as this was sent again: the first retransmission of a SYN comes after a second (RFC 6298,
/// 2.1), and no answer on Earth takes that long.
const RETRANSMITTED: Duration = Duration::from_millis(900);

/// How long connects take, and whether all of them succeed.
#[derive(Debug, Default)]
pub struct Connect {
    rounds: usize,
    in_a_row: Vec<Duration>,
    at_once: Vec<Duration>,
    /// Those that did not come about, or were ended without an answer: how many, and how the first of them ended.
    failed: usize,
    first_failed: Option<Seen>,
}

impl Behaviour for Connect {
    fn next_round(&mut self) -> Vec<Plan> {
        // One byte, there and back: a limit may accept a connection and end it at once.
        let steps = vec![Step::Send(1), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd];
        let plan = Plan { steps, ..Plan::default() };
        // One that fails may take as long as the probe is patient, so no more are tried one by one.
        self.rounds = if self.failed > 0 { self.rounds.max(IN_A_ROW) + 1 } else { self.rounds + 1 };
        match self.rounds {
            ..=IN_A_ROW => vec![plan],
            _ if self.rounds == IN_A_ROW + 1 => vec![plan; AT_ONCE],
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        if let Some(after) = seen.connected_after {
            if self.rounds <= IN_A_ROW { &mut self.in_a_row } else { &mut self.at_once }.push(after);
        }
        if !seen.came_back() {
            self.failed += 1;
            self.first_failed.get_or_insert(seen);
        } else if seen.ending == Ending::Silent && self.rounds < IN_A_ROW {
            // Nobody answers our FIN, which is for half-close to say. Here each of the row would wait for it.
            self.rounds = IN_A_ROW;
        }
    }

    fn row(&self, name: &'static str) -> Row {
        let again = self.in_a_row.iter().chain(&self.at_once).filter(|&&after| after >= RETRANSMITTED).count();
        let mut seen = format!(
            "{} in a row: {}; {} at once: {}",
            self.in_a_row.len(),
            range(&self.in_a_row),
            self.at_once.len(),
            range(&self.at_once)
        );
        if again > 0 {
            let _ = write!(seen, "; {again} took a retransmitted SYN");
        }
        let verdict = match &self.first_failed {
            None => Verdict::Carried,
            Some(first) => {
                let _ = write!(seen, "; {} failed, the first: {}", self.failed, ending(first));
                Verdict::of_admission(first)
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Some connects fail: a limit on new connections in a firewall or server (xinetd cps, sshd \
                     MaxStartups, a firewall's limit). Those that take a second or three lost a SYN: a full accept \
                     queue (a larger backlog, and net.core.somaxconn).",
        }
    }
}

fn range(times: &[Duration]) -> String {
    match (times.iter().min(), times.iter().max()) {
        (Some(&least), Some(&most)) => format!("{} to {}", time(least), time(most)),
        _ => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(connect: &mut Connect, seen: impl Fn(usize) -> Seen) -> usize {
        let mut heard = 0;
        for round in 0.. {
            let plans = connect.next_round();
            if plans.is_empty() {
                return round;
            }
            for index in 0..plans.len() {
                connect.hear(index, seen(heard));
                heard += 1;
            }
        }
        unreachable!()
    }

    #[test]
    fn twenty_in_a_row_and_fifty_at_once_are_counted() {
        let mut connect = Connect::default();
        assert_eq!(play(&mut connect, |_| Seen::example(Ending::Done)), IN_A_ROW + 1);
        assert_eq!((connect.in_a_row.len(), connect.at_once.len()), (IN_A_ROW, AT_ONCE));
        assert_eq!(connect.row("it").verdict, Verdict::Carried);
    }

    #[test]
    fn one_that_fails_in_the_row_ends_the_row() {
        let refused = |_| Seen {
            connected_after: None,
            returned: 0,
            ..Seen::example(Ending::NotConnected("connect timed out".to_owned()))
        };
        let mut connect = Connect::default();
        assert_eq!(play(&mut connect, refused), 2);
        assert_eq!(connect.row("it").verdict, Verdict::Refused);
        assert!(connect.row("it").seen.ends_with("51 failed, the first: connect timed out"), "{:?}", connect.row("it"));
    }

    #[test]
    fn a_connection_that_is_accepted_and_ended_is_refused() {
        let mut connect = Connect::default();
        play(&mut connect, |heard| match heard {
            30.. => {
                Seen { returned: 0, first_echo: None, step: Some(Step::AwaitEcho), ..Seen::example(Ending::EarlyEnd) }
            }
            _ => Seen::example(Ending::Done),
        });
        assert_eq!(connect.row("it").verdict, Verdict::Refused, "{:?}", connect.row("it"));
    }

    #[test]
    fn a_path_that_answers_no_end_carries_connects_all_the_same() {
        let mut connect = Connect::default();
        assert_eq!(play(&mut connect, |_| Seen::example(Ending::Silent)), 2);
        assert_eq!(connect.row("it").verdict, Verdict::Carried);
    }
}
