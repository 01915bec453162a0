//! Where a value comes from: the JSON, else the environment, else the default of the table.

use super::ConfigError;
use super::json::{Node, Object, shown};
use super::keys::{self, Key, Kind};
use super::otel::{self, Signal, Supplied};

/// Header names with their values, in the order given.
pub(super) type Headers = Vec<(String, String)>;

/// A value that is of the right kind, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub value: T,
    key: &'static Key,
    /// The variable, if it came from one.
    variable: Option<String>,
    /// Not the default.
    pub set: bool,
}

impl<T> Given<T> {
    fn new(key: &'static Key, value: T, variable: Option<String>, set: bool) -> Given<T> {
        Given { value, key, variable, set }
    }

    /// How errors call it: the dotted key, and the variable if it came from one.
    pub fn label(&self) -> String {
        match &self.variable {
            Some(variable) => format!("{variable} (key {})", self.key.name),
            None => self.key.name.to_string(),
        }
    }

    /// Whether it came from one of these variables.
    pub fn is_from(&self, variables: &[&str]) -> bool {
        self.variable.as_deref().is_some_and(|variable| variables.contains(&variable))
    }

    fn with<U>(self, value: U) -> Given<U> {
        Given { value, key: self.key, variable: self.variable, set: self.set }
    }

    /// An error about this value with `text` in its place; a secret is not shown whatever that is.
    pub fn refuse_as(&self, text: &str, why: &str) -> ConfigError {
        self.error(&shown(text), why)
    }

    fn error(&self, shown: &str, why: &str) -> ConfigError {
        let shown = if self.key.secret() { "***" } else { shown };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        ConfigError::new(format!("{} is {shown}{why}; allowed: {}", self.label(), self.key.allowed()))
    }
}

impl Given<String> {
    /// An error about this text.
    pub fn refuse(&self, why: &str) -> ConfigError {
        self.refuse_as(&self.value, why)
    }
}

impl Given<u64> {
    /// For errors about two values: `segment_bytes is 65536`, with a word when nobody set it.
    pub fn stated(&self) -> String {
        format!("{} is {}{}", self.label(), self.value, if self.set { "" } else { " (by default)" })
    }

    /// An error about this number.
    pub fn refuse(&self, why: &str) -> ConfigError {
        self.error(&self.value.to_string(), why)
    }

    /// As a size in memory.
    pub fn size(&self) -> Result<usize, ConfigError> {
        usize::try_from(self.value).map_err(|_| self.refuse("too large for this machine"))
    }
}

enum Raw<'a> {
    Json(&'a Node),
    /// From the environment, or the default.
    Text(String),
}

/// The JSON, checked for unknown keys, with the environment behind it.
pub(super) struct Values<'a> {
    root: Object,
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Whose variables of OpenTelemetry stand behind ours.
    otel: Option<Signal>,
}

impl<'a> Values<'a> {
    /// Read the JSON and look at all its keys.
    pub fn open(json: &str, env: &'a dyn Fn(&str) -> Option<String>) -> Result<Values<'a>, ConfigError> {
        let root = match json.trim() {
            "" => Vec::new(),
            text => object(text).map_err(|why| ConfigError::new(format!("the configuration {why}")))?,
        };
        let values = Values { root, env, otel: None };
        for (name, value) in &values.root {
            Self::check(name, value)?;
        }
        Ok(values)
    }

    /// From now on ask OpenTelemetry's variables for what is not said elsewhere, or no more.
    pub fn ask_otel(&mut self, signal: Option<Signal>) {
        self.otel = signal;
    }

    /// The environment, for what is no key.
    pub fn env(&self) -> &'a dyn Fn(&str) -> Option<String> {
        self.env
    }

