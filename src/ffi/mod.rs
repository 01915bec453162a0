//! The C names and nothing else.
//!
//! Invariants:
//! - Every function is one call of the guard: arguments checked, panics caught, the error text stored. What it
//!   returns then is visible at its definition. Only the common path of `telemetry_enqueue` goes without.
//! - A `telemetry_t *` is an [`Arc`] turned into a pointer: valid from `telemetry_open` to `telemetry_free`, in
//!   the process that opened it and in every fork of it.
//! - The error text is this thread's, in a fixed buffer without a destructor.

// The C names are the interface.
#![allow(non_camel_case_types)]
// The C documentation above each function is its safety contract.
#![allow(clippy::missing_safety_doc)]

mod error;
mod exit;
mod family;
#[cfg(target_os = "linux")]
mod fleet;
#[cfg(target_os = "linux")]
mod fleet_worker;
mod logger;
mod text;
mod worker;

use crate::client::handle::{Client, Fast, Status};
use crate::client::life::Snapshot;
use crate::client::open::{OpenError, open};
use crate::client::upload::ID_LEN;
use crate::platform::thread::uncancelled;
use crate::queue::log::Appended;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

pub use error::telemetry_last_error;
pub use family::telemetry_family_stats;
#[cfg(target_os = "linux")]
pub use fleet::*;
#[cfg(target_os = "linux")]
pub use fleet_worker::*;
pub use logger::{telemetry_level, telemetry_log_fn, telemetry_set_logger};
pub use worker::telemetry_set_worker;

/// A client: one destination with its own queue. Valid in the process that opened it and in every fork of it.
pub struct telemetry {
    _private: [u8; 0],
}

/// What a call came to: one of TELEMETRY_OK .. TELEMETRY_INTERNAL.
pub type telemetry_status = i32;

/// Done, or the event was taken.
pub const TELEMETRY_OK: telemetry_status = 0;
/// The queue is full; the event was not taken and is counted in `dropped_full`.
pub const TELEMETRY_FULL: telemetry_status = 1;
/// The event is larger than `max_event_bytes`; counted in `dropped_too_large`.
pub const TELEMETRY_TOO_LARGE: telemetry_status = 2;
/// The client was shut down, in this process or before the fork that made it.
pub const TELEMETRY_CLOSED: telemetry_status = 3;
/// The deadline came first; what was taken stays in the queue.
pub const TELEMETRY_TIMEOUT: telemetry_status = 4;
/// A NULL or bad argument, or a bad configuration: telemetry_last_error says which.
pub const TELEMETRY_INVALID: telemetry_status = 5;
/// The operating system refused something: telemetry_last_error says what.
pub const TELEMETRY_IO: telemetry_status = 6;
/// A defect of this library was caught; the client is dead, the host goes on.
pub const TELEMETRY_INTERNAL: telemetry_status = 7;

