//! The client: many connections at once, whether every byte of each came back, and how long it took.
//!
//! Owns the course of a run: connecting, holding, sending by the schedule, and the account of what became of each
//! connection. The bytes and their times are the [`Exchange`]'s; how what was found is shown is the report's.

mod back_off;
pub mod cause;
pub mod connect_window;
pub mod direction;
pub mod evidence;
pub mod exchange;
pub mod fault;
pub mod findings;
pub(crate) mod foreign_bytes;
pub mod kernel;
pub mod load;
pub mod measure;
pub mod outages;
pub mod pattern;
mod progress;
pub mod rate;
pub mod schedule;
pub mod side;
mod slots;
pub mod timeline;
pub mod units;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use log::{info, warn};
use mio::Token;

use self::connect_window::ConnectWindow;
use self::evidence::{Evidence, Lifetime};
use self::exchange::Exchange;
use self::fault::{Fault, FaultKind, FaultyConnection};
use self::findings::{Connections, Effort, Findings, KEPT_FAULTS};
use self::kernel::Kernel;
use self::load::{Content, Load};
use self::measure::Figured;
use self::outages::Watch;
use self::rate::Rate;
use self::schedule::Run;
use self::side::Side;
use self::slots::Slots;
use self::timeline::{Interval, Timeline};
use crate::engine::connection::{End, Timeouts};
use crate::engine::event_loop::{Event, EventLoop, Limits, Role};
use crate::engine::log_budget::Line;
use crate::engine::signals::Signal;
use crate::engine::sockets;
use crate::engine::system::Mio;
use crate::engine::time::Moment;

/// While connects are under way the client looks at the clock this often. Two looks that are [`PAUSE`] apart show that the
/// process was stopped, or had no CPU: then the times of the connects say nothing about the peer.
const LOOK: Duration = Duration::from_millis(250);

/// Clearly longer than [`LOOK`], clearly shorter than the second after which a connect is sent again.
const PAUSE: Duration = Duration::from_millis(500);

static STARTING: Line = Line::info("Starting connection");
static NEXT_ADDRESS: Line = Line::info("Connection");
static CLOSING: Line = Line::info("Closing connection");
static FAILED: Line = Line::warn("warning: connection");

/// What to do, and how long to wait for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many connections to open. Where others follow those that end: how many are open at once.
    pub connections: u32,
    /// What each of them sends.
    pub load: Load,
    /// How long all connections are kept idle before the first message.
    pub hold: Duration,
    /// How long a connect may take, for each address that is tried.
    pub connect_timeout: Duration,
    /// How long nothing may move on a connection from which something is to come; and how long after the end of its
    /// schedule a message that had to wait may still be begun.
    pub timeout: Duration,
    /// How many of the first `connections` connects are begun a second; `None`: as fast as the window allows.
    pub connect_rate: Option<Rate>,
    /// Where connections come and go ([`Load::churn`]) in a closed loop: how many are begun a second, from the first one on,
    /// whether or not others are over. One for which there is no room waits. `None`: one as soon as another is over.
    pub churn_rate: Option<Rate>,
    /// Whether a connection that fails is followed by another. The load needs a duration, which ends that.
    pub reconnect: bool,
    /// How many connects may be under way at once; `None`: as many as are good for the peer ([`ConnectWindow`]).
    pub connect_window: Option<u32>,
    /// The local addresses to connect from, in turn; none: the system's choice.
    pub sources: Vec<IpAddr>,
    /// How long to poll without sleeping after the last event ([`Mio::with_busy_poll`]).
    pub busy_poll: Duration,
    /// How long the intervals are that an [`Observer`] is handed; `None`: the run is not divided.
    pub interval: Option<Duration>,
}

impl Plan {
    /// The tutorial's plan for this number of connections: its two messages, 5 s to connect and 10 s without progress.
    #[must_use]
    pub fn tutorial(connections: u32) -> Plan {
        Plan {
            connections,
            load: Load::tutorial(),
            hold: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            connect_rate: None,
            churn_rate: None,
            reconnect: false,
            connect_window: None,
            sources: Vec::new(),
            busy_poll: Duration::ZERO,
            interval: None,
        }
    }

