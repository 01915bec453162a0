//! The hostile server's side of a connection.
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What all servers of a case share.
#[derive(Default)]
pub struct Book {
    good: AtomicBool,
    taken: Mutex<Vec<u64>>,
    /// Requests that showed the credentials of the URL.
    pub authorized: AtomicUsize,
}

impl Book {
    /// From now on every server is good.
    pub fn mend(&self) {
        self.good.store(true, Ordering::SeqCst);
    }

    pub fn is_good(&self) -> bool {
        self.good.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> Vec<u64> {
        self.taken.lock().unwrap().clone()
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.read(buf),
            Stream::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.write(buf),
            Stream::Tls(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(s) => s.flush(),
            Stream::Tls(s) => s.flush(),
        }
    }
}

/// A connection.
pub struct Visit {
    stream: Stream,
    tcp: TcpStream,
    book: Arc<Book>,
    /// Its number, from 1.
    pub number: usize,
    ahead: Vec<u8>,
    /// The events of the last request.
    numbers: Vec<u64>,
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

impl Visit {
    /// Put TLS over the connection; whether that worked.
    pub fn tls(&mut self, config: &Arc<ServerConfig>) -> bool {
        let Ok(mut tls) = ServerConnection::new(Arc::clone(config)) else { return false };
        let mut tcp = self.tcp.try_clone().unwrap();
        while tls.is_handshaking() {
            if tls.complete_io(&mut tcp).is_err() {
                return false;
            }
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(tls, tcp)));
        true
    }

    /// New keys for what we send from now on.
    pub fn update_keys(&mut self) {
        let Stream::Tls(tls) = &mut self.stream else { panic!("not TLS") };
        tls.conn.refresh_traffic_keys().unwrap();
    }

    /// Read something; whether there was anything.
    pub fn read(&mut self) -> bool {
        let mut buf = [0; 16 * 1024];
        let n = self.stream.read(&mut buf).unwrap_or(0);
        self.ahead.extend_from_slice(&buf[..n]);
        n > 0
    }

    /// Read the head of a request.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(i) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.ahead.drain(..i + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.read() {
                return None;
            }
        }
    }

    /// Read a whole request; `false` at the end.
    pub fn request(&mut self) -> bool {
        self.request_saying("")
    }

    /// The same, with a word before the body is read.
    pub fn request_saying(&mut self, early: &str) -> bool {
        let Some(head) = self.head() else { return false };
        if !early.is_empty() {
            self.say(early);
        }
        let of = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string())
        };
        let length: usize = of("content-length").map_or(0, |length| length.parse().unwrap());
        while self.ahead.len() < length {
            if !self.read() {
                return false;
            }
        }
        let mut body: Vec<u8> = self.ahead.drain(..length).collect();
        if of("content-encoding").as_deref() == Some("gzip") {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
            body = plain;
        }
        if of("authorization").is_some_and(|value| value.contains(super::SECRET_BASE64)) {
            self.book.authorized.fetch_add(1, Ordering::SeqCst);
        }
        let events = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let number = |line| serde_json::from_slice::<Value>(line).unwrap()["n"].as_u64().unwrap();
        self.numbers = events.map(number).collect();
        true
    }

    /// The events of the last request are ours now, whatever the client hears of it.
    pub fn take(&mut self) {
        self.book.taken.lock().unwrap().append(&mut self.numbers);
    }

    /// Say that these are ours, unread.
    pub fn claim(&self, numbers: std::ops::Range<u64>) {
        self.book.taken.lock().unwrap().extend(numbers);
    }

    /// Send; whether it went out.
    pub fn say(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(text.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Send past the session.
    pub fn say_below_tls(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes);
    }

    /// Send a byte now and then, then `more` again and again, until the client has enough.
    pub fn drip(&mut self, text: &str, more: &str) {
        for byte in text.bytes().chain(more.bytes().cycle()) {
            if !self.say([byte]) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Send this again and again, until the client has enough.
    pub fn flood(&mut self, text: &str) {
        let many = text.repeat(64 * 1024 / text.len());
        while self.say(&many) {}
    }

    /// Not a word until the client closes.
    pub fn hang(&mut self) {
        while self.read() {}
    }

    /// End the connection without a farewell: unread bytes or not, the client gets a reset.
    pub fn reset(&mut self) {
        socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// No more from us, while we listen on.
    pub fn half_close(&mut self) {
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
    }

    /// Do this with each request; once the server is good, be good.
    pub fn each(&mut self, act: impl Fn(&mut Visit)) {
        while self.request() {
            if self.book.is_good() {
                self.take();
                self.say(OK);
            } else {
                act(self);
            }
        }
    }

    /// Take everything.
    pub fn be_good(&mut self) {
        while self.request() {
            self.take();
            if !self.say(OK) {
                return;
            }
        }
    }
}

/// Listen, and do this with each connection until the server is good; `tls` is for then.
pub fn start(
    book: &Arc<Book>,
    tls: Option<Arc<ServerConfig>>,
    act: impl Fn(&mut Visit) + Send + Sync + 'static,
) -> SocketAddr {
    on(TcpListener::bind("127.0.0.1:0").unwrap(), book, tls, act)
}

/// The same on this one.
pub fn on(
    listener: TcpListener,
    book: &Arc<Book>,
    tls: Option<Arc<ServerConfig>>,
    act: impl Fn(&mut Visit) + Send + Sync + 'static,
) -> SocketAddr {
    let addr = listener.local_addr().unwrap();
    let (book, act) = (Arc::clone(book), Arc::new(act));
    thread::spawn(move || {
        for (i, tcp) in listener.incoming().flatten().enumerate() {
            let (book, act, tls) = (Arc::clone(&book), Arc::clone(&act), tls.clone());
            thread::spawn(move || {
                tcp.set_nodelay(true).unwrap();
                let stream = Stream::Plain(tcp.try_clone().unwrap());
                let (ahead, numbers) = (Vec::new(), Vec::new());
                let mut visit = Visit { stream, tcp, book, number: i + 1, ahead, numbers };
                if !visit.book.is_good() {
                    act(&mut visit);
                } else if tls.is_none_or(|config| visit.tls(&config)) {
                    visit.be_good();
                }
            });
        }
    });
    addr
}
