//! How a client survives `fork()`: one page that the kernel wipes.
//!
//! Invariants of this room:
//! - Everything a fork could tear lives in memory marked wipe-on-fork ([`WipedPage`](crate::platform::page::WipedPage)). The kernel
//!   hands every child a blank copy, also for `_Fork` and raw `clone`, where no hook runs.
//! - One word of that page, the [`world::StateWord`], says whether *this process* has built its world
//!   (cursors, counters, id seed). Blank means "not yet": exactly one thread claims it by
//!   compare-exchange, builds, and publishes; the others wait with a bound.
//! - Hooks ([`hooks`]) only load, store, close and, in `prepare`, wait within a budget. The child's hook
//!   takes no lock, allocates nothing, logs nothing and runs no destructor of the parent's.
//! - A thread may start only while the [`gate`] is open.
//! - Where the kernel has no wipe-on-fork, the child's hook blanks the state words by hand, and every call
//!   compares the process id, which also finds a raw `clone`.
//!
//! Source of the idea: the fork detector of BoringSSL (`fork_detect.cc`), with the generation itself in
//! the page instead of a flag beside a number.

#[cfg(not(loom))]
pub mod gate;
#[cfg(not(loom))]
pub mod hooks;
pub mod world;
