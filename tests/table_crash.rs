//! A process may die after any store of any operation: the next one finds the table as it was before or
//! as it is after, whole, and can go on. It may die after any store of that recovery, too.

mod accounting;

use accounting::Contents;
use manycore::shm::{Memory, Open};
use manycore::{Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{Recorder, Store, images, record, restore, snapshot};
use manycore_backends::testing::shm::Fresh;

/// A table that is being watched.
type Watched = ShmTable<Recorder<Heap>, NoLock>;
/// A table as the survivors open it.
type Table = ShmTable<Heap, NoLock>;

/// A key that no test uses: for trying whether a table works.
const PROBE: i32 = i32::MAX;

fn options() -> TableOptions {
    TableOptions::new().page_size(160).expected(0)
}

/// Prepares a table, then dies at every store of `act`.
#[track_caller]
fn dies_everywhere(prepare: impl FnOnce(&Watched), act: impl FnOnce(&Watched)) {
    dies(1, prepare, act);
}

/// Prepares a table, then dies at every `step`th store of `act`.
#[track_caller]
fn dies(step: usize, prepare: impl FnOnce(&Watched), act: impl FnOnce(&Watched)) {
    let name = Fresh::<Heap>::name();
    let table: Watched = options().create(&name).unwrap();
    prepare(&table);
    let image_before = snapshot::<Heap>(&name).unwrap();
    let before = accounting::check(&image_before);
    let ((), stores) = record(|| act(&table));
    let after = accounting::check(&snapshot::<Heap>(&name).unwrap());
    let length = snapshot::<Heap>(&name).unwrap().len();

    let mut happened = false;
    let last = stores.len();
    let all = images(&image_before, &stores, length).enumerate();
    for (count, image) in all.filter(|(count, _)| count % step == 0 || *count == last) {
        let found = survive(&image);
        assert!(found == before || found == after, "half of it after {count} stores");
        if before != after {
            assert!(found == after || !happened, "undone after it had happened, after {count} stores");
            happened = found == after;
        }
        // Enough deaths to see every kind of moment, and few enough to die twice.
        if step == 1 && count % (last / 7 + 1) == 0 {
            dies_again(&image, &found);
        }
    }
    assert!(happened || before == after);
}

/// What a new process finds in an object with these words. It must find all blocks, and be able to work.
#[track_caller]
fn survive(image: &[u32]) -> Contents {
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, image).unwrap();
    let table: Table = TableOptions::new().open(&name).unwrap();
    let mut found = Contents::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    assert_eq!(accounting::check(&snapshot::<Heap>(&name).unwrap()), found);
    works(&table);
    assert_eq!(accounting::check(&snapshot::<Heap>(&name).unwrap()), found);
    found
}

#[track_caller]
fn works(table: &Table) {
    let length = table.length().unwrap();
    table.add(PROBE, &[1, 2, 3]).unwrap();
    table.add(PROBE, &[4; 40]).unwrap();
    assert_eq!(table.find_all(PROBE).unwrap(), [vec![4; 40], vec![1, 2, 3]]);
    assert!(table.remove(PROBE).unwrap() && table.remove(PROBE).unwrap());
    assert_eq!(table.length().unwrap(), length);
}

/// Dies at every store of the recovery from `image`, which leads to `expected`.
#[track_caller]
fn dies_again(image: &[u32], expected: &Contents) {
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, image).unwrap();
    let table: Watched = TableOptions::new().open(&name).unwrap();
    let (length, stores) = record(|| table.length());
    length.unwrap();
    for (count, image) in images(image, &stores, image.len()).enumerate() {
        assert!(survive(&image) == *expected, "after {count} stores of the recovery");
    }
}

fn fill(table: &Watched, keys: std::ops::Range<i32>) {
    for key in keys {
        table.add(key, &[key; 2]).unwrap();
    }
}

#[test]
fn the_first_add() {
    dies_everywhere(|_| {}, |table| table.add(1, &[1, 2, 3]).unwrap());
}

#[test]
fn an_add_to_a_key_that_is_bound() {
    dies_everywhere(|table| fill(table, 0..4), |table| table.add(2, &[7; 30]).unwrap());
}

#[test]
fn an_add_that_needs_a_new_segment_and_splits() {
    dies_everywhere(|table| fill(table, 0..8), |table| table.add(8, &[]).unwrap());
}

#[test]
fn an_add_that_splits_a_bucket() {
    // Several keys to a bucket, so that some move and some stay.
    for keys in 9..16 {
        dies_everywhere(|table| fill(table, 0..keys), |table| table.add(keys, &[5]).unwrap());
    }
}

#[test]
fn an_add_with_a_segment_in_a_recycled_block() {
    let prepare = |table: &Watched| {
        fill(table, 0..11);
        (8..11).for_each(|key| assert!(table.remove(key).unwrap()));
    };
    dies_everywhere(prepare, |table| fill(table, 20..21));
    let recycled = |table: &Watched| {
        fill(table, 0..8);
        (0..3).for_each(|_| table.add(0, &[1]).unwrap());
        (0..3).for_each(|_| assert!(table.remove(0).unwrap()));
    };
    dies_everywhere(recycled, |table| table.add(8, &[]).unwrap());
    let all = |table: &Watched| {
        let add = |keys: std::ops::Range<i32>| {
            table.group(|group| keys.into_iter().try_for_each(|key| group.add(key, &[1])))
        };
        add(8..14).unwrap();
    };
    dies_everywhere(recycled, all);
}

