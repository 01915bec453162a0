//! Workers that give no sign of life, and supervisors that were not there to see one.

use super::world::{Plan, START, World};
use super::*;

fn cause(w: &World) -> Option<Cause> {
    w.slot(0).last_exit.map(|(cause, ..)| cause)
}

/// One worker whose first life hangs after `ms`, deaf to TERM.
fn hangs(ms: Ms, limits: Limits) -> World {
    World::of(1, limits).planned(move |_, life| match life {
        1 => Plan { hang: Some((ms, Ms::MAX)), after_term: None, ..Plan::default() },
        _ => Plan::default(),
    })
}

#[test]
fn a_stale_worker_is_dumped_told_and_killed() {
    let w = hangs(20_000, Limits::default()).started(60_000);
    let at = |action| w.times(action);
    // Its last beat was at 20 s; looks fall on seconds.
    assert_eq!(at(Action::Dump { slot: 0 }), [51_000]);
    assert_eq!(at(Action::Terminate { slot: 0 }), [52_000]);
    assert_eq!(at(Action::Kill { slot: 0 }), [57_000]);
    assert_eq!(
        (cause(&w), w.slot(0).incarnation, w.slot(0).state),
        (Some(Cause::Stale), 2, SlotState::Ready)
    );
    assert_eq!(w.forks_of(0)[1], 57_001, "it had been healthy before");
}

#[test]
fn a_stale_worker_is_visible_and_may_come_back_before_term() {
    let mut w = hangs(20_000, Limits::default());
    w.tell(Event::Began);
    w.run(51_500);
    assert_eq!((w.slot(0).state, w.slot(0).stopping), (SlotState::Stale, Some(Cause::Stale)));
    assert_eq!(w.reasons(), ["stale:slot=0,age=31s", "no_ready_slot"]);
    let health = w.state.health(w.now);
    assert_eq!((health.live, health.ready, health.counts.stale), (false, false, 1));
    w.replan(0, |plan| plan.hang = None);
    w.run(60_000);
    assert_eq!((w.slot(0).state, w.slot(0).incarnation, w.slot(0).stopping), (SlotState::Ready, 1, None));
    assert!(w.times(Action::Terminate { slot: 0 }).is_empty() && w.state.health(w.now).ready);
}

#[test]
fn no_dump_and_no_time_to_stop_may_be_asked_for() {
    let w = hangs(20_000, Limits { dump_ms: 0, kill_ms: 0, ..Limits::default() }).started(51_000);
    let at_once: Vec<Action> =
        w.log.iter().filter(|(at, _)| *at == START + 51_000).map(|(_, a)| *a).collect();
    assert_eq!(
        at_once,
        [Action::Changed { slot: 0 }, Action::Terminate { slot: 0 }, Action::Kill { slot: 0 }]
    );
}

#[test]
fn staleness_may_be_off() {
    let w = hangs(100, Limits { stale_ms: 0, ..Limits::default() }).started(600_000);
    assert_eq!((w.slot(0).state, w.slot(0).incarnation), (SlotState::Ready, 1));
}

#[test]
fn a_worker_that_never_beats_is_judged_by_when_it_was_ready() {
    let w = World::of(1, Limits::default());
    let w = w.planned(|_, _| Plan { silent: true, ready: Some(1_000), ..Plan::default() }).started(32_000);
    assert_eq!(w.times(Action::Dump { slot: 0 }), [32_000]);
}

#[test]
fn a_worker_that_starts_has_its_start_deadline_and_no_other() {
    let slow = Plan { ready: Some(50_000), hang: Some((1_000, 50_000)), ..Plan::default() };
    let w = World::of(1, Limits::default()).planned(move |_, _| slow.clone()).started(100_000);
    assert_eq!((w.slot(0).incarnation, w.slot(0).state), (1, SlotState::Ready));
    // Without such a deadline its beats are judged as soon as there was one.
    let slow = Plan { ready: None, hang: Some((1_000, Ms::MAX)), ..Plan::default() };
    let limits = Limits { start_deadline_ms: 0, ..Limits::default() };
    let w = World::of(1, limits.clone()).planned(move |_, _| slow.clone()).started(40_000);
    assert_eq!(cause(&w), Some(Cause::Stale));
    let mute = Plan { ready: None, silent: true, ..Plan::default() };
    let w = World::of(1, limits).planned(move |_, _| mute.clone()).started(600_000);
    assert_eq!((w.slot(0).incarnation, w.slot(0).state), (1, SlotState::Starting));
}

