//! Deadlines and places, by a clock that the test moves.

use crate::alone::alone;
use crate::client::{arrived, connect, get, knocked, reply};
use crate::driver::{DEADLINE, Driver};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;
use telemetry::fleet::health::{Answer, Listener, Server};

const PLACES: usize = 16;

/// The end of a connection that was told nothing.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes.is_empty(),
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

/// So many connections, one after the other.
fn crowd(d: &Driver, n: usize, request: &str) -> Vec<TcpStream> {
    let connect_one = |i: usize| {
        let mut stream = connect(d.port);
        stream.write_all(request.as_bytes()).unwrap();
        d.until("the connection", |s| s.open == i + 1);
        stream
    };
    (0..n).map(connect_one).collect()
}

/// A server that the test turns itself, and how to ask it.
fn by_hand() -> (Server, impl Fn(&str) -> TcpStream) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let port = listener.port();
    let asking = move |request: &str| {
        let mut stream = connect(port);
        stream.write_all(request.as_bytes()).unwrap();
        arrived(&stream);
        stream
    };
    (Server::new(Some(listener)), asking)
}

/// More than the system takes at once.
const HUGE: usize = 16 << 20;

fn huge() -> Answer {
    Answer::new(200, "text/plain", vec![b'x'; HUGE])
}

#[test]
fn a_request_has_two_seconds_in_all() {
    let d = Driver::tcp();
    let mut slow = connect(d.port);
    d.until("the connection", |s| s.open == 1);
    for part in ["GET /li", "vez HTTP", "/1.1\r\nHo", "st: x\r\n"] {
        let turns = d.seen().turns;
        slow.write_all(part.as_bytes()).unwrap();
        d.until("the part", |s| s.turns > turns);
        d.pass(499);
    }
    d.pass(3);
    assert_eq!(d.seen().open, 1, "1999 ms");
    d.pass(1);
    assert_eq!(reply(&mut slow, false).status, 408);
    d.until("its end", |s| s.open == 0);
}

#[test]
fn who_asks_nothing_is_told_nothing() {
    let d = Driver::tcp();
    let mut silent = connect(d.port);
    d.until("the connection", |s| s.open == 1);
    d.pass(1999);
    assert_eq!(d.seen().open, 1);
    d.pass(1);
    assert!(is_closed(&mut silent));
    drop(connect(d.port));
    d.until("its end", |s| s.open == 0);
}

#[test]
fn a_supervisor_that_comes_late_answers_what_it_was_asked() {
    let mut server = Server::new(Some(Listener::bind("127.0.0.1:0").unwrap()));
    let mut page = |_, _| Answer::new(200, "text/plain", "late");
    let mut clients: Vec<_> = (0..3).map(|_| connect(server.listener().unwrap().port())).collect();
    let [begun, silent, whole] = &mut clients[..] else { unreachable!() };
    begun.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    arrived(begun);
    // Who says nothing may come a little later.
    let start = Instant::now();
    while server.connections() < 3 {
        assert!(start.elapsed() < DEADLINE, "{} connections", server.connections());
        server.turn(1000, &mut page);
    }
    // Their deadline is over when the supervisor looks at them again.
    whole.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    begun.write_all(b"Host: x\r\n").unwrap();
    arrived(whole);
    arrived(begun);
    server.turn(60_000, &mut page);
    assert_eq!(reply(whole, false).body, "late");
    assert_eq!(reply(begun, false).status, 408);
    assert!(is_closed(silent));
    assert_eq!(server.connections(), 0);
}

