//! Uploads from the caller's side: what is taken, what is refused, and who waits for them.
use crate::collector::{Collector, Latch, Reply};
use crate::host::{Dir, Host, LONG, alone, check, senders, takes, until};
use crate::langfuse::{Langfuse, MEDIA, meta, upload};
use crate::media::counted;
use serde_json::json;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::client::upload::Refused;
use telemetry::platform::log;

fn with_file(path: &Path) -> String {
    json!({"contentType": "image/png", "field": "input", "traceId": "t", "file": path}).to_string()
}

#[track_caller]
fn refused(result: Result<[u8; 22], Refused>, status: Status, part: &str) {
    let refused = result.expect_err("it was taken");
    assert!(refused.status == status && refused.why.contains(part), "{part:?} is not in {refused:?}");
}

#[test]
fn only_a_langfuse_takes_uploads() {
    let collector = Collector::kind();
    for endpoint in [
        format!("{}/batch/", collector.url()),
        collector.url().to_string(),
        format!("{}/v1/traces?x=/api/public/", collector.url()),
        "file:/dev/null".to_string(),
    ] {
        let host = Host::open(&endpoint, json!({}));
        let shown = endpoint.split('?').next().unwrap().to_string();
        refused(host.upload(&meta(), Some(b"abc")), Status::Invalid, &shown);
        refused(
            host.upload(&meta(), Some(b"abc")),
            Status::Invalid,
            "takes no uploads; allowed: an endpoint of Langfuse",
        );
    }
    assert_eq!(collector.count(), 0);
}

#[test]
fn bad_arguments_are_named() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    refused(host.upload("", Some(b"abc")), Status::Invalid, "one JSON object");
    refused(host.upload(&meta(), None), Status::Invalid, "neither data nor meta.file is given");
    refused(host.upload(&meta(), Some(b"")), Status::Invalid, "the data is empty");
    refused(
        host.upload(&with_file(Path::new("/etc/passwd")), Some(b"x")),
        Status::Invalid,
        "both data and meta.file",
    );
    let long = json!({"contentType": "a/b", "field": "input", "traceId": "x".repeat(70_000)}).to_string();
    refused(host.upload(&long, Some(b"x")), Status::Invalid, "longer than 65536 bytes");
    counted(&host, 0, 0, 0);
    assert_eq!(langfuse.api.count(), 0);
}

#[test]
fn a_file_is_read_at_the_call() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    let dir = Dir::new();
    let path = dir.0.join("picture");
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    host.upload(&with_file(&path), None).unwrap();
    // What becomes of it later is nothing to us.
    fs::write(&path, "other").unwrap();
    host.flush_all();
    assert_eq!(langfuse.stored(), [content]);
    let asked = langfuse.api.requests()[0].json();
    assert_eq!((&asked["contentLength"], asked.get("file")), (&json!(300_000), None));
    counted(&host, 1, 1, 0);
}

