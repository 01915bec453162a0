//! Where the endpoint listens: a TCP address or a unix socket.
//!
//! Invariants:
//! - A listener does not block and is not inherited by programs that are executed, unless the supervisor clears that flag
//!   to hand it to its own successor ([`Listener::from_fd`]).
//! - A unix socket's file is taken over only if it is a socket that nobody listens on. It is removed by
//!   [`Listener::remove`] alone, and only while it still is ours: a copy that a forked child drops removes nothing.
#![forbid(unsafe_code)]

use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const ALLOWED: &str =
    "HOST:PORT, [IPv6]:PORT, or :PORT for every address (port 0 takes a free one); or unix:/PATH";
/// Connections that the system holds until they are accepted.
const BACKLOG: i32 = 128;
/// The longest path of a unix socket, without the zero that ends it.
const PATH_MAX: usize = 107;

/// An address that was understood.
#[derive(Debug, PartialEq)]
enum Address<'a> {
    Every(u16),
    Known(SocketAddr),
    Named(&'a str, u16),
    Unix(&'a Path),
}

fn parse(text: &str) -> Result<Address<'_>, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            _ if !path.starts_with('/') => Err("the path is not absolute"),
            _ if path.contains('\0') => Err("the path has a zero byte"),
            _ if path.len() > PATH_MAX => Err("the path is longer than 107 bytes"),
            _ => Ok(Address::Unix(Path::new(path))),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or("there is no port")?;
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    let port: u16 = port.parse().map_err(|_| "the port is larger than 65535")?;
    if host.is_empty() {
        return Ok(Address::Every(port));
    }
    if host.starts_with('[') {
        // With its brackets, and a scope if there is one.
        let v6: SocketAddrV6 = text.parse().map_err(|_| "this is not an IPv6 address")?;
        return Ok(Address::Known(v6.into()));
    }
    match host.parse::<Ipv4Addr>() {
        Ok(v4) => Ok(Address::Known((v4, port).into())),
        Err(_) if host.contains("//") => Err("this is a URL, not an address"),
        Err(_) if host.contains(':') => Err("an IPv6 address stands in brackets"),
        Err(_) if host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) => {
            Ok(Address::Named(host, port))
        }
        Err(_) => Err("this is not a host's name"),
    }
}

fn not_understood(address: &str, why: &str) -> String {
    format!("health is {address:?}: {why}; allowed: {ALLOWED}")
}

/// A socket that takes connections; dropped, it is closed.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    port: u16,
    file: Option<SocketFile>,
}

/// The file of a unix socket, and which one it was.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn at(path: &Path) -> SocketFile {
        SocketFile { path: path.into(), identity: socket_at(path) }
    }
}

/// Device and inode of the socket at `path`; `None` if there is none.
fn socket_at(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    found.file_type().is_socket().then(|| (found.dev(), found.ino()))
}

impl Listener {
    /// Listens at `addr`: `HOST:PORT`, `[IPv6]:PORT`, `:PORT` (every address, of both families where there are both), or
    /// `unix:/PATH`. The name of a host is resolved here, which may take a while: this is for the start. The error names
    /// the key `health`, the value and what is wrong with it, and says what is allowed if the value was not understood.
    pub fn bind(addr: &str) -> Result<Listener, String> {
        let listener = match parse(addr).map_err(|why| not_understood(addr, why))? {
            Address::Every(port) => every(port),
            Address::Known(known) => tcp(known, false),
            Address::Named(host, port) => named(host, port),
            Address::Unix(path) => unix(path),
        };
        listener.map_err(|e| format!("health is {addr:?}: the supervisor cannot listen there: {e}"))
    }

    /// Whether [`Listener::bind`] would understand `addr`; the same errors. Opens nothing.
    pub fn check(addr: &str) -> Result<(), String> {
        parse(addr).map(|_| ()).map_err(|why| not_understood(addr, why))
    }

