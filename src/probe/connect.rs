//! Connects: one after the other, and many at once.
//!
//! Owns the rounds, the times and the row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, time};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const IN_A_ROW: usize = 20;
const AT_ONCE: usize = 50;

/// A connect that took as long as this was sent again: the first retransmission of a SYN comes after a second (RFC 6298,
/// 2.1), and before Linux's earlier ones of late kernels on a longer path than any on Earth.
const RETRANSMITTED: Duration = Duration::from_millis(900);

/// How long connects take, and whether all of them succeed.
#[derive(Debug, Default)]
pub struct Connect {
    rounds: usize,
    in_a_row: Vec<Duration>,
    at_once: Vec<Duration>,
    failed: Vec<String>,
    ended_badly: Option<Verdict>,
}

impl Behaviour for Connect {
    fn name(&self) -> &'static str {
        "connect"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        self.rounds += 1;
        let plan = Plan { steps: vec![Step::ShutDown, Step::AwaitEnd], ..Plan::default() };
        match self.rounds {
            1..=IN_A_ROW => vec![plan],
            _ if self.rounds == IN_A_ROW + 1 => vec![plan; AT_ONCE],
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        match (&seen.ending, seen.connected_after) {
            (Ending::NotConnected(how), _) => self.failed.push(how.clone()),
            (_, Some(after)) if self.rounds <= IN_A_ROW => self.in_a_row.push(after),
            (_, Some(after)) => self.at_once.push(after),
            (_, None) => {}
        }
        if seen.connected_after.is_some() && seen.ending != Ending::Done {
            self.ended_badly.get_or_insert(Verdict::of(&seen));
        }
    }

    fn row(&self) -> Row {
        let again = self.in_a_row.iter().chain(&self.at_once).filter(|&&after| after >= RETRANSMITTED).count();
        let mut seen =
            format!("{} in a row: {}; {} at once: {}", IN_A_ROW, range(&self.in_a_row), AT_ONCE, range(&self.at_once));
        if again > 0 {
            seen += &format!("; {again} took a retransmitted SYN");
        }
        if let Some(first) = self.failed.first() {
            seen += &format!("; {} failed: {first}", self.failed.len());
        }
        let verdict =
            if self.failed.is_empty() { self.ended_badly.unwrap_or(Verdict::Carried) } else { Verdict::Refused };
        Row {
            name: self.name(),
            verdict,
            seen,
            advice: "Connects that take a second or three lost a SYN: a full accept queue (a larger backlog and \
                     net.core.somaxconn), or a limit on new connections in a firewall",
        }
    }
}

fn range(times: &[Duration]) -> String {
    match (times.iter().min(), times.iter().max()) {
        (Some(&least), Some(&most)) => format!("{} to {}", time(least), time(most)),
        _ => "none".to_owned(),
    }
}
