//! Models, explored by loom (`make loom`): each protocol holds, and fails when its key ordering is weakened.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;
use telemetry::delivery::words::{ABSENT, Words};
use telemetry::fork::world::{Claim, StateWord};
use telemetry::platform::sync::{AtomicU32, Ordering, Site, weaken};
use telemetry::queue::log::{Cursors, Log, Refused, Seen};
use telemetry::queue::record::{Position, footprint};
use telemetry::queue::segment::{SEGMENT_HEADER, Slot};

const NONCE: u64 = 0x0000_0001_dead_beef;
const BOUND: Duration = Duration::from_secs(1);

/// The weakened site is process-wide: one model at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The model holds; and it does not when one of `sites` is weakened.
fn proves(sites: &[Site], model: fn()) {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let explore = || {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 5_000;
        let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = runs.clone();
        builder.check(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            model();
        });
        let runs = runs.load(std::sync::atomic::Ordering::Relaxed);
        assert!(runs > 20, "hardly anything was explored: {runs} runs");
    };
    weaken(None);
    explore();
    for &site in sites {
        weaken(Some(site));
        let caught = catch_unwind(AssertUnwindSafe(explore));
        weaken(None);
        assert!(caught.is_err(), "the model does not notice {site:?} weakened");
    }
}

/// A log of `slots` segments with room for `records` one-word events each.
struct Queue {
    cursors: Cursors,
    slots: Vec<Slot>,
    len: u32,
    words: Words,
}

impl Queue {
    fn new(slots: usize, records: u32) -> Arc<Queue> {
        let len = SEGMENT_HEADER + records * footprint(8) as u32;
        let queue = Queue {
            cursors: Cursors::new(),
            slots: (0..slots).map(|_| Slot::new(len, 0)).collect(),
            len,
            words: Words::new(),
        };
        queue.log().start();
        Arc::new(queue)
    }

    /// The same, whose segments are supplied one by one.
    fn unsupplied(slots: usize, records: u32) -> Arc<Queue> {
        let queue = Queue::new(slots, records);
        queue.log().start_unsupplied();
        queue
    }

    /// Supply the next segment. Its memory is written to, as a file's header is.
    fn supply(&self) -> bool {
        let room = self.slots.len() as u32;
        let fill = |slot: &Slot| {
            slot.segment().zero(self.len);
            true
        };
        self.log().wanted(room).is_some_and(|number| self.log().supply(number, |slot, _| fill(slot)))
    }

    /// Append, supplying as the producer does that finds no room. `false`: the log is closed.
    fn append_supplying(&self, event: u64, closed: &AtomicU32) -> bool {
        loop {
            match self.log().append(0, 0, &event.to_le_bytes(), || true) {
                Ok(_) => return true,
                Err(Refused::Full) if closed.load(Ordering::Acquire) != 0 => return false,
                Err(_) => thread::yield_now(),
            }
        }
    }

    fn log(&self) -> Log<'_> {
        Log {
            cursors: &self.cursors,
            slots: &self.slots,
            segments: self.slots.len() as u32,
            segment_len: self.len,
            nonce: NONCE,
            checked: false,
        }
    }

    /// Append, waiting for room, and look after attention as a client does, but for the sender's.
    fn append(&self, event: u64) -> bool {
        loop {
            match self.log().append(0, 0, &event.to_le_bytes(), || true) {
                Ok(done) if done.attention && self.log().withdraw_if_given_up(&done, 8) => {}
                Ok(done) => return done.attention,
                Err(Refused::Full) => thread::yield_now(),
                Err(Refused::Torn) => unreachable!(),
            }
        }
    }

    /// The record at `from`, if it is committed.
    fn read(&self, from: Position) -> Option<(u64, Position)> {
        match self.log().look(from) {
            Seen::Record { next, body, .. } => Some((u64::from_le_bytes(body.try_into().unwrap()), next)),
            Seen::Hole { .. } | Seen::Empty { .. } => None,
        }
    }

    fn settle(&self, to: Position) {
        self.log().settle(to, |slot, tainted| {
            if tainted {
                slot.replace();
            } else {
                slot.segment().zero(self.len);
            }
            true
        });
    }
}

#[test]
fn reserve_commit_consume() {
    proves(&[Site::Commit], || {
        let queue = Queue::new(2, 2);
        let producers: Vec<_> = [7, 8]
            .into_iter()
            .map(|event| {
                let queue = queue.clone();
                thread::spawn(move || queue.append(event))
            })
            .collect();
        let (mut at, mut sum) = (queue.log().head(), 0);
        for _ in 0..2 {
            let (event, next) = loop {
                match queue.read(at) {
                    Some(found) => break found,
                    None => thread::yield_now(),
                }
            };
            sum += event;
            at = next;
            queue.settle(at);
        }
        assert_eq!(sum, 15);
        for p in producers {
            p.join().unwrap();
        }
        assert_eq!(queue.log().accepted(), 2);
    });
}

