//! Uploads in a spool: they outlive their process, are delivered by whoever may, and by nobody else.
use crate::collector::{Collector, Latch, Reply};
use crate::dice::Dice;
use crate::host::{Dir, HOUR_MS, Host, SLACK, alone, check, until};
use crate::langfuse::{Langfuse, meta, methods, upload, usual};
use crate::places::{mount, on_small_disk};
use crate::spool::{Spool, put};
use crate::victim::Victim;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;

/// Says 503 to all while the switch is on.
fn closed() -> (Langfuse, Arc<AtomicBool>) {
    let shut = Arc::new(AtomicBool::new(true));
    let is_shut = Arc::clone(&shut);
    let langfuse = Langfuse::answering(move |_| is_shut.load(Ordering::SeqCst).then_some(Reply::Status(503)));
    (langfuse, shut)
}

/// The uploads that lie in it.
fn waiting(spool: &Spool) -> Vec<String> {
    spool.names().into_iter().filter(|name| name.ends_with(".media")).collect()
}

fn contents(langfuse: &Langfuse) -> BTreeSet<String> {
    langfuse.stored().into_iter().map(|body| String::from_utf8(body).unwrap()).collect()
}

fn set<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
    all.map(String::from).into()
}

#[test]
fn a_file_is_whole_private_and_gone_when_it_is_delivered() {
    let (langfuse, shut) = closed();
    for sync in ["none", "batch"] {
        shut.store(true, Ordering::SeqCst);
        let spool = Spool::new();
        let host = Host::open(&langfuse.endpoint(), spool.keys(json!({"sync": sync})));
        upload(&host, "abc");
        let names = waiting(&spool);
        assert_eq!(names.len(), 1);
        let file = fs::symlink_metadata(spool.leaf().join(&names[0])).unwrap();
        assert_eq!((file.mode() & 0o7777, host.stats().media_bytes), (0o600, 0));
        assert_eq!(host.flush(Duration::ZERO), Status::Timeout, "it waits");
        assert_eq!(host.flush(Duration::from_millis(50)), Status::Timeout);
        shut.store(false, Ordering::SeqCst);
        host.flush_all();
        assert_eq!((waiting(&spool), host.flush(Duration::ZERO)), (vec![], Status::Ok));
        let s = host.stats();
        assert_eq!((s.uploads, s.uploaded, s.uploads_failed, s.spool_failures), (1, 1, 0, 0));
    }
    assert_eq!(langfuse.stored(), [b"abc", b"abc"]);
}

#[test]
fn what_a_killed_process_left_is_delivered_by_the_next() {
    let (langfuse, shut) = closed();
    let spool = Spool::new();
    let mut victim = Victim::open(&langfuse.endpoint(), spool.keys(json!({})));
    victim.upload(&["a", "b", "c"]);
    victim.kill();
    assert_eq!(waiting(&spool).len(), 3);
    shut.store(false, Ordering::SeqCst);
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!((contents(&langfuse), waiting(&spool)), (set(["a", "b", "c"]), vec![]));
    let s = host.stats();
    check(&s);
    assert_eq!((s.uploads, s.uploaded, s.recovered), (0, 3, 0));
}

#[test]
fn the_living_are_left_alone_and_a_sibling_notices_their_death() {
    let latch = Arc::new(Latch::default());
    let hold = Arc::clone(&latch);
    // The first request hangs: the victim has one upload in its hands, and one waits.
    let langfuse =
        Langfuse::answering(move |seen| (seen.number == 0).then(|| Reply::When(Arc::clone(&hold), 200)));
    let spool = Spool::new();
    let mut victim = Victim::open(&langfuse.endpoint(), spool.keys(json!({})));
    victim.upload(&["theirs 1", "theirs 2"]);
    langfuse.api.wait(1);
    victim.stop();
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({"batch": {"max_age_ms": 50}})));
    upload(&host, "ours");
    host.flush_all();
    assert_eq!((contents(&langfuse), waiting(&spool).len()), (set(["ours"]), 2));
    victim.kill();
    latch.open();
    // By itself, without a flush; it is at work.
    until("the sibling delivers", || {
        host.number(1);
        host.stats().uploaded == 3
    });
    assert_eq!((contents(&langfuse), waiting(&spool)), (set(["ours", "theirs 1", "theirs 2"]), vec![]));
}

