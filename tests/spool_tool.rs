//! `telemetry spool` as a program, on spools that real processes left: some killed, some alive.
//!
//! Invariants: owners are this test program started anew (see [`owner`]), so that they can be killed. A live one is
//! stopped (SIGSTOP) once it has enqueued: it holds its lock and adopts nothing meanwhile.

// clippy.toml allows these inside of `#[test]` functions; the helpers here are as much part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;
use telemetry::client::open::open;
use telemetry::platform::files;
use telemetry::platform::identity::Identity;
use telemetry::queue::spool::names::{Name, parse};

#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "delivery/collector.rs"]
mod collector;
#[allow(dead_code, reason = "shared with tests/delivery")]
#[path = "delivery/langfuse.rs"]
mod langfuse;
#[path = "spool_tool/uploads.rs"]
mod uploads;

const ORDER: &str = "SPOOL_TOOL_OWNER";
const NOWHERE: &str = "http://127.0.0.1:1/";
const LIMIT: Duration = Duration::from_secs(120);

// ---- the owners ----

/// Not a test: the program of an owner, which does what the variable says.
#[test]
fn owner() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    let stay = || {
        println!("\nready");
        let _ = std::io::stdin().read(&mut [0]);
    };
    if let Some(path) = order["lock"].as_str() {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        assert!(files::lock(file.as_raw_fd()).unwrap());
        return stay();
    }
    let client = open(&order["config"].to_string()).unwrap();
    for n in order["from"].as_u64().unwrap()..order["to"].as_u64().unwrap() {
        let event = json!({"event": "e", "distinct_id": "d", "n": n, "filler": "x".repeat(200)});
        assert_eq!(client.enqueue(event.to_string().as_bytes()), Status::Ok);
    }
    for content in order["config"]["context"]["uploads"].as_array().into_iter().flatten() {
        langfuse::upload(&client, content.as_str().unwrap());
    }
    match order["then"].as_str().unwrap() {
        "write" => {
            println!("\nready");
            loop {
                client.enqueue(json!({"n": 0, "filler": "x".repeat(200)}).to_string().as_bytes());
            }
        }
        // The one who started it kills it.
        "stay" | "die" => stay(),
        "release" => assert_ne!(client.shutdown(Duration::ZERO), Status::Internal),
        "flush" => assert_eq!(client.flush(LIMIT), Status::Ok),
        other => panic!("{other}"),
    }
}

struct Owner(Child);

