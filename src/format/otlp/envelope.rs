//! What stands around the records of a request: resource and scope.
//!
//! Invariant: the lengths of protobuf's prefix are exact for the bytes of the records that follow, and
//! [`Frame::overhead`] is the length of all that is put around them.

use super::read::{MOST_DEPTH, Reader};
use super::schema::{self, Field};
use super::write::{Json, LEN, Protobuf, Writer, put_varint, varint_len};
use super::{Encoding, Signal};
use serde_json::Value;

/// Resource and scope of plain records, written once.
pub enum Frame {
    /// Fields of a `ResourceLogs` or `ResourceSpans` that stand before its one scope, and fields of that scope that
    /// stand before its records.
    Protobuf {
        /// `resource`.
        resource: Vec<u8>,
        /// `scope`.
        scope: Vec<u8>,
    },
    /// What stands before and behind the records.
    Json {
        /// Up to `"logRecords":[`.
        before: Vec<u8>,
    },
}

/// Behind the records of a JSON request.
const JSON_BEHIND: &[u8] = b"]}]}]}";
/// Behind the `ResourceLogs` of a JSON request.
const JSON_END: &[u8] = b"]}";

const SCOPE: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Frame {
    /// With those attributes of the resource, and those that each must have where they lack.
    pub fn new(signal: Signal, encoding: Encoding, attributes: &[(String, Value)]) -> Frame {
        match encoding {
            Encoding::Protobuf => {
                let (mut resource, mut scope) = (Vec::new(), Vec::new());
                tell_resource(Protobuf::new(&mut resource), attributes);
                tell_scope(Protobuf::new(&mut scope));
                Frame::Protobuf { resource, scope }
            }
            Encoding::Json => {
                let mut before = opening(signal.resources());
                before.push(b'{');
                tell_resource(Json::new(&mut before), attributes);
                before.extend_from_slice(b",\"");
                before.extend_from_slice(signal.scopes().name.as_bytes());
                before.extend_from_slice(b"\":[{");
                tell_scope(Json::new(&mut before));
                before.extend_from_slice(b",\"");
                before.extend_from_slice(signal.records().name.as_bytes());
                before.extend_from_slice(b"\":[");
                Frame::Json { before }
            }
        }
    }

    /// Before records of `bytes` in all.
    pub fn open(&self, out: &mut Vec<u8>, bytes: usize) {
        match self {
            Frame::Protobuf { resource, scope } => {
                let in_scope = scope.len() + bytes;
                let in_resource = resource.len() + piece_len(in_scope);
                out.push((1 << 3) | LEN as u8);
                put_varint(out, in_resource as u64);
                out.extend_from_slice(resource);
                out.push((2 << 3) | LEN as u8);
                put_varint(out, in_scope as u64);
                out.extend_from_slice(scope);
            }
            Frame::Json { before } => out.extend_from_slice(before),
        }
    }

    /// Behind them.
    pub fn close(&self, out: &mut Vec<u8>) {
        if let Frame::Json { .. } = self {
            out.extend_from_slice(JSON_BEHIND);
        }
    }

    /// What both append.
    pub fn overhead(&self, bytes: usize) -> usize {
        match self {
            Frame::Protobuf { resource, scope } => {
                let in_scope = scope.len() + bytes;
                piece_len(resource.len() + piece_len(in_scope)) - bytes
            }
            Frame::Json { before } => before.len() + JSON_BEHIND.len(),
        }
    }
}

/// Tag, length and so many bytes.
fn piece_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn opening(resources: &Field) -> Vec<u8> {
    format!("{{\"{}\":[", resources.name).into_bytes()
}

/// Before the resources of ready requests.
pub fn open_requests(out: &mut Vec<u8>, signal: Signal, encoding: Encoding) {
    if encoding == Encoding::Json {
        out.extend_from_slice(&opening(signal.resources()));
    }
}

/// Behind them.
pub fn close_requests(out: &mut Vec<u8>, encoding: Encoding) {
    if encoding == Encoding::Json {
        out.extend_from_slice(JSON_END);
    }
}

/// What both append.
pub fn requests_overhead(signal: Signal, encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json => r#"{"":["#.len() + signal.resources().name.len() + JSON_END.len(),
        Encoding::Protobuf => 0,
    }
}

/// The resource of plain records. `service.name` and the three of the SDK are what the specification asks of each.
fn tell_resource(out: impl Writer, attributes: &[(String, Value)]) {
    let own = [
        ("service.name", "unknown_service"),
        ("telemetry.sdk.name", SCOPE),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", VERSION),
    ];
    let given = attributes.iter().filter(|(_, value)| !value.is_null());
    let has = |key: &str| given.clone().any(|(k, _)| k == key);
    let mut reader = Reader::new(out);
    let resource = &schema::RESOURCE;
    let field = &schema::RESOURCE_ATTRIBUTES;
    // Depths are known to be small but for the values, which are looked at here.
    let Ok(mark) = reader.begin(resource) else { return };
    reader.out().list(field);
    for (key, value) in own.iter().filter(|(key, _)| !has(key)) {
        let _ = reader.attribute(field, key, Value::from(*value));
    }
    for (key, value) in given.clone() {
        let too_deep = depth(value) > MOST_DEPTH / 4;
        let text = if too_deep { Value::from(value.to_string()) } else { Value::Null };
        let _ = reader.attribute(field, key, if too_deep { &text } else { value });
    }
    reader.out().end_list();
    reader.end(mark);
}

/// Levels of arrays and objects; each is up to three messages.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn tell_scope(mut out: impl Writer) {
    let mark = out.begin(&schema::SCOPE);
    out.text(&schema::SCOPE_NAME, SCOPE);
    out.text(&schema::SCOPE_VERSION, VERSION);
    out.end(mark);
}
