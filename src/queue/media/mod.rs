//! Uploads that wait for their delivery: large, seldom, and never in the log of events.
//!
//! Invariants:
//! - An upload is one piece of memory, its [`image::Image`]: header, data, note. It is complete before anybody but its maker
//!   can find it, and it is never changed after.
//! - Without a spool the images are a stack whose head is in the wiped page; their memory is wiped as well, so that a
//!   forked child has none of them and copies nothing. With a spool each is a file, which gets its name when it is whole.
//! - What waits together never exceeds the configured room.

pub mod files;
pub mod image;
pub mod stack;
