//! `/metrics`, read line by line.

use crate::client::get;
use crate::document;
use crate::driver::Driver;
use crate::exposition::{Family, read};
use std::collections::{BTreeMap, BTreeSet};
use telemetry::fleet::health::Status;
use telemetry::fleet::health::document::CAUSES;
use telemetry::fleet::health::metrics::text;

fn families(status: &Status) -> BTreeMap<String, Family> {
    let short = |name: String| name.strip_prefix("telemetry_fleet_").expect("the prefix").to_string();
    read(&text(status)).into_iter().map(|(name, family)| (short(name), family)).collect()
}

#[test]
fn what_is_served_is_what_is_made() {
    let d = Driver::tcp();
    let served = get(d.port, "/metrics").body;
    assert_eq!(served, text(&document::status()));
    assert!(read(&served).len() > 20);
}

#[test]
fn the_fleet_and_its_supervisor() {
    let mut s = document::status();
    let f = families(&s);
    assert_eq!(f["info"].value(&[("name", "relay"), ("version", "0.1.0"), ("abi", "1")]), 1.0);
    for (name, value) in [
        ("live", 1.0),
        ("ready", 1.0),
        ("probe_bound", 1.0),
        ("uptime_seconds", 86_400.2),
        ("workers_wanted", 4.0),
        ("oldest_beat_age_seconds", 41.0),
        ("supervisor_late_seconds_max", 0.003),
        ("supervisor_wakeups_total", 91_234.0),
        ("supervisor_cpu_seconds_total", 1.5),
    ] {
        assert_eq!(f[name].value(&[]), value, "{name}");
    }
    for (state, count) in [("busy", 1.0), ("ready", 1.0), ("crash_looping", 1.0), ("abandoned", 1.0)] {
        assert_eq!(f["workers"].value(&[("state", state)]), count, "{state}");
    }
    // Nine workers, each counted once; the slot that is empty is none.
    assert_eq!(f["workers"].samples.iter().map(|s| s.value).sum::<f64>(), 9.0);
    (s.live, s.ready, s.liveness_probe_bound, s.supervisor.cpu_s) = (false, false, false, None);
    s.workers.clear();
    let f = families(&s);
    assert_eq!(["live", "ready", "probe_bound"].map(|name| f[name].value(&[])), [0.0; 3]);
    assert!(!f.contains_key("supervisor_cpu_seconds_total") && !f.contains_key("worker_rss_bytes"));
    // Every state is there although nobody is in it.
    assert_eq!(f["workers"].samples.len(), 9);
    assert_eq!(f["workers"].value(&[("state", "stale")]), 0.0);
}

#[test]
fn restarts_have_all_causes_from_the_start() {
    let restarts = &families(&document::status())["restarts_total"];
    for cause in &CAUSES[1..] {
        let expected = match *cause {
            "signal" => 5.0,
            "recycled" => 2.0,
            _ => 0.0,
        };
        assert_eq!(restarts.value(&[("cause", cause)]), expected, "{cause}");
    }
    assert_eq!(restarts.samples.len(), CAUSES.len() - 1);
}

#[test]
fn each_slot_has_its_series() {
    let f = families(&document::status());
    let busy = [("slot", "0"), ("group", "consumer")];
    let with = |more: (&'static str, &'static str)| [busy[0], busy[1], more];
    assert_eq!(f["worker_beat_age_seconds"].value(&busy), 0.1);
    assert_eq!(f["worker_item_age_seconds"].value(&busy), 0.02);
    assert_eq!(f["worker_rss_bytes"].value(&busy), 20_480.0 * 1024.0);
    assert_eq!(f["worker_loop_lag_seconds"].value(&busy), 0.0015);
    assert_eq!(f["worker_restarts_total"].value(&busy), 2.0);
    for (outcome, count) in [("done", 120_345.0), ("failed", 2.0), ("retried", 3.0), ("dead", 1.0)] {
        assert_eq!(f["worker_items_total"].value(&with(("outcome", outcome))), count);
    }
    for (counter, count) in [("claimed", 120_350.0), ("bytes_in", (1u64 << 40) as f64)] {
        assert_eq!(f["worker_counter_total"].value(&with(("counter", counter))), count);
    }
    assert!(f["worker_counter_total"].samples.iter().all(|s| s.labels["counter"] != "done"));
    for (outcome, count) in [("accepted", 10.0), ("delivered", 7.0), ("lost", 1.0)] {
        assert_eq!(f["worker_events_total"].value(&with(("outcome", outcome))), count);
    }
    assert_eq!(f["worker_events_queued"].value(&busy), 2.0);
    // One that has not shown a beat, or that is not looked at, has no value instead of a false one.
    let slots =
        |name: &str| f[name].samples.iter().map(|s| s.labels["slot"].clone()).collect::<BTreeSet<_>>();
    assert!(!slots("worker_beat_age_seconds").contains("2") && !slots("worker_rss_bytes").contains("3"));
    assert_eq!(slots("worker_item_age_seconds").len(), 1);
}

#[test]
fn the_histogram_counts_up_to_each_bound() {
    let items = &families(&document::status())["item_seconds"];
    assert_eq!(items.kind, "histogram");
    let bucket = |le: &str| {
        let found: Vec<_> =
            items.samples.iter().filter(|s| s.labels.get("le").is_some_and(|l| l == le)).collect();
        assert_eq!(found.len(), 1, "{le}");
        found[0].value
    };
    // Classes 0, 3, 10 and the last have 1, 2, 4 and 8; class i ends at 2^(i+1) microseconds.
    for (le, count) in [
        ("0.000002", 1.0),
        ("0.000008", 1.0),
        ("0.000016", 3.0),
        ("0.001024", 3.0),
        ("0.002048", 7.0),
        ("8.388608", 7.0),
        ("+Inf", 15.0),
    ] {
        assert_eq!(bucket(le), count, "{le}");
    }
    assert_eq!(items.samples.len(), 24 + 2);
    let single = |end: &str| items.samples.iter().find(|s| s.name.ends_with(end)).unwrap().value;
    assert_eq!((single("_sum"), single("_count")), (90.000_123, 15.0));
}

#[test]
fn labels_are_few_and_survive_any_name() {
    let mut s = document::status();
    let evil = "a\"b\\c\nd} 1\n# TYPE x gauge\u{e9}";
    s.name = evil.into();
    s.workers.iter_mut().for_each(|w| {
        w.name = evil.into();
        w.counters.insert(evil.into(), 1);
    });
    let f = families(&s);
    assert_eq!(f["info"].samples[0].labels["name"], evil);
    assert!(f["worker_items_total"].samples.iter().all(|sample| sample.labels["group"] == evil));
    let names: BTreeSet<_> =
        f.values().flat_map(|f| &f.samples).flat_map(|s| s.labels.keys().map(String::as_str)).collect();
    let bounded = ["abi", "cause", "counter", "group", "le", "name", "outcome", "slot", "state", "version"];
    assert_eq!(names, bounded.into(), "neither a process id nor anything else that has no end");
}
