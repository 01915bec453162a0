//! One value a process that lives until its end, found by everybody without a lock.
//!
//! Invariant: what was put in is never freed, so a reference to it is good for ever, in forked children too; putting another
//! one in leaves the first alone.

use std::sync::atomic::{AtomicPtr, Ordering};

/// Keep a value until the process ends.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// See the module's text.
pub struct Leaked<T: 'static>(AtomicPtr<T>);

impl<T: Sync + 'static> Leaked<T> {
    /// Empty.
    pub const fn new() -> Self {
        Leaked(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Put it in.
    pub fn put(&self, value: T) -> &'static T {
        let value = Box::leak(Box::new(value));
        self.0.store(std::ptr::from_mut(value), Ordering::Release);
        value
    }

    /// What was put in last.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or the address of a leaked value, to which only shared references are made from then on.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

impl<T: Sync + 'static> Default for Leaked<T> {
    fn default() -> Self {
        Self::new()
    }
}
