//! A family's board as bytes, and a row of it as a reader sees it.
//!
//! Layout, version 1: a header of 512 bytes, then `rows` rows of `row_len` bytes. Readers go by the lengths that the header
//! gives, so a newer library may append to both; what is here never moves.
//!
//! Invariant: the words behind [`Row::of`] are its owner's, written under [`Row::seq`]; what an owner before left counts as
//! nobody's until the new one has written.

use crate::board::layout::Text;
use crate::board::scoreboard::{put_text, text_of};
use crate::board::seqlock;
use crate::platform::identity::Identity;
use crate::platform::{clock, process};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// `TLFAMIL1` in the order of this machine's bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"TLFAMIL1");
/// The version that this file describes.
pub const ABI: u32 = 1;
/// Processes that a board has room for.
pub const ROWS: usize = 128;
/// How long a dead process is shown.
pub const REMEMBERED: Duration = Duration::from_secs(3600);
/// Counters of a client that a row has room for.
pub const COUNTERS: usize = 32;
/// Their names, in the order of `telemetry_stats_t`.
pub const COUNTER_NAMES: [&str; 28] = [
    "accepted",
    "delivered",
    "rejected",
    "invalid",
    "expired",
    "dropped_full",
    "dropped_too_large",
    "retries",
    "batches",
    "bytes_in",
    "bytes_out",
    "queue_events",
    "queue_bytes",
    "recovered",
    "left_in_spool",
    "forks",
    "sender_starts",
    "circuit_open",
    "last_success_unix_ms",
    "unverified",
    "spool_failures",
    "corrupt",
    "evicted",
    "sampled_out",
    "uploads",
    "uploaded",
    "uploads_failed",
    "media_bytes",
];

/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of a row.
pub const ROW_LEN: usize = size_of::<Row>();

crate::blank_struct! {
/// What the whole family has in common.
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`ABI`].
    pub abi: AtomicU32,
    /// Bytes from the start to the first row.
    pub header_len: AtomicU32,
    /// Bytes of a row.
    pub row_len: AtomicU32,
    /// Rows.
    pub rows: AtomicU32,
    /// When the board was made, in nanoseconds since the epoch.
    pub made_unix_ns: AtomicU64,
    /// How often a process found no row.
    pub missed: AtomicU64,
    /// For versions to come.
    pub spare: [AtomicU64; 59],
}
}

/// In [`Row::bits`]: the client is shut or its process exits; nothing more is written here.
pub const ENDED: u32 = 1;

crate::blank_struct! {
/// One process's place. Times are nanoseconds of CLOCK_MONOTONIC.
pub struct Row {
    /// Whose it is; 0: nobody's.
    pub owner: AtomicU64,
    /// Number of the words below.
    pub seq: AtomicU32,
    /// [`ENDED`].
    pub bits: AtomicU32,
    /// Which owner wrote the words below.
    pub of: AtomicU64,
    /// Process id, in its own namespace.
    pub pid: AtomicU32,
    /// The parent's, when the row was claimed.
    pub parent: AtomicU32,
    /// Number among the workers of its server; 0: none.
    pub worker: AtomicU32,
    /// The user.
    pub user: AtomicU32,
    /// With the process id: who it is, see [`Identity`].
    pub start_ticks: AtomicU64,
    /// As above.
    pub image: AtomicU64,
    /// As above.
    pub boot: AtomicU64,
    /// As above.
    pub pid_ns: AtomicU64,
    /// Of the client in this process: as in its events.
    pub generation: AtomicU64,
    /// When the row was claimed.
    pub opened_ns: AtomicU64,
    /// When it was written last.
    pub updated_ns: AtomicU64,
    /// The process's name.
    pub name: Text<2>,
    /// In the order of `telemetry_stats_t`.
    pub counters: [AtomicU64; COUNTERS],
    /// For versions to come.
    pub spare: [AtomicU64; 18],
}
}

/// Readers of version 1 find everything at these places, for ever.
const _: () = {
    assert!(HEADER_LEN == 512 && ROW_LEN == 512);
    assert!(std::mem::offset_of!(Row, name) == 96 && std::mem::offset_of!(Row, counters) == 112);
};

/// Who claims a row.
#[derive(Debug, Clone)]
pub struct Member {
    /// The process.
    pub who: Identity,
    /// Its parent.
    pub parent: u32,
    /// Its name.
    pub name: String,
    /// The client's generation.
    pub generation: u64,
}

/// What changes from one time to the next.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// See [`Row::worker`].
    pub worker: u32,
    /// See [`ENDED`].
    pub ended: bool,
    /// See [`Row::counters`].
    pub counters: [u64; COUNTERS],
}

