//! Connections that come and go, on bare epoll: the same as `peers/plain_connections.c`, call by call, in Rust.
//!
//! `plain-connections HOST PORT NUM_CONNS K SECONDS [SOURCE...]`. Keeps `NUM_CONNS` open. Each sends a message and waits
//! for as many bytes, K times, then sends its FIN, waits for the other one, closes, and the next is opened in its place.
//! Nothing is checked but lengths. The sources are local addresses to connect from, in turn. When the time is over no
//! more are opened, and those that are open finish.

use std::env;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sys::{EPOLLIN, EPOLLOUT, Epoll, Event, NO_EVENT, is};

const MESSAGE: [u8; 64] = [0; 64];

/// For how many milliseconds nothing may happen. Something was lost then.
const PATIENCE: i32 = 10_000;

struct Connection {
    socket: OwnedFd,
    connecting: bool,
    /// Bytes of the message that is coming back.
    received: usize,
    /// Messages that are not yet back.
    left: u32,
}

impl Connection {
    fn begin(source: Option<Ipv4Addr>, server: SocketAddrV4, messages: u32) -> anyhow::Result<Connection> {
        let socket = sys::begin_connect(source, server).context("connect")?;
        Ok(Connection { socket, connecting: true, received: 0, left: messages })
    }

    /// Does what an event allows. Whether both FINs are through.
    fn advance(&mut self, event: Event) -> anyhow::Result<bool> {
        if self.connecting {
            if is(event, EPOLLOUT) {
                self.connecting = false;
                self.say()?; // If the connect has failed, this fails with its error.
            }
            return Ok(false);
        }
        if !is(event, EPOLLIN) {
            return Ok(false);
        }
        let mut bytes = [0; MESSAGE.len()];
        if self.left == 0 {
            let count = sys::recv(self.socket.as_fd(), &mut bytes).context("recv, for the FIN")?;
            ensure!(count == 0, "more came back than was sent");
            return Ok(true);
        }
        // A part of a message may have come together with the server's FIN, for which there is no event of its own.
        while self.received < MESSAGE.len() {
            match sys::recv(self.socket.as_fd(), &mut bytes[self.received..]) {
                Ok(0) => bail!("the server ended a connection early"),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => bail!("recv: {error}"),
            }
        }
        self.received = 0;
        self.left -= 1;
        if self.left > 0 {
            self.say()?;
        } else {
            sys::shut_down(&self.socket).context("shutdown")?;
        }
        Ok(false)
    }

    fn say(&self) -> anyhow::Result<()> {
        let sent = sys::send(self.socket.as_fd(), &MESSAGE).context("send")?;
        ensure!(sent == MESSAGE.len(), "an empty socket took {sent} bytes only");
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [host, port, count, messages, seconds, sources @ ..] = &arguments[..] else {
        bail!("usage: plain-connections HOST PORT NUM_CONNS K SECONDS [SOURCE...]");
    };
    let server = SocketAddrV4::new(host.parse()?, port.parse()?);
    let (count, messages): (usize, u32) = (count.parse()?, messages.parse()?);
    ensure!(messages > 0, "K is at least 1");
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let sources = sources.iter().map(|source| source.parse()).collect::<Result<Vec<Ipv4Addr>, _>>()?;
    let mut sources = sources.iter().copied().cycle();

    let epoll = Epoll::new()?;
    let began = Instant::now();
    let mut open_at = |place: usize| -> anyhow::Result<Connection> {
        let connection = Connection::begin(sources.next(), server, messages)?;
        epoll.add(connection.socket.as_raw_fd(), place as u64)?;
        Ok(connection)
    };
    let mut places = (0..count).map(|place| open_at(place).map(Some)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut done, mut open, mut is_over) = (0_u64, count, false);
    let mut events = [NO_EVENT; 512];
    while open > 0 {
        let ready = epoll.wait(&mut events, PATIENCE)?;
        ensure!(ready > 0, "nothing came back for 10 s with {open} connections open");
        for &event in &events[..ready] {
            let place = usize::try_from(event.u64)?;
            let Some(connection) = &mut places[place] else { continue };
            if !connection.advance(event)? {
                continue;
            }
            done += 1;
            places[place] = None; // Closes first, so that no more than `count` are open.
            if is_over {
                open -= 1;
            } else {
                places[place] = Some(open_at(place)?);
            }
        }
        is_over = is_over || began.elapsed() >= duration;
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = done as f64 / seconds;
    println!("{{\"connections\":{done},\"measured_seconds\":{seconds:.6},\"connections_per_second\":{rate:.6}}}");
    Ok(())
}
