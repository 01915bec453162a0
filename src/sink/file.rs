//! The file sink: each batch is appended to a file that is opened and closed again, so nothing is inherited.
//!
//! Many processes append to the same file, without a lock (a lock could be left behind by a process that is
//! killed, or be inherited by its children). What keeps lines whole:
//! - A batch is one `writev(2)` on an `O_APPEND` descriptor; local file systems make these exclusive.
//! - A writer that is killed, or meets a full disk, in the middle of that call leaves a line torn, and the
//!   next writer's first line glued to it. So each writer looks, after its own write, at the byte before it
//!   (which is final by then), and if that is not a line end, writes its first line once more.
//! - A write that came out short is taken up again from the start of the line it tore, behind a line end of
//!   its own. Cutting the file back instead would take other writers' lines with it. If the disk stays full,
//!   the torn line is ended if possible, and the batch fails with `Local`: when it is tried again, lines that
//!   had made it come a second time, with the same ids.
//!
//! So a reader may meet a line that is not JSON, and must pass over it; it never loses another line to it.
//! A body without a line end gets one, unless it is compressed. The deadline cannot bound the write to a hung
//! network file system; to a pipe or a terminal (`file:/dev/stdout`) it does.
#![forbid(unsafe_code)]

use super::transport::left;
use super::{Request, Response, Sink, TransportError, TransportErrorKind};
use crate::platform::poll::{self, Interest};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// See the module's text.
pub struct FileSink {
    path: PathBuf,
}

impl FileSink {
    /// Opens nothing yet.
    pub fn new(path: &Path) -> Result<FileSink, String> {
        if path.is_dir() {
            return Err(format!("{} is a directory", path.display()));
        }
        Ok(FileSink { path: path.to_path_buf() })
    }

    fn open(&self) -> io::Result<(File, bool)> {
        let special = std::fs::metadata(&self.path).is_ok_and(|m| {
            m.file_type().is_fifo() || m.file_type().is_char_device() || m.file_type().is_socket()
        });
        let mut how = OpenOptions::new();
        how.append(true).mode(0o644);
        if special {
            let file = how.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&self.path)?;
            return Ok((file, false));
        }
        how.create(true);
        match how.clone().read(true).open(&self.path) {
            // Not allowed to read it: then without the look at the byte before.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok((how.open(&self.path)?, false)),
            r => r.map(|file| (file, true)),
        }
    }

    fn append(&self, request: &Request<'_>) -> io::Result<()> {
        let (file, regular) = self.open()?;
        let body = request.body;
        let text = request.content_encoding.is_none();
        let end: &[u8] = if text && body.last().is_some_and(|b| *b != b'\n') { b"\n" } else { b"" };
        if !regular {
            return write_slowly(&file, &[body, end].concat(), request.deadline);
        }
        append_whole(&file, body, end, text)
    }
}

/// Append `body` and `end` to a regular file that was opened with `O_APPEND` (and to be read, if possible), as
/// the module's text says. Without `text` they are bytes without lines.
pub fn append_whole(file: &File, body: &[u8], end: &[u8], text: bool) -> io::Result<()> {
    let written = write_once(file, &[body, end])?;
    let glued = text && written > 0 && is_glued(file, written);
    let again = rest(body, end, written, text, glued);
    if again.is_empty() {
        return Ok(());
    }
    let n = write_once(file, &[&again])?;
    if n < again.len() {
        let _ = write_once(file, &[b"\n"]);
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

impl Sink for FileSink {
    fn send_once(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        if let Some(to) = request.to {
            let message = format!("{}: a file passes nothing on to {to}", self.path.display());
            return Err(TransportError { kind: TransportErrorKind::Local, message });
        }
        self.append(request).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::NotFound => " (directories are not created)",
                _ => "",
            };
            let message = format!("{}: {e}{hint}", self.path.display());
            TransportError { kind: TransportErrorKind::Local, message }
        })?;
        Ok(Response { status: 200, ..Response::default() })
    }

    fn close_idle(&mut self) {}
}

/// One `writev`; how much of it went out.
fn write_once(mut file: &File, parts: &[&[u8]]) -> io::Result<usize> {
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
    loop {
        match file.write_vectored(&parts) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            r => return r,
        }
    }
}

/// Whether what we wrote began behind a torn line. After an `O_APPEND` write the position is where it ended.
fn is_glued(mut file: &File, written: usize) -> bool {
    let before = file.stream_position().ok().and_then(|end| end.checked_sub(written as u64 + 1));
    let mut byte = [b'\n'];
    before.is_some_and(|at| file.read_at(&mut byte, at).is_ok_and(|n| n == 1) && byte != *b"\n")
}

/// What has to be written again after `written` bytes of `body` and `end` went out in one piece.
fn rest(body: &[u8], end: &[u8], written: usize, text: bool, glued: bool) -> Vec<u8> {
    let all = body.len() + end.len();
    if !text {
        return body[written.min(body.len())..].to_vec();
    }
    let line_end = |part: &[u8]| part.iter().position(|b| *b == b'\n').map(|i| i + 1);
    let torn = body[..written.min(body.len())].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut again = Vec::new();
    // A first line that is torn as well comes once more below.
    if glued && (written == all || torn > 0) {
        again.extend_from_slice(&body[..line_end(body).unwrap_or(body.len())]);
    }
    if written < all {
        again.push(b'\n');
        again.extend_from_slice(&body[torn..]);
    }
    if again.last().is_some_and(|b| *b != b'\n') {
        again.push(b'\n');
    }
    again
}

/// To a pipe or a terminal, waiting for its reader.
fn write_slowly(mut file: &File, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        // A pipe without a reader would answer with SIGPIPE, which is not ours to bring upon the host.
        if poll::is_broken(file.as_fd()) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match file.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let time = left(deadline);
                if time.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                poll::wait(file.as_fd(), Interest::Write, time)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again() {
        let cases: [(&str, &str, usize, bool, &str); 9] = [
            ("aa\nbb\n", "", 6, false, ""),
            ("aa\nbb\n", "", 6, true, "aa\n"),
            ("aa", "\n", 3, true, "aa\n"),
            ("aa\nbb\ncc\n", "", 4, false, "\nbb\ncc\n"),
            ("aa\nbb\ncc\n", "", 4, true, "aa\n\nbb\ncc\n"),
            ("aa\nbb\ncc\n", "", 6, false, "\ncc\n"),
            ("aa\nbb", "\n", 5, false, "\nbb\n"),
            ("aa\nbb", "\n", 1, true, "\naa\nbb\n"),
            ("", "", 0, false, ""),
        ];
        for (body, end, written, glued, want) in cases {
            let got = rest(body.as_bytes(), end.as_bytes(), written, true, glued);
            assert_eq!(String::from_utf8(got).unwrap(), want, "{body:?} {written} {glued}");
        }
        assert_eq!(rest(b"\x1f\nb", b"", 1, false, false), b"\nb");
    }
}
