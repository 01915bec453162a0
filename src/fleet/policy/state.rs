//! The fleet as the policy sees it, and what can be asked of it.
#![forbid(unsafe_code)]

use super::bucket::Bucket;
use super::dice::Dice;
use super::group::Group;
use super::intensity::{self, Intensity};
use super::slot::Slot;
use super::table::{self, Why};
use super::{Action, Cause, GroupView, Limits, Ms, Phase, Rules, SlotState, SlotView};
use std::fmt;

/// There is no room for so many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How many are wanted in all, the new group's included.
    pub want: u32,
    /// How many there is room for.
    pub room: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} workers are wanted in all; max_workers is {}", self.want, self.room)
    }
}

impl std::error::Error for Full {}

/// The fleet: its groups, its slots, and what it is in. It belongs to one thread; a copy of it is another fleet.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) rules: Rules,
    pub(super) groups: Vec<Group>,
    pub(super) slots: Vec<Slot>,
    pub(super) phase: Phase,
    pub(super) began: bool,
    pub(super) paused: bool,
    /// There was a child once.
    pub(super) ever_forked: bool,
    pub(super) drain: Option<Drain>,
    pub(super) dice: Dice,
    pub(super) bucket: Bucket,
    pub(super) intensity: Intensity,
    pub(super) ended: [u64; Cause::COUNT],
    /// The latest step's.
    pub(super) now: Ms,
    pub(super) steps: u64,
    pub(super) out: Vec<Action>,
}

/// How a fleet ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub deadline: Ms,
    /// If it is not to be 0 or 1.
    pub code: Option<i32>,
    /// Somebody had to be killed.
    pub killed: bool,
}

impl State {
    /// A fleet without groups. `slots` are those of the board: `max_workers` and the `surge` of the rules. `seed` is
    /// for the jitter; two fleets are to have different ones.
    pub fn new(rules: Rules, slots: usize, seed: u64) -> State {
        State {
            rules,
            groups: Vec::new(),
            slots: vec![Slot::default(); slots],
            phase: Phase::Starting,
            began: false,
            paused: false,
            ever_forked: false,
            drain: None,
            dice: Dice::new(seed),
            bucket: Bucket::default(),
            intensity: Intensity::default(),
            ended: [0; Cause::COUNT],
            now: 0,
            steps: 0,
            out: Vec::new(),
        }
    }

    /// Adds a group; gives its number. Its workers are started by the next step, if the fleet has begun.
    pub fn add_group(&mut self, limits: Limits, want: u32) -> Result<usize, Full> {
        let (all, room) = (self.wanted().saturating_add(want), self.room());
        if all > room {
            return Err(Full { want: all, room });
        }
        self.groups.push(Group::new(limits, want));
        Ok(self.groups.len() - 1)
    }

