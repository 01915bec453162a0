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
//! - Damage is noticed wherever it is: a record whose commit word itself is damaged counts as bad too.

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

/// What is at a place, for whoever wants to know all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A record.
    Record(Found<'a>),
    /// A reservation that was never committed.
    Hole(u32),
    /// Something that was written here and is no record any more.
    Bad(u32, Damage),
}

/// Why it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Its check, or the length of a pad, is wrong.
    Check,
    /// It is longer than what is left of the file.
    Cut,
    /// Bytes without a commit word.
    Stray,
}

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Scan {
    header: Header,
    offset: u32,
    /// Before this, bytes without a commit word belong to a hole or to damage that was counted.
    known: u32,
    /// Reservations that were never committed.
    pub holes: u64,
    /// Records whose check is wrong, or that do not fit, and stretches of bytes without a commit word.
    pub bad: u64,
    /// Records that were found.
    pub found: u64,
}

impl Scan {
    /// Begin at the settled place. `bytes` is the file, or what is left of it.
    pub fn new(bytes: &[u8]) -> Result<Scan, Unreadable> {
        let header = Header::read(bytes)?;
        Ok(Scan { header, offset: header.settled(bytes), known: 0, holes: 0, bad: 0, found: 0 })
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
        loop {
            if let Step::Record(found) = self.step(bytes)? {
                return Some(found);
            }
        }
    }

    /// The next thing of any kind; `bytes` are the same each time.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Option<Step<'a>> {
        let end = bytes.len().min(self.header.segment_len as usize);
        while self.offset as usize + 8 <= end {
            let at = self.offset;
            let word = word_at(bytes, at as usize)?;
            if word == 0 {
                self.offset = past_zeros(bytes, at as usize, end) as u32;
                continue;
            }
            let tag = record::tag(self.header.nonce, position(self.header.number, at));
            let found = record::read(word, tag);
            // The rest of the segment, if its length says the same; else a flag that was damaged.
            if found == Word::Pad && word & 0x1fff_ffff == u64::from(self.header.segment_len - at) {
                self.offset = self.header.segment_len;
                continue;
            }
            self.offset += 8;
            match found {
                Word::Record(len) => match self.whole(bytes, at, end, len) {
                    Ok(found) => {
                        self.offset = found.next;
                        self.known = self.known.min(found.next);
                        self.found += 1;
                        return Some(Step::Record(found));
                    }
                    Err(damage) => return Some(self.bad(at, at as usize + footprint(len), damage)),
                },
                Word::Pad => return Some(self.bad(at, self.offset as usize, Damage::Check)),
                Word::Reserved(len) => {
                    self.holes += 1;
                    self.known = self.known.max(at.saturating_add(footprint(len) as u32));
                    return Some(Step::Hole(at));
                }
                Word::Blank if at < self.known => {}
                // Whatever it was, it counts once, up to zeros or to the next record.
                Word::Blank => {
                    return Some(self.bad(at, past_bytes(bytes, at as usize, end), Damage::Stray));
                }
            }
        }
        None
    }

    fn bad<'a>(&mut self, at: u32, to: usize, damage: Damage) -> Step<'a> {
        self.bad += 1;
        self.known = self.known.max(to as u32);
        Step::Bad(at, damage)
    }

    fn whole<'a>(&self, bytes: &'a [u8], offset: u32, end: usize, len: usize) -> Result<Found<'a>, Damage> {
        let at = offset as usize;
        let next = at + footprint(len);
        let fits = next <= end.next_multiple_of(8) && next <= self.header.segment_len as usize;
        let body = bytes.get(at + HEADER..at + HEADER + len).filter(|_| fits).ok_or(Damage::Cut)?;
        let word = |i: usize| word_at(bytes, at + i * 8).ok_or(Damage::Cut);
        let first = word(1)?;
        let fields = Fields {
            crc: first as u32,
            worker: (first >> 32) as u16,
            time_ns: word(2)?,
            nonce: word(3)?,
            position: word(4)?,
        };
        let here = position(self.header.number, offset);
        let right = fields.nonce == self.header.nonce
            && fields.position == here
            && fields.crc == record::crc(fields.worker, fields.time_ns, fields.nonce, here, body);
        if right { Ok(Found { offset, next: next as u32, fields, body }) } else { Err(Damage::Check) }
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

