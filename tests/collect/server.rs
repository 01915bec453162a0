//! The server itself: bodies of no service, counts, pages, limits, its life.

use super::kit::{Client, Collector, LIMIT, command, directory, gzip, request};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

#[test]
fn every_body_shape_is_stored_line_by_line() {
    let c = Collector::start(&[]);
    for (kind, body, n) in [
        ("application/x-ndjson", "{\"id\":\"1\",\"pid\":7}\n{\"id\":\"2\",\"pid\":\"7\"}\n", 2),
        ("application/json", "[{\"uuid\":\"3\"},\n {\"uuid\":\n\"4\"}]", 2),
        (
            "application/json",
            "{\"api_key\":\"k\",\"batch\":[{\"uuid\":\"5\",\"properties\":{\"pid\":8}}],\"x\":[1]}",
            1,
        ),
        ("text/plain", "{\"messageId\":\"6\",\"context\":{\"pid\":8}}", 1),
        ("text/plain", "{\"event_id\":\"7\",\"props\":{\"pid\":9}}\n{\"k\":1}", 2),
    ] {
        let a = c.ask("POST", "/any/path?q=1", &[&format!("Content-Type: {kind}")], body.as_bytes());
        assert_eq!((a.status, a.json()), (200, json!({"status": 1, "accepted": n})), "{body}");
    }
    assert_eq!(
        c.stored(),
        "{\"id\":\"1\",\"pid\":7}\n{\"id\":\"2\",\"pid\":\"7\"}\n{\"uuid\":\"3\"}\n{\"uuid\": \"4\"}\n\
         {\"uuid\":\"5\",\"properties\":{\"pid\":8}}\n{\"messageId\":\"6\",\"context\":{\"pid\":8}}\n\
         {\"event_id\":\"7\",\"props\":{\"pid\":9}}\n{\"k\":1}\n"
    );
    let s = c.stats();
    assert_eq!((&s["received"], &s["unique"], &s["without_id"]), (&json!(8), &json!(8), &json!(1)));
    assert_eq!(s["by_path"], json!({"/any/path": 5}));
    for (pid, n) in [("7", 2), ("8", 2), ("9", 1)] {
        assert_eq!(s["by_pid"][pid]["received"], json!(n), "{s}");
    }
    let last = c.ask("GET", "/events?limit=2", &[], b"").json();
    assert_eq!(last, json!([{"event_id": "7", "props": {"pid": 9}}, {"k": 1}]));
}

#[test]
fn packed_bodies() {
    let c = Collector::start(&[]);
    let body = b"{\"id\":\"a\"}\n{\"id\":\"b\"}\n";
    let packed = gzip(body);
    assert_eq!(c.ask("POST", "/", &["Content-Encoding: gzip"], &packed).json()["accepted"], 2);
    let s = c.stats();
    assert_eq!(s["bytes_in"], json!(packed.len()), "counted on the wire");
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(body).unwrap();
    let deflated = z.finish().unwrap();
    assert_eq!(c.ask("POST", "/", &["content-encoding: DEFLATE"], &deflated).json()["accepted"], 2);
    assert_eq!(c.ask("POST", "/", &["Content-Encoding: br"], body).status, 415);
    assert_eq!(c.ask("POST", "/", &["Content-Type: application/x-protobuf"], b"\x0a").status, 415);
    assert_eq!(c.ask("POST", "/", &["Content-Encoding: gzip"], body).status, 400);
    assert_eq!(c.ask("POST", "/", &["Content-Encoding: gzip"], &packed[..packed.len() - 3]).status, 400);
    assert_eq!(c.count("received"), 4);
}

