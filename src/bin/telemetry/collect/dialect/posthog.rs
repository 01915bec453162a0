//! PostHog's batch and single-event routes (capture v0).
//!
//! What the service does: the project's key is in the body (401 without), one bad event refuses the whole
//! request with 400, and 200 says nothing of single events: so a share of events cannot be refused here.
//! Over the quota it answers 200 with `quota_limited` and throws the events away. Errors are plain texts.
//!
//! A body is `{"api_key", "batch": [...]}`, an array of events or one event; in the last two the key is in
//! the event, as `api_key` or `token`.

use super::{Dialect, Limits, Words};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::{Loose, Maybe};
use crate::collect::scan::{Scan, uuid};
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// See the module's text.
pub struct Posthog;

impl Dialect for Posthog {
    fn name(&self, _head: &Head) -> &'static str {
        "posthog"
    }

    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let key = parse(body, batch).map_err(|why| self.error(head, 400, &why))?;
        match key {
            _ if batch.events.is_empty() => Err(self.error(head, 400, "request holds no event")),
            Key::None => Err(self.error(head, 401, "event submitted without an api_key")),
            Key::Several => Err(self.error(head, 401, "batch submitted with inconsistent api_key values")),
            Key::One(key) if key.is_empty() => Err(self.error(head, 401, "API key is not valid: empty")),
            Key::One(key) if key.starts_with("phx_") => {
                Err(self.error(head, 401, "API key is not valid: personal_api_key"))
            }
            Key::One(_) => Ok(()),
        }
    }

    fn answer(&self, _head: &Head, _batch: &Batch) -> Answer {
        Answer::json(200, r#"{"status":"Ok"}"#)
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        Answer::text(status, text)
    }

    fn over_quota(&self, _head: &Head, _batch: &Batch, _seconds: u64) -> Answer {
        Answer::json(200, json!({"status": "Ok", "quota_limited": ["events"]}).to_string())
    }

    fn words(&self) -> Words {
        Words { refused: false, again: false }
    }

    fn limits(&self, head: &Head) -> Limits {
        let single = !head.path.contains("batch");
        let event = if head.path.contains("/ai/") { 8 << 20 } else { 1 << 20 };
        let body = if single { 2 << 20 } else { 20 << 20 };
        Limits { event, event_status: 400, ..Limits::of_body(body, 413) }
    }
}

/// The keys that were found.
enum Key {
    None,
    One(String),
    Several,
}

impl Key {
    fn meet(&mut self, other: &str) {
        match self {
            Key::None => *self = Key::One(other.into()),
            Key::One(key) if key != other => *self = Key::Several,
            _ => {}
        }
    }
}

/// What is looked at in an event.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    event: Loose<'a>,
    #[serde(borrow)]
    uuid: Loose<'a>,
    #[serde(borrow)]
    distinct_id: Loose<'a>,
    #[serde(borrow, rename = "$distinct_id")]
    dollar_distinct_id: Loose<'a>,
    #[serde(borrow)]
    pid: Loose<'a>,
    #[serde(borrow)]
    properties: Maybe<Properties<'a>>,
    #[serde(borrow)]
    api_key: Loose<'a>,
    #[serde(borrow)]
    token: Loose<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Properties<'a> {
    #[serde(borrow)]
    distinct_id: Loose<'a>,
    #[serde(borrow)]
    pid: Loose<'a>,
    #[serde(borrow)]
    token: Loose<'a>,
}

fn parse(body: &[u8], batch: &mut Batch) -> Result<Key, String> {
    let mut c = Cursor::new(body)?;
    let (mut own, mut inner, mut enveloped) = (Key::None, Key::None, false);
    if c.peek() == Some(b'[') {
        c.array(&mut |c| event(c, batch, &mut inner))?;
    } else {
        c.object(&mut |c, key| match key {
            "batch" if c.peek() == Some(b'[') => {
                enveloped = true;
                c.array(&mut |c| event(c, batch, &mut inner))
            }
            "api_key" | "token" => {
                if let Some(key) = c.value::<Loose<'_>>()?.text() {
                    own.meet(key);
                }
                Ok(())
            }
            _ => c.value::<IgnoredAny>().map(drop),
        })?;
    }
    c.end()?;
    if c.text.trim_ascii_start().starts_with('{') && !enveloped {
        event(&mut Cursor { text: c.text.trim_ascii(), at: 0 }, batch, &mut inner)?;
    }
    Ok(if enveloped && !matches!(own, Key::None) { own } else { inner })
}

