//! What happened, one event at a time.
#![forbid(unsafe_code)]

use super::slot::Child;
use super::table::Why;
use super::{Action, Cause, Event, Exit, Ms, Phase, SlotState, State, backoff, exit};

impl State {
    /// Says that `event` happened, and appends to `out` what is to be done about it. An event about a slot or a group
    /// that does not exist, or that cannot be true of it (a ready slot that becomes ready), changes nothing. A `now`
    /// before the latest counts as that.
    pub fn step(&mut self, event: Event, now: Ms, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.steps += 1;
        std::mem::swap(&mut self.out, out);
        self.happened(event);
        // What the board says is judged with the rest, by the `Passed` that follows.
        if !matches!(event, Event::Seen { .. }) {
            self.settle();
        }
        std::mem::swap(&mut self.out, out);
    }

    fn happened(&mut self, event: Event) {
        let ends = self.drain.is_some();
        match event {
            Event::Began => self.began = true,
            Event::Forked { slot } if self.is_live(slot) => self.forked(slot),
            Event::ForkFailed { slot, errno } if self.is_live(slot) => self.fork_failed(slot, errno),
            Event::Ready { slot } if self.is_live(slot) => self.ready(slot),
            Event::Seen { slot, seen } if self.is_live(slot) => self.slots[slot].child.saw(seen, self.now),
            Event::Died { slot, exit } if self.is_live(slot) => self.died(slot, exit),
            Event::Forked { .. } | Event::ForkFailed { .. } | Event::Ready { .. } => {}
            Event::Seen { .. } | Event::Died { .. } => {}
            Event::Passed => self.passed(),
            Event::Late { by } => self.late(by),
            Event::Stop { grace_ms } => self.stop(grace_ms.unwrap_or(self.rules.grace_ms)),
            Event::Quick => self.quick(),
            Event::Adopted { slot, group, incarnation, ready } => {
                self.adopted(slot, group, incarnation, ready)
            }
            Event::Reload if !ends => self.reload(),
            Event::ReloadFailed => self.groups.iter_mut().for_each(|group| group.roll_stopped = true),
            Event::Resize { group, want } if !ends => self.resize(group, want),
            Event::StopGroup { group, grace_ms } if !ends => {
                self.stop_group(group, grace_ms.unwrap_or(self.rules.grace_ms));
            }
            Event::Pause(pause) if !ends && pause != self.paused => {
                self.paused = pause;
                self.out.push(Action::Pause(pause));
            }
            Event::Reload | Event::Resize { .. } | Event::StopGroup { .. } | Event::Pause(_) => {}
        }
    }

