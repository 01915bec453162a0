//! Recycling and reloading.

use super::world::{Plan, World, exited};
use super::*;

fn incarnations(w: &World) -> u64 {
    (0..w.state.slots()).map(|slot| w.slot(slot).incarnation).sum()
}

fn down_at_most(w: &mut World, ms: Ms, least: u32) {
    for _ in 0..ms / 10 {
        w.run(10);
        let ready = w.state.group(0).unwrap().ready;
        assert!(ready >= least, "{ready} ready at {}", w.now);
    }
}

#[test]
fn a_reload_replaces_one_after_the_other_ready_first() {
    let mut w = World::of(3, Limits::default()).started(1_000);
    w.plan = Box::new(|_, _| Plan { ready: Some(700), after_term: Some(100), ..Plan::default() });
    w.tell(Event::Reload);
    assert_eq!(w.state.group(0).unwrap().old, 3);
    down_at_most(&mut w, 4_000, 3);
    let group = w.state.group(0).unwrap();
    assert_eq!((group.old, group.generation, group.ready), (0, 1, 3));
    assert_eq!((w.ended(Cause::Reloaded), incarnations(&w)), (3, 6));
    w.run(100_000);
    assert_eq!(incarnations(&w), 6, "and no more");
    assert!(w.state.health(w.now).ready);
}

#[test]
fn without_surge_the_old_one_stops_first_and_only_one_is_missing() {
    for max_unavailable in [0, 1, 2] {
        let rules = Rules { surge: 0, max_unavailable, ..Rules::default() };
        let mut w = World::new(rules, &[(Limits::default(), 4)], 4).started(30_000);
        w.plan = Box::new(|_, _| Plan { ready: Some(300), ..Plan::default() });
        w.tell(Event::Reload);
        let least = 4 - max_unavailable.max(1);
        assert_eq!(w.state.group(0).unwrap().ready, least);
        down_at_most(&mut w, 5_000, least);
        assert_eq!((w.state.group(0).unwrap().old, w.state.group(0).unwrap().ready), (0, 4));
        assert_eq!(w.ended(Cause::Reloaded), 4);
    }
}

#[test]
fn with_all_slots_taken_the_old_one_stops_first() {
    // Group 1 has what would be the spare slot: its child cannot be killed.
    let undead = Plan { hang: Some((100, Ms::MAX)), after_term: None, after_kill: None, ..Plan::default() };
    let limits = Limits { stale_ms: 1_000, ..Limits::default() };
    let mut w = World::new(Rules::default(), &[(Limits::default(), 2), (limits, 1)], 4);
    w.plan = Box::new(move |slot, _| if slot == 2 { undead.clone() } else { Plan::default() });
    let mut w = w.started(30_000);
    assert_eq!(w.states()[2..], [SlotState::Abandoned, SlotState::Ready]);
    w.tell(Event::Reload);
    down_at_most(&mut w, 10_000, 1);
    assert_eq!((w.state.group(0).unwrap().old, w.state.group(1).unwrap().old), (0, 0));
    assert_eq!(w.state.health(w.now).counts.ready, 3);
}

#[test]
pub(super) fn one_that_cannot_be_killed_while_it_is_replaced_keeps_its_seat_if_no_slot_is_free() {
    let rules = Rules { surge: 0, ..Rules::default() };
    let limits = Limits { crash_limit: 1, healthy_after_ms: 600_000, ..Limits::default() };
    let mut w = World::new(rules, &[(limits, 1)], 1);
    w.plan = Box::new(|_, life| match life {
        1 => Plan::crashing(1),
        2 => Plan { after_term: None, after_kill: Some(60_000), ..Plan::default() },
        _ => Plan::default(),
    });
    let mut w = w.started(20_000);
    assert!(w.slot(0).state == SlotState::Ready && w.slot(0).looping);
    w.tell(Event::Reload);
    w.run(10_000);
    assert_eq!(w.slot(0).state, SlotState::Abandoned);
    assert!(!w.state.health(w.now).live);
    w.run(60_000);
    assert_eq!((w.slot(0).state, w.slot(0).incarnation, w.ended(Cause::Reloaded)), (SlotState::Ready, 3, 1));
}

