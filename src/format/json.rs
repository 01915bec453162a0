//! JSON: the events as one array, `application/json`. Any 2xx takes them all. Fills `id` and `timestamp`.

use super::{
    Answer, Envelope, Format, Invalid, Sent, Stamp, Taken, Verdict, common_verdict, ndjson, separators,
};

/// See the module's text.
pub struct JsonArray;

impl Format for JsonArray {
    fn path(&self) -> &'static str {
        "/"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn open(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.push(b'[');
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, _envelope: &Envelope<'_>) {
        out.push(b']');
    }

    fn overhead(&self, _kind: u8, events: usize, _bytes: usize) -> usize {
        separators(self, events) + 2
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        ndjson::append_event(out, raw, stamp)
    }

    fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
        common_verdict(answer)
    }
}
