//! What the client measures.
//!
//! Owns the counters and histograms of a run, and of the part of it that goes on now. Knows nothing of connections: the
//! exchanges report what happens.

use std::cell::{RefCell, RefMut};
use std::mem;
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
    /// A message was begun, by our own doing `own_late` after its time. That is zero if it had none, and if the socket was
    /// full and the message waited for that, or for others that waited for it: then the peer, or the path to it, made it
    /// wait.
    fn begun(&self, own_late: Duration);
    /// This number of scheduled messages will never be begun: it has become too late. `own` is the part of the lateness that
    /// is our own.
    fn given_up(&self, messages: u64, own: Duration);
    /// This number of bytes was handed to the connection, with the ends of this number of messages.
    fn sent(&self, bytes: u64, messages: u64);
    /// This number of bytes came back right.
    fn returned(&self, bytes: u64);
    /// The first byte of a connection's first message came back this long after its first write.
    fn heard_first(&self, after: Duration);
    /// A whole message came back.
    fn echoed(&self, sample: Sample);
    /// The peer's FIN came this long after everything was back and ours was decided on.
    fn closed(&self, after: Duration);
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
    /// The times from its schedule on, if it was scheduled.
    pub scheduled: Option<Scheduled>,
}

/// The times of a message that was due at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// From the time it was due to its first write, by whatever cause.
    pub late: Duration,
    /// From the time it was due to its last byte back.
    pub total: Duration,
}

/// A meter that measures nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMeter;

impl Meter for NoMeter {
    fn begun(&self, _own_late: Duration) {}
    fn given_up(&self, _messages: u64, _own: Duration) {}
    fn sent(&self, _bytes: u64, _messages: u64) {}
    fn returned(&self, _bytes: u64) {}
    fn heard_first(&self, _after: Duration) {}
    fn echoed(&self, _sample: Sample) {}
    fn closed(&self, _after: Duration) {}
}

/// Counters and times in microseconds of the measured messages; of connects and closes, all.
#[derive(Clone, Debug, PartialEq)]
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
    /// The same of the first message of each connection.
    pub first_message: Histogram<u64>,
    /// From the time that a message was scheduled for to its first write, of messages that came back.
    pub late: Histogram<u64>,
    /// From connect(2) to its success.
    pub connect: Histogram<u64>,
    /// From the time that a connection was scheduled for to its connect(2).
    pub connect_late: Histogram<u64>,
    /// From our FIN, decided on when everything was back, to the peer's.
    pub close: Histogram<u64>,
}

impl Figures {
    /// Nothing was measured yet.
    #[must_use]
    pub fn new() -> Figures {
        Figures {
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
            first_message: histogram(),
            late: histogram(),
            connect: histogram(),
            connect_late: histogram(),
            close: histogram(),
        }
    }

    /// Adds those of a later part of the run.
    pub fn add(&mut self, later: &Figures) {
        let Figures { messages_sent, messages_echoed, bytes_sent, bytes_echoed, begun, unanswered, own_late, .. } =
            later;
        let Figures { given_up, last_echo, service, scheduled, first_byte, first_message, late, .. } = later;
        let Figures { connect, connect_late, close, .. } = later;
        self.messages_sent += messages_sent;
        self.messages_echoed += messages_echoed;
        self.bytes_sent += bytes_sent;
        self.bytes_echoed += bytes_echoed;
        self.begun += begun;
        self.unanswered += unanswered;
        self.own_late += own_late;
        self.given_up += given_up;
        self.last_echo = last_echo.or(self.last_echo);
        for (sum, later) in [
            (&mut self.service, service),
            (&mut self.scheduled, scheduled),
            (&mut self.first_byte, first_byte),
            (&mut self.first_message, first_message),
            (&mut self.late, late),
            (&mut self.connect, connect),
            (&mut self.connect_late, connect_late),
            (&mut self.close, close),
        ] {
            *sum += later; // All have the same bounds, so there is room.
        }
    }
}

impl Default for Figures {
    fn default() -> Figures {
        Figures::new()
    }
}

/// The figures of a run, shared by the exchanges, which measure, and the client.
#[derive(Clone, Debug, Default)]
pub struct Figured(Rc<RefCell<Parts>>);

/// A run is measured in parts, so that nothing is counted twice: the whole is their sum.
#[derive(Debug, Default)]
struct Parts {
    /// The sum of those that are over.
    earlier: Figures,
    current: Figures,
}

impl Figured {
    /// No figures yet.
    #[must_use]
    pub fn new() -> Figured {
        Figured::default()
    }

    /// The figures of the whole run so far.
    #[must_use]
    pub fn so_far(&self) -> Figures {
        let Parts { earlier, current } = &*self.0.borrow();
        let mut sum = Figures::new();
        sum.add(earlier);
        sum.add(current);
        sum
    }

