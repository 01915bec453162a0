//! Who has which slot: as many seats as are wanted, and a child for each.
#![forbid(unsafe_code)]

use super::slot::Child;
use super::table::Why;
use super::{Action, Cause, Ms, SlotState, State};

impl State {
    /// Gives each group the slots that it wants, and takes those that it does not.
    pub(super) fn fill_seats(&mut self) {
        for group in 0..self.groups.len() {
            self.move_abandoned(group);
            let want = self.groups[group].want as usize;
            let mut seats = self.slots.iter().filter(|slot| slot.is_seat(group)).count();
            while seats < want {
                let Some(i) = self.free_slot() else { break };
                let slot = &mut self.slots[i];
                slot.group = Some(group);
                slot.not_before = self.now;
                slot.waits_since = self.now;
                seats += 1;
            }
            while seats > want {
                let Some(i) = self.least_busy(group) else { break };
                self.give_up(i, Cause::Resized, None, Why::Resized);
                seats -= 1;
            }
        }
    }

    /// A child that cannot be killed keeps its slot, but not its seat: that goes, with its row of crashes, to a free
    /// slot if there is one.
    fn move_abandoned(&mut self, group: usize) {
        for i in 0..self.slots.len() {
            if !(self.slots[i].is_seat(group) && self.slots[i].state == SlotState::Abandoned) {
                continue;
            }
            let heir = self.replacement_of(i);
            let Some(to) = heir.or_else(|| self.free_slot()) else { continue };
            if self.slots[i].child.stopping.is_some_and(Cause::is_crash) {
                self.crashed(i);
            }
            let from = &mut self.slots[i];
            from.retire = true;
            let (row, rolling, roll) = (std::mem::take(&mut from.row), from.rolling, from.roll);
            let not_before = from.not_before.max(self.now);
            let heir = &mut self.slots[to];
            let is_new = heir.replaces.take().is_none();
            heir.row = row;
            if is_new {
                heir.group = Some(group);
                heir.not_before = not_before;
                heir.waits_since = self.now;
                (heir.rolling, heir.roll) = (rolling, roll);
            }
            self.changed(i);
            self.changed(to);
        }
    }

    /// The seat that its group misses least: one without a child, then one that starts, then an idle one; the newest of
    /// those.
    fn least_busy(&self, group: usize) -> Option<usize> {
        let seats = (0..self.slots.len()).filter(|i| self.slots[*i].is_seat(group));
        seats.min_by_key(|i| {
            let slot = &self.slots[*i];
            let rank = match slot.state {
                SlotState::Ready if slot.child.seen.busy => 3,
                SlotState::Ready => 2,
                state if state.live() => 1,
                _ => 0,
            };
            (rank, std::cmp::Reverse(slot.child.started), std::cmp::Reverse(*i))
        })
    }

    /// A seat is not wanted any more, and a replacement for it neither. `until`: KILL; `None`: the group's `kill_ms`.
    pub(super) fn give_up(&mut self, i: usize, cause: Cause, until: Option<Ms>, why: Why) {
        if let Some(heir) = self.replacement_of(i) {
            self.give_up(heir, cause, until, why);
        }
        if self.slots[i].replaces.take().is_some() && self.slots[i].state != SlotState::Empty {
            self.changed(i);
        }
        if self.slots[i].live() {
            let until = until.unwrap_or_else(|| self.now.saturating_add(self.kill_ms(i)));
            self.retire(i, cause, until, why);
        } else if self.slots[i].state == SlotState::Empty {
            self.slots[i].clear();
        } else {
            self.leave(i, Why::Unwanted);
        }
    }

    /// Its child is to end, and not to be followed by another one in this slot.
    pub(super) fn retire(&mut self, i: usize, cause: Cause, until: Ms, why: Why) {
        self.slots[i].retire = true;
        self.end_child(i, cause, until, why);
    }

    /// Its child is to end.
    pub(super) fn end_child(&mut self, i: usize, cause: Cause, until: Ms, why: Why) {
        let slot = &mut self.slots[i];
        if slot.state == SlotState::Abandoned {
            return;
        }
        slot.child.stopping.get_or_insert(cause);
        slot.child.start_due = None;
        slot.child.term_at = None;
        if slot.state != SlotState::Stopping {
            self.go(i, SlotState::Stopping, why);
        }
        self.terminate(i, until);
    }

    /// Starts a child in every slot whose time has come, as far as the fleet may fork: those in no row of crashes first, the
    /// longest waiting before the others.
    pub(super) fn fork(&mut self) {
        let now = self.now;
        loop {
            let waiting =
                (0..self.slots.len()).filter(|i| self.slots[*i].waits() && self.slots[*i].not_before <= now);
            let first = waiting.min_by_key(|i| (self.slots[*i].row.is_one(), self.slots[*i].not_before));
            let Some(i) = first else { break };
            let spared = self.spared(&self.slots[i]);
            if !self.bucket.take(now, spared) {
                break;
            }
            self.fork_in(i);
        }
        for i in 0..self.slots.len() {
            if self.slots[i].waits() && self.slots[i].state == SlotState::Empty {
                self.go(i, self.slots[i].waiting_state(), Why::Waits);
            }
        }
    }

    fn fork_in(&mut self, i: usize) {
        let now = self.now;
        let slot = &mut self.slots[i];
        let Some((number, group)) = slot.group.and_then(|g| self.groups.get(g).map(|group| (g, group)))
        else {
            return;
        };
        slot.row.leave_out(now.saturating_sub(slot.waits_since));
        slot.child = Child::new(&group.limits, now, &mut self.dice);
        slot.generation = group.generation;
        slot.incarnation += 1;
        let incarnation = slot.incarnation;
        let why = if slot.state == SlotState::Empty { Why::Wanted } else { Why::Due };
        self.go(i, SlotState::Starting, why);
        self.out.push(Action::Fork { slot: i, group: number, incarnation });
    }

    /// Tells of a slot though its state is the same.
    pub(super) fn changed(&mut self, i: usize) {
        if std::mem::replace(&mut self.slots[i].changed, self.steps) != self.steps {
            self.out.push(Action::Changed { slot: i });
        }
    }

    /// A group is to have so many workers.
    pub(super) fn resize(&mut self, group: usize, want: u32) {
        let Some(of) = self.groups.get(group) else { return };
        let room = self.room().saturating_sub(self.wanted().saturating_sub(of.want));
        self.groups[group].want = want.min(room);
        self.try_failed(group);
    }

    /// Those that failed for good get another try.
    pub(super) fn try_failed(&mut self, group: usize) {
        for i in 0..self.slots.len() {
            let slot = &mut self.slots[i];
            if slot.state == SlotState::Failed && slot.group == Some(group) {
                slot.not_before = self.now;
                slot.waits_since = self.now;
                self.go(i, SlotState::Backoff, Why::Asked);
            }
        }
    }
}
