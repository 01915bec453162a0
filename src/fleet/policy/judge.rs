//! What time does: deadlines that came, and workers that gave no sign of life.
#![forbid(unsafe_code)]

use super::slot::UNDEAD_MS;
use super::table::Why;
use super::{Action, Cause, Ms, SlotState, State};

impl State {
    pub(super) fn passed(&mut self) {
        for i in 0..self.slots.len() {
            if self.slots[i].live() {
                self.judge(i);
            }
        }
    }

    fn judge(&mut self, i: usize) {
        let now = self.now;
        let slot = &mut self.slots[i];
        slot.child.seen_at = slot.child.seen_at.max(now);
        let due = |at: Option<Ms>| at.is_some_and(|at| at <= now);
        if due(slot.child.start_due) {
            slot.child.start_due = None;
            slot.child.stopping = Some(Cause::StartupTimeout);
            self.go(i, SlotState::Stopping, Why::StartTimeout);
            self.kill(i);
        }
        self.judge_signs(i);
        let child = &mut self.slots[i].child;
        if due(child.term_at) {
            self.end_hanging(i);
        }
        let child = &mut self.slots[i].child;
        if due(child.warn_at) {
            child.warn_at = None;
            if child.forked {
                self.out.push(Action::Warn { slot: i });
            }
        }
        let child = &mut self.slots[i].child;
        if due(child.kill_at) {
            self.kill(i);
        }
        let child = &mut self.slots[i].child;
        if due(child.gone_at) {
            child.gone_at = None;
            self.go(i, SlotState::Abandoned, Why::Undead);
        }
    }

    /// Whether it hangs, or does no longer; and what a life that goes on does to its slot.
    fn judge_signs(&mut self, i: usize) {
        let now = self.now;
        let slot = &self.slots[i];
        let Some(limits) = self.limits_of(slot) else { return };
        let child = &slot.child;
        let hangs = child.hangs(limits, now);
        match (slot.state, hangs) {
            (SlotState::Ready | SlotState::Starting, Some(cause)) => {
                let dump = limits.dump_ms;
                self.slots[i].child.stopping = Some(cause);
                self.go(i, SlotState::Stale, Why::Hangs);
                if dump == 0 {
                    return self.end_hanging(i);
                }
                self.slots[i].child.term_at = Some(now.saturating_add(dump));
                self.out.push(Action::Dump { slot: i });
            }
            (SlotState::Stale, None) if !child.terminated => {
                let was = if child.ready_at.is_some() { SlotState::Ready } else { SlotState::Starting };
                self.slots[i].child.stopping = None;
                self.slots[i].child.term_at = None;
                self.go(i, was, Why::Alive);
            }
            (SlotState::Ready, None) => {
                let healthy = slot.row.crashes > 0 && child.is_healthy(limits, now);
                let recycle = child.used_up(now);
                let slot = &mut self.slots[i];
                slot.child.recycle |= recycle;
                if healthy {
                    slot.row.reset();
                    self.changed(i);
                }
            }
            _ => {}
        }
    }

    /// It hangs, and had its time to say where: TERM, and KILL if that does not help either.
    fn end_hanging(&mut self, i: usize) {
        let kill_at = self.now.saturating_add(self.kill_ms(i));
        self.slots[i].child.term_at = None;
        self.terminate(i, kill_at);
    }

    /// TERM (as soon as there is a child), and KILL at `kill_at` if no earlier one is due.
    pub(super) fn terminate(&mut self, i: usize, kill_at: Ms) {
        let child = &mut self.slots[i].child;
        if child.killed {
            return;
        }
        child.kill_at = Some(child.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        if !std::mem::replace(&mut child.terminated, true) && child.forked {
            self.out.push(Action::Terminate { slot: i });
        }
        if kill_at <= self.now {
            self.kill(i);
        }
    }

    pub(super) fn kill(&mut self, i: usize) {
        let child = &mut self.slots[i].child;
        if std::mem::replace(&mut child.killed, true) {
            return;
        }
        child.term_at = None;
        child.warn_at = None;
        child.kill_at = None;
        child.gone_at = Some(self.now.saturating_add(UNDEAD_MS));
        self.out.push(Action::Kill { slot: i });
        if let Some(drain) = &mut self.drain {
            drain.killed = true;
        }
    }

    /// The supervisor itself was late: what it did not see is nobody's fault. A drain keeps its end: whoever asked for
    /// it keeps time by another clock.
    pub(super) fn late(&mut self, by: Ms) {
        let (now, all) = (self.now, self.drain.is_none());
        for slot in self.slots.iter_mut().filter(|slot| slot.live()) {
            slot.child.postpone(now, by, all);
        }
    }
}
