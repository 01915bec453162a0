//! The bytes of a fleet's scoreboard, ABI version 1.
//!
//! Invariants:
//! - A header, then `slots` slots of `slot_len` bytes each, from `header_len` on. Readers go by the lengths that the header
//!   gives, so a newer library may append to both; what is here never moves.
//! - Supervisor and worker write different cache lines of a slot. Their parts have a number each ([`super::seqlock`]);
//!   counters, histogram and leases are single words, or guarded by the worker's number.
//! - Times are nanoseconds of CLOCK_MONOTONIC, the same for all processes of a machine; 0: never.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// `TLFLEET1` in the order of this machine's bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"TLFLEET1");
/// The version that this file describes.
pub const ABI: u32 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of a slot.
pub const SLOT_LEN: usize = size_of::<Slot>();
/// Counters of a slot.
pub const COUNTERS: usize = 16;
/// The first of those that the configuration names.
pub const OWN_COUNTERS: usize = 11;
/// Names of the others, by number.
pub const COUNTER_NAMES: [&str; OWN_COUNTERS] = [
    "claimed",
    "done",
    "failed",
    "retried",
    "dead",
    "bytes_in",
    "bytes_out",
    "events",
    "decoding_errors",
    "published",
    "processing_errors",
];
/// Classes of an item's time: class `i` holds those of 2^i up to 2^(i+1) microseconds, the first one the shorter
/// ones too, the last one the longer ones.
pub const CLASSES: usize = 24;
/// Leases that a worker may have open at once.
pub const LEASES: usize = 8;
/// Counters of the worker's telemetry clients, in the order of `telemetry_stats_t`.
pub const CLIENT_COUNTERS: usize = 32;

/// Names of a slot's states, by the number that policy and scoreboard use.
pub const STATES: [&str; 9] =
    ["empty", "starting", "ready", "stopping", "backoff", "crash_looping", "failed", "abandoned", "stale"];
/// Names of causes of an end, by number; the first is no end.
pub const CAUSES: [&str; 13] = [
    "none",
    "exit0",
    "exit",
    "signal",
    "oom",
    "startup_timeout",
    "stale",
    "item_deadline",
    "recycled",
    "resized",
    "stopped",
    "reloaded",
    "fork_failed",
];
/// Names of the fleet's phases, by number.
pub const PHASES: [&str; 4] = ["starting", "running", "draining", "stopped"];

/// Sixty-four bits of text, zero-padded.
pub type Text<const WORDS: usize> = [AtomicU64; WORDS];

crate::blank_struct! {
/// What the whole fleet has in common; written by the supervisor.
pub struct Header {
    /// [`MAGIC`], stored last.
    pub magic: AtomicU64,
    /// [`ABI`].
    pub abi: AtomicU32,
    /// Bytes of the header, from the start to the first slot.
    pub header_len: AtomicU32,
    /// Bytes of a slot.
    pub slot_len: AtomicU32,
    /// Slots.
    pub slots: AtomicU32,
    /// The supervisor's process id, in its own namespace.
    pub pid: AtomicU32,
    /// What the configuration's generation is: HUP adds one.
    pub generation: AtomicU32,
    /// When the supervisor's process started, in clock ticks since boot: with the boot id, who it is.
    pub start_ticks: AtomicU64,
    /// First half of the kernel's boot id.
    pub boot: AtomicU64,
    /// Inode of the supervisor's process-id namespace.
    pub pid_ns: AtomicU64,
    /// When the fleet began, in nanoseconds since the epoch.
    pub started_unix_ns: AtomicU64,
    /// The same by the monotonic clock.
    pub started_ns: AtomicU64,
    /// A [`Phase`].
    pub phase: AtomicU32,
    /// Bits of [`probe`].
    pub probe: AtomicU32,
    /// TCP port of the health endpoint.
    pub probe_port: AtomicU32,
    /// Bits of [`verdict`].
    pub verdict: AtomicU32,
    /// Times the supervisor woke.
    pub wakeups: AtomicU64,
    /// The most that it was late, in nanoseconds.
    pub late_ns_max: AtomicU64,
    /// Workers wanted in all.
    pub want: AtomicU32,
    /// Not 0: workers are asked to take nothing new (WINCH).
    pub paused: AtomicU32,
    /// Age at which a worker is stale, in milliseconds; 0: never.
    pub stale_ms: AtomicU64,
    /// Restarts by cause, as the policy numbers causes.
    pub restarts: [AtomicU64; 16],
    /// The fleet's name.
    pub name: Text<8>,
    /// Names of the fleet's own counters, 24 bytes each.
    pub counter_names: [Text<3>; 5],
    /// Why the fleet is not live or not ready: the texts of the status, separated by newlines.
    pub reasons: Text<32>,
    /// What slots had counted before another group's workers took them over: part of the fleet's sums.
    pub folded: [AtomicU64; COUNTERS],
    /// The same of items by time.
    pub folded_histogram: [AtomicU64; CLASSES],
    /// And of their microseconds.
    pub folded_us: AtomicU64,
    /// For versions to come.
    pub spare: [AtomicU64; 1],
}
}

/// Bits of [`Header::probe`].
pub mod probe {
    /// An endpoint was asked for.
    pub const WANTED: u32 = 1;
    /// It listens.
    pub const BOUND: u32 = 2;
}

