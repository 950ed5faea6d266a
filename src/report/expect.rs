//! What a user expects of a run: `p99<5ms`, `megabytes_per_second>100`, `every connect.max<1s`, `faults=0`.
//!
//! Owns the small language of `--expect` and its judgement. The names are those of `names`.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::measure;
use crate::client::units;
use crate::report::every::{InIntervals, Intervals};
use crate::report::measured::Measured;
use crate::report::names::{self, Kind, NUMBERS, Number, SCHEDULED, SERVICE, TIMES, Times, Unit, float, us};

/// In front of an expectation that is to hold in each interval.
const EVERY: &str = "every";

/// How wide an error is in which all names are listed.
const WIDTH: usize = 80;

/// One expectation.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// As it was written, but for its white space, which could break the report's line, and for a first word `every`.
    text: String,
    subject: Subject,
    comparison: Comparison,
    /// In the subject's unit.
    bound: f64,
    /// What was judged so far, if it is about each interval.
    intervals: Option<Intervals>,
}

/// What it is about.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Number(&'static Number),
    /// A figure of these times; of none in particular if it was written without a name.
    Times {
        times: Option<&'static Times>,
        figure: Figure,
    },
}

/// One figure of many times.
#[derive(Clone, Copy, Debug)]
enum Figure {
    Min,
    Mean,
    Percentile(f64),
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
}

/// What a run or an interval was found to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// What was measured. Nothing, if nothing was there to measure, or if the figure falls among the messages that never
    /// came back.
    pub measured: Option<f64>,
    /// How many messages never came back and count as longer than all others, if it is about times from the schedule on.
    pub never: u64,
    /// Whether the expectation held.
    pub held: bool,
    /// How bad it was, to find the worst of several.
    pub badness: f64,
}

/// Whether an expectation held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The expectation as it was written, without white space but behind `every`.
    pub expected: String,
    /// The name of the times that it was judged by, if it is about times.
    pub histogram: Option<&'static str>,
    /// What was measured; in the worst interval, if it is about each. Nothing, if nothing was there to measure, or if the
    /// figure falls among the messages that never came back.
    pub measured: Option<f64>,
    /// What `measured` counts.
    pub unit: Unit,
    /// How many messages never came back and count as longer than all others, if it is about times from the schedule on.
    pub never: u64,
    /// Whether it held. What was not measured does not hold.
    pub held: bool,
    /// In how many intervals it held, if it is about each.
    pub intervals: Option<InIntervals>,
    /// The expectation with the name of the times that it was judged by.
    #[serde(skip)]
    in_full: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.in_full, if self.held { "held" } else { "did NOT hold" })?;
        if let Some(intervals) = &self.intervals {
            write!(f, "{intervals}")?;
        }
        let Some(measured) = self.measured else {
            return match &self.intervals {
                _ if self.never > 0 => write!(f, ", {} messages never came back", self.never),
                Some(intervals) if intervals.judged > 0 => f.write_str(": messages waited there and none came back"),
                _ => f.write_str(", there was nothing to measure"),
            };
        };
        match self.unit.kind() {
            Kind::Time if measured < 1e6 => write!(f, ", {:.3} ms", measured / 1e3)?,
            Kind::Time => write!(f, ", {:.3} s", measured / 1e6)?,
            Kind::Share => write!(f, ", {measured:.3} {}", self.unit)?,
            Kind::Count => write!(f, ", {measured:.0} {}", self.unit)?,
            Kind::Rate => {
                // Low rates have their bounds behind the point.
                let digits = match measured {
                    1.0..100.0 => 3,
                    _ if measured > 0.0 && measured < 1.0 => 6,
                    _ => 1,
                };
                write!(f, ", {measured:.digits$} {}", self.unit)?;
            }
        }
        f.write_str(if self.intervals.is_some() { " at worst" } else { "" })
    }
}

/// As it was written, without white space but behind `every`.
impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_times(""))
    }
}

