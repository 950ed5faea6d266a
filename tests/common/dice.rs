//! Chance: the same numbers for the same seed.
//!
//! Owns the state of one generator. Knows nothing of what the numbers decide.
#![allow(dead_code, reason = "every test file uses another part of it")]

use std::time::Duration;

/// A generator of numbers (`SplitMix64`: Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`, both possible.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// As [`between`](Dice::between), but each power of two is equally likely, so that small numbers are frequent.
    pub fn scaled(&mut self, least: u64, most: u64) -> u64 {
        let power = self.between(u64::from(least.max(1).ilog2()), u64::from(most.max(1).ilog2()));
        self.between(1 << power, (2 << power) - 1).clamp(least, most)
    }

    pub fn count(&mut self, least: usize, most: usize) -> usize {
        usize::try_from(self.scaled(least as u64, most as u64)).unwrap()
    }

    /// From 0 to `below` - 1.
    pub fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.between(0, below as u64 - 1)).unwrap()
    }

    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    /// `true` in `permille` of a thousand cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.between(0, 999) < permille
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
