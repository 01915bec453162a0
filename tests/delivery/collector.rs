//! A collector that records each request and answers by script.
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// No wait takes longer. A machine may be busy: what is waited for comes in a moment, or never.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A request as it came.
#[derive(Clone)]
pub struct Seen {
    /// When it had been read, or a little later; before it was answered.
    pub at: Instant,
    /// Its number, from 0.
    pub number: usize,
    head: String,
    /// As sent.
    pub raw: Vec<u8>,
    /// Decompressed.
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    pub fn request_line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// All before the body.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Whether it is of that method, to that path, whatever its query.
    pub fn is(&self, method: &str, path: &str) -> bool {
        let mut words = self.request_line().split([' ', '?']);
        words.next() == Some(method) && words.next() == Some(path)
    }

    /// Its JSON body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn is_gzip(&self) -> bool {
        self.header("content-encoding") == Some("gzip")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The events of an NDJSON body.
    pub fn events(&self) -> Vec<Value> {
        assert!(self.body.ends_with(b"\n"), "the last line is ended: {:?}", self.text());
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The number `n` of each of its events.
    pub fn numbers(&self) -> Vec<u64> {
        self.events().iter().map(|e| e["n"].as_u64().unwrap()).collect()
    }
}

/// What the collector does with a request it has read.
pub enum Reply {
    Status(u16),
    /// Status, header lines, body.
    Full(u16, String, String),
    /// These bytes, then the end.
    Raw(String),
    /// The connection ends without a word.
    Cut,
    /// Not a word until the other side closes.
    Stall,
    /// This, once the test says so.
    When(Arc<Latch>, u16),
    /// The same for any answer.
    Held(Arc<Latch>, Box<Reply>),
}

/// Shut until it is opened.
#[derive(Default)]
pub struct Latch(Mutex<bool>, Condvar);

impl Latch {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub fn wait(&self) {
        let (_open, late) = self.1.wait_timeout_while(self.0.lock().unwrap(), LIMIT, |open| !*open).unwrap();
        assert!(!late.timed_out(), "the latch was never opened");
    }
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

struct Record {
    seen: Mutex<Vec<Seen>>,
    /// Connections that ended, however.
    ended: Mutex<usize>,
    news: Condvar,
    script: Mutex<Script>,
}

pub struct Collector {
    url: String,
    record: Arc<Record>,
}

impl Collector {
    /// On a port of its own.
    pub fn start(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::with(url, script);
        let record = Arc::clone(&collector.record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                let record = Arc::clone(&record);
                thread::spawn(move || serve(&record, stream.try_clone().unwrap(), stream));
            }
        });
        collector
    }

    /// One connection at a time, on a thread that is made here.
    pub fn with_one_thread(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::with(url, script);
        let record = Arc::clone(&collector.record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(&record, stream.try_clone().unwrap(), stream);
            }
        });
        collector
    }

    /// On a unix socket, so that a test decides when the collector is there at all.
    pub fn at(path: &Path, script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Collector {
        let listener = UnixListener::bind(path).unwrap();
        let collector = Collector::with(unix_url(path), script);
        let record = Arc::clone(&collector.record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                thread::spawn(move || serve(&record, stream.try_clone().unwrap(), stream));
            }
        });
        collector
    }

    /// Takes everything.
    pub fn kind() -> Collector {
        Collector::start(|_| Reply::Status(200))
    }

    /// Gives these answers one after the other, then takes everything.
    pub fn saying(replies: Vec<Reply>) -> Collector {
        let mut replies = replies.into_iter();
        Collector::start(move |_| replies.next().unwrap_or(Reply::Status(200)))
    }

    fn with(url: String, script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Collector {
        let record = Record {
            seen: Mutex::default(),
            ended: Mutex::default(),
            news: Condvar::new(),
            script: Mutex::new(Box::new(script)),
        };
        Collector { url, record: Arc::new(record) }
    }

    /// Without a path.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn count(&self) -> usize {
        self.record.seen.lock().unwrap().len()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.record.seen.lock().unwrap().clone()
    }

    /// The requests, once there are `n`.
    pub fn wait(&self, n: usize) -> Vec<Seen> {
        let seen = self.record.seen.lock().unwrap();
        let (seen, late) = self.record.news.wait_timeout_while(seen, LIMIT, |s| s.len() < n).unwrap();
        assert!(!late.timed_out(), "{} of {n} requests came", seen.len());
        seen.clone()
    }

    /// Wait until a connection has ended.
    pub fn wait_ended(&self) {
        let ended = self.record.ended.lock().unwrap();
        let (_ended, late) = self.record.news.wait_timeout_while(ended, LIMIT, |n| *n == 0).unwrap();
        assert!(!late.timed_out(), "no connection ended");
    }

    /// The numbers of all events of all requests.
    pub fn numbers(&self) -> Vec<u64> {
        self.requests().iter().flat_map(Seen::numbers).collect()
    }
}

/// The address of a collector at `path`.
pub fn unix_url(path: &Path) -> String {
    format!("http+unix://{}", path.display())
}

fn serve(record: &Record, read: impl Read, mut write: impl Write) {
    let mut read = BufReader::with_capacity(64 * 1024, read);
    while let Some((head, raw)) = request(&mut read) {
        let mut body = Vec::new();
        if head.to_ascii_lowercase().contains("content-encoding: gzip") {
            flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut body).unwrap();
        } else {
            body.clone_from(&raw);
        }
        let mut seen = record.seen.lock().unwrap();
        let this = Seen { at: Instant::now(), number: seen.len(), head, raw, body };
        seen.push(this.clone());
        let reply = (record.script.lock().unwrap())(&this);
        drop(seen);
        record.news.notify_all();
        let reply = match reply {
            Reply::Held(latch, reply) => {
                latch.wait();
                *reply
            }
            reply => reply,
        };
        let answer = match reply {
            Reply::Held(..) => unreachable!("held twice"),
            Reply::Status(status) => full(status, "", ""),
            Reply::Full(status, headers, body) => full(status, &headers, &body),
            Reply::When(latch, status) => {
                latch.wait();
                full(status, "", "")
            }
            Reply::Raw(bytes) => {
                let _ = write.write_all(bytes.as_bytes());
                break;
            }
            Reply::Cut => break,
            Reply::Stall => {
                let _ = read.read(&mut [0]);
                break;
            }
        };
        if write.write_all(answer.as_bytes()).is_err() {
            break;
        }
    }
    *record.ended.lock().unwrap() += 1;
    record.news.notify_all();
}

fn full(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn request(read: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if read.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|l| {
        let (name, value) = l.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    read.read_exact(&mut body).ok()?;
    Some((head, body))
}
