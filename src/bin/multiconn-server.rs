//! `multiconn-server HOST PORT`: the echo server.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use multiconn::cli::{self, TimeLimit, Verbosity, table};
use multiconn::internals::event_loop::Limits;
use multiconn::internals::sockets::ListenOptions;
use multiconn::partner::{Partner, Partners};
use multiconn::server::echo::Echo;
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, EventLoop, Protocol};

/// Echo every byte of every TCP connection, on one thread
#[derive(Debug, Parser)]
#[command(name = "multiconn-server", version, after_help = EXAMPLES, max_term_width = cli::HELP_WIDTH)]
struct Args {
    /// Address or name to listen on; "" for all interfaces
    #[arg(value_parser = cli::host)]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(value_parser = cli::any_port, allow_negative_numbers = true)]
    port: u16,
    /// Connections that may wait to be accepted
    #[arg(long, value_name = "N", default_value = "4096", value_parser = cli::count)]
    backlog: u32,
    /// Connections at once; more wait in the backlog [default: the limit of open files less 16]
    #[arg(long, value_name = "N", value_parser = cli::count)]
    max_connections: Option<u32>,
    /// How long nothing may move on a connection before it is ended
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = cli::timeout_or_off)]
    idle_timeout: TimeLimit,
    /// How long a peer may read nothing while bytes wait for it before its connection is closed. A reader that takes
    /// less than about 600 KB in this time may be closed too: with the default, one slower than 10 KB/s
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = cli::timeout_or_off)]
    stall_timeout: TimeLimit,
    /// How long to wait for peers to finish before exiting
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = cli::duration)]
    drain_timeout: Duration,
    /// Bytes kept for one peer that does not read
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = cli::buffer_size)]
    connection_buffer: usize,
    /// Bytes kept for all peers together
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = cli::buffer_size)]
    total_buffer: usize,
    /// Let several processes listen on the port, each with a share of the connections
    #[arg(long)]
    reuse_port: bool,
    /// How long to poll without sleeping after the last event: quicker answers, for up to a whole core
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = cli::duration)]
    busy_poll: Duration,
    /// Be a partner to multiconn-probe and multiconn-client: do what a connection's first line asks for, and keep an
    /// account of what came in
    #[arg(long)]
    probes: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

const EXAMPLES: &str = "\
It logs to standard error. Ctrl-C and SIGTERM make it finish its connections and exit; a second signal ends it at \
once. `kill -USR1 PID` makes it print a table of its connections.

Numbers are written 5000 or 5k; durations 500ms, 2s, 1m; sizes 4096, 64KiB, 1MB.

Examples:
  # This host only
  multiconn-server 127.0.0.1 65432
  # All interfaces, IPv6 and IPv4
  multiconn-server \"\" 65432
  # A free port, idle peers ended
  multiconn-server :: 0 --idle-timeout 5m
  # The far end of a path that multiconn-probe looks into
  multiconn-server \"\" 65432 --probes";

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_logging(args.verbosity);
    cli::served(run(&args))
}

fn run(args: &Args) -> anyhow::Result<Ending> {
    let asked = args.max_connections.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let config = Config {
        listen: ListenOptions { backlog: args.backlog, reuse_port: args.reuse_port },
        limits: Limits {
            connections: cli::connection_cap(asked)?,
            connection_buffer: args.connection_buffer,
            total_buffer: args.total_buffer,
        },
        idle_timeout: args.idle_timeout.0,
        stall_timeout: args.stall_timeout.0,
        drain_timeout: args.drain_timeout,
        busy_poll: args.busy_poll,
        ..Config::default()
    };
    if args.probes {
        let mut partners = Partners::default();
        return serve(args, &config, Partner::default, move |event, event_loop| {
            partners.handle(&event, event_loop);
            table::on_request(event, event_loop);
        });
    }
    serve(args, &config, || Echo, table::on_request)
}

/// Serves until a signal ends the server, each peer with a new protocol.
fn serve<P: Protocol>(
    args: &Args,
    config: &Config,
    protocol: impl Fn() -> P + 'static,
    on_event: impl FnMut(Event<P>, &mut EventLoop<P>),
) -> anyhow::Result<Ending> {
    let mut server = Server::bind(&args.host, args.port, config, move |_| protocol())
        .map_err(|error| cli::cannot_listen(&args.host, args.port, &error))?;
    server.catch_signals()?;
    Ok(server.run_with(on_event)?)
}
