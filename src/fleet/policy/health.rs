//! What the fleet says of itself when it is asked: alive, ready, and why not.
#![forbid(unsafe_code)]

use super::{Cause, Ms, Phase, SlotState, State};
use std::fmt;

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Health {
    /// `/livez`: the fleet can make progress by itself. False if there were too many restarts in all, or if every slot
    /// that is wanted loops, failed for good, hangs or was abandoned.
    pub live: bool,
    /// `/readyz`: it may be given work. False unless it runs (neither draining nor paused), every group that wants
    /// workers has one that is ready, and no slot loops or failed for good.
    pub ready: bool,
    /// Why not, and what else is wrong without being fatal. In the order of the slots.
    pub reasons: Vec<Reason>,
    /// How many slots are in what.
    pub counts: Counts,
}

/// Slots by what they are in. A slot counts in one of them, apart from `want`, `busy` and `missing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Workers wanted, of all groups.
    pub want: u32,
    /// Ready, busy ones included.
    pub ready: u32,
    /// Ready, and at an item.
    pub busy: u32,
    /// Starting for the first time or after fewer crashes than make a loop.
    pub starting: u32,
    /// Told to stop.
    pub stopping: u32,
    /// Waiting to be started.
    pub backoff: u32,
    /// In a crash loop: waiting, or starting once more.
    pub crash_looping: u32,
    /// Not to be started again.
    pub failed: u32,
    /// Hanging.
    pub stale: u32,
    /// Killed and not dead.
    pub abandoned: u32,
    /// Wanted, but no slot is free for it.
    pub missing: u32,
}

/// What is wrong. Its text (`Display`) is fixed: programs may match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `crash_loop:slot=2`
    CrashLoop {
        /// Which.
        slot: usize,
    },
    /// `failed:slot=2,code=78`
    Failed {
        /// Which.
        slot: usize,
        /// Its exit code.
        code: i32,
    },
    /// `stale:slot=1,age=41s`
    Stale {
        /// Which.
        slot: usize,
        /// Since its last sign of life.
        age_ms: Ms,
    },
    /// `item_deadline:slot=1,age=41s`
    ItemDeadline {
        /// Which.
        slot: usize,
        /// Since it began the item.
        age_ms: Ms,
    },
    /// `abandoned:slot=1`
    Abandoned {
        /// Which.
        slot: usize,
    },
    /// `intensity`
    Intensity,
    /// `no_ready_slot`: in the fleet, or in one of its groups.
    NoReadySlot,
    /// `no_free_slot`: a worker is wanted that there is no slot for.
    NoFreeSlot,
    /// `draining`
    Draining,
    /// `paused`
    Paused,
    /// `fork_failed:EAGAIN`: once for all slots whose latest fork failed so.
    ForkFailed {
        /// Why.
        errno: i32,
    },
    /// `reload_stopped:group=0`: a replacement did not become ready, the other workers are the old ones.
    ReloadStopped {
        /// Which.
        group: usize,
    },
    /// `not_replaced:group=0`: a worker is to be recycled, but its replacement did not become ready; it is tried again.
    NotReplaced {
        /// Which.
        group: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::CrashLoop { slot } => write!(f, "crash_loop:slot={slot}"),
            Reason::Failed { slot, code } => write!(f, "failed:slot={slot},code={code}"),
            Reason::Stale { slot, age_ms } => write!(f, "stale:slot={slot},age={}s", age_ms / 1000),
            Reason::ItemDeadline { slot, age_ms } => {
                write!(f, "item_deadline:slot={slot},age={}s", age_ms / 1000)
            }
            Reason::Abandoned { slot } => write!(f, "abandoned:slot={slot}"),
            Reason::Intensity => f.write_str("intensity"),
            Reason::NoReadySlot => f.write_str("no_ready_slot"),
            Reason::NoFreeSlot => f.write_str("no_free_slot"),
            Reason::Draining => f.write_str("draining"),
            Reason::Paused => f.write_str("paused"),
            Reason::ForkFailed { errno } => match errno_name(errno) {
                Some(name) => write!(f, "fork_failed:{name}"),
                None => write!(f, "fork_failed:errno={errno}"),
            },
            Reason::ReloadStopped { group } => write!(f, "reload_stopped:group={group}"),
            Reason::NotReplaced { group } => write!(f, "not_replaced:group={group}"),
        }
    }
}

