//! The C name of the family.

use super::text::give;
use super::{TELEMETRY_INTERNAL, TELEMETRY_INVALID, client_of, error, guard, telemetry, telemetry_status};
use std::ffi::c_char;

/// Tells what the processes that share this client's destination have counted: all of this user on this machine whose
/// clients have the same `name`, `endpoint`, `format` and credentials, whatever server or parent they have.
///
/// Writes a JSON array, UTF-8 and NUL-terminated, to `json` (`cap` bytes), one object a process, the caller first:
/// "pid", "parent", "worker" (telemetry_set_worker; 0 for none), "alive", "self", "ended" (its client was shut, or it
/// exited in order), "generation" (text, as `$generation` in its events), "age_ms", "updated_age_ms", "name" (of the
/// process) and the members of telemetry_stats_t as they were that long ago. Counters of others are as old as their senders'
/// last rest: less than `batch.max_age_ms`, a request under way apart, or since they have had nothing to do.
///
/// A process is in it from the first rest of its sender, or its first flush or call of this function, on. One that was
/// killed stays for an hour with "alive" false, or until its place is needed: there are 128. One that cannot be looked up,
/// in another container, counts as alive for an hour after it was heard of last. Where the runtime directory
/// (`TELEMETRY_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/telemetry`, else /run/telemetry for root and telemetry-<uid> in
/// `$TMPDIR` or /tmp for others) cannot be had, and for a disabled client, the array is empty.
///
/// `*len` becomes the length of the text without its NUL, whether it fits or not. If it does not, `json` is not touched and
/// the status is TELEMETRY_TOO_LARGE: call again with more than `*len` bytes, as the family may have grown meanwhile. With
/// `json` NULL and `cap` 0 it only tells the length.
///
/// Thread-safe; works in forked children at once. Reads and writes files, allocates. Errors: TELEMETRY_TOO_LARGE,
/// TELEMETRY_INVALID (`len` is NULL, or `json` with a `cap`), TELEMETRY_INTERNAL.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_family_stats(
    t: *mut telemetry,
    json: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> telemetry_status {
    let Some(client) = client_of(t) else { return TELEMETRY_INVALID };
    guard(Some(client), TELEMETRY_INTERNAL, || {
        if len.is_null() {
            return error::fail(TELEMETRY_INVALID, "len (fourth argument) is NULL");
        }
        let text = client.family();
        // SAFETY: by contract `cap` writable bytes, and a place for one number.
        unsafe { give(&text, json, cap, len) }
    })
}
