//! One group: what is wanted of it, and how far its workers have been replaced.
#![forbid(unsafe_code)]

use super::{Limits, Ms};

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub limits: Limits,
    pub want: u32,
    /// Reloads so far.
    pub generation: u32,
    /// A replacement for the present generation did not become ready.
    pub roll_stopped: bool,
    /// Replacements in a row that did not become ready.
    pub roll_failures: u32,
    /// No replacement before this.
    pub roll_not_before: Ms,
}

impl Group {
    pub(super) fn new(limits: Limits, want: u32) -> Group {
        Group { limits, want, generation: 0, roll_stopped: false, roll_failures: 0, roll_not_before: 0 }
    }

    /// What went wrong with its replacements is forgotten.
    pub(super) fn roll_afresh(&mut self) {
        self.roll_stopped = false;
        self.roll_failures = 0;
        self.roll_not_before = 0;
    }
}
