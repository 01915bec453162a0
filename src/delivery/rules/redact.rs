//! What must not leave the process: members of an event are masked, hashed or taken out, by path.
//!
//! Invariants:
//! - What a rule names is gone from the text that comes out, whichever way it is written: an escaped key is its plain
//!   one, and of keys that are there twice each is meant.
//! - Every other byte is as it was, but for the comma beside a member that was taken out. Numbers are not looked at.
//! - What cannot be read cannot be redacted: it does not come out at all.
//! - Where several rules meet, the order they were given in does not matter: taking out is more than masking, and masking
//!   more than hashing; a rule for the whole outdoes those for its parts.
#![forbid(unsafe_code)]

use super::edit::Edit;
use super::path::{ALLOWED, Path, Step};
use super::scan::{Malformed, Scan};
use ring::digest::{Context, SHA256};
use std::borrow::Cow;
use std::ops::Range;

/// What happens to a value, from less to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Hash,
    Mask,
    Remove,
}

/// How far a rule has come on the way down to a value: its number, and that of its next step.
type State = (usize, usize);

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redact {
    rules: Vec<(Path, Action)>,
    /// Rules that may begin at any depth.
    anywhere: Vec<State>,
    /// The others, at the top.
    top: Vec<State>,
}

impl Redact {
    /// Rules as they are configured: a path and the word for what to do.
    pub fn parse(rules: Vec<(String, String)>) -> Result<Redact, String> {
        let mut read = Vec::new();
        for (path, action) in rules {
            let parsed = Path::parse(&path)
                .map_err(|why| format!("the path {path:?} is none: {why}; allowed: {ALLOWED}, * for any one level, **. first for any depth"))?;
            let action = match action.as_str() {
                "hash" => Action::Hash,
                "mask" => Action::Mask,
                "remove" => Action::Remove,
                _ => return Err(format!("{path:?} is {action:?}; allowed: mask, hash or remove")),
            };
            read.push((parsed, action));
        }
        let of = |anywhere: bool| {
            let numbered = read.iter().enumerate();
            numbered.filter(|(_, (path, _))| path.anywhere == anywhere).map(|(n, _)| (n, 0)).collect()
        };
        Ok(Redact { anywhere: of(true), top: of(false), rules: read })
    }

    /// The event as it may leave.
    pub fn apply<'a>(&self, raw: &'a [u8]) -> Result<Cow<'a, [u8]>, Malformed> {
        std::str::from_utf8(raw).map_err(|_| Malformed)?;
        let (scan, edit, states) = (Scan::new(raw, 0), Edit::new(raw), self.top.clone());
        let mut walk = Walk { redact: self, scan, edit, states };
        if walk.scan.peek() != b'{' {
            return Err(Malformed);
        }
        walk.inside(0)?;
        walk.scan.end()?;
        Ok(walk.edit.finish())
    }
}

/// One event's way through the rules.
struct Walk<'a, 'r> {
    redact: &'r Redact,
    scan: Scan<'a>,
    edit: Edit<'a>,
    /// Those of each level one after the other, as a stack.
    states: Vec<State>,
}

impl Walk<'_, '_> {
    /// Go through the value that comes next; the states from `from` on are those of its members. Recursion ends
    /// at the depth that [`Scan`] allows.
    fn inside(&mut self, from: usize) -> Result<(), Malformed> {
        let idle = self.states.len() == from && self.redact.anywhere.is_empty();
        match self.scan.peek() {
            b'{' if !idle => self.object(from),
            b'[' if !idle => self.array(from),
            _ => self.scan.skip().map(drop),
        }
    }

    fn object(&mut self, from: usize) -> Result<(), Malformed> {
        self.scan.enter()?;
        let below = self.states.len();
        let (mut first, mut kept) = (true, false);
        loop {
            let before = self.scan.at();
            let Some(key) = self.scan.key(first)? else { return Ok(()) };
            let action = self.step(from..below, |step| step.is_key(&key));
            if action == Some(Action::Remove) {
                let value = self.scan.skip()?;
                self.edit.replace(before..value.end);
            } else {
                if !first && !kept {
                    // All before it were taken out: so is the comma.
                    self.edit.replace(before..key.start);
                }
                self.value(action, below)?;
                kept = true;
            }
            self.states.truncate(below);
            first = false;
        }
    }

