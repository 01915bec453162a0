//! The faults that speak of single events: in each format's own words, and in the counts.

use super::formats::{
    BASIC, JSON, PROTOBUF, SENTRY, V1, envelope, langfuse, logs, posthog, protobuf, scores, segment, spans,
    uuid,
};
use super::kit::{Answer, Collector};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message;
use serde_json::{Value, json};

const N: usize = 200;

fn ids() -> Vec<usize> {
    (0..N).collect()
}

/// What a format's row says: received, refused, again.
fn row(c: &Collector, format: &str) -> [u64; 3] {
    let s = c.stats();
    ["received", "refused", "again"].map(|k| s["by_format"][format][k].as_u64().unwrap())
}

fn header(a: &Answer, name: &str) -> Option<String> {
    a.headers.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ").map(str::to_string))
}

fn count(list: &Value, f: impl Fn(&Value) -> bool) -> u64 {
    match list {
        Value::Array(a) => a.iter().filter(|v| f(v)).count() as u64,
        Value::Object(o) => o.values().filter(|v| f(v)).count() as u64,
        _ => panic!("{list}"),
    }
}

#[test]
fn posthog_v1_says_drop_and_retry() {
    let c = Collector::start(&["--fault", "partial=30,again=30"]);
    let a = c.ask("POST", "/i/v1/analytics/events", &V1, posthog(&ids()).as_bytes());
    let results = a.json()["results"].clone();
    let of = |result: &str| count(&results, |v| v["result"] == result);
    let [received, refused, again] = row(&c, "posthog-v1");
    assert_eq!((of("ok"), of("drop"), of("retry")), (received, refused, again));
    assert_eq!(received + refused + again, N as u64);
    assert!(received > 50 && refused > 30 && again > 20, "{received} {refused} {again}");
    assert_eq!(header(&a, "Retry-After").as_deref(), Some("1"));
    // What is stored is what was said to be taken.
    let stored = c.stored();
    assert_eq!(stored.lines().count() as u64, received);
    for line in stored.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(results[event["uuid"].as_str().unwrap()]["result"], "ok");
    }
    // Asked for again, they come again, until all are there.
    let mut left: Vec<usize> = ids().into_iter().filter(|n| results[uuid(*n)]["result"] == "retry").collect();
    c.fault("again=50@2");
    while !left.is_empty() {
        let a = c.ask("POST", "/i/v1/analytics/events", &V1, posthog(&left).as_bytes());
        left.retain(|n| a.json()["results"][uuid(*n)]["result"] == "retry");
    }
    let s = c.stats();
    assert_eq!((&s["received"], &s["duplicates"]), (&json!(N as u64 - refused), &json!(0)));
}

#[test]
fn langfuse_lists_400_and_429() {
    let c = Collector::start(&["--fault", "partial=30,again=30"]);
    let a = c.ask("POST", "/api/public/ingestion", &[JSON, BASIC], langfuse(&ids()).as_bytes());
    let said = a.json();
    let of = |status: u64| count(&said["errors"], |v| v["status"] == status);
    let [received, refused, again] = row(&c, "langfuse");
    assert_eq!((a.status, count(&said["successes"], |v| v["status"] == 201)), (207, received));
    assert_eq!((of(400), of(429), received + refused + again), (refused, again, N as u64));
    assert!(refused > 30 && again > 20, "{refused} {again}");
}

#[test]
fn counts_where_there_are_no_ids() {
    let c = Collector::start(&["--fault", "partial=40,again=100"]);
    let a = c.ask("POST", "/api/public/scores", &[JSON, BASIC], scores(&ids()).as_bytes());
    let [received, refused, again] = row(&c, "langfuse-scores");
    let said = a.json();
    assert_eq!((a.status, &said["accepted"], &said["rejected"]), (207, &json!(received), &json!(refused)));
    assert_eq!((count(&said["errors"], |e| e["message"].is_string()), again), (refused, 0));
    assert!(refused > 40, "{refused}");
    let a = c.ask("POST", "/v1/traces", &[JSON], spans(&ids()).as_bytes());
    let [_, refused, again] = row(&c, "otlp-traces");
    assert_eq!((a.status, &a.json()["partialSuccess"]["rejectedSpans"]), (200, &json!(refused.to_string())));
    assert_eq!(again, 0);
    let body = protobuf::<ExportLogsServiceRequest>(&logs(&ids()));
    let a = c.ask("POST", "/v1/logs", &[PROTOBUF], &body);
    let [received, refused, _] = row(&c, "otlp-logs");
    let partial = ExportLogsServiceResponse::decode(&a.body[..]).unwrap().partial_success.unwrap();
    assert_eq!((partial.rejected_log_records as u64, received + refused), (refused, N as u64));
    assert!(!partial.error_message.is_empty());
}