    /// A listener that was handed over: it is made non-blocking, and is not handed on by chance.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        // A copy, as the standard library makes it, closes when a program is executed.
        let socket = Socket::from(fd.try_clone()?);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Listener {
            port: address.as_socket().map_or(0, |a| a.port()),
            file: address.as_pathname().map(SocketFile::at),
            socket,
        })
    }

    /// The TCP port, the one that was taken if 0 was asked for; 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes it and removes a unix socket's file, unless somebody put another one there. Connections that were not
    /// accepted yet are reset.
    pub fn remove(self) {
        let Listener { socket, file, .. } = self;
        // While it still listens nobody takes the file for a stale one.
        if let Some(file) = file.filter(|f| f.identity.is_some() && socket_at(&f.path) == f.identity) {
            let _ = std::fs::remove_file(&file.path);
        }
        drop(socket);
    }

    pub(super) fn accept(&self) -> io::Result<Socket> {
        let (socket, _) = self.socket.accept()?;
        socket.set_nonblocking(true)?;
        if self.file.is_none() {
            // An answer is written at once: waiting for more would only delay its end.
            let _ = socket.set_tcp_nodelay(true);
        }
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The address as it can be asked for: for messages.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.socket.local_addr().ok().and_then(|a| a.as_socket())) {
            (Some(file), _) => write!(f, "unix:{}", file.path.display()),
            (None, Some(address)) => write!(f, "{address}"),
            (None, None) => f.write_str("a socket that was handed over"),
        }
    }
}

fn tcp(address: SocketAddr, both_families: bool) -> io::Result<Listener> {
    // Not inherited by programs that are executed: the system call says so itself.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if both_families {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |a| a.port());
    Ok(Listener { socket, port, file: None })
}

fn every(port: u16) -> io::Result<Listener> {
    match tcp((Ipv6Addr::UNSPECIFIED, port).into(), true) {
        // A system without IPv6.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            tcp((Ipv4Addr::UNSPECIFIED, port).into(), false)
        }
        other => other,
    }
}

/// At the first of the host's addresses that can be had.
fn named(host: &str, port: u16) -> io::Result<Listener> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match tcp(address, false) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn unix(path: &Path) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            let there = socket_at(path);
            if there.is_none() {
                return Err(io::Error::new(e.kind(), "something that is no socket has this name"));
            }
            // Somebody else may be taking the same stale file over: only the one that was found dead is removed.
            if !nobody_listens(&address)? || socket_at(path) != there {
                return Err(io::Error::new(e.kind(), "somebody listens there"));
            }
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener { socket, port: 0, file: Some(SocketFile::at(path)) })
}

/// Asked without waiting: a listener that is too busy to take one more is one, too.
fn nobody_listens(address: &SockAddr) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    Ok(matches!(probe.connect(address), Err(e) if e.kind() == ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!(parse(":0"), Ok(Address::Every(0)));
        assert_eq!(parse("127.0.0.1:9464"), Ok(Address::Known(([127, 0, 0, 1], 9464).into())));
        assert_eq!(parse("[::1]:80"), Ok(Address::Known((Ipv6Addr::LOCALHOST, 80).into())));
        assert_eq!(parse("localhost:65535"), Ok(Address::Named("localhost", 65535)));
        assert_eq!(parse("a-b.c_d.example:1"), Ok(Address::Named("a-b.c_d.example", 1)));
        assert_eq!(parse("unix:/run/x"), Ok(Address::Unix(Path::new("/run/x"))));
        let longest = format!("unix:/{}", "x".repeat(PATH_MAX - 1));
        assert!(parse(&longest).is_ok() && parse(&format!("{longest}x")).is_err());
    }

    #[test]
    fn a_bad_address_names_the_key_the_value_and_what_is_allowed() {
        for (bad, why) in [
            ("", "there is no port"),
            ("8080", "there is no port"),
            ("host:", "the port is not a number"),
            ("host:+5", "the port is not a number"),
            ("host:65536", "the port is larger than 65535"),
            ("host:99999999999999999999", "the port is larger than 65535"),
            ("::1:80", "an IPv6 address stands in brackets"),
            ("[::1:80", "this is not an IPv6 address"),
            ("[1.2.3.4]:80", "this is not an IPv6 address"),
            ("http://localhost:80", "this is a URL, not an address"),
            ("a b:80", "this is not a host's name"),
            ("*:80", "this is not a host's name"),
            ("unix:", "the path is not absolute"),
            ("unix:run/x", "the path is not absolute"),
            ("unix:@x", "the path is not absolute"),
            ("unix:/a\0b", "the path has a zero byte"),
        ] {
            let said = Listener::bind(bad).expect_err(bad);
            assert_eq!(said, format!("health is {bad:?}: {why}; allowed: {ALLOWED}"));
            assert_eq!(Listener::check(bad), Err(said));
        }
        assert_eq!(Listener::check("localhost:1"), Ok(()));
    }
}
