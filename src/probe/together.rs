//! Many connections at once, and some that come and go beside them.
//!
//! Owns the conversations and their row.

use std::fmt::Write;
use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

const AT_ONCE: usize = 200;
const PASSING: u32 = 50;
/// How long those that are held at once stand, and over what time the others come and go.
const STANDING: Duration = Duration::from_secs(2);
/// How often each of them says something meanwhile: more often than a box that ends idle connections would notice.
const EVERY: Duration = Duration::from_millis(250);
/// How many words make up [`STANDING`].
const WORDS: usize = 8;
/// One whose first byte took as long as this waited until another one ended. It is shorter than [`STANDING`] by far more
/// than a busy machine needs for all connects, and longer than a segment that is sent again takes (RFC 6298, 2.4).
const WAITED: Duration = Duration::from_millis(1_500);

/// Whether two hundred connections stand at once, and fifty come and go beside them.
#[derive(Debug, Default)]
pub struct Together {
    begun: bool,
    whole: usize,
    refused: usize,
    /// The longest waits for a first byte, of those that waited for a place.
    waits: Vec<Duration>,
    /// What became of the first that was not whole.
    broken: Option<Seen>,
}

/// How many connections this behaviour holds at the most.
pub const MOST_AT_ONCE: usize = AT_ONCE + PASSING as usize;

impl Behaviour for Together {
    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let say = [Step::Send(64), Step::AwaitEcho];
        let end = [Step::ShutDown, Step::AwaitEnd];
        let word = [&say[..], &[Step::Quiet(EVERY)]].concat();
        let standing = [&word.repeat(WORDS), &end[..]].concat();
        let passing = [&say[..], &end].concat();
        let stand = std::iter::repeat_n(Plan { steps: standing, ..Plan::default() }, AT_ONCE);
        let pass = (0..PASSING).map(|number| Plan {
            delay: STANDING * number / PASSING,
            steps: passing.clone(),
            ..Plan::default()
        });
        stand.chain(pass).collect()
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.waits.extend(seen.first_echo.filter(|&after| after >= WAITED));
        if seen.came_back() {
            self.whole += 1;
            return;
        }
        self.refused += usize::from(matches!(seen.ending, Ending::NotConnected(_)) || seen.was_turned_away());
        self.broken.get_or_insert(seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let mut seen =
            format!("{} of {MOST_AT_ONCE} whole ({AT_ONCE} at once, {PASSING} that came and went)", self.whole);
        if let Some(&longest) = self.waits.iter().max() {
            let _ = write!(seen, "; {} waited for a place, the longest {}", self.waits.len(), time(longest));
        }
        if let Some(broken) = &self.broken {
            let _ = write!(seen, "; {} refused; the first that failed: {}", self.refused, ending(broken));
        }
        let verdict = match &self.broken {
            Some(broken) => Verdict::of_admission(broken),
            None if self.waits.is_empty() => Verdict::Carried,
            None => Verdict::Changed,
        };
        Row {
            name,
            verdict,
            seen,
            advice: "Above some number connections wait or fail: a limit on connections (haproxy maxconn, nginx \
                     worker_connections, xinetd instances, a firewall's connlimit) or on descriptors (ulimit -n).",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seen: Seen) -> Row {
        let mut together = Together::default();
        assert_eq!(together.next_round().len(), MOST_AT_ONCE);
        together.hear(0, Seen::example(Ending::Done));
        together.hear(1, seen);
        together.row("it")
    }

    #[test]
    fn those_that_stand_are_never_idle_for_long() {
        let plans = Together::default().next_round();
        let quiet = |step: &Step| if let Step::Quiet(time) = step { *time } else { Duration::ZERO };
        let standing = &plans[0].steps;
        assert_eq!(standing.iter().map(quiet).sum::<Duration>(), STANDING);
        assert_eq!(standing.iter().map(quiet).max(), Some(EVERY));
    }

    #[test]
    fn connections_that_waited_for_a_place_are_named() {
        let waited = Seen { first_echo: Some(STANDING), ..Seen::example(Ending::Done) };
        let row = row(waited);
        assert_eq!(row.verdict, Verdict::Changed);
        assert!(row.seen.ends_with("1 waited for a place, the longest 2.0 s"), "{}", row.seen);
    }

    #[test]
    fn a_connection_that_is_ended_without_an_answer_was_refused() {
        let turned_away =
            Seen { returned: 0, first_echo: None, step: Some(Step::AwaitEcho), ..Seen::example(Ending::EarlyEnd) };
        assert_eq!(row(turned_away).verdict, Verdict::Refused);
        let in_mid = Seen { returned: 64, step: Some(Step::Quiet(EVERY)), ..Seen::example(Ending::EarlyEnd) };
        assert_eq!(row(in_mid).verdict, Verdict::Cut);
    }
}
