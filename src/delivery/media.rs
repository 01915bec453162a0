//! Delivering uploads, one at a time, beside the events: ask for a place, put the bytes there, tell how it went.
//!
//! The server (Langfuse) promises: asking with a hash that it knows gives no place, and nothing is left to do; a place is good for
//! an hour; an id that is not made of the hash is an error of one of the two sides.
//!
//! Invariants:
//! - [`Engine::upload`] makes one request and returns; its end is bounded as an attempt's is.
//! - Our credentials go to the server alone, never to the place it names.
//! - A place is asked for anew at each attempt to put: none is used that may be too old.
//! - An upload is counted once, as uploaded or as failed, and then gone.
#![forbid(unsafe_code)]

use super::attempt::found_nobody;
use super::counters::{Counters, add};
use super::engine::{Desk, Engine, Next};
use super::retry::{Backoff, Limits, retry_after};
use crate::format::time::rfc3339_ms;
use crate::platform::log::{Level, Reason, say};
use crate::platform::sockets::FileTable;
use crate::platform::{clock, entropy};
use crate::queue::media::files::{self, Held};
use crate::queue::media::image::Image;
use crate::queue::media::stack::MediaWords;
use crate::queue::spool::directory::Directory;
use crate::sink::{Method, Request, Response, Sink, TransportError, Url};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// What is kept of a server's complaint.
const MOST_SAID: usize = 512;

/// Where uploads go.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// `.../api/public/media`
    pub url: Url,
}

/// How far the upload at hand has come.
enum Step {
    /// A place is to be asked for.
    Ask,
    /// The bytes are to be put there.
    Put(Url),
    /// The server is to be told.
    Tell { status: u16, error: Option<String>, took: Duration },
}

struct Job {
    image: Image,
    note: Value,
    /// Its file, if it has one.
    held: Option<Held>,
    step: Step,
}

/// See the module's text.
pub struct Media {
    settings: MediaSettings,
    sink: Box<dyn Sink>,
    /// Where uploads lie as files.
    dir: Option<(Directory, Arc<FileTable>)>,
    /// From memory.
    images: VecDeque<Image>,
    /// Names of files.
    names: VecDeque<String>,
    job: Option<Job>,
    backoff: Backoff,
    flushes_served: u32,
    /// The directory is to be looked at.
    look: bool,
    written_seen: u64,
}

impl Media {
    /// Nothing is looked at yet.
    pub fn new(
        settings: MediaSettings,
        sink: Box<dyn Sink>,
        dir: Option<(Directory, Arc<FileTable>)>,
        limits: Limits,
    ) -> Media {
        Media {
            settings,
            sink,
            look: dir.is_some(),
            dir,
            images: VecDeque::new(),
            names: VecDeque::new(),
            job: None,
            backoff: Backoff::new(limits, entropy::random_u64()),
            flushes_served: 0,
            written_seen: 0,
        }
    }

    /// Whether nothing is known to wait.
    pub fn is_idle(&self) -> bool {
        self.job.is_none() && self.images.is_empty() && self.names.is_empty() && !self.look
    }

    /// What dead processes left may have come: look at the directory again.
    pub fn look_again(&mut self) {
        self.look = self.dir.is_some();
    }

    /// Uploads written to the directory that it knows of.
    pub fn written_seen(&self) -> u64 {
        self.written_seen
    }

    /// Close kept connections.
    pub fn rest(&mut self) {
        self.sink.close_idle();
    }

    /// Take up what has come, and say when the next request is due.
    pub(super) fn prepare(&mut self, words: &MediaWords, flushes: u32, now: Instant) -> Next {
        if words.has_any() {
            self.images.extend(words.take_all());
        }
        let written = words.written.load(Ordering::SeqCst);
        if self.look || written != self.written_seen {
            self.look = false;
            self.written_seen = written;
            self.list();
        }
        while self.job.is_none() {
            match self.next_job() {
                Some(Ok(job)) => self.job = Some(job),
                Some(Err(why)) => {
                    say(Level::Warn, Reason::Spool, &format!("an upload in the spool: {why}"));
                }
                None => return Next::Idle,
            }
        }
        match self.backoff.wait(now, flushes != self.flushes_served) {
            Some(at) => Next::At(at),
            None => Next::Again,
        }
    }

