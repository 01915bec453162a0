//! The directory of a spool: made, looked at before it is trusted, listed.
//!
//! Invariants:
//! - Only a directory of our own user, closed to all others and reached through no symlink, is used; the one
//!   above it belongs to us or to root and nobody else may rename in it.
//! - Looked at anew by each process, with its own user: a server changes its user between open and fork.
//! - Nothing here follows a symlink in the last component, and every descriptor is closed by `exec`.

use super::names::{MediaName, Name, Stem, parse};
use crate::platform::files::{Guarded, NAMELESS, names_in};
use crate::platform::identity::Identity;
use crate::platform::process;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum Problem {
    /// It is not safe; the text says what it is and what is allowed.
    Unsafe(String),
    /// It is another user's, and we are root: whoever we become may be allowed.
    Foreign(String),
    /// The system says no; it may say yes later.
    Unavailable(io::Error),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Unsafe(why) | Problem::Foreign(why) => f.write_str(why),
            Problem::Unavailable(why) => write!(f, "{why}"),
        }
    }
}

/// A spool's directory, `<spool_dir>/<name>-<hash>`. Holds no descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    root: PathBuf,
    path: PathBuf,
}

/// What is in it.
#[derive(Debug, Default)]
pub struct Listing {
    /// Own files and their holders.
    pub owns: BTreeMap<Stem, Vec<Option<Identity>>>,
    /// Segments, in order, with their sizes.
    pub segments: BTreeMap<Stem, Vec<(u32, u64)>>,
    /// Uploads, the oldest first, with their sizes.
    pub media: Vec<(MediaName, u64)>,
    /// Files that were set aside, and files with names of nobody's.
    pub others: Vec<String>,
}

impl Directory {
    /// `<root>/<leaf>`; nothing is looked at yet.
    pub fn new(root: &Path, leaf: &str) -> Directory {
        Directory { root: root.to_path_buf(), path: root.join(leaf) }
    }

    /// A spool's directory by its own path, for tools.
    pub fn at(path: &Path) -> Directory {
        Directory { root: path.to_path_buf(), path: path.to_path_buf() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Look at what is there; what is not there yet is no problem.
    pub fn check(&self) -> Result<(), Problem> {
        for (path, leaf) in [(&self.root, self.root == self.path), (&self.path, true)] {
            match fs::symlink_metadata(path) {
                Ok(meta) => trust(path, &meta, leaf)?,
                Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(why) => return Err(Problem::Unavailable(why)),
            }
        }
        Ok(())
    }

    /// Make it if it is not there, and look at it.
    pub fn enter(&self) -> Result<(), Problem> {
        self.check()?;
        if !self.path.exists() {
            let mut how = DirBuilder::new();
            how.mode(0o700).recursive(true).create(&self.root).map_err(Problem::Unavailable)?;
            match DirBuilder::new().mode(0o700).create(&self.path) {
                Err(why) if why.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Problem::Unavailable(why));
                }
                _ => {}
            }
            self.check()?;
        }
        Ok(())
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Make a new file, readable by us alone.
    pub fn create(&self, name: &str) -> io::Result<Guarded> {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create_new(true).mode(0o600);
        Guarded::new(how.custom_flags(libc::O_NOFOLLOW).open(self.file(name))?)
    }

    /// Make a file without a name, which is gone with its descriptor. Not every file system can.
    pub fn create_nameless(&self) -> io::Result<Guarded> {
        let mut how = OpenOptions::new();
        Guarded::new(how.read(true).write(true).mode(0o600).custom_flags(NAMELESS).open(&self.path)?)
    }

    /// Open a file for reading and writing. Never waits, whatever kind of file somebody put there.
    pub fn open(&self, name: &str) -> io::Result<Guarded> {
        self.open_as(name, OpenOptions::new().read(true).write(true))
    }

    /// The same for whoever only looks.
    pub fn open_to_read(&self, name: &str) -> io::Result<Guarded> {
        self.open_as(name, OpenOptions::new().read(true))
    }

    fn open_as(&self, name: &str, how: &mut OpenOptions) -> io::Result<Guarded> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = Guarded::new(how.custom_flags(flags).open(self.file(name))?)?;
        if !file.get()?.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// Write a word into a file.
    pub fn write_word(&self, name: &str, word: u64, offset: u64) -> io::Result<()> {
        self.open(name)?.get()?.write_all_at(&word.to_ne_bytes(), offset)
    }

    /// Remove a file; one that is gone already is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
            _ => Ok(()),
        }
    }

    /// Set a file aside.
    pub fn quarantine(&self, name: &str) -> io::Result<()> {
        fs::rename(self.file(name), self.file(&format!("{name}.bad")))
    }

    /// What is in it. One entry that cannot be read hides no other.
    pub fn list(&self) -> io::Result<Listing> {
        let mut found = Listing::default();
        for name in names_in(&self.path)? {
            let name = name.to_string_lossy().into_owned();
            match parse(&name) {
                Some(Name::Own(stem, holder)) => found.owns.entry(stem).or_default().push(holder),
                Some(Name::Segment(stem, number)) => {
                    let len = fs::symlink_metadata(self.file(&name)).map_or(0, |m| m.len());
                    found.segments.entry(stem).or_default().push((number, len));
                }
                Some(Name::Media(media)) => {
                    let len = fs::symlink_metadata(self.file(&name)).map_or(0, |m| m.len());
                    found.media.push((media, len));
                }
                Some(Name::Bad) | None => found.others.push(name),
            }
        }
        found.segments.values_mut().for_each(|numbers| numbers.sort_unstable());
        found.media.sort_unstable_by_key(|(name, _)| (name.created_ms, name.generation, name.random));
        found.others.sort_unstable();
        Ok(found)
    }

    /// Remove files that were set aside longer than `age` ago.
    pub fn tidy(&self, listing: &Listing, age: Duration) {
        for name in listing.others.iter().filter(|name| parse(name) == Some(Name::Bad)) {
            // The time of its renaming, not of its last event.
            let Ok(meta) = fs::symlink_metadata(self.file(name)) else { continue };
            let since = UNIX_EPOCH + Duration::from_secs(meta.ctime().max(0) as u64);
            if SystemTime::now().duration_since(since).is_ok_and(|d| d > age) {
                let _ = self.remove(name);
            }
        }
    }

    /// Bring the directory's own entries to the disk.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Whether this directory may be used: see the module's text.
