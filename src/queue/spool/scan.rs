//! Reading a segment that its owner left in whatever state.
//!
//! Invariants:
//! - It ends: every step moves on by at least 8 bytes, whatever the bytes are.
//! - What it gives was written whole: right tag for its place and generation, fields that name that place, and
//!   the check over fields and body.
//! - It finds every such record behind the settled place, whatever lies between: holes and damaged records are
//!   stepped over 8 bytes at a time, because their lengths may be what is damaged. (A scan that stopped at the
//!   first hole lost up to a third of what was there, when it was tried.)
//! - It trusts no length: nothing is read outside the bytes given.

use super::header::{Header, Unreadable, word_at};
use crate::queue::record::{self, HEADER, Word, footprint, position};
use crate::queue::segment::Fields;

/// A record that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where it begins.
    pub offset: u32,
    /// Where the next may begin.
    pub next: u32,
    /// Its header.
    pub fields: Fields,
    /// The event.
    pub body: &'a [u8],
}

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Scan {
    header: Header,
    offset: u32,
    /// Reservations that were never committed.
    pub holes: u64,
    /// Records whose check is wrong, or that do not fit.
    pub bad: u64,
    /// Records that were found.
    pub found: u64,
}

impl Scan {
    /// Begin at the settled place. `bytes` is the file, or what is left of it.
    pub fn new(bytes: &[u8]) -> Result<Scan, Unreadable> {
        let header = Header::read(bytes)?;
        Ok(Scan { header, offset: header.settled(bytes), holes: 0, bad: 0, found: 0 })
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Give the record at `offset`, the last one given, again.
    pub fn back_to(&mut self, offset: u32) {
        self.offset = offset;
        self.found -= 1;
    }

    /// The next record; `bytes` are the same each time.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<Found<'a>> {
        let end = bytes.len().min(self.header.segment_len as usize);
        while self.offset as usize + 8 <= end {
            let word = word_at(bytes, self.offset as usize)?;
            if word == 0 {
                self.offset = past_zeros(bytes, self.offset as usize, end) as u32;
                continue;
            }
            let tag = record::tag(self.header.nonce, position(self.header.number, self.offset));
            match record::read(word, tag) {
                Word::Record(len) => match self.whole(bytes, end, len) {
                    Some(found) => {
                        self.offset = found.next;
                        self.found += 1;
                        return Some(found);
                    }
                    None => self.bad += 1,
                },
                // The rest of the segment, if its length says the same; else a flag that was damaged.
                Word::Pad if word & 0x1fff_ffff == u64::from(self.header.segment_len - self.offset) => {
                    self.offset = self.header.segment_len;
                    continue;
                }
                Word::Pad => self.bad += 1,
                Word::Reserved(_) => self.holes += 1,
                Word::Blank => {}
            }
            self.offset += 8;
        }
        None
    }

    fn whole<'a>(&self, bytes: &'a [u8], end: usize, len: usize) -> Option<Found<'a>> {
        let at = self.offset as usize;
        let next = at + footprint(len);
        let body = bytes.get(at + HEADER..at + HEADER + len)?;
        if next > end.next_multiple_of(8) || next > self.header.segment_len as usize {
            return None;
        }
        let first = word_at(bytes, at + 8)?;
        let fields = Fields {
            crc: first as u32,
            kind: (first >> 32) as u16,
            time_ns: word_at(bytes, at + 16)?,
            nonce: word_at(bytes, at + 24)?,
            position: word_at(bytes, at + 32)?,
        };
        let here = position(self.header.number, self.offset);
        let right = fields.nonce == self.header.nonce
            && fields.position == here
            && fields.crc == record::crc(fields.kind, fields.time_ns, fields.nonce, here, body);
        right.then_some(Found { offset: self.offset, next: next as u32, fields, body })
    }
}

/// The first 8-aligned place from `at` on that is not zero; `end` if there is none.
fn past_zeros(bytes: &[u8], mut at: usize, end: usize) -> usize {
    const ZEROS: [u8; 512] = [0; 512];
    while at + ZEROS.len() <= end && bytes.get(at..at + ZEROS.len()) == Some(&ZEROS[..]) {
        at += ZEROS.len();
    }
    while at + 8 <= end && word_at(bytes, at) == Some(0) {
        at += 8;
    }
    at
}
