//! The bench: multiconn's programs beside their peers, under the same load, in one run.
//!
//! Owns the command line and where the results go.

mod charts;
mod generator;
mod machine;
mod measure;
mod peers;
mod report;
mod run;
mod scenarios;
mod server;
mod stats;
mod strace;
mod targets;

use std::env;
use std::thread;

use anyhow::{bail, ensure};
use clap::Parser;

use machine::Machine;
use peers::{Peer, Places};
use run::{Run, Settings};
use scenarios::Scenario;

/// Measure the echo server beside its peers: CPU a message, messages a second, times, memory and system calls
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes, without its warm-up
    #[arg(long, value_name = "S", default_value_t = 0.4)]
    seconds: f64,
    /// Only these scenarios; "scale" means all that begin with "scale-"
    #[arg(long, value_name = "SCENARIO,..", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these servers, beside the floor
    #[arg(long, value_name = "SERVER,..", value_delimiter = ',')]
    peers: Vec<String>,
    /// One round of 0.2 s: does it all work?
    #[arg(long)]
    quick: bool,
    /// Print the report alone: leave the files in docs/ as they are
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Builds the programs, measures each server in a process of its own on core 0 with the load on core 1, prints the report
and writes docs/benchmarks.md (between its markers) and two charts, and every figure to
target/release/bench/benchmarks.json. A part of the whole (--only,
--peers, --quick) is printed and not written.

Examples:
  cargo run --release -p benchmarks
  cargo run --release -p benchmarks -- --rounds 9 --only echo,many --peers multiconn,tokio
  cargo run --release -p benchmarks -- --quick";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.seconds >= 0.05, "at least one round of at least 0.05 s");
    let cores = thread::available_parallelism()?.get();
    ensure!(cores > server::LOAD_CORE, "two cores are needed: one for the server, one for the load");
    let scenarios = chosen_scenarios(&args.only)?;
    let descriptors = sys::raise_descriptor_limit()?;
    let machine = Machine::here(descriptors);

    let places = Places::find()?;
    peers::build(&places)?;
    let peers = chosen_peers(peers::all(&places), &args.peers)?;
    for (peer, reason) in peers.iter().filter_map(|peer| Some((peer.name, peer.command.as_ref().err()?))) {
        eprintln!("absent: {peer}: {reason}");
    }
    if let Some(reason) = strace::absent() {
        eprintln!("system calls are not counted: {reason}");
    }
    if machine.load_average > 0.5 {
        eprintln!("the machine is busy (load average {}): the figures will be troubled", machine.load_average);
    }
    let versions = peers::versions(&places);
    let (rounds, seconds) = if args.quick { (1, 0.2) } else { (args.rounds, args.seconds) };
    let settings = Settings { rounds, seconds, command: command_line() };

    sys::pin(server::LOAD_CORE)?;
    let run = Run::new(settings, machine, versions, &peers, &scenarios, &places);
    let targets = targets::all(&run);
    let text = report::text(&run, &targets);
    println!("{text}");
    if args.dry_run || args.quick || !args.only.is_empty() || !args.peers.is_empty() {
        return Ok(());
    }
    let docs = places.root.join("docs");
    report::write_json(&run, &targets, &places.scratch.join("benchmarks.json"))?;
    let mut drawn = Vec::new();
    if charts::by_scenario(&run, &docs.join(charts::CPU))? {
        drawn.push(charts::CPU);
    }
    if charts::by_connections(&run, &docs.join(charts::SCALE))? {
        drawn.push(charts::SCALE);
    }
    report::write_page(&text, &drawn, &docs.join("benchmarks.md"))
}

/// The command as a reader would repeat it.
fn command_line() -> String {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let command = "cargo run --release -p benchmarks";
    if arguments.is_empty() { command.to_owned() } else { format!("{command} -- {}", arguments.join(" ")) }
}

fn chosen_scenarios(only: &[String]) -> anyhow::Result<Vec<Scenario>> {
    if let Some(unknown) = only.iter().find(|name| !scenarios::ALL.iter().any(|scenario| scenario.is_called(name))) {
        let known: Vec<&str> = scenarios::ALL.iter().map(|scenario| scenario.name).collect();
        bail!("there is no scenario {unknown:?}; there are {}", known.join(", "));
    }
    let wanted = |scenario: &Scenario| only.is_empty() || only.iter().any(|name| scenario.is_called(name));
    Ok(scenarios::ALL.into_iter().filter(wanted).collect())
}

fn chosen_peers(all: Vec<Peer>, only: &[String]) -> anyhow::Result<Vec<Peer>> {
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|peer| peer.name == **name)) {
        let known: Vec<&str> = all.iter().map(|peer| peer.name).collect();
        bail!("there is no server {unknown:?}; there are {}", known.join(", "));
    }
    // Without the floor there would be nothing to compare with.
    let wanted =
        |peer: &Peer| only.is_empty() || peer.name == peers::FLOOR || only.iter().any(|name| name == peer.name);
    Ok(all.into_iter().filter(wanted).collect())
}
