//! The supervisor: one thread, one loop, and what it holds.
//!
//! Invariants:
//! - Nothing here waits but the loop's one `epoll_wait`, and nothing wakes it but what happened or a time that was asked
//!   for: a child's end, a signal, a bell, a client of the health endpoint, a deadline.
//! - [`super::policy`] decides; this room forks, signals, writes the board and says what changed ([`act`], [`publish`]).
//!   `stopping` is looked at where the decision is made, so no fork follows a stop.
//! - It is one thread's: calls from others are refused by [`Fleet::is_here`]'s users. It makes no thread.
//! - A forked child never comes back into this code, and drops nothing of it.
#![forbid(unsafe_code)]

mod act;
mod begin;
mod handover;
mod publish;
mod turn;

use super::child::Target;
use super::health::notify::Watchdog;
use super::health::{Notify, Server, Status};
use super::policy::{Action, Cause, Event, Full, Ms, SlotView, State};
use super::settings::{self, Group, Mode, Readiness, Settings};
use super::trace::Trace;
use super::worker;
use super::zygote::{Fork, Zygote};
use super::{environment, status};
use crate::board::directory::Published;
use crate::board::scoreboard::Board;
use crate::platform::epoll::{Bell, Epoll, Timer};
use crate::platform::pidfd::Child;
use crate::platform::signals::{Mask, SignalFd};
use crate::platform::{clock, descriptor, entropy, process, signals, spawn, thread};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// What was asked for cannot be: the text says which key or argument, and what is allowed.
    Invalid(String),
    /// The system refused something.
    Io(String),
}

impl Error {
    fn io(what: &str, why: &std::io::Error) -> Error {
        Error::Io(format!("{what}: {why}"))
    }
}

/// Exit statuses of a fleet that the policy does not know.
pub mod exit {
    /// It was asked for something that cannot be: `EX_USAGE`.
    pub const USAGE: i32 = 64;
    /// A worker's function left by a panic or an exception: `EX_SOFTWARE`.
    pub const SOFTWARE: i32 = 70;
    /// The health endpoint cannot listen, and was required: `EX_UNAVAILABLE`.
    pub const NO_PROBE: i32 = 69;
    /// The system refused what a supervisor needs: `EX_OSERR`.
    pub const SYSTEM: i32 = 71;
}

/// A group of workers that run the same.
struct Entry {
    name: String,
    /// Workers as it was added.
    count: u32,
    group: Group,
    /// What the group said for itself.
    limits: String,
    target: Target,
    /// As [`Readiness`], decided.
    ready_at_start: bool,
}

/// A worker's process.
struct Running {
    child: Child,
    incarnation: u64,
    forked_ns: u64,
    /// Items that its slot had counted before.
    items_before: u64,
    /// The policy knows that it is ready.
    told_ready: bool,
    /// KILL was ours.
    killed: bool,
    /// When its memory was looked at.
    rss_at: Ms,
}

/// What only a fleet that has begun has.
struct Loop {
    epoll: Epoll,
    signals: SignalFd,
    timer: Timer,
    /// The thread's mask before.
    mask: Mask,
    /// What the process did at these signals before.
    before: signals::Before,
    /// The time that the timer is set to, in nanoseconds.
    armed: Option<u64>,
}

/// What to run when a descriptor of the host's is readable.
type Watcher = Rc<dyn Fn(RawFd)>;

