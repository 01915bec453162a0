//! Ten thousand files.
use crate::collector::{Collector, Reply};
use crate::host::{Host, alone, check};
use crate::hostile::segment;
use crate::spool::{Spool, event};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;
use telemetry::queue::spool::header::VERSION;
use telemetry::queue::spool::names::Stem;

const MANY: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(1500);

/// Deliver that many files; each event once, the directory empty.
fn deliver(file_of: impl Fn(u64) -> (Stem, u32)) {
    let marks: Arc<Vec<AtomicU32>> = Arc::new((0..MANY).map(|_| AtomicU32::new(0)).collect());
    let count = Arc::clone(&marks);
    let collector = Collector::start(move |seen| {
        for n in seen.numbers() {
            count[n as usize].fetch_add(1, Ordering::Relaxed);
        }
        Reply::Status(200)
    });
    let spool = Spool::of(collector.url());
    for n in 0..MANY {
        let (stem, number) = file_of(n);
        // Shorter than it says: the rest was never written.
        spool.orphan(stem, number, &segment(VERSION, 65_536, number, stem.nonce, &[event(n, 20)]));
    }
    let host = Host::open(collector.url(), spool.keys(json!({})));
    let start = Instant::now();
    assert_eq!(host.flush(PATIENCE), Status::Ok, "{:?}", host.stats());
    host.flush_all();
    println!("{MANY} files in {:?}", start.elapsed());
    let wrong = marks.iter().position(|m| m.load(Ordering::Relaxed) != 1);
    assert_eq!(wrong, None, "lost or twice: {:?}", wrong.map(|i| marks[i].load(Ordering::Relaxed)));
    let s = host.stats();
    check(&s);
    assert_eq!((s.recovered, s.delivered, s.corrupt), (MANY, MANY, 0));
    assert_eq!(spool.names(), Vec::<String>::new());
}

#[test]
fn ten_thousand_stems() {
    if !alone("many::ten_thousand_stems") {
        return;
    }
    // Each stem that is held costs a descriptor: they are taken some at a time.
    // SAFETY: a valid limit; it concerns this process, which is the test's own.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = 120;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    deliver(|n| (Stem { created_ms: n, boot: 1, nonce: n + 1 }, 3));
}

#[test]
fn ten_thousand_segments_of_one_stem() {
    deliver(|n| (Stem { created_ms: 1, boot: 1, nonce: 5 }, n as u32));
}
