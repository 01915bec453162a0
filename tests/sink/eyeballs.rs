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

/// The pause before the next address is tried beside those that have not answered.
const STAGGER: Duration = Duration::from_millis(250);

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

/// Answers at this address, and swallows packets at the others, at the same port.
fn beside(good: &str, dead: &[&str]) -> (Server, Vec<Full>) {
    let dead: Vec<IpAddr> = dead.iter().map(|ip| ip.parse().unwrap()).collect();
    let (listener, full) = Full::beside(good.parse().unwrap(), &dead);
    (Server::on(listener, answer), full)
}

/// Answers at this address, and refuses at the others, at the same port.
fn beside_refusing(good: &str, others: &[&str]) -> (Server, Vec<Refusing>) {
    loop {
        let listener = TcpListener::bind(at(good, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let all: Option<Vec<_>> = others.iter().map(|ip| Refusing::try_at(at(ip, port))).collect();
        if let Some(all) = all {
            return (Server::on(listener, answer), all);
        }
    }
}

#[test]
fn a_family_that_swallows_packets_costs_little() {
    for (dead, good) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        let (server, _dead) = beside(good, &[dead]);
        let hosts = Hosts::new(&[dead, good]);
        let mut client = hosts.client(server.addr.port());
        let start = Instant::now();
        // Whoever tries one after the other has no reason to give the first one up.
        assert_eq!(client.post_within(b"x", HOUR).unwrap().status, 200);
        assert!(start.elapsed() < LONG, "{good} waited {:?} for {dead}", start.elapsed());
        assert_eq!(client.table.noted(), 1, "the attempt that lost is closed");
    }
}

#[test]
fn many_dead_addresses_are_tried_a_few_at_a_time() {
    let dead = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7"];
    let (server, _dead) = beside("127.0.0.8", &dead);
    let hosts = Hosts::new(&[&dead[..], &["127.0.0.8"]].concat());
    let start = Instant::now();
    // On a busy machine the sampler may have had no turn while there were several: then once more.
    let mut most = 0;
    while most < 2 {
        let mut client = hosts.client(server.addr.port());
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
            let answer = client.post_within(b"x", HOUR);
            over.store(true, Ordering::SeqCst);
            assert_eq!(answer.unwrap().status, 200);
            most = sampler.join().unwrap();
        });
        assert!(most <= 4, "{most} attempts at once");
        assert_eq!(client.table.noted(), 1);
        assert!(start.elapsed() < LONG, "never several at once, or after {:?}", start.elapsed());
    }
}

#[test]
fn all_dead_addresses_meet_the_deadline() {
    let dead: Vec<_> = (2..9).map(|n| format!("127.0.0.{n}")).collect();
    let dead: Vec<&str> = dead.iter().map(String::as_str).collect();
    let (server, _dead) = beside("127.0.0.1", &dead);
    let hosts = Hosts::new(&dead);
    let mut client = hosts.client(server.addr.port());
    let time = Duration::from_millis(400);
    let error = takes(time, || client.post_within(b"x", time)).unwrap_err();
    assert_eq!((error.kind, client.table.noted()), (Connect, 0));
    assert!(error.message.contains("timed out (and 6 other addresses)"), "{}", error.message);
}

#[test]
fn an_address_that_refuses_makes_room_at_once() {
    let refusing: Vec<_> = (2..242).map(|n| format!("127.0.0.{n}")).collect();
    let refusing: Vec<&str> = refusing.iter().map(String::as_str).collect();
    let (server, closed) = beside_refusing("127.0.0.1", &[&["127.0.1.1"], &refusing[..]].concat());
    let port = server.addr.port();
    // One that hangs keeps the pause between two attempts running.
    let mut closed = closed.into_iter();
    let _dead = closed.next().unwrap().fill();
    let _closed: Vec<_> = closed.collect();
    let hosts = Hosts::new(&[&["127.0.1.1"], &refusing[..], &["127.0.0.1"]].concat());
    let start = Instant::now();
    assert_eq!(hosts.client(port).post_within(b"x", HOUR).unwrap().status, 200);
    // All the pauses would be a minute, which none of these addresses costs.
    assert!(start.elapsed() < STAGGER * 200, "{:?}", start.elapsed());
    let error = Hosts::new(&refusing).client(port).post(b"x").unwrap_err();
    assert_eq!(error.kind, Connect);
    let all = ["127.0.0.2", "refused", "(and 239 other addresses)"];
    assert!(all.iter().all(|part| error.message.contains(part)), "{}", error.message);
}

#[test]
fn the_address_that_answered_comes_first() {
    undisturbed(|| {
        let (second, mut first) = beside_refusing("127.0.0.3", &["127.0.0.2"]);
        let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
        let mut client = hosts.client(second.addr.port());
        client.post(b"x").unwrap();
        let first = Server::on(first.remove(0).wake(), answer);
        client.sink.close_idle();
        client.post(b"x").unwrap();
        move || assert_eq!((first.connections(), second.connections()), (0, 2))
    });
}

/// Has it done, and judged, in less time than the next address is waited for: a machine that stands still for longer
/// has more addresses tried than there is need for, and it is done again.
fn undisturbed<T: FnOnce()>(act: impl Fn() -> T) {
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        let judge = act();
        if start.elapsed() < STAGGER {
            return judge();
        }
        assert!(begin.elapsed() < LONG, "each took longer than {STAGGER:?}");
    }
}

#[test]
fn an_address_that_lets_us_in_and_is_silent_comes_last() {
    let (second, mut first) = beside_refusing("127.0.0.3", &["127.0.0.2"]);
    let first = Server::on(first.remove(0).wake(), |n, mut s| {
        // Healthy on its first connection, then silent.
        while read_request(&mut s).is_some() {
            if n == 1 {
                s.write_all(OK.as_bytes()).unwrap();
            }
        }
    });
    let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
    let mut client = hosts.client(second.addr.port());
    client.post(b"x").unwrap();
    client.sink.close_idle();
    assert_eq!(client.post_within(b"x", Duration::from_secs(2)).unwrap_err().kind, Lost);
    assert!(first.connections() >= 2);
    for _ in 0..2 {
        // The other one would not answer.
        assert_eq!(client.post(b"x").unwrap().status, 200);
        client.sink.close_idle();
    }
    assert!(second.connections() >= 2);
}

#[test]
fn a_cut_ends_a_race() {
    let (server, _dead) = beside("127.0.0.1", &["127.0.0.2", "127.0.0.3"]);
    let hosts = Hosts::new(&["127.0.0.2", "127.0.0.3"]);
    let mut client = hosts.client(server.addr.port());
    let table = client.table.clone();
    let cutter = thread::spawn(move || {
        while table.noted() < 2 {
            thread::yield_now();
        }
        table.cut();
        Instant::now()
    });
    let error = client.post_within(b"x", HOUR).unwrap_err();
    assert!(cutter.join().unwrap().elapsed() < LONG);
    assert_eq!((error.kind, client.table.noted()), (Connect, 0));
    assert!(error.message.contains("cut short"), "{}", error.message);
}
