//! The C names of a worker's side.
//!
//! Invariants:
//! - After the first call of [`telemetry_worker_current`] nothing here allocates, locks or waits: all may be called in a signal
//!   handler, so none passes the guard, and none can panic.
//! - A worker is one thread's: calls of several threads at once lose counts and nothing else.

use super::text::text_of;
use crate::board::layout::flag;
use crate::fleet::worker::{self, Outcome, Worker};
use std::ffi::{c_char, c_int};

/// A worker of a fleet: this process. Valid until it ends, and only in it: not in children that it forks.
pub struct telemetry_worker {
    _private: [u8; 0],
}

/// The item was done (counter "done").
pub const TELEMETRY_ITEM_DONE: i32 = 0;
/// It was not (counter "failed").
pub const TELEMETRY_ITEM_FAILED: i32 = 1;
/// It will be tried again (counter "retried").
pub const TELEMETRY_ITEM_RETRIED: i32 = 2;
/// It was given up (counter "dead").
pub const TELEMETRY_ITEM_DEAD: i32 = 3;

/// USR1 makes the worker say where it is; without this flag it is never sent USR1.
pub const TELEMETRY_WORKER_DUMPS: u32 = 8;
/// The worker runs.
pub const TELEMETRY_WORKER_RUNNING: u32 = 16;
/// Its queue's connection for data stands.
pub const TELEMETRY_WORKER_MDQ_CONNECTED: u32 = 32;
/// Its queue's connection for control stands.
pub const TELEMETRY_WORKER_MDC_CONNECTED: u32 = 64;

/// The numbers are the scoreboard's.
const _: () = assert!(
    TELEMETRY_WORKER_DUMPS == flag::DUMPS
        && TELEMETRY_WORKER_RUNNING == flag::RUNNING
        && TELEMETRY_WORKER_MDQ_CONNECTED == flag::MDQ_CONNECTED
        && TELEMETRY_WORKER_MDC_CONNECTED == flag::MDC_CONNECTED
);

fn worker_of<'a>(worker: *mut telemetry_worker) -> Option<&'a Worker> {
    // SAFETY: by contract NULL or from this library, which never frees one.
    unsafe { worker.cast::<Worker>().as_ref() }
}

/// This process's worker: in a worker's function, and in a program that a fleet started, where the first call attaches to
/// the fleet's scoreboard and takes over SIGTERM (telemetry_worker_stopping says then that it came). NULL in any other
/// process, in children that a worker forks, too. Thread-safe from the second call on.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_current() -> *mut telemetry_worker {
    super::guard(None, std::ptr::null_mut(), || {
        worker::current().map_or(std::ptr::null_mut(), |w| std::ptr::from_ref(w).cast_mut().cast())
    })
}

/// It can work: until then the start's deadline runs. Counts as a beat. Async-signal-safe, like all that follow; NULL is
/// allowed in all of them, and does nothing.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_ready(worker: *mut telemetry_worker) {
    if let Some(worker) = worker_of(worker) {
        worker.ready();
    }
}

/// It gets on. One store; call it from the loop that does the work, at least a few times in each `stale_ms`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_beat(worker: *mut telemetry_worker) {
    if let Some(worker) = worker_of(worker) {
        worker.beat();
    }
}

/// Not 0: take nothing new, finish or give back what is open, and return.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_stopping(worker: *mut telemetry_worker) -> c_int {
    worker_of(worker).is_some_and(Worker::is_stopping).into()
}

/// Not 0: take nothing new for the time being.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_paused(worker: *mut telemetry_worker) -> c_int {
    worker_of(worker).is_some_and(Worker::is_paused).into()
}

/// A descriptor that becomes readable, and stays so, when the worker is to stop: to wait for beside others. Not to be read
/// or closed. -1 for NULL.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_stop_fd(worker: *mut telemetry_worker) -> c_int {
    worker_of(worker).map_or(-1, Worker::stop_fd)
}

/// The number of its slot, from 0.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_slot(worker: *mut telemetry_worker) -> u32 {
    worker_of(worker).map_or(0, Worker::number)
}

