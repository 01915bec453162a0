//! The C names of the fleet's supervisor.
//!
//! Invariant: a `telemetry_fleet_t *` is a [`Fleet`] of one thread of one process; any other thread or process is refused, and
//! nothing of it is touched. What a worker's function does never comes back through here: its process ends with it.

use super::fleet_worker::telemetry_worker;
use super::text::{give, text_of};
use super::{
    TELEMETRY_CLOSED, TELEMETRY_INTERNAL, TELEMETRY_INVALID, TELEMETRY_IO, TELEMETRY_OK, error, guard,
    telemetry_status,
};
use crate::fleet::child::Target;
use crate::fleet::status;
use crate::fleet::supervisor::{Error, Fleet, Step, exit};
use crate::fork::hooks;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A fleet: a supervisor and the worker processes that it starts, watches, restarts and stops. It belongs to the thread that
/// made it, the process's main one if it forks; a forked child must not use it.
pub struct telemetry_fleet {
    _private: [u8; 0],
}

/// A worker's work: called once in a new process, in its only thread; what it returns is the exit status of the process.
/// It should call telemetry_worker_ready when it can work, telemetry_worker_beat as it gets on, and return soon after
/// telemetry_worker_stopping. Before the process ends its telemetry clients deliver what they hold, as at exit().
pub type telemetry_worker_fn =
    Option<unsafe extern "C-unwind" fn(worker: *mut telemetry_worker, user: *mut c_void) -> c_int>;

/// Forks as fork() does: returns 0 in the child, its process id in the parent, -1 with errno if it cannot.
pub type telemetry_fork_fn = Option<unsafe extern "C-unwind" fn(user: *mut c_void) -> i32>;

/// What a zygote runs before its first worker; 0, or the status with which the zygote ends.
pub type telemetry_prepare_fn = Option<unsafe extern "C-unwind" fn(user: *mut c_void) -> c_int>;

/// Called in the supervisor's loop when a watched descriptor is readable. It may call every telemetry_fleet_ function but
/// run, step and free.
pub type telemetry_watch_fn =
    Option<unsafe extern "C-unwind" fn(fleet: *mut telemetry_fleet, fd: c_int, user: *mut c_void)>;

fn fleet_of<'a>(f: *mut telemetry_fleet) -> Option<&'a Fleet> {
    // SAFETY: by the contract of the C API, NULL or a handle from telemetry_fleet_new that was not freed.
    let Some(fleet) = (unsafe { f.cast::<Fleet>().as_ref() }) else {
        error::set("the fleet (first argument) is NULL");
        return None;
    };
    if !fleet.is_here() {
        error::set(
            "a fleet belongs to the thread and the process that made it; allowed: to call it there, not from its own fork or prepare function",
        );
        return None;
    }
    Some(fleet)
}

fn status_of(done: Result<(), Error>) -> telemetry_status {
    match done {
        Ok(()) => TELEMETRY_OK,
        Err(Error::Invalid(text)) => error::fail(TELEMETRY_INVALID, &text),
        Err(Error::Io(text)) => error::fail(TELEMETRY_IO, &text),
    }
}

/// The text of an argument, or the refusal of it; NULL is "".
macro_rules! text {
    ($pointer:expr, $what:literal) => {
        // SAFETY: by contract NULL or a NUL-terminated string.
        match unsafe { text_of($pointer) } {
            Some(text) => text,
            None => return error::fail(TELEMETRY_INVALID, concat!($what, " is not valid UTF-8")),
        }
    };
}

/// The fleet of an argument, or the refusal of it.
macro_rules! fleet {
    ($pointer:expr) => {
        match fleet_of($pointer) {
            Some(fleet) => fleet,
            None => return TELEMETRY_INVALID,
        }
    };
}

/// Makes a fleet; nothing is forked yet.
///
/// `config_json` is one JSON object; NULL or "" means {}. The environment (`TELEMETRY_FLEET_` + the key in capitals) supplies
/// what it leaves out; it is read here. On success `*out` is a handle that the caller owns and gives back with
/// telemetry_fleet_free. Call it in the main thread, before there are others. Linux only.
///
/// Errors: TELEMETRY_INVALID (telemetry_last_error names the key, the value and what is allowed), TELEMETRY_IO (no memory, no
/// descriptors).
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C-unwind" fn telemetry_fleet_new(
    config_json: *const c_char,
    out: *mut *mut telemetry_fleet,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        if out.is_null() {
            return error::fail(TELEMETRY_INVALID, "out (second argument) is NULL");
        }
        let json = text!(config_json, "the configuration");
        match Fleet::new(json) {
            Ok(fleet) => {
                // SAFETY: `out` is not NULL, and by contract a place for one pointer.
                unsafe { *out = Box::into_raw(Box::new(fleet)).cast() };
                TELEMETRY_OK
            }
            Err(why) => status_of(Err(why)),
        }
    })
}