    /// The times that a loop has to keep for this plan.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { connect: Some(self.connect_timeout), idle: Some(self.timeout), stall: None, linger: None }
    }

    /// Whether other connections follow those that end.
    #[must_use]
    pub fn is_refilled(&self) -> bool {
        self.load.churn.is_some() || self.reconnect
    }
}

/// What a program does beside its client.
pub trait Observer {
    /// Called between turns: the time to show how far the run is. Returns when to call again at the latest; `None` if that
    /// does not matter.
    fn watch(&mut self, client: &Client, now: Moment) -> Option<Moment>;

    /// A part of the run is over ([`Plan::interval`]).
    fn interval_over(&mut self, interval: Interval);

    /// A connection failed, and this was wrong with it.
    fn failed(&mut self, faulty: &FaultyConnection);

    /// SIGUSR1 arrived: the time to show what each connection does.
    fn status_asked(&mut self, event_loop: &EventLoop<Side>);
}

/// Carries out `plan` against the first of `addrs` that answers, connection by connection; the one that answered last is
/// tried first. Returns what was found.
///
/// SIGINT and SIGTERM end it early, with the findings so far. An error is one of the loop itself; what goes wrong with a
/// connection stands in the findings.
///
/// # Panics
/// If `addrs` is empty.
pub fn run(addrs: Vec<SocketAddr>, plan: &Plan, observer: &mut impl Observer) -> io::Result<Findings> {
    let system = Mio::new()?.with_busy_poll(plan.busy_poll);
    let mut event_loop = EventLoop::on(system, Limits::default(), plan.timeouts());
    event_loop.catch_signals()?;
    let mut role = Observed { client: Client::new(addrs, plan), observer };
    event_loop.run(&mut role)?;
    for interval in role.client.last_intervals(&event_loop) {
        role.observer.interval_over(interval);
    }
    Ok(role.client.into_findings(&event_loop))
}

/// The client's part in a loop.
#[derive(Debug)]
pub struct Client {
    addrs: Vec<SocketAddr>,
    /// The index of the address that worked last, which is tried first.
    preferred: usize,
    /// How many connections were established to each of them.
    established_to: Vec<u64>,
    /// For each connection that has failed to connect and goes on with another address: the index of the one that it tried
    /// first.
    tried_first: BTreeMap<u32, usize>,
    plan: Plan,
    run: Rc<Run>,
    figured: Figured,
    /// How many connections were started. They are counted from 1.
    started: u64,
    window: ConnectWindow,
    /// When to look at the clock again, while connects are under way.
    next_look: Moment,
    /// When the last pause was over.
    resumed: Moment,
    /// Connections that are not over.
    open: u32,
    phase: Phase,
    /// Where the connections stand. In an open loop the slots take turns.
    slots: Slots,
    /// The number of the message that is scheduled next.
    next_message: u64,
    /// When the first connect was begun.
    began: Option<Moment>,
    /// The intervals, if there are any, once the first connect was begun.
    timeline: Option<Timeline>,
    /// CPU time that was used when the first measured message was begun.
    effort_before: Option<Effort>,
    now: Moment,
    connections: Connections,
    /// Connections that were intact and over in the measured part.
    measured_connections: u64,
    /// Kept if connections that fail are followed by others.
    outages: Option<Watch>,
    kernel: Kernel,
    faults: Vec<FaultyConnection>,
    faults_left_out: u64,
    faults_by_kind: BTreeMap<FaultKind, u64>,
    interrupted: Option<Signal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// All connections stand and are left alone until then.
    Holding(Moment),
    Working,
    /// No new message is begun.
    Closing,
}

