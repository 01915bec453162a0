//! Segments in files: the way a log with a spool gets them.
//!
//! Invariants:
//! - A segment file is written by one generation as one segment, and unlinked when everything in it is
//!   settled; it is never used again. So a stray write of a child, or of a producer that was given up on, lands in a
//!   file nobody reads.
//! - Its space is set aside before it is mapped: a full disk is an error here, and never a fault later.
//! - Where no file can be had the segment is memory, as many as `queue_bytes` allows, and files are tried again
//!   soon.
//! - All segments lie in one stretch of addresses, known outside the wiped page: a child puts blank
//!   memory over it. The words here are in the wiped page, so the child has no claim, no stem and no segment.

use super::claim::Claim;
use super::directory::{Directory, Problem};
use super::header::{self, Header};
use super::names::Stem;
use crate::platform::identity::Identity;
use crate::platform::log::{Level, Reason, say};
use crate::platform::mmap::{self, Mapping};
use crate::platform::parcel::Parcel;
use crate::platform::sockets::FileTable;
use crate::platform::tidlock::TidLock;
use crate::platform::{clock, files};
use crate::queue::log::{Log, Seen};
use crate::queue::media::files::Shelf;
use crate::queue::record::{Position, split};
use crate::queue::segment::{SEGMENT_HEADER, Slot};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a producer waits for another one that makes a segment.
const PATIENCE: Duration = Duration::from_millis(500);
/// Places kept for slots whose own place a stopped producer may still write to. Further ones lie elsewhere, where
/// a child does not find them to cover them.
pub const SPARES: u64 = 32;
/// How soon a file is tried again after one could not be made.
const AGAIN_MS: u64 = 3000;

/// What the client configured.
pub struct Spec {
    /// Where.
    pub dir: Directory,
    /// The format's name, for whoever finds the files.
    pub format: [u8; 16],
    /// How many segments may be memory.
    pub memory_segments: u32,
    /// The own files' descriptors, for children to close.
    pub table: Arc<FileTable>,
}

impl Spec {
    /// Where a generation's uploads lie.
    pub fn shelf(&self, generation: u64) -> Shelf {
        let (dir, table) = (self.dir.clone(), self.table.clone());
        Shelf { dir, table, me: Identity::mine(), generation }
    }
}

crate::blank_struct! {
    /// What this process knows of its spool; in the wiped page.
    pub struct StoreWords {
        /// Held by whoever makes a segment or looks after the claim.
        lock: TidLock,
        claim: Parcel<Claim>,
        created_ms: AtomicU64,
        boot: AtomicU64,
        /// No file is tried before this (`clock::monotonic_ms`).
        file_after: AtomicU64,
        /// Segments that are memory.
        in_memory: AtomicU64,
        /// 1: no segment is made any more.
        retired: AtomicU64,
        /// Places given to slots that lost their own.
        spares: AtomicU64,
        /// Segments that orphans take of this directory's room.
        taken: AtomicU64,
        /// Times a segment could not be a file.
        pub failures: AtomicU64,
    }
}

/// See the module's text.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    /// What was configured.
    pub spec: &'a Spec,
    /// This process's words.
    pub words: &'a StoreWords,
    /// Where the slots' memory lies.
    pub area: usize,
}

impl<'a> Store<'a> {
    /// A generation begins: nothing is held.
    pub fn reset(words: &StoreWords) {
        words.lock.reset();
        words.claim.abandon();
        for w in [
            &words.boot,
            &words.file_after,
            &words.in_memory,
            &words.retired,
            &words.spares,
            &words.taken,
            &words.failures,
        ] {
            w.store(0, Ordering::Relaxed);
        }
        words.created_ms.store(clock::wall_precise_ns() / 1_000_000, Ordering::Relaxed);
    }

    fn stem(&self, log: &Log<'_>) -> Stem {
        Stem {
            created_ms: self.words.created_ms.load(Ordering::Relaxed),
            boot: self.words.boot.load(Ordering::Acquire),
            nonce: log.nonce,
        }
    }

