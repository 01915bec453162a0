//! A segment: a fixed stretch of memory that holds records, and the slot it lives in.
//!
//! Invariants:
//! - A slot's memory starts zeroed, 8-byte aligned, and is `len` bytes long; every offset given here is
//!   checked against `len` by the log.
//! - Commit words are only touched as atomics; bodies are written by the one producer that reserved them
//!   before the word is committed (release) and read after it was seen (acquire).
//! - Whoever fills a slot decides what the memory is; the memory outlives every use (it is never unmapped
//!   while the client lives, only replaced).

use crate::platform::sync::{AtomicU64, Ordering};

/// Bytes at the start of each segment that hold no records.
#[cfg(not(loom))]
pub const SEGMENT_HEADER: u32 = 256;
/// Small, so that a model stays small.
#[cfg(loom)]
pub const SEGMENT_HEADER: u32 = 8;

#[cfg(loom)]
type Body = loom::cell::UnsafeCell<u64>;

/// The fields between the commit word and the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Of header and body; 0 in memory, where nothing can rot.
    pub crc: u32,
    /// The number of the worker that enqueued it, 0 for none.
    pub worker: u16,
    /// Wall clock at enqueue, in nanoseconds.
    pub time_ns: u64,
    /// The generation's nonce.
    pub nonce: u64,
    /// Where it was reserved.
    pub position: u64,
}

/// A place for a segment: its memory, and the number of the segment that may be written there.
#[repr(C)]
pub struct Slot {
    #[cfg(not(loom))]
    addr: AtomicU64,
    #[cfg(loom)]
    banks: [modelled::Bank; 2],
    #[cfg(loom)]
    bank: AtomicU64,
    /// The number of the segment this slot is zeroed and ready for.
    pub clean: AtomicU64,
}

#[cfg(not(loom))]
// SAFETY: two atomics.
unsafe impl crate::platform::page::Blank for Slot {}

/// A view of a slot's memory.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    #[cfg(not(loom))]
    addr: usize,
    #[cfg(loom)]
    words: &'a [AtomicU64],
    #[cfg(loom)]
    bodies: &'a [Body],
    slot: std::marker::PhantomData<&'a Slot>,
}

#[cfg(not(loom))]
impl Slot {
    /// Put memory into the slot.
    ///
    /// # Safety
    /// `addr` must be 8-byte aligned, zeroed, as long as the log's segments, and stay mapped for as long as
    /// anybody uses the slot or a [`Segment`] taken from it.
    pub unsafe fn fill(&self, addr: usize) {
        self.addr.store(addr as u64, Ordering::Release);
    }

    /// Take the memory out of the slot; it stays mapped.
    pub fn clear(&self) {
        self.addr.store(0, Ordering::Release);
    }

    /// Whether there is memory in the slot.
    pub fn has_memory(&self) -> bool {
        self.addr.load(Ordering::Acquire) != 0
    }

    /// The memory now in the slot.
    #[inline(always)]
    pub fn segment(&self) -> Segment<'_> {
        Segment { addr: self.addr.load(Ordering::Relaxed) as usize, slot: std::marker::PhantomData }
    }
}

