//! One connection: its buffers, its two directions and everything that can happen to a byte on the way.
//!
//! Owns the transport, both buffers, the sticky readiness flags, the half-close state and all policy about errors of
//! reading and writing. Never waits, never reads a clock, never touches the poller or another connection: the loop says
//! what became ready and when to act, and is told what came of it. Generic over its [`Transport`], so that short
//! writes, lost edges and resets are tested without a socket.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use crate::buffer::{self, SendBuffer};
use crate::moment::{Clock, Moment};
use crate::narrator::Narrator;
use crate::protocol::{Expects, Outbox, Produced, Protocol};

/// How many bytes one connection may move before the others have their turn.
///
/// Moving 256 KiB takes some 0.1 ms, so a 1-byte ping beside a handful of peers that never stop sending still comes
/// back within a millisecond or so; and it is one full read of the loop's buffer, so a bulk transfer loses nothing.
pub const SERVICE_BUDGET: usize = 256 * 1024;

/// What a connection needs of its socket: bytes in, bytes out without blocking, and a FIN.
pub trait Transport: Read + Write {
    /// Ends our direction: the peer reads end of stream behind what was written (shutdown(2) with `SHUT_WR`).
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether a connect that was begun has succeeded; `false`: not decided yet. An error is that of the connect.
    fn finish_connect(&mut self) -> io::Result<bool>;
}

/// One peer, its bytes on their way in and out, and what is known of its socket.
///
/// The tutorial keeps `SimpleNamespace(addr, inb, outb)` for each socket; here are the same three and what it takes to
/// lose nothing. A connection that has nothing waiting holds no memory outside of this struct.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent notes, a byte each; what excludes each other is an enum"
)]
pub struct Connection<T, P> {
    transport: T,
    addr: SocketAddr,
    /// Bytes that the protocol has seen and not consumed: an unfinished line, say.
    inbound: Vec<u8>,
    /// Bytes that the socket has not taken.
    outbound: SendBuffer,
    protocol: P,
    received: u64,
    sent: u64,
    opened: Moment,
    last_read: Moment,
    /// When the socket last took a byte, one that had waited if the peer owes an answer; or when bytes began to wait for
    /// it; of a lingering connection, when it began to.
    last_write: Moment,
    ready: Readiness,
    reading: Reading,
    writing: Writing,
    /// The loop is shutting down: echo what is there already, then finish.
    draining: bool,
    /// The protocol has something for the role.
    notified: bool,
    /// Decided outside of `service`, carried out in it: only there does a connection end.
    doomed: Option<Doom>,
    /// The role woke it: what the protocol has not consumed is shown to it again.
    woken: bool,
    /// It is being ended because it was idle.
    idle: bool,
    /// It stands in the loop's run queue. Kept here as there is a byte to spare, which in the slab there is not.
    queued: bool,
}

/// What the poller said, kept until a `WouldBlock` takes it back: an edge-triggered poller says it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent flags of one event, not a state")]
pub struct Readiness {
    /// A read may find something: bytes, the end, or an error.
    pub readable: bool,
    /// A write may find room, or an error.
    pub writable: bool,
    /// The peer's FIN or an error is there, so a short read is not the end: read on to 0.
    pub read_closed: bool,
    /// Urgent data is or was in the stream. A read stops at its mark with bytes left behind it, so a short read says
    /// nothing from now on.
    pub urgent: bool,
}

impl Readiness {
    /// Every direction is worth a try.
    pub const ALL: Readiness = Readiness { readable: true, writable: true, read_closed: true, urgent: true };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// What arrives goes to the protocol.
    Open,
    /// We ended first; what still arrives is read, so that closing sends no RST, and thrown away.
    Discarding,
    /// The peer's FIN was read, and the protocol has not heard of it yet.
    AtEnd,
    /// Nothing comes any more, and the protocol knows.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// The connect is under way.
    Connecting,
    Open,
    /// Our FIN follows what waits in `outbound`.
    Finishing,
    /// Our FIN is sent.
    Finished,
}

/// How a connection is to end that was not asked itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doom {
    TimedOut(Timeout),
    Closed,
}

/// Which time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The connect was not answered.
    Connect,
    /// No byte moved in either direction.
    Idle,
    /// Bytes waited and the peer took none of them.
    Stall,
    /// We had ended, and the peer did not.
    Linger,
    /// The whole loop was draining, and this connection was not done.
    Drain,
}

/// The times that a connection may take; `None` waits for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of a connect to its success.
    pub connect: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// With bytes waiting of which the peer takes none.
    pub stall: Option<Duration>,
    /// How long a connection that we end first is kept to be read to its end. A bare close(2) with unread input sends
    /// RST instead of FIN, and the RST destroys what the peer has not read yet (RFC 1122, 4.2.2.13; RFC 2525, 2.17).
    /// Without it, an idle connection is closed at once.
    pub linger: Option<Duration>,
}

/// What the loop lends to a connection for one service.
pub struct Turn<'a, P> {
    /// The time of this turn.
    pub now: Moment,
    /// The time to the microsecond, for protocols that measure.
    pub clock: &'a dyn Clock,
    /// The loop's one read buffer; its content means nothing between services.
    pub scratch: &'a mut [u8],
    /// How many bytes this connection may hold in a buffer, as memory stands now.
    pub allowed: usize,
    /// How many it could hold if memory were plenty: a message longer than that is too long.
    pub limit: usize,
    /// Whether a read that returns less than was asked for means that the socket is empty. epoll(7) says so for streams;
    /// other pollers report a socket again only after a `WouldBlock`.
    pub short_read_is_last: bool,
    /// Writes the lines about traffic.
    pub narrator: &'a mut Narrator<P>,
}

/// What came of one service.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing more can be done until the poller says so.
    Waiting,
    /// The budget is spent; there is more to do at once.
    Runnable,
    /// The connection is over. Dropping it closes its socket.
    Ended(End),
}

/// Why a connection is over.
#[derive(Debug)]
pub enum End {
    /// Both directions finished; all that was to be sent was handed to the kernel.
    Finished,
    /// The protocol ended it ([`Outbox::abort`]).
    Aborted,
    /// The connect failed.
    ConnectFailed(io::Error),
    /// Reading or writing failed: a reset by the peer, most often.
    Failed(io::Error),
    /// A time ran out.
    TimedOut(Timeout),
    /// One message was longer than the buffer for it.
    MessageTooLong,
    /// All connections together hold what they may, and this one's message is not complete.
    OutOfMemory,
    /// The protocol had more to send than the buffer holds and the peer did not read it.
    Overflow,
    /// The role closed it ([`EventLoop::close`](crate::event_loop::EventLoop::close)).
    Closed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Finished => f.write_str("finished"),
            End::Aborted => f.write_str("ended by the protocol"),
            End::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            End::Failed(error) => write!(f, "{error}"),
            End::TimedOut(Timeout::Connect) => f.write_str("connect timed out"),
            End::TimedOut(Timeout::Idle) => f.write_str("idle for too long"),
            End::TimedOut(Timeout::Stall) => f.write_str("the peer reads nothing"),
            End::TimedOut(Timeout::Linger) => f.write_str("the peer does not finish"),
            End::TimedOut(Timeout::Drain) => f.write_str("not done when the time to drain was over"),
            End::MessageTooLong => f.write_str("a message longer than the buffer"),
            End::OutOfMemory => f.write_str("no memory left for a message that is not complete"),
            End::Overflow => f.write_str("more to send than the buffer holds"),
            End::Closed => f.write_str("closed"),
        }
    }
}

/// What a connection is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The connect is not answered yet.
    Connecting,
    /// Both directions are open.
    Established,
    /// Bytes wait that the peer does not take.
    Stalled,
    /// The peer has sent its FIN; ours follows when everything is sent.
    PeerFinished,
    /// Our FIN is sent or follows what waits; the peer's has not come.
    Finishing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Connecting => "connecting",
            State::Established => "established",
            State::Stalled => "stalled",
            State::PeerFinished => "peer finished",
            State::Finishing => "finishing",
        })
    }
}

