//! The first 256 bytes of a segment file: whose it is, and how far it is settled.
//!
//! ```text
//!   0   magic:64 | version:32 segment_len:32 | boot:64 | pid namespace:64 | pid:32 number:32 | start:64
//!   48  nonce:64 | created_ms:64 | format:128 | crc32c of the 80 bytes before:32 | 0:32
//!   88  the same again
//!   192 settled: tag(nonce, number | offset):32 | offset:32
//! ```
//!
//! Invariants:
//! - The fixed part is there twice, each copy with its own check: one damaged word costs nothing.
//! - The settled word bears the tag of its own value: one that is damaged reads as "nothing is settled", which
//!   sends events again under their ids and never loses one.
//! - Words are in the machine's byte order: a spool is read on the machine, or the kind of machine, that wrote it.

use crate::platform::identity::Identity;
use crate::queue::record::{position, tag};
use crate::queue::segment::{SEGMENT_HEADER, Segment};
use std::sync::atomic::Ordering;

/// The first word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"tlmspool");
/// This library's version of the layout.
pub const VERSION: u32 = 1;
/// Largest segment that is believed.
pub const MAX_SEGMENT: u32 = 1 << 30;

const COPY: usize = 88;
const CHECKED: usize = 80;
const SETTLED: u32 = 192;

/// The fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the file.
    pub segment_len: u32,
    /// Who wrote it (without the image).
    pub owner: Identity,
    /// The segment's number in its generation.
    pub number: u32,
    /// The generation.
    pub nonce: u64,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// The format of its events, a name padded with zeros.
    pub format: [u8; 16],
}

/// Why a file has no header that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing but zeros: its owner died before it wrote anything.
    Blank,
    /// A later version of this library wrote it.
    Future(u32),
    /// Neither copy is whole.
    Garbage,
}

