//! One world: what its seed puts into it, and what must be true at its end.
//!
//! Owns the role of the loop and the promises that are checked. Touches no byte: the network and its peers do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use multiconn::client::exchange::Exchange;
use multiconn::client::fault::FaultKind;
use multiconn::client::load::{Content, Load, Pacing};
use multiconn::client::measure::NoMeter;
use multiconn::client::rate::Rate;
use multiconn::client::schedule::Run;
use multiconn::internals::connection::{End, Timeout, Timeouts};
use multiconn::internals::event_loop::{
    Event, EventLoop, Limits, ListenerConfig, ListenerId, MINIMUM_BUFFER, Role, Token,
};
use multiconn::internals::time::Moment;
use multiconn::server::echo::Echo;

use crate::dice::Dice;
use crate::network::{Harm, How, Id, MILLISECOND, Network, Simulated, Tampering, Weather};
use crate::peer::{Hears, Kind, Outcome, Peer};
use crate::speaker::{Forwarder, Speaker, Thinker};

pub const SERVER: ([u8; 4], u16) = ([192, 0, 2, 2], 7);
/// What lies behind the server, if the server is a proxy.
const BEHIND: ([u8; 4], u16) = ([192, 0, 2, 3], 7);

/// The timeouts of a world. They are far longer than anything in it takes, so only a peer that deserves it runs into
/// one.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Some(Duration::from_secs(20)),
    idle: Some(Duration::from_secs(40)),
    stall: Some(Duration::from_secs(30)),
    linger: Some(Duration::from_secs(5)),
};
/// The idle timeout of a hasty world. It is shorter than the shortest stop that the loop recognizes, and many times as
/// long as a peer that talks is ever silent.
const HASTY: Duration = Duration::from_millis(300);
/// How often the role wakes exchanges that have a schedule.
const TICK: Duration = Duration::from_millis(5);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// How an exchange ended.
struct Ended {
    id: Id,
    end: End,
    exchange: Exchange,
    /// Bytes that the socket took.
    sent: u64,
}

/// What the server does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// It answers.
    Answers,
    /// It forwards them to another listener of the same loop, which answers.
    ForwardsToItself,
    /// It forwards them to peers outside of the loop.
    ForwardsToPeers,
}

/// A connection of the server's, and the one that carries on what comes from it.
struct Carried {
    client: Token,
    carrier: Token,
    joined: bool,
    /// How each of the two ended, in the order of their ends.
    ends: Vec<(Token, Rc<End>)>,
}

impl Carried {
    /// Whether one of the two that have not ended has this token.
    fn has(&self, token: Token) -> bool {
        (self.client == token || self.carrier == token) && self.ends.iter().all(|&(ended, _)| ended != token)
    }

    fn ended(&mut self, token: Token, end: Rc<End>) {
        if let Some((_, first)) = self.ends.first() {
            let finished = |end: &End| matches!(end, End::Finished);
            assert!(finished(first) || !finished(&end), "a pair ended with {first}, and then {end}");
        }
        self.ends.push((token, end));
    }
}

/// The role: opens the exchanges and checks the loop.
struct Tester {
    network: Rc<RefCell<Network>>,
    run: Rc<Run>,
    limits: Limits,
    to_start: u32,
    /// When exchanges that have a schedule are woken next.
    next_tick: Moment,
    /// Thinkers that wait for the word, and when they get it.
    thinking: Vec<(Moment, Token)>,
    answered: u64,
    /// What goes wrong with exchanges, by their numbers.
    plans: Vec<(u32, Plan)>,
    ids: BTreeMap<u32, Id>,
    ended: Vec<Ended>,
    /// How each of the server's connections ended.
    served: BTreeMap<SocketAddr, Rc<End>>,
    /// When the loop began to drain, and how many bytes of each peer had arrived then.
    drained: Option<(Moment, BTreeMap<Id, u64>)>,
    /// Whether the drain was cut off.
    cut: bool,
    /// The sockets of the connections of which the role has heard, until it hears of their end.
    known: BTreeMap<Token, Id>,
    server: Server,
    /// The listener at which peers and exchanges arrive, and how many connections it takes.
    front: ListenerId,
    most_in_front: usize,
    carried: Vec<Carried>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Reset(u64),
    Tamper(Tampering),
}

