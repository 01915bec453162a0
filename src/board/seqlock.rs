//! Several words that are read as they were at one instant, though their only writer never waits.
//!
//! Invariants:
//! - The number is odd while the writer writes and grows by two with each write; the words themselves are relaxed atomics,
//!   so a torn read is a wrong value and never undefined.
//! - One writer at a time. A writer that died in the middle leaves an odd number: readers then give up after a bounded number
//!   of tries, and the next writer goes on from it.
//!
//! Source: Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?" (MSPC 2012), the form with fences.

use crate::platform::sync::{AtomicU32, Ordering, Site, at, fence_at, relax};

/// How often a reader tries again.
const TRIES: usize = if cfg!(loom) { 2 } else { 64 };

/// Run `write` between the two steps of the number.
pub fn write<R>(seq: &AtomicU32, write: impl FnOnce() -> R) -> R {
    let odd = seq.load(Ordering::Relaxed) | 1;
    seq.store(odd, Ordering::Relaxed);
    // No store of the body is seen before the odd number.
    fence_at(Site::SeqOdd, Ordering::Release);
    let result = write();
    seq.store(odd.wrapping_add(1), at(Site::SeqEven, Ordering::Release));
    result
}

/// What `read` gives when nobody wrote meanwhile; `None` if somebody did every time, or died doing so.
pub fn read<R>(seq: &AtomicU32, read: impl Fn() -> R) -> Option<R> {
    for _ in 0..TRIES {
        let before = seq.load(at(Site::SeqFirst, Ordering::Acquire));
        if before & 1 == 0 {
            let value = read();
            // No load of the body is done after the second look.
            fence_at(Site::SeqSecond, Ordering::Acquire);
            if seq.load(Ordering::Relaxed) == before {
                return Some(value);
            }
        }
        relax();
    }
    None
}
