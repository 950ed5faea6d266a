//! One connection: how each of its two directions stands, what may be asked of it, and how it ends.
//!
//! Owns the wire, both buffers, the protocol and the state of both directions. Never waits, never reads a clock, never
//! touches the poller: the loop notes what became ready, calls `service`, and gets the outcome. What becomes of the bytes
//! is in the file `service`, what becomes of a time that runs out in `deadline`. Generic over its [`Transport`], so that
//! short writes, lost edges and resets are tested without a socket.

mod deadline;
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::buffer::SendBuffer;
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::progress::Progress;
use crate::engine::time::{Clock, Moment};
use crate::engine::wire::Wire;
pub use crate::engine::wire::{Readiness, Transport, Unacknowledged};

/// How many bytes one connection may move in one service; then the next connection is served.
///
/// Moving 256 KiB takes some 0.1 ms, so a 1-byte ping beside a handful of peers that never stop sending still comes
/// back within a millisecond or so. It is one full read of the loop's buffer, so a bulk transfer loses nothing.
pub const SERVICE_BUDGET: usize = 256 * 1024;

/// One peer: its socket, its address, the bytes that wait in each direction, and its protocol.
///
/// The tutorial keeps `SimpleNamespace(addr, inb, outb)` for each socket. This struct has the same three, and what it
/// takes to lose no byte. A connection with empty buffers holds no memory outside of this struct.
#[derive(Debug)]
pub struct Connection<T, P> {
    wire: Wire<T>,
    addr: PeerAddr,
    /// Bytes that the protocol has seen and not consumed: an unfinished line, say.
    inbound: Vec<u8>,
    /// Bytes that the socket has not taken.
    outbound: SendBuffer,
    protocol: P,
    opened: Moment,
    /// When a byte last moved, in either direction. If the peer owes an answer, a byte that the socket takes at once
    /// does not count.
    last_active: Moment,
    progress: Progress,
    reading: Reading,
    writing: Writing,
    ending: Ending,
    marks: Marks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// What arrives goes to the protocol.
    Open,
    /// The protocol takes nothing now: nothing is read before it is woken.
    Held,
    /// The role takes nothing now: nothing is read, and nothing is shown to the protocol, before the role resumes.
    Paused,
    /// We ended first; what still arrives is read, so that closing sends no RST, and thrown away.
    Discarding,
    /// The peer's FIN was read; the protocol's `end_of_input` was not called yet.
    EndUnheard,
    /// The same, and the protocol takes nothing of what came before the FIN now: it hears of the end when it is woken.
    EndHeld,
    /// The peer's FIN was read, and nothing is left to show to the protocol.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// The connect is under way.
    Connecting,
    /// The connect is under way, and our FIN follows what waits once it has succeeded.
    ConnectingToShutDown,
    Open,
    /// Our FIN follows what waits in `outbound`.
    ShuttingDown,
    /// Our FIN is sent.
    ShutDown,
}

/// An end decided by the loop or the role. `service` carries it out: a connection ends nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// None: the connection ends when it has both FINs.
    ByItself,
    /// The loop is draining: what has arrived is answered, then our FIN follows.
    Draining,
    /// The connection was idle: our FIN follows, and the peer has a limited time to send its FIN.
    Idle,
    /// A time ran out: the connection ends at its next service.
    TimedOut(Timeout),
    /// The role closed the connection: it ends at its next service.
    Closed,
    /// The role reset the connection: it ends at its next service.
    Reset,
    /// The connection that this one is joined to failed: this one ends at its next service.
    PartnerFailed,
}

impl Ending {
    /// The end that comes with the next service.
    fn due(self) -> Option<End> {
        match self {
            Ending::ByItself | Ending::Draining | Ending::Idle => None,
            Ending::TimedOut(timeout) => Some(End::TimedOut(timeout)),
            Ending::Closed => Some(End::Closed),
            Ending::Reset => Some(End::Reset),
            Ending::PartnerFailed => Some(End::PartnerFailed),
        }
    }
}

/// What is known of a connection, and what is to be done at its next service. Bits of one byte, which each idle
/// connection holds.
#[derive(Clone, Copy, Debug, Default)]
struct Marks(u8);

