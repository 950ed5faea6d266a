//! Peers outside of the loop. They talk, sleep, trickle, reset, leave or never stop, and check what they get.
//!
//! Owns what one peer does and when. Knows nothing of the product: a peer makes and compares its own bytes.

use std::io::ErrorKind;
use std::net::SocketAddr;

use crate::network::{Harm, Id, MILLISECOND, Network, byte};

/// How long a peer waits for a byte to move: longer than anything in a world takes.
const PATIENCE: u64 = 60_000 * MILLISECOND;

/// How often a peer that trickles reads, and in how many reads it frees half of its buffer, which its kernel announces.
/// That takes 15 s, half of the stall timeout.
const TRICKLE: u64 = 200 * MILLISECOND;
const READS_A_HALF: usize = 75;

/// How long a stuck peer reads nothing: longer than the stall timeout, one more quarter of it, and all the time for
/// which the loop may be stopped meanwhile.
const STUCK: u64 = 200_000 * MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sends and reads by chance, shuts down, and reads to the end of input.
    Talks,
    /// As `Talks`, but reads nothing until everything is sent or no more can be sent, and then sleeps before it reads.
    Sleeps,
    /// For a while sends without end and reads as fast, and then goes on as `WaitsForTheRest`.
    Gushes,
    /// Resets the connection when everything is sent or no more can be sent.
    Resets,
    /// Closes the connection at that point, with everything unread.
    Leaves,
    /// As `Talks`, but reads only a little at a time, steadily.
    Trickles,
    /// Reads nothing for longer than the stall timeout. If the loop has not ended the connection by then, goes on as
    /// `Talks`.
    Stuck,
    /// As `Talks`, but shuts down only when everything is back: what it gushed was more than a budget, and no edge
    /// follows its last byte.
    WaitsForTheRest,
}

impl Kind {
    /// What a peer may be from the beginning on.
    pub const ALL: [Kind; 7] =
        [Kind::Talks, Kind::Sleeps, Kind::Gushes, Kind::Resets, Kind::Leaves, Kind::Trickles, Kind::Stuck];

    /// What a peer may be whose bytes come back through two connections. A peer that trickles lets what is queued for it
    /// shrink to half before more is read behind it, and the server there may rightly call that stalled.
    pub const THROUGH: [Kind; 6] = [Kind::Talks, Kind::Sleeps, Kind::Gushes, Kind::Resets, Kind::Leaves, Kind::Stuck];

    /// What a peer may be that talks to another peer. What gushes is compared with what it gushed itself.
    pub const OF_TWO: [Kind; 6] = [Kind::Talks, Kind::Sleeps, Kind::Resets, Kind::Leaves, Kind::Trickles, Kind::Stuck];
}

/// Whose bytes a peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Its own.
    Itself,
    /// Those of a peer at the other side of the loop; `None` if the loop is not connected to it yet.
    Another(Option<Id>),
}

/// How the connection ended for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer shut down, and so did the other end: first, if the two talk to each other.
    Finished,
    /// The server shut down first, or without being asked to.
    Dismissed,
    /// The connection broke.
    Broken,
    /// The peer closed or reset the connection.
    Left,
}

#[derive(Debug)]
pub struct Peer {
    kind: Kind,
    /// Whether it has begun to read nothing for longer than the stall timeout: the loop may end the connection.
    pub was_stuck: bool,
    server: SocketAddr,
    plan: u64,
    urgent: u64,
    pub hears: Hears,
    pub socket: Option<Id>,
    pub sent: u64,
    pub got: u64,
    last_moved: u64,
    sleeps_until: Option<u64>,
    finished: bool,
    /// It has read the end of what another peer sent.
    heard_end: bool,
    /// It had read that end, and still sent something that it had to send.
    pub lived_on: bool,
    pub outcome: Option<Outcome>,
    pub ended_at: u64,
}

impl Peer {
    /// A peer that sends `plan` bytes in pieces, of which `urgent` in a thousand begin with an urgent byte.
    pub fn new(kind: Kind, server: SocketAddr, plan: u64, urgent: u64) -> Peer {
        Peer {
            kind,
            was_stuck: false,
            server,
            plan,
            urgent,
            hears: Hears::Itself,
            socket: None,
            sent: 0,
            got: 0,
            last_moved: 0,
            sleeps_until: None,
            finished: false,
            heard_end: false,
            lived_on: false,
            outcome: None,
            ended_at: 0,
        }
    }

