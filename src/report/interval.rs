//! What an interval of a run found: as a JSON object, a line of text and a line of CSV.
//!
//! Owns the shape of all three; the figures are named as those of the whole run are.

use std::fmt;

use serde::Serialize;

use super::{Bytes, Times};
use crate::client::measure::{Figures, ratio};
use crate::client::timeline::Interval;

/// What happened in a part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct IntervalReport {
    /// When it began, from the first connect on.
    pub from_seconds: f64,
    /// When it was over.
    pub to_seconds: f64,
    /// Whether it belongs to the measured part.
    pub measured: bool,
    /// Connections that stood at its beginning or at its end, the larger number.
    pub connections: u32,
    /// Connections that failed in it.
    pub faults: u64,
    /// Measured messages.
    pub messages: IntervalMessages,
    /// Measured bytes, one way each.
    pub bytes: Bytes,
    /// Echoed messages by its length.
    pub messages_per_second: f64,
    /// Echoed bytes by its length, in 10⁶.
    pub megabytes_per_second: f64,
    /// Times of the messages that came back in it.
    pub latency_us: IntervalLatency,
    /// From a message's first write to its first byte back.
    pub first_byte_us: Option<Times>,
    /// How late the messages that came back had been sent, in an open loop.
    pub late_us: Option<Times>,
    /// Times of the connects that succeeded in it.
    pub connect_us: Option<Times>,
    /// Times of the closes that ended in it.
    pub close_us: Option<Times>,
}

/// Counts of messages of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IntervalMessages {
    /// Sent whole.
    pub sent: u64,
    /// Back whole.
    pub echoed: u64,
    /// At its end: due, or begun if they have no schedule, and not back.
    pub waiting: u64,
    /// How long the oldest of those had been waiting, in microseconds.
    pub oldest_us: Option<u64>,
}

/// Times of messages of an interval.
#[derive(Clone, Debug, Serialize)]
pub struct IntervalLatency {
    /// From the first write to the last byte back.
    pub service: Option<Times>,
    /// From the scheduled time to the last byte back, in an open loop.
    pub scheduled: Option<Times>,
}

/// The columns of CSV for each kind of times.
const STATISTICS: [&str; 9] = ["count", "min", "mean", "p50", "p90", "p99", "p999", "p9999", "max"];

impl IntervalReport {
    /// The heads of the lines of text, with two of their figures' units.
    pub const HEADS: &str = "      seconds conns messages/s   MB/s p50 µs p99 µs  max µs  late waiting faults\n";

    /// The report of an interval.
    #[must_use]
    pub fn of(interval: &Interval) -> IntervalReport {
        let Figures { messages_sent, messages_echoed, bytes_sent, bytes_echoed, .. } = interval.figures;
        let Figures { service, scheduled, first_byte, late, connect, close, .. } = &interval.figures;
        let seconds = interval.length().as_secs_f64();
        let a_second = |count| if seconds > 0.0 { ratio(count, seconds) } else { 0.0 };
        IntervalReport {
            from_seconds: interval.from.as_secs_f64(),
            to_seconds: interval.to.as_secs_f64(),
            measured: interval.is_measured,
            connections: interval.connections,
            faults: interval.faults,
            messages: IntervalMessages {
                sent: messages_sent,
                echoed: messages_echoed,
                waiting: interval.waiting,
                oldest_us: interval.oldest.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            },
            bytes: Bytes { sent: bytes_sent, echoed: bytes_echoed },
            messages_per_second: a_second(messages_echoed),
            megabytes_per_second: a_second(bytes_echoed) / 1e6,
            latency_us: IntervalLatency { service: Times::of(service, 0), scheduled: Times::of(scheduled, 0) },
            first_byte_us: Times::of(first_byte, 0),
            late_us: Times::of(late, 0),
            connect_us: Times::of(connect, 0),
            close_us: Times::of(close, 0),
        }
    }

    /// Its line of CSV.
    #[must_use]
    pub fn csv_line(&self) -> String {
        self.cells().map(|(_, cell)| cell).collect::<Vec<_>>().join(",") + "\n"
    }

    /// The line above those of CSV: the paths of the figures in a JSON object.
    #[must_use]
    pub fn csv_heads(&self) -> String {
        self.cells().map(|(path, _)| path).collect::<Vec<_>>().join(",") + "\n"
    }

