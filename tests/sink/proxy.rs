//! Forward proxies.
use crate::certs;
use crate::server::*;

use rustls::{ServerConnection, StreamOwned};
use std::io::Write;
use std::sync::mpsc;
use telemetry::sink::TransportErrorKind::*;
use telemetry::sink::{Proxy, SinkConfig};

fn config(url: &str, proxy: &Server) -> SinkConfig {
    let mut config = sink_config(url);
    config.proxy = Some(Proxy::parse(&format!("http://us:pw@{}", proxy.addr)).unwrap());
    config.tls.ca_pem = Some(certs::ca().pem().into_bytes());
    config
}

#[test]
fn https_goes_through_a_tunnel() {
    let (tell, hear) = mpsc::channel();
    let server = certs::server_config(&certs::good_leaf(), false);
    let proxy = Server::start(move |_, mut s| {
        tell.send(read_head(&mut s).unwrap()).unwrap();
        s.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        let mut s = StreamOwned::new(ServerConnection::new(server.clone()).unwrap(), s);
        while let Some(r) = read_request(&mut s) {
            tell.send(r.head).unwrap();
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    // The name is never looked up here: that is the proxy's part.
    let mut client = Client::from(&config("https://collector.test/in", &proxy));
    for _ in 0..2 {
        assert_eq!(client.post(b"x").unwrap().status, 200);
    }
    let tunnel = hear.recv_timeout(LONG).unwrap();
    assert!(tunnel.starts_with("CONNECT collector.test:443 HTTP/1.1\r\n"), "{tunnel}");
    assert!(tunnel.contains("\r\nProxy-Authorization: Basic dXM6cHc=\r\n"), "{tunnel}");
    let request = hear.recv_timeout(LONG).unwrap();
    assert!(request.starts_with("POST /in HTTP/1.1\r\nHost: collector.test\r\n"), "{request}");
    assert!(!request.contains("Proxy-"), "{request}");
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_proxy_that_refuses() {
    for answer in
        ["HTTP/1.1 407 P\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nsurprise", "junk\r\n\r\n", ""]
    {
        let proxy = Server::start(move |_, mut s| {
            read_head(&mut s);
            s.write_all(answer.as_bytes()).unwrap();
        });
        let error = Client::from(&config("https://collector.test/", &proxy)).post(b"x").unwrap_err();
        // "surprise" may arrive behind the head: then it is the handshake that cannot read it.
        assert!(matches!(error.kind, Connect | Tls), "{}", error.message);
        assert!(!error.message.contains("pw"), "{}", error.message);
        if answer.contains("407") {
            assert_eq!(error.kind, Connect);
            assert!(error.message.contains("407"), "{}", error.message);
        }
    }
}

#[test]
fn http_is_asked_for_in_absolute_form() {
    let (tell, hear) = mpsc::channel();
    let proxy = Server::start(move |_, mut s| {
        while let Some(r) = read_request(&mut s) {
            tell.send(r).unwrap();
            s.write_all(OK.as_bytes()).unwrap();
        }
    });
    let mut client = Client::from(&config("http://collector.test:8080/in?a", &proxy));
    client.post(b"x").unwrap();
    let got = hear.recv_timeout(LONG).unwrap();
    assert!(got.head.starts_with("POST http://collector.test:8080/in?a HTTP/1.1\r\n"), "{}", got.head);
    assert_eq!(got.header("host"), Some("collector.test:8080"));
    assert_eq!(got.header("proxy-authorization"), Some("Basic dXM6cHc="));
}

/// As with a tunnel: it is not the collector that refuses.
#[test]
fn a_proxy_that_does_not_know_us_is_not_the_collector() {
    let proxy = Server::start(move |_, mut s| {
        while read_request(&mut s).is_some() {
            s.write_all(b"HTTP/1.1 407 P\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let mut client = Client::from(&config("http://collector.test/", &proxy));
    for _ in 0..2 {
        let error = client.post(b"x").unwrap_err();
        assert_eq!(error.kind, Connect, "{}", error.message);
        assert!(
            error.message.contains("it answered 407") && !error.message.contains("pw"),
            "{}",
            error.message
        );
    }
}