    fn is_live(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.live())
    }

    /// There is a child. It may have been told so late that it is to end already.
    fn forked(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        if slot.child.forked {
            return;
        }
        self.ever_forked = true;
        slot.child.forked = true;
        slot.fork_fails = 0;
        slot.fork_errno = 0;
        slot.restarts += u32::from(slot.born);
        slot.born = true;
        if slot.child.killed {
            self.out.push(Action::Kill { slot: i });
        } else if slot.child.terminated {
            self.out.push(Action::Terminate { slot: i });
        }
    }

    fn fork_failed(&mut self, i: usize, errno: i32) {
        let slot = &mut self.slots[i];
        if slot.child.forked {
            return;
        }
        slot.fork_errors = slot.fork_errors.saturating_add(1);
        slot.fork_errno = errno;
        slot.fork_fails = slot.fork_fails.saturating_add(1);
        self.ended[Cause::ForkFailed as usize] += 1;
        if slot.retire {
            return self.leave(i, Why::Gone);
        }
        let fails = slot.fork_fails;
        self.wait(i, Why::ForkFailed, Why::ForkFailed);
        if !self.ever_forked && self.phase == Phase::Starting {
            // Nobody was ever born: the fleet cannot work here, and whoever started it is to know at once.
            return self.end(exit::FORK);
        }
        let delay = self.delay(i, fails);
        self.slots[i].not_before = self.now.saturating_add(delay);
    }

    fn ready(&mut self, i: usize) {
        self.forked(i);
        let slot = &mut self.slots[i];
        // Saying so is a sign of life, too.
        let why = match slot.state {
            SlotState::Starting => Why::Ready,
            SlotState::Stale if !slot.child.terminated && slot.child.ready_at.is_none() => Why::Alive,
            _ => return,
        };
        slot.child.ready_at = Some(self.now);
        slot.child.start_due = None;
        slot.child.stopping = None;
        slot.child.term_at = None;
        slot.child.seen_at = self.now;
        self.go(i, SlotState::Ready, why);
        self.take_place(i);
    }

    fn died(&mut self, i: usize, exit: Exit) {
        self.forked(i);
        let now = self.now;
        let slot = &mut self.slots[i];
        let permanent = slot
            .group
            .and_then(|group| self.groups.get(group))
            .is_some_and(|group| exit.signal == 0 && group.limits.permanent_exit.contains(&exit.code));
        let permanent = permanent && slot.child.stopping.is_none();
        let cause = match slot.child.stopping {
            Some(cause) => cause,
            None if exit.oom => Cause::Oom,
            None if exit.signal != 0 => Cause::Signal,
            None if exit.code != 0 => Cause::Exit,
            None => Cause::Exit0,
        };
        slot.last_exit = Some((cause, exit, now));
        slot.waits_since = now;
        self.ended[cause as usize] += 1;
        if slot.retire {
            // One that was abandoned, or replaced, was counted then.
            return self.leave(i, Why::Gone);
        }
        if slot.replaces.is_some() {
            return self.not_replaced(i);
        }
        if permanent {
            slot.not_before = 0;
            if let Some(heir) = self.replacement_of(i) {
                return self.inherit(i, heir);
            }
            self.note_failed_roll(i);
            return self.go(i, SlotState::Failed, Why::Permanent);
        }
        if cause.is_crash() {
            self.crashed(i);
        } else {
            self.slots[i].not_before = now;
        }
        match self.replacement_of(i) {
            Some(heir) => self.inherit(i, heir),
            None if cause.is_crash() => {
                self.note_failed_roll(i);
                self.wait(i, Why::Crashed, Why::Looping);
            }
            None => self.wait(i, Why::Again, Why::Again),
        }
    }

    /// Counts a crash of a seat, and says when its next child may start.
    pub(super) fn crashed(&mut self, i: usize) {
        let now = self.now;
        self.intensity.note(now);
        let slot = &mut self.slots[i];
        let Some(group) = slot.group.and_then(|group| self.groups.get(group)) else { return };
        let healthy = slot.child.was_healthy(&group.limits, now);
        if healthy {
            slot.row.reset();
        }
        slot.row.leave_out(slot.child.given(now));
        slot.row.crash(&group.limits, now);
        let k = slot.row.crashes;
        let delay = if healthy { 0 } else { self.delay(i, k) };
        self.slots[i].not_before = now.saturating_add(delay);
    }

    fn delay(&mut self, i: usize, k: u32) -> Ms {
        let group = self.slots[i].group.and_then(|group| self.groups.get(group));
        group.map_or(0, |group| backoff::delay(&group.limits, k, &mut self.dice))
    }

    /// It has no child, and waits for the next.
    fn wait(&mut self, i: usize, why: Why, if_looping: Why) {
        self.slots[i].waits_since = self.now;
        match self.slots[i].waiting_state() {
            SlotState::CrashLooping => self.go(i, SlotState::CrashLooping, if_looping),
            state => self.go(i, state, why),
        }
    }

    /// It is nobody's from here on.
    pub(super) fn leave(&mut self, i: usize, why: Why) {
        self.go(i, SlotState::Empty, why);
        self.slots[i].clear();
    }

    fn adopted(&mut self, i: usize, group: usize, incarnation: u64, ready: bool) {
        let now = self.now;
        if !self.slots.get(i).is_some_and(|slot| slot.free()) {
            return;
        }
        self.ever_forked = true;
        let known = self.groups.get(group);
        let mut child =
            known.map_or_else(Child::default, |group| Child::new(&group.limits, now, &mut self.dice));
        child.started = now;
        child.seen_at = now;
        child.forked = true;
        if ready {
            child.ready_at = Some(now);
            child.start_due = None;
        }
        let slot = &mut self.slots[i];
        slot.child = child;
        slot.group = known.map(|_| group);
        slot.generation = known.map_or(0, |group| group.generation);
        slot.incarnation = incarnation;
        slot.born = true;
        let unknown = known.is_none();
        self.go(i, if ready { SlotState::Ready } else { SlotState::Starting }, Why::Adopted);
        if let Some(drain) = self.drain {
            self.retire(i, Cause::Stopped, drain.deadline, Why::Stopped);
        } else if unknown {
            let until = now.saturating_add(self.kill_ms(i));
            self.retire(i, Cause::Stopped, until, Why::Stopped);
        }
    }

    /// Looks at what the events so far ask for.
    fn settle(&mut self) {
        self.bucket.set_size(self.wanted());
        if self.phase == Phase::Stopped {
            return;
        }
        if self.drain.is_none() {
            self.judge_intensity();
        }
        if self.drain.is_some() {
            return self.finish_drain();
        }
        if !self.began {
            return;
        }
        self.fill_seats();
        self.roll();
        self.fork();
        if self.phase == Phase::Starting && self.every_group_is_ready() {
            self.enter(Phase::Running);
        }
    }

    pub(super) fn every_group_is_ready(&self) -> bool {
        self.groups.iter().enumerate().all(|(group, of)| {
            of.want == 0
                || self.slots.iter().any(|slot| slot.is_seat(group) && slot.state == SlotState::Ready)
        })
    }
}