impl<T, P> Connection<T, P> {
    /// A connection that stands already: accepted, most likely.
    pub fn open(transport: T, addr: SocketAddr, protocol: P, now: Moment) -> Connection<T, P> {
        Connection {
            transport,
            addr,
            inbound: Vec::new(),
            outbound: SendBuffer::new(),
            protocol,
            received: 0,
            sent: 0,
            opened: now,
            last_read: now,
            last_write: now,
            ready: Readiness::default(),
            reading: Reading::Open,
            writing: Writing::Open,
            draining: false,
            notified: false,
            doomed: None,
            woken: false,
            idle: false,
            queued: false,
        }
    }

    /// A connection whose connect is under way.
    pub fn connecting(transport: T, addr: SocketAddr, protocol: P, now: Moment) -> Connection<T, P> {
        Connection { writing: Writing::Connecting, ..Connection::open(transport, addr, protocol, now) }
    }

    /// The peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The socket.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The socket, to register it.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The protocol.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// The protocol, to talk to it from outside: the lines of a chat are taken here.
    pub fn protocol_mut(&mut self) -> &mut P {
        &mut self.protocol
    }

    /// The protocol, once the connection is over. Closes the socket.
    pub fn into_protocol(self) -> P {
        self.protocol
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that the protocol has not consumed yet.
    pub fn inbound_len(&self) -> usize {
        self.inbound.len()
    }

    /// Bytes that wait to be sent.
    pub fn outbound_len(&self) -> usize {
        self.outbound.len()
    }

    /// Bytes of memory that both buffers hold.
    pub fn memory(&self) -> usize {
        self.inbound.capacity() + self.outbound.capacity()
    }

    /// When it was opened.
    pub fn opened(&self) -> Moment {
        self.opened
    }

    /// When the last byte moved, in either direction.
    pub fn last_active(&self) -> Moment {
        self.last_read.max(self.last_write)
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match (self.writing, self.reading) {
            (Writing::Connecting, _) => State::Connecting,
            _ if !self.outbound.is_empty() && !self.ready.writable => State::Stalled,
            (_, Reading::AtEnd | Reading::Finished) => State::PeerFinished,
            (Writing::Finishing | Writing::Finished, _) => State::Finishing,
            (Writing::Open, _) => State::Established,
        }
    }

    /// Notes what the poller said. Flags are only ever added here; touching no socket, this is safe at any time.
    pub fn note(&mut self, event: Readiness) {
        self.ready.readable |= event.readable;
        self.ready.writable |= event.writable;
        self.ready.read_closed |= event.read_closed;
        self.ready.urgent |= event.urgent;
    }

    /// Notes that it stands in the run queue; whether it did not before.
    pub fn enter_queue(&mut self) -> bool {
        !mem::replace(&mut self.queued, true)
    }

    /// Notes that it stands in the run queue no more.
    pub fn leave_queue(&mut self) {
        self.queued = false;
    }

    /// Whether it stands in the run queue.
    pub fn is_queued(&self) -> bool {
        self.queued
    }

    /// Whether the protocol asked for the role's attention since this was last called.
    pub fn take_notified(&mut self) -> bool {
        mem::take(&mut self.notified)
    }

    /// Queues bytes from outside of the protocol; the next service sends them. Refused, with nothing queued, if the
    /// connection would then hold more than `allowed` bytes, or if it is finishing.
    pub fn send(&mut self, bytes: &[u8], allowed: usize, now: Moment) -> Result<(), SendError> {
        if self.writing != Writing::Open || self.doomed.is_some() {
            return Err(SendError::Finishing);
        }
        if self.outbound.len() + self.inbound.len() + bytes.len() > allowed {
            return Err(SendError::Full);
        }
        let nothing_waited = self.outbound.is_empty();
        self.outbound.push(bytes, allowed);
        self.time_the_wait(nothing_waited, now);
        Ok(())
    }

    /// Begins to drain: what has arrived is read, once to `WouldBlock`, and answered; then we finish, and what arrives
    /// later is thrown away until the peer finishes too.
    pub fn drain(&mut self) {
        self.draining = true;
        self.ready.readable = true; // A connection accepted just now has had no event yet.
    }

    /// Finishes behind what waits to be sent; what still arrives is read and thrown away.
    pub fn stop_answering(&mut self) {
        if self.reading == Reading::Open {
            self.finish();
            self.reading = Reading::Discarding;
        }
    }

    /// Shows the protocol what it has not consumed yet at the next service: it may go on now.
    pub fn wake(&mut self) {
        self.woken = true;
    }

    /// Ends the connection at its next service.
    pub fn doom(&mut self) {
        self.doomed.get_or_insert(Doom::Closed);
    }

    /// A time ran out. An idle connection is ended gently if `timeouts` give it the time, any other at its next service.
    pub fn expire(&mut self, timeout: Timeout, timeouts: &Timeouts, now: Moment) {
        let both_open = self.writing == Writing::Open && self.reading == Reading::Open;
        if timeout == Timeout::Idle && timeouts.linger.is_some() && both_open {
            self.stop_answering();
            self.last_write = now;
            self.idle = true;
        } else {
            self.doomed.get_or_insert(Doom::TimedOut(if self.idle { Timeout::Idle } else { timeout }));
        }
    }

    /// Our FIN follows what waits.
    fn finish(&mut self) {
        if self.writing == Writing::Open {
            self.writing = Writing::Finishing;
        }
    }

    /// The time to stall begins when bytes begin to wait, not when the last answer was sent.
    fn time_the_wait(&mut self, nothing_waited: bool, now: Moment) {
        if nothing_waited && !self.outbound.is_empty() {
            self.wrote(now);
        }
    }

    /// Our direction has moved. A lingering connection's time is counted from its beginning, whatever moves.
    fn wrote(&mut self, now: Moment) {
        if self.reading != Reading::Discarding {
            self.last_write = now;
        }
    }
}

/// Why [`Connection::send`] refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The peer has not read what was sent before, and the buffer for it is full.
    Full,
    /// The connection is finishing or over.
    Finishing,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full => "the peer does not read and its buffer is full",
            SendError::Finishing => "the connection is finishing",
        })
    }
}

