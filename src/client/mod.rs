//! A client: one destination with its own queue, valid in the process that opened it and in every fork of it.
//!
//! Invariants of this room:
//! - It wires the others together and is the only one that knows them all.
//! - A [`handle::Client`] is immutable after open but for: the wiped page, the closed flag, the table of
//!   sockets, the address of the latest generation's segments, and the number of forks that generation knew.
//! - The environment is read once, in `open`, on the caller's thread.

pub mod config;
pub mod control;
pub mod drain;
pub mod family;
pub mod handle;
pub mod life;
pub mod open;
pub mod upload;
pub mod worker;
