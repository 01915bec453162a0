//! The format, and the keys that only some formats have a use for.
//!
//! Invariant: a [`Wire`] is complete for its format: a key that the format cannot do without is there.

use super::otel::Signal;
use super::values::Values;
use super::{Compression, ConfigError, keys};
use crate::sink::Endpoint;

/// How a batch becomes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatKind {
    /// One event a line.
    Ndjson,
    /// One array of events.
    Json,
    /// PostHog's batch endpoint.
    Posthog,
    /// PostHog's capture v1.
    PosthogV1,
    /// Langfuse's ingestion.
    Langfuse,
    /// Langfuse's scores.
    LangfuseScores,
    /// OTLP/HTTP, log records.
    OtlpLogs,
    /// OTLP/HTTP, spans.
    OtlpTraces,
    /// Segment's batch endpoint; RudderStack's too.
    Segment,
    /// Sentry's envelopes.
    Sentry,
}

use FormatKind::{
    Json, Langfuse, LangfuseScores, Ndjson, OtlpLogs, OtlpTraces, Posthog, PosthogV1, Segment, Sentry,
};

/// All there are, in the order of the manual.
pub const FORMATS: [FormatKind; 10] =
    [Ndjson, Json, Posthog, PosthogV1, Langfuse, LangfuseScores, OtlpLogs, OtlpTraces, Segment, Sentry];

impl FormatKind {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Ndjson => "ndjson",
            Json => "json",
            Posthog => "posthog",
            PosthogV1 => "posthog-v1",
            Langfuse => "langfuse",
            LangfuseScores => "langfuse-scores",
            OtlpLogs => "otlp-logs",
            OtlpTraces => "otlp-traces",
            Segment => "segment",
            Sentry => "sentry",
        }
    }

    /// Whether it is one of OpenTelemetry's.
    pub fn is_otlp(self) -> bool {
        matches!(self, OtlpLogs | OtlpTraces)
    }

    /// The signal of one that is.
    pub(super) fn signal(self) -> Option<Signal> {
        match self {
            OtlpLogs => Some(Signal::Logs),
            OtlpTraces => Some(Signal::Traces),
            _ => None,
        }
    }

    fn takes_zstd(self) -> bool {
        matches!(self, Ndjson | Json | PosthogV1) || self.is_otlp()
    }
}

/// How OTLP is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// What goes over the wire, as far as it depends on the format.
pub(super) struct Wire {
    pub format: FormatKind,
    pub encoding: Encoding,
    pub api_key: Option<String>,
    pub compression: Compression,
}

impl Wire {
    /// Read them. `user` is the user information of the endpoint's URL; where that is the key of a Sentry DSN it is
    /// taken, and the endpoint becomes the address that the DSN stands for.
    pub fn read(
        values: &Values<'_>,
        format: FormatKind,
        endpoint: &mut Endpoint,
        user: &mut Option<String>,
    ) -> Result<Wire, ConfigError> {
        let mut api_key = super::visible(values.text("api_key")?)?;
        match format {
            Sentry => {
                let from_dsn = dsn(endpoint, user)?;
                api_key = api_key.or(from_dsn);
                if api_key.is_none() && !matches!(endpoint, Endpoint::File { .. }) {
                    return Err(ConfigError::new(
                        "endpoint has no key: for the format sentry it is the DSN, https://KEY@HOST/PROJECT"
                            .into(),
                    ));
                }
            }
            Posthog | PosthogV1 | Segment if api_key.is_none() => {
                let name = format.as_str();
                return Err(ConfigError::new(format!("api_key is missing: the format {name} needs it")));
            }
            _ => {}
        }
        let encoding = encoding(values, format, endpoint)?;
        Ok(Wire { format, encoding, api_key, compression: compression(values, format)? })
    }
}

/// The format of the configuration.
pub(super) fn kind(values: &Values<'_>) -> Result<FormatKind, ConfigError> {
    let word = values.choice("format")?.value;
    Ok(FORMATS.into_iter().find(|format| format.as_str() == word).unwrap_or(Ndjson))
}

fn encoding(values: &Values<'_>, format: FormatKind, endpoint: &Endpoint) -> Result<Encoding, ConfigError> {
    let given = values.choice("encoding")?;
    // Lines can be read and cut at any place; a file of protobuf cannot.
    let file = format.is_otlp() && matches!(endpoint, Endpoint::File { .. });
    match given.value {
        "json" => Ok(Encoding::Json),
        _ if file && given.set => Err(given.refuse_as(given.value, "endpoint is a file, which holds JSON")),
        _ if file => Ok(Encoding::Json),
        _ => Ok(Encoding::Protobuf),
    }
}

fn compression(values: &Values<'_>, format: FormatKind) -> Result<Compression, ConfigError> {
    let given = values.choice("compression")?;
    match given.value {
        "none" => Ok(Compression::None),
        "zstd" if !format.takes_zstd() => {
            let why = format!("the format {} does not take it", format.as_str());
            Err(given.refuse_as("zstd", &why))
        }
        "zstd" => Ok(Compression::Zstd),
        _ => Ok(Compression::Gzip),
    }
}

