//! The names of what can be expected of a run.
//!
//! Owns the tables that `--expect`, its errors and `--help` go by: a new name is a new line here, and one in
//! docs/report.md. A name is that of the figure in the JSON report, without its unit.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::findings::Findings;
use crate::client::measure;
use crate::report::measured::Measured;
use crate::report::percent;

/// A figure that is one number.
#[derive(Debug)]
pub struct Number {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// The option without which no run has it.
    pub needs: Option<&'static str>,
    /// Where it is found.
    pub value: Value,
}

/// Where a number is found. It is `None` where the system does not tell it.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Only when the run is over.
    Run(fn(&Findings) -> Option<f64>),
    /// In a run, and in each interval of it.
    Any(fn(&Measured<'_>) -> Option<f64>),
    /// Only in an interval.
    Interval(fn(&Measured<'_>) -> Option<f64>),
}

/// A figure that is a histogram of times, in microseconds.
#[derive(Debug)]
pub struct Times {
    /// Its name. `.p99` or the like follows.
    pub name: &'static str,
    /// The option without which no run has these times.
    pub needs: Option<&'static str>,
    /// Whether these are times of messages: while some wait, more are to come.
    pub is_of_messages: bool,
    /// Where they are found, and how many more count as longer than all of them.
    pub histogram: HistogramOf,
}

/// Finds a histogram, and how many more times count as longer than all that are in it.
pub type HistogramOf = for<'a> fn(&Measured<'a>) -> (&'a Histogram<u64>, u64);

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds.
    Us,
    /// Hundredths of a whole.
    Percent,
    /// Connections.
    Connections,
    /// Faults.
    Faults,
    /// Messages.
    Messages,
    /// Bytes.
    Bytes,
    /// Messages a second.
    MessagesPerSecond,
    /// 10⁶ bytes a second.
    MegabytesPerSecond,
    /// Connections a second.
    ConnectionsPerSecond,
    /// Outages.
    Outages,
}

/// How a bound is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With a unit of time.
    Time,
    /// With a percent sign.
    Share,
    /// As a whole number.
    Count,
    /// As a number that may have a fraction.
    Rate,
}

/// The times that a bare percentile is one of where there is no schedule.
pub const SERVICE: Times = times("service", None, true, |it| (&it.figures.service, 0));

/// The times that a bare percentile is one of where there is a schedule.
pub const SCHEDULED: Times = times("scheduled", Some("--rate"), true, |it| (&it.figures.scheduled, it.never));

/// Every histogram.
pub const TIMES: &[Times] = &[
    SERVICE,
    SCHEDULED,
    times("first_byte", None, true, |it| (&it.figures.first_byte, 0)),
    times("late", Some("--rate"), true, |it| (&it.figures.late, 0)),
    times("connect", None, false, |it| (&it.figures.connect, 0)),
    times("connect_late", Some("--churn-rate"), false, |it| (&it.figures.connect_late, 0)),
    times("close", None, false, |it| (&it.figures.close, 0)),
];

/// Every number.
pub const NUMBERS: &[Number] = &[
    run("elapsed", Unit::Us, |run| Some(us(run.elapsed))),
    run("measured", Unit::Us, |run| Some(us(run.measured))),
    run("cpu", Unit::Us, |run| Some(us(run.effort.cpu))),
    run("rtt.min", Unit::Us, |run| run.kernel.shortest_rtt.map(us)),
    run("rtt.p50", Unit::Us, |run| measure::percentile(&run.kernel.rtt, 0, 50.0).map(float)),
    any("messages_per_second", Unit::MessagesPerSecond, |it| Some(it.messages_per_second())),
    any("megabytes_per_second", Unit::MegabytesPerSecond, |it| Some(it.megabytes_per_second())),
    of("--churn", "connections_per_second", Unit::ConnectionsPerSecond, |run| {
        Measured::of_run(run).connections_per_second()
    }),
    any("connections", Unit::Connections, |it| Some(float(it.connections))),
    run("connections.sent_again", Unit::Connections, |run| Some(float(run.connections.sent_again))),
    run("intact", Unit::Connections, |run| Some(float(run.connections.intact))),
    run("unfinished", Unit::Connections, |run| Some(float(run.connections.unfinished))),
    of("--churn-rate", "connections.missed", Unit::Connections, |run| Some(float(run.connections.missed))),
    any("faults", Unit::Faults, |it| Some(float(it.faults))),
    of("--reconnect", "outage.count", Unit::Outages, |run| run.outages.as_ref().map(|outages| float(outages.count))),
    of("--reconnect", "outage.max", Unit::Us, |run| run.outages.as_ref().map(|outages| us(outages.longest))),
    of("--reconnect", "outage.total", Unit::Us, |run| run.outages.as_ref().map(|outages| us(outages.total))),
    of("--reconnect", "outage.gone.count", Unit::Outages, |run| {
        run.outages.as_ref().map(|outages| float(outages.gone.count))
    }),
    of("--reconnect", "outage.gone.max", Unit::Us, |run| run.outages.as_ref().map(|outages| us(outages.gone.longest))),
    of("--reconnect", "outage.gone.total", Unit::Us, |run| run.outages.as_ref().map(|outages| us(outages.gone.total))),
    any("messages.sent", Unit::Messages, |it| Some(float(it.figures.messages_sent))),
    any("messages.echoed", Unit::Messages, |it| Some(float(it.figures.messages_echoed))),
    Number { name: "waiting", unit: Unit::Messages, needs: None, value: Value::Interval(|it| Some(float(it.waiting))) },
    run("missed", Unit::Messages, |run| Some(float(run.missed))),
    any("unanswered", Unit::Messages, |it| Some(float(it.unanswered))),
    any("never", Unit::Messages, |it| Some(float(it.never))),
    any("own_late", Unit::Messages, |it| Some(float(it.figures.own_late))),
    any("bytes.sent", Unit::Bytes, |it| Some(float(it.figures.bytes_sent))),
    any("bytes.echoed", Unit::Bytes, |it| Some(float(it.figures.bytes_echoed))),
    run("mss.min", Unit::Bytes, |run| run.kernel.mss.as_ref().map(|mss| (*mss.start()).into())),
    run("mss.max", Unit::Bytes, |run| run.kernel.mss.as_ref().map(|mss| (*mss.end()).into())),
    run("retransmitted", Unit::Percent, |run| {
        let kernel = &run.kernel;
        (kernel.segments_sent > 0).then(|| percent(kernel.segments_retransmitted, kernel.segments_sent))
    }),
];

const fn times(name: &'static str, needs: Option<&'static str>, is_of_messages: bool, histogram: HistogramOf) -> Times {
    Times { name, needs, is_of_messages, histogram }
}

const fn run(name: &'static str, unit: Unit, value: fn(&Findings) -> Option<f64>) -> Number {
    Number { name, unit, needs: None, value: Value::Run(value) }
}

/// What only a run with this option has.
const fn of(option: &'static str, name: &'static str, unit: Unit, value: fn(&Findings) -> Option<f64>) -> Number {
    Number { name, unit, needs: Some(option), value: Value::Run(value) }
}

const fn any(name: &'static str, unit: Unit, value: fn(&Measured<'_>) -> Option<f64>) -> Number {
    Number { name, unit, needs: None, value: Value::Any(value) }
}

