//! Where a request goes: one file a destination.
//!
//! Invariants of this room:
//! - A sink takes a finished body and gives back status, headers and body, or a [`TransportError`]. It
//!   never retries on its own (except one stale keep-alive connection) and never judges an answer.
//! - Every call ends by its deadline, whatever the other side does.
//! - Every descriptor a sink holds is in the client's [`SocketTable`](crate::platform::sockets::SocketTable)
//!   before it can block, so that a forked child can close its copy and `shutdown` can cut it.
//! - A sink object belongs to one process: a forked child forgets it without running its destructor.

use std::time::Instant;

/// One attempt to deliver a batch.
pub struct Request<'a> {
    /// The body as it goes over the wire, already compressed when `content_encoding` is set.
    pub body: &'a [u8],
    /// Value of `Content-Type`.
    pub content_type: &'a str,
    /// Value of `Content-Encoding`, if any.
    pub content_encoding: Option<&'a str>,
    /// Further headers (authentication, idempotency key, the user's own), in order.
    pub headers: &'a [(String, String)],
    /// The attempt is over at this instant, connect to last byte.
    pub deadline: Instant,
}

/// What came back.
#[derive(Debug, Default, Clone)]
pub struct Response {
    /// HTTP status; sinks without one answer 200.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, at most 4 MiB of it.
    pub body: Vec<u8>,
    /// The body was longer than that, or could not be read to its end.
    pub truncated: bool,
}

impl Response {
    /// First value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// How an attempt failed below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportErrorKind {
    /// The name has no address, or no answer came in time.
    Resolve,
    /// No connection: nothing was sent, so the collector is known to be down.
    Connect,
    /// The TLS handshake failed (wrong CA, expired, wrong name).
    Tls,
    /// The connection broke, or the deadline passed, after sending began: the collector may have accepted.
    Lost,
    /// The request could not be made at all (a local error such as a full disk for a file).
    Local,
}

/// A failed attempt.
#[derive(Debug, Clone)]
pub struct TransportError {
    /// What kind of failure.
    pub kind: TransportErrorKind,
    /// For logs; never contains credentials.
    pub message: String,
}

/// A destination.
pub trait Sink: Send {
    /// Deliver one body. Blocks until the answer, an error, or the deadline of the request.
    fn send(&mut self, request: &Request<'_>) -> Result<Response, TransportError>;
    /// Close kept connections; the next `send` opens a new one.
    fn close_idle(&mut self);
}
