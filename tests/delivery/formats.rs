//! The wire shape of each format, the headers, and the file endpoint.
use crate::collector::{Collector, Reply};
use crate::host::{Dir, Host};
use serde_json::{Value, json};
use std::time::Duration;
use telemetry::client::handle::Status;

#[test]
fn ndjson() {
    let collector = Collector::kind();
    let host = Host::open(&format!("{}/in?x=1", collector.url()), json!({}));
    host.fill(0..2);
    host.flush_all();
    let got = &collector.wait(1)[0];
    assert_eq!(got.request_line(), "POST /in?x=1 HTTP/1.1");
    assert_eq!(got.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(got.header("content-length").unwrap(), got.raw.len().to_string());
    assert_eq!(got.numbers(), [0, 1]);
}

#[test]
fn json_array() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"format": "json"}));
    host.fill(0..2);
    host.enqueue("[]");
    host.flush_all();
    host.number(2);
    host.flush_all();
    let requests = collector.wait(2);
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    let numbers = |i: usize| -> Vec<Value> {
        let body: Vec<Value> = serde_json::from_slice(&requests[i].body).unwrap();
        assert!(body.iter().all(|e| e["id"].is_string() && e["timestamp"].is_string()));
        body.into_iter().map(|mut e| e["n"].take()).collect()
    };
    assert_eq!((numbers(0), numbers(1)), (vec![json!(0), json!(1)], vec![json!(2)]));
}

#[test]
fn posthog() {
    let collector = Collector::saying(vec![Reply::Status(503)]);
    let keys = json!({"format": "posthog", "api_key": "phc_\"key", "retry": {"initial_ms": 200}});
    // `api_key` is visible ASCII, which has quotes.
    let host = Host::open(collector.url(), keys);
    host.enqueue(r#"{"event":"a","distinct_id":"w"}"#);
    host.enqueue(r#"{"event":"b","distinct_id":"w","uuid":"mine","timestamp":"then"}"#);
    let mut bodies: Vec<Value> = Vec::new();
    // The full jitter may give no pause at all, in which case `sent_at` may be the same.
    host.flush_all();
    for request in collector.wait(2) {
        assert_eq!(request.request_line(), "POST /batch/ HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/json"));
        bodies.push(serde_json::from_slice(&request.body).unwrap());
    }
    let sent: Vec<String> =
        bodies.iter_mut().map(|b| b["sent_at"].take().as_str().unwrap().to_string()).collect();
    assert!(sent.iter().all(|t| t.len() == 24 && t.ends_with('Z')), "{sent:?}");
    assert!(sent[0] <= sent[1], "{sent:?}");
    assert_eq!(bodies[0], bodies[1], "all but the time of the attempt is the same");
    let body = &bodies[0];
    assert_eq!(body["api_key"], "phc_\"key");
    let batch = body["batch"].as_array().unwrap();
    assert_eq!(batch.len(), 2);
    assert_eq!(batch[0]["uuid"].as_str().unwrap().len(), 36);
    assert!(batch[0]["timestamp"].is_string() && batch[0].get("id").is_none());
    assert_eq!((&batch[1]["uuid"], &batch[1]["timestamp"]), (&json!("mine"), &json!("then")));
}

#[test]
fn posthog_stamps_each_attempt() {
    // A pause that the collector asks for is no shorter than asked: the two times differ.
    let busy = Reply::Full(503, "Retry-After: 3600\r\n".into(), String::new());
    let collector = Collector::saying(vec![busy]);
    let keys = json!({"format": "posthog", "api_key": "k", "retry": {"max_ms": 50}});
    let host = Host::open(collector.url(), keys);
    host.enqueue(r#"{"event":"a","distinct_id":"w"}"#);
    host.flush_all();
    let sent: Vec<Value> = collector
        .wait(2)
        .iter()
        .map(|r| serde_json::from_slice::<Value>(&r.body).unwrap()["sent_at"].take())
        .collect();
    assert!(sent[0].as_str() < sent[1].as_str(), "{sent:?}");
}

#[test]
fn credentials_and_headers() {
    let cases = [
        (json!({"basic": "user:pass word"}), "authorization", "Basic dXNlcjpwYXNzIHdvcmQ="),
        (json!({"bearer": "t0ken"}), "authorization", "Bearer t0ken"),
        (json!({"headers": {"X-Team": "blue", "Authorization": "Custom x"}}), "authorization", "Custom x"),
        (json!({"headers": {"X-Team": "blue"}}), "x-team", "blue"),
    ];
    for (keys, name, value) in cases {
        let collector = Collector::saying(vec![Reply::Status(500)]);
        let host = Host::open(collector.url(), keys);
        host.number(1);
        host.flush_all();
        for request in collector.wait(2) {
            assert_eq!(request.header(name), Some(value));
            assert!(request.header("user-agent").unwrap().starts_with("libtelemetry/"));
        }
    }
}

#[test]
fn into_a_file() {
    let dir = Dir::new();
    let path = dir.0.join("events.ndjson");
    let url = format!("file:{}", path.display());
    let (a, b) = (Host::open(&url, json!({})), Host::open(&url, json!({"batch": {"max_events": 7}})));
    a.fill(0..1000);
    b.fill(1000..2000);
    a.enqueue("nonsense");
    a.flush_all();
    b.flush_all();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut numbers: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
    assert_eq!((a.stats().delivered, b.stats().delivered, a.stats().invalid), (1000, 1000, 1));
}

#[test]
fn into_a_file_whose_directory_comes_later() {
    let dir = Dir::new();
    let path = dir.0.join("later").join("events.ndjson");
    let host =
        Host::open(&format!("file:{}", path.display()), json!({"retry": {"initial_ms": 5, "max_ms": 5}}));
    host.number(1);
    assert_eq!(host.flush(Duration::from_millis(50)), Status::Timeout);
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    host.flush_all();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}