    /// The figures with their paths. Those that are missing are empty.
    fn cells(&self) -> impl Iterator<Item = (String, String)> {
        let IntervalMessages { sent, echoed, waiting, oldest_us } = self.messages;
        let counts = [
            ("from_seconds", self.from_seconds.to_string()),
            ("to_seconds", self.to_seconds.to_string()),
            ("measured", self.measured.to_string()),
            ("connections", self.connections.to_string()),
            ("faults", self.faults.to_string()),
            ("messages.sent", sent.to_string()),
            ("messages.echoed", echoed.to_string()),
            ("messages.waiting", waiting.to_string()),
            ("messages.oldest_us", shown(oldest_us, "")),
            ("bytes.sent", self.bytes.sent.to_string()),
            ("bytes.echoed", self.bytes.echoed.to_string()),
            ("messages_per_second", self.messages_per_second.to_string()),
            ("megabytes_per_second", self.megabytes_per_second.to_string()),
        ];
        let times = [
            ("latency_us.service", &self.latency_us.service),
            ("latency_us.scheduled", &self.latency_us.scheduled),
            ("first_byte_us", &self.first_byte_us),
            ("late_us", &self.late_us),
            ("connect_us", &self.connect_us),
            ("close_us", &self.close_us),
        ];
        let statistics = times.into_iter().flat_map(|(name, times)| {
            let cells = times.as_ref().map_or_else(Default::default, |times| {
                let Times { count, min, mean, p50, p90, p99, p999, p9999, max } = *times;
                let [min, p50, p90, p99, p999, p9999, max] =
                    [min, p50, p90, p99, p999, p9999, max].map(|time| shown(time, ""));
                [count.to_string(), min, shown(mean, ""), p50, p90, p99, p999, p9999, max]
            });
            STATISTICS.into_iter().zip(cells).map(move |(statistic, cell)| (format!("{name}.{statistic}"), cell))
        });
        counts.into_iter().map(|(path, cell)| (path.to_owned(), cell)).chain(statistics)
    }
}

/// The line of text, with its newline.
impl fmt::Display for IntervalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |times: &Option<Times>, figure: fn(&Times) -> Option<u64>| shown(times.as_ref().and_then(figure), "-");
        let times =
            if self.latency_us.scheduled.is_some() { &self.latency_us.scheduled } else { &self.latency_us.service };
        let when = format!("{:.2}-{:.2}", self.from_seconds, self.to_seconds);
        writeln!(
            f,
            "{when:>13} {:>5} {:>10.0} {:>6.1} {:>6} {:>6} {:>7} {:>5} {:>7} {:>6}",
            self.connections,
            self.messages_per_second,
            self.megabytes_per_second,
            of(times, |times| times.p50),
            of(times, |times| times.p99),
            of(times, |times| times.max),
            of(&self.late_us, |times| times.p99),
            self.messages.waiting,
            self.faults,
        )
    }
}

fn shown(figure: Option<impl ToString>, otherwise: &str) -> String {
    figure.map_or_else(|| otherwise.to_owned(), |figure| figure.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::measure::{Figured, Meter, Sample, Scheduled};
    use crate::engine::time::Moment;

    fn interval(messages: u64) -> Interval {
        let figured = Figured::new();
        for _ in 0..messages {
            let service = Duration::from_micros(150);
            let scheduled = Some(Scheduled { late: Duration::from_micros(50), total: Duration::from_micros(200) });
            figured.echoed(Sample { at: Moment::START, first_byte: service, service, scheduled });
            figured.returned(1000);
        }
        Interval {
            from: Duration::from_secs(1),
            to: Duration::from_secs(3),
            is_measured: true,
            connections: 50,
            faults: 1,
            waiting: 3,
            oldest: Some(Duration::from_millis(7)),
            figures: figured.so_far(),
        }
    }

    #[test]
    fn a_line_of_text_has_its_figures_below_their_heads_and_fits_a_terminal() {
        let line = IntervalReport::of(&interval(5000)).to_string();
        assert_eq!(line, "    1.00-3.00    50       2500    2.5    200    200     200    50       3      1\n");
        let heads = IntervalReport::HEADS;
        assert_eq!((heads.chars().count(), line.len()), (81, 81), "80 columns and the newline");
        let words = |text: &str| text.replace(" µs", "_µs").split_whitespace().count();
        assert_eq!(words(heads), words(&line));
        let nothing = IntervalReport::of(&interval(0)).to_string();
        assert_eq!(nothing, "    1.00-3.00    50          0    0.0      -      -       -     -       3      1\n");
    }

    #[test]
    fn csv_has_a_column_for_each_figure_of_the_object_whether_it_was_measured_or_not() {
        let heads = IntervalReport::of(&interval(0)).csv_heads();
        let full = IntervalReport::of(&interval(5000));
        assert_eq!(full.csv_heads(), heads);
        let object = serde_json::to_value(&full).unwrap();
        let mut found = 0;
        for (path, cell) in heads.trim_end().split(',').zip(full.csv_line().trim_end().split(',')) {
            let value = path.split('.').fold(&object, |value, name| &value[name]);
            let expected = if value.is_null() { String::new() } else { value.to_string() };
            assert_eq!(cell, expected.trim_end_matches(".0"), "{path}");
            found += 1;
        }
        let empty = IntervalReport::of(&interval(0)).csv_line();
        assert_eq!((empty.split(',').count(), leaves(&object)), (found, found - 16), "two kinds of times are null");
    }

    fn leaves(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Object(fields) => fields.values().map(leaves).sum(),
            _ => 1,
        }
    }
}
