//! What can be read of a broken table is saved: every binding but those that the damage itself took away.

mod accounting;

use std::collections::BTreeMap;

use accounting::{Contents, Kind};
use manycore::shm::{Memory, Open};
use manycore::{Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{restore, snapshot};
use manycore_backends::testing::shm::Fresh;

type Table = ShmTable<Heap, NoLock>;

fn new_table() -> (Fresh<Heap>, Table) {
    let name = Fresh::<Heap>::name();
    let table = TableOptions::new().create(&name).unwrap();
    (name, table)
}

/// A table with values in slots, in records, and hidden ones.
fn variety() -> (Vec<u32>, Contents) {
    variety_of(7)
}

/// Its keys are in other buckets with each seed.
fn variety_of(seed: u32) -> (Vec<u32>, Contents) {
    let name = Fresh::<Heap>::name();
    let table: Table = TableOptions::new().seed(seed).create(&name).unwrap();
    for key in 0..200 {
        for length in 0..=key % 4 {
            table.add(key, &vec![key; length as usize]).unwrap();
        }
    }
    // Records that were given up: some are free blocks, the others wait.
    for key in 200..215 {
        table.add(key, &[key; 5]).unwrap();
        assert!(table.remove(key).unwrap());
        table.add(key, &[key; 9]).unwrap();
    }
    for key in 200..211 {
        assert!(table.remove(key).unwrap());
    }
    let image = snapshot::<Heap>(&name).unwrap();
    let account = accounting::checked(&image);
    assert!(account.count(Kind::Deferred) > 2 && account.count(Kind::Free) > 0);
    (image, contents(&table))
}

fn contents(table: &Table) -> Contents {
    let mut contents = BTreeMap::<_, Vec<_>>::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        contents.entry(key).or_default().push(value);
    }
    contents
}

/// What is saved of the image, and whether a problem was told of.
fn saved(image: &[u32]) -> (Contents, bool) {
    let broken = Fresh::<Heap>::name();
    restore::<Heap>(&broken, image).unwrap();
    let (_name, table) = new_table();
    let salvaged = table.salvage::<Heap>(&broken).unwrap();
    assert_eq!(snapshot::<Heap>(&broken).unwrap(), image, "the broken object is only read");
    assert_eq!((table.length().unwrap(), table.check().unwrap()), (salvaged.bindings, vec![]));
    (contents(&table), !salvaged.problems.is_empty())
}

#[test]
fn a_sound_table_is_copied() {
    let (image, contents) = variety();
    assert_eq!(saved(&image), (contents, false));
}

#[test]
fn everything_is_saved_whatever_word_of_the_header_is_damaged() {
    for seed in [7, 0x9E37_79B9] {
        let (image, contents) = variety_of(seed);
        for at in 0..accounting::HEADER {
            for damage in [0, u32::MAX, image[at] ^ 1 << 12] {
                let mut image = image.clone();
                image[at] = damage;
                assert_eq!(saved(&image).0, contents, "word {at} is {damage:#x}, seed {seed:#x}");
            }
        }
    }
}

#[test]
fn a_directory_without_its_places_takes_nothing_away() {
    let (mut image, contents) = variety();
    let leaf = image[accounting::DIRECTORY] as usize;
    image[leaf..leaf + 8].fill(0);
    assert_eq!(saved(&image), (contents, true));
}

#[test]
fn a_damaged_record_takes_no_other_key_away() {
    let (image, contents) = variety();
    let account = accounting::checked(&image);
    for (at, _) in account.blocks.iter().filter(|(_, block)| block.kind == Kind::Record).step_by(7) {
        let mut image = image.clone();
        let key = image[at + 3] as i32;
        image[*at] = 0;
        let (mut saved, told) = saved(&image);
        let mut expected = contents.clone();
        expected.remove(&key);
        saved.remove(&key);
        assert!(told && saved == expected, "the record at {at}");
    }
}

#[test]
fn records_within_records_do_not_multiply() {
    let (name, table) = new_table();
    table.add(1, &[0; 100_000]).unwrap();
    let object = Heap::open(&name, Open::Existing).unwrap();
    let at =
        |word: u32| (0..object.memory().words()).find(|at| object.memory().load(*at) == Ok(word)).unwrap();
    let record = at(100_000) - 1;
    let granules = object.memory().load(record).unwrap() & 0xFF_FFFF;
    // Each granule of the value is the head of a record that has all that follows for its value.
    for granule in 0..granules {
        let place = record + 4 * granule as usize;
        let rest = granules - granule;
        let older = if rest > 1 { place as u32 + 4 } else { 0 };
        object.memory().write(place, &[0xB100_0000 | rest, (rest - 1) * 4, older, 1]).unwrap();
    }
    let (_name, table) = new_table();
    let result: Result<_, TableError> = table.salvage::<Heap>(&name);
    assert!(result.unwrap().bindings <= 1);
    assert!(table.stat().unwrap().bytes < 4_000_000);
}
