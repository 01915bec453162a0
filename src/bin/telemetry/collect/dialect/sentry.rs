//! Sentry's envelopes: a line of JSON for the envelope, then for each item a line of JSON and a payload.
//!
//! What the service does: at most one event or transaction an envelope, and kinds that belong together only;
//! 200 with the envelope's id says that it was queued; what is over a limit is answered with
//! `X-Sentry-Rate-Limits`, by category: 429 if nothing of the envelope was taken, else 200. What was
//! thrown away like that is not to be sent again. The key is in `X-Sentry-Auth`, in the query or in the
//! envelope's `dsn`.
//!
//! An event or a transaction is one event of the collector, and so is each log of a `log` item. A
//! `client_report` is none: what it says was discarded is listed in the counts. Items of other kinds
//! (attachments, sessions) are passed over.

use super::{Dialect, Limits, Words};
use crate::collect::batch::{Batch, Verdict};
use crate::collect::http::{Answer, Head};
use crate::collect::loose::{Loose, Maybe};
use crate::collect::scan::{Nested, Pid, Scan};
use crate::collect::walk::Cursor;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

/// See the module's text.
pub struct Sentry;

/// Logs of one item.
const LOGS: usize = 100;
/// The seconds that a share of events is limited for, if it is a share that is refused.
const PAUSE: u64 = 1;

/// Whether it is Sentry's: `/api/<project>/envelope/`, also below a prefix, or by its content type.
pub fn serves(head: &Head) -> bool {
    let path = head.path.strip_suffix('/').unwrap_or(&head.path);
    let project = path.strip_suffix("/envelope").and_then(|p| p.rsplit_once("/api/"));
    project.is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()))
        || head.content_type() == "application/x-sentry-envelope"
}

impl Dialect for Sentry {
    fn name(&self, _head: &Head) -> &'static str {
        "sentry"
    }

    fn read(&self, head: &Head, body: &[u8], batch: &mut Batch) -> Result<(), Answer> {
        let keyed = head.header("X-Sentry-Auth").is_some_and(|v| v.contains("sentry_key="))
            || head.query.split('&').any(|p| p.starts_with("sentry_key="));
        let dsn = parse(body, batch).map_err(|why| self.error(head, 400, &why))?;
        if keyed || dsn { Ok(()) } else { Err(self.error(head, 401, "missing authorization information")) }
    }

    fn answer(&self, head: &Head, batch: &Batch) -> Answer {
        if batch.split().1 > 0 { self.limited(batch, PAUSE, head) } else { taken(batch) }
    }

    fn error(&self, _head: &Head, status: u16, text: &str) -> Answer {
        Answer::json(status, json!({"detail": text}).to_string())
    }

    fn over_quota(&self, head: &Head, batch: &Batch, seconds: u64) -> Answer {
        self.limited(batch, seconds, head)
    }

    fn words(&self) -> Words {
        Words { refused: true, again: false }
    }

    fn limits(&self, _head: &Head) -> Limits {
        Limits { wire: 200 << 10, event: 1 << 20, ..Limits::NONE }
    }
}

impl Sentry {
    fn limited(&self, batch: &Batch, seconds: u64, head: &Head) -> Answer {
        let category = batch.ids.get(1).map_or("", String::as_str);
        let answer = match batch.split().0 {
            0 => self.error(
                head,
                429,
                "Sentry dropped data due to a quota or internal rate limit being reached.",
            ),
            _ => taken(batch),
        };
        let limits = format!("{seconds}:{category}:organization:quota_exceeded");
        answer.with("X-Sentry-Rate-Limits", limits).with("Retry-After", seconds)
    }
}

fn taken(batch: &Batch) -> Answer {
    match batch.ids.first().filter(|id| !id.is_empty()) {
        Some(id) => Answer::json(200, json!({"id": id}).to_string()),
        None => Answer::json(200, "{}"),
    }
}

/// The first line.
#[derive(Deserialize, Default)]
#[serde(default)]
struct EnvelopeHead<'a> {
    #[serde(borrow)]
    event_id: Loose<'a>,
    #[serde(borrow)]
    dsn: Loose<'a>,
}

/// The line before a payload.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ItemHead<'a> {
    #[serde(borrow, rename = "type")]
    kind: Loose<'a>,
    /// The payload's bytes; without it the payload is a line.
    length: Option<u64>,
    item_count: Option<u64>,
}

