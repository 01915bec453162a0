//! Langfuse's ingestion: 207 with a list of what was taken and of what was not.
//!
//! What the service does: Basic authentication (looked at here only for presence); an envelope that is no
//! object with an array `batch` is 400; every event is judged on its own and listed by its id in
//! `successes` or `errors` (`unknown` if it has none). A client sends again what has status 429 or 5xx.
//! `sdk-log` events are taken and listed in neither. Over the quota it answers 403.

use super::{Dialect, Limits, Words, rfc3339};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::{Loose, Maybe};
use crate::collect::scan::{Nested, Scan};
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// See the module's text.
pub struct Langfuse;

const TYPES: [&str; 11] = [
    "trace-create",
    "score-create",
    "span-create",
    "span-update",
    "generation-create",
    "generation-update",
    "event-create",
    "sdk-log",
    "observation-create",
    "observation-update",
    "dataset-run-item-create",
];
/// The service's parser takes "4.5mb".
const BODY: usize = 9 << 19;
const LOG: &str = "sdk-log";

/// Whether there is Basic authentication.
pub fn admit(head: &Head) -> Result<(), Answer> {
    let basic = head.header("Authorization").and_then(|v| v.split_once(' '));
    match basic {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("basic") && !key.trim().is_empty() => Ok(()),
        Some(_) => Err(error(401, "Invalid authorization header")),
        None => Err(error(401, "No authorization header")),
    }
}

/// A request that is not taken, as Langfuse says it.
pub fn error(status: u16, message: &str) -> Answer {
    let name = match status {
        400 => "InvalidRequestError",
        401 => "UnauthorizedError",
        403 => "ForbiddenError",
        404 => "LangfuseNotFoundError",
        405 => "MethodNotAllowedError",
        413 => "Payload Too Large",
        429 => "Rate limit exceeded",
        _ => "InternalServerError",
    };
    Answer::json(status, json!({"error": name, "message": message}).to_string())
}

/// Over the quota.
pub fn suspended() -> Answer {
    error(403, "Ingestion suspended: Usage threshold exceeded. Please upgrade your plan.")
}

impl Dialect for Langfuse {
    fn name(&self, _head: &Head) -> &'static str {
        "langfuse"
    }

    fn admit(&self, head: &Head) -> Result<(), Answer> {
        admit(head)
    }

    fn read(&self, _head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        parse(body, batch).map_err(|why| {
            Answer::json(400, json!({"message": "Invalid request data", "errors": [why]}).to_string())
        })
    }

    fn answer(&self, _head: &Head, batch: &Batch) -> Answer {
        let (mut successes, mut errors) = (Vec::new(), Vec::new());
        for (e, id) in batch.events.iter().zip(&batch.ids) {
            match e.verdict {
                Verdict::Noted(LOG) => {}
                Verdict::Taken | Verdict::Noted(_) => successes.push(json!({"id": id, "status": 201})),
                Verdict::Refused(why) => errors
                    .push(json!({"id": id, "status": 400, "message": "Invalid request data", "error": why})),
                Verdict::Again => errors.push(
                    json!({"id": id, "status": 429, "message": "Rate limit exceeded", "error": "try again"}),
                ),
            }
        }
        Answer::json(207, json!({"successes": successes, "errors": errors}).to_string())
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        error(status, text)
    }

    fn over_quota(&self, _head: &Head, _batch: &Batch, _seconds: u64) -> Answer {
        suspended()
    }

    fn words(&self) -> Words {
        Words { refused: true, again: true }
    }

    fn limits(&self, _head: &Head) -> Limits {
        Limits::of_body(BODY, 413)
    }
}

/// What is looked at in an event.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    id: Loose<'a>,
    #[serde(borrow, rename = "type")]
    kind: Loose<'a>,
    #[serde(borrow)]
    timestamp: Loose<'a>,
    #[serde(borrow)]
    body: Maybe<Body<'a>>,
    metadata: Nested,
    #[serde(borrow)]
    pid: Loose<'a>,
}

/// What is looked at in what the event is about.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    id: Loose<'a>,
    #[serde(borrow)]
    name: Loose<'a>,
    #[serde(borrow)]
    value: Loose<'a>,
    #[serde(borrow, rename = "traceId")]
    trace: Loose<'a>,
    #[serde(borrow)]
    pid: Loose<'a>,
    metadata: Nested,
}

fn judge(e: &Event<'_>) -> Verdict {
    let refused = Verdict::Refused;
    if e.id.filled().is_none() {
        return refused("id: expected a string");
    }
    let Some(kind) = e.kind.text().filter(|kind| TYPES.contains(kind)) else {
        return refused("type: no known type");
    };
    if !e.timestamp.text().is_some_and(rfc3339) {
        return refused("timestamp: expected a time by ISO 8601 with its offset");
    }
    if kind == LOG {
        return Verdict::Noted(LOG);
    }
    let Maybe::Is(body) = &e.body else { return refused("body: expected an object") };
    let text_or_none = |v: &Loose<'_>| matches!(v, Loose::None | Loose::Text(_));
    if !text_or_none(&body.id) || !text_or_none(&body.trace) {
        return refused("body.id and body.traceId: expected strings");
    }
    match kind {
        "score-create" => match score(&body.name, &body.value) {
            Some(why) => refused(why),
            None => Verdict::Taken,
        },
        "span-update" | "generation-update" if body.id == Loose::None => {
            refused("body.id: an update needs it")
        }
        _ => Verdict::Taken,
    }
}

