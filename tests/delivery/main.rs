//! The delivery engine end to end: a client opened from JSON against a collector whose every answer the test
//! decides.
//!
//! Invariants: nothing waits by sleeping; a test waits for the collector's own record of a request, or asks
//! a condition again until a deadline. A machine may be as slow as it likes: a bound of a time is a small part of what
//! would be wrong takes, and what must not happen meanwhile is kept from happening.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod batching;
#[allow(dead_code, reason = "the tests of the sink use the rest of it")]
#[path = "../sink/certs.rs"]
mod certs;
mod collector;
mod events;
mod formats;
#[allow(dead_code, reason = "the tests of the sink use the rest of it")]
#[path = "../sink/full.rs"]
mod full;
mod holes;
mod host;
mod hostile;
mod langfuse;
mod languages;
mod life;
mod limits;
mod matrix;
mod media;
mod promises;
mod retries;
mod rules;
mod segments;
mod threads;
mod uploads;
mod verdicts;
