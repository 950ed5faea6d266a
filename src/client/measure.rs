//! What the client measures.
//!
//! Owns the counters and histograms of a run. Knows nothing of connections: the exchanges tell it what happened.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::moment::Moment;
use crate::protocol::exchange::{Meter, Sample};

/// The longest time that is told apart from longer ones: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;

/// Times are kept to three digits.
const DIGITS: u8 = 3;

/// Counters and times in microseconds of the measured messages; of connects, all.
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
}

/// The figures of a run, shared by whoever measures and whoever tells.
#[derive(Clone, Debug)]
pub struct Figured(Rc<RefCell<Figures>>);

impl Figured {
    /// No figures yet.
    ///
    /// # Panics
    /// Never: the histograms' bounds are constants, and sound.
    #[must_use]
    pub fn new() -> Figured {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("these bounds are sound");
        Figured(Rc::new(RefCell::new(Figures {
            messages_sent: 0,
            messages_echoed: 0,
            bytes_sent: 0,
            bytes_echoed: 0,
            begun: 0,
            last_echo: None,
            service: histogram(),
            scheduled: histogram(),
            first_byte: histogram(),
            schedule_error: histogram(),
            connect: histogram(),
        })))
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> Ref<'_, Figures> {
        self.0.borrow()
    }

    /// A connect took so long.
    pub fn connected(&self, after: Duration) {
        record(&mut self.borrow_mut().connect, after);
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

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST_US));
}

impl Meter for Figured {
    fn begun(&self, late: Option<Duration>) {
        let figures = &mut *self.borrow_mut();
        figures.begun += 1;
        if let Some(late) = late {
            record(&mut figures.schedule_error, late);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_microseconds_and_never_refused() {
        let figured = Figured::new();
        let sample = |service| Sample { at: Moment::START, first_byte: Duration::ZERO, service, scheduled: None };
        figured.echoed(sample(Duration::from_millis(5)));
        figured.echoed(sample(Duration::from_secs(9000)));
        let told = figured.figures();
        assert_eq!(told.service.value_at_quantile(0.5) / 10, 500);
        assert!(told.service.max() >= LONGEST_US - LONGEST_US / 500);
        assert_eq!((told.messages_echoed, told.scheduled.len()), (2, 0));
    }
}
