//! A process that was forked early, and from which workers are forked: the supervisor's own size, and what it has opened since,
//! do not matter to them, and what is loaded for all of them is loaded once, here.
//!
//! Invariants:
//! - A worker's parent is the supervisor, not the zygote: the process between them ends at once, and the kernel gives the
//!   orphan to the supervisor, which is a subreaper. So reaping, death signals and pidfds are as without a zygote, and
//!   a zygote that dies takes no worker with it.
//! - It has no thread. It dies with the supervisor.
//! - Messages are 24 bytes, each written and read by one call; a supervisor never waits for one.
#![forbid(unsafe_code)]

use crate::platform::pidfd::Child;
use crate::platform::{clock, files, pidfd, signals, spawn};
use socket2::SockRef;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an orphan waits to become the supervisor's.
const ADOPTION: Duration = Duration::from_secs(5);
const TURN: Duration = Duration::from_micros(20);

/// A message, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Make this worker: slot, group, incarnation.
    Fork(u32, u32, u64),
    /// It is there: slot, incarnation, process.
    Born(u32, u64, u32),
    /// It is not: slot, incarnation, errno.
    Failed(u32, u64, i32),
    /// What is loaded for all of them is loaded; or the exit status of what was to do it.
    Prepared(i32),
}

const LEN: usize = 24;

impl Word {
    fn bytes(self) -> [u8; LEN] {
        let (kind, a, b, c): (u32, u32, u32, u64) = match self {
            Word::Fork(slot, group, incarnation) => (1, slot, group, incarnation),
            Word::Born(slot, incarnation, pid) => (2, slot, pid, incarnation),
            Word::Failed(slot, incarnation, errno) => (3, slot, errno as u32, incarnation),
            Word::Prepared(code) => (4, code as u32, 0, 0),
        };
        let mut all = [0u8; LEN];
        let parts = [kind.to_ne_bytes(), a.to_ne_bytes(), b.to_ne_bytes()];
        for (room, byte) in all.iter_mut().zip(parts.as_flattened().iter().chain(&c.to_ne_bytes())) {
            *room = *byte;
        }
        all
    }

    fn read(bytes: [u8; LEN]) -> Option<Word> {
        let half = |i: usize| bytes.get(i..i + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let (kind, a, b) = (half(0)?, half(4)?, half(8)?);
        let c = bytes.get(12..20).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes)?;
        match kind {
            1 => Some(Word::Fork(a, b, c)),
            2 => Some(Word::Born(a, c, b)),
            3 => Some(Word::Failed(a, c, b as i32)),
            4 => Some(Word::Prepared(a as i32)),
            _ => None,
        }
    }
}

fn send(socket: &UnixStream, word: Word) -> io::Result<()> {
    // Who reads is gone: an error, not a signal.
    SockRef::from(socket).send_with_flags(&word.bytes(), libc::MSG_NOSIGNAL).map(drop)
}

/// `None`: the other end is gone.
fn receive(mut socket: &UnixStream) -> io::Result<Option<Word>> {
    let mut bytes = [0u8; LEN];
    match socket.read(&mut bytes)? {
        0 => Ok(None),
        // Each was written by one call, so each comes whole.
        _ => Word::read(bytes).map(Some).ok_or_else(|| io::Error::other("no message of ours")),
    }
}

/// How a process makes another one: as [`spawn::fork`].
pub type Fork = dyn Fn() -> io::Result<u32>;

/// The supervisor's end.
pub struct Zygote {
    child: Child,
    socket: UnixStream,
    /// Groups it knows: those that there were when it was forked.
    pub groups: usize,
}

/// What a zygote does; all of it runs in processes of its own.
pub struct Duties<'a> {
    /// See [`Fork`].
    pub fork: &'a Fork,
    /// Loads what all workers need; not 0: the zygote is of no use, and this is why.
    pub prepare: &'a dyn Fn() -> i32,
    /// Is the worker of this slot, group and incarnation.
    pub worker: &'a dyn Fn(u32, u32, u64),
    /// What is the supervisor's alone.
    pub close: &'a [RawFd],
    /// The supervisor.
    pub supervisor: u32,
}

