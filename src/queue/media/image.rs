//! One upload as it lies in memory, and in its file.
//!
//! ```text
//!   header 64 | data | note        header: magic, next, data length, note length, time, CRC32C of all but `next`
//! ```
//!
//! Invariants:
//! - An image that was sealed is not changed any more, but for the word `next`, which is no part of it.
//! - What is read from a file is what was sealed, or nothing: the check is over all of it. The file's length is believed only
//!   when its header says the same, so that a damaged one costs no memory.

use crate::platform::mmap::Mapping;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

const HEADER: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"TLMEDIA1");
/// Longest note.
pub const MAX_NOTE: usize = 64 << 10;

/// Memory and disks come in pieces of this size.
const PAGE: u64 = 4096;

/// Places of the header's words.
const NEXT: usize = 1;
const DATA: usize = 2;
const NOTE: usize = 3;
const TIME: usize = 4;
const CRC: usize = 5;

/// What so many bytes take of a memory or a disk.
pub fn footprint(len: u64) -> u64 {
    len.saturating_add(PAGE - 1) / PAGE * PAGE
}

/// See the module's text.
#[derive(Debug)]
pub struct Image {
    memory: Mapping,
    /// Bytes of data; in the header, too, which is blank in a child that returns into its parent's call.
    data: usize,
}

impl Image {
    /// Room for so many bytes of data, blank, in memory that a forked child finds blank. Where that cannot be, or shall
    /// not (`try_wipe`), a child has a copy that it never looks at.
    pub fn new(data: usize, try_wipe: bool) -> io::Result<Image> {
        let len = HEADER.checked_add(data).and_then(|n| n.checked_add(MAX_NOTE));
        let image = Image { memory: Mapping::anonymous(len.ok_or(io::ErrorKind::OutOfMemory)?)?, data };
        if try_wipe {
            image.memory.wipe_on_fork();
        }
        image.word(DATA).store(data as u64, Ordering::Relaxed);
        Ok(image)
    }

    /// The data, to be filled in before it is sealed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: within the mapping, which is ours alone while it is not pushed, as `&mut self` says.
        unsafe { std::slice::from_raw_parts_mut((self.memory.addr() + HEADER) as *mut u8, self.data) }
    }

    /// Add the note, at most [`MAX_NOTE`] bytes, and the time in nanoseconds since 1970. From now on it stays as it is.
    pub fn seal(&mut self, note: &[u8], time_ns: u64) {
        let note = note.get(..MAX_NOTE).unwrap_or(note);
        let start = self.memory.addr() + HEADER + self.data;
        // SAFETY: behind the data there is room for the longest note, and it is ours alone.
        unsafe { std::slice::from_raw_parts_mut(start as *mut u8, note.len()) }.copy_from_slice(note);
        self.word(NOTE).store(note.len() as u64, Ordering::Relaxed);
        self.word(TIME).store(time_ns, Ordering::Relaxed);
        self.word(CRC).store(self.check(), Ordering::Relaxed);
        self.word(0).store(MAGIC, Ordering::Relaxed);
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        self.part(HEADER, self.data)
    }

    /// The note.
    pub fn note(&self) -> &[u8] {
        self.part(HEADER + self.data, self.word(NOTE).load(Ordering::Relaxed) as usize)
    }

    /// When it was made, in nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.word(TIME).load(Ordering::Relaxed)
    }

    /// Bytes of all of it.
    pub fn len(&self) -> usize {
        HEADER + self.data + self.word(NOTE).load(Ordering::Relaxed) as usize
    }

    /// Never: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Write it into a new file.
    pub fn write_to(&self, file: &File) -> io::Result<()> {
        file.write_all_at(self.part(0, self.len()), 0)
    }

    /// Read one from its file. `None`: it is not what was sealed.
    pub fn read_from(file: &File) -> io::Result<Option<Image>> {
        let mut head = [0; HEADER];
        match read_all(file, &mut head)? {
            Some(()) if says(&head, 0) == MAGIC && says(&head, NOTE) <= MAX_NOTE as u64 => {}
            _ => return Ok(None),
        }
        let said = says(&head, DATA).checked_add(says(&head, NOTE) + HEADER as u64);
        if said != Some(file.metadata()?.len()) {
            return Ok(None);
        }
        let len = said.and_then(|len| usize::try_from(len).ok()).ok_or(io::ErrorKind::OutOfMemory)?;
        let image = Image { memory: Mapping::anonymous(len)?, data: says(&head, DATA) as usize };
        image.memory.wipe_on_fork();
        // SAFETY: the whole of a mapping that nobody else knows.
        let all = unsafe { std::slice::from_raw_parts_mut(image.memory.addr() as *mut u8, len) };
        let there = read_all(file, all)?.is_some();
        let same = there && all.get(..HEADER) == Some(&head[..]);
        Ok((same && image.word(CRC).load(Ordering::Relaxed) == image.check()).then_some(image))
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        self.memory.addr() as u64
    }

    /// From now on it belongs to whoever was told its address.
    pub(super) fn give_away(self) {
        self.memory.leak();
    }

    /// # Safety
    /// `address` is that of an image of [`Image::new`] that was, or is just about to be, given away ([`Image::give_away`]), and
    /// nobody else has it.
    pub(super) unsafe fn from_address(address: usize) -> Image {
        // SAFETY: by the caller's promise the header is there.
        let data = unsafe { (*((address + DATA * 8) as *const AtomicU64)).load(Ordering::Relaxed) };
        let data = data as usize;
        // SAFETY: by the caller's promise it is the mapping that `new` made, of this length.
        Image { memory: unsafe { Mapping::from_leaked(address, HEADER + data + MAX_NOTE) }, data }
    }

    /// The link to the image below it in the stack.
    pub(super) fn next(&self) -> &AtomicU64 {
        self.word(NEXT)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, longer than the header, and lives as long as `self`.
        unsafe { &*((self.memory.addr() + at * 8) as *const AtomicU64) }
    }

    fn part(&self, from: usize, len: usize) -> &[u8] {
        let end = from.saturating_add(len).min(self.memory.len());
        let len = end.saturating_sub(from);
        // SAFETY: cut to the mapping; nothing is written after `seal`, but the word `next`, which nobody reads as bytes
        // but the file, where it means nothing.
        unsafe { std::slice::from_raw_parts((self.memory.addr() + from) as *const u8, len) }
    }

    fn check(&self) -> u64 {
        let crc = crc32c::crc32c(self.part(DATA * 8, 3 * 8));
        u64::from(crc32c::crc32c_append(crc32c::crc32c_append(crc, self.data()), self.note()))
    }
}

