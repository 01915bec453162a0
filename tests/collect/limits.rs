//! The services' own limits, which hold only where they are asked for.

use super::formats::{BASIC, JSON, SENTRY, V1, posthog, scores, segment};
use super::kit::{Collector, gzip};
use serde_json::json;

/// A body of JSON that is exactly so long.
fn padded(body: String, length: usize) -> Vec<u8> {
    let mut body = body.into_bytes();
    assert!(body.len() <= length);
    body.resize(length, b' ');
    body
}

#[test]
fn to_the_byte_where_they_are_asked_for() {
    let real = Collector::start(&["--limits", "real"]);
    let none = Collector::start(&[]);
    let basic = [JSON, BASIC];
    for (path, headers, body, most, status) in [
        ("/batch/", &basic[..], posthog(&[1]), 20 << 20, 413),
        ("/e/", &basic, posthog(&[1]), 2 << 20, 413),
        ("/i/v1/analytics/events", &V1, posthog(&[1]), 20 << 20, 413),
        ("/api/public/ingestion", &basic, json!({"batch": []}).to_string(), 9 << 19, 413),
        ("/api/public/scores", &basic, scores(&[1]), 1_000_000, 413),
        ("/v1/batch", &basic, segment(&[1]), 500 << 10, 400),
        ("/v1/track", &basic, json!({"userId": "u", "event": "e"}).to_string(), 32 << 10, 400),
    ] {
        let exact = padded(body.clone(), most);
        let a = real.ask("POST", path, headers, &exact);
        assert!(a.status < 300, "{path}: {}", a.text());
        let over = padded(body, most + 1);
        assert_eq!(real.ask("POST", path, headers, &over).status, status, "{path}");
        let packed = [headers, &["Content-Encoding: gzip"]].concat();
        assert_eq!(real.ask("POST", path, &packed, &gzip(&over)).status, status, "{path}, unpacked");
        assert!(none.ask("POST", path, headers, &over).status < 300, "{path}, without limits");
    }
}

#[test]
fn of_single_events() {
    let real = Collector::start(&["--limits", "real"]);
    let none = Collector::start(&[]);
    let long = |n: usize| "x".repeat(n);
    let posthog = |n| json!({"api_key": "k", "event": "e", "distinct_id": "d", "p": long(n)}).to_string();
    let segment = |n| json!({"batch": [{"userId": "u", "type": "page", "p": long(n)}]}).to_string();
    let sentry = |n| format!("{{}}\n{{\"type\":\"event\"}}\n{{\"p\":\"{}\"}}\n", long(n));
    for (path, headers, body, status) in [
        ("/e/", &[JSON][..], posthog(1 << 20), 400),
        ("/i/v0/ai/batch/", &[JSON], posthog(1 << 20), 200),
        ("/v1/batch", &[JSON, BASIC], segment(32 << 10), 400),
        ("/v1/batch", &[JSON, BASIC], segment(31 << 10), 200),
        ("/api/7/envelope/", &[SENTRY, "Content-Encoding: gzip"], sentry(1 << 20), 413),
        ("/api/7/envelope/", &[SENTRY, "Content-Encoding: gzip"], sentry(900 << 10), 200),
        ("/api/7/envelope/", &[SENTRY], sentry(201 << 10), 413),
    ] {
        let gzipped = headers.contains(&"Content-Encoding: gzip");
        let body = if gzipped { gzip(body.as_bytes()) } else { body.into_bytes() };
        let a = real.ask("POST", path, headers, &body);
        assert_eq!(a.status, status, "{path}: {}", a.text());
        assert_eq!(none.ask("POST", path, headers, &body).status, 200, "{path}, without limits");
    }
}
