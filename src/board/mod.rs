//! Memory by which processes see each other: who is there, what each is doing, what it has counted.
//!
//! Invariants of this room:
//! - Each word has one writer: the supervisor, or the worker that owns the slot. Nothing here waits for anybody: no lock, so
//!   a process killed in the middle of a write holds nobody up.
//! - A reader believes nothing: numbers found in a board are bounds-checked, texts are cleaned, and a slot that was being
//!   written is read again a bounded number of times.
//! - It knows nothing of forking, health or delivery: the fleet and the clients write it, anybody reads it.

#[cfg(not(loom))]
pub mod directory;
#[cfg(not(loom))]
pub mod family;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
pub mod scoreboard;
#[cfg(not(loom))]
pub mod seat;
pub mod seqlock;
#[cfg(not(loom))]
pub mod view;