impl Client {
    /// A client that has everything yet to do. Of `addrs`, each connection tries one after the other, beginning with the one
    /// that answered last.
    ///
    /// # Panics
    /// If `addrs` is empty.
    #[must_use]
    pub fn new(addrs: Vec<SocketAddr>, plan: &Plan) -> Client {
        assert!(!addrs.is_empty(), "there has to be an address to connect to");
        let figured = Figured::new();
        let mut run = Run::new(plan.load.clone(), plan.connections, Box::new(figured.clone()));
        run.patience = plan.timeout;
        run.is_refilled = plan.is_refilled();
        // Of connections that follow each other nobody asked for a number: those that are begun count.
        let requested = if plan.is_refilled() { 0 } else { u64::from(plan.connections) };
        Client {
            established_to: vec![0; addrs.len()],
            addrs,
            preferred: 0,
            tried_first: BTreeMap::new(),
            plan: plan.clone(),
            run: Rc::new(run),
            figured,
            started: 0,
            window: ConnectWindow::new(plan.connect_window, plan.connect_rate.or(plan.churn_rate).is_some()),
            next_look: Moment::START,
            resumed: Moment::START,
            open: 0,
            phase: Phase::Connecting,
            slots: Slots::new(plan.connections, plan.is_refilled()),
            next_message: 0,
            began: None,
            timeline: None,
            effort_before: None,
            now: Moment::START,
            connections: Connections { requested, ..Connections::default() },
            measured_connections: 0,
            outages: plan.reconnect.then(|| Watch::new(plan.connections)),
            kernel: Kernel::new(),
            faults: Vec::new(),
            faults_left_out: 0,
            faults_by_kind: BTreeMap::new(),
            interrupted: None,
        }
    }

