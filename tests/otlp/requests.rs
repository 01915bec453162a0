//! Bodies: their lengths, and requests that come ready.

use super::kit::{BOTH, Logs, Traces, body, decode, event, request};
use prost::Message;
use telemetry::format::Format;
use telemetry::format::otlp::{Encoding, Otlp, Signal};

/// A request of so many records in each of two resources.
fn ready(records: usize, filler: usize) -> Logs {
    let record = format!(r#"{{"body":{{"stringValue":"{}"}}}}"#, "x".repeat(filler));
    let resource = format!(r#"{{"scopeLogs":[{{"logRecords":[{}]}}]}}"#, vec![record; records].join(","));
    serde_json::from_str(&format!(r#"{{"resourceLogs":[{resource},{resource}]}}"#)).unwrap()
}

#[test]
fn lengths_are_right_at_every_size() {
    for encoding in BOTH {
        let format = Otlp::new(Signal::Logs, encoding, &[]);
        for filler in (0..140).chain([16_000, 16_380, 16_384, 300_000, 2_200_000]) {
            let text = format!(r#"{{"m":"{}"}}"#, "x".repeat(filler));
            for events in [1, 2, 3] {
                let logs: Logs = decode(encoding, &body(&format, &vec![text.as_bytes(); events]));
                assert_eq!(logs.resource_logs.len(), 1);
                assert_eq!(logs.resource_logs[0].scope_logs[0].log_records.len(), events);
            }
        }
    }
}

#[test]
fn a_body_of_the_largest_event_is_within_the_limit() {
    for (signal, encoding) in [Signal::Logs, Signal::Traces].into_iter().flat_map(|s| BOTH.map(|e| (s, e))) {
        let format = Otlp::new(signal, encoding, &[]);
        for kind in [0, 1] {
            let limits = format.limits(kind);
            assert_eq!(limits.body, 64 << 20);
            assert!(limits.event + format.overhead(kind, 1, limits.event) <= limits.body);
            assert!(limits.event + 1000 > limits.body);
        }
    }
}

#[test]
fn serialized_requests_are_merged_as_they_are() {
    let format = Otlp::new(Signal::Logs, Encoding::Protobuf, &[]);
    let parts = [ready(1, 3), ready(2, 200)];
    let raw: Vec<Vec<u8>> = parts.iter().map(Message::encode_to_vec).collect();
    let whole = body(&format, &[&raw[0], &raw[1]]);
    assert_eq!(whole, raw.concat());
    let logs: Logs = decode(Encoding::Protobuf, &whole);
    let expected = [&parts[0].resource_logs[..], &parts[1].resource_logs[..]].concat();
    assert_eq!(logs.resource_logs, expected);
}

#[test]
fn json_requests_and_serialized_ones_share_a_body() {
    let format = Otlp::new(Signal::Logs, Encoding::Protobuf, &[]);
    let (one, two) = (ready(1, 3), ready(2, 200));
    let text = serde_json::to_vec(&one).unwrap();
    let logs: Logs = decode(Encoding::Protobuf, &body(&format, &[&text, &two.encode_to_vec()]));
    assert_eq!(logs.resource_logs, [&one.resource_logs[..], &two.resource_logs[..]].concat());
}

#[test]
fn json_requests_are_spliced() {
    let parts = [ready(1, 3), ready(2, 2000)];
    let texts = parts.each_ref().map(|part| serde_json::to_string_pretty(part).unwrap());
    let logs: Logs = request(&[], &[&texts[0], &texts[1]]);
    assert_eq!(logs.resource_logs, [&parts[0].resource_logs[..], &parts[1].resource_logs[..]].concat());
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"n"}"#;
    let whole = format!(r#"{{"more":1,"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
    let traces: Traces = request(&[], &[&whole, &whole]);
    assert_eq!(traces.resource_spans.len(), 2);
}

#[test]
fn a_body_in_json_is_one_line() {
    let format = Otlp::new(Signal::Logs, Encoding::Json, &[]);
    let pretty = serde_json::to_vec_pretty(&ready(2, 3)).unwrap();
    for raw in [&pretty[..], b"{\n \"m\":\n \"a\\nb\"\r\n}"] {
        assert!(!body(&format, &[raw]).iter().any(|b| b.is_ascii_control()));
    }
}

#[test]
fn json_that_begins_like_protobuf_is_json() {
    // A line break is the tag of a request's field, and a brace the length 123.
    let format = Otlp::new(Signal::Logs, Encoding::Protobuf, &[]);
    for filler in 100..130 {
        let text = format!("\n{{\"m\":\"{}\"}}", "x".repeat(filler));
        assert_eq!(event(&format, text.as_bytes()).unwrap().1, 0);
        let bad = format!("\n{{\"severityNumber\":\"{}\"}}", "x".repeat(filler));
        assert!(event(&format, bad.as_bytes()).is_err());
    }
    // And the other way round: a request whose first length is that of a brace.
    for records in 1..20 {
        for filler in 0..100 {
            let raw = ready(records, filler).encode_to_vec();
            assert_eq!(event(&format, &raw).unwrap(), (raw, 1));
        }
    }
}
