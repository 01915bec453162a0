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
//! Layout: `listen` sockets, `http` requests and answers, `connection` what is done about each request,
//! `unpack` compressed bodies, `dialect` the services' languages, `walk`, `loose` and `scan` what they
//! read JSON with, `batch` the events of a request, `store` the file, `ledger` the counts, `faults` what
//! goes wrong on purpose, `page` what a human sees. This file is the command line and the life.
//!
//! What `refuse` is: the connection was accepted (the collector cannot know yet what will be asked for),
//! the head of the request is read, and the connection is closed with no answer. The client sees an end
//! of file or a reset, as from a proxy with nothing behind it, not "connection refused"; for that, do not
//! run the collector.

mod batch;
mod connection;
mod dialect;
mod faults;
mod http;
mod ledger;
mod listen;
mod loose;
mod page;
mod scan;
mod store;
mod unpack;
mod walk;

use connection::Connection;
use dialect::media::Shelf;
use faults::Faults;
use http::HARD_LIMIT;
use ledger::Ledger;
use listen::{Address, Listener};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;

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
    /// Whose limits on bodies and events hold besides --max-body: nobody's, or the services' own
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t = Limits::None)]
    limits: Limits,
    /// Keep no ids: every event counts as unique. Saves 19 to 39 bytes of memory for each in long runs
    #[arg(long)]
    no_dedupe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Limits {
    None,
    Real,
}

fn check_fault(spec: &str) -> Result<String, String> {
    Faults::parse(spec).map(|_| spec.to_string())
}

fn fault_help() -> String {
    format!(
        "Inject faults into POSTs of events and steps of uploads; may be given more than once.\nAllowed: {}.\n\
         {}\nExample: --fault 429=2@3,500%5",
        faults::ALLOWED,
        faults::MEANING
    )
}

/// What all connections share.
struct Collector {
    store: Store,
    ledger: Mutex<Ledger>,
    faults: Mutex<Faults>,
    media: Mutex<Shelf>,
    /// The address as a client is configured with it.
    url: String,
    max_body: usize,
    limits: Limits,
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
        media: Mutex::new(Shelf::default()),
        url: url.clone(),
        max_body: args.max_body as usize,
        limits: args.limits,
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
