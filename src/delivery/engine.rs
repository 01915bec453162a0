//! The consumer's work: collect a batch, attempt it, read the verdict, settle.
//!
//! Invariants:
//! - [`Engine::poll`] does one bounded thing and says when it wants to be called again; it never sleeps.
//! - Whatever `poll` does, the head only moves over records whose fate is final and counted.
//! - A request ends by its deadline (`timeout_ms`, or the caller's if that is sooner).

use super::batch::Batch;
use super::counters::{Counters, add};
use super::retry::{Backoff, Limits, retry_after};
use super::words::Words;
use crate::format::{Answer, Fate, Format, Stamp, Verdict};
use crate::platform::log::{Level, Reason, say};
use crate::platform::{clock, entropy};
use crate::queue::log::{Log, Seen};
use crate::queue::memory;
use crate::queue::record::{self, Position, split};
use crate::queue::segment::Fields;
use crate::sink::{Request, Response, Sink, TransportError, TransportErrorKind};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// How long an uncommitted reservation may hold the queue.
const HOLE_PATIENCE: Duration = Duration::from_secs(1);
/// How soon to look at one again.
const HOLE_LOOK: Duration = Duration::from_millis(2);
/// A segment used up within this time means heavy use.
const BUSY: Duration = Duration::from_secs(1);
/// Bodies up to this size are sent plain.
const GZIP_ABOVE: usize = 1024;

/// What the client configured, for delivery.
pub struct Settings {
    /// Events in a batch.
    pub max_events: usize,
    /// Bytes of a body before compression.
    pub max_bytes: usize,
    /// How long an event may wait for company.
    pub max_age: Duration,
    /// Compress bodies.
    pub gzip: bool,
    /// One request.
    pub timeout: Duration,
    /// Back-off.
    pub limits: Limits,
    /// Older events are given up.
    pub max_event_age: Duration,
    /// The sender ends after so long without work.
    pub idle: Duration,
    /// Further request headers, authentication among them.
    pub headers: Vec<(String, String)>,
    /// The endpoint's name for logs, without credentials.
    pub name: String,
    /// Test switch: panic at the first attempt.
    pub panic: bool,
}

/// What a consumer works on: this process's queue, words and counters.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    /// The queue.
    pub log: Log<'a>,
    /// The words.
    pub words: &'a Words,
    /// The counters.
    pub counters: &'a Counters,
}

/// When to call [`Engine::poll`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: there may be more to do.
    Again,
    /// At that time, or when something changes.
    At(Instant),
    /// When something comes.
    Idle,
}

/// See the module's text. One for each process and client that delivers.
pub struct Engine {
    settings: Arc<Settings>,
    format: Arc<dyn Format>,
    sink: Box<dyn Sink>,
    batch: Batch,
    /// Events read from the log in this generation.
    pub seen: u64,
    backoff: Backoff,
    /// When the batch is old enough to go.
    due: Option<Instant>,
    hole: Option<(Position, Instant)>,
    /// When a segment was last made blank.
    last_blanked: Option<Instant>,
    full: bool,
    plain: bool,
    trying_again: bool,
    /// Refusals since something was last accepted, within a batch.
    refusals: u32,
    flushes_served: u32,
}

impl Engine {
    /// An engine that reads from the log's head.
    pub fn new(
        settings: Arc<Settings>,
        format: Arc<dyn Format>,
        sink: Box<dyn Sink>,
        desk: &Desk<'_>,
    ) -> Engine {
        Engine {
            backoff: Backoff::new(settings.limits, entropy::random_u64()),
            batch: Batch::new(&*format, desk.log.head()),
            seen: desk.counters.settled(),
            settings,
            format,
            sink,
            due: None,
            hole: None,
            last_blanked: None,
            full: false,
            plain: false,
            trying_again: false,
            refusals: 0,
            flushes_served: 0,
        }
    }

    /// Behind the last record read.
    pub fn read(&self) -> Position {
        self.batch.read
    }

    /// Whether a reservation that is not committed yet holds what is behind it.
    pub fn has_hole(&self) -> bool {
        self.hole.is_some()
    }

    /// Close kept connections.
    pub fn rest(&mut self) {
        self.sink.close_idle();
    }

