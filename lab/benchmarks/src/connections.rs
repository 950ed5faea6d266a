//! The generators of connections side by side: the product's client, which checks everything, and two on bare epoll that
//! check nothing, against one server.
//!
//! Owns their list, their rounds and their tables. What is compared is the load's side here; all other scenarios compare
//! servers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::machine::Machine;
use crate::peers::{self, OURS, Peer, Places, compiled, line, program};
use crate::report;
use crate::run::{Settings, in_turn};
use crate::server::{self, Server};
use crate::stats::Spread;
use crate::strace::{self, Calls};
use crate::targets;

/// How long each measurement takes unless the command line says otherwise: 40,000 connections at the rates of a small
/// machine, beside which the start of a process is nothing.
pub const SECONDS: f64 = 2.0;

/// What the page's generated part begins with.
pub const MARKER: &str = "<!-- generated from here on: cargo run --release -p benchmarks -- --connections -->";

/// Connections that are open at a time.
const OPEN: usize = 64;

/// Messages that each connection exchanges before it ends.
const MESSAGES: [usize; 2] = [1, 10];

/// The generator that all is about.
const CLIENT: &str = "multiconn-client";

/// The part of the better plain one's rate that it has to reach.
const WANTED: f64 = 0.95;

/// Where the connections come from. A pair of addresses that is in `TIME_WAIT` is taken again after a second at the
/// earliest, and connect looks at one half of the 28,000 ports first: one source is good for 14,000 connections a second.
/// With many more than four, the kernel would run out of the 131,072 sockets that it keeps in `TIME_WAIT`.
const SOURCES: [&str; 4] = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"];

/// One generator.
struct Generator {
    name: &'static str,
    what: &'static str,
    /// How it is started, from the server's port, the messages of each connection and the seconds; or why it cannot be.
    command: Result<Invocation, String>,
}

type Invocation = Box<dyn Fn(u16, usize, f64) -> Vec<OsString>>;

/// The figures of one measurement.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    /// Microseconds of the load's core for each connection, with the start and the end of the process.
    cpu_us: f64,
    server_cpu_us: f64,
}

