//! Texts in and out.

use super::{TELEMETRY_INVALID, TELEMETRY_OK, TELEMETRY_TOO_LARGE, error, telemetry_status};
use std::ffi::{CStr, c_char};

/// The text of an argument; NULL is "", and what is not UTF-8 none.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives as long as the result is used.
pub unsafe fn text_of<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return Some("");
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Copy a text and a NUL to the caller's buffer if both fit, and say how long it is; without a buffer only that.
///
/// # Safety
/// `buf` is `cap` writable bytes (NULL if 0), `len` NULL or a place for one number.
pub unsafe fn give(text: &str, buf: *mut c_char, cap: usize, len: *mut usize) -> telemetry_status {
    if buf.is_null() && cap > 0 {
        return error::fail(
            TELEMETRY_INVALID,
            "the buffer is NULL; allowed: cap writable bytes, or NULL and 0",
        );
    }
    if !len.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *len = text.len() };
    }
    if buf.is_null() {
        return TELEMETRY_OK;
    }
    if cap <= text.len() {
        return error::fail(
            TELEMETRY_TOO_LARGE,
            &format!("the buffer has {cap} bytes; {} are needed", text.len() + 1),
        );
    }
    // SAFETY: room for the text and the NUL, as was just looked at.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, text.len());
        *buf.add(text.len()) = 0;
    }
    TELEMETRY_OK
}
