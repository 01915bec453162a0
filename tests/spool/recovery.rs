//! What the next one does with what a killed process left.
use crate::collector::{Collector, Latch, Reply, Seen};
use crate::host::{Dir, HOUR_MS, Host, LONG, balanced, check, until};
use crate::hostile::segment;
use crate::spool::{SEGMENT, Spool, event, same, shut};
use crate::victim::Victim;
use serde_json::{Value, json};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::queue::spool::header::VERSION;
use telemetry::queue::spool::names::Stem;

fn ids(seen: &Seen) -> Vec<Value> {
    seen.events().into_iter().map(|e| e["id"].clone()).collect()
}

/// Takes the first requests, holds the one that follows until the latch is open, takes the rest.
fn holding(after: usize) -> (Collector, Arc<Latch>) {
    let latch = Arc::new(Latch::default());
    let held = Arc::clone(&latch);
    let collector = Collector::start(move |seen| {
        if seen.number == after { Reply::When(Arc::clone(&held), 200) } else { Reply::Status(200) }
    });
    (collector, latch)
}

/// What processes leave that enqueue these events of `len` bytes and are killed together.
fn left_by(numbers: &[Range<u64>], len: usize, url: &str, more: &Value) -> Spool {
    let spool = Spool::new();
    let fill = |range: &Range<u64>| {
        let mut victim = Victim::open(url, spool.keys(more.clone()));
        victim.fill(range.clone(), len);
        victim
    };
    let alive: Vec<Victim> = numbers.iter().map(fill).collect();
    // One dies after the other, and whoever still runs may deliver what a dead one left: so none runs any more.
    alive.iter().for_each(Victim::stop);
    alive.into_iter().for_each(Victim::kill);
    spool
}

#[test]
fn what_is_settled_stays_settled_and_the_batch_in_flight_goes_again() {
    let (collector, latch) = holding(2);
    let spool = Spool::new();
    let keys = || spool.keys(json!({"batch": {"max_events": 10, "max_age_ms": 3_600_000}}));
    let mut victim = Victim::open(collector.url(), keys());
    victim.fill(0..35, 50);
    collector.wait(3);
    victim.kill();
    latch.open();
    let host = Host::open(collector.url(), keys());
    host.flush_all();
    let all = collector.requests();
    same(&all[..3].iter().flat_map(Seen::numbers).collect::<Vec<_>>(), 0..30);
    same(&all[3..].iter().flat_map(Seen::numbers).collect::<Vec<_>>(), 20..35);
    assert_eq!(ids(&all[3]), ids(&all[2]), "under the same ids");
    assert_eq!(all[3].events(), all[2].events(), "and with the same times");
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.recovered, s.delivered, s.corrupt), (0, 15, 15, 0));
    assert_eq!(spool.names(), Vec::<String>::new());
}

#[test]
fn an_adopter_that_is_killed_has_settled_what_it_delivered() {
    let (collector, latch) = holding(1);
    let keys = json!({"batch": {"max_events": 10, "max_age_ms": 3_600_000}});
    // Less than a batch: nothing goes by itself. Two stems.
    let spool = left_by(&[0..9, 9..18], 50, collector.url(), &keys);
    let keys = || spool.keys(keys.clone());
    let mut adopter = Victim::open(collector.url(), keys());
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(adopter.flush(100), "Timeout"));
        collector.wait(2);
    });
    adopter.kill();
    latch.open();
    let host = Host::open(collector.url(), keys());
    host.flush_all();
    let all = collector.requests();
    same(&all[0].numbers(), 0..10);
    same(&all[1].numbers(), 10..18);
    assert_eq!(all[2].numbers(), all[1].numbers());
    assert_eq!((all.len(), ids(&all[2])), (3, ids(&all[1])));
    assert_eq!(host.stats().recovered, 8);
}

