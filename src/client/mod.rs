//! The client: many connections at once, whether every byte of each came back, and how long it took.
//!
//! Owns the plan (how many connections, from where, how fast, in which phases) and the account of what became of each.
//! The bytes and their times are the [`Exchange`]'s, their transport is the connection's.

pub mod connect_window;
pub mod exchange;
mod foreign_bytes;
pub mod measure;
pub mod pattern;
mod progress;
pub mod rate;
pub mod side;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use log::{info, warn};
use mio::Token;
use rustix::time::{ClockId, clock_gettime};

use self::connect_window::{ConnectWindow, RETRANSMITTED};
use self::measure::{Figured, Figures, LATE};
use self::progress::Progress;
use crate::cli::table;
use crate::client::exchange::{Content, Exchange, FaultKind, Pacing, Work};
use crate::client::rate::Rate;
use crate::client::side::Side;
use crate::engine::connection::{End, Timeout, Timeouts};
use crate::engine::event_loop::{Event, EventLoop, Limits, Role};
use crate::engine::log_budget::Line;
use crate::engine::protocol::Protocol;
use crate::engine::signals::Signal;
use crate::engine::sockets;
use crate::engine::system::Mio;
use crate::engine::time::Moment;
use crate::report::expect::Expectation;
use crate::report::{
    Bytes, ClientState, Connections, DESCRIBED_FAULTS, Kind, Latency, Messages, Report, ReportedFault, Times,
};

/// From this share of a core on, a client is thought to be the limit of its own figures.
const BUSY: f64 = 0.9;

static STARTING: Line = Line::info("Starting connection");
static NEXT_ADDRESS: Line = Line::info("Connection");
static CLOSING: Line = Line::info("Closing connection");
static FAILED: Line = Line::warn("warning: connection");

/// What to do, and how long to wait for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many connections to open.
    pub connections: u32,
    /// What each of them sends.
    pub content: Content,
    /// When each of them sends.
    pub pacing: Pacing,
    /// How many measured messages each sends; `None`: until `duration` is over. Texts are sent once each.
    pub messages: Option<u64>,
    /// How long measured messages are begun, or fall due if they are scheduled.
    pub duration: Option<Duration>,
    /// How long messages are sent before they are measured.
    pub warmup: Duration,
    /// How long all connections are kept idle before the first message.
    pub hold: Duration,
    /// How long a connect may take, for each address that is tried.
    pub connect_timeout: Duration,
    /// How long nothing may move on a connection from which something is to come; and how long after the end of its
    /// schedule a message that had to wait may still be begun.
    pub timeout: Duration,
    /// How many connects are begun a second; `None`: as fast as the window allows.
    pub connect_rate: Option<Rate>,
    /// How many connects may be under way at once; `None`: as many as are answered at once ([`ConnectWindow`]).
    pub connect_window: Option<u32>,
    /// The local addresses to connect from, in turn; none: the system's choice.
    pub sources: Vec<IpAddr>,
    /// Whether what comes back is compared.
    pub verify: bool,
    /// How long to poll without sleeping after the last event ([`Mio::with_busy_poll`]).
    pub busy_poll: Duration,
    /// What is expected of the run.
    pub expectations: Vec<Expectation>,
    /// Shows a line of progress, if standard error is a terminal.
    pub progress: bool,
}

impl Plan {
    /// The tutorial's plan, for so many connections: its two messages, 5 s to connect and 10 s without progress.
    #[must_use]
    pub fn tutorial(connections: u32) -> Plan {
        let texts = vec![b"Message 1 from client.".to_vec(), b"Message 2 from client.".to_vec()];
        Plan {
            connections,
            content: Content::Texts(texts),
            pacing: Pacing::Streamed,
            messages: None,
            duration: None,
            warmup: Duration::ZERO,
            hold: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            connect_rate: None,
            connect_window: None,
            sources: Vec::new(),
            verify: true,
            busy_poll: Duration::ZERO,
            expectations: Vec::new(),
            progress: false,
        }
    }

