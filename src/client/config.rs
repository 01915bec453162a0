//! The configuration: one JSON object, read once at open and frozen.
//!
//! Invariants:
//! - What [`Config::parse`] returns is complete and consistent: nothing behind it checks a range again.
//! - Precedence for each key: JSON, then the variable `TELEMETRY_<KEY>`, then for the otlp formats OpenTelemetry's own
//!   (see [`otel`]), then the default. `null` in the JSON and an empty variable are as if absent (an empty `proxy` means
//!   none).
//! - What cannot be honoured is refused, never ignored: unknown keys at every depth, and keys given twice. Other
//!   `TELEMETRY_*` variables are not looked at, because programs beside the library have their own.
//! - `disabled` (also `TELEMETRY_DISABLED=1`) makes every call a cheap OK but hides no mistake: a bad
//!   configuration is an error all the same, else it would show on the day somebody enables it again.
//! - No credential is in an error, in `Debug` output or in the endpoint's URL.
//! - Two keys that contradict each other are an error that names both. Where only one of the two was set, the
//!   other one's default gives way as far as that wastes nothing: `segment_bytes` and `max_event_bytes` shrink,
//!   `retry` stays in order. A limit of memory or disk is never raised.
//! - An event between `batch.max_bytes` and `max_event_bytes` travels in a batch of its own, if the format's own
//!   limit allows.
//!
//! Test switches, from the environment only: `TELEMETRY_TEST_NO_WIPEONFORK=1` forces the fallback fork detector;
//! `TELEMETRY_TEST_PANIC=enqueue` or `sender` panics there.

#![forbid(unsafe_code)]

mod formats;
mod json;
mod keys;
mod otel;
mod proxy;
mod redact;
mod rules;
mod spool;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};

pub use formats::{Encoding, FORMATS, FormatKind};
pub use keys::{KEYS, Key, Kind, keys_markdown};
pub use spool::{Evict, Spool, Sync};

use crate::delivery::rules::redact::Redact;
use crate::delivery::rules::sample::Sample;
use crate::sink::{Endpoint, Proxy, http1};
use formats::Wire;
use redact::redact;
use values::{Given, Headers, Values};

/// Everything a client was told, frozen at open.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Where events go, as given but for the user information.
    pub endpoint: Endpoint,
    /// An endpoint that has no path gets none of the format's.
    pub endpoint_as_is: bool,
    /// How a batch becomes a request.
    pub format: FormatKind,
    /// How OTLP is written.
    pub encoding: Encoding,
    /// Project key; there where the format cannot do without.
    pub api_key: Option<String>,
    /// `user:password`, from the key or from the URL of the endpoint.
    pub basic: Option<String>,
    /// Bearer token; never together with `basic`.
    pub bearer: Option<String>,
    /// Further headers in the order given.
    pub headers: Vec<(String, String)>,
    /// Name for logs and in the spool; safe as a file name.
    pub name: Option<String>,
    /// Members merged into each event, each value as JSON text; their words for pid and host are not replaced yet.
    pub context: Vec<(String, String)>,
    /// Attributes of the resource of otlp's plain records, from OpenTelemetry's variables; the context comes first.
    pub otel_resource: Vec<(String, String)>,
    /// What must not leave.
    pub redact: Option<Redact>,
    /// What is kept; none for everything.
    pub sample: Option<Sample>,
    /// How bodies are compressed.
    pub compression: Compression,
    /// One request, connect to last byte.
    pub timeout_ms: u64,
    /// Files for TLS.
    pub tls: TlsFiles,
    /// The proxy to use for this endpoint, after the key, the environment and `NO_PROXY` were considered.
    pub proxy: Option<Proxy>,
    /// Who resolves host names.
    pub resolver: ResolverKind,
    /// When a batch closes.
    pub batch: Batch,
    /// Memory for waiting events: at least two segments.
    pub queue_bytes: usize,
    /// A multiple of 4096.
    pub segment_bytes: usize,
    /// At most `segment_bytes` less 512.
    pub max_event_bytes: usize,
    /// What `enqueue` does when the queue is full.
    pub on_full: OnFull,
    /// How long it waits with [`OnFull::Block`].
    pub block_timeout_ms: u64,
    /// Pauses between attempts.
    pub retry: Retry,
    /// Segments on disk instead of in memory.
    pub spool: Option<Spool>,
    /// Where refused events are written to.
    pub dead_letter: Option<PathBuf>,
    /// Flush at exit, all clients together; 0 is none.
    pub exit_timeout_ms: u64,
    /// The sender ends after so long without work.
    pub idle_ms: u64,
    /// Clock of the event time.
    pub clock: Clock,
    /// Room for uploads that wait.
    pub media_max_bytes: usize,
    /// Every call is OK and does nothing.
    pub disabled: bool,
    /// For the tests of this library.
    pub test: TestSwitches,
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd, where the format takes it.
    Zstd,
}

