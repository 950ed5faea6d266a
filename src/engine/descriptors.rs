//! The limit of open files.
//!
//! Owns the number of descriptors that are kept back from connections. Keeps no state and opens nothing.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors a program keeps back from its connections at the most: for the standard streams, the poller, the
/// listener, the signal pipe, name resolution, and some that its parent process may have left open.
const RESERVED: u64 = 16;

/// Raises the soft limit of open files to the hard one. Returns the new limit; `u64::MAX` if there is none.
///
/// # Errors
/// The system refuses (setrlimit(2)).
pub fn raise_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

/// How many connections fit under a `limit` of descriptors: 16 fewer than the limit, or half of a limit below 32.
#[must_use]
pub fn connections_within(limit: u64) -> usize {
    usize::try_from(limit - RESERVED.min(limit / 2)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_descriptors_are_kept_back() {
        assert_eq!(connections_within(20_000), 19_984);
        assert_eq!(connections_within(12), 6);
        assert_eq!(connections_within(0), 0);
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one() {
        let raised = raise_limit().unwrap();
        assert_eq!(Some(raised), getrlimit(Resource::Nofile).maximum.or(Some(u64::MAX)));
    }
}
