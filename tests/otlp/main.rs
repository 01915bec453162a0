//! OTLP as we write it, read by the implementation of others (`opentelemetry-proto`, made from the official schema).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod kit;
mod mapping;
mod random;
mod refused;
mod requests;
mod same;
