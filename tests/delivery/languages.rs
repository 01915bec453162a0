//! The formats, as far as a test of all of them must know each: an event of it, and a plain success.
use crate::collector::{Reply, Seen};
use serde_json::{Value, json};

/// The ids of a test's events.
pub const IDS: [&str; 3] = [
    "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
    "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f11",
    "0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f12",
];

/// The formats in which events bring or get an id that is theirs alone, and a time.
pub const LANGUAGES: [&str; 8] =
    ["ndjson", "json", "posthog", "posthog-v1", "langfuse", "langfuse-scores", "segment", "sentry"];
/// OpenTelemetry's: here log records as JSON, and spans as protobuf.
pub const OTLP: [&str; 2] = ["otlp-logs", "otlp-traces"];

/// The keys that open a client of it, with short pauses.
pub fn keys(format: &str) -> Value {
    let mut keys = json!({"format": format, "retry": {"initial_ms": 1, "max_ms": 50}});
    match format {
        "posthog" | "posthog-v1" | "segment" | "sentry" => keys["api_key"] = json!("k3y"),
        "langfuse" | "langfuse-scores" => keys["basic"] = json!("pk:sk"),
        "otlp-logs" => keys["encoding"] = json!("json"),
        _ => {}
    }
    keys
}

/// Where its collector is: a Sentry project has a number.
pub fn address(format: &str, url: &str) -> String {
    if format == "sentry" { format!("{url}/7") } else { url.into() }
}

/// An event whose text has that id somewhere, by which the service calls it if it has names for events at all.
pub fn event(format: &str, id: &str) -> String {
    let event = match format {
        "posthog" | "posthog-v1" => json!({"event": "e", "distinct_id": "d", "uuid": id}),
        "langfuse" => json!({"id": id, "type": "t", "body": {}}),
        "langfuse-scores" => json!({"id": id, "name": "n", "value": 1}),
        "segment" => json!({"messageId": id, "type": "track", "userId": "u"}),
        "sentry" => json!({"type": "log", "level": "info", "body": id}),
        "otlp-logs" => json!({"timeUnixNano": "1795228198004000000", "body": {"stringValue": id}}),
        "otlp-traces" => json!({
            "traceId": "5b8efff798038103d269b633813fc60c",
            "spanId": "eee19b7ec3c1b174",
            "name": id,
            "startTimeUnixNano": "1795228198004000000",
            "endTimeUnixNano": "1795228198005000000",
        }),
        _ => json!({"id": id}),
    };
    event.to_string()
}

/// Which of `IDS` are in a request, in its order.
pub fn ids(request: &Seen) -> Vec<usize> {
    let at = |id: &str| request.body.windows(id.len()).position(|part| part == id.as_bytes());
    let mut found: Vec<(usize, usize)> =
        IDS.iter().enumerate().filter_map(|(n, id)| Some((at(id)?, n))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, n)| n).collect()
}

/// All were taken.
pub fn success(format: &str) -> Reply {
    let body = match format {
        "posthog-v1" => r#"{"results":{}}"#,
        "langfuse" => return Reply::Full(207, String::new(), r#"{"successes":[],"errors":[]}"#.into()),
        _ => return Reply::Status(200),
    };
    Reply::Full(200, String::new(), body.into())
}
