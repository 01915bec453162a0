//! The three steps of an upload: what is asked, put and told, and what each answer means.
use crate::collector::{Collector, Reply, Seen};
use crate::host::{Dir, HOUR_MS, Host, check, until};
use crate::langfuse::{Langfuse, MEDIA, asked, id_of, methods, upload, usual};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use telemetry::client::handle::Status;
use telemetry::format::time::rfc3339_ms;

/// By sha256sum and base64, of coreutils.
const ABC: &str = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
const ABC_ID: &str = "ungWv48Bz-pBQUDeXa4iI7";

/// Tried again soon.
fn soon() -> Value {
    json!({"retry": {"initial_ms": 1, "max_ms": 50}})
}

/// Gives this answer to the first request of that method.
fn first(
    method: &'static str,
    reply: impl Fn() -> Reply + Send + 'static,
) -> impl FnMut(&Seen) -> Option<Reply> {
    let mut said = false;
    move |seen| {
        let now = !said && seen.request_line().starts_with(method);
        said |= now;
        now.then(&reply)
    }
}

/// Gives this answer to the step's first request, which is the API's or the storage's.
fn faulty(step: &'static str, reply: impl Fn() -> Reply + Send + 'static) -> Langfuse {
    match step {
        "PUT" => Langfuse::start(|_| None, first(step, reply)),
        _ => Langfuse::answering(first(step, reply)),
    }
}

/// Counted so often: uploads, uploaded, failed; and nothing waits.
pub fn counted(host: &Host, uploads: u64, uploaded: u64, failed: u64) {
    let s = host.stats();
    check(&s);
    assert_eq!(
        (s.uploads, s.uploaded, s.uploads_failed, s.media_bytes),
        (uploads, uploaded, failed, 0),
        "{s:?}"
    );
}

#[test]
fn three_steps_with_all_that_belongs_to_them() {
    let langfuse = Langfuse::kind();
    let keys = json!({"basic": "pk:sk", "headers": {"X-Own": "hidden"}});
    let host = Host::open(&langfuse.endpoint(), keys);
    let before = SystemTime::now();
    assert_eq!(upload(&host, "abc"), ABC_ID);
    host.flush_all();
    let api = langfuse.api.requests();
    assert_eq!(
        (methods(&langfuse.api), methods(&langfuse.store)),
        (vec!["POST".into(), "PATCH".into()], vec!["PUT".into()])
    );

    let ask = &api[0];
    assert_eq!(ask.request_line(), "POST /api/public/media HTTP/1.1");
    let said = json!({
        "contentType": "image/png", "contentLength": 3, "sha256Hash": ABC, "field": "input", "traceId": "t1",
        "observationId": "o1",
    });
    assert_eq!(ask.json(), said);

    let put = &langfuse.store.requests()[0];
    assert_eq!(put.request_line(), format!("PUT /bucket/{ABC_ID}?n=0&X-Signature=a%2Fb HTTP/1.1"));
    assert_eq!(put.body, b"abc");
    assert_eq!(put.header("content-type"), Some("image/png"));
    assert_eq!(
        (put.header("x-amz-checksum-sha256"), put.header("x-ms-blob-type")),
        (Some(ABC), Some("BlockBlob"))
    );
    let head = put.head().to_ascii_lowercase();
    for ours in ["authorization", "cgs6c2s=", "x-own", "hidden", "idempotency", "x-langfuse"] {
        assert!(!head.contains(ours), "{ours}: {head}");
    }

    let tell = &api[1];
    assert_eq!(tell.request_line(), format!("PATCH /api/public/media/{ABC_ID} HTTP/1.1"));
    let body = tell.json();
    let names: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["uploadedAt", "uploadHttpStatus", "uploadTimeMs"]));
    assert_eq!(body["uploadHttpStatus"], 200);
    assert!(body["uploadTimeMs"].is_u64());
    let at = body["uploadedAt"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z'), "{at}");
    // Such texts are sorted as the times are.
    let text = |time: SystemTime| rfc3339_ms(time.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let [from, to] = [before, SystemTime::now()].map(text);
    assert!(&from[..] <= at.as_bytes() && at.as_bytes() <= &to[..], "{at}");
    for own in [ask, tell] {
        assert_eq!(own.header("authorization"), Some("Basic cGs6c2s="));
        assert_eq!(
            (own.header("x-own"), own.header("content-type")),
            (Some("hidden"), Some("application/json"))
        );
        assert_eq!(own.header("content-encoding"), None);
    }
    counted(&host, 1, 1, 0);
    assert!(host.stats().last_success_unix_ms > 0);
}

#[test]
fn ids_are_those_of_other_implementations() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    // By Python's hashlib and base64.
    for (data, id) in [("a", "ypeBEsobvcr6wjGzmiPcTa"), ("upload 16", "IiCOS37Ah_AScMJy-7OsTk")] {
        assert_eq!(upload(&host, data), id);
    }
    host.flush_all();
    // The server's own rule, by the hash that it is sent, comes to the same.
    counted(&host, 2, 2, 0);
}

