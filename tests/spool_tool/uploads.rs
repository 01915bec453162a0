//! What the command says of uploads, and that it gets them delivered.
use crate::collector::{Collector as Answers, Reply};
use crate::langfuse::{Langfuse, MEDIA};
use crate::{NOWHERE, Owner, Place, contents, flip, names, tool};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Whoever takes events with these numbers and these uploads, for a Langfuse that is not there.
fn owner(place: &Place, numbers: std::ops::Range<u64>, uploads: &[&str], then: &str) -> Owner {
    let endpoint = format!("{NOWHERE}api/public/ingestion");
    // The context is the one key that says nothing about the destination, and may be anything.
    place.owner(numbers, then, json!({"endpoint": endpoint, "context": {"uploads": uploads}}))
}

fn orphan(place: &Place, numbers: std::ops::Range<u64>, uploads: &[&str]) -> PathBuf {
    drop(owner(place, numbers, uploads, "die"));
    place.leaves().remove(0)
}

fn waiting(leaf: &Path) -> Vec<PathBuf> {
    names(leaf).iter().filter(|name| name.ends_with(".media")).map(|name| leaf.join(name)).collect()
}

fn stored(langfuse: &Langfuse) -> BTreeSet<Vec<u8>> {
    langfuse.stored().into_iter().collect()
}

fn set<const N: usize>(all: [&str; N]) -> BTreeSet<Vec<u8>> {
    all.map(|content| content.as_bytes().to_vec()).into()
}

#[test]
fn they_are_listed_and_nothing_is_changed() {
    let place = Place::new();
    // First: it would adopt what the other leaves.
    let live = owner(&place, 0..0, &["three"], "stay").stop();
    let leaf = orphan(&place, 0..3, &["one", "two"]);
    let before = contents(&leaf);
    let bytes: u64 = waiting(&leaf).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let all = tool("ls", &place.spool(), &["--json"]).json();
    let uploads = &all["directories"][0]["uploads"];
    assert_eq!(
        (&uploads["count"], &uploads["live"], &uploads["bytes"]),
        (&json!(3), &json!(1), &json!(bytes)),
        "{all}"
    );
    assert!(uploads["oldest_s"].as_u64().unwrap() < 600, "{all}");
    let total = &all["total"];
    assert_eq!(
        (&total["uploads"], &total["upload_bytes"], &total["events"]),
        (&json!(3), &json!(bytes), &json!(3))
    );
    tool("ls", &leaf, &[]).check(
        0,
        &[
            &format!("3 uploads: {bytes} bytes, the oldest "),
            " old, 1 of live processes",
            "total: 3 events",
            &format!(", 3 uploads ({bytes} bytes)"),
        ],
    );
    tool("verify", &leaf, &[]).check(0, &["3 events, 3 uploads: all of it can be read"]);
    assert_eq!(contents(&leaf), before);
    drop(live);
    // Without any nothing is said of them.
    let other = Place::new();
    let leaf = other.orphan(0..1, json!({}));
    let said = tool("ls", &leaf, &[]).check(0, &["total: 1 event"]).out.clone();
    assert!(!said.contains("upload"), "{said}");
    assert_eq!(tool("ls", &leaf, &["--json"]).json()["directories"][0]["uploads"]["oldest_s"], Value::Null);
}

#[test]
fn a_directory_of_uploads_alone_is_a_spool() {
    let place = Place::new();
    let leaf = orphan(&place, 0..0, &["one"]);
    let said = tool("ls", &place.spool(), &[]).check(0, &["  1 upload: "]).out.clone();
    assert!(!said.contains("empty"), "{said}");
    // Even under a name of nobody's.
    let moved = place.0.join("moved");
    fs::rename(&leaf, &moved).unwrap();
    tool("verify", &moved, &[]).check(0, &["1 file, 0 events, 1 upload: all of it can be read"]);
}

