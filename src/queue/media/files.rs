//! Uploads in a spool's directory, one file each ([`MediaName`]).
//!
//! Invariants:
//! - A file has its name only when it is whole, and is removed when it is done with.
//! - It is for the client that wrote it while that one's process lives, and then for any process of the directory: the rule is
//!   the segments' ([`may_take`]). Whoever delivers it has its record lock, which goes with his death.
//! - A client that is shut leaves its files to whoever comes, by their names.
//! - Whoever writes holds signals back: a fork in the middle would have two processes write into one file.

use super::image::{Image, footprint};
use crate::platform::entropy;
use crate::platform::files::{self, Guarded, give_name};
use crate::platform::identity::Identity;
use crate::platform::sockets::{FileTable, Ticket};
use crate::queue::spool::claim::may_take;
use crate::queue::spool::directory::{Directory, Listing};
use crate::queue::spool::names::MediaName;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// A spool's directory, as one client in one process sees it.
pub struct Shelf {
    /// Where.
    pub dir: Directory,
    /// The descriptors that children close.
    pub table: Arc<FileTable>,
    /// This process.
    pub me: Identity,
    /// This client in this process.
    pub generation: u64,
}

/// What the uploads in a directory take of its disk.
pub fn room_taken(listing: &Listing) -> u64 {
    listing.media.iter().map(|(_, len)| footprint(*len)).fold(0, u64::saturating_add)
}

/// One that this process is to deliver.
pub struct Held {
    name: MediaName,
    file: Guarded,
    ticket: Ticket,
    table: Arc<FileTable>,
}

impl Shelf {
    /// Write one; with `sync` also to the disk.
    pub fn write(&self, image: &Image, sync: bool) -> io::Result<()> {
        let (created_ms, random) = (image.time_ns() / 1_000_000, entropy::random_u64());
        let name =
            MediaName { created_ms, generation: self.generation, random, holder: Some(self.me) }.text();
        let nameless = self.dir.create_nameless();
        let named = nameless.and_then(|file| {
            self.fill(&file, image, sync)?;
            give_name(file.get()?, &self.dir.file(&name))
        });
        match named {
            // No file system gets larger by a second try.
            Err(why) if why.kind() != io::ErrorKind::StorageFull => self.write_draft(image, &name, sync)?,
            named => named?,
        }
        if sync { self.dir.sync().inspect_err(|_| drop(self.dir.remove(&name))) } else { Ok(()) }
    }

    /// Where there are no files without a name: under one that nobody takes for an upload, and that is tidied away.
    fn write_draft(&self, image: &Image, name: &str, sync: bool) -> io::Result<()> {
        let draft = format!("{name}.bad");
        let file = self.dir.create(&draft)?;
        let filled = self.fill(&file, image, sync);
        let named = filled.and_then(|()| std::fs::rename(self.dir.file(&draft), self.dir.file(name)));
        named.inspect_err(|_| drop(self.dir.remove(&draft)))
    }

    fn fill(&self, file: &Guarded, image: &Image, sync: bool) -> io::Result<()> {
        // A child would hold the room of a file that is removed here.
        let ticket = self.table.note(file.get()?.as_raw_fd());
        let fill = || {
            files::allocate(file.get()?, image.len() as u64)?;
            image.write_to(file.get()?)?;
            if sync { file.get()?.sync_data() } else { Ok(()) }
        };
        let filled = fill();
        ticket.inspect(|ticket| self.table.forget(*ticket));
        filled
    }

    /// Whether it was written by this client.
    pub fn is_own(&self, name: &MediaName) -> bool {
        name.generation == self.generation
    }

    /// Whether it is for us to deliver, as far as its name tells.
    pub fn may_take(&self, name: &MediaName) -> bool {
        self.is_own(name) || may_take(name.holder.as_ref(), &self.me)
    }

