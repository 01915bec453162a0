//! A worker's side: what it says of itself, and what it is asked.
//!
//! Invariants:
//! - One worker a process: [`current`] is it only in the process whose number its slot bears, so neither a child that a worker
//!   forked nor a program that it started writes into the slot.
//! - After [`attach`] nothing here allocates, locks or waits: every call is a few stores to the slot, and at most one write to
//!   a bell; all may be called in a signal handler. Calls of several threads at once lose counts, as every word has one writer.
//! - In a forked worker and in one that was exec'd the calls are the same.
#![forbid(unsafe_code)]

use super::environment;
use super::trace::Trace;
use crate::board::layout::{CLASSES, COUNTERS, Slot, flag};
use crate::board::scoreboard::{Board, put_text};
use crate::board::{seat, seqlock};
use crate::platform::epoll::Bell;
use crate::platform::seat::Seat;
use crate::platform::{clock, descriptor, process, signals, spawn};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The state of a slot whose worker is to stop; the policy's number.
const STOPPING: u32 = super::policy::SlotState::Stopping as u32;
const STALE: u32 = super::policy::SlotState::Stale as u32;

/// See the module's text.
pub struct Worker {
    board: &'static Board,
    slot: &'static Slot,
    number: u32,
    incarnation: u64,
    /// Becomes readable, and stays so, when the worker is to stop.
    stop: Bell,
    /// Wakes the supervisor.
    bell: Bell,
    trace: Trace,
}

/// How an item ended; the numbers are the C interface's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// Not done.
    Failed = 1,
    /// Will be tried again.
    Retried = 2,
    /// Given up.
    Dead = 3,
}

static CURRENT: Seat<Worker> = Seat::new();

/// This process's worker. In a program that a fleet started the first call attaches to the slot and takes over TERM.
pub fn current() -> Option<&'static Worker> {
    if let Some(worker) = CURRENT.get()
        && worker.is_mine()
    {
        return Some(worker);
    }
    attach_by_environment()
}

/// What a worker is made of.
pub struct Post {
    /// Where it writes; it lives as long as the process.
    pub board: &'static Board,
    /// Which slot.
    pub number: u32,
    /// Which life of it.
    pub incarnation: u64,
    /// See [`Worker`].
    pub stop: Bell,
    /// See [`Worker`].
    pub bell: Bell,
    /// See [`Trace`].
    pub trace: Trace,
    /// The supervisor's number, 0 if nobody is to be watched.
    pub supervisor: u32,
    /// From TERM to the end, if the supervisor is no more.
    pub grace_ms: u32,
}

/// Be the worker of that post, from now on.
pub fn attach(post: Post) -> Option<&'static Worker> {
    let slot = post.board.slot(post.number as usize)?;
    signals::stop_on_term(post.stop.as_raw_fd());
    if post.supervisor != 0 {
        signals::end_with(post.supervisor, post.grace_ms);
    }
    sign(slot, post.incarnation);
    seat::take(slot);
    let worker: &'static Worker = Box::leak(Box::new(Worker {
        board: post.board,
        slot,
        number: post.number,
        incarnation: post.incarnation,
        stop: post.stop,
        bell: post.bell,
        trace: post.trace,
    }));
    CURRENT.put(Some(worker));
    Some(worker)
}

/// Put this process's number into the slot: it is the one that writes there. Allocates nothing.
pub fn sign(slot: &Slot, incarnation: u64) {
    let working = &slot.working;
    seqlock::write(&working.seq, || {
        working.incarnation.store(incarnation, Ordering::Relaxed);
        working.pid.store(process::pid(), Ordering::Relaxed);
    });
}