/// The first 8-aligned place from `at` on that is zero; `end` if there is none.
fn past_bytes(bytes: &[u8], mut at: usize, end: usize) -> usize {
    while at + 8 <= end && word_at(bytes, at) != Some(0) {
        at += 8;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::identity::Identity;
    use crate::queue::record::{committed, crc, reserved, tag};

    const LEN: u32 = 4096;
    const BODY: &[u8] = b"{\"event\":\"an event of some length\"}";
    const STEP: u32 = footprint(BODY.len()) as u32;

    fn header() -> Header {
        let owner = Identity { boot: 1, pid_ns: 2, pid: 3, start: 4, image: 0 };
        Header { segment_len: LEN, owner, number: 7, nonce: 99, created_ms: 5, format: [0; 16] }
    }

    /// A segment of `n` records.
    fn segment(n: u32) -> Vec<u8> {
        let header = header();
        let mut bytes = vec![0; LEN as usize];
        bytes[..88].copy_from_slice(&header.copy());
        for i in 0..n {
            let at = 256 + i * STEP;
            let here = position(header.number, at);
            let check = u64::from(crc(0, 1, header.nonce, here, BODY));
            let words = [committed(tag(header.nonce, here), BODY.len()), check, 1, header.nonce, here];
            put(&mut bytes, at, &words.map(u64::to_ne_bytes).concat());
            put(&mut bytes, at + HEADER as u32, BODY);
        }
        bytes
    }

    fn put(bytes: &mut [u8], at: u32, what: &[u8]) {
        bytes[at as usize..at as usize + what.len()].copy_from_slice(what);
    }

    fn steps(bytes: &[u8]) -> (Vec<u32>, Vec<u32>, Vec<(u32, Damage)>) {
        let mut scan = Scan::new(bytes).unwrap();
        let (mut records, mut holes, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(step) = scan.step(bytes) {
            match step {
                Step::Record(found) => records.push((found.offset - 256) / STEP),
                Step::Hole(at) => holes.push((at - 256) / STEP),
                Step::Bad(at, damage) => bad.push(((at - 256) / STEP, damage)),
            }
        }
        let counted = (scan.found as usize, scan.holes as usize, scan.bad as usize);
        assert_eq!(counted, (records.len(), holes.len(), bad.len()));
        (records, holes, bad)
    }

    #[test]
    fn each_kind_of_damage_is_counted_once_and_costs_only_itself() {
        assert_eq!(steps(&segment(0)), (vec![], vec![], vec![]));
        assert_eq!(steps(&segment(4)), (vec![0, 1, 2, 3], vec![], vec![]));
        let at = 256 + STEP;
        let tag = tag(99, position(7, at));

        let mut bytes = segment(4);
        bytes[at as usize + 60] ^= 1;
        assert_eq!(steps(&bytes), (vec![0, 2, 3], vec![], vec![(1, Damage::Check)]), "in the body");

        let mut bytes = segment(4);
        put(&mut bytes, at, &reserved(tag, BODY.len()).to_ne_bytes());
        assert_eq!(steps(&bytes), (vec![0, 2, 3], vec![1], vec![]), "never committed");

        let mut bytes = segment(4);
        bytes[at as usize + 7] ^= 1;
        assert_eq!(steps(&bytes), (vec![0, 2, 3], vec![], vec![(1, Damage::Stray)]), "in the commit word");
        bytes[(at + 2 * STEP) as usize + 7] ^= 1;
        let two = vec![(1, Damage::Stray), (3, Damage::Stray)];
        assert_eq!(steps(&bytes), (vec![0, 2], vec![], two), "in two");

        let mut bytes = segment(4);
        put(&mut bytes, at, &committed(tag, 1 << 20).to_ne_bytes());
        assert_eq!(steps(&bytes), (vec![0, 2, 3], vec![], vec![(1, Damage::Cut)]), "in the length");

        let bytes = &segment(4)[..(at + 3 * STEP) as usize - 8];
        assert_eq!(steps(bytes), (vec![0, 1, 2], vec![], vec![(3, Damage::Cut)]), "a file that was cut off");
    }

    #[test]
    fn a_file_of_which_nothing_is_left_but_bytes_counts_as_bad() {
        let mut bytes = segment(1);
        put(&mut bytes, 256, &[0; 8]);
        assert_eq!(steps(&bytes), (vec![], vec![], vec![(0, Damage::Stray)]));
    }
}
