//! What the formats promise beyond the meaning of one answer: over retries, over batches, in the dead letter file.
use crate::collector::{Collector, Reply, Seen};
use crate::host::{Dir, Host, check, until};
use crate::languages::{IDS, LANGUAGES, OTLP, address, event, ids, keys, success};
use serde_json::{Value, json};
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::client::open::{self, OpenError};

fn open(format: &str, collector: &Collector) -> Host {
    Host::open(&address(format, collector.url()), keys(format))
}

fn body(request: &Seen) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

/// The body without what names the attempt's own time.
fn lasting(format: &str, request: &Seen) -> Vec<u8> {
    if OTLP.contains(&format) {
        return request.body.clone();
    }
    let mut text = request.text().to_string();
    let (name, end) = match format {
        "posthog" => ("\"sent_at\":\"", '"'),
        "segment" => ("\"sentAt\":\"", '"'),
        "sentry" => ("\"sent_at\":\"", '"'),
        _ => return text.into(),
    };
    let from = text.find(name).unwrap() + name.len();
    let to = from + text[from..].find(end).unwrap();
    assert_eq!(to - from, 24, "{text}");
    text.replace_range(from..to, "");
    text.into()
}

#[test]
fn what_is_filled_stays_over_retries() {
    for format in LANGUAGES.into_iter().chain(OTLP) {
        let collector = Collector::start(move |seen| match seen.number {
            0 => Reply::Cut,
            1 => Reply::Full(503, "Retry-After: 3600\r\n".into(), String::new()),
            _ => success(format),
        });
        let host = open(format, &collector);
        let mut plain: Value = serde_json::from_str(&event(format, IDS[0])).unwrap();
        // Neither an id nor a time of its own.
        for name in ["id", "uuid", "messageId"] {
            plain.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(host.enqueue(plain.to_string()), Status::Ok);
        host.flush_all();
        let requests = collector.wait(3);
        let bodies: Vec<Vec<u8>> = requests.iter().map(|r| lasting(format, r)).collect();
        assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2], "{format}: {bodies:?}");
        let filled = if format == "otlp-logs" { "\"observedTimeUnixNano\":" } else { "\"timestamp\":" };
        assert!(format == "otlp-traces" || requests[0].text().contains(filled), "{format}");
        let s = host.stats();
        assert_eq!((s.delivered, s.unverified, s.retries), (1, 0, 2), "{format}");
    }
}

