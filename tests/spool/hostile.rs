//! Files that nobody of us wrote, or that lie.
use crate::collector::Collector;
use crate::dice::Dice;
use crate::forge;
use crate::host::{Host, LONG, check, until};
use crate::kit::Kit;
use crate::spool::{SEGMENT, Spool, event, mkdir, number_of, numbers_in, places, put};
use serde_json::json;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};
use telemetry::client::handle::Status;
use telemetry::platform::clock::wall_precise_ns;
use telemetry::queue::record::{self, HEADER, position};
use telemetry::queue::segment::SEGMENT_HEADER;
use telemetry::queue::spool::header::{Header, SETTLED_AT, VERSION};
use telemetry::queue::spool::names::Stem;
use telemetry::queue::spool::scan::Scan;

/// A segment that says of itself `version` and `len`, with these events of just now.
pub fn segment(version: u32, len: u32, number: u32, nonce: u64, events: &[String]) -> Vec<u8> {
    forge::segment(version, len, number, nonce, wall_precise_ns(), events)
}

fn one_record(at: u64, nonce: u64, body: &[u8]) -> Vec<u8> {
    forge::one_record(at, nonce, wall_precise_ns(), body)
}

fn stem(nonce: u64) -> Stem {
    Stem { created_ms: nonce, boot: 1, nonce }
}

fn events(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| event(n, 30)).collect()
}

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn what_is_no_segment_does_not_hold_up_what_is() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    let mut dice = Dice::thrown();
    // One good file, and between a hundred bad ones of its stem.
    let good = segment(VERSION, SEGMENT as u32, 50, 9, &events(0..3));
    spool.orphan(stem(9), 50, &good);
    let mut bad = 0;
    for i in 0..40 {
        let len = [1, 7, 255, 256, 300, 4096, SEGMENT][dice.below(7)];
        let mut bytes = dice.bytes(len);
        // One that is blank is no bad one.
        bytes[0] |= 1;
        spool.orphan(stem(9), i, &bytes);
        bad += 1;
    }
    spool.orphan(stem(9), 40, b"Dear diary,\nthis is not a segment.\n");
    let words = [&b"tlmspool"[..], &[0; 500], b"more"].concat();
    spool.orphan(stem(9), 41, &words);
    // As large as nobody ever reads.
    spool.orphan(stem(9), 42, &dice.bytes(300));
    let huge = File::options().write(true).open(spool.leaf().join(stem(9).segment(42))).unwrap();
    huge.set_len(1 << 40).unwrap();
    bad += 3;
    // Nothing in them, so nothing to keep.
    spool.orphan(stem(9), 43, b"");
    spool.orphan(stem(9), 44, &[0; 100]);
    spool.orphan(stem(9), 45, &[0; SEGMENT]);
    // Its owner was killed while it wrote the header.
    spool.orphan(stem(9), 51, &[&b"tlmspool\x01"[..], &[0; SEGMENT - 9]].concat());
    // Not files at all, and names of nobody's.
    let path = |number: u32| spool.leaf().join(stem(9).segment(number));
    mkdir(&path(46));
    fifo(&path(47));
    symlink("/etc/passwd", path(48)).unwrap();
    symlink("/nonexistent", path(49)).unwrap();
    spool.put("notes.txt", b"hello");
    mkdir(&spool.leaf().join("attic"));
    let strange: Vec<String> = (46..50).map(|n| stem(9).segment(n)).collect();

    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!(collector.numbers(), [0, 1, 2]);
    let s = host.stats();
    check(&s);
    assert_eq!((s.recovered, s.delivered, s.corrupt), (3, 3, bad));
    let names = spool.names();
    assert_eq!(names.iter().filter(|n| n.ends_with(".bad")).count() as u64, bad, "{names:?}");
    let left: Vec<&String> = names.iter().filter(|n| n.ends_with(".seg")).collect();
    assert!(left.iter().all(|n| strange.contains(n)), "{left:?}");
    assert_eq!(left.len(), 4, "what is no file is left where it is: {left:?}");
    assert!(names.contains(&"notes.txt".into()) && names.contains(&"attic".into()));
    assert!(fs::read("/etc/passwd").unwrap().len() > 10, "not through a symlink");
    // It is no hindrance afterwards.
    host.number(7);
    host.flush_all();
    assert_eq!(host.stats().corrupt, bad, "counted once");
}