#[test]
fn what_a_dataset_item_has() {
    let langfuse = Langfuse::kind();
    let host = Host::open(&langfuse.endpoint(), json!({}));
    let meta = json!({"contentType": "audio/mp3", "field": "expectedOutput", "datasetId": "d", "datasetItemId": "i"});
    host.upload(&meta.to_string(), Some(b"abc")).unwrap();
    host.flush_all();
    let mut said = meta;
    (said["contentLength"], said["sha256Hash"]) = (json!(3), json!(ABC));
    assert_eq!(langfuse.api.requests()[0].json(), said);
    assert_eq!(langfuse.store.requests()[0].header("content-type"), Some("audio/mp3"));
}

#[test]
fn known_content_is_not_sent() {
    let langfuse = Langfuse::answering(|seen| {
        (seen.is("POST", MEDIA) && seen.number > 2).then(|| asked(&id_of(seen), Value::Null))
    });
    let host = Host::open(&langfuse.endpoint(), json!({}));
    upload(&host, "abc");
    host.flush_all();
    for _ in 0..2 {
        upload(&host, "abc");
    }
    host.flush_all();
    assert_eq!(langfuse.methods(), ["POST", "PATCH", "POST", "PATCH", "POST"]);
    assert_eq!(langfuse.stored().len(), 2);
    counted(&host, 3, 3, 0);
}

#[test]
fn a_storage_of_google_gets_no_foreign_headers() {
    // A proxy sees requests to any host, whatever its address.
    let proxy = Collector::start(|seen| {
        let place = ["http://storage.googleapis.com", "http://notstorage.googleapis.com"][seen.number.min(1)];
        if seen.request_line().starts_with("POST ") { usual(seen, place) } else { Reply::Status(200) }
    });
    let host = Host::open("http://langfuse.example/api/public/ingestion", json!({"proxy": proxy.url()}));
    upload(&host, "a");
    upload(&host, "b");
    host.flush_all();
    let all = proxy.requests();
    let puts: Vec<&Seen> = all.iter().filter(|seen| seen.request_line().starts_with("PUT ")).collect();
    assert!(
        puts[0].request_line().starts_with("PUT http://storage.googleapis.com/bucket/"),
        "{}",
        puts[0].head()
    );
    assert_eq!((puts[0].header("x-amz-checksum-sha256"), puts[0].header("x-ms-blob-type")), (None, None));
    assert_eq!(puts[0].header("content-type"), Some("image/png"));
    assert!(puts[1].header("x-amz-checksum-sha256").is_some() && puts[1].header("x-ms-blob-type").is_some());
    counted(&host, 2, 2, 0);
}

