//! When it is tried again.
use crate::collector::{Collector, Reply};
use crate::host::{HOUR_MS, Host, LONG, check, until};
use serde_json::json;
use std::time::{Duration, SystemTime};
use telemetry::client::handle::Status;

fn busy(after: &str) -> Reply {
    Reply::Full(503, format!("Retry-After: {after}\r\n"), String::new())
}

#[test]
fn pauses_grow_and_are_counted() {
    // Twelve pauses from a millisecond up to two seconds. From a quarter of a second up they would last for minutes.
    let statuses: [u16; 6] = [500, 502, 408, 429, 503, 599];
    let collector = Collector::saying(statuses.into_iter().cycle().take(12).map(Reply::Status).collect());
    let keys = json!({"batch": {"max_age_ms": 1}, "retry": {"initial_ms": 1, "max_ms": HOUR_MS}});
    let host = Host::open(collector.url(), keys);
    host.number(1);
    let requests = collector.wait(13);
    until("delivered", || host.stats().delivered == 1);
    let s = host.stats();
    check(&s);
    assert_eq!((s.batches, s.retries, s.circuit_open), (1, 12, 0));
    assert_eq!(s.bytes_out, requests.iter().map(|r| r.raw.len() as u64).sum::<u64>());
    assert!(s.last_success_unix_ms > 0);
}

#[test]
fn pauses_are_bounded() {
    // Without a bound the last of them would be of hours.
    let collector = Collector::saying((0..25).map(|_| Reply::Status(500)).collect());
    let keys = json!({"batch": {"max_age_ms": 1}, "retry": {"initial_ms": 5, "max_ms": 10}});
    let host = Host::open(collector.url(), keys);
    host.number(1);
    collector.wait(26);
    until("delivered", || host.stats().delivered == 1);
    assert_eq!(host.stats().retries, 25);
}

#[test]
fn retry_after_in_seconds_is_a_minimum() {
    let collector = Collector::saying(vec![busy("1")]);
    // Another pause than the one that is asked for may last an hour.
    let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 1, "max_ms": HOUR_MS}}));
    host.number(1);
    host.flush_all();
    let at: Vec<_> = collector.wait(2).iter().map(|r| r.at).collect();
    assert!(at[1] - at[0] >= Duration::from_secs(1));
}

#[test]
fn retry_after_as_a_date_is_a_minimum() {
    let date = SystemTime::now() + Duration::from_secs(2);
    let text = httpdate::fmt_http_date(date);
    let whole = httpdate::parse_http_date(&text).unwrap();
    let collector = Collector::start(move |seen| match seen.number {
        0 => busy(&text),
        _ => Reply::Status(200),
    });
    let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 1}}));
    host.number(1);
    host.flush_all();
    assert!(SystemTime::now() >= whole, "asked again before {whole:?}");
    assert_eq!(collector.count(), 2);
}

#[test]
fn retry_after_is_clamped() {
    let far = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(86_400));
    for asked in ["3600".to_string(), "99999999999999".to_string(), far] {
        let collector = Collector::saying(vec![busy(&asked)]);
        let host = Host::open(collector.url(), json!({"retry": {"initial_ms": 1, "max_ms": 200}}));
        host.number(1);
        host.flush_all();
        let at: Vec<_> = collector.wait(2).iter().map(|r| r.at).collect();
        assert!(at[1] - at[0] >= Duration::from_millis(200), "{asked}");
    }
}