    /// The times that a loop has to keep for this plan.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { connect: Some(self.connect_timeout), idle: Some(self.timeout), stall: None, linger: None }
    }

    fn work(&self, meter: Figured) -> Work {
        let mut work = match &self.content {
            Content::Texts(texts) => Work::texts(texts, self.connections, Box::new(meter)),
            Content::Generated { .. } => {
                Work::new(self.content.clone(), self.pacing, self.connections, Box::new(meter))
            }
        };
        work.messages = self.messages;
        work.duration = self.duration;
        work.warmup = self.warmup;
        work.patience = self.timeout;
        work.verify = self.verify;
        work
    }
}

/// The protocol of a loop that a client can open connections on: an [`Exchange`], or something that may be one. A loop
/// with a server on it as well has [`Side`].
pub trait CarriesExchange: Protocol + From<Exchange> {
    /// The exchange, if this is one.
    fn exchange(&self) -> Option<&Exchange>;
    /// The exchange, if this is one.
    fn exchange_mut(&mut self) -> Option<&mut Exchange>;
}

impl CarriesExchange for Exchange {
    fn exchange(&self) -> Option<&Exchange> {
        Some(self)
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        Some(self)
    }
}

impl<S: Protocol> CarriesExchange for Side<S> {
    fn exchange(&self) -> Option<&Exchange> {
        match self {
            Side::Server(_) => None,
            Side::Client(exchange) => Some(exchange),
        }
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Side::Server(_) => None,
            Side::Client(exchange) => Some(exchange),
        }
    }
}

/// Carries out `plan` against the first of `addrs` that answers, connection by connection. Returns the report and the
/// figures that it is made of.
///
/// SIGINT and SIGTERM end it early, with a report of what there is so far. An error is one of the loop itself; what
/// goes wrong with a connection stands in the report.
///
/// # Panics
/// If `addrs` is empty, or the plan has nothing to send.
pub fn run(addrs: Vec<SocketAddr>, plan: &Plan) -> io::Result<(Report, Figured)> {
    let system = Mio::new()?.with_busy_poll(plan.busy_poll);
    let mut event_loop = EventLoop::<Exchange>::on(system, Limits::default(), plan.timeouts());
    event_loop.catch_signals()?;
    let mut client = Client::new(addrs, plan);
    event_loop.run(&mut client)?;
    let figured = client.figured.clone();
    Ok((client.into_report(&event_loop), figured))
}

/// The client's part in a loop.
#[derive(Debug)]
pub struct Client {
    addrs: Vec<SocketAddr>,
    plan: Plan,
    work: Rc<Work>,
    figured: Figured,
    /// The number of the last connection that was started.
    started: u32,
    window: ConnectWindow,
    /// Connections that are not over.
    open: u32,
    phase: Phase,
    /// Those that take turns in an open loop, and the number of the message that is scheduled next.
    turns: Vec<Token>,
    next_message: u64,
    /// When the first connect was begun.
    began: Option<Moment>,
    /// CPU time that was used when the first measured message was begun.
    effort_before: Option<Effort>,
    now: Moment,
    progress: Option<Progress>,
    connections: Connections,
    faults: Vec<ReportedFault>,
    faults_by_kind: BTreeMap<Kind, u32>,
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
    /// A client that has everything yet to do. Of `addrs`, each connection tries one after the other.
    ///
    /// # Panics
    /// If `addrs` is empty, or the plan has nothing to send.
    #[must_use]
    pub fn new(addrs: Vec<SocketAddr>, plan: &Plan) -> Client {
        assert!(!addrs.is_empty(), "there has to be an address to connect to");
        let figured = Figured::new();
        Client {
            addrs,
            plan: plan.clone(),
            work: Rc::new(plan.work(figured.clone())),
            figured,
            started: 0,
            window: ConnectWindow::new(plan.connect_window),
            open: 0,
            phase: Phase::Connecting,
            turns: Vec::new(),
            next_message: 0,
            began: None,
            effort_before: None,
            now: Moment::START,
            progress: plan.progress.then(Progress::on_terminal).flatten(),
            connections: Connections { requested: plan.connections, ..Connections::default() },
            faults: Vec::new(),
            faults_by_kind: BTreeMap::new(),
            interrupted: None,
        }
    }

