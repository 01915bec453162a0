//! Segment's HTTP API, which RudderStack speaks as well.
//!
//! What the service does: 200 says that the request was received, not that its events are valid. An event
//! without `userId` and `anonymousId`, or a `track` without `event`, is thrown away without a word, and so
//! is all of a batch of more than 2,500. Only bad JSON and what is too large is 400. The write key is in
//! the body or is the name of Basic authentication.

use super::{Dialect, Limits, Words, below};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::Loose;
use crate::collect::scan::{Nested, Scan};
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// See the module's text.
pub struct Segment;

const SINGLE: [&str; 6] = ["/v1/track", "/v1/identify", "/v1/page", "/v1/screen", "/v1/group", "/v1/alias"];
const BATCHES: [&str; 2] = ["/v1/batch", "/v1/import"];
/// Events of a request.
const EVENTS: usize = 2_500;

/// Whether it is one of Segment's paths.
pub fn serves(path: &str) -> bool {
    below(path, &BATCHES) || below(path, &SINGLE)
}

impl Dialect for Segment {
    fn name(&self, _head: &Head) -> &'static str {
        "segment"
    }

    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let single = below(&head.path, &SINGLE).then(|| head.path.trim_end_matches('/').rsplit('/').next());
        let keyed = parse(body, single.flatten(), batch).map_err(|why| self.error(head, 400, &why))?;
        if !keyed && head.header("Authorization").is_none_or(|v| v.trim().is_empty()) {
            return Err(self.error(head, 401, "no write key"));
        }
        if batch.events.len() > EVENTS {
            batch.refuse_all("more than 2500 events");
        }
        Ok(())
    }

    fn answer(&self, _head: &Head, _batch: &Batch) -> Answer {
        Answer::json(200, r#"{"success":true}"#)
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        Answer::json(status, json!({"success": false, "message": text}).to_string())
    }

    fn words(&self) -> Words {
        Words { refused: false, again: false }
    }

    fn limits(&self, head: &Head) -> Limits {
        let body = if below(&head.path, &BATCHES) { 500 << 10 } else { 32 << 10 };
        Limits { event: 32 << 10, ..Limits::of_body(body, 400) }
    }
}

/// What is looked at in an event.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Loose<'a>,
    #[serde(borrow, rename = "messageId")]
    id: Loose<'a>,
    #[serde(borrow, rename = "userId")]
    user: Loose<'a>,
    #[serde(borrow, rename = "anonymousId")]
    anonymous: Loose<'a>,
    #[serde(borrow)]
    event: Loose<'a>,
    context: Nested,
    properties: Nested,
    traits: Nested,
    #[serde(borrow)]
    pid: Loose<'a>,
    #[serde(borrow, rename = "writeKey")]
    key: Loose<'a>,
}

/// Whether there was a write key.
fn parse(body: &[u8], kind: Option<&str>, batch: &mut Batch) -> Result<bool, String> {
    let mut c = Cursor::new(body)?;
    let (mut keyed, mut found) = (false, false);
    if kind.is_some() {
        c.peek();
        keyed = event(&mut c, kind, batch)?;
        found = true;
    } else {
        c.object(&mut |c, key| match key {
            "writeKey" => {
                keyed = c.value::<Loose<'_>>()?.filled().is_some();
                Ok(())
            }
            "batch" => {
                found = true;
                c.array(&mut |c| {
                    event(c, None, batch)?;
                    Ok(())
                })
            }
            _ => c.value::<IgnoredAny>().map(drop),
        })?;
    }
    c.end()?;
    if found { Ok(keyed) } else { Err("there is no batch".into()) }
}

/// Reads one event; its `kind` is the path's, if that names one. Whether there was a write key in it.
fn event(c: &mut Cursor<'_>, kind: Option<&str>, batch: &mut Batch) -> Result<bool, String> {
    let from = c.at;
    let e = c.object_as::<Event<'_>>()?;
    let named = |id: &Loose<'_>| id.filled().is_some() || id.is_number();
    let kind = kind.or(e.kind.text());
    let verdict = if !named(&e.user) && !named(&e.anonymous) {
        Verdict::Refused("no_user_anon_id")
    } else if kind == Some("track") && e.event.filled().is_none() {
        Verdict::Refused("no_event_name")
    } else {
        Verdict::Taken
    };
    let keyed = e.key.filled().is_some();
    let pid = e.context.pid().or(e.properties.pid()).or(e.traits.pid()).or(e.pid.pid());
    batch.push(Scan { id: e.id.id(), pid }, &c.text[from..c.at], verdict);
    Ok(keyed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, headers: &[(&str, &str)], body: &str) -> (u16, usize, usize) {
        let (head, mut batch) = (Head::of(path, headers), Batch::default());
        match Segment.read(&head, body.as_bytes(), &mut batch) {
            Ok(()) => {
                let (kept, others) = batch.split();
                (Segment.answer(&head, &batch).status, kept, others)
            }
            Err(answer) => (answer.status, 0, 0),
        }
    }

    #[test]
    fn bodies_keys_and_what_is_thrown_away() {
        let basic = [("Authorization", "Basic d2s6")];
        let track = r#"{"type":"track","userId":"u","event":"e","messageId":"m","context":{"pid":3}}"#;
        for (path, headers, body, expected) in [
            ("/v1/batch", &[][..], format!(r#"{{"writeKey":"wk","batch":[{track},{track}]}}"#), (200, 2, 0)),
            ("/x/v1/import/", &basic, format!(r#"{{"batch":[{track}]}}"#), (200, 1, 0)),
            ("/v1/batch", &[], format!(r#"{{"batch":[{track}]}}"#), (401, 0, 0)),
            (
                "/v1/batch",
                &basic,
                r#"{"batch":[{"userId":"u","type":"track"},{"type":"page"}]}"#.into(),
                (200, 0, 2),
            ),
            (
                "/v1/batch",
                &basic,
                format!(r#"{{"batch":[{}]}}"#, vec![track; 2501].join(",")),
                (200, 0, 2501),
            ),
            ("/v1/track", &basic, r#"{"anonymousId":"a","event":"e"}"#.into(), (200, 1, 0)),
            ("/v1/track", &basic, r#"{"anonymousId":"a"}"#.into(), (200, 0, 1)),
            ("/v1/identify", &[], r#"{"userId":7,"writeKey":"wk"}"#.into(), (200, 1, 0)),
            ("/v1/batch", &basic, "{}".into(), (400, 0, 0)),
            ("/v1/batch", &basic, r#"{"batch":[1]}"#.into(), (400, 0, 0)),
            ("/v1/track", &basic, "[]".into(), (400, 0, 0)),
        ] {
            assert_eq!(read(path, headers, &body), expected, "{path} {}", &body[..body.len().min(80)]);
        }
    }
}
