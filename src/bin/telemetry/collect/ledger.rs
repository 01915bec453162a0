//! What the collector has seen: counts, ids, pids, and the last events.
//!
//! Invariants:
//! - One ledger behind one mutex, entered once a request with everything already parsed; nothing here
//!   reads, writes or parses.
//! - `received` = `unique` + `duplicates`; an event without an id is unique. What a service would have
//!   refused, or asked for again, is not received: it is counted by these two names.
//! - Memory: 19 to 39 bytes for each different id (the only thing that grows without bound, and what
//!   `--no-dedupe` is for), at most [`MAX_ROWS`] pids and as many paths (later ones count as "other"),
//!   the last [`RECENT_EVENTS`] events or [`RECENT_BYTES`], whichever is less.

use super::batch::{Batch, NO_PID};
use super::scan::Pid;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// Different pids, and different paths, that get a row of their own.
pub const MAX_ROWS: usize = 10_000;
/// Events kept for `GET /events`.
pub const RECENT_EVENTS: usize = 1000;
/// Their bytes at most.
pub const RECENT_BYTES: usize = 8 << 20;

/// One multiplication: the ids are random or keyed hashes already, but a UUID also holds a clock and a
/// counter, so both halves are mixed into all bits.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    fn write_u128(&mut self, id: u128) {
        let a = (id as u64) ^ 0x9e37_79b9_7f4a_7c15;
        let b = ((id >> 64) as u64) ^ 0xd1b5_4a32_d192_ed03;
        let m = u128::from(a) * u128::from(b);
        self.0 = (m as u64) ^ ((m >> 64) as u64);
    }
}

/// A set of ids in parts, so that growing it holds the ledger for one part and not for all.
struct Ids(Vec<HashSet<u128, BuildHasherDefault<IdHasher>>>);

impl Ids {
    const PARTS: usize = 256;

    fn new() -> Self {
        Ids((0..Self::PARTS).map(|_| HashSet::default()).collect())
    }

    /// Whether the id is new.
    fn insert(&mut self, id: u128) -> bool {
        let mut h = IdHasher::default();
        h.write_u128(id);
        // Bits that the set itself uses neither for its place nor for its tag.
        let part = (h.finish() >> 44) as usize % Self::PARTS;
        self.0.get_mut(part).is_none_or(|p| p.insert(id))
    }
}

#[derive(Default)]
struct Row {
    received: u64,
    unique: u64,
    seen: Option<Instant>,
}

#[derive(Default)]
struct FormatRow {
    requests: u64,
    received: u64,
    unique: u64,
    refused: u64,
    again: u64,
}

/// Counts of the last seconds in slots of 100 ms, for a rate that moves but does not jump.
#[derive(Default)]
struct Rate {
    slots: [u64; Rate::SLOTS],
    newest: u64,
}

impl Rate {
    const SLOTS: usize = 21;
    const MS: u64 = 100;

    fn turn(&mut self, age: Duration) {
        let now = age.as_millis() as u64 / Self::MS;
        for i in 0..(now - self.newest.min(now)).min(Self::SLOTS as u64) {
            self.slots[((self.newest + 1 + i) % Self::SLOTS as u64) as usize] = 0;
        }
        if now - self.newest.min(now) > Self::SLOTS as u64 {
            self.slots = Default::default();
        }
        self.newest = now.max(self.newest);
    }

    fn add(&mut self, age: Duration, n: u64) {
        self.turn(age);
        self.slots[(self.newest % Self::SLOTS as u64) as usize] += n;
    }

    /// Events a second over the last two seconds (or since the start), without the slot under way.
    fn per_second(&mut self, age: Duration) -> f64 {
        self.turn(age);
        let current = self.slots[(self.newest % Self::SLOTS as u64) as usize];
        let full = self.newest.min(Self::SLOTS as u64 - 1);
        let sum = self.slots.iter().sum::<u64>() - current;
        if full == 0 { 0.0 } else { sum as f64 * (1000 / Self::MS) as f64 / full as f64 }
    }
}

