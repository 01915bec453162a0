//! Where warnings go.

use crate::platform::log;
use std::ffi::{c_char, c_void};

/// How important a line is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum telemetry_level {
    /// Something is lost.
    TELEMETRY_ERROR = 1,
    /// Something is delayed or refused.
    TELEMETRY_WARN = 2,
    /// A change of state.
    TELEMETRY_INFO = 3,
    /// For developers.
    TELEMETRY_DEBUG = 4,
}

/// Gets each line, on the thread where it arises: often the sender's. Must not call back into the library,
/// and must not fork.
pub type telemetry_log_fn =
    Option<extern "C" fn(level: telemetry_level, message: *const c_char, user: *mut c_void)>;

/// Sends the library's own lines, from `level` on, to `log` instead of stderr, for all clients of the process and
/// for children forked afterwards. NULL restores stderr. At most one line a minute for each reason. `user` is
/// handed to `log` as it is. Call it before other threads use the library.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_set_logger(
    log: telemetry_log_fn,
    user: *mut c_void,
    level: telemetry_level,
) {
    // SAFETY: the enum is passed as its C representation, an unsigned int, in both.
    let sink = log.map(|f| unsafe {
        std::mem::transmute::<
            extern "C" fn(telemetry_level, *const c_char, *mut c_void),
            extern "C" fn(u32, *const c_char, *mut c_void),
        >(f)
    });
    log::set(sink, user, level as u32);
}
