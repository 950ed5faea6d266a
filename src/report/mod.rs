//! What the client found out, as one value, one JSON object and one screen of text.
//!
//! Owns the shape of the report; docs/report.md describes it. Decides nothing about the run.

mod distribution;
pub mod expect;
pub mod hdr_log;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use self::distribution::Row;
use self::expect::Outcome;
use crate::client::measure;
use crate::engine::signals::Signal;

/// The number of the report's shape. It changes when a program that reads the report would have to.
pub const SCHEMA: u32 = 1;

/// How many failed connections are described one by one; all are counted. A report is to fit a screen.
pub const DESCRIBED_FAULTS: usize = 10;

/// What became of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The address that was connected to, or the first of several.
    pub target: SocketAddr,
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
    pub seconds: f64,
    /// Echoed messages by seconds.
    pub messages_per_second: f64,
    /// Echoed bytes by seconds, in 10⁶.
    pub megabytes_per_second: f64,
    /// Times of messages.
    pub latency_us: Latency,
    /// Times of connects.
    pub connect_us: Option<Times>,
    /// From a message's first write to its first byte back.
    pub first_byte_us: Option<Times>,
    /// How late messages were sent, in an open loop.
    pub schedule_error_us: Option<Times>,
    /// The first faulty connections.
    pub faults: Vec<ReportedFault>,
    /// How many connections had each kind of fault.
    pub faults_by_kind: BTreeMap<Kind, u32>,
    /// What was expected of the run, and whether it held.
    pub expectations: Vec<Outcome>,
    /// The signal that ended the run early.
    #[serde(serialize_with = "signal_name")]
    pub interrupted: Option<Signal>,
    /// How the client itself did.
    pub client: ClientState,
}

/// Counts of connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Asked for.
    pub requested: u32,
    /// Established.
    pub established: u32,
    /// Established only after the first attempt had been dropped: by the shape of the connect times.
    pub retransmitted: u64,
    /// A connection is intact if everything that it had to send was sent, every byte of it came back and no other
    /// byte did, and the server then closed it in order (with a FIN, not a reset), before the client or after it.
    pub intact: u32,
    /// With a fault.
    pub failed: u32,
    /// Neither: the run was interrupted.
    pub unfinished: u32,
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
    /// Begun, and not back when their connection failed.
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

/// Times of messages.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From the first write to the last byte back.
    pub service: Option<Times>,
    /// From the scheduled time to the last byte back, in an open loop.
    pub scheduled: Option<Times>,
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
    /// So many of the scheduled messages `never` came back.
    pub(super) fn of(service: &Histogram<u64>, scheduled: &Histogram<u64>, never: u64) -> Latency {
        let shown = if scheduled.is_empty() { service } else { scheduled };
        Latency {
            service: Times::of(service, 0),
            scheduled: Times::of(scheduled, never),
            distribution: distribution::rows(shown),
        }
    }
}

/// A connection that was not intact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedFault {
    /// Its number, counted from 1.
    pub connection: u32,
    /// What kind of fault.
    pub kind: Kind,
    /// The byte of the echoed stream, counted from zero, where it begins, if it has a place.
    pub offset: Option<u64>,
    /// What should have come, in hex, up to 16 bytes.
    #[serde(serialize_with = "hex")]
    pub expected: Vec<u8>,
    /// What came.
    #[serde(serialize_with = "hex")]
    pub got: Vec<u8>,
    /// The bytes that were handed to the system, if the connection ever stood. What waited for a full socket is not among
    /// them; some of them may not have left this host.
    pub sent: Option<u64>,
    /// How many of them came back right.
    pub returned: Option<u64>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// What exactly, for people.
    pub detail: String,
}

impl fmt::Display for ReportedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} to {} {}: {}", self.connection, self.peer, self.kind, self.detail)
    }
}

fn hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&digits.concat())
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn signal_name<S: Serializer>(signal: &Option<Signal>, serializer: S) -> Result<S::Ok, S::Error> {
    signal.map(Signal::name).serialize(serializer)
}

