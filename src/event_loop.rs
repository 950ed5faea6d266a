//! The readiness loop: one thread, one poller, every connection.
//!
//! Owns the slab of connections with its tokens, the listener, the run queue, the deadlines, the one read buffer and the
//! account of memory. Asks the [`System`] for everything else. Never looks at a byte and never decides what a
//! connection's error means: that is the connection's. What happened that is not about bytes is handed to the [`Role`]
//! as an [`Event`].

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use log::{debug, warn};
pub use mio::Token;
use slab::Slab;

use crate::connection::{Connection, End, Outcome, SendError, State, Timeout, Timeouts, Turn};
use crate::moment::Moment;
use crate::narrator::{Line, Narrator, Voice};
use crate::net::AcceptError;
use crate::protocol::Protocol;
use crate::signals::Signal;
pub use crate::system::LISTENER;
use crate::system::{Mio, SIGNALS, System, TIMER};

/// Never registered: these stand for the loop's own times in the set of deadlines, the time to drain and half of it.
const DRAIN: Token = Token(usize::MAX - 3);
const STOP_ANSWERING: Token = Token(usize::MAX - 4);

/// How many bytes all connections together may move before the loop looks at the poller again: some 2 ms of copying,
/// so that signals and new events are never far off, however many connections are busy.
const TURN_BUDGET: u64 = 8 * 1024 * 1024;

/// How many connections are accepted in a row: a burst should be taken quickly, but not at the others' expense. One
/// costs some 10 µs.
const ACCEPT_BUDGET: u32 = 64;

/// How long accepting rests when descriptors or memory have run out. It is also tried whenever a connection closes; the
/// timer is for when other processes hold what is missing.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A loop that got no CPU for that long was stopped (SIGSTOP, Ctrl-Z, a frozen machine) or starved: a turn takes some
/// milliseconds.
const PAUSE: Duration = Duration::from_millis(500);

/// For how long nobody is judged by a deadline after such a pause. The peers may have been stopped as well, for instance
/// by the same Ctrl-Z, and need a moment to answer.
const GRACE: Duration = Duration::from_secs(1);

/// What may be ready beside the connections: the listener, the signals and the timer.
const OTHER_SOURCES: usize = 3;

/// The size of the one buffer that all reads go into. Measured best for bulk transfers; smaller ones read less a call,
/// larger ones fall out of the second-level cache.
const SCRATCH_BYTES: usize = 256 * 1024;

/// What a connection may buffer however little memory is free. With none at all it could never move again.
pub const MINIMUM_BUFFER: usize = 4 * 1024;

/// How much the loop may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the backlog. Those the loop opened itself count, but are never refused.
    pub connections: usize,
    /// Bytes buffered for one connection that its peer does not read. A protocol that leaves input unconsumed may have
    /// as many buffered for that.
    pub connection_buffer: usize,
    /// Bytes buffered for all of them. As it fills up, each gets less, down to 4 KiB.
    pub total_buffer: usize,
}

impl Default for Limits {
    /// Any number of connections, 256 KiB each, 64 MiB in all.
    fn default() -> Limits {
        Limits { connections: usize::MAX, connection_buffer: 256 * 1024, total_buffer: 64 * 1024 * 1024 }
    }
}

/// What happened to a connection, for the role.
#[derive(Debug)]
pub enum Event<P> {
    /// A connection was accepted.
    Accepted {
        /// Its token.
        token: Token,
        /// The peer's address.
        addr: SocketAddr,
    },
    /// A connect succeeded.
    Connected {
        /// Its token.
        token: Token,
        /// How long it took.
        after: Duration,
    },
    /// A protocol called [`Outbox::notify`](crate::protocol::Outbox::notify), and its connection is not over. If it
    /// is, `Closed` carries the protocol with all that it has to tell.
    Notified {
        /// Its connection's token.
        token: Token,
    },
    /// A connection is over, or a connect failed.
    Closed {
        /// Its token, if it ever had one. It may already belong to another.
        token: Option<Token>,
        /// The peer's address.
        addr: SocketAddr,
        /// Its protocol, with whatever it has to tell.
        protocol: P,
        /// Why it is over.
        end: End,
        /// Bytes received.
        received: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// A signal arrived.
    Signal(Signal),
}

/// What a program does with its loop: a server, a client, or both on one loop.
pub trait Role<P: Protocol, S: System = Mio> {
    /// Opens what there is to open now. Returns whether there is still more to open later; a loop without listener and
    /// connections ends if not.
    fn advance(&mut self, event_loop: &mut EventLoop<P, S>) -> bool {
        let _ = event_loop;
        false
    }

