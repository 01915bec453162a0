//! JSON: the events as one array, `application/json`. Any 2xx takes them all. Fills `id` and `timestamp`.

use super::{Answer, Format, Invalid, Stamp, Verdict, common_verdict, ndjson};

/// See the module's text.
pub struct JsonArray;

impl Format for JsonArray {
    fn path(&self) -> &'static str {
        "/"
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn max_body(&self) -> usize {
        usize::MAX
    }

    fn open(&self, out: &mut Vec<u8>) {
        out.push(b'[');
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, _now_ns: u64) {
        out.push(b']');
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<(), Invalid> {
        ndjson::append_event(out, raw, stamp)
    }

    fn judge(&self, answer: &Answer<'_>, _n: usize) -> Verdict {
        common_verdict(answer)
    }
}