    /// How many segments this process may have: what orphans leave of the room, and two at least; while no file can
    /// be had, what `queue_bytes` allows beside the files there are.
    pub fn room(&self, log: &Log<'_>) -> u32 {
        let room = log.segments.saturating_sub(self.words.taken.load(Ordering::Relaxed) as u32).max(2);
        if clock::monotonic_ms() >= self.words.file_after.load(Ordering::Relaxed) {
            return room;
        }
        let files = log.used().0.saturating_sub(self.words.in_memory.load(Ordering::Relaxed) as u32);
        room.min(files + self.spec.memory_segments)
    }

    fn is_retired(&self) -> bool {
        self.words.retired.load(Ordering::Acquire) != 0
    }

    // ---- giving segments ----

    /// See that the segment behind the tail's is there. `false`: there is no room, or nothing can be made.
    pub fn supply_next(&self, log: &Log<'_>) -> bool {
        let tail = log.tail();
        let there = || log.tail() != tail || log.next_slot().is_some();
        !self.is_retired()
            && (there() || self.words.lock.with(PATIENCE, || there() || self.supply(log)).unwrap_or(false))
    }

    fn supply(&self, log: &Log<'_>) -> bool {
        let Some(number) = log.wanted(self.room(log)).filter(|_| !self.is_retired()) else { return false };
        log.supply(number, |slot, tainted| {
            let place = if tainted { self.other_place(log) } else { Some(self.place(log, number)) };
            place.is_some_and(|addr| {
                self.fill_with_file(log, slot, number, addr) || self.fill_with_memory(log, slot, addr)
            })
        })
    }

    /// The slot's own place for that number.
    fn place(&self, log: &Log<'_>, number: u32) -> usize {
        self.area + (number as usize & (log.slots.len() - 1)) * log.segment_len as usize
    }

    /// A place for a slot whose own must be left alone for ever.
    fn other_place(&self, log: &Log<'_>) -> Option<usize> {
        let len = log.segment_len as usize;
        let n = self.words.spares.fetch_add(1, Ordering::Relaxed);
        if n < SPARES {
            return Some(self.area + (log.slots.len() + n as usize) * len);
        }
        Mapping::reserved(len).ok().map(Mapping::leak)
    }

    fn fill_with_file(&self, log: &Log<'_>, slot: &Slot, number: u32, addr: usize) -> bool {
        if clock::monotonic_ms() < self.words.file_after.load(Ordering::Relaxed) {
            return false;
        }
        match self.make_file(log, slot, number, addr) {
            Ok(()) => true,
            Err(why) => {
                self.failed(&why);
                false
            }
        }
    }

    fn failed(&self, why: &Problem) {
        self.words.file_after.store(clock::monotonic_ms() + AGAIN_MS, Ordering::Relaxed);
        self.warn(why);
    }

    fn warn(&self, why: &dyn std::fmt::Display) {
        self.words.failures.fetch_add(1, Ordering::Relaxed);
        let dir = self.spec.dir.path().display();
        let text = format!(
            "the spool {dir} cannot be used ({why}); events are kept in memory, where a kill loses them"
        );
        say(Level::Warn, Reason::Spool, &text);
    }

    fn make_file(&self, log: &Log<'_>, slot: &Slot, number: u32, addr: usize) -> Result<(), Problem> {
        let owner = self.hold(log)?;
        let name = self.stem(log).segment(number);
        let len = log.segment_len as usize;
        let mapped = self.map_file(&name, addr, len).or_else(|why| match why.raw_os_error() {
            // Somebody closed the descriptor under it: once more.
            None | Some(libc::EBADF) => self.map_file(&name, addr, len),
            _ => Err(why),
        });
        mapped.map_err(Problem::Unavailable)?;
        mmap::populate(addr, len);
        // SAFETY: page-aligned, as long as a segment, zero but for what the next line writes; it stays mapped until it is
        // settled, and covered by other memory afterwards.
        unsafe { slot.fill(addr) };
        let created_ms = clock::wall_coarse_ns() / 1_000_000;
        let format = self.spec.format;
        let header =
            Header { segment_len: log.segment_len, owner, number, nonce: log.nonce, created_ms, format };
        header.write(slot.segment());
        Ok(())
    }

