//! A status with everything in it, and the document's exact shape.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use telemetry::fleet::health::document::{
    CLASSES, Events, Flags, Items, LastExit, Probe, Restarts, SCHEMA, Slots, Status, Supervisor, Totals,
    Worker,
};

/// A worker of each kind.
pub fn workers() -> Vec<Worker> {
    let counters = |done: u64| -> BTreeMap<String, u64> {
        [
            ("claimed", done + 5),
            ("done", done),
            ("failed", 2),
            ("retried", 3),
            ("dead", 1),
            ("bytes_in", 1 << 40),
        ]
        .map(|(name, n)| (name.to_string(), n))
        .into()
    };
    let end = |cause, code, signal: Option<i32>, age_s| {
        Some(LastExit {
            cause,
            code,
            signal: signal.map(telemetry::platform::signals::name),
            age_s,
            ..LastExit::default()
        })
    };
    let at_work = |slot, state| Worker {
        slot,
        state,
        name: "consumer".into(),
        pid: Some(4242 + slot),
        incarnation: u64::from(slot) + 1,
        beat_age_s: Some(0.1),
        counters: counters(120_345),
        rss_kb: 20_480,
        loop_lag_us: 1500,
        events: Events { accepted: 10, delivered: 7, lost: 1, queued: 2 },
        flags: Flags { running: true, mdq_connected: true, mdc_connected: false },
        ..Worker::default()
    };
    let waiting = |slot, state| Worker {
        slot,
        state,
        name: "decoder".into(),
        incarnation: 9,
        restarts: 8,
        crashes_in_row: 6,
        not_before_in_s: 1.25,
        ..Worker::default()
    };
    vec![
        Worker {
            item_age_s: Some(0.02),
            doing: "POST batch 9f3c".into(),
            restarts: 2,
            last_exit: end("signal", None, Some(libc::SIGKILL), 512.0),
            ..at_work(0, "busy")
        },
        at_work(1, "ready"),
        Worker { beat_age_s: None, ..at_work(2, "starting") },
        Worker { last_exit: end("exit", Some(3), None, 0.5), ..waiting(3, "backoff") },
        Worker { last_exit: end("exit0", Some(0), None, 4.0), ..waiting(4, "crash_looping") },
        Worker {
            last_exit: end("exit", Some(78), None, 7300.0),
            not_before_in_s: 0.0,
            ..waiting(5, "failed")
        },
        Worker {
            doing: "<b>\"quoted\" & 'more'\\\n\u{202e}".into(),
            beat_age_s: Some(41.0),
            ..at_work(6, "stale")
        },
        Worker { last_exit: end("stale", None, Some(libc::SIGKILL), 3.0), ..at_work(7, "abandoned") },
        Worker { last_exit: end("oom", None, Some(libc::SIGKILL), 90.0), ..at_work(8, "stopping") },
        Worker { slot: 9, state: "empty", name: "consumer".into(), ..Worker::default() },
    ]
}

/// A fleet that is well.
pub fn status() -> Status {
    let workers = workers();
    let mut classes = [0; CLASSES];
    (classes[0], classes[3], classes[10], classes[CLASSES - 1]) = (1, 2, 4, 8);
    Status {
        schema: SCHEMA,
        name: "relay".into(),
        state: "running",
        live: true,
        ready: true,
        reasons: Vec::new(),
        liveness_probe_bound: true,
        probe: Probe { bound: true, port: Some(9464), error: None },
        supervisor: Supervisor {
            pid: 1,
            uptime_s: 86_400.2,
            version: "0.1.0",
            wakeups: 91_234,
            late_ms_max: 3,
            abi: 1,
            cpu_s: Some(1.5),
        },
        slots: Slots::count(4, &workers),
        oldest_beat_age_s: Some(41.0),
        stale_after_s: 30.0,
        restarts: Restarts { total: 7, by_cause: [("signal", 5), ("recycled", 2)].into() },
        totals: Totals { done: 120_345, failed: 12, dead: 0 },
        workers,
        items: Items { classes, us: 90_000_123 },
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The keys of an object, all of them, in the order of the alphabet.
fn exactly(value: &Value, expected: &str) {
    let mut expected: Vec<_> = expected.split_whitespace().collect();
    expected.sort_unstable();
    let unique: BTreeSet<_> = keys(value).into_iter().collect();
    assert_eq!(unique.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn it_has_these_members_and_no_others() {
    let value: Value = serde_json::from_str(&status().json(false)).unwrap();
    exactly(
        &value,
        "schema name state live ready reasons liveness_probe_bound probe supervisor slots oldest_beat_age_s \
         stale_after_s restarts totals workers",
    );
    exactly(&value["probe"], "bound port error");
    exactly(&value["supervisor"], "pid uptime_s version wakeups late_ms_max");
    exactly(
        &value["slots"],
        "want ready busy starting stopping backoff crash_looping failed stale abandoned",
    );
    exactly(&value["restarts"], "total by_cause");
    exactly(&value["restarts"]["by_cause"], "signal recycled");
    exactly(&value["totals"], "done failed dead");
    for worker in value["workers"].as_array().unwrap() {
        exactly(
            worker,
            "slot name pid incarnation state beat_age_s item_age_s doing restarts crashes_in_row not_before_in_s \
             last_exit counters rss_kb loop_lag_us events flags",
        );
        exactly(&worker["events"], "accepted delivered lost queued");
        exactly(&worker["flags"], "running mdq_connected mdc_connected");
    }
    exactly(&value["workers"][0]["last_exit"], "cause code signal core oom age_s");
}

#[test]
fn its_values_are_what_was_filled_in() {
    let value: Value = serde_json::from_str(&status().json(true)).unwrap();
    assert_eq!(value["schema"], 1);
    assert_eq!(value["liveness_probe_bound"], true);
    assert_eq!(value["supervisor"]["uptime_s"], 86_400.2);
    let slots = &value["slots"];
    let counts =
        ["want", "ready", "busy", "starting", "backoff", "crash_looping", "failed", "stale", "abandoned"];
    assert_eq!(counts.map(|k| slots[k].as_u64().unwrap()), [4, 2, 1, 1, 1, 1, 1, 1, 1]);
    let first = &value["workers"][0];
    assert_eq!(
        first["last_exit"],
        serde_json::json!({"cause": "signal", "code": null, "signal": "SIGKILL", "core": false, "oom": false,
            "age_s": 512.0})
    );
    assert_eq!(first["counters"]["bytes_in"], 1u64 << 40);
    assert_eq!(first["doing"], "POST batch 9f3c");
    // What there is not is null, so that nobody takes it for 0.
    let (ready, starting, waiting) = (&value["workers"][1], &value["workers"][2], &value["workers"][3]);
    assert!(ready["last_exit"].is_null() && ready["item_age_s"].is_null());
    assert!(starting["beat_age_s"].is_null() && waiting["pid"].is_null());
    assert_eq!(waiting["last_exit"]["code"], 3);
    assert!(waiting["last_exit"]["signal"].is_null());
    assert_eq!(value["workers"][6]["doing"], "<b>\"quoted\" & 'more'\\\n\u{202e}");
}
