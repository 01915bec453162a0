//! `telemetry fleet`: workers of any program, under the supervisor of the library.
//!
//! Invariants: flags win over the configuration, the configuration over the environment; SIGHUP reads the configuration's
//! file anew before anything is replaced; the status is the fleet's own, as the library documents it.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use telemetry::fleet::child::Target;
use telemetry::fleet::supervisor::{Error, Fleet, exit};
use telemetry::platform::log;

/// Arguments of `telemetry fleet`.
#[derive(clap::Args)]
#[command(
    after_help = "Signals: TERM and INT end it within the grace time, again: at once; QUIT within 2 s; HUP replaces all \
    workers; TTIN, TTOU one more, one fewer; USR1 says the status; USR2 becomes the program anew, with the same workers; \
    WINCH pauses.\nExit status: 0; 1 a worker had to be killed; 64 cannot begin so; 69 the required health endpoint cannot \
    listen; 70 too many restarts; 71 the system refused."
)]
pub struct Args {
    /// How many workers
    #[arg(short = 'n', long = "workers", value_name = "N", default_value_t = 1)]
    workers: u32,
    /// What the workers are called
    #[arg(long, value_name = "NAME", default_value = "worker")]
    worker_name: String,
    /// Settings: a JSON object, or a file that holds one
    #[arg(long, value_name = "JSON|FILE")]
    config: Option<String>,
    /// Where the health endpoint listens: HOST:PORT, :PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    health: Option<String>,
    /// What logs, status and metrics call the fleet
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// From TERM to KILL, in seconds
    #[arg(long, value_name = "SECONDS")]
    grace: Option<f64>,
    /// Any other setting: KEY=VALUE, as in the JSON; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Say nothing but warnings
    #[arg(short, long)]
    quiet: bool,
    /// The program that the workers run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The text of the configuration, with the flags laid over it.
fn settings(args: &Args) -> Result<String, String> {
    let text = match &args.config {
        None => String::new(),
        Some(text) if text.trim_start().starts_with('{') => text.clone(),
        Some(path) => std::fs::read_to_string(path).map_err(|why| {
            format!("--config is {path:?}, which cannot be read: {why}; allowed: a JSON object, or a file")
        })?,
    };
    let flags = flags(args)?;
    if flags.is_empty() {
        return Ok(text);
    }
    // Checked for itself first, so that an error names what is wrong with it.
    Ok(match text.trim() {
        "" => serde_json::Value::Object(flags).to_string(),
        text => {
            let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
                .map_err(|why| format!("--config is not one JSON object: {why}"))?;
            all.extend(flags);
            serde_json::Value::Object(all).to_string()
        }
    })
}

fn flags(args: &Args) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let mut flags = serde_json::Map::new();
    for pair in &args.set {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!("--set is {pair:?}; allowed: KEY=VALUE"));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        flags.insert(key.into(), value);
    }
    if let Some(health) = &args.health {
        flags.insert("health".into(), health.as_str().into());
    }
    if let Some(name) = &args.name {
        flags.insert("name".into(), name.as_str().into());
    }
    if let Some(grace) = args.grace {
        if !(0.0..=86_400.0).contains(&grace) {
            return Err(format!("--grace is {grace}; allowed: seconds from 0 to 86400"));
        }
        flags.insert("grace_ms".into(), ((grace * 1000.0) as u64).into());
    }
    Ok(flags)
}

/// Run it.
pub fn run(args: Args) -> ExitCode {
    log::set(None, std::ptr::null_mut(), if args.quiet { log::Level::Warn } else { log::Level::Info } as u32);
    match supervise(args) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(why) => {
            let (code, text) = match why {
                Error::Invalid(text) => (exit::USAGE, text),
                Error::Io(text) => (exit::SYSTEM, text),
            };
            eprintln!("telemetry: {text}");
            ExitCode::from(code as u8)
        }
    }
}

fn supervise(args: Args) -> Result<i32, Error> {
    let fleet = Fleet::new(&settings(&args).map_err(Error::Invalid)?)?;
    fleet.add(&args.worker_name, args.workers, "", Target::Command(args.command.clone()))?;
    // Nobody else in this process has children.
    fleet.reap_all();
    if args.config.as_deref().is_some_and(|text| Path::new(text).is_file()) {
        fleet.set_reread(Box::new(move || settings(&args)));
    }
    fleet.run()
}