#[test]
fn rotate_and_reuse() {
    proves(&[Site::Clean], || {
        // One record a segment: the third event reuses the first slot.
        let queue = Queue::new(2, 1);
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || (1..=3).for_each(|event| _ = queue.append(event)))
        };
        let mut at = queue.log().head();
        for expected in 1..=3 {
            let (event, next) = loop {
                match queue.read(at) {
                    Some(found) => break found,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(event, expected);
            at = next;
            queue.settle(at);
        }
        producer.join().unwrap();
        assert!(queue.read(at).is_none());
    });
}

#[test]
fn an_event_given_up_on_arrives_once() {
    proves(&[], || {
        let queue = Queue::new(2, 3);
        queue.log().set_attention(u64::MAX, Position::MAX);
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || queue.append(7))
        };
        let (mut at, mut got) = (queue.log().head(), Vec::new());
        let mut patience = 1;
        while got.is_empty() {
            match queue.log().look(at) {
                Seen::Record { next, body, .. } => {
                    got.push(body.to_vec());
                    at = next;
                }
                Seen::Hole { .. } if patience > 0 => {
                    patience -= 1;
                    at = queue.log().give_up_on(at, |_, _, body| got.push(body.to_vec())).unwrap();
                }
                Seen::Hole { .. } | Seen::Empty { .. } => thread::yield_now(),
            }
        }
        producer.join().unwrap();
        while let Some((_, next)) = queue.read(at) {
            got.push(vec![]);
            at = next;
        }
        assert_eq!(got, [7u64.to_le_bytes().to_vec()], "exactly once");
        assert_eq!(queue.log().accepted(), 1);
    });
}

#[test]
fn a_late_commit_to_retired_memory_arrives_once() {
    proves(&[], || {
        // One record a segment: giving up and going on retires the segment under the slow producer.
        let queue = Queue::new(4, 1);
        queue.log().set_attention(u64::MAX, Position::MAX);
        let producer = {
            let queue = queue.clone();
            thread::spawn(move || queue.append(7))
        };
        let (mut at, mut got, mut gave_up) = (queue.log().head(), Vec::new(), false);
        while queue.log().tail() == at {
            thread::yield_now();
        }
        if let Seen::Hole { at: hole } = queue.log().look(at) {
            gave_up = true;
            at = queue.log().give_up_on(hole, |_, _, body| got.push(body[0])).unwrap();
            queue.append(8);
            while let Some((event, next)) = queue.read(at) {
                got.push(event as u8);
                at = next;
                queue.settle(at);
            }
        }
        producer.join().unwrap();
        while let Some((event, next)) = queue.read(at) {
            got.push(event as u8);
            at = next;
        }
        got.sort_unstable();
        assert_eq!(got, if gave_up { vec![7, 8] } else { vec![7] }, "each exactly once");
    });
}

#[test]
fn a_segment_is_supplied_before_it_is_used() {
    proves(&[Site::Clean], || {
        // One record a segment: the second event needs the second segment.
        let queue = Queue::unsupplied(2, 1);
        assert!(queue.supply());
        let producers: Vec<_> = [1, 2]
            .into_iter()
            .map(|event| {
                let queue = queue.clone();
                thread::spawn(move || queue.append(event))
            })
            .collect();
        assert!(queue.supply());
        assert!(!queue.supply(), "there is room for two");
        for producer in producers {
            producer.join().unwrap();
        }
        let (first, next) = queue.read(queue.log().head()).unwrap();
        assert_eq!(first + queue.read(next).unwrap().0, 3);
    });
}

#[test]
fn nothing_is_taken_into_a_closed_log() {
    proves(&[], || {
        let queue = Queue::unsupplied(4, 1);
        let closed = Arc::new(AtomicU32::new(0));
        assert!(queue.supply() && queue.supply() && queue.supply());
        // The first event is settled; the log is empty, and full up to its segment's end.
        assert!(queue.append_supplying(1, &closed));
        let (_, next) = queue.read(queue.log().head()).unwrap();
        queue.log().release(next, |_, _, _| true);
        let producer = {
            let (queue, closed) = (queue.clone(), closed.clone());
            thread::spawn(move || [2, 3].into_iter().filter(|e| queue.append_supplying(*e, &closed)).count())
        };
        let shut = queue.log().close();
        closed.store(1, Ordering::Release);
        let taken = producer.join().unwrap();
        let found = queue.read(queue.log().head()).is_some();
        assert_eq!((shut, found), (taken == 0, taken > 0), "closed, or the first come was taken");
    });
}