#[test]
fn the_headers_of_an_attempt() {
    // Two refusals of the whole, then one that takes two of three.
    let partly = format!(r#"{{"results":{{"{}":{{"result":"retry"}}}}}}"#, IDS[1]);
    let collector = Collector::start(move |seen| match seen.number {
        0 | 1 => Reply::Full(503, "Retry-After: 3600\r\n".into(), String::new()),
        2 => Reply::Full(200, "Retry-After: 3600\r\n".into(), partly.clone()),
        _ => success("posthog-v1"),
    });
    let host = open("posthog-v1", &collector);
    for id in IDS {
        host.enqueue(event("posthog-v1", id));
    }
    host.flush_all();
    host.enqueue(event("posthog-v1", IDS[0]));
    host.flush_all();
    let requests = collector.wait(5);
    let header = |name: &str| -> Vec<String> {
        requests.iter().map(|r| r.header(name).unwrap_or_else(|| panic!("{name}")).to_string()).collect()
    };
    assert_eq!(
        requests.iter().map(ids).collect::<Vec<_>>(),
        [vec![0, 1, 2], vec![0, 1, 2], vec![0, 1, 2], vec![1], vec![0]]
    );
    assert!(requests.iter().all(|r| r.request_line() == "POST /i/v1/analytics/events HTTP/1.1"));
    assert_eq!(header("posthog-attempt"), ["1", "2", "3", "4", "1"]);
    let id = header("posthog-request-id");
    assert!(id[0] == id[1] && id[0] == id[2] && id[0] == id[3] && id[0] != id[4], "{id:?}");
    assert!(id[0].len() == 36 && id[0].as_bytes()[14] == b'7', "{id:?}");
    let created: Vec<String> = requests.iter().map(|r| body(r)["created_at"].to_string()).collect();
    assert!(created[0] == created[1] && created[0] == created[3], "{created:?}");
    // The pauses that were asked for are no shorter: the times of the attempts differ.
    let at = header("posthog-request-timestamp");
    assert!(at[0] < at[1] && at[1] < at[2] && at[2] < at[3], "{at:?}");
    assert!(created[0].trim_matches('"') <= at[0].as_str(), "{created:?} {at:?}");
    assert_eq!(header("authorization"), ["Bearer k3y"; 5]);
    assert!(header("posthog-sdk-info")[0].starts_with("libtelemetry/"));
    assert!(!requests[0].text().contains("k3y"));
}

#[test]
fn the_same_id_twice_goes_in_two_requests() {
    for format in ["posthog-v1", "langfuse"] {
        let collector = Collector::start(move |_| success(format));
        let host = open(format, &collector);
        for id in [IDS[0], IDS[1], IDS[0], IDS[2], IDS[0]] {
            host.enqueue(event(format, id));
        }
        host.flush_all();
        let requests = collector.wait(3);
        assert_eq!(
            requests.iter().map(ids).collect::<Vec<_>>(),
            [vec![0, 1], vec![0, 2], vec![0]],
            "{format}"
        );
        let once = |r: &Seen| IDS.iter().all(|id| r.text().matches(id).count() <= 1);
        assert!(requests.iter().all(once), "{format}");
        let s = host.stats();
        check(&s);
        assert_eq!((s.delivered, s.batches, s.retries), (5, 3, 0), "{format}");
    }
}

#[test]
fn what_is_too_large_once_is_not_sent_again() {
    for format in ["posthog", "posthog-v1", "langfuse", "langfuse-scores", "segment"] {
        const MOST: usize = 5000;
        let collector = Collector::start(move |seen| match seen.body.len() {
            0..=MOST => success(format),
            _ => Reply::Status(413),
        });
        let mut keys = keys(format);
        keys["compression"] = json!("none");
        let host = Host::open(&address(format, collector.url()), keys);
        let send = |n: usize| {
            for i in 0..n {
                let id = format!("0198a0c2-6d0e-7c11-8a77-{i:012}");
                assert_eq!(host.enqueue(event(format, &id)), Status::Ok);
            }
            host.flush_all();
        };
        send(200);
        let first = collector.count();
        assert!(collector.requests().iter().any(|r| r.body.len() > MOST), "{format}");
        send(200);
        let later = &collector.requests()[first..];
        assert!(later.iter().all(|r| r.body.len() <= MOST), "{format}: it asked again");
        // And not in crumbs.
        assert!(later.len() < 50, "{format}: {} requests", later.len());
        let s = host.stats();
        check(&s);
        assert_eq!((s.delivered, s.rejected), (400, 0), "{format}");
    }
}

fn sentry(kind: &str, n: usize) -> String {
    match kind {
        "log" => json!({"type": "log", "level": "info", "body": n.to_string()}).to_string(),
        kind => json!({"type": kind, "message": n.to_string()}).to_string(),
    }
}

/// Says to the first request how often it wants which kinds.
fn limiting(limits: &'static str) -> Collector {
    Collector::start(move |seen| match seen.number {
        0 => Reply::Full(200, format!("X-Sentry-Rate-Limits: {limits}\r\n"), "{}".into()),
        _ => Reply::Status(200),
    })
}

#[test]
fn a_rate_limit_of_sentry_drops_its_category_and_no_other() {
    let collector = limiting("3600:transaction;session:key, 3600:log_item:organization");
    let host = open("sentry", &collector);
    host.enqueue(sentry("event", 0));
    host.flush_all();
    for n in 1..4 {
        for kind in ["event", "transaction", "log"] {
            assert_eq!(host.enqueue(sentry(kind, n)), Status::Ok);
        }
    }
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.delivered, s.rejected, s.batches), (4, 6, 4), "a request an event, none for what is muted");
    assert!(collector.requests().iter().all(|r| r.text().contains(r#"{"type":"event","#)));
}

#[test]
fn a_rate_limit_of_sentry_has_its_time() {
    let collector = limiting("3600:transaction:key, 1:log_item:organization");
    let host = open("sentry", &collector);
    host.enqueue(sentry("event", 0));
    host.flush_all();
    // Logs are taken again when the time is over; transactions are not yet.
    until("logs are sent again", || {
        host.enqueue(sentry("log", 9));
        host.flush_all();
        collector.requests().iter().any(|r| r.text().contains("item_count"))
    });
    host.enqueue(sentry("transaction", 9));
    host.flush_all();
    assert!(!collector.requests().iter().any(|r| r.text().contains(r#"{"type":"transaction","#)));
    check(&host.stats());
}

#[test]
fn a_429_of_sentry_is_counted_once() {
    let collector = Collector::saying(vec![Reply::Full(429, "Retry-After: 3600\r\n".into(), String::new())]);
    let host = open("sentry", &collector);
    for n in 0..3 {
        for kind in ["event", "transaction", "log"] {
            host.enqueue(sentry(kind, n));
        }
    }
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.delivered, s.rejected, s.retries), (0, 9, 0));
    assert_eq!(collector.count(), 1, "the rest was not even sent");
}

#[test]
fn an_envelope_of_sentry() {
    let collector = Collector::kind();
    let host = open("sentry", &collector);
    let own = r#"{"event_id":"0198A0C2-6D0E-7C11-8A77-5D1C2E9B4F99","message":"own"}"#;
    for event in [own, r#"{"message":"filled"}"#] {
        host.enqueue(event);
    }
    for n in 0..250 {
        host.enqueue(sentry("log", n));
    }
    host.flush_all();
    let requests = collector.requests();
    let mut logs = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        assert_eq!(request.request_line(), "POST /api/7/envelope/ HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/x-sentry-envelope"));
        let auth = request.header("x-sentry-auth").unwrap();
        assert!(auth.starts_with("Sentry sentry_key=k3y, sentry_version=7, sentry_client=libtelemetry/"));
        assert_eq!(request.header("authorization"), None);
        let lines: Vec<&str> = request.text().lines().collect();
        let [head, item, payload] = [0, 1, 2].map(|i| serde_json::from_str::<Value>(lines[i]).unwrap());
        assert_eq!((lines.len(), item["length"].as_u64()), (3, Some(lines[2].len() as u64)), "{n}");
        match item["type"].as_str().unwrap() {
            "log" => {
                let items = payload["items"].as_array().unwrap();
                assert_eq!(item["item_count"], items.len());
                logs.push(items.len());
            }
            "event" => assert_eq!(head["event_id"], payload["event_id"], "{n}"),
            other => panic!("{other}"),
        }
    }
    logs.sort_unstable();
    assert_eq!(logs, [50, 100, 100]);
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().any(|r| r.text().contains(r#""event_id":"0198a0c26d0e7c118a775d1c2e9b4f99""#)));
    assert_eq!(host.stats().delivered, 252);
}

#[test]
fn each_refused_event_is_kept_with_its_own_reason() {
    let drop = |id: &str, why: &str| format!(r#""{id}":{{"result":"drop","details":"{why}"}}"#);
    let v1 = format!(r#"{{"results":{{{},{}}}}}"#, drop(IDS[0], "too old"), drop(IDS[2], "no such team"));
    let error = |id: &str, why: &str| format!(r#"{{"id":"{id}","status":400,"message":"{why}"}}"#);
    let lf = format!(r#"{{"errors":[{},{}]}}"#, error(IDS[0], "too old"), error(IDS[2], "no such team"));
    for (format, status, answer) in [("posthog-v1", 200, v1), ("langfuse", 207, lf)] {
        let collector = Collector::start(move |seen| match seen.number {
            0 => Reply::Full(status, String::new(), answer.clone()),
            _ => success(format),
        });
        let dir = Dir::new();
        let path = dir.0.join("dead.ndjson");
        let mut keys = keys(format);
        keys["dead_letter"] = json!(path.to_str().unwrap());
        let host = Host::open(&address(format, collector.url()), keys);
        host.enqueue(r#"{"event":7}"#);
        for id in IDS {
            host.enqueue(event(format, id));
        }
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.delivered, s.rejected, s.invalid), (1, 2, 1), "{format}");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0]["status"].is_null() && lines[0]["event"] == json!({"event": 7}), "{text}");
        assert!(lines[0]["reason"].as_str().unwrap().contains("not a text"), "{text}");
        for (line, (id, why)) in lines[1..].iter().zip([(IDS[0], "too old"), (IDS[2], "no such team")]) {
            assert_eq!((&line["reason"], &line["status"]), (&json!(why), &json!(status)), "{text}");
            assert!(line["event"].to_string().contains(id), "{text}");
        }
    }
}

#[test]
fn refusals_that_are_only_counted_are_not_pinned_on_anybody() {
    let answer = r#"{"accepted":2,"rejected":1,"errors":[{"message":"no such trace"}]}"#;
    let collector = Collector::start(move |_| Reply::Full(207, String::new(), answer.into()));
    let dir = Dir::new();
    let path = dir.0.join("dead.ndjson");
    let mut keys = keys("langfuse-scores");
    keys["dead_letter"] = json!(path.to_str().unwrap());
    let host = Host::open(&address("langfuse-scores", collector.url()), keys);
    for id in IDS {
        host.enqueue(event("langfuse-scores", id));
    }
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.delivered, s.rejected), (2, 1));
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert!(line["raw"].is_null() && line.get("event").is_none(), "{text}");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.starts_with("1 event") && reason.contains("no such trace"), "{text}");
}

#[test]
fn a_429_of_posthog_v1_pauses_and_sends_the_same_again() {
    let collector = Collector::start(|seen| match seen.number {
        0 => Reply::Full(429, "Retry-After: 1\r\n".into(), r#"{"error":"rate_limited"}"#.into()),
        _ => success("posthog-v1"),
    });
    let mut keys = keys("posthog-v1");
    keys["retry"]["max_ms"] = json!(5000);
    let host = Host::open(collector.url(), keys);
    for id in IDS {
        host.enqueue(event("posthog-v1", id));
    }
    host.flush_all();
    let requests = collector.wait(2);
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(1));
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!((host.stats().delivered, host.stats().circuit_open), (3, 0));
}

#[test]
fn langfuse_hears_the_public_key_alone() {
    for format in ["langfuse", "langfuse-scores"] {
        let collector = Collector::start(move |_| success(format));
        let host = open(format, &collector);
        host.enqueue(event(format, IDS[0]));
        host.flush_all();
        let request = &collector.wait(1)[0];
        let path = if format == "langfuse" { "/api/public/ingestion" } else { "/api/public/scores" };
        assert_eq!(request.request_line(), format!("POST {path} HTTP/1.1"));
        assert_eq!(request.header("x-langfuse-public-key"), Some("pk"));
        assert_eq!(request.header("x-langfuse-sdk-name"), Some("libtelemetry"));
        assert_eq!(request.header("authorization"), Some("Basic cGs6c2s="));
        assert!(!request.text().contains("sk"), "{}", request.text());
    }
}

/// An event of exactly so many bytes in which nothing is filled.
fn sized(format: &str, n: usize, len: usize) -> String {
    let id = format!("0198a0c2-6d0e-7c11-8a77-{n:012}");
    let mut event: Value = serde_json::from_str(&event(format, &id)).unwrap();
    event["timestamp"] = json!("2026-11-21T02:29:58.004Z");
    if format == "posthog-v1" {
        event["options"] = json!({});
        event["properties"] = json!({});
    }
    event["x"] = json!("");
    let bare = event.to_string().len();
    event["x"] = json!("x".repeat(len - bare));
    event.to_string()
}

/// Format, bytes of a body, bytes of an event.
const LIMITS: [(&str, usize, usize); 5] = [
    ("posthog", 20 << 20, 900 << 10),
    ("posthog-v1", 10 << 20, 900 << 10),
    ("langfuse", 2_500_000, 1_000_000),
    ("langfuse-scores", 1_000_000, 999_998),
    ("segment", 500_000, 32 << 10),
];

fn roomy(format: &'static str) -> (Collector, Host) {
    let collector = Collector::start(move |_| success(format));
    let mut keys = keys(format);
    keys["batch"] = json!({"max_bytes": 1 << 26, "max_events": 100_000});
    keys["queue_bytes"] = json!(64 << 20);
    keys["segment_bytes"] = json!(2 << 20);
    keys["max_event_bytes"] = json!(1 << 20);
    keys["compression"] = json!("none");
    let host = Host::open(collector.url(), keys);
    (collector, host)
}

#[test]
fn an_event_is_as_large_as_the_service_takes_and_no_larger() {
    for (format, _, most) in LIMITS {
        let (collector, host) = roomy(format);
        assert_eq!(host.enqueue(sized(format, 0, most)), Status::Ok, "{format}");
        assert_eq!(host.enqueue(sized(format, 1, most + 1)), Status::TooLarge, "{format}");
        // What is filled counts too.
        let mut event: Value = serde_json::from_str(&sized(format, 2, most)).unwrap();
        event.as_object_mut().unwrap().remove("timestamp");
        event["y"] = json!("");
        assert_eq!(host.enqueue(event.to_string()), Status::Ok, "{format}");
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.delivered, s.invalid, s.dropped_too_large), (1, 1, 1), "{format}");
        assert_eq!(collector.count(), 1);
    }
}

