//! Langfuse's uploads, in the three steps of its SDK.
//!
//! What the service does: `POST /api/public/media` announces a content and gives a link to put it to, or
//! `null` if it has that content already; `PUT` of the link brings the bytes, to an object store that has
//! signed type, length and checksum and knows nothing of Langfuse's keys; `PATCH /api/public/media/{id}`
//! tells how that went, and only then, with status 200, is the content known.
//!
//! Invariants: the id is the first 22 characters of the hash in URL-safe base64. The store's errors are its
//! own XML, the service's are JSON. The bytes are checked and counted, and kept nowhere; of the last
//! [`MOST`] contents it is remembered what was said about them.

pub use super::langfuse::error;
use super::langfuse::{admit, suspended};
use super::rfc3339;
use crate::collect::http::{Answer, Head};
use crate::collect::walk::Cursor;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};

/// Contents that are remembered.
pub const MOST: usize = 10_000;
/// Where the links point to.
const LINK: &str = "/media-upload/";
const FIELDS: [&str; 4] = ["input", "output", "metadata", "expectedOutput"];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The link for a content.
    Announce,
    /// To take the bytes of the content with this id.
    Put(String),
    /// To know how the upload of the content with this id went.
    Report(String),
}

impl Step {
    /// The path as it is counted: without the id.
    pub fn label(&self) -> &'static str {
        match self {
            Step::Announce => "/api/public/media",
            Step::Put(_) => "/media-upload/{id}",
            Step::Report(_) => "/api/public/media/{id}",
        }
    }
}

/// Which step it is; `None` if it is none.
pub fn step(head: &Head) -> Option<Step> {
    let path = head.path.strip_suffix('/').unwrap_or(&head.path);
    let id = |before: &str| {
        let (_, id) = path.rsplit_once(before)?;
        (!id.is_empty() && !id.contains('/')).then(|| id.to_string())
    };
    match head.method.as_str() {
        "POST" if path.ends_with("/api/public/media") => Some(Step::Announce),
        "PUT" => id(LINK).map(Step::Put),
        "PATCH" => id("/api/public/media/").map(Step::Report),
        _ => None,
    }
}

/// What is announced.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Announcement {
    content_type: String,
    content_length: u64,
    sha256_hash: String,
    field: String,
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(default)]
    observation_id: Option<String>,
    #[serde(default)]
    dataset_id: Option<String>,
    #[serde(default)]
    dataset_item_id: Option<String>,
}

/// How an upload went.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    uploaded_at: String,
    upload_http_status: u16,
    #[serde(default)]
    upload_http_error: Option<String>,
    #[serde(default)]
    upload_time_ms: Option<f64>,
}

struct Content {
    about: Announcement,
    /// Times it was announced.
    announced: u64,
    /// Times its bytes came, all of them and right.
    puts: u64,
    report: Option<Report>,
}

impl Content {
    fn known_as(&self, kind: &str) -> bool {
        self.about.content_type == kind && self.report.as_ref().is_some_and(|r| r.upload_http_status == 200)
    }
}

/// All contents, and the counts.
#[derive(Default)]
pub struct Shelf {
    contents: HashMap<String, Content>,
    /// Ids in the order of their first announcement.
    order: VecDeque<String>,
    announced: u64,
    known: u64,
    uploads: u64,
    refused: u64,
    bytes: u64,
    reports: u64,
    reports_of_failure: u64,
}

/// The collector as seen from outside, and how much it takes.
pub struct Place<'a> {
    /// Where a link starts.
    pub base: &'a str,
    /// Bytes of a content at most.
    pub limit: usize,
    /// The customer is over the quota.
    pub quota: bool,
}

