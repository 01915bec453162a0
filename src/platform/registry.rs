//! A set that fork hooks can walk.
//!
//! Invariants:
//! - A chain of fixed blocks of atomic slots that are never freed: a child forked in the middle of a change
//!   reads either the old or the new pointer, and both are whole.
//! - An entry that was taken out is freed only if no walk is under way; each walk is counted.

use super::once::SetOnce;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const BLOCK: usize = 64;
/// How long a removal waits for walks under way.
const PATIENCE: Duration = Duration::from_millis(200);

/// See the module's text.
pub struct Registry<T: 'static> {
    walkers: AtomicU32,
    slots: [AtomicPtr<T>; BLOCK],
    next: SetOnce<Registry<T>>,
}

/// An entry's name.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(usize);

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Registry<T> {
    /// Empty.
    pub const fn new() -> Self {
        Registry {
            walkers: AtomicU32::new(0),
            slots: [const { AtomicPtr::new(ptr::null_mut()) }; BLOCK],
            next: SetOnce::new(),
        }
    }

    /// Add an entry.
    pub fn add(&'static self, entry: T) -> Ticket {
        let entry = Box::into_raw(Box::new(entry));
        let mut block = self;
        loop {
            for slot in &block.slots {
                let free = ptr::null_mut();
                if slot.compare_exchange(free, entry, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return Ticket(entry as usize);
                }
            }
            block = block.next.get().unwrap_or_else(|| block.next.set(Registry::new()));
        }
    }

    /// Take an entry out and drop it once nobody can still be looking at it. Should a walk take very long,
    /// the entry is left to it for ever.
    pub fn remove(&'static self, ticket: Ticket) {
        let entry = ticket.0 as *mut T;
        let mut block = Some(self);
        while let Some(b) = block {
            for slot in &b.slots {
                if slot.compare_exchange(entry, ptr::null_mut(), Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    let bound = Instant::now() + PATIENCE;
                    while self.walkers.load(Ordering::SeqCst) != 0 && Instant::now() < bound {
                        std::thread::yield_now();
                    }
                    if self.walkers.load(Ordering::SeqCst) == 0 {
                        // SAFETY: it came from `add`, no slot names it, and whoever walks from now on
                        // counted himself first and then reads the empty slot.
                        drop(unsafe { Box::from_raw(entry) });
                    }
                    return;
                }
            }
            block = b.next.get();
        }
    }

    /// Visit every entry.
    pub fn each(&'static self, mut f: impl FnMut(&T)) {
        self.walkers.fetch_add(1, Ordering::SeqCst);
        let mut block = Some(self);
        while let Some(b) = block {
            for slot in &b.slots {
                // SAFETY: null, or an entry, which is not freed while a walk is counted.
                if let Some(entry) = unsafe { slot.load(Ordering::SeqCst).as_ref() } {
                    f(entry);
                }
            }
            block = b.next.get();
        }
        self.walkers.fetch_sub(1, Ordering::SeqCst);
    }

    /// In a forked child: other threads' walks are not under way here.
    pub fn forget_walks(&self) {
        self.walkers.store(0, Ordering::SeqCst);
    }
}