fn trust(path: &Path, meta: &Metadata, leaf: bool) -> Result<(), Problem> {
    let shown = path.display();
    let user = process::effective_uid();
    let unsafe_because = |what: String| Err(Problem::Unsafe(format!("{shown} {what}")));
    if meta.file_type().is_symlink() {
        return unsafe_because("is a symlink; allowed: a directory itself".into());
    }
    if !meta.is_dir() {
        return unsafe_because("is not a directory".into());
    }
    let mode = meta.mode() & 0o7777;
    if !leaf && mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return unsafe_because(format!(
            "is writable by everybody (mode {mode:04o}); allowed: not so, or with the sticky bit"
        ));
    }
    let ours = meta.uid() == user || (!leaf && meta.uid() == 0);
    if !ours {
        let why = format!("{shown} belongs to user {}, and this process runs as user {user}", meta.uid());
        return Err(if user == 0 { Problem::Foreign(why) } else { Problem::Unsafe(why) });
    }
    if leaf && mode & 0o077 != 0 {
        return unsafe_because(format!("has mode {mode:04o}; allowed: 0700"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// `/tmp/.../spool`, not made yet.
    fn fresh(name: &str) -> Directory {
        let root = PathBuf::from(format!("/tmp/libtelemetry-{}-directory-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Directory::new(&root, "spool")
    }

    fn gone(dir: &Directory) {
        fs::remove_dir_all(&dir.root).unwrap();
    }

    #[test]
    fn it_is_made_private_and_looked_at() {
        let dir = fresh("made");
        assert!(dir.check().is_ok(), "what is not there is no problem");
        dir.enter().unwrap();
        dir.enter().unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(dir.enter(), Err(Problem::Unsafe(why)) if why.contains("mode 0750")));
        fs::remove_dir(dir.path()).unwrap();
        symlink("/tmp", dir.path()).unwrap();
        assert!(matches!(dir.enter(), Err(Problem::Unsafe(why)) if why.contains("symlink")));
        gone(&dir);
        let below = Directory::new(Path::new("/dev/null/x"), "spool");
        assert!(matches!(below.enter(), Err(Problem::Unavailable(_))));
    }

    #[test]
    fn it_is_listed_by_names_alone() {
        let dir = fresh("listed");
        dir.enter().unwrap();
        assert!(dir.list().unwrap().segments.is_empty());
        let stem = Stem { created_ms: 1, boot: 2, nonce: 3 };
        for number in [9, 1, 5] {
            fs::write(dir.file(&stem.segment(number)), vec![0; number as usize]).unwrap();
        }
        dir.create(&stem.own(None)).unwrap();
        assert!(dir.create(&stem.own(None)).is_err(), "once");
        dir.quarantine(&stem.segment(5)).unwrap();
        fs::write(dir.file("stranger"), "").unwrap();
        let found = dir.list().unwrap();
        assert_eq!(found.segments[&stem], [(1, 1), (9, 9)]);
        assert_eq!(found.owns[&stem], [None]);
        assert_eq!(found.others, [format!("{}.bad", stem.segment(5)), "stranger".into()]);
        dir.tidy(&found, Duration::from_secs(3600));
        assert!(dir.file(&format!("{}.bad", stem.segment(5))).exists(), "too young");
        dir.tidy(&found, Duration::ZERO);
        assert_eq!(dir.list().unwrap().others, ["stranger"]);
        dir.remove("never was").unwrap();
        gone(&dir);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = fresh("opened");
        dir.enter().unwrap();
        symlink("/etc/passwd", dir.file("link")).unwrap();
        fs::create_dir(dir.file("dir")).unwrap();
        fs::write(dir.file("file"), "").unwrap();
        assert!(dir.open("file").is_ok());
        assert!(dir.open("link").is_err() && dir.open("dir").is_err());
        gone(&dir);
    }
}
