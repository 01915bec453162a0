//! One connection: what is done about each of its requests.
//!
//! Invariants:
//! - `POST` of any path but `/reset` and `/fault` brings events, and the steps of an upload are media;
//!   `GET` of `/`, `/stats`, `/events`, `/fault` and `/healthz` tells about them.
//! - The order is: parse, judge, append to the file, enter the ledger, answer. A client that was answered
//!   finds its events in the file and in the counts.
//! - Nothing of a body that was refused is stored, and of a batch only what is kept.

use super::batch::Batch;
use super::dialect::{self, Dialect, Limits, Route, media};
use super::faults::{Action, Faults, Shaping};
use super::http::{Answer, Fail, HARD_LIMIT, Head, Reader};
use super::listen::Stream;
use super::unpack::{Encoding, Unpack, unpack};
use super::{Collector, ledger, locked, page};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Buffers larger than this are given back after the request.
const KEEP: usize = 4 << 20;
/// Contents that `/stats` lists.
const LISTED: usize = 1000;
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, OPTIONS";

/// What follows after a request.
#[derive(PartialEq)]
enum Next {
    Request,
    Close,
}

/// See the module's text.
pub struct Connection<'a> {
    c: &'a Collector,
    stream: &'a Stream,
    reader: Reader<'a>,
    wire: Vec<u8>,
    plain: Vec<u8>,
    batch: Batch,
}

impl<'a> Connection<'a> {
    /// With empty buffers.
    pub fn new(c: &'a Collector, stream: &'a Stream) -> Self {
        let (wire, plain) = (Vec::new(), Vec::new());
        Connection { c, stream, reader: Reader::new(stream), wire, plain, batch: Batch::default() }
    }

    /// Answers requests until either side has enough.
    pub fn serve(&mut self) {
        loop {
            let next = match self.reader.head() {
                Ok(Some(head)) => self.request(&head),
                Ok(None) => return,
                Err(fail) => {
                    let _ = self.failed(fail, false);
                    Next::Close
                }
            };
            if next == Next::Close {
                return;
            }
            for buffer in [&mut self.wire, &mut self.plain] {
                buffer.truncate(KEEP);
                buffer.shrink_to(KEEP);
            }
        }
    }

    fn request(&mut self, head: &Head) -> Next {
        if matches!(
            (head.method.as_str(), head.path.as_str()),
            ("PUT" | "POST", "/fault") | ("POST", "/reset")
        ) {
            return self.control(head);
        }
        if let Some(route) = dialect::route(head) {
            return self.service(head, &route);
        }
        // Whatever body it has belongs to nobody.
        if let Err(fail) = self.reader.body(head, &mut self.wire, self.c.max_body) {
            return self.failed(fail, head.keep_alive);
        }
        let answer = self.look(head);
        self.send(&answer, head)
    }

    fn send(&mut self, answer: &Answer, head: &Head) -> Next {
        match answer.send(self.stream, head.keep_alive, head.method == "HEAD") {
            Ok(()) if head.keep_alive => Next::Request,
            _ => Next::Close,
        }
    }

    /// Answers a request that could not be read, and goes on if it was read to its end.
    fn failed(&mut self, fail: Fail, keep_alive: bool) -> Next {
        let (answer, rest) = match fail {
            Fail::Gone => return Next::Close,
            Fail::Bad(status, text) => (Answer::error(status, &text), true),
            Fail::TooLarge { rest } => (Answer::error(413, &self.too_large()), rest),
        };
        self.end(&answer, keep_alive, rest)
    }

    fn end(&mut self, answer: &Answer, keep_alive: bool, rest: bool) -> Next {
        let keep_alive = keep_alive && !rest;
        if answer.send(self.stream, keep_alive, false).is_ok() && keep_alive {
            return Next::Request;
        }
        if rest {
            self.reader.linger();
        }
        Next::Close
    }

    fn too_large(&self) -> String {
        format!("the body is larger than {} bytes", self.c.max_body)
    }

