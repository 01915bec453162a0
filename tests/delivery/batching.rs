//! When a batch closes.
use crate::collector::{Collector, Seen};
use crate::host::{Host, SLACK};
use serde_json::json;
use std::time::{Duration, Instant};

fn sizes(requests: &[Seen]) -> Vec<usize> {
    requests.iter().map(|r| r.events().len()).collect()
}

#[test]
fn by_count() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"batch": {"max_events": 10}}));
    host.fill(0..35);
    // Nobody asked, and nothing is old: full batches leave, the rest waits.
    collector.wait(3);
    host.flush_all();
    assert_eq!(sizes(&collector.requests()), [10, 10, 10, 5]);
    assert_eq!(collector.numbers(), (0..35).collect::<Vec<_>>());
    let s = host.stats();
    assert_eq!((s.batches, s.retries, s.delivered), (4, 0, 35));
}

#[test]
fn by_bytes_to_the_byte() {
    // With the newlines 1,024 bytes, and one more.
    for (second, want) in [(522, vec![2]), (523, vec![1, 1])] {
        let collector = Collector::kind();
        let host = Host::open(collector.url(), json!({"batch": {"max_bytes": 1024}, "compression": "none"}));
        host.enqueue(padded(0, 500));
        host.enqueue(padded(1, second));
        host.flush_all();
        assert_eq!(sizes(&collector.requests()), want);
    }
}

/// An event of exactly `len` bytes in which no format fills anything.
fn padded(n: u64, len: usize) -> String {
    let start = format!(r#"{{"n":{n},"id":"i","uuid":"u","timestamp":"t","x":""#);
    let mut event = start.clone();
    event.extend(std::iter::repeat_n('x', len - start.len() - 2));
    event + "\"}"
}

#[test]
fn by_bytes_in_every_format() {
    const MAX: usize = 4096;
    for format in ["ndjson", "json", "posthog"] {
        let collector = Collector::kind();
        let keys = json!({
            "format": format,
            "api_key": "phc_key",
            "batch": {"max_bytes": MAX},
            "compression": "none",
        });
        let host = Host::open(collector.url(), keys);
        // Number 50 is larger than a whole batch.
        let lens: Vec<usize> =
            (0..200).map(|n| if n == 50 { 3 * MAX } else { 80 + (n * 7919) % 1500 }).collect();
        for (n, len) in lens.iter().enumerate() {
            host.enqueue(padded(n as u64, *len));
        }
        host.flush_all();
        let mut next = 0;
        let requests = collector.requests();
        for request in &requests {
            let n = request.text().matches(r#""timestamp":"t""#).count();
            let alone = n == 1 && lens[next] > MAX;
            assert!(request.body.len() <= MAX || alone, "{format}: {} bytes, {n} events", request.body.len());
            next += n;
            // It was closed because the next event did not fit.
            if let Some(len) = lens.get(next) {
                assert!(request.body.len() + 1 + len > MAX, "{format}: closed early before event {next}");
            }
        }
        assert_eq!(next, lens.len(), "{format}");
        assert!(requests.iter().any(|r| r.body.len() > MAX), "{format}: the large one");
        assert_eq!(host.stats().delivered, 200);
    }
}

#[test]
fn by_age() {
    let age = Duration::from_millis(400);
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"batch": {"max_age_ms": 400}}));
    // The first starts the sender, the second finds it asleep. (Without the key it would wait for an hour.)
    for n in 0..2 {
        let start = Instant::now();
        host.number(n);
        let waited = collector.wait(n as usize + 1)[n as usize].at - start;
        // The age is measured by a clock that ticks every few milliseconds.
        assert!(waited > age / 2, "a lone event waits for company: {waited:?}");
        assert!(waited < age + SLACK, "left after {waited:?}");
        host.flush_all();
    }
    assert_eq!(host.stats().sender_starts, 1);
}

#[test]
fn by_flush() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..3);
    assert_eq!(collector.count(), 0);
    host.flush_all();
    host.fill(3..5);
    host.flush_all();
    assert_eq!(sizes(&collector.requests()), [3, 2]);
    // Nothing to do is done at once.
    host.flush_all();
    assert_eq!(collector.count(), 2);
}

#[test]
fn many_flushes_are_quick() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    let start = Instant::now();
    for n in 0..200 {
        host.number(n);
        host.flush_all();
    }
    // Whoever waits for a turn of the sender's, a second or the age of a batch, waits longer.
    assert!(start.elapsed() < Duration::from_secs(150), "{:?}", start.elapsed());
    assert_eq!(collector.numbers(), (0..200).collect::<Vec<_>>());
}
