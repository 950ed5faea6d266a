//! What the client found out, as one value, one JSON object and one screen of text.
//!
//! Owns the shape of the report, which docs/report.md describes, and the judgement of the figures. Decides nothing about
//! the run.

mod distribution;
mod every;
pub mod expect;
pub mod fault_log;
mod faults;
pub mod hdr_log;
pub mod hints;
pub mod interval;
pub mod invocation;
pub mod measured;
pub mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use self::distribution::Row;
use self::expect::{Expectation, Outcome};
use self::hints::Hint;
use self::interval::IntervalReport;
use self::invocation::Invocation;
use self::measured::Measured;
use crate::client::direction::Way;
use crate::client::evidence::rfc3339;
use crate::client::fault::{FaultKind, FaultyConnection};
use crate::client::findings::{Connections, Findings};
use crate::client::kernel::Kernel;
use crate::client::measure::{self, Figures, LATE};
use crate::client::outages::Outages;
use crate::engine::signals::Signal;

/// The number of the report's shape. It changes when a program that reads the report would have to.
pub const SCHEMA: u32 = 2;

/// From this share of a core on, a client is thought to be the limit of its own figures.
const BUSY: f64 = 0.9;

/// A shorter run is mostly its beginning, which is all work: the share of a core that it used says nothing.
const SHORTEST_JUDGED: Duration = Duration::from_millis(100);

/// What became of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which program made it, and where.
    #[serde(flatten)]
    pub invocation: Invocation,
    /// When the first connect was begun.
    #[serde(serialize_with = "rfc3339")]
    pub started: SystemTime,
    /// When the last connection was over, or the run was interrupted.
    #[serde(serialize_with = "rfc3339")]
    pub ended: SystemTime,
    /// What `--seed` takes to send the same bytes again; `None` for texts.
    pub seed: Option<String>,
    /// The address that most connections were established to; without any, the first that there is.
    pub target: SocketAddr,
    /// All addresses that connections were established to, those with most of them first.
    pub targets: Vec<SocketAddr>,
    /// What became of the connections.
    pub connections: Connections,
    /// Measured messages.
    pub messages: Messages,
    /// Measured bytes, one way each.
    pub bytes: Bytes,
    /// The whole run, from the first connect to the last connection's end.
    pub elapsed_seconds: f64,
    /// The measured part of it: from the first measured message to the last one's echo, or the time that was given for the
    /// messages if that is longer.
    pub measured_seconds: f64,
    /// Echoed messages by the seconds of the measured part.
    pub messages_per_second: f64,
    /// Echoed bytes by the same, in 10⁶.
    pub megabytes_per_second: f64,
    /// Connections that were intact and over in the measured part, by seconds, where connections come and go.
    pub connections_per_second: Option<f64>,
    /// Times of messages.
    pub latency_us: Latency,
    /// Times of connects.
    pub connect_us: Option<Times>,
    /// How late scheduled connects were begun.
    pub connect_late_us: Option<Times>,
    /// From our FIN, decided on when everything was back, to the peer's.
    pub close_us: Option<Times>,
    /// From a message's first write to its first byte back.
    pub first_byte_us: Option<Times>,
    /// How late messages were sent, in an open loop.
    pub late_us: Option<Times>,
    /// What the kernel counted and measured, if it tells.
    pub kernel: Option<KernelView>,
    /// The faulty connections, in the order in which they failed.
    pub faults: Vec<FaultyConnection>,
    /// How many more there were.
    pub faults_left_out: u64,
    /// How many connections had each kind of fault.
    pub faults_by_kind: BTreeMap<FaultKind, u64>,
    /// The run in intervals, if that was wished and nothing else was done with them.
    pub intervals: Vec<IntervalReport>,
    /// For how long connections and the service gave no answer, if those that fail are followed by others.
    pub outages: Option<Outages>,
    /// What in the run usually has one certain cause. It changes no verdict.
    pub hints: Vec<Hint>,
    /// What was expected of the run, and whether it held.
    pub expectations: Vec<Outcome>,
    /// The signal that ended the run early.
    #[serde(serialize_with = "signal_name")]
    pub interrupted: Option<Signal>,
    /// How the client itself did.
    pub client: ClientState,
}

