//! What the tests of the formats share.

use super::{Answer, Envelope, Fate, Format, Invalid, Outcome, Sent, Stamp, Taken, Verdict};
use serde_json::Value;

/// The stamp's id and time.
pub const ID: &str = "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10";
pub const TIME: &str = "2026-11-21T02:29:58.004Z";

pub const A: Verdict = Verdict::All(Fate::Delivered);
pub const R: Verdict = Verdict::All(Fate::Rejected);
pub const T: Verdict = Verdict::All(Fate::Retry);

pub fn ok() -> Outcome {
    Fate::Delivered.into()
}

pub fn again() -> Outcome {
    Fate::Retry.into()
}

/// Each event's text, in one format.
pub fn event(format: &dyn Format, raw: &str) -> Result<(Taken, String), Invalid> {
    let stamp = Stamp {
        id: ID.as_bytes().try_into().unwrap(),
        time_ns: 1_795_228_198_004_000_000,
        pid: 1,
        generation: 1,
        worker: 0,
    };
    let mut out = b"before".to_vec();
    let taken = format.event(&mut out, raw.as_bytes(), &stamp)?;
    let text = String::from_utf8(out).unwrap().split_off("before".len());
    serde_json::from_str::<Value>(&text).unwrap_or_else(|why| panic!("{why}: {text}"));
    Ok((taken, text))
}

/// An event as JSON.
pub fn value(format: &dyn Format, raw: &str) -> Value {
    serde_json::from_str(&event(format, raw).unwrap().1).unwrap()
}

/// Why it is none.
pub fn why(format: &dyn Format, raw: &str) -> &'static str {
    match event(format, raw) {
        Ok((_, text)) => panic!("{raw} is taken: {text}"),
        Err(why) => why.0,
    }
}

/// A body, first attempt, made at 02:30:00.120; and its headers.
pub fn request(format: &dyn Format, events: &[&str]) -> (String, Vec<(String, String)>) {
    let taken: Vec<(Taken, String)> = events.iter().map(|raw| event(format, raw).unwrap()).collect();
    let envelope = Envelope {
        kind: taken[0].0.kind,
        events: taken.len(),
        bytes: taken.iter().map(|(_, text)| text.len()).sum(),
        id: "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f12",
        first: taken[0].0.id.as_deref().unwrap_or(ID),
        created_ns: 1_795_228_200_000_000_000,
        now_ns: 1_795_228_200_120_000_000,
        attempt: 1,
    };
    let mut body = Vec::new();
    format.open(&mut body, &envelope);
    for (n, (_, text)) in taken.iter().enumerate() {
        body.extend_from_slice(if n > 0 { format.between() } else { b"" });
        body.extend_from_slice(text.as_bytes());
    }
    format.close(&mut body, &envelope);
    let beside = body.len() - envelope.bytes;
    let most = format.overhead(envelope.kind, envelope.events, envelope.bytes);
    assert!(beside <= most, "{beside} bytes of envelope are more than the {most} announced");
    (String::from_utf8(body).unwrap(), format.headers(&envelope))
}

pub fn judge(format: &dyn Format, status: u16, body: &str, ids: &[&str]) -> Verdict {
    let answer = Answer { status, headers: &[], body: body.as_bytes(), truncated: false };
    format.judge(&answer, &Sent { kind: 0, ids })
}

/// Statuses and what they mean whatever the body is, and a body that was cut off.
pub fn statuses(format: &dyn Format, table: &[(&[u16], Verdict)]) {
    for (list, verdict) in table {
        for &status in *list {
            assert_eq!(judge(format, status, "no JSON", &["a", "b"]), *verdict, "{status}");
        }
    }
    let cut = Answer { status: 200, headers: &[], body: b"{\"resu", truncated: true };
    assert_eq!(format.judge(&cut, &Sent { kind: 0, ids: &["a"] }), Verdict::Unverified);
}