/// The last events as pieces of batches; pieces that fell out lend their memory to new ones.
#[derive(Default)]
struct Recent {
    pieces: VecDeque<Piece>,
    events: usize,
    bytes: usize,
    spare: Vec<Piece>,
}

#[derive(Default)]
struct Piece {
    lines: Vec<u8>,
    events: usize,
}

impl Recent {
    fn add(&mut self, batch: &Batch) {
        let n = batch.events.len();
        let start_of = |i: usize| if i == 0 { 0 } else { batch.events.get(i - 1).map_or(0, |e| e.end) };
        let mut first = n.saturating_sub(RECENT_EVENTS);
        while first < n && batch.lines.len() - start_of(first) > RECENT_BYTES {
            first += 1;
        }
        if first == n {
            return;
        }
        let mut piece = self.spare.pop().unwrap_or_default();
        piece.lines.clear();
        piece.lines.extend_from_slice(batch.lines.get(start_of(first)..).unwrap_or_default());
        piece.events = n - first;
        self.events += piece.events;
        self.bytes += piece.lines.len();
        self.pieces.push_back(piece);
        while let Some(old) = self.pieces.front() {
            let enough = self.events - old.events >= RECENT_EVENTS;
            if self.pieces.len() < 2 || !(enough || self.bytes > RECENT_BYTES) {
                break;
            }
            if let Some(old) = self.pieces.pop_front() {
                self.events -= old.events;
                self.bytes -= old.lines.len();
                if self.spare.len() < 4 && old.lines.capacity() < 1 << 20 {
                    self.spare.push(old);
                }
            }
        }
    }

    fn last(&self, limit: usize) -> Vec<u8> {
        let lines = self.pieces.iter().flat_map(|p| p.lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()));
        let mut out = vec![b'['];
        for line in lines.skip(self.events.saturating_sub(limit.min(RECENT_EVENTS))) {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(line);
        }
        out.push(b']');
        out
    }
}

/// See the module's text.
pub struct Ledger {
    since: Instant,
    dedupe: bool,
    requests: u64,
    received: u64,
    unique: u64,
    without_id: u64,
    refused: u64,
    again: u64,
    bytes_in: u64,
    ids: Ids,
    pids: HashMap<Pid, Row>,
    statuses: BTreeMap<String, u64>,
    paths: BTreeMap<String, u64>,
    formats: BTreeMap<&'static str, FormatRow>,
    discarded: BTreeMap<String, u64>,
    rate: Rate,
    recent: Recent,
    /// For the rows of one batch; kept so that its memory is used again.
    tally: Vec<(u64, u64)>,
}

