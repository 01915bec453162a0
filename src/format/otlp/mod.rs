//! OTLP/HTTP: log records to `/v1/logs` or spans to `/v1/traces`, as protobuf or as JSON.
//!
//! What an event may be:
//! - A `LogRecord` or `Span` in OTLP/JSON. A span has `traceId`, `spanId` and `name`; a log record has a key that only
//!   those have: `timeUnixNano`, `observedTimeUnixNano`, `severityNumber`, or a `body` that is an `AnyValue`.
//! - A whole `ExportLogsServiceRequest` or `ExportTraceServiceRequest`, in JSON (with `resourceLogs` or
//!   `resourceSpans`), or serialized as protobuf. If that is the encoding, too, the latter is not decoded, only looked
//!   through: requests one behind the other are their merger. For JSON see [`decode`].
//! - For logs any other JSON object, see [`plain`].
//!
//! Records of the first and the last sort get our resource and scope (kind 0); requests bring their own (kind 1).
//!
//! Invariants:
//! - JSON is read strictly whatever the encoding, and written anew: a receiver refuses a request as a whole, so no
//!   event of ours may have what a receiver stumbles over. See [`read`] and [`wire`].
//! - A record is changed in nothing that it has itself. A log record that has no `observedTimeUnixNano` gets the time
//!   of enqueue, and each log record without an attribute [`EVENT_ID`] gets the queue's id there: OTLP knows no ids,
//!   and a request whose answer was lost is sent again. A span has its own.
//! - Nothing is sent that has no records.
//!
//! The service's promise (opentelemetry-proto, `docs/specification.md`): 200 took everything but what
//! `partialSuccess` counts, which is never sent again; 429, 502, 503 and 504 are for later, all other errors final.
//! Ours: 413 is halved, and 401 and 403 stop sending without a loss.

mod answer;
mod any;
mod codes;
mod decode;
mod envelope;
mod members;
mod plain;
mod read;
mod schema;
mod wire;
mod write;

use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, Outcome, Sent, Stamp, Taken, Verdict, common_verdict,
    separators,
};
use envelope::Frame;
use members::Members;
use read::{Extra, ExtraValue, Reader};
use schema::Field;
use serde_json::Value;
use std::borrow::Cow;
use write::{Json, Protobuf, Writer};

/// The attribute that holds a log record's id.
pub const EVENT_ID: &str = "telemetry.event.id";

/// Largest body, the limit that the specification recommends to both sides.
const MOST: usize = 64 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Spans.
    Traces,
}

impl Signal {
    /// The field of a request.
    fn resources(self) -> &'static Field {
        match self {
            Signal::Logs => &schema::RESOURCE_LOGS,
            Signal::Traces => &schema::RESOURCE_SPANS,
        }
    }

    /// The field of that.
    fn scopes(self) -> &'static Field {
        match self {
            Signal::Logs => &schema::SCOPE_LOGS,
            Signal::Traces => &schema::SCOPE_SPANS,
        }
    }

    /// The field of that.
    fn records(self) -> &'static Field {
        match self {
            Signal::Logs => &schema::LOG_RECORDS,
            Signal::Traces => &schema::SPANS,
        }
    }

    /// The count in a `partialSuccess`.
    fn rejected(self) -> &'static str {
        match self {
            Signal::Logs => "rejectedLogRecords",
            Signal::Traces => "rejectedSpans",
        }
    }
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Protobuf,
    /// `application/json`.
    Json,
}

/// Records that get our resource.
const RECORD: u8 = 0;
/// Requests with their own.
const REQUEST: u8 = 1;

/// See the module's text.
pub struct Otlp {
    signal: Signal,
    encoding: Encoding,
    frame: Frame,
    /// Attributes that are the record's and not the resource's, because forked processes share a client.
    dynamic: Vec<(String, Dynamic)>,
}

#[derive(Clone, Copy)]
enum Dynamic {
    Pid,
    Generation,
    Worker,
}

