//! How often something happens: a number of times a second, whole or with a decimal fraction.
//!
//! Owns the arithmetic between counts and times. It is exact, in whole numbers alone: a schedule that is kept for days must
//! not drift.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use crate::client::units::split_multiplier;

/// The digits behind the point: a rate counts whole events in a million seconds.
const DECIMALS: u32 = 6;
const SECONDS: u64 = 10_u64.pow(DECIMALS);
const NANOSECONDS: u128 = SECONDS as u128 * 1_000_000_000;

/// No path carries more messages a second, and no schedule is finer than a nanosecond.
pub const HIGHEST: u64 = 1_000_000_000;

/// Events a second, from one in a million seconds to [`HIGHEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    in_a_million_seconds: NonZeroU64,
}

impl Rate {
    /// `events` a second; `None` for none at all, or for more than [`HIGHEST`].
    #[must_use]
    pub fn per_second(events: u64) -> Option<Rate> {
        if events > HIGHEST {
            return None;
        }
        NonZeroU64::new(events * SECONDS).map(|in_a_million_seconds| Rate { in_a_million_seconds })
    }

    /// How long after the first event, number 0, the one with this number happens.
    #[must_use]
    pub fn time_of(self, number: u64) -> Duration {
        // Below 2⁶⁴ times 10¹⁵, which is far below 2¹²⁸.
        let nanos = u128::from(number) * NANOSECONDS / u128::from(self.in_a_million_seconds.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many events happen before this time is over, the first one at its beginning.
    #[must_use]
    pub fn events_within(self, time: Duration) -> u64 {
        // A duration may be longer than 2⁶⁴ seconds of nanoseconds; the product saturates then.
        let events = time.as_nanos().saturating_mul(u128::from(self.in_a_million_seconds.get()));
        u64::try_from(events.div_ceil(NANOSECONDS)).unwrap_or(u64::MAX)
    }
}

/// The same number, in as few digits as it takes.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.in_a_million_seconds.get() / SECONDS, self.in_a_million_seconds.get() % SECONDS);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:06}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// Digits, with a point and up to six digits more behind it if need be, and a `k`, `K`, `M` or `G`: `5000`, `0.5`, `2.5k`.
impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (number, factor) = split_multiplier(text);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(decimals) {
            return Err("write it in digits, like 5000, 5k or 0.5".to_owned());
        }
        let decimals = decimals.trim_end_matches('0');
        if decimals.len() > DECIMALS as usize {
            return Err("at most six digits behind the point".to_owned());
        }
        let whole: u64 = whole.parse().unwrap_or(u64::MAX);
        let fraction: u64 = format!("{decimals:0<6}").parse().unwrap_or(u64::MAX);
        let too_high = || format!("at most {HIGHEST} a second");
        let number = whole.checked_mul(SECONDS).and_then(|whole| whole.checked_add(fraction));
        let in_all = number.and_then(|number| number.checked_mul(factor)).ok_or_else(too_high)?;
        if in_all > HIGHEST * SECONDS {
            return Err(too_high());
        }
        let in_a_million_seconds = NonZeroU64::new(in_all).ok_or("more than 0 is needed")?;
        Ok(Rate { in_a_million_seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_written_in_decimal_digits() {
        for (text, shown) in [("1", "1"), ("0.5", "0.5"), ("1000000000", "1000000000"), ("0.000001", "0.000001")] {
            assert_eq!(rate(text).to_string(), shown);
        }
        assert_eq!(rate("007.2500000000"), rate("7.25"));
        assert_eq!(rate("20"), Rate::per_second(20).unwrap());
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "+1",
            ".5",
            "5.",
            "1e3",
            "k",
            "0k",
            "5kk",
            "5 k",
            "5m",
            "1.0000001k",
            "1.000001G",
            "18446744073709551615G",
            "1.2.3",
            "0.0000001",
            "1000000001",
            "1000000000.000001",
            "１",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
        assert!("18446744073709551616".parse::<Rate>().unwrap_err().contains("at most 1000000000 a second"));
        assert_eq!((Rate::per_second(0), Rate::per_second(HIGHEST + 1)), (None, None));
    }

    #[test]
    fn a_rate_may_be_written_in_thousands_millions_and_billions() {
        for (text, shown) in [
            ("5k", "5000"),
            ("5K", "5000"),
            ("2.5k", "2500"),
            ("0.000001k", "0.001"),
            ("0.25M", "250000"),
            ("1G", "1000000000"),
        ] {
            assert_eq!(rate(text).to_string(), shown);
        }
        assert!("2G".parse::<Rate>().unwrap_err().contains("at most 1000000000 a second"));
    }

    #[test]
    fn the_lowest_rate_is_exact() {
        let lowest = rate("0.000001");
        assert_eq!(lowest.time_of(0), Duration::ZERO);
        assert_eq!(lowest.time_of(1), Duration::from_secs(1_000_000));
        assert_eq!(lowest.time_of(584), Duration::from_secs(584_000_000));
        assert_eq!(lowest.time_of(u64::MAX), Duration::from_nanos(u64::MAX), "later than any moment there is");
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(lowest.events_within(Duration::ZERO), 0);
        assert_eq!(lowest.events_within(Duration::from_secs(1_000_000)), 1);
        assert_eq!(lowest.events_within(Duration::from_secs(1_000_000) + nanosecond), 2);
        assert_eq!(lowest.events_within(Duration::MAX), u64::MAX / 1_000_000 + 1);
    }

    #[test]
    fn the_highest_rate_is_exact() {
        let highest = Rate::per_second(HIGHEST).unwrap();
        assert_eq!(highest.time_of(1), Duration::from_nanos(1));
        assert_eq!(highest.time_of(u64::MAX), Duration::from_nanos(u64::MAX));
        assert_eq!(highest.events_within(Duration::from_nanos(u64::MAX)), u64::MAX);
        assert_eq!(highest.events_within(Duration::MAX), u64::MAX);
        assert_eq!(highest.events_within(Duration::from_secs(1)), HIGHEST);
    }

    #[test]
    fn an_event_is_within_a_time_if_it_happens_before_its_end() {
        for text in ["0.5", "3", "0.333333", "1234.567891", "999999999.999999", "7000"] {
            let rate = rate(text);
            for number in [1, 2, 3, 999, 1_000_000_007] {
                let time = rate.time_of(number);
                assert!(rate.events_within(time) <= number, "{text}: number {number} does not happen before its time");
                let after = time + Duration::from_nanos(1);
                assert!(rate.events_within(after) > number, "{text}: number {number} has happened then");
            }
        }
    }
}
