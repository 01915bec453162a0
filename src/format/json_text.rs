//! Looking into an event's JSON text without taking it apart.
//!
//! Invariants:
//! - A text that passes [`object`] or [`Members::of`] is valid UTF-8 and one JSON object with nothing behind it, so
//!   it may be spliced into an envelope. What is appended has no raw line break.
//! - A value that nobody sets is appended as it was written, to the byte. Where a name is there twice, the last one
//!   counts, as it does for nearly every reader of JSON.

use super::{Invalid, Stamp, time};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Most names a format may ask for.
const NAMES: usize = 6;

/// A checked event.
pub struct Object<'a, 'n> {
    /// What stands behind the opening brace, up to the end of the text.
    inner: &'a str,
    empty: bool,
    names: &'n [&'n str],
    values: [Option<&'a str>; NAMES],
}

impl<'a> Object<'a, '_> {
    /// Whether the `i`th of the names asked for is a key of the object.
    pub fn has(&self, i: usize) -> bool {
        self.values.get(i).is_some_and(Option::is_some)
    }

    /// The JSON text of the `i`th, unless it is missing or null.
    pub fn value(&self, i: usize) -> Option<&'a str> {
        self.values.get(i).copied().flatten().filter(|text| *text != "null")
    }

    /// The `i`th, if it is a string.
    pub fn string(&self, i: usize) -> Option<Cow<'a, str>> {
        self.value(i).and_then(string)
    }

    /// Append the object with some of its members set to other JSON texts: in their places, or in front where they
    /// are missing.
    pub fn append(&self, out: &mut Vec<u8>, set: &[(usize, &[u8])]) {
        out.push(b'{');
        let start = out.len();
        let mut places: Vec<(usize, usize, &[u8])> = Vec::new();
        for &(i, text) in set {
            let Some(name) = self.names.get(i) else { continue };
            match self.values.get(i).copied().flatten() {
                Some(old) => {
                    // Both are parts of one text.
                    let at = old.as_ptr() as usize - self.inner.as_ptr() as usize;
                    places.push((at, at + old.len(), text));
                }
                None => put(out, name, text),
            }
        }
        if self.empty && out.len() > start {
            out.pop();
        }
        places.sort_unstable_by_key(|place| place.0);
        let mut from = 0;
        for (at, end, text) in places {
            append_in_one_line(out, self.inner.get(from..at).unwrap_or_default());
            out.extend_from_slice(text);
            from = end;
        }
        append_in_one_line(out, self.inner.get(from..).unwrap_or_default());
    }
}

impl Object<'_, '_> {
    /// Append it with the stamp's id for the first of its names and the stamp's time for the second, where they are
    /// missing or null.
    pub fn append_filled(&self, out: &mut Vec<u8>, stamp: &Stamp<'_>) {
        let (id, time) = (quoted(stamp.id), quoted(&time::rfc3339_ms(stamp.time_ns)));
        let both: [(usize, &[u8]); 2] = [(0, &id), (1, &time)];
        let lacking: Vec<(usize, &[u8])> =
            both.into_iter().filter(|&(i, _)| self.value(i).is_none()).collect();
        self.append(out, &lacking);
    }
}

/// Check that `raw` is one JSON object, and find the values of `names` at its top level.
pub fn object<'a, 'n>(raw: &'a [u8], names: &'n [&'n str]) -> Result<Object<'a, 'n>, Invalid> {
    let text = std::str::from_utf8(raw).map_err(|_| Invalid("not valid UTF-8"))?;
    let (values, keys) = parse(text, |parser| parser.deserialize_map(Top(names)))?;
    let inner = text.trim_ascii().strip_prefix('{').ok_or(NOT_ONE)?;
    Ok(Object { inner: inner.trim_ascii(), empty: keys == 0, names, values })
}

/// Append the object, with the members `fill` in front; each ends in a comma.
pub fn append(out: &mut Vec<u8>, object: &Object<'_, '_>, fill: &[u8]) {
    out.push(b'{');
    let fill = if object.empty { fill.strip_suffix(b",").unwrap_or(fill) } else { fill };
    out.extend_from_slice(fill);
    append_in_one_line(out, object.inner);
}

/// `"name":"value",` with a value that needs no escaping.
pub fn member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    put(out, name, &quoted(value));
}

/// `"name":text,` for a name that needs no escaping and a JSON text.
pub fn put(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(text);
    out.push(b',');
}

