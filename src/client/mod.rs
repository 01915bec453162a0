//! (room)

pub mod config;
