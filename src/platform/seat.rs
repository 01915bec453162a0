//! A place for one thing that the whole process has: set at any time, without a lock, read by anybody.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module's text.
#[derive(Debug)]
pub struct Seat<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Default for Seat<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Sync> Seat<T> {
    /// Empty.
    pub const fn new() -> Self {
        Seat(AtomicPtr::new(ptr::null_mut()))
    }

    /// Put something in, or nothing.
    pub fn put(&self, what: Option<&'static T>) {
        let what = what.map_or(ptr::null_mut(), |what| ptr::from_ref(what).cast_mut());
        self.0.store(what, Ordering::Release);
    }

    /// What is in it.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or a reference that is valid for ever, which is only shared.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}
