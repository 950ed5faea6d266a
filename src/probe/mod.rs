//! What a path does to TCP: conversations of many kinds, side by side on one loop, and what became of each.
//!
//! Owns the role: which conversations are held when, with which of a name's addresses, and the order of the behaviours.
//! What a behaviour asks for and how it judges is in a file of its own.

pub mod behaviour;
mod connect;
pub mod conversation;
mod echo;
mod half_close;
mod idle;
mod long;
mod sizes;
mod slow_reader;
pub mod table;
mod together;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::pattern::Pattern;
use crate::engine::connection::{Connection, Timeouts};
use crate::engine::event_loop::{Event, EventLoop, Limits, Role, Token};
use crate::engine::signals::Signal;
use crate::engine::sockets;
use crate::engine::time::Moment;
use crate::probe::behaviour::{Behaviour, Expected, Row, Verdict};
use crate::probe::conversation::{Conversation, Plan};

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
pub const BEHAVIOURS: [Known; 8] = [
    Known {
        name: "echo",
        what: "is there an echo server at the other end?",
        stage: Stage::Echo,
        make: |_| Box::<echo::Echo>::default(),
    },
    Known {
        name: "connect",
        what: "20 connects in a row and 50 at once",
        stage: Stage::Connect,
        make: |_| Box::<connect::Connect>::default(),
    },
    Known {
        name: "sizes",
        what: "single messages of 1 byte up to --size-max; a size that falls silent is narrowed",
        stage: Stage::SideBySide,
        make: |settings| Box::new(sizes::Sizes::new(settings.size_max)),
    },
    Known {
        name: "half-close",
        what: "our FIN right behind 22 B, 100 kB, 4 MB, and 6 MB to a reader that pauses",
        stage: Stage::SideBySide,
        make: |_| Box::<half_close::HalfClose>::default(),
    },
    Known {
        name: "slow-reader",
        what: "nothing is read for 1.5 s behind 16 MB, then everything",
        stage: Stage::SideBySide,
        make: |_| Box::<slow_reader::SlowReader>::default(),
    },
    Known {
        name: "idle",
        what: "connections left alone for 1, 2, 4, ... s up to --idle-max; the limit is narrowed",
        stage: Stage::SideBySide,
        make: |settings| Box::new(idle::Idle::new(settings.idle_max)),
    },
    Known {
        name: "long",
        what: "a byte every so often, for --idle-max",
        stage: Stage::SideBySide,
        make: |settings| Box::new(long::Long::new(settings.idle_max)),
    },
    Known {
        name: "together",
        what: "200 connections at once, and 50 that come and go",
        stage: Stage::Together,
        make: |_| Box::<together::Together>::default(),
    },
];

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
    Ok(Probed { addr: holder.addrs[0], rows: tried.map(Running::row).collect(), interrupted: holder.interrupted })
}

/// A behaviour, and how far its round is.
struct Running {
    known: Known,
    behaviour: Box<dyn Behaviour>,
    /// Conversations of this round that are not over.
    open: usize,
    done: bool,
}

impl Running {
    fn new(known: Known, settings: &Settings) -> Running {
        Running { known, behaviour: (known.make)(settings), open: 0, done: false }
    }

    /// Its row. What was not tried to the end is not known, if nothing broke before.
    fn row(&self) -> Row {
        let row = self.behaviour.row(self.known.name);
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
    /// Conversations that begin later, by the time and a number that tells them apart.
    planned: BTreeMap<(Moment, u32), (Place, Plan)>,
    held: BTreeMap<Token, (Place, Plan)>,
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
        match echo.map(|echo| (echo.row().verdict, echo)) {
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
            let plans = running.behaviour.next_round();
            running.open = plans.len();
            running.done = plans.is_empty();
            for (index, plan) in plans.into_iter().enumerate() {
                self.begun += 1;
                self.planned.insert((now.plus(plan.delay), self.begun), (Place { behaviour: number, index }, plan));
            }
        }
    }

    /// Begins the conversations that are due.
    fn begin(&mut self, now: Moment, event_loop: &mut EventLoop<Conversation>) {
        while let Some(entry) = self.planned.first_entry()
            && entry.key().0 <= now
        {
            let ((_, number), (place, plan)) = entry.remove_entry();
            let pattern = Pattern::new(self.settings.run, number);
            let conversation = Conversation::new(plan.steps.clone(), pattern, self.settings.timeout);
            let token = event_loop.connect(self.addrs[0], conversation);
            self.held.insert(token, (place, plan));
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
        let Some((_, plan)) = self.held.get(&token) else { return };
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
        if let Some(conversation) = event_loop.protocol_mut(token) {
            conversation.connected(now, after, deaf);
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
            Event::Closed { token, protocol, end, .. } => {
                if let Some((place, _)) = self.held.remove(&token) {
                    self.deaf.retain(|&(_, deaf)| deaf != token);
                    let running = &mut self.behaviours[place.behaviour];
                    running.open -= 1;
                    running.behaviour.hear(place.index, protocol.seen(&end, event_loop.clock_now()));
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
