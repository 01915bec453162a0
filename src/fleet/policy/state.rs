//! The fleet as the policy sees it.
#![forbid(unsafe_code)]

use super::health::Health;
use super::{Action, Cause, Event, GroupView, Limits, Ms, Phase, Rules, SlotView};
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

/// The fleet: its groups, its slots, and what it is in.
#[derive(Clone, Debug)]
pub struct State {
    rules: Rules,
    slots: Vec<SlotView>,
    groups: Vec<GroupView>,
}

impl State {
    /// A fleet without groups. `slots` are those of the board: `max_workers` and the `surge` of the rules. `seed` is
    /// for the jitter; two fleets are to have different ones.
    pub fn new(rules: Rules, slots: usize, seed: u64) -> State {
        let _ = seed;
        State { rules, slots: vec![SlotView::default(); slots], groups: Vec::new() }
    }

    /// Adds a group; gives its number. Its workers are started by the next step, if the fleet has begun.
    pub fn add_group(&mut self, limits: Limits, want: u32) -> Result<usize, Full> {
        let _ = limits;
        let room = self.room();
        let all = self.wanted().saturating_add(want);
        if all > room {
            return Err(Full { want: all, room });
        }
        self.groups.push(GroupView { want, ..GroupView::default() });
        Ok(self.groups.len() - 1)
    }

    /// Says that `event` happened, and appends to `out` what is to be done about it. An event about a slot or a group
    /// that does not exist, or that cannot be true of it (a ready slot that becomes ready), changes nothing.
    pub fn step(&mut self, event: Event, now: Ms, out: &mut Vec<Action>) {
        let _ = (event, now, out, &self.rules);
    }

    /// When the next step ([`Event::Passed`]) is due if nothing happens before: exact, and after a `Passed` always
    /// later than its time. `None`: when something happens. This includes the next time at which the board is to be
    /// looked at.
    pub fn next_deadline(&self) -> Option<Ms> {
        None
    }

    /// What a slot is in; an empty one if there is no such.
    pub fn slot(&self, slot: usize) -> SlotView {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What a group is in; `None` if there is no such.
    pub fn group(&self, group: usize) -> Option<GroupView> {
        self.groups.get(group).copied()
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Workers wanted, of all groups.
    pub fn wanted(&self) -> u32 {
        self.groups.iter().map(|group| group.want).sum()
    }

    /// The most that may be wanted.
    pub fn room(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX).saturating_sub(self.rules.surge)
    }

    /// What the fleet is in.
    pub fn phase(&self) -> Phase {
        Phase::Starting
    }

    /// Whether workers were told to take no new work.
    pub fn paused(&self) -> bool {
        false
    }

    /// Until when a draining fleet waits before it kills.
    pub fn drain_deadline(&self) -> Option<Ms> {
        None
    }

    /// How many workers ended since the beginning, by cause (its number). `ForkFailed` counts failed forks.
    pub fn ended(&self) -> [u64; Cause::COUNT] {
        [0; Cause::COUNT]
    }

    /// What the probes say.
    pub fn health(&self, now: Ms) -> Health {
        let _ = now;
        Health::default()
    }
}