/// What is wrong with a score.
pub fn score(name: &Loose<'_>, value: &Loose<'_>) -> Option<&'static str> {
    if name.filled().is_none() {
        return Some("name: expected a string");
    }
    match value {
        Loose::Text(_) => None,
        v if v.is_number() => None,
        _ => Some("value: expected a number or a string"),
    }
}

fn parse(body: &[u8], batch: &mut Batch) -> Result<(), String> {
    let mut c = Cursor::new(body)?;
    let mut found = false;
    c.object(&mut |c, key| {
        if key != "batch" || c.peek() != Some(b'[') {
            return c.value::<IgnoredAny>().map(drop);
        }
        found = true;
        c.array(&mut |c| {
            // Anything may stand in the array: an event that is none is refused alone.
            let from = c.at;
            let Maybe::Is(e) = c.value::<Maybe<Event<'_>>>()? else {
                batch.push(Scan::default(), "null", Verdict::Refused("expected an object"));
                batch.ids.push("unknown".into());
                return Ok(());
            };
            let verdict = judge(&e);
            batch.ids.push(e.id.text().unwrap_or("unknown").into());
            let id = e.id.id();
            let (inner, own) = match e.body {
                Maybe::Is(b) => (b.metadata.pid(), b.pid.pid()),
                _ => (None, None),
            };
            let pid = inner.or(own).or(e.metadata.pid()).or(e.pid.pid());
            batch.push(Scan { id, pid }, &c.text[from..c.at], verdict);
            Ok(())
        })
    })?;
    c.end()?;
    if found { Ok(()) } else { Err("batch: expected an array".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::scan::Pid;
    use serde_json::Value;

    fn read(body: &Value) -> Result<Batch, Answer> {
        let mut batch = Batch::default();
        Langfuse.read(&Head::of("/", &[]), body.to_string().as_bytes(), &mut batch)?;
        Ok(batch)
    }

    fn event(change: &[(&str, Value)]) -> Value {
        let mut e = json!({"id": "m", "type": "score-create", "timestamp": "2026-11-21T02:30:00.000Z",
            "body": {"id": "s", "name": "ok", "value": 1, "metadata": {"pid": 9}}});
        for (key, value) in change {
            e[key] = value.clone();
        }
        e
    }

    #[test]
    fn each_event_is_judged_alone() {
        let score = |name: Value, value: Value| event(&[("body", json!({"name": name, "value": value}))]);
        let batch = read(&json!({"metadata": {"batch": 1}, "batch": [
            event(&[]), score(json!("n"), json!("text")), event(&[("type", json!("trace-create")), ("body", json!({}))]),
            score(json!("n"), json!(null)), score(json!(""), json!(1)), event(&[("id", json!(7))]), 3,
            event(&[("type", json!("nothing"))]), event(&[("timestamp", json!("2026-11-21"))]), event(&[("body", json!(1))]),
            event(&[("type", json!("span-update")), ("body", json!({}))]), event(&[("type", json!("sdk-log")), ("body", json!(1))]),
        ]}))
        .unwrap_or_else(|a| panic!("{a:?}"));
        let kept: Vec<bool> = batch.events.iter().map(|e| e.verdict.kept()).collect();
        assert_eq!(kept, [true, true, true, false, false, false, false, false, false, false, false, true]);
        assert_eq!(batch.pids, [Pid::Number(9)]);
        let answer = Langfuse.answer(&Head::of("/", &[]), &batch);
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, said["successes"].as_array().map(Vec::len)), (207, Some(3)));
        let errors = said["errors"].as_array().unwrap();
        assert_eq!(
            (errors.len(), &errors[2]["id"], &errors[3]["id"]),
            (8, &json!("unknown"), &json!("unknown"))
        );
        assert!(errors.iter().all(|e| e["status"] == 400));
    }

    #[test]
    fn envelopes() {
        for bad in [json!({}), json!([]), json!({"batch": 1}), json!({"batch": {}})] {
            assert_eq!(read(&bad).err().unwrap().status, 400, "{bad}");
        }
        assert_eq!(read(&json!({"batch": []})).ok().unwrap().events.len(), 0);
        assert_eq!(admit(&Head::of("/", &[])).unwrap_err().status, 401);
        assert_eq!(admit(&Head::of("/", &[("Authorization", "Bearer x")])).unwrap_err().status, 401);
        assert!(admit(&Head::of("/", &[("authorization", "Basic cGs6c2s=")])).is_ok());
    }
}
