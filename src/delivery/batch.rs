//! The events of one request or several, and what is known of each.
//!
//! Invariants:
//! - Items are in queue order; `read` is behind the last record looked at, valid or not.
//! - Once it is frozen, nothing is added until every item has its fate, and its items are in groups: those of one
//!   group can share a request (one kind, within the format's limits, no id twice where that matters).
//! - A request's id and time of making belong to its group, and are the same on every attempt.

use crate::format::{Envelope, Fate, Format, Taken};
use crate::queue::record::Position;
use std::collections::{HashSet, VecDeque};
use std::ops::Range;

/// One event.
pub struct Item {
    /// Its record.
    pub at: Position,
    /// Wall clock at enqueue.
    pub time_ns: u64,
    /// The id the queue gave it.
    pub id: [u8; 36],
    /// What the format knows of it.
    taken: Taken,
    /// Its finished text, within the batch's.
    text: Range<usize>,
    /// `None` until it is final.
    pub fate: Option<Fate>,
}

impl Item {
    /// The id it is sent with.
    pub fn sent_id(&self) -> &str {
        self.taken.id.as_deref().unwrap_or_else(|| std::str::from_utf8(&self.id).unwrap_or_default())
    }

    /// What events it may share a request with.
    pub fn kind(&self) -> u8 {
        self.taken.kind
    }
}

/// Items that share a request.
struct Group {
    items: Vec<usize>,
    id: [u8; 36],
    /// When it was first sent; 0 before.
    created_ns: u64,
    attempts: u32,
}

/// See the module's text.
pub struct Batch {
    items: Vec<Item>,
    text: Vec<u8>,
    /// What is still to be sent, request by request.
    groups: VecDeque<Group>,
    /// Behind the last record looked at.
    pub read: Position,
    frozen: bool,
}

impl Batch {
    /// An empty batch that reads on from `read`.
    pub fn new(read: Position) -> Batch {
        Batch { items: Vec::new(), text: Vec::new(), groups: VecDeque::new(), read, frozen: false }
    }

    /// Events in it.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// No events in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether an attempt was made, so that its content is fixed.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// When its oldest event was enqueued.
    pub fn oldest_ns(&self) -> Option<u64> {
        self.items.first().map(|i| i.time_ns)
    }

    /// Most bytes of a request with all of it, and the text that was appended and not pushed yet as one event more.
    pub fn body_len(&self, format: &dyn Format) -> usize {
        let pushed = self.items.last().map_or(0, |last| last.text.end);
        let events = self.items.len() + usize::from(self.text.len() > pushed);
        self.text.len() + format.overhead(0, events, self.text.len())
    }

    /// Where an event's text may be appended; give it to [`Batch::push`], or [`Batch::take_back`] it.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Keep the text appended since `start` as an event.
    pub fn push(&mut self, at: Position, time_ns: u64, id: [u8; 36], taken: Taken, start: usize) {
        self.items.push(Item { at, time_ns, id, taken, text: start..self.text.len(), fate: None });
    }

    /// Forget the text appended since `start`.
    pub fn take_back(&mut self, start: usize) {
        self.text.truncate(start);
    }

    /// Fix the content, in as few requests of at most `max_bytes` and `max_events` as the format allows.
    pub fn freeze(&mut self, format: &dyn Format, max_bytes: usize, max_events: usize) {
        if std::mem::replace(&mut self.frozen, true) {
            return;
        }
        let mut open: Vec<Open> = Vec::new();
        for (i, item) in self.items.iter().enumerate() {
            let kind = item.kind();
            let limits = format.limits(kind);
            let len = item.text.len();
            let fits = |g: &Open| {
                let bytes = g.bytes + len;
                let body = bytes + format.overhead(kind, g.items.len() + 1, bytes);
                g.kind == kind
                    && g.items.len() < limits.events.min(max_events)
                    && body <= limits.body.min(max_bytes)
                    && !(format.unique_ids() && g.ids.contains(item.sent_id()))
            };
            let at = open.iter().position(fits);
            let group = match at {
                Some(at) => &mut open[at],
                None => {
                    // One that is full, or holds this id, is done: the next one of its kind takes its place.
                    if let Some(at) = open.iter().position(|g| g.kind == kind) {
                        let done = open.remove(at);
                        self.groups.push_back(Group::of(done.items, &self.items));
                    }
                    open.push(Open { kind, bytes: 0, items: Vec::new(), ids: HashSet::new() });
                    let last = open.len() - 1;
                    &mut open[last]
                }
            };
            group.bytes += len;
            group.items.push(i);
            if format.unique_ids() {
                group.ids.insert(item.sent_id());
            }
        }
        let rest: Vec<Vec<usize>> = open.into_iter().map(|g| g.items).collect();
        self.groups.extend(rest.into_iter().map(|items| Group::of(items, &self.items)));
    }

