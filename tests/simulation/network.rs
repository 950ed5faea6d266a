//! A network in memory, and the system on which the loop runs: sockets with bounded buffers, an edge-triggered poller,
//! and a clock that moves only when something is done or waited for.
//!
//! Owns every byte under way. Knows no connection and no role of the loop's. The poller reports as little as epoll(7)
//! allows: readable once after a short read or a `WouldBlock`, writable once after a `WouldBlock`, and an end of input,
//! a reset or an urgent mark when it arrives. A loop that forgets an edge waits for ever: then nothing is left to
//! happen, and the test fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use multiconn::internals::connection::{Readiness, Transport, Unacknowledged};
use multiconn::internals::event_loop::{LISTENER, Token};
use multiconn::internals::signals::Signal;
use multiconn::internals::system::{SIGNALS, System, TIMER};
use multiconn::internals::time::{Clock, Moment};

use crate::dice::Dice;
use crate::peer::{Kind, Peer};

pub const MICROSECOND: u64 = 1_000;
pub const MILLISECOND: u64 = 1_000_000;

/// The port of the socket 0.
const FIRST_PORT: u16 = 1000;

/// How many calls one turn may make. A connection that holds the loop would make them without end.
const CALLS_A_TURN: u32 = 50_000;
/// How many turns in a row may find nothing and do nothing.
const IDLE_TURNS: u32 = 200;
const TURNS: u32 = 200_000;
/// The most bytes that one connection may read in one turn: its budget, and one last read into the loop's whole buffer.
const READ_A_TURN: usize = multiconn::internals::connection::SERVICE_BUDGET + 256 * 1024;

/// What goes wrong by chance, in how many of a thousand cases each; and how slow and how narrow the network is.
#[derive(Debug)]
pub struct Weather {
    pub interrupted: u64,
    pub short_write: u64,
    /// Events that report too much, come twice, or name a token that does not exist.
    pub spurious: u64,
    pub accept_fails: u64,
    pub register_fails: u64,
    pub refused: u64,
    pub syn_lost: u64,
    /// How many nanoseconds a segment takes at most.
    pub delay: u64,
    /// How many bytes fit into a socket's buffer at most.
    pub room: u64,
    /// How many events one wait returns at most.
    pub events: usize,
}

pub type Id = usize;

/// What the network did to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    None,
    Refused,
    SynLost,
    NotRegistered,
    Reset,
    /// It waited in the backlog when the listener was closed.
    Unaccepted,
    Tampered(Tampering),
}

/// A change on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tampering {
    pub at: u64,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Flip,
    Drop(u64),
    Repeat(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    No,
    /// Behind the bytes that were sent.
    Queued,
    Arrived,
}

/// One socket, with the bytes that it has sent.
#[derive(Debug)]
struct Socket {
    addr: SocketAddr,
    peer: Id,
    token: Option<Token>,
    connected: bool,
    closed: bool,
    error: Option<ErrorKind>,
    /// Sent, and not at the other end yet.
    sent: VecDeque<u8>,
    /// At the other end, and not read there yet.
    arrived: VecDeque<u8>,
    send_room: usize,
    receive_room: usize,
    finish: Finish,
    /// The positions of urgent bytes that were not read yet, in the stream that this socket sends.
    marks: VecDeque<u64>,
    /// How many bytes were sent, have arrived at the other end, and were read there, in all.
    written: u64,
    carried: u64,
    read: u64,
    under_way: bool,
    /// The reader's buffer was full, and its kernel has not announced new room yet.
    window_closed: bool,
    /// When bytes last arrived at the other end.
    acknowledged_at: u64,
    tampering: Option<Tampering>,
    harm: Harm,
    /// The reader found the socket empty: the next arrival is an edge.
    awaits_bytes: bool,
    /// The writer found no room: the next room is an edge.
    awaits_room: bool,
    pending: Option<Readiness>,
    /// For a socket that sends without end and reads everything at once: the numbers of bytes sent and read.
    firehose: Option<(u64, u64)>,
    read_in_turn: usize,
}

/// A listener of the loop's.
#[derive(Debug)]
struct Door {
    token: Token,
    listening: bool,
    awaits_connection: bool,
    backlog: VecDeque<Id>,
}

#[derive(Debug)]
enum Act {
    Carry(Id),
    Syn(Id),
    Peer(usize),
    Reset(Id),
    Timer,
    Signal,
    Exhausted(bool),
    /// The process of the loop gets no CPU for that many nanoseconds; the peers go on.
    Stop(u64),
}

