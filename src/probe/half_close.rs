//! Half-close: our FIN right behind our bytes, and everything must come back all the same.
//!
//! Owns the four conversations and their row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, size};
use crate::probe::conversation::{Plan, Seen, Step};

/// What is sent, and how long the reader waits before it reads.
const CASES: [(u64, Duration); 4] = [
    (22, Duration::ZERO),
    (100_000, Duration::ZERO),
    (4_000_000, Duration::ZERO),
    (4_000_000, Duration::from_millis(800)),
];

/// Whether bytes behind which a FIN was sent come back (RFC 9293, 3.6: each direction ends by itself).
#[derive(Debug, Default)]
pub struct HalfClose {
    begun: bool,
    seen: [Option<Seen>; CASES.len()],
}

impl Behaviour for HalfClose {
    fn name(&self) -> &'static str {
        "half-close"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let plan = |(bytes, deaf)| Plan {
            deaf,
            steps: vec![Step::Send(bytes), Step::ShutDown, Step::AwaitEnd],
            ..Plan::default()
        };
        CASES.into_iter().map(plan).collect()
    }

    fn hear(&mut self, index: usize, seen: Seen) {
        self.seen[index] = Some(seen);
    }

    fn row(&self) -> Row {
        let seen: Vec<&Seen> = self.seen.iter().flatten().collect();
        let returned: Vec<String> = CASES.iter().zip(&seen).map(|(case, seen)| of(seen.returned, case.0)).collect();
        let worst = seen.iter().find(|seen| !seen.is_whole());
        let how = worst.map_or(String::new(), |seen| format!("; {}", ending(seen)));
        Row {
            name: self.name(),
            verdict: worst.map_or(Verdict::Carried, |seen| Verdict::of(seen)),
            seen: format!("back: {} (reading at once), {} (after 0.8 s){how}", returned[..3].join(", "), returned[3]),
            advice: "A program that shuts down behind its request loses the answer (HTTP/1.0 clients, netcat, rsync). \
                     nginx stream: proxy_half_close on; socat: a longer -t",
        }
    }
}

fn of(returned: u64, sent: u64) -> String {
    if returned == sent { format!("all of {}", size(sent)) } else { format!("{} of {}", size(returned), size(sent)) }
}
