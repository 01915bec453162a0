//! Where a request goes: one file a destination.
//!
//! Invariants of this room:
//! - A sink takes a finished body and gives back status, headers and body, or a [`TransportError`]. It
//!   never retries on its own (except one stale keep-alive connection) and never judges an answer.
//! - Every call ends by its deadline, whatever the other side does.
//! - Every descriptor a sink holds is in the client's [`SocketTable`]
//!   before it can block, so that a forked child can close its copy and `shutdown` can cut it.
//! - A sink object belongs to one process: a forked child forgets it without running its destructor.
//! - Nothing in this room is global, reads the environment, or starts a thread; with the built-in resolver
//!   nothing calls libc's.
//!
//! Layout: [`endpoint`], [`url`] and [`proxy`] are addresses, [`http`] is the sink over TCP and unix sockets, [`talk`]
//! one request on a connection, [`dial`] makes a connection, [`transport`] is one, [`http1`] the bytes, [`tls`] the settings;
//! [`resolve`] and [`dns`] find addresses of hosts; [`mod@file`] appends.
#![forbid(unsafe_code)]

pub mod dial;
pub mod dns;
pub mod endpoint;
pub mod file;
pub mod http;
pub mod http1;
pub mod proxy;
pub mod resolve;
pub mod talk;
pub mod tls;
pub mod transport;
pub mod url;

use crate::platform::sockets::SocketTable;
pub use endpoint::Endpoint;
pub use proxy::Proxy;
pub use resolve::ResolverFiles;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
pub use url::Url;

/// What is read of an answer by default.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Where a client's requests go, complete: nothing else is read from anywhere.
#[derive(Clone)]
pub struct SinkConfig {
    /// The destination.
    pub endpoint: Endpoint,
    /// Certificates and keys.
    pub tls: TlsFiles,
    /// A forward proxy for http and https endpoints.
    pub proxy: Option<Proxy>,
    /// How host names become addresses.
    pub resolver: Resolver,
    /// Value of `User-Agent`; empty for none.
    pub user_agent: String,
    /// Longer answers are cut off there, see [`Response::truncated`].
    pub max_response_bytes: usize,
}

impl SinkConfig {
    /// The defaults, for this endpoint.
    pub fn new(endpoint: Endpoint) -> SinkConfig {
        SinkConfig {
            endpoint,
            tls: TlsFiles::default(),
            proxy: None,
            resolver: Resolver::Builtin,
            user_agent: concat!("libtelemetry/", env!("CARGO_PKG_VERSION")).to_string(),
            max_response_bytes: MAX_RESPONSE_BYTES,
        }
    }
}

/// The contents (not the paths) of the files named in the configuration: read once, at open.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Trust these certificates, and no others.
    pub ca_pem: Option<Vec<u8>>,
    /// The client's certificate with what leads up to its root, and its private key.
    pub client_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// How host names become addresses.
#[derive(Debug, Clone, Default)]
pub enum Resolver {
    /// Our own, bounded by the deadline, without libc.
    #[default]
    Builtin,
    /// The same, reading other files (for tests, and for containers with odd layouts).
    BuiltinFrom(ResolverFiles),
    /// Somebody else's; it is not bounded by the deadline.
    System(fn(&str, u16) -> io::Result<Vec<SocketAddr>>),
}

/// Check a configuration without opening anything; the error says what is wrong with which part.
pub fn validate(config: &SinkConfig) -> Result<(), String> {
    open(config, Arc::new(SocketTable::new())).map(drop)
}

/// Make the sink of a configuration. Nothing is connected, created or read before the first `send`, so this
/// is safe in a forked child at any time.
pub fn open(config: &SinkConfig, sockets: Arc<SocketTable>) -> Result<Box<dyn Sink>, String> {
    Ok(match &config.endpoint {
        Endpoint::Http { url } => Box::new(http::HttpSink::new(url.clone(), None, config, sockets)?),
        Endpoint::Unix { socket, url } => {
            Box::new(http::HttpSink::new(url.clone(), Some(socket.clone()), config, sockets)?)
        }
        Endpoint::File { path } => Box::new(file::FileSink::new(path).map_err(|e| format!("endpoint: {e}"))?),
    })
}

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// Events, and all else that has no reason to be something other.
    #[default]
    Post,
    /// The bytes of an upload.
    Put,
    /// A change of what is there already.
    Patch,
}

impl Method {
    /// As it stands in the request line.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        }
    }
}

/// One attempt to deliver a batch, or a step of an upload.
pub struct Request<'a> {
    /// The same on a redirect, whatever its status.
    pub method: Method,
    /// Somewhere else than the sink's own URL. To its own origin the request goes as if it were the sink's own, but for the
    /// user information, which is this URL's or none; to another one it takes nothing of ours along but what stands in
    /// this struct: no user information, no client certificate.
    pub to: Option<&'a Url>,
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
    /// The body, at most [`SinkConfig::max_response_bytes`] of it.
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
    /// A kept connection ended before the first byte of an answer: the server had closed it while it was idle. The
    /// request is to be sent again at once, and goes out on a fresh one.
    Stale {
        /// It was sent as a whole, so it may have arrived all the same.
        sent: bool,
    },
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

impl TransportError {
    /// Whether to send again at once.
    pub fn is_stale(&self) -> bool {
        matches!(self.kind, TransportErrorKind::Stale { .. })
    }

    /// What it means of a request that was sent before, on a connection that was stale: that one may have arrived.
    #[must_use]
    pub fn after(self, stale: &TransportError) -> TransportError {
        match stale.kind {
            TransportErrorKind::Stale { sent: true } => {
                TransportError { kind: TransportErrorKind::Lost, ..self }
            }
            _ => self,
        }
    }
}

/// A destination.
pub trait Sink: Send {
    /// Deliver one body. Blocks until the answer, an error, or the deadline of the request. After
    /// [`TransportErrorKind::Stale`] the next one goes out on a fresh connection.
    fn send_once(&mut self, request: &Request<'_>) -> Result<Response, TransportError>;

    /// The same for requests that name no attempt: sent again, as they are, when the connection was stale.
    fn send(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        match self.send_once(request) {
            Err(stale) if stale.is_stale() => self.send_once(request).map_err(|why| why.after(&stale)),
            done => done,
        }
    }

    /// Close kept connections; the next `send` opens a new one.
    fn close_idle(&mut self);
}
