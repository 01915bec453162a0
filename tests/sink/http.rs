//! Requests and answers as they should be, and connections that are kept.
use crate::server::*;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use telemetry::sink::TransportErrorKind::*;

#[test]
fn one_connection_for_many_requests() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        while let Some(r) = read_request(&mut s) {
            tell.send(r).unwrap();
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut client = Client::new(server.url("/in?k=v"));
    for i in 0..20 {
        let size = [0, 1, 100_000][i % 3];
        let answer = client.post_with(&vec![b'x'; size], LONG, &[("X-Key", "k")]).unwrap();
        assert_eq!((answer.status, &answer.body[..], answer.truncated), (200, &b"ok"[..], false));
        let got = hear.recv_timeout(LONG).unwrap();
        assert_eq!(got.body.len(), size);
        assert!(got.head.starts_with("POST /in?k=v HTTP/1.1\r\n"), "{}", got.head);
        assert_eq!(got.header("host"), Some(server.addr.to_string().as_str()));
        assert_eq!(got.header("x-key"), Some("k"));
        assert_eq!(got.header("accept-encoding"), Some("identity"));
        assert_eq!(got.header("content-type"), Some("application/x-ndjson"));
        assert!(got.header("user-agent").unwrap().starts_with("libtelemetry/"));
    }
    assert_eq!(server.connections(), 1);
    client.sink.close_idle();
    client.post(b"x").unwrap();
    assert_eq!(server.connections(), 2);
}

#[test]
fn all_the_ways_to_frame_an_answer() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: r\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            true,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloJUNK", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
    ];
    for (answer, kept) in cases {
        let server = Server::answering(answer);
        let mut client = Client::new(server.url("/"));
        for _ in 0..2 {
            let got = client.post(b"x").unwrap();
            assert_eq!((got.status, &got.body[..], got.truncated), (200, &b"hello"[..], false), "{answer}");
        }
        assert_eq!(server.connections(), if kept { 1 } else { 2 }, "{answer}");
    }
    let server = Server::start(|_, mut s| {
        read_request(&mut s).unwrap();
        s.write_all(b"HTTP/1.1 200 OK\r\n\r\nto the end").unwrap();
    });
    let got = Client::new(server.url("/")).post(b"x").unwrap();
    assert_eq!((&got.body[..], got.truncated), (&b"to the end"[..], false));
}

#[test]
fn a_connection_closed_while_idle_is_replaced() {
    let server = Server::start(|_, mut s| {
        read_request(&mut s).unwrap();
        s.write_all(OK.as_bytes()).unwrap();
    });
    let mut client = Client::new(server.url("/"));
    for _ in 0..5 {
        assert_eq!(client.post(b"x").unwrap().status, 200);
    }
    assert_eq!(server.connections(), 5);
}

#[test]
fn a_stale_connection_is_retried_once_on_a_fresh_one() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |n, mut s| {
        read_request(&mut s).unwrap();
        s.write_all(OK.as_bytes()).unwrap();
        // The first connection takes the next request and goes away without a word.
        if n == 1 {
            tell.send(read_request(&mut s).unwrap().body).unwrap();
        }
    });
    let mut client = Client::new(server.url("/"));
    client.post(b"one").unwrap();
    assert_eq!(client.post(b"two").unwrap().status, 200);
    assert_eq!(hear.recv_timeout(LONG).unwrap(), b"two");
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_fresh_connection_is_not_retried_nor_is_a_begun_answer() {
    let server = Server::start(|_, mut s| {
        read_request(&mut s);
    });
    let error = Client::new(server.url("/")).post(b"x").unwrap_err();
    assert_eq!((error.kind, server.connections()), (Lost, 1), "{}", error.message);

    let server = Server::start(|_, mut s| {
        read_request(&mut s).unwrap();
        s.write_all(OK.as_bytes()).unwrap();
        read_request(&mut s).unwrap();
        s.write_all(b"HTTP/1.1 2").unwrap();
    });
    let mut client = Client::new(server.url("/"));
    client.post(b"x").unwrap();
    let error = client.post(b"x").unwrap_err();
    assert_eq!((error.kind, server.connections()), (Lost, 1), "{}", error.message);
}