impl Otlp {
    /// `resource` are the attributes of the resource of plain records. Those that are `"$pid"`, `"$worker"` or `"$generation"`
    /// are attributes of each record instead: the number of the process that enqueued it, its number among the workers,
    /// and its generation in 16 hexadecimal digits.
    pub fn new(signal: Signal, encoding: Encoding, resource: &[(String, Value)]) -> Otlp {
        let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
        for (key, value) in resource {
            match value.as_str() {
                Some("$pid") => dynamic.push((key.clone(), Dynamic::Pid)),
                Some("$generation") => dynamic.push((key.clone(), Dynamic::Generation)),
                Some("$worker") => dynamic.push((key.clone(), Dynamic::Worker)),
                _ => fixed.push((key.clone(), value.clone())),
            }
        }
        Otlp { signal, encoding, frame: Frame::new(signal, encoding, &fixed), dynamic }
    }

    /// What a record gets unless it has it.
    fn extras<'a>(&'a self, stamp: &'a Stamp<'_>) -> Vec<Extra<'a>> {
        let mut extras = Vec::with_capacity(self.dynamic.len() + 1);
        if self.signal == Signal::Logs {
            let id = String::from_utf8_lossy(stamp.id);
            extras.push(Extra { key: EVENT_ID, value: ExtraValue::Text(id) });
        }
        for (key, what) in &self.dynamic {
            let value = match what {
                Dynamic::Pid => ExtraValue::Integer(i64::from(stamp.pid)),
                Dynamic::Worker => ExtraValue::Integer(i64::from(stamp.worker)),
                Dynamic::Generation => ExtraValue::Text(Cow::Owned(format!("{:016x}", stamp.generation))),
            };
            extras.push(Extra { key, value });
        }
        extras
    }

    /// An event that is a request in protobuf, if it is one.
    fn request(&self, out: &mut Vec<u8>, raw: &[u8]) -> Option<Result<Taken, Invalid>> {
        wire::is_request(raw).then(|| {
            wire::check(raw, self.signal)?;
            match self.encoding {
                Encoding::Json => decode::request(Json::new(out), self.signal.resources(), raw)?,
                Encoding::Protobuf => out.extend_from_slice(raw),
            }
            Ok(Taken { id: None, kind: REQUEST })
        })
    }

    /// An event that is JSON.
    fn json(&self, out: &mut Vec<u8>, text: &str, stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let members = members::members(text)?;
        let kind = match self.encoding {
            Encoding::Protobuf => self.tell(Protobuf::new(out), &members, stamp),
            Encoding::Json => self.tell(Json::new(out), &members, stamp),
        };
        kind.map(|kind| Taken { id: None, kind })
    }

    /// An event with those members. Returns its kind.
    fn tell(&self, out: impl Writer, members: &Members<'_>, stamp: &Stamp<'_>) -> Result<u8, Invalid> {
        let resources = self.signal.resources();
        if let Some((_, list)) = members.iter().find(|(name, _)| name == resources.name) {
            let mut reader = Reader::new(out);
            reader.elements(resources, list)?;
            return if reader.records() > 0 {
                Ok(REQUEST)
            } else {
                Err(Invalid("a request without records"))
            };
        }
        if members.iter().any(|(n, _)| ["resourceLogs", "resourceSpans", "resourceMetrics"].contains(&&**n)) {
            return Err(Invalid("a request of another signal than the format's"));
        }
        let mut reader = Reader::of_record(out, self.extras(stamp));
        match self.signal {
            Signal::Traces if is_span(members) => {
                reader.record(&schema::SPANS, members, &schema::SPAN_ATTRIBUTES, None)
            }
            Signal::Traces => Err(Invalid("no span: it needs traceId, spanId and name")),
            Signal::Logs if is_log_record(members) => {
                let observed = (&schema::LOG_OBSERVED, stamp.time_ns);
                reader.record(&schema::LOG_RECORDS, members, &schema::LOG_ATTRIBUTES, Some(observed))
            }
            Signal::Logs => plain::record(&mut reader, members, stamp.time_ns),
        }
        .map(|()| RECORD)
    }
}

