//! PostHog's capture v1: `{"created_at":...,"batch":[...]}` to `/i/v1/analytics/events`, with a bearer token.
//!
//! The service's promise: 200 names a result for each `uuid`, of which only `retry` may be sent again; a uuid that it
//! does not name was taken. `PostHog-Request-Id` and `created_at` are the same on every attempt, `PostHog-Attempt`
//! counts, and `PostHog-Request-Timestamp` is the attempt's time, by which the server corrects its skew.
//!
//! One bad event can cost the whole request: a field of the wrong type, a field that is there twice, a uuid that is
//! none, two events of one uuid. So an event is put together anew here, and one that cannot be is refused before it
//! is sent. An event of v0 becomes one of v1:
//! - Out of `properties` go `$session_id` and `$window_id` into the event, `$cookieless_mode`, `$ignore_sent_at` (as
//!   `disable_skew_correction`), `$product_tour_id` and `$process_person_profile` into `options`, and `$lib` and
//!   `$lib_...` away: the server makes them from `PostHog-Sdk-Info`. What the event has there already wins.
//! - `$set` and `$set_once` of the event go into `properties`, whose own members win.
//! - A `distinct_id` may be a number, and may be in `properties`; a time without an offset is UTC. Session and window
//!   ids that are no text, and options that cannot be read as their type, are left out, as the official client does.
//!
//! At most 10 MiB a body (what the server takes of one that is not compressed), 900 KiB an event (the official
//! client's own bound), 200 bytes for `event` and `distinct_id`.

use super::json_text::{self, Members};
use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, Outcome, SDK, Sent, Stamp, Taken, VERSION, Verdict,
    common_verdict, separators, time, uuid,
};
use serde_json::Value;
use std::borrow::Cow;

/// Most bytes of a name or a distinct id.
const LONGEST: usize = 200;
/// Distinct ids that the service takes for a mistake of the sender, in lower case.
const PLACEHOLDERS: [&str; 20] = [
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

/// See the module's text.
pub struct PosthogV1 {
    bearer: String,
}

impl PosthogV1 {
    /// With the project's key.
    pub fn new(api_key: &str) -> PosthogV1 {
        PosthogV1 { bearer: format!("Bearer {api_key}") }
    }
}

impl Format for PosthogV1 {
    fn path(&self) -> &'static str {
        "/i/v1/analytics/events"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn limits(&self, _kind: u8) -> Limits {
        Limits { body: 10 << 20, event: 900 << 10, events: usize::MAX }
    }

    fn unique_ids(&self) -> bool {
        true
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["properties"])
    }

    fn headers(&self, envelope: &Envelope<'_>) -> Vec<(String, String)> {
        let now = time::rfc3339_ms(envelope.now_ns);
        vec![
            ("Authorization".into(), self.bearer.clone()),
            ("PostHog-Sdk-Info".into(), format!("{SDK}/{VERSION}")),
            ("PostHog-Attempt".into(), envelope.attempt.to_string()),
            ("PostHog-Request-Id".into(), envelope.id.into()),
            ("PostHog-Request-Timestamp".into(), String::from_utf8_lossy(&now).into_owned()),
        ]
    }

    fn open(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.extend_from_slice(b"{\"created_at\":\"");
        out.extend_from_slice(&time::rfc3339_ms(envelope.created_ns));
        out.extend_from_slice(b"\",\"batch\":[");
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.extend_from_slice(b"]}");
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        separators(self, events) + br#"{"created_at":"2026-11-21T02:30:00.120Z","batch":[]}"#.len()
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let mut top = Members::of_event(raw)?;
        let mut properties = match top.take("properties") {
            Some(text) => Members::of(text).map_err(|_| Invalid("properties is not an object"))?,
            None => Members::default(),
        };
        let own = own_id(&mut top)?;
        let event = name(&mut top)?;
        let distinct_id = distinct_id(&mut top, &properties)?;
        let time = timestamp(&mut top, stamp)?;

        out.push(b'{');
        json_text::put(out, "uuid", &json_text::quoted(own.as_ref().unwrap_or(stamp.id)));
        json_text::put_text(out, "event", event);
        json_text::put_text(out, "distinct_id", &distinct_id);
        json_text::put(out, "timestamp", &json_text::quoted(&time));
        for (moved, field) in [("$session_id", "session_id"), ("$window_id", "window_id")] {
            let inner = properties.take(moved);
            let text =
                [top.take(field), inner].into_iter().flatten().find(|t| json_text::string(t).is_some());
            if let Some(text) = text {
                json_text::put_text(out, field, text);
            }
        }
        let options = options(&mut top, &mut properties)?;
        json_text::put(out, "options", &options);
        out.extend_from_slice(b"\"properties\":{");
        for name in ["$set", "$set_once"] {
            if let Some(text) = merged(top.take(name), properties.take(name)) {
                json_text::put_text(out, name, &text);
            }
        }
        properties.0.retain(|member| member.name != "$lib" && !member.name.starts_with("$lib_"));
        properties.append(out);
        json_text::end(out, b"},");
        top.append(out);
        json_text::end(out, b"}");
        Ok(Taken { id: own.map(|id| String::from_utf8_lossy(&id).into()), kind: 0 })
    }

    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict {
        let verdict = common_verdict(answer);
        if verdict != Verdict::All(Fate::Delivered) {
            return verdict;
        }
        let body = answer.json().unwrap_or_default();
        let Some(results) = body.get("results").and_then(Value::as_object) else {
            return Verdict::Unverified;
        };
        let outcome = |id: &&str| {
            let Some(result) = results.get(*id) else { return Fate::Delivered.into() };
            match result.get("result").and_then(Value::as_str) {
                Some("drop") => {
                    Outcome::refused(result.get("details").and_then(Value::as_str).unwrap_or("dropped"))
                }
                Some("retry") => Fate::Retry.into(),
                _ => Fate::Delivered.into(),
            }
        };
        Verdict::Each(sent.ids.iter().map(outcome).collect())
    }
}

