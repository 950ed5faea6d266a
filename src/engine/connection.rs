//! One connection: what becomes of its bytes, how each of its two directions stands, and how it ends.
//!
//! Owns the wire, both buffers, the protocol and the state of both directions. Never waits, never reads a clock, never
//! touches the poller or another connection: the loop notes what became ready, calls `service`, and gets the outcome.
//! Generic over its [`Transport`], so that short writes, lost edges and resets are tested without a socket.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use crate::engine::buffer::{self, SendBuffer};
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::progress::Progress;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol, Wishes};
use crate::engine::time::{Clock, Moment};
use crate::engine::wire::{Input, Wire};
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
    /// Set where the protocol asks for the role's attention ([`Outbox::notify`]).
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

/// What a protocol answered, for the connection that sends it.
struct Answer<'a> {
    /// That connection's own queue, with what was copied behind it.
    queue: SendBuffer,
    /// What goes out behind the queue, from where it was read.
    tail: &'a [u8],
    wishes: Wishes,
    nothing_waited: bool,
    room_now: usize,
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

impl<T: Transport, P: Protocol> Connection<T, P> {
    /// The next time that something runs out, and what. Computed from the state, so that no byte has to update it.
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<(Moment, Timeout)> {
        if self.is_connecting() {
            return timeouts.connect.map(|limit| (self.opened.plus(limit), Timeout::Connect));
        }
        let linger = |since: Moment| timeouts.linger.map(|limit| (since.plus(limit), Timeout::Linger));
        let waiting_since = self.progress.waiting_since;
        if self.reading == Reading::Discarding {
            return if self.ending == Ending::Draining { None } else { linger(waiting_since) };
        }
        let bytes_wait = self.progress.kernel_holds || !self.outbound.is_empty();
        let stall = timeouts
            .stall
            .filter(|_| bytes_wait)
            .map(|limit| (self.progress.next_look(waiting_since, limit), Timeout::Stall));
        let idle = timeouts.idle.and_then(|limit| match self.protocol.expects() {
            _ if self.takes_nothing() => None, // The silence is ours.
            // A peer for which bytes wait is not idle. The stall timeout judges whether the peer still takes them.
            Expects::Anything if stall.is_some() => None,
            Expects::Anything => Some(self.last_active.plus(limit)),
            Expects::AnswerSince(owed) if self.outbound.is_empty() => Some(self.last_active.max(owed).plus(limit)),
            Expects::AnswerSince(owed) => Some(self.progress.next_look(self.last_active.max(owed), limit)),
            Expects::Nothing => None,
        });
        let idle = idle.map(|when| (when, Timeout::Idle));
        // What the far end still has to say comes through the partner, and may take its time.
        let lingers = self.writing == Writing::ShutDown && !self.marks.has(Marks::JOINED);
        let finished = if lingers { linger(self.last_active) } else { None };
        [stall, idle, finished].into_iter().flatten().min_by_key(|&(when, _)| when)
    }

    /// The protocol's own deadline, if the protocol can still do something about it.
    pub(crate) fn protocol_deadline(&self) -> Option<Moment> {
        let deadline = self.protocol.deadline()?;
        let is_over = self.reading == Reading::Discarding || self.ending.due().is_some();
        (!is_over && !self.is_connecting()).then_some(deadline)
    }

    /// Acts on a time that ran out. Returns whether the next service has something to do. It has nothing to do if the
    /// kernel's queue shows that the peer takes what is sent to it: then the connection has a new deadline.
    ///
    /// An idle connection is not closed but shut down, if there is a linger timeout.
    pub fn expire(&mut self, timeout: Timeout, timeouts: &Timeouts, now: Moment) -> bool {
        if self.ending.due().is_some() {
            return true;
        }
        if self.may_go_on(timeout, timeouts, now) {
            return false;
        }
        // With our direction open, there is a gentle way: our FIN. Without time for the peer's, only if that is here. But
        // a FIN would say that a partner's bytes were complete.
        let gentle = self.writing == Writing::Open
            && !self.marks.has(Marks::JOINED)
            && match self.reading {
                Reading::Open | Reading::Held | Reading::Paused => timeouts.linger.is_some(),
                Reading::Ended => true,
                Reading::EndUnheard | Reading::EndHeld | Reading::Discarding => false,
            };
        if timeout == Timeout::Idle && gentle {
            self.stop_answering(now);
            if self.ending == Ending::ByItself {
                self.ending = Ending::Idle;
            }
        } else {
            let idle = self.ending == Ending::Idle;
            self.ending = Ending::TimedOut(if idle { Timeout::Idle } else { timeout });
        }
        true
    }

