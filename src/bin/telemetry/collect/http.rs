//! HTTP/1.1 on one connection, as much as a collector needs, with the socket in plain reach.
//!
//! Invariants:
//! - The bytes of a request are read exactly: what comes behind it stays for the next one.
//! - A body is bounded before it is stored. One that is too large is read to its end and thrown away if
//!   it stays under [`HARD_LIMIT`], so that the client reads its 413 instead of a reset; beyond that
//!   the connection ends.
//! - An unclear length (two lengths, length and chunks, unknown coding) is refused, never guessed.
//! - An answer is one write.

use super::listen::Stream;
use super::unpack::Encoding;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// No body may be larger, on the wire or unpacked.
pub const HARD_LIMIT: usize = 64 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const HEADERS: usize = 100;
/// A silent connection is given up after this long.
const IDLE: Duration = Duration::from_secs(600);

/// Why a request could not be read.
#[derive(Debug)]
pub enum Fail {
    /// The connection is gone: nobody to answer.
    Gone,
    /// Answer this status with this text and close.
    Bad(u16, String),
    /// The body was larger than the limit. The next request can be read if `rest` is false.
    TooLarge {
        /// Unread bytes are still coming.
        rest: bool,
    },
}

impl From<io::Error> for Fail {
    fn from(_: io::Error) -> Self {
        Fail::Gone
    }
}

