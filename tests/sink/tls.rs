//! https against a real TLS server.
use crate::certs::*;
use crate::server::*;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use telemetry::sink::TransportErrorKind::*;
use telemetry::sink::{SinkConfig, TlsFiles, validate};

pub fn tls_server(config: Arc<ServerConfig>) -> Server {
    Server::start(move |_, s| {
        let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut s = StreamOwned::new(tls, s);
        while read_request(&mut s).is_some() {
            if s.write_all(OK.as_bytes()).is_err() {
                return;
            }
        }
    })
}

pub fn config(url: String) -> SinkConfig {
    let mut config = sink_config(url);
    config.tls.ca_pem = Some(ca().pem().into_bytes());
    config
}

#[test]
fn keep_alive_over_tls() {
    let server = tls_server(server_config(&good_leaf(), false));
    let mut client = Client::from(&config(format!("https://localhost:{}/", server.addr.port())));
    for size in [1, 100_000, 3 << 20, 0, 5] {
        assert_eq!(client.post(&vec![b'x'; size]).unwrap().body, b"ok");
    }
    assert_eq!(server.connections(), 1);
    client.sink.close_idle();
    client.post(b"x").unwrap();
    assert_eq!((server.connections(), client.table.noted()), (2, 1));
}

#[test]
fn certificates_that_must_not_pass() {
    let good = tls_server(server_config(&good_leaf(), false));
    let old = tls_server(server_config(&leaf(&["127.0.0.1"], Some(2020)), false));
    let stranger = new_ca("theirs").pem();
    let cases = [
        (&good, "127.0.0.1", None, "UnknownIssuer"),
        (&good, "127.0.0.1", Some(stranger), "UnknownIssuer"),
        (&good, "a.localhost", Some(ca().pem()), "not valid for name"),
        (&old, "127.0.0.1", Some(ca().pem()), "expired"),
    ];
    for (server, host, ca_pem, text) in cases {
        let mut config = config(format!("https://u:secret@{host}:{}/", server.addr.port()));
        config.tls.ca_pem = ca_pem.map(String::into_bytes);
        let error = Client::from(&config).post(b"x").unwrap_err();
        assert_eq!(error.kind, Tls, "{}", error.message);
        assert!(error.message.contains(text), "{text}: {}", error.message);
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
}

#[test]
fn a_server_that_wants_to_know_who_we_are() {
    let server = tls_server(server_config(&good_leaf(), true));
    let mut config = config(format!("https://127.0.0.1:{}/", server.addr.port()));
    let error = Client::from(&config).post(b"x").unwrap_err();
    assert_eq!(error.kind, Tls, "{}", error.message);
    let me = leaf(&["client.test"], None);
    config.tls.client_pem = Some((me.pem.into_bytes(), me.key.serialize_pem().into_bytes()));
    assert_eq!(Client::from(&config).post(b"x").unwrap().status, 200);
}

#[test]
fn no_tls_on_the_other_side() {
    let server = Server::answering(OK);
    let mut client = Client::from(&config(format!("https://{}/", server.addr)));
    // It waits for the end of a request head, or finds that the ClientHello is none: either way TLS failed.
    let error = client.post_within(b"x", Duration::from_secs(3)).unwrap_err();
    assert_eq!(error.kind, Tls, "{}", error.message);
}

#[test]
fn a_handshake_that_stalls_meets_the_deadline() {
    let server = Server::start(|_, s| {
        std::thread::park();
        drop(s);
    });
    let time = Duration::from_millis(1500);
    let mut client = Client::from(&config(format!("https://{}/", server.addr)));
    assert_eq!(takes(time, || client.post_within(b"x", time)).unwrap_err().kind, Tls);
}

#[test]
fn http_may_redirect_to_https_of_the_same_host() {
    let secure = tls_server(server_config(&good_leaf(), false));
    let to = format!("https://{}/x", secure.addr);
    let plain = Server::answering(format!("HTTP/1.1 301 M\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
    let mut client = Client::from(&config(plain.url("/")));
    for _ in 0..2 {
        assert_eq!(client.post(b"x").unwrap().status, 200);
    }
    // Never back from https to http.
    let target = Server::answering(OK);
    let answer = format!("HTTP/1.1 307 M\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", target.url("/"));
    let tls = server_config(&good_leaf(), false);
    let server = Server::start(move |_, s| {
        let mut s = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), s);
        while read_request(&mut s).is_some() {
            s.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut client = Client::from(&config(format!("https://{}/", server.addr)));
    assert_eq!((client.post(b"x").unwrap().status, target.connections()), (307, 0));
}

#[test]
fn children_do_tls_of_their_own() {
    let server = tls_server(server_config(&good_leaf(), false));
    let config = config(format!("https://{}/", server.addr));
    let mut client = Client::from(&config);
    client.post(b"x").unwrap();
    for n in 1..=20 {
        crate::odd::in_child(|| {
            client.table.close_inherited();
            Client::from(&config).post(b"child").is_ok_and(|r| r.status == 200)
        });
        assert_eq!(client.post(b"x").unwrap().status, 200);
        assert_eq!(server.connections(), 1 + n, "the parent had to connect again");
    }
}

#[test]
fn bad_files_are_named_at_open() {
    let me = leaf(&["client.test"], None);
    let other = leaf(&["client.test"], None);
    let (cert, key) = (Some(me.pem.clone().into_bytes()), Some(me.key.serialize_pem().into_bytes()));
    let junk = Some(b"junk".to_vec());
    let broken = Some(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_vec());
    let check = |ca_pem: &Option<Vec<u8>>, cert_pem: &Option<Vec<u8>>, key_pem: &Option<Vec<u8>>| {
        let mut config = sink_config("https://h/");
        config.tls = TlsFiles { ca_pem: ca_pem.clone(), client_pem: cert_pem.clone().zip(key_pem.clone()) };
        validate(&config)
    };
    assert!(check(&None, &cert, &key).is_ok());
    for (result, names) in [
        (check(&junk, &None, &None), "tls.ca_file"),
        (check(&broken, &None, &None), "tls.ca_file"),
        (check(&None, &junk, &key), "tls.cert_file"),
        (check(&None, &cert, &junk), "tls.key_file"),
        (check(&None, &cert, &Some(other.key.serialize_pem().into_bytes())), "tls.key_file"),
    ] {
        let text = result.unwrap_err();
        assert!(text.contains(names), "{names}: {text}");
    }
}

/// As `openssl req -x509` makes one: it calls itself an authority, and is the server's.
#[test]
fn a_servers_own_certificate_may_be_the_one_that_is_trusted() {
    let port = |server: &Server| server.addr.port();
    let own = authority_of_itself(&["127.0.0.1"], None);
    let server = tls_server(server_config(&own, false));
    let old = authority_of_itself(&["127.0.0.1"], Some(2020));
    let old_server = tls_server(server_config(&old, false));
    let other = authority_of_itself(&["127.0.0.1"], None);
    let marked = format!("\u{feff}{}", own.pem);
    let cases = [
        (port(&server), "127.0.0.1", &own.pem, None),
        (port(&server), "127.0.0.1", &marked, None),
        (port(&server), "127.0.0.1", &format!("{}{}", other.pem, own.pem), None),
        (port(&server), "127.0.0.1", &other.pem, Some("CaUsedAsEndEntity")),
        (port(&server), "a.localhost", &own.pem, Some("not valid for name")),
        (port(&old_server), "127.0.0.1", &old.pem, Some("expired")),
    ];
    for (port, host, ca, refused) in cases {
        let mut config = config(format!("https://{host}:{port}/"));
        config.tls.ca_pem = Some(ca.clone().into_bytes());
        match (Client::from(&config).post(b"x"), refused) {
            (Ok(response), None) => assert_eq!(response.status, 200),
            (Err(error), Some(why)) => {
                assert!(error.kind == Tls && error.message.contains(why), "{why}: {}", error.message);
            }
            (other, _) => panic!("{host}, {refused:?}: {other:?}"),
        }
    }
}