    /// Looks at the kernel's queue, if that can tell anything. Returns whether the connection goes on in spite of the
    /// time that ran out.
    fn may_go_on(&mut self, timeout: Timeout, timeouts: &Timeouts, now: Moment) -> bool {
        let owes_an_answer = matches!(self.protocol.expects(), Expects::AnswerSince(_));
        let worth_a_look = match timeout {
            Timeout::Stall => true,
            // The kernels of both ends take megabytes for a peer that reads nothing. So if the peer owes an answer,
            // only what they take after they were full is a sign of life.
            Timeout::Idle => !owes_an_answer || !self.outbound.is_empty(),
            Timeout::Linger => self.reading != Reading::Discarding,
            Timeout::Connect | Timeout::Drain => false,
        };
        if !worth_a_look {
            return false;
        }
        let found = self.wire.transport.unacknowledged();
        let progress_since = found.and_then(|found| self.progress.look(self.wire.sent, found, now));
        if timeout == Timeout::Idle && !owes_an_answer && self.progress.kernel_holds {
            // From now on the stall timeout judges the peer. The last of the bytes that the kernel holds were sent no
            // later than a byte last moved; the last acknowledgement may be much older.
            self.progress.waiting_since = self.progress.waiting_since.max(self.last_active);
        }
        if let Some(since) = progress_since {
            self.peer_took_bytes(since);
            return true;
        }
        match timeout {
            Timeout::Idle if !owes_an_answer => {
                if self.progress.kernel_holds && timeouts.stall.is_none() {
                    self.last_active = now; // Without a stall timeout, nothing judges whether the peer takes the bytes.
                }
                self.progress.kernel_holds
            }
            Timeout::Stall | Timeout::Idle => self.progress.look_again(),
            _ => false,
        }
    }

    /// A pair of joined connections is idle only as a whole. Notes when the partner was last active. While it waits for
    /// us, it is active now; and while bytes wait there, in our queue or in the kernel's, its stall timeout judges.
    pub(crate) fn shares_activity(&mut self, partner: &mut Connection<T, P>, timeouts: &Timeouts, now: Moment) {
        let bytes_wait = |partner: &Connection<T, P>| partner.progress.kernel_holds || !partner.outbound.is_empty();
        if !bytes_wait(partner) && !partner.is_connecting() {
            partner.may_go_on(Timeout::Idle, timeouts, now); // Looks at the kernel's queue.
        }
        let is_active = partner.takes_nothing() || bytes_wait(partner);
        self.last_active = self.last_active.max(if is_active { now } else { partner.last_active });
    }

    /// Does what can be done now, within [`SERVICE_BUDGET`]. Returns an outcome and not a `Result`, so that one
    /// connection's error cannot end the loop.
    pub fn service(&mut self, context: &mut Context<'_, T, P>) -> Outcome {
        match self.advance(context) {
            Ok(true) => Outcome::Runnable,
            Ok(false) => Outcome::Waiting,
            Err(end) => {
                self.reset_if_cut_short(&end);
                Outcome::Ended(end)
            }
        }
    }

    /// A FIN says that everything was sent. Where that is not so, closing sends a reset: no peer must take for whole what
    /// was cut short. What comes from a partner may be cut short although nothing waits here.
    #[cold]
    fn reset_if_cut_short(&mut self, end: &End) {
        let is_cut_short = self.marks.has(Marks::JOINED) || !self.outbound.is_empty();
        if matches!(end, End::Reset) || is_cut_short && !matches!(end, End::Finished) {
            self.wire.transport.reset_on_close();
        }
    }

    /// The loop stops: the connection will be closed as it stands.
    pub(crate) fn abandon(&mut self) {
        self.reset_if_cut_short(&End::Closed);
    }

