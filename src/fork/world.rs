//! The state word: has this process built its world yet?
//!
//! Invariants:
//! - The word is 0 (vacant), [`BUILDING`], or a generation: an odd random number, fresh in every process.
//!   The kernel's wipe turns any of them into 0 in a forked child.
//! - Only the thread whose compare-exchange took it from 0 to `BUILDING` may write the rest of the page,
//!   and everything it writes happens before the generation is published (release, read with acquire).
//! - Bit 1 of a generation says that the kernel does not wipe: then the process id must be compared too.
//!
//! Modelled with loom in `tests/loom.rs`.

use crate::platform::sync::{AtomicU64, Ordering, Site, at};

/// The word while one thread builds.
pub const BUILDING: u64 = 2;
const READY: u64 = 1;
const CHECK_PID: u64 = 2;

crate::blank_struct! {
    /// See the module's text.
    pub struct StateWord { word: AtomicU64 }
}

/// What a claim came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// This thread builds, and must call [`StateWord::publish`].
    Mine,
    /// Another thread is building: look again.
    Wait,
    /// It is built; the generation.
    Ready(u64),
}

impl StateWord {
    /// A vacant word.
    #[cfg(loom)]
    pub fn new() -> Self {
        StateWord { word: AtomicU64::new(0) }
    }

    /// The generation if it is one that needs no look at the process id, as one acquire load.
    #[inline(always)]
    pub fn fast(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        if word & (READY | CHECK_PID) == READY { Some(word) } else { None }
    }

    /// The word as it is, for comparing with a generation read before.
    #[inline(always)]
    pub fn is(&self, generation: u64) -> bool {
        self.word.load(Ordering::Relaxed) == generation
    }

    /// The generation of a built world, checked pid or not.
    pub fn generation(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        if word & READY == READY { Some(word) } else { None }
    }

    /// Claim a vacant word.
    pub fn claim(&self) -> Claim {
        match self.word.compare_exchange(0, BUILDING, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => Claim::Mine,
            Err(word) if word & READY == READY => Claim::Ready(word),
            Err(_) => Claim::Wait,
        }
    }

    /// A generation made of `seed`.
    pub fn generation_of(seed: u64, kernel_wipes: bool) -> u64 {
        if kernel_wipes { seed & !CHECK_PID | READY } else { seed | CHECK_PID | READY }
    }

    /// Publish what was built under `generation`.
    pub fn publish(&self, generation: u64) {
        self.word.store(generation, at(Site::Publish, Ordering::Release));
    }

    /// Give a claim back unbuilt (no memory): the word is vacant again.
    pub fn abandon(&self) {
        self.word.store(0, Ordering::Release);
    }

    /// Blank the word by hand: in a child's fork hook where the kernel does not wipe.
    pub fn wipe_by_hand(&self) {
        self.word.store(0, Ordering::Release);
    }

    /// Blank it if it still is `generation`, which turned out to be another process's.
    pub fn wipe_foreign(&self, generation: u64) {
        let _ = self.word.compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(loom)]
impl Default for StateWord {
    fn default() -> Self {
        Self::new()
    }
}
