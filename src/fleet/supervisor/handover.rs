//! A supervisor that becomes another program, a newer one of itself, without its workers noticing (USR2).
//!
//! Invariants:
//! - exec keeps the process: its number, its children, its blocked and waiting signals. What else must live on are
//!   descriptors: the scoreboard, the bell, the listener, and for each worker its pidfd and its stop bell; their numbers
//!   go through the environment, with the process's own, so that nobody else takes them for his.
//! - An exec that fails changes nothing.
#![forbid(unsafe_code)]

use super::super::environment::{self, HANDOVER};
use super::super::policy::Event;
use super::super::say;
use super::act::counted_items;
use super::{Inner, Running, publish, turn};
use crate::board::scoreboard::{Board, text_of};
use crate::platform::epoll::Bell;
use crate::platform::pidfd::Child;
use crate::platform::poll::Interest;
use crate::platform::spawn::{self, Image};
use crate::platform::{descriptor, files, process, signals};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// What was handed over. Descriptors are numbers still; whoever takes one makes it his own.
pub struct Handed {
    board: RawFd,
    bell: RawFd,
    /// The health endpoint's.
    pub listener: Option<RawFd>,
    /// Slot, pidfd, stop bell.
    slots: Vec<(usize, RawFd, RawFd)>,
    /// Name, workers as configured, workers wanted.
    groups: Vec<(String, u32, u32)>,
    /// For the policy.
    pub events: Vec<Event>,
}

/// One fleet a process takes it.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn read() -> Option<Handed> {
    let text = environment::variable(HANDOVER).filter(|_| !TAKEN.load(Ordering::Relaxed))?;
    let (text, groups) = text.split_once('|')?;
    let mut parts = text.split(';');
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (pid, board, bell, listener) = (number()?, number()?, number()?, number()?);
    let fd = |n: i64| RawFd::try_from(n).ok();
    let slot = |part: &str| {
        let mut numbers = part.split(',').map(str::parse::<i64>);
        let mut next = || numbers.next()?.ok();
        Some((usize::try_from(next()?).ok()?, fd(next()?)?, fd(next()?)?))
    };
    let group = |part: &str| {
        let mut parts = part.rsplitn(3, ',');
        let mut number = || parts.next()?.parse().ok();
        let (want, count) = (number()?, number()?);
        Some((parts.next()?.to_string(), count, want))
    };
    (pid == i64::from(process::pid())).then_some(())?;
    Some(Handed {
        board: fd(board)?,
        bell: fd(bell)?,
        listener: fd(listener).filter(|fd| *fd >= 0),
        slots: parts.filter_map(slot).collect(),
        groups: groups.split(';').filter_map(group).collect(),
        events: Vec::new(),
    })
}

/// The board that was handed over to this process, if one was.
pub fn board() -> Option<Board> {
    read().and_then(|handed| descriptor::copy(handed.board)).and_then(|fd| Board::from_fd(fd).ok())
}

/// All of it, once.
pub fn take() -> Option<Handed> {
    let handed = read()?;
    TAKEN.store(true, Ordering::Relaxed);
    Some(handed)
}