#[test]
fn two_clients_of_one_process_deliver_their_own() {
    let (langfuse, shut) = closed();
    let spool = Spool::new();
    let hosts: Vec<Host> = (0..2).map(|_| Host::open(&langfuse.endpoint(), spool.keys(json!({})))).collect();
    hosts
        .iter()
        .enumerate()
        .for_each(|(n, host)| drop((upload(host, n.to_string()), upload(host, format!("{n}b")))));
    shut.store(false, Ordering::SeqCst);
    hosts.iter().for_each(Host::flush_all);
    for host in &hosts {
        let s = host.stats();
        assert_eq!((s.uploads, s.uploaded), (2, 2));
    }
    assert_eq!(langfuse.store.count(), 4);
}

#[test]
fn what_a_shutdown_leaves_is_not_lost_and_is_for_whoever_comes() {
    until("a sender that ends in time", || {
        let (langfuse, shut) = closed();
        let spool = Spool::new();
        let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
        upload(&host, "a");
        upload(&host, "b");
        if !host.shut_with_a_rest(Duration::from_millis(50)) {
            return false;
        }
        assert_eq!(host.stats().media_bytes, 0, "nothing of it is in memory");
        let names = waiting(&spool);
        assert!(names.len() == 2 && names.iter().all(|name| name.ends_with("@none.media")), "{names:?}");
        shut.store(false, Ordering::SeqCst);
        // Another client of this very process, which lives.
        let next = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
        next.flush_all();
        assert_eq!((contents(&langfuse), waiting(&spool)), (set(["a", "b"]), vec![]));
        assert_eq!((next.stats().uploaded, host.stats().uploaded), (2, 0));
        true
    });
}

#[test]
fn nobody_waits_at_shutdown_for_a_server_that_is_not_there() {
    let spool = Spool::new();
    let dir = Dir::new();
    let path = dir.0.join("socket");
    let url = format!("{}:/api/public/ingestion", crate::collector::unix_url(&path));
    let mut victim = Victim::open(&url, spool.keys(json!({})));
    victim.upload(&["abc"]);
    let start = Instant::now();
    assert_eq!(victim.shutdown(HOUR_MS), "Timeout");
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    // What its sender had no time to give up is free when it is dead.
    victim.kill();
    let store = Collector::kind();
    let place = store.url().to_string();
    let server = Collector::at(&path, move |seen| usual(seen, &place));
    let host = Host::open(&url, spool.keys(json!({})));
    host.flush_all();
    assert_eq!((methods(&server).len(), store.requests()[0].body.clone()), (2, b"abc".to_vec()));
}

#[test]
fn damaged_files_are_set_aside_and_harm_no_other() {
    let (langfuse, shut) = closed();
    let spool = Spool::new();
    let mut victim = Victim::open(&langfuse.endpoint(), spool.keys(json!({})));
    victim.upload(&["flipped", "short", "blank", "whole"]);
    victim.kill();
    let names = waiting(&spool);
    let path = |content: &str| {
        let holds = |name: &&String| {
            let bytes = fs::read(spool.leaf().join(name)).unwrap();
            bytes.windows(content.len()).any(|part| part == content.as_bytes())
        };
        spool.leaf().join(names.iter().find(holds).unwrap())
    };
    let (flipped, short, blank) = (path("flipped"), path("short"), path("blank"));
    let mut bytes = fs::read(&flipped).unwrap();
    bytes[66] ^= 1;
    put(&flipped, &bytes);
    fs::OpenOptions::new().write(true).open(&short).unwrap().set_len(100).unwrap();
    put(&blank, &vec![0; bytes.len()]);
    shut.store(false, Ordering::SeqCst);
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!(contents(&langfuse), set(["whole"]));
    let s = host.stats();
    assert_eq!((s.uploaded, s.uploads_failed, s.corrupt), (1, 0, 3));
    let mut aside =
        [flipped, short, blank].map(|path| format!("{}.bad", path.file_name().unwrap().to_str().unwrap()));
    aside.sort();
    assert_eq!((waiting(&spool), spool.names().iter().filter(|n| n.ends_with(".bad")).count()), (vec![], 3));
    assert!(aside.iter().all(|name| spool.names().contains(name)), "{:?}", spool.names());
}