    fn list(&mut self) {
        let Some((dir, _)) = &self.dir else { return };
        match dir.list() {
            Ok(listing) => {
                let mine = self.job.as_ref().and_then(|job| job.held.as_ref());
                let names = listing.media.into_iter().map(|(name, _)| name);
                self.names = names.filter(|name| mine.is_none_or(|held| held.name() != name)).collect();
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
            Err(why) => {
                let text = format!("uploads in {} cannot be looked for: {why}", dir.path().display());
                say(Level::Warn, Reason::Spool, &text);
            }
        }
    }

    fn next_job(&mut self) -> Option<std::io::Result<Job>> {
        if let Some(image) = self.images.pop_front() {
            return Some(Ok(Job::new(image, None)));
        }
        let (dir, table) = self.dir.as_ref()?;
        while let Some(name) = self.names.pop_front() {
            match files::take(dir, &name, table) {
                Ok(Some((held, image))) => return Some(Ok(Job::new(image, Some(held)))),
                Ok(None) => {}
                Err(why) => {
                    return Some(Err(std::io::Error::new(why.kind(), format!("{name}: {why}"))));
                }
            }
        }
        None
    }
}

impl Job {
    fn new(image: Image, held: Option<Held>) -> Job {
        let note = serde_json::from_slice(image.note()).unwrap_or_default();
        Job { image, note, held, step: Step::Ask }
    }

    fn said(&self, name: &str) -> &str {
        self.note.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// The first 22 characters of the hash, URL-safe.
    fn id(&self) -> String {
        let safe = |c| match c {
            '+' => '-',
            '/' => '_',
            c => c,
        };
        self.said("sha256Hash").chars().take(22).map(safe).collect()
    }
}

/// What an answer, or its absence, means for the step.
enum Turn {
    Done,
    /// On to that step.
    Next(Step),
    /// Try again from that step, after a pause.
    Again(Step, Option<Duration>),
    /// Our credentials are refused.
    Denied,
    Failed(String),
}

impl Engine {
    /// Make the next request for the upload at hand.
    pub(super) fn upload(&mut self, desk: &Desk<'_>, cap: Option<Instant>) {
        let flushes = desk.words.flushes.load(Ordering::Acquire);
        let settings = self.settings.clone();
        let Some(media) = &mut self.media else { return };
        media.flushes_served = flushes;
        let Some(job) = media.job.take() else { return };
        let age = clock::wall_precise_ns().saturating_sub(job.image.time_ns());
        let turn = if u128::from(age) > settings.max_event_age.as_nanos() {
            Turn::Failed("it is older than retry.max_age_s allows".into())
        } else {
            let deadline = Instant::now() + settings.timeout;
            let deadline = cap.map_or(deadline, |cap| deadline.min(cap));
            desk.words.busy_since.store(clock::monotonic_ms(), Ordering::SeqCst);
            let turn = media.request(&job, &settings.headers, deadline);
            desk.words.busy_since.store(0, Ordering::SeqCst);
            match turn {
                Ok(turn) => {
                    desk.words.down.store(0, Ordering::Relaxed);
                    turn
                }
                Err((error, step)) => {
                    let own = !matches!(job.step, Step::Put(_));
                    desk.words.down.store(u32::from(own && found_nobody(&error)), Ordering::SeqCst);
                    desk.words.failures.fetch_add(1, Ordering::SeqCst);
                    let text =
                        format!("{}: upload: {}; it is kept and tried again", settings.name, error.message);
                    say(Level::Warn, Reason::Transport, &text);
                    Turn::Again(step, None)
                }
            }
        };
        let now = Instant::now();
        let name = &settings.name;
        match turn {
            Turn::Next(step) => media.job = Some(Job { step, ..job }),
            Turn::Again(step, asked) => {
                media.backoff.failed(now, asked);
                media.job = Some(Job { step, ..job });
            }
            Turn::Denied => {
                media.backoff.denied(now);
                desk.counters.circuit_open.store(1, Ordering::Relaxed);
                let text = format!("{name} refuses an upload's credentials; it is kept and tried again");
                say(Level::Error, Reason::Denied, &text);
                media.job = Some(Job { step: Step::Ask, ..job });
            }
            Turn::Done => {
                media.backoff.reset();
                media.finish(desk, job, true);
            }
            Turn::Failed(why) => {
                media.backoff.reset();
                let why = settings.secrets.hide(&why);
                say(Level::Error, Reason::Upload, &format!("{name}: an upload was given up: {why}"));
                media.finish(desk, job, false);
            }
        }
    }
}

impl Media {
    fn finish(&mut self, desk: &Desk<'_>, job: Job, uploaded: bool) {
        let counters: &Counters = desk.counters;
        let len = job.image.len().unwrap_or(0) as u64;
        add(if uploaded { &counters.uploaded } else { &counters.uploads_failed }, 1);
        match (job.held, &self.dir) {
            (Some(held), Some((dir, _))) => held.remove(dir),
            _ => {
                desk.media.release(len);
                desk.media.done.fetch_add(1, Ordering::SeqCst);
            }
        }
        desk.words.tell();
    }

