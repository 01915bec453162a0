//! The consumer's work: collect a batch, attempt it, read the verdict, settle.
//!
//! Invariants:
//! - [`Engine::poll`] does one bounded thing and says when it wants to be called again; it never sleeps.
//! - Whatever `poll` does, the head only moves over records whose fate is final and counted.
//! - A request ends by its deadline (`timeout_ms`, or the caller's if that is sooner).

use super::chores::Chores;
use super::compress::Encoding;
use super::counters::{Counters, add};
use super::dead_letter::DeadLetter;
use super::lane::{Lane, Source};
use super::media::{Media, MediaSettings};
use super::retry::{Backoff, Limits};
use super::rules::Rules;
use super::secrets::Secrets;
use super::words::Words;
use crate::format::{Format, Invalid, Stamp};
use crate::platform::log::{Level, Reason, say};
use crate::platform::{clock, entropy, process};
use crate::queue::backing::Backing;
use crate::queue::log::{Log, Seen};
use crate::queue::media::stack::MediaWords;
use crate::queue::record::{self, Position, split};
use crate::queue::segment::Fields;
use crate::queue::spool::orphans::Orphans;
use crate::sink::Sink;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long an uncommitted reservation may hold the queue.
const HOLE_PATIENCE: Duration = Duration::from_secs(1);
/// How soon to look at one again.
const HOLE_LOOK: Duration = Duration::from_millis(2);
/// A segment used up within this time means heavy use.
const BUSY: Duration = Duration::from_secs(1);

/// How long what was learned of the collector's limit holds.
const LEARNED: Duration = Duration::from_secs(600);

/// What the client configured, for delivery.
pub struct Settings {
    /// Events in a batch.
    pub max_events: usize,
    /// Bytes of a body before compression; a larger event travels alone.
    pub max_bytes: usize,
    /// How long an event may wait for company.
    pub max_age: Duration,
    /// How bodies are compressed.
    pub encoding: Encoding,
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
    /// What no line of ours may show.
    pub secrets: Secrets,
    /// Where refused events are written to.
    pub dead_letter: Option<DeadLetter>,
    /// What is done to each event.
    pub rules: Rules,
    /// How the spool is looked after.
    pub spool: SpoolSettings,
    /// Where uploads go, if they go anywhere.
    pub media: Option<MediaSettings>,
    /// The endpoint's name for logs, without credentials.
    pub name: String,
    /// Test switch: panic at the first attempt.
    pub panic: bool,
}

/// How the spool is looked after, if there is one.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpoolSettings {
    /// Make room for new events by dropping the oldest.
    pub evict: bool,
    /// Bring it to the disk every second.
    pub sync: bool,
    /// And each batch before it is sent.
    pub sync_batch: bool,
    /// How long a file that cannot be read is kept.
    pub max_age: Duration,
}

/// What a consumer works on: this process's queue, words and counters.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    /// The queue.
    pub log: Log<'a>,
    /// Where its segments come from.
    pub backing: Backing<'a>,
    /// The words.
    pub words: &'a Words,
    /// The counters.
    pub counters: &'a Counters,
    /// The uploads.
    pub media: &'a MediaWords,
}

/// A record, wherever it lay.
struct Found<'a> {
    at: Position,
    fields: Fields,
    body: &'a [u8],
    /// Who wrote it.
    pid: u32,
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
    pub(super) settings: Arc<Settings>,
    pub(super) format: Arc<dyn Format>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) own: Lane,
    pub(super) orphaned: Lane,
    /// The lane of the attempt that is made, or was made last.
    pub(super) current: Source,
    pub(super) orphans: Option<Orphans>,
    pub(super) chores: Chores,
    /// Uploads, if this destination takes any.
    pub(super) media: Option<Media>,
    /// The last request was an upload's.
    uploaded_last: bool,
    /// Events read from the log in this generation.
    pub(super) seen: u64,
    pub(super) backoff: Backoff,
    hole: Option<(Position, Instant)>,
    /// When a segment was last made blank.
    last_blanked: Option<Instant>,
    /// The collector does not take compressed bodies.
    pub(super) plain: bool,
    /// What was learned of the size that the collector takes, and when.
    pub(super) learned: Option<(usize, Instant)>,
    /// Kinds of events that it does not take until then.
    pub(super) muted: Vec<(u8, Instant)>,
    /// Attempts in a row that found nobody.
    pub(super) unreached: u32,
    flushes_served: u32,
    pid: u32,
}

