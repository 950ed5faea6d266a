//! The readiness loop: one thread, one poller, every connection; and what a role may do with it.
//!
//! Owns the connections with their tokens, the listeners, the run queue, the deadlines, the one read buffer and the
//! account of memory. Asks the [`System`] for everything else. Never looks at a byte, and never decides what an
//! error of a connection means: the connection does. Hands everything else that happens to the [`Role`], as an
//! [`Event`]. What happens in a turn is in the file `turn`.

mod turn;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use mio::Token;

use crate::engine::connection::{Connection, End, SendError, Timeout, Timeouts};
use crate::engine::deadlines::{Deadlines, Due};
pub use crate::engine::event::Event;
use crate::engine::handle::Handle;
use crate::engine::listeners::Listeners;
pub use crate::engine::listeners::{ListenerConfig, ListenerId, MOST_LISTENERS};
use crate::engine::log_budget::LogBudget;
use crate::engine::memory::Memory;
pub use crate::engine::memory::{Limits, MINIMUM_BUFFER};
use crate::engine::pairs::Pairs;
use crate::engine::protocol::Protocol;
use crate::engine::run_queue::RunQueue;
use crate::engine::silence::Silence;
use crate::engine::slots::Slots;
pub use crate::engine::system::LISTENER;
use crate::engine::system::{Mio, System};
use crate::engine::time::Moment;

/// The size of the one buffer that all reads go into. Measured best for bulk transfers; smaller ones read less a call,
/// larger ones fall out of the second-level cache.
const SCRATCH_BYTES: usize = 256 * 1024;

/// What a program does with its loop: a server, a client, or both on one loop.
pub trait Role<P: Protocol, S: System = Mio> {
    /// Called before each turn, when all events were handled: opens what there is to open now. Returns whether there is
    /// more to open later. If not, a loop without listeners and connections ends.
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
/// queue, each within a budget, and end only there. So no event can reach the wrong connection.
pub struct EventLoop<P, S: System = Mio> {
    system: S,
    connections: Slots<Connection<S::Stream, P>>,
    pairs: Pairs,
    listeners: Listeners<S::Listener, P>,
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
    timer: Option<Moment>,
    now: Moment,
    turns: u64,
    /// When the drain is cut off; `None` if the loop does not drain.
    drain_until: Option<Moment>,
    stopped: bool,
}

impl<P, S: System> fmt::Debug for EventLoop<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("listeners", &self.listeners)
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
            connections: Slots::new(),
            pairs: Pairs::default(),
            listeners: Listeners::new(),
            run_queue: RunQueue::default(),
            deadlines: Deadlines::default(),
            silence: Silence::new(),
            memory: Memory::new(limits),
            happened: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            timeouts,
            log: LogBudget::new(),
            timer: None,
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

    /// Accepts connections from `socket` from now on, each with the protocol that `protocol_for` makes for its peer. A
    /// loop may have several listeners.
    ///
    /// # Errors
    /// The poller does not take the listener, or the loop has had [`MOST_LISTENERS`] already.
    pub fn listen(
        &mut self,
        socket: S::Listener,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<ListenerId> {
        self.listen_with(ListenerConfig::default(), socket, protocol_for)
    }

    /// As [`listen`](EventLoop::listen), with a name and a limit for this listener's connections.
    ///
    /// # Errors
    /// As those of [`listen`](EventLoop::listen).
    pub fn listen_with(
        &mut self,
        config: ListenerConfig,
        mut socket: S::Listener,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<ListenerId> {
        let id = self
            .listeners
            .next_id()
            .ok_or_else(|| io::Error::other(format!("a loop has at most {MOST_LISTENERS} listeners")))?;
        self.system.register_listener(&mut socket, id.token())?;
        self.listeners.add(socket, config, protocol_for);
        Ok(id)
    }

    /// The name of a listener.
    pub fn listener_name(&self, id: ListenerId) -> &'static str {
        self.listeners.name(id)
    }

    /// The listener that a connection came in through; `None` if the connection is gone, or if the role opened it.
    pub fn listener_of(&self, token: Token) -> Option<ListenerId> {
        self.connection(token)?.was_accepted().then(|| self.listeners.of_connection(token))
    }

    /// Closes all listeners. Connections that wait in their backlogs are reset.
    pub fn stop_listening(&mut self) {
        for id in self.listeners.ids() {
            self.listeners.close(id);
        }
        self.deadlines.cancel(Due::Accept);
    }

    /// Closes one listener. Connections that wait in its backlog are reset; those that were accepted go on.
    pub fn stop_listening_on(&mut self, id: ListenerId) {
        self.listeners.close(id);
    }

    /// Turns SIGINT, SIGTERM and SIGUSR1 of the process into events of this loop, until the process ends.
    ///
    /// # Errors
    /// The handlers or their pipe cannot be set up.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.system.catch_signals()
    }