#[test]
fn a_replace_in_place() {
    let prepare = |table: &Watched| table.add(1, &[1; 10]).unwrap();
    dies_everywhere(prepare, |table| table.replace(1, &[2; 11]).unwrap());
}

#[test]
fn a_replace_with_a_longer_value() {
    let prepare = |table: &Watched| {
        fill(table, 0..4);
        fill(table, 0..4);
    };
    dies_everywhere(prepare, |table| table.replace(2, &[2; 100]).unwrap());
}

#[test]
fn a_replace_of_a_long_value() {
    let prepare = |table: &Watched| table.add(1, &[1; 100]).unwrap();
    dies_everywhere(prepare, |table| table.replace(1, &[2; 100]).unwrap());
    dies_everywhere(prepare, |table| table.replace(1, &[]).unwrap());
}

#[test]
fn a_replace_of_a_missing_key() {
    dies_everywhere(|table| fill(table, 0..8), |table| table.replace(9, &[2]).unwrap());
}

#[test]
fn a_remove_of_the_only_binding() {
    for key in 0..9 {
        dies_everywhere(|table| fill(table, 0..9), |table| assert!(table.remove(key).unwrap()));
    }
}

#[test]
fn a_remove_that_uncovers() {
    let prepare = |table: &Watched| (0..3).for_each(|_| fill(table, 0..9));
    for key in 0..9 {
        dies_everywhere(prepare, |table| assert!(table.remove(key).unwrap()));
    }
}

#[test]
fn a_group_of_several_operations() {
    let prepare = |table: &Watched| (0..2).for_each(|_| fill(table, 0..7));
    let act = |table: &Watched| {
        let result = table.group(|group| {
            group.add(10, &[1; 20])?;
            group.remove(3)?;
            group.remove(3)?;
            group.replace(10, &[2; 5])?;
            group.replace(0, &[3; 50])?;
            let failed: Result<(), TableError> = group.group(|inner| {
                inner.add(11, &[])?;
                inner.add(12, &[])?;
                inner.remove(0)?;
                Err(TableError::FormatFull)
            });
            assert!(matches!(failed, Err(TableError::FormatFull)));
            group.add(13, &[])
        });
        result.unwrap();
    };
    dies_everywhere(prepare, act);
}

#[test]
fn a_group_that_fails() {
    let act = |table: &Watched| {
        let failed: Result<(), TableError> = table.group(|group| {
            (5..12).try_for_each(|key| group.add(key, &[1]))?;
            group.remove(1)?;
            Err(TableError::FormatFull)
        });
        assert!(matches!(failed, Err(TableError::FormatFull)));
    };
    dies_everywhere(|table| fill(table, 0..7), act);
}

#[test]
fn a_group_whose_journal_moves_twice() {
    // Whichever operation it is that finds the journal full.
    for before in 0..5 {
        let act = |table: &Watched| {
            let result = table.group(|group| {
                (0..before).try_for_each(|_| group.add(1000, &[]))?;
                (0..150).try_for_each(|key| group.add(key, &[]))
            });
            result.unwrap();
        };
        let capacity = |table: &Watched| {
            let object = Heap::open(table.name(), Open::Existing).unwrap();
            let memory = object.memory();
            memory.load(memory.load(13).unwrap() as usize).unwrap()
        };
        let watched = |table: &Watched| {
            assert_eq!(capacity(table), 255);
            act(table);
            assert_eq!(capacity(table), 1023);
        };
        dies(if before == 0 { 1 } else { 13 }, |table| fill(table, 0..3), watched);
    }
}

#[test]
fn operations_that_use_free_blocks() {
    let prepare = |table: &Watched| {
        for length in [3, 3, 7, 20, 20, 60] {
            table.add(1, &vec![1; length]).unwrap();
        }
        (0..6).for_each(|_| assert!(table.remove(1).unwrap()));
        table.add(2, &[2; 20]).unwrap();
    };
    for length in [0, 3, 7, 20, 60] {
        dies_everywhere(prepare, |table| table.add(3, &vec![3; length]).unwrap());
        dies_everywhere(prepare, |table| table.replace(2, &vec![3; length]).unwrap());
    }
    dies_everywhere(prepare, |table| assert!(table.remove(2).unwrap()));
}

#[test]
fn a_creation() {
    let name = Fresh::<Heap>::name();
    let (table, stores) = record(|| options().create::<Recorder<Heap>, NoLock>(&name).unwrap());
    let full = snapshot::<Heap>(&name).unwrap();
    assert!(table.length().unwrap() == 0 && stores[..2].iter().all(|store: &Store| store.at < 2));
    let unfinished = |image: &[u32]| {
        let name = Fresh::<Heap>::name();
        restore::<Heap>(&name, image).unwrap();
        let opened = TableOptions::new().open::<Heap, NoLock>(&name);
        assert!(matches!(opened, Err(TableError::Unfinished { .. })), "{opened:?}");
        // Whoever creates it next may want another one.
        let table: Table = TableOptions::new().page_size(200).expected(100).open_or_create(&name).unwrap();
        works(&table);
        assert!(accounting::check(&snapshot::<Heap>(&name).unwrap()).is_empty());
    };
    unfinished(&[]);
    for (count, image) in images(&[], &stores, full.len()).enumerate() {
        if count <= 2 {
            // Before it grew beyond the header.
            unfinished(&image[..128]);
        }
        if count >= 2 {
            if count < stores.len() { unfinished(&image) } else { assert!(survive(&image).is_empty()) }
        }
    }
}
