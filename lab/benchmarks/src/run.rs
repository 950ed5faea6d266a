//! A whole run: every scenario, every peer, every round, and what it was done with.
//!
//! Owns the order of measurements and the table of their samples. Within a round the peers follow each other, so that
//! what troubles the machine for a while troubles all of them; each round begins with another one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::machine::Machine;
use crate::measure::{self, Sample, Traced};
use crate::peers::{FLOOR, OURS, Peer, Places, Version};
use crate::scenarios::{Load, Scenario};
use crate::stats::Spread;
use crate::strace;
use crate::subject::Subject;

/// How often and how long.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    pub rounds: usize,
    pub seconds: f64,
    /// The command line that asked for it.
    pub command: String,
}

impl Settings {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// By scenario, by peer, one a round; none where a measurement failed.
pub type Table = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Option<Sample>>>>;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Run {
    pub subject: Subject,
    pub settings: Settings,
    pub machine: Machine,
    pub versions: Vec<(&'static str, String)>,
    /// Name, what it is, and why it is absent if it is.
    pub peers: Vec<(&'static str, &'static str, Option<String>)>,
    pub samples: Table,
    /// Our client's load in place of the generator's.
    pub with_client: Table,
    /// The generator's against the floor, measured beside the client's.
    pub without_client: BTreeMap<&'static str, Vec<Option<Sample>>>,
    /// System calls, by scenario and peer.
    pub traced: BTreeMap<&'static str, BTreeMap<&'static str, Traced>>,
    /// System calls of accepting, by peer.
    pub accepting: BTreeMap<&'static str, Traced>,
    pub failures: Vec<String>,
    pub took_seconds: f64,
}

/// As many connections a peer can have that forks a process for each. They must not end while they are measured: the CPU
/// time of a process that has ended is not known.
const MOST_PROCESSES: usize = 50;

/// The peers that our client is pointed at as well, besides the floor.
const WITH_CLIENT: [&str; 4] = [FLOOR, OURS, "tokio", "mio"];

impl Run {
    /// Measures all `scenarios` with all `peers` that are there.
    pub fn new(
        subject: Subject,
        settings: Settings,
        machine: Machine,
        versions: Vec<Version>,
        peers: &[Peer],
        scenarios: &[Scenario],
        places: &Places,
    ) -> Run {
        let versions = versions.into_iter().map(|(name, version)| {
            let version = version.map(|text| text.lines().next().unwrap_or_default().trim().to_owned());
            (name, version.unwrap_or_else(|reason| reason))
        });
        let mut run = Run {
            subject,
            settings,
            machine,
            versions: versions.collect(),
            peers: peers.iter().map(|peer| (peer.name, peer.what, peer.command.as_ref().err().cloned())).collect(),
            samples: Table::new(),
            with_client: Table::new(),
            without_client: BTreeMap::new(),
            traced: BTreeMap::new(),
            accepting: BTreeMap::new(),
            failures: Vec::new(),
            took_seconds: 0.0,
        };
        let began = Instant::now();
        for scenario in scenarios {
            let fit: Vec<&Peer> = peers.iter().filter(|peer| fits(peer, scenario)).collect();
            eprintln!("{} ({})", scenario.name, scenario.what);
            run.measure(scenario, &fit, places);
            run.measure_with_client(scenario, &fit, places);
            run.trace(scenario, &fit, places);
        }
        run.took_seconds = began.elapsed().as_secs_f64();
        run
    }

    fn measure(&mut self, scenario: &Scenario, peers: &[&Peer], places: &Places) {
        // Memory does not vary from round to round.
        let rounds = if matches!(scenario.load, Load::Idle { .. }) { 1 } else { self.settings.rounds };
        for round in 0..rounds {
            for peer in in_turn(peers, round) {
                match measure::measure(peer, scenario, self.settings.window(), places) {
                    Ok(samples) => {
                        for (name, sample) in samples {
                            let row = self.samples.entry(name).or_default().entry(peer.name).or_default();
                            row.resize(round, None); // Rounds that failed.
                            row.push(Some(sample));
                        }
                    }
                    Err(error) => self.fail(peer, scenario.name, &error),
                }
            }
        }
    }

    fn measure_with_client(&mut self, scenario: &Scenario, peers: &[&Peer], places: &Places) {
        let Load::Messages(load) = scenario.load else { return };
        if load.spin || scenario.scale().is_some() || self.subject == Subject::Proxies {
            return;
        }
        let peers: Vec<&Peer> = peers.iter().copied().filter(|peer| WITH_CLIENT.contains(&peer.name)).collect();
        let window = self.settings.window();
        for round in 0..self.settings.rounds {
            for peer in in_turn(&peers, round) {
                let sample = measure::with_client(peer, load, window, places);
                let sample = sample.map_err(|error| self.fail(peer, "our client's load", &error)).ok();
                self.with_client.entry(scenario.name).or_default().entry(peer.name).or_default().push(sample);
                if peer.name == FLOOR {
                    let sample = measure::measure(peer, scenario, window, places);
                    let sample = sample.map_err(|error| self.fail(peer, scenario.name, &error)).ok();
                    let sample = sample.and_then(|mut samples| samples.pop()).map(|(_, sample)| sample);
                    self.without_client.entry(scenario.name).or_default().push(sample);
                }
            }
        }
    }

    fn trace(&mut self, scenario: &Scenario, peers: &[&Peer], places: &Places) {
        if strace::absent().is_some() || scenario.few_peers {
            return;
        }
        for peer in peers.iter().filter(|peer| !peer.spins) {
            match measure::trace(peer, scenario, places) {
                Ok(Some(traced)) => {
                    self.traced.entry(scenario.name).or_default().insert(peer.name, traced);
                }
                Ok(None) => return,
                Err(error) => self.fail(peer, "strace", &error),
            }
            if matches!(scenario.load, Load::Churn { .. }) {
                match measure::trace_accepting(peer, 1000, places) {
                    Ok(traced) => {
                        self.accepting.insert(peer.name, traced);
                    }
                    Err(error) => self.fail(peer, "strace", &error),
                }
            }
        }
    }

    /// Says at once and at the end what did not work.
    fn fail(&mut self, peer: &Peer, what: &str, error: &anyhow::Error) {
        let failure = format!("{}, {what}: {error:#}", peer.name);
        eprintln!("  {failure}");
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }

    /// One figure of one peer, over the rounds.
    pub fn spread(&self, scenario: &str, peer: &str, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples.get(scenario)?.get(peer)?.iter().flatten().map(figure))
    }

    /// The same as a ratio to another peer, in another scenario perhaps, each round by itself.
    pub fn ratio(
        &self,
        (scenario, peer): (&str, &str),
        (of_scenario, of_peer): (&str, &str),
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        let of = self.samples.get(of_scenario)?.get(of_peer)?;
        ratios(self.samples.get(scenario)?.get(peer)?, of, figure)
    }
}

/// The ratios of two rows, round by round.
pub fn ratios(row: &[Option<Sample>], of: &[Option<Sample>], figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    let pairs = row.iter().zip(of).filter_map(|(one, other)| Some((figure(one.as_ref()?), figure(other.as_ref()?))));
    Spread::of_ratios(pairs)
}

/// Whether a peer takes part in a scenario.
fn fits(peer: &Peer, scenario: &Scenario) -> bool {
    if peer.command.is_err() {
        return false;
    }
    if peer.proxy.as_ref().is_some_and(|proxy| proxy.forks) {
        return matches!(scenario.load, Load::Messages(load) if load.connections <= MOST_PROCESSES);
    }
    if peer.spins {
        return scenario.name.starts_with("ping"); // Sleeping is what takes the time there, and nowhere else.
    }
    peer.near_the_floor || !scenario.few_peers
}

/// All of them, each round another one first.
pub fn in_turn<T: Copy>(all: &[T], round: usize) -> impl Iterator<Item = T> + use<T> {
    let first = round % all.len().max(1);
    all[first..].iter().chain(&all[..first]).copied().collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(microseconds: f64) -> Sample {
        Sample { cpu_per_message_us: microseconds, ..Sample::default() }
    }

    #[test]
    fn only_rounds_that_both_have_are_compared() {
        let ours = [Some(took(2.0)), None, Some(took(3.0))];
        let floor = [Some(took(1.0)), Some(took(50.0)), Some(took(2.0))];
        let spread = ratios(&ours, &floor, |sample| sample.cpu_per_message_us).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.5, 1.75, 2.0));
    }

    #[test]
    fn each_round_begins_with_another_peer() {
        let peers = ["a", "b", "c"].map(|name| Peer {
            name,
            what: "",
            command: Err(String::new()),
            spins: false,
            near_the_floor: false,
            proxy: None,
        });
        let peers: Vec<&Peer> = peers.iter().collect();
        let order = |round| in_turn(&peers, round).map(|peer| peer.name).collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
    }
}
