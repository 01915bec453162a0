//! Deaths and what follows: each cause, back-off, loops, intensity, failed forks.

use super::world::{Plan, World, exited, signalled};
use super::*;

fn first_lives(lives: u64, plan: Plan) -> impl FnMut(usize, u64) -> Plan {
    move |slot, life| if slot == 0 && life <= lives { plan.clone() } else { Plan::default() }
}

#[test]
fn a_fleet_starts_all_at_once_and_runs_when_each_group_has_one_ready() {
    let limits = Limits::default();
    let mut w = World::new(Rules::default(), &[(limits.clone(), 2), (limits, 1)], 4);
    w.plan = Box::new(|slot, _| Plan { ready: Some(100 * slot as Ms), ..Plan::default() });
    let mut w = w.started(150);
    assert_eq!(w.states()[..3], [SlotState::Ready, SlotState::Ready, SlotState::Starting]);
    assert_eq!((w.state.phase(), w.reasons()), (Phase::Starting, vec!["no_ready_slot".into()]));
    w.run(100);
    assert_eq!((w.state.phase(), w.state.health(w.now).ready), (Phase::Running, true));
    assert!((0..3).all(|slot| w.forks_of(slot) == [0]));
}

#[test]
fn the_first_restart_after_a_healthy_life_is_at_once() {
    let mut w = World::of(1, Limits::default()).started(10_020);
    w.dies(0, signalled(11));
    assert_eq!(w.forks_of(0), [0, 10_020]);
    let view = w.slot(0);
    assert_eq!((view.crashes_in_row, view.restarts, view.incarnation), (1, 1, 2));
    assert_eq!(view.last_exit.map(|(cause, ..)| cause), Some(Cause::Signal));
}

#[test]
fn a_healthy_life_ends_a_row_also_if_nobody_looked_before_its_end() {
    let mut w = World::of(1, Limits::default()).planned(first_lives(3, Plan::crashing(1))).started(5_000);
    assert_eq!((w.slot(0).state, w.slot(0).crashes_in_row), (SlotState::Ready, 3));
    let ready = w.slot(0).ready_at.unwrap();
    w.run(ready + 10_000 - w.now);
    assert_eq!(w.slot(0).crashes_in_row, 3);
    w.dies(0, signalled(11));
    assert_eq!((w.slot(0).crashes_in_row, w.slot(0).state), (1, SlotState::Starting));
}

#[test]
fn the_time_that_the_fleet_waits_is_not_in_the_window() {
    let limits = Limits { backoff_base_ms: 30_000, crash_window_ms: 1_000, ..Limits::default() };
    let w = World::of(1, limits).planned(|_, _| Plan::crashing(10)).started(300_000);
    let forks = w.forks_of(0);
    assert!(forks[4] - forks[0] > 10_000, "{forks:?}");
    assert!(w.slot(0).looping);
}

#[test]
fn a_life_a_moment_too_short_is_not_healthy() {
    let mut later = 0;
    for seed in 0..20 {
        let mut w = World::of(1, Limits::default());
        w.state = State::new(Rules::default(), 2, seed);
        w.state.add_group(Limits::default(), 1).unwrap();
        let mut w = w.started(10_019);
        w.dies(0, signalled(11));
        w.run(101);
        assert_eq!(w.forks_of(0).len(), 2);
        assert!(w.forks_of(0)[1] <= 10_119);
        later += u32::from(w.forks_of(0)[1] > 10_019);
    }
    assert!(later > 15, "{later} of 20 waited");
}

#[test]
fn each_cause_is_told_apart() {
    let oom = Exit { signal: 9, oom: true, ..Exit::default() };
    for (exit, cause) in [
        (exited(0), Cause::Exit0),
        (exited(3), Cause::Exit),
        (signalled(9), Cause::Signal),
        (oom, Cause::Oom),
    ] {
        let mut w = World::of(1, Limits::default()).started(20_000);
        w.dies(0, exit);
        assert_eq!(w.slot(0).last_exit, Some((cause, exit, w.now)));
        assert_eq!((w.ended(cause), w.state.ended().iter().sum::<u64>()), (1, 1));
        assert_eq!(w.slot(0).crashes_in_row, 1);
    }
}

