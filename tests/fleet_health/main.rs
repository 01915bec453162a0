//! The fleet's health endpoint from outside: a real `Server` in a loop of its own, asked over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod alone;
mod client;
mod document;
mod driver;
mod exposition;
mod hostile;
mod limits;
mod listening;
mod metrics;
mod notify;
mod routes;
