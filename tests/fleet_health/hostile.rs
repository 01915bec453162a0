//! Clients that mean no good, or know no better; and a system that has nothing left to give.

use crate::alone::alone;
use crate::client::{arrived, connect, reply};
use crate::document;
use crate::driver::{DEADLINE, Driver};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use telemetry::fleet::health::{Listener, Server, answer};

/// The contract is 2 s, which `limits` proves by a clock of its own; here the machine has other things to do as well.
const PROBE: Duration = Duration::from_secs(120);
const PROBES: usize = 25;
/// How long a client of the storm waits for whatever it waits for.
const PAUSE: Duration = Duration::from_millis(30);

/// Reads until the other side ends it, or the storm is over.
fn hold(stream: &mut TcpStream, over: &AtomicBool) {
    let mut part = [0; 4096];
    while !over.load(Relaxed) {
        match stream.read(&mut part) {
            Ok(0) => return,
            Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            _ => {}
        }
    }
}

/// Closed like this, a connection is reset.
fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// One connection of hostile client number `kind`.
fn attack(kind: usize, port: u16, over: &AtomicBool) {
    let Ok(mut s) = TcpStream::connect(("127.0.0.1", port)) else { return };
    s.set_read_timeout(Some(PAUSE)).unwrap();
    s.set_write_timeout(Some(PAUSE)).unwrap();
    let mut part = [0; 64];
    match kind % 15 {
        // Byte by byte, for as long as it is let.
        0 => {
            for byte in b"GET /livez HTTP/1.1\r\nHost: ".iter().chain(std::iter::repeat(&b'x')) {
                if over.load(Relaxed) || s.write_all(&[*byte]).is_err() || s.read(&mut part).is_ok() {
                    return;
                }
            }
        }
        // It never reads its answer.
        1 => {
            let _ = socket2::SockRef::from(&s).set_recv_buffer_size(1);
            let _ = s.write_all(b"GET /status?verbose HTTP/1.1\r\n\r\n");
            while !over.load(Relaxed) && s.take_error().is_ok_and(|e| e.is_none()) && !is_hung_up(&s) {}
        }
        // Ten megabytes of headers.
        2 => {
            let _ = s.write_all(b"GET /livez HTTP/1.1\r\n");
            let line = format!("A: {}\r\n", "a".repeat(1000)).repeat(100);
            for _ in 0..100 {
                if over.load(Relaxed) || s.write_all(line.as_bytes()).is_err() {
                    break;
                }
            }
        }
        3 => {
            let _ = s.write_all(b"GET /livez HTTP/1.1\r\n");
            reset(s);
        }
        4 => {
            let _ = s.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
            reset(s);
        }
        5 => {
            let _ = s.write_all(b"GET /livez HTTP/1.1\r\nHo");
            let _ = s.shutdown(Shutdown::Write);
            hold(&mut s, over);
        }
        6 => {
            let _ = s.write_all(b"GET /livez HTTP/1.1\r\n\r\n");
            let _ = s.shutdown(Shutdown::Both);
        }
        // HTTP/0.9.
        7 => {
            let _ = s.write_all(b"GET /livez\r\n");
            hold(&mut s, over);
        }
        8 => {
            let _ = s.write_all(&[0; 3000]);
            hold(&mut s, over);
        }
        9 => {
            let _ = s.write_all(
                b"GET http://elsewhere.example/status HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
            );
            hold(&mut s, over);
        }
        // A chunked body without an end.
        10 => {
            let _ = s.write_all(b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
            while !over.load(Relaxed) && s.write_all(b"fff\r\n").is_ok() && s.write_all(&[b'x'; 4095]).is_ok()
            {
            }
        }
        // It says nothing.
        11 => hold(&mut s, over),
        // TLS.
        12 => {
            let _ = s.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random");
            hold(&mut s, over);
        }
        // A thousand requests at once.
        13 => {
            let _ = s.write_all("GET /status HTTP/1.1\r\n\r\n".repeat(1000).as_bytes());
            hold(&mut s, over);
        }
        _ => {}
    }
}

fn is_hung_up(stream: &TcpStream) -> bool {
    let mut p = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut p, 1, PAUSE.as_millis() as i32) };
    p.revents != 0
}

