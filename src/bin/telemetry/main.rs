//! The command `telemetry`.
fn main() {}