#[test]
fn a_crash_loop_waits_longer_and_longer_and_is_seen() {
    let mut w = World::of(1, Limits::default()).planned(|_, _| Plan::crashing(3)).started(600_000);
    let view = w.slot(0);
    assert!(view.looping && view.crashes_in_row > 20, "{view:?}");
    let forks = w.forks_of(0);
    let gaps: Vec<Ms> = forks.windows(2).map(|two| two[1] - two[0]).collect();
    for (k, gap) in gaps.iter().enumerate() {
        let bound = backoff::bound(&Limits::default(), k as u32 + 1).max(500);
        assert!(*gap <= bound + 3, "after crash {}: {gap} ms", k + 1);
    }
    assert!(gaps.iter().any(|gap| *gap > 15_000), "the cap is used: {gaps:?}");
    let health = w.state.health(w.now);
    assert!(!health.live && !health.ready);
    assert!(w.reasons().contains(&"crash_loop:slot=0".to_string()), "{:?}", w.reasons());
    // Being forked anew does not help, nor does being ready; a healthy life does.
    w.plan = Box::new(|_, _| Plan::default());
    while w.slot(0).state != SlotState::Ready {
        w.run(10);
        assert!(!w.state.health(w.now).live, "fresh by a fork");
    }
    assert!(w.slot(0).looping && !w.state.health(w.now).live);
    w.run(9_900);
    assert!(w.slot(0).looping);
    w.run(1_100);
    let view = w.slot(0);
    assert!(!view.looping && view.crashes_in_row == 0, "{view:?}");
    w.run(60_000);
    assert!(w.state.health(w.now).live && w.state.health(w.now).ready, "{:?}", w.reasons());
}

#[test]
fn five_crashes_make_a_loop_and_four_do_not() {
    for (crashes, looping) in [(4, false), (5, true)] {
        let w = World::of(1, Limits::default()).planned(first_lives(crashes, Plan::crashing(1)));
        let w = w.started(4_000);
        assert_eq!(w.slot(0).looping, looping, "{crashes}");
        assert_eq!(w.slot(0).state, SlotState::Ready);
    }
}

#[test]
fn one_that_had_been_well_does_not_wait_behind_those_that_crash() {
    let mut w = World::of(9, Limits { backoff_cap_ms: 100, ..Limits::default() })
        .planned(|slot, _| if slot == 0 { Plan::default() } else { Plan::crashing(1) })
        .started(20_000);
    for _ in 0..3 {
        w.dies(0, signalled(9));
        let at = w.now;
        w.run(2);
        assert!(w.forks_of(0).last().is_some_and(|forked| *forked <= at + 1), "{:?}", w.forks_of(0));
        w.run(11_000);
    }
}

#[test]
fn one_looping_slot_is_not_ready_but_alive() {
    let w = World::of(3, Limits { crash_limit: 3, ..Limits::default() });
    let w = w.planned(|slot, _| if slot == 1 { Plan::crashing(1) } else { Plan::default() }).started(2_000);
    let health = w.state.health(w.now);
    assert_eq!((health.live, health.ready), (true, false), "{:?}", health.reasons);
    assert_eq!((health.counts.ready, health.counts.crash_looping), (2, 1));
}

#[test]
fn a_slot_that_never_becomes_ready_is_killed_in_time_and_loops() {
    let hung = Plan { ready: None, after_term: None, ..Plan::default() };
    let mut w = World::of(2, Limits::default())
        .planned(move |slot, _| if slot == 0 { hung.clone() } else { Plan::default() });
    w.tell(Event::Began);
    w.run(59_999);
    assert_eq!(w.slot(0).state, SlotState::Starting);
    w.run(10);
    assert_eq!(w.times(Action::Kill { slot: 0 }), [60_000]);
    assert_eq!(w.slot(0).last_exit.map(|(cause, ..)| cause), Some(Cause::StartupTimeout));
    assert!(w.times(Action::Terminate { slot: 0 }).is_empty());
    // The fifth such start is a loop though the starts alone took five minutes.
    w.run(320_000);
    assert_eq!((w.slot(0).looping, w.ended(Cause::StartupTimeout)), (true, 6));
    assert!(w.slot(1).state == SlotState::Ready && !w.state.health(w.now).ready);
}

#[test]
fn a_replacement_has_a_start_deadline_too() {
    let hung = Plan { ready: None, ..Plan::default() };
    let mut w = World::of(1, Limits::default())
        .planned(move |_, life| if life == 2 { hung.clone() } else { Plan::default() });
    w = w.started(20_000);
    w.dies(0, exited(1));
    w.run(60_010);
    assert_eq!(w.ended(Cause::StartupTimeout), 1);
    w.run(1_000);
    assert_eq!((w.slot(0).state, w.slot(0).incarnation), (SlotState::Ready, 3));
}

