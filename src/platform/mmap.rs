//! Memory straight from the kernel.
//!
//! Invariants:
//! - A [`Mapping`] is page-aligned, zero at birth, and unmapped when dropped; whoever hands out addresses
//!   of it keeps it alive.
//! - `wipe_on_fork` is believed only after an invalid advice was refused: emulators that accept anything
//!   would otherwise promise what they do not keep.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A private anonymous stretch of memory.
#[derive(Debug)]
pub struct Mapping {
    addr: usize,
    len: usize,
}

const PAGE: usize = 4096;
#[cfg(target_os = "linux")]
const POPULATE_WRITE: libc::c_int = 23;
#[cfg(target_os = "linux")]
const NO_SUCH_ADVICE: libc::c_int = 0x7ead;

impl Mapping {
    /// Reserve `len` bytes (rounded up to pages). Costs address space only, until it is touched.
    pub fn anonymous(len: usize) -> io::Result<Mapping> {
        let len = len.max(1).div_ceil(PAGE) * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let p = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { addr: p as usize, len })
    }

    /// Reserve addresses only: whoever uses a part of them puts memory there first.
    pub fn reserved(len: usize) -> io::Result<Mapping> {
        let len = len.max(1).div_ceil(PAGE) * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { addr: p as usize, len })
    }

    /// First byte's address.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Length in bytes, a multiple of the page.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ask that every forked child finds this memory blank. `false` if the kernel cannot, or cannot be
    /// believed.
    pub fn wipe_on_fork(&self) -> bool {
        wipe_on_fork(self.addr, self.len)
    }

    /// Take back what was given away.
    ///
    /// # Safety
    /// `addr` is from [`Mapping::leak`] of a mapping that was made with this `len`, or longer; nobody else has it.
    pub unsafe fn from_leaked(addr: usize, len: usize) -> Mapping {
        Mapping { addr, len: len.max(1).div_ceil(PAGE) * PAGE }
    }

    /// Keep the mapping for the rest of the process's life and give its address.
    pub fn leak(self) -> usize {
        let addr = self.addr;
        std::mem::forget(self);
        addr
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, whole, and nobody uses it any more.
        unsafe { libc::munmap(self.addr as *mut libc::c_void, self.len) };
    }
}

/// Ask that every forked child finds `[addr, addr + len)`, private anonymous memory, blank. `false` if the kernel
/// cannot, or cannot be believed.
pub fn wipe_on_fork(addr: usize, len: usize) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: advice, whose only effect is on children; the first call is meant to be refused.
    unsafe {
        let p = addr as *mut libc::c_void;
        libc::madvise(p, len, NO_SUCH_ADVICE) != 0 && libc::madvise(p, len, libc::MADV_WIPEONFORK) == 0
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (addr, len);
        false
    }
}

/// Put blank private memory in place of whatever is mapped at `[addr, addr + len)`. Async-signal-safe.
///
/// # Safety
/// The stretch must be page-aligned mappings of ours, whose content nobody in this process needs.
pub unsafe fn cover(addr: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller's promise.
    let p = unsafe {
        libc::mmap(addr as *mut libc::c_void, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    p != libc::MAP_FAILED
}

/// Take a whole mapping of ours away, given by the address it was leaked at.
///
/// # Safety
/// Nobody may use it any more.
pub unsafe fn unmap(addr: usize, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(addr as *mut libc::c_void, len) };
}

/// Keeps the latest of several mappings of one length; those before are abandoned, not unmapped: a child must
/// not take away what an interrupted call of its parent's may still write to.
#[derive(Debug)]
pub struct Latest {
    addr: AtomicUsize,
    len: usize,
}

impl Latest {
    /// Keeps nothing yet; the mappings will be `len` bytes long.
    pub fn new(len: usize) -> Latest {
        Latest { addr: AtomicUsize::new(0), len: len.max(1).div_ceil(PAGE) * PAGE }
    }

    /// Keep this one.
    pub fn keep(&self, mapping: Mapping) {
        if mapping.len == self.len {
            self.addr.store(mapping.leak(), Ordering::Release);
        }
    }

    /// Bytes of each.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: see [`Mapping::is_empty`].
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The latest one's address; 0 before there is one.
    pub fn addr(&self) -> usize {
        self.addr.load(Ordering::Acquire)
    }

    /// In a forked child: blank memory over the parent's, files mapped into it included, so that a stray
    /// write reaches nothing of the parent's and the parent's files are not held. Async-signal-safe.
    pub fn cover(&self) {
        let addr = self.addr();
        if addr != 0 {
            // SAFETY: it was a leaked mapping of this length, and this process has not begun to use it.
            unsafe { cover(addr, self.len) };
        }
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        let addr = self.addr.load(Ordering::Acquire);
        if addr != 0 {
            // SAFETY: it was a leaked mapping of this length that only we know.
            unsafe { libc::munmap(addr as *mut libc::c_void, self.len) };
        }
    }
}

/// Make the pages of `[addr, addr + len)` present and writable, so that the first write does not fault.
/// Only a hint: an old kernel (before 5.14) refuses it and nothing is lost but time.
pub fn populate(addr: usize, len: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: populating changes no byte, and an address that is not ours is refused.
    unsafe {
        libc::madvise(addr as *mut libc::c_void, len, POPULATE_WRITE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (addr, len);
}

/// Give the pages of a private anonymous stretch back; they read as zero afterwards. `false` if refused.
///
/// # Safety
/// The stretch must be private anonymous memory of ours whose content nobody needs.
pub unsafe fn discard(addr: usize, len: usize) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the caller's promise.
    return unsafe { libc::madvise(addr as *mut libc::c_void, len, libc::MADV_DONTNEED) == 0 };
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (addr, len);
        false
    }
}