#[test]
fn lines_are_rejected_by_their_numbers() {
    let c = Collector::start(&["--fault", "partial=50@1"]);
    let body: String = (0..N).map(|n| format!("{{\"id\":\"{n}\"}}\n\n")).collect();
    let a = c.ask("POST", "/x", &["Content-Type: application/x-ndjson"], body.as_bytes());
    let [received, refused, _] = row(&c, "ndjson");
    let said = a.json();
    assert_eq!((a.status, &said["accepted"]), (200, &json!(received)));
    let rejected: Vec<String> = said["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| format!("{{\"id\":\"{}\"}}", r["line"].as_u64().unwrap()))
        .collect();
    assert_eq!(rejected.len() as u64, refused);
    let stored = c.stored();
    assert!(stored.lines().all(|line| !rejected.iter().any(|r| r == line)), "a rejected line is stored");
    assert_eq!((stored.lines().count() as u64, received + refused), (received, N as u64));
    let a = c.ask("POST", "/x", &[], body.as_bytes());
    assert_eq!(a.json(), json!({"status": 1, "accepted": N}), "it was for one request");
}

#[test]
fn sentry_limits_the_rate() {
    let c = Collector::start(&["--fault", "partial=100@1,quota=7@2"]);
    let mut seen = Vec::new();
    for n in 0..3 {
        let a = c.ask("POST", "/api/7/envelope/", &[SENTRY], envelope(n).as_bytes());
        seen.push((a.status, header(&a, "X-Sentry-Rate-Limits"), header(&a, "Retry-After")));
    }
    let limit = |s: u64| Some(format!("{s}:error:organization:quota_exceeded"));
    assert_eq!(seen[0], (429, limit(7), Some("7".into())), "over the quota is more than a share");
    assert_eq!(seen[1], (429, limit(7), Some("7".into())));
    assert_eq!(seen[2], (200, None, None));
    c.fault("partial=100");
    let a = c.ask("POST", "/api/7/envelope/", &[SENTRY], envelope(4).as_bytes());
    assert_eq!((a.status, header(&a, "X-Sentry-Rate-Limits")), (429, limit(1)));
    assert_eq!(row(&c, "sentry"), [1, 3, 0]);
}

#[test]
fn over_the_quota() {
    let c = Collector::start(&["--fault", "quota=9"]);
    let ask = |path: &str, headers: &[&str], body: String| c.ask("POST", path, headers, body.as_bytes());
    let a = ask("/batch/", &[JSON], posthog(&[1]));
    assert_eq!((a.status, a.json()), (200, json!({"status": "Ok", "quota_limited": ["events"]})));
    let a = ask("/i/v1/analytics/events", &V1, posthog(&[1]));
    assert_eq!(a.json()["results"][uuid(1)], json!({"result": "drop", "details": "billing_limit_exceeded"}));
    assert_eq!(ask("/api/public/ingestion", &[JSON, BASIC], langfuse(&[1])).status, 403);
    assert_eq!(ask("/api/public/scores", &[JSON, BASIC], scores(&[1])).status, 403);
    assert_eq!(ask("/api/public/media", &[JSON, BASIC], "{}".into()).status, 403);
    for (path, body) in [("/v1/batch", segment(&[1])), ("/v1/logs", logs(&[1])), ("/x", "{}".into())] {
        let a = ask(path, &[JSON], body);
        assert_eq!((a.status, header(&a, "Retry-After").as_deref()), (429, Some("9")), "{path}");
    }
    let s = c.stats();
    assert_eq!((&s["received"], &s["refused"], c.stored().as_str()), (&json!(0), &json!(7), ""));
    // A body that is bad is bad before it is counted against a quota.
    assert_eq!(ask("/batch/", &[JSON], "{".into()).status, 400);
}

#[test]
fn formats_without_words_for_it_take_all() {
    let c = Collector::start(&["--fault", "partial=100,again=100"]);
    for (format, path, headers, body) in [
        ("posthog", "/batch/", &[JSON][..], posthog(&ids())),
        ("segment", "/v1/batch", &[JSON], segment(&ids())),
    ] {
        assert_eq!(c.ask("POST", path, headers, body.as_bytes()).status, 200);
        assert_eq!(row(&c, format), [N as u64, 0, 0]);
    }
}

#[test]
fn a_fault_is_said_in_the_services_words() {
    let c = Collector::start(&["--fault", "503"]);
    let a = c.ask("POST", "/i/v1/analytics/events", &V1, b"{}");
    assert_eq!((a.status, &a.json()["error"]), (503, &json!("service_unavailable")));
    assert_eq!(header(&a, "Retry-After"), None, "only if it is asked for");
    c.fault("429=3");
    let a = c.ask("POST", "/v1/logs", &[JSON], b"{}");
    assert_eq!(
        (a.status, &a.json()["code"], header(&a, "Retry-After").as_deref()),
        (429, &json!(8), Some("3"))
    );
    let a = c.ask("POST", "/api/public/scores", &[BASIC], b"[]");
    assert!(a.json()["message"].is_string());
    let a = c.ask("POST", "/batch/", &[], b"{}");
    assert!(a.headers.contains("text/plain"), "{}", a.headers);
}
