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

/// The machine's name; empty if it cannot be had.
pub fn host_name() -> String {
    // One byte more than is given away: a name that is cut off need not be ended.
    let mut name = [0u8; 257];
    // SAFETY: the buffer is that long and one byte longer.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0;
    let end = name.iter().position(|b| *b == 0).filter(|_| !failed).unwrap_or(0);
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_is_the_kernels() {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(super::host_name(), kernel.trim_end());
    }
}