/// Adds `count` workers under a name that no others have, also while the fleet runs; each runs `body` with `user`.
/// `limits_json` (NULL: none) is what they say for themselves of the keys that a group may have. `user` is handed on as it is,
/// and must live as long as the fleet.
///
/// Errors: TELEMETRY_INVALID for a bad name, number or configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_add(
    fleet: *mut telemetry_fleet,
    name: *const c_char,
    count: u32,
    limits_json: *const c_char,
    body: telemetry_worker_fn,
    user: *mut c_void,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        let (name, limits) = (text!(name, "the name"), text!(limits_json, "the configuration"));
        let Some(body) = body else { return error::fail(TELEMETRY_INVALID, "the worker's function is NULL") };
        let run = move |worker: &'static crate::fleet::worker::Worker| {
            let worker = std::ptr::from_ref(worker).cast_mut().cast();
            // SAFETY: a function of the host's, called as it was promised.
            let work = || unsafe { body(worker, user) };
            // Unwinding stops here: above is the supervisor's code, in the worker's process.
            let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(exit::SOFTWARE);
            let _ = catch_unwind(hooks::exit_all);
            code
        };
        status_of(fleet.add(name, count, limits, Target::Call(Box::new(run))))
    })
}

/// Adds `count` workers that run a program: `argv` is a NULL-terminated array of its name, looked for in PATH, and its
/// arguments; copied.
///
/// The program finds the trace context in TRACEPARENT, TRACESTATE and BAGGAGE, slot and incarnation in
/// OTEL_RESOURCE_ATTRIBUTES, and, if it uses this library, itself by telemetry_worker_current.
///
/// Errors: TELEMETRY_INVALID for a bad name, number or configuration, or if there is no such program.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_add_command(
    fleet: *mut telemetry_fleet,
    name: *const c_char,
    count: u32,
    limits_json: *const c_char,
    argv: *const *const c_char,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        let (name, limits) = (text!(name, "the name"), text!(limits_json, "the configuration"));
        let mut command = Vec::new();
        if !argv.is_null() {
            // SAFETY: by contract a NULL-terminated array of strings.
            while let Some(part) = unsafe { (*argv.add(command.len())).as_ref() } {
                // SAFETY: as above.
                let part = unsafe { CStr::from_ptr(part) };
                command.push(OsString::from_vec(part.to_bytes().to_vec()));
            }
        }
        status_of(fleet.add(name, count, limits, Target::Command(command)))
    })
}

/// Makes workers (and the zygote) with `fork_fn` instead of fork(): for a language whose runtime has its own. NULL: fork().
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_set_fork(
    fleet: *mut telemetry_fleet,
    fork_fn: telemetry_fork_fn,
    user: *mut c_void,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        match fork_fn {
            None => fleet.set_fork(Box::new(crate::platform::spawn::fork)),
            Some(fork) => fleet.set_fork(Box::new(move || {
                // SAFETY: a function of the host's, called as it was promised.
                match unsafe { fork(user) } {
                    n if n < 0 => Err(std::io::Error::last_os_error()),
                    n => Ok(n as u32),
                }
            })),
        }
        TELEMETRY_OK
    })
}

/// Has each zygote (mode "zygote") run `prepare` before its first worker: what all workers need is loaded there, once.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_prepare(
    fleet: *mut telemetry_fleet,
    prepare: telemetry_prepare_fn,
    user: *mut c_void,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        let Some(prepare) = prepare else { return error::fail(TELEMETRY_INVALID, "the function is NULL") };
        fleet.set_prepare(Box::new(move || {
            // SAFETY: a function of the host's, called as it was promised.
            let work = || unsafe { prepare(user) };
            catch_unwind(AssertUnwindSafe(work)).unwrap_or(exit::SOFTWARE)
        }));
        TELEMETRY_OK
    })
}

/// Has `watch` called in the loop whenever `fd` is readable; NULL: no more. `fd` stays the caller's; take it out before
/// closing it.
///
/// Errors: TELEMETRY_INVALID (not open), TELEMETRY_IO (cannot be waited for).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_watch(
    fleet: *mut telemetry_fleet,
    fd: c_int,
    watch: telemetry_watch_fn,
    user: *mut c_void,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let handle = fleet;
        let fleet = fleet!(fleet);
        let watcher = watch.map(|watch| -> Box<dyn Fn(c_int)> {
            // SAFETY: a function of the host's, called as it was promised.
            Box::new(move |fd| unsafe { watch(handle, fd, user) })
        });
        status_of(fleet.watch(fd, watcher))
    })
}

