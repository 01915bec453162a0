//! Where a log's segments come from: memory that is all there from the start, or files made as they are needed.

use super::log::Log;
use super::memory;
use super::record::{Position, split};
use super::spool::store::Store;

/// See the module's text.
#[derive(Clone, Copy)]
pub enum Backing<'a> {
    /// Anonymous memory.
    Memory,
    /// A spool.
    Spool(Store<'a>),
}

impl<'a> Backing<'a> {
    /// The spool, if there is one.
    pub fn spool(&self) -> Option<&Store<'a>> {
        match self {
            Backing::Memory => None,
            Backing::Spool(store) => Some(store),
        }
    }

    /// Everything before `to` is settled for good. `keep`: memory is used again soon.
    pub fn settle(&self, log: &Log<'a>, to: Position, keep: bool) {
        match self {
            Backing::Memory => {
                log.settle(to, |slot, tainted| memory::blank(slot, log.segment_len, tainted, keep));
            }
            Backing::Spool(store) => store.settle(log, to),
        }
    }

    /// Have the segment in use and the next one ready and present, once for each new segment.
    pub fn prepare(&self, log: &Log<'a>, done: &mut Option<u32>) {
        let now = split(log.tail()).0;
        if *done == Some(now) {
            return;
        }
        match self {
            Backing::Memory => {
                if done.is_none() {
                    log.tail_slot().inspect(|slot| memory::prefault(slot, log.segment_len));
                }
                log.next_slot().inspect(|slot| memory::prefault(slot, log.segment_len));
            }
            // A process that has taken nothing yet needs no file.
            Backing::Spool(store) if log.accepted() > 0 => {
                if !store.supply_next(log) {
                    return;
                }
            }
            Backing::Spool(_) => return,
        }
        *done = Some(now);
    }
}