    fn array(&mut self, from: usize) -> Result<(), Malformed> {
        self.scan.enter()?;
        let below = self.states.len();
        let mut index = 0;
        while self.scan.item(index == 0)? {
            let action = self.step(from..below, |step| step.is_index(index));
            self.value(action, below)?;
            self.states.truncate(below);
            index += 1;
        }
        Ok(())
    }

    /// Go one level down, to what `is` takes for meant: push the states there. Gives what is done to the whole of it.
    fn step(&mut self, states: Range<usize>, is: impl Fn(&Step) -> bool) -> Option<Action> {
        let mut action = None;
        for at in 0..self.redact.anywhere.len() + states.len() {
            let begun = self.redact.anywhere.get(at);
            let under_way =
                at.checked_sub(self.redact.anywhere.len()).and_then(|n| self.states.get(states.start + n));
            let Some(&(rule, step)) = begun.or(under_way) else { continue };
            let Some((path, what)) = self.redact.rules.get(rule) else { continue };
            if !path.steps.get(step).is_some_and(&is) {
                continue;
            }
            if step + 1 == path.steps.len() {
                action = action.max(Some(*what));
            } else {
                self.states.push((rule, step + 1));
            }
        }
        action
    }

    /// Do that to the value that comes next, or go through it.
    fn value(&mut self, action: Option<Action>, below: usize) -> Result<(), Malformed> {
        let Some(action) = action else { return self.inside(below) };
        let mut scan = self.scan;
        let part = self.scan.skip()?;
        let text = self.scan.part(part.clone());
        let out = self.edit.replace(part);
        match action {
            Action::Mask => out.extend_from_slice(b"\"***\""),
            Action::Remove => out.extend_from_slice(b"null"),
            Action::Hash => {
                let mut hash = Context::new(&SHA256);
                match scan.string() {
                    Ok(string) => string.decode(|piece| hash.update(piece)),
                    Err(_) => hash.update(text),
                }
                out.push(b'"');
                for byte in hash.finish().as_ref() {
                    for digit in [byte >> 4, byte & 15] {
                        out.extend(char::from_digit(digit.into(), 16).map(|c| c as u8));
                    }
                }
                out.push(b'"');
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn rules(rules: &[(&str, &str)]) -> Redact {
        let owned = rules.iter().map(|(path, action)| (path.to_string(), action.to_string()));
        Redact::parse(owned.collect()).unwrap()
    }

    fn applied(list: &[(&str, &str)], text: &str) -> String {
        String::from_utf8(rules(list).apply(text.as_bytes()).unwrap().into_owned()).unwrap()
    }

    const SHA_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn each_action() {
        let text = r#"{ "a" : "abc" , "b":{"a":1.50} }"#;
        assert_eq!(applied(&[("a", "mask")], text), r#"{ "a" : "***" , "b":{"a":1.50} }"#);
        let hashed = format!(r#"{{ "a" : "{SHA_OF_ABC}" , "b":{{"a":1.50}} }}"#);
        assert_eq!(applied(&[("a", "hash")], text), hashed);
        assert_eq!(applied(&[("a", "remove")], text), r#"{"b":{"a":1.50} }"#);
        assert_eq!(applied(&[("b", "remove")], text), r#"{ "a" : "abc" }"#);
        assert_eq!(applied(&[("b.a", "remove")], text), r#"{ "a" : "abc" , "b":{} }"#);
        assert_eq!(applied(&[("b", "mask")], text), r#"{ "a" : "abc" , "b":"***" }"#);
    }

    #[test]
    fn a_hash_is_that_of_the_text() {
        for text in [r#"{"a":"abc"}"#, r#"{"a":"\u0061b\u0063"}"#, r#"{"\u0061":"abc"}"#] {
            assert!(applied(&[("a", "hash")], text).ends_with(&format!(r#":"{SHA_OF_ABC}"}}"#)), "{text}");
        }
        let of = |value: &str| {
            let text = applied(&[("a", "hash")], &format!(r#"{{"a": {value} }}"#));
            serde_json::from_str::<Value>(&text).unwrap()["a"].as_str().unwrap().to_string()
        };
        // `printf 1.50 | sha256sum`, and so on.
        for (value, hash) in [
            ("1.50", "1a60b208ff491c3e2d21cdd5abb003e51e97b072efec59098863da45021de6a9"),
            (r#""""#, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("null", "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"),
        ] {
            assert_eq!(of(value), hash, "{value}");
        }
        assert_ne!(of("[1, 2]"), of("[1,2]"), "the text as it stands");
    }

    #[test]
    fn all_else_stays_byte_by_byte() {
        let text = "\t{\"n\":[1.50,1e400,123456789012345678901234567890,-0],\r\n\"d\":1,\"d\":\"\\u00e9\\/\",\"x\":0 }\n";
        let list = [("x", "mask"), ("no.such", "mask"), ("n.no", "hash")];
        assert_eq!(applied(&list, text), text.replace("\"x\":0", "\"x\":\"***\""));
        assert!(matches!(rules(&[("y", "mask")]).apply(text.as_bytes()), Ok(Cow::Borrowed(_))));
        assert!(matches!(rules(&[]).apply(text.as_bytes()), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn stars_and_depths() {
        let text = r#"{"items":[{"card":1,"x":2},{"card":3},[{"card":4}],5],"token":6,"o":{"items":{"k":{"card":7}},"token":{"token":8}}}"#;
        assert_eq!(
            applied(&[("items.*.card", "mask")], text),
            text.replace(":1,", ":\"***\",").replace(":3}", ":\"***\"}")
        );
        assert_eq!(
            applied(&[("**.items.*.card", "remove")], text),
            text.replace("\"card\":1,", "").replace("\"card\":3", "").replace("\"card\":7", "")
        );
        assert_eq!(
            applied(&[("**.token", "mask")], text),
            text.replace(":6", ":\"***\"").replace(r#"{"token":8}"#, "\"***\"")
        );
        assert_eq!(applied(&[("items.1", "remove")], text), text.replace(r#"{"card":3}"#, "null"));
        assert_eq!(
            applied(&[("items.*", "remove")], text),
            text.replace(r#"[{"card":1,"x":2},{"card":3},[{"card":4}],5]"#, "[null,null,null,null]")
        );
        assert_eq!(applied(&[("*", "remove")], text), "{}");
        assert_eq!(
            applied(&[("**.*.card", "mask")], r#"{"card":1,"a":{"card":2}}"#),
            r#"{"card":1,"a":{"card":"***"}}"#
        );
        assert_eq!(applied(&[("**.a.a", "mask")], r#"{"a":{"a":{"a":1}}}"#), r#"{"a":{"a":"***"}}"#);
    }

    #[test]
    fn keys_in_every_shape() {
        let text = r#"{"p\u0061ss":"1","pass":"2","a.b":"3","Pass":"4","pas":"5","\ud800":"6"}"#;
        assert_eq!(
            applied(&[("pass", "mask"), (r"a\.b", "mask")], text),
            r#"{"p\u0061ss":"***","pass":"***","a.b":"***","Pass":"4","pas":"5","\ud800":"6"}"#
        );
        assert_eq!(applied(&[("a.b", "mask")], text), text);
    }

    #[test]
    fn commas_of_what_is_taken_out() {
        for (text, left) in [
            (r#"{"x":1}"#, "{}"),
            (r#"{ "x" : 1 }"#, "{ }"),
            (r#"{"x":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":2,"x":1}"#, r#"{"a":2}"#),
            (r#"{"x":1,"x":2}"#, "{}"),
            (r#"{"x":1,"x":2,"a":3}"#, r#"{"a":3}"#),
            (r#"{"x":1,"a":3,"x":2}"#, r#"{"a":3}"#),
            (r#"{"a":1 , "x":2 , "x":3 , "b":4}"#, r#"{"a":1 , "b":4}"#),
            (r#"{"a":{"x":1},"x":{"x":[1]},"b":[{"x":1,"y":2}]}"#, r#"{"a":{},"b":[{"y":2}]}"#),
        ] {
            assert_eq!(applied(&[("**.x", "remove")], text), left, "{text}");
        }
    }

    #[test]
    fn the_stricter_rule_wins_in_any_order() {
        let mut list = vec![("a", "hash"), ("*", "mask"), ("**.a", "remove"), ("a.b", "hash")];
        for _ in 0..list.len() {
            list.rotate_left(1);
            assert_eq!(applied(&list, r#"{"a":{"b":1},"c":2}"#), r#"{"c":"***"}"#);
        }
    }

    #[test]
    fn what_cannot_be_read_does_not_come_out() {
        let redact = rules(&[("a", "mask")]);
        for bad in [
            "",
            "x",
            "[]",
            "[{\"a\":1}]",
            "1",
            "\"a\"",
            "{",
            "{\"a\":1}}",
            "{\"a\":1} x",
            "{\"a\":}",
            "{\"b\":tru}",
            "{\"a\":\"\n\"}",
        ] {
            assert_eq!(redact.apply(bad.as_bytes()), Err(Malformed), "{bad}");
        }
        assert_eq!(redact.apply(b"{\"b\":\"\xff\"}"), Err(Malformed));
        let deep = format!("{{\"b\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(redact.apply(deep.as_bytes()), Err(Malformed));
        assert_eq!(rules(&[("**.a", "mask")]).apply(deep.as_bytes()), Err(Malformed));
    }

    #[test]
    fn errors_name_path_and_action() {
        let error = |path: &str, action: &str| {
            Redact::parse(vec![("ok".into(), "mask".into()), (path.into(), action.into())]).unwrap_err()
        };
        assert_eq!(error("a.b", "drop"), r#""a.b" is "drop"; allowed: mask, hash or remove"#);
        let text = error("a..b", "mask");
        assert!(text.contains(r#""a..b""#) && text.contains("empty") && text.contains("**. first"), "{text}");
    }

    /// Any JSON, with few keys so that rules meet them.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[ab*.é]{0,2}|x", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn objects() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[ab]|x", values(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// The same by another way: taken apart, with the paths from the top compared to each rule.
    fn model(value: &mut Value, way: &mut Vec<String>, rules: &[(Path, Action)]) -> Option<Action> {
        let fits = |path: &Path| {
            let begin = way.len().checked_sub(path.steps.len());
            let begin = begin.filter(|begin| (path.anywhere || *begin == 0) && !way.is_empty());
            begin.is_some_and(|begin| {
                way[begin..].iter().zip(&path.steps).all(|(key, step)| match step {
                    Step::Any => true,
                    Step::Name(name) => name == key,
                })
            })
        };
        let action = rules.iter().filter(|(path, _)| fits(path)).map(|(_, action)| *action).max();
        if let Some(action) = action {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let digest = ring::digest::digest(&SHA256, text.as_bytes());
            *value = match action {
                Action::Mask => json!("***"),
                Action::Remove => Value::Null,
                Action::Hash => digest.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>().into(),
            };
            return Some(action);
        }
        let mut go = |key: String, value: &mut Value| {
            way.push(key);
            let action = model(value, way, rules);
            way.pop();
            action
        };
        match value {
            Value::Array(items) => items.iter_mut().enumerate().for_each(|(n, item)| {
                go(n.to_string(), item);
            }),
            Value::Object(members) => {
                let gone = |(key, value): (&String, &mut Value)| {
                    (go(key.clone(), value) == Some(Action::Remove)).then(|| key.clone())
                };
                let gone: Vec<String> = members.iter_mut().filter_map(gone).collect();
                gone.iter().for_each(|key| {
                    members.remove(key);
                });
            }
            _ => {}
        }
        None
    }

    proptest! {
        #[test]
        fn as_if_taken_apart(
            event in objects(),
            list in proptest::collection::vec(
                (r"(\*\*\.)?([abx01*]\.){0,3}[abx01*]", prop::sample::select(vec!["mask", "hash", "remove"])),
                0..5,
            ),
            pretty in any::<bool>(),
        ) {
            let text = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
            let list: Vec<(&str, &str)> = list.iter().map(|(path, action)| (path.as_str(), *action)).collect();
            let redact = rules(&list);
            let out = redact.apply(text.as_bytes()).unwrap().into_owned();
            let mut expected = event;
            if pretty {
                // A hash of more than a string is that of the text, which differs.
                let no_hash = redact.rules.iter().all(|(_, action)| *action != Action::Hash);
                prop_assume!(no_hash);
            }
            model(&mut expected, &mut Vec::new(), &redact.rules);
            let got: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(got, expected, "{} {:?}", text, list);
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..60), cut in 0usize..60) {
            let redact = rules(&[("**.a", "remove"), ("*.*", "hash")]);
            let _ = redact.apply(&text);
            let good = br#"{"a":[1,{"a":"\u0061"}],"b":{"b":"\ud83d\ude00","a":null},"c":[[],{}]}"#;
            let mut broken = good.to_vec();
            broken.truncate(cut);
            broken.extend_from_slice(&text);
            let _ = redact.apply(&broken);
        }
    }
}