impl Owner {
    fn start(order: &Value) -> Owner {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "owner", "--nocapture", "--test-threads=1"])
            .env(ORDER, order.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stays = order["then"].as_str().is_none_or(|then| ["stay", "die", "write"].contains(&then));
        if stays {
            assert!(lines.any(|line| line.unwrap() == "ready"), "{order}");
        } else {
            lines.for_each(drop);
            assert!(child.wait().unwrap().success(), "{order}");
        }
        Owner(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Not before it stands still.
    fn stop(self) -> Owner {
        signal(&self.0, "STOP");
        let stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        let threads = || fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().flatten();
        let start = Instant::now();
        while !threads().all(|task| fs::read_to_string(task.path().join("stat")).is_ok_and(stopped)) {
            assert!(start.elapsed() < LIMIT, "it never stops");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, name: &str) {
    assert!(
        Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success()
    );
}

/// A directory of its own, with a spool in it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("telemetry-spool-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Place(dir)
    }

    fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Whoever enqueues those numbers, and then does that.
    fn owner(&self, numbers: std::ops::Range<u64>, then: &str, more: Value) -> Owner {
        let mut config = json!({
            "endpoint": NOWHERE, "spool_dir": self.spool(), "batch": {"max_age_ms": 3_600_000},
            "segment_bytes": 65_536,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Owner::start(&json!({"config": config, "from": numbers.start, "to": numbers.end, "then": then}))
    }

    /// What a killed process left: its directory.
    fn orphan(&self, numbers: std::ops::Range<u64>, more: Value) -> PathBuf {
        let before = self.leaves();
        drop(self.owner(numbers, "die", more));
        let after = self.leaves();
        after.iter().find(|leaf| !before.contains(leaf)).unwrap_or(&after[0]).clone()
    }

    fn leaves(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.spool())
            .map_or(Vec::new(), |entries| entries.map(|e| e.unwrap().path()).collect());
        found.sort();
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut found: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
    found.sort();
    found
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    names(dir).iter().filter(|name| name.ends_with(".seg")).map(|name| dir.join(name)).collect()
}

/// Every byte, to see that nothing changed.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

/// Another holder in the own file's name.
fn hand_over(leaf: &Path, change: impl Fn(Identity) -> Identity) -> PathBuf {
    let own = names(leaf).into_iter().find(|name| name.ends_with(".own")).unwrap();
    let Some(Name::Own(stem, Some(holder))) = parse(&own) else { panic!("{own}") };
    let to = leaf.join(stem.own(Some(&change(holder))));
    fs::rename(leaf.join(own), &to).unwrap();
    to
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

// ---- the tool and the collector ----

struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {} {}", self.out, self.err))
    }

    /// It ended with that status, and said that.
    fn check(&self, status: i32, parts: &[&str]) -> &Said {
        let all = format!("status {}\n{}\n{}", self.status, self.out, self.err);
        assert_eq!(self.status, status, "{all}");
        for part in parts {
            assert!(self.out.contains(part) || self.err.contains(part), "no {part:?} in {all}");
        }
        self
    }
}

fn command(what: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_telemetry"));
    command.args(["spool", what]).arg(dir).args(args);
    command
}

fn tool(what: &str, dir: &Path, args: &[&str]) -> Said {
    ended(command(what, dir, args).output().unwrap())
}

fn ended(out: std::process::Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) }
}

struct Collector {
    child: Child,
    _stdout: BufReader<std::process::ChildStdout>,
    url: String,
    place: Place,
}

impl Collector {
    fn start(faults: &[&str]) -> Collector {
        let place = Place::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_telemetry"));
        command.args(["collect", "--listen", "127.0.0.1:0", "--out"]).arg(place.0.join("out"));
        faults.iter().for_each(|fault| {
            command.args(["--fault", fault]);
        });
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ").unwrap().to_string();
        Collector { child, _stdout: stdout, url, place }
    }

