//! PostHog's capture v1.
//!
//! What the service does: the key is a Bearer token (401 without); the required headers are checked before
//! the body (400 names those that are missing); a uuid that is none, or that comes twice in one request,
//! refuses the whole request; any other bad event is answered with `drop` and the reason. 200 lists a result
//! for every uuid: `ok`, `warning` (taken, but without a person), `drop` (for good) or `retry`; with a
//! `retry` among them the answer has Retry-After. Errors are objects with `error`, `error_description`
//! and `error_uri`.

use super::{Dialect, Limits, Words, rfc3339};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::{Loose, Maybe};
use crate::collect::scan::{Nested, Scan, uuid};
use crate::collect::unpack::Encoding;
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// See the module's text.
pub struct PosthogV1;

const REQUIRED: [&str; 6] = [
    "PostHog-Sdk-Info",
    "PostHog-Attempt",
    "PostHog-Request-Id",
    "PostHog-Request-Timestamp",
    "content-type",
    "user-agent",
];

/// Distinct ids that no person has; compared without case.
const NOBODY: [&str; 20] = [
    "0",
    "00000000-0000-0000-0000-000000000000",
    "[object object]",
    "anonymous",
    "anonymous-user",
    "backend",
    "distinct_id",
    "distinctid",
    "email",
    "false",
    "guest",
    "id",
    "nan",
    "none",
    "not_authenticated",
    "null",
    "system",
    "true",
    "undefined",
    "user",
];

/// Bytes of an event's name, and of a distinct id.
const NAME: usize = 200;

/// Why a request is refused: status, the word for it, and a sentence.
type Refusal = (u16, &'static str, String);

fn refused((status, error, description): Refusal) -> Answer {
    let answer = Answer::json(
        status,
        json!({"error": error, "error_description": description, "error_uri": "https://posthog.com/docs/api"})
            .to_string(),
    );
    if matches!(status, 429 | 500 | 503) { answer.with("Retry-After", 1) } else { answer }
}

impl Dialect for PosthogV1 {
    fn name(&self, _head: &Head) -> &'static str {
        "posthog-v1"
    }

    fn encodings(&self) -> &'static [Encoding] {
        &[Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd]
    }

    fn admit(&self, head: &Head) -> Result<(), Answer> {
        admit(head).map_err(refused)
    }

    fn read(&self, _head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        parse(body, batch).map_err(refused)
    }

    fn answer(&self, _head: &Head, batch: &Batch) -> Answer {
        let mut results = Map::new();
        let mut again = false;
        for e in &batch.events {
            let (result, details) = match e.verdict {
                Verdict::Taken => ("ok", None),
                Verdict::Noted(why) => ("warning", Some(why)),
                Verdict::Refused(why) => ("drop", Some(why)),
                Verdict::Again => ("retry", Some("not_persisted")),
            };
            again |= e.verdict == Verdict::Again;
            let mut entry = Map::from_iter([("result".into(), result.into())]);
            if let Some(details) = details {
                entry.insert("details".into(), details.into());
            }
            results.insert(hyphens(e.key.unwrap_or_default()), Value::Object(entry));
        }
        let answer = Answer::json(200, json!({"results": results}).to_string());
        if again { answer.with("Retry-After", 1) } else { answer }
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        let word = match status {
            413 => "payload_too_large",
            415 => "unsupported_encoding",
            429 => "rate_limited",
            500 => "internal_error",
            503 => "service_unavailable",
            504 => "gateway_timeout",
            _ => "request_decoding_error",
        };
        let mut answer = refused((status, word, text.into()));
        // Who asks for a status says itself when to come again.
        answer.extra.clear();
        answer
    }

    fn over_quota(&self, head: &Head, batch: &Batch, _seconds: u64) -> Answer {
        self.answer(head, batch)
    }

    fn words(&self) -> Words {
        Words { refused: true, again: true }
    }

    fn limits(&self, _head: &Head) -> Limits {
        Limits::of_body(20 << 20, 413)
    }
}

