//! Sleeping on a word and waking its sleepers.
//!
//! Invariants: waits always have a bound and may return early; the caller looks again. The words are
//! private to the process, so a forked child never wakes its parent.

use super::sync::AtomicU32;
use std::time::Duration;

/// Sleep while `word` holds `expected`, at most for `bound`.
pub fn wait(word: &AtomicU32, expected: u32, bound: Duration) {
    #[cfg(all(target_os = "linux", not(loom)))]
    {
        let ts = libc::timespec {
            tv_sec: bound.as_secs().min(3600) as libc::time_t,
            tv_nsec: bound.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the word outlives the call, and `ts` is a valid relative time.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                &raw const ts,
            );
        }
    }
    #[cfg(all(not(target_os = "linux"), not(loom)))]
    if word.load(std::sync::atomic::Ordering::Acquire) == expected {
        super::clock::nap(bound.min(Duration::from_millis(1)));
    }
    #[cfg(loom)]
    {
        // In a model nobody is saved by the bound: a lost wake-up shows as a thread that never ends.
        let _ = bound;
        while word.load(super::sync::Ordering::Acquire) == expected {
            loom::thread::yield_now();
        }
    }
}

/// Wake every sleeper of `word`.
pub fn wake_all(word: &AtomicU32) {
    #[cfg(all(target_os = "linux", not(loom)))]
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX);
    }
    #[cfg(any(not(target_os = "linux"), loom))]
    let _ = word;
}
