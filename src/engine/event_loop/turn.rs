//! The turn: wait, note, act, expire.
//!
//! Owns the order of the four, and the budgets of a turn. Touches the loop's state, which [`EventLoop`] owns, and nothing
//! else. The module documentation of the crate says what hangs on the order.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::debug;

use crate::engine::accepting::{ACCEPT_BUDGET, ACCEPT_RETRY};
use crate::engine::connection::{Connection, Context, End, Outcome, Partner, Timeout};
use crate::engine::deadlines::Due;
use crate::engine::event_loop::{Event, EventLoop, ListenerId, Token};
use crate::engine::handle::Requests;
use crate::engine::protocol::Protocol;
use crate::engine::silence::Wait;
use crate::engine::sockets::AcceptError;
use crate::engine::system::{HANDLE, SIGNALS, System, TIMER};
use crate::engine::time::Moment;

/// How many bytes all connections together may move before the loop looks at the poller again: some 2 ms of copying,
/// so that signals and new events are never far off, however many connections are busy.
const TURN_BUDGET: u64 = 8 * 1024 * 1024;

/// A turn that took longer than this was stopped in the middle (SIGSTOP, a frozen machine). Otherwise a turn takes some
/// milliseconds, by which deadlines may well be early.
const LONG_TURN: Duration = Duration::from_millis(20);

/// How many sources of events there are beside the connections and the listeners: the signals, the timer and the
/// requests of other threads.
const OTHER_SOURCES: usize = 3;