impl Role<Speaker, Simulated> for Tester {
    fn advance(&mut self, event_loop: &mut EventLoop<Speaker, Simulated>) -> bool {
        self.check(event_loop);
        if self.to_start > 0 && self.drained.is_none() {
            self.to_start -= 1;
            let number = self.run.connections - self.to_start;
            let exchange = Speaker::Exchange(Exchange::new(number, Rc::clone(&self.run)));
            let token = event_loop.connect(SERVER.into(), exchange);
            self.learn(token, event_loop);
            self.plan(number);
            if self.to_start == 0 {
                self.run.begin(event_loop.now(), self.run.connections);
                wake_all(event_loop);
            }
        }
        let (due, later) = self.thinking.iter().partition(|&&(when, _)| when <= event_loop.now());
        self.thinking = later;
        for (_, token) in due {
            if let Some(Speaker::Thinker(thinker)) = event_loop.protocol_mut(token) {
                thinker.answer();
                event_loop.wake(token);
                self.answered += 1;
            }
        }
        if matches!(self.run.load.pacing, Pacing::Rate(_)) && self.ended.len() < self.ids.len() {
            if event_loop.now() >= self.next_tick {
                self.next_tick = event_loop.now().plus(TICK);
                wake_all(event_loop);
            }
            event_loop.set_timer(Some(self.next_tick)).unwrap();
        } else if !self.thinking.is_empty() {
            event_loop.set_timer(self.thinking.iter().map(|&(when, _)| when).min()).unwrap();
        }
        let peers_are_done = self.network.borrow().peers.iter().flatten().all(|peer| peer.outcome.is_some());
        let exchanges_are_done = self.ended.len() == self.run.connections as usize;
        if peers_are_done && exchanges_are_done {
            event_loop.stop_listening();
        }
        self.to_start > 0 && self.drained.is_none()
    }

    fn handle(&mut self, event: Event<Speaker>, event_loop: &mut EventLoop<Speaker, Simulated>) {
        self.check_tokens(event_loop);
        match event {
            Event::Closed { token, .. } => {
                self.known.remove(&token);
            }
            Event::Accepted { token, .. } => self.learn(token, event_loop),
            _ => {}
        }
        match event {
            Event::Accepted { token, addr, listener } if self.server != Server::Answers && listener == self.front => {
                self.carry_on(token, addr, event_loop);
            }
            Event::Connected { token, .. } => self.join_late(token, event_loop),
            Event::Closed { token, addr, protocol: Speaker::Forwarder(_), end, .. } => {
                self.carried_no_more(token, addr, end, event_loop);
            }
            Event::Closed { protocol: Speaker::Exchange(exchange), end, sent, .. } => {
                let id = self.ids[&exchange.number()];
                self.ended.push(Ended { id, end, exchange, sent });
            }
            Event::Closed { addr, end, .. } => {
                self.served.insert(addr, Rc::new(end));
            }
            Event::Notified { token } => {
                let after = self.network.borrow_mut().dice.scaled(1_000, 200 * MILLISECOND);
                self.thinking.push((event_loop.now().plus(Duration::from_nanos(after)), token));
            }
            Event::Signal(_) => {
                let mut network = self.network.borrow_mut();
                network.cut_off = nanoseconds(event_loop.now().plus(DRAIN_TIMEOUT));
                let carried = |peer: &Peer| peer.socket.map(|id| (id, network.carried(id)));
                let carried = network.peers.iter().flatten().filter_map(carried).collect();
                drop(network);
                self.drained = Some((event_loop.now(), carried));
                event_loop.drain(DRAIN_TIMEOUT);
            }
            _ => {}
        }
    }
}

impl Tester {
    /// Connects to what lies behind the server, and joins the two: at once, or when the connect has succeeded.
    fn carry_on(&mut self, client: Token, addr: SocketAddr, event_loop: &mut EventLoop<Speaker, Simulated>) {
        let mut network = self.network.borrow_mut();
        network.forwards = Some(Network::id_at(addr));
        let joins_at_once = network.dice.chance(700);
        let forwarder = forwarder(&mut network.dice);
        drop(network);
        let carrier = event_loop.connect(BEHIND.into(), forwarder);
        self.learn(carrier, event_loop);
        let joined = joins_at_once && event_loop.join(client, carrier);
        if !joined {
            event_loop.pause(client);
            event_loop.pause(carrier);
        }
        self.carried.push(Carried { client, carrier, joined, ends: Vec::new() });
    }

    /// Joins two connections that wait for it, now that the second is open.
    fn join_late(&mut self, carrier: Token, event_loop: &mut EventLoop<Speaker, Simulated>) {
        let waits = |carried: &&mut Carried| carried.carrier == carrier && carried.has(carrier) && !carried.joined;
        let Some(pair) = self.carried.iter_mut().find(waits) else { return };
        pair.joined = event_loop.join(pair.client, carrier);
        if pair.joined {
            assert!(!event_loop.join(carrier, pair.client), "they are joined already");
            event_loop.resume(pair.client);
            event_loop.resume(carrier);
        } else {
            // The other one is gone, and the role may not have heard of that yet.
            event_loop.reset(carrier);
        }
    }