/// The event's own id, as the answer will spell it.
fn own_id(top: &mut Members<'_>) -> Result<Option<[u8; 36]>, Invalid> {
    let Some(text) = top.take("uuid") else { return Ok(None) };
    let digits = json_text::string(text).and_then(|text| uuid::digits(&text));
    digits.map(|digits| Some(uuid::hyphened(&digits))).ok_or(Invalid("uuid is not a UUID"))
}

fn name<'a>(top: &mut Members<'a>) -> Result<&'a str, Invalid> {
    let text = top.take("event").ok_or(Invalid("event is missing"))?;
    match json_text::string(text).as_deref() {
        None => Err(Invalid("event is not a text")),
        Some("") => Err(Invalid("event is empty")),
        Some(name) if name.len() > LONGEST => Err(Invalid("event is longer than 200 bytes")),
        Some(_) => Ok(text),
    }
}

/// As a JSON string.
fn distinct_id<'a>(top: &mut Members<'a>, properties: &Members<'a>) -> Result<Cow<'a, str>, Invalid> {
    let text = top.take("distinct_id").or_else(|| properties.get("distinct_id"));
    let text = text.ok_or(Invalid("distinct_id is missing"))?;
    let (json, id) = match json_text::string(text) {
        Some(id) => (Cow::Borrowed(text), id),
        None if is_number(text) => (Cow::Owned(format!("\"{text}\"")), Cow::Borrowed(text)),
        None => return Err(Invalid("distinct_id is neither a text nor a number")),
    };
    match id.trim() {
        "" => Err(Invalid("distinct_id is empty")),
        id if id.len() > LONGEST => Err(Invalid("distinct_id is longer than 200 bytes")),
        id if PLACEHOLDERS.iter().any(|p| id.eq_ignore_ascii_case(p)) => {
            Err(Invalid("distinct_id is a placeholder that the service refuses"))
        }
        _ => Ok(json),
    }
}

fn timestamp(top: &mut Members<'_>, stamp: &Stamp<'_>) -> Result<Vec<u8>, Invalid> {
    let Some(text) = top.take("timestamp") else { return Ok(time::rfc3339_ms(stamp.time_ns).to_vec()) };
    let given = json_text::string(text).ok_or(Invalid("timestamp is not a text"))?;
    let said = time::to_rfc3339(&given).ok_or(Invalid("timestamp is not an RFC 3339 time"))?;
    Ok(said.into_owned().into_bytes())
}

/// The object of options, from the event's own and from what moves there.
fn options(top: &mut Members<'_>, properties: &mut Members<'_>) -> Result<Vec<u8>, Invalid> {
    let mut given = match top.take("options") {
        Some(text) => Members::of(text).map_err(|_| Invalid("options is not an object"))?,
        None => Members::default(),
    };
    let mut out = b"{".to_vec();
    for (moved, field, read) in [
        ("$cookieless_mode", "cookieless_mode", flag as fn(&str) -> Option<Cow<'_, str>>),
        ("$ignore_sent_at", "disable_skew_correction", flag),
        ("$process_person_profile", "process_person_profile", flag),
        ("$product_tour_id", "product_tour_id", text),
    ] {
        let inner = properties.take(moved);
        if let Some(value) = [given.take(field), inner].into_iter().flatten().find_map(read) {
            json_text::put_text(&mut out, field, &value);
        }
    }
    given.append(&mut out);
    json_text::end(&mut out, b"}");
    Ok(out)
}

/// The service's own reading of a flag.
fn flag(json: &str) -> Option<Cow<'_, str>> {
    let word = match json_text::string(json) {
        Some(text) => text.trim().to_ascii_lowercase(),
        None => json.to_string(),
    };
    let yes = match word.as_str() {
        "true" | "1" => true,
        "false" | "0" => false,
        _ if is_number(json) => json.parse::<f64>().ok()? != 0.0,
        _ => return None,
    };
    Some(Cow::Borrowed(if yes { "true" } else { "false" }))
}

