//! Threads: started with every signal blocked, never joined without a bound.
//!
//! Invariant: a thread of ours never runs a signal handler of the host's (the mask is set before the
//! thread exists), and nobody keeps a handle that a fork could tear: a thread is known by its kernel id.

use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Stack of our threads, in bytes: rustls and the JSON check need about a tenth.
const STACK: usize = 1 << 20;

/// Start a detached thread. All signals are blocked in it from its first instruction.
pub fn spawn_detached(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    unsignalled(|| std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body)).map(drop)
}

/// Run `body` with all signals of this thread held back: no handler of the host's can fork, jump or come back
/// here in the middle of it.
pub fn unsignalled<R>(body: impl FnOnce() -> R) -> R {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid places; sigfillset initialises the first, pthread_sigmask the second.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let result = body();
    // SAFETY: `old` was filled in by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    result
}

/// The kernel's id of the calling thread.
pub fn tid() -> u32 {
    #[cfg(target_os = "linux")]
    // SAFETY: gettid cannot fail.
    return (unsafe { libc::syscall(libc::SYS_gettid) }) as u32;
    #[cfg(not(target_os = "linux"))]
    // SAFETY: pthread_self cannot fail.
    return (unsafe { libc::pthread_self() }) as usize as u32 | 1;
}

/// Whether this process still has a thread with that id. The kernel forgets a thread a moment after it
/// has run its last instruction, and counts it until then.
pub fn alive(tid: u32) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: signal 0 only asks whether the thread exists.
    return tid != 0
        && unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid as libc::pid_t, 0) } == 0;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tid;
        false
    }
}

/// Wait until the kernel no longer counts that thread, at most until `deadline`. `true` if it is gone.
pub fn wait_gone(tid: u32, deadline: Instant) -> bool {
    let mut turns = 0u32;
    while alive(tid) {
        if Instant::now() >= deadline {
            return false;
        }
        turns += 1;
        if turns < 50 {
            std::thread::yield_now();
        } else {
            super::clock::nap(Duration::from_micros(50));
        }
    }
    true
}

/// Run `body` with this thread's cancellation held back (`pthread_cancel` takes effect afterwards): a forced
/// unwind must not pass through Rust frames.
#[inline(always)]
pub fn uncancelled<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_os = "linux")]
    {
        let (mut state, mut kind) = (0, 0);
        // SAFETY: changes only this thread's own cancel state; 1 is PTHREAD_CANCEL_DISABLE, 0 is
        // PTHREAD_CANCEL_DEFERRED on Linux. Both, because glibc 2.36 acts on an asynchronous cancellation that was
        // on its way when the state changed, unless the type says otherwise.
        unsafe {
            pthread_setcancelstate(1, &mut state);
            pthread_setcanceltype(0, &mut kind);
        }
        let result = body();
        // SAFETY: as above, back to what it was.
        unsafe {
            pthread_setcanceltype(kind, std::ptr::null_mut());
            pthread_setcancelstate(state, std::ptr::null_mut());
        }
        result
    }
    #[cfg(not(target_os = "linux"))]
    body()
}

#[cfg(target_os = "linux")]
// SAFETY: the declarations are those of <pthread.h>, but that they may unwind: a cancellation that was held back
// takes effect in them.
unsafe extern "C-unwind" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
    fn pthread_setcanceltype(kind: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}
