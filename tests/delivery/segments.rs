//! Many producers, one consumer, and segments that are used over and over.
use crate::collector::{Collector, Reply};
use crate::host::{HOUR_MS, Host, balanced, check};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use telemetry::client::handle::Status;

const SEGMENT: u64 = 65_536;

/// `threads` x `each` events through a queue of `segments`, each delivered exactly once.
fn through(segments: u64, threads: u64, each: u64, padding: usize) {
    let marks: Arc<Vec<AtomicU32>> = Arc::new((0..threads * each).map(|_| AtomicU32::new(0)).collect());
    let count = Arc::clone(&marks);
    let collector = Collector::start(move |seen| {
        // Looked at without a JSON parser, which would be what is measured here.
        for line in seen.text().lines() {
            let n = line.split("\"n\":").nth(1).unwrap().split([',', '}']).next().unwrap();
            count[n.parse::<usize>().unwrap()].fetch_add(1, Ordering::Relaxed);
        }
        Reply::Status(200)
    });
    let keys = json!({
        "queue_bytes": segments * SEGMENT,
        "segment_bytes": SEGMENT,
        "on_full": "block",
        "block_timeout_ms": HOUR_MS,
        "compression": "none",
        "batch": {"max_age_ms": 1000},
    });
    let host = Host::open(collector.url(), keys);
    let padding = "x".repeat(padding);
    balanced(&host, || {
        thread::scope(|scope| {
            for t in 0..threads {
                let (host, padding) = (&host, &padding);
                scope.spawn(move || {
                    for i in 0..each {
                        let n = t * each + i;
                        // All sizes, so that segments end everywhere.
                        let cut = (n as usize * 31) % (padding.len() + 1);
                        let event = format!("{{\"x\":\"{}\",\"n\":{n}}}", &padding[..cut]);
                        assert_eq!(host.enqueue(event), Status::Ok);
                    }
                });
            }
        });
        host.flush_all();
    });
    let wrong = marks.iter().position(|m| m.load(Ordering::Relaxed) != 1);
    assert_eq!(wrong, None, "lost or twice: {:?}", wrong.map(|i| marks[i].load(Ordering::Relaxed)));
    let s = host.stats();
    check(&s);
    let all = threads * each;
    assert_eq!((s.accepted, s.delivered, s.queue_events, s.queue_bytes, s.dropped_full), (all, all, 0, 0, 0));
}

#[test]
fn eight_producers_and_a_small_queue() {
    through(4, 8, 20_000, 0);
}

#[test]
fn two_segments() {
    through(2, 4, 10_000, 100);
}

#[test]
fn numbers_of_segments_that_are_no_power_of_two() {
    through(3, 4, 8_000, 200);
    through(5, 4, 8_000, 300);
    through(7, 2, 2_000, 5_000);
}

#[test]
fn a_queue_that_is_no_multiple_of_its_segments() {
    // The odd half segment is not used.
    let collector = Collector::kind();
    let keys = json!({"queue_bytes": 3 * SEGMENT + SEGMENT / 2, "segment_bytes": SEGMENT});
    let host = Host::open(collector.url(), keys);
    for round in 0..20u64 {
        for i in 0..100 {
            let n = round * 100 + i;
            let event = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(1000));
            assert_eq!(host.enqueue(event), Status::Ok);
        }
        host.flush_all();
    }
    assert_eq!(collector.numbers(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn events_as_large_as_a_segment_holds() {
    let collector = Collector::kind();
    let keys = json!({
        "queue_bytes": 3 * SEGMENT,
        "segment_bytes": SEGMENT,
        "max_event_bytes": SEGMENT - 512,
        "on_full": "block",
        "block_timeout_ms": HOUR_MS,
    });
    let host = Host::open(collector.url(), keys);
    for n in 0..30u64 {
        let start = format!("{{\"n\":{n},\"x\":\"");
        let event = format!("{start}{}\"}}", "x".repeat(SEGMENT as usize - 512 - start.len() - 2));
        assert_eq!(host.enqueue(event), Status::Ok);
    }
    host.flush_all();
    assert_eq!(collector.numbers(), (0..30).collect::<Vec<_>>());
}
