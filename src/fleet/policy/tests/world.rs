//! What the supervisor is in life: it does what the policy says, and tells it what happened. Children do as planned.
//! What must hold at every action and after every step is checked in here, whatever the test is about.

use super::super::dice::Dice;
use super::super::slot::UNDEAD_MS;
use super::*;
use std::collections::BTreeMap;

/// How a child is going to live. Times are from its fork.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When the fork is answered, and with what error.
    pub forked: (Ms, Option<i32>),
    pub ready: Option<Ms>,
    /// Its own end, unless it is stopped before.
    pub death: Option<(Ms, Exit)>,
    /// No beats from the first on, and again from the second on.
    pub hang: Option<(Ms, Ms)>,
    /// It never beats at all.
    pub silent: bool,
    /// An item: from, to, and the deadline that the worker itself gives it (a span).
    pub item: Option<(Ms, Ms, Option<Ms>)>,
    pub items_a_second: u64,
    pub rss_a_second: u64,
    /// How long it lives on after TERM and after KILL; `None`: for ever.
    pub after_term: Option<Ms>,
    pub after_kill: Option<Ms>,
    /// How it ends after TERM.
    pub last: Exit,
}

pub fn exited(code: i32) -> Exit {
    Exit { code, ..Exit::default() }
}

pub fn signalled(signal: i32) -> Exit {
    Exit { signal, ..Exit::default() }
}

impl Default for Plan {
    /// A good worker.
    fn default() -> Plan {
        Plan {
            forked: (0, None),
            ready: Some(20),
            death: None,
            hang: None,
            silent: false,
            item: None,
            items_a_second: 0,
            rss_a_second: 0,
            after_term: Some(5),
            after_kill: Some(1),
            last: exited(0),
        }
    }
}

impl Plan {
    pub fn crashing(after: Ms) -> Plan {
        Plan { ready: None, death: Some((after, exited(1))), ..Plan::default() }
    }
}

#[derive(Debug)]
struct Kid {
    plan: Plan,
    group: usize,
    born: Ms,
    reported: bool,
    said_ready: bool,
    terminated: Option<Ms>,
    warned: bool,
    killed: Option<Ms>,
}

impl Kid {
    fn forked_at(&self) -> Ms {
        self.born + self.plan.forked.0
    }

    fn ready_at(&self) -> Option<Ms> {
        let at = self.born + self.plan.ready?;
        (!self.said_ready).then_some(at)
    }

    fn death(&self) -> Option<(Ms, Exit)> {
        let own = self.plan.death.map(|(at, exit)| (self.born + at, exit));
        let told = self.terminated.zip(self.plan.after_term).map(|(at, more)| (at + more, self.plan.last));
        let killed = self.killed.zip(self.plan.after_kill).map(|(at, more)| (at + more, signalled(9)));
        [own, told, killed].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When it does something next.
    fn next(&self) -> Option<Ms> {
        if !self.reported {
            return Some(self.forked_at());
        }
        self.ready_at().into_iter().chain(self.death().map(|(at, _)| at)).min()
    }

    fn seen(&self, now: Ms) -> Seen {
        let age = now - self.born;
        let alive = match self.plan.hang {
            Some((from, to)) if (from..to).contains(&age) => from,
            _ => age,
        };
        let item = self.plan.item.filter(|(from, to, _)| (*from..*to).contains(&age));
        Seen {
            beat_ms: (!self.plan.silent && alive >= 1).then(|| self.born + alive / 100 * 100),
            items_done: self.plan.items_a_second * age / 1000,
            item_started_ms: item.map(|(from, _, _)| self.born + from),
            item_deadline_ms: item.and_then(|(from, _, span)| Some(self.born + from + span?)),
            rss_kb: self.plan.rss_a_second * age / 1000,
            busy: item.is_some() || self.plan.items_a_second > 0,
        }
    }
}

pub struct World {
    pub state: State,
    pub rules: Rules,
    pub now: Ms,
    pub log: Vec<(Ms, Action)>,
    pub plan: Box<dyn FnMut(usize, u64) -> Plan>,
    pub wakeups: u32,
    pub code: Option<i32>,
    kids: BTreeMap<usize, Kid>,
    /// When forks were asked for, and how many at most could be wanted in all from the beginning on.
    forks: Vec<Ms>,
    pub most_forks: u32,
    /// Slots whose child was stopped to be started anew and is not ready again, by group.
    down: BTreeMap<usize, usize>,
    /// When the fleet is to be over at the latest, once it was told to end.
    pub over_by: Option<Ms>,
    pub limits: Vec<Limits>,
}

pub const START: Ms = 1_000_000;

impl World {
    pub fn new(rules: Rules, groups: &[(Limits, u32)], slots: usize) -> World {
        let mut state = State::new(rules.clone(), slots, 42);
        for (limits, want) in groups {
            state.add_group(limits.clone(), *want).unwrap();
        }
        World {
            most_forks: state.wanted().max(1),
            state,
            rules,
            now: START,
            log: Vec::new(),
            plan: Box::new(|_, _| Plan::default()),
            wakeups: 0,
            code: None,
            kids: BTreeMap::new(),
            forks: Vec::new(),
            down: BTreeMap::new(),
            over_by: None,
            limits: groups.iter().map(|(limits, _)| limits.clone()).collect(),
        }
    }

