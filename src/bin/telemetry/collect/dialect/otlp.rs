//! OTLP over HTTP, logs and traces, in protobuf and in JSON.
//!
//! What a collector does: the answer is in the type of the request; 200 with an empty response is full
//! success; `partialSuccess` says how many were rejected, but not which, and is final; errors carry a
//! `google.rpc.Status`.
//!
//! A record is stored as one line of OTLP/JSON, the same whichever way it came: its own members and then
//! `resource` and `scope`, which in a request stand around it. A span's id is its trace's and its own; a
//! log record's is its attribute `telemetry.event.id`. The worker is the attribute `pid` or `process.pid`
//! of the record, else of its resource.

use super::{Dialect, Limits, Words};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, HARD_LIMIT, Head};
use crate::collect::scan::{Pid, Scan, hashed, id_of, pid_of};
use crate::collect::unpack::Encoding;
use crate::collect::walk::Cursor;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// See the module's text.
pub struct Otlp {
    /// Traces, or else logs.
    pub traces: bool,
}

const PROTOBUF: &str = "application/x-protobuf";

/// What an error carries.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn protobuf(head: &Head) -> bool {
    matches!(head.content_type().as_str(), PROTOBUF | "application/protobuf")
}

impl Dialect for Otlp {
    fn name(&self, _head: &Head) -> &'static str {
        if self.traces { "otlp-traces" } else { "otlp-logs" }
    }

    fn encodings(&self) -> &'static [Encoding] {
        &[Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd]
    }

    fn admit(&self, head: &Head) -> Result<(), Answer> {
        if protobuf(head) || head.content_type() == "application/json" {
            return Ok(());
        }
        Err(self.error(head, 415, "Content-Type: application/x-protobuf and application/json are taken"))
    }

    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let read = if self.traces { traces(head, body, batch) } else { logs(head, body, batch) };
        read.map_err(|why| self.error(head, 400, &why))
    }

    fn answer(&self, head: &Head, batch: &Batch) -> Answer {
        let (_, rejected) = batch.split();
        let why = batch.events.iter().find_map(|e| match e.verdict {
            Verdict::Refused(why) => Some(why),
            _ => None,
        });
        let message = why.unwrap_or_default().to_string();
        let partial = rejected > 0;
        if !protobuf(head) {
            let key = if self.traces { "rejectedSpans" } else { "rejectedLogRecords" };
            let body = if partial {
                json!({"partialSuccess": {key: rejected.to_string(), "errorMessage": message}})
            } else {
                json!({})
            };
            return Answer::json(200, body.to_string());
        }
        let rejected = rejected as i64;
        let body = if self.traces {
            let partial_success = partial
                .then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message: message });
            ExportTraceServiceResponse { partial_success }.encode_to_vec()
        } else {
            let partial_success = partial.then_some(ExportLogsPartialSuccess {
                rejected_log_records: rejected,
                error_message: message,
            });
            ExportLogsServiceResponse { partial_success }.encode_to_vec()
        };
        Answer { kind: PROTOBUF, ..Answer::json(200, body) }
    }

    fn error(&self, head: &Head, status: u16, text: &str) -> Answer {
        // The codes of gRPC that its mapping to HTTP gives.
        let code = match status {
            400 | 413 | 415 => 3,
            401 => 16,
            403 => 7,
            404 => 5,
            429 => 8,
            502..=504 => 14,
            _ => 13,
        };
        if protobuf(head) {
            let body = Status { code, message: text.into() }.encode_to_vec();
            return Answer { kind: PROTOBUF, ..Answer::json(status, body) };
        }
        Answer::json(status, json!({"code": code, "message": text}).to_string())
    }

    fn words(&self) -> Words {
        Words { refused: true, again: false }
    }

    fn limits(&self, _head: &Head) -> Limits {
        Limits::of_body(HARD_LIMIT, 413)
    }
}