#[test]
fn what_is_no_file_is_refused_and_nobody_is_waited_for() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({"media_max_bytes": 1000}));
    let dir = Dir::new();
    let path = |name: &str| dir.0.join(name);
    let fifo = CString::new(path("fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("large"), [1; 1001]).unwrap();
    for (file, part) in [
        (path("none"), "No such file"),
        (dir.0.clone(), "no regular file"),
        (path("fifo"), "no regular file"),
        ("/dev/zero".into(), "no regular file"),
        (path("empty"), "or empty"),
        ("a\0b".into(), "a\\0b"),
    ] {
        refused(host.upload(&with_file(&file), None), Status::Invalid, part);
        refused(host.upload(&with_file(&file), None), Status::Invalid, "meta.file is ");
    }
    refused(
        host.upload(&with_file(&path("large")), None),
        Status::TooLarge,
        "1001 bytes are more than media_max_bytes allows (1000)",
    );
    assert_eq!(host.stats().dropped_too_large, 1);
    counted(&host, 0, 0, 0);
}

/// A storage that holds every request until the latch is open.
fn held() -> (Langfuse, Arc<Latch>) {
    let latch = Arc::new(Latch::default());
    let hold = Arc::clone(&latch);
    (Langfuse::start(|_| None, move |_| Some(Reply::When(Arc::clone(&hold), 200))), latch)
}

#[test]
fn what_waits_is_bounded_and_one_alone_fits() {
    let (langfuse, latch) = held();
    let host = Host::open(&langfuse.endpoint(), json!({"media_max_bytes": 100_000}));
    refused(host.upload(&meta(), Some(&[0; 100_001])), Status::TooLarge, "100001 bytes");
    // As large as the key says, although it takes a header, too.
    upload(&host, [1; 100_000]);
    refused(host.upload(&meta(), Some(b"x")), Status::Full, "media_max_bytes is used up");
    langfuse.store.wait(1);
    refused(host.upload(&meta(), Some(b"x")), Status::Full, "media_max_bytes is used up");
    let s = host.stats();
    assert_eq!((s.uploads, s.media_bytes, s.dropped_full, s.dropped_too_large), (1, 102_400, 2, 1));
    // Events have a room of their own.
    host.number(1);
    latch.open();
    host.flush_all();
    counted(&host, 1, 1, 0);
    // A small one takes a page.
    let (langfuse, latch) = held();
    let host = Host::open(&langfuse.endpoint(), json!({"media_max_bytes": 10 * 4096}));
    (0..10).for_each(|n| drop(upload(&host, format!("{n}"))));
    refused(host.upload(&meta(), Some(b"x")), Status::Full, "");
    assert_eq!(host.stats().media_bytes, 40_960);
    latch.open();
    host.flush_all();
    upload(&host, "x");
    host.flush_all();
    counted(&host, 11, 11, 0);
}

#[test]
fn flush_waits_for_uploads() {
    let (langfuse, latch) = held();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    assert_eq!(host.flush(LONG), Status::Ok);
    upload(&host, "abc");
    assert_eq!(host.flush(Duration::ZERO), Status::Timeout, "it only asks");
    let short = Duration::from_millis(50);
    assert_eq!(takes(short, || host.flush(short)), Status::Timeout);
    thread::scope(|scope| {
        let flusher = scope.spawn(|| host.flush(LONG));
        langfuse.store.wait(1);
        assert!(!flusher.is_finished());
        latch.open();
        assert_eq!(flusher.join().unwrap(), Status::Ok);
    });
    assert_eq!(host.flush(Duration::ZERO), Status::Ok);
    counted(&host, 1, 1, 0);
}

#[test]
fn many_threads_upload_and_flush() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    thread::scope(|scope| {
        for t in 0..4 {
            let (host, langfuse) = (&host, &langfuse);
            scope.spawn(move || {
                for n in 0..25 {
                    let id = upload(host, format!("{t} {n}"));
                    host.number(t * 100 + n);
                    if n % 5 == 0 {
                        host.flush_all();
                        let told = format!("PATCH {MEDIA}/{id} HTTP/1.1");
                        assert!(
                            langfuse.api.requests().iter().any(|seen| seen.request_line() == told),
                            "{t} {n}"
                        );
                    }
                }
            });
        }
    });
    host.flush_all();
    let mut stored = langfuse.stored();
    stored.sort();
    stored.dedup();
    assert_eq!((stored.len(), langfuse.store.count()), (100, 100), "each once");
    counted(&host, 100, 100, 0);
    assert_eq!(host.stats().delivered, 100);
}

#[test]
fn a_sender_that_is_about_to_end_takes_what_comes() {
    let langfuse = Langfuse::kind();
    // It ends after each.
    let host = Host::open(&langfuse.endpoint(), json!({"batch": {"max_age_ms": 1}, "idle_ms": 1}));
    for n in 1..=300u64 {
        upload(&host, n.to_string());
        if n % 3 == 0 {
            host.number(n);
        }
        // Nobody flushes: whoever is there takes it, or somebody is started.
        until("it is delivered", || host.stats().uploaded == n);
        for _ in 0..n % 50 * 40 {
            std::hint::spin_loop();
        }
    }
    assert!(host.stats().sender_starts > 1);
}

#[test]
fn events_and_uploads_do_not_starve_each_other() {
    // A storage that never answers.
    let langfuse = Langfuse::start(|_| None, |_| Some(Reply::Stall));
    let keys =
        json!({"timeout_ms": 500, "batch": {"max_events": 1}, "retry": {"initial_ms": 1, "max_ms": 2}});
    let host = Host::open(&langfuse.endpoint(), keys);
    upload(&host, "abc");
    langfuse.store.wait(1);
    host.fill(0..20);
    until("the events are delivered", || host.stats().delivered == 20);
    assert_eq!(host.stats().uploaded, 0);
    let mut next = 20..;
    until("the storage is asked again while events come", || {
        next.by_ref().take(5).for_each(|n| host.number(n));
        langfuse.store.count() > 2
    });
    // A collector that takes no events.
    let langfuse =
        Langfuse::answering(|seen| seen.request_line().contains("ingestion").then_some(Reply::Status(503)));
    let host = Host::open(
        &langfuse.endpoint(),
        json!({"retry": {"initial_ms": 1, "max_ms": 2}, "batch": {"max_events": 1}}),
    );
    host.fill(0..3);
    langfuse.api.wait(1);
    (0..20).for_each(|n| drop(upload(&host, n.to_string())));
    until("the uploads are delivered", || host.stats().uploaded == 20);
    assert_eq!(host.stats().delivered, 0);
}

