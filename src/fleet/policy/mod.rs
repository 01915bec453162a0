//! What a fleet does about its workers: a pure function of its state, an event and the time.
//!
//! Nothing in here waits, forks, signals, reads a clock or a board. The executor (the supervisor's loop) tells what
//! happened with [`State::step`], does the [`Action`]s that it gets, in their order, and arms one timer with
//! [`State::next_deadline`]. All times are [`Ms`] of one clock that never runs back; tests use a clock of their own.
//!
//! # The executor's part
//! - First the groups ([`State::add_group`]), then [`Event::Adopted`] for each worker that an earlier supervisor left,
//!   then [`Event::Began`].
//! - One wake-up is one batch of events with one `now`: [`Event::Late`] first if there was any, then what happened
//!   (deaths before anything else), then [`Event::Seen`] for every slot with a live child, last [`Event::Passed`].
//!   Time is judged in `Passed` alone, so that a worker whose sign of life lies in the same batch is not taken for
//!   dead. An action that fails or succeeds at once ([`Action::Fork`]) is reported in a step of its own, in the same
//!   batch or a later one.
//! - [`Event::Forked`], [`Event::Ready`], [`Event::Seen`] and [`Event::Died`] speak of the slot's present
//!   incarnation; the executor drops what an earlier one left on the board.
//! - After [`Action::Exit`] nothing else is to be done.
//!
//! # What holds
//! - No `Fork` after `Stop`, `Quick` or the end; at most one child a slot, and none before the slot's `not_before`.
//! - Every state that can last for ever by a worker's fault has a deadline: start, staleness, item, TERM, KILL.
//! - A slot is made fresh by a healthy life only, never by a fork: `crashes_in_row` and "looping" outlive a restart.
#![forbid(unsafe_code)]

pub mod backoff;
mod bucket;
mod dice;
mod drain;
mod group;
mod health;
mod intensity;
mod judge;
mod limits;
mod roll;
mod seats;
mod slot;
mod state;
mod step;
pub mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use health::{Counts, Health, Reason};
pub use limits::{Limits, Rules};
pub use state::{Full, State};

/// Milliseconds of `CLOCK_MONOTONIC`, or of a test's own clock.
pub type Ms = u64;

/// What the whole fleet is in. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Phase {
    /// Not yet one ready worker in every group that wants any.
    #[default]
    Starting = 0,
    /// There was one in each.
    Running = 1,
    /// Being stopped: no forks.
    Draining = 2,
    /// [`Action::Exit`] was given.
    Stopped = 3,
}

/// What a slot is in. The numbers are the board's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum SlotState {
    /// Nobody's.
    #[default]
    Empty = 0,
    /// A child was asked for, and has not said that it is ready.
    Starting = 1,
    /// A child works.
    Ready = 2,
    /// A child was told to stop, or killed, and is not dead yet.
    Stopping = 3,
    /// No child; one is due at `not_before` (or when the fleet may fork again).
    Backoff = 4,
    /// The same, after too many crashes in a row.
    CrashLooping = 5,
    /// No child, and none will be started: the last one left with an exit code that says so.
    Failed = 6,
    /// A child that was killed and is still not dead after two seconds.
    Abandoned = 7,
    /// A child without a sign of life or with an item that takes too long: dump sent, TERM or KILL to come.
    Stale = 8,
}

impl SlotState {
    /// A child may exist, or is asked for.
    pub fn live(self) -> bool {
        use SlotState::*;
        matches!(self, Starting | Ready | Stopping | Abandoned | Stale)
    }
}

/// Why a worker ended, or had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Cause {
    /// It did not.
    #[default]
    None = 0,
    /// It returned though nobody asked it to.
    Exit0 = 1,
    /// The same with another exit code.
    Exit = 2,
    /// A signal that was not the fleet's.
    Signal = 3,
    /// The kernel killed it for memory.
    Oom = 4,
    /// It did not become ready in time.
    StartupTimeout = 5,
    /// It gave no sign of life.
    Stale = 6,
    /// One item took too long.
    ItemDeadline = 7,
    /// It had its items, its age or its memory.
    Recycled = 8,
    /// The group was made smaller.
    Resized = 9,
    /// The fleet or the group was stopped.
    Stopped = 10,
    /// A newer one took its place.
    Reloaded = 11,
    /// It was never born.
    ForkFailed = 12,
}

impl Cause {
    /// How many there are, [`Cause::None`] included.
    pub const COUNT: usize = 13;

    /// Whether it counts as a crash: for the back-off, the row of crashes and the fleet's intensity.
    pub fn is_crash(self) -> bool {
        use Cause::*;
        matches!(self, Exit0 | Exit | Signal | Oom | StartupTimeout | Stale | ItemDeadline)
    }
}

/// How a child ended, as `waitid` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exit {
    /// The exit code; 0 if a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Whether it left a core dump.
    pub core: bool,
    /// Whether the kernel killed it for memory: KILL that the fleet did not send, while the cgroup counted one.
    pub oom: bool,
}