#[test]
fn becoming_ready_is_a_sign_of_life() {
    let slow = Plan { ready: Some(32_500), hang: Some((1_000, 33_000)), ..Plan::default() };
    let limits = Limits { start_deadline_ms: 0, ..Limits::default() };
    let mut w = World::of(1, limits).planned(move |_, _| slow.clone()).started(32_400);
    assert_eq!(w.slot(0).state, SlotState::Stale);
    w.run(100_000);
    assert_eq!((w.slot(0).state, w.slot(0).incarnation), (SlotState::Ready, 1));
}

#[test]
fn ready_and_then_hanging_is_no_healthy_life() {
    let w = World::of(1, Limits::default());
    let w = w.planned(|_, _| Plan { hang: Some((100, Ms::MAX)), ..Plan::default() }).started(400_000);
    assert!(w.ended(Cause::Stale) > 8 && w.slot(0).looping, "{:?}", w.slot(0));
}

#[test]
fn an_item_that_hangs_in_every_life_is_a_loop() {
    let item = Some((1_000, Ms::MAX, Some(20_000)));
    let w = World::of(1, Limits::default())
        .planned(move |_, _| Plan { item, ..Plan::default() })
        .started(200_000);
    assert!(w.ended(Cause::ItemDeadline) > 6 && w.slot(0).looping, "{:?}", w.slot(0));
}

#[test]
fn an_item_has_the_deadline_that_the_worker_gives_it_or_the_groups() {
    for (own, limit, dump) in [(Some(7_500), 0, 20_000), (None, 9_000, 21_000), (Some(3_000), 9_000, 16_000)]
    {
        let limits = Limits { item_deadline_ms: limit, ..Limits::default() };
        let w = World::of(1, limits).planned(move |_, life| match life {
            1 => Plan { item: Some((12_000, Ms::MAX, own)), ..Plan::default() },
            _ => Plan::default(),
        });
        let w = w.started(40_000);
        assert_eq!(w.times(Action::Dump { slot: 0 }), [dump], "{own:?} {limit}");
        assert_eq!(cause(&w), Some(Cause::ItemDeadline));
        assert_eq!(w.times(Action::Terminate { slot: 0 }), [dump + 1_000]);
    }
}

#[test]
fn an_item_in_time_and_one_without_a_deadline_are_left_alone() {
    for item in [(1_000, 9_000, Some(8_001)), (1_000, Ms::MAX, None)] {
        let w = World::of(1, Limits::default());
        let w = w.planned(move |_, _| Plan { item: Some(item), ..Plan::default() }).started(100_000);
        assert_eq!(w.slot(0).incarnation, 1, "{item:?}");
        assert!(w.times(Action::Dump { slot: 0 }).is_empty());
    }
}

#[test]
fn an_overdue_item_is_named() {
    let w = World::of(1, Limits::default());
    let mut w = w.planned(|_, _| Plan { item: Some((12_000, Ms::MAX, Some(8_000))), ..Plan::default() });
    w.tell(Event::Began);
    w.run(20_500);
    assert_eq!(w.reasons(), ["item_deadline:slot=0,age=8s", "no_ready_slot"]);
}