    /// One group of `want` with default rules, and a slot to spare.
    pub fn of(want: u32, limits: Limits) -> World {
        World::new(Rules::default(), &[(limits, want)], want as usize + 1)
    }

    pub fn planned(mut self, plan: impl FnMut(usize, u64) -> Plan + 'static) -> World {
        self.plan = Box::new(plan);
        self
    }

    /// Begun, and gone on for `ms`.
    pub fn started(mut self, ms: Ms) -> World {
        self.tell(Event::Began);
        self.run(ms);
        self
    }

    pub fn add_group(&mut self, limits: Limits, want: u32) -> Result<usize, Full> {
        let added = self.state.add_group(limits.clone(), want)?;
        self.limits.push(limits);
        self.most_forks += want;
        Ok(added)
    }

    /// One event, in a batch of its own.
    pub fn tell(&mut self, event: Event) {
        self.step(event);
        self.batch();
    }

    fn step(&mut self, event: Event) {
        let before: Vec<SlotView> = (0..self.state.slots()).map(|i| self.state.slot(i)).collect();
        let (wanted, was) = (self.state.wanted(), self.state.drain_deadline());
        let mut out = Vec::new();
        self.state.step(event, self.now, &mut out);
        self.most_forks += self.state.wanted().saturating_sub(wanted);
        if let Some(deadline) = self.state.drain_deadline() {
            assert!(was.is_none_or(|was| deadline <= was), "a drain got longer");
            self.over_by = Some(deadline + UNDEAD_MS);
        }
        let mut changed = BTreeSet::new();
        for action in out {
            self.log.push((self.now, action));
            if let Action::Changed { slot } = action {
                assert!(changed.insert(slot), "two lines about slot {slot} in one step");
            }
            self.obey(event, action, &before);
        }
        for (i, was) in before.iter().enumerate() {
            let is = self.state.slot(i);
            let shown =
                |v: &SlotView| (v.state, v.group, v.crashes_in_row, v.looping, v.not_before, v.replaces);
            let said = shown(&is) == shown(was);
            assert!(said || changed.contains(&i), "slot {i} changed unsaid: {was:?} {is:?}");
            assert!(is.incarnation >= was.incarnation && is.restarts >= was.restarts);
            if is.state == SlotState::Ready {
                self.down.remove(&i);
            }
            if is.group != was.group || is.retiring {
                self.down.remove(&i);
            }
        }
        self.check(event);
    }

    fn obey(&mut self, event: Event, action: Action, before: &[SlotView]) {
        let harmless = matches!(action, Action::Kill { .. } | Action::Changed { .. });
        assert!(self.code.is_none() || harmless, "{action:?} after the exit");
        match action {
            Action::Fork { slot, group, incarnation } => {
                assert_eq!(self.state.phase() as u32 & 2, 0, "a fork while draining");
                assert!(slot < self.state.slots() && group < self.state.groups());
                assert!(!self.kids.contains_key(&slot), "slot {slot} has a child");
                assert!(incarnation > before[slot].incarnation);
                let is = self.state.slot(slot);
                // Reload tries at once; a slot that is taken for something else has no such past.
                let same = (is.group, is.replaces) == (before[slot].group, before[slot].replaces);
                let due = before[slot].not_before.filter(|_| same && event != Event::Reload);
                assert!(
                    due.is_none_or(|at| at <= self.now),
                    "slot {slot} forked before {due:?}: {event:?} {:?}",
                    before[slot]
                );
                self.forks.push(self.now);
                let plan = (self.plan)(slot, incarnation);
                let kid = Kid {
                    plan,
                    group,
                    born: self.now,
                    reported: false,
                    said_ready: false,
                    terminated: None,
                    warned: false,
                    killed: None,
                };
                self.kids.insert(slot, kid);
            }
            Action::Terminate { slot } => {
                let kid = self.kids.get_mut(&slot).expect("TERM to nobody");
                assert!(kid.terminated.is_none() && kid.killed.is_none() && kid.reported, "{kid:?}");
                kid.terminated = Some(self.now);
                let rolled =
                    matches!(self.state.slot(slot).stopping, Some(Cause::Recycled | Cause::Reloaded));
                let follows =
                    matches!(event, Event::Ready { slot: new } if before[new].replaces == Some(slot));
                if rolled && !follows && self.state.slot(slot).state == SlotState::Stopping {
                    self.down.insert(slot, kid.group);
                }
            }
            Action::Warn { slot } => {
                let kid = self.kids.get_mut(&slot).expect("a warning to nobody");
                assert!(
                    !std::mem::replace(&mut kid.warned, true)
                        && kid.killed.is_none()
                        && kid.terminated.is_some()
                );
            }
            Action::Dump { slot } => {
                assert!(
                    self.kids[&slot].terminated.is_none() && self.state.slot(slot).state == SlotState::Stale
                );
            }
            Action::Kill { slot } => {
                let kid = self.kids.get_mut(&slot).expect("KILL to nobody");
                assert!(
                    kid.killed.is_none()
                        || !before[slot].state.live()
                        || matches!(event, Event::Forked { .. })
                );
                // Nobody can be killed who is not there yet.
                kid.killed = kid.reported.then_some(self.now);
            }
            Action::Exit { code } => {
                self.code = Some(code);
                let left =
                    (0..self.state.slots()).filter(|i| self.state.slot(*i).state == SlotState::Abandoned);
                assert!(code == 71 || left.eq(self.kids.keys().copied()), "left behind unsaid");
            }
            Action::Changed { slot } => assert!(slot < self.state.slots()),
            Action::Pause(_) | Action::PhaseChanged | Action::Intensity(_) => {}
        }
    }

