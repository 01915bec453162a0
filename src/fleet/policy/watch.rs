//! Signs of life: whether a worker hangs, whether it lives healthily, and when to look at the board next.
//!
//! A look costs a wake-up, so looks are rounded up to common seconds: one wake-up a second at most, whatever the number
//! of slots, and one in five seconds while no worker has items or a limit of memory. Limits below four seconds round to a quarter of
//! themselves instead. What a look finds is therefore late by a second at most, or, for a deadline that a worker gave
//! with an item after a quiet look, by five.
#![forbid(unsafe_code)]

use super::slot::Child;
use super::{Cause, Limits, Ms, Seen};

/// Between two looks at a worker that has items, and at one that has none.
const BUSY_MS: Ms = 1_000;
const QUIET_MS: Ms = 5_000;

/// Rounded up to the grain of the looks that `limit` asks for.
fn rounded(at: Ms, limit: Ms) -> Ms {
    at.checked_next_multiple_of((limit / 4).clamp(10, 1_000)).unwrap_or(at)
}

impl Child {
    pub(super) fn saw(&mut self, seen: Seen, now: Ms) {
        self.active = seen.busy || seen.item_started_ms.is_some() || seen.items_done != self.seen.items_done;
        self.seen = seen;
        self.seen_at = now;
    }

    /// Whether its signs of life are judged: not before it is ready, which has a deadline of its own, unless that is
    /// switched off.
    fn watched(&self, limits: &Limits) -> bool {
        self.ready_at.is_some() || (limits.start_deadline_ms == 0 && self.forked)
    }

    /// Its latest sign of life. A worker that never beats gives its last one by becoming ready; before that, only its
    /// first beat makes it one that is to beat.
    pub(super) fn alive_at(&self) -> Option<Ms> {
        self.seen.beat_ms.max(self.ready_at).map(|at| at.max(self.grace))
    }

    /// When its present item is overdue.
    fn item_due(&self, limits: &Limits) -> Option<Ms> {
        let started = self.seen.item_started_ms?;
        let limit = (limits.item_deadline_ms > 0).then(|| started.saturating_add(limits.item_deadline_ms));
        let more = if started <= self.late.0 { self.late.1 } else { 0 };
        Some(self.seen.item_deadline_ms.or(limit)?.saturating_add(more))
    }

    /// When it is stale.
    fn stale_due(&self, limits: &Limits) -> Option<Ms> {
        let alive = self.alive_at().filter(|_| limits.stale_ms > 0)?;
        Some(alive.saturating_add(limits.stale_ms).saturating_add(1))
    }

    /// Whether it hangs, and how.
    pub(super) fn hangs(&self, limits: &Limits, now: Ms) -> Option<Cause> {
        if !self.watched(limits) {
            None
        } else if self.item_due(limits).is_some_and(|due| due <= now) {
            Some(Cause::ItemDeadline)
        } else if self.stale_due(limits).is_some_and(|due| due <= now) {
            Some(Cause::Stale)
        } else {
            None
        }
    }

    /// Whether it has its items, age or memory.
    pub(super) fn used_up(&self, now: Ms) -> bool {
        let most = self.most;
        (most.items > 0 && self.seen.items_done >= most.items)
            || (most.rss_kb > 0 && self.seen.rss_kb >= most.rss_kb)
            || (most.age > 0 && now.saturating_sub(self.started) >= most.age)
    }

    fn healthy_at(&self, limits: &Limits) -> Option<Ms> {
        self.ready_at.map(|at| at.saturating_add(limits.healthy_after_ms))
    }

    /// Whether the life that it has had so far, and goes on with, is a healthy one. There must be a sign: a worker that
    /// became ready and then hung is ready for long, too.
    pub(super) fn is_healthy(&self, limits: &Limits, now: Ms) -> bool {
        self.healthy_at(limits).is_some_and(|at| {
            let beats =
                limits.stale_ms == 0 || self.seen.beat_ms.max(self.ready_at).is_some_and(|beat| beat >= at);
            let moves = self.seen.item_started_ms.is_none_or(|started| started >= at);
            at <= now && beats && moves
        })
    }

