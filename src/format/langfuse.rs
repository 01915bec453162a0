//! Langfuse's ingestion: `{"batch":[...],"metadata":{...}}` to `/api/public/ingestion`.
//!
//! The service's promise: whenever the envelope could be read the status is 207, and the body says for each event's
//! `id` what became of it: `successes:[{id,status}]`, `errors:[{id,status,message,error}]`. Only errors of 429 and 5xx
//! may be sent again; ids that were not sent are not for us. `id` is the key by which a message is taken once, so it
//! must be fresh for each message, and a request has it once: of two the answer could not be told apart.
//! The service calls this endpoint legacy; newer servers may take nothing but `score-create` here and say so per event.
//!
//! At most 1 MB an event and 2.5 MB a body: what the official client aims at. The service documents 3.5 MB and its
//! parser takes 4.5 MB, but a client that is exact needs no margin above its aim, and proxies in front often allow
//! less: 413 is halved.

use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, Outcome, SDK, Sent, Stamp, Taken, VERSION, Verdict,
    decimals, json_text, separators, verdict_with_final_408,
};
use serde_json::Value;
use std::collections::HashMap;

/// See the module's text.
pub struct Langfuse {
    public_key: Option<String>,
    /// `],"metadata":{...,"batch_size":`
    tail: Vec<u8>,
}

impl Langfuse {
    /// With `public_key:secret_key`, of which only the first is kept.
    pub fn new(basic: Option<&str>) -> Langfuse {
        let public_key = basic.and_then(public_key);
        let mut tail = b"],\"metadata\":{".to_vec();
        json_text::member(&mut tail, "sdk_name", SDK.as_bytes());
        json_text::member(&mut tail, "sdk_version", VERSION.as_bytes());
        if let Some(key) = &public_key {
            json_text::put_text(&mut tail, "public_key", &Value::from(key.as_str()).to_string());
        }
        tail.extend_from_slice(b"\"batch_size\":");
        Langfuse { public_key, tail }
    }
}

/// The part of `public_key:secret_key` that may be shown.
pub fn public_key(basic: &str) -> Option<String> {
    basic.split_once(':').map(|(key, _)| key.to_string()).filter(|key| !key.is_empty())
}

/// The headers by which the service knows who sends.
pub fn sdk_headers(public_key: Option<&str>) -> Vec<(String, String)> {
    let mut headers = vec![
        ("x-langfuse-sdk-name".to_string(), SDK.to_string()),
        ("x-langfuse-sdk-version".to_string(), VERSION.to_string()),
    ];
    headers.extend(public_key.map(|key| ("x-langfuse-public-key".to_string(), key.to_string())));
    headers
}

impl Format for Langfuse {
    fn path(&self) -> &'static str {
        "/api/public/ingestion"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn limits(&self, _kind: u8) -> Limits {
        Limits { body: 2_500_000, event: 1_000_000, events: usize::MAX }
    }

    fn unique_ids(&self) -> bool {
        true
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["body", "metadata"])
    }

    fn headers(&self, _envelope: &Envelope<'_>) -> Vec<(String, String)> {
        sdk_headers(self.public_key.as_deref())
    }

    fn open(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.extend_from_slice(b"{\"batch\":[");
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.extend_from_slice(&self.tail);
        out.extend_from_slice(format!("{}}}}}", envelope.events).as_bytes());
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        br#"{"batch":["#.len() + separators(self, events) + self.tail.len() + decimals(events) + "}}".len()
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let object = json_text::object(raw, &["id", "timestamp", "type", "body"])?;
        if object.value(0).is_some() && object.string(0).is_none() {
            return Err(Invalid("id is not a text"));
        }
        if object.string(2).is_none_or(|kind| kind.is_empty()) {
            return Err(Invalid("type is missing, or not a text"));
        }
        if !object.value(3).is_some_and(|body| body.starts_with('{')) {
            return Err(Invalid("body is missing, or not an object"));
        }
        object.append_filled(out, stamp);
        Ok(Taken { id: object.string(0).map(Box::from), kind: 0 })
    }

    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict {
        let verdict = verdict_with_final_408(answer);
        if verdict != Verdict::All(Fate::Delivered) {
            return verdict;
        }
        let body = answer.json().unwrap_or_default();
        let list = |name: &str| body.get(name).and_then(Value::as_array);
        if list("successes").or(list("errors")).is_none() {
            return Verdict::Unverified;
        }
        let errors: HashMap<&str, &Value> = list("errors")
            .into_iter()
            .flatten()
            .filter_map(|error| Some((error.get("id")?.as_str()?, error)))
            .collect();
        let outcome = |id: &&str| errors.get(*id).map_or(Fate::Delivered.into(), |error| refusal(error));
        Verdict::Each(sent.ids.iter().map(outcome).collect())
    }
}

