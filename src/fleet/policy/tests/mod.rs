//! The policy under a clock of its own: a world of children that do as they were planned (`world`), plain scenarios, and
//! random ones with invariants (`model`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod hanging;
mod model;
mod restarting;
mod rolling;
mod stopping;
mod world;

use super::table::Why;
use super::*;
use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    /// The rows of the table that this test went through.
    static PASSED: RefCell<BTreeSet<(SlotState, SlotState, Why)>> = const { RefCell::new(BTreeSet::new()) };
}

pub(super) fn passed_through(from: SlotState, to: SlotState, why: Why) {
    PASSED.with_borrow_mut(|passed| passed.insert((from, to, why)));
}
