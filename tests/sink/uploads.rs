//! Requests that go elsewhere than to the sink's own URL.
use crate::certs;
use crate::server::*;
use crate::tls;
use rustls::{ServerConnection, StreamOwned};
use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use telemetry::sink::Method::{Patch, Post, Put};
use telemetry::sink::TransportErrorKind::Tls;

/// Tells of each request, with the number of its connection.
fn listening(answer: String) -> (Server, Receiver<(usize, Received)>) {
    let (tell, hear) = channel();
    let server = Server::start(move |n, mut s| {
        while let Some(r) = read_request(&mut s) {
            tell.send((n, r)).unwrap();
            if s.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, hear)
}

#[test]
fn each_origin_keeps_its_connection_and_ours_its_credentials() {
    let (own, at_home) = listening(OK.into());
    let (store, at_store) = listening(OK.into());
    let mut client = Client::new(format!("http://us:pw@{}/in", own.addr));
    for _ in 0..3 {
        let media = format!("http://us:pw@{}/media", own.addr);
        client.request(Post, Some(&media), b"{}", LONG, &[]).unwrap();
        let bucket = format!("http://their:own@{}/bucket?sig=1", store.addr);
        client.request(Put, Some(&bucket), b"png", LONG, &[("x-sum", "1")]).unwrap();
        client.request(Patch, Some(&media), b"", LONG, &[("Authorization", "Bearer t")]).unwrap();
        client.post(b"event").unwrap();
        let (_, first) = at_home.recv_timeout(LONG).unwrap();
        assert!(first.head.starts_with("POST /media HTTP/1.1\r\n"), "{}", first.head);
        assert_eq!(first.header("authorization"), Some("Basic dXM6cHc="));
        let (_, put) = at_store.recv_timeout(LONG).unwrap();
        assert!(put.head.starts_with("PUT /bucket?sig=1 HTTP/1.1\r\n"), "{}", put.head);
        assert_eq!((&put.body[..], put.header("x-sum")), (&b"png"[..], Some("1")));
        assert_eq!(put.header("host"), Some(store.addr.to_string().as_str()));
        assert!(!put.head.to_ascii_lowercase().contains("authorization"), "{}", put.head);
        let (_, last) = at_home.recv_timeout(LONG).unwrap();
        assert!(last.head.starts_with("PATCH /media HTTP/1.1\r\n"), "{}", last.head);
        assert_eq!(last.header("authorization"), Some("Bearer t"));
        assert!(at_home.recv_timeout(LONG).unwrap().1.head.starts_with("POST /in "));
    }
    assert_eq!((own.connections(), store.connections(), client.table.noted()), (1, 1, 2));
    client.sink.close_idle();
    assert_eq!(client.table.noted(), 0);
}

#[test]
fn a_place_on_our_own_origin_sees_no_credentials() {
    let (own, at_home) = listening(OK.into());
    let mut client = Client::new(format!("http://us:pw@{}/in", own.addr));
    for (to, expected) in
        [(own.url("/bucket"), None), (format!("http://a:b@{}/", own.addr), Some("Basic YTpi"))]
    {
        client.request(Put, Some(&to), b"png", LONG, &[]).unwrap();
        assert_eq!(at_home.recv_timeout(LONG).unwrap().1.header("authorization"), expected);
    }
    assert_eq!(own.connections(), 1);
}

#[test]
fn connections_to_many_origins_are_not_kept() {
    let (own, _at_home) = listening(OK.into());
    let stores: Vec<_> = (0..10).map(|_| listening(OK.into())).collect();
    let mut client = Client::new(own.url("/in"));
    for (store, _) in &stores {
        client.post(b"x").unwrap();
        client.request(Put, Some(&store.url("/")), b"x", LONG, &[]).unwrap();
        assert!(client.table.noted() <= 2);
    }
    assert_eq!(own.connections(), 1);
}

#[test]
fn nothing_leads_from_elsewhere_to_us() {
    let (own, at_home) = listening(OK.into());
    let to = format!("HTTP/1.1 307 M\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", own.url("/in"));
    let (store, _at_store) = listening(to);
    let mut client = Client::new(format!("http://us:pw@{}/in", own.addr));
    assert_eq!(client.request(Put, Some(&store.url("/")), b"x", LONG, &[]).unwrap().status, 307);
    assert!(at_home.try_recv().is_err());
}

#[test]
fn another_origin_does_not_see_our_certificate() {
    // Both want to know who we are; the one that is not ours is not told, whichever comes first.
    let server = || tls::tls_server(certs::server_config(&certs::good_leaf(), true));
    for foreign_first in [false, true] {
        let (own, store) = (server(), server());
        let mut config = tls::config(format!("https://127.0.0.1:{}/", own.addr.port()));
        let me = certs::leaf(&["client.test"], None);
        config.tls.client_pem = Some((me.pem.into_bytes(), me.key.serialize_pem().into_bytes()));
        let mut client = Client::from(&config);
        for foreign in [foreign_first, !foreign_first] {
            let to = format!("https://127.0.0.1:{}/", store.addr.port());
            let answer =
                client.request(Put, Some(&to).filter(|_| foreign).map(|s| s.as_str()), b"x", LONG, &[]);
            match answer {
                Ok(answer) => assert_eq!((answer.status, foreign), (200, false)),
                Err(error) => assert_eq!((error.kind, foreign), (Tls, true), "{}", error.message),
            }
        }
    }
}

#[test]
fn an_http_sink_uploads_over_tls() {
    let (own, _at_home) = listening(OK.into());
    let leaf = certs::server_config(&certs::good_leaf(), false);
    let (tell, hear) = channel();
    let store = Server::start(move |_, s| {
        let mut s = StreamOwned::new(ServerConnection::new(leaf.clone()).unwrap(), s);
        while let Some(r) = read_request(&mut s) {
            tell.send(r.body.len()).unwrap();
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut config = sink_config(own.url("/"));
    config.tls.ca_pem = Some(certs::ca().pem().into_bytes());
    let mut client = Client::from(&config);
    let to = format!("https://localhost:{}/b", store.addr.port());
    for size in [3 << 20, 1] {
        assert_eq!(client.request(Put, Some(&to), &vec![b'x'; size], LONG, &[]).unwrap().status, 200);
        assert_eq!(hear.recv_timeout(LONG).unwrap(), size);
    }
    assert_eq!(store.connections(), 1);
}

#[test]
fn a_sink_on_a_unix_socket_uploads_by_name() {
    // Nobody listens there: what succeeds went elsewhere.
    let mut client = Client::new("http+unix:///nonexistent/socket:/in");
    let (store, _at_store) = listening(OK.into());
    assert_eq!(client.request(Put, Some(&store.url("/b")), b"x", LONG, &[]).unwrap().status, 200);
    let own = client.request(Put, Some("http://localhost/b"), b"x", LONG, &[]).unwrap_err();
    assert!(own.message.contains("/nonexistent/socket"), "{}", own.message);
}
