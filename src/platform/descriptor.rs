//! Bare descriptors that were handed over by number.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A descriptor of our own for what `fd` is, closed on exec. `None` if nothing is.
pub fn copy(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: a number that is not open is refused.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: just opened, and nobody else's.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Whether that number is anything's.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: asks only.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}