/// Counts of messages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Messages {
    /// Sent whole.
    pub sent: u64,
    /// Back whole.
    pub echoed: u64,
    /// Scheduled until the run was over, and never begun.
    pub missed: u64,
    /// Begun, and not back when their connection failed or the run was interrupted.
    pub unanswered: u64,
}

/// Counts of bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Bytes {
    /// Sent.
    pub sent: u64,
    /// Back, and right.
    pub echoed: u64,
}

/// What the kernel counted and measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelView {
    /// Segments of all connections.
    pub segments: Segments,
    /// Round trips in microseconds; `None` if none was measured.
    pub rtt_us: Option<RoundTrips>,
    /// The most bytes that were put into one segment in the end; `None` if no connection stood.
    pub mss: Option<Mss>,
}

/// Counts of segments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Segments {
    /// Sent, of any kind, those that were retransmitted among them.
    pub sent: u64,
    /// Sent again.
    pub retransmitted: u64,
}

/// Round trips between the kernels of both ends, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoundTrips {
    /// The shortest of all.
    pub min: u64,
    /// Half of the connections had a smoothed round trip no longer than this in the end.
    pub p50: u64,
}

/// The maximum segment sizes of all connections, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mss {
    /// The smallest.
    pub min: u32,
    /// The largest.
    pub max: u32,
}

impl KernelView {
    fn of(kernel: &Kernel) -> Option<KernelView> {
        let Kernel { segments_sent: sent, segments_retransmitted: retransmitted, shortest_rtt, rtt, mss } = kernel;
        let p50 = measure::percentile(rtt, 0, 50.0);
        let min = shortest_rtt.and_then(|time| u64::try_from(time.as_micros()).ok());
        (*sent > 0).then(|| KernelView {
            segments: Segments { sent: *sent, retransmitted: *retransmitted },
            rtt_us: min.zip(p50).map(|(min, p50)| RoundTrips { min, p50 }),
            mss: mss.as_ref().map(|mss| Mss { min: *mss.start(), max: *mss.end() }),
        })
    }
}

/// One line, without its name.
impl fmt::Display for KernelView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Segments { sent, retransmitted } = self.segments;
        write!(f, "{retransmitted} of {sent} segments retransmitted")?;
        if let Some(RoundTrips { min, p50 }) = self.rtt_us {
            write!(f, "; RTT {min} µs at least, {p50} µs median")?;
        }
        match self.mss {
            Some(Mss { min, max }) if min == max => write!(f, "; MSS {min}"),
            Some(Mss { min, max }) => write!(f, "; MSS {min} to {max}"),
            None => Ok(()),
        }
    }
}

/// Times of messages.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From the first write to the last byte back.
    pub service: Option<Times>,
    /// From the scheduled time to the last byte back, in an open loop.
    pub scheduled: Option<Times>,
    /// How many more scheduled messages count as longer than all others.
    pub never: u64,
    #[serde(skip)]
    distribution: Vec<Row>,
}

/// A histogram's most telling figures, in microseconds. Where messages never came back, they count as longer than all
/// others: what falls among them is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// How many times there are.
    pub count: u64,
    /// The shortest.
    pub min: Option<u64>,
    /// The mean.
    pub mean: Option<f64>,
    /// Half are no longer than this.
    pub p50: Option<u64>,
    /// 90 % are.
    pub p90: Option<u64>,
    /// 99 % are.
    pub p99: Option<u64>,
    /// 99.9 % are.
    pub p999: Option<u64>,
    /// 99.99 % are.
    pub p9999: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

