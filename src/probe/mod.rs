//! What a path does to TCP: conversations of many kinds, side by side on one loop, and what became of each.
//!
//! Owns the role: which conversations are held when, with which of a name's addresses, and the order of the behaviours.
//! What a behaviour asks for and how it judges is in a file of its own.

mod address;
mod backends;
mod backpressure;
pub mod behaviour;
mod connect;
pub mod conversation;
mod echo;
mod first_byte;
mod half_close;
mod half_close_server;
mod idle;
mod inquiry;
mod last_bytes;
mod long;
mod reset_client;
mod sizes;
mod slow_reader;
pub mod table;
mod together;
mod urgent;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::direction::Way;
use crate::client::pattern::Pattern;
use crate::engine::connection::{Connection, Timeouts, Transport};
use crate::engine::event_loop::{Event, EventLoop, Limits, Role, Token};
use crate::engine::signals::Signal;
use crate::engine::sockets;
use crate::engine::time::Moment;
use crate::partner::account;
use crate::partner::question::{Answer, Question};
use crate::probe::behaviour::{Behaviour, Expected, Row, Verdict};
use crate::probe::conversation::{Conversation, Plan, Seen, Wish};

/// How much is tried, and how long is waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The longest time for which a connection is left alone.
    pub idle_max: Duration,
    /// The largest single message.
    pub size_max: u64,
    /// How long nothing may move where something should.
    pub timeout: Duration,
    /// The behaviours that are wanted.
    pub chosen: Vec<&'static str>,
    /// Names the bytes of this run.
    pub run: u64,
}

/// A behaviour that the probe knows.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name in the table, and for `--only` and `--skip`.
    pub name: &'static str,
    /// What it finds out.
    pub what: &'static str,
    /// Whether it needs a partner at the other end: `multiconn-server --probes`.
    pub needs_partner: bool,
    stage: Stage,
    make: fn(&Settings) -> Box<dyn Behaviour>,
}

/// Behaviours of one stage are tried side by side, stage after stage. Those that take many connections come by
/// themselves: they could push the others over a limit of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Without an echo nothing else can be found out.
    Echo,
    Connect,
    SideBySide,
    Together,
}

impl Stage {
    fn next(self) -> Option<Stage> {
        match self {
            Stage::Echo => Some(Stage::Connect),
            Stage::Connect => Some(Stage::SideBySide),
            Stage::SideBySide => Some(Stage::Together),
            Stage::Together => None,
        }
    }
}

/// All behaviours, in the order of the table.
pub const BEHAVIOURS: [Known; 17] = [
    Known {
        stage: Stage::Echo,
        ..known("echo", "is there an echo server at the other end?", |_| Box::<echo::Echo>::default())
    },
    Known {
        stage: Stage::Connect,
        ..known("connect", "20 connects in a row and 50 at once", |_| Box::<connect::Connect>::default())
    },
    Known {
        // Side by side with the others, it would find one of theirs greeted whose bytes the path swallows.
        stage: Stage::Connect,
        ..with_partner("first-byte", "nothing is sent, and the server's greeting awaited", |_| {
            Box::<first_byte::FirstByte>::default()
        })
    },
    known("sizes", "single messages up to --size-max; a limit is narrowed", |settings| {
        Box::new(sizes::Sizes::new(settings.size_max))
    }),
    known("half-close", "our FIN behind 22 B to 4 MB, and 6 MB to a reader that pauses", |_| {
        Box::<half_close::HalfClose>::default()
    }),
    with_partner("half-close-server", "the server's FIN behind 100 kB, and 1000 B to it afterwards", |_| {
        Box::<half_close_server::HalfCloseServer>::default()
    }),
    with_partner("reset-client", "our reset: what does the server see?", |_| {
        Box::<reset_client::ResetClient>::default()
    }),
    with_partner("reset-server", "the server's reset behind 1000 B", |_| {
        Box::new(last_bytes::LastBytes::in_front_of_a_reset())
    }),
    with_partner("unread-close", "the server's close with bytes of ours unread, behind 1000 B", |_| {
        Box::new(last_bytes::LastBytes::in_front_of_a_close_with_unread_bytes())
    }),
    known("slow-reader", "nothing is read for 1.5 s behind 16 MB, then everything", |_| {
        Box::<slow_reader::SlowReader>::default()
    }),
    with_partner("backpressure", "32 MB to a server that reads nothing for 1.5 s", |_| {
        Box::<backpressure::Backpressure>::default()
    }),
    known("idle", "left alone for 1, 2, 4, ... s up to --idle-max", |settings| {
        Box::new(idle::Idle::new(settings.idle_max))
    }),
    known("long", "a byte every so often, for --idle-max", |settings| Box::new(long::Long::new(settings.idle_max))),
    with_partner("urgent", "an urgent byte in the stream", |_| Box::<urgent::Urgent>::default()),
    with_partner("address", "the address under which the server sees us", |_| Box::<address::Address>::default()),
    with_partner("backends", "how many servers answer 20 connections", |_| Box::<backends::Backends>::default()),
    Known {
        stage: Stage::Together,
        ..known("together", "200 connections at once, and 50 that come and go", |_| {
            Box::<together::Together>::default()
        })
    },
];

