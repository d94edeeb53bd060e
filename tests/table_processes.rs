//! Processes that use one table at once see only whole groups and lose nothing, also when they are killed
//! in the middle of whatever they do.
//!
//! A program without the test harness: it forks.

mod accounting;

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::hint::black_box;

use manycore::lock::{LockError, RecordLockable};
use manycore::shm::{Memory, Open, ShmError};
use manycore::spawn::{Child, Exit, Spawner};
use manycore::table::Group;
use manycore::{Fcntl, File, Fork, Heap, LockMethod, NoLock, PosixShm, ShmBackend, ShmTable};
use manycore::{TableError, TableOptions};
use manycore_backends::testing::recorder::snapshot;
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::{Fresh, Subject};

type ForkedChild = <Fork as Spawner>::Child;

fn main() {
    run_tests(&[
        ("grouped_increments_in_a_file_lose_nothing", grouped_increments_lose_nothing::<File>),
        ("grouped_increments_in_shared_memory_lose_nothing", grouped_increments_lose_nothing::<PosixShm>),
        ("readers_of_a_file_see_whole_groups", readers_see_whole_groups::<File>),
        ("readers_of_shared_memory_see_whole_groups", readers_see_whole_groups::<PosixShm>),
        ("a_table_in_a_file_survives_killed_writers", a_table_survives_killed_writers::<File>),
        ("a_table_in_shared_memory_survives_killed_writers", a_table_survives_killed_writers::<PosixShm>),
        ("creators_at_once_get_one_table", creators_at_once_get_one_table),
        ("a_handle_from_before_a_fork_is_refused", a_handle_from_before_a_fork_is_refused),
        ("nothing_is_left_behind", nothing_is_left_behind),
    ]);
}

type Named = (OsString, fn(&OsStr) -> bool);

thread_local! {
    /// The names of all objects of this program, and whether they are there.
    static NAMES: RefCell<Vec<Named>> = const { RefCell::new(Vec::new()) };
}

fn fresh<B: Subject>() -> Fresh<B> {
    let name = Fresh::<B>::name();
    NAMES.with_borrow_mut(|names| {
        names.push((name.to_os_string(), |name| B::open(name, Open::Existing).is_ok()));
    });
    name
}

/// Begins a process that does `body` with the table.
fn start<B: Subject + RecordLockable>(
    name: &OsStr,
    body: impl FnOnce(&ShmTable<B, Fcntl>) -> Result<(), TableError> + Send + 'static,
) -> ForkedChild {
    let name = name.to_owned();
    let run = move || {
        let table = TableOptions::new().open::<B, Fcntl>(&name).expect("the table is there");
        body(&table).expect("nothing fails");
        0
    };
    Fork.spawn(&[], run).expect("this process has one thread")
}