impl Times {
    /// The figures of a histogram, with `never` more messages that never came back; `None` of no messages at all.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>, never: u64) -> Option<Times> {
        let percentile = |percent: f64| measure::percentile(histogram, never, percent);
        (histogram.len() + never > 0).then(|| Times {
            count: histogram.len(),
            min: (!histogram.is_empty()).then(|| histogram.min()),
            mean: (never == 0).then(|| histogram.mean()),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            p9999: percentile(99.99),
            max: percentile(100.0),
        })
    }
}

impl Latency {
    /// Beside the scheduled messages in the histogram there are `never` more, which did not come back.
    /// No more than `rows` show how they are distributed.
    fn of(figures: &Figures, is_scheduled: bool, never: u64, rows: usize) -> Latency {
        let (service, scheduled) = (&figures.service, &figures.scheduled);
        let shown = if is_scheduled { scheduled } else { service };
        Latency {
            service: Times::of(service, 0),
            scheduled: Times::of(scheduled, never),
            never,
            distribution: distribution::rows(shown, rows),
        }
    }
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn signal_name<S: Serializer>(signal: &Option<Signal>, serializer: S) -> Result<S::Ok, S::Error> {
    signal.map(name_of).serialize(serializer)
}

/// The signal's name as programs know it. The log calls SIGINT what Ctrl-C is to its user, an interrupt.
fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::Interrupt => "SIGINT",
        Signal::Terminate | Signal::Status => signal.name(),
    }
}

/// How the client itself did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClientState {
    /// CPU time that it used while it measured.
    pub cpu_seconds: f64,
    /// Whether the figures are the client's limits rather than the path's.
    pub bottleneck: bool,
    /// Scheduled messages that it began more than 1 ms late though nothing was in their way.
    pub own_late: u64,
    /// Why it is thought so, or why the figures are not what was asked for.
    pub why: Option<String>,
}

impl ClientState {
    /// Judges whether the figures say more of the client than of the path.
    fn of(findings: &Findings, figures: &Figures) -> ClientState {
        let mut why = Vec::new();
        let share = findings.effort.working().as_secs_f64() / findings.measured.as_secs_f64().max(f64::MIN_POSITIVE);
        if share >= BUSY && findings.measured >= SHORTEST_JUDGED {
            why.push(format!("the client was the bottleneck: it used {:.0} % of a core", share * 100.0));
        }
        let all = figures.begun + figures.given_up;
        if figures.own_late.saturating_mul(100) > all {
            let percent = percent(figures.own_late, all);
            let late = LATE.as_millis();
            why.push(format!(
                "the client fell behind its schedule: by itself it was more than {late} ms late with {percent:.0} % of the \
                 messages"
            ));
        }
        let bottleneck = !why.is_empty();
        let Connections { requested, established, .. } = findings.connections;
        if established < requested && findings.interrupted.is_none() {
            why.push(format!("{established} connections were established and not {requested}"));
        }
        let why = (!why.is_empty()).then(|| why.join("; "));
        let cpu_seconds = findings.effort.cpu.as_secs_f64();
        ClientState { cpu_seconds, bottleneck, own_late: figures.own_late, why }
    }
}

