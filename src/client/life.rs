//! Flushing, shutting, freeing, counting, and what the fork hooks and the exit ask of a client.
//!
//! Invariants:
//! - Every wait here has a deadline, and every turn of it looks again whether somebody is there to deliver:
//!   no thread that died or was never made can hang a caller.
//! - A process that never used the client has nothing to flush, stop or count.

use super::family::How;
use super::handle::{CLOSED, Client, DEAD, DISABLED, LONG_WAY, Status, UNFINISHED};
use crate::delivery::engine::Desk;
use crate::delivery::sender;
use crate::delivery::words::{ABSENT, ASLEEP, WISH_END, WISH_STOP};
use crate::fork::hooks::{self, BUDGET, ForkAware};
use crate::platform::log::{Level, Reason, say};
use crate::platform::{clock, thread};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a waiter looks around.
const TURN: Duration = Duration::from_millis(20);
/// How long a sender that was told to stop, and whose connection was cut, may take to end.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// The same at exit, where it has nothing to do.
const EXIT_PATIENCE: Duration = Duration::from_millis(50);
/// What a poll may take where no thread can deliver.
const POLL_SLICE: Duration = Duration::from_millis(20);

/// When a drain gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// At its deadline.
    Deadline,
    /// At the first attempt that finds nobody listening too: what is left is safe on the disk.
    Attempt,
}

/// What happened in this process, as `telemetry_stats` gives it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are documented where they are counted and in the header")]
pub struct Snapshot {
    pub accepted: u64,
    pub delivered: u64,
    pub rejected: u64,
    pub invalid: u64,
    pub expired: u64,
    pub dropped_full: u64,
    pub dropped_too_large: u64,
    pub retries: u64,
    pub batches: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub queue_events: u64,
    pub queue_bytes: u64,
    pub recovered: u64,
    pub left_in_spool: u64,
    pub forks: u64,
    pub sender_starts: u64,
    pub circuit_open: u64,
    pub last_success_unix_ms: u64,
    pub unverified: u64,
    pub spool_failures: u64,
    pub corrupt: u64,
    pub evicted: u64,
    pub sampled_out: u64,
    pub uploads: u64,
    pub uploaded: u64,
    pub uploads_failed: u64,
    pub media_bytes: u64,
}

impl Client {
    /// Deliver what was taken before this call, within `timeout`. 0 asks, and sets it going.
    pub fn flush(&self, timeout: Duration) -> Status {
        let flags = self.flags.load(Ordering::SeqCst);
        if flags & DEAD != 0 {
            return Status::Internal;
        }
        if flags & (CLOSED | DISABLED) != 0 {
            return Status::Ok;
        }
        // With a spool the first flush of a process looks for what others left, whatever it has itself.
        let generation = if self.spool.is_some() { self.enter() } else { self.generation() };
        let patience = Patience::Deadline;
        let Some(generation) = generation else { return Status::Ok };
        let status = self.drain(generation, timeout, patience, true);
        self.publish(generation, if timeout.is_zero() { How::Write } else { How::Flush });
        status
    }

    /// Deliver what was taken before this call, and with `rescue` what others left in the spool.
    fn drain(&self, generation: u64, timeout: Duration, patience: Patience, rescue: bool) -> Status {
        let deadline = Instant::now() + timeout;
        let (log, words) = (self.log(generation), self.words());
        let target = log.tail();
        let adopts = self.spool.is_some() && words.raw.load(Ordering::Relaxed) == 0;
        let asked = (rescue && adopts && !timeout.is_zero()).then(|| words.ask_rescue());
        let media = &self.control().media;
        let uploads = media.goal();
        let done = || {
            log.head() >= target
                && media.is_reached(uploads)
                && asked.is_none_or(|asked| words.is_rescued(asked))
        };
        if done() {
            return Status::Ok;
        }
        let failures = words.failures.load(Ordering::SeqCst);
        words.flush_to.fetch_max(target, Ordering::SeqCst);
        if !timeout.is_zero() {
            // A caller who waits is worth an attempt before its time; one who only asks is not.
            words.flushes.fetch_add(1, Ordering::SeqCst);
        }
        loop {
            self.set_going(generation, &done, deadline, timeout.is_zero());
            if done() {
                return Status::Ok;
            }
            if self.flags.load(Ordering::SeqCst) & DEAD != 0 {
                return Status::Internal;
            }
            let now = Instant::now();
            let hopeless = patience == Patience::Attempt
                && words.failures.load(Ordering::SeqCst) != failures
                && words.down.load(Ordering::SeqCst) != 0;
            if now >= deadline || hopeless {
                return Status::Timeout;
            }
            words.wait((deadline - now).min(TURN), done);
        }
    }

