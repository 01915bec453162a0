//! One connection: a socket that is known to the client's table, and TLS over it.
//!
//! Invariants:
//! - A socket is in the [`SocketTable`] from before its `connect` until just before its `close`.
//! - All sockets are non-blocking; the only waiting is [`Socket::wait`] and [`wait_any`], which end at the deadline,
//!   at a [`SocketTable::cut`], or when the descriptor turns out to be somebody else's.
//! - A descriptor that is not ours any more is neither read, written nor closed: it is leaked on purpose,
//!   because the number belongs to whoever opened it after our socket was closed behind our back.
//! - Nothing here is shared between threads or processes, and no destructor must run for correctness.
#![forbid(unsafe_code)]

use crate::platform::poll::{self, Interest};
use crate::platform::sockets::{SocketTable, Ticket};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection};
use socket2::{Domain, SockAddr, Type};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No wait is longer than this without a look at the table: a cut that met the socket in a state where
/// shutdown(2) wakes nobody is seen all the same.
const SLICE: Duration = Duration::from_millis(500);

/// Writing to a dead peer must give EPIPE, not a signal to our host.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: i32 = 0; // socket2 sets SO_NOSIGPIPE there

/// Why a step on a connection failed.
#[derive(Debug)]
pub enum Fail {
    /// The deadline passed.
    Timeout,
    /// [`SocketTable::cut`] was called.
    Cut,
    /// The descriptor was closed behind our back.
    Gone,
    /// The operating system said so.
    Io(io::Error),
    /// TLS said so.
    Tls(rustls::Error),
    /// The other side broke the protocol.
    Protocol(String),
    /// The other side closed the connection too early.
    Closed,
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fail::Timeout => f.write_str("timed out"),
            Fail::Cut => f.write_str("cut short by shutdown"),
            Fail::Gone => f.write_str("the socket was closed by somebody else in this process"),
            Fail::Io(e) => write!(f, "{e}"),
            Fail::Tls(e) => write!(f, "TLS: {e}"),
            Fail::Protocol(text) => f.write_str(text),
            Fail::Closed => f.write_str("the server closed the connection before it answered"),
        }
    }
}

impl From<io::Error> for Fail {
    fn from(e: io::Error) -> Self {
        Fail::Io(e)
    }
}

impl Fail {
    /// The server refused our part of the handshake. TLS 1.3 tells a client only after it began to send, but
    /// the server never saw the request.
    pub fn is_refused_certificate(&self) -> bool {
        use AlertDescription as A;
        matches!(
            self,
            Fail::Tls(rustls::Error::AlertReceived(
                A::CertificateRequired
                    | A::BadCertificate
                    | A::UnsupportedCertificate
                    | A::CertificateRevoked
                    | A::CertificateExpired
                    | A::CertificateUnknown
                    | A::UnknownCA
                    | A::AccessDenied
            ))
        )
    }
}

/// A noted, non-blocking socket.
pub struct Socket {
    inner: Option<socket2::Socket>,
    kind: Type,
    ticket: Ticket,
    table: Arc<SocketTable>,
}

impl Socket {
    /// Open a socket and note it.
    pub fn open(table: &Arc<SocketTable>, domain: Domain, kind: Type) -> Result<Socket, Fail> {
        let inner = socket2::Socket::new(domain, kind, None)?; // close-on-exec
        let Some(ticket) = table.note(inner.as_raw_fd()) else {
            return Err(Fail::Io(io::Error::other("too many sockets for one client")));
        };
        let socket = Socket { inner: Some(inner), kind, ticket, table: Arc::clone(table) };
        if table.is_cut() {
            return Err(Fail::Cut);
        }
        socket.get()?.set_nonblocking(true)?;
        Ok(socket)
    }

    fn get(&self) -> io::Result<&socket2::Socket> {
        self.inner.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether the descriptor still is the socket that was opened.
    pub fn still_ours(&self) -> bool {
        self.table.still_ours(self.ticket)
    }

    /// Connect within the deadline.
    pub fn connect(&self, to: &SockAddr, deadline: Instant) -> Result<(), Fail> {
        loop {
            match self.begin_connect(to) {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    self.wait(Interest::Write, deadline)?;
                    return self.finish_connect(to);
                }
                // A unix socket whose backlog is full: there is nothing to poll for, so look again.
                Err(Fail::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.check(deadline)?;
                    std::thread::sleep(Duration::from_millis(10).min(left(deadline)));
                }
                Err(fail) => return Err(fail),
            }
        }
    }