    /// As [`new`](Peer::new), for a peer that talks to another one.
    pub fn of_two(kind: Kind, server: SocketAddr, plan: u64, urgent: u64) -> Peer {
        Peer { hears: Hears::Another(None), ..Peer::new(kind, server, plan, urgent) }
    }

    /// A peer to which the loop has connected, to carry on what comes from `client`, begins to talk at `socket`.
    pub fn host(socket: Id, kinds: &[Kind], client: Id, network: &mut Network) {
        let slow = |kind| kind == Kind::Trickles;
        let clients = |peer: &&mut Peer| peer.socket == Some(client);
        let few = network.weather.room * 2;
        let client_peer = network.peers.iter_mut().flatten().find(clients).unwrap();
        client_peer.hears = Hears::Another(Some(socket));
        let (client_is_slow, client_plan) = (slow(client_peer.kind), client_peer.plan);
        let mut kind = network.dice.pick(kinds);
        if slow(kind) && client_plan > few {
            kind = Kind::Talks;
        }
        let most = if client_is_slow { few } else { (few * 15).min(256 * 1024) };
        let plan = network.dice.scaled(1, most);
        let host = Peer::of_two(kind, network.addr(socket), plan, 0);
        if slow(kind) {
            network.make_a_bottleneck_of(socket);
        }
        let hears = Hears::Another(Some(client));
        let after = network.dice.scaled(1_000, 20 * MILLISECOND);
        network.add_peer(after, Peer { socket: Some(socket), hears, last_moved: network.now, ..host });
    }

