//! The HTTP sink: one destination; http, https, and http over a unix socket. An upload may have another one.
//!
//! Invariants:
//! - The deadline of the request bounds everything: name, connection, TLS, sending, the last byte of the answer.
//! - A request goes out once. A *kept* connection that ends before the first byte of an answer was closed by the
//!   server while idle: that is `Stale`, and so is a 408 that ends it, which is what some servers say to an idle
//!   connection, and may cross our request. What is sent after it goes out on a fresh connection.
//! - An error after the first byte was handed to the kernel is `Lost`, before it `Resolve`, `Connect` or `Tls`.
//!   One exception: a server that refuses our certificate says so late in TLS 1.3; that is `Tls`.
//! - A redirect is followed (three times at most) to the same origin, or from http to https of the same host;
//!   method, body and headers stay as they are, whatever the status. Any other 3xx is the answer.
//! - A connection is kept for each of the last [`KEPT`] origins. Another origin than the sink's own sees
//!   neither its user information nor its client certificate, and nothing is followed from there to us.
//! - No error text contains user information, a query or a header's value.
//!
//! Why not a ready-made client: ureq 3.5 (tried first) forces a process-wide `LazyLock` in each request, which
//! a fork at the wrong instant leaves locked for ever in the child; and it gives up on an answer that
//! comes while the request is still being sent, which is how a too large batch is refused.
#![forbid(unsafe_code)]

use super::dial::{self, Memory};
use super::http1;
use super::proxy::Proxy;
use super::resolve::Names;
use super::talk::{Talk, final_head};
use super::tls;
use super::transport::{Fail, Socket, Wire, left};
use super::url::{Url, basic};
use super::{Request, Resolver, Response, Sink, SinkConfig, TlsFiles, TransportError, TransportErrorKind};
use crate::platform::sockets::SocketTable;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const REDIRECTS: usize = 3;
/// Our own origin, and the one that uploads go to.
const KEPT: usize = 2;
/// A body up to this size is copied behind the head, so that the request leaves in one packet train.
const COPY_MAX: usize = 16 * 1024;

enum Lookup {
    Builtin(Box<Names>),
    System(fn(&str, u16) -> io::Result<Vec<SocketAddr>>),
}

/// Where a request goes.
#[derive(Clone)]
struct Target {
    url: Url,
    /// The sink's own origin, or one that it redirects to: to be trusted with what is ours.
    own: bool,
}

impl Target {
    fn same_origin(&self, other: &Target) -> bool {
        self.own == other.own && self.url.same_origin(&other.url)
    }
}

/// See the module's text.
pub struct HttpSink {
    url: Url,
    unix: Option<PathBuf>,
    proxy: Option<Proxy>,
    lookup: Lookup,
    tls_files: TlsFiles,
    tls: Option<Arc<ClientConfig>>,
    /// For other origins: without the client's certificate.
    foreign_tls: Option<Arc<ClientConfig>>,
    user_agent: String,
    limit: usize,
    table: Arc<SocketTable>,
    /// The last used stands last.
    kept: Vec<(Wire, Target)>,
    memory: Memory,
}

fn error(kind: TransportErrorKind, url: &Url, doing: &str, fail: &dyn std::fmt::Display) -> TransportError {
    TransportError { kind, message: format!("{url}: {doing}: {fail}") }
}

impl HttpSink {
    /// Check the configuration; opens nothing.
    pub fn new(
        url: Url,
        unix: Option<PathBuf>,
        config: &SinkConfig,
        table: Arc<SocketTable>,
    ) -> Result<HttpSink, String> {
        http1::check_header("user-agent", &config.user_agent)?;
        let proxy = config.proxy.clone().filter(|_| unix.is_none());
        let files_given = config.tls != TlsFiles::default();
        let tls = if url.tls || files_given { Some(tls::config(&config.tls)?) } else { None };
        if url.tls {
            server_name(&url)?;
        }
        let lookup = match &config.resolver {
            Resolver::Builtin => {
                Lookup::Builtin(Box::new(Names::new(Default::default(), Arc::clone(&table))))
            }
            Resolver::BuiltinFrom(files) => {
                Lookup::Builtin(Box::new(Names::new(files.clone(), Arc::clone(&table))))
            }
            Resolver::System(f) => Lookup::System(*f),
        };
        Ok(HttpSink {
            url,
            unix,
            proxy,
            lookup,
            tls_files: config.tls.clone(),
            tls,
            foreign_tls: None,
            user_agent: config.user_agent.clone(),
            limit: config.max_response_bytes,
            table,
            kept: Vec::new(),
            memory: Memory::default(),
        })
    }

