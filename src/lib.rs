//! libtelemetry: events from servers that fork, delivered exactly once. The contract is `include/telemetry.h`.

pub mod client;
pub mod platform;
pub mod sink;
