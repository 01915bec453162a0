//! Directories that are not safe, not there, full, read-only or taken away.
use crate::collector::Collector;
use crate::host::{Dir, Host, alone, alone_under, check, until};
use crate::spool::{SEGMENT, Spool, event, leaf_of, mkdir, put, same, shut};
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::client::open::{OpenError, open};

/// Somebody else: the system's `nobody`.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    // SAFETY: only asks.
    unsafe { libc::geteuid() == 0 }
}

/// Why a client with this `spool_dir` is refused.
fn refused(url: &str, dir: &Path) -> Option<String> {
    match open(&json!({"endpoint": url, "spool_dir": dir}).to_string()) {
        Err(OpenError::Config(why)) => {
            let shown = format!("spool_dir is {:?}", dir.display().to_string());
            assert!(why.contains(&shown) && why.contains("allowed"), "{why}");
            Some(why)
        }
        Err(OpenError::Io(why)) => panic!("{why}"),
        Ok(client) => {
            client.free();
            None
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn unsafe_directories_are_refused() {
    let collector = Collector::kind();
    let dir = Dir::new();
    let says = |path: &Path, what: &str| {
        let why = refused(collector.url(), path).unwrap_or_else(|| panic!("{path:?} was taken"));
        assert!(why.contains(what), "{what:?} is not in {why:?}");
    };
    let fresh = |name: &str| {
        let path = dir.0.join(name);
        mkdir(&path);
        (path.clone(), path.join(leaf_of(collector.url())))
    };
    let (good, leaf) = fresh("good");
    mkdir(&leaf);
    assert_eq!(refused(collector.url(), &good), None);
    assert_eq!(refused(collector.url(), &dir.0.join("is/not/there")), None);

    symlink(&good, dir.0.join("link")).unwrap();
    says(&dir.0.join("link"), "is a symlink");
    put(&dir.0.join("file"), b"");
    says(&dir.0.join("file"), "is not a directory");
    let (path, _) = fresh("open to all");
    chmod(&path, 0o777);
    says(&path, "writable by everybody");
    chmod(&path, 0o1777);
    assert_eq!(refused(collector.url(), &path), None, "as /tmp is");

    let (path, leaf) = fresh("a");
    symlink(&good, leaf).unwrap();
    says(&path, "is a symlink");
    let (path, leaf) = fresh("b");
    put(&leaf, b"");
    says(&path, "is not a directory");
    for mode in [0o755, 0o770, 0o701, 0o777, 0o1777] {
        let (path, leaf) = fresh(&format!("{mode:o}"));
        mkdir(&leaf);
        chmod(&leaf, mode);
        says(&path, &format!("has mode {mode:04o}"));
    }
    assert_eq!(collector.count(), 0);
}

/// Give a path to somebody else. `false`: nobody here may; under CI that is a failure.
fn give(path: &Path, user: u32) -> bool {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string.
    if unsafe { libc::chown(name.as_ptr(), user, user) } == 0 {
        return true;
    }
    let run = Command::new("sudo").args(["-n", "chown", &user.to_string()]).arg(path).status();
    may_skip(run.is_ok_and(|status| status.success()), "chown needs root or sudo")
}

/// `able`, or the test is left out; never under CI.
fn may_skip(able: bool, why: &str) -> bool {
    if !able {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("left out: {why}");
    }
    able
}

/// Become another user, for good.
fn become_nobody() {
    // SAFETY: changes only who this process, which is the test's own, is.
    assert_eq!(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }, 0);
}

#[test]
fn another_users_directory_is_refused() {
    if !alone("places::another_users_directory_is_refused") {
        return;
    }
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    if is_root() {
        // Ours when it was made; then we became another.
        chmod(spool.root(), 0o755);
        become_nobody();
    } else if !give(&spool.leaf(), NOBODY) {
        return;
    }
    let why = refused(collector.url(), spool.root()).expect("it was taken");
    assert!(why.contains("belongs to user"), "{why}");
}

#[test]
fn root_opens_and_whoever_it_becomes_uses_it() {
    if !alone("places::root_opens_and_whoever_it_becomes_uses_it") {
        return;
    }
    if !may_skip(is_root(), "needs root") {
        return;
    }
    let collector = Collector::kind();
    let spool = Spool::new();
    assert!(give(spool.root(), NOBODY));
    let host = Host::open(collector.url(), spool.keys(json!({})));
    become_nobody();
    host.number(1);
    assert_eq!(spool.on_disk(), [1]);
    assert_eq!(fs::metadata(spool.leaf()).unwrap().uid(), NOBODY);
    host.flush_all();
    assert_eq!(host.stats().spool_failures, 0);
}

#[test]
fn root_does_not_write_into_another_users_directory() {
    let collector = Collector::kind();
    let spool = Spool::of(collector.url());
    if !is_root() || !give(&spool.leaf(), NOBODY) {
        return;
    }
    let host = Host::open(collector.url(), spool.keys(json!({})));
    host.fill(0..100);
    assert_eq!(spool.names(), Vec::<String>::new());
    tried_now_and_then(&host);
    host.flush_all();
    same(&collector.numbers(), 0..100);
}

/// Nothing goes until it is flushed: what is in the queue can be looked at.
fn quiet() -> Value {
    json!({"batch": {"max_events": 100_000, "max_bytes": 5_000_000, "max_age_ms": 3_600_000}})
}

/// Go on from `n` until an event is on the disk, where no kill loses it. Gives the next number.
fn until_on_disk(host: &Host, spool: &Spool, mut n: u64) -> u64 {
    until("events go to files", || {
        assert_eq!(host.enqueue(event(n, 50)), Status::Ok, "{:?}", host.stats());
        n += 1;
        // A few a second, so that memory is enough.
        thread::sleep(Duration::from_millis(100));
        spool.on_disk().last() == Some(&(n - 1))
    });
    let first = n;
    (first..first + 50).for_each(|n| assert_eq!(host.enqueue(event(n, 50)), Status::Ok));
    let there = spool.on_disk();
    assert_eq!(there[there.len() - 50..], (first..first + 50).collect::<Vec<_>>()[..], "and stay there");
    first + 50
}

/// A directory was tried once or, on a slow machine, a few times; not with each of a hundred events.
fn tried_now_and_then(host: &Host) {
    let failures = host.stats().spool_failures;
    assert!((1..50).contains(&failures), "{failures}");
}

/// All arrive, each once, in order.
fn all_arrive(host: &Host, collector: &Collector, n: u64) {
    host.flush_all();
    same(&collector.numbers(), 0..n);
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.delivered, s.queue_events), (n, n, 0));
    assert!(s.spool_failures > 0, "it was counted: {s:?}");
}