    /// One member of the whole is known.
    fn check(name: &str, value: &Node) -> Result<(), ConfigError> {
        if !keys::is_group(name) {
            return match (keys::find(name), name.split_once('.')) {
                (Some(_), Some((group, member))) => Err(ConfigError::new(format!(
                    "unknown key {}; the nearest known key is {name}, which is nested: {{\"{group}\": {{\"{member}\": ...}}}}",
                    shown(name)
                ))),
                _ => known(name),
            };
        }
        match value {
            Node::Null => Ok(()),
            Node::Object(members) => {
                members.iter().try_for_each(|(member, _)| known(&format!("{name}.{member}")))
            }
            other => Err(ConfigError::new(format!(
                "{name} is {}; allowed: an object with {}",
                other.shown(),
                keys::members(name).join(", ")
            ))),
        }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn in_json(&self, name: &str) -> Option<&Node> {
        let get = |object: &'_ Object, name: &str| object.iter().position(|(n, _)| n == name);
        let found = match name.split_once('.') {
            None => self.root.get(get(&self.root, name)?),
            Some((group, member)) => match self.root.get(get(&self.root, group)?) {
                Some((_, Node::Object(members))) => members.get(get(members, member)?),
                _ => None,
            },
        };
        found.map(|(_, value)| value).filter(|value| **value != Node::Null)
    }

    /// The value of a key as it stands, or none where it has no default.
    fn raw(&self, name: &str) -> Result<Option<Given<Raw<'_>>>, ConfigError> {
        // A name that is not in the table is a mistake of this library, which its tests find.
        let key = keys::find(name).ok_or_else(|| ConfigError::new(format!("no key {name} in the table")))?;
        if let Some(node) = self.in_json(name) {
            return Ok(Some(Given::new(key, Raw::Json(node), None, true)));
        }
        let variable = key.env_name();
        // Empty is unset, as everywhere; but an empty proxy says something.
        let text = if name == "proxy" { (self.env)(&variable) } else { self.variable(&variable) };
        let text = match (text, self.otel) {
            (None, Some(signal)) => otel::supply(self.env, signal, name)?,
            (text, _) => text.map(|value| Supplied { value, variable }),
        };
        if let Some(Supplied { value: text, variable }) = text {
            let utf8 = !text.contains(char::REPLACEMENT_CHARACTER);
            let given = Given::new(key, Raw::Text(text), Some(variable), true);
            return if utf8 { Ok(Some(given)) } else { Err(given.error("***", "it is not UTF-8")) };
        }
        let typed =
            matches!(key.kind, Kind::Integer { .. } | Kind::Choice { .. } | Kind::Flag | Kind::Fraction);
        Ok(typed.then(|| Given::new(key, Raw::Text(key.default.to_string()), None, false)))
    }

