//! Delivering uploads, one at a time, beside the events: ask for a place, put the bytes there, tell how it went.
//!
//! The server (Langfuse) promises: asking with a hash that it knows gives no place, and nothing is left to do; a place is good for
//! an hour; an id that is not made of the hash is an error of one of the two sides.
//!
//! Invariants:
//! - [`Engine::upload`] makes one request and returns; its end is bounded as an attempt's is, with a second more for each MiB.
//! - Our credentials and headers go to the server alone, never to the place it names, be that on the server's own origin.
//! - A place is asked for anew at each attempt to put: none is used that may be too old.
//! - One after the other, the oldest first: what has to be tried again holds those behind it, as a batch of events does.
//! - An upload is counted once, as uploaded or as failed, and then gone.
#![forbid(unsafe_code)]

use super::attempt::found_nobody;
use super::counters::add;
use super::engine::{Desk, Engine, Next};
use super::retry::{Backoff, Limits, retry_after};
use crate::format::time::rfc3339_ms;
use crate::platform::log::{Level, Reason, say};
use crate::platform::{clock, entropy};
use crate::queue::media::files::{Held, Shelf};
use crate::queue::media::image::{Image, footprint};
use crate::queue::media::stack::MediaWords;
use crate::queue::spool::names::MediaName;
use crate::sink::{Method, Request, Response, Sink, TransportError, Url};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// What is kept of a server's complaint.
const MOST_SAID: usize = 512;
/// Google's storage refuses the headers that others want.
const GOOGLE: &str = "storage.googleapis.com";
/// How often to look after a file of ours that another process took (it is in another process-id namespace).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where uploads go.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// `.../api/public/media`
    pub url: Url,
}

/// How far the upload at hand has come.
#[derive(Clone)]
enum Step {
    /// A place is to be asked for.
    Ask,
    /// The bytes are to be put there.
    Put(Url),
    /// The server is to be told what the place answered, when, and after how long; with its complaint if it refused.
    Tell { status: u16, complaint: Option<String>, at: [u8; 24], took: Duration },
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
    shelf: Option<Shelf>,
    /// What others left is theirs to deliver.
    own_only: bool,
    /// From memory.
    images: VecDeque<Image>,
    /// Files.
    names: VecDeque<MediaName>,
    /// Files that are done with and cannot be removed.
    stuck: Vec<MediaName>,
    job: Option<Job>,
    backoff: Backoff,
    flushes_served: u32,
    /// The directory is to be looked at.
    look: bool,
    /// And then, because a file of ours is in other hands.
    look_at: Option<Instant>,
    written_seen: u64,
}

impl Media {
    /// Nothing is looked at yet.
    pub fn new(
        settings: MediaSettings,
        sink: Box<dyn Sink>,
        shelf: Option<Shelf>,
        own_only: bool,
        limits: Limits,
    ) -> Media {
        Media {
            settings,
            sink,
            look: shelf.is_some(),
            shelf,
            own_only,
            images: VecDeque::new(),
            names: VecDeque::new(),
            stuck: Vec::new(),
            job: None,
            backoff: Backoff::new(limits, entropy::random_u64()),
            flushes_served: 0,
            look_at: None,
            written_seen: 0,
        }
    }

    /// Whether nothing is known to wait.
    pub fn is_idle(&self) -> bool {
        self.job.is_none() && self.images.is_empty() && self.names.is_empty() && !self.look
    }

