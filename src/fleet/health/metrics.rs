//! The status as Prometheus' text format, version 0.0.4.
//!
//! Invariants:
//! - Each family is written once, with its help and its type, and all of its samples together.
//! - The only labels are bounded: slot, group, state, cause, outcome, counter. A process id is none.
//! - A series is there from the start, with 0, where its labels are known before: states, causes, outcomes.
#![forbid(unsafe_code)]

use super::document::{BUSY, CAUSES, STATES, Status, Worker};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Counters of a worker that are items' outcomes.
const OUTCOMES: [&str; 4] = ["done", "failed", "retried", "dead"];

/// Labels of one sample.
type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// A name for each state that there is a worker in, also in one that a newer supervisor has.
fn by_state(workers: &[Worker]) -> BTreeMap<&'static str, u64> {
    let known = STATES.iter().chain([&BUSY]).filter(|state| **state != "empty");
    let mut count: BTreeMap<&'static str, u64> = known.map(|state| (*state, 0)).collect();
    for worker in workers.iter().filter(|w| w.state != "empty") {
        *count.entry(worker.state).or_default() += 1;
    }
    count
}

/// All metrics of the fleet.
pub fn text(status: &Status) -> String {
    let mut out = Text(String::with_capacity(4096 + 1024 * status.workers.len()));
    fleet(&mut out, status);
    workers(&mut out, &status.workers);
    items(&mut out, status);
    out.0
}

fn fleet(out: &mut Text, s: &Status) {
    let (supervisor, flag) = (&s.supervisor, |on: bool| f64::from(u8::from(on)));
    out.family("info", "gauge", "Which fleet this is, and of which version.");
    let info: Labels<'_> = &[("name", &s.name), ("version", &supervisor.version), ("abi", &supervisor.abi)];
    out.sample("info", info, 1.0);
    out.single("live", "gauge", "Whether /livez is 200.", flag(s.live));
    out.single("ready", "gauge", "Whether /readyz is 200.", flag(s.ready));
    out.single("probe_bound", "gauge", "Whether the health endpoint listens.", flag(s.liveness_probe_bound));
    out.single("uptime_seconds", "gauge", "For how long the supervisor has run.", supervisor.uptime_s);
    out.single("workers_wanted", "gauge", "Workers wanted.", f64::from(s.slots.want));
    out.family("workers", "gauge", "Workers in each state; each is in one.");
    for (state, count) in by_state(&s.workers) {
        out.sample("workers", &[("state", &state)], count as f64);
    }
    out.family("restarts_total", "counter", "Workers that were replaced, by cause.");
    let mut causes: BTreeMap<&str, u64> = CAUSES.iter().skip(1).map(|cause| (*cause, 0)).collect();
    causes.extend(&s.restarts.by_cause);
    for (cause, count) in causes {
        out.sample("restarts_total", &[("cause", &cause)], count as f64);
    }
    if let Some(age) = s.oldest_beat_age_s {
        out.single("oldest_beat_age_seconds", "gauge", "The longest time since a worker's last beat.", age);
    }
    let late = supervisor.late_ms_max as f64 / 1e3;
    out.single("supervisor_late_seconds_max", "gauge", "The most that the supervisor was late.", late);
    let wakeups = supervisor.wakeups as f64;
    out.single("supervisor_wakeups_total", "counter", "Times that the supervisor's loop woke.", wakeups);
    if let Some(cpu) = supervisor.cpu_s {
        let help = "Processor time of the supervisor.";
        out.single("supervisor_cpu_seconds_total", "counter", help, cpu);
    }
}