#[test]
fn a_storage_behind_our_own_address_sees_no_credentials() {
    let server = Collector::start(|seen| {
        let place = format!("http://{}", seen.header("host").unwrap());
        usual(seen, &place)
    });
    let url = server.url().replace("//", "//pk:sk@") + "/api/public/ingestion";
    let host = Host::open(&url, json!({"headers": {"X-Own": "hidden"}}));
    upload(&host, "abc");
    host.flush_all();
    let all = server.requests();
    assert_eq!(methods(&server), ["POST", "PUT", "PATCH"]);
    let sent = |i: usize| (all[i].header("authorization"), all[i].header("x-own"));
    assert_eq!([sent(0), sent(2)], [(Some("Basic cGs6c2s="), Some("hidden")); 2]);
    assert_eq!(sent(1), (None, None));
}

#[test]
fn an_endpoint_below_a_path() {
    let langfuse = Langfuse::kind();
    for (given, media) in [
        ("/lf/api/public/scores?x=1", "/lf/api/public/media"),
        ("/api/public/otel/v1/traces", "/api/public/media"),
    ] {
        let before = langfuse.api.count();
        let host = Host::open(&format!("{}{given}", langfuse.api.url()), json!({}));
        upload(&host, given);
        host.flush_all();
        let api = &langfuse.api.requests()[before..];
        assert_eq!(api[0].request_line(), format!("POST {media} HTTP/1.1"));
        assert!(api[1].request_line().starts_with(&format!("PATCH {media}/")), "{}", api[1].request_line());
    }
}

#[test]
fn an_answer_that_is_none_is_final_and_harms_no_other() {
    let odd: [fn(&Seen) -> Reply; 6] = [
        |_| asked(ABC_ID, json!("http://127.0.0.1:1/")),
        |_| Reply::Full(201, String::new(), "{".into()),
        |_| Reply::Status(200),
        |seen| asked(&id_of(seen), json!(7)),
        |seen| asked(&id_of(seen), json!("ftp://x/")),
        |seen| asked(&id_of(seen)[..21], Value::Null),
    ];
    let langfuse = Langfuse::answering(move |seen| odd.get(seen.number).map(|say| say(seen)));
    let host = Host::open(&langfuse.endpoint(), json!({}));
    (0..7).for_each(|n| drop(upload(&host, format!("content {n}"))));
    host.flush_all();
    assert_eq!((langfuse.stored(), langfuse.api.count()), (vec![b"content 6".to_vec()], 8));
    counted(&host, 7, 1, 6);
}

#[test]
fn each_step_is_tried_again_and_a_place_is_asked_for_anew() {
    let faults: [fn() -> Reply; 6] = [
        || Reply::Cut,
        || Reply::Raw("nonsense".into()),
        || Reply::Status(429),
        || Reply::Status(500),
        || Reply::Status(503),
        || Reply::Status(599),
    ];
    for (step, api, puts) in
        [("POST", "POST POST PATCH", 1), ("PUT", "POST POST PATCH", 2), ("PATCH", "POST PATCH PATCH", 1)]
    {
        for (i, fault) in faults.into_iter().enumerate() {
            let langfuse = faulty(step, fault);
            let host = Host::open(&langfuse.endpoint(), soon());
            upload(&host, "abc");
            host.flush_all();
            assert_eq!(langfuse.methods().join(" "), api, "{step} {i}");
            let stored = langfuse.store.requests();
            assert!(stored.len() == puts && stored.iter().all(|put| put.body == b"abc"), "{step} {i}");
            let last = stored.last().unwrap();
            assert_eq!(last.request_line().contains("?n=1&"), step != "PATCH", "the place is a new one");
            let told: Vec<Value> = langfuse
                .api
                .requests()
                .iter()
                .filter(|r| r.head().starts_with("PATCH"))
                .map(Seen::json)
                .collect();
            assert!(told.iter().all(|said| *said == told[0] && said["uploadHttpStatus"] == 200), "{told:?}");
            counted(&host, 1, 1, 0);
        }
    }
}

