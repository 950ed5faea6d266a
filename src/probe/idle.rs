//! Idleness: connections that are left alone, each for another time, and then used again.
//!
//! Owns the times, the narrowing of the one at which the path forgets, and the row.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, ending, time};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// How near two times are of which one was survived and the other not, when the path's timeout is called known.
const NEAR: Duration = Duration::from_millis(500);
/// How many times are tried at once to narrow it, at the most.
const AT_ONCE: u32 = 16;
/// How often keepalive probes are sent on the connection that has them.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// For how long the path carries a connection on which nothing moves, how it ends it, and whether TCP keepalive (RFC
/// 9293, 3.8.4) prevents that.
#[derive(Debug)]
pub struct Idle {
    most: Duration,
    asked: Vec<Duration>,
    begun: bool,
    seen: BTreeMap<Duration, Seen>,
    with_keepalive: Option<Seen>,
}

impl Idle {
    /// Up to `most`.
    #[must_use]
    pub fn new(most: Duration) -> Idle {
        Idle { most, asked: Vec::new(), begun: false, seen: BTreeMap::new(), with_keepalive: None }
    }

    /// The shortest time that was not survived, and what was seen then.
    fn broken(&self) -> Option<(Duration, &Seen)> {
        self.seen.iter().find(|(_, seen)| !seen.came_back()).map(|(&time, seen)| (time, seen))
    }

    /// The longest time that was survived below the shortest that was not, and that one; the same twice if the path said
    /// exactly when.
    fn limit(&self) -> Option<(Duration, Duration)> {
        let (broken, seen) = self.broken()?;
        if seen.ended_in_quiet() {
            return Some((seen.in_step, seen.in_step));
        }
        let whole = self.seen.range(..broken).next_back().map_or(Duration::ZERO, |(&time, _)| time);
        Some((whole, broken))
    }

    /// Whether what broke may be due to the time: a connect and the first byte come before it.
    fn depends_on_time(&self) -> bool {
        self.broken().is_some_and(|(_, seen)| seen.returned > 0)
    }

    fn plan(time: Duration, keepalive: Option<Duration>) -> Plan {
        let say = [Step::Send(1), Step::AwaitEcho];
        let steps = [&say[..], &[Step::Quiet(time)], &say, &[Step::ShutDown, Step::AwaitEnd]].concat();
        Plan { keepalive, steps, ..Plan::default() }
    }
}

impl Behaviour for Idle {
    fn next_round(&mut self) -> Vec<Plan> {
        let first = !std::mem::replace(&mut self.begun, true);
        self.asked = match self.limit() {
            _ if first => {
                let doubled = (0..).map(|power| Duration::from_secs(1 << power));
                doubled.take_while(|&time| time < self.most).chain([self.most]).collect()
            }
            Some((whole, broken)) if self.depends_on_time() => {
                let gap = broken.saturating_sub(whole);
                let parts = (1..=AT_ONCE).find(|&parts| gap / parts <= NEAR).unwrap_or(AT_ONCE + 1);
                (1..parts).map(|number| whole + gap * number / parts).collect()
            }
            _ => Vec::new(),
        };
        let mut plans: Vec<Plan> = self.asked.iter().map(|&time| Idle::plan(time, None)).collect();
        if first {
            plans.push(Idle::plan(self.most, Some(KEEPALIVE)));
        }
        plans
    }

    fn hear(&mut self, index: usize, seen: Seen) {
        match self.asked.get(index) {
            Some(&time) => drop(self.seen.insert(time, seen)),
            None => self.with_keepalive = Some(seen),
        }
    }

    fn row(&self, name: &'static str) -> Row {
        let (Some((whole, broken)), Some((_, seen))) = (self.limit(), self.broken()) else {
            return Row {
                name,
                verdict: Verdict::Carried,
                seen: format!("left alone for up to {}", time(self.most)),
                advice: ADVICE,
            };
        };
        let between = || format!("between {} and {}", time(whole), time(broken));
        let (verdict, how) = match &seen.ending {
            _ if !self.depends_on_time() || seen.wrong_at.is_some() => (Verdict::of(seen), ending(seen)),
            Ending::EarlyEnd if whole == broken => (Verdict::Cut, format!("ended by a FIN at {}", time(broken))),
            Ending::Reset(how) if whole == broken => (Verdict::Cut, format!("{how} at {}", time(broken))),
            Ending::Reset(how) => (Verdict::Cut, format!("{how} at the next byte, {}", between())),
            Ending::Silent => (Verdict::Silent, format!("silent, {}", between())),
            _ => (Verdict::Cut, format!("ended by a FIN at the next byte, {}", between())),
        };
        let keepalive = match &self.with_keepalive {
            Some(seen) if seen.came_back() => "; with TCP keepalive every second it lives",
            Some(_) => "; TCP keepalive every second does not help",
            None => "",
        };
        Row { name, verdict, seen: format!("{how}{keepalive}"), advice: ADVICE }
    }
}

