//! As much of HTTP/1.1 as a probe speaks: a request's head is read, an answer is written out. No input, no output.
//!
//! Invariants:
//! - A head is at most [`HEAD_MAX`] bytes. What follows it, a body or another request, is never looked at.
//! - An answer says how long it is and that the connection ends. To `HEAD` it says the length that `GET` would get.
//! - No text of a request is repeated in an answer.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::time::SystemTime;

/// The longest head of a request.
pub const HEAD_MAX: usize = 4096;
const HEADERS_MAX: usize = 64;
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `/livez`: whether to leave the process alone.
    Live,
    /// `/readyz`: whether to send it work.
    Ready,
    /// `/status`: all there is to tell.
    Status,
    /// `/metrics`: the same as time series.
    Metrics,
    /// `/`: the same to look at.
    Page,
}

impl Path {
    fn of(path: &str) -> Option<Path> {
        Some(match path {
            "/livez" => Path::Live,
            "/readyz" => Path::Ready,
            "/status" => Path::Status,
            "/metrics" => Path::Metrics,
            "/" => Path::Page,
            _ => return None,
        })
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Content type.
    pub kind: &'static str,
    /// Further headers: names and values without line breaks.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without further headers.
    pub fn new(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, kind, headers: Vec::new(), body: body.into() }
    }

    /// One in JSON.
    pub fn json(status: u16, text: String) -> Answer {
        Answer::new(status, JSON, text)
    }

    /// One that says what is wrong with the request, or with us.
    pub(super) fn refusal(status: u16, why: &str) -> Answer {
        Answer::new(status, PLAIN, format!("{} {}: {why}\n", status, reason(status)))
    }
}

/// An answer as bytes.
#[derive(Debug)]
pub(super) struct Wire {
    bytes: Vec<u8>,
    head: usize,
}

impl Wire {
    pub fn of(answer: &Answer) -> Wire {
        let mut bytes = Vec::with_capacity(512 + answer.body.len());
        let mut line = |parts: &[&str]| {
            parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
            bytes.extend_from_slice(b"\r\n");
        };
        line(&["HTTP/1.1 ", &answer.status.to_string(), " ", reason(answer.status)]);
        line(&["Date: ", &httpdate::fmt_http_date(SystemTime::now())]);
        line(&["Content-Type: ", answer.kind]);
        line(&["Content-Length: ", &answer.body.len().to_string()]);
        line(&["Cache-Control: no-store"]);
        line(&["X-Content-Type-Options: nosniff"]);
        for (name, value) in &answer.headers {
            line(&[name, ": ", value]);
        }
        line(&["Connection: close"]);
        line(&[]);
        let head = bytes.len();
        bytes.extend_from_slice(&answer.body);
        Wire { bytes, head }
    }

    /// What is sent: all of it, or the head alone.
    pub fn part(&self, head_only: bool) -> &[u8] {
        if head_only { self.bytes.get(..self.head).unwrap_or_default() } else { &self.bytes }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// What the bytes so far are.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    /// The beginning of a request.
    More,
    /// A request.
    Asked(Request),
    /// Nothing that will ever be one.
    Refused(Answer),
}

#[derive(Debug, PartialEq)]
pub(super) struct Request {
    /// `HEAD`: without the body.
    pub head_only: bool,
    /// More comes, or is to come, behind the head: it has to be read before the connection is closed, as closing with
    /// unread bytes would be a reset, and the answer might be lost by it.
    pub more: bool,
    pub target: Target,
}

#[derive(Debug, PartialEq)]
pub(super) enum Target {
    /// A page, verbose or not.
    Page(Path, bool),
    /// There is none, or none for this method.
    None(Answer),
}

/// Reads the head of a request; `ended`: nothing more will come.
pub(super) fn read(bytes: &[u8], ended: bool) -> Read {
    let refused = |status, why: &str| Read::Refused(Answer::refusal(status, why));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if ended => return refused(400, "the request ends in its head"),
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Read::More,
        Ok(httparse::Status::Partial) => return refused(431, "the head is larger than 4096 bytes"),
        Err(httparse::Error::TooManyHeaders) => return refused(431, "there are more than 64 headers"),
        Err(_) => return refused(400, "this is not a request of HTTP/1"),
    };
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let Some(target) = path_and_query(target) else {
        return refused(400, "the target is neither a path nor a URL");
    };
    let more = bytes.len() > length || request.headers.iter().any(announces_a_body);
    Read::Asked(Request { head_only: method == "HEAD", more, target: find(method, &target) })
}

fn announces_a_body(header: &httparse::Header<'_>) -> bool {
    let is = |name: &str| header.name.eq_ignore_ascii_case(name);
    is("Transfer-Encoding") || (is("Content-Length") && header.value.trim_ascii() != b"0")
}

/// The target without scheme and host, which a request through a proxy has. `*` stays what it is.
fn path_and_query(target: &str) -> Option<Cow<'_, str>> {
    if target.starts_with('/') || target == "*" {
        return Some(target.into());
    }
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
        return None;
    }
    match rest.find(['/', '?']).map(|at| rest.split_at(at)) {
        Some(("", _)) => None,
        Some((_, path)) if path.starts_with('/') => Some(path.into()),
        Some((_, query)) => Some(format!("/{query}").into()),
        None if rest.is_empty() => None,
        None => Some("/".into()),
    }
}

