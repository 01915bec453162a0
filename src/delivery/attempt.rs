//! One attempt: a group of a batch becomes a request, and the answer becomes fates.
//!
//! Invariants:
//! - A fate is counted when it is decided, and decided once.
//! - Id and time of an event are the same on every attempt; only the envelope may name the attempt's time.

use super::compress::Encoding;
use super::counters::add;
use super::dead_letter::reason_of;
use super::engine::{Desk, Engine};
use super::lane::Source;
use super::retry::retry_after;
use crate::format::{Answer, Fate, Outcome, Sent, Verdict};
use crate::platform::clock;
use crate::platform::log::{Level, Reason, say};
use crate::sink::{Method, Request, Response, TransportError, TransportErrorKind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// So many attempts in a row that found nobody open the circuit.
const UNREACHED: u32 = 5;
/// The longest that a kind of events is rejected unsent for.
const LONGEST_MUTE: Duration = Duration::from_secs(86_400);

/// A request that was sent, or not.
struct Posted {
    outcome: Result<Response, TransportError>,
    /// Its body was compressed.
    encoded: bool,
    /// Its length without.
    plain_len: usize,
}

impl Engine {
    /// Send the next group of the batch once, and act on what comes back.
    pub(super) fn attempt(&mut self, desk: &Desk<'_>, cap: Option<Instant>) {
        let now_ns = clock::wall_precise_ns();
        self.expire(desk, now_ns);
        let mut group = self.lane().batch.next_group();
        if group.is_empty() {
            return;
        }
        if group.len() > 1 && self.lane().doubts() {
            self.lane().batch.split(&group, 1);
            group.truncate(1);
        }
        if self.settings.panic {
            #[allow(clippy::panic, reason = "the test switch that proves a panic stays inside")]
            {
                panic!("TELEMETRY_TEST_PANIC=sender");
            }
        }
        if self.is_muted(desk, &group) {
            return;
        }
        let deadline = Instant::now() + self.settings.timeout;
        let deadline = cap.map_or(deadline, |cap| deadline.min(cap));
        let mut posted = self.post(desk, &group, deadline);
        if let Err(stale) = &posted.outcome
            && stale.is_stale()
        {
            let stale = stale.clone();
            posted = self.post(desk, &group, deadline);
            posted.outcome = posted.outcome.map_err(|why| why.after(&stale));
        }
        let Posted { outcome, encoded, plain_len } = posted;
        match outcome {
            Ok(response) => self.answered(desk, &group, &response, encoded, plain_len),
            Err(error) => self.failed(desk, &error),
        }
    }

    /// Make the request anew, so that what names the attempt is this one's, and send it.
    fn post(&mut self, desk: &Desk<'_>, group: &[usize], deadline: Instant) -> Posted {
        let format = self.format.clone();
        let first = self.lane().batch.is_first_attempt();
        let (body, headers) = self.lane().batch.request(&*format, group, clock::wall_precise_ns());
        let plain_len = body.len();
        let encoding = if self.plain { Encoding::Plain } else { self.settings.encoding };
        let (body, encoded) = encoding.encode(body);
        add(if first { &desk.counters.batches } else { &desk.counters.retries }, 1);
        add(&desk.counters.bytes_out, body.len());
        let outcome = self.send(desk, group, (&body, encoded), headers, deadline);
        Posted { outcome, encoded: encoded.is_some(), plain_len }
    }

    /// The collector said that it does not take events of this kind now: they are rejected unsent.
    fn is_muted(&mut self, desk: &Desk<'_>, group: &[usize]) -> bool {
        let now = Instant::now();
        self.muted.retain(|(_, until)| *until > now);
        let kind = self.lane().batch.item(group.first().copied().unwrap_or(0)).kind();
        let muted = self.muted.iter().any(|(k, _)| *k == kind);
        if muted {
            let why = Outcome { fate: Fate::Rejected, why: Some("the collector's rate limit".into()) };
            let response = Response { status: 429, ..Response::default() };
            self.decide(desk, group, |_| why.clone(), &response);
        }
        muted
    }

    fn send(
        &mut self,
        desk: &Desk<'_>,
        group: &[usize],
        (body, content_encoding): (&[u8], Option<&str>),
        of_format: Vec<(String, String)>,
        deadline: Instant,
    ) -> Result<Response, TransportError> {
        let first = self.lane().batch.item(group.first().copied().unwrap_or(0)).id;
        let mut headers = self.settings.headers.clone();
        let given = |name: &str| self.settings.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        headers.extend(of_format.into_iter().filter(|(name, _)| !given(name)));
        // The same on every attempt of the same events.
        let key = format!("{}-{}", String::from_utf8_lossy(&first), group.len());
        headers.push(("Idempotency-Key".into(), key));
        desk.words.busy_since.store(clock::monotonic_ms(), Ordering::SeqCst);
        let outcome = self.sink.send_once(&Request {
            method: Method::Post,
            to: None,
            body,
            content_type: self.format.content_type(),
            content_encoding,
            headers: &headers,
            deadline,
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

    fn answered(
        &mut self,
        desk: &Desk<'_>,
        group: &[usize],
        response: &Response,
        encoded: bool,
        plain_len: usize,
    ) {
        desk.words.down.store(0, Ordering::Relaxed);
        self.unreached = 0;
        let answer = Answer {
            status: response.status,
            headers: &response.headers,
            body: &response.body,
            truncated: response.truncated,
        };
        let batch = if self.current == Source::Own { &self.own.batch } else { &self.orphaned.batch };
        let ids: Vec<&str> = group.iter().map(|&i| batch.item(i).sent_id()).collect();
        let kind = batch.item(group.first().copied().unwrap_or(0)).kind();
        let sent = Sent { kind, ids: &ids };
        let now = Instant::now();
        let mutes = self.format.mutes(&answer, &sent);
        let verdict = self.format.judge(&answer, &sent);
        self.muted.extend(mutes.into_iter().map(|(kind, wait)| (kind, now + wait.min(LONGEST_MUTE))));
        if !matches!(verdict, Verdict::Denied) {
            desk.counters.circuit_open.store(0, Ordering::Relaxed);
        }
        if response.status == 413 && group.len() > 1 {
            // What passes is found out by halving; the batches to come need not find out again.
            let (half, now) = (plain_len / 2, Instant::now());
            self.learned = Some((self.learned.map_or(half, |(bytes, _)| bytes.min(half)), now));
        }
        match verdict {
            Verdict::All(fate) => self.decide(desk, group, |_| fate.into(), response),
            Verdict::Each(outcomes) => {
                let taken = || Outcome::from(Fate::Delivered);
                self.decide(desk, group, |n| outcomes.get(n).cloned().unwrap_or_else(taken), response);
            }
            Verdict::Counted { rejected, why } => {
                if rejected == 0
                    && let Some(why) = &why
                {
                    let why = self.settings.secrets.hide(why);
                    say(Level::Warn, Reason::Collector, &format!("{} says: {why}", self.settings.name));
                }
                let refused = Outcome { fate: Fate::Rejected, why };
                // Which ones nobody knows; only the numbers are right.
                let outcome = |n| if n < rejected { refused.clone() } else { Fate::Delivered.into() };
                self.decide_and_bury(desk, group, outcome, response, rejected >= group.len());
            }
            Verdict::Unverified => {
                add(&desk.counters.unverified, 1);
                self.decide(desk, group, |_| Fate::Delivered.into(), response);
            }
            Verdict::Bisect if group.len() > 1 => {
                self.backoff.reset();
                let lane = self.lane();
                lane.refusals += 1;
                lane.batch.split(group, group.len() / 2);
            }
            Verdict::PlainPlease if encoded => {
                self.backoff.reset();
                self.plain = true;
            }
            Verdict::Bisect | Verdict::PlainPlease => {
                self.lane().refusals += 1;
                self.decide(desk, group, |_| Fate::Rejected.into(), response);
            }
            Verdict::Denied => {
                desk.counters.circuit_open.store(1, Ordering::Relaxed);
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
        outcome: impl Fn(usize) -> Outcome,
        response: &Response,
    ) {
        self.decide_and_bury(desk, group, outcome, response, true);
    }

    /// `named`: which events were refused is known, and not only how many.
    fn decide_and_bury(
        &mut self,
        desk: &Desk<'_>,
        group: &[usize],
        outcome: impl Fn(usize) -> Outcome,
        response: &Response,
        named: bool,
    ) {
        let (mut delivered, mut again) = (0, 0);
        let mut refused: Vec<(usize, Option<Box<str>>)> = Vec::new();
        for (n, &i) in group.iter().enumerate() {
            let Outcome { fate, why } = outcome(n);
            match fate {
                Fate::Delivered => delivered += 1,
                Fate::Rejected => refused.push((i, why)),
                Fate::Retry => {
                    again += 1;
                    continue;
                }
            }
            self.lane().batch.decide(i, fate);
        }
        add(&desk.counters.delivered, delivered);
        add(&desk.counters.rejected, refused.len());
        if delivered > 0 {
            self.lane().refusals = 0;
            let ms = clock::wall_precise_ns() / 1_000_000;
            desk.counters.last_success_unix_ms.store(ms, Ordering::Relaxed);
        }
        if !refused.is_empty() {
            self.bury(&refused, response, named);
        }
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

    /// Say what was refused, and keep it if that is wanted.
    fn bury(&mut self, refused: &[(usize, Option<Box<str>>)], response: &Response, named: bool) {
        let (name, count, status) = (self.settings.name.clone(), refused.len(), response.status);
        let settings = self.settings.clone();
        let first = refused.iter().find_map(|(_, why)| why.as_deref().map(|why| settings.secrets.hide(why)));
        let said = first.as_ref().map_or(String::new(), |why| format!(": {why}"));
        say(
            Level::Warn,
            Reason::Rejected,
            &format!("{name} refused {count} event(s), status {status}{said}"),
        );
        let Some(file) = self.settings.dead_letter.clone() else { return };
        if !named {
            let said = first.map_or_else(|| reason_of(response), |why| why.into_owned());
            let said = settings.secrets.hide(&said);
            let reason = format!("{count} event(s) of a request, nobody says which: {said}");
            return file.nameless(&name, status, &reason);
        }
        let batch = &self.lane().batch;
        // Neighbours that were refused for the same reason are written together.
        for alike in refused.chunk_by(|(_, a), (_, b)| a == b) {
            let own = alike.first().and_then(|(_, why)| why.as_deref().map(String::from));
            let reason = own.unwrap_or_else(|| reason_of(response));
            let reason = settings.secrets.hide(&reason);
            file.refused(&name, status, &reason, alike.iter().map(|&(i, _)| batch.text_of(i)));
        }
    }

    fn failed(&mut self, desk: &Desk<'_>, error: &TransportError) {
        self.not_reached(desk, found_nobody(error), true);
        self.backoff.failed(Instant::now(), None);
        let text = format!("{}; events are kept and sent again", self.named(error));
        say(Level::Warn, Reason::Transport, &text);
    }

    /// An error, with the endpoint's name if that is another one than its address.
    pub(super) fn named(&self, error: &TransportError) -> String {
        match error.message.starts_with(&self.settings.name) {
            true => error.message.clone(),
            false => format!("{}: {}", self.settings.name, error.message),
        }
    }

    /// The collector answered. `denied`: to refuse our credentials.
    pub(super) fn reached(&mut self, desk: &Desk<'_>, denied: bool) {
        desk.words.down.store(0, Ordering::Relaxed);
        self.unreached = 0;
        desk.counters.circuit_open.store(u64::from(denied), Ordering::Relaxed);
    }

    /// An attempt ended without an answer, and perhaps with `nobody` there. `ours`: it was the collector's to answer.
    pub(super) fn not_reached(&mut self, desk: &Desk<'_>, nobody: bool, ours: bool) {
        desk.words.down.store(u32::from(nobody), Ordering::SeqCst);
        desk.words.failures.fetch_add(1, Ordering::SeqCst);
        if ours {
            self.unreached = if nobody { self.unreached.saturating_add(1) } else { 0 };
        }
        if self.unreached >= UNREACHED {
            desk.counters.circuit_open.store(1, Ordering::Relaxed);
        }
    }
}

/// Whether nobody was there, so that nothing can have arrived.
pub(super) fn found_nobody(error: &TransportError) -> bool {
    use TransportErrorKind::{Connect, Resolve, Tls};
    matches!(error.kind, Connect | Resolve | Tls)
}
