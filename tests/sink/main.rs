//! The sinks against real servers on loopback: each test starts its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod dns;
mod eyeballs;
mod file;
mod http;
mod net;
mod odd;
mod proxy;
mod server;
mod tls;
mod uploads;
