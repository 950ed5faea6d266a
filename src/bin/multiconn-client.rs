//! `multiconn-client HOST PORT NUM_CONNS`: the checking and measuring client.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use log::warn;
use multiconn::cli::intervals::{self, Form, Intervals};
use multiconn::cli::progress_line::Display;
use multiconn::cli::{self, Sources, Verbosity};
use multiconn::client::load::{Content, Load, Pacing};
use multiconn::client::pattern::MAX_CONNECTION;
use multiconn::client::rate::Rate;
use multiconn::client::{self, Plan};
use multiconn::internals::sockets;
use multiconn::partner::accounts;
use multiconn::report::expect::Expectation;
use multiconn::report::fault_log::FaultLog;
use multiconn::report::{Report, names};

/// Open many connections to an echo server, compare every byte that comes back and measure how long it took
#[derive(Debug, Parser)]
#[command(name = "multiconn-client", version, after_help = after_help(), max_term_width = cli::HELP_WIDTH)]
struct Args {
    /// Address or name of the server
    #[arg(value_parser = host)]
    host: String,
    /// Port of the server
    #[arg(value_parser = cli::port, allow_negative_numbers = true)]
    port: u16,
    /// Connections to open, all at the same time
    #[arg(value_parser = cli::count, allow_negative_numbers = true)]
    num_conns: u32,
    /// Send this on each connection, in place of the tutorial's two messages; may be repeated
    #[arg(short, long, value_name = "TEXT", value_parser = message, allow_hyphen_values = true, help_heading = "What to send")]
    message: Vec<String>,
    /// Send generated messages of this size [default: 64 with one of the options below]
    #[arg(long, value_name = "SIZE", value_parser = cli::size, help_heading = "What to send")]
    size: Option<usize>,
    /// Messages to send on each connection [default: 1]
    #[arg(long, value_name = "N", value_parser = cli::large_count, conflicts_with = "duration", help_heading = "What to send")]
    messages: Option<NonZeroU64>,
    /// How long to begin messages
    #[arg(long, value_name = "DURATION", value_parser = cli::timeout, help_heading = "What to send")]
    duration: Option<Duration>,
    /// Messages to keep in flight on each connection (closed loop) [default: 1]
    #[arg(long, value_name = "K", value_parser = cli::count, conflicts_with = "rate", help_heading = "What to send")]
    pipeline: Option<u32>,
    /// Messages to send a second, 5k or 0.5, over all connections, whether or not echoes are back (open loop)
    #[arg(long, value_name = "R", value_parser = cli::rate, help_heading = "What to send")]
    rate: Option<Rate>,
    /// Messages after which a connection finishes and another takes its place, until --duration is over
    #[arg(long, value_name = "K", value_parser = cli::large_count, help_heading = "Coming and going")]
    churn: Option<NonZeroU64>,
    /// With --churn: connections to open a second, whether or not others are over; no more are open than asked for
    #[arg(long, value_name = "R", value_parser = cli::rate, requires = "churn", conflicts_with_all = ["rate", "connect_rate", "reconnect"], help_heading = "Coming and going")]
    churn_rate: Option<Rate>,
    /// Open a connection that failed again, until --duration is over, and report for how long it was out
    #[arg(long, help_heading = "Coming and going")]
    reconnect: bool,
    /// How long to send before measuring
    #[arg(long, value_name = "DURATION", value_parser = cli::duration, help_heading = "What to send")]
    warmup: Option<Duration>,
    /// Generate the messages of the run whose JSON report has this seed [default: a new one for each run]
    #[arg(long, value_name = "HEX", value_parser = cli::seed, help_heading = "What to send")]
    seed: Option<u64>,
    /// How long to keep the connections idle before the first message
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = cli::duration, help_heading = "Connecting")]
    hold: Duration,
    /// How long to wait for a connect to be answered
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::timeout, help_heading = "Connecting")]
    connect_timeout: Duration,
    /// Connects to begin a second, of the first ones [default: as fast as they are answered]
    #[arg(long, value_name = "R", value_parser = cli::rate, help_heading = "Connecting")]
    connect_rate: Option<Rate>,
    /// Connects to have under way [default: 4, more while answers come at once or not at all, fewer when some are dropped;
    /// 128 with --connect-rate]
    #[arg(long, value_name = "N", value_parser = cli::count, help_heading = "Connecting")]
    connect_window: Option<u32>,
    /// Connect from these local addresses in turn: ADDR,ADDR,… or FIRST-LAST
    #[arg(long, value_name = "ADDRS", value_parser = cli::sources, help_heading = "Connecting")]
    source: Option<Sources>,
    /// How long nothing may move on a connection; with --rate, how long after the end late messages are begun
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = cli::timeout)]
    timeout: Duration,
    /// Exit with 1 unless this holds: 'p99<5ms', 'connect.max<1s', 'retransmitted<1%', 'faults=0' (see below); may be
    /// repeated
    #[arg(long, value_name = "EXPECTATION", value_parser = Expectation::parse, help_heading = "The report")]
    expect: Vec<Expectation>,
    /// Count what comes back and do not compare it
    #[arg(long, hide = true)]
    no_verify: bool,
    /// How long to poll without sleeping after the last event: quicker answers, for up to a whole core
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = cli::duration)]
    busy_poll: Duration,
    #[command(flatten)]
    verbosity: Verbosity,
    /// Draw no line of progress, where standard error is a terminal
    #[arg(long)]
    no_progress: bool,
    // The last one, as its heading would be that of all that follow.
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The report")]
struct Output {
    /// Print the report as one JSON object (docs/report.md)
    #[arg(long)]
    json: bool,
    /// Print a line for each part of the run of this length as it ends (docs/report.md)
    #[arg(long, value_name = "DURATION", value_parser = cli::interval)]
    interval: Option<Duration>,
    /// Print an object for each interval as it ends, one a line, and the report as the last one
    #[arg(long, requires = "interval", conflicts_with = "json")]
    json_lines: bool,
    /// Write the intervals to this file, as CSV
    #[arg(long, value_name = "FILE", requires = "interval")]
    csv: Option<PathBuf>,
    /// Write each fault to this file when it happens, as one JSON object a line
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Write the histograms, of each interval if there are any, to this file, as an HdrHistogram interval log
    #[arg(long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,
}

