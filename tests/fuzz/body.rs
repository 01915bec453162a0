//! What is done with each input, under the fuzzer and in the plain tests.
//!
//! An input is a file as it is, or a recipe for one: a fuzzer does not guess nonces and checks, so a recipe
//! writes whole records, and holes, pads, gaps, wrong bits and cuts between them. What is then whole is known.
use crate::forge::{header, one_record};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use telemetry::platform::identity::Identity;
use telemetry::platform::sockets::FileTable;
use telemetry::queue::log::Seen;
use telemetry::queue::record::{self, HEADER, footprint, position};
use telemetry::queue::spool::directory::Directory;
use telemetry::queue::spool::header::{Header, SETTLED_AT, VERSION};
use telemetry::queue::spool::names::Stem;
use telemetry::queue::spool::orphans::Orphans;
use telemetry::queue::spool::scan::Scan;

const LEN: u32 = 8192;
const NONCE: u64 = 0x0123_4567_89ab_cdef;
const NUMBER: u32 = 3;

/// A file, and what of it must be found: where, and which body.
pub struct Dish {
    pub bytes: Vec<u8>,
    /// Written, and not touched afterwards.
    whole: Vec<(u32, Vec<u8>)>,
    /// Written, and hit by something.
    hit: Vec<(u32, Vec<u8>)>,
}

/// Eats an input.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn one(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }

    fn two(&mut self) -> Option<usize> {
        Some(self.one()? << 8 | self.one()?)
    }

    fn some(&mut self, n: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        some
    }
}

/// Cook. The first byte says whether it is a recipe.
pub fn cook(input: &[u8]) -> Dish {
    let mut input = Bytes(input);
    if input.one().is_none_or(|kind| kind % 4 == 0) {
        return Dish { bytes: input.0.to_vec(), whole: Vec::new(), hit: Vec::new() };
    }
    let mut dish = Dish { bytes: header(VERSION, LEN, NUMBER, NONCE), whole: Vec::new(), hit: Vec::new() };
    while let Some(op) = input.one() {
        if dish.step(op, &mut input).is_none() || dish.bytes.len() >= LEN as usize {
            break;
        }
    }
    dish
}

impl Dish {
    fn step(&mut self, op: usize, input: &mut Bytes<'_>) -> Option<()> {
        let at = self.bytes.len();
        let place = position(NUMBER, at as u32);
        match op % 8 {
            0 | 1 => {
                let len = 1 + input.one()? * if op.is_multiple_of(8) { 1 } else { 5 };
                let body = vec![op as u8; len];
                if at + footprint(len) <= LEN as usize && at.is_multiple_of(8) {
                    self.bytes.extend(one_record(place, NONCE, 9, &body));
                    self.whole.push((at as u32, body));
                }
            }
            2 => {
                let says = input.one()?;
                let len = input.one()?;
                let word = record::reserved(record::tag(NONCE, place), says + 1);
                self.bytes.extend(word.to_ne_bytes());
                self.bytes.extend([0; HEADER - 8]);
                self.bytes.extend(input.some(len));
            }
            3 => {
                let len = if op & 8 == 0 { LEN as usize - at.min(LEN as usize) } else { input.two()? };
                self.bytes.extend(record::pad(record::tag(NONCE, place), len).to_ne_bytes());
            }
            4 => {
                let len = input.one()?;
                self.bytes.extend(input.some(len));
            }
            5 => self.bytes.extend(vec![0; 8 * input.one()?]),
            6 => {
                let (place, value) = (input.two()? % at.max(1), input.one()?);
                self.touch(place, place + 1);
                *self.bytes.get_mut(place)? ^= value as u8;
            }
            _ if op & 8 == 0 => {
                let len = input.two()? % at.max(1);
                self.touch(len, at);
                // The end of a record whose padding alone is cut off is there.
                self.bytes.truncate(len);
            }
            _ => {
                let to = (input.two()? * 8) as u32;
                if let Ok(header) = Header::read(&self.bytes) {
                    let at = SETTLED_AT as usize;
                    let word = header.settled_word(to).to_ne_bytes();
                    self.bytes.get_mut(at..at + 8)?.copy_from_slice(&word);
                }
            }
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(if op % 8 == 7 { 1 } else { 8 }), 0);
        Some(())
    }

    /// Those bytes are not what they were.
    fn touch(&mut self, from: usize, to: usize) {
        let meets = |(at, body): &(u32, Vec<u8>)| {
            let at = *at as usize;
            from < at + footprint(body.len()) && at < to
        };
        let (hit, whole) = std::mem::take(&mut self.whole).into_iter().partition(meets);
        self.whole = whole;
        self.hit.extend::<Vec<_>>(hit);
    }
}