#[test]
fn an_answer_has_two_seconds_to_be_taken() {
    let d = Driver::tcp();
    d.always(huge());
    let mut deaf = connect(d.port);
    deaf.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    d.until("a full connection", |s| s.writing == 1);
    d.pass(1999);
    assert_eq!((d.seen().open, d.seen().writing), (1, 1));
    d.pass(1);
    assert_eq!(d.seen().open, 0);
    // The system does not go on sending either: what is left over is thrown away.
    let mut taken = Vec::new();
    assert_eq!(deaf.read_to_end(&mut taken).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(taken.len() < HUGE);
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let d = Driver::tcp();
    d.always(huge());
    let mut stream = connect(d.port);
    stream.write_all(b"GET /status HTTP/1.1\r\n\r\n").unwrap();
    d.until("a full connection", |s| s.writing == 1);
    d.pass(1500);
    assert_eq!(reply(&mut stream, false).body.len(), HUGE);
}

#[test]
fn who_sends_on_after_the_answer_is_heard_for_a_second() {
    let d = Driver::tcp();
    let mut stream = connect(d.port);
    stream.write_all(b"POST /livez HTTP/1.1\r\nContent-Length: 1000\r\n\r\n").unwrap();
    assert_eq!(reply(&mut stream, false).status, 405);
    stream.write_all(b"more").unwrap();
    d.pass(999);
    assert_eq!(d.seen().open, 1);
    d.pass(1);
    assert_eq!(d.seen().open, 0);
}

#[test]
fn who_sends_on_without_end_is_cut_off() {
    let d = Driver::tcp();
    let mut stream = connect(d.port);
    stream.write_all(b"POST /livez HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    // No time goes by: only the number of bytes can end this.
    let part = [b'x'; 64 << 10];
    let mut sent = 0u64;
    while stream.write_all(&part).is_ok() {
        sent += part.len() as u64;
        assert!(sent < 1 << 30, "nobody ends it");
    }
    d.until("its end", |s| s.open == 0);
}

#[test]
fn the_oldest_without_a_request_makes_room() {
    let d = Driver::tcp();
    let mut crowd = crowd(&d, PLACES, "GET /livez HTTP/1.1\r\n");
    assert!(!d.seen().listens, "they have just come");
    // It waits in the system's queue, for as long as the others may expect to be heard.
    let mut waiting = connect(d.port);
    waiting.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    d.pass(99);
    assert_eq!((d.seen().open, d.seen().pages), (PLACES, 0));
    d.pass(1);
    assert!(is_closed(&mut crowd[0]));
    d.until("the new one in its place", |s| s.open == PLACES);
    for stream in crowd[1..].iter_mut().chain([&mut waiting]) {
        stream.write_all(b"\r\n").unwrap();
        assert_eq!(reply(stream, false).status, 200);
    }
    d.until("all of them closed", |s| s.open == 0 && s.listens);
}

#[test]
fn a_probe_is_answered_while_all_places_are_taken_by_the_slow() {
    let d = Driver::tcp();
    let mut crowd = crowd(&d, PLACES, "GET /live");
    let mut probe = connect(d.port);
    probe.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    d.pass(100);
    assert_eq!(reply(&mut probe, false).status, 200);
    // It took nobody's place: it was served at once.
    assert_eq!(d.seen().open, PLACES);
    d.pass(1900);
    for stream in &mut crowd {
        assert_eq!(reply(stream, false).status, 408);
    }
}

#[test]
fn when_all_are_being_answered_the_next_one_is_told_so() {
    let d = Driver::tcp();
    d.always(huge());
    let _crowd = crowd(&d, PLACES, "GET /status HTTP/1.1\r\n\r\n");
    d.until("all of them full", |s| s.writing == PLACES);
    assert!(d.seen().listens);
    let mut next = connect(d.port);
    assert_eq!(reply(&mut next, false).status, 503);
    // One that has asked already is answered, if the answer can be taken at once.
    d.always(Answer::new(200, "text/plain", "short"));
    let mut statuses = (0..3).map(|_| ask_or_busy(d.port));
    assert!(statuses.all(|s| s == 200 || s == 503));
    assert_eq!(d.seen().open, PLACES);
    d.pass(2000);
    assert_eq!(d.seen().open, 0);
    assert_eq!(get(d.port, "/livez").body, "short");
}

#[test]
fn who_is_turned_away_in_the_middle_of_a_request_can_read_why() {
    let (mut server, asking) = by_hand();
    let _crowd: Vec<_> = (0..PLACES).map(|_| asking("GET /status HTTP/1.1\r\n\r\n")).collect();
    server.turn(1000, &mut |_, _| huge());
    assert_eq!(server.connections(), PLACES);
    let mut next = asking("GET /livez HTTP/1.1\r\nHost: x");
    server.turn(1001, &mut |_, _| huge());
    assert_eq!(reply(&mut next, false).status, 503);
    assert_eq!(server.connections(), PLACES);
}

fn ask_or_busy(port: u16) -> u16 {
    let mut stream = connect(port);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may be turned away before it asks.
    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n");
    reply(&mut stream, false).status
}

#[test]
fn one_that_has_had_its_answer_goes_first() {
    let (mut server, asking) = by_hand();
    let mut page = |_, _| Answer::new(200, "text/plain", "well");
    let mut crowd: Vec<_> = (1..PLACES).map(|_| asking("GET /live")).collect();
    let mut done = asking("POST /livez HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
    server.turn(1000, &mut page);
    assert_eq!(reply(&mut done, false).status, 405);
    assert_eq!(server.connections(), PLACES);
    // No time has to go by, and nobody else is disturbed.
    let mut next = asking("GET /live");
    server.turn(1000, &mut page);
    assert_eq!(server.connections(), PLACES);
    for stream in [&mut next].into_iter().chain(&mut crowd) {
        stream.write_all(b"z HTTP/1.1\r\n\r\n").unwrap();
        arrived(stream);
        server.turn(1000, &mut page);
        assert_eq!(reply(stream, false).status, 200);
    }
}

#[test]
fn a_page_is_made_once_for_all_who_ask_in_one_turn() {
    let d = Driver::tcp();
    let mut all = crowd(&d, PLACES - 1, "GET /status HTTP/1.1\r\n");
    d.until("all of them", |s| s.open == PLACES - 1);
    // While the loop cannot go on, all of them end their requests.
    d.set(|_| {
        all.iter_mut().for_each(|stream| stream.write_all(b"\r\n").unwrap());
    });
    let bodies: Vec<_> = all.iter_mut().map(|stream| reply(stream, false).body).collect();
    assert!(bodies.windows(2).all(|two| two[0] == two[1]));
    // The first one may have been alone in its turn.
    let seen = d.until("all of them closed", |s| s.open == 0);
    assert!((1..=2).contains(&seen.pages), "{seen:?}");
}

#[test]
fn a_descriptors_number_is_not_given_on_within_a_turn() {
    // Alone: elsewhere the number might be taken by another test.
    alone("limits::a_descriptors_number_is_not_given_on_within_a_turn", || {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let port = listener.port();
        let mut server = Server::new(Some(listener));
        let mut page = |_, _| Answer::new(200, "text/plain", "well");
        let mut turn = |server: &mut Server| {
            server.turn(1000, &mut page);
            let mut named = Vec::new();
            server.fds(&mut |fd, _| named.push(fd.as_raw_fd()));
            named
        };
        // One connection ends, by an answer or by going away, in the turn in which the next one is accepted. The clients
        // stay, so that the number of the one that ends is the lowest that could be given.
        let mut clients = vec![connect(port)];
        knocked(&server);
        let mut before = turn(&mut server);
        for i in 0..20 {
            assert_eq!(before.len(), 2, "the listener and a connection");
            clients.push(connect(port));
            match i % 2 {
                0 => clients[i].write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap(),
                _ => clients[i].shutdown(Shutdown::Both).unwrap(),
            }
            arrived(&clients[i]);
            knocked(&server);
            let after = turn(&mut server);
            assert_ne!(
                before[1], after[1],
                "a loop that compares numbers would take the new one for the old one"
            );
            before = after;
        }
    });
}
