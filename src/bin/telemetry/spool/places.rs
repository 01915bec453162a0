//! Which directories are meant: a spool's own directory, or all of those in a `spool_dir`.
//!
//! Invariants:
//! - A directory is a spool's if it holds files of a spool, or if its name is one that the library gives (it ends with
//!   the hash of a destination); so an empty one is still known for what it is.
//! - Symlinks among sub-directories are passed over, as the library refuses them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use telemetry::queue::spool::names::parse;

/// The spools' own directories that `dir` means, in order of their names.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let naming = |why: io::Error| format!("{}: {why}", dir.display());
    match fs::metadata(dir) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            return Err(format!("{}: there is no such directory", dir.display()));
        }
        Err(why) => return Err(naming(why)),
        Ok(meta) if !meta.is_dir() => return Err(format!("{} is not a directory", dir.display())),
        Ok(_) => {}
    }
    if holds_spool(dir).map_err(naming)? || has_hash(&dir.canonicalize().map_err(naming)?) {
        return Ok(vec![dir.to_path_buf()]);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(naming)?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| has_hash(path) || holds_spool(path).unwrap_or(false))
        .collect();
    if found.is_empty() {
        return Err(format!(
            "{} holds no spool; allowed: a spool_dir, or one <name>-<hash> directory in it",
            dir.display()
        ));
    }
    found.sort();
    Ok(found)
}

fn holds_spool(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.flatten().any(|entry| is_spools(&entry.file_name().to_string_lossy())))
}

/// Whether a file of that name is one of a spool, set aside or not.
pub fn is_spools(name: &str) -> bool {
    parse(name).is_some()
}

/// Whether the last component is `<hash>` or `<name>-<hash>`.
fn has_hash(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let Some((before, hash)) = name.len().checked_sub(16).and_then(|at| name.split_at_checked(at)) else {
        return false;
    };
    (before.is_empty() || before.ends_with('-'))
        && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories() {
        for name in ["0123456789abcdef", "app-0123456789abcdef", "/s/a-b-0123456789abcdef/"] {
            assert!(has_hash(Path::new(name)), "{name}");
        }
        for name in
            ["", "app", "app0123456789abcdef", "0123456789abcdeg", "123456789abcdef", "\u{e9}23456789abcdef"]
        {
            assert!(!has_hash(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn names_of_files() {
        for name in [
            "0000000000000001-2-0000000000000003@none.own",
            "0000000000000001-2-0000000000000003-00000001.seg",
            "0000000000000001-2-0000000000000003-00000001.seg.bad",
        ] {
            assert!(is_spools(name), "{name}");
        }
        for name in [
            "x.bad",
            "a.seg",
            "events.ndjson",
            "1-2-3@none.own",
            "0000000000000001-2-0000000000000003-00000001.seg.bad.bad",
        ] {
            assert!(!is_spools(name), "{name}");
        }
    }
}