impl Expectation {
    /// Parses an expectation; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Expectation, String> {
        let every = text.trim_start().strip_prefix(EVERY).filter(|rest| rest.starts_with(char::is_whitespace));
        let compact: String = every.unwrap_or(text).chars().filter(|char| !char.is_whitespace()).collect();
        let (at, comparison, sign) = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((compact.find(sign)?, comparison, sign)))
        .ok_or("write it like 'p99<5ms', 'connect.max<=1s', 'messages_per_second>1000' or 'faults=0'")?;
        let (name, bound) = (&compact[..at], &compact[at + sign.len()..]);
        let subject = Subject::parse(name, every.is_some())?;
        let bound = subject.unit().parse(bound).ok_or_else(|| wrong_unit(name, subject.unit(), bound))?;
        let intervals = every.map(|_| Intervals::default());
        Ok(Expectation { text: compact, subject, comparison, bound, intervals })
    }

    /// The options without which no run has what it is about.
    #[must_use]
    pub fn needs(&self) -> Vec<&'static str> {
        let subject = match self.subject {
            Subject::Times { times, .. } => times.and_then(|times| times.needs),
            Subject::Number(number) => number.needs,
        };
        subject.into_iter().chain(self.is_for_each_interval().then_some("--interval")).collect()
    }

    /// Whether it is about each interval, and not about the whole run.
    #[must_use]
    pub fn is_for_each_interval(&self) -> bool {
        self.intervals.is_some()
    }

    /// Judges an interval that began this long after the first connect was begun, if it is about each interval.
    pub fn interval_is_over(&mut self, began: Duration, measured: &Measured<'_>) {
        let Some(mut intervals) = self.intervals.take() else { return };
        let is_of_connects = self.subject.times(measured).is_some_and(|times| !times.is_of_messages);
        if (measured.is_measured || is_of_connects)
            && let Some(judgement) = self.judge(measured)
        {
            intervals.add(began, judgement);
        }
        self.intervals = Some(intervals);
    }

    /// Whether it held, when the run is over: in all of it, or in each interval.
    #[must_use]
    pub fn outcome(&self, measured: &Measured<'_>) -> Outcome {
        let histogram = self.subject.times(measured).map(|times| times.name);
        let judged = match &self.intervals {
            Some(intervals) => intervals.worst(),
            None => self.judge(measured),
        };
        let nothing = Judgement { measured: None, never: 0, held: false, badness: 0.0 };
        let Judgement { measured, never, held, .. } = judged.unwrap_or(nothing);
        let bare = matches!(self.subject, Subject::Times { times: None, .. });
        let times = histogram.filter(|_| bare).map(|name| format!("{name}.")).unwrap_or_default();
        Outcome {
            expected: self.to_string(),
            histogram,
            measured,
            unit: self.subject.unit(),
            never,
            held,
            intervals: self.intervals.as_ref().map(Intervals::summary),
            in_full: self.with_times(&times),
        }
    }

    /// The expectation as it was written, with the name of these times before a figure that was written without.
    fn with_times(&self, times: &str) -> String {
        let every = if self.is_for_each_interval() { "every " } else { "" };
        format!("{every}{times}{}", self.text)
    }

    /// Judges a run or an interval; `None` if there was nothing to measure.
    fn judge(&self, it: &Measured<'_>) -> Option<Judgement> {
        let (measured, never) = match self.subject {
            Subject::Number(number) => (number.of(it), 0),
            Subject::Times { figure, .. } => {
                let (histogram, never) = (self.subject.times(it)?.histogram)(it);
                (figure.of(histogram, never), never)
            }
        };
        let waited = it.waiting > 0 && self.subject.times(it).is_some_and(|times| times.is_of_messages);
        match measured.or((never > 0).then_some(f64::INFINITY)) {
            Some(value) => {
                let (held, badness) =
                    (self.comparison.holds(value, self.bound), self.comparison.badness(value, self.bound));
                Some(Judgement { measured, never, held, badness })
            }
            None => waited.then_some(Judgement { measured: None, never: 0, held: false, badness: f64::INFINITY }),
        }
    }
}

