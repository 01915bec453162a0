//! Appending to files.
use crate::server::*;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::sink::TransportErrorKind::*;
use telemetry::sink::{Method, Request, validate};

fn temp(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("lt-sink-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn client(path: &Path) -> Client {
    Client::new(format!("file:{}", path.display()))
}

#[test]
fn four_writers_keep_their_lines_whole() {
    let path = temp("four");
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let mut client = client(&path);
            thread::spawn(move || {
                for b in 0..50 {
                    let line =
                        |i| format!("{{\"w\":{w},\"b\":{b},\"i\":{i},\"x\":\"{}\"}}\n", "y".repeat(300));
                    let batch: String = (0..100).map(line).collect();
                    assert_eq!(client.post(batch.as_bytes()).unwrap().status, 200);
                    assert_eq!(client.table.noted(), 0);
                }
            })
        })
        .collect();
    for w in writers {
        w.join().unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(seen.insert((v["w"].to_string(), v["b"].to_string(), v["i"].to_string())), "twice: {v}");
    }
    assert_eq!(seen.len(), 4 * 50 * 100);
    fs::remove_file(path).unwrap();
}

#[test]
fn a_torn_line_of_a_dead_writer_costs_no_other_line() {
    let path = temp("torn");
    fs::write(&path, "{\"a\":1}\n{\"torn\":").unwrap();
    let mut client = client(&path);
    client.post(b"{\"b\":1}\n{\"c\":1}\n").unwrap();
    client.post(b"{\"d\":1}").unwrap();
    client.post(b"{\"e\":1}\n").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"a\":1}\n{\"torn\":{\"b\":1}\n{\"c\":1}\n{\"b\":1}\n{\"d\":1}\n{\"e\":1}\n");
    fs::remove_file(path).unwrap();
}

#[test]
fn compressed_bodies_are_left_as_they_are() {
    let path = temp("gzip");
    let mut client = client(&path);
    for _ in 0..2 {
        let request = Request {
            method: Method::Post,
            to: None,
            body: b"\x1f\x8bxx",
            content_type: "",
            content_encoding: Some("gzip"),
            headers: &[],
            deadline: Instant::now() + LONG,
        };
        client.sink.send(&request).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"\x1f\x8bxx\x1f\x8bxx");
    fs::remove_file(path).unwrap();
}

#[test]
fn nothing_is_uploaded_to_a_file() {
    let path = temp("upload");
    let error = client(&path).request(Method::Put, Some("http://h/"), b"x", LONG, &[]).unwrap_err();
    assert_eq!(error.kind, Local);
    assert!(!path.exists());
}

#[test]
fn errors_are_local_and_clear() {
    let path = temp("missing").join("f");
    let error = client(&path).post(b"x").unwrap_err();
    assert_eq!(error.kind, Local);
    assert!(error.message.contains(path.to_str().unwrap()), "{}", error.message);
    assert!(error.message.contains("directories are not created"), "{}", error.message);
    let error = client(Path::new("/dev/full")).post(b"x").unwrap_err();
    assert_eq!(error.kind, Local);
    assert!(error.message.contains("No space"), "{}", error.message);
}

#[test]
fn a_short_write_is_taken_up_again_at_its_line() {
    // The file size limit cuts a write short as a full disk does, then refuses: SIGXFSZ is ignored in the child.
    let path = temp("short");
    fs::write(&path, "").unwrap();
    crate::odd::in_child(|| {
        let limit = libc::rlimit { rlim_cur: 20, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: plain settings of this child process.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        }
        let mut client = client(&path);
        let full = client.post(b"{\"a\":1}\n{\"b\":1}\n{\"c\":1}\n").unwrap_err();
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
        full.kind == Local && client.post(b"{\"c\":1}\n").is_ok()
    });
    let text = fs::read_to_string(&path).unwrap();
    let good: Vec<_> =
        text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).collect();
    assert_eq!(good, ["{\"a\":1}", "{\"b\":1}", "{\"c\":1}"], "{text}");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_pipe_is_written_until_the_deadline() {
    let path = temp("fifo");
    let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a valid path.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    let mut client = client(&path);
    assert_eq!(client.post(b"x").unwrap_err().kind, Local, "nobody reads it");
    let p = path.clone();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        fs::File::open(p).unwrap().read_to_end(&mut all).unwrap();
        all.len()
    });
    let body = vec![b'x'; 1 << 20];
    while client.post(&body).is_err() {
        thread::yield_now(); // until the reader has opened it
    }
    assert_eq!(reader.join().unwrap(), (1 << 20) + 1);
    // A reader that does not read.
    let _silent = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let time = Duration::from_millis(200);
    assert_eq!(takes(time, || client.post_within(&body, time)).unwrap_err().kind, Local);
    fs::remove_file(path).unwrap();
}

#[test]
fn the_file_is_private_enough_and_may_be_unreadable() {
    let path = temp("mode");
    let mut client = client(&path);
    client.post(b"x\n").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7133, 0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o200)).unwrap();
    client.post(b"y\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x\ny\n");
    fs::remove_file(path).unwrap();
}

#[test]
fn a_directory_is_refused_at_open() {
    let error = validate(&sink_config(concat!("file:", env!("CARGO_MANIFEST_DIR")))).unwrap_err();
    assert!(error.starts_with("endpoint: ") && error.ends_with("is a directory"), "{error}");
}
