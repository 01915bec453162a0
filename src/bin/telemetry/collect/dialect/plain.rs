//! Events of no service in particular: NDJSON and JSON arrays, at every path that nobody else claims.
//!
//! Invariants: every byte of an event is checked to be JSON in UTF-8, but nothing of it is built: one pass
//! that keeps the id and the pid and skips the rest. This is what makes the collector fast enough to be
//! the far end of a benchmark.
//!
//! Shapes: lines of objects (`application/x-ndjson`, or more than one object in the body); an array of
//! objects; one object with an array `batch`; else one object. The answer is 200 with `accepted`, and, if
//! not all were, `rejected`: which lines (counted from 0, without empty ones) and why.

use super::{Dialect, Limits, Words};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::scan::Scan;
use crate::collect::unpack::Encoding;
use crate::collect::walk::Cursor;
use serde::de::IgnoredAny;
use serde_json::json;

/// See the module's text.
pub struct Plain;

impl Dialect for Plain {
    fn name(&self, head: &Head) -> &'static str {
        if head.content_type() == "application/json" { "json" } else { "ndjson" }
    }

    fn encodings(&self) -> &'static [Encoding] {
        &[Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd]
    }

    fn admit(&self, head: &Head) -> Result<(), Answer> {
        match head.content_type().as_str() {
            "application/x-protobuf" | "application/protobuf" => {
                Err(Answer::error(415, "Content-Type: events are taken as JSON here, not as protobuf"))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let lines = matches!(
            head.content_type().as_str(),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines"
        );
        parse(body, lines, batch).map_err(|why| Answer::error(400, &why))
    }

    fn answer(&self, _head: &Head, batch: &Batch) -> Answer {
        let (accepted, others) = batch.split();
        if others == 0 {
            return Answer::json(200, format!("{{\"status\":1,\"accepted\":{accepted}}}"));
        }
        let rejected: Vec<_> = (0..)
            .zip(&batch.events)
            .filter_map(|(line, e): (u64, _)| match e.verdict {
                Verdict::Refused(why) => Some(json!({"line": line, "reason": why})),
                _ => None,
            })
            .collect();
        Answer::json(200, json!({"status": 1, "accepted": accepted, "rejected": rejected}).to_string())
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        Answer::error(status, text)
    }

    fn words(&self) -> Words {
        Words { refused: true, again: false }
    }

    /// Nobody's but the client's own.
    fn limits(&self, _head: &Head) -> Limits {
        Limits::NONE
    }
}

/// Reads the events of a body into `batch`; `lines`: it is said to be NDJSON.
pub fn parse(body: &[u8], only_lines: bool, batch: &mut Batch) -> Result<(), String> {
    let mut c = Cursor::new(body)?;
    match c.peek() {
        Some(b'[') if !only_lines => {
            array(&mut c, batch)?;
            c.end()
        }
        Some(b'{') if !only_lines => {
            let mut envelope = false;
            c.object(&mut |c, key| {
                if key == "batch" && c.peek() == Some(b'[') {
                    envelope = true;
                    return array(c, batch);
                }
                c.value::<IgnoredAny>().map(drop)
            })?;
            if envelope {
                return c.end();
            }
            if c.peek().is_none() {
                let scan = Cursor { text: c.text, at: 0 }.value::<Scan>()?;
                batch.push(scan, c.text.trim_ascii(), Verdict::Taken);
                return Ok(());
            }
            lines(c.text, batch)
        }
        _ => lines(c.text, batch),
    }
}

fn array(c: &mut Cursor<'_>, batch: &mut Batch) -> Result<(), String> {
    c.array(&mut |c| {
        let from = c.at;
        let scan = c.value::<Scan>()?;
        batch.push(scan, &c.text[from..c.at], Verdict::Taken);
        Ok(())
    })
}

/// One object a line. One deserializer for all lines: its scratch space is allocated once.
fn lines(text: &str, batch: &mut Batch) -> Result<(), String> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Scan>();
    let mut end = 0;
    while let Some(scan) = stream.next() {
        let scan = scan.map_err(|e| e.to_string())?;
        let from = end;
        end = stream.byte_offset();
        let gap = &text[from..end];
        let event = gap.trim_ascii_start();
        let before = &gap.as_bytes()[..gap.len() - event.len()];
        let line = || memchr::memchr_iter(b'\n', &text.as_bytes()[..end]).count() + 1;
        if from > 0 && memchr::memchr(b'\n', before).is_none() {
            return Err(format!("two events on line {}", line()));
        }
        if memchr::memchr(b'\n', event.as_bytes()).is_some() {
            return Err(format!("an event is spread over several lines, up to line {}", line()));
        }
        batch.push(scan, event, Verdict::Taken);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, lines: bool) -> Result<Batch, String> {
        let mut b = Batch::default();
        parse(body.as_bytes(), lines, &mut b)?;
        Ok(b)
    }

    #[test]
    fn each_shape() {
        for (body, lines, want) in [
            ("{\"id\":1}\n\n{\"id\":2}", false, "{\"id\":1}\n{\"id\":2}\n"),
            ("{\"id\":1}\r\n{\"id\":2}\r\n", true, "{\"id\":1}\n{\"id\":2}\n"),
            ("[]", false, ""),
            (" [ {\"a\":[1]} ,\n{\n\"b\":{}}\n] ", false, "{\"a\":[1]}\n{ \"b\":{}}\n"),
            ("{\"k\":{\"batch\":[1]},\"batch\":[{},{\"a\":1}],\"z\":1.5}", false, "{}\n{\"a\":1}\n"),
            ("{\"batch\":7,\n\"id\":2}\n", false, "{\"batch\":7, \"id\":2}\n"),
            ("{\"batch\":[{}]}\n", true, "{\"batch\":[{}]}\n"),
        ] {
            let b = read(body, lines).unwrap_or_else(|e| panic!("{body}: {e}"));
            assert_eq!(String::from_utf8_lossy(&b.lines), want, "{body}");
            assert_eq!(b.events.len(), want.lines().count(), "{body}");
            assert_eq!(b.events.last().map_or(0, |e| e.end), b.lines.len(), "{body}");
        }
    }

    #[test]
    fn bad_bodies() {
        for (body, lines) in [
            ("", false),
            (" \n", true),
            ("{", false),
            ("[{}", false),
            ("[{},]", false),
            ("[{} {}]", false),
            ("[1]", false),
            ("[{}]x", false),
            ("7", false),
            ("\"a\"", false),
            ("{}\n{", false),
            ("{} {}", false),
            ("{\n}\n{}", true),
            ("[{}]\n", true),
            ("{\"batch\":[{}]", false),
            ("{\"batch\":[3]}", false),
            ("{\"a\":1,}", false),
            ("{\"a\" 1}", false),
            ("{a:1}", false),
            ("{\"a\":\"\u{1}\"}", true),
        ] {
            assert!(read(body, lines).is_err(), "{body:?}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}", false, &mut Batch::default()).is_err());
        assert!(read("{}\n{}\n{x}\n", true).err().unwrap().contains("line 3"));
    }
}
