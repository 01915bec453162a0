//! Holding a stem: the proof that its owner lives, and the taking over when it does not.
//!
//! Invariants:
//! - A stem is held by whoever has the record lock on its own file *and* whose identity is in that file's
//!   name. Forks inherit neither.
//! - Only an orphan is taken: nobody holds the lock, and the holder in the name is dead as far as can be told; a
//!   free lock alone proves nothing, because a daemoniser that closes all descriptors drops it.
//! - One thread of a process at a time takes over: a record lock does not keep out its own process, and a
//!   second descriptor, once closed, would drop the first one's lock.
//! - The descriptor is in a table that children close; its number is believed only while device and inode are
//!   the ones noted.

use super::directory::Directory;
use super::names::Stem;
use crate::platform::files::{self, Guarded};
use crate::platform::identity::Identity;
use crate::platform::once::SetOnce;
use crate::platform::page::WipedPage;
use crate::platform::sockets::{FileTable, Ticket};
use crate::platform::tidlock::TidLock;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// One taker at a time in a process; blank in each child.
static TAKING: SetOnce<WipedPage<TidLock, TidLock>> = SetOnce::new();
static TAKING_PLAIN: TidLock = TidLock::new();
/// For whoever holds it to get a processor: a candidate that is let go of for want of it would count as somebody else's.
const PATIENCE: Duration = Duration::from_secs(2);

/// Make the process-wide lock, the first time it is called.
pub fn prepare_page(try_wipe: bool) {
    if TAKING.get().is_none()
        && let Ok(page) = WipedPage::new(0, try_wipe)
    {
        TAKING.set(page);
    }
}

fn taking() -> &'static TidLock {
    TAKING.get().map_or(&TAKING_PLAIN, |page| page.head())
}

/// A stem that this process holds.
pub struct Claim {
    stem: Stem,
    holder: Identity,
    descriptor: Option<Held>,
}

/// An open descriptor that may be closed behind our back.
struct Held {
    fd: i32,
    ticket: Option<Ticket>,
    dev: u64,
    ino: u64,
}

impl Claim {
    /// Begin to hold a stem of our own.
    pub fn create(dir: &Directory, stem: Stem, me: &Identity, table: &FileTable) -> io::Result<Claim> {
        let mut claim = Claim { stem, holder: *me, descriptor: None };
        claim.renew(dir, table)?;
        Ok(claim)
    }

    /// Take over an orphan whose own file names `holder`. `None`: somebody has it, or was faster.
    pub fn take(
        dir: &Directory,
        stem: Stem,
        holder: Option<Identity>,
        me: &Identity,
        table: &FileTable,
    ) -> io::Result<Option<Claim>> {
        if !may_take(holder.as_ref(), me) {
            return Ok(None);
        }
        taking().with(PATIENCE, || Self::take_alone(dir, stem, holder, me, table)).unwrap_or(Ok(None))
    }

    fn take_alone(
        dir: &Directory,
        stem: Stem,
        holder: Option<Identity>,
        me: &Identity,
        table: &FileTable,
    ) -> io::Result<Option<Claim>> {
        let name = stem.own(holder.as_ref());
        let file = match dir.open(&name) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // The name may have gone to somebody else between the two calls.
        if !files::lock(file.get()?.as_raw_fd())? || !is_at(&file, dir, &name) {
            return Ok(None);
        }
        fs::rename(dir.file(&name), dir.file(&stem.own(Some(me))))?;
        let descriptor = Some(Held::keep(file, table));
        Ok(Some(Claim { stem, holder: *me, descriptor }))
    }

    /// Take a stem whose own file is gone: its segments alone are left.
    pub fn take_unowned(
        dir: &Directory,
        stem: Stem,
        me: &Identity,
        table: &FileTable,
    ) -> io::Result<Option<Claim>> {
        match dir.create(&stem.own(None)) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            _ => {}
        }
        // Somebody who was faster has renamed the same file already, and this one is a second.
        let others = |dir: &Directory| -> io::Result<bool> {
            Ok(dir.list()?.owns.get(&stem).is_some_and(|holders| holders.iter().any(Option::is_some)))
        };
        if others(dir)? {
            dir.remove(&stem.own(None))?;
            return Ok(None);
        }
        Self::take(dir, stem, None, me, table)
    }

    /// The stem.
    pub fn stem(&self) -> Stem {
        self.stem
    }

    /// See that it is held: the descriptor is ours still, the file is in its place, the lock is on it.
    pub fn renew(&mut self, dir: &Directory, table: &FileTable) -> io::Result<()> {
        let name = self.stem.own(Some(&self.holder));
        if let Some(held) = &self.descriptor
            && held.is_ours()
            // Closing any descriptor of the file has dropped the lock: taking it again costs nothing.
            && files::lock(held.fd)?
            && fs::symlink_metadata(dir.file(&name)).is_ok_and(|m| (m.dev(), m.ino()) == (held.dev, held.ino))
        {
            return Ok(());
        }
        self.let_go(table);
        let file = match dir.open(&name) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Self::place(dir, &name)?,
            file => file?,
        };
        if !files::lock(file.get()?.as_raw_fd())? {
            return Err(io::Error::other("another process holds our own file"));
        }
        self.descriptor = Some(Held::keep(file, table));
        Ok(())
    }

    /// Make the own file: it gets its name with the lock on it, where the file system can do that.
    fn place(dir: &Directory, name: &str) -> io::Result<Guarded> {
        let named = dir.create_nameless().and_then(|file| {
            files::lock(file.get()?.as_raw_fd())?;
            files::give_name(file.get()?, &dir.file(name))?;
            Ok(file)
        });
        named.or_else(|_| dir.create(name))
    }

    /// Leave the stem to whoever comes: its holder is nobody from now on.
    pub fn release(mut self, dir: &Directory, table: &FileTable) {
        // Another client of this process must not take it between the two: our close would drop its lock.
        let released = taking().with(PATIENCE, || {
            let _ = fs::rename(dir.file(&self.stem.own(Some(&self.holder))), dir.file(&self.stem.own(None)));
            self.let_go(table);
        });
        if released.is_none() {
            // It is left at the latest when this process ends.
            self.let_go(table);
        }
    }

    /// Nothing is left of the stem: remove its own file.
    pub fn finish(mut self, dir: &Directory, table: &FileTable) {
        let _ = dir.remove(&self.stem.own(Some(&self.holder)));
        self.let_go(table);
    }

    fn let_go(&mut self, table: &FileTable) {
        if let Some(held) = self.descriptor.take() {
            held.close(table);
        }
    }
}