    /// Begin to connect; `false`: once there is room to write, see [`finish_connect`](Self::finish_connect).
    pub fn begin_connect(&self, to: &SockAddr) -> Result<bool, Fail> {
        loop {
            match self.get()?.connect(to) {
                Ok(()) => return self.connected(to).map(|()| true),
                Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What became of it.
    pub fn finish_connect(&self, to: &SockAddr) -> Result<(), Fail> {
        if !self.still_ours() {
            return Err(Fail::Gone);
        }
        if let Some(e) = self.get()?.take_error()? {
            return Err(if self.table.is_cut() { Fail::Cut } else { Fail::Io(e) });
        }
        self.connected(to)
    }

    fn connected(&self, to: &SockAddr) -> Result<(), Fail> {
        if self.table.is_cut() {
            return Err(Fail::Cut);
        }
        // A loopback port nobody listens on may be the very one the kernel picked for our end: TCP then
        // connects the socket to itself.
        if self.kind == Type::STREAM
            && let Some(theirs) = to.as_socket()
            && self.get()?.local_addr()?.as_socket() == Some(theirs)
        {
            return Err(Fail::Io(io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(())
    }

    /// Small requests leave at once.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.get()?.set_tcp_nodelay(true)
    }

    /// Nothing has come that ends all work on this socket.
    fn check(&self, deadline: Instant) -> Result<(), Fail> {
        if self.table.is_cut() {
            return Err(Fail::Cut);
        }
        if Instant::now() >= deadline {
            return Err(Fail::Timeout);
        }
        Ok(())
    }

    /// Wait until the socket is ready.
    pub fn wait(&self, interest: Interest, deadline: Instant) -> Result<(), Fail> {
        loop {
            self.check(deadline)?;
            if !self.still_ours() {
                return Err(Fail::Gone);
            }
            let ready = poll::wait(self.get()?.as_fd(), interest, left(deadline).min(SLICE));
            // Only now: while we slept the number may have changed hands, even to a descriptor that is ready.
            if !self.still_ours() {
                return Err(Fail::Gone);
            }
            if ready? {
                return if self.table.is_cut() { Err(Fail::Cut) } else { Ok(()) };
            }
        }
    }

    /// Send without blocking.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.get()?.send_with_flags(bytes, SEND_FLAGS) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                r => return r,
            }
        }
    }

    /// Receive without blocking; 0 is the end.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.get()?.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                r => return r,
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = self.still_ours();
        self.table.forget(self.ticket);
        if let Some(inner) = self.inner.take()
            && !ours
        {
            std::mem::forget(inner);
        }
    }
}

/// Wait until one of several sockets is connected or has failed, for at most a slice: which ones are to be asked.
pub fn wait_any(sockets: &[&Socket], until: Instant) -> Result<Vec<bool>, Fail> {
    if sockets.iter().any(|s| s.table.is_cut()) {
        return Err(Fail::Cut);
    }
    let gone: Vec<bool> = sockets.iter().map(|s| !s.still_ours()).collect();
    if gone.contains(&true) {
        return Ok(gone);
    }
    let fds = sockets.iter().map(|s| Ok(s.get()?.as_fd())).collect::<io::Result<Vec<_>>>()?;
    Ok(poll::wait_any(&fds, Interest::Write, left(until).min(SLICE))?)
}

/// rustls reads and writes through this.
struct Raw<'a>(&'a Socket);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buf)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A byte stream to the server.
pub struct Wire {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// Which of a host's addresses is at the other end, if that was a choice.
    pub peer: Option<SocketAddr>,
    /// TLS ended without its farewell: what came may be cut short.
    pub unclean_end: bool,
}

impl Wire {
    /// A connected socket as it is.
    pub fn plain(socket: Socket) -> Wire {
        Wire { socket, tls: None, peer: None, unclean_end: false }
    }

    /// Whether the descriptor still is ours.
    pub fn still_ours(&self) -> bool {
        self.socket.still_ours()
    }