impl Engine {
    /// An engine that reads from the log's head, and delivers what `orphans` finds.
    pub fn new(
        settings: Arc<Settings>,
        format: Arc<dyn Format>,
        sink: Box<dyn Sink>,
        orphans: Option<Orphans>,
        media: Option<Media>,
        desk: &Desk<'_>,
    ) -> Engine {
        let recovered = desk.counters.recovered.load(Ordering::Acquire);
        Engine {
            backoff: Backoff::new(settings.limits, entropy::random_u64()),
            own: Lane::new(desk.log.head()),
            orphaned: Lane::new(0),
            current: Source::Orphans,
            orphans,
            chores: Chores::new(),
            media,
            uploaded_last: false,
            seen: desk.counters.settled().saturating_sub(recovered),
            settings,
            format,
            sink,
            hole: None,
            last_blanked: None,
            plain: false,
            learned: None,
            muted: Vec::new(),
            unreached: 0,
            flushes_served: 0,
            pid: process::pid(),
        }
    }

    /// The lane of this attempt.
    pub(super) fn lane(&mut self) -> &mut Lane {
        match self.current {
            Source::Own => &mut self.own,
            Source::Orphans => &mut self.orphaned,
        }
    }

    /// Behind the last record read.
    pub fn read(&self) -> Position {
        self.own.batch.read
    }

    /// Whether a reservation that is not committed yet holds what is behind it.
    pub fn has_hole(&self) -> bool {
        self.hole.is_some()
    }

    /// The end: what others left and is not delivered yet goes back to them, and is not counted as ours.
    pub fn close(self: Box<Self>, desk: &Desk<'_>) {
        let batch = &self.orphaned.batch;
        let open = (0..batch.len()).filter(|&i| batch.item(i).fate.is_none()).count();
        desk.counters.recovered.fetch_sub(open as u64, Ordering::AcqRel);
    }

    /// Close kept connections.
    pub fn rest(&mut self) {
        self.sink.close_idle();
        if let Some(media) = &mut self.media {
            media.rest();
        }
    }

    /// Uploads written to the spool's directory that it knows of.
    pub fn written_seen(&self) -> u64 {
        self.media.as_ref().map_or(0, Media::written_seen)
    }

    /// Whom producers should wake a sleeping sender for: the event that fills the batch, or none while it
    /// is full or fixed.
    pub fn attention(&self, log: &Log<'_>) -> (u64, Position) {
        let batch = &self.own.batch;
        if self.own.full || batch.is_frozen() {
            return (u64::MAX, Position::MAX);
        }
        let events = self.settings.max_events.saturating_sub(batch.len()) as u64;
        let bytes = self.settings.max_bytes.saturating_sub(batch.body_len(&*self.format)) as u64;
        let half = u64::from(log.segment_len) * u64::from(log.segments) / 2;
        (self.seen + events, log.ahead(batch.read, bytes.min(half)))
    }

    /// Do the next thing. `urgent`: do not wait for company. `cap`: the caller's own deadline.
    pub fn poll(&mut self, desk: &Desk<'_>, urgent: bool, cap: Option<Instant>) -> Next {
        let now = Instant::now();
        self.do_chores(desk, now);
        let uploads = self.prepare_uploads(desk, now);
        if uploads == Next::Again && !std::mem::replace(&mut self.uploaded_last, true) {
            self.upload(desk, cap);
            return Next::Again;
        }
        self.uploaded_last = false;
        let events = self.poll_events(desk, urgent, cap, now);
        match (events, uploads) {
            (Next::Again, _) | (_, Next::Again) => Next::Again,
            (Next::At(one), Next::At(other)) => Next::At(one.min(other)),
            (Next::At(at), Next::Idle) | (Next::Idle, Next::At(at)) => Next::At(at),
            (Next::Idle, Next::Idle) => Next::Idle,
        }
    }

    fn prepare_uploads(&mut self, desk: &Desk<'_>, now: Instant) -> Next {
        let flushes = desk.words.flushes.load(Ordering::Acquire);
        self.media.as_mut().map_or(Next::Idle, |media| media.prepare(desk, flushes, now))
    }

