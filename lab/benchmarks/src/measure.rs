//! One measurement: a fresh server, one scenario, the figures.
//!
//! Owns the order of things: start, connect, warm up, measure, look at the memory, end. Knows nothing of rounds.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::generator::{self, Generator, Window};
use crate::peers::{Peer, Places};
use crate::scenarios::{Load, Messages, Scenario};
use crate::server::{self, Server};
use crate::strace::{Calls, Tracer};

/// Before anything is measured: caches, the branch predictor, the just-in-time compilers of some peers.
const WARM_UP: Duration = Duration::from_millis(200);

/// What a measurement gives, by the name under which it is reported: a crowd is measured twice.
pub type Samples = Vec<(&'static str, Sample)>;

/// The figures of one measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub messages: u64,
    pub messages_per_second: f64,
    /// Microseconds of the server's core, user and system.
    pub cpu_per_message_us: f64,
    /// Microseconds of the load's core.
    pub load_cpu_per_message_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub resident_bytes: u64,
    /// Of an idle scenario alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}

/// What connections cost that do nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    pub bytes_per_connection: f64,
    pub wake_ups_per_second: f64,
}

/// The calls of one traced run.
#[derive(Clone, Debug, Serialize)]
pub struct Traced {
    pub messages: u64,
    pub calls: Calls,
}

impl Sample {
    fn new(window: &Window, server: &Server) -> anyhow::Result<Sample> {
        if window.messages == 0 {
            bail!("not a single message came back in the measured time");
        }
        let messages = window.messages as f64;
        let percentile = |share| window.times.value_at_quantile(share) as f64 / 1000.0;
        Ok(Sample {
            messages: window.messages,
            messages_per_second: messages / window.seconds,
            cpu_per_message_us: window.server_cpu.as_secs_f64() * 1e6 / messages,
            load_cpu_per_message_us: window.generator_cpu.as_secs_f64() * 1e6 / messages,
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            resident_bytes: server.resident_bytes()?,
            idle: None,
        })
    }
}

/// Measures one peer in one scenario.
pub fn measure(peer: &Peer, scenario: &Scenario, window: Duration, places: &Places) -> anyhow::Result<Samples> {
    let server = Server::start(peer, places)?;
    let window = window * scenario.patience();
    let cpu = || server.cpu_time();
    match scenario.load {
        Load::Messages(load) => {
            let mut generator = connect(&server, load)?;
            let seen = generator.run(WARM_UP * scenario.patience(), window, &cpu)?;
            Ok(vec![(scenario.name, Sample::new(&seen, &server)?)])
        }
        Load::Crowd { at_work, idle } => {
            let mut generator = connect(&server, at_work)?;
            let alone = Sample::new(&generator.run(WARM_UP, window, &cpu)?, &server)?;
            let _held = generator::hold(server.port, idle)?;
            let beside = Sample::new(&generator.run(WARM_UP, window, &cpu)?, &server)?;
            Ok(vec![("crowd-alone", alone), (scenario.name, beside)])
        }
        Load::Churn { at_a_time, size } => {
            let seen = generator::churn(server.port, at_a_time, size, (WARM_UP, window), &cpu)?;
            Ok(vec![(scenario.name, Sample::new(&seen, &server)?)])
        }
        Load::Idle { connections } => Ok(vec![(scenario.name, idle(&server, connections)?)]),
    }
}

fn connect(server: &Server, load: Messages) -> anyhow::Result<Generator> {
    let mut generator = Generator::new(load.size, load.in_flight, load.spin)?;
    generator.connect(server.port, load.connections)?;
    Ok(generator)
}

/// How much memory connections take that have said something once and are quiet, and whether the server sleeps.
fn idle(server: &Server, connections: usize) -> anyhow::Result<Sample> {
    /// Time to give back what only the accepting took.
    const SETTLE: Duration = Duration::from_millis(500);
    const WATCH: Duration = Duration::from_secs(2);
    // What the first ones cost is the program's: pages of code, the first of each buffer.
    let _first = generator::hold(server.port, 10)?;
    thread::sleep(SETTLE);
    let before = server.resident_bytes()?;
    let _held = generator::hold(server.port, connections)?;
    thread::sleep(SETTLE);
    let after = server.resident_bytes()?;
    let woken = server.wake_ups()?;
    thread::sleep(WATCH);
    let woken = server.wake_ups()? - woken;
    let idle = Idle {
        bytes_per_connection: after.saturating_sub(before) as f64 / connections as f64,
        wake_ups_per_second: woken as f64 / WATCH.as_secs_f64(),
    };
    Ok(Sample { resident_bytes: after, idle: Some(idle), ..Sample::default() })
}

