//! Atomics, or loom's models of them under `--cfg loom`, and the one barrier that is ours.
//!
//! Invariant: code under test by loom takes its atomics from here and nowhere else.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// The places whose ordering the models weaken one by one, to show that each is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// A record's commit.
    Commit,
    /// A slot's hand-over to producers.
    Clean,
    /// The publication of a process's world.
    Publish,
    /// The barrier between a producer's commit and its look at the attention words.
    ProducerFence,
    /// The barrier between the sender's announcement of its sleep and its last look.
    SleepFence,
    /// The barrier between the sender's resignation and its last look.
    ResignFence,
    /// The barrier behind the odd number of a seqlock's writer.
    SeqOdd,
    /// The even number of a seqlock's writer.
    SeqEven,
    /// A seqlock's reader's first look.
    SeqFirst,
    /// The barrier before its second.
    SeqSecond,
}

/// The ordering at `site`: as given, but relaxed in a model that weakens it.
#[cfg(not(loom))]
#[inline(always)]
pub const fn at(_site: Site, order: Ordering) -> Ordering {
    order
}

#[cfg(loom)]
pub use weakening::{at, weaken};

#[cfg(loom)]
mod weakening {
    use super::{Ordering, Site};
    static WEAK: std::sync::Mutex<Option<Site>> = std::sync::Mutex::new(None);

    /// Weaken one site from now on.
    pub fn weaken(site: Option<Site>) {
        *WEAK.lock().unwrap_or_else(|e| e.into_inner()) = site;
    }

    /// See the other definition.
    pub fn at(site: Site, order: Ordering) -> Ordering {
        let weak = *WEAK.lock().unwrap_or_else(|e| e.into_inner());
        if weak == Some(site) { Ordering::Relaxed } else { order }
    }
}

/// A full barrier at `site`.
#[inline(always)]
pub fn full_fence(site: Site) {
    if at(site, Ordering::SeqCst) == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
}

/// A barrier of this order at `site`.
#[inline(always)]
pub fn fence_at(site: Site, order: Ordering) {
    if at(site, order) == order {
        fence(order);
    }
}

/// A full barrier directly behind a read-modify-write.
///
/// On x86-64 the locked instruction before it already is one (Intel SDM vol. 3, 9.2.3.9), so only the
/// compiler has to be held back; everywhere else, and under loom, it is `fence(SeqCst)`.
#[inline(always)]
pub fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    full_fence(Site::ProducerFence);
}

/// One turn of a bounded wait for another thread.
#[inline]
pub fn relax() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
