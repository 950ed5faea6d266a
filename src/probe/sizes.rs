//! Sizes: single messages from one byte up, each on a connection of its own.
//!
//! Owns the ladder, the narrowing of a size that falls silent, and the row.

use std::collections::BTreeMap;

use crate::probe::behaviour::{Behaviour, Row, Verdict, advice, ending, size};
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// The usual sizes of a segment's payload, which a path with another limit breaks at: the least that every host takes
/// (RFC 9293, 3.7.1), tunnels, `PPPoE`, Ethernet without and with timestamps, jumbo frames.
const SEGMENTS: [u64; 9] = [536, 1_220, 1_360, 1_388, 1_440, 1_448, 1_460, 8_948, 8_960];
/// How near two sizes are of which one went through and the other did not, when the limit is called known.
const NEAR: u64 = 8;
/// How many sizes are tried at once to narrow a limit.
const AT_ONCE: u64 = 16;

/// Whether messages of every size come back, and above which they do not: a hole in the path's MTU swallows segments
/// above one size, where "fragmentation needed" is dropped (RFC 1191, RFC 4821).
#[derive(Debug)]
pub struct Sizes {
    most: u64,
    /// The sizes of this round.
    asked: Vec<u64>,
    seen: BTreeMap<u64, Seen>,
}

impl Sizes {
    /// Up to `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Sizes {
        Sizes { most: most.max(1), asked: Vec::new(), seen: BTreeMap::new() }
    }

    /// The largest size below the smallest that did not come back, and that one. How connections end is for half-close.
    fn limit(&self) -> Option<(u64, u64)> {
        let (&broken, _) = self.seen.iter().find(|(_, seen)| !seen.came_back())?;
        let whole = self.seen.range(..broken).next_back().map_or(0, |(&size, _)| size);
        Some((whole, broken))
    }

    /// Whether what became of `broken` may be due to its size: a connect knows no size.
    fn depends_on_size(&self, broken: u64) -> bool {
        !matches!(self.seen[&broken].ending, Ending::NotConnected(_))
    }

    /// The largest segment that the kernels agreed on, in words.
    fn segment(&self) -> String {
        let segment = self.seen.values().find_map(|seen| seen.segment);
        segment.map_or(String::new(), |segment| format!("; segments of {segment} B at most"))
    }

    fn ladder(&self) -> Vec<u64> {
        let powers = (0..=63).map(|power| 1_u64 << power).take_while(|&size| size <= self.most);
        let segments = SEGMENTS.into_iter().flat_map(|size| [size, size + 1]);
        let mut sizes: Vec<u64> = powers.chain(segments).filter(|&size| size <= self.most).chain([self.most]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

impl Behaviour for Sizes {
    fn next_round(&mut self) -> Vec<Plan> {
        self.asked = match self.limit() {
            None if self.seen.is_empty() => self.ladder(),
            Some((whole, broken)) if broken - whole > NEAR && self.depends_on_size(broken) => {
                let step = (broken - whole).div_ceil(AT_ONCE + 1);
                (1..=AT_ONCE).map(|number| whole + number * step).filter(|&size| size < broken).collect()
            }
            _ => Vec::new(),
        };
        let plan = |&size: &u64| Plan {
            steps: vec![Step::Send(size), Step::AwaitEcho, Step::ShutDown, Step::AwaitEnd],
            ..Plan::default()
        };
        self.asked.iter().map(plan).collect()
    }

    fn hear(&mut self, index: usize, seen: Seen) {
        self.seen.insert(self.asked[index], seen);
    }

    fn row(&self, name: &'static str) -> Row {
        let (verdict, seen) = match self.limit() {
            None => {
                let sizes = format!("{} sizes from 1 B to {}", self.seen.len(), size(self.most));
                (Verdict::Carried, sizes + &self.segment())
            }
            Some((whole, broken)) => {
                let seen = &self.seen[&broken];
                let seen_so_far = match whole {
                    _ if !self.depends_on_size(broken) => format!("{broken} B"),
                    0 => format!("not even {broken} B come back"),
                    _ => format!("{whole} B come back, {broken} B do not"),
                };
                (Verdict::of(seen), format!("{seen_so_far}: {}{}", ending(seen), self.segment()))
            }
        };
        Row {
            name,
            verdict,
            seen,
            advice: advice(
                self.limit().map(|(_, broken)| &self.seen[&broken]),
                "Connections stand and small answers come, and large ones hang: a link with a smaller MTU drops \
                 \"fragmentation needed\". Let ICMP through, clamp the MSS to the path, or set \
                 net.ipv4.tcp_mtu_probing=1.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a path that swallows what is larger than `limit`. Returns how many rounds it took.
    fn play(sizes: &mut Sizes, limit: u64) -> usize {
        for round in 0.. {
            let plans = sizes.next_round();
            if plans.is_empty() {
                return round;
            }
            for (index, plan) in plans.iter().enumerate() {
                let Step::Send(sent) = plan.steps[0] else { panic!("{plan:?}") };
                let (ending, returned) = if sent <= limit { (Ending::Done, sent) } else { (Ending::Silent, 0) };
                sizes.hear(index, Seen { planned: sent, sent, returned, ..Seen::example(ending) });
            }
        }
        unreachable!()
    }

    #[test]
    fn a_size_that_falls_silent_is_narrowed_to_within_eight_bytes() {
        for limit in [1, 536, 1_248, 1_260, 9_000, 60_000, 65_535] {
            let mut sizes = Sizes::new(65_536);
            let rounds = play(&mut sizes, limit);
            let (whole, broken) = sizes.limit().unwrap();
            assert!(whole <= limit && limit < broken && broken - whole <= NEAR, "{limit}: {whole}, {broken}");
            assert!(rounds <= 4, "{limit}: {rounds} rounds");
            assert_eq!(sizes.row("it").verdict, Verdict::Silent);
        }
    }

    #[test]
    fn without_a_limit_one_round_is_enough() {
        let mut sizes = Sizes::new(65_536);
        assert_eq!(play(&mut sizes, u64::MAX), 1);
        assert_eq!(
            (sizes.row("it").verdict, sizes.row("it").seen.as_str()),
            (Verdict::Carried, "35 sizes from 1 B to 65.5 kB")
        );
    }
}
