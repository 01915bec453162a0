//! Sentry's logs: what stands in the `items` of a log item.
//!
//! The service wants `timestamp` (seconds since the epoch), `level` and `body`, and attributes that name their type. A log
//! is refused here without the latter two; the time is filled. Attributes may be plain values: they get their type. `tags`,
//! where the configured context goes, become attributes, and attributes win. `trace_id` is sent if it is there. What else a
//! log has is left as it is.

use super::json_text::{self, Members};
use super::{Invalid, Stamp};

/// Append one log.
pub fn append(out: &mut Vec<u8>, mut top: Members<'_>, stamp: &Stamp<'_>) -> Result<(), Invalid> {
    top.take("type");
    for (name, why) in
        [("level", "level is missing, or not a text"), ("body", "body is missing, or not a text")]
    {
        if top.get(name).and_then(json_text::string).is_none() {
            return Err(Invalid(why));
        }
    }
    let mut attributes = object(&mut top, "attributes", Invalid("attributes is not an object"))?;
    let tags = object(&mut top, "tags", Invalid("tags is not an object"))?;
    attributes.add_missing(tags);
    let mut text = b"{".to_vec();
    for attribute in attributes.0.iter().filter(|attribute| attribute.value != "null") {
        attribute.append_key(&mut text);
        append_typed(&mut text, attribute.value);
        text.push(b',');
    }
    json_text::end(&mut text, b"}");

    out.push(b'{');
    match top.take("timestamp") {
        Some(text) => json_text::put_text(out, "timestamp", text),
        None => {
            let ms = stamp.time_ns / 1_000_000;
            json_text::put(out, "timestamp", format!("{}.{:03}", ms / 1000, ms % 1000).as_bytes());
        }
    }
    top.append(out);
    json_text::put(out, "attributes", &text);
    json_text::end(out, b"}");
    Ok(())
}

fn object<'a>(top: &mut Members<'a>, name: &str, why: Invalid) -> Result<Members<'a>, Invalid> {
    top.take(name).map_or(Ok(Members::default()), |text| Members::of(text).map_err(|_| why))
}

/// `{"value":...,"type":"..."}`, unless it is that already. What has no type of its own becomes a text.
fn append_typed(out: &mut Vec<u8>, value: &str) {
    let kind = match value.as_bytes().first() {
        Some(b'{') if Members::of(value).is_ok_and(|it| it.has("value") && it.has("type")) => {
            return json_text::append_in_one_line(out, value);
        }
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'-' | b'0'..=b'9') if value.parse::<i64>().is_ok() => "integer",
        Some(b'-' | b'0'..=b'9') => "double",
        _ => "",
    };
    let (text, kind) = match kind {
        "" => (serde_json::Value::from(value).to_string(), "string"),
        kind => (value.to_string(), kind),
    };
    out.push(b'{');
    json_text::put_text(out, "value", &text);
    json_text::member(out, "type", kind.as_bytes());
    json_text::end(out, b"}");
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::super::sentry::Sentry;
    use serde_json::{Value, json};

    fn log(raw: &str) -> Value {
        kit::value(&Sentry::new("k", None), raw)
    }

    #[test]
    fn what_is_missing_is_filled() {
        assert_eq!(
            log(r#"{"type":"log","level":"info","body":"b"}"#),
            json!({"timestamp": 1_795_228_198.004, "level": "info", "body": "b", "attributes": {}})
        );
        let own =
            r#"{"type":"log","level":"info","body":"b","timestamp":7.0,"trace_id":"t","severity_number":9}"#;
        let v = log(own);
        assert_eq!((&v["timestamp"], &v["trace_id"]), (&json!(7.0), &json!("t")));
        assert_eq!((&v["severity_number"], v.get("type")), (&json!(9), None));
    }

    #[test]
    fn attributes_get_their_types() {
        let v = log(r#"{"type":"log","level":"info","body":"b",
                "attributes":{"s":"x\u0020","i":-3,"d":1.5,"big":12345678901234567890,"t":true,"f":false,"n":null,
                "a":[1, "x"],"o":{"k":1},"typed":{"value":1,"type":"double"}},
                "tags":{"s":"other","host":"h"}}"#);
        assert_eq!(
            v["attributes"],
            json!({
                "s": {"value": "x ", "type": "string"},
                "i": {"value": -3, "type": "integer"},
                "d": {"value": 1.5, "type": "double"},
                "big": {"value": 12_345_678_901_234_567_890u64, "type": "double"},
                "t": {"value": true, "type": "boolean"},
                "f": {"value": false, "type": "boolean"},
                "a": {"value": "[1, \"x\"]", "type": "string"},
                "o": {"value": "{\"k\":1}", "type": "string"},
                "typed": {"value": 1, "type": "double"},
                "host": {"value": "h", "type": "string"},
            })
        );
        assert_eq!(v.get("tags"), None);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        for (raw, reason) in [
            (r#"{"type":"log","body":"b"}"#, "level"),
            (r#"{"type":"log","level":"info"}"#, "body"),
            (r#"{"type":"log","level":"info","body":{}}"#, "body"),
            (r#"{"type":"log","level":"info","body":"b","attributes":[]}"#, "attributes"),
            (r#"{"type":"log","level":"info","body":"b","tags":7}"#, "tags"),
        ] {
            assert!(kit::why(&Sentry::new("k", None), raw).contains(reason), "{raw}");
        }
    }
}
