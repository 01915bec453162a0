//! What OpenTelemetry's own variables say for the keys of an otlp format.
//!
//! | variable | key |
//! | --- | --- |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | `endpoint`, with `v1/logs` or `v1/traces` appended to its path |
//! | `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT`, `..._TRACES_ENDPOINT` | `endpoint` as it is, also without a path |
//! | `..._HEADERS` | `headers`: `name=value,name=value`, values percent-decoded |
//! | `..._TIMEOUT` | `timeout_ms`, see [`timeout`] |
//! | `..._COMPRESSION` | `compression` |
//! | `..._PROTOCOL` | `encoding`: `http/protobuf` or `http/json` |
//! | `..._CERTIFICATE`, `..._CLIENT_CERTIFICATE`, `..._CLIENT_KEY` | `tls.ca_file`, `tls.cert_file`, `tls.key_file` |
//! | `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME` | attributes of the resource of plain records |
//!
//! Invariants:
//! - Each has a form for the signal (`OTEL_EXPORTER_OTLP_LOGS_...`), which comes before the general one. An empty
//!   variable is as if absent.
//! - They are asked only for what neither the JSON nor `TELEMETRY_<KEY>` says, key by key, so that one which is
//!   meant for somebody else can always be overruled.
//! - A value is handed on in the form of `TELEMETRY_<KEY>`, and checked as that is. What cannot be understood is an
//!   error that names the variable: the specification would have it ignored with a warning, which on a server nobody
//!   sees.
//! - A file has no protocol: for such an endpoint only the attributes are asked for.
//! - No error shows a header.

use super::ConfigError;
use super::json::shown;

/// Which signal's variables are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Logs,
    Traces,
}

/// The variables whose URL is used as it is, even without a path.
pub(super) const OWN_ENDPOINTS: &[&str] =
    &["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// A value, and the variable it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Supplied {
    pub value: String,
    pub variable: String,
}

/// What `env` says for `key`, in the form of the key's own variable.
pub(super) fn supply(
    env: &dyn Fn(&str) -> Option<String>,
    signal: Signal,
    key: &str,
) -> Result<Option<Supplied>, ConfigError> {
    let what = match key {
        "endpoint" => "ENDPOINT",
        "headers" => "HEADERS",
        "timeout_ms" => "TIMEOUT",
        "compression" => "COMPRESSION",
        "encoding" => "PROTOCOL",
        "tls.ca_file" => "CERTIFICATE",
        "tls.cert_file" => "CLIENT_CERTIFICATE",
        "tls.key_file" => "CLIENT_KEY",
        _ => return Ok(None),
    };
    let (infix, path) = match signal {
        Signal::Logs => ("LOGS_", "v1/logs"),
        Signal::Traces => ("TRACES_", "v1/traces"),
    };
    for infix in [infix, ""] {
        let variable = format!("OTEL_EXPORTER_OTLP_{infix}{what}");
        let Some(given) = env(&variable).filter(|value| !value.is_empty()) else { continue };
        let value = match key {
            "endpoint" => endpoint(&variable, &given, infix.is_empty().then_some(path))?,
            "headers" => headers(&variable, &given)?,
            "timeout_ms" => timeout(&given),
            "compression" => given.trim().to_ascii_lowercase(),
            "encoding" => encoding(&variable, &given)?,
            _ => given,
        };
        return Ok(Some(Supplied { value, variable }));
    }
    Ok(None)
}

/// A URL, with `more` behind its path.
fn endpoint(variable: &str, given: &str, more: Option<&str>) -> Result<String, ConfigError> {
    let scheme = given.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        // The URL may hold a password.
        return Err(ConfigError::new(format!(
            "{variable} (key endpoint) is no http:// or https:// address; for another one set TELEMETRY_ENDPOINT"
        )));
    }
    let Some(more) = more else { return Ok(given.to_string()) };
    let (url, query) = given.split_at(given.find(['?', '#']).unwrap_or(given.len()));
    Ok(format!("{}/{more}{query}", url.strip_suffix('/').unwrap_or(url)))
}

/// As the object of JSON that the key is. Of a header that is there twice the last one counts.
fn headers(variable: &str, given: &str) -> Result<String, ConfigError> {
    let pairs = pairs(given).map_err(|why| {
        ConfigError::new(format!("{variable} (key headers) is ***: {why}; allowed: name=value,name=value"))
    })?;
    let mut object = serde_json::Map::new();
    for (name, value) in pairs {
        object.insert(name.to_ascii_lowercase(), value.into());
    }
    Ok(serde_json::Value::Object(object).to_string())
}