    fn poll_events(&mut self, desk: &Desk<'_>, urgent: bool, cap: Option<Instant>, now: Instant) -> Next {
        let own = self.prepare_own(desk, urgent, now);
        let orphaned = self.prepare_orphaned(desk);
        self.current = match (own, orphaned) {
            // In turn: neither may starve the other.
            (Next::Again, true) if self.current == Source::Own => Source::Orphans,
            (Next::Again, _) => Source::Own,
            (_, true) => Source::Orphans,
            (wait, false) => return wait,
        };
        let flushes = desk.words.flushes.load(Ordering::Acquire);
        if let Some(at) = self.backoff.wait(now, flushes != self.flushes_served) {
            return Next::At(at);
        }
        self.flushes_served = flushes;
        if self.current == Source::Own && self.settings.spool.sync_batch && !self.own.batch.is_frozen() {
            self.sync(desk);
        }
        let (format, bytes, events) = (self.format.clone(), self.body_limit(), self.settings.max_events);
        self.lane().batch.freeze(&*format, bytes, events);
        self.attempt(desk, cap);
        self.settle(desk);
        Next::Again
    }

    /// Collect own events. `Again`: there is a batch to be sent.
    fn prepare_own(&mut self, desk: &Desk<'_>, urgent: bool, now: Instant) -> Next {
        if self.own.batch.is_frozen() {
            return Next::Again;
        }
        self.collect(desk, now);
        if self.own.batch.is_empty() {
            return self.hole.map_or(Next::Idle, |_| Next::At(now + HOLE_LOOK));
        }
        let due = self.own.due.unwrap_or_else(|| now + self.patience());
        self.own.due = Some(due);
        let (used, of) = desk.log.used();
        let pressed = used * 2 > of;
        let wanted = urgent || pressed || desk.words.flush_to.load(Ordering::Acquire) > desk.log.head();
        if self.own.full || wanted || due <= now {
            return Next::Again;
        }
        Next::At(self.hole.map_or(due, |_| due.min(now + HOLE_LOOK)))
    }

    /// Collect what others left in the spool. `true`: there is a batch to be sent; it waits for no company.
    fn prepare_orphaned(&mut self, desk: &Desk<'_>) -> bool {
        let Some(mut orphans) = self.orphans.take() else { return false };
        if !self.orphaned.batch.is_frozen() {
            self.collect_orphans(desk, &mut orphans);
        }
        add(&desk.counters.corrupt, orphans.take_corrupt() as usize);
        let ready = !self.orphaned.batch.is_empty();
        if !ready && orphans.is_idle() && self.media.as_ref().is_none_or(Media::is_idle) {
            self.chores.rescued(desk);
        }
        self.orphans = Some(orphans);
        ready
    }

    fn collect_orphans(&mut self, desk: &Desk<'_>, orphans: &mut Orphans) {
        while !self.orphaned.full {
            let (seen, pid) = orphans.look_with_writer();
            match seen {
                Seen::Record { at, next, fields, body } => {
                    if !self.take(desk, Source::Orphans, Found { at, fields, body, pid }, false) {
                        orphans.put_back(at);
                        break;
                    }
                    self.orphaned.batch.read = next;
                }
                Seen::Empty { at } | Seen::Hole { at } => {
                    self.orphaned.batch.read = at;
                    if self.orphaned.batch.is_empty() && orphans.head() != at {
                        orphans.settle(at);
                        continue;
                    }
                    break;
                }
            }
        }
    }

    /// How long the oldest event may wait yet; a clock that jumped cannot make it longer than `max_age`.
    fn patience(&self) -> Duration {
        let age = clock::wall_coarse_ns().saturating_sub(self.own.batch.oldest_ns().unwrap_or(0));
        self.settings.max_age.saturating_sub(Duration::from_nanos(age))
    }

