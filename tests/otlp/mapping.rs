//! What a plain object becomes, and what a record gets from us.

use super::kit::{ID, Logs, NOW, Traces, any, attribute, log, request, text};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::json;
use telemetry::format::otlp::EVENT_ID;

fn attributes(list: &[(&str, &str)]) -> Vec<KeyValue> {
    list.iter()
        .map(|(k, v)| KeyValue { key: (*k).into(), value: Some(text(v)), ..Default::default() })
        .collect()
}

#[test]
fn the_table() {
    assert_eq!(
        log(
            r#"{"timestamp":"2026-11-21T03:29:58.5+01:00","level":"warning","message":"m","event":"e","id":"mine",
            "trace_id":"5b8efff798038103d269b633813fc60c","span_id":"EEE19B7EC3C1B174","k":"v"}"#
        ),
        LogRecord {
            time_unix_nano: 1_795_228_198_500_000_000,
            observed_time_unix_nano: NOW,
            severity_number: 13,
            severity_text: "warning".into(),
            body: Some(text("m")),
            attributes: attributes(&[(EVENT_ID, "mine"), ("k", "v")]),
            dropped_attributes_count: 0,
            flags: 0,
            trace_id: 0x5b8e_fff7_9803_8103_d269_b633_813f_c60c_u128.to_be_bytes().to_vec(),
            span_id: 0xeee1_9b7e_c3c1_b174_u64.to_be_bytes().to_vec(),
            event_name: "e".into(),
        }
    );
}