    /// The items of the next request that have no fate yet.
    pub fn next_group(&mut self) -> Vec<usize> {
        while let Some(group) = self.groups.front() {
            let open: Vec<usize> =
                group.items.iter().copied().filter(|&i| self.items[i].fate.is_none()).collect();
            if !open.is_empty() {
                return open;
            }
            self.groups.pop_front();
        }
        Vec::new()
    }

    /// Whether the next request was not sent before.
    pub fn is_first_attempt(&self) -> bool {
        self.groups.front().is_none_or(|g| g.attempts == 0)
    }

    /// Send the front group as two, the first of so many items.
    pub fn split(&mut self, group: &[usize], at: usize) {
        if self.groups.pop_front().is_some() {
            let (first, second) = group.split_at(at);
            for half in [second, first] {
                self.groups.push_front(Group::of(half.to_vec(), &self.items));
            }
        }
    }

    /// One item.
    pub fn item(&self, i: usize) -> &Item {
        &self.items[i]
    }

    /// One item's finished text.
    pub fn text_of(&self, i: usize) -> &[u8] {
        &self.text[self.items[i].text.clone()]
    }

    /// An item's fate is final.
    pub fn decide(&mut self, i: usize, fate: Fate) {
        self.items[i].fate = Some(fate);
    }

    /// The front group is sent now, as far as its items `open` are concerned: its body, and the format's headers.
    pub fn request(
        &mut self,
        format: &dyn Format,
        open: &[usize],
        now_ns: u64,
    ) -> (Vec<u8>, Vec<(String, String)>) {
        let Some(group) = self.groups.front_mut() else { return Default::default() };
        if group.attempts == 0 {
            group.created_ns = now_ns;
        }
        group.attempts += 1;
        let bytes = open.iter().map(|&i| self.items[i].text.len()).sum();
        let first = open.first().map(|&i| &self.items[i]);
        let kind = first.map_or(0, Item::kind);
        let envelope = Envelope {
            kind,
            events: open.len(),
            bytes,
            id: std::str::from_utf8(&group.id).unwrap_or_default(),
            first: first.map_or("", Item::sent_id),
            created_ns: group.created_ns,
            now_ns,
            attempt: group.attempts,
        };
        let mut body = Vec::with_capacity(bytes + format.overhead(kind, open.len(), bytes));
        format.open(&mut body, &envelope);
        for (n, &i) in open.iter().enumerate() {
            if n > 0 {
                body.extend_from_slice(format.between());
            }
            body.extend_from_slice(&self.text[self.items[i].text.clone()]);
        }
        format.close(&mut body, &envelope);
        (body, format.headers(&envelope))
    }

    /// Everything before this is final.
    pub fn settled_to(&self) -> Position {
        self.items.iter().find(|i| i.fate.is_none()).map_or(self.read, |i| i.at)
    }

    /// All is final: empty it for the next one. Keeps a usual amount of memory.
    pub fn clear(&mut self) {
        self.items.clear();
        self.text.clear();
        self.text.shrink_to(4 << 20);
        self.groups.clear();
        self.frozen = false;
    }
}

/// A group while it is put together.
struct Open<'a> {
    kind: u8,
    bytes: usize,
    items: Vec<usize>,
    ids: HashSet<&'a str>,
}

impl Group {
    fn of(members: Vec<usize>, items: &[Item]) -> Group {
        let first = members.first().and_then(|&i| items.get(i)).map_or([b'0'; 36], |item| item.id);
        Group { id: request_id(first, members.len()), items: members, created_ns: 0, attempts: 0 }
    }
}

/// A request's id: that of its first event, but for the last four digits, in which its length is. So the halves of
/// a request have other ids than the whole.
fn request_id(mut first: [u8; 36], len: usize) -> [u8; 36] {
    for (at, digit) in first.iter_mut().rev().take(4).enumerate() {
        let value = (*digit as char).to_digit(16).unwrap_or(0) as usize ^ (len >> (4 * at) & 15);
        *digit = b"0123456789abcdef"[value];
    }
    first
}
