//! The end: of the fleet, or of one group. One deadline for all, told to all in the same step.
#![forbid(unsafe_code)]

use super::slot::{Slot, WARN_MS};
use super::state::Drain;
use super::table::Why;
use super::{Action, Cause, Ms, Phase, SlotState, State};

/// The grace of [`super::Event::Quick`].
const QUICK_MS: Ms = 2_000;

impl State {
    pub(super) fn stop(&mut self, grace: Ms) {
        if self.drain.is_none() {
            return self.begin_drain(grace, None);
        }
        // A second request: now.
        let now = self.now;
        self.shorten(now);
        for i in 0..self.slots.len() {
            if self.slots[i].live() {
                self.kill(i);
            }
        }
    }

    pub(super) fn quick(&mut self) {
        match self.drain {
            None => self.begin_drain(QUICK_MS, None),
            Some(_) => self.shorten(self.now.saturating_add(QUICK_MS)),
        }
    }

    pub(super) fn begin_drain(&mut self, grace: Ms, code: Option<i32>) {
        let deadline = self.now.saturating_add(grace);
        self.drain = Some(Drain { deadline, code, killed: false });
        self.enter(Phase::Draining);
        for i in 0..self.slots.len() {
            self.stop_by(i, deadline);
        }
    }

    /// Nobody is given longer than this.
    fn shorten(&mut self, until: Ms) {
        if let Some(drain) = &mut self.drain {
            drain.deadline = drain.deadline.min(until);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.live()) {
            slot.child.kill_at = slot.child.kill_at.map(|at| at.min(until));
        }
    }

    /// Ends what is in a slot by `deadline`, with a warning if there is time for one.
    fn stop_by(&mut self, i: usize, deadline: Ms) {
        if self.slots[i].state == SlotState::Empty && self.slots[i].group.is_none() {
            return;
        }
        self.give_up(i, Cause::Stopped, Some(deadline), Why::Stopped);
        let child = &mut self.slots[i].child;
        // One that was to be killed earlier anyway is not warned.
        let warn = deadline.saturating_sub(WARN_MS);
        if child.kill_at == Some(deadline) && warn > self.now {
            child.warn_at = Some(warn);
        }
    }

    /// Ends the fleet as soon as nobody is left to wait for.
    pub(super) fn finish_drain(&mut self) {
        let Some(drain) = self.drain else { return };
        let abandoned = |slot: &Slot| slot.state == SlotState::Abandoned;
        if self.slots.iter().all(|slot| !slot.live() || abandoned(slot)) {
            let forced = drain.killed || self.slots.iter().any(abandoned);
            self.end(drain.code.unwrap_or(i32::from(forced)));
        }
    }

    /// The end. A child that comes to be after it is killed.
    pub(super) fn end(&mut self, code: i32) {
        let deadline = self.now;
        self.drain.get_or_insert(Drain { deadline, code: Some(code), killed: false });
        for i in 0..self.slots.len() {
            if self.slots[i].live() {
                self.slots[i].replaces = None;
                self.retire(i, Cause::Stopped, deadline, Why::Stopped);
            }
        }
        self.enter(Phase::Stopped);
        self.out.push(Action::Exit { code });
    }

    /// A group is to have no workers.
    pub(super) fn stop_group(&mut self, group: usize, grace: Ms) {
        if group >= self.groups.len() {
            return;
        }
        self.groups[group].want = 0;
        self.groups[group].roll_afresh();
        let deadline = self.now.saturating_add(grace);
        for i in 0..self.slots.len() {
            if self.slots[i].group == Some(group) {
                self.stop_by(i, deadline);
            }
        }
    }
}
