//! Hosts with many addresses, some of which lead nowhere. All of them are on loopback, at one port.
use crate::server::*;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use telemetry::sink::TransportErrorKind::*;
use telemetry::sink::{Resolver, ResolverFiles};

/// Whoever tries one address after the other needs a good part of this for one that swallows packets.
const DEADLINE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

/// A hosts file of its own, removed at the end.
struct Hosts(PathBuf);

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Hosts {
    /// `many.test` has these addresses.
    fn new(addresses: &[&str]) -> Hosts {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("lt-hosts-{}-{n}", std::process::id()));
        let lines: Vec<_> = addresses.iter().map(|a| format!("{a} many.test\n")).collect();
        std::fs::write(&path, lines.concat()).unwrap();
        Hosts(path)
    }

    fn client(&self, port: u16) -> Client {
        let mut config = sink_config(format!("http://many.test:{port}/"));
        let none = PathBuf::from("/nonexistent");
        let files = ResolverFiles { hosts: self.0.clone(), resolv_conf: none, port: 1 };
        config.resolver = Resolver::BuiltinFrom(files);
        Client::from(&config)
    }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

fn answer(_: usize, mut s: std::net::TcpStream) {
    while read_request(&mut s).is_some() {
        s.write_all(OK.as_bytes()).unwrap();
    }
}

/// Answers at this address, on a port that is free at all of `others` too.
fn server(ip: &str, others: &[&str]) -> Server {
    loop {
        let listener = TcpListener::bind(at(ip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if others.iter().all(|other| TcpListener::bind(at(other, port)).is_ok()) {
            return Server::on(listener, answer);
        }
    }
}

#[test]
fn a_family_that_swallows_packets_costs_little() {
    for (dead, good) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        let server = server(good, &[dead]);
        let port = server.addr.port();
        let _dead = Full::at(&at(dead, port).to_string());
        let hosts = Hosts::new(&[dead, good]);
        let mut client = hosts.client(port);
        let start = Instant::now();
        assert_eq!(client.post_within(b"x", DEADLINE).unwrap().status, 200);
        assert!(start.elapsed() < SOON, "{good} waited {:?} for {dead}", start.elapsed());
        assert_eq!(client.table.noted(), 1, "the attempt that lost is closed");
    }
}

#[test]
fn many_dead_addresses_are_tried_a_few_at_a_time() {
    let dead = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7"];
    let server = server("127.0.0.8", &dead);
    let port = server.addr.port();
    let _dead: Vec<_> = dead.iter().map(|ip| Full::at(&at(ip, port).to_string())).collect();
    let hosts = Hosts::new(&[&dead[..], &["127.0.0.8"]].concat());
    let mut client = hosts.client(port);
    let (table, over) = (client.table.clone(), AtomicBool::new(false));
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::SeqCst) {
                most = most.max(table.noted());
                thread::yield_now();
            }
            most
        });
        let start = Instant::now();
        let answer = client.post_within(b"x", DEADLINE);
        over.store(true, Ordering::SeqCst);
        assert_eq!(answer.unwrap().status, 200);
        assert!(start.elapsed() < SOON + SOON, "{:?}", start.elapsed());
        let most = sampler.join().unwrap();
        assert!((2..=4).contains(&most), "{most} attempts at once");
    });
    assert_eq!(client.table.noted(), 1);
}

#[test]
fn all_dead_addresses_meet_the_deadline() {
    let dead: Vec<_> = (2..9).map(|n| format!("127.0.0.{n}")).collect();
    let dead: Vec<&str> = dead.iter().map(String::as_str).collect();
    let port = server("127.0.0.1", &dead).addr.port();
    let _dead: Vec<_> = dead.iter().map(|ip| Full::at(&at(ip, port).to_string())).collect();
    let hosts = Hosts::new(&dead);
    let mut client = hosts.client(port);
    let time = Duration::from_millis(400);
    let error = takes(time, || client.post_within(b"x", time)).unwrap_err();
    assert_eq!((error.kind, client.table.noted()), (Connect, 0));
    assert!(error.message.contains("timed out (and 6 other addresses)"), "{}", error.message);
}

#[test]
fn an_address_that_refuses_makes_room_at_once() {
    let refusing: Vec<_> = (2..42).map(|n| format!("127.0.0.{n}")).collect();
    let refusing: Vec<&str> = refusing.iter().map(String::as_str).collect();
    let server = server("127.0.0.1", &[&refusing[..], &["127.0.1.1"]].concat());
    let port = server.addr.port();
    // One that hangs keeps the pause between two attempts running.
    let _dead = Full::at(&at("127.0.1.1", port).to_string());
    let hosts = Hosts::new(&[&["127.0.1.1"], &refusing[..], &["127.0.0.1"]].concat());
    let start = Instant::now();
    assert_eq!(hosts.client(port).post_within(b"x", DEADLINE).unwrap().status, 200);
    // Forty pauses would be as long.
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let error = Hosts::new(&refusing).client(port).post(b"x").unwrap_err();
    assert_eq!(error.kind, Connect);
    let all = ["127.0.0.2", "refused", "(and 39 other addresses)"];
    assert!(all.iter().all(|part| error.message.contains(part)), "{}", error.message);
}

#[test]
fn the_address_that_answered_comes_first() {
    let second = server("127.0.0.3", &["127.0.0.2"]);
    let port = second.addr.port();
    let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
    let mut client = hosts.client(port);
    client.post(b"x").unwrap();
    let first = Server::on(TcpListener::bind(at("127.0.0.2", port)).unwrap(), answer);
    client.sink.close_idle();
    client.post(b"x").unwrap();
    assert_eq!((first.connections(), second.connections()), (0, 2));
}

#[test]
fn an_address_that_lets_us_in_and_is_silent_comes_last() {
    let second = server("127.0.0.3", &["127.0.0.2"]);
    let port = second.addr.port();
    let first = Server::on(TcpListener::bind(at("127.0.0.2", port)).unwrap(), |n, mut s| {
        // Healthy on its first connection, then silent.
        while read_request(&mut s).is_some() {
            if n == 1 {
                s.write_all(OK.as_bytes()).unwrap();
            }
        }
    });
    let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
    let mut client = hosts.client(port);
    client.post(b"x").unwrap();
    client.sink.close_idle();
    assert_eq!(client.post_within(b"x", Duration::from_millis(300)).unwrap_err().kind, Lost);
    for _ in 0..2 {
        assert_eq!(client.post(b"x").unwrap().status, 200);
        client.sink.close_idle();
    }
    assert_eq!((first.connections(), second.connections()), (2, 2));
}

#[test]
fn a_cut_ends_a_race() {
    let port = server("127.0.0.1", &["127.0.0.2", "127.0.0.3"]).addr.port();
    let _dead: Vec<_> =
        ["127.0.0.2", "127.0.0.3"].iter().map(|ip| Full::at(&at(ip, port).to_string())).collect();
    let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
    let mut client = hosts.client(port);
    let table = client.table.clone();
    let cutter = thread::spawn(move || {
        while table.noted() < 2 {
            thread::yield_now();
        }
        table.cut();
        Instant::now()
    });
    let error = client.post_within(b"x", DEADLINE).unwrap_err();
    assert!(cutter.join().unwrap().elapsed() < SOON);
    assert_eq!((error.kind, client.table.noted()), (Connect, 0));
    assert!(error.message.contains("cut short"), "{}", error.message);
}
