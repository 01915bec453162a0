//! The languages of the services whose place the collector takes: one file a service.
//!
//! Invariants of this room:
//! - A dialect is chosen by the request's path (and, for Sentry, its content type) before its body is
//!   read. What no service claims is taken as NDJSON or a JSON array, at any path.
//! - A dialect has no state. It says who may send ([`Dialect::admit`]), takes a body apart and judges each
//!   event as the service would ([`Dialect::read`]), and puts the verdicts into the service's words
//!   ([`Dialect::answer`]); it stores and counts nothing.
//! - All or nothing: where `admit` or `read` gives an answer, nothing of the request is stored.
//! - What is checked is what the service checks. Where stored versions of a service differ, the newest
//!   one that could be read is followed.

mod langfuse;
pub mod media;
mod otlp;
pub mod plain;
mod posthog;
mod posthog_v1;
mod scores;
mod segment;
mod sentry;

use super::batch::Batch;
use super::http::{Answer, Head};
use super::unpack::Encoding;

/// The most that a service takes, and the status that says of a body that it is more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body as it came, compressed or not.
    pub wire: usize,
    /// Bytes of a body unpacked.
    pub body: usize,
    /// Bytes of an event.
    pub event: usize,
    /// The status for a body.
    pub status: u16,
    /// The status for an event.
    pub event_status: u16,
}

impl Limits {
    /// None.
    pub const NONE: Limits = Limits::of_body(usize::MAX, 413);

    /// Of a body, on the wire and unpacked.
    pub const fn of_body(bytes: usize, status: u16) -> Limits {
        Limits { wire: bytes, body: bytes, event: usize::MAX, status, event_status: status }
    }
}

/// Which verdicts on single events the service can put into words.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// "This one is refused."
    pub refused: bool,
    /// "Send this one again."
    pub again: bool,
}

/// See the module's text.
pub trait Dialect: Sync {
    /// The format's name, as in the library's configuration.
    fn name(&self, head: &Head) -> &'static str;
    /// The encodings that it takes.
    fn encodings(&self) -> &'static [Encoding] {
        &[Encoding::Identity, Encoding::Gzip, Encoding::Deflate]
    }
    /// Looks at the head alone.
    fn admit(&self, _head: &Head) -> Result<(), Answer> {
        Ok(())
    }
    /// Takes the body apart, and judges each event.
    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer>;
    /// What is said when every event has its verdict.
    fn answer(&self, head: &Head, batch: &Batch) -> Answer;
    /// What is said of a request as a whole that is not taken.
    fn error(&self, head: &Head, status: u16, text: &str) -> Answer;
    /// What is said when the customer is over the quota for `seconds` more; nothing is stored.
    fn over_quota(&self, head: &Head, _batch: &Batch, seconds: u64) -> Answer {
        self.error(head, 429, "over the quota").with("Retry-After", seconds)
    }
    /// What it can say of single events.
    fn words(&self) -> Words;
    /// The service's own limits.
    fn limits(&self, head: &Head) -> Limits;
}

/// What a request is for.
pub enum Route {
    /// It brings events.
    Events(&'static dyn Dialect),
    /// A step of a Langfuse upload.
    Media(media::Step),
}

/// Whether `path` is one of `ends`, or one of them below a prefix. A slash at the end does not matter.
fn below(path: &str, ends: &[&str]) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    ends.iter().any(|end| path.ends_with(end))
}

/// Whose request it is; `None` if it is none of a service.
pub fn route(head: &Head) -> Option<Route> {
    if let Some(step) = media::step(head) {
        return Some(Route::Media(step));
    }
    if head.method != "POST" {
        return None;
    }
    let path = head.path.as_str();
    let at_root = path.strip_suffix('/').unwrap_or(path);
    Some(Route::Events(if below(path, &["/i/v1/analytics/events", "/i/v1/ai/events"]) {
        &posthog_v1::PosthogV1
    } else if matches!(at_root, "/batch" | "/e" | "/capture") || below(path, &["/i/v0/e", "/i/v0/ai/batch"]) {
        &posthog::Posthog
    } else if below(path, &["/api/public/ingestion"]) {
        &langfuse::Langfuse
    } else if below(path, &["/api/public/scores"]) {
        &scores::Scores
    } else if below(path, &["/v1/logs"]) {
        &otlp::Otlp { traces: false }
    } else if below(path, &["/v1/traces"]) {
        &otlp::Otlp { traces: true }
    } else if segment::serves(path) {
        &segment::Segment
    } else if sentry::serves(head) {
        &sentry::Sentry
    } else {
        &plain::Plain
    }))
}