/// A word of a header.
fn says(head: &[u8; HEADER], at: usize) -> u64 {
    let bytes = head.get(at * 8..at * 8 + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

/// Fill `buffer` from the file's start. `None`: the file is shorter.
fn read_all(file: &File, buffer: &mut [u8]) -> io::Result<Option<()>> {
    match file.read_exact_at(buffer, 0) {
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        done => done.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(data: &[u8]) -> Image {
        let mut image = Image::new(data.len(), true).unwrap();
        image.data_mut().copy_from_slice(data);
        image.seal(b"{}", 7);
        image
    }

    #[test]
    fn a_byte_takes_a_page() {
        let sizes = [0, 1, 4096, 4097].map(footprint);
        assert_eq!((sizes, footprint(u64::MAX) > 1 << 60), ([0, 4096, 4096, 8192], true));
    }

    #[test]
    fn what_is_sealed_is_read_again_and_damage_is_seen() {
        let path = format!("/tmp/libtelemetry-{}-image", std::process::id());
        for data in [&b"x"[..], &vec![9; 100_000]] {
            let written = image(data);
            assert_eq!(written.len(), HEADER + data.len() + 2);
            let mut how = File::options();
            let file = how.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            written.write_to(&file).unwrap();
            let read = Image::read_from(&file).unwrap().unwrap();
            assert_eq!((read.data(), read.note(), read.time_ns()), (data, &b"{}"[..], 7));
            let len = file.metadata().unwrap().len();
            // `next` is not part of it.
            for at in (0..len).filter(|at| !(8..16).contains(at) && !(48..64).contains(at)).step_by(7) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
                assert!(Image::read_from(&file).unwrap().is_none(), "byte {at}");
                file.write_all_at(&byte, at).unwrap();
            }
            for short in [0, 1, 63, 64, len - 1] {
                file.set_len(short).unwrap();
                assert!(Image::read_from(&file).unwrap().is_none(), "{short} bytes");
            }
            file.set_len(len + 1).unwrap();
            assert!(Image::read_from(&file).unwrap().is_none(), "longer");
            // A length that is nobody's costs no memory.
            file.set_len(1 << 40).unwrap();
            assert!(Image::read_from(&file).unwrap().is_none(), "much longer");
        }
        std::fs::remove_file(path).unwrap();
    }
}
