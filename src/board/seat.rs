//! The slot of a fleet's scoreboard that this process works in.
//!
//! Invariants:
//! - It counts only in the process that the slot names: a forked child of a worker has none, though it inherits all memory.
//! - Nothing here waits or allocates.
#![forbid(unsafe_code)]

use super::layout::Slot;
use crate::platform::process;
use crate::platform::seat::Seat;
use std::sync::atomic::Ordering;

static SEAT: Seat<Slot> = Seat::new();

/// Those of [`Slot::clients`], by number, that say how things are and not what has happened: an incarnation begins with
/// none of what the one before had. `queue_events`, `queue_bytes`, `circuit_open`, `media_bytes`.
pub const GAUGES: [usize; 4] = [11, 12, 17, 27];

/// Work in that slot from now on; its [`Working::pid`](super::layout::Working::pid) is this process's already.
pub fn take(slot: &'static Slot) {
    for word in GAUGES.iter().filter_map(|i| slot.clients.get(*i)) {
        word.store(0, Ordering::Relaxed);
    }
    SEAT.put(Some(slot));
}

/// Work in none.
pub fn leave() {
    SEAT.put(None);
}

/// The slot that this process works in.
pub fn current() -> Option<&'static Slot> {
    SEAT.get().filter(|slot| slot.working.pid.load(Ordering::Relaxed) == process::pid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::scoreboard::Board;

    #[test]
    fn it_is_the_named_process_alone_that_sits_there() {
        let board: &'static Board = Box::leak(Box::new(Board::create("shop", 1).unwrap()));
        let slot = board.slot(0).unwrap();
        slot.clients[0].store(7, Ordering::Relaxed);
        slot.clients[11].store(7, Ordering::Relaxed);
        slot.working.pid.store(process::pid(), Ordering::Relaxed);
        take(slot);
        assert!(current().is_some_and(|found| std::ptr::eq(found, slot)));
        let left = |i: usize| slot.clients[i].load(Ordering::Relaxed);
        assert_eq!(
            (left(0), left(11)),
            (7, 0),
            "what an earlier worker has counted stays, its queue does not"
        );
        slot.working.pid.store(process::pid() + 1, Ordering::Relaxed);
        assert!(current().is_none());
        leave();
        slot.working.pid.store(process::pid(), Ordering::Relaxed);
        assert!(current().is_none());
    }
}
