//! A spool's directory, seen from outside.
use crate::host::{Dir, Host, LONG};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use telemetry::client::config::Config;
use telemetry::client::handle::Status;
use telemetry::queue::record::{HEADER, footprint};
use telemetry::queue::segment::SEGMENT_HEADER;
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::names::{Name, Stem, parse};
use telemetry::queue::spool::scan::Scan;

/// The smallest segment.
pub const SEGMENT: usize = 65_536;

/// A `spool_dir`, removed at the end if it is its own.
pub struct Spool {
    root: PathBuf,
    _dir: Option<Dir>,
}

/// Make a private directory.
pub fn mkdir(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// Where a client of this endpoint keeps its files below its `spool_dir`.
pub fn leaf_of(url: &str) -> String {
    leaf_with(json!({"endpoint": url}))
}

/// The same, of a client with these keys.
pub fn leaf_with(keys: Value) -> String {
    Config::parse(&keys.to_string(), |_| None).unwrap().destination_hash()
}

impl Spool {
    pub fn new() -> Spool {
        let dir = Dir::new();
        Spool { root: dir.0.clone(), _dir: Some(dir) }
    }

    /// In memory, where there is such a place: for tests that make very many.
    pub fn fast() -> Spool {
        static N: AtomicU32 = AtomicU32::new(0);
        if !Path::new("/dev/shm").is_dir() {
            return Spool::new();
        }
        let fresh = || {
            let n = N.fetch_add(1, Ordering::Relaxed);
            PathBuf::from(format!("/dev/shm/telemetry-spool-{}-{n}", std::process::id()))
        };
        // One that was killed and had this process id may have left some.
        let root = std::iter::repeat_with(fresh).find(|root| !root.exists()).unwrap();
        mkdir(&root);
        Spool { root: root.clone(), _dir: Some(Dir(root)) }
    }

    /// At a place that is somebody else's.
    pub fn at(root: &Path) -> Spool {
        Spool { root: root.to_path_buf(), _dir: None }
    }

    /// With the directory of that endpoint's clients made.
    pub fn of(url: &str) -> Spool {
        Spool::new().with_leaf(url)
    }

    pub fn with_leaf(self, url: &str) -> Spool {
        mkdir(&self.root().join(leaf_of(url)));
        self
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The keys of a client with small segments here, and these.
    pub fn keys(&self, more: Value) -> Value {
        let mut keys =
            json!({"spool_dir": self.root(), "segment_bytes": SEGMENT, "queue_bytes": 4 * SEGMENT});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys
    }

    /// The one directory of segments in it.
    pub fn leaf(&self) -> PathBuf {
        let mut all = fs::read_dir(self.root()).unwrap().map(|e| e.unwrap().path());
        let leaf = all.next().expect("no spool was made");
        assert_eq!(all.next(), None, "one endpoint, one directory");
        leaf
    }

    pub fn directory(&self) -> Directory {
        Directory::at(&self.leaf())
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let leaf = fs::read_dir(self.root()).ok().and_then(|mut dir| dir.next());
        let Some(all) = leaf.and_then(|leaf| fs::read_dir(leaf.unwrap().path()).ok()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = all.flatten().map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Segment files, in order.
    pub fn segments(&self) -> Vec<PathBuf> {
        let names = self.names();
        names.iter().filter(|n| n.ends_with(".seg")).map(|n| self.leaf().join(n)).collect()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        put(&self.leaf().join(name), bytes);
    }

    /// A segment file that nobody holds.
    pub fn orphan(&self, stem: Stem, number: u32, bytes: &[u8]) {
        let own = self.leaf().join(stem.own(None));
        if !own.exists() {
            put(&own, b"");
        }
        self.put(&stem.segment(number), bytes);
    }

    /// What a kill at this instant leaves: the segments as they are, held by nobody.
    pub fn killed_now(&self) -> Spool {
        let to = if self.root.starts_with("/dev/shm") { Spool::fast() } else { Spool::new() };
        for leaf in fs::read_dir(self.root()).unwrap().flatten() {
            let copy = to.root().join(leaf.file_name());
            mkdir(&copy);
            for name in fs::read_dir(leaf.path()).unwrap().flatten() {
                let text = name.file_name().into_string().unwrap();
                match parse(&text) {
                    // Not opened: to close it would drop the lock.
                    Some(Name::Own(stem, _)) => put(&copy.join(stem.own(None)), b""),
                    _ => drop(fs::copy(name.path(), copy.join(text))),
                }
            }
        }
        to
    }

    /// The numbers of the events that whoever finds these files would send, in order.
    pub fn on_disk(&self) -> Vec<u64> {
        self.segments().iter().flat_map(|path| numbers_in(&fs::read(path).unwrap_or_default())).collect()
    }

    /// Bytes of disk that its files take.
    pub fn usage(&self) -> u64 {
        let all = self.names().into_iter().filter_map(|n| fs::symlink_metadata(self.leaf().join(n)).ok());
        all.map(|m| m.blocks() * 512).sum()
    }
}

/// Shut a client that has delivered all. `true`: its sender ended in time, and its files are gone; see
/// [`Host::shut_with_a_rest`].
pub fn shut(host: &Host) -> bool {
    let start = Instant::now();
    assert_eq!(host.shutdown(LONG), Status::Ok, "{:?}", host.stats());
    start.elapsed() < Duration::from_millis(500)
}

/// Write a private file.
pub fn put(path: &Path, bytes: &[u8]) {
    let mut how = fs::OpenOptions::new();
    how.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap().write_all(bytes).unwrap();
}

/// `{"n":...,"x":"xxx"}` of `len` bytes, or as few as the number needs.
pub fn event(n: u64, len: usize) -> String {
    let bare = format!("{{\"n\":{n},\"x\":\"\"}}").len();
    format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(len.saturating_sub(bare)))
}

/// The number in it.
pub fn number_of(event: &[u8]) -> u64 {
    serde_json::from_slice::<Value>(event).unwrap()["n"].as_u64().unwrap()
}

/// What the scanner finds in a file.
pub fn numbers_in(bytes: &[u8]) -> Vec<u64> {
    let Ok(mut scan) = Scan::new(bytes) else { return Vec::new() };
    std::iter::from_fn(|| scan.next(bytes).map(|found| number_of(found.body))).collect()
}

/// Where records lie that were written one after the other into a fresh segment, by the lengths of their bodies: start,
/// end of the body, start of the next.
pub fn places(lengths: impl IntoIterator<Item = usize>) -> Vec<(usize, usize, usize)> {
    let mut at = SEGMENT_HEADER as usize;
    let place = |len: usize| {
        let start = at;
        at += footprint(len);
        (start, start + HEADER + len, at)
    };
    lengths.into_iter().map(place).collect()
}

/// These numbers and no others, in this order; says where they differ.
#[track_caller]
pub fn same(got: &[u64], want: impl IntoIterator<Item = u64>) {
    let want: Vec<u64> = want.into_iter().collect();
    let at = got.iter().zip(&want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    let near = |all: &[u64]| all[at.min(all.len())..(at + 10).min(all.len())].to_vec();
    assert!(
        got == want,
        "{} instead of {} numbers; from place {at} on {:?} instead of {:?}",
        got.len(),
        want.len(),
        near(got),
        near(&want)
    );
}