impl<P: Protocol, S: System> EventLoop<P, S> {
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
            for (_, connection) in self.connections.iter_mut() {
                connection.redate(self.now, began);
            }
        }
        let timeout = if self.run_queue.is_empty() {
            earliest.zip(began).map(|(when, began)| self.silence.wait_until(when, began).since(began))
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
                sources: self.connections.len() + self.listeners.ids().count() + OTHER_SOURCES,
            })
        }))
    }

    /// Turns events into flags. No socket is touched and no connection ends, so every token here names the right one.
    fn note(&mut self) -> io::Result<()> {
        let (mut signalled, mut timed, mut asked) = (false, false, false);
        for (token, readiness) in self.system.events() {
            match token {
                SIGNALS => signalled = true,
                TIMER => timed = true,
                HANDLE => asked = true,
                token => {
                    if let Some(connection) = self.connections.get_mut(token.0) {
                        connection.note(readiness);
                        self.run_queue.push(token);
                    } else if let Some(entry) = ListenerId::of(token).and_then(|id| self.listeners.get_mut(id))
                        && entry.accepting.note()
                    {
                        self.run_queue.push_listeners();
                    }
                }
            }
        }
        if timed {
            self.system.take_timer()?;
            let when = self.timer.take();
            if when.is_some_and(|when| when <= self.now) {
                self.happened.push_back(Event::Timer);
            } else {
                self.set_timer(when)?; // A poller may report more than there was.
            }
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
        // Those accepted below are served in the next turn at the earliest: the role hears of them first.
        self.run_queue.begin_turn();
        if self.run_queue.take_listeners() {
            for id in self.listeners.ids() {
                self.accept(id);
            }
        }
        let mut moved = 0;
        while let Some(token) = self.run_queue.pop() {
            moved += self.service_connection(token);
            if moved >= TURN_BUDGET {
                break;
            }
        }
    }

    /// Serves one connection. Returns how many bytes it moved.
    fn service_connection(&mut self, token: Token) -> u64 {
        let partner = self.pairs.partner(token);
        let found = self.connections.get_mut_with(token.0, partner.map(|partner| partner.0));
        // A connection that is removed is taken out of the queue as well, so each token in it has its connection.
        let Some((connection, partner_connection)) = found else { return 0 };
        let (memory_before, waited_before) = (connection.memory(), connection.outbound_len());
        let partner_memory_before = partner_connection.as_deref().map_or(0, Connection::memory);
        let connecting = connection.is_connecting();
        let connected_after = connecting.then(|| self.system.now().since(connection.opened()));
        let moved_before = connection.received() + connection.sent();
        let mut partner_end = None;
        let mut context = Context {
            now: self.now,
            clock: &self.system,
            scratch: &mut self.scratch,
            room_now: self.memory.room_now(connection.larger_buffer()),
            room_most: self.memory.limits().connection_buffer,
            short_read_is_last: S::SHORT_READ_IS_LAST,
            log: &mut self.log,
            partner: partner_connection.map(|connection| Partner {
                room_now: self.memory.room_now(connection.larger_buffer()),
                connection,
                end: &mut partner_end,
            }),
            notified: false,
            has_room: false,
        };
        let outcome = connection.service(&mut context);
        let Context { notified, has_room, .. } = context;
        let moved = connection.received() + connection.sent() - moved_before;
        let made_room = connection.outbound_len() < waited_before;
        self.memory.changed(memory_before, connection.memory());
        if let Some(after) = connected_after
            && !connection.is_connecting()
        {
            self.happened.push_back(Event::Connected { token, after });
        }
        if let Some(partner) = partner {
            self.attend_to_partner(partner, partner_memory_before, partner_end, made_room);
        }
        if let Outcome::Ended(end) = outcome {
            self.remove(token, end); // The event carries the protocol: no `Notified` is needed.
            return moved;
        }
        if notified {
            self.happened.push_back(Event::Notified { token });
        }
        if has_room {
            self.happened.push_back(Event::Room { token });
        }
        if matches!(outcome, Outcome::Runnable) {
            self.run_queue.push(token);
        }
        self.arm(token);
        moved
    }

    /// A connection was served that is joined to `partner`, and may have sent something there, or made room for what the
    /// partner reads.
    fn attend_to_partner(&mut self, partner: Token, memory_before: usize, end: Option<End>, made_room: bool) {
        let Some(connection) = self.connections.get_mut(partner.0) else { return };
        self.memory.changed(memory_before, connection.memory());
        if let Some(end) = end {
            return self.remove(partner, end);
        }
        let goes_on = made_room && connection.has_more_to_read();
        if goes_on {
            connection.partner_has_room();
        }
        if goes_on || connection.has_to_act() {
            self.run_queue.push(partner);
        }
        if connection.outbound_len() > 0 {
            self.arm(partner); // Its time to stall runs. No other time can have come nearer.
        }
    }

    /// Accepts the connections that wait at a listener, up to a budget.
    fn accept(&mut self, listener: ListenerId) {
        let mut accepted = false;
        for _ in 0..ACCEPT_BUDGET {
            let open = self.connections.len();
            let Some(entry) = self.listeners.get_mut(listener) else { return };
            if open >= self.memory.limits().connections || !entry.may_accept() {
                return; // Accepting resumes with the end of the rest, the next edge, or the next connection that ends.
            }
            let accepting = &mut entry.accepting;
            match self.system.accept(&accepting.socket) {
                Ok((stream, addr)) => {
                    accepted = true;
                    let protocol = (accepting.protocol_for)(addr);
                    self.admit(listener, stream, addr, protocol);
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Empty => {
                        accepting.ready = false;
                        if self.drain_until.is_some() {
                            self.listeners.close(listener);
                        }
                        return;
                    }
                    AcceptError::Gone => debug!("a connection was gone before it was accepted: {error}"),
                    AcceptError::Exhausted => return self.rest_from_accepting(listener, &error),
                },
            }
        }
        if accepted {
            self.resume_accepting(); // In the next turn.
        } else {
            self.rest_from_accepting(listener, &io::Error::other("one connection after the other was gone"));
        }
    }

    /// Inserts an accepted connection.
    fn admit(&mut self, listener: ListenerId, stream: S::Stream, addr: SocketAddr, protocol: P) {
        let token = Token(self.connections.reserve());
        if self.insert(token, Connection::open(stream, addr, protocol, self.now)) {
            self.listeners.opened(listener, token);
            self.happened.push_back(Event::Accepted { token, addr, listener });
        }
    }

    /// Takes a connection out. Closing the socket takes it out of the poller, as no descriptor is ever duplicated. Its
    /// place is freed when the role is handed the event.
    fn remove(&mut self, token: Token, end: End) {
        let Some(connection) = self.connections.take(token.0) else { return };
        self.run_queue.remove(token);
        self.deadlines.disarm(token);
        self.memory.changed(connection.memory(), 0);
        if connection.was_accepted() {
            self.listeners.closed(token);
        }
        let partner = self.pairs.part(token);
        if let Some(partner) = partner
            && let Some(other) = self.connections.get_mut(partner.0)
        {
            let before = other.memory();
            other.lose_partner(matches!(end, End::Finished), self.now);
            self.memory.changed(before, other.memory());
            self.run_queue.push(partner);
        }
        let (addr, received, sent) = (connection.addr(), connection.received(), connection.sent());
        let (opened, last_active) = (connection.opened(), connection.last_active());
        let protocol = connection.take_leave();
        self.happened.push_back(Event::Closed {
            token,
            addr,
            protocol,
            end,
            received,
            sent,
            opened,
            last_active,
            partner,
        });
        self.resume_accepting();
    }

    fn rest_from_accepting(&mut self, listener: ListenerId, error: &io::Error) {
        if let Some(entry) = self.listeners.get_mut(listener) {
            entry.accepting.rest(error, self.connections.len(), &mut self.log);
            self.deadlines.set(Due::Accept, self.now.plus(ACCEPT_RETRY));
        }
    }

    /// Acts on what is due. Connections are only marked and queued: they end in `act`.
    fn expire(&mut self, known_until: Option<Moment>) {
        while let Some(due) = self.deadlines.pop(self.now, known_until) {
            match due {
                Due::Accept => self.resume_accepting(),
                Due::StopAnswering => self.change_all(|connection, _, now| {
                    if !connection.was_joined() {
                        connection.stop_answering(now);
                    }
                }),
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
        let partner = self.pairs.partner(token);
        let found = self.connections.get_mut_with(token.0, partner.map(|partner| partner.0));
        let Some((connection, partner_connection)) = found else { return };
        if connection.protocol_deadline().is_some_and(|when| known_until.is_some_and(|until| when <= until)) {
            // Its next service shows it first what has come meanwhile, and arms the next deadline.
            connection.protocol_is_due();
            return self.run_queue.push(token);
        }
        if let Some(partner) = partner_connection {
            connection.shares_activity(partner, &self.timeouts, self.now);
        }
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
        // It may have been found that the partner's peer has bytes to take. The next service arms its deadline as well.
        if let Some(partner) = partner
            && !self.run_queue.contains(partner)
        {
            self.arm(partner);
        }
    }
}
