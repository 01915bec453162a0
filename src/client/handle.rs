//! The client itself, and an event's first steps.
//!
//! Invariants:
//! - `enqueue` on its common path: one load of the flags, one acquire load of the state word, the clock, the
//!   append. No system call, no allocation, no lock, no wait.
//! - A state word that is not this process's generation sends the caller through [`Client::enter`], where
//!   exactly one thread builds this process's world.

use super::control::Control;
use super::family::{How, Kin};
use super::worker;
use crate::delivery::engine::{Desk, Engine, Settings};
use crate::delivery::media::Media;
use crate::delivery::words::{ABSENT, ASLEEP, WISH_STOP, Words};
use crate::delivery::{counters, sender};
use crate::fork::gate;
use crate::fork::hooks::Registration;
use crate::fork::world::{Claim, StateWord};
use crate::format::Format;
use crate::platform::identity::Identity;
use crate::platform::log::{Level, Reason, say};
use crate::platform::mmap::{Latest, Mapping};
use crate::platform::page::WipedPage;
use crate::platform::sockets::SocketTable;
use crate::platform::{clock, entropy, island, process, thread};
use crate::queue::backing::Backing;
use crate::queue::log::{Appended, Log, Refused};
use crate::queue::memory;
use crate::queue::segment::Slot;
use crate::queue::spool::orphans::Orphans;
use crate::queue::spool::store::{Spec, Store};
use crate::sink::{self, SinkConfig};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What a call came to; the numbers are the C API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done, or taken.
    Ok = 0,
    /// The queue is full; the event was not taken.
    Full = 1,
    /// The event is larger than `max_event_bytes`.
    TooLarge = 2,
    /// The client is shut.
    Closed = 3,
    /// The deadline came first.
    Timeout = 4,
    /// A bad argument or configuration.
    Invalid = 5,
    /// The operating system refused something.
    Io = 6,
    /// A defect of ours; the client is dead.
    Internal = 7,
}

/// `shutdown` was called.
pub const CLOSED: u32 = 1;
/// A panic was caught.
pub const DEAD: u32 = 2;
/// Configured to do nothing.
pub const DISABLED: u32 = 4;
/// Test switch: the next `enqueue` panics.
pub const PANIC_IN_ENQUEUE: u32 = 8;
/// Not every event is kept: [`crate::delivery::rules::sample`] decides, off the common path.
pub const SAMPLED: u32 = 16;
/// `shutdown` could not finish in its time: [`Client::free`] and the next one try again.
pub const UNFINISHED: u32 = 32;
/// The flags that only send an event the long way.
pub const LONG_WAY: u32 = PANIC_IN_ENQUEUE | SAMPLED;

/// How far an event came on the hot path.
pub enum Fast<'a> {
    /// Taken.
    Taken,
    /// Taken, and somebody should look after it: [`Client::enqueue_attended`].
    Attend(u64, Appended<'a>),
    /// Not taken: [`Client::enqueue`].
    Slow,
}

/// How long a caller waits for another thread that builds this process's world.
const BUILD_PATIENCE: Duration = Duration::from_millis(100);
/// How long a caller waits for the oldest events to go.
const EVICTION_PATIENCE: Duration = Duration::from_millis(5);
/// How long after a failed thread start the next is tried.
const START_PAUSE_MS: u64 = 1000;

/// See the module's text.
pub struct Client {
    pub(super) page: WipedPage<Control, Slot>,
    pub(super) segment_len: u32,
    pub(super) segments: u32,
    pub(super) max_event: usize,
    /// Bytes of uploads that may wait.
    pub(super) media_room: usize,
    pub(super) coarse: bool,
    pub(super) block: Option<Duration>,
    /// [`CLOSED`], [`DEAD`], [`DISABLED`], [`LONG_WAY`]: outside the wiped page, so that children inherit it.
    pub(super) flags: AtomicU32,
    /// The opener's world was built: a blank page from now on is a child's.
    pub(super) opened: AtomicBool,
    pub(super) area: Latest,
    pub(super) sockets: Arc<SocketTable>,
    /// Where segments are files, if they are.
    pub(super) spool: Option<Spec>,
    /// The processes with the same destination.
    pub(super) kin: Kin,
    pub(super) settings: Arc<Settings>,
    pub(super) format: Arc<dyn Format>,
    pub(super) sink: SinkConfig,
    pub(super) exit_timeout: Duration,
    pub(super) registration: OnceLock<Registration>,
    pub(super) me: Weak<Client>,
}