/// Which worker of that slot it is: 1, 2, 3, ... 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_incarnation(worker: *mut telemetry_worker) -> u64 {
    worker_of(worker).map_or(0, Worker::incarnation)
}

/// It begins an item: `doing` (NULL: nothing to say) is shown, cut to 64 bytes; `deadline_ms` is what it may take, 0: as
/// configured. A worker has one item at a time: a second one takes the first one's place. The result is for
/// telemetry_worker_item_end. Counts as a beat.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_worker_item_begin(
    worker: *mut telemetry_worker,
    doing: *const c_char,
    deadline_ms: u32,
) -> u64 {
    // SAFETY: by contract NULL or a NUL-terminated string.
    let doing = unsafe { text_of(doing) }.unwrap_or("(not UTF-8)");
    worker_of(worker).map_or(0, |worker| worker.item_begin(doing, deadline_ms))
}

/// It ends that item: `outcome` is one of TELEMETRY_ITEM_DONE .. TELEMETRY_ITEM_DEAD, anything else counts as failed. Counts
/// as a beat.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_item_end(worker: *mut telemetry_worker, item: u64, outcome: i32) {
    let outcome = match outcome {
        TELEMETRY_ITEM_DONE => Outcome::Done,
        TELEMETRY_ITEM_RETRIED => Outcome::Retried,
        TELEMETRY_ITEM_DEAD => Outcome::Dead,
        _ => Outcome::Failed,
    };
    if let Some(worker) = worker_of(worker) {
        worker.item_end(item, outcome);
    }
}

/// It has claimed `n` items from `lo` on, under `token` (not 0); `n` 0: it gives that claim back. The supervisor sees what a
/// worker that died had claimed. At most 8 at once: 0 if there is no room, else 1.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_lease(
    worker: *mut telemetry_worker,
    token: u64,
    lo: u64,
    n: u32,
) -> c_int {
    worker_of(worker).is_some_and(|worker| token != 0 && worker.lease(token, lo, n.into())).into()
}

/// Adds to a counter, by its number: 0 claimed, 1 done, 2 failed, 3 retried, 4 dead, 5 bytes_in, 6 bytes_out, 7 events,
/// 8 decoding_errors, 9 published, 10 processing_errors, 11 to 15 those that the configuration names (`counters`).
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_count(worker: *mut telemetry_worker, counter: u32, delta: u64) {
    if let Some(worker) = worker_of(worker) {
        worker.count(counter, delta);
    }
}

/// The number of the counter of that name; -1 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_worker_counter(
    worker: *mut telemetry_worker,
    name: *const c_char,
) -> i32 {
    // SAFETY: by contract NULL or a NUL-terminated string.
    let name = unsafe { text_of(name) }.unwrap_or_default();
    super::guard(None, -1, || {
        worker_of(worker).and_then(|w| w.counter(name)).map_or(-1, |number| number as i32)
    })
}

/// Sets (`on` not 0) or clears flags: TELEMETRY_WORKER_DUMPS, _RUNNING, _MDQ_CONNECTED, _MDC_CONNECTED.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_flag(worker: *mut telemetry_worker, flags: u32, on: c_int) {
    if let Some(worker) = worker_of(worker) {
        worker.flag(flags, on != 0);
    }
}

/// How late its loop was last, in microseconds: shown.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_worker_lag(worker: *mut telemetry_worker, microseconds: u32) {
    if let Some(worker) = worker_of(worker) {
        worker.lag(microseconds);
    }
}

/// The trace context it works under: `which` 0 traceparent, 1 tracestate, 2 baggage, copied to `buf`, cut to `cap` - 1 bytes,
/// with a NUL. Returns its whole length without the NUL, 0: none. `buf` may be NULL if `cap` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_worker_trace(
    worker: *mut telemetry_worker,
    which: u32,
    buf: *mut c_char,
    cap: usize,
) -> usize {
    let text = worker_of(worker).and_then(|worker| worker.trace().part(which)).unwrap_or_default();
    if !buf.is_null() && cap > 0 {
        let n = text.len().min(cap - 1);
        // SAFETY: by contract `cap` writable bytes, of which n + 1 are written.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, n);
            *buf.add(n) = 0;
        }
    }
    text.len()
}
