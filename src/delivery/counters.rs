//! What happened, counted: in the wiped page, so that every forked child starts at zero.
//!
//! Invariant: an event leaves the queue through exactly one of `delivered`, `rejected`, `invalid` and
//! `expired`, which are added to before the head moves.

use crate::platform::sync::{AtomicU64, Ordering};

crate::blank_struct! {
/// All but `accepted` (counted by the log) and what is computed when asked.
pub struct Counters {
    /// Events the collector took.
    pub delivered: AtomicU64,
    /// Events the collector refused for good.
    pub rejected: AtomicU64,
    /// Events that were not one JSON object.
    pub invalid: AtomicU64,
    /// Events that grew too old.
    pub expired: AtomicU64,
    /// `enqueue` said FULL.
    pub dropped_full: AtomicU64,
    /// `enqueue` said TOO_LARGE.
    pub dropped_too_large: AtomicU64,
    /// Requests that were further attempts.
    pub retries: AtomicU64,
    /// Requests that were first attempts.
    pub batches: AtomicU64,
    /// Bytes of the events the sender has read.
    pub bytes_in: AtomicU64,
    /// Bytes of request bodies handed to the sink.
    pub bytes_out: AtomicU64,
    /// Forks this process made.
    pub forks: AtomicU64,
    /// Sender threads started.
    pub sender_starts: AtomicU64,
    /// 1 while the collector refuses our credentials.
    pub circuit_open: AtomicU64,
    /// When the collector last took something.
    pub last_success_unix_ms: AtomicU64,
    /// Answers accepted whose body could not be read.
    pub unverified: AtomicU64,
    /// Events of others that were read from the spool.
    pub recovered: AtomicU64,
    /// Own events in the spool when this process shut or exited.
    pub left_in_spool: AtomicU64,
    /// Records and files of the spool that could not be read.
    pub corrupt: AtomicU64,
    /// Events that made room for newer ones; counted as expired too.
    pub evicted: AtomicU64,
    /// Events that `enqueue` did not take because they were not in the sample.
    pub sampled_out: AtomicU64,
    /// Uploads that were taken.
    pub uploads: AtomicU64,
    /// Uploads that this process delivered.
    pub uploaded: AtomicU64,
    /// Uploads that this process gave up.
    pub uploads_failed: AtomicU64,
}
}

/// Add to a counter.
pub fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

impl Counters {
    /// Events that have left the queue.
    pub fn settled(&self) -> u64 {
        [&self.delivered, &self.rejected, &self.invalid, &self.expired]
            .iter()
            .map(|c| c.load(Ordering::Acquire))
            .sum()
    }

    /// Zero all: a generation begins.
    pub fn reset(&self) {
        for c in [
            &self.delivered,
            &self.rejected,
            &self.invalid,
            &self.expired,
            &self.dropped_full,
            &self.dropped_too_large,
            &self.retries,
            &self.batches,
            &self.bytes_in,
            &self.bytes_out,
            &self.forks,
            &self.sender_starts,
            &self.circuit_open,
            &self.last_success_unix_ms,
            &self.unverified,
            &self.recovered,
            &self.left_in_spool,
            &self.corrupt,
            &self.evicted,
            &self.sampled_out,
            &self.uploads,
            &self.uploaded,
            &self.uploads_failed,
        ] {
            c.store(0, Ordering::Relaxed);
        }
    }
}