    /// Put TLS over the connection.
    pub fn start_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Instant,
    ) -> Result<(), Fail> {
        let mut tls = Box::new(ClientConnection::new(config, name).map_err(Fail::Tls)?);
        while tls.is_handshaking() {
            match pump(&mut tls, &self.socket)? {
                Pumped::Progress => self.socket.check(deadline)?,
                Pumped::Eof => return Err(Fail::Closed),
                Pumped::Blocked => {
                    let interest = if tls.wants_write() { Interest::Write } else { Interest::Read };
                    self.socket.wait(interest, deadline)?;
                }
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Hand over some of `data`: how much, or `None` if the connection takes nothing now.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<usize>, Fail> {
        let Some(tls) = &mut self.tls else {
            return block_is_none(self.socket.send(data));
        };
        flush(tls, &self.socket)?;
        let n = tls.writer().write(data)?; // 0: the buffer of rustls is full
        flush(tls, &self.socket)?;
        Ok((n > 0).then_some(n))
    }

    /// Whether all that was pushed is with the kernel.
    pub fn flush(&mut self) -> Result<bool, Fail> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => flush(tls, &self.socket),
        }
    }

    /// Read some bytes: how many (0: the end), or `None` if there are none now. Takes from the kernel once at most:
    /// records without a byte for us are no reason to stay, however many there are.
    pub fn pull(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Fail> {
        let Some(tls) = &mut self.tls else {
            return block_is_none(self.socket.recv(buf));
        };
        for last in [false, true] {
            match tls.reader().read(buf) {
                Ok(n) => return Ok(Some(n)),
                // Closed without close_notify. HTTP's own framing mostly tells whether something is missing.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    self.unclean_end = true;
                    return Ok(Some(0));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
            if last {
                break;
            }
            match block_is_none(tls.read_tls(&mut Raw(&self.socket)))? {
                None => break,
                Some(_) => process(tls, &self.socket)?,
            }
        }
        Ok(None)
    }

    /// [`pull`](Self::pull) to the end of `into`. The deadline holds also while there always is something.
    pub fn pull_into(&mut self, into: &mut Vec<u8>, deadline: Instant) -> Result<Option<usize>, Fail> {
        self.socket.check(deadline)?;
        let mut buf = [0u8; 16 * 1024];
        let n = self.pull(&mut buf)?;
        into.extend_from_slice(&buf[..n.unwrap_or(0)]);
        Ok(n)
    }

    /// Push everything, waiting as needed.
    pub fn push_all(&mut self, data: &[u8], deadline: Instant) -> Result<(), Fail> {
        let mut at = 0;
        while at < data.len() || !self.flush()? {
            match self.push(&data[at..])? {
                Some(n) => at += n,
                None => self.wait_write(deadline)?,
            }
        }
        Ok(())
    }

    /// Wait for bytes to read, or (with `write`) also for room to write.
    pub fn wait(&self, write: bool, deadline: Instant) -> Result<(), Fail> {
        let write = write || self.tls.as_ref().is_some_and(|t| t.wants_write());
        self.socket.wait(if write { Interest::Both } else { Interest::Read }, deadline)
    }

    /// Wait for room to write only (the other side's bytes are not wanted yet).
    pub fn wait_write(&self, deadline: Instant) -> Result<(), Fail> {
        self.socket.wait(Interest::Write, deadline)
    }

    /// Whether a kept connection can carry another request: ours, open, and nothing unasked-for on it.
    pub fn is_quiet(&mut self) -> bool {
        self.still_ours() && matches!(self.pull(&mut [0]), Ok(None))
    }

    /// Close with manners, without waiting for anything.
    pub fn close(mut self) {
        if self.still_ours()
            && let Some(tls) = &mut self.tls
        {
            tls.send_close_notify();
            let _ = flush(tls, &self.socket);
        }
    }
}

enum Pumped {
    Progress,
    Blocked,
    Eof,
}

/// One step of the handshake.
fn pump(tls: &mut ClientConnection, socket: &Socket) -> Result<Pumped, Fail> {
    if tls.wants_write() {
        return Ok(match block_is_none(tls.write_tls(&mut Raw(socket)))? {
            None => Pumped::Blocked,
            Some(_) => Pumped::Progress,
        });
    }
    match block_is_none(tls.read_tls(&mut Raw(socket)))? {
        None => Ok(Pumped::Blocked),
        Some(0) => Ok(Pumped::Eof),
        Some(_) => process(tls, socket).map(|()| Pumped::Progress),
    }
}

fn process(tls: &mut ClientConnection, socket: &Socket) -> Result<(), Fail> {
    let done = tls.process_new_packets().map(|_| ()).map_err(Fail::Tls);
    // An alert that tells the server why, or the answer to a key update: never worth waiting for, and no
    // reason to lose what the server said last if it no longer listens.
    let _ = flush(tls, socket);
    done
}

fn flush(tls: &mut ClientConnection, socket: &Socket) -> Result<bool, Fail> {
    while tls.wants_write() {
        if block_is_none(tls.write_tls(&mut Raw(socket)))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn block_is_none(r: io::Result<usize>) -> Result<Option<usize>, Fail> {
    match r {
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Time until the deadline.
pub fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