/// The same for a JSON text that somebody wrote.
pub fn put_text(out: &mut Vec<u8>, name: &str, text: &str) {
    put(out, name, b"");
    out.pop();
    append_in_one_line(out, text);
    out.push(b',');
}

/// The JSON string of a text that needs no escaping.
pub fn quoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
    out
}

/// The text of a JSON string; `None` for any other JSON text, and for one that is no Unicode.
pub fn string(json: &str) -> Option<Cow<'_, str>> {
    let plain = json.strip_prefix('"')?.strip_suffix('"')?;
    match plain.contains('\\') {
        false => Some(Cow::Borrowed(plain)),
        true => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// Append a JSON text with each raw line break a space: outside of strings, where alone it can stand, the two mean
/// the same.
pub fn append_in_one_line(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for b in out.iter_mut().skip(start) {
        if *b == b'\n' || *b == b'\r' {
            *b = b' ';
        }
    }
}

/// A member of an object, as it was written.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The JSON text of its name.
    key: &'a str,
    /// The JSON text of its value.
    pub value: &'a str,
}

impl Member<'_> {
    /// Append its name and a colon.
    pub fn append_key(&self, out: &mut Vec<u8>) {
        append_in_one_line(out, self.key);
        out.push(b':');
    }
}

/// All members of an object: for events that are put together anew.
#[derive(Debug, Clone, Default)]
pub struct Members<'a>(pub Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Those of the one object that `text` is.
    pub fn of(text: &'a str) -> Result<Members<'a>, Invalid> {
        parse(text, |parser| parser.deserialize_map(All))
    }

    /// Those of an event.
    pub fn of_event(raw: &'a [u8]) -> Result<Members<'a>, Invalid> {
        Members::of(std::str::from_utf8(raw).map_err(|_| Invalid("not valid UTF-8"))?)
    }

    /// The JSON text of the member of that name, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let last = self.0.iter().rev().find(|member| member.name == name);
        last.map(|member| member.value).filter(|text| *text != "null")
    }

    /// The same, and take it out.
    pub fn take(&mut self, name: &str) -> Option<&'a str> {
        let value = self.get(name);
        self.0.retain(|member| member.name != name);
        value
    }

    /// Whether there is a member of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|member| member.name == name)
    }

    /// Take in those of others whose names are not here.
    pub fn add_missing(&mut self, others: Members<'a>) {
        let here: HashSet<&str> = self.0.iter().map(|member| &*member.name).collect();
        let is_missing = |other: &Member<'_>| !here.contains(&*other.name);
        let missing: Vec<Member<'a>> = others.0.into_iter().filter(is_missing).collect();
        self.0.extend(missing);
    }

    /// Append them, each ended by a comma.
    pub fn append(&self, out: &mut Vec<u8>) {
        for member in &self.0 {
            member.append_key(out);
            append_in_one_line(out, member.value);
            out.push(b',');
        }
    }
}

/// End an object or array whose parts each end in a comma, and go on.
pub fn end(out: &mut Vec<u8>, with: &[u8]) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.extend_from_slice(with);
}

const NOT_ONE: Invalid = Invalid("not one JSON object");

fn parse<'a, T>(
    text: &'a str,
    of: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'a>>) -> serde_json::Result<T>,
) -> Result<T, Invalid> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let found = of(&mut parser).map_err(|_| NOT_ONE)?;
    parser.end().map_err(|_| Invalid("something follows the JSON object"))?;
    Ok(found)
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            // A name that is no Unicode can be no name that anybody asks for.
            let name = string(key.get()).unwrap_or_default();
            members.push(Member { name, key: key.get(), value: value.get() });
        }
        Ok(Members(members))
    }
}

