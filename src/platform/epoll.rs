//! What a supervisor waits for: one set of descriptors, a clock that wakes it, and bells that others ring.
//!
//! Invariants: everything here is closed on exec and never blocks, but [`Epoll::wait`].

use super::poll::Interest;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A set of descriptors, each with a number of the caller's.
pub struct Epoll(OwnedFd);

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Epoll {
    /// An empty one.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no address.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Epoll)
    }

    fn control(&self, what: i32, fd: BorrowedFd<'_>, interest: Interest, token: u64) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::Both => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: two open descriptors and a valid event.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd.as_raw_fd(), &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Wait for `fd` too, under this number; if it is in the set, from now on for this.
    pub fn add(&self, fd: BorrowedFd<'_>, interest: Interest, token: u64) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_ADD, fd, interest, token) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
            }
            done => done,
        }
    }

    /// Not for that one any more.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, Interest::Read, 0);
    }

    /// The numbers of those that are ready, at most 64 at a time. Waits for at most `ms`, for ever if negative; a signal
    /// handler of the host's ends the wait.
    pub fn wait(&self, ms: i32, ready: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: room for that many events.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, ms) };
        ready.clear();
        match usize::try_from(n) {
            Ok(n) => ready.extend(events.iter().take(n).map(|event| event.u64)),
            Err(_) => {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A clock that makes its descriptor readable at one instant.
pub struct Timer(OwnedFd);

impl Timer {
    /// Not set.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: takes no address.
        owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
            .map(Timer)
    }

    /// At that many nanoseconds of the monotonic clock, or never. One that had come is forgotten.
    pub fn set(&self, at_ns: Option<u64>) {
        // 0 would mean never.
        let at = at_ns.map_or(0, |at| at.max(1));
        let value = libc::timespec {
            tv_sec: (at / 1_000_000_000) as libc::time_t,
            tv_nsec: (at % 1_000_000_000) as libc::c_long,
        };
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let fd = self.0.as_raw_fd();
        // SAFETY: a valid time; the old one is not asked for.
        unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut()) };
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A number that grows when it is rung, and makes its descriptor readable.
pub struct Bell(OwnedFd);

impl Bell {
    /// Silent. Forked children ring the same one.
    pub fn new() -> io::Result<Bell> {
        // SAFETY: takes no address.
        owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Bell)
    }

    /// One that was handed over.
    pub fn from_fd(fd: OwnedFd) -> Bell {
        Bell(fd)
    }

    /// Ring it. Async-signal-safe.
    pub fn ring(&self) {
        super::signals::ring(self.0.as_raw_fd());
    }

    /// Silence it.
    pub fn hush(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_and_the_clock_wake_it_and_nothing_else_does() {
        let (set, bell, timer) = (Epoll::new().unwrap(), Bell::new().unwrap(), Timer::new().unwrap());
        set.add(bell.as_fd(), Interest::Read, 1).unwrap();
        set.add(timer.as_fd(), Interest::Read, 2).unwrap();
        set.add(bell.as_fd(), Interest::Read, 3).unwrap();
        let mut ready = Vec::new();
        set.wait(0, &mut ready).unwrap();
        assert!(ready.is_empty());
        bell.ring();
        set.wait(-1, &mut ready).unwrap();
        assert_eq!(ready, [3], "the number it was added with last");
        bell.hush();
        timer.set(Some(crate::platform::clock::monotonic_ns() + 1_000_000));
        set.wait(-1, &mut ready).unwrap();
        assert_eq!(ready, [2]);
        timer.set(None);
        set.wait(0, &mut ready).unwrap();
        assert!(ready.is_empty(), "what had come is forgotten");
    }
}
