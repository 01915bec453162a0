//! `telemetry collect`: a collector to develop, test and measure against.
//!
//! Invariants:
//! - A thread for each connection, blocking reads and writes, no other concurrency: a fault needs the raw
//!   socket, and a stalled connection must stall nothing else.
//! - Parsing and unpacking happen outside of all locks. The order is: parse, append to the file, enter the
//!   ledger, answer. A client that was answered finds its events in the file and in the counts.
//! - Nothing of a body that was refused is stored.
//! - SIGTERM and SIGINT end the process with status 0, between two writes to the file.
//! - stdout carries one line, the address; complaints go to stderr.
//!
//! Layout: `listen` sockets, `http` requests and answers, `ingest` bodies to events, `scan` one event,
//! `store` the file, `ledger` the counts, `faults` what goes wrong on purpose, `page` what a human sees.
//! This file routes: `POST` of any path but `/reset` and `/fault` brings events; `GET` of `/`, `/stats`,
//! `/events`, `/fault` and `/healthz` tells about them.
//!
//! What `refuse` is: the connection was accepted (the collector cannot know yet what will be asked for),
//! the head of the request is read, and the connection is closed with no answer. The client sees an end
//! of file or a reset, as from a proxy with nothing behind it, not "connection refused"; for that, do not
//! run the collector.

mod faults;
mod http;
mod ingest;
mod ledger;
mod listen;
mod page;
mod scan;
mod store;

use faults::{Action, Faults};
use http::{Answer, Fail, HARD_LIMIT, Head, Reader};
use ingest::{Batch, Encoding, Unpack};
use ledger::Ledger;
use listen::{Address, Listener, Stream};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::Store;

/// Buffers of a connection larger than this are given back after the request.
const KEEP: usize = 4 << 20;

/// Arguments of `telemetry collect`.
#[derive(clap::Args)]
pub struct Args {
    /// Where to listen: HOST:PORT (port 0 takes a free one) or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = Address::parse)]
    listen: Address,
    /// Append every accepted event to this file, one JSON object a line, duplicates included
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Inject faults; may be given more than once
    #[arg(long, value_name = "SPEC", value_parser = check_fault, long_help = fault_help())]
    fault: Vec<String>,
    /// Write the address to this file once connections are accepted
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Answer 413 to bodies larger than this, on the wire or unpacked (at most 67108864)
    #[arg(long, value_name = "BYTES", default_value_t = HARD_LIMIT as u64,
          value_parser = clap::value_parser!(u64).range(1..=HARD_LIMIT as u64))]
    max_body: u64,
    /// Keep no ids: every event counts as unique. Saves 19 to 39 bytes of memory for each in long runs
    #[arg(long)]
    no_dedupe: bool,
}

fn check_fault(spec: &str) -> Result<String, String> {
    Faults::parse(spec).map(|_| spec.to_string())
}

fn fault_help() -> String {
    format!(
        "Inject faults into POSTs of events; may be given more than once.\nAllowed: {}.\nExample: --fault \
         429=2@3,500%5",
        faults::ALLOWED
    )
}

/// What all connections share.
struct Collector {
    store: Store,
    ledger: Mutex<Ledger>,
    faults: Mutex<Faults>,
    max_body: usize,
    open: AtomicU64,
    opened: AtomicU64,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is whole enough to count on: nothing here is updated in two steps
    // that must agree for safety.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the collector until a signal ends it; returns only with an error.
pub fn run(args: Args) -> Result<(), String> {
    let faults = Faults::parse(&args.fault.join(",")).map_err(|e| format!("--fault {e}"))?;
    let naming = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
    let store = Store::open(args.out.as_deref())
        .map_err(|e| format!("--out {}", naming(args.out.as_deref().unwrap_or(Path::new("")), e)))?;
    if let Some(path) = &args.ready_file {
        // One of an earlier run would say "ready" too soon.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(format!("--ready-file {}", naming(path, e)));
            }
            _ => {}
        }
    }
    let cannot = |e: io::Error| format!("--listen {}: cannot listen there: {e}", args.listen);
    let listener = Listener::bind(&args.listen).map_err(cannot)?;
    let url = listener.url().map_err(cannot)?;
    let collector = Arc::new(Collector {
        store,
        ledger: Mutex::new(Ledger::new(!args.no_dedupe)),
        faults: Mutex::new(faults),
        max_body: args.max_body as usize,
        open: AtomicU64::new(0),
        opened: AtomicU64::new(0),
    });
    end_on_signals(Arc::clone(&collector), listener.path(), args.ready_file.clone())
        .map_err(|e| format!("cannot take signals: {e}"))?;
    let mut stdout = io::stdout();
    let told = writeln!(stdout, "listening on {url}").and_then(|()| stdout.flush());
    told.map_err(|e| format!("cannot write to stdout: {e}"))?;
    if let Some(path) = &args.ready_file {
        announce(path, &url).map_err(|e| format!("--ready-file {}", naming(path, e)))?;
    }
    accept(&listener, &collector)
}

