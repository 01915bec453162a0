//! Processes that share a destination see each other: really forked, really killed, and boards that are full, hostile or gone.

// clippy.toml allows these inside of `#[test]` functions; the helpers here are as much part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use telemetry::board::directory::{Kind, Runtime};
use telemetry::board::family::{COUNTER_NAMES, COUNTERS, Family, Figures, Member, ROWS};
use telemetry::board::scoreboard::Board;
use telemetry::board::seat;
use telemetry::client::handle::{Client, Status};
use telemetry::client::open::open;
use telemetry::client::worker;
use telemetry::platform::identity::Identity;

const LONG: Duration = Duration::from_secs(120);
/// A child that hangs ends after so long. One that waits for its order may have to wait for long on a busy machine.
const ALARM_S: u32 = 1800;

/// One test at a time: a fork has each client of the process deliver what it has.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This test program's runtime directory, which every client finds in the environment.
fn runtime_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = PathBuf::from(format!("/tmp/libtelemetry-{}-family", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        let runtime = dir.join("runtime");
        // SAFETY: every test begins here, and looks at the environment afterwards.
        unsafe { std::env::set_var("TELEMETRY_RUNTIME_DIR", &runtime) };
        runtime
    })
}

/// A client whose family is that test's own; its events go to a file. Batches wait for a flush.
fn client(test: &str) -> Arc<Client> {
    client_with(test, json!({"batch": {"max_age_ms": 3_600_000}}))
}

fn client_with(test: &str, mut keys: Value) -> Arc<Client> {
    keys["endpoint"] = format!("file:{}", runtime_dir().with_file_name(test).display()).into();
    keys["name"] = test.into();
    open(&keys.to_string()).unwrap()
}

fn number(client: &Client, events: u64) {
    for n in 0..events {
        assert_eq!(client.enqueue(format!("{{\"n\":{n}}}").as_bytes()), Status::Ok);
    }
}

fn family(client: &Client) -> Vec<Value> {
    serde_json::from_str(&client.family()).unwrap()
}

/// Its rows, once they are so. Whoever shows himself waits only for a moment for a thread of his that is about to: on a
/// busy machine a row, or the latest figures, may come a little later.
#[track_caller]
fn shown(client: &Client, so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut rows = family(client);
    let start = Instant::now();
    while !so(&rows) {
        assert!(start.elapsed() < LONG, "never as wanted: {rows:#?}");
        std::thread::sleep(Duration::from_millis(1));
        rows = family(client);
    }
    rows
}

/// Whether somebody counted so many of that.
fn counted(rows: &[Value], pid: u32, name: &str, count: u64) -> bool {
    rows.iter().any(|row| row["pid"] == pid && row[name] == count)
}

fn row(client: &Client, pid: u32) -> Option<Value> {
    family(client).into_iter().find(|row| row["pid"] == pid)
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The family's file.
fn file_of(test: &str) -> Option<PathBuf> {
    let found = fs::read_dir(runtime_dir()).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    found.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{test}-")) && name.ends_with(".family")
    })
}

/// A forked child that has done its work and waits; killed at the end of its test.
struct Child {
    pid: u32,
    order: PipeWriter,
}

impl Child {
    /// Fork, have the child do `work`, and wait until it has. A child that should `go_on` returns from here by its end.
    fn start(work: impl FnOnce()) -> Child {
        // SAFETY: the child does what a server's worker does, and ends without returning.
        Child::made_by(|| unsafe { libc::fork() }, work)
    }

