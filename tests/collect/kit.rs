//! A running collector, a client of raw sockets, and what both need.

use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(120);

pub struct Collector {
    pub child: Child,
    /// Kept open: the collector must not find its stdout closed.
    pub stdout: BufReader<std::process::ChildStdout>,
    pub url: String,
    pub dir: PathBuf,
}

pub fn directory() -> PathBuf {
    static N: AtomicU32 = AtomicU32::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("telemetry-collect-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub fn command() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_telemetry"));
    c.arg("collect");
    c
}

impl Collector {
    pub fn start(args: &[&str]) -> Self {
        Self::start_in(directory(), "127.0.0.1:0", args)
    }

    pub fn start_in(dir: PathBuf, listen: &str, args: &[&str]) -> Self {
        let out = dir.join("out.ndjson");
        let mut child = command()
            .args(["--listen", listen, "--out"])
            .arg(&out)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ").expect("the address line").to_string();
        Collector { child, stdout, url, dir }
    }

    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn connect(&self) -> Client<TcpStream> {
        let s = TcpStream::connect(self.address()).unwrap();
        s.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(s))
    }

    /// One request on its own connection.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut c = self.connect();
        c.send(method, path, headers, body);
        c.answer().expect("an answer")
    }

    pub fn post(&self, body: &str) -> Answer {
        self.ask("POST", "/events", &[], body.as_bytes())
    }

    pub fn fault(&self, spec: &str) {
        let a = self.ask("PUT", "/fault", &[], spec.as_bytes());
        assert_eq!(a.status, 200, "{spec}: {}", a.text());
    }

    pub fn stats(&self) -> Value {
        self.ask("GET", "/stats", &[], b"").json()
    }

    pub fn count(&self, key: &str) -> u64 {
        self.stats()[key].as_u64().unwrap()
    }

    pub fn stored(&self) -> String {
        std::fs::read_to_string(self.dir.join("out.ndjson")).unwrap()
    }

    pub fn until(&self, what: &str, f: impl Fn(&Value) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            let s = self.stats();
            if f(&s) {
                return;
            }
            assert!(Instant::now() < end, "never came: {what}; last: {s}");
            std::thread::yield_now();
        }
    }

    pub fn signal(&self, name: &str) {
        let ok =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(ok.success());
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Client<S: Read + Write>(pub BufReader<S>);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

pub fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for h in headers {
        out += h;
        out += "\r\n";
    }
    out += "\r\n";
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

impl<S: Read + Write> Client<S> {
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        self.raw(&request(method, path, headers, body));
    }

    /// The next answer, or what came instead of one before the connection ended.
    pub fn answer(&mut self) -> Result<Answer, Vec<u8>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_until(b'\n', &mut head) {
                Ok(0) => return Err(head),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(head),
                Err(e) => panic!("no answer, and no end of the connection: {e}"),
            }
        }
        let headers = String::from_utf8(head).unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        let length = headers.lines().find_map(|l| l.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).unwrap();
        Ok(Answer { status, headers, body })
    }
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(data).unwrap();
    z.finish().unwrap()
}
