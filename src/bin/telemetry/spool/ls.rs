//! `telemetry spool ls`: a line for each process that holds or left something.

use super::survey::{Held, Survey};
use super::{Look, places, say};
use crate::given::plain;
use serde_json::{Value, json};
use std::fmt::Write;

const TITLES: [&str; 9] = ["STATE", "AGE", "SEGMENTS", "BYTES", "EVENTS", "HOLES", "BAD", "FORMAT", "STEM"];

/// What is counted over all of it.
#[derive(Default)]
struct Total {
    stems: u64,
    live: u64,
    segments: u64,
    bytes: u64,
    events: u64,
    /// Of those, what adopters leave alone.
    kept: u64,
    holes: u64,
    bad: u64,
    unread: u64,
    uploads: u64,
    upload_bytes: u64,
    set_aside: u64,
    unknown: u64,
}

/// Run it.
pub fn run(args: &Look) -> Result<(), String> {
    let (mut surveys, mut errors) = (Vec::new(), Vec::new());
    for path in places::find(&args.dir)? {
        match Survey::of(&path) {
            Ok(survey) => surveys.push(survey),
            Err(why) => errors.push(format!("{}: {why}", path.display())),
        }
    }
    let total = Total::of(&surveys);
    if args.json {
        let directories: Vec<Value> = surveys.iter().map(directory).collect();
        println!("{}", json!({"directories": directories, "total": total.json()}));
    } else {
        print!("{}{}", surveys.iter().map(text).collect::<String>(), total.text());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

impl Total {
    fn of(surveys: &[Survey]) -> Total {
        let mut total = Total::default();
        for survey in surveys {
            for held in &survey.stems {
                let takeable = held.owner.is_takeable();
                total.stems += 1;
                total.live += u64::from(!takeable);
                total.segments += held.segments.len() as u64;
                total.bytes += held.sum(|s| s.bytes);
                total.events += held.events();
                total.kept += if takeable { 0 } else { held.events() };
                total.holes += held.sum(|s| s.holes);
                total.bad += held.sum(|s| s.bad);
                total.unread += held.sum(|s| u64::from(s.unread));
            }
            total.uploads += survey.uploads.len() as u64;
            total.upload_bytes += survey.upload_bytes();
            total.set_aside += survey.set_aside.len() as u64;
            total.unknown += survey.unknown.len() as u64;
        }
        total
    }

    fn json(&self) -> Value {
        json!({
            "stems": self.stems,
            "live": self.live,
            "segments": self.segments,
            "bytes": self.bytes,
            "events": self.events,
            "live_events": self.kept,
            "holes": self.holes,
            "bad": self.bad,
            "unreadable_segments": self.unread,
            "uploads": self.uploads,
            "upload_bytes": self.upload_bytes,
            "set_aside": self.set_aside,
            "unknown": self.unknown,
        })
    }

    fn text(&self) -> String {
        let of_live =
            if self.kept > 0 { format!(" ({} of live processes)", self.kept) } else { String::new() };
        let mut parts = vec![
            format!("{}{of_live}", say::count(self.events, "event")),
            say::count(self.segments, "segment"),
            say::count(self.bytes, "byte"),
        ];
        if self.uploads > 0 {
            let bytes = say::count(self.upload_bytes, "byte");
            parts.push(format!("{} ({bytes})", say::count(self.uploads, "upload")));
        }
        let more = [
            (self.holes, "hole"),
            (self.bad, "bad record"),
            (self.unread, "unreadable segment"),
            (self.set_aside, "set-aside file"),
            (self.unknown, "unknown file"),
        ];
        parts.extend(more.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| say::count(n, what)));
        format!("total: {}\n", parts.join(", "))
    }
}

fn text(survey: &Survey) -> String {
    let mut out = format!("{}\n", survey.path.display());
    let mut rows = vec![TITLES.map(String::from).to_vec()];
    rows.extend(survey.stems.iter().map(row));
    if rows.len() > 1 {
        out += &say::table(&rows);
    }
    for held in &survey.stems {
        for segment in held.segments.iter().filter(|segment| segment.unread) {
            for fault in &segment.faults {
                let _ = writeln!(out, "  unreadable: {}: {}", segment.name, fault.what);
            }
        }
    }
    if let Some(oldest) = survey.uploads.first() {
        let (n, bytes) = (survey.uploads.len() as u64, say::count(survey.upload_bytes(), "byte"));
        let age = say::short(say::since(oldest.name.created_ms));
        let live = match n - survey.takeable_uploads().count() as u64 {
            0 => String::new(),
            live => format!(", {live} of live processes"),
        };
        let _ = writeln!(out, "  {}: {bytes}, the oldest {age} old{live}", say::count(n, "upload"));
    }
    for file in &survey.set_aside {
        let _ = writeln!(out, "  set aside: {} ({})", file.name, say::count(file.bytes, "byte"));
    }
    for (name, bytes) in &survey.unknown {
        let _ = writeln!(out, "  not of the spool: {} ({})", plain(name), say::count(*bytes, "byte"));
    }
    if survey.stems.is_empty() && survey.uploads.is_empty() && survey.set_aside.is_empty() {
        out += "  empty\n";
    }
    out
}

fn row(held: &Held) -> Vec<String> {
    let owner = held.owner;
    let pid = owner.pid.map_or(String::new(), |pid| format!(" {pid}"));
    let lock = match (owner.is_takeable(), owner.state.word()) {
        (false, "live") => "",
        (false, _) => ", locked",
        (true, "foreign") => ", not locked",
        (true, _) => "",
    };
    let formats: Vec<String> = held.formats().iter().map(|format| plain(format)).collect();
    vec![
        format!("{}{pid}{lock}", owner.state.word()),
        say::short(say::since(held.stem.created_ms)),
        held.segments.len().to_string(),
        held.sum(|s| s.bytes).to_string(),
        held.events().to_string(),
        held.sum(|s| s.holes).to_string(),
        held.sum(|s| s.bad).to_string(),
        if formats.is_empty() { "-".into() } else { formats.join(",") },
        held.stem.text(),
    ]
}

fn directory(survey: &Survey) -> Value {
    let stems: Vec<Value> = survey.stems.iter().map(stem).collect();
    let set_aside = survey.set_aside.iter().map(|file| json!({"name": file.name, "bytes": file.bytes}));
    let unknown = survey.unknown.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes}));
    let uploads = json!({
        "count": survey.uploads.len(),
        "live": survey.uploads.len() - survey.takeable_uploads().count(),
        "bytes": survey.upload_bytes(),
        "oldest_s": survey.uploads.first().map(|upload| say::since(upload.name.created_ms).as_secs()),
    });
    json!({
        "directory": survey.path.to_string_lossy(),
        "stems": stems,
        "uploads": uploads,
        "set_aside": set_aside.collect::<Vec<_>>(),
        "unknown": unknown.collect::<Vec<_>>(),
    })
}

fn stem(held: &Held) -> Value {
    json!({
        "stem": held.stem.text(),
        "state": held.owner.state.word(),
        "pid": held.owner.pid,
        "locked": held.owner.locked,
        "age_s": say::since(held.stem.created_ms).as_secs(),
        "segments": held.segments.len(),
        "bytes": held.sum(|s| s.bytes),
        "events": held.events(),
        "holes": held.sum(|s| s.holes),
        "bad": held.sum(|s| s.bad),
        "unreadable_segments": held.sum(|s| u64::from(s.unread)),
        "formats": held.formats(),
    })
}
