//! One slot: what the policy remembers of it, apart from its present child, and of that child.
#![forbid(unsafe_code)]

use super::backoff::Row;
use super::dice::Dice;
use super::{Cause, Exit, Limits, Ms, Seen, SlotState, SlotView};

/// After KILL, a child that is still there is left alone.
pub(super) const UNDEAD_MS: Ms = 2_000;
/// So long before KILL a worker that is being drained is warned.
pub(super) const WARN_MS: Ms = 2_000;

/// A slot.
///
/// It is somebody's if it has a group. Then it is a *seat* (one of the workers that the group wants), unless it is
/// `retire`d or `replaces` another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub state: SlotState,
    pub group: Option<usize>,
    pub incarnation: u64,
    /// Which [`super::Event::Reload`] of its group its child has seen.
    pub generation: u32,
    /// Not to be started again when its child ends.
    pub retire: bool,
    /// It is to have the place of this slot as soon as it is ready.
    pub replaces: Option<usize>,
    /// Why it replaces, or why it is being stopped and started anew.
    pub roll: Cause,
    /// The fleet stopped its child to start another one, which is not ready yet.
    pub rolling: bool,
    /// Of the present incarnation; meaningless unless the state is live.
    pub child: Child,
    pub row: Row,
    /// No child before this, while it has none.
    pub not_before: Ms,
    /// Since when it has had none.
    pub waits_since: Ms,
    /// Forks that failed since the last that did not.
    pub fork_fails: u32,
    pub fork_errors: u32,
    pub fork_errno: i32,
    pub restarts: u32,
    /// It had a child before.
    pub born: bool,
    pub last_exit: Option<(Cause, Exit, Ms)>,
    /// The number of the step that changed it last: one [`super::Action::Changed`] a step.
    pub changed: u64,
}

impl Slot {
    /// One of the workers that `group` wants.
    pub(super) fn is_seat(&self, group: usize) -> bool {
        self.group == Some(group) && !self.retire && self.replaces.is_none()
    }

    /// There may be a child that ends one day.
    pub(super) fn live(&self) -> bool {
        self.state.live()
    }

    /// A child of it can be started.
    pub(super) fn waits(&self) -> bool {
        let waiting = matches!(self.state, SlotState::Backoff | SlotState::CrashLooping | SlotState::Empty);
        waiting && self.group.is_some()
    }

    /// It is nobody's.
    pub(super) fn free(&self) -> bool {
        self.state == SlotState::Empty && self.group.is_none()
    }

    /// What it waits in for its next child.
    pub(super) fn waiting_state(&self) -> SlotState {
        if self.row.looping { SlotState::CrashLooping } else { SlotState::Backoff }
    }

    /// Lets go of it. What the board shows of its past stays.
    pub(super) fn clear(&mut self) {
        *self = Slot {
            incarnation: self.incarnation,
            fork_errors: self.fork_errors,
            restarts: self.restarts,
            born: self.born,
            last_exit: self.last_exit,
            changed: self.changed,
            child: Child { started: self.child.started, ..Child::default() },
            ..Slot::default()
        };
    }

    pub(super) fn view(&self) -> SlotView {
        let live = self.live();
        SlotView {
            state: self.state,
            group: self.group,
            incarnation: self.incarnation,
            restarts: self.restarts,
            crashes_in_row: self.row.crashes,
            looping: self.row.looping,
            started: (self.incarnation > 0).then_some(self.child.started),
            ready_at: self.child.ready_at.filter(|_| live),
            not_before: self.waits().then_some(self.not_before),
            stopping: self.child.stopping.filter(|_| live),
            retiring: self.retire,
            replaces: self.replaces,
            last_exit: self.last_exit,
            fork_errors: self.fork_errors,
            fork_errno: self.fork_errno,
        }
    }
}

/// A child: one incarnation of a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Child {
    pub started: Ms,
    /// The fork was answered.
    pub forked: bool,
    pub ready_at: Option<Ms>,
    /// Why it has to end.
    pub stopping: Option<Cause>,
    pub terminated: bool,
    pub killed: bool,
    /// What is due, and when: ready, else KILL;
    pub start_due: Option<Ms>,
    /// TERM after a dump;
    pub term_at: Option<Ms>,
    /// the warning before KILL;
    pub warn_at: Option<Ms>,
    /// KILL;
    pub kill_at: Option<Ms>,
    /// and the end of the wait for its death.
    pub gone_at: Option<Ms>,
    pub seen: Seen,
    /// When the board was last looked at for it.
    pub seen_at: Ms,
    /// It had an item, or ended some, when the board was last looked at.
    pub active: bool,
    /// Its age is reckoned from here on, if it gave no later sign of life.
    pub grace: Ms,
    /// When the supervisor itself was late, and by how much: items begun before have so much more time.
    pub late: (Ms, Ms),
    /// What this incarnation is recycled at.
    pub most: Most,
    pub recycle: bool,
}

/// When a worker is recycled; 0: not for that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Most {
    pub items: u64,
    pub age: Ms,
    pub rss_kb: u64,
}

impl Child {
    pub(super) fn new(limits: &Limits, now: Ms, dice: &mut Dice) -> Child {
        let mut drawn = |whole| dice.shortened(whole, limits.jitter_pct);
        let most = Most {
            items: drawn(limits.max_items),
            age: drawn(limits.max_age_ms),
            rss_kb: drawn(limits.max_rss_kb),
        };
        Child {
            started: now,
            start_due: (limits.start_deadline_ms > 0).then(|| now.saturating_add(limits.start_deadline_ms)),
            seen_at: now,
            most,
            ..Child::default()
        }
    }

    /// The earliest of what is due.
    pub(super) fn next(&self) -> Option<Ms> {
        [self.start_due, self.term_at, self.warn_at, self.kill_at, self.gone_at].into_iter().flatten().min()
    }

    /// Moves what is due: the supervisor was late.
    pub(super) fn postpone(&mut self, now: Ms, by: Ms, stopping_too: bool) {
        let later = |at: &mut Option<Ms>| *at = at.map(|at| at.saturating_add(by));
        later(&mut self.start_due);
        later(&mut self.term_at);
        if stopping_too {
            later(&mut self.warn_at);
            later(&mut self.kill_at);
            later(&mut self.gone_at);
        }
        self.grace = self.grace.max(now);
        let before = match self.seen.item_started_ms {
            Some(started) if self.late.0 >= started => self.late.1,
            _ => 0,
        };
        self.late = (now, before.saturating_add(by));
    }
}
