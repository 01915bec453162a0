//! The end of a fleet, of a group, and of some of its workers.

use super::world::{Plan, START, World, exited};
use super::*;

fn actions_at(w: &World, ms: Ms) -> Vec<Action> {
    let is = |a: &Action| !matches!(a, Action::Changed { .. } | Action::PhaseChanged);
    w.log.iter().filter(|(at, a)| *at == START + ms && is(a)).map(|(_, a)| *a).collect()
}

fn all(n: usize, action: fn(usize) -> Action) -> Vec<Action> {
    (0..n).map(action).collect()
}

const STOP: Event = Event::Stop { grace_ms: None };
const TERM: fn(usize) -> Action = |slot| Action::Terminate { slot };
const KILL: fn(usize) -> Action = |slot| Action::Kill { slot };

#[test]
fn all_are_told_at_once_and_nobody_killed_is_0() {
    let mut w = World::of(64, Limits::default()).started(20_000);
    w.tell(STOP);
    assert_eq!(actions_at(&w, 20_000), all(64, TERM));
    let health = w.state.health(w.now);
    assert_eq!((health.live, health.ready, w.reasons()), (true, false, vec!["draining".into()]));
    assert_eq!((w.end(), w.ended(Cause::Stopped), w.state.phase()), (0, 64, Phase::Stopped));
    assert_eq!(w.times(Action::Exit { code: 0 }), [20_005]);
}

#[test]
fn one_deadline_for_all_with_a_warning_and_killed_is_1() {
    let mut w = World::of(64, Limits::default())
        .planned(|slot, _| Plan { after_term: (slot != 7).then_some(200 * slot as Ms), ..Plan::default() });
    w = w.started(20_000);
    w.tell(STOP);
    assert_eq!(w.end(), 1);
    assert_eq!(w.times(Action::Warn { slot: 7 }), [43_000]);
    assert_eq!(w.times(Action::Kill { slot: 7 }), [45_000]);
    assert_eq!(w.times(Action::Exit { code: 1 }), [45_001]);
    assert_eq!(
        w.log.iter().filter(|(_, a)| matches!(a, Action::Kill { .. } | Action::Warn { .. })).count(),
        2
    );
}

#[test]
fn a_child_that_cannot_die_does_not_hold_the_exit() {
    let plan = || Plan { after_term: None, after_kill: None, ..Plan::default() };
    let mut w = World::of(2, Limits::default()).planned(move |_, _| plan()).started(20_000);
    w.tell(Event::Stop { grace_ms: Some(1_000) });
    assert_eq!(w.end(), 1);
    assert_eq!(w.times(Action::Exit { code: 1 }), [23_000]);
    assert_eq!(w.states()[..2], [SlotState::Abandoned; 2]);
    assert!(w.times(Action::Warn { slot: 0 }).is_empty(), "no time to warn");
}

#[test]
fn a_second_request_is_now_and_quick_is_two_seconds() {
    let deaf = || Plan { after_term: None, ..Plan::default() };
    let mut w = World::of(2, Limits::default()).planned(move |_, _| deaf()).started(20_000);
    w.tell(STOP);
    w.run(3_000);
    w.tell(STOP);
    assert_eq!(actions_at(&w, 23_000), all(2, KILL));
    assert_eq!(w.state.drain_deadline(), Some(w.now));
    assert_eq!((w.end(), w.times(Action::Exit { code: 1 })), (1, vec![23_001]));

    for before in [false, true] {
        let mut w = World::of(2, Limits::default()).planned(move |_, _| deaf()).started(20_000);
        if before {
            w.tell(STOP);
        }
        w.run(3_000);
        w.tell(Event::Quick);
        assert_eq!((w.end(), w.times(Action::Kill { slot: 1 })), (1, vec![25_000]));
    }
    let mut w = World::of(2, Limits::default()).started(20_000);
    w.tell(Event::Stop { grace_ms: Some(0) });
    assert_eq!(actions_at(&w, 20_000).len(), 4, "TERM and KILL to both");
}

