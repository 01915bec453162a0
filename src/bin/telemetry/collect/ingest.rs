//! From a request body to events, for every shape that is accepted.
//!
//! Invariants:
//! - All or nothing: an error anywhere in a body leaves the batch unusable, and its caller stores nothing.
//! - Every byte of an event is checked to be JSON in UTF-8, but nothing of it is built: one pass that
//!   keeps the id and the pid and skips the rest. This is what makes the collector fast enough to be
//!   the far end of a benchmark.
//! - An event leaves here on one line: a raw line break in JSON can only be white space between tokens,
//!   so it becomes a blank.
//!
//! Shapes: lines of objects (`application/x-ndjson`, or more than one object in the body); an array of
//! objects; one object with an array `batch`; a Sentry envelope by its content type; else one object.

use super::scan::{ItemHead, Key, Pid, Scan};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use serde::de::{Deserialize, IgnoredAny};
use std::collections::HashMap;
use std::io::Read;

/// How the body's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// gzip, one member or more.
    Gzip,
    /// zlib, as HTTP's `deflate` means it.
    Deflate,
}

/// What the content type says about the body's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Nothing: look at the body.
    Guess,
    /// One object a line.
    Lines,
    /// A Sentry envelope.
    Sentry,
}

/// What is kept of an event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its id, if it has one.
    pub key: Option<u128>,
    /// Index into [`Batch::pids`], or [`NO_PID`].
    pub pid: u32,
    /// Where its line ends (behind the line break) in [`Batch::lines`].
    pub end: usize,
}

/// The event names no pid.
pub const NO_PID: u32 = u32::MAX;

/// The events of one body. Kept with the connection, so that its memory is used again.
#[derive(Default)]
pub struct Batch {
    /// In the order of the body.
    pub events: Vec<Event>,
    /// The events as lines, each ended by `\n`.
    pub lines: Vec<u8>,
    /// The different pids of the batch.
    pub pids: Vec<Pid>,
    index: HashMap<Pid, u32>,
    last: u32,
}

impl Batch {
    /// Empties it; memory beyond `keep` bytes is given back.
    pub fn clear(&mut self, keep: usize) {
        self.events.clear();
        self.events.shrink_to(keep / size_of::<Event>());
        self.lines.clear();
        self.lines.shrink_to(keep);
        self.pids.clear();
        self.index.clear();
        self.last = NO_PID;
    }

    fn intern(&mut self, pid: Pid) -> u32 {
        // Mostly a whole batch comes from one process.
        if self.pids.get(self.last as usize) != Some(&pid) {
            let next = self.pids.len() as u32;
            self.last = *self.index.entry(pid.clone()).or_insert(next);
            if self.last == next {
                self.pids.push(pid);
            }
        }
        self.last
    }

    fn push(&mut self, scan: Scan, text: &str) {
        let from = self.lines.len();
        self.lines.extend_from_slice(text.as_bytes());
        if let Some(line) = self.lines.get_mut(from..) {
            let mut rest = line;
            while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
                let (_, tail) = rest.split_at_mut(at);
                tail[0] = b' ';
                rest = &mut tail[1..];
            }
        }
        self.lines.push(b'\n');
        let pid = scan.pid.map_or(NO_PID, |p| self.intern(p));
        self.events.push(Event { key: scan.id, pid, end: self.lines.len() });
    }
}

/// Why a body could not be unpacked.
#[derive(Debug, PartialEq)]
pub enum Unpack {
    /// It is damaged.
    Bad(String),
    /// It would be larger than the limit.
    TooLarge,
}

/// Unpacks `wire` into `plain` (which is only ever grown here, to be used again) and returns its length.
pub fn unpack(encoding: Encoding, wire: &[u8], plain: &mut Vec<u8>, limit: usize) -> Result<usize, Unpack> {
    match encoding {
        Encoding::Identity => Ok(wire.len()),
        Encoding::Gzip => fill(&mut MultiGzDecoder::new(wire), plain, limit),
        Encoding::Deflate => {
            let mut z = ZlibDecoder::new(wire);
            let n = fill(&mut z, plain, limit)?;
            if z.total_in() != wire.len() as u64 {
                return Err(Unpack::Bad("bytes after the end of the deflate stream".into()));
            }
            Ok(n)
        }
    }
}

fn fill(from: &mut dyn Read, plain: &mut Vec<u8>, limit: usize) -> Result<usize, Unpack> {
    let mut n = 0;
    loop {
        if n == plain.len() {
            // One byte more than allowed, so that "exactly the limit" and "more" can be told apart.
            plain.resize((n * 2).max(512 * 1024).min(limit + 1).max(n + 1), 0);
        }
        match from.read(&mut plain[n..]) {
            Ok(0) => return if n > limit { Err(Unpack::TooLarge) } else { Ok(n) },
            Ok(m) => n += m,
            Err(e) => return Err(Unpack::Bad(format!("the body cannot be unpacked: {e}"))),
        }
        if n > limit {
            return Err(Unpack::TooLarge);
        }
    }
}