/// Milliseconds, as the specification has it. But OpenTelemetry's SDK for Python takes seconds, also with a fraction:
/// what can only be meant so is taken so, which is a fraction, and what as milliseconds would let no request through,
/// a number below 100. 0 is no limit, which is the longest one here. Anything else is left for the key's own check.
fn timeout(given: &str) -> String {
    const NONE_MS: u64 = 3_600_000;
    let given = given.trim();
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    if let Some((whole, fraction)) = given.split_once('.') {
        let padded = format!("{fraction:0<3}");
        let ms = padded.get(..3).and_then(number);
        let rest = padded.get(3..).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        return match (number(whole), ms) {
            (Some(0), Some(0)) if rest => NONE_MS.to_string(),
            (Some(s), Some(ms)) if rest => s.saturating_mul(1000).saturating_add(ms).to_string(),
            _ => given.to_string(),
        };
    }
    match number(given) {
        Some(0) => NONE_MS.to_string(),
        Some(seconds @ 1..100) => (seconds * 1000).to_string(),
        _ => given.to_string(),
    }
}

fn encoding(variable: &str, given: &str) -> Result<String, ConfigError> {
    match given.trim().to_ascii_lowercase().as_str() {
        "http/protobuf" => Ok("protobuf".into()),
        "http/json" => Ok("json".into()),
        word => {
            let why = if word == "grpc" { ": gRPC is not spoken here" } else { "" };
            Err(ConfigError::new(format!(
                "{variable} (key encoding) is {}{why}; allowed: http/protobuf or http/json, or set the key encoding or \
                 TELEMETRY_ENCODING, which come first",
                shown(given)
            )))
        }
    }
}

/// Attributes of the resource of plain records. `OTEL_SERVICE_NAME` comes before a `service.name` among the others.
pub(super) fn resource(env: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, ConfigError> {
    const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let given = |name: &str| env(name).filter(|value| !value.is_empty());
    let text = given(ATTRIBUTES).unwrap_or_default();
    let mut all: Vec<(String, String)> = Vec::new();
    let named = given("OTEL_SERVICE_NAME").map(|name| ("service.name".to_string(), name));
    let list = pairs(&text).map_err(|why| {
        ConfigError::new(format!("{ATTRIBUTES} is {}: {why}; allowed: key=value,key=value", shown(&text)))
    })?;
    for (key, value) in list.into_iter().chain(named) {
        let key = decoded(&key).ok_or_else(|| {
            ConfigError::new(format!("{ATTRIBUTES} is {}: a key is not UTF-8", shown(&text)))
        })?;
        all.retain(|(other, _)| *other != key);
        all.push((key, value));
    }
    Ok(all)
}

/// `name=value,name=value` with decoded values; white space around either is not part of it.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or("a part of it has no =")?;
        if name.trim().is_empty() {
            return Err("a name in it is empty");
        }
        let value = decoded(value.trim()).ok_or("a value in it is not UTF-8")?;
        found.push((name.trim().to_string(), value));
    }
    Ok(found)
}