#[test]
fn damage_is_named_and_costs_only_what_is_damaged() {
    let place = Place::new();
    let leaf = orphan(&place, 0..0, &["one", "two", "three"]);
    let files = waiting(&leaf);
    flip(&files[0], 64);
    let before = contents(&leaf);
    let report = tool("verify", &leaf, &["--json"]).check(1, &["1 fault in"]).json();
    assert_eq!((&report["files"], &report["uploads"]), (&json!(3), &json!(3)));
    assert_eq!(report["faults"][0]["file"], json!(files[0]));
    assert!(report["faults"][0]["what"].as_str().unwrap().contains("not as it was written"), "{report}");
    assert_eq!(contents(&leaf), before);

    let langfuse = Langfuse::kind();
    let said = tool("drain", &leaf, &["--to", &langfuse.endpoint()]);
    said.check(1, &["corrupt 1, left 0\n", "uploads: delivered 2, given up 0, left 0\n"]);
    assert_eq!(langfuse.store.count(), 2);
    let aside = names(&leaf);
    assert!(aside.len() == 1 && aside[0].ends_with(".media.bad"), "{aside:?}");
    tool("ls", &leaf, &[]).check(0, &["set aside: ", "1 set-aside file"]);
    tool("verify", &leaf, &[]).check(1, &["set aside: an upload that is not as it was written"]);
}

#[test]
fn what_the_dead_left_is_delivered_and_what_the_living_have_is_not() {
    let place = Place::new();
    let live = owner(&place, 0..0, &["theirs"], "stay").stop();
    let leaf = orphan(&place, 0..5, &["one", "two"]);
    let langfuse = Langfuse::kind();
    let said = tool("drain", &leaf, &["--to", &langfuse.endpoint()]);
    let of_live = format!("1 upload of live process {} left", live.pid());
    said.check(0, &["delivered 5, ", "uploads: delivered 2, given up 0, left 0\n", &of_live]);
    assert_eq!((stored(&langfuse), waiting(&leaf).len()), (set(["one", "two"]), 1));
    drop(live);
    tool("drain", &leaf, &["--to", &langfuse.endpoint()]).check(0, &["uploads: delivered 1, "]);
    assert_eq!((stored(&langfuse), names(&leaf)), (set(["one", "two", "theirs"]), vec![]));
}

#[test]
fn uploads_alone_are_taken_for_langfuses() {
    let place = Place::new();
    orphan(&place, 0..0, &["one"]);
    let langfuse = Langfuse::kind();
    let config = json!({"basic": "pk:sk"}).to_string();
    // A URL without a path gets the format's.
    let args = ["--to", langfuse.api.url(), "--config", &config];
    tool("drain", &place.spool(), &args).check(0, &["uploads: delivered 1, given up 0, left 0"]);
    let asked = &langfuse.api.requests()[0];
    assert!(
        asked.is("POST", MEDIA) && asked.header("authorization") == Some("Basic cGs6c2s="),
        "{}",
        asked.head()
    );
}

#[test]
fn a_destination_that_takes_none_leaves_them_and_says_so() {
    let place = Place::new();
    let leaf = orphan(&place, 0..3, &["one"]);
    let collector = Answers::kind();
    let said = tool("drain", &leaf, &["--to", collector.url()]);
    said.check(
        1,
        &[
            "delivered 3, ",
            "uploads: delivered 0, given up 0, left 1",
            "1 upload left",
            "the endpoint takes none",
        ],
    );
    assert_eq!(waiting(&leaf).len(), 1);
}

#[test]
fn what_cannot_be_delivered_is_left_and_what_is_refused_is_said() {
    let place = Place::new();
    let leaf = orphan(&place, 0..0, &["one", "two"]);
    let to = format!("{NOWHERE}api/public/ingestion");
    tool("drain", &leaf, &["--to", &to, "--timeout", "2"]).check(
        1,
        &[
            "uploads: delivered 0, given up 0, left 2",
            "2 uploads not delivered after 2 s",
            "0 of 2 uploads settled",
        ],
    );
    assert_eq!(waiting(&leaf).len(), 2);
    let langfuse = Langfuse::start(|_| None, |seen| (seen.number == 0).then_some(Reply::Status(400)));
    tool("drain", &leaf, &["--to", &langfuse.endpoint()])
        .check(1, &["uploads: delivered 1, given up 1, left 0", "1 upload could not be delivered"]);
    assert_eq!(waiting(&leaf), Vec::<PathBuf>::new());
}
