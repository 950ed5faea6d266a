//! What a user expects of a run: `p99<5ms`, `rate>1000`, `faults=0`.
//!
//! Owns the small language of `--expect` and its judgement.

use std::fmt;

use serde::Serialize;

use crate::client::measure::{self, Figures};
use crate::client::units;

/// One expectation.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// As it was written, but for its white space: that could break the report's line.
    text: String,
    subject: Subject,
    comparison: Comparison,
    /// Microseconds, messages a second, or faults.
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Percentile { of: Option<Histogram>, percent: f64 },
    Rate,
    Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
}

/// Whether an expectation held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The expectation as it was written, without white space.
    pub expected: String,
    /// The times that it was judged by, if it is about times.
    pub histogram: Option<Histogram>,
    /// What was measured. Nothing, if nothing was there to measure, or if the percentile falls among the messages that
    /// never came back.
    pub measured: Option<f64>,
    /// What `measured` counts.
    pub unit: Unit,
    /// How many messages never came back and count as longer than all others, if it is about times from the schedule on.
    pub never: u64,
    /// Whether it held. What was not measured does not hold.
    pub held: bool,
}

/// The times that an expectation can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Histogram {
    /// From the first write of a message to its last byte back.
    Service,
    /// From the time that a message was scheduled for to its last byte back.
    Scheduled,
}

/// What a measured number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds.
    Us,
    /// Messages a second.
    MessagesPerSecond,
    /// Connections with a fault.
    Connections,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.histogram {
            Some(Histogram::Service) if self.expected.starts_with('p') => "service.",
            Some(Histogram::Scheduled) if self.expected.starts_with('p') => "scheduled.",
            _ => "",
        };
        let verdict = if self.held { "held" } else { "did NOT hold" };
        write!(f, "{of}{}: {verdict}, ", self.expected)?;
        match (self.measured, self.unit) {
            (Some(measured), Unit::Us) => write!(f, "{:.3} ms", measured / 1000.0),
            (Some(measured), Unit::MessagesPerSecond) => write!(f, "{measured:.1} messages a second"),
            (Some(measured), Unit::Connections) => write!(f, "{measured:.0} connections"),
            (None, _) if self.never > 0 => write!(f, "{} messages never came back", self.never),
            (None, _) => f.write_str("there was nothing to measure"),
        }
    }
}

impl Expectation {
    /// Parses an expectation; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Expectation, String> {
        let help = || "write it like 'p99<5ms', 'scheduled.p99.9<=20ms', 'rate>1000' or 'faults=0'".to_owned();
        let compact: String = text.chars().filter(|char| !char.is_whitespace()).collect();
        let (at, comparison, sign) = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((compact.find(sign)?, comparison, sign)))
        .ok_or_else(help)?;
        let (subject, bound) = (&compact[..at], &compact[at + sign.len()..]);
        let (subject, bound) = match subject {
            "rate" => (Subject::Rate, number(bound)?),
            "faults" => {
                (Subject::Faults, bound.parse::<u32>().map(f64::from).map_err(|_| format!("{bound:?} is no count"))?)
            }
            _ => {
                let (of, percentile) = match subject.split_once(".p") {
                    Some(("service", percentile)) => (Some(Histogram::Service), percentile),
                    Some(("scheduled", percentile)) => (Some(Histogram::Scheduled), percentile),
                    _ => (None, subject.strip_prefix('p').ok_or_else(help)?),
                };
                let time = units::duration(bound)?;
                #[expect(clippy::cast_precision_loss, reason = "microseconds to three digits")]
                (Subject::Percentile { of, percent: percent(percentile)? }, time.as_micros() as f64)
            }
        };
        Ok(Expectation { text: compact, subject, comparison, bound })
    }

    /// Whether it is about times from the schedule on, which only an open loop has.
    #[must_use]
    pub fn needs_schedule(&self) -> bool {
        matches!(self.subject, Subject::Percentile { of: Some(Histogram::Scheduled), .. })
    }

    /// Judges it. `is_scheduled`: messages have a schedule, from which a bare percentile counts. Of them, `never` did not come
    /// back: they count as longer than all others.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times to three digits")]
    pub fn judge(&self, figures: &Figures, is_scheduled: bool, never: u64, rate: f64, faults: u32) -> Outcome {
        let (histogram, unit, never, measured) = match self.subject {
            Subject::Rate => (None, Unit::MessagesPerSecond, 0, Some(rate)),
            Subject::Faults => (None, Unit::Connections, 0, Some(f64::from(faults))),
            Subject::Percentile { of, percent } => {
                // In an open loop the time from the schedule on is the one that a user sees.
                let of = of.unwrap_or(if is_scheduled { Histogram::Scheduled } else { Histogram::Service });
                let (times, never) = match of {
                    Histogram::Service => (&figures.service, 0),
                    Histogram::Scheduled => (&figures.scheduled, never),
                };
                (Some(of), Unit::Us, never, measure::percentile(times, never, percent).map(|time| time as f64))
            }
        };
        let judged = measured.or((never > 0).then_some(f64::INFINITY));
        let held = judged.is_some_and(|measured| match self.comparison {
            Comparison::Less => measured < self.bound,
            Comparison::AtMost => measured <= self.bound,
            Comparison::Greater => measured > self.bound,
            Comparison::AtLeast => measured >= self.bound,
            Comparison::Equal => (measured - self.bound).abs() < f64::EPSILON,
        });
        Outcome { expected: self.text.clone(), histogram, measured, unit, never, held }
    }
}

