//! Any sequence of operations on a table gives what a `HashMap` of stacks gives, also across reopening, groups
//! that fail, and a death after any store of an operation.

#![no_main]

use std::collections::HashMap;
use std::ffi::OsStr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::table::{Announced, Answer, Step};
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
    /// Another value instead of the newest, made of it; or none.
    Update(u8, Option<(u8, u16)>),
    Clear,
    /// Keeps what has a key or a length of this kind.
    Retain(bool, u8),
    /// Changes the last word of all bindings whose bit of the first mask is set, and removes those of the other.
    WriteBlocks(u8, u8, u8),
}

#[derive(Arbitrary, Debug)]
enum Act {
    Change(Change),
    Find(u8),
    FindMany(Vec<u8>),
    /// Looks at all pieces of a key's values, inside a group of reads.
    ReadBlocks(u8),
    Check,
    Group(Vec<Change>, End),
    Reopen,
    /// The process dies in the middle of the change, after so many stores; and again in the recovery.
    Die(Vec<Change>, u16, Option<u8>),
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

fn changed(old: Option<&[i32]>, new: Option<(u8, u16)>) -> Option<Vec<i32>> {
    let (word, length) = new?;
    let mut value = value(word, length);
    if let Some(first) = value.first_mut() {
        *first = old.map_or(-1, |old| old.len() as i32);
    }
    Some(value)
}

fn keeps(lengths: bool, divisor: u8, key: i32, value: &[i32]) -> bool {
    let divisor = i32::from(divisor % 4) + 1;
    if lengths { value.len() as i32 % divisor == 0 } else { key % divisor == 0 }
}

fn has_bit(mask: u8, binding: usize) -> bool {
    mask >> (binding % 8) & 1 == 1
}

fn apply(model: &mut Model, change: &Change) {
    match *change {
        Change::Add(byte, word, length) => model.entry(key(byte)).or_default().insert(0, value(word, length)),
        Change::Replace(byte, word, length) => {
            let stack = model.entry(key(byte)).or_default();
            stack.splice(..stack.len().min(1), [value(word, length)]);
        }
        Change::Remove(byte) => {
            model.entry(key(byte)).and_modify(|stack| drop(stack.remove(0)));
        }
        Change::Update(byte, new) => {
            let stack = model.entry(key(byte)).or_default();
            let new = changed(stack.first().map(Vec::as_slice), new);
            stack.splice(..stack.len().min(1), new);
        }
        Change::Clear => model.clear(),
        Change::Retain(lengths, divisor) => {
            for (key, stack) in &mut *model {
                stack.retain(|value| keeps(lengths, divisor, *key, value));
            }
        }
        Change::WriteBlocks(byte, set, removed) => {
            let stack = model.entry(key(byte)).or_default();
            let mut binding = 0..;
            stack.retain_mut(|value| {
                let binding = binding.next().unwrap();
                match value.last_mut() {
                    Some(last) if has_bit(set, binding) => *last ^= 0x55,
                    _ => {}
                }
                !has_bit(removed, binding)
            });
        }
    }
    model.retain(|_, stack| !stack.is_empty());
}

macro_rules! perform {
    ($on:expr, $change:expr) => {
        match *$change {
            Change::Add(byte, word, length) => $on.add(key(byte), &value(word, length)),
            Change::Replace(byte, word, length) => $on.replace(key(byte), &value(word, length)),
            Change::Remove(byte) => $on.remove(key(byte)).map(drop),
            Change::Update(byte, new) => $on.update(key(byte), |old| changed(old, new)),
            Change::Clear => $on.clear(),
            Change::Retain(lengths, divisor) => {
                $on.retain(|key, value| keeps(lengths, divisor, key, value)).map(drop)
            }
            Change::WriteBlocks(byte, set, removed) => {
                // The last word is known when the end of the value is: it is in the piece before.
                let lengths: Vec<usize> = $on.find_all(key(byte))?.iter().map(Vec::len).collect();
                let (mut binding, mut words) = (0, 0);
                let announced = if removed == 0 { Announced::Nothing } else { Announced::Removal };
                $on.write_blocks(key(byte), announced, |piece| match piece {
                    Some(mut piece) => {
                        words += piece.len();
                        if words == lengths[binding] && words > 0 && has_bit(set, binding) {
                            let last = piece.len() - 1;
                            piece.set(last, piece.get(last).unwrap() ^ 0x55).unwrap();
                        }
                        Answer::CONTINUE
                    }
                    None => {
                        let remove = has_bit(removed, binding);
                        (binding, words) = (binding + 1, 0);
                        if remove { Answer::remove(Step::Continue) } else { Answer::CONTINUE }
                    }
                })
            }
        }
    };
}

fn perform(table: &Table, change: &Change) -> Result<(), TableError> {
    perform!(table, change)
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

fn sound(table: &Table, model: &Model) {
    let problems = table.check().unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let stat = table.stat().unwrap();
    assert_eq!(stat.keys, model.len());
    assert_eq!(stat.bindings, model.values().map(Vec::len).sum::<usize>());
    let parts = [
        stat.header_bytes,
        stat.directory_bytes,
        stat.overflow_bytes,
        stat.record_bytes,
        stat.free_bytes,
        stat.journal_bytes,
        stat.unused_bytes,
    ];
    assert_eq!(parts.iter().sum::<usize>(), stat.bytes);
}

/// What one lookup says of a key, as the first thing that anybody does with an object of these words.
fn glimpse(name: &OsStr, image: &[u32], key: i32, options: &TableOptions) -> Vec<Vec<i32>> {
    Heap::unlink(name).unwrap();
    restore::<Heap>(name, image).unwrap();
    options.open::<Recorder<Heap>, NoLock>(name).unwrap().find_all(key).unwrap()
}

fuzz_target!(|acts: Vec<Act>| {
    let name = OsStr::new("shm_table");
    let _ = Heap::unlink(name);
    let options = TableOptions::new().page_size(160).expected(1).seed(7);
    let mut table: Table = options.create(name).unwrap();
    let mut model = Model::new();
    for act in acts.iter().take(60) {
        match act {
            Act::Change(change) => {
                perform(&table, change).unwrap();
                apply(&mut model, change);
            }
            Act::Find(byte) => {
                let expected = model.get(&key(*byte)).cloned().unwrap_or_default();
                assert_eq!(table.find(key(*byte)).unwrap(), expected.first().cloned());
                assert_eq!(table.mem(key(*byte)).unwrap(), !expected.is_empty());
                let mut buffer = vec![1];
                assert_eq!(table.find_into(key(*byte), &mut buffer).unwrap(), !expected.is_empty());
                assert_eq!(&buffer, expected.first().unwrap_or(&Vec::new()));
                assert_eq!(table.find_all(key(*byte)).unwrap(), expected);
            }
            Act::FindMany(bytes) => {
                let keys: Vec<i32> = bytes.iter().map(|byte| key(*byte)).collect();
                let mut found = Vec::new();
                let visit = |key, value: Option<&[i32]>| found.push((key, value.map(<[i32]>::to_vec)));
                table.get_many(&keys, visit).unwrap();
                let newest = |key: &i32| (*key, model.get(key).map(|stack| stack[0].clone()));
                assert_eq!(found, keys.iter().map(newest).collect::<Vec<_>>());
            }
            Act::ReadBlocks(byte) => {
                let mut found = vec![Vec::new()];
                let all = table.read_group(|group| {
                    group.read_blocks(key(*byte), |piece| {
                        match piece {
                            Some(piece) => {
                                assert!(piece.len() <= 40);
                                let words = (0..piece.len()).map(|index| piece.get(index).unwrap());
                                found.last_mut().unwrap().extend(words);
                            }
                            None => found.push(Vec::new()),
                        }
                        Step::Continue
                    })?;
                    group.length()
                });
                assert_eq!(all.unwrap(), model.values().map(Vec::len).sum::<usize>());
                assert_eq!(found.pop(), Some(Vec::new()));
                assert_eq!(found, model.get(&key(*byte)).cloned().unwrap_or_default());
            }
            Act::Check => sound(&table, &model),
            Act::Group(changes, end) => {
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
            Act::Reopen => table = options.open(name).unwrap(),
            Act::Die(changes, after, again) => {
                let before = snapshot::<Heap>(name).unwrap();
                let (result, stores) = record(|| match &changes[..] {
                    // Alone, it takes other ways than in a group.
                    [change] => perform(&table, change),
                    changes => {
                        table.group(|group| changes.iter().try_for_each(|change| perform!(group, change)))
                    }
                });
                result.unwrap();
                let words = snapshot::<Heap>(name).unwrap().len();
                let count = usize::from(*after) % (stores.len() + 1);
                let mut image = images(&before, &stores, words).nth(count).unwrap();
                drop(table);
                let looked_at = key(*after as u8);
                let glimpsed = glimpse(name, &image, looked_at, &options);
                if let Some(again) = again {
                    Heap::unlink(name).unwrap();
                    restore::<Heap>(name, &image).unwrap();
                    let dying: Table = options.open(name).unwrap();
                    let (mended, stores) = record(|| dying.remove(-1));
                    assert!(!mended.unwrap());
                    let count = usize::from(*again) % (stores.len() + 1);
                    let mut second = images(&image, &stores, words);
                    let dead = second.nth(count).unwrap();
                    drop(second);
                    image = dead;
                }
                Heap::unlink(name).unwrap();
                restore::<Heap>(name, &image).unwrap();
                table = options.open(name).unwrap();
                let mut changed = model.clone();
                changes.iter().for_each(|change| apply(&mut changed, change));
                let found = contents(&table);
                assert!(found == model || found == changed, "neither before nor after");
                model = found;
                assert_eq!(glimpsed, model.get(&looked_at).cloned().unwrap_or_default());
                sound(&table, &model);
            }
        }
    }
    assert_eq!(contents(&table), model);
    sound(&table, &model);
});