    /// Take one on. `None`: it is another's, or it is gone. Data that is invalid was set aside.
    pub fn take(&self, name: &MediaName) -> io::Result<Option<(Held, Image)>> {
        if !self.may_take(name) {
            return Ok(None);
        }
        let text = name.text();
        let file = match self.dir.open(&text) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let Some(ticket) = self.table.note(file.get()?.as_raw_fd()) else { return Ok(None) };
        let held = Held { name: *name, file, ticket, table: self.table.clone() };
        let inner = held.file.get()?;
        // Without a name it was done with between our look at the directory and now.
        if !files::lock(inner.as_raw_fd())? || inner.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        if let Some(image) = Image::read_from(inner)? {
            return Ok(Some((held, image)));
        }
        match self.dir.quarantine(&text) {
            // Somebody was faster.
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
            Ok(()) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged and was set aside")),
        }
    }

    /// This client's files are for whoever comes.
    pub fn leave(&self) -> io::Result<()> {
        for (name, _) in self.dir.list()?.media {
            if self.is_own(&name) && name.holder.is_some() {
                let released = MediaName { holder: None, ..name };
                std::fs::rename(self.dir.file(&name.text()), self.dir.file(&released.text()))?;
            }
        }
        Ok(())
    }
}

impl Held {
    /// It is done with. One that cannot be removed is found again, and known to the server by then.
    pub fn remove(self, dir: &Directory) -> io::Result<()> {
        dir.remove(&self.name.text())
    }

    /// Its name.
    pub fn name(&self) -> &MediaName {
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

    fn fresh(name: &str) -> (Shelf, String) {
        let root = format!("/tmp/libtelemetry-{}-media-{name}", std::process::id());
        let _ = std::fs::remove_dir_all(&root);
        let dir = Directory::new(Path::new(&root), "spool");
        dir.enter().unwrap();
        (Shelf { dir, table: Arc::new(FileTable::new()), me: Identity::mine(), generation: 7 }, root)
    }

    fn image() -> Image {
        let mut image = Image::new(3, true).unwrap();
        image.data_mut().copy_from_slice(b"abc");
        image.seal(b"{}", 5_000_000);
        image
    }

    #[test]
    fn one_is_written_found_and_taken_once() {
        let (shelf, root) = fresh("life");
        shelf.write(&image(), true).unwrap();
        let name = MediaName { created_ms: 6, generation: 7, random: 1, holder: Some(shelf.me) };
        shelf.write_draft(&image(), &name.text(), false).unwrap();
        let listed = shelf.dir.list().unwrap();
        assert_eq!((listed.media.len(), &listed.others, room_taken(&listed)), (2, &vec![], 8192));
        assert_eq!((listed.media[0].0.created_ms, listed.media[1].0), (5, name));
        for (name, len) in &listed.media {
            let (held, image) = shelf.take(name).unwrap().unwrap();
            assert_eq!((image.data(), image.len() as u64, held.name()), (&b"abc"[..], *len, name));
            held.remove(&shelf.dir).unwrap();
            assert!(shelf.take(name).unwrap().is_none(), "gone");
        }
        assert_eq!(shelf.table.noted(), 0);
        std::fs::write(shelf.dir.file(&name.text()), "nonsense").unwrap();
        assert_eq!(shelf.take(&name).err().unwrap().kind(), io::ErrorKind::InvalidData);
        let listed = shelf.dir.list().unwrap();
        assert_eq!((listed.media.len(), listed.others), (0, vec![format!("{}.bad", name.text())]));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn it_is_its_clients_until_that_is_shut_or_dead() {
        let (shelf, root) = fresh("owner");
        shelf.write(&image(), false).unwrap();
        let name = shelf.dir.list().unwrap().media[0].0;
        let other = Shelf { dir: shelf.dir.clone(), generation: 8, table: shelf.table.clone(), me: shelf.me };
        assert!(other.take(&name).unwrap().is_none(), "its client lives");
        let dead = Identity { start: shelf.me.start - 1, ..shelf.me };
        assert!(other.may_take(&MediaName { holder: Some(dead), ..name }));
        other.leave().unwrap();
        assert_eq!(shelf.dir.list().unwrap().media[0].0, name, "it is not the other's to leave");
        shelf.leave().unwrap();
        let name = shelf.dir.list().unwrap().media[0].0;
        assert_eq!(name.holder, None);
        let (held, _) = other.take(&name).unwrap().unwrap();
        held.remove(&other.dir).unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }
}