#[test]
fn a_quick_stop_does_not_lengthen_a_drain() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan { after_term: None, ..Plan::default() });
    w = w.started(20_000);
    w.tell(Event::Stop { grace_ms: Some(1_000) });
    w.tell(Event::Quick);
    assert_eq!((w.end(), w.times(Action::Kill { slot: 0 })), (1, vec![21_000]));
}

#[test]
fn who_waits_for_a_restart_is_not_started_any_more() {
    let mut w = World::of(2, Limits::default())
        .planned(|slot, _| if slot == 0 { Plan::crashing(1) } else { Plan::default() });
    w = w.started(60_000);
    let forks = w.forks_of(0).len();
    while w.slot(0).state != SlotState::CrashLooping {
        w.run(1);
    }
    w.tell(STOP);
    assert_eq!((w.slot(0).state, w.end(), w.forks_of(0).len()), (SlotState::Empty, 0, forks));
}

#[test]
fn a_child_born_during_the_drain_is_told_at_once() {
    for (answer, kills) in [(10_000, 0), (26_000, 2)] {
        let mut w = World::of(1, Limits::default()).started(20_000);
        w.plan =
            Box::new(move |_, _| Plan { forked: (answer, None), after_term: Some(3), ..Plan::default() });
        w.dies(0, exited(1));
        w.tell(STOP);
        let code = w.end();
        assert_eq!(code, i32::from(kills > 0));
        assert_eq!(w.times(Action::Kill { slot: 0 }).len(), kills);
        assert_eq!(w.times(Action::Terminate { slot: 0 }), if kills == 0 { vec![30_000] } else { vec![] });
    }
}

#[test]
fn a_fork_that_fails_during_the_drain_is_over() {
    let mut w = World::of(1, Limits::default()).started(20_000);
    w.plan = Box::new(|_, _| Plan { forked: (500, Some(libc::ENOMEM)), ..Plan::default() });
    w.dies(0, exited(1));
    w.tell(STOP);
    assert_eq!((w.end(), w.times(Action::Exit { code: 0 })), (0, vec![20_500]));
}

#[test]
fn a_fleet_stopped_before_it_began_or_without_workers_ends_at_once() {
    let mut w = World::of(2, Limits::default());
    w.tell(STOP);
    assert_eq!(w.code, Some(0));
    let mut w = World::of(0, Limits::default()).started(5_000);
    assert_eq!((w.code, w.state.phase()), (None, Phase::Running));
    w.tell(STOP);
    assert_eq!(w.code, Some(0));
}

#[test]
fn a_late_supervisor_still_ends_in_time() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan { after_term: None, ..Plan::default() });
    w = w.started(20_000);
    w.tell(STOP);
    w.sleep(20_000, true);
    assert_eq!((w.end(), w.times(Action::Kill { slot: 0 })), (1, vec![45_000]));
}

#[test]
fn nothing_else_matters_while_it_ends() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan { after_term: None, ..Plan::default() });
    w = w.started(20_000);
    w.tell(STOP);
    let log = w.log.len();
    for event in [
        Event::Reload,
        Event::Resize { group: 0, want: 1 },
        Event::StopGroup { group: 0, grace_ms: Some(0) },
        Event::Pause(true),
        Event::Began,
    ] {
        w.tell(event);
    }
    assert_eq!(w.log.len(), log);
}