    fn request(
        &mut self,
        job: &Job,
        own_headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<Turn, (TransportError, Step)> {
        match &job.step {
            Step::Ask => {
                let to = self.settings.url.clone();
                let body = job.note.to_string();
                let answer = self.call(Method::Post, &to, body.as_bytes(), own_headers, deadline);
                answer.map(|answer| asked(job, &answer)).map_err(|e| (e, Step::Ask))
            }
            Step::Put(place) => {
                let mut headers = Vec::new();
                if !place.host.ends_with("storage.googleapis.com") {
                    headers.push(("x-amz-checksum-sha256".into(), job.said("sha256Hash").into()));
                    headers.push(("x-ms-blob-type".into(), "BlockBlob".into()));
                }
                let started = Instant::now();
                let request = Request {
                    method: Method::Put,
                    to: Some(place),
                    body: job.image.data(),
                    content_type: job.said("contentType"),
                    content_encoding: None,
                    headers: &headers,
                    deadline,
                };
                let answer = self.sink.send(&request);
                answer.map(|answer| put(&answer, started.elapsed())).map_err(|e| (e, Step::Ask))
            }
            Step::Tell { status, error, took } => {
                let mut to = self.settings.url.clone();
                to.target = format!("{}/{}", to.target, job.id());
                let at = rfc3339_ms(clock::wall_precise_ns());
                let body = json!({
                    "uploadedAt": String::from_utf8_lossy(&at),
                    "uploadHttpStatus": status,
                    "uploadHttpError": error,
                    "uploadTimeMs": took.as_millis() as u64,
                });
                let step = || Step::Tell { status: *status, error: error.clone(), took: *took };
                let answer =
                    self.call(Method::Patch, &to, body.to_string().as_bytes(), own_headers, deadline);
                answer.map(|answer| told(step(), &answer)).map_err(|e| (e, step()))
            }
        }
    }

    fn call(
        &mut self,
        method: Method,
        to: &Url,
        body: &[u8],
        headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<Response, TransportError> {
        self.sink.send(&Request {
            method,
            to: Some(to),
            body,
            content_type: "application/json",
            content_encoding: None,
            headers,
            deadline,
        })
    }
}

fn pause(answer: &Response) -> Option<Duration> {
    answer.header("retry-after").and_then(|value| retry_after(value, SystemTime::now()))
}

fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || status >= 500
}

fn complaint(doing: &str, answer: &Response) -> String {
    let said = String::from_utf8_lossy(answer.body.get(..MOST_SAID).unwrap_or(&answer.body));
    format!("{doing}: answered {} {}", answer.status, said.trim())
}

/// The answer to the question for a place.
fn asked(job: &Job, answer: &Response) -> Turn {
    match answer.status {
        200..=299 => {}
        300..=399 | 401..=403 => return Turn::Denied,
        status if is_passing(status) => return Turn::Again(Step::Ask, pause(answer)),
        _ => return Turn::Failed(complaint("asking for a place", answer)),
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let id = body.get("mediaId").and_then(Value::as_str).unwrap_or_default();
    if id != job.id() {
        return Turn::Failed(format!("the server calls it {id:?}, and it is {}", job.id()));
    }
    match body.get("uploadUrl") {
        // It is known there.
        None | Some(Value::Null) => Turn::Done,
        Some(place) => match place.as_str().map(Url::parse) {
            Some(Ok(place)) => Turn::Next(Step::Put(place)),
            _ => Turn::Failed("the place that the server names is no URL".into()),
        },
    }
}

/// The answer of the place.
fn put(answer: &Response, took: Duration) -> Turn {
    match answer.status {
        status @ 200..=299 => Turn::Next(Step::Tell { status, error: None, took }),
        status if is_passing(status) => Turn::Again(Step::Ask, pause(answer)),
        status => {
            let error = Some(complaint("putting the bytes", answer));
            Turn::Next(Step::Tell { status, error, took })
        }
    }
}

/// The answer to what it was told.
fn told(step: Step, answer: &Response) -> Turn {
    match (answer.status, &step) {
        (status, _) if is_passing(status) => Turn::Again(step, pause(answer)),
        (401..=403, _) => Turn::Denied,
        (_, Step::Tell { error: Some(why), .. }) => Turn::Failed(why.clone()),
        (200..=299, _) => Turn::Done,
        _ => Turn::Failed(complaint("telling that it is there", answer)),
    }
}