/// What happened in this process since the client was opened or the process was forked. Only uint64_t;
/// new members are appended. In every snapshot: accepted + recovered = delivered + rejected + invalid +
/// expired + queue_events.
#[repr(C)]
pub struct telemetry_stats_t {
    /// Events that telemetry_enqueue took.
    pub accepted: u64,
    /// Events the collector took.
    pub delivered: u64,
    /// Events the collector refused for good.
    pub rejected: u64,
    /// Events that were not one JSON object, found by the sender.
    pub invalid: u64,
    /// Events older than `retry.max_age_s`.
    pub expired: u64,
    /// Times telemetry_enqueue or telemetry_upload returned TELEMETRY_FULL.
    pub dropped_full: u64,
    /// Times telemetry_enqueue or telemetry_upload returned TELEMETRY_TOO_LARGE.
    pub dropped_too_large: u64,
    /// Requests that were further attempts.
    pub retries: u64,
    /// Requests that were first attempts.
    pub batches: u64,
    /// Bytes of the events the sender has read from the queue.
    pub bytes_in: u64,
    /// Bytes of request bodies sent, compressed as they were.
    pub bytes_out: u64,
    /// Events whose fate is open.
    pub queue_events: u64,
    /// Bytes of the queue they take, headers included.
    pub queue_bytes: u64,
    /// Events of others read from the spool; in the sum as much as accepted ones.
    pub recovered: u64,
    /// Own events that lay undelivered in the spool when this process shut the client or exited.
    pub left_in_spool: u64,
    /// Forks this process made through fork().
    pub forks: u64,
    /// Sender threads started.
    pub sender_starts: u64,
    /// 1 while the collector refuses the credentials or the address.
    pub circuit_open: u64,
    /// When the collector last took something, in milliseconds since the epoch; 0 for never.
    pub last_success_unix_ms: u64,
    /// Answers accepted whose body could not be read.
    pub unverified: u64,
    /// Times a segment of the queue, or an upload, had to stay in memory, because no file could be had in the spool.
    pub spool_failures: u64,
    /// Records and files of the spool, uploads among them, that could not be read.
    pub corrupt: u64,
    /// Events that made room for newer ones (`spool_evict`); they are in `expired` too.
    pub evicted: u64,
    /// Times telemetry_enqueue returned TELEMETRY_OK for an event that `sample` left out; not in `accepted`.
    pub sampled_out: u64,
    /// Uploads that telemetry_upload took.
    pub uploads: u64,
    /// Uploads that this process delivered, or found to be known to the server; with a spool dead processes' too.
    pub uploaded: u64,
    /// Uploads that this process gave up: refused for good, or older than `retry.max_age_s`.
    pub uploads_failed: u64,
    /// Bytes of memory that waiting uploads take in this process.
    pub media_bytes: u64,
}

/// Run `body`, catching panics; cancellation of the thread is held back meanwhile.
///
/// A cancellation that waited takes effect in here, once all is done, and unwinds through this frame and its
/// callers: none of them may catch or clean up, which is why the catching is in a frame of its own and every C function
/// is `C-unwind`.
#[inline(always)]
fn guard<R>(client: Option<&Client>, fallback: R, body: impl FnOnce() -> R) -> R {
    uncancelled(|| caught(client, fallback, body))
}

#[inline(never)]
fn caught<R>(client: Option<&Client>, fallback: R, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(_) => {
            error::set("a defect of libtelemetry was caught");
            if let Some(client) = client {
                client.die();
            }
            fallback
        }
    }
}

/// The client behind a handle; says so if it is NULL.
fn client_of<'a>(t: *mut telemetry) -> Option<&'a Client> {
    // SAFETY: by the contract of the C API, NULL or a handle from telemetry_open that was not freed.
    let client = unsafe { t.cast::<Client>().as_ref() };
    if client.is_none() {
        error::set("the client (first argument) is NULL");
    }
    client
}

/// Opens a client.
///
/// `config_json` is one JSON object, UTF-8, NUL-terminated; NULL or "" means {}. Without `endpoint` events are
/// appended to the file telemetry-events.ndjson. Keys it leaves out are taken from the environment
/// (`TELEMETRY_` + the key in capitals), which is read here and never again. On success `*out` is a handle
/// that the caller owns and gives back with telemetry_free; otherwise `*out` is not written.
///
/// Starts no thread and opens no connection, so it may be called in a server's master before it forks. With
/// `spool_dir` it looks at that directory and refuses one that others could write to; one that cannot be used now
/// is tried again later, and events stay in memory meanwhile. Thread-safe. Errors: TELEMETRY_INVALID (telemetry_last_error names the key, the value and what is
/// allowed), TELEMETRY_IO (no memory).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C-unwind" fn telemetry_open(
    config_json: *const c_char,
    out: *mut *mut telemetry,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        if out.is_null() {
            return error::fail(TELEMETRY_INVALID, "out (second argument) is NULL");
        }
        let json = if config_json.is_null() {
            Ok("")
        } else {
            // SAFETY: by contract a NUL-terminated string.
            unsafe { CStr::from_ptr(config_json) }.to_str()
        };
        let Ok(json) = json else {
            return error::fail(TELEMETRY_INVALID, "the configuration is not valid UTF-8");
        };
        match open(json) {
            Ok(client) => {
                // SAFETY: `out` is not NULL, and by contract a place for one pointer.
                unsafe { *out = Arc::into_raw(client).cast_mut().cast() };
                TELEMETRY_OK
            }
            Err(OpenError::Config(text)) => error::fail(TELEMETRY_INVALID, &text),
            Err(OpenError::Io(text)) => error::fail(TELEMETRY_IO, &text),
        }
    })
}

