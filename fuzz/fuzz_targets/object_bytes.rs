//! Whatever bytes an object consists of, and whatever a stranger writes to it between operations, every
//! operation ends, does not panic, and gives values no larger than the object.

#![no_main]

use std::ffi::OsStr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::shm::{Memory, Open};
use manycore::{Heap, NoLock, ShmBackend, ShmMap, ShmTable, TableError, TableOptions};

#[derive(Arbitrary, Debug)]
struct Input {
    /// The whole object; or, if empty, changes of a sound one.
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A stranger writes.
    Overwrite(u16, u32),
    Add(u8, u8),
    Replace(u8, u8),
    Remove(u8),
    Find(u8),
    Iterate,
    Keys,
    Group(u8),
    Map(String),
    Open,
}

fn check<T>(result: Result<T, TableError>) -> Option<T> {
    result.ok()
}

fuzz_target!(|input: Input| {
    let name = OsStr::new("object_bytes");
    let _ = Heap::unlink(name);
    let options = TableOptions::new().page_size(160).expected(8);
    if input.bytes.is_empty() {
        let table: ShmTable<Heap, NoLock> = options.create(name).unwrap();
        for key in 0..12 {
            table.add(key % 9, &vec![key; key as usize]).unwrap();
        }
        table.remove(3).unwrap();
    } else {
        let object = Heap::open(name, Open::CreateNew { mode: 0o600 }).unwrap();
        let words: Vec<u32> =
            input.bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        object.grow(words.len() as u64 * 4).unwrap();
        object.memory().write(0, &words).unwrap();
    }
    let object = Heap::open(name, Open::Existing).unwrap();
    let Some(mut table) = check(options.open::<Heap, NoLock>(name)) else { return };
    for step in input.steps.iter().take(40) {
        // The limit keeps the object itself from growing to what memory holds.
        if object.size().unwrap() > 64 << 20 {
            return;
        }
        let words = object.size().unwrap() as usize / 4;
        match step {
            Step::Overwrite(at, word) => {
                let _ = object.memory().store(usize::from(*at) % words, *word);
            }
            Step::Add(key, length) => drop(table.add(i32::from(*key), &vec![7; usize::from(*length)])),
            Step::Replace(key, length) => {
                drop(table.replace(i32::from(*key), &vec![8; usize::from(*length)]))
            }
            Step::Remove(key) => drop(table.remove(i32::from(*key))),
            Step::Find(key) => {
                if let Some(Some(value)) = check(table.find(i32::from(*key))) {
                    assert!(value.len() <= words);
                }
                let _ = table.mem(i32::from(*key));
                if let Some(values) = check(table.find_all(i32::from(*key))) {
                    assert!(values.iter().map(Vec::len).sum::<usize>() <= words);
                }
            }
            Step::Iterate => {
                for entry in check(table.iter()).into_iter().flatten().take(1000) {
                    let Ok((_, value)) = entry else { break };
                    assert!(value.len() <= words);
                }
            }
            Step::Keys => {
                let keys = check(table.iter_keys()).into_iter().flatten();
                assert!(keys.count() <= words + 1);
            }
            Step::Group(key) => {
                let _ = table.group(|group| {
                    group.add(i32::from(*key), &[1, 2, 3])?;
                    group.remove(i32::from(*key) + 1)?;
                    group.replace(i32::from(*key), &[4])?;
                    if *key % 2 == 0 { Ok(()) } else { Err(TableError::FormatFull) }
                });
            }
            Step::Map(text) => {
                let map: ShmMap<String, u64, Heap, NoLock> = table.into();
                let _ = map.update(text.as_str(), |old| old.unwrap_or(0).wrapping_add(1));
                let _ = map.find(text.as_str());
                let _ = map.remove(text.as_str());
                match check(options.open(name)) {
                    Some(again) => table = again,
                    None => return,
                }
            }
            Step::Open => match check(options.open(name)) {
                Some(again) => table = again,
                None => return,
            },
        }
    }
});