    /// Make the file and map it at `addr`; leaves none behind if that fails.
    fn map_file(&self, name: &str, addr: usize, len: usize) -> io::Result<()> {
        let dir = &self.spec.dir;
        let file = dir.create(name)?;
        let map = || {
            files::allocate(file.get()?, len as u64)?;
            // SAFETY: the place is reserved for this slot and settled; the file is `len` bytes long, and who may
            // shorten it is only our own user.
            unsafe { files::map_over(addr, len, file.get()?) }?;
            // Nothing was written yet: should it have been another file, no harm is done.
            file.get().map(drop)
        };
        map().inspect_err(|_| {
            let _ = dir.remove(name);
        })
    }

    /// Hold our stem: the own file is made with the first segment, and made anew should it be gone.
    fn hold(&self, log: &Log<'_>) -> Result<Identity, Problem> {
        self.spec.dir.enter()?;
        let me = Identity::mine();
        let claim = match self.words.claim.take() {
            Some(mut claim) => {
                let renewed = claim.renew(&self.spec.dir, &self.spec.table);
                self.words.claim.put(claim);
                return renewed.map(|()| me).map_err(Problem::Unavailable);
            }
            None => {
                self.words.boot.store(me.boot, Ordering::Release);
                Claim::create(&self.spec.dir, self.stem(log), &me, &self.spec.table)
            }
        };
        self.words.claim.put(Box::new(claim.map_err(Problem::Unavailable)?));
        Ok(me)
    }

    fn fill_with_memory(&self, log: &Log<'_>, slot: &Slot, addr: usize) -> bool {
        if self.words.in_memory.load(Ordering::Relaxed) >= u64::from(self.spec.memory_segments) {
            return false;
        }
        // SAFETY: the slot's place is reserved for it and settled.
        let mapped = unsafe { mmap::cover(addr, log.segment_len as usize) };
        if mapped {
            mmap::wipe_on_fork(addr, log.segment_len as usize);
            mmap::populate(addr, log.segment_len as usize);
            self.words.in_memory.fetch_add(1, Ordering::Relaxed);
            // SAFETY: fresh zeroed pages that stay mapped.
            unsafe { slot.fill(addr) };
        }
        mapped
    }

    // ---- taking them back ----

    /// Everything before `to` is settled: remove the files before it, and note the place in its own.
    pub fn settle(&self, log: &Log<'_>, to: Position) {
        let (number, offset) = split(to);
        if let Some(slot) = log.slot_of(number).filter(|slot| slot.has_memory())
            && log.is_supplied(number)
            && header::is_file(slot.segment())
        {
            header::settle(slot.segment(), log.nonce, number, offset.max(SEGMENT_HEADER));
        }
        log.release(to, |slot, number, tainted| self.free(log, slot, number, tainted));
    }

    fn free(&self, log: &Log<'_>, slot: &Slot, number: u32, tainted: bool) -> bool {
        let segment = slot.segment();
        if header::is_file(segment) {
            // Should it not go away, nobody sends it again.
            header::settle(segment, log.nonce, number, log.segment_len);
            let _ = self.spec.dir.remove(&self.stem(log).segment(number));
        } else {
            self.words.in_memory.fetch_sub(1, Ordering::Relaxed);
        }
        slot.clear();
        let (addr, len) = (segment.addr(), log.segment_len as usize);
        let ours = self.area..self.area + (log.slots.len() + SPARES as usize) * len;
        if !tainted {
            // SAFETY: the consumer has passed the segment, no reservation in it is open, and nobody reads it.
            unsafe {
                if ours.contains(&addr) {
                    mmap::cover(addr, len);
                } else {
                    mmap::unmap(addr, len);
                }
            }
        }
        !tainted && addr == self.place(log, number)
    }

    // ---- looking after it ----

    /// See that our lock is held and our files are where they were; go back to files where it was memory.
    pub fn look_after(&self, log: &Log<'_>) {
        if self.is_retired() || log.accepted() == 0 {
            return;
        }
        let (mine, offset) = split(log.tail());
        if offset >= log.segment_len {
            // What comes next goes elsewhere anyway.
            return;
        }
        let Some(slot) = log.slot_of(mine).filter(|slot| slot.has_memory()) else { return };
        if header::is_file(slot.segment()) {
            let there = self.spec.dir.file(&self.stem(log).segment(mine)).symlink_metadata().is_ok();
            let held = self.words.lock.with(PATIENCE, || self.hold(log)).unwrap_or(Ok(Identity::mine()));
            if let Err(why) = &held {
                self.failed(why);
            }
            if there || held.is_err() {
                return;
            }
            self.warn(&"its files were removed while in use");
        }
        // What is in use is not on the disk. If a file can be had again, go on towards one.
        if clock::monotonic_ms() >= self.words.file_after.load(Ordering::Relaxed) {
            match self.words.lock.with(PATIENCE, || self.probe(log)) {
                Some(Ok(())) => log.skip_rest(),
                Some(Err(why)) => self.failed(&why),
                None => {}
            }
        }
    }

