//! What the client measures.
//!
//! Owns the counters and histograms of a run. Knows nothing of connections: the exchanges report what happens.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::engine::time::Moment;

/// The longest time that is distinguished from longer ones: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// Times are kept to three digits.
const DIGITS: u8 = 3;

/// A client that begins a message later than this, though nothing was in its way, has fallen behind its schedule. Waking up
/// takes some tens of microseconds, and up to a few hundred on a busy machine.
pub const LATE: Duration = Duration::from_millis(1);

/// Takes what is measured. It hears only of messages of the measured part.
pub trait Meter {
    /// A message was begun. If it was scheduled, `late` says how late.
    fn begun(&self, late: Option<Lateness>);
    /// This number of scheduled messages will never be begun: it has become too late. `own` is the part of the lateness that
    /// is our own.
    fn given_up(&self, messages: u64, own: Duration);
    /// This number of bytes was handed to the connection, with the ends of this number of messages.
    fn sent(&self, bytes: u64, messages: u64);
    /// This number of bytes came back right.
    fn returned(&self, bytes: u64);
    /// A whole message came back.
    fn echoed(&self, sample: Sample);
    /// The peer's FIN came this long after everything was back and ours was decided on.
    fn closed(&self, after: Duration);
}

/// How long after its time a scheduled message was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// In all.
    pub total: Duration,
    /// The same, if nothing was in its way. Zero if the socket was full and the message waited for that, or for others that
    /// waited for it: then the peer, or the path to it, made it wait.
    pub own: Duration,
}

/// One message's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When its last byte was back.
    pub at: Moment,
    /// From its first write to its first byte back.
    pub first_byte: Duration,
    /// From its first write to its last byte back.
    pub service: Duration,
    /// From the time it was scheduled for to its last byte back, if it was scheduled.
    pub scheduled: Option<Duration>,
}

/// A meter that measures nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMeter;

impl Meter for NoMeter {
    fn begun(&self, _late: Option<Lateness>) {}
    fn given_up(&self, _messages: u64, _own: Duration) {}
    fn sent(&self, _bytes: u64, _messages: u64) {}
    fn returned(&self, _bytes: u64) {}
    fn echoed(&self, _sample: Sample) {}
    fn closed(&self, _after: Duration) {}
}

/// Counters and times in microseconds of the measured messages; of connects and closes, all.
#[derive(Debug)]
pub struct Figures {
    /// Messages handed to their connections whole.
    pub messages_sent: u64,
    /// Messages that came back whole.
    pub messages_echoed: u64,
    /// Bytes handed to their connections.
    pub bytes_sent: u64,
    /// Bytes that came back right.
    pub bytes_echoed: u64,
    /// Messages begun.
    pub begun: u64,
    /// Messages that were begun and not back when their connection failed.
    pub unanswered: u64,
    /// Messages that were begun, or given up, late ([`LATE`]) by our own doing.
    pub own_late: u64,
    /// Messages that became too late to be begun.
    pub given_up: u64,
    /// When the last message was back.
    pub last_echo: Option<Moment>,
    /// From the first write of a message to its last byte back.
    pub service: Histogram<u64>,
    /// From the time that a message was scheduled for to its last byte back.
    pub scheduled: Histogram<u64>,
    /// From the first write of a message to its first byte back.
    pub first_byte: Histogram<u64>,
    /// From the time that a message was scheduled for to its first write.
    pub schedule_error: Histogram<u64>,
    /// From connect(2) to its success.
    pub connect: Histogram<u64>,
    /// From the time that a connection was scheduled for to its connect(2).
    pub connect_late: Histogram<u64>,
    /// From our FIN, decided on when everything was back, to the peer's.
    pub close: Histogram<u64>,
}

/// The figures of a run, shared by the exchanges, which measure, and the client.
#[derive(Clone, Debug)]
pub struct Figured(Rc<RefCell<Figures>>);

impl Figured {
    /// No figures yet.
    #[must_use]
    pub fn new() -> Figured {
        Figured(Rc::new(RefCell::new(Figures {
            messages_sent: 0,
            messages_echoed: 0,
            bytes_sent: 0,
            bytes_echoed: 0,
            begun: 0,
            unanswered: 0,
            own_late: 0,
            given_up: 0,
            last_echo: None,
            service: histogram(),
            scheduled: histogram(),
            first_byte: histogram(),
            schedule_error: histogram(),
            connect: histogram(),
            connect_late: histogram(),
            close: histogram(),
        })))
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> Ref<'_, Figures> {
        self.0.borrow()
    }