impl Client {
    // ---- the hot path ----

    /// Take an event if that needs nothing but an append. Neither panics nor owns anything, so that a thread
    /// cancelled in the middle, or a signal handler that jumps out of it, may unwind through it.
    #[inline(always)]
    pub fn enqueue_fast(&self, event: &[u8]) -> Fast<'_> {
        let ready =
            self.flags.load(Ordering::Relaxed) == 0 && !event.is_empty() && event.len() <= self.max_event;
        let Some(nonce) = self.control().state.fast().filter(|_| ready) else { return Fast::Slow };
        match self.append(nonce, event) {
            Ok(done) if !done.attention => Fast::Taken,
            Ok(done) => Fast::Attend(nonce, done),
            Err(_) => Fast::Slow,
        }
    }

    #[inline(always)]
    fn append(&self, nonce: u64, event: &[u8]) -> Result<Appended<'_>, Refused> {
        let now = if self.coarse { clock::wall_coarse_ns() } else { clock::wall_precise_ns() };
        self.log(nonce).append(worker::number(), now, event, || self.control().state.is(nonce))
    }

    /// What [`Client::enqueue_fast`] left to do for an event that was taken with attention.
    #[cold]
    pub fn enqueue_attended(&self, nonce: u64, done: Appended<'_>, event: &[u8]) -> Status {
        if self.attend(&self.log(nonce), done, event.len()) {
            return self.enqueue(event);
        }
        Status::Ok
    }

    /// Take an event, whatever that needs.
    #[cold]
    pub fn enqueue(&self, event: &[u8]) -> Status {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & !LONG_WAY != 0 || event.is_empty() || event.len() > self.max_event {
            return self.refuse(event, flags);
        }
        if flags & PANIC_IN_ENQUEUE != 0 {
            forced_panic();
        }
        if self.settings.rules.sample.as_ref().is_some_and(|sample| !sample.keep(event)) {
            if self.enter().is_some() {
                counters::add(&self.control().counters.sampled_out, 1);
            }
            return Status::Ok;
        }
        let mut blocked = None;
        loop {
            let Some(nonce) = self.enter() else { return self.count_full() };
            match self.append(nonce, event) {
                Ok(done) if !done.attention => return Status::Ok,
                Ok(done) => {
                    if !self.attend(&self.log(nonce), done, event.len()) {
                        return Status::Ok;
                    }
                }
                Err(Refused::Torn) => {}
                Err(Refused::Full) => {
                    if self.flags.load(Ordering::Relaxed) & CLOSED != 0 {
                        return Status::Closed;
                    }
                    if self.supply(nonce) {
                        continue;
                    }
                    if self.wait_for_eviction(&self.log(nonce)) {
                        continue;
                    }
                    if !self.may_wait(&self.log(nonce), &mut blocked) {
                        return self.count_full();
                    }
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn control(&self) -> &Control {
        self.page.head()
    }

    #[inline(always)]
    pub(super) fn log(&self, nonce: u64) -> Log<'_> {
        Log {
            cursors: &self.control().cursors,
            slots: self.page.tail(),
            segments: self.segments,
            segment_len: self.segment_len,
            nonce,
            checked: self.spool.is_some(),
        }
    }

    pub(super) fn words(&self) -> &Words {
        &self.control().words
    }

    pub(super) fn desk(&self, generation: u64) -> Desk<'_> {
        let (log, backing, control) = (self.log(generation), self.backing(), self.control());
        Desk { log, backing, words: self.words(), counters: &control.counters, media: &control.media }
    }

    fn backing(&self) -> Backing<'_> {
        self.store().map_or(Backing::Memory, Backing::Spool)
    }

    /// The spool, as this process sees it.
    pub(super) fn store(&self) -> Option<Store<'_>> {
        let words = &self.control().store;
        self.spool.as_ref().map(|spec| Store { spec, words, area: self.area.addr() })
    }

    #[cold]
    fn refuse(&self, event: &[u8], flags: u32) -> Status {
        if flags & DEAD != 0 {
            return Status::Internal;
        }
        if event.is_empty() {
            return Status::Invalid;
        }
        if flags & DISABLED != 0 {
            return Status::Ok;
        }
        if flags & CLOSED != 0 {
            return Status::Closed;
        }
        self.count_too_large()
    }

    /// An event that is longer than `max_event_bytes`, whatever it is.
    #[cold]
    pub fn count_too_large(&self) -> Status {
        if self.enter().is_some() {
            counters::add(&self.control().counters.dropped_too_large, 1);
        }
        Status::TooLarge
    }

    #[cold]
    fn count_full(&self) -> Status {
        counters::add(&self.control().counters.dropped_full, 1);
        say(Level::Warn, Reason::Full, "the queue is full; events are refused and counted (dropped_full)");
        Status::Full
    }

    /// The segment in use is full and the next one is not there: make it, if this client's segments are made
    /// as they are needed.
    fn supply(&self, nonce: u64) -> bool {
        self.store().is_some_and(|store| store.supply_next(&self.log(nonce)))
    }

    /// The spool is full and the oldest events may go: have the sender see to that, which takes it a moment unless
    /// it is inside a request. `true`: there is room.
    #[cold]
    fn wait_for_eviction(&self, log: &Log<'_>) -> bool {
        let words = self.words();
        if !self.settings.spool.evict || words.busy_since.load(Ordering::SeqCst) != 0 {
            return false;
        }
        let head = log.head();
        let deadline = Instant::now() + EVICTION_PATIENCE;
        while log.head() == head && Instant::now() < deadline {
            match words.state.load(Ordering::SeqCst) {
                ABSENT if self.must_not_start(log) || !self.start_sender() => return false,
                ASLEEP => words.wake(),
                _ => {}
            }
            clock::nap(Duration::from_micros(50));
        }
        log.head() != head
    }

    /// The queue is full: have it emptied, and wait a little if the caller asked for that.
    #[cold]
    fn may_wait(&self, log: &Log<'_>, since: &mut Option<Instant>) -> bool {
        let words = self.words();
        match words.state.load(Ordering::SeqCst) {
            ABSENT if !self.must_not_start(log) => {
                self.start_sender();
            }
            ASLEEP if log.wants_any_wake() => words.wake(),
            _ => {}
        }
        let Some(limit) = self.block else { return false };
        let now = Instant::now();
        if now.duration_since(*since.get_or_insert(now)) >= limit {
            return false;
        }
        clock::nap(Duration::from_micros(500));
        self.flags.load(Ordering::Relaxed) & !LONG_WAY == 0
    }

    /// An event was taken and somebody should look after it. `true`: the consumer had given up on its record,
    /// which was taken back; append it anew.
    #[cold]
    fn attend(&self, log: &Log<'_>, done: Appended<'_>, len: usize) -> bool {
        if log.withdraw_if_given_up(&done, len) {
            return true;
        }
        let words = self.words();
        match words.state.load(Ordering::SeqCst) {
            ABSENT if !self.must_not_start(log) => {
                self.start_sender();
            }
            ASLEEP if log.wants_wake(done.at) => words.wake(),
            _ => {}
        }
        false
    }

    /// After a raw clone a thread is started only when the queue itself asks for it; with a spool, where nothing
    /// is lost without one, not at all.
    fn must_not_start(&self, log: &Log<'_>) -> bool {
        let (used, of) = log.used();
        self.words().raw.load(Ordering::Relaxed) != 0 && (used * 2 <= of || self.spool.is_some())
    }

    /// An upload was taken and somebody should look after it.
    #[cold]
    pub(super) fn attend_upload(&self) {
        let words = self.words();
        match words.state.load(Ordering::SeqCst) {
            ABSENT if words.raw.load(Ordering::Relaxed) == 0 => {
                self.start_sender();
            }
            ASLEEP => words.wake(),
            _ => {}
        }
    }

    // ---- this process's world ----

    /// This process's generation, if it has used the client.
    pub(super) fn generation(&self) -> Option<u64> {
        let control = self.control();
        let generation = control.state.generation()?;
        if self.page.is_wiped() || control.pid.load(Ordering::Relaxed) == process::pid() {
            return Some(generation);
        }
        control.hooked.store(0, Ordering::Relaxed);
        control.state.wipe_foreign(generation);
        None
    }

    /// Whether this process was made by a raw clone, in which the heap may be locked for ever.
    pub(super) fn is_raw(&self) -> bool {
        match self.generation() {
            Some(_) => self.words().raw.load(Ordering::Relaxed) != 0,
            None => self.opened.load(Ordering::Relaxed) && self.control().hooked.load(Ordering::Relaxed) == 0,
        }
    }

    /// This process's generation, building its world if need be. `None`: no memory, or a builder that does
    /// not finish.
    #[cold]
    pub(super) fn enter(&self) -> Option<u64> {
        let deadline = Instant::now() + BUILD_PATIENCE;
        loop {
            if let Some(generation) = self.generation() {
                return Some(generation);
            }
            match self.control().state.claim() {
                Claim::Mine => return self.build(),
                Claim::Ready(_) => {}
                Claim::Wait if Instant::now() >= deadline => return None,
                Claim::Wait => clock::nap(Duration::from_micros(20)),
            }
        }
    }

    /// Build this process's world: fresh memory, cursors, counters and a generation from the operating
    /// system's entropy. Allocates nothing from the heap: after a raw clone it may be locked for ever.
    fn build(&self) -> Option<u64> {
        let control = self.control();
        let hooked = control.hooked.swap(0, Ordering::Relaxed) != 0;
        let raw = self.opened.swap(true, Ordering::Relaxed) && !hooked;
        if raw {
            island::enter();
        }
        // After a raw clone no hook did this.
        self.leave_inherited();
        control.words.reset();
        control.counters.reset();
        control.media.reset();
        control.family.reset();
        control.engine.abandon();
        control.pid.store(process::pid(), Ordering::Relaxed);
        control.words.raw.store(u32::from(raw), Ordering::Relaxed);
        let generation = StateWord::generation_of(entropy::random_u64(), self.page.is_wiped());
        let (slots, log) = (self.page.tail(), self.log(generation));
        let area = if self.spool.is_some() {
            Mapping::reserved(self.area.len())
        } else {
            memory::fill(slots, self.segment_len, self.page.is_wiped())
        };
        let Ok(area) = area else {
            control.state.abandon();
            return None;
        };
        self.area.keep(area);
        if self.spool.is_some() {
            Store::reset(&control.store);
            slots.iter().for_each(Slot::clear);
            log.start_unsupplied();
        } else {
            log.start();
        }
        control.state.publish(generation);
        Some(generation)
    }

    /// In a child: close the parent's descriptors, and put blank memory over the parent's files. Only loads,
    /// stores and system calls that take no lock.
    pub(super) fn leave_inherited(&self) {
        self.sockets.close_inherited();
        if let Some(spool) = self.spool.as_ref().filter(|_| self.opened.load(Ordering::Relaxed)) {
            spool.table.close_inherited();
            self.area.cover();
        }
    }

    // ---- the sender ----

    /// Start the sender unless there is one. `false`: there is none and none can be made now.
    pub(super) fn start_sender(&self) -> bool {
        let words = self.words();
        for _ in 0..2 {
            if clock::monotonic_ms() < words.start_after.load(Ordering::Relaxed) {
                return words.state.load(Ordering::SeqCst) != ABSENT;
            }
            if !words.claim_start() {
                return true;
            }
            if words.wish.load(Ordering::SeqCst) & WISH_STOP != 0 {
                // Whoever stops the sender does not see one begin behind his back.
                words.give_start_back();
                return false;
            }
            if gate::is_open() {
                return self.spawn();
            }
            words.wanted.store(1, Ordering::SeqCst);
            words.give_start_back();
            if !gate::is_open() {
                // Whoever is inside `fork()` starts it when he comes out.
                return true;
            }
        }
        true
    }

    /// Start the thread; the caller has claimed it.
    fn spawn(&self) -> bool {
        let words = self.words();
        let started = match self.me.upgrade() {
            Some(me) => thread::spawn_detached("telemetry", move || me.sender_main()),
            None => Err(std::io::Error::other("the client is being freed")),
        };
        match started {
            Ok(()) => {
                counters::add(&self.control().counters.sender_starts, 1);
                true
            }
            Err(why) => {
                words.start_after.store(clock::monotonic_ms() + START_PAUSE_MS, Ordering::Relaxed);
                words.give_start_back();
                say(
                    Level::Warn,
                    Reason::Thread,
                    &format!("no thread can be started ({why}); flush delivers"),
                );
                false
            }
        }
    }

    fn sender_main(self: Arc<Self>) {
        let Some(generation) = self.generation() else { return };
        let desk = self.desk(generation);
        let times = (self.settings.idle, self.settings.max_age);
        let lived = catch_unwind(AssertUnwindSafe(|| {
            sender::live(
                &desk,
                times,
                || self.borrow_engine(&desk),
                |engine| self.control().engine.put(engine),
                |may_claim| self.publish(generation, if may_claim { How::Claim } else { How::Write }),
            );
        }));
        if lived.is_err() {
            self.die();
            desk.words.leave_consumer();
            desk.words.step_down(&desk.log);
        }
    }

    /// This process's engine, or a new one. Only for the consumer.
    pub(super) fn borrow_engine(&self, desk: &Desk<'_>) -> Option<Box<Engine>> {
        if let Some(engine) = self.control().engine.take() {
            return Some(engine);
        }
        let open = || sink::open(&self.sink, self.sockets.clone());
        let sinks =
            open().and_then(|sink| Ok((sink, self.settings.media.as_ref().map(|_| open()).transpose()?)));
        match sinks {
            Ok((sink, for_uploads)) => {
                // After a raw clone as little as possible is asked of libc, whose heap may be locked: others adopt.
                let raw = self.words().raw.load(Ordering::Relaxed) != 0;
                let orphans = self
                    .spool
                    .as_ref()
                    .filter(|_| !raw)
                    .map(|spool| Orphans::new(spool.dir.clone(), Identity::mine(), spool.table.clone()));
                let (settings, format) = (self.settings.clone(), self.format.clone());
                let media = settings.media.clone().zip(for_uploads).map(|(to, sink)| {
                    let shelf = self.spool.as_ref().map(|spool| spool.shelf(desk.log.nonce));
                    Media::new(to, sink, shelf, raw, settings.limits)
                });
                Some(Box::new(Engine::new(settings, format, sink, orphans, media, desk)))
            }
            Err(why) => {
                say(Level::Error, Reason::Internal, &why);
                None
            }
        }
    }

    /// A panic was caught: later calls are cheap and do nothing.
    pub fn die(&self) {
        self.flags.fetch_or(DEAD, Ordering::SeqCst);
        say(Level::Error, Reason::Internal, "a defect was caught; this client is dead, the host goes on");
    }
}

#[cold]
#[allow(clippy::panic, reason = "the test switch that proves a panic stays inside")]
fn forced_panic() {
    panic!("TELEMETRY_TEST_PANIC=enqueue");
}