    fn made_by(fork: impl FnOnce() -> i32, work: impl FnOnce()) -> Child {
        let (mut said, mut say) = std::io::pipe().unwrap();
        let (mut listen, alive) = std::io::pipe().unwrap();
        let pid = fork();
        if pid == 0 {
            drop((said, alive));
            // Should it hang, it ends, and its parent reads an end of file.
            // SAFETY: this process has no use for the signal.
            unsafe { libc::alarm(ALARM_S) };
            let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
            let _ = say.write_all(&[u8::from(fine)]);
            let mut order = [0];
            // An order to exit, or the parent's end.
            let ordered = listen.read(&mut order).is_ok_and(|n| n > 0);
            // SAFETY: ends the child, with its exit handlers or without.
            unsafe { if ordered { libc::exit(0) } else { libc::_exit(0) } }
        }
        assert!(pid > 0, "no fork");
        drop((say, listen));
        let mut fine = [0];
        said.read_exact(&mut fine).expect("the child died");
        assert_eq!(fine, [1], "the child's work failed");
        Child { pid: pid as u32, order: alive }
    }

    fn kill(mut self) -> u32 {
        self.end(Some(libc::SIGKILL))
    }

    /// Have it exit in order.
    fn exit(mut self) -> u32 {
        self.order.write_all(&[1]).unwrap();
        self.end(None)
    }

    fn end(&mut self, signal: Option<i32>) -> u32 {
        let mut status = 0;
        // SAFETY: signals and waits for a child of this process.
        unsafe {
            if let Some(signal) = signal {
                libc::kill(self.pid as i32, signal);
            }
            libc::waitpid(self.pid as i32, &mut status, 0);
        }
        std::mem::replace(&mut self.pid, 0)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.end(Some(libc::SIGKILL));
        }
    }
}

#[test]
fn every_process_shows_what_it_counted_and_keeps_showing_it_when_it_was_killed() {
    let _turn = alone();
    let client = client("seen");
    assert!(file_of("seen").is_none(), "a client that was only opened leaves no trace");
    let children: Vec<Child> = (1..=6)
        .map(|n| {
            Child::start(|| {
                worker::set(n as u16);
                number(&client, n);
                assert_eq!(client.flush(LONG), Status::Ok);
            })
        })
        .collect();
    number(&client, 7);
    let rows = shown(&client, |rows| {
        let all = children.iter().zip(1..).all(|(child, n)| counted(rows, child.pid, "delivered", n));
        all && counted(rows, std::process::id(), "accepted", 7)
    });
    assert_eq!(rows.len(), 7, "{rows:#?}");
    assert_eq!((&rows[0]["pid"], &rows[0]["self"]), (&json!(std::process::id()), &json!(true)));
    assert_eq!((&rows[0]["accepted"], &rows[0]["delivered"]), (&json!(7), &json!(0)));
    for (child, n) in children.iter().zip(1..) {
        let row = row(&client, child.pid).unwrap();
        let same = |key: &str, value: Value| assert_eq!(row[key], value, "{key} of {row:#}");
        same("parent", std::process::id().into());
        same("worker", n.into());
        same("accepted", n.into());
        same("delivered", n.into());
        same("queue_events", 0.into());
        same("alive", true.into());
        same("self", false.into());
        same("ended", false.into());
        assert!(row["generation"].as_str().unwrap().len() == 16 && !row["name"].as_str().unwrap().is_empty());
        assert!(row["updated_age_ms"].as_u64().unwrap() < LONG.as_millis() as u64, "{row:#}");
        assert!(COUNTER_NAMES.iter().all(|name| row[*name].is_u64()));
    }
    let pids: Vec<u32> = children.iter().map(|child| child.pid).collect();
    let mut children = children.into_iter();
    children.next().unwrap().kill();
    children.next().unwrap().exit();
    let killed = row(&client, pids[0]).unwrap();
    assert_eq!(
        [&killed["alive"], &killed["ended"], &killed["accepted"]],
        [&json!(false), &json!(false), &json!(1)]
    );
    let left = row(&client, pids[1]).unwrap();
    assert_eq!([&left["alive"], &left["ended"], &left["accepted"]], [&json!(false), &json!(true), &json!(2)]);
    assert!(pids[2..].iter().all(|pid| row(&client, *pid).unwrap()["alive"] == true));
    client.clone().free();
}