/// What follows the options in `--help`.
fn after_help() -> String {
    let known = names::known(false).join("\n  ");
    format!("{RULES}\n  {known}\n\n{EXAMPLES}")
}

const RULES: &str = "\
It logs to standard error and reports on standard output. Exits with 0 if every connection was intact and every \
expectation held, 1 if not, 2 for a wrong command line, 130 on Ctrl-C.

A connection is intact if everything that it had to send was sent, every byte of it came back and no other byte did, \
and the server then closed it in order (with a FIN, not a reset), before the client or after it.

Numbers are written 5000 or 5k; durations 500ms, 2s, 1m; sizes 64, 4KiB, 1MB.

An expectation is a name, one of < <= > >= =, and a bound. A bare p99 is that of the scheduled times with --rate, and \
else of the service times. With --interval, 'every p99<5ms' is to hold in each interval; waiting is only for that. \
docs/report.md says what each of these is:";

const EXAMPLES: &str = "\
Examples:
  # The tutorial's run, and one with messages of your own
  multiconn-client 127.0.0.1 65432 3
  multiconn-client ::1 65432 1 -m one -m two
  # Closed loop: as fast as echoes come back
  multiconn-client HOST 65432 50 --size 512 --duration 10s
  # Open loop: what do users at that rate see?
  multiconn-client HOST 65432 1000 --rate 5000 --duration 30s
  # Connections that come and go, two messages each
  multiconn-client HOST 65432 100 --churn 2 --duration 30s
  # For how long is a service gone that is restarted?
  multiconn-client HOST 65432 100 --rate 1000 --reconnect --duration 1m
  # Bulk
  multiconn-client HOST 65432 4 --size 4MiB --messages 100
  # For a script
  multiconn-client HOST 65432 10 --rate 100 --duration 1m \\
      --json --expect 'p99<5ms' --expect faults=0";

/// The size of generated messages if none is given.
const SIZE: usize = 64;

/// The interval of a run that is not divided: longer than any run.
const ENDLESS: Duration = Duration::from_secs(1 << 32);

