//! `telemetry send` as a program: lines in, events out.

// clippy.toml allows these inside of `#[test]` functions; the helpers here are as much part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "delivery/collector.rs"]
mod collector;
use collector::{Collector, Latch, Reply};
use std::sync::Arc;

/// No process takes longer.
const LIMIT: Duration = Duration::from_secs(60);
const NOWHERE: &str = "http://127.0.0.1:1/";

/// A `telemetry send` that runs, and its input.
struct Sender {
    child: Child,
    input: Option<ChildStdin>,
}

/// How one ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Sender {
    fn start(endpoint: &str, args: &[&str]) -> Sender {
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetry"));
        command.arg("send").args(["--endpoint", endpoint]).args(args).env_clear();
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        Sender { child, input }
    }

    fn write(&mut self, text: &str) -> &mut Sender {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    fn signal(&self) {
        // SAFETY: our own child, not reaped yet.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) }, 0);
    }

    /// Until it ends by itself, its input still open or not.
    fn end(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() >= deadline => panic!("it does not end"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        Ended { code: status.code(), said }
    }

    fn close(mut self) -> Ended {
        self.input = None;
        self.end()
    }
}

/// None outlives its test.
impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(endpoint: &str, args: &[&str], text: &str) -> Ended {
    let mut sender = Sender::start(endpoint, args);
    sender.write(text);
    sender.close()
}

#[test]
fn each_line_is_an_event() {
    let collector = Collector::kind();
    let lines: String = (0..5000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let ended = send(collector.url(), &[], &lines);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.said, "telemetry: 5000 read, 5000 delivered\n");
    assert_eq!(collector.numbers(), (0..5000).collect::<Vec<_>>());
    let ended = send(collector.url(), &["--quiet"], "{\"n\":5000}");
    assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""), "the last line needs no end");
    assert_eq!(collector.numbers().len(), 5001);
}

#[test]
fn a_slow_line_leaves_while_the_input_is_open() {
    let collector = Collector::kind();
    let mut sender = Sender::start(collector.url(), &[]);
    sender.write("{\"n\":1}\n{\"n\":").write("2}\n");
    let since = Instant::now();
    while collector.numbers() != [1, 2] {
        assert!(since.elapsed() < LIMIT, "{:?}", collector.numbers());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(sender.close().code, Some(0));
}

#[test]
fn text_becomes_an_object() {
    let collector = Collector::kind();
    assert_eq!(send(collector.url(), &["--text"], "a \"b\"\r\n\n\u{e9}\n").code, Some(0));
    assert_eq!(send(collector.url(), &["--text=line"], "3").code, Some(0));
    let events: Vec<_> = collector.requests().iter().flat_map(|seen| seen.events()).collect();
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0]["message"], &events[1]["message"]), (&"a \"b\"".into(), &"\u{e9}".into()));
    assert_eq!(events[2]["line"], "3");
}