/// Bits of [`Header::verdict`].
pub mod verdict {
    /// `/livez` is 200.
    pub const LIVE: u32 = 1;
    /// `/readyz` is 200.
    pub const READY: u32 = 2;
}

/// What the fleet is at ([`Header::phase`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Not all that is wanted has been ready yet.
    Starting = 0,
    /// At work.
    Running = 1,
    /// Ending.
    Draining = 2,
    /// Ended.
    Stopped = 3,
}

crate::blank_struct! {
/// What the supervisor says of a slot.
pub struct Supervised {
    /// Its number.
    pub seq: AtomicU32,
    /// State, as the policy numbers it.
    pub state: AtomicU32,
    /// The worker's process id in the supervisor's namespace; 0: none.
    pub pid: AtomicU32,
    /// The group's number.
    pub group: AtomicU32,
    /// Which worker of this slot it is: 1, 2, 3, ...
    pub incarnation: AtomicU64,
    /// When that process started, in clock ticks since boot.
    pub start_ticks: AtomicU64,
    /// When it was forked.
    pub forked_ns: AtomicU64,
    /// When it said that it is ready.
    pub ready_ns: AtomicU64,
    /// When the next one may start.
    pub not_before_ns: AtomicU64,
    /// When the last one ended.
    pub ended_ns: AtomicU64,
    /// Workers of this slot that were replaced.
    pub restarts: AtomicU32,
    /// Of these, in a row, without a healthy one between.
    pub crashes: AtomicU32,
    /// The last one's exit status, if it exited.
    pub exit_code: AtomicU32,
    /// The signal that ended it, else 0.
    pub exit_signal: AtomicU32,
    /// Bit 0: a core was dumped; bit 1: the kernel was out of memory.
    pub exit_bits: AtomicU32,
    /// Why, as the policy numbers causes.
    pub exit_cause: AtomicU32,
    /// Forks that failed.
    pub fork_errors: AtomicU32,
    /// Since when the slot has had nobody who works: the clock of freshness, which no fork sets back.
    pub fresh_ns: AtomicU64,
    /// The group's name.
    pub name: Text<8>,
    /// For versions to come.
    pub spare: [AtomicU64; 11],
}
}

/// Bits of [`Working::flags`].
pub mod flag {
    /// It can work.
    pub const READY: u32 = 1;
    /// An item is open.
    pub const BUSY: u32 = 2;
    /// It has seen that it is to stop.
    pub const DRAINING: u32 = 4;
    /// USR1 makes it tell where it is; without this bit nobody sends it.
    pub const DUMPS: u32 = 8;
    /// What the worker says of itself: it runs.
    pub const RUNNING: u32 = 16;
    /// Its queue's connection for data stands.
    pub const MDQ_CONNECTED: u32 = 32;
    /// Its queue's connection for control stands.
    pub const MDC_CONNECTED: u32 = 64;
}

crate::blank_struct! {
/// What a worker says of itself.
pub struct Working {
    /// Its number.
    pub seq: AtomicU32,
    /// The process that writes here; nobody else does.
    pub pid: AtomicU32,
    /// Of which incarnation; what an earlier one left is not the slot's.
    pub incarnation: AtomicU64,
    /// Bits of [`flag`].
    pub flags: AtomicU32,
    /// How late its loop was last.
    pub loop_lag_us: AtomicU32,
    /// When it last showed that it gets on.
    pub beat_ns: AtomicU64,
    /// When it said it was ready.
    pub ready_ns: AtomicU64,
    /// Items begun.
    pub item_seq: AtomicU64,
    /// When the open one was begun.
    pub item_started_ns: AtomicU64,
    /// When it should have ended; 0: no such time.
    pub item_deadline_ns: AtomicU64,
    /// What it is doing.
    pub doing: Text<8>,
    /// For versions to come.
    pub spare: [AtomicU64; 16],
}
}

crate::blank_struct! {
/// What a worker has claimed and not given back.
pub struct Lease {
    /// The claim; 0: none.
    pub token: AtomicU64,
    /// Its first item.
    pub lo: AtomicU64,
    /// How many.
    pub n: AtomicU64,
}
}

crate::blank_struct! {
/// One worker's place.
pub struct Slot {
    /// Written by the supervisor.
    pub supervised: Supervised,
    /// Written by the worker.
    pub working: Working,
    /// Its counters since the group had the slot: a later incarnation goes on from where the one before stopped.
    pub counters: [AtomicU64; COUNTERS],
    /// Items by the time they took.
    pub histogram: [AtomicU64; CLASSES],
    /// Microseconds of all items.
    pub item_us: AtomicU64,
    /// Resident memory, in KiB; by the supervisor, seldom.
    pub rss_kb: AtomicU64,
    /// Open leases.
    pub leases: [Lease; LEASES],
    /// What the telemetry clients of its incarnations have counted, added up.
    pub clients: [AtomicU64; CLIENT_COUNTERS],
    /// For versions to come.
    pub spare: [AtomicU64; 30],
}
}

/// Readers of version 1 find everything at these places, for ever.
const _: () = {
    assert!(HEADER_LEN == 1024 && SLOT_LEN == 1536);
    assert!(std::mem::offset_of!(Slot, working) == 256 && std::mem::offset_of!(Slot, counters) == 512);
};