    fn events(&self) -> Vec<Value> {
        lines(&self.place.0.join("out"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The ids of each number, in the order they came.
fn ids(events: &[Value]) -> BTreeMap<u64, Vec<String>> {
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for event in events {
        let id = event.get("id").or(event.get("uuid")).and_then(Value::as_str).unwrap().to_string();
        found.entry(event["n"].as_u64().unwrap()).or_default().push(id);
    }
    found
}

/// Each of these numbers came once, each with an id of its own.
fn once(events: &[Value], numbers: std::ops::Range<u64>) {
    let ids = ids(events);
    assert!(ids.keys().copied().eq(numbers.clone()), "{numbers:?}: {:?}", ids.keys());
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    let different: std::collections::BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(different.len() as u64, numbers.end - numbers.start);
}

// ---- places ----

#[test]
fn a_wrong_path_is_named_and_an_empty_spool_is_no_mistake() {
    let place = Place::new();
    let file = place.0.join("file");
    fs::write(&file, "").unwrap();
    let empty = place.0.join("spool/app-0123456789abcdef");
    fs::create_dir_all(&empty).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o700)).unwrap();
    for what in ["ls", "verify", "drain"] {
        let to: &[&str] = if what == "drain" { &["--to", NOWHERE] } else { &[] };
        tool(what, &place.0.join("none"), to).check(1, &["none: there is no such directory"]);
        tool(what, &file, to).check(1, &["file is not a directory"]);
        tool(what, &place.0, to).check(1, &["holds no spool", "<name>-<hash>"]);
        for dir in [&empty, &place.spool()] {
            assert_eq!(tool(what, dir, to).check(0, &[]).err, "");
        }
    }
    tool("ls", &place.spool(), &[]).check(0, &["app-0123456789abcdef", "empty", "total: 0 events"]);
    assert_eq!(tool("ls", &empty, &["--json"]).json()["total"]["stems"], 0);
    tool("verify", &empty, &[]).check(0, &["0 files, 0 events: all of it can be read"]);
    tool("drain", &empty, &["--to", NOWHERE]).check(0, &["delivered 0", "left 0"]);
}

#[test]
fn bad_arguments_end_with_2_and_quote_no_credential() {
    let place = Place::new();
    place.orphan(0..1, json!({}));
    let file = place.0.join("config");
    fs::write(&file, r#"{"api_key": "SECRET", "wrong": 1}"#).unwrap();
    let from_file = format!("@{}", file.display());
    for (args, part) in [
        (vec![], "--to is missing"),
        (vec!["--to", "ftp://u:SECRET@h/"], "endpoint is"),
        (vec!["--to", NOWHERE, "--config", "{\"api_key\": \"SECRET\""], "--config is no JSON"),
        (vec!["--to", NOWHERE, "--config", "[\"SECRET\"]"], "a JSON object"),
        (vec!["--to", NOWHERE, "--config", "{\"bearer\":\"SECRET\",\"bearer\":\"SECRET\"}"], "bearer"),
        (vec!["--to", NOWHERE, "--config", &from_file], "wrong"),
        (vec!["--to", NOWHERE, "--config", "@/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["--to", NOWHERE, "--format", "xml"], "format is \"xml\""),
        (vec!["--to", NOWHERE, "--format", "posthog"], "api_key is missing"),
        (vec!["--to", NOWHERE, "--config", "{\"disabled\":true}"], "disabled"),
        (vec!["--to", NOWHERE, "--timeout", "0"], "--timeout"),
    ] {
        let said = tool("drain", &place.spool(), &args);
        said.check(2, &[part]);
        assert!(!said.err.contains("SECRET") && said.out.is_empty(), "{args:?}: {}", said.err);
    }
    assert_eq!(tool("ls", &place.spool(), &["--json"]).json()["total"]["events"], 1);
}

// ---- ls ----

#[test]
fn ls_tells_owners_apart_and_disturbs_nobody() {
    let place = Place::new();
    // The later ones would adopt what is there already: so the stopped one comes first, and the others elsewhere.
    let live = place.owner(0..300, "stay", json!({})).stop();
    let leaf = place.leaves()[0].clone();
    let elsewhere = |numbers: std::ops::Range<u64>, then: &str| {
        let other = Place::new();
        drop(other.owner(numbers, then, json!({})));
        let from = other.leaves()[0].clone();
        assert_eq!(from.file_name(), leaf.file_name(), "the same destination");
        (other, from)
    };
    // On a busy machine a sender may not end in the time that a shutdown has, and then nothing is released.
    let released = || {
        let begin = Instant::now();
        loop {
            let (other, from) = elsewhere(300..310, "release");
            if names(&from).iter().any(|name| name.ends_with("@none.own")) {
                return (other, from);
            }
            assert!(begin.elapsed() < LIMIT, "never released: {:?}", names(&from));
        }
    };
    let (_a, released) = released();
    let (_b, orphan) = elsewhere(310..320, "die");
    let (_c, foreign) = elsewhere(320..325, "die");
    hand_over(&foreign, |holder| Identity { pid_ns: holder.pid_ns + 1, ..holder });
    for from in [released, orphan, foreign] {
        names(&from).iter().for_each(|name| fs::rename(from.join(name), leaf.join(name)).unwrap());
    }
    fs::write(leaf.join("1-2-3-00000000.seg.bad"), "rubbish").unwrap();
    fs::write(leaf.join("notes\u{1b}"), "").unwrap();

    let before = contents(&leaf);
    let all = tool("ls", &place.spool(), &["--json"]);
    let all = all.check(0, &[]).json();
    let stems = all["directories"][0]["stems"].as_array().unwrap().clone();
    let of = |state: &str| {
        stems.iter().find(|stem| stem["state"] == state).unwrap_or_else(|| panic!("{state}: {all}"))
    };
    for (state, events, locked) in
        [("live", 300, true), ("released", 10, false), ("orphan", 10, false), ("foreign", 5, false)]
    {
        let stem = of(state);
        assert_eq!((&stem["events"], &stem["locked"]), (&json!(events), &json!(locked)), "{stem}");
        assert_eq!(
            (&stem["holes"], &stem["bad"], &stem["formats"]),
            (&json!(0), &json!(0), &json!(["ndjson"]))
        );
        assert!(stem["age_s"].as_u64().unwrap() < 600 && stem["bytes"].as_u64().unwrap() >= 65_536, "{stem}");
    }
    assert_eq!(of("live")["pid"], live.pid());
    assert!(of("live")["segments"].as_u64().unwrap() >= 2);
    assert_eq!((&all["total"]["events"], &all["total"]["live_events"]), (&json!(325), &json!(300)));
    assert_eq!(all["directories"][0]["set_aside"][0]["name"], "1-2-3-00000000.seg.bad");
    assert_eq!(all["directories"][0]["unknown"].as_array().unwrap().len(), 1);

    let live_pid = format!("live {}", live.pid());
    tool("ls", &leaf, &[]).check(
        0,
        &[
            "STATE",
            &live_pid,
            "released",
            "orphan",
            "not locked",
            "ndjson",
            "set aside: 1-2-3-00000000.seg.bad",
            "not of the spool: notes\\u{1b}",
            "325 events (300 of live processes)",
            "1 set-aside file, 1 unknown file",
        ],
    );
    assert_eq!(contents(&leaf), before);
    // The lock is where it was, and the process goes on as if nothing had been.
    let lock = names(&leaf).into_iter().find(|name| name.contains(&format!("-{}-", live.pid()))).unwrap();
    assert!(files::is_locked(fs::File::open(leaf.join(lock)).unwrap().as_raw_fd()).unwrap());
}

#[test]
fn a_stranger_that_holds_its_lock_is_left_alone() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let leaf = place.orphan(0..3, json!({}));
    let own = hand_over(&leaf, |holder| Identity { pid_ns: holder.pid_ns + 1, ..holder });
    let stranger = Owner::start(&json!({"lock": own}));
    tool("ls", &leaf, &[]).check(0, &["foreign", ", locked", "3 of live processes"]);
    tool("drain", &leaf, &["--to", &collector.url])
        .check(0, &["3 events of process", "another container", "delivered 0"]);
    drop(stranger);
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 3,"]);
    once(&collector.events(), 0..3);
}

#[test]
fn a_directory_that_is_open_to_others_is_shown_and_not_drained() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let leaf = place.orphan(0..3, json!({"name": "open"}));
    place.orphan(3..6, json!({"name": "shut"}));
    fs::set_permissions(&leaf, fs::Permissions::from_mode(0o770)).unwrap();
    tool("ls", &leaf, &[]).check(0, &["total: 3 events"]);
    let said = tool("drain", &place.spool(), &["--to", &collector.url]);
    said.check(1, &["delivered 3,", "left 3\n", "has mode 0770; allowed: 0700"]);
    once(
        &collector
            .events()
            .iter()
            .map(|e| json!({"id": e["id"], "n": e["n"].as_u64().unwrap() - 3}))
            .collect::<Vec<_>>(),
        0..3,
    );
}

// ---- verify ----

#[test]
fn verify_names_each_kind_of_damage_and_changes_nothing() {
    let place = Place::new();
    let leaf = place.orphan(0..1000, json!({}));
    tool("verify", &place.spool(), &[]).check(0, &["1000 events: all of it can be read"]);
    let files = segments(&leaf);
    assert!(files.len() >= 5, "{files:?}");
    // The body of the first record of one; the whole header of another; the version of a third; half of a fourth.
    flip(&files[0], 256 + 60);
    let mut bytes = fs::read(&files[1]).unwrap();
    bytes[..256].fill(0x5a);
    fs::write(&files[1], &bytes).unwrap();
    let mut bytes = fs::read(&files[2]).unwrap();
    for copy in [0, 88] {
        bytes[copy + 8..copy + 12].copy_from_slice(&7u32.to_ne_bytes());
    }
    fs::write(&files[2], &bytes).unwrap();
    fs::OpenOptions::new().write(true).open(&files[3]).unwrap().set_len(30_000).unwrap();
    fs::copy(&files[1], leaf.join("1-2-3-00000001.seg.bad")).unwrap();

    let before = contents(&leaf);
    let said = tool("verify", &place.spool(), &["--json"]);
    let report = said.check(1, &["faults in"]).json();
    let found = |file: &Path, offset: Value, what: &str| {
        let all = report["faults"].as_array().unwrap();
        let one = all.iter().find(|fault| {
            fault["file"] == json!(file)
                && fault["offset"] == offset
                && fault["what"].as_str().unwrap().contains(what)
        });
        assert!(one.is_some(), "{what}: {report}");
    };
    found(&files[0], json!(256), "check");
    found(&files[1], json!(0), "header");
    found(&files[2], Value::Null, "version 7");
    found(&files[3], json!(30_000), "truncated: 30000 of 65536");
    found(&leaf.join("1-2-3-00000001.seg.bad"), json!(0), "set aside: the header");
    let name = files[0].file_name().unwrap().to_str().unwrap();
    tool("verify", &leaf, &[]).check(1, &[&format!("{name} at 256: a record whose check is wrong")]);
    tool("ls", &leaf, &[]).check(0, &["2 unreadable segments", "unreadable: ", "of version 7"]);
    assert_eq!(contents(&leaf), before);
}

#[test]
fn a_writer_at_work_looks_whole() {
    let place = Place::new();
    // It delivers as well, so that files come and go.
    let owner = place.owner(0..1000, "write", json!({"endpoint": "file:/dev/null", "compression": "none"}));
    for _ in 0..10 {
        tool("verify", &place.spool(), &[]).check(0, &["all of it can be read"]);
    }
    drop(owner);
}

// ---- drain ----

#[test]
fn what_the_dead_left_is_delivered_and_what_the_living_have_is_not() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let live = place.owner(5000..5003, "stay", json!({})).stop();
    let leaf = place.orphan(0..2000, json!({}));
    let said = tool("drain", &place.spool(), &["--to", &collector.url]);
    let left = format!("3 events of live process {} left", live.pid());
    said.check(0, &[&left, "delivered 2000, rejected 0, invalid 0, expired 0, corrupt 0, left 0\n"]);
    once(&collector.events(), 0..2000);
    let rest = tool("ls", &leaf, &["--json"]).json();
    assert_eq!((&rest["total"]["stems"], &rest["total"]["events"]), (&json!(1), &json!(3)), "{rest}");
    drop(live);
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 3,"]);
    assert_eq!(names(&leaf), Vec::<String>::new());
}

#[test]
fn ids_are_those_of_a_usual_recovery() {
    let (place, copy, collector) = (Place::new(), Place::new(), Collector::start(&[]));
    let endpoint = json!({"endpoint": format!("file:{}", place.0.join("recovered").display())});
    let leaf = place.orphan(0..50, endpoint.clone());
    let to = copy.spool().join(leaf.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o700)).unwrap();
    for name in names(&leaf) {
        fs::copy(leaf.join(&name), to.join(name)).unwrap();
    }
    tool("drain", &copy.spool(), &["--to", &collector.url]).check(0, &["delivered 50,"]);
    place.owner(0..0, "flush", endpoint);
    let recovered = lines(&place.0.join("recovered"));
    once(&recovered, 0..50);
    assert_eq!(ids(&recovered), ids(&collector.events()));
    let times = |events: &[Value]| events.iter().map(|e| e["timestamp"].to_string()).collect::<Vec<_>>();
    assert_eq!(times(&recovered), times(&collector.events()));
}