    /// Notes that a connection ended which is to be joined to another, or was. Until they are joined, the role sees to
    /// the other one.
    fn carried_no_more(
        &mut self,
        token: Token,
        addr: SocketAddr,
        end: End,
        event_loop: &mut EventLoop<Speaker, Simulated>,
    ) {
        // One that could not be registered was never accepted.
        let Some(carried) = self.carried.iter_mut().find(|carried| carried.has(token)) else { return };
        if !carried.joined {
            let other = if carried.client == token { carried.carrier } else { carried.client };
            if carried.has(other) {
                event_loop.reset(other);
            }
        }
        let end = Rc::new(end);
        if carried.client == token {
            self.served.insert(addr, Rc::clone(&end));
        }
        carried.ended(token, end);
    }

    /// What was done to a connection of a peer's or an exchange's, or to the one that carries on what comes from it.
    fn harm_to(&self, id: Id) -> Harm {
        let network = self.network.borrow();
        let behind = || network.carrier(id).map_or(Harm::None, |carrier| network.harm_to(carrier));
        match network.harm_to(id) {
            Harm::None => match behind() {
                Harm::Refused | Harm::SynLost | Harm::Unaccepted => Harm::Reset, // That is what arrives in front.
                harm => harm,
            },
            harm => harm,
        }
    }

    /// Remembers which socket a token names.
    fn learn(&mut self, token: Token, event_loop: &EventLoop<Speaker, Simulated>) {
        if let Some(connection) = event_loop.connection(token) {
            let before = self.known.insert(token, connection.transport().id);
            assert_eq!(before, None, "{token:?} was given away before the role heard that it was free");
        }
    }

    /// While the role has not heard that a connection ended, its token names no other connection: what the role sends
    /// to it would go to a stranger.
    fn check_tokens(&self, event_loop: &EventLoop<Speaker, Simulated>) {
        for (&token, &id) in &self.known {
            if let Some(connection) = event_loop.connection(token) {
                assert_eq!(
                    connection.transport().id,
                    id,
                    "{token:?} was given away before the role heard that it was free"
                );
            }
        }
    }

    /// Checks what must hold at any time.
    fn check(&self, event_loop: &EventLoop<Speaker, Simulated>) {
        let mut memory = 0;
        for (_, connection) in event_loop.connections() {
            let (inbound, outbound) = (connection.inbound_len(), connection.outbound_len());
            // Input that is held leaves the other direction its room.
            // So does input that waits for the other connection of a pair.
            let holds = matches!(connection.protocol(), Speaker::Thinker(_) | Speaker::Forwarder(_));
            let held = if holds { inbound.max(outbound) } else { inbound + outbound };
            assert!(
                held <= self.limits.connection_buffer,
                "{held} bytes waiting in {connection:?}",
                connection = connection.addr()
            );
            memory += connection.memory();
        }
        assert_eq!(event_loop.memory(), memory, "the account of memory is wrong");
        let most = self.limits.total_buffer
            + event_loop
                .connections()
                .map(|(_, connection)| match connection.protocol() {
                    // They keep input and answers all the same: a buffer for each direction.
                    Speaker::Thinker(_) | Speaker::Forwarder(_) => 2 * MINIMUM_BUFFER,
                    _ => MINIMUM_BUFFER,
                })
                .sum::<usize>();
        assert!(memory <= most, "{memory} bytes held, {most} allowed");
        let through_front = |&(token, _): &(Token, _)| event_loop.listener_of(token) == Some(self.front);
        let accepted = event_loop.connections().filter(through_front).count();
        assert!(accepted <= self.most_in_front, "more connections accepted than allowed");
        for pair in self.carried.iter().filter(|pair| pair.joined && pair.ends.is_empty()) {
            let [client, carrier] = [pair.client, pair.carrier].map(|token| event_loop.connection(token));
            let (Some(client), Some(carrier)) = (client, carrier) else { continue };
            for (from, to) in [(client, carrier), (carrier, client)] {
                let inside = from.inbound_len() + to.outbound_len();
                assert!(inside <= self.limits.connection_buffer, "{inside} bytes waiting on the way through a pair");
            }
        }
    }

    fn plan(&mut self, number: u32) {
        let id = self.network.borrow().last_connect;
        self.ids.insert(number, id);
        for &(_, plan) in self.plans.iter().filter(|&&(of, _)| of == number) {
            match plan {
                Plan::Reset(after) => self.network.borrow_mut().reset_after(id, after),
                Plan::Tamper(tampering) => self.network.borrow_mut().tamper_with(id, tampering),
            }
        }
    }
}