const ADVICE: &str = "A pooled or waiting connection is dead when it is used next. Raise the idle timeout of the box \
                      (haproxy timeout client/server/tunnel, NAT nf_conntrack_tcp_timeout_established), or send \
                      TCP keepalives more often than it.";

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen of two bytes with a time of quiet between them.
    fn seen(ending: Ending, step: Option<Step>, in_step: Duration) -> Seen {
        let returned = if ending == Ending::Done { 2 } else { 1 };
        Seen { planned: 2, returned, step, in_step, ..Seen::example(ending) }
    }

    /// Plays a path that forgets a connection after `limit`. What it does then, `broken` says for a time of quiet.
    fn play(idle: &mut Idle, limit: Duration, broken: impl Fn(Duration) -> Seen) -> usize {
        for round in 0.. {
            let plans = idle.next_round();
            if plans.is_empty() {
                return round;
            }
            for (index, plan) in plans.iter().enumerate() {
                let quiet =
                    plan.steps.iter().find_map(|step| if let Step::Quiet(time) = step { Some(*time) } else { None });
                let quiet = quiet.unwrap();
                let lives = quiet < limit || plan.keepalive.is_some();
                idle.hear(index, if lives { seen(Ending::Done, None, quiet) } else { broken(quiet) });
            }
        }
        unreachable!()
    }

    fn silent(_quiet: Duration) -> Seen {
        seen(Ending::Silent, Some(Step::AwaitEcho), Duration::from_secs(5))
    }

    #[test]
    fn a_path_that_forgets_is_narrowed_to_within_half_a_second() {
        for millis in [300, 1_700, 3_000, 7_900, 59_000] {
            let limit = Duration::from_millis(millis);
            let mut idle = Idle::new(Duration::from_secs(60));
            let rounds = play(&mut idle, limit, silent);
            let (whole, broken) = idle.limit().unwrap();
            assert!(whole < limit && limit <= broken && broken <= whole + NEAR, "{limit:?}: {whole:?}, {broken:?}");
            assert!(rounds <= 3, "{limit:?}: {rounds}");
            assert_eq!(idle.row("it").verdict, Verdict::Silent);
            assert!(idle.row("it").seen.ends_with("with TCP keepalive every second it lives"));
        }
    }

    #[test]
    fn a_path_that_ends_idle_connections_says_when() {
        let limit = Duration::from_secs(2);
        let mut idle = Idle::new(Duration::from_secs(10));
        let rounds = play(&mut idle, limit, |quiet| seen(Ending::EarlyEnd, Some(Step::Quiet(quiet)), limit));
        assert_eq!(idle.row("it").seen, "ended by a FIN at 2.0 s; with TCP keepalive every second it lives");
        assert_eq!((idle.row("it").verdict, rounds), (Verdict::Cut, 1));
    }

    #[test]
    fn a_reset_at_the_next_byte_is_not_taken_for_the_time_at_which_the_path_forgot() {
        let limit = Duration::from_millis(2_700);
        let soon = Duration::from_micros(80);
        let mut idle = Idle::new(Duration::from_secs(10));
        play(&mut idle, limit, |_| seen(Ending::Reset("reset".to_owned()), Some(Step::AwaitEcho), soon));
        assert_eq!(
            idle.row("it").seen,
            "reset at the next byte, between 2.5 s and 3.0 s; with TCP keepalive every second it lives"
        );
    }

    #[test]
    fn connections_that_never_stood_say_nothing_of_time() {
        let mut idle = Idle::new(Duration::from_secs(10));
        let how = "connect timed out";
        let rounds = play(&mut idle, Duration::ZERO, |_| Seen {
            returned: 0,
            ..seen(Ending::NotConnected(how.to_owned()), None, Duration::ZERO)
        });
        assert_eq!((idle.row("it").verdict, rounds), (Verdict::Refused, 1));
        assert!(idle.row("it").seen.starts_with(how), "{:?}", idle.row("it"));
    }

    #[test]
    fn a_path_that_keeps_idle_connections_carries_them() {
        let mut idle = Idle::new(Duration::from_secs(10));
        play(&mut idle, Duration::MAX, silent);
        assert_eq!(
            (idle.row("it").verdict, idle.row("it").seen.as_str()),
            (Verdict::Carried, "left alone for up to 10.0 s")
        );
    }
}