#[test]
fn groups_that_share_the_spare_slot_wait_for_it() {
    let group = || (Limits::default(), 2);
    let mut w = World::new(Rules::default(), &[group(), group(), group()], 7).started(30_000);
    w.tell(Event::Reload);
    for _ in 0..1_000 {
        w.run(10);
        assert!((0..3).all(|group| w.state.group(group).unwrap().ready == 2), "{:?}", w.states());
    }
    assert!((0..3).all(|group| w.state.group(group).unwrap().old == 0));
}

#[test]
fn more_surge_replaces_more_at_once() {
    let rules = Rules { surge: 3, ..Rules::default() };
    let mut w = World::new(rules, &[(Limits::default(), 4)], 7).started(30_000);
    w.plan = Box::new(|_, _| Plan { ready: Some(5_000), ..Plan::default() });
    w.tell(Event::Reload);
    assert_eq!(w.states().iter().filter(|s| **s == SlotState::Starting).count(), 3);
    down_at_most(&mut w, 20_000, 4);
    assert_eq!(w.state.group(0).unwrap().old, 0);
}

#[test]
fn a_replacement_that_does_not_become_ready_stops_the_reload() {
    for bad in [
        Plan::crashing(5),
        Plan { death: Some((5, exited(78))), ready: None, ..Plan::default() },
        Plan { ready: None, ..Plan::default() },
    ] {
        let mut w = World::of(3, Limits { start_deadline_ms: 2_000, ..Limits::default() }).started(30_000);
        w.plan = Box::new(move |_, _| bad.clone());
        w.tell(Event::Reload);
        down_at_most(&mut w, 200_000, 3);
        let group = w.state.group(0).unwrap();
        assert_eq!((group.roll_stopped, group.old, incarnations(&w)), (true, 3, 4));
        assert_eq!(w.reasons(), ["reload_stopped:group=0"]);
        assert!(w.state.health(w.now).ready);
        w.plan = Box::new(|_, _| Plan::default());
        w.tell(Event::Reload);
        w.run(20_000);
        assert_eq!((w.state.group(0).unwrap().old, w.reasons().len()), (0, 0));
    }
}

#[test]
fn without_surge_a_bad_reload_costs_no_more_than_it_may() {
    for code in [1, 78] {
        let rules = Rules { surge: 0, ..Rules::default() };
        let mut w = World::new(rules, &[(Limits::default(), 3)], 3).started(30_000);
        w.plan =
            Box::new(move |_, _| Plan { ready: None, death: Some((5, exited(code))), ..Plan::default() });
        w.tell(Event::Reload);
        down_at_most(&mut w, 100_000, 2);
        assert!(w.state.group(0).unwrap().roll_stopped);
        w.plan = Box::new(|_, _| Plan::default());
        w.run(60_000);
        let group = w.state.group(0).unwrap();
        assert_eq!((group.ready, group.old), (if code == 1 { 3 } else { 2 }, 2));
    }
}

#[test]
fn a_reload_starts_at_once_who_waits() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan::crashing(1)).started(300_000);
    while w.slot(0).not_before.is_none_or(|at| at < w.now + 5_000) {
        w.run(1);
    }
    w.plan = Box::new(|_, _| Plan::default());
    w.tell(Event::Reload);
    w.run(50);
    assert_eq!(w.slot(0).state, SlotState::Ready);
    assert!(w.slot(0).looping, "that alone does not make it healthy");
}

#[test]
fn a_worker_is_recycled_for_its_items_its_age_and_its_memory() {
    let all = Limits { jitter_pct: 0, ..Limits::default() };
    for (limits, plan, at) in [
        (Limits { max_items: 500, ..all.clone() }, Plan { items_a_second: 10, ..Plan::default() }, 50_000),
        (Limits { max_age_ms: 50_000, ..all.clone() }, Plan::default(), 50_000),
        (Limits { max_rss_kb: 500, ..all.clone() }, Plan { rss_a_second: 10, ..Plan::default() }, 50_000),
    ] {
        let w = World::of(1, limits).planned(move |_, _| plan.clone()).started(90_000);
        assert_eq!(w.forks_of(1), [at]);
        assert_eq!(w.times(Action::Terminate { slot: 0 }), [at + 20], "when the other is ready");
        assert_eq!((w.ended(Cause::Recycled), w.slot(1).state), (1, SlotState::Ready));
        assert_eq!(w.slot(0).last_exit.map(|(cause, ..)| cause), Some(Cause::Recycled));
    }
}