#[test]
fn a_directory_that_cannot_be_made_yet() {
    let collector = Collector::kind();
    let dir = Dir::new();
    let file = dir.0.join("file");
    put(&file, b"in the way");
    let mut keys = Spool::new().keys(quiet());
    keys["spool_dir"] = json!(file.join("spool"));
    let host = Host::open(collector.url(), keys);
    host.fill(0..100);
    tried_now_and_then(&host);
    fs::remove_file(&file).unwrap();
    // The host makes the file's successor, or the library does.
    let leaf = file.join("spool").join(leaf_of(collector.url()));
    let mut n = 100;
    until("events go to files", || {
        host.number(n);
        n += 1;
        thread::sleep(Duration::from_millis(100));
        fs::read_dir(&leaf).is_ok_and(|dir| dir.count() >= 2)
    });
    all_arrive(&host, &collector, n);
}

#[test]
fn a_disk_that_stays_away_costs_no_memory() {
    let collector = Collector::kind();
    let dir = Dir::new();
    put(&dir.0.join("file"), b"in the way");
    let mut keys = Spool::new().keys(quiet());
    keys["spool_dir"] = json!(dir.0.join("file/spool"));
    let host = Host::open(collector.url(), keys);
    host.number(0);
    // It was tried again, in vain.
    until("another failure", || {
        let s = host.stats();
        assert!(s.queue_bytes < 1000, "a segment of memory was thrown away for {s:?}");
        s.spool_failures >= 3
    });
    // All of `queue_bytes` is there still.
    let mut n = 1;
    while host.enqueue(event(n, 1000)) == Status::Ok {
        n += 1;
    }
    assert!(n as usize > 4 * (SEGMENT / 1040 - 2), "full after {n}");
    assert!(n as usize <= 4 * SEGMENT / 1040, "more than queue_bytes: {n}");
    all_arrive(&host, &collector, n);
}

/// Remove a directory in use: files may be made in it meanwhile.
fn take_away(path: &Path) {
    until("it is gone", || match fs::remove_dir_all(path) {
        Err(why) if why.kind() == ErrorKind::DirectoryNotEmpty => false,
        removed => {
            removed.unwrap();
            true
        }
    });
}

#[test]
fn a_directory_taken_away_is_made_again() {
    let collector = Collector::kind();
    let spool = Spool::new();
    let host = Host::open(collector.url(), spool.keys(quiet()));
    host.fill(0..100);
    assert_eq!(spool.on_disk().len(), 100);
    let leaf = spool.leaf();
    take_away(&leaf);
    host.fill(100..200);
    until("it is made again", || leaf.exists());
    let n = until_on_disk(&host, &spool, 200);
    assert_eq!(fs::metadata(&leaf).unwrap().mode() & 0o7777, 0o700);
    // All of it: whose parent is gone too.
    take_away(spool.root());
    until("it is made again", || leaf.exists());
    let n = until_on_disk(&host, &spool, n);
    all_arrive(&host, &collector, n);
    if shut(&host) {
        assert_eq!(spool.names(), Vec::<String>::new());
    }
}

