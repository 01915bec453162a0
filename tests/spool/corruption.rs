//! Files that were cut off or hold wrong bits: what is whole is found, and nothing else.
use crate::collector::Collector;
use crate::dice::Dice;
use crate::host::{Host, check};
use crate::spool::{SEGMENT, Spool, event, number_of, places};
use crate::victim::Victim;
use serde_json::json;
use std::fs;
use telemetry::queue::record::{HEADER, pad, position, tag, withdrawn};
use telemetry::queue::spool::header::SETTLED_AT;
use telemetry::queue::spool::names::{Name, Stem, parse};
use telemetry::queue::spool::scan::Scan;

/// The header's two copies; the first alone is enough.
const COPY: usize = 88;
/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Events of a killed process: one segment's file, and how long they are.
struct Sample {
    stem: Stem,
    number: u32,
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Sample {
    fn new(lengths: &[usize]) -> Sample {
        let spool = Spool::new();
        let mut victim = Victim::open(NOWHERE, spool.keys(json!({})));
        for (n, len) in lengths.iter().enumerate() {
            victim.fill(n as u64..n as u64 + 1, *len);
        }
        victim.kill();
        let path = spool.segments().remove(0);
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(Name::Segment(stem, number)) = parse(name) else { panic!("{name}") };
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), SEGMENT, "its space was set aside");
        let lengths: Vec<usize> = (0..).zip(lengths).map(|(n, len)| event(n, *len).len()).collect();
        Sample { stem, number, bytes, lengths }
    }

    fn places(&self) -> Vec<(usize, usize, usize)> {
        places(self.lengths.iter().copied())
    }

    fn all(&self) -> Vec<u64> {
        (0..self.lengths.len() as u64).collect()
    }

    /// Through a whole client: what arrives of such a file, and what was counted as corrupt.
    fn deliver(&self, collector: &Collector, bytes: &[u8]) -> (Vec<u64>, u64) {
        let spool = Spool::fast().with_leaf(collector.url());
        spool.orphan(self.stem, self.number, bytes);
        let host = Host::open(collector.url(), spool.keys(json!({})));
        let before = collector.count();
        host.flush_all();
        let s = host.stats();
        check(&s);
        assert_eq!((s.accepted, s.queue_events), (0, 0));
        let numbers: Vec<u64> = collector.requests()[before..].iter().flat_map(|r| r.numbers()).collect();
        assert_eq!((s.recovered, s.delivered), (numbers.len() as u64, numbers.len() as u64));
        let left = spool.names();
        assert!(left.iter().all(|name| name.ends_with(".bad")), "{left:?}");
        assert!(left.is_empty() || s.corrupt > 0, "{left:?} without a count");
        (numbers, s.corrupt)
    }
}

/// Every record of such a file; the scan ends.
fn scan(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut scan = Scan::new(bytes).ok()?;
    let mut numbers = Vec::new();
    while let Some(found) = scan.next(bytes) {
        numbers.push(number_of(found.body));
        // Its id is made of these.
        let here = position(scan.header().number, found.offset);
        assert_eq!((found.fields.nonce, found.fields.position), (scan.header().nonce, here));
        assert!(numbers.len() <= bytes.len() / HEADER, "it goes round in circles");
    }
    assert!(scan.next(bytes).is_none(), "the end is the end");
    Some(numbers)
}

/// Bodies of all alignments, an empty object, a long one.
fn lengths() -> Vec<usize> {
    (0..40).map(|i| 12 + i * 13 % 97).chain([2000, 15, 1]).collect()
}

#[test]
fn a_file_cut_off_anywhere_gives_what_is_whole() {
    let sample = Sample::new(&lengths());
    let places = sample.places();
    let used = places.last().unwrap().2;
    let whole = |len: usize| -> Vec<u64> {
        let kept = places.iter().take_while(|(_, end, _)| *end <= len && len >= COPY);
        (0..).zip(kept).map(|(n, _)| n).collect()
    };
    let rest = [used + 1, used + 8, used + 4096, SEGMENT - 8, SEGMENT - 1, SEGMENT];
    for len in (0..=used).chain(rest) {
        let found = scan(&sample.bytes[..len]);
        assert_eq!(found, (len >= COPY).then(|| whole(len)), "cut off at {len}");
    }

    let collector = Collector::kind();
    let mut dice = Dice::thrown();
    let mut cuts: Vec<usize> = (0..150).map(|_| dice.below(used)).collect();
    cuts.extend([0, 1, COPY - 1, COPY, 175, 176, 255, 256, 257, used - 1, used, used + 1, SEGMENT]);
    // Each edge of a few records.
    cuts.extend(places[3..6].iter().flat_map(|(a, b, c)| [*a, a + 8, a + HEADER, b - 1, *b, *c]));
    for len in cuts {
        let (numbers, corrupt) = sample.deliver(&collector, &sample.bytes[..len]);
        assert_eq!(numbers, whole(len), "cut off at {len}");
        // A record without its end is seen as such once its commit word is there whole.
        let torn = places.iter().any(|(start, end, _)| start + 8 <= len && len < *end);
        assert_eq!(corrupt, u64::from(torn || (1..COPY).contains(&len)), "cut off at {len}");
    }
}

