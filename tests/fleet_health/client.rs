//! A strict client: what it reads must be one whole answer and then the end, not a reset.

use crate::driver::DEADLINE;
use std::io::{Read, Write};
use std::net::TcpStream;

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
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
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