fn nanoseconds(moment: Moment) -> u64 {
    u64::try_from(moment.since(Moment::START).as_nanos()).unwrap()
}

/// One that takes everything at once, most often, or pieces.
fn forwarder(dice: &mut Dice) -> Speaker {
    let piece = if dice.chance(700) { usize::MAX } else { dice.count(512, 16 * 1024) };
    Speaker::Forwarder(Forwarder { piece })
}

fn wake_all(event_loop: &mut EventLoop<Speaker, Simulated>) {
    for token in event_loop.connections().map(|(token, _)| token).collect::<Vec<_>>() {
        event_loop.wake(token);
    }
}

/// What happened in a world, for the tally.
#[derive(Debug, Default)]
pub struct World {
    pub whole_exchanges: u64,
    pub broken_exchanges: u64,
    pub refused_exchanges: u64,
    pub faults_found: u64,
    pub bytes_echoed: u64,
    pub finished_peers: u64,
    pub dismissed_peers: u64,
    pub broken_peers: u64,
    pub peers_that_left: u64,
    pub stuck_peers: u64,
    pub drained: u64,
    pub stopped: u64,
    /// Answers of thinkers, each when the role said so.
    pub thoughts_answered: u64,
    /// Pairs of joined connections of which both finished.
    pub whole_pairs: u64,
    /// Pairs of which one failed, and the other was reset.
    pub broken_pairs: u64,
    /// Peers that had read the end of input and sent more.
    pub lived_on: u64,
    pub turns: u64,
    pub virtual_seconds: u64,
}

/// What happened in all worlds together.
#[derive(Debug, Default)]
pub struct Tally {
    worlds: u64,
    all: World,
}

impl Tally {
    pub fn add(&mut self, world: &World) {
        self.worlds += 1;
        let all = &mut self.all;
        for (sum, more) in [
            (&mut all.whole_exchanges, world.whole_exchanges),
            (&mut all.broken_exchanges, world.broken_exchanges),
            (&mut all.refused_exchanges, world.refused_exchanges),
            (&mut all.faults_found, world.faults_found),
            (&mut all.bytes_echoed, world.bytes_echoed),
            (&mut all.finished_peers, world.finished_peers),
            (&mut all.dismissed_peers, world.dismissed_peers),
            (&mut all.broken_peers, world.broken_peers),
            (&mut all.peers_that_left, world.peers_that_left),
            (&mut all.stuck_peers, world.stuck_peers),
            (&mut all.drained, world.drained),
            (&mut all.stopped, world.stopped),
            (&mut all.thoughts_answered, world.thoughts_answered),
            (&mut all.whole_pairs, world.whole_pairs),
            (&mut all.broken_pairs, world.broken_pairs),
            (&mut all.lived_on, world.lived_on),
            (&mut all.turns, world.turns),
            (&mut all.virtual_seconds, world.virtual_seconds),
        ] {
            *sum += more;
        }
    }

    /// Checks that everything that can happen did happen: worlds in which nothing goes wrong prove nothing.
    pub fn assert_everything_happened(&self) {
        let World { whole_exchanges, broken_exchanges, refused_exchanges, faults_found, .. } = self.all;
        let World { finished_peers, dismissed_peers, broken_peers, peers_that_left, .. } = self.all;
        let World { stuck_peers, drained, stopped, thoughts_answered, whole_pairs, broken_pairs, lived_on, .. } =
            self.all;
        let exchanges = [whole_exchanges, broken_exchanges, refused_exchanges, faults_found];
        let peers = [finished_peers, dismissed_peers, broken_peers, peers_that_left, stuck_peers];
        let rare = self.worlds / 200;
        assert!(
            exchanges
                .into_iter()
                .chain(peers)
                .chain([drained, stopped, thoughts_answered])
                .chain([whole_pairs, broken_pairs, lived_on])
                .all(|count| count >= rare),
            "too tame: {self:#?}"
        );
    }
}

