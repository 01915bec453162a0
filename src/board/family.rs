//! The board of a family: the processes of one user on one machine whose clients have the same destination.
//!
//! Invariants:
//! - A row belongs to whoever put his token into it by compare-exchange, and he alone writes it, under its number
//!   ([`seqlock`]). What an owner before left counts as nobody's until the new one has written ([`Row::of`]).
//! - A row is given to another when its process is dead for certain, or has written [`ENDED`] into it, which is the last
//!   thing that it ever writes there: so two never write one row. The oldest goes first.
//! - What a dead process had is shown until its row is needed or [`REMEMBERED`] has passed. A board on which nobody is left,
//!   and all ended in order, is taken away by the last; one that was left by the dead, by whoever makes the next board.
//! - The file's space is set aside when it is made, it gets its name when it is whole, and it is mapped only if it is this
//!   user's, writable for nobody else, and as long as it says. Only this user can shrink it then; should he, touching it
//!   ends the process (SIGBUS), as with the segments of a spool. A sealed anonymous file, which cannot be shrunk, would have
//!   no name for processes that are no kin. A reader that is another user maps nothing: he copies.

mod row;

use super::directory::{FAMILY, Found, Kind, Runtime, Trouble};
use super::seqlock;
use crate::platform::files::{self, Guarded};
use crate::platform::identity::Identity;
use crate::platform::mapped::MappedFile;
use crate::platform::page::Blank;
use crate::platform::shared::Shared;
use crate::platform::{clock, entropy, process};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

pub use row::{
    ABI, COUNTER_NAMES, COUNTERS, ENDED, Figures, HEADER_LEN, Header, MAGIC, Member, REMEMBERED, ROW_LEN,
    ROWS, Row, RowView,
};
use row::{begin, look};

/// The longest file that is believed.
const LONGEST: usize = 16 << 20;
const _: () = assert!(ROWS * ROW_LEN + HEADER_LEN < LONGEST);
/// Boards that are looked at when one is made, whether anybody needs them.
const TIDIED: usize = 64;
/// How often a claim goes on when others are faster.
const TRIES: usize = 64;
/// How long a board may take to be made.
const MAKING: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Memory {
    Mapped(MappedFile),
    Copied(Shared),
}

/// A family's board, mapped or copied.
#[derive(Debug)]
pub struct Family {
    memory: Memory,
    path: PathBuf,
    identity: (u64, u64),
    user: u32,
    header_len: usize,
    row_len: usize,
    rows: usize,
}

fn bad(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a family's board: {why}"))
}

