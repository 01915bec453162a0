//! The one exit handler.
//!
//! Invariant: it runs after every `atexit` handler and every destructor of the program (libc runs a library's
//! destructors last), so what those enqueue is delivered too. It has one budget for all clients, none where the
//! collector is known to be down, and nothing to do in a process that never used a client.

use crate::fork::hooks;

extern "C" fn at_exit() {
    let _ = std::panic::catch_unwind(hooks::exit_all);
}

// SAFETY: the section is a list of functions of this type, which the loader calls at exit.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".fini_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_term_func"))]
static AT_EXIT: extern "C" fn() = at_exit;
