//! Numbers for jitter: SplitMix64, small and seeded once. Nothing secret is drawn from it.
#![forbid(unsafe_code)]

use super::Ms;

/// A stream of numbers that its seed determines.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..=most`, each as likely as the other.
    pub(super) fn upto(&mut self, most: u64) -> u64 {
        // The high half of the product: no bias worth a name for ranges far below 2^64, and no division.
        let wide = u128::from(self.next()) * (u128::from(most) + 1);
        u64::try_from(wide >> 64).unwrap_or(most)
    }

    /// `whole` less a part of at most `percent` of it. 0 stays 0; anything else stays at least 1.
    pub(super) fn shortened(&mut self, whole: u64, percent: u32) -> Ms {
        let most = u128::from(whole) * u128::from(percent.min(100)) / 100;
        let less = self.upto(u64::try_from(most).unwrap_or(whole));
        (whole - less).max(whole.min(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_range_comes() {
        let mut dice = Dice::new(1);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[dice.upto(4) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!(dice.upto(0), 0);
        dice.upto(u64::MAX);
    }

    #[test]
    fn shortened_stays_within_its_part() {
        let mut dice = Dice::new(2);
        let drawn: Vec<Ms> = (0..1_000).map(|_| dice.shortened(1_000, 10)).collect();
        assert!(drawn.iter().all(|n| (900..=1_000).contains(n)));
        assert!(drawn.contains(&900) && drawn.contains(&1_000));
        assert_eq!(dice.shortened(0, 50), 0);
        assert_eq!(dice.shortened(7, 0), 7);
        assert!((0..100).all(|_| dice.shortened(1, 100) == 1));
        dice.shortened(u64::MAX, 100);
    }
}