impl Ledger {
    /// An empty ledger. Without `dedupe` ids are not kept and every event counts as unique.
    pub fn new(dedupe: bool) -> Self {
        Ledger {
            since: Instant::now(),
            dedupe,
            requests: 0,
            received: 0,
            unique: 0,
            without_id: 0,
            refused: 0,
            again: 0,
            bytes_in: 0,
            ids: Ids::new(),
            pids: HashMap::new(),
            statuses: BTreeMap::new(),
            paths: BTreeMap::new(),
            formats: BTreeMap::new(),
            discarded: BTreeMap::new(),
            rate: Rate::default(),
            recent: Recent::default(),
            tally: Vec::new(),
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Ledger::new(self.dedupe);
    }

    /// A request in a format arrived, whatever becomes of it.
    pub fn arrived(&mut self, path: &str, format: &'static str, wire_bytes: u64) {
        self.requests += 1;
        self.formats.entry(format).or_default().requests += 1;
        self.bytes_in += wire_bytes;
        match self.paths.get_mut(path) {
            Some(n) => *n += 1,
            None => {
                let name = if self.paths.len() < MAX_ROWS { path } else { "other" };
                *self.paths.entry(name.into()).or_default() += 1;
            }
        }
    }

    /// How it ended: a status, or the name of the fault that left it without one.
    pub fn ended(&mut self, how: &str) {
        match self.statuses.get_mut(how) {
            Some(n) => *n += 1,
            None => {
                self.statuses.insert(how.into(), 1);
            }
        }
    }

    /// The events of a request were stored; the batch is settled.
    pub fn accept(&mut self, batch: &Batch, format: &'static str) {
        let now = Instant::now();
        let n = batch.events.len() as u64;
        self.tally.clear();
        self.tally.resize(batch.pids.len(), (0, 0));
        let mut unique = 0;
        for e in &batch.events {
            let new = match e.key {
                Some(id) => !self.dedupe || self.ids.insert(id),
                None => {
                    self.without_id += 1;
                    true
                }
            };
            unique += u64::from(new);
            if e.pid != NO_PID
                && let Some(t) = self.tally.get_mut(e.pid as usize)
            {
                t.0 += 1;
                t.1 += u64::from(new);
            }
        }
        for (pid, (received, unique)) in batch.pids.iter().zip(&self.tally).filter(|(_, t)| t.0 > 0) {
            let full = self.pids.len() >= MAX_ROWS;
            let row = match self.pids.get_mut(pid) {
                Some(row) => row,
                None if full => self.pids.entry(Pid::Text("other".into())).or_default(),
                None => self.pids.entry(pid.clone()).or_default(),
            };
            row.received += received;
            row.unique += unique;
            row.seen = Some(now);
        }
        self.received += n;
        self.unique += unique;
        self.refused += batch.refused;
        self.again += batch.again;
        let row = self.formats.entry(format).or_default();
        row.received += n;
        row.unique += unique;
        row.refused += batch.refused;
        row.again += batch.again;
        for (why, n) in &batch.discarded {
            let full = self.discarded.len() >= MAX_ROWS && !self.discarded.contains_key(why);
            *self.discarded.entry(if full { "other".into() } else { why.clone() }).or_default() += n;
        }
        self.rate.add(now - self.since, n);
        self.recent.add(batch);
    }

    /// The last events as a JSON array, oldest first.
    pub fn recent(&self, limit: usize) -> Vec<u8> {
        self.recent.last(limit)
    }

    /// All counts as JSON.
    pub fn stats(&mut self) -> Map<String, Value> {
        let now = Instant::now();
        let age = now - self.since;
        let mut pids = Map::new();
        for (pid, row) in &self.pids {
            let name = match pid {
                Pid::Number(n) => n.to_string(),
                Pid::Text(t) => t.to_string(),
            };
            let seen = row.seen.map(|t| (now - t).as_millis() as u64);
            let row = json!({"received": row.received, "unique": row.unique, "last_seen_ms_ago": seen});
            pids.insert(name, row);
        }
        let formats: Map<String, Value> = self
            .formats
            .iter()
            .map(|(name, r)| {
                let row = json!({"requests": r.requests, "received": r.received, "unique": r.unique,
                    "refused": r.refused, "again": r.again});
                (name.to_string(), row)
            })
            .collect();
        let mut m = Map::new();
        m.insert("requests".into(), self.requests.into());
        m.insert("received".into(), self.received.into());
        m.insert("unique".into(), self.unique.into());
        m.insert("duplicates".into(), (self.received - self.unique).into());
        m.insert("without_id".into(), self.without_id.into());
        m.insert("refused".into(), self.refused.into());
        m.insert("again".into(), self.again.into());
        m.insert("bytes_in".into(), self.bytes_in.into());
        m.insert("events_per_second".into(), self.rate.per_second(age).round().into());
        m.insert("by_pid".into(), pids.into());
        m.insert("by_status".into(), json!(self.statuses));
        m.insert("by_path".into(), json!(self.paths));
        m.insert("by_format".into(), formats.into());
        m.insert("client_reports".into(), json!(self.discarded));
        m.insert("dedupe".into(), self.dedupe.into());
        m.insert("uptime_ms".into(), (age.as_millis() as u64).into());
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::batch::Verdict;
    use crate::collect::dialect::plain::parse;

    fn batch(body: &str) -> Batch {
        let mut b = Batch::default();
        parse(body.as_bytes(), false, &mut b).unwrap();
        b
    }

    #[test]
    fn counts_by_id_and_pid() {
        let mut l = Ledger::new(true);
        l.accept(&batch("[{\"id\":\"a\",\"pid\":1},{\"id\":\"b\",\"pid\":1},{\"pid\":2},{}]"), "json");
        l.accept(&batch("[{\"id\":\"b\",\"pid\":2}]"), "json");
        let s = l.stats();
        assert_eq!(
            (&s["received"], &s["unique"], &s["duplicates"], &s["without_id"]),
            (&json!(5), &json!(4), &json!(1), &json!(2))
        );
        let row = |p: &str| (s["by_pid"][p]["received"].as_u64(), s["by_pid"][p]["unique"].as_u64());
        assert_eq!((row("1"), row("2")), ((Some(2), Some(2)), (Some(2), Some(1))));
        l.reset();
        l.accept(&batch("[{\"id\":\"b\"}]"), "json");
        assert_eq!(l.stats()["unique"], json!(1));
    }

    #[test]
    fn what_is_not_kept_is_not_received() {
        let mut l = Ledger::new(true);
        let mut b = batch("[{\"id\":\"a\",\"pid\":1},{\"id\":\"b\",\"pid\":2},{\"id\":\"c\",\"pid\":2}]");
        b.events[0].verdict = Verdict::Refused("x");
        b.events[1].verdict = Verdict::Again;
        b.discarded.push(("overflow/error".into(), 3));
        b.settle();
        l.arrived("/", "json", 10);
        l.accept(&b, "json");
        let s = l.stats();
        assert_eq!([&s["received"], &s["refused"], &s["again"]], [&json!(1); 3]);
        let row = json!({"requests": 1, "received": 1, "unique": 1, "refused": 1, "again": 1});
        assert_eq!(
            (&s["by_format"], &s["client_reports"]),
            (&json!({"json": row}), &json!({"overflow/error": 3}))
        );
        assert!(s["by_pid"].get("1").is_none() && s["by_pid"]["2"]["received"] == 1, "{s:?}");
    }

    #[test]
    fn sequential_ids_spread_over_the_parts() {
        let mut ids = Ids::new();
        for i in 0..100_000u128 {
            assert!(ids.insert((0x0198_a0c2_6d0e_7c11 << 64) | 0x8a77_0000_0000_0000 | i));
        }
        assert!(!ids.insert((0x0198_a0c2_6d0e_7c11 << 64) | 0x8a77_0000_0000_0000));
        let largest = ids.0.iter().map(HashSet::len).max().unwrap();
        assert!(largest < 1000, "{largest} of about 390");
    }

    #[test]
    fn the_last_events_are_bounded() {
        let mut l = Ledger::new(true);
        for i in 0..1500 {
            l.accept(&batch(&format!("{{\"n\":{i}}}")), "json");
        }
        assert_eq!(l.recent(2), b"[{\"n\":1498},{\"n\":1499}]");
        let all: Value = serde_json::from_slice(&l.recent(usize::MAX)).unwrap();
        assert_eq!(all.as_array().unwrap().len(), RECENT_EVENTS);
        let big = format!("[{{\"n\":1}},{{\"s\":\"{}\"}},{{\"n\":2}}]", "x".repeat(RECENT_BYTES));
        l.accept(&batch(&big), "json");
        assert_eq!(l.recent(5).last_chunk::<9>(), Some(b",{\"n\":2}]"));
        assert!(l.recent.bytes <= RECENT_BYTES);
    }

    #[test]
    fn many_pids_share_a_row() {
        let mut l = Ledger::new(true);
        let body: Vec<String> = (0..MAX_ROWS + 50).map(|i| format!("{{\"pid\":{i}}}")).collect();
        l.accept(&batch(&body.join("\n")), "json");
        assert_eq!(l.stats()["by_pid"]["other"]["received"], json!(50));
    }

    #[test]
    fn the_rate_forgets() {
        let mut r = Rate::default();
        let at = Duration::from_millis;
        for ms in (0..5000).step_by(10) {
            r.add(at(ms), 5);
        }
        assert_eq!(r.per_second(at(5000)), 500.0);
        assert_eq!(r.per_second(at(6000)), 250.0);
        assert_eq!(r.per_second(at(60_000)), 0.0);
    }
}
