//! Reading behind the queue, batching, sending, trying again.
//!
//! Invariants of this room:
//! - One consumer at a time: whoever holds [`words::Words`]' consumer word. It is the sender's thread, or a
//!   `flush` caller where no thread can be made.
//! - The sender exists only while there is something to do: it is started by the first event that needs
//!   it, sleeps at most `max_age_ms` while it lives, and ends after `idle_ms` without work.
//! - A record is settled only when its fate is final: delivered, rejected, invalid or expired, each counted
//!   once. Until then it stays in the queue, and every attempt sends it under the same id.
//! - Nothing here waits without a bound. No retry blocks the host, and no refused event blocks its
//!   neighbours: batches are halved down to the one that is refused.
//! - What lives here lives in one process: a forked child never touches its parent's engine.

#[cfg(not(loom))]
mod attempt;
#[cfg(not(loom))]
pub mod batch;
#[cfg(not(loom))]
pub mod chores;
#[cfg(not(loom))]
pub mod compress;
pub mod counters;
#[cfg(not(loom))]
pub mod dead_letter;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
pub mod media;
#[cfg(not(loom))]
pub mod retry;
#[cfg(not(loom))]
pub mod rules;
#[cfg(not(loom))]
pub mod secrets;
#[cfg(not(loom))]
pub mod sender;
pub mod words;
