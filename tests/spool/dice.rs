//! Random numbers that can be had again: `SPOOL_SEED=n` repeats a run.
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// A new seed, or the one asked for; it stands in the output of a test that fails.
    pub fn thrown() -> Dice {
        let fresh = || RandomState::new().hash_one(0) >> 16;
        let seed = std::env::var("SPOOL_SEED").map_or_else(|_| fresh(), |seed| seed.parse().unwrap());
        println!("SPOOL_SEED={seed}");
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}
