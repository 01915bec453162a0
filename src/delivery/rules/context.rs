//! What each event is told of its process: members that are merged into it where the format wants them.
//!
//! Invariants:
//! - A member that the event has wins, whatever its value is, and every byte of the event stays as it was.
//! - An event that has something else than an object where the members belong is left alone; `null` is as if it were not
//!   there. Of keys that are there twice the last one counts, as with most readers of JSON.
//! - Process, generation and worker number are those that enqueued the event, which the queue knows, and not those that deliver it.
#![forbid(unsafe_code)]

use super::edit::Edit;
use super::scan::{Malformed, Scan};
use crate::format::Stamp;
use std::borrow::Cow;
use std::io::Write;

/// A piece of a member's text.
#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Pid,
    Generation,
    Worker,
}

#[derive(Clone, PartialEq, Eq)]
struct Member {
    name: String,
    /// Its value.
    pieces: Vec<Piece>,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq)]
pub struct Context {
    members: Vec<Member>,
}

impl Context {
    /// Members as they are configured, each value as JSON text; `host` is the machine's name.
    pub fn parse(members: &[(String, String)], host: &str) -> Result<Context, String> {
        let read = |(name, value): &(String, String)| {
            let pieces =
                pieces(value, host).map_err(|_| format!("the value of {name:?} is no JSON, or too deep"))?;
            Ok(Member { name: name.clone(), pieces })
        };
        Ok(Context { members: members.iter().map(read).collect::<Result<_, String>>()? })
    }

    /// The event with the members that the object at that place lacks.
    pub fn merge<'a>(&self, raw: &'a [u8], place: &[&str], stamp: &Stamp<'_>) -> Cow<'a, [u8]> {
        let merged = self.place(raw, place, stamp);
        merged.map_or(Cow::Borrowed(raw), |(at, text)| {
            let mut edit = Edit::new(raw);
            edit.replace(at).extend_from_slice(&text);
            edit.finish()
        })
    }

    /// What to put where, if anything.
    fn place(
        &self,
        raw: &[u8],
        mut place: &[&str],
        stamp: &Stamp<'_>,
    ) -> Option<(std::ops::Range<usize>, Vec<u8>)> {
        let mut scan = Scan::new(raw, 0);
        let mut top = true;
        loop {
            match scan.peek() {
                b'{' => {}
                b'n' if !top => {
                    let null = scan.skip().ok()?;
                    let mut text = Vec::new();
                    self.nested(&mut text, place, stamp);
                    return Some((null, text));
                }
                _ => return None,
            }
            scan.enter().ok()?;
            let mut there = vec![false; self.members.len()];
            let (mut end, mut next, mut first) = (scan.at(), None, true);
            while let Some(key) = scan.key(first).ok()? {
                match place.first() {
                    Some(name) if key.is(name) => next = Some(scan.at()),
                    Some(_) => {}
                    None => {
                        let members = self.members.iter().zip(&mut there);
                        members
                            .filter(|(member, _)| key.is(&member.name))
                            .for_each(|(_, there)| *there = true);
                    }
                }
                end = scan.skip().ok()?.end;
                first = false;
            }
            let mut text = Vec::new();
            if !first {
                text.push(b',');
            }
            match (place.split_first(), next) {
                (Some((_, below)), Some(at)) => {
                    (scan, place, top) = (Scan::new(raw, at), below, false);
                    continue;
                }
                (Some((name, below)), None) => {
                    string(&mut text, name);
                    text.push(b':');
                    self.nested(&mut text, below, stamp);
                }
                (None, _) if there.iter().all(|there| *there) => return None,
                (None, _) => self.list(&mut text, &there, stamp),
            }
            return Some((end..end, text));
        }
    }

    /// An object for each level that is left, and all members in the last.
    fn nested(&self, out: &mut Vec<u8>, place: &[&str], stamp: &Stamp<'_>) {
        for name in place {
            out.push(b'{');
            string(out, name);
            out.push(b':');
        }
        out.push(b'{');
        self.list(out, &[], stamp);
        out.resize(out.len() + place.len() + 1, b'}');
    }

    /// The members that are not there yet.
    fn list(&self, out: &mut Vec<u8>, there: &[bool], stamp: &Stamp<'_>) {
        let mut comma = false;
        for (n, member) in self.members.iter().enumerate() {
            if there.get(n) == Some(&true) {
                continue;
            }
            if std::mem::replace(&mut comma, true) {
                out.push(b',');
            }
            string(out, &member.name);
            out.push(b':');
            for piece in &member.pieces {
                // Writing to a vector cannot fail.
                let _ = match piece {
                    Piece::Text(text) => out.write_all(text),
                    Piece::Pid => write!(out, "{}", stamp.pid),
                    Piece::Generation => write!(out, "\"{:016x}\"", stamp.generation),
                    Piece::Worker => write!(out, "{}", stamp.worker),
                };
            }
        }
    }
}

