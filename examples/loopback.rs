//! The server and the client on one event loop, in one process, on one thread, over real TCP.
//!
//!     cargo run --release --example loopback [NUM_CONNS]
//!
//! A thousand connections, each with two messages, and every byte is compared. A loop has one type of protocol, here
//! [`Side`]: the server's or the client's.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use multiconn::cli::{self, Verbosity};
use multiconn::client::side::Side;
use multiconn::client::{Client, Plan};
use multiconn::report::Report;
use multiconn::server::echo::Echo;
use multiconn::sockets::{self, ListenOptions};
use multiconn::{Event, EventLoop, Limits, Role};

const CONNECTIONS: u32 = 1000;

/// The client's role, which closes the listener when the client is done.
struct Loopback {
    client: Client,
}

impl Role<Side> for Loopback {
    fn advance(&mut self, event_loop: &mut EventLoop<Side>) -> bool {
        let more = self.client.advance(event_loop);
        if !more {
            event_loop.stop_listening();
        }
        more
    }

    fn handle(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) {
        self.client.handle(event, event_loop);
    }
}

fn main() -> ExitCode {
    cli::start_logging(Verbosity { quiet: true, verbose: false }); // RUST_LOG=info shows the lines.
    let count = std::env::args().nth(1).map_or(Ok(CONNECTIONS), |text| cli::count(&text));
    let connections = match count {
        Ok(connections) => connections,
        Err(error) => return cli::misuse(&format!("NUM_CONNS: {error}")),
    };
    match run(connections) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => cli::fail(&error),
    }
}

fn run(connections: u32) -> anyhow::Result<bool> {
    let fit = cli::raise_descriptor_limit()?.1 / 2;
    anyhow::ensure!(
        connections as usize <= fit,
        "each connection takes two descriptors here: open {fit} at the most, or raise the limit (ulimit -Hn)"
    );
    let plan = Plan::tutorial(connections);
    let mut event_loop = EventLoop::new(Limits::default(), plan.timeouts())?;
    event_loop.catch_signals()?;

    let listener = sockets::listen("127.0.0.1", 0, ListenOptions::default()).context("cannot listen on 127.0.0.1")?;
    let addr: SocketAddr = listener.local_addr()?;
    event_loop.listen(listener, |_| Side::Echo(Echo))?;

    let mut role = Loopback { client: Client::new(vec![addr], &plan) };
    event_loop.run(&mut role)?;

    let report = Report::of(&role.client.into_findings(&event_loop), &[]);
    cli::print(&format!("{report}one thread   {} turns of one loop, for both ends\n", event_loop.turns()))?;
    Ok(report.is_intact())
}
