//! The histograms as an HdrHistogram interval log, so that runs of many machines can be merged with its tools.
//!
//! Owns the file's layout: one interval, the whole run, with a tag for each kind of time, in microseconds.

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::client::measure::Figures;

/// The log names the longest time of an interval in milliseconds, as HdrHistogram's own writers do.
const US_A_MILLISECOND: f64 = 1000.0;

/// Writes the log of a run that began at `began` and took `took`.
pub fn write(out: &mut impl Write, figures: &Figures, began: SystemTime, took: Duration) -> anyhow::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(concat!("multiconn-client ", env!("CARGO_PKG_VERSION"), ", times in microseconds"))
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(US_A_MILLISECOND)
        .begin_log_with(out, &mut serializer)
        .context("cannot begin the histogram log")?;
    for (tag, histogram) in
        [("service", &figures.service), ("scheduled", &figures.scheduled), ("connect", &figures.connect)]
    {
        if !histogram.is_empty() {
            log.write_histogram(histogram, Duration::ZERO, took, Tag::new(tag))
                .map_err(|error| anyhow::anyhow!("cannot write the histogram log: {error:?}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::measure::Figured;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn the_log_reads_back_with_its_tags() {
        let figured = Figured::new();
        figured.connected(Duration::from_micros(1234));
        let mut text = Vec::new();
        write(&mut text, &figured.figures(), SystemTime::UNIX_EPOCH, Duration::from_secs(1)).unwrap();
        let intervals: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 1, "what was not measured is not written");
        assert_eq!(intervals[0].tag(), Tag::new("connect"));
        let bytes = base64(intervals[0].encoded_histogram());
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(histogram.max() / 10, 123);
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