/// See [`Fleet`].
struct Inner {
    settings: Settings,
    entries: Vec<Entry>,
    policy: State,
    board: Rc<Board>,
    bell: Bell,
    stops: Vec<Option<Bell>>,
    running: Vec<Option<Running>>,
    zygote: Option<Zygote>,
    /// The one that is to take its place (HUP), as soon as it has prepared; and until when it has time to.
    heir: Option<(Zygote, Option<Ms>)>,
    /// Forks that the zygote was asked for and has not answered: slot, incarnation.
    asked: Vec<(usize, u64)>,
    begun: Option<Loop>,
    health: Server,
    probe_error: Option<String>,
    published: Option<Published>,
    notify: Option<Notify>,
    watchdog: Option<Watchdog>,
    /// The host's number, a copy of our own, and what to call.
    watches: Vec<(RawFd, OwnedFd, Watcher)>,
    fork: Rc<Fork>,
    prepare: Rc<dyn Fn() -> i32>,
    reread: Option<Rc<dyn Fn() -> Result<String, String>>>,
    /// How many descriptors the process could have before the fleet needed more; its workers can have as many.
    descriptors: Option<u64>,
    /// Reap children that are not ours.
    reaps_all: bool,
    pid: u32,
    exit: Option<i32>,
    actions: Vec<Action>,
    events: VecDeque<Event>,
    oom_kills: Option<u64>,
    /// USR2 came.
    reexec: bool,
    /// Children that are not workers may have ended.
    strays: bool,
    /// What an exit status other than 0 is about, if the policy does not know.
    trouble: Option<String>,
    /// Whose worker each slot had last.
    held: Vec<Option<usize>>,
    /// What the board shows of each slot.
    shown: Vec<SlotView>,
    /// And why the fleet is not live or ready.
    reasons: Vec<String>,
    /// What the supervisor before had counted (USR2): ends by cause, and restarts of each slot.
    carried: [u64; Cause::COUNT],
    carried_restarts: Vec<u32>,
    /// The service manager was told that the fleet is ready,
    said_ready: bool,
    /// this for people,
    said_status: String,
    /// and that the fleet reloads.
    reloading: bool,
}

/// A fleet. One process, one thread: the one that made it.
pub struct Fleet {
    inner: RefCell<Inner>,
    thread: u32,
    pid: u32,
}

/// What a turn of the loop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to come.
    Going,
    /// It has ended, with this status.
    Ended(i32),
}

impl Fleet {
    /// A fleet that has not begun. The environment is read here.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad configuration, [`Error::Io`] for want of shared memory.
    pub fn new(json: &str) -> Result<Fleet, Error> {
        let settings = Settings::read(json, &environment::variable).map_err(Error::Invalid)?;
        for text in environment::names().filter_map(|name| settings::complaint(&name)) {
            super::say::warn(&settings.name, &text);
        }
        Fleet::of(settings)
    }

    /// The same of settings that were read already.
    ///
    /// # Errors
    /// As above.
    pub fn of(settings: Settings) -> Result<Fleet, Error> {
        if let Some(address) = &settings.health {
            super::health::Listener::check(address).map_err(Error::Invalid)?;
        }
        let slots = settings.max_workers + settings.rules.surge as usize;
        let board = handover::board().map_or_else(|| Board::create(&settings.name, slots), Ok);
        let board = board.map_err(|why| Error::io("a scoreboard cannot be made", &why))?;
        let board = Rc::new(board);
        let slots = board.slots();
        let seed = entropy::random_u64();
        let inner = Inner {
            policy: State::new(settings.rules.clone(), slots, seed),
            entries: Vec::new(),
            board,
            bell: Bell::new().map_err(|why| Error::io("no descriptor", &why))?,
            stops: std::iter::repeat_with(|| None).take(slots).collect(),
            running: std::iter::repeat_with(|| None).take(slots).collect(),
            zygote: None,
            heir: None,
            asked: Vec::new(),
            begun: None,
            health: Server::new(None),
            probe_error: None,
            published: None,
            notify: None,
            watchdog: None,
            watches: Vec::new(),
            fork: Rc::new(spawn::fork),
            prepare: Rc::new(|| 0),
            reread: None,
            descriptors: None,
            reaps_all: false,
            pid: process::pid(),
            exit: None,
            actions: Vec::with_capacity(slots),
            events: VecDeque::new(),
            oom_kills: None,
            reexec: false,
            strays: false,
            trouble: None,
            held: vec![None; slots],
            shown: vec![SlotView::default(); slots],
            reasons: Vec::new(),
            carried: [0; Cause::COUNT],
            carried_restarts: vec![0; slots],
            said_ready: false,
            said_status: String::new(),
            reloading: false,
            settings,
        };
        publish::header(&inner);
        Ok(Fleet { inner: RefCell::new(inner), thread: thread::tid(), pid: process::pid() })
    }