fn is_span(members: &Members<'_>) -> bool {
    let has = |name: &str| members.iter().any(|(n, raw)| n == name && !matches!(raw.get(), "\"\"" | "null"));
    has("traceId") && has("spanId") && members.iter().any(|(n, _)| n == "name")
}

fn is_log_record(members: &Members<'_>) -> bool {
    members.iter().any(|(name, raw)| match &**name {
        "timeUnixNano" | "observedTimeUnixNano" | "severityNumber" => true,
        "body" => members::is_any_value(raw),
        _ => false,
    })
}

impl Format for Otlp {
    fn path(&self) -> &'static str {
        match self.signal {
            Signal::Logs => "/v1/logs",
            Signal::Traces => "/v1/traces",
        }
    }

    fn content_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        }
    }

    fn limits(&self, kind: u8) -> Limits {
        Limits { body: MOST, event: MOST.saturating_sub(self.overhead(kind, 1, MOST)), events: usize::MAX }
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        None
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let Ok(text) = std::str::from_utf8(raw) else {
            return self.request(out, raw).unwrap_or(Err(Invalid("not valid UTF-8")));
        };
        let start = out.len();
        let told = self.json(out, text, stamp).or_else(|why| {
            out.truncate(start);
            members::mend(text).map_or(Err(why), |mended| self.json(out, &mended, stamp))
        });
        told.or_else(|why| {
            out.truncate(start);
            self.request(out, raw).unwrap_or(Err(why))
        })
    }

    fn open(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        match envelope.kind {
            RECORD => self.frame.open(out, envelope.bytes),
            _ => envelope::open_requests(out, self.signal, self.encoding),
        }
    }

    fn between(&self) -> &'static [u8] {
        match self.encoding {
            Encoding::Protobuf => b"",
            Encoding::Json => b",",
        }
    }

    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        match envelope.kind {
            RECORD => self.frame.close(out),
            _ => envelope::close_requests(out, self.encoding),
        }
    }

    fn overhead(&self, kind: u8, events: usize, bytes: usize) -> usize {
        let around = match kind {
            RECORD => self.frame.overhead(bytes),
            _ => envelope::requests_overhead(self.signal, self.encoding),
        };
        around + separators(self, events)
    }

    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict {
        let content_type = answer.header("content-type");
        match answer.status {
            200..=299 if answer.truncated => Verdict::Unverified,
            200..=299 if answer.body.is_empty() => Verdict::All(Fate::Delivered),
            200..=299 => match answer::partial(answer.body, content_type, self.signal) {
                None => Verdict::Unverified,
                Some(partial) if partial.rejected == 0 && partial.message.is_empty() => {
                    Verdict::All(Fate::Delivered)
                }
                Some(partial) => self.counted(partial, sent),
            },
            300..=399 | 401 | 403 | 413 | 415 => common_verdict(answer),
            429 | 502..=504 => Verdict::All(Fate::Retry),
            _ => match answer::status_message(answer.body, content_type) {
                Some(why) => {
                    let refused = Outcome { fate: Fate::Rejected, why: Some(why.into()) };
                    Verdict::Each(vec![refused; sent.ids.len()])
                }
                None => Verdict::All(Fate::Rejected),
            },
        }
    }
}

impl Otlp {
    /// A partial success counts records. An event is one, unless it is a request: then nobody knows how many events
    /// that is, so each record counts as an event, at most all, and the text says the true number.
    fn counted(&self, partial: answer::Partial, sent: &Sent<'_>) -> Verdict {
        let answer::Partial { rejected, message } = partial;
        let why = match (sent.kind, rejected) {
            (REQUEST, 1..) => format!("{} {rejected}: {message}", self.signal.rejected()),
            _ => message,
        };
        let rejected = usize::try_from(rejected).unwrap_or(usize::MAX);
        Verdict::Counted { rejected, why: (!why.is_empty()).then(|| why.into()) }
    }
}