impl Inner {
    /// Watch the workers that the supervisor before left.
    pub(super) fn take_over(&mut self, mut handed: Handed) -> Handed {
        if let Some(bell) = descriptor::copy(handed.bell) {
            self.bell = Bell::from_fd(bell);
            signals::route_to(self.bell.as_raw_fd());
            if let Some(l) = &self.begun {
                let _ = l.epoll.add(self.bell.as_fd(), Interest::Read, turn::BELL);
            }
        }
        let header = self.board.header();
        for (before, count) in self.carried.iter_mut().zip(&header.restarts) {
            *before = count.load(Ordering::Relaxed);
        }
        for (index, before) in self.carried_restarts.iter_mut().enumerate() {
            let place = self.board.slot(index);
            *before = place.map_or(0, |place| place.supervised.restarts.load(Ordering::Relaxed));
            // Nobody is to bear the number of one who was there before.
            let last = place.map_or(0, |place| place.supervised.incarnation.load(Ordering::Relaxed));
            self.policy.begin_at(index, last);
            if let (Some(held), Some(place)) = (self.held.get_mut(index), place.filter(|_| last > 0)) {
                let name = text_of(&place.supervised.name);
                let group = self.entries.iter().position(|entry| entry.name == name);
                *held = Some(group.unwrap_or(usize::MAX));
            }
        }
        for (slot, pidfd, stop) in handed.slots.clone() {
            let Some(place) = self.board.slot(slot) else { continue };
            let pid = place.supervised.pid.load(Ordering::Relaxed);
            let incarnation = place.supervised.incarnation.load(Ordering::Relaxed);
            let name = text_of(&place.supervised.name);
            let (Some(fd), Some(bell)) = (descriptor::copy(pidfd), descriptor::copy(stop)) else { continue };
            let child = Child::from_fd(pid, fd);
            if let Some(l) = &self.begun {
                let _ = l.epoll.add(child.as_fd(), Interest::Read, turn::CHILD + slot as u64);
            }
            if let Some(room) = self.stops.get_mut(slot) {
                *room = Some(Bell::from_fd(bell));
            }
            let ready = publish::says_ready(place) || place.supervised.ready_ns.load(Ordering::Relaxed) != 0;
            // Its items count from here on.
            let items_before = counted_items(place);
            let forked_ns = place.supervised.forked_ns.load(Ordering::Relaxed);
            let running = Running {
                child,
                incarnation,
                forked_ns,
                items_before,
                told_ready: ready,
                killed: false,
                rss_at: 0,
            };
            if let Some(room) = self.running.get_mut(slot) {
                *room = Some(running);
            }
            let group = self.entries.iter().position(|entry| entry.name == name).unwrap_or(usize::MAX);
            handed.events.push(Event::Adopted { slot, group, incarnation, ready });
        }
        for (name, count, want) in &handed.groups {
            // Unless the new program's own number is another one, what was asked for since then holds.
            let group = self.entries.iter().position(|entry| entry.name == *name && entry.count == *count);
            if let Some(group) = group.filter(|_| count != want) {
                handed.events.push(Event::Resize { group, want: *want });
            }
        }
        if header.paused.load(Ordering::Relaxed) != 0 {
            handed.events.push(Event::Pause(true));
        }
        let numbers = handed.slots.iter().flat_map(|(_, pidfd, stop)| [*pidfd, *stop]);
        for fd in numbers.chain([handed.board, handed.bell]) {
            files::close(fd);
        }
        if let Some(fd) = handed.listener {
            spawn::keep_on_exec(fd, false);
        }
        say::info(&self.settings.name, &format!("takes over {} worker(s)", handed.slots.len()));
        handed
    }

    /// Become the program that this process was started as, as it is on the disk now. Returns if that fails.
    pub(super) fn become_new(&mut self) {
        let slots: Vec<(usize, RawFd, RawFd)> = self
            .running
            .iter()
            .zip(&self.stops)
            .enumerate()
            .filter_map(|(slot, (running, stop))| {
                let (running, stop) = (running.as_ref()?, stop.as_ref()?);
                Some((slot, running.child.as_fd().as_raw_fd(), stop.as_raw_fd()))
            })
            .collect();
        let (board, bell) = (self.board.as_fd().as_raw_fd(), self.bell.as_raw_fd());
        let listener = self.health.listener().map_or(-1, |l| l.as_fd().as_raw_fd());
        let mut kept = vec![board, bell];
        kept.extend((listener >= 0).then_some(listener));
        kept.extend(slots.iter().flat_map(|(_, pidfd, stop)| [*pidfd, *stop]));
        let mut text = format!("{};{board};{bell};{listener}", self.pid);
        for (slot, pidfd, stop) in &slots {
            text.push_str(&format!(";{slot},{pidfd},{stop}"));
        }
        let wants = self.entries.iter().enumerate().map(|(group, entry)| {
            let want = self.policy.group(group).map_or(entry.count, |g| g.want);
            format!("{},{},{want}", entry.name, entry.count)
        });
        text.push('|');
        text.push_str(&wants.collect::<Vec<_>>().join(";"));
        self.give_room_back();
        let why = self.exec_with(text, &kept);
        let _ = self.make_room(false);
        for fd in kept {
            spawn::keep_on_exec(fd, false);
        }
        say::error(&self.settings.name, &format!("USR2: the new program cannot be run: {why}"));
    }

    fn exec_with(&self, text: String, kept: &[RawFd]) -> io::Error {
        let own = (HANDOVER.into(), text.into());
        let image = match Image::new(&environment::command_line(), environment::everything().chain([own])) {
            Ok(image) => image,
            Err(why) => return why,
        };
        say::info(&self.settings.name, "USR2: becomes the program as it is on the disk now");
        for fd in kept {
            spawn::keep_on_exec(*fd, true);
        }
        io::Error::from_raw_os_error(image.become_it())
    }
}