impl Shelf {
    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Shelf::default();
    }

    /// Takes a step.
    pub fn take(&mut self, step: &Step, head: &Head, body: &[u8], place: &Place<'_>) -> Answer {
        match step {
            Step::Put(id) => self.put(id, head, body),
            _ => match admit(head) {
                Err(answer) => answer,
                Ok(()) if place.quota => suspended(),
                Ok(()) if *step == Step::Announce => self.announce(body, place),
                Ok(()) => match step {
                    Step::Report(id) => self.report(id, body),
                    _ => error(404, "no such step"),
                },
            },
        }
    }

    fn announce(&mut self, body: &[u8], place: &Place<'_>) -> Answer {
        let about: Announcement = match read(body) {
            Ok(a) => a,
            Err(e) => return error(400, &format!("Invalid request data: {e}")),
        };
        if let Some(why) = wrong(&about, place.limit) {
            return error(400, &why);
        }
        let id = id_of(&about.sha256_hash);
        self.announced += 1;
        if let Some(content) = self.contents.get_mut(&id)
            && content.known_as(&about.content_type)
        {
            content.announced += 1;
            self.known += 1;
            return Answer::json(201, json!({"mediaId": id, "uploadUrl": null}).to_string());
        }
        // The mark of a signature: a link without it is not ours.
        let url = format!("{}{LINK}{id}?X-Amz-Expires=3600&X-Amz-Signature={}", place.base, signature(&id));
        match self.contents.get_mut(&id) {
            Some(content) => (content.about, content.announced) = (about, content.announced + 1),
            None => {
                if self.order.len() >= MOST
                    && let Some(old) = self.order.pop_front()
                {
                    self.contents.remove(&old);
                }
                self.order.push_back(id.clone());
                self.contents.insert(id.clone(), Content { about, announced: 1, puts: 0, report: None });
            }
        }
        Answer::json(201, json!({"mediaId": id, "uploadUrl": url}).to_string())
    }

    fn put(&mut self, id: &str, head: &Head, body: &[u8]) -> Answer {
        match self.check(id, head, body) {
            Ok(()) => {
                self.uploads += 1;
                self.bytes += body.len() as u64;
                Answer { kind: "application/xml", ..Answer::json(200, "") }.with("ETag", format!("\"{id}\""))
            }
            Err((status, code, message)) => {
                self.refused += 1;
                let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
                Answer { kind: "application/xml", ..Answer::json(status, xml) }
            }
        }
    }

    fn check(&mut self, id: &str, head: &Head, body: &[u8]) -> Result<(), (u16, &'static str, &'static str)> {
        if head.header("Authorization").is_some() {
            let why =
                "Only one auth mechanism allowed; the link is one, and the header Authorization another";
            return Err((400, "InvalidArgument", why));
        }
        let signed = format!("X-Amz-Signature={}", signature(id));
        if !head.query.split('&').any(|p| p == signed) {
            return Err((403, "AccessDenied", "the link has no signature, or another one"));
        }
        let Some(content) = self.contents.get_mut(id) else {
            return Err((404, "NoSuchUpload", "nothing with this id was announced"));
        };
        if head.header("Content-Type") != Some(content.about.content_type.as_str()) {
            return Err((403, "SignatureDoesNotMatch", "Content-Type is not what was announced"));
        }
        if body.len() as u64 != content.about.content_length {
            return Err((403, "SignatureDoesNotMatch", "the length is not what was announced"));
        }
        if head.header("x-amz-checksum-sha256") != Some(content.about.sha256_hash.as_str()) {
            return Err((403, "SignatureDoesNotMatch", "x-amz-checksum-sha256 is not what was announced"));
        }
        let found = ring::digest::digest(&ring::digest::SHA256, body);
        if STANDARD.encode(found.as_ref()) != content.about.sha256_hash {
            return Err((400, "BadDigest", "the bytes do not have the SHA-256 that was announced"));
        }
        content.puts += 1;
        Ok(())
    }

    fn report(&mut self, id: &str, body: &[u8]) -> Answer {
        let report: Report = match read(body) {
            Ok(r) => r,
            Err(e) => return error(400, &format!("Invalid request data: {e}")),
        };
        if !rfc3339(&report.uploaded_at) {
            return error(400, "uploadedAt: expected a time by ISO 8601");
        }
        let Some(content) = self.contents.get_mut(id) else {
            return error(404, &format!("Media asset {id} not found"));
        };
        self.reports += 1;
        self.reports_of_failure += u64::from(report.upload_http_status != 200);
        content.report = Some(report);
        Answer::json(200, "{}")
    }

    /// The counts, and what is known of each content, newest first.
    pub fn stats(&self, most: usize) -> Value {
        let list: Vec<Value> = self
            .order
            .iter()
            .rev()
            .take(most)
            .filter_map(|id| {
                let c = self.contents.get(id)?;
                let a = &c.about;
                let report = c.report.as_ref();
                Some(json!({
                    "mediaId": id, "contentType": a.content_type, "contentLength": a.content_length,
                    "sha256Hash": a.sha256_hash, "field": a.field, "traceId": a.trace_id,
                    "observationId": a.observation_id, "datasetId": a.dataset_id,
                    "datasetItemId": a.dataset_item_id, "announced": c.announced, "puts": c.puts,
                    "uploadHttpStatus": report.map(|r| r.upload_http_status),
                    "uploadHttpError": report.and_then(|r| r.upload_http_error.as_deref()),
                    "uploadTimeMs": report.and_then(|r| r.upload_time_ms),
                }))
            })
            .collect();
        json!({
            "announced": self.announced, "known": self.known, "uploads": self.uploads,
            "refused": self.refused, "bytes": self.bytes, "reports": self.reports,
            "reports_of_failure": self.reports_of_failure, "list": list,
        })
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    let mut c = Cursor::new(body)?;
    let value = c.object_as()?;
    c.end()?;
    Ok(value)
}

