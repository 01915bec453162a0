//! Where it listens: addresses, files that were left behind, descriptors that are handed over.

use crate::client::{arrived, connect, connect_to, get, reply};
use crate::driver::{DEADLINE, Driver};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use telemetry::fleet::health::{Answer, Listener, Server};

/// A directory of the test's own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("fleet-health-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn at(&self, name: &str) -> (PathBuf, String) {
        let path = self.0.join(name);
        let address = format!("unix:{}", path.display());
        (path, address)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ask_unix(path: &PathBuf) -> u16 {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    reply(&mut stream, false).status
}

fn flags(fd: &impl AsFd) -> (bool, bool) {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: both only ask.
    let (own, open) = unsafe { (libc::fcntl(fd, libc::F_GETFD), libc::fcntl(fd, libc::F_GETFL)) };
    (own & libc::FD_CLOEXEC != 0, open & libc::O_NONBLOCK != 0)
}

#[test]
fn a_free_port_of_each_kind_of_address() {
    for (address, asked) in [
        ("127.0.0.1:0", &["127.0.0.1"][..]),
        ("[::1]:0", &["[::1]"]),
        ("localhost:0", &["localhost"]),
        // Every address, of both families.
        (":0", &["127.0.0.1", "[::1]"]),
        ("0.0.0.0:0", &["127.0.0.1"]),
    ] {
        let listener = match Listener::bind(address) {
            // A container may have no IPv6; everything else must work everywhere.
            Err(e) if address == "[::1]:0" && e.contains("os error 99") => continue,
            listener => listener.unwrap(),
        };
        assert_ne!(listener.port(), 0);
        assert!(listener.to_string().ends_with(&format!(":{}", listener.port())), "{listener}");
        assert_eq!(flags(&listener), (true, true));
        let d = Driver::still(listener);
        for host in asked {
            match TcpStream::connect(format!("{host}:{}", d.port)) {
                Err(e) if *host == "[::1]" && e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                stream => {
                    let mut stream = stream.unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
                    assert_eq!(reply(&mut stream, false).status, 200, "{address} at {host}");
                }
            }
        }
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    // An address of its own, so that nobody takes the port when it is free again.
    let other = TcpListener::bind("127.0.88.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let said = Listener::bind(&address).unwrap_err();
    assert!(said.starts_with(&format!("health is {address:?}: ")), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
    drop(other);
    assert_eq!(Listener::bind(&address).unwrap().to_string(), address);
    let said = Listener::bind("host.invalid:80").unwrap_err();
    assert!(
        said.starts_with("health is \"host.invalid:80\": the supervisor cannot listen there: "),
        "{said}"
    );
}

#[test]
fn a_port_can_be_had_again_at_once() {
    // An address of its own, as above.
    let d = Driver::still(Listener::bind("127.0.88.2:0").unwrap());
    // The server closes first, so its side of the connection stays for a minute.
    let mut client = connect_to("127.0.88.2", d.port);
    client.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(reply(&mut client, false).status, 200);
    let address = format!("127.0.88.2:{}", d.port);
    drop(d);
    assert_eq!(Listener::bind(&address).unwrap().to_string(), address);
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    let dir = Dir::new("served");
    let (path, address) = dir.at("health");
    let listener = Listener::bind(&address).unwrap();
    assert_eq!((listener.port(), listener.to_string()), (0, address.clone()));
    assert_eq!(flags(&listener), (true, true));
    let d = Driver::still(listener);
    assert_eq!(ask_unix(&path), 200);
    drop(d);
    assert!(!path.exists());
    // A listener that is only dropped, as a forked child may do, removes nothing.
    drop(Listener::bind(&address).unwrap());
    assert!(path.exists());
}

#[test]
fn only_a_socket_that_nobody_listens_on_is_taken_over() {
    let dir = Dir::new("stale");
    let (path, address) = dir.at("health");
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&address).unwrap();
    let refused = Listener::bind(&address).unwrap_err();
    assert!(refused.starts_with(&format!("health is {address:?}: ")), "{refused}");
    assert!(refused.contains("somebody listens there"), "{refused}");
    // Nor one whose queue is full: a question to it would have to wait.
    let mut waiting = Vec::new();
    loop {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&socket2::SockAddr::unix(&path).unwrap()) {
            Ok(()) => waiting.push(socket),
            Err(_) => break,
        }
        assert!(waiting.len() < 100_000, "a queue has an end");
    }
    assert!(Listener::bind(&address).unwrap_err().contains("somebody listens there"));
    drop(waiting);
    let d = Driver::still(listener);
    d.until("the queue is done with", |s| s.open == 0 && s.turns > 0);
    assert_eq!(ask_unix(&path), 200);
}

#[test]
fn other_files_stay_as_they_are() {
    let dir = Dir::new("others");
    for name in ["file", "directory", "link", "datagrams"] {
        let (path, address) = dir.at(name);
        let mut held = None;
        match name {
            "file" => std::fs::write(&path, "kept").unwrap(),
            "directory" => std::fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink("/nowhere", &path).unwrap(),
            _ => held = Some(UnixDatagram::bind(&path).unwrap()),
        }
        let said = Listener::bind(&address).unwrap_err();
        assert!(said.starts_with(&format!("health is {address:?}: ")), "{said}");
        assert!(std::fs::symlink_metadata(&path).is_ok(), "{name}");
        drop(held);
    }
    assert_eq!(std::fs::read_to_string(dir.at("file").0).unwrap(), "kept");
    assert!(Listener::bind(&dir.at("no/such/directory").1).unwrap_err().contains("No such file"));
}

#[test]
fn a_file_that_somebody_else_put_there_stays() {
    let dir = Dir::new("replaced");
    let (path, address) = dir.at("health");
    let listener = Listener::bind(&address).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    listener.remove();
    assert!(path.exists());
    drop(other);
}

#[test]
fn a_listener_is_handed_over() {
    let dir = Dir::new("handed");
    let (path, address) = dir.at("health");
    // As a program that was executed finds it: inherited, so without the flag that would have closed it.
    let inherited = |listener: &Listener| -> OwnedFd {
        let fd = listener.as_fd().try_clone_to_owned().unwrap();
        // SAFETY: the flags of a descriptor of our own.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
        fd
    };
    let first = Listener::bind(&address).unwrap();
    let second = Listener::from_fd(inherited(&first)).unwrap();
    drop(first);
    assert_eq!((second.to_string(), flags(&second)), (address, (true, true)));
    let d = Driver::still(second);
    assert_eq!(ask_unix(&path), 200);
    drop(d);
    assert!(!path.exists(), "it knows its file");

    let first = Listener::bind("127.0.0.1:0").unwrap();
    let second = Listener::from_fd(inherited(&first)).unwrap();
    assert_eq!((second.port(), second.to_string()), (first.port(), first.to_string()));
    drop(first);
    assert_eq!(flags(&second), (true, true));
    let d = Driver::still(second);
    assert_eq!(get(d.port, "/livez").status, 200);
}

#[test]
fn a_server_may_get_its_listener_later() {
    let mut server = Server::new(None);
    let named = |server: &Server| {
        let mut n = 0;
        server.fds(&mut |_, _| n += 1);
        n
    };
    server.turn(1, &mut |_, _| panic!("nobody can ask"));
    assert_eq!((named(&server), server.next_deadline(), server.listener().is_none()), (0, None, true));
    server.listen(Listener::bind("127.0.0.1:0").unwrap());
    assert_eq!(named(&server), 1);
    let mut client = connect(server.listener().unwrap().port());
    client.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    arrived(&client);
    server.turn(2, &mut |_, _| Answer::new(200, "text/plain", "late"));
    assert_eq!(reply(&mut client, false).body, "late");
}