/// Take a DSN apart: `https://KEY@HOST/PREFIX/PROJECT` is `https://HOST/PREFIX/api/PROJECT/envelope/` with that key. An
/// address that already ends in `/envelope/` is left as it is. The key that was found.
fn dsn(endpoint: &mut Endpoint, user: &mut Option<String>) -> Result<Option<String>, ConfigError> {
    let (Endpoint::Http { url } | Endpoint::Unix { url, .. }) = &mut *endpoint else { return Ok(None) };
    let path = url.path().trim_end_matches('/').to_string();
    if !path.ends_with("/envelope") {
        let (prefix, project) = path.rsplit_once('/').unwrap_or(("", &path));
        if project.is_empty() || !project.bytes().all(|b| b.is_ascii_digit()) {
            let why = format!(
                "endpoint is {endpoint}, without a project at its end; for the format sentry it is the DSN, \
                 https://KEY@HOST/PROJECT"
            );
            return Err(ConfigError::new(why));
        }
        url.target = format!("{prefix}/api/{project}/envelope/");
    }
    // An old DSN has a secret behind the key, which nobody asks for any more.
    let key = user.take().map(|user| user.split(':').next().unwrap_or_default().to_string());
    let fine = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
    match key {
        Some(key) if !fine(&key) => {
            let allowed = keys::find("endpoint").map(|key| key.allowed()).unwrap_or_default();
            Err(ConfigError::new(format!(
                "endpoint is ***: a DSN's key is letters and digits; allowed: {allowed}"
            )))
        }
        key => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(json: &str) -> Result<Config, ConfigError> {
        Config::parse(json, |_| None)
    }

    fn bad(json: &str, parts: &[&str]) {
        let text = parse(json).map(|_| ()).expect_err(json).to_string();
        for part in parts {
            assert!(text.contains(part), "{json}: {part:?} is not in {text:?}");
        }
    }

    #[test]
    fn each_word_is_its_format() {
        for format in FORMATS {
            let json = format!(r#"{{"format":"{}","api_key":"k"}}"#, format.as_str());
            assert_eq!(parse(&json).unwrap().format, format);
        }
    }

    #[test]
    fn some_formats_need_a_key() {
        for format in ["posthog", "posthog-v1", "segment"] {
            bad(&format!(r#"{{"format":"{format}"}}"#), &["api_key is missing", format]);
        }
        assert!(parse(r#"{"format":"langfuse"}"#).is_ok());
    }

    #[test]
    fn a_dsn_is_taken_apart() {
        for (dsn, url) in [
            ("https://k3y@h/12", "https://h/api/12/envelope/"),
            ("https://k3y:old@h:9/a/b/12/", "https://h:9/a/b/api/12/envelope/"),
            ("http://k3y@h/api/1/envelope/", "http://h/api/1/envelope/"),
        ] {
            let config = parse(&format!(r#"{{"format":"sentry","endpoint":"{dsn}"}}"#)).unwrap();
            assert_eq!(config.endpoint.to_string(), url);
            assert_eq!((config.api_key.as_deref(), &config.basic), (Some("k3y"), &None));
        }
        bad(r#"{"format":"sentry","endpoint":"https://h/1"}"#, &["no key", "DSN"]);
        bad(r#"{"format":"sentry","endpoint":"https://k@h/"}"#, &["without a project", "https://h/"]);
        bad(r#"{"format":"sentry","endpoint":"https://k-!@h/1"}"#, &["letters and digits"]);
        assert!(parse(r#"{"format":"sentry","endpoint":"http://h/1","api_key":"k"}"#).is_ok());
        // Elsewhere a user is a user.
        let plain = parse(r#"{"endpoint":"https://k:s@h/1"}"#).unwrap();
        assert_eq!((plain.basic.as_deref(), plain.api_key), (Some("k:s"), None));
    }

    #[test]
    fn zstd_and_encoding_where_they_are_taken() {
        assert_eq!(parse(r#"{"compression":"zstd"}"#).unwrap().compression, Compression::Zstd);
        bad(r#"{"compression":"zstd","format":"langfuse"}"#, &["compression is", "zstd", "langfuse", "gzip"]);
        let otlp = |more: &str| parse(&format!(r#"{{"format":"otlp-logs"{more}}}"#));
        assert_eq!(otlp("").unwrap().encoding, Encoding::Json, "a file");
        assert_eq!(otlp(r#","endpoint":"http://h""#).unwrap().encoding, Encoding::Protobuf);
        bad(r#"{"format":"otlp-logs","encoding":"protobuf"}"#, &["encoding is", "protobuf", "file"]);
        assert_eq!(otlp(r#","endpoint":"http://h","encoding":"json""#).unwrap().encoding, Encoding::Json);
    }
}
