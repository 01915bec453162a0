//! What goes wrong on purpose, request by request.

use super::kit::Collector;
use serde_json::json;
use std::net::Shutdown;
use std::time::{Duration, Instant};

#[test]
fn status_faults_run_out_in_order() {
    let c = Collector::start(&["--fault", "429=7@2,503@1", "--fault", "307=\"/other\"@1"]);
    assert_eq!(c.stats()["faults"], json!(["429=7@2", "503@1", "307=\"/other\"@1"]));
    let mut k = c.connect();
    for (status, header) in [
        (429, Some("Retry-After: 7\r\n")),
        (429, Some("Retry-After: 7\r\n")),
        (503, None),
        (307, Some("Location: /other\r\n")),
        (200, None),
    ] {
        // A control request in between uses nothing up.
        assert_eq!(c.ask("GET", "/healthz", &[], b"").status, 200);
        k.send("POST", "/", &[], b"{}");
        let a = k.answer().unwrap();
        assert_eq!(a.status, status);
        assert_eq!(a.headers.contains("Retry-After") || a.headers.contains("Location"), header.is_some());
        assert!(a.headers.contains(header.unwrap_or("")), "{}", a.headers);
    }
    let s = c.stats();
    assert_eq!(s["by_status"], json!({"200": 1, "307": 1, "429": 2, "503": 1}));
    assert_eq!((&s["received"], &s["faults"]), (&json!(1), &json!([])));
}

#[test]
fn faults_are_set_and_cleared_at_runtime() {
    let c = Collector::start(&[]);
    c.fault("500%100, 401");
    assert_eq!(c.ask("GET", "/fault", &[], b"").text(), "500%100,401");
    assert_eq!(c.post("{}").status, 500);
    let a = c.ask("PUT", "/fault", &[], b"500,explode");
    assert_eq!(a.status, 400);
    let why = a.json()["error"].as_str().unwrap().to_string();
    assert!(why.contains("'explode'") && why.contains("stall[=SECONDS]"), "{why}");
    assert_eq!(c.post("{}").status, 500, "a refused list changes nothing");
    c.fault("401/0");
    assert_eq!(c.post("{}").status, 200, "its time is over at once");
    c.fault("413/1000");
    assert_eq!(c.post("{}").status, 413);
    c.fault("");
    assert_eq!(c.post("{}").status, 200);
}

#[test]
fn per_cent_hits_the_same_requests_in_each_run() {
    let run = || {
        let c = Collector::start(&["--fault", "500%40"]);
        let mut k = c.connect();
        (0..50)
            .map(|_| {
                k.send("POST", "/", &[], b"{}");
                k.answer().unwrap().status
            })
            .collect::<Vec<_>>()
    };
    let first = run();
    assert!(first.contains(&500) && first.contains(&200), "{first:?}");
    assert_eq!(first, run());
}

#[test]
fn refuse_cuts_events_and_nothing_else() {
    let c = Collector::start(&["--fault", "refuse@1"]);
    let mut k = c.connect();
    k.raw(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n");
    assert_eq!(k.answer().unwrap_err(), b"", "closed though the body was never sent");
    assert_eq!(c.post("{}").status, 200);
    assert_eq!(c.stats()["by_status"], json!({"200": 1, "refuse": 1}));
}

#[test]
fn cut_sends_half_a_head_and_stores_nothing() {
    let c = Collector::start(&["--fault", "cut"]);
    let mut k = c.connect();
    k.send("POST", "/", &[], b"{}");
    let half = k.answer().unwrap_err();
    assert!(half.starts_with(b"HTTP/1.1 200 OK\r\n"), "{half:?}");
    assert_eq!(c.count("received"), 0);
    assert_eq!(c.stored(), "");
}

#[test]
fn lost_stores_and_gives_no_answer() {
    let c = Collector::start(&["--fault", "slow=1,lost@1"]);
    let mut k = c.connect();
    k.send("POST", "/", &[], b"{\"id\":\"a\"}");
    assert_eq!(k.answer().unwrap_err(), b"");
    assert_eq!(c.post("{\"id\":\"a\"}").status, 200);
    let s = c.stats();
    assert_eq!((&s["received"], &s["duplicates"]), (&json!(2), &json!(1)));
    assert_eq!(s["by_status"], json!({"200": 1, "lost": 1}));
}

#[test]
fn a_stall_holds_only_its_own_connection() {
    let mut c = Collector::start(&["--fault", "stall@1"]);
    let mut held = c.connect();
    held.send("POST", "/", &[], b"{\"id\":\"a\"}");
    c.until("the stalled request", |s| s["by_status"]["stall"] == 1);
    assert_eq!(c.post("{\"id\":\"b\"}").status, 200);
    assert_eq!(c.stored(), "{\"id\":\"b\"}\n", "a stalled request is not stored");
    // When the client gives up, the collector lets go of the connection.
    held.0.get_mut().shutdown(Shutdown::Both).unwrap();
    c.until("the end of the stalled connection", |s| s["connections"] == 1);
    // And one that stays does not hold the end of the collector.
    c.fault("stall");
    let mut held = c.connect();
    held.send("POST", "/", &[], b"{}");
    c.until("the second stalled request", |s| s["by_status"]["stall"] == 2);
    c.signal("TERM");
    assert_eq!(c.child.wait().unwrap().code(), Some(0));
    assert_eq!(held.answer().unwrap_err(), b"");
}

#[test]
fn delays_last_as_long_as_asked() {
    let c = Collector::start(&["--fault", "stall=0.2@1,slow=200@1"]);
    for id in ["a", "b"] {
        let start = Instant::now();
        assert_eq!(c.post(&format!("{{\"id\":\"{id}\"}}")).status, 200);
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    }
    assert_eq!(c.stored(), "{\"id\":\"a\"}\n{\"id\":\"b\"}\n");
    // A slow answer is slow, but its events are there at once.
    c.fault("slow=3600000@1");
    let mut k = c.connect();
    k.send("POST", "/", &[], b"{\"id\":\"c\"}");
    c.until("the events of the slow answer", |s| s["received"] == 3);
}
