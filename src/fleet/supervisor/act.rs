//! What the policy wants done: forks, signals, ends.
//!
//! Invariants:
//! - A worker is signalled by its descriptor, so no signal reaches a stranger; KILL goes to its process group too.
//! - Before a fork the slot is made blank for the new worker: no writer of the one before is alive then.
//! - A fork that fails is an event, and costs no other worker anything.
#![forbid(unsafe_code)]

use super::super::child::{self, Birth, Target};
use super::super::policy::{Action, Event, Ms};
use super::super::say;
use super::super::zygote::{Duties, Zygote};
use super::begin::OWN_THREADS;
use super::{Inner, Running, publish, turn};
use crate::board::layout::{Slot, flag};
use crate::platform::epoll::Bell;
use crate::platform::pidfd::{self, Child};
use crate::platform::poll::Interest;
use crate::platform::{clock, signals, spawn};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};

impl Inner {
    /// Do it; what came of it, if the policy is to know.
    pub(super) fn act(&mut self, action: Action, now: Ms) -> Option<Event> {
        match action {
            Action::Fork { slot, group, incarnation } => return self.fork(slot, group, incarnation, now),
            Action::Terminate { slot } => self.terminate(slot),
            Action::Warn { slot } | Action::Dump { slot } => self.ask_where(slot),
            Action::Kill { slot } => self.kill(slot, now),
            Action::Pause(pause) => self.board.header().paused.store(u32::from(pause), Ordering::Relaxed),
            Action::Changed { slot } => publish::changed(self, slot),
            Action::PhaseChanged => publish::phase(self),
            Action::Intensity(too_many) => publish::intensity(self, too_many),
            Action::Exit { code } => {
                publish::all(self, now);
                self.exit = Some(code);
                self.finish();
            }
        }
        None
    }

    fn fork(&mut self, slot: usize, group: usize, incarnation: u64, now: Ms) -> Option<Event> {
        let failed = |why: &io::Error| {
            Some(Event::ForkFailed { slot, errno: why.raw_os_error().unwrap_or(libc::EAGAIN) })
        };
        publish::blank(self, slot, group, incarnation);
        match self.stops.get_mut(slot) {
            Some(Some(bell)) => bell.hush(),
            Some(empty) => match Bell::new() {
                Ok(bell) => *empty = Some(bell),
                Err(why) => return failed(&why),
            },
            None => return failed(&io::Error::from_raw_os_error(libc::EINVAL)),
        }
        if self.settings.mode == super::Mode::Zygote {
            return match self.ask_zygote(slot, group, incarnation, now) {
                Ok(()) => None,
                Err(why) => failed(&why),
            };
        }
        match self.fork_here(slot, group, incarnation) {
            Ok(pid) => self.born(slot, incarnation, pid),
            Err(why) => failed(&why),
        }
    }

