//! Signals of a supervisor, and of the workers that it forks.
//!
//! Invariants:
//! - A supervisor's thread handles no signal: those that it listens to are blocked, and read from a descriptor in its loop.
//! - Between the fork and the child's own dispositions every signal is blocked, so no handler of the parent's runs in the
//!   child ([`Mask`]).
//! - A supervisor's other threads pass on what the kernel gives them; all other handlers of ours are a worker's: for TERM, which stores a flag and writes to one descriptor, and for the end of
//!   its supervisor, which sets a timer too. In a child that inherits them they act as if they were not there.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A set of signals that was in force, to be put back.
pub struct Mask(libc::sigset_t);

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; a number that is no signal is refused.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn mask(how: i32, set: &libc::sigset_t) -> Mask {
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both are valid sets; the call fills in the second.
    unsafe {
        libc::pthread_sigmask(how, set, old.as_mut_ptr());
        Mask(old.assume_init())
    }
}

/// Block these, in this thread.
pub fn block(signals: &[i32]) -> Mask {
    mask(libc::SIG_BLOCK, &set_of(signals))
}

/// Block all that can be.
pub fn block_all() -> Mask {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set.
    let all = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        all.assume_init()
    };
    mask(libc::SIG_SETMASK, &all)
}

/// Put a mask back.
pub fn restore(mask_before: &Mask) {
    mask(libc::SIG_SETMASK, &mask_before.0);
}

/// Block nothing.
pub fn unblock_all() {
    mask(libc::SIG_SETMASK, &set_of(&[]));
}

fn action(signal: i32, handler: usize, flags: i32) -> bool {
    // SAFETY: all-zero bytes are a value of `sigaction`: the default, an empty mask, no flags.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: the handler is SIG_DFL, SIG_IGN or `on_stop`, which fits its flags.
    unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) == 0 }
}

/// The default for one signal.
pub fn default(signal: i32) {
    action(signal, libc::SIG_DFL, 0);
}

/// Give up that a signal is ignored: children of a process that ignores CHLD are reaped by nobody, and lost.
pub fn unignore(signal: i32) {
    // SAFETY: all-zero bytes are a value of `sigaction`.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) } == 0;
    if known && now.sa_sigaction == libc::SIG_IGN {
        default(signal);
    }
}

/// What the parent's program wanted done at a signal is not the child's business: every handler gives way to the
/// default. With `ignored` also what was ignored (a program that is exec'd would inherit that); without, it stays: a runtime
/// that ignores SIGPIPE counts on it. Async-signal-safe.
pub fn reset(ignored: bool) {
    for signal in 1..=64 {
        // SAFETY: all-zero bytes are a value of `sigaction`.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks only; a number that is no signal is refused.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) } == 0;
        let handled = now.sa_sigaction != libc::SIG_DFL && now.sa_sigaction != libc::SIG_IGN;
        if known && (handled || (ignored && now.sa_sigaction == libc::SIG_IGN) || signal == libc::SIGCHLD) {
            default(signal);
        }
    }
}

/// The signals of a set, read from a descriptor instead of handled.
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// For signals that are blocked.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = set_of(signals);
        // SAFETY: a valid set; -1 makes a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next one that has come, as [`meant`].
    pub fn next(&self) -> Option<i32> {
        loop {
            let (signal, code) = self.read()?;
            if let Some(meant) = meant(signal, code) {
                return Some(meant);
            }
        }
    }

    fn read(&self) -> Option<(i32, i32)> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: that many writable bytes.
        let n = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(n) != Ok(size) {
            return None;
        }
        // SAFETY: filled in by the kernel, and zeroed before.
        let info = unsafe { info.assume_init() };
        Some((i32::try_from(info.ssi_signo).ok()?, info.ssi_code))
    }
}