/// What the board says of a slot's present incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seen {
    /// Its latest beat; `None` before the first.
    pub beat_ms: Option<Ms>,
    /// Items that this incarnation ended, whatever came of them.
    pub items_done: u64,
    /// Since when it has had its present item.
    pub item_started_ms: Option<Ms>,
    /// Until when it wants to be done with it: a time, not a span. `None`: it did not say.
    pub item_deadline_ms: Option<Ms>,
    /// Resident memory in units of 1024 bytes, 0 if unknown.
    pub rss_kb: u64,
    /// Whether it has an item.
    pub busy: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Groups are told: start.
    Began,
    /// The child that [`Action::Fork`] asked for exists.
    Forked {
        /// Its slot.
        slot: usize,
    },
    /// It does not: `fork`, the zygote or the exec failed.
    ForkFailed {
        /// Its slot.
        slot: usize,
        /// Why.
        errno: i32,
    },
    /// The worker said that it is ready (or counts as such at once).
    Ready {
        /// Its slot.
        slot: usize,
    },
    /// The board was read.
    Seen {
        /// Its slot.
        slot: usize,
        /// What it says.
        seen: Seen,
    },
    /// The child ended and was reaped.
    Died {
        /// Its slot.
        slot: usize,
        /// How.
        exit: Exit,
    },
    /// Time went by: the last of every batch.
    Passed,
    /// The supervisor itself was stopped or suspended: everyone gets so much more time.
    Late {
        /// By how much it woke too late.
        by: Ms,
    },
    /// TERM, INT or the program: end. A second one means now.
    Stop {
        /// `None`: [`Rules::grace_ms`].
        grace_ms: Option<Ms>,
    },
    /// QUIT: end within two seconds.
    Quick,
    /// HUP: every worker is replaced, one after the other.
    Reload,
    /// A reload came to nothing before anybody was replaced.
    ReloadFailed,
    /// A group is to have so many workers. More than there is room for is cut to what there is.
    Resize {
        /// Which.
        group: usize,
        /// How many.
        want: u32,
    },
    /// A group is to have none; [`Event::Resize`] starts it again.
    StopGroup {
        /// Which.
        group: usize,
        /// `None`: [`Rules::grace_ms`].
        grace_ms: Option<Ms>,
    },
    /// Workers shall take no new work, or shall again.
    Pause(bool),
    /// A worker that an earlier supervisor (before a re-exec) left in this slot. One of a group that does not exist any
    /// more is stopped.
    Adopted {
        /// Its slot.
        slot: usize,
        /// Its group.
        group: usize,
        /// Which life of the slot it is.
        incarnation: u64,
        /// Whether it had said that it is ready.
        ready: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a child; answer with [`Event::Forked`] or [`Event::ForkFailed`].
    Fork {
        /// Where.
        slot: usize,
        /// Of which group.
        group: usize,
        /// Which life of the slot it is, from 1.
        incarnation: u64,
    },
    /// Tell it to stop: TERM.
    Terminate {
        /// Whom.
        slot: usize,
    },
    /// Its time to stop ends in two seconds: USR1.
    Warn {
        /// Whom.
        slot: usize,
    },
    /// It hangs: have it say where.
    Dump {
        /// Whom.
        slot: usize,
    },
    /// KILL to its process group. For a slot whose fork was not answered yet: nothing, or KILL to the zygote.
    Kill {
        /// Whom.
        slot: usize,
    },
    /// Tell all workers to take no new work, or to take it again.
    Pause(bool),
    /// What [`State::slot`] says of the slot is another than before the step: publish it, and say one line if its state
    /// is. At most one a slot and step, before a `Fork`. (A birth changes `restarts` and `fork_errno`; who reports
    /// [`Event::Forked`] has to publish the child anyway.)
    Changed {
        /// Which.
        slot: usize,
    },
    /// So did the fleet's.
    PhaseChanged,
    /// There were too many restarts in all (`true`), or are no longer.
    Intensity(bool),
    /// End the supervisor: nobody is left but who was abandoned.
    Exit {
        /// With this.
        code: i32,
    },
}

/// Exit codes of a fleet that are not 0 (all stopped by themselves) or 1 (somebody had to be killed).
pub mod exit {
    /// The fleet restarted too often ([`super::Rules::exit_on_intensity`]): `EX_SOFTWARE`.
    pub const INTENSITY: i32 = 70;
    /// The very first fork failed: `EX_OSERR`.
    pub const FORK: i32 = 71;
}

/// A slot, for the board and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SlotView {
    /// What it is in.
    pub state: SlotState,
    /// Whose it is; `None` if it is empty, or its worker was adopted from a group that is no more.
    pub group: Option<usize>,
    /// Which life it is, or was the last; 0 before the first.
    pub incarnation: u64,
    /// How often it was started again, for whatever cause, since the fleet began.
    pub restarts: u32,
    /// Crashes since its last healthy life.
    pub crashes_in_row: u32,
    /// Too many of them, and no healthy life since. Stays while the next child starts.
    pub looping: bool,
    /// When it was last forked (asked for).
    pub started: Option<Ms>,
    /// Since when the present child has been ready.
    pub ready_at: Option<Ms>,
    /// No child before this; `None` if none is due.
    pub not_before: Option<Ms>,
    /// Why the present child is being stopped.
    pub stopping: Option<Cause>,
    /// No other one follows in this slot when the present child has ended.
    pub retiring: bool,
    /// It is there to replace this slot's child, and does not count yet.
    pub replaces: Option<usize>,
    /// How the latest ended child ended, why, and when.
    pub last_exit: Option<(Cause, Exit, Ms)>,
    /// How often a fork failed.
    pub fork_errors: u32,
    /// Why the latest did; 0 once one succeeded.
    pub fork_errno: i32,
}

/// A group, for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GroupView {
    /// Workers wanted.
    pub want: u32,
    /// Workers ready.
    pub ready: u32,
    /// How often it was told to replace its workers.
    pub generation: u32,
    /// Workers that still are of an earlier generation.
    pub old: u32,
    /// A replacement did not become ready; the rest of the old ones stay until the next [`Event::Reload`].
    pub roll_stopped: bool,
}
