//! What each answer means in each format, from one table: three events in one request, its answer, and then plain
//! success for whatever is sent again.
use crate::collector::{Collector, Latch, Reply};
use crate::host::{Host, check, until};
use crate::languages::{IDS, LANGUAGES, OTLP, address, event, ids, keys, success};
use std::sync::Arc;
use telemetry::client::handle::Status;

/// What becomes of the three.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// Delivered, all of them, at once.
    Taken,
    /// Delivered, and it cannot be told whether all were.
    Unread,
    /// All are sent again, under the same ids.
    Again,
    /// They are sent again as one, and two.
    Halved,
    /// Refused, and never sent again.
    Final,
    /// All are kept, the circuit is open, and they are sent again later.
    Kept,
    /// For each: `d`elivered, `r`efused or sent `a`gain. Where nobody says which, the numbers count.
    Each(&'static str),
}
use Fate::{Again, Each, Final, Halved, Kept, Taken, Unread};

/// The first answer: a status, its body (`{0}` is the first event's id), or none at all.
#[derive(Clone, Copy, Debug)]
enum First {
    Says(u16, &'static str),
    /// Status line and header, and the connection ends within the body.
    Breaks(u16),
    /// The connection ends without a word.
    Nothing,
}
use First::{Breaks, Nothing, Says};

/// FORMATS, "Common rule and where formats differ": an answer, and what it means in each of [`formats`].
#[rustfmt::skip]
const COMMON: &[(First, [Fate; 10])] = &[
    //                    ndjson  json    v0      v1      langfuse  scores  segment  sentry  logs    traces
    (Nothing,            [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Again,  Again]),
    (Says(408, ""),      [Again,  Again,  Again,  Again,  Final,    Final,  Final,   Final,  Final,  Final]),
    (Says(429, ""),      [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Final,  Again,  Again]),
    (Says(500, ""),      [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Final,  Final]),
    (Says(502, ""),      [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Again,  Again]),
    (Says(503, ""),      [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Again,  Again]),
    (Says(504, ""),      [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Again,  Again]),
    (Says(413, ""),      [Halved, Halved, Halved, Halved, Halved,   Halved, Halved,  Final,  Halved, Halved]),
    (Says(400, ""),      [Halved, Halved, Halved, Halved, Halved,   Halved, Halved,  Final,  Final,  Final]),
    (Says(401, ""),      [Kept,   Kept,   Kept,   Kept,   Kept,     Kept,   Kept,    Kept,   Kept,   Kept]),
    (Says(402, ""),      [Kept,   Kept,   Kept,   Kept,   Kept,     Kept,   Kept,    Kept,   Final,  Final]),
    (Says(403, ""),      [Kept,   Kept,   Kept,   Kept,   Kept,     Kept,   Kept,    Kept,   Kept,   Kept]),
    (Says(404, ""),      [Final,  Final,  Final,  Final,  Final,    Final,  Final,   Final,  Final,  Final]),
    // They are sent plain already: there is no plainer way.
    (Says(415, ""),      [Final,  Final,  Final,  Final,  Final,    Final,  Final,   Final,  Final,  Final]),
    (Says(422, ""),      [Final,  Final,  Final,  Final,  Final,    Final,  Final,   Final,  Final,  Final]),
    (Says(301, ""),      [Kept,   Kept,   Kept,   Kept,   Kept,     Kept,   Kept,    Kept,   Kept,   Kept]),
    (Says(200, "{}"),    [Taken,  Taken,  Taken,  Unread, Unread,   Taken,  Taken,   Taken,  Taken,  Taken]),
    (Says(200, ""),      [Taken,  Taken,  Taken,  Unread, Unread,   Taken,  Taken,   Taken,  Taken,  Taken]),
    (Says(200, "<p>hi"), [Taken,  Taken,  Unread, Unread, Unread,   Taken,  Taken,   Taken,  Unread, Unread]),
    (Says(202, ""),      [Taken,  Taken,  Taken,  Unread, Unread,   Taken,  Taken,   Taken,  Taken,  Taken]),
    (Says(207, "<p>hi"), [Taken,  Taken,  Unread, Unread, Unread,   Unread, Taken,   Taken,  Unread, Unread]),
    (Breaks(200),        [Unread, Unread, Unread, Unread, Unread,   Unread, Unread,  Unread, Unread, Unread]),
    (Breaks(500),        [Again,  Again,  Again,  Again,  Again,    Again,  Again,   Again,  Final,  Final]),
];

/// Answers that only one format has.
const OWN: &[(&str, First, Fate)] = &[
    ("ndjson", Says(200, r#"{"rejected":[{"line":1,"reason":"no"}]}"#), Each("drd")),
    ("ndjson", Says(200, r#"{"rejected":[{"line":3},{"line":-1},{"line":"0"},7]}"#), Taken),
    ("posthog", Says(200, r#"{"status":1}"#), Taken),
    ("posthog", Says(200, r#"{"status":1,"quota_limited":[]}"#), Taken),
    ("posthog", Says(200, r#"{"status":1,"quota_limited":["events"]}"#), Final),
    ("posthog", Says(200, r#"{"status":1,"quota_limited":["recordings"]}"#), Taken),
    ("posthog-v1", Says(200, r#"{"results":{}}"#), Taken),
    ("posthog-v1", Says(200, r#"{"results":[]}"#), Unread),
    (
        "posthog-v1",
        Says(
            200,
            r#"{"results":{"{0}":{"result":"ok"},"{1}":{"result":"drop","details":"x"},"{2}":{"result":"retry"}}}"#,
        ),
        Each("dra"),
    ),
    (
        "posthog-v1",
        Says(
            200,
            r#"{"results":{"{0}":{"result":"retry"},"{1}":{"result":"warning"},"{2}":{"result":"new"}}}"#,
        ),
        Each("add"),
    ),
    (
        "posthog-v1",
        Says(200, r#"{"results":{"{2}":{"result":"drop"},"unknown":{"result":"retry"}}}"#),
        Each("ddr"),
    ),
    ("langfuse", Says(207, r#"{"successes":[{"id":"{0}","status":201}],"errors":[]}"#), Taken),
    (
        "langfuse",
        Says(
            207,
            r#"{"successes":[{"id":"{0}","status":201}],"errors":[{"id":"{1}","status":400},{"id":"{2}","status":500}]}"#,
        ),
        Each("dra"),
    ),
    (
        "langfuse",
        Says(207, r#"{"errors":[{"id":"{0}","status":429},{"id":"{1}","status":503},{"id":"{2}"}]}"#),
        Each("aar"),
    ),
    (
        "langfuse",
        Says(207, r#"{"errors":[{"id":"{0}","status":401},{"id":"{1}","status":404}]}"#),
        Each("rrd"),
    ),
    (
        "langfuse",
        Says(207, r#"{"successes":[],"errors":[{"id":"unknown","status":500},{"status":500},7]}"#),
        Taken,
    ),
    ("langfuse-scores", Says(202, r#"{"message":"Accepted"}"#), Taken),
    ("langfuse-scores", Says(207, r#"{"accepted":2,"rejected":1,"errors":[{"message":"no"}]}"#), Each("rdd")),
    ("langfuse-scores", Says(207, r#"{"accepted":0,"rejected":9,"errors":[]}"#), Final),
    ("langfuse-scores", Says(207, r#"{"accepted":3,"rejected":0,"errors":[]}"#), Taken),
    ("segment", Says(200, r#"{"success":true}"#), Taken),
    ("sentry", Says(200, r#"{"id":"x"}"#), Taken),
    (
        "otlp-logs",
        Says(200, r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"attribute too long"}}"#),
        Each("rdd"),
    ),
    ("otlp-logs", Says(200, r#"{"partialSuccess":{"rejectedLogRecords":9}}"#), Final),
    (
        "otlp-logs",
        Says(200, r#"{"partialSuccess":{"rejectedLogRecords":"0","errorMessage":"careful"}}"#),
        Taken,
    ),
    ("otlp-logs", Says(200, r#"{"partialSuccess":{}}"#), Taken),
    // Field 1, a message with 1 in its field 1.
    ("otlp-traces", Says(200, "\x0a\x02\x08\x01"), Each("rdd")),
    ("otlp-traces", Says(200, "\x0a\x02\x08\x09"), Final),
    ("otlp-traces", Says(200, "\x0a\x07\x12\x05be so"), Taken),
    ("otlp-traces", Says(200, "\x0a\x09\x08"), Unread),
];

/// The columns of [`COMMON`].
fn formats() -> impl Iterator<Item = &'static str> {
    LANGUAGES.into_iter().chain(OTLP)
}

struct Row {
    format: &'static str,
    first: First,
    fate: Fate,
}

fn rows() -> Vec<Row> {
    let common = COMMON.iter().flat_map(|&(first, fates)| {
        formats().zip(fates).map(move |(format, fate)| Row { format, first, fate })
    });
    common.chain(OWN.iter().map(|&(format, first, fate)| Row { format, first, fate })).collect()
}

fn reply(first: First) -> Reply {
    match first {
        Says(status, body) => {
            let body = (0..3).fold(body.to_string(), |text, n| text.replace(&format!("{{{n}}}"), IDS[n]));
            Reply::Full(status, String::new(), body)
        }
        Breaks(status) => Reply::Raw(format!("HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n{{\"succ")),
        Nothing => Reply::Cut,
    }
}

impl Row {
    fn check(&self) {
        let Row { format, first, fate } = *self;
        let row = format!("{format}: {first:?} is {fate:?}");
        let (asked, latch) = (Arc::new(Latch::default()), Arc::new(Latch::default()));
        let held = [Arc::clone(&asked), Arc::clone(&latch)];
        let collector = Collector::start(move |seen| match seen.number {
            0 => Reply::Held(Arc::clone(&held[0]), Box::new(reply(first))),
            _ => Reply::Held(Arc::clone(&held[1]), Box::new(success(format))),
        });
        let mut keys = keys(format);
        keys["compression"] = "none".into();
        let host = Host::open(&address(format, collector.url()), keys);
        for id in IDS {
            assert_eq!(host.enqueue(event(format, id)), Status::Ok, "{row}");
        }
        assert_eq!(host.flush(std::time::Duration::ZERO), Status::Timeout, "{row}");
        asked.open();
        // Delivered, refused, sent again; the requests after the first one.
        let (delivered, rejected, later): (u64, u64, Vec<Vec<usize>>) = match fate {
            Taken | Unread => (3, 0, vec![]),
            Final => (0, 3, vec![]),
            Again | Kept => (3, 0, vec![vec![0, 1, 2]]),
            Halved => (3, 0, vec![vec![0], vec![1, 2]]),
            Each(fates) => {
                let with = |fate| fates.chars().enumerate().filter(move |(_, f)| *f == fate).map(|(n, _)| n);
                let again: Vec<usize> = with('a').collect();
                let refused = with('r').count() as u64;
                (3 - refused, refused, if again.is_empty() { vec![] } else { vec![again] })
            }
        };
        let requests = collector.wait(1 + usize::from(!later.is_empty()));
        assert_eq!(ids(&requests[0]), [0, 1, 2], "{row}");
        if later.is_empty() {
            until(&row, || host.stats().queue_events == 0);
        }
        // While the next request waits for its answer, all of the first one is counted.
        let s = host.stats();
        check(&s);
        assert_eq!(s.circuit_open, u64::from(fate == Kept), "{row}");
        let open = later.iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!((s.delivered, s.rejected), (delivered - open, rejected), "{row}");
        latch.open();
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.accepted, s.queue_events, s.invalid, s.expired), (3, 0, 0, 0), "{row}");
        assert_eq!((s.delivered, s.rejected, s.circuit_open), (delivered, rejected, 0), "{row}");
        assert_eq!(s.unverified, u64::from(fate == Unread), "{row}");
        let requests = collector.requests();
        let sent: Vec<Vec<usize>> = requests[1..].iter().map(ids).collect();
        assert_eq!(sent, later, "{row}");
        let fresh = if fate == Halved { 2 } else { 0 };
        assert_eq!((s.batches, s.retries), (1 + fresh, later.len() as u64 - fresh), "{row}");
    }
}

fn matrix_of(format: &str) {
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.format == format).collect();
    assert!(rows.len() >= COMMON.len(), "{format}");
    rows.iter().for_each(Row::check);
}

/// A test for each format, and one that there is no other.
macro_rules! matrix {
    ($($test:ident $format:literal)*) => {
        $(#[test]
        fn $test() {
            matrix_of($format);
        })*

        #[test]
        fn every_row_is_tested() {
            let tested = [$($format),*];
            assert!(rows().iter().all(|row| tested.contains(&row.format)));
        }
    };
}

matrix! {
    ndjson "ndjson"
    json "json"
    posthog "posthog"
    posthog_v1 "posthog-v1"
    langfuse "langfuse"
    langfuse_scores "langfuse-scores"
    segment "segment"
    sentry "sentry"
    otlp_logs "otlp-logs"
    otlp_traces "otlp-traces"
}
