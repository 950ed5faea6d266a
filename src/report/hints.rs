//! Symptoms in what a run found that usually have one certain cause.
//!
//! Owns the symptoms, from where on each is worth a hint, and the words. A hint never changes the verdict.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::evidence::Evidence;
use crate::client::fault::{FaultKind, FaultyConnection};
use crate::client::findings::Findings;
use crate::client::measure::{self, Figures};

/// How wide a line of hints may be in the text.
const WIDTH: usize = 100;

/// Where the words of a hint begin in a line, as those of all other lines do.
const INDENT: usize = 13;

/// A host delays an acknowledgement by 40 ms (Linux), or a little more, as timers are late. An answer that waits for it comes
/// after as long. A few milliseconds on either side are what clocks and programs add, and take.
const DELAYED_ACK: std::ops::RangeInclusive<u64> = 38_000..=50_000;

/// On a path with a round trip from here on, an answer may take as long without any delay.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(20);

/// What fits into one segment of an Ethernet. Longer messages take their time for many reasons.
const ONE_SEGMENT: u64 = 1460;

/// Fewer messages are no sample: a busy machine may delay them all by chance.
const ENOUGH_MESSAGES: u64 = 20;

/// The measured part has to be this many times as long as the p50. In a shorter one, a machine that stood still once may
/// have delayed all messages.
const DELAYED_AGAIN: u32 = 10;

/// Fewer connections may well have something in common by chance.
const ENOUGH_CONNECTIONS: usize = 3;

/// First messages are cold if they wait for this many times as long as later ones.
const COLD: u64 = 10;

/// A machine that is busy with a thousand new connections delays first messages by less than this, in microseconds.
const SHORTEST_COLD: u64 = 10_000;

/// The measured part has to be this many times as long as the p50 of first messages. They are often sent at one moment, and
/// a machine that stands still at that moment delays all of them. A long measured part shows whether it does so again.
const COLD_ONCE: u64 = 20;

/// For the same reason, each connection has to send this many later messages on average.
const MORE: u64 = 50;

/// In a closed loop, a connection may spend one part in this many of the measured time on later messages that wait as long
/// as first ones. The p99 of later messages does not show that: a connection that waits sends no others.
const SELDOM: u64 = 100;

/// Timeouts of boxes and servers are counted in seconds. What ends sooner has another cause.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Times of connections are the same if they differ by no more than this, or by a twentieth: boxes look at their tables now
/// and then, and timers of busy machines are late.
const SAME_TIME: Duration = Duration::from_millis(100);

/// What ends within this time may have ended at one moment, as with a server that is killed, whatever else the connections
/// have in common.
const ONE_MOMENT: Duration = Duration::from_millis(100);

/// A symptom that was found, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hint {
    /// Which symptom, and the numbers that show it.
    #[serde(flatten)]
    pub symptom: Symptom,
    /// The numbers, what they usually mean, and what to do.
    pub text: String,
}

/// The symptoms, each with the numbers that show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", content = "evidence", rename_all = "snake_case")]
pub enum Symptom {
    /// Small messages take as long as an acknowledgement is delayed.
    DelayedAck {
        /// The median of the service times.
        p50_us: u64,
        /// Bytes of a message, on average.
        message_bytes: u64,
        /// The shortest round trip.
        rtt_us: u64,
    },
    /// Connects took as long as a SYN that is sent again.
    RetransmittedSyn {
        /// How many.
        connects: u64,
        /// Of how many.
        established: u64,
        /// The longest.
        max_us: u64,
    },
    /// The first messages of connections take far longer than the others.
    ColdFirst {
        /// How many connections.
        connections: u64,
        /// The median of the times to the first byte back, of first messages.
        first_p50_us: u64,
        /// The same of the others.
        later_p50_us: u64,
    },
    /// Every n-th connection failed, and no other.
    EveryNth {
        /// That n.
        every: u32,
        /// The first of them.
        first: u32,
        /// How many.
        failures: usize,
        /// Of how many.
        connections: u64,
    },
    /// Connections ended at one time after they had been silent, and not at one moment.
    OneIdleTime(SameTime),
    /// Connections ended at one age, and not at one moment.
    OneAge(SameTime),
    /// Connections ended at one byte.
    OneOffset {
        /// How many.
        failures: usize,
        /// The byte of the echoed stream, counted from zero.
        offset: u64,
        /// Whether it lies in the middle of a message.
        #[serde(skip)]
        within_message: bool,
    },
}