    /// A slot that nobody has yet had so many lives already, under an earlier supervisor.
    pub fn begin_at(&mut self, slot: usize, incarnation: u64) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.incarnation = slot.incarnation.max(incarnation);
        }
    }

    /// Give a group other limits: for its workers now and later.
    pub fn set_limits(&mut self, group: usize, limits: Limits) {
        if let Some(group) = self.groups.get_mut(group) {
            group.limits = limits;
        }
    }

    /// Give the fleet other rules; its slots stay as many as they are.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// When the next step ([`super::Event::Passed`]) is due if nothing happens before: exact, and after a `Passed`
    /// always later than its time. `None`: when something happens. This includes the next time at which the board is to
    /// be looked at.
    pub fn next_deadline(&self) -> Option<Ms> {
        if self.phase == Phase::Stopped {
            return None;
        }
        let draining = self.drain.is_some();
        let starts = self.began && !draining;
        let mut next: Option<Ms> = None;
        let mut also = |at: Option<Ms>| next = next.into_iter().chain(at).min();
        for slot in &self.slots {
            if slot.live() {
                also(slot.child.next());
            }
            if matches!(slot.state, SlotState::Starting | SlotState::Ready) && !draining {
                also(self.limits_of(slot).and_then(|limits| slot.child.look(limits, slot.row.crashes > 0)));
            }
            if starts && slot.waits() {
                also(Some(slot.not_before.max(self.bucket.next(self.spared(slot)))));
            }
        }
        if !draining {
            also(self.intensity.ends(self.rules.intensity_window_ms));
            also((0..self.groups.len()).filter_map(|group| self.roll_due(group)).min());
        }
        next
    }

    /// What a slot is in; an empty one if there is no such.
    pub fn slot(&self, slot: usize) -> SlotView {
        self.slots.get(slot).map(Slot::view).unwrap_or_default()
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What a group is in; `None` if there is no such.
    pub fn group(&self, group: usize) -> Option<GroupView> {
        let of = self.groups.get(group)?;
        let seats = || self.slots.iter().filter(|slot| slot.is_seat(group));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(GroupView {
            want: of.want,
            ready: count(seats().filter(|slot| slot.state == SlotState::Ready).count()),
            generation: of.generation,
            old: count(seats().filter(|slot| slot.live() && slot.generation != of.generation).count()),
            roll_stopped: of.roll_stopped,
        })
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Workers wanted, of all groups.
    pub fn wanted(&self) -> u32 {
        self.groups.iter().fold(0, |all, group| all.saturating_add(group.want))
    }

    /// The most that may be wanted.
    pub fn room(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX).saturating_sub(self.rules.surge)
    }

    /// What the fleet is in.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether workers were told to take no new work.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Until when a draining fleet waits before it kills.
    pub fn drain_deadline(&self) -> Option<Ms> {
        self.drain.map(|drain| drain.deadline)
    }

    /// How many workers ended since the beginning, by cause (its number). `ForkFailed` counts failed forks.
    pub fn ended(&self) -> [u64; Cause::COUNT] {
        self.ended
    }

    // ---- for the rest of the policy ----

    /// How many forks a slot has to leave to others. One in a row of crashes leaves one, if there is any worker in none: however
    /// many crash all the time, whoever had been well is followed by the next at once.
    pub(super) fn spared(&self, slot: &Slot) -> u32 {
        let seats = || self.slots.iter().filter(|slot| slot.group.is_some() && !slot.retire);
        u32::from(slot.row.is_one() && !seats().all(|seat| seat.row.is_one()))
    }

    pub(super) fn limits_of(&self, slot: &Slot) -> Option<&Limits> {
        self.groups.get(slot.group?).map(|group| &group.limits)
    }

    /// From TERM to KILL of a single worker.
    pub(super) fn kill_ms(&self, i: usize) -> Ms {
        self.limits_of(&self.slots[i]).map_or_else(|| Limits::default().kill_ms, |limits| limits.kill_ms)
    }

    /// The only place where a slot's state changes.
    pub(super) fn go(&mut self, i: usize, to: SlotState, why: Why) {
        let slot = &mut self.slots[i];
        debug_assert!(
            table::allowed(slot.state, to, why),
            "{:?} -> {to:?}: {why:?} is not in the table",
            slot.state
        );
        #[cfg(test)]
        super::tests::passed_through(slot.state, to, why);
        slot.state = to;
        if slot.changed != self.steps {
            slot.changed = self.steps;
            self.out.push(Action::Changed { slot: i });
        }
    }

    /// Whether a slot can be given away, and which.
    pub(super) fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(Slot::free)
    }

    /// Who is to have the place of `old`.
    pub(super) fn replacement_of(&self, old: usize) -> Option<usize> {
        self.slots.iter().position(|slot| slot.replaces == Some(old))
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.out.push(Action::PhaseChanged);
    }

    pub(super) fn judge_intensity(&mut self) {
        let limit = intensity::limit(&self.rules, self.wanted());
        if let Some(over) = self.intensity.update(self.now, limit, self.rules.intensity_window_ms) {
            self.out.push(Action::Intensity(over));
            if over && self.rules.exit_on_intensity {
                self.begin_drain(self.rules.grace_ms, Some(super::exit::INTENSITY));
            }
        }
    }
}