#[test]
fn a_408_on_a_kept_connection_is_about_its_idleness() {
    const LATE: &str = "HTTP/1.1 408 Late\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // It crosses the request: read, but not heard.
    let server = Server::start(|n, mut s| {
        read_request(&mut s).unwrap();
        s.write_all(if n < 3 { OK } else { LATE }.as_bytes()).unwrap();
        if read_request(&mut s).is_some() {
            s.write_all(LATE.as_bytes()).unwrap();
        }
    });
    let mut client = Client::new(server.url("/"));
    for n in [1, 2] {
        assert_eq!((client.post(b"x").unwrap().status, server.connections()), (200, n));
    }
    // On a fresh connection it is an answer.
    assert_eq!((client.post(b"x").unwrap().status, server.connections()), (408, 3));
    // And so it is where the connection goes on.
    let server = Server::start(|_, mut s| {
        while let Some(r) = read_request(&mut s) {
            let late = "HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n";
            s.write_all(if r.body == b"slow" { late } else { OK }.as_bytes()).unwrap();
        }
    });
    let mut client = Client::new(server.url("/"));
    for (body, status) in [(&b"x"[..], 200), (b"slow", 408), (b"x", 200)] {
        assert_eq!((client.post(body).unwrap().status, server.connections()), (status, 1));
    }
}

#[test]
fn a_success_that_breaks_off_our_sending_is_not_whole() {
    for (status, truncated) in [(200, true), (413, false)] {
        let server = Server::start(move |_, mut s| {
            read_head(&mut s).unwrap();
            s.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok").as_bytes()).unwrap();
            s.shutdown(std::net::Shutdown::Write).unwrap();
            thread::park_timeout(LONG);
        });
        let got = Client::new(server.url("/")).post(&vec![b'x'; 32 << 20]).unwrap();
        assert_eq!((got.status, &got.body[..], got.truncated), (status, &b"ok"[..], truncated));
    }
}

#[test]
fn a_refused_connection_says_so() {
    let refusing = Refusing::at("127.0.0.1:0");
    let addr = refusing.addr;
    let error = Client::new(format!("http://user:secret@{addr}/p?key=secret")).post(b"x").unwrap_err();
    assert_eq!(error.kind, Connect);
    assert!(
        error.message.contains(&addr.to_string()) && error.message.contains("refused"),
        "{}",
        error.message
    );
    assert!(!error.message.contains("secret"), "{}", error.message);
}

#[test]
fn user_information_becomes_basic_authorization_unless_given() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        while let Some(r) = read_request(&mut s) {
            tell.send(r.header("authorization").map(str::to_string)).unwrap();
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut client = Client::new(format!("http://us:pw@{}/", server.addr));
    client.post(b"x").unwrap();
    assert_eq!(hear.recv_timeout(LONG).unwrap().as_deref(), Some("Basic dXM6cHc="));
    client.post_with(b"x", LONG, &[("authorization", "Bearer t")]).unwrap();
    assert_eq!(hear.recv_timeout(LONG).unwrap().as_deref(), Some("Bearer t"));
}