    /// Whether the caller may use it: its own thread, in its own process.
    pub fn is_here(&self) -> bool {
        self.pid == process::pid() && self.thread == thread::tid() && self.inner.try_borrow_mut().is_ok()
    }

    /// Add a group of workers, also while the fleet runs. `limits` is a JSON object of what it says for itself. What
    /// `traceparent`, `tracestate` and `baggage` do not say is taken from the environment now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name, limits or number, and for a command that is not found.
    pub fn add(&self, name: &str, count: u32, limits: &str, target: Target) -> Result<(), Error> {
        self.inner.borrow_mut().add(name, count, limits, target)
    }

    /// Make workers with this instead of fork(3): a language's runtime has its own.
    pub fn set_fork(&self, fork: Box<Fork>) {
        self.inner.borrow_mut().fork = Rc::from(fork);
    }

    /// Run once in each zygote, before its first worker; what it gives is 0, or the status with which the zygote ends.
    pub fn set_prepare(&self, prepare: Box<dyn Fn() -> i32>) {
        self.inner.borrow_mut().prepare = Rc::from(prepare);
    }

    /// Where the configuration is read from anew at HUP, before the workers are replaced. An error is said, and nothing is
    /// replaced.
    pub fn set_reread(&self, reread: Box<dyn Fn() -> Result<String, String>>) {
        self.inner.borrow_mut().reread = Some(Rc::from(reread));
    }

    /// Be the parent of orphans among the workers' own children, and reap whoever ends: for a process that has no other
    /// children of its own to wait for. A process that is PID 1 does so anyway.
    pub fn reap_all(&self) {
        self.inner.borrow_mut().reaps_all = true;
    }

    /// Run `watcher` in the loop whenever `fd` is readable; `None`: no more. `fd` stays the caller's.
    ///
    /// # Errors
    /// [`Error::Io`] for a descriptor that cannot be waited for.
    pub fn watch(&self, fd: RawFd, watcher: Option<Box<dyn Fn(RawFd)>>) -> Result<(), Error> {
        self.inner.borrow_mut().watch(fd, watcher)
    }

    /// Run until it ends. The exit status.
    ///
    /// # Errors
    /// That it cannot begin.
    pub fn run(&self) -> Result<i32, Error> {
        if let Some(code) = self.run_inline() {
            return Ok(code);
        }
        loop {
            if let Step::Ended(code) = self.step(None)? {
                return Ok(code);
            }
        }
    }

    /// One turn of the loop: wait for at most `ms` (for ever if `None`), do what there is to do. The first one begins.
    ///
    /// # Errors
    /// That it cannot begin.
    pub fn step(&self, ms: Option<u32>) -> Result<Step, Error> {
        let due = self.inner.borrow_mut().turn(ms)?;
        // With nothing borrowed: they may call everything.
        for (fd, watcher) in due {
            watcher(fd);
        }
        let mut inner = self.inner.borrow_mut();
        inner.settle();
        // Before it goes back to whoever waits for the descriptor.
        inner.arm();
        Ok(inner.exit.map_or(Step::Going, Step::Ended))
    }

    /// A descriptor that is readable when [`Fleet::step`] has something to do; begins the fleet.
    ///
    /// # Errors
    /// That it cannot begin.
    pub fn fd(&self) -> Result<RawFd, Error> {
        use std::os::fd::AsRawFd;
        let mut inner = self.inner.borrow_mut();
        inner.begin()?;
        inner.arm();
        Ok(inner.begun.as_ref().map_or(-1, |l| l.epoll.as_fd().as_raw_fd()))
    }

    /// Stop a group, or (`None`) all and then the fleet, within `grace_ms` (`None`: as configured).
    ///
    /// # Errors
    /// [`Error::Invalid`]: no such group.
    pub fn stop(&self, name: Option<&str>, grace_ms: Option<Ms>) -> Result<(), Error> {
        let mut inner = self.inner.borrow_mut();
        let event = match name {
            None => Event::Stop { grace_ms },
            Some(name) => Event::StopGroup { group: inner.group(name)?, grace_ms },
        };
        inner.later(event);
        Ok(())
    }

