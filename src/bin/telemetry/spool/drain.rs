//! `telemetry spool drain`: what dead processes left is delivered, whoever's key it was written for.
//!
//! Invariants:
//! - Each directory is drained by itself, in the format its files name; uploads alone are Langfuse's.
//! - The configuration is found to be good before anything is delivered.
//! - It ends soon after `--timeout`, or after SIGINT or SIGTERM with the request under way; a second signal ends it at
//!   once. Whatever the end, what was not delivered is in its place, at worst with one batch that will be sent again
//!   under the same ids.
//! - What is left is counted anew when all is done, by what is on the disk and not by what should be.

use super::survey::Survey;
use super::{places, say};
use crate::given::{self, plain, refuse};
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use telemetry::client::config::process_env;
use telemetry::client::drain;
use telemetry::client::life::Snapshot;
use telemetry::client::open::OpenError;
use telemetry::queue::spool::names::Stem;

/// How long it works in silence, and then between two lines.
const SILENCE: Duration = Duration::from_secs(1);

/// Arguments of `telemetry spool drain`.
#[derive(clap::Args)]
pub struct Args {
    /// A spool_dir, or one <name>-<hash> directory in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where to: an endpoint, as the key `endpoint` takes it. Default: that key, or TELEMETRY_ENDPOINT
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The format of the requests. Default: the key `format`, or else what the files themselves name
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Further configuration, such as api_key, tls or batch, as a JSON object or in a file. TELEMETRY_* variables
    /// stand behind it. (Arguments can be seen by other users of the machine, files need not be.)
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// Give up after so long
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
}

/// One directory's work.
struct Plan {
    dir: PathBuf,
    /// The configuration.
    json: String,
    /// Events to be delivered, as far as they could be counted.
    events: u64,
    /// Uploads to be delivered.
    uploads: u64,
    /// Whether the destination takes any.
    takes_uploads: bool,
}

/// What happened to the events and the uploads.
#[derive(Default)]
struct Total {
    delivered: u64,
    rejected: u64,
    invalid: u64,
    expired: u64,
    corrupt: u64,
    uploaded: u64,
    uploads_failed: u64,
}

/// What is still there.
#[derive(Default)]
struct Left {
    events: u64,
    uploads: u64,
    /// Why something could not be delivered, or even counted.
    reasons: Vec<String>,
}

/// Run it. An error unless everything but live owners' events is delivered.
pub fn run(args: &Args) -> Result<(), String> {
    let dirs = places::find(&args.dir)?;
    let given = read_config(args);
    let mut plans = Vec::new();
    for dir in &dirs {
        plans.extend(plan(args, &given, dir));
    }
    let stop = Arc::new(AtomicBool::new(false));
    take_signals(&stop).map_err(|why| format!("cannot take signals: {why}"))?;

    let mut work =
        Work { total: Total::default(), stop, until: Instant::now() + Duration::from_secs(args.timeout) };
    let mut left = Left::default();
    for plan in &plans {
        if plan.uploads > 0 && !plan.takes_uploads {
            let (dir, n) = (plan.dir.display(), say::count(plan.uploads, "upload"));
            left.reasons.push(format!(
                "{dir}: {n} left, because the endpoint takes none; allowed: one of Langfuse, with /api/public/ in its path"
            ));
        }
        if let Err(why) = work.deliver(plan) {
            left.reasons.push(why);
        }
    }
    for dir in &dirs {
        match Survey::of(dir) {
            Ok(survey) => left.count(&survey),
            Err(why) => left.reasons.push(format!("{}: {why}", dir.display())),
        }
    }
    let Total { delivered, rejected, invalid, expired, corrupt, uploaded, uploads_failed } = work.total;
    println!(
        "delivered {delivered}, rejected {rejected}, invalid {invalid}, expired {expired}, corrupt {corrupt}, left {}",
        left.events
    );
    if uploaded + uploads_failed + left.uploads > 0 {
        println!("uploads: delivered {uploaded}, given up {uploads_failed}, left {}", left.uploads);
    }
    if !left.reasons.is_empty() {
        return Err(left.reasons.join("; "));
    }
    if left.events + left.uploads > 0 {
        let why = match (work.stop.load(Ordering::Relaxed), work.is_late()) {
            (true, _) => ", because it was told to stop".into(),
            (_, true) => format!(" after {} s (--timeout)", args.timeout),
            _ => String::new(),
        };
        return Err(format!("{} not delivered{why}", in_words(left.events, left.uploads)));
    }
    match (rejected + invalid + expired + corrupt, uploads_failed) {
        (0, 0) => Ok(()),
        (events, uploads) => Err(format!("{} could not be delivered", in_words(events, uploads))),
    }
}

/// So many events, so many uploads, or both.
fn in_words(events: u64, uploads: u64) -> String {
    match (events, uploads) {
        (events, 0) => say::count(events, "event"),
        (0, uploads) => say::count(uploads, "upload"),
        _ => format!("{} and {}", say::count(events, "event"), say::count(uploads, "upload")),
    }
}

/// The object of `--config`, with `--to` and `--format` in it.
fn read_config(args: &Args) -> Map<String, Value> {
    let mut object = given::object(args.config.as_deref());
    for (key, value) in [("endpoint", &args.to), ("format", &args.format)] {
        if let Some(value) = value {
            object.insert(key.into(), json!(value));
        }
    }
    let somewhere = object.get("endpoint").is_some_and(|given| !given.is_null())
        || process_env("TELEMETRY_ENDPOINT").is_some_and(|given| !given.is_empty());
    if !somewhere {
        refuse("--to is missing: say where to deliver, by it or by the key endpoint in --config");
    }
    object
}

