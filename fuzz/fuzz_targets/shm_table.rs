//! Any sequence of operations on a table gives what a `HashMap` of stacks gives, also across reopening, groups
//! that fail, and a death after any store of an operation.

#![no_main]

use std::collections::HashMap;
use std::ffi::OsStr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::{Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{Recorder, images, record, restore, snapshot};

type Table = ShmTable<Recorder<Heap>, NoLock>;
/// Bindings per key, newest first.
type Model = HashMap<i32, Vec<Vec<i32>>>;

#[derive(Arbitrary, Clone, Debug)]
enum Change {
    Add(u8, u8, u16),
    Replace(u8, u8, u16),
    Remove(u8),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Change(Change),
    Find(u8),
    Group(Vec<Change>, End),
    Reopen,
    /// The process dies in the middle of the change, after so many stores.
    Die(Vec<Change>, u16),
}

#[derive(Arbitrary, Debug)]
enum End {
    Commit,
    Fail,
    /// The last change is in a group of its own, which fails.
    FailInside,
}

#[derive(Debug)]
enum Stop {
    Wanted,
    Unwanted(#[allow(dead_code)] TableError),
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Stop {
        Stop::Unwanted(error)
    }
}

fn value(word: u8, length: u16) -> Vec<i32> {
    // Mostly short, now and then long.
    let length = if length % 8 == 0 { length / 64 } else { length % 8 };
    vec![i32::from(word); usize::from(length)]
}

fn key(byte: u8) -> i32 {
    // Few keys, some of them apart.
    i32::from(byte % 40) * 0x0101_0101
}

fn apply(model: &mut Model, change: &Change) {
    match *change {
        Change::Add(byte, word, length) => model.entry(key(byte)).or_default().insert(0, value(word, length)),
        Change::Replace(byte, word, length) => {
            let stack = model.entry(key(byte)).or_default();
            match stack.first_mut() {
                Some(newest) => *newest = value(word, length),
                None => stack.push(value(word, length)),
            }
        }
        Change::Remove(byte) => {
            if let Some(stack) = model.get_mut(&key(byte)) {
                stack.remove(0);
                if stack.is_empty() {
                    model.remove(&key(byte));
                }
            }
        }
    }
}

macro_rules! perform {
    ($on:expr, $change:expr) => {
        match *$change {
            Change::Add(byte, word, length) => $on.add(key(byte), &value(word, length)),
            Change::Replace(byte, word, length) => $on.replace(key(byte), &value(word, length)),
            Change::Remove(byte) => $on.remove(key(byte)).map(drop),
        }
    };
}

fn contents(table: &Table) -> Model {
    let mut found = Model::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    assert_eq!(table.length().unwrap(), found.values().map(Vec::len).sum::<usize>());
    found
}

fuzz_target!(|steps: Vec<Step>| {
    let name = OsStr::new("shm_table");
    let _ = Heap::unlink(name);
    let options = TableOptions::new().page_size(160).expected(1);
    let mut table: Table = options.create(name).unwrap();
    let mut model = Model::new();
    for step in steps.iter().take(60) {
        match step {
            Step::Change(change) => {
                perform!(table, change).unwrap();
                apply(&mut model, change);
            }
            Step::Find(byte) => {
                let expected = model.get(&key(*byte)).cloned().unwrap_or_default();
                assert_eq!(table.find(key(*byte)).unwrap(), expected.first().cloned());
                assert_eq!(table.mem(key(*byte)).unwrap(), !expected.is_empty());
                assert_eq!(table.find_all(key(*byte)).unwrap(), expected);
            }
            Step::Group(changes, end) => {
                let (last, first) = match (end, changes.split_last()) {
                    (End::FailInside, Some((last, first))) => (Some(last), first),
                    _ => (None, &changes[..]),
                };
                let result: Result<(), Stop> = table.group(|group| {
                    for change in first {
                        perform!(group, change)?;
                    }
                    if let Some(last) = last {
                        let inner: Result<(), Stop> = group.group(|inner| {
                            perform!(inner, last)?;
                            Err(Stop::Wanted)
                        });
                        assert!(matches!(inner, Err(Stop::Wanted)));
                    }
                    if matches!(end, End::Fail) { Err(Stop::Wanted) } else { Ok(()) }
                });
                match (end, result) {
                    (End::Fail, Err(Stop::Wanted)) => {}
                    (End::Commit | End::FailInside, Ok(())) => {
                        first.iter().for_each(|change| apply(&mut model, change));
                    }
                    (_, other) => panic!("{other:?}"),
                }
            }
            Step::Reopen => table = options.open(name).unwrap(),
            Step::Die(changes, after) => {
                let before = snapshot::<Heap>(name).unwrap();
                let (result, stores) = record(|| {
                    table.group(|group| changes.iter().try_for_each(|change| perform!(group, change)))
                });
                result.unwrap();
                let words = snapshot::<Heap>(name).unwrap().len();
                let image =
                    images(&before, &stores, words).nth(usize::from(*after) % (stores.len() + 1)).unwrap();
                drop(table);
                Heap::unlink(name).unwrap();
                restore::<Heap>(name, &image).unwrap();
                table = options.open(name).unwrap();
                let mut changed = model.clone();
                changes.iter().for_each(|change| apply(&mut changed, change));
                let found = contents(&table);
                assert!(found == model || found == changed, "neither before nor after");
                model = found;
            }
        }
    }
    assert_eq!(contents(&table), model);
});
