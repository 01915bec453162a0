//! What the process was given: the only place of this room that looks at its environment.
//!
//! Invariant: it is read when a fleet is made, begins or hands over, on the thread that does so, and never written.
#![forbid(unsafe_code)]

use super::trace::Trace;
use std::ffi::OsString;

/// In a worker's environment: which descriptors and slot are its.
pub const WORKER: &str = "TELEMETRY_FLEET";
/// In the environment of a supervisor that took the place of another one: what it left.
pub const HANDOVER: &str = "TELEMETRY_FLEET_HANDOVER";

/// A variable, if it is text.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The same, whatever it is.
pub fn raw(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// All of it, without what is this room's own and what the supervisor's own supervisor told it alone.
pub fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    let own = [WORKER, HANDOVER, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
    std::env::vars_os().filter(move |(name, _)| !own.iter().any(|own| name == own))
}

/// All of it, but what was handed over.
pub fn everything() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name != HANDOVER)
}

/// The names of all variables.
pub fn names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// The trace context that this process works under.
pub fn trace() -> Trace {
    let get = |name| variable(name).unwrap_or_default();
    Trace::new(get("TRACEPARENT"), get("TRACESTATE"), get("BAGGAGE"))
}

/// The program and its arguments as they were started.
pub fn command_line() -> Vec<OsString> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = crate::platform::files::read_small("/proc/self/cmdline").unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    bytes.split(|b| *b == 0).map(|part| OsString::from_vec(part.to_vec())).collect()
}
