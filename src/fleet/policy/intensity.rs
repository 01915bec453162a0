//! Restarts after crashes in all: when there are so many that no single slot is to blame.
#![forbid(unsafe_code)]

use super::{Ms, Rules};
use std::collections::VecDeque;

/// The latest crashes, of all slots, and the verdict.
#[derive(Clone, Debug, Default)]
pub(super) struct Intensity {
    times: VecDeque<Ms>,
    over: bool,
}

/// How many restarts within the window are not yet too many.
pub(super) fn limit(rules: &Rules, wanted: u32) -> usize {
    let most = if rules.intensity == 0 { wanted.saturating_mul(2).max(3) } else { rules.intensity };
    most as usize
}

impl Intensity {
    pub(super) fn over(&self) -> bool {
        self.over
    }

    /// A worker crashed, and will be started again.
    pub(super) fn note(&mut self, now: Ms) {
        self.times.push_back(now);
    }

    /// Judges anew; the verdict if it changed.
    pub(super) fn update(&mut self, now: Ms, limit: usize, window: Ms) -> Option<bool> {
        // One more than the limit says all there is to say.
        while self.times.len() > limit + 1
            || self.times.front().is_some_and(|t| t.saturating_add(window) <= now)
        {
            self.times.pop_front();
        }
        let over = self.times.len() > limit;
        (std::mem::replace(&mut self.over, over) != over).then_some(over)
    }

    /// When "too many" ends if no more are added. For a state that `update` has just judged.
    pub(super) fn ends(&self, window: Ms) -> Option<Ms> {
        self.times.front().filter(|_| self.over).map(|t| t.saturating_add(window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_size() {
        let rules = Rules::default();
        assert_eq!([0, 1, 2, 4].map(|n| limit(&rules, n)), [3, 3, 4, 8]);
        assert_eq!(limit(&Rules { intensity: 7, ..rules }, 50), 7);
    }

    #[test]
    fn over_is_more_than_the_limit_within_the_window() {
        let mut all = Intensity::default();
        for now in [0, 10, 20] {
            all.note(now);
            assert_eq!(all.update(now, 3, 100), None);
        }
        all.note(30);
        assert_eq!(all.update(30, 3, 100), Some(true));
        assert_eq!((all.over(), all.ends(100)), (true, Some(100)));
        assert_eq!(all.update(99, 3, 100), None);
        assert_eq!(all.update(100, 3, 100), Some(false));
        assert_eq!(all.ends(100), None);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let mut all = Intensity::default();
        for n in 0..1_000 {
            all.note(n * 40);
            assert_eq!(all.update(n * 40, 3, 100), None);
        }
        for n in 0..1_000 {
            all.note(40_000 + n);
            all.update(40_000 + n, 3, 100);
        }
        assert!(all.over() && all.times.len() == 4);
    }
}
