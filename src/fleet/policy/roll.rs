//! Replacing workers that work: recycling and reloading, never too many of a group at once.
//!
//! With a surge the replacement starts in a free slot, and the old worker is stopped when it is ready. Without one, or
//! if all slots are taken, the old one is stopped first. One that does not become ready leaves the old one where it is:
//! a reload stops there, until the next one; recycling tries again, later and later.
#![forbid(unsafe_code)]

use super::slot::Slot;
use super::table::Why;
use super::{Cause, Ms, SlotState, State, backoff};

impl State {
    pub(super) fn roll(&mut self) {
        for group in 0..self.groups.len() {
            if self.groups[group].roll_not_before <= self.now {
                while self.roll_one(group) {}
            }
        }
    }

    /// Whether, and why, a slot's worker is to be replaced.
    fn to_roll(&self, group: usize, slot: &Slot) -> Option<Cause> {
        let of = &self.groups[group];
        if !slot.is_seat(group) || slot.state != SlotState::Ready {
            None
        } else if slot.generation != of.generation && !of.roll_stopped {
            Some(Cause::Reloaded)
        } else {
            slot.child.recycle.then_some(Cause::Recycled)
        }
    }

    /// When replacements go on in a group that has some to make but waits after a failure.
    pub(super) fn roll_due(&self, group: usize) -> Option<Ms> {
        let at = self.groups[group].roll_not_before;
        let some = self.slots.iter().any(|slot| self.to_roll(group, slot).is_some());
        (at > self.now && some).then_some(at)
    }

    /// Being replaced, or there to replace.
    fn in_flight(slot: &Slot) -> bool {
        let leaves = slot.retire && matches!(slot.child.stopping, Some(Cause::Recycled | Cause::Reloaded));
        slot.replaces.is_some() || (leaves && slot.live() && slot.state != SlotState::Abandoned)
    }

    /// Begins one replacement, if one is due and may begin.
    fn roll_one(&mut self, group: usize) -> bool {
        let candidates = (0..self.slots.len()).filter_map(|i| {
            let cause = self.to_roll(group, &self.slots[i])?;
            self.replacement_of(i).is_none().then_some((i, cause))
        });
        let Some((i, cause)) = candidates.min_by_key(|(i, _)| self.slots[*i].child.started) else {
            return false;
        };
        let most_down = self.rules.max_unavailable;
        if self.rules.surge > 0 {
            let here =
                self.slots.iter().filter(|slot| slot.group == Some(group) && State::in_flight(slot)).count();
            if here >= self.rules.surge as usize {
                return false;
            }
            if let Some(free) = self.free_slot() {
                let slot = &mut self.slots[free];
                slot.group = Some(group);
                slot.replaces = Some(i);
                slot.roll = cause;
                slot.not_before = self.now;
                slot.waits_since = self.now;
                return true;
            }
            // A slot comes free when another replacement is done.
            if most_down == 0 || self.slots.iter().any(State::in_flight) {
                return false;
            }
        }
        let down = self.slots.iter().filter(|slot| slot.is_seat(group) && slot.rolling).count();
        if down >= most_down.max(1) as usize {
            return false;
        }
        self.slots[i].rolling = true;
        self.slots[i].roll = cause;
        self.end_child(i, cause, self.now.saturating_add(self.kill_ms(i)), why_of(cause));
        true
    }

    /// It is ready: if it is a replacement, it has the seat from here on.
    pub(super) fn take_place(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        let rolled = std::mem::take(&mut slot.rolling);
        let old = slot.replaces.take();
        let group = slot.group.and_then(|group| self.groups.get_mut(group));
        if let Some(group) = group.filter(|_| rolled || old.is_some()) {
            group.roll_failures = 0;
        }
        let Some(old) = old else { return };
        let cause = self.slots[i].roll;
        let until = self.now.saturating_add(self.kill_ms(old));
        self.retire(old, cause, until, why_of(cause));
    }

    /// A replacement ended before it was ready. That is no restart for the fleet's intensity: nobody is missing.
    pub(super) fn not_replaced(&mut self, i: usize) {
        self.roll_failed(i);
        self.leave(i, Why::NotReplaced);
    }

    /// The same, of one that was to start where the old one was.
    pub(super) fn note_failed_roll(&mut self, i: usize) {
        if self.slots[i].rolling && self.slots[i].child.ready_at.is_none() {
            self.roll_failed(i);
        }
    }

    fn roll_failed(&mut self, i: usize) {
        let reload = self.slots[i].roll == Cause::Reloaded;
        let Some(group) = self.slots[i].group.and_then(|group| self.groups.get_mut(group)) else { return };
        group.roll_failures = group.roll_failures.saturating_add(1);
        group.roll_stopped |= reload;
        let delay = backoff::delay(&group.limits, group.roll_failures, &mut self.dice);
        group.roll_not_before = self.now.saturating_add(delay);
    }

    /// A worker ended while its replacement was starting: that has its seat, and its row of crashes.
    pub(super) fn inherit(&mut self, old: usize, heir: usize) {
        self.slots[heir].replaces = None;
        self.slots[heir].row = std::mem::take(&mut self.slots[old].row);
        self.changed(heir);
        self.leave(old, Why::TakenOver);
    }

    /// Everyone is to be replaced. Those without a child are started at once instead.
    pub(super) fn reload(&mut self) {
        for group in 0..self.groups.len() {
            self.groups[group].generation += 1;
            self.groups[group].roll_afresh();
            self.try_failed(group);
        }
        for i in 0..self.slots.len() {
            if self.slots[i].waits() {
                self.slots[i].not_before = self.now;
                self.changed(i);
            }
        }
    }
}

fn why_of(cause: Cause) -> Why {
    if cause == Cause::Reloaded { Why::Reloaded } else { Why::Recycled }
}
