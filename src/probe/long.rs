//! A long life: a connection that is used all the time.
//!
//! Owns the conversation and its row.

use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Plan, Seen, Step};

/// How often the connection says something: more often than a box that ends idle connections would notice, so that what
/// ends this one is not its idleness.
const EVERY: Duration = Duration::from_millis(250);
/// How many words there are at the most; a longer life has longer pauses, from 40 minutes on.
const WORDS: u32 = 10_000;

/// A byte every so often, for as long as the longest idleness: what ends such a connection is a limit on its life.
#[derive(Debug)]
pub struct Long {
    words: u32,
    every: Duration,
    seen: Option<Seen>,
}

impl Long {
    /// For `most`.
    #[must_use]
    pub fn new(most: Duration) -> Long {
        let words = u32::try_from(most.as_millis().div_ceil(EVERY.as_millis())).unwrap_or(WORDS).clamp(1, WORDS);
        Long { words, every: most / words, seen: None }
    }
}

impl Behaviour for Long {
    fn next_round(&mut self) -> Vec<Plan> {
        if self.seen.is_some() {
            return Vec::new();
        }
        let word = [Step::Send(1), Step::AwaitEcho, Step::Quiet(self.every)];
        let steps = [word.repeat(self.words as usize), vec![Step::ShutDown, Step::AwaitEnd]].concat();
        vec![Plan { steps, ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let every = format!("a byte every {}", time(self.every));
        // How connections end is for half-close; the last time of quiet is part of this one's life.
        let broken = self.seen.as_ref().filter(|seen| !seen.came_back() || seen.ended_in_quiet());
        Row {
            name,
            verdict: broken.map_or(Verdict::Carried, Verdict::of),
            seen: match broken {
                Some(seen) => format!("{every}: {}", ending(seen)),
                None => format!("{every} for {}", time(self.every * self.words)),
            },
            advice: "A connection ends although it is used: a limit on its whole life (a proxy's longest session, a load \
                     balancer that drains connections). Then idle shows the same time. Reconnect before it, or raise it.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::conversation::Ending;

    #[test]
    fn a_life_is_as_long_as_asked_and_its_pauses_are_short() {
        for (most, words) in [(1, 1), (250, 1), (300, 2), (10_000, 40), (86_400_000, WORDS)] {
            let most = Duration::from_millis(most);
            let long = Long::new(most);
            assert_eq!(long.words, words, "{most:?}");
            assert!(most < long.every * long.words + Duration::from_millis(1), "{most:?}");
        }
    }

    #[test]
    fn an_end_in_the_last_pause_is_an_end_of_its_life() {
        let mut long = Long::new(Duration::from_secs(10));
        long.hear(0, Seen { step: Some(Step::Quiet(EVERY)), ..Seen::example(Ending::EarlyEnd) });
        assert_eq!(
            (long.row("it").verdict, long.row("it").seen.as_str()),
            (Verdict::Cut, "a byte every 250 ms: ended by a FIN after 5.0 s")
        );
        long.hear(0, Seen { step: Some(Step::AwaitEnd), ..Seen::example(Ending::Silent) });
        assert_eq!(long.row("it").verdict, Verdict::Carried);
    }
}