    /// Whether every connection that was to be opened was, and is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let all_begun = if self.run.is_refilled {
            self.phase == Phase::Closing && !self.slots.has_free()
        } else {
            !self.slots.has_unused()
        };
        all_begun && self.open == 0
    }

    /// How many connections stand now. (A connect that its loop gave up is neither open nor told to the window.)
    fn standing(&self) -> u32 {
        self.open.saturating_sub(self.window.under_way())
    }

    /// Opens connections, as many as the slots, the window and the rate allow. Returns when to go on, if only time is missing.
    fn start_connections(&mut self, event_loop: &mut EventLoop<Side>) -> Option<Moment> {
        while self.window.has_room() {
            let due = self.next_start()?;
            if due > self.now {
                return Some(due);
            }
            let slot = self.slots.take_free()?;
            if self.plan.churn_rate.is_some() {
                self.figured.connect_begun(self.now.since(due));
            }
            self.started += 1;
            self.open += 1;
            if self.run.is_refilled {
                self.connections.requested += 1;
            }
            self.start(connection_number(self.started), slot, self.addrs[self.preferred], event_loop);
        }
        None
    }

    /// From when on the next connection may be opened; `None`: none now.
    fn next_start(&mut self) -> Option<Moment> {
        let began = *self.began.get_or_insert_with(|| {
            self.timeline = self.plan.interval.map(|length| Timeline::new(length, self.now));
            self.now
        });
        let free_from = self.slots.next_free()?;
        match self.phase {
            // Those that fail before the first message are followed by others when all have been tried.
            Phase::Connecting | Phase::Holding(_) if !self.slots.has_unused() => None,
            Phase::Connecting | Phase::Holding(_) => {
                Some(self.plan.connect_rate.map_or(began, |rate| began.plus(rate.time_of(self.started))))
            }
            Phase::Working => match self.plan.churn_rate {
                Some(_) if self.started >= self.due_connections(Moment::END) => None,
                // Its schedule rules, whatever became of others.
                Some(rate) => Some(began.plus(rate.time_of(self.started))),
                None => Some(free_from),
            },
            // Only messages that were due before the end are worth a connection now. A closed loop has none.
            Phase::Closing => self.run.schedule().map(|_| free_from),
        }
    }

    /// How many connections are due before `when`, and before the end, by the schedule of connections.
    fn due_connections(&self, when: Moment) -> u64 {
        let (Some(rate), Some(began)) = (self.plan.churn_rate, self.began) else { return 0 };
        let whole =
            self.plan.load.duration.map_or(Duration::MAX, |duration| self.plan.load.warmup.saturating_add(duration));
        rate.events_within(whole.min(when.since(began)))
    }

    fn is_before_stop(&self, when: Moment) -> bool {
        self.run.stop().is_none_or(|stop| when < stop)
    }

    fn start(&mut self, number: u32, slot: u32, addr: SocketAddr, event_loop: &mut EventLoop<Side>) {
        self.window.begun(number);
        let sources = &self.plan.sources;
        let source = (!sources.is_empty()).then(|| sources[(number - 1) as usize % sources.len()]);
        let mut exchange = Exchange::new(number, Rc::clone(&self.run));
        if self.run.start().is_some() {
            exchange.take_over(slot, self.slots.next_message(slot));
        } else {
            exchange.take_slot(slot);
        }
        if let Some(outages) = &mut self.outages {
            outages.begun(slot, self.now);
        }
        let token = event_loop.connect_from(source, addr, Side::Exchange(exchange));
        self.slots.fill(slot, token, self.now);
        let local = note_local(token, event_loop);
        if self.logs_each() && event_loop.log_budget().allows(&STARTING) {
            info!("Starting connection {number} to {addr}{}", from(local));
        }
    }

    /// Whether the beginning and the end of each connection are lines of the log. They belong to the tutorial's
    /// transcript; in a run with generated messages they are details, and only failures are logged.
    fn logs_each(&self) -> bool {
        matches!(self.plan.load.content, Content::Texts(_)) || log::max_level() >= log::Level::Debug
    }

    /// Goes on to the next phase when it is time. Returns when that will be, if only time is missing.
    fn change_phase(&mut self, event_loop: &mut EventLoop<Side>) -> Option<Moment> {
        let all_tried = !self.slots.has_unused() && self.window.under_way() == 0;
        match self.phase {
            // They come one by one, and the first sends at once.
            Phase::Connecting if self.plan.churn_rate.is_some() => self.phase = Phase::Holding(self.now),
            // All stand before the first message is sent: a path that carries them one after the other proves nothing.
            Phase::Connecting if all_tried => self.phase = Phase::Holding(self.now.plus(self.plan.hold)),
            _ => {}
        }
        match self.phase {
            Phase::Holding(until) if self.now < until => return Some(until),
            Phase::Holding(_) => self.begin(event_loop),
            _ => {}
        }
        if self.phase == Phase::Working
            && let Some(stop) = self.run.stop()
        {
            if self.now < stop {
                return Some(stop);
            }
            self.phase = Phase::Closing;
            let run = &self.run;
            self.slots.keep_free(|slot, next| run.schedule().is_some_and(|schedule| schedule.has(slot, next)));
            self.wake_all(event_loop); // Those with nothing in flight finish now, and the last messages are begun.
        }
        if self.phase == Phase::Closing && self.slots.has_free() {
            let until = self.run.stop()?.plus(self.run.patience);
            if self.now < until {
                return Some(until);
            }
            self.slots.keep_free(|_, _| false);
        }
        None
    }

    fn begin(&mut self, event_loop: &mut EventLoop<Side>) {
        // Others will stand in the slots that are empty now, or nobody ever will.
        if !self.run.is_refilled {
            self.slots.keep_filled();
            for (slot, &token) in (0..).zip(self.slots.tokens()) {
                if let Some(exchange) = event_loop.protocol_mut(token).and_then(Side::exchange_mut) {
                    exchange.take_slot(slot);
                }
            }
        }
        self.run.begin(self.now, u32::try_from(self.slots.len()).unwrap_or(u32::MAX).max(1));
        self.phase = Phase::Working;
        self.wake_all(event_loop);
    }

    fn wake_all(&self, event_loop: &mut EventLoop<Side>) {
        for &token in self.slots.tokens() {
            event_loop.wake(token);
        }
    }

    /// Wakes the connections that have a message due. Returns when the next one is.
    fn keep_schedule(&mut self, event_loop: &mut EventLoop<Side>) -> Option<Moment> {
        let schedule = *self.run.schedule()?;
        if self.phase != Phase::Working || self.slots.len() == 0 {
            return None;
        }
        // A message that is due at this very moment is not before it, and comes in the next turn.
        let due = schedule.due_before(self.now);
        if due > schedule.first {
            self.run.measured_begun(self.now); // Users wait from now on, whether or not there is a connection to begin it on.
        }
        let slots = self.slots.len() as u64;
        if due - self.next_message >= slots {
            self.wake_all(event_loop);
        } else {
            for number in self.next_message..due {
                let slot = usize::try_from(number % slots).unwrap_or_default();
                event_loop.wake(self.slots.tokens()[slot]);
            }
        }
        self.next_message = due;
        (due < schedule.end).then(|| schedule.due(due))
    }

    /// The address that connection `number` tries after `failed`; `None`: it has tried all.
    fn next_addr(&mut self, number: u32, failed: SocketAddr) -> Option<SocketAddr> {
        let failed = self.addrs.iter().position(|&other| other == failed)?;
        let next = (failed + 1) % self.addrs.len();
        let first = *self.tried_first.entry(number).or_insert(failed);
        if next == first {
            self.tried_first.remove(&number);
            return None;
        }
        Some(self.addrs[next])
    }

    /// Looks at the clock, and notes a pause of this process.
    fn look_at_clock(&mut self, event_loop: &EventLoop<Side>) {
        let last = self.now;
        self.now = event_loop.clock_now();
        // With no connect under way nothing makes the loop turn, and a long time between two turns is no pause.
        if self.window.under_way() > 0 && self.now.since(last) >= PAUSE {
            self.resumed = self.now;
        }
    }

    /// When to look at the clock again at the latest.
    fn next_look(&mut self) -> Option<Moment> {
        // Where connects come all the time, the timer is not to be set and taken back for each.
        if self.window.under_way() == 0 && !self.run.is_refilled {
            return None;
        }
        if self.next_look <= self.now {
            self.next_look = self.now.plus(LOOK);
        }
        Some(self.next_look)
    }

    /// A connect was answered.
    fn connected(&mut self, token: Token, after: Duration, event_loop: &EventLoop<Side>) {
        self.look_at_clock(event_loop);
        let connection = event_loop.connection(token);
        let number = connection.and_then(|connection| connection.protocol().exchange()).map_or(0, Exchange::number);
        let index = connection.and_then(|found| self.addrs.iter().position(|&addr| addr == found.addr()));
        if let Some(index) = index {
            self.preferred = index;
            self.established_to[index] += 1;
        }
        self.tried_first.remove(&number);
        let undisturbed = after <= self.now.since(self.resumed);
        self.window.answered(number, undisturbed.then_some(after));
        self.connections.established += 1;
        self.figured.connected(after);
    }

    /// A connection is over: tries the next address, or counts it as intact or faulty. Returns the faulty one.
    fn settle(
        &mut self,
        exchange: &Exchange,
        addr: SocketAddr,
        end: &End,
        sent: u64,
        lifetime: Lifetime,
        event_loop: &mut EventLoop<Side>,
    ) -> Option<FaultyConnection> {
        let number = exchange.number();
        let stood = !verdict::is_failed_connect(end);
        if let Some(state) = exchange.kernel() {
            self.kernel.add(state, stood);
        }
        if !stood {
            if let Some(next) = self.next_addr(number, addr) {
                self.window.moved_on();
                if self.logs_each() && event_loop.log_budget().allows(&NEXT_ADDRESS) {
                    let from = from(exchange.local());
                    info!("Connection {number} to {addr}{from}: {end}; trying the next address");
                }
                self.start(number, exchange.slot(), next, event_loop);
                return None;
            }
            self.window.failed(number, verdict::is_unanswered(end));
        }
        if self.phase == Phase::Connecting && matches!(end, End::Failed(error) if verdict::is_reset(error)) {
            self.window.reset(number);
        }
        self.open -= 1;
        let fault = verdict::fault(exchange, end, sent, self.standing() > 0);
        if !stood && self.outages.is_some() && self.slots.is_out(exchange.slot()) {
            // The connection that failed was reported. This is no other one, but a try to open it again.
            self.connections.requested -= 1;
            self.outages.iter_mut().for_each(Watch::tried);
            self.vacate(exchange, true, event_loop.now());
            return None;
        }
        self.vacate(exchange, fault.is_some(), event_loop.now());
        match fault {
            None => {
                self.connections.intact += 1;
                let is_measured = self.run.first_measured().is_some() && self.is_before_stop(event_loop.now());
                self.measured_connections += u64::from(is_measured);
                if self.logs_each() && event_loop.log_budget().allows(&CLOSING) {
                    info!("Closing connection {number}{}", from(exchange.local()));
                }
                None
            }
            Some(fault) => {
                self.connections.failed += 1;
                self.figured.lost(exchange.unanswered());
                Some(self.describe(exchange, addr, fault, lifetime, event_loop))
            }
        }
    }

    /// A connection with this fault, with all that is known of it, and its line in the log.
    fn describe(
        &self,
        exchange: &Exchange,
        addr: SocketAddr,
        fault: Fault,
        lifetime: Lifetime,
        event_loop: &mut EventLoop<Side>,
    ) -> FaultyConnection {
        let began = self.began.unwrap_or(Moment::START);
        let evidence = Evidence::of(exchange, lifetime, began, event_loop.clock_now());
        let faulty = FaultyConnection::new(exchange.number(), addr, fault, evidence);
        if event_loop.log_budget().allows(&FAILED) {
            warn!("{faulty}");
        }
        faulty
    }

    /// Counts a faulty connection, and keeps it unless there are too many.
    fn keep(&mut self, faulty: FaultyConnection) {
        *self.faults_by_kind.entry(faulty.fault.kind).or_default() += 1;
        if self.faults.len() < KEPT_FAULTS {
            self.faults.push(faulty);
        } else {
            self.faults_left_out += 1;
        }
    }
}

