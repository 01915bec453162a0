//! Small servers whose every word the test decides, and the sink under test.
pub use crate::full::{Full, Refusing};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::platform::sockets::SocketTable;
use telemetry::sink::{self, Endpoint, Method, Request, Response, Sink, SinkConfig, TransportError, Url};

/// Longer than anything takes, however busy the machine is.
pub const LONG: Duration = Duration::from_secs(120);
/// For what must end long before.
pub const HOUR: Duration = Duration::from_secs(3600);

pub struct Server {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// `handler` gets the connection's number, from 1.
    pub fn start(handler: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), handler)
    }

    pub fn on(listener: TcpListener, handler: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Server {
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let handler = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                let handler = Arc::clone(&handler);
                thread::spawn(move || handler(n, stream));
            }
        });
        Server { addr, connections }
    }

    /// Answers every request on every connection with `answer`.
    pub fn answering(answer: impl Into<String>) -> Server {
        let answer = answer.into();
        Server::start(move |_, mut s| {
            while read_request(&mut s).is_some() {
                s.write_all(answer.as_bytes()).unwrap();
            }
        })
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

pub struct Received {
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|l| l.split_once(": "));
        pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

/// Head up to the empty line; `None` at the end.
pub fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

pub fn read_request(stream: &mut impl Read) -> Option<Received> {
    let mut request = Received { head: read_head(stream)?, body: Vec::new() };
    let length = request.header("content-length").map_or(0, |v| v.parse().unwrap());
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub fn sink_config(endpoint: impl AsRef<str>) -> SinkConfig {
    SinkConfig::new(Endpoint::parse(endpoint.as_ref()).unwrap())
}

pub struct Client {
    pub sink: Box<dyn Sink>,
    pub table: Arc<SocketTable>,
}

impl Client {
    pub fn new(url: impl AsRef<str>) -> Client {
        Client::from(&sink_config(url))
    }

    pub fn from(config: &SinkConfig) -> Client {
        let table = Arc::new(SocketTable::new());
        Client { sink: sink::open(config, Arc::clone(&table)).unwrap(), table }
    }

    pub fn post(&mut self, body: &[u8]) -> Result<Response, TransportError> {
        self.post_within(body, LONG)
    }

    pub fn post_within(&mut self, body: &[u8], time: Duration) -> Result<Response, TransportError> {
        self.post_with(body, time, &[])
    }

    pub fn post_with(
        &mut self,
        body: &[u8],
        time: Duration,
        headers: &[(&str, &str)],
    ) -> Result<Response, TransportError> {
        self.request(Method::Post, None, body, time, headers)
    }

    pub fn request(
        &mut self,
        method: Method,
        to: Option<&str>,
        body: &[u8],
        time: Duration,
        headers: &[(&str, &str)],
    ) -> Result<Response, TransportError> {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let to = to.map(|to| Url::parse(to).unwrap());
        self.sink.send(&Request {
            method,
            to: to.as_ref(),
            body,
            content_type: "application/x-ndjson",
            content_encoding: None,
            headers: &headers,
            deadline: Instant::now() + time,
        })
    }
}

/// Runs `f` and checks that it took as long as the deadline, and no more than a busy machine adds. Whoever pays no heed
/// to the deadline waits for much longer, or for ever.
pub fn takes<T>(time: Duration, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = f();
    let took = start.elapsed();
    assert!(took >= time, "gave up after {took:?} of {time:?}");
    assert!(took < time + LONG, "took {took:?} instead of {time:?}");
    result
}
