//! Faults below HTTP, in TLS.
use super::End::{self, Delivered, Kept, Unreached, Unverified};
use super::villain::{self, OK, Visit};
use super::{Case, Stage, play_all};
use crate::certs::{self, Leaf};
use crate::host::Dir;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use std::sync::{Arc, LazyLock};

static GOOD: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| certs::server_config(&certs::good_leaf(), false));

/// TLS 1.2, and nothing newer.
static OLD: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let leaf = certs::good_leaf();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap();
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![leaf.der], key).unwrap())
});

/// A server on loopback, good with a good certificate once it is mended.
fn on_tls(name: &'static str, end: End, act: impl Fn(&mut Visit) + Send + Sync + 'static) -> Case {
    let act = Arc::new(act);
    Case::on(name, end, move |book| {
        let dir = Dir::new();
        let ca = dir.0.join("ca.pem");
        std::fs::write(&ca, certs::ca().pem()).unwrap();
        let act = Arc::clone(&act);
        let at = villain::start(book, Some(Arc::clone(&GOOD)), move |v| act(v));
        let after = Box::new(move || drop(dir));
        Stage { keys: json!({"tls": {"ca_file": ca}}), after, ..Stage::at(format!("https://{at}")) }
    })
}

/// The handshake fails on this certificate.
fn showing(name: &'static str, leaf: Leaf) -> Case {
    let config = certs::server_config(&leaf, false);
    on_tls(name, Unreached, move |v| {
        v.tls(&config);
        v.hang();
    })
}

/// After the handshake.
fn behind(name: &'static str, end: End, act: impl Fn(&mut Visit) + Send + Sync + 'static) -> Case {
    on_tls(name, end, move |v| {
        if v.tls(&GOOD) {
            act(v);
        }
    })
}

#[test]
fn handshakes() {
    let stranger = certs::signed_by(&certs::new_ca("theirs"), &["127.0.0.1"], None);
    let asking = certs::server_config(&certs::good_leaf(), true);
    play_all(vec![
        showing("expired", certs::leaf(&["127.0.0.1"], Some(2020))),
        showing("not valid yet", certs::leaf(&["127.0.0.1"], Some(2999))),
        showing("for another host", certs::leaf(&["collector.example"], None)),
        showing("for no host", certs::leaf(&[], None)),
        showing("by a stranger", stranger),
        showing("by itself", certs::self_signed(&["127.0.0.1"])),
        on_tls("a client's certificate is wanted", Unreached, move |v| {
            v.tls(&asking);
            v.hang();
        }),
        on_tls("cut after the client's hello", Unreached, |v| _ = v.read()),
        on_tls("reset after the client's hello", Unreached, |v| {
            v.read();
            v.reset();
        }),
        on_tls("cut within the server's hello", Unreached, |v| {
            v.read();
            v.say(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03");
        }),
        on_tls("an alert", Unreached, |v| {
            v.read();
            v.say(b"\x15\x03\x03\x00\x02\x02\x28");
        }),
        on_tls("a farewell", Unreached, |v| {
            v.read();
            v.say(b"\x15\x03\x03\x00\x02\x01\x00");
        }),
        on_tls("garbage", Unreached, |v| {
            v.read();
            v.flood("\u{16}\u{3}\u{1}\u{7f}garbage");
        }),
        on_tls("an answer in plain HTTP", Unreached, |v| {
            v.read();
            v.say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            v.hang();
        }),
        on_tls("silence", Unreached, |v| v.hang()).slow(),
        on_tls("a byte of it now and then", Unreached, |v| {
            v.read();
            v.drip("\u{16}\u{3}\u{3}\u{7f}", "\u{2}");
        })
        .slow(),
    ]);
}

#[test]
fn sessions() {
    play_all(vec![
        behind("cut before the answer", Kept, |v| {
            v.request();
            v.take();
        })
        .twice(),
        behind("reset before the answer", Kept, |v| {
            v.request();
            v.take();
            v.reset();
        })
        .twice(),
        behind("cut after the handshake", Kept, |_| {}),
        behind("cut within a record", Kept, |v| {
            v.request();
            v.take();
            v.say_below_tls(b"\x17\x03\x03\x00\x40cut");
        })
        .twice(),
        behind("a record that was tampered with", Kept, |v| {
            v.request();
            v.take();
            v.say_below_tls(b"\x17\x03\x03\x00\x18this was never encrypted");
            v.hang();
        })
        .twice(),
        behind("plain HTTP within the session", Kept, |v| {
            v.request();
            v.take();
            v.say_below_tls(OK.as_bytes());
            v.hang();
        })
        .twice(),
        behind("cut after new keys", Kept, |v| {
            v.request();
            v.take();
            v.update_keys();
        })
        .twice(),
        behind("new keys without end", Kept, |v| {
            v.request();
            v.take();
            while v.say("") {
                v.update_keys();
            }
        })
        .twice()
        .slow(),
        behind("new keys before each answer", Delivered, |v| {
            v.each(|v| {
                v.take();
                v.update_keys();
                v.say(OK);
            });
        })
        .rounds(6),
        // HTTP's length tells that all is there; without one only TLS' farewell would.
        behind("an end without a farewell", Delivered, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }),
        behind("an end without a length or a farewell", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\n\r\n{}");
        }),
        behind("silence", Kept, |v| {
            v.request();
            v.take();
            v.hang();
        })
        .large()
        .twice()
        .slow(),
        on_tls("a session of TLS 1.2 that wants to be negotiated again", Kept, |v| {
            if v.tls(&OLD) {
                v.request();
                v.take();
                // The server's hello request cannot be forged; one that is not encrypted is an attack.
                v.say_below_tls(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00");
                v.hang();
            }
        })
        .twice(),
        on_tls("TLS 1.2", Delivered, |v| {
            if v.tls(&OLD) {
                v.be_good();
            }
        })
        .rounds(3),
    ]);
}