impl std::error::Error for SendError {}

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// The next time that something runs out, and what. A function of the state alone: nothing is kept up to date.
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<(Moment, Timeout)> {
        if self.writing == Writing::Connecting {
            return timeouts.connect.map(|limit| (self.opened.plus(limit), Timeout::Connect));
        }
        let linger = |since: Moment| timeouts.linger.map(|limit| (since.plus(limit), Timeout::Linger));
        if self.reading == Reading::Discarding {
            return if self.draining { None } else { linger(self.last_write) };
        }
        let stall = timeouts
            .stall
            .filter(|_| !self.outbound.is_empty())
            .map(|limit| (self.last_write.plus(limit), Timeout::Stall));
        let silent_since = match self.protocol.expects() {
            Expects::Nothing => None,
            Expects::Anything => Some(self.last_active()),
            Expects::AnswerSince(owed) => Some(self.last_active().max(owed)),
        };
        let idle = timeouts.idle.zip(silent_since).map(|(limit, since)| (since.plus(limit), Timeout::Idle));
        let finished = if self.writing == Writing::Finished { linger(self.last_active()) } else { None };
        [stall, idle, finished].into_iter().flatten().min_by_key(|&(when, _)| when)
    }

    /// Does what can be done now, within [`SERVICE_BUDGET`]: sends what waits, lets the protocol produce, reads and
    /// hands over. Returns an outcome and not a `Result`, so that one connection's error cannot end the loop.
    pub fn service(&mut self, turn: &mut Turn<'_, P>) -> Outcome {
        match self.advance(turn) {
            Ok(true) => Outcome::Runnable,
            Ok(false) => Outcome::Waiting,
            Err(end) => Outcome::Ended(end),
        }
    }

    /// As [`service`](Connection::service); whether there may be more to do at once.
    fn advance(&mut self, turn: &mut Turn<'_, P>) -> Result<bool, End> {
        match self.doomed {
            Some(Doom::TimedOut(timeout)) => return Err(End::TimedOut(timeout)),
            Some(Doom::Closed) => return Err(End::Closed),
            None => {}
        }
        if self.writing == Writing::Connecting && !self.connected(turn.now)? {
            return Ok(false);
        }
        if mem::take(&mut self.woken) {
            self.digest(turn)?;
        }
        let mut moved = 0;
        while moved < SERVICE_BUDGET {
            self.flush(turn)?;
            let read = self.read(turn)?;
            self.hear_the_end(turn)?;
            // Behind the read, which may have found out that there is nothing more to wait for.
            let progress = read + self.produce(turn)?;
            if progress == 0 {
                break;
            }
            moved += progress;
        }
        self.shut_down_if_done(turn.now)?;
        Ok(moved >= SERVICE_BUDGET)
    }

    /// Whether the connect is through. mio's docs say how to find out: wait for writable, then look at `SO_ERROR`, then
    /// ask for the peer's address.
    fn connected(&mut self, now: Moment) -> Result<bool, End> {
        if self.ready.writable {
            if self.transport.finish_connect().map_err(End::ConnectFailed)? {
                // It may have been told to finish while it was under way, and nobody will say so again.
                let told = self.reading == Reading::Discarding;
                self.writing = if told { Writing::Finishing } else { Writing::Open };
                (self.last_read, self.last_write) = (now, now); // The time to connect was not idleness.
                return Ok(true);
            }
            self.ready.writable = false;
        }
        Ok(false)
    }

    /// Sends what waits; then there is room again for answers that had none.
    fn flush(&mut self, turn: &mut Turn<'_, P>) -> Result<(), End> {
        if !self.outbound.is_empty() && self.ready.writable {
            self.send_queue(turn)?;
            if self.outbound.is_empty() {
                self.digest(turn)?;
            }
        }
        Ok(())
    }

    /// Writes the queue, as far as the socket takes it.
    fn send_queue(&mut self, turn: &mut Turn<'_, P>) -> Result<(), End> {
        let mut queue = mem::take(&mut self.outbound);
        while self.ready.writable && !queue.is_empty() {
            let sent = self.write(queue.front(), turn)?;
            queue.consume(sent);
            if sent > 0 {
                self.wrote(turn.now); // The socket was full: the peer has taken something.
            }
        }
        self.outbound = queue;
        Ok(())
    }

    /// Writes `bytes` until the socket takes no more. Returns how many it took.
    ///
    /// A short write is no reason to stop, as a short read is: something other than a full socket may have cut it, and
    /// then no edge would follow. Only `WouldBlock` promises one.
    fn write(&mut self, bytes: &[u8], turn: &mut Turn<'_, P>) -> Result<usize, End> {
        let mut sent = 0;
        while self.ready.writable && sent < bytes.len() {
            match self.transport.write(&bytes[sent..]) {
                Ok(0) => return Err(End::Failed(ErrorKind::WriteZero.into())),
                Ok(count) => {
                    turn.narrator.sending(&self.protocol, self.addr, &bytes[sent..sent + count]);
                    sent += count;
                    self.sent += count as u64;
                    if !matches!(self.protocol.expects(), Expects::AnswerSince(_)) {
                        self.wrote(turn.now);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Failed(error)),
            }
        }
        Ok(sent)
    }

    /// Lets the protocol say something of its own accord. Returns how many bytes that was.
    fn produce(&mut self, turn: &mut Turn<'_, P>) -> Result<usize, End> {
        if self.writing != Writing::Open || !self.ready.writable || !self.outbound.is_empty() {
            return Ok(0);
        }
        // The peer has finished, and may have closed: writing on could bring a reset before its last words are read.
        if self.ready.read_closed && self.ready.readable {
            return Ok(0);
        }
        let space = turn.scratch.len().min(turn.allowed.saturating_sub(self.inbound.len()));
        match self.protocol.produce(&mut turn.scratch[..space], turn.clock) {
            Produced::Bytes(produced) => {
                let scratch = mem::take(&mut turn.scratch);
                let sent = self.write(&scratch[..produced], turn)?;
                if sent < produced {
                    self.protocol.blocked();
                }
                self.outbound.push(&scratch[sent..produced], turn.allowed);
                turn.scratch = scratch;
                self.time_the_wait(true, turn.now);
                Ok(produced)
            }
            Produced::Nothing => Ok(0),
            Produced::Finished => {
                self.finish();
                Ok(0)
            }
        }
    }

    /// Reads once and hands over what came. Returns how many bytes that was.
    fn read(&mut self, turn: &mut Turn<'_, P>) -> Result<usize, End> {
        if !self.ready.readable {
            return Ok(0);
        }
        let wanted = self.read_size(turn);
        if wanted == 0 {
            // Backpressure is not reading. The flag stays, so no edge is needed to go on; but room comes only from
            // what is sent, and with nothing to send, none will come.
            return match self.reading {
                Reading::Open if !self.outbound.is_empty() => Ok(0),
                Reading::Open if self.inbound.len() >= turn.limit => Err(End::MessageTooLong),
                Reading::Open => Err(End::OutOfMemory),
                _ => Ok(0),
            };
        }
        let read = loop {
            match self.transport.read(&mut turn.scratch[..wanted]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                self.ready.readable = false;
                self.reading = match self.reading {
                    Reading::Discarding => Reading::Finished,
                    _ => Reading::AtEnd,
                };
                Ok(0)
            }
            Ok(count) => {
                self.received += count as u64;
                self.last_read = turn.now;
                if count < wanted && self.short_read_is_last(turn) {
                    self.ready.readable = false;
                }
                if self.reading == Reading::Open {
                    let scratch = mem::take(&mut turn.scratch);
                    let taken = self.take(&scratch[..count], turn);
                    turn.scratch = scratch;
                    taken?;
                }
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready.readable = false;
                if self.draining {
                    self.stop_answering();
                }
                Ok(0)
            }
            Err(error) => Err(End::Failed(error)),
        }
    }

    /// How much to ask for: never more than there is room to queue, should the socket take none of the answer, and
    /// nothing at all above the high-water mark, half of what is allowed. Reading on whenever a few bytes have left the
    /// queue would make a stalled transfer crawl on in reads of a few bytes each.
    ///
    /// Input that is not answered needs no room in the queue, and must not wait for any: the peer may be waiting for us
    /// to read what it has sent before it reads more itself.
    fn read_size(&self, turn: &Turn<'_, P>) -> usize {
        let room = match self.reading {
            Reading::Open if !self.protocol.answers() => turn.allowed.saturating_sub(self.inbound.len()),
            Reading::Open if self.outbound.len() > turn.allowed / 2 => 0,
            Reading::Open => turn.allowed.saturating_sub(self.outbound.len() + self.inbound.len()),
            Reading::Discarding => usize::MAX,
            Reading::AtEnd | Reading::Finished => 0,
        };
        room.min(turn.scratch.len())
    }

    /// Whether a read that came short has emptied the socket, so that another would only say `WouldBlock`. Three things
    /// hide behind a short read: the end of the stream, bytes behind an urgent mark, and the `WouldBlock` that a
    /// draining connection waits for.
    fn short_read_is_last(&self, turn: &Turn<'_, P>) -> bool {
        turn.short_read_is_last && !self.ready.read_closed && !self.ready.urgent && !self.draining
    }

    /// Hands what came to the protocol, behind what it left of earlier input.
    fn take(&mut self, input: &[u8], turn: &mut Turn<'_, P>) -> Result<(), End> {
        turn.narrator.received(&self.protocol, self.addr, input);
        if self.inbound.is_empty() {
            let rest = self.feed(input, turn)?;
            if !rest.is_empty() {
                self.keep(rest, turn.allowed);
            }
            Ok(())
        } else {
            self.keep(input, turn.allowed);
            self.digest(turn)
        }
    }

    /// Shows the protocol once more what it has not consumed yet.
    fn digest(&mut self, turn: &mut Turn<'_, P>) -> Result<(), End> {
        if self.inbound.is_empty() {
            return Ok(());
        }
        let mut inbound = mem::take(&mut self.inbound);
        let left = self.feed(&inbound, turn)?.len();
        if left > 0 {
            inbound.drain(..inbound.len() - left);
            if left < inbound.capacity() / 2 {
                inbound.shrink_to_fit(); // A long line that is done with does not go on to take its memory.
            }
            self.inbound = inbound;
        }
        Ok(())
    }

    /// Lets the protocol consume `input` for as long as it does and its answers go out. Returns what is left.
    ///
    /// Once is not enough: a protocol may have stopped only because its answers had no more room, and as they have gone
    /// out at once, nothing else would ever make it go on.
    fn feed<'a>(&mut self, mut input: &'a [u8], turn: &mut Turn<'_, P>) -> Result<&'a [u8], End> {
        loop {
            let consumed = self.converse(turn, |protocol, out| protocol.receive(input, out))?;
            input = &input[consumed..];
            if consumed == 0 || input.is_empty() || !self.outbound.is_empty() {
                return Ok(input);
            }
        }
    }

    /// Puts input aside for later, growing as the outbound queue does.
    fn keep(&mut self, input: &[u8], limit: usize) {
        let (len, capacity) = (self.inbound.len(), self.inbound.capacity());
        self.inbound.reserve_exact(buffer::grown(len + input.len(), capacity, limit) - len);
        self.inbound.extend_from_slice(input);
    }

    /// Tells the protocol that the peer has finished: at once, unless there is input that it has not consumed because
    /// its answers have no room yet.
    fn hear_the_end(&mut self, turn: &mut Turn<'_, P>) -> Result<(), End> {
        while self.reading == Reading::AtEnd && (self.inbound.is_empty() || self.outbound.is_empty()) {
            let before = self.inbound.len();
            self.digest(turn)?;
            if self.inbound.len() == before {
                self.reading = Reading::Finished;
                let rest = mem::take(&mut self.inbound);
                self.converse(turn, |protocol, out| protocol.finish(&rest, out))?;
                self.finish();
            }
        }
        Ok(())
    }

    /// Calls the protocol and does what it asks for. What it borrows from its input is written at once, from where it
    /// was read; only what the socket does not take is copied.
    fn converse<'a, 'turn: 'a, R>(
        &mut self,
        turn: &mut Turn<'turn, P>,
        call: impl FnOnce(&mut P, &mut Outbox<'a>) -> R,
    ) -> Result<R, End> {
        let nothing_waited = self.outbound.is_empty();
        let mut out = Outbox::new(mem::take(&mut self.outbound), turn.allowed, turn.clock);
        let result = call(&mut self.protocol, &mut out);
        let Outbox { queue, tail, finish, abort, notify, .. } = out;
        self.notified |= notify;
        if abort {
            return Err(End::Aborted);
        }
        if self.writing == Writing::Finished {
            return Ok(result); // Our FIN is out: what is said now reaches nobody.
        }
        self.outbound = queue;
        if !self.outbound.is_empty() {
            self.send_queue(turn)?;
        }
        let sent = if self.outbound.is_empty() { self.write(tail, turn)? } else { 0 };
        self.outbound.push(&tail[sent..], turn.allowed);
        self.time_the_wait(nothing_waited, turn.now);
        if self.outbound.len() > turn.allowed {
            return Err(End::Overflow);
        }
        if finish {
            self.finish();
        }
        Ok(result)
    }

    /// Sends our FIN once everything is sent, and ends when the peer's is here as well.
    fn shut_down_if_done(&mut self, now: Moment) -> Result<(), End> {
        if self.writing == Writing::Finishing && self.outbound.is_empty() {
            self.writing = Writing::Finished;
            // With the peer's FIN read, close(2) sends ours: a system call saved on every connection.
            if self.reading != Reading::Finished {
                self.transport.shutdown_write().map_err(End::Failed)?;
                self.wrote(now);
            }
        }
        if self.writing == Writing::Finished && self.reading == Reading::Finished {
            return Err(if self.idle { End::TimedOut(Timeout::Idle) } else { End::Finished });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narrator::Voice;
    use crate::protocol::echo::Echo;
    use std::collections::VecDeque;

    /// What the socket does at the next read.
    enum Input {
        Bytes(&'static [u8]),
        Flood(usize),
        End,
        Fails(ErrorKind),
    }

    /// What the socket does at the next write; without an entry, it takes everything.
    enum Output {
        Takes(usize),
        Fails(ErrorKind),
    }

    /// A socket that follows a script. Reads without an entry, and at the end of one, say `WouldBlock`.
    #[derive(Default)]
    struct Script {
        input: VecDeque<Input>,
        output: VecDeque<Output>,
        sent: Vec<u8>,
        reads: usize,
        writes: usize,
        fin_sent: bool,
        connects: VecDeque<io::Result<bool>>,
    }

    impl Read for Script {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(!buf.is_empty(), "a read for nothing would look like the end");
            self.reads += 1;
            match self.input.pop_front() {
                Some(Input::Bytes(bytes)) => {
                    let count = bytes.len().min(buf.len());
                    buf[..count].copy_from_slice(&bytes[..count]);
                    if count < bytes.len() {
                        self.input.push_front(Input::Bytes(&bytes[count..]));
                    }
                    Ok(count)
                }
                Some(Input::Flood(left)) => {
                    let count = left.min(buf.len());
                    buf[..count].fill(b'.');
                    if count < left {
                        self.input.push_front(Input::Flood(left - count));
                    }
                    Ok(count)
                }
                Some(Input::End) => {
                    self.input.push_front(Input::End);
                    Ok(0)
                }
                Some(Input::Fails(kind)) => Err(kind.into()),
                None => Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    impl Write for Script {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            assert!(!self.fin_sent, "a write behind our own FIN");
            self.writes += 1;
            let count = match self.output.pop_front() {
                Some(Output::Takes(count)) => count.min(buf.len()),
                Some(Output::Fails(kind)) => return Err(kind.into()),
                None => buf.len(),
            };
            self.sent.extend(&buf[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transport for Script {
        fn shutdown_write(&mut self) -> io::Result<()> {
            self.fin_sent = true;
            Ok(())
        }

        fn finish_connect(&mut self) -> io::Result<bool> {
            self.connects.pop_front().unwrap_or(Ok(true))
        }
    }

    /// A connection and all that its loop would lend it.
    struct Bench<P> {
        connection: Connection<Script, P>,
        narrator: Narrator<P>,
        scratch: Vec<u8>,
        now: Moment,
        allowed: usize,
        short_read_is_last: bool,
    }

    const LIMIT: usize = 4096;

    impl<P: Protocol> Bench<P> {
        fn new(protocol: P, input: impl IntoIterator<Item = Input>) -> Bench<P> {
            let script = Script { input: input.into_iter().collect(), ..Script::default() };
            let addr = "127.0.0.1:1".parse().unwrap();
            let mut connection = Connection::open(script, addr, protocol, Moment::START);
            connection.note(Readiness { readable: true, writable: true, ..Readiness::default() });
            Bench {
                connection,
                narrator: Narrator::new(Voice::SILENT),
                scratch: vec![0; SERVICE_BUDGET],
                now: Moment::START,
                allowed: LIMIT,
                short_read_is_last: true,
            }
        }

        fn output(mut self, output: impl IntoIterator<Item = Output>) -> Bench<P> {
            self.connection.transport.output = output.into_iter().collect();
            self
        }

        fn service(&mut self) -> Outcome {
            self.connection.service(&mut Turn {
                now: self.now,
                clock: &self.now,
                scratch: &mut self.scratch,
                allowed: self.allowed,
                limit: LIMIT,
                short_read_is_last: self.short_read_is_last,
                narrator: &mut self.narrator,
            })
        }

        #[track_caller]
        fn waits(&mut self) -> &mut Script {
            let outcome = self.service();
            assert!(matches!(outcome, Outcome::Waiting), "{outcome:?}");
            &mut self.connection.transport
        }

        #[track_caller]
        fn ends(&mut self) -> End {
            match self.service() {
                Outcome::Ended(end) => end,
                outcome => panic!("{outcome:?}"),
            }
        }

        #[track_caller]
        fn finishes(&mut self) {
            let end = self.ends();
            assert!(matches!(end, End::Finished), "{end:?}");
        }

        fn readable(&mut self, input: impl IntoIterator<Item = Input>) {
            self.connection.transport.input.extend(input);
            self.connection.note(Readiness { readable: true, ..Readiness::default() });
        }

        fn writable(&mut self) {
            self.connection.note(Readiness { writable: true, ..Readiness::default() });
        }
    }

    use Input::{Bytes, End as Fin, Flood};
    use Output::Takes;

    const BLOCKED: Output = Output::Fails(ErrorKind::WouldBlock);

    #[test]
    fn an_echo_is_one_read_and_one_write_and_no_memory() {
        let mut bench = Bench::new(Echo, [Bytes(b"ping")]);
        let script = bench.waits();
        assert_eq!((script.reads, script.writes), (1, 1));
        assert_eq!(script.sent, b"ping");
        assert_eq!(bench.connection.memory(), 0);
    }

    #[test]
    fn without_epoll_reading_goes_on_to_would_block() {
        let mut bench = Bench::new(Echo, [Bytes(b"ping")]);
        bench.short_read_is_last = false;
        assert_eq!(bench.waits().reads, 2);
    }

    #[test]
    fn data_and_fin_in_one_event_end_the_connection() {
        let mut bench = Bench::new(Echo, [Bytes(b"last words"), Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.finishes();
        assert_eq!(bench.connection.transport.sent, b"last words");
    }

    /// Always has something to say.
    struct Talker;

    impl Protocol for Talker {
        fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
            input.len()
        }
        fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
            space[0] = b'!';
            Produced::Bytes(1)
        }
    }

    #[test]
    fn a_known_end_is_read_before_more_is_written() {
        let mut bench = Bench::new(Talker, [Bytes(b"last "), Bytes(b"words"), Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.finishes();
        assert_eq!((bench.connection.received(), bench.connection.sent()), (10, 0));
    }

    #[test]
    fn an_end_that_was_no_end_keeps_nobody_from_writing() {
        let mut bench = Bench::new(Talker, []).output([Takes(1), BLOCKED]);
        bench.connection.note(Readiness::ALL);
        assert_eq!(bench.waits().sent, b"!");
    }

    #[test]
    fn bytes_behind_an_urgent_mark_are_read_at_once() {
        let mut bench = Bench::new(Echo, [Bytes(b"abc"), Bytes(b"X"), Bytes(b"def")]);
        bench.connection.note(Readiness { urgent: true, ..Readiness::default() });
        assert_eq!(bench.waits().sent, b"abcXdef");
    }

    #[test]
    fn spurious_readiness_is_harmless() {
        let mut bench = Bench::new(Echo, []);
        bench.connection.note(Readiness::ALL);
        let script = bench.waits();
        assert_eq!((script.reads, script.writes), (1, 0));
        assert_eq!(bench.waits().reads, 1, "only an event makes it readable again");
    }

    #[test]
    fn interruptions_are_tried_again() {
        let interrupted = ErrorKind::Interrupted;
        let mut bench = Bench::new(Echo, [Input::Fails(interrupted), Bytes(b"ping")]).output([
            Output::Fails(interrupted),
            Takes(1),
            Output::Fails(interrupted),
        ]);
        assert_eq!(bench.waits().sent, b"ping");
    }

    #[test]
    fn a_short_write_keeps_the_rest_in_order() {
        let mut bench = Bench::new(Echo, [Bytes(b"abcdef")]).output([Takes(1), Takes(2), BLOCKED]);
        assert_eq!(bench.waits().sent, b"abc");
        assert_eq!(bench.connection.outbound_len(), 3);
        assert_eq!(bench.connection.state(), State::Stalled);
        bench.readable([Bytes(b"gh")]);
        assert_eq!(bench.waits().sent, b"abc", "not writable: what comes is queued behind");
        bench.writable();
        assert_eq!(bench.waits().sent, b"abcdefgh");
        assert_eq!(bench.connection.memory(), 0);
    }

    #[test]
    fn a_short_write_alone_is_no_reason_to_wait() {
        // Something other than a full socket may have cut it, and then no edge follows.
        let mut bench = Bench::new(Echo, [Bytes(b"abcdef")]).output([Takes(1), Takes(1), Takes(1)]);
        assert_eq!(bench.waits().sent, b"abcdef");
    }

    #[test]
    fn a_write_of_nothing_ends_the_connection() {
        let mut bench = Bench::new(Echo, [Bytes(b"ping")]).output([Takes(0)]);
        assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::WriteZero));
    }

    #[test]
    fn a_reset_ends_the_connection_and_says_so() {
        let mut bench = Bench::new(Echo, [Input::Fails(ErrorKind::ConnectionReset)]);
        assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::ConnectionReset));
        let mut bench = Bench::new(Echo, [Bytes(b"ping")]).output([Output::Fails(ErrorKind::BrokenPipe)]);
        assert!(matches!(bench.ends(), End::Failed(error) if error.kind() == ErrorKind::BrokenPipe));
    }

    #[test]
    fn half_close_echoes_everything_first() {
        let mut bench = Bench::new(Echo, [Bytes(b"abcdef"), Fin]).output([Takes(2), BLOCKED]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        assert!(!bench.waits().fin_sent);
        assert_eq!(bench.connection.outbound_len(), 4);
        bench.writable();
        bench.finishes();
        let script = &bench.connection.transport;
        assert_eq!(script.sent, b"abcdef");
        assert!(!script.fin_sent, "closing sends the FIN, shutdown(2) would be one call too many");
    }

    #[test]
    fn a_full_queue_of_its_own_keeps_no_side_from_reading() {
        /// Sends what it can and answers nothing.
        struct Flooder;
        impl Protocol for Flooder {
            fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
                input.len()
            }
            fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
                Produced::Bytes(space.len())
            }
            fn answers(&self) -> bool {
                false
            }
        }
        let mut bench = Bench::new(Flooder, []).output([Takes(1), BLOCKED]);
        bench.waits();
        assert_eq!(bench.connection.outbound_len(), LIMIT - 1);
        bench.readable([Bytes(b"the peer has the same trouble")]);
        bench.waits();
        assert_eq!(bench.connection.received(), 29);
    }

    #[test]
    fn a_peer_that_never_reads_is_read_no_further() {
        let mut bench = Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED]);
        bench.waits();
        let reads = bench.connection.transport.reads;
        assert!(bench.connection.outbound_len() <= LIMIT);
        assert!(bench.connection.memory() <= LIMIT);
        bench.connection.note(Readiness { readable: true, ..Readiness::default() });
        assert_eq!(bench.waits().reads, reads, "backpressure is not reading");

        // As it reads again, everything follows, without another edge of readability.
        bench.writable();
        while !matches!(bench.service(), Outcome::Waiting) {}
        assert_eq!(bench.connection.transport.sent.len(), 1 << 20);
    }

    #[test]
    fn reading_resumes_below_the_high_water_mark_only() {
        let mut bench =
            Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED, Takes(100), BLOCKED, Takes(LIMIT / 2), BLOCKED]);
        bench.waits();
        assert_eq!(bench.connection.received(), LIMIT as u64);
        bench.writable();
        bench.waits();
        assert_eq!(bench.connection.received(), LIMIT as u64, "100 bytes of room are not worth a read");
        bench.writable();
        bench.connection.transport.output.extend((0..9).map(|_| BLOCKED));
        bench.waits();
        assert_eq!(bench.connection.outbound_len(), LIMIT, "filled up in one read");
    }

    #[test]
    fn scarce_memory_makes_reads_smaller() {
        let mut bench = Bench::new(Echo, [Flood(1 << 20)]).output([BLOCKED]);
        bench.allowed = 100;
        bench.waits();
        assert_eq!(bench.connection.memory(), 100);
    }

    #[test]
    fn scarce_memory_is_not_blamed_on_the_message() {
        let mut bench = Bench::new(Lengths, [Flood(200)]);
        bench.allowed = 100;
        assert!(matches!(bench.ends(), End::OutOfMemory));
    }

    #[test]
    fn a_firehose_can_be_told_to_finish() {
        let mut bench = Bench::new(Echo, [Flood(9 * SERVICE_BUDGET)]);
        bench.connection.drain();
        assert!(matches!(bench.service(), Outcome::Runnable));
        let answered = bench.connection.transport.sent.len();
        bench.connection.stop_answering();
        while matches!(bench.service(), Outcome::Runnable) {}
        assert_eq!(bench.connection.transport.sent.len(), answered);
        assert!(bench.connection.transport.fin_sent);
    }

    #[test]
    fn a_connect_told_to_finish_while_under_way_finishes_when_it_is_through() {
        let connects = [Ok(false), Ok(true)].into_iter().collect();
        let mut bench = Bench::new(Talker, []);
        let addr = "127.0.0.1:1".parse().unwrap();
        bench.connection =
            Connection::connecting(Script { connects, ..Script::default() }, addr, Talker, Moment::START);
        bench.writable();
        bench.waits();
        bench.connection.stop_answering();
        bench.writable();
        let script = bench.waits();
        assert!(script.fin_sent);
        assert_eq!(script.sent, b"", "the time to talk is over");
        bench.readable([Fin]);
        bench.finishes();
    }

    #[test]
    fn a_firehose_gives_way_when_its_budget_is_spent() {
        let mut bench = Bench::new(Echo, [Flood(2 * SERVICE_BUDGET)]);
        assert!(matches!(bench.service(), Outcome::Runnable));
        let received = bench.connection.received();
        assert!((SERVICE_BUDGET as u64..=(SERVICE_BUDGET + LIMIT) as u64).contains(&received), "{received}");
    }

    #[test]
    fn a_connect_waits_and_then_works_or_fails() {
        let script = Script {
            connects: [Ok(false), Ok(true)].into_iter().collect(),
            input: [Bytes(b"ping")].into_iter().collect(),
            ..Script::default()
        };
        let mut bench = Bench::new(Echo, []);
        bench.connection = Connection::connecting(script, "127.0.0.1:1".parse().unwrap(), Echo, Moment::START);
        bench.waits();
        assert_eq!(bench.connection.transport.connects.len(), 2, "not writable: there is nothing to ask yet");
        bench.writable();
        bench.waits();
        assert_eq!(bench.connection.state(), State::Connecting);
        bench.connection.note(Readiness::ALL);
        bench.waits();
        assert_eq!(bench.connection.transport.sent, b"ping");

        bench.connection.writing = Writing::Connecting;
        bench.connection.transport.connects.push_back(Err(ErrorKind::ConnectionRefused.into()));
        assert!(matches!(bench.ends(), End::ConnectFailed(error) if error.kind() == ErrorKind::ConnectionRefused));
    }

    #[test]
    fn draining_answers_what_is_there_then_finishes_and_reads_to_the_end() {
        let mut bench = Bench::new(Echo, [Bytes(b"in time")]);
        bench.connection.ready = Readiness { writable: true, ..Readiness::default() };
        bench.connection.drain();
        let script = bench.waits();
        assert_eq!(script.sent, b"in time");
        assert!(script.fin_sent);
        assert_eq!(bench.connection.state(), State::Finishing);
        bench.readable([Bytes(b"too late"), Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.finishes();
        assert_eq!(bench.connection.transport.sent, b"in time");
    }

    #[test]
    fn draining_waits_for_what_is_queued() {
        let mut bench = Bench::new(Echo, [Bytes(b"in time")]).output([Takes(2), BLOCKED]);
        bench.connection.drain();
        assert!(!bench.waits().fin_sent);
        bench.writable();
        assert!(bench.waits().fin_sent);
        assert_eq!(bench.connection.transport.sent, b"in time");
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    const TIMEOUTS: Timeouts = Timeouts {
        connect: Some(Duration::from_secs(1)),
        idle: Some(Duration::from_secs(100)),
        stall: Some(Duration::from_secs(10)),
        linger: Some(Duration::from_secs(5)),
    };

    #[test]
    fn an_idle_connection_is_ended_gently() {
        let mut bench = Bench::new(Echo, []);
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(100), Timeout::Idle)));
        bench.now = at(100);
        bench.connection.expire(Timeout::Idle, &TIMEOUTS, bench.now);
        assert!(bench.waits().fin_sent);
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(105), Timeout::Linger)));
        bench.now = at(103);
        bench.readable([Bytes(b"too late")]);
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(105), Timeout::Linger)), "for a bounded time");
        bench.connection.expire(Timeout::Linger, &TIMEOUTS, at(105));
        assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)), "it ends for what it was ended for");
    }

    #[test]
    fn without_time_to_linger_an_idle_connection_ends_at_once() {
        let timeouts = Timeouts { linger: None, ..TIMEOUTS };
        let mut bench = Bench::new(Echo, []);
        bench.connection.expire(Timeout::Idle, &timeouts, at(100));
        assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
    }

    #[test]
    fn the_time_to_stall_begins_with_the_wait_and_again_with_each_byte() {
        let mut bench = Bench::new(Echo, []).output([BLOCKED, Takes(1), BLOCKED]);
        bench.waits();
        bench.now = at(50);
        bench.readable([Bytes(b"ping")]);
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(60), Timeout::Stall)));
        bench.now = at(55);
        bench.writable();
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(65), Timeout::Stall)));
        bench.now = at(60);
        bench.readable([Bytes(b"more")]);
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(65), Timeout::Stall)), "it still takes nothing");
        bench.connection.expire(Timeout::Stall, &TIMEOUTS, at(65));
        assert!(matches!(bench.ends(), End::TimedOut(Timeout::Stall)));
    }

    #[test]
    fn what_the_socket_takes_at_once_is_no_sign_of_life_of_a_peer_that_owes_an_answer() {
        struct Impatient;
        impl Protocol for Impatient {
            fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
                input.len()
            }
            fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
                space[0] = b'?';
                Produced::Bytes(1)
            }
            fn expects(&self) -> Expects {
                Expects::AnswerSince(at(7))
            }
        }
        let mut bench = Bench::new(Impatient, []).output([Takes(1), BLOCKED, Takes(1), BLOCKED, Takes(1), BLOCKED]);
        let idle = |bench: &Bench<Impatient>| bench.connection.deadline(&Timeouts { stall: None, ..TIMEOUTS });
        bench.now = at(5);
        bench.waits();
        assert_eq!(idle(&bench), Some((at(107), Timeout::Idle)), "since the answer is owed");
        bench.now = at(50);
        bench.writable();
        bench.waits();
        assert_eq!(idle(&bench), Some((at(150), Timeout::Idle)), "the socket was full, and the peer made room");
        bench.connection.outbound = SendBuffer::new();
        bench.now = at(60);
        bench.connection.transport.output = [Takes(1)].into_iter().collect();
        bench.writable();
        let taken = bench.connection.sent();
        bench.service();
        assert!(bench.connection.sent() > taken);
        assert_eq!(idle(&bench), Some((at(150), Timeout::Idle)), "nobody says that the peer has seen this");
        bench.now = at(70);
        bench.readable([Bytes(b"!")]);
        bench.service();
        assert_eq!(idle(&bench), Some((at(170), Timeout::Idle)));
    }

    #[test]
    fn a_connect_has_its_own_time() {
        let connection = Connection::connecting(Script::default(), "127.0.0.1:1".parse().unwrap(), Echo, at(3));
        assert_eq!(connection.deadline(&TIMEOUTS), Some((at(4), Timeout::Connect)));
        assert_eq!(connection.deadline(&Timeouts::default()), None);
    }

    #[test]
    fn bytes_from_outside_are_sent_in_turn_or_refused_whole() {
        let mut bench = Bench::new(Echo, []).output([BLOCKED]);
        assert_eq!(bench.connection.send(b"news", LIMIT, at(0)), Ok(()));
        bench.waits();
        assert_eq!(bench.connection.send(&[0; LIMIT - 3], LIMIT, at(0)), Err(SendError::Full));
        assert_eq!(bench.connection.send(b"!", LIMIT, at(0)), Ok(()));
        bench.writable();
        assert_eq!(bench.waits().sent, b"news!");
        bench.connection.doom();
        assert_eq!(bench.connection.send(b"late", LIMIT, at(0)), Err(SendError::Finishing));
        assert!(matches!(bench.ends(), End::Closed));
    }

    /// Answers each line with its length; finishes on an empty one.
    struct Lengths;

    impl Protocol for Lengths {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            let mut consumed = 0;
            for line in input.split_inclusive(|&byte| byte == b'\n') {
                if !line.ends_with(b"\n") || out.room() < 8 {
                    break;
                }
                if line == b"\n" {
                    out.finish();
                }
                out.copy(format!("{}\n", line.len() - 1).as_bytes());
                consumed += line.len();
            }
            consumed
        }

        fn finish<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
            if !rest.is_empty() {
                out.copy(b"unfinished: ");
                out.send(rest);
            }
        }
    }

    #[test]
    fn an_unfinished_line_waits_inbound_and_is_shown_again() {
        let mut bench = Bench::new(Lengths, [Bytes(b"on")]);
        assert_eq!(bench.waits().sent, b"");
        assert_eq!(bench.connection.inbound_len(), 2);
        bench.readable([Bytes(b"e\ntwo"), Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.finishes();
        assert_eq!(bench.connection.transport.sent, b"3\nunfinished: two");
    }

    #[test]
    fn a_long_line_leaves_no_memory_behind() {
        let mut bench = Bench::new(Lengths, [Flood(LIMIT / 2)]);
        bench.waits();
        assert_eq!(bench.connection.memory(), LIMIT / 2);
        bench.readable([Bytes(b"\nz")]);
        bench.waits();
        assert_eq!((bench.connection.inbound_len(), bench.connection.memory()), (1, 1));
    }

    #[test]
    fn a_woken_protocol_goes_on_where_it_stopped() {
        struct Shy(bool);
        impl Protocol for Shy {
            fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
                if self.0 {
                    out.send(input);
                }
                if self.0 { input.len() } else { 0 }
            }
        }
        let mut bench = Bench::new(Shy(false), [Bytes(b"hello")]);
        assert_eq!(bench.waits().sent, b"");
        bench.connection.protocol_mut().0 = true;
        assert_eq!(bench.waits().sent, b"", "nothing has happened");
        bench.connection.wake();
        assert_eq!(bench.waits().sent, b"hello");
    }

    #[test]
    fn a_line_longer_than_the_buffer_ends_the_connection() {
        let mut bench = Bench::new(Lengths, [Flood(LIMIT + 1)]);
        assert!(matches!(bench.ends(), End::MessageTooLong));
        assert!(bench.connection.memory() <= LIMIT);
    }

    #[test]
    fn answers_longer_than_their_input_wait_for_room() {
        const LINES: &[u8] = &[b'\n'; LIMIT];
        struct Long;
        impl Protocol for Long {
            fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
                let fit = input.len().min(out.room() / 10);
                out.copy(&b"0123456789".repeat(fit));
                fit
            }
        }
        let mut bench = Bench::new(Long, [Bytes(LINES)]);
        assert_eq!(bench.waits().sent.len(), 10 * LIMIT, "a peer that reads gets it all at once");

        let mut bench = Bench::new(Long, [Bytes(LINES), Fin]).output([BLOCKED]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.waits();
        assert!(bench.connection.outbound_len() <= LIMIT);
        bench.writable();
        bench.finishes();
        assert_eq!(bench.connection.transport.sent.len(), 10 * LIMIT);
    }

    #[test]
    fn a_protocol_that_ignores_the_room_overflows() {
        struct Loud;
        impl Protocol for Loud {
            fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
                out.copy(&[b'!'; LIMIT + 1]);
                input.len()
            }
        }
        let mut bench = Bench::new(Loud, [Bytes(b"?")]);
        assert_eq!(bench.waits().sent.len(), LIMIT + 1, "a peer that reads gets it all");
        let mut bench = Bench::new(Loud, [Bytes(b"?")]).output([BLOCKED]);
        assert!(matches!(bench.ends(), End::Overflow));
    }

    #[test]
    fn a_protocol_may_finish_first_and_still_hears_the_peer() {
        let mut bench = Bench::new(Lengths, [Bytes(b"one\n\n")]);
        let script = bench.waits();
        assert_eq!(script.sent, b"3\n0\n");
        assert!(script.fin_sent);
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(5), Timeout::Linger)));
        bench.now = at(4);
        bench.readable([Bytes(b"still talking\n")]);
        bench.waits();
        assert_eq!(bench.connection.deadline(&TIMEOUTS), Some((at(9), Timeout::Linger)), "a peer that sends is there");
        bench.readable([Fin]);
        bench.finishes();
    }

    #[test]
    fn a_protocol_that_produces_does_so_whenever_the_queue_is_out() {
        struct Countdown(u8);
        impl Protocol for Countdown {
            fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
                input.len()
            }
            fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
                if self.0 == 0 {
                    return Produced::Finished;
                }
                self.0 -= 1;
                space[..2].copy_from_slice(&[b'0' + self.0, b' ']);
                Produced::Bytes(2)
            }
        }
        let mut bench = Bench::new(Countdown(4), []).output([Takes(2), Takes(1), BLOCKED]);
        assert_eq!(bench.waits().sent, b"3 2");
        bench.writable();
        let script = bench.waits();
        assert_eq!(script.sent, b"3 2 1 0 ");
        assert!(script.fin_sent, "it is finished");
    }

    /// Keeps what it is shown until it is told to take some, finishes when told to, and counts.
    #[derive(Default)]
    struct Keeper {
        shown: usize,
        takes: usize,
        finishes: bool,
        notifies: bool,
        rest: Option<Vec<u8>>,
    }

    impl Protocol for Keeper {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            self.shown += 1;
            if mem::take(&mut self.notifies) {
                out.notify();
            }
            if self.finishes {
                out.finish();
            }
            mem::take(&mut self.takes).min(input.len())
        }

        fn finish<'a>(&mut self, rest: &'a [u8], _out: &mut Outbox<'a>) {
            self.rest = Some(rest.to_vec());
        }
    }

    #[test]
    fn input_that_waits_is_shown_again_only_for_a_reason() {
        let mut bench = Bench::new(Keeper::default(), [Bytes(b"abcd")]);
        bench.waits();
        assert_eq!(bench.connection.protocol().shown, 1);
        bench.writable();
        bench.waits();
        assert_eq!(bench.connection.protocol().shown, 1, "nothing was waiting to be sent");
        bench.connection.protocol_mut().takes = 4;
        bench.connection.wake();
        bench.waits();
        assert_eq!((bench.connection.protocol().shown, bench.connection.memory()), (2, 0));
        bench.connection.wake();
        bench.waits();
        assert_eq!(bench.connection.protocol().shown, 2, "there is nothing to show");
    }

    #[test]
    fn memory_is_given_back_when_half_of_it_is_not_needed() {
        let take = |count: usize| {
            let mut bench = Bench::new(Keeper::default(), [Flood(100)]);
            bench.waits();
            assert_eq!(bench.connection.memory(), 100);
            bench.connection.protocol_mut().takes = count;
            bench.connection.wake();
            bench.waits();
            (bench.connection.inbound_len(), bench.connection.memory())
        };
        assert_eq!(take(30), (70, 100));
        assert_eq!(take(50), (50, 100));
        assert_eq!(take(51), (49, 49));
    }

    #[test]
    fn input_that_is_kept_takes_no_more_memory_than_it_may() {
        let mut bench = Bench::new(Keeper::default(), [Flood(3000)]);
        bench.waits();
        assert_eq!(bench.connection.memory(), 3000, "as much as there is");
        bench.readable([Bytes(b"and ten more")]);
        bench.waits();
        assert_eq!(bench.connection.memory(), LIMIT, "twice that would be more than it may");
        bench.readable([Flood(LIMIT - 3013)]);
        bench.waits();
        assert_eq!((bench.connection.inbound_len(), bench.connection.memory()), (LIMIT - 1, LIMIT));
    }

    #[test]
    fn what_is_unconsumed_counts_for_what_may_be_sent() {
        let mut bench = Bench::new(Keeper::default(), [Bytes(b"abcd")]).output([BLOCKED]);
        bench.waits();
        assert_eq!(bench.connection.send(&[0; LIMIT - 3], LIMIT, at(0)), Err(SendError::Full));
        assert_eq!(bench.connection.send(&[0; LIMIT - 4], LIMIT, at(0)), Ok(()));
    }

    #[test]
    fn a_notification_is_taken_once() {
        let mut bench = Bench::new(Keeper { notifies: true, ..Keeper::default() }, [Bytes(b"a")]);
        assert!(!bench.connection.take_notified());
        bench.waits();
        bench.readable([Bytes(b"b")]);
        bench.waits();
        assert!(bench.connection.take_notified(), "what was said later did not take it back");
        assert!(!bench.connection.take_notified());
    }

    #[test]
    fn who_stands_in_the_queue_is_known_to() {
        let mut bench = Bench::new(Echo, []);
        assert!(!bench.connection.is_queued());
        assert!(bench.connection.enter_queue());
        assert!(bench.connection.is_queued());
        assert!(!bench.connection.enter_queue());
        bench.connection.leave_queue();
        assert!(!bench.connection.is_queued());
    }

    #[test]
    fn states_are_told_as_they_are() {
        let mut bench = Bench::new(Echo, [Bytes(b"abc"), Fin]).output([BLOCKED]);
        bench.connection.ready.writable = false;
        assert_eq!(bench.connection.state(), State::Established, "a full socket alone stalls nothing");
        bench.writable();
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.waits();
        assert_eq!(bench.connection.state(), State::Stalled);
        bench.writable();
        assert_eq!(bench.connection.state(), State::PeerFinished);
        bench.finishes();
        let mut bench = Bench::new(Keeper { finishes: true, ..Keeper::default() }, [Bytes(b"a")]);
        bench.waits();
        assert_eq!(bench.connection.state(), State::Finishing);
    }

    #[test]
    fn the_end_of_what_is_thrown_away_is_not_told() {
        let mut bench = Bench::new(Keeper::default(), [Bytes(b"a"), Fin]);
        bench.connection.note(Readiness { read_closed: true, ..Readiness::default() });
        bench.connection.stop_answering();
        bench.finishes();
        assert_eq!((bench.connection.protocol().shown, &bench.connection.protocol().rest), (0, &None));
    }

    #[test]
    fn one_service_moves_its_budget_and_no_more() {
        let mut bench = Bench::new(Echo, [Flood(2 * SERVICE_BUDGET)]);
        assert!(matches!(bench.service(), Outcome::Runnable));
        assert_eq!(bench.connection.received(), SERVICE_BUDGET as u64);
    }

    #[test]
    fn up_to_the_high_water_mark_reading_goes_on() {
        let mut bench = Bench::new(Echo, [Flood(LIMIT / 2)]).output([BLOCKED]);
        bench.waits();
        bench.readable([Bytes(b"!")]);
        bench.waits();
        assert_eq!(bench.connection.outbound_len(), LIMIT / 2 + 1);
        bench.readable([Bytes(b"!")]);
        bench.waits();
        assert_eq!(bench.connection.outbound_len(), LIMIT / 2 + 1);
    }

    #[test]
    fn nothing_is_produced_for_a_full_socket() {
        let mut bench = Bench::new(Talker, []);
        bench.connection.ready.writable = false;
        bench.waits();
        assert_eq!(bench.connection.outbound_len(), 0);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_no_sign_of_life() {
        let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED, BLOCKED, Takes(1), BLOCKED]);
        let stall = |bench: &Bench<Echo>| bench.connection.deadline(&Timeouts { idle: None, ..TIMEOUTS });
        bench.now = at(5);
        bench.waits();
        let deadline = stall(&bench);
        bench.now = at(6);
        bench.writable();
        bench.waits();
        assert_eq!(stall(&bench), deadline);
        bench.now = at(7);
        bench.writable();
        bench.waits();
        assert_ne!(stall(&bench), deadline);
    }

    #[test]
    fn what_a_full_socket_takes_is_a_sign_of_life_of_a_peer_that_owes_an_answer() {
        struct Owed;
        impl Protocol for Owed {
            fn receive<'a>(&mut self, input: &'a [u8], _out: &mut Outbox<'a>) -> usize {
                input.len()
            }
            fn expects(&self) -> Expects {
                Expects::AnswerSince(at(1))
            }
        }
        let mut bench = Bench::new(Owed, []).output([BLOCKED, Takes(1), BLOCKED, BLOCKED]);
        let idle = |bench: &Bench<Owed>| bench.connection.deadline(&Timeouts { stall: None, ..TIMEOUTS });
        assert_eq!(bench.connection.send(b"abc", LIMIT, at(2)), Ok(()));
        for (now, deadline) in [(3, 102), (50, 150), (60, 150)] {
            bench.now = at(now);
            bench.writable();
            bench.waits();
            assert_eq!(idle(&bench), Some((at(deadline), Timeout::Idle)), "at {now}");
        }
    }

    #[test]
    fn lingering_is_timed_from_its_beginning_whatever_is_sent() {
        let mut bench = Bench::new(Echo, [Bytes(b"abc")]).output([BLOCKED, Takes(1), BLOCKED]);
        bench.waits();
        bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(3));
        let deadline = bench.connection.deadline(&TIMEOUTS);
        bench.now = at(4);
        bench.writable();
        bench.waits();
        assert_eq!(bench.connection.sent(), 1);
        assert_eq!(bench.connection.deadline(&TIMEOUTS), deadline);
    }

    #[test]
    fn who_has_finished_already_is_not_finished_gently() {
        let mut bench = Bench::new(Keeper { finishes: true, ..Keeper::default() }, [Bytes(b"a")]);
        bench.waits();
        bench.connection.expire(Timeout::Idle, &TIMEOUTS, at(3));
        assert!(matches!(bench.ends(), End::TimedOut(Timeout::Idle)));
    }

    #[test]
    fn ends_are_told_in_words() {
        let reset = || io::Error::from(ErrorKind::ConnectionReset);
        let timed_out = |timeout| End::TimedOut(timeout).to_string();
        assert_eq!(End::Finished.to_string(), "finished");
        assert_eq!(End::ConnectFailed(reset()).to_string(), "connect failed: connection reset");
        assert_eq!(End::Failed(reset()).to_string(), "connection reset");
        assert_eq!(timed_out(Timeout::Idle), "idle for too long");
        assert_eq!(timed_out(Timeout::Stall), "the peer reads nothing");
        assert_eq!(SendError::Full.to_string(), "the peer does not read and its buffer is full");
        assert_eq!(SendError::Finishing.to_string(), "the connection is finishing");
        assert_eq!(format!("{:>12}", State::Stalled), "     stalled");
    }
}
