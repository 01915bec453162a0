//! The spool: what a killed process, a full disk, a hostile file or a random bit leaves, and what the next client
//! makes of it.
//!
//! Invariants: a client is opened from JSON and delivers to a collector, as in `tests/delivery`; a kill is a
//! killed process ([`victim`]), or a copy of the directory taken at that instant ([`spool::Spool::killed_now`]).
//! What a file must hold is reckoned from the lengths of the events, never by the scanner under test. Nothing waits
//! by sleeping, and random inputs print their seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "../delivery/collector.rs"]
mod collector;
#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "../delivery/host.rs"]
mod host;

#[path = "../fuzz/body.rs"]
mod body;
mod corruption;
mod dice;
#[path = "../fuzz/forge.rs"]
mod forge;
mod fuzz;
mod hostile;
mod kit;
#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "../delivery/langfuse.rs"]
mod langfuse;
mod limits;
mod many;
mod model;
mod places;
mod recovery;
mod spool;
mod uploads;
mod victim;
