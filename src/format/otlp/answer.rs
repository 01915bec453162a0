//! What the receiver answers: `Export*ServiceResponse` with 200, `google.rpc.Status` with an error, in either encoding.

use super::Signal;
use super::write::{I32, I64, LEN, VARINT, take_piece, take_varint};
use serde_json::Value;

/// A `partialSuccess` that says something.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// So many records were refused for good.
    pub rejected: u64,
    /// Why, or a warning.
    pub message: String,
}

/// The answer to a success, `None` where it is no such answer.
pub fn partial(body: &[u8], content_type: Option<&str>, signal: Signal) -> Option<Partial> {
    if is_json(body, content_type)? { json_partial(body, signal) } else { protobuf_partial(body) }
}

/// The text of an error's answer, if it is one.
pub fn status_message(body: &[u8], content_type: Option<&str>) -> Option<String> {
    let message = if is_json(body, content_type)? {
        let body: Value = serde_json::from_slice(body).ok()?;
        body.get("message")?.as_str()?.to_string()
    } else {
        let mut message = String::new();
        fields(body, |number, value| match (number, value) {
            (2, Found::Piece(text)) => std::str::from_utf8(text).map(|t| message = t.into()).is_ok(),
            (1..=3, _) => true,
            // Not one of Status: what looks like protobuf is something else.
            _ => false,
        })?;
        message
    };
    Some(message).filter(|message| !message.is_empty())
}

/// By the content type; where that is missing by the body. Else it comes from somebody who does not speak OTLP.
fn is_json(body: &[u8], content_type: Option<&str>) -> Option<bool> {
    let word = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if word.eq_ignore_ascii_case("application/json") {
        Some(true)
    } else if ["application/x-protobuf", "application/protobuf"].iter().any(|p| word.eq_ignore_ascii_case(p))
    {
        Some(false)
    } else {
        word.is_empty().then(|| body.trim_ascii_start().starts_with(b"{"))
    }
}

fn json_partial(body: &[u8], signal: Signal) -> Option<Partial> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let partial = match body.as_object()?.get("partialSuccess") {
        None | Some(Value::Null) => return Some(Partial::default()),
        Some(partial) => partial.as_object()?,
    };
    let rejected = match partial.get(signal.rejected()) {
        None | Some(Value::Null) => 0,
        Some(Value::Number(number)) => number.as_u64()?,
        Some(Value::String(text)) => text.parse().ok()?,
        Some(_) => return None,
    };
    let message = match partial.get("errorMessage") {
        None | Some(Value::Null) => "",
        Some(text) => text.as_str()?,
    };
    Some(Partial { rejected, message: message.into() })
}

fn protobuf_partial(body: &[u8]) -> Option<Partial> {
    let mut partial = Partial::default();
    fields(body, |number, value| match (number, value) {
        (1, Found::Piece(inner)) => fields(inner, |number, value| match (number, value) {
            (1, Found::Number(rejected)) => {
                partial.rejected = rejected;
                i64::try_from(rejected).is_ok()
            }
            (2, Found::Piece(text)) => {
                std::str::from_utf8(text).map(|text| partial.message = text.into()).is_ok()
            }
            (1 | 2, _) => false,
            _ => true,
        })
        .is_some(),
        (1, _) => false,
        _ => true,
    })?;
    Some(partial)
}

/// A field's value, as far as any is of interest here.
enum Found<'a> {
    Number(u64),
    Piece(&'a [u8]),
    Other,
}

/// Each field of a message, until one is not `good`; `None` then, or when it is no message.
fn fields<'a>(mut message: &'a [u8], mut good: impl FnMut(u64, Found<'a>) -> bool) -> Option<()> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let value = match tag & 7 {
            VARINT => Found::Number(take_varint(&mut message)?),
            LEN => Found::Piece(take_piece(&mut message)?),
            wire @ (I64 | I32) => {
                message = message.get(if wire == I64 { 8 } else { 4 }..)?;
                Found::Other
            }
            _ => return None,
        };
        if tag >> 3 == 0 || !good(tag >> 3, value) {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");
    const PROTOBUF: Option<&str> = Some("application/x-protobuf");

    fn told(rejected: u64, message: &str) -> Option<Partial> {
        Some(Partial { rejected, message: message.into() })
    }

    #[test]
    fn partial_success_in_json() {
        let read = |body: &str| partial(body.as_bytes(), JSON, Signal::Logs);
        for full in
            ["{}", " {} \n", r#"{"partialSuccess":null}"#, r#"{"partialSuccess":{}}"#, r#"{"more":[1]}"#]
        {
            assert_eq!(read(full), told(0, ""), "{full}");
        }
        let both = |n: &str| {
            format!(r#"{{"partialSuccess":{{"rejectedLogRecords":{n},"errorMessage":"too long"}}}}"#)
        };
        assert_eq!(read(&both("7")), told(7, "too long"));
        assert_eq!(read(&both("\"7\"")), told(7, "too long"));
        assert_eq!(read(&both("null")), told(0, "too long"));
        let spans = r#"{"partialSuccess":{"rejectedSpans":"3"}}"#;
        assert_eq!(partial(spans.as_bytes(), JSON, Signal::Traces), told(3, ""));
        assert_eq!(read(spans), told(0, ""), "not this signal's");
        for bad in
            ["", "thanks", "[]", "7", "{", r#"{"partialSuccess":7}"#, &both("-1"), &both("1.5"), &both("[]")]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn partial_success_in_protobuf() {
        let read = |body: &[u8]| partial(body, PROTOBUF, Signal::Logs);
        assert_eq!(read(b"\x0a\x00"), told(0, ""));
        assert_eq!(read(b"\x0a\x07\x08\x96\x01\x12\x02no"), told(150, "no"));
        assert_eq!(read(b"\x0a\x04\x12\x02no"), told(0, "no"));
        // Fields that nobody knows yet, of each wire type.
        assert_eq!(read(b"\x10\x05\x19AAAAAAAA\x22\x01x\x2dAAAA\x0a\x04\x08\x01\x18\x01"), told(1, ""));
        for bad in [
            &b"\x0a"[..],
            b"\x0a\x05\x08\x01",
            b"\x08\x01",
            b"\x0b\x00",
            b"\x02\x00",
            b"\x0a\x02\x0a\x00",
            b"\x0a\x03\x12\x01\xff",
            b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"<html>",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn content_type_decides() {
        assert_eq!(partial(b"{}", PROTOBUF, Signal::Logs), None);
        assert_eq!(partial(b"\x0a\x00", JSON, Signal::Logs), None);
        assert_eq!(partial(b"{}", None, Signal::Logs), told(0, ""));
        assert_eq!(partial(b"\x0a\x00", None, Signal::Logs), told(0, ""));
        assert_eq!(partial(b"{}", Some("text/html"), Signal::Logs), None);
    }

    #[test]
    fn errors_have_a_text() {
        assert_eq!(status_message(br#"{"code":3,"message":"no"}"#, JSON), Some("no".into()));
        assert_eq!(status_message(b"\x08\x03\x12\x02no\x1a\x01x", PROTOBUF), Some("no".into()));
        for none in [&b""[..], b"{}", b"\x12\x00", b"\x22\x02no", b"\x12\x02\xff\xff"] {
            assert_eq!(status_message(none, None), None, "{none:?}");
        }
        assert_eq!(status_message(b"no", Some("text/plain")), None);
    }
}