impl Report {
    /// The report of what a client found, with the judgement of what was expected of it.
    #[must_use]
    pub fn of(findings: &Findings, expectations: &[Expectation]) -> Report {
        let (run, figures, hints) = (Measured::of_run(findings), &findings.figures, hints::of(findings));
        // Faults take the report of a run that is not intact beyond a screen in any case.
        let taken = if findings.faults_by_kind.is_empty() { hints::lines(&hints).len() } else { 0 };
        let rows = distribution::ROWS.saturating_sub(taken).max(1);
        Report {
            schema: SCHEMA,
            invocation: Invocation::of_this_process(),
            started: findings.started,
            ended: findings.ended,
            seed: findings.seed.map(|seed| format!("{seed:016x}")),
            target: findings.target,
            targets: findings.targets.clone(),
            connections: findings.connections.clone(),
            messages: Messages {
                sent: figures.messages_sent,
                echoed: figures.messages_echoed,
                missed: findings.missed,
                unanswered: findings.unanswered,
            },
            bytes: Bytes { sent: figures.bytes_sent, echoed: figures.bytes_echoed },
            elapsed_seconds: findings.elapsed.as_secs_f64(),
            measured_seconds: findings.measured.as_secs_f64(),
            messages_per_second: run.messages_per_second(),
            megabytes_per_second: run.megabytes_per_second(),
            connections_per_second: run.connections_per_second(),
            latency_us: Latency::of(figures, findings.is_scheduled, findings.never, rows),
            connect_us: Times::of(&figures.connect, 0),
            connect_late_us: Times::of(&figures.connect_late, 0),
            close_us: Times::of(&figures.close, 0),
            first_byte_us: Times::of(&figures.first_byte, 0),
            late_us: Times::of(&figures.late, 0),
            kernel: KernelView::of(&findings.kernel),
            faults: findings.faults.clone(),
            faults_left_out: findings.faults_left_out,
            faults_by_kind: findings.faults_by_kind.clone(),
            intervals: Vec::new(),
            outages: findings.outages.clone(),
            hints,
            expectations: expectations.iter().map(|expected| expected.outcome(&run)).collect(),
            interrupted: findings.interrupted,
            client: ClientState::of(findings, figures),
        }
    }

    /// Whether every connection asked for was intact.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.connections.intact == self.connections.requested
    }

    /// Whether everything that was expected of the run held.
    #[must_use]
    pub fn meets_expectations(&self) -> bool {
        self.expectations.iter().all(|outcome| outcome.held)
    }
}

/// The report for people; it ends with a newline.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connections { requested, established, intact, failed, unfinished, missed, .. } = self.connections;
        write!(f, "target       {}", self.target)?;
        for other in self.targets.iter().skip(1) {
            write!(f, ", {other}")?;
        }
        writeln!(f)?;
        write!(f, "connections  {requested} requested, {established} established, {intact} intact, {failed} failed")?;
        if unfinished > 0 {
            write!(f, ", {unfinished} unfinished")?;
        }
        if missed > 0 {
            write!(f, ", {missed} missed")?;
        }
        if let Some(rate) = self.connections_per_second {
            let digits = if rate < 10.0 { 2 } else { 0 };
            write!(f, "; {rate:.digits$} a second")?;
        }
        let Messages { sent, echoed, missed, unanswered } = self.messages;
        write!(f, "\nmessages     {sent} sent, {echoed} echoed")?;
        if missed > 0 {
            write!(f, ", {missed} missed")?;
        }
        if unanswered > 0 {
            write!(f, ", {unanswered} unanswered")?;
        }
        // A message every two seconds is not "1 a second".
        let digits = if self.messages_per_second < 10.0 { 2 } else { 0 };
        writeln!(f, "; {:.digits$} a second", self.messages_per_second)?;
        let (sent, echoed) = (self.bytes.sent, self.bytes.echoed);
        writeln!(f, "bytes        {sent} sent, {echoed} echoed; {:.1} MB/s", self.megabytes_per_second)?;
        // The tutorial's run is over in a tenth of a millisecond.
        let digits = if self.elapsed_seconds < 0.1 { 6 } else { 3 };
        let whole = format!("{:.digits$}", self.elapsed_seconds);
        let measured = format!("{:.digits$}", self.measured_seconds);
        write!(f, "elapsed      {whole} s")?;
        // A schedule gives its messages a time, which may be longer than they took; then there is no part to name.
        if self.messages.echoed > 0 && self.measured_seconds < self.elapsed_seconds && measured != whole {
            write!(f, ", {measured} s of it measured")?;
        }
        writeln!(f, "; client CPU {:.digits$} s", self.client.cpu_seconds)?;
        if let Some(kernel) = &self.kernel {
            writeln!(f, "kernel       {kernel}")?;
        }
        self.write_times(f)?;
        self.write_distribution(f)?;
        let never = self.latency_us.never;
        if never > 0 {
            let all = self.messages.echoed + never;
            writeln!(f, "never        {never} of {all} messages are not back and count as the longest times")?;
        }
        self.write_faults(f)?;
        if let Some(outages) = &self.outages {
            writeln!(f, "outages      {outages}")?;
        }
        for line in hints::lines(&self.hints) {
            writeln!(f, "{line}")?;
        }
        for outcome in &self.expectations {
            writeln!(f, "expected     {outcome}")?;
        }
        if let Some(signal) = self.interrupted {
            writeln!(f, "interrupted  by {}", name_of(signal))?;
        }
        writeln!(f, "verdict      {}", self.verdict())
    }
}

