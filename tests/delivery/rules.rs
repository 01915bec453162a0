//! What the rules of the configuration do to events, on their way through a real client.
use crate::collector::{Collector, Latch, Reply, Seen};
use crate::host::{Dir, HOUR_MS, Host, alone, check, until};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use telemetry::client::handle::Status;

/// Each format: its keys, an event of it, and where in that the context goes (`@`).
const FORMATS: [(&str, &str, &str); 8] = [
    ("ndjson", "{@}", ""),
    ("json", "{@}", ""),
    ("posthog", r#"{"event":"e","distinct_id":"d","properties":{@}}"#, "properties."),
    ("posthog-v1", r#"{"event":"e","distinct_id":"d","properties":{@}}"#, "properties."),
    ("langfuse", r#"{"type":"trace-create","body":{"id":"t","metadata":{@}}}"#, "body.metadata."),
    ("langfuse-scores", r#"{"name":"s","value":1,"traceId":"t","metadata":{@}}"#, "metadata."),
    ("segment", r#"{"type":"track","userId":"u","event":"e","context":{@}}"#, "context."),
    ("sentry", r#"{"message":"m","tags":{@}}"#, "tags."),
];

/// A client of that format.
fn of_format(format: &str, collector: &Collector, keys: Value) -> Host {
    let usual = json!({"format": format, "api_key": "k", "compression": "none"});
    Host::open(&format!("{}/1", collector.url()), with(usual, keys))
}

/// The object in which `key` is, wherever it is in a body, whole or a line of it.
fn holder(seen: &Seen, key: &str) -> Value {
    fn find(value: Value, key: &str) -> Option<Value> {
        match value {
            Value::Object(members) if members.contains_key(key) => Some(Value::Object(members)),
            Value::Object(members) => members.into_iter().find_map(|(_, value)| find(value, key)),
            Value::Array(items) => items.into_iter().find_map(|item| find(item, key)),
            _ => None,
        }
    }
    let whole = serde_json::from_str(seen.text()).ok();
    let lines = seen.text().lines().filter_map(|line| serde_json::from_str(line).ok());
    whole
        .into_iter()
        .chain(lines)
        .find_map(|value| find(value, key))
        .unwrap_or_else(|| panic!("{}", seen.text()))
}

fn with(mut keys: Value, more: Value) -> Value {
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

/// As `sha256sum` gives it.
fn sha256(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn redaction_in_every_format() {
    for (format, event, place) in FORMATS {
        let collector = Collector::kind();
        let path = |path: &str| format!("{place}{path}");
        let rules = json!({
            path("password"): "mask", path("user.email"): "hash", path("cards.*.number"): "remove", "**.token": "mask",
        });
        let host = of_format(format, &collector, json!({"redact": rules}));
        let members = r#""mark":1,"n":[1.50,12345678901234567890123],"p\u0061ssword":"HUSH",
            "user":{"email":"HUSH@é","name":"a"},"cards":[{"number":"HUSH","kind":"b"}],"deep":[{"token":"HUSH"}]"#;
        assert_eq!(host.enqueue(event.replace('@', members)), Status::Ok);
        host.flush_all();
        let seen = &collector.wait(1)[0];
        let text = seen.text();
        assert!(!text.contains("HUSH"), "{text}");
        assert!(text.contains("[1.50,12345678901234567890123]"), "{text}");
        let found = holder(seen, "mark");
        assert_eq!(found["password"], "***", "{format}");
        assert_eq!(found["user"], json!({"email": sha256("HUSH@é"), "name": "a"}), "{format}");
        assert_eq!(found["cards"], json!([{"kind": "b"}]), "{format}");
        assert_eq!(found["deep"], json!([{"token": "***"}]), "{format}");
    }
}

#[test]
fn context_in_every_format() {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (format, event, _) in FORMATS {
        let collector = Collector::kind();
        let context = json!({
            "service": "shop", "pid": "$pid", "machine": {"host": "$host"}, "gen": "$generation", "own": "context",
        });
        let host = of_format(format, &collector, json!({"context": context}));
        for (n, members) in [r#""mark0":1"#, r#""mark1":1,"own":"event""#].into_iter().enumerate() {
            assert_eq!(host.enqueue(event.replace('@', members)), Status::Ok);
            host.flush_all();
            let sent = holder(&collector.wait(n + 1)[n], &format!("mark{n}"));
            assert_eq!(sent["service"], "shop", "{format}: {sent}");
            assert_eq!(sent["pid"], std::process::id());
            assert_eq!(sent["machine"]["host"], kernel.trim_end());
            let generation = sent["gen"].as_str().unwrap();
            assert!(generation.len() == 16 && u64::from_str_radix(generation, 16).is_ok_and(|n| n != 0));
            assert_eq!(sent["own"], ["context", "event"][n]);
        }
    }
}

#[test]
fn an_event_that_has_something_else_there_goes_as_it_is() {
    let collector = Collector::kind();
    let keys = json!({"format": "posthog", "api_key": "k", "context": {"a": 1}});
    let host = Host::open(collector.url(), keys);
    for properties in ["null", "\"text\"", "[1]"] {
        host.enqueue(format!(r#"{{"event":"e","distinct_id":"d","properties":{properties}}}"#));
    }
    host.flush_all();
    let body: Value = serde_json::from_slice(&collector.wait(1)[0].body).unwrap();
    let sent = body["batch"].as_array().unwrap();
    let properties: Vec<&Value> = sent.iter().map(|event| &event["properties"]).collect();
    assert_eq!(properties, [&json!({"a": 1}), &json!("text"), &json!([1])]);
}

/// The lines of a dead letter file, once there are so many.
fn dead(path: &Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    until("the dead letter file", || read().lines().count() >= count);
    read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn nothing_that_is_to_be_redacted_comes_into_the_dead_letter_file() {
    let dir = Dir::new();
    let file = dir.0.join("dead.ndjson");
    let collector = Collector::start(|_| Reply::Status(422));
    let keys = |redact: Value| json!({"dead_letter": file, "redact": redact});
    let host = Host::open(collector.url(), keys(json!({"secret": "mask"})));
    let bad: [&[u8]; 5] = [
        b"HUSH",
        br#"[{"secret":"HUSH"}]"#,
        br#"{"secret":"HUSH"} x"#,
        b"{\"secret\":\"HUSH\xff\"}",
        br#"{"secret":"HUSH""#,
    ];
    for event in bad {
        assert_eq!(host.enqueue(event), Status::Ok);
    }
    assert_eq!(host.enqueue(r#"{"secret":"HUSH","n":1}"#), Status::Ok);
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.invalid, s.rejected, collector.count()), (5, 1, 1));
    let lines = dead(&file, 6);
    for line in &lines[..5] {
        assert_eq!(line["reason"], "not one JSON object, so it cannot be redacted");
        assert!(line["raw"].is_null() && line.get("event").is_none(), "{line}");
    }
    assert_eq!((&lines[5]["event"]["secret"], &lines[5]["event"]["n"]), (&json!("***"), &json!(1)));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("HUSH"), "{text}");
    // Without a rule there is nothing to hide.
    std::fs::remove_file(&file).unwrap();
    let plain = Host::open(collector.url(), keys(json!({})));
    plain.enqueue("HUSH");
    plain.flush_all();
    assert_eq!(dead(&file, 1)[0]["raw"], "HUSH");
}

#[test]
fn an_invalid_event_that_was_redacted_is_shown_so() {
    let dir = Dir::new();
    let file = dir.0.join("dead.ndjson");
    let collector = Collector::kind();
    // It fits as it is enqueued, and not with its context.
    let keys = json!({
        "format": "posthog", "api_key": "k", "max_event_bytes": 1_000_000, "segment_bytes": 2_097_152,
        "queue_bytes": 4_194_304, "batch": {"max_bytes": 8_388_608}, "dead_letter": file,
        "redact": {"properties.secret": "mask"}, "context": {"long": "c".repeat(1000)},
    });
    let host = Host::open(collector.url(), keys);
    let fill = "x".repeat((900 << 10) - 500);
    let event = format!(r#"{{"event":"e","distinct_id":"d","properties":{{"secret":"HUSH","x":"{fill}"}}}}"#);
    assert_eq!(host.enqueue(event), Status::Ok);
    host.flush_all();
    assert_eq!((host.stats().invalid, collector.count()), (1, 0));
    let line = &dead(&file, 1)[0];
    assert_eq!(line["event"]["properties"]["secret"], "***");
    assert!(line["event"]["properties"].get("long").is_none(), "as it was enqueued, but for what is hidden");
}

/// What the sheet of the manual says: the first eight bytes of a SHA-256, as a part of all there are.
fn is_kept(text: &str, rate: f64) -> bool {
    let first: [u8; 8] = digest(&SHA256, text.as_bytes()).as_ref()[..8].try_into().unwrap();
    (u64::from_be_bytes(first) as f64) < rate * 2f64.powi(64)
}

#[test]
fn a_sample_is_kept_by_the_hash_of_its_key() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"sample": {"rate": 0.3, "key": "trace.id"}}));
    for n in 0..400u64 {
        // Four events of each trace.
        let event = format!(r#"{{"n":{n},"trace":{{"id":"t-{}"}}}}"#, n / 4);
        assert_eq!(host.enqueue(event), Status::Ok);
    }
    for n in 400..500u64 {
        assert_eq!(host.enqueue(format!(r#"{{"n":{n}}}"#)), Status::Ok);
    }
    host.flush_all();
    let by_trace = (0..400).filter(|n| is_kept(&format!("t-{}", n / 4), 0.3));
    let by_event = (400..500).filter(|n| is_kept(&format!(r#"{{"n":{n}}}"#), 0.3));
    let kept: Vec<u64> = by_trace.chain(by_event).collect();
    assert!((50..250).contains(&kept.len()), "{}", kept.len());
    assert_eq!(collector.numbers(), kept);
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.delivered, s.sampled_out), (kept.len() as u64, s.accepted, 500 - s.accepted));
}

#[test]
fn what_is_refused_anyway_is_not_sampled() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"sample": {"rate": 0}, "max_event_bytes": 100}));
    assert_eq!(host.enqueue("{}"), Status::Ok);
    assert_eq!(host.enqueue("nonsense"), Status::Ok);
    assert_eq!(host.enqueue(""), Status::Invalid);
    assert_eq!(host.enqueue("x".repeat(101)), Status::TooLarge);
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.sampled_out, s.accepted, s.invalid, s.dropped_too_large), (2, 0, 0, 1));
    assert_eq!((s.sender_starts, collector.count()), (0, 0), "there is nothing to do");
    host.shutdown(std::time::Duration::ZERO);
    assert_eq!(host.enqueue("{}"), Status::Closed);
}

#[test]
fn with_a_sample_a_full_queue_still_waits() {
    let latch = Arc::new(Latch::default());
    let held = Arc::clone(&latch);
    let collector = Collector::start(move |_| Reply::When(Arc::clone(&held), 200));
    let keys = json!({
        "queue_bytes": 131_072, "segment_bytes": 65_536, "on_full": "block", "block_timeout_ms": HOUR_MS,
        "batch": {"max_events": 1}, "sample": {"rate": 0.999_999_999},
    });
    let host = Host::open(collector.url(), keys);
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let event = format!(r#"{{"x":"{}"}}"#, "x".repeat(1000));
            (0..200).map(|_| host.enqueue(&event)).filter(|status| *status != Status::Ok).count()
        });
        until("full", || host.stats().queue_bytes > 120_000);
        latch.open();
        assert_eq!(producer.join().unwrap(), 0, "all were taken");
    });
}

/// Run in a forked child, which leaves without a word to anybody; 0 if `f` says so.
fn in_child(f: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child calls the library, which is made for that, and leaves.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(600);
            libc::_exit(i32::from(!f()));
        }
        let mut status = -1;
        libc::waitpid(child, &mut status, 0);
        assert_eq!(status, 0, "the child");
        child
    }
}

/// The generations whose segments are in a spool.
fn generations(spool: &Path) -> HashSet<String> {
    let leaf = std::fs::read_dir(spool).unwrap().next().unwrap().unwrap().path();
    let files =
        std::fs::read_dir(leaf).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files
        .filter(|name| name.ends_with(".seg"))
        .map(|name| name.split('-').nth(2).unwrap().to_string())
        .collect()
}

#[test]
fn an_orphans_event_keeps_its_own_process_and_gets_its_adopters_rules() {
    if !alone("rules::an_orphans_event_keeps_its_own_process_and_gets_its_adopters_rules") {
        return;
    }
    let (dir, collector) = (Dir::new(), Collector::kind());
    let keys = json!({
        "spool_dir": dir.0.join("spool"),
        "context": {"pid": "$pid", "gen": "$generation"},
        "redact": {"secret": "mask"},
    });
    let host = Host::open(collector.url(), keys);
    let event = |n: u64| format!(r#"{{"n":{n},"secret":"HUSH"}}"#);
    let child = in_child(|| host.enqueue(event(1)) == Status::Ok);
    let orphaned = generations(&dir.0.join("spool"));
    assert_eq!(orphaned.len(), 1);
    assert_eq!(host.enqueue(event(2)), Status::Ok);
    let all = generations(&dir.0.join("spool"));
    host.flush_all();
    let sent: Vec<Value> = collector.requests().iter().flat_map(Seen::events).collect();
    let of = |n: u64| sent.iter().find(|event| event["n"] == n).unwrap();
    assert_eq!((sent.len(), host.stats().recovered), (2, 1));
    assert_eq!((&of(1)["pid"], &of(2)["pid"]), (&json!(child), &json!(std::process::id())));
    assert!(orphaned.contains(of(1)["gen"].as_str().unwrap()), "{sent:?} {orphaned:?}");
    assert!(!orphaned.contains(of(2)["gen"].as_str().unwrap()), "{sent:?}");
    assert!(all.contains(of(2)["gen"].as_str().unwrap()), "{sent:?} {all:?}");
    assert!(sent.iter().all(|event| event["secret"] == "***"));
}

#[test]
fn a_forked_child_has_its_own_context_and_counts() {
    if !alone("rules::a_forked_child_has_its_own_context_and_counts") {
        return;
    }
    let collector = Collector::kind();
    let keys = json!({
        "context": {"pid": "$pid", "gen": "$generation"},
        "sample": {"rate": 0.5, "key": "k"},
    });
    let host = Host::open(collector.url(), keys);
    let (kept, not) =
        ((0..).find(|k| is_kept(&k.to_string(), 0.5)), (0..).find(|k| !is_kept(&k.to_string(), 0.5)));
    let event = |k: Option<u64>| format!(r#"{{"n":1,"k":{}}}"#, k.unwrap());
    host.enqueue(event(not));
    host.enqueue(event(kept));
    assert_eq!((host.stats().sampled_out, host.stats().accepted), (1, 1));
    let child = in_child(|| {
        let first = host.enqueue(event(not)) == Status::Ok && host.stats().sampled_out == 1;
        let more = host.enqueue(event(not)) == Status::Ok && host.enqueue(event(kept)) == Status::Ok;
        host.flush_all();
        let s = host.stats();
        first && more && (s.sampled_out, s.accepted, s.delivered) == (2, 1, 1)
    });
    host.flush_all();
    let sent: Vec<Value> = collector.requests().iter().flat_map(Seen::events).collect();
    let pids: HashSet<u64> = sent.iter().map(|event| event["pid"].as_u64().unwrap()).collect();
    assert_eq!((sent.len(), pids), (2, HashSet::from([child as u64, u64::from(std::process::id())])));
    assert_ne!(sent[0]["gen"], sent[1]["gen"]);
}
