//! The processes that share a client's destination, seen from each other: this process's row, and everybody's.
//!
//! Invariants:
//! - A family is what has the same `<name>-<hash>` as a spool's directory: name, endpoint, format, credentials. Its board
//!   ([`crate::board::family`]) lies in the runtime directory of the user that the process is when it publishes.
//! - Which row is this process's lies in the wiped page: a child has none, and never writes its parent's. The mapping lies
//!   outside and is inherited; a child uses it only for a row of its own.
//! - No file is touched on the way of an event: the sender claims the row before its first sleep, `flush`, `shutdown`,
//!   `family` and the exit do if it has not. A process that has done nothing claims none, unless it asks for its family.
//! - Figures are written before each sleep of the sender, when it ends, and by those others; the last time at `shutdown` or
//!   exit, marked as the last. One thread of the process at a time; another one that finds it busy leaves it to that one.
//! - No trouble here is the host's: it is said once, and tried again after a minute.

use super::handle::{CLOSED, Client, DISABLED};
use super::life::Snapshot;
use super::worker;
use crate::board::directory::{Places, Runtime};
use crate::board::family::{COUNTER_NAMES, COUNTERS, Family, Figures, Member, RowView};
use crate::board::layout::CLIENT_COUNTERS;
use crate::board::seat;
use crate::platform::clock;
use crate::platform::files::read_small;
use crate::platform::identity::Identity;
use crate::platform::log::{Level, Reason, say};
use crate::platform::mapped::Latest;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether the board still is the one that others find.
const LOOK_MS: u64 = 10_000;
/// How long after trouble it is tried again.
const RETRY_MS: u64 = 60_000;
/// How long figures that must be shown wait for a thread that is writing earlier ones, on a busy machine.
const PATIENCE: Duration = Duration::from_millis(250);
/// And the last ones, which nobody shows later.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// How often a row is claimed on a board that is then found to be gone.
const CLAIMS: usize = 4;
/// Which counter is no sum: `last_success_unix_ms`.
const LATEST: usize = 18;

crate::blank_struct! {
/// What this process has in its family; in the wiped page.
pub struct FamilyWords {
    /// 1: a thread is writing.
    pub busy: AtomicU32,
    /// The row's number and 1; 0: none.
    pub row: AtomicU32,
    /// 1: the last figures are written.
    pub ended: AtomicU32,
    /// 1: trouble was said.
    pub said: AtomicU32,
    /// The owner's token.
    pub token: AtomicU64,
    /// Where the board is that the row is of.
    pub board: AtomicU64,
    /// When it was last looked whether that is the right one, or found that none can be had (`clock::monotonic_ms`).
    pub looked: AtomicU64,
    /// What has been added to the fleet's slot.
    pub folded: [AtomicU64; CLIENT_COUNTERS],
}
}

impl FamilyWords {
    /// Begin a generation: no row.
    pub fn reset(&self) {
        [&self.busy, &self.row, &self.ended, &self.said].iter().for_each(|w| w.store(0, Ordering::Relaxed));
        [&self.token, &self.board, &self.looked].iter().for_each(|w| w.store(0, Ordering::Relaxed));
        self.folded.iter().for_each(|w| w.store(0, Ordering::Relaxed));
    }
}

/// What a client keeps for its family, outside the wiped page.
#[derive(Debug)]
pub struct Kin {
    places: Places,
    stem: String,
    board: Latest<Family>,
}

impl Kin {
    /// Of the family `stem`, in one of these places. Touches nothing.
    pub fn new(places: Places, stem: String) -> Kin {
        Kin { places, stem, board: Latest::new() }
    }
}

/// What a publication may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Write, if there is a row.
    Write,
    /// Claim one, if the client was used.
    Claim,
    /// The same, and others are to see it when the call returns.
    Flush,
    /// Claim one whatever was done.
    Show,
    /// As [`How::Flush`], and never again.
    Last,
}

/// Holds the other threads of the process off.
struct Hold<'a>(&'a FamilyWords);

impl<'a> Hold<'a> {
    fn take(words: &'a FamilyWords, patience: Duration) -> Option<Hold<'a>> {
        let deadline = Instant::now() + patience;
        while words.busy.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            if Instant::now() >= deadline {
                return None;
            }
            clock::nap(Duration::from_micros(50));
        }
        Some(Hold(words))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.busy.store(0, Ordering::Release);
    }
}

