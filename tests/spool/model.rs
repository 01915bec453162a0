//! The spool against simple lists: of the log and its files alone, and of whole clients.
//!
//! The cases that once failed stand in `model.proptest-regressions` and are tried first. `PROPTEST_CASES` tries more.
use crate::collector::{Collector, Latch, Reply, Seen};
use crate::host::{Host, check, until};
use crate::kit::{Adopter, Kit};
use crate::spool::{SEGMENT, Spool, event, leaf_with, number_of, same, shut};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use telemetry::client::handle::Status;
use telemetry::queue::log::Seen as Found;
use telemetry::queue::record::{split, withdrawn};
use telemetry::queue::spool::directory::Directory;

fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        max_shrink_iters: 2000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

// ---- the log and its files ----

#[derive(Debug, Clone)]
enum Step {
    /// That many events of that length.
    Enqueue(u64, usize),
    /// The consumer is done with that many.
    Settle(usize),
    /// What comes next goes to another segment.
    Rotate,
    /// The process is killed, perhaps in the middle of an `enqueue` of that length.
    Kill(Option<usize>),
    /// An adopter reads so many and settles them; if not all that it read, it is killed.
    Adopt(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40u64, 1..400usize).prop_map(|(count, len)| Step::Enqueue(count, len)),
        2 => (1..6u64, 5_000..40_000usize).prop_map(|(count, len)| Step::Enqueue(count, len)),
        3 => (0..60usize).prop_map(Step::Settle),
        1 => Just(Step::Rotate),
        2 => proptest::option::of(1..2000usize).prop_map(Step::Kill),
        2 => (0..60usize, 0..20usize).prop_map(|(read, less)| Step::Adopt(read, read.saturating_sub(less))),
    ]
}

const SEGMENTS: u32 = 4;

struct Bench {
    spool: Spool,
    dir: Directory,
    kit: Option<Kit>,
    adopter: Option<Adopter>,
    /// The living one's events that are not settled.
    own: VecDeque<u64>,
    /// The dead ones', in the order of their lives.
    dead: VecDeque<u64>,
    next: u64,
    generation: u64,
}

impl Bench {
    fn new() -> Bench {
        let spool = Spool::fast().with_leaf("http://127.0.0.1:9");
        let dir = spool.directory();
        let (own, dead) = (VecDeque::new(), VecDeque::new());
        Bench { spool, dir, kit: None, adopter: None, own, dead, next: 0, generation: 0 }
    }

