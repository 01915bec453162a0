//! Delivering what lies in a spool's directory, without a client's own queue: for tools.
//!
//! Invariants:
//! - Only orphans are taken, by the rule of every adopter: a living owner's files are left alone, and so is what
//!   another adopter holds.
//! - What is not delivered when it ends is in the directory still, for whoever comes.

use super::handle::Client;
use super::life::Snapshot;
use super::open::{OpenError, open};
use crate::delivery::engine::{Engine, Next};
use crate::platform::clock;
use crate::platform::identity::Identity;
use crate::platform::sockets::FileTable;
use crate::queue::spool::claim;
use crate::queue::spool::directory::Directory;
use crate::queue::spool::orphans::Orphans;
use crate::sink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tool tidies nothing away.
const KEEP_BAD: Duration = Duration::MAX;

/// Deliver the orphans in `dir`, a spool's own directory (`<spool_dir>/<name>-<hash>`), as `json` says where and how,
/// until none is left or `over` says so. Gives what happened.
pub fn drain(json: &str, dir: &Path, mut over: impl FnMut(&Snapshot) -> bool) -> Result<Snapshot, OpenError> {
    let client = open(json)?;
    claim::prepare_page(true);
    let result = deliver(&client, dir, &mut over);
    client.shutdown(Duration::ZERO);
    result
}

fn deliver(
    client: &Client,
    dir: &Path,
    over: &mut dyn FnMut(&Snapshot) -> bool,
) -> Result<Snapshot, OpenError> {
    let io = |why: String| OpenError::Io(format!("{}: {why}", dir.display()));
    let generation = client.enter().ok_or_else(|| OpenError::Io("no memory for the queue".into()))?;
    let desk = client.desk(generation);
    let table = Arc::new(FileTable::new());
    let mut orphans = Orphans::new(Directory::at(dir), Identity::mine(), table);
    orphans.sweep(KEEP_BAD).map_err(|why| io(why.to_string()))?;
    let sink = sink::open(&client.sink, client.sockets.clone()).map_err(OpenError::Config)?;
    let (settings, format) = (client.settings.clone(), client.format.clone());
    let mut engine = Engine::new(settings, format, sink, Some(orphans), &desk);
    loop {
        let next = engine.poll(&desk, true, None);
        let stats = client.stats();
        match next {
            Next::Idle => return Ok(stats),
            _ if over(&stats) => return Ok(stats),
            Next::Again => {}
            Next::At(at) => {
                let pause = at.saturating_duration_since(Instant::now());
                clock::nap(pause.min(Duration::from_millis(100)));
            }
        }
    }
}