/// Looks up the address from which a connect was just begun, and notes it in the exchange: after a reset it is too late.
/// `None`: the connect has failed already.
fn note_local(token: Token, event_loop: &mut EventLoop<Side>) -> Option<SocketAddr> {
    let local = event_loop.connection(token)?.transport().local_addr().ok().filter(|local| local.port() != 0)?;
    let local = sockets::canonical(local);
    event_loop.protocol_mut(token)?.exchange_mut()?.comes_from(local);
    Some(local)
}

/// The address that a connection comes from, for lines of a detailed log. The others read like the tutorial's.
fn from(local: Option<SocketAddr>) -> String {
    let shown = local.filter(|_| log::max_level() >= log::Level::Debug);
    shown.map_or_else(String::new, |local| format!(" from {local}"))
}

impl Client {
    /// A connection has left its slot. In most runs the slot stays empty. In others it gets another connection: at once, or,
    /// if this one failed, when the back-off allows it.
    fn vacate(&mut self, exchange: &Exchange, failed: bool, now: Moment) {
        let (slot, next) = (exchange.slot(), exchange.next_in_slot());
        self.slots.leave(slot, next);
        if !self.run.is_refilled {
            return;
        }
        if exchange.heard().is_some() {
            self.slots.recover(slot);
        }
        let at = if failed { self.slots.fail(slot, now) } else { now };
        let is_closing = self.phase == Phase::Closing;
        if let Some(outages) = &mut self.outages {
            outages.over(slot, exchange.heard(), failed && !is_closing);
        }
        // Messages that were due before the end are begun, on a connection that is opened for them if need be.
        if !is_closing || self.run.schedule().is_some_and(|schedule| schedule.has(slot, next)) {
            self.slots.free(slot, if self.plan.churn_rate.is_some() { now } else { at });
        }
    }