/// A behaviour that is tried beside others.
const fn known(name: &'static str, what: &'static str, make: fn(&Settings) -> Box<dyn Behaviour>) -> Known {
    Known { name, what, needs_partner: false, stage: Stage::SideBySide, make }
}

/// The same for one that needs a partner.
const fn with_partner(name: &'static str, what: &'static str, make: fn(&Settings) -> Box<dyn Behaviour>) -> Known {
    Known { needs_partner: true, ..known(name, what, make) }
}

/// How many connections are held at once, at the most.
pub const MOST_AT_ONCE: usize = together::MOST_AT_ONCE;

/// How the probe ended.
#[derive(Debug)]
pub struct Probed {
    /// The address that was tried: of several, the first to which a connection came about.
    pub addr: SocketAddr,
    /// A row for each behaviour that was tried, in the order of [`BEHAVIOURS`].
    pub rows: Vec<Row>,
    /// The signal that ended the probe early.
    pub interrupted: Option<Signal>,
}

impl Probed {
    /// Whether each row is as expected: carried, if nothing else was said of it.
    #[must_use]
    pub fn is_as_expected(&self, expected: &[Expected]) -> bool {
        self.rows.iter().all(|row| row.is_as_expected(expected))
    }
}

/// Tries the chosen behaviours of the path to the first of `addrs` that answers. Where not even an echo comes back, only
/// that is tried.
///
/// # Errors
/// The poller, the timer or the signal pipe failed.
///
/// # Panics
/// If `addrs` is empty.
pub fn probe(addrs: &[SocketAddr], settings: &Settings) -> io::Result<Probed> {
    let timeouts = Timeouts { connect: Some(settings.timeout), ..Timeouts::default() };
    let mut event_loop = EventLoop::new(Limits::default(), timeouts)?;
    event_loop.catch_signals()?;
    let mut holder = Holder::new(addrs, settings);
    event_loop.run(&mut holder)?;
    holder.failed.map_or(Ok(()), Err)?;
    let tried = holder.behaviours.iter().filter(|running| !holder.no_echo || running.known.stage == Stage::Echo);
    let rows = tried.map(|running| running.row(holder.partner)).collect();
    Ok(Probed { addr: holder.addrs[0], rows, interrupted: holder.interrupted })
}

/// A behaviour, and how far its round is.
struct Running {
    known: Known,
    behaviour: Box<dyn Behaviour>,
    /// Conversations of this round that are not over.
    open: usize,
    /// How many conversations a partner was asked about.
    accounts: usize,
    done: bool,
}

impl Running {
    fn new(known: Known, settings: &Settings) -> Running {
        Running { known, behaviour: (known.make)(settings), open: 0, accounts: 0, done: false }
    }

    fn hear(&mut self, place: Place, seen: Seen) {
        self.open -= 1;
        self.behaviour.hear(place.index, seen);
    }

    /// Its row. What was not tried to the end is not known, if nothing broke before.
    fn row(&self, partner: bool) -> Row {
        let row = self.behaviour.row(self.known.name);
        if self.known.needs_partner && !partner {
            let seen = "it needs multiconn-server --probes at the other end".to_owned();
            return Row { verdict: Verdict::NotTried, seen, ..row };
        }
        if self.done || row.verdict != Verdict::Carried {
            return row;
        }
        Row { verdict: Verdict::NotKnown, seen: "ended before it was known".to_owned(), ..row }
    }
}

/// Which conversation of which behaviour.
#[derive(Clone, Copy, Debug)]
struct Place {
    behaviour: usize,
    index: usize,
}

/// A conversation that is held, or will be.
#[derive(Debug)]
struct Held {
    place: Place,
    plan: Plan,
    /// What was seen in the one that this one asks about.
    about: Option<Box<Seen>>,
    /// How long its connect took, if the connection was over before that was told.
    over_at_once: Option<Duration>,
}

/// How many conversations of one behaviour are asked about, at the most: more than any has whose failures differ. Each takes
/// a connection, and those of a broken path all fail alike.
const MOST_ACCOUNTS: usize = 100;

