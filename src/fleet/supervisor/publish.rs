//! What the supervisor writes on the board, and the lines it says.
//!
//! Invariants:
//! - The board shows what the policy thinks, no more and no less: a slot is written whenever its view there changed, under its
//!   number, and the header at the end of each turn. So whoever reads it needs nothing of this process.
//! - What a worker must see before it is signalled is written before.
#![forbid(unsafe_code)]

use super::super::policy::{Cause, Exit, Health, Ms, Phase, SlotState, SlotView};
use super::super::say;
use super::{Entry, Inner};
use crate::board::layout::{Slot, flag, verdict};
use crate::board::scoreboard::{put_text, text_of};
use crate::board::seqlock;
use crate::platform::{clock, process, signals};
use std::sync::atomic::{AtomicU64, Ordering};

const NS: u64 = 1_000_000;

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// What does not change while it runs.
pub fn header(inner: &Inner) {
    let h = inner.board.header();
    for (room, name) in h.counter_names.iter().zip(&inner.settings.counters) {
        put_text(room, name);
    }
    let stale = inner.entries.iter().map(|entry| entry.group.limits.stale_ms).max().unwrap_or(0);
    set(&h.stale_ms, stale);
    h.want.store(inner.policy.wanted(), Ordering::Relaxed);
}

/// The fleet as it is at the end of a turn.
pub fn all(inner: &mut Inner, now: Ms) {
    for slot in 0..inner.running.len() {
        let view = inner.policy.slot(slot);
        if inner.shown.get(slot) != Some(&view) {
            self::slot(inner, slot);
        }
    }
    let health = inner.policy.health(now);
    let h = inner.board.header();
    let bits = if health.live { verdict::LIVE } else { 0 } | if health.ready { verdict::READY } else { 0 };
    h.verdict.store(bits, Ordering::Relaxed);
    h.want.store(health.counts.want, Ordering::Relaxed);
    let reasons: Vec<String> = health.reasons.iter().map(ToString::to_string).collect();
    if inner.reasons != reasons {
        let mut text = String::new();
        // Whole ones, as many as there is room for.
        for reason in &reasons {
            let line = if text.is_empty() { reason.clone() } else { format!("\n{reason}") };
            if text.len() + line.len() > size_of_val(&h.reasons) {
                break;
            }
            text.push_str(&line);
        }
        put_text(&h.reasons, &text);
        inner.reasons = reasons;
    }
    for (cause, (count, before)) in inner.policy.ended().into_iter().zip(inner.carried).enumerate() {
        // Whom the fleet itself let go has no successor.
        let counts = cause != Cause::Stopped as usize && cause != Cause::Resized as usize;
        if let Some(room) = h.restarts.get(cause).filter(|_| counts) {
            set(room, before + count);
        }
    }
    manager(inner, &health);
}

/// The service manager: ready once, ready again when a reload is done, and a line of status whenever it is another one.
fn manager(inner: &mut Inner, health: &Health) {
    let Some(notify) = inner.notify.as_ref().filter(|_| inner.policy.phase() != Phase::Draining) else {
        return;
    };
    let mut text = format!("{} of {} workers are ready", health.counts.ready, health.counts.want);
    for reason in &inner.reasons {
        // Without what changes each second.
        text += &format!("; {}", reason.split(',').next().unwrap_or(reason));
    }
    let groups = (0..inner.policy.groups()).filter_map(|group| inner.policy.group(group));
    let reloaded =
        inner.reloading && inner.heir.is_none() && groups.into_iter().all(|g| g.old == 0 || g.roll_stopped);
    if (health.ready && !inner.said_ready) || reloaded {
        notify.ready(&text);
    } else if inner.said_ready && !inner.reloading && text != inner.said_status {
        notify.status(&text);
    }
    inner.reloading &= !reloaded;
    inner.said_ready |= health.ready;
    inner.said_status = text;
}

