//! A file that several processes map, shared, and which is mapped without its descriptor.
//!
//! Invariants:
//! - No descriptor is kept: a daemoniser may close all there are, and it gives their numbers to others.
//! - What is in it is atomics only ([`Blank`]), handed out by offset, checked for bounds and alignment, and valid as long as
//!   the mapping.
//! - A file can be shrunk, by whoever may write to it, and touching what is gone then ends the process with SIGBUS. So only
//!   files are mapped that this user alone may write, or, to be read, files of one whom the reader chose to look at.

use super::page::Blank;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// See the module's text.
#[derive(Debug)]
pub struct MappedFile {
    addr: usize,
    len: usize,
    bytes: PhantomData<*const u8>,
}

// SAFETY: only atomics are handed out, by shared reference.
unsafe impl Send for MappedFile {}
// SAFETY: as above.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// The first `len` bytes of a file that is at least so long. Whoever maps it without `writable` only loads.
    pub fn of(file: &File, len: usize, writable: bool) -> io::Result<MappedFile> {
        if len == 0 || file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too short"));
        }
        let rights = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let p = unsafe { libc::mmap(ptr::null_mut(), len, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(MappedFile { addr: p as usize, len, bytes: PhantomData })
    }

    /// Bytes that are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: see [`MappedFile::of`].
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The `T` at `offset`, if there is room for one, suitably aligned.
    pub fn at<T: Blank>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: within the mapping, aligned (the mapping is, to a page), alive as long as `self`, and any bytes are a
        // value of `T`, which is made of atomics, so that others may store meanwhile.
        Some(unsafe { &*((self.addr + offset) as *const T) })
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: it is ours, whole, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.addr as *mut libc::c_void, self.len) };
    }
}

/// The latest of several values, set without a lock, so that a fork in the middle leaves nothing half done. Those before
/// stay valid, for whoever still looks at them, and all are dropped with it.
#[derive(Debug)]
pub struct Latest<T>(AtomicPtr<Node<T>>);

#[derive(Debug)]
struct Node<T> {
    value: T,
    before: *mut Node<T>,
}

// SAFETY: values are moved in, shared by reference, and dropped by the last owner.
unsafe impl<T: Send + Sync> Send for Latest<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Latest<T> {}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Latest<T> {
    /// None yet.
    pub const fn new() -> Self {
        Latest(AtomicPtr::new(ptr::null_mut()))
    }

    /// The latest.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: null, or a node that is freed with `self` at the earliest.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }.map(|node| &node.value)
    }

    /// Set the latest.
    pub fn set(&self, value: T) -> &T {
        let node = Box::into_raw(Box::new(Node { value, before: self.0.load(Ordering::Acquire) }));
        loop {
            // SAFETY: until the exchange succeeds it is ours alone.
            let before = unsafe { (*node).before };
            match self.0.compare_exchange(before, node, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: freed with `self` at the earliest.
                Ok(_) => return unsafe { &(*node).value },
                // SAFETY: as above.
                Err(now) => unsafe { (*node).before = now },
            }
        }
    }
}

impl<T> Drop for Latest<T> {
    fn drop(&mut self) {
        let mut next = *self.0.get_mut();
        while !next.is_null() {
            // SAFETY: each was a box, is named once, and nobody can look at it any more.
            let node = unsafe { Box::from_raw(next) };
            next = node.before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn two_mappings_are_one_memory_and_a_short_file_is_refused() {
        let path = format!("/tmp/libtelemetry-{}-mapped", std::process::id());
        std::fs::write(&path, [0; 4096]).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (ours, theirs) =
            (MappedFile::of(&file, 4096, true).unwrap(), MappedFile::of(&file, 64, false).unwrap());
        ours.at::<AtomicU64>(56).unwrap().store(7, Ordering::Release);
        assert_eq!(theirs.at::<AtomicU64>(56).unwrap().load(Ordering::Acquire), 7);
        assert!(theirs.at::<AtomicU64>(64).is_none() && ours.at::<AtomicU64>(4).is_none());
        assert!(MappedFile::of(&file, 4097, false).is_err() && MappedFile::of(&file, 0, false).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_latest_is_given_and_all_are_dropped_once() {
        let (one, two) = (Arc::new(1), Arc::new(2));
        let latest = Latest::new();
        assert!(latest.get().is_none());
        let first = latest.set(one.clone());
        assert_eq!(**latest.set(two.clone()), 2);
        assert_eq!((**first, **latest.get().unwrap()), (1, 2), "who looks at an older one may go on");
        drop(latest);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
    }
}
