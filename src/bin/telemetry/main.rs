//! The command `telemetry`: what one needs around the library, and never inside it.
//!
//! Invariants: no sub-command is linked into the shared library (cargo feature `tool`); a bad argument
//! ends with status 2 and names the flag, the value and what is allowed; any other failure ends with
//! status 1 and one line on stderr (a fleet has statuses of its own); stdout carries only what a program would read.
#![forbid(unsafe_code)]

mod collect;
#[cfg(target_os = "linux")]
mod fleet;
mod given;
mod send;
mod spool;
mod status;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tools for telemetry from servers that fork.
#[derive(Parser)]
#[command(name = "telemetry", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a collector: takes events over HTTP, counts them by worker and id, shows a live page, injects faults.
    Collect(collect::Args),
    /// Send each line of the standard input as an event.
    Send(send::Args),
    /// Look into a spool's directory, check it, or deliver what dead processes left in it.
    Spool(spool::Args),
    /// Run a program in several worker processes: start, watch, restart and stop them.
    #[cfg(target_os = "linux")]
    Fleet(fleet::Args),
    /// Show every fleet, and every family of processes with one destination, that runs on this machine.
    Status(status::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Collect(args) => collect::run(args),
        Command::Send(args) => send::run(&args),
        Command::Spool(args) => spool::run(args),
        #[cfg(target_os = "linux")]
        Command::Fleet(args) => return fleet::run(args),
        Command::Status(args) => status::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("telemetry: {why}");
            ExitCode::FAILURE
        }
    }
}
