//! `telemetry spool verify`: everything is read, and what cannot be is named.
//!
//! Invariant: it changes nothing.

use super::segment::Report;
use super::survey::Survey;
use super::{Look, places, say, upload};
use serde_json::{Value, json};
use std::path::Path;
use telemetry::queue::spool::directory::Directory;

/// Run it. An error if anything cannot be read.
pub fn run(args: &Look) -> Result<(), String> {
    let (mut files, mut events, mut uploads) = (0, 0, 0);
    let mut faults: Vec<Value> = Vec::new();
    for path in places::find(&args.dir)? {
        let survey = match Survey::of(&path) {
            Ok(survey) => survey,
            Err(why) => {
                let what = format!("cannot be read: {why}");
                faults.push(json!({"file": path.to_string_lossy(), "offset": null, "what": what}));
                continue;
            }
        };
        for segment in survey.stems.iter().flat_map(|held| &held.segments) {
            files += 1;
            events += segment.events;
            faults.extend(of(&path, segment, ""));
        }
        for waiting in &survey.uploads {
            if let Some(file) = upload::look(&Directory::at(&path), &waiting.name.text()) {
                (files, uploads) = (files + 1, uploads + 1);
                faults.extend(of(&path, &file, ""));
            }
        }
        for file in &survey.set_aside {
            files += 1;
            let mut found = of(&path, file, "set aside: ");
            if found.is_empty() {
                let text = "set aside, though it can be read";
                found.push(json!({"file": named(&path, file), "offset": null, "what": text}));
            }
            faults.extend(found);
        }
    }
    let n = faults.len() as u64;
    if args.json {
        println!("{}", json!({"files": files, "events": events, "uploads": uploads, "faults": faults}));
    } else {
        faults.iter().for_each(|fault| println!("{}", line(fault)));
        let what = if n == 0 { "all of it can be read".into() } else { say::count(n, "fault") };
        let and = if uploads > 0 { format!(", {}", say::count(uploads, "upload")) } else { String::new() };
        println!("{}, {}{and}: {what}", say::count(files, "file"), say::count(events, "event"));
    }
    if n == 0 { Ok(()) } else { Err(format!("{} in {}", say::count(n, "fault"), args.dir.display())) }
}

fn named(dir: &Path, segment: &Report) -> String {
    dir.join(&segment.name).to_string_lossy().into_owned()
}

fn of(dir: &Path, segment: &Report, before: &str) -> Vec<Value> {
    let fault = |fault: &super::segment::Fault| {
        let what = format!("{before}{}", fault.what);
        json!({"file": named(dir, segment), "offset": fault.offset, "what": what})
    };
    segment.faults.iter().map(fault).collect()
}

fn line(fault: &Value) -> String {
    let text = |key: &str| fault[key].as_str().unwrap_or_default();
    let at = fault["offset"].as_u64().map_or(String::new(), |offset| format!(" at {offset}"));
    format!("{}{at}: {}", text("file"), text("what"))
}
