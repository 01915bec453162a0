//! `poll(2)`: the only place where this library waits for the network.
//!
//! A wait is always bounded, and an interrupted one simply comes back early: the caller has a deadline and
//! looks again.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Room to write, or the end of a connection attempt.
    Write,
    /// Either.
    Both,
}

impl Interest {
    fn events(self) -> libc::c_short {
        match self {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
            Interest::Both => libc::POLLIN | libc::POLLOUT,
        }
    }
}

/// Rounded up: a last half millisecond waited as zero would turn the caller's loop into a spin.
fn milliseconds(time: Duration) -> i32 {
    time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32
}

/// Wait until `fd` is ready, was hung up or failed (all of them: true), or for at most `time` (false).
pub fn wait(fd: BorrowedFd<'_>, interest: Interest, time: Duration) -> io::Result<bool> {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: interest.events(), revents: 0 };
    // SAFETY: `p` is one valid pollfd for the length of the call.
    let r = unsafe { libc::poll(&mut p, 1, milliseconds(time)) };
    if r < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(e) };
    }
    if p.revents & libc::POLLNVAL != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(r > 0)
}

/// The same for many descriptors: which of them are ready. One that is not open counts as ready.
pub fn wait_any(fds: &[BorrowedFd<'_>], interest: Interest, time: Duration) -> io::Result<Vec<bool>> {
    let poll =
        |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: interest.events(), revents: 0 };
    let mut all: Vec<libc::pollfd> = fds.iter().map(poll).collect();
    // SAFETY: `all` is that many valid pollfds for the length of the call.
    let r = unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, milliseconds(time)) };
    if r < 0 {
        let e = io::Error::last_os_error();
        let interrupted = e.kind() == io::ErrorKind::Interrupted;
        return if interrupted { Ok(vec![false; fds.len()]) } else { Err(e) };
    }
    Ok(all.iter().map(|p| p.revents != 0).collect())
}

/// Whether `fd` is in a state of error already: a pipe nobody reads, a connection that was reset.
pub fn is_broken(fd: BorrowedFd<'_>) -> bool {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: `p` is one valid pollfd for the length of the call, which does not wait.
    let r = unsafe { libc::poll(&mut p, 1, 0) };
    r > 0 && p.revents & (libc::POLLERR | libc::POLLNVAL) != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn tells_ready_from_silence() {
        let (a, mut b) = UnixStream::pair().unwrap();
        assert!(!wait(a.as_fd(), Interest::Read, Duration::from_millis(1)).unwrap());
        assert!(wait(a.as_fd(), Interest::Write, Duration::from_secs(60)).unwrap());
        b.write_all(b"x").unwrap();
        assert!(wait(a.as_fd(), Interest::Read, Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn tells_which_of_many_is_ready() {
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let fds: Vec<_> = pairs.iter().map(|(a, _)| a.as_fd()).collect();
        assert_eq!(wait_any(&fds, Interest::Read, Duration::from_millis(1)).unwrap(), [false; 3]);
        (&pairs[1].1).write_all(b"x").unwrap();
        assert_eq!(wait_any(&fds, Interest::Read, Duration::from_secs(60)).unwrap(), [false, true, false]);
        assert!(wait_any(&[], Interest::Read, Duration::ZERO).unwrap().is_empty());
    }

    #[test]
    fn a_pipe_without_a_reader_is_broken() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!is_broken(writer.as_fd()));
        drop(reader);
        // A child that another test has just forked may still have the reader, too.
        let start = std::time::Instant::now();
        while !is_broken(writer.as_fd()) {
            assert!(start.elapsed() < Duration::from_secs(60), "it has a reader still");
            std::thread::yield_now();
        }
    }
}
