//! The host program's side: a client that is given back at the end, and ways to wait.
use crate::collector::LIMIT;
use serde_json::Value;
use std::io::ErrorKind;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::{Client, Fast, Status};
use telemetry::client::life::Snapshot;
use telemetry::client::open::{open, open_looking_into};
use telemetry::platform::identity::Identity;
use telemetry::queue::spool::claim::may_take;
use telemetry::queue::spool::directory::Directory;
use telemetry::sink::ResolverFiles;

pub const LONG: Duration = LIMIT;
/// What a busy machine may add to a time. What would be wrong takes an [`HOUR`], or for ever.
pub const SLACK: Duration = LIMIT;
/// Longer than any test may last: as long as a key may say.
pub const HOUR: Duration = Duration::from_secs(3600);
/// The same as a key.
pub const HOUR_MS: u64 = 3_600_000;

/// A client, freed at the end of its test, and its `spool_dir`.
pub struct Host(Arc<Client>, Option<PathBuf>);

impl Host {
    /// With these keys. Batches close by count, bytes or flush, requests may last and a sender may rest as long as they
    /// want, unless `keys` say otherwise: nothing happens only because a machine is slow.
    pub fn open(url: &str, keys: Value) -> Host {
        let spool = spool_of(&keys);
        Host(open(&config(url, keys)).unwrap(), spool)
    }

    /// The same, with host names looked up as these files say.
    pub fn open_looking_into(files: ResolverFiles, url: &str, keys: Value) -> Host {
        let spool = spool_of(&keys);
        Host(open_looking_into(&config(url, keys), files).unwrap(), spool)
    }

    /// As the C API does it.
    pub fn enqueue(&self, event: impl AsRef<[u8]>) -> Status {
        let event = event.as_ref();
        match self.0.enqueue_fast(event) {
            Fast::Taken => Status::Ok,
            Fast::Attend(nonce, done) => self.0.enqueue_attended(nonce, done, event),
            Fast::Slow => self.0.enqueue(event),
        }
    }

    /// `{"n":...}`, taken.
    pub fn number(&self, n: u64) {
        assert_eq!(self.enqueue(format!("{{\"n\":{n}}}")), Status::Ok);
    }

    /// Those numbers.
    pub fn fill(&self, numbers: std::ops::Range<u64>) {
        numbers.for_each(|n| self.number(n));
    }

    /// Shut it while not all can be delivered. `true`: its sender has ended, and what is left was seen to. Shutdown
    /// waits half a second for that, in which a sender on a busy machine may not get a turn.
    pub fn shut_with_a_rest(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        assert_eq!(self.shutdown(timeout), Status::Timeout, "{:?}", self.stats());
        start.elapsed() < timeout + Duration::from_millis(500)
    }

    /// Everything is settled in time, and with a spool what others left. An orphan at which another client of the process
    /// looks just then is passed over, and found by the next flush; some will never be taken.
    pub fn flush_all(&self) {
        for _ in 0..20 {
            assert_eq!(self.flush(LONG), Status::Ok, "{:?}", self.stats());
            if !self.1.as_deref().is_some_and(has_orphans) {
                return;
            }
        }
    }
}

impl Deref for Host {
    type Target = Arc<Client>;

    fn deref(&self) -> &Arc<Client> {
        &self.0
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.0.shutdown(Duration::ZERO);
        Arc::clone(&self.0).free();
    }
}

fn spool_of(keys: &Value) -> Option<PathBuf> {
    keys["spool_dir"].as_str().map(PathBuf::from)
}

/// Whether files are there that this process may take.
fn has_orphans(spool: &Path) -> bool {
    let me = Identity::mine();
    let leaves = std::fs::read_dir(spool).into_iter().flatten().flatten();
    leaves.filter_map(|leaf| Directory::at(&leaf.path()).list().ok()).any(|found| {
        let free =
            |holders: &Vec<Option<Identity>>| holders.iter().all(|holder| may_take(holder.as_ref(), &me));
        found.segments.keys().any(|stem| found.owns.get(stem).is_none_or(free))
            || found.media.iter().any(|(name, _)| may_take(name.holder.as_ref(), &me))
    })
}

fn config(url: &str, keys: Value) -> String {
    let mut config = serde_json::json!({
        "endpoint": url,
        "batch": {"max_age_ms": HOUR_MS},
        "timeout_ms": HOUR_MS,
        "idle_ms": HOUR_MS,
    });
    merge(&mut config, keys);
    config.to_string()
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Ask until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < LIMIT, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What `f` returns, and that it took so long and hardly longer.
pub fn takes<T>(time: Duration, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    let took = start.elapsed();
    assert!(took >= time && took < time + SLACK, "took {took:?} instead of {time:?}");
    result
}

/// The balance holds in this snapshot.
pub fn check(s: &Snapshot) {
    assert_eq!(
        s.accepted + s.recovered,
        s.delivered + s.rejected + s.invalid + s.expired + s.queue_events,
        "{s:?}"
    );
}

/// Checks the balance all the time while `f` runs.
pub fn balanced<T>(host: &Host, f: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut before = Snapshot::default();
            while !over.load(Ordering::SeqCst) {
                let now = host.stats();
                check(&now);
                assert!(
                    now.delivered >= before.delivered && now.accepted >= before.accepted,
                    "{before:?} {now:?}"
                );
                before = now;
                thread::yield_now();
            }
        });
        let stop = Stop(&over);
        let result = f();
        drop(stop);
        sampler.join().unwrap();
        result
    })
}

/// A directory of its own, removed at the end.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static N: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = N.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("telemetry-delivery-{}-{n}", std::process::id()));
            match std::fs::create_dir(&dir) {
                // Left by one that was killed and had this process id.
                Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.unwrap();
                    return Dir(dir);
                }
            }
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Tests that look at the whole process run in one of their own. `false`: it did, and all was well; `true`:
/// this is that process.
pub fn alone(test: &str) -> bool {
    alone_under(&[], test)
}

/// The same, started by another command.
pub fn alone_under(command: &[&str], test: &str) -> bool {
    const MARK: &str = "DELIVERY_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let dir = Dir::new();
    let out = std::fs::File::create(dir.0.join("out")).unwrap();
    let this = std::env::current_exe().unwrap();
    let line = command.iter().copied().chain([this.to_str().unwrap()]).chain([
        "--exact",
        test,
        "--nocapture",
        "--test-threads=1",
    ]);
    let line: Vec<&str> = line.collect();
    let mut run = Command::new(line[0])
        .args(&line[1..])
        .env(MARK, "1")
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let ended = loop {
        match run.try_wait().unwrap() {
            // Longer than any test of its own waits for anything.
            None if start.elapsed() > 15 * LIMIT => {
                run.kill().unwrap();
                break run.wait().unwrap();
            }
            None => thread::sleep(Duration::from_millis(2)),
            Some(status) => break status,
        }
    };
    let text = String::from_utf8_lossy(&std::fs::read(dir.0.join("out")).unwrap()).into_owned();
    assert!(ended.success() && text.contains("1 passed"), "{test} alone: {ended}\n{text}");
    false
}

/// How many senders this process has.
pub fn senders() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "telemetry\n")
        })
        .count()
}