#[test]
fn a_body_is_as_large_as_the_service_takes_and_no_larger() {
    for (format, most, event) in LIMITS {
        let (collector, host) = roomy(format);
        let n = most / event + 2;
        let send = |lens: &[usize]| {
            let before = collector.count();
            for (n, len) in lens.iter().enumerate() {
                assert_eq!(host.enqueue(sized(format, n, *len)), Status::Ok, "{format}");
            }
            host.flush_all();
            collector.requests()[before..].iter().map(|r| r.body.len()).collect::<Vec<_>>()
        };
        let beside = send(&vec![300; n])[0] - 300 * n;
        let mut lens = vec![(most - beside) / n; n];
        lens[n - 1] = most - beside - lens[0] * (n - 1);
        assert_eq!(send(&lens), [most], "{format}");
        lens[n - 1] += 1;
        assert_eq!(send(&lens).len(), 2, "{format}");
        assert_eq!(host.stats().delivered, 3 * n as u64, "{format}");
    }
}

#[test]
fn segment_gets_2500_events_a_request() {
    let (collector, host) = roomy("segment");
    for n in 0..2501 {
        host.enqueue(sized("segment", n, 190));
    }
    host.flush_all();
    let events = |r: &Seen| r.text().matches("messageId").count();
    assert_eq!(collector.requests().iter().map(events).collect::<Vec<_>>(), [2500, 1]);
}

#[test]
fn a_dead_letter_file_that_is_a_directory_is_refused() {
    let dir = Dir::new();
    let keys = json!({"endpoint": "http://127.0.0.1:1/", "dead_letter": dir.0});
    let Err(OpenError::Config(why)) = open::open(&keys.to_string()) else { panic!("it was taken") };
    assert!(why.starts_with("dead_letter is \"") && why.contains("it is a directory; allowed: "), "{why}");
}