/// What is wrong with an announcement.
fn wrong(a: &Announcement, limit: usize) -> Option<String> {
    let hash = STANDARD.decode(&a.sha256_hash);
    if !hash.is_ok_and(|h| h.len() == 32) {
        return Some("sha256Hash: Must be a 44 character base64 encoded SHA-256 hash".into());
    }
    if a.content_length == 0 {
        return Some("contentLength: Must be a positive number".into());
    }
    if a.content_length > limit as u64 {
        return Some(format!("File size must be less than {limit} bytes"));
    }
    if a.content_type.split_once('/').is_none_or(|(kind, name)| kind.is_empty() || name.is_empty()) {
        return Some("contentType: Invalid content type".into());
    }
    if !FIELDS.contains(&a.field.as_str()) {
        return Some(format!("field: Invalid field. Only supporting {}", FIELDS.join(", ")));
    }
    let item = a.dataset_id.is_some() && a.dataset_item_id.is_some();
    let half = a.dataset_id.is_some() != a.dataset_item_id.is_some();
    if half || a.trace_id.is_some() == item || (item && a.observation_id.is_some()) {
        return Some("expected traceId (and observationId), or datasetId and datasetItemId".into());
    }
    match (item, a.field.as_str()) {
        (true, "output") | (false, "expectedOutput") => Some("field: is not of this context".into()),
        _ => None,
    }
}

fn id_of(hash: &str) -> String {
    hash.chars()
        .take(22)
        .map(|c| {
            if c == '+' {
                '-'
            } else if c == '/' {
                '_'
            } else {
                c
            }
        })
        .collect()
}

