//! What a fleet is told: one JSON object, with `TELEMETRY_FLEET_<KEY>` behind it, and one for each group.
//!
//! Invariants:
//! - [`KEYS`] is the only list: reading, errors, `telemetry fleet --help`'s flags and the README's table go by it.
//! - Nothing is taken silently: an unknown key, a key given twice, a value of another kind or out of range is an error
//!   that names the key, the value and what is allowed.
#![forbid(unsafe_code)]

use super::environment::HANDOVER;
use super::policy::{Limits, Rules};
use super::trace::{Trace, is_traceparent};
use crate::board::layout::{COUNTER_NAMES, COUNTERS, OWN_COUNTERS};
use crate::board::scoreboard::MOST_SLOTS;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in this range.
    Number(u64, u64),
    /// true or false.
    Switch,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Any text of at most so many bytes.
    Text(usize),
    /// A list of whole numbers in this range.
    Numbers(u64, u64),
    /// A list of names.
    Names,
    /// A W3C trace context's first part, or an empty text.
    Traceparent,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As it is written in JSON; `TELEMETRY_FLEET_` and this in capitals in the environment.
    pub name: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// As JSON.
    pub default: &'static str,
    /// A group may say otherwise.
    pub of_group: bool,
    /// For the reader.
    pub meaning: &'static str,
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    of_group: bool,
    meaning: &'static str,
) -> Key {
    Key { name, kind, default, of_group, meaning }
}

const DAY: u64 = 86_400_000;
use Kind::{Choice, Names, Number, Numbers, Switch, Text, Traceparent};

/// All of them.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("name", Text(60), "\"fleet\"", false, "what logs, status and metrics call it: letters, digits, `.`, `_`, `-`"),
    key("health", Text(200), "\"\"", false, "where the health endpoint listens: `HOST:PORT`, `:PORT` or `unix:/PATH`; empty: nowhere"),
    key("require_probe", Switch, "false", false, "a health endpoint that cannot listen ends the fleet at its start, with status 69"),
    key("mode", Choice(&["auto", "fork", "zygote", "exec"]), "\"auto\"", false, "how workers are made; `auto`: `exec` for commands, else `fork`"),
    key("grace_ms", Number(0, DAY), "25000", false, "from TERM to KILL, for all workers together"),
    key("stale_ms", Number(0, DAY), "30000", true, "the oldest that a ready worker's beat may be; 0: never mind (so for commands)"),
    key("start_deadline_ms", Number(0, DAY), "60000", true, "from the start to ready; 0: no such"),
    key("item_deadline_ms", Number(0, DAY), "0", true, "the longest that one item may take; 0: for ever"),
    key("backoff_base_ms", Number(0, DAY), "100", true, "bound of the random delay after the first crash of a row; doubled for each further one"),
    key("backoff_cap_ms", Number(0, DAY), "30000", true, "the most that it becomes"),
    key("healthy_after_ms", Number(0, DAY), "10000", true, "ready for so long ends a row of crashes"),
    key("crash_limit", Number(1, 1000), "5", true, "so many crashes in a row within `crash_window_ms` are a crash loop"),
    key("crash_window_ms", Number(1, DAY), "60000", true, "see `crash_limit`"),
    key("intensity", Number(0, 1_000_000), "0", false, "restarts after crashes within `intensity_window_ms` that are too many; 0: twice the workers, at least 3"),
    key("intensity_window_ms", Number(1, DAY), "60000", false, "see `intensity`"),
    key("on_intensity", Choice(&["report", "exit"]), "\"report\"", false, "`report`: `/livez` says 503; `exit`: drain, and end with status 70"),
    key("permanent_exit", Numbers(1, 255), "[64, 78]", true, "exit statuses after which another try is of no use"),
    key("max_items", Number(0, u64::MAX), "0", true, "items after which a worker is replaced; 0: none"),
    key("max_age_ms", Number(0, 365 * DAY), "0", true, "age at which it is"),
    key("max_rss", Number(0, u64::MAX), "0", true, "bytes of resident memory at which it is"),
    key("jitter_pct", Number(0, 100), "10", true, "by how many per cent at most these three are made smaller, drawn for each worker"),
    key("surge", Number(0, 64), "1", false, "workers that may be there beyond those wanted while some are replaced; 0: the old one stops first"),
    key("max_unavailable", Number(0, 1000), "1", false, "workers of a group that a replacement may leave missing at once"),
    key("max_workers", Number(1, (MOST_SLOTS - 64) as u64), "64", false, "the most workers there may ever be"),
    key("ready", Choice(&["auto", "start", "call"]), "\"auto\"", true, "who says that a worker is ready: its start, or its own call; `auto`: a command's start, a function's call"),
    key("dump_ms", Number(0, DAY), "1000", true, "a worker that hangs: from the signal to say where (USR1) to TERM"),
    key("kill_ms", Number(0, DAY), "5000", true, "one that hangs, is replaced or is one too many: from TERM to KILL"),
    key("runtime_dir", Text(4000), "\"\"", false, "where the scoreboard is published; empty: `TELEMETRY_RUNTIME_DIR`, else the system's place"),
    key("allow_threads", Switch, "false", false, "fork though this process has other threads"),
    key("inline", Switch, "false", false, "run one worker in the calling process, without a supervisor"),
    key("counters", Names, "[]", false, "names of up to five counters of the workers' own"),
    key("keep_fds", Numbers(3, 1_000_000), "[]", true, "descriptors that commands inherit besides 0, 1 and 2"),
    key("traceparent", Traceparent, "\"\"", true, "W3C trace context that workers work under; empty: that of the environment"),
    key("tracestate", Text(512), "\"\"", true, "goes with it"),
    key("baggage", Text(8192), "\"\"", true, "goes with it"),
];

