//! How much disk, for how long, and what goes when it is used up.
use crate::collector::{Collector, Reply, unix_url};
use crate::forge;
use crate::host::{Dir, HOUR_MS, Host, check, until};
use crate::spool::{SEGMENT, Spool, event, numbers_in, same};
use crate::victim::Victim;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::platform::clock::wall_precise_ns;
use telemetry::queue::spool::header::VERSION;
use telemetry::queue::spool::names::Stem;

/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";
/// Own files, and the directory's own blocks.
const CRUMBS: u64 = 16_384;

/// Enqueue until it is full; the disk never holds more than `bytes`.
fn fill_up(host: &Host, spool: &Spool, bytes: u64) -> u64 {
    let mut n = 0;
    while host.enqueue(event(n, 200)) == Status::Ok {
        n += 1;
        assert!(n < 1_000_000, "it is never full");
        if n % 20 == 0 {
            let usage = spool.usage();
            assert!(usage <= bytes + CRUMBS, "{usage} bytes after {n} events");
        }
    }
    n
}

#[test]
fn the_disk_never_holds_more_than_allowed() {
    let spool = Spool::new();
    let room = 5 * SEGMENT as u64;
    let keys = || spool.keys(json!({"spool_max_bytes": room}));
    let host = Host::open(NOWHERE, keys());
    let taken = fill_up(&host, &spool, room);
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.queue_events, s.dropped_full, s.spool_failures), (taken, taken, 1, 0));
    // All five are used, and all of it is on the disk.
    assert!(taken >= 5 * (SEGMENT as u64 / 240 - 2), "{taken}");
    same(&spool.on_disk(), 0..taken);
}

#[test]
fn what_others_left_takes_room_but_never_all_of_it() {
    for (left, room, own) in [(2, 6, 4), (5, 6, 2), (9, 6, 2)] {
        let first = Spool::new();
        let room = room * SEGMENT as u64;
        let host = Host::open(NOWHERE, first.keys(json!({"spool_max_bytes": left * SEGMENT})));
        fill_up(&host, &first, (left * SEGMENT) as u64);
        let spool = first.killed_now();
        drop(host);
        let before = spool.segments();
        assert_eq!(before.len(), left);
        let host = Host::open(NOWHERE, spool.keys(json!({"spool_max_bytes": room})));
        host.number(0);
        until("it knows what is there", || host.stats().recovered > 0);
        let allowed = ((left + own) * SEGMENT) as u64;
        fill_up(&host, &spool, allowed);
        assert_eq!(spool.segments().len(), left + own, "{left} left");
        check(&host.stats());
    }
}

#[test]
fn room_comes_back_with_the_collector() {
    let dir = Dir::new();
    let path = dir.0.join("collector");
    let spool = Spool::new();
    let room = 4 * SEGMENT as u64;
    let keys = json!({"spool_max_bytes": room, "retry": {"initial_ms": 1, "max_ms": 5}});
    let host = Host::open(&unix_url(&path), spool.keys(keys));
    let taken = fill_up(&host, &spool, room);
    let collector = Collector::at(&path, |_| Reply::Status(200));
    until("room", || host.enqueue(event(taken, 200)) == Status::Ok);
    host.flush_all();
    same(&collector.numbers(), 0..=taken);
    check(&host.stats());
}

/// Without a collector, `count` events all find room; gives the numbers that arrive once there is one.
fn newest(host: &Host, path: &Path, count: u64) -> Vec<u64> {
    for n in 0..count {
        assert_eq!(host.enqueue(event(n, 200)), Status::Ok, "{n}: {:?}", host.stats());
    }
    let collector = Collector::at(path, |_| Reply::Status(200));
    host.flush_all();
    let s = host.stats();
    check(&s);
    assert_eq!(s.accepted, count);
    assert!(s.evicted > 0);
    assert_eq!(s.expired, s.evicted, "counted as expired too");
    collector.numbers()
}

fn evicting(spool: &Spool, segments: usize) -> serde_json::Value {
    spool.keys(json!({
        "spool_max_bytes": segments * SEGMENT,
        "spool_evict": "oldest",
        "on_full": "block",
        "block_timeout_ms": HOUR_MS,
        "retry": {"initial_ms": 1, "max_ms": 5},
    }))
}

#[test]
fn the_oldest_make_room_for_the_newest() {
    for segments in [2, 3, 8] {
        let dir = Dir::new();
        let path = dir.0.join("collector");
        let spool = Spool::new();
        let host = Host::open(&unix_url(&path), evicting(&spool, segments));
        let numbers = newest(&host, &path, 6000);
        let s = host.stats();
        assert_eq!(s.accepted, s.delivered + s.evicted);
        // The newest, and nearly as many as there is room for. A batch may have gone out before the rest of its
        // segment made room: that is one gap.
        assert_eq!((numbers.len() as u64, numbers.last()), (6000 - s.evicted, Some(&5999)));
        assert!(numbers.is_sorted_by(|a, b| a < b), "in order, once each");
        let gaps: Vec<u64> =
            numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).map(|pair| pair[1]).collect();
        let in_one_segment = |after: &u64| after - numbers[0] <= SEGMENT as u64 / 240;
        assert!(gaps.len() <= 1 && gaps.iter().all(in_one_segment), "gaps before {gaps:?} of {numbers:?}");
        let room = (segments - 1).max(1) as u64 * (SEGMENT as u64 / 240);
        assert!(s.delivered + 300 > room / 2, "{segments}: only {} were kept", s.delivered);
    }
}

