//! How a batch becomes a request body, and how the answer is read: one file a wire format.
//!
//! Invariants of this room:
//! - A format is an envelope: what comes before, between and after the events, which fields it fills, and
//!   how to read the answer. It does no I/O, keeps no state between requests and imports no other room.
//! - [`Format::event`] either appends exactly one valid event or nothing: a bad event never poisons its
//!   batch. Id and event time are the record's, the same on every attempt; only what is made from an
//!   [`Envelope`] may name the attempt's own time.
//! - The events of one request are of one kind, and where [`Format::unique_ids`] says so, of different ids.
//! - A body is never longer than the texts of its events and [`Format::overhead`] together.
//! - [`Format::judge`] gives every event of the request exactly one [`Fate`].

pub mod json;
pub mod json_text;
#[cfg(test)]
mod kit;
pub mod langfuse;
pub mod langfuse_scores;
pub mod ndjson;
pub mod otlp;
pub mod posthog;
pub mod posthog_v1;
pub mod segment;
pub mod sentry;
pub mod sentry_log;
pub mod time;
pub mod uuid;

use std::time::Duration;

/// What the queue knows of an event.
pub struct Stamp<'a> {
    /// Its id, a UUIDv7.
    pub id: &'a [u8; 36],
    /// Wall clock at enqueue, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The process that enqueued it.
    pub pid: u32,
    /// That process's generation.
    pub generation: u64,
    /// Its number among the workers of its server, 0 for none.
    pub worker: u16,
}

/// The event is not what the format needs; the text is for logs and the dead letter file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// An event that was appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Its id, if it brought its own; else it is the stamp's.
    pub id: Option<Box<str>>,
    /// Events of different kinds never share a request. What the kinds are is the format's matter.
    pub kind: u8,
}

/// The most that the service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body, before compression.
    pub body: usize,
    /// Bytes of one event, as it is sent.
    pub event: usize,
    /// Events of one request.
    pub events: usize,
}

impl Limits {
    /// None.
    pub const NONE: Limits = Limits { body: usize::MAX, event: usize::MAX, events: usize::MAX };
}

/// One request, as far as the format may mention it.
pub struct Envelope<'a> {
    /// The kind of its events.
    pub kind: u8,
    /// How many there are.
    pub events: usize,
    /// Bytes of their texts together, without what comes between them.
    pub bytes: usize,
    /// A UUID, the same on every attempt.
    pub id: &'a str,
    /// Id of the first of its events, as it is sent.
    pub first: &'a str,
    /// When its events were put together, the same on every attempt; nanoseconds since the epoch.
    pub created_ns: u64,
    /// This attempt's time.
    pub now_ns: u64,
    /// This attempt's number, from 1.
    pub attempt: u32,
}

/// The events of a request, for reading its answer.
pub struct Sent<'a> {
    /// Their kind.
    pub kind: u8,
    /// Their ids, as they were sent, in order.
    pub ids: &'a [&'a str],
}

/// An answer, as the sink gave it.
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: &'a [(String, String)],
    /// Body, at most 4 MiB of it.
    pub body: &'a [u8],
    /// The body could not be read to its end.
    pub truncated: bool,
}

impl Answer<'_> {
    /// First value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON, if it is whole and JSON.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.body).ok().filter(|_| !self.truncated)
    }
}

/// What becomes of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Arrived.
    Delivered,
    /// Refused for good.
    Rejected,
    /// To be sent again, under the same id.
    Retry,
}

/// A fate, and the service's own word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of the event.
    pub fate: Fate,
    /// Why, if the service said so for this event.
    pub why: Option<Box<str>>,
}

impl Outcome {
    /// Refused, and why.
    pub fn refused(why: &str) -> Outcome {
        Outcome { fate: Fate::Rejected, why: (!why.is_empty()).then(|| why.into()) }
    }
}

