//! What a client found: the value that a report is made of.
//!
//! Owns the account of a run that is over, or was interrupted. How it is shown is not decided here.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Client, Phase};
use crate::client::fault::{FaultKind, FaultyConnection};
use crate::client::kernel::Kernel;
use crate::client::load::{Content, Pacing};
use crate::client::measure::Figures;
use crate::client::outages::Outages;
use crate::client::side::Side;
use crate::engine::connection::Transport;
use crate::engine::event_loop::EventLoop;
use crate::engine::signals::Signal;
use crate::engine::system::Mio;
use crate::engine::time::Moment;

/// How many faulty connections are kept one by one; all are counted. A fault takes some 800 bytes here and as many in the
/// report, which is 160 MB for all of them, and 50 MB of JSON. `--faults` writes more than that.
pub const KEPT_FAULTS: usize = 100_000;

/// How many connections with the same kind of fault are described one by one to people, and asked about at the server. A
/// report is to fit a screen.
pub const DESCRIBED_FAULTS: usize = 10;

/// What a client found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// When the first connect was begun.
    pub started: SystemTime,
    /// When the last connection was over, or the run was interrupted.
    pub ended: SystemTime,
    /// The key of the generated messages, which makes their bytes.
    pub seed: Option<u64>,
    /// The address that most connections were established to; without any, the first that there is.
    pub target: SocketAddr,
    /// All addresses that connections were established to, those with most of them first.
    pub targets: Vec<SocketAddr>,
    /// What became of the connections.
    pub connections: Connections,
    /// The counters and histograms of the measured messages.
    pub figures: Figures,
    /// Whether messages are scheduled: an open loop, even if it has not begun.
    pub is_scheduled: bool,
    /// Measured messages that were due before the run was over, and never begun.
    pub missed: u64,
    /// Messages that were begun and not back when their connection failed, or when the run was interrupted.
    pub unanswered: u64,
    /// The scheduled messages that count as longer than all others: those that were missed or unanswered. But what was on
    /// its way at an interruption is one of them only if it had waited for longer than any message that came back. Of the
    /// others nobody knows.
    pub never: u64,
    /// The whole run, from the first connect on.
    pub elapsed: Duration,
    /// The measured part of it: from the first measured message to the last one's echo, or the time that was given for the
    /// messages if that is longer.
    pub measured: Duration,
    /// What this process spent in the measured part.
    pub effort: Effort,
    /// What the kernel counted and measured, on every connection that was begun.
    pub kernel: Kernel,
    /// The first faulty connections, [`KEPT_FAULTS`] at the most, in the order in which they failed.
    pub faults: Vec<FaultyConnection>,
    /// How many more there were.
    pub faults_left_out: u64,
    /// How many connections had each kind of fault.
    pub faults_by_kind: BTreeMap<FaultKind, u64>,
    /// Connections that were intact and over in the measured part, where connections come and go.
    pub measured_connections: Option<u64>,
    /// For how long connections and the service gave no answer, if those that fail are followed by others.
    pub outages: Option<Outages>,
    /// The signal that ended the run early.
    pub interrupted: Option<Signal>,
}

/// Counts of connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Asked for; where others follow those that end, begun.
    pub requested: u64,
    /// Established.
    pub established: u64,
    /// Established only when the connect had been sent again: by the shape of the connect times.
    pub sent_again: u64,
    /// A connection is intact if everything that it had to send was sent, every byte of it came back and no other
    /// byte did, and the server then closed it in order (with a FIN, not a reset), before the client or after it.
    pub intact: u64,
    /// With a fault.
    pub failed: u64,
    /// Neither: the run was interrupted.
    pub unfinished: u64,
    /// Due by the schedule of connections and never begun, as the others left no room.
    pub missed: u64,
}

/// CPU time that this process used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// All of it.
    pub cpu: Duration,
    /// The part of it that went into polling without sleeping.
    pub polled: Duration,
}

impl Effort {
    pub(super) fn of(system: &Mio) -> Effort {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0));
        Effort { cpu, polled: system.time_polled() }
    }

    fn since(self, before: Effort) -> Effort {
        Effort { cpu: self.cpu.saturating_sub(before.cpu), polled: self.polled.saturating_sub(before.polled) }
    }

    /// The part that went into work.
    #[must_use]
    pub fn working(self) -> Duration {
        self.cpu.saturating_sub(self.polled)
    }
}

/// Measured messages that are not back; see [`Findings`].
struct NotBack {
    missed: u64,
    unanswered: u64,
    never: u64,
}