impl Subject {
    fn parse(name: &str, every: bool) -> Result<Subject, String> {
        if let Some(number) = NUMBERS.iter().find(|number| number.name == name) {
            return if every && !number.is_of_intervals() {
                Err(format!("only the whole run has {name}, and no interval: write it without '{EVERY}'"))
            } else if !every && !number.is_of_runs() {
                Err(format!("only intervals have {name}, and not the whole run: write '{EVERY}' before it"))
            } else {
                Ok(Subject::Number(number))
            };
        }
        let of = |times: &'static Times| {
            let figure = name.strip_prefix(times.name)?;
            if figure.is_empty() { Some((times, "")) } else { Some((times, figure.strip_prefix('.')?)) }
        };
        match TIMES.iter().find_map(of) {
            Some((times, "")) => {
                let example = times.name;
                Err(format!(
                    "{example} are many times: write it like {example}.p99<5ms, {example}.mean<5ms or {example}.max<5ms"
                ))
            }
            Some((times, figure)) => match Figure::parse(figure) {
                Some(figure) => Ok(Subject::Times { times: Some(times), figure: figure? }),
                None => Err(format!("{figure:?} is none of p99 (or another percentile), min, mean and max")),
            },
            None => match Figure::parse(name) {
                Some(figure) => Ok(Subject::Times { times: None, figure: figure? }),
                None => Err(unknown(name, every)),
            },
        }
    }

    fn unit(self) -> Unit {
        match self {
            Subject::Number(number) => number.unit,
            Subject::Times { .. } => Unit::Us,
        }
    }

    /// The times that it is about. In an open loop the time from the schedule on is the one that a user sees.
    fn times(self, measured: &Measured<'_>) -> Option<&'static Times> {
        match self {
            Subject::Number(_) => None,
            Subject::Times { times: Some(times), .. } => Some(times),
            Subject::Times { times: None, .. } if measured.is_scheduled => Some(&SCHEDULED),
            Subject::Times { times: None, .. } => Some(&SERVICE),
        }
    }
}

impl Figure {
    /// The figure of this name, if it is one; it may be a percentile that there is not.
    fn parse(text: &str) -> Option<Result<Figure, String>> {
        match text {
            "min" => return Some(Ok(Figure::Min)),
            "mean" => return Some(Ok(Figure::Mean)),
            "max" => return Some(Ok(Figure::Percentile(100.0))),
            _ => {}
        }
        let percent = text.strip_prefix('p').filter(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))?;
        Some(percentile(percent).map(Figure::Percentile).ok_or_else(|| format!("there is no percentile {percent:?}")))
    }

    /// The figure of these times and `never` more, which are longer than all others; `None` if it falls among those.
    fn of(self, times: &Histogram<u64>, never: u64) -> Option<f64> {
        match self {
            Figure::Min => (!times.is_empty()).then(|| float(times.min())),
            Figure::Mean => (!times.is_empty() && never == 0).then(|| times.mean()),
            Figure::Percentile(percent) => measure::percentile(times, never, percent).map(float),
        }
    }
}

impl Comparison {
    fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Comparison::Less => measured < bound,
            Comparison::AtMost => measured <= bound,
            Comparison::Greater => measured > bound,
            Comparison::AtLeast => measured >= bound,
            Comparison::Equal => (measured - bound).abs() < f64::EPSILON,
        }
    }

    /// How far it is on the wrong side: more is worse.
    fn badness(self, measured: f64, bound: f64) -> f64 {
        match self {
            Comparison::Less | Comparison::AtMost => measured,
            Comparison::Greater | Comparison::AtLeast => -measured,
            Comparison::Equal => (measured - bound).abs(),
        }
    }
}

/// A percentile above 0 and up to 100; `p999` and `p9999` mean 99.9 and 99.99, as in the report.
fn percentile(text: &str) -> Option<f64> {
    match text {
        "999" => Some(99.9),
        "9999" => Some(99.99),
        _ if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => None,
        _ => text.parse().ok().filter(|&percent| percent > 0.0 && percent <= 100.0),
    }
}

