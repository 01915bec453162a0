//! A producer that stops in the middle of `enqueue`, in the grip of a page that cannot be read yet.
use crate::collector::Collector;
use crate::host::{Host, alone, check, until};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::client::handle::{Fast, Status};

const PAGE: usize = 4096;
/// How many are held.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);
static RELEASED: AtomicBool = AtomicBool::new(false);

extern "C" fn hold(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
    while !RELEASED.load(Ordering::SeqCst) {
        // SAFETY: both are async-signal-safe.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: the kernel says where the fault was, in a page of ours; the copy is tried again after the handler.
    unsafe {
        let page = (*info).si_addr() as usize & !(PAGE - 1);
        libc::mprotect(page as *mut libc::c_void, PAGE, libc::PROT_READ);
    }
}

/// The text at the start of a page that holds whoever reads it.
fn in_the_grip(text: &str) -> &'static [u8] {
    // SAFETY: a fresh page, written before it is closed, never unmapped; the handler is async-signal-safe.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(text.as_ptr(), page.cast(), text.len());
        libc::mprotect(page, PAGE, libc::PROT_NONE);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = hold as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        std::slice::from_raw_parts(page.cast(), text.len())
    }
}

/// Lets them go, also when a test fails.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        RELEASED.store(true, Ordering::SeqCst);
    }
}

/// Events 0 to `holes` are held in the middle of their `enqueue`; they come to their end after `meanwhile`.
fn with_holes(holes: usize, host: &Host, meanwhile: impl FnOnce()) {
    thread::scope(|scope| {
        let mut late = Vec::new();
        for n in 0..holes {
            let event = in_the_grip(&format!("{{\"n\":{n}}}"));
            late.push(scope.spawn(move || host.enqueue(event)));
            until("in the grip", || CAUGHT.load(Ordering::SeqCst) == n + 1);
        }
        let release = Release;
        meanwhile();
        drop(release);
        for late in late {
            assert_eq!(late.join().unwrap(), Status::Ok);
        }
    });
}

fn with_a_hole(host: &Host, meanwhile: impl FnOnce()) {
    with_holes(1, host, meanwhile);
}

fn sorted(collector: &Collector) -> Vec<u64> {
    let mut numbers = collector.numbers();
    numbers.sort_unstable();
    numbers
}

fn small() -> serde_json::Value {
    json!({"queue_bytes": 262_144, "segment_bytes": 65_536})
}

#[test]
fn a_hole_holds_the_queue_for_a_moment_only() {
    if !alone("holes::a_hole_holds_the_queue_for_a_moment_only") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), small());
    with_a_hole(&host, || {
        host.fill(1..100);
        until("the others", || {
            host.flush(Duration::ZERO) != Status::Internal && host.stats().delivered == 99
        });
    });
    // The late one was told to go again.
    host.flush_all();
    assert_eq!(sorted(&collector), (0..100).collect::<Vec<_>>());
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.delivered, s.queue_events), (100, 100, 0));
}

#[test]
fn a_short_hole_changes_nothing() {
    if !alone("holes::a_short_hole_changes_nothing") {
        return;
    }
    // One that lasts for a second is stepped over, and a slow machine may make it last so long: then once more.
    until("a short hole", || {
        CAUGHT.store(0, Ordering::SeqCst);
        RELEASED.store(false, Ordering::SeqCst);
        let collector = Collector::kind();
        let host = Host::open(collector.url(), small());
        let start = Instant::now();
        with_a_hole(&host, || host.fill(1..100));
        let short = start.elapsed() < Duration::from_secs(1);
        host.flush_all();
        assert_eq!(sorted(&collector), (0..100).collect::<Vec<_>>());
        assert!(!short || collector.numbers().is_sorted(), "in their order");
        short
    });
}

#[test]
fn an_event_that_comes_after_its_segment_was_retired_is_not_lost() {
    if !alone("holes::an_event_that_comes_after_its_segment_was_retired_is_not_lost") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), small());
    with_a_hole(&host, || {
        // Around the ring more than once.
        for round in 0..20 {
            host.fill(1 + round * 1000..1 + (round + 1) * 1000);
            until("room", || {
                let _ = host.flush(Duration::ZERO);
                host.stats().queue_events == 0
            });
        }
    });
    until("the late one", || {
        let _ = host.flush(Duration::ZERO);
        host.stats().delivered == 20_001
    });
    assert_eq!(sorted(&collector), (0..20_001).collect::<Vec<_>>());
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.queue_events, s.queue_bytes), (20_001, 0, 0));
}

#[test]
fn after_a_hole_enqueue_is_as_cheap_as_before() {
    if !alone("holes::after_a_hole_enqueue_is_as_cheap_as_before") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), small());
    with_a_hole(&host, || {
        host.fill(1..10);
        until("the others", || {
            let _ = host.flush(Duration::ZERO);
            host.stats().delivered == 9
        });
    });
    for round in 0..20 {
        host.fill(10 + round * 1000..10 + (round + 1) * 1000);
        host.flush_all();
    }
    // The hole's segment was given up long ago: no event has to be looked after one by one.
    until("an event that needs no attention", || {
        let cheap = matches!(host.enqueue_fast(b"{\"n\":1}"), Fast::Taken);
        thread::yield_now();
        cheap
    });
}

#[test]
fn several_holes_at_once() {
    if !alone("holes::several_holes_at_once") {
        return;
    }
    let collector = Collector::kind();
    let host = Host::open(collector.url(), small());
    with_holes(3, &host, || {
        host.fill(3..100);
        // Each may hold the queue for a second.
        until("the others", || {
            let _ = host.flush(Duration::ZERO);
            host.stats().delivered == 97
        });
    });
    host.flush_all();
    assert_eq!(sorted(&collector), (0..100).collect::<Vec<_>>());
    let s = host.stats();
    check(&s);
    assert_eq!((s.accepted, s.delivered, s.queue_events), (100, 100, 0));
}