    /// [`Values::raw`] for a key that has a default.
    fn typed(&self, name: &str) -> Result<Given<Raw<'_>>, ConfigError> {
        self.raw(name)?.ok_or_else(|| ConfigError::new(format!("no default of {name} in the table")))
    }

    /// An integer in the range of its key.
    pub fn integer(&self, name: &str) -> Result<Given<u64>, ConfigError> {
        let given = self.typed(name)?;
        let (text, value) = match &given.value {
            Raw::Json(node @ Node::Number(number)) => (node.shown(), number.as_u64()),
            Raw::Json(node) => (node.shown(), None),
            Raw::Text(text) => {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                (shown(text), text.parse().ok().filter(|_| digits))
            }
        };
        match (value, given.key.kind) {
            (Some(value), Kind::Integer { min, max }) if (min..=max).contains(&value) => {
                Ok(given.with(value))
            }
            (Some(value), _) => Err(given.error(&value.to_string(), "")),
            (None, _) => Err(given.error(&text, "")),
        }
    }

    /// A number from 0 to 1.
    pub fn fraction(&self, name: &str) -> Result<f64, ConfigError> {
        let given = self.typed(name)?;
        let (text, value) = match &given.value {
            Raw::Json(node @ Node::Number(number)) => (node.shown(), number.as_f64()),
            Raw::Json(node) => (node.shown(), None),
            // A number as JSON has it: "inf" is none.
            Raw::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                (shown(text), serde_json::from_str(text).ok())
            }
            Raw::Text(text) => (shown(text), None),
        };
        value.filter(|value| (0.0..=1.0).contains(value)).ok_or_else(|| given.error(&text, ""))
    }

    /// A string. None when nobody gave one; empty only where that has a meaning.
    pub fn text(&self, name: &str) -> Result<Option<Given<String>>, ConfigError> {
        let Some(given) = self.raw(name)? else { return Ok(None) };
        let text = match &given.value {
            Raw::Json(Node::Text(text)) => text.clone(),
            Raw::Json(node) => return Err(given.error(&node.shown(), "")),
            Raw::Text(text) => text.clone(),
        };
        if text.is_empty() && name != "proxy" {
            return Err(given.error("\"\"", "it is empty; leave the key out for none"));
        }
        Ok(Some(given.with(text)))
    }

    /// A path, neither empty nor with a NUL in it.
    pub fn path(&self, name: &str) -> Result<Option<Given<String>>, ConfigError> {
        match self.text(name)? {
            Some(given) if given.value.contains('\0') => Err(given.refuse("a path has no NUL")),
            given => Ok(given),
        }
    }

    /// One of the words of its key.
    pub fn choice(&self, name: &str) -> Result<Given<&'static str>, ConfigError> {
        let given = self.typed(name)?;
        let word = match &given.value {
            Raw::Json(Node::Text(text)) => text,
            Raw::Json(node) => return Err(given.error(&node.shown(), "")),
            Raw::Text(text) => text,
        };
        let Kind::Choice(words) = given.key.kind else {
            return Err(given.error(&shown(word), ""));
        };
        if let Some(found) = words.iter().copied().find(|known| known == word) {
            return Ok(given.with(found));
        }
        let near = keys::nearest_word(word, words).map(|near| format!("the nearest is {near}"));
        Err(given.error(&shown(word), &near.unwrap_or_default()))
    }

    /// A boolean.
    pub fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        let given = self.typed(name)?;
        match &given.value {
            Raw::Json(Node::Bool(value)) => Ok(*value),
            Raw::Json(node) => Err(given.error(&node.shown(), "")),
            Raw::Text(text) => {
                boolean(text).ok_or_else(|| given.error(&shown(text), "in a variable also 1 or 0"))
            }
        }
    }

    /// A boolean that only the environment can set.
    pub fn switch(&self, variable: &str) -> Result<bool, ConfigError> {
        let Some(text) = self.variable(variable) else { return Ok(false) };
        let error =
            || ConfigError::new(format!("{variable} is {}; allowed: 1, 0, true or false", shown(&text)));
        boolean(&text).ok_or_else(error)
    }

    /// The object of free names. None when nobody gave one.
    pub fn object(&self, name: &str) -> Result<Option<Given<Object>>, ConfigError> {
        let Some(given) = self.raw(name)? else { return Ok(None) };
        let members = match &given.value {
            Raw::Json(Node::Object(members)) => members.clone(),
            Raw::Json(node) => return Err(given.error("", &format!("it is {}", node.kind()))),
            Raw::Text(text) => object(text).map_err(|why| given.error("", &format!("it {why}")))?,
        };
        Ok(Some(given.with(members)))
    }

    /// The object of free names, each with a string. None when nobody gave one.
    pub fn headers(&self, name: &str) -> Result<Option<Given<Headers>>, ConfigError> {
        let Some(given) = self.object(name)? else { return Ok(None) };
        let mut headers = Vec::with_capacity(given.value.len());
        for (member, value) in &given.value {
            match value {
                Node::Text(text) => headers.push((member.clone(), text.clone())),
                Node::Null => {}
                other => {
                    let why = format!("{name}.{member} is {} and not a string", other.kind());
                    return Err(given.error("", &why));
                }
            }
        }
        Ok(Some(given.with(headers)))
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// One JSON object without doubles, or what is wrong with it.
fn object(text: &str) -> Result<Object, String> {
    let node = Node::parse(text).map_err(|why| format!("is not valid JSON: {why}"))?;
    if let Some(path) = node.duplicate() {
        return Err(format!("has the key {path} twice"));
    }
    match node {
        Node::Object(members) => Ok(members),
        other => Err(format!("is {}, not a JSON object", other.kind())),
    }
}

fn known(path: &str) -> Result<(), ConfigError> {
    match keys::find(path) {
        Some(_) => Ok(()),
        None => {
            let near = keys::nearest(path);
            Err(ConfigError::new(format!("unknown key {}; the nearest known key is {near}", shown(path))))
        }
    }
}
