//! One connection: a request is read, an answer is written, and what else was sent is thrown away.
//!
//! Invariants:
//! - No call blocks, and each does a bounded amount of work.
//! - Each stage has a deadline that nothing the client does can put off, so that a connection lives for at most
//!   [`REQUEST_MS`] + [`ANSWER_MS`] + [`DRAIN_MS`].
//! - What was read already is answered even if the supervisor comes late to it: the deadline is for the client.
#![forbid(unsafe_code)]

use super::Ms;
use super::http::{self, Answer, HEAD_MAX, Path, Read, Request, Target, Wire};
use crate::platform::poll::Interest;
use socket2::Socket;
use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// For a whole request, from the moment that the connection was accepted.
pub const REQUEST_MS: Ms = 2000;
/// What each connection has in any case, however many wait for its place.
pub const PATIENCE_MS: Ms = 100;
/// For taking the whole answer.
pub const ANSWER_MS: Ms = 2000;
/// For the client to close after an answer that it did not wait for.
pub const DRAIN_MS: Ms = 1000;
/// The most that is read behind a request before the connection is closed anyhow.
const DRAIN_MAX: usize = 256 << 10;
/// Reads of [`HEAD_MAX`] bytes in one turn of that.
const DRAIN_READS: usize = 4;
/// Writing to a client that is gone must give EPIPE, not a signal to our host.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: i32 = 0; // socket2 sets SO_NOSIGPIPE there

/// Where answers are had. The same question has the same answer, which is made once: so all that ask are to have asked
/// before the first one is answered, else the last one would hear how things were before it asked.
pub struct Desk<'a> {
    page: &'a mut dyn FnMut(Path, bool) -> Answer,
    made: Vec<(Path, bool, Arc<Wire>)>,
}

impl<'a> Desk<'a> {
    pub fn new(page: &'a mut dyn FnMut(Path, bool) -> Answer) -> Desk<'a> {
        Desk { page, made: Vec::new() }
    }

    fn wire(&mut self, target: &Target) -> Arc<Wire> {
        let (path, verbose) = match target {
            Target::Page(path, verbose) => (*path, *verbose),
            Target::None(answer) => return Arc::new(Wire::of(answer)),
        };
        if let Some((.., wire)) = self.made.iter().find(|(p, v, _)| (*p, *v) == (path, verbose)) {
            return Arc::clone(wire);
        }
        let wire = Arc::new(Wire::of(&(self.page)(path, verbose)));
        self.made.push((path, verbose, Arc::clone(&wire)));
        wire
    }
}

pub struct Connection {
    socket: Socket,
    stage: Stage,
    deadline: Ms,
}

enum Stage {
    /// The bytes of the head so far.
    Reading(Vec<u8>),
    /// A whole request.
    Asked(Request),
    /// `more`: there is or may be something unread.
    Writing { wire: Arc<Wire>, head_only: bool, sent: usize, more: bool },
    /// The client has the answer; so many bytes more are read before it is cut off.
    Draining(usize),
}

impl Connection {
    pub fn new(socket: Socket, now: Ms) -> Connection {
        Connection { socket, stage: Stage::Reading(Vec::new()), deadline: now.saturating_add(REQUEST_MS) }
    }

    pub fn interest(&self) -> Interest {
        match self.stage {
            Stage::Reading(_) | Stage::Draining(_) => Interest::Read,
            Stage::Asked(_) | Stage::Writing { .. } => Interest::Write,
        }
    }

    pub fn deadline(&self) -> Ms {
        self.deadline
    }

    /// It has not sent a whole request.
    pub fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading(_))
    }

    /// It has not sent a whole request; until when it is not to be disturbed.
    pub fn protected_until(&self) -> Option<Ms> {
        self.is_reading().then(|| self.deadline.saturating_sub(REQUEST_MS - PATIENCE_MS))
    }

    /// It has had its answer.
    pub fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining(_))
    }

    /// Answers, if there is a request ([`Connection::read`]). `false`: the connection is to be dropped.
    pub fn serve(&mut self, now: Ms, desk: &mut Desk<'_>) -> bool {
        if let Stage::Asked(Request { head_only, more, target }) = &mut self.stage {
            let (head_only, more) = (*head_only, *more);
            let wire = desk.wire(target);
            self.write_out(wire, head_only, more, now);
        }
        self.write(now) && self.drain(now)
    }

    /// Says that there is no room, as far as that goes without waiting, to one that was read from. To be dropped then.
    pub fn turn_away(&mut self) {
        let answer = Answer::refusal(503, "there are too many connections");
        let _ = self.socket.send_with_flags(Wire::of(&answer).part(false), SEND_FLAGS);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads what has come of the request. `false`: the connection is to be dropped.
    pub fn read(&mut self, now: Ms) -> bool {
        let Stage::Reading(head) = &mut self.stage else { return true };
        let mut part = [0; HEAD_MAX];
        let room = part.get_mut(..HEAD_MAX.saturating_sub(head.len())).unwrap_or_default();
        let ended = match (&self.socket).read(room) {
            Ok(n) => {
                head.extend_from_slice(room.get(..n).unwrap_or_default());
                n == 0
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Err(_) => return false,
        };
        match http::read(head, ended) {
            // Nobody asks anything: a check of the port, or a client that changed its mind.
            _ if head.is_empty() => return !ended && now < self.deadline,
            Read::More if now < self.deadline => {}
            Read::More => self.refuse(&Answer::refusal(408, "the request took longer than 2 s"), false, now),
            Read::Refused(answer) => self.refuse(&answer, !ended, now),
            Read::Asked(request) => self.stage = Stage::Asked(request),
        }
        true
    }

    fn refuse(&mut self, answer: &Answer, more: bool, now: Ms) {
        self.write_out(Wire::of(answer).into(), false, more, now);
    }

    fn write_out(&mut self, wire: Arc<Wire>, head_only: bool, more: bool, now: Ms) {
        self.stage = Stage::Writing { wire, head_only, sent: 0, more };
        self.deadline = now.saturating_add(ANSWER_MS);
    }

    fn write(&mut self, now: Ms) -> bool {
        let Stage::Writing { wire, head_only, sent, more } = &mut self.stage else { return true };
        while let Some(rest) = wire.part(*head_only).get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.send_with_flags(rest, SEND_FLAGS) {
                Ok(n) => *sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && now < self.deadline => return true,
                Err(e) => {
                    if e.kind() == ErrorKind::WouldBlock {
                        // What it does not read is not left to the system, which would keep it for minutes.
                        let _ = self.socket.set_linger(Some(Duration::ZERO));
                    }
                    return false;
                }
            }
        }
        if !*more && !matches!((&self.socket).read(&mut [0; HEAD_MAX]), Ok(1..)) {
            return false;
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        self.stage = Stage::Draining(DRAIN_MAX);
        self.deadline = now.saturating_add(DRAIN_MS);
        true
    }

    fn drain(&mut self, now: Ms) -> bool {
        let Stage::Draining(left) = &mut self.stage else { return true };
        for _ in 0..DRAIN_READS {
            match (&self.socket).read(&mut [0; HEAD_MAX]) {
                Ok(n @ 1..) if n < *left => *left -= n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                _ => return false,
            }
        }
        now < self.deadline
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
