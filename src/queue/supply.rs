//! A log whose segments come one by one: supplied before producers need them, released when they are settled.
//!
//! Invariants, besides those of the log:
//! - Numbers are supplied in order and released in order; a slot has memory from the one to the other.
//! - One supplies at a time (the caller's duty), but should two do, each slot is claimed by compare-exchange.
//! - Only the consumer releases. What a producer may still write to is kept mapped for ever.
//! - [`Log::close`] is final: it succeeds only while the log is empty, and nothing is reserved afterwards.

use super::log::{FILLING, Log, NOT_YET, TAINTED};
use super::record::{Position, position, split};
use super::segment::Slot;
use crate::platform::sync::{Ordering, Site, at};

impl<'a> Log<'a> {
    /// The next number to be supplied, if there is room for one more.
    pub fn wanted(&self, room: u32) -> Option<u32> {
        let next = self.cursors.offer.load(Ordering::Acquire) as u32;
        let (head, offset) = split(self.head());
        let first = if offset < self.segment_len { head } else { head.wrapping_add(1) };
        (next.wrapping_sub(first) < room.min(self.segments)).then_some(next)
    }

    /// Whether `number` was supplied already, or is settled.
    pub fn is_supplied(&self, number: u32) -> bool {
        u64::from(number) < self.cursors.offer.load(Ordering::Acquire)
    }

    /// Put memory into the slot of `number`, which [`Log::wanted`] gave: `fill` does it, told whether the slot's
    /// own place must be left alone, and says whether it could.
    pub fn supply(&self, number: u32, fill: impl FnOnce(&'a Slot, bool) -> bool) -> bool {
        let Some(slot) = self.slot_of(number) else { return false };
        let before = slot.clean.load(Ordering::Acquire);
        let free = matches!(before, NOT_YET | TAINTED);
        if !free || slot.clean.compare_exchange(before, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        let filled = fill(slot, before == TAINTED);
        let state = if filled { u64::from(number) } else { before };
        slot.clean.store(state, at(Site::Clean, Ordering::Release));
        if filled {
            self.cursors.offer.store(u64::from(number) + 1, Ordering::Release);
        }
        filled
    }

    /// Everything before `to` is settled for good. `free` takes back the memory of each segment that lies
    /// before it, told its number and whether a producer may still write there.
    pub fn release(&self, to: Position, mut free: impl FnMut(&'a Slot, u32, bool)) {
        let (mut number, last) = (split(self.head()).0, split(to).0);
        while number != last {
            let tainted = self.given_up_between(position(number, 0), position(number + 1, 0));
            // A log that has just begun stands at the end of a segment that never was.
            let is_its = |slot: &&Slot| slot.clean.load(Ordering::Relaxed) == u64::from(number);
            if let Some(slot) = self.slot_of(number).filter(is_its) {
                free(slot, number, tainted);
                slot.clean.store(if tainted { TAINTED } else { NOT_YET }, Ordering::Relaxed);
            }
            number += 1;
        }
        self.cursors.head.store(to, Ordering::Release);
    }

    /// Let what comes next go to another segment: the rest of this one stays unused.
    pub fn skip_rest(&self) {
        loop {
            let tail = self.tail();
            let (number, offset) = split(tail);
            if offset >= self.segment_len {
                return;
            }
            let end = position(number, self.segment_len);
            if self.cursors.tail.compare_exchange(tail, end, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                if let Some(slot) = self.slot_of(number) {
                    self.pad(tail, slot.segment());
                }
                return;
            }
        }
    }

    /// Close the log if it is empty: from now on producers find it full. The caller supplies nothing more.
    pub fn close(&self) -> bool {
        let tail = self.tail();
        let next = split(tail).0.wrapping_add(1);
        let Some(slot) = self.slot_of(next) else { return false };
        // First the way out of this segment, then this segment.
        let named = slot.clean.load(Ordering::Acquire) == u64::from(next);
        if named {
            slot.clean.store(FILLING, Ordering::SeqCst);
        }
        // Not the place of a full segment's tail, from which a producer may be about to go on.
        let end = position(split(tail).0, self.segment_len + 8);
        let empty = self.head() == tail
            && self.cursors.tail.compare_exchange(tail, end, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if empty {
            self.cursors.head.store(end, Ordering::Release);
        } else if named {
            slot.clean.store(u64::from(next), Ordering::SeqCst);
        }
        empty
    }
}
