//! A TCP proxy: what a client sends goes to a backend, and back.
//!
//!     cargo run --release --example proxy HOST PORT BACKEND_HOST BACKEND_PORT
//!
//! For each client that is accepted, a connection to the backend is opened, and the two are joined: from then on, what
//! the protocol of one answers goes out on the other. The protocol sends all that it receives. Half-closes, resets,
//! slow readers and failures are carried across by the library, each direction by itself (`EventLoop::join`).

use std::process::ExitCode;

use clap::Parser;
use multiconn::cli::{self, Verbosity};
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, ListenerConfig, Outbox, Protocol, sockets};

/// Forward each TCP connection to a backend, and back
#[derive(Debug, Parser)]
struct Args {
    /// Address or name to listen on; "" for all interfaces
    host: String,
    /// Port to listen on; 0 for any free one
    port: u16,
    /// Address or name of the backend
    backend_host: String,
    /// Port of the backend
    backend_port: u16,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// One end of a client's way to the backend.
struct Forward;

impl Protocol for Forward {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        input.len()
    }
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
    let backend = sockets::resolve(&args.backend_host, args.backend_port)?[0];
    // Each client takes two descriptors. One that finds none waits in the backlog.
    let clients = ListenerConfig { connections: (cli::connection_cap(None)? / 2).max(1), ..ListenerConfig::default() };
    let config = Config { listener: clients, ..Config::default() };
    let mut server = Server::bind(&args.host, args.port, &config, |_| Forward)
        .map_err(|error| cli::cannot_listen(&args.host, args.port, &error))?;
    server.catch_signals()?;
    let ending = server.run_with(move |event, event_loop| {
        if let Event::Accepted { token, .. } = event {
            let there = event_loop.connect(backend, Forward);
            if !event_loop.join(token, there) {
                event_loop.reset(token); // There was no descriptor for the connect, say.
            }
        }
    })?;
    Ok(ending)
}