    fn birth<'a>(&'a self, slot: usize, group: usize, incarnation: u64) -> io::Result<Birth<'a>> {
        let missing = || io::Error::from_raw_os_error(libc::EINVAL);
        let entry = self.entries.get(group).ok_or_else(missing)?;
        Ok(Birth {
            board: &self.board,
            slot: slot as u32,
            incarnation,
            target: &entry.target,
            group: &entry.group,
            stop: self.stops.get(slot).and_then(Option::as_ref).ok_or_else(missing)?,
            bell: &self.bell,
            supervisor: self.pid,
            grace_ms: u32::try_from(self.settings.rules.grace_ms).unwrap_or(u32::MAX),
            descriptors: self.descriptors,
            close: &[],
            image: None,
            refused: None,
        })
    }

    /// The child never returns from here.
    fn fork_here(&self, slot: usize, group: usize, incarnation: u64) -> io::Result<u32> {
        let close = self.own_descriptors();
        let mut birth = self.birth(slot, group, incarnation)?;
        birth.close = &close;
        let image = match birth.target {
            Target::Command(argv) => Some(child::image(&birth, argv, &self.settings.name)?),
            Target::Call(_) => None,
        };
        let refused = AtomicI32::new(0);
        birth.image = image.as_ref();
        birth.refused = Some(&refused);
        let command = image.is_some();
        if !command && !self.settings.allow_threads && spawn::threads_but(OWN_THREADS) > 1 {
            say::error(
                &self.settings.name,
                "threads were started in the supervisor: no worker is forked beside them",
            );
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let before = signals::block_all();
        let pid = if command {
            // It needs nothing of this process but the descriptors that are handed on.
            spawn::fork_to_exec(&|| child::run(&birth))
        } else {
            (self.fork)()
        };
        if !command && matches!(pid, Ok(0)) {
            child::run(&birth);
        }
        signals::restore(&before);
        let errno = refused.load(Ordering::Relaxed);
        if let (Target::Command(argv), true) = (birth.target, errno != 0) {
            let (program, why) =
                (argv.first().cloned().unwrap_or_default(), io::Error::from_raw_os_error(errno));
            let text = format!(
                "slot {slot} ({}): {} cannot be run: {why}",
                self.entries.get(group).map_or("", |e| &e.name),
                program.display()
            );
            say::error(&self.settings.name, &text);
        }
        pid
    }

    fn ask_zygote(&mut self, slot: usize, group: usize, incarnation: u64, now: Ms) -> io::Result<()> {
        if self.zygote.as_ref().is_none_or(|zygote| zygote.groups <= group) {
            // One that knows all groups.
            self.renew_zygote(now)?;
        }
        let Some(zygote) = &self.zygote else { return Err(io::ErrorKind::NotConnected.into()) };
        if let Err(why) = zygote.ask(slot as u32, group as u32, incarnation) {
            // It has ended already; what it said last may say why.
            self.drop_zygote(libc::EPIPE, now);
            return Err(why);
        }
        self.asked.push((slot, incarnation));
        Ok(())
    }

    /// A new zygote, at once.
    fn renew_zygote(&mut self, now: Ms) -> io::Result<()> {
        if self.heir.is_some() {
            // It loads what is new, too: the reload need not wait any longer.
            self.end_heir();
            self.events.push_back(Event::Reload);
        }
        let zygote = self.fork_zygote()?;
        self.enthrone(zygote, now)
    }

    /// A new zygote that is to take the other one's place when it is prepared. If there cannot be one, the reload is off.
    pub(super) fn renew_heir(&mut self, now: Ms) {
        self.end_heir();
        let limit = self.prepare_limit();
        let made = self.fork_zygote().and_then(|heir| {
            if let Some(l) = &self.begun {
                l.epoll.add(heir.as_fd(), Interest::Read, turn::HEIR)?;
            }
            Ok(heir)
        });
        match made {
            Ok(heir) => self.heir = Some((heir, limit.map(|ms| now.saturating_add(ms)))),
            Err(why) => {
                say::error(&self.settings.name, &format!("HUP: nothing is replaced: no zygote: {why}"));
                self.step(Event::ReloadFailed, now);
            }
        }
    }

    /// How long what prepares the workers may take: as long as the most patient group gives a start.
    fn prepare_limit(&self) -> Option<Ms> {
        let all = self.entries.iter().map(|entry| entry.group.limits.start_deadline_ms);
        all.max().filter(|_| self.entries.iter().all(|entry| entry.group.limits.start_deadline_ms > 0))
    }

    /// No next zygote any more.
    pub(super) fn end_heir(&mut self) {
        if let Some((heir, _)) = self.heir.take() {
            heir.end();
        }
    }

    /// The next zygote takes the place of the one there is.
    pub(super) fn succeed(&mut self, now: Ms) -> io::Result<()> {
        let Some((heir, _)) = self.heir.take() else { return Ok(()) };
        if let Some(l) = &self.begun {
            l.epoll.remove(heir.as_fd());
        }
        self.enthrone(heir, now)
    }

    /// This is the zygote now; it is asked for what the one before was asked for and has not done.
    fn enthrone(&mut self, zygote: Zygote, now: Ms) -> io::Result<()> {
        self.end_zygote(now);
        if let Some(l) = &self.begun {
            l.epoll.add(zygote.as_fd(), Interest::Read, turn::ZYGOTE)?;
        }
        for (slot, incarnation) in &self.asked {
            let group = self.policy.slot(*slot).group.unwrap_or(usize::MAX);
            zygote.ask(*slot as u32, group as u32, *incarnation)?;
        }
        self.zygote = Some(zygote);
        Ok(())
    }

    fn fork_zygote(&mut self) -> io::Result<Zygote> {
        // It inherits every bell that its workers may need.
        for bell in &mut self.stops {
            if bell.is_none() {
                *bell = Some(Bell::new()?);
            }
        }
        let close = self.own_descriptors();
        let worker = |slot: u32, group: u32, incarnation: u64| {
            if let Ok(birth) = self.birth(slot as usize, group as usize, incarnation) {
                child::run(&birth);
            }
        };
        let duties = Duties {
            fork: self.fork.as_ref(),
            prepare: self.prepare.as_ref(),
            worker: &worker,
            close: &close,
            supervisor: self.pid,
        };
        let zygote = Zygote::new(&duties, self.entries.len())?;
        say::info(&self.settings.name, &format!("zygote {} begins", zygote.pid()));
        Ok(zygote)
    }

    /// A child was forked.
    pub(super) fn born(&mut self, slot: usize, incarnation: u64, pid: u32) -> Option<Event> {
        let child = match Child::open(pid) {
            Ok(child) => child,
            Err(why) => {
                // Not to be watched, so not to be kept.
                pidfd::kill_and_reap(pid);
                return Some(Event::ForkFailed { slot, errno: why.raw_os_error().unwrap_or(libc::EMFILE) });
            }
        };
        if let Some(l) = &self.begun {
            let _ = l.epoll.add(child.as_fd(), Interest::Read, turn::CHILD + slot as u64);
        }
        let items_before = self.board.slot(slot).map_or(0, counted_items);
        let forked_ns = clock::monotonic_ns();
        let running = Running {
            child,
            incarnation,
            forked_ns,
            items_before,
            told_ready: false,
            killed: false,
            rss_at: 0,
        };
        if let Some(room) = self.running.get_mut(slot) {
            *room = Some(running);
        }
        publish::born(self, slot, pid);
        // One whose start makes it ready is told so in the next turn.
        self.wake();
        Some(Event::Forked { slot })
    }

    fn terminate(&mut self, slot: usize) {
        // It looks at the board when it is woken.
        publish::slot(self, slot);
        if let Some(Some(bell)) = self.stops.get(slot) {
            bell.ring();
        }
        if let Some(running) = self.running.get(slot).and_then(Option::as_ref) {
            running.child.signal(libc::SIGTERM);
            // One that was stopped, by a terminal or by somebody, would take no notice before it is killed.
            running.child.signal(libc::SIGCONT);
        }
    }

    /// USR1, which ends a program that does not expect it: only to those that said they do.
    fn ask_where(&mut self, slot: usize) {
        let flags = self.board.slot(slot).map_or(0, |place| place.working.flags.load(Ordering::Relaxed));
        if let Some(running) = self.running.get(slot).and_then(Option::as_ref)
            && flags & flag::DUMPS != 0
        {
            running.child.signal(libc::SIGUSR1);
        }
    }

    fn kill(&mut self, slot: usize, now: Ms) {
        match self.running.get_mut(slot).and_then(Option::as_mut) {
            Some(running) => {
                running.killed = true;
                running.child.kill_group();
            }
            None if self.asked.iter().any(|(asked, _)| *asked == slot) => {
                // It hangs in what it prepares: the next one begins anew.
                self.asked.retain(|(asked, _)| *asked != slot);
                self.events.push_back(Event::ForkFailed { slot, errno: libc::ETIMEDOUT });
                self.drop_zygote(libc::EPIPE, now);
                self.wake();
            }
            None => {}
        }
    }
}

/// Items that a slot's workers have ended, whatever came of them.
pub fn counted_items(place: &Slot) -> u64 {
    place.counters.iter().skip(1).take(4).map(|counter| counter.load(Ordering::Relaxed)).sum()
}