#[test]
fn order_is_kept_within_a_process_over_many_segments() {
    let collector = Collector::kind();
    let keys = json!({"batch": {"max_events": 100_000, "max_age_ms": 3_600_000}});
    const EACH: u64 = 3000;
    let of = |i: u64| i * EACH..(i + 1) * EACH;
    let spool = left_by(&[of(0), of(1), of(2)], 200, collector.url(), &keys);
    assert!(spool.segments().len() > 30);
    let host = Host::open(collector.url(), spool.keys(keys));
    host.flush_all();
    // And the oldest process first.
    same(&collector.numbers(), 0..3 * EACH);
    assert_eq!(spool.names(), Vec::<String>::new());
}

#[test]
fn the_balance_holds_while_a_recovery_runs() {
    let collector = Collector::start(|seen| match seen.number % 4 {
        0 => Reply::Status(503),
        1 => Reply::Full(200, String::new(), r#"{"rejected":[{"line":0},{"line":3}]}"#.into()),
        _ => Reply::Status(200),
    });
    let spool = Spool::of(collector.url());
    for stem in 0..20u64 {
        for number in 0..3 {
            let from = stem * 1000 + u64::from(number) * 100;
            let mut events: Vec<String> = (from..from + 100).map(|n| event(n, 60)).collect();
            events.insert(50, "not JSON".into());
            let stem = Stem { created_ms: stem, boot: 1, nonce: stem + 1 };
            spool.orphan(stem, number, &segment(VERSION, SEGMENT as u32, number, stem.nonce, &events));
        }
    }
    let keys = json!({"batch": {"max_events": 37, "max_age_ms": 5}, "retry": {"initial_ms": 1, "max_ms": 2}});
    let host = Host::open(collector.url(), spool.keys(keys));
    balanced(&host, || {
        thread::scope(|scope| {
            scope.spawn(|| host.fill(100_000..104_000));
            assert_eq!(host.flush(LONG), Status::Ok);
        });
        host.flush_all();
    });
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.recovered, s.invalid), (4000, 20 * 303, 60));
    assert!(s.rejected > 0 && s.retries > 0);
    assert_eq!(s.delivered + s.rejected, 4000 + 20 * 300);
    assert_eq!((s.queue_events, s.corrupt), (0, 0));
}

#[test]
fn the_living_are_left_alone() {
    let collector = Collector::kind();
    let spool = Spool::new();
    let mut victim = Victim::open(collector.url(), spool.keys(json!({})));
    victim.fill(0..10, 50);
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.fill(10..12);
    host.flush_all();
    assert_eq!((collector.numbers(), host.stats().recovered), (vec![10, 11], 0));
    // A sibling that works notices by itself, without a flush.
    victim.kill();
    until("the sibling delivers", || {
        host.number(12);
        host.stats().recovered == 10 && host.stats().delivered >= 12
    });
}

#[test]
fn several_adopters_never_take_the_same() {
    let collector = Collector::kind();
    let spool = Spool::new();
    let keys = || spool.keys(json!({"batch": {"max_events": 7, "max_age_ms": 3_600_000}}));
    let mut n = 0;
    // What 60 processes left, each less than a batch; copied from one, so that they need not be made.
    let source = Spool::of(collector.url());
    for stem in 0..60u64 {
        let events: Vec<String> = (n..n + 5).map(|n| event(n, 60)).collect();
        let stem = Stem { created_ms: stem, boot: 1, nonce: stem + 1 };
        source.orphan(stem, 0, &segment(VERSION, SEGMENT as u32, 0, stem.nonce, &events));
        n += 5;
    }
    fs::rename(source.leaf(), spool.root().join(source.leaf().file_name().unwrap())).unwrap();
    let hosts: Vec<Host> = (0..3).map(|_| Host::open(collector.url(), keys())).collect();
    let mut others: Vec<Victim> = (0..3).map(|_| Victim::open(collector.url(), keys())).collect();
    thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(|| assert_eq!(host.flush(LONG), Status::Ok));
        }
        for other in &mut others {
            scope.spawn(|| assert_eq!(other.flush(HOUR_MS), "Ok"));
        }
    });
    // What one passed over because another looked at it.
    hosts[0].flush_all();
    let mut numbers = collector.numbers();
    numbers.sort_unstable();
    same(&numbers, 0..n);
    hosts.iter().for_each(|host| check(&host.stats()));
    assert!(spool.names().iter().all(|name| name.ends_with(".own")), "{:?}", spool.names());
}

