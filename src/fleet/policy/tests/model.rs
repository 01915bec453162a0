//! Random fleets, random children, random events: what `World` checks at every step, and that a fleet whose workers are
//! good again is well again.

use super::super::dice::Dice;
use super::world::{Plan, World, exited, signalled};
use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Run(Ms),
    Sleep(Ms, bool),
    Reload,
    Resize(usize, u32),
    StopGroup(usize, Ms),
    AddGroup(u32),
    Pause(bool),
    Stop(Option<Ms>),
    Quick,
}

#[derive(Clone, Debug)]
struct Fleet {
    seed: u64,
    rules: Rules,
    groups: Vec<(Limits, u32)>,
    spare: usize,
    /// Workers that an earlier supervisor left: slot, group, whether ready.
    left: Vec<(usize, usize, bool)>,
    /// How bad its children are, in per cent.
    bad: u64,
    ops: Vec<Op>,
}

fn one_of<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[dice.upto(of.len() as u64 - 1) as usize]
}

/// Some life or other.
fn plan(dice: &mut Dice, bad: u64) -> Plan {
    let mut plan = Plan { ready: Some(dice.upto(300)), after_term: Some(dice.upto(50)), ..Plan::default() };
    plan.items_a_second = dice.upto(20);
    plan.rss_a_second = dice.upto(50);
    if dice.upto(99) >= bad {
        return plan;
    }
    let exits =
        [exited(0), exited(1), exited(78), signalled(11), Exit { signal: 9, oom: true, ..Exit::default() }];
    let some = one_of(dice, &[10, 1_000, 15_000, 60_000]);
    let when = dice.upto(some);
    match dice.upto(13) {
        0..=2 => plan = Plan { ready: None, death: Some((when / 10, one_of(dice, &exits))), ..plan },
        3 | 4 => plan.death = Some((when, one_of(dice, &exits))),
        5 => plan.hang = Some((when, Ms::MAX)),
        6 => plan.hang = Some((when, when + dice.upto(10_000))),
        7 => plan.ready = None,
        8 => {
            plan.item = Some((when, when + dice.upto(20_000), one_of(dice, &[None, Some(500), Some(5_000)])))
        }
        9 => plan.forked = (dice.upto(2_000), None),
        10 => plan.forked = (dice.upto(20), Some(libc::EAGAIN)),
        11 => plan.forked = (dice.upto(6_000), Some(libc::ENOMEM)),
        12 => (plan.ready, plan.hang) = (None, Some((when, when + dice.upto(10_000)))),
        _ => plan.silent = true,
    }
    match dice.upto(9) {
        0 | 1 => plan.after_term = None,
        2 => (plan.after_term, plan.after_kill) = (None, Some(dice.upto(10_000))),
        3 => (plan.after_term, plan.after_kill) = (Some(dice.upto(9_000)), None),
        _ => {}
    }
    plan
}

fn limits() -> impl Strategy<Value = Limits> {
    let ms = |of: &'static [Ms]| proptest::sample::select(of);
    let times =
        (ms(&[0, 400, 3_000, 30_000]), ms(&[0, 1_000, 60_000]), ms(&[0, 1_000]), ms(&[0, 100, 1_000]));
    let row = (ms(&[1_000, 30_000]), ms(&[0, 2_000, 10_000]), ms(&[0, 5_000, 60_000]), 0u32..6);
    let most =
        (ms(&[0, 0, 50]), ms(&[0, 0, 20_000]), ms(&[0, 0, 300]), ms(&[0, 200, 1_000]), ms(&[0, 500, 5_000]));
    (times, row, most).prop_map(|(times, row, most)| Limits {
        stale_ms: times.0,
        start_deadline_ms: times.1,
        item_deadline_ms: times.2,
        backoff_base_ms: times.3,
        backoff_cap_ms: row.0,
        healthy_after_ms: row.1,
        crash_window_ms: row.2,
        crash_limit: row.3,
        max_items: most.0,
        max_age_ms: most.1,
        max_rss_kb: most.2,
        dump_ms: most.3,
        kill_ms: most.4,
        ..Limits::default()
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0u32..15).prop_map(|bits| Op::Run(1 << bits)),
        1 => (1u64..20_000, any::<bool>()).prop_map(|(ms, said)| Op::Sleep(ms, said)),
        2 => Just(Op::Reload),
        3 => (0usize..3, 0u32..6).prop_map(|(group, want)| Op::Resize(group, want)),
        1 => (0usize..3, 0u64..4_000).prop_map(|(group, grace)| Op::StopGroup(group, grace)),
        1 => (0u32..3).prop_map(Op::AddGroup),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => proptest::option::of(0u64..30_000).prop_map(Op::Stop),
        1 => Just(Op::Quick),
    ]
}