/// The table of [`KEYS`], for the page.
pub fn markdown() -> String {
    let mut table =
        String::from("| key | default | allowed | group | meaning |\n| --- | --- | --- | --- | --- |\n");
    for key in KEYS {
        let group = if key.of_group { "yes" } else { "" };
        let (name, default, allowed) = (key.name, key.default, allowed(key.kind));
        table += &format!("| `{name}` | `{default}` | {allowed} | {group} | {} |\n", key.meaning);
    }
    table
}

/// How workers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `exec` for commands, else `fork`.
    Auto,
    /// From the supervisor.
    Fork,
    /// From a process that the supervisor forked before.
    Zygote,
    /// Programs only.
    Exec,
}

/// Who says that a worker is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A command's start, a function's call.
    Auto,
    /// It is, as soon as it was started.
    Start,
    /// It says so itself.
    Call,
}

/// What a group may say for itself.
#[derive(Debug, Clone)]
pub struct Group {
    /// The policy's part.
    pub limits: Limits,
    /// Whether `stale_ms` was said rather than left.
    pub stale_said: bool,
    /// See [`Readiness`].
    pub ready: Readiness,
    /// See [`Trace`].
    pub trace: Trace,
    /// Descriptors that commands inherit.
    pub keep_fds: Vec<i32>,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As given, so that a group's own object can be laid over it.
    given: Map<String, Value>,
    /// The fleet's name.
    pub name: String,
    /// Where the endpoint listens.
    pub health: Option<String>,
    /// Without it the fleet does not start.
    pub require_probe: bool,
    /// See [`Mode`].
    pub mode: Mode,
    /// The policy's part.
    pub rules: Rules,
    /// Slots there are for workers, without the surge's.
    pub max_workers: usize,
    /// Where the board is published.
    pub runtime_dir: Option<PathBuf>,
    /// Fork beside threads.
    pub allow_threads: bool,
    /// No supervisor.
    pub inline: bool,
    /// Names of the workers' own counters.
    pub counters: Vec<String>,
}

/// The members of a JSON object, none twice.
struct Once(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Once {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Once, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Once;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one JSON object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut from: A) -> Result<Once, A::Error> {
                let mut all = Map::new();
                while let Some((name, value)) = from.next_entry::<String, Value>()? {
                    if all.insert(name.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("the key {name} is given twice")));
                    }
                }
                Ok(Once(all))
            }
        }
        from.deserialize_map(Visit)
    }
}

fn parse(json: &str) -> Result<Map<String, Value>, String> {
    match json.trim() {
        "" => Ok(Map::new()),
        text => serde_json::from_str::<Once>(text)
            .map(|once| once.0)
            .map_err(|why| format!("the fleet's configuration is not one JSON object: {why}")),
    }
}

