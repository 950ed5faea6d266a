//! Half-close: our FIN right behind our bytes, and everything must come back all the same.
//!
//! Owns the four conversations and their row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, advice, ending, size};
use crate::probe::conversation::{Plan, Seen, Step};

/// What is sent, how long the reader waits before it reads, and how the case is called.
const CASES: [(u64, Duration, &str); 4] = [
    (22, Duration::ZERO, ""),
    (100_000, Duration::ZERO, ""),
    (4_000_000, Duration::ZERO, ""),
    // More than one send buffer holds (net.ipv4.tcp_wmem: 4 MiB), so that bytes wait on the way when the FIN is there.
    (6_000_000, Duration::from_millis(1_500), " to a reader that pauses"),
];

/// Whether bytes behind which a FIN was sent come back (RFC 9293, 3.6: each direction ends by itself).
#[derive(Debug, Default)]
pub struct HalfClose {
    begun: bool,
    seen: [Option<Seen>; CASES.len()],
}

impl Behaviour for HalfClose {
    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let plan = |(bytes, deaf, _)| Plan {
            deaf,
            steps: vec![Step::Send(bytes), Step::ShutDown, Step::AwaitEnd],
            ..Plan::default()
        };
        CASES.into_iter().map(plan).collect()
    }

    fn hear(&mut self, index: usize, seen: Seen) {
        self.seen[index] = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let known = CASES.iter().zip(&self.seen).filter_map(|(case, seen)| Some((case, seen.as_ref()?)));
        let returned: Vec<String> =
            known.clone().map(|(&(sent, _, what), seen)| back(seen.returned, sent) + what).collect();
        let broken = known.clone().map(|(_, seen)| seen).find(|seen| !seen.is_whole());
        let how = broken.map_or(String::new(), |seen| format!("; {}", ending(seen)));
        Row {
            name,
            verdict: broken.map_or(Verdict::Carried, Verdict::of),
            seen: format!("back: {}{how}", returned.join(", ")),
            advice: advice(
                broken,
                "A program that shuts down behind its request (netcat, many scripts) loses the answer or its end. nginx \
                 stream: proxy_half_close on; socat: a longer -t; rinetd has no setting for it.",
            ),
        }
    }
}

fn back(returned: u64, sent: u64) -> String {
    if returned == sent { format!("all of {}", size(sent)) } else { format!("{} of {}", size(returned), size(sent)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::conversation::Ending;

    #[test]
    fn each_case_is_named_and_those_that_are_not_known_are_left_out() {
        let mut half_close = HalfClose::default();
        assert_eq!(half_close.row("it").verdict, Verdict::Carried);
        half_close.hear(3, Seen { returned: 6_000_000, planned: 6_000_000, ..Seen::example(Ending::Done) });
        assert_eq!(half_close.row("it").seen, "back: all of 6 MB to a reader that pauses");
        half_close.hear(0, Seen { returned: 0, planned: 22, ..Seen::example(Ending::Done) });
        assert_eq!(
            (half_close.row("it").verdict, half_close.row("it").seen.as_str()),
            (Verdict::Cut, "back: 0 B of 22 B, all of 6 MB to a reader that pauses; ended in order after 5.0 s")
        );
    }
}
