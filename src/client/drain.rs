//! Delivering what lies in a spool's directory, without a client's own queue: for tools.
//!
//! Invariants:
//! - Only orphans are taken, by the rule of every adopter: a living owner's files are left alone, and so is what
//!   another adopter holds.
//! - What is not delivered when it ends is in the directory still, for whoever comes; nothing of it is reported as lost.

use super::config::{Config, process_env};
use super::handle::{CLOSED, Client};
use super::life::Snapshot;
pub use super::open::takes_uploads;
use super::open::{OpenError, open_with};
use crate::delivery::engine::{Engine, Next};
use crate::delivery::media::Media;
use crate::platform::clock;
use crate::platform::identity::Identity;
use crate::platform::sockets::FileTable;
use crate::queue::media::files::Shelf;
use crate::queue::spool::claim;
use crate::queue::spool::directory::Directory;
use crate::queue::spool::orphans::Orphans;
use crate::sink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A tool tidies nothing away.
const KEEP_BAD: Duration = Duration::MAX;

/// How long what lies in a spool may have lain there, unless it was configured: who empties one by hand wants it
/// delivered, and what has expired is gone.
const ANY_AGE_S: &str = "31536000";

/// Deliver the orphans in `dir`, a spool's own directory (`<spool_dir>/<name>-<hash>`), as `json` and the environment say
/// where and how, until none is left, `until` has come or `over` says so. Gives what happened.
pub fn drain(
    json: &str,
    dir: &Path,
    until: Instant,
    mut over: impl FnMut(&Snapshot) -> bool,
) -> Result<Snapshot, OpenError> {
    let client = open_with(configure(json, process_env).map_err(OpenError::Config)?)?;
    claim::prepare_page(true);
    let result = deliver(&client, dir, until, &mut over);
    // Nothing is lost with it that it should say: what was not delivered is where it was.
    client.flags.fetch_or(CLOSED, Ordering::SeqCst);
    client.free();
    result
}

/// The configuration of a drain: as ever, but that events live as in a spool, and that no spool of its own is made.
pub fn configure(json: &str, env: impl Fn(&str) -> Option<String>) -> Result<Config, String> {
    let spooled = |name: &str| {
        let given = env(name).filter(|value| !value.is_empty());
        match name {
            "TELEMETRY_SPOOL_DIR" => given.or(Some(".".into())),
            "TELEMETRY_SPOOL_MAX_AGE_S" => given.or(Some(ANY_AGE_S.into())),
            _ => env(name),
        }
    };
    let config = Config::parse(json, spooled).map_err(|why| why.to_string())?;
    if config.disabled {
        return Err("disabled is true: nothing would be delivered".into());
    }
    Ok(Config { spool: None, ..config })
}

fn deliver(
    client: &Client,
    dir: &Path,
    until: Instant,
    over: &mut dyn FnMut(&Snapshot) -> bool,
) -> Result<Snapshot, OpenError> {
    let shown = dir.display().to_string();
    let io = |why: String| OpenError::Io(if why.contains(&shown) { why } else { format!("{shown}: {why}") });
    let generation = client.enter().ok_or_else(|| OpenError::Io("no memory for the queue".into()))?;
    let desk = client.desk(generation);
    let table = Arc::new(FileTable::new());
    let mut orphans = Orphans::new(Directory::at(dir), Identity::mine(), table.clone());
    orphans.sweep(KEEP_BAD).map_err(|why| io(why.to_string()))?;
    let sink = sink::open(&client.sink, client.sockets.clone()).map_err(OpenError::Config)?;
    let (settings, format) = (client.settings.clone(), client.format.clone());
    let to_uploads = settings.media.clone().map(|to| {
        let sink = sink::open(&client.sink, client.sockets.clone()).map_err(OpenError::Config)?;
        let shelf = Shelf { dir: Directory::at(dir), table, me: Identity::mine(), generation };
        Ok(Media::new(to, sink, Some(shelf), false, settings.limits))
    });
    let mut engine = Engine::new(settings, format, sink, Some(orphans), to_uploads.transpose()?, &desk);
    loop {
        let stats = client.stats();
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || over(&stats) {
            return Ok(stats);
        }
        match engine.poll(&desk, true, Some(until)) {
            Next::Idle => return Ok(client.stats()),
            Next::Again => {}
            Next::At(at) => {
                let pause = at.saturating_duration_since(Instant::now());
                clock::nap(pause.min(left).min(Duration::from_millis(100)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_live_as_in_a_spool_and_longer_unless_somebody_says_otherwise() {
        let age = |json: &str, env: &[(&str, &str)]| {
            let find = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
            let config = configure(json, find).unwrap();
            assert_eq!(config.spool, None);
            config.retry.max_age_s
        };
        assert_eq!(age("", &[]), 31_536_000);
        assert_eq!(age(r#"{"spool_dir":"s"}"#, &[("TELEMETRY_SPOOL_DIR", "t")]), 31_536_000);
        assert_eq!(age("", &[("TELEMETRY_SPOOL_MAX_AGE_S", "70")]), 70);
        assert_eq!(age(r#"{"spool_max_age_s":60}"#, &[("TELEMETRY_SPOOL_MAX_AGE_S", "70")]), 60);
        assert_eq!(age(r#"{"retry":{"max_age_s":50}}"#, &[]), 50);
        assert_eq!(age("", &[("TELEMETRY_RETRY_MAX_AGE_S", "50")]), 50);
        let disabled = configure("", |name| (name == "TELEMETRY_DISABLED").then(|| "1".into()));
        assert!(disabled.unwrap_err().contains("disabled"));
    }
}
