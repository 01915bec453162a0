//! The one table of keys. It drives the check for unknown keys, the names in the environment, the ranges, the
//! defaults and the table in the README; a key that is not here does not exist.

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that no error and no log may show.
    Secret,
    /// A JSON integer, both bounds included.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
    /// One word of a list.
    Choice(&'static [&'static str]),
    /// A number from 0 to 1.
    Fraction,
    /// An object, shown in no error.
    Object,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Dotted path: `batch.max_events`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The default as text; `-` is none.
    pub default: &'static str,
    /// What is allowed, as far as the kind does not say it: read it through [`Key::allowed`].
    pub rule: &'static str,
    /// One line for the manual.
    pub meaning: &'static str,
}

impl Key {
    /// Whether its value must never be shown.
    pub fn secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::Object)
    }

    /// The variable that supplies it when the JSON does not.
    pub fn env_name(&self) -> String {
        format!("TELEMETRY_{}", self.name.to_ascii_uppercase().replace('.', "_"))
    }

    /// What is allowed, for errors and the manual.
    pub fn allowed(&self) -> String {
        let kind = match self.kind {
            Kind::Integer { min, max } => format!("an integer from {min} to {max}"),
            Kind::Flag => "true or false".to_string(),
            Kind::Choice(words) => match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                _ => words.concat(),
            },
            Kind::Fraction => "a number from 0 to 1".to_string(),
            Kind::Text | Kind::Secret | Kind::Object => return self.rule.to_string(),
        };
        if self.rule.is_empty() { kind } else { format!("{kind}, {}", self.rule) }
    }

    /// The object that holds it, if it is nested.
    pub fn group(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(group, _)| group)
    }
}

const fn text(name: &'static str, default: &'static str, rule: &'static str, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Text, default, rule, meaning }
}

const fn secret(name: &'static str, rule: &'static str, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Secret, default: "-", rule, meaning }
}

const fn integer(
    name: &'static str,
    default: &'static str,
    (min, max): (u64, u64),
    rule: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, kind: Kind::Integer { min, max }, default, rule, meaning }
}

const fn choice(
    name: &'static str,
    default: &'static str,
    words: &'static [&'static str],
    meaning: &'static str,
) -> Key {
    Key { name, kind: Kind::Choice(words), default, rule: "", meaning }
}

const fn object(name: &'static str, rule: &'static str, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Object, default: "{}", rule, meaning }
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Smallest segment.
pub(super) const MIN_SEGMENT: u64 = 65_536;
const MAX_SEGMENT: u64 = 1 << 30;
/// What a segment needs beside the largest event: record header, alignment, the segment's own head.
pub(super) const SEGMENT_OVERHEAD: u64 = 512;

const FILE: &str = "a path";