/// Failures at one age, or after one time of silence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SameTime {
    /// How many.
    pub failures: usize,
    /// The shortest time.
    pub shortest_seconds: f64,
    /// The longest.
    pub longest_seconds: f64,
    /// From the first failure to the last.
    pub within_seconds: f64,
}

/// The symptoms that are in what a run found.
pub(super) fn of(findings: &Findings) -> Vec<Hint> {
    let Findings { figures, measured, connections, faults, .. } = findings;
    let times = [
        retransmitted_syn(figures, connections.sent_again),
        delayed_ack(figures, findings.kernel.shortest_rtt, *measured),
        cold_first(figures, *measured, findings.measured_connections.is_some()),
    ];
    // The faults that were left out may have nothing in common with those that were kept.
    let faults = if findings.faults_left_out == 0 { &**faults } else { &[] };
    times
        .into_iter()
        .chain(of_failures(faults, connections.requested))
        .flatten()
        .map(|symptom| Hint { text: symptom.to_string(), symptom })
        .collect()
}

/// The symptoms in `faults`, in a run that asked for this number of connections.
fn of_failures(faults: &[FaultyConnection], connections: u64) -> [Option<Symptom>; 3] {
    let idle = same_time(faults, |evidence| evidence.idle).map(Symptom::OneIdleTime);
    // Where a connection never had an answer, its age and its idle time are the same. Then it is called idle.
    let time = idle.or_else(|| same_time(faults, |evidence| evidence.age).map(Symptom::OneAge));
    [every_nth(faults, connections), time, one_offset(faults)]
}