/// A row as it was at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowView {
    /// Which.
    pub index: usize,
    /// The process.
    pub who: Identity,
    /// See [`Row::parent`].
    pub parent: u32,
    /// See [`Row::worker`].
    pub worker: u32,
    /// Not known to be dead.
    pub alive: bool,
    /// See [`ENDED`].
    pub ended: bool,
    /// See [`Row::generation`].
    pub generation: u64,
    /// How long ago the row was claimed.
    pub age: Duration,
    /// How long ago it was written.
    pub updated: Duration,
    /// See [`Row::name`].
    pub name: String,
    /// See [`Row::counters`].
    pub counters: [u64; COUNTERS],
}

impl RowView {
    /// The counter of that name; 0 if there is none.
    pub fn counter(&self, name: &str) -> u64 {
        let at = COUNTER_NAMES.iter().position(|other| *other == name);
        at.and_then(|at| self.counters.get(at)).copied().unwrap_or(0)
    }

    /// Events that nobody will deliver: refused or given up, and what a dead process had in memory.
    pub fn lost(&self) -> u64 {
        let gone = if self.alive && !self.ended { 0 } else { self.unspooled() };
        ["rejected", "invalid", "expired", "dropped_full", "dropped_too_large"]
            .iter()
            .fold(gone, |sum, name| sum.saturating_add(self.counter(name)))
    }

    fn unspooled(&self) -> u64 {
        self.counter("queue_events").saturating_sub(self.counter("left_in_spool"))
    }

    /// Nobody misses it: it ended in order, with nothing left.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.unspooled() == 0
    }
}

/// The first words of a new owner.
pub(super) fn begin(row: &Row, token: u64, member: &Member) {
    let now = clock::monotonic_ns();
    let words = [
        (&row.of, token),
        (&row.start_ticks, member.who.start),
        (&row.image, member.who.image),
        (&row.boot, member.who.boot),
        (&row.pid_ns, member.who.pid_ns),
        (&row.generation, member.generation),
        (&row.opened_ns, now),
        (&row.updated_ns, now),
    ];
    let halves = [
        (&row.bits, 0),
        (&row.pid, member.who.pid),
        (&row.parent, member.parent),
        (&row.worker, 0),
        (&row.user, process::effective_uid()),
    ];
    seqlock::write(&row.seq, || {
        words.iter().for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        halves.iter().for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        row.counters.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        put_text(&row.name, &member.name);
    });
}

/// What stands in a row.
pub(super) struct Seen {
    who: Identity,
    parent: u32,
    worker: u32,
    pub(super) ended: bool,
    generation: u64,
    opened_ns: u64,
    pub(super) updated_ns: u64,
    name: String,
    counters: [u64; COUNTERS],
}

/// What a row's owner wrote; `None` if it has none, or one that has written nothing. Of an owner that died while he wrote,
/// what is there.
pub(super) fn look(row: &Row) -> Option<Seen> {
    let owner = row.owner.load(Ordering::Acquire);
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let half = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let read = || {
        let who = Identity {
            boot: word(&row.boot),
            pid_ns: word(&row.pid_ns),
            pid: half(&row.pid),
            start: word(&row.start_ticks),
            image: word(&row.image),
        };
        let seen = Seen {
            who,
            parent: half(&row.parent),
            worker: half(&row.worker),
            ended: half(&row.bits) & ENDED != 0,
            generation: word(&row.generation),
            opened_ns: word(&row.opened_ns),
            updated_ns: word(&row.updated_ns),
            name: text_of(&row.name),
            counters: std::array::from_fn(|i| row.counters.get(i).map_or(0, word)),
        };
        (word(&row.of), seen)
    };
    let (of, seen) = seqlock::read(&row.seq, read).unwrap_or_else(read);
    (owner != 0 && of == owner).then_some(seen)
}

impl Seen {
    /// Whether the process is no more; one that cannot be looked up counts as that when it has said nothing for long.
    pub(super) fn is_dead(&self, me: &Identity) -> bool {
        let silent = Duration::from_nanos(clock::monotonic_ns().saturating_sub(self.updated_ns));
        self.who.is_dead(me) || !self.who.is_visible_to(me) && silent > REMEMBERED
    }

    /// `None` if it need not be remembered.
    pub(super) fn view(self, index: usize, me: &Identity, now: u64) -> Option<RowView> {
        let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
        let (alive, updated) = (!self.is_dead(me), since(self.updated_ns));
        // Times from before the machine was started mean nothing now.
        let before = self.who.boot != me.boot && self.who.boot != 0 && me.boot != 0;
        if before || (!alive || self.ended) && updated > REMEMBERED {
            return None;
        }
        Some(RowView {
            index,
            who: self.who,
            parent: self.parent,
            worker: self.worker,
            alive,
            ended: self.ended,
            generation: self.generation,
            age: since(self.opened_ns),
            updated,
            name: self.name,
            counters: self.counters,
        })
    }
}