    fn look(&self, head: &Head) -> Answer {
        match (head.method.as_str(), head.path.as_str()) {
            ("OPTIONS", _) => Answer::json(204, "").with("Allow", METHODS),
            ("GET" | "HEAD", "/") => page::answer(),
            ("GET" | "HEAD", "/healthz") => Answer::json(200, r#"{"status":"ok"}"#),
            ("GET" | "HEAD", "/stats") => self.stats(),
            ("GET" | "HEAD", "/fault") => self.fault_text(),
            ("GET" | "HEAD", "/events") => {
                let limit = head.query.split('&').find_map(|p| p.strip_prefix("limit="));
                match limit.map_or(Ok(ledger::RECENT_EVENTS), str::parse) {
                    Ok(n) => Answer::json(200, locked(&self.c.ledger).recent(n)),
                    Err(_) => Answer::error(400, "limit must be a whole number"),
                }
            }
            ("GET" | "HEAD", _) => Answer::error(
                404,
                "GET knows /, /stats, /events, /fault, /healthz; POST takes events anywhere",
            ),
            _ => Answer::error(405, "events are sent by POST").with("Allow", METHODS),
        }
    }

    fn stats(&self) -> Answer {
        let faults = locked(&self.c.faults).in_force(Instant::now());
        let mut stats = locked(&self.c.ledger).stats();
        stats.insert("faults".into(), faults.into());
        stats.insert("media".into(), locked(&self.c.media).stats(LISTED));
        stats.insert("connections".into(), self.c.open.load(Ordering::Relaxed).into());
        stats.insert("connections_total".into(), self.c.opened.load(Ordering::Relaxed).into());
        Answer::json(200, serde_json::Value::Object(stats).to_string())
    }

    fn fault_text(&self) -> Answer {
        Answer::text(200, locked(&self.c.faults).in_force(Instant::now()).join(","))
    }

    fn control(&mut self, head: &Head) -> Next {
        let n = match self.reader.body(head, &mut self.wire, HARD_LIMIT) {
            Ok(n) => n,
            Err(fail) => return self.failed(fail, head.keep_alive),
        };
        let answer = if head.path == "/reset" {
            locked(&self.c.ledger).reset();
            locked(&self.c.media).reset();
            let open = self.c.open.load(Ordering::Relaxed);
            self.c.opened.store(open, Ordering::Relaxed);
            Answer::json(200, r#"{"status":1}"#)
        } else {
            let spec = std::str::from_utf8(self.wire.get(..n).unwrap_or_default());
            match spec.map_err(|_| "the body is not UTF-8".to_string()).and_then(Faults::parse) {
                Ok(faults) => {
                    *locked(&self.c.faults) = faults;
                    self.fault_text()
                }
                Err(why) => Answer::error(400, &why),
            }
        };
        self.send(&answer, head)
    }

    /// A request that is for a service, and the faults that hit it.
    fn service(&mut self, head: &Head, route: &Route) -> Next {
        let decision = locked(&self.c.faults).decide(Instant::now());
        if decision.action == Some(Action::Refuse) {
            self.note(head, route, 0, "refuse");
            return Next::Close;
        }
        let wire = match self.reader.body(head, &mut self.wire, self.c.max_body) {
            Ok(n) => n,
            Err(Fail::TooLarge { rest }) => {
                let answer = said(route, head, 413, &self.too_large());
                self.note(head, route, 0, "413");
                return self.end(&answer, head.keep_alive, rest);
            }
            Err(fail) => {
                if let Fail::Bad(status, _) = &fail {
                    self.note(head, route, 0, &status.to_string());
                }
                return self.failed(fail, head.keep_alive);
            }
        };
        if !decision.delay.is_zero() && !matches!(decision.action, None | Some(Action::Lost)) {
            // Delays what follows. (A delayed normal answer is for below: its events are stored first.)
            let _ = self.reader.wait(Some(Instant::now() + decision.delay));
        }
        match decision.action {
            Some(Action::Status(status, value)) => {
                self.note(head, route, wire, &status.to_string());
                let name = if status < 400 { "Location" } else { "Retry-After" };
                let mut answer = said(route, head, status, "a fault that was asked for");
                answer.extra = value.map(|v| (name, v)).into_iter().collect();
                self.send(&answer, head)
            }
            Some(Action::Cut) => {
                self.note(head, route, wire, "cut");
                let bytes = Answer::json(200, r#"{"status":1,"accepted":0}"#).head(false);
                let _ = (&mut &*self.stream).write_all(bytes.get(..bytes.len() / 2).unwrap_or_default());
                Next::Close
            }
            Some(Action::Stall(time)) => {
                self.note(head, route, wire, "stall");
                if !self.reader.wait(time.map(|t| Instant::now() + t)) {
                    return Next::Close;
                }
                let answer = self.take(head, route, wire, decision.shaping);
                locked(&self.c.ledger).ended(&answer.status.to_string());
                self.send(&answer, head)
            }
            Some(Action::Lost) => {
                let answer = self.take(head, route, wire, decision.shaping);
                let how = if answer.status < 300 { "lost" } else { "lost, and bad" };
                self.note(head, route, wire, how);
                let _ = self.reader.wait(Some(Instant::now() + decision.delay));
                Next::Close
            }
            Some(Action::Refuse | Action::Pass) | None => {
                let answer = self.take(head, route, wire, decision.shaping);
                self.note(head, route, wire, &answer.status.to_string());
                if !decision.delay.is_zero() && !self.reader.wait(Some(Instant::now() + decision.delay)) {
                    return Next::Close;
                }
                self.send(&answer, head)
            }
        }
    }

    /// Counts a request and how it ended.
    fn note(&self, head: &Head, route: &Route, wire: usize, how: &str) {
        let (path, format) = match route {
            Route::Events(d) => (head.path.as_str(), d.name(head)),
            Route::Media(step) => (step.label(), "langfuse-media"),
        };
        let mut ledger = locked(&self.c.ledger);
        ledger.arrived(path, format, wire as u64);
        ledger.ended(how);
    }

    /// Does what the request asks for, and says what is answered.
    fn take(&mut self, head: &Head, route: &Route, wire: usize, shaping: Shaping) -> Answer {
        match route {
            Route::Media(step) => self.media(head, step, wire, shaping),
            Route::Events(dialect) => match self.events(head, *dialect, wire, shaping) {
                Ok(answer) => {
                    locked(&self.c.ledger).accept(&self.batch, dialect.name(head));
                    answer
                }
                Err(answer) => answer,
            },
        }
    }

    fn media(&mut self, head: &Head, step: &media::Step, wire: usize, shaping: Shaping) -> Answer {
        let wire = self.wire.get(..wire).unwrap_or_default();
        let encoding = head.encoding.filter(|e| *e != Encoding::Zstd);
        let n = match encoding.map(|e| (e, unpack(e, wire, &mut self.plain, self.c.max_body))) {
            Some((Encoding::Identity, Ok(_))) => None,
            Some((_, Ok(n))) => Some(n),
            Some((_, Err(Unpack::Bad(why)))) => return media::error(400, &why),
            Some((_, Err(Unpack::TooLarge))) => return media::error(413, &self.too_large()),
            None => return media::error(415, "Content-Encoding: not understood"),
        };
        let body = n.map_or(wire, |n| self.plain.get(..n).unwrap_or_default());
        let base = match head.header("Host") {
            Some(host) if self.c.url.starts_with("http://") && !host.is_empty() => format!("http://{host}"),
            _ => self.c.url.trim_end_matches('/').to_string(),
        };
        let place = media::Place { base: &base, limit: self.c.max_body, quota: shaping.quota.is_some() };
        locked(&self.c.media).take(step, head, body, &place)
    }

    /// Parses, judges and stores. `Err`: nothing was stored.
    fn events(
        &mut self,
        head: &Head,
        dialect: &dyn Dialect,
        wire: usize,
        shaping: Shaping,
    ) -> Result<Answer, Answer> {
        self.batch.clear(KEEP);
        dialect.admit(head)?;
        let Some(encoding) = head.encoding.filter(|e| dialect.encodings().contains(e)) else {
            let text = format!("Content-Encoding: taken here are {:?}", dialect.encodings());
            return Err(dialect.error(head, 415, &text));
        };
        let limits = if self.c.limits == super::Limits::Real { dialect.limits(head) } else { Limits::NONE };
        let too_large = |most: usize| {
            Err(dialect.error(head, limits.status, &format!("the body is larger than {most} bytes")))
        };
        if wire > limits.wire {
            return too_large(limits.wire);
        }
        let wire = self.wire.get(..wire).unwrap_or_default();
        let most = self.c.max_body.min(limits.body);
        let body = match unpack(encoding, wire, &mut self.plain, most) {
            Ok(_) if encoding == Encoding::Identity => wire,
            Ok(n) => self.plain.get(..n).unwrap_or_default(),
            Err(Unpack::Bad(why)) => return Err(dialect.error(head, 400, &why)),
            Err(Unpack::TooLarge) => return too_large(most),
        };
        if body.len() > most {
            return too_large(most);
        }
        dialect.read(head, body, &mut self.batch)?;
        if limits.event != usize::MAX && self.batch.longest() > limits.event {
            let text = format!("an event is larger than {} bytes", limits.event);
            return Err(dialect.error(head, limits.event_status, &text));
        }
        let answer = match shaping.quota {
            Some(seconds) => {
                self.batch.refuse_all("billing_limit_exceeded");
                dialect.over_quota(head, &self.batch, seconds)
            }
            None => {
                let words = dialect.words();
                let refuse = if words.refused { shaping.refuse } else { 0.0 };
                let again = if words.again { shaping.again } else { 0.0 };
                self.batch.draw(refuse, again, shaping.seed);
                dialect.answer(head, &self.batch)
            }
        };
        self.batch.settle();
        self.c.store.append(&self.batch.lines).map_err(|e| {
            eprintln!("telemetry: cannot write to the file of events: {e}");
            dialect.error(head, 507, &format!("cannot store: {e}"))
        })?;
        Ok(answer)
    }
}

/// What is said of a request as a whole that is not taken.
fn said(route: &Route, head: &Head, status: u16, text: &str) -> Answer {
    match route {
        Route::Events(dialect) => dialect.error(head, status, text),
        Route::Media(_) => media::error(status, text),
    }
}
