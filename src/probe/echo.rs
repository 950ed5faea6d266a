//! The echo that everything else is built on: one short message, there and back.
//!
//! Owns the conversation and its row. The probe goes on only if the bytes come back; how the connection ends is for
//! half-close to say.

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
            _ => (Verdict::Carried, format!("{BYTES} B, there and back")),
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
        echo.hear(0, Seen { returned: 7, ..Seen::example(Ending::Silent) });
        assert_eq!(
            (echo.row("it").verdict, echo.row("it").seen.as_str()),
            (Verdict::Silent, "7 of 22 B back; silent, given up after 5.0 s")
        );
    }
}
