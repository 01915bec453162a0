//! A fleet: worker processes that one supervisor starts, watches, restarts and stops.
//!
//! [`policy`] decides what is to be done, as a pure function of what happened and when; [`supervisor`] is the loop that
//! does it, [`health`] what it tells who asks; [`child`] and [`zygote`] are what runs in new processes, and [`worker`]
//! is what they say of themselves on the scoreboard.
#![forbid(unsafe_code)]

pub mod child;
pub mod environment;
pub mod policy;
pub mod settings;
pub mod trace;
pub mod worker;
pub mod zygote;
