//! The echo that everything else is built on: one short message, there and back.
//!
//! Owns the conversation and its row. The probe goes on only if it is carried.

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const BYTES: u64 = 22;

/// Whether there is an echo server at the other end.
#[derive(Debug, Default)]
pub struct Echo {
    begun: bool,
    seen: Option<Seen>,
}

impl Behaviour for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let steps = vec![Step::Send(BYTES), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd];
        vec![Plan { steps, ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self) -> Row {
        let (verdict, seen) = match &self.seen {
            Some(seen) if seen.is_whole() => (Verdict::Carried, format!("{BYTES} B, there and back")),
            Some(seen) if seen.wrong_at.is_some() => {
                (Verdict::Cut, format!("bytes came that were not sent, at offset {}", seen.returned))
            }
            Some(seen) if matches!(seen.ending, Ending::NotConnected(_)) => (Verdict::Refused, ending(seen)),
            Some(seen) => (Verdict::of(seen), format!("{} of {BYTES} B back; {}", seen.returned, ending(seen))),
            None => (Verdict::Silent, "interrupted".to_owned()),
        };
        Row {
            name: self.name(),
            verdict,
            seen,
            advice: "Without an echo nothing else can be found out. Is the server running, is the port right, and is it \
                     an echo server (multiconn-server, socat EXEC:cat, xinetd's echo)?",
        }
    }
}