/// How long a server is asked for its accounts of faulty connections. It is another one, or it answers in a round trip.
const MOST_PATIENCE: Duration = Duration::from_secs(2);

fn host(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty host means all interfaces and is for servers; name one to connect to".to_owned());
    }
    cli::host(text)
}

fn message(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an empty message sends nothing".to_owned()) } else { Ok(text.to_owned()) }
}

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let plan = match plan(&args) {
        Ok(plan) => plan,
        Err(wrong) => return cli::misuse(&wrong),
    };
    cli::start_logging(args.verbosity);
    let (report, written) = match run(&args, &plan) {
        Ok(done) => done,
        Err(error) => return cli::fail(&error),
    };
    // The report first: a file that cannot be written is no reason to keep quiet about the rest.
    if let Err(error) = print(&args.output, &report).and(written) {
        return cli::fail(&error);
    }
    match report.interrupted {
        Some(signal) => ExitCode::from(cli::exit_code_of(signal)),
        None if report.is_intact() && report.meets_expectations() => ExitCode::SUCCESS,
        None => ExitCode::from(cli::EXIT_FAILURE),
    }
}

/// Prints the report behind the lines of the intervals.
fn print(output: &Output, report: &Report) -> anyhow::Result<()> {
    cli::print(&match output {
        Output { json: true, .. } => serde_json::to_string(report)? + "\n",
        Output { json_lines: true, .. } => intervals::object("report", report),
        Output { interval: Some(_), .. } => format!("\n{report}"),
        _ => report.to_string(),
    })
}

/// What the arguments ask for, or why they do not go together.
fn plan(args: &Args) -> Result<Plan, String> {
    let plan = Plan {
        hold: args.hold,
        connect_timeout: args.connect_timeout,
        timeout: args.timeout,
        connect_rate: args.connect_rate,
        churn_rate: args.churn_rate,
        reconnect: args.reconnect,
        connect_window: args.connect_window,
        sources: args.source.as_ref().map(|sources| sources.0.clone()).unwrap_or_default(),
        busy_poll: args.busy_poll,
        interval: args.output.interval.or_else(|| args.output.hdr_log.as_ref().map(|_| ENDLESS)),
        ..Plan::tutorial(args.num_conns)
    };
    let verify = !args.no_verify;
    check_expectations(args)?;
    let generating = [
        ("--size", args.size.is_some()),
        ("--messages", args.messages.is_some()),
        ("--duration", args.duration.is_some()),
        ("--pipeline", args.pipeline.is_some()),
        ("--rate", args.rate.is_some()),
        ("--warmup", args.warmup.is_some()),
        ("--seed", args.seed.is_some()),
        ("--churn", args.churn.is_some()),
        ("--reconnect", args.reconnect),
    ];
    let first = generating.iter().find(|(_, given)| *given).map(|(name, _)| name);
    let Some(first) = first else {
        let texts = args.message.iter().map(|message| message.clone().into_bytes());
        let load = if args.message.is_empty() { Load::tutorial() } else { Load::texts(texts) };
        return Ok(Plan { load: Load { verify, ..load }, ..plan });
    };
    if !args.message.is_empty() {
        return Err(format!("{first} is for generated messages and does not go with --message"));
    }
    if args.duration.is_none() && plan.reconnect {
        return Err("--reconnect goes on until the time is over: give --duration".to_owned());
    }
    if args.duration.is_none() && args.churn.is_some() {
        return Err("--churn goes on until the time is over: give --duration, and not --messages".to_owned());
    }
    if args.churn_rate.is_some() && !args.hold.is_zero() {
        return Err("--hold waits until all connections stand, and with --churn-rate they never do".to_owned());
    }
    if args.messages.is_none() && args.duration.is_none() && args.size.is_none() {
        return Err(format!("{first} needs an end: give --messages or --duration as well"));
    }
    if args.num_conns > MAX_CONNECTION {
        return Err(format!("generated messages tell {MAX_CONNECTION} connections apart, not {}", args.num_conns));
    }
    let size = args.size.unwrap_or(SIZE) as u64;
    let churn = args.churn.map(NonZeroU64::get);
    let messages = match (args.messages, args.duration) {
        (Some(messages), _) => Some(messages.get()),
        (None, Some(_)) => None,
        (None, None) => Some(1),
    };
    let bytes = u128::from(size) * u128::from(messages.unwrap_or(1)) * u128::from(args.num_conns);
    if bytes >= 1 << 63 {
        return Err(format!("--size, --messages and NUM_CONNS together make {bytes} bytes, which is more than 2^63"));
    }
    let pacing = args.rate.map_or_else(|| Pacing::InFlight(args.pipeline.unwrap_or(1)), Pacing::Rate);
    let random = || RandomState::new().build_hasher().finish(); // std's source of random numbers.
    let run = args.seed.unwrap_or_else(random);
    let load = Load {
        content: Content::Generated { run, size },
        pacing,
        messages,
        duration: args.duration,
        churn,
        warmup: args.warmup.unwrap_or_default(),
        verify,
    };
    Ok(Plan { load, ..plan })
}

