//! One turn of the loop: what woke it, in the order the policy wants it, and when it is to wake next.
//!
//! Invariants:
//! - Deaths come before anything else of a turn, what the board says after all that happened, and the passing of time last.
//! - The timer is set to the earliest of what policy, endpoint and watchdog wait for; there is no other clock.
#![forbid(unsafe_code)]

use super::super::child::Target;
use super::super::policy::{Action, Event, Exit, Ms, Phase, Seen};
use super::super::settings::Settings;
use super::super::zygote::Word;
use super::super::{environment, health, say};
use super::{Error, Inner, Watcher, publish};
use crate::board::layout::flag;
use crate::board::view::SlotView;
use crate::platform::log::Level;
use crate::platform::poll::Interest;
use crate::platform::{clock, pidfd, signals, spawn};
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::Ordering;

/// Tokens: what woke the loop.
pub const SIGNAL: u64 = 1;
pub const TIMER: u64 = 2;
pub const BELL: u64 = 3;
pub const ZYGOTE: u64 = 4;
pub const HEALTH: u64 = 5;
pub const HEIR: u64 = 6;
/// And a descriptor of the host's.
pub const WATCH: u64 = 1 << 32;
/// And a slot.
pub const CHILD: u64 = 2 << 32;
/// Lateness that is not the scheduler's.
const LATE_MS: Ms = 1000;
/// How often memory is looked at where a limit asks for it: at each of the looks that the policy wants, one a second.
const LIMITED_RSS_MS: Ms = 500;
/// And where none does.
const RSS_MS: Ms = 60_000;
const NS: u64 = 1_000_000;

impl Inner {
    /// See [`super::Fleet::step`]; gives the watchers that are due.
    pub(super) fn turn(&mut self, ms: Option<u32>) -> Result<Vec<(RawFd, Watcher)>, Error> {
        self.begin()?;
        if self.exit.is_some() {
            return Ok(Vec::new());
        }
        self.arm();
        let Some(l) = &self.begun else { return Ok(Vec::new()) };
        let mut ready = Vec::with_capacity(64);
        let wait = ms.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        l.epoll.wait(wait, &mut ready).map_err(|why| Error::io("the supervisor cannot wait", &why))?;
        let armed = l.armed;
        let now_ns = clock::monotonic_ns();
        let now = now_ns / NS;
        self.count_wake(armed, now_ns, now);
        let mut due = Vec::new();
        let (mut rung, mut asked, mut signalled) = (false, false, false);
        for token in ready {
            match token {
                SIGNAL => signalled = true,
                TIMER => {}
                BELL => rung = true,
                ZYGOTE => drop(self.hear_zygote(now)),
                HEIR => self.hear_heir(now),
                HEALTH => asked = true,
                token if token >= CHILD => self.bury((token - CHILD) as usize, now),
                token => {
                    let fd = RawFd::try_from(token - WATCH).unwrap_or(-1);
                    due.extend(self.watches.iter().find(|w| w.0 == fd).map(|w| (fd, w.2.clone())));
                }
            }
        }
        if rung {
            self.bell.hush();
            for signal in signals::routed() {
                self.signal(signal, now);
            }
        }
        if signalled {
            self.take_signals(now);
        }
        self.reap_strays(now);
        self.watch_heir(now);
        self.look_around(now);
        self.serve(now, asked);
        self.tell_manager(now);
        if std::mem::take(&mut self.reexec) {
            match self.policy.phase() {
                Phase::Draining | Phase::Stopped => say::warn(&self.settings.name, "USR2: not while it ends"),
                _ => self.become_new(),
            }
        }
        Ok(due)
    }

    /// What was asked for meanwhile ([`Inner::later`]), and the time that passed with it.
    pub(super) fn settle(&mut self) {
        if self.begun.is_some() && self.exit.is_none() && !self.events.is_empty() {
            let now = self.now();
            self.look_around(now);
        }
    }

    fn count_wake(&mut self, armed: Option<u64>, now_ns: u64, now: Ms) {
        let header = self.board.header();
        header.wakeups.fetch_add(1, Ordering::Relaxed);
        let late = armed.map_or(0, |at| now_ns.saturating_sub(at));
        header.late_ns_max.fetch_max(late, Ordering::Relaxed);
        if late / NS > LATE_MS {
            let text = format!(
                "the supervisor was held up for {} s: every worker gets so much more time",
                late / NS / 1000
            );
            say::warn(&self.settings.name, &text);
            self.step(Event::Late { by: late / NS }, now);
        }
    }