impl Client {
    /// Show this process's figures to the others.
    pub(super) fn publish(&self, generation: u64, how: How) {
        let words = &self.control().family;
        if words.ended.load(Ordering::Relaxed) != 0 {
            return;
        }
        let patience = match how {
            How::Write | How::Claim => Duration::ZERO,
            How::Last => LAST_PATIENCE,
            _ => PATIENCE,
        };
        let Some(_hold) = Hold::take(words, patience) else { return };
        let stats = self.stats();
        let figures = Figures {
            worker: worker::number().into(),
            ended: how == How::Last,
            counters: counters_of(&stats),
        };
        self.add_to_slot(&figures);
        if let Some(family) = self.row_of(generation, how, &stats) {
            let row = words.row.load(Ordering::Relaxed).saturating_sub(1) as usize;
            let mine = || self.control().state.is(generation);
            if !family.write(row, words.token.load(Ordering::Relaxed), &figures, mine) {
                // Another process was certain that this one is dead.
                words.row.store(0, Ordering::Relaxed);
            }
            if how == How::Last {
                family.leave(&Identity::mine());
            }
        }
        if how == How::Last {
            words.ended.store(1, Ordering::Relaxed);
        }
    }

    /// The board in which this process has a row, claimed if need be. The caller holds the words.
    fn row_of(&self, generation: u64, how: How, stats: &Snapshot) -> Option<&Family> {
        let words = &self.control().family;
        let now = clock::monotonic_ms();
        let since = now.saturating_sub(words.looked.load(Ordering::Relaxed));
        let fresh = words.looked.load(Ordering::Relaxed) == 0;
        let kept = self.kin.board.get();
        let has_row = kept.filter(|family| {
            words.row.load(Ordering::Relaxed) != 0
                && words.board.load(Ordering::Relaxed) == std::ptr::from_ref(*family) as u64
        });
        if has_row.is_some() && since < LOOK_MS && how != How::Show {
            return has_row;
        }
        let used = Snapshot { forks: 0, ..*stats } != Snapshot::default();
        let may_claim = match how {
            How::Write => false,
            How::Claim | How::Flush | How::Last => used,
            How::Show => true,
        };
        if has_row.is_none() && (!may_claim || !fresh && since < RETRY_MS && how != How::Show) {
            return None;
        }
        words.looked.store(now, Ordering::Relaxed);
        let dir = self.kin.places.now();
        if let Some(family) = has_row.filter(|family| family.is_current(&dir)) {
            return Some(family);
        }
        for _ in 0..CLAIMS {
            let kept = self.kin.board.get().filter(|family| family.is_current(&dir));
            match kept.map_or_else(|| self.join(&dir), Ok) {
                // The last one of those before may have taken it away meanwhile.
                Ok(family) => match self.claim_row(family, generation) {
                    Some(family) if !family.is_current(&dir) => {}
                    done => return done,
                },
                Err(why) => {
                    self.say_why(&format!("{}, {}.family: {why}", dir.display(), self.kin.stem));
                    return None;
                }
            }
        }
        None
    }

    fn join(&self, dir: &std::path::Path) -> std::io::Result<&Family> {
        let family = Family::join(&Runtime::open(dir)?, &self.kin.stem)?;
        Ok(self.kin.board.set(family))
    }

