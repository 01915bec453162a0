//! What each path answers, to whom, in which form.

use crate::client::{ask, connect, get, reply};
use crate::driver::Driver;
use serde_json::Value;
use std::io::Write;
use std::net::Shutdown;

#[test]
fn each_route_has_its_status_and_its_kind() {
    let d = Driver::tcp();
    for (live, ready, livez, readyz) in
        [(true, true, 200, 200), (true, false, 200, 503), (false, true, 503, 200), (false, false, 503, 503)]
    {
        d.set(|s| (s.live, s.ready) = (live, ready));
        let (l, r, s) = (get(d.port, "/livez"), get(d.port, "/readyz"), get(d.port, "/status"));
        assert_eq!((l.status, r.status, s.status), (livez, readyz, 200));
        for reply in [&l, &r, &s] {
            assert_eq!(reply.header("Content-Type"), Some("application/json"));
        }
        assert!(l.body == s.body && r.body == s.body, "one document for all three");
        let document: Value = serde_json::from_str(&s.body).unwrap();
        assert_eq!((document["live"].as_bool(), document["ready"].as_bool()), (Some(live), Some(ready)));
        assert_eq!(get(d.port, "/metrics").status, 200);
        assert_eq!(get(d.port, "/").status, 200);
    }
    let metrics = get(d.port, "/metrics");
    assert_eq!(metrics.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[test]
fn the_status_is_the_present_one() {
    let d = Driver::tcp();
    d.set(|s| s.reasons = vec!["crash_loop:slot=2".into()]);
    assert!(get(d.port, "/status").body.contains(r#""reasons":["crash_loop:slot=2"]"#));
    d.set(|s| s.reasons.clear());
    assert!(get(d.port, "/status").body.contains(r#""reasons":[]"#));
}

#[test]
fn verbose_is_the_same_document_for_people() {
    let d = Driver::tcp();
    for target in ["/livez", "/readyz", "/status"] {
        let (plain, verbose) = (get(d.port, target), get(d.port, &format!("{target}?verbose")));
        let lines = |text: &str| text.lines().count();
        assert!(lines(&plain.body) == 1 && lines(&verbose.body) > 50, "{target}");
        let value = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
        assert_eq!(value(&plain.body), value(&verbose.body));
        assert_eq!(plain.status, verbose.status);
    }
}

#[test]
fn head_has_the_head_that_get_has() {
    let d = Driver::tcp();
    d.set(|s| s.live = false);
    for target in ["/livez", "/readyz", "/status", "/metrics", "/", "/livez?verbose", "/nothing"] {
        let (full, head) = (get(d.port, target), ask(d.port, format!("HEAD {target} HTTP/1.1\r\n\r\n")));
        let without_date = |reply: &crate::client::Reply| {
            reply.headers.iter().filter(|(n, _)| n != "Date").cloned().collect::<Vec<_>>()
        };
        assert_eq!((full.status, without_date(&full)), (head.status, without_date(&head)), "{target}");
        assert!(!full.body.is_empty());
    }
}

#[test]
fn other_paths_and_methods_are_told_what_there_is() {
    let d = Driver::tcp();
    let other = get(d.port, "/healthz");
    assert_eq!(other.status, 404);
    assert!(other.body.contains("/livez") && !other.body.contains("/healthz"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let reply = ask(d.port, format!("{method} /livez HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!((reply.status, reply.header("Allow")), (405, Some("GET, HEAD")), "{method}");
    }
    assert_eq!(get(d.port, "/livez").status, 200);
    let seen = d.until("the last one's turn", |s| s.pages > 0);
    assert_eq!(seen.pages, 1, "no page was made for the others");
}

#[test]
fn each_form_of_a_request_is_understood() {
    let d = Driver::tcp();
    for request in [
        "GET /livez HTTP/1.0\r\n\r\n",
        "GET /livez HTTP/1.1\n\n",
        "\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://probe.example:9464/livez HTTP/1.1\r\nHost: probe.example\r\n\r\n",
        "GET /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
    ] {
        assert_eq!(ask(d.port, request).status, 200, "{request:?}");
    }
}

#[test]
fn a_request_in_pieces_is_a_request() {
    let d = Driver::tcp();
    let mut stream = connect(d.port);
    for (i, byte) in b"GET /livez?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n".iter().enumerate() {
        let turns = d.seen().turns;
        stream.write_all(&[*byte]).unwrap();
        d.until(&format!("byte {i}"), |s| s.turns > turns);
    }
    assert!(reply(&mut stream, false).body.starts_with("{\n"));
}

#[test]
fn a_client_that_has_finished_sending_is_answered() {
    let d = Driver::tcp();
    let half_closed = |request: &[u8]| {
        let mut stream = connect(d.port);
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        reply(&mut stream, false).status
    };
    assert_eq!(half_closed(b"GET /livez HTTP/1.1\r\n\r\n"), 200);
    assert_eq!(half_closed(b"GET /livez HTTP/1.1\r\nHos"), 400);
}

#[test]
fn what_follows_a_request_is_ignored_and_resets_nothing() {
    let d = Driver::tcp();
    let pipelined = "GET /livez HTTP/1.1\r\n\r\nGET /status HTTP/1.1\r\n\r\n\0\x01garbage";
    assert_eq!(ask(d.port, pipelined).status, 200);
    let body = "x".repeat(100_000);
    let long = format!("POST /livez HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(ask(d.port, long).status, 405);
    let chunked =
        format!("GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n{body}\r\n0\r\n\r\n");
    assert_eq!(ask(d.port, chunked).status, 200);
    let large = format!("GET /livez HTTP/1.1\r\nA: {body}\r\n\r\n");
    assert_eq!(ask(d.port, large).status, 431);
    assert_eq!(ask(d.port, format!("\x16\x03\x01\x02\0{body}")).status, 400);
    let seen = d.until("all of them closed", |s| s.open == 0 && s.pages >= 2);
    assert_eq!(seen.pages, 2, "the second request of the first one was not looked at");
}

#[test]
fn a_head_of_four_kilobytes_is_the_longest() {
    let d = Driver::tcp();
    let of = |length: usize| {
        let line = "GET /livez HTTP/1.1\r\nA: ";
        format!("{line}{}\r\n\r\n", "a".repeat(length - line.len() - 4))
    };
    assert_eq!((ask(d.port, of(4096)).status, ask(d.port, of(4097)).status), (200, 431));
}

#[test]
fn the_page_is_whole_and_safe() {
    let d = Driver::tcp();
    let page = get(d.port, "/");
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    // The script and the style that the policy allows are those of the page.
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let (_, rest) = page.body.split_once(&format!("<{tag}>")).unwrap();
        let (text, rest) = rest.split_once(&format!("</{tag}>")).unwrap();
        assert!(!rest.contains(&format!("<{tag}")), "one {tag}");
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{tag}");
    }
    for state in [
        "busy",
        "ready",
        "starting",
        "backoff",
        "crash looping",
        "failed",
        "stale",
        "abandoned",
        "stopping",
        "empty",
    ] {
        assert!(page.body.contains(&format!(">{state}</span>")), "{state}");
    }
    assert!(
        page.body.contains("&lt;b&gt;&quot;quoted&quot; &amp; &#39;more&#39;") && !page.body.contains("<b>")
    );
    assert!(page.body.contains("SIGKILL") && page.body.contains("exit 3") && page.body.contains("in 1.2 s"));
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "nothing from elsewhere");
    d.set(|s| {
        (s.live, s.ready) = (false, false);
        s.reasons = vec!["crash_loop:slot=4".into(), "<i>".into()];
        s.probe.bound = false;
        s.probe.error = Some("Address already in use".into());
    });
    let sick = get(d.port, "/").body;
    for text in
        ["Not live", "Not ready", "<li>crash_loop:slot=4</li>", "<li>&lt;i&gt;</li>", "not bound", "in use"]
    {
        assert!(sick.contains(text), "{text}");
    }
    assert!(!page.body.contains("Not live") && !page.body.contains("Not ready"));
}