/// The kinds of fault, one a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody listens there.
    Refused,
    /// The connect was not answered in time.
    ConnectTimeout,
    /// The connect failed in some other way: no route, no free port, no descriptor.
    ConnectFailed,
    /// Bytes came that were not sent there: other bytes than were sent, or bytes before anything was sent.
    Corrupted,
    /// Bytes are missing.
    Lost,
    /// Bytes came again.
    Duplicated,
    /// Another connection's bytes came.
    Foreign,
    /// The peer finished, and bytes that were sent are missing.
    Truncated,
    /// The peer finished before the work was done, and everything that was sent was back.
    ClosedEarly,
    /// Bytes came behind the last byte of the last message.
    Extra,
    /// The peer reset the connection.
    Reset,
    /// Nothing moved for too long.
    NoProgress,
    /// The work was done and everything was back, but the peer did not finish.
    Unclosed,
    /// Anything else that the system said.
    Failed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Refused => "refused",
            Kind::ConnectTimeout => "connect timeout",
            Kind::ConnectFailed => "connect failed",
            Kind::Corrupted => "corrupted",
            Kind::Lost => "lost",
            Kind::Duplicated => "duplicated",
            Kind::Foreign => "foreign",
            Kind::Truncated => "truncated",
            Kind::ClosedEarly => "closed early",
            Kind::Extra => "extra",
            Kind::Reset => "reset",
            Kind::NoProgress => "no progress",
            Kind::Unclosed => "unclosed",
            Kind::Failed => "failed",
        })
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
    pub late_messages: u64,
    /// Why it is thought so, or why the figures are not what was asked for.
    pub why: Option<String>,
}

impl Report {
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
        let Connections { requested, established, intact, failed, unfinished, retransmitted } = self.connections;
        writeln!(f, "target       {}", self.target)?;
        write!(f, "connections  {requested} asked for, {established} established, {intact} intact, {failed} failed")?;
        if unfinished > 0 {
            write!(f, ", {unfinished} unfinished")?;
        }
        let Messages { sent, echoed, missed, unanswered } = self.messages;
        write!(f, "\nmessages     {sent} sent, {echoed} echoed")?;
        if missed > 0 {
            write!(f, ", {missed} missed")?;
        }
        writeln!(f, "; {:.0} a second", self.messages_per_second)?;
        let (sent, echoed) = (self.bytes.sent, self.bytes.echoed);
        writeln!(f, "bytes        {sent} sent, {echoed} echoed; {:.1} MB/s", self.megabytes_per_second)?;
        // The tutorial's run is over in a tenth of a millisecond.
        let digits = if self.elapsed_seconds < 0.1 { 6 } else { 3 };
        let whole = format!("{:.digits$}", self.elapsed_seconds);
        let measured = format!("{:.digits$}", self.seconds);
        write!(f, "elapsed      {whole} s")?;
        // A schedule gives its messages a time, which may be longer than what they took; then there is no part to tell.
        if self.messages.echoed > 0 && self.seconds < self.elapsed_seconds && measured != whole {
            write!(f, ", {measured} s of it measured")?;
        }
        writeln!(f, "; client CPU {:.digits$} s", self.client.cpu_seconds)?;
        self.write_times(f)?;
        self.write_distribution(f)?;
        let never = missed + unanswered;
        if self.latency_us.scheduled.is_some() && never > 0 {
            let all = self.messages.echoed + never;
            writeln!(f, "never back   {never} of {all} messages, which count as the longest times")?;
        }
        if retransmitted > 0 {
            writeln!(f, "sent again   {retransmitted} connects: full backlog (try --connect-rate) or lossy path")?;
        }
        self.write_faults(f)?;
        for outcome in &self.expectations {
            writeln!(f, "expected     {outcome}")?;
        }
        if let Some(signal) = self.interrupted {
            writeln!(f, "interrupted  by {}", signal.name())?;
        }
        writeln!(f, "verdict      {}", self.verdict())
    }
}

impl Report {
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("service", &self.latency_us.service),
            ("scheduled", &self.latency_us.scheduled),
            ("first byte", &self.first_byte_us),
            ("sent late", &self.schedule_error_us),
            ("connect", &self.connect_us),
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
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        let all: u32 = self.faults_by_kind.values().sum();
        match all as usize - self.faults.len() {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }

    /// One line for whoever reads only one.
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
            missed => verdict.push(format!("{missed} expectations did not hold")),
        }
        verdict.extend(self.client.why.clone());
        verdict.join("; ")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent(count: u64, total: u64) -> f64 {
    count as f64 * 100.0 / total as f64
}