/// Takes one event: `len` bytes at `event`, one JSON object in UTF-8 (other formats say otherwise). The bytes
/// are copied; the caller keeps its buffer. That it is JSON is checked later, on the sender's thread, and a
/// bad one is counted in `invalid`. One that `sample` leaves out is TELEMETRY_OK as well, and counted in `sampled_out`.
///
/// With `spool_dir`, once TELEMETRY_OK is returned the event outlives the process, whatever ends it.
///
/// Never blocks (unless `on_full` is "block"), makes no system call on its common path, allocates nothing,
/// takes no lock. With a spool a caller that fills a segment before the sender has made the next one makes that file
/// itself (about a millisecond for each MiB). Thread-safe; works in forked children at once. Errors: TELEMETRY_FULL, TELEMETRY_TOO_LARGE,
/// TELEMETRY_CLOSED, TELEMETRY_INVALID (NULL or 0 bytes), TELEMETRY_INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_enqueue(
    t: *mut telemetry,
    event: *const c_void,
    len: usize,
) -> telemetry_status {
    // The one function without the guard on its common path, where nothing can panic and nothing is owned: so
    // a thread that is cancelled in the middle of it may unwind through. All the rest is behind the guard.
    // SAFETY: by the contract of the C API, NULL or a handle from telemetry_open that was not freed.
    let client = unsafe { t.cast::<Client>().as_ref() };
    let (Some(client), false, true) = (client, event.is_null(), len <= isize::MAX as usize) else {
        return refuse_arguments(client, event.is_null());
    };
    // SAFETY: by contract `len` readable bytes.
    let event = unsafe { std::slice::from_raw_parts(event.cast(), len) };
    match client.enqueue_fast(event) {
        Fast::Taken => TELEMETRY_OK,
        Fast::Attend(nonce, done) => enqueue_attended(client, nonce, done, event),
        Fast::Slow => enqueue_slowly(client, event),
    }
}

#[cold]
#[inline(never)]
fn enqueue_slowly(client: &Client, event: &[u8]) -> telemetry_status {
    guard(Some(client), TELEMETRY_INTERNAL, || client.enqueue(event) as telemetry_status)
}

#[cold]
#[inline(never)]
fn enqueue_attended(client: &Client, nonce: u64, done: Appended<'_>, event: &[u8]) -> telemetry_status {
    guard(Some(client), TELEMETRY_INTERNAL, || {
        client.enqueue_attended(nonce, done, event) as telemetry_status
    })
}

#[cold]
#[inline(never)]
fn refuse_arguments(client: Option<&Client>, no_event: bool) -> telemetry_status {
    guard(client, TELEMETRY_INTERNAL, || match client {
        None => error::fail(TELEMETRY_INVALID, "the client (first argument) is NULL"),
        Some(_) if no_event => error::fail(TELEMETRY_INVALID, "the event (second argument) is NULL"),
        Some(client) => client.count_too_large() as telemetry_status,
    })
}

/// Delivers what this process enqueued and uploaded before the call, and waits for it at most `timeout_ms` milliseconds. With
/// 0 it only asks: TELEMETRY_OK if nothing is pending, else TELEMETRY_TIMEOUT, and delivery is set going.
/// An event the collector refused for good no longer counts as pending. With `spool_dir` it also looks for events
/// that dead processes left there, and waits for those it could take over; 0 does not.
///
/// Where no thread can be created it delivers on the caller's thread. Thread-safe; as the first call in a
/// forked child without a spool it returns TELEMETRY_OK at once. Errors: TELEMETRY_TIMEOUT, TELEMETRY_INVALID,
/// TELEMETRY_INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_flush(t: *mut telemetry, timeout_ms: u32) -> telemetry_status {
    let Some(client) = client_of(t) else { return TELEMETRY_INVALID };
    guard(Some(client), TELEMETRY_INTERNAL, || {
        client.flush(Duration::from_millis(timeout_ms.into())) as telemetry_status
    })
}