fn hyphens(id: u128) -> String {
    let hex = format!("{id:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

fn admit(head: &Head) -> Result<(), Refusal> {
    let invalid = |text: String| (400, "invalid_header_value", format!("invalid header value: {text}"));
    let Some(authorization) = head.header("Authorization") else {
        return Err((401, "missing_authorization", "Authorization header is required".into()));
    };
    let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| head.header(name).is_none()).collect();
    if !missing.is_empty() {
        let text = format!("request is missing required headers: {missing:?}");
        return Err((400, "missing_required_headers", text));
    }
    let Some((_, token)) = authorization.split_once(' ').filter(|(s, _)| s.eq_ignore_ascii_case("bearer"))
    else {
        return Err(invalid("Authorization must use Bearer scheme".into()));
    };
    if token.trim().is_empty() || token.trim().starts_with("phx_") {
        return Err((401, "invalid_api_token", "The provided API token is not valid.".into()));
    }
    if head.content_type() != "application/json" {
        return Err((415, "unsupported_content_type", "unsupported content type".into()));
    }
    let value = |name: &str| head.header(name).unwrap_or_default();
    if uuid(value("PostHog-Request-Id").as_bytes()).is_none() {
        return Err(invalid("PostHog-Request-Id is not a valid UUID".into()));
    }
    if !value("PostHog-Attempt").parse::<u32>().is_ok_and(|n| n > 0) {
        return Err(invalid("PostHog-Attempt must be a positive integer".into()));
    }
    if !rfc3339(value("PostHog-Request-Timestamp")) {
        return Err(invalid("PostHog-Request-Timestamp is not valid RFC 3339".into()));
    }
    let info = value("PostHog-Sdk-Info");
    if info.len() > 200 || !info.contains('/') {
        // The service takes it and leaves the event without a library; here it is a bug of the sender.
        return Err(invalid("PostHog-Sdk-Info must be name/version, at most 200 bytes".into()));
    }
    Ok(())
}

/// What is looked at in an event.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Loose<'a>,
    #[serde(borrow)]
    uuid: Loose<'a>,
    #[serde(borrow)]
    distinct_id: Loose<'a>,
    #[serde(borrow)]
    timestamp: Loose<'a>,
    #[serde(default)]
    properties: Nested,
    #[serde(default, borrow)]
    options: Maybe<Options<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Options<'a> {
    #[serde(borrow)]
    cookieless_mode: Loose<'a>,
    #[serde(borrow)]
    disable_skew_correction: Loose<'a>,
    #[serde(borrow)]
    process_person_profile: Loose<'a>,
    #[serde(borrow)]
    product_tour_id: Loose<'a>,
}

fn judge(e: &Event<'_>) -> Verdict {
    let name = e.event.text().unwrap_or_default();
    let person = e.distinct_id.text().unwrap_or_default().trim();
    let refused = if name.is_empty() {
        Some("missing_event_name")
    } else if name.len() > NAME {
        Some("event_name_too_long")
    } else if person.is_empty() {
        Some("missing_distinct_id")
    } else if person.len() > NAME {
        Some("distinct_id_too_large")
    } else if !e.timestamp.text().is_some_and(rfc3339) {
        Some("invalid_event_timestamp")
    } else if e.properties == Nested::Other {
        Some("malformed_event_properties")
    } else if !options(&e.options) {
        Some("invalid_options")
    } else {
        None
    };
    match refused {
        Some(why) => Verdict::Refused(why),
        None if NOBODY.iter().any(|n| n.eq_ignore_ascii_case(person)) => {
            Verdict::Noted("person_processing_disabled")
        }
        None => Verdict::Taken,
    }
}

/// Whether every option can be read; what looks like a truth value is taken as one.
fn options(options: &Maybe<Options<'_>>) -> bool {
    let Maybe::Is(o) = options else { return *options == Maybe::None };
    let truth = |v: &Loose<'_>| match v {
        Loose::None | Loose::Bool => true,
        Loose::Text(t) => ["true", "false", "1", "0"].iter().any(|word| word.eq_ignore_ascii_case(t.trim())),
        other => other.is_number(),
    };
    truth(&o.cookieless_mode)
        && truth(&o.disable_skew_correction)
        && truth(&o.process_person_profile)
        && matches!(o.product_tour_id, Loose::None | Loose::Text(_) | Loose::Whole(_))
}

