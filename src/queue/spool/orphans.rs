//! Segments whose owner is gone: taken over, read like a log, removed when they are settled.
//!
//! Invariants:
//! - A file is read only while this process holds its stem, and removed only when everything in it is settled.
//! - A place is (file read, offset): it only grows, like a position of the log, so that what is settled is one place.
//! - It ends: each file is opened once, read up to a bound, and removed, set aside or left; a name that led
//!   nowhere is not tried again before the next sweep.

use super::claim::{Claim, may_take};
use super::directory::{Directory, Listing};
use super::header::{Header, SETTLED_AT, Unreadable};
use super::names::Stem;
use super::read;
use super::scan::Scan;
use crate::platform::identity::Identity;
use crate::platform::log::{Level, Reason, say};
use crate::platform::sockets::FileTable;
use crate::queue::log::Seen;
use crate::queue::record::{Position, position, split};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Stems held at once: each is a descriptor, with room left in their table for our own.
const HELD: usize = 64;

/// What is to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Remove,
    Quarantine,
    /// It could not be read now.
    Keep,
    /// It is not ours to read.
    Ignore,
}

struct OpenFile {
    id: u32,
    stem: Stem,
    number: u32,
    header: Header,
    outcome: Outcome,
}

struct Reading {
    bytes: Vec<u8>,
    scan: Scan,
}

/// A stem that seemed to be an orphan when the directory was listed.
struct Candidate {
    stem: Stem,
    /// The holder in the own file's name; `None` without an own file.
    holder: Option<Option<Identity>>,
    files: Vec<u32>,
}

struct HeldStem {
    claim: Claim,
    /// Files that are neither removed nor set aside yet.
    files: usize,
    /// A file is to stay.
    kept: bool,
    /// It will not be readable later either.
    ignore: bool,
}

/// See the module's text.
pub struct Orphans {
    dir: Directory,
    me: Identity,
    table: Arc<FileTable>,
    candidates: VecDeque<Candidate>,
    held: Vec<HeldStem>,
    /// Files of held stems that were not opened yet.
    unread: VecDeque<(Stem, u32)>,
    /// Files opened and not settled, in the order they were read.
    open: VecDeque<OpenFile>,
    reading: Option<Reading>,
    /// Stems not to be tried again.
    ignored: HashSet<Stem>,
    last_id: u32,
    head: Position,
    /// Records and files that could not be read, since [`Orphans::take_corrupt`].
    corrupt: u64,
}

impl Orphans {
    /// Nothing is looked at yet.
    pub fn new(dir: Directory, me: Identity, table: Arc<FileTable>) -> Orphans {
        Orphans {
            dir,
            me,
            table,
            candidates: VecDeque::new(),
            held: Vec::new(),
            unread: VecDeque::new(),
            open: VecDeque::new(),
            reading: None,
            ignored: HashSet::new(),
            last_id: 0,
            head: 0,
            corrupt: 0,
        }
    }

    /// Look for orphans. Gives the bytes they take, those being read included. Files set aside longer than
    /// `age` ago are removed.
    pub fn sweep(&mut self, age: Duration) -> io::Result<u64> {
        self.dir.check().map_err(|why| io::Error::other(why.to_string()))?;
        let listing = match self.dir.list() {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(0),
            listing => listing?,
        };
        self.dir.tidy(&listing, age);
        let Listing { owns, segments, .. } = listing;
        let mut bytes = 0;
        let mut candidates = Vec::new();
        let mut segments: HashMap<Stem, Vec<(u32, u64)>> = segments.into_iter().collect();
        let mut consider = |stem: Stem, holder: Option<Option<Identity>>, files: Vec<(u32, u64)>| {
            let held = self.held.iter().any(|h| h.claim.stem() == stem);
            if !self.ignored.contains(&stem) {
                bytes += files.iter().map(|(_, len)| len).sum::<u64>();
                if !held {
                    let files = files.into_iter().map(|(number, _)| number).collect();
                    candidates.push(Candidate { stem, holder, files });
                }
            }
        };
        for (stem, holders) in owns {
            let files = segments.remove(&stem).unwrap_or_default();
            let held = self.held.iter().any(|h| h.claim.stem() == stem);
            if held || holders.iter().all(|holder| may_take(holder.as_ref(), &self.me)) {
                consider(stem, holders.first().copied(), files);
            }
        }
        for (stem, files) in segments {
            consider(stem, None, files);
        }
        candidates.sort_unstable_by_key(|candidate| candidate.stem);
        self.candidates = candidates.into();
        Ok(bytes)
    }

    /// Whether there is nothing to read and nothing to settle.
    pub fn is_idle(&self) -> bool {
        self.candidates.is_empty() && self.unread.is_empty() && self.open.is_empty() && self.reading.is_none()
    }