#[test]
fn a_lost_answer_makes_duplicates_with_equal_ids_only() {
    let (place, collector) = (Place::new(), Collector::start(&["lost@1"]));
    let leaf = place.orphan(0..20, json!({}));
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 20,"]);
    let ids = ids(&collector.events());
    assert_eq!(ids.len(), 20);
    assert!(ids.values().all(|ids| ids.len() == 2 && ids[0] == ids[1]), "{ids:?}");
}

#[test]
fn a_collector_that_is_down_costs_nothing_but_time() {
    let place = Place::new();
    let leaf = place.orphan(0..30, json!({}));
    let before = Instant::now();
    let said = tool("drain", &leaf, &["--to", NOWHERE, "--timeout", "2"]);
    said.check(
        1,
        &["delivered 0,", "left 30\n", "30 events not delivered after 2 s", "0 of 30 events settled"],
    );
    assert!(!said.err.contains("at shutdown"), "nothing is lost: {}", said.err);
    assert!(before.elapsed() >= Duration::from_secs(2) && before.elapsed() < LIMIT);
    tool("ls", &leaf, &[]).check(0, &["released", "total: 30 events"]);
    // A stalled one holds it no longer than it may.
    let stalled = Collector::start(&["stall"]);
    let before = Instant::now();
    let patient = ["--to", &stalled.url, "--timeout", "1", "--config", r#"{"timeout_ms": 3600000}"#];
    tool("drain", &leaf, &patient).check(1, &["left 30\n"]);
    assert!(before.elapsed() < LIMIT, "{:?}", before.elapsed());
    let collector = Collector::start(&[]);
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 30,"]);
    once(&collector.events(), 0..30);
}

#[test]
fn an_interrupted_drain_leaves_the_rest_in_place() {
    let (place, collector) = (Place::new(), Collector::start(&["500"]));
    let leaf = place.orphan(0..30, json!({}));
    let mut drain = command("drain", &leaf, &["--to", &collector.url]);
    let mut drain = drain.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut err = BufReader::new(drain.stderr.take().unwrap());
    let mut line = String::new();
    // It is at work by then.
    err.read_line(&mut line).unwrap();
    signal(&drain, "INT");
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    let said = ended(drain.wait_with_output().unwrap());
    said.check(1, &["left 30\n"]);
    assert!(rest.contains("30 events not delivered, because it was told to stop"), "{rest}");
    let collector = Collector::start(&[]);
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 30,"]);
    once(&collector.events(), 0..30);
}

#[test]
fn each_destination_is_drained_in_its_own_format() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    place.orphan(0..10, json!({"name": "plain"}));
    place.orphan(10..20, json!({"name": "hog", "format": "posthog", "api_key": "OLDKEY"}));
    assert_eq!(place.leaves().len(), 2);
    let listed = tool("ls", &place.spool(), &["--json"]).json();
    let formats = |i: usize| listed["directories"][i]["stems"][0]["formats"].clone();
    assert_eq!((formats(0), formats(1)), (json!(["posthog"]), json!(["ndjson"])), "{listed}");
    // Before anything is delivered it is seen that a key is missing.
    tool("drain", &place.spool(), &["--to", &collector.url]).check(2, &["hog-", "api_key is missing"]);
    assert_eq!(collector.events().len(), 0);
    let file = place.0.join("config");
    fs::write(&file, r#"{"api_key": "NEWKEY", "batch": {"max_events": 3}}"#).unwrap();
    let config = format!("@{}", file.display());
    let said = tool("drain", &place.spool(), &["--to", &collector.url, "--config", &config]);
    said.check(0, &["delivered 20, rejected 0, invalid 0, expired 0, corrupt 0, left 0\n"]);
    let events = collector.events();
    once(&events, 0..20);
    for event in &events {
        assert_eq!(event.get("uuid").is_some(), event["n"].as_u64().unwrap() >= 10, "{event}");
    }
    assert!(!said.err.contains("NEWKEY"), "{}", said.err);
}

#[test]
fn files_of_two_formats_in_one_directory_want_a_word() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let one = place.orphan(0..3, json!({"name": "a"}));
    let other = place.orphan(3..6, json!({"name": "b", "format": "json"}));
    names(&other).iter().for_each(|name| fs::rename(other.join(name), one.join(name)).unwrap());
    tool("drain", &one, &["--to", &collector.url]).check(2, &["json and ndjson", "--format"]);
    tool("drain", &one, &["--to", &collector.url, "--format", "json"]).check(0, &["delivered 6,"]);
    once(&collector.events(), 0..6);
}