impl Report {
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of connections that stay, there is little to say of their ends.
        let close = if self.connections_per_second.is_some() { &self.close_us } else { &None };
        let rows = [
            ("service", &self.latency_us.service),
            ("scheduled", &self.latency_us.scheduled),
            ("first byte", &self.first_byte_us),
            ("late", &self.late_us),
            ("connect", &self.connect_us),
            ("connect late", &self.connect_late_us),
            ("close", close),
        ];
        if rows.iter().all(|(_, times)| times.is_none()) {
            return Ok(());
        }
        let columns = ["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
        write!(f, "\n{:<12}", "µs")?;
        for column in columns {
            write!(f, "{column:>10}")?;
        }
        writeln!(f)?;
        for (name, times) in rows {
            if let Some(Times { mean, p50, p90, p99, p999, p9999, max, .. }) = times {
                write!(f, "{name:<12}")?;
                for time in [p50, p90, p99, p999, p9999, max] {
                    write!(f, "{:>10}", time.map_or("never".to_owned(), |time| time.to_string()))?;
                }
                writeln!(f, "{:>10}", mean.map_or("never".to_owned(), |mean| format!("{mean:.0}")))?;
            }
        }
        writeln!(f)
    }

    /// A line for each row that holds something, with its bar.
    fn write_distribution(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: u64 = 40;
        let rows = &self.latency_us.distribution;
        let total: u64 = rows.iter().map(|row| row.count).sum();
        let most = rows.iter().map(|row| row.count).max().unwrap_or_default();
        if total < 100 {
            return Ok(()); // The table says it all.
        }
        let which = if self.latency_us.scheduled.is_some() { "scheduled" } else { "service" };
        writeln!(f, "{which}, of messages that came back")?;
        for row in rows {
            let bar = "#".repeat(usize::try_from((row.count * WIDTH).div_ceil(most)).unwrap_or_default());
            let share = match percent(row.count, total) {
                tiny if tiny < 0.1 => "< 0.1".to_owned(),
                share => format!("{share:.1}"),
            };
            writeln!(f, "{:>15} {bar:<40} {share:>5} %", row.label())?;
        }
        writeln!(f)
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.faults_by_kind.is_empty() {
            return Ok(());
        }
        let kinds: Vec<String> = self.faults_by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(f, "faults       {}", kinds.join(", "))?;
        for line in faults::lines(&self.faults) {
            writeln!(f, "  {line}")?;
        }
        if self.faults_left_out > 0 {
            writeln!(f, "  and {} more, later", self.faults_left_out)?;
        }
        writeln!(f, "started      {}, on {}", humantime::format_rfc3339_millis(self.started), self.invocation.host)?;
        if self.faults.iter().any(|faulty| faulty.fault.way == Some(Way::Unknown)) {
            writeln!(f, "way          unknown: the server keeps no account (multiconn-server --probes keeps one)")?;
        }
        Ok(())
    }

