//! The gate: while a thread is inside `fork()`, no thread of ours starts and nobody enters libc's resolver.
//!
//! Invariants:
//! - One word in a process-wide wiped page: how many threads are inside `fork()`. A child finds it blank.
//! - Nobody waits on it: who finds it closed leaves a wish, and the parent's hook looks after it.
//! - Lookers use sequentially consistent operations: a starter that announced itself and then sees the gate
//!   open is seen by the `prepare` that closes it afterwards, and the other way round.

use crate::platform::once::SetOnce;
use crate::platform::page::WipedPage;
use std::sync::atomic::{AtomicU32, Ordering};

static PAGE: SetOnce<WipedPage<AtomicU32, AtomicU32>> = SetOnce::new();
/// Where the page could not be had.
static PLAIN: AtomicU32 = AtomicU32::new(0);

/// Make the page, the first time it is called.
pub fn prepare_page(try_wipe: bool) {
    if PAGE.get().is_none()
        && let Ok(page) = WipedPage::new(0, try_wipe)
    {
        PAGE.set(page);
    }
}

fn word() -> &'static AtomicU32 {
    PAGE.get().map_or(&PLAIN, |page| page.head())
}

/// Whether a thread may start now.
pub fn is_open() -> bool {
    word().load(Ordering::SeqCst) == 0
}

/// A thread goes into `fork()`.
pub fn close() {
    word().fetch_add(1, Ordering::SeqCst);
}

/// The thread came out of `fork()` in the parent.
pub fn open() {
    word().fetch_sub(1, Ordering::SeqCst);
}

/// In the child: nobody is inside `fork()`.
pub fn reset_in_child() {
    word().store(0, Ordering::SeqCst);
}