#[test]
fn chunked_pipelined_and_continued_on_one_connection() {
    let c = Collector::start(&[]);
    let mut k = c.connect();
    // Two requests at once, the first in chunks with an extension and a trailer.
    let mut both = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=1\r\n{\"id\r\n7\r\n\":\"c1\"}\r\n0\r\nT: 1\r\n\r\n"
        .to_vec();
    both.extend(request("POST", "/", &[], b"{\"id\":\"c2\"}"));
    k.raw(&both);
    assert_eq!(k.answer().unwrap().status, 200);
    assert_eq!(k.answer().unwrap().status, 200);
    // The body is sent only after the invitation.
    k.raw(b"POST / HTTP/1.1\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(k.answer().unwrap().status, 100);
    k.raw(b"{\"id\":\"c3\"}");
    assert_eq!(k.answer().unwrap().status, 200);
    assert_eq!(c.stored(), "{\"id\":\"c1\"}\n{\"id\":\"c2\"}\n{\"id\":\"c3\"}\n");
    // HTTP/1.0 and "close" end the connection.
    k.send("POST", "/", &["Connection: close"], b"{}");
    let a = k.answer().unwrap();
    assert!(a.headers.contains("Connection: close"), "{}", a.headers);
    assert_eq!(k.answer().unwrap_err(), b"");
    assert_eq!(c.count("requests"), 4);
}

#[test]
fn duplicates_by_id_and_by_worker() {
    let c = Collector::start(&[]);
    let id = "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10";
    c.post(&format!("[{{\"id\":\"{id}\",\"pid\":1}},{{\"id\":\"x\",\"pid\":1}},{{\"pid\":1}}]"));
    c.post(&format!(
        "[{{\"uuid\":\"{}\",\"pid\":2}},{{\"id\":\"y\",\"pid\":2}},{{\"pid\":2}}]",
        id.to_uppercase()
    ));
    let s = c.stats();
    assert_eq!(
        [&s["received"], &s["unique"], &s["duplicates"], &s["without_id"]],
        [&json!(6), &json!(5), &json!(1), &json!(2)]
    );
    assert_eq!(s["by_pid"]["1"]["unique"], 3);
    assert_eq!((&s["by_pid"]["2"]["received"], &s["by_pid"]["2"]["unique"]), (&json!(3), &json!(2)));
    assert_eq!(c.stored().lines().count(), 6, "every accepted copy is stored");
    assert_eq!(c.ask("POST", "/reset", &[], b"").status, 200);
    assert_eq!(c.count("received"), 0);
    c.post("{\"id\":\"x\"}");
    assert_eq!(c.count("unique"), 1, "the ids were forgotten");
}

#[test]
fn without_dedupe_every_event_is_unique() {
    let c = Collector::start(&["--no-dedupe"]);
    c.post("[{\"id\":\"x\"},{\"id\":\"x\"}]");
    assert_eq!(c.count("unique"), 2);
}

#[test]
fn bad_json_stores_nothing_of_its_body() {
    let c = Collector::start(&[]);
    for bad in ["{\"id\":1}\n{\"id\":2", "[{},{]", "{\"batch\":[{},1]}", "nonsense", "", "{} {}"] {
        let a = c.post(bad);
        assert_eq!(a.status, 400, "{bad}");
        assert!(!a.json()["error"].as_str().unwrap().is_empty(), "{bad}");
    }
    let s = c.stats();
    assert_eq!((&s["received"], &s["by_status"]), (&json!(0), &json!({"400": 6})));
    assert_eq!(c.stored(), "");
    // A request that is none.
    let mut k = c.connect();
    k.raw(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}");
    assert_eq!(k.answer().unwrap().status, 400);
    assert_eq!(k.answer().unwrap_err(), b"");
    let mut k = c.connect();
    k.raw(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_eq!(k.answer().unwrap().status, 400);
}

#[test]
fn a_body_over_the_limit_is_413_and_the_connection_lives() {
    let c = Collector::start(&["--max-body", "20"]);
    let exact = format!("{{\"id\":\"{}\"}}", "a".repeat(11));
    assert_eq!(exact.len(), 20);
    let mut k = c.connect();
    for (body, status) in
        [(exact.clone(), 200), (exact.clone() + "\n", 413), ("x".repeat(3 << 20), 413), (exact, 200)]
    {
        k.send("POST", "/", &[], body.as_bytes());
        assert_eq!(k.answer().unwrap().status, status);
    }
    // Small on the wire is not small: and in chunks, and when asked first.
    k.send("POST", "/", &["Content-Encoding: gzip"], &gzip("x".repeat(100).as_bytes()));
    assert_eq!(k.answer().unwrap().status, 413);
    k.raw(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"a\":\"aaaaaaaaaaaaaa\r\n2\r\n\"}\r\n0\r\n\r\n");
    assert_eq!(k.answer().unwrap().status, 413);
    k.raw(b"POST / HTTP/1.1\r\nContent-Length: 21\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(k.answer().unwrap().status, 413);
    let mut k = c.connect();
    k.raw(b"POST / HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\nabc");
    assert_eq!(k.answer().unwrap().status, 413);
    assert_eq!(c.stats()["by_status"], json!({"200": 2, "413": 6}));
}

#[test]
fn other_methods_and_pages() {
    let c = Collector::start(&[]);
    let page = c.ask("GET", "/", &[], b"");
    assert!(page.headers.contains("text/html") && page.text().contains("fetch('/stats'"), "{page:?}");
    let outside = ["src=\"http", "href=\"http", "url(", "@import"];
    assert!(!outside.iter().any(|o| page.text().contains(o)), "the page needs nothing from elsewhere");
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("OPTIONS", "/batch", 204),
        ("DELETE", "/batch", 405),
        ("PUT", "/batch", 405),
        ("GET", "/events?limit=x", 400),
    ] {
        assert_eq!(c.ask(method, path, &[], b"").status, status, "{method} {path}");
    }
    // HEAD: the length of a body, and no body.
    let mut k = c.connect();
    k.send("HEAD", "/", &["Connection: close"], b"");
    let mut all = String::new();
    k.0.read_to_string(&mut all).unwrap();
    assert!(
        all.ends_with("\r\n\r\n") && all.contains(&format!("Content-Length: {}", page.body.len())),
        "{all}"
    );
    assert_eq!(c.count("requests"), 0);
}

#[test]
fn many_clients_at_once_lose_nothing() {
    let c = Collector::start(&[]);
    std::thread::scope(|s| {
        for t in 0..8 {
            let mut k = c.connect();
            s.spawn(move || {
                for r in 0..20 {
                    let lines: String =
                        (0..50).map(|i| format!("{{\"id\":\"{t}-{r}-{i}\",\"pid\":{t}}}\n")).collect();
                    k.send("POST", "/", &["Content-Encoding: gzip"], &gzip(lines.as_bytes()));
                    assert_eq!(k.answer().unwrap().status, 200);
                }
            });
        }
    });
    let s = c.stats();
    assert_eq!((&s["received"], &s["unique"], &s["requests"]), (&json!(8000), &json!(8000), &json!(160)));
    assert_eq!(
        s["by_pid"]["3"],
        json!({"received": 1000, "unique": 1000, "last_seen_ms_ago": s["by_pid"]["3"]["last_seen_ms_ago"]})
    );
    let stored = c.stored();
    let mut ids: Vec<String> = stored
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["id"].as_str().unwrap().to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8000);
}

#[test]
fn signals_end_it_with_status_0() {
    for name in ["TERM", "INT"] {
        let mut c = Collector::start(&[]);
        c.post("{\"id\":\"kept\"}");
        c.signal(name);
        assert_eq!(c.child.wait().unwrap().code(), Some(0), "{name}");
        assert_eq!(c.stored(), "{\"id\":\"kept\"}\n");
        let mut rest = String::new();
        c.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "stdout has one line");
    }
}

#[test]
fn a_restart_goes_on_in_the_same_file_and_mends_its_last_line() {
    let dir = directory();
    std::fs::write(dir.join("out.ndjson"), "{\"id\":\"old\"}\n{\"id\":\"to").unwrap();
    let c = Collector::start_in(dir, "127.0.0.1:0", &[]);
    c.post("{\"id\":\"new\"}");
    assert_eq!(c.stored(), "{\"id\":\"old\"}\n{\"id\":\"to\n{\"id\":\"new\"}\n");
}

#[test]
fn a_file_that_cannot_be_written_is_507_and_counts_nothing() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let mut child = command()
        .args(["--listen", "127.0.0.1:0", "--out", "/dev/full"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("listening on ").unwrap().to_string();
    let c = Collector { child, stdout, url, dir: directory() };
    assert_eq!(c.post("{\"id\":\"a\"}").status, 507);
    assert_eq!(c.count("received"), 0);
}

#[test]
fn a_unix_socket_is_taken_over_only_if_dead() {
    let dir = directory();
    let path = dir.join("s");
    let listen = format!("unix:{}", path.display());
    let ready = dir.join("ready");
    let mut c = Collector::start_in(dir.clone(), &listen, &["--ready-file", ready.to_str().unwrap()]);
    assert_eq!(c.url, format!("http+unix://{}:/", path.display()));
    let post = || {
        let s = UnixStream::connect(&path).unwrap();
        s.set_read_timeout(Some(LIMIT)).unwrap();
        let mut k = Client(BufReader::new(s));
        k.send("POST", "/", &[], b"{}");
        k.answer().unwrap().status
    };
    assert_eq!(post(), 200);
    let second = run(&["--listen", &listen]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(post(), 200, "the first one still listens");
    c.child.kill().unwrap();
    c.child.wait().unwrap();
    assert!(path.exists(), "killed, it left its socket behind");
    let dead = std::mem::replace(&mut c, Collector::start_in(directory(), &listen, &[]));
    assert_eq!(post(), 200);
    c.signal("TERM");
    assert_eq!(c.child.wait().unwrap().code(), Some(0));
    assert!(!path.exists(), "ended in order, it removed its socket");
    drop(dead);
}

#[test]
fn the_ready_file_names_the_address() {
    let dir = directory();
    let ready = dir.join("ready");
    std::fs::write(&ready, "http://127.0.0.1:1\n").unwrap();
    let mut c = Collector::start_in(dir, "127.0.0.1:0", &["--ready-file", ready.to_str().unwrap()]);
    let end = Instant::now() + LIMIT;
    while std::fs::read_to_string(&ready).unwrap_or_default() != format!("{}\n", c.url) {
        assert!(Instant::now() < end, "the file never named {}", c.url);
        std::thread::yield_now();
    }
    c.signal("TERM");
    c.child.wait().unwrap();
    assert!(!ready.exists());
}

/// Runs a collector that is expected to end at once.
fn run(args: &[&str]) -> Output {
    let mut child = command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{args:?} did not end");
        }
        std::thread::yield_now();
    }
    child.wait_with_output().unwrap()
}

#[test]
fn bad_arguments_and_a_taken_port() {
    for (args, texts) in [
        (&["--fault", "explode"][..], &["--fault", "'explode'", "refuse, stall"][..]),
        (&["--listen", "nowhere"], &["--listen", "'nowhere'", "HOST:PORT", "unix:PATH"]),
        (&["--max-body", "0"], &["--max-body", "'0'", "1..=67108864"]),
        (&["--colour"], &["--colour"]),
    ] {
        let o = run(args);
        let text = String::from_utf8(o.stderr).unwrap();
        assert_eq!((o.status.code(), o.stdout.len()), (Some(2), 0), "{args:?}");
        for t in texts {
            assert!(text.contains(t), "{args:?}: {t} not in {text}");
        }
    }
    let c = Collector::start(&[]);
    let o = run(&["--listen", c.address()]);
    let text = String::from_utf8(o.stderr).unwrap();
    assert_eq!(o.status.code(), Some(1));
    assert!(text.contains(c.address()) && text.contains("in use"), "{text}");
    let o = run(&["--listen", "127.0.0.1:0", "--out", "/no/such/directory/f"]);
    assert_eq!(o.status.code(), Some(1));
    assert!(String::from_utf8(o.stderr).unwrap().contains("/no/such/directory/f"));
}
