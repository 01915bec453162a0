//! The supervisor's part: a thread with an epoll that waits for what the server names.
//!
//! It compares descriptor numbers before and after each turn, and nothing else: a number that went over to another
//! connection within a turn would never be heard of again, and its test would end at a deadline.

use crate::document;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use telemetry::fleet::health::{Answer, Listener, Ms, Path, Server, Status, answer};
use telemetry::platform::poll::Interest;

/// No test waits for longer.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What the loop says of itself.
#[derive(Default, Clone, Copy, Debug)]
pub struct Seen {
    pub turns: u64,
    /// The time of the last turn.
    pub now: Ms,
    pub open: usize,
    pub writing: usize,
    /// Whether it waits for new connections.
    pub listens: bool,
    /// Answers that were made.
    pub pages: u64,
    /// The loop has ended.
    pub ended: bool,
}

struct Shared {
    status: Mutex<Status>,
    page: Mutex<Option<Answer>>,
    /// The virtual time; `None`: the real one.
    time: Mutex<Option<Ms>>,
    stop: Mutex<bool>,
    seen: Mutex<Seen>,
    changed: Condvar,
}

pub struct Driver {
    pub port: u16,
    shared: Arc<Shared>,
    kick: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Time stands still, except for [`Driver::pass`].
    pub fn still(listener: Listener) -> Driver {
        Driver::start(listener, Some(1_000_000))
    }

    pub fn real(listener: Listener) -> Driver {
        Driver::start(listener, None)
    }

    /// On a free port.
    pub fn tcp() -> Driver {
        Driver::still(Listener::bind("127.0.0.1:0").unwrap())
    }

    fn start(listener: Listener, time: Option<Ms>) -> Driver {
        let port = listener.port();
        let shared = Arc::new(Shared {
            status: Mutex::new(document::status()),
            page: Mutex::new(None),
            time: Mutex::new(time),
            stop: Mutex::new(false),
            seen: Mutex::new(Seen::default()),
            changed: Condvar::new(),
        });
        let (kick, kicked) = UnixStream::pair().unwrap();
        kicked.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(Server::new(Some(listener)), &shared, &kicked)
        });
        Driver { port, shared, kick, thread: Some(thread) }
    }

    pub fn set(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.shared.status.lock().unwrap());
    }

    /// Every path is answered with this.
    pub fn always(&self, answer: Answer) {
        *self.shared.page.lock().unwrap() = Some(answer);
    }

    pub fn seen(&self) -> Seen {
        *self.shared.seen.lock().unwrap()
    }

    /// Waits until the loop is as wanted.
    pub fn until(&self, what: &str, good: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.shared.seen.lock().unwrap();
        let (seen, late) =
            self.shared.changed.wait_timeout_while(seen, DEADLINE, |s| !good(s) && !s.ended).unwrap();
        assert!(!late.timed_out() && good(&seen), "{what}: {seen:?}");
        *seen
    }

    /// Time goes by, and the loop has seen it.
    pub fn pass(&self, ms: Ms) {
        let now = {
            let mut time = self.shared.time.lock().unwrap();
            let now = time.as_mut().expect("a clock that stands still");
            *now += ms;
            *now
        };
        (&self.kick).write_all(b"t").unwrap();
        self.until("a turn at that time", |s| s.now >= now);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap() = true;
        let _ = (&self.kick).write_all(b"s");
        if !std::thread::panicking() {
            // It ends also by a panic of its own, which is told here; but it must not hang.
            self.until("the end of the loop", |s| s.ended);
            assert!(self.thread.take().unwrap().join().is_ok(), "the loop panicked");
        }
    }
}

/// Tells that the loop has ended, however that came.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Ok(mut seen) = self.0.seen.lock() {
            seen.ended = true;
        }
        self.0.changed.notify_all();
    }
}

fn serve(mut server: Server, shared: &Shared, kicked: &UnixStream) {
    let _ended = Ended(shared);
    let began = Instant::now();
    let now = || shared.time.lock().unwrap().unwrap_or_else(|| began.elapsed().as_millis() as Ms + 1);
    let epoll = Epoll::new();
    epoll.control(libc::EPOLL_CTL_ADD, kicked.as_raw_fd(), Interest::Read).unwrap();
    let mut known: BTreeMap<RawFd, Interest> = BTreeMap::new();
    let mut seen = Seen::default();
    let still = shared.time.lock().unwrap().is_some();
    let mut last = 0;
    loop {
        let mut named = BTreeMap::new();
        server.fds(&mut |fd, interest| {
            assert!(named.insert(fd.as_raw_fd(), interest).is_none(), "named twice");
        });
        for (fd, interest) in &named {
            match known.get(fd) {
                None => epoll.control(libc::EPOLL_CTL_ADD, *fd, *interest).unwrap(),
                Some(i) if i != interest => epoll.control(libc::EPOLL_CTL_MOD, *fd, *interest).unwrap(),
                Some(_) => {}
            }
        }
        for fd in known.keys().filter(|fd| !named.contains_key(fd)) {
            // Closed by now, or not to be heard of for a while.
            let _ = epoll.control(libc::EPOLL_CTL_DEL, *fd, Interest::Read);
        }
        let listener = server.listener().unwrap().as_fd().as_raw_fd();
        seen.open = server.connections();
        seen.writing = named.values().filter(|i| **i == Interest::Write).count();
        seen.listens = named.contains_key(&listener);
        known = named;
        *shared.seen.lock().unwrap() = seen;
        shared.changed.notify_all();

        let next = server.next_deadline();
        // What is over must have been dealt with by the turn before: the loop would spin.
        assert!(next.is_none_or(|at| at > last), "a deadline that is over: {next:?} {last}");
        let timeout = match next {
            Some(at) if !still => at.saturating_sub(now()).min(60_000) as i32,
            _ => -1,
        };
        epoll.wait(timeout);
        let _ = (&*kicked).read(&mut [0; 64]);
        if *shared.stop.lock().unwrap() {
            return server.close();
        }
        last = now();
        server.turn(last, &mut |path: Path, verbose| {
            seen.pages += 1;
            let fixed = shared.page.lock().unwrap().clone();
            fixed.unwrap_or_else(|| answer(path, verbose, &shared.status.lock().unwrap()))
        });
        seen.turns += 1;
        seen.now = last;
    }
}

struct Epoll(std::os::fd::OwnedFd);

impl Epoll {
    fn new() -> Epoll {
        // SAFETY: a new descriptor, which nobody else owns.
        Epoll(unsafe { std::os::fd::FromRawFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) })
    }

    fn control(&self, what: i32, fd: RawFd, interest: Interest) -> std::io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
            Interest::Both => libc::EPOLLIN | libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: `event` is valid for the length of the call.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn wait(&self, timeout: i32) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: room for 32 events.
        unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 32, timeout) };
    }
}