#[test]
fn damage_costs_only_what_is_damaged_and_is_told() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let leaf = place.orphan(0..1000, json!({}));
    let files = segments(&leaf);
    // A body, a commit word, and a header.
    flip(&files[0], 256 + 60);
    flip(&files[1], 256 + 7);
    let mut bytes = fs::read(&files[2]).unwrap();
    let lost = tool("ls", &leaf, &["--json"]).json()["total"]["events"].as_u64().unwrap();
    assert_eq!(lost, 998);
    bytes[..256].fill(0x5a);
    fs::write(&files[2], &bytes).unwrap();
    fs::write(leaf.join("1-2-3-00000009.seg.bad"), "rubbish").unwrap();
    let readable = tool("ls", &leaf, &["--json"]).json()["total"]["events"].as_u64().unwrap();
    assert!(readable < 998);
    let said = tool("drain", &leaf, &["--to", &collector.url]);
    said.check(
        1,
        &[&format!("delivered {readable}, "), "corrupt 3, left 0\n", "3 events could not be delivered"],
    );
    assert_eq!(collector.events().len() as u64, readable);
    let bad = files[2].file_name().unwrap().to_str().unwrap().to_string() + ".bad";
    assert_eq!(names(&leaf), ["1-2-3-00000009.seg.bad".to_string(), bad]);
    tool("drain", &leaf, &["--to", &collector.url]).check(0, &["delivered 0"]);
}