/// One slot as the policy sees it.
pub fn slot(inner: &mut Inner, index: usize) {
    let view = inner.policy.slot(index);
    let Some(place) = inner.board.slot(index) else { return };
    let s = &place.supervised;
    let running = inner.running.get(index).and_then(Option::as_ref);
    let running = running.map(|running| (running.child.pid(), running.forked_ns));
    let name = view.group.and_then(|g| inner.entries.get(g)).map(|entry| entry.name.as_str());
    seqlock::write(&s.seq, || {
        let half = |word: &std::sync::atomic::AtomicU32, value: u32| word.store(value, Ordering::Relaxed);
        half(&s.state, view.state as u32);
        half(&s.group, view.group.map_or(u32::MAX, |g| g as u32));
        set(&s.incarnation, view.incarnation);
        set(&s.ready_ns, view.ready_at.map_or(0, |ms| ms * NS));
        set(&s.not_before_ns, view.not_before.map_or(0, |ms| ms * NS));
        half(
            &s.restarts,
            view.restarts.wrapping_add(inner.carried_restarts.get(index).copied().unwrap_or(0)),
        );
        half(&s.crashes, view.crashes_in_row);
        half(&s.fork_errors, view.fork_errors);
        if let Some((cause, exit, at)) = view.last_exit {
            half(&s.exit_code, exit.code as u32);
            half(&s.exit_signal, exit.signal as u32);
            half(&s.exit_bits, u32::from(exit.core) | u32::from(exit.oom) << 1);
            half(&s.exit_cause, cause as u32);
            set(&s.ended_ns, at * NS);
        }
        if let Some(name) = name {
            put_text(&s.name, name);
        }
        half(&s.pid, running.map_or(0, |(pid, _)| pid));
        if let Some((_, forked_ns)) = running {
            set(&s.forked_ns, forked_ns);
        }
    });
    if let Some(room) = inner.shown.get_mut(index) {
        *room = view;
    }
}

/// Make the worker's part of a slot ready for a new one. Nobody writes there now.
pub fn blank(inner: &mut Inner, index: usize, group: usize, incarnation: u64) {
    if let Some(held) = inner.held.get_mut(index)
        && held.replace(group).is_some_and(|before| before != group)
    {
        fold(inner, index);
    }
    let Some(place) = inner.board.slot(index) else { return };
    let w = &place.working;
    seqlock::write(&w.seq, || {
        w.pid.store(0, Ordering::Relaxed);
        w.flags.store(0, Ordering::Relaxed);
        w.loop_lag_us.store(0, Ordering::Relaxed);
        for word in [&w.beat_ns, &w.ready_ns, &w.item_started_ns, &w.item_deadline_ns] {
            set(word, 0);
        }
        put_text(&w.doing, "");
        set(&w.incarnation, incarnation);
    });
    for lease in &place.leases {
        set(&lease.token, 0);
    }
    set(&place.rss_kb, 0);
}

/// Another group takes the slot: what was counted there stays in the fleet's sums.
fn fold(inner: &mut Inner, index: usize) {
    let Some(place) = inner.board.slot(index) else { return };
    let h = inner.board.header();
    let sums = h.folded.iter().chain(&h.folded_histogram).chain([&h.folded_us]);
    let parts = place.counters.iter().chain(&place.histogram).chain([&place.item_us]);
    for (sum, part) in sums.zip(parts) {
        set(sum, sum.load(Ordering::Relaxed) + part.swap(0, Ordering::Relaxed));
    }
    for count in &place.clients {
        set(count, 0);
    }
    let shown = inner.policy.slot(index).restarts;
    if let Some(carried) = inner.carried_restarts.get_mut(index) {
        // The first worker that the new group has there is no restart, though the slot has had others.
        *carried = 0u32.wrapping_sub(shown + 1);
    }
}

/// A worker is there.
pub fn born(inner: &mut Inner, index: usize, pid: u32) {
    slot(inner, index);
    let view = inner.policy.slot(index);
    let text = format!("{}: worker {pid} starts (number {})", place_name(inner, index), view.incarnation);
    say::info(&inner.settings.name, &text);
}

/// The slot of a worker that runs without a supervisor.
pub fn inline(place: &Slot, entries: &[Entry]) {
    let s = &place.supervised;
    seqlock::write(&s.seq, || {
        s.state.store(SlotState::Ready as u32, Ordering::Relaxed);
        s.pid.store(process::pid(), Ordering::Relaxed);
        set(&s.incarnation, 1);
        set(&s.forked_ns, clock::monotonic_ns());
        if let Some(entry) = entries.first() {
            put_text(&s.name, &entry.name);
        }
    });
}

fn place_name(inner: &Inner, index: usize) -> String {
    format!("slot {index} ({})", group_name(inner, index))
}

/// The name of the group whose slot it is, or was last.
fn group_name(inner: &Inner, index: usize) -> String {
    inner.board.slot(index).map_or_else(String::new, |place| text_of(&place.supervised.name))
}

/// `SIGKILL`, `status 3`.
fn how(cause: Cause, exit: Exit) -> String {
    let by = match (exit.signal, exit.core) {
        (0, _) => format!("status {}", exit.code),
        (signal, false) => signals::name(signal),
        (signal, true) => format!("{}, core dumped", signals::name(signal)),
    };
    match cause {
        Cause::Exit0 | Cause::Exit | Cause::Signal | Cause::None => by,
        Cause::Oom => format!("{by}: out of memory"),
        Cause::StartupTimeout => format!("{by}: it was not ready in time"),
        Cause::Stale => format!("{by}: it gave no sign of life"),
        Cause::ItemDeadline => format!("{by}: an item took too long"),
        Cause::Recycled => format!("{by}: its time was over"),
        Cause::Resized => format!("{by}: one too many"),
        Cause::Stopped => format!("{by}: it was stopped"),
        Cause::Reloaded => format!("{by}: another one took its place"),
        Cause::ForkFailed => "it could not be forked".into(),
    }
}

