//! The fuzzer's inputs, mutated without a fuzzer: so that each run of the tests looks at some hundred thousand.
use crate::body::{orphans, scan, seeds};
use crate::dice::Dice;
use crate::spool::Spool;

/// One of the seeds, or two, changed a little.
fn mutated(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[dice.below(seeds.len())].clone();
    if dice.below(4) == 0 {
        let other = &seeds[dice.below(seeds.len())];
        input.truncate(dice.below(input.len() + 1));
        input.extend(&other[dice.below(other.len() + 1)..]);
    }
    for _ in 0..dice.below(6) {
        let at = dice.below(input.len() + 1);
        match dice.below(4) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.next() as u8,
            2 if at < input.len() => drop(input.remove(at)),
            _ => {
                let new = dice.below(8);
                let new = dice.bytes(new);
                input.splice(at..at, new);
            }
        }
    }
    input
}

#[test]
fn the_scanner_bears_anything() {
    let mut dice = Dice::thrown();
    let seeds = seeds();
    seeds.iter().for_each(|seed| scan(seed));
    for _ in 0..300_000 {
        scan(&mutated(&mut dice, &seeds));
    }
}

#[test]
fn the_reader_of_orphans_bears_anything() {
    let mut dice = Dice::thrown();
    let seeds = seeds();
    let spool = Spool::fast();
    let dir = spool.root().join("files");
    for _ in 0..2_000 {
        let mut input = Vec::new();
        for _ in 0..dice.below(4) {
            let content = mutated(&mut dice, &seeds);
            let len = content.len().min(255);
            input.extend([dice.next() as u8 & 0x73, len as u8]);
            input.extend(&content[..len]);
        }
        orphans(&input, &dir);
        orphans(&mutated(&mut dice, &seeds), &dir);
    }
}
