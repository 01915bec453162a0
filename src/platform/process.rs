//! Who we are, and the hooks that libc runs around `fork`.

/// This process's id, asked of the kernel each time.
pub fn pid() -> u32 {
    // SAFETY: getpid cannot fail.
    (unsafe { libc::getpid() }) as u32
}

/// The user whose rights this thread has now.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() }
}

/// Register hooks around `fork(3)`; they stay for the life of the process. `false` if libc has no room.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> bool {
    // SAFETY: the three are plain functions of this library, which is never unloaded (`-z nodelete`).
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) == 0 }
}

/// Whether there is a process with that id, ours or not, dead and not waited for included.
pub fn exists(pid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    let r = unsafe { libc::kill(pid as libc::pid_t, 0) };
    r == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
