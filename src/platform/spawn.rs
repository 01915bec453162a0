//! The making of a worker's process: fork, ties to the supervisor, descriptors, exec, end.
//!
//! Invariants:
//! - What a child calls before it runs its own code allocates nothing and takes no lock; what exec needs is laid out
//!   before the fork ([`Image`]).
//! - A child never returns into the supervisor's code: [`end`] is `_exit`.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Twice: in the parent with the child's number, in the child with 0. libc's hooks run.
///
/// # Errors
/// EAGAIN and ENOMEM as of fork(2).
pub fn fork() -> io::Result<u32> {
    // SAFETY: what the child may do then is the caller's care; see the module's text.
    match unsafe { libc::fork() } {
        n if n < 0 => Err(io::Error::last_os_error()),
        n => Ok(n as u32),
    }
}

/// Stack of a child that only prepares an exec, in bytes.
const SMALL_STACK: usize = 256 << 10;

/// The same for a child that becomes another program at once: `body` runs in it in the caller's own memory, on a stack of its
/// own, while the calling thread waits for its exec or end. So it costs the same however large this process is. libc's
/// hooks do not run. `body` must not return, allocate, lock, or store anything but to memory that is shared anyway or that the caller reads when it
/// goes on; descriptors,
/// signals' dispositions and the mask are the child's own. Block all signals before.
///
/// # Errors
/// As of [`fork`].
#[cfg(target_os = "linux")]
pub fn fork_to_exec(body: &dyn Fn()) -> io::Result<u32> {
    extern "C" fn run(body: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the address of the reference below, whose frame waits.
        let body = unsafe { &*body.cast::<&dyn Fn()>() };
        body();
        1
    }
    let stack = super::mmap::Mapping::anonymous(SMALL_STACK)?;
    // It grows downwards, from an address that is a multiple of 16.
    let top = (stack.addr() + stack.len()) as *mut libc::c_void;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = (&raw const body).cast_mut().cast();
    // SAFETY: the stack is the child's alone, and it and `body` live until the child no longer uses this memory, which is what
    // the call waits for; what `body` may do is said above.
    match unsafe { libc::clone(run, top, flags, argument) } {
        n if n < 0 => Err(io::Error::last_os_error()),
        n => Ok(n as u32),
    }
}

