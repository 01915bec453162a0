//! Each format with the bodies of its service: what is answered, stored and counted, and that a bad body
//! harms nobody.

use super::kit::{Answer, Collector, gzip};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};

pub const BASIC: &str = "Authorization: Basic cGs6c2s=";
pub const JSON: &str = "Content-Type: application/json";
pub const PROTOBUF: &str = "Content-Type: application/x-protobuf";
pub const SENTRY: &str = "X-Sentry-Auth: Sentry sentry_key=k, sentry_version=7, sentry_client=t/1";
pub const V1: [&str; 7] = [
    JSON,
    "Authorization: Bearer phc_x",
    "User-Agent: test/1",
    "PostHog-Sdk-Info: libtelemetry/1.0.0",
    "PostHog-Attempt: 1",
    "PostHog-Request-Id: 0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
    "PostHog-Request-Timestamp: 2026-11-21T02:30:00.120Z",
];

pub fn uuid(n: usize) -> String {
    format!("0198a0c2-6d0e-7c11-8a77-{n:012x}")
}

pub fn posthog(ids: &[usize]) -> String {
    let batch: Vec<Value> = ids
        .iter()
        .map(|n| {
            json!({"event": "job_done", "distinct_id": "w-17", "uuid": uuid(*n),
                "timestamp": "2026-11-21T02:29:58.004Z", "properties": {"ms": 42, "pid": 11}})
        })
        .collect();
    json!({"api_key": "phc_x", "historical_migration": false, "sent_at": "2026-11-21T02:30:00.120Z",
        "created_at": "2026-11-21T02:30:00Z", "batch": batch})
    .to_string()
}

pub fn langfuse(ids: &[usize]) -> String {
    let batch: Vec<Value> = ids
        .iter()
        .map(|n| {
            json!({"id": format!("m-{n}"), "type": "score-create", "timestamp": "2026-11-21T02:30:00.000Z",
                "body": {"id": "s-9", "traceId": "5b8efff798038103d269b633813fc60c", "name": "ok", "value": 1,
                    "dataType": "BOOLEAN", "metadata": {"pid": 12}}})
        })
        .collect();
    json!({"batch": batch, "metadata": {"sdk_name": "libtelemetry"}}).to_string()
}

pub fn scores(ids: &[usize]) -> String {
    let list: Vec<Value> = ids
        .iter()
        .map(|n| json!({"id": format!("s-{n}"), "name": "ok", "value": 0.5, "metadata": {"pid": 13}}))
        .collect();
    json!(list).to_string()
}

pub fn segment(ids: &[usize]) -> String {
    let batch: Vec<Value> = ids
        .iter()
        .map(|n| {
            json!({"type": "track", "messageId": uuid(*n), "userId": "w-17", "event": "job_done",
                "timestamp": "2026-11-21T02:29:58.004Z", "properties": {"ms": 42}, "context": {"pid": 14}})
        })
        .collect();
    json!({"writeKey": "wk", "sentAt": "2026-11-21T02:30:00.120Z", "batch": batch}).to_string()
}

pub fn logs(ids: &[usize]) -> String {
    let records: Vec<Value> = ids
        .iter()
        .map(|n| {
            json!({"timeUnixNano": "1795228198004000000", "severityNumber": 9, "eventName": "job_done",
                "body": {"stringValue": "done"}, "traceId": "5b8efff798038103d269b633813fc60c",
                "attributes": [{"key": "telemetry.event.id", "value": {"stringValue": uuid(*n)}}]})
        })
        .collect();
    json!({"resourceLogs": [{"resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": "api"}},
            {"key": "process.pid", "value": {"intValue": "15"}}]},
        "scopeLogs": [{"scope": {"name": "libtelemetry"}, "logRecords": records}]}]})
    .to_string()
}

