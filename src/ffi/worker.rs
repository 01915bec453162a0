//! The C name of the worker's number.

use super::{TELEMETRY_INTERNAL, TELEMETRY_INVALID, TELEMETRY_OK, error, guard, telemetry_status};
use crate::client::worker;

/// Say which worker of its server this process is: 1, 2, 3, ...; 0 (from the start): none.
///
/// Events enqueued from now on bear the number, whoever delivers them, and `"$worker"` in the configured `context`
/// is replaced by it. It is this process's, for all its clients, and forks inherit it until they set their own: a server
/// calls this first thing in a new worker. Any thread may call it, and no client need be open.
///
/// TELEMETRY_INVALID above 65535; the number is then what it was.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn telemetry_set_worker(number: u32) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let Ok(number) = u16::try_from(number) else {
            let text = format!("worker number {number}: 0 to 65535 are allowed");
            return error::fail(TELEMETRY_INVALID, &text);
        };
        worker::set(number);
        TELEMETRY_OK
    })
}