#[derive(Debug)]
pub struct Network {
    pub dice: Dice,
    /// Every call of the loop's is printed.
    talkative: bool,
    pub weather: Weather,
    pub now: u64,
    agenda: BTreeMap<(u64, u64), Act>,
    entries: u64,
    sockets: Vec<Socket>,
    pub peers: Vec<Option<Peer>>,
    /// The addresses at which the loop listens, or has listened.
    doors: BTreeMap<SocketAddr, Door>,
    /// The address at which peers wait for the loop to connect to them, and what they may be.
    pub hosts: Option<(SocketAddr, &'static [Kind])>,
    /// The peer's socket from which the loop's next connect carries on what comes.
    pub forwards: Option<Id>,
    /// The same for all connects so far.
    forwarded: BTreeMap<Id, Id>,
    /// When connections are ended that have not ended by themselves.
    pub cut_off: u64,
    /// The socket of the loop's last connect.
    pub last_connect: Id,
    ready: Vec<Id>,
    /// Of the listener, the signals and the timer.
    ready_tokens: Vec<Token>,
    signalled: bool,
    timer: Option<(u64, u64)>,
    exhausted: bool,
    stopped_until: Option<u64>,
    /// For how long the process was stopped in all.
    pub stopped: u64,
    calls: u32,
    turns: u32,
    idle_turns: u32,
    happened: u64,
    happened_before: u64,
}

/// The byte at a position of a peer's stream.
pub fn byte(socket: Id, position: u64) -> u8 {
    let mixed = (position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (socket as u64 + 1).wrapping_mul(0xbf58_476d_1ce4);
    (mixed >> 32).to_le_bytes()[0]
}

impl Network {
    pub fn new(dice: Dice, weather: Weather, talkative: bool) -> Network {
        Network {
            dice,
            talkative,
            weather,
            now: 1,
            agenda: BTreeMap::new(),
            entries: 0,
            sockets: Vec::new(),
            peers: Vec::new(),
            doors: BTreeMap::new(),
            hosts: None,
            forwards: None,
            forwarded: BTreeMap::new(),
            cut_off: u64::MAX,
            last_connect: 0,
            ready: Vec::new(),
            ready_tokens: Vec::new(),
            signalled: false,
            timer: None,
            exhausted: false,
            stopped_until: None,
            stopped: 0,
            calls: 0,
            turns: 0,
            idle_turns: 0,
            happened: 0,
            happened_before: 0,
        }
    }

    /// Prints what the loop does, if the network is talkative.
    fn print(&self, what: impl FnOnce() -> String) {
        if self.talkative {
            println!("{:9} µs: {}", self.now / MICROSECOND, what());
        }
    }

    // Time.

    fn schedule(&mut self, after: u64, act: Act) -> (u64, u64) {
        self.entries += 1;
        let entry = (self.now + after, self.entries);
        self.agenda.insert(entry, act);
        entry
    }

    fn some_delay(&mut self) -> u64 {
        self.dice.scaled(MICROSECOND, self.weather.delay)
    }

    pub fn signal_after(&mut self, after: u64) {
        self.schedule(after, Act::Signal);
    }

    pub fn exhaust(&mut self, after: u64, lasting: u64) {
        self.schedule(after, Act::Exhausted(true));
        self.schedule(after + lasting, Act::Exhausted(false));
    }

    pub fn stop_after(&mut self, after: u64, lasting: u64) {
        self.schedule(after, Act::Stop(lasting));
    }

    pub fn add_peer(&mut self, after: u64, peer: Peer) {
        self.peers.push(Some(peer));
        self.call_peer(self.peers.len() - 1, after);
    }

    pub fn call_peer(&mut self, index: usize, after: u64) {
        self.schedule(after, Act::Peer(index));
    }

    /// Lets a call take a little while, in which peers may act.
    fn call(&mut self) {
        self.calls += 1;
        assert!(self.calls < CALLS_A_TURN, "one turn does not end");
        self.now += self.dice.between(1, 3) * MICROSECOND;
        self.catch_up();
        self.sit_out();
    }

    /// If the process is stopped, lets the peers act until it goes on. Returns whether it was stopped.
    fn sit_out(&mut self) -> bool {
        let Some(until) = self.stopped_until.take() else { return false };
        while let Some((&(when, _), _)) = self.agenda.first_key_value()
            && when <= until
        {
            self.now = self.now.max(when);
            self.catch_up();
        }
        self.now = self.now.max(until);
        true
    }

    fn catch_up(&mut self) {
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= self.now
        {
            let act = entry.remove();
            self.act(&act);
        }
    }

    fn act(&mut self, act: &Act) {
        self.happened += 1;
        match *act {
            Act::Carry(id) => self.carry(id),
            Act::Syn(id) => self.syn(id),
            Act::Peer(index) => {
                let mut peer = self.peers[index].take().unwrap();
                peer.act(index, self);
                self.peers[index] = Some(peer);
            }
            Act::Reset(id) => {
                let peer = self.sockets[id].peer;
                for end in [id, peer] {
                    self.harm(end, Harm::Reset);
                    self.reset(end);
                }
            }
            Act::Timer => self.report_token(TIMER),
            Act::Signal => {
                self.signalled = true;
                self.report_token(SIGNALS);
            }
            Act::Exhausted(exhausted) => self.exhausted = exhausted,
            Act::Stop(lasting) => {
                self.stopped += lasting;
                self.stopped_until = Some(self.stopped_until.unwrap_or(self.now) + lasting);
            }
        }
    }

    // Sockets.

    fn socket(&mut self, addr: SocketAddr, peer: Id) {
        let most = usize::try_from(self.weather.room).unwrap();
        let rooms = [(); 2].map(|()| self.dice.count(most.div_ceil(16), most));
        self.sockets.push(Socket {
            addr,
            peer,
            token: None,
            connected: false,
            closed: false,
            error: None,
            sent: VecDeque::new(),
            arrived: VecDeque::new(),
            send_room: rooms[0],
            receive_room: rooms[1],
            finish: Finish::No,
            marks: VecDeque::new(),
            written: 0,
            carried: 0,
            read: 0,
            under_way: false,
            window_closed: false,
            acknowledged_at: self.now,
            tampering: None,
            harm: Harm::None,
            awaits_bytes: true,
            awaits_room: false,
            pending: None,
            firehose: None,
            read_in_turn: 0,
        });
    }

    /// Begins a connect of the loop's, whose SYN may be lost.
    fn connect_or_lose_the_syn(&mut self, server: SocketAddr) -> Id {
        let syn_lost = self.dice.chance(self.weather.syn_lost);
        let id = self.connect(server);
        if syn_lost {
            self.harm(id, Harm::SynLost);
        }
        self.last_connect = id;
        if let Some(client) = self.forwards.take() {
            self.forwarded.insert(id, client);
        }
        id
    }

    /// Begins a connect: makes a socket at each end. The SYN arrives.
    pub fn connect(&mut self, server: SocketAddr) -> Id {
        let id = self.sockets.len();
        self.socket(SocketAddr::from(([192, 0, 2, 1], FIRST_PORT + u16::try_from(id).unwrap())), id + 1);
        self.socket(server, id);
        let after = self.some_delay();
        self.schedule(after, Act::Syn(id));
        id
    }

    fn syn(&mut self, id: Id) {
        if self.sockets[id].closed || self.sockets[id].harm == Harm::SynLost {
            return; // The connect was given up meanwhile, or the SYN was lost.
        }
        let server = self.sockets[id].peer;
        let addr = self.sockets[server].addr;
        let hosts = self.hosts.filter(|&(hosts_addr, _)| hosts_addr == addr);
        let listening = hosts.is_some() || self.doors.get(&addr).is_some_and(|door| door.listening);
        if !listening || self.dice.chance(self.weather.refused) {
            self.harm(id, Harm::Refused);
            self.sockets[id].error = Some(ErrorKind::ConnectionRefused);
            self.report(id, Readiness::ALL);
            return;
        }
        self.sockets[id].connected = true;
        self.sockets[server].connected = true;
        self.report(id, Readiness { writable: true, ..Readiness::default() });
        if let Some((_, kinds)) = hosts {
            let client = self.forwarded[&id];
            return Peer::host(server, kinds, client, self);
        }
        let door = self.doors.get_mut(&addr).unwrap();
        door.backlog.push_back(server);
        if mem::take(&mut door.awaits_connection) {
            let token = door.token;
            self.report_token(token);
        }
    }

    /// Notes for the poller that a socket has changed.
    fn report(&mut self, id: Id, change: Readiness) {
        let socket = &mut self.sockets[id];
        if socket.token.is_none() {
            return;
        }
        let pending = match socket.pending {
            Some(pending) => union(pending, change),
            None => {
                self.ready.push(id);
                change
            }
        };
        socket.pending = Some(pending);
    }

    /// Notes the same for the listener, the signals or the timer. Several changes make one event.
    fn report_token(&mut self, token: Token) {
        if !self.ready_tokens.contains(&token) {
            self.ready_tokens.push(token);
        }
    }

    /// Moves bytes that `id` has sent to the other end: some of them, as chance decides.
    fn carry(&mut self, id: Id) {
        self.sockets[id].under_way = false;
        let reader = self.sockets[id].peer;
        if self.sockets[reader].closed {
            if !self.sockets[id].sent.is_empty() {
                self.reset(id); // The other end is closed.
            }
            return;
        }
        let socket = &self.sockets[id];
        let room = if socket.window_closed { 0 } else { socket.receive_room.saturating_sub(socket.arrived.len()) };
        let most = socket.sent.len().min(room);
        let whole = self.dice.chance(500);
        let count = if most == 0 || whole { most } else { self.dice.count(1, most) };
        let socket = &mut self.sockets[id];
        let before = socket.carried;
        for _ in 0..count {
            let byte = socket.sent.pop_front().unwrap();
            tamper(socket, byte);
        }
        let urgent = socket.marks.iter().any(|&mark| (before..socket.carried).contains(&mark));
        if urgent {
            // The mark arrives with its byte, and epoll reports both.
            self.report(reader, Readiness { urgent: true, readable: true, ..Readiness::default() });
        }
        let socket = &mut self.sockets[id];
        if count > 0 {
            socket.acknowledged_at = self.now;
        }
        socket.window_closed |= socket.arrived.len() >= socket.receive_room;
        let arrived = !socket.arrived.is_empty();
        if arrived && mem::take(&mut self.sockets[reader].awaits_bytes) {
            self.report(reader, Readiness { readable: true, ..Readiness::default() });
        }
        let socket = &mut self.sockets[id];
        // As Linux does it: not before a third of the buffer is free.
        if socket.awaits_room && socket.sent.len() * 3 <= socket.send_room * 2 {
            socket.awaits_room = false;
            self.report(id, Readiness { writable: true, ..Readiness::default() });
        }
        let socket = &mut self.sockets[id];
        if socket.sent.is_empty() && socket.finish == Finish::Queued {
            socket.finish = Finish::Arrived;
            self.report(reader, Readiness { readable: true, read_closed: true, ..Readiness::default() });
        } else {
            self.send_on(id);
        }
    }

    /// Schedules the carrying of what `id` has sent, if there is room for it.
    fn send_on(&mut self, id: Id) {
        let socket = &self.sockets[id];
        let closed = self.sockets[socket.peer].closed;
        let room = !socket.window_closed && socket.arrived.len() < socket.receive_room;
        let bytes = !socket.sent.is_empty() && (closed || room);
        let end = socket.sent.is_empty() && socket.finish == Finish::Queued;
        if (bytes || end) && !socket.under_way {
            self.sockets[id].under_way = true;
            let after = self.some_delay();
            self.schedule(after, Act::Carry(id));
        }
    }

    pub fn write(&mut self, id: Id, bytes: &[u8]) -> io::Result<usize> {
        assert!(self.sockets[id].connected && !bytes.is_empty());
        if let Some(kind) = self.sockets[id].error {
            return Err(kind.into());
        }
        assert!(self.sockets[id].finish == Finish::No, "a write behind our own FIN");
        let other = self.sockets[id].peer;
        if let Some((_, got)) = &mut self.sockets[other].firehose {
            for &given in bytes {
                assert_eq!(given, byte(other, *got), "the firehose's byte {got} came back wrong");
                *got += 1;
            }
            self.happened += 1;
            return Ok(bytes.len());
        }
        let socket = &mut self.sockets[id];
        let room = socket.send_room - socket.sent.len();
        if room == 0 {
            socket.awaits_room = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = room.min(bytes.len());
        if socket.token.is_some() && self.dice.chance(self.weather.short_write) {
            count = count.min(self.dice.count(1, 7));
        }
        let socket = &mut self.sockets[id];
        socket.sent.extend(&bytes[..count]);
        socket.written += count as u64;
        self.happened += 1;
        self.send_on(id);
        Ok(count)
    }

    /// The next byte that `id` sends is urgent.
    pub fn mark(&mut self, id: Id) {
        let socket = &mut self.sockets[id];
        socket.marks.push_back(socket.written);
    }

    pub fn read(&mut self, id: Id, space: &mut [u8]) -> io::Result<usize> {
        let other = self.sockets[id].peer;
        if let Some((sent, _)) = &mut self.sockets[other].firehose {
            for place in &mut *space {
                *place = byte(other, *sent);
                *sent += 1;
            }
            self.happened += 1;
            return Ok(space.len());
        }
        if self.sockets[other].arrived.is_empty() {
            if let Some(kind) = self.sockets[id].error {
                return Err(kind.into());
            }
            if self.sockets[other].finish == Finish::Arrived {
                return Ok(0);
            }
            self.sockets[id].awaits_bytes = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let sender = &mut self.sockets[other];
        let mut count = sender.arrived.len().min(space.len());
        // A read ends before an urgent byte, unless that comes first (tcp(7), SO_OOBINLINE).
        while sender.marks.front().is_some_and(|&mark| mark <= sender.read) {
            sender.marks.pop_front();
        }
        if let Some(&mark) = sender.marks.front() {
            count = count.min(usize::try_from(mark - sender.read).unwrap());
        }
        for (place, byte) in space.iter_mut().zip(sender.arrived.drain(..count)) {
            *place = byte;
        }
        sender.read += count as u64;
        // As a receiver does it that avoids the silly window syndrome (RFC 1122, 4.2.3.3): room is not announced before
        // there is half a buffer of it.
        sender.window_closed &= (sender.receive_room - sender.arrived.len()) * 2 < sender.receive_room;
        if count < space.len() && sender.arrived.is_empty() {
            self.sockets[id].awaits_bytes = true;
        }
        self.happened += 1;
        self.send_on(other);
        Ok(count)
    }

    pub fn shut_down(&mut self, id: Id) {
        if self.sockets[id].finish == Finish::No {
            self.sockets[id].finish = Finish::Queued;
            self.send_on(id);
        }
    }

    /// Lets a reset arrive at `id`. What `id` has not sent is lost, and sometimes what it has not read.
    pub fn reset(&mut self, id: Id) {
        let other = self.sockets[id].peer;
        if self.sockets[id].closed || !self.sockets[id].connected {
            return;
        }
        self.sockets[id].sent.clear();
        if self.dice.chance(500) {
            let lost = self.sockets[other].arrived.len() as u64;
            self.sockets[other].arrived.clear();
            self.sockets[other].read += lost;
        }
        self.sockets[id].error = Some(ErrorKind::ConnectionReset);
        self.report(id, Readiness::ALL);
    }

    /// Closes a socket with a reset (`SO_LINGER` with zero seconds).
    pub fn abort(&mut self, id: Id) {
        self.close_with(id, true);
    }

    /// Closes a socket as close(2) does: with a reset if it has unread input.
    pub fn close(&mut self, id: Id) {
        let unread = !self.sockets[self.sockets[id].peer].arrived.is_empty();
        self.close_with(id, unread);
    }

    fn close_with(&mut self, id: Id, reset: bool) {
        let other = self.sockets[id].peer;
        let socket = &mut self.sockets[id];
        assert!(!mem::replace(&mut socket.closed, true), "closed twice");
        socket.token = None;
        socket.pending = None;
        socket.firehose = None;
        self.ready.retain(|&ready| ready != id);
        self.sockets[other].arrived.clear();
        if reset || self.sockets[id].error.is_some() {
            self.sockets[id].sent.clear();
            self.reset(other);
        } else {
            self.shut_down(id);
        }
        self.send_on(other);
    }

    /// Lets `id` send without end, until [`run_dry`](Network::run_dry).
    pub fn gush(&mut self, id: Id) {
        self.sockets[id].firehose = Some((0, 0));
        let other = self.sockets[id].peer;
        self.report(other, Readiness { readable: true, ..Readiness::default() });
    }

    /// Ends [`gush`](Network::gush). Returns how many bytes `id` sent and how many it got back. The others come as
    /// usual.
    pub fn run_dry(&mut self, id: Id) -> (u64, u64) {
        let (sent, got) = self.sockets[id].firehose.take().unwrap();
        // Much may be left to come back. With small buffers it would take long, and other peers wait for the slot.
        let carrier = self.carrier(id);
        let behind = carrier.map(|carrier| self.sockets[carrier].peer);
        for id in [Some(self.sockets[id].peer), carrier, behind].into_iter().flatten() {
            self.sockets[id].send_room = self.sockets[id].send_room.max(16 * 1024);
            self.sockets[id].receive_room = self.sockets[id].receive_room.max(16 * 1024);
        }
        self.sockets[id].written = sent;
        self.sockets[id].carried = sent;
        self.sockets[id].read = sent;
        (sent, got)
    }

    /// Lets the loop turn once, by an event of the timer, so that its role looks at the peers.
    pub fn nudge(&mut self) {
        self.report_token(TIMER);
    }

    /// What the kernel holds for the peer, as the loop sees it.
    fn unacknowledged(&mut self, id: Id) -> Unacknowledged {
        let socket = &self.sockets[id];
        let bytes = u32::try_from(socket.sent.len()).unwrap();
        let since = self.now - socket.acknowledged_at;
        // A closed window is probed, and each answer is an acknowledgement of no new byte.
        let since = if socket.window_closed { self.dice.between(0, since) } else { since };
        Unacknowledged { bytes, last_acknowledgement: Duration::from_nanos(since) }
    }

    /// Gives the loop's end of `id`'s connection the largest send buffer and the smallest receive buffer.
    pub fn make_a_bottleneck_of(&mut self, id: Id) {
        let most = usize::try_from(self.weather.room).unwrap();
        let server = self.sockets[id].peer;
        self.sockets[server].send_room = most;
        self.sockets[server].receive_room = most.div_ceil(16);
    }

    /// Whether the loop's end of `id`'s connection is open and found no room for what it wanted to write.
    pub fn loop_is_blocked(&self, id: Id) -> bool {
        let server = &self.sockets[self.sockets[id].peer];
        server.awaits_room && !server.closed
    }

    /// Whether `id` has shut its direction down, and how many bytes it sent before that.
    pub fn has_sent(&self, id: Id) -> (bool, u64) {
        (self.sockets[id].finish != Finish::No, self.sockets[id].written)
    }

    /// The loop's connection that carries on what comes from the socket `client`.
    pub fn carrier(&self, client: Id) -> Option<Id> {
        self.forwarded.iter().find(|&(_, &of)| of == client).map(|(&id, _)| id)
    }

    /// The socket with this address, which is one that connected.
    pub fn id_at(addr: SocketAddr) -> Id {
        Id::from(addr.port() - FIRST_PORT)
    }

    /// Whether the loop drains.
    pub fn drains(&self) -> bool {
        self.cut_off < u64::MAX
    }

    /// How many bytes fit into the buffer that `id` reads from.
    pub fn receive_room(&self, id: Id) -> usize {
        self.sockets[self.sockets[id].peer].receive_room
    }

    pub fn is_connected(&self, id: Id) -> bool {
        self.sockets[id].connected
    }

    pub fn error(&self, id: Id) -> Option<ErrorKind> {
        self.sockets[id].error
    }

    /// How many bytes of `id` have arrived at the other end.
    pub fn carried(&self, id: Id) -> u64 {
        self.sockets[id].firehose.map_or(self.sockets[id].carried, |(sent, _)| sent)
    }

    pub fn addr(&self, id: Id) -> SocketAddr {
        self.sockets[id].addr
    }

    /// What was done to either end of a connection.
    pub fn harm_to(&self, id: Id) -> Harm {
        match (self.sockets[id].harm, self.sockets[self.sockets[id].peer].harm) {
            (Harm::None, harm) | (harm, _) => harm,
        }
    }

    fn harm(&mut self, id: Id, harm: Harm) {
        let socket = &mut self.sockets[id];
        if !socket.closed && socket.harm == Harm::None {
            socket.harm = harm;
        }
    }

    pub fn reset_after(&mut self, id: Id, after: u64) {
        self.schedule(after, Act::Reset(id));
    }

    /// Changes what arrives at `id`.
    pub fn tamper_with(&mut self, id: Id, tampering: Tampering) {
        let other = self.sockets[id].peer;
        self.sockets[other].tampering = Some(tampering);
    }

    /// How many sockets of the loop's are still open.
    pub fn open(&self) -> usize {
        self.sockets.iter().filter(|socket| socket.token.is_some()).count()
    }

    pub fn turns(&self) -> u32 {
        self.turns
    }

    // The loop's side.

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<(Token, Readiness)>) -> io::Result<()> {
        events.clear();
        self.begin_turn(timeout);
        self.call();
        if self.dice.chance(self.weather.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let until =
            timeout.map(|timeout| self.now.saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
        while self.ready.is_empty() && self.ready_tokens.is_empty() {
            let next = self.agenda.first_key_value().map(|(&(when, _), _)| when);
            match (next, until) {
                (Some(next), Some(until)) if next > until => {
                    self.now = self.now.max(until);
                    break;
                }
                (None, Some(until)) => {
                    self.now = self.now.max(until);
                    break;
                }
                (Some(next), _) => {
                    self.now = self.now.max(next);
                    self.catch_up();
                    if self.sit_out() {
                        return Err(ErrorKind::Interrupted.into()); // What SIGCONT does to epoll_wait.
                    }
                }
                (None, None) => panic!("stalled: the loop waits, and nothing will ever happen: {self:#?}"),
            }
        }
        self.hand_over(events);
        self.print(|| format!("waited for {timeout:?}: {events:?}"));
        self.call(); // Before the loop looks at the events, peers may act and the process may be stopped.
        Ok(())
    }

    fn begin_turn(&mut self, timeout: Option<Duration>) {
        self.turns += 1;
        assert!(self.turns < TURNS, "too many turns: {self:#?}");
        let idle = self.happened == self.happened_before && timeout == Some(Duration::ZERO);
        self.idle_turns = if idle { self.idle_turns + 1 } else { 0 };
        assert!(self.idle_turns < IDLE_TURNS, "the loop spins: turn after turn, and nothing is done");
        self.happened_before = self.happened;
        self.calls = 0;
        for socket in &mut self.sockets {
            socket.read_in_turn = 0;
        }
    }

    fn hand_over(&mut self, events: &mut Vec<(Token, Readiness)>) {
        let most = self.weather.events;
        let everything = |token| (token, Readiness { readable: true, ..Readiness::default() });
        let count = self.ready_tokens.len().min(most);
        events.extend(self.ready_tokens.drain(..count).map(everything));
        let count = self.ready.len().min(most - events.len());
        for id in self.ready.drain(..count).collect::<Vec<_>>() {
            let (token, mut event) = (self.sockets[id].token.unwrap(), self.sockets[id].pending.take().unwrap());
            if self.dice.chance(500) {
                event = union(event, self.truth(id)); // epoll reports all that holds now, not only what has changed.
            }
            events.push((token, event));
        }
        // If some sources did not fit, the wait had no place for spurious events.
        let all_returned = self.ready.is_empty() && self.ready_tokens.is_empty();
        while all_returned && events.len() < most && self.dice.chance(self.weather.spurious) {
            let known: Vec<Token> = self.sockets.iter().filter_map(|socket| socket.token).collect();
            let event =
                Readiness { readable: self.dice.chance(500), writable: self.dice.chance(500), ..Readiness::default() };
            match self.dice.between(0, 3) {
                0 => events.push((Token(self.dice.count(100, 10_000)), event)),
                1 if !events.is_empty() => events.push(self.dice.pick(events)),
                2 => events.push(everything(self.dice.pick(&[LISTENER, SIGNALS, TIMER]))),
                _ if !known.is_empty() => events.push((self.dice.pick(&known), event)),
                _ => {}
            }
        }
        // The events come in any order.
        for last in (1..events.len()).rev() {
            let other = usize::try_from(self.dice.between(0, last as u64)).unwrap();
            events.swap(last, other);
        }
    }

    fn truth(&self, id: Id) -> Readiness {
        let (socket, other) = (&self.sockets[id], &self.sockets[self.sockets[id].peer]);
        let over = socket.error.is_some();
        Readiness {
            readable: over || !other.arrived.is_empty() || other.finish == Finish::Arrived || other.firehose.is_some(),
            writable: over || (socket.connected && socket.sent.len() < socket.send_room),
            read_closed: over || other.finish == Finish::Arrived,
            urgent: other.marks.iter().any(|mark| (other.read..other.carried).contains(mark)),
        }
    }

    fn register(&mut self, id: Id, token: Token) -> io::Result<()> {
        self.call();
        if self.dice.chance(self.weather.register_fails) {
            let other = self.sockets[id].peer;
            for end in [id, other] {
                self.sockets[end].harm = Harm::NotRegistered; // In place of any other harm.
            }
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        assert!(self.sockets.iter().all(|socket| socket.token != Some(token)), "a token is in use twice");
        self.sockets[id].token = Some(token);
        // epoll reports at once what holds when a socket is registered.
        let truth = self.truth(id);
        self.sockets[id].awaits_bytes = !truth.readable;
        if truth != Readiness::default() {
            self.report(id, truth);
        }
        Ok(())
    }

    fn accept(&mut self, at: SocketAddr) -> io::Result<Id> {
        use rustix::io::Errno;
        self.call();
        let error = |errno: Errno| Err(io::Error::from_raw_os_error(errno.raw_os_error()));
        if self.exhausted {
            return error(self.dice.pick(&[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]));
        }
        if self.dice.chance(self.weather.accept_fails) {
            return error(self.dice.pick(&[Errno::INTR, Errno::CONNABORTED, Errno::PROTO, Errno::HOSTUNREACH]));
        }
        let door = self.doors.get_mut(&at).unwrap();
        match door.backlog.pop_front() {
            Some(id) => {
                self.happened += 1;
                Ok(id)
            }
            None => {
                door.awaits_connection = true;
                error(Errno::AGAIN)
            }
        }
    }

    fn stop_listening(&mut self, at: SocketAddr) {
        let door = self.doors.get_mut(&at).unwrap();
        door.listening = false;
        for id in mem::take(&mut door.backlog) {
            self.harm(self.sockets[id].peer, Harm::Unaccepted);
            self.abort(id);
        }
    }
}

fn union(one: Readiness, other: Readiness) -> Readiness {
    Readiness {
        readable: one.readable || other.readable,
        writable: one.writable || other.writable,
        read_closed: one.read_closed || other.read_closed,
        urgent: one.urgent || other.urgent,
    }
}

/// Lets one byte arrive, changed if it is tampered with.
fn tamper(socket: &mut Socket, byte: u8) {
    let position = socket.carried;
    socket.carried += 1;
    let Some(Tampering { at, how }) = socket.tampering else { return socket.arrived.push_back(byte) };
    if position == at {
        socket.harm = Harm::Tampered(Tampering { at, how });
    }
    match how {
        How::Flip if position == at => socket.arrived.push_back(byte ^ 1),
        How::Drop(count) if (at..at + count).contains(&position) => {}
        How::Repeat(count) if position == at => {
            socket.arrived.push_back(byte);
            // The last `count` bytes come once more, or as many of them as are not read yet.
            let last = socket.arrived.len().saturating_sub(usize::try_from(count).unwrap());
            let again: Vec<u8> = socket.arrived.range(last..).copied().collect();
            socket.arrived.extend(again);
        }
        _ => socket.arrived.push_back(byte),
    }
}

/// The loop's system: a handle of the network.
#[derive(Debug)]
pub struct Simulated {
    pub network: Rc<RefCell<Network>>,
    events: Vec<(Token, Readiness)>,
}

impl Simulated {
    pub fn new(network: &Rc<RefCell<Network>>) -> Simulated {
        Simulated { network: Rc::clone(network), events: Vec::new() }
    }

    /// A listener at an address that has none.
    pub fn listener(&self, at: SocketAddr) -> Listener {
        let door = Door { token: LISTENER, listening: true, awaits_connection: true, backlog: VecDeque::new() };
        assert!(self.network.borrow_mut().doors.insert(at, door).is_none(), "{at} is in use");
        Listener { network: Rc::clone(&self.network), at }
    }
}

/// A socket of the loop's.
#[derive(Debug)]
pub struct Stream {
    pub id: Id,
    network: Rc<RefCell<Network>>,
    /// Whether closing sends a reset.
    resets: bool,
}

impl Read for Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        assert!(!space.is_empty(), "a read of no bytes would look like the end of input");
        let mut network = self.network.borrow_mut();
        network.call();
        let interrupted = network.weather.interrupted;
        if network.dice.chance(interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let read = network.read(self.id, space);
        network.print(|| format!("{} reads up to {}: {read:?}", self.id, space.len()));
        let count = read?;
        let socket = &mut network.sockets[self.id];
        socket.read_in_turn += count;
        assert!(socket.read_in_turn <= READ_A_TURN, "one connection holds the loop");
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut network = self.network.borrow_mut();
        network.call();
        let interrupted = network.weather.interrupted;
        if network.dice.chance(interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let written = network.write(self.id, bytes);
        network.print(|| format!("{} writes {}: {written:?}", self.id, bytes.len()));
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Stream {
    fn reset_on_close(&mut self) {
        self.resets = true;
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut network = self.network.borrow_mut();
        network.call();
        if network.sockets[self.id].error.is_some() {
            return Err(ErrorKind::NotConnected.into());
        }
        network.shut_down(self.id);
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        let mut network = self.network.borrow_mut();
        network.call();
        let socket = &mut network.sockets[self.id];
        match socket.error {
            Some(kind) => Err(kind.into()),
            None => Ok(socket.connected),
        }
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        let mut network = self.network.borrow_mut();
        network.call();
        Ok(network.sockets[self.id].error.map(Into::into))
    }

    fn unacknowledged(&self) -> Option<Unacknowledged> {
        let mut network = self.network.borrow_mut();
        network.call();
        Some(network.unacknowledged(self.id))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut network = self.network.borrow_mut();
        if self.resets { network.abort(self.id) } else { network.close(self.id) }
    }
}

#[derive(Debug)]
pub struct Listener {
    network: Rc<RefCell<Network>>,
    at: SocketAddr,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.network.borrow_mut().stop_listening(self.at);
    }
}

impl Clock for Simulated {
    fn now(&self) -> Moment {
        Moment::after_start(Duration::from_nanos(self.network.borrow().now))
    }
}

impl System for Simulated {
    type Stream = Stream;
    type Listener = Listener;
    const SHORT_READ_IS_LAST: bool = true;

    fn register(&mut self, stream: &mut Stream, token: Token) -> io::Result<()> {
        self.network.borrow_mut().register(stream.id, token)
    }

    fn register_listener(&mut self, listener: &mut Listener, token: Token) -> io::Result<()> {
        self.network.borrow_mut().doors.get_mut(&listener.at).unwrap().token = token;
        Ok(())
    }

    fn connect(&mut self, _: Option<IpAddr>, addr: SocketAddr) -> io::Result<Stream> {
        let id = self.network.borrow_mut().connect_or_lose_the_syn(addr);
        Ok(Stream { id, network: Rc::clone(&self.network), resets: false })
    }

    fn accept(&mut self, listener: &Listener) -> io::Result<(Stream, SocketAddr)> {
        let mut network = self.network.borrow_mut();
        let id = network.accept(listener.at)?;
        let addr = network.addr(network.sockets[id].peer);
        Ok((Stream { id, network: Rc::clone(&self.network), resets: false }, addr))
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.network.borrow_mut().wait(timeout, &mut self.events)
    }

    fn most_events(&self) -> usize {
        self.network.borrow().weather.events
    }

    fn events(&self) -> impl Iterator<Item = (Token, Readiness)> {
        self.events.iter().copied()
    }

    fn catch_signals(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_signals(&mut self) -> io::Result<Vec<Signal>> {
        let signalled = mem::take(&mut self.network.borrow_mut().signalled);
        Ok(signalled.then_some(Signal::Terminate).into_iter().collect())
    }

    fn set_timer(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let mut network = self.network.borrow_mut();
        if let Some(entry) = network.timer.take() {
            network.agenda.remove(&entry);
        }
        if let Some(wait) = wait {
            network.timer = Some(network.schedule(u64::try_from(wait.as_nanos()).unwrap(), Act::Timer));
        }
        Ok(())
    }

    fn take_timer(&mut self) -> io::Result<()> {
        Ok(())
    }
}
