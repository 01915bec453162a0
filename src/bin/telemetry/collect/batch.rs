//! The events of one request, and what becomes of each.
//!
//! Invariants:
//! - An event is on one line: a raw line break in JSON can only be white space between tokens, so it
//!   becomes a blank.
//! - Until [`Batch::settle`] all events of the body are here, in its order, for the answer to speak of;
//!   after it only those that are kept, which is what is stored and counted as received.
//! - Its memory is used again for the next request of the connection.

use super::faults::splitmix;
use super::scan::{Pid, Scan};
use std::collections::HashMap;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is kept.
    Taken,
    /// It is kept, and the answer says something about it.
    Noted(&'static str),
    /// It is thrown away for good.
    Refused(&'static str),
    /// It is thrown away, to be sent again.
    Again,
}

impl Verdict {
    /// Whether the event is stored.
    pub fn kept(self) -> bool {
        matches!(self, Verdict::Taken | Verdict::Noted(_))
    }
}

/// What is remembered of an event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its id, if it has one.
    pub key: Option<u128>,
    /// Index into [`Batch::pids`], or [`NO_PID`].
    pub pid: u32,
    /// Where its line ends (behind the line break) in [`Batch::lines`].
    pub end: usize,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// The event names no pid.
pub const NO_PID: u32 = u32::MAX;

/// See the module's text.
#[derive(Default)]
pub struct Batch {
    /// In the order of the body.
    pub events: Vec<Event>,
    /// The events as lines, each ended by `\n`.
    pub lines: Vec<u8>,
    /// The different pids of the batch.
    pub pids: Vec<Pid>,
    /// The events' ids as they were sent, for services that name them in the answer; else empty.
    pub ids: Vec<String>,
    /// Events that the client says to have thrown away itself: why, and how many.
    pub discarded: Vec<(String, u64)>,
    /// Events refused for good; counted by [`Batch::settle`].
    pub refused: u64,
    /// Events asked for again; counted by [`Batch::settle`].
    pub again: u64,
    index: HashMap<Pid, u32>,
    last: u32,
}

impl Batch {
    /// Empties it; memory beyond `keep` bytes is given back.
    pub fn clear(&mut self, keep: usize) {
        self.events.clear();
        self.events.shrink_to(keep / size_of::<Event>());
        self.lines.clear();
        self.lines.shrink_to(keep);
        self.pids.clear();
        self.ids.clear();
        self.discarded.clear();
        (self.refused, self.again) = (0, 0);
        self.index.clear();
        self.last = NO_PID;
    }

    fn intern(&mut self, pid: Pid) -> u32 {
        // Mostly a whole batch comes from one process.
        if self.pids.get(self.last as usize) != Some(&pid) {
            let next = self.pids.len() as u32;
            self.last = *self.index.entry(pid.clone()).or_insert(next);
            if self.last == next {
                self.pids.push(pid);
            }
        }
        self.last
    }

    /// Appends an event as it stands in the body.
    pub fn push(&mut self, scan: Scan, text: &str, verdict: Verdict) {
        let from = self.lines.len();
        self.lines.extend_from_slice(text.as_bytes());
        if let Some(line) = self.lines.get_mut(from..) {
            let mut rest = line;
            while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
                let (_, tail) = rest.split_at_mut(at);
                tail[0] = b' ';
                rest = &mut tail[1..];
            }
        }
        self.ended(scan, verdict);
    }

    /// Appends the event whose line, without its end, was just written to `lines`.
    pub fn ended(&mut self, scan: Scan, verdict: Verdict) {
        self.lines.push(b'\n');
        let pid = scan.pid.map_or(NO_PID, |p| self.intern(p));
        self.events.push(Event { key: scan.id, pid, end: self.lines.len(), verdict });
    }

    /// Bytes of the longest event.
    pub fn longest(&self) -> usize {
        let starts = std::iter::once(0).chain(self.events.iter().map(|e| e.end));
        self.events.iter().zip(starts).map(|(e, start)| e.end - start - 1).max().unwrap_or(0)
    }

    /// Draws which of the events that would be kept are not: `refuse` per cent of them are refused and
    /// `again` per cent of the others asked for again. The same seed draws the same ones.
    pub fn draw(&mut self, refuse: f64, again: f64, mut seed: u64) {
        let mut hit = |per_cent: f64| {
            let draw = (splitmix(&mut seed) >> 11) as f64 / (1u64 << 53) as f64;
            draw * 100.0 < per_cent
        };
        for e in self.events.iter_mut().filter(|e| e.verdict.kept()) {
            let (refused, again) = (hit(refuse), hit(again));
            if refused {
                e.verdict = Verdict::Refused("refused on request");
            } else if again {
                e.verdict = Verdict::Again;
            }
        }
    }

    /// Refuses all.
    pub fn refuse_all(&mut self, why: &'static str) {
        for e in &mut self.events {
            e.verdict = Verdict::Refused(why);
        }
    }

    /// How many there are of the kept and of the others.
    pub fn split(&self) -> (usize, usize) {
        let kept = self.events.iter().filter(|e| e.verdict.kept()).count();
        (kept, self.events.len() - kept)
    }

    /// Throws away what is not kept, and counts it.
    pub fn settle(&mut self) {
        if self.events.iter().all(|e| e.verdict.kept()) {
            return;
        }
        let (mut from, mut to) = (0, 0);
        let (mut refused, mut again) = (0, 0);
        let lines = &mut self.lines;
        self.events.retain_mut(|e| {
            let line = from..e.end;
            from = e.end;
            match e.verdict {
                Verdict::Refused(_) => refused += 1,
                Verdict::Again => again += 1,
                _ => {
                    let length = line.len();
                    lines.copy_within(line, to);
                    to += length;
                    e.end = to;
                    return true;
                }
            }
            false
        });
        self.lines.truncate(to);
        (self.refused, self.again) = (refused, again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lines: &[&str]) -> Batch {
        let mut b = Batch::default();
        for line in lines {
            b.push(Scan::default(), line, Verdict::Taken);
        }
        b
    }

    #[test]
    fn settling_keeps_the_rest_in_order() {
        let mut b = batch(&["{1}", "{\n2}", "{33}", "{4}"]);
        assert_eq!((b.longest(), b.split()), (4, (4, 0)));
        b.events[0].verdict = Verdict::Refused("x");
        b.events[1].verdict = Verdict::Noted("y");
        b.events[2].verdict = Verdict::Again;
        assert_eq!(b.split(), (2, 2));
        b.settle();
        assert_eq!(b.lines, b"{ 2}\n{4}\n");
        assert_eq!(b.events.iter().map(|e| e.end).collect::<Vec<_>>(), [5, 9]);
        assert_eq!((b.refused, b.again), (1, 1));
        b.refuse_all("z");
        b.settle();
        assert_eq!((b.lines.len(), b.events.len(), b.refused), (0, 0, 2));
    }

    #[test]
    fn draws_are_shares_and_repeatable() {
        let verdicts = |refuse, again, seed| {
            let mut b = batch(&["{}"; 1000]);
            b.draw(refuse, again, seed);
            b.events.iter().map(|e| e.verdict).collect::<Vec<_>>()
        };
        let a = verdicts(30.0, 50.0, 1);
        assert_eq!(a, verdicts(30.0, 50.0, 1));
        assert_ne!(a, verdicts(30.0, 50.0, 2));
        let count = |f: fn(&Verdict) -> bool| a.iter().filter(|v| f(v)).count();
        let (refused, again) = (count(|v| matches!(v, Verdict::Refused(_))), count(|v| *v == Verdict::Again));
        assert!((250..350).contains(&refused), "{refused} of about 300");
        assert!((300..400).contains(&again), "{again} of about 350");
        assert!(verdicts(100.0, 0.0, 1).iter().all(|v| matches!(v, Verdict::Refused(_))));
        assert!(verdicts(0.0, 0.0, 1).iter().all(|v| v.kept()));
    }
}