/// A format's name as the header holds it.
pub fn format_name(name: &str) -> [u8; 16] {
    let mut field = [0; 16];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

impl Header {
    fn words(&self) -> [u64; COPY / 8] {
        let half = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let format = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.format[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let mut words = [
            MAGIC,
            half(VERSION, self.segment_len),
            self.owner.boot,
            self.owner.pid_ns,
            half(self.owner.pid, self.number),
            self.owner.start,
            self.nonce,
            self.created_ms,
            format(0),
            format(8),
            0,
        ];
        let bytes: Vec<u8> = words.iter().take(CHECKED / 8).flat_map(|w| w.to_ne_bytes()).collect();
        words[CHECKED / 8] = u64::from(crc32c::crc32c(&bytes));
        words
    }

    /// One copy, as it is in the file.
    #[cfg(test)]
    pub fn copy(&self) -> Vec<u8> {
        self.words().into_iter().flat_map(u64::to_ne_bytes).collect()
    }

    /// Write both copies into a blank segment's memory.
    pub fn write(&self, segment: Segment<'_>) {
        for (i, word) in self.words().into_iter().enumerate() {
            segment.word(i as u32 * 8).store(word, Ordering::Relaxed);
            segment.word((COPY + i * 8) as u32).store(word, Ordering::Relaxed);
        }
    }

    /// Read the header of a file's first bytes (all of them, for the look whether it is blank).
    pub fn read(bytes: &[u8]) -> Result<Header, Unreadable> {
        let mut future = None;
        for copy in [0, COPY] {
            match Self::read_copy(bytes.get(copy..copy + COPY)) {
                Ok(header) => return Ok(header),
                Err(Unreadable::Future(version)) => future = Some(version),
                Err(_) => {}
            }
        }
        if let Some(version) = future {
            return Err(Unreadable::Future(version));
        }
        let blank = bytes.iter().all(|b| *b == 0);
        Err(if blank { Unreadable::Blank } else { Unreadable::Garbage })
    }

    fn read_copy(bytes: Option<&[u8]>) -> Result<Header, Unreadable> {
        let bytes = bytes.ok_or(Unreadable::Garbage)?;
        let word = |i: usize| word_at(bytes, i * 8).unwrap_or(0);
        let (low, high) = (|w: u64| w as u32, |w: u64| (w >> 32) as u32);
        if word(0) != MAGIC {
            return Err(Unreadable::Garbage);
        }
        let version = low(word(1));
        if version > VERSION && version < 1 << 16 {
            return Err(Unreadable::Future(version));
        }
        let whole = u64::from(crc32c::crc32c(&bytes[..CHECKED])) == word(CHECKED / 8);
        let segment_len = high(word(1));
        if !whole || version != VERSION || !(SEGMENT_HEADER..=MAX_SEGMENT).contains(&segment_len) {
            return Err(Unreadable::Garbage);
        }
        let mut format = [0; 16];
        format.copy_from_slice(&bytes[64..80]);
        Ok(Header {
            segment_len,
            owner: Identity { boot: word(2), pid_ns: word(3), pid: low(word(4)), start: word(5), image: 0 },
            number: high(word(4)),
            nonce: word(6),
            created_ms: word(7),
            format,
        })
    }

    /// The format's name.
    pub fn format_str(&self) -> String {
        String::from_utf8_lossy(&self.format).trim_end_matches('\0').to_string()
    }

    /// The word that says that everything before `offset` is settled.
    pub fn settled_word(&self, offset: u32) -> u64 {
        settled_word(self.nonce, self.number, offset)
    }

    /// Before which offset everything is settled.
    pub fn settled(&self, bytes: &[u8]) -> u32 {
        let word = word_at(bytes, SETTLED as usize).unwrap_or(0);
        let offset = word as u32;
        let right = word == self.settled_word(offset) && offset.is_multiple_of(8);
        if right && offset >= SEGMENT_HEADER { offset.min(self.segment_len) } else { SEGMENT_HEADER }
    }
}

fn settled_word(nonce: u64, number: u32, offset: u32) -> u64 {
    tag(nonce, position(number, offset)) | u64::from(offset)
}

/// Note in a mapped segment that everything before `offset` is settled.
pub fn settle(segment: Segment<'_>, nonce: u64, number: u32, offset: u32) {
    segment.word(SETTLED).store(settled_word(nonce, number, offset), Ordering::Release);
}

/// Where the settled word is in the file.
pub const SETTLED_AT: u64 = SETTLED as u64;

/// Whether a mapped segment is one of a file, and not of memory.
pub fn is_file(segment: Segment<'_>) -> bool {
    segment.word(0).load(Ordering::Relaxed) == MAGIC
}

/// The word at `offset`, if it is there whole.
pub fn word_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let owner = Identity { boot: 1, pid_ns: 2, pid: 3, start: 4, image: 0 };
        let format = format_name("ndjson");
        Header { segment_len: 4096, owner, number: 7, nonce: 99, created_ms: 5, format }
    }

    fn head() -> Vec<u8> {
        let mut bytes = [header().copy(), header().copy()].concat();
        bytes.resize(SEGMENT_HEADER as usize, 0);
        bytes
    }

    #[test]
    fn either_copy_will_do() {
        assert_eq!(Header::read(&head()), Ok(header()));
        assert_eq!(header().format_str(), "ndjson");
        for at in 0..COPY {
            let mut bytes = head();
            bytes[at] ^= 0x10;
            assert_eq!(Header::read(&bytes), Ok(header()), "byte {at}");
            bytes[COPY + at] ^= 0x20;
            assert_ne!(Header::read(&bytes), Ok(header()), "byte {at} of both");
        }
        assert_eq!(Header::read(&head()[..COPY]), Ok(header()));
        assert_eq!(Header::read(&head()[..COPY - 1]), Err(Unreadable::Garbage));
    }

    #[test]
    fn what_is_no_header_says_why() {
        assert_eq!(Header::read(&[]), Err(Unreadable::Blank));
        assert_eq!(Header::read(&[0; 100]), Err(Unreadable::Blank));
        assert_eq!(Header::read(&[1; 300]), Err(Unreadable::Garbage));
        let mut bytes = head();
        for copy in [0, COPY] {
            bytes[copy + 8..copy + 12].copy_from_slice(&(VERSION + 1).to_ne_bytes());
        }
        assert_eq!(Header::read(&bytes), Err(Unreadable::Future(VERSION + 1)));
        for segment_len in [0, SEGMENT_HEADER - 1, MAX_SEGMENT + 1] {
            let copy = Header { segment_len, ..header() }.copy();
            assert_eq!(
                Header::read(&[copy.clone(), copy].concat()),
                Err(Unreadable::Garbage),
                "{segment_len}"
            );
        }
    }

    #[test]
    fn a_settled_place_is_believed_only_where_it_was_noted() {
        let header = header();
        let with = |word: u64| {
            let mut bytes = head();
            bytes[SETTLED as usize..][..8].copy_from_slice(&word.to_ne_bytes());
            header.settled(&bytes)
        };
        assert_eq!(with(header.settled_word(512)), 512);
        assert_eq!(with(header.settled_word(8192)), 4096, "no further than the end");
        for wrong in [0, 512, header.settled_word(512) ^ 8, header.settled_word(513), header.settled_word(8)]
        {
            assert_eq!(with(wrong), SEGMENT_HEADER);
        }
        let other = Header { number: 8, ..header };
        assert_eq!(with(other.settled_word(512)), SEGMENT_HEADER, "another segment's");
        assert_eq!(header.settled(&[]), SEGMENT_HEADER);
    }
}
