//! Any JSON object as a log record.
//!
//! The first member of a row that the object has, with a value that fits, goes where the table says. Everything else,
//! values that do not fit among it, is an attribute under its own name.
//!
//! | member | fits | becomes |
//! | --- | --- | --- |
//! | `timestamp` | a time of RFC 3339 or ISO 8601 | `timeUnixNano`; without one it is the time of enqueue |
//! | `severity_text`, `severity`, `level` | a string | `severityText` as it is, and its number, see [`severity`] |
//! | `message`, `msg`, `body` | anything but null | `body` |
//! | `event`, `name` | a string | `eventName` |
//! | `trace_id`, `traceId` | 32 hexadecimal digits | `traceId` |
//! | `span_id`, `spanId` | 16 hexadecimal digits | `spanId` |
//! | `id` | a string or a number | the attribute [`EVENT_ID`], unless the object has a member of that name |
//!
//! No empty string fits. A time without an offset is UTC. A number as a level stays an attribute: loggers do not agree
//! what 30 is. Objects become key-value lists and arrays arrays; a member that is null is not there, a null within a
//! value is an empty one. Integers beyond 64 bits with a sign become strings (beyond those without one doubles, as
//! everywhere in JSON). `observedTimeUnixNano` is the time of enqueue.

use super::members::{Members, string};
use super::read::Reader;
use super::schema::{
    LOG_ATTRIBUTES, LOG_BODY, LOG_EVENT_NAME, LOG_OBSERVED, LOG_RECORDS, LOG_SEVERITY, LOG_SEVERITY_TEXT,
    LOG_SPAN_ID, LOG_TIME, LOG_TRACE_ID,
};
use super::write::Writer;
use super::{EVENT_ID, codes};
use crate::format::{Invalid, time};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a member may become, and how early its name stands in its row of the table.
fn role(name: &str) -> Option<(Role, u8)> {
    Some(match name {
        "timestamp" => (Role::Time, 0),
        "severity_text" => (Role::Severity, 0),
        "severity" => (Role::Severity, 1),
        "level" => (Role::Severity, 2),
        "message" => (Role::Body, 0),
        "msg" => (Role::Body, 1),
        "body" => (Role::Body, 2),
        "event" => (Role::Name, 0),
        "name" => (Role::Name, 1),
        "trace_id" => (Role::Trace, 0),
        "traceId" => (Role::Trace, 1),
        "span_id" => (Role::Span, 0),
        "spanId" => (Role::Span, 1),
        "id" => (Role::Id, 0),
        _ => return None,
    })
}

#[derive(Clone, Copy)]
enum Role {
    Time,
    Severity,
    Body,
    Name,
    Trace,
    Span,
    Id,
}

/// What was found for each role, and by which member.
#[derive(Default)]
struct Found<'a> {
    /// Member and rank, by role.
    taken: [Option<(usize, u8)>; 7],
    time: Option<u64>,
    severity: Cow<'a, str>,
    name: Cow<'a, str>,
    trace: [u8; 16],
    span: [u8; 8],
}

impl<'a> Found<'a> {
    fn look(members: &Members<'a>) -> Found<'a> {
        let mut found = Found::default();
        for (i, (name, raw)) in members.iter().enumerate() {
            if let Some((role, rank)) = role(name)
                && found.taken[role as usize].is_none_or(|(_, other)| rank < other)
                && found.fits(role, raw)
            {
                found.taken[role as usize] = Some((i, rank));
            }
        }
        if members.iter().any(|(name, _)| name == EVENT_ID) {
            found.taken[Role::Id as usize] = None;
        }
        found
    }

    /// Keep the value, if it is one for that role.
    fn fits(&mut self, role: Role, raw: &'a RawValue) -> bool {
        let text = || string(raw).filter(|text| !text.is_empty());
        match role {
            Role::Time => {
                let time = text().and_then(|text| time::unix_ns(&text));
                self.time = time.or(self.time);
                time.is_some()
            }
            Role::Severity => text().map(|text| self.severity = text).is_some(),
            Role::Name => text().map(|text| self.name = text).is_some(),
            Role::Trace => text().is_some_and(|text| codes::take_hex(&text, &mut self.trace)),
            Role::Span => text().is_some_and(|text| codes::take_hex(&text, &mut self.span)),
            Role::Body => raw.get() != "null",
            Role::Id => raw.get().starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit()),
        }
    }