/// Reads the events of a body into `batch`, which is expected to be empty.
pub fn parse(body: &[u8], shape: Shape, batch: &mut Batch) -> Result<(), String> {
    if shape == Shape::Sentry {
        return sentry(body, batch);
    }
    let text = std::str::from_utf8(body).map_err(|e| format!("not UTF-8: {e}"))?;
    let mut c = Cursor { text, at: 0 };
    match c.peek() {
        None => Err("the body is empty".into()),
        Some(b'[') if shape == Shape::Guess => {
            c.array(batch)?;
            c.end()
        }
        Some(b'{') if shape == Shape::Guess => match c.envelope(batch)? {
            Object::Batch => c.end(),
            Object::Plain if c.peek().is_none() => {
                let scan = Cursor { text, at: 0 }.value::<Scan>()?;
                batch.push(scan, text.trim_ascii());
                Ok(())
            }
            Object::Plain => lines(text, batch),
        },
        Some(_) => lines(text, batch),
    }
}

/// One object a line. One deserializer for all lines: its scratch space is allocated once.
fn lines(text: &str, batch: &mut Batch) -> Result<(), String> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Scan>();
    let mut end = 0;
    while let Some(scan) = stream.next() {
        let scan = scan.map_err(|e| e.to_string())?;
        let from = end;
        end = stream.byte_offset();
        let gap = &text[from..end];
        let event = gap.trim_ascii_start();
        let before = &gap.as_bytes()[..gap.len() - event.len()];
        let line = || memchr::memchr_iter(b'\n', &text.as_bytes()[..end]).count() + 1;
        if from > 0 && memchr::memchr(b'\n', before).is_none() {
            return Err(format!("two events on line {}", line()));
        }
        if memchr::memchr(b'\n', event.as_bytes()).is_some() {
            return Err(format!("an event is spread over several lines, up to line {}", line()));
        }
        batch.push(scan, event);
    }
    Ok(())
}

/// The header line is the sender's, each item is a header line and a payload. Payloads that are one JSON
/// object are events; attachments and the like are not JSON and are passed over.
fn sentry(body: &[u8], batch: &mut Batch) -> Result<(), String> {
    let line_end = |from: usize| memchr::memchr(b'\n', &body[from..]).map_or(body.len(), |i| from + i);
    let read = |from: usize, to: usize| -> Result<ItemHead, String> {
        serde_json::from_slice(&body[from..to]).map_err(|e| format!("envelope: {e}"))
    };
    let mut at = line_end(0);
    read(0, at)?;
    while at + 1 < body.len() {
        let from = at + 1;
        let end = line_end(from);
        if body[from..end].trim_ascii().is_empty() {
            at = end;
            continue;
        }
        let head = read(from, end)?;
        let start = (end + 1).min(body.len());
        let stop = match head.length {
            Some(n) => {
                start.checked_add(n).filter(|s| *s <= body.len()).ok_or("envelope: an item is cut short")?
            }
            None => line_end(start),
        };
        if let Ok(text) = std::str::from_utf8(&body[start..stop])
            && let Ok(scan) = serde_json::from_str::<Scan>(text)
        {
            batch.push(scan, text.trim_ascii());
        }
        at = stop;
    }
    Ok(())
}

enum Object {
    /// It had an array `batch`, whose elements were taken.
    Batch,
    Plain,
}

