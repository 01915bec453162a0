//! The status of a fleet: one document, which `/status`, `/livez`, the metrics and the page all come from.
//!
//! Invariants:
//! - The supervisor fills it from its policy and its scoreboard; a reader of a scoreboard fills the same from there alone.
//!   Nothing here knows which of the two it was.
//! - Schema 1: members may be added, none changes its meaning or goes.
//! - Times are seconds; a time or a process that there is not is null, never 0. Counts only grow as long as the
//!   supervisor lives: those of a slot include its former workers.
#![forbid(unsafe_code)]

use super::Ms;
pub use crate::board::layout::{CAUSES, PHASES, STATES};
use serde::Serialize;
use std::collections::BTreeMap;

/// Number of the document's schema.
pub const SCHEMA: u32 = 1;
/// A slot that is ready and has an item open.
pub const BUSY: &str = "busy";
/// What a newer supervisor's number is called.
pub const UNKNOWN: &str = "unknown";
/// Classes of an item's time: class `i` holds 2^i up to 2^(i+1) microseconds, the first one the shorter ones
/// too, the last one the longer ones.
pub const CLASSES: usize = 24;

/// The name that a number has in one of the lists above.
pub fn name_in(list: &[&'static str], number: u32) -> &'static str {
    list.get(number as usize).copied().unwrap_or(UNKNOWN)
}

/// Milliseconds as the document has them.
pub fn seconds(ms: Ms) -> f64 {
    ms as f64 / 1000.0
}

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The fleet's name.
    pub name: String,
    /// One of [`PHASES`].
    pub state: &'static str,
    /// What `/livez` says.
    pub live: bool,
    /// What `/readyz` says.
    pub ready: bool,
    /// Why it is not live or not ready, in fixed words.
    pub reasons: Vec<String>,
    /// Whether the endpoint listens: the same as `probe.bound`.
    pub liveness_probe_bound: bool,
    /// The endpoint.
    pub probe: Probe,
    /// The supervisor.
    pub supervisor: Supervisor,
    /// How many slots are in which state.
    pub slots: Slots,
    /// The age of the oldest beat of a worker that is to show one; null if there is none.
    pub oldest_beat_age_s: Option<f64>,
    /// The age from which on a worker is stale; 0: none is.
    pub stale_after_s: f64,
    /// Workers that were replaced.
    pub restarts: Restarts,
    /// Items of all slots.
    pub totals: Totals,
    /// The slots that are or were in use.
    pub workers: Vec<Worker>,
    /// Times of the items of all slots. In the metrics only.
    #[serde(skip)]
    pub items: Items,
}

/// The health endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Probe {
    /// Whether it listens.
    pub bound: bool,
    /// Its TCP port; null without one.
    pub port: Option<u16>,
    /// Why it does not listen although it was asked for.
    pub error: Option<String>,
}

/// The supervisor's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Supervisor {
    /// Process id.
    pub pid: u32,
    /// How long it has run.
    pub uptime_s: f64,
    /// The library's version.
    pub version: &'static str,
    /// Times its loop woke.
    pub wakeups: u64,
    /// The most that it was late.
    pub late_ms_max: u64,
    /// The scoreboard's version. In the metrics only.
    #[serde(skip)]
    pub abi: u32,
    /// Processor time it has used; `None` if the reader cannot know. In the metrics only.
    #[serde(skip)]
    pub cpu_s: Option<f64>,
}

/// Slots by state.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Slots {
    /// Workers wanted.
    pub want: u32,
    /// Workers that may take work, busy ones included.
    pub ready: u32,
    /// Of these, workers with an item open.
    pub busy: u32,
    /// Not ready yet.
    pub starting: u32,
    /// Asked to end.
    pub stopping: u32,
    /// Waiting for the time of the next start.
    pub backoff: u32,
    /// The same after too many ends in a row.
    pub crash_looping: u32,
    /// Ended in a way that says not to start it again.
    pub failed: u32,
    /// Without a beat for too long.
    pub stale: u32,
    /// Killed, and still there.
    pub abandoned: u32,
}

