//! Deadlines and cuts.
use crate::server::*;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use telemetry::sink::TransportErrorKind::*;

/// Long enough for a request to be sent, on a busy machine too.
const SHORT: Duration = Duration::from_millis(1500);

#[test]
fn a_server_that_never_answers() {
    let server = Server::start(|_, mut s| {
        read_request(&mut s);
        read_request(&mut s);
    });
    let mut client = Client::new(server.url("/"));
    let error = takes(SHORT, || client.post_within(b"x", SHORT)).unwrap_err();
    assert_eq!(error.kind, Lost);
    assert!(error.message.contains("timed out"), "{}", error.message);
    // A time-out on a kept connection is not retried on a fresh one.
    let server = Server::start(|_, mut s| {
        read_request(&mut s);
        s.write_all(OK.as_bytes()).unwrap();
        read_request(&mut s);
        read_request(&mut s);
    });
    let mut client = Client::new(server.url("/"));
    client.post(b"x").unwrap();
    assert_eq!(takes(SHORT, || client.post_within(b"x", SHORT)).unwrap_err().kind, Lost);
    assert_eq!(server.connections(), 1);
}

fn drip(answer: &'static str) -> Server {
    Server::start(move |_, mut s| {
        read_request(&mut s);
        for byte in answer.as_bytes() {
            if s.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    })
}

#[test]
fn a_server_that_sends_a_byte_now_and_then() {
    let server = drip("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let error = takes(SHORT, || Client::new(server.url("/")).post_within(b"x", SHORT)).unwrap_err();
    assert_eq!(error.kind, Lost);
    // Once the head is there the status counts, however slowly the body comes.
    let server = Server::start(|_, mut s| {
        read_request(&mut s);
        s.write_all(b"HTTP/1.1 503 B\r\nContent-Length: 5000\r\n\r\n").unwrap();
        while s.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    // The head has to be there in time.
    let time = Duration::from_secs(5);
    let answer = takes(time, || Client::new(server.url("/")).post_within(b"x", time)).unwrap();
    assert_eq!((answer.status, answer.truncated), (503, true));
}

#[test]
fn a_server_that_never_accepts() {
    let full = Full::at("127.0.0.1:0");
    let mut client = Client::new(format!("http://{}/", full.addr));
    let error = takes(SHORT, || client.post_within(b"x", SHORT)).unwrap_err();
    assert_eq!(error.kind, Connect, "{}", error.message);
}

#[test]
fn a_server_that_reads_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::new(format!("http://{}/", listener.local_addr().unwrap()));
    let body = vec![b'x'; 64 << 20];
    assert_eq!(takes(SHORT, || client.post_within(&body, SHORT)).unwrap_err().kind, Lost);
}

#[test]
fn a_deadline_in_the_past_sends_nothing() {
    let server = Server::answering(OK);
    let error = Client::new(server.url("/")).post_within(b"x", Duration::ZERO).unwrap_err();
    assert_eq!((error.kind, server.connections()), (Local, 0));
}

/// Calls `cut` once `when` is heard, while `url` is being sent to.
fn cut_during(url: String, when: mpsc::Receiver<()>, body: &[u8]) -> telemetry::sink::TransportError {
    let mut client = Client::new(url);
    let table = Arc::clone(&client.table);
    let cutter = thread::spawn(move || {
        when.recv_timeout(LONG).unwrap();
        table.cut();
        Instant::now()
    });
    let error = client.post_within(body, HOUR).unwrap_err();
    let late = cutter.join().unwrap().elapsed();
    assert!(late < LONG, "returned {late:?} after the cut");
    assert!(error.message.contains("cut"), "{}", error.message);
    // It stays cut until somebody takes that back.
    assert_eq!(client.post(b"x").unwrap_err().kind, Local);
    error
}

#[test]
fn a_cut_ends_the_wait_for_an_answer() {
    let (tell, when) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        read_request(&mut s);
        tell.send(()).unwrap();
        read_request(&mut s);
    });
    assert_eq!(cut_during(server.url("/"), when, b"x").kind, Lost);
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_cut_ends_the_reading_of_a_body() {
    let (tell, when) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        read_request(&mut s);
        s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx").unwrap();
        tell.send(()).unwrap();
        read_request(&mut s);
    });
    assert_eq!(cut_during(server.url("/"), when, b"x").kind, Lost);
}

#[test]
fn a_cut_ends_the_sending() {
    let (tell, when) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        read_head(&mut s);
        tell.send(()).unwrap();
        thread::park();
    });
    assert_eq!(cut_during(server.url("/"), when, &vec![b'x'; 64 << 20]).kind, Lost);
}

#[test]
fn a_cut_ends_the_connecting() {
    let full = Full::at("127.0.0.1:0");
    let (tell, when) = mpsc::channel();
    tell.send(()).unwrap();
    let mut client = Client::new(format!("http://{}/", full.addr));
    let table = Arc::clone(&client.table);
    // Cut as soon as the socket is connecting: it is in the table then.
    let cutter = thread::spawn(move || {
        when.recv_timeout(LONG).unwrap();
        while table.noted() == 0 {
            thread::yield_now();
        }
        table.cut();
        Instant::now()
    });
    let error = client.post_within(b"x", HOUR).unwrap_err();
    assert!(cutter.join().unwrap().elapsed() < LONG);
    assert_eq!(error.kind, Connect);
    assert_eq!(client.table.noted(), 0);
}

#[test]
fn descriptors_are_noted_while_they_live() {
    let server = Server::answering(OK);
    let mut client = Client::new(server.url("/"));
    assert_eq!(client.table.noted(), 0);
    for _ in 0..30 {
        client.post(b"x").unwrap();
        assert_eq!(client.table.noted(), 1);
        client.sink.close_idle();
        assert_eq!(client.table.noted(), 0);
    }
    client.post(b"x").unwrap();
    drop(client.sink);
    assert_eq!(client.table.noted(), 0);
}