#[test]
fn own_files_that_are_none() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    let own = |nonce: u64| spool.leaf().join(stem(nonce).own(None));
    mkdir(&own(1));
    fifo(&own(2));
    symlink("/etc/passwd", own(3)).unwrap();
    put(&own(4), b"full of words");
    for nonce in 1..=5 {
        let n = nonce;
        spool.put(&stem(nonce).segment(0), &segment(VERSION, SEGMENT as u32, 0, nonce, &events(n..n + 1)));
    }
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.flush_all();
    let mut numbers = collector.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [4, 5], "an own file with words in it, and none at all");
    check(&host.stats());
}

#[test]
fn a_later_versions_file_is_left_in_place() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    let future = segment(VERSION + 1, SEGMENT as u32, 1, 9, &events(10..13));
    spool.orphan(stem(9), 0, &segment(VERSION, SEGMENT as u32, 0, 9, &events(0..2)));
    spool.orphan(stem(9), 1, &future);
    spool.orphan(stem(9), 2, &segment(VERSION, SEGMENT as u32, 2, 9, &events(2..4)));
    spool.orphan(stem(8), 0, &segment(VERSION, SEGMENT as u32, 0, 8, &events(4..5)));
    for _ in 0..2 {
        let host = Host::open(collector.url(), spool.keys(json!({})));
        host.flush_all();
        check(&host.stats());
        assert_eq!(host.stats().corrupt, 0);
    }
    assert_eq!(collector.numbers(), [4, 0, 1, 2, 3]);
    assert_eq!(spool.names(), [stem(9).segment(1), stem(9).own(None)], "nobody holds it");
    assert_eq!(fs::read(spool.leaf().join(stem(9).segment(1))).unwrap(), future);
}