    /// The way of every byte: sends what waits; reads, shows the bytes to the protocol and writes its answer; delivers
    /// the end of input; writes what the protocol produces; sends our FIN if all is done. Returns whether there may be
    /// more to do at once.
    fn advance(&mut self, context: &mut Context<'_, T, P>) -> Result<bool, End> {
        // If no end was decided, this costs one comparison.
        if self.ending != Ending::ByItself
            && let Some(end) = self.ending.due()
        {
            return Err(end);
        }
        if self.is_connecting() && !self.connected(context.now)? {
            return Ok(false);
        }
        let marked = self.marks.has_work();
        if marked {
            self.begin_marked(context)?;
        }
        let mut moved = 0;
        let mut runnable = loop {
            self.flush(context)?;
            let read = self.read(context)?;
            self.deliver_end_of_input(context)?;
            // Behind the read, which may have found that nothing more will come back.
            let produced = self.produce(context)?;
            moved += read + produced;
            // Nothing to read and nothing produced: another round would find nothing to do.
            if produced == 0 && (read == 0 || !self.wire.ready.readable) {
                break false;
            }
            if moved >= SERVICE_BUDGET {
                break true;
            }
        };
        if marked {
            runnable |= self.end_marked(context)?;
        }
        self.shut_down_if_done(context)?;
        if !runnable {
            self.notice_an_error(context)?;
        }
        Ok(runnable)
    }

    /// Shows the protocol again what it left, if that was asked for.
    #[cold]
    fn begin_marked(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.marks.take(Marks::WOKEN) && !self.takes_nothing() {
            self.show(&[], context)?;
        }
        Ok(())
    }

    /// Tells the protocol that its deadline passed: behind the read, as what it was missing may have come by then. And
    /// finds out whether there is room again for what the role wants to send. Returns whether there is more to do at
    /// once: the protocol may have something to produce now.
    #[cold]
    fn end_marked(&mut self, context: &mut Context<'_, T, P>) -> Result<bool, End> {
        let mut called = false;
        if self.marks.take(Marks::DUE) && self.protocol_deadline().is_some_and(|when| when <= context.now) {
            self.call_protocol(context, |protocol, out| protocol.deadline_passed(out))?;
            called = true;
        }
        if self.outbound.len() <= context.room_now / 2 && self.marks.take(Marks::WANTS_ROOM) {
            context.has_room = true;
        }
        Ok(called)
    }

    /// Finds out whether the connect succeeded.
    fn connected(&mut self, now: Moment) -> Result<bool, End> {
        let through = self.wire.finish_connect().map_err(End::ConnectFailed)?;
        if through {
            // `stop_answering` may have come while the connect was under way.
            let stopped = self.reading == Reading::Discarding || self.writing == Writing::ConnectingToShutDown;
            self.writing = if stopped { Writing::ShuttingDown } else { Writing::Open };
            self.last_active = now; // The time to connect was not idleness.
            self.progress.waiting_since = now;
        }
        Ok(through)
    }

    /// Sends what waits. If all is sent, shows the protocol its unconsumed input again: now its answers have room.
    fn flush(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if !self.outbound.is_empty() && self.wire.ready.writable {
            self.send_queue(context)?;
            if self.outbound.is_empty() && !self.takes_nothing() {
                self.show(&[], context)?;
            }
        }
        Ok(())
    }

    /// Writes the queue, as far as the socket takes it.
    fn send_queue(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let mut queue = mem::take(&mut self.outbound);
        while self.wire.ready.writable && !queue.is_empty() {
            let taken = self.write(queue.front(), context)?;
            queue.consume(taken);
            if taken > 0 {
                self.peer_took_bytes(context.now); // The socket was full, so the peer has made the room.
            }
        }
        self.outbound = queue;
        Ok(())
    }

    /// Writes `bytes` until the socket takes no more. Returns how many it took.
    #[expect(clippy::inline_always, reason = "on the way of every byte: counted, 25 instructions")]
    #[inline(always)]
    fn write(&mut self, bytes: &[u8], context: &mut Context<'_, T, P>) -> Result<usize, End> {
        let taken = self.wire.write(bytes).map_err(End::Failed)?;
        if taken > 0 {
            self.protocol.log_sent(&bytes[..taken], &self.addr, context.log);
            if !matches!(self.protocol.expects(), Expects::AnswerSince(_)) {
                self.last_active = context.now;
            }
        }
        Ok(taken)
    }