/// Closes the client: takes no more events (TELEMETRY_CLOSED), delivers what was taken within `timeout_ms`
/// milliseconds, then ends the thread and the connection, cutting a request that is still under way.
/// Idempotent. A client closed before a fork is closed in the child too; closing it in a child leaves the
/// parent's open.
///
/// With `spool_dir` it gives up as soon as an attempt finds nobody listening, and leaves what is not delivered (counted
/// in `left_in_spool`) to any process of the same destination, at once or later.
///
/// Errors: TELEMETRY_TIMEOUT (not everything was delivered; what shows in `queue_events` and not in `left_in_spool`
/// is lost), TELEMETRY_INVALID, TELEMETRY_INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_shutdown(t: *mut telemetry, timeout_ms: u32) -> telemetry_status {
    let Some(client) = client_of(t) else { return TELEMETRY_INVALID };
    guard(Some(client), TELEMETRY_INTERNAL, || {
        client.shutdown(Duration::from_millis(timeout_ms.into())) as telemetry_status
    })
}

/// Gives the handle back; NULL is fine. An open client is first shut down with `exit_timeout_ms` (at once if
/// the collector is known to be down). No other call on the handle may be under way or follow, in this
/// process. Other processes' copies live on.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_free(t: *mut telemetry) {
    if t.is_null() {
        return;
    }
    guard(None, (), || {
        // SAFETY: by contract a handle from telemetry_open, given back once.
        unsafe { Arc::from_raw(t.cast::<Client>().cast_const()) }.free();
    });
}

/// Writes what happened in this process to `*out`: as many bytes as both sides know (`size_of_out` is the
/// caller's sizeof(telemetry_stats_t)); members the library does not know are set to 0.
///
/// Thread-safe; a forked child that has not used the client reads zeros. Errors: TELEMETRY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_stats(
    t: *mut telemetry,
    out: *mut telemetry_stats_t,
    size_of_out: usize,
) -> telemetry_status {
    let Some(client) = client_of(t) else { return TELEMETRY_INVALID };
    guard(Some(client), TELEMETRY_INTERNAL, || {
        if out.is_null() {
            return error::fail(TELEMETRY_INVALID, "out (second argument) is NULL");
        }
        let stats = stats_of(client.stats());
        let known = size_of_out.min(size_of::<telemetry_stats_t>());
        // SAFETY: by contract `size_of_out` writable bytes; no more than that are written.
        unsafe {
            std::ptr::write_bytes(out.cast::<u8>(), 0, size_of_out);
            std::ptr::copy_nonoverlapping((&raw const stats).cast::<u8>(), out.cast::<u8>(), known);
        }
        TELEMETRY_OK
    })
}

fn stats_of(s: Snapshot) -> telemetry_stats_t {
    telemetry_stats_t {
        accepted: s.accepted,
        delivered: s.delivered,
        rejected: s.rejected,
        invalid: s.invalid,
        expired: s.expired,
        dropped_full: s.dropped_full,
        dropped_too_large: s.dropped_too_large,
        retries: s.retries,
        batches: s.batches,
        bytes_in: s.bytes_in,
        bytes_out: s.bytes_out,
        queue_events: s.queue_events,
        queue_bytes: s.queue_bytes,
        recovered: s.recovered,
        left_in_spool: s.left_in_spool,
        forks: s.forks,
        sender_starts: s.sender_starts,
        circuit_open: s.circuit_open,
        last_success_unix_ms: s.last_success_unix_ms,
        unverified: s.unverified,
        spool_failures: s.spool_failures,
        corrupt: s.corrupt,
        evicted: s.evicted,
        sampled_out: s.sampled_out,
        uploads: s.uploads,
        uploaded: s.uploaded,
        uploads_failed: s.uploads_failed,
        media_bytes: s.media_bytes,
    }
}