fn allowed(kind: Kind) -> String {
    match kind {
        Number(from, u64::MAX) => format!("a whole number from {from}"),
        Number(from, to) => format!("a whole number from {from} to {to}"),
        Switch => "true or false".into(),
        Choice(all) => all.join(", "),
        Text(most) => format!("a text of at most {most} bytes, without control characters"),
        Numbers(from, to) => format!("a list of whole numbers from {from} to {to}"),
        Traceparent => "00-TRACE-SPAN-FLAGS: 32, 16 and 2 hexadecimal digits, in lower case".into(),
        Names => format!(
            "a list of at most {} names of a to z, 0 to 9 and _, at most 24 bytes each",
            COUNTERS - OWN_COUNTERS
        ),
    }
}

fn fits(kind: Kind, value: &Value) -> bool {
    let within = |value: &Value, from, to| value.as_u64().is_some_and(|n| n >= from && n <= to);
    match kind {
        Number(from, to) => within(value, from, to),
        Switch => value.is_boolean(),
        Choice(all) => value.as_str().is_some_and(|text| all.contains(&text)),
        Text(most) => value.as_str().is_some_and(|t| t.len() <= most && !t.chars().any(char::is_control)),
        Numbers(from, to) => value.as_array().is_some_and(|all| all.iter().all(|v| within(v, from, to))),
        Traceparent => value.as_str().is_some_and(|text| text.is_empty() || is_traceparent(text)),
        Names => value.as_array().is_some_and(|all| {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let name = |v: &Value| {
                v.as_str().is_some_and(|n| {
                    !n.is_empty() && n.len() <= 24 && n.chars().all(good) && !COUNTER_NAMES.contains(&n)
                })
            };
            all.len() <= COUNTERS - OWN_COUNTERS && all.iter().all(name)
        }),
    }
}

/// At most so much of a value is shown.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// `label` is the key, or the variable and the key.
fn refuse(label: &str, value: &Value, key: &Key) -> String {
    format!("{label} is {}; allowed: {}", shown(value), allowed(key.kind))
}

/// How far two words are apart, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, y) in b.bytes().enumerate() {
            let (here, left) = (row.get(j + 1).copied().unwrap_or(0), row.get(j).copied().unwrap_or(0));
            let best = (before + usize::from(x != y)).min(here + 1).min(left + 1);
            before = here;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = best;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The key that was probably meant: one that begins so, or is fewest letters away.
fn nearest(name: &str) -> &'static str {
    let away = |known: &str| match known.starts_with(name) && !name.is_empty() {
        true => usize::from(known != name),
        false => distance(known, name),
    };
    KEYS.iter().map(|key| key.name).min_by_key(|known| away(known)).unwrap_or_default()
}

fn check(given: &Map<String, Value>, group: bool) -> Result<(), String> {
    for (name, value) in given {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let near = nearest(name);
            return Err(format!(
                "unknown key {}; the nearest known one is {near}",
                shown(&Value::from(name.as_str()))
            ));
        };
        if group && !key.of_group {
            return Err(format!("{name} is the whole fleet's; a group cannot have its own"));
        }
        if !fits(key.kind, value) {
            return Err(refuse(name, value, key));
        }
    }
    Ok(())
}

/// The environment's word for what the JSON leaves out: as JSON, or as a bare text.
fn from_environment(
    given: &mut Map<String, Value>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    for key in KEYS.iter().filter(|key| !given.contains_key(key.name)).collect::<Vec<_>>() {
        let variable = format!("TELEMETRY_FLEET_{}", key.name.to_uppercase());
        let Some(text) = env(&variable).filter(|text| !text.is_empty()) else { continue };
        let value = match key.kind {
            Text(_) | Choice(_) | Traceparent => Value::from(text),
            _ => serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text)),
        };
        if !fits(key.kind, &value) {
            return Err(refuse(&format!("{variable} (key {})", key.name), &value, key));
        }
        given.insert(key.name.into(), value);
    }
    Ok(())
}