/// The role: holds the conversations that the behaviours ask for.
struct Holder<'a> {
    settings: &'a Settings,
    /// The address that is tried, and those that are left if it does not answer.
    addrs: &'a [SocketAddr],
    behaviours: Vec<Running>,
    /// `None` when all are over.
    stage: Option<Stage>,
    /// No echo came back, so that nothing else can be found out.
    no_echo: bool,
    /// A partner answered.
    partner: bool,
    /// Conversations that begin later, by the time and a number that tells them apart.
    planned: BTreeMap<(Moment, u32), Held>,
    held: BTreeMap<Token, Held>,
    /// When those that read nothing begin to read.
    deaf: BTreeSet<(Moment, Token)>,
    /// How many conversations there were. Each has bytes of its own.
    begun: u32,
    interrupted: Option<Signal>,
    /// The timer failed.
    failed: Option<io::Error>,
}

impl<'a> Holder<'a> {
    fn new(addrs: &'a [SocketAddr], settings: &'a Settings) -> Holder<'a> {
        assert!(!addrs.is_empty(), "there has to be an address to connect to");
        let chosen = BEHAVIOURS.into_iter().filter(|known| settings.chosen.contains(&known.name));
        Holder {
            settings,
            addrs,
            behaviours: chosen.map(|known| Running::new(known, settings)).collect(),
            stage: Some(Stage::Echo),
            no_echo: false,
            partner: false,
            planned: BTreeMap::new(),
            held: BTreeMap::new(),
            deaf: BTreeSet::new(),
            begun: 0,
            interrupted: None,
            failed: None,
        }
    }

    /// Asks the behaviours of this stage whose round is over for the next one, and goes on to the next stage when all are
    /// done. Returns whether anything is left to do.
    fn plan(&mut self, now: Moment) -> bool {
        while let Some(stage) = self.stage.filter(|_| !self.no_echo) {
            self.plan_stage(stage, now);
            if self.behaviours.iter().any(|running| running.known.stage == stage && !running.done) {
                return true;
            }
            if stage == Stage::Echo {
                self.judge_echo();
            } else {
                self.stage = stage.next();
            }
        }
        false
    }

    /// Goes on after the echo: with everything else, with the next address, or not at all.
    fn judge_echo(&mut self) {
        let echo = self.behaviours.iter_mut().find(|running| running.known.stage == Stage::Echo);
        match echo.map(|echo| (echo.row(false).verdict, echo)) {
            None | Some((Verdict::Carried, _)) => self.stage = Stage::Echo.next(),
            Some((Verdict::Refused, echo)) if self.addrs.len() > 1 => {
                self.addrs = &self.addrs[1..];
                *echo = Running::new(echo.known, self.settings);
            }
            Some(_) => self.no_echo = true,
        }
    }

    fn plan_stage(&mut self, stage: Stage, now: Moment) {
        for (number, running) in self.behaviours.iter_mut().enumerate() {
            if running.open > 0 || running.done || running.known.stage != stage {
                continue;
            }
            if running.known.needs_partner && !self.partner {
                running.done = true;
                continue;
            }
            let plans = running.behaviour.next_round();
            running.open = plans.len();
            running.done = plans.is_empty();
            for (index, plan) in plans.into_iter().enumerate() {
                self.begun += 1;
                let place = Place { behaviour: number, index };
                self.planned
                    .insert((now.plus(plan.delay), self.begun), Held { place, plan, about: None, over_at_once: None });
            }
        }
    }

    /// Begins the conversations that are due.
    fn begin(&mut self, now: Moment, event_loop: &mut EventLoop<Conversation>) {
        while let Some(entry) = self.planned.first_entry()
            && entry.key().0 <= now
        {
            let ((_, number), held) = entry.remove_entry();
            let pattern = Pattern::new(self.settings.run, number);
            let conversation = Conversation::new(&held.plan, pattern, self.settings.timeout);
            let token = event_loop.connect(self.addrs[0], conversation);
            self.held.insert(token, held);
        }
    }

    /// Lets those read whose time of reading nothing is over.
    fn listen(&mut self, now: Moment, event_loop: &mut EventLoop<Conversation>) {
        while let Some(&(when, token)) = self.deaf.first()
            && when <= now
        {
            self.deaf.pop_first();
            let sent = event_loop.connection(token).map_or(0, Connection::sent);
            if let Some(conversation) = event_loop.protocol_mut(token) {
                conversation.listens(sent, now);
            }
            event_loop.resume(token);
        }
    }

    fn connected(&mut self, token: Token, after: Duration, event_loop: &mut EventLoop<Conversation>) {
        let now = event_loop.clock_now();
        let Some(Held { plan, over_at_once, .. }) = self.held.get_mut(&token) else { return };
        let deaf = plan.deaf;
        if !plan.deaf.is_zero() {
            event_loop.pause(token);
            self.deaf.insert((now.plus(plan.deaf), token));
        }
        if let Some(every) = plan.keepalive
            && let Some(connection) = event_loop.connection(token)
        {
            sockets::keep_alive(connection.transport(), every);
        }
        let transport = event_loop.connection(token).map(Connection::transport);
        let local = transport.and_then(|stream| stream.local_addr().ok()).map(sockets::canonical);
        let segment = transport.and_then(Transport::tcp_state).map(|state| state.mss);
        if let Some(conversation) = event_loop.protocol_mut(token) {
            conversation.connected(now, after, deaf);
            conversation.know(local, segment);
        } else {
            *over_at_once = Some(after); // The server's first bytes or its end came with the connect.
        }
        event_loop.wake(token);
    }

    /// A conversation is over. Where bytes of an echo were lost or changed, a partner is asked on which way, before the
    /// behaviour hears of it.
    fn over(&mut self, held: Held, seen: Seen, now: Moment) {
        self.partner |= seen.answer.is_some();
        let Held { place, plan, about, .. } = held;
        let running = &mut self.behaviours[place.behaviour];
        if let Some(about) = about {
            let received = seen.answer.as_ref().and_then(Answer::received);
            let way = about.fault_at().map(|at| Way::of(received, at, about.sent));
            // Bytes that never came may have belonged to a connection that never reached the server.
            let way = way.filter(|&way| way != Way::Unknown || about.wrong_at.is_some());
            return running.hear(place, Seen { way, ..*about });
        }
        let echoes = matches!(plan.ask, None | Some(Question::Who));
        match seen.fault_at() {
            Some(_) if seen.sent < account::SHORTEST => running.hear(place, seen),
            Some(_) if echoes && self.partner && running.accounts < MOST_ACCOUNTS => {
                running.accounts += 1;
                self.begun += 1;
                let plan = Plan { ask: Some(Question::Account(seen.stream)), ..Plan::default() };
                let held = Held { place, plan, about: Some(Box::new(seen)), over_at_once: None };
                self.planned.insert((now, self.begun), held);
            }
            // A wrong first byte is another program's answer, and no fault of the path.
            Some(2..) if echoes && seen.wrong_at.is_some() && !self.partner => {
                running.hear(place, Seen { way: Some(Way::Unknown), ..seen });
            }
            _ => running.hear(place, seen),
        }
    }

    /// Does what a conversation asks for.
    fn grant(token: Token, event_loop: &mut EventLoop<Conversation>) {
        let Some(connection) = event_loop.connection(token) else { return };
        match connection.protocol().wish() {
            None => return,
            // The socket took what came before, so it has room for a byte. If not, nothing comes back of it.
            Some(Wish::SendUrgent(byte)) => sockets::send_urgent(connection.transport(), byte),
            Some(Wish::Reset) => event_loop.reset(token),
        }
        let now = event_loop.clock_now();
        if let Some(conversation) = event_loop.protocol_mut(token) {
            conversation.done(now);
        }
        event_loop.wake(token);
    }
}