/// Who resolves host names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverKind {
    /// Our own, which takes no lock that a fork could tear.
    Builtin,
    /// `getaddrinfo`.
    System,
}

/// What `enqueue` does when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// FULL at once.
    Drop,
    /// Wait for at most `block_timeout_ms`.
    Block,
}

/// Clock of the event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Nanoseconds.
    Precise,
    /// The kernel's tick.
    Coarse,
}

/// Files for TLS. Nobody has looked yet whether they exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities to trust instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// Client certificate; there exactly when `key_file` is.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// When a batch closes: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// At so many events.
    pub max_events: usize,
    /// At so many bytes.
    pub max_bytes: usize,
    /// When its first event is so old.
    pub max_age_ms: u64,
}

/// Pauses between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// First pause, before jitter.
    pub initial_ms: u64,
    /// Longest pause, at least `initial_ms`.
    pub max_ms: u64,
    /// An event older than this has expired, in memory or in the spool.
    pub max_age_s: u64,
}

/// For the tests of this library, from the environment only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestSwitches {
    /// `TELEMETRY_TEST_NO_WIPEONFORK=1`: the fallback fork detector.
    pub no_wipeonfork: bool,
    /// `TELEMETRY_TEST_PANIC`: where to panic, `enqueue` or `sender`.
    pub panic: Option<String>,
}

/// Why a configuration cannot be used: the key, its value unless it is a credential, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The whole text.
    pub message: String,
}

