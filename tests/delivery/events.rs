//! What becomes of an event's text.
use crate::collector::{Collector, Reply};
use crate::host::{Host, check};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use telemetry::client::handle::Status;

#[test]
fn id_and_timestamp_are_filled_only_where_missing() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    let before = SystemTime::now();
    for event in
        [r#"{"n":0}"#, r#"{"id":"mine","n":1}"#, r#"{"n":2,"timestamp":"then"}"#, "{}", r#"{"a":{"id":1}}"#]
    {
        assert_eq!(host.enqueue(event), Status::Ok);
    }
    host.flush_all();
    let e = collector.wait(1)[0].events();
    assert_eq!((&e[1]["id"], &e[2]["timestamp"]), (&json!("mine"), &json!("then")));
    assert_eq!(e[3].as_object().unwrap().len(), 2);
    for i in [0, 2, 3, 4] {
        let id = e[i]["id"].as_str().unwrap();
        assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "{id}");
        let ms = u64::from_str_radix(&id[..13].replace('-', ""), 16).unwrap();
        let at = UNIX_EPOCH + Duration::from_millis(ms + 1);
        assert!(before <= at && at <= SystemTime::now() + Duration::from_millis(1), "{id}");
    }
    for i in [0, 1, 3, 4] {
        let time = e[i]["timestamp"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
    let ids: std::collections::HashSet<&str> = e.iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 5);
}

#[test]
fn what_is_not_one_object_is_dropped_and_its_neighbours_go() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    let bad: [&[u8]; 9] = [
        b"not json",
        b"[1,2]",
        b"{\"a\":\"\xff\xfe\"}",
        b"{}{}",
        b"{\"a\":1} {\"b\":2}",
        b"{\"a\":",
        b"null",
        b"{\"a\":\"\n\"}",
        b" ",
    ];
    for (n, text) in bad.iter().enumerate() {
        host.number(n as u64);
        assert_eq!(host.enqueue(text), Status::Ok, "found out later");
    }
    host.number(9);
    host.flush_all();
    assert_eq!(collector.numbers(), (0..10).collect::<Vec<_>>());
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.invalid, s.delivered, s.queue_events), (19, 9, 10, 0));
}

#[test]
fn nothing_but_bad_events_makes_no_request() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    for _ in 0..2000 {
        host.enqueue("nonsense");
    }
    host.flush_all();
    assert_eq!((host.stats().invalid, collector.count()), (2000, 0));
}

#[test]
fn refused_at_the_door() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"max_event_bytes": 100}));
    assert_eq!(host.enqueue(""), Status::Invalid);
    assert_eq!(host.enqueue("x".repeat(101)), Status::TooLarge);
    let fits = format!("{{\"n\":1,\"x\":\"{}\"}}", "x".repeat(100 - 14));
    assert_eq!((fits.len(), host.enqueue(&fits)), (100, Status::Ok));
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.accepted, s.dropped_too_large, s.delivered), (1, 1, 1));
}

#[test]
fn a_pretty_printed_event_is_one_line() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    let event = json!({"n": 7, "text": "a\nb\r\u{2028}", "list": [1, {"deep": []}]});
    let pretty = serde_json::to_string_pretty(&event).unwrap().replace('\n', "\r\n") + "\n";
    assert_eq!(host.enqueue(&pretty), Status::Ok);
    host.number(8);
    host.flush_all();
    let got = &collector.wait(1)[0];
    assert_eq!(got.text().matches('\n').count(), 2, "{:?}", got.text());
    let mut first = got.events().remove(0);
    let object = first.as_object_mut().unwrap();
    assert!(object.remove("id").is_some() && object.remove("timestamp").is_some());
    assert_eq!(first, event);
}

#[test]
fn the_same_under_the_same_id_on_every_attempt() {
    for trouble in [Reply::Status(500), Reply::Cut] {
        let collector = Collector::saying(vec![trouble, Reply::Status(503)]);
        let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 1}}));
        host.fill(0..3);
        host.flush_all();
        let requests = collector.wait(3);
        assert_eq!(requests.len(), 3);
        let key = requests[0].header("idempotency-key").unwrap();
        assert!(!key.is_empty());
        for again in &requests[1..] {
            assert_eq!(again.body, requests[0].body);
            assert_eq!(again.header("idempotency-key").unwrap(), key);
        }
        let s = host.stats();
        check(&s);
        assert_eq!((s.batches, s.retries, s.delivered), (1, 2, 3));
        // Another batch, another key.
        host.number(3);
        host.flush_all();
        assert_ne!(collector.wait(4)[3].header("idempotency-key").unwrap(), key);
    }
}

#[test]
fn gzip_above_a_kibibyte() {
    for (compression, len, packed) in
        [("gzip", 1023, false), ("gzip", 1024, true), ("gzip", 20_000, true), ("none", 20_000, false)]
    {
        let collector = Collector::kind();
        let host = Host::open(collector.url(), json!({"compression": compression}));
        let start = r#"{"id":"i","timestamp":"t","x":""#;
        let event = format!("{start}{}\"}}", "y".repeat(len - start.len() - 2));
        assert_eq!(host.enqueue(&event), Status::Ok);
        host.flush_all();
        let got = &collector.wait(1)[0];
        assert_eq!(got.is_gzip(), packed, "{compression}, {len} bytes and a newline");
        assert_eq!(got.text(), event + "\n");
        assert!(!packed || got.raw.len() < got.body.len());
        let s = host.stats();
        assert_eq!((s.bytes_in, s.bytes_out), (len as u64, got.raw.len() as u64));
    }
}

#[test]
fn a_full_default_batch_survives_compression() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    for n in 0..1000u64 {
        let noise: String =
            (0..200u64).map(|i| char::from(b'a' + ((n * 31 + i * i * 17) % 26) as u8)).collect();
        host.enqueue(json!({"n": n, "noise": noise}).to_string());
    }
    host.flush_all();
    assert_eq!(collector.numbers(), (0..1000).collect::<Vec<_>>());
    assert!(
        collector
            .requests()
            .iter()
            .all(|r| r.is_gzip() && r.events().iter().all(|e| e["noise"] != Value::Null))
    );
}