struct Top<'n>(&'n [&'n str]);

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ([Option<&'de str>; NAMES], usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; NAMES];
        let mut keys = 0;
        while let Some(which) = map.next_key_seed(Name(self.0))? {
            match values.get_mut(which) {
                Some(value) => *value = Some(map.next_value::<&RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            keys += 1;
        }
        Ok((values, keys))
    }
}

/// A key, as its place in the list of names (or past its end).
struct Name<'n>(&'n [&'n str]);

impl<'de> serde::de::DeserializeSeed<'de> for Name<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<usize, D::Error> {
        d.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<usize, E> {
        Ok(self.0.iter().position(|n| *n == key).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(raw: &str) -> Result<String, Invalid> {
        let o = object(raw.as_bytes(), &["id"])?;
        let mut out = Vec::new();
        append(&mut out, &o, if o.has(0) { b"" } else { b"\"id\":\"x\"," });
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn fills_what_is_missing_and_nothing_else() {
        assert_eq!(filled("{}").unwrap(), r#"{"id":"x"}"#);
        assert_eq!(filled(" { } ").unwrap(), r#"{"id":"x"}"#);
        assert_eq!(filled(r#"{"a":1}"#).unwrap(), r#"{"id":"x","a":1}"#);
        assert_eq!(filled(r#"{"id":7}"#).unwrap(), r#"{"id":7}"#);
        assert_eq!(filled(r#"{"i\u0064":7}"#).unwrap(), r#"{"i\u0064":7}"#);
        assert_eq!(filled(r#"{"a":{"id":1}}"#).unwrap(), r#"{"id":"x","a":{"id":1}}"#);
        assert_eq!(
            filled("{\n \"a\": \"b\\n\",\r\n\"c\":2}\n").unwrap(),
            "{\"id\":\"x\",\"a\": \"b\\n\",  \"c\":2}"
        );
    }

    fn set(raw: &str, values: &[(usize, &str)]) -> String {
        let o = object(raw.as_bytes(), &["id", "time"]).unwrap();
        let mut out = Vec::new();
        o.append(&mut out, &values.iter().map(|(i, v)| (*i, v.as_bytes())).collect::<Vec<_>>());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sets_in_place_or_in_front() {
        assert_eq!(set("{}", &[]), "{}");
        assert_eq!(set("{}", &[(0, "1"), (1, "2")]), r#"{"id":1,"time":2}"#);
        assert_eq!(set(r#"{"a":1}"#, &[(1, "2")]), r#"{"time":2,"a":1}"#);
        assert_eq!(set(r#" { "id" : null , "a":1} "#, &[(0, "\"x\"")]), r#"{"id" : "x" , "a":1}"#);
        assert_eq!(
            set(r#"{"time":7,"a":[ ],"i\u0064":1}"#, &[(0, "8"), (1, "9")]),
            r#"{"time":9,"a":[ ],"i\u0064":8}"#
        );
        assert_eq!(set("{\"a\":\n1}", &[(0, "8")]), "{\"id\":8,\"a\": 1}");
    }

    #[test]
    fn finds_values() {
        let o = object(br#"{"id":1,"time":null,"id":"a\u0062"}"#, &["id", "time", "no"]).unwrap();
        assert_eq!((o.has(0), o.has(1), o.has(2), o.has(99)), (true, true, false, false));
        assert_eq!((o.value(0), o.value(1), o.value(2)), (Some(r#""a\u0062""#), None, None));
        assert_eq!(o.string(0).as_deref(), Some("ab"), "the last one counts");
        assert_eq!((string("7"), string(r#""\ud800""#), string("\"\"").as_deref()), (None, None, Some("")));
    }

    #[test]
    fn members_are_as_they_were_written() {
        let mut members = Members::of(" {\"a\" : 1.50, \"\\u0062\":[\n1 ],\"a\":2 ,\"\\ud800\":3} ").unwrap();
        let written = |members: &Members<'_>| {
            let mut out = b"{".to_vec();
            members.append(&mut out);
            end(&mut out, b"}");
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(&members), r#"{"a":1.50,"\u0062":[ 1 ],"a":2,"\ud800":3}"#);
        assert_eq!((members.get("a"), members.has("b"), members.get("c")), (Some("2"), true, None));
        assert_eq!(members.take("a"), Some("2"));
        members.add_missing(Members::of(r#"{"b":9,"c":null}"#).unwrap());
        assert_eq!(written(&members), r#"{"\u0062":[ 1 ],"\ud800":3,"c":null}"#);
        assert_eq!((members.take("c"), members.has("c")), (None, false));
        assert_eq!(written(&Members::default()), "{}");
        for bad in ["", "[]", "{}{}", "{\"a\"}", "{a:1}", "{\"a\":\"\n\"}"] {
            assert!(Members::of(bad).is_err(), "{bad}");
        }
        assert!(Members::of_event(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for bad in
            ["", " ", "7", "[]", "null", "\"x\"", "{", "{}{}", "{} x", "{\"a\":}", "{a:1}", "{\"a\":\"\n\"}"]
        {
            assert!(filled(bad).is_err(), "{bad}");
        }
        assert!(object(b"{\"a\":\"\xff\"}", &[]).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = object(deep.as_bytes(), &[]).is_ok();
    }
}
