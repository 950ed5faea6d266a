//! The readiness loop: one thread, one poller, every connection.
//!
//! Owns the slab of connections with its tokens, the listener, the run queue, the deadlines, the one read buffer and
//! the account of memory. Asks the [`System`] for everything else. Never looks at a byte, and never decides what an
//! error of a connection means: the connection does. Hands everything else that happens to the [`Role`], as an
//! [`Event`].

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use log::debug;
pub use mio::Token;
use slab::Slab;

use crate::engine::accepting::{ACCEPT_BUDGET, ACCEPT_RETRY, Accepting};
use crate::engine::connection::{Connection, Context, End, Outcome, SendError, Timeout, Timeouts};
use crate::engine::deadlines::{Deadlines, Due};
pub use crate::engine::event::Event;
use crate::engine::handle::{Handle, Requests};
use crate::engine::log_budget::LogBudget;
use crate::engine::memory::Memory;
pub use crate::engine::memory::{Limits, MINIMUM_BUFFER};
use crate::engine::protocol::Protocol;
use crate::engine::run_queue::RunQueue;
use crate::engine::silence::{Silence, Wait};
use crate::engine::sockets::AcceptError;
pub use crate::engine::system::LISTENER;
use crate::engine::system::{HANDLE, Mio, SIGNALS, System, TIMER};
use crate::engine::time::Moment;

/// How many bytes all connections together may move before the loop looks at the poller again: some 2 ms of copying,
/// so that signals and new events are never far off, however many connections are busy.
const TURN_BUDGET: u64 = 8 * 1024 * 1024;

/// A turn that took longer than this was stopped in the middle (SIGSTOP, a frozen machine). Otherwise a turn takes some
/// milliseconds, by which deadlines may well be early.
const LONG_TURN: Duration = Duration::from_millis(20);

/// How many sources of events there are beside the connections: the listener, the signals, the timer
/// and the requests of other threads.
const OTHER_SOURCES: usize = 4;

/// The size of the one buffer that all reads go into. Measured best for bulk transfers; smaller ones read less a call,
/// larger ones fall out of the second-level cache.
const SCRATCH_BYTES: usize = 256 * 1024;

/// What a program does with its loop: a server, a client, or both on one loop.
pub trait Role<P: Protocol, S: System = Mio> {
    /// Opens what there is to open now. Returns whether there is more to open later. If not, a loop without listener
    /// and connections ends.
    fn advance(&mut self, event_loop: &mut EventLoop<P, S>) -> bool {
        let _ = event_loop;
        false
    }

    /// Handles an event. Called between turns, so the role may change anything about the loop.
    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P, S>);
}

/// One poller and everything that is registered with it.
///
/// A turn is: wait, note, act, expire. Events only set flags and fill the run queue. Connections are served from the
/// queue, each within a budget, and only there is a slot freed. So no event can reach the wrong connection.
pub struct EventLoop<P, S: System = Mio> {
    system: S,
    connections: Slab<Connection<S::Stream, P>>,
    accepting: Option<Accepting<S::Listener, P>>,
    run_queue: RunQueue,
    deadlines: Deadlines,
    silence: Silence,
    memory: Memory,
    /// The events that the role has not been handed yet.
    happened: VecDeque<Event<P>>,
    scratch: Box<[u8]>,
    timeouts: Timeouts,
    log: LogBudget,
    /// The time that the timer is set to; `None` if it went off.
    wake_at: Option<Moment>,
    now: Moment,
    turns: u64,
    /// When the drain is cut off; `None` if the loop does not drain.
    drain_until: Option<Moment>,
    stopped: bool,
}

impl<P, S: System> fmt::Debug for EventLoop<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("listening", &self.accepting.is_some())
            .field("connections", &self.connections.len())
            .field("memory", &self.memory)
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol> EventLoop<P> {
    /// A loop without any connection.
    ///
    /// # Errors
    /// The system gives no poller: most likely, the process is out of descriptors.
    pub fn new(limits: Limits, timeouts: Timeouts) -> io::Result<EventLoop<P>> {
        Ok(EventLoop::on(Mio::new()?, limits, timeouts))
    }

    /// A handle for other threads, to stop, drain or wake this loop.
    pub fn handle(&mut self) -> io::Result<Handle> {
        self.system.handle()
    }
}