    /// Tell the policy, and do what it says.
    pub(super) fn step(&mut self, event: Event, now: Ms) {
        let mut actions = std::mem::take(&mut self.actions);
        self.policy.step(event, now, &mut actions);
        self.perform(actions, now);
    }

    fn perform(&mut self, mut actions: Vec<Action>, now: Ms) {
        // What is done may come to an event of its own, which appends to the list.
        let mut next = 0;
        while let Some(action) = actions.get(next).copied() {
            next += 1;
            if let Some(event) = self.act(action, now) {
                self.policy.step(event, now, &mut actions);
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// A child has ended.
    fn bury(&mut self, slot: usize, now: Ms) {
        let Some(running) = self.running.get_mut(slot).and_then(Option::as_mut) else { return };
        let pid = running.child.pid();
        match running.child.has_ended() {
            Ok(false) => return,
            // Not our child yet: whoever stands between it and us is about to end.
            Err(_) if spawn::is_anothers_child(pid) => return,
            _ => {}
        }
        // Its number is nobody else's until it is reaped, and its group's neither.
        pidfd::kill_group(pid);
        let ended = running.child.reap().ok().flatten().unwrap_or_default();
        let killed_by_us = running.killed;
        if let Some(gone) = self.running.get_mut(slot).and_then(Option::take)
            && let Some(l) = &self.begun
        {
            l.epoll.remove(gone.child.as_fd());
        }
        let kills = spawn::oom_kills();
        let oom = ended.signal == libc::SIGKILL && !killed_by_us && kills > self.oom_kills;
        self.oom_kills = kills;
        let exit = Exit { code: ended.code, signal: ended.signal, core: ended.core, oom };
        let mut actions = std::mem::take(&mut self.actions);
        self.policy.step(Event::Died { slot, exit }, now, &mut actions);
        publish::say_ended(self, slot, pid);
        self.perform(actions, now);
    }

    /// Read what the zygote says. `false`: there is none, or none any more.
    fn hear_zygote(&mut self, now: Ms) -> bool {
        loop {
            let Some(zygote) = &self.zygote else { return false };
            match zygote.hear() {
                Ok(None) => return true,
                Ok(Some(word)) => self.heard(word, now),
                Err(_) => {
                    say::warn(&self.settings.name, &format!("zygote {} is gone", zygote.pid()));
                    self.drop_zygote(libc::EPIPE, now);
                    return false;
                }
            }
        }
    }

    fn heard(&mut self, word: Word, now: Ms) {
        match word {
            Word::Prepared(0) | Word::Fork(..) => {}
            Word::Prepared(code) => {
                let text = format!("what prepares the workers ended with {code}");
                say::error(&self.settings.name, &text);
                self.trouble = Some(text);
            }
            Word::Born(slot, incarnation, pid) => {
                self.answered(slot as usize, incarnation);
                if let Some(event) = self.born(slot as usize, incarnation, pid) {
                    self.step(event, now);
                }
            }
            Word::Failed(slot, incarnation, errno) => {
                self.answered(slot as usize, incarnation);
                self.step(Event::ForkFailed { slot: slot as usize, errno }, now);
            }
        }
    }

    fn answered(&mut self, slot: usize, incarnation: u64) {
        self.asked.retain(|asked| *asked != (slot, incarnation));
    }

    /// End the zygote and hear what it said last.
    pub(super) fn end_zygote(&mut self, now: Ms) {
        if let Some(zygote) = self.zygote.take() {
            zygote.end();
            while let Ok(Some(word)) = zygote.hear() {
                self.heard(word, now);
            }
        }
    }

    /// The same; what it was asked for and has not done fails with `errno`.
    pub(super) fn drop_zygote(&mut self, errno: i32, now: Ms) {
        self.end_zygote(now);
        for (slot, _) in std::mem::take(&mut self.asked) {
            self.step(Event::ForkFailed { slot, errno }, now);
        }
    }

    /// The next zygote has prepared what it is to prepare, or cannot.
    fn hear_heir(&mut self, now: Ms) {
        let Some((heir, _)) = &self.heir else { return };
        match heir.hear() {
            Ok(Some(Word::Prepared(0))) => {
                if let Err(why) = self.succeed(now) {
                    say::error(&self.settings.name, &format!("the new zygote cannot be used: {why}"));
                    self.drop_zygote(libc::EAGAIN, now);
                }
                self.step(Event::Reload, now);
            }
            Ok(Some(Word::Prepared(code))) => self.disinherit(&format!("ended with {code}"), now),
            Ok(_) => {}
            Err(_) => self.disinherit("ended", now),
        }
    }

    fn watch_heir(&mut self, now: Ms) {
        if self.heir.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= now)) {
            self.disinherit("took too long (start_deadline_ms)", now);
        }
    }

    /// The workers stay as they are, and so does the zygote that can replace them.
    fn disinherit(&mut self, why: &str, now: Ms) {
        self.end_heir();
        let text = format!("HUP: nothing is replaced: what prepares the workers {why}");
        say::error(&self.settings.name, &text);
        self.step(Event::ReloadFailed, now);
    }

    fn take_signals(&mut self, now: Ms) {
        while let Some(signal) = self.begun.as_ref().and_then(|l| l.signals.next()) {
            self.signal(signal, now);
        }
        self.strays |= self.reaps_all;
    }

    /// Reap whom nobody else waits for.
    fn reap_strays(&mut self, now: Ms) {
        while self.strays {
            let Some(pid) = pidfd::any_ended() else {
                self.strays = false;
                return;
            };
            let own = self.running.iter().position(|r| r.as_ref().is_some_and(|r| r.child.pid() == pid));
            match own {
                Some(slot) => self.bury(slot, now),
                None if self.zygote.as_ref().is_some_and(|z| z.pid() == pid) => {
                    if self.hear_zygote(now) {
                        self.drop_zygote(libc::EPIPE, now);
                    }
                }
                None if self.heir.as_ref().is_some_and(|(heir, _)| heir.pid() == pid) => {
                    self.hear_heir(now);
                    if self.heir.is_some() {
                        self.disinherit("ended", now);
                    }
                }
                // It may be a worker that the zygote has not spoken of yet: that comes first.
                None if !self.asked.is_empty() => return,
                None => drop(pidfd::reap_pid(pid)),
            }
        }
    }

    fn signal(&mut self, signal: i32, now: Ms) {
        let name = self.settings.name.clone();
        let resize = |inner: &Inner, by: i64| {
            let want = inner.policy.group(0).map_or(0, |g| i64::from(g.want)) + by;
            let room = i64::from(inner.policy.room());
            Event::Resize { group: 0, want: want.clamp(0, room) as u32 }
        };
        let event = match signal {
            libc::SIGTERM | libc::SIGINT => Event::Stop { grace_ms: None },
            libc::SIGQUIT => Event::Quick,
            libc::SIGHUP => {
                if let Err(why) = self.reread() {
                    return say::error(&name, &format!("HUP: nothing is replaced: {why}"));
                }
                if let Some(notify) = &self.notify {
                    notify.reloading(clock::monotonic_ns() / 1000);
                    self.reloading = true;
                }
                self.board.header().generation.fetch_add(1, Ordering::Relaxed);
                if self.zygote.is_none() {
                    Event::Reload
                } else {
                    // A new one loads what is new. Until it has, the old one can replace who dies.
                    say::info(&name, "HUP came");
                    return self.renew_heir(now);
                }
            }
            libc::SIGTTIN => resize(self, 1),
            libc::SIGTTOU => resize(self, -1),
            libc::SIGUSR1 => {
                publish::all(self, now);
                // Whatever level lines are wanted from, it was asked for.
                return say::document(Level::Error, &name, "status", self.status().json(false).trim_end());
            }
            libc::SIGUSR2 => {
                self.reexec = true;
                return;
            }
            libc::SIGWINCH => Event::Pause(!self.policy.paused()),
            _ => return,
        };
        say::info(&name, &format!("{} came", signals::name(signal)));
        self.step(event, now);
    }

    /// Read the configuration anew, if it came from somewhere. What is of the whole fleet and cannot change under it (its
    /// name, slots and endpoint) stays as it is.
    fn reread(&mut self) -> Result<(), String> {
        let Some(reread) = self.reread.clone() else { return Ok(()) };
        let read = Settings::read(&reread()?, &environment::variable)?;
        let before = std::mem::replace(&mut self.settings, read);
        let groups: Result<Vec<_>, String> = self
            .entries
            .iter()
            .map(|entry| {
                let command = matches!(entry.target, Target::Command(_));
                self.read_group(&entry.limits, &entry.group.trace, command)
            })
            .collect();
        let groups = match groups {
            Ok(groups) => groups,
            Err(why) => {
                self.settings = before;
                return Err(why);
            }
        };
        for (number, group) in groups.into_iter().enumerate() {
            self.policy.set_limits(number, group.limits.clone());
            if let Some(entry) = self.entries.get_mut(number) {
                entry.group = group;
            }
        }
        // There are as many slots as there were.
        self.settings.rules.surge = before.rules.surge;
        self.policy.set_rules(self.settings.rules.clone());
        self.settings.keep(&before);
        publish::header(self);
        Ok(())
    }

    /// What workers say of themselves, what was asked for, and the passing of time.
    fn look_around(&mut self, now: Ms) {
        if self.exit.is_some() {
            return;
        }
        while let Some(event) = self.events.pop_front() {
            self.step(event, now);
        }
        for slot in 0..self.running.len() {
            let Some(seen) = self.see(slot, now) else { continue };
            if seen.1 {
                self.step(Event::Ready { slot }, now);
            }
            self.step(Event::Seen { slot, seen: seen.0 }, now);
        }
        self.step(Event::Passed, now);
        publish::all(self, now);
    }

    /// What the board says of a live worker, and whether it says for the first time that it is ready.
    fn see(&mut self, slot: usize, now: Ms) -> Option<(Seen, bool)> {
        let place = self.board.slot(slot)?;
        let entry = self.policy.slot(slot).group.and_then(|group| self.entries.get(group));
        let (limit, at_start) = entry.map_or((0, false), |e| (e.group.limits.max_rss_kb, e.ready_at_start));
        let running = self.running.get_mut(slot)?.as_mut()?;
        let every = if limit > 0 { LIMITED_RSS_MS } else { RSS_MS };
        if now >= running.rss_at + every
            && let Some(kb) = spawn::rss_kb(running.child.pid())
        {
            running.rss_at = now;
            place.rss_kb.store(kb, Ordering::Relaxed);
        }
        let view = SlotView::of(place);
        let work = &view.working;
        let own = work.incarnation == running.incarnation;
        let time = |ns: u64| (own && ns != 0).then_some(ns / NS);
        let says_ready = at_start || (own && work.flags & flag::READY != 0);
        let fresh = says_ready && !running.told_ready;
        running.told_ready |= says_ready;
        let items: u64 = view.counters.iter().skip(1).take(4).sum();
        let seen = Seen {
            beat_ms: time(work.beat_ns),
            items_done: items.saturating_sub(running.items_before),
            item_started_ms: time(work.item_started_ns),
            item_deadline_ms: time(work.item_deadline_ns),
            rss_kb: view.rss_kb,
            busy: own && work.flags & flag::BUSY != 0,
        };
        Some((seen, fresh))
    }

    fn serve(&mut self, now: Ms, asked: bool) {
        let due = self.health.next_deadline().is_some_and(|at| at <= now);
        if !asked && !due {
            return;
        }
        if let Some(l) = &self.begun {
            self.health.fds(&mut |fd, _| l.epoll.remove(fd));
        }
        let (board, error) = (&self.board, &self.probe_error);
        self.health.turn(now, &mut |path, verbose| {
            let mut status = super::status::of(board);
            status.probe.error.clone_from(error);
            health::answer(path, verbose, &status)
        });
        self.register_health();
    }

    pub(super) fn register_health(&self) {
        if let Some(l) = &self.begun {
            self.health.fds(&mut |fd, interest| drop(l.epoll.add(fd, interest, HEALTH)));
        }
    }

    pub(super) fn register_watches(&self) -> std::io::Result<()> {
        for (fd, copy, _) in &self.watches {
            if let (Some(l), Ok(number)) = (&self.begun, u64::try_from(*fd)) {
                l.epoll.add(copy.as_fd(), Interest::Read, WATCH + number)?;
            }
        }
        Ok(())
    }

    fn tell_manager(&mut self, now: Ms) {
        let live =
            self.board.header().verdict.load(Ordering::Relaxed) & crate::board::layout::verdict::LIVE != 0;
        if let (Some(watchdog), Some(notify)) = (&mut self.watchdog, &self.notify) {
            watchdog.turn(now, live, notify);
        }
    }

    /// Set the timer to the next time that anybody waits for.
    pub(super) fn arm(&mut self) {
        let times = [
            self.policy.next_deadline(),
            self.heir.as_ref().and_then(|(_, until)| *until),
            self.health.next_deadline(),
            self.watchdog.as_ref().map(|w| w.next_deadline()),
        ];
        let next = times.into_iter().flatten().min().map(|ms| ms * NS);
        if let Some(l) = self.begun.as_mut().filter(|l| l.armed != next) {
            l.timer.set(next);
            l.armed = next;
        }
    }
}
