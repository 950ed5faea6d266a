//! One connection, and bytes that say what its peer, its socket, the poller, the loop and the clock do to it.
//!
//! Owns a socket with a kernel's habits (an event comes once, a read comes short only where the data ends or at an
//! urgent mark), three protocols, and a book of what was read, said and written that must agree after each step. At the
//! end the peer behaves, the poller tells only what it has to, and everything must come to its end.
#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiconn::internals::connection::{
    Connection, End, Outcome, Readiness, SERVICE_BUDGET, State, Timeout, Timeouts, Transport, Context,
    Unacknowledged,
};
use multiconn::internals::event_loop::MINIMUM_BUFFER;
use multiconn::internals::time::{Clock, Moment};
use multiconn::internals::log_budget::LogBudget;
use multiconn::server::echo::Echo;
use multiconn::internals::protocol::{Expects, Outbox, Produced, Protocol};
use multiconn_fuzz::Script;

/// What a connection may have buffered if memory is plenty.
const LIMIT: usize = 3 * MINIMUM_BUFFER;
/// The peer sends no more than this, so that one run stays short.
const MOST_FROM_PEER: usize = 640 * 1024;

const TIMEOUTS: Timeouts = Timeouts {
    connect: Some(Duration::from_secs(2)),
    idle: Some(Duration::from_secs(4)),
    stall: Some(Duration::from_secs(3)),
    linger: Some(Duration::from_secs(1)),
};

/// The first look may find out what was acknowledged long ago, bytes may begin to wait again and again, and three looks
/// in a row leave time for the fourth.
const MOST_SPARED: u32 = 8;

/// Both ends of the socket, and what passed through it.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "what is true of a socket, each for itself")]
struct Book {
    /// Everything that the peer has sent, and how much of it was read.
    arrived: Vec<u8>,
    read: usize,
    /// Where urgent marks stand that were not read past yet.
    marks: VecDeque<usize>,
    fin_arrived: bool,
    fin_read: bool,
    error: Option<ErrorKind>,
    connected: bool,
    connect_fails: bool,
    /// How many bytes the socket takes before it is full.
    room: usize,
    /// How many the next writes take, though there is room for more.
    cuts: VecDeque<usize>,
    interruptions: usize,
    takes_nothing: bool,

    /// Something happened that the poller has not told.
    edge: bool,
    /// A write, or the poller, found the socket full: room is worth an event.
    wants_room: bool,
    /// Of a poller that reports a socket again only behind a `WouldBlock`: whether it does.
    armed: (bool, bool),
    /// No more reads, or writes, until an event says so.
    read_blocked: bool,
    write_blocked: bool,

    /// What arrives is thrown away, as the connection was told to finish.
    discarding: bool,
    draining: bool,
    /// What was read while that was not so, and how much of it the protocol has consumed.
    heard: Vec<u8>,
    consumed: usize,
    end_heard: bool,
    /// What the protocol and `send` said, and how much of it the socket took.
    said: Vec<u8>,
    written: usize,
    /// How much of that the peer's kernel has acknowledged, and whether the system says so.
    acknowledged: usize,
    tells_what_is_acknowledged: bool,
    fin_sent: bool,
    notified: bool,
    aborted: bool,
    /// The protocol paid no heed to the room it had.
    was_loud: bool,
}

impl Book {
    fn say(&mut self, bytes: &[u8]) {
        assert!(!self.end_heard || !bytes.is_empty());
        if !self.fin_sent {
            self.said.extend_from_slice(bytes);
        }
    }

    fn arrive(&mut self, bytes: impl Iterator<Item = u8>) {
        if !self.fin_arrived && self.arrived.len() < MOST_FROM_PEER {
            self.arrived.extend(bytes);
            self.edge = true;
        }
    }

    /// What arrives is thrown away from now on, unless the end is known already.
    fn discard(&mut self) {
        self.discarding |= !self.fin_read;
    }

    fn unread(&self) -> usize {
        self.arrived.len() - self.read
    }