/// Counts the system calls of one peer in one scenario, from the first message to the last; in a churn with the
/// connecting.
pub fn trace(peer: &Peer, scenario: &Scenario, places: &Places) -> anyhow::Result<Option<Traced>> {
    let window = Duration::from_millis(250); // Calls are counted, not timed.
    let server = Server::start(peer, places)?;
    let output = places.scratch.join("strace.out");
    let cpu = || server.cpu_time();
    let (seen, calls) = match scenario.load {
        Load::Messages(load) => {
            let mut generator = connect(&server, load)?;
            thread::sleep(Duration::from_millis(100)); // All are accepted.
            let tracer = Tracer::attach(&server, output)?;
            (generator.run(Duration::ZERO, window, &cpu)?, tracer.detach()?)
        }
        Load::Churn { at_a_time, size } => {
            let tracer = Tracer::attach(&server, output)?;
            let seen = generator::churn(server.port, at_a_time, size, (Duration::ZERO, window), &cpu)?;
            thread::sleep(Duration::from_millis(100)); // All are closed.
            (seen, tracer.detach()?)
        }
        Load::Crowd { .. } | Load::Idle { .. } => return Ok(None),
    };
    Ok(Some(Traced { messages: seen.all_messages, calls }))
}

/// Counts the system calls that accepting takes: of `connections` that come one after the other and say nothing.
pub fn trace_accepting(peer: &Peer, connections: usize, places: &Places) -> anyhow::Result<Traced> {
    let server = Server::start(peer, places)?;
    let mut generator = Generator::new(64, 1, false)?;
    generator.connect(server.port, 1)?;
    thread::sleep(Duration::from_millis(100));
    let tracer = Tracer::attach(&server, places.scratch.join("strace.out"))?;
    generator.connect(server.port, connections)?;
    thread::sleep(Duration::from_millis(300)); // All are accepted.
    Ok(Traced { messages: connections as u64, calls: tracer.detach()? })
}

/// Lets the product's client make the load in place of the generator. It verifies as always; what the server used for
/// accepting is part of the figure.
pub fn with_client(peer: &Peer, load: Messages, window: Duration, places: &Places) -> anyhow::Result<Sample> {
    let server = Server::start(peer, places)?;
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let mut command = Command::new(places.programs.join("multiconn-client"));
    command
        .args(["-q", "--json", "127.0.0.1", &server.port.to_string(), &load.connections.to_string()])
        .args(["--size", &load.size.to_string(), "--pipeline", &load.in_flight.to_string()])
        .args(["--warmup", &milliseconds(WARM_UP), "--duration", &milliseconds(window)])
        .stdin(Stdio::null());
    server::on_core(&mut command, server::LOAD_CORE);
    let before = server.cpu_time()?;
    let output = command.output().context("multiconn-client")?;
    let used = server.cpu_time()?.saturating_sub(before);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("multiconn-client: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_f64);
    if !output.status.success() {
        bail!("multiconn-client found faults: {}", report["faults_by_kind"]);
    }
    let figure = |path: &str| number(path).with_context(|| format!("no {path} in the client's report"));
    let (messages, seconds) = (figure("/messages/echoed")?, figure("/measured_seconds")?);
    // The warm-up's messages are not counted in the report, but their share of the server's time is known.
    let share = seconds / (seconds + WARM_UP.as_secs_f64());
    Ok(Sample {
        messages: report["messages"]["echoed"].as_u64().unwrap_or_default(),
        messages_per_second: figure("/messages_per_second")?,
        cpu_per_message_us: used.as_secs_f64() * 1e6 * share / messages,
        load_cpu_per_message_us: figure("/client/cpu_seconds")? * 1e6 / messages,
        p50_us: figure("/latency_us/service/p50")?,
        p99_us: figure("/latency_us/service/p99")?,
        p999_us: figure("/latency_us/service/p999")?,
        resident_bytes: server.resident_bytes()?,
        idle: None,
    })
}
