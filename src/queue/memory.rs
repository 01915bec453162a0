//! Segments in anonymous memory: the way a log without a spool gets them.
//!
//! Invariants:
//! - All segments of a generation are one reservation, wiped on fork like the cursors: a child's fork costs
//!   nothing for them, and a stray write of the child lands in memory nobody reads.
//! - Memory a producer may still write to is never given to another use: it is abandoned.

use super::segment::Slot;
use crate::platform::mmap::{self, Mapping};
use std::io;

/// Reserve memory for all slots and put it into them. The caller owns the mapping.
pub fn fill(slots: &[Slot], segment_len: u32, try_wipe: bool) -> io::Result<Mapping> {
    let len = segment_len as usize;
    let area = Mapping::anonymous(len * slots.len())?;
    if try_wipe {
        area.wipe_on_fork();
    }
    for (i, slot) in slots.iter().enumerate() {
        // SAFETY: fresh zeroed pages, page-aligned; the client unmaps them only when nobody uses it.
        unsafe { slot.fill(area.addr() + i * len) };
    }
    Ok(area)
}

/// Make a settled slot's memory zero again: overwritten if its pages are to be kept, else they go back to the
/// kernel. If a producer may still write there (`tainted`), the slot gets other memory.
pub fn blank(slot: &Slot, segment_len: u32, tainted: bool, keep: bool) -> bool {
    if tainted {
        let Ok(fresh) = Mapping::anonymous(segment_len as usize) else { return false };
        fresh.wipe_on_fork();
        // SAFETY: fresh zeroed pages, kept for ever.
        unsafe { slot.fill(fresh.leak()) };
        return true;
    }
    let addr = slot.segment().addr();
    // SAFETY: private anonymous memory that the consumer has passed and no producer can reach.
    if keep || !unsafe { mmap::discard(addr, segment_len as usize) } {
        slot.segment().zero(segment_len);
    }
    true
}

/// Make a slot's pages present before producers need them.
pub fn prefault(slot: &Slot, segment_len: u32) {
    mmap::populate(slot.segment().addr(), segment_len as usize);
}