    /// Begins to connect to `addr`. Returns the connection's token. An [`Event`] under this token says whether the
    /// connect succeeded: `Connected`, or `Closed` with the protocol handed back. Bytes can be sent at once: they wait.
    pub fn connect(&mut self, addr: SocketAddr, protocol: P) -> Token {
        self.connect_from(None, addr, protocol)
    }

    /// As [`connect`](EventLoop::connect), from the local address `source` if there is one.
    pub fn connect_from(&mut self, source: Option<IpAddr>, addr: SocketAddr, protocol: P) -> Token {
        let opened = self.system.now();
        let token = Token(self.connections.reserve());
        match self.system.connect(source, addr) {
            Ok(stream) => {
                self.insert(token, Connection::connecting(stream, addr, protocol, opened));
            }
            Err(error) => self.never_opened(token, addr, protocol, End::ConnectFailed(error)),
        }
        token
    }

    /// Joins two connections: what the protocol of each answers goes out on the other one. With a protocol that sends all
    /// of its input, this is a proxy, and each direction has a life of its own:
    ///
    /// - What was read goes to the other socket straight from the loop's buffer. Only what that socket does not take is
    ///   queued, once, in the other connection's outbound buffer. While that is full, nothing more is read
    ///   (backpressure).
    /// - Where a protocol shuts down at its end of input, as it does by default, the other connection sends its FIN
    ///   behind what waits there. The opposite direction goes on for as long as it likes: no linger timeout runs.
    /// - If one of the two fails, by a reset or a timeout or because the role closes it, both are reset (the other one
    ///   with [`End::PartnerFailed`]): no peer takes for whole what was cut short. After [`End::Finished`], the other one
    ///   finishes what it has to send; what it still receives has nowhere to go and is thrown away.
    /// - One of the two may still be connecting. What is sent to it waits.
    /// - A pair is idle only as a whole. A drain lets it finish by itself, for the time that the drain has.
    ///
    /// What a protocol produces ([`Protocol::produce`]) goes out on its own connection. What comes from the partner does
    /// not pass the protocol. So the protocols of a pair that ends TLS on one side share the TLS session.
    ///
    /// Call it before anything arrives: when `Accepted` is handled, or with the connection paused since then
    /// ([`pause`](EventLoop::pause)). Returns whether the two are joined. They are not if they are the same, or if one of
    /// them is gone, was joined before, or has begun to end. If one is gone, its `Closed` is still to come, and the role
    /// decides about the other one.
    pub fn join(&mut self, one: Token, other: Token) -> bool {
        let can_be_joined = |token: Token| self.connections.get(token.0).is_some_and(Connection::can_be_joined);
        if one == other || !can_be_joined(one) || !can_be_joined(other) {
            return false;
        }
        self.pairs.join(one, other);
        for token in [one, other] {
            self.change(token, Connection::join);
        }
        true
    }

    /// Queues bytes for a connection, as many as fit, behind everything that waits there. The next turn sends them.
    /// Returns how many were taken. If that is not all, [`Event::Room`] says when there is room for more.
    ///
    /// # Errors
    /// The connection cannot send: our FIN was decided on, or it is gone.
    pub fn send(&mut self, token: Token, bytes: &[u8]) -> Result<usize, SendError> {
        let connection = self.connections.get_mut(token.0).ok_or(SendError::Finishing)?;
        let before = connection.memory();
        let count = connection.send(bytes, self.memory.room_now(connection.larger_buffer()), self.now)?;
        self.memory.changed(before, connection.memory());
        self.run_queue.push(token);
        Ok(count)
    }

    /// Ends a connection in the next turn, unless it is gone already. What waits to be sent is lost; the peer sees a reset
    /// then, as a FIN would say that it was everything.
    pub fn close(&mut self, token: Token) {
        self.change(token, Connection::close);
    }

    /// Ends a connection in the next turn with a reset, unless it is gone already: the peer learns that this is no end
    /// in order.
    pub fn reset(&mut self, token: Token) {
        self.change(token, Connection::reset);
    }

    /// Shuts our direction of a connection down, if it is not gone: what waits to be sent goes out, then our FIN. Input
    /// still arrives. What a partner would still have sent here is lost.
    pub fn shut_down(&mut self, token: Token) {
        self.change(token, Connection::shut_down);
    }

    /// Ends a connection in order, unless it is gone already: what waits to be sent goes out, then our FIN. What still
    /// arrives is thrown away, up to the peer's FIN or until the linger timeout is over.
    pub fn finish(&mut self, token: Token) {
        let now = self.now;
        self.change(token, |connection| connection.stop_answering(now));
    }