impl ConfigError {
    fn new(message: String) -> ConfigError {
        ConfigError { message }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Read `json` (empty means `{}`) with `env` behind it; [`process_env`] is the usual `env`.
    ///
    /// Reads nothing else: no file is opened and relative paths stay relative, see [`Config::anchored`].
    pub fn parse(json: &str, env: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let mut values = Values::open(json, &env)?;
        let format = formats::kind(&values)?;
        values.ask_otel(format.signal());

        let given = values.text("endpoint")?;
        let default = keys::find("endpoint").map_or("", |key| key.default);
        let address = given.as_ref().map_or(default, |given| given.value.as_str());
        let mut endpoint = Endpoint::parse(address).map_err(|why| match &given {
            Some(given) => given.refuse_as(&redact(address), &why),
            None => ConfigError::new(format!("the default endpoint: {why}")),
        })?;

        let endpoint_as_is = given.is_some_and(|given| given.is_from(otel::OWN_ENDPOINTS));
        if matches!(endpoint, Endpoint::File { .. }) {
            // What is left to ask for is how to talk to a collector.
            values.ask_otel(None);
        }

        let mut userinfo = match &mut endpoint {
            Endpoint::Http { url } => url.userinfo.take(),
            _ => None,
        };
        let Wire { format, encoding, api_key, compression } =
            Wire::read(&values, format, &mut endpoint, &mut userinfo)?;
        let headers = headers(&values)?;
        let (basic, bearer) = credentials(&values, userinfo, &headers)?;
        let spool = Spool::read(&values)?;
        let Sizes { queue_bytes, segment_bytes, max_event_bytes } = Sizes::read(&values, spool.is_some())?;

        Ok(Config {
            format,
            encoding,
            api_key,
            basic,
            bearer,
            headers: headers.map(|given| given.value).unwrap_or_default(),
            name: name(&values)?,
            context: rules::context(&values, format)?,
            otel_resource: if format.is_otlp() { otel::resource(values.env())? } else { Vec::new() },
            redact: rules::redact(&values)?,
            sample: rules::sample(&values)?,
            compression,
            timeout_ms: values.integer("timeout_ms")?.value,
            tls: tls(&values)?,
            proxy: proxy::resolve(&values, &endpoint)?,
            resolver: match values.choice("resolver")?.value {
                "system" => ResolverKind::System,
                _ => ResolverKind::Builtin,
            },
            batch: Batch {
                max_events: values.integer("batch.max_events")?.size()?,
                max_bytes: values.integer("batch.max_bytes")?.size()?,
                max_age_ms: values.integer("batch.max_age_ms")?.value,
            },
            queue_bytes,
            segment_bytes,
            max_event_bytes,
            on_full: match values.choice("on_full")?.value {
                "block" => OnFull::Block,
                _ => OnFull::Drop,
            },
            block_timeout_ms: values.integer("block_timeout_ms")?.value,
            retry: retry(&values, spool.as_ref())?,
            spool,
            dead_letter: spool::dead_letter(&values)?,
            exit_timeout_ms: values.integer("exit_timeout_ms")?.value,
            idle_ms: values.integer("idle_ms")?.value,
            clock: match values.choice("clock")?.value {
                "coarse" => Clock::Coarse,
                _ => Clock::Precise,
            },
            media_max_bytes: values.integer("media_max_bytes")?.size()?,
            disabled: values.flag("disabled")?,
            test: test_switches(&values)?,
            endpoint,
            endpoint_as_is,
        })
    }

    /// The same with every relative path under `directory`. A server may change its directory between open and
    /// the first event, and the file must not move with it.
    #[must_use]
    pub fn anchored(mut self, directory: &Path) -> Config {
        let endpoint = match &mut self.endpoint {
            Endpoint::File { path } => Some(path),
            _ => None,
        };
        let tls = [&mut self.tls.ca_file, &mut self.tls.cert_file, &mut self.tls.key_file];
        let spool = self.spool.as_mut().map(|spool| &mut spool.dir);
        let others = endpoint.into_iter().chain(spool).chain(&mut self.dead_letter);
        for path in tls.into_iter().flatten().chain(others) {
            *path = directory.join(&path);
        }
        self
    }
}

/// What to say of a variable that looks like a key's and is none; its value is not shown.
pub fn complaint(variable: &str) -> Option<String> {
    let meant = keys::variable_meant(variable)?;
    Some(format!("{variable} is the variable of no key and is not read; meant was perhaps {meant}"))
}

/// A variable of this process. One that is not UTF-8 is kept recognisable, so that it is refused and not ignored.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// A credential that goes into a header or a body as it stands. A line break at its end, as it comes with keys
/// read from files, is caught here and not by a collector that answers 401.
fn visible(given: Option<Given<String>>) -> Result<Option<String>, ConfigError> {
    match given {
        Some(given) if !given.value.bytes().all(|b| b.is_ascii_graphic()) => {
            let white = given.value.contains(|c: char| c.is_whitespace());
            Err(given.refuse(if white {
                "it has white space or a line break"
            } else {
                "it has a strange character"
            }))
        }
        given => Ok(given.map(|given| given.value)),
    }
}

fn headers(values: &Values<'_>) -> Result<Option<Given<Headers>>, ConfigError> {
    const OURS: [&str; 3] = ["host", "content-type", "content-encoding"];
    let Some(given) = values.headers("headers")? else { return Ok(None) };
    for (at, (name, value)) in given.value.iter().enumerate() {
        http1::check_header(name, value).map_err(|why| given.refuse_as("", &why))?;
        let refuse = |why: &str| Err(given.refuse_as("", &format!("the header {name} {why}")));
        if OURS.contains(&name.to_ascii_lowercase().as_str()) {
            return refuse("is set by the library");
        }
        if given.value.iter().take(at).any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            return refuse("is there twice");
        }
    }
    Ok(Some(given))
}