    fn claim_row<'a>(&self, family: &'a Family, generation: u64) -> Option<&'a Family> {
        let words = &self.control().family;
        let name = read_small("/proc/self/comm").unwrap_or_default();
        let member = Member {
            who: Identity::mine(),
            parent: std::os::unix::process::parent_id(),
            name: String::from_utf8_lossy(&name).trim_end().to_string(),
            generation,
        };
        let Some((row, token)) = family.claim(&member) else {
            self.say_why(&format!("{}: all {} rows are taken", family.path().display(), family.rows()));
            return None;
        };
        words.token.store(token, Ordering::Relaxed);
        words.board.store(std::ptr::from_ref(family) as u64, Ordering::Relaxed);
        words.row.store(row as u32 + 1, Ordering::Relaxed);
        Some(family)
    }

    /// Once a process; loudly only to somebody who chose the directory.
    fn say_why(&self, why: &str) {
        if self.control().family.said.swap(1, Ordering::Relaxed) == 0 {
            let level = if self.kin.places.is_chosen() { Level::Warn } else { Level::Info };
            let text = format!("this process does not show in its family: the runtime directory {why}");
            say(level, Reason::Family, &text);
        }
    }

    /// Add what was counted since the last time to the slot of the fleet whose worker this process is.
    fn add_to_slot(&self, figures: &Figures) {
        let Some(slot) = seat::current() else { return };
        let folded = &self.control().family.folded;
        for (i, ((now, folded), sum)) in figures.counters.iter().zip(folded).zip(&slot.clients).enumerate() {
            if i == LATEST {
                sum.fetch_max(*now, Ordering::Relaxed);
            } else {
                // Wraps where less is queued than before.
                sum.fetch_add(now.wrapping_sub(folded.swap(*now, Ordering::Relaxed)), Ordering::Relaxed);
            }
        }
    }

    /// The family as a JSON array, one object a process: this one first, then by process id. A disabled client has none.
    pub fn family(&self) -> String {
        let flags = self.flags.load(Ordering::SeqCst);
        if flags & DISABLED != 0 {
            return "[]".into();
        }
        let generation = if flags & CLOSED == 0 { self.enter() } else { self.generation() };
        if let Some(generation) = generation.filter(|_| flags & CLOSED == 0) {
            self.publish(generation, How::Show);
        }
        let dir = self.kin.places.now();
        let family = match self.kin.board.get().filter(|family| family.is_current(&dir)) {
            Some(family) => Some(family),
            // Somebody who only asks makes nothing.
            None if !dir.join(format!("{}.family", self.kin.stem)).exists() => None,
            None => self.join(&dir).ok(),
        };
        let words = &self.control().family;
        let own = generation.filter(|_| words.row.load(Ordering::Relaxed) != 0);
        let row = own.map_or(usize::MAX, |_| words.row.load(Ordering::Relaxed) as usize - 1);
        let mut views = family.map_or_else(Vec::new, |family| family.views(&Identity::mine()));
        views.sort_unstable_by_key(|view| (view.index != row, view.who.pid, view.index));
        json_of(&views, row)
    }
}

fn json_of(views: &[RowView], own: usize) -> String {
    let mut out = String::from("[");
    for view in views {
        if out.len() > 1 {
            out.push(',');
        }
        let name = serde_json::Value::from(view.name.as_str());
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "{{\"pid\":{},\"parent\":{},\"worker\":{},\"alive\":{},\"self\":{},\"ended\":{},\"generation\":\"{:016x}\",\
             \"age_ms\":{},\"updated_age_ms\":{},\"name\":{name}",
            view.who.pid,
            view.parent,
            view.worker,
            view.alive,
            view.index == own,
            view.ended,
            view.generation,
            view.age.as_millis(),
            view.updated.as_millis(),
        );
        for (name, value) in COUNTER_NAMES.iter().zip(view.counters) {
            let _ = write!(out, ",\"{name}\":{value}");
        }
        out.push('}');
    }
    out.push(']');
    out
}

/// In the order of the names, which is that of `telemetry_stats_t`.
fn counters_of(s: &Snapshot) -> [u64; COUNTERS] {
    let known = [
        s.accepted,
        s.delivered,
        s.rejected,
        s.invalid,
        s.expired,
        s.dropped_full,
        s.dropped_too_large,
        s.retries,
        s.batches,
        s.bytes_in,
        s.bytes_out,
        s.queue_events,
        s.queue_bytes,
        s.recovered,
        s.left_in_spool,
        s.forks,
        s.sender_starts,
        s.circuit_open,
        s.last_success_unix_ms,
        s.unverified,
        s.spool_failures,
        s.corrupt,
        s.evicted,
        s.sampled_out,
        s.uploads,
        s.uploaded,
        s.uploads_failed,
        s.media_bytes,
    ];
    let mut all = [0; COUNTERS];
    for (place, value) in all.iter_mut().zip(known) {
        *place = value;
    }
    all
}
