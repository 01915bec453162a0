//! Where the collector listens: a TCP address or a unix socket, behind one type.
//!
//! Invariants: a unix socket is taken over only if nobody answers on it, and removed at the end; a
//! socket that somebody serves, or a path that is no socket, is an error and stays as it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// An address as given on the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// `HOST:PORT`; port 0 lets the system choose.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

const EXPECTED: &str = "expected HOST:PORT (such as 127.0.0.1:8080; port 0 takes a free one) or unix:PATH";

impl Address {
    /// Reads an address; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(EXPECTED.into());
            }
            return std::path::absolute(path).map(Address::Unix).map_err(|e| format!("{e}; {EXPECTED}"));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.into()))
            }
            _ => Err(EXPECTED.into()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(a) => f.write_str(a),
            Address::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// A socket that takes connections.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket and the path to remove at the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds the address.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(a) => TcpListener::bind(a.as_str()).map(Listener::Tcp),
            Address::Unix(path) => {
                let bound = match UnixListener::bind(path) {
                    Err(e) if e.kind() == ErrorKind::AddrInUse => {
                        let socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
                        let dead = matches!(UnixStream::connect(path),
                            Err(e) if e.kind() == ErrorKind::ConnectionRefused);
                        if !socket || !dead {
                            return Err(e);
                        }
                        std::fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    other => other?,
                };
                Ok(Listener::Unix(bound, path.clone()))
            }
        }
    }

    /// The endpoint a client of this listener is configured with.
    pub fn url(&self) -> io::Result<String> {
        Ok(match self {
            Listener::Tcp(l) => format!("http://{}", l.local_addr()?),
            Listener::Unix(_, path) => format!("http+unix://{}:/", path.display()),
        })
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(l) => {
                let (s, _) = l.accept()?;
                // Answers are small and written at once: waiting for more would only delay them.
                let _ = s.set_nodelay(true);
                Ok(Stream::Tcp(s))
            }
            Listener::Unix(l, _) => l.accept().map(|(s, _)| Stream::Unix(s)),
        }
    }

    /// The file to remove when the collector ends.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Listener::Tcp(_) => None,
            Listener::Unix(_, path) => Some(path.clone()),
        }
    }
}

/// One accepted connection.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// How long a read may wait; `None` is for ever.
    pub fn set_read_timeout(&self, t: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_read_timeout(t),
            Stream::Unix(s) => s.set_read_timeout(t),
        }
    }

    /// Tells the peer that nothing more comes.
    pub fn finish_writing(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
        };
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&*s).read(buf),
            Stream::Unix(s) => (&*s).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&*s).write(buf),
            Stream::Unix(s) => (&*s).write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(Address::parse("[::1]:0"), Ok(Address::Tcp("[::1]:0".into())));
        assert_eq!(Address::parse("unix:/a/b"), Ok(Address::Unix("/a/b".into())));
        for bad in ["", "8080", ":8080", "host:", "host:65536", "unix:"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
