//! Backends: how many different servers answer behind one address.
//!
//! Owns the conversations and their row.

use std::collections::BTreeMap;

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen};

const CONNECTIONS: usize = 20;

/// How many servers share the connections, and how many connections each got.
#[derive(Debug, Default)]
pub struct Backends {
    begun: bool,
    servers: BTreeMap<u64, usize>,
    first_failed: Option<Seen>,
}

impl Behaviour for Backends {
    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        vec![Plan { ask: Some(Question::Who), ..Plan::default() }; CONNECTIONS]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        match seen.answer.as_ref().and_then(|answer| answer.hex("server")) {
            Some(server) => *self.servers.entry(server).or_default() += 1,
            None => _ = self.first_failed.get_or_insert(seen),
        }
    }

    fn row(&self, name: &'static str) -> Row {
        let answered: usize = self.servers.values().sum();
        let shares: Vec<String> = self.servers.values().map(usize::to_string).collect();
        let (verdict, seen) = match (&self.first_failed, self.servers.len()) {
            (Some(first), _) if first.ending == Ending::Done => (
                Verdict::Changed,
                format!("{} of {CONNECTIONS} reached a server that is no partner", CONNECTIONS - answered),
            ),
            (Some(first), _) => {
                let failed = format!("{} of {CONNECTIONS} were not answered", CONNECTIONS - answered);
                (Verdict::of_admission(first), format!("{failed}; the first: {}", ending(first)))
            }
            (None, 0..=1) => (Verdict::Carried, format!("one server answered {answered} connections")),
            (None, servers) => {
                (Verdict::Changed, format!("{servers} servers answered {} connections", shares.join(" and ")))
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Connections to one address reach several servers: what one knows (a session, a cache, a lock) the \
                     next may not know. Where a client has to stay with its server, balance by its address (haproxy \
                     balance source, nginx hash $remote_addr).",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::question::answer;

    #[test]
    fn servers_are_counted_by_their_names() {
        let mut backends = Backends::default();
        for (index, server) in ["a", "b", "a"].into_iter().enumerate() {
            let answer = Some(answer(&format!("server={server}")));
            backends.hear(index, Seen { answer, ..Seen::example(Ending::Done) });
        }
        assert_eq!(
            (backends.row("it").verdict, backends.row("it").seen.as_str()),
            (Verdict::Changed, "2 servers answered 2 and 1 connections")
        );
    }
}