#[test]
fn the_oldest_make_room_when_orphans_take_it() {
    let dir = Dir::new();
    let path = dir.0.join("collector");
    let url = unix_url(&path);
    let first = Spool::new();
    let host = Host::open(&url, first.keys(json!({"spool_max_bytes": 5 * SEGMENT})));
    fill_up(&host, &first, 5 * SEGMENT as u64);
    let spool = first.killed_now();
    drop(host);
    let host = Host::open(&url, evicting(&spool, 6));
    host.number(0);
    until("it knows what is there", || host.stats().recovered > 0);
    for n in 1..3000 {
        assert_eq!(host.enqueue(event(n, 200)), Status::Ok, "{n}: {:?}", host.stats());
    }
    check(&host.stats());
    assert!(host.stats().evicted > 0);
}

#[test]
fn what_is_too_old_is_given_up() {
    let dir = Dir::new();
    let path = dir.0.join("collector");
    let url = unix_url(&path);
    let spool = Spool::new();
    let host = Host::open(&url, spool.keys(json!({"spool_max_age_s": 1, "retry": {"max_ms": 300}})));
    host.fill(0..100);
    until("they are given up", || {
        let _ = host.flush(Duration::ZERO);
        host.stats().expired == 100
    });
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.queue_events, s.evicted, spool.on_disk().len()), (100, 0, 0, 0));
    // Orphans as well, of a day ago; what is younger than an hour has time to arrive.
    let other = Spool::of(&url);
    let (stem, then) = (Stem { created_ms: 1, boot: 1, nonce: 9 }, wall_precise_ns() - 86_400_000_000_000);
    let events: Vec<String> = (0..100).map(|n| event(n, 30)).collect();
    other.orphan(stem, 0, &forge::segment(VERSION, SEGMENT as u32, 0, stem.nonce, then, &events));
    let collector = Collector::at(&path, |_| Reply::Status(200));
    let host = Host::open(&url, other.keys(json!({"spool_max_age_s": 3600})));
    host.fill(100..103);
    host.flush_all();
    assert_eq!(collector.numbers(), [100, 101, 102]);
    let s = host.stats();
    check(&s);
    assert_eq!((s.recovered, s.expired, s.delivered), (100, 100, 3));
    assert!(other.segments().iter().all(|path| numbers_in(&fs::read(path).unwrap()).is_empty()));
}

/// What a process with that `sync` asks of the kernel between its first event and its first request, and after.
fn calls(sync: &str) -> Option<Vec<String>> {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("strace is not installed: not looked at");
        return None;
    }
    let dir = Dir::new();
    let out = dir.0.join("calls");
    let collector = Collector::kind();
    let spool = Spool::new();
    let trace = ["strace", "-f", "-qq", "-o", out.to_str().unwrap()];
    let trace = [&trace[..], &["-e", "trace=msync,fsync,fdatasync,sendto,write,writev"]].concat();
    let mut victim = Victim::open_under(&trace, collector.url(), spool.keys(json!({"sync": sync})));
    victim.fill(0..10, 50);
    assert_eq!(victim.flush(HOUR_MS), "Ok");
    let all = || -> Vec<String> {
        let text = fs::read_to_string(&out).unwrap();
        let name = |line: &str| Some(line.split_once(' ')?.1.trim_start().split_once('(')?.0.to_string());
        text.lines()
            .filter(|l| l.contains("sync(") || l.contains("POST /"))
            .filter_map(name)
            .map(|call| if call.contains("sync") { call } else { "request".into() })
            .collect()
    };
    if sync == "interval" {
        until("it is brought to the disk", || {
            victim.fill(10..11, 50);
            all().contains(&"msync".into())
        });
    }
    assert_eq!(victim.flush(HOUR_MS), "Ok");
    let calls = all();
    println!("{sync}: {calls:?}");
    Some(calls)
}

#[test]
fn sync_brings_it_to_the_disk() {
    for sync in ["none", "interval", "batch"] {
        let collector = Collector::kind();
        let spool = Spool::new();
        let keys = json!({"sync": sync, "batch": {"max_events": 100, "max_age_ms": 3_600_000}});
        let host = Host::open(collector.url(), spool.keys(keys));
        host.fill(0..2000);
        host.flush_all();
        same(&collector.numbers(), 0..2000);
        let Some(calls) = calls(sync) else { continue };
        let first = |what: &str| calls.iter().position(|call| call == what);
        assert!(first("request").is_some(), "{calls:?}");
        match sync {
            "none" => assert_eq!(calls.iter().find(|call| call.contains("sync")), None),
            "interval" => assert!(first("msync").is_some()),
            _ => assert!(first("msync").unwrap() < first("request").unwrap(), "before it is sent: {calls:?}"),
        }
        assert_eq!(first("fsync").is_some(), sync != "none", "the directory's entries too: {calls:?}");
    }
}