    /// Whether a segment's file could be made now.
    fn probe(&self, log: &Log<'_>) -> Result<(), Problem> {
        self.hold(log)?;
        let (dir, name) = (&self.spec.dir, format!("{}.probe.bad", self.stem(log).text()));
        let file = dir.create_nameless().or_else(|_| {
            let file = dir.create(&name)?;
            dir.remove(&name).map(|()| file)
        });
        let made = file.and_then(|file| files::allocate(file.get()?, u64::from(log.segment_len)));
        made.map_err(Problem::Unavailable)
    }

    /// How much of the room orphans take, in bytes.
    pub fn set_orphans(&self, log: &Log<'_>, bytes: u64) {
        self.words.taken.store(bytes / u64::from(log.segment_len), Ordering::Relaxed);
    }

    /// Bring everything behind `from` to the disk, with the names of the files it is in. What is reserved and
    /// not committed yet may or may not be among it.
    pub fn sync(&self, log: &Log<'_>, from: Position) -> io::Result<()> {
        let (first, last) = (split(from).0.max(split(log.head()).0), split(log.tail()).0);
        for number in first..=last {
            let slot = log.slot_of(number).filter(|slot| slot.has_memory() && log.is_supplied(number));
            if let Some(slot) = slot.filter(|slot| header::is_file(slot.segment())) {
                files::sync(slot.segment().addr(), log.segment_len as usize)?;
            }
        }
        if last != split(from).0 { self.spec.dir.sync() } else { Ok(()) }
    }

    /// Events in files that are not settled.
    pub fn left(&self, log: &Log<'_>) -> u64 {
        let mut left = 0;
        let mut at = log.head();
        loop {
            match log.look(at) {
                Seen::Record { at: place, next, .. } => {
                    let slot = log.slot_of(split(place).0);
                    left += u64::from(slot.is_some_and(|slot| header::is_file(slot.segment())));
                    at = next;
                }
                Seen::Hole { at: hole } => at = log.past_hole(hole),
                Seen::Empty { .. } => return left,
            }
        }
    }

    /// Nothing more will be taken: remove the files if everything is settled, else, with `leave`, give them to
    /// whoever comes. `true`: they were removed. Only for the consumer.
    pub fn retire(&self, log: &Log<'_>, leave: bool) -> bool {
        self.words.lock.with(PATIENCE, || self.retire_alone(log, leave)).unwrap_or(false)
    }

    fn retire_alone(&self, log: &Log<'_>, leave: bool) -> bool {
        self.words.retired.store(1, Ordering::Release);
        let empty = log.close();
        if !empty && !leave {
            self.words.retired.store(0, Ordering::Release);
            return false;
        }
        let (dir, table) = (&self.spec.dir, &self.spec.table);
        if !empty {
            log.seal();
            if !self.is_whole(log) {
                // Somebody is still writing: at the process's end whoever comes finds what he wrote.
                return false;
            }
        }
        let Some(claim) = self.words.claim.take() else { return empty };
        if !empty {
            claim.release(dir, table);
            return false;
        }
        let mut number = split(log.head()).0;
        while log.is_supplied(number) {
            let _ = dir.remove(&claim.stem().segment(number));
            number = number.wrapping_add(1);
        }
        claim.finish(dir, table);
        true
    }