fn fleet() -> impl Strategy<Value = Fleet> {
    let rules = (0u32..3, 0u32..3, 0u64..6_000, 0u32..20, any::<bool>()).prop_map(|r| Rules {
        surge: r.0,
        max_unavailable: r.1,
        grace_ms: r.2,
        intensity: r.3,
        exit_on_intensity: r.4 && r.3 > 10,
        ..Rules::default()
    });
    let groups = proptest::collection::vec((limits(), 0u32..5), 1..3);
    let left = proptest::collection::vec((0usize..6, 0usize..4, any::<bool>()), 0..3);
    let ops = proptest::collection::vec(op(), 1..25);
    (any::<u64>(), rules, groups, 0usize..3, left, 0u64..100, ops).prop_map(
        |(seed, rules, groups, spare, left, bad, ops)| Fleet { seed, rules, groups, spare, left, bad, ops },
    )
}

fn live(fleet: Fleet) {
    let wanted: u32 = fleet.groups.iter().map(|(_, want)| want).sum();
    let slots = (wanted + fleet.rules.surge) as usize + fleet.spare;
    let mut w = World::new(fleet.rules, &fleet.groups, slots);
    let mut dice = World::dice(fleet.seed);
    let mut first = true;
    w.plan = Box::new(move |_, _| {
        let mut plan = plan(&mut dice, fleet.bad);
        if std::mem::take(&mut first) {
            // A first fork that fails is a fleet that ends; a scenario has it.
            plan.forked = (0, None);
        }
        plan
    });
    for (slot, group, ready) in fleet.left {
        w.adopt(slot, group, 5, ready);
    }
    w.tell(Event::Began);
    let mut told = false;
    for op in fleet.ops {
        if w.code.is_some() {
            break;
        }
        match op {
            Op::Run(ms) => w.run(ms),
            // A drain's end is not kept by a supervisor that sleeps.
            Op::Sleep(ms, said) if w.over_by.is_none() => w.sleep(ms, said),
            Op::Sleep(..) => {}
            Op::Reload => w.tell(Event::Reload),
            Op::Resize(group, want) => w.tell(Event::Resize { group, want }),
            Op::StopGroup(group, grace) => w.tell(Event::StopGroup { group, grace_ms: Some(grace) }),
            Op::AddGroup(want) => {
                let _ = w.add_group(Limits::default(), want);
            }
            Op::Pause(pause) => w.tell(Event::Pause(pause)),
            Op::Stop(grace_ms) => w.tell(Event::Stop { grace_ms }),
            Op::Quick => w.tell(Event::Quick),
        }
        told |= w.over_by.is_some();
    }
    if !told && w.code.is_none() {
        well_again(&mut w);
    }
    if w.code.is_none() {
        w.tell(Event::Stop { grace_ms: None });
        w.end();
    }
    assert!(w.state.health(w.now).reasons.contains(&Reason::Draining));
}

/// Good workers, and time: everyone who is wanted is there, and the probes say so.
fn well_again(w: &mut World) {
    w.everyone_good();
    for group in 0..w.state.groups() {
        let want = w.state.group(group).unwrap().want;
        w.tell(Event::Resize { group, want });
    }
    w.tell(Event::Pause(false));
    w.run(90_000);
    // While some are recycled not all are there at once, so it is each group's best moment that counts.
    let mut best = vec![0; w.state.groups()];
    for _ in 0..40 {
        w.run(500);
        for (group, best) in best.iter_mut().enumerate() {
            *best = w.state.group(group).unwrap().ready.max(*best);
        }
    }
    if w.code.is_some() {
        return;
    }
    for (group, best) in best.into_iter().enumerate() {
        let view = w.state.group(group).unwrap();
        assert_eq!(best, view.want, "group {group}: {view:?} {:?}", w.states());
        assert!(view.old == 0 || view.roll_stopped, "group {group}: {view:?} {:?}", w.states());
    }
    let (health, start) = (w.state.health(w.now), w.state.phase());
    assert!(health.live, "{health:?}");
    assert_eq!(
        (health.counts.failed, health.counts.crash_looping, health.counts.abandoned),
        (0, 0, 0),
        "{health:?}"
    );
    assert_eq!(start, Phase::Running);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(fleet in fleet()) {
        live(fleet);
    }
}

/// No row of the table is there in vain: each is gone through.
#[test]
fn every_row_of_the_table_is_taken() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let missing = || {
        PASSED.with_borrow(|passed| {
            table::TABLE.iter().filter(|row| !passed.contains(*row)).copied().collect::<Vec<_>>()
        })
    };
    // Too seldom to wait for.
    super::rolling::one_that_cannot_be_killed_while_it_is_replaced_keeps_its_seat_if_no_slot_is_free();
    for n in 0..3_000 {
        if n % 100 == 0 && missing().is_empty() {
            return;
        }
        live(fleet().new_tree(&mut runner).unwrap().current());
    }
    panic!("never taken: {:?}", missing());
}