    /// See that somebody delivers: wake the sender, start it, or do it here.
    fn set_going(&self, generation: u64, done: &dyn Fn() -> bool, deadline: Instant, poll: bool) {
        let words = self.words();
        match words.state.load(Ordering::SeqCst) {
            ASLEEP => return words.wake(),
            ABSENT => {}
            _ => return,
        }
        let threads = words.raw.load(Ordering::Relaxed) == 0;
        if threads && self.start_sender() {
            return;
        }
        let deadline = if poll { Instant::now() + POLL_SLICE } else { deadline };
        let desk = self.desk(generation);
        if sender::become_consumer(words, deadline) {
            if let Some(mut engine) = self.borrow_engine(&desk) {
                sender::deliver_here(&mut engine, &desk, done, deadline);
                self.control().engine.put(engine);
            }
            words.leave_consumer();
        }
        if threads && self.has_pending() {
            // What came meanwhile is not left behind, if a thread can be had by now.
            self.start_sender();
        }
    }

    /// Take nothing more, deliver what was taken within `timeout`, end the thread. Idempotent.
    pub fn shutdown(&self, timeout: Duration) -> Status {
        let flags = self.flags.fetch_or(CLOSED, Ordering::SeqCst);
        if flags & DEAD != 0 {
            return Status::Internal;
        }
        if flags & UNFINISHED != 0 {
            self.finish(true);
        }
        if flags & (CLOSED | DISABLED) != 0 {
            return Status::Ok;
        }
        let Some(generation) = self.generation() else { return Status::Ok };
        let status = self.drain(generation, timeout, self.patience(), true);
        self.finish(status != Status::Ok);
        self.report_loss("at shutdown");
        self.publish(generation, How::Last);
        status
    }

    /// End the sender, and give back what only its consumer may.
    fn finish(&self, cut: bool) {
        if self.generation().is_none() {
            return;
        }
        let done = self.stop_sender(cut, STOP_PATIENCE, |desk| {
            drop(desk.media.take_all());
            self.retire(desk, true);
        });
        if done {
            self.flags.fetch_and(!UNFINISHED, Ordering::SeqCst);
        } else {
            self.flags.fetch_or(UNFINISHED, Ordering::SeqCst);
        }
    }

    /// With a spool nobody waits at exit for a collector that is not there.
    fn patience(&self) -> Patience {
        if self.spool.is_some() { Patience::Attempt } else { Patience::Deadline }
    }

    /// Take nothing more into the spool; remove its files if all is settled. Else count what is left, and with
    /// `leave` give it to whoever comes. Only for the consumer.
    fn retire(&self, desk: &Desk<'_>, leave: bool) {
        if let Some(store) = desk.backing.spool()
            && !store.retire(&desk.log, leave)
        {
            let left = store.left(&desk.log);
            self.control().counters.left_in_spool.store(left, Ordering::Release);
        }
        if let Some(spec) = self.spool.as_ref().filter(|_| leave && desk.media.in_files() > 0) {
            // Those that keep their names are taken when this process has ended.
            let _ = spec.shelf(desk.log.nonce).leave();
        }
    }

    /// What nobody will deliver any more is not lost in silence.
    fn report_loss(&self, when: &str) {
        let stats = self.stats();
        let name = &self.settings.name;
        let media = &self.control().media;
        if stats.left_in_spool > 0 || media.in_files() > 0 {
            let what = in_words(stats.left_in_spool, media.in_files());
            let text = format!(
                "{when}, {what} for {name} are left in the spool; whoever uses it next delivers them"
            );
            say(Level::Warn, Reason::Spool, &text);
        }
        let lost = stats.queue_events.saturating_sub(stats.left_in_spool);
        if lost > 0 || media.in_memory() > 0 {
            let what = in_words(lost, media.in_memory());
            say(Level::Error, Reason::Lost, &format!("{when}, {what} for {name} were not delivered"));
        }
    }