#[test]
fn odd_things_with_such_names_are_left_alone() {
    let langfuse = Langfuse::kind();
    let spool = Spool::of(&langfuse.endpoint());
    let name = |n: u32| spool.leaf().join(format!("{n:016x}-{n:016x}-{n:016x}@none.media"));
    std::os::unix::fs::symlink("/etc/passwd", name(1)).unwrap();
    fs::create_dir(name(2)).unwrap();
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
    upload(&host, "abc");
    host.flush_all();
    assert_eq!((contents(&langfuse), waiting(&spool).len()), (set(["abc"]), 2));
}

#[test]
fn the_room_is_the_directorys() {
    let (langfuse, shut) = closed();
    let spool = Spool::new();
    let keys = || spool.keys(json!({"media_max_bytes": 5 * 4096}));
    let hosts = [(); 2].map(|()| Host::open(&langfuse.endpoint(), keys()));
    (0..5).for_each(|n| drop(upload(&hosts[n % 2], n.to_string())));
    for host in &hosts {
        let refused = host.upload(&meta(), Some(b"x")).unwrap_err();
        assert_eq!(
            (refused.status, host.stats().dropped_full, host.stats().media_bytes),
            (Status::Full, 1, 0)
        );
    }
    assert_eq!(waiting(&spool).len(), 5);
    shut.store(false, Ordering::SeqCst);
    hosts.iter().for_each(Host::flush_all);
    // One as large as all of it, although its file is larger.
    upload(&hosts[0], vec![1; 5 * 4096]);
    hosts[0].flush_all();
    assert_eq!(langfuse.store.count(), 6);
}

#[test]
fn threads_that_upload_at_once_stay_within_the_room() {
    let (langfuse, _shut) = closed();
    let spool = Spool::fast();
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({"media_max_bytes": 10 * 4096})));
    let taken: usize = thread::scope(|scope| {
        let one = |t: u32| {
            let host = &host;
            let taken = move |n: &u32| host.upload(&meta(), Some(format!("{t} {n}").as_bytes())).is_ok();
            move || (0..20).filter(taken).count()
        };
        let all: Vec<_> = (0..8).map(|t| scope.spawn(one(t))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(taken > 0 && taken <= 10, "{taken}");
    assert_eq!((waiting(&spool).len(), host.stats().uploads), (taken, taken as u64));
}

#[test]
fn what_is_too_old_is_removed() {
    let (langfuse, _shut) = closed();
    let spool = Spool::new();
    let keys = json!({"spool_max_age_s": 1, "retry": {"initial_ms": 1, "max_ms": 50}});
    let host = Host::open(&langfuse.endpoint(), spool.keys(keys));
    upload(&host, "abc");
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.uploaded, s.uploads_failed, waiting(&spool)), (0, 1, vec![]));
}

// ---- disks ----

#[test]
fn without_a_directory_it_waits_in_memory() {
    let langfuse = Langfuse::kind();
    let dir = Dir::new();
    let file = dir.0.join("file");
    put(&file, b"in the way");
    let mut keys = Spool::new().keys(json!({}));
    keys["spool_dir"] = json!(file.join("spool"));
    let host = Host::open(&langfuse.endpoint(), keys);
    upload(&host, "a");
    assert_eq!(host.stats().spool_failures, 1);
    host.flush_all();
    fs::remove_file(&file).unwrap();
    upload(&host, "b");
    assert_eq!(host.stats().spool_failures, 1, "it is tried with each");
    host.flush_all();
    assert_eq!(contents(&langfuse), set(["a", "b"]));
    assert_eq!((host.stats().uploaded, host.stats().media_bytes), (2, 0));
}

#[test]
fn a_full_disk() {
    on_small_disk("uploads::a_full_disk", |disk| {
        let (langfuse, shut) = closed();
        let spool = Spool::at(&disk.join("spool"));
        let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
        upload(&host, vec![b'1'; 150_000]);
        assert_eq!((waiting(&spool).len(), host.stats().spool_failures), (1, 0));
        upload(&host, vec![b'2'; 150_000]);
        let s = host.stats();
        assert_eq!((waiting(&spool).len(), s.spool_failures, s.media_bytes), (1, 1, 151_552));
        assert!(!spool.names().iter().any(|name| name.ends_with(".bad")), "{:?}", spool.names());
        shut.store(false, Ordering::SeqCst);
        host.flush_all();
        let s = host.stats();
        assert_eq!((s.uploads, s.uploaded, s.media_bytes, waiting(&spool)), (2, 2, 0, vec![]));
    });
}

