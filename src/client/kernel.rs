//! What the kernel counted and measured on the connections of a run.
//!
//! Owns the sums and the distribution of round trips. Knows nothing of the program's own measurements: beside those, these
//! show the path without the programs at its ends.

use std::ops::RangeInclusive;
use std::time::Duration;

use hdrhistogram::Histogram;
use tcp_state::TcpState;

use crate::client::measure;

/// Sums over connections, each looked at once, at its end.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Segments that were sent in all: SYN, FIN and bare acknowledgements are among them, and those sent again. 0 if the
    /// system told nothing.
    pub segments_sent: u64,
    /// Segments that were sent again.
    pub segments_retransmitted: u64,
    /// The shortest round trip.
    pub shortest_rtt: Option<Duration>,
    /// The last smoothed round trip of each connection, in microseconds.
    pub rtt: Histogram<u64>,
    /// The smallest and the largest MSS in the end.
    pub mss: Option<RangeInclusive<u32>>,
}

impl Kernel {
    /// No connection yet.
    #[must_use]
    pub fn new() -> Kernel {
        Kernel { segments_sent: 0, segments_retransmitted: 0, shortest_rtt: None, rtt: measure::histogram(), mss: None }
    }

    /// Adds a connection. One that never `stood` has an MSS that nobody agreed to, and no round trip.
    pub fn add(&mut self, state: &TcpState, stood: bool) {
        let Some(sent) = state.segments_sent else { return }; // Linux before 4.2 does not tell of how many.
        self.segments_sent += u64::from(sent);
        self.segments_retransmitted += u64::from(state.segments_retransmitted);
        if !stood {
            return;
        }
        self.shortest_rtt = self.shortest_rtt.into_iter().chain(state.shortest_rtt).min();
        if let Some(rtt) = state.smoothed_rtt {
            measure::record(&mut self.rtt, rtt);
        }
        self.mss = Some(match &self.mss {
            Some(range) => state.mss.min(*range.start())..=state.mss.max(*range.end()),
            None => state.mss..=state.mss,
        });
    }
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sent: u32, micros: u64, mss: u32) -> TcpState {
        TcpState {
            segments_sent: Some(sent),
            segments_retransmitted: 1,
            shortest_rtt: Some(Duration::from_micros(micros / 2)),
            smoothed_rtt: Some(Duration::from_micros(micros)),
            mss,
            ..TcpState::default()
        }
    }

    #[test]
    fn segments_are_summed_and_the_extremes_kept() {
        let mut kernel = Kernel::new();
        for (sent, micros, mss) in [(10, 80, 1448), (20, 40, 1360), (30, 60, 1400)] {
            kernel.add(&state(sent, micros, mss), true);
        }
        assert_eq!((kernel.segments_sent, kernel.segments_retransmitted), (60, 3));
        assert_eq!(kernel.shortest_rtt, Some(Duration::from_micros(20)));
        assert_eq!(measure::percentile(&kernel.rtt, 0, 50.0), Some(60));
        assert_eq!(kernel.mss, Some(1360..=1448));
    }

    #[test]
    fn a_connect_that_failed_counts_its_segments_alone() {
        let mut kernel = Kernel::new();
        kernel.add(&state(3, 80, 536), false);
        assert_eq!((kernel.segments_sent, kernel.segments_retransmitted), (3, 1));
        assert_eq!((kernel.shortest_rtt, kernel.rtt.len(), kernel.mss), (None, 0, None));
    }

    #[test]
    fn a_kernel_that_does_not_count_segments_is_left_out() {
        let mut kernel = Kernel::new();
        kernel.add(&TcpState { segments_sent: None, ..state(0, 80, 536) }, true);
        assert_eq!((kernel.segments_sent, kernel.segments_retransmitted, kernel.mss), (0, 0, None));
    }
}