#[test]
fn a_sender_shows_its_process_by_itself() {
    let _turn = alone();
    let client = client_with("tick", json!({"batch": {"max_age_ms": 20}}));
    let child = Child::start(|| number(&client, 3));
    let mut seen = Value::Null;
    until("the child's events are delivered", || {
        seen = row(&client, child.pid).unwrap_or_default();
        seen["delivered"] == 3
    });
    assert_eq!(seen["queue_events"], 0, "{seen:#}");
    client.clone().free();
}

#[test]
fn a_child_never_writes_its_parents_row_and_nor_does_its_own_child() {
    let _turn = alone();
    let client = client("depth");
    number(&client, 1);
    shown(&client, |rows| counted(rows, std::process::id(), "accepted", 1));
    let before = row(&client, std::process::id()).unwrap();
    let child = Child::start(|| {
        assert_eq!(family(&client).len(), 2, "the parent and itself");
        number(&client, 2);
        let grandchild = Child::start(|| {
            number(&client, 3);
            let rows = shown(&client, |rows| counted(rows, std::process::id(), "accepted", 3));
            let counts: Vec<_> = rows.iter().map(|row| row["accepted"].as_u64().unwrap()).collect();
            assert_eq!((rows.len(), counts[0]), (3, 3), "{rows:#?}");
        });
        assert_eq!(row(&client, grandchild.pid).unwrap()["parent"], std::process::id());
        shown(&client, |rows| counted(rows, std::process::id(), "accepted", 2));
        let own = row(&client, std::process::id()).unwrap();
        assert_eq!((&own["accepted"], &own["self"]), (&json!(2), &json!(true)));
        grandchild.kill();
        assert_eq!(client.shutdown(LONG), Status::Ok);
    });
    let rows = family(&client);
    let by_pid: BTreeMap<u64, &Value> = rows.iter().map(|row| (row["pid"].as_u64().unwrap(), row)).collect();
    assert_eq!((rows.len(), by_pid.len()), (3, 3), "a row each: {rows:#?}");
    let parent = by_pid[&u64::from(std::process::id())];
    assert_eq!((&parent["accepted"], &parent["generation"]), (&json!(1), &before["generation"]));
    let theirs = by_pid[&u64::from(child.pid)];
    assert_eq!(
        [&theirs["ended"], &theirs["alive"], &theirs["delivered"]],
        [&json!(true), &json!(true), &json!(2)]
    );
    let grand = rows.iter().find(|row| row["parent"] == child.pid).unwrap();
    assert_eq!([&grand["alive"], &grand["queue_events"]], [&json!(false), &json!(3)], "what it had is lost");
    client.clone().free();
}

#[test]
fn a_child_of_a_raw_clone_shows_itself_too() {
    let _turn = alone();
    let client = client("clone");
    number(&client, 1);
    let raw = || {
        // SAFETY: a fork without libc's hooks; the child has a copy of this stack.
        unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 }
    };
    let child = Child::made_by(raw, || {
        number(&client, 2);
        assert_eq!(client.flush(LONG), Status::Ok);
    });
    let rows = shown(&client, |rows| {
        counted(rows, std::process::id(), "accepted", 1) && counted(rows, child.pid, "delivered", 2)
    });
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!(rows[0]["accepted"], 1);
    client.clone().free();
}

#[test]
fn each_destination_has_a_family_and_each_client_a_row() {
    let _turn = alone();
    let (one, two, other) = (client("twin"), client("twin"), client("other"));
    number(&one, 1);
    number(&two, 2);
    number(&other, 3);
    let counts = |client: &Client| -> Vec<(bool, u64)> {
        let rows = family(client);
        rows.iter().map(|row| (row["self"] == true, row["accepted"].as_u64().unwrap())).collect()
    };
    let own =
        |n: u64| move |rows: &[Value]| rows.iter().any(|row| row["self"] == true && row["accepted"] == n);
    shown(&two, own(2));
    shown(&one, own(1));
    shown(&other, own(3));
    assert_eq!(counts(&one), [(true, 1), (false, 2)]);
    assert_eq!(counts(&two), [(true, 2), (false, 1)]);
    assert_eq!(counts(&other), [(true, 3)]);
    [one, two, other].into_iter().for_each(Client::free);
}