/// Refuses expectations of what such a run does not have.
fn check_expectations(args: &Args) -> Result<(), String> {
    for expected in &args.expect {
        for needed in expected.needs() {
            let (is_given, why) = match needed {
                "--rate" => (args.rate.is_some(), "only an open loop has a schedule"),
                "--interval" => (args.output.interval.is_some(), "without it there are no intervals"),
                "--churn" => (args.churn.is_some(), "without it no connection takes another's place"),
                "--churn-rate" => (args.churn_rate.is_some(), "without it connections are not due at times"),
                "--reconnect" => (args.reconnect, "without it a connection that failed stays out"),
                other => unreachable!("{other} is no option"),
            };
            if !is_given {
                return Err(format!("--expect '{expected}' goes with {needed}: {why}"));
            }
        }
    }
    Ok(())
}

/// Runs the plan. Returns the report, and whether all files could be written.
fn run(args: &Args, plan: &Plan) -> anyhow::Result<(Report, anyhow::Result<()>)> {
    check_room(plan)?;
    let addrs = sockets::resolve(&args.host, args.port)
        .with_context(|| format!("cannot find the address of {:?}, is the name right?", args.host))?;
    let addrs = reachable(addrs, &plan.sources)?;
    if let Some(warning) = lack_of_ports(plan, addrs[0], sockets::ephemeral_ports(), sockets::time_wait(addrs[0])) {
        warn!("{warning}");
    }
    let mut intervals = destinations(&args.output)?;
    intervals.expect(args.expect.clone(), args.rate.is_some());
    let mut faults = args.output.faults.as_deref().map(FaultLog::create).transpose()?;
    let mut display = Display::new(!args.no_progress, &mut intervals, faults.as_mut());
    let mut findings = client::run(addrs, plan, &mut display)?;
    drop(display);
    if let (Content::Generated { run, .. }, None) = (&plan.load.content, findings.interrupted) {
        // The report matters more than this one figure of it.
        if let Err(error) = accounts::find_ways(&mut findings, *run, plan.timeout.min(MOST_PATIENCE)) {
            warn!("cannot ask the server what it received: {error}");
        }
    }
    let mut report = Report::of(&findings, intervals.expectations());
    let (lines, reports, written) = intervals.finish();
    cli::print_bytes(&lines)?;
    report.intervals = reports;
    Ok((report, written.and(faults.map_or(Ok(()), FaultLog::finish))))
}

/// Where the intervals go.
fn destinations(output: &Output) -> anyhow::Result<Intervals> {
    let mut intervals = Intervals::default();
    match output {
        Output { interval: None, .. } => {}
        Output { json: true, .. } => intervals.report(),
        Output { json_lines: true, .. } => intervals.print(Form::Json),
        _ => intervals.print(Form::Text),
    }
    if let Some(path) = &output.csv {
        intervals.write_csv(path)?;
    }
    if let Some(path) = &output.hdr_log {
        intervals.write_hdr_log(path)?;
    }
    Ok(intervals)
}

