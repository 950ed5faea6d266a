//! The histograms as an HdrHistogram interval log, so that runs of many machines can be merged with its tools.
//!
//! Owns the file's layout: a line for each interval and kind of time, with the kind as its tag, in microseconds.

use std::io::Write;
use std::time::SystemTime;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use crate::client::timeline::Interval;

/// A log that is being written.
pub struct HdrLog<W> {
    out: W,
    serializer: V2DeflateSerializer,
}

impl<W: Write> HdrLog<W> {
    /// The log of a run that began at `began`.
    pub fn begin(mut out: W, began: SystemTime) -> anyhow::Result<HdrLog<W>> {
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment(concat!("multiconn-client ", env!("CARGO_PKG_VERSION"), ", times in microseconds"))
            .with_start_time(began)
            .with_base_time(began)
            .begin_log_with(&mut out, &mut serializer)?;
        Ok(HdrLog { out, serializer })
    }

    /// Adds an interval: its kinds of time that were measured.
    pub fn add(&mut self, interval: &Interval) -> anyhow::Result<()> {
        let figures = &interval.figures;
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut self.out, &mut self.serializer)?; // Writes nothing.
        for (tag, histogram) in [
            ("service", &figures.service),
            ("scheduled", &figures.scheduled),
            ("connect", &figures.connect),
            ("close", &figures.close),
        ] {
            if !histogram.is_empty() {
                let written = log.write_histogram(histogram, interval.from, interval.length(), Tag::new(tag));
                written.map_err(|error| match error {
                    IntervalLogWriterError::IoError(error) => anyhow::Error::new(error),
                    IntervalLogWriterError::SerializeError(error) => anyhow::Error::new(error),
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, ErrorKind};
    use std::time::Duration;

    use crate::client::measure::{Figured, Figures};
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    /// A second with these figures.
    fn second(from: u64, figures: Figures) -> Interval {
        Interval {
            from: Duration::from_secs(from),
            to: Duration::from_secs(from + 1),
            is_measured: true,
            connections: 1,
            faults: 0,
            waiting: 0,
            oldest: None,
            figures,
        }
    }

    #[test]
    fn the_log_reads_back_with_its_tags_and_times() {
        let figured = Figured::new();
        figured.connected(Duration::from_micros(1234));
        let mut text = Vec::new();
        let mut log = HdrLog::begin(&mut text, SystemTime::UNIX_EPOCH).unwrap();
        for interval in [second(0, figured.so_far()), second(1, Figures::new()), second(2, figured.so_far())] {
            log.add(&interval).unwrap();
        }
        let intervals: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 2, "what was not measured is not written");
        for (interval, from) in intervals.iter().zip([0, 2]) {
            assert_eq!(interval.tag(), Tag::new("connect"));
            assert_eq!((interval.start_timestamp().as_secs(), interval.duration().as_secs()), (from, 1));
            let bytes = base64(interval.encoded_histogram());
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            assert_eq!(histogram.max() / 10, 123);
        }
    }

    /// A disk with room for this many bytes more.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_said_in_the_words_of_the_system() {
        let figured = Figured::new();
        figured.connected(Duration::from_micros(1234));
        let full = io::Error::from(ErrorKind::StorageFull).to_string();
        let error = HdrLog::begin(Disk(10), SystemTime::UNIX_EPOCH).err().unwrap();
        assert_eq!(format!("{error:#}"), full);
        let mut log = HdrLog::begin(Disk(200), SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(format!("{:#}", log.add(&second(0, figured.so_far())).unwrap_err()), full);
    }

    /// Just enough of RFC 4648 to look into the log.
    fn base64(text: &str) -> Vec<u8> {
        let value = |char: u8| match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u32> = text.bytes().filter(|&char| char != b'=').map(|char| value(char).into()).collect();
        digits
            .chunks(4)
            .flat_map(|chunk| {
                let bits = chunk.iter().enumerate().fold(0, |bits, (index, digit)| bits | digit << (18 - 6 * index));
                bits.to_be_bytes()[1..chunk.len()].to_vec()
            })
            .collect()
    }
}
