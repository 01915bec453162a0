//! A box that is handed from one owner to the next through a word of the wiped page.
//!
//! Invariant: the word is 0 or the address of a box that nobody else owns; taking it is one swap. A child
//! finds 0: the parent's box is abandoned there, not dropped.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's text.
#[repr(transparent)]
pub struct Parcel<T>(AtomicU64, PhantomData<fn(T) -> T>);

// SAFETY: one atomic; 0 is "empty".
unsafe impl<T> super::page::Blank for Parcel<T> {}

impl<T: Send> Parcel<T> {
    /// Put a box in. What was there is dropped.
    pub fn put(&self, value: Box<T>) {
        let old = self.0.swap(Box::into_raw(value) as u64, Ordering::AcqRel);
        if old != 0 {
            // SAFETY: only `put` stores addresses, each of a box, and the swap made us its owner.
            drop(unsafe { Box::from_raw(old as *mut T) });
        }
    }

    /// Take the box out.
    pub fn take(&self) -> Option<Box<T>> {
        match self.0.swap(0, Ordering::AcqRel) {
            0 => None,
            // SAFETY: as above.
            old => Some(unsafe { Box::from_raw(old as *mut T) }),
        }
    }

    /// Forget what is in it, as a child does with what its parent left where nothing was wiped.
    pub fn abandon(&self) {
        self.0.store(0, Ordering::Release);
    }
}