impl Held {
    fn keep(file: Guarded, table: &FileTable) -> Held {
        let (dev, ino) = file.identity();
        let fd = file.into_raw();
        Held { fd, ticket: table.note(fd), dev, ino }
    }

    fn is_ours(&self) -> bool {
        files::identity(self.fd) == Some((self.dev, self.ino))
    }

    fn close(self, table: &FileTable) {
        if let Some(ticket) = self.ticket {
            table.forget(ticket);
        }
        if self.is_ours() {
            files::close(self.fd);
        }
    }
}

/// Whether a stem held by `holder` may be taken by `me`, were its lock free.
pub fn may_take(holder: Option<&Identity>, me: &Identity) -> bool {
    holder.is_none_or(|holder| holder.is_dead(me) || !holder.is_visible_to(me))
}

/// Whether the open file still is what stands under that name.
fn is_at(file: &Guarded, dir: &Directory, name: &str) -> bool {
    fs::symlink_metadata(dir.file(name)).is_ok_and(|named| (named.dev(), named.ino()) == file.identity())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    const STEM: Stem = Stem { created_ms: 1, boot: 2, nonce: 3 };

    fn fresh(name: &str) -> (Directory, FileTable, Identity) {
        let root = PathBuf::from(format!("/tmp/libtelemetry-{}-claim-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let dir = Directory::new(&root, "spool");
        dir.enter().unwrap();
        (dir, FileTable::new(), Identity::mine())
    }

    fn gone(dir: &Directory) {
        fs::remove_dir_all(dir.path().parent().unwrap_or(Path::new("/nonexistent"))).unwrap();
    }

    fn names(dir: &Directory) -> Vec<String> {
        let found = dir.list().unwrap();
        let of = |(stem, holders): (&Stem, &Vec<_>)| {
            holders.iter().map(|h: &Option<Identity>| stem.own(h.as_ref())).collect::<Vec<_>>()
        };
        found.owns.iter().flat_map(of).collect()
    }

    #[test]
    fn it_is_held_released_taken_and_finished() {
        let (dir, table, me) = fresh("life");
        let claim = Claim::create(&dir, STEM, &me, &table).unwrap();
        assert_eq!((names(&dir), table.noted()), (vec![STEM.own(Some(&me))], 1));
        assert!(Claim::take(&dir, STEM, Some(me), &me, &table).unwrap().is_none(), "its holder lives");
        claim.release(&dir, &table);
        assert_eq!((names(&dir), table.noted()), (vec![STEM.own(None)], 0));
        let claim = Claim::take(&dir, STEM, None, &me, &table).unwrap().unwrap();
        assert!(Claim::take(&dir, STEM, None, &me, &table).unwrap().is_none(), "it is taken");
        assert_eq!(claim.stem(), STEM);
        claim.finish(&dir, &table);
        assert_eq!((names(&dir), table.noted()), (vec![], 0));
        gone(&dir);
    }

    #[test]
    fn it_is_renewed_whatever_was_done_to_its_file() {
        let (dir, table, me) = fresh("renewed");
        let mut claim = Claim::create(&dir, STEM, &me, &table).unwrap();
        claim.renew(&dir, &table).unwrap();
        dir.remove(&STEM.own(Some(&me))).unwrap();
        claim.renew(&dir, &table).unwrap();
        // A daemoniser closes everything.
        files::close(claim.descriptor.as_ref().unwrap().fd);
        claim.renew(&dir, &table).unwrap();
        assert_eq!((names(&dir), table.noted()), (vec![STEM.own(Some(&me))], 1));
        claim.finish(&dir, &table);
        gone(&dir);
    }

    #[test]
    fn what_has_no_own_file_is_taken_unless_somebody_has_one() {
        let (dir, table, me) = fresh("unowned");
        let claim = Claim::take_unowned(&dir, STEM, &me, &table).unwrap().unwrap();
        assert!(Claim::take_unowned(&dir, STEM, &me, &table).unwrap().is_none());
        assert_eq!(names(&dir), [STEM.own(Some(&me))], "and no second file is left");
        claim.finish(&dir, &table);
        gone(&dir);
    }

    #[test]
    fn only_the_dead_and_the_unknown_are_orphans() {
        let me = Identity::mine();
        assert!(may_take(None, &me));
        assert!(!may_take(Some(&me), &me));
        for other in [
            Identity { boot: me.boot ^ 1, ..me },
            Identity { pid_ns: me.pid_ns + 1, ..me },
            Identity { start: me.start - 1, ..me },
        ] {
            assert!(may_take(Some(&other), &me), "{other:?}");
        }
    }
}
