//! Where something is in an event: `properties.email`, `items.*.card`, `**.token`.
//!
//! Invariant: a path that is accepted can be found in some event. What looks like a path and cannot be meant as it
//! stands (an empty part, `**` in the middle) is refused, because a rule that never applies is no rule.
#![forbid(unsafe_code)]

use super::scan::Text;

/// What is allowed, for errors.
pub const ALLOWED: &str =
    "keys with dots between them, such as a.b (a backslash before a dot or a star in a key)";

/// One level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `*`: any key and any element.
    Any,
    /// That key; in an array, the element with that number.
    Name(String),
}

impl Step {
    /// Whether the member with that key is meant.
    pub fn is_key(&self, key: &Text<'_>) -> bool {
        match self {
            Step::Any => true,
            Step::Name(name) => key.is(name),
        }
    }

    /// Whether the element with that number, counted from 0, is meant.
    pub fn is_index(&self, index: usize) -> bool {
        match self {
            Step::Any => true,
            Step::Name(name) => (name == "0" || !name.starts_with(['0', '+'])) && name.parse() == Ok(index),
        }
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// From the top down; at least one.
    pub steps: Vec<Step>,
    /// It began with `**`: the steps may begin at any depth.
    pub anywhere: bool,
}

impl Path {
    /// Read a path, or say what is wrong with it.
    pub fn parse(text: &str) -> Result<Path, &'static str> {
        let parts = split(text)?;
        let anywhere = parts.first().is_some_and(|part| part.is_stars("**"));
        let rest = parts.get(usize::from(anywhere)..).unwrap_or_default();
        if rest.is_empty() {
            return Err("nothing follows **");
        }
        let step = |part: &Part| match part {
            part if part.name.is_empty() => Err("a part of it is empty"),
            part if part.is_stars("**") => Err("** stands at the beginning only"),
            part if part.is_stars("*") => Ok(Step::Any),
            part => Ok(Step::Name(part.name.clone())),
        };
        let steps = rest.iter().map(step).collect::<Result<_, _>>()?;
        Ok(Path { steps, anywhere })
    }
}

struct Part {
    name: String,
    /// Something in it was behind a backslash.
    literal: bool,
}

impl Part {
    fn is_stars(&self, stars: &str) -> bool {
        !self.literal && self.name == stars
    }
}

fn split(text: &str) -> Result<Vec<Part>, &'static str> {
    let new = || Part { name: String::new(), literal: false };
    let (mut parts, mut part) = (Vec::new(), new());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => parts.push(std::mem::replace(&mut part, new())),
            '\\' => {
                part.literal = true;
                part.name.push(chars.next().ok_or("nothing follows the backslash")?);
            }
            c => part.name.push(c),
        }
    }
    parts.push(part);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Step {
        Step::Name(name.into())
    }

    #[test]
    fn paths() {
        for (text, steps, anywhere) in [
            ("a", vec![name("a")], false),
            ("a.b c.é", vec![name("a"), name("b c"), name("é")], false),
            ("items.*.card", vec![name("items"), Step::Any, name("card")], false),
            ("*", vec![Step::Any], false),
            ("**.token", vec![name("token")], true),
            ("**.a.*", vec![name("a"), Step::Any], true),
            (r"user\.email.\*", vec![name("user.email"), name("*")], false),
            (r"\*\*.x", vec![name("**"), name("x")], false),
            (r"a\\b", vec![name(r"a\b")], false),
            ("***", vec![name("***")], false),
        ] {
            assert_eq!(Path::parse(text), Ok(Path { steps, anywhere }), "{text}");
        }
        for (text, why) in [
            ("", "empty"),
            (".", "empty"),
            ("a.", "empty"),
            (".a", "empty"),
            ("a..b", "empty"),
            ("**", "nothing follows **"),
            ("**.", "empty"),
            ("a.**.b", "at the beginning"),
            ("**.**.b", "at the beginning"),
            (r"a\", "nothing follows the backslash"),
        ] {
            assert!(Path::parse(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn a_number_is_an_element_as_well() {
        assert!(name("0").is_index(0) && name("12").is_index(12) && Step::Any.is_index(7));
        for no in ["1", "", "+0", "-0", "00", "a", "0x0", "99999999999999999999999"] {
            assert!(!name(no).is_index(0), "{no}");
        }
    }
}