pub fn spans(ids: &[usize]) -> String {
    let spans: Vec<Value> = ids
        .iter()
        .map(|n| {
            json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": format!("{n:016x}"), "name": "job",
                "kind": 1, "startTimeUnixNano": "1795228198000000000", "endTimeUnixNano": "1795228198042000000",
                "attributes": [{"key": "pid", "value": {"intValue": 16}}], "status": {"code": 1}})
        })
        .collect();
    json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).to_string()
}

pub fn protobuf<T: Message + serde::de::DeserializeOwned>(json: &str) -> Vec<u8> {
    serde_json::from_str::<T>(json).unwrap().encode_to_vec()
}

pub fn envelope(n: usize) -> String {
    let id = uuid(n).replace('-', "");
    let event =
        json!({"event_id": id, "level": "info", "message": "job_done", "tags": {"pid": 17}}).to_string();
    format!(
        "{{\"event_id\":\"{id}\",\"sent_at\":\"2026-11-21T02:30:00.120Z\"}}\n\
         {{\"type\":\"event\",\"length\":{},\"content_type\":\"application/json\"}}\n{event}\n",
        event.len()
    )
}

/// Sends the body two times: its events are received two times and unique once, by format and by worker.
fn twice(
    c: &Collector,
    format: &str,
    pid: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
    n: u64,
) -> Answer {
    let first = c.ask("POST", path, headers, body);
    let second = c.ask("POST", path, headers, body);
    assert_eq!(first.status, second.status, "{format}");
    let s = c.stats();
    let row = &s["by_format"][format];
    assert_eq!(
        (&row["requests"], &row["received"], &row["unique"]),
        (&json!(2), &json!(2 * n), &json!(n)),
        "{s}"
    );
    let row = &s["by_pid"][pid];
    assert_eq!((&row["received"], &row["unique"]), (&json!(2 * n), &json!(n)), "{format}: {s}");
    first
}

#[test]
fn each_service_is_answered_in_its_own_words() {
    let c = Collector::start(&[]);
    let a = twice(&c, "posthog", "11", "/batch/", &[JSON], posthog(&[1, 2]).as_bytes(), 2);
    assert_eq!((a.status, a.json()), (200, json!({"status": "Ok"})));
    let body = posthog(&[3]).replace("\"pid\":11", "\"pid\":18");
    let a = twice(&c, "posthog-v1", "18", "/i/v1/analytics/events", &V1, body.as_bytes(), 1);
    assert_eq!((a.status, a.json()), (200, json!({"results": {uuid(3): {"result": "ok"}}})));
    let a =
        twice(&c, "langfuse", "12", "/api/public/ingestion", &[JSON, BASIC], langfuse(&[1, 2]).as_bytes(), 2);
    let successes = json!([{"id": "m-1", "status": 201}, {"id": "m-2", "status": 201}]);
    assert_eq!((a.status, a.json()), (207, json!({"successes": successes, "errors": []})));
    let a =
        twice(&c, "langfuse-scores", "13", "/api/public/scores", &[JSON, BASIC], scores(&[1]).as_bytes(), 1);
    assert_eq!((a.status, a.json()), (202, json!({"message": "Accepted"})));
    let a = twice(&c, "segment", "14", "/v1/batch", &[JSON], segment(&[4, 5, 6]).as_bytes(), 3);
    assert_eq!((a.status, a.json()), (200, json!({"success": true})));
    let a = twice(&c, "otlp-logs", "15", "/v1/logs", &[JSON], logs(&[7, 8]).as_bytes(), 2);
    assert_eq!((a.status, a.json()), (200, json!({})));
    let a = twice(&c, "otlp-traces", "16", "/otel/v1/traces", &[JSON], spans(&[1]).as_bytes(), 1);
    assert_eq!((a.status, a.json()), (200, json!({})));
    let a = twice(&c, "sentry", "17", "/api/7/envelope/", &[SENTRY], envelope(9).as_bytes(), 1);
    assert_eq!((a.status, a.json()), (200, json!({"id": uuid(9).replace('-', "")})));
}