    /// Let a group have so many workers.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no such group, or more than there is room for.
    pub fn resize(&self, name: &str, want: u32) -> Result<(), Error> {
        let mut inner = self.inner.borrow_mut();
        let group = inner.group(name)?;
        let now = inner.policy.group(group).map_or(0, |g| g.want);
        let all = (inner.policy.wanted() - now).saturating_add(want);
        let room = inner.policy.room();
        if all > room {
            return Err(Error::Invalid(Full { want: all, room }.to_string()));
        }
        inner.later(Event::Resize { group, want });
        Ok(())
    }

    /// Why it ended with a status that is not 0.
    pub fn why(&self) -> String {
        let inner = self.inner.borrow();
        let code = inner.exit.unwrap_or(0);
        let text = match code {
            0 => return String::new(),
            1 => "a worker had to be killed".into(),
            exit::NO_PROBE => inner.probe_error.clone().unwrap_or_default(),
            exit::SOFTWARE => "too many restarts".into(),
            _ => inner.trouble.clone().unwrap_or_else(|| "no worker could be started".into()),
        };
        format!("the fleet ended with {code}: {text}")
    }

    /// What it is in, as `/status` says it.
    pub fn status(&self) -> Status {
        self.inner.borrow().status()
    }

    /// End it at once: what runs of it is killed.
    pub fn kill(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.begun.is_some() {
            for running in inner.running.iter().flatten() {
                running.child.kill_group();
            }
            for slot in 0..inner.running.len() {
                inner.await_end(slot);
            }
            inner.exit = Some(1);
            inner.finish();
        }
    }

    /// Run the first group's worker in this process, if the configuration says so.
    fn run_inline(&self) -> Option<i32> {
        let inner = self.inner.borrow();
        if !inner.settings.inline {
            return None;
        }
        Some(inner.inline())
    }
}