/// Every key there is, in the order of the manual.
pub const KEYS: &[Key] = &[
    text(
        "endpoint",
        "file:telemetry-events.ndjson",
        "an http://, https://, http+unix:///path.sock:/path or file:PATH address",
        "Where events go. A URL without a path gets the path of the format, any other path is used as is. \
         A user and password in the URL become `basic`; for `sentry` it is the DSN. Nothing is decoded in a file or socket path.",
    ),
    choice(
        "format",
        "ndjson",
        &[
            "ndjson",
            "json",
            "posthog",
            "posthog-v1",
            "langfuse",
            "langfuse-scores",
            "otlp-logs",
            "otlp-traces",
            "segment",
            "sentry",
        ],
        "How a batch becomes a request.",
    ),
    choice(
        "encoding",
        "protobuf",
        &["protobuf", "json"],
        "How the formats `otlp-logs` and `otlp-traces` are written; in a file always as `json`.",
    ),
    secret(
        "api_key",
        "visible ASCII characters",
        "Project key, placed where the format wants it; `posthog`, `posthog-v1` and `segment` need it, `sentry` has it in \
         the endpoint.",
    ),
    secret(
        "basic",
        "user:password without control characters",
        "Basic authentication. At most one of `basic` and `bearer`.",
    ),
    secret("bearer", "visible ASCII characters", "Token for `Authorization: Bearer`."),
    object(
        "headers",
        "an object of strings: names are HTTP tokens, values have no control characters; not Host, \
         Content-Length, Content-Type, Content-Encoding, Transfer-Encoding, Connection, Keep-Alive, \
         Upgrade, Expect",
        "Further headers of each request.",
    ),
    text(
        "name",
        "the endpoint, without credentials",
        "1 to 64 of A-Z a-z 0-9 . _ - and no dot first",
        "Name of the client in logs, and the beginning of its directory's name below `spool_dir`.",
    ),
    object(
        "context",
        "an object; for ndjson and json without id and timestamp",
        "Merged into each event where its format has room for it; a member the event has wins. The strings `$pid`, \
         `$host`, `$worker` and `$generation` are replaced by those of the process that enqueued it.",
    ),
    choice(
        "compression",
        "gzip",
        &["none", "gzip", "zstd"],
        "How bodies above 1 KiB are compressed; `zstd` for `ndjson`, `json`, `posthog-v1` and the otlp formats.",
    ),
    integer("timeout_ms", "10000", (1, HOUR_MS), "", "One request, connect to last byte."),
    text("tls.ca_file", "-", FILE, "PEM file of the authorities to trust instead of the built-in ones."),
    text("tls.cert_file", "-", FILE, "PEM file of the client certificate; needs `tls.key_file`."),
    text("tls.key_file", "-", FILE, "PEM file of its key; needs `tls.cert_file`."),
    text(
        "proxy",
        "from the environment",
        "an http:// address without a path, or \"\" for none",
        "Proxy for http(s) endpoints. Without the key `https_proxy` or `http_proxy`, then `all_proxy` decides, \
         in lower case before capitals, except for loopback endpoints. `NO_PROXY` is honoured in both cases.",
    ),
    choice("resolver", "builtin", &["builtin", "system"], "Who resolves host names."),
    integer("batch.max_events", "1000", (1, 1_000_000), "", "A batch closes at so many events."),
    integer(
        "batch.max_bytes",
        "1048576",
        (1024, 1 << 26),
        "",
        "A batch closes at so many bytes, never above the limit of the format. A larger event travels alone.",
    ),
    integer("batch.max_age_ms", "1000", (1, HOUR_MS), "", "A batch closes when its first event is so old."),
    integer(
        "queue_bytes",
        "16777216",
        (2 * MIN_SEGMENT, 1 << 36),
        "at least two segments",
        "Memory for waiting events; with `spool_dir` it is used while the disk is not usable.",
    ),
    integer(
        "segment_bytes",
        "1048576",
        (MIN_SEGMENT, MAX_SEGMENT),
        "a multiple of 4096",
        "Piece in which the queue is used. When absent it shrinks until two fit into `queue_bytes`, and with \
         `spool_dir` also into `spool_max_bytes`.",
    ),
    integer(
        "max_event_bytes",
        "262144",
        (1, MAX_SEGMENT - SEGMENT_OVERHEAD),
        "at most segment_bytes less 512",
        "A larger event is TOO_LARGE. When absent it shrinks until one fits into a segment.",
    ),
    choice("on_full", "drop", &["drop", "block"], "What `enqueue` does when the queue is full."),
    integer("block_timeout_ms", "100", (0, HOUR_MS), "", "How long `enqueue` waits with `block`."),
    integer(
        "retry.initial_ms",
        "250",
        (1, HOUR_MS),
        "at most retry.max_ms",
        "First pause, before jitter; it doubles from there. When absent it is at most `retry.max_ms`.",
    ),
    integer(
        "retry.max_ms",
        "30000",
        (1, DAY_MS),
        "at least retry.initial_ms",
        "Longest pause, also for Retry-After. When absent it is at least `retry.initial_ms`.",
    ),
    integer(
        "retry.max_age_s",
        "86400",
        (1, 31_536_000),
        "",
        "An event older than this is given up and counted as expired. With `spool_dir` it is \
         `spool_max_age_s` when absent, and the smaller of the two when set.",
    ),
    text(
        "spool_dir",
        "-",
        FILE,
        "Directory for waiting events. With it they outlive their process: a sibling or the next start delivers \
         them. Each combination of endpoint, format and credentials gets a directory of its own in it.",
    ),
    integer(
        "spool_max_bytes",
        "268435456",
        (2 * MIN_SEGMENT, 1 << 36),
        "at least two segments",
        "Disk for waiting events. Needs `spool_dir`.",
    ),
    integer(
        "spool_max_age_s",
        "604800",
        (1, 31_536_000),
        "",
        "How long an event may wait in the spool, see `retry.max_age_s`. Needs `spool_dir`.",
    ),
    choice(
        "spool_evict",
        "none",
        &["none", "oldest"],
        "What makes room in a full spool: nothing (`enqueue` then does what `on_full` says), or the oldest events \
         are given up and counted as expired. Needs `spool_dir`.",
    ),
    choice(
        "sync",
        "none",
        &["none", "interval", "batch"],
        "When the spool is forced to disk, against a loss of power: when the kernel likes, at intervals, or with \
         each batch; never within `enqueue`. Needs `spool_dir`.",
    ),
    text(
        "dead_letter",
        "-",
        "a path, not of a directory",
        "NDJSON file to which refused and invalid events are appended, with the reason. It is created for its \
         owner alone if it is missing, its directory is not.",
    ),
    integer("exit_timeout_ms", "1000", (0, 600_000), "", "Flush at exit, all clients together; 0 is none."),
    integer("idle_ms", "10000", (1, DAY_MS), "", "The sender ends after so long without work."),
    choice(
        "clock",
        "precise",
        &["precise", "coarse"],
        "Clock of the event time: `coarse` is cheaper, and some milliseconds behind.",
    ),
    integer(
        "media_max_bytes",
        "67108864",
        (1, 1 << 36),
        "",
        "Room for uploads (`telemetry_upload`) that wait, and the size of the largest; with `spool_dir` on disk, else in memory.",
    ),
    object(
        "redact",
        "an object: paths such as `a.b`, `items.*.c` or `**.d`, each with mask, hash or remove",
        "What must not leave: masked (`***`), replaced by its SHA-256, or taken out before the event is sent.",
    ),
    Key {
        name: "sample.rate",
        kind: Kind::Fraction,
        default: "1",
        rule: "",
        meaning: "The part of all events that is kept; the others are counted as `sampled_out`.",
    },
    text(
        "sample.key",
        "-",
        "a path such as a.b",
        "Events with the same value there are kept together or not at all, by its SHA-256. Without it, and where it is \
         missing, the whole event decides.",
    ),
    Key {
        name: "disabled",
        kind: Kind::Flag,
        default: "false",
        rule: "",
        meaning: "Every call is OK and does nothing. A bad configuration is an error all the same.",
    },
];

