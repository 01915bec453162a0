//! Atomics, or loom's models of them under `--cfg loom`, and the one barrier that is ours.
//!
//! Invariant: code under test by loom takes its atomics from here and nowhere else.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A full barrier directly behind a read-modify-write.
///
/// On x86-64 the locked instruction before it already is one (Intel SDM vol. 3, 9.2.3.9), so only the
/// compiler has to be held back; everywhere else, and under loom, it is `fence(SeqCst)`.
#[inline(always)]
pub fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}

/// One turn of a bounded wait for another thread.
#[inline]
pub fn relax() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