/// What a signal means to a supervisor. From somebody, what it is; from the kernel, HUP is that the terminal is gone, which is
/// the end, and WINCH that it has another size, which is nothing.
fn meant(signal: i32, code: i32) -> Option<i32> {
    match (signal, code) {
        (libc::SIGHUP, libc::SI_KERNEL) => Some(libc::SIGTERM),
        (libc::SIGWINCH, libc::SI_KERNEL) => None,
        _ => Some(signal),
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The process whose handlers these are.
static OWNER: AtomicU32 = AtomicU32::new(0);
static STOPPING: AtomicBool = AtomicBool::new(false);
static STOP_FD: AtomicI32 = AtomicI32::new(-1);
static GRACE_MS: AtomicU32 = AtomicU32::new(0);
static TIMER: AtomicUsize = AtomicUsize::new(0);

/// Signals of a supervisor that other threads of its process took: one bit each.
static ROUTED: AtomicU64 = AtomicU64::new(0);
static ROUTE_FD: AtomicI32 = AtomicI32::new(-1);

/// Whether a handler runs in the process that asked for it. In one that was forked from it the signal does what it does by
/// default, once the handler has returned: what that process is told is none of its parent's business. Async-signal-safe.
fn is_ours(signal: i32) -> bool {
    let pid = super::process::pid();
    if OWNER.load(Ordering::SeqCst) == pid {
        return true;
    }
    default(signal);
    // SAFETY: this process, and a signal that is blocked while its handler runs.
    unsafe { libc::kill(pid as i32, signal) };
    false
}

extern "C" fn on_routed(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid one to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    let (true, Some(signal)) = (is_ours(signal), meant(signal, code)) else { return };
    // SAFETY: as in `on_stop`.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    ROUTED.fetch_or(1 << (signal & 63), Ordering::SeqCst);
    ring(ROUTE_FD.load(Ordering::SeqCst));
    *errno = before;
}

/// What a process did at some signals, to be put back.
pub struct Before(Vec<(i32, libc::sigaction)>);

/// The thread that listens blocks its signals; the kernel then gives them to any other that does not. From now on that one
/// passes them on: [`routed`] says which came, and `bell` is rung.
pub fn route(signals: &[i32], bell: i32) -> Before {
    ROUTED.store(0, Ordering::SeqCst);
    OWNER.store(super::process::pid(), Ordering::SeqCst);
    route_to(bell);
    let mut before = Vec::with_capacity(signals.len());
    for signal in signals {
        // SAFETY: all-zero bytes are a value of `sigaction`.
        let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_routed;
        new.sa_sigaction = handler as usize;
        new.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        // SAFETY: two valid places; the handler fits its flags.
        if unsafe { libc::sigaction(*signal, &raw const new, &raw mut old) } == 0 {
            before.push((*signal, old));
        }
    }
    Before(before)
}

/// Ring this bell from now on.
pub fn route_to(bell: i32) {
    ROUTE_FD.store(bell, Ordering::SeqCst);
}

/// Those that came to other threads since this was last asked.
pub fn routed() -> Vec<i32> {
    let bits = ROUTED.swap(0, Ordering::SeqCst);
    (1..64).filter(|signal| bits & (1 << signal) != 0).collect()
}

/// Do again what was done before.
pub fn unroute(before: &Before) {
    for (signal, old) in &before.0 {
        // SAFETY: what the kernel gave for that signal.
        unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
    }
}

/// What the kernel sends a worker whose supervisor has ended: one that nothing else uses, so that whatever the worker's own
/// code does to TERM, its time is limited.
const ORPHANED: i32 = 63;

extern "C" fn on_stop(signal: i32) {
    if is_ours(signal) {
        stop();
    }
}

fn stop() {
    // SAFETY: the address of this thread's errno; what the interrupted code sees there is put back.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    STOPPING.store(true, Ordering::SeqCst);
    ring(STOP_FD.load(Ordering::SeqCst));
    *errno = before;
}

extern "C" fn on_orphaned(signal: i32) {
    if !is_ours(signal) {
        return;
    }
    // Nobody is there any more to end this process when its time is over.
    end_after(GRACE_MS.load(Ordering::SeqCst));
    stop();
    // For a handler of the worker's own, and for what it may be waiting in.
    // SAFETY: this process, and a signal.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

/// Write to an eventfd, which may be nobody's: that is an error and nothing else. Async-signal-safe.
pub fn ring(fd: i32) {
    let one = 1u64;
    // SAFETY: eight readable bytes.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// From now on TERM asks this process to stop: see [`is_stopping`]; `stop_fd` becomes readable and stays so.
pub fn stop_on_term(stop_fd: i32) {
    OWNER.store(super::process::pid(), Ordering::SeqCst);
    STOPPING.store(false, Ordering::SeqCst);
    STOP_FD.store(stop_fd, Ordering::SeqCst);
    action(libc::SIGTERM, on_stop as extern "C" fn(i32) as usize, libc::SA_RESTART);
}

/// When this process's parent, `supervisor`, ends, it gets TERM, and KILL `grace_ms` later.
#[cfg(target_os = "linux")]
pub fn end_with(supervisor: u32, grace_ms: u32) {
    GRACE_MS.store(grace_ms, Ordering::SeqCst);
    TIMER.store(deadly_timer().map_or(0, |id| id + 1), Ordering::SeqCst);
    action(ORPHANED, on_orphaned as extern "C" fn(i32) as usize, libc::SA_RESTART);
    super::spawn::signal_on_parents_death(ORPHANED);
    if super::spawn::parent() != supervisor {
        // It ended before that was asked for.
        // SAFETY: this process, and a signal.
        unsafe { libc::kill(libc::getpid(), ORPHANED) };
    }
}

/// Whether TERM came.
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// A timer that kills this process; children do not inherit it.
fn deadly_timer() -> Option<usize> {
    // SAFETY: all-zero bytes are a value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: both are valid places.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } == 0;
    made.then_some(timer as usize)
}

/// Let the timer run. Async-signal-safe.
fn end_after(ms: u32) {
    let Some(id) = TIMER.load(Ordering::SeqCst).checked_sub(1) else { return };
    let value = libc::timespec {
        tv_sec: libc::time_t::from(ms / 1000),
        tv_nsec: libc::c_long::from(ms % 1000) * 1_000_000 + 1,
    };
    let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    // SAFETY: the timer was made by this process; the old value is not asked for.
    unsafe { libc::timer_settime(id as libc::timer_t, 0, &raw const spec, std::ptr::null_mut()) };
}

/// The name of a signal, as `kill -l` knows it, with SIG before it.
pub fn name(signal: i32) -> String {
    let names = [
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGILL, "ILL"),
        (libc::SIGTRAP, "TRAP"),
        (libc::SIGABRT, "ABRT"),
        (libc::SIGBUS, "BUS"),
        (libc::SIGFPE, "FPE"),
        (libc::SIGKILL, "KILL"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGSEGV, "SEGV"),
        (libc::SIGUSR2, "USR2"),
        (libc::SIGPIPE, "PIPE"),
        (libc::SIGALRM, "ALRM"),
        (libc::SIGTERM, "TERM"),
        (libc::SIGCHLD, "CHLD"),
        (libc::SIGCONT, "CONT"),
        (libc::SIGSTOP, "STOP"),
        (libc::SIGTSTP, "TSTP"),
        (libc::SIGTTIN, "TTIN"),
        (libc::SIGTTOU, "TTOU"),
        (libc::SIGWINCH, "WINCH"),
        (libc::SIGVTALRM, "VTALRM"),
        (libc::SIGPROF, "PROF"),
        (libc::SIGIO, "IO"),
        (libc::SIGSTKFLT, "STKFLT"),
        (libc::SIGPWR, "PWR"),
        (libc::SIGSYS, "SYS"),
        (libc::SIGXCPU, "XCPU"),
        (libc::SIGXFSZ, "XFSZ"),
    ];
    match names.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => format!("SIG{name}"),
        None => format!("SIG{signal}"),
    }
}