#[test]
fn a_permanent_exit_code_is_not_tried_again_until_asked() {
    for code in [64, 78] {
        let plan = Plan { death: Some((5, exited(code))), ready: None, ..Plan::default() };
        let mut w = World::of(2, Limits::default()).planned(first_lives(1, plan)).started(300_000);
        assert_eq!((w.slot(0).state, w.forks_of(0).len()), (SlotState::Failed, 1));
        let health = w.state.health(w.now);
        assert_eq!((health.live, health.ready), (true, false));
        assert_eq!(w.reasons(), [format!("failed:slot=0,code={code}")]);
        w.tell(if code == 64 { Event::Reload } else { Event::Resize { group: 0, want: 2 } });
        w.run(1_000);
        assert_eq!(w.slot(0).state, SlotState::Ready);
        assert!(w.state.health(w.now).ready);
    }
    // One that looped before it failed loops still: being asked for makes nobody healthy.
    let mut w = World::of(1, Limits::default()).planned(|_, life| match life {
        1..6 => Plan::crashing(1),
        6 => Plan { death: Some((5, exited(78))), ready: None, ..Plan::default() },
        _ => Plan::default(),
    });
    w = w.started(20_000);
    assert_eq!(w.slot(0).state, SlotState::Failed);
    w.tell(Event::Reload);
    w.run(1_000);
    assert!(w.slot(0).state == SlotState::Ready && w.slot(0).looping);
    let all = World::of(2, Limits::default()).planned(|_, _| Plan {
        death: Some((5, exited(78))),
        ready: None,
        ..Plan::default()
    });
    let all = all.started(1_000);
    assert!(!all.state.health(all.now).live, "nobody will ever work");
}

#[test]
fn a_signal_or_a_stop_is_no_permanent_exit() {
    let mut w = World::of(1, Limits::default()).started(20_000);
    w.dies(0, Exit { code: 78, signal: 9, ..Exit::default() });
    assert_eq!(w.slot(0).state, SlotState::Starting);
    w.run(20_000);
    w.replan(0, |plan| plan.last = exited(78));
    w.tell(Event::Reload);
    w.run(1_000);
    assert!(w.states().contains(&SlotState::Ready) && !w.states().contains(&SlotState::Failed));
}

#[test]
fn too_many_restarts_in_all_are_said_and_end() {
    // Four workers: more than eight in a minute. None of them loops by itself.
    let limits = Limits { backoff_base_ms: 10, crash_limit: 50, ..Limits::default() };
    let mut w = World::of(4, limits).started(1_000);
    for n in 0..9 {
        assert!(w.times(Action::Intensity(true)).is_empty(), "{n}");
        w.dies(n % 4, signalled(11));
        w.run(1_000);
    }
    assert_eq!(w.times(Action::Intensity(true)), [9_000]);
    assert!(!w.state.health(w.now).live && w.reasons() == ["intensity"]);
    // The first of the nine is a minute old.
    w.run(70_000);
    assert_eq!(w.times(Action::Intensity(false)), [61_000]);
    assert!(w.state.health(w.now).live);
    assert_eq!(w.state.phase(), Phase::Running);
}

#[test]
fn what_the_fleet_does_itself_is_not_intensity() {
    let mut w = World::of(2, Limits { max_items: 10, jitter_pct: 0, ..Limits::default() });
    w = w.planned(|_, _| Plan { items_a_second: 10, ..Plan::default() }).started(60_000);
    w.tell(Event::Reload);
    w.run(10_000);
    assert!(w.ended(Cause::Recycled) > 20 && w.times(Action::Intensity(true)).is_empty());
    assert!((0..3).all(|slot| w.slot(slot).crashes_in_row == 0));
}

#[test]
fn intensity_may_end_the_fleet_with_70() {
    let rules = Rules { exit_on_intensity: true, grace_ms: 5_000, ..Rules::default() };
    let limits = Limits { backoff_base_ms: 0, crash_limit: 50, ..Limits::default() };
    let mut w = World::new(rules, &[(limits, 2)], 3);
    w.plan = Box::new(|slot, _| if slot == 0 { Plan::crashing(1) } else { Plan::default() });
    let w = w.started(60_000);
    assert_eq!(w.code, Some(exit::INTENSITY));
    // One of two crashed: five are too many, and the other one was told to stop.
    assert_eq!((w.ended(Cause::Exit), w.ended(Cause::Stopped)), (5, 1));
}

#[test]
fn slots_that_crash_together_do_not_storm() {
    let w =
        World::of(8, Limits { backoff_base_ms: 0, ..Limits::default() }).planned(|_, _| Plan::crashing(0));
    let w = w.started(10_000);
    let forks: Vec<Ms> =
        w.log.iter().filter(|(_, a)| matches!(a, Action::Fork { .. })).map(|(at, _)| *at).collect();
    assert_eq!(forks.len(), 8 + 20, "eight at once, then two a second");
    // Nobody is left out.
    assert!((0..8).all(|slot| w.forks_of(slot).len() >= 3));
}