    fn kit(&mut self) -> &Kit {
        if self.kit.is_none() {
            self.generation += 1;
            // As many segments as slots, one less, and numbers that are about to wrap in their slots.
            let segments = SEGMENTS - (self.generation % 2) as u32;
            self.kit = Some(Kit::new(&self.dir, self.generation << 32 | 0xbeef, segments, 0));
        }
        self.kit.as_ref().unwrap()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Enqueue(count, len) => (0..count).for_each(|_| self.enqueue(len)),
            Step::Settle(count) => self.settle(count),
            Step::Rotate => {
                let kit = self.kit();
                if kit.store().supply_next(&kit.log()) {
                    kit.log().skip_rest();
                }
            }
            Step::Kill(torn) => self.kill(torn),
            Step::Adopt(read, settle) => self.adopt(read, settle),
        }
    }

    fn enqueue(&mut self, len: usize) {
        let n = self.next;
        let kit = self.kit();
        if kit.enqueue(n, event(n, len).as_bytes()) {
            self.own.push_back(n);
            self.next += 1;
        } else {
            let (used, of) = kit.log().used();
            assert!(used >= of, "full with {used} of {of} segments used");
        }
    }

    fn settle(&mut self, count: usize) {
        let Some(kit) = &self.kit else { return };
        let log = kit.log();
        let mut at = log.head();
        for _ in 0..count {
            match log.look(at) {
                Found::Record { next, body, .. } => {
                    assert_eq!(Some(number_of(body)), self.own.pop_front());
                    at = next;
                }
                Found::Empty { at: end } => {
                    assert!(self.own.is_empty(), "{} are missing", self.own.len());
                    at = end;
                    break;
                }
                Found::Hole { .. } => panic!("nobody tore one"),
            }
        }
        kit.settle(at);
    }

    fn kill(&mut self, torn: Option<usize>) {
        let Some(kit) = self.kit.take() else { return };
        if let Some(len) = torn
            && kit.enqueue(0, event(u64::MAX, len).as_bytes())
        {
            // The last one of all: find it, and take its commit back.
            let log = kit.log();
            let mut at = log.head();
            let mut last = None;
            while let Found::Record { at: place, next, .. } = log.look(at) {
                (at, last) = (next, Some(place));
            }
            let (number, offset) = split(last.unwrap());
            let word = log.slot_of(number).unwrap().segment().word(offset);
            word.fetch_or(withdrawn(0), Ordering::SeqCst);
        }
        kit.kill();
        self.dead.append(&mut self.own);
    }

    fn adopt(&mut self, read: usize, settle: usize) {
        let adopter = self.adopter.get_or_insert_with(|| Adopter::new(&self.dir));
        let orphans = &mut adopter.orphans;
        orphans.sweep(Duration::from_secs(3600)).unwrap();
        let mut to = None;
        let mut passed_over = 0;
        let mut i = 0;
        while i < read {
            match orphans.look() {
                Found::Record { next, body, fields, .. } => {
                    let n = number_of(body);
                    assert_eq!(Some(&n), self.dead.get(i), "in order, and none left out");
                    assert_eq!(fields.time_ns, n, "with its time");
                    to = Some(next).filter(|_| i < settle).or(to);
                    i += 1;
                }
                // A client of another test was looking at some.
                Found::Empty { .. } if i < self.dead.len() && passed_over < 20 => {
                    passed_over += 1;
                    orphans.sweep(Duration::from_secs(3600)).unwrap();
                }
                Found::Empty { at } => {
                    assert_eq!(i, self.dead.len(), "it says that this is all");
                    to = Some(at).filter(|_| i <= settle).or(to);
                    break;
                }
                Found::Hole { .. } => panic!("an orphan has no holes"),
            }
        }
        if let Some(to) = to {
            orphans.settle(to);
        }
        assert_eq!(orphans.take_corrupt(), 0);
        let read = read.min(self.dead.len());
        self.dead.drain(..settle.min(read));
        if settle < read {
            let spare = self.kit.as_ref().and_then(Kit::stem);
            self.adopter.take().unwrap().kill(spare);
        }
    }

    /// All are dead; what is not settled is there, and nothing else.
    fn end(mut self) {
        self.kill(None);
        if let Some(adopter) = self.adopter.take() {
            adopter.kill(None);
        }
        let all = self.dead.len();
        same(&self.spool.on_disk(), self.dead.iter().copied());
        self.adopt(all + 1, all + 1);
        assert!(self.dead.is_empty() && self.adopter.as_ref().unwrap().orphans.is_idle());
        assert_eq!(self.spool.names(), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn the_log_and_its_files_are_a_list(steps in proptest::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new();
        steps.iter().for_each(|step| bench.take(step));
        bench.end();
    }
}

// ---- whole clients ----

#[derive(Debug, Clone)]
enum Act {
    /// That many events of that length.
    Enqueue(u64, usize),
    /// The collector takes so many requests, and then none.
    Deliver(usize),
    /// It takes one, but for one of its events.
    Refuse,
    /// The process is killed; so is its next one before it has done anything, so many times.
    Kill(usize),
    /// It is killed after a request was sent and before the answer came.
    KillInFlight,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..30u64, 1..400usize).prop_map(|(count, len)| Act::Enqueue(count, len)),
        1 => (1..6u64, 5_000..30_000usize).prop_map(|(count, len)| Act::Enqueue(count, len)),
        2 => (1..6usize).prop_map(Act::Deliver),
        1 => Just(Act::Refuse),
        2 => (0..2usize).prop_map(Act::Kill),
        1 => Just(Act::KillInFlight),
    ]
}

