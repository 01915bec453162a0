//! JSON as the configuration reads it: like `serde_json::Value`, but nothing is forgotten, so that a key given
//! twice can be refused. With `Value` the second silently wins.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Longest piece of a value that is shown in an error.
const SHOWN: usize = 120;

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Object(Object),
}

/// Members in the order of the text, doubles included.
pub(super) type Object = Vec<(String, Node)>;

impl Node {
    /// The whole of `text` as one value. The error says where, and never quotes the text: it may hold credentials.
    pub(super) fn parse(text: &str) -> Result<Node, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// What kind of value this is, for errors that must not show it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "a boolean",
            Node::Number(_) => "a number",
            Node::Text(_) => "a string",
            Node::List(_) => "an array",
            Node::Object(_) => "an object",
        }
    }

    /// The value as JSON text.
    pub(super) fn text(&self) -> String {
        let string = |text: &String| serde_json::Value::from(text.as_str()).to_string();
        match self {
            Node::Null => "null".to_string(),
            Node::Bool(value) => value.to_string(),
            Node::Number(value) => value.to_string(),
            Node::Text(text) => string(text),
            Node::List(items) => format!("[{}]", items.iter().map(Node::text).collect::<Vec<_>>().join(",")),
            Node::Object(members) => {
                let member = |(name, value): &(String, Node)| format!("{}:{}", string(name), value.text());
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
            }
        }
    }

    /// The value for an error: scalars as they stand, the rest by kind.
    pub(super) fn shown(&self) -> String {
        match self {
            Node::Bool(value) => value.to_string(),
            Node::Number(value) => value.to_string(),
            Node::Text(value) => shown(value),
            other => other.kind().to_string(),
        }
    }

    /// Dotted path of a key that its object holds twice.
    pub(super) fn duplicate(&self) -> Option<String> {
        let join = |name: &str, inner: String| format!("{name}.{inner}");
        match self {
            Node::Object(members) => members.iter().enumerate().find_map(|(at, (name, value))| {
                if members.iter().take(at).any(|(earlier, _)| earlier == name) {
                    return Some(name.clone());
                }
                value.duplicate().map(|inner| join(name, inner))
            }),
            Node::List(items) => {
                items.iter().enumerate().find_map(|(at, item)| Some(join(&at.to_string(), item.duplicate()?)))
            }
            _ => None,
        }
    }
}

/// A string for an error: quoted, escaped, not too long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(serde_json::Number::from_f64(value).map_or(Node::Null, Node::Number))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_string()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
                let mut object = Vec::new();
                while let Some(member) = members.next_entry()? {
                    object.push(member);
                }
                Ok(Node::Object(object))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_everything_and_finds_doubles() {
        let node = Node::parse(r#"{"a":[1,-2,1.5,null,true,"x"],"a":{}}"#).unwrap();
        assert_eq!(node.duplicate().as_deref(), Some("a"));
        for (text, path) in [
            (r#"{"a":1,"b":{"c":1,"c":2}}"#, Some("b.c")),
            (r#"{"a":[{"x":1},{"y":1,"y":1}]}"#, Some("a.1.y")),
            (r#"{"a":{"x":1},"b":{"x":1}}"#, None),
            ("[]", None),
        ] {
            assert_eq!(Node::parse(text).unwrap().duplicate().as_deref(), path, "{text}");
        }
    }

    #[test]
    fn text_is_json_again() {
        for text in [r#"{"b":1,"a":[{},[],"\"\n",null,true,-7,1.5]}"#, "[]", "{}", "18446744073709551615"] {
            assert_eq!(Node::parse(text).unwrap().text(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_json_without_quoting_it() {
        let deep = "[".repeat(5000);
        for text in ["{", "{} {}", "{}x", "{'secret':1}", r#"{"a":"secret}"#, "{\"a\":secret}", "nul", &deep]
        {
            let error = Node::parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn shows_values_short_and_escaped() {
        assert_eq!(Node::Text("a\n\"b".into()).shown(), r#""a\n\"b""#);
        assert_eq!(Node::parse("1.0").unwrap().shown(), "1.0");
        assert_eq!(Node::parse("[1]").unwrap().shown(), "an array");
        assert_eq!(shown(&"é".repeat(500)).chars().count(), SHOWN + 5);
    }
}