    /// Whether the life that ended now was one.
    pub(super) fn was_healthy(&self, limits: &Limits, now: Ms) -> bool {
        let until = match self.stopping {
            Some(Cause::Stale) => self.seen.beat_ms.max(self.ready_at),
            Some(Cause::ItemDeadline) => self.seen.item_started_ms,
            _ => Some(now),
        };
        self.healthy_at(limits).is_some_and(|at| until.is_some_and(|until| at <= until))
    }

    /// For how long the fleet waited to be sure that it was lost.
    pub(super) fn given(&self, now: Ms) -> Ms {
        let since = match self.stopping {
            Some(Cause::StartupTimeout) => Some(self.started),
            Some(Cause::Stale) => self.alive_at(),
            Some(Cause::ItemDeadline) => self.seen.item_started_ms,
            _ => None,
        };
        since.map_or(0, |since| now.saturating_sub(since))
    }

    /// When the board is to be looked at next for it; always later than the last look. `in_row`: a healthy life would
    /// end a row of crashes.
    pub(super) fn look(&self, limits: &Limits, in_row: bool) -> Option<Ms> {
        if !self.watched(limits) {
            return None;
        }
        let at = self.seen_at;
        // Memory may grow at any time.
        let every = if self.active || self.most.rss_kb > 0 { BUSY_MS } else { QUIET_MS };
        let mut next = rounded(at.saturating_add(every), Ms::MAX);
        let mut also = |due: Option<Ms>, limit: Ms| {
            if let Some(due) = due.filter(|due| *due > at) {
                next = next.min(rounded(due, limit));
            }
        };
        also(self.stale_due(limits), limits.stale_ms);
        also(
            self.item_due(limits),
            if limits.item_deadline_ms > 0 { limits.item_deadline_ms } else { Ms::MAX },
        );
        // An item may have begun right after the look.
        let limit = limits.item_deadline_ms;
        also((limit > 0).then(|| at.saturating_add(limit)), limit);
        let aged = self.started.saturating_add(self.most.age);
        also((self.most.age > 0 && !self.recycle).then_some(aged), self.most.age);
        also(self.healthy_at(limits).filter(|_| in_row), limits.healthy_after_ms);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(at: Ms) -> Child {
        Child { ready_at: Some(at), seen_at: at, forked: true, ..Child::default() }
    }

    #[test]
    fn looks_fall_on_common_seconds() {
        let limits = Limits::default();
        for at in [1_000, 1_001, 1_500, 1_999] {
            assert_eq!(ready(at).look(&limits, false), Some(if at == 1_000 { 6_000 } else { 7_000 }));
            let busy = Child { active: true, ..ready(at) };
            let mut limited = ready(at);
            limited.most.rss_kb = 1;
            for child in [busy, limited] {
                assert_eq!(child.look(&limits, false), Some(if at == 1_000 { 2_000 } else { 3_000 }));
            }
        }
    }

    #[test]
    fn small_limits_are_looked_at_more_closely() {
        let limits = Limits { stale_ms: 200, ..Limits::default() };
        assert_eq!(ready(1_003).look(&limits, false), Some(1_250));
        let limits = Limits { item_deadline_ms: 400, ..Limits::default() };
        assert_eq!(ready(1_003).look(&limits, false), Some(1_500));
        let limits = Limits { stale_ms: 3, ..Limits::default() };
        assert_eq!(ready(1_003).look(&limits, false), Some(1_010));
    }

    #[test]
    fn a_look_is_never_in_the_past() {
        let limits = Limits { stale_ms: 50, item_deadline_ms: 50, max_age_ms: 50, ..Limits::default() };
        let mut child = ready(0);
        child.most.age = 50;
        child.seen.item_started_ms = Some(5);
        child.seen_at = 90_000;
        assert!(child.look(&limits, true) > Some(90_000));
    }
}