    /// Begins a new part. Returns the figures of the one that is over now.
    #[must_use]
    pub fn next_part(&self) -> Figures {
        let Parts { earlier, current } = &mut *self.0.borrow_mut();
        let part = mem::take(current);
        earlier.add(&part);
        part
    }

    /// Begins the measured part. Returns the figures of the one before it, in which connections came and went, and no message
    /// was measured.
    #[must_use]
    pub fn first_measured_part(&self) -> Figures {
        let Parts { earlier, current } = &mut *self.0.borrow_mut();
        let [connect, connect_late, close] = [&mut current.connect, &mut current.connect_late, &mut current.close]
            .map(|times| mem::replace(times, histogram()));
        let part = Figures { connect, connect_late, close, ..Figures::new() };
        earlier.add(&part);
        part
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
        RefMut::map(self.0.borrow_mut(), |parts| &mut parts.current)
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
    fn begun(&self, own_late: Duration) {
        let figures = &mut *self.borrow_mut();
        figures.begun += 1;
        figures.own_late += u64::from(own_late > LATE);
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

    fn heard_first(&self, after: Duration) {
        record(&mut self.borrow_mut().first_message, after);
    }

    fn echoed(&self, sample: Sample) {
        let figures = &mut *self.borrow_mut();
        figures.messages_echoed += 1;
        figures.last_echo = Some(sample.at);
        record(&mut figures.first_byte, sample.first_byte);
        record(&mut figures.service, sample.service);
        if let Some(Scheduled { late, total }) = sample.scheduled {
            record(&mut figures.late, late);
            record(&mut figures.scheduled, total);
        }
    }

    fn closed(&self, after: Duration) {
        record(&mut self.borrow_mut().close, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let seen = figured.so_far();
        assert_eq!(seen.service.value_at_quantile(0.5) / 10, 500);
        assert!(seen.service.max() >= LONGEST_US - LONGEST_US / 500);
        assert_eq!((seen.messages_echoed, seen.scheduled.len()), (2, 0));
    }

    /// Something that is measured, or the end of a part.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Connected(u64),
        ConnectBegun(u64),
        Closed(u64),
        Begun(u64),
        Sent(u64),
        HeardFirst(u64),
        Echoed(u64, Option<u64>),
        Lost(u64),
        GivenUp(u64),
        Part,
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = 0..10_000_000_u64;
        prop_oneof![
            time.clone().prop_map(Step::Connected),
            time.clone().prop_map(Step::ConnectBegun),
            time.clone().prop_map(Step::Closed),
            time.clone().prop_map(Step::Begun),
            time.clone().prop_map(Step::Sent),
            time.clone().prop_map(Step::HeardFirst),
            (time.clone(), proptest::option::of(time)).prop_map(|(service, late)| Step::Echoed(service, late)),
            (0..9_u64).prop_map(Step::Lost),
            (0..9_u64).prop_map(Step::GivenUp),
            Just(Step::Part),
        ]
    }

    /// Measures `steps`. Returns the whole, and the sum of the parts.
    fn measured(steps: &[Step], in_parts: bool) -> (Figures, Figures) {
        let (figured, mut sum) = (Figured::new(), Figures::new());
        for (step, millis) in steps.iter().zip(0..) {
            match *step {
                Step::Connected(micros) => figured.connected(Duration::from_micros(micros)),
                Step::ConnectBegun(micros) => figured.connect_begun(Duration::from_micros(micros)),
                Step::Closed(micros) => figured.closed(Duration::from_micros(micros)),
                Step::Begun(micros) => figured.begun(Duration::from_micros(micros)),
                Step::Sent(bytes) => figured.sent(bytes, 1),
                Step::HeardFirst(micros) => figured.heard_first(Duration::from_micros(micros)),
                Step::Echoed(micros, late) => {
                    let service = Duration::from_micros(micros);
                    let late = late.map(Duration::from_micros);
                    figured.returned(micros);
                    figured.echoed(Sample {
                        at: Moment::after_start(Duration::from_millis(millis)),
                        first_byte: service / 2,
                        service,
                        scheduled: late.map(|late| Scheduled { late, total: late + service }),
                    });
                }
                Step::Lost(messages) => figured.lost(messages),
                Step::GivenUp(messages) => figured.given_up(messages, Duration::ZERO),
                Step::Part if in_parts => sum.add(&figured.next_part()),
                Step::Part => {}
            }
        }
        let whole = figured.so_far();
        sum.add(&figured.next_part());
        (whole, sum)
    }

    proptest! {
        #[test]
        fn the_parts_of_a_run_sum_to_the_whole(steps in proptest::collection::vec(step(), 0..200)) {
            let (undivided, _) = measured(&steps, false);
            let (whole, sum) = measured(&steps, true);
            prop_assert_eq!(&whole, &undivided);
            prop_assert_eq!(&sum, &undivided);
        }
    }
}