#[test]
fn a_read_only_disk() {
    on_small_disk("uploads::a_read_only_disk", |disk| {
        let (langfuse, shut) = closed();
        let spool = Spool::at(&disk.join("spool"));
        let mut before = Victim::open(&langfuse.endpoint(), spool.keys(json!({})));
        before.upload(&["left"]);
        before.kill();
        mount(disk, c"size=256k,mode=0700", libc::MS_REMOUNT | libc::MS_RDONLY);
        shut.store(false, Ordering::SeqCst);
        let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
        upload(&host, "now");
        host.flush_all();
        let s = host.stats();
        assert_eq!((s.spool_failures, s.uploaded, contents(&langfuse)), (1, 1, set(["now"])));
        // What cannot be removed is not sent either, and is not given up.
        mount(disk, c"size=256k,mode=0700", libc::MS_REMOUNT);
        host.flush_all();
        assert_eq!((contents(&langfuse), waiting(&spool)), (set(["left", "now"]), vec![]));
    });
}

/// From now on this process's calls of that number are refused, if its argument number `at` has one of these bits.
fn forbid(number: libc::c_long, at: u32, bits: u32, errno: i32) {
    let code = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let argument = 16 + 8 * at; // struct seccomp_data, the lower half, little endian
    let filter = [
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32, 0, 3),
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, argument, 0, 0),
        code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, 0, 1),
        code(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        code(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: a valid filter; it concerns this process, which is the test's own.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        let set = libc::prctl(libc::PR_SET_SECCOMP, mode, std::ptr::from_ref(&program));
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

fn works_without(what: impl FnOnce(&Spool)) {
    let (langfuse, shut) = closed();
    let spool = Spool::of(&langfuse.endpoint());
    what(&spool);
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
    upload(&host, "abc");
    assert_eq!((waiting(&spool).len(), host.stats().spool_failures), (1, 0));
    assert!(!spool.names().iter().any(|name| name.ends_with(".bad")), "{:?}", spool.names());
    shut.store(false, Ordering::SeqCst);
    host.flush_all();
    assert_eq!((contents(&langfuse), waiting(&spool)), (set(["abc"]), vec![]));
}

#[test]
fn a_file_system_without_nameless_files() {
    if alone("uploads::a_file_system_without_nameless_files") {
        works_without(|spool| {
            // __O_TMPFILE alone; with it comes O_DIRECTORY, which others use.
            forbid(libc::SYS_openat, 2, 0o20_000_000, libc::EOPNOTSUPP);
            assert!(spool.directory().create_nameless().is_err());
        });
    }
}

#[test]
fn a_system_that_gives_files_no_names() {
    if alone("uploads::a_system_that_gives_files_no_names") {
        works_without(|_| forbid(libc::SYS_linkat, 4, libc::AT_SYMLINK_FOLLOW as u32, libc::ENOENT));
    }
}

// ---- kills at any instant ----

#[test]
fn what_was_taken_arrives_whoever_is_killed_when() {
    let langfuse = Langfuse::kind();
    let spool = Spool::fast();
    let mut dice = Dice::thrown();
    let mut taken = BTreeSet::new();
    for round in 0..12 {
        let mut victim = Victim::open(&langfuse.endpoint(), spool.keys(json!({"batch": {"max_age_ms": 1}})));
        for n in 0..dice.below(8) {
            let content = format!("{round} {n} {}", "x".repeat(dice.below(100_000)));
            victim.upload(&[&content]);
            taken.insert(content);
        }
        // While it delivers, and perhaps adopts what the one before it left.
        thread::sleep(Duration::from_micros(dice.below(20_000) as u64));
        victim.kill();
    }
    let host = Host::open(&langfuse.endpoint(), spool.keys(json!({})));
    host.flush_all();
    assert_eq!((contents(&langfuse) == taken, waiting(&spool)), (true, vec![]));
    assert_eq!((host.stats().corrupt, host.stats().uploads_failed), (0, 0));
}