#[test]
fn an_empty_object_has_a_time_and_an_id() {
    let expected = LogRecord {
        time_unix_nano: NOW,
        observed_time_unix_nano: NOW,
        attributes: attributes(&[(EVENT_ID, ID)]),
        ..Default::default()
    };
    assert_eq!(log("{}"), expected);
    assert_eq!(log(r#"{"message":null,"x":null,"id":null,"level":null}"#), expected);
}

#[test]
fn what_does_not_fit_is_an_attribute() {
    for (event, key, value) in [
        (r#"{"timestamp":1795228198}"#, "timestamp", Value::IntValue(1_795_228_198)),
        (r#"{"timestamp":"yesterday"}"#, "timestamp", Value::StringValue("yesterday".into())),
        (r#"{"level":30}"#, "level", Value::IntValue(30)),
        (r#"{"level":""}"#, "level", Value::StringValue(String::new())),
        (r#"{"trace_id":"5b8e"}"#, "trace_id", Value::StringValue("5b8e".into())),
        (r#"{"span_id":7}"#, "span_id", Value::IntValue(7)),
        (r#"{"event":{}}"#, "event", Value::KvlistValue(KeyValueList::default())),
        (r#"{"id":[]}"#, "id", Value::ArrayValue(ArrayValue::default())),
    ] {
        let record = log(event);
        assert_eq!(attribute(&record.attributes, key), Some(&value), "{event}");
        assert_eq!(record.attributes.len(), 2, "and the id");
        assert_eq!((record.time_unix_nano, record.severity_number), (NOW, 0));
        assert!(record.event_name.is_empty() && record.trace_id.is_empty() && record.span_id.is_empty());
    }
}

#[test]
fn the_first_name_of_a_row_wins_and_the_others_stay() {
    let record = log(
        r#"{"body":"b","msg":"s","message":"m","name":"n","event":7,"level":"info","severity":"no such","spanId":"eee19b7ec3c1b174"}"#,
    );
    assert_eq!(record.body, Some(text("m")));
    assert_eq!(
        (&record.event_name[..], &record.severity_text[..], record.severity_number),
        ("n", "no such", 0)
    );
    assert_eq!(record.span_id.len(), 8);
    let keys: Vec<_> = record.attributes.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!(keys, ["body", "msg", "event", "level", EVENT_ID]);
}

#[test]
fn values_of_every_kind() {
    let record = log(
        r#"{"body":{"s":"x","list":[1,-1,1.5,true,null,[],{}]},"big":18446744073709551615,"huge":1e300,"min":-9223372036854775808}"#,
    );
    let list = [Value::IntValue(1), Value::IntValue(-1), Value::DoubleValue(1.5), Value::BoolValue(true)];
    let mut list: Vec<_> = list.into_iter().map(any).collect();
    list.push(Default::default());
    list.push(any(Value::ArrayValue(ArrayValue::default())));
    list.push(any(Value::KvlistValue(KeyValueList::default())));
    let pair = |key: &str, value| KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() };
    let values = vec![
        pair("s", Value::StringValue("x".into())),
        pair("list", Value::ArrayValue(ArrayValue { values: list })),
    ];
    assert_eq!(record.body, Some(any(Value::KvlistValue(KeyValueList { values }))));
    let big = Value::StringValue("18446744073709551615".into());
    assert_eq!(attribute(&record.attributes, "big"), Some(&big));
    assert_eq!(attribute(&record.attributes, "huge"), Some(&Value::DoubleValue(1e300)));
    assert_eq!(attribute(&record.attributes, "min"), Some(&Value::IntValue(i64::MIN)));
}

#[test]
fn halves_of_surrogates_do_not_cost_the_event() {
    let record = log(r#"{"message":"caf\udce9","\ud800":"\ud83d\ude00"}"#);
    assert_eq!(record.body, Some(text("caf\u{fffd}")));
    assert_eq!(attribute(&record.attributes, "\u{fffd}"), Some(&Value::StringValue("\u{1f600}".into())));
}

#[test]
fn a_member_of_the_events_own_wins() {
    let mine = format!(r#"{{"id":7,"{EVENT_ID}":"mine","process.pid":"none"}}"#);
    let resource = [("process.pid".to_string(), json!("$pid"))];
    let logs: Logs = request(&resource, &[&mine]);
    let attributes = &logs.resource_logs[0].scope_logs[0].log_records[0].attributes;
    assert_eq!(attribute(attributes, EVENT_ID), Some(&Value::StringValue("mine".into())));
    assert_eq!(attribute(attributes, "id"), Some(&Value::IntValue(7)));
    assert_eq!(attribute(attributes, "process.pid"), Some(&Value::StringValue("none".into())));
    assert_eq!(attributes.len(), 3);
}

#[test]
fn a_log_record_of_otlp_keeps_what_it_has() {
    // Each of these alone says that it is one.
    for event in [
        r#"{"timeUnixNano":"5","level":"x"}"#,
        r#"{"observedTimeUnixNano":"5"}"#,
        r#"{"severityNumber":9}"#,
        r#"{"body":{"stringValue":"b"}}"#,
        r#"{"attributes":null,"severityNumber":9}"#,
        r#"{"attributes":[],"severityNumber":9}"#,
    ] {
        let record = log(event);
        assert_eq!(record.attributes, attributes(&[(EVENT_ID, ID)]), "{event}");
        let observed = if event.contains("observed") { 5 } else { NOW };
        assert_eq!(record.observed_time_unix_nano, observed, "{event}");
        assert_eq!(record.time_unix_nano, if event.contains("timeUnix") { 5 } else { 0 }, "{event}");
    }
    let named = format!(
        r#"{{"timeUnixNano":"5","attributes":[{{"value":{{"kvlistValue":{{"values":[{{"key":"x"}}]}}}},"key":"a"}},
            {{"value":{{"stringValue":"mine"}},"key":"{EVENT_ID}"}}],"eventName":"n"}}"#
    );
    let record = log(&named);
    assert_eq!(record.attributes.len(), 2);
    assert_eq!(attribute(&record.attributes, EVENT_ID), Some(&Value::StringValue("mine".into())));
    // A key of that name further down is another one's.
    let deeper = format!(
        r#"{{"timeUnixNano":"5","attributes":[{{"key":"a","value":{{"kvlistValue":{{"values":[{{"key":"{EVENT_ID}"}}]}}}}}}]}}"#
    );
    assert_eq!(attribute(&log(&deeper).attributes, EVENT_ID), Some(&Value::StringValue(ID.into())));
}

#[test]
fn resource_and_scope() {
    let resource = [
        ("service.name".to_string(), json!("shop")),
        ("nothing".into(), json!(null)),
        ("telemetry.sdk.version".into(), json!(7)),
        ("worker".into(), json!("$pid")),
        ("gen".into(), json!("$generation")),
        ("nested".into(), json!({"a":[1]})),
    ];
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"n",
        "events":[{"attributes":[{"key":"worker","value":{"intValue":1}}]}]}"#;
    let traces: Traces = request(&resource, &[span, span]);
    assert_eq!(traces.resource_spans.len(), 1);
    let of = &traces.resource_spans[0];
    let list = &of.resource.as_ref().unwrap().attributes;
    let keys: Vec<_> = list.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!(
        keys,
        ["telemetry.sdk.name", "telemetry.sdk.language", "service.name", "telemetry.sdk.version", "nested"]
    );
    assert_eq!(attribute(list, "telemetry.sdk.version"), Some(&Value::IntValue(7)));
    let scope = &of.scope_spans[0];
    assert_eq!(scope.scope.as_ref().unwrap().name, "libtelemetry");
    assert_eq!(scope.spans.len(), 2);
    for span in &scope.spans {
        assert_eq!(attribute(&span.attributes, "worker"), Some(&Value::IntValue(4711)));
        assert_eq!(attribute(&span.attributes, "gen"), Some(&Value::StringValue("00000000000000ab".into())));
        assert_eq!(span.attributes.len(), 2, "a span needs no other id than its own");
    }
    let logs: Logs = request(&[], &["{}"]);
    let list = &logs.resource_logs[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(list, "service.name"), Some(&Value::StringValue("unknown_service".into())));
    assert!(logs.resource_logs[0].scope_logs[0].log_records[0].attributes.len() == 1);
}

#[test]
fn a_resource_that_is_too_deep_is_a_text() {
    let mut deep = json!(1);
    for _ in 0..50 {
        deep = json!([deep]);
    }
    let logs: Logs = request(&[("deep".to_string(), deep.clone())], &["{}"]);
    let list = &logs.resource_logs[0].resource.as_ref().unwrap().attributes;
    assert_eq!(attribute(list, "deep"), Some(&Value::StringValue(deep.to_string())));
}