#[test]
fn a_supervisor_that_was_late_gives_everyone_more_time() {
    for said in [false, true] {
        let item = Some((25_000, Ms::MAX, Some(10_000)));
        let mut w = World::of(3, Limits::default()).planned(move |slot, _| match slot {
            // The machine stood still: nobody beat.
            0 => Plan { hang: Some((30_000, 130_000)), ..Plan::default() },
            1 => Plan { ready: Some(150_000), ..Plan::default() },
            _ => Plan { item, hang: Some((30_000, 130_000)), ..Plan::default() },
        });
        w = w.started(30_000);
        w.sleep(100_000, said);
        let spared = [SlotState::Ready, SlotState::Starting, SlotState::Ready];
        assert_eq!(w.states()[..3] == spared, said, "{:?}", w.states());
        w.run(20_000);
        if said {
            assert_eq!(w.states()[..2], [SlotState::Ready, SlotState::Ready]);
            // What was overdue before, or is again, is judged by its own time and what was added.
            assert_eq!(w.times(Action::Dump { slot: 2 }), [135_000]);
            // That is no gift to a later item.
            w.replan(0, |plan| plan.item = Some((152_000, Ms::MAX, Some(3_000))));
            w.run(20_000);
            assert_eq!(w.times(Action::Dump { slot: 0 }), [155_000]);
        }
    }
}

#[test]
fn being_late_twice_is_more_time_twice() {
    let w = World::of(1, Limits::default());
    let mut w = w
        .planned(|_, _| Plan { item: Some((25_000, Ms::MAX, Some(10_000))), ..Plan::default() })
        .started(30_000);
    w.sleep(20_000, true);
    w.run(1_000);
    w.sleep(20_000, true);
    w.run(10_000);
    assert_eq!(w.times(Action::Dump { slot: 0 }), [75_000]);
}

#[test]
fn one_that_hung_before_is_spared_until_term_and_no_longer() {
    let mut w = hangs(20_000, Limits::default());
    w.tell(Event::Began);
    w.run(51_500);
    assert_eq!(w.slot(0).state, SlotState::Stale);
    w.sleep(10_000, true);
    assert_eq!(w.slot(0).state, SlotState::Ready);
    w.run(29_000);
    assert_eq!(w.slot(0).state, SlotState::Ready);
    w.run(10_000);
    assert_eq!(w.times(Action::Dump { slot: 0 }), [51_000, 92_000]);
}

#[test]
fn a_child_that_cannot_be_killed_is_left_and_its_seat_moves() {
    let undead =
        Plan { hang: Some((20_000, Ms::MAX)), after_term: None, after_kill: None, ..Plan::default() };
    let mut w = World::of(1, Limits::default())
        .planned(move |slot, _| if slot == 0 { undead.clone() } else { Plan::default() });
    w = w.started(60_000);
    assert_eq!(w.states(), [SlotState::Abandoned, SlotState::Ready]);
    assert_eq!((w.forks_of(1), w.reasons()), (vec![59_000], vec!["abandoned:slot=0".to_string()]));
    assert!(w.state.health(w.now).ready);
    w.replan(0, |plan| plan.after_kill = Some(0));
    w.run(10_000);
    assert_eq!(w.states(), [SlotState::Empty, SlotState::Ready]);
}

#[test]
fn looking_costs_at_most_one_wakeup_a_second() {
    for (busy, most) in [(false, 13), (true, 61)] {
        let mut w = World::new(Rules::default(), &[(Limits::default(), 64)], 65);
        w.plan = Box::new(move |slot, _| Plan {
            ready: Some(10 + 37 * slot as Ms),
            items_a_second: if busy { 100 } else { 0 },
            ..Plan::default()
        });
        let mut w = w.started(20_000);
        w.wakeups = 0;
        w.run(60_000);
        assert!((1..=most).contains(&w.wakeups), "{} wake-ups in a minute, busy: {busy}", w.wakeups);
        assert_eq!(w.state.health(w.now).counts.ready, 64);
    }
    // Nobody to look at, nothing to wake up for.
    let mut w = World::of(0, Limits::default()).started(1_000);
    w.wakeups = 0;
    w.run(1_000_000);
    assert_eq!((w.wakeups, w.state.next_deadline()), (0, None));
}
