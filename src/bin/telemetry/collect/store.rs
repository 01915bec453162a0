//! The file of accepted events.
//!
//! Invariants:
//! - A batch is in the file, whole, before its request is answered; so there is nothing to flush at the
//!   end, and what a client was told to be taken is there even after SIGKILL of the collector.
//! - A batch that could not be written whole leaves nothing behind (where the file can be cut back).
//! - The file is appended to, never emptied: a restarted collector goes on where it was. If it ends in
//!   the middle of a line, the next batch starts on a new one.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module's text. Without a file, everything is taken and kept nowhere.
pub struct Store(Option<Mutex<File>>);

impl Store {
    /// Opens (and creates) the file.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Store(None)) };
        // Not every path can be read (a pipe, /dev/stderr): then there is no last line to look at.
        let torn = std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0) && {
            let mut last = [0];
            let mut f = File::open(path)?;
            f.seek(SeekFrom::End(-1))?;
            f.read_exact(&mut last)?;
            last != *b"\n"
        };
        let mut file = File::options().append(true).create(true).open(path)?;
        if torn {
            file.write_all(b"\n")?;
        }
        Ok(Store(Some(Mutex::new(file))))
    }

    /// Appends whole lines.
    pub fn append(&self, lines: &[u8]) -> io::Result<()> {
        let Some(mut file) = self.lock() else { return Ok(()) };
        let before = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
        file.write_all(lines).inspect_err(|_| {
            if let Some(len) = before {
                let _ = file.set_len(len);
            }
        })
    }

    /// Waits for a write under way and keeps others out while the result lives.
    pub fn lock(&self) -> Option<MutexGuard<'_, File>> {
        self.0.as_ref().map(|m| m.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