/// Reads one event; an error refuses all of them.
fn event(c: &mut Cursor<'_>, batch: &mut Batch, key: &mut Key) -> Result<(), String> {
    let from = c.at;
    let e = c.object_as::<Event<'_>>()?;
    if e.event.filled().is_none() {
        return Err("event submitted with an empty event name".into());
    }
    let properties = e.properties.get();
    let ids = [Some(&e.distinct_id), Some(&e.dollar_distinct_id), properties.map(|p| &p.distinct_id)];
    match ids.into_iter().flatten().find(|id| **id != Loose::None) {
        None => return Err("event submitted without a distinct_id".into()),
        Some(id) if id.text() == Some("") => {
            return Err("event submitted with an empty distinct_id".into());
        }
        Some(_) => {}
    }
    if matches!(e.properties, Maybe::Other) {
        return Err("failed to parse request: properties is not an object".into());
    }
    if !e.uuid.text().is_none_or(|u| u.is_empty() || uuid(u.as_bytes()).is_some()) {
        return Err("failed to parse request: uuid is not one".into());
    }
    let keys = [e.token.text(), e.api_key.text(), properties.and_then(|p| p.token.text())];
    if let Some(found) = keys.into_iter().flatten().next() {
        key.meet(found);
    }
    let pid = properties.and_then(|p| p.pid.pid()).or(e.pid.pid());
    batch.push(Scan { id: e.uuid.id(), pid }, &c.text[from..c.at], Verdict::Taken);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (u16, usize) {
        let (head, mut batch) = (Head::of("/batch/", &[]), Batch::default());
        match Posthog.read(&head, body.as_bytes(), &mut batch) {
            Ok(()) => (Posthog.answer(&head, &batch).status, batch.events.len()),
            Err(answer) => (answer.status, 0),
        }
    }

    #[test]
    fn bodies_and_keys() {
        let event = r#"{"event":"e","distinct_id":"d","uuid":"0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10"}"#;
        let keyed = r#"{"event":"e","properties":{"distinct_id":7,"token":"k"}}"#;
        for (body, expected) in [
            (format!(r#"{{"api_key":"k","batch":[{event},{event}],"sent_at":"x"}}"#), (200, 2)),
            (format!(r#"{{"batch":[{event}],"api_key":"k"}}"#), (200, 1)),
            (format!("[{keyed},{keyed}]"), (200, 2)),
            (keyed.to_string(), (200, 1)),
            (r#"{"event":"e","$distinct_id":1,"api_key":"k"}"#.into(), (200, 1)),
            (format!(r#"{{"batch":[{event}]}}"#), (401, 0)),
            (format!(r#"{{"api_key":"","batch":[{event}]}}"#), (401, 0)),
            (format!(r#"{{"api_key":"phx_personal","batch":[{event}]}}"#), (401, 0)),
            (format!("[{keyed},{}]", keyed.replace("\"k\"", "\"other\"")), (401, 0)),
            (r#"{"api_key":"k","batch":[]}"#.into(), (400, 0)),
            (format!(r#"{{"api_key":"k","batch":[{event},{{"event":"e"}}]}}"#), (400, 0)),
            (r#"{"api_key":"k","batch":[{"distinct_id":"d"}]}"#.into(), (400, 0)),
            (r#"{"api_key":"k","batch":[{"event":"e","distinct_id":""}]}"#.into(), (400, 0)),
            (event.replace("4f10", "4f1x"), (400, 0)),
            (r#"{"api_key":"k","event":"e","distinct_id":"d","properties":[]}"#.into(), (400, 0)),
            (format!("{{\"api_key\":\"k\",\"batch\":[{event}]"), (400, 0)),
            ("[]".into(), (400, 0)),
        ] {
            assert_eq!(read(&body), expected, "{body}");
        }
    }
}