    /// What the peer and the socket do of their own accord.
    fn happen(&mut self, what: u8, script: &mut Script<'_>) {
        match what {
            14 | 15 => {
                let (from, count) = (self.arrived.len(), script.amount(usize::MAX));
                self.arrive((from..from + count).map(letter));
            }
            16 => {
                // Much at once, in lines or without an end.
                let (from, kind) = (self.arrived.len(), script.byte());
                let count = usize::from(kind & 15) * 4096;
                let line = if kind & 16 == 0 { usize::MAX } else { 1 + usize::from(kind >> 5) * 40 };
                self.arrive((from..from + count).map(|at| if at % line == line - 1 { b'\n' } else { letter(at) }));
            }
            17 | 18 => {
                let order = b"\nFNALx"[usize::from(script.byte()) % 6];
                self.arrive([order, b'\n'].into_iter());
            }
            19 => {
                if !self.fin_arrived {
                    self.marks.push_back(self.arrived.len());
                    self.arrive(b"u".iter().copied());
                }
            }
            20 => (self.fin_arrived, self.edge) = (true, true),
            21 | 22 => {
                let scale = if what == 21 { 1 } else { 100 };
                self.room += scale * script.amount(usize::MAX);
                self.edge |= std::mem::take(&mut self.wants_room);
            }
            23 => self.cuts.push_back(script.amount(usize::MAX).max(1)),
            24 => self.interruptions += usize::from(script.byte() & 7),
            25 => (self.connected, self.edge) = (true, true),
            _ => match usize::from(script.byte()) {
                kind @ 0..4 if self.connected => {
                    let fatal =
                        [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::TimedOut, ErrorKind::Other];
                    (self.error, self.edge) = (Some(fatal[kind]), true);
                }
                4 => self.takes_nothing = true,
                _ => {}
            },
        }
    }

    /// What the poller has to tell now.
    fn event(&mut self, edge_triggered: bool) -> Readiness {
        let broken = self.error.is_some() || self.connect_fails;
        let mut event = Readiness {
            readable: self.unread() > 0 || self.fin_arrived || broken,
            writable: (self.connected && self.room > 0) || broken,
            read_closed: self.fin_arrived || broken,
            urgent: !self.marks.is_empty(),
        };
        if edge_triggered {
            if !std::mem::take(&mut self.edge) {
                return Readiness::default();
            }
            self.wants_room |= !event.writable;
        } else {
            event.readable &= self.armed.0;
            event.writable &= self.armed.1;
            self.armed = (self.armed.0 && !event.readable, self.armed.1 && !event.writable);
            if !event.readable && !event.writable {
                return Readiness::default();
            }
        }
        event
    }
}

#[derive(Clone)]
struct Socket(Rc<RefCell<Book>>);