/// The lines that show `hints`.
pub(super) fn lines(hints: &[Hint]) -> Vec<String> {
    let mut lines = Vec::new();
    for hint in hints {
        let mut line = format!("{:<INDENT$}", "hint");
        for word in hint.text.split(' ') {
            if line.chars().count() + word.chars().count() > WIDTH {
                lines.push(line.trim_end().to_owned());
                line = " ".repeat(INDENT);
            }
            line += word;
            line.push(' ');
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// `measured`: how long the measured part took.
fn delayed_ack(figures: &Figures, shortest_rtt: Option<Duration>, measured: Duration) -> Option<Symptom> {
    let Figures { service, connect, .. } = figures;
    // A connect takes a round trip as well.
    let rtt = shortest_rtt.or_else(|| (!connect.is_empty()).then(|| Duration::from_micros(connect.min())))?;
    let p50_us = measure::percentile(service, 0, 50.0)?;
    let message_bytes = figures.bytes_echoed / figures.messages_echoed.max(1);
    let delayed = service.count_between(*DELAYED_ACK.start(), *DELAYED_ACK.end());
    let fits = service.len() >= ENOUGH_MESSAGES
        && DELAYED_ACK.contains(&p50_us)
        && delayed * 2 >= service.len()
        && measured >= Duration::from_micros(p50_us).saturating_mul(DELAYED_AGAIN)
        && message_bytes <= ONE_SEGMENT
        && rtt < LONG_ROUND_TRIP;
    fits.then(|| Symptom::DelayedAck { p50_us, message_bytes, rtt_us: micros(rtt) })
}

/// `sent_again`: connects that were dropped at first, by their times.
fn retransmitted_syn(figures: &Figures, sent_again: u64) -> Option<Symptom> {
    let Figures { connect, .. } = figures;
    (sent_again > 0).then(|| Symptom::RetransmittedSyn {
        connects: sent_again,
        established: connect.len(),
        max_us: connect.max(),
    })
}

/// `come_and_go`: whether connections come and go, so that first messages are sent at many moments.
fn cold_first(figures: &Figures, measured: Duration, come_and_go: bool) -> Option<Symptom> {
    let Figures { first_byte: all, first_message: first, scheduled, .. } = figures;
    let later = without(all, first);
    let first_p50_us = measure::percentile(first, 0, 50.0)?;
    let [later_p50_us, later_p99] = [50.0, 99.0].map(|percent| measure::percentile(&later, 0, percent));
    let (later_p50_us, later_p99) = later_p50_us.zip(later_p99)?;
    let is_longer =
        first_p50_us >= SHORTEST_COLD && first_p50_us > COLD.saturating_mul(later_p50_us) && first_p50_us > later_p99;
    let times_as_long = |count: u64| Duration::from_micros(first_p50_us.saturating_mul(count));
    let as_long = later.count_between(first_p50_us / 2, later.high());
    let is_seldom_later =
        !scheduled.is_empty() || times_as_long(as_long.saturating_mul(SELDOM) / first.len()) <= measured;
    let stood_still_once =
        measured < times_as_long(COLD_ONCE) || !come_and_go && later.len() < first.len().saturating_mul(MORE);
    let is_cold = first.len() >= ENOUGH_CONNECTIONS as u64
        && later.len() >= ENOUGH_MESSAGES
        && is_longer
        && is_seldom_later
        && !stood_still_once;
    is_cold.then(|| Symptom::ColdFirst { connections: first.len(), first_p50_us, later_p50_us })
}

/// The times of `all` without those of `some`. A first message that never came back whole is in `some` alone. Its time takes
/// nothing away.
fn without(all: &Histogram<u64>, some: &Histogram<u64>) -> Histogram<u64> {
    let mut others = Histogram::new_from(all);
    for step in all.iter_recorded() {
        let time = step.value_iterated_to();
        others.saturating_record_n(time, step.count_since_last_iteration().saturating_sub(some.count_at(time)));
    }
    others
}

/// `connections`: how many there were, counted from 1.
fn every_nth(faults: &[FaultyConnection], connections: u64) -> Option<Symptom> {
    let mut numbers: Vec<u32> = faults.iter().map(|faulty| faulty.connection).collect();
    numbers.sort_unstable();
    let [first, second, .., last] = *numbers else { return None };
    let every = second - first;
    let is_regular = numbers.windows(2).all(|pair| pair[1] - pair[0] == every);
    // None before the first and none behind the last was left out.
    let is_whole = first <= every && (u64::from(last)..u64::from(last) + u64::from(every)).contains(&connections);
    let fits = every >= 2 && is_regular && is_whole && numbers.len() >= ENOUGH_CONNECTIONS;
    fits.then_some(Symptom::EveryNth { every, first, failures: numbers.len(), connections })
}

/// Whether the peer, or something on the way, ended the connection before its work was done. Only then do its times and its
/// bytes say something of a limit: they are not those of our load, or of our own timeouts.
fn was_ended(faulty: &FaultyConnection) -> bool {
    let FaultyConnection { fault, evidence, .. } = faulty;
    let is_end =
        matches!(fault.kind, FaultKind::Truncated | FaultKind::ClosedEarly | FaultKind::Reset | FaultKind::Failed);
    is_end && fault.sent.is_some() && !evidence.finished
}

/// The connections that ended at about one `time` of theirs, if nearly all did, at moments that are further apart than those
/// times.
fn same_time(faults: &[FaultyConnection], time: impl Fn(&Evidence) -> Duration) -> Option<SameTime> {
    let mut ended: Vec<&FaultyConnection> = faults.iter().filter(|faulty| was_ended(faulty)).collect();
    ended.sort_by_key(|faulty| time(&faulty.evidence));
    let median = time(&ended.get(ended.len() / 2)?.evidence);
    let apart = SAME_TIME.max(median / 20);
    let same: Vec<_> = ended
        .iter()
        .filter(|faulty| time(&faulty.evidence).abs_diff(median) <= apart / 2)
        .map(|same| &same.evidence)
        .collect();
    let (shortest, longest) = (time(same.first()?), time(same.last()?));
    let moments = between_first_and_last(&same);
    let fits = median >= SHORTEST_TIMEOUT
        && are_nearly_all(same.len(), ended.len())
        && moments >= ONE_MOMENT.max(4 * longest.saturating_sub(shortest));
    fits.then_some(SameTime {
        failures: same.len(),
        shortest_seconds: shortest.as_secs_f64(),
        longest_seconds: longest.as_secs_f64(),
        within_seconds: moments.as_secs_f64(),
    })
}

/// The connections that went wrong at one byte, if nearly all did.
fn one_offset(faults: &[FaultyConnection]) -> Option<Symptom> {
    let is_stopped = |faulty: &&FaultyConnection| match faulty.fault.kind {
        FaultKind::NoProgress | FaultKind::Lost => !faulty.evidence.finished,
        _ => was_ended(faulty),
    };
    let mut stopped: Vec<_> = faults.iter().filter(is_stopped).collect();
    stopped.sort_by_key(|faulty| faulty.fault.returned);
    let offset = stopped.get(stopped.len() / 2)?.fault.returned.filter(|&offset| offset > 0)?;
    let same: Vec<_> = stopped.iter().filter(|faulty| faulty.fault.returned == Some(offset)).collect();
    let evidence: Vec<&Evidence> = same.iter().map(|faulty| &faulty.evidence).collect();
    let within_message = evidence.iter().all(|evidence| evidence.within_message);
    // Where connections take turns, all have as many messages back at one moment, and while they are silent.
    let is_by_turns = || {
        between_first_and_last(&evidence) < ONE_MOMENT
            || evidence.iter().any(|evidence| evidence.idle >= SHORTEST_TIMEOUT)
            || same.iter().any(|faulty| faulty.fault.kind == FaultKind::NoProgress)
    };
    let fits = are_nearly_all(same.len(), stopped.len()) && (within_message || !is_by_turns());
    fits.then_some(Symptom::OneOffset { failures: same.len(), offset, within_message })
}

/// Whether `same` failures of `all` are enough to name what they have in common as the cause: nine in ten, and not so few that
/// it may be chance.
fn are_nearly_all(same: usize, all: usize) -> bool {
    same >= ENOUGH_CONNECTIONS && same * 10 >= all * 9
}

/// From the first to the last moment of these.
fn between_first_and_last(evidence: &[&Evidence]) -> Duration {
    let moments = || evidence.iter().map(|evidence| evidence.at);
    moments().max().unwrap_or_default().saturating_sub(moments().min().unwrap_or_default())
}

impl fmt::Display for Symptom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Symptom::DelayedAck { p50_us, message_bytes, rtt_us } => {
                let (p50, rtt) = (time(p50_us), time(rtt_us));
                write!(
                    f,
                    "messages of {message_bytes} bytes take {p50} (p50), a round trip {rtt}: usually Nagle's algorithm \
                     waits for a delayed acknowledgement; set TCP_NODELAY in servers and proxies"
                )
            }
            Symptom::RetransmittedSyn { connects, established, max_us } => write!(
                f,
                "{connects} of {established} connects took about 1 s or longer, up to {}: SYNs were dropped and sent again; \
                 the backlog was full (try --connect-rate), or the path loses packets",
                time(max_us)
            ),
            Symptom::ColdFirst { connections, first_p50_us, later_p50_us } => write!(
                f,
                "first messages of {connections} connections wait {} (p50) for an answer, later ones {}: usually \
                 something on the way connects on demand; let it keep connections open",
                time(first_p50_us),
                time(later_p50_us)
            ),
            Symptom::EveryNth { every, first, failures, connections } => write!(
                f,
                "one in {every} connections failed, from connection {first} on ({failures} of {connections}), and no other: \
                 usually one bad backend of {every} that take turns; test each by itself"
            ),
            Symptom::OneIdleTime(ref times) => {
                write!(f, "{times} of silence: usually an idle timeout, in the server or on the way; send more often")
            }
            Symptom::OneAge(ref times) => {
                write!(f, "{times} of life: usually a limit to the age of a connection, in the server or on the way")
            }
            Symptom::OneOffset { failures, offset, within_message } => {
                write!(f, "{failures} connections went wrong at byte {offset} of the echo, ")?;
                f.write_str(if within_message {
                    "in the middle of a message: usually a limit of that size, in the server or on the way"
                } else {
                    "behind a whole message: usually a limit to the bytes or the messages of a connection"
                })
            }
        }
    }
}