    /// Whether every connection was opened and is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.started == self.plan.connections && self.open == 0
    }

    /// Opens connections, as many as the window and the rate allow. Returns when to go on, if only time is missing.
    fn start_connections<P: CarriesExchange>(&mut self, event_loop: &mut EventLoop<P>) -> Option<Moment> {
        let began = *self.began.get_or_insert(self.now);
        while self.window.has_room() && self.started < self.plan.connections {
            if let Some(rate) = self.plan.connect_rate {
                let due = began.plus(rate.time_of(u64::from(self.started)));
                if due > self.now {
                    return Some(due);
                }
            }
            self.started += 1;
            self.open += 1;
            self.start(self.started, self.addrs[0], event_loop);
        }
        None
    }

    fn start<P: CarriesExchange>(&mut self, number: u32, addr: SocketAddr, event_loop: &mut EventLoop<P>) {
        if self.tells_of_each() && event_loop.log_budget().allows(&STARTING) {
            info!("Starting connection {number} to {addr}");
        }
        self.window.begun(number);
        let sources = &self.plan.sources;
        let source = (!sources.is_empty()).then(|| sources[(number - 1) as usize % sources.len()]);
        event_loop.connect_from(source, addr, Exchange::new(number, Rc::clone(&self.work)).into());
    }

    /// Whether the beginning and the end of each connection are lines of the log. They belong to the tutorial's
    /// transcript; in a run with generated messages they are details, and only failures are told.
    fn tells_of_each(&self) -> bool {
        matches!(self.plan.content, Content::Texts(_)) || log::max_level() >= log::Level::Debug
    }

    /// Goes on to the next phase when it is time. Returns when that will be, if only time is missing.
    fn change_phase<P: CarriesExchange>(&mut self, event_loop: &mut EventLoop<P>) -> Option<Moment> {
        let all_tried = self.started == self.plan.connections && self.window.under_way() == 0;
        match self.phase {
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
            && let Some(stop) = self.work.stop()
        {
            if self.now < stop {
                return Some(stop);
            }
            self.phase = Phase::Closing;
            self.wake_all(event_loop); // Those with nothing in flight finish now, and the last messages are begun.
        }
        None
    }

    fn begin<P: CarriesExchange>(&mut self, event_loop: &mut EventLoop<P>) {
        let mut standing: Vec<(u32, Token)> = event_loop
            .connections()
            .filter_map(|(token, connection)| Some((connection.protocol().exchange()?.number(), token)))
            .collect();
        standing.sort_unstable();
        self.turns = standing.into_iter().map(|(_, token)| token).collect();
        for (turn, &token) in (0..).zip(&self.turns) {
            if let Some(exchange) = event_loop.protocol_mut(token).and_then(CarriesExchange::exchange_mut) {
                exchange.take_turn(turn);
            }
        }
        self.work.begin(self.now, u32::try_from(self.turns.len()).unwrap_or(u32::MAX).max(1));
        self.phase = Phase::Working;
        self.wake_all(event_loop);
    }

    fn wake_all<P: CarriesExchange>(&self, event_loop: &mut EventLoop<P>) {
        for &token in &self.turns {
            event_loop.wake(token);
        }
    }

    /// Wakes the connections that have a message due. Returns when the next one is.
    fn keep_schedule<P: CarriesExchange>(&mut self, event_loop: &mut EventLoop<P>) -> Option<Moment> {
        let schedule = self.work.schedule()?;
        if self.phase != Phase::Working || self.turns.is_empty() {
            return None;
        }
        // What is due at this very moment is not before it, and comes in the next turn.
        let due = self.work.scheduled_before(self.now).min(schedule.end);
        if due - self.next_message >= self.turns.len() as u64 {
            self.wake_all(event_loop);
        } else {
            for number in self.next_message..due {
                let turn = usize::try_from(number % self.turns.len() as u64).unwrap_or_default();
                event_loop.wake(self.turns[turn]);
            }
        }
        self.next_message = due;
        if due == schedule.end { None } else { self.work.due_in_all(due) }
    }

    /// A connection is over: tries the next address, or counts it as intact or faulty.
    fn settle<P: CarriesExchange>(
        &mut self,
        exchange: &Exchange,
        addr: SocketAddr,
        end: &End,
        sent: u64,
        event_loop: &mut EventLoop<P>,
    ) {
        let number = exchange.number();
        if matches!(end, End::ConnectFailed(_) | End::TimedOut(Timeout::Connect)) {
            self.window.failed(number);
            let tried = self.addrs.iter().position(|&other| other == addr);
            if let Some(&next) = tried.and_then(|index| self.addrs.get(index + 1)) {
                if self.tells_of_each() && event_loop.log_budget().allows(&NEXT_ADDRESS) {
                    info!("Connection {number} to {addr}: {end}; trying the next address");
                }
                return self.start(number, next, event_loop);
            }
        }
        if self.phase == Phase::Connecting && matches!(end, End::Failed(error) if is_reset(error)) {
            self.window.reset(number);
        }
        self.open -= 1;
        match fault(exchange, addr, end, sent, self.connections.established > 0) {
            None => {
                self.connections.intact += 1;
                if self.tells_of_each() && event_loop.log_budget().allows(&CLOSING) {
                    info!("Closing connection {number}");
                }
            }
            Some(fault) => {
                if event_loop.log_budget().allows(&FAILED) {
                    warn!("{fault}");
                }
                self.connections.failed += 1;
                self.figured.lost(exchange.unanswered());
                *self.faults_by_kind.entry(fault.kind).or_default() += 1;
                if self.faults.len() < DESCRIBED_FAULTS {
                    self.faults.push(fault);
                }
            }
        }
    }

    /// What came of it: counted to the end for connections that are over, so far for those still on `event_loop`.
    #[must_use]
    pub fn into_report<P: Protocol>(mut self, event_loop: &EventLoop<P>) -> Report {
        let Connections { requested, intact, failed, .. } = self.connections;
        self.connections.unfinished = requested - intact - failed;
        let figures = self.figured.figures();
        self.connections.retransmitted = retransmitted(&figures);
        let elapsed = self.elapsed(&figures, event_loop.now());
        let seconds = elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { ratio(figures.messages_echoed, seconds) } else { 0.0 };
        let missed = self.missed(&figures);
        let never = missed + figures.unanswered;
        let effort = Effort::of(event_loop.system()).since(self.effort_before.unwrap_or_default());
        let faults: u32 = self.faults_by_kind.values().sum();
        Report {
            schema: crate::report::SCHEMA,
            target: self.addrs[0],
            messages: Messages {
                sent: figures.messages_sent,
                echoed: figures.messages_echoed,
                missed,
                unanswered: figures.unanswered,
            },
            bytes: Bytes { sent: figures.bytes_sent, echoed: figures.bytes_echoed },
            seconds,
            messages_per_second: rate,
            elapsed_seconds: event_loop.clock_now().since(self.began.unwrap_or(Moment::START)).as_secs_f64(),
            megabytes_per_second: if seconds > 0.0 { ratio(figures.bytes_echoed, seconds) / 1e6 } else { 0.0 },
            latency_us: Latency::of(
                &figures.service,
                &figures.scheduled,
                if self.work.schedule().is_some() { never } else { 0 },
            ),
            connect_us: Times::of(&figures.connect, 0),
            first_byte_us: Times::of(&figures.first_byte, 0),
            schedule_error_us: Times::of(&figures.schedule_error, 0),
            faults: self.faults.clone(),
            faults_by_kind: self.faults_by_kind.clone(),
            expectations: self.plan.expectations.iter().map(|it| it.judge(&figures, never, rate, faults)).collect(),
            interrupted: self.interrupted,
            client: self.client_state(&figures, effort, elapsed),
            connections: self.connections.clone(),
        }
    }

    /// How long the measured part took. A run for a given time counts as that, even if the last echo came early: or were a
    /// message a second, echoed in a microsecond, a million a second? The same holds for the time that a rate gives to its
    /// messages. But a signal, or the failure of all, may end it before.
    fn elapsed(&self, figures: &Figures, now: Moment) -> Duration {
        let (Some(first), Some(last)) = (self.work.first_measured(), figures.last_echo) else {
            return now.since(self.began.unwrap_or(Moment::START));
        };
        let whole = self.interrupted.is_none() && self.connections.intact > 0;
        let given_until = match self.work.schedule() {
            Some(schedule) => Some(schedule.until),
            None => self.work.stop(),
        };
        let end = match given_until {
            Some(until) if whole => until,
            Some(until) => until.min(now),
            None => last,
        };
        last.max(end).since(first)
    }

    /// Measured messages that were due before the run was over, and never begun.
    fn missed(&self, figures: &Figures) -> u64 {
        let Some(schedule) = self.work.schedule() else { return 0 };
        // What falls due between the last look at the schedule and a signal is nobody's to begin.
        let due = if self.phase == Phase::Closing { schedule.end } else { self.next_message };
        due.saturating_sub(schedule.first).saturating_sub(figures.begun)
    }

    /// Whether the figures say more of the client than of the path.
    fn client_state(&self, figures: &Figures, effort: Effort, elapsed: Duration) -> ClientState {
        let mut why = Vec::new();
        let share = effort.working().as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        // A short run is mostly its beginning, which is all work.
        if share >= BUSY && elapsed >= Duration::from_millis(100) {
            why.push(format!("the client was the bottleneck: it used {:.0} % of a core", share * 100.0));
        }
        let all = figures.begun + figures.given_up;
        if figures.own_late.saturating_mul(100) > all {
            let percent = 100.0 * ratio(figures.own_late, ratio(all, 1.0));
            let late = LATE.as_millis();
            why.push(format!(
                "the client fell behind its schedule: by itself it was more than {late} ms late with {percent:.0} % of the \
                 messages"
            ));
        }
        let bottleneck = !why.is_empty();
        let Connections { requested, established, .. } = self.connections;
        if established < requested && self.interrupted.is_none() {
            why.push(format!("{established} connections ran and not {requested}"));
        }
        let why = (!why.is_empty()).then(|| why.join("; "));
        ClientState { cpu_seconds: effort.cpu.as_secs_f64(), bottleneck, late_messages: figures.own_late, why }
    }

    /// The line of progress.
    fn progress_text(&self) -> String {
        let figures = self.figured.figures();
        let measuring = self.work.first_measured();
        let (phase, left) = match self.phase {
            Phase::Connecting => ("connecting", None),
            Phase::Holding(until) => ("holding", Some(until)),
            Phase::Working if measuring.is_none() => {
                ("warming up", self.work.start().map(|start| start.plus(self.plan.warmup)))
            }
            Phase::Working => ("running", self.work.stop()),
            Phase::Closing => ("closing", None),
        };
        let mut text =
            vec![format!("{phase}: {} of {} connected", self.open - self.window.under_way(), self.plan.connections)];
        // What a narrow terminal has no room for comes last.
        text.push(format!("{} faults", self.connections.failed));
        text.extend(left.map(|left| format!("{:.0} s left", left.since(self.now).as_secs_f64())));
        if let Some(first) = measuring {
            let seconds = self.now.since(first).as_secs_f64().max(1e-3);
            let (shown, never) = match self.work.schedule() {
                Some(_) => (&figures.scheduled, self.missed(&figures) + figures.unanswered),
                None => (&figures.service, 0),
            };
            let percentile = |percent: f64| {
                measure::percentile(shown, never, percent).map_or("not back".to_owned(), |time| format!("{time} µs"))
            };
            text.push(format!(
                "{:.0} messages/s, p99 {}, p50 {}, {:.1} MB/s",
                ratio(figures.messages_echoed, seconds),
                percentile(99.0),
                percentile(50.0),
                ratio(figures.bytes_echoed, seconds) / 1e6
            ));
        }
        text.join(", ")
    }
}

