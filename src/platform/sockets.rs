//! The table of a client's descriptors: its sockets, and in another one its spool's own files.
//!
//! Invariants:
//! - It is one of the few mutable things outside the wiped page, so every field is an atomic and a child
//!   forked at any instant can read it: `fd` is stored last and cleared first.
//! - A descriptor is only ever closed or cut after its device and inode were found to be the ones noted
//!   here: the number may belong to somebody else by then (a daemoniser closes everything).
//! - A cut is not lost between two sockets: it stays until [`SocketTable::mend`], so a sender that was just
//!   opening its next connection sees it too. Whoever notes a descriptor asks [`SocketTable::is_cut`] after.

use super::files::identity;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};

/// Sockets a client may hold at once.
pub const SLOTS: usize = 8;
/// Own files of a spool that a client may hold at once.
pub const FILES: usize = 72;

const FREE: i32 = -1;
const TAKEN: i32 = -2;

struct Slot {
    fd: AtomicI32,
    dev: AtomicU64,
    ino: AtomicU64,
}

/// See the module's text.
pub struct SocketTable<const N: usize = SLOTS> {
    slots: [Slot; N],
    cut: AtomicBool,
}

/// The own files' one: nothing of it is ever cut.
pub type FileTable = SocketTable<FILES>;

/// A descriptor's place in the table; give it back with [`SocketTable::forget`] before closing the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(usize);

impl<const N: usize> Default for SocketTable<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> SocketTable<N> {
    /// An empty table.
    pub const fn new() -> Self {
        SocketTable {
            slots: [const { Slot { fd: AtomicI32::new(FREE), dev: AtomicU64::new(0), ino: AtomicU64::new(0) } };
                N],
            cut: AtomicBool::new(false),
        }
    }

    /// Note a descriptor that was just opened, before anything blocks on it. `None` if the table is full.
    pub fn note(&self, fd: i32) -> Option<Ticket> {
        let (dev, ino) = identity(fd)?;
        for (i, s) in self.slots.iter().enumerate() {
            if s.fd.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                s.dev.store(dev, Ordering::Relaxed);
                s.ino.store(ino, Ordering::Relaxed);
                s.fd.store(fd, Ordering::Release);
                // Pairs with the fence in `cut`: either it finds this socket, or our caller finds the flag.
                fence(Ordering::SeqCst);
                return Some(Ticket(i));
            }
        }
        None
    }

    /// The descriptor is about to be closed by its owner.
    pub fn forget(&self, ticket: Ticket) {
        if let Some(s) = self.slots.get(ticket.0) {
            s.fd.store(FREE, Ordering::Release);
        }
    }

    /// Whether the noted descriptor still is what was noted (nobody closed it behind our back).
    pub fn still_ours(&self, ticket: Ticket) -> bool {
        self.slots.get(ticket.0).is_some_and(|s| {
            let fd = s.fd.load(Ordering::Acquire);
            fd >= 0 && identity(fd) == Some((s.dev.load(Ordering::Relaxed), s.ino.load(Ordering::Relaxed)))
        })
    }

    /// How many descriptors are noted.
    pub fn noted(&self) -> usize {
        self.slots.iter().filter(|s| s.fd.load(Ordering::Acquire) != FREE).count()
    }

    /// In a forked child: close every inherited socket that still is ours and empty the table.
    /// Async-signal-safe: loads, stores, `fstat`, `close`.
    pub fn close_inherited(&self) {
        self.each(|fd| {
            // SAFETY: the descriptor was verified to be the socket we opened; the child owns its copy.
            unsafe { libc::close(fd) };
        });
        for s in &self.slots {
            s.fd.store(FREE, Ordering::Release);
        }
        self.mend();
    }

    /// Cut every connection, so that a thread blocked on one returns with an error, and so does one that is
    /// just about to open the next. The owner closes them.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.each(|fd| {
            // SAFETY: the descriptor was verified to be the socket we opened; shutdown(2) frees nothing.
            unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        });
    }

    /// Whether [`cut`](Self::cut) was called and not taken back.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Take a cut back: the sockets opened from now on may be used.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::Release);
    }

    fn each(&self, f: impl Fn(i32)) {
        for s in &self.slots {
            let fd = s.fd.load(Ordering::Acquire);
            let noted = (s.dev.load(Ordering::Relaxed), s.ino.load(Ordering::Relaxed));
            if fd >= 0 && identity(fd) == Some(noted) {
                f(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_reused_number_is_left_alone() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let t: SocketTable = SocketTable::new();
        let fd = a.as_raw_fd();
        let ticket = t.note(fd).unwrap();
        assert!(t.still_ours(ticket));
        let (c, _d) = std::os::unix::net::UnixStream::pair().unwrap();
        // Somebody puts another socket under the same number.
        // SAFETY: both descriptors are open and owned by this test.
        unsafe { libc::dup2(c.as_raw_fd(), fd) };
        assert!(!t.still_ours(ticket));
        t.close_inherited();
        // SAFETY: F_GETFD only asks.
        assert!(unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0, "closed a descriptor of somebody else");
        drop(a);
    }

    #[test]
    fn a_cut_stays_until_it_is_mended() {
        let t: SocketTable = SocketTable::new();
        assert!(!t.is_cut());
        t.cut();
        assert!(t.is_cut());
        t.mend();
        assert!(!t.is_cut());
    }

    #[test]
    fn an_inherited_socket_is_closed_once() {
        let (a, mut b) = std::os::unix::net::UnixStream::pair().unwrap();
        let t: SocketTable = SocketTable::new();
        t.note(a.into_raw_fd()).unwrap();
        t.close_inherited();
        // Its number may be another test's by now, and a child that one has just forked may have it for a while.
        b.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        assert_eq!(b.read(&mut [0]).unwrap(), 0, "the end");
    }
}
