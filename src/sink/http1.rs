//! HTTP/1.1 on the wire: writing a request's head, reading an answer. No input, no output, no clock.
//!
//! Invariants:
//! - What the other side sends is bounded: a head by [`HEAD_MAX`], a chunk's size line and the trailers too.
//! - A connection is reusable only if the answer's end is certain: by length or by chunks, nothing after it.
//! - A header of ours cannot end early: names and values are checked for line breaks before they are written.
#![forbid(unsafe_code)]

/// The longest answer head.
pub const HEAD_MAX: usize = 64 * 1024;
const LINE_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 128;

/// Names that frame the message: they are ours to write.
const OURS: [&str; 6] =
    ["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "expect"];

/// Adds one header line.
pub fn put(head: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
}

/// Whether a header given from outside may be sent; the error does not quote the value (it may be a key).
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("{name:?} is no header name"));
    }
    if OURS.iter().any(|n| n.eq_ignore_ascii_case(name)) {
        return Err(format!("the header {name:?} is set by the library"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("the value of the header {name:?} has a control character"));
    }
    Ok(())
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the server keeps the connection.
    pub keep: bool,
}

/// Read the next head from the start of `buf`: it and its length, or `None` if more is needed.
pub fn parse_head(buf: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut space);
    // A value that goes on in the next line is obsolete, and still sent (RFC 9112, 5.2).
    let mut reading = httparse::ParserConfig::default();
    reading.allow_obsolete_multiline_headers_in_responses(true);
    let length = match reading.parse_response(&mut answer, buf) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if buf.len() > HEAD_MAX => {
            return Err("the head of the answer is too long".into());
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => return Err(format!("the answer is not HTTP/1.1: {e}")),
    };
    let status = answer.code.unwrap_or(0);
    if !(100..=999).contains(&status) {
        return Err("the answer has no status".into());
    }
    let headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), unfolded(&String::from_utf8_lossy(h.value))))
        .collect();
    let mut keep = answer.version == Some(1);
    let mut chunked = None;
    let mut content_length: Option<u64> = None;
    for (name, value) in &headers {
        match name.as_str() {
            "connection" => {
                for word in value.split(',').map(str::trim) {
                    if word.eq_ignore_ascii_case("close") {
                        keep = false;
                    } else if word.eq_ignore_ascii_case("keep-alive") && answer.version == Some(0) {
                        keep = true;
                    }
                }
            }
            "transfer-encoding" => {
                let last = value.rsplit(',').next().unwrap_or("").trim();
                chunked = Some(last.eq_ignore_ascii_case("chunked"));
            }
            "content-length" => {
                for part in value.split(',').map(str::trim) {
                    let n = if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None };
                    let n: u64 = n.ok_or("the answer's Content-Length is no number")?;
                    if content_length.is_some_and(|c| c != n) {
                        return Err("the answer has two different lengths".into());
                    }
                    content_length = Some(n);
                }
            }
            _ => {}
        }
    }
    let framing = match (status, chunked, content_length) {
        (100..=199 | 204 | 304, _, _) => Framing::Empty,
        (_, Some(true), Some(_)) => {
            keep = false; // the two contradict each other: read it, trust nothing after it
            Framing::Chunked
        }
        (_, Some(true), None) => Framing::Chunked,
        (_, Some(false), _) => Framing::UntilClose,
        (_, None, Some(0)) => Framing::Empty,
        (_, None, Some(n)) => Framing::Length(n),
        (_, None, None) => Framing::UntilClose,
    };
    keep &= framing != Framing::UntilClose;
    Ok(Some((Head { status, headers, framing, keep }, length)))
}

/// A value in one line.
fn unfolded(value: &str) -> String {
    value.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_string()
}

#[derive(Debug)]
enum State {
    Count(u64),
    ToEnd,
    Size,
    Chunk(u64),
    AfterChunk,
    Trailers,
    Done,
}

/// Collects a body.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    line: Vec<u8>,
    trailers: usize,
    limit: usize,
    /// What has come so far, at most the limit.
    pub bytes: Vec<u8>,
    /// There was more than the limit.
    pub overflow: bool,
}

