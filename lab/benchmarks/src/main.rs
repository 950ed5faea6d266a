//! The bench: multiconn's programs beside their peers, under the same load, in one run.
//!
//! Owns the command line and where the results go.

mod charts;
mod connections;
mod generator;
mod machine;
mod measure;
mod peers;
mod proxies;
mod report;
mod run;
mod scenarios;
mod server;
mod stats;
mod strace;
mod subject;
mod targets;

use std::env;
use std::thread;

use anyhow::{bail, ensure};
use clap::Parser;

use machine::Machine;
use peers::{Peer, Places};
use run::{Run, Settings};
use scenarios::Scenario;
use subject::Subject;

/// Measure the echo server, or the proxy, beside its peers: CPU a message, messages a second, times, memory and system
/// calls
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Args {
    /// Measure TCP proxies in place of echo servers: what a message costs on its way through
    #[arg(long)]
    proxies: bool,
    /// Measure generators of connections in place of servers: what a connection costs at their end
    #[arg(long, conflicts_with_all = ["proxies", "only"])]
    connections: bool,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes, without its warm-up [default: 0.4; 2 with --connections]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Only these scenarios; "scale" means all that begin with "scale-"
    #[arg(long, value_name = "SCENARIO,..", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these servers or proxies, beside the floor; or only these generators
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    peers: Vec<String>,
    /// One round of 0.2 s: does it all work?
    #[arg(long)]
    quick: bool,
    /// Print the report alone: leave the files in docs/ as they are
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Builds the programs, measures each server in a process of its own on core 0 with the load on core 1, prints the report \
and writes docs/benchmarks.md (between its markers) and two charts, and every figure to \
target/release/bench/benchmarks.json. A part of the whole (--only, --peers, --quick) is printed and not written.

With --proxies each program relays to an echo server that runs on core 1 beside the load and is not measured. The report \
has its own markers on the page, and its figures go to target/release/bench/proxies.json. haproxy, nginx with its \
stream module, and socat take part where they are installed.

With --connections the server is multiconn-server, and what is compared are multiconn-client --churn and two plain \
generators, in C and in Rust, that open and close connections. That report has its markers on the page as well.

Examples:
  cargo run --release -p benchmarks
  cargo run --release -p benchmarks -- --rounds 9 --only echo,many --peers multiconn,tokio
  cargo run --release -p benchmarks -- --quick
  cargo run --release -p benchmarks -- --proxies
  cargo run --release -p benchmarks -- --proxies --only bulk --peers multiconn,haproxy
  cargo run --release -p benchmarks -- --connections";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seconds = args.seconds.unwrap_or(if args.connections { connections::SECONDS } else { 0.4 });
    ensure!(args.rounds > 0 && seconds >= 0.05, "at least one round of at least 0.05 s");
    let cores = thread::available_parallelism()?.get();
    ensure!(cores > server::LOAD_CORE, "two cores are needed: one for the server, one for the load");
    let subject = if args.proxies { Subject::Proxies } else { Subject::Servers };
    let scenarios = chosen_scenarios(subject, &args.only)?;
    let descriptors = sys::raise_descriptor_limit()?;
    let machine = Machine::here(descriptors);

    let places = Places::find()?;
    peers::build(&places)?;
    if machine.load_average > 0.5 {
        eprintln!("the machine is busy (load average {}): the figures will be troubled", machine.load_average);
    }
    let (rounds, seconds) = if args.quick { (1, 0.2) } else { (args.rounds, seconds) };
    let settings = Settings { rounds, seconds, command: command_line() };
    if args.connections {
        let text = connections::compare(&settings, &machine, &places, &args.peers)?;
        println!("{text}");
        if args.dry_run || args.quick || !args.peers.is_empty() {
            return Ok(());
        }
        return report::write_page(connections::MARKER, &text, &[], &places.root.join("docs/benchmarks.md"));
    }
    let peers = chosen_peers(subject, &places, &args.peers)?;
    for (peer, reason) in peers.iter().filter_map(|peer| Some((peer.name, peer.command.as_ref().err()?))) {
        eprintln!("absent: {peer}: {reason}");
    }
    if let Some(reason) = strace::absent() {
        eprintln!("system calls are not counted: {reason}");
    }
    let versions = subject.versions(&places);

    sys::pin(server::LOAD_CORE)?;
    let run = Run::new(subject, settings, machine, versions, &peers, &scenarios, &places);
    let targets = targets::all(&run);
    let text = report::text(&run, &targets);
    println!("{text}");
    if args.dry_run || args.quick || !args.only.is_empty() || !args.peers.is_empty() {
        return Ok(());
    }
    let docs = places.root.join("docs");
    report::write_json(&run, &targets, &places.scratch.join(subject.file()))?;
    let mut drawn = Vec::new();
    if subject == Subject::Servers {
        if charts::by_scenario(&run, &docs.join(charts::CPU))? {
            drawn.push(charts::CPU);
        }
        if charts::by_connections(&run, &docs.join(charts::SCALE))? {
            drawn.push(charts::SCALE);
        }
    }
    report::write_page(subject.marker(), &text, &drawn, &docs.join("benchmarks.md"))
}

/// The command as a reader would repeat it.
fn command_line() -> String {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let command = "cargo run --release -p benchmarks";
    if arguments.is_empty() { command.to_owned() } else { format!("{command} -- {}", arguments.join(" ")) }
}

fn chosen_scenarios(subject: Subject, only: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let all = subject.scenarios();
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|scenario| scenario.is_called(name))) {
        let known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        bail!("there is no scenario {unknown:?}; there are {}", known.join(", "));
    }
    let wanted = |scenario: &Scenario| only.is_empty() || only.iter().any(|name| scenario.is_called(name));
    Ok(all.iter().copied().filter(wanted).collect())
}

fn chosen_peers(subject: Subject, places: &Places, only: &[String]) -> anyhow::Result<Vec<Peer>> {
    let all = subject.peers(places);
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|peer| peer.name == **name)) {
        let known: Vec<&str> = all.iter().map(|peer| peer.name).collect();
        bail!("there is no {} {unknown:?}; there are {}", subject.noun(), known.join(", "));
    }
    // Without the floor there would be nothing to compare with.
    let wanted =
        |peer: &Peer| only.is_empty() || peer.name == peers::FLOOR || only.iter().any(|name| name == peer.name);
    Ok(all.into_iter().filter(wanted).collect())
}