#[test]
fn files_taken_away_one_by_one() {
    let collector = Collector::kind();
    let spool = Spool::new();
    let host = Host::open(collector.url(), spool.keys(quiet()));
    host.fill(0..100);
    for name in spool.names() {
        let removed = fs::remove_file(spool.leaf().join(name));
        assert!(removed.as_ref().is_err_and(|why| why.kind() == ErrorKind::NotFound) || removed.is_ok());
    }
    let n = until_on_disk(&host, &spool, 100);
    assert!(spool.names().iter().any(|name| name.ends_with(".own")), "and are held: {:?}", spool.names());
    all_arrive(&host, &collector, n);
}

/// The largest file this process may write.
fn limit_files(bytes: u64) {
    // SAFETY: a valid limit; it concerns this process, which is the test's own.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn a_limit_of_file_size_ends_no_process() {
    if !alone("places::a_limit_of_file_size_ends_no_process") {
        return;
    }
    let collector = Collector::kind();
    let spool = Spool::new();
    limit_files(SEGMENT as u64 - 1);
    let host = Host::open(collector.url(), spool.keys(quiet()));
    host.fill(0..100);
    assert_eq!(spool.segments().len(), 0);
    tried_now_and_then(&host);
    limit_files(u64::MAX);
    let n = until_on_disk(&host, &spool, 100);
    all_arrive(&host, &collector, n);
}

/// `false` in the test's own process, which has a tmpfs of 256 KiB to itself at the path given to `body`.
pub fn on_small_disk(test: &str, body: impl FnOnce(&Path)) {
    // Mounts in a namespace of its own end with the process.
    let ways: [&[&str]; 3] = [
        &["unshare", "--mount"],
        &["unshare", "--map-root-user", "--mount"],
        &["sudo", "-n", "--preserve-env", "unshare", "--mount"],
    ];
    let works = |way: &&&[&str]| {
        Command::new(way[0]).args(&way[1..]).arg("true").output().is_ok_and(|o| o.status.success())
    };
    let way = if std::env::var_os("DELIVERY_TEST_ALONE").is_some() { None } else { ways.iter().find(works) };
    if std::env::var_os("DELIVERY_TEST_ALONE").is_none() && !may_skip(way.is_some(), "unshare --mount") {
        return;
    }
    if alone_under(way.copied().unwrap_or(&[]), test) {
        let dir = Dir::new();
        mount(&dir.0, c"size=256k,mode=0700", 0);
        body(&dir.0);
    }
}

pub fn mount(at: &Path, options: &std::ffi::CStr, flags: libc::c_ulong) {
    let path = CString::new(at.as_os_str().as_bytes()).unwrap();
    let kind = c"tmpfs";
    // SAFETY: C strings all of them; the namespace is this process's own.
    let r =
        unsafe { libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    assert_eq!(r, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_full_disk() {
    on_small_disk("places::a_full_disk", |disk| {
        let collector = Collector::kind();
        let ballast = disk.join("ballast");
        fs::write(&ballast, vec![1; 120 * 1024]).unwrap();
        let spool = Spool::at(&disk.join("spool"));
        let host = Host::open(collector.url(), spool.keys(quiet()));
        // Two segments fit on it, four into memory.
        let mut n = 0;
        while host.enqueue(event(n, 200)) == Status::Ok {
            n += 1;
        }
        assert!(n as usize > 5 * (SEGMENT / 240), "{n}");
        let s = host.stats();
        check(&s);
        assert!(s.spool_failures > 0 && s.dropped_full == 1, "{s:?}");
        assert!(!spool.on_disk().is_empty());
        // Somebody fills what little is left: what is mapped has its space.
        let _ = fs::write(disk.join("more"), vec![1; 120 * 1024]);
        host.flush_all();
        same(&collector.numbers(), 0..n);
        let _ = fs::remove_file(disk.join("more"));
        fs::remove_file(&ballast).unwrap();
        let n = until_on_disk(&host, &spool, n);
        all_arrive(&host, &collector, n);
    });
}

#[test]
fn a_read_only_disk() {
    on_small_disk("places::a_read_only_disk", |disk| {
        let collector = Collector::kind();
        mount(disk, c"size=256k,mode=0700", libc::MS_REMOUNT | libc::MS_RDONLY);
        let spool = Spool::at(&disk.join("spool"));
        let host = Host::open(collector.url(), spool.keys(quiet()));
        host.fill(0..100);
        tried_now_and_then(&host);
        mount(disk, c"size=256k,mode=0700", libc::MS_REMOUNT);
        let n = until_on_disk(&host, &spool, 100);
        all_arrive(&host, &collector, n);
        // What others left on a disk that cannot be written to now stays there.
        host.fill(n..n + 10);
        same(&spool.on_disk(), n..n + 10);
    });
}
