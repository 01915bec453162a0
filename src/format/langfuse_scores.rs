//! Langfuse's scores: a JSON array of scores to `/api/public/scores`.
//!
//! The service's promise: 202 when all were taken. 207 says only how many were not, `{"accepted","rejected","errors"}`,
//! and nobody says which: such a request is never sent again. A score of the same `id` and `timestamp` is the same
//! score, so both are filled here from the record: sent twice, it is there once.
//!
//! At most 1,000,000 bytes a body, as the official client has it (the service's parser stops at 1 MiB). 400 and 413 take
//! nothing, so halves may be sent; other statuses below 500 but 429 are final.

use super::langfuse::{public_key, sdk_headers};
use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, Sent, Stamp, Taken, Verdict, json_text, separators,
    verdict_with_final_408,
};
use serde_json::Value;

/// Bytes of one body.
const BODY: usize = 1_000_000;
/// Bytes that are kept of the service's reasons.
const LONGEST_WHY: usize = 512;

/// See the module's text.
pub struct LangfuseScores {
    public_key: Option<String>,
}

impl LangfuseScores {
    /// With `public_key:secret_key`, of which only the first is kept.
    pub fn new(basic: Option<&str>) -> LangfuseScores {
        LangfuseScores { public_key: basic.and_then(public_key) }
    }
}

impl Format for LangfuseScores {
    fn path(&self) -> &'static str {
        "/api/public/scores"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn limits(&self, _kind: u8) -> Limits {
        Limits { body: BODY, event: BODY - "[]".len(), events: usize::MAX }
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["metadata"])
    }

    fn headers(&self, _envelope: &Envelope<'_>) -> Vec<(String, String)> {
        sdk_headers(self.public_key.as_deref())
    }

    fn open(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.push(b'[');
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.push(b']');
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        separators(self, events) + "[]".len()
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let object = json_text::object(raw, &["id", "timestamp", "name", "value"])?;
        if object.value(0).is_some() && object.string(0).is_none() {
            return Err(Invalid("id is not a text"));
        }
        if object.string(2).is_none_or(|name| name.is_empty()) {
            return Err(Invalid("name is missing, or not a text"));
        }
        if object.value(3).is_none() {
            return Err(Invalid("value is missing"));
        }
        object.append_filled(out, stamp);
        Ok(Taken { id: object.string(0).map(Box::from), kind: 0 })
    }

    fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
        let verdict = verdict_with_final_408(answer);
        if answer.status != 207 || verdict != Verdict::All(Fate::Delivered) {
            return verdict;
        }
        let body = answer.json().unwrap_or_default();
        let Some(rejected) = body.get("rejected").and_then(Value::as_u64) else { return Verdict::Unverified };
        let errors = body.get("errors").and_then(Value::as_array).into_iter().flatten();
        let reasons: Vec<&str> = errors.filter_map(|error| error.get("message")?.as_str()).collect();
        let mut why = reasons.join("; ");
        why.truncate(why.floor_char_boundary(LONGEST_WHY));
        let why = Some(why).filter(|why| !why.is_empty()).map(Box::from);
        Verdict::Counted { rejected: usize::try_from(rejected).unwrap_or(usize::MAX), why }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{A, ID, R, T, TIME, event, judge, request, statuses, value, why};
    use super::*;
    use serde_json::json;

    #[test]
    fn a_whole_request() {
        let f = LangfuseScores::new(Some("pk:sk"));
        let (body, headers) = request(
            &f,
            &[
                r#"{"name":"a","value":1}"#,
                r#"{"name":"b","value":"x","id":"s-9","timestamp":"2026-11-21T00:00:00Z"}"#,
            ],
        );
        let v: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            v,
            json!([{"id": ID, "timestamp": TIME, "name": "a", "value": 1},
                   {"name": "b", "value": "x", "id": "s-9", "timestamp": "2026-11-21T00:00:00Z"}])
        );
        assert!(headers.contains(&("x-langfuse-public-key".into(), "pk".into())));
        assert_eq!(event(&f, r#"{"name":"b","value":0,"id":"s"}"#).unwrap().0.id.as_deref(), Some("s"));
        assert_eq!(value(&f, r#"{"name":"b","value":0,"id":null}"#)["id"], ID);
    }

    #[test]
    fn what_is_no_score_is_refused() {
        let f = LangfuseScores::new(None);
        for (raw, reason) in [
            ("7", "not one JSON object"),
            (r#"{"value":1}"#, "name"),
            (r#"{"name":"","value":1}"#, "name"),
            (r#"{"name":[],"value":1}"#, "name"),
            (r#"{"name":"n"}"#, "value"),
            (r#"{"name":"n","value":null}"#, "value"),
            (r#"{"name":"n","value":1,"id":1}"#, "id"),
        ] {
            assert!(why(&f, raw).contains(reason), "{raw}");
        }
    }

    #[test]
    fn what_answers_mean() {
        let f = LangfuseScores::new(None);
        statuses(
            &f,
            &[
                (&[200, 202], A),
                (&[207], Verdict::Unverified),
                (&[400, 413], Verdict::Bisect),
                (&[401, 402, 403], Verdict::Denied),
                (&[429, 500, 502, 503, 504], T),
                (&[404, 405, 408], R),
            ],
        );
        let body = r#"{"accepted":1,"rejected":2,"errors":[{"message":"no"},{},{"message":"bad \u00e9"}]}"#;
        assert_eq!(
            judge(&f, 207, body, &["a", "b", "c"]),
            Verdict::Counted { rejected: 2, why: Some("no; bad é".into()) }
        );
        assert_eq!(judge(&f, 207, r#"{"rejected":0}"#, &["a"]), Verdict::Counted { rejected: 0, why: None });
        let long = format!(r#"{{"rejected":1,"errors":[{{"message":"{}"}}]}}"#, "é".repeat(400));
        let Verdict::Counted { why: Some(why), .. } = judge(&f, 207, &long, &["a"]) else { panic!("{long}") };
        assert_eq!(why.len(), 512);
    }
}
