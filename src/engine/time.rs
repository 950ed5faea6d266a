//! Points in a loop's time.
//!
//! Owns nothing but a number; never reads a clock. The event loop lends its clock to what it calls, so all of that also
//! runs on a clock that a test made up.

use std::num::NonZeroU64;
use std::time::Duration;

/// A point in time: nanoseconds since the loop began, in eight bytes.
///
/// `std::time::Instant` takes sixteen, and a connection keeps several of them; `Option<Moment>` takes eight
/// as well. The number lasts for 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The moment at which the loop began.
    pub const START: Moment = Moment(NonZeroU64::MIN);

    /// The last moment that there is.
    pub const END: Moment = Moment(NonZeroU64::MAX);

    /// The moment `elapsed` after the start.
    #[must_use]
    pub fn after_start(elapsed: Duration) -> Moment {
        Moment::START.plus(elapsed)
    }

    /// The moment `duration` after this one, or the last one that there is.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }

    /// The moment `duration` before this one, or the start.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(NonZeroU64::new(self.0.get().saturating_sub(nanos)).unwrap_or(NonZeroU64::MIN))
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// Tells the time. The loop lends its clock to code that needs the time more than once a turn.
pub trait Clock {
    /// The time now.
    fn now(&self) -> Moment;
}

/// A clock that stands still, for tests and for code to which time does not matter.
impl Clock for Moment {
    fn now(&self) -> Moment {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_and_subtract() {
        let later = Moment::after_start(Duration::from_millis(3));
        assert_eq!(later.since(Moment::START), Duration::from_millis(3));
        assert_eq!(Moment::START.since(later), Duration::ZERO);
        assert!(later > Moment::START);
        assert_eq!(later.minus(Duration::from_millis(1)), Moment::after_start(Duration::from_millis(2)));
        assert_eq!(later.minus(Duration::from_secs(1)), Moment::START, "there is nothing before the start");
    }

    #[test]
    fn the_far_future_saturates() {
        let last = Moment::START.plus(Duration::MAX);
        assert_eq!(last.plus(Duration::from_secs(1)), last);
    }

    #[test]
    fn an_optional_moment_costs_nothing_more() {
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
