//! The events of one request, and what is known of each.
//!
//! Invariants:
//! - Items are in queue order; `read` is behind the last record looked at, valid or not.
//! - The body built from any group never exceeds `max_bytes` unless it holds a single event.
//! - Once an attempt was made, nothing is added until every item has its fate.

use crate::format::{Fate, Format};
use crate::queue::record::Position;
use std::collections::VecDeque;
use std::ops::Range;

/// One event.
pub struct Item {
    /// Its record.
    pub at: Position,
    /// Wall clock at enqueue.
    pub time_ns: u64,
    /// Its id.
    pub id: [u8; 36],
    /// Its finished text, within the batch's.
    text: Range<usize>,
    /// `None` until it is final.
    pub fate: Option<Fate>,
}

/// See the module's text.
pub struct Batch {
    items: Vec<Item>,
    text: Vec<u8>,
    /// What is still to be sent, request by request.
    groups: VecDeque<Range<usize>>,
    /// Bytes of the envelope around the events.
    envelope: usize,
    separator: usize,
    /// Behind the last record looked at.
    pub read: Position,
    frozen: bool,
}

impl Batch {
    /// An empty batch that reads on from `read`.
    pub fn new(format: &dyn Format, read: Position) -> Batch {
        let mut envelope = Vec::new();
        format.open(&mut envelope);
        format.close(&mut envelope, 0);
        Batch {
            items: Vec::new(),
            text: Vec::new(),
            groups: VecDeque::new(),
            envelope: envelope.len(),
            separator: format.between().len(),
            read,
            frozen: false,
        }
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

    /// Bytes of a request with all of it, plus one event of `extra` bytes if that is not 0.
    pub fn body_len(&self, extra: usize) -> usize {
        let n = self.items.len() + usize::from(extra > 0);
        self.envelope + self.text.len() + extra + n.saturating_sub(1) * self.separator
    }

    /// Where an event's text may be appended; give it to [`Batch::push`], or [`Batch::take_back`] it.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Keep the text appended since `start` as an event.
    pub fn push(&mut self, at: Position, time_ns: u64, id: [u8; 36], start: usize) {
        self.items.push(Item { at, time_ns, id, text: start..self.text.len(), fate: None });
    }

    /// Forget the text appended since `start`.
    pub fn take_back(&mut self, start: usize) {
        self.text.truncate(start);
    }

    /// Fix the content: one request for all of it.
    pub fn freeze(&mut self) {
        if !self.frozen {
            self.frozen = true;
            self.groups.push_back(0..self.items.len());
        }
    }

    /// The items of the next request that have no fate yet.
    pub fn next_group(&mut self) -> Vec<usize> {
        while let Some(range) = self.groups.front().cloned() {
            let open: Vec<usize> = range.filter(|&i| self.items[i].fate.is_none()).collect();
            if !open.is_empty() {
                return open;
            }
            self.groups.pop_front();
        }
        Vec::new()
    }

    /// Send the front group as two halves.
    pub fn halve(&mut self, group: &[usize]) {
        let (Some(range), Some(&middle)) = (self.groups.pop_front(), group.get(group.len() / 2)) else {
            return;
        };
        self.groups.push_front(middle..range.end);
        self.groups.push_front(range.start..middle);
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

    /// Append a request's body for those items.
    pub fn body(&self, format: &dyn Format, group: &[usize], now_ns: u64, out: &mut Vec<u8>) {
        format.open(out);
        for (n, &i) in group.iter().enumerate() {
            if n > 0 {
                out.extend_from_slice(format.between());
            }
            out.extend_from_slice(self.text_of(i));
        }
        format.close(out, now_ns);
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
