//! What happens at the limits: too old, too full, too late.
use crate::collector::{Collector, Latch, Reply, unix_url};
use crate::host::{Dir, HOUR_MS, Host, SLACK, balanced, check, takes, until};
use serde_json::json;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;

#[test]
fn what_nobody_takes_expires() {
    let dir = Dir::new();
    let keys = json!({
        "batch": {"max_age_ms": 20, "max_events": 50},
        "retry": {"initial_ms": 10, "max_ms": 40, "max_age_s": 1},
    });
    let host = Host::open(&unix_url(&dir.0.join("nobody")), keys);
    let start = Instant::now();
    let mut all = 300;
    balanced(&host, || {
        for n in 0..all {
            host.number(n);
            if n % 3 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        // On a slow machine many may expire before they were tried twice.
        until("a second attempt", || {
            let again = host.stats().retries > 0;
            if !again {
                host.number(all);
                all += 1;
            }
            again
        });
        until("expired", || host.stats().expired == all);
    });
    assert!(start.elapsed() >= Duration::from_secs(1));
    let s = host.stats();
    assert_eq!((s.accepted, s.expired, s.queue_events, s.queue_bytes), (all, all, 0, 0));
    assert_eq!((s.delivered, s.rejected, s.invalid), (0, 0, 0));
    // The client is as good as new.
    let _collector = Collector::at(&dir.0.join("nobody"), |_| Reply::Status(200));
    // A slow machine may let one more expire.
    until("one is delivered", || {
        host.number(all);
        host.flush_all();
        host.stats().delivered > 0
    });
}

#[test]
fn a_full_queue_says_so_and_loses_nothing_else() {
    let dir = Dir::new();
    let path = dir.0.join("socket");
    let keys = json!({
        "queue_bytes": 131_072,
        "segment_bytes": 65_536,
        // For those who want to wait.
        "block_timeout_ms": HOUR_MS,
        "retry": {"initial_ms": 5, "max_ms": 20},
    });
    let host = Host::open(&unix_url(&path), keys);
    let (mut taken, mut refused) = (Vec::new(), 0);
    balanced(&host, || {
        for n in 0..5000u64 {
            let start = Instant::now();
            match host.enqueue(format!("{{\"n\":{n}}}")) {
                Status::Ok => taken.push(n),
                Status::Full => refused += 1,
                other => panic!("{other:?}"),
            }
            assert!(start.elapsed() < SLACK, "FULL comes at once");
        }
    });
    assert!(taken.len() > 1000 && refused > 1000, "{} taken, {refused} refused", taken.len());
    let s = host.stats();
    assert_eq!(
        (s.accepted, s.dropped_full, s.queue_events),
        (taken.len() as u64, refused, taken.len() as u64)
    );
    assert!(s.queue_bytes > 65_536 && s.queue_bytes <= 131_072, "{}", s.queue_bytes);
    let collector = Collector::at(&path, |_| Reply::Status(200));
    balanced(&host, || host.flush_all());
    assert_eq!(collector.numbers(), taken);
    let s = host.stats();
    assert_eq!((s.delivered, s.queue_events, s.queue_bytes), (taken.len() as u64, 0, 0));
    // There is room again.
    host.number(9999);
    host.flush_all();
    assert_eq!(host.stats().dropped_full, refused);
}

#[test]
fn blocking_waits_no_longer_than_it_may() {
    let dir = Dir::new();
    let path = dir.0.join("socket");
    let keys = json!({
        "queue_bytes": 131_072,
        "segment_bytes": 65_536,
        "on_full": "block",
        "block_timeout_ms": 200,
        "retry": {"initial_ms": 5, "max_ms": 10},
    });
    let host = Host::open(&unix_url(&path), keys);
    let event = json!({"x": "x".repeat(10_000)}).to_string();
    let mut taken = 0;
    while host.stats().dropped_full == 0 {
        let start = Instant::now();
        if host.enqueue(&event) == Status::Ok {
            taken += 1;
        } else {
            assert!(start.elapsed() >= Duration::from_millis(200));
        }
        assert!(start.elapsed() < Duration::from_millis(200) + SLACK);
    }
    assert_eq!(takes(Duration::from_millis(200), || host.enqueue(&event)), Status::Full);
    // Whoever waits is served as soon as there is room.
    let collector = Collector::at(&path, |_| Reply::Status(200));
    let patient = |host: &Host| host.enqueue(&event) == Status::Ok;
    until("room", || patient(&host));
    host.flush_all();
    assert_eq!(collector.requests().iter().map(|r| r.events().len()).sum::<usize>(), taken + 1);
    check(&host.stats());
}

#[test]
fn a_flush_of_nothing_asks() {
    let latch = Arc::new(Latch::default());
    let held = Arc::clone(&latch);
    let collector = Collector::start(move |_| Reply::When(Arc::clone(&held), 200));
    let host = Host::open(collector.url(), json!({}));
    assert_eq!(host.flush(Duration::ZERO), Status::Ok);
    host.number(1);
    // The first call sets it going, though nobody asks a second time.
    assert_eq!(host.flush(Duration::ZERO), Status::Timeout);
    collector.wait(1);
    latch.open();
    until("settled", || host.flush(Duration::ZERO) == Status::Ok);
}

#[test]
fn asking_again_and_again_never_leaves_an_event_behind() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    // Long enough apart that the sender may be anywhere between working and sleeping.
    for n in 0..500u64 {
        host.number(n);
        let _ = host.flush(Duration::ZERO);
        if n % 2 == 0 {
            (0..n * 10).for_each(|_| std::hint::spin_loop());
        }
    }
    host.number(500);
    let _ = host.flush(Duration::ZERO);
    until("all delivered", || host.stats().delivered == 501);
}

#[test]
fn a_flush_gives_up_in_time() {
    let collector = Collector::start(|_| Reply::Stall);
    let host = Host::open(collector.url(), json!({}));
    host.number(1);
    assert_eq!(takes(Duration::from_millis(300), || host.flush(Duration::from_millis(300))), Status::Timeout);
    assert_eq!(takes(Duration::ZERO, || host.flush(Duration::ZERO)), Status::Timeout);
    assert_eq!(host.stats().queue_events, 1);
    assert_eq!(collector.wait(1).len(), 1);
}

#[test]
fn many_flush_at_once() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    thread::scope(|scope| {
        for t in 0..8 {
            let host = &host;
            scope.spawn(move || {
                for i in 0..50 {
                    host.number(t * 50 + i);
                    host.flush_all();
                }
            });
        }
    });
    let mut numbers = collector.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
}