impl Role<Conversation> for Holder<'_> {
    fn advance(&mut self, event_loop: &mut EventLoop<Conversation>) -> bool {
        if self.interrupted.is_some() {
            return false;
        }
        let now = event_loop.clock_now();
        let more = self.plan(now);
        self.begin(now, event_loop);
        self.listen(now, event_loop);
        let planned = self.planned.first_key_value().map(|(&(when, _), _)| when);
        let deaf = self.deaf.first().map(|&(when, _)| when);
        if let Err(error) = event_loop.set_timer([planned, deaf].into_iter().flatten().min()) {
            self.failed = Some(error);
            event_loop.stop();
        }
        more
    }

    fn handle(&mut self, event: Event<Conversation>, event_loop: &mut EventLoop<Conversation>) {
        match event {
            Event::Connected { token, after } => self.connected(token, after, event_loop),
            Event::Notified { token } => Self::grant(token, event_loop),
            Event::Closed { token, mut protocol, end, .. } => {
                if let Some(held) = self.held.remove(&token) {
                    self.deaf.retain(|&(_, deaf)| deaf != token);
                    let now = event_loop.clock_now();
                    if let Some(after) = held.over_at_once {
                        protocol.connected(now, after, Duration::ZERO);
                    }
                    self.over(held, protocol.seen(&end, now), now);
                }
            }
            Event::Signal(signal) if signal != Signal::Status => {
                self.interrupted = Some(signal);
                event_loop.stop();
            }
            _ => {} // What is due is looked at in `advance`.
        }
    }
}