fn text(json: &str) -> Option<Cow<'_, str>> {
    let integer = json.bytes().all(|b| b.is_ascii_digit());
    match integer {
        true => Some(Cow::Owned(format!("\"{json}\""))),
        false => json_text::string(json).map(|_| Cow::Borrowed(json)),
    }
}

fn is_number(json: &str) -> bool {
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// Members of both, of which those of the second win; where the two are no objects, the second.
fn merged<'a>(above: Option<&'a str>, own: Option<&'a str>) -> Option<Cow<'a, str>> {
    let (Some(above), Some(own)) = (above, own) else { return above.or(own).map(Cow::Borrowed) };
    let (Ok(above), Ok(mut all)) = (Members::of(above), Members::of(own)) else { return Some(own.into()) };
    all.add_missing(above);
    let mut out = b"{".to_vec();
    all.append(&mut out);
    json_text::end(&mut out, b"}");
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, ID, R, T, TIME, event, judge, ok, request, statuses, value, why};
    use super::*;
    use serde_json::json;

    fn f() -> PosthogV1 {
        PosthogV1::new("phc_x")
    }

    #[test]
    fn a_whole_request() {
        let raw = r#"{"event":"job_done","distinct_id":"w-17","properties":{"ms":42}}"#;
        let (body, headers) = request(&f(), &[raw, raw]);
        let v: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(v["created_at"], "2026-11-21T02:30:00.000Z");
        assert_eq!(
            v["batch"][1],
            json!({"uuid": ID, "event": "job_done", "distinct_id": "w-17", "timestamp": TIME,
                   "options": {}, "properties": {"ms": 42}})
        );
        assert_eq!(v.as_object().unwrap().len(), 2, "no key in the body");
        let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap();
        assert_eq!(get("Authorization"), "Bearer phc_x");
        assert_eq!(get("PostHog-Sdk-Info"), format!("libtelemetry/{}", env!("CARGO_PKG_VERSION")));
        assert_eq!((get("PostHog-Attempt"), get("PostHog-Request-Id").len()), ("1", 36));
        assert_eq!(get("PostHog-Request-Timestamp"), "2026-11-21T02:30:00.120Z");
    }

    #[test]
    fn an_event_of_v0_becomes_one_of_v1() {
        let v = value(
            &f(),
            r#"{"event":"e","distinct_id":7,"library":"x","$set":{"a":1,"b":2},"$set_once":{"c":3},
                "uuid":"0198A0C26D0E7C118A775D1C2E9B4F11","timestamp":"2026-11-21 02:29:58",
                "properties":{"$set":{"b":9},"$session_id":"s","$window_id":4,"$lib":"py","$lib_version":"1","$library":1,
                "$cookieless_mode":"1","$ignore_sent_at":true,"$process_person_profile":0,"$product_tour_id":12,"n":1.50}}"#,
        );
        assert_eq!(
            v,
            json!({"uuid": "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f11", "event": "e", "distinct_id": "7",
                "timestamp": "2026-11-21T02:29:58Z", "session_id": "s", "library": "x",
                "options": {"cookieless_mode": true, "disable_skew_correction": true,
                            "process_person_profile": false, "product_tour_id": "12"},
                "properties": {"$library": 1, "n": 1.5, "$set": {"a": 1, "b": 9}, "$set_once": {"c": 3}}})
        );
    }

    #[test]
    fn an_event_of_v1_stays_one() {
        let v = value(
            &f(),
            r#"{"event":"e","distinct_id":"d","session_id":"mine","window_id":null,
                "options":{"process_person_profile":false,"cookieless_mode":[],"later":1},
                "properties":{"$session_id":"other","$process_person_profile":true,"$cookieless_mode":"no"}}"#,
        );
        assert_eq!(v["session_id"], "mine");
        assert_eq!(v["options"], json!({"process_person_profile": false, "later": 1}));
        assert_eq!((&v["properties"], v.get("window_id")), (&json!({}), None));
        // Members that nobody asks for are as they were written.
        let text =
            event(&f(), r#"{"event":"e","distinct_id":"d","properties":{"n":1.50e0,"\u0061":"\u00e9"}}"#)
                .unwrap()
                .1;
        assert!(text.ends_with(r#""properties":{"n":1.50e0,"\u0061":"\u00e9"}}"#), "{text}");
    }

    #[test]
    fn a_field_is_there_once() {
        let (taken, text) = event(
            &f(),
            r#"{"event":"a","event":"e","distinct_id":"d","uuid":null,"properties":{"distinct_id":"x"},"timestamp":null}"#,
        )
        .unwrap();
        assert_eq!((taken.id, text.matches("\"event\"").count()), (None, 1));
        assert_eq!(text.matches("\"uuid\"").count(), 1, "{text}");
        assert!(text.contains(r#""event":"e""#) && text.contains(r#""distinct_id":"d""#), "{text}");
        let inner = value(&f(), r#"{"event":"e","properties":{"distinct_id":"x"}}"#);
        assert_eq!(inner["distinct_id"], "x");
    }

    #[test]
    fn two_spellings_of_an_id_are_one_id() {
        let id = |uuid: &str| {
            event(&f(), &format!(r#"{{"event":"e","distinct_id":"d","uuid":"{uuid}"}}"#))
                .unwrap()
                .0
                .id
                .unwrap()
        };
        assert_eq!(id("0198A0C2-6D0E-7C11-8A77-5D1C2E9B4F11"), id("0198a0c26d0e7c118a775d1c2e9b4f11"));
    }

    #[test]
    fn what_would_cost_the_whole_request_is_refused() {
        let long = "é".repeat(101);
        for (raw, reason) in [
            ("[1]", "not one JSON object"),
            (r#"{"distinct_id":"d"}"#, "event is missing"),
            (r#"{"event":7,"distinct_id":"d"}"#, "event is not a text"),
            (r#"{"event":"\ud800","distinct_id":"d"}"#, "event is not a text"),
            (r#"{"event":"","distinct_id":"d"}"#, "event is empty"),
            (&format!(r#"{{"event":"{long}","distinct_id":"d"}}"#), "event is longer"),
            (r#"{"event":"e"}"#, "distinct_id is missing"),
            (r#"{"event":"e","distinct_id":[]}"#, "neither"),
            (r#"{"event":"e","distinct_id":" "}"#, "distinct_id is empty"),
            (r#"{"event":"e","distinct_id":0}"#, "placeholder"),
            (r#"{"event":"e","distinct_id":" Anonymous "}"#, "placeholder"),
            (&format!(r#"{{"event":"e","distinct_id":"{long}"}}"#), "distinct_id is longer"),
            (r#"{"event":"e","distinct_id":"d","uuid":"mine"}"#, "uuid"),
            (r#"{"event":"e","distinct_id":"d","uuid":7}"#, "uuid"),
            (r#"{"event":"e","distinct_id":"d","timestamp":"then"}"#, "timestamp"),
            (r#"{"event":"e","distinct_id":"d","timestamp":1795228198}"#, "timestamp"),
            (r#"{"event":"e","distinct_id":"d","properties":[]}"#, "properties"),
            (r#"{"event":"e","distinct_id":"d","options":true}"#, "options"),
        ] {
            let said = why(&f(), raw);
            assert!(said.contains(reason), "{raw}: {said}");
        }
        let fits = "é".repeat(100);
        event(&f(), &format!(r#"{{"event":"{fits}","distinct_id":"{fits}"}}"#)).unwrap();
    }

    #[test]
    fn what_answers_mean() {
        let f = f();
        statuses(
            &f,
            &[
                (&[200], Verdict::Unverified),
                (&[400, 413], Verdict::Bisect),
                (&[401, 402, 403], Verdict::Denied),
                (&[408, 429, 500, 502, 503, 504], T),
                (&[404], R),
                (&[415], Verdict::PlainPlease),
            ],
        );
        let body = r#"{"results":{"a":{"result":"ok","details":null},"b":{"result":"drop","details":"quota"},
            "c":{"result":"retry","details":"not_persisted"},"d":{"result":"warning","details":"w"},
            "e":{"result":"drop"},"g":{"result":"?"},"z":{"result":"retry"}}}"#;
        assert_eq!(
            judge(&f, 200, body, &["a", "b", "c", "d", "e", "f", "g"]),
            Verdict::Each(vec![
                ok(),
                Outcome::refused("quota"),
                kit::again(),
                ok(),
                Outcome::refused("dropped"),
                ok(),
                ok()
            ])
        );
        assert_eq!(judge(&f, 200, r#"{"results":{}}"#, &["a"]), Verdict::Each(vec![ok()]));
        for garbage in ["", "{}", r#"{"results":[]}"#] {
            assert_eq!(judge(&f, 200, garbage, &["a"]), Verdict::Unverified, "{garbage}");
        }
        let cut = Answer { status: 200, headers: &[], body: b"{\"results\":{}}", truncated: true };
        assert_eq!(f.judge(&cut, &Sent { kind: 0, ids: &["a"] }), Verdict::Unverified);
    }
}
