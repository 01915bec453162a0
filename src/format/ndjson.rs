//! NDJSON: one event object a line, `application/x-ndjson`.
//!
//! The receiver's promise: any 2xx takes all lines, unless its body is `{"rejected":[{"line":0,...}]}`, which
//! names the lines it refused. Fills `id` and `timestamp`.

use super::{
    Answer, Envelope, Fate, Format, Invalid, Outcome, Sent, Stamp, Taken, Verdict, common_verdict, json_text,
    separators, time,
};

/// See the module's text.
pub struct Ndjson;

/// Check an event and append it with `id` and `timestamp`, as `ndjson` and `json` both do.
pub fn append_event(out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
    let object = json_text::object(raw, &["id", "timestamp"])?;
    let mut fill = Vec::with_capacity(96);
    if !object.has(0) {
        json_text::member(&mut fill, "id", stamp.id);
    }
    if !object.has(1) {
        json_text::member(&mut fill, "timestamp", &time::rfc3339_ms(stamp.time_ns));
    }
    json_text::append(out, &object, &fill);
    Ok(Taken::default())
}

impl Format for Ndjson {
    fn path(&self) -> &'static str {
        "/"
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn open(&self, _out: &mut Vec<u8>, _envelope: &Envelope<'_>) {}

    fn between(&self) -> &'static [u8] {
        b"\n"
    }

    fn close(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.push(b'\n');
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        separators(self, events) + 1
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        append_event(out, raw, stamp)
    }

    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict {
        let verdict = common_verdict(answer);
        if verdict != Verdict::All(Fate::Delivered) {
            return verdict;
        }
        let body = serde_json::from_slice::<serde_json::Value>(answer.body).unwrap_or_default();
        let Some(lines) = body.get("rejected").and_then(|r| r.as_array()) else { return verdict };
        let mut fates = vec![Outcome::from(Fate::Delivered); sent.ids.len()];
        for line in lines {
            let number = line.get("line").and_then(|n| n.as_u64()).unwrap_or(u64::MAX);
            if let Some(fate) = fates.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
                let why = line.get("reason").and_then(|r| r.as_str()).map(Box::from);
                *fate = Outcome { fate: Fate::Rejected, why };
            }
        }
        Verdict::Each(fates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_lines_are_rejected() {
        let answer = |status, body: &'static str| Answer {
            status,
            headers: &[],
            body: body.as_bytes(),
            truncated: false,
        };
        let f = Ndjson;
        let two = Sent { kind: 0, ids: &["a", "b"] };
        assert_eq!(f.judge(&answer(204, ""), &two), Verdict::All(Fate::Delivered));
        assert_eq!(f.judge(&answer(200, "thanks"), &two), Verdict::All(Fate::Delivered));
        assert_eq!(
            f.judge(&answer(200, r#"{"rejected":[{"line":1,"reason":"no"},{"line":9}]}"#), &two),
            Verdict::Each(vec![
                Fate::Delivered.into(),
                Outcome { fate: Fate::Rejected, why: Some("no".into()) }
            ])
        );
        assert_eq!(f.judge(&answer(503, ""), &two), Verdict::All(Fate::Retry));
        assert_eq!(f.judge(&answer(413, ""), &two), Verdict::Bisect);
        assert_eq!(f.judge(&answer(404, ""), &two), Verdict::All(Fate::Rejected));
        assert_eq!(f.judge(&answer(401, ""), &two), Verdict::Denied);
    }
}