fn ended_well(child: &ForkedChild) {
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn grouped_increments_lose_nothing<B: Subject + RecordLockable>() {
    let name = fresh::<B>();
    let table: ShmTable<B, Fcntl> = TableOptions::new().create(&name).unwrap();
    let increment = |table: &ShmTable<B, Fcntl>| {
        (0..500).try_for_each(|_| {
            table.group(|group| {
                let old = group.find(1)?.map_or(0, |value| value[0]);
                group.replace(1, &[old + 1])
            })
        })
    };
    let children: Vec<_> = (0..4).map(|_| start::<B>(&name, increment)).collect();
    children.iter().for_each(ended_well);
    assert_eq!(table.find(1).unwrap(), Some(vec![2000]));
    assert_eq!(table.length().unwrap(), 1);
}

fn readers_see_whole_groups<B: Subject + RecordLockable>() {
    let name = fresh::<B>();
    let table: ShmTable<B, Fcntl> = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    let write = |table: &ShmTable<B, Fcntl>| {
        (1..400).try_for_each(|number: i32| {
            // The length varies, so that records move; other keys come and go, so that buckets split.
            let words = (number % 30) as usize + 1;
            table.group(|group| {
                group.replace(1, &vec![number; words])?;
                group.add(number + 10, &[])?;
                group.replace(2, &vec![-number; words])
            })
        })
    };
    let children: Vec<_> = (0..2).map(|_| start::<B>(&name, write)).collect();
    let mut seen = 0;
    while children.iter().any(|child| child.try_wait().unwrap().is_none()) || seen == 0 {
        let add = |(first, length, ones): (i64, usize, usize), key: i32, value: &[i32]| match key {
            1 | 2 => (first + value.iter().map(|word| i64::from(*word)).sum::<i64>(), length, ones + 1),
            _ => (first, length + 1, ones),
        };
        let (sum, others, halves) = table.fold((0, 0, 0), add).unwrap();
        assert_eq!(sum, 0);
        assert!(halves == 2 || (halves == 0 && others == 0), "half of a group");
        seen += 1;
    }
    children.iter().for_each(ended_well);
    assert_eq!(table.length().unwrap(), 2 * 399 + 2);
}

/// Numbers that look random; equal seeds give equal numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

const ACCOUNTS: i32 = 12;

/// One operation of a writer. The accounts always sum to 0. It says when it is in a long group.
fn something<B: ShmBackend + RecordLockable>(
    table: &ShmTable<B, Fcntl>,
    random: &mut Random,
    in_long_group: impl Fn(bool),
) -> Result<(), TableError> {
    let mut account = || random.below(ACCOUNTS as u32) as i32;
    let (from, to) = (account(), account());
    let amount = random.below(100) as i32;
    let words = random.below(40) as usize;
    let other = 100 + random.below(150) as i32;
    let transfer = |group: &mut Group<'_, B>| {
        for (account, amount) in [(from, -amount), (to, amount)] {
            let old = group.find(account)?.expect("accounts are never removed")[0];
            let mut new = vec![0; words + 1];
            new[0] = old.wrapping_add(amount);
            group.replace(account, &new)?;
        }
        Ok::<(), TableError>(())
    };
    match random.below(12) {
        0..4 => table.group(transfer),
        4 => {
            let failed: Result<(), TableError> = table.group(|group| {
                transfer(group)?;
                group.add(other, &[2; 9])?;
                group.replace(from, &[1_000_000])?;
                Err(TableError::FormatFull)
            });
            assert!(matches!(failed, Err(TableError::FormatFull)));
            Ok(())
        }
        5 => table.group(|group| {
            in_long_group(true);
            (0..150).try_for_each(|number| group.replace(300 + number, &[number; 2]))?;
            transfer(group)?;
            (0..150).try_for_each(|number| group.remove(300 + number).map(drop))?;
            in_long_group(false);
            Ok(())
        }),
        6..9 => table.add(other, &vec![other; words]),
        9 => table.replace(other, &vec![other; words * 4]),
        _ => table.remove(other).map(drop),
    }
}

fn a_table_survives_killed_writers<B: Subject + RecordLockable>() {
    const KILLS: u64 = 150;
    const LATEST: u64 = 20 * KILLS;
    let name = fresh::<B>();
    let table: ShmTable<B, Fcntl> = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    (0..ACCOUNTS).for_each(|account| table.add(account, &[0]).unwrap());
    // One word: the number of the writer that is in a long group, or 0.
    let turn_name = fresh::<B>();
    let turn = B::open(&turn_name, Open::CreateNew { mode: 0o600 }).unwrap();
    turn.grow(4).unwrap();
    let mut seed = 1u64;
    let mut writer = |number: u32| {
        seed += 1;
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let turn_name = turn_name.to_os_string();
        start::<B>(&name, move |table| {
            let turn = B::open(&turn_name, Open::Existing)?;
            loop {
                something(table, &mut random, |long| {
                    turn.memory().store(0, if long { number } else { 0 }).unwrap();
                })?;
            }
        })
    };
    let mut writers: Vec<_> = (1..5).map(&mut writer).collect();
    let mut random = Random(42);
    let (mut kills, mut halfway) = (0, 0);
    while kills < KILLS || (halfway < 20 && kills < LATEST) {
        // Anybody, or who is in a long group; the rest is up to chance and to the scheduler.
        let mut victim = random.below(4);
        if kills % 4 != 0 {
            let mut looks = (0..200_000).map(|_| turn.memory().load(0).unwrap());
            victim = looks.find(|number| *number != 0).map_or(victim, |number| number - 1);
        }
        (0..random.below(1000)).for_each(|number| {
            black_box(number);
        });
        let at = victim as usize;
        writers[at].kill(9).unwrap();
        let exit = writers[at].wait().unwrap();
        assert!(matches!(exit, Exit::Signal { signal: 9, .. }), "{exit:?}");
        kills += 1;
        if turn.memory().load(0).unwrap() == victim + 1 {
            turn.memory().store(0, 0).unwrap();
            halfway += 1;
        }
        writers[at] = writer(victim + 1);
        observe(&table);
    }
    for writer in writers {
        writer.kill(9).unwrap();
        writer.wait().unwrap();
    }
    observe(&table);
    let contents = accounting::check(&snapshot::<B>(&name).unwrap());
    assert_eq!(contents.values().map(Vec::len).sum::<usize>(), table.length().unwrap());
    println!("{kills} writers were killed, {halfway} of them halfway");
    assert!(halfway >= 20, "the deaths met nothing");
}