/// Refuses, before the first connect, what this system cannot do.
fn check_room(plan: &Plan) -> anyhow::Result<()> {
    let connections = plan.connections;
    let (limit, fit) = cli::raise_descriptor_limit()?;
    anyhow::ensure!(
        connections as usize <= fit,
        "{connections} connections need more descriptors than the {limit} this process may have: raise the limit \
         (ulimit -Hn), or open {fit} at the most"
    );
    for &source in &plan.sources {
        sockets::check_source(source).with_context(|| {
            format!("cannot connect from {source}, is it an address of this host? `ip addr` shows those there are")
        })?;
    }
    if let Some(ports) = sockets::ephemeral_ports() {
        let sources = u64::try_from(plan.sources.len().max(1))?;
        let fit = u64::from(ports) * sources;
        anyhow::ensure!(
            u64::from(connections) <= fit,
            "{connections} connections need more local ports than there are, {ports} for each source address: give more \
             addresses with --source, widen net.ipv4.ip_local_port_range, or open {fit} at the most"
        );
    }
    Ok(())
}

/// What to change if connections come and go faster than the local `ports` of each source are free again. A port is taken
/// for `wait` behind the connection. Where each connection comes as soon as another is over, nobody knows how fast that is.
fn lack_of_ports(plan: &Plan, addr: SocketAddr, ports: Option<u32>, wait: Option<Duration>) -> Option<String> {
    let (ports, wait) = (ports?, wait?);
    let within = wait.min(plan.load.warmup.saturating_add(plan.load.duration?));
    let over = match (plan.churn_rate, plan.load.pacing, plan.load.churn) {
        (Some(rate), ..) => rate.events_within(within),
        (None, Pacing::Rate(rate), Some(messages)) => rate.events_within(within) / messages,
        _ => return None,
    };
    let needed = over.saturating_add(plan.connections.into());
    let there_are = u64::from(ports) * plan.sources.len().max(1) as u64;
    (needed > there_are).then(|| {
        let wait = wait.as_secs_f64();
        format!(
            "connections to {addr} need up to {needed} local ports, each of which is taken for {wait} s after its connection \
             (TIME_WAIT), and there are {there_are}: give more addresses with --source, widen \
             net.ipv4.ip_local_port_range, or set net.ipv4.tcp_tw_reuse to 1"
        )
    })
}

/// Those of `addrs` that can be connected to from `sources`: those of the same family.
fn reachable(addrs: Vec<SocketAddr>, sources: &[IpAddr]) -> anyhow::Result<Vec<SocketAddr>> {
    let Some(source) = sources.first() else { return Ok(addrs) };
    let same: Vec<SocketAddr> = addrs.into_iter().filter(|addr| addr.is_ipv4() == source.is_ipv4()).collect();
    anyhow::ensure!(!same.is_empty(), "--source {source} and the server's address are not of the same family");
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_will_be_in_time_wait_are_reckoned_with_beforehand() {
        let lack = |options: &[&str], seconds| {
            let args = [&["multiconn-client", "192.0.2.1", "7", "100", "--churn", "2"], options].concat();
            let plan = plan(&Args::parse_from(args)).unwrap();
            lack_of_ports(&plan, ([192, 0, 2, 1], 7).into(), Some(28_000), Some(Duration::from_secs(seconds)))
        };
        let far = lack(&["--churn-rate", "500", "--duration", "2m"], 60).unwrap();
        assert!(far.contains(" up to 30100 local ports, each of which is taken for 60 s after"), "{far}");
        assert!(far.contains(" there are 28000: give more addresses with --source"), "{far}");
        assert_eq!(lack(&["--churn-rate", "400", "--duration", "2m"], 60), None);
        assert_eq!(lack(&["--churn-rate", "500", "--duration", "10s"], 60), None, "it is over before");
        assert_eq!(lack(&["--churn-rate", "20k", "--duration", "2m"], 1), None, "the kernel takes them again");
        let two = ["--churn-rate", "500", "--duration", "2m", "--source", "127.0.0.1,127.0.0.2"];
        assert_eq!(lack(&two, 60), None, "each address has its ports");
        assert!(lack(&["--rate", "1000", "--duration", "2m"], 60).is_some(), "two messages a connection");
        assert_eq!(lack(&["--rate", "800", "--duration", "2m"], 60), None);
        assert_eq!(lack(&["--duration", "2m"], 60), None, "nobody knows how fast they come");
    }
}