impl PartialEq for Options<'_> {
    /// Only asked whether there are any.
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

fn parse(body: &[u8], batch: &mut Batch) -> Result<(), Refusal> {
    if body.is_empty() {
        return Err((400, "empty_body", "request body is empty".into()));
    }
    let (mut created, mut found, mut bad) = (false, false, None);
    let mut seen = HashSet::new();
    let mut walk = || -> Result<(), String> {
        let mut c = Cursor::new(body)?;
        c.object(&mut |c, key| match key {
            "created_at" => {
                created = c.value::<Loose<'_>>()?.text().is_some_and(rfc3339);
                Ok(())
            }
            "batch" => {
                found = true;
                c.array(&mut |c| {
                    let from = c.at;
                    let e = c.object_as::<Event<'_>>()?;
                    let text = e.uuid.text().ok_or("uuid is not a string")?.trim();
                    let Some(id) = uuid(text.as_bytes()) else {
                        let why = if text.is_empty() {
                            (400, "missing_event_uuid", "event submitted without a uuid".into())
                        } else {
                            (400, "invalid_event_uuid", format!("event uuid is not valid: {text}"))
                        };
                        bad.get_or_insert(why);
                        return Ok(());
                    };
                    if !seen.insert(id) {
                        let why = format!("duplicate event uuid: {text}");
                        bad.get_or_insert((400, "duplicate_event_uuid", why));
                    }
                    let verdict = judge(&e);
                    let scan = Scan { id: Some(id), pid: e.properties.pid() };
                    batch.push(scan, &c.text[from..c.at], verdict);
                    Ok(())
                })
            }
            _ => c.value::<IgnoredAny>().map(drop),
        })?;
        c.end()
    };
    walk().map_err(|why| (400, "request_parsing_error", format!("Failed to parse request body: {why}")))?;
    if let Some(why) = bad {
        return Err(why);
    }
    if !found {
        return Err((400, "request_parsing_error", "Failed to parse request body: no batch".into()));
    }
    if batch.events.is_empty() {
        return Err((400, "empty_batch", "request batch is empty".into()));
    }
    if !created {
        return Err((400, "invalid_batch", "invalid batch: created_at is not valid RFC 3339".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: [(&str, &str); 7] = [
        ("authorization", "bearer phc_x"),
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", "test/1"),
        ("posthog-sdk-info", "libtelemetry/1.0"),
        ("posthog-attempt", "1"),
        ("posthog-request-id", "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10"),
        ("posthog-request-timestamp", "2026-11-21T02:30:00.120Z"),
    ];

    fn error(answer: &Answer) -> String {
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        value["error"].as_str().unwrap_or_default().into()
    }

    #[test]
    fn headers() {
        let asked = |headers: &[(&str, &str)]| PosthogV1.admit(&Head::of("/i/v1/analytics/events", headers));
        assert!(asked(&HEADERS).is_ok());
        for (at, status) in [(0, 401), (1, 400), (2, 400), (3, 400), (4, 400), (5, 400), (6, 400)] {
            let mut fewer = HEADERS.to_vec();
            let (name, _) = fewer.remove(at);
            let answer = asked(&fewer).unwrap_err();
            assert_eq!(answer.status, status, "{name}");
            let text = String::from_utf8_lossy(&answer.body).to_lowercase();
            assert!(text.contains(name), "{name} is not named by {text}");
        }
        for (at, value, status) in [
            (0, "Basic x", 400),
            (0, "Bearer ", 401),
            (0, "Bearer phx_personal", 401),
            (1, "text/plain", 415),
            (3, "nothing", 400),
            (4, "0", 400),
            (5, "1", 400),
            (6, "2026-11-21T02:30:00", 400),
        ] {
            let mut other = HEADERS.to_vec();
            other[at].1 = value;
            assert_eq!(asked(&other).unwrap_err().status, status, "{value}");
        }
    }

    fn body(events: &[Value]) -> Vec<u8> {
        json!({"created_at": "2026-11-21T02:30:00Z", "batch": events}).to_string().into_bytes()
    }

    fn event(n: u32, change: &[(&str, Value)]) -> Value {
        let mut e = json!({"event": "e", "uuid": format!("0198a0c2-6d0e-7c11-8a77-5d1c2e9b{n:04x}"),
            "distinct_id": "d", "timestamp": "2026-11-21T02:29:58.004Z", "properties": {"pid": 7}});
        for (key, value) in change {
            e[key] = value.clone();
        }
        e
    }

    #[test]
    fn every_event_has_its_result() {
        let cases: [(&[(&str, Value)], Verdict); 12] = [
            (&[], Verdict::Taken),
            (&[("event", json!(""))], Verdict::Refused("missing_event_name")),
            (&[("event", json!("x".repeat(201)))], Verdict::Refused("event_name_too_long")),
            (&[("distinct_id", json!(" "))], Verdict::Refused("missing_distinct_id")),
            (&[("distinct_id", json!("x".repeat(201)))], Verdict::Refused("distinct_id_too_large")),
            (&[("distinct_id", json!("Anonymous"))], Verdict::Noted("person_processing_disabled")),
            (&[("timestamp", json!("2026-11-21T02:29:58"))], Verdict::Refused("invalid_event_timestamp")),
            (&[("properties", json!([]))], Verdict::Refused("malformed_event_properties")),
            (&[("options", json!({"cookieless_mode": "yes"}))], Verdict::Refused("invalid_options")),
            (&[("options", json!({"cookieless_mode": "TRUE", "product_tour_id": 4}))], Verdict::Taken),
            (&[("options", json!(null))], Verdict::Taken),
            (&[("options", json!(1))], Verdict::Refused("invalid_options")),
        ];
        let events: Vec<Value> = (0..).zip(&cases).map(|(n, (change, _))| event(n, change)).collect();
        let (head, mut batch) = (Head::of("/i/v1/analytics/events", &HEADERS), Batch::default());
        assert!(PosthogV1.read(&head, &body(&events), &mut batch).is_ok());
        for (e, (change, verdict)) in batch.events.iter().zip(&cases) {
            assert_eq!(e.verdict, *verdict, "{change:?}");
        }
        batch.events[0].verdict = Verdict::Again;
        let answer = PosthogV1.answer(&head, &batch);
        let results: Value = serde_json::from_slice(&answer.body).unwrap();
        let of = |n: u32| &results["results"][format!("0198a0c2-6d0e-7c11-8a77-5d1c2e9b{n:04x}")];
        assert_eq!(*of(0), json!({"result": "retry", "details": "not_persisted"}));
        assert_eq!(*of(1), json!({"result": "drop", "details": "missing_event_name"}));
        assert_eq!(*of(5), json!({"result": "warning", "details": "person_processing_disabled"}));
        assert_eq!(*of(9), json!({"result": "ok"}));
        assert_eq!(answer.extra, [("Retry-After", "1".to_string())]);
    }

    #[test]
    fn what_refuses_all() {
        let twice = |id: &str| event(1, &[("uuid", json!(id))]);
        let upper = "0198A0C2-6D0E-7C11-8A77-5D1C2E9B0001";
        for (body, expected) in [
            (body(&[event(1, &[]), event(2, &[]), twice(upper)]), "duplicate_event_uuid"),
            (body(&[event(1, &[]), twice("x")]), "invalid_event_uuid"),
            (body(&[twice("")]), "missing_event_uuid"),
            (body(&[twice("x"), json!({"event": "e"})]), "request_parsing_error"),
            (body(&[]), "empty_batch"),
            (b"".to_vec(), "empty_body"),
            (b"{}".to_vec(), "request_parsing_error"),
            (b"{\"batch\":[}".to_vec(), "request_parsing_error"),
            (json!({"batch": [event(1, &[])], "created_at": "today"}).to_string().into(), "invalid_batch"),
        ] {
            let (head, mut batch) = (Head::of("/", &HEADERS), Batch::default());
            let answer = PosthogV1.read(&head, &body, &mut batch).unwrap_err();
            assert_eq!((answer.status, error(&answer).as_str()), (400, expected));
        }
    }
}
