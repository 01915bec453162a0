//! A lock for slow paths in the wiped page: it names its holder, so nobody waits for one who is gone.
//!
//! Invariants:
//! - 0 is free; else the kernel id of the holding thread and, above it, when it was taken.
//! - Nobody waits longer than asked. The holder's signals are held back: no handler forks or comes back here in the
//!   middle of what the lock guards.
//! - A holder that is dead, or has held it beyond [`STALE`] (it jumped out), is replaced: what the lock guards
//!   must bear that, by compare-exchange of its own.

use super::{clock, thread};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than any holder means to hold it.
const STALE: Duration = Duration::from_secs(30);

crate::blank_struct! {
    /// See the module's text.
    pub struct TidLock { word: AtomicU64 }
}

impl TidLock {
    /// A free one.
    pub const fn new() -> TidLock {
        TidLock { word: AtomicU64::new(0) }
    }

    /// Free it, whoever held it: a generation begins.
    pub fn reset(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// Run `body` as the holder. `None` if it could not be had within `patience`.
    pub fn with<R>(&self, patience: Duration, body: impl FnOnce() -> R) -> Option<R> {
        thread::unsignalled(|| {
            let mine = self.take(patience)?;
            let result = body();
            // Not if it was taken over meanwhile.
            let _ = self.word.compare_exchange(mine, 0, Ordering::AcqRel, Ordering::Relaxed);
            Some(result)
        })
    }

    fn take(&self, patience: Duration) -> Option<u64> {
        let me = thread::tid();
        let deadline = Instant::now() + patience;
        loop {
            let now = clock::monotonic_ms() as u32;
            let mine = u64::from(now) << 32 | u64::from(me);
            let held = self.word.load(Ordering::Acquire);
            let (since, holder) = ((held >> 32) as u32, held as u32);
            let stale = u128::from(now.wrapping_sub(since)) > STALE.as_millis() || !thread::alive(holder);
            if (held == 0 || stale)
                && self.word.compare_exchange(held, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                return Some(mine);
            }
            if held != 0 && (holder == me || Instant::now() >= deadline) {
                return None;
            }
            if held != 0 {
                clock::nap(Duration::from_micros(50));
            }
        }
    }
}

impl Default for TidLock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_by_one_and_never_waited_for_by_its_holder() {
        let lock = TidLock::new();
        let soon = Duration::from_millis(5);
        assert_eq!(lock.with(soon, || lock.with(Duration::from_secs(60), || ())), Some(None));
        std::thread::scope(|s| {
            lock.with(soon, || s.spawn(|| assert_eq!(lock.with(soon, || ()), None)).join().unwrap());
            assert_eq!(s.spawn(|| lock.with(soon, || 7)).join().unwrap(), Some(7));
        });
        std::thread::scope(|s| {
            let gone = s.spawn(|| lock.take(soon).unwrap()).join().unwrap();
            assert_ne!(gone, 0);
            assert_eq!(lock.with(Duration::from_secs(60), || 8), Some(8), "its holder is gone");
        });
    }
}