impl Client {
    /// What the client found: counted to the end for connections that are over, so far for those still on `event_loop`.
    #[must_use]
    pub fn into_findings(mut self, event_loop: &EventLoop<Side>) -> Findings {
        self.look_at_the_unfinished(event_loop);
        let figures = self.figured.so_far();
        // One end for all: nothing lasts longer than the run.
        let now = event_loop.clock_now();
        let NotBack { missed, unanswered, never } = self.not_back(&figures, now, event_loop);
        let unfinished = self.connections.requested - self.connections.intact - self.connections.failed;
        let connections = Connections {
            unfinished,
            sent_again: self.window.sent_again(),
            missed: self.due_connections(now).saturating_sub(self.started),
            ..self.connections.clone()
        };
        let (elapsed, ended) = (now.since(self.began.unwrap_or(Moment::START)), SystemTime::now());
        let targets = self.targets();
        let outages = self.outages_until(now, event_loop);
        Findings {
            started: ended - elapsed,
            ended,
            seed: self.seed(),
            target: targets.first().copied().unwrap_or(self.addrs[0]),
            targets,
            connections,
            is_scheduled: self.is_scheduled(),
            missed,
            unanswered,
            never,
            elapsed,
            measured: self.measured(&figures, event_loop.now()),
            effort: Effort::of(event_loop.system()).since(self.effort_before.unwrap_or_default()),
            kernel: self.kernel,
            figures,
            faults: self.faults,
            faults_left_out: self.faults_left_out,
            faults_by_kind: self.faults_by_kind,
            measured_connections: self.plan.load.churn.map(|_| self.measured_connections),
            outages,
            interrupted: self.interrupted,
        }
    }

    /// The addresses that connections were established to, those with most of them first.
    fn targets(&self) -> Vec<SocketAddr> {
        let mut used: Vec<(u64, SocketAddr)> = self
            .established_to
            .iter()
            .copied()
            .zip(self.addrs.iter().copied())
            .filter(|&(count, _)| count > 0)
            .collect();
        used.sort_by_key(|&(count, _)| Reverse(count));
        used.into_iter().map(|(_, addr)| addr).collect()
    }

    fn seed(&self) -> Option<u64> {
        match self.plan.load.content {
            Content::Generated { run, .. } => Some(run),
            Content::Texts(_) => None,
        }
    }

    /// Takes the look that the others had at their end at the connections that are still on `event_loop`.
    fn look_at_the_unfinished(&mut self, event_loop: &EventLoop<Side>) {
        for (_, connection) in event_loop.connections() {
            if connection.protocol().exchange().is_some()
                && let Some(state) = connection.transport().tcp_state()
            {
                self.kernel.add(&state, !connection.is_connecting());
            }
        }
    }

    /// The outages until `now`, with those that are not over.
    fn outages_until(&mut self, now: Moment, event_loop: &EventLoop<Side>) -> Option<Outages> {
        let mut watch = self.outages.take()?;
        for exchange in event_loop.connections().filter_map(|(_, connection)| connection.protocol().exchange()) {
            watch.over(exchange.slot(), exchange.heard(), false);
        }
        Some(watch.sum(self.began.unwrap_or(Moment::START), now))
    }

    /// Counts the messages that are not back, those of connections that are still on `event_loop` among them.
    fn not_back(&self, figures: &Figures, now: Moment, event_loop: &EventLoop<Side>) -> NotBack {
        let missed = self.missed(figures);
        let longest = Duration::from_micros(figures.scheduled.max());
        let (mut on_their_way, mut waited) = (0, 0);
        for exchange in event_loop.connections().filter_map(|(_, connection)| connection.protocol().exchange()) {
            on_their_way += exchange.unanswered();
            waited += exchange.unanswered_for(longest, now);
        }
        let never = if self.is_scheduled() { missed + figures.unanswered + waited } else { 0 };
        NotBack { missed, unanswered: figures.unanswered + on_their_way, never }
    }

    fn is_scheduled(&self) -> bool {
        matches!(self.plan.load.pacing, Pacing::Rate(_))
    }

    /// How long the measured part took. A run for a given time counts as that, even if the last echo came early: one message
    /// a second, echoed in a microsecond, is not a million a second. The same holds for the time that a rate gives to its
    /// messages. But a signal, or the failure of all, may end it before.
    fn measured(&self, figures: &Figures, now: Moment) -> Duration {
        let Some(first) = self.run.first_measured() else { return Duration::ZERO };
        let last = figures.last_echo.unwrap_or(first);
        let whole = self.interrupted.is_none() && (self.connections.intact > 0 || self.run.is_refilled);
        let given_until = match self.run.schedule() {
            Some(schedule) => Some(schedule.until),
            None => self.run.stop(),
        };
        let end = match given_until {
            Some(until) if whole => until,
            Some(until) => until.min(now),
            // Without any echo, it was waited for to the end.
            None => figures.last_echo.unwrap_or(now),
        };
        last.max(end).since(first)
    }

    /// Measured messages that were due before the run was over, and never begun.
    pub(super) fn missed(&self, figures: &Figures) -> u64 {
        let Some(schedule) = self.run.schedule() else { return 0 };
        // No connection had to begin what falls due between the last look at the schedule and a signal.
        let due = if self.phase == Phase::Closing { schedule.end } else { self.next_message };
        due.saturating_sub(schedule.first).saturating_sub(figures.begun)
    }
}