fn decode<T: Message + Default + DeserializeOwned>(head: &Head, body: &[u8]) -> Result<T, String> {
    if protobuf(head) {
        T::decode(body).map_err(|e| e.to_string())
    } else {
        let mut c = Cursor::new(body)?;
        let request = c.object_as()?;
        c.end()?;
        Ok(request)
    }
}

fn logs(head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), String> {
    for group in decode::<ExportLogsServiceRequest>(head, body)?.resource_logs {
        let resource = group.resource.unwrap_or_default();
        let outer = pid(&resource.attributes);
        for scoped in group.scope_logs {
            let rest = around(&resource, &scoped.scope)?;
            for record in scoped.log_records {
                let id = match attribute(&record.attributes, "telemetry.event.id") {
                    Some(Value::StringValue(id)) => id_of(id),
                    _ => None,
                };
                let pid = pid(&record.attributes).or_else(|| outer.clone());
                line(&record, &rest, Scan { id, pid }, batch)?;
            }
        }
    }
    Ok(())
}

fn traces(head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), String> {
    for group in decode::<ExportTraceServiceRequest>(head, body)?.resource_spans {
        let resource = group.resource.unwrap_or_default();
        let outer = pid(&resource.attributes);
        for scoped in group.scope_spans {
            let rest = around(&resource, &scoped.scope)?;
            for span in scoped.spans {
                let named = !span.span_id.is_empty();
                let id = named.then(|| hashed((span.trace_id.as_slice(), span.span_id.as_slice())));
                let pid = pid(&span.attributes).or_else(|| outer.clone());
                line(&span, &rest, Scan { id, pid }, batch)?;
            }
        }
    }
    Ok(())
}

/// The members of a line that all records of a scope share.
fn around(resource: &impl Serialize, scope: &Option<impl Serialize>) -> Result<String, String> {
    let text = |e: serde_json::Error| e.to_string();
    let mut out = format!(",\"resource\":{}", serde_json::to_string(resource).map_err(text)?);
    if let Some(scope) = scope {
        out += ",\"scope\":";
        out += &serde_json::to_string(scope).map_err(text)?;
    }
    out.push('}');
    Ok(out)
}

fn line(record: &impl Serialize, rest: &str, scan: Scan, batch: &mut Batch) -> Result<(), String> {
    serde_json::to_writer(&mut batch.lines, record).map_err(|e| e.to_string())?;
    batch.lines.pop();
    batch.lines.extend_from_slice(rest.as_bytes());
    batch.ended(scan, Verdict::Taken);
    Ok(())
}

fn attribute<'a>(list: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    list.iter().find(|a| a.key == key).and_then(|a| a.value.as_ref()?.value.as_ref())
}