/// Names only: a value may be nobody's business.
impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.members.iter().map(|member| &member.name)).finish()
    }
}

/// The text of a value, with the words that stand for something taken out.
fn pieces(value: &str, host: &str) -> Result<Vec<Piece>, Malformed> {
    let text = value.as_bytes();
    let (mut pieces, mut done) = (Vec::new(), 0);
    let mut words = Vec::new();
    let mut scan = Scan::new(text, 0);
    let whole = scan.each_string(|string| {
        let word = ["$pid", "$host", "$generation", "$worker"].into_iter().find(|word| string.is(word));
        words.extend(word.map(|word| (string.start, word)));
    })?;
    scan.end()?;
    let mut push = |piece: Piece| match (pieces.last_mut(), piece) {
        (Some(Piece::Text(before)), Piece::Text(more)) => before.extend(more),
        (_, piece) => pieces.push(piece),
    };
    for (start, word) in words {
        let mut scan = Scan::new(text, start);
        scan.string()?;
        push(Piece::Text(text.get(done..start).unwrap_or_default().to_vec()));
        push(match word {
            "$pid" => Piece::Pid,
            "$generation" => Piece::Generation,
            "$worker" => Piece::Worker,
            _ => {
                let mut name = Vec::new();
                self::string(&mut name, host);
                Piece::Text(name)
            }
        });
        done = scan.at();
    }
    push(Piece::Text(text.get(done..whole.end).unwrap_or_default().to_vec()));
    Ok(pieces)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const STAMP: Stamp<'_> = Stamp { id: &[b'0'; 36], time_ns: 1, pid: 4711, generation: 0xAB, worker: 3 };

    fn context(members: &[(&str, &str)]) -> Context {
        let owned: Vec<_> =
            members.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Context::parse(&owned, "web-\"1\"").unwrap()
    }

    fn merged(members: &[(&str, &str)], place: &[&str], raw: &str) -> String {
        let out = context(members).merge(raw.as_bytes(), place, &STAMP).into_owned();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_are_replaced() {
        assert_eq!(
            merged(
                &[
                    ("pid", "\"$pid\""),
                    ("host", r#""$h\u006fst""#),
                    ("gen", "\"$generation\""),
                    ("worker", "\"$worker\""),
                    ("s", "\"$pid \""),
                    ("n", " 1.50 ")
                ],
                &[],
                "{}"
            ),
            r#"{"pid":4711,"host":"web-\"1\"","gen":"00000000000000ab","worker":3,"s":"$pid ","n": 1.50}"#
        );
        assert_eq!(
            merged(&[("a", r#"{"$pid":"$pid","l":["$pid",["$generation"],"x"]}"#)], &[], "{}"),
            r#"{"a":{"$pid":4711,"l":[4711,["00000000000000ab"],"x"]}}"#
        );
    }

    #[test]
    fn what_the_event_has_wins() {
        let members = [("a", "1"), ("b\"", "2")];
        for (raw, out) in [
            ("{}", r#"{"a":1,"b\"":2}"#),
            (" { } ", r#" {"a":1,"b\"":2 } "#),
            ("{\"x\" : 1.50 }\n", "{\"x\" : 1.50,\"a\":1,\"b\\\"\":2 }\n"),
            (r#"{"a":null}"#, r#"{"a":null,"b\"":2}"#),
            (r#"{"\u0061":7,"a":8}"#, r#"{"\u0061":7,"a":8,"b\"":2}"#),
            (r#"{"b\u0022":0}"#, r#"{"b\u0022":0,"a":1}"#),
            (r#"{"b\"":0,"x":{"a":1}}"#, r#"{"b\"":0,"x":{"a":1},"a":1}"#),
        ] {
            assert_eq!(merged(&members, &[], raw), out, "{raw}");
        }
        let raw = br#"{"b\"":0,"a":{}}"#;
        assert!(matches!(context(&members).merge(raw, &[], &STAMP), Cow::Borrowed(_)));
    }

    #[test]
    fn places() {
        for (place, raw, out) in [
            (&["p"][..], r#"{}"#, r#"{"p":{"a":1}}"#),
            (&["p"], r#"{"x":0}"#, r#"{"x":0,"p":{"a":1}}"#),
            (&["p"], r#"{"p":{}}"#, r#"{"p":{"a":1}}"#),
            (&["p"], r#"{"p":{"b":2},"x":0}"#, r#"{"p":{"b":2,"a":1},"x":0}"#),
            (&["p"], r#"{"p":{"a":2},"a":3}"#, r#"{"p":{"a":2},"a":3}"#),
            (&["p"], r#"{"\u0070": null ,"x":0}"#, r#"{"\u0070": {"a":1} ,"x":0}"#),
            (&["p"], r#"{"p":"text"}"#, r#"{"p":"text"}"#),
            (&["p"], r#"{"p":[["a",0]]}"#, r#"{"p":[["a",0]]}"#),
            (&["p"], r#"{"p":0}"#, r#"{"p":0}"#),
            (&["p"], r#"{"p":{"a":5},"p":{}}"#, r#"{"p":{"a":5},"p":{"a":1}}"#),
            (&["p", "q"], r#"{}"#, r#"{"p":{"q":{"a":1}}}"#),
            (&["p", "q"], r#"{"p":{"r":0}}"#, r#"{"p":{"r":0,"q":{"a":1}}}"#),
            (&["p", "q"], r#"{"p":null}"#, r#"{"p":{"q":{"a":1}}}"#),
            (&["p", "q"], r#"{"p":{"q":null}}"#, r#"{"p":{"q":{"a":1}}}"#),
            (&["p", "q"], r#"{"p":{"q":{"a":0}}}"#, r#"{"p":{"q":{"a":0}}}"#),
            (&["p", "q"], r#"{"p":{"q":false}}"#, r#"{"p":{"q":false}}"#),
        ] {
            assert_eq!(merged(&[("a", "1")], place, raw), out, "{raw}");
        }
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for raw in [
            "",
            "null",
            "[]",
            "\"a\"",
            "7",
            "{",
            "{\"a\"",
            "{\"x\":}",
            "{,}",
            "{\"x\":1,}",
            "nonsense",
            "\u{FEFF}{}",
        ] {
            for place in [&[][..], &["p"]] {
                assert_eq!(merged(&[("a", "1")], place, raw), raw);
            }
        }
    }

    #[test]
    fn only_json_can_be_merged() {
        for bad in ["", "{", "1 2", "abc", "\"$pid"] {
            let error = Context::parse(&[("name".into(), bad.into())], "h").unwrap_err();
            assert!(error.contains("\"name\""), "{error}");
        }
        let shown = format!("{:?}", context(&[("name", "\"hush\"")]));
        assert!(shown.contains("name") && !shown.contains("hush"), "{shown}");
    }

    proptest! {
        #[test]
        fn as_if_taken_apart(
            event in proptest::collection::btree_map("[abp]", prop_oneof![
                Just(json!(null)), Just(json!(1)), Just(json!({})), Just(json!({"b": 2, "p": {}})), Just(json!("[{")),
            ], 0..4),
            members in proptest::collection::btree_map("[abc]", -5i64..5, 1..4),
            place in proptest::collection::vec("[pb]", 0..3),
            pretty in any::<bool>(),
        ) {
            let event = Value::Object(event.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
            let place: Vec<&str> = place.iter().map(String::as_str).collect();
            let owned: Vec<(String, String)> = members.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
            let out = Context::parse(&owned, "h").unwrap().merge(text.as_bytes(), &place, &STAMP).into_owned();

            fn model(at: &mut Value, place: &[&str], members: &[(String, String)]) -> bool {
                if at.is_null() {
                    *at = json!({});
                }
                let Some(object) = at.as_object_mut() else { return false };
                match place.split_first() {
                    Some((name, below)) => model(object.entry(*name).or_insert(Value::Null), below, members),
                    None => {
                        for (name, value) in members {
                            object.entry(name).or_insert_with(|| serde_json::from_str(value).unwrap());
                        }
                        true
                    }
                }
            }
            let mut expected = event.clone();
            if !model(&mut expected, &place, &owned) {
                expected = event;
            }
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected, "{} {:?}", text, place);
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..60), cut in 0usize..40) {
            let context = context(&[("a", "1")]);
            context.merge(&text, &["p", "q"], &STAMP);
            let mut broken = br#"{"p":{"q":{"b":[1,"\u0061"]},"r":null},"s":0}"#.to_vec();
            broken.truncate(cut);
            broken.extend_from_slice(&text);
            context.merge(&broken, &["p", "q"], &STAMP);
        }
    }
}