    /// Does what is due now. `again` is when to come back at the latest, whatever is due then.
    fn advance_until(&mut self, again: Option<Moment>, event_loop: &mut EventLoop<Side>) -> bool {
        self.look_at_clock(event_loop);
        let times = [
            again,
            self.change_phase(event_loop), // First: where connections come by a schedule, there is nothing to wait for.
            self.start_connections(event_loop),
            self.keep_schedule(event_loop),
            self.next_look(),
        ];
        if self.effort_before.is_none() && self.run.first_measured().is_some() {
            self.effort_before = Some(Effort::of(event_loop.system()));
        }
        if let Err(error) = event_loop.set_timer(times.into_iter().flatten().min()) {
            warn!("cannot keep the schedule: {error}");
            event_loop.stop();
        }
        !self.is_done()
    }
}

impl Role<Side> for Client {
    fn advance(&mut self, event_loop: &mut EventLoop<Side>) -> bool {
        // After a signal there is no turn to come in which what is due now could be begun.
        self.interrupted.is_none() && self.advance_until(None, event_loop)
    }

    fn handle(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) {
        if let Some(faulty) = self.follow(event, event_loop) {
            self.keep(faulty);
        }
    }
}

impl Client {
    /// Does what an event asks for. Returns the connection that it shows to be faulty.
    fn follow(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) -> Option<FaultyConnection> {
        match event {
            Event::Connected { token, after } => self.connected(token, after, event_loop),
            Event::Closed { addr, protocol, end, sent, opened, last_active, .. } => {
                let lifetime = Lifetime { opened, last_active };
                return self.settle(protocol.exchange()?, addr, &end, sent, lifetime, event_loop);
            }
            // The table is the program's business.
            Event::Signal(Signal::Status) => {}
            Event::Signal(signal) => {
                info!("Caught {}, exiting", signal.name());
                self.interrupted = Some(signal);
                event_loop.stop();
            }
            // What is due at a time is looked at in `advance`. The rest is not for this role.
            _ => {}
        }
        None
    }
}

