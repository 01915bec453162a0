//! Memory that several processes see: an anonymous file of the kernel's, or a file, mapped shared.
//!
//! Invariants:
//! - What is in it is atomics only ([`Blank`]), for any bytes are a value of theirs, whoever writes them; it is handed out
//!   by offset, checked for bounds and alignment, and lives as long as the mapping.
//! - An anonymous one is sealed: nobody can shrink it, so touching it cannot end the process with SIGBUS. A file can be
//!   shrunk by its owner: only files that this user alone may write are mapped.

use super::page::Blank;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A shared mapping and the descriptor that it is of.
#[derive(Debug)]
pub struct Shared {
    addr: usize,
    len: usize,
    file: OwnedFd,
    writable: bool,
    bytes: PhantomData<*const u8>,
}

// SAFETY: only atomics are handed out, by shared reference.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// `len` bytes of zeros that have no name, closed on exec; sealed against growing and shrinking.
    #[cfg(target_os = "linux")]
    pub fn anonymous(name: &std::ffi::CStr, len: usize) -> io::Result<Shared> {
        use std::os::fd::FromRawFd;
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(len as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a descriptor of ours and a number.
        if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Shared::of(file, true)
    }

    /// The same where the kernel has no such files: a file without a name in the temporary directory.
    #[cfg(not(target_os = "linux"))]
    pub fn anonymous(_name: &std::ffi::CStr, _len: usize) -> io::Result<Shared> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The whole of an open file.
    pub fn of(file: File, writable: bool) -> io::Result<Shared> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
        }
        let rights = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let p =
            unsafe { libc::mmap(std::ptr::null_mut(), len, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared { addr: p as usize, len, file: OwnedFd::from(file), writable, bytes: PhantomData })
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: see [`Shared::of`].
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether this process may store into it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The `T` at `offset`, if there is room for one, suitably aligned. Storing into it where
    /// [`Shared::is_writable`] is false would end the process: whoever opened it to read only loads.
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

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is ours, whole, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.addr as *mut libc::c_void, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn both_see_what_one_stores_and_nobody_can_take_it_away() {
        let ours = Shared::anonymous(c"test", 4096).unwrap();
        let file = File::from(ours.as_fd().try_clone_to_owned().unwrap());
        assert!(file.set_len(0).is_err(), "sealed");
        let theirs = Shared::of(file, false).unwrap();
        ours.at::<AtomicU64>(8).unwrap().store(7, Ordering::Release);
        assert_eq!(theirs.at::<AtomicU64>(8).unwrap().load(Ordering::Acquire), 7);
        assert!(!theirs.is_writable() && ours.is_writable());
    }

    #[test]
    fn nothing_outside_or_askew_is_handed_out() {
        let map = Shared::anonymous(c"test", 4096).unwrap();
        assert!(map.at::<AtomicU64>(4088).is_some());
        assert!(map.at::<AtomicU64>(4089).is_none() && map.at::<AtomicU64>(4096).is_none());
        assert!(map.at::<AtomicU64>(4).is_none(), "not aligned");
        assert!(map.at::<AtomicU64>(usize::MAX - 3).is_none());
    }
}
