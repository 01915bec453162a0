//! The words through which producers, flushers, fork hooks and the sender speak.
//!
//! Invariants:
//! - The sender's state is absent → starting → running ⇄ asleep, running → absent. Only the winner of
//!   absent → starting starts a thread, only the sender leaves running, and anybody may wake it.
//! - No event is left behind: before the sender sleeps or ends it first publishes that (attention words,
//!   state, full barrier) and then looks at the log again; a producer commits, passes a full barrier and then
//!   looks at the attention words. One of the two sees the other.
//! - All of it is in the wiped page: in a forked child the sender is absent and nobody waits.
//!
//! Modelled with loom in `tests/loom.rs`.

use crate::platform::futex;
use crate::platform::sync::{AtomicU32, AtomicU64, Ordering, Site, full_fence};
use crate::queue::log::Log;
use crate::queue::record::Position;
use std::time::Duration;

/// No sender, and none being started.
pub const ABSENT: u32 = 0;
/// Somebody is starting one.
pub const STARTING: u32 = 1;
/// It works; it will look at the log before it sleeps.
pub const RUNNING: u32 = 2;
/// It sleeps on the state word.
pub const ASLEEP: u32 = 3;

/// A fork is about to happen: end as soon as the queue is empty.
pub const WISH_END: u32 = 1;
/// The client is shut: end now, whatever is left.
pub const WISH_STOP: u32 = 2;

crate::blank_struct! {
/// See the module's text.
pub struct Words {
    /// The sender's state; futex of its sleep.
    pub state: AtomicU32,
    /// What others wish of the sender.
    pub wish: AtomicU32,
    /// Kernel id of the sender's thread, kept after its end until the next one has seen it gone.
    pub tid: AtomicU32,
    /// Kernel id of the thread that consumes the log, 0 for none.
    pub consumer: AtomicU32,
    /// Bumped whenever the head moves or the sender's state matters to a waiter; futex of flushers.
    pub progress: AtomicU32,
    /// How many wait on `progress`.
    pub waiters: AtomicU32,
    /// 1: the last attempt found nobody listening.
    pub down: AtomicU32,
    /// 1: a start was wanted while the gate was closed.
    pub wanted: AtomicU32,
    /// Counts flush calls: a new one is worth an attempt before a back-off has run out.
    pub flushes: AtomicU32,
    /// Counts attempts that failed below the answer.
    pub failures: AtomicU32,
    /// Counts those who wait until what others left in the spool is delivered.
    pub rescue_asked: AtomicU32,
    /// Up to which of them that has been done.
    pub rescue_done: AtomicU32,
    /// 1: this process was made by a raw clone, where starting a thread may hang.
    pub raw: AtomicU32,
    /// When the current request began (`clock::monotonic_ms`); 0 when there is none.
    pub busy_since: AtomicU64,
    /// Everything before this is to be sent without waiting for company.
    pub flush_to: AtomicU64,
    /// No sender is started before this (`clock::monotonic_ms`): the last start failed.
    pub start_after: AtomicU64,
}
}

#[cfg(loom)]
impl Words {
    /// Blank words.
    pub fn new() -> Self {
        let (a, b) = (|| AtomicU32::new(0), || AtomicU64::new(0));
        Words {
            state: a(),
            wish: a(),
            tid: a(),
            consumer: a(),
            progress: a(),
            waiters: a(),
            down: a(),
            wanted: a(),
            flushes: a(),
            failures: a(),
            rescue_asked: a(),
            rescue_done: a(),
            raw: a(),
            busy_since: b(),
            flush_to: b(),
            start_after: b(),
        }
    }
}

impl Words {
    /// Begin a generation: no sender, no wishes.
    pub fn reset(&self) {
        for w in [
            &self.state,
            &self.wish,
            &self.tid,
            &self.consumer,
            &self.progress,
            &self.waiters,
            &self.down,
            &self.wanted,
            &self.flushes,
            &self.failures,
            &self.rescue_asked,
            &self.rescue_done,
            &self.raw,
        ] {
            w.store(0, Ordering::Relaxed);
        }
        for w in [&self.busy_since, &self.flush_to, &self.start_after] {
            w.store(0, Ordering::Relaxed);
        }
    }

    /// Try to be the one that starts the sender.
    pub fn claim_start(&self) -> bool {
        self.state.compare_exchange(ABSENT, STARTING, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// The claimed start came to nothing.
    pub fn give_start_back(&self) {
        self.state.store(ABSENT, Ordering::SeqCst);
        self.tell();
    }

    /// A sender ends without having looked whether something came: producers see to the next one.
    pub fn step_down(&self, log: &Log<'_>) {
        log.set_attention(0, 0);
        self.give_start_back();
    }

    /// The sender's first word.
    pub fn begin(&self) {
        self.state.store(RUNNING, Ordering::SeqCst);
    }

    /// Wake the sender if it sleeps.
    pub fn wake(&self) {
        if self.state.compare_exchange(ASLEEP, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            futex::wake_all(&self.state);
        }
    }

    /// The sender sleeps for at most `bound`, unless `work` finds something once the sleep is published.
    /// Producers whose event is number `count`, or lies at or behind `at`, will wake it.
    pub fn sleep(
        &self,
        log: &Log<'_>,
        (count, at): (u64, Position),
        bound: Duration,
        work: impl FnOnce() -> bool,
    ) {
        self.state.store(ASLEEP, Ordering::SeqCst);
        log.set_attention(count, at);
        if !work() {
            futex::wait(&self.state, ASLEEP, bound);
        }
        self.state.store(RUNNING, Ordering::SeqCst);
        log.set_attention(u64::MAX, Position::MAX);
    }

    /// The sender ends, having read the log up to `read`. `false`: something came and it must go on.
    pub fn resign(&self, log: &Log<'_>, read: Position) -> bool {
        log.set_attention(0, 0);
        self.state.store(ABSENT, Ordering::SeqCst);
        full_fence(Site::ResignFence);
        if log.tail() != read && self.claim_start() {
            self.begin();
            log.set_attention(u64::MAX, Position::MAX);
            return false;
        }
        true
    }

    /// Something that a waiter may wait for has happened.
    pub fn tell(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) != 0 {
            futex::wake_all(&self.progress);
        }
    }

    /// Wait for [`Words::tell`] at most for `bound`, unless `done` already. May return early.
    pub fn wait(&self, bound: Duration, done: impl FnOnce() -> bool) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let seen = self.progress.load(Ordering::SeqCst);
        if !done() {
            futex::wait(&self.progress, seen, bound);
        }
        self.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    /// Ask that what others left in the spool be looked for and delivered; give the answer to
    /// [`Words::is_rescued`].
    pub fn ask_rescue(&self) -> u32 {
        self.rescue_asked.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Whether that was done since it was asked.
    pub fn is_rescued(&self, asked: u32) -> bool {
        self.rescue_done.load(Ordering::SeqCst).wrapping_sub(asked) as i32 >= 0
    }

    /// Try to become the consumer.
    pub fn claim_consumer(&self, tid: u32) -> bool {
        self.consumer.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The consumer steps back.
    pub fn leave_consumer(&self) {
        self.consumer.store(0, Ordering::Release);
        self.tell();
    }
}
