//! Everything that OTLP/JSON can say means the same to us and to them.

use super::kit::{Logs, Request, Traces, request};

const RICH_LOGS: &str = r#"{"resourceLogs":[
 {"resource":{"attributes":[
    {"key":"service.name","value":{"stringValue":"api \" \\ \u00e9 \ud83d\ude00"}},
    {"key":"list","value":{"arrayValue":{"values":[{"intValue":"-9223372036854775808"},{"intValue":7},
        {"boolValue":false},{"doubleValue":1.5e-300},{"stringValue":""},{},
        {"arrayValue":{"values":[]}},{"kvlistValue":{"values":[]}}]}}},
    {"key":"map","value":{"kvlistValue":{"values":[{"key":"","value":{"bytesValue":"+/8="}},{"key":"none","value":{}}]}}},
    {"key":"bytes","value":{"bytesValue":""}}],
   "droppedAttributesCount":4294967295},
  "schemaUrl":"https://a/1",
  "scopeLogs":[
   {"scope":{"name":"n","version":"v","attributes":[{"key":"k","value":{"boolValue":true}}],"droppedAttributesCount":1},
    "schemaUrl":"https://b/2",
    "logRecords":[
     {"timeUnixNano":"18446744073709551615","observedTimeUnixNano":1,"severityNumber":24,"severityText":"FATAL4",
      "body":{"kvlistValue":{"values":[{"key":"a","value":{"intValue":"1"}}]}},
      "attributes":[{"key":"k","value":{"doubleValue":0}},{"key":"k2","value":{"intValue":0}}],
      "droppedAttributesCount":3,"flags":257,
      "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","eventName":"e"},
     {"body":{"stringValue":"only a body"}},
     {"timeUnixNano":"0","severityNumber":-1,"traceId":"","spanId":""},
     {}]},
   {"logRecords":[{"severityNumber":9}]}]},
 {"scopeLogs":[{"scope":{},"logRecords":[{"timeUnixNano":"5"}]}]}]}"#;

const RICH_SPANS: &str = r#"{"resourceSpans":[
 {"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"api"}}]},
  "scopeSpans":[{"scope":{"name":"lib"},"schemaUrl":"s","spans":[
   {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","traceState":"a=b","parentSpanId":"eee19b7ec3c1b173",
    "flags":769,"name":"job","kind":3,"startTimeUnixNano":"1795228198000000000","endTimeUnixNano":"1795228198042000000",
    "attributes":[{"key":"n","value":{"intValue":"42"}}],"droppedAttributesCount":1,
    "events":[{"timeUnixNano":"1795228198001000000","name":"x","droppedAttributesCount":2,
               "attributes":[{"key":"exception.message","value":{"stringValue":"boom"}}]},{}],
    "droppedEventsCount":3,
    "links":[{"traceId":"5b8efff798038103d269b633813fc60d","spanId":"eee19b7ec3c1b175","traceState":"c=d","flags":1,
              "attributes":[{"key":"l","value":{"boolValue":true}}],"droppedAttributesCount":4},{}],
    "droppedLinksCount":5,
    "status":{"code":2,"message":"failed"}},
   {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b176","name":"","status":{}}]}]},
 {"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b177","name":"z"}]}]}]}"#;

fn theirs<R: Request>(json: &str) -> R {
    serde_json::from_str(json).unwrap()
}

#[test]
fn logs_mean_the_same() {
    assert_eq!(request::<Logs>(&[], &[RICH_LOGS]), theirs::<Logs>(RICH_LOGS));
}

#[test]
fn spans_mean_the_same() {
    assert_eq!(request::<Traces>(&[], &[RICH_SPANS]), theirs::<Traces>(RICH_SPANS));
}

#[test]
fn entity_references_too() {
    let json = r#"{"resourceLogs":[{"resource":{"entityRefs":[{"schemaUrl":"u","type":"service",
        "idKeys":["a","b"],"descriptionKeys":[]},
        {"schemaUrl":"","type":"","idKeys":["c"],"descriptionKeys":["d"]}]},"scopeLogs":[{"logRecords":[{}]}]}]}"#;
    let logs: Logs = request(&[], &[json]);
    let refs = &logs.resource_logs[0].resource.as_ref().unwrap().entity_refs;
    assert_eq!((&refs[0].schema_url[..], &refs[0].r#type[..]), ("u", "service"));
    assert_eq!(
        (&refs[0].id_keys[..], &refs[1].id_keys[..]),
        (&["a".into(), "b".into()][..], &["c".into()][..])
    );
}

#[test]
fn what_json_leaves_open() {
    // Each pair is the same to a reader that knows the rules.
    for (odd, plain) in [
        (r#"{"intValue":1e3}"#, r#"{"intValue":"1000"}"#),
        (r#"{"intValue":-0.0}"#, r#"{"intValue":0}"#),
        (r#"{"doubleValue":3}"#, r#"{"doubleValue":3.0}"#),
        (r#"{"doubleValue":"-2.5"}"#, r#"{"doubleValue":-2.5}"#),
        (r#"{"bytesValue":"-_8"}"#, r#"{"bytesValue":"+/8="}"#),
        (r#"{"stringValue":null}"#, "{}"),
        (r#"{"arrayValue":{}}"#, r#"{"arrayValue":{"values":[]}}"#),
        (r#"{"kvlistValue":{"values":null}}"#, r#"{"kvlistValue":{"values":[]}}"#),
        (r#"{"string_value":"x"}"#, "{}"),
        (r#"{"unknown":[{"a":[1,{"b":null}]}],"boolValue":true}"#, r#"{"boolValue":true}"#),
        (r#"{"string\u0056alue":"x\u0079"}"#, r#"{"stringValue":"xy"}"#),
    ] {
        let logs = |value: &str| {
            request::<Logs>(
                &[],
                &[&format!(r#"{{"timeUnixNano":"1","observedTimeUnixNano":"1","body":{value}}}"#)],
            )
        };
        assert_eq!(logs(odd), logs(plain), "{odd}");
    }
}

#[test]
fn what_is_not_finite() {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message;
    use telemetry::format::otlp::{Encoding, Otlp, Signal};
    for (word, is) in [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)] {
        let event = format!(r#"{{"body":{{"doubleValue":"{word}"}}}}"#);
        let body = |encoding| super::kit::body(&Otlp::new(Signal::Logs, encoding, &[]), &[event.as_bytes()]);
        // Their reader of JSON takes no words for an AnyValue's double, so this is compared as text.
        let json = String::from_utf8(body(Encoding::Json)).unwrap();
        assert!(json.contains(&format!(r#""body":{{"doubleValue":"{word}"}}"#)), "{json}");
        let logs = Logs::decode(&body(Encoding::Protobuf)[..]).unwrap();
        let value = logs.resource_logs[0].scope_logs[0].log_records[0].body.clone().unwrap().value;
        match value {
            Some(Value::DoubleValue(value)) => assert!(value == is || value.is_nan() && is.is_nan()),
            other => panic!("{other:?}"),
        }
    }
}
