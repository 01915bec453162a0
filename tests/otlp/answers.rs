//! What each answer means.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use telemetry::format::otlp::{Encoding, Otlp, Signal};
use telemetry::format::{Answer, Fate, Format, Outcome, Sent, Verdict};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn judge(signal: Signal, kind: u8, status: u16, content_type: &str, body: &[u8]) -> Verdict {
    let headers = [("content-type".to_string(), content_type.to_string())];
    let sent = Sent { kind, ids: &["a", "b", "c"] };
    let answer = Answer { status, headers: &headers, body, truncated: false };
    // The encoding of the request says nothing about the answer's.
    let [one, two] =
        [Encoding::Protobuf, Encoding::Json].map(|e| Otlp::new(signal, e, &[]).judge(&answer, &sent));
    assert_eq!(one, two);
    one
}

fn counted(rejected: usize, why: Option<&str>) -> Verdict {
    Verdict::Counted { rejected, why: why.map(Box::from) }
}

#[test]
fn statuses() {
    for status in 100..600u16 {
        let expected = match status {
            200..=299 => Verdict::All(Fate::Delivered),
            300..=399 | 401 | 403 => Verdict::Denied,
            413 => Verdict::Bisect,
            415 => Verdict::PlainPlease,
            429 | 502 | 503 | 504 => Verdict::All(Fate::Retry),
            _ => Verdict::All(Fate::Rejected),
        };
        assert_eq!(judge(Signal::Logs, 0, status, PROTOBUF, b""), expected, "{status}");
    }
}

#[test]
fn partial_success_is_counted_and_never_sent_again() {
    let message = |rejected_log_records, error_message: &str| {
        let error_message = error_message.into();
        let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records, error_message });
        ExportLogsServiceResponse { partial_success }
    };
    for (theirs, expected) in [
        (ExportLogsServiceResponse::default(), Verdict::All(Fate::Delivered)),
        (message(0, ""), Verdict::All(Fate::Delivered)),
        (message(0, "slow down"), counted(0, Some("slow down"))),
        (message(2, ""), counted(2, None)),
        (message(2, "too long"), counted(2, Some("too long"))),
        (message(i64::MAX, "x"), counted(i64::MAX as usize, Some("x"))),
        (message(-1, "x"), Verdict::Unverified),
    ] {
        let json = serde_json::to_vec(&theirs).unwrap();
        assert_eq!(judge(Signal::Logs, 0, 200, JSON, &json), expected, "{}", String::from_utf8_lossy(&json));
        let protobuf = theirs.encode_to_vec();
        assert_eq!(judge(Signal::Logs, 0, 200, PROTOBUF, &protobuf), expected);
    }
    let theirs = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".into() }),
    };
    assert_eq!(judge(Signal::Traces, 0, 200, PROTOBUF, &theirs.encode_to_vec()), counted(1, Some("no")));
    let json = serde_json::to_vec(&theirs).unwrap();
    assert_eq!(judge(Signal::Traces, 0, 202, JSON, &json), counted(1, Some("no")));
}

#[test]
fn of_a_ready_request_the_true_number_is_said() {
    let body = br#"{"partialSuccess":{"rejectedSpans":"40","errorMessage":"no"}}"#;
    assert_eq!(judge(Signal::Traces, 1, 200, JSON, body), counted(40, Some("rejectedSpans 40: no")));
}

#[test]
fn what_cannot_be_read_is_unverified() {
    for (content_type, body) in [
        (JSON, &b"thanks"[..]),
        (JSON, b"{\"partialSuccess\":"),
        (PROTOBUF, b"{}"),
        (PROTOBUF, b"\x0a\x05"),
        ("text/html", b"<html>"),
        ("", b"OK"),
    ] {
        assert_eq!(judge(Signal::Logs, 0, 200, content_type, body), Verdict::Unverified, "{body:?}");
    }
    let sent = Sent { kind: 0, ids: &["a"] };
    let answer = Answer { status: 200, headers: &[], body: b"{}", truncated: true };
    assert_eq!(Otlp::new(Signal::Logs, Encoding::Json, &[]).judge(&answer, &sent), Verdict::Unverified);
}

#[test]
fn the_receivers_own_words() {
    let refused = Outcome { fate: Fate::Rejected, why: Some("bad trace id".into()) };
    let each = Verdict::Each(vec![refused; 3]);
    assert_eq!(judge(Signal::Logs, 0, 400, JSON, br#"{"code":3,"message":"bad trace id"}"#), each);
    assert_eq!(judge(Signal::Logs, 0, 500, PROTOBUF, b"\x08\x03\x12\x0cbad trace id"), each);
    assert_eq!(judge(Signal::Logs, 0, 500, "text/plain", b"oops"), Verdict::All(Fate::Rejected));
}

#[test]
fn where_and_as_what() {
    let logs = Otlp::new(Signal::Logs, Encoding::Protobuf, &[]);
    assert_eq!((logs.path(), logs.content_type()), ("/v1/logs", PROTOBUF));
    let traces = Otlp::new(Signal::Traces, Encoding::Json, &[]);
    assert_eq!((traces.path(), traces.content_type()), ("/v1/traces", JSON));
    assert_eq!(traces.context_at(), None);
}
