//! The log: reserving, committing, rotating; and the one consumer that reads behind.
//!
//! Invariants, besides those of the room:
//! - `head <= tail`. Both name a place where a record may start; a tail at or past the end of its segment
//!   means "full, not rotated yet" and equals the start of the next one.
//! - A slot's memory is looked up *before* the compare-exchange that reserves in it. So a signal handler
//!   that forks in between leaves the child writing into memory of its parent's world, which it owns and
//!   nobody reads, and the generation check after the commit sends the event through the new world.

use super::record::{self, Position, Word, footprint, position, split};
use super::segment::{Fields, SEGMENT_HEADER, Segment, Slot};
use crate::platform::sync::{AtomicU64, Ordering, Site, at as order, fence_after_rmw, full_fence};

/// How many ranges the consumer has given up on it remembers; more it does not give up on before the oldest
/// is settled.
#[cfg(not(loom))]
pub const GIVEN_UP: usize = 32;
/// Small, so that a model stays small.
#[cfg(loom)]
pub const GIVEN_UP: usize = 1;

crate::blank_struct! {
/// What producers and consumer share; lives in the wiped page. What producers write, what they only read,
/// and what only the consumer writes are a cache line apart.
#[repr(align(64))]
pub struct Cursors {
    pub(super) tail: AtomicU64,
    accepted: AtomicU64,
    producers_pad: [AtomicU64; 6],
    /// Producers whose count reaches this, or whose place is outside the `attention_span` bytes behind
    /// `attention_low`, take the slow path.
    attention_count: AtomicU64,
    attention_low: AtomicU64,
    attention_span: AtomicU64,
    /// From where on the sender wants to be woken: the attention words, but for the ranges given up on,
    /// because of which more producers pay attention.
    wake_count: AtomicU64,
    wake_at: AtomicU64,
    attention_pad: [AtomicU64; 3],
    pub(super) head: AtomicU64,
    /// The next number to be named in its slot; only the consumer's.
    pub(super) offer: AtomicU64,
    given_up: AtomicU64,
    from: [AtomicU64; GIVEN_UP],
    to: [AtomicU64; GIVEN_UP],
}
}

#[cfg(loom)]
impl Cursors {
    /// Blank cursors.
    pub fn new() -> Self {
        use std::array::from_fn;
        let a = || AtomicU64::new(0);
        Cursors {
            tail: a(),
            accepted: a(),
            producers_pad: from_fn(|_| a()),
            attention_count: a(),
            attention_low: a(),
            attention_span: a(),
            wake_count: a(),
            wake_at: a(),
            attention_pad: from_fn(|_| a()),
            head: a(),
            offer: a(),
            given_up: a(),
            from: from_fn(|_| a()),
            to: from_fn(|_| a()),
        }
    }
}

/// The bits of `accepted` that count.
const COUNT: u64 = (1 << 44) - 1;
/// A slot that is zeroed and waits for its number.
pub(super) const NOT_YET: u64 = u64::MAX;
/// A slot whose memory could not be made blank, or must not be used again.
pub(super) const TAINTED: u64 = u64::MAX - 1;
/// A slot that somebody is putting memory into.
pub(super) const FILLING: u64 = u64::MAX - 2;

/// A generation's log.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    /// Shared words.
    pub cursors: &'a Cursors,
    /// The ring of segments: a power of two, so that a number finds its slot without a division.
    pub slots: &'a [Slot],
    /// Segments that may be in use at a time, at most as many as there are slots.
    pub segments: u32,
    /// Bytes of a segment.
    pub segment_len: u32,
    /// The generation.
    pub nonce: u64,
    /// Records carry a check, for whoever finds them in a file.
    pub checked: bool,
}

/// A committed event.
#[derive(Debug, Clone, Copy)]
pub struct Appended<'a> {
    /// The sender asked that whoever gets here looks after it.
    pub attention: bool,
    /// Where the record is.
    pub at: Position,
    /// Its commit word, in the memory it was written to: the slot may hold other memory by now.
    cell: &'a AtomicU64,
}

/// Why an event was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No room: nothing was written.
    Full,
    /// The process forked under the call, in a signal handler: this is the child, whose log is another one.
    Torn,
}