fn pid(list: &[KeyValue]) -> Option<Pid> {
    ["pid", "process.pid"].into_iter().find_map(|key| match attribute(list, key) {
        Some(Value::IntValue(n)) => u64::try_from(*n).ok().map(Pid::Number),
        Some(Value::StringValue(text)) => pid_of(text),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGS: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"api"}},
        {"key":"process.pid","value":{"intValue":9}}]},"scopeLogs":[{"scope":{"name":"libtelemetry"},"logRecords":[
        {"timeUnixNano":"1795228198004000000","severityNumber":9,"eventName":"job_done","body":{"stringValue":"done"},
        "attributes":[{"key":"ms","value":{"intValue":"42"}},{"key":"telemetry.event.id","value":{"stringValue":"x"}},
        {"key":"raw","value":{"bytesValue":"AAE="}},{"key":"list","value":{"arrayValue":{"values":[{"boolValue":true},{}]}}}],
        "traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","new":1},{"attributes":[
        {"key":"pid","value":{"stringValue":"w1"}}]}]}]}]}"#;
    const SPANS: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c",
        "spanId":"eee19b7ec3c1b174","name":"job","kind":1,"startTimeUnixNano":"1795228198000000000",
        "endTimeUnixNano":1795228198042000000,"status":{"code":1}}]}]}]}"#;

    fn json_head(path: &str) -> Head {
        Head::of(path, &[("Content-Type", "application/json")])
    }

    fn protobuf_head(path: &str) -> Head {
        Head::of(path, &[("Content-Type", PROTOBUF)])
    }

    fn read(traces: bool, head: &Head, body: &[u8]) -> Result<Batch, Answer> {
        let mut batch = Batch::default();
        Otlp { traces }.read(head, body, &mut batch)?;
        Ok(batch)
    }

    #[test]
    fn both_encodings_give_the_same_lines() {
        let (json, protobuf) = (json_head("/v1/logs"), protobuf_head("/v1/logs"));
        let request: ExportLogsServiceRequest = serde_json::from_str(LOGS).unwrap();
        let a = read(false, &json, LOGS.as_bytes()).ok().unwrap();
        let b = read(false, &protobuf, &request.encode_to_vec()).ok().unwrap();
        assert_eq!((&a.lines, a.events.len()), (&b.lines, 2));
        assert_eq!((a.events[0].key, a.events[1].key), (id_of("x"), None));
        assert_eq!(a.pids, [Pid::Number(9), Pid::Text("w1".into())]);
        let first: serde_json::Value =
            serde_json::from_slice(a.lines.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(first["resource"]["attributes"][0]["value"]["stringValue"], "api");
        assert_eq!(first["scope"]["name"], "libtelemetry");
        assert_eq!(
            (&first["spanId"], &first["timeUnixNano"]),
            (&json!("eee19b7ec3c1b174"), &json!("1795228198004000000"))
        );
        assert_eq!(first["attributes"][0], json!({"key": "ms", "value": {"intValue": "42"}}));
        assert_eq!(first["attributes"][2]["value"], json!({"bytesValue": "AAE="}));
        let request: ExportTraceServiceRequest = serde_json::from_str(SPANS).unwrap();
        let a = read(true, &json, SPANS.as_bytes()).ok().unwrap();
        let b = read(true, &protobuf, &request.encode_to_vec()).ok().unwrap();
        assert_eq!((&a.lines, a.events[0].key), (&b.lines, b.events[0].key));
        assert!(a.events[0].key.is_some());
    }

    #[test]
    fn answers_are_in_the_type_of_the_request() {
        let bad = read(false, &json_head("/v1/logs"), b"{\"resourceLogs\":7}").err().unwrap();
        assert_eq!((bad.status, bad.kind), (400, "application/json"));
        let bad = read(true, &protobuf_head("/v1/traces"), b"\x0a\xff").err().unwrap();
        assert_eq!((bad.status, bad.kind), (400, PROTOBUF));
        assert_eq!(Status::decode(&bad.body[..]).unwrap().code, 3);
        let otlp = Otlp { traces: false };
        assert_eq!(otlp.admit(&Head::of("/v1/logs", &[])).unwrap_err().status, 415);
        let mut batch = read(false, &json_head("/v1/logs"), LOGS.as_bytes()).ok().unwrap();
        assert_eq!(otlp.answer(&json_head("/v1/logs"), &batch).body, b"{}");
        assert_eq!(otlp.answer(&protobuf_head("/v1/logs"), &batch).body, b"");
        batch.events[1].verdict = Verdict::Refused("too long");
        let said: serde_json::Value =
            serde_json::from_slice(&otlp.answer(&json_head("/v1/logs"), &batch).body).unwrap();
        assert_eq!(said, json!({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "too long"}}));
        let said =
            ExportLogsServiceResponse::decode(&otlp.answer(&protobuf_head("/v1/logs"), &batch).body[..])
                .unwrap();
        let partial = said.partial_success.unwrap();
        assert_eq!((partial.rejected_log_records, partial.error_message.as_str()), (1, "too long"));
        let said = Otlp { traces: true }.answer(&protobuf_head("/v1/traces"), &batch);
        let said = ExportTraceServiceResponse::decode(&said.body[..]).unwrap();
        assert_eq!(said.partial_success.map(|p| p.rejected_spans), Some(1));
    }
}