    /// Wait a moment until everything reserved is committed.
    fn is_whole(&self, log: &Log<'_>) -> bool {
        for _ in 0..100 {
            let mut at = log.head();
            loop {
                match log.look(at) {
                    Seen::Record { next, .. } => at = next,
                    Seen::Empty { .. } => return true,
                    Seen::Hole { .. } => break,
                }
            }
            clock::nap(Duration::from_micros(200));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::mmap::Mapping;
    use crate::platform::page::WipedPage;
    use crate::queue::log::Cursors;
    use crate::queue::record::position;
    use std::fs;
    use std::path::PathBuf;

    const LEN: u32 = 65_536;

    crate::blank_struct! {
        struct Words { cursors: Cursors, store: StoreWords }
    }

    /// A store of four segments, `memory` of them in memory, in a directory of its own.
    fn with_store(name: &str, memory: u32, body: impl FnOnce(&Log<'_>, &Store<'_>)) {
        let root = PathBuf::from(format!("/tmp/libtelemetry-{}-store-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let dir = Directory::new(&root, "spool");
        let table = Arc::new(FileTable::new());
        let spec = Spec { dir, format: header::format_name("json"), memory_segments: memory, table };
        let page: WipedPage<Words, Slot> = WipedPage::new(4, true).unwrap();
        let area = Mapping::reserved((4 + SPARES as usize) * LEN as usize).unwrap();
        let cursors = &page.head().cursors;
        let nonce = 5 << 32 | 1;
        let log = Log { cursors, slots: page.tail(), segments: 4, segment_len: LEN, nonce, checked: true };
        let words = &page.head().store;
        Store::reset(words);
        log.start_unsupplied();
        body(&log, &Store { spec: &spec, words, area: area.addr() });
        drop(words.claim.take());
        fs::remove_dir_all(root).unwrap();
    }

    fn append(log: &Log<'_>, store: &Store<'_>, len: usize) -> bool {
        while log.append(0, 1, &vec![b'x'; len], || true).is_err() {
            if !store.supply_next(log) {
                return false;
            }
        }
        true
    }

    /// Segment files and own files.
    fn files(store: &Store<'_>) -> (usize, usize) {
        let found = store.spec.dir.list().unwrap_or_default();
        (found.segments.values().map(Vec::len).sum(), found.owns.len())
    }

    #[test]
    fn files_come_with_the_events_and_go_with_them() {
        with_store("life", 0, |log, store| {
            assert_eq!(files(store), (0, 0));
            while append(log, store, 20_000) {}
            assert_eq!((files(store), log.accepted(), store.left(log)), ((4, 1), 12, 12));
            let second = position(split(log.tail()).0 - 2, SEGMENT_HEADER);
            store.settle(log, second);
            assert_eq!((files(store), store.left(log)), ((3, 1), 9));
            store.settle(log, log.tail());
            assert_eq!((files(store), store.left(log)), ((1, 1), 0));
            assert!(store.retire(log, true));
            assert_eq!((files(store), append(log, store, 1)), ((0, 0), false));
        });
    }

    #[test]
    fn what_is_not_settled_is_left_to_whoever_comes() {
        with_store("left", 0, |log, store| {
            assert!(append(log, store, 10));
            assert!(!store.retire(log, false), "held still");
            assert!(store.spec.dir.list().unwrap().owns[&store.stem(log)][0].is_some());
            assert!(!store.retire(log, true));
            assert_eq!(store.spec.dir.list().unwrap().owns[&store.stem(log)], [None]);
        });
    }

    #[test]
    fn orphans_take_room_but_two_segments() {
        with_store("room", 0, |log, store| {
            store.set_orphans(log, u64::from(LEN));
            assert_eq!(store.room(log), 3);
            store.set_orphans(log, 100 * u64::from(LEN));
            assert_eq!(store.room(log), 2);
            while append(log, store, 20_000) {}
            assert_eq!(files(store).0, 2);
        });
    }

    #[test]
    fn without_a_directory_segments_are_memory_as_many_as_allowed() {
        with_store("memory", 2, |log, store| {
            fs::create_dir(store.spec.dir.path().parent().unwrap()).unwrap();
            fs::write(store.spec.dir.path(), "in the way").unwrap();
            let before = clock::monotonic_ms();
            while append(log, store, 20_000) {}
            assert_eq!((log.accepted(), store.left(log)), (6, 0));
            // The third segment was not tried: it was too soon.
            let times = 1 + (clock::monotonic_ms() - before) / AGAIN_MS;
            assert!((1..=times).contains(&store.words.failures.load(Ordering::Relaxed)));
            store.settle(log, log.tail());
            assert!(append(log, store, 20_000), "room again");
        });
    }
}
