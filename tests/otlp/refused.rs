//! What is no event, and what would make a receiver refuse its whole request.

use super::kit::{BOTH, Logs, Traces, event, refusal, request};
use prost::Message;
use telemetry::format::otlp::{Encoding, Otlp, Signal};

fn bad_log(event: &str, why: &str) {
    let said = refusal(Signal::Logs, event.as_bytes());
    assert!(said.contains(why), "{event}: {said:?} does not say {why:?}");
}

#[test]
fn what_is_no_object() {
    for event in
        ["", " ", "7", "[]", "null", "\"x\"", "{", "{\"a\":}", "{a:1}", "\n", "\u{12}", "{\"a\":\"\n\"}"]
    {
        bad_log(event, "not one JSON object");
    }
    bad_log("{}{}", "follows");
    assert_eq!(refusal(Signal::Logs, b"{\"a\":\"\xff\"}"), "not valid UTF-8");
    bad_log(r#"{"a":1e999}"#, "cannot be read");
}

#[test]
fn wrong_values_of_otlp() {
    for (members, why) in [
        (r#""timeUnixNano":-1"#, "64-bit"),
        (r#""timeUnixNano":"18446744073709551616""#, "64-bit"),
        (r#""timeUnixNano":1.5"#, "64-bit"),
        (r#""timeUnixNano":" 1""#, "64-bit"),
        (r#""timeUnixNano":true"#, "64-bit"),
        (r#""severityNumber":"INFO""#, "enum"),
        (r#""severityNumber":"9""#, "enum"),
        (r#""severityNumber":2147483648"#, "enum"),
        (r#""severityNumber":9,"severityText":9"#, "text"),
        (r#""severityNumber":9,"flags":4294967296"#, "32-bit"),
        (r#""severityNumber":9,"droppedAttributesCount":-1"#, "32-bit"),
        (r#""severityNumber":9,"traceId":"5b8e""#, "id"),
        (r#""severityNumber":9,"traceId":"5b8efff798038103d269b633813fc60cab""#, "id"),
        (r#""severityNumber":9,"spanId":"eee19b7ec3c1b17g""#, "id"),
        (r#""severityNumber":9,"spanId":7"#, "id"),
        (r#""severityNumber":9,"attributes":{}"#, "list"),
        (r#""severityNumber":9,"attributes":[null]"#, "object"),
        (r#""severityNumber":9,"attributes":["x"]"#, "object"),
        (r#""severityNumber":9,"attributes":[[]]"#, "object"),
        (r#""severityNumber":9,"attributes":[{"key":7}]"#, "text"),
        (r#""severityNumber":9,"attributes":[{"key":"k","value":"v"}]"#, "object"),
        (r#""severityNumber":9,"body":"plain""#, "object"),
        (r#""severityNumber":9,"body":{"intValue":"9223372036854775808"}"#, "64-bit"),
        (r#""body":{"intValue":"x"}"#, "64-bit"),
        (r#""body":{"boolValue":1}"#, "boolean"),
        (r#""body":{"doubleValue":"x"}"#, "double"),
        (r#""body":{"doubleValue":"inf"}"#, "double"),
        (r#""body":{"bytesValue":"%"}"#, "base64"),
        (r#""body":{"arrayValue":[]}"#, "object"),
        (r#""body":{"arrayValue":{"values":{}}}"#, "list"),
        (r#""severityNumber":9,"body":{"stringValue":"a","intValue":1}"#, "twice"),
        (r#""severityNumber":9,"severityNumber":9"#, "twice"),
        (r#""severityNumber":9,"attributes":[{"key":"a","key":"a"}]"#, "twice"),
    ] {
        bad_log(&format!("{{{members}}}"), why);
        bad_log(&format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{members}}}]}}]}}]}}"#), why);
    }
}

#[test]
fn requests_of_another_signal_and_empty_ones() {
    for empty in ["[]", "[{}]", "null", r#"[{"scopeLogs":[]}]"#, r#"[{"scopeLogs":[{"logRecords":[]}]}]"#] {
        bad_log(&format!(r#"{{"resourceLogs":{empty}}}"#), "without records");
    }
    for bad in ["{}", "7", "[7]", "[null]"] {
        bad_log(&format!(r#"{{"resourceLogs":{bad}}}"#), "something else");
    }
    bad_log(r#"{"resourceSpans":[]}"#, "another signal");
    bad_log(r#"{"resourceMetrics":[]}"#, "another signal");
    assert!(refusal(Signal::Traces, br#"{"resourceLogs":[]}"#).contains("another signal"));
}

#[test]
fn what_is_no_span() {
    let span = r#""traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"n""#;
    for other in [
        "{}".to_string(),
        r#"{"message":"m"}"#.into(),
        format!("{{{}}}", span.replace("name", "Name")),
        format!("{{{}}}", span.replace("traceId", "trace_id")),
        format!("{{{}}}", span.replace("eee19b7ec3c1b174", "")),
    ] {
        assert!(refusal(Signal::Traces, other.as_bytes()).contains("no span"), "{other}");
    }
    for wrong in [
        r#""kind":"SPAN_KIND_SERVER""#,
        r#""parentSpanId":"ee""#,
        r#""status":{"code":"x"}"#,
        r#""events":{}"#,
    ] {
        refusal(Signal::Traces, format!("{{{span},{wrong}}}").as_bytes());
    }
}

#[test]
fn bytes_that_are_no_request() {
    // One span without a field.
    let good = b"\x0a\x04\x12\x02\x12\x00".to_vec();
    let format = Otlp::new(Signal::Traces, Encoding::Protobuf, &[]);
    assert_eq!(event(&format, &good).unwrap(), (good.clone(), 1));
    for bad in [
        &b"\x0a"[..],
        b"\x0a\x00",
        b"\x0a\x02\x12\x00",
        b"\x0a\x05\x12\x02\x12\x00",
        b"\x0a\x03\x12\x02\x12\x00",
        b"\x0a\x04\x12\x02\x12\x00\x0a",
        b"\x0a\x04\x12\x02\x12\x00\x12\x00",
        b"\x12\x04\x12\x02\x12\x00",
        b"\x08\x12",
        b"\x0a\x84\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x12\x02\x12\x00",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\x00",
    ] {
        assert!(event(&format, bad).is_err(), "{bad:?}");
    }
    let json = Otlp::new(Signal::Traces, Encoding::Json, &[]);
    assert!(event(&json, &good).unwrap_err().0.contains("encoding json"));
}

/// A serialized request with one span of those bytes.
fn with_span(span: &[u8]) -> Vec<u8> {
    let within = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(bytes.len(), &mut out).unwrap();
        out.extend_from_slice(bytes);
        out
    };
    within(1, &within(2, &within(2, span)))
}

#[test]
fn damage_within_a_serialized_request() {
    let format = Otlp::new(Signal::Traces, Encoding::Protobuf, &[]);
    let why = |span: &[u8]| match event(&format, &with_span(span)) {
        Ok(_) => "",
        Err(why) => why.0,
    };
    for good in [
        &b"\x2a\x01n"[..],
        b"\x30\x02",
        b"\x39AAAAAAAA",
        b"\x85\x01AAAA",
        b"\x12\x08AAAAAAAA",
        b"\x12\x00",
        b"\x4a\x08\x0a\x01k\x12\x03\x0a\x01v",
        // Fields that nobody knows yet, of each wire type.
        b"\xf8\x06\x01\xf9\x06AAAAAAAA\xfa\x06\x01\xff\xfd\x06AAAA",
    ] {
        assert_eq!(why(good), "", "{good:?}");
    }
    for (bad, said) in [
        (&b"\x2a\x02n"[..], "damaged"),
        (b"\x2a", "damaged"),
        (b"\x28\x01", "damaged"),
        (b"\x39AAAAAAA", "damaged"),
        (b"\x85\x01AAA", "damaged"),
        (b"\x02\x00", "damaged"),
        (b"\x2b\x2c", "damaged"),
        (b"\x4a\x03\x0a\x02k", "damaged"),
        (b"\x2a\x01\xff", "UTF-8"),
        (b"\x12\x07AAAAAAA", "bytes"),
        (b"\x0a\x08AAAAAAAA", "bytes"),
    ] {
        assert!(why(bad).contains(said) && !why(bad).is_empty(), "{bad:?}: {}", why(bad));
    }
}

#[test]
fn a_serialized_request_may_be_as_deep_as_decoders_go() {
    let format = Otlp::new(Signal::Traces, Encoding::Protobuf, &[]);
    let mut taken = 0;
    for depth in 1..200 {
        // An attribute that is an array of arrays: two messages for each.
        let mut value = Vec::new();
        for _ in 0..depth {
            for tag in [b'\x0a', b'\x2a'] {
                let mut outer = vec![tag];
                prost::encode_length_delimiter(value.len(), &mut outer).unwrap();
                outer.append(&mut value);
                value = outer;
            }
        }
        let mut pair = vec![b'\x12'];
        prost::encode_length_delimiter(value.len(), &mut pair).unwrap();
        pair.append(&mut value);
        let mut span = vec![b'\x4a'];
        prost::encode_length_delimiter(pair.len(), &mut span).unwrap();
        span.append(&mut pair);
        let raw = with_span(&span);
        match event(&format, &raw) {
            Ok(_) => {
                assert!(Traces::decode(&raw[..]).is_ok(), "{depth}");
                taken = depth;
            }
            Err(why) => assert!(why.0.contains("deeply"), "{depth}: {}", why.0),
        }
    }
    assert_eq!(taken, 47);
}

/// `depth` arrays, objects, or lists of `AnyValue`, one in the other.
fn nested(depth: usize, open: &str, close: &str) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn what_is_nested_too_deeply() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"b":"#, "}]")] {
        let mut most = 0;
        for depth in (1..200).chain([1000, 100_000]) {
            let text = format!(r#"{{"m":{}}}"#, nested(depth, open, close));
            let [a, b] = BOTH.map(|e| event(&Otlp::new(Signal::Logs, e, &[]), text.as_bytes()));
            assert_eq!(a.is_ok(), b.is_ok());
            if a.is_ok() {
                assert_eq!(most, depth - 1, "no holes");
                most = depth;
                // What is taken, others can read: their decoders have limits of their own.
                let _: Logs = request(&[], &[&text]);
            }
        }
        assert!((8..60).contains(&most), "{most}");
    }
    let (open, close) = (r#"{"arrayValue":{"values":["#, "]}}");
    for depth in [1, 20, 40, 100_000] {
        let inner = format!("{}{}", open.repeat(depth), close.repeat(depth));
        let text = format!(r#"{{"timeUnixNano":1,"body":{inner}}}"#);
        let taken = event(&Otlp::new(Signal::Logs, Encoding::Protobuf, &[]), text.as_bytes());
        assert_eq!(taken.is_ok(), depth <= 20, "{depth}");
        let unknown = format!(r#"{{"timeUnixNano":1,"nobody":{inner}}}"#);
        let _ = event(&Otlp::new(Signal::Logs, Encoding::Json, &[]), unknown.as_bytes());
    }
}

#[test]
fn a_refused_event_leaves_nothing() {
    use telemetry::format::Format;
    let format = Otlp::new(Signal::Logs, Encoding::Json, &[]);
    let mut out = b"kept".to_vec();
    let stamp = super::kit::stamp();
    assert!(format.event(&mut out, br#"{"timeUnixNano":1,"flags":"x"}"#, &stamp).is_err());
    assert!(format.event(&mut out, br#"{"message":"\ud800","a":1e999}"#, &stamp).is_err());
    assert_eq!(out, b"kept");
}