impl<P: Protocol, S: System> EventLoop<P, S> {
    /// A loop without any connection, on a system of your own: a simulated one, say.
    pub fn on(system: S, limits: Limits, timeouts: Timeouts) -> EventLoop<P, S> {
        EventLoop {
            system,
            connections: Slab::new(),
            accepting: None,
            run_queue: RunQueue::default(),
            deadlines: Deadlines::default(),
            silence: Silence::new(),
            memory: Memory::new(limits),
            happened: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            timeouts,
            log: LogBudget::new(),
            wake_at: None,
            now: Moment::START,
            turns: 0,
            drain_until: None,
            stopped: false,
        }
    }

    /// The system that the loop runs on.
    pub fn system(&self) -> &S {
        &self.system
    }

    /// Accepts connections from `socket` from now on, each with the protocol that `protocol_for` makes for its peer.
    /// An earlier listener is closed.
    ///
    /// # Errors
    /// The poller does not take the listener.
    pub fn listen(
        &mut self,
        mut socket: S::Listener,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<()> {
        self.system.register_listener(&mut socket)?;
        self.accepting = Some(Accepting::new(socket, protocol_for));
        Ok(())
    }

    /// Closes the listener. Connections that wait in its backlog are reset.
    pub fn stop_listening(&mut self) {
        self.accepting = None;
        self.deadlines.cancel(Due::Accept);
    }

    /// Turns SIGINT, SIGTERM and SIGUSR1 of the process into events of this loop, until the process ends.
    ///
    /// # Errors
    /// The handlers or their pipe cannot be set up.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.system.catch_signals()
    }