#[test]
fn a_time_limit_ends_each_step() {
    for step in ["POST", "PUT", "PATCH"] {
        let langfuse = faulty(step, || Reply::Stall);
        let mut keys = soon();
        keys["timeout_ms"] = json!(2000);
        let host = Host::open(&langfuse.endpoint(), keys);
        upload(&host, "abc");
        host.flush_all();
        counted(&host, 1, 1, 0);
    }
}

fn busy(seconds: u32) -> Reply {
    Reply::Full(429, format!("Retry-After: {seconds}\r\n"), String::new())
}

/// What was asked for uploads, of both sides, in its order.
fn of_uploads(langfuse: &Langfuse) -> Vec<Seen> {
    let mut all = langfuse.api.requests();
    all.extend(langfuse.store.requests());
    all.retain(|seen| !seen.request_line().contains("ingestion"));
    all.sort_by_key(|seen| seen.at);
    all
}

#[test]
fn retry_after_is_kept_at_each_step() {
    for step in ["POST", "PUT", "PATCH"] {
        let langfuse = faulty(step, || busy(1));
        // Another pause than the one that is asked for may last an hour.
        let host = Host::open(&langfuse.endpoint(), json!({"retry": {"initial_ms": 1, "max_ms": HOUR_MS}}));
        upload(&host, "abc");
        host.flush_all();
        let uploads = of_uploads(&langfuse);
        let at = uploads.iter().position(|seen| seen.request_line().starts_with(step)).unwrap();
        let pause = uploads[at + 1].at - uploads[at].at;
        assert!(pause >= Duration::from_secs(1), "{step}: {pause:?}");
        counted(&host, 1, 1, 0);
    }
}

#[test]
fn an_event_does_not_wait_for_an_uploads_pause() {
    for (step, requests) in [("POST", 1), ("PUT", 2), ("PATCH", 3)] {
        let langfuse = faulty(step, || busy(3600));
        let host = Host::open(&langfuse.endpoint(), json!({"retry": {"initial_ms": 1, "max_ms": HOUR_MS}}));
        upload(&host, "abc");
        host.number(1);
        let _ = host.flush(Duration::ZERO);
        until("the event is delivered", || host.stats().delivered == 1);
        until("the refusal", || of_uploads(&langfuse).len() >= requests);
        // Not even for a caller who waits does it come before its time.
        assert_eq!(host.flush(Duration::from_millis(50)), Status::Timeout, "{step}");
        assert_eq!((of_uploads(&langfuse).len(), host.stats().uploaded), (requests, 0), "{step}");
    }
}

#[test]
fn a_refused_question_is_final() {
    for status in [400, 404, 405, 408, 413, 422] {
        let langfuse = faulty("POST", move || Reply::Status(status));
        let host = Host::open(&langfuse.endpoint(), soon());
        upload(&host, "abc");
        host.flush_all();
        counted(&host, 1, 0, 1);
        assert_eq!((langfuse.api.count(), langfuse.store.count()), (1, 0), "{status}");
    }
}

#[test]
fn refused_bytes_are_told_and_final() {
    for status in [400, 403, 404, 411, 307] {
        let elsewhere = Collector::kind();
        let to = format!("Location: {}/\r\n", elsewhere.url());
        let langfuse = faulty("PUT", move || Reply::Full(status, to.clone(), "x".repeat(600)));
        let host = Host::open(&langfuse.endpoint(), soon());
        upload(&host, "abc");
        upload(&host, "abcd");
        host.flush_all();
        assert_eq!(langfuse.methods(), ["POST", "PATCH", "POST", "PATCH"], "{status}");
        let told = langfuse.api.requests()[1].json();
        assert_eq!(
            (&told["uploadHttpStatus"], &told["uploadHttpError"]),
            (&json!(status), &json!("x".repeat(512)))
        );
        counted(&host, 2, 1, 1);
        assert_eq!(elsewhere.count(), 0, "{status}");
    }
}

