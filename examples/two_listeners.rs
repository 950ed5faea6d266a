//! An echo on one port, and on another one a page of text that says how the echo is doing.
//!
//!     cargo run --example two_listeners [HOST [PORT [STATUS_PORT]]]
//!     nc 127.0.0.1 65432          the echo
//!     nc 127.0.0.1 65433          its status
//!     kill -USR1 PID              the table of connections, with their listeners
//!
//! One server may have several listeners (`Server::listen_also`), each with a name for the log and a limit of its own: while
//! the echo port is full, the status port answers. All connections of a loop have one type of protocol, here an enum. The
//! page is written by the role, which sees all connections, when a connection to the status port is accepted: so no
//! state is shared.

use std::process::ExitCode;

use clap::Parser;
use multiconn::cli::{self, Verbosity, table};
use multiconn::server::{Config, Ending, Server};
use multiconn::sockets::ListenOptions;
use multiconn::{Event, EventLoop, ListenerConfig, Moment, Outbox, Protocol};

/// How many may ask for the page at a time. Each is answered at once, but a peer that does not close takes a place until
/// the drain timeout is over.
const STATUS_CONNECTIONS: usize = 16;

/// Echo on one port, and report on another one
#[derive(Debug, Parser)]
struct Args {
    /// Address or name to listen on; "" for all interfaces
    #[arg(default_value = "127.0.0.1", value_parser = cli::host)]
    host: String,
    /// Port of the echo; 0 for any free one
    #[arg(default_value = "65432", value_parser = cli::any_port)]
    port: u16,
    /// Port of the status page; 0 for any free one
    #[arg(default_value = "65433", value_parser = cli::any_port)]
    status_port: u16,
    /// Connections to the echo at once; more wait in the backlog
    #[arg(long, value_name = "N", default_value = "1000", value_parser = cli::count)]
    echo_connections: u32,
    #[command(flatten)]
    verbosity: Verbosity,
}

enum Service {
    Echo,
    Status,
}

impl Protocol for Service {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self {
            Service::Echo => out.send(input),
            // The page was sent before anything was read. A peer that goes on sending cannot keep its place by that.
            Service::Status => out.finish(),
        }
        input.len()
    }
}

/// The echo's connections that are over. The loop counts those that are open.
#[derive(Default)]
struct Past {
    connections: usize,
    bytes: u64,
}

fn page(past: &Past, event_loop: &EventLoop<Service>) -> String {
    let (mut open, mut bytes) = (0, past.bytes);
    for (_, connection) in event_loop.connections() {
        if matches!(connection.protocol(), Service::Echo) {
            open += 1;
            bytes += connection.received();
        }
    }
    let in_all = open + past.connections;
    let uptime = event_loop.now().since(Moment::START).as_secs();
    format!("echo    {open} open, {in_all} in all\nbytes   {bytes}\nuptime  {uptime} s\n")
}

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_logging(args.verbosity);
    cli::served(serve(&args))
}

fn serve(args: &Args) -> anyhow::Result<Ending> {
    cli::raise_descriptor_limit()?;
    let on_echo = ListenerConfig { name: "echo", connections: args.echo_connections as usize };
    let on_status = ListenerConfig { name: "status", connections: STATUS_CONNECTIONS };
    let config = Config { listener: on_echo, ..Config::default() };
    let mut server = Server::bind(&args.host, args.port, &config, |_| Service::Echo)
        .map_err(|error| cli::cannot_listen(&args.host, args.port, &error))?;
    let (status, _) = server
        .listen_also(&args.host, args.status_port, ListenOptions::default(), on_status, |_| Service::Status)
        .map_err(|error| cli::cannot_listen(&args.host, args.status_port, &error))?;
    server.catch_signals()?;
    let mut past = Past::default();
    let ending = server.run_with(move |event, event_loop| match event {
        Event::Accepted { token, listener, .. } if listener == status => {
            let page = page(&past, event_loop);
            let _ = event_loop.send(token, page.as_bytes()); // Nothing waits there yet, so a page has room.
            event_loop.shut_down(token);
        }
        Event::Closed { protocol: Service::Echo, received, .. } => {
            past.connections += 1;
            past.bytes += received;
        }
        event => table::on_request(event, event_loop),
    })?;
    Ok(ending)
}