/// Scan it: it ends, it stays inside, it finds all that is whole and nothing that was not written.
pub fn scan(input: &[u8]) {
    let dish = cook(input);
    let bytes = &dish.bytes[..];
    let Ok(mut scan) = Scan::new(bytes) else { return };
    let settled = scan.header().settled(bytes);
    let cooked = !dish.whole.is_empty() || !dish.hit.is_empty();
    let mut found = Vec::new();
    let mut end = 0;
    while let Some(record) = scan.next(bytes) {
        assert!(record.offset >= end && record.offset >= settled, "it goes back");
        assert!(record.next as usize >= record.offset as usize + HEADER + record.body.len());
        end = record.next;
        found.push((record.offset, record.body.to_vec()));
    }
    assert_eq!(scan.found as usize, found.len());
    assert!(scan.next(bytes).is_none(), "the end is the end");
    if !cooked {
        return;
    }
    for record in &found {
        assert!(
            dish.whole.contains(record) || dish.hit.contains(record),
            "nobody wrote what is at {}",
            record.0
        );
    }
    // A pad that came from somewhere, or a header of which neither copy is whole, may hide the rest.
    let is_own = scan.header().nonce == NONCE && scan.header().number == NUMBER;
    if is_own && !has_pad(bytes) {
        // One that was cut off may have got the very bytes back from what was written behind it.
        let mended: Vec<_> = found.iter().filter(|record| dish.hit.contains(record)).collect();
        let is_within = |at: u32| mended.iter().any(|(m, b)| *m < at && at < m + footprint(b.len()) as u32);
        for record in dish.whole.iter().filter(|(at, _)| *at >= settled && !is_within(*at)) {
            assert!(found.contains(record), "what is at {} was not found", record.0);
        }
    }
}

fn has_pad(bytes: &[u8]) -> bool {
    bytes.chunks_exact(8).enumerate().any(|(i, chunk)| {
        let word = u64::from_ne_bytes(chunk.try_into().unwrap());
        let tag = record::tag(NONCE, position(NUMBER, i as u32 * 8));
        record::read(word, tag) == record::Word::Pad
    })
}

/// Files of a directory: the input is cut into pieces, each the content of one. All of them are read, settled and
/// removed or set aside; it ends.
pub fn orphans(input: &[u8], dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let directory = Directory::at(dir);
    let mut bytes = Bytes(input);
    let mut total = 0;
    while let (Some(name), Some(len)) = (bytes.one(), bytes.one()) {
        let stem = Stem { created_ms: (name % 3) as u64, boot: 1, nonce: NONCE };
        let dish = cook(bytes.some(len));
        let name = if name & 8 == 0 { stem.segment((name >> 4) as u32) } else { stem.own(None) };
        total += dish.bytes.len();
        fs::write(directory.file(&name), dish.bytes).unwrap();
    }
    telemetry::queue::spool::claim::prepare_page(true);
    let mut orphans = Orphans::new(directory.clone(), Identity::mine(), Arc::new(FileTable::new()));
    orphans.sweep(Duration::from_secs(3600)).unwrap();
    let mut records = 0;
    let mut again = input.len() % 5;
    let mut passed_over = 0;
    loop {
        match orphans.look() {
            Seen::Record { at, next, .. } => {
                records += 1;
                assert!(records <= total / HEADER + 10, "it goes round in circles");
                if again > 0 {
                    again -= 1;
                    orphans.put_back(at);
                    orphans.settle(at);
                } else if records % 3 == 0 {
                    orphans.settle(next);
                }
            }
            Seen::Empty { at } => {
                if orphans.head() != at {
                    orphans.settle(at);
                } else if passed_over < 20 && left_over(dir).is_some() {
                    // Another thread of this process was looking for orphans of its own.
                    passed_over += 1;
                    orphans.sweep(Duration::from_secs(3600)).unwrap();
                } else {
                    break;
                }
            }
            Seen::Hole { .. } => panic!("an orphan has no holes"),
        }
    }
    assert!(orphans.is_idle());
    drop(orphans);
    assert_eq!(left_over(dir), None, "it was left");
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let held: Vec<_> = names.filter(|n| n.ends_with(".own") && !n.ends_with("@none.own")).collect();
    assert!(held.is_empty(), "{held:?}");
}

/// A file that is neither for a later version nor set aside, nor says who holds the others.
fn left_over(dir: &Path) -> Option<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.into_iter().find(|name| {
        let future = || {
            let content = fs::read(dir.join(name)).unwrap();
            matches!(Header::read(&content), Err(telemetry::queue::spool::header::Unreadable::Future(_)))
        };
        !name.ends_with(".bad") && !name.ends_with(".own") && !future()
    })
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let recipe = |steps: &[&[u8]]| [&[1][..], &steps.concat()].concat();
    let raw = |bytes: &[u8]| [&[0][..], bytes].concat();
    let record: &[u8] = &[0, 20];
    let large: &[u8] = &[1, 200];
    let hole: &[u8] = &[2, 60, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let torn: &[u8] = &[2, 3, 40, 0xff, 0xff];
    let pad: &[u8] = &[3];
    let gap: &[u8] = &[5, 9];
    let flip: &[u8] = &[6, 1, 10, 4];
    let cut: &[u8] = &[7, 1, 80];
    let settled: &[u8] = &[15, 0, 40];
    let few = recipe(&[record, record]);
    let mut all = vec![
        raw(b""),
        raw(&header(VERSION, LEN, NUMBER, NONCE)),
        raw(&header(VERSION + 1, LEN, NUMBER, NONCE)),
        raw(&cook(&few).bytes),
        few.clone(),
        recipe(&[record, hole, record, torn, large, pad]),
        recipe(&[record, gap, large, record, flip]),
        recipe(&[record, large, record, cut]),
        recipe(&[record, record, record, settled, record]),
    ];
    let as_file = |name: u8, content: &[u8]| [&[name, content.len() as u8][..], content].concat();
    all.push([as_file(0, &few), as_file(16, &few), as_file(1, &few), as_file(8, b"")].concat());
    all
}
