//! The numbers that a user sets: [`Limits`] a group, [`Rules`] the fleet.
#![forbid(unsafe_code)]

use super::Ms;

/// Of a group. A 0 means "none" where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The oldest that a beat may be.
    pub stale_ms: Ms,
    /// From the fork to ready.
    pub start_deadline_ms: Ms,
    /// For one item, unless the worker gave a deadline of its own with it.
    pub item_deadline_ms: Ms,
    /// The bound of the delay after the first crash of a row; it doubles with each further one. 0: no delay ever.
    pub backoff_base_ms: Ms,
    /// The most that the bound becomes.
    pub backoff_cap_ms: Ms,
    /// Ready for so long is a healthy life, which ends a row of crashes. 0: any time ready.
    pub healthy_after_ms: Ms,
    /// [`Limits::crash_limit`] crashes of one row within this are a crash loop. What the fleet itself waited (back-off,
    /// start deadlines) is not counted.
    pub crash_window_ms: Ms,
    /// A worker's age at which it is recycled.
    pub max_age_ms: Ms,
    /// Between the dump and TERM of a worker that hangs. 0: no dump.
    pub dump_ms: Ms,
    /// Between TERM and KILL of one worker that hangs, is recycled, replaced or one too many. 0: KILL with TERM.
    pub kill_ms: Ms,
    /// See [`Limits::crash_window_ms`].
    pub crash_limit: u32,
    /// Items after which a worker is recycled.
    pub max_items: u64,
    /// Resident memory, in units of 1024 bytes, at which it is.
    pub max_rss_kb: u64,
    /// By how many per cent, at most, these three are made smaller, drawn anew for each incarnation.
    pub jitter_pct: u32,
    /// Exit codes that say that another try is of no use.
    pub permanent_exit: Vec<i32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            stale_ms: 30_000,
            start_deadline_ms: 60_000,
            item_deadline_ms: 0,
            backoff_base_ms: 100,
            backoff_cap_ms: 30_000,
            healthy_after_ms: 10_000,
            crash_window_ms: 60_000,
            max_age_ms: 0,
            dump_ms: 1_000,
            kill_ms: 5_000,
            crash_limit: 5,
            max_items: 0,
            max_rss_kb: 0,
            jitter_pct: 10,
            permanent_exit: vec![64, 78],
        }
    }
}

/// Of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// From the request to stop to KILL.
    pub grace_ms: Ms,
    /// More restarts after crashes than this within [`Rules::intensity_window_ms`] are too many. 0: twice the workers
    /// wanted, at least 3.
    pub intensity: u32,
    /// See [`Rules::intensity`].
    pub intensity_window_ms: Ms,
    /// Too many: drain and exit with [`super::exit::INTENSITY`], instead of only saying so.
    pub exit_on_intensity: bool,
    /// How many workers of a group may be there beyond those wanted while it replaces some. 0: the old one is stopped
    /// first.
    pub surge: u32,
    /// How many of a group may be missing at once because the fleet itself stopped them to start them anew. Crashed
    /// ones come on top. 0 counts as 1 if `surge` is 0, too.
    pub max_unavailable: u32,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            grace_ms: 25_000,
            intensity: 0,
            intensity_window_ms: 60_000,
            exit_on_intensity: false,
            surge: 1,
            max_unavailable: 1,
        }
    }
}