    /// End the sender, cutting its connection if it may be inside a request, drop the engine, and then, as the
    /// consumer, do what remains to be done. `false`: it did not end in time, and nothing of that was done.
    fn stop_sender(&self, cut: bool, patience: Duration, finally: impl FnOnce(&Desk<'_>)) -> bool {
        let words = self.words();
        let deadline = Instant::now() + patience;
        words.wish.fetch_or(WISH_STOP, Ordering::SeqCst);
        loop {
            words.wake();
            if cut {
                self.sockets.cut();
            }
            if words.state.load(Ordering::SeqCst) == ABSENT || Instant::now() >= deadline {
                break;
            }
            words.wait(Duration::from_millis(5), || words.state.load(Ordering::SeqCst) == ABSENT);
        }
        if words.state.load(Ordering::SeqCst) == ABSENT {
            thread::wait_gone(words.tid.load(Ordering::SeqCst), deadline);
            if sender::become_consumer(words, Instant::now()) {
                if let Some(generation) = self.generation() {
                    let desk = self.desk(generation);
                    if let Some(engine) = self.control().engine.take() {
                        engine.close(&desk);
                    }
                    finally(&desk);
                }
                words.leave_consumer();
                return true;
            }
        }
        false
    }

    /// Shut it if it is not, and give everything back. Other processes' copies are not touched.
    pub fn free(self: Arc<Self>) {
        let raw = self.is_raw();
        let down = self.generation().is_some() && self.words().down.load(Ordering::SeqCst) != 0;
        self.shutdown(if down { Duration::ZERO } else { self.exit_timeout });
        if raw {
            // The heap may be locked for ever here: leave it, and the registration on it, alone.
            std::mem::forget(self);
        } else if let Some(registration) = self.registration.get() {
            hooks::unregister(registration);
        }
    }

    /// What happened in this process. `accepted + recovered = delivered + rejected + invalid + expired +
    /// queue_events` in every snapshot.
    pub fn stats(&self) -> Snapshot {
        let Some(generation) = self.generation() else { return Snapshot::default() };
        let (log, c) = (self.log(generation), &self.control().counters);
        let get = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Acquire);
        // What has left the queue is read before what entered it: so the difference is never negative.
        let (delivered, rejected) = (get(&c.delivered), get(&c.rejected));
        let (invalid, expired) = (get(&c.invalid), get(&c.expired));
        let settled = delivered + rejected + invalid + expired;
        let recovered = get(&c.recovered);
        let accepted = log.accepted().max(settled.saturating_sub(recovered));
        let queue_events = accepted + recovered - settled;
        Snapshot {
            accepted,
            delivered,
            rejected,
            invalid,
            expired,
            dropped_full: get(&c.dropped_full),
            dropped_too_large: get(&c.dropped_too_large),
            retries: get(&c.retries),
            batches: get(&c.batches),
            bytes_in: get(&c.bytes_in),
            bytes_out: get(&c.bytes_out),
            queue_events,
            queue_bytes: if queue_events == 0 { 0 } else { log.bytes() },
            recovered,
            left_in_spool: get(&c.left_in_spool),
            forks: get(&c.forks),
            sender_starts: get(&c.sender_starts),
            circuit_open: get(&c.circuit_open),
            last_success_unix_ms: get(&c.last_success_unix_ms),
            unverified: get(&c.unverified),
            spool_failures: self.control().store.failures.load(Ordering::Acquire),
            corrupt: get(&c.corrupt),
            evicted: get(&c.evicted),
            sampled_out: get(&c.sampled_out),
            uploads: get(&c.uploads),
            uploaded: get(&c.uploaded),
            uploads_failed: get(&c.uploads_failed),
            media_bytes: get(&self.control().media.bytes),
        }
    }

