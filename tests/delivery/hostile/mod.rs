//! A hostile server: each fault goes through a whole client, from `open` to its statistics.
//!
//! Invariants of each case:
//! - While the fault lasts, the events end in the verdict that is documented for it, which is awaited, and at every
//!   look the balance of the counters holds.
//! - Then the server becomes good, and all that was kept arrives; one event more shows that the client is well.
//! - What a server took it took once; twice only where its answer was lost ([`Case::twice`]).
//! - No line that is logged, throttle or not, has a credential in it.
//!
//! A server that is slow has to wait by the clock; nothing else here sleeps.

mod answers;
mod cuts;
mod network;
mod redirects;
mod tls;
mod villain;

use crate::host::{HOUR_MS, Host, LONG, check, merge};
use serde_json::{Value, json};
use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;
use telemetry::client::life::Snapshot;
use telemetry::platform::log;
use telemetry::sink::ResolverFiles;
use villain::{Book, Visit, start};

/// In the URL, in its query and in a header; its Base64 is what a request shows of the first.
const SECRET: &str = "s3cr3t-W0rd";
const SECRET_BASE64: &str = "dXMzcjpzM2NyM3QtVzByZA==";

/// The most that a case may take: many times what its longest time limits add up to.
const LIMIT: Duration = Duration::from_secs(300);
/// The time limits of a request to a slow server. What that server does in time, on which its case stands, it may do too
/// late on a busy machine: then the case is played again, with more time.
const SLOW_MS: [u64; 3] = [1000, 6000, 30_000];

/// What becomes of the events while the fault lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Delivered, at the first attempt.
    Delivered,
    /// The same, but nobody knows what the answer said.
    Unverified,
    /// Refused for good.
    Rejected,
    /// Kept and sent again.
    Kept,
    /// Kept, and after some attempts the circuit is open: nobody is there.
    Unreached,
    /// Kept, with the circuit open from the first answer: a person has to mend something.
    Denied,
}

/// Where a case's client goes.
struct Stage {
    /// Scheme, host and port.
    origin: String,
    names: Option<ResolverFiles>,
    keys: Value,
    /// Ends the fault, beside what [`Book::mend`] does.
    mend: Box<dyn FnOnce()>,
    /// Further checks at the end.
    after: Box<dyn FnOnce()>,
}

impl Stage {
    fn at(origin: String) -> Stage {
        Stage { origin, names: None, keys: json!({}), mend: Box::new(|| {}), after: Box::new(|| {}) }
    }
}

type SetUp = Box<dyn Fn(&Arc<Book>) -> Stage + Send>;

/// One fault.
struct Case {
    name: &'static str,
    end: End,
    twice: bool,
    slow: bool,
    rounds: u64,
    pad: usize,
    keys: Value,
    stage: SetUp,
}

/// Events of a round.
const EVENTS: u64 = 4;

impl Case {
    fn on(name: &'static str, end: End, stage: impl Fn(&Arc<Book>) -> Stage + Send + 'static) -> Case {
        let stage = Box::new(stage);
        Case { name, end, twice: false, slow: false, rounds: 1, pad: 0, keys: json!({}), stage }
    }

    /// An answer gets lost: what was taken is sent again.
    fn twice(self) -> Case {
        Case { twice: true, ..self }
    }

    /// Only the client's own time limit ends it.
    fn slow(self) -> Case {
        Case { slow: true, ..self }
    }

    /// More bytes than the kernel takes before the server reads.
    fn large(self) -> Case {
        let keys = json!({
            "max_event_bytes": 2_000_000,
            "segment_bytes": 4 << 20,
            "queue_bytes": 32 << 20,
            "batch": {"max_bytes": 16 << 20},
        });
        Case { pad: 1_600_000, ..self }.keys(keys)
    }

    /// So many batches, one after the other.
    fn rounds(self, rounds: u64) -> Case {
        Case { rounds, ..self }
    }

    fn keys(mut self, keys: Value) -> Case {
        merge(&mut self.keys, keys);
        self
    }
}

/// A server on loopback that does this with each connection until it is mended.
fn case(name: &'static str, end: End, act: impl Fn(&mut Visit) + Send + Sync + 'static) -> Case {
    let act = Arc::new(act);
    Case::on(name, end, move |book| {
        let act = Arc::clone(&act);
        Stage::at(format!("http://{}", start(book, None, move |v| act(v))))
    })
}

/// Once each request was read, this answer; the connection goes on.
fn answer(name: &'static str, end: End, text: impl Into<String>) -> Case {
    let text = text.into();
    let takes = matches!(end, End::Delivered | End::Unverified);
    case(name, end, move |v| {
        v.each(|v| {
            if takes {
                v.take();
            }
            v.say(&text);
        });
    })
}

impl Host {
    fn look(&self) -> Snapshot {
        let s = self.stats();
        check(&s);
        s
    }