    fn head(&self, url: &Url, request: &Request<'_>) -> Vec<u8> {
        let given = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head =
            Vec::with_capacity(512 + if request.body.len() <= COPY_MAX { request.body.len() } else { 0 });
        head.extend_from_slice(request.method.name().as_bytes());
        head.push(b' ');
        let proxy = self.proxy.as_ref().filter(|_| !url.tls);
        if proxy.is_some() {
            head.extend_from_slice(format!("http://{}", url.authority()).as_bytes());
        }
        head.extend_from_slice(url.target.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        if !given("host") {
            http1::put(&mut head, "Host", &url.authority());
        }
        if !given("user-agent") && !self.user_agent.is_empty() {
            http1::put(&mut head, "User-Agent", &self.user_agent);
        }
        if !given("accept") {
            http1::put(&mut head, "Accept", "*/*");
        }
        if !given("accept-encoding") {
            http1::put(&mut head, "Accept-Encoding", "identity");
        }
        if let Some(userinfo) = url.userinfo.as_ref().filter(|_| !given("authorization")) {
            http1::put(&mut head, "Authorization", &basic(userinfo));
        }
        if let Some(userinfo) = proxy.and_then(|p| p.url().userinfo.as_ref()) {
            http1::put(&mut head, "Proxy-Authorization", &basic(userinfo));
        }
        if !given("content-type") && !request.content_type.is_empty() {
            http1::put(&mut head, "Content-Type", request.content_type);
        }
        if let Some(encoding) = request.content_encoding {
            http1::put(&mut head, "Content-Encoding", encoding);
        }
        http1::put(&mut head, "Content-Length", &request.body.len().to_string());
        for (name, value) in request.headers {
            http1::put(&mut head, name, value);
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// One request and its answer, on the kept connection or a fresh one.
    fn exchange(&mut self, to: &Target, request: &Request<'_>) -> Result<Response, TransportError> {
        use TransportErrorKind::{Lost, Stale, Tls};
        let url = &to.url;
        let mut head = self.head(url, request);
        let mut body = request.body;
        if body.len() <= COPY_MAX {
            head.extend_from_slice(body);
            body = &[];
        }
        let kept = self.kept.iter().position(|(_, origin)| origin.same_origin(to));
        if let Some((mut wire, _)) = kept.map(|i| self.kept.remove(i)) {
            if wire.is_quiet() {
                let mut talk = Talk::new(&mut wire, request.deadline, self.limit);
                match talk.run(&head, body).and_then(|done| self.uncut(&talk, done)) {
                    Ok((response, false)) if response.status == 408 => {
                        wire.close();
                        return Err(error(
                            Stale { sent: false },
                            url,
                            "on a kept connection",
                            &"it was idle",
                        ));
                    }
                    Ok(done) => return Ok(self.finish(wire, to, done)),
                    Err(fail) => {
                        let stale = !talk.answered && matches!(fail, Fail::Closed | Fail::Io(_) | Fail::Gone);
                        if !stale || self.table.is_cut() {
                            let fail = self.disappointed(&wire, fail);
                            return Err(error(Lost, url, "on a kept connection", &fail));
                        }
                        return Err(error(Stale { sent: talk.sent }, url, "on a kept connection", &fail));
                    }
                }
            } else {
                wire.close();
            }
        }
        let mut wire = self.connect(to, request.deadline)?;
        let mut talk = Talk::new(&mut wire, request.deadline, self.limit);
        match talk.run(&head, body).and_then(|done| self.uncut(&talk, done)) {
            Ok(done) => Ok(self.finish(wire, to, done)),
            Err(fail) => {
                let doing = if talk.answered { "reading the answer" } else { "waiting for an answer" };
                let fail = self.disappointed(&wire, fail);
                let kind = if fail.is_refused_certificate() { Tls } else { Lost };
                Err(error(kind, url, doing, &fail))
            }
        }
    }

    /// The collector's answer. A proxy that does not know us says so in its place, with or without a tunnel.
    fn answer(&mut self, to: &Target, request: &Request<'_>) -> Result<Response, TransportError> {
        let response = self.exchange(to, request)?;
        match &self.proxy {
            Some(proxy) if response.status == 407 => {
                let doing = format!("through the proxy {}", proxy.url());
                Err(error(TransportErrorKind::Connect, &to.url, &doing, &"it answered 407"))
            }
            _ => Ok(response),
        }
    }

    /// An answer that only a cut made look finished is none.
    fn uncut<T>(&self, talk: &Talk<'_>, done: T) -> Result<T, Fail> {
        if talk.ended_by_close && self.table.is_cut() { Err(Fail::Cut) } else { Ok(done) }
    }

    /// What ended an exchange without an answer; the other addresses of the host come first then.
    fn disappointed(&mut self, wire: &Wire, fail: Fail) -> Fail {
        if self.table.is_cut() {
            return Fail::Cut;
        }
        wire.peer.inspect(|address| self.memory.disappointed(*address));
        fail
    }

    fn finish(&mut self, wire: Wire, to: &Target, (response, reusable): (Response, bool)) -> Response {
        wire.peer.inspect(|address| self.memory.answered(*address));
        if reusable {
            if self.kept.len() >= KEPT {
                self.kept.remove(0).0.close();
            }
            self.kept.push((wire, to.clone()));
        } else {
            wire.close();
        }
        response
    }

    /// A new connection, ready for the request.
    fn connect(&mut self, to: &Target, deadline: Instant) -> Result<Wire, TransportError> {
        use TransportErrorKind::{Connect, Tls};
        let url = &to.url;
        if let Some(path) = self.unix.as_ref().filter(|_| to.own) {
            let failed =
                |fail: Fail| TransportError { kind: Connect, message: format!("{}: {fail}", path.display()) };
            let to = SockAddr::unix(path).map_err(|e| failed(e.into()))?;
            let socket = Socket::open(&self.table, Domain::UNIX, Type::STREAM).map_err(failed)?;
            socket.connect(&to, deadline).map_err(failed)?;
            return Ok(Wire::plain(socket));
        }
        let hop = self.proxy.as_ref().map(|p| p.url().clone());
        let mut wire = self.dial(hop.as_ref().unwrap_or(url), deadline)?;
        if !url.tls {
            return Ok(wire);
        }
        if let Some(proxy) = &hop {
            tunnel(&mut wire, proxy, url, &self.user_agent, deadline).map_err(|fail| {
                let fail = self.disappointed(&wire, fail);
                error(Connect, url, &format!("through the proxy {proxy}"), &fail)
            })?;
        }
        let config = self.tls_config(to)?;
        let name = server_name(url).map_err(|e| error(Tls, url, "TLS", &e))?;
        wire.start_tls(config, name, deadline).map_err(|fail| {
            let fail = self.disappointed(&wire, fail);
            error(Tls, url, "TLS handshake", &fail)
        })?;
        Ok(wire)
    }

    /// The settings of TLS with this target, made when they are first wanted.
    fn tls_config(&mut self, to: &Target) -> Result<Arc<ClientConfig>, TransportError> {
        let place = if to.own { &mut self.tls } else { &mut self.foreign_tls };
        if let Some(config) = place {
            return Ok(Arc::clone(config));
        }
        let client_pem = self.tls_files.client_pem.clone().filter(|_| to.own);
        let files = TlsFiles { client_pem, ca_pem: self.tls_files.ca_pem.clone() };
        let config = tls::config(&files).map_err(|e| error(TransportErrorKind::Local, &to.url, "TLS", &e))?;
        Ok(Arc::clone(place.insert(config)))
    }

    /// Where a request wants to go first.
    fn target(&self, request: &Request<'_>) -> Target {
        let Some(to) = request.to else { return Target { url: self.url.clone(), own: true } };
        let own = to.same_origin(&self.url);
        // What is written into another origin's URL is none of our credentials; who wants it sent gives a header.
        let userinfo = to.userinfo.as_ref().filter(|_| own).cloned();
        Target { url: Url { userinfo, ..to.clone() }, own }
    }

    /// Connect to one of the addresses of a host.
    fn dial(&mut self, url: &Url, deadline: Instant) -> Result<Wire, TransportError> {
        use TransportErrorKind::{Connect, Resolve};
        let found = match &mut self.lookup {
            Lookup::Builtin(names) => names.lookup(&url.host, url.port, deadline),
            Lookup::System(f) => f(&url.host, url.port).map_err(Fail::Io),
        };
        let addresses = found.map_err(|fail| error(Resolve, url, "looking up the host", &fail))?;
        if addresses.is_empty() {
            return Err(error(Resolve, url, "looking up the host", &"no address"));
        }
        let (socket, address) = dial::race(&self.table, &self.memory.order(addresses), deadline)
            .map_err(|failed| error(Connect, url, "connecting", &failed))?;
        let mut wire = Wire::plain(socket);
        wire.peer = Some(address);
        Ok(wire)
    }

    /// Where to go next, if the answer is a redirect we follow.
    fn redirect(&self, Target { url: from, own }: &Target, response: &Response) -> Option<Target> {
        if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let to = from.join(response.header("location")?).ok()?;
        let by_name = self.unix.is_none() || !own;
        let upgraded = by_name && !from.tls && to.tls && from.host == to.host;
        (to.same_origin(from) || upgraded).then_some(Target { url: to, own: *own })
    }
}

impl Sink for HttpSink {
    fn send_once(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        let local = |message| TransportError { kind: TransportErrorKind::Local, message };
        for (name, value) in request.headers {
            http1::check_header(name, value).map_err(local)?;
        }
        for value in [Some(request.content_type), request.content_encoding].into_iter().flatten() {
            http1::check_header("content-type", value).map_err(local)?;
        }
        if self.table.is_cut() || left(request.deadline).is_zero() {
            let why = if self.table.is_cut() { Fail::Cut } else { Fail::Timeout };
            return Err(local(format!("{}: not begun: {why}", request.to.unwrap_or(&self.url))));
        }
        let mut to = self.target(request);
        for _ in 0..REDIRECTS {
            let response = self.answer(&to, request)?;
            match self.redirect(&to, &response) {
                Some(next) => to = next,
                None => return Ok(response),
            }
        }
        self.answer(&to, request)
    }

    fn close_idle(&mut self) {
        for (wire, _) in self.kept.drain(..) {
            wire.close();
        }
    }
}

fn server_name(url: &Url) -> Result<ServerName<'static>, String> {
    let host = url.host.trim_end_matches('.');
    ServerName::try_from(host.to_string()).map_err(|_| format!("{host} is no name a certificate can have"))
}

/// Ask a proxy for a tunnel to the target.
fn tunnel(wire: &mut Wire, proxy: &Url, url: &Url, agent: &str, deadline: Instant) -> Result<(), Fail> {
    let target = format!("{}:{}", url.host_text(), url.port);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\n").into_bytes();
    http1::put(&mut head, "Host", &target);
    if !agent.is_empty() {
        http1::put(&mut head, "User-Agent", agent);
    }
    if let Some(userinfo) = &proxy.userinfo {
        http1::put(&mut head, "Proxy-Authorization", &basic(userinfo));
    }
    head.extend_from_slice(b"\r\n");
    wire.push_all(&head, deadline)?;
    let mut input = Vec::new();
    loop {
        match wire.pull_into(&mut input, deadline)? {
            None => wire.wait(false, deadline)?,
            Some(0) => return Err(Fail::Closed),
            Some(_) => {}
        }
        if let Some(head) = final_head(&mut input)? {
            return match head.status {
                200..=299 if input.is_empty() => Ok(()),
                200..=299 => Err(Fail::Protocol("it sent something before we did".into())),
                status => Err(Fail::Protocol(format!("it answered {status}"))),
            };
        }
    }
}
