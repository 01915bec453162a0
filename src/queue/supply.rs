//! A log whose segments come one by one: supplied before producers need them, released when they are settled.
//!
//! Invariants, besides those of the log:
//! - Numbers are supplied in order and released in order; a slot has memory from the one to the other.
//! - One supplies at a time (the caller's duty), but should two do, each slot is claimed by compare-exchange.
//! - Only the consumer releases. What a producer may still write to is kept mapped for ever.
//! - [`Log::close`] and [`Log::seal`] are final: nothing is reserved afterwards; the first succeeds only while the log
//!   is empty.

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
    /// before it, told its number and whether a producer may still write there, and says whether the slot's own place
    /// may be used again.
    pub fn release(&self, to: Position, mut free: impl FnMut(&'a Slot, u32, bool) -> bool) {
        let (mut number, last) = (split(self.head()).0, split(to).0);
        while number != last {
            let tainted = self.given_up_between(position(number, 0), position(number + 1, 0));
            // A log that has just begun stands at the end of a segment that never was.
            let is_its = |slot: &&Slot| slot.clean.load(Ordering::Relaxed) == u64::from(number);
            if let Some(slot) = self.slot_of(number).filter(is_its) {
                let again = free(slot, number, tainted);
                slot.clean.store(if again { NOT_YET } else { TAINTED }, Ordering::Relaxed);
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
        self.end(|tail| self.head() == tail) && self.head() == self.tail()
    }

    /// Close the log whatever is in it; what is reserved already may still be committed.
    pub fn seal(&self) {
        while !self.end(|_| true) {}
    }

    /// Move the tail to where nothing follows, if `may` still says so of it.
    fn end(&self, may: impl Fn(Position) -> bool) -> bool {
        let tail = self.tail();
        let (number, offset) = split(tail);
        if offset > self.segment_len {
            return true;
        }
        let Some(slot) = self.slot_of(number.wrapping_add(1)) else { return false };
        // First the way out of this segment, then this segment.
        let next = u64::from(number.wrapping_add(1));
        let named = slot.clean.load(Ordering::Acquire) == next;
        if named {
            slot.clean.store(FILLING, Ordering::SeqCst);
        }
        // Not the place of a full segment's tail, from which a producer may be about to go on.
        let end = position(number, self.segment_len + 8);
        let empty = self.head() == tail;
        let ended = may(tail)
            && self.cursors.tail.compare_exchange(tail, end, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        if !ended && named {
            slot.clean.store(next, Ordering::SeqCst);
        } else if ended && empty {
            self.cursors.head.store(end, Ordering::Release);
        } else if ended && offset < self.segment_len {
            self.slot_of(number).inspect(|slot| self.pad(tail, slot.segment()));
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::mmap::Mapping;
    use crate::platform::page::WipedPage;
    use crate::queue::log::{Cursors, Refused, Seen};

    const LEN: u32 = 4096;

    /// A log of so many segments, and memory for them.
    fn with_log(segments: u32, body: impl FnOnce(&Log<'_>, &dyn Fn(u32) -> bool)) {
        let slots = segments.next_power_of_two();
        let page: WipedPage<Cursors, Slot> = WipedPage::new(slots as usize, true).unwrap();
        let area = Mapping::anonymous((slots * LEN) as usize).unwrap();
        let log = Log {
            cursors: page.head(),
            slots: page.tail(),
            segments,
            segment_len: LEN,
            nonce: 0x7_0000_0001,
            checked: false,
        };
        log.start_unsupplied();
        body(&log, &|number| {
            log.supply(number, |slot, _| {
                let addr = area.addr() + (number & (slots - 1)) as usize * LEN as usize;
                // SAFETY: the slot's own part of the area, which outlives it; nothing was written there before.
                unsafe { slot.fill(addr) };
                true
            })
        });
    }

    fn append(log: &Log<'_>, len: usize) -> bool {
        match log.append(0, 1, &vec![b'x'; len], || true) {
            Ok(_) => true,
            Err(Refused::Full) => false,
            Err(Refused::Torn) => panic!("nobody forked"),
        }
    }

    #[test]
    fn numbers_are_supplied_in_order_and_as_many_as_there_is_room_for() {
        with_log(3, |log, supply| {
            assert!(!append(log, 10), "nothing is supplied yet");
            let first = log.wanted(3).unwrap();
            assert!(!log.is_supplied(first) && supply(first) && log.is_supplied(first));
            assert!(!supply(first), "once");
            assert!(append(log, 10));
            assert_eq!(log.wanted(3), Some(first + 1));
            assert_eq!(log.wanted(1), None, "less room than before");
            assert!(supply(first + 1) && supply(first + 2));
            assert_eq!(log.wanted(3), None);
            assert!(append(log, 3000) && append(log, 3000) && append(log, 3000) && !append(log, 3000));
            log.release(position(first + 1, 256), |slot, number, tainted| {
                assert_eq!((number, tainted), (first, false));
                slot.clear();
                true
            });
            assert_eq!(log.wanted(3), Some(first + 3));
        });
    }

    #[test]
    fn what_is_released_first_is_the_first_that_was_supplied() {
        // As many segments as slots, all in use before anything is settled.
        with_log(2, |log, supply| {
            let first = log.wanted(2).unwrap();
            assert!(supply(first) && append(log, 3000) && supply(first + 1) && append(log, 3000));
            log.release(position(first, 256), |_, number, _| panic!("{number} is not settled"));
            assert!(matches!(log.look(position(first + 1, 256)), Seen::Record { .. }));
            let mut freed = Vec::new();
            log.release(position(first + 1, 256), |_, number, _| {
                freed.push(number);
                true
            });
            assert_eq!(freed, [first]);
        });
    }

    #[test]
    fn an_empty_log_closes_and_another_one_does_not() {
        with_log(2, |log, supply| {
            let first = log.wanted(2).unwrap();
            supply(first);
            append(log, 10);
            supply(first + 1);
            assert!(!log.close());
            assert!(append(log, 3000) && append(log, 3000), "it goes on, also into the next segment");
            log.release(log.tail(), |slot, _, _| {
                slot.clear();
                true
            });
            assert!(log.close());
            assert!(!append(log, 10));
            assert!(log.close(), "it stays closed");
        });
    }

    #[test]
    fn the_rest_of_a_segment_can_be_left_out() {
        with_log(2, |log, supply| {
            let first = log.wanted(2).unwrap();
            supply(first);
            append(log, 10);
            supply(first + 1);
            log.skip_rest();
            log.skip_rest();
            append(log, 20);
            let Seen::Record { next, body, .. } = log.look(position(first, 256)) else { panic!() };
            assert_eq!(body.len(), 10);
            let Seen::Record { at, body, .. } = log.look(next) else { panic!() };
            assert_eq!((split(at).0, body.len()), (first + 1, 20));
        });
    }
}
