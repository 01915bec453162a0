//! Langfuse's scores, where its newest SDK sends them.
//!
//! What the service does: 202 if all were taken; else 207 with how many were and how many were not, and a
//! message for each of those, but no ids: so a client must not send any of them again. One score that
//! is not in an array is answered with its id, as older servers do.

use super::langfuse::{admit, error, score, suspended};
use super::{Dialect, Limits, Words};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::{Loose, Maybe};
use crate::collect::scan::{Nested, Scan};
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde_json::json;

/// See the module's text.
pub struct Scores;

const BODY: usize = 1_000_000;

impl Dialect for Scores {
    fn name(&self, _head: &Head) -> &'static str {
        "langfuse-scores"
    }

    fn admit(&self, head: &Head) -> Result<(), Answer> {
        admit(head)
    }

    fn read(&self, _head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let mut c = Cursor::new(body).map_err(|why| error(400, &why))?;
        let single = c.peek() == Some(b'{');
        let walked = if single { one(&mut c, batch) } else { c.array(&mut |c| one(c, batch)) };
        walked.and_then(|()| c.end()).map_err(|why| error(400, &why))?;
        match batch.events.first().map(|e| e.verdict) {
            None => Err(error(400, "expected at least one score")),
            Some(Verdict::Refused(why)) if single => Err(error(400, why)),
            _ => {
                if !single {
                    // Only one that comes alone is answered with its id.
                    batch.ids.clear();
                }
                Ok(())
            }
        }
    }

    fn answer(&self, _head: &Head, batch: &Batch) -> Answer {
        let errors: Vec<_> = batch
            .events
            .iter()
            .filter_map(|e| match e.verdict {
                Verdict::Refused(why) => Some(json!({"message": why})),
                _ => None,
            })
            .collect();
        let (accepted, rejected) = batch.split();
        if rejected > 0 {
            let counts = json!({"accepted": accepted, "rejected": rejected, "errors": errors});
            return Answer::json(207, counts.to_string());
        }
        match batch.ids.first() {
            Some(id) => Answer::json(200, json!({"id": id}).to_string()),
            None => Answer::json(202, r#"{"message":"Accepted"}"#),
        }
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        error(status, text)
    }

    fn over_quota(&self, _head: &Head, _batch: &Batch, _seconds: u64) -> Answer {
        suspended()
    }

    fn words(&self) -> Words {
        Words { refused: true, again: false }
    }

    fn limits(&self, _head: &Head) -> Limits {
        Limits::of_body(BODY, 413)
    }
}

/// What is looked at in a score.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Score<'a> {
    #[serde(borrow)]
    id: Loose<'a>,
    #[serde(borrow)]
    name: Loose<'a>,
    #[serde(borrow)]
    value: Loose<'a>,
    #[serde(borrow)]
    pid: Loose<'a>,
    metadata: Nested,
}

fn one(c: &mut Cursor<'_>, batch: &mut Batch) -> Result<(), String> {
    let from = c.at;
    let Maybe::Is(s) = c.value::<Maybe<Score<'_>>>()? else {
        batch.push(Scan::default(), "null", Verdict::Refused("expected an object"));
        return Ok(());
    };
    let verdict = match score(&s.name, &s.value) {
        Some(why) => Verdict::Refused(why),
        None => Verdict::Taken,
    };
    batch.ids.push(s.id.text().unwrap_or("unknown").into());
    let scan = Scan { id: s.id.id(), pid: s.metadata.pid().or(s.pid.pid()) };
    batch.push(scan, &c.text[from..c.at], verdict);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (u16, String) {
        let (head, mut batch) = (Head::of("/api/public/scores", &[]), Batch::default());
        let answer = match Scores.read(&head, body.as_bytes(), &mut batch) {
            Ok(()) => Scores.answer(&head, &batch),
            Err(answer) => answer,
        };
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn lists_and_single_ones() {
        let good = r#"{"id":"s","name":"n","value":0.5,"metadata":{"pid":1}}"#;
        assert_eq!(read(&format!("[{good},{good}]")), (202, r#"{"message":"Accepted"}"#.into()));
        let (status, body) = read(&format!(r#"[{good},{{"name":"n"}},7]"#));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["accepted"], &body["rejected"]), (207, &json!(1), &json!(2)));
        assert_eq!(body["errors"][1], json!({"message": "expected an object"}));
        assert_eq!(read(good), (200, r#"{"id":"s"}"#.into()));
        for bad in ["[]", "", "7", "[{]", r#"{"name":"n"}"#, "[{}] x"] {
            assert_eq!(read(bad).0, 400, "{bad}");
        }
    }
}
