//! Answers that lead elsewhere: what is ours must not go along.
use super::End::{Delivered, Denied};
use super::villain::{self, Book, Visit};
use super::{Case, Stage, answer, play_all};
use crate::certs;
use crate::host::Dir;
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn to(status: &str, location: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

/// To another server, which must not hear of us.
fn elsewhere(name: &'static str, status: &'static str, location: fn(u16) -> String) -> Case {
    Case::on(name, Denied, move |book| {
        let other = TcpListener::bind("0.0.0.0:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let answer = to(status, &location(other.local_addr().unwrap().port()));
        let act = move |v: &mut Visit| v.each(|v| _ = v.say(&answer));
        let own = villain::start(book, None, act);
        let after = Box::new(move || assert!(other.accept().is_err(), "it was asked"));
        Stage { after, ..Stage::at(format!("http://{own}")) }
    })
}

/// With TLS and without on one host; with `up` the plain one leads to the other.
fn between_schemes(book: &Arc<Book>, up: bool) -> Stage {
    let dir = Dir::new();
    let ca = dir.0.join("ca.pem");
    std::fs::write(&ca, certs::ca().pem()).unwrap();
    let tls = certs::server_config(&certs::good_leaf(), false);
    let (good_tls, book_of_other) = (Arc::clone(&tls), Arc::clone(book));
    let stage = if up {
        let secure = villain::start(book, Some(Arc::clone(&tls)), move |v| {
            if v.tls(&good_tls) {
                v.be_good();
            }
        });
        let answer = to("307", &format!("https://{secure}/there"));
        // A good server again only once the case is over: then it is plain.
        let plain = villain::start(book, None, move |v| v.each(|v| _ = v.say(&answer)));
        let after = Box::new(move || {
            let _kept = dir;
            assert!(book_of_other.authorized.load(Ordering::SeqCst) > 0, "the credentials go along");
        });
        Stage { after, ..Stage::at(format!("http://{plain}")) }
    } else {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        plain.set_nonblocking(true).unwrap();
        let answer = to("308", &format!("http://{}/there", plain.local_addr().unwrap()));
        let secure = villain::start(book, Some(tls), move |v| {
            if v.tls(&good_tls) {
                v.each(|v| _ = v.say(&answer));
            }
        });
        let after = Box::new(move || {
            let _kept = dir;
            assert!(plain.accept().is_err(), "it was asked without TLS");
        });
        Stage { after, ..Stage::at(format!("https://{secure}")) }
    };
    Stage { keys: json!({"tls": {"ca_file": ca}}), ..stage }
}

#[test]
fn redirects() {
    play_all(vec![
        answer("in a circle", Denied, to("308", "/in")),
        answer("in a circle, by a relative way", Denied, to("307", "?a")),
        answer("in a circle, with more and more words", Denied, to("302", "x/y/z")),
        answer("to nowhere", Denied, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
        answer("to what is no URL", Denied, to("302", "http://[")),
        answer("to another kind of thing", Denied, to("302", "file:///etc/passwd")),
        answer("with a line break", Denied, to("302", "/x\r\n Y: z")),
        elsewhere("to another port", "307", |port| format!("http://127.0.0.1:{port}/in")),
        elsewhere("to another host", "308", |port| format!("http://127.0.0.2:{port}/in")),
        elsewhere("to another name of the host", "301", |port| format!("http://localhost:{port}/in")),
        elsewhere("to another host without a scheme", "302", |port| format!("//127.0.0.1:{port}/in")),
        elsewhere("with their user information", "303", |port| format!("http://a:b@127.0.0.1:{port}/in")),
        elsewhere("to another host over TLS", "307", |port| format!("https://localhost:{port}/in")),
        Case::on("to the same host over TLS", Delivered, |book| between_schemes(book, true)).rounds(3),
        Case::on("to the same host without TLS", Denied, |book| between_schemes(book, false)),
    ]);
}