/// What the collector is to do, and what it has taken.
#[derive(Default)]
struct Desk {
    /// Whose requests count. What one that is dead had sent may be read later; then it was in flight, and is lost.
    life: usize,
    /// Requests it will take; then it is too busy.
    take: usize,
    /// The next one it takes is held: its events were taken, and nobody is told.
    hold: Option<Arc<Latch>>,
    /// The next one it takes has a refused line.
    refuse: bool,
    /// Requests it was too busy for since it was asked.
    busy: usize,
    /// Number and id of each event, request by request; whether the answer was held.
    taken: Vec<(Vec<(u64, Value)>, bool)>,
    /// Refused for good.
    refused: usize,
}

impl Desk {
    fn answer(&mut self, seen: &Seen) -> Reply {
        if seen.header("x-life") != Some(&self.life.to_string()) {
            return Reply::Cut;
        }
        if self.take == 0 {
            self.busy += 1;
            return Reply::Status(503);
        }
        self.take -= 1;
        let pair = |e: Value| (e["n"].as_u64().unwrap(), e["id"].clone());
        let latch = self.hold.take();
        self.taken.push((seen.events().into_iter().map(pair).collect(), latch.is_some()));
        if let Some(latch) = latch {
            return Reply::When(latch, 200);
        }
        if std::mem::take(&mut self.refuse) {
            self.refused += 1;
            return Reply::Full(200, String::new(), r#"{"rejected":[{"line":0}]}"#.into());
        }
        Reply::Status(200)
    }

    fn distinct(&self) -> usize {
        let all = self.taken.iter().flat_map(|(events, _)| events);
        all.map(|(n, _)| n).collect::<std::collections::HashSet<_>>().len()
    }
}

struct House {
    collector: Collector,
    desk: Arc<Mutex<Desk>>,
    spool: Spool,
    host: Option<Host>,
    next: u64,
    /// Where each generation began.
    generations: Vec<u64>,
}

impl House {
    fn new() -> House {
        let desk = Arc::new(Mutex::new(Desk { life: 1, ..Desk::default() }));
        let answers = Arc::clone(&desk);
        let collector = Collector::start(move |seen| answers.lock().unwrap().answer(seen));
        let spool = Spool::fast();
        House { collector, desk, spool, host: None, next: 0, generations: vec![0] }
    }

    fn host(&mut self) -> &Host {
        let (url, root, life) = (self.collector.url(), self.spool.root(), self.generations.len());
        self.host.get_or_insert_with(|| Host::open(url, keys(root, life)))
    }

    fn take(&mut self, act: &Act) {
        match *act {
            Act::Enqueue(count, len) => {
                for n in self.next..self.next + count {
                    assert_eq!(self.host().enqueue(event(n, len)), Status::Ok);
                }
                self.next += count;
            }
            Act::Deliver(requests) => self.deliver(requests, false),
            Act::Refuse => self.deliver(1, true),
            Act::Kill(again) => {
                for _ in 0..=again {
                    self.kill();
                    self.host();
                }
            }
            Act::KillInFlight => {
                let latch = Arc::new(Latch::default());
                let before = {
                    let mut desk = self.desk.lock().unwrap();
                    (desk.take, desk.hold) = (1, Some(Arc::clone(&latch)));
                    desk.taken.len()
                };
                if self.pending() {
                    let _ = self.host().flush(Duration::from_millis(1));
                    let desk = Arc::clone(&self.desk);
                    until("a request", || desk.lock().unwrap().taken.len() > before);
                }
                self.desk.lock().unwrap().hold = None;
                self.kill_and(|| latch.open());
            }
        }
        if let Some(host) = &self.host {
            check(&host.stats());
        }
    }

    fn pending(&self) -> bool {
        // What was held and not settled counts as taken here: it may come again at any time, or be all there is.
        self.desk.lock().unwrap().distinct() < self.next as usize
    }