/// What to say of a variable that looks like a key's and is none; its value is not shown.
pub fn complaint(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("TELEMETRY_FLEET_").filter(|_| variable != HANDOVER)?.to_lowercase();
    let near = nearest(&name);
    (near != name).then(|| {
        let near = near.to_uppercase();
        format!("{variable} is the variable of no key and is not read; the nearest is TELEMETRY_FLEET_{near}")
    })
}

/// Values that were checked, with the defaults behind them.
struct Read<'a>(&'a Map<String, Value>);

impl Read<'_> {
    fn value(&self, name: &str) -> Value {
        let default = || KEYS.iter().find(|key| key.name == name).map_or("null", |key| key.default);
        self.0.get(name).cloned().unwrap_or_else(|| serde_json::from_str(default()).unwrap_or_default())
    }

    fn number(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap_or(0)
    }

    fn small(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    fn is(&self, name: &str) -> bool {
        self.value(name).as_bool().unwrap_or(false)
    }

    fn text(&self, name: &str) -> String {
        self.value(name).as_str().unwrap_or_default().to_string()
    }

    fn numbers(&self, name: &str) -> Vec<i32> {
        let all = self.value(name);
        let number = |v: &Value| v.as_i64().and_then(|n| i32::try_from(n).ok());
        all.as_array().into_iter().flatten().filter_map(number).collect()
    }

    fn group(&self) -> Group {
        let ready = match self.text("ready").as_str() {
            "start" => Readiness::Start,
            "call" => Readiness::Call,
            _ => Readiness::Auto,
        };
        let mut keep_fds = self.numbers("keep_fds");
        keep_fds.sort_unstable();
        Group {
            limits: Limits {
                stale_ms: self.number("stale_ms"),
                start_deadline_ms: self.number("start_deadline_ms"),
                item_deadline_ms: self.number("item_deadline_ms"),
                backoff_base_ms: self.number("backoff_base_ms"),
                backoff_cap_ms: self.number("backoff_cap_ms"),
                healthy_after_ms: self.number("healthy_after_ms"),
                crash_window_ms: self.number("crash_window_ms"),
                max_age_ms: self.number("max_age_ms"),
                dump_ms: self.number("dump_ms"),
                kill_ms: self.number("kill_ms"),
                crash_limit: self.small("crash_limit"),
                max_items: self.number("max_items"),
                max_rss_kb: self.number("max_rss").div_ceil(1024),
                jitter_pct: self.small("jitter_pct"),
                permanent_exit: self.numbers("permanent_exit"),
            },
            stale_said: self.0.contains_key("stale_ms"),
            ready,
            trace: Trace::new(self.text("traceparent"), self.text("tracestate"), self.text("baggage")),
            keep_fds,
        }
    }
}