/// The worker with that number ended, and the policy knows why.
pub fn say_ended(inner: &Inner, index: usize, pid: u32) {
    let Some((cause, exit, _)) = inner.policy.slot(index).last_exit else { return };
    let text = format!("{}: worker {pid} ended ({})", place_name(inner, index), how(cause, exit));
    if cause.is_crash() {
        say::warn(&inner.settings.name, &text);
    } else {
        say::info(&inner.settings.name, &text);
    }
}

/// The policy changed a slot: publish it, and say one line if it is in something else now.
pub fn changed(inner: &mut Inner, index: usize) {
    let before = inner.shown.get(index).copied().unwrap_or_default();
    slot(inner, index);
    let view = inner.policy.slot(index);
    if (before.state, before.incarnation) == (view.state, view.incarnation) {
        return;
    }
    let now = inner.now();
    let wait = view.not_before.unwrap_or(now).saturating_sub(now) as f64 / 1000.0;
    let (worker, name) = (place_name(inner, index), inner.settings.name.clone());
    match view.state {
        // Said with the process's number, when it is there and when it has ended.
        SlotState::Starting | SlotState::Empty => {}
        SlotState::Ready => say::info(&name, &format!("{worker}: ready")),
        SlotState::Stopping => say::info(&name, &format!("{worker}: told to stop")),
        SlotState::Stale => {
            say::warn(&name, &format!("{worker}: gives no sign of life, or its item takes too long"));
        }
        SlotState::Abandoned => say::error(&name, &format!("{worker}: was killed and is still there")),
        SlotState::Failed => say::error(&name, &format!("{worker}: will not be started again")),
        SlotState::CrashLooping => {
            let times = view.crashes_in_row;
            say::error(
                &name,
                &format!("{worker}: a crash loop, {times} in a row; next start in {wait:.1} s"),
            );
        }
        SlotState::Backoff if view.fork_errno != 0 => {
            let why = std::io::Error::from_raw_os_error(view.fork_errno);
            inner.trouble = Some(format!("no worker can be forked: {why}"));
            say::error(&name, &format!("{worker}: no worker: {why}; next try in {wait:.1} s"));
        }
        SlotState::Backoff => say::info(&name, &format!("{worker}: next start in {wait:.1} s")),
    }
}

/// The fleet's phase changed.
pub fn phase(inner: &mut Inner) {
    let phase = inner.policy.phase();
    inner.board.header().phase.store(phase as u32, Ordering::Relaxed);
    match phase {
        Phase::Draining => {
            say::info(&inner.settings.name, "draining");
            if let Some(notify) = &inner.notify {
                let left = inner.policy.drain_deadline().unwrap_or(0).saturating_sub(inner.now()) + 5000;
                notify.stopping(left * 1000, "draining");
            }
        }
        Phase::Running => say::info(&inner.settings.name, "running"),
        Phase::Starting | Phase::Stopped => {}
    }
}

/// The fleet restarts too often, or no longer.
pub fn intensity(inner: &Inner, too_many: bool) {
    let name = &inner.settings.name;
    if too_many {
        say::error(name, "too many restarts in all: not live");
    } else {
        say::info(name, "no longer too many restarts");
    }
}

/// How it ended, slot by slot.
pub fn last_words(inner: &Inner) -> serde_json::Value {
    let exit = |view: SlotView| match view.last_exit {
        Some((cause, exit, _)) => serde_json::json!({
            "cause": super::super::health::document::name_in(&super::super::health::document::CAUSES, cause as u32),
            "code": exit.code, "signal": exit.signal,
        }),
        None => serde_json::Value::Null,
    };
    let slots: Vec<_> = (0..inner.running.len())
        .map(|index| (index, inner.policy.slot(index)))
        .filter(|(_, view)| view.incarnation > 0)
        .map(|(index, view)| {
            serde_json::json!({"slot": index, "name": group_name(inner, index), "restarts": view.restarts, "last_exit": exit(view),
                "abandoned": view.state == SlotState::Abandoned})
        })
        .collect();
    serde_json::json!({"code": inner.exit, "slots": slots})
}

/// Whether that worker said that it is ready.
pub fn says_ready(place: &Slot) -> bool {
    place.working.flags.load(Ordering::Relaxed) & flag::READY != 0
}
