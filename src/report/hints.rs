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

/// As many connections that have something in common may have it by chance only rarely.
const ENOUGH_CONNECTIONS: usize = 3;

/// First messages are cold if they wait for this many times as long as later ones.
const COLD: u64 = 10;

/// A machine that is busy with a thousand new connections delays first messages by less than this, in microseconds.
const SHORTEST_COLD: u64 = 10_000;

/// Timeouts of boxes and servers are counted in seconds. What ends sooner has another cause.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Times of connections are the same if they differ by no more than this, or by a twentieth: boxes look at their tables now
/// and then.
const SAME_TIME: Duration = Duration::from_millis(50);

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
    let Findings { figures, connections, faults, .. } = findings;
    let times = [
        retransmitted_syn(figures, connections.sent_again),
        delayed_ack(figures, findings.kernel.shortest_rtt),
        cold_first(figures),
    ];
    // Of faults that were left out nobody knows what they have in common with the others.
    let failures = (findings.faults_left_out == 0).then(|| {
        let idle = same_time(faults, |evidence| evidence.idle).map(Symptom::OneIdleTime);
        // A connection that was silent from the first is as old as it was silent.
        let time = idle.or_else(|| same_time(faults, |evidence| evidence.age).map(Symptom::OneAge));
        [every_nth(faults, connections.requested), time, one_offset(faults)]
    });
    times
        .into_iter()
        .chain(failures.into_iter().flatten())
        .flatten()
        .map(|symptom| Hint { text: symptom.to_string(), symptom })
        .collect()
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

fn delayed_ack(figures: &Figures, shortest_rtt: Option<Duration>) -> Option<Symptom> {
    let Figures { service, connect, .. } = figures;
    // A connect takes a round trip as well.
    let rtt = shortest_rtt.or_else(|| (!connect.is_empty()).then(|| Duration::from_micros(connect.min())))?;
    let p50_us = measure::percentile(service, 0, 50.0)?;
    let message_bytes = figures.bytes_echoed / figures.messages_echoed.max(1);
    let fits = service.len() >= ENOUGH_MESSAGES
        && DELAYED_ACK.contains(&p50_us)
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

fn cold_first(figures: &Figures) -> Option<Symptom> {
    let Figures { first_byte: all, first_message: first, .. } = figures;
    let later = without(all, first);
    let first_p50_us = measure::percentile(first, 0, 50.0)?;
    let [later_p50_us, later_p99] = [50.0, 99.0].map(|percent| measure::percentile(&later, 0, percent));
    let (later_p50_us, later_p99) = later_p50_us.zip(later_p99)?;
    let is_cold = first.len() >= ENOUGH_CONNECTIONS as u64
        && later.len() >= ENOUGH_MESSAGES
        && first_p50_us >= SHORTEST_COLD
        && first_p50_us > COLD.saturating_mul(later_p50_us)
        && first_p50_us > later_p99;
    is_cold.then(|| Symptom::ColdFirst { connections: first.len(), first_p50_us, later_p50_us })
}

/// The times of `all` but those of `some`. One that is among `some` alone, as its message never came back whole, takes
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

/// Whether so many of `all` have something in common that the others do not count, and not by chance.
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
                    "messages of {message_bytes} bytes take {p50} (p50), a round trip {rtt}: usually Nagle's algorithm, \
                     waiting for a delayed acknowledgement; set TCP_NODELAY in the server and in proxies before it"
                )
            }
            Symptom::RetransmittedSyn { connects, established, max_us } => write!(
                f,
                "{connects} of {established} connects took about 1 s or longer, up to {}: their SYNs were dropped and sent \
                 again, by a full backlog (try --connect-rate) or a path that loses packets",
                time(max_us)
            ),
            Symptom::ColdFirst { connections, first_p50_us, later_p50_us } => write!(
                f,
                "first messages of {connections} connections wait {} (p50) for their first byte, later ones {}: usually \
                 something on the way connects only then; let it keep connections open, or warm up",
                time(first_p50_us),
                time(later_p50_us)
            ),
            Symptom::EveryNth { every, first, failures, connections } => write!(
                f,
                "one in {every} connections failed, from connection {first} on ({failures} of {connections}), and no other: \
                 usually one bad backend of {every} that take turns; test each by itself"
            ),
            Symptom::OneIdleTime(ref times) => write!(
                f,
                "{times} of silence: usually an idle timeout, in the server or on the way; send before it is over, or \
                 lengthen it"
            ),
            Symptom::OneAge(ref times) => write!(
                f,
                "{times} from their connects on: usually a limit to how long a connection may last, in the server or on the \
                 way"
            ),
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
        let SameTime { failures, shortest_seconds: from, longest_seconds: to, .. } = self;
        write!(f, "{failures} connections ended, at different moments, after {from:.2} to {to:.2} s")
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