/// Takes one upload for Langfuse: `len` bytes at `data`, or, with `data` NULL and `len` 0, the regular file that
/// `meta_json` names in "file". The bytes are copied before it returns, on the caller's thread, into memory of their own
/// (never into the queue of events; forked children have no copy) or, with `spool_dir`, into a file there, which outlives
/// the process. What waits together is bounded by `media_max_bytes`, in whole pages of 4096 bytes; one alone may be so
/// large itself.
///
/// `meta_json` is one JSON object: "contentType", "field" ("input", "output" or "metadata") and "traceId", if need be with
/// "observationId"; or "field" ("input", "expectedOutput" or "metadata"), "datasetId" and "datasetItemId".
///
/// On success the id of the content, 22 characters and a NUL, is written to `id_out` (`id_cap` is at least 23; NULL and 0 if
/// it is not wanted), so that a reference to it can be embedded at once. Delivery, retries included, is the sender's, one
/// after the other; a request with the bytes may take `timeout_ms` and a second more for each MiB. Flush and shutdown
/// wait for it.
///
/// Thread-safe; works in forked children at once. Signals are held back while the upload is put into its place. Errors:
/// TELEMETRY_INVALID (telemetry_last_error says what is allowed), TELEMETRY_TOO_LARGE, TELEMETRY_FULL, TELEMETRY_CLOSED,
/// TELEMETRY_IO (no memory), TELEMETRY_INTERNAL.
///
/// It uses the heap, unlike telemetry_enqueue: a signal handler that may have interrupted it must not call fork(3), which
/// waits for the heap's lock in libc; `_Fork` it may.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_upload(
    t: *mut telemetry,
    meta_json: *const c_char,
    data: *const c_void,
    len: usize,
    id_out: *mut c_char,
    id_cap: usize,
) -> telemetry_status {
    let Some(client) = client_of(t) else { return TELEMETRY_INVALID };
    guard(Some(client), TELEMETRY_INTERNAL, || {
        if meta_json.is_null() {
            return error::fail(TELEMETRY_INVALID, "the meta (second argument) is NULL");
        }
        let wanted = !id_out.is_null();
        if wanted && id_cap <= ID_LEN || !wanted && id_cap > 0 {
            return error::fail(
                TELEMETRY_INVALID,
                "id_out needs room for 23 bytes; allowed: at least that, or NULL and 0",
            );
        }
        if data.is_null() && len > 0 || len > isize::MAX as usize {
            return error::fail(
                TELEMETRY_INVALID,
                "data is NULL or len too large; allowed: len bytes, or NULL and 0 with a file",
            );
        }
        // SAFETY: by contract a NUL-terminated string.
        let Ok(meta) = unsafe { CStr::from_ptr(meta_json) }.to_str() else {
            return error::fail(TELEMETRY_INVALID, "the meta is not valid UTF-8");
        };
        // SAFETY: by contract `len` readable bytes.
        let data = (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) });
        match client.upload(meta, data) {
            Ok(id) => {
                if wanted {
                    // SAFETY: `id_cap`, which is more than the id's length, writable bytes by contract.
                    unsafe {
                        std::ptr::copy_nonoverlapping(id.as_ptr().cast(), id_out, ID_LEN);
                        *id_out.add(ID_LEN) = 0;
                    }
                }
                TELEMETRY_OK
            }
            Err(refused) => error::fail(refused.status as telemetry_status, &refused.why),
        }
    })
}

/// The name of a status, static and never NULL: "TELEMETRY_FULL: the queue is full".
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_status_str(status: telemetry_status) -> *const c_char {
    let text: &'static CStr = match status {
        TELEMETRY_OK => c"TELEMETRY_OK: done",
        TELEMETRY_FULL => c"TELEMETRY_FULL: the queue is full",
        TELEMETRY_TOO_LARGE => c"TELEMETRY_TOO_LARGE: the event is larger than max_event_bytes",
        TELEMETRY_CLOSED => c"TELEMETRY_CLOSED: the client was shut down",
        TELEMETRY_TIMEOUT => c"TELEMETRY_TIMEOUT: the deadline came first",
        TELEMETRY_INVALID => c"TELEMETRY_INVALID: a bad argument or configuration",
        TELEMETRY_IO => c"TELEMETRY_IO: the operating system refused something",
        TELEMETRY_INTERNAL => c"TELEMETRY_INTERNAL: a defect was caught, the client is dead",
        _ => c"not a status of libtelemetry",
    };
    debug_assert!((Status::Ok as i32, Status::Internal as i32) == (TELEMETRY_OK, TELEMETRY_INTERNAL));
    text.as_ptr()
}

/// The library's version, such as "0.1.0"; static.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The number of this binary interface: grows when something is added, and bindings check it at load.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_abi_version() -> u32 {
    1
}
