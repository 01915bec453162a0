//! Whatever comes, what we write can be read, and is the same in both encodings.

use super::kit::{BOTH, Logs, Traces, body, decode, event};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use proptest::prelude::*;
use serde_json::{Map, Value};
use telemetry::format::otlp::{Encoding, Otlp, Signal};

/// Names that mean something somewhere, among others.
fn name() -> impl Strategy<Value = String> {
    let known = [
        "timestamp",
        "level",
        "severity",
        "message",
        "body",
        "event",
        "name",
        "id",
        "trace_id",
        "span_id",
        "traceId",
        "spanId",
        "parentSpanId",
        "timeUnixNano",
        "observedTimeUnixNano",
        "severityNumber",
        "severityText",
        "attributes",
        "key",
        "value",
        "values",
        "stringValue",
        "intValue",
        "doubleValue",
        "boolValue",
        "bytesValue",
        "arrayValue",
        "kvlistValue",
        "flags",
        "droppedAttributesCount",
        "eventName",
        "resourceLogs",
        "resourceSpans",
        "scopeLogs",
        "scopeSpans",
        "logRecords",
        "spans",
        "resource",
        "scope",
        "schemaUrl",
        "events",
        "links",
        "status",
        "code",
        "kind",
        "traceState",
        "telemetry.event.id",
        "worker",
        "entityRefs",
        "idKeys",
    ];
    prop_oneof![4 => prop::sample::select(known.to_vec()).prop_map(String::from), 1 => any::<String>()]
}

fn scalar() -> impl Strategy<Value = Value> {
    let texts = [
        "5b8efff798038103d269b633813fc60c",
        "eee19b7ec3c1b174",
        "",
        "7",
        "-7",
        "Zm8=",
        "info",
        "2026-11-21T02:29:58.004Z",
        "\u{0}\u{1b}\u{2028}",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..30i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(6, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((name(), json()), 0..10).prop_map(|members| members.into_iter().collect())
}

/// An `AnyValue` in OTLP/JSON.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<String>().prop_map(|v| serde_json::json!({"stringValue": v})),
        any::<bool>().prop_map(|v| serde_json::json!({"boolValue": v})),
        any::<i64>().prop_map(|v| serde_json::json!({"intValue": v})),
        any::<i64>().prop_map(|v| serde_json::json!({"intValue": v.to_string()})),
        (-1e300..1e300f64).prop_map(|v| serde_json::json!({"doubleValue": v})),
        Just(serde_json::json!({"bytesValue": "+/8="})),
        Just(serde_json::json!({})),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let pair =
            (any::<String>(), inner.clone()).prop_map(|(k, v)| serde_json::json!({"key": k, "value": v}));
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(|v| serde_json::json!({"arrayValue": {"values": v}})),
            prop::collection::vec(pair, 0..5).prop_map(|v| serde_json::json!({"kvlistValue": {"values": v}})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_can_be_read(members in object(), traces in any::<bool>()) {
        let text = Value::Object(members).to_string();
        let resource = [("worker".to_string(), Value::from("$pid"))];
        let signal = if traces { Signal::Traces } else { Signal::Logs };
        let formats = BOTH.map(|encoding| Otlp::new(signal, encoding, &resource));
        let [protobuf, json] = formats.each_ref().map(|f| event(f, text.as_bytes()).map(|(_, kind)| kind));
        prop_assert_eq!(&protobuf, &json);
        if protobuf.is_ok() {
            let raw = [text.as_bytes(), text.as_bytes()];
            let [a, b] = formats.each_ref().map(|format| body(format, &raw));
            if traces {
                prop_assert_eq!(decode::<Traces>(Encoding::Protobuf, &a), decode(Encoding::Json, &b));
            } else {
                prop_assert_eq!(decode::<Logs>(Encoding::Protobuf, &a), decode(Encoding::Json, &b));
            }
        }
    }

    #[test]
    fn plain_objects_are_always_taken(members in object()) {
        let decides = |name: &str| ["timeUnixNano", "observedTimeUnixNano", "severityNumber", "body"].contains(&name)
            || name.starts_with("resource");
        let members: Map<_, _> = members.into_iter().filter(|(name, _)| !decides(name)).collect();
        let text = Value::Object(members).to_string();
        for encoding in BOTH {
            prop_assert!(event(&Otlp::new(Signal::Logs, encoding, &[]), text.as_bytes()).is_ok());
        }
    }

    #[test]
    fn values_mean_the_same(body in any_value(), attribute in any_value(), key in any::<String>()) {
        let request = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"timeUnixNano": "7", "body": body, "attributes": [{"key": key, "value": attribute}]}
        ]}]}]}).to_string();
        let theirs: ExportLogsServiceRequest = serde_json::from_str(&request).unwrap();
        prop_assert_eq!(super::kit::request::<Logs>(&[], &[&request]), theirs);
    }

    #[test]
    fn bytes_do_no_harm(raw in prop::collection::vec(any::<u8>(), 0..60), cut in any::<u16>(), with in any::<u8>()) {
        let good = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"5","body":{"arrayValue":{"values":[{"intValue":"7"}]}}}]}]}]}"#;
        let mut changed = good.to_vec();
        changed[usize::from(cut) % good.len()] = with;
        for raw in [&raw[..], &changed, &good[..usize::from(cut) % good.len()]] {
            for encoding in BOTH {
                let format = Otlp::new(Signal::Logs, encoding, &[]);
                if event(&format, raw).is_ok() {
                    let _: Logs = decode(encoding, &body(&format, &[raw]));
                }
            }
        }
    }

    #[test]
    fn damage_to_a_serialized_request_is_seen(body in any_value(), at in any::<usize>(), with in any::<u8>()) {
        let request = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"timeUnixNano": "7", "body": body, "traceId": "5b8efff798038103d269b633813fc60c", "severityText": "é"}
        ]}]}]}).to_string();
        let format = Otlp::new(Signal::Logs, Encoding::Protobuf, &[]);
        let good = event(&format, request.as_bytes()).unwrap().0;
        prop_assert_eq!(event(&format, &good).unwrap(), (good.clone(), 1));
        let at = at % good.len();
        let mut changed = good.clone();
        changed[at] = with;
        for raw in [&changed[..], &good[..at]] {
            if event(&format, raw).is_ok() {
                let _: Logs = decode(Encoding::Protobuf, &super::kit::body(&format, &[raw]));
            }
        }
    }
}