#[test]
fn a_header_that_lies_about_its_length() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    let lie = |number: u32, says: u32| {
        let n = u64::from(number) * 10;
        spool.orphan(stem(9), number, &segment(VERSION, says, number, 9, &events(n..n + 3)));
    };
    let after_two = places([30, 30])[1].2 as u32;
    for (number, says) in
        [(1, 1 << 30), (2, after_two), (3, after_two + 8), (4, 256), (5, 255), (6, 0), (7, u32::MAX)]
    {
        lie(number, says);
    }
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!(collector.numbers(), [10, 11, 12, 20, 21, 30, 31]);
    let s = host.stats();
    check(&s);
    // The record that is cut off in 3, and three headers nobody believes.
    assert_eq!((s.recovered, s.corrupt), (7, 4));
    assert_eq!(spool.segments(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn two_segments_with_the_same_number() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    // By its header: under two names. Each is read, as what it says it is.
    let one = segment(VERSION, SEGMENT as u32, 3, 9, &events(0..2));
    let other = segment(VERSION, SEGMENT as u32, 3, 9, &events(5..7));
    spool.orphan(stem(9), 3, &one);
    spool.orphan(stem(9), 4, &other);
    // By its name, written in another way: such a name is nobody's.
    let text = format!("{}-3.seg", stem(9).text());
    spool.put(&text, &other);
    let upper = stem(0xab).segment(1).replace("ab", "AB");
    spool.put(&upper, &segment(VERSION, SEGMENT as u32, 1, 0xab, &events(8..9)));
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!(collector.numbers(), [0, 1, 5, 6]);
    check(&host.stats());
    let mut left = vec![text, upper];
    left.sort();
    assert_eq!(spool.names(), left);
}

/// A record that was reserved and never committed, with this body; behind it a good one.
fn with_hole(body: &[u8]) -> (Vec<u8>, usize) {
    let nonce = 0x1234_5678_9abc_def0;
    let mut bytes = segment(VERSION, SEGMENT as u32, 5, nonce, &events(0..1));
    let at = bytes.len();
    let place = position(5, at as u32);
    let mut hole = one_record(place, nonce, body);
    let word = u64::from_ne_bytes(hole[..8].try_into().unwrap());
    hole[..8].copy_from_slice(&record::withdrawn(word).to_ne_bytes());
    bytes.extend(hole);
    let next = position(5, bytes.len() as u32);
    bytes.extend(one_record(next, nonce, event(1, 30).as_bytes()));
    bytes.resize(SEGMENT, 0);
    (bytes, at + HEADER)
}

#[test]
fn a_hole_whose_body_forges_a_record_is_not_believed() {
    let collector = Collector::kind();
    let nonce = 0x1234_5678_9abc_def0;
    let (_, inside) = with_hole(b"");
    let forged = event(666, 40);
    // Whoever chooses a body knows the place, perhaps, and not the nonce: its tag is wrong, or by a chance of one in
    // 2^32 right, or copied together with all but the nonce or the place.
    let there = position(5, inside as u32);
    let of = |at: u64, nonce: u64| one_record(at, nonce, forged.as_bytes());
    let mut right_tag = of(there, nonce ^ 1);
    let right = record::committed(record::tag(nonce, there), forged.len());
    right_tag[..8].copy_from_slice(&right.to_ne_bytes());
    let mut elsewhere = of(there + 8, nonce);
    elsewhere[..8].copy_from_slice(&right.to_ne_bytes());
    let mut unchecked = of(there, nonce);
    unchecked[8] ^= 1;
    // A length that reaches to the good record, over it, or out of the file.
    let long = |len: usize| {
        let mut bytes = of(there, nonce ^ 1);
        bytes[..8].copy_from_slice(&record::committed(record::tag(nonce, there), len).to_ne_bytes());
        bytes
    };
    let pad = record::pad(record::tag(nonce, there), 8).to_ne_bytes().to_vec();
    let bodies = [
        of(there, nonce ^ 1),
        of(there + 8, nonce),
        right_tag,
        elsewhere,
        unchecked,
        long(8),
        long(SEGMENT),
        long(record::MAX_LEN),
        pad,
    ];
    for (i, body) in bodies.iter().enumerate() {
        let (bytes, _) = with_hole(body);
        assert_eq!(numbers_in(&bytes), [0, 1], "{i}");
        let mut scan = Scan::new(&bytes).unwrap();
        while scan.next(&bytes).is_some() {}
        assert_eq!(scan.holes, 1, "{i}");
    }
    let spool = Spool::of(collector.url());
    for (i, body) in bodies.iter().enumerate() {
        spool.orphan(stem(i as u64), 5, &with_hole(body).0);
    }
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.flush_all();
    let want: Vec<u64> = bodies.iter().flat_map(|_| [0, 1]).collect();
    assert_eq!(collector.numbers(), want);
    check(&host.stats());
}

#[test]
fn an_uncommitted_record_costs_nothing_but_itself() {
    // In the real thing: a log of files, a hole in the middle of it, a kill.
    let spool = Spool::of("http://127.0.0.1:9");
    let kit = Kit::new(&spool.directory(), 0x77_0000_0001, 4, 0);
    for n in 0..20 {
        assert!(kit.enqueue(n, event(n, 50).as_bytes()));
    }
    let segment = kit.log().tail_slot().unwrap().segment();
    let offset = places((0..20).map(|n| event(n, 50).len()))[7].0 as u32;
    let word = segment.word(offset);
    word.fetch_or(record::withdrawn(0), std::sync::atomic::Ordering::Relaxed);
    kit.kill();
    let want: Vec<u64> = (0..20).filter(|n| *n != 7).collect();
    assert_eq!(spool.on_disk(), want);
}

#[test]
fn a_file_that_was_set_aside_goes_when_it_is_old() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    // Old as it is, it was set aside only now: whoever looks into it has time to.
    spool.orphan(stem(9), 0, b"nonsense");
    let old = File::options().write(true).open(spool.leaf().join(stem(9).segment(0))).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    let keys = |age: u64| spool.keys(json!({"spool_max_age_s": age}));
    for _ in 0..2 {
        Host::open(collector.url(), keys(1800)).flush_all();
        assert_eq!(spool.names(), [format!("{}.bad", stem(9).segment(0))]);
    }
    let host = Host::open(collector.url(), keys(1));
    until("it is old", || {
        assert_eq!(host.flush(LONG), Status::Ok);
        spool.names().is_empty()
    });
}

#[test]
fn a_settled_place_beyond_the_file_is_the_end_of_it() {
    let nonce = 9;
    let mut bytes = segment(VERSION, SEGMENT as u32, 1, nonce, &events(0..3));
    let header = Header::read(&bytes).unwrap();
    for (place, want) in [
        (SEGMENT_HEADER, 3),
        (places([30])[0].2 as u32, 2),
        (!7, 0),
        (SEGMENT as u32, 0),
        (8, 3),
        (SEGMENT_HEADER + 1, 3),
    ] {
        let at = SETTLED_AT as usize;
        bytes[at..at + 8].copy_from_slice(&header.settled_word(place).to_ne_bytes());
        let mut scan = Scan::new(&bytes).unwrap();
        let found = std::iter::from_fn(|| scan.next(&bytes).map(|f| number_of(f.body))).count();
        assert_eq!(found, want, "settled at {place}");
    }
}
