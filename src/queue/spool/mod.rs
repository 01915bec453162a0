//! The spool: segments in files, which outlive their process.
//!
//! Invariants:
//! - An event is safe the moment `enqueue` returned OK: its record is in the page cache of a shared mapping, which the
//!   kernel keeps whatever becomes of the process. (What the machine's end costs is the business of `sync`.)
//! - A file has one owner at a time. An owner is alive as long as its lock is held *or* its identity (boot, process-id
//!   namespace, process id, start time) is ([`claim`]); forks inherit neither.
//! - Whoever adopts reads by a rule that always ends ([`scan`]), and moves the settled place in the file, so that a restart
//!   sends at most the batch in flight again, under the same ids.
//! - Nothing here is needed to enqueue: without a usable directory the segments are memory ([`store`]).

pub mod claim;
pub mod directory;
pub mod header;
pub mod names;
pub mod orphans;
pub mod read;
pub mod scan;
pub mod store;