/// What is looked at in an event or a transaction.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Event<'a> {
    #[serde(borrow)]
    event_id: Loose<'a>,
    tags: Nested,
    extra: Nested,
    #[serde(borrow)]
    pid: Loose<'a>,
}

/// What is looked at in a log.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Log<'a> {
    #[serde(borrow)]
    attributes: Maybe<Attributes<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Attributes<'a> {
    #[serde(borrow)]
    pid: Maybe<Attribute<'a>>,
    #[serde(borrow, rename = "process.pid")]
    process: Maybe<Attribute<'a>>,
    #[serde(borrow, rename = "telemetry.event.id")]
    id: Maybe<Attribute<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Attribute<'a> {
    #[serde(borrow)]
    value: Loose<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Report<'a> {
    #[serde(borrow)]
    discarded_events: Vec<Discarded<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Discarded<'a> {
    #[serde(borrow)]
    reason: Loose<'a>,
    #[serde(borrow)]
    category: Loose<'a>,
    quantity: u64,
}

/// Takes the envelope apart. `batch.ids` becomes its id and the category of its events. Whether there is a
/// `dsn`.
fn parse(body: &[u8], batch: &mut Batch) -> Result<bool, String> {
    let line_end = |from: usize| memchr::memchr(b'\n', &body[from..]).map_or(body.len(), |i| from + i);
    let mut at = line_end(0);
    let head: EnvelopeHead<'_> = object(&body[..at])?;
    batch.ids.push(head.event_id.text().unwrap_or_default().into());
    let mut kinds: Vec<&str> = Vec::new();
    while at + 1 < body.len() {
        let from = at + 1;
        let end = line_end(from);
        if body[from..end].trim_ascii().is_empty() {
            at = end;
            continue;
        }
        let item: ItemHead<'_> = object(&body[from..end])?;
        let start = (end + 1).min(body.len());
        let stop = match item.length {
            Some(n) => usize::try_from(n)
                .ok()
                .and_then(|n| start.checked_add(n))
                .filter(|stop| *stop <= body.len())
                .ok_or("invalid envelope: an item is cut short")?,
            None => line_end(start),
        };
        if stop < body.len() && body[stop] != b'\n' {
            return Err("invalid envelope: an item is longer than its length".into());
        }
        let payload = &body[start..stop];
        match item.kind.text().ok_or("invalid envelope: an item without a type")? {
            "event" => {
                kinds.push("error");
                event(payload, batch)?;
            }
            "transaction" => {
                kinds.push("transaction");
                event(payload, batch)?;
            }
            "log" => {
                kinds.push("log_item");
                logs(payload, item.item_count, batch)?;
            }
            "client_report" => {
                let report: Report<'_> = object(payload)?;
                for d in report.discarded_events {
                    let why = d.reason.text().unwrap_or("unknown");
                    let what = d.category.text().unwrap_or("unknown");
                    batch.discarded.push((format!("{why}/{what}"), d.quantity));
                }
            }
            _ => {}
        }
        at = stop;
    }
    if kinds.len() > 1 {
        return Err(format!("invalid envelope: several items that hold events: {kinds:?}"));
    }
    batch.ids.push(kinds.first().copied().unwrap_or_default().into());
    Ok(head.dsn.filled().is_some())
}

/// A line or a payload that is one object.
fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let read = || {
        let mut c = Cursor::new(text)?;
        let value = c.object_as()?;
        c.end()?;
        Ok(value)
    };
    read().map_err(|why: String| format!("invalid envelope: {why}"))
}

fn event(payload: &[u8], batch: &mut Batch) -> Result<(), String> {
    let mut c = Cursor::new(payload)?;
    let text = c.object_text()?;
    c.end()?;
    let e: Event<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let envelope = batch.ids.first().filter(|id| !id.is_empty());
    let id = e.event_id.id().or_else(|| envelope.and_then(|id| crate::collect::scan::id_of(id)));
    let pid = e.tags.pid().or(e.extra.pid()).or(e.pid.pid());
    batch.push(Scan { id, pid }, text, Verdict::Taken);
    Ok(())
}

