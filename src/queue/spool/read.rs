//! Reading a segment's file.
//!
//! Invariants:
//! - Files are read, not mapped: somebody who shortens one costs its events, and no fault.
//! - What is read is bounded by the header's own length, and that by [`MAX_SEGMENT`]; a header whose check is wrong
//!   bounds nothing and is not believed.

use super::header::{Header, MAX_SEGMENT, Unreadable};
use std::fs::File;
use std::io::{self, Read};

/// Bytes enough for the header.
pub const HEAD: usize = 256;

/// The whole of a segment, or what is left of it; or why it is none.
pub fn segment(file: &File) -> io::Result<Result<Vec<u8>, Unreadable>> {
    let mut bytes = vec![0; HEAD];
    let n = up_to(file, &mut bytes)?;
    bytes.truncate(n);
    match Header::read(&bytes) {
        Ok(header) => {
            let limit = u64::from(header.segment_len.min(MAX_SEGMENT));
            file.take(limit.saturating_sub(n as u64)).read_to_end(&mut bytes)?;
            Ok(Ok(bytes))
        }
        Err(Unreadable::Blank) if !is_blank(file)? => Ok(Err(Unreadable::Garbage)),
        // Its owner died while it wrote the header: the rest is there, and blank.
        Err(Unreadable::Garbage) if is_longer(file)? && is_blank(file)? => Ok(Err(Unreadable::Blank)),
        Err(why) => Ok(Err(why)),
    }
}

fn is_longer(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.len() > HEAD as u64)
}

/// Its header alone.
pub fn header(file: &File) -> io::Result<Result<Header, Unreadable>> {
    let mut head = [0; HEAD];
    let n = up_to(file, &mut head)?;
    Ok(Header::read(&head[..n]))
}

/// Fill as much of `buffer` as the file has.
fn up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(n)
}

/// Whether the rest of the file, as far as a segment could reach, is zero.
fn is_blank(file: &File) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    let mut left = MAX_SEGMENT as usize;
    while left > 0 {
        let n = up_to(file, &mut buffer)?;
        if buffer[..n].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        if n < buffer.len() {
            break;
        }
        left = left.saturating_sub(n);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::identity::Identity;
    use std::fs;
    use std::io::Write;

    fn file(name: &str, content: &[u8]) -> File {
        let path = format!("/tmp/libtelemetry-{}-read-{name}", std::process::id());
        fs::File::create(&path).unwrap().write_all(content).unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_as_far_as_its_header_says() {
        let owner = Identity { boot: 1, pid_ns: 2, pid: 3, start: 4, image: 0 };
        let header = Header { segment_len: 512, owner, number: 7, nonce: 9, created_ms: 5, format: [0; 16] };
        for (len, want) in [(100, 100), (256, 256), (300, 300), (512, 512), (9000, 512)] {
            let mut content = header.copy();
            content.resize(len, 7);
            let file = file("bounded", &content);
            assert_eq!(segment(&file).unwrap().unwrap(), content[..want], "{len}");
        }
    }

    #[test]
    fn blank_is_what_holds_nothing() {
        let of = |content: &[u8]| segment(&file("blank", content)).unwrap().unwrap_err();
        assert_eq!(of(&[]), Unreadable::Blank);
        assert_eq!(of(&[0; 100_000]), Unreadable::Blank);
        assert_eq!(of(&[&[0; 90_000][..], &[1]].concat()), Unreadable::Garbage);
        assert_eq!(of(&[&[1; 20][..], &[0; 4000]].concat()), Unreadable::Blank, "half a header, and no more");
        assert_eq!(of(&[1; 20]), Unreadable::Garbage);
        assert_eq!(of(&[1; 4000]), Unreadable::Garbage);
    }
}
