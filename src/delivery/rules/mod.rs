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
        context.map_or(Cow::Borrowed(text), |(context, place)| {
            context.merge(text, place, stamp.pid, stamp.generation)
        })
    }
}