fn find(method: &str, target: &str) -> Target {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = Path::of(path);
    match (method, found) {
        ("GET" | "HEAD", Some(path)) => Target::Page(path, is_verbose(query)),
        (_, Some(_)) => {
            let mut answer = Answer::refusal(405, "only GET and HEAD are answered");
            answer.headers.push(("Allow", "GET, HEAD".into()));
            Target::None(answer)
        }
        (_, None) => Target::None(Answer::refusal(404, "there are /livez, /readyz, /status, /metrics and /")),
    }
}

/// `verbose`, or `verbose=` anything but a no.
fn is_verbose(query: &str) -> bool {
    query.split('&').any(|pair| match pair.split_once('=') {
        Some(("verbose", value)) => !matches!(value, "0" | "false" | "no" | "off"),
        _ => pair == "verbose",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        match read(text.as_bytes(), false) {
            Read::Asked(request) => request.target,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(bytes: &[u8], ended: bool) -> u16 {
        match read(bytes, ended) {
            Read::Refused(answer) => answer.status,
            other => panic!("{:?}: {other:?}", bytes.escape_ascii().to_string()),
        }
    }

    #[test]
    fn targets_are_found_in_each_form() {
        for (line, path, verbose) in [
            ("GET /livez HTTP/1.1", Path::Live, false),
            ("GET /readyz HTTP/1.0", Path::Ready, false),
            ("HEAD /status?verbose HTTP/1.1", Path::Status, true),
            ("GET /metrics?a=b&verbose=1 HTTP/1.1", Path::Metrics, true),
            ("GET /livez?verbose=0 HTTP/1.1", Path::Live, false),
            ("GET /livez?verbose=false&x HTTP/1.1", Path::Live, false),
            ("GET /livez?averbose HTTP/1.1", Path::Live, false),
            ("GET / HTTP/1.1", Path::Page, false),
            ("GET http://host:80/readyz?verbose HTTP/1.1", Path::Ready, true),
            ("GET HTTPS://host HTTP/1.1", Path::Page, false),
            ("GET http://host?verbose HTTP/1.1", Path::Page, true),
        ] {
            assert_eq!(target(&format!("{line}\r\nHost: x\r\n\r\n")), Target::Page(path, verbose), "{line}");
        }
        // A line may end without the carriage return, and one may come before.
        assert_eq!(target("\r\nGET /livez HTTP/1.1\n\n"), Target::Page(Path::Live, false));
    }

    #[test]
    fn other_targets_and_methods_are_refused() {
        for (line, status) in [
            ("GET /livez/ HTTP/1.1", 404),
            ("GET //livez HTTP/1.1", 404),
            ("GET /LIVEZ HTTP/1.1", 404),
            ("GET /status/../livez HTTP/1.1", 404),
            ("POST /nothing HTTP/1.1", 404),
            ("OPTIONS * HTTP/1.1", 404),
            ("POST /livez HTTP/1.1", 405),
            ("get /livez HTTP/1.1", 405),
            ("DELETE http://host/status HTTP/1.1", 405),
        ] {
            let Target::None(answer) = target(&format!("{line}\r\n\r\n")) else { panic!("{line}") };
            assert_eq!(answer.status, status, "{line}");
            let allow = answer.headers.contains(&("Allow", "GET, HEAD".into()));
            assert_eq!(allow, status == 405, "{line}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bytes in [
            &b"GET /livez\r\n\r\n"[..],
            b"GET livez HTTP/1.1\r\n\r\n",
            b"CONNECT host:80 HTTP/1.1\r\n\r\n",
            b"GET ftp://host/livez HTTP/1.1\r\n\r\n",
            b"GET http:///livez HTTP/1.1\r\n\r\n",
            b"GET http:// HTTP/1.1\r\n\r\n",
            b"GET /li\0vez HTTP/1.1\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nA\0: b\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nA: b\0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\0",
        ] {
            assert_eq!(refused(bytes, false), 400, "{}", bytes.escape_ascii());
        }
        assert_eq!(read(b"GET /livez HTTP/1.1\r\n", false), Read::More);
        assert_eq!(refused(b"GET /livez HTTP/1.1\r\n", true), 400);
    }

    #[test]
    fn a_head_is_limited_to_the_byte() {
        let of = |length: usize| {
            let line = "GET /livez HTTP/1.1\r\nA: ";
            format!("{line}{}\r\n\r\n", "a".repeat(length - line.len() - 4))
        };
        let whole = of(HEAD_MAX);
        assert!(matches!(read(whole.as_bytes(), false), Read::Asked(_)));
        assert_eq!(refused(&of(HEAD_MAX + 1).as_bytes()[..HEAD_MAX], false), 431);
        let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(refused(many.as_bytes(), false), 431);
    }

    #[test]
    fn what_follows_the_head_is_noticed() {
        for (text, more) in [
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false),
            ("GET / HTTP/1.1\r\ncontent-length: 10\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("GET / HTTP/1.1\r\n\r\nGET", true),
        ] {
            let Read::Asked(request) = read(text.as_bytes(), false) else { panic!("{text:?}") };
            assert_eq!(request.more, more, "{text:?}");
        }
    }
}