fn observe<B: ShmBackend + RecordLockable>(table: &ShmTable<B, Fcntl>) {
    let (mut sum, mut accounts) = (0i32, 0);
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        if key < ACCOUNTS {
            sum = sum.wrapping_add(value[0]);
            accounts += 1;
        } else {
            assert!((100..250).contains(&key), "key {key} is never left behind");
            assert!(value.iter().all(|word| *word == key));
        }
    }
    assert_eq!((sum, accounts), (0, ACCOUNTS));
}

fn creators_at_once_get_one_table() {
    for _ in 0..20 {
        let name = fresh::<PosixShm>();
        let children: Vec<_> = (0..4)
            .map(|number| {
                let name = name.to_os_string();
                let run = move || {
                    let table = TableOptions::new().open_or_create::<PosixShm, Fcntl>(&name).unwrap();
                    table.add(number, &[number]).unwrap();
                    0
                };
                Fork.spawn(&[], run).unwrap()
            })
            .collect();
        children.iter().for_each(ended_well);
        let contents = accounting::check(&snapshot::<PosixShm>(&name).unwrap());
        assert_eq!(contents, (0..4).map(|number| (number, vec![vec![number]])).collect());
    }
}

fn a_handle_from_before_a_fork_is_refused() {
    fn refused<B: Subject, L: LockMethod<B>>() {
        let name = fresh::<B>();
        let table: ShmTable<B, L> = TableOptions::new().create(&name).unwrap();
        table.add(1, &[1]).unwrap();
        let run = move || {
            let results = [
                table.add(1, &[2]),
                table.replace(1, &[2]),
                table.remove(1).map(drop),
                table.find(1).map(drop),
                table.find_all(1).map(drop),
                table.mem(1).map(drop),
                table.length().map(drop),
                table.iter().map(drop),
                table.iter_keys().map(drop),
                table.group(|group| group.add(1, &[2])),
            ];
            for result in results {
                let error = result.expect_err("refused");
                let forked = matches!(
                    error,
                    TableError::Lock(LockError::Forked) | TableError::Shm(ShmError::Forked { .. })
                );
                assert!(forked && error.to_string().contains("anew"), "{error:?}");
            }
            0
        };
        ended_well(&Fork.spawn(&[], run).unwrap());
        if let Ok(table) = TableOptions::new().open::<B, L>(&name) {
            assert_eq!(table.find_all(1).unwrap(), [[1]]);
        }
    }
    refused::<PosixShm, Fcntl>();
    refused::<File, Fcntl>();
    refused::<File, NoLock>();
    refused::<Heap, NoLock>();
}

fn nothing_is_left_behind() {
    NAMES.with_borrow(|names| {
        assert!(!names.is_empty() || std::env::args().count() > 1);
        for (name, is_there) in names {
            assert!(!is_there(name), "{name:?}");
        }
    });
    assert!(matches!(Fork.spawn(&[], || 0).map(|child| child.wait()), Ok(Ok(Exit::Code(0)))));
}
