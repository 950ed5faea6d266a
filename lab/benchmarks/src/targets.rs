//! What is to be reached, and what was.
//!
//! Owns the limits. All ratios are of one run, round by round.

use serde::Serialize;

use crate::measure::{Sample, Traced};
use crate::peers::{FLOOR, FLOOR_SPINNING, OURS, OURS_SPINNING};
use crate::run::{self, Run};
use crate::scenarios::Load;
use crate::stats::Spread;
use crate::subject::Subject;

/// One thing to reach.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    pub scenario: &'static str,
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub reached: bool,
}

/// Calls that a server may make beside its messages without being charged: looking for events.
const WAITS: [&str; 3] = ["epoll_wait", "epoll_pwait", "epoll_pwait2"];

/// All that this run says something about.
pub fn all(run: &Run) -> Vec<Target> {
    let mut targets = Vec::new();
    for scenario in run.subject.scenarios() {
        against_the_floor(run, scenario.name, &mut targets);
        if run.subject == Subject::Servers {
            calls_a_message(run, scenario.name, &mut targets);
        }
        if let Load::Crowd { .. } = scenario.load {
            let ratio = run.ratio((scenario.name, OURS), ("crowd-alone", OURS), cpu);
            targets.extend(ratio.map(|ratio| at_most(scenario.name, "CPU a message, to the 50 alone", ratio, 1.03)));
        }
        if let Load::Idle { .. } = scenario.load {
            idle(run, scenario.name, &mut targets);
        }
    }
    if run.subject == Subject::Servers {
        accepting(run, &mut targets);
    }
    spinning(run, &mut targets);
    client(run, &mut targets);
    targets
}

fn cpu(sample: &Sample) -> f64 {
    sample.cpu_per_message_us
}

fn rate(sample: &Sample) -> f64 {
    sample.messages_per_second
}

/// A ratio as it is printed everywhere.
pub fn show(ratio: Spread) -> String {
    format!("{:.3} ({:.3}..{:.3})", ratio.median, ratio.min, ratio.max)
}

fn at_most(scenario: &'static str, what: impl Into<String>, ratio: Spread, limit: f64) -> Target {
    let (what, wanted) = (what.into(), format!("<= {limit:.2}"));
    Target { scenario, what, wanted, measured: show(ratio), reached: ratio.median <= limit }
}

fn at_least(scenario: &'static str, what: impl Into<String>, ratio: Spread, limit: f64) -> Target {
    let (what, wanted) = (what.into(), format!(">= {limit:.2}"));
    Target { scenario, what, wanted, measured: show(ratio), reached: ratio.median >= limit }
}

fn against_the_floor(run: &Run, scenario: &'static str, targets: &mut Vec<Target>) {
    if scenario == "ping-spin" || scenario == "idle" {
        return; // Not about the cost of a message.
    }
    let (ours, floor) = ((scenario, OURS), (scenario, FLOOR));
    if let Some(ratio) = run.ratio(ours, floor, cpu) {
        targets.push(at_most(scenario, "CPU a message, to the floor", ratio, 1.03));
    }
    let others = run.samples.get(scenario).into_iter().flat_map(|peers| peers.keys());
    let others = others.filter(|name| ![FLOOR, OURS, FLOOR_SPINNING, OURS_SPINNING].contains(name));
    let best = others
        .filter_map(|name| Some((*name, run.spread(scenario, name, cpu)?)))
        .min_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
    if let Some((name, _)) = best
        && let Some(ratio) = run.ratio(ours, (scenario, name), cpu)
    {
        targets.push(at_most(scenario, format!("CPU a message, to the best peer ({name})"), ratio, 1.0));
    }
    if let Some(ratio) = run.ratio(ours, floor, rate) {
        targets.push(at_least(scenario, "messages/s, to the floor", ratio, 0.97));
    }
}

/// How many calls of a run were made for each message, by a name; all of them without.
pub fn calls_per_message(traced: &Traced, name: Option<&str>) -> f64 {
    let counted = traced.calls.iter().filter(|(call, _)| name.is_none_or(|name| name == *call));
    counted.map(|(_, count)| count.calls).sum::<u64>() as f64 / traced.messages as f64
}

