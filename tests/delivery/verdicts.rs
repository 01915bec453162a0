//! What an answer means for each event.
use crate::collector::{Collector, Latch, Reply, Seen};
use crate::host::{Host, check, until};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;

/// Refuses each request with one of `poison` in it.
fn refusing(status: u16, poison: &'static [u64]) -> Collector {
    Collector::start(move |seen: &Seen| {
        let bad = seen.numbers().iter().any(|n| poison.contains(n));
        Reply::Status(if bad { status } else { 200 })
    })
}

/// The events of the requests that were taken, in order.
fn taken(collector: &Collector, poison: &[u64]) -> Vec<u64> {
    let mut taken: Vec<u64> = collector
        .requests()
        .iter()
        .map(Seen::numbers)
        .filter(|numbers| !numbers.iter().any(|n| poison.contains(n)))
        .flatten()
        .collect();
    taken.sort_unstable();
    taken
}

#[test]
fn one_poisonous_event_is_found_by_halving() {
    const N: u64 = 1000;
    for status in [413, 400] {
        for poison in [&[0][..], &[500], &[N - 1]] {
            let collector = refusing(status, poison);
            // A pause between the halves would show.
            let keys = json!({"retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}});
            let host = Host::open(collector.url(), keys);
            host.fill(0..N);
            host.flush_all();
            let s = host.stats();
            check(&s);
            assert_eq!((s.delivered, s.rejected, s.queue_events), (N - 1, 1, 0), "{status} {poison:?}");
            let want: Vec<u64> = (0..N).filter(|n| !poison.contains(n)).collect();
            assert_eq!(taken(&collector, poison), want, "each of the others once");
            // The whole, and two halves on each of ten levels.
            let bound = 1 + 2 * u64::from(N.next_power_of_two().ilog2());
            assert!(s.batches + s.retries <= bound, "{} requests of {bound}", s.batches + s.retries);
            assert_eq!(s.batches + s.retries, collector.count() as u64);
        }
    }
}

#[test]
fn several_poisonous_events() {
    const POISON: &[u64] = &[3, 4, 77, 199];
    let collector = refusing(400, POISON);
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..200);
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.delivered, s.rejected), (196, 4));
    assert_eq!(taken(&collector, POISON), (0..200).filter(|n| !POISON.contains(n)).collect::<Vec<_>>());
    assert!(collector.count() <= 1 + POISON.len() * 2 * 8, "{} requests", collector.count());
}

#[test]
fn too_many_at_once_go_in_smaller_pieces() {
    let collector = Collector::start(|seen| Reply::Status(if seen.events().len() > 30 { 413 } else { 200 }));
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..500);
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.delivered, s.rejected), (500, 0));
    // 500, 2 x 250, 4 x 125, 8 x 63, 16 x 32, 32 x 16 at most.
    assert!(collector.count() <= 63, "{} requests", collector.count());
}

#[test]
fn a_collector_that_refuses_everything_is_asked_about_each_event_and_hardly_about_groups() {
    let collector = Collector::start(|_| Reply::Status(400));
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..1000);
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.delivered, s.rejected), (0, 1000));
    assert!((1000..1030).contains(&collector.count()), "{} requests for one batch", collector.count());
}

#[test]
fn the_good_behind_any_number_of_bad_ones_arrive() {
    for good in [900..1000, 999..1000, 500..501, 0..1, 0..0] {
        let taken = good.clone();
        let collector = Collector::start(move |seen| {
            Reply::Status(if seen.numbers().iter().all(|n| taken.contains(n)) { 200 } else { 400 })
        });
        let host = Host::open(collector.url(), json!({}));
        host.fill(0..1000);
        host.flush_all();
        let s = host.stats();
        check(&s);
        let count = good.end - good.start;
        assert_eq!((s.delivered, s.rejected), (count, 1000 - count), "{good:?}");
        assert!(collector.count() < 1100, "{good:?}: {} requests", collector.count());
    }
}