    /// Something happened. Called between turns, so everything about the loop may be changed.
    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P, S>);
}

/// One poller and everything that is registered with it.
///
/// A turn is: wait, note, act, expire. Events only set flags and fill the run queue; connections are served from the
/// queue, each within a budget, and nowhere else is a slot freed. So no event can reach a connection that it was not
/// meant for.
pub struct EventLoop<P, S: System = Mio> {
    system: S,
    connections: Slab<Slot<S::Stream, P>>,
    listener: Option<Listener<S::Listener, P>>,
    /// What the timer is set to; none if it went off.
    wake_at: Option<Moment>,
    /// Whoever can do something now, the listener included, each once.
    run_queue: VecDeque<Token>,
    deadlines: BTreeSet<(Moment, Token)>,
    /// What happened and was not handed to the role yet.
    happened: VecDeque<Event<P>>,
    scratch: Box<[u8]>,
    limits: Limits,
    timeouts: Timeouts,
    narrator: Narrator<P>,
    /// Bytes of memory that all connections' buffers hold.
    memory: usize,
    now: Moment,
    turns: u64,
    /// The round of waits that is not complete.
    round: Option<Round>,
    /// No deadline is judged before this.
    judged_from: Moment,
    draining: bool,
    stopped: bool,
}

/// A look at everything that was ready at one moment. It takes several waits if more is ready than one of them returns.
#[derive(Clone, Copy)]
struct Round {
    /// When the first wait began.
    began: Moment,
    /// How many sources may have been ready then and were not returned yet.
    left: usize,
}

struct Slot<T, P> {
    connection: Connection<T, P>,
    /// It stands in the set of deadlines, under this time or an earlier one that no longer applies.
    armed: Option<Moment>,
}

struct Listener<L, P> {
    socket: L,
    protocol_for: Box<dyn FnMut(SocketAddr) -> P>,
    /// Somebody may be waiting. As sticky as a connection's flags: only an accept that finds nobody clears it.
    ready: bool,
    accepting: Accepting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    /// Nothing to do before the next edge, or, at the limit of connections, before one of them ends.
    Waiting,
    /// It stands in the run queue.
    Queued,
    /// Out of descriptors or memory: until this time, or until a connection ends.
    Resting(Moment),
}

impl<P, S: System> fmt::Debug for EventLoop<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("listening", &self.listener.is_some())
            .field("connections", &self.connections.len())
            .field("memory", &self.memory)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol> EventLoop<P> {
    /// A loop without any connection.
    pub fn new(limits: Limits, timeouts: Timeouts, voice: Voice<P>) -> io::Result<EventLoop<P>> {
        Ok(EventLoop::on(Mio::new()?, limits, timeouts, voice))
    }
}

impl<P: Protocol, S: System> EventLoop<P, S> {
    /// A loop without any connection, on a system of one's own: a simulated one, say.
    pub fn on(system: S, limits: Limits, timeouts: Timeouts, voice: Voice<P>) -> EventLoop<P, S> {
        EventLoop {
            system,
            connections: Slab::new(),
            listener: None,
            run_queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            happened: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            limits,
            timeouts,
            narrator: Narrator::new(voice),
            memory: 0,
            now: Moment::START,
            wake_at: None,
            turns: 0,
            round: None,
            judged_from: Moment::START,
            draining: false,
            stopped: false,
        }
    }