/// Walks the outermost level of a body by hand, to know where each event starts and ends.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\n' | b'\t' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, expected: &str) -> String {
        format!("expected {expected} at byte {}", self.at)
    }

    fn value<T: Deserialize<'a>>(&mut self) -> Result<T, String> {
        let from = self.at;
        let mut one = serde_json::Deserializer::from_str(&self.text[from..]).into_iter::<T>();
        let value = match one.next() {
            Some(v) => v.map_err(|e| format!("{e} of what starts at byte {from}"))?,
            None => return Err(self.wrong("a value")),
        };
        self.at += one.byte_offset();
        Ok(value)
    }

    fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end of the body")),
        }
    }

    /// At `[`: takes each element.
    fn array(&mut self, batch: &mut Batch) -> Result<(), String> {
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.peek();
            let from = self.at;
            let scan = self.value::<Scan>()?;
            batch.push(scan, &self.text[from..self.at]);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or ']'")),
            }
        }
    }

    /// At `{`: takes the elements of `batch` and passes over the rest.
    fn envelope(&mut self, batch: &mut Batch) -> Result<Object, String> {
        self.at += 1;
        let mut found = Object::Plain;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(found);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key"));
            }
            let key = self.value::<Key>()?;
            if self.peek() != Some(b':') {
                return Err(self.wrong("':'"));
            }
            self.at += 1;
            if self.peek() == Some(b'[') && key == Key::Batch {
                self.array(batch)?;
                found = Object::Batch;
            } else {
                self.value::<IgnoredAny>()?;
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(found);
                }
                _ => return Err(self.wrong("',' or '}'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, shape: Shape) -> Result<Batch, String> {
        let mut b = Batch::default();
        parse(body.as_bytes(), shape, &mut b)?;
        Ok(b)
    }

    fn lines_of(b: &Batch) -> String {
        String::from_utf8(b.lines.clone()).unwrap()
    }

    #[test]
    fn each_shape() {
        for (body, shape, want) in [
            ("{\"id\":1}\n\n{\"id\":2}", Shape::Guess, "{\"id\":1}\n{\"id\":2}\n"),
            ("{\"id\":1}\r\n{\"id\":2}\r\n", Shape::Lines, "{\"id\":1}\n{\"id\":2}\n"),
            ("[]", Shape::Guess, ""),
            (" [ {\"a\":[1]} ,\n{\n\"b\":{}}\n] ", Shape::Guess, "{\"a\":[1]}\n{ \"b\":{}}\n"),
            ("{\"k\":{\"batch\":[1]},\"batch\":[{},{\"a\":1}],\"z\":1.5}", Shape::Guess, "{}\n{\"a\":1}\n"),
            ("{\"batch\":7,\n\"id\":2}\n", Shape::Guess, "{\"batch\":7, \"id\":2}\n"),
            ("{\"batch\":[{}]}\n", Shape::Lines, "{\"batch\":[{}]}\n"),
            (
                "{\"event_id\":\"a\"}\n{\"type\":\"event\",\"length\":9}\n{\"a\":\n 1}\n{\"type\":\"x\"}\nraw\n",
                Shape::Sentry,
                "{\"a\":  1}\n",
            ),
        ] {
            let b = read(body, shape).unwrap_or_else(|e| panic!("{body}: {e}"));
            assert_eq!(lines_of(&b), want, "{body}");
            assert_eq!(b.events.len(), want.lines().count(), "{body}");
            assert_eq!(b.events.last().map_or(0, |e| e.end), b.lines.len(), "{body}");
        }
    }

    #[test]
    fn bad_bodies() {
        for (body, shape) in [
            ("", Shape::Guess),
            (" \n", Shape::Lines),
            ("{", Shape::Guess),
            ("[{}", Shape::Guess),
            ("[{},]", Shape::Guess),
            ("[{} {}]", Shape::Guess),
            ("[1]", Shape::Guess),
            ("[{}]x", Shape::Guess),
            ("7", Shape::Guess),
            ("\"a\"", Shape::Guess),
            ("{}\n{", Shape::Guess),
            ("{} {}", Shape::Guess),
            ("{\n}\n{}", Shape::Lines),
            ("[{}]\n", Shape::Lines),
            ("{\"batch\":[{}]", Shape::Guess),
            ("{\"batch\":[3]}", Shape::Guess),
            ("{\"a\":1,}", Shape::Guess),
            ("{\"a\" 1}", Shape::Guess),
            ("{a:1}", Shape::Guess),
            ("{\"a\":\"\u{1}\"}", Shape::Lines),
            ("{}\n{\"length\":9}\nx", Shape::Sentry),
            ("x\n", Shape::Sentry),
        ] {
            assert!(read(body, shape).is_err(), "{body:?}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}", Shape::Guess, &mut Batch::default()).is_err());
        assert!(read("{}\n{}\n{x}\n", Shape::Lines).err().unwrap().contains("line 3"));
    }

    #[test]
    fn unpacking() {
        use std::io::Write;
        let data = vec![b'a'; 3_000_000];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&data).unwrap();
        let mut packed = gz.finish().unwrap();
        let mut plain = Vec::new();
        assert_eq!(unpack(Encoding::Gzip, &packed, &mut plain, 3_000_000), Ok(3_000_000));
        assert_eq!(unpack(Encoding::Gzip, &packed, &mut plain, 2_999_999), Err(Unpack::TooLarge));
        packed.extend(packed.clone());
        assert_eq!(unpack(Encoding::Gzip, &packed, &mut plain, 1 << 26), Ok(6_000_000));
        packed.truncate(packed.len() - 5);
        assert!(matches!(unpack(Encoding::Gzip, &packed, &mut plain, 1 << 26), Err(Unpack::Bad(_))));
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(b"{}").unwrap();
        let mut packed = z.finish().unwrap();
        assert_eq!(unpack(Encoding::Deflate, &packed, &mut plain, 100), Ok(2));
        packed.push(0);
        assert!(matches!(unpack(Encoding::Deflate, &packed, &mut plain, 100), Err(Unpack::Bad(_))));
    }
}