    fn deliver(&mut self, requests: usize, refuse: bool) {
        if !self.pending() {
            return;
        }
        {
            let mut desk = self.desk.lock().unwrap();
            (desk.take, desk.busy, desk.refuse) = (requests, 0, refuse);
        }
        let _ = self.host().flush(Duration::from_millis(1));
        let desk = Arc::clone(&self.desk);
        let all = self.next as usize;
        until("all, or as much as it takes", || {
            let desk = desk.lock().unwrap();
            desk.distinct() == all || desk.busy > 0
        });
        if self.pending() {
            // Too busy for one means that the one before is settled.
            self.desk.lock().unwrap().take = 0;
        } else {
            self.desk.lock().unwrap().take = usize::MAX;
            self.host().flush_all();
        }
        let mut desk = self.desk.lock().unwrap();
        (desk.take, desk.refuse) = (0, false);
    }

    fn kill(&mut self) {
        self.kill_and(|| {});
    }

    /// What is there at this instant goes on; the client of before is shut at a collector that takes nothing.
    fn kill_and(&mut self, then: impl FnOnce()) {
        self.host();
        let left = self.spool.killed_now();
        self.generations.push(self.next);
        let life = self.generations.len();
        {
            let mut desk = self.desk.lock().unwrap();
            (desk.life, desk.take) = (life, 0);
        }
        then();
        self.host = None;
        self.spool = left;
        // Another header, another directory: it moves along.
        if let Some(leaf) = fs::read_dir(self.spool.root()).unwrap().flatten().next() {
            let mut keys = keys(self.spool.root(), life);
            keys["endpoint"] = json!(self.collector.url());
            fs::rename(leaf.path(), self.spool.root().join(leaf_with(keys))).unwrap();
        }
    }

    fn end(mut self) {
        self.desk.lock().unwrap().take = usize::MAX;
        self.host().flush_all();
        let s = self.host().stats();
        check(&s);
        assert_eq!((s.queue_events, s.corrupt, s.spool_failures), (0, 0, 0));
        let desk = self.desk.lock().unwrap();
        // Once more than once: only what was in flight, or answered just before a kill, and under its id.
        let mut first: HashMap<u64, Value> = HashMap::new();
        let mut order: Vec<u64> = Vec::new();
        let mut doubtful: Vec<u64> = Vec::new();
        for (events, held) in &desk.taken {
            for (n, id) in events {
                if let Some(before) = first.insert(*n, id.clone()) {
                    assert_eq!(&before, id, "{n} came twice, under two ids");
                    let place = doubtful.iter().position(|m| m == n);
                    doubtful.remove(place.unwrap_or_else(|| panic!("{n} came again, and was not in flight")));
                } else {
                    order.push(*n);
                }
            }
            if *held {
                doubtful.extend(events.iter().map(|(n, _)| *n));
            }
        }
        assert_eq!(first.len() as u64, self.next, "some never came");
        for (i, start) in self.generations.iter().enumerate() {
            let end = self.generations.get(i + 1).copied().unwrap_or(self.next);
            let theirs: Vec<u64> = order.iter().copied().filter(|n| (*start..end).contains(n)).collect();
            same(&theirs, *start..end);
        }
        drop(desk);
        if shut(self.host()) {
            assert_eq!(self.spool.names(), Vec::<String>::new());
        }
    }
}

fn keys(root: &Path, life: usize) -> Value {
    json!({
        "headers": {"X-Life": life.to_string()},
        "spool_dir": root,
        "segment_bytes": SEGMENT,
        "batch": {"max_events": 8, "max_age_ms": 3_600_000},
        "retry": {"initial_ms": 1, "max_ms": 5},
        "compression": "none",
    })
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn clients_that_are_killed_are_a_list(acts in proptest::collection::vec(act(), 1..16)) {
        let mut house = House::new();
        acts.iter().for_each(|act| house.take(act));
        house.end();
    }
}
