//! The number of this process among the workers of its server.
//!
//! Invariants:
//! - One number a process, whatever clients it has; a fork inherits it, as it inherits who it is. So it lies outside the
//!   wiped page, and is one atomic.
//! - Each event bears the number that was set when it was enqueued, in memory and in the spool alike, so whoever delivers
//!   it says whose it was.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU16, Ordering};

static NUMBER: AtomicU16 = AtomicU16::new(0);

/// Say which worker this is; 0: none.
pub fn set(number: u16) {
    NUMBER.store(number, Ordering::Relaxed);
}

/// Which worker this is.
#[inline(always)]
pub fn number() -> u16 {
    NUMBER.load(Ordering::Relaxed)
}