    /// What holds after every step.
    fn check(&self, event: Event) {
        let views: Vec<SlotView> = (0..self.state.slots()).map(|i| self.state.slot(i)).collect();
        let health = self.state.health(self.now);
        for (i, view) in views.iter().enumerate() {
            assert_eq!(view.state.live(), self.kids.contains_key(&i), "slot {i}: {view:?}");
            let orphan = view.stopping == Some(Cause::Stopped);
            assert!(view.group.is_some() != (view.state == SlotState::Empty) || orphan, "{view:?}");
            if let (Event::Died { slot, .. }, Some(at), Some(group)) = (event, view.not_before, view.group) {
                let bound = backoff::bound(&self.limits[group], view.crashes_in_row);
                assert!(slot != i || at <= self.now + bound, "slot {i} waits until {at}, more than {bound}");
            }
        }
        let seats =
            views.iter().filter(|view| view.group.is_some() && view.replaces.is_none() && !view.retiring);
        let mut seats = seats.peekable();
        let draining = self.state.drain_deadline().is_some();
        if seats.peek().is_some() && seats.all(|view| view.looping) && self.state.wanted() > 0 && !draining {
            assert!(!health.live && !health.ready, "every slot loops: {health:?}");
        }
        if health.ready {
            assert!(health.counts.ready > 0 || self.state.wanted() == 0);
            assert!(!views.iter().any(|view| view.looping || view.state == SlotState::Failed));
        }
        for group in 0..self.state.groups() {
            let most = self.state.group(group).unwrap().want + self.rules.surge;
            let views = views.iter().filter(|view| view.group == Some(group) && view.stopping.is_none());
            let begun = !matches!(event, Event::Adopted { .. });
            let count = views.filter(|view| view.state.live()).count();
            assert!(!begun || count <= most as usize, "too many of {group}");
            let down = self.down.values().filter(|of| **of == group).count();
            assert!(
                down <= self.rules.max_unavailable.max(1) as usize,
                "group {group}: {:?} down",
                self.down
            );
        }
        // In any time, no more forks than may come at once and two a second.
        if let Some(last) = self.forks.last().filter(|last| **last == self.now) {
            for (n, first) in self.forks.iter().rev().enumerate().skip(1).take(300) {
                let most = u64::from(self.most_forks) + (last - first) / 500;
                assert!(n as u64 <= most, "{} forks in {} ms", n + 1, last - first);
            }
        }
        if event == Event::Passed && self.code.is_none() {
            let next = self.state.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "{next:?} is not after {}", self.now);
        }
        if let Some(by) = self.over_by {
            assert!(self.code.is_some() || self.now < by || event != Event::Passed, "not over by {by}");
        }
    }

    /// Whatever is due at this time, then what the board says, then time.
    fn batch(&mut self) {
        self.wakeups += 1;
        while let Some((slot, event)) = self.due() {
            self.happen(slot, event);
        }
        let seen: Vec<_> =
            self.kids.iter().filter(|(_, kid)| kid.reported).map(|(i, k)| (*i, k.seen(self.now))).collect();
        for (slot, seen) in seen {
            self.step(Event::Seen { slot, seen });
        }
        self.step(Event::Passed);
    }

