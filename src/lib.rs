//! libtelemetry: events from servers that fork, delivered exactly once.
//!
//! The contract is `include/telemetry.h`. One event's way through the house:
//! `ffi` → [`client`] → [`queue`] (appended) ... [`delivery`] (read behind, batched) → [`format`] (body) →
//! [`sink`] (socket) → [`format`] (verdict) → [`queue`] (settled). [`fork`] keeps all of it safe in children,
//! [`platform`] is what the operating system gives. Beside it stands `fleet`, a supervisor of worker processes; what
//! workers and clients let others see of them lies on a [`board`].
//!
//! The interface is the C one, of the shared and the static library. As a Rust crate it is there for the command and the
//! tests: it sets the global allocator (see [`platform::island`]).

pub mod board;
#[cfg(not(loom))]
pub mod client;
pub mod delivery;
#[cfg(not(loom))]
pub mod ffi;
// Supervisors need pidfds and signalfds.
#[cfg(all(not(loom), target_os = "linux"))]
pub mod fleet;
pub mod fork;
#[cfg(not(loom))]
pub mod format;
pub mod platform;
pub mod queue;
#[cfg(not(loom))]
pub mod sink;
