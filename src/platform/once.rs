//! A value set at most once and never freed, without a lock: a fork in the middle leaves nothing half done.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module's text.
pub struct SetOnce<T>(AtomicPtr<T>);

impl<T> Default for SetOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SetOnce<T> {
    /// Not set.
    pub const fn new() -> Self {
        SetOnce(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, if it was set.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or a box that was leaked below.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Set it, unless it is; the value that stands.
    pub fn set(&self, value: T) -> &'static T {
        let fresh = Box::into_raw(Box::new(value));
        match self.0.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: leaked, so valid for ever.
            Ok(_) => unsafe { &*fresh },
            Err(theirs) => {
                // SAFETY: ours was seen by nobody.
                drop(unsafe { Box::from_raw(fresh) });
                // SAFETY: it was set, so it was leaked.
                unsafe { &*theirs }
            }
        }
    }
}