fn bad(text: &str) -> Fail {
    Fail::Bad(400, text.into())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Length {
    Bytes(u64),
    Chunked,
}

/// A request's first line and its headers.
#[derive(Debug)]
pub struct Head {
    /// `GET`, `POST`...
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// The client wants another request on this connection.
    pub keep_alive: bool,
    /// How the body is packed; `None`: in a way that is not understood.
    pub encoding: Option<Encoding>,
    /// All headers, as they were sent.
    headers: Vec<(Box<str>, Box<str>)>,
    length: Length,
    expect: bool,
}

impl Head {
    /// First value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The content type in lower case, without its parameters; empty if there is none.
    pub fn content_type(&self) -> String {
        let kind = self.header("Content-Type").unwrap_or_default();
        kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
}

#[cfg(test)]
impl Head {
    /// A `POST` as a test needs it.
    pub fn of(path: &str, headers: &[(&str, &str)]) -> Head {
        let own = |t: &str| Box::from(t);
        Head {
            method: "POST".into(),
            path: path.into(),
            query: String::new(),
            keep_alive: true,
            encoding: Some(Encoding::Identity),
            headers: headers.iter().map(|(n, v)| (own(n), own(v))).collect(),
            length: Length::Bytes(0),
            expect: false,
        }
    }
}

/// The reading side of a connection and its buffer.
pub struct Reader<'s> {
    stream: &'s Stream,
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl<'s> Reader<'s> {
    /// A reader with an empty buffer.
    pub fn new(stream: &'s Stream) -> Self {
        Reader { stream, buf: vec![0; HEAD_LIMIT], start: 0, end: 0 }
    }

    fn pending(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads more behind what is pending. `false`: the client has finished.
    fn more(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let n = read(self.stream, self.buf.get_mut(self.end..).unwrap_or_default())?;
        self.end += n;
        Ok(n > 0)
    }

    /// The next request's head; `None` if the client closed between requests.
    pub fn head(&mut self) -> Result<Option<Head>, Fail> {
        self.stream.set_read_timeout(Some(IDLE))?;
        loop {
            if self.start != self.end {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS];
                let mut request = httparse::Request::new(&mut headers);
                match request.parse(self.pending()) {
                    Ok(httparse::Status::Complete(n)) => {
                        let head = understand(&request)?;
                        self.start += n;
                        return Ok(Some(head));
                    }
                    Ok(httparse::Status::Partial) if self.pending().len() >= HEAD_LIMIT => {
                        return Err(Fail::Bad(431, format!("the head is larger than {HEAD_LIMIT} bytes")));
                    }
                    Ok(httparse::Status::Partial) => {}
                    Err(httparse::Error::TooManyHeaders) => {
                        return Err(Fail::Bad(431, format!("more than {HEADERS} headers")));
                    }
                    Err(e) => return Err(Fail::Bad(400, format!("not an HTTP request: {e}"))),
                }
            }
            if !self.more()? {
                return if self.start == self.end { Ok(None) } else { Err(Fail::Gone) };
            }
        }
    }

    /// Reads the body into the front of `into` (only ever grown, to be used again); returns its length.
    pub fn body(&mut self, head: &Head, into: &mut Vec<u8>, limit: usize) -> Result<usize, Fail> {
        if let Length::Bytes(n) = head.length
            && n > limit as u64
            && (head.expect || n > HARD_LIMIT as u64)
        {
            return Err(Fail::TooLarge { rest: true });
        }
        if head.expect && self.start == self.end {
            (&mut &*self.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut sink = Sink { into, len: 0, total: 0, limit };
        match head.length {
            Length::Bytes(n) => self.take(n, &mut sink)?,
            Length::Chunked => loop {
                let n = self.chunk_size()?;
                if n == 0 {
                    while !self.line()?.is_empty() {}
                    break;
                }
                if n > HARD_LIMIT as u64 - sink.total.min(HARD_LIMIT as u64) {
                    return Err(Fail::TooLarge { rest: true });
                }
                self.take(n, &mut sink)?;
                if !self.line()?.is_empty() {
                    return Err(bad("a chunk is longer than its size"));
                }
            },
        }
        if sink.total > limit as u64 { Err(Fail::TooLarge { rest: false }) } else { Ok(sink.len) }
    }

    /// Moves `n` bytes to the sink: what is pending, then straight from the socket.
    fn take(&mut self, n: u64, sink: &mut Sink<'_>) -> Result<(), Fail> {
        let have = self.pending();
        let have = have.get(..have.len().min(n as usize)).unwrap_or_default();
        let taken = have.len();
        sink.push(have);
        self.start += taken;
        let mut left = n - taken as u64;
        while left > 0 {
            let room = sink.room(left);
            if room.is_empty() {
                // Too large: read on, store nothing.
                if !self.more()? {
                    return Err(Fail::Gone);
                }
                let n = (self.pending().len() as u64).min(left);
                self.start += n as usize;
                sink.total += n;
                left -= n;
                continue;
            }
            match read(self.stream, room)? {
                0 => return Err(Fail::Gone),
                n => {
                    sink.len += n;
                    sink.total += n as u64;
                    left -= n as u64;
                }
            }
        }
        Ok(())
    }

    fn chunk_size(&mut self) -> Result<u64, Fail> {
        let line = self.line()?;
        let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        std::str::from_utf8(size)
            .ok()
            .filter(|s| !s.starts_with('+'))
            .and_then(|s| u64::from_str_radix(s, 16).ok())
            .ok_or_else(|| bad("a chunk without a size"))
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<Vec<u8>, Fail> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.pending()) {
                let mut line = self.pending().get(..at).unwrap_or_default().to_vec();
                self.start += at + 1;
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.pending().len() >= HEAD_LIMIT {
                return Err(bad("a line of the chunked body is too long"));
            }
            if !self.more()? {
                return Err(Fail::Gone);
            }
        }
    }

    /// Waits until `until` (`None`: for ever) or until the client goes; `true` if it is still there.
    /// What it sends meanwhile is kept for the next request.
    pub fn wait(&mut self, until: Option<Instant>) -> bool {
        loop {
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return true;
            }
            if self.pending().len() == self.buf.len() {
                // It sends on without an end; only time can end this.
                std::thread::sleep(left.unwrap_or(IDLE));
                continue;
            }
            if self.stream.set_read_timeout(left).is_err() {
                return false;
            }
            match self.more() {
                Ok(true) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                _ => return false,
            }
        }
    }

    /// Reads on for a moment after an answer that ends the connection early: closing with unread bytes
    /// would reset it, and the client might never see the answer.
    pub fn linger(&mut self) {
        self.stream.finish_writing();
        let until = Instant::now() + Duration::from_secs(2);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            self.start = self.end;
            if self.stream.set_read_timeout(Some(left)).is_err() || !matches!(self.more(), Ok(true)) {
                return;
            }
        }
    }
}

/// Where a body goes, up to a limit.
struct Sink<'b> {
    into: &'b mut Vec<u8>,
    len: usize,
    total: u64,
    limit: usize,
}

