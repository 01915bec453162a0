//! The supervisor's lines: one for each change of state, none for what stays as it is; and documents for programs, each a line
//! that is one JSON object.
#![forbid(unsafe_code)]

use crate::platform::log::{Level, tell};

fn line(level: Level, fleet: &str, text: &str) {
    tell(level, &format!("telemetry fleet {fleet}: {text}"));
}

/// Something changed as it was meant to.
pub fn info(fleet: &str, text: &str) {
    line(Level::Info, fleet, text);
}

/// Something changed as it was not meant to.
pub fn warn(fleet: &str, text: &str) {
    line(Level::Warn, fleet, text);
}

/// Something cannot be done.
pub fn error(fleet: &str, text: &str) {
    line(Level::Error, fleet, text);
}

/// A line for programs: `{"fleet":NAME,WHAT:JSON}`.
pub fn document(level: Level, fleet: &str, what: &str, json: &str) {
    tell(level, &format!("{{\"fleet\":{},\"{what}\":{json}}}", serde_json::Value::from(fleet)));
}
