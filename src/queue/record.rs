//! A record: its header, its commit word, and the id that users see.
//!
//! Invariants:
//! - All-zero memory is not a record, a pad or a reservation of any generation (their lengths are not 0).
//! - The id is a pure function of time, nonce and position, so it is the same on every attempt and after
//!   every recovery; within one generation two positions never share an id.

use crate::platform::entropy::mix;

/// Bytes before the body.
pub const HEADER: usize = 40;
/// Longest body.
pub const MAX_LEN: usize = (1 << 29) - 1;

const RESERVED: u64 = 1 << 31;
const PAD: u64 = 1 << 30;
const TAKEN: u64 = 1 << 29;
const LEN: u64 = (1 << 29) - 1;

/// Where a record is: segment number and offset, ordered as they were reserved.
pub type Position = u64;

/// The position of `offset` in segment number `segment`.
#[inline(always)]
pub const fn position(segment: u32, offset: u32) -> Position {
    (segment as u64) << 32 | offset as u64
}

/// Segment number and offset of a position.
#[inline(always)]
pub const fn split(position: Position) -> (u32, u32) {
    ((position >> 32) as u32, position as u32)
}

/// Bytes of the log that a body of `len` takes.
#[inline(always)]
pub const fn footprint(len: usize) -> usize {
    (HEADER + len + 7) & !7
}

/// What marks a commit word as belonging to this generation and place, in its upper half.
#[inline(always)]
pub const fn tag(nonce: u64, position: Position) -> u64 {
    (nonce ^ position).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_ffff_0000_0000
}

/// The commit word of a finished record.
#[inline(always)]
pub const fn committed(tag: u64, len: usize) -> u64 {
    tag | len as u64
}

/// The commit word of a record that is being written.
#[inline(always)]
pub const fn reserved(tag: u64, len: usize) -> u64 {
    tag | RESERVED | len as u64
}

/// The commit word over `len` unused bytes at the end of a segment.
#[inline(always)]
pub const fn pad(tag: u64, len: usize) -> u64 {
    tag | PAD | len as u64
}

/// A finished record that the consumer took out of a range it had given up on.
pub const fn taken(word: u64) -> u64 {
    word | TAKEN
}

/// A finished record that its producer took back from such a range.
pub const fn withdrawn(word: u64) -> u64 {
    word | RESERVED
}

/// A commit word, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A record with a body of that length.
    Record(usize),
    /// Reserved, not committed; its body will have that length.
    Reserved(usize),
    /// Nothing more in this segment.
    Pad,
    /// Not written yet, or not a commit word of this place.
    Blank,
}

/// Read the commit word found at `position`.
#[inline]
pub const fn read(word: u64, tag: u64) -> Word {
    if word & 0xffff_ffff_0000_0000 != tag || word & LEN == 0 {
        return Word::Blank;
    }
    let len = (word & LEN) as usize;
    if word & RESERVED != 0 {
        Word::Reserved(len)
    } else if word & PAD != 0 {
        Word::Pad
    } else {
        Word::Record(len)
    }
}

/// The check of a spooled record: over its fields, its length and its body (CRC32C, RFC 3720 B.4).
#[cfg(not(loom))]
#[inline(always)]
pub fn crc(worker: u16, time_ns: u64, nonce: u64, position: Position, body: &[u8]) -> u32 {
    let fields = [u64::from(worker) | (body.len() as u64) << 32, time_ns, nonce, position];
    let mut bytes = [0u8; 32];
    for (to, from) in bytes.chunks_exact_mut(8).zip(fields) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    crc32c::crc32c_append(crc32c::crc32c(&bytes), body)
}

/// The id of an event: a UUIDv7 (RFC 9562, 5.7) as 36 characters. The 62 low bits are a bijection of the
/// position, shifted by the nonce; 12 more bits come from the nonce alone.
pub fn event_id(time_ns: u64, nonce: u64, position: Position) -> [u8; 36] {
    const M62: u64 = (1 << 62) - 1;
    let shift = mix(nonce);
    let mut low = ((position >> 3) ^ shift) & M62;
    low = low.wrapping_mul(0x9e37_79b9_7f4a_7c15) & M62;
    low ^= low >> 31;
    low = low.wrapping_mul(0xbf58_476d_1ce4_e5b9) & M62;
    low ^= low >> 29;
    let ms = time_ns / 1_000_000;
    let high = (ms << 16) | 0x7000 | (shift >> 52);
    let low = 1 << 63 | low;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for i in (0..32).rev() {
        let half = if i >= 16 { high >> ((i - 16) * 4) } else { low >> (i * 4) };
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        text[at] = b"0123456789abcdef"[(half & 15) as usize];
        at += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_version_7_and_differ() {
        let mut seen = HashSet::new();
        for nonce in [1u64, 3, 0xdead_beef_0000_0001] {
            for i in 0..50_000u32 {
                let id = event_id(1_795_228_198_004_000_000, nonce, position(i / 100, 256 + i % 100 * 8));
                let text = std::str::from_utf8(&id).unwrap();
                assert_eq!(&text[14..15], "7");
                assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
                let ms = u64::from_str_radix(&text[..13].replace('-', ""), 16).unwrap();
                assert_eq!(ms, 1_795_228_198_004, "time is in front: {text}");
                assert!(seen.insert(id), "twice: {text}");
            }
        }
    }

    #[test]
    fn words_are_read_as_written_and_zero_is_nothing() {
        let t = tag(7, position(3, 256));
        assert_eq!(read(committed(t, 9), t), Word::Record(9));
        assert_eq!(read(taken(committed(t, 9)), t), Word::Record(9));
        assert_ne!(taken(committed(t, 9)), committed(t, 9));
        assert_eq!(read(reserved(t, 9), t), Word::Reserved(9));
        assert_eq!(read(withdrawn(committed(t, 9)), t), Word::Reserved(9));
        assert_eq!(read(pad(t, 64), t), Word::Pad);
        assert_eq!(read(0, 0), Word::Blank);
        assert_eq!(read(committed(t, 9), tag(8, position(3, 256))), Word::Blank);
    }
}