/// `fd=N,slot=S,incarnation=I,stop=M,bell=B,grace=G`: see [`super::child`].
fn attach_by_environment() -> Option<&'static Worker> {
    let text = environment::variable(environment::WORKER)?;
    let part = |name: &str| {
        let mut pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let number = |name| part(name).and_then(|n| RawFd::try_from(n).ok());
    let (fd, slot) = (number("fd")?, u32::try_from(part("slot")?).ok()?);
    // A copy: the number belongs to whoever may close it, and a program that the worker starts inherits nothing.
    let board = Board::from_fd(descriptor::copy(fd)?).ok()?;
    let incarnation = part("incarnation")?;
    let signed = &board.slot(slot as usize)?.working;
    if signed.pid.load(Ordering::Relaxed) != process::pid()
        || signed.incarnation.load(Ordering::Relaxed) != incarnation
    {
        return None;
    }
    let bells = [number("stop")?, number("bell")?];
    let [stop, bell] = bells.map(|fd| descriptor::copy(fd).map(Bell::from_fd));
    for fd in [fd].into_iter().chain(bells) {
        spawn::keep_on_exec(fd, false);
    }
    attach(Post {
        board: Box::leak(Box::new(board)),
        number: slot,
        incarnation,
        stop: stop?,
        bell: bell?,
        trace: environment::trace(),
        supervisor: spawn::parent(),
        grace_ms: u32::try_from(part("grace")?).ok()?,
    })
}

/// One writer: a load and a store are cheaper than an addition that is atomic.
fn add(word: &AtomicU64, delta: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Relaxed);
}

impl Worker {
    fn is_mine(&self) -> bool {
        self.slot.working.pid.load(Ordering::Relaxed) == process::pid()
    }