#[test]
fn workers_of_one_age_are_not_recycled_together() {
    let limits = Limits { max_age_ms: 100_000, jitter_pct: 50, ..Limits::default() };
    let mut w =
        World::of(16, limits).planned(|_, _| Plan { ready: Some(500), ..Plan::default() }).started(49_000);
    assert_eq!(w.ended(Cause::Recycled), 0, "not by more than the jitter too early");
    down_at_most(&mut w, 51_000, 16);
    w.run(10_000);
    assert!(w.ended(Cause::Recycled) >= 16);
    let mut at: Vec<Ms> = (0..17).flat_map(|slot| w.times(Action::Terminate { slot })).take(16).collect();
    at.sort_unstable();
    at.dedup();
    assert!(at.len() > 12 && at[at.len() - 1] - at[0] > 25_000, "{at:?}");
}

#[test]
fn recycling_goes_on_when_replacements_fail_but_later_and_later() {
    let limits = Limits { max_age_ms: 20_000, jitter_pct: 0, crash_limit: 0, ..Limits::default() };
    let mut w = World::of(2, limits).started(15_000);
    w.plan = Box::new(|_, _| Plan::crashing(1));
    down_at_most(&mut w, 300_000, 2);
    let tries = w.forks_of(2);
    assert!((10..60).contains(&tries.len()), "{tries:?}");
    assert!(tries[0] == 20_000 && tries[1] <= 20_101, "as soon as it may: {tries:?}");
    assert_eq!(w.reasons(), ["not_replaced:group=0"]);
    w.plan = Box::new(|_, _| Plan::default());
    w.run(19_000);
    w.run(20_000);
    assert!(w.ended(Cause::Recycled) >= 2 && w.reasons().is_empty());
}

#[test]
fn a_worker_that_dies_while_its_replacement_starts_is_replaced_by_it() {
    let mut w = World::of(1, Limits::default()).started(30_000);
    w.plan = Box::new(|_, _| Plan { ready: Some(5_000), ..Plan::default() });
    w.tell(Event::Reload);
    w.run(1_000);
    w.dies(0, exited(1));
    assert_eq!(w.states(), [SlotState::Empty, SlotState::Starting]);
    assert_eq!((w.slot(1).replaces, w.slot(1).crashes_in_row), (None, 1));
    w.run(10_000);
    assert_eq!((w.states(), w.state.group(0).unwrap().old), (vec![SlotState::Empty, SlotState::Ready], 0));
}

#[test]
fn one_told_to_go_that_stays_is_killed() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan { after_term: None, ..Plan::default() });
    w = w.started(1_000);
    w.tell(Event::Reload);
    w.run(10_000);
    assert_eq!(
        (w.times(Action::Terminate { slot: 0 }), w.times(Action::Kill { slot: 0 })),
        (vec![1_020], vec![6_020])
    );
    assert_eq!((w.slot(0).state, w.slot(1).state), (SlotState::Empty, SlotState::Ready));
}

#[test]
fn a_resize_during_a_reload_takes_the_replacement_back() {
    let mut w = World::of(2, Limits::default()).started(1_000);
    w.plan = Box::new(|_, _| Plan { ready: Some(5_000), ..Plan::default() });
    w.tell(Event::Reload);
    w.run(1_000);
    assert_eq!(w.slot(2).replaces, Some(0));
    w.tell(Event::Resize { group: 0, want: 0 });
    w.run(1_000);
    assert!(w.states().iter().all(|state| *state == SlotState::Empty));
    assert_eq!(w.ended(Cause::Resized), 3);
}

#[test]
fn a_fork_that_fails_delays_a_replacement_and_no_more() {
    let mut w = World::of(2, Limits::default()).started(30_000);
    w.plan = Box::new(|_, life| Plan { forked: (0, (life < 4).then_some(libc::EAGAIN)), ..Plan::default() });
    w.tell(Event::Reload);
    down_at_most(&mut w, 60_000, 2);
    assert_eq!(w.state.group(0).unwrap().old, 0);
    assert!(w.ended(Cause::ForkFailed) >= 3);
}