impl Marks {
    /// What the protocol has not consumed is shown to it again at the next service.
    const WOKEN: u8 = 1;
    /// The protocol's own deadline passed: the next service tells it.
    const DUE: u8 = 2;
    /// The role could not send all that it wanted: it hears of it when there is room again.
    const WANTS_ROOM: u8 = 4;
    /// What the protocol sends goes out on another connection.
    const JOINED: u8 = 8;
    /// The role opened the connection; it was not accepted.
    const OPENED_BY_US: u8 = 16;
    /// Our direction is to be shut down, and the protocol has not heard of it.
    const LAST_WORDS: u8 = 32;

    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    fn set(&mut self, mark: u8) {
        self.0 |= mark;
    }

    /// Clears the mark. Returns whether it was set.
    fn take(&mut self, mark: u8) -> bool {
        let was_set = self.has(mark);
        self.0 &= !mark;
        was_set
    }

    /// Whether the next service has more to do than to carry bytes.
    fn has_work(self) -> bool {
        self.has(Marks::WOKEN | Marks::DUE | Marks::WANTS_ROOM)
    }
}

/// Which time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timeout {
    /// The connect was not answered.
    Connect,
    /// No byte moved in either direction.
    Idle,
    /// Bytes waited and the peer took none of them.
    Stall,
    /// Our FIN was decided on or sent, and the peer's did not come.
    Linger,
    /// The loop's time to drain was over, and this connection was still open.
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
    /// How long a connection that we shut down first is kept, so that its input is read to the end. A bare close(2)
    /// with unread input sends RST instead of FIN, and the RST destroys what the peer has not read yet (RFC 1122,
    /// 4.2.2.13; RFC 2525, 2.17). With `None`, an idle connection is closed at once.
    pub linger: Option<Duration>,
}

/// What the loop lends to a connection for one service.
pub struct Context<'a, T, P> {
    /// The time of this turn.
    pub now: Moment,
    /// The time to the microsecond, for protocols that measure.
    pub clock: &'a dyn Clock,
    /// The loop's one read buffer; its content means nothing between services.
    pub scratch: &'a mut [u8],
    /// How many bytes this connection may buffer, given how much memory is free now.
    pub room_now: usize,
    /// How many bytes it could buffer if memory were plenty. A message longer than that is too long.
    pub room_most: usize,
    /// Whether a read that returns less than was asked for means that the socket is empty. epoll(7) says so for
    /// streams; other pollers report a socket again only after a `WouldBlock`.
    pub short_read_is_last: bool,
    /// The budget for lines about traffic.
    pub log: &'a mut LogBudget,
    /// The connection that this one is joined to, if there is one: it sends what the protocol answers.
    pub partner: Option<Partner<'a, T, P>>,
    /// Set where the protocol asks for the role's attention ([`Outbox::notify`](crate::Outbox::notify)).
    pub notified: bool,
    /// Set where there is room again for what the role wants to send.
    pub has_room: bool,
}

/// The connection that another one is joined to.
pub struct Partner<'a, T, P> {
    /// Sends what the other one's protocol answers.
    pub connection: &'a mut Connection<T, P>,
    /// How many bytes it may buffer, given how much memory is free now.
    pub room_now: usize,
    /// Set where sending failed.
    pub end: &'a mut Option<End>,
}

/// What came of one service.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing more can be done until the poller says so.
    Waiting,
    /// The budget is spent, and there is more to do at once.
    Runnable,
    /// The connection is over. Dropping it closes its socket.
    Ended(End),
}

/// Why a connection is over.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// The peer's FIN was read, and everything that was to be sent, our FIN included, was handed to the kernel.
    Finished,
    /// The protocol ended it ([`Outbox::abort`](crate::Outbox::abort)).
    Aborted,
    /// The connect failed.
    ConnectFailed(io::Error),
    /// Reading or writing failed: a reset by the peer, most often.
    Failed(io::Error),
    /// A time ran out.
    TimedOut(Timeout),
    /// One message was longer than the buffer for it.
    MessageTooLong,
    /// All connections together hold as much as they may, and this one's message is not complete.
    OutOfMemory,
    /// The protocol had more to send than the buffer holds, and the peer did not read.
    Overflow,
    /// The role closed the connection ([`EventLoop::close`](crate::engine::event_loop::EventLoop::close)).
    Closed,
    /// The role reset the connection ([`EventLoop::reset`](crate::engine::event_loop::EventLoop::reset)).
    Reset,
    /// The connection that it was joined to ([`EventLoop::join`](crate::engine::event_loop::EventLoop::join)) failed, and
    /// so this one was reset.
    PartnerFailed,
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
            End::Reset => f.write_str("reset by us"),
            End::PartnerFailed => f.write_str("reset, as the connection that it was joined to failed"),
        }
    }
}