#[test]
fn a_group_is_stopped_by_itself_and_may_come_back() {
    let limits = Limits::default();
    let mut w = World::new(Rules::default(), &[(limits.clone(), 2), (limits, 1)], 4);
    w.plan = Box::new(|slot, _| Plan { after_term: (slot != 1).then_some(5), ..Plan::default() });
    let mut w = w.started(20_000);
    w.tell(Event::StopGroup { group: 0, grace_ms: Some(5_000) });
    assert_eq!(actions_at(&w, 20_000), all(2, TERM));
    w.run(10_000);
    assert_eq!(
        (w.times(Action::Warn { slot: 1 }), w.times(Action::Kill { slot: 1 })),
        (vec![23_000], vec![25_000])
    );
    assert_eq!(w.states(), [SlotState::Empty, SlotState::Empty, SlotState::Ready, SlotState::Empty]);
    assert!(w.state.health(w.now).ready);
    w.tell(Event::StopGroup { group: 1, grace_ms: None });
    w.run(100_000);
    assert_eq!((w.code, w.state.wanted(), w.state.phase()), (None, 0, Phase::Running));
    w.tell(Event::Resize { group: 0, want: 2 });
    w.run(1_000);
    assert_eq!(w.state.group(0).unwrap().ready, 2);
    w.tell(STOP);
    assert_eq!(w.end(), 1, "slot 1 is deaf");
}

#[test]
fn a_smaller_group_loses_whom_it_misses_least() {
    let mut w = World::of(5, Limits::default()).planned(|slot, _| match slot {
        0 | 3 => Plan { items_a_second: 1, ..Plan::default() },
        4 => Plan::crashing(1),
        _ => Plan::default(),
    });
    w = w.started(15_000);
    for slot in [0, 1] {
        w.dies(slot, exited(1));
    }
    w.run(5_000);
    let mut left = Vec::new();
    for want in (0..5).rev() {
        w.tell(Event::Resize { group: 0, want });
        w.run(1_000);
        left.push((0..5).filter(|slot| w.slot(*slot).state != SlotState::Empty).collect::<Vec<_>>());
    }
    // The one that crashes, the newer of the idle ones, the other; the newer of the busy ones.
    assert_eq!(left, [vec![0, 1, 2, 3], vec![0, 2, 3], vec![0, 3], vec![3], vec![]]);
    assert_eq!(w.ended(Cause::Resized), 4);
}

#[test]
fn a_larger_group_starts_more_at_once_and_too_large_is_cut() {
    let mut w = World::of(2, Limits::default());
    w.state = State::new(Rules::default(), 6, 1);
    w.state.add_group(Limits::default(), 2).unwrap();
    let mut w = w.started(100);
    w.tell(Event::Resize { group: 0, want: 4 });
    w.run(100);
    assert_eq!(w.state.group(0).unwrap().ready, 4);
    w.tell(Event::Resize { group: 0, want: 99 });
    w.run(100);
    assert_eq!((w.state.wanted(), w.state.group(0).unwrap().ready), (5, 5), "one slot is for the surge");
    assert_eq!(w.add_group(Limits::default(), 1), Err(Full { want: 6, room: 5 }));
    assert_eq!(Full { want: 6, room: 5 }.to_string(), "6 workers are wanted in all; max_workers is 5");
    w.tell(Event::Resize { group: 0, want: 1 });
    assert_eq!(w.add_group(Limits::default(), 2), Ok(1));
    w.run(1_000);
    assert_eq!((w.state.group(0).unwrap().ready, w.state.group(1).unwrap().ready), (1, 2));
    for nothing in [Event::Resize { group: 9, want: 3 }, Event::StopGroup { group: 9, grace_ms: None }] {
        w.tell(nothing);
    }
    assert_eq!(w.state.wanted(), 3);
}

#[test]
fn pausing_is_passed_on_once_and_not_ready() {
    let mut w = World::of(1, Limits::default()).started(1_000);
    for pause in [true, true, false] {
        w.tell(Event::Pause(pause));
        assert_eq!((w.state.paused(), w.state.health(w.now).ready), (pause, !pause));
    }
    assert_eq!((w.times(Action::Pause(true)).len(), w.times(Action::Pause(false)).len()), (1, 1));
    assert!(w.state.health(w.now).live);
}