/// Percent-decoded. A percent sign that begins no code stands for itself: many write values as they are.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|b| (*b as char).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = after.get(2..)?;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Compression, Config, Encoding};
    use super::*;

    const BASE: &str = "OTEL_EXPORTER_OTLP_";

    fn asked(vars: &[(&str, &str)], signal: Signal, key: &str) -> Result<Option<Supplied>, ConfigError> {
        let env = |name: &str| {
            vars.iter().find(|(n, _)| name == format!("{BASE}{n}")).map(|(_, value)| value.to_string())
        };
        supply(&env, signal, key)
    }

    fn said(vars: &[(&str, &str)], signal: Signal, key: &str) -> String {
        asked(vars, signal, key).unwrap().unwrap().value
    }

    fn refused(vars: &[(&str, &str)], key: &str, parts: &[&str]) {
        let text = asked(vars, Signal::Logs, key).unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn the_signals_own_comes_first() {
        let vars = [
            ("COMPRESSION", "gzip"),
            ("LOGS_COMPRESSION", " None "),
            ("TRACES_COMPRESSION", ""),
            ("CLIENT_KEY", "k"),
            ("TRACES_CLIENT_KEY", "tk"),
        ];
        let of = |signal, key| asked(&vars, signal, key).unwrap().map(|s| (s.value, s.variable));
        let pair = |value: &str, variable: &str| Some((value.to_string(), format!("{BASE}{variable}")));
        assert_eq!(of(Signal::Logs, "compression"), pair("none", "LOGS_COMPRESSION"));
        assert_eq!(of(Signal::Traces, "compression"), pair("gzip", "COMPRESSION"));
        assert_eq!(of(Signal::Logs, "tls.key_file"), pair("k", "CLIENT_KEY"));
        assert_eq!(of(Signal::Traces, "tls.key_file"), pair("tk", "TRACES_CLIENT_KEY"));
        assert_eq!(of(Signal::Logs, "tls.ca_file"), None);
        assert_eq!(of(Signal::Logs, "queue_bytes"), None);
        assert_eq!(said(&[("CERTIFICATE", "/ca.pem")], Signal::Logs, "tls.ca_file"), "/ca.pem");
        assert_eq!(said(&[("CLIENT_CERTIFICATE", "c")], Signal::Logs, "tls.cert_file"), "c");
    }

    #[test]
    fn endpoints() {
        for (base, logs) in [
            ("http://c:4318", "http://c:4318/v1/logs"),
            ("http://c:4318/", "http://c:4318/v1/logs"),
            ("HTTPS://c", "HTTPS://c/v1/logs"),
            ("http://c:4318/mycollector", "http://c:4318/mycollector/v1/logs"),
            ("http://c:4318/mycollector/", "http://c:4318/mycollector/v1/logs"),
            ("http://c/a?key=x/y", "http://c/a/v1/logs?key=x/y"),
            ("http://c?key=x", "http://c/v1/logs?key=x"),
        ] {
            assert_eq!(said(&[("ENDPOINT", base)], Signal::Logs, "endpoint"), logs);
            let traces = logs.replace("logs", "traces");
            assert_eq!(said(&[("ENDPOINT", base)], Signal::Traces, "endpoint"), traces);
        }
        for own in ["https://c/v1/logs", "https://c/v1/logs/", "http://c:4318", "http://c?key=/x"] {
            let vars = [("ENDPOINT", "http://other"), ("LOGS_ENDPOINT", own)];
            assert_eq!(said(&vars, Signal::Logs, "endpoint"), own);
            assert_eq!(said(&vars, Signal::Traces, "endpoint"), "http://other/v1/traces");
        }
        for bad in ["collector:4317", "user:secret@c", "file:/x", "grpc://c", "http:/c", "/v1/logs"] {
            refused(&[("ENDPOINT", bad)], "endpoint", &["OTEL_EXPORTER_OTLP_ENDPOINT", "http://"]);
            let text = asked(&[("ENDPOINT", bad)], Signal::Logs, "endpoint").unwrap_err().to_string();
            assert!(!text.contains("secret"));
        }
    }

    #[test]
    fn headers_are_decoded() {
        for (given, json) in [
            ("a=b", r#"{"a":"b"}"#),
            (" api-key = k%20v , b=c=d== ,,", r#"{"api-key":"k v","b":"c=d=="}"#),
            ("Authorization=Basic dTpw", r#"{"authorization":"Basic dTpw"}"#),
            ("a=1,A=2", r#"{"a":"2"}"#),
            ("a=100%,b=%zz%C3%a9%2", r#"{"a":"100%","b":"%zzé%2"}"#),
            ("a=", r#"{"a":""}"#),
            ("a=%22%2C", r#"{"a":"\","}"#),
            (",", "{}"),
        ] {
            assert_eq!(said(&[("HEADERS", given)], Signal::Traces, "headers"), json, "{given}");
        }
        for (bad, why) in [("secret", "no ="), ("=secret", "empty"), ("a=%ffsecret", "UTF-8")] {
            refused(&[("LOGS_HEADERS", bad)], "headers", &["OTEL_EXPORTER_OTLP_LOGS_HEADERS", why]);
            let text = asked(&[("HEADERS", bad)], Signal::Logs, "headers").unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn timeouts_of_both_kinds() {
        for (given, ms) in [
            ("10000", "10000"),
            ("500", "500"),
            ("100", "100"),
            ("99", "99000"),
            ("10", "10000"),
            (" 1 ", "1000"),
            ("7.5", "7500"),
            ("0.25", "250"),
            ("120.0", "120000"),
            ("1.0009", "1000"),
            ("0", "3600000"),
            ("0.0", "3600000"),
            ("99999999999999999999", "99999999999999999999"),
            ("-1", "-1"),
            ("+10", "+10"),
            ("10s", "10s"),
            ("1.5s", "1.5s"),
            ("1.50x9", "1.50x9"),
            (".5", ".5"),
            ("1.é", "1.é"),
        ] {
            assert_eq!(said(&[("TIMEOUT", given)], Signal::Logs, "timeout_ms"), ms, "{given}");
        }
    }

    #[test]
    fn protocols() {
        for (given, encoding) in [("http/protobuf", "protobuf"), ("HTTP/JSON", "json")] {
            assert_eq!(said(&[("PROTOCOL", given)], Signal::Logs, "encoding"), encoding);
        }
        refused(
            &[("PROTOCOL", "grpc")],
            "encoding",
            &["OTEL_EXPORTER_OTLP_PROTOCOL", "gRPC", "http/protobuf"],
        );
        refused(&[("LOGS_PROTOCOL", "http")], "encoding", &["LOGS_PROTOCOL", "\"http\"", "http/json"]);
    }

    #[test]
    fn resource_attributes() {
        let of = |vars: &[(&str, &str)]| {
            let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
            resource(&env)
        };
        let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
        assert_eq!(of(&[]).unwrap(), []);
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,k%2C= v%20w ,k=1,deployment=x%3Dy,");
        assert_eq!(
            of(&[attributes]).unwrap(),
            [pair("service.name", "a"), pair("k,", "v w"), pair("k", "1"), pair("deployment", "x=y")]
        );
        let all = of(&[attributes, ("OTEL_SERVICE_NAME", "b%20c")]).unwrap();
        assert_eq!(all.last().unwrap(), &pair("service.name", "b%20c"), "a name is taken as it is");
        assert_eq!(all.len(), 4);
        assert_eq!(of(&[("OTEL_SERVICE_NAME", "")]).unwrap(), []);
        for bad in ["novalue", "=x", "a=%ff", "%ff=a"] {
            let text = of(&[("OTEL_RESOURCE_ATTRIBUTES", bad)]).unwrap_err().to_string();
            assert!(text.contains("OTEL_RESOURCE_ATTRIBUTES") && text.contains(bad), "{text}");
        }
    }

    fn parsed(json: &str, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(json, |name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn they_stand_behind_everything_else() {
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318/base"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k%20v"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7.5"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/cert"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("TELEMETRY_ENCODING", "protobuf"),
        ];
        let config = parsed(r#"{"format":"otlp-traces","timeout_ms":50}"#, &vars).unwrap();
        assert_eq!(config.endpoint.to_string(), "https://c:4318/base/v1/traces");
        assert_eq!(config.headers, [("api-key".to_string(), "k v".to_string())]);
        assert_eq!((config.timeout_ms, config.encoding), (50, Encoding::Protobuf), "said elsewhere");
        assert_eq!(config.compression, Compression::None);
        let paths = [config.tls.ca_file, config.tls.cert_file, config.tls.key_file];
        assert_eq!(paths.map(|path| path.unwrap().display().to_string()), ["/ca", "/cert", "/key"]);
        assert_eq!(config.otel_resource, [("service.name".to_string(), "shop".to_string())]);
        let logs = parsed(r#"{"format":"otlp-logs","headers":{}}"#, &vars).unwrap();
        assert_eq!((logs.timeout_ms, logs.compression), (7500, Compression::Gzip));
        assert_eq!(logs.headers, []);
        // Other formats know nothing of all that.
        let other = parsed(r#"{"format":"ndjson"}"#, &vars[..9]).unwrap();
        assert_eq!(other, parsed(r#"{"format":"ndjson"}"#, &[]).unwrap());
    }

    #[test]
    fn what_they_say_is_checked() {
        let bad = |variable: &str, value: &str, parts: &[&str]| {
            let vars = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), (variable, value)];
            let text = parsed(r#"{"format":"otlp-logs"}"#, &vars).map(|_| ()).expect_err(value).to_string();
            for part in [&[variable][..], parts].concat() {
                assert!(text.contains(part), "{part:?} is not in {text:?}");
            }
        };
        bad("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", &["timeout_ms", "10s", "integer"]);
        bad("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", &["compression", "gzip"]);
        bad("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", &["encoding", "http/protobuf"]);
        bad("OTEL_EXPORTER_OTLP_HEADERS", "a b=c", &["headers"]);
        bad("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://", &["endpoint"]);
        bad("OTEL_RESOURCE_ATTRIBUTES", "x", &["no ="]);
        // Meant for somebody else, and overruled.
        let vars = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317")];
        let json = r#"{"format":"otlp-logs","endpoint":"http://h","encoding":"json"}"#;
        assert_eq!(parsed(json, &vars).unwrap().encoding, Encoding::Json);
    }

    #[test]
    fn a_file_has_no_protocol() {
        let vars = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k"),
            ("OTEL_SERVICE_NAME", "shop"),
        ];
        let config = parsed(r#"{"format":"otlp-logs","endpoint":"file:x"}"#, &vars).unwrap();
        assert_eq!((config.encoding, config.headers.len(), config.tls.key_file), (Encoding::Json, 0, None));
        assert_eq!(config.otel_resource.len(), 1);
    }

    #[test]
    fn only_a_signals_own_url_is_left_without_a_path() {
        let json = r#"{"format":"otlp-logs"}"#;
        let as_is = |vars: &[(&str, &str)], json: &str| parsed(json, vars).unwrap().endpoint_as_is;
        assert!(as_is(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c:4318")], json));
        assert!(!as_is(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], json));
        assert!(!as_is(&[("TELEMETRY_ENDPOINT", "http://c:4318")], json));
        assert!(!as_is(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318")], json));
        let given = r#"{"format":"otlp-logs","endpoint":"http://h"}"#;
        assert!(!as_is(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c:4318")], given));
    }
}