#[test]
fn a_clean_end_leaves_nothing() {
    until("a sender that ends in time", || {
        let collector = Collector::kind();
        let spool = Spool::new();
        let keys = spool.keys(json!({"batch": {"max_events": 100_000, "max_age_ms": 3_600_000}}));
        let host = Host::open(collector.url(), keys);
        assert_eq!(spool.names(), Vec::<String>::new(), "opening makes no file");
        for n in 0..3000 {
            assert_eq!(host.enqueue(event(n, 200)), Status::Ok);
        }
        assert!(spool.segments().len() > 5);
        host.flush_all();
        // The one in use and the next.
        until("the others are gone", || spool.segments().len() <= 2);
        assert_eq!(spool.on_disk(), Vec::<u64>::new(), "what is settled is noted");
        let in_time = shut(&host);
        assert!(!in_time || spool.names().is_empty(), "{:?}", spool.names());
        assert_eq!(host.stats().left_in_spool, 0);
        in_time
    });
}

#[test]
fn files_go_one_by_one_as_they_are_settled() {
    let (collector, latch) = holding(5);
    let spool = Spool::new();
    let keys = spool.keys(json!({"batch": {"max_events": 300, "max_age_ms": 3_600_000}}));
    let host = Host::open(collector.url(), keys);
    for n in 0..3000 {
        assert_eq!(host.enqueue(event(n, 200)), Status::Ok);
    }
    // Half of it is delivered, and half of the files are gone.
    collector.wait(6);
    assert_eq!(host.stats().delivered, 1500);
    same(&spool.on_disk(), 1500..3000);
    let per_file = SEGMENT / 240;
    assert!(spool.segments().len() <= 1500 / per_file + 3, "{:?}", spool.names());
    latch.open();
    host.flush_all();
}

#[test]
fn a_shutdown_without_a_collector_leaves_all_to_the_next() {
    until("a sender that ends in time", || {
        let dir = Dir::new();
        let path = dir.0.join("collector");
        let deaf = Collector::at(&path, |_| Reply::Status(503));
        let spool = Spool::new();
        let host = Host::open(deaf.url(), spool.keys(json!({})));
        host.fill(0..500);
        if !host.shut_with_a_rest(Duration::from_millis(50)) {
            return false;
        }
        assert_eq!(host.stats().left_in_spool, 500);
        same(&spool.on_disk(), 0..500);
        drop(host);
        assert!(spool.names().iter().any(|name| name.ends_with("@none.own")), "held by nobody");
        // Another at the same address: a request that the shutdown cut off may be read late, and is not for it.
        fs::remove_file(&path).unwrap();
        let collector = Collector::at(&path, |_| Reply::Status(200));
        let host = Host::open(collector.url(), spool.keys(json!({})));
        host.flush_all();
        same(&collector.numbers(), 0..500);
        assert_eq!(host.stats().recovered, 500);
        true
    });
}

#[test]
fn nobody_else_may_read_it() {
    let collector = Collector::kind();
    let spool = Spool::new();
    let deeper = spool.root().join("a/b");
    let host = Host::open(collector.url(), json!({"spool_dir": deeper, "segment_bytes": SEGMENT}));
    host.number(1);
    let leaf = fs::read_dir(&deeper).unwrap().next().unwrap().unwrap().path();
    let mode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&leaf), 0o700);
    let mut files = 0;
    for file in fs::read_dir(&leaf).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
        files += 1;
    }
    assert!(files >= 2);
}
