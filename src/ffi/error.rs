//! This thread's error text.

use super::telemetry_status;
use std::cell::RefCell;
use std::ffi::c_char;

const CAPACITY: usize = 1024;

struct Text {
    bytes: [u8; CAPACITY],
    len: usize,
}

thread_local! {
    // A fixed buffer: nothing is registered to be destroyed with the thread.
    static LAST: RefCell<Text> = const { RefCell::new(Text { bytes: [0; CAPACITY], len: 0 }) };
}

/// Store the text (its first kilobyte).
pub fn set(text: &str) {
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            let mut len = text.len().min(CAPACITY);
            while !text.is_char_boundary(len) {
                len -= 1;
            }
            last.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
            last.len = len;
        }
    });
}

/// Store the text and give the status back.
pub fn fail(status: telemetry_status, text: &str) -> telemetry_status {
    set(text);
    status
}

/// Copies the text of this thread's last error into `buf`, cut to `cap` - 1 bytes and NUL-terminated, and returns
/// its whole length without the NUL, 0 if there was none. `buf` may be NULL if `cap` is 0. The text is for logs
/// only: decide by the status.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_last_error(buf: *mut c_char, cap: usize) -> usize {
    LAST.with(|last| {
        let Ok(last) = last.try_borrow() else { return 0 };
        if !buf.is_null() && cap > 0 {
            let n = last.len.min(cap - 1);
            // SAFETY: by contract `cap` writable bytes, of which n + 1 are written.
            unsafe {
                std::ptr::copy_nonoverlapping(last.bytes.as_ptr(), buf.cast(), n);
                *buf.add(n) = 0;
            }
        }
        last.len
    })
}