#[test]
fn the_last_one_takes_the_board_away_unless_somebody_was_killed() {
    let _turn = alone();
    let client = client("last");
    let child = Child::start(|| {
        number(&client, 1);
        assert_eq!(client.flush(LONG), Status::Ok);
    });
    number(&client, 1);
    assert_eq!(client.flush(LONG), Status::Ok);
    shown(&client, |rows| rows.len() == 2);
    child.exit();
    assert!(file_of("last").is_some(), "the parent is there");
    let killed = Child::start(|| number(&client, family(&client).len() as u64));
    killed.kill();
    assert_eq!(client.shutdown(LONG), Status::Ok);
    assert!(file_of("last").is_some(), "an operator may want to know");
    assert_eq!(family(&client).len(), 3, "a client that is shut still tells");
    let next = client_with("last2", json!({}));
    number(&next, 1);
    assert_eq!(next.flush(LONG), Status::Ok);
    until("it shows itself", || file_of("last2").is_some());
    next.clone().free();
    assert!(file_of("last2").is_none());
    client.free();
}

#[test]
fn whoever_is_removed_or_replaced_is_found_again() {
    let _turn = alone();
    let client = client("removed");
    number(&client, 1);
    shown(&client, |rows| rows.len() == 1);
    let path = file_of("removed").unwrap();
    let child = Child::start(|| {
        number(&client, 2);
        shown(&client, |rows| rows.len() == 2);
    });
    fs::remove_file(&path).unwrap();
    // A new board.
    shown(&client, |rows| rows.len() == 1);
    assert_eq!(file_of("removed").unwrap(), path);
    drop(child);
    client.clone().free();
}

#[test]
fn a_board_that_is_none_is_left_alone_and_hurts_nobody() {
    let _turn = alone();
    let probe = client("hostile");
    number(&probe, 1);
    shown(&probe, |rows| rows.len() == 1);
    let path = file_of("hostile").unwrap();
    let good = fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("short", good[..100].to_vec()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("magic", with(0, b"X")),
        ("version", with(8, &0u32.to_ne_bytes())),
        ("header", with(12, &8u32.to_ne_bytes())),
        ("unaligned", with(12, &513u32.to_ne_bytes())),
        ("row", with(16, &8u32.to_ne_bytes())),
        ("rows", with(20, &u32::MAX.to_ne_bytes())),
        ("no rows", with(20, &0u32.to_ne_bytes())),
    ];
    let refused = |what: &str| {
        let client = client("hostile");
        number(&client, 1);
        assert_eq!(client.flush(LONG), Status::Ok, "{what}");
        assert_eq!(client.family(), "[]", "{what}");
        assert_eq!(client.shutdown(LONG), Status::Ok, "{what}");
        client.free();
    };
    for (what, bytes) in files {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        refused(what);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what}: not touched");
    }
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
    refused("writable for others");
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    refused("a symlink");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused("a pipe");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a directory");
    fs::remove_dir(&path).unwrap();
    // Garbage where rows are is garbage in the answer, and no more: it is of no living owner, or shown as it is.
    let mut garbage = good.clone();
    garbage[512..].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 151 % 251) as u8);
    fs::write(&path, &garbage).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let client = client("hostile");
    number(&client, 1);
    assert_eq!(client.flush(LONG), Status::Ok);
    serde_json::from_str::<Vec<Value>>(&client.family()).unwrap();
    client.free();
    fs::remove_file(&path).unwrap();
    probe.free();
}