/// Runs the world with this seed. A talkative world prints every call of the loop's.
///
/// # Panics
/// If a promise was not kept.
pub fn run(seed: u64, talkative: bool) -> World {
    let mut dice = Dice::new(seed);
    let weather = weather(&mut dice);
    let server = match dice.between(0, 3) {
        0 => Server::ForwardsToItself,
        1 => Server::ForwardsToPeers,
        _ => Server::Answers,
    };
    let of_two = server == Server::ForwardsToPeers;
    // An exchange needs a server that answers.
    let exchanges = if of_two { 0 } else { u32::try_from(dice.between(0, 5)).unwrap() };
    // In a hasty world, peers talk all the time, the idle timeout is short, and the loop is stopped again and again.
    let hasty = match server {
        Server::Answers => exchanges == 0 && dice.chance(800),
        // What lies behind is silent while the loop is stopped, and no peer but the loop makes it so.
        Server::ForwardsToItself => false,
        Server::ForwardsToPeers => dice.chance(200),
    };
    let (kinds, most): (&'static [Kind], u64) = match server {
        _ if hasty => (&[Kind::Talks], 12),
        Server::ForwardsToPeers => (&Kind::OF_TWO, 5),
        Server::ForwardsToItself => (&Kind::THROUGH, 5),
        Server::Answers => (&Kind::ALL, 5),
    };
    let peers: Vec<Kind> = (0..dice.between(u64::from(exchanges == 0), most)).map(|_| dice.pick(kinds)).collect();
    // Slow peers need room of their own: other peers would wait behind them for longer than their patience.
    let slow = peers.iter().filter(|kind| matches!(kind, Kind::Trickles | Kind::Stuck)).count();
    let timeouts = if hasty { Timeouts { idle: Some(HASTY), ..TIMEOUTS } } else { TIMEOUTS };
    // A server that forwards to itself drains what lies behind it as well: then pairs end early, as they should.
    let drains = exchanges == 0 && !hasty && server != Server::ForwardsToItself && dice.chance(700);
    // Thinkers need the role to answer, which a drain does not wait for, and the time that it takes.
    let thinks = !hasty && !drains && dice.chance(300);
    // What a peer gushes is remembered in a bounded number of steps.
    let memory = (usize::try_from(weather.room).unwrap() * 4).max(16 * 1024);
    let (load, total) = load(&mut dice, weather.room);
    let connections = 2 * exchanges as usize + slow + if hasty || of_two { peers.len() } else { dice.count(1, 4) };
    // For each connection of a proxy there are two more, and while these end, there may be new ones.
    let (most_in_front, connections) = match server {
        Server::Answers => (connections, connections),
        _ => (connections - exchanges as usize, 10 * connections),
    };
    let limits = Limits {
        connections,
        connection_buffer: dice.count(MINIMUM_BUFFER, 256 * 1024),
        total_buffer: dice.count(1, 512 * 1024),
    };
    let plans = (1..=exchanges).filter_map(|number| Some((number, plan(&mut dice, total)?))).collect();

    let network = Rc::new(RefCell::new(Network::new(dice, weather, talkative)));
    populate(&mut network.borrow_mut(), &peers, of_two, drains);
    if hasty {
        stop_again_and_again(&mut network.borrow_mut());
    }
    let system = Simulated::new(&network);
    let hosts = if hasty { kinds } else { &Kind::OF_TWO };
    network.borrow_mut().hosts = of_two.then_some((BEHIND.into(), hosts));
    let mut event_loop = EventLoop::on(system, limits, timeouts);
    let answers = move |_| if thinks { Speaker::Thinker(Thinker::new(memory)) } else { Speaker::Echo(Echo) };
    let front = listen(&mut event_loop, server, most_in_front, answers);
    let mut tester = Tester {
        network: Rc::clone(&network),
        run: Rc::new(Run::new(load, exchanges, Box::new(NoMeter))),
        limits,
        to_start: exchanges,
        next_tick: Moment::START,
        thinking: Vec::new(),
        answered: 0,
        plans,
        ids: BTreeMap::new(),
        ended: Vec::new(),
        served: BTreeMap::new(),
        drained: None,
        cut: false,
        known: BTreeMap::new(),
        server,
        front,
        most_in_front,
        carried: Vec::new(),
    };
    event_loop.run(&mut tester).unwrap();

    judge(tester, &event_loop, total)
}

fn weather(dice: &mut Dice) -> Weather {
    // In many worlds only one thing goes wrong: where everything does, one fault hides another.
    let mut now_and_then = |most: u64| if dice.chance(500) { 0 } else { dice.scaled(1, most) };
    let weather = Weather {
        interrupted: now_and_then(200),
        short_write: now_and_then(500),
        spurious: now_and_then(500),
        accept_fails: now_and_then(300),
        register_fails: now_and_then(30),
        refused: now_and_then(50),
        syn_lost: now_and_then(50),
        delay: 0,
        room: 0,
        events: 1024,
    };
    Weather {
        delay: dice.scaled(2_000, 5 * MILLISECOND),
        room: dice.scaled(1, 64 * 1024),
        events: if dice.chance(500) { 1024 } else { dice.count(1, 8) },
        ..weather
    }
}