impl State {
    /// What the probes say.
    pub fn health(&self, now: Ms) -> Health {
        let mut counts = Counts { want: self.wanted(), ..Counts::default() };
        let mut reasons = Vec::new();
        let (mut seats, mut hopeless, mut bad) = (0, 0, false);
        for (i, slot) in self.slots.iter().enumerate() {
            let seat = slot.group.is_some_and(|group| slot.is_seat(group));
            let looping = slot.row.looping;
            bad |= looping || slot.state == SlotState::Failed;
            // A looping slot is no better for having been forked anew, nor for being ready, until it has lived.
            let stuck = matches!(slot.state, SlotState::Failed | SlotState::Stale | SlotState::Abandoned);
            seats += u32::from(seat);
            hopeless += u32::from(seat && (looping || stuck));
            counts.busy += u32::from(slot.state == SlotState::Ready && slot.child.seen.busy);
            let mut nobody = 0;
            *match slot.state {
                SlotState::Empty => &mut nobody,
                SlotState::Starting if looping => &mut counts.crash_looping,
                SlotState::Starting => &mut counts.starting,
                SlotState::Ready => &mut counts.ready,
                SlotState::Stopping => &mut counts.stopping,
                SlotState::Backoff => &mut counts.backoff,
                SlotState::CrashLooping => &mut counts.crash_looping,
                SlotState::Failed => &mut counts.failed,
                SlotState::Abandoned => &mut counts.abandoned,
                SlotState::Stale => &mut counts.stale,
            } += 1;
            if looping {
                reasons.push(Reason::CrashLoop { slot: i });
            }
            let age = |since: Option<Ms>| now.saturating_sub(since.unwrap_or(slot.child.started));
            match (slot.state, slot.child.stopping) {
                (SlotState::Failed, _) => {
                    let code = slot.last_exit.map_or(0, |(_, exit, _)| exit.code);
                    reasons.push(Reason::Failed { slot: i, code });
                }
                (SlotState::Stale, Some(Cause::ItemDeadline)) => {
                    reasons
                        .push(Reason::ItemDeadline { slot: i, age_ms: age(slot.child.seen.item_started_ms) });
                }
                (SlotState::Stale, _) => {
                    reasons.push(Reason::Stale { slot: i, age_ms: age(slot.child.alive_at()) });
                }
                (SlotState::Abandoned, _) => reasons.push(Reason::Abandoned { slot: i }),
                _ => {}
            }
            let failed = Reason::ForkFailed { errno: slot.fork_errno };
            if slot.fork_errno != 0 && !reasons.contains(&failed) {
                reasons.push(failed);
            }
        }
        for (group, of) in self.groups.iter().enumerate() {
            if of.roll_stopped {
                reasons.push(Reason::ReloadStopped { group });
            } else if of.roll_failures > 0 {
                reasons.push(Reason::NotReplaced { group });
            }
        }
        counts.missing = counts.want.saturating_sub(seats);
        let draining = matches!(self.phase, Phase::Draining | Phase::Stopped);
        let staffed = self.every_group_is_ready();
        for (wrong, reason) in [
            (counts.missing > 0 && self.began && !draining, Reason::NoFreeSlot),
            (self.intensity.over(), Reason::Intensity),
            (!staffed && !draining, Reason::NoReadySlot),
            (draining, Reason::Draining),
            (self.paused, Reason::Paused),
        ] {
            if wrong {
                reasons.push(reason);
            }
        }
        // A fleet that drains is alive: whoever asks must not kill it before its deadline.
        let all_hopeless = counts.want > 0 && seats > 0 && hopeless == seats;
        Health {
            live: self.phase != Phase::Stopped && !self.intensity.over() && (draining || !all_hopeless),
            ready: self.phase == Phase::Running && staffed && !self.paused && !bad,
            reasons,
            counts,
        }
    }
}

/// The name of an error that `fork`, `execve` or a zygote may end with.
fn errno_name(errno: i32) -> Option<&'static str> {
    const NAMES: &[(i32, &str)] = &[
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENOENT, "ENOENT"),
        (libc::ENOEXEC, "ENOEXEC"),
        (libc::E2BIG, "E2BIG"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENFILE, "ENFILE"),
        (libc::EPIPE, "EPIPE"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EINVAL, "EINVAL"),
    ];
    NAMES.iter().find(|(number, _)| *number == errno).map(|(_, name)| *name)
}
