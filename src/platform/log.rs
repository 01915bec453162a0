//! Warnings: to stderr, or to the host's logger.
//!
//! Invariants:
//! - One `write(2)` a line and no lock, so that neither a fork nor a signal can tear it.
//! - At most one line a minute for each [`Reason`]; what was held back is counted in the next one. A supervisor's changes
//!   of state are said one by one ([`tell`]).
//! - Never called in a fork hook. Texts never contain credentials.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// How important a line is; the numbers are the C enum's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something is lost.
    Error = 1,
    /// Something is delayed or refused.
    Warn = 2,
    /// A change of state.
    Info = 3,
    /// For developers.
    Debug = 4,
}

/// What a line is about: each reason has its own throttle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// The collector cannot be reached.
    Transport,
    /// The collector asks to come back later.
    Busy,
    /// The collector refuses our credentials or address.
    Denied,
    /// The collector took everything, and complains all the same.
    Collector,
    /// The collector refused events.
    Rejected,
    /// Events that are not JSON.
    Invalid,
    /// The queue is full.
    Full,
    /// Events grew too old.
    Expired,
    /// No thread could be started.
    Thread,
    /// A defect of ours.
    Internal,
    /// The process or the client ends with events undelivered.
    Lost,
    /// The spool cannot be used, or something in it cannot be read.
    Spool,
    /// A refused event could not be written to its file.
    DeadLetter,
    /// An upload was given up.
    Upload,
    /// A process cannot show itself to its family.
    Family,
    /// A variable that is read by nobody.
    Variable,
}
const REASONS: usize = 16;
const MINUTE_NS: u64 = 60_000_000_000;

/// The host's logger: level, NUL-terminated text, the host's own pointer.
pub type Sink = extern "C" fn(u32, *const std::ffi::c_char, *mut std::ffi::c_void);

static SINK: AtomicUsize = AtomicUsize::new(0);
static USER: AtomicUsize = AtomicUsize::new(0);
static LEVEL: AtomicUsize = AtomicUsize::new(Level::Warn as usize);
static HOLD_BACK: AtomicBool = AtomicBool::new(true);
static LAST: [AtomicU64; REASONS] = [const { AtomicU64::new(0) }; REASONS];
static HELD: [AtomicU64; REASONS] = [const { AtomicU64::new(0) }; REASONS];

/// Send lines to `sink` (or to stderr again if `None`), from `level` on.
pub fn set(sink: Option<Sink>, user: *mut std::ffi::c_void, level: u32) {
    SINK.store(0, Ordering::Release);
    USER.store(user as usize, Ordering::Release);
    LEVEL.store(level as usize, Ordering::Release);
    SINK.store(sink.map_or(0, |f| f as usize), Ordering::Release);
}

/// Test switch: every line is said, however often.
pub fn hold_nothing_back() {
    HOLD_BACK.store(false, Ordering::Release);
}

/// Say something, unless it was said within the last minute.
pub fn say(level: Level, reason: Reason, text: &str) {
    if level as usize > LEVEL.load(Ordering::Acquire) {
        return;
    }
    let (last, held) = (&LAST[reason as usize], &HELD[reason as usize]);
    let now = super::clock::wall_coarse_ns().max(1);
    let before = last.load(Ordering::Relaxed);
    let due = before == 0 || now.wrapping_sub(before) >= MINUTE_NS;
    let mine = || last.compare_exchange(before, now, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if HOLD_BACK.load(Ordering::Acquire) && !(due && mine()) {
        held.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let more = match held.swap(0, Ordering::Relaxed) {
        0 => String::new(),
        n => format!(" ({n} more of this kind held back)"),
    };
    emit(level, &format!("libtelemetry: {}{more}", clean(text)));
}

/// Say something each time: what an operator follows a process by.
pub fn tell(level: Level, text: &str) {
    if level as usize <= LEVEL.load(Ordering::Acquire) {
        emit(level, &clean(text));
    }
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a pipe that is ready takes without making its writer wait: `PIPE_BUF`.
const ROOM: usize = 4096;
/// No wait, and no signal from a reader that is gone.
#[cfg(target_os = "linux")]
const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const AT_ONCE: i32 = libc::MSG_DONTWAIT;

/// As much of it as stderr takes at once. Nobody waits for whoever reads there: a log shipper that hangs, or a terminal that was
/// stopped, would stop a supervisor, or a thread that delivers.
fn write_stderr(mut line: &[u8]) {
    while !line.is_empty() {
        let part = &line[..line.len().min(ROOM)];
        let mut ready = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one pollfd, and no wait.
        if unsafe { libc::poll(&raw mut ready, 1, 0) } <= 0 || ready.revents & libc::POLLOUT == 0 {
            return;
        }
        // SAFETY: the buffer is valid for its length. A socket takes what it has room for.
        let sent = unsafe { libc::send(2, part.as_ptr().cast(), part.len(), AT_ONCE) };
        let written = match sent {
            // SAFETY: as above; anything but a socket has room for this much.
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENOTSOCK) => unsafe {
                libc::write(2, part.as_ptr().cast(), part.len())
            },
            sent => sent,
        };
        match usize::try_from(written) {
            Ok(written) if written > 0 => line = &line[written.min(line.len())..],
            _ => return,
        }
    }
}

fn emit(level: Level, line: &str) {
    let sink = SINK.load(Ordering::Acquire);
    if sink == 0 {
        return write_stderr(format!("{line}\n").as_bytes());
    }
    let Ok(text) = std::ffi::CString::new(line) else { return };
    // SAFETY: only `set` writes SINK, and only with a `Sink`.
    let f = unsafe { std::mem::transmute::<usize, Sink>(sink) };
    f(level as u32, text.as_ptr(), USER.load(Ordering::Acquire) as *mut std::ffi::c_void);
}