/// Whether the text is a time by RFC 3339, with its offset.
fn rfc3339(text: &str) -> bool {
    let b = text.as_bytes();
    let shape = |part: &[u8], shape: &[u8]| {
        part.len() == shape.len()
            && part.iter().zip(shape).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    let number = |at: usize| -> u32 {
        let digit = |i: usize| b.get(i).map_or(0, |d| u32::from(d.wrapping_sub(b'0')));
        digit(at) * 10 + digit(at + 1)
    };
    let Some((date, rest)) = b.split_at_checked(19) else { return false };
    if !(shape(date, b"0000-00-00T00:00:00") || shape(date, b"0000-00-00t00:00:00"))
        || !(1..=12).contains(&number(5))
        || !(1..=31).contains(&number(8))
        || number(11) > 23
        || number(14) > 59
        || number(17) > 60
    {
        return false;
    }
    let fraction = match rest.strip_prefix(b".") {
        Some(digits) => match digits.iter().take_while(|d| d.is_ascii_digit()).count() {
            0 => return false,
            n => n + 1,
        },
        None => 0,
    };
    let offset = &rest[fraction..];
    let hours = 19 + fraction + 1;
    matches!(offset, b"Z" | b"z")
        || ((shape(offset, b"+00:00") || shape(offset, b"-00:00"))
            && number(hours) < 24
            && number(hours + 3) < 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let name = |path: &str| match route(&Head::of(path, &[])) {
            Some(Route::Events(d)) => d.name(&Head::of(path, &[])),
            _ => "none",
        };
        for (path, expected) in [
            ("/batch/", "posthog"),
            ("/batch", "posthog"),
            ("/e/", "posthog"),
            ("/i/v0/e/", "posthog"),
            ("/ph/i/v0/ai/batch/", "posthog"),
            ("/i/v1/analytics/events", "posthog-v1"),
            ("/i/v1/ai/events/", "posthog-v1"),
            ("/base/api/public/ingestion", "langfuse"),
            ("/api/public/scores", "langfuse-scores"),
            ("/v1/logs", "otlp-logs"),
            ("/api/public/otel/v1/traces", "otlp-traces"),
            ("/v1/batch", "segment"),
            ("/v1/import", "segment"),
            ("/v1/alias", "segment"),
            ("/api/7/envelope/", "sentry"),
            ("/p/api/12/envelope", "sentry"),
            ("/api/x/envelope/", "ndjson"),
            ("/my/batch", "ndjson"),
            ("/", "ndjson"),
            ("/v1/metrics", "ndjson"),
        ] {
            assert_eq!(name(path), expected, "{path}");
        }
        let json = Head::of("/", &[("Content-Type", "application/json; charset=utf-8")]);
        assert!(matches!(route(&json), Some(Route::Events(d)) if d.name(&json) == "json"));
        let mut get = Head::of("/api/public/scores", &[]);
        get.method = "GET".into();
        assert!(route(&get).is_none());
    }

    #[test]
    fn times() {
        for good in
            ["2026-11-21T02:30:00Z", "2026-11-21t02:30:60.123456789+05:30", "2026-11-21T23:59:59.1-00:00"]
        {
            assert!(rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T02:30:00",
            "2026-11-21 02:30:00Z",
            "2026-13-21T02:30:00Z",
            "2026-11-00T02:30:00Z",
            "2026-11-21T24:30:00Z",
            "2026-11-21T02:30:00.Z",
            "2026-11-21T02:30:00+0530",
            "2026-11-21T02:30:00+05:60",
            "2026-11-21T02:30:00Zx",
        ] {
            assert!(!rfc3339(bad), "{bad}");
        }
    }
}