#[test]
fn the_configuration_and_the_format_are_the_librarys() {
    let collector = Collector::kind();
    let config = ["--format", "posthog", "--config", r#"{"api_key":"phc_1","compression":"none"}"#];
    let ended = send(collector.url(), &config, "{\"event\":\"e\",\"distinct_id\":\"d\"}\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let body = collector.requests()[0].json();
    assert_eq!((&body["api_key"], &body["batch"][0]["event"]), (&"phc_1".into(), &"e".into()));
}

#[test]
fn what_is_wrong_is_named() {
    for (args, named) in [
        (&["--format", "posthogg"][..], "format is \"posthogg\""),
        (&["--config", "[1]"], "--config: allowed: a JSON object"),
        (&["--config", "@/nowhere"], "--config @/nowhere: No such file"),
        (&["--config", r#"{"queue_byte":1}"#], "queue_bytes"),
        (&["--timeout", "0"], "1..=31536000"),
    ] {
        let ended = Sender::start(NOWHERE, args).close();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.said.contains(named), "{ended:?}");
    }
    let secret = Sender::start("http://me:secret@", &[]).close();
    assert!(secret.code == Some(2) && !secret.said.contains("secret"), "{secret:?}");
}

#[test]
fn bad_lines_are_counted_and_lose_no_other() {
    let collector = Collector::kind();
    let long = format!("{{\"n\":\"{}\"}}", "x".repeat(5000));
    let text = format!("{{\"n\":1}}\nno json\n{long}\n{{\"n\":2}}\n");
    let ended = send(collector.url(), &["--config", r#"{"max_event_bytes":4000}"#], &text);
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("line 3 has 5008 bytes; allowed: 4000 (max_event_bytes)"), "{ended:?}");
    assert!(ended.said.ends_with("4 read, 2 delivered, 1 invalid, 1 too large\n"), "{ended:?}");
    assert_eq!(collector.numbers(), [1, 2]);
}

/// More lines than the queue takes, while nothing is answered: the writer waits, and nothing is dropped.
#[test]
fn a_full_queue_holds_the_input_back() {
    let latch = Arc::new(Latch::default());
    let held = Arc::clone(&latch);
    let collector = Collector::start(move |_| Reply::When(Arc::clone(&held), 200));
    const LINES: u64 = 4000;
    let config = ["--config", r#"{"queue_bytes":131072,"on_full":"drop"}"#];
    let mut sender = Sender::start(collector.url(), &config);
    let mut input = sender.input.take().unwrap();
    let filler = "x".repeat(200);
    let writer = std::thread::spawn(move || {
        for n in 0..LINES {
            writeln!(input, "{{\"n\":{n},\"filler\":\"{filler}\"}}").unwrap();
        }
    });
    collector.wait(1);
    assert!(!writer.is_finished(), "800 KiB fit neither into the queue nor into the pipe");
    latch.open();
    writer.join().unwrap();
    let ended = sender.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(collector.numbers(), (0..LINES).collect::<Vec<_>>());
}

#[test]
fn a_signal_ends_the_input_and_what_was_read_is_delivered() {
    let collector = Collector::kind();
    let mut sender = Sender::start(collector.url(), &["--config", r#"{"batch":{"max_age_ms":1000}}"#]);
    sender.write("{\"n\":1}\n");
    collector.wait(1);
    sender.write("{\"n\":2}\n");
    // It is read when the pipe is empty; whoever holds the other end can see that.
    let since = Instant::now();
    while unread(sender.input.as_ref().unwrap()) > 0 {
        assert!(since.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(1));
    }
    sender.signal();
    let ended = sender.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(collector.numbers(), [1, 2]);
}

fn unread(pipe: &ChildStdin) -> i32 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    assert_eq!(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut bytes) }, 0);
    bytes
}

#[test]
fn what_could_not_be_delivered_is_said_or_kept_in_the_spool() {
    let ended = send(NOWHERE, &["--timeout", "1"], "{\"n\":1}\n");
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.ends_with("1 read, 0 delivered, 1 not delivered\n"), "{ended:?}");

    let spool = std::env::temp_dir().join(format!("send-spool-{}", std::process::id()));
    let config = format!(r#"{{"spool_dir":{:?},"name":"send"}}"#, spool.to_str().unwrap());
    let ended = send(NOWHERE, &["--timeout", "1", "--config", &config], "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.ends_with("2 read, 0 delivered, 2 left in the spool\n"), "{ended:?}");
    let drain = Command::new(env!("CARGO_BIN_EXE_telemetry"))
        .args(["spool", "drain", "--to", Collector::kind().url()])
        .arg(&spool)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&drain.stdout).starts_with("delivered 2,"), "{drain:?}");
    fs::remove_dir_all(&spool).unwrap();
}

#[test]
fn disabled_takes_the_lines_and_sends_nothing() {
    let collector = Collector::kind();
    let ended = send(collector.url(), &["--config", r#"{"disabled":true}"#], "{\"n\":1}\n");
    assert_eq!(
        (ended.code, ended.said.as_str()),
        (Some(0), "telemetry: 1 read, none sent: disabled is true\n")
    );
    assert_eq!(collector.count(), 0);
}
