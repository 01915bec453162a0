//! Time: wall clock in nanoseconds, and bounded sleeping.
//!
//! Invariant: no call here allocates or takes a lock; the wall clock is read through the vDSO.

use std::time::Duration;

/// Nanoseconds since the Unix epoch, to the clock's full resolution (about 20 ns a call).
#[inline]
pub fn wall_precise_ns() -> u64 {
    wall(libc::CLOCK_REALTIME)
}

/// The same at the resolution of the scheduler's tick (1 to 4 ms), about 4 ns a call.
#[inline]
pub fn wall_coarse_ns() -> u64 {
    #[cfg(target_os = "linux")]
    return wall(libc::CLOCK_REALTIME_COARSE);
    #[cfg(not(target_os = "linux"))]
    wall(libc::CLOCK_REALTIME)
}

#[inline]
fn wall(id: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec; both clock ids exist on every kernel we run on.
    unsafe { libc::clock_gettime(id, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// Give up the processor for about that long. Async-signal-safe.
pub fn nap(time: Duration) {
    let ts = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: `ts` is valid and the remainder is not asked for.
    unsafe { libc::nanosleep(&ts, std::ptr::null_mut()) };
}

/// Milliseconds of a clock that never jumps; the same in every thread, never 0.
pub fn monotonic_ms() -> u64 {
    wall(libc::CLOCK_MONOTONIC) / 1_000_000 + 1
}

/// Nanoseconds of the same clock.
#[inline]
pub fn monotonic_ns() -> u64 {
    wall(libc::CLOCK_MONOTONIC)
}

/// The same at the resolution of the scheduler's tick (1 to 4 ms).
#[inline]
pub fn monotonic_coarse_ns() -> u64 {
    #[cfg(target_os = "linux")]
    return wall(libc::CLOCK_MONOTONIC_COARSE);
    #[cfg(not(target_os = "linux"))]
    wall(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since the machine was started, the time that it was suspended included.
#[cfg(target_os = "linux")]
pub fn boot_ns() -> u64 {
    wall(libc::CLOCK_BOOTTIME)
}

/// No such clock: a suspend is not noticed.
#[cfg(not(target_os = "linux"))]
pub fn boot_ns() -> u64 {
    monotonic_ns()
}