impl Read for Socket {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let book = &mut *self.0.borrow_mut();
        assert!(!space.is_empty(), "a read for nothing would look like the end");
        assert!(book.connected, "a read before the connect is through");
        assert!(!book.fin_read, "a read behind the end");
        assert!(!book.read_blocked, "the socket had said that there is nothing to read");
        if book.interruptions > 0 {
            book.interruptions -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        if let Some(kind) = book.error {
            return Err(kind.into());
        }
        if book.unread() == 0 {
            if book.fin_arrived {
                book.fin_read = true;
                return Ok(0);
            }
            book.read_blocked = true;
            book.armed.0 = true;
            book.discarding |= book.draining;
            return Err(ErrorKind::WouldBlock.into());
        }
        if book.marks.front() == Some(&book.read) {
            book.marks.pop_front();
        }
        let until = book.marks.front().copied().unwrap_or(book.arrived.len());
        let count = space.len().min(until - book.read);
        let bytes = &book.arrived[book.read..book.read + count];
        space[..count].copy_from_slice(bytes);
        if !book.discarding {
            book.heard.extend_from_slice(bytes);
        }
        book.read += count;
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let book = &mut *self.0.borrow_mut();
        assert!(!bytes.is_empty(), "a write of nothing");
        assert!(book.connected, "a write before the connect is through");
        assert!(!book.fin_sent, "a write behind our own FIN");
        assert!(!book.write_blocked, "the socket had said that it is full");
        if book.interruptions > 0 {
            book.interruptions -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        if let Some(kind) = book.error {
            return Err(kind.into());
        }
        if book.takes_nothing {
            return Ok(0);
        }
        if book.room == 0 {
            (book.write_blocked, book.wants_room, book.armed.1) = (true, true, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = bytes.len().min(book.room).min(book.cuts.pop_front().unwrap_or(usize::MAX));
        book.room -= count;
        assert_eq!(bytes[..count], book.said[book.written..book.written + count], "other bytes than were said");
        book.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Socket {
    fn reset_on_close(&mut self) {}

    fn shutdown_write(&mut self) -> io::Result<()> {
        let book = &mut *self.0.borrow_mut();
        assert!(book.connected && !book.fin_sent);
        if book.error.is_some() {
            return Err(ErrorKind::NotConnected.into());
        }
        assert_eq!(book.written, book.said.len(), "a FIN before everything is sent");
        book.fin_sent = true;
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        let book = &mut *self.0.borrow_mut();
        if book.connect_fails {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        book.armed.1 = true;
        Ok(book.connected)
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(self.0.borrow().error.map(Into::into))
    }

    fn unacknowledged(&self) -> Option<Unacknowledged> {
        let book = self.0.borrow();
        let bytes = u32::try_from(book.written - book.acknowledged).unwrap();
        book.tells_what_is_acknowledged
            .then_some(Unacknowledged { bytes, last_acknowledgement: Duration::from_millis(u64::from(bytes % 5000)) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Echo,
    /// Answers each whole line, at greater length; some lines are orders.
    Lines,
    /// Says so much of its own accord, and takes input in pieces of eight bytes.
    Talker(usize),
}

/// A protocol that keeps the book.
struct Clerk {
    kind: Kind,
    book: Rc<RefCell<Book>>,
    /// Consumes nothing until it is woken.
    shy: bool,
}

impl Clerk {
    /// Answers the whole lines of `input`, as far as there is room. Returns how many bytes that was.
    fn answer<'a>(book: &mut Book, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            let answer = 2 * line.len() + 2;
            let loud = line == b"L\n";
            if !line.ends_with(b"\n") || (out.room() < answer && !loud) {
                break;
            }
            match line {
                b"F\n" => out.shut_down(),
                b"N\n" => {
                    out.notify();
                    book.notified = true;
                }
                b"A\n" => {
                    out.abort();
                    book.aborted = true;
                }
                _ => {}
            }
            if loud {
                book.was_loud = true;
                out.copy(&[b'!'; LIMIT]);
                book.say(&[b'!'; LIMIT]);
            }
            out.send(line);
            out.copy(b"=");
            out.send(line);
            for said in [line, b"=", line] {
                book.say(said);
            }
            consumed += line.len();
        }
        consumed
    }
}

impl Protocol for Clerk {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let book = &mut *self.book.borrow_mut();
        assert!(!book.end_heard, "input behind the end");
        assert!(!input.is_empty(), "nothing was received");
        let left = &book.heard[book.consumed..];
        assert!(left.starts_with(input), "what is shown is what was received and not consumed");
        assert!(input.len() == left.len() || input.len() <= out.room(), "all of it is shown, if there is room for it");
        let consumed = match self.kind {
            Kind::Echo => {
                book.say(input);
                Echo.receive(input, out)
            }
            _ if self.shy => 0,
            Kind::Lines => Clerk::answer(book, input, out),
            Kind::Talker(_) => input.len() / 8 * 8,
        };
        book.consumed += consumed;
        consumed
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        let book = &mut *self.book.borrow_mut();
        assert!(!book.end_heard && !book.fin_sent, "the time to talk is over");
        assert_eq!(book.written, book.said.len(), "asked for more while something waits");
        let Kind::Talker(left) = &mut self.kind else { return Produced::Nothing };
        if *left == 0 {
            return Produced::Finished;
        }
        let count = space.len().min(*left).min(700);
        if count == 0 || self.shy {
            return Produced::Nothing;
        }
        *left -= count;
        for (at, byte) in (book.said.len()..).zip(&mut space[..count]) {
            *byte = letter(at);
        }
        book.say(&space[..count]);
        Produced::Bytes(count)
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        let book = &mut *self.book.borrow_mut();
        assert!(book.fin_read && !book.discarding && !book.end_heard, "no time to finish");
        assert_eq!(rest, &book.heard[book.consumed..], "what is left at the end");
        if self.kind == Kind::Lines && !rest.is_empty() && out.room() > rest.len() {
            out.copy(b"?");
            out.send(rest);
            book.say(b"?");
            book.say(rest);
        }
        book.consumed = book.heard.len();
        book.end_heard = true;
        out.shut_down();
    }

    fn answers(&self) -> bool {
        !matches!(self.kind, Kind::Talker(_))
    }

    fn expects(&self) -> Expects {
        match self.kind {
            Kind::Talker(left) if left % 3 == 0 => Expects::Nothing,
            Kind::Talker(left) if left % 3 == 1 => Expects::AnswerSince(Moment::START),
            _ => Expects::Anything,
        }
    }
}

/// The byte at a position of a stream: neighbours differ, and so do blocks.
fn letter(at: usize) -> u8 {
    b"abcdefghijklmnopqrstuvwxyz"[(at ^ at >> 5 ^ at >> 11).wrapping_mul(0x9e37_79b9) >> 7 & 15]
}

/// A connection and what its loop would lend it.
struct Bench<'a> {
    connection: Connection<Socket, Clerk>,
    book: Rc<RefCell<Book>>,
    log: LogBudget,
    scratch: &'a mut [u8],
    now: Moment,
    /// Memory that is left for all connections together.
    free: usize,
    edge_triggered: bool,
    kind: Kind,
    doomed: bool,
    expired: Vec<Timeout>,
    /// Times in a row that a deadline passed, nothing more was acknowledged, and the connection went on.
    spared: u32,
    seen: usize,
}

impl Bench<'_> {
    fn note(&mut self, event: Readiness) {
        let mut book = self.book.borrow_mut();
        book.read_blocked &= !event.readable;
        book.write_blocked &= !event.writable;
        self.connection.note(event);
    }

    /// What it may hold now, as the loop has it.
    fn allowed(&self) -> usize {
        (self.connection.memory() + self.free / 4).clamp(MINIMUM_BUFFER, LIMIT)
    }

    /// One service. Returns the outcome, with all that must hold behind it checked.
    fn service(&mut self) -> Outcome {
        let allowed = self.allowed();
        let (read, written) = (self.connection.received(), self.connection.sent());
        let mut context = Context {
            partner: None,
            has_room: false,
            now: self.now,
            clock: &self.now,
            scratch: self.scratch,
            room_now: allowed,
            room_most: LIMIT,
            short_read_is_last: self.edge_triggered,
            log: &mut self.log,
            notified: false,
        };
        let outcome = self.connection.service(&mut context);
        let asked = std::mem::take(&mut self.book.borrow_mut().notified);
        assert!(context.notified == asked || matches!(outcome, Outcome::Ended(_)));
        let read = usize::try_from(self.connection.received() - read).unwrap();
        let written = usize::try_from(self.connection.sent() - written).unwrap();
        assert!(read <= SERVICE_BUDGET + self.scratch.len(), "one connection holds the loop");
        match &outcome {
            Outcome::Ended(end) => self.ended(end),
            Outcome::Runnable => {
                // What was produced and not written counts as moved too.
                assert!(read + written + LIMIT >= SERVICE_BUDGET, "runnable without having done much");
                self.check();
            }
            Outcome::Waiting => self.check(),
        }
        outcome
    }

    /// What must hold at any time.
    fn check(&mut self) {
        let book = self.book.borrow();
        let (inbound, outbound) = (self.connection.inbound_len(), self.connection.outbound_len());
        assert_eq!(outbound, book.said.len() - book.written, "bytes to send were lost or made up");
        assert_eq!(inbound, book.heard.len() - book.consumed, "input was lost or kept too long");
        assert_eq!(self.connection.received(), book.read as u64);
        assert_eq!(self.connection.sent(), book.written as u64);
        let memory = self.connection.memory();
        assert!(inbound <= LIMIT && outbound <= LIMIT, "{inbound} bytes in, {outbound} out");
        assert!(memory > 0 || inbound + outbound == 0);
        assert!(memory == 0 || inbound + outbound > 0, "{memory} bytes held for nothing");
        let most = if self.kind == Kind::Echo { LIMIT } else { 2 * LIMIT };
        assert!(memory <= most || book.was_loud, "{memory} bytes held");
        let deadline = self.connection.deadline(&TIMEOUTS);
        assert!(deadline.is_none_or(|(when, _)| when > self.connection.opened()));
        if self.kind == Kind::Echo && !book.discarding {
            assert!(deadline.is_some(), "nothing ends a connection whose peer is gone");
        }
    }

    /// Whether it had to end like this.
    fn ended(&self, end: &End) {
        let book = self.book.borrow();
        match end {
            End::Finished => {
                assert!(book.fin_read, "the peer had not finished");
                assert_eq!(book.written, book.said.len(), "something was still to be sent");
                assert_eq!(book.read, book.arrived.len());
                assert!(book.discarding || book.end_heard);
            }
            End::Aborted => assert!(book.aborted),
            End::ConnectFailed(_) => assert!(book.connect_fails),
            End::Failed(_) => assert!(book.error.is_some() || book.takes_nothing),
            End::TimedOut(timeout) => assert!(self.expired.contains(timeout), "{timeout:?} without need"),
            End::MessageTooLong => {
                assert!(self.kind != Kind::Echo && book.heard.len() - book.consumed >= LIMIT);
            }
            End::OutOfMemory => {
                assert!(self.kind != Kind::Echo && book.heard.len() - book.consumed >= MINIMUM_BUFFER);
            }
            End::Overflow => assert!(book.was_loud),
            End::Closed => assert!(self.doomed),
            end => panic!("an end that this does not know: {end}"),
        }
    }

    /// Lets the poller tell what it has to and the connection do what it can, until nothing happens any more. Whether
    /// it is over.
    fn settle(&mut self) -> bool {
        let mut runs = true;
        // Each service moves a budget's worth or waits for an event, of which there is one for each step before.
        for _ in 0..64 {
            let event = self.book.borrow_mut().event(self.edge_triggered);
            if event == Readiness::default() && !runs {
                return false;
            }
            self.note(event);
            match self.service() {
                Outcome::Ended(_) => return true,
                outcome => runs = matches!(outcome, Outcome::Runnable),
            }
        }
        panic!("it does not come to rest");
    }

    /// Does one step of the script. Whether the connection goes on.
    fn step(&mut self, order: u8, script: &mut Script<'_>) -> bool {
        match order % 27 {
            0..=3 => return !matches!(self.service(), Outcome::Ended(_)),
            4..=6 => {
                let event = self.book.borrow_mut().event(self.edge_triggered);
                self.note(event);
            }
            7 => {
                // What nobody needed to say.
                let flags = script.byte();
                self.note(Readiness {
                    readable: flags & 1 != 0,
                    writable: flags & 2 != 0,
                    read_closed: flags & 4 != 0,
                    urgent: flags & 8 != 0,
                });
            }
            8 => self.disturb(script.byte()),
            9 => self.now = self.now.plus(Duration::from_millis(script.amount(usize::MAX) as u64)),
            10 | 11 => self.expire(),
            12 => self.send(script.amount(usize::MAX)),
            13 => self.free = script.amount(usize::MAX) * 8,
            other => self.book.borrow_mut().happen(other, script),
        }
        self.check();
        true
    }

    /// What the role or the loop does of its own accord.
    fn disturb(&mut self, what: u8) {
        match what % 16 {
            0 => {
                self.connection.drain();
                let mut book = self.book.borrow_mut();
                (book.draining, book.read_blocked) = (true, false);
            }
            1 => {
                self.connection.stop_answering(self.now);
                self.book.borrow_mut().discard();
            }
            2 => {
                self.connection.close();
                self.doomed = true;
            }
            3 => {
                self.connection.expire(Timeout::Drain, &TIMEOUTS, self.now);
                self.expired.push(Timeout::Drain);
                self.doomed = true;
            }
            4 => {
                let mut book = self.book.borrow_mut();
                if !book.connected {
                    (book.connect_fails, book.edge) = (true, true);
                }
            }
            5..=8 => self.connection.protocol_mut().shy ^= true,
            9 | 10 => {
                let mut book = self.book.borrow_mut();
                book.tells_what_is_acknowledged = true;
                book.acknowledged += (book.written - book.acknowledged) / usize::from(what / 16 + 1);
            }
            _ => self.connection.wake(),
        }
    }

    fn expire(&mut self) {
        let Some((when, timeout)) = self.connection.deadline(&TIMEOUTS) else { return };
        self.now = self.now.max(when);
        if !self.connection.expire(timeout, &TIMEOUTS, self.now) {
            let moved = self.book.borrow().acknowledged + self.book.borrow().written;
            self.spared = if moved == self.seen { self.spared + 1 } else { 0 };
            self.seen = moved;
            assert!(self.spared <= MOST_SPARED, "{timeout:?}: a peer that takes nothing is kept");
            return;
        }
        self.expired.push(timeout);
        // Ended gently, it is read to its end, and nobody sees what comes; else nothing is read any more.
        self.book.borrow_mut().discard();
    }

    fn send(&mut self, count: usize) {
        let from = self.book.borrow().said.len();
        let bytes: Vec<u8> = (from..from + count).map(letter).collect();
        let (waiting, allowed) = (self.connection.outbound_len(), self.allowed());
        match self.connection.send(&bytes, allowed, self.now) {
            Ok(taken) => {
                assert_eq!(taken, count.min(allowed.saturating_sub(waiting)));
                self.book.borrow_mut().say(&bytes[..taken]);
            }
            Err(_) => {}
        }
    }

    /// From now on everybody behaves.
    fn end_well(mut self) {
        {
            let mut book = self.book.borrow_mut();
            book.edge |= !book.connected || book.wants_room;
            (book.connected, book.wants_room) = (true, false);
            book.room = usize::MAX / 2;
        }
        self.free = 4 * LIMIT;
        if self.connection.protocol().shy {
            self.connection.protocol_mut().shy = false;
            self.connection.wake();
            if matches!(self.service(), Outcome::Ended(_)) {
                return;
            }
        }
        if self.settle() {
            return;
        }
        {
            let book = self.book.borrow();
            assert!(book.error.is_none() && !book.takes_nothing || book.written == book.said.len());
            assert!(book.error.is_none() && !book.connect_fails, "a broken connection lives on");
            assert_eq!(book.written, book.said.len(), "something is not sent though there is room");
            assert_eq!(book.read, book.arrived.len(), "something is not read though there is room");
            if self.kind == Kind::Echo {
                assert_eq!(book.said.len() >= book.heard.len(), !book.fin_sent || book.discarding);
                assert_eq!(book.consumed, book.heard.len());
            }
            if matches!(self.connection.protocol().kind, Kind::Talker(1..)) && !book.discarding {
                assert!(book.fin_arrived || book.fin_sent, "it had more to say");
            }
        }
        assert!(!matches!(self.connection.state(), State::Connecting | State::Stalled));
        {
            let mut book = self.book.borrow_mut();
            (book.fin_arrived, book.edge) = (true, true);
        }
        assert!(self.settle(), "the peer has finished and everything is sent, and it does not end");
    }
}

thread_local! {
    /// The loop's read buffer. Made once: clearing it would take longer than a run.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SERVICE_BUDGET]);
}

fn run(mut script: Script<'_>, scratch: &mut [u8]) {
    let (which, how) = (script.byte(), script.byte());
    let kind = match which % 4 {
        0 | 1 => Kind::Echo,
        2 => Kind::Lines,
        _ => Kind::Talker(usize::from(which >> 2) * 97),
    };
    let connecting = how & 1 != 0;
    let edge_triggered = how & 2 == 0;
    let room = usize::from(how >> 4) * 1000;
    let scratch_len = if how & 4 == 0 { scratch.len() } else { 512 };
    // The poller tells of a socket what there is when it is registered.
    let book = Book { connected: !connecting, room, edge: true, armed: (true, true), ..Book::default() };
    let book = Rc::new(RefCell::new(book));
    let clerk = Clerk { kind, book: Rc::clone(&book), shy: false };
    let open = if connecting { Connection::connecting } else { Connection::open };
    let mut bench = Bench {
        connection: open(Socket(Rc::clone(&book)), ([192, 0, 2, 1], 7).into(), clerk, Moment::START),
        book,
        log: LogBudget::new(),
        scratch: &mut scratch[..scratch_len],
        now: Moment::START,
        free: 4 * LIMIT,
        edge_triggered,
        kind,
        doomed: false,
        expired: Vec::new(),
        spared: 0,
        seen: 0,
    };
    while let Some(order) = script.step() {
        if !bench.step(order, &mut script) {
            return;
        }
    }
    bench.end_well();
}

fuzz_target!(|bytes: &[u8]| SCRATCH.with_borrow_mut(|scratch| run(Script(bytes), scratch)));