    /// A connection failed with this number of messages on their way.
    pub fn lost(&self, messages: u64) {
        self.borrow_mut().unanswered += messages;
    }

    /// A connect succeeded, `after` this time.
    pub fn connected(&self, after: Duration) {
        record(&mut self.borrow_mut().connect, after);
    }

    /// A scheduled connect was begun, `late` after its time.
    pub fn connect_begun(&self, late: Duration) {
        record(&mut self.borrow_mut().connect_late, late);
    }

    fn borrow_mut(&self) -> RefMut<'_, Figures> {
        self.0.borrow_mut()
    }
}

impl Default for Figured {
    fn default() -> Figured {
        Figured::new()
    }
}

/// The time within which `percent` of all messages were back. Beside those in the histogram there are `never` more, which
/// count as longer than all others. `None` if the percentile falls among them, or if there are no messages.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a share, to some digits")]
pub fn percentile(times: &Histogram<u64>, never: u64, percent: f64) -> Option<u64> {
    let (back, all) = (times.len() as f64, (times.len() + never) as f64);
    if times.is_empty() || percent * all > 100.0 * back {
        return None;
    }
    let share = percent / 100.0 * (all / back);
    Some(times.value_at_quantile(share.min(1.0)).min(times.max()))
}

/// A rate or a share, to a few digits.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "to a few digits")]
pub fn ratio(count: u64, of: f64) -> f64 {
    count as f64 / of
}

/// No times yet.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("these bounds are constants, and sound")
}

pub(super) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_US));
}

impl Meter for Figured {
    fn begun(&self, late: Option<Lateness>) {
        let figures = &mut *self.borrow_mut();
        figures.begun += 1;
        if let Some(Lateness { total, own }) = late {
            record(&mut figures.schedule_error, total);
            figures.own_late += u64::from(own > LATE);
        }
    }

    fn given_up(&self, messages: u64, own: Duration) {
        let figures = &mut *self.borrow_mut();
        figures.given_up += messages;
        if own > LATE {
            figures.own_late += messages;
        }
    }

    fn sent(&self, bytes: u64, messages: u64) {
        let figures = &mut *self.borrow_mut();
        figures.bytes_sent += bytes;
        figures.messages_sent += messages;
    }

    fn returned(&self, bytes: u64) {
        self.borrow_mut().bytes_echoed += bytes;
    }

    fn echoed(&self, sample: Sample) {
        let figures = &mut *self.borrow_mut();
        figures.messages_echoed += 1;
        figures.last_echo = Some(sample.at);
        record(&mut figures.first_byte, sample.first_byte);
        record(&mut figures.service, sample.service);
        if let Some(scheduled) = sample.scheduled {
            record(&mut figures.scheduled, scheduled);
        }
    }

    fn closed(&self, after: Duration) {
        record(&mut self.borrow_mut().close, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_never_came_back_took_longer_than_all_others() {
        let mut times = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).unwrap();
        assert_eq!((percentile(&times, 0, 50.0), percentile(&times, 3, 1.0)), (None, None));
        for time in 1..=900 {
            times.record(time).unwrap();
        }
        assert_eq!(percentile(&times, 0, 50.0), Some(450));
        assert_eq!(percentile(&times, 0, 100.0), Some(900));
        assert_eq!(percentile(&times, 100, 45.0), Some(450));
        assert_eq!(percentile(&times, 100, 90.0), Some(900));
        assert_eq!(percentile(&times, 100, 90.1), None);
        assert_eq!(percentile(&times, 100, 100.0), None);
    }

    #[test]
    fn times_are_kept_in_microseconds_and_never_refused() {
        let figured = Figured::new();
        let sample = |service| Sample { at: Moment::START, first_byte: Duration::ZERO, service, scheduled: None };
        figured.echoed(sample(Duration::from_millis(5)));
        figured.echoed(sample(Duration::from_secs(9000)));
        let seen = figured.figures();
        assert_eq!(seen.service.value_at_quantile(0.5) / 10, 500);
        assert!(seen.service.max() >= LONGEST_US - LONGEST_US / 500);
        assert_eq!((seen.messages_echoed, seen.scheduled.len()), (2, 0));
    }
}
