//! How a batch becomes a request body, and how the answer is read: one file a wire format.
//!
//! Invariants of this room:
//! - A format is an envelope: what comes before, between and after the events, which fields it fills, and
//!   how to read the answer. It does no I/O, keeps no state between batches and imports no other room.
//! - [`Format::event`] either appends exactly one valid event or nothing: a bad event never poisons its
//!   batch. Id and event time are the record's, the same on every attempt; only [`Format::close`] may
//!   stamp the attempt's own time.
//! - [`Format::judge`] gives every event of the request exactly one [`Fate`].

pub mod json;
pub mod json_text;
pub mod ndjson;
pub mod posthog;
pub mod time;

/// What the queue knows of an event.
pub struct Stamp<'a> {
    /// Its id, a UUIDv7.
    pub id: &'a [u8; 36],
    /// Wall clock at enqueue, in nanoseconds since the epoch.
    pub time_ns: u64,
}

/// The event is not what the format needs; the text is for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// An answer, as the sink gave it.
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Body, at most 4 MiB of it.
    pub body: &'a [u8],
    /// The body could not be read to its end.
    pub truncated: bool,
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

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same for all events.
    All(Fate),
    /// One for each event, in order.
    Each(Vec<Fate>),
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
    /// Most bytes of one body that the service takes.
    fn max_body(&self) -> usize;
    /// What comes before the events.
    fn open(&self, out: &mut Vec<u8>);
    /// What comes between two events.
    fn between(&self) -> &'static [u8];
    /// What comes after them; `now_ns` is the time of this attempt.
    fn close(&self, out: &mut Vec<u8>, now_ns: u64);
    /// Check one event, fill what it lacks and append it; on `Err` nothing was appended.
    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<(), Invalid>;
    /// Read the answer to a request with `n` events.
    fn judge(&self, answer: &Answer<'_>, n: usize) -> Verdict;
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