impl Family {
    /// The board of that family in the directory, made if it is not there.
    pub fn join(runtime: &Runtime, stem: &str) -> io::Result<Family> {
        let path = runtime.path().join(format!("{stem}{FAMILY}"));
        // Whoever was last may take it away in between.
        for _ in 0..8 {
            match open(&path) {
                Err(why) if why.kind() == io::ErrorKind::NotFound => make(runtime, &path)?,
                file => return Family::of(file?.get()?, path),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn of(file: &File, path: PathBuf) -> io::Result<Family> {
        let (meta, user) = (file.metadata()?, process::effective_uid());
        if !meta.is_file() || meta.uid() != user || meta.mode() & 0o022 != 0 {
            return Err(bad("allowed: a regular file of this user that others cannot write to"));
        }
        let len = usize::try_from(meta.len()).map_err(io::Error::other)?;
        if len > LONGEST {
            return Err(bad("it is too long"));
        }
        let memory = Memory::Mapped(MappedFile::of(file, len, true)?);
        Family::check(memory, len, path, &meta)
    }

    /// Somebody's board, to be looked at only.
    pub fn read(found: &Found) -> Result<Family, Trouble> {
        let file = found.file()?;
        Family::read_file(&file, &found.path).map_err(Trouble::Other)
    }

    fn read_file(file: &Guarded, path: &Path) -> io::Result<Family> {
        let file = file.get()?;
        let meta = file.metadata()?;
        let len = usize::try_from(meta.len()).map_err(io::Error::other)?;
        if !meta.is_file() || len > LONGEST {
            return Err(bad("it is no regular file, or too long"));
        }
        let ours = meta.uid() == process::effective_uid();
        let memory = if ours {
            Memory::Mapped(MappedFile::of(file, len, false)?)
        } else {
            let copy = Shared::anonymous(c"libtelemetry-family", len.max(1))?;
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, 0)?;
            File::from(copy.as_fd().try_clone_to_owned()?).write_all_at(&bytes, 0)?;
            Memory::Copied(copy)
        };
        Family::check(memory, len, path.to_path_buf(), &meta)
    }

    fn check(memory: Memory, len: usize, path: PathBuf, meta: &fs::Metadata) -> io::Result<Family> {
        let (identity, user) = ((meta.dev(), meta.ino()), meta.uid());
        let mut family = Family { memory, path, identity, user, header_len: 0, row_len: 0, rows: 0 };
        let header = family.at::<Header>(0).ok_or_else(|| bad("it is too short"))?;
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(bad("another magic number"));
        }
        let get = |word: &AtomicU32| word.load(Ordering::Relaxed) as usize;
        let abi = get(&header.abi);
        if abi < ABI as usize {
            return Err(bad(format!("version {abi}")));
        }
        let (header_len, row_len, rows) = (get(&header.header_len), get(&header.row_len), get(&header.rows));
        let whole = rows.checked_mul(row_len).and_then(|n| n.checked_add(header_len));
        let fits = header_len >= HEADER_LEN && row_len >= ROW_LEN && rows > 0;
        let aligned = header_len.is_multiple_of(8) && row_len.is_multiple_of(8);
        if !fits || !aligned || whole.is_none_or(|n| n > len) {
            return Err(bad("its lengths contradict each other"));
        }
        (family.header_len, family.row_len, family.rows) = (header_len, row_len, rows);
        Ok(family)
    }

    fn at<T: Blank>(&self, offset: usize) -> Option<&T> {
        match &self.memory {
            Memory::Mapped(memory) => memory.at(offset),
            Memory::Copied(memory) => memory.at(offset),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One of them.
    pub fn row(&self, index: usize) -> Option<&Row> {
        if index >= self.rows {
            return None;
        }
        self.at(self.header_len + index * self.row_len)
    }

    /// How often a process found no row.
    pub fn missed(&self) -> u64 {
        self.at::<Header>(0).map_or(0, |header| header.missed.load(Ordering::Relaxed))
    }

    /// Whether it is this user's, and the one that others find under its name.
    pub fn is_current(&self, dir: &Path) -> bool {
        let found =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        found && self.user == process::effective_uid() && self.path.parent() == Some(dir)
    }

    /// Claim a row and say who has it. Gives its number and the owner's token. `None`: all are taken, which is counted.
    pub fn claim(&self, member: &Member) -> Option<(usize, u64)> {
        let token = token_of(&member.who);
        let claim = |row: &Row, then: u64| {
            row.owner.compare_exchange(then, token, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        for _ in 0..TRIES {
            let free = (0..self.rows).find(|i| self.row(*i).is_some_and(|row| claim(row, 0)));
            let found = match free {
                Some(index) => Some(index),
                None => {
                    let Some((index, then)) = self.least_needed(&member.who) else { break };
                    // Else another one was faster, and there may be a next.
                    self.row(index).filter(|row| claim(row, then)).map(|_| index)
                }
            };
            let row = found.and_then(|index| Some((index, self.row(index)?)));
            if let Some((index, row)) = row {
                begin(row, token, member);
                return Some((index, token));
            }
        }
        self.at::<Header>(0)?.missed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The row of whoever ended the longest ago, and its owner's token.
    fn least_needed(&self, me: &Identity) -> Option<(usize, u64)> {
        let mut least: Option<(u64, usize, u64)> = None;
        for index in 0..self.rows {
            let Some(row) = self.row(index) else { continue };
            let owner = row.owner.load(Ordering::Acquire);
            let updated = match look(row) {
                Some(found) if found.ended || found.is_dead(me) => found.updated_ns,
                // Claimed, and its owner died before he could say who he is.
                None if owner != 0 && is_half_dead(owner, me) => 0,
                _ => continue,
            };
            if row.owner.load(Ordering::Acquire) == owner && least.is_none_or(|(than, ..)| updated < than) {
                least = Some((updated, index, owner));
            }
        }
        least.map(|(_, index, owner)| (index, owner))
    }

    /// Write a row's figures. `mine` is asked before each word: a signal handler may fork in the middle, and the child
    /// comes back to here. `false`: the row is somebody else's by now.
    pub fn write(&self, index: usize, token: u64, figures: &Figures, mine: impl Fn() -> bool) -> bool {
        let Some(row) = self.row(index).filter(|row| row.owner.load(Ordering::Acquire) == token) else {
            return false;
        };
        if !mine() {
            return false;
        }
        let put = |word: &AtomicU64, value: u64| {
            if mine() {
                word.store(value, Ordering::Relaxed);
            }
        };
        seqlock::write(&row.seq, || {
            for (word, value) in row.counters.iter().zip(figures.counters) {
                put(word, value);
            }
            put(&row.updated_ns, clock::monotonic_ns());
            if mine() {
                row.worker.store(figures.worker, Ordering::Relaxed);
                row.bits.store(if figures.ended { ENDED } else { 0 }, Ordering::Relaxed);
            }
        });
        true
    }

    /// All that is remembered, as `me` sees it.
    pub fn views(&self, me: &Identity) -> Vec<RowView> {
        let now = clock::monotonic_ns();
        (0..self.rows).filter_map(|index| look(self.row(index)?)?.view(index, me, now)).collect()
    }

    /// Take the board away if nobody is left and all ended in order. Whoever came in the same instant notices that it has
    /// no name any more, and makes another.
    pub fn leave(&self, me: &Identity) {
        let views = self.views(me);
        // One that was just made waits for its maker's claim, as does a row for its owner's words.
        let fresh = views.is_empty() && self.made_ago() < MAKING;
        let claimed = |row: &Row| row.owner.load(Ordering::Acquire) != 0 && look(row).is_none();
        let busy = (0..self.rows).any(|index| self.row(index).is_some_and(claimed));
        if !fresh && !busy && views.iter().all(RowView::is_over) && self.is_current_at_all() {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn made_ago(&self) -> Duration {
        let made = self.at::<Header>(0).map_or(0, |header| header.made_unix_ns.load(Ordering::Relaxed));
        Duration::from_nanos(clock::wall_precise_ns().saturating_sub(made))
    }

    fn is_current_at_all(&self) -> bool {
        self.path.parent().is_some_and(|dir| self.is_current(dir))
    }
}

/// Something that no two claims share, in which the process can be recognised: its id (22 bits), what of its namespace
/// fits (10), and chance.
fn token_of(who: &Identity) -> u64 {
    let chance = entropy::random_u64() as u32 | 1;
    (u64::from(who.pid) & 0x3f_ffff) << 42 | (who.pid_ns & 0x3ff) << 32 | u64::from(chance)
}

/// Whether the process that claimed a row with that token, and wrote nothing, is certain to be no more.
fn is_half_dead(token: u64, me: &Identity) -> bool {
    let ours = token >> 32 & 0x3ff == me.pid_ns & 0x3ff;
    ours && !process::exists((token >> 42) as u32)
}

fn open(path: &Path) -> io::Result<Guarded> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    Guarded::new(how.open(path)?)
}

/// Make a board, unless another process is faster, and take away those that nobody needs.
fn make(runtime: &Runtime, path: &Path) -> io::Result<()> {
    tidy(runtime);
    let draft = runtime.path().join(format!("{:016x}.new", entropy::random_u64()));
    let mut how = OpenOptions::new();
    how.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = Guarded::new(how.open(&draft)?)?;
    let len = HEADER_LEN + ROWS * ROW_LEN;
    let made = write_header(file.get()?, len).and_then(|()| match fs::hard_link(&draft, path) {
        Err(why) if why.kind() != io::ErrorKind::AlreadyExists => Err(why),
        _ => Ok(()),
    });
    fs::remove_file(&draft)?;
    made
}

fn write_header(file: &File, len: usize) -> io::Result<()> {
    files::allocate(file, len as u64)?;
    let map = MappedFile::of(file, len, true)?;
    let header = map.at::<Header>(0).ok_or_else(|| bad("it is too short"))?;
    header.abi.store(ABI, Ordering::Relaxed);
    header.header_len.store(HEADER_LEN as u32, Ordering::Relaxed);
    header.row_len.store(ROW_LEN as u32, Ordering::Relaxed);
    header.rows.store(ROWS as u32, Ordering::Relaxed);
    header.made_unix_ns.store(clock::wall_precise_ns(), Ordering::Relaxed);
    header.magic.store(MAGIC, Ordering::Release);
    Ok(())
}

/// Boards of which nobody remembers anything, and drafts of the dead.
fn tidy(runtime: &Runtime) {
    let me = Identity::mine();
    let families = runtime.discover().unwrap_or_default();
    for found in families.iter().filter(|found| found.kind == Kind::Family).take(TIDIED) {
        if let Ok(family) = Family::read(found) {
            family.leave(&me);
        }
    }
    for name in files::names_in(runtime.path()).unwrap_or_default() {
        let path = runtime.path().join(&name);
        let old =
            |meta: fs::Metadata| meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > MAKING));
        if path.extension().is_some_and(|e| e == "new") && fs::symlink_metadata(&path).is_ok_and(old) {
            let _ = fs::remove_file(&path);
        }
    }
}