#[test]
fn a_header_cannot_break_the_request() {
    let server = Server::answering(OK);
    let mut client = Client::new(server.url("/"));
    for header in [("X", "a\r\nY: secret"), ("X Y", "a"), ("Content-Length", "0")] {
        let error = client.post_with(b"x", LONG, &[header]).unwrap_err();
        assert_eq!(error.kind, Local);
        assert!(!error.message.contains("secret"));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn redirects_within_the_origin_keep_method_and_body() {
    for status in [301, 302, 303, 307, 308] {
        let (tell, hear) = mpsc::channel();
        let server = Server::start(move |_, mut s| {
            while let Some(r) = read_request(&mut s) {
                let first = r.head.starts_with("POST /old ");
                tell.send(r).unwrap();
                let answer = match first {
                    true => format!("HTTP/1.1 {status} M\r\nLocation: /new?x\r\nContent-Length: 0\r\n\r\n"),
                    false => OK.to_string(),
                };
                s.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut client = Client::new(server.url("/old"));
        assert_eq!(client.post_with(b"body", LONG, &[("X-Key", "k")]).unwrap().status, 200);
        assert!(hear.recv_timeout(LONG).unwrap().head.starts_with("POST /old "));
        let second = hear.recv_timeout(LONG).unwrap();
        assert!(second.head.starts_with("POST /new?x "), "{}", second.head);
        assert_eq!((&second.body[..], second.header("x-key")), (&b"body"[..], Some("k")));
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn redirects_elsewhere_are_the_answer() {
    let other = Server::answering(OK);
    for location in [other.url("/x"), format!("//{}/x", other.addr), "http://".into(), "ftp://h/".into()] {
        let server =
            Server::answering(format!("HTTP/1.1 307 M\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
        let answer = Client::new(server.url("/")).post(b"x").unwrap();
        assert_eq!((answer.status, answer.header("location")), (307, Some(location.as_str())));
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn redirects_in_a_circle_end() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        while read_request(&mut s).is_some() {
            tell.send(()).unwrap();
            s.write_all(b"HTTP/1.1 308 M\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    assert_eq!(Client::new(server.url("/")).post(b"x").unwrap().status, 308);
    assert_eq!(hear.try_iter().count(), 4);
}

#[test]
fn a_long_answer_is_cut_off() {
    for chunked in [false, true] {
        let server = Server::start(move |_, mut s| {
            read_request(&mut s).unwrap();
            let size = 5 << 20;
            let head = match chunked {
                true => format!("Transfer-Encoding: chunked\r\n\r\n{size:x}"),
                false => format!("Content-Length: {size}\r\n"),
            };
            s.write_all(format!("HTTP/1.1 400 B\r\n{head}\r\n").as_bytes()).unwrap();
            let _ = s.write_all(&vec![b'x'; size]);
        });
        let mut client = Client::new(server.url("/"));
        for n in 1..=2 {
            let answer = client.post(b"x").unwrap();
            assert_eq!((answer.status, answer.truncated, answer.body.len()), (400, true, 4 << 20));
            assert_eq!(server.connections(), n);
        }
    }
}

#[test]
fn an_answer_that_breaks_off_still_has_its_status() {
    for answer in [
        "HTTP/1.1 429 S\r\nRetry-After: 7\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 429 S\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 429 S\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let server = Server::start(move |_, mut s| {
            read_request(&mut s).unwrap();
            s.write_all(answer.as_bytes()).unwrap();
        });
        let got = Client::new(server.url("/")).post(b"x").unwrap();
        assert_eq!((got.status, got.header("retry-after"), got.truncated), (429, Some("7"), true));
        assert_eq!(got.body, b"half");
    }
}

#[test]
fn an_early_refusal_of_a_large_batch_is_heard() {
    let server = Server::start(|_, mut s| {
        read_head(&mut s).unwrap();
        s.write_all(b"HTTP/1.1 413 T\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").unwrap();
        // Does not read the body, and does not close before the client does.
        thread::park();
    });
    let got = Client::new(server.url("/")).post(&vec![b'x'; 32 << 20]).unwrap();
    assert_eq!((got.status, &got.body[..]), (413, &b"big"[..]));
}

#[test]
fn an_early_success_does_not_stop_the_sending() {
    let (tell, hear) = mpsc::channel();
    let server = Server::start(move |_, mut s| {
        let head = read_head(&mut s).unwrap();
        s.write_all(OK.as_bytes()).unwrap();
        let mut request = Received { head, body: vec![0; 8 << 20] };
        std::io::Read::read_exact(&mut s, &mut request.body).unwrap();
        tell.send(request.body.len()).unwrap();
    });
    assert_eq!(Client::new(server.url("/")).post(&vec![b'x'; 8 << 20]).unwrap().status, 200);
    assert_eq!(hear.recv_timeout(LONG).unwrap(), 8 << 20);
}

#[test]
fn not_http_is_lost() {
    for garbage in ["SSH-2.0-x\r\n", "HTTP/1.1 101 S\r\n\r\n", "\0\0\0\0\0\0"] {
        let server = Server::answering(garbage);
        assert_eq!(Client::new(server.url("/")).post(b"x").unwrap_err().kind, Lost, "{garbage:?}");
    }
}
