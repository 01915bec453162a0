//! One segment's file: what it holds, and what of it cannot be read.
//!
//! Invariants:
//! - The file is opened only to be read, and read as far as its own header says.
//! - A file that is gone when it is opened was settled: that is no fault.
//! - What a live owner is writing may look damaged in one reading; a fault of its file is believed when two readings
//!   show it.

use std::io;
use std::time::Duration;
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::header::{Header, Unreadable};
use telemetry::queue::spool::read;
use telemetry::queue::spool::scan::{Damage, Scan, Step};

/// How long an owner may take for what it was writing.
const SETTLE: Duration = Duration::from_millis(20);

/// Damaged places of one file that are named; the rest is only counted.
const NAMED: u64 = 100;

/// Something that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where in the file, when known.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Report {
    /// The file.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its header, if it has one.
    pub header: Option<Header>,
    /// Events that are not settled.
    pub events: u64,
    /// Reservations that were never committed.
    pub holes: u64,
    /// Records that cannot be read.
    pub bad: u64,
    /// What cannot be read.
    pub faults: Vec<Fault>,
    /// It cannot be read at all, or not by this version: it may hold events that nobody can count.
    pub unread: bool,
}

/// Read it. `None`: it is gone.
pub fn look(dir: &Directory, name: &str, live: bool) -> Option<Report> {
    let mut first = look_once(dir, name)?;
    if live && !first.faults.is_empty() {
        std::thread::sleep(SETTLE);
        let second = look_once(dir, name)?;
        first.faults.retain(|fault| second.faults.contains(fault));
        first.bad = first.bad.min(second.bad);
        first.unread &= second.unread;
    }
    Some(first)
}

fn look_once(dir: &Directory, name: &str) -> Option<Report> {
    let mut report = Report { name: name.into(), ..Report::default() };
    let read = dir.open_to_read(name).and_then(|file| {
        report.bytes = file.get()?.metadata()?.len();
        file.get().and_then(read::segment)
    });
    match read {
        Ok(Ok(bytes)) => match Scan::new(&bytes) {
            Ok(scan) => report.count(scan, &bytes),
            Err(why) => report.refuse(why),
        },
        Ok(Err(why)) => report.refuse(why),
        Err(why) if why.kind() == io::ErrorKind::NotFound => return None,
        Err(why) => report.fault(None, format!("cannot be read: {why}")),
    }
    Some(report)
}

impl Report {
    fn fault(&mut self, offset: Option<u64>, what: String) {
        self.unread |= offset.is_none();
        self.faults.push(Fault { offset, what });
    }

    fn refuse(&mut self, why: Unreadable) {
        match why {
            // Its owner died before it wrote anything, or is about to.
            Unreadable::Blank => {}
            Unreadable::Future(version) => {
                self.fault(None, format!("of version {version}, which this command does not know"));
            }
            Unreadable::Garbage => {
                self.unread = true;
                self.fault(Some(0), "the header cannot be read".into());
            }
        }
    }

    fn count(&mut self, mut scan: Scan, bytes: &[u8]) {
        let whole = u64::from(scan.header().segment_len);
        self.header = Some(*scan.header());
        while let Some(step) = scan.step(bytes) {
            if let Step::Bad(at, damage) = step
                && scan.bad <= NAMED
            {
                let what = match damage {
                    Damage::Check => "a record whose check is wrong",
                    Damage::Cut => "a record that is longer than what is left of the file",
                    Damage::Stray => "bytes that are no record",
                };
                self.fault(Some(u64::from(at)), what.into());
            }
        }
        if scan.bad > NAMED {
            self.faults.push(Fault { offset: None, what: format!("and {} more places", scan.bad - NAMED) });
        }
        if (bytes.len() as u64) < whole {
            let n = bytes.len() as u64;
            self.fault(Some(n), format!("truncated: {n} of {whole} bytes are there"));
        }
        (self.events, self.holes, self.bad) = (scan.found, scan.holes, scan.bad);
    }
}
