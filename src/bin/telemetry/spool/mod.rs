//! `telemetry spool`: what lies in a spool's directory, whether it can be read, and how to get it delivered.
//!
//! Invariants:
//! - `ls` and `verify` change nothing, take no lock and open files only to read: a live owner does not notice.
//!   (Closing a file drops the record locks of the process that closes it, and of no other.)
//! - Who is alive is told by the library's own rule; what is readable, by the library's own scan.
//! - What a live owner writes meanwhile may or may not be counted: numbers are a snapshot.
//! - `drain` takes only what any adopter would take, and leaves what it cannot deliver where it is.
//!
//! Layout: `places` which directories are meant, `owner` whose a file is, `segment` and `upload` one file, `survey` one directory,
//! `ls`, `verify` and `drain` what is made of it, `say` words and numbers for people.

mod drain;
mod ls;
mod owner;
mod places;
mod say;
mod segment;
mod survey;
mod upload;
mod verify;

use std::path::PathBuf;

/// Arguments of `telemetry spool`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List what is in it: whose it is, how old, how many events are not settled yet, and which uploads wait.
    Ls(Look),
    /// Read all of it and report what cannot be read; status 1 if anything cannot.
    Verify(Look),
    /// Deliver what dead processes left in it; status 0 only if all of that was delivered.
    Drain(drain::Args),
}

/// Arguments of the two that only look.
#[derive(clap::Args)]
struct Look {
    /// A spool_dir, or one <name>-<hash> directory in it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Run it.
pub fn run(args: Args) -> Result<(), String> {
    match args.what {
        What::Ls(look) => ls::run(&look),
        What::Verify(look) => verify::run(&look),
        What::Drain(args) => drain::run(&args),
    }
}
