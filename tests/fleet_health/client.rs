//! A strict client: what it reads must be one whole answer and then the end, not a reset.

use crate::driver::DEADLINE;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut of_name = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let found = of_name.next().map(|(_, value)| value.as_str());
        assert!(of_name.next().is_none(), "{name} twice");
        found
    }
}

/// Opens a connection on which every wait has an end.
pub fn connect(port: u16) -> TcpStream {
    connect_to("127.0.0.1", port)
}

pub fn connect_to(host: &str, port: u16) -> TcpStream {
    let stream = TcpStream::connect((host, port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Waits until the other side has all that was sent, the end of the sending included: a busy system brings even to its
/// own addresses a little later. For whoever turns a server by hand.
pub fn arrived(stream: &TcpStream) {
    let start = Instant::now();
    loop {
        let (mut left, fd) = (0, stream.as_raw_fd());
        // SAFETY: a valid place for the number of bytes that were not acknowledged.
        assert_eq!(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut left) }, 0);
        if left == 0 {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{left} bytes never arrive");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a server that is turned by hand would find somebody to let in.
pub fn knocked(server: &telemetry::fleet::health::Server) {
    use telemetry::platform::poll::{Interest, wait};
    let listener = std::os::fd::AsFd::as_fd(server.listener().unwrap());
    assert!(wait(listener, Interest::Read, DEADLINE).unwrap(), "nobody comes");
}

/// Sends these bytes and reads the answer.
pub fn ask(port: u16, request: impl AsRef<[u8]>) -> Reply {
    let mut stream = connect(port);
    stream.write_all(request.as_ref()).unwrap();
    reply(&mut stream, request.as_ref().starts_with(b"HEAD "))
}

pub fn get(port: u16, target: &str) -> Reply {
    ask(port, format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"))
}

/// Reads one answer up to the connection's end.
pub fn reply(stream: &mut impl Read, head_only: bool) -> Reply {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer and then an orderly end");
    parse(&bytes, head_only)
}

pub fn parse(bytes: &[u8], head_only: bool) -> Reply {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {text:?}"));
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap();
    let (version, status) = first.split_once(' ').unwrap();
    assert_eq!(version, "HTTP/1.1");
    let (status, reason) = status.split_once(' ').unwrap();
    assert!(!reason.is_empty() && reason != "Unknown", "{first}");
    let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.into(), v.into())).collect();
    let reply = Reply { status: status.parse().unwrap(), headers, body: body.into() };
    assert_eq!(reply.header("Connection"), Some("close"));
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    assert!(reply.header("Content-Type").is_some());
    httpdate::parse_http_date(reply.header("Date").unwrap()).unwrap();
    let length: usize = reply.header("Content-Length").unwrap().parse().unwrap();
    if head_only {
        assert_eq!(body, "", "the answer to HEAD has no body");
    } else {
        assert_eq!(body.len(), length);
    }
    reply
}
