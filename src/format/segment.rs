//! Segment's batch route: `{"writeKey":...,"batch":[...],"sentAt":...}` to `/v1/batch`. RudderStack takes the same at
//! its own host.
//!
//! The service's promise: 200 means received, not valid. An event that it cannot use, and all of a request that is
//! over its limits, vanish behind a 200: so the limits are kept here to the byte, and an event without a type or
//! without a user is refused before it is sent. A workspace of the other region answers 200 as well. `messageId` is
//! the key by which an event is taken once; `sentAt` is the attempt's time, by which the server corrects `timestamp`.
//!
//! At most 500 KB a body (500,000 bytes, the smaller reading), 32 KiB an event (the official client's own bound), 2,500
//! events a body. RudderStack would take more.

use super::{
    Answer, Envelope, Format, Invalid, Limits, Sent, Stamp, Taken, Verdict, json_text, separators, time,
    verdict_with_final_408,
};

/// See the module's text.
pub struct Segment {
    /// `{"writeKey":"...","batch":[`
    prefix: Vec<u8>,
}

impl Segment {
    /// With the source's write key.
    pub fn new(api_key: &str) -> Segment {
        let key = serde_json::Value::from(api_key).to_string();
        Segment { prefix: format!("{{\"writeKey\":{key},\"batch\":[").into_bytes() }
    }
}

impl Format for Segment {
    fn path(&self) -> &'static str {
        "/v1/batch"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn limits(&self, _kind: u8) -> Limits {
        Limits { body: 500_000, event: 32 << 10, events: 2500 }
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["context"])
    }

    fn open(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.extend_from_slice(&self.prefix);
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.extend_from_slice(b"],\"sentAt\":\"");
        out.extend_from_slice(&time::rfc3339_ms(envelope.now_ns));
        out.extend_from_slice(b"\"}");
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        self.prefix.len() + separators(self, events) + br#"],"sentAt":"2026-11-21T02:30:00.120Z"}"#.len()
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let object = json_text::object(raw, &["messageId", "timestamp", "type", "userId", "anonymousId"])?;
        if object.string(2).is_none_or(|kind| kind.is_empty()) {
            return Err(Invalid("type is missing, or not a text"));
        }
        if ![3, 4].iter().any(|&i| object.value(i).is_some_and(|id| id != "\"\"")) {
            return Err(Invalid("neither userId nor anonymousId"));
        }
        object.append_filled(out, stamp);
        Ok(Taken { id: object.string(0).map(Box::from), kind: 0 })
    }

    fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
        // 413 is said like 400, and halved like it.
        verdict_with_final_408(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{A, ID, R, T, TIME, event, request, statuses, value, why};
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_whole_request() {
        let f = Segment::new("w\"k");
        let (body, headers) = request(
            &f,
            &[
                r#"{"type":"track","userId":"w-17","event":"job_done","properties":{"ms":42}}"#,
                r#"{"type":"page","anonymousId":7,"messageId":"mine","timestamp":"then"}"#,
            ],
        );
        assert!(headers.is_empty());
        let v: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            v,
            json!({"writeKey": "w\"k", "sentAt": "2026-11-21T02:30:00.120Z", "batch": [
                {"type": "track", "messageId": ID, "timestamp": TIME, "userId": "w-17", "event": "job_done",
                 "properties": {"ms": 42}},
                {"type": "page", "anonymousId": 7, "messageId": "mine", "timestamp": "then"}]})
        );
        assert_eq!(value(&f, r#"{"type":"track","userId":"u","messageId":null}"#)["messageId"], ID);
        assert_eq!(
            event(&f, r#"{"type":"track","userId":"u","messageId":"m"}"#).unwrap().0.id.as_deref(),
            Some("m")
        );
    }

    #[test]
    fn what_would_vanish_is_refused() {
        let f = Segment::new("k");
        for (raw, reason) in [
            ("[]", "not one JSON object"),
            (r#"{"userId":"u"}"#, "type"),
            (r#"{"userId":"u","type":3}"#, "type"),
            (r#"{"type":"track"}"#, "neither"),
            (r#"{"type":"track","userId":"","anonymousId":null}"#, "neither"),
        ] {
            assert!(why(&f, raw).contains(reason), "{raw}");
        }
    }

    #[test]
    fn what_answers_mean() {
        statuses(
            &Segment::new("k"),
            &[
                (&[200, 202], A),
                (&[400, 413], Verdict::Bisect),
                (&[401, 402, 403], Verdict::Denied),
                (&[429, 500, 502, 503, 504], T),
                (&[404, 408], R),
                (&[415], Verdict::PlainPlease),
            ],
        );
    }
}