    /// Whom producers should wake a sleeping sender for: the event that fills the batch, or none while it
    /// is full or fixed.
    pub fn attention(&self, log: &Log<'_>) -> (u64, Position) {
        if self.full || self.batch.is_frozen() {
            return (u64::MAX, Position::MAX);
        }
        let events = self.settings.max_events.saturating_sub(self.batch.len()) as u64;
        let bytes = self.settings.max_bytes.saturating_sub(self.batch.body_len(0)) as u64;
        let half = u64::from(log.segment_len) * u64::from(log.segments) / 2;
        (self.seen + events, log.ahead(self.batch.read, bytes.min(half)))
    }

    /// Do the next thing. `urgent`: do not wait for company. `cap`: the caller's own deadline.
    pub fn poll(&mut self, desk: &Desk<'_>, urgent: bool, cap: Option<Instant>) -> Next {
        let now = Instant::now();
        if !self.batch.is_frozen() {
            self.collect(desk, now);
            if self.batch.is_empty() {
                return self.hole.map_or(Next::Idle, |_| Next::At(now + HOLE_LOOK));
            }
            let due = self.due.unwrap_or_else(|| now + self.patience());
            self.due = Some(due);
            let (used, of) = desk.log.used();
            let pressed = used * 2 > of;
            let wanted = urgent || pressed || desk.words.flush_to.load(Ordering::Acquire) > desk.log.head();
            if !(self.full || wanted || due <= now) {
                return Next::At(self.hole.map_or(due, |_| due.min(now + HOLE_LOOK)));
            }
        }
        let flushes = desk.words.flushes.load(Ordering::Acquire);
        if let Some(at) = self.backoff.wait(now, flushes != self.flushes_served) {
            return Next::At(at);
        }
        self.flushes_served = flushes;
        self.batch.freeze();
        self.attempt(desk, cap);
        self.settle(desk);
        Next::Again
    }

    /// How long the oldest event may wait yet; a clock that jumped cannot make it longer than `max_age`.
    fn patience(&self) -> Duration {
        let age = clock::wall_coarse_ns().saturating_sub(self.batch.oldest_ns().unwrap_or(0));
        self.settings.max_age.saturating_sub(Duration::from_nanos(age))
    }

    /// Read records into the batch until it is full or nothing more is there.
    fn collect(&mut self, desk: &Desk<'_>, now: Instant) {
        let log = desk.log;
        while !self.full {
            match log.look(self.batch.read) {
                Seen::Record { at, next, fields, body } => {
                    self.hole = None;
                    if !self.take(desk, at, fields, body, false) {
                        break;
                    }
                    self.batch.read = next;
                }
                Seen::Empty { at } => {
                    self.hole = None;
                    self.batch.read = at;
                    break;
                }
                Seen::Hole { at } => {
                    self.batch.read = at;
                    let since = match self.hole {
                        Some((place, since)) if place == at => since,
                        _ => now,
                    };
                    self.hole = Some((at, since));
                    if now.saturating_duration_since(since) < HOLE_PATIENCE {
                        break;
                    }
                    let mut rescued = Vec::new();
                    let given_up = log.give_up_on(at, |at, fields, body| rescued.push((at, fields, body)));
                    let Some(to) = given_up else { break };
                    self.hole = None;
                    for (at, fields, body) in rescued {
                        self.take(desk, at, fields, body, true);
                    }
                    self.batch.read = to;
                }
            }
        }
        if self.batch.is_empty() && log.head() != self.batch.read {
            self.settle(desk);
        }
    }

    /// Take one record into the batch. `false`: it does not fit; the batch is full. With `anyway` it is
    /// taken whatever the limits say: it will not be found in the log again.
    fn take(&mut self, desk: &Desk<'_>, at: Position, fields: Fields, body: &[u8], anyway: bool) -> bool {
        let id = record::event_id(fields.time_ns, fields.nonce, fields.position);
        let stamp = Stamp { id: &id, time_ns: fields.time_ns };
        let before = self.batch.body_len(0);
        let start = self.batch.text().len();
        if let Err(why) = self.format.event(self.batch.text(), body, &stamp) {
            self.batch.take_back(start);
            self.count_read(desk, body);
            add(&desk.counters.invalid, 1);
            say(Level::Warn, Reason::Invalid, &format!("an event was dropped: {}", why.0));
            return true;
        }
        let extra = self.batch.text().len() - start;
        let with_it = before + extra + if self.batch.is_empty() { 0 } else { self.format.between().len() };
        let limit = self.settings.max_bytes.min(self.format.max_body());
        if with_it > limit && !self.batch.is_empty() && !anyway {
            self.batch.take_back(start);
            self.full = true;
            return false;
        }
        self.batch.push(at, fields.time_ns, id, start);
        self.count_read(desk, body);
        self.full = self.batch.len() >= self.settings.max_events;
        true
    }

