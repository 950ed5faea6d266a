//! The rows of a report's histogram, chosen from the times that are in it.
//!
//! Owns the choice of rows and their labels. Draws nothing.

use hdrhistogram::Histogram;

/// How many rows there are at the most where nothing else takes their place. A report of an intact run, with all rows that
/// it can have, then fits the 24 lines of a terminal.
pub const ROWS: usize = 7;

/// Where rows begin in a decade, in hundredths, from the finest steps to the coarsest: 20, 10, 5, 3, 2 rows and 1. The first
/// three are Renard's series of preferred numbers (ISO 3), whose steps are even. A time is at most an hour, ten decades of
/// microseconds: the last fits any histogram.
const LADDERS: [&[u64]; 6] = [
    &[100, 112, 125, 140, 160, 180, 200, 224, 250, 280, 315, 355, 400, 450, 500, 560, 630, 710, 800, 900],
    &[100, 125, 160, 200, 250, 315, 400, 500, 630, 800],
    &[100, 160, 250, 400, 630],
    &[100, 200, 500],
    &[100, 300],
    &[100],
];

/// The times from one to another, in microseconds, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The shortest time that belongs here.
    pub from: u64,
    /// The shortest that does not belong here any more.
    pub below: u64,
    /// How many times there are; at least one.
    pub count: u64,
}

/// The histogram in the finest rows that are no more than `most`, which is at least 1. Rows that hold nothing are left out,
/// wherever they are: two bulks far from each other are both seen in detail, and every time is in a row.
#[must_use]
pub fn rows(histogram: &Histogram<u64>, most: usize) -> Vec<Row> {
    let [.., coarsest] = LADDERS;
    LADDERS
        .into_iter()
        .map(|ladder| rows_on(ladder, histogram))
        .find(|rows| rows.len() <= most)
        .unwrap_or_else(|| joined(rows_on(coarsest, histogram), most))
}

/// Joins neighbours, those with the fewest times first, until no more than `most` are left.
fn joined(mut rows: Vec<Row>, most: usize) -> Vec<Row> {
    while rows.len() > most {
        let together = |first: &usize| rows[*first].count + rows[first + 1].count;
        let Some(first) = (0..rows.len() - 1).min_by_key(together) else { break };
        let next = rows.remove(first + 1);
        rows[first] = Row { from: rows[first].from, below: next.below, count: rows[first].count + next.count };
    }
    rows
}

fn rows_on(ladder: &[u64], histogram: &Histogram<u64>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for step in histogram.iter_recorded() {
        let (time, count) = (step.value_iterated_to(), step.count_since_last_iteration());
        match rows.last_mut() {
            Some(row) if time < row.below => row.count += count,
            _ => {
                let (from, below) = row_around(time, ladder);
                rows.push(Row { from, below, count });
            }
        }
    }
    rows
}

/// Where the row begins that `time` belongs to, and where the next one does.
fn row_around(time: u64, ladder: &[u64]) -> (u64, u64) {
    let Some(exponent) = time.checked_ilog10() else { return (0, 1) }; // Zero is below every decade.
    let decade = 10_u64.pow(exponent);
    // In whole microseconds: of the steps between 1 and 2 none is left.
    let edge = |hundredths: &u64| u64::try_from((u128::from(*hundredths) * u128::from(decade)).div_ceil(100));
    let edges = || ladder.iter().filter_map(|hundredths| edge(hundredths).ok());
    let from = edges().filter(|&edge| edge <= time).max().unwrap_or(decade);
    let below = edges().find(|&edge| edge > time).unwrap_or(decade.saturating_mul(10));
    (from, below)
}

impl Row {
    /// The range, in the unit that fits it.
    #[must_use]
    pub fn label(&self) -> String {
        let (unit, name) = match self.from {
            0..1_000 => (1, "µs"),
            1_000..1_000_000 => (1_000, "ms"),
            _ => (1_000_000, "s"),
        };
        format!("{} - {} {name}", quotient(self.from, unit), quotient(self.below, unit))
    }
}

/// A quotient without trailing zeros.
#[expect(clippy::cast_precision_loss, reason = "an edge has three digits")]
fn quotient(number: u64, unit: u64) -> f64 {
    number as f64 / unit as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::measure::Figures;

    fn of(times: impl IntoIterator<Item = (u64, u64)>) -> Vec<Row> {
        let mut histogram = Figures::new().service;
        let mut total = 0;
        for (time, count) in times {
            histogram.record_n(time, count).unwrap();
            total += count;
        }
        let rows = rows(&histogram, ROWS);
        assert!(rows.len() <= ROWS, "{rows:?}");
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), total, "nothing is hidden: {rows:?}");
        assert!(rows.iter().all(|row| row.count > 0 && row.from < row.below), "{rows:?}");
        assert!(rows.is_sorted_by(|one, next| one.below <= next.from), "{rows:?}");
        rows
    }

    fn labels(rows: &[Row]) -> Vec<String> {
        rows.iter().map(Row::label).collect()
    }

    #[test]
    fn tight_times_are_shown_in_fine_steps() {
        let rows = of((68..=84).map(|time| (time, 100)));
        assert_eq!(labels(&rows), ["63 - 71 µs", "71 - 80 µs", "80 - 90 µs"]);
        assert_eq!(rows[0].count, 300);
        let one = of([(70, 1000)]);
        assert_eq!(labels(&one), ["63 - 71 µs"]);
    }

    #[test]
    fn twenty_doublings_are_shown_in_wide_steps() {
        // A sparse low end, and the bulk in the highest two doublings: it has rows of its own.
        let rows = of((0..20).map(|power| (3 << power, if power < 18 { 1 } else { 10_000 })));
        assert_eq!(labels(&rows).first().unwrap(), "1 - 10 µs");
        assert_eq!(labels(&rows)[rows.len() - 2..], ["100 - 1000 ms", "1 - 10 s"]);
        assert_eq!(rows[rows.len() - 1].count, 10_000);
    }

    #[test]
    fn two_bulks_are_both_shown_in_detail() {
        let near = (60..=70).map(|time| (time, 1000));
        let far = (2_000_000..=2_200_000).step_by(10_000).map(|time| (time, 1));
        let rows = of(near.chain(far));
        assert_eq!(labels(&rows), ["56 - 63 µs", "63 - 71 µs", "2 - 2.24 s"]);
    }

    #[test]
    fn anything_fits_and_nothing_is_hidden() {
        for (step, highest) in [(1, 40), (1, 5_000), (77_777, 3_600_000_000_u64)] {
            of((0..2000).map(|index| (index * step % (highest + 1), 1 + index % 3)));
        }
        of((0..32).map(|power| (1 << power, 1)));
        let edges = of([(0, 1), (1, 1), (9, 1), (10, 1), (99, 1), (100, 1)]);
        assert_eq!(labels(&edges), ["0 - 1 µs", "1 - 2 µs", "9 - 10 µs", "10 - 12 µs", "90 - 100 µs", "100 - 112 µs"]);
        assert_eq!(of([]), []);
    }

    proptest::proptest! {
        /// Whatever the time, its row holds it, and the rows of a ladder do not overlap.
        #[test]
        fn every_time_lies_in_its_row(time: u64) {
            for ladder in LADDERS {
                let (from, below) = row_around(time, ladder);
                proptest::prop_assert!(from <= time && (time < below || below == u64::MAX));
                proptest::prop_assert_eq!(row_around(from, ladder), (from, below));
                proptest::prop_assert_eq!(row_around(below - 1, ladder), (from, below));
            }
        }
    }
}
