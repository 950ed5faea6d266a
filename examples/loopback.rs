//! The server and the client on one event loop, in one process, on one thread, over real TCP.
//!
//!     cargo run --release --example loopback [NUM_CONNS]
//!
//! A thousand connections, each with two messages, every byte compared. A loop has one type of protocol; where two
//! kinds of connections share it, that is an enum of both.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use multiconn::cli::{self, Verbosity};
use multiconn::client::{CarriesExchange, Client, Plan};
use multiconn::event_loop::{Event, EventLoop, Limits, Role};
use multiconn::moment::Clock;
use multiconn::narrator::Voice;
use multiconn::net::{self, ListenOptions};
use multiconn::protocol::echo::Echo;
use multiconn::protocol::exchange::Exchange;
use multiconn::protocol::{Expects, Outbox, Produced, Protocol};

const CONNECTIONS: u32 = 1000;

/// Either end of a connection.
enum Side {
    Server(Echo),
    Client(Exchange),
}

impl Protocol for Side {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self {
            Side::Server(echo) => echo.receive(input, out),
            Side::Client(exchange) => exchange.receive(input, out),
        }
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        match self {
            Side::Server(echo) => echo.produce(space, clock),
            Side::Client(exchange) => exchange.produce(space, clock),
        }
    }

    fn finish<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        match self {
            Side::Server(echo) => echo.finish(rest, out),
            Side::Client(exchange) => exchange.finish(rest, out),
        }
    }

    fn answers(&self) -> bool {
        match self {
            Side::Server(echo) => echo.answers(),
            Side::Client(exchange) => exchange.answers(),
        }
    }

    fn expects(&self) -> Expects {
        match self {
            Side::Server(echo) => echo.expects(),
            Side::Client(exchange) => exchange.expects(),
        }
    }
}

impl From<Exchange> for Side {
    fn from(exchange: Exchange) -> Side {
        Side::Client(exchange)
    }
}

impl CarriesExchange for Side {
    fn exchange(&self) -> Option<&Exchange> {
        match self {
            Side::Server(_) => None,
            Side::Client(exchange) => Some(exchange),
        }
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Side::Server(_) => None,
            Side::Client(exchange) => Some(exchange),
        }
    }
}

/// The client's role; when it is done, so is the server.
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
    let mut event_loop = EventLoop::new(Limits::default(), plan.timeouts(), Voice::SILENT)?;
    event_loop.catch_signals()?;

    let listener = net::listen("127.0.0.1", 0, ListenOptions::default()).context("cannot listen on 127.0.0.1")?;
    let addr: SocketAddr = listener.local_addr()?;
    event_loop.listen(listener, |_| Side::Server(Echo))?;

    let mut role = Loopback { client: Client::new(vec![addr], &plan) };
    event_loop.run(&mut role)?;

    let report = role.client.into_report(&event_loop);
    cli::print(&format!("{report}one thread   {} turns of one loop, for both ends\n", event_loop.turns()))?;
    Ok(report.is_intact())
}
