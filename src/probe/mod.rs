//! What a path does to TCP: conversations of many kinds, side by side on one loop, and what became of each.
//!
//! Owns the role: which conversations are held when, and the order of the behaviours. What a behaviour asks for and how
//! it judges is in a file of its own.

pub mod behaviour;
mod connect;
pub mod conversation;
mod echo;
mod half_close;
mod idle;
mod sizes;
mod slow_reader;
pub mod table;
mod together;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::pattern::Pattern;
use crate::engine::connection::Timeouts;
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

/// The names of all behaviours, in the order of the table, with what each finds out.
pub const BEHAVIOURS: [(&str, &str); 8] = [
    ("echo", "is there an echo server at the other end?"),
    ("connect", "20 connects in a row and 50 at once"),
    ("sizes", "single messages of 1 byte up to --size-max; a size that falls silent is narrowed"),
    ("half-close", "our FIN right behind 22 B, 100 kB, 4 MB, and 4 MB with a reader that pauses"),
    ("slow-reader", "nothing is read for 2 s behind 16 MB, then everything"),
    ("idle", "connections left alone for 1, 2, 4, ... s up to --idle-max; the limit is narrowed"),
    ("long", "a byte every so often, for --idle-max"),
    ("together", "200 connections at once, and 50 that come and go"),
];

/// How the probe ended.
#[derive(Debug)]
pub struct Probed {
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

/// Tries the chosen behaviours of the path to `addr`. Where not even an echo comes back, only that is tried.
///
/// # Errors
/// The poller, the timer or the signal pipe failed.
pub fn probe(addr: SocketAddr, settings: &Settings) -> io::Result<Probed> {
    // Those that take many connections come by themselves: they could push the others over a limit of the path.
    let alone = ["connect", "together"];
    let stages: [Box<dyn Fn(&str) -> bool>; 4] = [
        Box::new(|name| name == "echo"),
        Box::new(|name| name == "connect"),
        Box::new(move |name| name != "echo" && !alone.contains(&name)),
        Box::new(|name| name == "together"),
    ];
    let timeouts = Timeouts { connect: Some(settings.timeout), ..Timeouts::default() };
    let mut rows = Vec::new();
    let mut interrupted = None;
    for stage in stages {
        let chosen = settings.chosen.iter().filter(|name| stage(name));
        let behaviours: Vec<Running> = chosen.filter_map(|name| Running::new(name, settings)).collect();
        let mut event_loop = EventLoop::new(Limits::default(), timeouts)?;
        event_loop.catch_signals()?;
        let mut holder = Holder::new(addr, settings, behaviours, rows.len());
        event_loop.run(&mut holder)?;
        rows.extend(holder.behaviours.iter().map(|running| running.behaviour.row()));
        interrupted = holder.interrupted;
        let no_echo = rows.iter().any(|row: &Row| row.name == "echo" && row.verdict != Verdict::Carried);
        if interrupted.is_some() || no_echo {
            break;
        }
    }
    rows.sort_by_key(|row| BEHAVIOURS.iter().position(|(name, _)| *name == row.name));
    Ok(Probed { rows, interrupted })
}

/// A behaviour, and how far its round is.
struct Running {
    behaviour: Box<dyn Behaviour>,
    /// Conversations of this round that are not over.
    open: usize,
    done: bool,
}

impl Running {
    fn new(name: &str, settings: &Settings) -> Option<Running> {
        let behaviour: Box<dyn Behaviour> = match name {
            "echo" => Box::<echo::Echo>::default(),
            "connect" => Box::<connect::Connect>::default(),
            "sizes" => Box::new(sizes::Sizes::new(settings.size_max)),
            "half-close" => Box::<half_close::HalfClose>::default(),
            "slow-reader" => Box::<slow_reader::SlowReader>::default(),
            "idle" => Box::new(idle::Idle::new(settings.idle_max)),
            "long" => Box::new(idle::Long::new(settings.idle_max)),
            "together" => Box::<together::Together>::default(),
            _ => return None,
        };
        Some(Running { behaviour, open: 0, done: false })
    }
}

/// Which conversation of which behaviour.
#[derive(Clone, Copy, Debug)]
struct Place {
    behaviour: usize,
    index: usize,
}

/// The role: holds the conversations that the behaviours ask for.
struct Holder {
    addr: SocketAddr,
    run: u64,
    patience: Duration,
    behaviours: Vec<Running>,
    /// Conversations that begin later, by the time and a number that tells them apart.
    planned: BTreeMap<(Moment, u32), (Place, Plan)>,
    held: BTreeMap<Token, (Place, Plan)>,
    /// When those that read nothing begin to read.
    deaf: BTreeMap<(Moment, Token), ()>,
    /// How many conversations there were. Each has bytes of its own.
    begun: u32,
    interrupted: Option<Signal>,
}

impl Holder {
    fn new(addr: SocketAddr, settings: &Settings, behaviours: Vec<Running>, rows: usize) -> Holder {
        Holder {
            addr,
            run: settings.run + rows as u64,
            patience: settings.timeout,
            behaviours,
            planned: BTreeMap::new(),
            held: BTreeMap::new(),
            deaf: BTreeMap::new(),
            begun: 0,
            interrupted: None,
        }
    }

