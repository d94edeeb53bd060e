//! Whatever bytes an object consists of, and whatever a stranger writes to it between operations, every
//! operation ends, does not panic, and gives values no larger than the object.

#![no_main]

use std::ffi::OsStr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::shm::{Memory, Open};
use manycore::table::{Announced, Answer, Step};
use manycore::{Heap, NoLock, ShmBackend, ShmMap, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{restore, snapshot};

#[derive(Arbitrary, Debug)]
struct Input {
    object: Object,
    acts: Vec<Act>,
}

#[derive(Arbitrary, Debug)]
enum Object {
    /// A sound one, with these words changed, and cut off here.
    Damaged(Vec<(u16, Word)>, Option<u16>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// What a stranger writes.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Word {
    Any(u32),
    /// Likely to be a place.
    Place(u16),
    /// Another word of the object.
    CopyOf(u16),
    Flip(u8),
}

#[derive(Arbitrary, Debug)]
enum Act {
    Overwrite(u16, Word),
    Add(u8, u8),
    Replace(u8, u8),
    Remove(u8),
    Update(u8, Option<u8>),
    Clear,
    Retain(u8),
    Find(u8),
    FindMany(Vec<u8>),
    ReadBlocks(u8),
    WriteBlocks(u8, bool),
    Iterate,
    Keys,
    Group(u8),
    ReadGroup(u8),
    Check,
    Stat,
    Dump,
    /// Adds what can be read to another table.
    Salvage,
    Map(String),
    Open,
    OpenToRead,
    Reinitialize,
}

fn check<T>(result: Result<T, TableError>) -> Option<T> {
    result.ok()
}

/// A table with hidden bindings, overflow blocks and free blocks.
fn sound(name: &OsStr, options: &TableOptions) {
    let table: ShmTable<Heap, NoLock> = options.create(name).unwrap();
    for key in 0..12 {
        table.add(key % 9, &vec![key; key as usize]).unwrap();
    }
    for key in [3, 6, 7] {
        table.remove(key).unwrap();
    }
    table.clear().unwrap();
    for key in 0..40 {
        table.add(key % 24, &vec![key; key as usize % 7]).unwrap();
    }
    // More than wait to become free.
    for key in [3, 6, 7].into_iter().chain(9..22) {
        table.remove(key).unwrap();
    }
}

fn overwrite(object: &Heap, at: u16, word: Word) {
    let memory = object.memory();
    let words = memory.words().max(1);
    let at = usize::from(at) % words;
    let word = match word {
        Word::Any(word) => word,
        Word::Place(place) => u32::from(place),
        Word::CopyOf(other) => memory.load(usize::from(other) % words).unwrap_or(0),
        Word::Flip(bit) => memory.load(at).unwrap_or(0) ^ 1 << (bit % 32),
    };
    let _ = memory.store(at, word);
}

fuzz_target!(|input: Input| {
    let name = OsStr::new("object_bytes");
    let _ = Heap::unlink(name);
    // With this seed, so that a place means the same in every run.
    let options = TableOptions::new().page_size(160).expected(8).seed(7);
    match &input.object {
        Object::Damaged(changes, end) => {
            sound(name, &options);
            let object = Heap::open(name, Open::Existing).unwrap();
            changes.iter().for_each(|(at, word)| overwrite(&object, *at, *word));
            if let Some(end) = end {
                let mut image = snapshot::<Heap>(name).unwrap();
                image.truncate(usize::from(*end));
                drop(object);
                Heap::unlink(name).unwrap();
                restore::<Heap>(name, &image).unwrap();
            }
        }
        Object::Bytes(bytes) => {
            let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            restore::<Heap>(name, &words.collect::<Vec<_>>()).unwrap();
        }
    }
    let object = Heap::open(name, Open::Existing).unwrap();
    let Some(mut table) = check(options.open::<Heap, NoLock>(name)) else { return };
    for act in input.acts.iter().take(40) {
        // The limit keeps the object itself from growing to what memory holds.
        if object.size().unwrap() > 64 << 20 {
            return;
        }
        let words = object.size().unwrap() as usize / 4;
        match act {
            Act::Overwrite(at, word) => overwrite(&object, *at, *word),
            Act::Add(key, length) => drop(table.add(i32::from(*key), &vec![7; usize::from(*length)])),
            Act::Replace(key, length) => drop(table.replace(i32::from(*key), &vec![8; usize::from(*length)])),
            Act::Remove(key) => drop(table.remove(i32::from(*key))),
            Act::Find(key) => {
                if let Some(Some(value)) = check(table.find(i32::from(*key))) {
                    assert!(value.len() <= words);
                }
                let _ = table.mem(i32::from(*key));
                if let Some(values) = check(table.find_all(i32::from(*key))) {
                    assert!(values.iter().map(Vec::len).sum::<usize>() <= words);
                }
            }
            Act::Iterate => {
                for entry in check(table.iter()).into_iter().flatten().take(1000) {
                    let Ok((_, value)) = entry else { break };
                    assert!(value.len() <= words);
                }
            }
            Act::Keys => {
                let keys = check(table.iter_keys()).into_iter().flatten();
                assert!(keys.count() <= words + 1);
            }
            Act::Group(key) => {
                let _ = table.group(|group| {
                    group.add(i32::from(*key), &[1, 2, 3])?;
                    group.remove(i32::from(*key) + 1)?;
                    group.replace(i32::from(*key), &[4])?;
                    if *key % 2 == 0 { Ok(()) } else { Err(TableError::FormatFull) }
                });
            }
            Act::Map(text) => {
                let map: ShmMap<String, u64, Heap, NoLock> = table.into();
                let _ = map.update(text.as_str(), |old| old.unwrap_or(0).wrapping_add(1));
                let _ = map.find(text.as_str());
                let _ = map.remove(text.as_str());
                match check(options.open(name)) {
                    Some(again) => table = again,
                    None => return,
                }
            }
            Act::Update(key, length) => {
                let change = |old: Option<&[i32]>| {
                    assert!(old.is_none_or(|old| old.len() <= words));
                    length.map(|length| vec![9; usize::from(length)])
                };
                drop(table.update(i32::from(*key), change));
            }
            Act::Clear => drop(table.clear()),
            Act::Retain(divisor) => {
                let divisor = i32::from(*divisor) + 1;
                let _ = table.retain(|key, value| {
                    assert!(value.len() <= words);
                    key % divisor == 0
                });
            }
            Act::FindMany(keys) => {
                let keys: Vec<i32> = keys.iter().map(|key| i32::from(*key)).collect();
                let mut count = 0;
                let result = table.get_many(&keys, |key, value| {
                    assert_eq!(key, keys[count]);
                    assert!(value.is_none_or(|value| value.len() <= words));
                    count += 1;
                });
                assert!(result.is_err() || count == keys.len());
            }
            Act::ReadBlocks(key) => {
                let mut sum = 0;
                let result = table.read_blocks(i32::from(*key), |piece| {
                    if let Some(piece) = piece {
                        assert!((0..piece.len()).all(|index| piece.get(index).is_ok()));
                        sum += piece.len();
                    }
                    Step::Continue
                });
                assert!(result.is_err() || sum <= words);
            }
            Act::WriteBlocks(key, remove) => {
                let announced = if *remove { Announced::Removal } else { Announced::Nothing };
                let _ = table.write_blocks(i32::from(*key), announced, |piece| match piece {
                    Some(mut piece) => {
                        assert!(piece.len() <= words);
                        (0..piece.len()).for_each(|index| drop(piece.set(index, -1)));
                        Answer::CONTINUE
                    }
                    None if *remove => Answer::remove(Step::Continue),
                    None => Answer::CONTINUE,
                });
            }
            Act::ReadGroup(key) => {
                let _ = table.read_group(|group| {
                    let value = group.find(i32::from(*key))?;
                    assert!(value.is_none_or(|value| value.len() <= words));
                    group.fold(0, |sum, _, value| sum + value.len())
                });
            }
            Act::Check => {
                let problems = check(table.check()).unwrap_or_default();
                assert!(problems.len() <= 10 * words + 10);
                problems.iter().for_each(|problem| drop(problem.to_string()));
            }
            Act::Stat => {
                if let Some(stat) = check(table.stat()) {
                    assert!(stat.load() >= 0.0);
                }
            }
            Act::Dump => drop(table.dump(&mut std::io::sink())),
            Act::Salvage => {
                let rescue = OsStr::new("object_bytes_rescue");
                let _ = Heap::unlink(rescue);
                let sound: ShmTable<Heap, NoLock> = options.create(rescue).unwrap();
                if let Some(salvaged) = check(sound.salvage::<Heap>(name)) {
                    assert_eq!(salvaged.bindings, sound.length().unwrap());
                }
                assert!(sound.check().unwrap().is_empty());
                Heap::unlink(rescue).unwrap();
            }
            Act::OpenToRead => {
                let read_only = TableOptions::new().read_only(true);
                if let Some(reader) = check(read_only.open::<Heap, NoLock>(name)) {
                    let _ = reader.find(5);
                    let _ = reader.length();
                    assert!(matches!(reader.add(1, &[]), Err(TableError::ReadOnly { .. })));
                }
            }
            Act::Reinitialize => match check(options.reinitialize(name)) {
                Some(again) => {
                    table = again;
                    assert_eq!(table.length().unwrap(), 0);
                }
                None => return,
            },
            Act::Open => match check(options.open(name)) {
                Some(again) => table = again,
                None => return,
            },
        }
    }
});