    /// The peer that it talks to, if there is one.
    fn other<'a>(&self, network: &'a Network) -> Option<&'a Peer> {
        let Hears::Another(Some(socket)) = self.hears else { return None };
        network.peers.iter().flatten().find(|peer| peer.socket == Some(socket))
    }

    /// Does a little, and schedules the next call.
    pub fn act(&mut self, index: usize, network: &mut Network) {
        let id = match self.socket {
            Some(id) => id,
            None => {
                self.last_moved = network.now;
                let id = *self.socket.insert(network.connect(self.server));
                if self.kind == Kind::Trickles {
                    network.make_a_bottleneck_of(id);
                }
                id
            }
        };
        if network.error(id).is_some() {
            self.end(Outcome::Broken, network);
        } else if network.is_connected(id) {
            match self.kind {
                Kind::Gushes => self.gush(id, network),
                _ => self.talk(id, network),
            }
        }
        let moved = self.other(network).map_or(self.last_moved, |other| other.last_moved.max(self.last_moved));
        let patient = network.now < moved + PATIENCE + network.stopped;
        assert!(patient || self.outcome.is_some(), "{self:?} got no answer");
        if self.outcome.is_none() {
            let after = match self.sleeps_until {
                Some(dry) if self.kind == Kind::Gushes => dry - network.now,
                Some(wakes) if self.kind == Kind::Stuck => wakes - network.now,
                _ if self.kind == Kind::Trickles => TRICKLE,
                _ => network.dice.scaled(1_000, 20 * MILLISECOND),
            };
            network.call_peer(index, after);
        }
    }

    fn gush(&mut self, id: Id, network: &mut Network) {
        match self.sleeps_until {
            None => {
                let lasting = network.dice.scaled(10_000, 300_000);
                self.sleeps_until = Some(network.now + lasting);
                network.gush(id);
            }
            Some(dry) if network.now >= dry => {
                (self.sent, self.got) = network.run_dry(id);
                self.plan = self.sent + 1;
                self.kind = Kind::WaitsForTheRest;
            }
            Some(_) => {}
        }
    }

    fn talk(&mut self, id: Id, network: &mut Network) {
        let leaves = matches!(self.kind, Kind::Resets | Kind::Leaves);
        let blocked = self.send(id, network);
        if leaves && (self.sent == self.plan || blocked) {
            self.end(Outcome::Left, network);
            return;
        }
        if matches!(self.kind, Kind::Sleeps | Kind::Stuck) {
            if self.sleeps_until.is_none() && self.sent < self.plan && !blocked {
                return;
            }
            let lasting = if self.kind == Kind::Stuck { STUCK } else { 2_000 * MILLISECOND };
            let wakes = *self.sleeps_until.get_or_insert(network.now + lasting);
            if network.now < wakes {
                self.was_stuck |= self.kind == Kind::Stuck;
                self.last_moved = wakes;
                return;
            }
            assert!(!self.was_stuck || !network.loop_is_blocked(id), "{self:?} was kept although it read nothing");
            self.kind = Kind::Talks;
        }
        let done = self.sent == self.plan && (self.kind != Kind::WaitsForTheRest || self.got == self.sent);
        if done && !self.finished && network.dice.chance(700) {
            self.finished = true;
            network.shut_down(id);
            if self.heard_end {
                return self.end(Outcome::Finished, network);
            }
        }
        if !leaves {
            self.read(id, network);
        }
    }

    /// Sends some bytes. Returns whether there is no room for more.
    fn send(&mut self, id: Id, network: &mut Network) -> bool {
        if self.sent == self.plan {
            return false;
        }
        let most = usize::try_from(self.plan - self.sent).unwrap();
        let count = network.dice.count(1, most);
        let bytes: Vec<u8> = (self.sent..self.sent + count as u64).map(|position| byte(id, position)).collect();
        if network.dice.chance(self.urgent) {
            network.mark(id);
        }
        match network.write(id, &bytes) {
            Ok(count) => {
                self.sent += count as u64;
                self.last_moved = network.now;
                self.lived_on |= self.heard_end;
                false
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    fn read(&mut self, id: Id, network: &mut Network) {
        let mut space = [0; 4096];
        let wanted = match self.kind {
            Kind::Trickles => network.receive_room(id).div_ceil(2 * READS_A_HALF),
            _ => network.dice.count(1, space.len()),
        };
        match network.read(id, &mut space[..wanted]) {
            Ok(0) if matches!(self.hears, Hears::Another(_)) => self.hear_the_end(id, network),
            Ok(0) if self.finished => self.end(Outcome::Finished, network),
            Ok(0) => self.end(Outcome::Dismissed, network),
            Ok(count) => {
                self.last_moved = network.now;
                let (speaker, sent) = match self.hears {
                    Hears::Itself => (id, self.sent),
                    Hears::Another(Some(other)) => (other, network.has_sent(other).1),
                    Hears::Another(None) => panic!("{self:?} got bytes that nobody sent"),
                };
                for &got in &space[..count] {
                    assert!(self.got < sent, "{self:?} got more than was sent");
                    assert_eq!(got, byte(speaker, self.got), "{self:?} got a wrong byte");
                    self.got += 1;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.end(Outcome::Broken, network),
        }
    }

    /// The end of input comes only behind all that the other peer sent, and only if that peer has shut down. Otherwise a
    /// transfer that broke off would look whole. The direction of its own lives on.
    fn hear_the_end(&mut self, id: Id, network: &mut Network) {
        let (is_finished, sent) = match self.hears {
            Hears::Another(Some(other)) => network.has_sent(other),
            _ => (false, 0),
        };
        if is_finished && self.got == sent {
            self.heard_end = true;
            if self.finished {
                self.end(Outcome::Finished, network);
            }
            return;
        }
        // One that could not be registered never began, and a drain ends those that still wait to be joined.
        let was_not_joined = network.drains() && self.other(network).is_none_or(|other| other.got == 0);
        let never_began = self.got == 0 && (was_not_joined || network.harm_to(id) == Harm::NotRegistered);
        assert!(
            never_began,
            "a transfer that broke off looks whole: {self:?} of {sent}, from {:?}",
            self.other(network)
        );
        self.end(Outcome::Dismissed, network);
    }

    fn end(&mut self, outcome: Outcome, network: &mut Network) {
        self.outcome = Some(outcome);
        self.ended_at = network.now;
        network.nudge();
        let id = self.socket.unwrap();
        if self.kind == Kind::Resets {
            network.abort(id);
        } else {
            network.close(id);
        }
    }
}
