//! `multiconn-probe HOST PORT`: what the path to an echo server does to TCP.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use log::info;
use multiconn::cli::{self, Verbosity};
use multiconn::internals::sockets;
use multiconn::probe::behaviour::{Expected, Verdict};
use multiconn::probe::{self, BEHAVIOURS, MOST_AT_ONCE, Settings, table};

/// Find out what the path to an echo server does to half-closes, resets, sizes, idleness and slow readers
#[derive(Debug, Parser)]
#[command(name = "multiconn-probe", version, after_help = EXAMPLES, max_term_width = cli::HELP_WIDTH)]
struct Args {
    /// Address or name of the server
    #[arg(value_parser = cli::host, required_unless_present = "list")]
    host: Option<String>,
    /// Port of the server
    #[arg(value_parser = cli::port, allow_negative_numbers = true, required_unless_present = "list")]
    port: Option<u16>,
    /// Try only these behaviours
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = behaviour)]
    only: Vec<&'static str>,
    /// Try all behaviours but these
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = behaviour, conflicts_with = "only")]
    skip: Vec<&'static str>,
    /// The longest time for which a connection is left alone
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = cli::timeout)]
    idle_max: Duration,
    /// The largest single message
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = cli::size)]
    size_max: usize,
    /// How long nothing may move where something should
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::timeout)]
    timeout: Duration,
    /// What is in order on this path, such as half-close=cut; may be repeated
    #[arg(long, value_name = "NAME=VERDICT", value_parser = expected)]
    expect: Vec<Expected>,
    /// Print the rows as one JSON object
    #[arg(long)]
    json: bool,
    /// Print the names of the behaviours and what each finds out
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

const EXAMPLES: &str = "\
Works against any echo server: multiconn-server, socat EXEC:cat, xinetd's echo. Some behaviours need \
`multiconn-server --probes` there, as `--list` says. Each is carried, changed (it comes out as something else), cut (bytes \
are lost, or a connection is ended), silent (nothing comes any more) or refused. Exits with 0 if all are carried, or are \
as expected; with 1 if one is not; with 2 after a wrong command line.

Examples:
  # Everything, in a quarter of a minute
  multiconn-probe echo.example.net 65432
  # A proxy that is known to end idle connections, in a script
  multiconn-probe ::1 65432 --expect idle=cut --json
  # A NAT that forgets after five minutes?
  multiconn-probe 192.0.2.1 65432 --only idle,long --idle-max 6m";

/// The name of a behaviour.
fn behaviour(text: &str) -> Result<&'static str, String> {
    let known = BEHAVIOURS.iter().map(|known| known.name);
    known.clone().find(|&name| name == text).ok_or_else(|| {
        let known: Vec<&str> = known.collect();
        format!("there is no such behaviour; there are {}", known.join(", "))
    })
}

fn expected(text: &str) -> Result<Expected, String> {
    let (name, verdict) = text.split_once('=').ok_or("write it like half-close=cut")?;
    let known = Verdict::ALL.map(Verdict::name).join(", ");
    let verdict = Verdict::ALL.into_iter().find(|known| known.name() == verdict);
    Ok(Expected {
        name: behaviour(name)?,
        verdict: verdict.ok_or(format!("there is no such verdict; there are {known}"))?,
    })
}

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_logging(args.verbosity);
    match run(&args) {
        Ok(code) => code,
        Err(error) => cli::fail(&error),
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (Some(host), Some(port), false) = (&args.host, args.port, args.list) else {
        cli::print(&table::behaviours())?;
        return Ok(ExitCode::SUCCESS);
    };
    let addrs = sockets::resolve(host, port)
        .with_context(|| format!("cannot find the address of {host:?}, is the name right?"))?;
    let wanted = |name: &&'static str| {
        *name == "echo" || if args.only.is_empty() { !args.skip.contains(name) } else { args.only.contains(name) }
    };
    let settings = Settings {
        idle_max: args.idle_max,
        size_max: u64::try_from(args.size_max)?,
        timeout: args.timeout,
        chosen: BEHAVIOURS.iter().map(|known| known.name).filter(wanted).collect(),
        run: RandomState::new().build_hasher().finish(),
    };
    let (limit, fit) = cli::raise_descriptor_limit()?;
    anyhow::ensure!(
        fit >= MOST_AT_ONCE || !settings.chosen.contains(&"together"),
        "the limit of {limit} open files is too low for {MOST_AT_ONCE} connections at once: raise it (ulimit -n), or \
         --skip together"
    );
    if io::stderr().is_terminal() {
        // Nothing else is printed before the end, and who waits wonders.
        let seconds = (args.idle_max + Duration::from_secs(3)).as_secs();
        info!("Trying {} behaviours, for less than {seconds} s if all are carried", settings.chosen.len());
    }
    let probed = probe::probe(&addrs, &settings)?;
    // What was asked for by name has to be tried as well.
    let named = args.only.iter().map(|&name| Expected { name, verdict: Verdict::Carried });
    let expected: Vec<Expected> = named.chain(args.expect.iter().copied()).collect();
    let text = if args.json { table::json(&probed, &expected) } else { table::text(&probed, &expected) };
    cli::print(&text)?;
    Ok(match probed.interrupted {
        Some(signal) => ExitCode::from(cli::exit_code_of(signal)),
        None if probed.is_as_expected(&expected) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}