impl Unit {
    /// A bound of this unit.
    fn parse(self, text: &str) -> Option<f64> {
        match self.kind() {
            Kind::Time => units::duration(text).ok().map(us),
            Kind::Share => text.strip_suffix('%').and_then(number),
            Kind::Count => number(text).filter(|count| count.fract() == 0.0),
            Kind::Rate => number(text),
        }
    }
}

/// A number from 0 on, as rates are written: `1000`, `0.5`, `5k`.
fn number(text: &str) -> Option<f64> {
    let (number, factor) = units::split_multiplier(text);
    let number = number.parse::<f64>().ok()? * float(factor);
    (number.is_finite() && number >= 0.0).then_some(number)
}

fn wrong_unit(name: &str, unit: Unit, bound: &str) -> String {
    let (kind, example) = match unit.kind() {
        Kind::Time => ("a time, with its unit".to_owned(), "<5ms"),
        Kind::Share => ("a share, with a percent sign".to_owned(), "<1%"),
        Kind::Count => (format!("a whole number of {unit}"), "=0"),
        Kind::Rate => (format!("a number of {unit}"), ">100"),
    };
    format!("{name} is {kind}: write it like {name}{example}, and not {bound:?}")
}

/// What to say of a name that there is not: all that there are.
fn unknown(name: &str, every: bool) -> String {
    let mut text = format!("there is no {name:?}; there are");
    for line in names::known(every) {
        let mut width = WIDTH;
        for word in line.split(' ') {
            let is_first = width == WIDTH;
            if is_first || width + 1 + word.len() > WIDTH {
                let indent = if is_first { "\n  " } else { "\n    " };
                text += indent;
                width = indent.len() - 1;
            } else {
                text.push(' ');
                width += 1;
            }
            text += word;
            width += word.len();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::measure::{Figured, Figures, Meter, Sample, Scheduled};
    use crate::engine::time::Moment;

    /// 100 messages of 1,000 bytes, each back after 2 ms, on ten connections, three of which had a fault.
    fn figured(scheduled: Option<Duration>) -> Figured {
        let figured = Figured::new();
        for _ in 0..100 {
            let service = Duration::from_millis(2);
            figured.sent(1000, 1);
            figured.returned(1000);
            let scheduled = scheduled.map(|total| Scheduled { late: total.saturating_sub(service), total });
            figured.echoed(Sample { at: Moment::START, first_byte: service / 2, service, scheduled });
        }
        figured.connected(Duration::from_micros(1500));
        figured
    }

    /// A second of it, at the end of which nothing waits.
    fn measured(figures: &Figures, is_scheduled: bool) -> Measured<'_> {
        let took = Duration::from_secs(1);
        Measured {
            figures,
            took,
            is_scheduled,
            is_measured: true,
            connections: 10,
            faults: 3,
            unanswered: 0,
            never: 0,
            waiting: 0,
            run: None,
        }
    }

    #[track_caller]
    fn outcome(text: &str, scheduled: Option<Duration>) -> Outcome {
        let figured = figured(scheduled);
        Expectation::parse(text).unwrap().outcome(&measured(&figured.so_far(), scheduled.is_some()))
    }

    #[track_caller]
    fn holds(text: &str, scheduled: Option<Duration>) -> bool {
        outcome(text, scheduled).held
    }

    #[test]
    fn times_rates_and_counts_are_judged() {
        assert!(holds("p99<5ms", None) && !holds("p99<1ms", None));
        assert!(holds("p99.9 <= 3ms", None) && holds("p999<3ms", None));
        assert!(holds("max<3ms", None) && holds("min>1ms", None) && holds("mean>1999us", None));
        assert!(holds("first_byte.p50<2ms", None) && !holds("first_byte.p50<1ms", None));
        assert!(holds("connect.max<1600us", None) && !holds("connect.max<1400us", None));
        assert!(holds("messages_per_second>99", None) && !holds("messages_per_second>100", None));
        assert!(holds("messages_per_second<0.101k", None) && !holds("messages_per_second>1G", None));
        assert!(holds("megabytes_per_second=0.1", None) && holds("megabytes_per_second<0.2", None));
        assert!(holds("faults=3", None) && holds("faults==3", None) && !holds("faults=0", None));
        assert!(
            holds("connections>=10", None) && holds("bytes.echoed=100k", None) && !holds("messages.sent>100", None)
        );
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
        let echoed = figured(None);
        let outcome = bare.outcome(&Measured { never: 25, ..measured(&echoed.so_far(), false) });
        assert_eq!(outcome.to_string(), "service.p99<5ms: held, 2.000 ms");
        assert_eq!(outcome.never, 0);
        // An open loop in which nothing came back, begun or not.
        let nothing = Figured::new();
        let outcome = bare.outcome(&Measured { never: 25, ..measured(&nothing.so_far(), true) });
        assert_eq!(outcome.to_string(), "scheduled.p99<5ms: did NOT hold, 25 messages never came back");
        let outcome = bare.outcome(&measured(&nothing.so_far(), true));
        assert_eq!(outcome.to_string(), "scheduled.p99<5ms: did NOT hold, there was nothing to measure");
    }

    #[test]
    fn an_outcome_says_its_unit_and_which_times_it_was_judged_by() {
        let said = |text: &str, scheduled: Option<u64>| outcome(text, scheduled.map(Duration::from_micros)).to_string();
        assert_eq!(said("p99<5ms", Some(177)), "scheduled.p99<5ms: held, 0.177 ms");
        assert_eq!(said("scheduled.p99<5ms", Some(177)), "scheduled.p99<5ms: held, 0.177 ms");
        assert_eq!(said("mean<1ms", None), "service.mean<1ms: did NOT hold, 2.000 ms");
        assert_eq!(said("max<1ms", Some(2_000_000)), "scheduled.max<1ms: did NOT hold, 2.001 s");
        assert_eq!(said("connect.p50<1s", None), "connect.p50<1s: held, 1.500 ms");
        assert_eq!(
            said("messages_per_second>2000", None),
            "messages_per_second>2000: did NOT hold, 100.0 messages a second"
        );
        assert_eq!(
            said("megabytes_per_second<0.05", None),
            "megabytes_per_second<0.05: did NOT hold, 0.100000 MB a second"
        );
        assert_eq!(
            every("every messages_per_second>1").to_string(),
            "every messages_per_second>1: did NOT hold in 2 of 4 intervals, at 1, 2 s, 0.0 messages a second at worst"
        );
        assert_eq!(said("faults=3", None), "faults=3: held, 3 faults");
        assert_eq!(said("retransmitted<1%", None), "retransmitted<1%: did NOT hold, there was nothing to measure");
    }

    #[test]
    fn messages_that_never_came_back_took_longer_than_any_bound() {
        let echoed = figured(Some(Duration::from_millis(2)));
        let figures = echoed.so_far();
        let run = Measured { never: 25, ..measured(&figures, true) };
        let judge = |text: &str| Expectation::parse(text).unwrap().outcome(&run);
        assert!(judge("p80<5ms").held && judge("min<5ms").held);
        for text in ["p81<5ms", "max<5ms", "mean<5ms"] {
            let outcome = judge(text);
            assert_eq!((outcome.held, outcome.measured, outcome.never), (false, None, 25));
            assert_eq!(outcome.to_string(), format!("scheduled.{text}: did NOT hold, 25 messages never came back"));
        }
        assert!(judge("p81>5ms").held && !judge("p81=5ms").held);
        assert!(judge("service.p99<5ms").held, "it counts from the sending, and these were never sent");
    }

    /// Judges five intervals: one as `figured` has it, one in which nothing was to come, one in which messages wait and none
    /// came back, one before the measured part, and one that is ten times as long.
    #[track_caller]
    fn every(text: &str) -> Outcome {
        let (usual, nothing) = (figured(Some(Duration::from_millis(3))), Figured::new());
        let (usual, nothing) = (usual.so_far(), nothing.so_far());
        let mut expectation = Expectation::parse(text).unwrap();
        let quiet = measured(&nothing, true);
        let long = Duration::from_secs(10);
        for (began, interval) in [
            (0, measured(&usual, true)),
            (1, quiet),
            (2, Measured { waiting: 8, ..quiet }),
            (9, Measured { is_measured: false, ..quiet }),
            (3, Measured { took: long, ..measured(&usual, true) }),
        ] {
            expectation.interval_is_over(Duration::from_secs(began), &interval);
        }
        expectation.outcome(&measured(&usual, true))
    }

    #[test]
    fn an_interval_in_which_nothing_was_to_come_is_not_judged_and_one_in_which_messages_only_wait_does_not_hold() {
        for text in ["every p99<5ms", " every  p99 < 5ms", "every max>0ms", "every late.p99>0ms"] {
            let outcome = every(text);
            let InIntervals { not_held, from_seconds, .. } = outcome.intervals.clone().unwrap();
            assert_eq!(
                (outcome.held, outcome.measured, not_held, &from_seconds[..]),
                (false, None, 1, &[2.0][..]),
                "{text}"
            );
        }
        assert_eq!(
            every("every p99<5ms").to_string(),
            "every scheduled.p99<5ms: did NOT hold in 1 of 3 intervals, at 2 s: messages waited there and none came back"
        );
        // Before the measured part, only connects are judged.
        assert_eq!(every("every faults=3").intervals.unwrap().judged, 4);
        // A connect is none of the messages that wait.
        assert_eq!(
            every("every connect.max<2ms").to_string(),
            "every connect.max<2ms: held in 2 intervals, 1.500 ms at worst"
        );
    }

    #[test]
    fn the_worst_interval_is_the_one_that_is_farthest_on_the_wrong_side() {
        let worst = |text: &str| every(text).measured.unwrap();
        assert!((worst("every messages_per_second>1") - 0.0).abs() < f64::EPSILON);
        assert!((worst("every messages_per_second<1") - 100.0).abs() < f64::EPSILON);
        assert!((worst("every messages_per_second=10") - 100.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_first_intervals_in_which_it_did_not_hold_are_named_and_the_others_counted() {
        let echoed = figured(None);
        let figures = echoed.so_far();
        let mut expectation = Expectation::parse("every p50<1ms").unwrap();
        let outcome = expectation.outcome(&measured(&figures, false));
        assert_eq!(outcome.to_string(), "every service.p50<1ms: did NOT hold, there was nothing to measure");
        for number in 0..1000 {
            expectation.interval_is_over(Duration::from_millis(500) * number, &measured(&figures, false));
        }
        let outcome = expectation.outcome(&measured(&figures, false));
        assert_eq!(
            outcome.to_string(),
            "every service.p50<1ms: did NOT hold in 1000 of 1000 intervals, at 0, 0.5, 1, 1.5, 2 s and 995 more, 2.000 ms at \
             worst"
        );
        assert_eq!((outcome.expected.as_str(), outcome.intervals.unwrap().from_seconds.len()), ("every p50<1ms", 5));
    }

    #[test]
    fn one_interval_is_not_called_intervals() {
        let echoed = figured(None);
        let figures = echoed.so_far();
        let judged = |text: &str| {
            let mut expectation = Expectation::parse(text).unwrap();
            expectation.interval_is_over(Duration::from_millis(500), &measured(&figures, false));
            expectation.outcome(&measured(&figures, false)).to_string()
        };
        assert_eq!(judged("every p50<5ms"), "every service.p50<5ms: held in the one interval, 2.000 ms at worst");
        assert_eq!(
            judged("every p50<1ms"),
            "every service.p50<1ms: did NOT hold in the one interval, at 0.5 s, 2.000 ms at worst"
        );
    }

    #[test]
    fn an_unknown_name_is_answered_by_all_names() {
        let error = Expectation::parse("rate>1000").unwrap_err();
        assert!(error.starts_with("there is no \"rate\"; there are\n"), "{error}");
        for name in NUMBERS.iter().map(|number| number.name).chain(TIMES.iter().map(|times| times.name)) {
            assert!(error.split([' ', ',', '\n']).any(|word| word == name), "{name}: {error}");
        }
        assert!(error.lines().skip(1).all(|line| line.chars().count() <= WIDTH && line.starts_with("  ")), "{error}");
        let error = Expectation::parse("every rate>1000").unwrap_err();
        assert!(error.contains("messages_per_second") && !error.contains("elapsed"), "{error}");
    }

    #[test]
    fn what_an_interval_does_not_have_is_refused() {
        for text in ["every elapsed<1s", "every mss.min>=1400", "every missed=0", "every retransmitted<1%"] {
            let error = Expectation::parse(text).unwrap_err();
            assert!(error.starts_with("only the whole run has "), "{error}");
        }
    }

    #[test]
    fn messages_that_wait_at_the_end_of_an_interval_can_be_bounded_and_those_of_a_run_cannot() {
        let outcome = every("every waiting<8");
        assert_eq!(
            outcome.to_string(),
            "every waiting<8: did NOT hold in 1 of 4 intervals, at 2 s, 8 messages at worst"
        );
        assert!(every("every waiting<=8").held);
        let error = Expectation::parse("waiting<8").unwrap_err();
        assert_eq!(error, "only intervals have waiting, and not the whole run: write 'every' before it");
    }

    #[test]
    fn a_wrong_unit_is_answered_by_the_right_one() {
        for (text, answer) in [
            ("p99<5", "p99 is a time, with its unit: write it like p99<5ms, and not \"5\""),
            (
                "retransmitted<1",
                "retransmitted is a share, with a percent sign: write it like retransmitted<1%, and not \"1\"",
            ),
            ("missed=0ms", "missed is a whole number of messages: write it like missed=0, and not \"0ms\""),
            ("faults=0.4", "faults is a whole number of faults: write it like faults=0, and not \"0.4\""),
            (
                "megabytes_per_second>1MB",
                "megabytes_per_second is a number of MB a second: write it like megabytes_per_second>100, and not \"1MB\"",
            ),
        ] {
            assert_eq!(Expectation::parse(text).unwrap_err(), answer);
        }
    }

    #[test]
    fn what_only_some_runs_have_is_known_beforehand() {
        let needs = |text: &str| Expectation::parse(text).unwrap().needs();
        for text in ["scheduled.p99<5ms", "late.max<1ms"] {
            assert_eq!(needs(text), ["--rate"], "{text}");
        }
        assert_eq!(needs("every late.p50<1ms"), ["--rate", "--interval"]);
        assert_eq!(needs("outage.max<1s"), ["--reconnect"]);
        for text in ["p99<5ms", "service.p99<5ms", "missed=0"] {
            assert!(needs(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_said_of_an_expectation_is_one_line_without_commands_to_the_terminal() {
        assert_eq!(outcome("faults\n<=\u{c}9\r", None).to_string(), "faults<=9: held, 3 faults");
        assert_eq!(Expectation::parse("\nevery\u{c}faults\r<9").unwrap().to_string(), "every faults<9");
        for bad in ["p\x1b[2J<1ms", "p1\u{7f}<1ms", "cpu>\x1b[2J", "faults=\x1b[2J", "p9<1\x1b[2J", "late.\x1b[2J<1s"] {
            let error = Expectation::parse(bad).unwrap_err();
            // Those of its own between the names.
            assert!(error.lines().all(|line| !line.contains(char::is_control)), "{error:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "every",
            "every ",
            "everyp99<5ms",
            "every every p99<5ms",
            "p99",
            "p99<5",
            "p0<1ms",
            "p101<1ms",
            "q99<1ms",
            "connect<1ms",
            "connect.q99<1ms",
            "connect.p0<1ms",
            "connections.p99<1ms",
            "latency.p99<1ms",
            "cpu>-1s",
            "messages_per_second>x",
            "messages_per_second>k",
            "messages_per_second>5kk",
            "messages_per_second>5m",
            "messages_per_second>inf",
            "messages_per_second>-1",
            "faults=",
            "faults===0",
            "faults!=0",
            "x.p99<1ms",
            "<1ms",
            "p+5<1ms",
            "p1e1<1ms",
            "retransmitted<%",
        ] {
            assert!(Expectation::parse(bad).is_err(), "{bad:?}");
        }
    }
}