/// The number of the connection that is started as the `count`-th: the count itself, for as long as it fits.
fn connection_number(count: u64) -> u32 {
    u32::try_from((count - 1) % u64::from(u32::MAX) + 1).unwrap_or(u32::MAX)
}

/// A client, and the program that looks on.
struct Observed<'a, O> {
    client: Client,
    observer: &'a mut O,
}

impl<O: Observer> Role<Side> for Observed<'_, O> {
    fn advance(&mut self, event_loop: &mut EventLoop<Side>) -> bool {
        if self.client.interrupted.is_some() {
            return false; // As in the client's own.
        }
        // Before new messages fall due, which could not be begun yet and would be shown as waiting.
        let now = event_loop.clock_now();
        while let Some(interval) = self.client.interval_over(now, event_loop) {
            self.observer.interval_over(interval);
        }
        let again = [self.observer.watch(&self.client, now), self.client.timeline.as_ref().map(Timeline::until)];
        self.client.advance_until(again.into_iter().flatten().min(), event_loop)
    }

    fn handle(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) {
        if matches!(event, Event::Signal(Signal::Status)) {
            self.observer.status_asked(event_loop);
        }
        if let Some(faulty) = self.client.follow(event, event_loop) {
            self.observer.failed(&faulty);
            self.client.keep(faulty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::connection::Timeout;

    #[test]
    fn others_stand_only_while_they_are_open() {
        let addr = ([192, 0, 2, 1], 7).into();
        for first_is_over in [false, true] {
            let plan = Plan::tutorial(2);
            let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
            let mut client = Client::new(vec![addr], &plan);
            for number in [1, 2] {
                client.window.begun(number);
                client.open += 1;
                client.slots.take_free();
            }
            client.window.answered(1, Some(Duration::ZERO));
            client.connections.established += 1;
            let mut settle = |number, end| {
                let mut exchange = Exchange::new(number, Rc::clone(&client.run));
                exchange.take_slot(number - 1);
                let lifetime = Lifetime { opened: Moment::START, last_active: Moment::START };
                client.settle(&exchange, addr, &end, 0, lifetime, &mut event_loop).unwrap().detail
            };
            if first_is_over {
                settle(1, End::Failed(io::ErrorKind::ConnectionReset.into()));
            }
            let detail = settle(2, End::TimedOut(Timeout::Connect));
            assert_eq!(detail.contains("others stand"), !first_is_over, "{detail}");
        }
    }

    #[test]
    fn faults_beyond_those_that_are_kept_are_counted() {
        let mut client = Client::new(vec![([192, 0, 2, 1], 7).into()], &Plan::tutorial(1));
        let exchange = Exchange::new(1, Rc::clone(&client.run));
        let lifetime = Lifetime { opened: Moment::START, last_active: Moment::START };
        let evidence = Evidence::of(&exchange, lifetime, Moment::START, Moment::START);
        let faulty = FaultyConnection::new(1, client.addrs[0], Fault::new(FaultKind::Reset), evidence);
        for _ in 0..KEPT_FAULTS + 3 {
            client.keep(faulty.clone());
        }
        assert_eq!((client.faults.len(), client.faults_left_out), (KEPT_FAULTS, 3));
        assert_eq!(client.faults_by_kind[&FaultKind::Reset], KEPT_FAULTS as u64 + 3);
    }
}