/// What is to be done in a directory, if anything is. One that cannot be read is reported at the end.
fn plan(args: &Args, given: &Map<String, Value>, dir: &Path) -> Option<Plan> {
    let survey = Survey::of(dir).ok()?;
    let uploads = survey.takeable_uploads().count() as u64;
    if uploads == 0 {
        survey.takeable().next()?;
    }
    let mut object = given.clone();
    if object.get("format").is_none_or(Value::is_null) {
        let formats: BTreeSet<String> = survey.takeable().flat_map(|held| held.formats()).collect();
        let mut names = formats.iter();
        match (names.next(), names.next()) {
            (Some(one), None) => {
                object.insert("format".into(), json!(one));
            }
            (Some(_), Some(_)) => {
                let list = formats.iter().map(|name| plain(name)).collect::<Vec<_>>().join(" and ");
                let dir = dir.display();
                refuse(&format!("{dir}: its files name {list}; drain it with --format"));
            }
            (None, _) if uploads > 0 => {
                object.insert("format".into(), json!("langfuse"));
            }
            // Nothing in it has a header: there is nothing to deliver.
            _ => {}
        }
    }
    let json = Value::Object(object).to_string();
    let config = drain::configure(&json, process_env).unwrap_or_else(|why| {
        let place = if args.format.is_some() { String::new() } else { format!("{}: ", dir.display()) };
        refuse(&format!("{place}{why}"))
    });
    let events = survey.takeable().map(|held| held.events()).sum();
    let takes_uploads = drain::takes_uploads(&config);
    Some(Plan { dir: dir.to_path_buf(), json, events, uploads, takes_uploads })
}

/// The first signal asks to stop, the second one ends the process.
fn take_signals(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(stop))?;
        flag::register(signal, Arc::clone(stop))?;
    }
    Ok(())
}

/// The work under way.
struct Work {
    total: Total,
    stop: Arc<AtomicBool>,
    until: Instant,
}

impl Work {
    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Drain one directory, and again what owners leave that die meanwhile.
    fn deliver(&mut self, plan: &Plan) -> Result<(), String> {
        let begin = Instant::now();
        let (mut said, mut before) = (begin, 0);
        let (mut tried, mut uploads): (BTreeSet<Stem>, BTreeSet<String>) = Default::default();
        loop {
            let Ok(survey) = Survey::of(&plan.dir) else { return Ok(()) };
            let new = survey.takeable().filter(|held| tried.insert(held.stem)).count()
                + survey.takeable_uploads().filter(|upload| uploads.insert(upload.name.text())).count();
            if new == 0 || self.is_late() || self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let result = drain::drain(&plan.json, &plan.dir, self.until, |stats| {
                if said.elapsed() >= SILENCE {
                    said = Instant::now();
                    let settled = before + settled(stats);
                    let (of, after) = (plan.events.max(settled), say::short(begin.elapsed()));
                    let (dir, mut and) = (plan.dir.display(), String::new());
                    if plan.takes_uploads && plan.uploads > 0 {
                        let done = self.total.uploaded + self.total.uploads_failed;
                        let done = done + stats.uploaded + stats.uploads_failed;
                        and = format!(" and {done} of {} uploads", plan.uploads.max(done));
                    }
                    eprintln!("telemetry: {dir}: {settled} of {of} events{and} settled after {after}");
                }
                self.stop.load(Ordering::Relaxed)
            });
            let stats = match result {
                Ok(stats) => stats,
                Err(OpenError::Config(why)) => refuse(&why),
                Err(OpenError::Io(why)) => return Err(why),
            };
            before += settled(&stats);
            self.total.add(&stats);
        }
    }
}

fn settled(stats: &Snapshot) -> u64 {
    stats.delivered + stats.rejected + stats.invalid + stats.expired
}

impl Total {
    fn add(&mut self, stats: &Snapshot) {
        self.delivered += stats.delivered;
        self.rejected += stats.rejected;
        self.invalid += stats.invalid;
        self.expired += stats.expired;
        self.corrupt += stats.corrupt;
        self.uploaded += stats.uploaded;
        self.uploads_failed += stats.uploads_failed;
    }
}

impl Left {
    /// Add what a directory still holds, and report what others hold there.
    fn count(&mut self, survey: &Survey) {
        let dir = survey.path.display();
        for held in survey.takeable() {
            self.events += held.events();
            for segment in held.segments.iter().filter(|segment| segment.unread) {
                for fault in &segment.faults {
                    self.reasons.push(format!("{dir}/{}: {}", segment.name, fault.what));
                }
            }
        }
        for held in survey.others().filter(|held| held.events() > 0) {
            let (events, whose) = (say::count(held.events(), "event"), held.owner.describe());
            eprintln!("telemetry: {dir}: {events} of {whose} left");
        }
        let uploads = survey.takeable_uploads().count() as u64;
        self.uploads += uploads;
        if let Some(other) = survey.uploads.iter().find(|upload| !upload.owner.is_takeable()) {
            let n = say::count(survey.uploads.len() as u64 - uploads, "upload");
            eprintln!("telemetry: {dir}: {n} of {} left", other.owner.describe());
        }
    }
}
