//! `telemetry collect` as a program: every test starts the real binary and talks to it over raw sockets.
//!
//! Invariants: nothing waits by sleeping; a wait is a blocking read with a time limit that fails the test,
//! or a question asked again until a deadline. A collector is killed when its guard is dropped.

// clippy.toml allows these inside of `#[test]` functions; the helpers here are as much part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod formats;
mod kit;
mod limits;
mod media;
mod server;
mod shares;
