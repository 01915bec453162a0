//! From configuration text to a client.
//!
//! Invariants:
//! - Everything that can be wrong is found here and said here: after open nothing is read from the
//!   configuration's files or the environment any more.
//! - Opening starts no thread and opens no socket.

use super::config::{
    Clock, Compression, Config, Encoding as OtlpEncoding, Evict, FormatKind, OnFull, ResolverKind, Spool,
    Sync, complaint, process_env,
};
use super::family::Kin;
use super::handle::{Client, DISABLED, PANIC_IN_ENQUEUE, SAMPLED};
use crate::board::directory::Places;
use crate::delivery::compress::Encoding;
use crate::delivery::dead_letter::DeadLetter;
use crate::delivery::engine::{Settings, SpoolSettings};
use crate::delivery::media::MediaSettings;
use crate::delivery::retry::Limits;
use crate::delivery::rules::{Rules, context::Context};
use crate::delivery::secrets::Secrets;
use crate::fork::{gate, hooks};
use crate::format::Format;
use crate::format::json::JsonArray;
use crate::format::langfuse::Langfuse;
use crate::format::langfuse_scores::LangfuseScores;
use crate::format::ndjson::Ndjson;
use crate::format::otlp::{self, Otlp};
use crate::format::posthog::Posthog;
use crate::format::posthog_v1::PosthogV1;
use crate::format::segment::Segment;
use crate::format::sentry::Sentry;
use crate::platform::log::{Level, Reason, say};
use crate::platform::mmap::Latest;
use crate::platform::page::WipedPage;
use crate::platform::process;
use crate::platform::sockets::{FileTable, SocketTable};
use crate::queue::spool::claim;
use crate::queue::spool::directory::{Directory, Problem};
use crate::queue::spool::header::format_name;
use crate::queue::spool::store::{SPARES, Spec};
use crate::sink::{self, Endpoint, ResolverFiles, SinkConfig, url};
use serde_json::Value;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why a client could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The configuration is wrong; the text names the key, the value and what is allowed.
    Config(String),
    /// The operating system refused memory.
    Io(String),
}

/// Open a client from its JSON configuration and the environment.
pub fn open(json: &str) -> Result<Arc<Client>, OpenError> {
    open_with(Config::parse(json, process_env).map_err(|e| OpenError::Config(e.to_string()))?)
}

/// The same, with host names looked up as these files say: for tests.
pub fn open_looking_into(json: &str, files: ResolverFiles) -> Result<Arc<Client>, OpenError> {
    let config = Config::parse(json, process_env).map_err(|e| OpenError::Config(e.to_string()))?;
    open_resolving(config, Some(sink::Resolver::BuiltinFrom(files)))
}

/// Open a client from a configuration that was read already.
pub(super) fn open_with(config: Config) -> Result<Arc<Client>, OpenError> {
    open_resolving(config, None)
}

fn open_resolving(mut config: Config, resolver: Option<sink::Resolver>) -> Result<Arc<Client>, OpenError> {
    // A server that changes its directory later must not move its files.
    if let Ok(here) = std::env::current_dir() {
        config = config.anchored(&here);
    }
    for variable in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if let Some(text) = complaint(&variable) {
            say(Level::Warn, Reason::Variable, &text);
        }
    }
    let format = format_of(&config);
    let mut sink = sink_of(&config, &*format)?;
    sink.resolver = resolver.unwrap_or(sink.resolver);
    sink::validate(&sink).map_err(OpenError::Config)?;
    if let Some(path) = config.dead_letter.as_deref().filter(|path| path.is_dir()) {
        let why = format!("dead_letter is {path:?}: it is a directory; allowed: a path of a file");
        return Err(OpenError::Config(why));
    }
    let settings = Arc::new(Settings { rules: rules_of(&config)?, ..settings_of(&config, &sink) });
    let spool = config.spool.as_ref().map(|keys| spool_of(keys, &config)).transpose()?;
    build(&config, settings, format, sink, spool)
}

fn build(
    config: &Config,
    settings: Arc<Settings>,
    format: Arc<dyn Format>,
    sink: SinkConfig,
    spool: Option<Spec>,
) -> Result<Arc<Client>, OpenError> {
    let io = |e: std::io::Error| OpenError::Io(format!("no memory for the queue: {e}"));
    let room = config.spool.as_ref().map_or(config.queue_bytes, |keys| keys.max_bytes);
    let segments = room / config.segment_bytes;
    let try_wipe = !config.test.no_wipeonfork;
    hooks::install(try_wipe);
    if spool.is_some() {
        claim::prepare_page(try_wipe);
    }
    let slots = segments.next_power_of_two();
    let spares = if spool.is_some() { SPARES as usize } else { 0 };
    let page = WipedPage::new(slots, try_wipe).map_err(io)?;
    let client = Arc::new_cyclic(|me| Client {
        page,
        segment_len: config.segment_bytes as u32,
        segments: segments as u32,
        media_room: config.media_max_bytes,
        max_event: config.max_event_bytes.min(format.limits(0).event),
        coarse: config.clock == Clock::Coarse,
        block: (config.on_full == OnFull::Block).then(|| Duration::from_millis(config.block_timeout_ms)),
        flags: AtomicU32::new(flags_of(config)),
        opened: AtomicBool::new(false),
        area: Latest::new(config.segment_bytes * (slots + spares)),
        sockets: Arc::new(SocketTable::new()),
        spool,
        kin: Kin::new(Places::read(None, |name| std::env::var_os(name)), stem_of(config)),
        settings,
        format,
        sink,
        exit_timeout: Duration::from_millis(config.exit_timeout_ms),
        registration: OnceLock::new(),
        me: me.clone(),
    });
    if !config.disabled {
        // The opener's world is built here, so that a blank page later always means a child.
        client.enter().ok_or_else(|| io(std::io::Error::last_os_error()))?;
        let _ = client.registration.set(hooks::register(client.clone()));
    }
    Ok(client)
}

