//! What is done to each event because the configuration says so: sampled out, redacted, told of its process.
//!
//! Invariants:
//! - Sampling is decided once, at enqueue. Redaction and context belong to the sender, before the format sees the
//!   event; who delivers for another process applies its own rules.
//! - Rules work on the text where it stands ([`edit`]), and touch nothing but what they name: a number keeps its digits.
//! - Redaction comes before everything that shows or keeps the event, except the queue and the spool, which hold it as it
//!   was enqueued. What cannot be redacted is dropped, and nothing of it is shown.
//! - Without rules nothing is looked at.
#![forbid(unsafe_code)]

pub mod context;
pub mod edit;
pub mod path;
pub mod redact;
pub mod sample;
pub mod scan;

use crate::format::{Format, Invalid, Stamp};
use context::Context;
use redact::Redact;
use sample::Sample;
use std::borrow::Cow;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What must not leave.
    pub redact: Option<Redact>,
    /// What is added.
    pub context: Option<Context>,
    /// What is not even taken.
    pub sample: Option<Sample>,
}

impl Rules {
    /// The event as it may be shown and sent, or why it can be neither.
    pub fn redact<'a>(&self, format: &dyn Format, raw: &'a [u8]) -> Result<Cow<'a, [u8]>, Invalid> {
        match &self.redact {
            None => Ok(Cow::Borrowed(raw)),
            Some(_) if format.is_serialized(raw) => Err(Invalid("a serialized request cannot be redacted")),
            Some(redact) => {
                redact.apply(raw).map_err(|_| Invalid("not one JSON object, so it cannot be redacted"))
            }
        }
    }

    /// The event with its context, where the format leaves that to us.
    pub fn add_context<'a>(&self, format: &dyn Format, text: &'a [u8], stamp: &Stamp<'_>) -> Cow<'a, [u8]> {
        let context = self.context.as_ref().and_then(|context| Some((context, format.context_at()?)));
        context.map_or(Cow::Borrowed(text), |(context, place)| context.merge(text, place, stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Answer, Envelope, Sent, Taken, Verdict, common_verdict};

    /// A format that takes serialized requests and looks after the context.
    struct Binary;

    impl Format for Binary {
        fn path(&self) -> &'static str {
            "/"
        }
        fn content_type(&self) -> &'static str {
            "application/x-protobuf"
        }
        fn context_at(&self) -> Option<&'static [&'static str]> {
            None
        }
        fn is_serialized(&self, raw: &[u8]) -> bool {
            raw.first() == Some(&b'\n')
        }
        fn event(&self, out: &mut Vec<u8>, raw: &[u8], _stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
            out.extend_from_slice(raw);
            Ok(Taken::default())
        }
        fn open(&self, _out: &mut Vec<u8>, _envelope: &Envelope<'_>) {}
        fn between(&self) -> &'static [u8] {
            b""
        }
        fn close(&self, _out: &mut Vec<u8>, _envelope: &Envelope<'_>) {}
        fn overhead(&self, _kind: u8, _events: usize, _bytes: usize) -> usize {
            0
        }
        fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
            common_verdict(answer)
        }
    }

    const STAMP: Stamp<'_> = Stamp { id: &[b'0'; 36], time_ns: 1, pid: 2, generation: 3, worker: 4 };

    #[test]
    fn nothing_serialized_passes_redaction() {
        let redact = Redact::parse(vec![("a".into(), "mask".into())]).unwrap();
        let rules = Rules { redact: Some(redact), ..Rules::default() };
        let refused = Err(Invalid("a serialized request cannot be redacted"));
        // The second one happens to be JSON as well.
        for raw in [&b"\n\x03abc"[..], b"\n{}"] {
            assert_eq!(rules.redact(&Binary, raw), refused);
            assert_eq!(Rules::default().redact(&Binary, raw).unwrap(), raw);
        }
        assert_eq!(&*rules.redact(&Binary, br#"{"a":1}"#).unwrap(), br#"{"a":"***"}"#);
        assert!(rules.redact(&Binary, b"\xff").is_err());
    }

    #[test]
    fn a_format_may_look_after_the_context() {
        let context = Context::parse(&[("a".into(), "1".into())], "h").unwrap();
        let rules = Rules { context: Some(context), ..Rules::default() };
        assert!(matches!(rules.add_context(&Binary, b"{}", &STAMP), Cow::Borrowed(b"{}")));
        let ndjson = crate::format::ndjson::Ndjson;
        assert_eq!(&*rules.add_context(&ndjson, b"{}", &STAMP), br#"{"a":1}"#);
        assert!(matches!(Rules::default().add_context(&ndjson, b"{}", &STAMP), Cow::Borrowed(b"{}")));
    }
}
