//! `telemetry_enqueue` against what a Rust program would reach for: crossbeam's bounded channel of `Box<[u8]>`.
//!
//! Both have a live consumer on another core: a thread that receives and drops, and the library's sender with
//! default settings, which checks, formats and writes to /dev/null. Bursts of 256 B, interleaved, medians; the
//! library is the shipped one, opened with dlopen.
//!
//! What could mislead: with two cores the machine's other work sits on one of them, so quiet matters more here
//! than in the rows with one thread. Neither queue may become full: bursts are smaller than both, and both are
//! empty again before the next. Threads are pinned apart, see `pin_apart`.

use crossbeam_channel::{Sender, bounded};
use std::ffi::{CStr, CString, c_char, c_void};
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const SIZE: usize = 256;
const BURST: usize = 10_000;
const CAPACITY: usize = 16_384;
const WARM_UP: usize = 20;
/// Sent before each burst, so that the consumer is awake when it begins: waking a core may take longer than a burst.
const PRIME: usize = 1000;

const LIVE: &CStr = c"{\"endpoint\":\"file:/dev/null\",\"clock\":\"coarse\",\"idle_ms\":3600000}";
const PARKED: &CStr = c"{\"endpoint\":\"file:/dev/null\",\"clock\":\"coarse\",\"idle_ms\":3600000,\
    \"batch\":{\"max_events\":1000000,\"max_bytes\":67108864,\"max_age_ms\":3600000}}";

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> i32;
type Enqueue = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> i32;
type Stats = unsafe extern "C" fn(*mut c_void, *mut u64, usize) -> i32;
type Wait = unsafe extern "C" fn(*mut c_void, u32) -> i32;

/// The functions that are needed here.
struct Library {
    open: Open,
    enqueue: Enqueue,
    flush: Wait,
    shutdown: Wait,
    stats: Stats,
}

impl Library {
    fn load(path: &str) -> Library {
        let path = CString::new(path).expect("a path without NUL");
        // SAFETY: opens a library whose initialisers do nothing beyond the Rust runtime's.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{path:?} cannot be opened");
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!found.is_null(), "{name:?} is missing");
            found
        };
        // SAFETY: these are the types of the functions in telemetry.h.
        unsafe {
            Library {
                open: std::mem::transmute::<*mut c_void, Open>(symbol(c"telemetry_open")),
                enqueue: std::mem::transmute::<*mut c_void, Enqueue>(symbol(c"telemetry_enqueue")),
                flush: std::mem::transmute::<*mut c_void, Wait>(symbol(c"telemetry_flush")),
                stats: std::mem::transmute::<*mut c_void, Stats>(symbol(c"telemetry_stats")),
                shutdown: std::mem::transmute::<*mut c_void, Wait>(symbol(c"telemetry_shutdown")),
            }
        }
    }

    fn client(&self, config: &CStr) -> *mut c_void {
        let mut client = std::ptr::null_mut();
        // SAFETY: a NUL-terminated text and a place for the handle.
        assert_eq!(unsafe { (self.open)(config.as_ptr(), &mut client) }, 0, "telemetry_open");
        client
    }

    fn enqueue(&self, client: *mut c_void, event: &[u8], times: usize) {
        let mut refused = 0;
        for _ in 0..times {
            // SAFETY: an open client and `len` readable bytes.
            refused |= unsafe { (self.enqueue)(client, event.as_ptr().cast(), event.len()) };
        }
        assert_eq!(refused, 0, "an event was refused in a burst");
    }

    /// `batches` of telemetry_stats_t: how many requests were begun.
    fn batches(&self, client: *mut c_void) -> u64 {
        let mut counters = [0u64; 9];
        // SAFETY: an open client, and a place of the size given, which the library does not exceed.
        let status = unsafe { (self.stats)(client, counters.as_mut_ptr(), size_of_val(&counters)) };
        assert_eq!(status, 0, "telemetry_stats");
        counters[8]
    }

    fn burst(&self, client: *mut c_void, event: &[u8], wake: bool) -> f64 {
        if wake {
            let before = self.batches(client);
            self.enqueue(client, event, PRIME);
            while self.batches(client) == before {}
        }
        let start = Instant::now();
        self.enqueue(client, event, BURST);
        let took = start.elapsed();
        // SAFETY: an open client.
        assert_eq!(unsafe { (self.flush)(client, 60_000) }, 0, "telemetry_flush");
        took.as_nanos() as f64 / BURST as f64
    }
}

