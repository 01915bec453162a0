//! A fleet: worker processes that one supervisor starts, watches, restarts and stops.
//!
//! [`policy`] decides what is to be done, as a pure function of what happened and when; [`supervisor`] is the loop that
//! does it, [`health`] what it tells who asks; [`child`] and [`zygote`] are what runs in new processes, and [`worker`]
//! is what they say of themselves on the scoreboard.
#![forbid(unsafe_code)]

pub mod child;
pub mod environment;
pub mod health;
pub mod policy;
mod say;
pub mod settings;
pub mod status;
pub mod supervisor;
pub mod trace;
pub mod worker;
pub mod zygote;