/// Written beside and renamed: who sees the file sees all of it.
fn announce(path: &Path, url: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, format!("{url}\n"))?;
    std::fs::rename(&beside, path)
}

fn end_on_signals(c: Arc<Collector>, socket: Option<PathBuf>, ready: Option<PathBuf>) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            // Held to the end: no batch is cut in two.
            let _file = c.store.lock();
            for path in [socket, ready].into_iter().flatten() {
                let _ = std::fs::remove_file(path);
            }
            std::process::exit(0);
        }
    })?;
    Ok(())
}

fn accept(listener: &Listener, collector: &Arc<Collector>) -> Result<(), String> {
    loop {
        let stream = match listener.accept() {
            Ok(s) => s,
            Err(e) => {
                // Most likely no descriptor is left: connections that end give some back.
                eprintln!("telemetry: cannot accept a connection: {e}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let c = Arc::clone(collector);
        c.opened.fetch_add(1, Ordering::Relaxed);
        c.open.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("connection".into());
        let started = thread.spawn(move || {
            let guard = Open(&c.open);
            Connection::new(&c, &stream).serve();
            drop(guard);
        });
        if let Err(e) = started {
            eprintln!("telemetry: cannot start a thread: {e}");
            collector.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Counts a connection as open, also if its thread panics.
struct Open<'a>(&'a AtomicU64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What follows after a request.
#[derive(PartialEq)]
enum Next {
    Request,
    Close,
}

struct Connection<'a> {
    c: &'a Collector,
    stream: &'a Stream,
    reader: Reader<'a>,
    wire: Vec<u8>,
    plain: Vec<u8>,
    batch: Batch,
}

impl<'a> Connection<'a> {
    fn new(c: &'a Collector, stream: &'a Stream) -> Self {
        let (wire, plain) = (Vec::new(), Vec::new());
        Connection { c, stream, reader: Reader::new(stream), wire, plain, batch: Batch::default() }
    }

    fn serve(&mut self) {
        loop {
            let next = match self.reader.head() {
                Ok(Some(head)) => self.request(&head),
                Ok(None) => return,
                Err(fail) => {
                    let _ = self.failed(fail, false);
                    Next::Close
                }
            };
            if next == Next::Close {
                return;
            }
            for buffer in [&mut self.wire, &mut self.plain] {
                buffer.truncate(KEEP);
                buffer.shrink_to(KEEP);
            }
        }
    }

    fn request(&mut self, head: &Head) -> Next {
        match (head.method.as_str(), head.path.as_str()) {
            ("PUT" | "POST", "/fault") | ("POST", "/reset") => self.control(head),
            ("POST", _) => self.events(head),
            _ => {
                // Whatever body it has belongs to nobody.
                if let Err(fail) = self.reader.body(head, &mut self.wire, self.c.max_body) {
                    return self.failed(fail, head.keep_alive);
                }
                let answer = self.look(head);
                self.send(&answer, head)
            }
        }
    }

    fn send(&mut self, answer: &Answer, head: &Head) -> Next {
        match answer.send(self.stream, head.keep_alive, head.method == "HEAD") {
            Ok(()) if head.keep_alive => Next::Request,
            _ => Next::Close,
        }
    }

    /// Answers a request that could not be read, and goes on if it was read to its end.
    fn failed(&mut self, fail: Fail, keep_alive: bool) -> Next {
        let (answer, rest) = match fail {
            Fail::Gone => return Next::Close,
            Fail::Bad(status, text) => (Answer::error(status, &text), true),
            Fail::TooLarge { rest } => (self.too_large(), rest),
        };
        let keep_alive = keep_alive && !rest;
        if answer.send(self.stream, keep_alive, false).is_ok() && keep_alive {
            return Next::Request;
        }
        if rest {
            self.reader.linger();
        }
        Next::Close
    }

    fn too_large(&self) -> Answer {
        Answer::error(413, &format!("the body is larger than {} bytes", self.c.max_body))
    }

    fn look(&self, head: &Head) -> Answer {
        match (head.method.as_str(), head.path.as_str()) {
            ("OPTIONS", _) => Answer {
                extra: Some(("Allow", "GET, HEAD, POST, PUT, OPTIONS".into())),
                ..Answer::json(204, "")
            },
            ("GET" | "HEAD", "/") => page::answer(),
            ("GET" | "HEAD", "/healthz") => Answer::json(200, r#"{"status":"ok"}"#),
            ("GET" | "HEAD", "/stats") => self.stats(),
            ("GET" | "HEAD", "/fault") => self.fault_text(),
            ("GET" | "HEAD", "/events") => {
                let limit = head.query.split('&').find_map(|p| p.strip_prefix("limit="));
                match limit.map_or(Ok(ledger::RECENT_EVENTS), str::parse) {
                    Ok(n) => Answer::json(200, locked(&self.c.ledger).recent(n)),
                    Err(_) => Answer::error(400, "limit must be a whole number"),
                }
            }
            ("GET" | "HEAD", _) => Answer::error(
                404,
                "GET knows /, /stats, /events, /fault, /healthz; POST takes events anywhere",
            ),
            _ => Answer {
                extra: Some(("Allow", "GET, HEAD, POST, PUT, OPTIONS".into())),
                ..Answer::error(405, "events are sent by POST")
            },
        }
    }

    fn stats(&self) -> Answer {
        let faults = locked(&self.c.faults).in_force(Instant::now());
        let mut stats = locked(&self.c.ledger).stats();
        stats.insert("faults".into(), faults.into());
        stats.insert("connections".into(), self.c.open.load(Ordering::Relaxed).into());
        stats.insert("connections_total".into(), self.c.opened.load(Ordering::Relaxed).into());
        Answer::json(200, serde_json::Value::Object(stats).to_string())
    }

    fn fault_text(&self) -> Answer {
        let list = locked(&self.c.faults).in_force(Instant::now()).join(",");
        Answer { kind: "text/plain; charset=utf-8", ..Answer::json(200, list) }
    }

    fn control(&mut self, head: &Head) -> Next {
        let n = match self.reader.body(head, &mut self.wire, HARD_LIMIT) {
            Ok(n) => n,
            Err(fail) => return self.failed(fail, head.keep_alive),
        };
        let answer = if head.path == "/reset" {
            locked(&self.c.ledger).reset();
            let open = self.c.open.load(Ordering::Relaxed);
            self.c.opened.store(open, Ordering::Relaxed);
            Answer::json(200, r#"{"status":1}"#)
        } else {
            let spec = std::str::from_utf8(self.wire.get(..n).unwrap_or_default());
            match spec.map_err(|_| "the body is not UTF-8".to_string()).and_then(Faults::parse) {
                Ok(faults) => {
                    *locked(&self.c.faults) = faults;
                    self.fault_text()
                }
                Err(why) => Answer::error(400, &why),
            }
        };
        self.send(&answer, head)
    }

    fn events(&mut self, head: &Head) -> Next {
        let decision = locked(&self.c.faults).decide(Instant::now());
        if decision.action == Some(Action::Refuse) {
            self.note(head, 0, "refuse");
            return Next::Close;
        }
        let wire = match self.reader.body(head, &mut self.wire, self.c.max_body) {
            Ok(n) => n,
            Err(fail) => {
                match &fail {
                    Fail::Gone => {}
                    Fail::Bad(status, _) => self.note(head, 0, &status.to_string()),
                    Fail::TooLarge { .. } => self.note(head, 0, "413"),
                }
                return self.failed(fail, head.keep_alive);
            }
        };
        if !decision.delay.is_zero() && !matches!(decision.action, None | Some(Action::Lost)) {
            // Delays what follows. (A delayed normal answer is for below: its events are stored first.)
            let _ = self.reader.wait(Some(Instant::now() + decision.delay));
        }
        match decision.action {
            Some(Action::Status(status, value)) => {
                self.note(head, wire, &status.to_string());
                let name = if status < 400 { "Location" } else { "Retry-After" };
                let mut answer = Answer::error(status, "a fault that was asked for");
                answer.extra = value.map(|v| (name, v));
                self.send(&answer, head)
            }
            Some(Action::Cut) => {
                self.note(head, wire, "cut");
                let bytes = taken(0).head(false);
                let _ = (&mut &*self.stream).write_all(bytes.get(..bytes.len() / 2).unwrap_or_default());
                Next::Close
            }
            Some(Action::Stall(time)) => {
                self.note(head, wire, "stall");
                if !self.reader.wait(time.map(|t| Instant::now() + t)) {
                    return Next::Close;
                }
                let answer = self.take(head, wire);
                locked(&self.c.ledger).ended(&answer.status.to_string());
                self.send(&answer, head)
            }
            Some(Action::Lost) => {
                let answer = self.take(head, wire);
                let how = if answer.status == 200 { "lost" } else { "lost, and bad" };
                self.note(head, wire, how);
                let _ = self.reader.wait(Some(Instant::now() + decision.delay));
                Next::Close
            }
            Some(Action::Refuse) | None => {
                let answer = self.take_and_note(head, wire);
                if !decision.delay.is_zero() && !self.reader.wait(Some(Instant::now() + decision.delay)) {
                    return Next::Close;
                }
                self.send(&answer, head)
            }
        }
    }

    /// Counts a request that stored nothing.
    fn note(&self, head: &Head, wire: usize, how: &str) {
        let mut ledger = locked(&self.c.ledger);
        ledger.arrived(&head.path, wire as u64);
        ledger.ended(how);
    }

    fn take(&mut self, head: &Head, wire: usize) -> Answer {
        match self.parse_and_store(head, wire) {
            Ok(()) => {
                locked(&self.c.ledger).accept(&self.batch);
                taken(self.batch.events.len())
            }
            Err(answer) => answer,
        }
    }

    /// The common path: one visit to the ledger.
    fn take_and_note(&mut self, head: &Head, wire: usize) -> Answer {
        let stored = self.parse_and_store(head, wire);
        let mut ledger = locked(&self.c.ledger);
        ledger.arrived(&head.path, wire as u64);
        match stored {
            Ok(()) => {
                ledger.accept(&self.batch);
                ledger.ended("200");
                taken(self.batch.events.len())
            }
            Err(answer) => {
                ledger.ended(&answer.status.to_string());
                answer
            }
        }
    }

    fn parse_and_store(&mut self, head: &Head, wire: usize) -> Result<(), Answer> {
        self.batch.clear(KEEP);
        let Some(encoding) = head.encoding else {
            return Err(Answer::error(415, "Content-Encoding: gzip, deflate and identity are understood"));
        };
        let Some(shape) = head.shape else {
            return Err(Answer::error(415, "Content-Type: events are taken as JSON, not as protobuf"));
        };
        let wire = self.wire.get(..wire).unwrap_or_default();
        let body = match ingest::unpack(encoding, wire, &mut self.plain, self.c.max_body) {
            Ok(_) if encoding == Encoding::Identity => wire,
            Ok(n) => self.plain.get(..n).unwrap_or_default(),
            Err(Unpack::Bad(why)) => return Err(Answer::error(400, &why)),
            Err(Unpack::TooLarge) => return Err(self.too_large()),
        };
        ingest::parse(body, shape, &mut self.batch).map_err(|why| Answer::error(400, &why))?;
        self.c.store.append(&self.batch.lines).map_err(|e| {
            eprintln!("telemetry: cannot write to the file of events: {e}");
            Answer::error(507, &format!("cannot store: {e}"))
        })
    }
}

fn taken(events: usize) -> Answer {
    Answer::json(200, format!("{{\"status\":1,\"accepted\":{events}}}"))
}
