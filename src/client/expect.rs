//! What a user expects of a run: `p99<5ms`, `rate>1000`, `faults=0`.
//!
//! Owns the small language of `--expect` and its judgement.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::measure::Figures;

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
    Percentile { of: Option<Kind>, percent: f64 },
    Rate,
    Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Scheduled,
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
    /// What was measured: microseconds, messages a second, or faults. Nothing, if nothing was there to measure.
    pub measured: Option<f64>,
    /// Whether it held. What was not measured does not hold.
    pub held: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.held { "held" } else { "did NOT hold" };
        match self.measured {
            Some(measured) => write!(f, "{}: {verdict} (it was {measured:.0})", self.expected),
            None => write!(f, "{}: {verdict} (there was nothing to measure)", self.expected),
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
                    Some(("service", percentile)) => (Some(Kind::Service), percentile),
                    Some(("scheduled", percentile)) => (Some(Kind::Scheduled), percentile),
                    _ => (None, subject.strip_prefix('p').ok_or_else(help)?),
                };
                let time = crate::cli::duration(bound)?;
                #[expect(clippy::cast_precision_loss, reason = "microseconds to three digits")]
                (Subject::Percentile { of, percent: percent(percentile)? }, time.as_micros() as f64)
            }
        };
        Ok(Expectation { text: compact, subject, comparison, bound })
    }

    /// Whether it is about times from the schedule on, which only an open loop has.
    #[must_use]
    pub fn needs_schedule(&self) -> bool {
        matches!(self.subject, Subject::Percentile { of: Some(Kind::Scheduled), .. })
    }

    /// Judges it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times to three digits")]
    pub fn judge(&self, figures: &Figures, rate: f64, faults: u32) -> Outcome {
        let measured = match self.subject {
            Subject::Rate => Some(rate),
            Subject::Faults => Some(f64::from(faults)),
            Subject::Percentile { of, percent } => {
                // In an open loop the scheduled time is the one that tells the truth.
                let scheduled =
                    of.unwrap_or(if figures.scheduled.is_empty() { Kind::Service } else { Kind::Scheduled });
                let histogram: &Histogram<u64> = match scheduled {
                    Kind::Service => &figures.service,
                    Kind::Scheduled => &figures.scheduled,
                };
                (!histogram.is_empty()).then(|| histogram.value_at_percentile(percent) as f64)
            }
        };
        let held = measured.is_some_and(|measured| match self.comparison {
            Comparison::Less => measured < self.bound,
            Comparison::AtMost => measured <= self.bound,
            Comparison::Greater => measured > self.bound,
            Comparison::AtLeast => measured >= self.bound,
            Comparison::Equal => (measured - self.bound).abs() < f64::EPSILON,
        });
        Outcome { expected: self.text.clone(), measured, held }
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

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{text:?} is no number from 0 on")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::measure::Figured;
    use super::*;
    use crate::moment::Moment;
    use crate::protocol::exchange::{Meter, Sample};

    fn figured(scheduled: Option<Duration>) -> Figured {
        let figured = Figured::new();
        for _ in 0..100 {
            let service = Duration::from_millis(2);
            figured.echoed(Sample { at: Moment::START, first_byte: service, service, scheduled });
        }
        figured
    }

    #[track_caller]
    fn holds(text: &str, scheduled: Option<Duration>) -> bool {
        Expectation::parse(text).unwrap().judge(&figured(scheduled).figures(), 1000.0, 3).held
    }

    #[test]
    fn times_rates_and_faults_are_judged() {
        assert!(holds("p99<5ms", None) && !holds("p99<1ms", None));
        assert!(holds("p99.9 <= 3ms", None) && holds("p999<3ms", None));
        assert!(holds("rate>999", None) && !holds("rate>1000", None) && holds("rate>=1000", None));
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
    fn what_is_said_of_an_expectation_is_one_line_without_commands_to_the_terminal() {
        let outcome = Expectation::parse("faults\n<=\u{c}9\r").unwrap().judge(&figured(None).figures(), 0.0, 0);
        assert_eq!(outcome.to_string(), "faults<=9: held (it was 0)");
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
