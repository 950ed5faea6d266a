//! A reader that reads nothing for a while behind several megabytes, and then everything.
//!
//! Owns the conversation and its row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, advice, ending, size};
use crate::probe::conversation::{Plan, Seen, Step};

const BYTES: u64 = 16_000_000;
/// Not a round number of seconds, as the timeouts of boxes are.
const DEAF: Duration = Duration::from_millis(1_500);

/// Whether what waits for a slow reader is complete in the end, and how much the path swallowed meanwhile.
#[derive(Debug, Default)]
pub struct SlowReader {
    seen: Option<Seen>,
}

impl Behaviour for SlowReader {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.seen.is_some() {
            return Vec::new();
        }
        let steps = vec![Step::Send(BYTES), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd];
        vec![Plan { deaf: DEAF, steps, ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let seen = self.seen.as_ref();
        Row {
            name,
            // How connections end is for half-close.
            verdict: seen.filter(|seen| !seen.came_back()).map_or(Verdict::Carried, Verdict::of),
            seen: seen.map_or_else(String::new, |seen| {
                let swallowed = size(seen.sent_while_deaf);
                let how = if seen.came_back() { String::new() } else { format!("; {}", ending(seen)) };
                format!(
                    "{} of {} back; {swallowed} were taken while nothing was read{how}",
                    size(seen.returned),
                    size(seen.planned)
                )
            }),
            advice: advice(
                seen,
                "A slow client loses the end of its download. Look for a timeout on writing, or a limit of a buffer, that \
                 ends a connection whose reader pauses (nginx proxy_timeout, haproxy timeout client).",
            ),
        }
    }
}
