//! PostHog's batch route (v0): `{"api_key":...,"batch":[...],"sent_at":...}` to `/batch/`.
//!
//! The service's promise: 200 means received (quota may still discard); duplicates are removed, eventually,
//! by `uuid` together with event, timestamp and distinct_id, so the first two are filled here from the record
//! and never change. `sent_at` is the attempt's time: the server shifts timestamps by its difference from its
//! own clock. At most 20 MiB a body, 900 KiB an event by the official client.

use super::{
    Answer, Envelope, Format, Invalid, Limits, Sent, Stamp, Taken, Verdict, common_verdict, json_text,
    separators, time,
};

/// See the module's text.
pub struct Posthog {
    /// `{"api_key":"...","batch":[`
    prefix: Vec<u8>,
}

impl Posthog {
    /// With the project's key.
    pub fn new(api_key: &str) -> Posthog {
        let key = serde_json::Value::from(api_key).to_string();
        Posthog { prefix: format!("{{\"api_key\":{key},\"batch\":[").into_bytes() }
    }
}

impl Format for Posthog {
    fn path(&self) -> &'static str {
        "/batch/"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn limits(&self, _kind: u8) -> Limits {
        Limits { body: 20 << 20, event: 900 << 10, events: usize::MAX }
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["properties"])
    }

    fn open(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.extend_from_slice(&self.prefix);
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.extend_from_slice(b"],\"sent_at\":\"");
        out.extend_from_slice(&time::rfc3339_ms(envelope.now_ns));
        out.extend_from_slice(b"\"}");
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        self.prefix.len() + separators(self, events) + br#"],"sent_at":"2026-11-21T02:30:00.120Z"}"#.len()
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let object = json_text::object(raw, &["uuid", "timestamp"])?;
        let mut fill = Vec::with_capacity(96);
        if !object.has(0) {
            json_text::member(&mut fill, "uuid", stamp.id);
        }
        if !object.has(1) {
            json_text::member(&mut fill, "timestamp", &time::rfc3339_ms(stamp.time_ns));
        }
        json_text::append(out, &object, &fill);
        Ok(Taken::default())
    }

    fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
        common_verdict(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_body() {
        let f = Posthog::new("phc_\"x");
        let stamp = Stamp {
            id: b"0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
            time_ns: 1_795_228_198_004_000_000,
            pid: 1,
            generation: 1,
        };
        let envelope = Envelope {
            kind: 0,
            events: 2,
            bytes: 0,
            id: "",
            created_ns: 0,
            now_ns: 1_795_228_200_120_000_000,
            attempt: 1,
        };
        let mut body = Vec::new();
        f.open(&mut body, &envelope);
        f.event(&mut body, br#"{"event":"e","distinct_id":"d"}"#, &stamp).unwrap();
        assert!(f.event(&mut body, b"[1]", &stamp).is_err());
        body.extend_from_slice(f.between());
        f.event(&mut body, br#"{"event":"e","distinct_id":"d","uuid":"mine","timestamp":"then"}"#, &stamp)
            .unwrap();
        f.close(&mut body, &envelope);
        let v: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(v["api_key"], "phc_\"x");
        assert_eq!(v["sent_at"], "2026-11-21T02:30:00.120Z");
        assert_eq!(v["batch"][0]["uuid"], "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10");
        assert_eq!(v["batch"][0]["timestamp"], "2026-11-21T02:29:58.004Z");
        assert_eq!(v["batch"][1]["uuid"], "mine");
        assert_eq!(v["batch"][1]["timestamp"], "then");
        assert_eq!(v["batch"].as_array().unwrap().len(), 2);
    }
}
