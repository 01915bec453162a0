//! The life of a client and its sender.
use crate::collector::{Collector, LIMIT, Reply};
use crate::host::{HOUR, HOUR_MS, Host, SLACK, alone, senders, takes, until};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;

#[test]
fn an_idle_sender_ends_and_comes_back() {
    if !alone("life::an_idle_sender_ends_and_comes_back") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"batch": {"max_age_ms": 20}, "idle_ms": 150}));
    assert_eq!(senders(), 0, "opening starts nothing");
    for round in 0..3 {
        let start = Instant::now();
        host.number(round);
        collector.wait(round as usize + 1);
        until("the end", || senders() == 0);
        assert!(start.elapsed() >= Duration::from_millis(150));
        assert_eq!(host.stats().sender_starts, round + 1);
    }
    assert_eq!(host.stats().delivered, 3);
    // Its connections ended with it.
    collector.wait_ended();
}

#[test]
fn a_sender_with_something_to_do_does_not_end() {
    if !alone("life::a_sender_with_something_to_do_does_not_end") {
        return;
    }
    let collector = Collector::saying((0..20).map(|_| Reply::Status(500)).collect());
    let keys = json!({"batch": {"max_age_ms": 5}, "idle_ms": 1, "retry": {"initial_ms": 20, "max_ms": 20}});
    let host = Host::open(collector.url(), keys);
    host.number(1);
    collector.wait(21);
    until("the end", || senders() == 0);
    assert_eq!((host.stats().sender_starts, host.stats().delivered), (1, 1));
}

#[test]
fn shutdown_cuts_a_request_that_takes_too_long() {
    if !alone("life::shutdown_cuts_a_request_that_takes_too_long") {
        return;
    }
    let collector = Collector::start(|_| Reply::Stall);
    let host = Host::open(collector.url(), json!({"timeout_ms": HOUR_MS}));
    host.number(1);
    let _ = host.flush(Duration::ZERO);
    collector.wait(1);
    assert_eq!(senders(), 1);
    let status = takes(Duration::from_millis(200), || host.shutdown(Duration::from_millis(200)));
    assert_eq!(status, Status::Timeout);
    // Shutdown waits for it, though no longer than it may: a thread that gets no time ends a little later.
    until("the thread is gone, whatever its request does", || senders() == 0);
    collector.wait_ended();
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(host.shutdown(HOUR), Status::Ok);
        assert_eq!(host.flush(HOUR), Status::Ok);
        assert_eq!(host.enqueue("{}"), Status::Closed);
    }
    assert!(start.elapsed() < SLACK, "at once");
    let s = host.stats();
    assert_eq!((s.accepted, s.delivered, s.queue_events), (1, 0, 1), "what is lost shows");
    assert_eq!((collector.count(), senders()), (1, 0));
}

#[test]
fn shutdown_delivers_first() {
    if !alone("life::shutdown_delivers_first") {
        return;
    }
    let collector = Collector::saying(vec![Reply::Status(500)]);
    let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 10}}));
    host.fill(0..2500);
    assert_eq!(host.shutdown(LIMIT), Status::Ok);
    until("the end", || senders() == 0);
    let s = host.stats();
    assert_eq!((s.accepted, s.delivered, s.queue_events), (2500, 2500, 0));
    assert_eq!(host.enqueue("{}"), Status::Closed);
    collector.wait_ended();
}

#[test]
fn shutdown_of_an_unused_client() {
    if !alone("life::shutdown_of_an_unused_client") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({}));
    assert_eq!(takes(Duration::ZERO, || host.shutdown(HOUR)), Status::Ok);
    assert_eq!((host.stats().sender_starts, senders(), collector.count()), (0, 0, 0));
}

#[test]
fn shutdown_while_others_enqueue_and_flush() {
    if !alone("life::shutdown_while_others_enqueue_and_flush") {
        return;
    }
    for _ in 0..20 {
        let collector = Collector::kind();
        let host = Host::open(collector.url(), json!({"batch": {"max_age_ms": 1}}));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| while host.enqueue(r#"{"n":1}"#) != Status::Closed {});
            }
            scope.spawn(|| {
                let start = Instant::now();
                assert_eq!(host.flush(HOUR), Status::Ok);
                assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
            });
            collector.wait(1);
            assert_eq!(host.shutdown(LIMIT), Status::Ok);
        });
        until("the end", || senders() == 0);
    }
}

#[test]
fn a_disabled_client_does_nothing() {
    let collector = Collector::kind();
    let host = Host::open(collector.url(), json!({"disabled": true}));
    assert_eq!(host.enqueue("{}"), Status::Ok);
    assert_eq!(host.flush(LIMIT), Status::Ok);
    assert_eq!(host.shutdown(LIMIT), Status::Ok);
    assert_eq!((host.stats().accepted, collector.count()), (0, 0));
}

#[test]
fn two_clients_at_once() {
    let (left, right) = (Collector::kind(), Collector::kind());
    let dead = Host::open("http://127.0.0.1:1", json!({"batch": {"max_age_ms": 1}}));
    let a = Host::open(left.url(), json!({}));
    let b = Host::open(right.url(), json!({"format": "ndjson", "batch": {"max_events": 3}}));
    thread::scope(|scope| {
        scope.spawn(|| dead.fill(0..500));
        scope.spawn(|| a.fill(0..500));
        scope.spawn(|| b.fill(500..1000));
    });
    a.flush_all();
    b.flush_all();
    assert_eq!(left.numbers(), (0..500).collect::<Vec<_>>());
    assert_eq!(right.numbers(), (500..1000).collect::<Vec<_>>());
    assert_eq!((dead.stats().delivered, dead.stats().queue_events), (0, 500));
    // One that is shut does not take the other with it.
    assert_eq!(a.shutdown(LIMIT), Status::Ok);
    b.number(1000);
    b.flush_all();
    assert_eq!(b.stats().delivered, 501);
}