fn refusal(error: &Value) -> Outcome {
    match error.get("status").and_then(Value::as_u64) {
        Some(429 | 500..=599) => return Fate::Retry.into(),
        // An event that was taken, in the wrong list.
        Some(200..=299) => return Fate::Delivered.into(),
        _ => {}
    }
    let text = |name: &str| match error.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let said: Vec<String> = [text("message"), text("error")].into_iter().flatten().collect();
    Outcome::refused(&said.join(": "))
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, ID, R, T, TIME, event, judge, ok, request, statuses, value, why};
    use super::*;
    use serde_json::json;

    const SCORE: &str = r#"{"type":"score-create","body":{"name":"ok","value":1.50}}"#;

    #[test]
    fn a_whole_request() {
        let f = Langfuse::new(Some("pk-lf-1:sk-lf-2"));
        let (body, headers) =
            request(&f, &[SCORE, r#"{"type":"x","body":{},"id":"m-2","timestamp":"then"}"#]);
        let v: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            v["batch"],
            json!([{"id": ID, "timestamp": TIME, "type": "score-create", "body": {"name": "ok", "value": 1.5}},
                   {"type": "x", "body": {}, "id": "m-2", "timestamp": "then"}])
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            v["metadata"],
            json!({"sdk_name": "libtelemetry", "sdk_version": version, "public_key": "pk-lf-1", "batch_size": 2})
        );
        let want = [
            ("x-langfuse-sdk-name", "libtelemetry"),
            ("x-langfuse-sdk-version", version),
            ("x-langfuse-public-key", "pk-lf-1"),
        ];
        assert_eq!(headers, want.map(|(n, v)| (n.to_string(), v.to_string())));
        assert!(!body.contains("sk-lf-2"));
        assert!(body.contains(r#"{"name":"ok","value":1.50}"#), "as it was written");
    }

    #[test]
    fn without_a_key() {
        for basic in [None, Some("no colon"), Some(":secret")] {
            let (body, headers) = request(&Langfuse::new(basic), &[SCORE]);
            let v: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((v["metadata"].get("public_key"), headers.len()), (None, 2), "{basic:?}");
        }
    }

    #[test]
    fn what_the_service_could_not_name_is_refused() {
        let f = Langfuse::new(None);
        for (raw, reason) in [
            ("[]", "not one JSON object"),
            (r#"{"body":{}}"#, "type"),
            (r#"{"type":7,"body":{}}"#, "type"),
            (r#"{"type":"","body":{}}"#, "type"),
            (r#"{"type":"x"}"#, "body"),
            (r#"{"type":"x","body":null}"#, "body"),
            (r#"{"type":"x","body":[1]}"#, "body"),
            (r#"{"type":"x","body":{},"id":7}"#, "id"),
        ] {
            assert!(why(&f, raw).contains(reason), "{raw}");
        }
        assert_eq!(value(&f, r#"{"type":"x","body":{},"id":null}"#)["id"], ID);
        let (taken, _) = event(&f, r#"{"type":"x","body":{},"id":"m"}"#).unwrap();
        assert_eq!(taken.id.as_deref(), Some("m"));
    }

    #[test]
    fn what_answers_mean() {
        let f = Langfuse::new(None);
        statuses(
            &f,
            &[
                (&[200, 207], Verdict::Unverified),
                (&[400, 413], Verdict::Bisect),
                (&[401, 402, 403], Verdict::Denied),
                (&[429, 500, 502, 503, 504], T),
                (&[404, 405, 408], R),
                (&[415], Verdict::PlainPlease),
            ],
        );
        let body = r#"{"successes":[{"id":"a","status":201}],"errors":[
            {"id":"b","status":400,"message":"Invalid request data","error":{"x":1}},
            {"id":"c","status":429},{"id":"d","status":503,"message":"later"},{"id":"e","status":404,"message":"gone"},
            {"id":"unknown","status":500},{"status":500},{"id":"h"},{"id":"i","status":201}]}"#;
        assert_eq!(
            judge(&f, 207, body, &["a", "b", "c", "d", "e", "g", "h", "i"]),
            Verdict::Each(vec![
                ok(),
                Outcome::refused("Invalid request data: {\"x\":1}"),
                kit::again(),
                kit::again(),
                Outcome::refused("gone"),
                ok(),
                Fate::Rejected.into(),
                ok()
            ])
        );
        assert_eq!(judge(&f, 207, r#"{"errors":[]}"#, &["a"]), Verdict::Each(vec![ok()]));
        for garbage in ["", "{}", "[]", r#"{"errors":{}}"#] {
            assert_eq!(judge(&f, 207, garbage, &["a"]), Verdict::Unverified, "{garbage}");
        }
    }
}
