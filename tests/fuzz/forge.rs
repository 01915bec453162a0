//! Segments written by hand, from the layout in `src/queue/spool/header.rs` and `src/queue/mod.rs`: what the library
//! must read, and what it must not believe.
use telemetry::queue::record::{self, footprint, position};
use telemetry::queue::spool::header::format_name;

/// Both copies of a header, checked, and the rest of its 256 bytes.
fn copies(words: [u64; 10]) -> Vec<u8> {
    let mut copy: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let check = u64::from(crc32c::crc32c(&copy));
    copy.extend(check.to_ne_bytes());
    let mut both = [copy.clone(), copy].concat();
    both.resize(256, 0);
    both
}

/// The header of a segment that says of itself `version` and `len`; its owner died before the last restart.
pub fn header(version: u32, len: u32, number: u32, nonce: u64) -> Vec<u8> {
    let half = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let format = format_name("ndjson");
    let name = |at: usize| u64::from_ne_bytes(format[at..at + 8].try_into().unwrap());
    let magic = u64::from_le_bytes(*b"tlmspool");
    copies([magic, half(version, len), 1, 0, half(1, number), 0, nonce, 7, name(0), name(8)])
}

/// A whole record for that place.
pub fn one_record(at: u64, nonce: u64, time_ns: u64, body: &[u8]) -> Vec<u8> {
    let crc = record::crc(0, time_ns, nonce, at, body);
    let word = record::committed(record::tag(nonce, at), body.len());
    let mut bytes: Vec<u8> =
        [word, u64::from(crc), time_ns, nonce, at].iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes.extend(body);
    bytes.resize(footprint(body.len()), 0);
    bytes
}

/// A segment with these events.
pub fn segment(version: u32, len: u32, number: u32, nonce: u64, time_ns: u64, events: &[String]) -> Vec<u8> {
    let mut bytes = header(version, len, number, nonce);
    for event in events {
        let at = position(number, bytes.len() as u32);
        bytes.extend(one_record(at, nonce, time_ns, event.as_bytes()));
    }
    bytes
}
