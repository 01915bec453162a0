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

    /// A refused batch is halved to find the event that is refused; but a collector that refuses everything
    /// is not asked about each event: after so many refusals without one acceptance the rest goes as a whole.
    pub fn may_halve(&mut self) -> bool {
        self.refusals += 1;
        let n = self.batch.len();
        self.refusals as usize <= (4 * (n.ilog2() as usize + 1)).max(n / 8)
    }
}