/// Lets the loop listen as its server does. Returns the listener at which peers and exchanges arrive.
fn listen(
    event_loop: &mut EventLoop<Speaker, Simulated>,
    server: Server,
    most_in_front: usize,
    answers: impl Fn(SocketAddr) -> Speaker + Copy + 'static,
) -> ListenerId {
    let listener = event_loop.system().listener(SERVER.into());
    if server == Server::Answers {
        return event_loop.listen(listener, answers).unwrap();
    }
    let network = Rc::clone(&event_loop.system().network);
    let config = ListenerConfig { name: "front", connections: most_in_front };
    let front = event_loop.listen_with(config, listener, move |_| forwarder(&mut network.borrow_mut().dice)).unwrap();
    if server == Server::ForwardsToItself {
        let listener = event_loop.system().listener(BEHIND.into());
        event_loop.listen(listener, answers).unwrap();
    }
    front
}

/// Checks what must be true at the end of a world. Each exchange should have got back `total` bytes.
fn judge(mut tester: Tester, event_loop: &EventLoop<Speaker, Simulated>, total: u64) -> World {
    let network = Rc::clone(&tester.network);
    assert_eq!(event_loop.memory(), 0, "memory leaked");
    assert_eq!(network.borrow().open(), 0, "a socket leaked");
    let mut world = World::default();
    if let Some((began, _)) = tester.drained {
        world.drained = 1;
        let took = event_loop.now().since(began);
        tester.cut = took >= DRAIN_TIMEOUT;
        // A loop that was stopped gives its peers one more second.
        let stopped = match network.borrow().stopped {
            0 => Duration::ZERO,
            stopped => Duration::from_nanos(stopped) + Duration::from_secs(1),
        };
        assert!(took <= DRAIN_TIMEOUT + stopped + Duration::from_millis(100), "draining took {took:?}");
    }
    for ended in &tester.ended {
        judge_exchange(ended, total, &tester, &mut world);
    }
    assert_eq!(tester.ended.len(), tester.run.connections as usize, "the end of an exchange was never reported");
    for peer in network.borrow().peers.iter().flatten() {
        match peer.hears {
            Hears::Itself => judge_peer(peer, &tester, &mut world),
            Hears::Another(other) => judge_peer_of_two(peer, other, &tester, &mut world),
        }
    }
    for pair in &tester.carried {
        let [(_, first), (_, second)] = &pair.ends[..] else { panic!("half a pair is left") };
        let both_finished = [first, second].into_iter().all(|end| matches!(**end, End::Finished));
        world.whole_pairs += u64::from(both_finished);
        world.broken_pairs += u64::from(pair.joined && matches!(**second, End::PartnerFailed));
    }
    world.thoughts_answered = tester.answered;
    world.stopped = u64::from(network.borrow().stopped > 0);
    world.turns = u64::from(network.borrow().turns());
    world.virtual_seconds = event_loop.now().since(Moment::START).as_secs();
    world
}

/// What the exchanges send, and how many bytes each of them sends.
fn load(dice: &mut Dice, room: u64) -> (Load, u64) {
    let messages = dice.scaled(1, 40);
    // The number of steps is bounded even if a buffer holds a single byte.
    let size = dice.scaled(1, (room * 30 / messages).clamp(1, 16 * 1024));
    let pacing = match dice.between(0, 3) {
        0 => Pacing::Streamed,
        1 => Pacing::Rate(Rate::per_second(dice.scaled(1_000, 100_000)).unwrap()),
        _ => Pacing::InFlight(u32::try_from(dice.scaled(1, 32)).unwrap()),
    };
    let content = if dice.chance(300) {
        Content::Texts(
            (0..messages).map(|index| vec![b'a' + (index % 26) as u8; usize::try_from(size).unwrap()]).collect(),
        )
    } else {
        Content::Generated { run: dice.between(0, u64::MAX - 1), size }
    };
    (Load { messages: Some(messages), ..Load::new(content, pacing) }, messages * size)
}

/// What goes wrong with one exchange, of which `total` bytes should come back.
fn plan(dice: &mut Dice, total: u64) -> Option<Plan> {
    match dice.between(0, 9) {
        0 => Some(Plan::Reset(dice.scaled(1_000, 2_000 * MILLISECOND))),
        1 => {
            let at = dice.between(0, total - 1);
            let how = match dice.between(0, 2) {
                0 => How::Flip,
                1 => How::Drop(dice.scaled(1, total - at)),
                _ => How::Repeat(dice.scaled(1, 100)),
            };
            Some(Plan::Tamper(Tampering { at, how }))
        }
        _ => None,
    }
}