    /// The process exits: remove the spool's files if all is delivered (from then on the client is shut, so that
    /// nothing is taken that nobody would find), else leave them, with whatever is enqueued yet.
    fn leave_spool(&self, deadline: Instant) {
        // Nobody starts a sender any more.
        self.words().start_after.store(u64::MAX, Ordering::Relaxed);
        let left = &self.control().counters.left_in_spool;
        // Unless the count below replaces it: a sender that does not stop in time may still deliver some.
        left.store(self.stats().queue_events, Ordering::Release);
        // An answer that is awaited to what others left: without it somebody would send that again.
        let rest = if self.is_asking() {
            deadline.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        self.stop_sender(self.has_pending(), rest.max(EXIT_PATIENCE), |desk| {
            left.store(0, Ordering::Release);
            self.retire(desk, false);
            if desk.log.head() >= desk.log.tail() {
                self.flags.fetch_or(CLOSED, Ordering::SeqCst);
            }
        });
    }

    /// A request is under way.
    fn is_asking(&self) -> bool {
        self.generation().is_some() && self.words().busy_since.load(Ordering::SeqCst) != 0
    }

    fn has_pending(&self) -> bool {
        self.generation().is_some_and(|generation| {
            let (log, media) = (self.log(generation), &self.control().media);
            log.head() < log.tail() || media.in_memory() > 0 || media.in_files() > 0
        })
    }
}

/// So many events and uploads.
fn in_words(events: u64, uploads: u64) -> String {
    match (events, uploads) {
        (_, 0) => format!("{events} event(s)"),
        (0, _) => format!("{uploads} upload(s)"),
        _ => format!("{events} event(s) and {uploads} upload(s)"),
    }
}

impl ForkAware for Client {
    fn prepare(&self, ask: bool, deadline: Instant) {
        if self.generation().is_none() {
            return;
        }
        let words = self.words();
        if ask {
            if words.state.load(Ordering::SeqCst) != ABSENT {
                words.wish.fetch_or(WISH_END, Ordering::SeqCst);
                words.wake();
            }
            return;
        }
        let settled = || {
            let busy = words.busy_since.load(Ordering::SeqCst);
            let stalled = busy != 0 && clock::monotonic_ms().saturating_sub(busy) > BUDGET.as_millis() as u64;
            words.state.load(Ordering::SeqCst) == ABSENT
                || words.wish.load(Ordering::SeqCst) & WISH_END == 0
                || stalled
        };
        while !settled() {
            let now = Instant::now();
            if now >= deadline {
                return;
            }
            words.wait(deadline - now, settled);
        }
        if words.state.load(Ordering::SeqCst) == ABSENT {
            thread::wait_gone(words.tid.load(Ordering::SeqCst), deadline);
        }
    }

    fn parent(&self) {
        if self.generation().is_none() {
            return;
        }
        let words = self.words();
        crate::delivery::counters::add(&self.control().counters.forks, 1);
        words.wish.fetch_and(!WISH_END, Ordering::SeqCst);
        let wanted = words.wanted.swap(0, Ordering::SeqCst) != 0;
        let closed = self.flags.load(Ordering::SeqCst) & (CLOSED | DEAD | DISABLED) != 0;
        if !closed && words.state.load(Ordering::SeqCst) == ABSENT && (wanted || self.has_pending()) {
            self.start_sender();
        }
    }

    fn child(&self) {
        self.leave_inherited();
        if !self.page.is_wiped() {
            self.control().state.wipe_by_hand();
        }
        self.control().hooked.store(1, Ordering::Relaxed);
    }

    fn exit(&self, ask: bool, deadline: Instant) {
        let Some(generation) = self.generation() else { return };
        let worth_it = !self.exit_budget().is_zero();
        if ask && worth_it {
            let log = self.log(generation);
            self.words().flush_to.fetch_max(log.tail(), Ordering::SeqCst);
            self.words().wake();
        }
        if ask {
            return;
        }
        if worth_it {
            let left = deadline.saturating_duration_since(Instant::now());
            self.drain(generation, left, self.patience(), false);
        }
        if self.flags.load(Ordering::SeqCst) & !LONG_WAY != 0 {
            return;
        }
        if self.spool.is_some() {
            self.leave_spool(deadline);
        }
        if self.has_pending() {
            self.report_loss("at exit");
        }
        self.publish(generation, How::Last);
    }

    fn exit_budget(&self) -> Duration {
        let flags = self.flags.load(Ordering::SeqCst);
        let idle = flags & (CLOSED | DEAD | DISABLED) != 0 || !(self.has_pending() || self.is_asking());
        if idle || self.words().down.load(Ordering::SeqCst) != 0 { Duration::ZERO } else { self.exit_timeout }
    }
}