    /// One line, for readers of one line.
    fn verdict(&self) -> String {
        let Connections { requested, intact, failed, unfinished, .. } = self.connections;
        let mut verdict = vec![if intact == requested {
            "intact: every byte of every connection came back".to_owned()
        } else if failed > 0 {
            format!("faulty: {failed} of {requested} connections were not intact")
        } else {
            format!("incomplete: {unfinished} of {requested} connections were cut off")
        }];
        match self.expectations.iter().filter(|outcome| !outcome.held).count() {
            0 => {}
            1 => verdict.push("1 expectation did not hold".to_owned()),
            several => verdict.push(format!("{several} expectations did not hold")),
        }
        if self.connections.missed > 0 {
            verdict.push(format!("{} connections were missed: due, and not begun", self.connections.missed));
        }
        if self.messages.missed > 0 {
            verdict.push(format!("{} messages were missed: due, and not sent", self.messages.missed));
        }
        verdict.extend(self.client.why.clone());
        verdict.join("; ")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(count: u64, total: u64) -> f64 {
    count as f64 * 100.0 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_state::TcpState;

    use crate::client::findings::Effort;
    use crate::client::measure::{Figured, Meter, Sample, Scheduled};
    use crate::engine::time::Moment;

    /// What a run found in which 100 messages came back, 10 ms after their scheduled times and 2 ms after they were sent.
    fn findings(is_scheduled: bool) -> Findings {
        let figured = Figured::new();
        let service = Duration::from_millis(2);
        let scheduled =
            is_scheduled.then_some(Scheduled { late: Duration::from_millis(8), total: Duration::from_millis(10) });
        for _ in 0..100 {
            figured.echoed(Sample { at: Moment::START, first_byte: service, service, scheduled });
        }
        Findings {
            started: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            seed: None,
            target: ([192, 0, 2, 1], 7).into(),
            targets: Vec::new(),
            connections: Connections { requested: 1, established: 1, intact: 1, ..Connections::default() },
            figures: figured.so_far(),
            is_scheduled,
            missed: 0,
            unanswered: 0,
            never: 0,
            elapsed: Duration::from_secs(1),
            measured: Duration::from_secs(1),
            effort: Effort::default(),
            kernel: Kernel::new(),
            faults: Vec::new(),
            faults_left_out: 0,
            faults_by_kind: BTreeMap::new(),
            measured_connections: None,
            outages: None,
            interrupted: None,
        }
    }

    fn text(findings: &Findings) -> String {
        Report::of(findings, &[]).to_string()
    }

    #[test]
    fn the_bars_say_which_times_they_show_and_of_which_messages() {
        let under_heading = |findings: &Findings, heading: &str| {
            let text = text(findings);
            let (_, bars) = text.split_once(heading).unwrap_or_else(|| panic!("{text}"));
            bars.lines().nth(1).unwrap().trim().to_owned()
        };
        let closed = under_heading(&findings(false), "\nservice, of messages that came back");
        assert!(closed.starts_with("2 - 2.24 ms ####"), "{closed}");
        let open = Findings { missed: 50, never: 50, ..findings(true) };
        let open = under_heading(&open, "\nscheduled, of messages that came back");
        assert!(open.starts_with("10 - 11.2 ms ####") && open.ends_with("100.0 %"), "{open}");
    }

    #[test]
    fn the_report_of_an_intact_run_fits_the_lines_of_a_terminal_whatever_the_times() {
        for (is_scheduled, hints) in [(false, 0), (true, 0), (false, 3), (true, 3)] {
            let mut findings = findings(is_scheduled);
            findings.kernel.add(&looked_at(1448), true);
            let figured = Figured::new();
            let echoed = |time| {
                let scheduled = is_scheduled.then_some(Scheduled { late: time, total: time });
                figured.echoed(Sample { at: Moment::START, first_byte: time, service: time, scheduled });
            };
            let mut time = Duration::from_micros(1);
            while time < Duration::from_secs(3600) {
                echoed(time);
                time = time * 5 / 4 + Duration::from_micros(1);
            }
            figured.connected(time);
            if hints > 0 {
                findings.connections.sent_again = 1;
                (0..20_000).for_each(|_| echoed(Duration::from_millis(43)));
                (0..3).for_each(|_| figured.heard_first(time));
                findings.measured = time * 300; // Long enough to say that nothing else took as long.
            }
            findings.figures.add(&figured.so_far());
            let text = text(&findings);
            assert_eq!(text.matches("\nhint ").count(), hints, "{text}");
            assert!(text.contains("\nkernel       ") && text.lines().count() <= 24, "{text}");
        }
    }

    /// What the kernel knows of a connection with this MSS.
    fn looked_at(mss: u32) -> TcpState {
        TcpState {
            segments_sent: Some(1020),
            segments_retransmitted: 6,
            shortest_rtt: Some(Duration::from_micros(21)),
            smoothed_rtt: Some(Duration::from_micros(35)),
            mss,
            ..TcpState::default()
        }
    }

    #[test]
    fn the_kernels_line_says_what_the_kernel_tells() {
        let kernel = |looks: &[(TcpState, bool)]| {
            let mut findings = findings(false);
            for (state, stood) in looks {
                findings.kernel.add(state, *stood);
            }
            Report::of(&findings, &[])
        };
        for (looks, line) in [
            (
                &[(looked_at(1448), true), (looked_at(1448), true)][..],
                "\nkernel       12 of 2040 segments retransmitted; RTT 21 µs at least, 35 µs median; MSS 1448\n",
            ),
            (&[(looked_at(1448), true), (looked_at(1300), true)], " median; MSS 1300 to 1448\n"),
            // A connect that nobody answered.
            (&[(looked_at(536), false)], "\nkernel       6 of 1020 segments retransmitted\n"),
        ] {
            let report = kernel(looks);
            assert!(report.to_string().contains(line), "{report}");
        }
        let silent = kernel(&[]);
        assert!(!silent.to_string().contains("kernel"), "{silent}");
        assert_eq!(serde_json::to_value(&silent).unwrap()["kernel"], serde_json::Value::Null);
    }

    #[test]
    fn unanswered_messages_are_counted_whatever_the_loop() {
        for is_scheduled in [false, true] {
            let text = text(&Findings { unanswered: 7, ..findings(is_scheduled) });
            assert!(text.contains("\nmessages     0 sent, 100 echoed, 7 unanswered; "), "{text}");
        }
    }

    #[test]
    fn the_verdict_says_how_many_messages_were_never_sent() {
        let text = text(&Findings { missed: 7, ..findings(true) });
        assert!(text.lines().last().unwrap().ends_with("; 7 messages were missed: due, and not sent"), "{text}");
    }

    #[test]
    fn connections_that_were_not_established_are_not_said_to_have_run() {
        let connections = Connections { requested: 3, established: 2, failed: 3, ..Connections::default() };
        let text = text(&Findings { connections, ..findings(false) });
        assert!(text.ends_with("; 2 connections were established and not 3\n"), "{text}");
    }

    #[test]
    fn failures_have_a_hint_only_if_all_are_known_and_it_changes_no_verdict() {
        let with_faults = |faults_left_out| {
            let faults = [2, 4, 6].map(|number| faults::tests::faulty(number, FaultKind::Reset, 0)).to_vec();
            let connections =
                Connections { requested: 7, established: 7, intact: 4, failed: 3, ..Connections::default() };
            Report::of(&Findings { connections, faults, faults_left_out, ..findings(false) }, &[])
        };
        let (all, some) = (with_faults(0), with_faults(1));
        assert_eq!((all.hints.len(), some.hints.len()), (1, 0), "{all}");
        assert_eq!(all.verdict(), some.verdict());
        let mut lines = all.to_string().lines().rev().map(str::to_owned).collect::<Vec<_>>();
        lines.truncate(3);
        assert!(lines[0].starts_with("verdict ") && lines[2].starts_with("hint         one in 2 "), "{lines:#?}");
    }

    #[test]
    fn the_signal_that_ended_the_run_has_its_own_name() {
        for (signal, name) in [(Signal::Interrupt, "SIGINT"), (Signal::Terminate, "SIGTERM")] {
            let report = Report::of(&Findings { interrupted: Some(signal), ..findings(false) }, &[]);
            assert!(report.to_string().contains(&format!("\ninterrupted  by {name}\n")), "{report}");
            assert_eq!(serde_json::to_value(&report).unwrap()["interrupted"], name);
        }
    }
}