impl BodyReader {
    /// A body of this framing, kept up to `limit` bytes.
    pub fn new(framing: Framing, limit: usize) -> BodyReader {
        let state = match framing {
            Framing::Empty => State::Done,
            Framing::Length(n) => State::Count(n),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::ToEnd,
        };
        BodyReader { state, line: Vec::new(), trailers: 0, limit, bytes: Vec::new(), overflow: false }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::ToEnd | State::Done)
    }

    /// Take bytes from the connection; returns how many belong to this body. Stops early on overflow.
    pub fn feed(&mut self, mut data: &[u8]) -> Result<usize, String> {
        let all = data.len();
        while !data.is_empty() && !self.is_done() && !self.overflow {
            match &mut self.state {
                State::Count(left) | State::Chunk(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                    *left -= n as u64;
                    let end = *left == 0;
                    if end {
                        self.state = match self.state {
                            State::Count(_) => State::Done,
                            _ => State::AfterChunk,
                        };
                    }
                    self.keep(&data[..n]);
                    data = &data[n..];
                }
                State::ToEnd => {
                    self.keep(data);
                    data = &[];
                }
                State::Size | State::AfterChunk | State::Trailers => {
                    let end = data.iter().position(|b| *b == b'\n');
                    let n = end.map_or(data.len(), |i| i + 1);
                    self.line.extend_from_slice(&data[..n]);
                    data = &data[n..];
                    if self.line.len() > LINE_MAX {
                        return Err("a line between the answer's chunks is too long".into());
                    }
                    if end.is_some() {
                        self.end_of_line()?;
                    }
                }
                State::Done => {}
            }
        }
        Ok(all - data.len())
    }

    fn keep(&mut self, data: &[u8]) {
        let room = self.limit - self.bytes.len().min(self.limit);
        self.overflow |= data.len() > room;
        self.bytes.extend_from_slice(&data[..data.len().min(room)]);
    }

    fn end_of_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.state = match self.state {
            State::Size => {
                let digits = text.split(|b| *b == b';').next().unwrap_or(text).trim_ascii();
                let hex = std::str::from_utf8(digits).ok().filter(|t| !t.starts_with('+'));
                match hex.and_then(|t| u64::from_str_radix(t, 16).ok()) {
                    None => return Err("the answer has a chunk without a size".into()),
                    Some(0) => State::Trailers,
                    Some(n) => State::Chunk(n),
                }
            }
            State::AfterChunk if text.is_empty() => State::Size,
            State::AfterChunk => return Err("a chunk of the answer is longer than it says".into()),
            State::Trailers if text.is_empty() => State::Done,
            _ => {
                self.trailers += line.len();
                if self.trailers > HEAD_MAX {
                    return Err("the trailers of the answer are too long".into());
                }
                State::Trailers
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        parse_head(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn framing_and_reuse() {
        for (text, framing, keep) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nConnection: Close\r\n\r\n",
                Framing::Length(5),
                false,
            ),
            ("HTTP/1.1 204 x\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 200\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n", Framing::Chunked, true),
            (
                "HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                Framing::Chunked,
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::Empty, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", Framing::Empty, true),
        ] {
            let h = head(text);
            assert_eq!((h.framing, h.keep), (framing, keep), "{text}");
        }
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 099 x\r\n\r\n",
        ] {
            assert!(parse_head(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap().is_none());
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(HEAD_MAX));
        assert!(parse_head(endless.as_bytes()).is_err());
    }

    #[test]
    fn chunks_however_they_are_cut() {
        let wire = b"4;ext=1\r\nWiki\r\n5\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for size in 1..wire.len() {
            let mut body = BodyReader::new(Framing::Chunked, 1000);
            let mut used = 0;
            for piece in wire.chunks(size) {
                used += body.feed(piece).unwrap();
            }
            assert!(body.is_done() && !body.overflow);
            assert_eq!(body.bytes, b"Wikipedia in\r\n\r\nchunks.");
            assert_eq!(used, wire.len() - 4, "pieces of {size}");
        }
    }

    #[test]
    fn broken_chunks_are_errors() {
        for bad in ["zz\r\n", "\r\n", "-1\r\n", "+1\r\n", "2\r\nabc\r\n", "fffffffffffffffff\r\n"] {
            let mut body = BodyReader::new(Framing::Chunked, 100);
            assert!(body.feed(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(BodyReader::new(Framing::Chunked, 9).feed(&[b'0'; LINE_MAX + 1]).is_err());
    }

    #[test]
    fn the_limit_is_exact() {
        for (limit, overflow) in [(4, true), (5, false)] {
            let mut body = BodyReader::new(Framing::Length(5), limit);
            body.feed(b"hello").unwrap();
            assert_eq!((body.overflow, body.bytes.len()), (overflow, limit));
        }
    }

    #[test]
    fn headers_that_would_break_the_request() {
        assert!(check_header("X-Key", "v\tw ü").is_ok());
        for (n, v) in
            [("", "x"), ("a b", "x"), ("a", "x\r\nb: c"), ("a", "\0"), ("a", "\u{85}"), ("Expect", "3")]
        {
            assert!(check_header(n, v).is_err(), "{n:?}");
        }
        assert!(!check_header("Authorization", "secret\n").unwrap_err().contains("secret"));
    }
}
