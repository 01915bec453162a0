//! A child by a descriptor: no signal ever reaches a stranger that got its number.
//!
//! Invariant: only the parent reaps, through [`Child::reap`]; until then the kernel gives the number to nobody else, so the
//! process group of that number is the child's as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Exit status, if it exited.
    pub code: i32,
    /// The signal that ended it, else 0.
    pub signal: i32,
    /// A core was dumped.
    pub core: bool,
}

/// A child process.
pub struct Child {
    pid: u32,
    fd: OwnedFd,
}

impl Child {
    /// The child with that number, which was not reaped yet. Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Child> {
        // SAFETY: takes no address. The descriptor is closed on exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        Ok(Child { pid, fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    /// One that was handed over.
    pub fn from_fd(pid: u32, fd: OwnedFd) -> Child {
        Child { pid, fd }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Send it a signal; it may have ended meanwhile. Where that call is forbidden (a container's profile) by its number, which
    /// is its own until it is reaped.
    pub fn signal(&self, signal: i32) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: no information goes with the signal.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal, none, 0) };
        if sent != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) {
            // SAFETY: two numbers.
            unsafe { libc::kill(self.pid as libc::pid_t, signal) };
        }
    }

    /// Kill it and its process group: grandchildren keep ports and pipes.
    pub fn kill_group(&self) {
        self.signal(libc::SIGKILL);
        kill_group(self.pid);
    }

    /// How it ended, once: afterwards it is no more. `None`: it has not.
    pub fn reap(&self) -> io::Result<Option<Ended>> {
        wait(libc::P_PIDFD, self.fd.as_raw_fd() as libc::id_t, 0)
    }

    /// The same, and it can be asked once more.
    pub fn has_ended(&self) -> io::Result<bool> {
        let ended = wait(libc::P_PIDFD, self.fd.as_raw_fd() as libc::id_t, libc::WNOWAIT)?;
        Ok(ended.is_some())
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Kill the process group that a child of ours leads, or led while it was not reaped.
pub fn kill_group(leader: u32) {
    if leader > 1 {
        // SAFETY: a number; that there is no such group is an error and nothing else.
        unsafe { libc::kill(-(leader as libc::pid_t), libc::SIGKILL) };
    }
}

/// End a child that cannot be watched.
pub fn kill_and_reap(pid: u32) {
    // SAFETY: a child of ours that nobody reaped, so the number is its.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
    wait_for(pid);
}

/// Any child that has ended, without reaping it.
pub fn any_ended() -> Option<u32> {
    // SAFETY: all-zero bytes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a valid place.
    let r = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, how) };
    // SAFETY: filled in for a child, or zero as before.
    let pid = unsafe { info.si_pid() };
    u32::try_from(pid).ok().filter(|pid| r == 0 && *pid != 0)
}

/// Wait until that child has ended, and reap it. Only for a child that ends at once.
pub fn wait_for(pid: u32) {
    let mut status = 0;
    // SAFETY: a valid place.
    while unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Reap the child with that number.
pub fn reap_pid(pid: u32) -> io::Result<Option<Ended>> {
    wait(libc::P_PID, pid as libc::id_t, 0)
}

fn wait(by: libc::idtype_t, id: libc::id_t, more: i32) -> io::Result<Option<Ended>> {
    // SAFETY: all-zero bytes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid place.
    if unsafe { libc::waitid(by, id, &raw mut info, libc::WEXITED | libc::WNOHANG | more) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in for a child, or zero as before.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended { code: status, ..Ended::default() },
        code => Ended { signal: status, core: code == libc::CLD_DUMPED, code: 0 },
    };
    Ok(Some(ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::poll::{Interest, wait};
    use std::time::Duration;

    /// A child that only [`Child`] waits for.
    fn spawn(program: &str, arguments: &[&str]) -> Child {
        #[allow(clippy::zombie_processes, reason = "it is reaped by its descriptor, which is what is tested")]
        let process = std::process::Command::new(program).args(arguments).spawn().unwrap();
        Child::open(process.id()).unwrap()
    }

    #[test]
    fn tells_how_it_ended_once() {
        for (shell, code, signal) in [("exit 7", 7, 0), ("kill -USR1 $$", 0, libc::SIGUSR1)] {
            let child = spawn("sh", &["-c", shell]);
            assert!(wait(child.as_fd(), Interest::Read, Duration::from_secs(60)).unwrap());
            assert!(child.has_ended().unwrap() && child.has_ended().unwrap());
            assert_eq!(child.reap().unwrap(), Some(Ended { code, signal, core: false }));
            assert!(child.reap().is_err(), "it is no more");
        }
    }

    #[test]
    fn one_that_lives_has_not_ended_and_dies_of_kill() {
        let child = spawn("sleep", &["1000"]);
        assert_eq!(child.reap().unwrap(), None);
        child.signal(libc::SIGKILL);
        assert!(wait(child.as_fd(), Interest::Read, Duration::from_secs(60)).unwrap());
        assert_eq!(child.reap().unwrap().unwrap().signal, libc::SIGKILL);
    }
}