    /// Writes what the protocol produces without input. Returns how many bytes that was.
    fn produce(&mut self, context: &mut Context<'_, T, P>) -> Result<usize, End> {
        if self.writing != Writing::Open || !self.wire.ready.writable || !self.outbound.is_empty() {
            return Ok(0);
        }
        // The peer sent its FIN and may have closed its socket. A write could bring a reset before its last bytes are
        // read. Once that end was read, or while nothing is read, there is nothing to wait for.
        if self.reading == Reading::Open && self.wire.end_is_near() {
            return Ok(0);
        }
        let space = context.scratch.len().min(context.room_now.saturating_sub(self.room_taken()));
        match self.protocol.produce(&mut context.scratch[..space], context.clock) {
            Produced::Bytes(produced) => {
                let scratch = mem::take(&mut context.scratch);
                let taken = self.write(&scratch[..produced], context)?;
                if taken < produced {
                    self.protocol.blocked();
                }
                self.outbound.push(&scratch[taken..produced], context.room_now);
                context.scratch = scratch;
                self.time_the_wait(true, context.now);
                Ok(produced)
            }
            Produced::Nothing => Ok(0),
            Produced::Finished => {
                self.shut_down_as_asked();
                Ok(0)
            }
        }
    }

    /// Reads once and shows the protocol what came. Returns how many bytes that was.
    fn read(&mut self, context: &mut Context<'_, T, P>) -> Result<usize, End> {
        if !self.wire.ready.readable {
            return Ok(0);
        }
        let wanted = self.read_size(context);
        if wanted == 0 {
            return self.no_room_to_read(context);
        }
        // A draining connection reads on to the `WouldBlock` that it waits for.
        let short_read_is_last = context.short_read_is_last && self.ending != Ending::Draining;
        match self.wire.read(&mut context.scratch[..wanted], short_read_is_last).map_err(End::Failed)? {
            Input::Bytes(count) => {
                self.last_active = context.now;
                if self.reading == Reading::Open {
                    let scratch = mem::take(&mut context.scratch);
                    let shown = self.log_and_show(&scratch[..count], context);
                    context.scratch = scratch;
                    shown?;
                }
                Ok(count)
            }
            Input::End => {
                self.reading = match self.reading {
                    Reading::Discarding => Reading::Ended,
                    _ => Reading::EndUnheard,
                };
                Ok(0)
            }
            Input::Nothing => {
                if self.ending == Ending::Draining {
                    self.stop_answering(context.now);
                }
                Ok(0)
            }
        }
    }

    /// How many bytes to read: never more than there is room to queue, because the socket may take none of the answer.
    /// Above the high-water mark, half of the room, nothing is read. Otherwise a stalled transfer would crawl on in
    /// reads of a few bytes each, one whenever a few bytes have left the queue.
    ///
    /// Input that is not answered needs no room in the queue and does not wait for any: the peer may read no more
    /// before we have read what it sent.
    fn read_size(&self, context: &Context<'_, T, P>) -> usize {
        let room = match self.reading {
            Reading::Open if !self.protocol.answers() => context.room_now.saturating_sub(self.inbound.len()),
            Reading::Open => {
                let (queued, room_now) = self.queued_answers(context);
                if queued > room_now / 2 { 0 } else { room_now.saturating_sub(queued + self.inbound.len()) }
            }
            Reading::Discarding => usize::MAX,
            Reading::Held | Reading::Paused | Reading::EndUnheard | Reading::EndHeld | Reading::Ended => 0,
        };
        room.min(context.scratch.len())
    }

    /// How many bytes wait where the protocol's answers go, and how many may. A partner's room is not ours to fill with
    /// input that the protocol leaves.
    #[inline]
    fn queued_answers(&self, context: &Context<'_, T, P>) -> (usize, usize) {
        match &context.partner {
            None => (self.outbound.len(), context.room_now),
            Some(partner) => (partner.connection.outbound.len(), partner.room_now.min(context.room_now)),
        }
    }

    /// Backpressure: does not read. The flag stays, so that reading goes on without another edge. Room comes only from
    /// bytes that are sent: with nothing to send there will never be room, and the connection ends.
    fn no_room_to_read(&self, context: &Context<'_, T, P>) -> Result<usize, End> {
        match self.reading {
            Reading::Open if self.queued_answers(context).0 > 0 => Ok(0),
            Reading::Open if self.inbound.len() >= context.room_most => Err(End::MessageTooLong),
            Reading::Open => Err(End::OutOfMemory),
            _ => Ok(0),
        }
    }

