//! The fleet's forks in a given time: as many at once as workers are wanted, then two a second.
//!
//! Credit is time: a fork costs what it takes to earn it.
#![forbid(unsafe_code)]

use super::Ms;

/// What one fork costs.
const COST: Ms = 500;

/// A token bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    most: Ms,
    credit: Ms,
    at: Ms,
}

impl Bucket {
    /// So many workers are wanted. What is wanted more than before may be forked at once.
    pub(super) fn set_size(&mut self, workers: u32) {
        let most = Ms::from(workers.max(1)) * COST;
        self.credit = (self.credit + most.saturating_sub(self.most)).min(most);
        self.most = most;
    }

    fn fill(&mut self, now: Ms) {
        self.credit = self.credit.saturating_add(now.saturating_sub(self.at)).min(self.most);
        self.at = self.at.max(now);
    }

    /// Takes the credit for a fork, if there is enough for that and `spared` more.
    pub(super) fn take(&mut self, now: Ms, spared: u32) -> bool {
        self.fill(now);
        let enough = self.credit >= cost(spared);
        if enough {
            self.credit -= COST;
        }
        enough
    }

    /// When there will be enough; a time gone by if there is.
    pub(super) fn next(&self, spared: u32) -> Ms {
        self.at.saturating_add(cost(spared).saturating_sub(self.credit))
    }
}

/// Of a fork, and of others that are to be possible still.
fn cost(spared: u32) -> Ms {
    COST * (1 + Ms::from(spared))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Ms) -> u32 {
        let mut n = 0;
        while bucket.take(now, 0) {
            n += 1;
        }
        n
    }

    #[test]
    fn all_at_once_then_two_a_second() {
        let mut bucket = Bucket::default();
        bucket.set_size(4);
        assert_eq!(taken(&mut bucket, 1_000_000), 4);
        assert_eq!(bucket.next(0), 1_000_500);
        assert_eq!(taken(&mut bucket, 1_000_499), 0);
        assert_eq!(taken(&mut bucket, 1_000_500), 1);
        assert_eq!(taken(&mut bucket, 1_001_500), 2);
        assert_eq!(taken(&mut bucket, 9_000_000), 4, "it holds no more than its size");
    }

    #[test]
    fn a_larger_fleet_comes_up_at_once_and_a_smaller_one_holds_less() {
        let mut bucket = Bucket::default();
        bucket.set_size(2);
        assert_eq!(taken(&mut bucket, 10_000), 2);
        bucket.set_size(5);
        assert_eq!(taken(&mut bucket, 10_000), 3);
        bucket.fill(20_000);
        bucket.set_size(1);
        assert_eq!(taken(&mut bucket, 20_000), 1);
        bucket.set_size(0);
        assert_eq!(taken(&mut bucket, 90_000), 1, "a fleet of none may still finish a replacement");
    }

    #[test]
    fn some_is_spared_for_others() {
        let mut bucket = Bucket::default();
        bucket.set_size(3);
        assert!(bucket.take(10_000, 2));
        assert!(!bucket.take(10_000, 2), "there are two left, and both are spared");
        assert_eq!((bucket.next(2), bucket.next(1)), (10_500, 10_000));
        assert_eq!(taken(&mut bucket, 10_000), 2);
    }
}
