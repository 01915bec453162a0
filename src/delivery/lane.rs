//! A lane: one batch at a time from one source, and how far it has come.
//!
//! Invariant: what belongs to a batch is forgotten with it ([`Lane::clear`]).

use super::batch::Batch;
use crate::queue::record::Position;
use std::time::Instant;

/// Which source a lane reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This process's log.
    Own,
    /// What others left in the spool.
    Orphans,
}

/// See the module's text.
pub struct Lane {
    /// What is being collected or sent.
    pub batch: Batch,
    /// When the batch is old enough to go.
    pub due: Option<Instant>,
    /// Nothing more fits.
    pub full: bool,
    /// Refusals since something was last accepted.
    pub refusals: u32,
}

impl Lane {
    /// Reads on from `read`.
    pub fn new(read: Position) -> Lane {
        let batch = Batch::new(read);
        Lane { batch, due: None, full: false, refusals: 0 }
    }

    /// All of the batch is final: begin the next one.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.due = None;
        self.full = false;
        self.refusals = 0;
    }

    /// Whether what comes next is likely to be refused as well. Halving finds the few that are; when most are, it asks
    /// about every event and about each group besides, so events go one by one until one is accepted.
    pub fn doubts(&self) -> bool {
        let levels = self.batch.len().max(1).ilog2() + 1;
        self.refusals > 2 * levels
    }
}
