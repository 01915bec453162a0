//! What the consumer does beside delivering: looking after the spool.
//!
//! Invariants:
//! - Each chore is bounded and has its own time; none is done without a spool.
//! - The directory is searched when the engine is made, when a flush asks for it, and then at jittered intervals: a
//!   sibling's death is noticed within 15 s, also when a request that hangs for `timeout_ms` (10 s) comes between.
//! - Chores are done between requests, never during one.

use super::counters::add;
use super::engine::{Desk, Engine};
use crate::format::Fate;
use crate::platform::entropy;
use crate::platform::log::{Level, Reason, say};
use crate::queue::log::Seen;
use crate::queue::record::{Position, position, split};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The shortest time between two searches, and what chance adds.
const SWEEP_MS: (u64, u64) = (3000, 2000);
const LOOK_AFTER: Duration = Duration::from_secs(1);
const SYNC: Duration = Duration::from_secs(1);
/// With eviction, one part in so many of the room is kept free: nobody evicts during a request.
const EVICT_PART: u32 = 16;

/// When what is due.
pub struct Chores {
    sweep: Instant,
    look_after: Instant,
    sync: Instant,
    /// The tail at the last sync, and before where everything is committed and on the disk.
    synced: (Position, Position),
    /// The wish that the last search serves.
    serving: u32,
    /// What others left was searched for, and not all of it is delivered yet.
    searching: bool,
}

impl Chores {
    /// All at once.
    pub fn new() -> Chores {
        let now = Instant::now();
        Chores { sweep: now, look_after: now, sync: now, synced: (0, 0), serving: 0, searching: false }
    }

    /// What the last search found is delivered.
    pub fn rescued(&mut self, desk: &Desk<'_>) {
        if std::mem::take(&mut self.searching) {
            let words = desk.words;
            desk.backing.spool().inspect(|store| store.set_orphans(&desk.log, 0));
            words.rescue_done.store(self.serving, Ordering::SeqCst);
            words.tell();
        }
    }
}

impl Default for Chores {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// When the next chore is due; `None` without a spool.
    pub fn next_chore(&self) -> Option<Instant> {
        let c = &self.chores;
        self.orphans.is_some().then(|| {
            let soon = c.sweep.min(c.look_after);
            if self.settings.spool.sync { soon.min(c.sync) } else { soon }
        })
    }

    /// Do what is due.
    pub(super) fn do_chores(&mut self, desk: &Desk<'_>, now: Instant) {
        let Some(store) = desk.backing.spool() else { return };
        let asked = desk.words.rescue_asked.load(Ordering::SeqCst);
        if now >= self.chores.sweep || asked != self.chores.serving {
            self.chores.serving = asked;
            self.chores.searching = true;
            if let Some(media) = &mut self.media {
                media.look_again();
            }
            let jitter = entropy::random_u64() % SWEEP_MS.1;
            self.chores.sweep = now + Duration::from_millis(SWEEP_MS.0 + jitter);
            let age = self.settings.spool.max_age;
            match self.orphans.as_mut().map(|orphans| orphans.sweep(age)) {
                Some(Ok(bytes)) => store.set_orphans(&desk.log, bytes),
                Some(Err(why)) => {
                    let dir = store.spec.dir.path().display();
                    let text = format!("what others left in the spool {dir} cannot be looked for: {why}");
                    say(Level::Warn, Reason::Spool, &text);
                }
                None => {}
            }
        }
        if now >= self.chores.look_after {
            self.chores.look_after = now + LOOK_AFTER;
            store.look_after(&desk.log);
            if let Some(orphans) = &mut self.orphans {
                orphans.look_after();
            }
        }
        if self.settings.spool.sync && now >= self.chores.sync {
            self.sync(desk);
        }
        if self.settings.spool.evict {
            let (used, of) = (desk.log.used().0, store.room(&desk.log));
            let target = of - (of / EVICT_PART).max(1).min(of - 1);
            for _ in target..used {
                self.evict_oldest(desk);
            }
        }
    }

    /// Bring the spool to the disk.
    pub(super) fn sync(&mut self, desk: &Desk<'_>) {
        let Some(store) = desk.backing.spool() else { return };
        self.chores.sync = Instant::now() + SYNC;
        let now = (desk.log.tail(), self.own.batch.read);
        let (tail, whole) = self.chores.synced;
        if now.0 == tail && whole == tail {
            return;
        }
        match store.sync(&desk.log, whole) {
            // What is reserved and not committed yet is synced again.
            Ok(()) => self.chores.synced = now,
            Err(why) => {
                let dir = store.spec.dir.path().display();
                say(Level::Warn, Reason::Spool, &format!("the spool {dir} cannot be synced: {why}"));
            }
        }
    }

    /// Give up the events of the oldest segment.
    fn evict_oldest(&mut self, desk: &Desk<'_>) {
        let number = split(desk.log.head()).0;
        let end = position(number.wrapping_add(1), 0);
        if end > desk.log.tail() {
            return;
        }
        let mut gone = 0;
        for i in 0..self.own.batch.len() {
            let item = self.own.batch.item(i);
            if item.at < end && item.fate.is_none() {
                self.own.batch.decide(i, Fate::Rejected);
                gone += 1;
            }
        }
        while let Some(to) = self.skip_unread(desk, end, &mut gone) {
            self.own.batch.read = to;
        }
        add(&desk.counters.evicted, gone);
        add(&desk.counters.expired, gone);
        if gone > 0 {
            say(
                Level::Warn,
                Reason::Expired,
                "the spool is full; its oldest events were given up (spool_evict)",
            );
        }
        self.settle_own(desk);
    }

    /// Step over a record before `end` that no batch has read. Gives where to go on; `None` when there is none.
    fn skip_unread(&mut self, desk: &Desk<'_>, end: Position, gone: &mut usize) -> Option<Position> {
        let from = self.own.batch.read;
        if from >= end {
            return None;
        }
        match desk.log.look(from) {
            Seen::Record { at, next, .. } if at < end => {
                *gone += 1;
                self.seen += 1;
                Some(next)
            }
            Seen::Hole { at } if at < end => {
                let mut rescued = 0;
                let to = desk.log.give_up_on(at, |_, _, _| rescued += 1);
                *gone += rescued;
                self.seen += rescued as u64;
                to
            }
            Seen::Record { at, .. } | Seen::Hole { at } | Seen::Empty { at } => {
                self.own.batch.read = at;
                None
            }
        }
    }
}
