//! The trace context that workers work under: W3C `traceparent`, `tracestate` and `baggage`, as texts.
//!
//! Invariant: it is captured when a group is added, on the supervisor's thread, and handed to each worker before its own
//! code runs; nothing here interprets it but [`Trace::new`], which drops a `traceparent` that is none.
#![forbid(unsafe_code)]

use std::ffi::OsString;

/// See the module's text. Empty texts: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// `00-<trace id>-<span id>-<flags>`.
    pub traceparent: String,
    /// Vendors' parts.
    pub tracestate: String,
    /// Pairs of the application's.
    pub baggage: String,
}

impl Trace {
    /// Without `traceparent` a `tracestate` means nothing (W3C Trace Context, 3.3).
    pub fn new(traceparent: String, tracestate: String, baggage: String) -> Trace {
        let good = is_traceparent(&traceparent);
        let keep = |text: String| if good { text } else { String::new() };
        Trace { tracestate: keep(tracestate), traceparent: keep(traceparent), baggage }
    }

    /// One of the three, by its number in the C interface.
    pub fn part(&self, which: u32) -> Option<&str> {
        match which {
            0 => Some(&self.traceparent),
            1 => Some(&self.tracestate),
            2 => Some(&self.baggage),
            _ => None,
        }
    }

    /// As variables, those that say something.
    pub fn variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        let pairs = [
            ("TRACEPARENT", &self.traceparent),
            ("TRACESTATE", &self.tracestate),
            ("BAGGAGE", &self.baggage),
        ];
        pairs
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.into(), value.into()))
    }

    /// What it does not say itself, from there.
    pub fn or(self, other: &Trace) -> Trace {
        let Trace { traceparent, tracestate, baggage } = self;
        let none = traceparent.is_empty();
        Trace {
            tracestate: if none { other.tracestate.clone() } else { tracestate },
            traceparent: if none { other.traceparent.clone() } else { traceparent },
            baggage: if baggage.is_empty() { other.baggage.clone() } else { baggage },
        }
    }
}

/// Version, trace id, parent id and flags; ids of zeros are none.
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &&str, len: usize| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return false };
    let known = *version != "ff" && (more.is_empty() || *version != "00");
    let zeros = |part: &&str| part.bytes().all(|b| b == b'0');
    known
        && hex(version, 2)
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && !zeros(trace)
        && !zeros(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_traceparent_is_dropped_with_its_state() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::new(good.into(), "a=1".into(), "k=v".into());
        assert_eq!(
            (trace.part(0), trace.part(1), trace.part(2), trace.part(3)),
            (Some(good), Some("a=1"), Some("k=v"), None)
        );
        assert_eq!(trace.variables().count(), 3);
        for bad in [
            "",
            "x",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            let trace = Trace::new(bad.into(), "a=1".into(), "k=v".into());
            assert_eq!(
                (trace.part(0), trace.part(1), trace.part(2)),
                (Some(""), Some(""), Some("k=v")),
                "{bad}"
            );
        }
        assert_eq!(Trace::default().or(&trace), trace);
    }
}