#[test]
fn what_only_a_later_version_can_read_is_left_and_said() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let leaf = place.orphan(0..500, json!({}));
    let file = segments(&leaf)[0].clone();
    let mut bytes = fs::read(&file).unwrap();
    for copy in [0, 88] {
        bytes[copy + 8..copy + 12].copy_from_slice(&7u32.to_ne_bytes());
    }
    fs::write(&file, &bytes).unwrap();
    tool("drain", &leaf, &["--to", &collector.url]).check(1, &["of version 7", "left 0"]);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert!(!collector.events().is_empty());
}

#[test]
fn no_credential_is_ever_said() {
    let (place, refusing) = (Place::new(), Collector::start(&["401"]));
    let leaf = place.orphan(0..3, json!({}));
    let url = refusing.url.replace("http://", "http://user:SECRET@");
    for (to, config) in [
        (url.as_str(), json!({"headers": {"X-Key": "SECRET"}})),
        ("http://user:SECRET@127.0.0.1:1/", json!({})),
        (refusing.url.as_str(), json!({"bearer": "SECRET"})),
    ] {
        let args = ["--to", to, "--config", &config.to_string(), "--timeout", "1"];
        let said = tool("drain", &leaf, &args);
        said.check(1, &["left 3"]);
        assert!(!said.out.contains("SECRET") && !said.err.contains("SECRET"), "{}", said.err);
    }
}

#[test]
fn the_environment_stands_behind_the_arguments() {
    let (place, collector) = (Place::new(), Collector::start(&[]));
    let leaf = place.orphan(0..3, json!({}));
    let mut drain = command("drain", &leaf, &[]);
    let spool = place.0.join("never made");
    drain.env("TELEMETRY_ENDPOINT", &collector.url).env("TELEMETRY_SPOOL_DIR", &spool);
    ended(drain.output().unwrap()).check(0, &["delivered 3,"]);
    assert!(!spool.exists(), "a drain has no spool of its own");
}
