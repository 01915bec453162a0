//! The control page: everything of a client that a fork could tear.
//!
//! Invariant: only atomics, blank at birth and in every forked child. The state word comes first and gates
//! the rest: unless it holds this process's generation, nothing else may be believed.

use super::family::FamilyWords;
use crate::delivery::counters::Counters;
use crate::delivery::engine::Engine;
use crate::delivery::words::Words;
use crate::fork::world::StateWord;
use crate::platform::parcel::Parcel;
use crate::queue::log::Cursors;
use crate::queue::media::stack::MediaWords;
use crate::queue::spool::store::StoreWords;
use std::sync::atomic::AtomicU32;

crate::blank_struct! {
    /// See the module's text.
    pub struct Control {
        /// Has this process built its world?
        pub state: StateWord,
        /// The process that built it; looked at only where the kernel does not wipe.
        pub pid: AtomicU32,
        /// 1: libc's child hook ran for this very process; a raw clone finds 0.
        pub hooked: AtomicU32,
        /// Keeps the producers' words off the state's cache line.
        pub pad: [AtomicU32; 12],
        /// The queue's.
        pub cursors: Cursors,
        /// The sender's.
        pub words: Words,
        /// What happened.
        pub counters: Counters,
        /// Uploads.
        pub media: MediaWords,
        /// The spool's.
        pub store: StoreWords,
        /// What it shows to its family.
        pub family: FamilyWords,
        /// This process's engine, owned by whoever consumes.
        pub engine: Parcel<Engine>,
    }
}
