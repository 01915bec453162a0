//! Looking into an event's JSON text without taking it apart.
//!
//! Invariant: a text that passes [`object`] is valid UTF-8 and one JSON object with nothing behind it, so
//! it may be spliced into an envelope; [`append`] leaves no raw line break in it.

use super::Invalid;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// Most names a format may ask for.
const NAMES: usize = 4;

/// A checked event.
pub struct Object<'a> {
    /// What stands behind the opening brace, up to the end of the text.
    inner: &'a [u8],
    empty: bool,
    has: [bool; NAMES],
}

impl Object<'_> {
    /// Whether the `i`th of the names asked for is a key of the object.
    pub fn has(&self, i: usize) -> bool {
        self.has.get(i).copied().unwrap_or(false)
    }
}

/// Check that `raw` is one JSON object, and which of `names` it has at its top level.
pub fn object<'a>(raw: &'a [u8], names: &[&str]) -> Result<Object<'a>, Invalid> {
    let text = std::str::from_utf8(raw).map_err(|_| Invalid("not valid UTF-8"))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let found = parser.deserialize_map(Top(names)).map_err(|_| Invalid("not one JSON object"))?;
    parser.end().map_err(|_| Invalid("something follows the JSON object"))?;
    let open = raw.iter().position(|&b| b == b'{').ok_or(Invalid("not one JSON object"))?;
    let inner = raw.get(open + 1..).unwrap_or(&[]).trim_ascii();
    Ok(Object { inner, empty: found.1 == 0, has: found.0 })
}

/// Append the object, with the members `fill` in front; each ends in a comma.
pub fn append(out: &mut Vec<u8>, object: &Object<'_>, fill: &[u8]) {
    out.push(b'{');
    let fill = if object.empty { fill.strip_suffix(b",").unwrap_or(fill) } else { fill };
    out.extend_from_slice(fill);
    let start = out.len();
    out.extend_from_slice(object.inner);
    // A raw line break can only stand between tokens (inside a string it is not JSON): a space does too.
    for b in out.iter_mut().skip(start) {
        if *b == b'\n' || *b == b'\r' {
            *b = b' ';
        }
    }
}

/// `"name":"value",` with a value that needs no escaping.
pub fn member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\",");
}

struct Top<'n>(&'n [&'n str]);

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ([bool; NAMES], usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut has = [false; NAMES];
        let mut keys = 0;
        while let Some(which) = map.next_key_seed(Name(self.0))? {
            if let Some(h) = has.get_mut(which) {
                *h = true;
            }
            map.next_value::<IgnoredAny>()?;
            keys += 1;
        }
        Ok((has, keys))
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