#[test]
fn a_shut_client_takes_none_and_a_disabled_one_sends_none() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    upload(&host, "abc");
    assert_eq!(host.shutdown(LONG), Status::Ok);
    counted(&host, 1, 1, 0);
    refused(host.upload(&meta(), Some(b"abc")), Status::Closed, "shut down");
    refused(host.upload("nonsense", None), Status::Closed, "shut down");

    // Its endpoint may be any: where it is disabled nobody has configured one.
    for endpoint in [langfuse.endpoint(), "file:/dev/null".into()] {
        let host = Host::open(&endpoint, json!({"disabled": true}));
        assert_eq!(upload(&host, "abc"), "ungWv48Bz-pBQUDeXa4iI7", "a reference can be embedded");
        refused(host.upload("nonsense", None), Status::Invalid, "one JSON object");
        assert_eq!((host.flush(LONG), host.stats().uploads), (Status::Ok, 0));
    }
    assert_eq!(langfuse.store.count(), 1);
}

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

extern "C" fn listen(_: u32, text: *const std::ffi::c_char, _: *mut std::ffi::c_void) {
    // SAFETY: the library gives a C string.
    let text = unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned();
    SAID.lock().unwrap().push(text);
}

#[test]
fn what_shutdown_leaves_is_reported_and_its_memory_given_back() {
    if !alone("uploads::what_shutdown_leaves_is_reported_and_its_memory_given_back") {
        return;
    }
    log::set(Some(listen), std::ptr::null_mut(), log::Level::Debug as u32);
    let size = 8 << 20;
    until("a sender that ends in time", || {
        until("no other sender", || senders() == 0);
        let before = mapped(size);
        let langfuse = Langfuse::start(|_| None, |_| Some(Reply::Stall));
        let host = Host::open(&langfuse.endpoint(), json!({"queue_bytes": QUEUE}));
        (0..4).for_each(|n| drop(upload(&host, vec![n; size])));
        langfuse.store.wait(1);
        assert!(mapped(size) >= before + 4, "{}", mapped(size));
        let short = Duration::from_millis(100);
        let in_time = takes(short, || host.shut_with_a_rest(short));
        if in_time {
            assert_eq!((senders(), mapped(size)), (0, before));
        }
        let s = host.stats();
        check(&s);
        assert!(
            s.uploads == 4 && s.uploaded == 0 && s.media_bytes > 4 * size as u64,
            "what is lost shows: {s:?}"
        );
        in_time
    });
    let said = SAID.lock().unwrap();
    assert!(said.iter().any(|line| line.contains("at shutdown, 4 upload(s) for ") && line.contains("were not delivered")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("X-Signature")), "{said:?}");
}

#[test]
fn what_was_not_even_taken_up_is_given_back_as_well() {
    if !alone("uploads::what_was_not_even_taken_up_is_given_back_as_well") {
        return;
    }
    // In a request with events all the while.
    let langfuse =
        Langfuse::answering(|seen| seen.request_line().contains("ingestion").then_some(Reply::Stall));
    let size = 8 << 20;
    let mut asked = 0;
    until("a sender that ends in time", || {
        until("no other sender", || senders() == 0);
        let before = mapped(size);
        let keys = json!({"batch": {"max_events": 1}, "queue_bytes": QUEUE});
        let host = Host::open(&langfuse.endpoint(), keys);
        host.number(1);
        asked += 1;
        langfuse.api.wait(asked);
        upload(&host, vec![1; size]);
        assert_eq!(mapped(size), before + 1);
        let in_time = host.shut_with_a_rest(Duration::from_millis(10));
        assert!(!in_time || mapped(size) == before, "{} mapped", mapped(size));
        in_time
    });
}

/// Small beside an upload: the kernel may show the queue and an upload that lie together as one piece.
const QUEUE: usize = 2 << 20;

/// How many uploads of that size this process has in memory, where they are the only large wiped memory.
fn mapped(size: usize) -> usize {
    let text = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found = 0;
    let mut len = 0;
    for line in text.lines() {
        if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
            if let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)) {
                len = to - from;
            }
        } else if line.starts_with("VmFlags:") && line.contains(" wf") {
            found += len / size;
        }
    }
    found
}

#[test]
fn flush_delivers_uploads_where_no_thread_can_be_made() {
    if !alone("uploads::flush_delivers_uploads_where_no_thread_can_be_made") {
        return;
    }
    let langfuse = Langfuse::with_two_threads();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    if !crate::threads::allow_threads(false) {
        eprintln!("this system does not limit threads: nothing to see here");
        return;
    }
    (0..3).for_each(|n| drop(upload(&host, n.to_string())));
    assert_eq!((senders(), host.stats().media_bytes), (0, 3 * 4096));
    host.flush_all();
    counted(&host, 3, 3, 0);
    assert_eq!(host.stats().sender_starts, 0);
}
