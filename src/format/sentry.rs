//! Sentry's envelopes: a header line, an item's header line and the item, to `/api/<project>/envelope/`.
//!
//! An event is an error event (kind 0; `type` is missing or `event`), a transaction (kind 1; `"type":"transaction"`) or
//! a log (kind 2; `"type":"log"`, see [`super::sentry_log`]). Kinds do not mix. An envelope holds one event or
//! transaction, whose `event_id` its header repeats, or up to 100 logs.
//!
//! The service's promise: 200 means received. An `event_id` that is there already is dropped, so it is filled here from
//! the record: a UUID without hyphens. On any status `X-Sentry-Rate-Limits` may say what is not taken for a while: that
//! is dropped unsent, as the service asks of its clients, and so is everything for 60 s after a 429 that says nothing.
//! What a 429 refuses the service has counted, and it is never sent again; 400, 408 and 413 are final too. 5xx and
//! lost connections are tried again, which is ours: the official clients drop.
//!
//! At most 1 MB an event before compression, and as much for the logs of an envelope. (It also wants no more than 200 KB
//! after compression and says 413 to more, which nobody can know beforehand.) Losses are not reported to the service
//! (`client_report`): a format keeps no state, and the counters and the dead letter file have them.

use super::json_text::{self, Members};
use super::{
    Answer, Envelope, Fate, Format, Invalid, Limits, SDK, Sent, Stamp, Taken, VERSION, Verdict,
    common_verdict, decimals, sentry_log, separators, time, uuid,
};
use std::time::Duration;

/// Error events.
pub const ERROR: u8 = 0;
/// Transactions.
pub const TRANSACTION: u8 = 1;
/// Logs.
pub const LOG: u8 = 2;

/// What the rate limits call them.
const CATEGORIES: [(u8, &str); 3] = [(ERROR, "error"), (TRANSACTION, "transaction"), (LOG, "log_item")];
/// How long a 429 holds that does not say how long.
const PAUSE: Duration = Duration::from_secs(60);
const LOGS: &[u8] = b"{\"items\":[";
const LOGS_END: &[u8] = b"]}";

/// See the module's text.
pub struct Sentry {
    auth: String,
    /// `,"dsn":"..."`
    dsn: String,
}

impl Sentry {
    /// With the key of a DSN, and the DSN itself if envelopes are to name it.
    pub fn new(key: &str, dsn_without_secret: Option<String>) -> Sentry {
        let dsn = dsn_without_secret.map(serde_json::Value::from);
        Sentry {
            auth: format!("Sentry sentry_key={key}, sentry_version=7, sentry_client={SDK}/{VERSION}"),
            dsn: dsn.map_or(String::new(), |dsn| format!(",\"dsn\":{dsn}")),
        }
    }
}