    /// What dead processes left may have come: look at the directory again.
    pub fn look_again(&mut self) {
        self.look = self.shelf.is_some();
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
    pub(super) fn prepare(&mut self, desk: &Desk<'_>, flushes: u32, now: Instant) -> Next {
        if desk.media.has_any() {
            self.images.extend(desk.media.take_all());
        }
        let written = desk.media.written();
        if self.look || written != self.written_seen || self.look_at.is_some_and(|at| at <= now) {
            self.list(desk.media, written);
        }
        while self.job.is_none() {
            match self.next_job() {
                Some(Ok(job)) => self.job = Some(job),
                Some(Err(why)) => {
                    add(&desk.counters.corrupt, usize::from(why.kind() == io::ErrorKind::InvalidData));
                    say(Level::Warn, Reason::Spool, &format!("an upload in the spool: {why}"));
                }
                None if desk.media.in_files() > 0 && self.shelf.is_some() => {
                    return Next::At(*self.look_at.get_or_insert(now + LOOK_AGAIN));
                }
                None => return Next::Idle,
            }
        }
        match self.backoff.wait(now, flushes != self.flushes_served) {
            Some(at) => Next::At(at),
            None => Next::Again,
        }
    }

    fn list(&mut self, words: &MediaWords, written: u64) {
        (self.look, self.look_at, self.written_seen) = (false, None, written);
        let Some(shelf) = &self.shelf else { return };
        let found = match shelf.dir.list() {
            Ok(listing) => listing.media,
            Err(why) if why.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(why) => {
                let text = format!("uploads in {} cannot be looked for: {why}", shelf.dir.path().display());
                say(Level::Warn, Reason::Spool, &text);
                return;
            }
        };
        let there: Vec<MediaName> =
            found.into_iter().map(|(name, _)| name).filter(|name| !self.stuck.contains(name)).collect();
        let own = there.iter().filter(|name| shelf.is_own(name)).count();
        words.files_are_there(written, own as u64);
        let at_hand = self.job.as_ref().and_then(|job| job.held.as_ref()).map(Held::name);
        let wanted = |name: &MediaName| {
            Some(name) != at_hand && if self.own_only { shelf.is_own(name) } else { shelf.may_take(name) }
        };
        self.names = there.into_iter().filter(wanted).collect();
    }

    fn next_job(&mut self) -> Option<io::Result<Job>> {
        if let Some(image) = self.images.pop_front() {
            return Some(Ok(Job::new(image, None)));
        }
        let shelf = self.shelf.as_ref()?;
        while let Some(name) = self.names.pop_front() {
            match shelf.take(&name) {
                Ok(Some((held, image))) => return Some(Ok(Job::new(image, Some(held)))),
                Ok(None) => {}
                Err(why) => return Some(Err(io::Error::new(why.kind(), format!("{}: {why}", name.text())))),
            }
        }
        None
    }

    fn finish(&mut self, desk: &Desk<'_>, job: Job, uploaded: bool) {
        self.backoff.reset();
        add(if uploaded { &desk.counters.uploaded } else { &desk.counters.uploads_failed }, 1);
        match (job.held, &self.shelf) {
            (Some(held), Some(shelf)) => {
                let name = *held.name();
                if let Err(why) = held.remove(&shelf.dir) {
                    say(Level::Warn, Reason::Spool, &format!("{} cannot be removed: {why}", name.text()));
                    self.stuck.push(name);
                }
                if shelf.is_own(&name) {
                    desk.media.file_is_gone();
                }
            }
            _ => desk.media.finish(footprint(job.image.len() as u64)),
        }
        desk.words.tell();
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

/// What an answer means.
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
        let Some(mut media) = self.media.take() else { return };
        media.flushes_served = desk.words.flushes.load(Ordering::Acquire);
        if let Some(job) = media.job.take() {
            self.advance(desk, &mut media, job, cap);
        }
        self.media = Some(media);
    }

    fn advance(&mut self, desk: &Desk<'_>, media: &mut Media, job: Job, cap: Option<Instant>) {
        let name = self.settings.name.clone();
        let age = clock::wall_precise_ns().saturating_sub(job.image.time_ns());
        let turn = if u128::from(age) > self.settings.max_event_age.as_nanos() {
            Turn::Failed("it is older than retry.max_age_s allows".into())
        } else {
            self.request(desk, media, &job, cap)
        };
        let now = Instant::now();
        match turn {
            Turn::Next(step) => media.job = Some(Job { step, ..job }),
            Turn::Again(step, asked) => {
                media.backoff.failed(now, asked);
                media.job = Some(Job { step, ..job });
            }
            Turn::Denied => {
                media.backoff.denied(now);
                let text = format!("{name} refuses an upload's credentials; it is kept and tried again");
                say(Level::Error, Reason::Denied, &text);
                media.job = Some(Job { step: Step::Ask, ..job });
            }
            Turn::Done => {
                let ms = clock::wall_precise_ns() / 1_000_000;
                desk.counters.last_success_unix_ms.store(ms, Ordering::Relaxed);
                media.finish(desk, job, true);
            }
            Turn::Failed(why) => {
                let why = self.settings.secrets.hide(&why);
                say(Level::Error, Reason::Upload, &format!("{name}: an upload was given up: {why}"));
                media.finish(desk, job, false);
            }
        }
    }

    /// One request, and what its answer, or the lack of one, means for the collector as a whole.
    fn request(&mut self, desk: &Desk<'_>, media: &mut Media, job: &Job, cap: Option<Instant>) -> Turn {
        let to_server = !matches!(job.step, Step::Put(_));
        let more = if to_server { 0 } else { job.image.data().len() as u64 >> 20 };
        let deadline = Instant::now() + self.settings.timeout + Duration::from_secs(more);
        let deadline = cap.map_or(deadline, |cap| deadline.min(cap));
        desk.words.busy_since.store(clock::monotonic_ms(), Ordering::SeqCst);
        let turn = media.request(job, &self.settings.headers, deadline);
        desk.words.busy_since.store(0, Ordering::SeqCst);
        match turn {
            Ok(turn) => {
                if to_server {
                    self.reached(desk, matches!(turn, Turn::Denied));
                }
                if matches!(turn, Turn::Again(..)) {
                    let text =
                        format!("{}: an upload is not taken now; it is tried again", self.settings.name);
                    say(Level::Warn, Reason::Busy, &text);
                }
                turn
            }
            Err(error) => {
                self.not_reached(desk, to_server && found_nobody(&error), to_server);
                let text = format!("{}; an upload is kept and tried again", self.named(&error));
                say(Level::Warn, Reason::Transport, &text);
                // Whether the bytes are there nobody knows; what the server is to be told stays as it is.
                Turn::Again(if to_server { job.step.clone() } else { Step::Ask }, None)
            }
        }
    }
}

impl Media {
    fn request(
        &mut self,
        job: &Job,
        own_headers: &[(String, String)],
        deadline: Instant,
    ) -> Result<Turn, TransportError> {
        let mut call = |method, to: &Url, body: &[u8], content_type: &str, headers: &[(String, String)]| {
            let content_encoding = None;
            let to = Some(to);
            self.sink.send(&Request { method, to, body, content_type, content_encoding, headers, deadline })
        };
        let url = &self.settings.url;
        match &job.step {
            Step::Ask => {
                let answer = call(
                    Method::Post,
                    url,
                    job.note.to_string().as_bytes(),
                    "application/json",
                    own_headers,
                )?;
                Ok(asked(job, &answer))
            }
            Step::Put(place) => {
                let mut headers = Vec::new();
                if !is_google(&place.host) {
                    headers.push(("x-amz-checksum-sha256".into(), job.said("sha256Hash").into()));
                    headers.push(("x-ms-blob-type".into(), "BlockBlob".into()));
                }
                let started = Instant::now();
                let answer = call(Method::Put, place, job.image.data(), job.said("contentType"), &headers)?;
                Ok(put(&answer, started.elapsed()))
            }
            Step::Tell { status, complaint, at, took } => {
                let to = Url { target: format!("{}/{}", url.target, job.id()), ..url.clone() };
                let mut body = json!({
                    "uploadedAt": String::from_utf8_lossy(at),
                    "uploadHttpStatus": status,
                    "uploadTimeMs": took.as_millis() as u64,
                });
                if let Some(complaint) = complaint {
                    body["uploadHttpError"] = complaint.as_str().into();
                }
                let answer =
                    call(Method::Patch, &to, body.to_string().as_bytes(), "application/json", own_headers)?;
                Ok(told(&job.step, &answer))
            }
        }
    }
}

fn is_google(host: &str) -> bool {
    host.strip_suffix(GOOGLE).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn pause(answer: &Response) -> Option<Duration> {
    answer.header("retry-after").and_then(|value| retry_after(value, SystemTime::now()))
}

fn said_in(answer: &Response) -> String {
    let said = answer.body.get(..MOST_SAID).unwrap_or(&answer.body);
    String::from_utf8_lossy(said).trim().to_string()
}

/// The answer to the question for a place.
fn asked(job: &Job, answer: &Response) -> Turn {
    match answer.status {
        200..=299 => {}
        300..=399 | 401..=403 => return Turn::Denied,
        429 | 500.. => return Turn::Again(Step::Ask, pause(answer)),
        status => {
            return Turn::Failed(format!("asked for a place, it answered {status} {}", said_in(answer)));
        }
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let id = body.get("mediaId").and_then(Value::as_str).unwrap_or_default();
    if id != job.id() {
        let id: String = id.chars().take(64).collect();
        return Turn::Failed(format!("the server calls it {id:?}, and it is {}", job.id()));
    }
    match body.get("uploadUrl") {
        // It is known there.
        None | Some(Value::Null) => Turn::Done,
        Some(place) => match place.as_str().map(Url::parse) {
            // What the server writes into it is no word of the user's on credentials.
            Some(Ok(place)) => Turn::Next(Step::Put(Url { userinfo: None, ..place })),
            _ => Turn::Failed("the place that the server names is no URL".into()),
        },
    }
}

/// The answer of the place.
fn put(answer: &Response, took: Duration) -> Turn {
    let (status, at) = (answer.status, rfc3339_ms(clock::wall_precise_ns()));
    match status {
        200..=299 => Turn::Next(Step::Tell { status, complaint: None, at, took }),
        408 | 429 | 500.. => Turn::Again(Step::Ask, pause(answer)),
        _ => Turn::Next(Step::Tell { status, complaint: Some(said_in(answer)), at, took }),
    }
}

/// The answer to what it was told.
fn told(step: &Step, answer: &Response) -> Turn {
    match (answer.status, step) {
        (429 | 500.., _) => Turn::Again(step.clone(), pause(answer)),
        (401..=403, _) => Turn::Denied,
        // Not what the place said: its complaints quote the signature of the URL.
        (_, Step::Tell { status, complaint: Some(_), .. }) => {
            Turn::Failed(format!("the place answered {status} to its bytes"))
        }
        (200..=299, _) => Turn::Done,
        (status, _) => {
            Turn::Failed(format!("told that it is there, it answered {status} {}", said_in(answer)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn google_is_known_by_its_whole_name() {
        for (host, expected) in [
            ("storage.googleapis.com", true),
            ("bucket.storage.googleapis.com", true),
            ("notstorage.googleapis.com", false),
            ("storage.googleapis.com.example", false),
            ("example.com", false),
        ] {
            assert_eq!(is_google(host), expected, "{host}");
        }
    }
}
