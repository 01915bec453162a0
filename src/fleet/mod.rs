//! A fleet: worker processes that one supervisor starts, watches, restarts and stops.
//!
//! [`policy`] decides what is to be done, as a pure function of what happened and when; the rest of this room does it.
#![forbid(unsafe_code)]

pub mod policy;
