//! Where no thread can be made, and a fork in the middle of `enqueue`.
use crate::collector::{Collector, Latch, Reply};
use crate::host::{Dir, Host, LONG, alone, senders, until};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::Status;

/// Whether this process may make threads. `false`: the system does not keep such a limit.
pub fn allow_threads(yes: bool) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on valid places; nobody's uid 65534 has no privileges that lift the limit.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setresuid(65534, 65534, 65534), 0);
        }
        libc::getrlimit(libc::RLIMIT_NPROC, &mut limit);
        limit.rlim_cur = if yes { limit.rlim_max } else { 0 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &limit), 0);
    }
    thread::Builder::new().spawn(|| {}).map(|t| t.join().unwrap()).is_ok() == yes
}

#[test]
fn flush_delivers_where_no_thread_can_be_made() {
    if !alone("threads::flush_delivers_where_no_thread_can_be_made") {
        return;
    }
    let dir = Dir::new();
    let path = dir.0.join("events.ndjson");
    // Whoever we become must be able to write there.
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let host = Host::open(&format!("file:{}", path.display()), json!({"batch": {"max_age_ms": 5}}));
    if !allow_threads(false) {
        eprintln!("this system does not limit threads: nothing to see here");
        return;
    }
    host.fill(0..1500);
    host.flush_all();
    let s = host.stats();
    assert_eq!((s.sender_starts, s.delivered, s.queue_events, senders()), (0, 1500, 0, 0));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1500);
    // It is tried again later, without anybody's asking.
    assert!(allow_threads(true));
    let mut n = 1500;
    until("a sender", || {
        n += 1;
        host.number(n);
        host.stats().sender_starts == 1
    });
    until("the rest", || host.stats().queue_events == 0);
    assert_eq!(host.shutdown(LONG), Status::Ok);
}

#[test]
fn an_event_that_comes_while_a_caller_delivers_is_not_forgotten() {
    if !alone("threads::an_event_that_comes_while_a_caller_delivers_is_not_forgotten") {
        return;
    }
    let latch = Arc::new(Latch::default());
    let held = Arc::clone(&latch);
    let collector = Collector::with_one_thread(move |seen| match seen.number {
        0 => Reply::When(Arc::clone(&held), 200),
        _ => Reply::Status(200),
    });
    let host = Host::open(collector.url(), json!({"batch": {"max_age_ms": 10}}));
    let go = Latch::default();
    thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            go.wait();
            host.flush(LONG)
        });
        if !allow_threads(false) {
            eprintln!("this system does not limit threads: nothing to see here");
            go.open();
            latch.open();
            return;
        }
        host.number(0);
        go.open();
        // The flush has found that there is no sender, and delivers itself.
        until("a caller that delivers", || collector_is_busy(&host));
        assert!(allow_threads(true));
        collector.wait(1);
        // From now on a sender can be made, but the queue is in somebody else's hands.
        let mut n = 0;
        until("a start", || {
            n += 1;
            host.number(n);
            host.stats().sender_starts > 0
        });
        // It names itself a moment after its start, and steps back in a second: perhaps before we have looked.
        let (start, mut seen) = (Instant::now(), false);
        until("the sender has stepped back", || {
            seen |= senders() > 0;
            seen && senders() == 0 || start.elapsed() > Duration::from_secs(10)
        });
        latch.open();
        assert_eq!(flusher.join().unwrap(), Status::Ok);
        until("all delivered", || host.stats().delivered == n + 1);
        // And what comes later finds somebody as well.
        host.number(n + 1);
        until("the last delivered", || host.stats().delivered == n + 2);
    });
}

/// A request is under way although there is no sender.
fn collector_is_busy(host: &Host) -> bool {
    host.stats().batches == 1 && senders() == 0
}

/// The thread that is to be interrupted.
static VICTIM: AtomicI32 = AtomicI32::new(0);
static IN_CHILD: AtomicBool = AtomicBool::new(false);
static FORKS: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicI32 = AtomicI32::new(0);

extern "C" fn fork_here(_: libc::c_int) {
    unsafe extern "C" {
        fn _Fork() -> libc::pid_t;
    }
    // SAFETY: all of these are async-signal-safe.
    unsafe {
        let victim = VICTIM.load(Ordering::SeqCst);
        if libc::syscall(libc::SYS_gettid) != i64::from(victim) {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), victim, libc::SIGALRM);
            return;
        }
        let child = _Fork();
        if child == 0 {
            IN_CHILD.store(true, Ordering::SeqCst);
            // A child that hangs is a failure too.
            libc::signal(libc::SIGALRM, libc::SIG_DFL);
            libc::alarm(600);
            return;
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        FORKS.fetch_add(1, Ordering::SeqCst);
        if status != 0 {
            FAILED.store(status, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_fork_in_a_signal_handler_anywhere_in_enqueue() {
    if !alone("threads::a_fork_in_a_signal_handler_anywhere_in_enqueue") {
        return;
    }
    // A collector of ours would keep millions of events, which each fork would have to copy.
    let host = Host::open("file:/dev/null", json!({}));
    // SAFETY: the handler is async-signal-safe, and a thread may ask who it is.
    unsafe {
        VICTIM.store(libc::syscall(libc::SYS_gettid) as i32, Ordering::SeqCst);
        libc::signal(libc::SIGALRM, fork_here as *const () as libc::sighandler_t);
    }
    let (mut taken, mut armed) = (0u64, 0);
    while armed < 1500 && FAILED.load(Ordering::SeqCst) == 0 {
        if FORKS.load(Ordering::SeqCst) == armed {
            // One shot, a little later each time.
            armed += 1;
            let soon = libc::timeval { tv_sec: 0, tv_usec: 1 + i64::from(armed % 40) };
            let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
            let timer = libc::itimerval { it_interval: none, it_value: soon };
            // SAFETY: the timer is a valid place.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
        }
        let status = host.enqueue(b"{\"n\":1}");
        taken += u64::from(status == Status::Ok);
        if IN_CHILD.load(Ordering::SeqCst) {
            // The call that was cut short has been finished in the child's own world.
            let ok = matches!(status, Status::Ok | Status::Full) && host.stats().accepted <= 1;
            // SAFETY: a child of `_Fork` may only leave.
            unsafe { libc::_exit(i32::from(!ok)) };
        }
    }
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_IGN) };
    let (failed, forks) = (FAILED.load(Ordering::SeqCst), FORKS.load(Ordering::SeqCst));
    assert_eq!(failed, 0, "a child's wait status after {forks} forks");
    assert!(taken > 0);
    host.flush_all();
    assert_eq!(host.stats().delivered, taken, "the parent lost nothing to it");
}