/// The key of that dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Keys inside the object `group`, without its name.
pub(super) fn members(group: &str) -> Vec<&'static str> {
    KEYS.iter().filter_map(|key| key.name.strip_prefix(group)?.strip_prefix('.')).collect()
}

/// Whether `name` is an object that holds keys.
pub(super) fn is_group(name: &str) -> bool {
    KEYS.iter().any(|key| key.group() == Some(name))
}

/// The known key that `path` was most likely meant to be. The last part alone counts too, at a handicap:
/// `max_events` at the top is `batch.max_events`. A beginning is near to its whole: `queue` is `queue_bytes`.
pub(super) fn nearest(path: &str) -> &'static str {
    let path = snake(path);
    let leaf = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    let away = |given: &str, name: &str| {
        let begun = given.len() > 1 && name.starts_with(given);
        if begun { 1 } else { distance(given, name) }
    };
    let score = |name: &str| (2 * away(&path, name)).min(2 * away(&leaf(&path), &leaf(name)) + 3);
    // Inside an object nobody meant the object.
    let groups = KEYS.iter().filter_map(Key::group).filter(|_| !path.contains('.'));
    KEYS.iter().map(|key| key.name).chain(groups).min_by_key(|name| score(name)).unwrap_or_default()
}

/// Of a variable that no key is read from: the one that was probably meant, or what to say instead of an object.
pub(super) fn variable_meant(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("TELEMETRY_")?.to_ascii_lowercase();
    let own = |key: &Key| key.env_name();
    if KEYS.iter().any(|key| own(key) == variable) {
        return None;
    }
    if is_group(&name) {
        let members: Vec<String> =
            KEYS.iter().filter(|key| key.group() == Some(name.as_str())).map(own).collect();
        return Some(members.join(", "));
    }
    let near = KEYS.iter().map(own).min_by_key(|known| distance(variable, known))?;
    (distance(variable, &near) <= SLIP).then_some(near)
}

/// So many letters are a slip; more are another program's variable.
const SLIP: usize = 2;

