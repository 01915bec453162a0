//! A slot as it was at one instant, in a reader's own memory.
//!
//! Invariant: a part that was being written every time it was looked at, or whose writer died in the middle, is given as
//! it is then, and [`SlotView::torn`] says so.
#![forbid(unsafe_code)]

use super::layout::{CLASSES, CLIENT_COUNTERS, COUNTERS, LEASES, Slot, Supervised, Working};
use super::scoreboard::text_of;
use super::seqlock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the supervisor says of a slot; units and meaning as in [`Supervised`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented in the layout")]
pub struct SupervisedView {
    pub state: u32,
    pub pid: u32,
    pub group: u32,
    pub incarnation: u64,
    pub start_ticks: u64,
    pub forked_ns: u64,
    pub ready_ns: u64,
    pub not_before_ns: u64,
    pub ended_ns: u64,
    pub restarts: u32,
    pub crashes: u32,
    pub exit_code: i32,
    pub exit_signal: u32,
    pub exit_bits: u32,
    pub exit_cause: u32,
    pub fork_errors: u32,
    pub fresh_ns: u64,
    pub name: String,
}

/// What the worker says of itself; units and meaning as in [`Working`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented in the layout")]
pub struct WorkingView {
    pub pid: u32,
    pub incarnation: u64,
    pub flags: u32,
    pub loop_lag_us: u32,
    pub beat_ns: u64,
    pub ready_ns: u64,
    pub item_seq: u64,
    pub item_started_ns: u64,
    pub item_deadline_ns: u64,
    pub doing: String,
}

/// All of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented in the layout")]
pub struct SlotView {
    pub supervised: SupervisedView,
    /// Of the incarnation that the supervisor names, else as one that has not said anything yet.
    pub working: WorkingView,
    pub counters: [u64; COUNTERS],
    pub histogram: [u64; CLASSES],
    pub item_us: u64,
    pub rss_kb: u64,
    /// Token, first item, number.
    pub leases: Vec<(u64, u64, u64)>,
    pub clients: [u64; CLIENT_COUNTERS],
    pub torn: bool,
}

fn word(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn half(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

fn supervised(s: &Supervised) -> SupervisedView {
    SupervisedView {
        state: half(&s.state),
        pid: half(&s.pid),
        group: half(&s.group),
        incarnation: word(&s.incarnation),
        start_ticks: word(&s.start_ticks),
        forked_ns: word(&s.forked_ns),
        ready_ns: word(&s.ready_ns),
        not_before_ns: word(&s.not_before_ns),
        ended_ns: word(&s.ended_ns),
        restarts: half(&s.restarts),
        crashes: half(&s.crashes),
        exit_code: half(&s.exit_code) as i32,
        exit_signal: half(&s.exit_signal),
        exit_bits: half(&s.exit_bits),
        exit_cause: half(&s.exit_cause),
        fork_errors: half(&s.fork_errors),
        fresh_ns: word(&s.fresh_ns),
        name: text_of(&s.name),
    }
}

fn working(w: &Working) -> WorkingView {
    WorkingView {
        pid: half(&w.pid),
        incarnation: word(&w.incarnation),
        flags: half(&w.flags),
        loop_lag_us: half(&w.loop_lag_us),
        beat_ns: word(&w.beat_ns),
        ready_ns: word(&w.ready_ns),
        item_seq: word(&w.item_seq),
        item_started_ns: word(&w.item_started_ns),
        item_deadline_ns: word(&w.item_deadline_ns),
        doing: text_of(&w.doing),
    }
}

impl SlotView {
    /// Read a slot.
    pub fn of(slot: &Slot) -> SlotView {
        let theirs = seqlock::read(&slot.supervised.seq, || supervised(&slot.supervised));
        let own = seqlock::read(&slot.working.seq, || working(&slot.working));
        let torn = theirs.is_none() || own.is_none();
        let theirs = theirs.unwrap_or_else(|| supervised(&slot.supervised));
        let own = own.unwrap_or_else(|| working(&slot.working));
        let leases = slot.leases.iter().map(|l| (word(&l.token), word(&l.lo), word(&l.n)));
        SlotView {
            working: if own.incarnation == theirs.incarnation { own } else { WorkingView::default() },
            supervised: theirs,
            counters: std::array::from_fn(|i| slot.counters.get(i).map_or(0, word)),
            histogram: std::array::from_fn(|i| slot.histogram.get(i).map_or(0, word)),
            item_us: word(&slot.item_us),
            rss_kb: word(&slot.rss_kb),
            leases: leases.filter(|(token, ..)| *token != 0).take(LEASES).collect(),
            clients: std::array::from_fn(|i| slot.clients.get(i).map_or(0, word)),
            torn,
        }
    }
}