    /// Begins to connect to `addr`. An [`Event`] says whether that succeeded: `Connected`, or `Closed` with the
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
            Err(error) => self.never_opened(addr, protocol, End::ConnectFailed(error)),
        }
    }

    /// Queues `bytes` for a connection, behind everything that waits there. The next turn sends them.
    ///
    /// # Errors
    /// Nothing is queued if the bytes do not fit into the connection's buffer, or if the connection cannot send: its
    /// connect is under way, our FIN was decided on, or the connection is gone.
    pub fn send(&mut self, token: Token, bytes: &[u8]) -> Result<(), SendError> {
        let before = self.connection(token).ok_or(SendError::Finishing)?.memory();
        let connection = &mut self.connections[token.0];
        connection.send(bytes, self.memory.room_now(connection.larger_buffer()), self.now)?;
        self.memory.changed(before, connection.memory());
        self.run_queue.push(token);
        Ok(())
    }

    /// Ends a connection in the next turn, unless it is gone already. What waits to be sent is lost.
    pub fn close(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token.0) {
            connection.close();
            self.run_queue.push(token);
        }
    }

    /// Shuts our direction of a connection down, if it is not gone: what waits to be sent goes out, then our FIN. Input
    /// still arrives.
    pub fn shut_down(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token.0) {
            connection.shut_down();
            self.run_queue.push(token);
        }
    }

    /// Serves a connection in the next turn, unless it is gone: its protocol has something to produce, or can now
    /// consume input that it left.
    pub fn wake(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token.0) {
            connection.wake();
            self.run_queue.push(token);
        }
    }

    /// Sees to it that there is a turn at `when`, exact to tens of microseconds, followed by the role's
    /// [`advance`](Role::advance). `None` cancels. The new time replaces an earlier one.
    ///
    /// # Errors
    /// The timer cannot be set: this system has none, or the process is out of descriptors.
    pub fn wake_at(&mut self, when: Option<Moment>) -> io::Result<()> {
        if when == self.wake_at {
            return Ok(());
        }
        self.wake_at = when;
        self.system.set_timer(when.map(|when| when.since(self.system.now())))
    }

    /// The connection with this token, if there is one.
    pub fn connection(&self, token: Token) -> Option<&Connection<S::Stream, P>> {
        self.connections.get(token.0)
    }

    /// The protocol of the connection with this token, if there is one.
    pub fn protocol_mut(&mut self, token: Token) -> Option<&mut P> {
        self.connections.get_mut(token.0).map(Connection::protocol_mut)
    }

    /// All connections, in no particular order. Some of them may be new: the role has yet to be handed their
    /// `Accepted`.
    pub fn connections(&self) -> impl ExactSizeIterator<Item = (Token, &Connection<S::Stream, P>)> {
        self.connections.iter().map(|(key, connection)| (Token(key), connection))
    }

    /// Drains: accepts what waits in the backlog, answers what has arrived, sends our FIN on every connection and waits
    /// for the peers' FINs. After `timeout`, ends what is left. Then the loop is idle and [`run`](EventLoop::run)
    /// returns.
    ///
    /// A peer that never pauses is answered for half of `timeout`; the other half is left for the FINs. A drain cannot
    /// be taken back: connections that are opened or accepted from now on are drained as well.
    pub fn drain(&mut self, timeout: Duration) {
        let cut_off = self.now.plus(timeout);
        self.drain_until = Some(cut_off);
        self.deadlines.set(Due::StopAnswering, self.now.plus(timeout / 2));
        self.deadlines.set(Due::CutOff, cut_off);
        if let Some(accepting) = &mut self.accepting {
            accepting.ready = true;
        }
        self.resume_accepting();
        self.change_all(|connection, _, _| connection.drain());
    }

    /// Makes [`run`](EventLoop::run) return before its next turn, whatever is left. The loop does not run again.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether there is neither listener nor connection: the tutorial's `not sel.get_map()`.
    pub fn is_idle(&self) -> bool {
        self.accepting.is_none() && self.connections.is_empty()
    }

    /// The time of the current turn.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// The time now. [`now`](EventLoop::now) is the beginning of the turn.
    pub fn clock_now(&self) -> Moment {
        self.system.now()
    }

    /// How many turns there were so far. While nothing happens, there is none.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Bytes of memory that the connections' buffers hold.
    pub fn memory(&self) -> usize {
        self.memory.held()
    }

    /// The budgets of log lines, for the lines that the role writes.
    pub fn log_budget(&mut self) -> &mut LogBudget {
        &mut self.log
    }

    /// Turns until there is nothing left to do, or until [`stop`](EventLoop::stop).
    ///
    /// # Errors
    /// The poller, the timer or the signal pipe failed. No connection can cause that.
    pub fn run(&mut self, role: &mut impl Role<P, S>) -> io::Result<()> {
        loop {
            // An event may give the role more to open, and opening may fail at once, which is another event. The loop
            // waits only when there are no events and nothing is left to open now.
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
        self.log.print_left_out();
        Ok(())
    }

    /// Waits for something to happen and acts on it. The events for the role are handed over by
    /// [`run`](EventLoop::run).
    ///
    /// # Errors
    /// As those of [`run`](EventLoop::run).
    pub fn turn(&mut self) -> io::Result<()> {
        let known_until = self.wait()?;
        self.note()?;
        self.act();
        self.expire(known_until);
        Ok(())
    }

    /// Sleeps until the poller has events or something is due; does not sleep if anything can run. Returns the time
    /// until which everything that happened is known ([`Silence`]).
    fn wait(&mut self) -> io::Result<Option<Moment>> {
        let due = self.deadlines.next(self.silence.judged_from());
        let earliest = [due, self.log.deadline()].into_iter().flatten().min();
        let began = earliest.map(|_| self.system.now()); // Without a deadline, the time is not needed.
        if let Some(began) = began
            && began.since(self.now) > LONG_TURN
        {
            // Bytes that moved in that turn were dated with its beginning, and may have moved at its end.
            for (_, connection) in &mut self.connections {
                connection.redate(self.now, began);
            }
        }
        let timeout = if self.run_queue.is_empty() {
            earliest.zip(began).map(|(when, began)| when.since(began))
        } else {
            Some(Duration::ZERO)
        };
        let interrupted = match self.system.wait(timeout) {
            // A signal, or only SIGSTOP and SIGCONT: the next wait returns the events.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            result => {
                result?;
                false
            }
        };
        self.turns += 1;
        let last_ended = self.now;
        self.now = self.system.now();
        self.log.refill(self.now);
        Ok(began.and_then(|began| {
            self.silence.after(&Wait {
                began,
                ended: self.now,
                last_ended,
                timeout,
                // Counted only where a deadline asks for it.
                returned: (!interrupted).then(|| self.system.events().count()),
                most: self.system.most_events(),
                sources: self.connections.len() + OTHER_SOURCES,
            })
        }))
    }

    /// Turns events into flags. No socket is touched and no slot freed, so every token here names the right connection.
    fn note(&mut self) -> io::Result<()> {
        let (mut signalled, mut timed, mut asked) = (false, false, false);
        for (token, readiness) in self.system.events() {
            match token {
                SIGNALS => signalled = true,
                TIMER => timed = true, // The role asked for a turn and has it now.
                HANDLE => asked = true,
                LISTENER => {
                    if self.accepting.as_mut().is_some_and(Accepting::note) {
                        self.run_queue.push(LISTENER);
                    }
                }
                token => {
                    if let Some(connection) = self.connections.get_mut(token.0) {
                        connection.note(readiness);
                        self.run_queue.push(token);
                    }
                }
            }
        }
        if timed {
            self.wake_at = None;
            self.system.take_timer()?;
        }
        if asked {
            self.do_what_others_asked();
        }
        if signalled {
            let taken = self.system.take_signals()?;
            self.happened.extend(taken.into_iter().map(Event::Signal));
        }
        Ok(())
    }

    fn do_what_others_asked(&mut self) {
        let Requests { wake, stop, drain } = self.system.take_requests();
        if wake {
            self.happened.push_back(Event::Woken);
        }
        if let Some(timeout) = drain {
            self.drain(timeout);
        }
        self.stopped |= stop;
    }

    /// Serves everything that can run, once, in order, within the budget of a turn.
    fn act(&mut self) {
        // Before any slot is freed: a slot that is freed below stays empty until the role has heard that its connection
        // ended. What the role sends to the old connection until then reaches no new one.
        if self.run_queue.take_listener() {
            self.accept();
        }
        let mut moved = 0;
        for _ in 0..self.run_queue.waiting_connections() {
            let Some(token) = self.run_queue.pop() else { break };
            moved += self.service_connection(token);
            if moved >= TURN_BUDGET {
                break;
            }
        }
    }

    /// Serves one connection. Returns how many bytes it moved.
    fn service_connection(&mut self, token: Token) -> u64 {
        // Slots are freed only below, and a token stands in the queue once. So each token in the queue has its
        // connection.
        let connection = &mut self.connections[token.0];
        let memory_before = connection.memory();
        let connecting = connection.is_connecting();
        let connected_after = connecting.then(|| self.system.now().since(connection.opened()));
        let moved_before = connection.received() + connection.sent();
        let mut context = Context {
            now: self.now,
            clock: &self.system,
            scratch: &mut self.scratch,
            room_now: self.memory.room_now(connection.larger_buffer()),
            room_most: self.memory.limits().connection_buffer,
            short_read_is_last: S::SHORT_READ_IS_LAST,
            log: &mut self.log,
            notified: false,
        };
        let outcome = connection.service(&mut context);
        let notified = context.notified;
        let moved = connection.received() + connection.sent() - moved_before;
        self.memory.changed(memory_before, connection.memory());
        if let Some(after) = connected_after
            && !connection.is_connecting()
        {
            self.happened.push_back(Event::Connected { token, after });
        }
        if let Outcome::Ended(end) = outcome {
            self.remove(token, end); // The event carries the protocol: no `Notified` is needed.
            return moved;
        }
        if notified {
            self.happened.push_back(Event::Notified { token });
        }
        if matches!(outcome, Outcome::Runnable) {
            self.run_queue.push(token);
        }
        self.arm(token);
        moved
    }

    /// Accepts the connections that wait, up to a budget.
    fn accept(&mut self) {
        let mut accepted = false;
        for _ in 0..ACCEPT_BUDGET {
            let Some(accepting) = &mut self.accepting else { return };
            if !accepting.may_accept(self.connections.len(), self.memory.limits().connections) {
                return; // Accepting resumes with the end of the rest, the next edge, or the next connection that ends.
            }
            match self.system.accept(&accepting.socket) {
                Ok((stream, addr)) => {
                    accepted = true;
                    let protocol = (accepting.protocol_for)(addr);
                    self.admit(stream, addr, protocol);
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Empty => {
                        accepting.ready = false;
                        if self.drain_until.is_some() {
                            self.stop_listening();
                        }
                        return;
                    }
                    AcceptError::Gone => debug!("a connection was gone before it was accepted: {error}"),
                    AcceptError::Exhausted => return self.rest_from_accepting(&error),
                },
            }
        }
        if accepted {
            self.resume_accepting(); // In the next turn.
        } else {
            self.rest_from_accepting(&io::Error::other("one connection after the other was gone"));
        }
    }

    /// Inserts an accepted connection.
    fn admit(&mut self, stream: S::Stream, addr: SocketAddr, protocol: P) {
        if let Some(token) = self.insert(Connection::open(stream, addr, protocol, self.now)) {
            self.happened.push_back(Event::Accepted { token, addr });
        }
    }

    /// Registers a connection and gives it a slot. One that cannot be registered ends at once. While the loop drains,
    /// the connection is drained as well.
    fn insert(&mut self, mut connection: Connection<S::Stream, P>) -> Option<Token> {
        let token = Token(self.connections.vacant_key());
        if let Err(error) = self.system.register(connection.transport_mut(), token) {
            let connecting = connection.is_connecting();
            let end = if connecting { End::ConnectFailed(error) } else { End::Failed(error) };
            self.never_opened(connection.addr(), connection.into_protocol(), end);
            return None;
        }
        if let Some(cut_off) = self.drain_until {
            connection.drain();
            if self.now >= cut_off {
                connection.expire(Timeout::Drain, &self.timeouts, self.now);
            }
            self.run_queue.push(token);
        }
        self.connections.insert(connection);
        self.arm(token);
        Some(token)
    }

    /// Reports a connection that ended before it had a slot.
    fn never_opened(&mut self, addr: SocketAddr, protocol: P, end: End) {
        self.happened.push_back(Event::Closed { token: None, addr, protocol, end, received: 0, sent: 0 });
        self.resume_accepting(); // Its descriptor is free again.
    }

    /// Frees a connection's slot. Closing the socket takes it out of the poller, as no descriptor is ever duplicated.
    fn remove(&mut self, token: Token, end: End) {
        let connection = self.connections.remove(token.0);
        self.deadlines.disarm(token);
        self.memory.changed(connection.memory(), 0);
        let (addr, received, sent) = (connection.addr(), connection.received(), connection.sent());
        let protocol = connection.into_protocol();
        self.happened.push_back(Event::Closed { token: Some(token), addr, protocol, end, received, sent });
        self.resume_accepting();
    }

    fn rest_from_accepting(&mut self, error: &io::Error) {
        if let Some(accepting) = &mut self.accepting {
            accepting.rest(error, self.connections.len(), &mut self.log);
            self.deadlines.set(Due::Accept, self.now.plus(ACCEPT_RETRY));
        }
    }

    /// Lets the next turn accept, if peers may wait: there may be room for another connection.
    fn resume_accepting(&mut self) {
        if self.accepting.as_mut().is_some_and(Accepting::resume) {
            self.deadlines.cancel(Due::Accept);
            self.run_queue.push(LISTENER);
        }
    }

    /// Sees to it that the loop wakes up for a connection's next deadline.
    fn arm(&mut self, token: Token) {
        if let Some((when, _)) = self.connections[token.0].deadline(&self.timeouts) {
            self.deadlines.arm(token, when);
        }
    }

    /// Acts on what is due. Connections are only marked and queued: they end in `act`.
    fn expire(&mut self, known_until: Option<Moment>) {
        while let Some(due) = self.deadlines.pop(self.now, known_until) {
            match due {
                Due::Accept => self.resume_accepting(),
                Due::StopAnswering => self.change_all(|connection, _, _| connection.stop_answering()),
                Due::CutOff => {
                    self.stop_listening();
                    self.change_all(|connection, timeouts, now| {
                        connection.expire(Timeout::Drain, timeouts, now);
                    });
                }
                Due::Connection(token) => self.expire_connection(token, known_until),
            }
        }
    }

    fn expire_connection(&mut self, token: Token, known_until: Option<Moment>) {
        let connection = &mut self.connections[token.0];
        match connection.deadline(&self.timeouts) {
            // A connection in the run queue may have in its socket what it was missing: bytes, room, the answer to a
            // connect. Its next service arms the deadline again.
            Some((_, Timeout::Idle | Timeout::Stall | Timeout::Connect)) if self.run_queue.contains(token) => {}
            Some((when, timeout)) if known_until.is_some_and(|known_until| when <= known_until) => {
                if connection.expire(timeout, &self.timeouts, self.now) {
                    self.run_queue.push(token);
                } else {
                    self.arm(token);
                }
            }
            _ => self.arm(token),
        }
    }

    /// Changes every connection and puts it on the run queue.
    fn change_all(&mut self, mut change: impl FnMut(&mut Connection<S::Stream, P>, &Timeouts, Moment)) {
        for (key, connection) in &mut self.connections {
            change(connection, &self.timeouts, self.now);
            self.run_queue.push(Token(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::echo::Echo;
    use mio::net::TcpStream;

    #[test]
    fn an_idle_connection_is_small() {
        // mio's TcpStream carries a registration check in debug builds and on its poll(2) backend.
        let extra = size_of::<TcpStream>() - size_of::<std::os::fd::RawFd>();
        let bytes = size_of::<Connection<TcpStream, Echo>>();
        assert!(bytes - extra.next_multiple_of(8) <= 120, "{bytes} bytes, {extra} of them mio's");
    }
}
