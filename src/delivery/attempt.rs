//! One attempt: a group of a batch becomes a request, and the answer becomes fates.
//!
//! Invariants:
//! - A fate is counted when it is decided, and decided once.
//! - Id and time of an event are the same on every attempt; only the envelope may name the attempt's time.

use super::counters::add;
use super::dead_letter::reason_of;
use super::engine::{Desk, Engine};
use super::retry::retry_after;
use crate::format::{Answer, Fate, Verdict};
use crate::platform::clock;
use crate::platform::log::{Level, Reason, say};
use crate::sink::{Request, Response, TransportError, TransportErrorKind};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

/// Bodies up to this size are sent plain.
const GZIP_ABOVE: usize = 1024;

impl Engine {
    /// Send the next group of the batch once, and act on what comes back.
    pub(super) fn attempt(&mut self, desk: &Desk<'_>, cap: Option<Instant>) {
        let now_ns = clock::wall_precise_ns();
        self.expire(desk, now_ns);
        let group = self.lane().batch.next_group();
        if group.is_empty() {
            return;
        }
        if self.settings.panic {
            #[allow(clippy::panic, reason = "the test switch that proves a panic stays inside")]
            {
                panic!("TELEMETRY_TEST_PANIC=sender");
            }
        }
        let mut body = Vec::with_capacity(self.lane().batch.body_len(0));
        let format = self.format.clone();
        self.lane().batch.body(&*format, &group, now_ns, &mut body);
        let gzip = self.settings.gzip && !self.plain && body.len() > GZIP_ABOVE;
        if gzip {
            body = compress(&body);
        }
        let counter = if self.lane().trying_again { &desk.counters.retries } else { &desk.counters.batches };
        add(counter, 1);
        add(&desk.counters.bytes_out, body.len());
        let outcome = self.send(desk, &group, &body, gzip, cap);
        match outcome {
            Ok(response) => self.answered(desk, &group, &response, gzip),
            Err(error) => self.failed(desk, &error),
        }
    }

    fn send(
        &mut self,
        desk: &Desk<'_>,
        group: &[usize],
        body: &[u8],
        gzip: bool,
        cap: Option<Instant>,
    ) -> Result<Response, TransportError> {
        let first = self.lane().batch.item(group.first().copied().unwrap_or(0)).id;
        let mut headers = self.settings.headers.clone();
        // The same on every attempt of the same events.
        let key = format!("{}-{}", String::from_utf8_lossy(&first), group.len());
        headers.push(("Idempotency-Key".into(), key));
        let deadline = Instant::now() + self.settings.timeout;
        desk.words.busy_since.store(clock::monotonic_ms(), Ordering::SeqCst);
        let outcome = self.sink.send(&Request {
            body,
            content_type: self.format.content_type(),
            content_encoding: gzip.then_some("gzip"),
            headers: &headers,
            deadline: cap.map_or(deadline, |c| deadline.min(c)),
        });
        desk.words.busy_since.store(0, Ordering::SeqCst);
        outcome
    }

    fn expire(&mut self, desk: &Desk<'_>, now_ns: u64) {
        let limit = self.settings.max_event_age.as_nanos() as u64;
        for i in 0..self.lane().batch.len() {
            let item = self.lane().batch.item(i);
            if item.fate.is_none() && now_ns.saturating_sub(item.time_ns) > limit {
                self.lane().batch.decide(i, Fate::Rejected);
                add(&desk.counters.expired, 1);
                say(Level::Warn, Reason::Expired, "events older than retry.max_age_s allows were given up");
            }
        }
    }