/// `basic` and `bearer`: at most one way to say who we are.
fn credentials(
    values: &Values<'_>,
    userinfo: Option<String>,
    headers: &Option<Given<Headers>>,
) -> Result<(Option<String>, Option<String>), ConfigError> {
    let basic = values.text("basic")?;
    let bearer = values.text("bearer")?;
    let header = headers
        .as_ref()
        .filter(|given| given.value.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")));
    let sources: Vec<String> = [
        userinfo.as_ref().map(|_| "a user and password in endpoint".to_string()),
        basic.as_ref().map(Given::label),
        bearer.as_ref().map(Given::label),
        header.map(|given| format!("Authorization in {}", given.label())),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sources.len() > 1 {
        return Err(ConfigError::new(format!("{} are all set; allowed: one of them", sources.join(" and "))));
    }
    if let Some(given) = &basic {
        let named = given.value.split_once(':').is_some_and(|(user, _)| !user.is_empty());
        if !named || given.value.chars().any(char::is_control) {
            return Err(given.refuse(if named {
                "it has a control character"
            } else {
                "it has no user before a colon"
            }));
        }
    }
    Ok((userinfo.or(basic.map(|given| given.value)), visible(bearer)?))
}

fn name(values: &Values<'_>) -> Result<Option<String>, ConfigError> {
    let Some(given) = values.text("name")? else { return Ok(None) };
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if given.value.len() > 64 || given.value.starts_with('.') || !given.value.bytes().all(fine) {
        return Err(given.refuse(""));
    }
    Ok(Some(given.value))
}

fn tls(values: &Values<'_>) -> Result<TlsFiles, ConfigError> {
    let file = |name: &str| values.path(name).map(|given| given.map(|given| PathBuf::from(given.value)));
    let files = TlsFiles {
        ca_file: file("tls.ca_file")?,
        cert_file: file("tls.cert_file")?,
        key_file: file("tls.key_file")?,
    };
    match (&files.cert_file, &files.key_file) {
        (Some(_), None) => Err(ConfigError::new(
            "tls.cert_file is set and tls.key_file is not; allowed: both or none".into(),
        )),
        (None, Some(_)) => Err(ConfigError::new(
            "tls.key_file is set and tls.cert_file is not; allowed: both or none".into(),
        )),
        _ => Ok(files),
    }
}

struct Sizes {
    queue_bytes: usize,
    segment_bytes: usize,
    max_event_bytes: usize,
}

impl Sizes {
    /// Two segments fit into the queue and into the spool, one event into a segment. A default shrinks until
    /// it fits.
    fn read(values: &Values<'_>, spooled: bool) -> Result<Sizes, ConfigError> {
        let queue = values.integer("queue_bytes")?;
        let disk = if spooled { Some(values.integer("spool_max_bytes")?) } else { None };
        let smaller = disk.as_ref().map_or(queue.value, |disk| disk.value.min(queue.value));
        let mut segment = values.integer("segment_bytes")?;
        let mut event = values.integer("max_event_bytes")?;
        if !segment.set {
            // The ranges of both keep this at or above the smallest segment.
            segment.value = segment.value.min(smaller / 2 / 4096 * 4096).max(keys::MIN_SEGMENT);
        }
        if !segment.value.is_multiple_of(4096) {
            return Err(segment.refuse(""));
        }
        for (name, home) in [("queue_bytes", Some(&queue)), ("spool_max_bytes", disk.as_ref())] {
            if let Some(home) = home.filter(|home| home.value / 2 < segment.value) {
                return Err(ConfigError::new(format!(
                    "{} and {}: {name} must hold at least two segments",
                    home.stated(),
                    segment.stated()
                )));
            }
        }
        let room = segment.value - keys::SEGMENT_OVERHEAD;
        if !event.set {
            event.value = event.value.min(room);
        }
        if event.value > room {
            return Err(ConfigError::new(format!(
                "{} and {}: max_event_bytes can be at most {room} there; segment_bytes would have to be {}",
                event.stated(),
                segment.stated(),
                (event.value + keys::SEGMENT_OVERHEAD).next_multiple_of(4096)
            )));
        }
        Ok(Sizes {
            queue_bytes: queue.size()?,
            segment_bytes: segment.size()?,
            max_event_bytes: event.size()?,
        })
    }
}

fn retry(values: &Values<'_>, spool: Option<&Spool>) -> Result<Retry, ConfigError> {
    let mut initial = values.integer("retry.initial_ms")?;
    let mut max = values.integer("retry.max_ms")?;
    if !max.set {
        max.value = max.value.max(initial.value);
    } else if !initial.set {
        initial.value = initial.value.min(max.value);
    }
    if max.value < initial.value {
        let why = format!(
            "{} and {}: retry.max_ms must be at least retry.initial_ms",
            max.stated(),
            initial.stated()
        );
        return Err(ConfigError::new(why));
    }
    let age = values.integer("retry.max_age_s")?;
    let max_age_s = match spool {
        Some(spool) if age.set => age.value.min(spool.max_age_s),
        // What lies safe on a disk outlives the default for memory.
        Some(spool) => spool.max_age_s,
        None => age.value,
    };
    Ok(Retry { initial_ms: initial.value, max_ms: max.value, max_age_s })
}

fn test_switches(values: &Values<'_>) -> Result<TestSwitches, ConfigError> {
    let panic = values.variable("TELEMETRY_TEST_PANIC");
    if let Some(place) = panic.as_ref().filter(|place| !["enqueue", "sender"].contains(&place.as_str())) {
        let shown = json::shown(place);
        return Err(ConfigError::new(format!("TELEMETRY_TEST_PANIC is {shown}; allowed: enqueue or sender")));
    }
    Ok(TestSwitches { no_wipeonfork: values.switch("TELEMETRY_TEST_NO_WIPEONFORK")?, panic })
}

/// Everything but credentials.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart without `..`, so that a new field is a decision here too.
        let Config {
            endpoint,
            endpoint_as_is,
            format,
            encoding,
            api_key,
            basic,
            bearer,
            headers,
            name,
            context,
            otel_resource,
            redact,
            sample,
            compression,
            timeout_ms,
            tls,
            proxy,
            resolver,
            batch,
            queue_bytes,
            segment_bytes,
            max_event_bytes,
            on_full,
            block_timeout_ms,
            retry,
            spool,
            dead_letter,
            exit_timeout_ms,
            idle_ms,
            clock,
            media_max_bytes,
            disabled,
            test,
        } = self;
        let hide = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        let headers: Vec<_> = headers.iter().map(|(name, _)| (name, "***")).collect();
        let context: Vec<_> = context.iter().map(|(name, _)| (name, "***")).collect();
        f.debug_struct("Config")
            .field("endpoint", endpoint)
            .field("endpoint_as_is", endpoint_as_is)
            .field("format", format)
            .field("encoding", encoding)
            .field("api_key", &hide(api_key))
            .field("basic", &hide(basic))
            .field("bearer", &hide(bearer))
            .field("headers", &headers)
            .field("name", name)
            .field("context", &context)
            .field("otel_resource", otel_resource)
            .field("redact", redact)
            .field("sample", sample)
            .field("compression", compression)
            .field("timeout_ms", timeout_ms)
            .field("tls", tls)
            .field("proxy", proxy)
            .field("resolver", resolver)
            .field("batch", batch)
            .field("queue_bytes", queue_bytes)
            .field("segment_bytes", segment_bytes)
            .field("max_event_bytes", max_event_bytes)
            .field("on_full", on_full)
            .field("block_timeout_ms", block_timeout_ms)
            .field("retry", retry)
            .field("spool", spool)
            .field("dead_letter", dead_letter)
            .field("exit_timeout_ms", exit_timeout_ms)
            .field("idle_ms", idle_ms)
            .field("clock", clock)
            .field("media_max_bytes", media_max_bytes)
            .field("disabled", disabled)
            .field("test", test)
            .finish()
    }
}

#[cfg(test)]
mod secrecy;
#[cfg(test)]
mod tests;