#[test]
fn refused_credentials_open_the_circuit_and_lose_nothing() {
    for status in [401, 402, 403] {
        let latch = Arc::new(Latch::default());
        let held = Arc::clone(&latch);
        let collector = Collector::start(move |seen| match seen.number {
            0 | 1 => Reply::Status(status),
            _ => Reply::When(Arc::clone(&held), 200),
        });
        let keys = json!({"retry": {"initial_ms": 1, "max_ms": 100}});
        let host = Host::open(collector.url(), keys);
        host.fill(0..5);
        assert_eq!(host.flush(Duration::ZERO), Status::Timeout);
        let requests = collector.wait(3);
        assert!(requests[1].at - requests[0].at >= Duration::from_millis(100), "a slow probe");
        assert_eq!(host.stats().circuit_open, 1);
        latch.open();
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.circuit_open, s.delivered, s.rejected, s.queue_events), (0, 5, 0, 0), "{status}");
        assert_eq!((s.batches, s.retries), (1, 2));
        assert_eq!(collector.requests()[2].numbers(), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn other_refusals_are_final() {
    for status in [404, 410, 422, 415] {
        let collector = Collector::saying(vec![Reply::Status(status)]);
        let host = Host::open(collector.url(), json!({}));
        host.fill(0..3);
        host.flush_all();
        host.number(3);
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.delivered, s.rejected, s.circuit_open), (1, 3, 0), "{status}");
        assert_eq!(collector.count(), 2);
    }
}

#[test]
fn an_encoding_that_is_not_taken_is_not_used_again() {
    let collector = Collector::start(|seen| Reply::Status(if seen.is_gzip() { 415 } else { 200 }));
    let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}}));
    for round in 0..3 {
        host.fill(round * 100..round * 100 + 100);
        host.flush_all();
    }
    let packed: Vec<bool> = collector.requests().iter().map(Seen::is_gzip).collect();
    assert_eq!(packed, [true, false, false, false]);
    let requests = collector.requests();
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(host.stats().delivered, 300);
}

#[test]
fn a_redirect_elsewhere_gets_nothing_and_loses_nothing() {
    let elsewhere = Collector::kind();
    let to = format!("Location: {}/\r\n", elsewhere.url());
    for status in [301, 302, 307, 308] {
        let collector = Collector::saying(vec![Reply::Full(status, to.clone(), String::new())]);
        let keys = json!({"bearer": "secret", "retry": {"initial_ms": 1, "max_ms": 50}});
        let host = Host::open(collector.url(), keys);
        host.number(1);
        host.flush_all();
        let s = host.stats();
        assert_eq!((s.delivered, s.rejected, s.retries), (1, 0, 1), "{status}");
        assert_eq!(collector.numbers(), [1, 1]);
    }
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn a_redirect_within_is_followed() {
    let collector = Collector::start(|seen| {
        let first = seen.request_line().starts_with("POST /old ");
        if first { Reply::Full(308, "Location: /new\r\n".into(), String::new()) } else { Reply::Status(200) }
    });
    let host = Host::open(&format!("{}/old", collector.url()), json!({"bearer": "t"}));
    host.number(1);
    host.flush_all();
    let requests = collector.wait(2);
    assert_eq!(requests[1].request_line(), "POST /new HTTP/1.1");
    assert_eq!(requests[1].header("authorization"), Some("Bearer t"));
    assert_eq!(host.stats().delivered, 1);
}

#[test]
fn lines_named_in_the_answer_are_rejected() {
    let body = r#"{"rejected":[{"line":1,"reason":"no"},{"line":3},{"line":99},{"line":"x"},7]}"#;
    let collector = Collector::saying(vec![Reply::Full(200, String::new(), body.into())]);
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..5);
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!((s.delivered, s.rejected, s.queue_events), (3, 2, 0));
    assert_eq!(collector.count(), 1, "none of it is sent again");
}

#[test]
fn a_taken_batch_whose_answer_breaks_off_is_not_sent_again() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"rejec";
    let collector = Collector::saying(vec![Reply::Raw(half.into())]);
    let host = Host::open(collector.url(), json!({}));
    host.fill(0..2);
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.delivered, s.unverified, s.retries), (2, 1, 0));
}

#[test]
fn a_slow_collector_is_asked_again_after_the_time_limit() {
    let collector = Collector::saying(vec![Reply::Stall]);
    let host = Host::open(collector.url(), json!({"timeout_ms": 2000, "retry": {"initial_ms": 1}}));
    // Not since the first request was read: that may have been any time after it was sent.
    let start = Instant::now();
    host.number(1);
    host.flush_all();
    let requests = collector.wait(2);
    assert!(requests[1].at - start >= Duration::from_secs(2));
    assert_eq!(requests[0].body, requests[1].body);
    until("counted", || host.stats().delivered == 1);
}