impl Sink<'_> {
    /// Room for some of the `left` bytes; none if the body is over the limit by then.
    fn room(&mut self, left: u64) -> &mut [u8] {
        if self.total + left > self.limit as u64 {
            return &mut [];
        }
        let left = left as usize;
        if self.into.len() < self.len + left {
            // Grow as bytes really come: a length is only a claim.
            let step = (self.len + left).min((self.len * 2).max(512 << 10));
            self.into.resize(step, 0);
        }
        let to = self.into.len().min(self.len + left);
        self.into.get_mut(self.len..to).unwrap_or_default()
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room(bytes.len() as u64);
            if room.is_empty() {
                self.total += bytes.len() as u64;
                return;
            }
            let n = room.len();
            let (now, rest) = bytes.split_at(n);
            room.copy_from_slice(now);
            self.len += n;
            self.total += n as u64;
            bytes = rest;
        }
    }
}

fn read(mut stream: &Stream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(room) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn understand(request: &httparse::Request<'_, '_>) -> Result<Head, Fail> {
    let target = request.path.unwrap_or("/");
    // The absolute form, as sent through a proxy.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|i| rest.get(i..)).unwrap_or("/"),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let http11 = request.version == Some(1);
    let mut head = Head {
        method: request.method.unwrap_or_default().into(),
        path: path.into(),
        query: query.into(),
        keep_alive: http11,
        encoding: Some(Encoding::Identity),
        headers: Vec::with_capacity(request.headers.len()),
        length: Length::Bytes(0),
        expect: false,
    };
    let (mut length, mut chunked) = (None, false);
    for h in request.headers.iter() {
        let value = std::str::from_utf8(h.value).unwrap_or("\u{fffd}").trim();
        let is = |name: &str| h.name.eq_ignore_ascii_case(name);
        head.headers.push((h.name.into(), value.into()));
        let has = |word: &str| value.split(',').any(|w| w.trim().eq_ignore_ascii_case(word));
        if is("content-length") {
            // "+5" is a number to Rust, but not to HTTP.
            let n = value.parse::<u64>().ok().filter(|_| value.bytes().all(|b| b.is_ascii_digit()));
            let n = n.ok_or_else(|| bad("Content-Length is not a number"))?;
            if length.replace(n).is_some_and(|before| before != n) {
                return Err(bad("two different Content-Length"));
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") || chunked {
                return Err(Fail::Bad(501, "Transfer-Encoding: only chunked is understood".into()));
            }
            chunked = true;
        } else if is("connection") {
            head.keep_alive = (head.keep_alive || has("keep-alive")) && !has("close");
        } else if is("expect") {
            head.expect = http11 && value.eq_ignore_ascii_case("100-continue");
        } else if is("content-encoding") {
            head.encoding = match value.to_ascii_lowercase().as_str() {
                "" | "identity" => Some(Encoding::Identity),
                "gzip" | "x-gzip" => Some(Encoding::Gzip),
                "deflate" => Some(Encoding::Deflate),
                "zstd" => Some(Encoding::Zstd),
                _ => None,
            };
        }
    }
    head.length = match (chunked, length) {
        (true, Some(_)) => return Err(bad("both Content-Length and Transfer-Encoding")),
        (true, None) => Length::Chunked,
        (false, n) => Length::Bytes(n.unwrap_or(0)),
    };
    Ok(head)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// `Content-Type`.
    pub kind: &'static str,
    /// More headers, name and value.
    pub extra: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, kind: "application/json", extra: Vec::new(), body: body.into() }
    }

    /// A plain text.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { kind: "text/plain; charset=utf-8", ..Answer::json(status, body) }
    }

    /// The same with one more header.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.extra.push((name, value.to_string()));
        self
    }

    /// A JSON answer that says what is wrong.
    pub fn error(status: u16, text: &str) -> Self {
        Answer::json(status, serde_json::json!({"status": 0, "error": text}).to_string())
    }

    /// The bytes up to the body.
    pub fn head(&self, keep_alive: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        let reason = reason(self.status);
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let _ = write!(out, "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\n", self.status, self.kind);
        if self.status != 204 {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.extra {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let _ = write!(out, "Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n");
        out
    }

    /// Sends it; without its body if `head_only`.
    pub fn send(&self, mut to: &Stream, keep_alive: bool, head_only: bool) -> io::Result<()> {
        let mut out = self.head(keep_alive);
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        to.write_all(&out)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        207 => "Multi-Status",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        _ => "Status",
    }
}
