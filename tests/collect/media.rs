//! Uploads in three steps over real sockets, and faults between them.

use super::formats::{BASIC, JSON};
use super::kit::{Answer, Client, Collector, directory};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::BufReader;
use std::os::unix::net::UnixStream;

struct Content {
    bytes: Vec<u8>,
    hash: String,
}

impl Content {
    fn new(bytes: &[u8]) -> Self {
        let hash = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Content { bytes: bytes.to_vec(), hash }
    }

    fn announcement(&self) -> Vec<u8> {
        json!({"contentType": "image/png", "contentLength": self.bytes.len(), "sha256Hash": self.hash,
            "field": "input", "traceId": "t", "observationId": "o"})
        .to_string()
        .into()
    }

    fn id(&self) -> String {
        self.hash.replace('+', "-").replace('/', "_")[..22].into()
    }
}

fn announce(c: &Collector, content: &Content) -> Answer {
    let host = format!("Host: {}", c.address());
    // The kit's own Host comes first and is not ours: what the client asked is what the link must say.
    let mut k = c.connect();
    let body = content.announcement();
    k.raw(
        format!(
            "POST /api/public/media HTTP/1.1\r\n{host}\r\n{JSON}\r\n{BASIC}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    k.raw(&body);
    k.answer().unwrap()
}

fn target(c: &Collector, announced: &Answer) -> String {
    let url = announced.json()["uploadUrl"].as_str().unwrap().to_string();
    url.strip_prefix(&c.url).unwrap_or_else(|| panic!("{url} is not at {}", c.url)).to_string()
}

fn put(c: &Collector, target: &str, content: &Content) -> Answer {
    let checksum = format!("x-amz-checksum-sha256: {}", content.hash);
    let headers = ["Content-Type: image/png", &checksum, "x-ms-blob-type: BlockBlob"];
    c.ask("PUT", target, &headers, &content.bytes)
}

fn report(c: &Collector, content: &Content, status: u16) -> Answer {
    let body = json!({"uploadedAt": "2026-11-21T02:30:00Z", "uploadHttpStatus": status, "uploadTimeMs": 3});
    let path = format!("/api/public/media/{}", content.id());
    c.ask("PATCH", &path, &[JSON, BASIC], body.to_string().as_bytes())
}

#[test]
fn three_steps_and_then_it_is_known() {
    let c = Collector::start(&[]);
    let content = Content::new(&vec![7; 3 << 20]);
    let first = announce(&c, &content);
    assert_eq!((first.status, &first.json()["mediaId"]), (201, &json!(content.id())));
    assert_eq!(put(&c, &target(&c, &first), &content).status, 200);
    assert_eq!(report(&c, &content, 200).status, 200);
    let second = announce(&c, &content);
    assert_eq!((second.status, second.json()), (201, json!({"mediaId": content.id(), "uploadUrl": null})));
    let s = c.stats();
    let (m, listed) = (&s["media"], &s["media"]["list"][0]);
    let counts =
        ["announced", "known", "uploads", "refused", "bytes", "reports"].map(|k| m[k].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1, 0, 3 << 20, 1]);
    let said = ["mediaId", "field", "observationId"].map(|k| listed[k].as_str().unwrap().to_string());
    assert_eq!(said, [content.id(), "input".into(), "o".into()]);
    assert_eq!((&listed["uploadHttpStatus"], &listed["uploadTimeMs"]), (&json!(200), &json!(3.0)));
    assert_eq!(s["by_format"]["langfuse-media"]["requests"], json!(4));
    assert_eq!(
        s["by_path"],
        json!({"/api/public/media": 2, "/media-upload/{id}": 1, "/api/public/media/{id}": 1})
    );
    assert_eq!((&s["received"], c.stored().as_str()), (&json!(0), ""));
    assert_eq!(c.ask("POST", "/reset", &[], b"").status, 200);
    assert_eq!(c.stats()["media"]["list"], json!([]));
}

#[test]
fn the_store_refuses_what_was_not_announced() {
    let c = Collector::start(&[]);
    let content = Content::new(b"bytes");
    let target = target(&c, &announce(&c, &content));
    let checksum = format!("x-amz-checksum-sha256: {}", content.hash);
    let kind = "Content-Type: image/png";
    for (target, headers, body, status, code) in [
        (target.as_str(), &[kind, &checksum, BASIC][..], &b"bytes"[..], 400, "InvalidArgument"),
        (&target, &["Content-Type: image/gif", &checksum], b"bytes", 403, "SignatureDoesNotMatch"),
        (&target, &[kind], b"bytes", 403, "SignatureDoesNotMatch"),
        (&target, &[kind, &checksum], b"byte", 403, "SignatureDoesNotMatch"),
        (&target, &[kind, &checksum], b"BYTES", 400, "BadDigest"),
        (target.split('?').next().unwrap(), &[kind, &checksum], b"bytes", 403, "AccessDenied"),
    ] {
        let a = c.ask("PUT", target, headers, body);
        assert_eq!(a.status, status, "{}", a.text());
        assert!(a.text().contains(&format!("<Code>{code}</Code>")), "{}", a.text());
    }
    assert_eq!(c.stats()["media"]["refused"], json!(6));
    let large = Content::new(b"x");
    let body = String::from_utf8(large.announcement()).unwrap().replace(":1,", ":99999999,");
    assert_eq!(c.ask("POST", "/api/public/media", &[JSON, BASIC], body.as_bytes()).status, 400);
    assert_eq!(report(&c, &large, 200).status, 404);
}

#[test]
fn a_fault_can_hit_any_step() {
    let c = Collector::start(&["--fault", "pass@1,503@1,pass@2,500@1"]);
    let content = Content::new(b"bytes");
    let target = target(&c, &announce(&c, &content));
    assert_eq!(put(&c, &target, &content).status, 503);
    assert_eq!(put(&c, &target, &content).status, 200);
    assert_eq!(c.ask("POST", "/batch/", &[], b"{").status, 400, "events count as well");
    assert_eq!(report(&c, &content, 200).status, 500);
    assert_eq!(report(&c, &content, 503).status, 200);
    let m: Value = c.stats()["media"].clone();
    assert_eq!((&m["reports"], &m["reports_of_failure"], &m["uploads"]), (&json!(1), &json!(1), &json!(1)));
    // The last one answered "lost": the bytes are there, the client does not know.
    c.fault("lost@1");
    let checksum = format!("x-amz-checksum-sha256: {}", content.hash);
    let mut k = c.connect();
    k.send("PUT", &target, &["Content-Type: image/png", &checksum], &content.bytes);
    assert_eq!(k.answer().unwrap_err(), b"");
    assert_eq!(c.stats()["media"]["uploads"], json!(2));
}

#[test]
fn at_a_unix_socket_the_link_names_the_socket() {
    let dir = directory();
    let path = dir.join("s");
    let c = Collector::start_in(dir, &format!("unix:{}", path.display()), &[]);
    let mut k = Client(BufReader::new(UnixStream::connect(&path).unwrap()));
    k.send("POST", "/api/public/media", &[BASIC], &Content::new(b"x").announcement());
    let url = k.answer().unwrap().json()["uploadUrl"].as_str().unwrap().to_string();
    assert!(url.starts_with(&format!("http+unix://{}:/media-upload/", path.display())), "{url}");
    assert_eq!(c.url, format!("http+unix://{}:/", path.display()));
}
