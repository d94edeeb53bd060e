//! What a table tells about itself: figures, pictures, and what is wrong with it.

use manycore::shm::{Memory, Open};
use manycore::{Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::snapshot;
use manycore_backends::testing::shm::Fresh;

type Table = ShmTable<Heap, NoLock>;

fn create(name: &Fresh<Heap>) -> Table {
    let table: Table = TableOptions::new().create(name).unwrap();
    table.add(7, &[1, 2, 3]).unwrap();
    table.add(7, &[]).unwrap();
    table.add(-1, &[5]).unwrap();
    table
}

#[test]
fn a_dump_shows_all_bindings() {
    let name = Fresh::<Heap>::name();
    let table = create(&name);
    let mut out = Vec::new();
    table.dump(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "3 bindings of 2 keys");
    let mut lines: Vec<&str> = rest.lines().collect();
    // The bindings of a key are together, newest first.
    let newest = lines.iter().position(|line| *line == "7: []").unwrap();
    assert_eq!(lines.get(newest + 1), Some(&"7: [1, 2, 3]"));
    lines.sort_unstable();
    assert_eq!(lines, ["-1: [5]", "7: [1, 2, 3]", "7: []"]);
}

#[test]
fn a_dump_that_is_not_taken_is_an_error() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let name = Fresh::<Heap>::name();
    let table = create(&name);
    let error = table.dump(&mut Full).unwrap_err();
    assert!(matches!(&error, TableError::Dump(cause) if cause.kind() == std::io::ErrorKind::StorageFull));
    // And the lock is free again.
    table.add(8, &[]).unwrap();
}

#[test]
fn the_figures_add_up() {
    let name = Fresh::<Heap>::name();
    let table: Table = TableOptions::new().page_size(512).create(&name).unwrap();
    let empty = table.stat().unwrap();
    assert!(empty.bytes <= 64 << 10, "{empty:?}");
    for key in 0..1000 {
        table.add(key, &vec![key; (key % 5) as usize * 7]).unwrap();
    }
    (0..300).for_each(|key| assert!(table.remove(key).unwrap()));
    let stat = table.stat().unwrap();
    assert_eq!((stat.bindings, stat.keys, stat.page_size), (700, 700, 512));
    assert_eq!(stat.pages * stat.page_size, stat.bytes);
    assert!(stat.buckets >= 333 && stat.load() <= 3.0, "{stat:?}");
    assert!(stat.record_bytes > 0 && stat.free_bytes > 0 && stat.journal_bytes > 0, "{stat:?}");
    let parts = [stat.header_bytes, stat.directory_bytes, stat.overflow_bytes, stat.record_bytes];
    let others = [stat.journal_bytes, stat.free_bytes, stat.unused_bytes];
    assert_eq!(parts.iter().chain(&others).sum::<usize>(), stat.bytes);
    let raw = table.raw();
    assert_eq!((raw.len() * 4, raw.get(0), raw.get(raw.len())), (stat.bytes, Some(0x4D43_4F52), None));
}

#[test]
fn a_check_says_what_is_wrong_and_where() {
    // Words of the header, as drawn: a change of each, and what is to be told of it.
    let cases: [(usize, u32, &str); 5] = [
        (16, 1, "the table's sequence word is odd"),
        (37, 99, "wrong number of bindings"),
        (38, 99, "wrong number of keys"),
        (33, 7, "the journal is not empty"),
        (48, 2, "a list and its bit disagree"),
    ];
    for (at, word, what) in cases {
        let name = Fresh::<Heap>::name();
        let table = create(&name);
        assert_eq!(table.check().unwrap(), []);
        let object = Heap::open(&name, Open::Existing).unwrap();
        object.memory().store(at, word).unwrap();
        let problems = table.check().unwrap();
        let told = problems.iter().any(|problem| problem.what == what);
        assert!(told, "word {at}: {problems:?}");
        assert!(problems.iter().any(|problem| problem.at == at || what.contains("bit")), "{problems:?}");
        assert!(problems[0].to_string().starts_with("word "));
    }
}

/// The directory's first leaf has room for 512 segments, which are 518 144 buckets.
#[test]
fn a_directory_of_two_leaves_is_sound() {
    let name = Fresh::<Heap>::name();
    let table: Table = TableOptions::new().expected(518_140 * 3).create(&name).unwrap();
    let buckets = |table: &Table| table.raw().get(17).unwrap();
    assert_eq!(buckets(&table), 518_140);
    let keys = 0..518_160 * 3;
    // Enough for the last buckets of the one leaf and the first of the other.
    table.group(|group| keys.clone().try_for_each(|key| group.add(key, &[!key]))).unwrap();
    assert!(buckets(&table) > 518_144 && table.raw().get(513).unwrap() != 0);
    assert_eq!(table.check().unwrap(), []);
    let wanted: Vec<i32> = keys.step_by(7).collect();
    table.get_many(&wanted, |key, value| assert_eq!(value, Some(&[!key][..]))).unwrap();
    table.clear().unwrap();
    assert_eq!((buckets(&table), table.length().unwrap()), (1, 0));
    assert_eq!(table.check().unwrap(), []);
}

/// The word of the header that the hash of keys depends on.
const SEED: usize = 18;

#[test]
fn every_table_spreads_its_keys_in_a_way_of_its_own() {
    let seed = |table: &Table| table.raw().get(SEED).unwrap();
    let tables = [(); 4].map(|()| {
        let name = Fresh::<Heap>::name();
        (create(&name), name)
    });
    assert!(tables[1..].iter().any(|(table, _)| seed(table) != seed(&tables[0].0)));
    // A table keeps the one it has, whoever opens it.
    let (table, name) = &tables[0];
    let before = seed(table);
    let options = TableOptions::new().seed(!before);
    for again in [options.open(name), options.open_or_create(name), options.reinitialize(name)] {
        let again: Table = again.unwrap();
        assert_eq!((seed(&again), again.check().unwrap()), (before, vec![]));
    }
}

#[test]
fn tables_of_one_seed_are_the_same_word_by_word() {
    let image = |seed: u32| {
        let name = Fresh::<Heap>::name();
        let table: Table = TableOptions::new().seed(seed).create(&name).unwrap();
        (0..300).for_each(|key| table.add(key, &vec![key; key as usize % 9]).unwrap());
        (0..50).for_each(|key| assert!(table.remove(key * 3).unwrap()));
        snapshot::<Heap>(&name).unwrap()
    };
    for seed in [0, 1, u32::MAX] {
        let first = image(seed);
        assert_eq!(first[SEED], seed);
        assert!(first == image(seed), "seed {seed}");
    }
    assert!(image(0) != image(1));
}