/// A time in microseconds.
#[expect(clippy::cast_precision_loss, reason = "exact up to three months")]
pub(super) fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

impl Number {
    /// Whether an interval has it, and not only the whole run.
    #[must_use]
    pub fn is_of_intervals(&self) -> bool {
        matches!(self.value, Value::Any(_) | Value::Interval(_))
    }

    /// Whether the whole run has it, and not only an interval.
    #[must_use]
    pub fn is_of_runs(&self) -> bool {
        matches!(self.value, Value::Any(_) | Value::Run(_))
    }

    /// The number, if the system tells it.
    #[must_use]
    pub fn of(&self, measured: &Measured<'_>) -> Option<f64> {
        match self.value {
            Value::Run(value) => measured.run.and_then(value),
            Value::Any(value) | Value::Interval(value) => value(measured),
        }
    }
}

impl Unit {
    /// How a bound of this unit is written.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Unit::Us => Kind::Time,
            Unit::Percent => Kind::Share,
            Unit::Connections | Unit::Faults | Unit::Messages | Unit::Bytes | Unit::Outages => Kind::Count,
            Unit::MessagesPerSecond | Unit::MegabytesPerSecond | Unit::ConnectionsPerSecond => Kind::Rate,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Us => "µs",
            Unit::Percent => "%",
            Unit::Connections => "connections",
            Unit::Faults => "faults",
            Unit::Messages => "messages",
            Unit::Bytes => "bytes",
            Unit::MessagesPerSecond => "messages a second",
            Unit::MegabytesPerSecond => "MB a second",
            Unit::ConnectionsPerSecond => "connections a second",
            Unit::Outages => "outages",
        })
    }
}

/// All names, a line for each kind; of `every` interval, those that an interval has.
#[must_use]
pub fn known(every: bool) -> Vec<String> {
    let times: Vec<&str> = TIMES.iter().map(|times| times.name).collect();
    let of_kind = |kind| {
        let numbers = NUMBERS.iter().filter(|number| number.unit.kind() == kind);
        let names: Vec<&str> =
            numbers.filter(|number| number.is_of_intervals() || !every).map(|number| number.name).collect();
        names.join(", ")
    };
    let kinds = [("times", Kind::Time), ("rates", Kind::Rate), ("counts", Kind::Count), ("shares in %", Kind::Share)];
    let numbers = kinds.into_iter().map(|(title, kind)| (title, of_kind(kind))).filter(|(_, names)| !names.is_empty());
    let times = ("times with .p50, any other percentile, .min, .mean or .max behind the name", times.join(", "));
    [times].into_iter().chain(numbers).map(|(title, names)| format!("{title}: {names}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How docs/report.md says what is counted.
    fn documented(unit: Unit) -> String {
        match unit.kind() {
            Kind::Time => "time".to_owned(),
            Kind::Share => "percent".to_owned(),
            Kind::Count | Kind::Rate => unit.to_string(),
        }
    }

    #[test]
    fn every_name_is_documented_with_its_unit() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        let times = TIMES.iter().map(|times| format!("| `{}.…` | time | yes | ", times.name));
        let numbers = NUMBERS.iter().map(|number| {
            let of_intervals = match number.value {
                Value::Run(_) => "no",
                Value::Any(_) => "yes",
                Value::Interval(_) => "only",
            };
            format!("| `{}` | {} | {of_intervals} | ", number.name, documented(number.unit))
        });
        for row in times.chain(numbers) {
            assert!(docs.lines().any(|line| line.starts_with(&row)), "a line of docs/report.md begins with {row:?}");
        }
    }

    #[test]
    fn no_name_stands_for_two_things() {
        let mut names: Vec<&str> = TIMES.iter().map(|times| times.name).collect();
        names.extend(NUMBERS.iter().map(|number| number.name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }
}