#[test]
fn otlp_in_protobuf_is_stored_as_otlp_in_json_is() {
    let c = Collector::start(&[]);
    c.ask("POST", "/v1/logs", &[JSON], logs(&[1]).as_bytes());
    c.ask("POST", "/v1/traces", &[JSON], spans(&[2]).as_bytes());
    let a = c.ask("POST", "/v1/logs", &[PROTOBUF], &protobuf::<ExportLogsServiceRequest>(&logs(&[1])));
    assert_eq!((a.status, a.body.as_slice()), (200, &b""[..]));
    assert!(a.headers.contains("Content-Type: application/x-protobuf"), "{}", a.headers);
    assert_eq!(ExportLogsServiceResponse::decode(&a.body[..]).unwrap().partial_success, None);
    let packed = gzip(&protobuf::<ExportTraceServiceRequest>(&spans(&[2])));
    let a = c.ask("POST", "/v1/traces", &[PROTOBUF, "Content-Encoding: gzip"], &packed);
    assert_eq!(a.status, 200);
    let stored = c.stored();
    let lines: Vec<&str> = stored.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (4, lines[2], lines[3]));
    let log: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(
        log["resource"]["attributes"][0],
        json!({"key": "service.name", "value": {"stringValue": "api"}})
    );
    assert_eq!(
        (&log["scope"]["name"], &log["body"]),
        (&json!("libtelemetry"), &json!({"stringValue": "done"}))
    );
    let span: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(
        (&span["spanId"], &span["endTimeUnixNano"]),
        (&json!("0000000000000002"), &json!("1795228198042000000"))
    );
    let s = c.stats();
    assert_eq!((&s["received"], &s["unique"], &s["without_id"]), (&json!(4), &json!(2), &json!(0)));
}

#[test]
fn a_bad_body_is_400_and_harms_nobody() {
    let c = Collector::start(&[]);
    let v1_twice = posthog(&[1, 1]);
    let mut requests = 0;
    for (path, headers, bodies) in [
        ("/batch/", &[JSON][..], &["", "{", "{\"api_key\":\"k\",\"batch\":[{}]}", "\u{0}"][..]),
        ("/i/v1/analytics/events", &V1, &["", "{", "{\"batch\":[]}", &v1_twice]),
        ("/api/public/ingestion", &[JSON, BASIC], &["", "{", "{}", "[]", "{\"batch\":7}"]),
        ("/api/public/scores", &[JSON, BASIC], &["", "[", "7", "[]"]),
        ("/v1/batch", &[JSON], &["", "{", "{}", "{\"batch\":[7]}", "[]"]),
        ("/v1/logs", &[JSON], &["", "{", "[]", "{\"resourceLogs\":7}"]),
        ("/v1/traces", &[PROTOBUF], &["\u{8}", "\u{a}\u{7f}x", "{}"]),
        ("/api/7/envelope/", &[SENTRY], &["", "x", "{}\n{\"type\":\"event\",\"length\":99}\n{}"]),
    ] {
        for body in bodies {
            let a = c.ask("POST", path, headers, body.as_bytes());
            assert_eq!(a.status, 400, "{path}: {body:?}: {}", a.text());
            assert!(!a.body.is_empty());
            requests += 1;
        }
    }
    let s = c.stats();
    assert_eq!(
        (&s["received"], &s["by_status"], c.stored().as_str()),
        (&json!(0), &json!({"400": requests}), "")
    );
    assert_eq!(c.ask("POST", "/batch/", &[JSON], posthog(&[1]).as_bytes()).status, 200);
}