    fn due(&self) -> Option<(usize, Event)> {
        let now = self.now;
        self.kids.iter().find_map(|(i, kid)| {
            let slot = *i;
            let event = if !kid.reported {
                (kid.forked_at() <= now).then_some(match kid.plan.forked.1 {
                    Some(errno) => Event::ForkFailed { slot, errno },
                    None => Event::Forked { slot },
                })
            } else if let Some((_, exit)) = kid.death().filter(|(at, _)| *at <= now) {
                Some(Event::Died { slot, exit })
            } else {
                kid.ready_at().filter(|at| *at <= now).map(|_| Event::Ready { slot })
            };
            event.map(|event| (slot, event))
        })
    }

    fn happen(&mut self, slot: usize, event: Event) {
        match event {
            Event::Forked { .. } => self.kids.get_mut(&slot).unwrap().reported = true,
            Event::Ready { .. } => self.kids.get_mut(&slot).unwrap().said_ready = true,
            _ => {
                self.kids.remove(&slot);
            }
        }
        self.step(event);
    }

    /// Goes on for `ms`.
    pub fn run(&mut self, ms: Ms) {
        let until = self.now + ms;
        let mut same = 0;
        while self.code.is_none() {
            let kids = self.kids.values().filter_map(Kid::next).min();
            let Some(next) =
                self.state.next_deadline().into_iter().chain(kids).min().filter(|at| *at <= until)
            else {
                break;
            };
            same = if next <= self.now { same + 1 } else { 0 };
            assert!(same < 1_000, "a busy loop at {}", self.now);
            self.now = self.now.max(next);
            self.batch();
        }
        self.now = until;
    }

    /// Stands still for `ms`, as a supervisor does that was stopped; then it says so, if `said`.
    pub fn sleep(&mut self, ms: Ms, said: bool) {
        self.now += ms;
        if said {
            self.step(Event::Late { by: ms });
        }
        self.batch();
    }

    /// Until the exit code.
    pub fn end(&mut self) -> i32 {
        let by = self.over_by.expect("it was told to end");
        self.run(by.saturating_sub(self.now));
        self.code.expect("it is over")
    }

    // ---- what tests ask ----

    pub fn slot(&self, slot: usize) -> SlotView {
        self.state.slot(slot)
    }

    /// When `action` was given, since the start.
    pub fn times(&self, action: Action) -> Vec<Ms> {
        self.log.iter().filter(|(_, a)| *a == action).map(|(at, _)| at - START).collect()
    }

    /// When a slot's children were asked for, since the start.
    pub fn forks_of(&self, slot: usize) -> Vec<Ms> {
        let of = |a: &Action| matches!(a, Action::Fork { slot: of, .. } if *of == slot);
        self.log.iter().filter(|(_, a)| of(a)).map(|(at, _)| at - START).collect()
    }

    pub fn reasons(&self) -> Vec<String> {
        self.state.health(self.now).reasons.iter().map(Reason::to_string).collect()
    }

    pub fn states(&self) -> Vec<SlotState> {
        (0..self.state.slots()).map(|i| self.state.slot(i).state).collect()
    }

    pub fn ended(&self, cause: Cause) -> u64 {
        self.state.ended()[cause as usize]
    }

    /// A child ends by this, now.
    pub fn dies(&mut self, slot: usize, exit: Exit) {
        self.kids.remove(&slot).expect("there is a child");
        self.step(Event::Died { slot, exit });
        self.batch();
    }

    /// Changes what a living child has before it.
    pub fn replan(&mut self, slot: usize, change: impl FnOnce(&mut Plan)) {
        change(&mut self.kids.get_mut(&slot).expect("there is a child").plan);
    }

    pub fn everyone_good(&mut self) {
        self.plan = Box::new(|_, _| Plan::default());
        for kid in self.kids.values_mut() {
            let age = self.now.saturating_sub(kid.born);
            let (answer, error) = kid.plan.forked;
            kid.plan = Plan {
                forked: if kid.reported { (answer, error) } else { (answer.min(age), error) },
                ready: Some(if kid.said_ready { 0 } else { age }),
                ..Plan::default()
            };
        }
    }

    /// One that an earlier supervisor left.
    pub fn adopt(&mut self, slot: usize, group: usize, incarnation: u64, ready: bool) {
        if slot >= self.state.slots() || self.kids.contains_key(&slot) {
            return;
        }
        let kid = Kid {
            plan: Plan::default(),
            group,
            born: self.now,
            reported: true,
            said_ready: ready,
            terminated: None,
            warned: false,
            killed: None,
        };
        self.kids.insert(slot, kid);
        self.step(Event::Adopted { slot, group, incarnation, ready });
    }

    pub fn dice(seed: u64) -> Dice {
        Dice::new(seed)
    }
}
