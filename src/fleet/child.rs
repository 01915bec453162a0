//! What a new process does until it runs the worker's own code, and how it ends.
//!
//! Invariants:
//! - Every signal is blocked from before the fork until the worker's own dispositions are set, so no handler of the
//!   supervisor's runs here, and TERM finds the worker's.
//! - It dies with its supervisor: the kernel sends TERM then, and the parent is looked at once more after that was asked for.
//! - Nothing of the supervisor's is dropped here: its descriptors are closed by number, without a word to whoever is at
//!   the other end. Until a command's exec nothing is allocated.
//! - It never returns.
#![forbid(unsafe_code)]

use super::environment;
use super::settings::Group;
use super::worker::{self, Post, Worker};
use crate::board::scoreboard::Board;
use crate::platform::epoll::Bell;
use crate::platform::spawn::{self, Image};
use crate::platform::{descriptor, files, limits, signals};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// What a group's workers run.
pub enum Target {
    /// A function of this program; what it returns is the exit status.
    Call(Box<dyn Fn(&'static Worker) -> i32>),
    /// A program and its arguments.
    Command(Vec<OsString>),
}

/// Which worker it is to be.
pub struct Birth<'a> {
    /// Its place.
    pub board: &'a Board,
    /// Its slot.
    pub slot: u32,
    /// Which life of it.
    pub incarnation: u64,
    /// What it runs.
    pub target: &'a Target,
    /// What its group was told.
    pub group: &'a Group,
    /// Tells it to stop.
    pub stop: &'a Bell,
    /// Wakes the supervisor.
    pub bell: &'a Bell,
    /// The process that watches it.
    pub supervisor: u32,
    /// What it has to end in.
    pub grace_ms: u32,
    /// How many descriptors it may have, if the supervisor may have more.
    pub descriptors: Option<u64>,
    /// What is the supervisor's alone.
    pub close: &'a [RawFd],
    /// The program of a command, laid out.
    pub image: Option<&'a Image>,
    /// Where a command's process leaves the errno of its exec: the supervisor's own memory, which it still has then.
    pub refused: Option<&'a AtomicI32>,
}

/// The status of a command that cannot be run, as of a shell.
const CANNOT_RUN: i32 = 126;
/// The status of one whose supervisor was gone before it began.
const ORPHAN: i32 = 1;

/// Lay out a command with the environment that tells it whose worker it is. Before the fork: this allocates.
///
/// # Errors
/// That there is no such program.
pub fn image(birth: &Birth<'_>, argv: &[OsString], fleet: &str) -> io::Result<Image> {
    let (slot, incarnation) = (birth.slot, birth.incarnation);
    let worker = format!(
        "fd={},slot={slot},incarnation={incarnation},stop={},bell={},grace={}",
        birth.board.as_fd().as_raw_fd(),
        birth.stop.as_raw_fd(),
        birth.bell.as_raw_fd(),
        birth.grace_ms
    );
    let resource = format!(
        "telemetry.fleet.name={fleet},telemetry.fleet.slot={slot},telemetry.fleet.incarnation={incarnation}"
    );
    const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let resource = match environment::variable(RESOURCE).filter(|text| !text.is_empty()) {
        Some(before) => format!("{before},{resource}"),
        None => resource,
    };
    let trace: Vec<(OsString, OsString)> = birth.group.trace.variables().collect();
    let replaced = |name: &OsString| name == RESOURCE || trace.iter().any(|(own, _)| own == name);
    let own: Vec<(OsString, OsString)> =
        vec![(environment::WORKER.into(), worker.into()), (RESOURCE.into(), resource.into())];
    let kept = environment::inherited().filter(|(name, _)| !replaced(name));
    Image::new(argv, kept.chain(own).chain(trace.clone()))
}

/// The same board, this process's until it ends: what a worker says, it may say from anywhere at any time.
pub fn own_board(board: &Board) -> Option<&'static Board> {
    let own = Board::from_fd(descriptor::copy(board.as_fd().as_raw_fd())?).ok()?;
    Some(Box::leak(Box::new(own)))
}

/// Be that worker. All signals are blocked; this process was just forked, by `birth.supervisor` or a process of its own.
pub fn run(birth: &Birth<'_>) -> ! {
    spawn::lead_group();
    signals::reset(birth.image.is_some());
    spawn::signal_on_parents_death(libc::SIGTERM);
    if spawn::parent() != birth.supervisor {
        spawn::end(ORPHAN);
    }
    if let Some(number) = birth.descriptors {
        limits::allow_descriptors(number);
    }
    match (birth.target, birth.image) {
        (Target::Command(_), Some(image)) => exec(birth, image),
        (Target::Call(body), _) => call(birth, body),
        (Target::Command(_), None) => spawn::end(CANNOT_RUN),
    }
}

fn exec(birth: &Birth<'_>, image: &Image) -> ! {
    if let Some(slot) = birth.board.slot(birth.slot as usize) {
        worker::sign(slot, birth.incarnation);
    }
    for fd in birth.close {
        files::close(*fd);
    }
    let own = [birth.board.as_fd().as_raw_fd(), birth.stop.as_raw_fd(), birth.bell.as_raw_fd()];
    for fd in own.iter().chain(&birth.group.keep_fds) {
        spawn::keep_on_exec(*fd, true);
    }
    spawn::close_on_exec_but(&own, &birth.group.keep_fds);
    signals::unblock_all();
    let errno = image.become_it();
    if let Some(place) = birth.refused {
        place.store(errno, Ordering::Relaxed);
    }
    spawn::end(CANNOT_RUN)
}

fn call(birth: &Birth<'_>, body: &dyn Fn(&'static Worker) -> i32) -> ! {
    for fd in birth.close {
        files::close(*fd);
    }
    let bell = |of: &Bell| descriptor::copy(of.as_raw_fd()).map(Bell::from_fd);
    let own = (own_board(birth.board), bell(birth.stop), bell(birth.bell));
    let (Some(board), Some(stop), Some(bell)) = own else { spawn::end(CANNOT_RUN) };
    let worker = worker::attach(Post {
        board,
        number: birth.slot,
        incarnation: birth.incarnation,
        stop,
        bell,
        trace: birth.group.trace.clone(),
        supervisor: birth.supervisor,
        grace_ms: birth.grace_ms,
    });
    let Some(worker) = worker else { spawn::end(CANNOT_RUN) };
    signals::unblock_all();
    spawn::end(body(worker))
}