#[test]
fn who_may_not_send_is_told_so() {
    let c = Collector::start(&[]);
    let keyless = posthog(&[1]).replace("phc_x", "");
    for (path, headers, body) in [
        ("/batch/", &[JSON][..], keyless.as_str()),
        ("/i/v1/analytics/events", &V1[2..], "{}"),
        ("/api/public/ingestion", &[JSON], "{}"),
        ("/api/public/scores", &["Authorization: Bearer x"], "[]"),
        ("/v1/track", &[JSON], "{\"userId\":\"u\",\"event\":\"e\"}"),
        ("/api/7/envelope/", &[], "{}\n{\"type\":\"event\"}\n{}"),
        ("/api/public/media", &[JSON], "{}"),
    ] {
        let a = c.ask("POST", path, headers, body.as_bytes());
        assert_eq!(a.status, 401, "{path}: {}", a.text());
    }
    for left_out in 2..V1.len() {
        let headers: Vec<&str> = (0..V1.len()).filter(|i| *i != left_out).map(|i| V1[i]).collect();
        let a = c.ask("POST", "/i/v1/ai/events", &headers, posthog(&[1]).as_bytes());
        assert_eq!((a.status, &a.json()["error"]), (400, &json!("missing_required_headers")));
        assert!(a.json()["error_uri"].is_string() && a.json()["error_description"].is_string());
    }
    assert_eq!(c.count("received"), 0);
}

#[test]
fn encodings_that_a_format_does_not_take_are_415() {
    let c = Collector::start(&[]);
    let zstd = |body: &str| zstd::encode_all(body.as_bytes(), 1).unwrap();
    let v1 = [&V1[..], &["Content-Encoding: zstd"]].concat();
    let with = |encoding: &'static str| [JSON, BASIC, SENTRY, encoding];
    for (path, headers, body, status) in [
        ("/x", &["Content-Encoding: zstd"][..], zstd("{}\n{}\n"), 200),
        ("/x", &[JSON, "Content-Encoding: zstd"], zstd("[{}]"), 200),
        ("/i/v1/analytics/events", &v1, zstd(&posthog(&[1])), 200),
        ("/v1/logs", &with("Content-Encoding: zstd"), zstd(&logs(&[2])), 200),
        ("/batch/", &with("Content-Encoding: zstd"), zstd(&posthog(&[1])), 415),
        ("/api/public/ingestion", &with("Content-Encoding: zstd"), zstd(&langfuse(&[1])), 415),
        ("/api/public/scores", &with("Content-Encoding: zstd"), zstd(&scores(&[1])), 415),
        ("/v1/batch", &with("Content-Encoding: zstd"), zstd(&segment(&[1])), 415),
        ("/api/7/envelope/", &with("Content-Encoding: zstd"), zstd(&envelope(1)), 415),
        ("/v1/logs", &["Content-Type: text/plain"], logs(&[1]).into(), 415),
        ("/v1/batch", &with("Content-Encoding: br"), segment(&[1]).into(), 415),
        ("/batch/", &with("Content-Encoding: gzip"), gzip(posthog(&[1]).as_bytes()), 200),
        ("/api/7/envelope/", &with("Content-Encoding: gzip"), gzip(envelope(1).as_bytes()), 200),
    ] {
        let a = c.ask("POST", path, headers, &body);
        assert_eq!(a.status, status, "{path} {headers:?}: {}", a.text());
    }
    assert_eq!(c.count("received"), 3 + 1 + 1 + 1 + 1);
}

#[test]
fn sentrys_logs_and_reports_are_told_apart() {
    let c = Collector::start(&[]);
    let body = "{}\n{\"type\":\"log\",\"item_count\":2,\"content_type\":\"application/vnd.sentry.items.log+json\"}\n\
        {\"items\":[{\"body\":\"a\",\"attributes\":{\"pid\":{\"value\":5,\"type\":\"integer\"}}},{\"body\":\"b\"}]}\n\
        {\"type\":\"client_report\"}\n{\"discarded_events\":[{\"reason\":\"queue_overflow\",\"category\":\"error\",\"quantity\":4}]}\n";
    assert_eq!(c.ask("POST", "/api/7/envelope/", &[SENTRY], body.as_bytes()).status, 200);
    let s = c.stats();
    assert_eq!((&s["received"], &s["by_pid"]["5"]["received"]), (&json!(2), &json!(1)));
    assert_eq!(s["client_reports"], json!({"queue_overflow/error": 4}));
}
