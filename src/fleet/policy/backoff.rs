//! How long a slot waits after a crash, and when a row of them is a loop.
#![forbid(unsafe_code)]

use super::dice::Dice;
use super::{Limits, Ms};
use std::collections::VecDeque;

/// The most that the delay after crash `k` of a row (from 1) may be: `base * 2^(k-1)`, at most the cap.
pub fn bound(limits: &Limits, k: u32) -> Ms {
    let doubled =
        1u64.checked_shl(k.saturating_sub(1)).map_or(Ms::MAX, |by| limits.backoff_base_ms.saturating_mul(by));
    if limits.backoff_base_ms == 0 { 0 } else { doubled.min(limits.backoff_cap_ms) }
}

/// The delay after crash `k`: anything up to the bound ("full jitter"), so that slots which crash together do not come
/// back together.
pub(super) fn delay(limits: &Limits, k: u32, dice: &mut Dice) -> Ms {
    dice.upto(bound(limits, k))
}

/// The crashes of a slot since its last healthy life.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub crashes: u32,
    /// Too many of them in too short a time; stays until a healthy life.
    pub looping: bool,
    /// The latest, on the slot's own clock (see `uncounted`).
    times: VecDeque<Ms>,
    /// Time that the fleet let go by itself: back-off, waiting for a fork, start deadlines. It is taken out of the
    /// window: otherwise a worker that hangs in every start would crash too seldom to loop, by the deadline's doing.
    uncounted: Ms,
}

impl Row {
    /// One more crash.
    pub(super) fn crash(&mut self, limits: &Limits, now: Ms) {
        self.crashes = self.crashes.saturating_add(1);
        let most = limits.crash_limit as usize;
        if most == 0 {
            return;
        }
        let here = now.saturating_sub(self.uncounted);
        self.times.push_back(here);
        while self.times.len() > most {
            self.times.pop_front();
        }
        let within = match self.times.front() {
            Some(first) => limits.crash_window_ms == 0 || here - first.min(&here) <= limits.crash_window_ms,
            None => false,
        };
        self.looping |= self.times.len() == most && within;
    }

    /// Whether there was more than the one that may follow any healthy life.
    pub(super) fn is_one(&self) -> bool {
        self.crashes > 1
    }

    /// The fleet itself let `time` go by.
    pub(super) fn leave_out(&mut self, time: Ms) {
        self.uncounted = self.uncounted.saturating_add(time);
    }

    /// A healthy life.
    pub(super) fn reset(&mut self) {
        *self = Row::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let limits = Limits::default();
        assert_eq!([1, 2, 3, 4].map(|k| bound(&limits, k)), [100, 200, 400, 800]);
        assert_eq!(bound(&limits, 9), 25_600);
        assert!([10, 11, 63, 64, 65, 1000, u32::MAX].iter().all(|k| bound(&limits, *k) == 30_000));
        assert_eq!(bound(&Limits { backoff_base_ms: 0, ..Limits::default() }, 70), 0);
    }

    #[test]
    fn delays_fill_the_bound() {
        let (limits, mut dice) = (Limits::default(), Dice::new(3));
        let drawn: Vec<Ms> = (0..2_000).map(|_| delay(&limits, 3, &mut dice)).collect();
        assert!(drawn.iter().all(|d| *d <= 400));
        assert!(drawn.iter().any(|d| *d < 20) && drawn.iter().any(|d| *d > 380));
    }

    #[test]
    fn a_loop_is_the_limit_within_the_window() {
        let limits = Limits { crash_limit: 3, crash_window_ms: 1_000, ..Limits::default() };
        let looping = |times: &[Ms]| {
            let mut row = Row::default();
            times.iter().for_each(|t| row.crash(&limits, *t));
            row.looping
        };
        assert!(!looping(&[0, 10]));
        assert!(looping(&[0, 10, 1_000]));
        assert!(!looping(&[0, 10, 1_001]));
        assert!(looping(&[0, 600, 1_200, 1_300]), "the latest three count");
        assert!(looping(&[0, 10, 20, 90_000]), "once looping, it stays");
    }

    #[test]
    fn what_the_fleet_waited_is_not_in_the_window() {
        let limits = Limits { crash_limit: 3, crash_window_ms: 1_000, ..Limits::default() };
        let mut row = Row::default();
        for n in 1..=3 {
            row.leave_out(60_000);
            row.crash(&limits, n * 60_100);
        }
        assert!(row.looping);
    }

    #[test]
    fn no_limit_is_no_loop_and_no_window_is_any_row() {
        let (mut never, mut any) = (Row::default(), Row::default());
        for n in 0..100 {
            never.crash(&Limits { crash_limit: 0, ..Limits::default() }, n);
            any.crash(&Limits { crash_window_ms: 0, ..Limits::default() }, n * 1_000_000);
        }
        assert!(!never.looping && never.crashes == 100);
        assert!(any.looping);
    }
}