    fn of(&self, role: Role) -> Option<usize> {
        self.taken[role as usize].map(|(i, _)| i)
    }

    /// Whether that member became something that is no attribute.
    fn is_taken(&self, member: usize) -> bool {
        self.taken.iter().flatten().any(|(i, _)| *i == member)
    }
}

/// Tell the log record that `members` stands for; it was given to us at `now`.
pub fn record<W: Writer>(reader: &mut Reader<'_, W>, members: &Members<'_>, now: u64) -> Result<(), Invalid> {
    let found = Found::look(members);
    let mark = reader.begin(&LOG_RECORDS)?;
    reader.out().fixed64(&LOG_TIME, found.time.unwrap_or(now));
    reader.out().fixed64(&LOG_OBSERVED, now);
    if found.of(Role::Severity).is_some() {
        if let Some(number) = severity(&found.severity) {
            reader.out().integer(&LOG_SEVERITY, number);
        }
        reader.out().text(&LOG_SEVERITY_TEXT, &found.severity);
    }
    if let Some((_, raw)) = found.of(Role::Body).and_then(|i| members.get(i)) {
        reader.any(&LOG_BODY, &mut serde_json::Deserializer::from_str(raw.get()))?;
    }
    reader.out().list(&LOG_ATTRIBUTES);
    for (i, (name, raw)) in members.iter().enumerate() {
        let name = match found.of(Role::Id) == Some(i) {
            true => EVENT_ID,
            false if found.is_taken(i) || raw.get() == "null" => continue,
            false => name,
        };
        reader.attribute(&LOG_ATTRIBUTES, name, &mut serde_json::Deserializer::from_str(raw.get()))?;
    }
    reader.extras(&LOG_ATTRIBUTES)?;
    reader.out().end_list();
    if found.of(Role::Trace).is_some() {
        reader.out().bytes(&LOG_TRACE_ID, &found.trace);
    }
    if found.of(Role::Span).is_some() {
        reader.out().bytes(&LOG_SPAN_ID, &found.span);
    }
    if found.of(Role::Name).is_some() {
        reader.out().text(&LOG_EVENT_NAME, &found.name);
    }
    reader.end(mark);
    Ok(())
}

/// OTLP's number for a level's name in any case. The names are those of OTLP itself (also `INFO2` to `INFO4` and the
/// like), of Python, of syslog and of the JVM's loggers. `CRITICAL` is Python's highest level and so `FATAL`, as
/// OpenTelemetry's own SDK for Python has it; `CRIT` is syslog's, which has two above it.
pub fn severity(text: &str) -> Option<i64> {
    let mut lower = [0; 16];
    let lower = lower.get_mut(..text.len())?;
    lower.copy_from_slice(text.as_bytes());
    lower.make_ascii_lowercase();
    let (name, more) = match lower {
        [name @ .., digit @ b'2'..=b'4'] => (&*name, i64::from(*digit - b'1')),
        name => (&*name, 0),
    };
    let own = match name {
        b"trace" => Some(1),
        b"debug" => Some(5),
        b"info" => Some(9),
        b"warn" => Some(13),
        b"error" => Some(17),
        b"fatal" => Some(21),
        _ => None,
    };
    match (own, name) {
        (Some(number), _) => Some(number + more),
        (None, _) if more > 0 => None,
        (None, b"finest") => Some(1),
        (None, b"verbose" | b"finer") => Some(5),
        (None, b"fine") => Some(6),
        (None, b"config") => Some(7),
        (None, b"information" | b"informational") => Some(9),
        (None, b"notice") => Some(10),
        (None, b"warning") => Some(13),
        (None, b"err" | b"severe") => Some(17),
        (None, b"crit") => Some(18),
        (None, b"alert") => Some(19),
        (None, b"critical" | b"emerg" | b"emergency" | b"panic") => Some(21),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for (text, number) in [
            ("TRACE", 1),
            ("Debug", 5),
            ("info", 9),
            ("INFO4", 12),
            ("warning", 13),
            ("WARN2", 14),
            ("error", 17),
            ("crit", 18),
            ("CRITICAL", 21),
            ("Fatal", 21),
            ("fatal4", 24),
        ] {
            assert_eq!(severity(text), Some(number), "{text}");
        }
        for text in
            ["", "30", "INFO1", "info5", "warning2", "infos", "4", "a name longer than all", "ｉｎｆｏ"]
        {
            assert_eq!(severity(text), None, "{text}");
        }
    }
}