/// Runs the fleet until it has ended; the exit status for the process (telemetry_last_error says more if it is not 0): 0, 1 if a worker had to be killed, 64 if it could not
/// begin as it was told, 69 if the required health endpoint cannot listen, 70 after too
/// many restarts, 71 if the system refused what it needs.
///
/// TERM and INT end it within `grace_ms`, a second one at once, QUIT within two seconds; HUP replaces all workers, TTIN and
/// TTOU add and take one, USR1 says its status on stderr, USR2 becomes the program anew with the same workers, WINCH pauses. The
/// signals are taken in the loop, whichever thread of the process gets them; what the program did at them is put back in
/// the end. With `inline` it runs one worker in this process instead, and returns what that returned.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_run(fleet: *mut telemetry_fleet) -> i32 {
    guard(None, exit::SOFTWARE, || {
        let Some(fleet) = fleet_of(fleet) else { return exit::USAGE };
        match fleet.run() {
            Ok(0) => 0,
            Ok(code) => {
                error::set(&fleet.why());
                code
            }
            Err(why) => match status_of(Err(why)) {
                TELEMETRY_INVALID => exit::USAGE,
                _ => exit::SYSTEM,
            },
        }
    })
}

/// A descriptor that is readable when telemetry_fleet_step has something to do: for a loop of the host's. The fleet begins
/// with it. -1: it cannot.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_fd(fleet: *mut telemetry_fleet) -> i32 {
    guard(None, -1, || {
        let Some(fleet) = fleet_of(fleet) else { return -1 };
        fleet.fd().unwrap_or_else(|why| {
            status_of(Err(why));
            -1
        })
    })
}

/// One turn of the loop: waits for at most `timeout_ms`, and does what there is to do. The first one begins.
///
/// TELEMETRY_CLOSED once it has ended: telemetry_fleet_run gives the exit status then, at once. TELEMETRY_INVALID,
/// TELEMETRY_IO: it cannot begin.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_step(
    fleet: *mut telemetry_fleet,
    timeout_ms: u32,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        match fleet.step(Some(timeout_ms)) {
            Ok(Step::Going) => TELEMETRY_OK,
            Ok(Step::Ended(_)) => TELEMETRY_CLOSED,
            Err(why) => status_of(Err(why)),
        }
    })
}

/// Asks for the end of the workers of that name, or (NULL) of all, and of the fleet then, within `grace_ms`. Returns at once.
///
/// Errors: TELEMETRY_INVALID: no such workers.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_stop(
    fleet: *mut telemetry_fleet,
    name: *const c_char,
    grace_ms: u32,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        let text = text!(name, "the name");
        status_of(fleet.stop((!name.is_null()).then_some(text), Some(grace_ms.into())))
    })
}

/// Asks for so many workers of that name. Returns at once.
///
/// Errors: TELEMETRY_INVALID: no such workers, or more than there is room for.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_resize(
    fleet: *mut telemetry_fleet,
    name: *const c_char,
    count: u32,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        let name = text!(name, "the name");
        status_of(fleet.resize(name, count))
    })
}

/// The status, one JSON object as the health endpoint's /status: copied to `json` with a NUL if it fits `cap` bytes. `*len`
/// (may be NULL) is its length without the NUL in any case.
///
/// With `json` NULL and `cap` 0 it only tells the length.
///
/// Errors: TELEMETRY_TOO_LARGE: it does not fit, and nothing was written to `json`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_status(
    fleet: *mut telemetry_fleet,
    json: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let fleet = fleet!(fleet);
        // SAFETY: by contract `cap` writable bytes, and a place for a length or NULL.
        unsafe { give(fleet.status().json(false).trim_end(), json, cap, len) }
    })
}

/// The same of any fleet's scoreboard, by its path in the runtime directory: from any process and thread, also while its
/// supervisor is stopped (SIGSTOP, a debugger).
///
/// Errors: TELEMETRY_IO: it cannot be opened, or is none; TELEMETRY_TOO_LARGE as above.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_scoreboard_read(
    path: *const c_char,
    json: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> telemetry_status {
    guard(None, TELEMETRY_INTERNAL, || {
        let path = text!(path, "the path");
        match crate::board::scoreboard::Board::open(Path::new(path)) {
            // SAFETY: by contract `cap` writable bytes, and a place for a length or NULL.
            Ok(board) => unsafe { give(status::of(&board).json(false).trim_end(), json, cap, len) },
            Err(why) => error::fail(TELEMETRY_IO, &format!("{path}: {why}")),
        }
    })
}

/// Gives a fleet back. One that runs still is stopped at once: its workers are killed. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn telemetry_fleet_free(fleet: *mut telemetry_fleet) {
    guard(None, (), || {
        if !fleet.is_null() && fleet_of(fleet).is_some() {
            // SAFETY: by contract a handle that was not freed, and not used again.
            let fleet = unsafe { Box::from_raw(fleet.cast::<Fleet>()) };
            fleet.kill();
        }
    });
}
