//! Medians, ranges and ratios over the rounds of one run.
//!
//! Owns the arithmetic alone.

use serde::Serialize;

/// One figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of all finite `values`; none if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Spread { median, min, max })
    }

    /// The ratios of figures that were measured in the same round, one after the other. What troubles the machine for
    /// seconds troubles both of a pair, and so not their ratio.
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Spread> {
        Spread::of(pairs.into_iter().map(|(figure, floor)| figure / floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_in_each_round_and_not_between_medians() {
        // The machine was half as fast in the second round; the ratio was 2 in all of them.
        let pairs = [(2.0, 1.0), (4.0, 2.0), (2.0, 1.0)];
        assert_eq!(Spread::of_ratios(pairs), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
    }

    #[test]
    fn a_round_without_a_floor_does_not_count() {
        let spread = Some(Spread { median: 1.5, min: 1.5, max: 1.5 });
        assert_eq!(Spread::of_ratios([(1.0, 0.0), (3.0, 2.0)]), spread);
    }
}