#[test]
fn bytes_that_come_too_slowly_are_sent_again() {
    let langfuse = faulty("PUT", || Reply::Status(408));
    let host = Host::open(&langfuse.endpoint(), soon());
    upload(&host, "abc");
    host.flush_all();
    counted(&host, 1, 1, 0);
}

#[test]
fn a_server_that_will_not_be_told_makes_it_a_failure() {
    for status in [400, 404, 301] {
        let langfuse = faulty("PATCH", move || Reply::Status(status));
        let host = Host::open(&langfuse.endpoint(), soon());
        upload(&host, "abc");
        host.flush_all();
        counted(&host, 1, 0, 1);
        assert_eq!(langfuse.methods(), ["POST", "PATCH"], "{status}");
    }
}

#[test]
fn refused_credentials_open_the_circuit_until_an_upload_passes() {
    for step in ["POST", "PATCH"] {
        for status in [401, 402, 403] {
            let shut = Arc::new(AtomicBool::new(true));
            let is_shut = Arc::clone(&shut);
            let langfuse = Langfuse::answering(move |seen| {
                let refused = is_shut.load(Ordering::SeqCst) && seen.request_line().starts_with(step);
                refused.then_some(Reply::Status(status))
            });
            let host = Host::open(&langfuse.endpoint(), json!({"retry": {"initial_ms": 1, "max_ms": 100}}));
            upload(&host, "abc");
            until("the circuit is open", || host.stats().circuit_open == 1);
            let refusals =
                || langfuse.api.requests().into_iter().filter(|seen| seen.head().starts_with(step));
            until("another try", || refusals().count() >= 2);
            let at: Vec<_> = refusals().map(|seen| seen.at).collect();
            assert!(at[1] - at[0] >= Duration::from_millis(100), "a slow probe");
            assert_eq!(host.stats().media_bytes, 4096, "it is kept");
            shut.store(false, Ordering::SeqCst);
            host.flush_all();
            assert_eq!(host.stats().circuit_open, 0, "{step} {status}");
            counted(&host, 1, 1, 0);
        }
    }
}

#[test]
fn a_server_that_sends_us_elsewhere_is_probed_slowly_and_nothing_goes_there() {
    let elsewhere = Collector::kind();
    let to = format!("Location: {}/api/public/media\r\n", elsewhere.url());
    let langfuse = faulty("POST", move || Reply::Full(307, to.clone(), String::new()));
    let host = Host::open(&langfuse.endpoint(), soon());
    upload(&host, "abc");
    host.flush_all();
    counted(&host, 1, 1, 0);
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn a_server_that_is_not_there_opens_the_circuit() {
    let dir = Dir::new();
    let path = dir.0.join("socket");
    let url = format!("{}:/api/public/ingestion", crate::collector::unix_url(&path));
    let host = Host::open(&url, json!({"retry": {"initial_ms": 1, "max_ms": 20}}));
    upload(&host, "abc");
    until("the circuit is open", || host.stats().circuit_open == 1);
    let store = Collector::kind();
    let place = store.url().to_string();
    let server = Collector::at(&path, move |seen| usual(seen, &place));
    host.flush_all();
    assert_eq!((host.stats().circuit_open, methods(&server).len(), store.count()), (0, 2, 1));
    counted(&host, 1, 1, 0);
}

#[test]
fn what_is_too_old_is_given_up() {
    let langfuse = Langfuse::answering(|seen| seen.is("POST", MEDIA).then_some(Reply::Status(503)));
    let host =
        Host::open(&langfuse.endpoint(), json!({"retry": {"initial_ms": 1, "max_ms": 50, "max_age_s": 1}}));
    // On a slow machine one may be too old before it was tried twice.
    let mut given_up = 0;
    until("one is tried again", || {
        upload(&host, "abc");
        host.flush_all();
        given_up += 1;
        counted(&host, given_up, 0, given_up);
        langfuse.api.count() > given_up as usize
    });
}