impl Slots {
    /// Counts `workers`.
    pub fn count(want: u32, workers: &[Worker]) -> Slots {
        let of = |state: &str| workers.iter().filter(|w| w.state == state).count() as u32;
        let busy = of(BUSY);
        Slots {
            want,
            ready: of("ready") + busy,
            busy,
            starting: of("starting"),
            stopping: of("stopping"),
            backoff: of("backoff"),
            crash_looping: of("crash_looping"),
            failed: of("failed"),
            stale: of("stale"),
            abandoned: of("abandoned"),
        }
    }
}

/// Replaced workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Restarts {
    /// All of them.
    pub total: u64,
    /// By one of [`CAUSES`]; those that have not occurred may be left out.
    pub by_cause: BTreeMap<&'static str, u64>,
}

/// Items of all slots.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Done.
    pub done: u64,
    /// Failed.
    pub failed: u64,
    /// Given up.
    pub dead: u64,
}

/// One slot and its worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Worker {
    /// The slot's number.
    pub slot: u32,
    /// The group's name.
    pub name: String,
    /// Process id; null if there is no process.
    pub pid: Option<u32>,
    /// Which worker of this slot it is: 1, 2, 3, ...
    pub incarnation: u64,
    /// One of [`STATES`], or [`BUSY`].
    pub state: &'static str,
    /// How long ago it last showed that it gets on; null before the first beat.
    pub beat_age_s: Option<f64>,
    /// For how long its item has been open; null without one.
    pub item_age_s: Option<f64>,
    /// What it says it is doing; its own words, not to be trusted.
    pub doing: String,
    /// Workers of this slot that were replaced.
    pub restarts: u64,
    /// Of these, in a row.
    pub crashes_in_row: u32,
    /// In how long the next one may start; 0: now, or it runs.
    pub not_before_in_s: f64,
    /// How the last one ended; null if none has.
    pub last_exit: Option<LastExit>,
    /// Its counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Resident memory; 0 if it was not looked at.
    pub rss_kb: u64,
    /// How late its loop was last.
    pub loop_lag_us: u64,
    /// Events of its telemetry clients.
    pub events: Events,
    /// What it says of itself.
    pub flags: Flags,
}

/// An end.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LastExit {
    /// One of [`CAUSES`].
    pub cause: &'static str,
    /// The exit status; null if a signal ended it.
    pub code: Option<i32>,
    /// The signal's name, as `SIGKILL`,; null if it exited.
    pub signal: Option<String>,
    /// A core was dumped.
    pub core: bool,
    /// The system was out of memory.
    pub oom: bool,
    /// How long ago.
    pub age_s: f64,
}

/// Events of a worker's telemetry clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Events {
    /// Taken.
    pub accepted: u64,
    /// Delivered.
    pub delivered: u64,
    /// Lost.
    pub lost: u64,
    /// Waiting.
    pub queued: u64,
}

/// What a worker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Flags {
    /// It runs.
    pub running: bool,
    /// Its queue's connection for data stands.
    pub mdq_connected: bool,
    /// Its queue's connection for control stands.
    pub mdc_connected: bool,
}

/// Times of items.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Items {
    /// Items in each class.
    pub classes: [u64; CLASSES],
    /// Microseconds of all of them together.
    pub us: u64,
}

impl Status {
    /// As JSON, on one line or indented, with a line break at the end.
    pub fn json(&self, indented: bool) -> String {
        let text = if indented { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        // Keys are text and nothing else can fail; if it did, this would be an error to see, not one to die of.
        text.map_or_else(|e| format!("{{\"schema\":{SCHEMA},\"error\":\"{e}\"}}\n"), |t| t + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!((name_in(&STATES, 0), name_in(&STATES, 8)), ("empty", "stale"));
        assert_eq!((name_in(&CAUSES, 4), name_in(&CAUSES, 12)), ("oom", "fork_failed"));
        assert_eq!((name_in(&PHASES, 2), name_in(&PHASES, 4)), ("draining", UNKNOWN));
        assert_eq!(seconds(1234), 1.234);
    }

    #[test]
    fn a_busy_worker_is_a_ready_one() {
        let workers = ["ready", "busy", "busy", "stale", "empty", "failed", "stopping"]
            .map(|state| Worker { state, ..Worker::default() });
        let slots = Slots::count(5, &workers);
        let expected =
            Slots { want: 5, ready: 3, busy: 2, stale: 1, failed: 1, stopping: 1, ..Slots::default() };
        assert_eq!(slots, expected);
    }
}