impl Format for Sentry {
    fn path(&self) -> &'static str {
        "/"
    }

    fn content_type(&self) -> &'static str {
        "application/x-sentry-envelope"
    }

    fn limits(&self, kind: u8) -> Limits {
        let (event, head) = (1_000_000, 4096);
        Limits { body: event + head, event, events: if kind == LOG { 100 } else { 1 } }
    }

    fn context_at(&self) -> Option<&'static [&'static str]> {
        Some(&["tags"])
    }

    fn headers(&self, _envelope: &Envelope<'_>) -> Vec<(String, String)> {
        vec![("X-Sentry-Auth".into(), self.auth.clone())]
    }

    fn open(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.push(b'{');
        if envelope.kind != LOG {
            json_text::member(out, "event_id", envelope.first.as_bytes());
        }
        json_text::member(out, "sent_at", &time::rfc3339_ms(envelope.now_ns));
        json_text::end(out, self.dsn.as_bytes());
        out.extend_from_slice(b"}\n");
        let item = match envelope.kind {
            LOG => {
                let length = envelope.bytes + separators(self, envelope.events) + LOGS.len() + LOGS_END.len();
                let (count, kind) = (envelope.events, "application/vnd.sentry.items.log+json");
                format!(
                    "{{\"type\":\"log\",\"item_count\":{count},\"length\":{length},\"content_type\":\"{kind}\"}}\n"
                )
            }
            kind => {
                let (name, length) =
                    (if kind == TRANSACTION { "transaction" } else { "event" }, envelope.bytes);
                format!("{{\"type\":\"{name}\",\"length\":{length},\"content_type\":\"application/json\"}}\n")
            }
        };
        out.extend_from_slice(item.as_bytes());
        out.extend_from_slice(if envelope.kind == LOG { LOGS } else { b"" });
    }

    fn between(&self) -> &'static [u8] {
        b","
    }

    fn close(&self, out: &mut Vec<u8>, envelope: &Envelope<'_>) {
        out.extend_from_slice(if envelope.kind == LOG { LOGS_END } else { b"" });
        out.push(b'\n');
    }

    fn overhead(&self, _kind: u8, events: usize, bytes: usize) -> usize {
        const HEAD: usize =
            r#"{"event_id":"0198a0c26d0e7c118a775d1c2e9b4f10","sent_at":"2026-11-21T02:30:00.120Z"}"#.len()
                + 1;
        const ITEM: usize =
            r#"{"type":"log","item_count":,"length":,"content_type":"application/vnd.sentry.items.log+json"}"#
                .len() + 1;
        let around = LOGS.len() + separators(self, events) + LOGS_END.len();
        HEAD + self.dsn.len() + ITEM + decimals(events) + decimals(bytes + around) + around + 1
    }

    fn event(&self, out: &mut Vec<u8>, raw: &[u8], stamp: &Stamp<'_>) -> Result<Taken, Invalid> {
        let mut top = Members::of_event(raw)?;
        let kind = match top.get("type").map(json_text::string) {
            None => ERROR,
            Some(word) => match word.as_deref() {
                // Two of the service's own words for error events.
                Some("error" | "default") => ERROR,
                Some("event") => {
                    top.take("type");
                    ERROR
                }
                Some("transaction") => TRANSACTION,
                Some("log") => {
                    sentry_log::append(out, top, stamp)?;
                    return Ok(Taken { id: None, kind: LOG });
                }
                _ => return Err(Invalid("type is none of event, transaction and log")),
            },
        };
        let id = match top.take("event_id") {
            Some(text) => json_text::string(text).and_then(|text| uuid::digits(&text)),
            None => std::str::from_utf8(stamp.id).ok().and_then(uuid::digits),
        };
        let id = id.ok_or(Invalid("event_id is not a UUID"))?;
        out.push(b'{');
        json_text::member(out, "event_id", &id);
        match top.take("timestamp") {
            Some(text) => json_text::put_text(out, "timestamp", text),
            None => json_text::member(out, "timestamp", &time::rfc3339_ms(stamp.time_ns)),
        }
        top.append(out);
        json_text::end(out, b"}");
        Ok(Taken { id: Some(String::from_utf8_lossy(&id).into()), kind })
    }

    fn judge(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Verdict {
        match answer.status {
            400 | 408 | 413 | 429 => Verdict::All(Fate::Rejected),
            _ => common_verdict(answer),
        }
    }

    fn mutes(&self, answer: &Answer<'_>, _sent: &Sent<'_>) -> Vec<(u8, Duration)> {
        let limits = answer.header("x-sentry-rate-limits").map(limits).unwrap_or_default();
        if limits.is_empty() && answer.status == 429 {
            let pause = retry_after(answer).unwrap_or(PAUSE);
            return CATEGORIES.map(|(kind, _)| (kind, pause)).to_vec();
        }
        limits.iter().flat_map(|(pause, names)| muted(names).map(|kind| (kind, *pause))).collect()
    }
}