impl Settings {
    /// Read the JSON (`""`: nothing said) and, for what it leaves out, `env`.
    ///
    /// # Errors
    /// A text that names the key, the value and what is allowed.
    pub fn read(json: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let mut given = parse(json)?;
        check(&given, false)?;
        from_environment(&mut given, env)?;
        let read = Read(&given);
        let name = read.text("name");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            let shown = shown(&Value::from(name));
            return Err(format!("name is {shown}; allowed: letters, digits, ., _ and -, not . first"));
        }
        let counters = read.value("counters");
        let counters = counters.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from));
        Ok(Settings {
            health: Some(read.text("health")).filter(|text| !text.is_empty()),
            require_probe: read.is("require_probe"),
            mode: match read.text("mode").as_str() {
                "fork" => Mode::Fork,
                "zygote" => Mode::Zygote,
                "exec" => Mode::Exec,
                _ => Mode::Auto,
            },
            rules: Rules {
                grace_ms: read.number("grace_ms"),
                intensity: read.small("intensity"),
                intensity_window_ms: read.number("intensity_window_ms"),
                exit_on_intensity: read.text("on_intensity") == "exit",
                surge: read.small("surge"),
                max_unavailable: read.small("max_unavailable"),
            },
            max_workers: usize::try_from(read.number("max_workers")).unwrap_or(MOST_SLOTS),
            runtime_dir: Some(read.text("runtime_dir")).filter(|t| !t.is_empty()).map(PathBuf::from),
            allow_threads: read.is("allow_threads"),
            inline: read.is("inline"),
            counters: counters.collect(),
            name,
            given,
        })
    }

    /// What cannot change under a fleet that runs stays as it was `before`.
    pub fn keep(&mut self, before: &Settings) {
        self.name.clone_from(&before.name);
        self.health.clone_from(&before.health);
        self.runtime_dir.clone_from(&before.runtime_dir);
        self.counters.clone_from(&before.counters);
        (self.mode, self.max_workers, self.inline) = (before.mode, before.max_workers, before.inline);
    }

    /// A group's own object (`""`: nothing said) over the fleet's.
    ///
    /// # Errors
    /// As of [`Settings::read`].
    pub fn group(&self, json: &str) -> Result<Group, String> {
        let own = parse(json)?;
        check(&own, true)?;
        let mut all = self.given.clone();
        all.extend(own);
        Ok(Read(&all).group())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_defaults_are_the_policys() {
        let settings = Settings::read("", &none).unwrap();
        assert_eq!(settings.rules, Rules::default());
        assert_eq!(settings.group("").unwrap().limits, Limits::default());
        assert!(KEYS.iter().all(|key| fits(key.kind, &serde_json::from_str(key.default).unwrap())));
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_is_allowed() {
        for (json, text) in [
            (r#"{"grace_ms": -1}"#, "grace_ms is -1; allowed: a whole number from 0 to 86400000"),
            (r#"{"mode": "spawn"}"#, "mode is \"spawn\"; allowed: auto, fork, zygote, exec"),
            (r#"{"grace": 1}"#, "unknown key \"grace\"; the nearest known one is grace_ms"),
            (r#"{"traceparent": "00-zz"}"#, "traceparent is \"00-zz\"; allowed: 00-TRACE-SPAN-FLAGS: 32, 16"),
            (r#"{"name": "a/b"}"#, "name is \"a/b\"; allowed: letters, digits, ., _ and -, not . first"),
            (r#"{"surge": 1, "surge": 2}"#, "the key surge is given twice"),
            (r#"{"counters": ["done"]}"#, "counters is [\"done\"]; allowed: a list of at most 5 names"),
            ("[]", "not one JSON object"),
        ] {
            let error = Settings::read(json, &none).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        let fleet = Settings::read("", &none).unwrap();
        assert!(fleet.group(r#"{"health": ":1"}"#).unwrap_err().contains("the whole fleet's"));
    }

    #[test]
    fn variables_that_were_meant_for_a_key() {
        for (given, meant) in [
            ("TELEMETRY_FLEET_STALE_M", Some("TELEMETRY_FLEET_STALE_MS")),
            ("TELEMETRY_FLEET_GRACE", Some("TELEMETRY_FLEET_GRACE_MS")),
            ("TELEMETRY_FLEET_GRACE_MS", None),
            ("TELEMETRY_FLEET", None),
            ("TELEMETRY_FLEET_HANDOVER", None),
            ("TELEMETRY_GRACE", None),
        ] {
            let said = complaint(given);
            assert_eq!(said.is_some(), meant.is_some(), "{given}");
            assert!(said.is_none_or(|text| text.ends_with(meant.unwrap_or_default())), "{given}");
        }
    }

    #[test]
    fn the_environment_supplies_what_the_json_leaves_out_and_a_group_overrides_both() {
        let env = |name: &str| match name {
            "TELEMETRY_FLEET_STALE_MS" => Some("7".to_string()),
            "TELEMETRY_FLEET_GRACE_MS" => Some("8".to_string()),
            "TELEMETRY_FLEET_NAME" => Some("123".to_string()),
            _ => None,
        };
        let fleet = Settings::read(r#"{"grace_ms": 9}"#, &env).unwrap();
        assert_eq!((fleet.name.as_str(), fleet.rules.grace_ms), ("123", 9));
        assert_eq!(fleet.group("").unwrap().limits.stale_ms, 7);
        assert_eq!(fleet.group(r#"{"stale_ms": 1}"#).unwrap().limits.stale_ms, 1);
        let bad = |name: &str| (name == "TELEMETRY_FLEET_SURGE").then(|| "many".to_string());
        let error = Settings::read("", &bad).unwrap_err();
        assert!(error.starts_with("TELEMETRY_FLEET_SURGE (key surge) is \"many\"; allowed:"), "{error}");
    }
}