#[test]
fn a_first_fork_that_fails_ends_the_fleet() {
    let w = World::of(3, Limits::default())
        .planned(|_, _| Plan { forked: (0, Some(libc::EAGAIN)), ..Plan::default() });
    let w = w.started(10);
    assert_eq!((w.code, w.state.phase()), (Some(exit::FORK), Phase::Stopped));
    assert_eq!(w.reasons()[0], "fork_failed:EAGAIN");
    // One that comes to be after that is not left behind.
    let answers = |slot| (20 * slot as Ms, (slot == 0).then_some(libc::ENOMEM));
    let mut w = World::of(2, Limits::default())
        .planned(move |slot, _| Plan { forked: answers(slot), ..Plan::default() });
    w = w.started(10);
    assert_eq!(w.code, Some(exit::FORK));
    w.sleep(10, false);
    assert_eq!(w.times(Action::Kill { slot: 1 }), [0, 20]);
}

#[test]
fn a_first_fork_that_fails_in_a_fleet_that_runs_does_not() {
    let mut w = World::new(Rules::default(), &[(Limits::default(), 0)], 3).started(1_000);
    w.plan = Box::new(|_, life| Plan { forked: (0, (life < 3).then_some(libc::EAGAIN)), ..Plan::default() });
    w.tell(Event::Resize { group: 0, want: 1 });
    w.run(10_000);
    assert_eq!((w.code, w.slot(0).state, w.slot(0).fork_errors), (None, SlotState::Ready, 2));
}

#[test]
fn a_later_fork_that_fails_is_tried_again() {
    let failing = Plan { forked: (0, Some(libc::EAGAIN)), ..Plan::default() };
    let mut w = World::of(2, Limits::default()).started(20_000);
    w.plan = Box::new(move |_, _| failing.clone());
    w.dies(0, signalled(9));
    w.run(30_000);
    let view = w.slot(0);
    assert!(view.fork_errors > 5 && view.fork_errno == libc::EAGAIN, "{view:?}");
    assert_eq!((view.state, view.crashes_in_row, view.restarts), (SlotState::Backoff, 1, 0));
    assert_eq!(w.ended(Cause::ForkFailed), u64::from(view.fork_errors));
    assert_eq!((w.slot(1).state, w.slot(1).incarnation), (SlotState::Ready, 1));
    assert_eq!(w.reasons(), ["fork_failed:EAGAIN"]);
    assert!(w.state.health(w.now).ready && w.code.is_none());
    w.plan = Box::new(|_, _| Plan::default());
    w.run(31_000);
    assert_eq!((w.slot(0).state, w.slot(0).restarts), (SlotState::Ready, 1));
    assert!(w.reasons().is_empty());
}

#[test]
fn a_zygote_that_does_not_answer_is_not_waited_for() {
    let mut w = World::of(1, Limits { start_deadline_ms: 1_000, ..Limits::default() }).started(20_000);
    w.plan =
        Box::new(|_, life| Plan { forked: (if life == 2 { 10_000 } else { 0 }, None), ..Plan::default() });
    w.dies(0, signalled(9));
    w.run(1_000);
    assert_eq!(w.times(Action::Kill { slot: 0 }), [21_000]);
    w.run(2_100);
    // Its slot cannot be given away: the child may come yet. Its seat can.
    assert_eq!(w.states(), [SlotState::Abandoned, SlotState::Ready]);
    w.run(10_000);
    assert_eq!(w.times(Action::Kill { slot: 0 }), [21_000, 30_000], "killed as it comes");
    assert_eq!(w.states(), [SlotState::Empty, SlotState::Ready]);
}

#[test]
fn adopted_workers_are_kept() {
    let mut w = World::of(2, Limits::default());
    w.adopt(0, 0, 7, true);
    w.adopt(2, 5, 3, true);
    let mut w = w.started(1_000);
    assert_eq!(w.states(), [SlotState::Ready, SlotState::Ready, SlotState::Empty]);
    assert_eq!((w.slot(0).incarnation, w.forks_of(0).len(), w.forks_of(1)), (7, 0, vec![0]));
    assert_eq!(w.times(Action::Terminate { slot: 2 }), [0], "its group is no more");
    w.dies(0, signalled(9));
    w.run(1_000);
    assert_eq!((w.slot(0).incarnation, w.slot(0).restarts), (8, 1));
}
