//! NDJSON: one event object a line, `application/x-ndjson`.
//!
//! The receiver's promise: any 2xx takes all lines, unless its body is `{"rejected":[{"line":0,...}]}`, which
//! names the lines it refused. Fills `id` and `timestamp`.

use super::{Answer, Fate, Format, Invalid, Stamp, Verdict, common_verdict, json_text, time};

/// See the module's text.
pub struct Ndjson;

/// Check an event and append it with `id` and `timestamp`, as `ndjson` and `json` both do.
pub fn append_event(out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<(), Invalid> {
    let object = json_text::object(raw, &["id", "timestamp"])?;
    let mut fill = Vec::with_capacity(96);
    if !object.has(0) {
        json_text::member(&mut fill, "id", stamp.id);
    }
    if !object.has(1) {
        json_text::member(&mut fill, "timestamp", &time::rfc3339_ms(stamp.time_ns));
    }
    json_text::append(out, &object, &fill);
    Ok(())
}

impl Format for Ndjson {
    fn path(&self) -> &'static str {
        "/"
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn max_body(&self) -> usize {
        usize::MAX
    }

    fn open(&self, _out: &mut Vec<u8>) {}

    fn between(&self) -> &'static [u8] {
        b"\n"
    }

    fn close(&self, out: &mut Vec<u8>, _now_ns: u64) {
        out.push(b'\n');
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<(), Invalid> {
        append_event(out, raw, stamp)
    }

    fn judge(&self, answer: &Answer<'_>, n: usize) -> Verdict {
        let verdict = common_verdict(answer);
        if verdict != Verdict::All(Fate::Delivered) {
            return verdict;
        }
        let body = serde_json::from_slice::<serde_json::Value>(answer.body).unwrap_or_default();
        let Some(lines) = body.get("rejected").and_then(|r| r.as_array()) else { return verdict };
        let mut fates = vec![Fate::Delivered; n];
        for line in lines.iter().filter_map(|l| l.get("line")?.as_u64()) {
            if let Some(fate) = fates.get_mut(line as usize) {
                *fate = Fate::Rejected;
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
        let answer = |status, body: &'static str| Answer { status, body: body.as_bytes(), truncated: false };
        let f = Ndjson;
        assert_eq!(f.judge(&answer(204, ""), 2), Verdict::All(Fate::Delivered));
        assert_eq!(f.judge(&answer(200, "thanks"), 2), Verdict::All(Fate::Delivered));
        assert_eq!(
            f.judge(&answer(200, r#"{"rejected":[{"line":1,"reason":"no"},{"line":9}]}"#), 2),
            Verdict::Each(vec![Fate::Delivered, Fate::Rejected])
        );
        assert_eq!(f.judge(&answer(503, ""), 2), Verdict::All(Fate::Retry));
        assert_eq!(f.judge(&answer(413, ""), 2), Verdict::Bisect);
        assert_eq!(f.judge(&answer(404, ""), 2), Verdict::All(Fate::Rejected));
        assert_eq!(f.judge(&answer(401, ""), 2), Verdict::Denied);
    }
}
