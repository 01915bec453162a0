//! What a slot may become, from what, and why: the whole of it. Every change of a slot's state goes through
//! [`allowed`] in debug builds and tests, and the diagram in the documentation is drawn from this table.
#![forbid(unsafe_code)]

use super::SlotState;
use std::fmt;

/// Why a slot changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// A worker is wanted, and the slot was free.
    Wanted,
    /// The same, but the fleet may not fork yet.
    Waits,
    /// An earlier supervisor left it.
    Adopted,
    /// Its time came, and the fleet may fork.
    Due,
    /// The worker said so.
    Ready,
    /// It ended by itself, or was ended for hanging.
    Crashed,
    /// The same too often in a row.
    Looping,
    /// It ended with an exit code that forbids another try.
    Permanent,
    /// The fork failed.
    ForkFailed,
    /// A replacement did not become ready: the old worker stays.
    NotReplaced,
    /// It ended while its replacement was starting, which has its place now.
    TakenOver,
    /// Not ready in time.
    StartTimeout,
    /// No sign of life, or an item takes too long.
    Hangs,
    /// A sign of life before TERM was sent.
    Alive,
    /// Its items, age or memory are used up.
    Recycled,
    /// A newer worker is to have its place.
    Reloaded,
    /// The group is smaller now.
    Resized,
    /// Its fleet or group is stopped.
    Stopped,
    /// Ended as it was told to; not wanted any more.
    Gone,
    /// Ended as it was told to; a new one follows.
    Again,
    /// No child, and none is wanted any more.
    Unwanted,
    /// Killed two seconds ago, and not dead.
    Undead,
    /// Somebody asked for another try: reload or resize.
    Asked,
}

impl Why {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Why::Wanted => "a worker is wanted",
            Why::Waits => "too many forks at once",
            Why::Adopted => "left by an earlier supervisor",
            Why::Due => "its time has come",
            Why::Ready => "says that it is ready",
            Why::Crashed => "crashed",
            Why::Looping => "crashed too often in a row",
            Why::Permanent => "exit code that forbids another try",
            Why::ForkFailed => "fork failed",
            Why::NotReplaced => "replacement ended before it was ready",
            Why::TakenOver => "ended; its replacement has its place",
            Why::StartTimeout => "not ready in time",
            Why::Hangs => "no beat, or an item overdue",
            Why::Alive => "sign of life before TERM",
            Why::Recycled => "items, age or memory used up",
            Why::Reloaded => "reload",
            Why::Resized => "group made smaller",
            Why::Stopped => "fleet or group stopped",
            Why::Gone => "ended, not wanted any more",
            Why::Again => "ended, to be started anew",
            Why::Unwanted => "not wanted any more",
            Why::Undead => "not dead two seconds after KILL",
            Why::Asked => "reload or resize",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

use SlotState::{Abandoned, Backoff, CrashLooping, Empty, Failed, Ready, Stale, Starting, Stopping};

/// All of them, in the order of `from`.
pub const TABLE: &[(SlotState, SlotState, Why)] = &[
    (Empty, Starting, Why::Wanted),
    (Empty, Backoff, Why::Waits),
    (Empty, CrashLooping, Why::Waits),
    (Empty, Starting, Why::Adopted),
    (Empty, Ready, Why::Adopted),
    (Starting, Ready, Why::Ready),
    (Starting, Backoff, Why::Crashed),
    (Starting, CrashLooping, Why::Looping),
    (Starting, Failed, Why::Permanent),
    (Starting, Backoff, Why::ForkFailed),
    (Starting, CrashLooping, Why::ForkFailed),
    (Starting, Empty, Why::NotReplaced),
    (Starting, Stopping, Why::StartTimeout),
    (Starting, Stale, Why::Hangs),
    (Starting, Stopping, Why::Resized),
    (Starting, Stopping, Why::Stopped),
    (Ready, Backoff, Why::Crashed),
    (Ready, CrashLooping, Why::Looping),
    (Ready, Failed, Why::Permanent),
    (Ready, Empty, Why::TakenOver),
    (Ready, Stale, Why::Hangs),
    (Ready, Stopping, Why::Recycled),
    (Ready, Stopping, Why::Reloaded),
    (Ready, Stopping, Why::Resized),
    (Ready, Stopping, Why::Stopped),
    (Stopping, Empty, Why::Gone),
    (Stopping, Empty, Why::NotReplaced),
    (Stopping, Backoff, Why::Again),
    (Stopping, CrashLooping, Why::Again),
    (Stopping, Backoff, Why::Crashed),
    (Stopping, CrashLooping, Why::Looping),
    (Stopping, Backoff, Why::ForkFailed),
    (Stopping, CrashLooping, Why::ForkFailed),
    (Stopping, Abandoned, Why::Undead),
    (Backoff, Starting, Why::Due),
    (Backoff, Empty, Why::Unwanted),
    (CrashLooping, Starting, Why::Due),
    (CrashLooping, Empty, Why::Unwanted),
    (Failed, Backoff, Why::Asked),
    (Failed, Empty, Why::Unwanted),
    (Abandoned, Empty, Why::Gone),
    (Abandoned, Empty, Why::NotReplaced),
    (Abandoned, Backoff, Why::Again),
    (Abandoned, CrashLooping, Why::Again),
    (Abandoned, Backoff, Why::Crashed),
    (Abandoned, CrashLooping, Why::Looping),
    (Abandoned, Backoff, Why::ForkFailed),
    (Abandoned, CrashLooping, Why::ForkFailed),
    (Stale, Ready, Why::Alive),
    (Stale, Starting, Why::Alive),
    (Stale, Backoff, Why::Crashed),
    (Stale, CrashLooping, Why::Looping),
    (Stale, Empty, Why::TakenOver),
    (Stale, Empty, Why::NotReplaced),
    (Stale, Stopping, Why::Recycled),
    (Stale, Stopping, Why::Reloaded),
    (Stale, Stopping, Why::Resized),
    (Stale, Stopping, Why::Stopped),
    (Stale, Abandoned, Why::Undead),
];

/// Whether the table has it.
pub(super) fn allowed(from: SlotState, to: SlotState, why: Why) -> bool {
    TABLE.contains(&(from, to, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_there_twice_or_leads_nowhere() {
        for (i, row) in TABLE.iter().enumerate() {
            assert!(!TABLE[..i].contains(row), "{row:?}");
            assert_ne!(row.0, row.1);
        }
    }
}