fn populate(network: &mut Network, peers: &[Kind], of_two: bool, drains: bool) {
    for &kind in peers {
        // A peer that trickles takes long for each byte.
        let rooms = if kind == Kind::Trickles { 2 } else { 30 };
        let plan = network.dice.scaled(1, (network.weather.room * rooms).min(256 * 1024));
        let urgent = if network.dice.chance(300) { network.dice.scaled(1, 500) } else { 0 };
        let after = network.dice.scaled(1_000, 500 * MILLISECOND);
        let new = if of_two { Peer::of_two } else { Peer::new };
        network.add_peer(after, new(kind, SERVER.into(), plan, urgent));
    }
    if drains {
        let after = network.dice.scaled(1_000, 3_000 * MILLISECOND);
        network.signal_after(after);
    }
    if network.dice.chance(300) {
        let (after, lasting) =
            (network.dice.scaled(1_000, 300 * MILLISECOND), network.dice.scaled(1_000, 1_000 * MILLISECOND));
        network.exhaust(after, lasting);
    }
    for _ in 0..2 {
        if network.dice.chance(200) {
            let after = network.dice.scaled(1_000, 60_000 * MILLISECOND);
            let lasting = network.dice.scaled(MILLISECOND, 60_000 * MILLISECOND);
            network.stop_after(after, lasting);
        }
    }
}

fn stop_again_and_again(network: &mut Network) {
    let mut after = 0;
    for _ in 0..20 {
        after += network.dice.scaled(1_000, 100 * MILLISECOND);
        let lasting = network.dice.between(10, 450) * MILLISECOND;
        network.stop_after(after, lasting);
        after += lasting;
    }
}

/// Checks an exchange: without harm it is whole, and with harm its end names the harm.
fn judge_exchange(Ended { id, end, exchange, sent }: &Ended, total: u64, tester: &Tester, world: &mut World) {
    let network = tester.network.borrow();
    let served = tester.served.get(&network.addr(*id)).map(Rc::as_ref);
    let harm = tester.harm_to(*id);
    let details = || {
        let (back, fault) = (exchange.bytes_echoed(), exchange.fault());
        format!("{harm:?}: exchange {id}: {back} of {sent} of {total} bytes, {end:?}, {fault:?}, server: {served:?}")
    };
    let whole = matches!(end, End::Finished) && exchange.is_finished() && exchange.fault().is_none();
    let whole = whole && exchange.bytes_echoed() == total;
    world.bytes_echoed += exchange.bytes_echoed();
    world.whole_exchanges += u64::from(whole);
    match harm {
        Harm::None => assert!(whole, "{}", details()),
        Harm::Refused => {
            world.refused_exchanges += 1;
            assert!(matches!(end, End::ConnectFailed(_)), "{}", details());
        }
        Harm::Unaccepted => panic!("the listener is closed only when exchanges are over: {}", details()),
        Harm::SynLost => assert!(matches!(end, End::TimedOut(Timeout::Connect)), "{}", details()),
        Harm::NotRegistered | Harm::Reset => {
            world.broken_exchanges += u64::from(!whole);
            // A server's end that could not be registered is closed, with a FIN if nothing was sent to it. The fault's
            // name depends on whether bytes are missing.
            let missing = *sent > exchange.bytes_echoed();
            let early = if missing { FaultKind::Truncated } else { FaultKind::ClosedEarly };
            let ended_early = exchange.fault().is_some_and(|fault| fault.kind == early);
            let failed = matches!(end, End::Failed(_) | End::ConnectFailed(_));
            // A proxy's connect to what lies behind may begin late, after a stop of the process, and be unanswered for
            // longer than the exchange has patience.
            let behind = network.carrier(*id).map(|carrier| network.harm_to(carrier));
            let waited = behind == Some(Harm::SynLost) && matches!(end, End::TimedOut(Timeout::Idle | Timeout::Stall));
            assert!(whole || ended_early || waited || failed && exchange.fault().is_none(), "{}", details());
        }
        Harm::Tampered(Tampering { at, how }) => {
            let Some(fault) = exchange.fault() else {
                // Bytes that are missing at the very end leave nothing wrong behind, and the client waits for them.
                // So does a pair, which is reset when it is idle.
                let waited = match end {
                    End::TimedOut(timeout) => *timeout == Timeout::Idle,
                    End::Failed(_) => matches!(served, Some(End::TimedOut(Timeout::Idle) | End::PartnerFailed)),
                    _ => false,
                };
                assert!(waited && matches!(how, How::Drop(_)), "{}", details());
                return;
            };
            world.faults_found += 1;
            assert!(fault.offset >= Some(at), "{}", details());
            if how == How::Flip {
                assert_eq!((fault.kind, fault.offset), (FaultKind::Corrupted, Some(at)), "{}", details());
            }
        }
    }
}