    /// Bytes arrived: logs them, and shows them to the protocol.
    fn log_and_show(&mut self, input: &[u8], context: &mut Context<'_, T, P>) -> Result<(), End> {
        self.protocol.log_received(input, &self.addr, context.log);
        self.show(input, context)
    }

    /// Shows the protocol `input` behind what it left of earlier input, and keeps what it leaves now.
    ///
    /// The input is shown again while the protocol consumes some of it and its answers go out at once. A protocol may
    /// have stopped only because its answers had no more room; nothing else would make it go on.
    fn show(&mut self, input: &[u8], context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.inbound.is_empty() {
            let left = self.show_while_consumed(input, context)?;
            if !left.is_empty() {
                self.keep(left, context.room_now);
            }
            return Ok(());
        }
        self.keep(input, context.room_now);
        let mut inbound = mem::take(&mut self.inbound);
        let left = self.show_while_consumed(&inbound, context)?.len();
        if left > 0 {
            inbound.drain(..inbound.len() - left);
            if left < inbound.capacity() / 2 {
                inbound.shrink_to_fit(); // A long line that was consumed gives its memory back.
            }
            self.inbound = inbound;
        }
        Ok(())
    }

    /// Shows `input` while the protocol consumes some of it and its answers go out at once. Returns what is left.
    fn show_while_consumed<'a>(
        &mut self,
        mut input: &'a [u8],
        context: &mut Context<'_, T, P>,
    ) -> Result<&'a [u8], End> {
        while !input.is_empty() {
            let consumed = self.call_protocol(context, |protocol, out| protocol.receive(input, out))?;
            input = &input[consumed..];
            if consumed == 0 || self.takes_nothing() || self.queued_answers(context).0 > 0 {
                break;
            }
        }
        Ok(input)
    }

    /// Keeps input that was not consumed. The buffer grows by the rule of the outbound queue.
    fn keep(&mut self, input: &[u8], limit: usize) {
        let (len, capacity) = (self.inbound.len(), self.inbound.capacity());
        self.inbound.reserve_exact(buffer::grown(len + input.len(), capacity, limit) - len);
        self.inbound.extend_from_slice(input);
    }

    /// Tells the protocol of the end of input: at once, unless unconsumed input waits for room for its answers.
    fn deliver_end_of_input(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        while self.reading == Reading::EndUnheard && (self.inbound.is_empty() || self.queued_answers(context).0 == 0) {
            let before = self.inbound.len();
            self.show(&[], context)?;
            if self.inbound.len() == before && self.reading == Reading::EndUnheard {
                self.reading = Reading::Ended;
                let rest = mem::take(&mut self.inbound);
                self.call_protocol(context, |protocol, out| protocol.end_of_input(&rest, out))?;
                if self.ending == Ending::Draining {
                    self.shut_down(); // The loop ends: nothing more is waited for.
                }
            }
        }
        Ok(())
    }

    /// Calls the protocol and does what it asks for. Its answer goes out here or, if this connection is joined to
    /// another one, there.
    fn call_protocol<'a, 'context: 'a, R>(
        &mut self,
        context: &mut Context<'context, T, P>,
        call: impl FnOnce(&mut P, &mut Outbox<'a>) -> R,
    ) -> Result<R, End> {
        let (queue, room_now) = match &mut context.partner {
            None => (mem::take(&mut self.outbound), context.room_now),
            Some(partner) => (mem::take(&mut partner.connection.outbound), partner.room_now),
        };
        let nothing_waited = queue.is_empty();
        let mut out = Outbox::new(queue, room_now, context.clock);
        let result = call(&mut self.protocol, &mut out);
        let Outbox { mut queue, tail, wishes, .. } = out;
        if !wishes.is_empty() {
            context.notified |= wishes.has(Wishes::NOTIFY);
            if wishes.has(Wishes::HOLD) {
                self.reading = match self.reading {
                    Reading::Open => Reading::Held,
                    Reading::EndUnheard => Reading::EndHeld,
                    other => other,
                };
            }
            if wishes.has(Wishes::ABORT) {
                queue.push(tail, room_now);
                match &mut context.partner {
                    None => self.outbound = queue,
                    Some(partner) => partner.connection.outbound = queue,
                }
                return Err(End::Aborted);
            }
        }
        let answer = Answer { queue, tail, wishes, nothing_waited, room_now };
        if context.partner.is_some() {
            Self::let_partner_send(answer, context)?;
        } else {
            self.send_answer(answer, context)?;
        }
        if wishes.has(Wishes::FINISH) {
            self.stop_answering(context.now);
        }
        Ok(result)
    }

    /// Has the partner send a protocol's answer. Where that fails, it is the partner's end, and with it ours.
    #[inline(never)] // The way of a connection that has no partner stays short.
    fn let_partner_send(answer: Answer<'_>, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let Some(partner) = context.partner.take() else { return Ok(()) };
        *partner.end = partner.connection.send_answer(answer, context).err();
        if let Some(end) = &*partner.end {
            partner.connection.reset_if_cut_short(end);
        }
        let sent = partner.end.is_none();
        context.partner = Some(partner);
        if sent { Ok(()) } else { Err(End::PartnerFailed) }
    }

    /// Sends a protocol's answer. What it borrows from the input is written at once, from where it was read. Only what
    /// the socket does not take is copied.
    #[expect(clippy::inline_always, reason = "on the way of every byte, and called for ourselves or for a partner")]
    #[inline(always)]
    fn send_answer(&mut self, answer: Answer<'_>, context: &mut Context<'_, T, P>) -> Result<(), End> {
        let Answer { queue, tail, wishes, nothing_waited, room_now } = answer;
        if self.writing == Writing::ShutDown {
            return Ok(()); // Nothing can be sent behind our FIN.
        }
        self.outbound = queue;
        let mut taken = 0;
        // A partner may not be connected yet. What is said of its socket then means the connect.
        if !self.is_connecting() {
            if !self.outbound.is_empty() {
                self.send_queue(context)?;
            }
            if self.outbound.is_empty() {
                taken = self.write(tail, context)?;
            }
        }
        self.outbound.push(&tail[taken..], room_now);
        self.time_the_wait(nothing_waited, context.now);
        if self.outbound.len() > room_now {
            return Err(End::Overflow);
        }
        if !wishes.is_empty() && (wishes.has(Wishes::SHUT_DOWN) || wishes.has(Wishes::FINISH)) {
            self.shut_down_as_asked();
        }
        Ok(())
    }

    /// Where nothing is read, no read finds a reset. A write would, but there may be nothing to write for a long time.
    fn notice_an_error(&mut self, context: &Context<'_, T, P>) -> Result<(), End> {
        // An error is reported as the end of what can be read, whatever else it is. So is the peer's FIN, which a held
        // connection leaves be.
        if !self.wire.end_is_near() {
            return Ok(());
        }
        match self.reading {
            Reading::Ended => self.wire.ready.readable = false,
            // The end of input may wait for the partner's room.
            Reading::Held | Reading::Paused | Reading::EndUnheard | Reading::EndHeld => {}
            // The partner may have no room for long, while nothing waits here that a write would try to send.
            Reading::Open if context.partner.is_some() => {}
            Reading::Open | Reading::Discarding => return Ok(()),
        }
        self.wire.look_for_error().map_err(End::Failed)
    }

    /// Sends our FIN once everything is sent. Ends the connection once the peer's FIN was read as well.
    fn shut_down_if_done(&mut self, context: &mut Context<'_, T, P>) -> Result<(), End> {
        if self.writing == Writing::ShuttingDown && self.outbound.is_empty() {
            if self.marks.take(Marks::LAST_WORDS) {
                self.call_protocol(context, |protocol, out| protocol.last_words(out))?;
                if !self.outbound.is_empty() {
                    return Ok(());
                }
            }
            self.writing = Writing::ShutDown;
            // With the peer's FIN read, close(2) sends ours: a system call saved on every connection.
            if self.reading != Reading::Ended {
                self.wire.transport.shutdown_write().map_err(End::Failed)?;
                self.last_active = context.now;
            }
        }
        if self.writing == Writing::ShutDown && self.reading == Reading::Ended {
            let idle = self.ending == Ending::Idle;
            return Err(if idle { End::TimedOut(Timeout::Idle) } else { End::Finished });
        }
        Ok(())
    }
}
