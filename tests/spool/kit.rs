//! The queue and its spool without a client: nothing delivers, nothing runs beside.
use crate::spool::SEGMENT;
use std::fs;
use std::sync::Arc;
use telemetry::platform::identity::Identity;
use telemetry::platform::mmap::Mapping;
use telemetry::platform::page::WipedPage;
use telemetry::platform::sockets::FileTable;
use telemetry::queue::log::{Cursors, Log, Refused};
use telemetry::queue::record::Position;
use telemetry::queue::segment::Slot;
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::header::format_name;
use telemetry::queue::spool::names::{Name, Stem, parse};
use telemetry::queue::spool::orphans::Orphans;
use telemetry::queue::spool::store::{SPARES, Spec, Store, StoreWords};

telemetry::blank_struct! {
    pub struct Words {
        cursors: Cursors,
        store: StoreWords,
    }
}

/// A generation of its own.
pub struct Kit {
    page: WipedPage<Words, Slot>,
    spec: Spec,
    area: Mapping,
    nonce: u64,
    segments: u32,
}

impl Kit {
    /// With room for that many segments, `memory` of them in memory.
    pub fn new(dir: &Directory, nonce: u64, segments: u32, memory: u32) -> Kit {
        let slots = segments.next_power_of_two() as usize;
        let page: WipedPage<Words, Slot> = WipedPage::new(slots, true).unwrap();
        let spec = Spec {
            dir: dir.clone(),
            format: format_name("ndjson"),
            memory_segments: memory,
            table: Arc::new(FileTable::new()),
        };
        let area = Mapping::reserved((slots + SPARES as usize) * SEGMENT).unwrap();
        let kit = Kit { page, spec, area, nonce, segments };
        Store::reset(&kit.page.head().store);
        kit.log().start_unsupplied();
        kit
    }

    pub fn log(&self) -> Log<'_> {
        Log {
            cursors: &self.page.head().cursors,
            slots: self.page.tail(),
            segments: self.segments,
            segment_len: SEGMENT as u32,
            nonce: self.nonce,
            checked: true,
        }
    }

    pub fn store(&self) -> Store<'_> {
        Store { spec: &self.spec, words: &self.page.head().store, area: self.area.addr() }
    }

    /// As a client does it; `false` is FULL.
    pub fn enqueue(&self, time_ns: u64, body: &[u8]) -> bool {
        loop {
            match self.log().append(0, time_ns, body, || true) {
                Ok(_) => return true,
                Err(Refused::Torn) => panic!("nobody forks here"),
                Err(Refused::Full) if self.store().supply_next(&self.log()) => {}
                Err(Refused::Full) => return false,
            }
        }
    }

    pub fn settle(&self, to: Position) {
        self.store().settle(&self.log(), to);
    }

    /// The files this generation has.
    pub fn stem(&self) -> Option<Stem> {
        let all = self.spec.dir.list().unwrap();
        all.owns.keys().copied().find(|stem| stem.nonce == self.nonce)
    }

    /// What it held is held by nobody, as if its process were dead.
    pub fn kill(self) {
        self.spec.table.close_inherited();
        if let Some(stem) = self.stem() {
            abandon(&self.spec.dir, stem);
        }
    }
}

/// Whoever holds a stem is nobody from now on.
pub fn abandon(dir: &Directory, stem: Stem) {
    for holder in dir.list().unwrap().owns.remove(&stem).unwrap_or_default() {
        fs::rename(dir.file(&stem.own(holder.as_ref())), dir.file(&stem.own(None))).unwrap();
    }
}

/// An adopter that can be killed as well.
pub struct Adopter {
    pub orphans: Orphans,
    dir: Directory,
    table: Arc<FileTable>,
}

impl Adopter {
    pub fn new(dir: &Directory) -> Adopter {
        telemetry::queue::spool::claim::prepare_page(true);
        let table = Arc::new(FileTable::new());
        let orphans = Orphans::new(dir.clone(), Identity::mine(), table.clone());
        Adopter { orphans, dir: dir.clone(), table }
    }

    /// What it has taken is held by nobody, and nothing is tidied. `spare` is somebody else's of this process.
    pub fn kill(self, spare: Option<Stem>) {
        std::mem::forget(self.orphans);
        self.table.close_inherited();
        for name in fs::read_dir(self.dir.path()).unwrap().flatten() {
            if let Some(Name::Own(stem, Some(_))) = parse(name.file_name().to_str().unwrap())
                && Some(stem) != spare
            {
                abandon(&self.dir, stem);
            }
        }
    }
}