    /// Everything before this is settled.
    pub fn head(&self) -> Position {
        self.head
    }

    /// How many records and files could not be read since the last call.
    pub fn take_corrupt(&mut self) -> u64 {
        std::mem::take(&mut self.corrupt)
    }

    /// The next record, opening what comes next as it goes. Empty: nothing now; settle, then look again.
    pub fn look(&mut self) -> Seen<'_> {
        self.look_with_writer().0
    }

    /// The same, and the pid of the process that wrote it, in its own namespace; 0 without a record.
    pub fn look_with_writer(&mut self) -> (Seen<'_>, u32) {
        let found = loop {
            if let Some(reading) = &mut self.reading {
                if let Some(found) = reading.scan.next(&reading.bytes) {
                    break (found.offset, found.next, found.fields, found.body.len());
                }
                self.finish_reading();
            }
            if !self.open_next() {
                return (Seen::Empty { at: position(self.last_id.wrapping_add(1), 0) }, 0);
            }
        };
        let (offset, next, fields, len) = found;
        let pid = self.open.back().map_or(0, |file| file.header.owner.pid);
        let bytes = self.reading.as_ref().map_or(&[][..], |reading| &reading.bytes);
        let start = offset as usize + crate::queue::record::HEADER;
        let record = Seen::Record {
            at: position(self.last_id, offset),
            next: position(self.last_id, next),
            fields,
            body: bytes.get(start..start + len).unwrap_or(&[]),
        };
        (record, pid)
    }

    /// The last record that [`Orphans::look`] gave is to be given again.
    pub fn put_back(&mut self, at: Position) {
        if let Some(reading) = self.reading.as_mut().filter(|_| split(at).0 == self.last_id) {
            reading.scan.back_to(split(at).1);
        }
    }

    fn finish_reading(&mut self) {
        let (Some(reading), Some(file)) = (self.reading.take(), self.open.back_mut()) else { return };
        let scan = reading.scan;
        self.corrupt += scan.bad;
        if scan.bad > 0 {
            let name = file.stem.segment(file.number);
            let text = format!("{} record(s) of {name} in the spool cannot be read", scan.bad);
            say(Level::Warn, Reason::Spool, &text);
        }
        if scan.bad > 0 && scan.found == 0 {
            file.outcome = Outcome::Quarantine;
        }
    }

    /// Open the next file that can be read. `false`: there is none now.
    fn open_next(&mut self) -> bool {
        loop {
            while let Some((stem, number)) = self.unread.pop_front() {
                if self.open_file(stem, number) {
                    return true;
                }
            }
            if self.held.len() >= HELD || !self.take_next() {
                return false;
            }
        }
    }

    /// Take over the next candidate. `false`: there is none.
    fn take_next(&mut self) -> bool {
        while let Some(candidate) = self.candidates.pop_front() {
            match self.take(&candidate) {
                Ok(Some((claim, files))) if files.is_empty() => claim.finish(&self.dir, &self.table),
                Ok(Some((claim, files))) => {
                    let stem = candidate.stem;
                    self.held.push(HeldStem { claim, files: files.len(), kept: false, ignore: false });
                    self.unread.extend(files.into_iter().map(|number| (stem, number)));
                    return true;
                }
                Ok(None) => {}
                Err(why) => {
                    let dir = self.dir.path().display();
                    let text = format!("what others left in the spool {dir} cannot be taken over: {why}");
                    say(Level::Warn, Reason::Spool, &text);
                }
            }
        }
        false
    }

    fn take(&self, candidate: &Candidate) -> io::Result<Option<(Claim, Vec<u32>)>> {
        let Candidate { stem, holder, files } = candidate;
        let (dir, me, table) = (&self.dir, &self.me, &self.table);
        let claim = match holder {
            Some(holder) => Claim::take(dir, *stem, *holder, me, table)?,
            None if self.owner_is_dead(*stem, files) => Claim::take_unowned(dir, *stem, me, table)?,
            None => None,
        };
        let Some(claim) = claim else { return Ok(None) };
        // The owner may have made segments since the directory was listed. One whose death is certain made the next
        // numbers at most; of another nothing but the lock told.
        let dead = holder.flatten().is_none_or(|holder| holder.is_dead(me));
        let mut files = files.clone();
        if dead {
            while let Some(next) = files.last().map(|last| last.wrapping_add(1))
                && dir.file(&stem.segment(next)).symlink_metadata().is_ok()
            {
                files.push(next);
            }
        } else {
            match dir.list() {
                Ok(mut now) => {
                    let now = now.segments.remove(stem).unwrap_or_default();
                    files = now.into_iter().map(|(number, _)| number).collect();
                }
                Err(why) => {
                    claim.release(dir, table);
                    return Err(why);
                }
            }
        }
        Ok(Some((claim, files)))
    }

    /// Whether the segments of a stem without an own file say that their owner is dead.
    fn owner_is_dead(&self, stem: Stem, files: &[u32]) -> bool {
        let owner = files.iter().find_map(|number| {
            let file = self.dir.open(&stem.segment(*number)).ok()?;
            read::header(file.get().ok()?).ok()?.ok().map(|header| header.owner)
        });
        match owner {
            Some(owner) => owner.is_dead(&self.me) || !owner.is_visible_to(&self.me),
            // None of them says anything: no process of ours leaves that behind while it lives.
            None => true,
        }
    }

    fn open_file(&mut self, stem: Stem, number: u32) -> bool {
        let name = stem.segment(number);
        match self.read_file(&name) {
            Ok((bytes, scan)) => {
                self.last_id = self.last_id.wrapping_add(1);
                let header = *scan.header();
                let outcome = Outcome::Remove;
                self.open.push_back(OpenFile { id: self.last_id, stem, number, header, outcome });
                self.reading = Some(Reading { bytes, scan });
                true
            }
            Err(Ok(Unreadable::Blank)) => {
                let _ = self.dir.remove(&name);
                self.file_done(stem, Outcome::Remove);
                false
            }
            Err(Ok(Unreadable::Garbage)) => {
                self.corrupt += 1;
                let text = format!("{name} in the spool cannot be read and was set aside as {name}.bad");
                say(Level::Warn, Reason::Spool, &text);
                let _ = self.dir.quarantine(&name);
                self.file_done(stem, Outcome::Quarantine);
                false
            }
            Err(Ok(Unreadable::Future(version))) => {
                let text = format!(
                    "{name} in the spool is of version {version}, which this library does not know; it is left"
                );
                say(Level::Warn, Reason::Spool, &text);
                self.file_done(stem, Outcome::Ignore);
                false
            }
            Err(Err(why)) => {
                say(Level::Warn, Reason::Spool, &format!("{name} in the spool cannot be read: {why}"));
                let outcome = match (why.raw_os_error(), why.kind()) {
                    (Some(libc::ENOENT), _) => Outcome::Remove,
                    // A symlink, or no regular file.
                    (Some(libc::ELOOP), _) | (_, io::ErrorKind::InvalidInput) => Outcome::Ignore,
                    _ => Outcome::Keep,
                };
                self.file_done(stem, outcome);
                false
            }
        }
    }

    fn read_file(&self, name: &str) -> Result<(Vec<u8>, Scan), Result<Unreadable, io::Error>> {
        let file = self.dir.open(name).map_err(Err)?;
        let read = file.get().and_then(read::segment).map_err(Err)?;
        // What was read is believed only if it was read from there.
        file.get().map_err(Err)?;
        let bytes = read.map_err(Ok)?;
        let scan = Scan::new(&bytes).map_err(Ok)?;
        Ok((bytes, scan))
    }

    /// Everything before `to` is settled: remove the files before it, note the place in its own.
    pub fn settle(&mut self, to: Position) {
        let (id, offset) = split(to);
        while let Some(file) = self.open.pop_front_if(|file| file.id < id) {
            let name = file.stem.segment(file.number);
            let _ = match file.outcome {
                Outcome::Quarantine => self.dir.quarantine(&name),
                _ => self.remove(&name, &file.header),
            };
            self.file_done(file.stem, file.outcome);
        }
        if let Some(file) = self.open.front().filter(|file| file.id == id && to > self.head) {
            let word = file.header.settled_word(offset);
            let _ = self.dir.write_word(&file.stem.segment(file.number), word, SETTLED_AT);
        }
        self.head = to;
    }

    /// Remove a file; should that fail, note in it that all is settled.
    fn remove(&self, name: &str, header: &Header) -> io::Result<()> {
        self.dir
            .remove(name)
            .or_else(|_| self.dir.write_word(name, header.settled_word(header.segment_len), SETTLED_AT))
    }

    fn file_done(&mut self, stem: Stem, outcome: Outcome) {
        let Some(i) = self.held.iter().position(|h| h.claim.stem() == stem) else { return };
        let held = &mut self.held[i];
        held.files -= 1;
        held.kept |= matches!(outcome, Outcome::Keep | Outcome::Ignore);
        held.ignore |= outcome == Outcome::Ignore;
        if held.files > 0 {
            return;
        }
        let held = self.held.swap_remove(i);
        if held.ignore {
            self.ignored.insert(stem);
        }
        if held.kept {
            held.claim.release(&self.dir, &self.table);
        } else {
            held.claim.finish(&self.dir, &self.table);
        }
    }

    /// Leave what was taken over to whoever comes.
    fn release(&mut self) {
        self.candidates.clear();
        self.unread.clear();
        self.open.clear();
        self.reading = None;
        for held in self.held.drain(..) {
            held.claim.release(&self.dir, &self.table);
        }
    }

    /// See that what was taken over is still held.
    pub fn look_after(&mut self) {
        for held in &mut self.held {
            let _ = held.claim.renew(&self.dir, &self.table);
        }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::record::{committed, crc, tag};
    use std::fs;
    use std::path::PathBuf;

    const NONCE: u64 = 77;

    fn stem(created_ms: u64) -> Stem {
        Stem { created_ms, boot: 1, nonce: NONCE }
    }

    /// A segment with these bodies.
    fn segment(number: u32, bodies: &[&[u8]]) -> Vec<u8> {
        let owner = Identity { boot: 1, pid_ns: 2, pid: 3, start: 4, image: 0 };
        let header =
            Header { segment_len: 4096, owner, number, nonce: NONCE, created_ms: 5, format: [0; 16] };
        let mut bytes = header.copy();
        bytes.resize(256, 0);
        for body in bodies {
            let here = position(number, bytes.len() as u32);
            let check = u64::from(crc(0, 1, NONCE, here, body));
            let words = [committed(tag(NONCE, here), body.len()), check, 1, NONCE, here];
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            bytes.extend(*body);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    fn with_files(name: &str, files: &[(Stem, u32, &[&[u8]])], body: impl FnOnce(&Directory, Orphans)) {
        let root = PathBuf::from(format!("/tmp/libtelemetry-{}-orphans-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let dir = Directory::new(&root, "spool");
        dir.enter().unwrap();
        for (stem, number, bodies) in files {
            fs::write(dir.file(&stem.own(None)), "").unwrap();
            fs::write(dir.file(&stem.segment(*number)), segment(*number, bodies)).unwrap();
        }
        let orphans = Orphans::new(dir.clone(), Identity::mine(), Arc::new(FileTable::new()));
        body(&dir, orphans);
        fs::remove_dir_all(root).unwrap();
    }

    fn next(orphans: &mut Orphans) -> Option<(Position, Position, Vec<u8>)> {
        match orphans.look() {
            Seen::Record { at, next, body, .. } => Some((at, next, body.to_vec())),
            _ => None,
        }
    }

    #[test]
    fn the_oldest_first_one_after_the_other_and_gone_when_settled() {
        let files: [(Stem, u32, &[&[u8]]); 3] =
            [(stem(2), 0, &[b"e"]), (stem(1), 5, &[b"c", b"d"]), (stem(1), 4, &[b"a", b"b"])];
        with_files("order", &files, |dir, mut orphans| {
            assert!(orphans.is_idle() && next(&mut orphans).is_none(), "nothing before a search");
            assert!(orphans.sweep(Duration::MAX).unwrap() > 3 * 256);
            let mut last = 0;
            for want in [b"a", b"b", b"c", b"d", b"e"] {
                let (at, behind, body) = next(&mut orphans).unwrap();
                assert_eq!(body, want);
                assert!(at >= last && behind > at, "places only grow");
                if want == b"b" {
                    orphans.put_back(at);
                    assert_eq!(next(&mut orphans), Some((at, behind, body)));
                }
                orphans.settle(behind);
                last = behind;
            }
            assert!(next(&mut orphans).is_none());
            let Seen::Empty { at } = orphans.look() else { panic!() };
            orphans.settle(at);
            assert!(orphans.is_idle());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        });
    }

    #[test]
    fn what_was_not_settled_is_there_for_the_next() {
        with_files("next", &[(stem(1), 4, &[b"a", b"b", b"c"])], |dir, mut orphans| {
            orphans.sweep(Duration::MAX).unwrap();
            let (_, behind, _) = next(&mut orphans).unwrap();
            next(&mut orphans).unwrap();
            orphans.settle(behind);
            drop(orphans);
            assert_eq!(dir.list().unwrap().owns[&stem(1)], [None], "released");
            let mut again = Orphans::new(dir.clone(), Identity::mine(), Arc::new(FileTable::new()));
            again.sweep(Duration::MAX).unwrap();
            assert_eq!(next(&mut again).unwrap().2, b"b");
        });
    }

    #[test]
    fn what_somebody_holds_is_left_alone() {
        with_files("held", &[(stem(1), 4, &[b"a"])], |dir, mut orphans| {
            let held = stem(1).own(Some(&Identity::mine()));
            fs::rename(dir.file(&stem(1).own(None)), dir.file(&held)).unwrap();
            assert_eq!(orphans.sweep(Duration::MAX).unwrap(), 0);
            assert!(next(&mut orphans).is_none() && orphans.is_idle());
            assert!(dir.file(&held).exists());
        });
    }
}
