//! The queue: an append-only log in fixed-size segments, one for each client and process.
//!
//! ```text
//!   tail = segment:32 | offset:32          head <= tail, both only ever grow within a generation
//!
//!   segment number s lives in slot s mod n  | header 256 | record | record | ... | pad |
//!   record: 8-byte aligned                 | commit word | crc worker 0:16 | time | nonce | position | body |
//!   commit word                            | tag(nonce, position):32 | reserved pad taken:3 | length:29 |
//! ```
//!
//! Invariants:
//! - Producers reserve by compare-exchange on the tail, write, and store the commit word last (release).
//!   They allocate nothing, lock nothing, wait for nobody and make no system call.
//! - A position never repeats within a generation, and a generation's nonce never repeats: a commit word
//!   left from before can not be taken for a record.
//! - There is one consumer at a time (the caller's duty). A record stays in place until its verdict is
//!   final: the queue is the retry buffer.
//! - A segment number is usable only once the consumer has named it in its slot's `clean` (release), which it
//!   does when the segment `segments` numbers before is settled and the slot's memory is zero; a producer
//!   that finds another number there reports "full" and writes nothing.
//! - A reservation that is never committed holds the consumer for at most as long as the consumer
//!   wants ([`log::Log::give_up_on`]); a late commit is then either taken or withdrawn, by compare-exchange
//!   on its commit word, never both, and its segment's memory is not used again: it decides for ever.
//! - One type for a segment; where its memory comes from is the business of whoever makes it.
//!
//! Modelled with loom in `tests/loom.rs`.

#[cfg(not(loom))]
pub mod backing;
pub mod log;
#[cfg(not(loom))]
pub mod media;
#[cfg(not(loom))]
pub mod memory;
pub mod record;
pub mod segment;
#[cfg(not(loom))]
pub mod spool;
pub mod supply;