    /// The system that it runs on.
    pub fn system(&self) -> &S {
        &self.system
    }

    /// Accepts connections from `socket` from now on, each with the protocol that `protocol_for` makes for its peer.
    /// A listener that there was before is closed.
    pub fn listen(
        &mut self,
        mut socket: S::Listener,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<()> {
        self.system.register_listener(&mut socket)?;
        self.listener = Some(Listener {
            socket,
            protocol_for: Box::new(protocol_for),
            ready: false,
            accepting: Accepting::Waiting,
        });
        Ok(())
    }

    /// Closes the listener. Whoever waits in its backlog is reset.
    pub fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Turns SIGINT, SIGTERM and SIGUSR1 of the process into events of this loop, until the process ends.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.system.catch_signals()
    }

    /// Begins to connect to `addr`. Whether that succeeds, an [`Event`] tells: `Connected`, or `Closed` with the
    /// protocol handed back.
    pub fn connect(&mut self, addr: SocketAddr, protocol: P) {
        self.connect_from(None, addr, protocol);
    }

    /// As [`connect`](EventLoop::connect), from the local address `source` if there is one.
    pub fn connect_from(&mut self, source: Option<IpAddr>, addr: SocketAddr, protocol: P) {
        let opened = self.system.now();
        match self.system.connect(source, addr) {
            Ok(stream) => {
                self.insert(Connection::connecting(stream, addr, protocol, opened));
            }
            Err(error) => self.happened.push_back(Event::Closed {
                token: None,
                addr,
                protocol,
                end: End::ConnectFailed(error),
                received: 0,
                sent: 0,
            }),
        }
    }

    /// Queues `bytes` for a connection, behind everything that waits there; they are sent in the next turn. Refused
    /// whole if the connection's buffer is full, or if it is finishing or gone.
    pub fn send(&mut self, token: Token, bytes: &[u8]) -> Result<(), SendError> {
        let before = self.connection(token).ok_or(SendError::Finishing)?.memory();
        let allowed = self.allowance(before);
        let connection = &mut self.connections[token.0].connection;
        connection.send(bytes, allowed, self.now)?;
        self.memory = self.memory - before + connection.memory();
        self.enqueue(token);
        Ok(())
    }

    /// Ends a connection in the next turn, if it is not gone already; what waits to be sent is lost.
    pub fn close(&mut self, token: Token) {
        if let Some(slot) = self.connections.get_mut(token.0) {
            slot.connection.close();
            self.enqueue(token);
        }
    }

    /// Serves a connection in the next turn, if it is not gone: its protocol has something to produce, or can consume
    /// what it could not before.
    pub fn wake(&mut self, token: Token) {
        if let Some(slot) = self.connections.get_mut(token.0) {
            slot.connection.wake();
            self.enqueue(token);
        }
    }

    /// Sees to it that there is a turn at `when`, to tens of microseconds, and the role's
    /// [`advance`](Role::advance) behind it; `None`: no need any more. A time given before is forgotten.
    pub fn wake_at(&mut self, when: Option<Moment>) -> io::Result<()> {
        if when == self.wake_at {
            return Ok(());
        }
        self.wake_at = when;
        self.system.set_timer(when.map(|when| when.since(self.system.now())))
    }

    /// The connection with this token, if there is one.
    pub fn connection(&self, token: Token) -> Option<&Connection<S::Stream, P>> {
        self.connections.get(token.0).map(|slot| &slot.connection)
    }

    /// The protocol of the connection with this token, if there is one.
    pub fn protocol_mut(&mut self, token: Token) -> Option<&mut P> {
        self.connections.get_mut(token.0).map(|slot| slot.connection.protocol_mut())
    }