    /// Asks the behaviours whose round is over for the next one.
    fn plan(&mut self, now: Moment) {
        for (number, running) in self.behaviours.iter_mut().enumerate() {
            if running.open > 0 || running.done {
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
            let pattern = Pattern::new(self.run, number);
            let conversation = Conversation::new(plan.steps.clone(), pattern, self.patience);
            let token = event_loop.connect(self.addr, conversation);
            self.held.insert(token, (place, plan));
        }
    }

    /// Lets those read whose time of reading nothing is over.
    fn listen(&mut self, now: Moment, event_loop: &mut EventLoop<Conversation>) {
        while let Some(entry) = self.deaf.first_entry()
            && entry.key().0 <= now
        {
            let ((_, token), ()) = entry.remove_entry();
            let sent = event_loop.connection(token).map_or(0, |connection| connection.sent());
            if let Some(conversation) = event_loop.protocol_mut(token) {
                conversation.listens(sent, now);
            }
            event_loop.resume(token);
        }
    }

    fn connected(&mut self, token: Token, after: Duration, event_loop: &mut EventLoop<Conversation>) {
        let now = event_loop.clock_now();
        let Some((_, plan)) = self.held.get(&token) else { return };
        if !plan.deaf.is_zero() {
            event_loop.pause(token);
            self.deaf.insert((now.plus(plan.deaf), token), ());
        }
        if let Some(every) = plan.keepalive
            && let Some(connection) = event_loop.connection(token)
        {
            sockets::keep_alive(connection.transport(), every);
        }
        if let Some(conversation) = event_loop.protocol_mut(token) {
            conversation.connected(now, after);
        }
        event_loop.wake(token);
    }
}

impl Role<Conversation> for Holder {
    fn advance(&mut self, event_loop: &mut EventLoop<Conversation>) -> bool {
        if self.interrupted.is_some() {
            return false;
        }
        let now = event_loop.clock_now();
        self.plan(now);
        self.begin(now, event_loop);
        self.listen(now, event_loop);
        let planned = self.planned.first_key_value().map(|(&(when, _), _)| when);
        let deaf = self.deaf.first_key_value().map(|(&(when, _), ())| when);
        if event_loop.set_timer([planned, deaf].into_iter().flatten().min()).is_err() {
            event_loop.stop();
        }
        self.behaviours.iter().any(|running| !running.done)
    }

    fn handle(&mut self, event: Event<Conversation>, event_loop: &mut EventLoop<Conversation>) {
        match event {
            Event::Connected { token, after } => self.connected(token, after, event_loop),
            Event::Closed { token, protocol, end, .. } => {
                if let Some((place, _)) = self.held.remove(&token) {
                    self.deaf.retain(|&(_, deaf), ()| deaf != token);
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