fn workers(out: &mut Text, all: &[Worker]) {
    out.each(all, "worker_beat_age_seconds", "gauge", "Time since the worker's last beat.", |w| w.beat_age_s);
    out.each(all, "worker_item_age_seconds", "gauge", "For how long the open item is open.", |w| {
        w.item_age_s
    });
    let outcomes = |w: &Worker| OUTCOMES.map(|name| (name, w.counters.get(name).copied().unwrap_or(0)));
    out.family("worker_items_total", "counter", "Items of the slot's workers, by outcome.");
    for w in all {
        for (outcome, count) in outcomes(w) {
            let labels: Labels<'_> = &[("slot", &w.slot), ("group", &w.name), ("outcome", &outcome)];
            out.sample("worker_items_total", labels, count as f64);
        }
    }
    if all.iter().flat_map(|w| w.counters.keys()).any(|name| !OUTCOMES.contains(&name.as_str())) {
        out.family("worker_counter_total", "counter", "The other counters of the slot's workers.");
    }
    for w in all {
        for (name, count) in w.counters.iter().filter(|(name, _)| !OUTCOMES.contains(&name.as_str())) {
            let labels: Labels<'_> = &[("slot", &w.slot), ("group", &w.name), ("counter", name)];
            out.sample("worker_counter_total", labels, *count as f64);
        }
    }
    out.family("worker_events_total", "counter", "Events of the telemetry clients of the slot's workers.");
    for w in all {
        let e = &w.events;
        for (outcome, count) in [("accepted", e.accepted), ("delivered", e.delivered), ("lost", e.lost)] {
            let labels: Labels<'_> = &[("slot", &w.slot), ("group", &w.name), ("outcome", &outcome)];
            out.sample("worker_events_total", labels, count as f64);
        }
    }
    let some = |n: u64| Some(n as f64);
    out.each(all, "worker_events_queued", "gauge", "Events that wait to be delivered.", |w| {
        some(w.events.queued)
    });
    out.each(all, "worker_restarts_total", "counter", "Workers of this slot that were replaced.", |w| {
        some(w.restarts)
    });
    out.each(all, "worker_rss_bytes", "gauge", "Resident memory.", |w| {
        Some(w.rss_kb as f64 * 1024.0).filter(|b| *b > 0.0)
    });
    out.each(all, "worker_loop_lag_seconds", "gauge", "How late the worker's loop was last.", |w| {
        Some(w.loop_lag_us as f64 / 1e6)
    });
}

fn items(out: &mut Text, s: &Status) {
    out.family("item_seconds", "histogram", "How long items took.");
    let mut count = 0u64;
    let last = s.items.classes.len().saturating_sub(1);
    for (i, n) in s.items.classes.iter().enumerate() {
        count = count.saturating_add(*n);
        // What took from 2^i up to 2^(i+1) microseconds, cut to whole ones; the last class has no upper end.
        if i < last {
            out.sample("item_seconds_bucket", &[("le", &(2f64.powi(i as i32 + 1) / 1e6))], count as f64);
        }
    }
    out.sample("item_seconds_bucket", &[("le", &"+Inf")], count as f64);
    out.sample("item_seconds_sum", &[], s.items.us as f64 / 1e6);
    out.sample("item_seconds_count", &[], count as f64);
}

/// The text so far. Names are given without the fleet's prefix.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ =
            writeln!(self.0, "# HELP telemetry_fleet_{name} {help}\n# TYPE telemetry_fleet_{name} {kind}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// One sample for each worker that has the value; no family if none has.
    fn each(
        &mut self,
        workers: &[Worker],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&Worker) -> Option<f64>,
    ) {
        let mut values = workers.iter().filter_map(|w| Some((w, value(w)?))).peekable();
        if values.peek().is_some() {
            self.family(name, kind, help);
        }
        for (w, value) in values {
            self.sample(name, &[("slot", &w.slot), ("group", &w.name)], value);
        }
    }

    /// Numbers stand without an exponent, and exactly up to 2^53.
    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        let out = &mut self.0;
        let _ = write!(out, "telemetry_fleet_{name}");
        for (i, (key, label)) in labels.iter().enumerate() {
            let _ = write!(out, "{}{key}=\"", if i == 0 { '{' } else { ',' });
            for c in label.to_string().chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        // `NaN` is the format's word, too; its infinities have a sign and a capital.
        let _ = match value {
            v if v.is_infinite() => writeln!(out, "{end} {}Inf", if v > 0.0 { '+' } else { '-' }),
            v => writeln!(out, "{end} {v}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_line_whatever_its_label_is() {
        let mut text = Text(String::new());
        text.sample("x", &[("a", &"q\"b\\c\nd\u{e9}"), ("b", &7)], 1e21);
        text.sample("y", &[], 0.000_002);
        text.sample("z", &[], f64::INFINITY);
        text.sample("z", &[], f64::NEG_INFINITY);
        text.sample("z", &[], f64::NAN);
        let expected = "telemetry_fleet_x{a=\"q\\\"b\\\\c\\nd\u{e9}\",b=\"7\"} 1000000000000000000000\n\
            telemetry_fleet_y 0.000002\ntelemetry_fleet_z +Inf\ntelemetry_fleet_z -Inf\ntelemetry_fleet_z NaN\n";
        assert_eq!(text.0, expected);
    }
}
