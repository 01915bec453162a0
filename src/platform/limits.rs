//! How many descriptors this process may have open.

/// That number, and the most that it may be made without anybody's leave.
pub fn descriptors() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one valid place.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        #[allow(clippy::unnecessary_cast, reason = "other systems count in other types")]
        0 => (limit.rlim_cur as u64, limit.rlim_max as u64),
        _ => (u64::MAX, u64::MAX),
    }
}

/// Make it so many, which children inherit. Async-signal-safe.
pub fn allow_descriptors(number: u64) {
    let (_, most) = descriptors();
    let limit = libc::rlimit { rlim_cur: number as libc::rlim_t, rlim_max: most as libc::rlim_t };
    // SAFETY: one valid place; more than the most is refused.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}