impl<P: CarriesExchange> Role<P> for Client {
    fn advance(&mut self, event_loop: &mut EventLoop<P>) -> bool {
        if self.interrupted.is_some() {
            return false; // There is no turn to come in which what is due now could be begun.
        }
        self.now = event_loop.clock_now();
        let mut times = [None; 4];
        // Before new messages fall due, which could not be begun yet and would be shown as waiting.
        if let Some(mut progress) = self.progress.take() {
            progress.draw(self.now, || self.progress_text());
            times[0] = Some(progress.next());
            self.progress = Some(progress);
        }
        times[1] = self.start_connections(event_loop);
        times[2] = self.change_phase(event_loop);
        times[3] = self.keep_schedule(event_loop);
        if self.effort_before.is_none() && self.work.first_measured().is_some() {
            self.effort_before = Some(Effort::of(event_loop.system()));
        }
        if let Err(error) = event_loop.wake_at(times.into_iter().flatten().min()) {
            warn!("cannot keep the schedule: {error}");
            event_loop.stop();
        }
        !self.is_done()
    }

    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P>) {
        match event {
            Event::Connected { token, after } => {
                let exchange = event_loop.protocol_mut(token).and_then(|protocol| protocol.exchange());
                let number = exchange.map_or(0, Exchange::number);
                self.window.answered(number, after);
                self.connections.established += 1;
                self.figured.connected(after);
            }
            Event::Closed { addr, protocol, end, sent, .. } => {
                if let Some(exchange) = protocol.exchange() {
                    self.settle(exchange, addr, &end, sent, event_loop);
                }
            }
            Event::Signal(Signal::Status) => table::write_table(event_loop),
            Event::Signal(signal) => {
                info!("Caught {}, exiting", signal.name());
                self.interrupted = Some(signal);
                event_loop.stop();
            }
            Event::Accepted { .. } | Event::Notified { .. } | Event::Woken => {}
        }
    }
}

