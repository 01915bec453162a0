//! The status document of a scoreboard: the supervisor's own, or somebody else's.
//!
//! Invariant: it is made of the board alone, so that a reader from outside says the same as the supervisor, also while that
//! is stopped or dead.
#![forbid(unsafe_code)]

use super::health::document::{
    BUSY, CAUSES, Events, Flags, Items, LastExit, PHASES, Probe, Restarts, SCHEMA, STATES, Slots, Status,
    Supervisor, Totals, Worker, name_in,
};
use super::policy::SlotState;
use crate::board::layout::{COUNTER_NAMES, COUNTERS, flag, probe, verdict};
use crate::board::scoreboard::{Board, text_of};
use crate::board::view::SlotView;
use crate::platform::{clock, signals, spawn};
use std::sync::atomic::Ordering;

fn seconds(ns: u64) -> f64 {
    // Milliseconds are exact enough to read.
    (ns / 1_000_000) as f64 / 1000.0
}

/// What the board says now.
pub fn of(board: &Board) -> Status {
    let h = board.header();
    let now = clock::monotonic_ns();
    let half = |word: &std::sync::atomic::AtomicU32| word.load(Ordering::Relaxed);
    let word = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    let names = names(board);
    let views: Vec<(usize, SlotView)> = (0..board.slots())
        .filter_map(|index| board.slot(index).map(|slot| (index, SlotView::of(slot))))
        .filter(|(_, view)| view.supervised.incarnation != 0 || view.supervised.state != 0)
        .collect();
    let workers: Vec<Worker> = views.iter().map(|(index, view)| worker(*index, view, now, &names)).collect();
    let (bits, endpoint) = (half(&h.verdict), half(&h.probe));
    let bound = endpoint & probe::BOUND != 0;
    let port = u16::try_from(half(&h.probe_port)).ok().filter(|port| bound && *port != 0);
    let by_cause = CAUSES.iter().zip(h.restarts.iter().map(word)).filter(|(_, count)| *count != 0);
    let by_cause: std::collections::BTreeMap<_, _> = by_cause.map(|(cause, count)| (*cause, count)).collect();
    let mut items = Items { us: word(&h.folded_us), classes: h.folded_histogram.each_ref().map(word) };
    for (_, view) in &views {
        items.us += view.item_us;
        for (sum, count) in items.classes.iter_mut().zip(view.histogram) {
            *sum += count;
        }
    }
    let total =
        |counter: usize| views.iter().map(|(_, view)| view.counters.get(counter).copied().unwrap_or(0)).sum();
    let oldest = workers.iter().filter(|w| w.state == "ready" || w.state == BUSY || w.state == "stale");
    let pid = half(&h.pid);
    Status {
        schema: SCHEMA,
        name: text_of(&h.name),
        state: name_in(&PHASES, half(&h.phase)),
        live: bits & verdict::LIVE != 0,
        ready: bits & verdict::READY != 0,
        reasons: text_of(&h.reasons).split('\n').filter(|r| !r.is_empty()).map(String::from).collect(),
        liveness_probe_bound: bound,
        probe: Probe { bound, port, error: (endpoint == probe::WANTED).then(|| "it does not listen".into()) },
        supervisor: Supervisor {
            pid,
            uptime_s: seconds(now.saturating_sub(word(&h.started_ns))),
            version: env!("CARGO_PKG_VERSION"),
            wakeups: word(&h.wakeups),
            late_ms_max: word(&h.late_ns_max) / 1_000_000,
            abi: half(&h.abi),
            cpu_s: spawn::cpu_s(pid),
        },
        slots: Slots::count(half(&h.want), &workers),
        oldest_beat_age_s: oldest.filter_map(|w| w.beat_age_s).reduce(f64::max),
        stale_after_s: word(&h.stale_ms) as f64 / 1000.0,
        restarts: Restarts { total: by_cause.values().sum(), by_cause },
        totals: Totals { done: total(1), failed: total(2), dead: total(4) },
        workers,
        items,
    }
}

/// Names of all counters; empty for those that are nobody's.
fn names(board: &Board) -> Vec<String> {
    let own = board.header().counter_names.iter().map(text_of);
    COUNTER_NAMES.iter().map(|name| (*name).to_string()).chain(own).take(COUNTERS).collect()
}

fn worker(index: usize, view: &SlotView, now: u64, names: &[String]) -> Worker {
    let (s, w) = (&view.supervised, &view.working);
    let age = |ns: u64| (ns != 0).then(|| seconds(now.saturating_sub(ns)));
    let busy = s.state == SlotState::Ready as u32 && w.flags & flag::BUSY != 0;
    let client = |i: usize| view.clients.get(i).copied().unwrap_or(0);
    let signal = i32::try_from(s.exit_signal).unwrap_or(0);
    Worker {
        slot: index as u32,
        name: s.name.clone(),
        pid: (s.pid != 0).then_some(s.pid),
        incarnation: s.incarnation,
        state: if busy { BUSY } else { name_in(&STATES, s.state) },
        beat_age_s: age(w.beat_ns),
        item_age_s: age(w.item_started_ns),
        doing: w.doing.clone(),
        restarts: u64::from(s.restarts),
        crashes_in_row: s.crashes,
        not_before_in_s: seconds(s.not_before_ns.saturating_sub(now)),
        last_exit: (s.exit_cause != 0).then(|| LastExit {
            cause: name_in(&CAUSES, s.exit_cause),
            code: (signal == 0).then_some(s.exit_code),
            signal: (signal != 0).then(|| signals::name(signal)),
            core: s.exit_bits & 1 != 0,
            oom: s.exit_bits & 2 != 0,
            age_s: seconds(now.saturating_sub(s.ended_ns)),
        }),
        counters: names
            .iter()
            .zip(view.counters)
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, count)| (name.clone(), count))
            .collect(),
        rss_kb: view.rss_kb,
        loop_lag_us: u64::from(w.loop_lag_us),
        // In the order of telemetry_stats_t: accepted, delivered, rejected, invalid, expired, dropped_full,
        // dropped_too_large, ..., queue_events.
        events: Events {
            accepted: client(0),
            delivered: client(1),
            lost: [2, 3, 4, 5, 6].into_iter().map(client).sum(),
            queued: client(11),
        },
        flags: Flags {
            running: w.flags & flag::RUNNING != 0,
            mdq_connected: w.flags & flag::MDQ_CONNECTED != 0,
            mdc_connected: w.flags & flag::MDC_CONNECTED != 0,
        },
    }
}