impl fmt::Display for SameTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SameTime { failures, shortest_seconds, longest_seconds, .. } = self;
        let [from, to] = [shortest_seconds, longest_seconds].map(|seconds| format!("{seconds:.2}"));
        write!(f, "{failures} connections ended, at different moments, after {from}")?;
        if from != to {
            write!(f, " to {to}")?;
        }
        f.write_str(" s")
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A time in microseconds, in the unit that fits it.
#[expect(clippy::cast_precision_loss, reason = "to three digits")]
fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::measure::{Figured, Meter, Sample};
    use crate::engine::time::Moment;
    use crate::report::faults::tests::faulty;

    /// Measured messages of `bytes` bytes: for each pair a count of them, and how many milliseconds each took.
    fn messages(times: &[(u64, u64)], bytes: u64) -> Figured {
        let figured = Figured::new();
        for &(count, millis) in times {
            let service = Duration::from_millis(millis);
            for _ in 0..count {
                figured.returned(bytes);
                figured.echoed(Sample { at: Moment::START, first_byte: service, service, scheduled: None });
            }
        }
        figured
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn messages_that_take_as_long_as_an_acknowledgement_is_delayed_are_a_symptom() {
        let found = |times: &[(u64, u64)], bytes, rtt_millis| {
            delayed_ack(&messages(times, bytes).so_far(), Some(Duration::from_millis(rtt_millis)), SECOND).is_some()
        };
        assert!(found(&[(10, 1), (11, 43)], 64, 0));
        assert!(!found(&[(11, 1), (10, 43)], 64, 0), "most are quick");
        assert!(!found(&[(8, 1), (11, 43)], 64, 0), "too few");
        assert!(!found(&[(11, 30), (2, 43), (11, 60)], 64, 0), "not one time, but any");
        for (millis, fits) in [(37, false), (38, true), (49, true), (51, false)] {
            assert_eq!(found(&[(20, millis)], 64, 0), fits, "{millis} ms");
        }
        assert!(found(&[(20, 43)], 1460, 0) && !found(&[(20, 43)], 1461, 0), "they may need two segments");
        assert!(found(&[(20, 43)], 64, 19) && !found(&[(20, 43)], 64, 20), "the path may be as long");
    }

    #[test]
    fn messages_that_were_all_delayed_once_meet_no_delayed_acknowledgement() {
        let figures = messages(&[(200, 43)], 64).so_far();
        let found = |millis| delayed_ack(&figures, Some(Duration::ZERO), Duration::from_millis(millis)).is_some();
        assert!(found(431) && !found(429));
    }

    #[test]
    fn where_the_kernel_tells_no_round_trip_the_shortest_connect_is_one() {
        let found = |connect: Option<u64>| {
            let figured = messages(&[(20, 43)], 64);
            if let Some(millis) = connect {
                figured.connected(Duration::from_millis(millis));
            }
            delayed_ack(&figured.so_far(), None, SECOND).is_some()
        };
        assert!(found(Some(1)) && !found(Some(21)) && !found(None));
    }

    /// The numbers of the symptom, if it is found. `first` has the milliseconds that each connection's first message took,
    /// `later` the counts of other messages and the milliseconds that each took. The measured part lasts `millis`.
    fn cold(first: &[u64], later: &[(u64, u64)], millis: u64, come_and_go: bool) -> Option<[u64; 3]> {
        let of_first = first.iter().map(|&millis| (1, millis));
        let figured = messages(&of_first.chain(later.iter().copied()).collect::<Vec<_>>(), 64);
        for &millis in first {
            figured.heard_first(Duration::from_millis(millis));
        }
        cold_first(&figured.so_far(), Duration::from_millis(millis), come_and_go).map(|symptom| match symptom {
            Symptom::ColdFirst { connections, first_p50_us, later_p50_us } => [connections, first_p50_us, later_p50_us],
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn first_messages_that_wait_far_longer_than_the_others_are_a_symptom() {
        let [connections, first, later] = cold(&[31, 31, 1], &[(150, 3)], 1000, false).unwrap();
        let is_near = |micros: u64, millis: u64| micros.abs_diff(millis * 1000) < millis * 2;
        assert!(connections == 3 && is_near(first, 31) && is_near(later, 3), "{connections} {first} {later}");
        for (first, later, why) in [
            (&[31, 31][..], &[(150, 3)][..], "two connections"),
            (&[31, 1, 1], &[(150, 3)], "most are warm"),
            (&[29, 29, 29], &[(150, 3)], "not ten times as long"),
            (&[9, 9, 9], &[(150, 0)], "not long"),
            (&[31, 31, 31], &[(150, 3), (2, 40)], "others take as long now and then"),
            (&[], &[(150, 3)], "none was measured"),
        ] {
            assert_eq!(cold(first, later, 10_000, false), None, "{why}");
        }
    }

    #[test]
    fn a_machine_that_stands_still_once_or_now_and_then_is_no_cold_path() {
        let found = |later: &[(u64, u64)], millis| cold(&[31, 31, 31], later, millis, false).is_some();
        assert!(found(&[(150, 3)], 640) && !found(&[(150, 3)], 600) && !found(&[(149, 3)], 640));
        let now_and_then = [(10_000, 1), (3, 20)];
        assert!(found(&now_and_then, 4000), "each connection waited once more in 4 s");
        assert!(!found(&now_and_then, 3000));
    }

    #[test]
    fn where_connections_come_and_go_first_messages_are_sent_at_many_moments() {
        let found = |later, millis| cold(&[31, 31, 31], &[(later, 3)], millis, true).is_some();
        assert!(found(20, 640) && !found(19, 640), "too few others");
        assert!(!found(20, 600), "they were sent at few moments");
    }

    #[test]
    fn a_first_message_that_never_came_back_whole_takes_no_other_away() {
        let found = |later| {
            let figured = messages(&[(later, 3)], 64);
            for millis in [31, 31, 3] {
                figured.heard_first(Duration::from_millis(millis));
            }
            cold_first(&figured.so_far(), SECOND, true).is_some()
        };
        assert!(found(21) && !found(20), "that of 3 ms is no other");
    }

    #[test]
    fn every_nth_connection_alone_is_a_symptom() {
        let every = |numbers: &[u16], connections| {
            let faults: Vec<_> = numbers.iter().map(|&number| faulty(number, FaultKind::Reset, 0)).collect();
            every_nth(&faults, connections).map(|symptom| match symptom {
                Symptom::EveryNth { every, first, failures, .. } => (every, first, failures),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(every(&[8, 2, 5], 9), Some((3, 2, 3)), "in any order");
        assert_eq!(every(&[1, 3, 5], 5), Some((2, 1, 3)));
        assert_eq!(every(&[3, 6, 9], 11), Some((3, 3, 3)));
        for (numbers, connections, why) in [
            (&[2, 5][..], 6, "two are chance"),
            (&[1, 2, 3, 4], 4, "all failed"),
            (&[2, 3, 4], 9, "a row"),
            (&[2, 5, 8], 11, "the last is missing"),
            (&[5, 8, 11], 12, "the first is missing"),
            (&[2, 5, 11], 12, "one is missing"),
            (&[2, 5, 6, 8], 9, "another failed"),
            (&[2, 5, 8], 7, "numbers of tries that are no connections"),
            (&[3, 3, 3], 9, "one number"),
        ] {
            assert_eq!(every(numbers, connections), None, "{why}");
        }
    }

    /// A connection for each of `ages`, in milliseconds: reset at that age, `apart` milliseconds after the one before.
    fn at_ages(ages: &[u64], apart: u64) -> Vec<FaultyConnection> {
        let at = (0..).map(|index| 10_000 + index * apart);
        let of = |((number, at), &age): ((u16, u64), &u64)| {
            let mut faulty = faulty(number, FaultKind::Reset, at);
            faulty.fault.sent = Some(100);
            faulty.evidence.age = Duration::from_millis(age);
            faulty
        };
        (1..).zip(at).zip(ages).map(of).collect()
    }

    fn failures_at_one_age(faults: &[FaultyConnection]) -> Option<usize> {
        same_time(faults, |evidence| evidence.age).map(|same| same.failures)
    }

    #[test]
    fn failures_at_one_age_and_at_different_moments_are_a_symptom() {
        let found = |ages: &[u64], apart| failures_at_one_age(&at_ages(ages, apart));
        assert_eq!(found(&[2000, 2010, 2025], 50), Some(3));
        assert_eq!((found(&[2000, 2050, 1950], 200), found(&[2000, 2051, 1949], 900)), (Some(3), None));
        assert_eq!(found(&[2000, 2050, 1950], 199), None, "the ages are about as far apart as the moments");
        assert_eq!(found(&[2000, 2010, 2025], 49), None, "within 98 ms they may be one moment");
        assert_eq!(found(&[2000, 2050], 500), None, "two");
        assert_eq!(found(&[999, 999, 999], 500), None, "no timeout is as short");
        assert_eq!(found(&[1000, 1000, 1000], 500), Some(3));
        assert_eq!(found(&[60_000, 61_400, 58_600], 6000), Some(3), "a box looks now and then");
        assert_eq!(found(&[60_000, 61_600, 58_600], 60_000), None);
    }

    #[test]
    fn a_few_other_failures_hide_no_limit_and_many_do() {
        let ages = |others: u64| (0..18).map(|_| 5000).chain((0..others).map(|other| 1000 + other)).collect::<Vec<_>>();
        assert_eq!(failures_at_one_age(&at_ages(&ages(2), 100)), Some(18));
        assert_eq!(failures_at_one_age(&at_ages(&ages(3), 100)), None);
    }

    #[test]
    fn connections_that_were_silent_from_the_first_are_said_to_be_idle_and_not_old() {
        let mut faults = at_ages(&[2000; 3], 500);
        let time = |faults: &[FaultyConnection]| {
            let [_, time, _] = of_failures(faults, 10);
            time
        };
        assert!(matches!(time(&faults), Some(Symptom::OneAge(_))));
        for faulty in &mut faults {
            faulty.evidence.idle = faulty.evidence.age;
        }
        assert!(matches!(time(&faults), Some(Symptom::OneIdleTime(_))));
    }

    #[test]
    fn a_server_that_is_killed_has_no_age_limit() {
        let together: Vec<_> = (0..100).map(|index| 10_000 - index).collect();
        assert_eq!(failures_at_one_age(&at_ages(&together, 0)), None);
        assert_eq!(failures_at_one_age(&at_ages(&together, 1)), None, "it takes its time for a hundred");
    }

    #[test]
    fn our_own_timeouts_and_the_end_of_our_load_are_no_limits() {
        let found = |change: &dyn Fn(&mut FaultyConnection)| {
            let mut faults = at_ages(&[2000; 5], 500);
            faults.iter_mut().for_each(change);
            failures_at_one_age(&faults)
        };
        assert_eq!(found(&|_| {}), Some(5));
        assert_eq!(found(&|faulty| faulty.evidence.finished = true), None);
        assert_eq!(found(&|faulty| faulty.fault.sent = None), None, "it was never established");
        for (kind, counts) in [
            (FaultKind::ClosedEarly, true),
            (FaultKind::Truncated, true),
            (FaultKind::Failed, true),
            (FaultKind::NoProgress, false),
            (FaultKind::Unclosed, false),
            (FaultKind::ConnectTimeout, false),
            (FaultKind::Corrupted, false),
        ] {
            assert_eq!(found(&|faulty| faulty.fault.kind = kind).is_some(), counts, "{kind}");
        }
    }

    /// A connection for each of `offsets`: reset in the middle of a message when that number of bytes was back, 50 ms after
    /// the one before.
    fn at_offsets(offsets: &[u64]) -> Vec<FaultyConnection> {
        let mut faults = at_ages(&vec![0; offsets.len()], 50);
        for (faulty, &offset) in faults.iter_mut().zip(offsets) {
            faulty.fault.returned = Some(offset);
            faulty.evidence.within_message = true;
        }
        faults
    }

    fn offset(faults: &[FaultyConnection]) -> Option<u64> {
        one_offset(faults).map(|symptom| match symptom {
            Symptom::OneOffset { offset, .. } => offset,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn failures_at_one_byte_within_a_message_are_a_symptom() {
        assert_eq!(offset(&at_offsets(&[65_536; 3])), Some(65_536));
        assert_eq!(offset(&at_offsets(&[65_536; 2])), None);
        assert_eq!(offset(&at_offsets(&[0; 3])), None, "nothing came back");
        assert_eq!(offset(&at_offsets(&[1000, 1000, 1001])), None);
        let nearly_all = |others: usize| offset(&at_offsets(&[&[9; 18][..], &vec![5; others]].concat()));
        assert_eq!((nearly_all(2), nearly_all(3)), (Some(9), None));
        for (kind, counts) in [
            (FaultKind::NoProgress, true),
            (FaultKind::Lost, true),
            (FaultKind::Corrupted, false),
            (FaultKind::Extra, false),
        ] {
            for finished in [false, true] {
                let mut faults = at_offsets(&[9; 3]);
                for faulty in &mut faults {
                    faulty.fault.kind = kind;
                    faulty.evidence.finished = finished;
                }
                assert_eq!(offset(&faults).is_some(), counts && !finished, "{kind}: {finished}");
            }
        }
    }

    #[test]
    fn as_many_whole_messages_are_a_symptom_only_if_they_came_at_different_moments() {
        let found = |change: fn(u64, &mut FaultyConnection)| {
            let mut faults = at_offsets(&[300; 3]);
            for (index, faulty) in (0..).zip(&mut faults) {
                faulty.evidence.within_message = false;
                change(index, faulty);
            }
            offset(&faults)
        };
        assert_eq!(found(|_, _| {}), Some(300), "within 100 ms");
        assert_eq!(found(|index, faulty| faulty.evidence.at = Duration::from_millis(49 * index)), None);
        assert_eq!(found(|_, faulty| faulty.evidence.idle = SHORTEST_TIMEOUT), None, "a limit acts when bytes come");
        assert_eq!(found(|_, faulty| faulty.fault.kind = FaultKind::NoProgress), None, "a server that is stopped");
    }

    #[test]
    fn a_hint_is_in_lines_that_fit_and_loses_no_word() {
        let symptom = Symptom::OneOffset { failures: 7, offset: 65_536, within_message: true };
        let hint = Hint { text: symptom.to_string(), symptom };
        let shown = lines(&[hint.clone(), hint.clone()]);
        assert_eq!(shown.len(), 4, "{shown:#?}");
        assert!(shown.iter().all(|line| line.chars().count() <= WIDTH), "{shown:#?}");
        let words: Vec<&str> = shown[..2].iter().flat_map(|line| line.split_whitespace()).collect();
        assert_eq!(words.join(" "), format!("hint {}", hint.text));
        assert!(shown[1].starts_with("             ") && shown[2].starts_with("hint         7 "), "{shown:#?}");
    }

    #[test]
    fn times_that_look_the_same_are_said_once() {
        let times = |shortest_seconds, longest_seconds| {
            SameTime { failures: 3, shortest_seconds, longest_seconds, within_seconds: 1.0 }.to_string()
        };
        assert_eq!(times(2.001, 2.004), "3 connections ended, at different moments, after 2.00 s");
        assert_eq!(times(2.001, 2.006), "3 connections ended, at different moments, after 2.00 to 2.01 s");
    }

    #[test]
    fn every_symptom_is_said_in_two_lines() {
        let same =
            SameTime { failures: 99_999, shortest_seconds: 3599.9, longest_seconds: 3600.0, within_seconds: 1.0 };
        for symptom in [
            Symptom::RetransmittedSyn { connects: 99_999, established: 100_000, max_us: 3_000_000 },
            Symptom::DelayedAck { p50_us: 43_200, message_bytes: 1460, rtt_us: 19_900 },
            Symptom::ColdFirst { connections: 99_999, first_p50_us: 250_000, later_p50_us: 10_000 },
            Symptom::EveryNth { every: 100, first: 99, failures: 1000, connections: 99_999 },
            Symptom::OneIdleTime(same),
            Symptom::OneAge(same),
            Symptom::OneOffset { failures: 99_999, offset: 1 << 30, within_message: true },
            Symptom::OneOffset { failures: 99_999, offset: 1 << 30, within_message: false },
        ] {
            let shown = lines(&[Hint { text: symptom.to_string(), symptom }]);
            assert!(shown.len() <= 2, "{shown:#?}");
        }
    }
}
