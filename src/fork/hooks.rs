//! The hooks around `fork()`, registered once, and the clients they look after.
//!
//! Invariants:
//! - The registry shares the ownership of each client until nobody can be looking at it any more, so a hook
//!   never looks at freed memory.
//! - `prepare` has [`BUDGET`] for all clients together. `child` only loads, stores and closes.

use super::gate;
use crate::platform::registry::{Registry, Ticket};
use crate::platform::{island, process};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What `prepare` may wait: five milliseconds less what it needs itself.
pub const BUDGET: Duration = Duration::from_micros(4500);

/// What the hooks ask of a client.
pub trait ForkAware: Send + Sync {
    /// Before the fork, the gate is closed: let idle threads end, at the latest by `deadline`. Called for
    /// every client twice: first with `ask` true (no waiting), then with `ask` false.
    fn prepare(&self, ask: bool, deadline: Instant);
    /// After it, in the parent, the gate is open again.
    fn parent(&self);
    /// After it, in the child. May only load, store and close.
    fn child(&self);
    /// The process exits: bring out what is queued. First with `ask` true (no waiting), then with false.
    fn exit(&self, ask: bool, deadline: Instant);
    /// How long this client allows `exit` to take, if it has anything to do.
    fn exit_budget(&self) -> Duration;
}

/// A client's place in the registry.
pub struct Registration(Ticket);

static CLIENTS: Registry<Arc<dyn ForkAware>> = Registry::new();
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Register the hooks with libc, once a process family. `try_wipe` false forces the fallback (tests).
pub fn install(try_wipe: bool) {
    gate::prepare_page(try_wipe);
    if !INSTALLED.swap(true, Ordering::SeqCst) {
        process::at_fork(prepare, parent, child);
    }
}

/// Look after `client` until [`unregister`].
pub fn register(client: Arc<dyn ForkAware>) -> Registration {
    Registration(CLIENTS.add(client))
}

/// Look after it no longer.
pub fn unregister(registration: &Registration) {
    CLIENTS.remove(registration.0);
}

/// The process exits: one budget for all clients together, and none where there is nothing to do.
pub fn exit_all() {
    let mut budget = Duration::ZERO;
    CLIENTS.each(|c| budget = budget.max(c.exit_budget()));
    let deadline = Instant::now() + budget;
    CLIENTS.each(|c| c.exit(true, deadline));
    CLIENTS.each(|c| c.exit(false, deadline));
}

extern "C" fn prepare() {
    let deadline = Instant::now() + BUDGET;
    gate::close();
    CLIENTS.each(|c| c.prepare(true, deadline));
    CLIENTS.each(|c| c.prepare(false, deadline));
}

extern "C" fn parent() {
    gate::open();
    CLIENTS.each(|c| c.parent());
}

extern "C" fn child() {
    island::leave();
    gate::reset_in_child();
    CLIENTS.forget_walks();
    CLIENTS.each(|c| c.child());
}
