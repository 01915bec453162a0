//! What the operating system gives us, each thing behind a small safe name.
//!
//! Invariants of this room:
//! - It is the bottom: it imports no other room.
//! - Nothing here keeps a lock that another thread could hold at the instant of a fork. What must be
//!   process-wide is an atomic, and every function is callable in a forked child.
//! - `unsafe` is allowed here, each use with its SAFETY line.

pub mod clock;
pub mod descriptor;
pub mod entropy;
#[cfg(target_os = "linux")]
pub mod epoll;
pub mod files;
pub mod futex;
pub mod identity;
pub mod island;
#[cfg(target_os = "linux")]
pub mod limits;
pub mod log;
pub mod mapped;
pub mod mmap;
pub mod once;
pub mod page;
pub mod parcel;
#[cfg(target_os = "linux")]
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod registry;
pub mod sealed;
pub mod seat;
pub mod shared;
#[cfg(target_os = "linux")]
pub mod signals;
pub mod sockets;
#[cfg(target_os = "linux")]
pub mod spawn;
pub mod sync;
pub mod terminal;
pub mod thread;
pub mod tidlock;
