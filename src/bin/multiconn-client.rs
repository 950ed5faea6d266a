//! `multiconn-client HOST PORT NUM_CONNS`: the checking client.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use multiconn::cli::{self, Verbosity};
use multiconn::client::{self, Plan, Report};
use multiconn::net;

/// Open many connections to an echo server and compare every byte that comes back
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
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
    #[arg(short, long, value_name = "TEXT", value_parser = message, allow_hyphen_values = true)]
    message: Vec<String>,
    /// Wait so long for a connect to be answered
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::timeout)]
    connect_timeout: Duration,
    /// Give a connection up on which nothing moved for so long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = cli::timeout)]
    timeout: Duration,
    #[command(flatten)]
    verbosity: Verbosity,
}

const EXAMPLES: &str = "\
It logs to standard error and reports on standard output. Exits with 0 if every connection was intact, 1 if not, 2 for
a wrong command line, 130 on Ctrl-C.

Durations are written 500ms, 2s, 1m.

Examples:
  multiconn-client 127.0.0.1 65432 3            the tutorial's run
  multiconn-client -q example.org 7 1000        a report and no log
  multiconn-client ::1 65432 1 -m one -m two    messages of your own";

fn host(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty host means all interfaces and is for servers; name one to connect to".to_owned());
    }
    Ok(text.to_owned())
}

fn message(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("an empty message sends nothing".to_owned()) } else { Ok(text.to_owned()) }
}

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_logging(args.verbosity);
    let report = match run(&args) {
        Ok(report) => report,
        Err(error) => return cli::fail(&error),
    };
    if let Err(error) = cli::print(&report.to_string()) {
        return cli::fail(&error);
    }
    match report.interrupted {
        Some(signal) => ExitCode::from(cli::exit_code_of(signal)),
        None if report.is_intact() => ExitCode::SUCCESS,
        None => ExitCode::from(cli::EXIT_FAILURE),
    }
}

fn run(args: &Args) -> anyhow::Result<Report> {
    let mut plan = Plan {
        connect_timeout: args.connect_timeout,
        timeout: args.timeout,
        unlimited_log: args.verbosity.verbose,
        ..Plan::tutorial(args.num_conns)
    };
    if !args.message.is_empty() {
        plan.messages = args.message.iter().map(|message| message.clone().into_bytes()).collect();
    }
    check_room(args.num_conns)?;
    let addrs = net::resolve(&args.host, args.port)
        .map_err(|error| anyhow::anyhow!("cannot find the address of {:?}: {error}; is the name right?", args.host))?;
    Ok(client::run(addrs, &plan)?)
}

/// Refuses, before the first connect, what this system cannot do.
fn check_room(connections: u32) -> anyhow::Result<()> {
    let (limit, fit) = cli::raise_descriptor_limit()?;
    anyhow::ensure!(
        connections as usize <= fit,
        "{connections} connections need more descriptors than the {limit} this process may have: raise the limit \
         (ulimit -Hn), or open {fit} at the most"
    );
    if let Some(ports) = net::ephemeral_ports() {
        anyhow::ensure!(
            connections <= ports,
            "{connections} connections need more local ports than the {ports} this system has for one destination: widen \
             net.ipv4.ip_local_port_range, or open {ports} at the most"
        );
    }
    Ok(())
}