/// This thread on one core, all others on another: else the scheduler may wake a consumer on its producer's core,
/// where it waits until the burst is over. With a single core this does nothing.
fn pin_apart() {
    // SAFETY: `cpu_set_t` is plain memory, of the size given; a thread id that is gone is refused.
    unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&all), &mut all);
        let mut cores = (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &all));
        let (Some(first), Some(second)) = (cores.next(), cores.next()) else { return };
        let me = libc::gettid();
        for task in std::fs::read_dir("/proc/self/task").expect("/proc") {
            let name = task.expect("a task").file_name();
            let tid: i32 = name.to_string_lossy().parse().expect("a thread id");
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(if tid == me { first } else { second }, &mut one);
            libc::sched_setaffinity(tid, size_of_val(&one), &one);
        }
    }
}

fn channel_burst(channel: &Sender<Box<[u8]>>, received: &AtomicUsize, event: &[u8]) -> f64 {
    let send = |times| {
        for _ in 0..times {
            assert!(channel.try_send(Box::from(event)).is_ok(), "the channel became full");
        }
    };
    let before = received.load(Ordering::Acquire);
    send(PRIME);
    while received.load(Ordering::Acquire) == before {}
    let start = Instant::now();
    send(BURST);
    let took = start.elapsed();
    while received.load(Ordering::Acquire) < before + PRIME + BURST {
        spin_loop();
    }
    took.as_nanos() as f64 / BURST as f64
}

fn report(name: &str, ns: &mut [f64]) {
    ns.sort_by(f64::total_cmp);
    println!("{{\"case\":\"{name}\",\"median_ns\":{:.2},\"min_ns\":{:.2}}}", ns[ns.len() / 2], ns[0]);
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, rounds] = args.as_slice() else { panic!("usage: bench-crossbeam LIBRARY ROUNDS") };
    let rounds: usize = rounds.parse().expect("a number of rounds");
    let library = Library::load(path);
    let (live, parked) = (library.client(LIVE), library.client(PARKED));
    let mut event = vec![b'x'; SIZE];
    event[..9].copy_from_slice(b"{\"fill\":\"");
    event[SIZE - 2..].copy_from_slice(b"\"}");

    let (channel, receiver) = bounded::<Box<[u8]>>(CAPACITY);
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let consumer = std::thread::spawn(move || {
        for event in receiver {
            drop(event);
            count.fetch_add(1, Ordering::Release);
        }
    });

    // Both senders have started once this is through.
    library.burst(live, &event, true);
    library.burst(parked, &event, false);
    pin_apart();
    let (mut channels, mut lives, mut parkeds) = (vec![], vec![], vec![]);
    for _ in 0..rounds + WARM_UP {
        channels.push(channel_burst(&channel, &received, &event));
        lives.push(library.burst(live, &event, true));
        parkeds.push(library.burst(parked, &event, false));
    }
    drop(channel);
    consumer.join().expect("the consumer");
    for client in [live, parked] {
        // SAFETY: an open client.
        assert_eq!(unsafe { (library.shutdown)(client, 5_000) }, 0, "telemetry_shutdown");
    }
    report("crossbeam", &mut channels[WARM_UP..]);
    report("live", &mut lives[WARM_UP..]);
    report("parked", &mut parkeds[WARM_UP..]);
}