/// Checks a peer: without a drain it got everything back, and with a drain at least what had arrived when that began.
fn judge_peer(peer: &Peer, tester: &Tester, world: &mut World) {
    let network = tester.network.borrow();
    let Some(id) = peer.socket else { return };
    let end = tester.served.get(&network.addr(id)).map(Rc::as_ref);
    let harm = tester.harm_to(id);
    let details = || format!("{peer:?}, {harm:?}, server: {end:?}");
    count_outcome(peer, world);
    if harm == Harm::Unaccepted {
        assert!(tester.cut, "never accepted, in spite of the time that there was: {}", details());
    }
    if harm == Harm::Reset && peer.outcome == Some(Outcome::Finished) {
        assert_eq!(peer.got, peer.sent, "a transfer that broke off looks whole: {}", details());
    }
    if matches!(peer.outcome, Some(Outcome::Left)) || harm != Harm::None {
        return;
    }
    match end {
        Some(End::TimedOut(Timeout::Stall)) if peer.was_stuck => {
            world.stuck_peers += 1;
            return;
        }
        // The peer was silent, and its own buffers took everything that came back. Or what lay behind the server was found
        // out first, because it was not read from.
        Some(End::TimedOut(Timeout::Idle | Timeout::Linger) | End::PartnerFailed) if peer.was_stuck => return,
        _ => {}
    }
    match &tester.drained {
        None => {
            assert_eq!(peer.outcome, Some(Outcome::Finished), "{}", details());
            assert!(matches!(end, Some(End::Finished)), "the server has not heard that it finished: {}", details());
            assert_eq!(peer.got, peer.sent, "{}", details());
        }
        Some((_, carried)) => {
            let had_come = carried.get(&id).copied().unwrap_or(0);
            let served = matches!(end, Some(End::Finished)) && peer.outcome.is_some();
            assert!(!served || peer.got >= had_come, "{had_come} bytes had come: {}", details());
        }
    }
}

/// Checks a peer that talks to `other` through the server. What it got, it has compared itself: the end of input came
/// only behind all that the other one sent.
fn judge_peer_of_two(peer: &Peer, other: Option<Id>, tester: &Tester, world: &mut World) {
    let network = tester.network.borrow();
    let Some(id) = peer.socket else { return };
    count_outcome(peer, world);
    world.lived_on += u64::from(peer.lived_on);
    let harm = tester.harm_to(id);
    let other_harm = other.map_or(Harm::None, |other| tester.harm_to(other));
    let other = network.peers.iter().flatten().find(|peer| peer.socket.is_some() && peer.socket == other);
    let end = tester.served.get(&network.addr(id)).map(Rc::as_ref);
    let details = || format!("{peer:?}, {harm:?}, {other_harm:?}, server: {end:?}, other: {other:?}");
    if harm == Harm::Unaccepted {
        assert!(tester.cut, "never accepted, in spite of the time that there was: {}", details());
    }
    // It left, or the server did: by then, a pair has had its time to finish.
    let is_gone = |peer: &Peer| match peer.outcome {
        Some(Outcome::Left) => true,
        // One that waits to be joined when half of the time to drain is over is dismissed.
        None | Some(Outcome::Dismissed) => tester.drained.is_some(),
        _ => peer.ended_at >= network.cut_off,
    };
    if is_gone(peer) || other.is_some_and(is_gone) || harm != Harm::None || other_harm != Harm::None {
        return;
    }
    let other = other.unwrap_or_else(|| panic!("the loop has not connected to anybody for it: {}", details()));
    if peer.was_stuck || other.was_stuck {
        world.stuck_peers += u64::from(matches!(end, Some(End::TimedOut(Timeout::Stall))));
    } else {
        assert_eq!(peer.outcome, Some(Outcome::Finished), "{}", details());
        assert!(end.is_none_or(|end| matches!(end, End::Finished)), "{}", details());
    }
}

fn count_outcome(peer: &Peer, world: &mut World) {
    match peer.outcome {
        Some(Outcome::Finished) => world.finished_peers += 1,
        Some(Outcome::Dismissed) => world.dismissed_peers += 1,
        Some(Outcome::Broken) => world.broken_peers += 1,
        Some(Outcome::Left) => world.peers_that_left += 1,
        None => {}
    }
}
