//! A ticker: a line a second to everybody who is connected, whatever they send.
//!
//!     cargo run --example ticker [HOST [PORT [PERIOD]]]
//!     nc 127.0.0.1 65432          in as many terminals as you like
//!
//! The loop has one timer (`EventLoop::set_timer`), which goes off once (`Event::Timer`) and is then set again. While
//! nobody is connected it is not set, and the process sleeps.
//!
//! A reader that is too slow misses lines: it gets no new one while an older one waits for it. It never gets a part of a
//! line, the others never wait for it, and the numbers of the lines tell it how many it missed. If it reads nothing for
//! a minute while a line waits, it is closed (`Config::stall_timeout`).

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use multiconn::cli::{self, Verbosity, table};
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, EventLoop, Moment, Outbox, Protocol, Token};

/// Send a line to every connection, again and again
#[derive(Debug, Parser)]
struct Args {
    /// Address or name to listen on; "" for all interfaces
    #[arg(default_value = "127.0.0.1", value_parser = cli::host)]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(default_value = "65432", value_parser = cli::any_port)]
    port: u16,
    /// Time from one line to the next
    #[arg(default_value = "1s", value_parser = cli::duration)]
    period: Duration,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// A connection that only reads. What it sends is thrown away.
struct Reader;

impl Protocol for Reader {
    fn receive<'a>(&mut self, input: &'a [u8], _: &mut Outbox<'a>) -> usize {
        input.len()
    }
}

struct Ticker {
    period: Duration,
    /// When the next line is due; `None` while nobody is connected.
    due: Option<Moment>,
    lines: u64,
}

impl Ticker {
    fn handle(&mut self, event: &Event<Reader>, event_loop: &mut EventLoop<Reader>) -> io::Result<()> {
        let next = match (event, self.due) {
            (Event::Accepted { .. }, None) => event_loop.now().plus(self.period),
            (Event::Timer, Some(due)) => {
                self.send_line(event_loop);
                // Counted from when this line was due, so that small delays do not add up. A process that was stopped for
                // long does not make up for the lines that it missed.
                due.plus(self.period).max(event_loop.now())
            }
            _ => return Ok(()),
        };
        self.due = (event_loop.open_connections() > 0).then_some(next);
        event_loop.set_timer(self.due)
    }

    fn send_line(&mut self, event_loop: &mut EventLoop<Reader>) {
        self.lines += 1;
        let line = format!("line {}, to {}\n", self.lines, event_loop.open_connections());
        let everybody = event_loop.connections();
        let in_time = everybody.filter(|(_, connection)| connection.outbound_len() == 0).map(|(token, _)| token);
        for token in in_time.collect::<Vec<Token>>() {
            // An empty queue has room for a line. A connection that is about to end takes none, which is no fault.
            let _ = event_loop.send(token, line.as_bytes());
        }
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
    let mut server = Server::bind(&args.host, args.port, &Config::default(), |_| Reader)
        .map_err(|error| cli::cannot_listen(&args.host, args.port, &error))?;
    server.catch_signals()?;
    let mut ticker = Ticker { period: args.period, due: None, lines: 0 };
    let mut outcome = Ok(());
    let ending = server.run_with(|event, event_loop| {
        if let Err(error) = ticker.handle(&event, event_loop) {
            outcome = Err(error); // There was no descriptor for the timer, say.
            event_loop.stop();
        }
        table::on_request(event, event_loop); // kill -USR1 shows who is slow.
    })?;
    outcome?;
    Ok(ending)
}