    /// Reads nothing more from a connection, and shows its protocol nothing, until [`resume`](EventLoop::resume). The
    /// peer's window closes, and it stops sending: backpressure. What the protocol produces is sent all the same. A peer
    /// whose FIN was read is not paused.
    pub fn pause(&mut self, token: Token) {
        self.change(token, Connection::pause);
    }

    /// Takes a [`pause`](EventLoop::pause) back.
    pub fn resume(&mut self, token: Token) {
        self.change(token, Connection::resume);
    }

    /// Serves a connection in the next turn, unless it is gone: its protocol has something to produce, or can now
    /// consume input that it left.
    pub fn wake(&mut self, token: Token) {
        self.change(token, Connection::wake);
    }

    fn change(&mut self, token: Token, change: impl FnOnce(&mut Connection<S::Stream, P>)) {
        if let Some(connection) = self.connections.get_mut(token.0) {
            change(connection);
            self.run_queue.push(token);
        }
    }

    /// Sees to it that there is an [`Event::Timer`] at `when`, exact to tens of microseconds. `None` cancels. There is
    /// one timer: the new time replaces an earlier one.
    ///
    /// # Errors
    /// The timer cannot be set: this system has none, or the process is out of descriptors.
    pub fn set_timer(&mut self, when: Option<Moment>) -> io::Result<()> {
        if when == self.timer {
            return Ok(());
        }
        self.system.set_timer(when.map(|when| when.since(self.system.now())))?;
        self.timer = when;
        Ok(())
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
    pub fn connections(&self) -> impl Iterator<Item = (Token, &Connection<S::Stream, P>)> {
        self.connections.iter().map(|(place, connection)| (Token(place), connection))
    }

    /// How many connections there are.
    pub fn open_connections(&self) -> usize {
        self.connections.len()
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
        for accepting in self.listeners.iter_mut() {
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
        self.listeners.is_empty() && self.connections.len() == 0
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
                    if let Event::Closed { token, .. } = event {
                        self.connections.release(token.0); // From now on, the role knows that the token is free.
                    }
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
        for (_, connection) in self.connections.iter_mut() {
            connection.abandon();
        }
        self.log.print_left_out();
        Ok(())
    }

    /// Registers a connection and puts it into its place. Returns whether that succeeded: one that cannot be registered
    /// ends at once. While the loop drains, the connection is drained as well.
    fn insert(&mut self, token: Token, mut connection: Connection<S::Stream, P>) -> bool {
        if let Err(error) = self.system.register(connection.transport_mut(), token) {
            let connecting = connection.is_connecting();
            let end = if connecting { End::ConnectFailed(error) } else { End::Failed(error) };
            self.never_opened(token, connection.addr(), connection.into_protocol(), end);
            return false;
        }
        if let Some(cut_off) = self.drain_until {
            connection.drain();
            if self.now >= cut_off {
                connection.expire(Timeout::Drain, &self.timeouts, self.now);
            }
            self.run_queue.push(token);
        }
        self.connections.put(token.0, connection);
        self.arm(token);
        true
    }

    /// Reports a connection that ended before it had a socket in the poller.
    fn never_opened(&mut self, token: Token, addr: SocketAddr, protocol: P, end: End) {
        let opened = self.system.now();
        self.happened.push_back(Event::Closed {
            token,
            addr,
            protocol,
            end,
            received: 0,
            sent: 0,
            opened,
            last_active: opened,
            partner: None,
        });
        self.resume_accepting(); // Its descriptor is free again.
    }

    /// Lets the next turn accept, if peers may wait: there may be room for another connection.
    fn resume_accepting(&mut self) {
        let mut ready = false;
        for accepting in self.listeners.iter_mut() {
            ready |= accepting.resume();
        }
        if ready {
            self.deadlines.cancel(Due::Accept);
            self.run_queue.push_listeners();
        }
    }

    /// Sees to it that the loop wakes up for a connection's next deadline.
    fn arm(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token.0) else { return };
        let timeout = connection.deadline(&self.timeouts).map(|(when, _)| when);
        if let Some(when) = [timeout, connection.protocol_deadline()].into_iter().flatten().min() {
            self.deadlines.arm(token, when);
        }
    }

    /// Changes every connection and puts it on the run queue.
    fn change_all(&mut self, mut change: impl FnMut(&mut Connection<S::Stream, P>, &Timeouts, Moment)) {
        for (place, connection) in self.connections.iter_mut() {
            change(connection, &self.timeouts, self.now);
            self.run_queue.push(Token(place));
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