impl Inner {
    fn add(&mut self, name: &str, count: u32, limits: &str, target: Target) -> Result<(), Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/');
        if name.is_empty() || name.len() > 60 || !name.chars().all(plain) {
            let text = "1 to 60 letters, digits, ., _, -, : or /";
            return Err(Error::Invalid(format!("name of workers is {name:?}; allowed: {text}")));
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(Error::Invalid(format!("name of workers is {name:?}, which others have already")));
        }
        let command = matches!(target, Target::Command(_));
        let group = self.read_group(limits, &environment::trace(), command).map_err(Error::Invalid)?;
        // Those of a supervisor that became a new program were open once.
        let closed = group.keep_fds.iter().find(|fd| command && !descriptor::is_open(**fd));
        if let (Some(fd), None) = (closed, environment::raw(environment::HANDOVER)) {
            return Err(Error::Invalid(format!(
                "keep_fds has {fd}, which is not open; allowed: descriptors that are open in this process"
            )));
        }
        match (self.settings.mode, command) {
            (Mode::Exec, false) => {
                return Err(Error::Invalid("mode is \"exec\": workers must be commands".into()));
            }
            (Mode::Zygote, true) => {
                return Err(Error::Invalid("mode is \"zygote\": workers must be functions".into()));
            }
            _ => {}
        }
        if let Target::Command(argv) = &target {
            spawn::find_program(argv, environment::raw("PATH")).map_err(|why| {
                Error::Invalid(format!("command {:?}: {why}", argv.first().unwrap_or(&"".into())))
            })?;
        }
        let ready_at_start = match group.ready {
            Readiness::Auto => command,
            Readiness::Start => true,
            Readiness::Call => false,
        };
        self.policy
            .add_group(group.limits.clone(), count)
            .map_err(|full| Error::Invalid(format!("count is {count}: {full}")))?;
        let limits = limits.into();
        self.entries.push(Entry { name: name.into(), count, group, limits, target, ready_at_start });
        self.wake();
        Ok(())
    }

    /// What a group is told, all things considered.
    fn read_group(&self, limits: &str, trace: &Trace, command: bool) -> Result<Group, String> {
        let mut group = self.settings.group(limits)?;
        group.trace = group.trace.or(trace);
        if command && !group.stale_said {
            // A program that knows nothing of beats is not stale.
            group.limits.stale_ms = 0;
        }
        Ok(group)
    }

    fn group(&self, name: &str) -> Result<usize, Error> {
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
            Error::Invalid(format!("no workers are named {name:?}; there are: {}", names.join(", ")))
        })
    }

    fn watch(&mut self, fd: RawFd, watcher: Option<Box<dyn Fn(RawFd)>>) -> Result<(), Error> {
        if let Some(at) = self.watches.iter().position(|(watched, ..)| *watched == fd) {
            let (_, copy, _) = self.watches.remove(at);
            // As long as the host has it open, the set would keep it.
            if let Some(l) = &self.begun {
                l.epoll.remove(copy.as_fd());
            }
        }
        if let Some(watcher) = watcher {
            // A copy: closing the number behind our back takes nothing out of the set that we did not put there.
            let copy = crate::platform::descriptor::copy(fd);
            let copy = copy.ok_or_else(|| Error::Invalid(format!("descriptor {fd} is not open")))?;
            self.watches.push((fd, copy, Rc::from(watcher)));
        }
        self.register_watches().map_err(|why| Error::io("the descriptor cannot be waited for", &why))
    }

    /// Take that into account in the next turn, which comes at once.
    fn later(&mut self, event: Event) {
        self.events.push_back(event);
        self.wake();
    }

    fn wake(&self) {
        self.bell.ring();
    }

    fn now(&self) -> Ms {
        clock::monotonic_ns() / 1_000_000
    }

    fn status(&self) -> Status {
        let mut status = status::of(&self.board);
        status.probe.error.clone_from(&self.probe_error);
        status
    }

    fn inline(&self) -> i32 {
        let Some(Entry { target: Target::Call(body), group, .. }) = self.entries.first() else {
            super::say::error(&self.settings.name, "inline: the first group must be of functions");
            return exit::USAGE;
        };
        let (Ok(stop), Ok(bell)) = (Bell::new(), Bell::new()) else { return exit::SYSTEM };
        if let Some(slot) = self.board.slot(0) {
            publish::inline(slot, &self.entries);
        }
        let Some(board) = super::child::own_board(&self.board) else { return exit::SYSTEM };
        let worker = worker::attach(worker::Post {
            board,
            number: 0,
            incarnation: 1,
            stop,
            bell,
            trace: group.trace.clone(),
            supervisor: 0,
            grace_ms: 0,
        });
        worker.map_or(exit::SYSTEM, body)
    }

    /// Reap a worker that was killed, waiting for a moment at most.
    fn await_end(&mut self, slot: usize) {
        use crate::platform::poll::{Interest, wait};
        if let Some(running) = self.running.get_mut(slot).and_then(Option::take) {
            let _ = wait(running.child.as_fd(), Interest::Read, std::time::Duration::from_secs(2));
            let _ = running.child.reap();
        }
    }

    /// What a forked child closes: all that is the supervisor's alone.
    fn own_descriptors(&self) -> Vec<RawFd> {
        use std::os::fd::AsRawFd;
        let mut all = Vec::new();
        if let Some(l) = &self.begun {
            all.extend([
                l.epoll.as_fd().as_raw_fd(),
                l.signals.as_fd().as_raw_fd(),
                l.timer.as_fd().as_raw_fd(),
            ]);
        }
        all.extend(self.running.iter().flatten().map(|r| r.child.as_fd().as_raw_fd()));
        let zygotes = self.zygote.iter().chain(self.heir.iter().map(|(heir, _)| heir));
        all.extend(zygotes.map(|z| z.as_fd().as_raw_fd()));
        all.extend(self.watches.iter().map(|(_, copy, _)| copy.as_raw_fd()));
        self.health.fds(&mut |fd: BorrowedFd<'_>, _| all.push(fd.as_raw_fd()));
        all
    }
}