/// What the consumer finds at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A record.
    Record {
        /// Its place.
        at: Position,
        /// Where the next one starts.
        next: Position,
        /// Its header.
        fields: Fields,
        /// The event.
        body: &'a [u8],
    },
    /// Reserved and not committed yet.
    Hole {
        /// Its place.
        at: Position,
    },
    /// Nothing more.
    Empty {
        /// Where the next record will be.
        at: Position,
    },
}

impl<'a> Log<'a> {
    /// Start an empty log for a fresh generation: all slots hold zeroed memory.
    ///
    /// The first segment's number is taken from the nonce, so that a tail read in one generation is never
    /// mistaken for one of the next.
    pub fn start(&self) {
        let first = self.first();
        for number in first..first + self.slots.len() as u32 {
            let ready = number - first < self.segments;
            if let Some(slot) = self.slot(number) {
                slot.clean.store(if ready { u64::from(number) } else { NOT_YET }, Ordering::Relaxed);
            }
        }
        let c = self.cursors;
        let begin = position(first, SEGMENT_HEADER);
        for (word, value) in [
            (&c.accepted, self.era()),
            (&c.attention_count, 0),
            (&c.attention_low, 0),
            (&c.attention_span, 0),
            (&c.given_up, 0),
            (&c.wake_count, 0),
            (&c.wake_at, 0),
            (&c.offer, u64::from(first + self.segments)),
            (&c.head, begin),
            (&c.tail, begin),
        ] {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Start an empty log whose slots have no memory yet: as one whose segments before the first are settled
    /// and full. Producers find it full until [`Log::supply`] has given them a segment.
    pub fn start_unsupplied(&self) {
        self.start();
        self.slots.iter().for_each(|slot| slot.clean.store(NOT_YET, Ordering::Relaxed));
        let c = self.cursors;
        let begin = position(self.first() - 1, self.segment_len);
        for (word, value) in [(&c.offer, u64::from(self.first())), (&c.head, begin), (&c.tail, begin)] {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn first(&self) -> u32 {
        ((self.nonce >> 32) as u32 & 0x3fff_ffff).max(1)
    }

    /// The upper bits of `accepted`: other ones in each generation, and never all zero.
    #[inline(always)]
    fn era(&self) -> u64 {
        (self.nonce | 1 << 63) & !COUNT
    }

    #[inline(always)]
    fn slot(&self, number: u32) -> Option<&'a Slot> {
        self.slots.get(number as usize & self.slots.len().wrapping_sub(1))
    }

    // ---- producers ----

    /// Append an event: reserve, write, commit, count. `same` tells whether this still is the process that
    /// `self` was made in.
    #[inline(always)]
    pub fn append(
        &self,
        worker: u16,
        time_ns: u64,
        body: &[u8],
        same: impl Fn() -> bool,
    ) -> Result<Appended<'a>, Refused> {
        let need = footprint(body.len()) as u32;
        let (at, segment) = loop {
            let tail = self.cursors.tail.load(Ordering::Acquire);
            // A fork before this line is seen here; one after it makes the compare-exchange fail, because
            // another generation's tails lie elsewhere and a blank one is 0.
            if !same() {
                return Err(Refused::Torn);
            }
            let (number, offset) = split(tail);
            let Some(slot) = self.slot(number) else { return Err(Refused::Full) };
            let segment = slot.segment();
            if offset as u64 + need as u64 <= self.segment_len as u64 {
                if self.reserve(tail, tail + need as u64) {
                    break (tail, segment);
                }
            } else if self.rotate(tail)? && offset < self.segment_len {
                self.pad(tail, segment);
            }
        };
        let offset = split(at).1;
        let tag = record::tag(self.nonce, at);
        let cell = segment.word(offset);
        cell.store(record::reserved(tag, body.len()), Ordering::Relaxed);
        let crc = self.check(worker, time_ns, at, body);
        segment.write(offset, Fields { crc, worker, time_ns, nonce: self.nonce, position: at }, body);
        let word = record::committed(tag, body.len());
        cell.store(word, order(Site::Commit, Ordering::Release));
        let before = self.cursors.accepted.fetch_add(1, Ordering::Relaxed);
        if before & !COUNT != self.era() {
            // The process forked under the call, and the count went to the child's log: take it back.
            self.cursors.accepted.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Torn);
        }
        let count = (before & COUNT) + 1;
        // The commit and the count come before the look at the attention words, as the consumer stores
        // those before it looks at the log: at least one of the two sees the other.
        fence_after_rmw();
        let c = self.cursors;
        let attention = count >= c.attention_count.load(Ordering::Acquire)
            || at.wrapping_sub(c.attention_low.load(Ordering::Acquire))
                >= c.attention_span.load(Ordering::Acquire);
        Ok(Appended { attention, at, cell })
    }

    #[inline(always)]
    fn check(&self, worker: u16, time_ns: u64, at: Position, body: &[u8]) -> u32 {
        #[cfg(not(loom))]
        if self.checked {
            return record::crc(worker, time_ns, self.nonce, at, body);
        }
        let _ = (worker, time_ns, at, body);
        0
    }

    /// Mark the rest of a segment as unused, from `tail` on, which the caller has just moved away.
    pub(super) fn pad(&self, tail: Position, segment: Segment<'a>) {
        let offset = split(tail).1;
        let word = record::pad(record::tag(self.nonce, tail), (self.segment_len - offset) as usize);
        segment.word(offset).store(word, Ordering::Release);
    }

    #[inline(always)]
    fn reserve(&self, tail: Position, next: Position) -> bool {
        self.cursors.tail.compare_exchange_weak(tail, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Move a full tail to the next segment. `Ok(true)`: this producer did it and pads the rest.
    #[cold]
    fn rotate(&self, tail: Position) -> Result<bool, Refused> {
        let next = split(tail).0.wrapping_add(1);
        let Some(slot) = self.slot(next) else { return Err(Refused::Full) };
        if slot.clean.load(Ordering::Acquire) != u64::from(next) {
            // Full only if nobody has rotated meanwhile.
            let moved = self.cursors.tail.load(Ordering::Acquire) != tail;
            return if moved { Ok(false) } else { Err(Refused::Full) };
        }
        let start = position(next, SEGMENT_HEADER);
        Ok(self.cursors.tail.compare_exchange(tail, start, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// A producer with attention asks whether the consumer has given up on its record. `true`: the record
    /// was taken back and the event must be appended again.
    #[cold]
    pub fn withdraw_if_given_up(&self, done: &Appended<'_>, len: usize) -> bool {
        if self.cursors.given_up.load(Ordering::Acquire) == 0 || !self.is_given_up(done.at) {
            return false;
        }
        let word = record::committed(record::tag(self.nonce, done.at), len);
        let back = record::withdrawn(word);
        let mine = done.cell.compare_exchange(word, back, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if mine {
            self.cursors.accepted.fetch_sub(1, Ordering::Relaxed);
        }
        mine
    }

    /// Whether a sleeping sender wants to be woken for an event at `at`.
    pub fn wants_wake(&self, at: Position) -> bool {
        let c = self.cursors;
        self.accepted() >= c.wake_count.load(Ordering::Acquire) || at >= c.wake_at.load(Ordering::Acquire)
    }

    /// Whether a sleeping sender wants to be woken at all: not while it waits to try a fixed batch again.
    pub fn wants_any_wake(&self) -> bool {
        self.cursors.wake_at.load(Ordering::Acquire) != Position::MAX
    }

    fn is_given_up(&self, at: Position) -> bool {
        let c = self.cursors;
        (0..GIVEN_UP).any(|i| c.from[i].load(Ordering::Acquire) <= at && at < c.to[i].load(Ordering::Acquire))
    }

    /// Events taken so far.
    pub fn accepted(&self) -> u64 {
        self.cursors.accepted.load(Ordering::Acquire) & COUNT
    }

    /// Where the next record will be reserved.
    pub fn tail(&self) -> Position {
        self.cursors.tail.load(Ordering::Acquire)
    }

    /// Everything before this is settled.
    pub fn head(&self) -> Position {
        self.cursors.head.load(Ordering::Acquire)
    }

    /// Bytes of the log between head and tail, headers included.
    pub fn bytes(&self) -> u64 {
        let ((hs, ho), (ts, to)) = (split(self.head()), split(self.tail()));
        let data = u64::from(self.segment_len - SEGMENT_HEADER);
        (u64::from(ts.wrapping_sub(hs)) * data + u64::from(to)).saturating_sub(u64::from(ho))
    }

    /// Segments in use, of how many.
    pub fn used(&self) -> (u32, u32) {
        let (hs, ts) = (split(self.head()).0, split(self.tail()).0);
        (ts.wrapping_sub(hs) + 1, self.segments)
    }

    /// The slot behind the tail's, that producers will move to next, if it is ready.
    pub fn next_slot(&self) -> Option<&'a Slot> {
        let next = split(self.tail()).0.wrapping_add(1);
        self.slot(next).filter(|slot| slot.clean.load(Ordering::Acquire) == u64::from(next))
    }

    /// The tail's own slot.
    pub fn tail_slot(&self) -> Option<&'a Slot> {
        self.slot(split(self.tail()).0)
    }

    /// The slot of a number, whatever is in it.
    pub fn slot_of(&self, number: u32) -> Option<&'a Slot> {
        self.slot(number)
    }

    /// A place `bytes` of log ahead of `from`.
    pub fn ahead(&self, from: Position, bytes: u64) -> Position {
        let data = u64::from(self.segment_len - SEGMENT_HEADER);
        let (number, offset) = split(from);
        let total = u64::from(offset.saturating_sub(SEGMENT_HEADER)) + bytes;
        let number = u64::from(number) + total / data;
        number << 32 | (u64::from(SEGMENT_HEADER) + total % data)
    }

    // ---- the consumer ----

    /// Whom producers should alert: those whose count of accepted events, or whose position, reaches this.
    /// `(0, 0)` alerts each, `(MAX, MAX)` none. A full barrier follows, so that what the caller sees of the
    /// log afterwards includes every event whose producer did not see the new words.
    ///
    /// As long as a range given up on is not settled every producer pays attention, and for ever those whose
    /// place lies before the end of one that is.
    pub fn set_attention(&self, count: u64, at: Position) {
        let c = self.cursors;
        let (low, open) = self.given_up_until();
        c.wake_count.store(count, Ordering::Release);
        c.wake_at.store(at, Ordering::Release);
        c.attention_low.store(low, Ordering::Release);
        c.attention_span.store(at.saturating_sub(low), Ordering::Release);
        c.attention_count.store(if open { 0 } else { count }, Ordering::Release);
        full_fence(Site::SleepFence);
    }

    /// The end of the last range given up on that is settled, and whether there is one that is not.
    fn given_up_until(&self) -> (Position, bool) {
        let c = self.cursors;
        if c.given_up.load(Ordering::Relaxed) == 0 {
            return (0, false);
        }
        let head = self.head();
        let ends = || c.to.iter().map(|to| to.load(Ordering::Relaxed));
        let settled = ends().filter(|to| split(*to).0 < split(head).0).max().unwrap_or(0);
        (settled, ends().any(|to| split(to).0 >= split(head).0))
    }

    /// What is at `from`, which must not be before the head.
    pub fn look(&self, from: Position) -> Seen<'a> {
        let mut at = from;
        loop {
            let (number, offset) = split(at);
            let tail = self.tail();
            if at >= tail {
                // Behind a pad, the next segment may not have been begun: the head never overtakes the tail.
                return Seen::Empty { at: at.min(tail) };
            }
            if offset + 8 > self.segment_len {
                at = position(number.wrapping_add(1), SEGMENT_HEADER);
                continue;
            }
            let Some(slot) = self.slot(number) else { return Seen::Empty { at } };
            let segment = slot.segment();
            let word = segment.word(offset).load(Ordering::Acquire);
            match record::read(word, record::tag(self.nonce, at)) {
                Word::Pad => at = position(number.wrapping_add(1), SEGMENT_HEADER),
                Word::Record(len) if self.fits(offset, len) => {
                    let next = position(number, offset + footprint(len) as u32);
                    let (fields, body) = (segment.fields(offset), segment.body(offset, len));
                    return Seen::Record { at, next, fields, body };
                }
                _ => return Seen::Hole { at },
            }
        }
    }

    fn fits(&self, offset: u32, len: usize) -> bool {
        offset as usize + footprint(len) <= self.segment_len as usize
    }

    /// Stop waiting for the hole at `at`. Returns where to go on; what was committed in between is given to
    /// `rescue`, in order. From now on a producer that commits in between appends its event anew. `None`: too
    /// many such ranges are not settled yet; settle, and ask again.
    pub fn give_up_on(
        &self,
        at: Position,
        mut rescue: impl FnMut(Position, Fields, &'a [u8]),
    ) -> Option<Position> {
        let to = self.past_hole(at);
        let c = self.cursors;
        let n = c.given_up.load(Ordering::Relaxed);
        let i = n as usize % GIVEN_UP;
        // An entry of this very segment may go: the new one keeps the segment's memory out of use. One of an
        // earlier segment that is not settled is waited for: what lies before this hole is being delivered.
        let oldest = split(c.to[i].load(Ordering::Relaxed)).0;
        if n as usize >= GIVEN_UP && oldest >= split(self.head()).0 && oldest != split(at).0 {
            return None;
        }
        c.to[i].store(0, Ordering::Release);
        c.from[i].store(at, Ordering::Release);
        c.to[i].store(to, Ordering::Release);
        c.given_up.store(n + 1, Ordering::Release);
        self.set_attention(0, 0);
        let (number, mut offset) = split(at);
        let end = if split(to).0 == number { split(to).1 } else { self.segment_len };
        let segment = self.slot(number)?.segment();
        while offset + 8 <= end {
            let here = position(number, offset);
            let cell = segment.word(offset);
            let word = cell.load(Ordering::Acquire);
            match record::read(word, record::tag(self.nonce, here)) {
                Word::Record(len) if self.fits(offset, len) => {
                    let mine =
                        cell.compare_exchange(word, record::taken(word), Ordering::AcqRel, Ordering::Acquire);
                    if mine.is_ok() {
                        rescue(here, segment.fields(offset), segment.body(offset, len));
                    }
                    offset += footprint(len) as u32;
                }
                Word::Reserved(len) if self.fits(offset, len) => offset += footprint(len) as u32,
                Word::Pad => break,
                _ => offset += 8,
            }
        }
        Some(to)
    }

    /// Where the hole at `at` ends: its own length if it is known, else the next word that bears a tag.
    pub(super) fn past_hole(&self, at: Position) -> Position {
        let (number, offset) = split(at);
        let (tail_number, tail_offset) = split(self.tail());
        let end = if tail_number == number { tail_offset.min(self.segment_len) } else { self.segment_len };
        let Some(slot) = self.slot(number) else { return at };
        let segment = slot.segment();
        let mut next = offset;
        while next + 8 <= end {
            let here = position(number, next);
            let word = segment.word(next).load(Ordering::Acquire);
            match record::read(word, record::tag(self.nonce, here)) {
                Word::Reserved(len) if next == offset && self.fits(next, len) => {
                    return position(number, next + footprint(len) as u32);
                }
                Word::Blank => next += 8,
                _ if next == offset => next += 8,
                _ => return here,
            }
        }
        position(number, end)
    }

    /// Everything before `to` is settled for good: its segments may be reused. `blank` must make the slot's
    /// memory zero again, or put other zeroed memory there, and say whether it could (else the slot is asked
    /// for again when its turn comes); its second argument tells that a producer may still write to the old
    /// memory.
    pub fn settle(&self, to: Position, mut blank: impl FnMut(&'a Slot, bool) -> bool) {
        let (mut number, last) = (split(self.head()).0, split(to).0);
        while number != last {
            let tainted = self.given_up_between(position(number, 0), position(number + 1, 0));
            if let Some(slot) = self.slot(number) {
                let state = if blank(slot, tainted) { NOT_YET } else { TAINTED };
                slot.clean.store(state, Ordering::Relaxed);
            }
            number += 1;
        }
        self.offer(last, blank);
        self.cursors.head.store(to, Ordering::Release);
    }

    /// Name every number that may be used now that everything before segment `head` is settled. A slot whose
    /// memory could not be made blank is tried again; until it is, the log is that much shorter.
    fn offer(&self, head: u32, mut blank: impl FnMut(&'a Slot, bool) -> bool) {
        let mut next = self.cursors.offer.load(Ordering::Relaxed) as u32;
        while next < head + self.segments {
            let Some(slot) = self.slot(next) else { break };
            if slot.clean.load(Ordering::Relaxed) == TAINTED && !blank(slot, true) {
                break;
            }
            slot.clean.store(u64::from(next), order(Site::Clean, Ordering::Release));
            next += 1;
        }
        self.cursors.offer.store(u64::from(next), Ordering::Relaxed);
    }

    pub(super) fn given_up_between(&self, start: Position, end: Position) -> bool {
        let c = self.cursors;
        c.given_up.load(Ordering::Relaxed) != 0
            && (0..GIVEN_UP)
                .any(|i| c.from[i].load(Ordering::Relaxed) < end && start < c.to[i].load(Ordering::Relaxed))
    }
}