/// By messages a connection, by generator: one a round, none where a measurement failed.
type Table = BTreeMap<(usize, &'static str), Vec<Option<Sample>>>;

/// What strace counted, and for how many connections.
type Traced = BTreeMap<(usize, &'static str), (Calls, f64)>;

fn all(places: &Places) -> Vec<Generator> {
    let plain = |program: OsString| -> Invocation {
        Box::new(move |port, messages, seconds| {
            let numbers = [port.to_string(), OPEN.to_string(), messages.to_string(), seconds.to_string()];
            let arguments = ["127.0.0.1".to_owned()].into_iter().chain(numbers);
            line(program.clone(), arguments.chain(SOURCES.map(str::to_owned)).map(OsString::from))
        })
    };
    let in_c = compiled(places, "plain_connections.c", &[]).map(|path| plain(path.into()));
    let client = places.programs.join(CLIENT);
    let ours: Invocation = Box::new(move |port, messages, seconds| {
        let (port, open, messages) = (port.to_string(), OPEN.to_string(), messages.to_string());
        let (duration, sources) = (format!("{}ms", seconds * 1000.0), SOURCES.join(","));
        let arguments = ["-q", "--json", "127.0.0.1", &port, &open, "--size", "64", "--churn", &messages];
        let arguments = arguments.into_iter().chain(["--duration", &duration, "--source", &sources]);
        line(client.clone(), arguments.map(OsString::from))
    });
    vec![
        Generator { name: "plain-c", what: "bare epoll in C, checks lengths only", command: in_c },
        Generator {
            name: "plain-rust",
            what: "bare epoll in Rust, checks lengths only",
            command: Ok(plain(program(places, "plain-connections", &[]).remove(0))),
        },
        Generator {
            name: CLIENT,
            what: "multiconn-client --churn K, checks and measures everything",
            command: Ok(ours),
        },
    ]
}

/// Measures the generators that are there, or those of `only`. The report.
pub fn compare(settings: &Settings, machine: &Machine, places: &Places, only: &[String]) -> anyhow::Result<String> {
    let mut generators = all(places);
    if let Some(unknown) = only.iter().find(|name| !generators.iter().any(|known| known.name == **name)) {
        let known: Vec<&str> = generators.iter().map(|known| known.name).collect();
        bail!("there is no generator {unknown:?}; there are {}", known.join(", "));
    }
    generators.retain(|known| only.is_empty() || only.iter().any(|name| name == known.name));

    let began = Instant::now();
    let servers = peers::all(places);
    let server: &Peer = servers.iter().find(|peer| peer.name == OURS).context("the server is in the list")?;
    let server = Server::start(server, places)?;
    let present: Vec<(&'static str, &Invocation)> =
        generators.iter().filter_map(|known| Some((known.name, known.command.as_ref().ok()?))).collect();
    let (mut table, mut traced, mut failures) = (Table::new(), Traced::new(), Vec::new());
    for messages in MESSAGES {
        eprintln!("{messages} messages a connection");
        // The first round fills the ports with `TIME_WAIT`, so that all others find the same, and is not counted.
        for round in 0..=settings.rounds {
            for (name, command) in in_turn(&present, round) {
                let sample = measure(&command(server.port, messages, settings.seconds), &server);
                let sample = sample.map_err(|error| failures.push(format!("{name}, {messages} messages: {error:#}")));
                if round > 0 {
                    table.entry((messages, name)).or_default().push(sample.ok());
                }
            }
        }
        for (name, command) in present.iter().filter(|_| strace::absent().is_none()) {
            match trace(&command(server.port, messages, 0.5), places) {
                Ok(counted) => drop(traced.insert((messages, *name), counted)),
                Err(error) => failures.push(format!("{name}, strace: {error:#}")),
            }
        }
    }

    let mut text = String::new();
    let cores = format!("The server on core {}, the generators on core {}.", server::CORE, server::LOAD_CORE);
    report::machine(&mut text, machine, settings, began.elapsed().as_secs_f64(), &cores);
    let rows = generators.iter().map(|Generator { name, what, command }| {
        let absent = command.as_ref().err().map_or_else(String::new, |reason| format!("; **absent**: {reason}"));
        vec![(*name).to_owned(), format!("{what}{absent}")]
    });
    text.push_str(&report::table(&["generator", "what it is"], &rows.collect::<Vec<_>>()));
    let names: Vec<&'static str> = present.iter().map(|(name, _)| *name).collect();
    for messages in MESSAGES {
        figures(&mut text, &names, messages, &table, &traced);
    }
    failures.dedup();
    for failure in failures {
        let _ = write!(text, "\n**Failed**: {failure}\n");
    }
    Ok(text)
}

/// Runs a generator to its end.
fn measure(command: &[OsString], server: &Server) -> anyhow::Result<Sample> {
    let (own, servers) = (sys::children_cpu_time()?, server.cpu_time()?);
    let (per_second, connections) = run(command)?;
    let (own, servers) = (sys::children_cpu_time()?.saturating_sub(own), server.cpu_time()?.saturating_sub(servers));
    let each = |time: Duration| time.as_secs_f64() * 1e6 / connections;
    Ok(Sample { per_second, cpu_us: each(own), server_cpu_us: each(servers) })
}

/// Counts a generator's system calls, in a run of their own.
fn trace(command: &[OsString], places: &Places) -> anyhow::Result<(Calls, f64)> {
    let output = places.scratch.join("strace.out");
    let under = ["strace".into(), "-f".into(), "-c".into(), "-o".into(), output.clone().into_os_string()];
    let (_, connections) = run(&under.into_iter().chain(command.iter().cloned()).collect::<Vec<_>>())?;
    Ok((strace::parse(&fs::read_to_string(&output)?), connections))
}

/// Connections a second, and how many they were. All generators have the same names for them.
fn run(command: &[OsString]) -> anyhow::Result<(f64, f64)> {
    let mut starting = Command::new(&command[0]);
    starting.args(&command[1..]).stdin(Stdio::null());
    server::on_core(&mut starting, server::LOAD_CORE);
    let output = starting.output().context("starting it")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().last().unwrap_or_default();
    ensure!(output.status.success(), "it ended with {}: {complaint}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("its report")?;
    let figure = |name: &str| report[name].as_f64().with_context(|| format!("no {name} in its report"));
    let (per_second, seconds) = (figure("connections_per_second")?, figure("measured_seconds")?);
    Ok((per_second, per_second * seconds))
}

/// The table of all generators with this number of messages a connection, and whether the client reaches what is wanted.
fn figures(text: &mut String, names: &[&'static str], messages: usize, table: &Table, traced: &Traced) {
    let row = |name| table.get(&(messages, name)).map_or(&[][..], Vec::as_slice);
    let of = |name, figure: fn(&Sample) -> f64| Spread::of(row(name).iter().flatten().map(figure));
    let rate = |sample: &Sample| sample.per_second;
    let better = names.iter().copied().filter(|name| *name != CLIENT).max_by(|one, other| {
        let median = |name| of(name, rate).map_or(0.0, |spread| spread.median);
        median(one).total_cmp(&median(other))
    });
    let ratio = |name| {
        let pairs = row(name).iter().zip(row(better?));
        Spread::of_ratios(pairs.filter_map(|(one, other)| Some((rate(one.as_ref()?), rate(other.as_ref()?)))))
    };
    let rows = names.iter().map(|&name| {
        let calls = traced.get(&(messages, name)).map_or_else(String::new, |(calls, connections)| {
            format!("{:.2}", calls.values().map(|count| count.calls as f64).sum::<f64>() / connections)
        });
        vec![
            name.to_owned(),
            report::spread(of(name, rate)),
            ratio(name).map_or_else(String::new, targets::show),
            report::spread(of(name, |sample| sample.cpu_us)),
            report::spread(of(name, |sample| sample.server_cpu_us)),
            calls,
        ]
    });
    let plural = if messages == 1 { "" } else { "s" };
    let _ = write!(text, "\n#### Connections: {OPEN} at a time, {messages} message{plural} of 64 B on each\n\n");
    let headers =
        ["generator", "connections/s", "to the better plain one", "CPU µs each", "server's CPU µs each", "calls each"];
    text.push_str(&report::table(&headers, &rows.collect::<Vec<_>>()));
    if let (Some(better), Some(ratio)) = (better, names.contains(&CLIENT).then(|| ratio(CLIENT)).flatten()) {
        let verdict = if ratio.median >= WANTED { "reached" } else { "**missed**" };
        let measured = targets::show(ratio);
        let _ =
            write!(text, "\n{CLIENT} to the better plain one ({better}): {measured}, wanted >= {WANTED}: {verdict}.\n");
    }
}