    /// Its slot's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Which life of the slot it is: 1, 2, 3, ...
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Its place on the board.
    pub fn slot(&self) -> &'static Slot {
        self.slot
    }

    /// It can work. A second call does nothing.
    pub fn ready(&self) {
        let working = &self.slot.working;
        if working.flags.load(Ordering::Relaxed) & flag::READY != 0 {
            return;
        }
        let now = clock::monotonic_ns();
        seqlock::write(&working.seq, || {
            working.ready_ns.store(now, Ordering::Relaxed);
            let flags = working.flags.load(Ordering::Relaxed) | flag::READY | flag::RUNNING;
            working.flags.store(flags, Ordering::Relaxed);
        });
        working.beat_ns.store(now, Ordering::Relaxed);
        self.bell.ring();
    }

    /// It gets on. One store.
    #[inline]
    pub fn beat(&self) {
        self.slot.working.beat_ns.store(clock::monotonic_coarse_ns(), Ordering::Relaxed);
    }

    /// It begins an item: what it is about (cut to 64 bytes), and how many milliseconds it may take (0: as many as
    /// the configuration says). The number is for [`Worker::item_end`].
    pub fn item_begin(&self, doing: &str, deadline_ms: u32) -> u64 {
        let working = &self.slot.working;
        let now = clock::monotonic_ns();
        let item = working.item_seq.load(Ordering::Relaxed).wrapping_add(1);
        let deadline = if deadline_ms == 0 { 0 } else { now + u64::from(deadline_ms) * 1_000_000 };
        seqlock::write(&working.seq, || {
            working.item_seq.store(item, Ordering::Relaxed);
            working.item_started_ns.store(now, Ordering::Relaxed);
            working.item_deadline_ns.store(deadline, Ordering::Relaxed);
            let flags = working.flags.load(Ordering::Relaxed) | flag::BUSY;
            working.flags.store(flags, Ordering::Relaxed);
            put_text(&working.doing, doing);
        });
        working.beat_ns.store(now, Ordering::Relaxed);
        item
    }

    /// It ends that item. One that is not the latest begun is not known any more: nothing happens.
    pub fn item_end(&self, item: u64, outcome: Outcome) {
        let working = &self.slot.working;
        let busy = working.flags.load(Ordering::Relaxed) & flag::BUSY != 0;
        if !busy || working.item_seq.load(Ordering::Relaxed) != item {
            return;
        }
        let now = clock::monotonic_ns();
        let us = now.saturating_sub(working.item_started_ns.load(Ordering::Relaxed)) / 1000;
        let class = us.checked_ilog2().map_or(0, |log| (log as usize).min(CLASSES - 1));
        if let Some(word) = self.slot.histogram.get(class) {
            add(word, 1);
        }
        add(&self.slot.item_us, us);
        // Done is counter 1, and so on.
        self.count(outcome as u32 + 1, 1);
        seqlock::write(&working.seq, || {
            working.item_started_ns.store(0, Ordering::Relaxed);
            working.item_deadline_ns.store(0, Ordering::Relaxed);
            let flags = working.flags.load(Ordering::Relaxed) & !flag::BUSY;
            working.flags.store(flags, Ordering::Relaxed);
            put_text(&working.doing, "");
        });
        working.beat_ns.store(now, Ordering::Relaxed);
    }

    /// It has claimed `n` items from `lo` on, under this token; `n` 0: it gives that claim back. `false`: it has as many
    /// as there is room for.
    pub fn lease(&self, token: u64, lo: u64, n: u64) -> bool {
        let find = |token| self.slot.leases.iter().find(|l| l.token.load(Ordering::Relaxed) == token);
        let Some(lease) = find(token).or_else(|| if n == 0 { None } else { find(0) }) else { return n == 0 };
        if n == 0 {
            lease.token.store(0, Ordering::Release);
        } else {
            lease.lo.store(lo, Ordering::Relaxed);
            lease.n.store(n, Ordering::Relaxed);
            lease.token.store(token, Ordering::Release);
        }
        true
    }

    /// Add to a counter; one that there is not is nobody's.
    #[inline]
    pub fn count(&self, counter: u32, delta: u64) {
        if let Some(word) = self.slot.counters.get(counter as usize) {
            add(word, delta);
        }
    }

    /// The number of a counter, by its name.
    pub fn counter(&self, name: &str) -> Option<u32> {
        use crate::board::layout::{COUNTER_NAMES, OWN_COUNTERS};
        let own = self.board.header().counter_names.iter().map(crate::board::scoreboard::text_of);
        let all = COUNTER_NAMES.iter().map(|name| (*name).to_string()).chain(own);
        debug_assert_eq!(OWN_COUNTERS, COUNTER_NAMES.len());
        all.take(COUNTERS).position(|known| known == name && !name.is_empty()).map(|i| i as u32)
    }

    /// Set or clear bits of [`flag`] that are the worker's to say.
    pub fn flag(&self, bits: u32, on: bool) {
        let own = bits & (flag::DUMPS | flag::RUNNING | flag::MDQ_CONNECTED | flag::MDC_CONNECTED);
        let flags = &self.slot.working.flags;
        let now = flags.load(Ordering::Relaxed);
        flags.store(if on { now | own } else { now & !own }, Ordering::Relaxed);
    }

    /// How late its loop was last, in microseconds.
    pub fn lag(&self, us: u32) {
        self.slot.working.loop_lag_us.store(us, Ordering::Relaxed);
    }

    /// Whether it is to stop: take nothing new, finish or give back what is open, flush, return.
    pub fn is_stopping(&self) -> bool {
        let state = self.slot.supervised.state.load(Ordering::Relaxed);
        let told = self.slot.supervised.incarnation.load(Ordering::Relaxed) == self.incarnation;
        signals::is_stopping() || (told && (state == STOPPING || (state == STALE && self.stop_rung())))
    }

    fn stop_rung(&self) -> bool {
        use crate::platform::poll::{Interest, wait};
        use std::os::fd::AsFd;
        wait(self.stop.as_fd(), Interest::Read, std::time::Duration::ZERO).unwrap_or(false)
    }

    /// Whether it is asked to take nothing new for the time being.
    pub fn is_paused(&self) -> bool {
        self.board.header().paused.load(Ordering::Relaxed) != 0
    }

    /// A descriptor that becomes readable, and stays so, when it is to stop. It is not to be read or closed.
    pub fn stop_fd(&self) -> RawFd {
        self.stop.as_raw_fd()
    }

    /// See [`Trace`].
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}
