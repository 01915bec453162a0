//! How a fleet begins and ends: what is made at the first turn, and put back after the last.
//!
//! Invariant: what a fleet cannot do without is an error before the first fork; what it can do without (the endpoint, the
//! publication) is said, shows on the board, and is gone without.
#![forbid(unsafe_code)]

use super::super::health::notify::Watchdog;
use super::super::health::{Listener, Notify};
use super::super::policy::Event;
use super::super::{environment, say};
use super::{Error, Inner, Loop, exit, handover, publish, turn};
use crate::board::directory::{self, Runtime};
use crate::board::layout::{self, probe};
use crate::platform::epoll::{Epoll, Timer};
use crate::platform::log::Level;
use crate::platform::poll::Interest;
use crate::platform::signals::{self, SignalFd};
use crate::platform::{files, limits, spawn};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

/// What a supervisor listens to.
pub const SIGNALS: &[i32] = &[
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];
/// The name of the library's own threads, which end before a fork.
pub const OWN_THREADS: &str = "telemetry";

/// Descriptors that a worker takes in the supervisor: its process and its bell.
const A_WORKERS: usize = 2;
/// And what is there once: the loop's own, connections of the health endpoint, zygotes.
const A_SUPERVISORS: usize = 32;

impl Inner {
    /// Make what a running fleet has, once.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if self.begun.is_some() || self.exit.is_some() {
            return Ok(());
        }
        let functions = !self.entries.iter().all(|entry| matches!(entry.target, super::Target::Command(_)));
        let threads = spawn::threads_but(OWN_THREADS);
        if functions && threads > 1 && !self.settings.allow_threads {
            return Err(Error::Invalid(format!(
                "this process has {} other thread(s): a lock that one of them holds when a worker is forked stays \
                 locked in the worker. Run the fleet before threads are started, or commands in mode \"exec\", or \
                 say \"allow_threads\": true",
                threads - 1
            )));
        }
        let handed = handover::take();
        self.make_room(handed.is_none())?;
        let system = |why: std::io::Error| Error::io("the supervisor's descriptors cannot be made", &why);
        signals::unignore(libc::SIGCHLD);
        let zygotes = self.settings.mode == super::Mode::Zygote;
        self.reaps_all |= self.pid == 1 || zygotes;
        if self.reaps_all {
            spawn::adopt_orphans();
        }
        let mut listened = SIGNALS.to_vec();
        if self.reaps_all {
            listened.push(libc::SIGCHLD);
        }
        let (epoll, timer) = (Epoll::new().map_err(system)?, Timer::new().map_err(system)?);
        // From here on nothing fails that does not put the mask back.
        let mask = signals::block(&listened);
        let signals = match SignalFd::new(&listened) {
            Ok(signals) => signals,
            Err(why) => {
                signals::restore(&mask);
                return Err(system(why));
            }
        };
        let before = signals::route(SIGNALS, std::os::fd::AsRawFd::as_raw_fd(&self.bell));
        let made = Loop { epoll, signals, timer, mask, before, armed: None };
        made.epoll.add(made.signals.as_fd(), Interest::Read, turn::SIGNAL).map_err(system)?;
        made.epoll.add(made.timer.as_fd(), Interest::Read, turn::TIMER).map_err(system)?;
        made.epoll.add(self.bell.as_fd(), Interest::Read, turn::BELL).map_err(system)?;
        self.begun = Some(made);
        if let Err(why) = self.register_watches() {
            say::warn(&self.settings.name, &format!("a watched descriptor cannot be waited for: {why}"));
        }
        self.oom_kills = spawn::oom_kills();
        let handed = handed.map(|handed| self.take_over(handed));
        self.listen(handed.as_ref().and_then(|h| h.listener));
        if self.exit.is_some() {
            return Ok(());
        }
        self.publish_board();
        let now = self.now();
        self.notify = environment::variable("NOTIFY_SOCKET").and_then(|value| Notify::new(&value));
        let watchdog = environment::variable("WATCHDOG_USEC");
        self.watchdog = watchdog.and_then(|usec| {
            Watchdog::new(&usec, environment::variable("WATCHDOG_PID").as_deref(), self.pid, now)
        });
        publish::header(self);
        say::info(
            &self.settings.name,
            &format!("supervisor {} begins, {} worker(s)", self.pid, self.policy.wanted()),
        );
        // Before anything is waited for: who was left may end at any time.
        for event in handed.map(|h| h.events).unwrap_or_default() {
            self.step(event, now);
        }
        self.step(Event::Began, now);
        self.wake();
        Ok(())
    }

    fn listen(&mut self, handed: Option<std::os::fd::RawFd>) {
        let header = self.board.header();
        let Some(address) = self.settings.health.clone() else {
            return header.probe.store(0, Ordering::Relaxed);
        };
        let copy = handed.and_then(crate::platform::descriptor::copy);
        let listener = match copy.map(Listener::from_fd) {
            Some(Ok(listener)) => Ok(listener),
            _ => Listener::bind(&address),
        };
        match listener {
            Ok(listener) => {
                header.probe_port.store(u32::from(listener.port()), Ordering::Relaxed);
                header.probe.store(probe::WANTED | probe::BOUND, Ordering::Relaxed);
                say::info(
                    &self.settings.name,
                    &format!("health endpoint on {address}, port {}", listener.port()),
                );
                self.health.listen(listener);
                self.register_health();
            }
            Err(why) => {
                header.probe.store(probe::WANTED, Ordering::Relaxed);
                say::error(&self.settings.name, &format!("no health endpoint: {why}"));
                self.probe_error = Some(why);
                if self.settings.require_probe {
                    self.exit = Some(exit::NO_PROBE);
                    self.finish();
                }
            }
        }
    }

    fn publish_board(&mut self) {
        let dir = directory::resolve(self.settings.runtime_dir.as_deref(), environment::raw);
        let published = Runtime::open(&dir).and_then(|r| r.publish(&self.settings.name, self.board.as_fd()));
        match published {
            Ok(published) => self.published = Some(published),
            Err(why) => {
                let text = format!("`telemetry status` will not find it: {}: {why}", dir.display());
                say::warn(&self.settings.name, &text);
            }
        }
    }

    /// See that there are descriptors for every slot, and some for the health endpoint, which is asked most when something is wrong.
    /// With `refuse` it is an error if there cannot be; else there are workers already, which are not given up for it.
    pub(super) fn make_room(&mut self, refuse: bool) -> Result<(), Error> {
        let open = files::names_in(Path::new("/proc/self/fd")).map_or(0, |all| all.len());
        let surge = self.settings.rules.surge;
        let needed = |workers: usize| (open + workers * A_WORKERS + A_SUPERVISORS) as u64;
        let (now, most) = limits::descriptors();
        let (all, wanted) = (needed(self.running.len()), needed((self.policy.wanted() + surge) as usize));
        if refuse && most < wanted {
            return Err(Error::Invalid(format!(
                "{} worker(s): their supervisor needs {wanted} descriptors; allowed here: {most} (ulimit -n)",
                self.policy.wanted()
            )));
        }
        if now < all {
            self.descriptors = Some(now);
            limits::allow_descriptors(all.min(most));
        }
        Ok(())
    }

    pub(super) fn give_room_back(&mut self) {
        if let Some(before) = self.descriptors.take() {
            limits::allow_descriptors(before);
        }
    }

    /// Put back what was changed, and say how it ended.
    pub(super) fn finish(&mut self) {
        let header = self.board.header();
        header.phase.store(layout::Phase::Stopped as u32, Ordering::Relaxed);
        header.verdict.store(0, Ordering::Relaxed);
        let heir = self.heir.take().map(|(heir, _)| heir);
        for zygote in self.zygote.take().into_iter().chain(heir) {
            zygote.end();
        }
        self.health.close();
        self.published = None;
        if let Some(l) = self.begun.take() {
            let ended = publish::last_words(self).to_string();
            say::document(Level::Info, &self.settings.name, "ended", &ended);
            // One that comes too late is not to end the host, whose dispositions hold again.
            while l.signals.next().is_some() {}
            signals::unroute(&l.before);
            signals::restore(&l.mask);
        }
        self.give_room_back();
    }
}