impl From<Fate> for Outcome {
    fn from(fate: Fate) -> Outcome {
        Outcome { fate, why: None }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same for all events.
    All(Fate),
    /// One for each event, in order.
    Each(Vec<Outcome>),
    /// So many were refused for good and the others taken, and nobody says which: none may be sent again.
    Counted {
        /// How many; more than there are events count as all.
        rejected: usize,
        /// What the service said about it. With none rejected it is a warning.
        why: Option<Box<str>>,
    },
    /// All delivered as far as the status tells; the body could not be read.
    Unverified,
    /// One of them, or their number, is the trouble: send halves; a single one is rejected.
    Bisect,
    /// Our credentials or address are refused: keep everything, ask again seldom.
    Denied,
    /// The content encoding is not taken: send plain, at once.
    PlainPlease,
}

/// A wire format.
pub trait Format: Send + Sync {
    /// Path of the request where the endpoint has none.
    fn path(&self) -> &'static str;

    /// Value of `Content-Type`.
    fn content_type(&self) -> &'static str;

    /// What the service takes, for events of that kind.
    fn limits(&self, _kind: u8) -> Limits {
        Limits::NONE
    }

    /// Whether the service refuses a request in which an id is there twice, or its answer could not be read then.
    fn unique_ids(&self) -> bool {
        false
    }

    /// Where in an event the configured context goes: keys from the top down, none for the top itself.
    /// `None`: the format was given the context and looks after it.
    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&[])
    }

    /// Whether that is a whole request of the caller's own making, and no JSON: no rule can look into it.
    fn is_serialized(&self, _raw: &[u8]) -> bool {
        false
    }

    /// Headers of a request beside the configured ones and those that each request has.
    fn headers(&self, _envelope: &Envelope<'_>) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Check one event, fill what it lacks and append it; on `Err` nothing counts as appended.
    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid>;

    /// What comes before the events.
    fn open(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>);

    /// What comes between two events.
    fn between(&self) -> &'static [u8];

    /// What comes after them.
    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>);

    /// Most bytes of a body beside the texts of so many events, which are `bytes` long together. Cheap: it is asked for
    /// each event.
    fn overhead(&self, kind: u8, events: usize, bytes: usize) -> usize;

    /// Read the answer to a request with those events.
    fn judge(&self, answer: &Answer<'_>, sent: &Sent<'_>) -> Verdict;

    /// Kinds of events that the service will not take for some time: until then such events are rejected unsent.
    /// Asked for each answer, whatever its status, before [`Format::judge`].
    fn mutes(&self, _answer: &Answer<'_>, _sent: &Sent<'_>) -> Vec<(u8, Duration)> {
        Vec::new()
    }
}

/// The library, as it names itself to services.
pub const SDK: &str = "libtelemetry";
/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Bytes between so many events.
pub fn separators(format: &(impl Format + ?Sized), events: usize) -> usize {
    events.saturating_sub(1) * format.between().len()
}

/// Digits of a number.
pub fn decimals(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The common rule for statuses; a format overrides where its service differs.
pub fn common_verdict(answer: &Answer<'_>) -> Verdict {
    match answer.status {
        200..=299 if answer.truncated => Verdict::Unverified,
        200..=299 => Verdict::All(Fate::Delivered),
        // A redirect that the sink did not follow: the endpoint is wrong, which a person has to mend.
        300..=399 => Verdict::Denied,
        400 | 413 => Verdict::Bisect,
        401..=403 => Verdict::Denied,
        415 => Verdict::PlainPlease,
        408 | 425 | 429 => Verdict::All(Fate::Retry),
        400..=499 => Verdict::All(Fate::Rejected),
        _ => Verdict::All(Fate::Retry),
    }
}

/// The same for services that call 408 final.
pub fn verdict_with_final_408(answer: &Answer<'_>) -> Verdict {
    if answer.status == 408 { Verdict::All(Fate::Rejected) } else { common_verdict(answer) }
}