    /// All connections, in no particular order. One may be among them whose `Accepted` the role has yet to be handed.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = (Token, &Connection<S::Stream, P>)> {
        self.connections.iter().map(|(key, slot)| (Token(key), &slot.connection))
    }

    /// Begins to end: accepts what waits in the backlog, answers what has arrived, sends FIN on every connection and
    /// waits for the peers' FINs, `timeout` at the most. Then the loop is idle and [`run`](EventLoop::run) returns.
    ///
    /// A peer that never pauses is answered for half of that time, so that the other half is left for the FINs. There is
    /// no way back: connections that the role opens or accepts from now on are drained as well.
    pub fn drain(&mut self, timeout: Duration) {
        self.draining = true;
        self.deadlines.insert((self.now.plus(timeout / 2), STOP_ANSWERING));
        self.deadlines.insert((self.now.plus(timeout), DRAIN));
        if let Some(listener) = &mut self.listener {
            listener.ready = true;
        }
        self.resume_accepting();
        self.enqueue_all(|connection, _, _| connection.drain());
    }

    /// Makes [`run`](EventLoop::run) return before its next turn, whatever is left. It will not run again.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether there is neither listener nor connection: the tutorial's `not sel.get_map()`.
    pub fn is_idle(&self) -> bool {
        self.listener.is_none() && self.connections.is_empty()
    }

    /// The time of the current turn.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// The time now, later than [`now`](EventLoop::now) by what the turn has taken so far.
    pub fn clock_now(&self) -> Moment {
        self.system.now()
    }

    /// How many turns there were so far. An idle loop makes none.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Bytes of memory that the connections' buffers hold.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The budgets of log lines, for the role's own.
    pub fn narrator(&mut self) -> &mut Narrator<P> {
        &mut self.narrator
    }

    /// Turns until there is nothing left to do, or until [`stop`](EventLoop::stop).
    ///
    /// An error is one of the poller itself; no connection can cause it.
    pub fn run(&mut self, role: &mut impl Role<P, S>) -> io::Result<()> {
        loop {
            // Handling what happened may leave the role with more to open, and opening may fail at once, which is one
            // more thing that happened: only when both are through is it known whether to wait.
            let more = loop {
                while let Some(event) = self.happened.pop_front() {
                    role.handle(event, self);
                }
                let more = role.advance(self);
                if self.happened.is_empty() {
                    break more;
                }
            };
            if self.stopped || (self.is_idle() && !more) {
                break;
            }
            self.turn()?;
        }
        self.narrator.tell_left_out();
        Ok(())
    }

    /// Waits for something to happen and acts on all of it, once.
    pub fn turn(&mut self) -> io::Result<()> {
        let known_until = self.wait()?;
        self.note()?;
        self.act();
        if self.retry_accepting_at().is_some_and(|when| when <= self.now) {
            self.resume_accepting();
        }
        if let Some(known_until) = known_until {
            self.expire(known_until);
        }
        Ok(())
    }

    /// Sleeps until the poller has events or a deadline passes; not at all if anything can run.
    ///
    /// Returns a time until which everything that happened is known. Deadlines are judged by that and not by the clock:
    /// a connection must not be called idle while its bytes wait in its socket, as they may for all of them when a
    /// process was stopped and goes on, all deadlines over. Only a wait that began after a deadline, and returned all
    /// that was ready, proves that nothing came.
    fn wait(&mut self) -> io::Result<Option<Moment>> {
        let deadline = self.deadlines.first().map(|&(when, _)| when.max(self.judged_from));
        let earliest = [deadline, self.retry_accepting_at(), self.narrator.deadline()].into_iter().flatten().min();
        let began = earliest.map(|_| self.system.now()); // Without a deadline, nobody needs to know the time.
        let timeout = if self.run_queue.is_empty() {
            earliest.zip(began).map(|(when, began)| when.since(began))
        } else {
            Some(Duration::ZERO)
        };
        let interrupted = match self.system.wait(timeout) {
            // A signal, or only SIGSTOP and SIGCONT: there are no events, but there may be some the next time.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            result => {
                result?;
                false
            }
        };
        self.turns += 1;
        let last_turn = self.now;
        self.now = self.system.now();
        self.narrator.refill(self.now);
        let Some(began) = began else {
            self.round = None;
            return Ok(None);
        };
        if timeout.is_some_and(|timeout| self.now.since(last_turn) > timeout + PAUSE) {
            self.judged_from = self.now.plus(GRACE);
        }
        let known_until = if interrupted {
            self.round = None;
            None
        } else {
            self.all_seen_since(began)
        };
        Ok(known_until.filter(|_| self.now >= self.judged_from))
    }

    /// Until when everything that happened is known, after a wait that began at `began`.
    ///
    /// A wait that is not full has returned all that was ready when it began. A full one may have left some behind. But
    /// epoll returns what became ready first, first: waits that together return as many events as there are sources have
    /// returned all that was ready when the first of them began, and nothing is known of what came later. So deadlines
    /// are judged even where every wait is full.
    fn all_seen_since(&mut self, began: Moment) -> Option<Moment> {
        let returned = self.system.events().count();
        let round = self.round.take();
        if returned < self.system.most_events() {
            return Some(began);
        }
        let Round { began, left } = round.unwrap_or(Round { began, left: self.connections.len() + OTHER_SOURCES });
        let left = left.saturating_sub(returned);
        if left == 0 {
            return Some(began);
        }
        self.round = Some(Round { began, left });
        None
    }

    /// Turns events into flags. No socket is touched and no slot freed, so every token here is that of its connection.
    fn note(&mut self) -> io::Result<()> {
        let (mut signalled, mut timed) = (false, false);
        for (token, readiness) in self.system.events() {
            match token {
                SIGNALS => signalled = true,
                TIMER => timed = true, // The turn is all that was asked for.
                LISTENER => {
                    if let Some(listener) = &mut self.listener {
                        listener.ready = true;
                        // While accepting rests, an edge is remembered but wakes nobody up.
                        if listener.accepting == Accepting::Waiting {
                            listener.accepting = Accepting::Queued;
                            self.run_queue.push_back(LISTENER);
                        }
                    }
                }
                token => {
                    if let Some(slot) = self.connections.get_mut(token.0) {
                        slot.connection.note(readiness);
                        if slot.connection.enter_queue() {
                            self.run_queue.push_back(token);
                        }
                    }
                }
            }
        }
        if timed {
            self.wake_at = None;
            self.system.take_timer()?;
        }
        if signalled {
            let taken = self.system.take_signals()?;
            self.happened.extend(taken.into_iter().map(Event::Signal));
        }
        Ok(())
    }

    /// Serves everything that can run, once, in order, within the budget of a turn.
    fn act(&mut self) {
        let mut moved = 0;
        for _ in 0..self.run_queue.len() {
            match self.run_queue.pop_front() {
                Some(LISTENER) => self.accept(),
                Some(token) => moved += self.service_connection(token),
                None => break,
            }
            if moved >= TURN_BUDGET {
                break;
            }
        }
    }

    /// Serves one connection. Returns how many bytes it moved.
    fn service_connection(&mut self, token: Token) -> u64 {
        // A slot is freed in here only, and its token is queued once: each one in the queue is that of its connection.
        let memory_before = self.connections[token.0].connection.memory();
        let allowed = self.allowance(memory_before);
        let connection = &mut self.connections[token.0].connection;
        connection.leave_queue();
        let connecting = connection.state() == State::Connecting;
        let connected_after = connecting.then(|| self.system.now().since(connection.opened()));
        let moved_before = connection.received() + connection.sent();
        let outcome = connection.service(&mut Turn {
            now: self.now,
            clock: &self.system,
            scratch: &mut self.scratch,
            allowed,
            limit: self.limits.connection_buffer,
            short_read_is_last: S::SHORT_READ_IS_LAST,
            narrator: &mut self.narrator,
        });
        let moved = connection.received() + connection.sent() - moved_before;
        self.memory = self.memory - memory_before + connection.memory();
        if let Some(after) = connected_after
            && connection.state() != State::Connecting
        {
            self.happened.push_back(Event::Connected { token, after });
        }
        let notified = connection.take_notified();
        if let Outcome::Ended(end) = outcome {
            self.remove(token, Some(token), end); // The event carries the protocol, and so whatever it notified of.
            return moved;
        }
        if notified {
            self.happened.push_back(Event::Notified { token });
        }
        if matches!(outcome, Outcome::Runnable) {
            self.enqueue(token);
        }
        self.arm(token);
        moved
    }

    /// Accepts whoever waits, up to a budget.
    fn accept(&mut self) {
        match &mut self.listener {
            Some(listener) if listener.accepting == Accepting::Queued => listener.accepting = Accepting::Waiting,
            _ => return, // It was closed, or sent to rest, while it stood in the queue.
        }
        let mut accepted = false;
        for _ in 0..ACCEPT_BUDGET {
            let Some(listener) = &mut self.listener else { return };
            if !listener.ready || self.connections.len() >= self.limits.connections {
                return; // The next edge, or the next connection that ends, resumes.
            }
            match self.system.accept(&listener.socket) {
                Ok((stream, addr)) => {
                    accepted = true;
                    let protocol = (listener.protocol_for)(addr);
                    self.admit(stream, addr, protocol);
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Empty => {
                        listener.ready = false;
                        if self.draining {
                            self.listener = None;
                        }
                        return;
                    }
                    AcceptError::Gone => debug!("a connection was gone before it was accepted: {error}"),
                    AcceptError::Exhausted => return self.rest_from_accepting(&error),
                },
            }
        }
        if accepted {
            self.resume_accepting(); // At the back of the queue.
        } else {
            self.rest_from_accepting(&io::Error::other("one connection after the other was gone"));
        }
    }

    /// Takes in an accepted connection.
    fn admit(&mut self, stream: S::Stream, addr: SocketAddr, protocol: P) {
        let mut connection = Connection::open(stream, addr, protocol, self.now);
        if self.draining {
            connection.drain();
        }
        if let Some(token) = self.insert(connection) {
            self.happened.push_back(Event::Accepted { token, addr });
            if self.draining {
                self.enqueue(token);
            }
        }
    }

    /// Registers a connection. One that cannot be registered ends at once.
    fn insert(&mut self, connection: Connection<S::Stream, P>) -> Option<Token> {
        let entry = self.connections.vacant_entry();
        let token = Token(entry.key());
        let slot = entry.insert(Slot { connection, armed: None });
        match self.system.register(slot.connection.transport_mut(), token) {
            Ok(()) => {
                self.arm(token);
                Some(token)
            }
            Err(error) => {
                let connecting = slot.connection.state() == State::Connecting;
                let end = if connecting { End::ConnectFailed(error) } else { End::Failed(error) };
                self.remove(token, None, end); // Nobody has heard of its token yet.
                None
            }
        }
    }

    /// Frees a connection's slot. Closing the socket takes it out of the poller, as no descriptor is ever duplicated.
    fn remove(&mut self, key: Token, token: Option<Token>, end: End) {
        let Slot { connection, armed } = self.connections.remove(key.0);
        if let Some(when) = armed {
            self.deadlines.remove(&(when, key));
        }
        self.memory -= connection.memory();
        let (addr, received, sent) = (connection.addr(), connection.received(), connection.sent());
        let protocol = connection.into_protocol();
        self.happened.push_back(Event::Closed { token, addr, protocol, end, received, sent });
        self.resume_accepting();
    }

    /// Out of descriptors or memory: no edge will tell when that is over.
    fn rest_from_accepting(&mut self, error: &io::Error) {
        if self.narrator.allows(Line::CannotAccept) {
            warn!(
                "cannot accept with {} connections open: {error}; whoever comes now waits (ulimit -n shows the limit)",
                self.connections.len()
            );
        }
        if let Some(listener) = &mut self.listener {
            let retry_at = self.now.plus(ACCEPT_RETRY);
            listener.accepting = Accepting::Resting(retry_at);
        }
    }

    /// When accepting is tried again that had to rest.
    fn retry_accepting_at(&self) -> Option<Moment> {
        match self.listener.as_ref()?.accepting {
            Accepting::Resting(retry_at) => Some(retry_at),
            Accepting::Waiting | Accepting::Queued => None,
        }
    }

    /// There may be room for another connection: look, if somebody waits.
    fn resume_accepting(&mut self) {
        if let Some(listener) = &mut self.listener
            && listener.ready
            && listener.accepting != Accepting::Queued
        {
            listener.accepting = Accepting::Queued;
            self.run_queue.push_back(LISTENER);
        }
    }

    /// Puts a connection on the run queue, once.
    fn enqueue(&mut self, token: Token) {
        if self.connections[token.0].connection.enter_queue() {
            self.run_queue.push_back(token);
        }
    }

    /// Sees to it that the loop wakes up for a connection's next deadline. One that has moved further off is left where
    /// it stands, and looked at again when that time comes: bytes that move cost nothing here.
    fn arm(&mut self, token: Token) {
        let slot = &mut self.connections[token.0];
        let Some((when, _)) = slot.connection.deadline(&self.timeouts) else { return };
        match slot.armed {
            Some(armed) if armed <= when => return,
            Some(armed) => {
                self.deadlines.remove(&(armed, token));
            }
            None => {}
        }
        slot.armed = Some(when);
        self.deadlines.insert((when, token));
    }

    /// Sees to the deadlines until `known_until`. Connections are only marked and queued: they end in `act`.
    fn expire(&mut self, known_until: Moment) {
        while let Some(&(when, token)) = self.deadlines.first()
            && when <= known_until
        {
            self.deadlines.pop_first();
            match token {
                STOP_ANSWERING => self.enqueue_all(|connection, _, _| connection.stop_answering()),
                DRAIN => {
                    self.listener = None;
                    self.enqueue_all(|connection, timeouts, now| {
                        connection.expire(Timeout::Drain, timeouts, now);
                    });
                }
                _ => self.expire_connection(token, known_until),
            }
        }
    }

    fn expire_connection(&mut self, token: Token, known_until: Moment) {
        let slot = &mut self.connections[token.0];
        slot.armed = None;
        match slot.connection.deadline(&self.timeouts) {
            // What waits in the run queue may be the very bytes that were missed. Its next service arms it again.
            Some((_, Timeout::Idle | Timeout::Stall)) if slot.connection.is_queued() => {}
            Some((when, timeout)) if when <= known_until => {
                if slot.connection.expire(timeout, &self.timeouts, self.now) {
                    self.enqueue(token);
                } else {
                    self.arm(token);
                }
            }
            _ => self.arm(token),
        }
    }

    /// Does something to every connection, and sees to it that all are served for it.
    fn enqueue_all(&mut self, mut change: impl FnMut(&mut Connection<S::Stream, P>, &Timeouts, Moment)) {
        for (key, slot) in &mut self.connections {
            change(&mut slot.connection, &self.timeouts, self.now);
            if slot.connection.enter_queue() {
                self.run_queue.push_back(Token(key));
            }
        }
    }

    /// How many bytes a connection may buffer that holds `own` bytes already: its limit while memory is plenty; as it
    /// gets scarce, no more on top than a quarter of what is free, so that some is left for whoever comes next; and
    /// always enough to go on. All together thus hold at most the total limit and 4 KiB a connection, unless a protocol
    /// keeps its input and answers it at length.
    fn allowance(&self, own: usize) -> usize {
        let free = self.limits.total_buffer.saturating_sub(self.memory);
        (own + free / 4).max(MINIMUM_BUFFER).min(self.limits.connection_buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::echo::Echo;
    use mio::net::TcpStream;

    #[test]
    fn an_idle_connection_is_small() {
        // mio's TcpStream carries a registration check in debug builds and on its poll(2) backend.
        let extra = size_of::<TcpStream>() - size_of::<std::os::fd::RawFd>();
        let bytes = size_of::<Slot<TcpStream, Echo>>();
        assert!(bytes - extra.next_multiple_of(8) <= 128, "{bytes} bytes, {extra} of them mio's");
    }
}