/// How many connects were dropped at first and sent again, as their times show. Where even the quickest took about as long,
/// the path is that long.
fn retransmitted(figures: &Figures) -> u64 {
    let limit = u64::try_from(RETRANSMITTED.as_micros()).unwrap_or(u64::MAX);
    let connect = &figures.connect;
    if connect.is_empty() || connect.min() > limit / 2 { 0 } else { connect.count_between(limit, u64::MAX) }
}

/// What this process has spent.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    cpu: Duration,
    /// The part of it that went into polling without sleeping.
    polled: Duration,
}

impl Effort {
    fn of(system: &Mio) -> Effort {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0));
        Effort { cpu, polled: system.time_polled() }
    }

    fn since(self, before: Effort) -> Effort {
        Effort { cpu: self.cpu.saturating_sub(before.cpu), polled: self.polled.saturating_sub(before.polled) }
    }

    fn working(self) -> Duration {
        self.cpu.saturating_sub(self.polled)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate, to a few digits")]
fn ratio(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}

/// What was wrong with a connection that is over, if anything was: one that handed `sent` bytes to the system. What the
/// exchange saw first counts, whatever reset may have followed. `others_stand`: there are connections that did not fail to
/// connect.
fn fault(exchange: &Exchange, addr: SocketAddr, end: &End, sent: u64, others_stand: bool) -> Option<ReportedFault> {
    let returned = exchange.bytes_echoed();
    let stood = !matches!(end, End::ConnectFailed(_) | End::TimedOut(Timeout::Connect));
    let plain = |kind, detail| ReportedFault {
        connection: exchange.number(),
        kind,
        offset: None,
        expected: Vec::new(),
        got: Vec::new(),
        sent: stood.then_some(sent),
        returned: stood.then_some(returned),
        peer: addr,
        detail,
    };
    let counted = |what: &dyn fmt::Display| format!("{what}; {returned} of {sent} bytes sent are back");
    if let Some(fault) = exchange.fault() {
        let kind = match fault.kind {
            FaultKind::Corrupted => Kind::Corrupted,
            FaultKind::Lost(_) => Kind::Lost,
            FaultKind::Duplicated(_) => Kind::Duplicated,
            FaultKind::Foreign(_) => Kind::Foreign,
            FaultKind::Truncated => Kind::Truncated,
            FaultKind::ClosedEarly => Kind::ClosedEarly,
            FaultKind::Extra => Kind::Extra,
        };
        let detail = match kind {
            Kind::Truncated | Kind::ClosedEarly => counted(fault),
            _ => fault.to_string(),
        };
        let (expected, got) = (fault.expected.clone(), fault.got.clone());
        return Some(ReportedFault { offset: Some(fault.offset), expected, got, ..plain(kind, detail) });
    }
    Some(match end {
        End::Finished => return None,
        End::ConnectFailed(error) => {
            let kind = match error.kind() {
                ErrorKind::ConnectionRefused => Kind::Refused,
                ErrorKind::TimedOut => Kind::ConnectTimeout,
                _ if is_reset(error) => Kind::Reset,
                _ => Kind::ConnectFailed,
            };
            plain(kind, format!("{error}; {}", sockets::connect_advice(error, others_stand)))
        }
        End::TimedOut(Timeout::Connect) => {
            let error = io::Error::from(ErrorKind::TimedOut);
            plain(Kind::ConnectTimeout, format!("no answer; {}", sockets::connect_advice(&error, others_stand)))
        }
        End::TimedOut(_) if exchange.is_finished() => plain(Kind::Unclosed, counted(&"the peer does not finish")),
        End::TimedOut(_) => plain(Kind::NoProgress, counted(&"nothing moves")),
        End::Failed(error) if is_reset(error) => plain(Kind::Reset, counted(error)),
        end => plain(Kind::Failed, end.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::exchange::NoMeter;
    use crate::engine::buffer::SendBuffer;
    use crate::engine::protocol::Outbox;

    fn exchange() -> Exchange {
        let work = Work::texts(&[b"hello".to_vec()], 3, Box::new(NoMeter));
        work.begin(Moment::START, 3);
        let mut exchange = Exchange::new(3, Rc::new(work));
        exchange.produce(&mut [0; 16], &Moment::START);
        exchange
    }

    fn told(exchange: &Exchange, end: &End, sent: u64, others_stand: bool) -> Option<ReportedFault> {
        fault(exchange, "127.0.0.1:7".parse().unwrap(), end, sent, others_stand)
    }

    fn kind(exchange: &Exchange, end: &End) -> Option<Kind> {
        told(exchange, end, 5, false).map(|fault| fault.kind)
    }

    #[test]
    fn every_end_has_its_kind() {
        let exchange = exchange();
        let error = |kind: ErrorKind| io::Error::from(kind);
        let refused = End::ConnectFailed(error(ErrorKind::ConnectionRefused));
        assert_eq!(kind(&exchange, &refused), Some(Kind::Refused));
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Connect)), Some(Kind::ConnectTimeout));
        let unreachable = End::ConnectFailed(error(ErrorKind::NetworkUnreachable));
        assert_eq!(kind(&exchange, &unreachable), Some(Kind::ConnectFailed));
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Idle)), Some(Kind::NoProgress));
        assert_eq!(kind(&exchange, &End::Failed(error(ErrorKind::BrokenPipe))), Some(Kind::Reset));
        assert_eq!(kind(&exchange, &End::Failed(error(ErrorKind::WriteZero))), Some(Kind::Failed));
    }

    #[test]
    fn a_whole_echo_that_is_not_closed_is_no_success() {
        let mut exchange = exchange();
        exchange.receive(b"hello", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        exchange.produce(&mut [0; 16], &Moment::START);
        assert_eq!(kind(&exchange, &End::Finished), None);
        assert_eq!(kind(&exchange, &End::TimedOut(Timeout::Idle)), Some(Kind::Unclosed));
    }

    #[test]
    fn a_truncation_stays_one_whatever_reset_follows() {
        let mut exchange = exchange();
        exchange.end_of_input(&[], &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        let reset = End::Failed(ErrorKind::ConnectionReset.into());
        assert_eq!(kind(&exchange, &reset), Some(Kind::Truncated));
    }

    #[test]
    fn faults_say_how_many_bytes_were_sent_and_how_many_of_them_are_back() {
        let mut exchange = exchange();
        exchange.receive(b"hel", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        for (end, detail) in [
            (End::Failed(ErrorKind::ConnectionReset.into()), "connection reset; 3 of 4 bytes sent are back"),
            (End::TimedOut(Timeout::Idle), "nothing moves; 3 of 4 bytes sent are back"),
        ] {
            // A byte of the five still waits in our own queue.
            let fault = told(&exchange, &end, 4, false).unwrap();
            assert_eq!((fault.sent, fault.returned, &*fault.detail), (Some(4), Some(3), detail));
        }
        let refused = End::ConnectFailed(ErrorKind::ConnectionRefused.into());
        let fault = told(&exchange, &refused, 0, false).unwrap();
        assert_eq!((fault.sent, fault.returned), (None, None), "it never stood");

        exchange.receive(b"lo", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        exchange.produce(&mut [0; 16], &Moment::START);
        let fault = told(&exchange, &End::TimedOut(Timeout::Idle), 5, false).unwrap();
        assert_eq!(fault.detail, "the peer does not finish; 5 of 5 bytes sent are back");
    }

    #[test]
    fn a_reset_with_nothing_missing_says_so() {
        let work = Work::texts(&[b"hello".to_vec(), b"again".to_vec()], 1, Box::new(NoMeter));
        work.begin(Moment::START, 1);
        let mut exchange = Exchange::new(1, Rc::new(work));
        exchange.produce(&mut [0; 16], &Moment::START);
        exchange.receive(b"hello", &mut Outbox::new(SendBuffer::new(), 100, &Moment::START));
        let fault = told(&exchange, &End::Failed(ErrorKind::ConnectionReset.into()), 5, false).unwrap();
        assert_eq!((fault.kind, fault.sent, fault.returned), (Kind::Reset, Some(5), Some(5)));
        assert_eq!(fault.detail, "connection reset; 5 of 5 bytes sent are back");
    }

    #[test]
    fn a_connect_timeout_while_others_stand_is_a_full_queue_and_no_firewall() {
        for end in [End::TimedOut(Timeout::Connect), End::ConnectFailed(ErrorKind::TimedOut.into())] {
            let detail = |others_stand| told(&exchange(), &end, 0, others_stand).unwrap().detail;
            assert!(detail(true).contains("accept queue") && !detail(true).contains("firewall"), "{}", detail(true));
            assert!(detail(false).contains("firewall") && !detail(false).contains("queue"), "{}", detail(false));
        }
    }
}