#[test]
fn one_builder_and_everybody_sees_what_it_built() {
    proves(&[Site::Publish], || {
        struct Page {
            state: StateWord,
            world: UnsafeCell<u64>,
        }
        // SAFETY: loom checks every access.
        unsafe impl Sync for Page {}
        // SAFETY: as above.
        unsafe impl Send for Page {}
        fn enter(page: &Page) -> u64 {
            loop {
                if let Some(generation) = page.state.fast() {
                    // SAFETY: loom checks that the builder's write happened before.
                    return page.world.with(|p| unsafe { *p }) + generation;
                }
                match page.state.claim() {
                    Claim::Mine => {
                        // SAFETY: loom checks that nobody else has access.
                        page.world.with_mut(|p| unsafe { *p += 1 });
                        page.state.publish(StateWord::generation_of(4, true));
                    }
                    Claim::Ready(_) => {}
                    Claim::Wait => thread::yield_now(),
                }
            }
        }
        let page = Arc::new(Page { state: StateWord::new(), world: UnsafeCell::new(0) });
        let others: Vec<_> = (0..2)
            .map(|_| {
                let page = page.clone();
                thread::spawn(move || enter(&page))
            })
            .collect();
        for other in others {
            assert_eq!(other.join().unwrap(), 6, "built once");
        }
        assert_eq!(enter(&page), 6, "built once");
    });
}

/// A sender that waits for one event: sleeps when there is none, looks again soon at one that is being written.
fn consume_one(queue: &Queue) {
    let at = queue.log().head();
    loop {
        match queue.log().look(at) {
            Seen::Record { .. } => return,
            Seen::Hole { .. } => thread::yield_now(),
            Seen::Empty { .. } => {
                let wake = (1, Position::MAX);
                queue.words.sleep(&queue.log(), wake, BOUND, || queue.log().tail() != at);
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    proves(&[Site::ProducerFence, Site::SleepFence], || {
        let queue = Queue::new(2, 2);
        queue.words.begin();
        queue.log().set_attention(u64::MAX, Position::MAX);
        let sender = {
            let queue = queue.clone();
            thread::spawn(move || consume_one(&queue))
        };
        if queue.append(7) {
            queue.words.wake();
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_sender_that_ends_leaves_nothing_behind() {
    proves(&[Site::ProducerFence, Site::ResignFence], || {
        let queue = Queue::new(2, 2);
        queue.words.begin();
        queue.log().set_attention(u64::MAX, Position::MAX);
        let sender = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut at = queue.log().head();
                loop {
                    while let Some((_, next)) = queue.read(at) {
                        at = next;
                    }
                    if queue.words.resign(&queue.log(), at) {
                        return at;
                    }
                    thread::yield_now();
                }
            })
        };
        let start = queue.log().head();
        let attention = queue.append(7);
        // The producer of an event that nobody looks after starts a sender: here it becomes it.
        let restarted =
            attention && queue.words.state.load(Ordering::SeqCst) == ABSENT && queue.words.claim_start();
        let read_to = sender.join().unwrap();
        assert!(restarted || read_to != start, "an event without a sender");
    });
}

#[test]
fn what_is_read_under_a_number_was_there_at_one_instant() {
    use telemetry::board::seqlock;
    proves(&[Site::SeqOdd, Site::SeqEven, Site::SeqFirst, Site::SeqSecond], || {
        let words: Arc<[AtomicU32; 3]> = Arc::new(std::array::from_fn(|_| AtomicU32::new(0)));
        let writer = {
            let words = words.clone();
            thread::spawn(move || {
                for value in 1..=2 {
                    seqlock::write(&words[0], || {
                        words[1].store(value, Ordering::Relaxed);
                        words[2].store(value, Ordering::Relaxed);
                    });
                }
            })
        };
        let read = || (words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed));
        if let Some((one, two)) = seqlock::read(&words[0], read) {
            assert_eq!(one, two, "torn");
        }
        writer.join().unwrap();
        assert_eq!(seqlock::read(&words[0], read), Some((2, 2)));
    });
}

#[test]
fn a_writer_that_died_holds_no_reader_up_and_the_next_one_goes_on() {
    use telemetry::board::seqlock;
    loom::model(|| {
        // Odd: the one before died in the middle.
        let words: Arc<[AtomicU32; 2]> = Arc::new([AtomicU32::new(7), AtomicU32::new(1)]);
        let writer = {
            let words = words.clone();
            thread::spawn(move || seqlock::write(&words[0], || words[1].store(2, Ordering::Relaxed)))
        };
        let read = || words[1].load(Ordering::Relaxed);
        assert!(matches!(seqlock::read(&words[0], read), None | Some(2)));
        writer.join().unwrap();
        assert_eq!(seqlock::read(&words[0], read), Some(2));
    });
}