fn logs(payload: &[u8], said: Option<u64>, batch: &mut Batch) -> Result<(), String> {
    let mut c = Cursor::new(payload)?;
    let before = batch.events.len();
    c.object(&mut |c, key| {
        if key != "items" {
            return c.value::<IgnoredAny>().map(drop);
        }
        c.array(&mut |c| {
            let from = c.at;
            let log = c.object_as::<Log<'_>>()?;
            let (mut id, mut pid): (Option<u128>, Option<Pid>) = (None, None);
            if let Some(a) = log.attributes.get() {
                id = a.id.get().and_then(|v| v.value.id());
                let of = |v: &Maybe<Attribute<'_>>| v.get().and_then(|v| v.value.pid());
                pid = of(&a.pid).or_else(|| of(&a.process));
            }
            batch.push(Scan { id, pid }, &c.text[from..c.at], Verdict::Taken);
            Ok(())
        })
    })?;
    c.end()?;
    let found = batch.events.len() - before;
    if said.is_some_and(|n| n != found as u64) {
        return Err(format!("invalid envelope: item_count is not {found}"));
    }
    if found > LOGS {
        return Err(format!("invalid envelope: more than {LOGS} logs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(Batch, Answer), Answer> {
        let head =
            Head::of("/api/7/envelope/", &[("X-Sentry-Auth", "Sentry sentry_key=k, sentry_version=7")]);
        let mut batch = Batch::default();
        Sentry.read(&head, body.as_bytes(), &mut batch)?;
        let answer = Sentry.answer(&head, &batch);
        Ok((batch, answer))
    }

    #[test]
    fn envelopes() {
        let (batch, answer) = read(
            "{\"event_id\":\"e1\"}\n{\"type\":\"event\",\"length\":35}\n{\"event_id\":\"e1\",\n\"tags\":{\"pid\":4}}\n\
             {\"type\":\"attachment\",\"length\":3}\n\0\n\x01\n{\"type\":\"client_report\"}\n\
             {\"discarded_events\":[{\"reason\":\"queue_overflow\",\"category\":\"error\",\"quantity\":3}]}\n",
        )
        .unwrap_or_else(|a| panic!("{a:?}"));
        assert_eq!(String::from_utf8_lossy(&batch.lines), "{\"event_id\":\"e1\", \"tags\":{\"pid\":4}}\n");
        assert_eq!(
            (batch.pids.as_slice(), answer.body.as_slice()),
            (&[Pid::Number(4)][..], &b"{\"id\":\"e1\"}"[..])
        );
        assert_eq!(batch.discarded, [("queue_overflow/error".to_string(), 3)]);
        let logs = "{}\n{\"type\":\"log\",\"item_count\":2}\n{\"items\":[{\"body\":\"a\",\"attributes\":\
            {\"pid\":{\"value\":5,\"type\":\"integer\"},\"telemetry.event.id\":{\"value\":\"x\"}}},{}]}";
        let (mut batch, answer) = read(logs).unwrap_or_else(|a| panic!("{a:?}"));
        assert_eq!(
            (batch.events.len(), batch.events[0].key.is_some(), answer.body.as_slice()),
            (2, true, &b"{}"[..])
        );
        // A share of them is refused, then all.
        let head = Head::of("/", &[]);
        for status in [200, 429] {
            let at = usize::from(status == 429);
            batch.events[at].verdict = Verdict::Refused("x");
            let answer = Sentry.answer(&head, &batch);
            assert_eq!(answer.status, status);
            assert_eq!(answer.extra[0].1, "1:log_item:organization:quota_exceeded");
        }
    }

    #[test]
    fn bad_envelopes() {
        let event = "{\"type\":\"event\"}\n{}\n";
        for body in [
            "",
            "x\n",
            "[]\n",
            "{}\n{\"type\":\"event\",\"length\":9}\nx",
            "{}\n{\"type\":\"event\",\"length\":1}\n{}\n",
            "{}\n{\"type\":\"event\"}\n[]\n",
            "{}\n{\"length\":2}\n{}\n",
            "{}\n{\"type\":\"log\",\"item_count\":1}\n{\"items\":[]}\n",
            &format!("{{}}\n{event}{event}"),
            &format!("{{}}\n{event}{{\"type\":\"log\"}}\n{{\"items\":[{{}}]}}"),
            &format!("{{}}\n{{\"type\":\"log\"}}\n{{\"items\":[{}]}}", vec!["{}"; 101].join(",")),
        ] {
            assert_eq!(read(body).err().map(|a| a.status), Some(400), "{body}");
        }
        let head = Head::of("/api/7/envelope/", &[]);
        let asked = |body: &str| Sentry.read(&head, body.as_bytes(), &mut Batch::default());
        assert_eq!(asked("{}\n{\"type\":\"event\"}\n{}").unwrap_err().status, 401);
        assert!(asked("{\"dsn\":\"https://k@h/7\"}\n{\"type\":\"event\"}\n{}").is_ok());
    }
}