fn flags_of(config: &Config) -> u32 {
    let panics = config.test.panic.as_deref() == Some("enqueue");
    let flags = [(config.disabled, DISABLED), (panics, PANIC_IN_ENQUEUE), (config.sample.is_some(), SAMPLED)];
    flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag)
}

fn rules_of(config: &Config) -> Result<Rules, OpenError> {
    let members = Some(&config.context).filter(|members| !members.is_empty());
    let context = members.map(|members| Context::parse(members, &process::host_name())).transpose();
    let context = context.map_err(|why| OpenError::Config(format!("context: {why}")))?;
    Ok(Rules { redact: config.redact.clone(), context, sample: config.sample.clone() })
}

fn format_of(config: &Config) -> Arc<dyn Format> {
    let key = config.api_key.as_deref().unwrap_or_default();
    match config.format {
        FormatKind::Ndjson => Arc::new(Ndjson),
        FormatKind::Json => Arc::new(JsonArray),
        FormatKind::Posthog => Arc::new(Posthog::new(key).at(config.endpoint.path())),
        FormatKind::PosthogV1 => Arc::new(PosthogV1::new(key)),
        FormatKind::Langfuse => Arc::new(Langfuse::new(config.basic.as_deref())),
        FormatKind::LangfuseScores => Arc::new(LangfuseScores::new(config.basic.as_deref())),
        FormatKind::Segment => Arc::new(Segment::new(key)),
        FormatKind::Sentry => Arc::new(Sentry::new(key, None)),
        FormatKind::OtlpLogs => Arc::new(otlp_of(otlp::Signal::Logs, config)),
        FormatKind::OtlpTraces => Arc::new(otlp_of(otlp::Signal::Traces, config)),
    }
}

/// Its resource is the context, and behind it what OpenTelemetry's variables say.
fn otlp_of(signal: otlp::Signal, config: &Config) -> Otlp {
    let encoding = match config.encoding {
        OtlpEncoding::Protobuf => otlp::Encoding::Protobuf,
        OtlpEncoding::Json => otlp::Encoding::Json,
    };
    let host = process::host_name();
    // Whether each is JSON was asked when the rules were made.
    let read = |(key, value): &(String, String)| Some((key.clone(), serde_json::from_str(value).ok()?));
    let mut resource: Vec<(String, Value)> = config.context.iter().filter_map(read).collect();
    for (_, value) in &mut resource {
        put_host(value, &host);
    }
    for (key, value) in &config.otel_resource {
        if !resource.iter().any(|(other, _)| other == key) {
            resource.push((key.clone(), value.as_str().into()));
        }
    }
    Otlp::new(signal, encoding, &resource)
}

/// The machine's name for its word.
fn put_host(value: &mut Value, host: &str) {
    match value {
        Value::String(word) if word == "$host" => *word = host.to_string(),
        Value::Array(list) => list.iter_mut().for_each(|value| put_host(value, host)),
        Value::Object(map) => map.values_mut().for_each(|value| put_host(value, host)),
        _ => {}
    }
}

fn endpoint_of(config: &Config, format: &dyn Format) -> Endpoint {
    let endpoint = config.endpoint.clone();
    if config.endpoint_as_is { endpoint } else { endpoint.with_path(format.path()) }
}

fn sink_of(config: &Config, format: &dyn Format) -> Result<SinkConfig, OpenError> {
    let mut sink = SinkConfig::new(endpoint_of(config, format));
    sink.tls = sink::TlsFiles {
        ca_pem: read_file("tls.ca_file", config.tls.ca_file.as_ref())?,
        client_pem: read_file("tls.cert_file", config.tls.cert_file.as_ref())?
            .zip(read_file("tls.key_file", config.tls.key_file.as_ref())?),
    };
    sink.proxy = config.proxy.clone();
    sink.resolver = match config.resolver {
        ResolverKind::Builtin => sink::Resolver::Builtin,
        ResolverKind::System => sink::Resolver::System(system_lookup),
    };
    Ok(sink)
}

/// What all processes with this destination have in common: the name of their spool's directory and of their board.
fn stem_of(config: &Config) -> String {
    let hash = config.destination_hash();
    config.name.as_ref().map_or(hash.clone(), |name| format!("{name}-{hash}"))
}

