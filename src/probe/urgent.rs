//! An urgent byte in the stream: in place, or lost.
//!
//! Owns the conversation and its row.

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// What is sent before the urgent byte, and behind it.
const AROUND: u64 = 10;

/// Whether an urgent byte stays in its place in the stream (RFC 9293, 3.8.5; RFC 6093).
#[derive(Debug, Default)]
pub struct Urgent {
    seen: Option<Seen>,
}

impl Behaviour for Urgent {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.seen.is_some() {
            return Vec::new();
        }
        let steps = vec![
            Step::Send(AROUND),
            Step::AwaitEcho,
            Step::SendUrgent,
            Step::Send(AROUND),
            Step::AwaitEcho,
            Step::ShutDown,
            Step::AwaitEnd,
        ];
        vec![Plan { ask: Some(Question::Who), steps, ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            None => (Verdict::Carried, String::new()),
            Some(seen) if seen.came_back() => (Verdict::Carried, "in its place in the stream".to_owned()),
            // The byte behind it may be the same as it, and then the next one is the first that is wrong.
            Some(seen) if seen.wrong_at >= Some(AROUND) && seen.missing == Some(1) => {
                (Verdict::Cut, "the urgent byte is lost; those around it came back".to_owned())
            }
            Some(seen) if seen.wrong_at.is_some() => (Verdict::Changed, ending(seen)),
            Some(seen) if seen.ending == Ending::Silent && seen.returned >= AROUND => {
                (Verdict::Silent, format!("{} of {} B back; {}", seen.returned, seen.planned, ending(seen)))
            }
            Some(seen) => (Verdict::of(seen), ending(seen)),
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Programs that use urgent data (telnet, rlogin, FTP's ABOR, Oracle's breaks) lose it: each proxy that \
                     reads it out of the stream drops it. There is no setting for it; RFC 6093 advises against urgent \
                     data in new programs.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_byte_is_recognised_although_the_next_one_is_the_same() {
        for (at, missing, verdict) in [
            (AROUND, Some(1), Verdict::Cut),
            (AROUND + 1, Some(1), Verdict::Cut),
            (AROUND, None, Verdict::Changed),
            (AROUND - 1, Some(1), Verdict::Changed),
        ] {
            let mut urgent = Urgent::default();
            urgent.hear(0, Seen { wrong_at: Some(at), missing, ..Seen::example(Ending::EarlyEnd) });
            assert_eq!(urgent.row("it").verdict, verdict, "{at} {missing:?}");
        }
    }
}
