//! PostHog's batch route (v0): `{"api_key":...,"batch":[...],"sent_at":...}` to `/batch/`.
//!
//! The service's promise: 200 means received, unless `quota_limited` names `events`: then they were thrown away
//! although the status says 200. Duplicates are removed, eventually, by `uuid` together with event, timestamp and
//! distinct_id, so the first two are filled here from the record and never change. `sent_at` is the attempt's
//! time: the server shifts timestamps by its difference from its own clock, unless an event has
//! `$ignore_sent_at`. An event without `event` or `distinct_id` costs its whole request a 400; halving finds it.
//!
//! At most 20 MiB a body (the server's route), 900 KiB an event (the official client's own bound), 8 MiB on the
//! route for AI events, `/i/v0/ai/batch/`.

use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, Outcome, Sent, Stamp, Taken, Verdict, common_verdict,
    json_text, separators, time,
};
use serde_json::Value;

/// See the module's text.
pub struct Posthog {
    /// `{"api_key":"...","batch":[`
    prefix: Vec<u8>,
    /// Most bytes of one event.
    event: usize,
}

impl Posthog {
    /// With the project's key.
    pub fn new(api_key: &str) -> Posthog {
        let key = Value::from(api_key).to_string();
        Posthog { prefix: format!("{{\"api_key\":{key},\"batch\":[").into_bytes(), event: 900 << 10 }
    }

    /// The same for a request path, which tells the route.
    #[must_use]
    pub fn at(mut self, path: &str) -> Posthog {
        let path = path.split('?').next().unwrap_or_default();
        if path.trim_end_matches('/').ends_with("/i/v0/ai/batch") {
            self.event = 8 << 20;
        }
        self
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
        Limits { body: 20 << 20, event: self.event, events: usize::MAX }
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
        object.append_filled(out, stamp);
        Ok(Taken { id: object.string(0).map(Box::from), kind: 0 })
    }

    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict {
        let verdict = common_verdict(answer);
        if verdict != Verdict::All(Fate::Delivered) || answer.body.trim_ascii().is_empty() {
            return verdict;
        }
        let Some(body) = answer.json() else { return Verdict::Unverified };
        let limited: Vec<&str> = match body.get("quota_limited").and_then(Value::as_array) {
            Some(resources) => resources.iter().filter_map(Value::as_str).collect(),
            None => return verdict,
        };
        if limited.contains(&"events") {
            let refused = Outcome::refused("the quota of events is used up (quota_limited)");
            return Verdict::Each(vec![refused; sent.ids.len()]);
        }
        if limited.is_empty() {
            return verdict;
        }
        Verdict::Counted { rejected: 0, why: Some(format!("quota_limited: {}", limited.join(", ")).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{A, ID, R, T, TIME, event, judge, request, statuses};
    use super::*;

    #[test]
    fn a_whole_body() {
        let f = Posthog::new("phc_\"x");
        let (body, headers) = request(
            &f,
            &[
                r#"{"event":"e","distinct_id":"d"}"#,
                r#"{"event":"e","distinct_id":"d","uuid":"mine","timestamp":"then"}"#,
                r#"{"event":"e","uuid":null, "timestamp": null}"#,
            ],
        );
        assert!(headers.is_empty());
        let v: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(v["api_key"], "phc_\"x");
        assert_eq!(v["sent_at"], "2026-11-21T02:30:00.120Z");
        let batch = v["batch"].as_array().unwrap();
        let named: Vec<_> = batch.iter().map(|e| (e["uuid"].as_str(), e["timestamp"].as_str())).collect();
        assert_eq!(
            named,
            [(Some(ID), Some(TIME)), (Some("mine"), Some("then")), (Some(ID), Some(TIME))],
            "an id or a time that is null is none"
        );
    }

    #[test]
    fn the_route_for_ai_events_takes_larger_ones() {
        let most = |path| Posthog::new("k").at(path).limits(0).event;
        assert_eq!([most("/batch/"), most("/i/v0/ai/other")], [900 << 10; 2]);
        assert_eq!([most("/i/v0/ai/batch/"), most("/proxy/i/v0/ai/batch?x=/batch/")], [8 << 20; 2]);
    }

    #[test]
    fn the_rest_of_an_event_is_left_as_it_is() {
        let f = Posthog::new("k");
        let raw = r#"{"properties": {"n":1.50e0,"\u0061":[ ]},"event":"e"}"#;
        let (taken, text) = event(&f, raw).unwrap();
        assert_eq!(text, format!(r#"{{"uuid":"{ID}","timestamp":"{TIME}",{}"#, &raw[1..]));
        assert_eq!(taken, Taken::default());
        assert_eq!(event(&f, r#"{"uuid":"M\u0031"}"#).unwrap().0.id.as_deref(), Some("M1"));
        assert!(event(&f, "[1]").is_err());
    }

    #[test]
    fn what_answers_mean() {
        let f = Posthog::new("k");
        statuses(
            &f,
            &[
                (&[200], Verdict::Unverified),
                (&[400, 413], Verdict::Bisect),
                (&[401, 402, 403], Verdict::Denied),
                (&[408, 429, 500, 502, 503, 504], T),
                (&[404, 422], R),
                (&[415], Verdict::PlainPlease),
            ],
        );
        for body in ["", "{}", "1", r#"{"status":1}"#, r#"{"status":"Ok","quota_limited":[]}"#] {
            assert_eq!(judge(&f, 200, body, &["a"]), A, "{body}");
        }
        let limited = judge(&f, 200, r#"{"status":1,"quota_limited":["recordings","events"]}"#, &["a", "b"]);
        let Verdict::Each(fates) = limited else { panic!("{limited:?}") };
        assert!(fates.len() == 2 && fates.iter().all(|o| o.fate == Fate::Rejected && o.why.is_some()));
        assert_eq!(
            judge(&f, 200, r#"{"quota_limited":["recordings"]}"#, &["a"]),
            Verdict::Counted { rejected: 0, why: Some("quota_limited: recordings".into()) }
        );
    }
}
