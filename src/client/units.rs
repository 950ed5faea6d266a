//! Numbers and times as people write them: `5k`, `500ms`.
//!
//! Owns the letters behind a number and the demand for a unit behind a time.

use std::time::Duration;

/// As in sizes, where a k is 1,000 and a Ki 1,024. A small m is left to minutes.
const THOUSANDS: [(char, u64); 4] = [('k', 1_000), ('K', 1_000), ('M', 1_000_000), ('G', 1_000_000_000)];

/// What stands before the letter, and what the letter multiplies it by: `("2.5", 1_000)` of `2.5k`, `("5", 1)` of `5`.
#[must_use]
pub fn split_multiplier(text: &str) -> (&str, u64) {
    let split = THOUSANDS.iter().find_map(|&(letter, factor)| Some((text.strip_suffix(letter)?, factor)));
    split.unwrap_or((text, 1))
}

/// A duration as people write it, `500ms` or `2s`; a unit is needed.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        // humantime lets a bare 0 pass.
        Ok(_) if !text.bytes().any(|byte| byte.is_ascii_alphabetic()) => Err("a unit is needed: 0s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}: write it like 500ms or 2s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_multiplies_by_a_power_of_a_thousand() {
        for (text, split) in
            [("5k", ("5", 1_000)), ("5K", ("5", 1_000)), ("2.5M", ("2.5", 1_000_000)), ("1G", ("1", 1_000_000_000))]
        {
            assert_eq!(split_multiplier(text), split);
        }
        for text in ["", "5", "5m", "5kB", "5 k "] {
            assert_eq!(split_multiplier(text), (text, 1));
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "2", "0", "-1s", "+1s", "2parsecs", "s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