#[test]
fn a_flush_cuts_a_pause_of_our_own_short() {
    let collector = Collector::saying(vec![Reply::Status(500), Reply::Status(502), Reply::Status(503)]);
    let keys = json!({"batch": {"max_age_ms": 1}, "retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}});
    let host = Host::open(collector.url(), keys);
    host.number(1);
    for n in 1..=3 {
        collector.wait(n);
        // Each call that waits is worth one attempt, one that only asks is not; the last finds the collector well.
        assert_eq!(host.flush(Duration::ZERO), Status::Timeout);
        let status = host.flush(if n < 3 { Duration::from_millis(1) } else { LONG });
        assert_eq!(status, if n < 3 { Status::Timeout } else { Status::Ok }, "{n}");
    }
    assert_eq!(collector.count(), 4);
}

#[test]
fn asking_does_not_cut_a_pause_short() {
    let collector = Collector::saying(vec![Reply::Status(500)]);
    let keys = json!({"batch": {"max_age_ms": 1}, "retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}});
    let host = Host::open(collector.url(), keys);
    host.number(1);
    collector.wait(1);
    for _ in 0..100 {
        assert_eq!(host.flush(Duration::ZERO), Status::Timeout);
    }
    host.flush_all();
    assert_eq!(collector.count(), 2);
}

#[test]
fn a_flush_does_not_cut_short_what_the_collector_asked_for() {
    for asked in ["3600", "1"] {
        let collector = Collector::saying(vec![busy(asked)]);
        let keys = json!({"batch": {"max_age_ms": 1}, "retry": {"initial_ms": 1, "max_ms": HOUR_MS}});
        let host = Host::open(collector.url(), keys);
        host.number(1);
        let first = collector.wait(1)[0].at;
        if asked == "1" {
            host.flush_all();
            assert!(collector.wait(2)[1].at - first >= Duration::from_secs(1));
        } else {
            assert_eq!(host.flush(Duration::from_millis(100)), Status::Timeout);
            assert_eq!(collector.count(), 1);
        }
    }
}

#[test]
fn an_answer_to_a_hurried_attempt_ends_the_pause() {
    // After a failure the pause is long; a flush hurries one attempt, which is answered with "send it plain" or
    // "send less": what that asks for is done at once.
    for (answer, requests) in [(415, 3), (413, 4)] {
        let collector = Collector::saying(vec![Reply::Status(500), Reply::Status(answer)]);
        let keys =
            json!({"batch": {"max_events": 2}, "retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}});
        let host = Host::open(collector.url(), keys);
        for n in 0..2 {
            host.enqueue(json!({"n": n, "x": "x".repeat(1000)}).to_string());
        }
        collector.wait(1);
        host.flush_all();
        assert_eq!(collector.count(), requests);
        assert_eq!(host.stats().delivered, 2);
    }
}

#[test]
fn a_stale_kept_connection_costs_no_pause() {
    // The collector closes after each answer without having said so.
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let collector = Collector::start(move |_| Reply::Raw(ok.into()));
    let keys = json!({"retry": {"initial_ms": 3_600_000, "max_ms": 3_600_000}});
    let host = Host::open(collector.url(), keys);
    for n in 0..20 {
        host.number(n);
        host.flush_all();
    }
    assert_eq!(collector.numbers(), (0..20).collect::<Vec<_>>());
}

/// What names the attempt is not that of the one before.
#[test]
fn what_is_sent_again_on_a_fresh_connection_is_stamped_anew() {
    let taken = || Reply::Full(200, String::new(), r#"{"results":{}}"#.into());
    let collector = Collector::start(move |seen| {
        if seen.number != 1 {
            return taken();
        }
        // So that the next attempt's time is another one.
        std::thread::sleep(Duration::from_millis(5));
        Reply::Cut
    });
    let retry = json!({"initial_ms": 3_600_000, "max_ms": 3_600_000});
    let host = Host::open(collector.url(), json!({"format": "posthog-v1", "api_key": "k", "retry": retry}));
    for _ in 0..2 {
        host.enqueue(json!({"event": "e", "distinct_id": "d"}).to_string());
        host.flush_all();
    }
    let requests = collector.requests();
    let said = |name: &str| requests.iter().map(|r| r.header(name).unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(said("posthog-attempt"), ["1", "1", "2"]);
    assert_ne!(said("posthog-request-timestamp")[1], said("posthog-request-timestamp")[2]);
    assert_eq!(said("idempotency-key")[1], said("idempotency-key")[2]);
    let s = host.stats();
    assert_eq!((s.batches, s.retries, s.delivered), (2, 1, 2));
}
