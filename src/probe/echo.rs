//! The echo that everything else is built on: one short message, there and back.
//!
//! Owns the conversation and its row. The probe goes on only if the bytes come back; how the connection ends is for
//! half-close to say.

use crate::partner::question::Question;
use crate::probe::behaviour::{Behaviour, Row, Verdict, ending};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const BYTES: u64 = 22;

/// How often it is asked whether a partner is there: of several servers behind the address, one may be none.
const QUESTIONS: usize = 3;

/// Whether there is an echo server at the other end.
#[derive(Debug, Default)]
pub struct Echo {
    rounds: usize,
    seen: Option<Seen>,
    /// Whether a partner is there.
    partner: bool,
}

impl Behaviour for Echo {
    fn next_round(&mut self) -> Vec<Plan> {
        self.rounds += 1;
        let steps = vec![Step::Send(BYTES), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd];
        match self.rounds {
            1 => vec![Plan { steps, ..Plan::default() }],
            2 if self.seen.as_ref().is_some_and(Seen::came_back) => {
                vec![Plan { ask: Some(Question::Who), ..Plan::default() }; QUESTIONS]
            }
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        match self.seen {
            None => self.seen = Some(seen),
            Some(_) => self.partner |= seen.answer.is_some(),
        }
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match &self.seen {
            Some(seen) if !seen.came_back() => {
                let how = ending(seen);
                let bytes = match seen.ending {
                    Ending::NotConnected(_) => String::new(),
                    _ => format!("{} of {BYTES} B back; ", seen.returned),
                };
                (Verdict::of_admission(seen), format!("{bytes}{how}"))
            }
            _ => {
                let partner = if self.partner { ", at multiconn-server --probes" } else { "" };
                (Verdict::Carried, format!("{BYTES} B, there and back{partner}"))
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Without an echo nothing else can be found out, and nothing else was tried. Is the server running, is \
                     the port right, and is it an echo server (multiconn-server, socat EXEC:cat, xinetd's echo)?",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_carried_although_its_end_is_not() {
        let mut echo = Echo::default();
        echo.hear(0, Seen::example(Ending::Silent));
        assert_eq!(echo.row("it").verdict, Verdict::Carried);
        let mut echo = Echo::default();
        echo.hear(0, Seen { returned: 7, ..Seen::example(Ending::Silent) });
        assert_eq!(
            (echo.row("it").verdict, echo.row("it").seen.as_str()),
            (Verdict::Silent, "7 of 22 B back; silent, given up after 5.0 s")
        );
    }
}