    fn count_read(&mut self, desk: &Desk<'_>, body: &[u8]) {
        self.seen += 1;
        add(&desk.counters.bytes_in, body.len());
    }

    /// Move the head over what is final, and start a new batch when all is.
    fn settle(&mut self, desk: &Desk<'_>) {
        let to = self.batch.settled_to();
        if to != desk.log.head() {
            let keep = self.is_busy(desk);
            let (len, before) = (desk.log.segment_len, split(desk.log.head()).0);
            desk.log.settle(to, |slot, tainted| memory::blank(slot, len, tainted, keep));
            if split(to).0 != before {
                self.last_blanked = Some(Instant::now());
            }
        }
        if to == self.batch.read {
            self.batch.clear();
            self.due = None;
            self.full = false;
            self.trying_again = false;
            self.refusals = 0;
        }
        desk.words.tell();
    }

    /// Whether segments come back so fast that their pages are better kept than given back and faulted in
    /// again; only where the pages of all slots together are within the memory the user allowed.
    fn is_busy(&self, desk: &Desk<'_>) -> bool {
        let (used, of) = desk.log.used();
        let soon = self.last_blanked.is_some_and(|at| at.elapsed() < BUSY);
        (used > 2 || soon) && of as usize == desk.log.slots.len()
    }

    /// Send the next group of the batch once, and act on what comes back.
    fn attempt(&mut self, desk: &Desk<'_>, cap: Option<Instant>) {
        let now_ns = clock::wall_precise_ns();
        self.expire(desk, now_ns);
        let group = self.batch.next_group();
        if group.is_empty() {
            return;
        }
        if self.settings.panic {
            #[allow(clippy::panic, reason = "the test switch that proves a panic stays inside")]
            {
                panic!("TELEMETRY_TEST_PANIC=sender");
            }
        }
        let mut body = Vec::with_capacity(self.batch.body_len(0));
        self.batch.body(&*self.format, &group, now_ns, &mut body);
        let gzip = self.settings.gzip && !self.plain && body.len() > GZIP_ABOVE;
        if gzip {
            body = compress(&body);
        }
        let counter = if self.trying_again { &desk.counters.retries } else { &desk.counters.batches };
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
        let first = self.batch.item(group.first().copied().unwrap_or(0));
        let mut headers = self.settings.headers.clone();
        // The same on every attempt of the same events.
        let key = format!("{}-{}", String::from_utf8_lossy(&first.id), group.len());
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
        for i in 0..self.batch.len() {
            let item = self.batch.item(i);
            if item.fate.is_none() && now_ns.saturating_sub(item.time_ns) > limit {
                self.batch.decide(i, Fate::Rejected);
                add(&desk.counters.expired, 1);
                say(Level::Warn, Reason::Expired, "events older than retry.max_age_s were given up");
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
            Verdict::Bisect if group.len() > 1 && self.may_halve() => {
                self.backoff.reset();
                self.batch.halve(group);
                self.trying_again = false;
            }
            Verdict::PlainPlease if gzip => {
                self.backoff.reset();
                self.plain = true;
                self.trying_again = true;
            }
            Verdict::Bisect | Verdict::PlainPlease => {
                self.decide(desk, group, |_| Fate::Rejected, response);
            }
            Verdict::Denied => {
                desk.counters.circuit_open.store(1, Ordering::Relaxed);
                self.trying_again = true;
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

    /// A refused batch is halved to find the event that is refused; but a collector that refuses everything
    /// is not asked about each event: after so many refusals without one acceptance the rest goes as a whole.
    fn may_halve(&mut self) -> bool {
        self.refusals += 1;
        let n = self.batch.len();
        self.refusals as usize <= (4 * (n.ilog2() as usize + 1)).max(n / 8)
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
            self.batch.decide(i, fate(n));
        }
        add(&desk.counters.delivered, delivered);
        add(&desk.counters.rejected, rejected);
        if delivered > 0 {
            self.refusals = 0;
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
        }
        self.trying_again = again > 0;
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
        self.trying_again = true;
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