/// The word of `list` nearest to `word`.
pub(super) fn nearest_word(word: &str, list: &[&'static str]) -> Option<&'static str> {
    let word = word.to_lowercase();
    let best = list.iter().min_by_key(|known| distance(&word, known))?;
    (distance(&word, best) <= 2.max(best.len() / 3)).then_some(*best)
}

/// `maxEvents` and `max-events` as `max_events`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut after_lower = false;
    for c in name.chars().take(100) {
        if c.is_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = c.is_lowercase();
        out.extend(if c == '-' { '_' } else { c }.to_lowercase());
    }
    out
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let here = (diagonal + usize::from(x != y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The README's table.
pub fn keys_markdown() -> String {
    let mut out = String::from("| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n");
    for key in KEYS {
        let plain = key.default == "-" || key.default.contains(' ');
        let default = if plain { key.default.to_string() } else { format!("`{}`", key.default) };
        out += &format!("| `{}` | {default} | {} | {} |\n", key.name, key.allowed(), key.meaning);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sound() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|earlier| earlier.name != key.name), "{} twice", key.name);
            assert!(key.name.split('.').count() <= 2, "{}: one level of nesting", key.name);
            assert!(!is_group(key.name), "{} is a key and a group", key.name);
            assert!(!key.meaning.is_empty());
            assert!(!key.allowed().is_empty(), "{}", key.name);
            match key.kind {
                Kind::Integer { min, max } => {
                    let default: u64 = key.default.parse().unwrap();
                    assert!((min..=max).contains(&default), "{}", key.name);
                }
                Kind::Choice(words) => assert!(words.contains(&key.default), "{}", key.name),
                Kind::Fraction => assert!((0.0..=1.0).contains(&key.default.parse::<f64>().unwrap())),
                Kind::Flag => assert!(["true", "false"].contains(&key.default)),
                _ => {}
            }
        }
        assert_eq!(members("tls"), ["ca_file", "cert_file", "key_file"]);
        assert!(is_group("batch") && !is_group("endpoint"));
    }

    #[test]
    fn environment_names() {
        assert_eq!(find("batch.max_events").unwrap().env_name(), "TELEMETRY_BATCH_MAX_EVENTS");
        assert_eq!(find("api_key").unwrap().env_name(), "TELEMETRY_API_KEY");
        let mut names: Vec<_> = KEYS.iter().map(Key::env_name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
    }

    #[test]
    fn variables_that_were_meant_for_a_key() {
        for (given, meant) in [
            ("TELEMETRY_ENDPOIT", Some("TELEMETRY_ENDPOINT")),
            ("TELEMETRY_BATCH_MAX_EVENT", Some("TELEMETRY_BATCH_MAX_EVENTS")),
            ("TELEMETRY_SAMPLE", Some("TELEMETRY_SAMPLE_RATE, TELEMETRY_SAMPLE_KEY")),
            ("TELEMETRY_ENDPOINT", None),
            ("TELEMETRY_ENABLED_BY_OTHERS", None),
            ("TELEMETRY_RUNTIME_DIR", None),
            ("TELEMETRY_FLEET_HEALTH", None),
            ("TELEMETRY_TEST_PANIC", None),
            ("ENDPOIT", None),
        ] {
            assert_eq!(variable_meant(given).as_deref(), meant, "{given}");
        }
    }

    #[test]
    fn nearest_key() {
        for (given, meant) in [
            ("endpiont", "endpoint"),
            ("Endpoint", "endpoint"),
            ("apikey", "api_key"),
            ("api-key", "api_key"),
            ("apiKey", "api_key"),
            ("compresion", "compression"),
            ("max_events", "batch.max_events"),
            ("maxEvents", "batch.max_events"),
            ("batch_max_events", "batch.max_events"),
            ("batch.max_event", "batch.max_events"),
            ("batch.max_age_s", "batch.max_age_ms"),
            ("batch.timeout_ms", "timeout_ms"),
            ("retry.initial", "retry.initial_ms"),
            ("cafile", "tls.ca_file"),
            ("batches", "batch"),
            ("retries", "retry"),
            ("spooldir", "spool_dir"),
            ("queue", "queue_bytes"),
            ("timeout", "timeout_ms"),
            ("tls.ca", "tls.ca_file"),
            ("cert", "tls.cert_file"),
        ] {
            assert_eq!(nearest(given), meant, "{given}");
        }
        nearest("");
        nearest(&"ß".repeat(10_000));
        assert_eq!(nearest_word("NDJSON", &["ndjson", "json"]), Some("ndjson"));
        assert_eq!(nearest_word("protobuf", &["ndjson", "json"]), None);
    }

    #[test]
    fn edit_distance() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("é", "e", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn markdown_has_a_row_for_each_key() {
        let table = keys_markdown();
        for key in KEYS {
            assert!(table.contains(&format!("\n| `{}` | ", key.name)), "{}", key.name);
        }
        assert!(table.contains("| `timeout_ms` | `10000` | an integer from 1 to 3600000 | One request"));
        assert!(table.contains("| `api_key` | - | "));
        for row in table.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(row.matches('|').count(), 5, "{row}");
        }
    }
}