#[cfg(not(loom))]
impl<'a> Segment<'a> {
    /// The commit word at `offset`.
    #[inline(always)]
    pub fn word(self, offset: u32) -> &'a AtomicU64 {
        // SAFETY: `offset` is 8-aligned and inside the segment (the log's invariant), whose memory is
        // mapped and only accessed atomically at commit words.
        unsafe { &*((self.addr + offset as usize) as *const AtomicU64) }
    }

    /// Write header fields and body of the record reserved at `offset`; the commit word is not touched.
    #[inline(always)]
    pub fn write(self, offset: u32, f: Fields, body: &[u8]) {
        let p = (self.addr + offset as usize) as *mut u8;
        // SAFETY: the caller reserved `footprint(body.len())` bytes here and nobody else writes them.
        unsafe {
            p.add(8).cast::<u64>().write(u64::from(f.crc) | u64::from(f.worker) << 32);
            p.add(16).cast::<u64>().write(f.time_ns);
            p.add(24).cast::<u64>().write(f.nonce);
            p.add(32).cast::<u64>().write(f.position);
            std::ptr::copy_nonoverlapping(body.as_ptr(), p.add(super::record::HEADER), body.len());
        }
    }

    /// The fields of a committed record.
    pub fn fields(self, offset: u32) -> Fields {
        let p = (self.addr + offset as usize) as *const u8;
        // SAFETY: the commit word was seen with acquire, so the writes above happened before.
        unsafe {
            let first = p.add(8).cast::<u64>().read();
            Fields {
                crc: first as u32,
                worker: (first >> 32) as u16,
                time_ns: p.add(16).cast::<u64>().read(),
                nonce: p.add(24).cast::<u64>().read(),
                position: p.add(32).cast::<u64>().read(),
            }
        }
    }

    /// The body of a committed record.
    pub fn body(self, offset: u32, len: usize) -> &'a [u8] {
        let p = (self.addr + offset as usize + super::record::HEADER) as *const u8;
        // SAFETY: as for `fields`; the record stays unchanged until the consumer settles it.
        unsafe { std::slice::from_raw_parts(p, len) }
    }

    /// Zero it for reuse. Only the consumer, and only when no producer can still write here.
    pub fn zero(self, len: u32) {
        // SAFETY: the consumer has passed the segment, and no reservation in it is open.
        unsafe { std::ptr::write_bytes(self.addr as *mut u8, 0, len as usize) };
    }

    /// Where it is, for advice to the kernel.
    pub fn addr(self) -> usize {
        self.addr
    }
}

/// Loom's stand-in: the same operations on modelled commit words and on bodies whose every unordered access
/// loom reports as a race.
#[cfg(loom)]
mod modelled {
    use super::*;
    use crate::queue::record::HEADER;
    use std::marker::PhantomData;

    /// Memory for a slot.
    pub struct Bank {
        words: Vec<AtomicU64>,
        bodies: Vec<Body>,
    }

    impl Bank {
        fn new(len: u32) -> Bank {
            Bank {
                words: (0..len / 8).map(|_| AtomicU64::new(0)).collect(),
                bodies: (0..len / 8).map(|_| Body::new(0)).collect(),
            }
        }
    }

    impl Slot {
        /// A zeroed slot of `len` bytes, ready for segment number `clean`.
        pub fn new(len: u32, clean: u64) -> Slot {
            let banks = [Bank::new(len), Bank::new(len)];
            Slot { banks, bank: AtomicU64::new(0), clean: AtomicU64::new(clean) }
        }

        /// The memory now in the slot.
        pub fn segment(&self) -> Segment<'_> {
            let bank = &self.banks[self.bank.load(Ordering::Relaxed) as usize];
            Segment { words: &bank.words, bodies: &bank.bodies, slot: PhantomData }
        }

        /// A modelled slot always has some.
        pub fn has_memory(&self) -> bool {
            true
        }

        /// Put other zeroed memory into the slot; once.
        pub fn replace(&self) {
            self.bank.store(1, Ordering::Release);
        }
    }

    impl<'a> Segment<'a> {
        /// The commit word at `offset`.
        pub fn word(self, offset: u32) -> &'a AtomicU64 {
            &self.words[offset as usize / 8]
        }

        fn cell(self, offset: u32) -> &'a Body {
            &self.bodies[(offset as usize + HEADER) / 8]
        }

        /// Write a body of eight bytes.
        pub fn write(self, offset: u32, _: Fields, body: &[u8]) {
            let mut bytes = [0u8; 8];
            bytes[..body.len()].copy_from_slice(body);
            // SAFETY: loom checks that nobody else has access.
            self.cell(offset).with_mut(|p| unsafe { *p = u64::from_le_bytes(bytes) });
        }

        /// No fields in a model.
        pub fn fields(self, _: u32) -> Fields {
            Fields { crc: 0, worker: 0, time_ns: 0, nonce: 0, position: 0 }
        }

        /// The body.
        pub fn body(self, offset: u32, len: usize) -> &'a [u8] {
            // SAFETY: loom checks that the write happened before.
            let bytes = self.cell(offset).with(|p| unsafe { *p }).to_le_bytes();
            Box::leak(Box::new(bytes)).get(..len).unwrap_or(&[])
        }

        /// Zero it.
        pub fn zero(self, len: u32) {
            for (word, body) in self.words.iter().zip(self.bodies).take(len as usize / 8) {
                word.store(0, Ordering::Relaxed);
                // SAFETY: loom checks that nobody else has access.
                body.with_mut(|p| unsafe { *p = 0 });
            }
        }
    }
}