    fn answered(&mut self, desk: &Desk<'_>, group: &[usize], response: &Response, gzip: bool) {
        desk.words.down.store(0, Ordering::Relaxed);
        let answer = Answer { status: response.status, body: &response.body, truncated: response.truncated };
        let verdict = self.format.judge(&answer, group.len());
        if !matches!(verdict, Verdict::Denied) {
            desk.counters.circuit_open.store(0, Ordering::Relaxed);
        }
        match verdict {
            Verdict::All(fate) => self.decide(desk, group, |_| fate, response),
            Verdict::Each(fates) => {
                self.decide(desk, group, |n| fates.get(n).copied().unwrap_or(Fate::Delivered), response);
            }
            Verdict::Unverified => {
                add(&desk.counters.unverified, 1);
                self.decide(desk, group, |_| Fate::Delivered, response);
            }
            Verdict::Bisect if group.len() > 1 && self.lane().may_halve() => {
                self.backoff.reset();
                self.lane().batch.halve(group);
                self.lane().trying_again = false;
            }
            Verdict::PlainPlease if gzip => {
                self.backoff.reset();
                self.plain = true;
                self.lane().trying_again = true;
            }
            Verdict::Bisect | Verdict::PlainPlease => {
                self.decide(desk, group, |_| Fate::Rejected, response);
            }
            Verdict::Denied => {
                desk.counters.circuit_open.store(1, Ordering::Relaxed);
                self.lane().trying_again = true;
                self.backoff.denied(Instant::now());
                let text = format!(
                    "{} answered {}: check endpoint and credentials; events are kept and it is asked again \
                     every {:?}",
                    self.settings.name, response.status, self.settings.limits.max
                );
                say(Level::Error, Reason::Denied, &text);
            }
        }
    }

    fn decide(
        &mut self,
        desk: &Desk<'_>,
        group: &[usize],
        fate: impl Fn(usize) -> Fate,
        response: &Response,
    ) {
        let (mut delivered, mut rejected, mut again) = (0, 0, 0);
        for (n, &i) in group.iter().enumerate() {
            match fate(n) {
                Fate::Delivered => delivered += 1,
                Fate::Rejected => rejected += 1,
                Fate::Retry => {
                    again += 1;
                    continue;
                }
            }
            self.lane().batch.decide(i, fate(n));
        }
        add(&desk.counters.delivered, delivered);
        add(&desk.counters.rejected, rejected);
        if delivered > 0 {
            self.lane().refusals = 0;
            let ms = clock::wall_precise_ns() / 1_000_000;
            desk.counters.last_success_unix_ms.store(ms, Ordering::Relaxed);
        }
        if rejected > 0 {
            let (name, status) = (&self.settings.name, response.status);
            say(
                Level::Warn,
                Reason::Rejected,
                &format!("{name} refused {rejected} event(s), status {status}"),
            );
            if let Some(file) = self.settings.dead_letter.clone() {
                let name = self.settings.name.clone();
                let batch = &self.lane().batch;
                let refused = group.iter().enumerate().filter(|(n, _)| fate(*n) == Fate::Rejected);
                let texts = refused.map(|(_, &i)| batch.text_of(i));
                file.refused(&name, status, &reason_of(response), texts);
            }
        }
        self.lane().trying_again = again > 0;
        if again == 0 {
            self.backoff.reset();
            return;
        }
        let asked = response.header("retry-after").and_then(|v| retry_after(v, SystemTime::now()));
        self.backoff.failed(Instant::now(), asked);
        let (name, status) = (&self.settings.name, response.status);
        say(
            Level::Warn,
            Reason::Busy,
            &format!("{name} answered {status}; {again} event(s) will be sent again"),
        );
    }

    fn failed(&mut self, desk: &Desk<'_>, error: &TransportError) {
        use TransportErrorKind::{Connect, Resolve, Tls};
        let down = matches!(error.kind, Connect | Resolve | Tls);
        desk.words.down.store(u32::from(down), Ordering::SeqCst);
        desk.words.failures.fetch_add(1, Ordering::SeqCst);
        self.lane().trying_again = true;
        self.backoff.failed(Instant::now(), None);
        let text = format!("{}: {}; events are kept and sent again", self.settings.name, error.message);
        say(Level::Warn, Reason::Transport, &text);
    }
}

fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to a vector does not fail; were it to, an empty body is refused by the collector and nothing else.
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default()
}