/// What a connection is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// The connect is not answered yet.
    Connecting,
    /// Both directions are open.
    Established,
    /// Bytes wait that the peer does not take.
    Stalled,
    /// The protocol or the role takes nothing now: backpressure.
    Held,
    /// The peer has sent its FIN; ours follows when everything is sent, or when the protocol says so.
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
            State::Held => "held",
            State::PeerFinished => "peer finished",
            State::Finishing => "finishing",
        })
    }
}

impl<T, P> Connection<T, P> {
    /// A connection that is established: accepted, most likely.
    pub fn open(transport: T, addr: SocketAddr, protocol: P, now: Moment) -> Connection<T, P> {
        Connection {
            wire: Wire::new(transport),
            addr: addr.into(),
            inbound: Vec::new(),
            outbound: SendBuffer::new(),
            protocol,
            opened: now,
            last_active: now,
            progress: Progress::new(now),
            reading: Reading::Open,
            writing: Writing::Open,
            ending: Ending::ByItself,
            marks: Marks::default(),
        }
    }

    /// A connection whose connect is under way.
    pub fn connecting(transport: T, addr: SocketAddr, protocol: P, now: Moment) -> Connection<T, P> {
        let marks = Marks(Marks::OPENED_BY_US);
        Connection { writing: Writing::Connecting, marks, ..Connection::open(transport, addr, protocol, now) }
    }

    /// The peer's address. An IPv4 address mapped into IPv6 is returned as the IPv4 address.
    pub fn addr(&self) -> SocketAddr {
        self.addr.get()
    }

    /// The socket.
    pub fn transport(&self) -> &T {
        &self.wire.transport
    }

