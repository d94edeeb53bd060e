//! Readers that take no lock, beside a writer that never rests: what they see was so at some moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use manycore::{Futex, LockMethod, PosixShm, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::shm::Fresh;

/// Keys that the writer changes in one group, one after the other.
const FIRST: i32 = -1;
const SECOND: i32 = -2;
/// Keys whose value never changes, though everything around them does.
const FIXED: std::ops::Range<i32> = 1_000_000..1_000_040;
const ROUNDS: i32 = 1500;

/// A table with the fixed keys; its name is gone as soon as it is open.
fn create() -> ShmTable<PosixShm, Futex> {
    let name = Fresh::<PosixShm>::name();
    let table: ShmTable<PosixShm, Futex> =
        TableOptions::new().page_size(160).expected(0).seed(7).create(&name).unwrap();
    for key in FIXED {
        table.add(key, &fixed(key)).unwrap();
    }
    table
}

fn fixed(key: i32) -> Vec<i32> {
    vec![key; (key % 7) as usize * 11]
}

/// A value that tells whether it is whole.
fn value(round: i32) -> Vec<i32> {
    vec![round; 1 + (round % 90) as usize]
}

#[track_caller]
fn round_of(value: &[i32]) -> i32 {
    let round = value[0];
    assert_eq!(value, self::value(round), "a torn value");
    round
}

/// Runs `write` once, and `read` in two other threads until it is done.
fn beside<B: ShmBackend, L: LockMethod<B>>(
    table: &ShmTable<B, L>,
    write: impl FnOnce(&ShmTable<B, L>) + Send,
    read: impl Fn(&ShmTable<B, L>) + Sync,
) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let table = table.clone();
                loop {
                    // Once more after the end, so that every reader reads at all.
                    let last = done.load(Ordering::Acquire);
                    read(&table);
                    if last {
                        break;
                    }
                }
            });
        }
        // Set even if the writer fails, so that the readers end.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _done = Done(&done);
        write(table);
    });
    assert_eq!(table.check().unwrap(), []);
}

#[test]
fn no_reader_sees_the_middle_of_a_group() {
    let table = create();
    let write = |table: &ShmTable<PosixShm, Futex>| {
        for round in 0..ROUNDS {
            let result: Result<(), TableError> = table.group(|group| {
                group.replace(FIRST, &value(round))?;
                group.add(round, &value(round))?;
                if round % 3 == 0 {
                    // Undone: what it did here must never have been seen.
                    let inner: Result<(), TableError> = group.group(|inner| {
                        inner.replace(SECOND, &value(ROUNDS * 2))?;
                        Err(TableError::FormatFull)
                    });
                    assert!(inner.is_err());
                }
                group.replace(SECOND, &value(round))
            });
            result.unwrap();
            let failed: Result<(), TableError> = table.group(|group| {
                group.replace(FIRST, &value(ROUNDS * 3))?;
                if round % 50 == 0 {
                    group.clear()?;
                }
                Err(TableError::FormatFull)
            });
            assert!(failed.is_err());
        }
    };
    let read = |table: &ShmTable<PosixShm, Futex>| {
        // A group happened before its first change was seen; so the second is there, too.
        if let Some(first) = table.find(FIRST).unwrap() {
            let first = round_of(&first);
            let second = round_of(&table.find(SECOND).unwrap().unwrap());
            assert!(first <= second && second < ROUNDS, "half of a group: {first} and {second}");
            assert_eq!(table.find(first).unwrap(), Some(value(first)));
            assert!(table.length().unwrap() >= FIXED.len() + first as usize);
        }
    };
    beside(&table, write, read);
}

#[test]
fn readers_find_what_does_not_change_while_everything_else_does() {
    let table = create();
    let write = |table: &ShmTable<PosixShm, Futex>| {
        for round in 0..ROUNDS {
            table.add(round, &value(round)).unwrap();
            table.replace(round / 2, &value(round)).unwrap();
            if round % 3 == 0 {
                table.remove(round - 100).unwrap();
                table.add(round, &[]).unwrap();
            }
            table.replace(FIRST, &value(round)).unwrap();
        }
    };
    let read = |table: &ShmTable<PosixShm, Futex>| {
        let mut newest = -1;
        let mut buffer = Vec::new();
        for key in FIXED {
            assert!(table.find_into(key, &mut buffer).unwrap(), "{key} is not found");
            assert_eq!(buffer, fixed(key));
            assert!(table.mem(key).unwrap());
            assert_eq!(table.find_all(key).unwrap(), [fixed(key)]);
            if let Some(value) = table.find(FIRST).unwrap() {
                let round = round_of(&value);
                assert!(round >= newest, "back to {round} from {newest}");
                newest = round;
            }
        }
        let keys: Vec<i32> = FIXED.collect();
        table.get_many(&keys, |key, value| assert_eq!(value, Some(&fixed(key)[..]))).unwrap();
    };
    beside(&table, write, read);
}

#[test]
fn readers_do_not_see_a_table_half_cleared() {
    let table = create();
    let write = |table: &ShmTable<PosixShm, Futex>| {
        for round in 0..ROUNDS / 10 {
            table.clear().unwrap();
            let keys = 0..50 + round % 40;
            table
                .group(|group| {
                    keys.clone().try_for_each(|key| group.add(key, &value(round)))?;
                    FIXED.into_iter().try_for_each(|key| group.add(key, &fixed(key)))
                })
                .unwrap();
        }
    };
    let read = |table: &ShmTable<PosixShm, Futex>| {
        for key in FIXED {
            let found = table.find(key).unwrap();
            assert!(found.is_none() || found == Some(fixed(key)));
        }
        for key in 0..90 {
            if let Some(value) = table.find(key).unwrap() {
                round_of(&value);
            }
        }
        // All of one state.
        let keys = table.read_group(|group| Ok::<_, TableError>((group.mem(0)?, group.mem(FIXED.start)?)));
        assert!([(true, true), (false, false), (false, true)].contains(&keys.unwrap()));
    };
    beside(&table, write, read);
}