/// `<seconds>:<category>;<category>:<scope>...`, comma separated; what cannot be read is passed over.
fn limits(header: &str) -> Vec<(Duration, &str)> {
    header.split(',').filter_map(limit).collect()
}

fn limit(text: &str) -> Option<(Duration, &str)> {
    let (seconds, rest) = text.split_once(':')?;
    let pause = Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()?;
    Some((pause, rest.split(':').next().unwrap_or_default()))
}

/// The kinds of those categories; of all, if there are none.
fn muted(names: &str) -> impl Iterator<Item = u8> {
    let all = names.trim().is_empty();
    CATEGORIES
        .into_iter()
        .filter(move |(_, category)| all || names.split(';').any(|name| name.trim() == *category))
        .map(|(kind, _)| kind)
}

/// Seconds, or a date as far as the answer's own clock tells how far that is.
fn retry_after(answer: &Answer<'_>) -> Option<Duration> {
    let value = answer.header("retry-after")?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    at.duration_since(httpdate::parse_http_date(answer.header("date")?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::kit::{A, ID, R, T, TIME, event, request, statuses, value, why};
    use super::*;
    use serde_json::{Value, json};

    const HEX: &str = "0198a0c26d0e7c118a775d1c2e9b4f10";

    fn f() -> Sentry {
        Sentry::new("k3y", Some("https://k3y@h/1".into()))
    }

    /// Its three lines; the length in the second is the third's.
    fn lines(body: &str) -> [Value; 3] {
        let lines: Vec<&str> = body.strip_suffix('\n').unwrap().split('\n').collect();
        let [head, item, payload] = lines[..] else { panic!("{body}") };
        let parsed = [head, item, payload].map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(parsed[1]["length"], payload.len(), "{item}");
        parsed
    }

    #[test]
    fn an_event_and_a_transaction() {
        let (body, headers) = request(&f(), &[r#"{"level":"info","message":"job_done","type":"event"}"#]);
        let [head, item, payload] = lines(&body);
        assert_eq!(
            head,
            json!({"event_id": HEX, "sent_at": "2026-11-21T02:30:00.120Z", "dsn": "https://k3y@h/1"})
        );
        assert_eq!((&item["type"], &item["content_type"]), (&json!("event"), &json!("application/json")));
        assert_eq!(
            payload,
            json!({"event_id": HEX, "timestamp": TIME, "level": "info", "message": "job_done"})
        );
        let version = env!("CARGO_PKG_VERSION");
        let auth = format!("Sentry sentry_key=k3y, sentry_version=7, sentry_client=libtelemetry/{version}");
        assert_eq!(headers, [("X-Sentry-Auth".to_string(), auth)]);

        let own = r#"{"type":"transaction","event_id":"0198A0C2-6D0E-7C11-8A77-5D1C2E9B4F99","timestamp":7.50,"spans":[
            ]}"#;
        let (body, _) = request(&Sentry::new("k", None), &[own]);
        let [head, item, payload] = lines(&body);
        let mine = "0198a0c26d0e7c118a775d1c2e9b4f99";
        assert_eq!(head, json!({"event_id": mine, "sent_at": "2026-11-21T02:30:00.120Z"}));
        assert_eq!(item["type"], "transaction");
        assert_eq!(payload, json!({"event_id": mine, "timestamp": 7.5, "type": "transaction", "spans": []}));
        assert!(body.contains("7.50"), "as it was written");
    }

    #[test]
    fn logs_share_an_envelope() {
        let log = r#"{"type":"log","level":"info","body":"b"}"#;
        let [head, item, payload] = lines(&request(&f(), &[log, log, log]).0);
        assert_eq!((head.get("event_id"), &item["type"]), (None, &json!("log")));
        assert_eq!(item["item_count"], 3);
        assert_eq!(item["content_type"], "application/vnd.sentry.items.log+json");
        assert_eq!(payload["items"].as_array().unwrap().len(), 3);
        assert_eq!(payload["items"][0]["body"], "b");
        assert_eq!(
            (f().limits(ERROR).events, f().limits(TRANSACTION).events, f().limits(LOG).events),
            (1, 1, 100)
        );
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for (raw, reason) in [
            ("[]", "not one JSON object"),
            (r#"{"type":"session"}"#, "type"),
            (r#"{"type":7}"#, "type"),
            (r#"{"event_id":"mine"}"#, "event_id"),
            (r#"{"event_id":7}"#, "event_id"),
            (r#"{"type":"log","body":"b"}"#, "level"),
        ] {
            assert!(why(&f(), raw).contains(reason), "{raw}");
        }
        assert_eq!(value(&f(), r#"{"type":"error"}"#)["type"], "error");
        let (taken, _) = event(&f(), r#"{"type":null,"event_id":null,"timestamp":null}"#).unwrap();
        assert_eq!(taken, Taken { id: Some(HEX.into()), kind: ERROR });
        assert_eq!(ID.replace('-', ""), HEX);
    }

    #[test]
    fn what_answers_mean() {
        statuses(
            &f(),
            &[
                (&[200, 202], A),
                (&[400, 404, 408, 413, 429], R),
                (&[401, 402, 403], Verdict::Denied),
                (&[500, 502, 503, 504], T),
                (&[415], Verdict::PlainPlease),
            ],
        );
    }

    fn mutes(status: u16, headers: &[(&str, &str)]) -> Vec<(u8, u64)> {
        let headers: Vec<(String, String)> =
            headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let answer = Answer { status, headers: &headers, body: b"", truncated: false };
        let found = f().mutes(&answer, &Sent { kind: ERROR, ids: &[] });
        found.into_iter().map(|(kind, pause)| (kind, pause.as_millis() as u64)).collect()
    }

    #[test]
    fn rate_limits_mute_their_categories() {
        let limit = |value: &str| mutes(200, &[("x-sentry-rate-limits", value)]);
        assert_eq!(limit("60:transaction:key"), [(TRANSACTION, 60_000)]);
        assert_eq!(
            limit("60:transaction:key, 2700:default;error;security:organization:quota"),
            [(TRANSACTION, 60_000), (ERROR, 2_700_000)]
        );
        assert_eq!(limit("1.5:log_item"), [(LOG, 1500)]);
        assert_eq!(limit("7::organization"), [(ERROR, 7000), (TRANSACTION, 7000), (LOG, 7000)]);
        assert_eq!(limit("7:"), [(ERROR, 7000), (TRANSACTION, 7000), (LOG, 7000)]);
        for nonsense in
            ["", "soon:error", "-1:error", "7", "NaN:error", "inf:error", "60:session:key", ",,:::"]
        {
            assert_eq!(limit(nonsense), [], "{nonsense}");
        }
    }

    #[test]
    fn a_429_mutes_everything_unless_it_says_more() {
        let all = |ms| vec![(ERROR, ms), (TRANSACTION, ms), (LOG, ms)];
        assert_eq!(mutes(429, &[]), all(60_000));
        assert_eq!(mutes(429, &[("retry-after", "5")]), all(5000));
        let date =
            [("retry-after", "Sat, 21 Nov 2026 02:30:09 GMT"), ("date", "Sat, 21 Nov 2026 02:30:00 GMT")];
        assert_eq!(mutes(429, &date), all(9000));
        assert_eq!(mutes(429, &date[..1]), all(60_000), "nobody says what time it is there");
        assert_eq!(mutes(429, &[("retry-after", "soon")]), all(60_000));
        let named = [("x-sentry-rate-limits", "9:error:org"), ("retry-after", "5")];
        assert_eq!(mutes(429, &named), [(ERROR, 9000)]);
        assert_eq!(mutes(429, &[("x-sentry-rate-limits", "rubbish")]), all(60_000));
        assert_eq!(mutes(503, &[("retry-after", "5")]), []);
    }
}