    /// The socket, to register it.
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.wire.transport
    }

    /// The protocol.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// The protocol, for the role: a chat takes its members' lines here.
    pub fn protocol_mut(&mut self) -> &mut P {
        &mut self.protocol
    }

    /// The protocol, once the connection is over. Closes the socket.
    pub fn into_protocol(self) -> P {
        self.protocol
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.wire.received
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.wire.sent
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

    /// Bytes of memory that the larger of its two buffers holds.
    pub fn larger_buffer(&self) -> usize {
        self.inbound.capacity().max(self.outbound.capacity())
    }

    /// When it was opened.
    pub fn opened(&self) -> Moment {
        self.opened
    }

    /// When the last byte moved, in either direction.
    pub fn last_active(&self) -> Moment {
        self.last_active
    }

    /// Whether it was accepted; if not, the role opened it.
    pub fn was_accepted(&self) -> bool {
        !self.marks.has(Marks::OPENED_BY_US)
    }

    /// Whether it was joined to another connection, which may be gone by now.
    pub fn was_joined(&self) -> bool {
        self.marks.has(Marks::JOINED)
    }

    /// Whether the connect is under way.
    pub fn is_connecting(&self) -> bool {
        matches!(self.writing, Writing::Connecting | Writing::ConnectingToShutDown)
    }

    /// What the connection is doing, for people. No decision depends on it.
    pub fn state(&self) -> State {
        match (self.writing, self.reading) {
            (Writing::Connecting | Writing::ConnectingToShutDown, _) => State::Connecting,
            _ if !self.outbound.is_empty() && !self.wire.ready.writable => State::Stalled,
            (Writing::Open, Reading::Held | Reading::Paused | Reading::EndHeld) => State::Held,
            (_, Reading::EndUnheard | Reading::EndHeld | Reading::Ended) => State::PeerFinished,
            (Writing::ShuttingDown | Writing::ShutDown, _) => State::Finishing,
            (Writing::Open, _) => State::Established,
        }
    }

    /// Notes what the poller said. Only adds flags and touches no socket, so it is safe at any time.
    pub fn note(&mut self, event: Readiness) {
        self.wire.note(event);
    }

    /// Queues bytes from outside of the protocol, as many as fit into `room_now` bytes; the next service sends them.
    /// Returns how many were queued.
    ///
    /// # Errors
    /// Nothing is queued if our FIN was decided on.
    pub fn send(&mut self, bytes: &[u8], room_now: usize, now: Moment) -> Result<usize, SendError> {
        if !matches!(self.writing, Writing::Open | Writing::Connecting) || self.ending.due().is_some() {
            return Err(SendError::Finishing);
        }
        let nothing_waited = self.outbound.is_empty();
        let taken = bytes.len().min(room_now.saturating_sub(self.outbound.len()));
        self.outbound.push(&bytes[..taken], room_now);
        self.time_the_wait(nothing_waited, now);
        if taken < bytes.len() {
            self.marks.set(Marks::WANTS_ROOM);
        }
        Ok(taken)
    }

    /// How many bytes count against the room for what the protocol produces: those that wait to be sent, and input that
    /// the protocol left. Input that the protocol holds does not: if full hands kept it from sending, two peers could
    /// hold each other's input for ever.
    fn room_taken(&self) -> usize {
        let kept = if self.takes_nothing() { 0 } else { self.inbound.len() };
        self.outbound.len() + kept
    }

    /// Whether the protocol or the role wants to see no input now.
    pub(crate) fn takes_nothing(&self) -> bool {
        matches!(self.reading, Reading::Held | Reading::Paused | Reading::EndHeld)
    }

    /// Begins to drain: what has arrived is read, once to `WouldBlock`, and answered. Then our FIN follows, and what
    /// arrives later is thrown away, up to the peer's FIN.
    ///
    /// A connection that is joined to another one goes on: the answer to what it forwards comes from elsewhere, at a
    /// time that nobody here knows.
    pub fn drain(&mut self) {
        if self.marks.has(Marks::JOINED) {
            return;
        }
        if self.ending == Ending::ByItself {
            self.ending = Ending::Draining;
        }
        self.wire.ready.readable = true; // A connection accepted just now has had no event yet.
        if self.reading == Reading::Ended {
            self.shut_down(); // Nothing comes that would be answered.
        }
    }

    /// Sends our FIN behind what waits. What still arrives is read and thrown away, for as long as the linger timeout
    /// says, from `now` on.
    pub fn stop_answering(&mut self, now: Moment) {
        match self.reading {
            Reading::Open | Reading::Held | Reading::Paused => {
                self.shut_down();
                self.reading = Reading::Discarding;
                self.progress.waiting_since = now;
            }
            Reading::EndHeld => {
                self.shut_down();
                self.inbound = Vec::new();
                self.reading = Reading::Ended;
            }
            Reading::Ended => self.shut_down(),
            Reading::EndUnheard | Reading::Discarding => {}
        }
    }

    /// At the next service, shows the protocol again what it has not consumed.
    pub fn wake(&mut self) {
        self.marks.set(Marks::WOKEN);
        self.reading = match self.reading {
            Reading::Held => Reading::Open,
            Reading::EndHeld => Reading::EndUnheard,
            other => other,
        };
    }

    /// Reads nothing from now on, and shows the protocol nothing.
    pub fn pause(&mut self) {
        if matches!(self.reading, Reading::Open | Reading::Held) {
            self.reading = Reading::Paused;
        }
    }

    /// Takes a pause back.
    pub fn resume(&mut self) {
        if self.reading == Reading::Paused {
            self.reading = Reading::Open;
            self.marks.set(Marks::WOKEN);
        }
    }

    /// Ends the connection at its next service; with a reset if bytes wait, as they are lost.
    pub fn close(&mut self) {
        self.end_as(Ending::Closed);
    }

    /// Ends the connection with a reset at its next service.
    pub fn reset(&mut self) {
        self.end_as(Ending::Reset);
    }

    /// Whether both directions are as they were in the beginning, so that it can be joined to another connection.
    pub(crate) fn can_be_joined(&self) -> bool {
        !self.was_joined()
            && self.ending.due().is_none()
            && matches!(self.writing, Writing::Connecting | Writing::Open)
            && matches!(self.reading, Reading::Open | Reading::Held | Reading::Paused)
    }

    /// Sends what the protocol answers elsewhere from now on: to the partner that each service has in its context.
    pub(crate) fn join(&mut self) {
        self.marks.set(Marks::JOINED);
        if self.ending == Ending::Draining {
            self.ending = Ending::ByItself;
        }
    }

    /// Goes on alone, as the partner has ended. After an end in order, what waits is sent, and what still arrives has
    /// nowhere to go. After any other end this connection is reset: its peer must not take for whole what came from the
    /// partner, nor for delivered what went there.
    pub(crate) fn lose_partner(&mut self, in_order: bool, now: Moment) {
        if !in_order {
            return self.end_as(Ending::PartnerFailed);
        }
        if matches!(self.reading, Reading::EndUnheard | Reading::EndHeld) {
            self.reading = Reading::Ended;
        }
        self.inbound = Vec::new();
        self.stop_answering(now);
    }

    /// Notes that the partner has sent what it had, and shows the protocol what waits for that.
    pub(crate) fn partner_has_room(&mut self) {
        if !self.takes_nothing() {
            self.marks.set(Marks::WOKEN);
        }
    }

    /// Whether something keeps this connection from reading on, which may be the partner's lack of room.
    pub(crate) fn has_more_to_read(&self) -> bool {
        self.wire.ready.readable || !self.inbound.is_empty() || self.reading == Reading::EndUnheard
    }

    /// Whether there is something to do that no event of the poller's will announce: our FIN is to be sent, or the
    /// role waits for room.
    pub(crate) fn has_to_act(&self) -> bool {
        self.outbound.is_empty() && (self.writing == Writing::ShuttingDown || self.marks.has(Marks::WANTS_ROOM))
    }

    /// Notes the protocol's deadline: the next service tells the protocol, if it has not moved meanwhile.
    pub(crate) fn protocol_is_due(&mut self) {
        self.marks.set(Marks::DUE);
    }

    fn end_as(&mut self, ending: Ending) {
        if self.ending.due().is_none() {
            self.ending = ending;
        }
    }

    /// What happened at `turn`, the beginning of a turn that took long, may have happened as late as `end`.
    pub(crate) fn redate(&mut self, turn: Moment, end: Moment) {
        for time in [&mut self.last_active, &mut self.progress.waiting_since] {
            if *time == turn {
                *time = end;
            }
        }
    }

    /// Shuts our direction down behind what waits to be sent, and behind the protocol's last words. Input still arrives.
    pub fn shut_down(&mut self) {
        if matches!(self.writing, Writing::Open | Writing::Connecting) && !self.marks.has(Marks::JOINED) {
            self.marks.set(Marks::LAST_WORDS);
        }
        self.shut_down_as_asked();
    }

    /// The same, as the protocol asked for it.
    fn shut_down_as_asked(&mut self) {
        self.marks.take(Marks::WANTS_ROOM); // Nothing can be sent behind the FIN.
        self.writing = match self.writing {
            Writing::Open => Writing::ShuttingDown,
            Writing::Connecting => Writing::ConnectingToShutDown,
            further => further,
        };
    }

    /// Starts the stall timeout when bytes begin to wait, not when the last answer was sent.
    fn time_the_wait(&mut self, nothing_waited: bool, now: Moment) {
        if nothing_waited && !self.outbound.is_empty() {
            self.last_active = now;
            if self.reading != Reading::Discarding {
                self.progress.begin_to_wait(now);
            }
        }
    }

    /// Notes that the peer took bytes. It moves no linger timeout: that one counts from its beginning.
    fn peer_took_bytes(&mut self, since: Moment) {
        self.last_active = self.last_active.max(since);
        if self.reading != Reading::Discarding {
            self.progress.waiting_since = self.progress.waiting_since.max(since);
        }
    }
}

/// Why [`Connection::send`] refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// Nothing can be sent: our FIN was decided on, or the connection ended.
    Finishing,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Finishing => "the connection is finishing",
        })
    }
}

impl std::error::Error for SendError {}