    fn watch(&self, what: &str, so: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let start = Instant::now();
        loop {
            let s = self.look();
            if so(&s) {
                return s;
            }
            assert!(start.elapsed() < LIMIT, "never: {what}: {s:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn give(&self, n: u64, pad: usize) {
        assert_eq!(self.enqueue(json!({"n": n, "pad": "x".repeat(pad)}).to_string()), Status::Ok);
    }
}

fn play(case: &Case, timeout_ms: u64) {
    let book = Arc::new(Book::default());
    let stage = (case.stage)(&book);
    let (scheme, authority) = stage.origin.split_once("://").unwrap();
    let url = format!("{scheme}://us3r:{SECRET}@{authority}/in?key={SECRET}");
    let mut keys = json!({
        "timeout_ms": timeout_ms,
        "retry": {"initial_ms": 5, "max_ms": 50},
        "compression": "none",
        "headers": {"X-Key": SECRET},
    });
    merge(&mut keys, stage.keys);
    merge(&mut keys, case.keys.clone());
    let host = match stage.names {
        Some(files) => Host::open_looking_into(files, &url, keys),
        None => Host::open(&url, keys),
    };
    let all = EVENTS * case.rounds;
    for round in 0..case.rounds {
        (round * EVENTS..(round + 1) * EVENTS).for_each(|n| host.give(n, case.pad));
        match case.end {
            End::Delivered | End::Unverified | End::Rejected => assert_eq!(host.flush(LIMIT), Status::Ok),
            _ => assert_eq!(host.flush(Duration::ZERO), Status::Timeout),
        }
    }
    let s = match case.end {
        // The attempt that the second of them follows has ended, and so has the one before.
        End::Kept => host.watch("attempts", |s| s.retries >= 2),
        End::Unreached => host.watch("an open circuit", |s| s.circuit_open == 1 && s.retries >= 4),
        End::Denied => host.watch("an open circuit", |s| s.circuit_open == 1 && s.retries >= 1),
        _ => host.look(),
    };
    let (delivered, rejected) = match case.end {
        End::Delivered | End::Unverified => (all, 0),
        End::Rejected => (0, all),
        _ => (0, 0),
    };
    let seen = (s.accepted, s.delivered, s.rejected, s.queue_events, s.expired + s.invalid);
    assert_eq!(seen, (all, delivered, rejected, all - delivered - rejected, 0), "{s:?}");
    assert_eq!(s.unverified, if case.end == End::Unverified { case.rounds } else { 0 }, "{s:?}");
    match case.end {
        // A kept connection may have been closed behind each of the rounds.
        End::Delivered | End::Unverified => assert!(s.retries < case.rounds, "at the first attempt: {s:?}"),
        End::Kept => assert_eq!(s.circuit_open, 0, "{s:?}"),
        _ => {}
    }
    book.mend();
    (stage.mend)();
    assert_eq!(host.flush(LONG), Status::Ok, "after the end of the fault: {:?}", host.look());
    host.give(all, 0);
    assert_eq!(host.flush(LONG), Status::Ok, "one more: {:?}", host.look());
    let s = host.look();
    let seen = (s.accepted, s.delivered, s.rejected, s.queue_events, s.circuit_open);
    assert_eq!(seen, (all + 1, all + 1 - rejected, rejected, 0, 0), "{s:?}");
    let mut taken = book.taken();
    taken.sort_unstable();
    if case.twice {
        taken.dedup();
    }
    assert_eq!(taken, (rejected..=all).collect::<Vec<_>>(), "what the server took");
    (stage.after)();
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

extern "C" fn hear(_: u32, text: *const c_char, _: *mut c_void) {
    // SAFETY: the library hands over a NUL-terminated text that is valid for the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    LINES.lock().unwrap().push(line);
}

/// Play all of them at once.
fn play_all(cases: Vec<Case>) {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        log::set(Some(hear), std::ptr::null_mut(), log::Level::Debug as u32);
        log::hold_nothing_back();
    });
    let faults = cases.iter().any(|case| !matches!(case.end, End::Delivered | End::Unverified));
    let before = LINES.lock().unwrap().len();
    let failed: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = cases
            .into_iter()
            .map(|case| {
                let name = case.name;
                let run = move || {
                    let once = |ms| catch_unwind(AssertUnwindSafe(|| play(&case, ms)));
                    let times: &[u64] = if case.slow { &SLOW_MS } else { &[HOUR_MS] };
                    let (last, others) = times.split_last().unwrap();
                    if others.iter().any(|ms| once(*ms).is_ok()) { Ok(()) } else { once(*last) }
                };
                (name, thread::Builder::new().name(name.into()).spawn_scoped(scope, run).unwrap())
            })
            .collect();
        let ended = threads.into_iter().map(|(name, thread)| (name, thread.join().unwrap()));
        ended.filter_map(|(name, end)| Some(format!("{name}: {}", text_of(&*end.err()?)))).collect()
    });
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    let lines = LINES.lock().unwrap().clone();
    assert!(!faults || lines.len() > before, "nothing was logged");
    for line in lines {
        assert!(!line.contains(SECRET) && !line.contains(SECRET_BASE64), "{line}");
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}