/// One liveness probe: within its time there is a whole answer, and it is 200. How often it had to ask.
fn probe(port: u16) -> usize {
    let end = Instant::now() + PROBE;
    for attempt in 1.. {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no answer to a probe, {attempt} times");
        let mut stream = connect(port);
        stream.set_read_timeout(Some(left)).unwrap();
        let mut bytes = Vec::new();
        let sent = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: probe\r\n\r\n");
        // A machine so busy that a probe did not get to ask may have lost its place.
        if sent.is_ok() && stream.read_to_end(&mut bytes).is_ok() && !bytes.is_empty() {
            assert_eq!(crate::client::parse(&bytes, false).status, 200);
            return attempt;
        }
    }
    unreachable!()
}

/// Sockets of this process whose own port is `port`.
fn descriptors(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let inodes: BTreeSet<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|row| row[1].ends_with(&format!(":{port:04X}")) && row[9] != "0")
        .map(|row| format!("socket:[{}]", row[9]))
        .collect();
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter_map(|e| std::fs::read_link(e.path()).ok())
        .filter(|link| inodes.contains(link.to_str().unwrap_or_default()))
        .count()
}

#[test]
fn a_probe_is_answered_whatever_thirty_others_do() {
    let d = Driver::real(Listener::bind("127.0.0.1:0").unwrap());
    d.set(|s| {
        let six = document::workers();
        s.workers = (0..64).map(|i| six[i % six.len()].clone()).collect();
    });
    assert_eq!(descriptors(d.port), 1, "the listener");
    let over = AtomicBool::new(false);
    let rounds: Vec<AtomicU64> = (0..30).map(|_| AtomicU64::new(0)).collect();
    let attempts: usize = std::thread::scope(|scope| {
        for (kind, round) in rounds.iter().enumerate() {
            let (over, port) = (&over, d.port);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    attack(kind, port, over);
                    round.fetch_add(1, Relaxed);
                }
            });
        }
        // Ends the storm also if a probe fails.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _end = End(&over);
        d.until("a crowd", |s| s.open >= 8);
        let attacks = || rounds.iter().map(|r| r.load(Relaxed)).sum::<u64>();
        let (begin, mut probes, mut attempts) = (Instant::now(), 0, 0);
        while probes < PROBES || attacks() < 300 {
            attempts += probe(d.port);
            probes += 1;
            assert!(begin.elapsed() < DEADLINE * 4, "no storm: {} attacks, {probes} probes", attacks());
        }
        attempts
    });
    println!("{attempts} attempts, {:?}", d.seen());
    d.until("all of them gone", |s| s.open == 0);
    assert_eq!(probe(d.port), 1);
    d.until("the probe gone", |s| s.open == 0);
    assert_eq!(descriptors(d.port), 1, "the listener and nothing that was left over");
}

#[test]
fn a_client_that_is_gone_raises_no_signal() {
    alone("hostile::a_client_that_is_gone_raises_no_signal", || {
        // As in a host that has left SIGPIPE as it was.
        // SAFETY: a disposition, nothing is run.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let path = std::env::temp_dir().join(format!("fleet-health-{}-pipe", std::process::id()));
        let mut server = Server::new(Some(Listener::bind(&format!("unix:{}", path.display())).unwrap()));
        let status = document::status();
        for gone in [true, false] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
            let kept = (!gone).then_some(client);
            server.turn(1, &mut |path, verbose| answer(path, verbose, &status));
            assert_eq!(server.connections(), 0);
            if let Some(mut client) = kept {
                assert_eq!(reply(&mut client, false).status, 200);
            }
        }
        server.close();
    });
}

#[test]
fn without_descriptors_it_waits_instead_of_spinning() {
    alone("hostile::without_descriptors_it_waits_instead_of_spinning", || {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let mut client = connect(listener.port());
        client.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
        arrived(&client);
        let mut server = Server::new(Some(listener));
        let status = document::status();
        let turn = |server: &mut Server, now| {
            server.turn(now, &mut |path, verbose| answer(path, verbose, &status));
            let mut named = 0;
            server.fds(&mut |_, _| named += 1);
            named
        };
        let limit = |files: libc::rlim_t| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a valid place for the limits, and then valid limits.
            unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
            limit.rlim_cur = files.min(limit.rlim_max);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        limit(free as libc::rlim_t);
        // Ready all the time, the listener is not to be waited for: a loop would spin.
        assert_eq!(turn(&mut server, 1000), 0);
        assert_eq!(server.next_deadline(), Some(1100));
        assert_eq!(turn(&mut server, 1099), 0);
        assert_eq!((turn(&mut server, 1100), server.next_deadline()), (0, Some(1200)));
        limit(1024);
        assert_eq!((turn(&mut server, 1200), server.next_deadline()), (1, None));
        assert_eq!(reply(&mut client, false).status, 200);
    });
}