fn calls_a_message(run: &Run, scenario: &'static str, targets: &mut Vec<Target>) {
    // Where some 20 or more connections share each wait, and a message fits into one call.
    if !["echo", "many"].contains(&scenario) {
        return;
    }
    let Some(traced) = run.traced.get(scenario).and_then(|peers| peers.get(OURS)) else { return };
    let calls = calls_per_message(traced, None);
    targets.push(Target {
        scenario,
        what: "system calls a message".to_owned(),
        wanted: "<= 2.05".to_owned(),
        measured: format!("{calls:.3}"),
        reached: calls <= 2.05,
    });
    let changes = traced.calls.get("epoll_ctl").map_or(0, |count| count.calls);
    targets.push(Target {
        scenario,
        what: "epoll_ctl after accept".to_owned(),
        wanted: "0".to_owned(),
        measured: changes.to_string(),
        reached: changes == 0,
    });
}

fn accepting(run: &Run, targets: &mut Vec<Target>) {
    let Some(traced) = run.accepting.get(OURS) else { return };
    let beside = |name: &str| WAITS.contains(&name);
    let calls: Vec<String> = traced
        .calls
        .iter()
        .filter(|(name, _)| !beside(name))
        .map(|(name, count)| format!("{name} {:.2}", (count.calls - count.failed) as f64 / traced.messages as f64))
        .collect();
    let successes = traced.calls.iter().filter(|(name, _)| !beside(name));
    let each = successes.map(|(_, count)| count.calls - count.failed).sum::<u64>() as f64 / traced.messages as f64;
    targets.push(Target {
        scenario: "accepting",
        what: "calls a connection, without waits and the EAGAIN that ends a burst".to_owned(),
        wanted: "accept4 1, epoll_ctl 1".to_owned(),
        measured: calls.join(", "),
        reached: each <= 2.005,
    });
}

fn idle(run: &Run, scenario: &'static str, targets: &mut Vec<Target>) {
    let Some(sample) = run.samples.get(scenario).and_then(|peers| peers.get(OURS)?.first()?.clone()) else { return };
    let Some(idle) = sample.idle else { return };
    targets.push(Target {
        scenario,
        what: "bytes of memory a connection".to_owned(),
        wanted: "<= 136".to_owned(),
        measured: format!("{:.1}", idle.bytes_per_connection),
        reached: idle.bytes_per_connection <= 136.0,
    });
    targets.push(Target {
        scenario,
        what: "wake-ups a second".to_owned(),
        wanted: "0".to_owned(),
        measured: format!("{:.1}", idle.wake_ups_per_second),
        reached: idle.wake_ups_per_second == 0.0,
    });
}

fn spinning(run: &Run, targets: &mut Vec<Target>) {
    let p50 = |sample: &Sample| sample.p50_us;
    let ours = ("ping-spin", OURS_SPINNING);
    if let Some(ratio) = run.ratio(ours, ("ping-spin", FLOOR_SPINNING), p50) {
        targets.push(at_most("ping-spin", "p50 with --busy-poll, to the spinning floor", ratio, 1.03));
    }
    let sleepers =
        run.peers.iter().map(|(name, ..)| *name).filter(|name| ![FLOOR_SPINNING, OURS_SPINNING].contains(name));
    let best = sleepers
        .filter_map(|name| Some((name, run.spread("ping", name, p50)?)))
        .min_by(|(_, one), (_, other)| one.median.total_cmp(&other.median));
    if let Some((name, _)) = best
        && let Some(ratio) = run.ratio(("ping", name), ours, p50)
    {
        targets.push(at_least("ping", format!("p50 of the best that sleeps ({name}), to --busy-poll"), ratio, 3.0));
    }
}

fn client(run: &Run, targets: &mut Vec<Target>) {
    for scenario in ["echo", "pipeline"] {
        let client = run.with_client.get(scenario).and_then(|peers| peers.get(FLOOR));
        if let (Some(client), Some(plain)) = (client, run.without_client.get(scenario))
            && let Some(ratio) = run::ratios(client, plain, rate)
        {
            targets.push(at_least(scenario, "our client's messages/s, to the plain generator's", ratio, 0.95));
        }
    }
}