/// End this process now: no handler of exit runs, no buffer is written.
pub fn end(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// The parent's number now.
pub fn parent() -> u32 {
    // SAFETY: getppid cannot fail.
    (unsafe { libc::getppid() }) as u32
}

/// Lead a process group of one's own: a terminal's INT is the supervisor's, and a kill of the group reaches
/// grandchildren.
pub fn lead_group() {
    // SAFETY: two numbers.
    unsafe { libc::setpgid(0, 0) };
}

/// Have the kernel send this process a signal when its parent ends: the thread that forked it, so fork from the main
/// thread (prctl(2)). The caller looks at [`parent`] afterwards: it may have ended before.
#[cfg(target_os = "linux")]
pub fn signal_on_parents_death(signal: i32) {
    // SAFETY: numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) };
}

/// Be the parent of what one's children leave behind.
#[cfg(target_os = "linux")]
pub fn adopt_orphans() -> bool {
    // SAFETY: numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong) == 0 }
}

/// Let no descriptor from 3 on survive exec, but these. Async-signal-safe.
pub fn close_on_exec_but(own: &[i32], more: &[i32]) {
    let kept = |fd: i32| own.contains(&fd) || more.contains(&fd);
    let most = own.iter().chain(more).copied().max().unwrap_or(2);
    for fd in (3..=most).filter(|fd| !kept(*fd)) {
        keep_on_exec(fd, false);
    }
    let from = (most.max(2) + 1) as u32;
    #[cfg(target_os = "linux")]
    // SAFETY: numbers. Linux 5.11; older kernels refuse, and then only what was opened so is closed.
    unsafe {
        libc::syscall(libc::SYS_close_range, from, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Let a descriptor survive exec, or not.
pub fn keep_on_exec(fd: i32, keep: bool) {
    // SAFETY: a number that is not open is an error and nothing else.
    unsafe { libc::fcntl(fd, libc::F_SETFD, if keep { 0 } else { libc::FD_CLOEXEC }) };
}

/// A program with its arguments and environment, laid out for exec.
pub struct Image {
    program: CString,
    texts: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Image {
    /// `argv[0]` is looked for in PATH of this environment, if it names no directory.
    pub fn new(argv: &[OsString], env: impl Iterator<Item = (OsString, OsString)>) -> io::Result<Image> {
        let text = |s: &OsString| CString::new(s.clone().into_vec()).map_err(io::Error::from);
        let mut path = None;
        let mut texts = argv.iter().map(text).collect::<io::Result<Vec<_>>>()?;
        let arguments = texts.len();
        for (key, value) in env {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(&value);
            texts.push(text(&pair)?);
            if key == "PATH" {
                path = Some(value);
            }
        }
        let first = argv.first().ok_or_else(|| io::Error::other("no command"))?;
        let program = text(&find(first, path)?)?;
        // The strings' own memory stays where it is when the vector moves.
        let pointers =
            |part: &[CString]| part.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let (argv, envp) = texts.split_at(arguments);
        let (argv, envp) = (pointers(argv), pointers(envp));
        Ok(Image { program, texts, argv, envp })
    }

    /// Become it. Returns only if that fails, with the reason. Async-signal-safe.
    pub fn become_it(&self) -> i32 {
        debug_assert!(self.texts.len() + 2 == self.argv.len() + self.envp.len());
        // SAFETY: NULL-terminated arrays of C strings that live as long as `self`.
        unsafe {
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            *libc::__errno_location()
        }
    }
}

/// Whether there is such a program.
///
/// # Errors
/// That there is none, or that it cannot be looked at.
pub fn find_program(argv: &[OsString], path: Option<OsString>) -> io::Result<()> {
    let first = argv.first().ok_or_else(|| io::Error::other("no command"))?;
    find(first, path).map(drop)
}

fn find(name: &OsString, path: Option<OsString>) -> io::Result<OsString> {
    if name.as_encoded_bytes().contains(&b'/') {
        std::fs::metadata(name)?;
        return match is_executable(Path::new(name)) {
            true => Ok(name.clone()),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "not a program")),
        };
    }
    let path = path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    for dir in path.as_encoded_bytes().split(|b| *b == b':') {
        let candidate = Path::new(OsStr::from_bytes(dir)).join(name);
        if is_executable(&candidate) {
            return Ok(candidate.into_os_string());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "not found in PATH"))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Threads of this process, without those of that name: its own telemetry's, which end before a fork.
pub fn threads_but(name: &str) -> usize {
    let Ok(tasks) = super::files::names_in(Path::new("/proc/self/task")) else { return 1 };
    let is_other = |task: &OsString| {
        let comm = format!("/proc/self/task/{}/comm", task.to_string_lossy());
        super::files::read_small(&comm).is_ok_and(|comm| comm.trim_ascii_end() != name.as_bytes())
    };
    tasks.iter().filter(|task| is_other(task)).count()
}

/// Resident memory of a process, in KiB.
pub fn rss_kb(pid: u32) -> Option<u64> {
    let statm = super::files::read_small(&format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = std::str::from_utf8(&statm).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4)
}

/// How often the kernel killed somebody of our control group for want of memory; `None` where that is not told.
pub fn oom_kills() -> Option<u64> {
    let groups = super::files::read_small("/proc/self/cgroup").ok()?;
    let line = std::str::from_utf8(&groups).ok()?.lines().find_map(|l| l.strip_prefix("0::"))?.to_string();
    let events = super::files::read_small(&format!("/sys/fs/cgroup{line}/memory.events")).ok()?;
    let line = std::str::from_utf8(&events).ok()?.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

/// Processor time of a process and of its children that it has waited for, not counted; `None` if it is not ours to see.
pub fn cpu_s(pid: u32) -> Option<f64> {
    let stat = super::files::read_small(&format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(stat.get(after..)?).ok()?;
    let ticks: Vec<u64> =
        text.split_ascii_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    // SAFETY: asks only.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    (ticks.len() == 2).then(|| ticks.iter().sum::<u64>() as f64 / a_second as f64)
}

/// Whether that process is there and is not ours.
pub fn is_anothers_child(pid: u32) -> bool {
    let Ok(stat) = super::files::read_small(&format!("/proc/{pid}/stat")) else { return false };
    let after = stat.iter().rposition(|b| *b == b')').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(stat.get(after..).unwrap_or_default()).unwrap_or_default();
    let parent = text.split_ascii_whitespace().nth(1).and_then(|t| t.parse::<u32>().ok());
    parent.is_some_and(|parent| parent != super::process::pid())
}