#[test]
fn many_that_come_at_once_meet_on_one_board() {
    let _turn = alone();
    for round in 0..20 {
        let client = client(&format!("meet{round}"));
        let start = Instant::now() + Duration::from_millis(5);
        let (mut done, say) = std::io::pipe().unwrap();
        let children: Vec<i32> = (0..4)
            .map(|_| {
                // SAFETY: the child ends without returning.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    while Instant::now() < start {
                        std::hint::spin_loop();
                    }
                    client.family();
                    let _ = (&say).write_all(&[1]);
                    loop {
                        // SAFETY: waits to be killed, but not for ever.
                        unsafe {
                            libc::alarm(ALARM_S);
                            libc::pause();
                        }
                    }
                }
                pid
            })
            .collect();
        // One that died says nothing, and leaves an end.
        drop(say);
        done.read_exact(&mut [0; 4]).unwrap();
        let seen = family(&client).len();
        for pid in children {
            // SAFETY: a child of this process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &mut 0, 0) };
        }
        client.clone().free();
        assert_eq!(seen, 5, "round {round}");
    }
}

// ---- the board itself ----

fn board(test: &str) -> Family {
    Family::join(&Runtime::open(runtime_dir()).unwrap(), test).unwrap()
}

fn member(who: Identity) -> Member {
    Member { who, parent: 1, name: "test".into(), generation: 1 }
}

/// Who a process was that has ended.
fn dead() -> Identity {
    let mut child = Command::new("true").spawn().unwrap();
    let id = child.id();
    child.wait().unwrap();
    Identity { pid: id, start: 1, image: 0, ..Identity::mine() }
}

fn figures(accepted: u64, ended: bool) -> Figures {
    let mut counters = [0; COUNTERS];
    counters[0] = accepted;
    Figures { worker: 0, ended, counters }
}

#[test]
fn a_full_board_turns_away_and_counts_until_somebody_ends() {
    let _turn = alone();
    let (family, me) = (board("full"), Identity::mine());
    let rows: Vec<_> = (0..ROWS).map(|_| family.claim(&member(me)).unwrap()).collect();
    assert!(family.claim(&member(me)).is_none());
    assert_eq!(family.missed(), 1);
    let views = family.views(&me);
    assert!(views.len() == ROWS && views.iter().all(|view| view.alive));
    let (index, token) = rows[77];
    assert!(family.write(index, token, &figures(5, true), || true));
    let (taken, newer) = family.claim(&member(me)).unwrap();
    assert_eq!(taken, index);
    assert!(!family.write(index, token, &figures(6, false), || true), "it is somebody else's now");
    assert!(!family.write(index, newer, &figures(7, false), || false), "a child came back into the call");
    assert_eq!(family.views(&me)[index].counters[0], 0);
    fs::remove_file(family.path()).unwrap();
}

#[test]
fn a_board_that_was_just_made_is_not_taken_for_an_abandoned_one() {
    let _turn = alone();
    let (first, me) = (board("fresh"), Identity::mine());
    let second = board("later");
    assert!(first.path().exists(), "whoever makes another looks at it");
    // Nor one whose owner has not said yet who he is.
    let (index, token) = first.claim(&member(me)).unwrap();
    assert!(first.write(index, token, &figures(0, true), || true));
    let (index, token) = first.claim(&member(me)).unwrap();
    first.row(index).unwrap().of.store(token ^ 2, Ordering::Relaxed);
    first.leave(&me);
    assert!(first.path().exists());
    first.row(index).unwrap().of.store(token, Ordering::Relaxed);
    assert!(first.write(index, token, &figures(0, true), || true));
    first.leave(&me);
    assert!(!first.path().exists());
    fs::remove_file(second.path()).unwrap();
}

