//! Bodies as the delivery puts them together, and their decoders.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use telemetry::format::otlp::{Encoding, Otlp, Signal};
use telemetry::format::{Envelope, Format, Invalid, Stamp};

pub const ID: &str = "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10";
pub const NOW: u64 = 1_795_228_198_004_000_123;
pub const BOTH: [Encoding; 2] = [Encoding::Protobuf, Encoding::Json];

pub fn stamp() -> Stamp<'static> {
    Stamp { id: ID.as_bytes().try_into().unwrap(), time_ns: NOW, pid: 4711, generation: 0xab, worker: 0 }
}

/// What each signal's request is called.
pub trait Request: Message + Default + DeserializeOwned + PartialEq + Debug {
    const SIGNAL: Signal;
}

impl Request for ExportLogsServiceRequest {
    const SIGNAL: Signal = Signal::Logs;
}

impl Request for ExportTraceServiceRequest {
    const SIGNAL: Signal = Signal::Traces;
}

pub type Logs = ExportLogsServiceRequest;
pub type Traces = ExportTraceServiceRequest;

pub fn decode<R: Request>(encoding: Encoding, body: &[u8]) -> R {
    match encoding {
        Encoding::Protobuf => R::decode(body).unwrap(),
        Encoding::Json => {
            serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(body)))
        }
    }
}

/// One event's text and kind.
pub fn event(format: &Otlp, raw: &[u8]) -> Result<(Vec<u8>, u8), Invalid> {
    let mut out = b"before".to_vec();
    let taken = format.event(&mut out, raw, &stamp())?;
    assert_eq!(taken.id, None);
    Ok((out.strip_prefix(b"before").unwrap().to_vec(), taken.kind))
}

/// The body of a request with those events, which are of one kind; its length is what was promised.
pub fn body(format: &Otlp, events: &[&[u8]]) -> Vec<u8> {
    let mut texts = Vec::new();
    let mut kinds = Vec::new();
    for raw in events {
        let (text, kind) = event(format, raw).unwrap_or_else(|e| panic!("{}: {raw:?}", e.0));
        texts.push(text);
        kinds.push(kind);
    }
    let kind = kinds[0];
    assert!(kinds.iter().all(|k| *k == kind));
    let bytes = texts.iter().map(Vec::len).sum();
    let envelope = Envelope {
        kind,
        events: events.len(),
        bytes,
        id: "",
        first: ID,
        created_ns: 0,
        now_ns: 0,
        attempt: 1,
    };
    let mut body = Vec::new();
    format.open(&mut body, &envelope);
    body.extend_from_slice(&texts.join(format.between()));
    format.close(&mut body, &envelope);
    assert_eq!(body.len(), bytes + format.overhead(kind, events.len(), bytes));
    body
}

/// The request that those events become, which is the same in both encodings, and the same again when it is enqueued
/// as protobuf to be sent as JSON.
pub fn request<R: Request>(resource: &[(String, serde_json::Value)], events: &[&str]) -> R {
    let events: Vec<&[u8]> = events.iter().map(|e| e.as_bytes()).collect();
    let [protobuf, json] = BOTH.map(|encoding| {
        let format = Otlp::new(R::SIGNAL, encoding, resource);
        decode::<R>(encoding, &body(&format, &events))
    });
    assert_eq!(protobuf, json);
    let format = Otlp::new(R::SIGNAL, Encoding::Json, &[]);
    let decoded: R = decode(Encoding::Json, &body(&format, &[&protobuf.encode_to_vec()]));
    assert_eq!(protobuf, decoded);
    protobuf
}

/// The log record that an event becomes, with its attributes.
pub fn log(event: &str) -> LogRecord {
    let mut request: Logs = request(&[], &[event]);
    request.resource_logs.remove(0).scope_logs.remove(0).log_records.remove(0)
}

/// Why an event is refused, which is the same in both encodings.
pub fn refusal(signal: Signal, raw: &[u8]) -> &'static str {
    let [protobuf, json] = BOTH.map(|encoding| {
        let format = Otlp::new(signal, encoding, &[]);
        event(&format, raw).map(|_| ()).expect_err(&String::from_utf8_lossy(raw)).0
    });
    assert_eq!(protobuf, json);
    protobuf
}

pub fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

pub fn text(text: &str) -> AnyValue {
    any(Value::StringValue(text.into()))
}

/// The value of an attribute that is there once.
pub fn attribute<'a>(list: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let mut found = list.iter().filter(|kv| kv.key == key);
    let first = found.next()?;
    assert!(found.next().is_none(), "{key} twice");
    first.value.as_ref()?.value.as_ref()
}
