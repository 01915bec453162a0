//! `telemetry status`: every fleet and every family that runs here, seen from outside.
//!
//! Invariants:
//! - It only reads, and asks nobody: a supervisor that is stopped or dead is shown as that, and holds nothing up.
//! - What cannot be read has a line of its own, which says why, and hides nothing else.
//! - On a terminal `--watch` leaves the screen as it was, however it ends but by SIGKILL.
//!
//! Layout: `fleet` and `family` what is read, as a table and as JSON; `table` columns that fit; `screen` the terminal; `say`
//! words and numbers for people.

mod family;
mod fleet;
mod say;
mod screen;
mod table;

use screen::Screen;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use table::Style;
use telemetry::board::directory::{Kind, Runtime, resolve};
use telemetry::platform::clock;
use telemetry::platform::identity::Identity;

/// Arguments of `telemetry status`.
#[derive(clap::Args)]
pub struct Args {
    /// The runtime directory. Default: $TELEMETRY_RUNTIME_DIR, $XDG_RUNTIME_DIR/telemetry, or /run/telemetry for root and
    /// telemetry-<uid> in $TMPDIR or /tmp for others
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object: directory, fleets and families; what cannot be read has a member "error"
    #[arg(long)]
    json: bool,
    /// Look again each second: a live screen on a terminal, else one table, or object, after the other
    #[arg(long)]
    watch: bool,
}

const PAUSE: Duration = Duration::from_secs(1);

/// Run it.
pub fn run(args: Args) -> Result<(), String> {
    let dir = resolve(args.dir.as_deref(), |name| std::env::var_os(name));
    // One that was named must be there; the usual one is made by whoever first has something to show.
    if args.dir.is_some() {
        Runtime::look(&dir).map_err(|why| format!("--dir {}: {why}", dir.display()))?;
    }
    let over = Arc::new(AtomicBool::new(false));
    if args.watch {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, over.clone()).map_err(|why| format!("no signals: {why}"))?;
        }
    }
    let mut screen = Screen::new(args.watch && !args.json);
    let done = show(&args, &dir, &mut screen, &over);
    drop(screen);
    match done {
        // Whoever read it has had enough.
        Err(why) if why.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|why| format!("{}: {why}", dir.display())),
    }
}

fn show(args: &Args, dir: &Path, screen: &mut Screen, over: &AtomicBool) -> io::Result<()> {
    loop {
        let seen = look(dir)?;
        let text = if args.json { format!("{}\n", seen.json(dir)) } else { seen.text(dir, &screen.style()) };
        screen.show(&text)?;
        if !args.watch {
            return Ok(());
        }
        if !over.load(Ordering::SeqCst) {
            // A signal ends it at once.
            clock::nap(PAUSE);
        }
        if over.load(Ordering::SeqCst) {
            return Ok(());
        }
    }
}

struct Seen {
    fleets: Vec<fleet::Fleet>,
    families: Vec<family::Kin>,
}

fn look(dir: &Path) -> io::Result<Seen> {
    let me = Identity::mine();
    let found = match Runtime::look(dir).and_then(|runtime| runtime.discover()) {
        Err(why) if why.kind() == ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let of = |kind: Kind| found.iter().filter(move |found| found.kind == kind);
    Ok(Seen {
        fleets: of(Kind::Fleet).map(|found| fleet::Fleet::look(found, &me)).collect(),
        families: of(Kind::Family).map(|found| family::Kin::look(found, &me)).collect(),
    })
}

impl Seen {
    fn json(&self, dir: &Path) -> Value {
        json!({
            "schema": 1,
            "directory": dir.display().to_string(),
            "fleets": self.fleets.iter().map(fleet::Fleet::json).collect::<Vec<_>>(),
            "families": self.families.iter().map(family::Kin::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, dir: &Path, style: &Style) -> String {
        if self.fleets.is_empty() && self.families.is_empty() {
            return format!("nothing to be seen in {}\n", dir.display());
        }
        let mut out = String::new();
        let parts = self.fleets.iter().map(|fleet| fleet.text(style));
        for part in parts.chain(self.families.iter().map(|family| family.text(style))) {
            let between = if out.is_empty() { "" } else { "\n" };
            let _ = write!(out, "{between}{part}");
        }
        out
    }
}
