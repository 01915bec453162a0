//! Descriptors that are closed behind our back, forks, and unix sockets.
use crate::server::*;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use telemetry::sink::TransportErrorKind::*;

/// Our own descriptor of the connection whose client end is `local`.
fn find(local: SocketAddr, remote: SocketAddr) -> i32 {
    (3..65536)
        .find(|fd| {
            // SAFETY: the number is only asked about; one that is not open, or no socket, gives an error.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            let s = socket2::SockRef::from(&fd);
            let is = |a: std::io::Result<socket2::SockAddr>, b| a.is_ok_and(|a| a.as_socket() == Some(b));
            is(s.local_addr(), local) && is(s.peer_addr(), remote)
        })
        .unwrap()
}

#[test]
fn a_number_that_now_is_somebody_elses_is_left_alone() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        tell.send(s.peer_addr().unwrap()).unwrap();
        while read_request(&mut s).is_some() {
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut client = Client::new(server.url("/"));
    client.post(b"x").unwrap();
    let fd = find(hear.recv_timeout(LONG).unwrap(), server.addr);
    // A daemoniser closes everything, and the next open() gets our number.
    let (theirs, mut peer) = UnixStream::pair().unwrap();
    // SAFETY: both are open; what becomes of our socket is what this test is about.
    assert!(unsafe { libc::dup2(theirs.as_raw_fd(), fd) } == fd);
    peer.write_all(b"not for the sink").unwrap();
    assert_eq!(client.post(b"y").unwrap().status, 200);
    assert_eq!(server.connections(), 2);
    drop(client);
    // Nothing was written to it, nothing read from it, and it is open.
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // SAFETY: the number was made by dup2 above and nobody closed it; this test owns it.
    let mut theirs = unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let mut buf = [0; 32];
    let n = theirs.read(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"not for the sink");
}

/// Forks; the child runs `f` under an alarm and must return true.
pub fn in_child(f: impl FnOnce() -> bool) {
    // SAFETY: the child only runs what a forked child of a threaded process may run with glibc, whose malloc
    // is made ready for it; it leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: as above; a child that hangs is killed by the alarm.
        unsafe { libc::alarm(600) };
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: leaves without running the parent's exit handlers.
        unsafe { libc::_exit(if good { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place; `pid` is our child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "child ended with {status:#x}");
}

#[test]
fn a_child_forgets_the_sink_and_the_parents_connection_lives() {
    let server = Server::answering(OK);
    let config = sink_config(server.url("/"));
    let mut client = Client::from(&config);
    client.post(b"x").unwrap();
    for n in 1..=20 {
        in_child(|| {
            client.table.close_inherited();
            let mut own = Client::from(&config);
            own.post(b"child").is_ok_and(|r| r.status == 200) && client.table.noted() == 0
        });
        assert_eq!(client.post(b"x").unwrap().status, 200);
        assert_eq!(server.connections(), 1 + n, "the parent had to connect again");
    }
}

/// With `silent` nobody accepts, and the backlog is short.
fn unix_server(name: &str, silent: bool) -> (std::path::PathBuf, Arc<AtomicUsize>, UnixListener) {
    let path = std::env::temp_dir().join(format!("lt-sink-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    if silent {
        socket2::SockRef::from(&listener).listen(1).unwrap();
    } else {
        let (l, c) = (listener.try_clone().unwrap(), Arc::clone(&count));
        thread::spawn(move || {
            for mut s in l.incoming().flatten() {
                c.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    while let Some(r) = read_request(&mut s) {
                        assert!(r.head.starts_with("POST /v1/in HTTP/1.1\r\n"));
                        assert_eq!(r.header("host"), Some("localhost"));
                        s.write_all(OK.as_bytes()).unwrap();
                    }
                });
            }
        });
    }
    (path, count, listener)
}

fn unix_client(socket: &std::path::Path) -> Client {
    Client::new(format!("http+unix://{}:/v1/in", socket.display()))
}

#[test]
fn http_over_a_unix_socket() {
    let (path, count, _listener) = unix_server("http", false);
    let mut client = unix_client(&path);
    for _ in 0..5 {
        assert_eq!(client.post(b"x").unwrap().body, b"ok");
        assert_eq!(client.table.noted(), 1);
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    std::fs::remove_file(&path).unwrap();
    client.sink.close_idle();
    let error = client.post(b"x").unwrap_err();
    assert_eq!(error.kind, Connect);
    assert!(error.message.contains(path.to_str().unwrap()), "{}", error.message);
}

#[test]
fn a_full_unix_socket_meets_the_deadline() {
    let (path, _, _listener) = unix_server("full", true);
    let raw = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let mut held = Vec::new();
    loop {
        let s = raw();
        s.set_nonblocking(true).unwrap();
        if s.connect(&socket2::SockAddr::unix(&path).unwrap()).is_err() {
            break;
        }
        held.push(s);
    }
    let time = Duration::from_secs(1);
    let error = takes(time, || unix_client(&path).post_within(b"x", time)).unwrap_err();
    assert_eq!(error.kind, Connect);
    std::fs::remove_file(&path).unwrap();
}
