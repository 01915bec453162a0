//! A scoreboard in memory: made by a supervisor, opened by anybody who may.
//!
//! Invariants:
//! - Whoever holds a [`Board`] may use every slot below [`Board::slots`]: header, lengths and bounds were checked when it was
//!   made or opened.
//! - The magic number is stored last: a board that was only begun is none.
#![forbid(unsafe_code)]

use super::layout::{ABI, HEADER_LEN, Header, MAGIC, SLOT_LEN, Slot};
use crate::platform::clock;
use crate::platform::identity::Identity;
use crate::platform::shared::Shared;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most slots that a board may have.
pub const MOST_SLOTS: usize = 4096;

/// See the module's text.
#[derive(Debug)]
pub struct Board {
    shared: Shared,
    header_len: usize,
    slot_len: usize,
    slots: usize,
}

impl Board {
    /// A new one, of the calling process.
    pub fn create(name: &str, slots: usize) -> io::Result<Board> {
        let slots = slots.clamp(1, MOST_SLOTS);
        let shared = Shared::anonymous(c"libtelemetry-fleet", HEADER_LEN + slots * SLOT_LEN)?;
        let board = Board { shared, header_len: HEADER_LEN, slot_len: SLOT_LEN, slots };
        let h = board.header();
        let me = Identity::mine();
        h.abi.store(ABI, Ordering::Relaxed);
        h.header_len.store(HEADER_LEN as u32, Ordering::Relaxed);
        h.slot_len.store(SLOT_LEN as u32, Ordering::Relaxed);
        h.slots.store(slots as u32, Ordering::Relaxed);
        h.pid.store(me.pid, Ordering::Relaxed);
        h.start_ticks.store(me.start, Ordering::Relaxed);
        h.boot.store(me.boot, Ordering::Relaxed);
        h.pid_ns.store(me.pid_ns, Ordering::Relaxed);
        h.started_unix_ns.store(clock::wall_precise_ns(), Ordering::Relaxed);
        h.started_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
        put_text(&h.name, name);
        h.magic.store(MAGIC, Ordering::Release);
        Ok(board)
    }

    /// Somebody else's, to be read.
    pub fn open(path: &Path) -> io::Result<Board> {
        Board::check(Shared::of(File::open(path)?, false)?)
    }

    /// One that was handed over: by a supervisor to a worker or to its own successor.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Board> {
        Board::check(Shared::of(File::from(fd), true)?)
    }

    fn check(shared: Shared) -> io::Result<Board> {
        let bad =
            |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a scoreboard: {why}")));
        let (header_len, slot_len, slots) = {
            let Some(h) = shared.at::<Header>(0) else { return bad("it is too short") };
            if h.magic.load(Ordering::Acquire) != MAGIC {
                return bad("another magic number");
            }
            let abi = h.abi.load(Ordering::Relaxed);
            if abi < ABI {
                return bad(&format!("version {abi}"));
            }
            let get = |word: &std::sync::atomic::AtomicU32| word.load(Ordering::Relaxed) as usize;
            (get(&h.header_len), get(&h.slot_len), get(&h.slots))
        };
        let whole = slots.checked_mul(slot_len).and_then(|n| n.checked_add(header_len));
        let fits = header_len >= HEADER_LEN && slot_len >= SLOT_LEN && (1..=MOST_SLOTS).contains(&slots);
        let aligned = header_len.is_multiple_of(8) && slot_len.is_multiple_of(8);
        if !fits || !aligned || whole.is_none_or(|n| n > shared.len()) {
            return bad("its lengths contradict each other");
        }
        Ok(Board { shared, header_len, slot_len, slots })
    }

    /// What the fleet has in common.
    pub fn header(&self) -> &Header {
        self.shared.at(0).unwrap_or_else(|| unreachable!("checked when it was made"))
    }

    /// Slots there are.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// One of them, below [`Board::slots`].
    pub fn slot(&self, index: usize) -> Option<&Slot> {
        if index >= self.slots {
            return None;
        }
        self.shared.at(self.header_len + index * self.slot_len)
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }
}

/// Store a text, cut to what fits, at a character's boundary. Allocates nothing.
pub fn put_text<const N: usize>(words: &[AtomicU64; N], text: &str) {
    let mut end = text.len().min(N * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = text.as_bytes().get(..end).unwrap_or_default();
    let mut parts = bytes.chunks(8);
    for word in words {
        let mut eight = [0u8; 8];
        if let Some(part) = parts.next()
            && let Some(room) = eight.get_mut(..part.len())
        {
            room.copy_from_slice(part);
        }
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
}

/// A text as it was stored, up to the first zero; what is not UTF-8, or would move a terminal's cursor, is replaced.
pub fn text_of<const N: usize>(words: &[AtomicU64; N]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character_and_cleaned() {
        let words: [AtomicU64; 1] = Default::default();
        put_text(&words, "abcdefgé");
        assert_eq!(text_of(&words), "abcdefg");
        put_text(&words, "a\u{1b}[2J");
        assert_eq!(text_of(&words), "a\u{fffd}[2J");
        put_text(&words, "");
        assert_eq!(text_of(&words), "");
    }

    #[test]
    fn a_board_is_opened_by_its_descriptor_and_nothing_else_is_taken_for_one() {
        let board = Board::create("shop", 3).unwrap();
        let again = Board::from_fd(board.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.slots(), text_of(&again.header().name).as_str()), (3, "shop"));
        again.slot(2).unwrap().working.beat_ns.store(5, Ordering::Relaxed);
        assert_eq!(board.slot(2).unwrap().working.beat_ns.load(Ordering::Relaxed), 5);
        assert!(board.slot(3).is_none());
        let h = board.header();
        for (word, wrong) in [(&h.slot_len, 8), (&h.slots, 4), (&h.slots, 0), (&h.header_len, 0), (&h.abi, 0)]
        {
            let right = word.swap(wrong, Ordering::Relaxed);
            let opened = Board::from_fd(board.as_fd().try_clone_to_owned().unwrap());
            assert!(opened.is_err(), "{wrong} instead of {right}");
            word.store(right, Ordering::Relaxed);
        }
        let file = Path::new("/proc/self/exe");
        assert!(Board::open(file).unwrap_err().to_string().contains("not a scoreboard"));
    }
}