fn signature(id: &str) -> String {
    format!("{:032x}", crate::collect::scan::hashed(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASIC: (&str, &str) = ("Authorization", "Basic cGs6c2s=");
    const PLACE: Place<'static> = Place { base: "http://h:1", limit: 1000, quota: false };

    fn announcement(bytes: &[u8]) -> Value {
        let hash = STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        json!({"contentType": "image/png", "contentLength": bytes.len(), "sha256Hash": hash,
            "field": "input", "traceId": "t"})
    }

    fn ask(shelf: &mut Shelf, head: &Head, body: &[u8]) -> Answer {
        let step = step(head).unwrap();
        shelf.take(&step, head, body, &PLACE)
    }

    fn said(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[test]
    fn three_steps() {
        let mut shelf = Shelf::default();
        let about = announcement(b"bytes");
        let announce = Head::of("/api/public/media", &[BASIC]);
        let first = ask(&mut shelf, &announce, about.to_string().as_bytes());
        assert_eq!(first.status, 201);
        let id = said(&first)["mediaId"].as_str().unwrap().to_string();
        assert_eq!((id.len(), id.contains(['+', '/'])), (22, false));
        let url = said(&first)["uploadUrl"].as_str().unwrap().to_string();
        let target = url.strip_prefix("http://h:1").unwrap();
        let (path, query) = target.split_once('?').unwrap();
        let hash = about["sha256Hash"].as_str().unwrap();
        let put = |headers: &[(&str, &str)], query: &str| {
            let mut head = Head::of(path, headers);
            (head.method, head.query) = ("PUT".into(), query.into());
            head
        };
        let good = [("Content-Type", "image/png"), ("x-amz-checksum-sha256", hash)];
        for (headers, query, body, status) in [
            (&[good[0], good[1], BASIC][..], query, &b"bytes"[..], 400),
            (&good[..], "", b"bytes", 403),
            (&good[1..], query, b"bytes", 403),
            (&good[..1], query, b"bytes", 403),
            (&[("Content-Type", "image/jpeg"), good[1]], query, b"bytes", 403),
            (&good[..], query, b"byte", 403),
            (&good[..], query, b"BYTES", 400),
            (&good[..], query, b"bytes", 200),
        ] {
            assert_eq!(ask(&mut shelf, &put(headers, query), body).status, status, "{headers:?} {query}");
        }
        // The bytes alone do not make it known; the report does.
        let again = ask(&mut shelf, &announce, about.to_string().as_bytes());
        assert!(said(&again)["uploadUrl"].is_string());
        let mut patch = Head::of(&format!("/api/public/media/{id}"), &[BASIC]);
        patch.method = "PATCH".into();
        let report = |status: u16| {
            json!({"uploadedAt": "2026-11-21T02:30:00Z", "uploadHttpStatus": status}).to_string()
        };
        assert_eq!(ask(&mut shelf, &patch, report(500).as_bytes()).status, 200);
        assert!(said(&ask(&mut shelf, &announce, about.to_string().as_bytes()))["uploadUrl"].is_string());
        assert_eq!(ask(&mut shelf, &patch, report(200).as_bytes()).status, 200);
        let known = ask(&mut shelf, &announce, about.to_string().as_bytes());
        assert_eq!((known.status, said(&known)), (201, json!({"mediaId": id, "uploadUrl": null})));
        let stats = shelf.stats(10);
        assert_eq!(
            [&stats["announced"], &stats["known"], &stats["uploads"], &stats["refused"], &stats["bytes"]],
            [4, 1, 1, 7, 5]
        );
        assert_eq!([&stats["reports"], &stats["reports_of_failure"]], [2, 1]);
        assert_eq!(
            (&stats["list"][0]["uploadHttpStatus"], &stats["list"][0]["puts"]),
            (&json!(200), &json!(1))
        );
        patch.path = "/api/public/media/unknown".into();
        assert_eq!(ask(&mut shelf, &patch, report(200).as_bytes()).status, 404);
    }

    #[test]
    fn bad_announcements() {
        let (good, mut shelf) = (announcement(b"x"), Shelf::default());
        let announce = Head::of("/api/public/media", &[BASIC]);
        for (key, value) in [
            ("contentType", json!("png")),
            ("contentLength", json!(0)),
            ("contentLength", json!(1001)),
            ("contentLength", json!("1")),
            ("sha256Hash", json!("x")),
            ("field", json!("nothing")),
            ("field", json!("expectedOutput")),
            ("traceId", json!(null)),
            ("datasetId", json!("d")),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert_eq!(ask(&mut shelf, &announce, bad.to_string().as_bytes()).status, 400, "{bad}");
        }
        let mut item = good.clone();
        item["traceId"] = json!(null);
        (item["datasetId"], item["datasetItemId"], item["field"]) =
            (json!("d"), json!("i"), json!("expectedOutput"));
        assert_eq!(ask(&mut shelf, &announce, item.to_string().as_bytes()).status, 201);
        assert_eq!(ask(&mut shelf, &Head::of("/api/public/media", &[]), b"{}").status, 401);
        assert_eq!(shelf.take(&Step::Announce, &announce, b"", &Place { quota: true, ..PLACE }).status, 403);
    }

    #[test]
    fn old_contents_are_forgotten() {
        let mut shelf = Shelf::default();
        let announce = Head::of("/api/public/media", &[BASIC]);
        for n in 0..MOST + 2 {
            ask(&mut shelf, &announce, announcement(n.to_string().as_bytes()).to_string().as_bytes());
        }
        assert_eq!((shelf.contents.len(), shelf.order.len()), (MOST, MOST));
    }
}
