//! The plain generator: a raw epoll loop that keeps messages in flight and compares every byte that comes back.
//!
//! Owns its connections and the closed loop on them, and the same for connections that are opened and closed one after
//! the other. It shares no code with the client that the product has, so that this is not the judge of its own server.
//! One receive and one send a message, or for all the messages that one receive brought.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use sys::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Epoll, Event, NO_EVENT, is};

/// The stream of each connection repeats after so many bytes. A prime, so that no message begins as the one before it
/// did, and lost or repeated ones are found.
const PERIOD: usize = 4093;

/// The most that one send is offered, and one receive can take.
const PIECE: usize = 256 * 1024;

/// Nothing came back for so long: the server has lost something.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time that is told apart, one minute in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// What was seen between the two ends of the measured time.
#[derive(Debug)]
pub struct Window {
    pub messages: u64,
    /// With those before and behind the measured time.
    pub all_messages: u64,
    pub seconds: f64,
    /// What the server used meanwhile.
    pub server_cpu: Duration,
    /// What the generator used meanwhile.
    pub generator_cpu: Duration,
    /// Nanoseconds from the sending of each message to its last byte back.
    pub times: Histogram<u32>,
}

/// Source addresses in turn: each has ports of its own.
pub fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(number % 200 + 1).unwrap_or(1))
}

/// The bytes of all streams: any `PIECE` from any place within the period is one slice of it.
fn pattern() -> Vec<u8> {
    let mut state = 0x2545_F491_u32;
    let period: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    })
    .take(PERIOD)
    .collect();
    period.iter().copied().cycle().take(PERIOD + PIECE).collect()
}

/// Whether `bytes` are those of a stream from `position` on. In pieces of the period, so that what they are compared
/// with stays in the first-level cache.
fn is_pattern(pattern: &[u8], mut position: usize, bytes: &[u8]) -> bool {
    bytes.chunks(PERIOD).all(|chunk| {
        let expected = &pattern[position..position + chunk.len()];
        position = (position + chunk.len()) % PERIOD;
        chunk == expected
    })
}

/// The measured part of a run: it begins when the warm-up is over and ends when its time is.
struct Clock<'a> {
    began: Instant,
    warm_up: Duration,
    window: Duration,
    server_cpu: &'a dyn Fn() -> io::Result<Duration>,
    start: Option<Start>,
    messages: u64,
    all_messages: u64,
    times: Histogram<u32>,
}

#[derive(Clone, Copy)]
struct Start {
    at: Duration,
    server: Duration,
    own: Duration,
}