/// What a flipped bit may cost.
#[derive(Debug, PartialEq)]
enum Cost {
    /// Not even a second delivery.
    Nothing,
    /// What was settled is sent again.
    Again,
    /// That record, unless the flip hit what nobody looks at.
    Record(usize),
}

#[test]
fn a_flipped_bit_costs_at_most_the_record_it_hits() {
    let mut sample = Sample::new(&lengths());
    let places = sample.places();
    // Two are settled; one was never committed.
    let settled = 2;
    let hole = 20;
    let header = *Scan::new(&sample.bytes).unwrap().header();
    let word = header.settled_word(places[settled].0 as u32).to_ne_bytes();
    sample.bytes[SETTLED_AT as usize..][..8].copy_from_slice(&word);
    let at = places[hole].0;
    let word = u64::from_ne_bytes(sample.bytes[at..at + 8].try_into().unwrap());
    sample.bytes[at..at + 8].copy_from_slice(&withdrawn(word).to_ne_bytes());
    sample.bytes[at + HEADER + 3..places[hole].1].fill(0);
    // A pad over the rest.
    let used = places.last().unwrap().2;
    let pad = pad(tag(header.nonce, position(header.number, used as u32)), SEGMENT - used);
    sample.bytes[used..used + 8].copy_from_slice(&pad.to_ne_bytes());

    let rest: Vec<u64> =
        sample.all().into_iter().filter(|n| *n >= settled as u64 && *n != hole as u64).collect();
    assert_eq!(scan(&sample.bytes).unwrap(), rest);
    let cost = |byte: usize| match places.iter().position(|(start, _, next)| (*start..*next).contains(&byte))
    {
        Some(n) if n >= settled && n != hole => Cost::Record(n),
        _ if (SETTLED_AT as usize..SETTLED_AT as usize + 8).contains(&byte) => Cost::Again,
        _ => Cost::Nothing,
    };
    let judge = |byte: usize, found: &[u64]| match cost(byte) {
        Cost::Nothing => assert_eq!(found, rest, "byte {byte}"),
        Cost::Again => assert_eq!(found, [&[0, 1], &rest[..]].concat(), "byte {byte}"),
        Cost::Record(n) => {
            let without: Vec<u64> = rest.iter().copied().filter(|m| *m != n as u64).collect();
            assert!(found == rest || found == without, "byte {byte} in record {n}: {found:?}");
            let (start, end, _) = places[n];
            let body = (start + HEADER..end).contains(&byte);
            assert!(!body || found == without, "byte {byte} of a body is wrong and nobody noticed");
        }
    };
    let mut dice = Dice::thrown();
    let flip = |bytes: &mut Vec<u8>, bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    let mut bytes = sample.bytes.clone();
    // Every bit of the header, and 10,000 anywhere.
    let bits: Vec<usize> = (0..256 * 8).chain((0..10_000).map(|_| dice.below((used + 64) * 8))).collect();
    for bit in &bits {
        flip(&mut bytes, *bit);
        judge(bit / 8, &scan(&bytes).expect("one copy of the header is whole"));
        flip(&mut bytes, *bit);
    }

    let collector = Collector::kind();
    for _ in 0..150 {
        let bit = bits[dice.below(bits.len())];
        flip(&mut bytes, bit);
        let (numbers, corrupt) = sample.deliver(&collector, &bytes);
        flip(&mut bytes, bit);
        judge(bit / 8, &numbers);
        // A length that is damaged leaves a record that is wrong, and bytes that are nobody's behind it.
        assert!(corrupt <= 2, "bit {bit}: {corrupt}");
    }
}

#[test]
fn many_flipped_bits_never_make_an_event() {
    let sample = Sample::new(&lengths());
    let mut dice = Dice::thrown();
    for round in 0..3000 {
        let mut bytes = sample.bytes.clone();
        bytes.truncate(256 + dice.below(SEGMENT - 256));
        for _ in 0..1 + dice.below(200) {
            let at = dice.below(bytes.len());
            bytes[at] = dice.next() as u8;
        }
        let Some(numbers) = scan(&bytes) else { continue };
        assert!(numbers.is_sorted() && numbers.iter().all(|n| sample.all().contains(n)), "round {round}");
    }
}
