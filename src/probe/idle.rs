//! Idleness: connections that are left alone, each for another time, and then used again.
//!
//! Owns the times, the narrowing of the one at which the path forgets, and the row.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::probe::behaviour::{Behaviour, Row, Verdict, time};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// How near two times are of which one was survived and the other not, when the path's timeout is called known.
const NEAR: Duration = Duration::from_millis(500);
/// How many times are tried at once to narrow it.
const AT_ONCE: u32 = 4;
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

    /// The longest time that was survived below the shortest that was not, and that one.
    fn limit(&self) -> Option<(Duration, Duration)> {
        let (&broken, seen) = self.seen.iter().find(|(_, seen)| !seen.is_whole())?;
        let whole = self.seen.range(..broken).next_back().map_or(Duration::ZERO, |(&time, _)| time);
        // What the path ends by itself says when.
        Some(if matches!(seen.ending, Ending::EarlyEnd | Ending::Reset(_)) && seen.in_step < broken {
            (seen.in_step, seen.in_step)
        } else {
            (whole, broken)
        })
    }

    fn plan(time: Duration, keepalive: Option<Duration>) -> Plan {
        let say = [Step::Send(1), Step::AwaitEcho];
        let steps = [&say[..], &[Step::Quiet(time)], &say, &[Step::ShutDown, Step::AwaitEnd]].concat();
        Plan { keepalive, steps, ..Plan::default() }
    }
}

impl Behaviour for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        let first = !std::mem::replace(&mut self.begun, true);
        self.asked = match self.limit() {
            _ if first => {
                let doubled = (0..).map(|power| Duration::from_secs(1 << power));
                doubled.take_while(|&time| time < self.most).chain([self.most]).collect()
            }
            Some((whole, broken)) if broken - whole > NEAR => {
                let step = (broken - whole) / (AT_ONCE + 1);
                (1..=AT_ONCE).map(|number| whole + step * number).collect()
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

    fn row(&self) -> Row {
        let Some((whole, broken)) = self.limit() else {
            return Row {
                name: self.name(),
                verdict: Verdict::Carried,
                seen: format!("left alone for up to {}", time(self.most)),
                advice: ADVICE,
            };
        };
        let (_, first) = self.seen.iter().find(|(_, seen)| !seen.is_whole()).expect("there is a limit");
        let (verdict, how) = match &first.ending {
            Ending::Silent => (Verdict::Silent, format!("silent, between {} and {}", time(whole), time(broken))),
            Ending::EarlyEnd => (Verdict::Cut, format!("ended by FIN at {}", time(broken))),
            Ending::Reset(how) if whole == broken => (Verdict::Cut, format!("{how} at {}", time(broken))),
            Ending::Reset(how) => {
                (Verdict::Cut, format!("{how} at the first byte, between {} and {}", time(whole), time(broken)))
            }
            Ending::Done | Ending::NotConnected(_) => (Verdict::of(first), format!("after {}", time(broken))),
        };
        let keepalive = match &self.with_keepalive {
            Some(seen) if seen.is_whole() => "; with keepalive every second it lives",
            Some(_) => "; keepalive every second does not help",
            None => "",
        };
        Row { name: self.name(), verdict, seen: format!("{how}{keepalive}"), advice: ADVICE }
    }
}

const ADVICE: &str = "A pooled or waiting connection is dead when it is used next. Raise the idle timeout of the box \
                      (haproxy timeout client/server/tunnel, NAT nf_conntrack_tcp_timeout_established), or send \
                      keepalives more often than it";

/// A byte every so often, for as long as the longest idleness: what ends such a connection is a limit on its life.
#[derive(Debug)]
pub struct Long {
    most: Duration,
    begun: bool,
    seen: Option<Seen>,
}

impl Long {
    /// For `most`.
    #[must_use]
    pub fn new(most: Duration) -> Long {
        Long { most, begun: false, seen: None }
    }
}

/// How many times the connection says something.
const WORDS: u32 = 20;

impl Behaviour for Long {
    fn name(&self) -> &'static str {
        "long"
    }

    fn next_round(&mut self) -> Vec<Plan> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let word = [Step::Send(1), Step::AwaitEcho, Step::Quiet(self.most / WORDS)];
        let steps = [word.repeat(WORDS as usize), vec![Step::ShutDown, Step::AwaitEnd]].concat();
        vec![Plan { steps, ..Plan::default() }]
    }

    fn hear(&mut self, _index: usize, seen: Seen) {
        self.seen = Some(seen);
    }

    fn row(&self) -> Row {
        let whole = self.seen.as_ref().is_none_or(Seen::is_whole);
        let seen = match &self.seen {
            Some(seen) if !whole => {
                format!("a byte every {}: {}", time(self.most / WORDS), super::behaviour::ending(seen))
            }
            _ => format!("a byte every {} for {}", time(self.most / WORDS), time(self.most)),
        };
        Row {
            name: self.name(),
            verdict: self.seen.as_ref().map_or(Verdict::Carried, Verdict::of),
            seen,
            advice: "A connection ends although it is used: a limit on its whole life (a proxy's max session time, a \
                     load balancer's connection draining). Reconnect before it, or raise it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ending: Ending, time: Duration) -> Seen {
        let whole = ending == Ending::Done;
        Seen {
            ending,
            connected_after: Some(Duration::ZERO),
            sent: 2,
            returned: if whole { 2 } else { 1 },
            wrong_at: None,
            steps_done: 2,
            after: time,
            in_step: time,
            sent_while_deaf: 0,
        }
    }

    /// Plays a path that forgets a connection after `limit`, in silence or, if it is `told`, with a FIN.
    fn play(idle: &mut Idle, limit: Duration, told: bool) {
        loop {
            let plans = idle.next_round();
            if plans.is_empty() {
                return;
            }
            for (index, plan) in plans.iter().enumerate() {
                let quiet =
                    plan.steps.iter().find_map(|step| if let Step::Quiet(time) = step { Some(*time) } else { None });
                let quiet = quiet.unwrap();
                let ending = match () {
                    () if quiet < limit || plan.keepalive.is_some() => seen(Ending::Done, quiet),
                    () if told => seen(Ending::EarlyEnd, limit),
                    () => seen(Ending::Silent, Duration::from_secs(5)),
                };
                idle.hear(index, ending);
            }
        }
    }

    #[test]
    fn a_path_that_forgets_is_narrowed_to_within_half_a_second() {
        for millis in [300, 1_700, 3_000, 7_900] {
            let limit = Duration::from_millis(millis);
            let mut idle = Idle::new(Duration::from_secs(10));
            play(&mut idle, limit, false);
            let (whole, broken) = idle.limit().unwrap();
            assert!(whole < limit && limit <= broken && broken - whole <= NEAR, "{limit:?}: {whole:?}, {broken:?}");
            assert_eq!(idle.row().verdict, Verdict::Silent);
            assert!(idle.row().seen.ends_with("with keepalive every second it lives"));
        }
    }

    #[test]
    fn a_path_that_ends_idle_connections_says_when() {
        let mut idle = Idle::new(Duration::from_secs(10));
        play(&mut idle, Duration::from_secs(2), true);
        assert_eq!(idle.row().seen, "ended by FIN at 2.0 s; with keepalive every second it lives");
    }

    #[test]
    fn a_path_that_keeps_idle_connections_carries_them() {
        let mut idle = Idle::new(Duration::from_secs(10));
        play(&mut idle, Duration::MAX, false);
        assert_eq!((idle.row().verdict, idle.row().seen.as_str()), (Verdict::Carried, "left alone for up to 10.0 s"));
    }
}