impl<'a> Clock<'a> {
    fn new(
        warm_up: Duration,
        window: Duration,
        server_cpu: &'a dyn Fn() -> io::Result<Duration>,
    ) -> anyhow::Result<Clock<'a>> {
        let times = Histogram::new_with_bounds(100, LONGEST, 3)?;
        Ok(Clock {
            began: Instant::now(),
            warm_up,
            window,
            server_cpu,
            start: None,
            messages: 0,
            all_messages: 0,
            times,
        })
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts messages that took `times` each.
    fn count(&mut self, times: impl ExactSizeIterator<Item = Duration>) {
        self.all_messages += times.len() as u64;
        if self.start.is_some() {
            self.messages += times.len() as u64;
            for time in times {
                self.times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }

    /// Looks whether the measured part begins or ends at this moment. The counts of what it saw, when it has ended.
    fn advance(&mut self) -> anyhow::Result<Option<Window>> {
        let now = self.now();
        let Some(start) = self.start else {
            if now >= self.warm_up {
                let (server, own) = ((self.server_cpu)()?, sys::own_cpu_time()?);
                self.start = Some(Start { at: self.now(), server, own });
            }
            return Ok(None);
        };
        if now < start.at + self.window {
            return Ok(None);
        }
        let (server, own, end) = ((self.server_cpu)()?, sys::own_cpu_time()?, self.now());
        Ok(Some(Window {
            messages: self.messages,
            all_messages: 0,
            seconds: end.saturating_sub(start.at).as_secs_f64(),
            server_cpu: server.saturating_sub(start.server),
            generator_cpu: own.saturating_sub(start.own),
            times: self.times.clone(),
        }))
    }
}

/// Connections that keep messages in flight.
pub struct Generator {
    epoll: Epoll,
    connections: Vec<Connection>,
    size: usize,
    in_flight: usize,
    spin: bool,
    pattern: Vec<u8>,
    scratch: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// Where its stream is, modulo the period: what is sent next, and what comes next.
    send_at: usize,
    receive_at: usize,
    /// Bytes that are to be sent.
    owed: usize,
    /// Bytes of the message that is coming back.
    partial: usize,
    /// When each message in flight was begun, the oldest at `oldest`.
    begun: Box<[Duration]>,
    oldest: usize,
    /// Messages in flight.
    pending: usize,
}

impl Generator {
    /// One without connections yet.
    pub fn new(size: usize, in_flight: usize, spin: bool) -> io::Result<Generator> {
        Ok(Generator {
            epoll: Epoll::new()?,
            connections: Vec::new(),
            size,
            in_flight,
            spin,
            pattern: pattern(),
            scratch: vec![0; PIECE],
        })
    }

    /// Opens so many more connections.
    pub fn connect(&mut self, port: u16, count: usize) -> anyhow::Result<()> {
        for number in self.connections.len()..self.connections.len() + count {
            let socket = sys::connect(source(number), port).with_context(|| format!("connection {}", number + 1))?;
            sys::reset_when_closed(&socket)?;
            self.epoll.add(socket.as_raw_fd(), number as u64)?;
            let place = number * 127 % PERIOD;
            self.connections.push(Connection {
                socket,
                send_at: place,
                receive_at: place,
                owed: 0,
                partial: 0,
                begun: vec![Duration::ZERO; self.in_flight].into(),
                oldest: 0,
                pending: 0,
            });
        }
        Ok(())
    }

    /// Sends and compares for `warm_up`, measures for `window`, then waits until everything is back.
    pub fn run(
        &mut self,
        warm_up: Duration,
        window: Duration,
        server_cpu: &dyn Fn() -> io::Result<Duration>,
    ) -> anyhow::Result<Window> {
        let Generator { epoll, connections, size, in_flight, spin, pattern, scratch } = self;
        let mut clock = Clock::new(warm_up, window, server_cpu)?;
        for connection in &mut *connections {
            connection.begin(*in_flight, *size, clock.now());
            connection.send(pattern)?;
        }
        let mut result = None;
        let mut events = [NO_EVENT; 512];
        let mut pending = connections.len() * *in_flight;
        let mut last = Instant::now();
        while pending > 0 {
            let count = epoll.wait(&mut events, if *spin { 0 } else { 1000 })?;
            for &event in &events[..count] {
                let connection = &mut connections[usize::try_from(event.u64)?];
                ensure!(!is(event, EPOLLRDHUP | EPOLLHUP | EPOLLERR), "the server ended a connection");
                if is(event, EPOLLIN) {
                    let done = connection.receive(scratch, pattern, *size, Some(&mut clock))?;
                    if result.is_none() {
                        connection.begin(done, *size, clock.now());
                    } else {
                        pending -= done;
                    }
                }
                connection.send(pattern)?;
            }
            if count > 0 {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                bail!("nothing came back for {PATIENCE:?} with {pending} messages in flight");
            }
            if result.is_none() {
                result = clock.advance()?;
            }
        }
        let result = result.context("nothing to do")?;
        Ok(Window { all_messages: clock.all_messages, ..result })
    }
}

impl Connection {
    /// Owes so many more messages.
    fn begin(&mut self, count: usize, size: usize, now: Duration) {
        let room = self.begun.len();
        for _ in 0..count {
            self.begun[(self.oldest + self.pending) % room] = now;
            self.pending += 1;
        }
        self.owed += count * size;
    }

    /// Sends what is owed, as far as the socket takes it; an edge tells when it takes more.
    fn send(&mut self, pattern: &[u8]) -> anyhow::Result<()> {
        while self.owed > 0 {
            let piece = &pattern[self.send_at..self.send_at + self.owed.min(PIECE)];
            match sys::send(self.socket.as_fd(), piece) {
                Ok(sent) => {
                    self.owed -= sent;
                    self.send_at = (self.send_at + sent) % PERIOD;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => bail!("sending: {error}"),
            }
        }
        Ok(())
    }

    /// Reads and compares what is there. Returns how many messages came back whole.
    fn receive(
        &mut self,
        scratch: &mut [u8],
        pattern: &[u8],
        size: usize,
        mut clock: Option<&mut Clock<'_>>,
    ) -> anyhow::Result<usize> {
        let mut done = 0;
        loop {
            match sys::recv(self.socket.as_fd(), scratch) {
                Ok(0) => bail!("the server ended a connection"),
                Ok(count) => {
                    ensure!(is_pattern(pattern, self.receive_at, &scratch[..count]), "other bytes came back");
                    self.receive_at = (self.receive_at + count) % PERIOD;
                    self.partial += count;
                    let whole = self.partial / size;
                    self.partial %= size;
                    ensure!(whole <= self.pending, "more came back than was sent");
                    if whole > 0 {
                        let room = self.begun.len();
                        if let Some(clock) = &mut clock {
                            let now = clock.now();
                            clock.count(
                                (0..whole).map(|index| now.saturating_sub(self.begun[(self.oldest + index) % room])),
                            );
                        }
                        self.oldest = (self.oldest + whole) % room;
                        self.pending -= whole;
                        done += whole;
                    }
                    if count < scratch.len() {
                        return Ok(done);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(done),
                Err(error) => bail!("receiving: {error}"),
            }
        }
    }
}

/// Opens `count` connections, sends one small message there and back on each, and leaves them alone.
pub fn hold(port: u16, count: usize) -> anyhow::Result<Generator> {
    let mut held = Generator::new(64, 1, false)?;
    // In batches: those whom the server has yet to accept all fit into its backlog.
    while held.connections.len() < count {
        let batch = 500.min(count - held.connections.len());
        held.connect(port, batch)?;
        for connection in held.connections.iter_mut().rev().take(batch) {
            connection.begin(1, 64, Duration::ZERO);
            connection.send(&held.pattern)?;
        }
        let mut events = [NO_EVENT; 512];
        let mut missing = batch;
        while missing > 0 {
            let count = held.epoll.wait(&mut events, 10_000)?;
            ensure!(count > 0, "nothing came back on {missing} new connections");
            for event in events[..count].iter().filter(|event| is(**event, EPOLLIN)) {
                let connection = &mut held.connections[usize::try_from(event.u64)?];
                missing -= connection.receive(&mut held.scratch, &held.pattern, 64, None)?;
            }
        }
    }
    Ok(held)
}

/// One place of the churn.
struct Visit {
    socket: OwnedFd,
    begun: Duration,
    /// Bytes that came back; none before the connect is through.
    received: usize,
    sent: bool,
}

/// Connects, sends `size` bytes there and back, closes and begins again, at `at_a_time` places. What is counted, and
/// timed from the connect on, are whole visits.
pub fn churn(
    port: u16,
    at_a_time: usize,
    size: usize,
    (warm_up, window): (Duration, Duration),
    server_cpu: &dyn Fn() -> io::Result<Duration>,
) -> anyhow::Result<Window> {
    let (epoll, pattern, mut scratch) = (Epoll::new()?, pattern(), vec![0; size]);
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let message = &pattern[..size];
    let mut clock = Clock::new(warm_up, window, server_cpu)?;
    let mut number = 0;
    let mut visit = |place: usize, begun: Duration| -> io::Result<Visit> {
        number += 1;
        let socket = sys::begin_connect(Some(source(number)), server)?;
        epoll.add(socket.as_raw_fd(), place as u64)?;
        Ok(Visit { socket, begun, received: 0, sent: false })
    };
    let mut places = Vec::new();
    for place in 0..at_a_time {
        places.push(Some(visit(place, clock.now())?));
    }
    let mut result = None;
    let mut open = at_a_time;
    let mut events = [NO_EVENT; 512];
    while open > 0 {
        let count = epoll.wait(&mut events, 10_000)?;
        ensure!(count > 0, "nothing came back for 10 s with {open} connections open");
        for &event in &events[..count] {
            let place = usize::try_from(event.u64)?;
            let Some(current) = &mut places[place] else { continue };
            if !current.advance(event, message, &mut scratch)? {
                continue;
            }
            let now = clock.now();
            clock.count(std::iter::once(now.saturating_sub(current.begun)));
            places[place] = None; // Closes first, so that no more than `at_a_time` are open.
            if result.is_none() {
                places[place] = Some(visit(place, now)?);
            } else {
                open -= 1;
            }
        }
        if result.is_none() {
            result = clock.advance()?;
        }
    }
    let result = result.context("nothing to do")?;
    Ok(Window { all_messages: clock.all_messages, ..result })
}

impl Visit {
    /// Does what an event allows. Whether the whole message is back.
    fn advance(&mut self, event: Event, message: &[u8], scratch: &mut [u8]) -> anyhow::Result<bool> {
        ensure!(!is(event, EPOLLRDHUP | EPOLLHUP | EPOLLERR), "the server refused or ended a connection");
        if is(event, EPOLLOUT) && !self.sent {
            let sent = sys::send(self.socket.as_fd(), message)?;
            ensure!(sent == message.len(), "an empty socket took {sent} bytes only");
            self.sent = true;
        }
        if is(event, EPOLLIN) {
            let expected = &message[self.received..];
            let count = sys::recv(self.socket.as_fd(), &mut scratch[..expected.len()])?;
            ensure!(count > 0 && scratch[..count] == expected[..count], "other bytes came back");
            self.received += count;
        }
        Ok(self.received == message.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_from_any_place_and_a_change_is_seen() {
        let pattern = pattern();
        let stream: Vec<u8> = pattern[..PERIOD].iter().copied().cycle().take(5 * PERIOD).collect();
        for place in [0, 1, PERIOD - 1] {
            let mut bytes = stream[place..place + 3 * PERIOD].to_vec();
            assert!(is_pattern(&pattern, place, &bytes));
            assert!(!is_pattern(&pattern, (place + 1) % PERIOD, &bytes));
            bytes[2 * PERIOD + 7] ^= 1;
            assert!(!is_pattern(&pattern, place, &bytes));
        }
    }
}
