//! A server whose connections talk to each other: all others receive what one sends, line by line.
//!
//!     cargo run --example chat [HOST [PORT]]
//!     nc 127.0.0.1 65432          in two or more terminals
//!
//! A protocol sees its own connection only. To reach the others it notifies the loop's role, which sees them all: the
//! function given to `run_with` takes the lines out of the protocol and sends them on. A member that does not read what
//! the others say is closed when its buffer is full. So a slow member cannot fill the server's memory.

use std::net::SocketAddr;
use std::process::ExitCode;

use log::info;
use multiconn::cli::{self, Verbosity};
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, EventLoop, Outbox, Protocol, Token};

/// How many bytes of one member's lines are taken at a time. Each line becomes longer by its speaker's address, and the
/// lines have to fit into the others' buffers. The rest waits in the member's own inbound buffer.
const TALK_AT_A_TIME: usize = 16 * 1024;

/// One member: its address, and its lines that were not sent to the others yet.
struct Member {
    addr: SocketAddr,
    said: Vec<u8>,
}

impl Protocol for Member {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") || self.said.len() >= TALK_AT_A_TIME {
                break;
            }
            self.said.extend(format!("{}: ", self.addr).as_bytes());
            self.said.extend(line);
            consumed += line.len();
        }
        if consumed > 0 {
            out.notify();
        }
        consumed
    }
}

fn on_event(event: Event<Member>, event_loop: &mut EventLoop<Member>) {
    match event {
        Event::Accepted { token, addr, .. } => {
            let others = event_loop.open_connections() - 1;
            let _ = event_loop.send(token, format!("you are {addr}; others here: {others}\n").as_bytes());
            tell_others(Some(token), format!("{addr} is here\n").as_bytes(), event_loop);
        }
        Event::Notified { token } => {
            if let Some(member) = event_loop.protocol_mut(token) {
                let said = std::mem::take(&mut member.said);
                tell_others(Some(token), &said, event_loop);
                event_loop.wake(token); // It may have more to say.
            }
        }
        Event::Closed { addr, protocol, .. } => {
            let mut last_words = protocol.said;
            last_words.extend(format!("{addr} is gone\n").as_bytes());
            tell_others(None, &last_words, event_loop);
        }
        _ => {}
    }
}

fn tell_others(speaker: Option<Token>, text: &[u8], event_loop: &mut EventLoop<Member>) {
    let everybody: Vec<Token> = event_loop.connections().map(|(token, _)| token).collect();
    for token in everybody.into_iter().filter(|&token| Some(token) != speaker) {
        if event_loop.send(token, text) != Ok(text.len()) {
            info!("Closing a member who does not read");
            event_loop.close(token);
        }
    }
}

fn main() -> ExitCode {
    cli::start_logging(Verbosity::default());
    let (host, port) = match cli::host_and_port() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::served(serve(&host, port))
}

fn serve(host: &str, port: u16) -> anyhow::Result<Ending> {
    let member = |addr| Member { addr, said: Vec::new() };
    let mut server =
        Server::bind(host, port, &Config::default(), member).map_err(|error| cli::cannot_listen(host, port, &error))?;
    server.catch_signals()?;
    Ok(server.run_with(on_event)?)
}
