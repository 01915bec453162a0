//! Values that may be anything: a service looks at some members of an event and must not stumble over
//! what the client put there.
//!
//! Invariants: any JSON value is read and checked to its end; nothing is allocated for a string without
//! escapes; a value that is not of the kind asked for is as good as none.

use super::scan::{Pid, id_of, pid_of};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Any value, as much of it as matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Loose<'a> {
    /// There is none, or it is `null`.
    #[default]
    None,
    /// A string.
    Text(Cow<'a, str>),
    /// A whole number from 0 on.
    Whole(u64),
    /// Another number, as it would be written.
    Number(String),
    /// A truth value.
    Bool,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl Loose<'_> {
    /// A string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Loose::Text(t) => Some(t),
            _ => None,
        }
    }

    /// A string that is not empty.
    pub fn filled(&self) -> Option<&str> {
        self.text().filter(|t| !t.is_empty())
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Loose::Whole(_) | Loose::Number(_))
    }

    /// The id that it is.
    pub fn id(&self) -> Option<u128> {
        match self {
            Loose::Text(t) => id_of(t),
            Loose::Whole(n) => id_of(&n.to_string()),
            Loose::Number(n) => id_of(n),
            _ => None,
        }
    }

    /// The worker that it names.
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Loose::Text(t) => pid_of(t),
            Loose::Whole(n) => Some(Pid::Number(*n)),
            Loose::Number(n) => pid_of(n),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Loose<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Loose<'de>, E> {
                Ok(Loose::Text(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Loose<'de>, E> {
                Ok(Loose::Text(Cow::Owned(s.into())))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Loose<'de>, E> {
                Ok(Loose::Whole(n))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(n.to_string()))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Loose<'de>, E> {
                Ok(Loose::Number(n.to_string()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
                Ok(Loose::Bool)
            }
            fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
                Ok(Loose::None)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, a: A) -> Result<Loose<'de>, A::Error> {
                IgnoredAny.visit_seq(a)?;
                Ok(Loose::Array)
            }
            fn visit_map<A: MapAccess<'de>>(self, a: A) -> Result<Loose<'de>, A::Error> {
                IgnoredAny.visit_map(a)?;
                Ok(Loose::Object)
            }
        }
        d.deserialize_any(V)
    }
}

/// An object that is read as `T`, or anything else.
#[derive(Debug, Default, PartialEq)]
pub enum Maybe<T> {
    /// There is none, or it is `null`.
    #[default]
    None,
    /// It is no object.
    Other,
    /// It is one.
    Is(T),
}

impl<T> Maybe<T> {
    /// The object.
    pub fn get(&self) -> Option<&T> {
        match self {
            Maybe::Is(value) => Some(value),
            _ => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = Maybe<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_str<E>(self, _: &str) -> Result<Maybe<T>, E> {
                Ok(Maybe::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Maybe<T>, E> {
                Ok(Maybe::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Maybe<T>, E> {
                Ok(Maybe::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Maybe<T>, E> {
                Ok(Maybe::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Maybe<T>, E> {
                Ok(Maybe::Other)
            }
            fn visit_unit<E>(self) -> Result<Maybe<T>, E> {
                Ok(Maybe::None)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, a: A) -> Result<Maybe<T>, A::Error> {
                IgnoredAny.visit_seq(a)?;
                Ok(Maybe::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, a: A) -> Result<Maybe<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(a)).map(Maybe::Is)
            }
        }
        d.deserialize_any(V(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Event<'a> {
        #[serde(borrow)]
        id: Loose<'a>,
        #[serde(borrow)]
        inner: Maybe<Inner<'a>>,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Inner<'a> {
        #[serde(borrow)]
        pid: Loose<'a>,
    }

    #[test]
    fn nothing_makes_it_stumble() {
        let pid = |text: &str| {
            let e: Event<'_> = serde_json::from_str(text).unwrap();
            e.inner.get().and_then(|i| i.pid.pid())
        };
        assert_eq!(pid("{\"inner\":{\"x\":[{}],\"pid\":\"7\"}}"), Some(Pid::Number(7)));
        assert_eq!(pid("{\"inner\":{\"pid\":-1.5}}"), Some(Pid::Text("-1.5".into())));
        for none in ["{}", "{\"inner\":null}", "{\"inner\":[{\"pid\":1}]}", "{\"inner\":{\"pid\":[1]}}"] {
            assert_eq!(pid(none), None, "{none}");
        }
        for other in ["1", "-1", "1.5", "\"a\"", "true", "[]", "{}", "null"] {
            assert!(
                serde_json::from_str::<Event<'_>>(&format!("{{\"inner\":{other},\"id\":{other}}}")).is_ok()
            );
        }
        let e: Event<'_> = serde_json::from_str("{\"id\":\"a\\u0062\"}").unwrap();
        assert_eq!((e.id.filled(), e.id.id()), (Some("ab"), id_of("ab")));
        assert!(serde_json::from_str::<Event<'_>>("{\"inner\":{\"pid\":}}").is_err());
    }
}