/// A percentile above 0 and up to 100; `p999` and `p9999` mean 99.9 and 99.99, as in the report.
fn percent(text: &str) -> Result<f64, String> {
    match text {
        "999" => Ok(99.9),
        "9999" => Ok(99.99),
        _ if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            Err(format!("there is no percentile {text:?}"))
        }
        _ => match text.parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
            _ => Err(format!("there is no percentile {text:?}")),
        },
    }
}

/// A number from 0 on, as rates are written: `1000`, `0.5`, `5k`.
#[expect(clippy::cast_precision_loss, reason = "a power of a thousand")]
fn number(text: &str) -> Result<f64, String> {
    let (number, factor) = units::split_multiplier(text);
    match number.parse::<f64>().map(|number| number * factor as f64) {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{text:?} is no number from 0 on")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::measure::{Figured, Meter, Sample, Scheduled};
    use crate::engine::time::Moment;

    fn figured(scheduled: Option<Duration>) -> Figured {
        let figured = Figured::new();
        for _ in 0..100 {
            let service = Duration::from_millis(2);
            let scheduled = scheduled.map(|total| Scheduled { late: total.saturating_sub(service), total });
            figured.echoed(Sample { at: Moment::START, first_byte: service, service, scheduled });
        }
        figured
    }

    #[track_caller]
    fn holds(text: &str, scheduled: Option<Duration>) -> bool {
        Expectation::parse(text).unwrap().judge(&figured(scheduled).so_far(), scheduled.is_some(), 0, 1000.0, 3).held
    }

    #[test]
    fn times_rates_and_faults_are_judged() {
        assert!(holds("p99<5ms", None) && !holds("p99<1ms", None));
        assert!(holds("p99.9 <= 3ms", None) && holds("p999<3ms", None));
        assert!(holds("rate>999", None) && !holds("rate>1000", None) && holds("rate>=1000", None));
        assert!(holds("rate<1.001k", None) && !holds("rate>1k", None) && holds("rate>=1K", None));
        assert!(holds("rate<0.1M", None) && !holds("rate>1G", None));
        assert!(holds("faults=3", None) && !holds("faults=0", None));
    }

    #[test]
    fn a_bare_percentile_is_the_scheduled_one_where_there_is_a_schedule() {
        let scheduled = Some(Duration::from_millis(300));
        assert!(!holds("p50<5ms", scheduled));
        assert!(holds("service.p50<5ms", scheduled));
        assert!(holds("scheduled.p50>200ms", scheduled));
        assert!(!holds("scheduled.p50>0ms", None), "what was not measured does not hold");
    }

    #[test]
    fn the_pacing_alone_decides_which_times_a_bare_percentile_means() {
        let bare = Expectation::parse("p99<5ms").unwrap();
        // A closed loop, a connection of which failed with 25 messages in flight.
        let outcome = bare.judge(&figured(None).so_far(), false, 25, 0.0, 1);
        assert_eq!(outcome.to_string(), "service.p99<5ms: held, 2.000 ms");
        assert_eq!(outcome.never, 0);
        // An open loop in which nothing came back, begun or not.
        let nothing = Figured::new();
        let outcome = bare.judge(&nothing.so_far(), true, 25, 0.0, 1);
        assert_eq!(outcome.to_string(), "scheduled.p99<5ms: did NOT hold, 25 messages never came back");
        let outcome = bare.judge(&nothing.so_far(), true, 0, 0.0, 1);
        assert_eq!(outcome.to_string(), "scheduled.p99<5ms: did NOT hold, there was nothing to measure");
    }

    #[test]
    fn an_outcome_says_its_unit_and_which_times_it_was_judged_by() {
        let said = |text: &str, scheduled: Option<u64>| {
            let figured = figured(scheduled.map(Duration::from_micros));
            let expectation = Expectation::parse(text).unwrap();
            expectation.judge(&figured.so_far(), scheduled.is_some(), 0, 1234.56, 3).to_string()
        };
        assert_eq!(said("p99<5ms", Some(177)), "scheduled.p99<5ms: held, 0.177 ms");
        assert_eq!(said("scheduled.p99<5ms", Some(177)), "scheduled.p99<5ms: held, 0.177 ms");
        assert_eq!(said("p50<1ms", None), "service.p50<1ms: did NOT hold, 2.000 ms");
        assert_eq!(said("rate>2000", None), "rate>2000: did NOT hold, 1234.6 messages a second");
        assert_eq!(said("faults=3", None), "faults=3: held, 3 connections");
        assert_eq!(said("scheduled.p50<1ms", None), "scheduled.p50<1ms: did NOT hold, there was nothing to measure");
    }

    #[test]
    fn messages_that_never_came_back_took_longer_than_any_bound() {
        let figured = figured(Some(Duration::from_millis(2)));
        let judge = |text: &str| Expectation::parse(text).unwrap().judge(&figured.so_far(), true, 25, 0.0, 0);
        assert!(judge("p80<5ms").held);
        let outcome = judge("p81<5ms");
        assert_eq!((outcome.held, outcome.measured, outcome.never), (false, None, 25));
        assert_eq!(outcome.to_string(), "scheduled.p81<5ms: did NOT hold, 25 messages never came back");
        assert!(judge("p81>5ms").held && !judge("p81=5ms").held);
        assert!(judge("service.p99<5ms").held, "it counts from the sending, and these were never sent");
    }

    #[test]
    fn what_is_said_of_an_expectation_is_one_line_without_commands_to_the_terminal() {
        let outcome =
            Expectation::parse("faults\n<=\u{c}9\r").unwrap().judge(&figured(None).so_far(), false, 0, 0.0, 0);
        assert_eq!(outcome.to_string(), "faults<=9: held, 0 connections");
        for bad in ["p\x1b[2J<1ms", "p1\u{7f}<1ms", "rate>\x1b[2J", "faults=\x1b[2J", "p9<1\x1b[2J"] {
            let error = Expectation::parse(bad).unwrap_err();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "p99",
            "p99<5",
            "p0<1ms",
            "p101<1ms",
            "q99<1ms",
            "rate>-1",
            "rate>x",
            "rate>k",
            "rate>5kk",
            "rate>5m",
            "faults=",
            "x.p99<1ms",
            "<1ms",
            "p+5<1ms",
            "p1e1<1ms",
            "faults=0.4",
        ] {
            assert!(Expectation::parse(bad).is_err(), "{bad:?}");
        }
    }
}
