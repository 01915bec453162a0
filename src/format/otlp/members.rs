//! An event's members, before it is known what it is.

use super::schema::ANY_VALUE;
use crate::format::Invalid;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The members of an object, their values unread.
pub type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The members of the one object that `text` is.
pub fn members(text: &str) -> Result<Members<'_>, Invalid> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let members = parser.deserialize_map(Top).map_err(|_| Invalid("not one JSON object"))?;
    parser.end().map_err(|_| Invalid("something follows the JSON object"))?;
    Ok(members)
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some(name) = map.next_key_seed(Name)? {
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

/// A key, borrowed where it has no escapes.
pub struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_string()))
    }
}

/// The string that a raw value is.
pub fn string<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    Name.deserialize(&mut serde_json::Deserializer::from_str(raw.get())).ok()
}

/// Whether it is an `AnyValue` in OTLP/JSON: an object whose only key is one of those.
pub fn is_any_value(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
        && members(raw.get()).is_ok_and(|m| matches!(&m[..], [(name, _)] if ANY_VALUE.find(name).is_some()))
}

/// The text with each escaped half of a surrogate pair, which no UTF-8 has, replaced by U+FFFD; `None` where there is
/// none. Python writes such halves for file names and headers that are not UTF-8.
pub fn mend(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(next) = text.get(at..)?.find('\\') {
        at += next;
        let low = |at| unit(at).is_some_and(|u| (0xdc00..0xe000).contains(&u));
        at += match unit(at) {
            Some(0xd800..0xdc00) if low(at + 6) => 12,
            Some(0xd800..0xe000) => {
                out += text.get(copied..at)?;
                out += "\\ufffd";
                copied = at + 6;
                6
            }
            Some(_) => 6,
            // What is escaped may be a backslash itself.
            None => 1 + text.get(at + 1..)?.chars().next().map_or(0, char::len_utf8),
        };
    }
    out += text.get(copied..)?;
    (copied > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_are_mended() {
        for (bad, good) in [
            (r#"{"a":"\ud800"}"#, r#"{"a":"\ufffd"}"#),
            (r#""\uDCFFx\uDBFFéx\ud83d\ude00""#, r#""\ufffdx\ufffdéx\ud83d\ude00""#),
            (r#""\ud800\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\\udfff""#, r#""\\\ufffd""#),
        ] {
            assert_eq!(mend(bad).as_deref(), Some(good), "{bad}");
        }
        for same in [
            "",
            "\\",
            "{}",
            r#""\\ud800""#,
            r#""\ud83d\ude00""#,
            r#""\n\u00e9é""#,
            "\"\\é",
            "\\u12",
            "\\ud8é",
        ] {
            assert_eq!(mend(same), None, "{same}");
        }
    }

    #[test]
    fn an_any_value_is_told_from_an_object() {
        for (text, is) in [
            (r#"{"stringValue":"x"}"#, true),
            (r#"{"kvlistValue":{}}"#, true),
            (r#"{"stringValue":"x","more":1}"#, false),
            (r#"{"text":"x"}"#, false),
            ("{}", false),
            (r#""stringValue""#, false),
        ] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert_eq!(is_any_value(raw), is, "{text}");
        }
    }
}