/// The spool's directory. What is there and not safe is refused; what cannot be had now is tried again by each
/// process that has events. Root leaves making it to them: they may be another user by then.
fn spool_of(keys: &Spool, config: &Config) -> Result<Spec, OpenError> {
    let dir = Directory::new(&keys.dir, &stem_of(config));
    let may_make = process::effective_uid() != 0 && !config.disabled;
    match if may_make { dir.enter() } else { dir.check() } {
        Err(Problem::Unsafe(why)) => {
            let given = keys.dir.display().to_string();
            return Err(OpenError::Config(format!(
                "spool_dir is {given:?}: {why}; allowed: a directory of this user, not a symlink, that others cannot \
                 write to"
            )));
        }
        Err(why) if !config.disabled => {
            let text = format!("the spool {} cannot be used yet: {why}", dir.path().display());
            say(Level::Warn, Reason::Spool, &text);
        }
        _ => {}
    }
    Ok(Spec {
        dir,
        format: format_name(config.format.as_str()),
        memory_segments: (config.queue_bytes / config.segment_bytes) as u32,
        table: Arc::new(FileTable::new()),
    })
}

fn read_file(key: &str, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, OpenError> {
    let Some(path) = path else { return Ok(None) };
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(why) => {
            Err(OpenError::Config(format!("{key}: cannot read {:?}: {why}", path.display().to_string())))
        }
    }
}

/// libc's resolver, entered only while nobody is inside `fork()`: its locks are not made whole in a child.
fn system_lookup(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    for _ in 0..1000 {
        if gate::is_open() {
            return Ok((host, port).to_socket_addrs()?.collect());
        }
        crate::platform::clock::nap(Duration::from_millis(1));
    }
    Err(std::io::Error::other("a fork is under way"))
}

/// Whether that destination takes uploads.
pub fn takes_uploads(config: &Config) -> bool {
    media_of(&endpoint_of(config, &*format_of(config))).is_some()
}

/// Uploads are Langfuse's: beside whichever of its addresses the endpoint is.
fn media_of(endpoint: &Endpoint) -> Option<MediaSettings> {
    let (Endpoint::Http { url } | Endpoint::Unix { url, .. }) = endpoint else { return None };
    let (before, _) = url.path().split_once("/api/public/")?;
    let target = format!("{before}/api/public/media");
    Some(MediaSettings { url: url::Url { target, ..url.clone() } })
}

/// Whatever a collector could say back to us: values of headers with and without the scheme before them, the pair
/// and its second half, keys, and what stands in the query of the URL.
fn secrets_of(config: &Config, sink: &SinkConfig, headers: &[(String, String)]) -> Secrets {
    let target = match &sink.endpoint {
        Endpoint::Http { url } | Endpoint::Unix { url, .. } => url.target.as_str(),
        Endpoint::File { .. } => "",
    };
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let query = query.split('&').filter_map(|part| Some(part.split_once('=')?.1));
    let values =
        headers.iter().flat_map(|(_, value)| [Some(value.as_str()), value.split_once(' ').map(|v| v.1)]);
    let pair = config.basic.as_deref();
    let others = [pair, pair.and_then(|pair| Some(pair.split_once(':')?.1)), config.api_key.as_deref()];
    Secrets::new(values.chain(others).flatten().chain(query).map(String::from))
}

fn settings_of(config: &Config, sink: &SinkConfig) -> Settings {
    let ms = Duration::from_millis;
    let mut headers = config.headers.clone();
    if let Some(pair) = &config.basic {
        headers.push(("Authorization".into(), url::basic(pair)));
    }
    if let Some(token) = &config.bearer {
        headers.push(("Authorization".into(), format!("Bearer {token}")));
    }
    Settings {
        max_events: config.batch.max_events,
        max_bytes: config.batch.max_bytes,
        max_age: ms(config.batch.max_age_ms),
        encoding: match config.compression {
            _ if matches!(sink.endpoint, Endpoint::File { .. }) => Encoding::Plain,
            Compression::None => Encoding::Plain,
            Compression::Gzip => Encoding::Gzip,
            Compression::Zstd => Encoding::Zstd,
        },
        timeout: ms(config.timeout_ms),
        limits: Limits { initial: ms(config.retry.initial_ms), max: ms(config.retry.max_ms) },
        max_event_age: Duration::from_secs(config.retry.max_age_s),
        idle: ms(config.idle_ms),
        dead_letter: config.dead_letter.clone().map(DeadLetter::new),
        rules: Rules::default(),
        spool: config.spool.as_ref().map_or_else(SpoolSettings::default, |keys| SpoolSettings {
            evict: keys.evict == Evict::Oldest,
            sync: keys.sync != Sync::None,
            sync_batch: keys.sync == Sync::Batch,
            max_age: Duration::from_secs(keys.max_age_s),
        }),
        secrets: secrets_of(config, sink, &headers),
        headers,
        media: media_of(&sink.endpoint),
        name: config.name.clone().unwrap_or_else(|| sink.endpoint.to_string()),
        panic: config.test.panic.as_deref() == Some("sender"),
    }
}