impl Zygote {
    /// Fork it.
    ///
    /// # Errors
    /// As of fork(2), and for want of descriptors.
    pub fn new(duties: &Duties<'_>, groups: usize) -> io::Result<Zygote> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let before = signals::block_all();
        let pid = (duties.fork)();
        if matches!(pid, Ok(0)) {
            // Not dropped: this end is the supervisor's.
            let ours = ours.into_raw_fd();
            files::close(ours);
            live(duties, &theirs);
        }
        signals::restore(&before);
        let child = Child::open(pid?)?;
        Ok(Zygote { child, socket: ours, groups })
    }

    /// Ask for a worker.
    ///
    /// # Errors
    /// That it is gone, or does not listen.
    pub fn ask(&self, slot: u32, group: u32, incarnation: u64) -> io::Result<()> {
        send(&self.socket, Word::Fork(slot, group, incarnation))
    }

    /// What it has to say, if anything; an error: it is gone.
    ///
    /// # Errors
    /// That it is gone.
    pub fn hear(&self) -> io::Result<Option<Word>> {
        match receive(&self.socket) {
            Ok(None) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            heard => heard,
        }
    }

    /// The socket, to wait for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// End it, and what it was just making. What it said before can still be heard.
    pub fn end(&self) {
        self.child.kill_group();
        // Dead of KILL, or about to be: reaped here, or with what else nobody knows.
        let _ =
            crate::platform::poll::wait(self.child.as_fd(), crate::platform::poll::Interest::Read, ADOPTION);
        let _ = self.child.reap();
    }
}

/// The zygote's own life.
fn live(duties: &Duties<'_>, socket: &UnixStream) -> ! {
    spawn::lead_group();
    signals::reset(false);
    spawn::signal_on_parents_death(libc::SIGKILL);
    if spawn::parent() != duties.supervisor {
        spawn::end(1);
    }
    for fd in duties.close {
        files::close(*fd);
    }
    signals::unblock_all();
    let code = (duties.prepare)();
    if send(socket, Word::Prepared(code)).is_err() || code != 0 {
        spawn::end(code);
    }
    loop {
        match receive(socket) {
            Ok(Some(Word::Fork(slot, group, incarnation))) => make(duties, socket, slot, group, incarnation),
            Ok(Some(_)) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(None) | Err(_) => spawn::end(0),
        }
    }
}

/// Make one worker, an orphan from the first.
fn make(duties: &Duties<'_>, socket: &UnixStream, slot: u32, group: u32, incarnation: u64) {
    let failed = |why: &io::Error| {
        let errno = why.raw_os_error().unwrap_or(libc::EAGAIN);
        let _ = send(socket, Word::Failed(slot, incarnation, errno));
    };
    let before = signals::block_all();
    match (duties.fork)() {
        Err(why) => failed(&why),
        Ok(0) => {
            // What is born here is in a group of its own as soon as it leads one; until then in this process's, so that
            // the end of the zygote reaches it.
            match (duties.fork)() {
                Err(why) => failed(&why),
                Ok(0) => {
                    files::close(socket.as_raw_fd());
                    wait_to_be_adopted(duties.supervisor);
                    (duties.worker)(slot, group, incarnation);
                    spawn::end(1)
                }
                Ok(pid) => drop(send(socket, Word::Born(slot, incarnation, pid))),
            }
            spawn::end(0)
        }
        Ok(between) => pidfd::wait_for(between),
    }
    signals::restore(&before);
}

fn wait_to_be_adopted(supervisor: u32) {
    let deadline = clock::monotonic_ms() + ADOPTION.as_millis() as u64;
    while spawn::parent() != supervisor && clock::monotonic_ms() < deadline {
        clock::nap(TURN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_as_they_are() {
        let all =
            [Word::Fork(1, 2, u64::MAX), Word::Born(3, 4, 5), Word::Failed(6, 7, -8), Word::Prepared(-1)];
        for word in all {
            assert_eq!(Word::read(word.bytes()), Some(word));
        }
        assert_eq!(Word::read([0; LEN]), None);
    }
}
