//! Uploads in a spool's directory: `<time>-<random>.media`.
//!
//! Invariants:
//! - A file has its name only when it is whole; it is removed when it is done with, by whoever had its record lock.
//! - The lock is the process's ([`files::lock`]): it goes with its death, and then any process of the directory may take the
//!   file. Two clients of one process do not see each other's; what both send is the same content under the same id.

use super::image::Image;
use crate::platform::entropy;
use crate::platform::files::{self, Guarded, give_name};
use crate::platform::sockets::{FileTable, Ticket};
use crate::queue::spool::directory::Directory;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

const SUFFIX: &str = ".media";

/// Whether that is the name of an upload.
pub fn is_media(name: &str) -> bool {
    let Some((time, random)) = name.strip_suffix(SUFFIX).and_then(|stem| stem.split_once('-')) else {
        return false;
    };
    [time, random].iter().all(|part| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Write one, after `sync` also to the disk.
pub fn write(dir: &Directory, image: &Image, sync: bool) -> io::Result<()> {
    let name = format!("{:016x}-{:016x}{SUFFIX}", image.time_ns() / 1_000_000, entropy::random_u64());
    let nameless = dir.create_nameless();
    let file = match &nameless {
        Ok(file) => file,
        // This file system has no files without names: a name that nobody takes for an upload.
        Err(_) => return write_and_rename(dir, image, &name, sync),
    };
    fill(file, image, sync)?;
    give_name(file.get()?, &dir.file(&name))?;
    if sync { dir.sync() } else { Ok(()) }
}

fn write_and_rename(dir: &Directory, image: &Image, name: &str, sync: bool) -> io::Result<()> {
    let draft = format!("{name}.bad");
    let file = dir.create(&draft)?;
    let named = fill(&file, image, sync).and_then(|()| std::fs::rename(dir.file(&draft), dir.file(name)));
    if named.is_err() {
        let _ = dir.remove(&draft);
    }
    named?;
    if sync { dir.sync() } else { Ok(()) }
}

fn fill(file: &Guarded, image: &Image, sync: bool) -> io::Result<()> {
    files::allocate(file.get()?, image.len().unwrap_or(0) as u64)?;
    image.write_to(file.get()?)?;
    if sync { file.get()?.sync_data() } else { Ok(()) }
}

/// One that this process has taken on.
pub struct Held {
    name: String,
    file: Guarded,
    ticket: Ticket,
    table: Arc<FileTable>,
}

/// Take one on, if no other process has. `None`: it is another's, it is gone, or it cannot be read and was set aside.
pub fn take(dir: &Directory, name: &str, table: &Arc<FileTable>) -> io::Result<Option<(Held, Image)>> {
    let file = match dir.open(name) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let Some(ticket) = table.note(file.get()?.as_raw_fd()) else { return Ok(None) };
    let held = Held { name: name.to_string(), file, ticket, table: table.clone() };
    let inner = held.file.get()?;
    // Without a name it was done with between our look at the directory and now.
    if !files::lock(inner.as_raw_fd())? || inner.metadata()?.nlink() == 0 {
        return Ok(None);
    }
    match Image::read_from(inner)? {
        Some(image) => Ok(Some((held, image))),
        None => {
            dir.quarantine(name)?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged and was set aside"))
        }
    }
}

impl Held {
    /// It is done with.
    pub fn remove(self, dir: &Directory) {
        // One that cannot be removed is found again, and known to the server by then.
        let _ = dir.remove(&self.name);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.forget(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn one_is_written_found_and_taken() {
        let root = format!("/tmp/libtelemetry-{}-media", std::process::id());
        let dir = Directory::new(Path::new(&root), "spool");
        dir.enter().unwrap();
        let mut image = Image::new(3).unwrap();
        image.data_mut().copy_from_slice(b"abc");
        image.seal(b"{}", 5_000_000);
        write(&dir, &image, true).unwrap();
        write_and_rename(&dir, &image, "0000000000000006-0000000000000001.media", false).unwrap();
        let listed = dir.list().unwrap();
        assert_eq!((listed.media.len(), &listed.others), (2, &vec![]));
        assert!(listed.media[0].0.starts_with("0000000000000005-") && is_media(&listed.media[0].0));
        let table = Arc::new(FileTable::new());
        for (name, len) in &listed.media {
            let (held, image) = take(&dir, name, &table).unwrap().unwrap();
            assert_eq!((image.data(), image.len()), (&b"abc"[..], Some(*len as usize)));
            held.remove(&dir);
            assert!(take(&dir, name, &table).unwrap().is_none(), "gone");
        }
        assert_eq!(table.noted(), 0);
        let bad = "0000000000000006-0000000000000002.media";
        std::fs::write(dir.file(bad), "nonsense").unwrap();
        assert!(take(&dir, bad, &table).is_err());
        assert!(dir.list().unwrap().media.is_empty());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn other_names_are_not_uploads() {
        for odd in ["", ".media", "1-2.media", "x000000000000005-0000000000000001.media", "a.seg"] {
            assert!(!is_media(odd), "{odd}");
        }
    }
}