    /// Read records into the batch until it is full or nothing more is there.
    fn collect(&mut self, desk: &Desk<'_>, now: Instant) {
        let log = desk.log;
        while !self.own.full {
            match log.look(self.own.batch.read) {
                Seen::Record { at, next, fields, body } => {
                    self.hole = None;
                    let found = Found { at, fields, body, pid: self.pid };
                    if !self.take(desk, Source::Own, found, false) {
                        break;
                    }
                    self.own.batch.read = next;
                }
                Seen::Empty { at } => {
                    self.hole = None;
                    self.own.batch.read = at;
                    break;
                }
                Seen::Hole { at } => {
                    self.own.batch.read = at;
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
                        self.take(desk, Source::Own, Found { at, fields, body, pid: self.pid }, true);
                    }
                    self.own.batch.read = to;
                }
            }
        }
        if self.own.batch.is_empty() && log.head() != self.own.batch.read {
            self.settle_own(desk);
        }
    }

    /// Take one record into its lane's batch. `false`: it does not fit; the batch is full. With `anyway` it is
    /// taken whatever the limits say: it will not be found in the log again.
    fn take(&mut self, desk: &Desk<'_>, source: Source, found: Found<'_>, anyway: bool) -> bool {
        let Found { at, fields, body, pid } = found;
        let id = record::event_id(fields.time_ns, fields.nonce, fields.position);
        let stamp =
            Stamp { id: &id, time_ns: fields.time_ns, pid, generation: fields.nonce, worker: fields.worker };
        let limit = self.body_limit();
        let rules = &self.settings.rules;
        let allowed = match rules.redact(&*self.format, body) {
            Ok(allowed) => allowed,
            Err(why) => {
                self.drop_invalid(desk, source, why, body, None);
                return true;
            }
        };
        let whole = rules.add_context(&*self.format, &allowed, &stamp);
        let lane = if source == Source::Own { &mut self.own } else { &mut self.orphaned };
        let start = lane.batch.text().len();
        let taken = match self.format.event(lane.batch.text(), &whole, &stamp) {
            Ok(taken) if lane.batch.text().len() - start > self.format.limits(taken.kind).event => {
                Err(Invalid("larger than the collector takes"))
            }
            taken => taken,
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(why) => {
                lane.batch.take_back(start);
                self.drop_invalid(desk, source, why, body, Some(&allowed));
                return true;
            }
        };
        if !lane.batch.is_empty() && !anyway && lane.batch.body_len(&*self.format) > limit {
            lane.batch.take_back(start);
            lane.full = true;
            return false;
        }
        lane.batch.push(at, fields.time_ns, id, taken, start);
        lane.full = lane.batch.len() >= self.settings.max_events;
        self.count_read(desk, source, body);
        true
    }

    /// `shown`: what of it may be kept.
    fn drop_invalid(
        &mut self,
        desk: &Desk<'_>,
        source: Source,
        why: Invalid,
        body: &[u8],
        shown: Option<&[u8]>,
    ) {
        self.count_read(desk, source, body);
        add(&desk.counters.invalid, 1);
        say(Level::Warn, Reason::Invalid, &format!("an event was dropped: {}", why.0));
        if let Some(file) = &self.settings.dead_letter {
            file.invalid(&self.settings.name, why.0, shown);
        }
    }

    /// The bytes of a body that are worth trying.
    fn body_limit(&self) -> usize {
        let learned = self.learned.filter(|(_, since)| since.elapsed() < LEARNED);
        self.settings.max_bytes.min(learned.map_or(usize::MAX, |(bytes, _)| bytes))
    }

    fn count_read(&mut self, desk: &Desk<'_>, source: Source, body: &[u8]) {
        match source {
            Source::Own => self.seen += 1,
            Source::Orphans => add(&desk.counters.recovered, 1),
        }
        add(&desk.counters.bytes_in, body.len());
    }

    /// Move the lane's head over what is final, and start a new batch when all is.
    fn settle(&mut self, desk: &Desk<'_>) {
        if self.current == Source::Own {
            return self.settle_own(desk);
        }
        let to = self.orphaned.batch.settled_to();
        if let Some(orphans) = self.orphans.as_mut().filter(|orphans| orphans.head() != to) {
            orphans.settle(to);
        }
        if to == self.orphaned.batch.read {
            self.orphaned.clear();
        }
        desk.words.tell();
    }

    pub(super) fn settle_own(&mut self, desk: &Desk<'_>) {
        let to = self.own.batch.settled_to();
        if to != desk.log.head() {
            let keep = self.is_busy(desk);
            let before = split(desk.log.head()).0;
            desk.backing.settle(&desk.log, to, keep);
            if split(to).0 != before {
                self.last_blanked = Some(Instant::now());
            }
        }
        if to == self.own.batch.read {
            self.own.clear();
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
}
