//! One upload as it lies in memory, and in its file.
//!
//! ```text
//!   header 64 | data | note        header: magic, next, data length, note length, time, CRC32C of all but `next`
//! ```
//!
//! Invariant: an image that [`Image::is_whole`] holds the data and the note that were sealed. Blank memory, as a forked child
//! finds it, and a file that somebody damaged are not whole.

use crate::platform::mmap::Mapping;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

const HEADER: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"TLMEDIA1");
/// Longest note.
pub const MAX_NOTE: usize = 64 << 10;

/// Places of the header's words.
const NEXT: usize = 1;
const DATA: usize = 2;
const NOTE: usize = 3;
const TIME: usize = 4;
const CRC: usize = 5;

/// See the module's text.
#[derive(Debug)]
pub struct Image {
    memory: Mapping,
}

impl Image {
    /// Room for so many bytes of data, blank, in memory that a forked child finds blank.
    pub fn new(data: usize) -> io::Result<Image> {
        let len = HEADER.checked_add(data).and_then(|n| n.checked_add(MAX_NOTE));
        let image = Image { memory: Mapping::anonymous(len.ok_or(io::ErrorKind::OutOfMemory)?)? };
        // Where the kernel cannot wipe, a child has a copy that it never looks at.
        image.memory.wipe_on_fork();
        image.word(DATA).store(data as u64, Ordering::Relaxed);
        Ok(image)
    }

    /// The data, to be filled in before it is sealed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let len = self.data_len();
        // SAFETY: within the mapping, which is ours alone while it is not pushed, as `&mut self` says.
        unsafe { std::slice::from_raw_parts_mut((self.memory.addr() + HEADER) as *mut u8, len) }
    }

    /// Add the note, at most [`MAX_NOTE`] bytes, and the time in nanoseconds since 1970. From now on it is whole.
    pub fn seal(&mut self, note: &[u8], time_ns: u64) {
        let note = note.get(..MAX_NOTE).unwrap_or(note);
        let start = self.memory.addr() + HEADER + self.data_len();
        // SAFETY: behind the data there is room for the longest note, and it is ours alone.
        unsafe { std::slice::from_raw_parts_mut(start as *mut u8, note.len()) }.copy_from_slice(note);
        self.word(NOTE).store(note.len() as u64, Ordering::Relaxed);
        self.word(TIME).store(time_ns, Ordering::Relaxed);
        self.word(CRC).store(self.check(), Ordering::Relaxed);
        self.word(0).store(MAGIC, Ordering::Release);
    }

    /// Whether it was sealed and not damaged.
    pub fn is_whole(&self) -> bool {
        self.word(0).load(Ordering::Acquire) == MAGIC
            && self.len().is_some_and(|len| len <= self.memory.len())
            && self.word(CRC).load(Ordering::Relaxed) == self.check()
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        self.part(HEADER, self.data_len())
    }

    /// The note.
    pub fn note(&self) -> &[u8] {
        self.part(HEADER + self.data_len(), self.word(NOTE).load(Ordering::Relaxed) as usize)
    }

    /// When it was made, in nanoseconds since 1970.
    pub fn time_ns(&self) -> u64 {
        self.word(TIME).load(Ordering::Relaxed)
    }

    /// Bytes of all of it; `None` if its header is nonsense.
    pub fn len(&self) -> Option<usize> {
        let (data, note) = (self.word(DATA).load(Ordering::Relaxed), self.word(NOTE).load(Ordering::Relaxed));
        let note = usize::try_from(note).ok().filter(|len| *len <= MAX_NOTE)?;
        HEADER.checked_add(usize::try_from(data).ok()?)?.checked_add(note)
    }

    /// Never: it has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Write it into a new file.
    pub fn write_to(&self, file: &File) -> io::Result<()> {
        file.write_all_at(self.part(0, self.len().unwrap_or(0)), 0)
    }

    /// Read one from its file. `None`: it is not whole.
    pub fn read_from(file: &File) -> io::Result<Option<Image>> {
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if len < HEADER {
            return Ok(None);
        }
        let image = Image { memory: Mapping::anonymous(len)? };
        image.memory.wipe_on_fork();
        // SAFETY: the whole of a mapping that nobody else knows.
        let all = unsafe { std::slice::from_raw_parts_mut(image.memory.addr() as *mut u8, len) };
        match file.read_exact_at(all, 0) {
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        Ok((image.len() == Some(len) && image.is_whole()).then_some(image))
    }

    /// Give the memory away, by its address.
    pub(super) fn into_address(self) -> usize {
        self.memory.leak()
    }

    /// # Safety
    /// `address` is from [`Image::into_address`], and nobody else has it.
    pub(super) unsafe fn from_address(address: usize) -> Image {
        // SAFETY: by the caller's promise the header is there; a blank one says 0 bytes of data, and then the mapping
        // that is given back is too short, never too long.
        let data = unsafe { (*((address + DATA * 8) as *const AtomicU64)).load(Ordering::Relaxed) };
        let len = HEADER + data as usize + MAX_NOTE;
        // SAFETY: by the caller's promise it is the mapping that `new` made, of this length.
        Image { memory: unsafe { Mapping::from_leaked(address, len) } }
    }

    /// The link to the image below it in the stack.
    pub(super) fn next(&self) -> &AtomicU64 {
        self.word(NEXT)
    }

    fn data_len(&self) -> usize {
        self.word(DATA).load(Ordering::Relaxed) as usize
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

#[cfg(test)]
mod tests {
    use super::*;

    fn image(data: &[u8]) -> Image {
        let mut image = Image::new(data.len()).unwrap();
        assert!(!image.is_whole());
        image.data_mut().copy_from_slice(data);
        image.seal(b"{}", 7);
        image
    }

    #[test]
    fn what_is_sealed_is_read_again_and_damage_is_seen() {
        let path = format!("/tmp/libtelemetry-{}-image", std::process::id());
        for data in [&b"x"[..], &vec![9; 100_000]] {
            let written = image(data);
            assert!(written.is_whole());
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
        }
        std::fs::remove_file(path).unwrap();
    }
}