#[test]
fn the_row_of_the_longest_dead_goes_first_and_never_to_two() {
    let _turn = alone();
    let (family, me, gone) = (board("reclaim"), Identity::mine(), dead());
    let rows: Vec<_> = (0..ROWS).map(|_| family.claim(&member(gone)).unwrap()).collect();
    for (index, token) in rows.iter().filter(|(index, _)| *index != 9) {
        assert!(family.write(*index, *token, &figures(1, false), || true));
    }
    let views = family.views(&me);
    assert!(views.len() == ROWS && views.iter().all(|view| !view.alive && view.lost() == 0));
    assert_eq!(family.claim(&member(me)).unwrap().0, 9, "written the longest ago");
    let claimed: Vec<usize> = std::thread::scope(|scope| {
        let claim = || (0..12).map(|_| family.claim(&member(me)).unwrap().0).collect::<Vec<_>>();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let apart: std::collections::BTreeSet<_> = claimed.iter().collect();
    assert_eq!((apart.len(), family.missed()), (96, 0));
    assert_eq!(family.views(&me).iter().filter(|view| view.alive).count(), 97);
    fs::remove_file(family.path()).unwrap();
}

#[test]
fn a_claim_that_its_process_did_not_survive_is_found_out() {
    let _turn = alone();
    let (family, me, gone) = (board("half"), Identity::mine(), dead());
    for _ in 1..ROWS {
        family.claim(&member(me)).unwrap();
    }
    let (index, token) = family.claim(&member(gone)).unwrap();
    // Another claim by the dead one, of which nothing was written but the token.
    family.row(index).unwrap().owner.store(token ^ 2, Ordering::Relaxed);
    assert_eq!(family.views(&me).len(), ROWS - 1, "nobody's words are shown for his");
    assert_eq!(family.claim(&member(me)).unwrap().0, index);
    // Of a namespace that cannot be looked into it stays.
    let (_, token) = (index, family.row(index).unwrap().owner.load(Ordering::Relaxed));
    family.row(index).unwrap().owner.store(token ^ 2 ^ 1 << 32 ^ 1 << 60, Ordering::Relaxed);
    assert!(family.claim(&member(me)).is_none());
    // Dead in the middle of a write: what is there is shown.
    let whole = family.views(&me).len();
    family.row(0).unwrap().seq.fetch_or(1, Ordering::Relaxed);
    assert_eq!(family.views(&me).len(), whole);
    fs::remove_file(family.path()).unwrap();
}

#[test]
fn a_board_is_found_and_read_from_outside() {
    let _turn = alone();
    let client = client("outside");
    number(&client, 4);
    shown(&client, |rows| counted(rows, std::process::id(), "accepted", 4));
    let found = Runtime::look(runtime_dir()).unwrap().discover().unwrap();
    let it = found.iter().find(|found| found.name.starts_with("outside-")).unwrap();
    assert_eq!(it.kind, Kind::Family);
    let views = Family::read(it).unwrap().views(&Identity::mine());
    assert_eq!((views.len(), views[0].counter("accepted"), views[0].alive), (1, 4, true));
    assert_eq!((views[0].counter("queue_events"), views[0].lost()), (4, 0), "alive: they wait");
    client.clone().free();
}

#[test]
fn a_fleets_link_is_its_supervisors_alone() {
    let _turn = alone();
    let runtime = Runtime::open(&runtime_dir().with_file_name("links")).unwrap();
    let board = Board::create("shop", 1).unwrap();
    let published = runtime.publish("shop", board.as_fd()).unwrap();
    let path = published.path().to_path_buf();
    let mut published = Some(published);
    Child::start(|| drop(published.take())).kill();
    assert!(fs::symlink_metadata(&path).is_ok(), "a child has dropped it");
    drop(published);
    assert!(fs::symlink_metadata(&path).is_err());
}

#[test]
fn a_fleets_worker_adds_up_in_its_slot_and_its_child_does_not() {
    let _turn = alone();
    let board: &'static Board = Box::leak(Box::new(Board::create("shop", 2).unwrap()));
    let client = client("slot");
    let slot = board.slot(1).unwrap();
    let sum = |i: usize| slot.clients[i].load(Ordering::Relaxed);
    for round in 1..=2 {
        // One after the other: two incarnations.
        let worker = Child::start(|| {
            slot.working.pid.store(std::process::id(), Ordering::Relaxed);
            seat::take(slot);
            number(&client, 3);
            assert_eq!(client.flush(LONG), Status::Ok);
            let own = std::process::id();
            shown(&client, |rows| counted(rows, own, "delivered", 3));
            assert_eq!((sum(0), sum(1)), (round * 5 - 2, round * 3), "accepted, delivered");
            let child = Child::start(|| {
                assert!(seat::current().is_none());
                number(&client, 9);
                client.family();
            });
            child.kill();
            number(&client, 2);
            shown(&client, |rows| counted(rows, own, "accepted", 5));
            client.family();
            assert_eq!((sum(0), sum(11)), (round * 5, 2), "accepted, and waiting");
        });
        worker.kill();
    }
    assert_eq!((sum(0), sum(1), sum(11)), (10, 6, 2));
    assert!(sum(18) > 1_600_000_000_000, "the latest, and no sum: {}", sum(18));
    assert!(sum(18) < 3_000_000_000_000);
    client.clone().free();
}

#[test]
fn the_counters_are_those_of_the_header_in_its_order() {
    let _turn = alone();
    let header = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/telemetry.h")).unwrap();
    let (before, _) = header.split_once("} telemetry_stats_t;").unwrap();
    let (_, members) = before.rsplit_once("typedef struct").unwrap();
    let names: Vec<&str> =
        members.lines().filter_map(|line| line.trim().strip_prefix("uint64_t ")?.strip_suffix(';')).collect();
    assert_eq!(names, COUNTER_NAMES);
    let gauges: Vec<&str> = seat::GAUGES.iter().map(|i| COUNTER_NAMES[*i]).collect();
    assert_eq!(gauges, ["queue_events", "queue_bytes", "circuit_open", "media_bytes"]);
}

#[test]
fn the_c_function_tells_the_length_and_writes_all_or_nothing() {
    let _turn = alone();
    use ::telemetry::ffi::{
        TELEMETRY_INVALID, TELEMETRY_OK, TELEMETRY_TOO_LARGE, telemetry_family_stats, telemetry_free,
        telemetry_open,
    };
    let dir = runtime_dir();
    let config = format!("{{\"endpoint\":\"file:{}\",\"name\":\"c\"}}\0", dir.with_file_name("c").display());
    let mut handle = std::ptr::null_mut();
    let mut text = [b'x' as std::ffi::c_char; 8192];
    let mut len = 0;
    // SAFETY: as telemetry.h says: terminated text, buffers as long as they are said to be, a handle that was opened.
    unsafe {
        assert_eq!(telemetry_open(config.as_ptr().cast(), &mut handle), TELEMETRY_OK);
        assert_eq!(telemetry_family_stats(handle, std::ptr::null_mut(), 0, &mut len), TELEMETRY_OK);
        assert!(len > 100 && len < text.len());
        let all = text.as_mut_ptr();
        let mut more = 0;
        assert_eq!(telemetry_family_stats(handle, all, 100, &mut more), TELEMETRY_TOO_LARGE);
        assert!(more > 100 && text.iter().all(|b| *b == b'x' as std::ffi::c_char));
        assert_eq!(telemetry_family_stats(handle, all, text.len(), &mut len), TELEMETRY_OK);
        assert_eq!((text[len], text[len + 1]), (0, b'x' as std::ffi::c_char));
        let bytes: Vec<u8> = text[..len].iter().map(|b| *b as u8).collect();
        let rows: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(rows[0]["self"], true);
        assert_eq!(telemetry_family_stats(handle, all, 100, std::ptr::null_mut()), TELEMETRY_INVALID);
        assert_eq!(telemetry_family_stats(handle, std::ptr::null_mut(), 9, &mut len), TELEMETRY_INVALID);
        assert_eq!(telemetry_family_stats(std::ptr::null_mut(), all, 9, &mut len), TELEMETRY_INVALID);
        telemetry_free(handle);
    }
    let nobody = open(&json!({"disabled": true}).to_string()).unwrap();
    assert_eq!(nobody.family(), "[]");
    nobody.free();
}
