//! The sinks against real servers on loopback: each test starts its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the tests of delivery use the rest of it")]
mod certs;
mod dns;
mod eyeballs;
mod file;
#[allow(dead_code, reason = "the tests of delivery use the rest of it")]
mod full;
mod http;
mod net;
mod odd;
mod proxy;
mod server;
mod tls;
mod uploads;
