//! How a fleet tells that it is well: an HTTP endpoint in the supervisor's own loop, and what it serves.
//!
//! Invariants of this room:
//! - Nothing here blocks, starts a thread, or speaks to a worker: what is served comes from one [`Status`], which the
//!   supervisor fills from its policy and its scoreboard, or which a reader of a scoreboard fills.
//! - A turn of the [`Server`] does a bounded amount of work, whoever is connected and whatever they send or do not read.
//! - Nothing but names, numbers and what workers say they are doing is told: no payloads, no arguments, no environment.
//!
//! | path | status | body |
//! | --- | --- | --- |
//! | `/livez` | 200 if the supervisor and its slots get on, else 503 | the status document, JSON |
//! | `/readyz` | 200 if there is somebody who may take work, else 503 | the same |
//! | `/status` | 200 | the same |
//! | `/metrics` | 200 | Prometheus' text format |
//! | `/` | 200 | a page that keeps itself fresh |
//!
//! With `?verbose` the JSON is indented. Every answer ends its connection.
#![forbid(unsafe_code)]

mod connection;
pub mod document;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod notify;
pub mod page;
mod server;

pub use document::Status;
pub use http::{Answer, Path};
pub use listen::Listener;
pub use notify::Notify;
pub use server::Server;

/// Milliseconds of the monotonic clock.
pub type Ms = u64;

/// What `path` is answered with, for a fleet that is as `status` says.
pub fn answer(path: Path, verbose: bool, status: &Status) -> Answer {
    let of = |good: bool| if good { 200 } else { 503 };
    match path {
        Path::Live => Answer::json(of(status.live), status.json(verbose)),
        Path::Ready => Answer::json(of(status.ready), status.json(verbose)),
        Path::Status => Answer::json(200, status.json(verbose)),
        Path::Metrics => Answer::new(200, metrics::CONTENT_TYPE, metrics::text(status)),
        Path::Page => page::answer(status),
    }
}
