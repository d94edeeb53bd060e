//! Processes that use one table at once see only whole groups and lose nothing, also when they are killed
//! in the middle of whatever they do.
//!
//! A program without the test harness: it forks.

mod accounting;
mod held;

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use manycore::lock::{LockError, Wait};
use manycore::shm::{Memory, Open, Owners, ShmError};
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::table::{Announced, Answer, Group, Step};
use manycore::{Fcntl, File, Fork, Futex, Heap, LockMethod, NoLock, Ofd, PosixShm, ShmBackend, ShmTable};
use manycore::{TableError, TableOptions};
use manycore_backends::testing::recorder::snapshot;
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::{Fresh, Subject};
use rustix::pipe::{PipeFlags, pipe_with};

type ForkedChild = ChildProcess;

fn main() {
    run_tests(&[
        ("grouped_increments_in_a_file_lose_nothing", grouped_increments_lose_nothing::<File, Futex>),
        (
            "grouped_increments_in_shared_memory_lose_nothing",
            grouped_increments_lose_nothing::<PosixShm, Futex>,
        ),
        (
            "grouped_increments_by_record_locks_lose_nothing",
            grouped_increments_lose_nothing::<PosixShm, Fcntl>,
        ),
        (
            "grouped_increments_by_locks_of_open_files_lose_nothing",
            grouped_increments_lose_nothing::<File, Ofd>,
        ),
        ("readers_of_a_file_see_whole_groups", readers_see_whole_groups::<File, Fcntl>),
        ("readers_of_shared_memory_see_whole_groups", readers_see_whole_groups::<PosixShm, Futex>),
        ("a_table_in_a_file_survives_killed_writers", a_table_survives_killed_writers::<File, Fcntl>),
        (
            "a_table_in_shared_memory_survives_killed_writers",
            a_table_survives_killed_writers::<PosixShm, Futex>,
        ),
        (
            "a_table_locked_by_open_files_survives_killed_writers",
            a_table_survives_killed_writers::<File, Ofd>,
        ),
        ("creators_at_once_get_one_table", creators_at_once_get_one_table::<Futex>),
        ("creators_at_once_get_one_table_by_record_locks", creators_at_once_get_one_table::<Fcntl>),
        ("groups_that_wait_for_each_other_start_again", groups_in_a_cycle::<Futex, 2>),
        ("three_groups_that_wait_for_each_other_start_again", groups_in_a_cycle::<Futex, 3>),
        ("groups_that_wait_for_each_other_by_record_locks_start_again", groups_in_a_cycle::<Fcntl, 2>),
        ("three_groups_that_wait_for_each_other_by_record_locks_start_again", groups_in_a_cycle::<Fcntl, 3>),
        ("who_cannot_lock_is_told_of_changes", who_cannot_lock_is_told_of_changes),
        ("a_handle_from_before_a_fork_is_refused", a_handle_from_before_a_fork_is_refused),
        ("who_does_not_want_to_wait_need_not", who_does_not_want_to_wait_need_not),
        ("a_table_can_be_opened_for_reading_only", a_table_can_be_opened_for_reading_only),
        ("who_may_only_read_is_told_of_a_dead_writer", who_may_only_read_is_told_of_a_dead_writer),
        ("permission_to_read_is_enough_for_reading", permission_to_read_is_enough_for_reading),
        ("users_who_say_so_share_a_table", users_who_say_so_share_a_table),
        ("handles_of_both_kinds_do_not_lose_locks", handles_of_both_kinds_do_not_lose_locks),
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
        names.push((name.to_os_string(), |name| {
            !matches!(B::open(name, Open::Existing), Err(ShmError::NotFound { .. }))
        }));
    });
    name
}

/// Begins a process that does `body` with the table.
fn start<B: Subject, L: LockMethod<B>>(
    name: &OsStr,
    body: impl FnOnce(&ShmTable<B, L>) -> Result<(), TableError> + Send + 'static,
) -> ForkedChild {
    let name = name.to_owned();
    let run = move || {
        let table = TableOptions::new().open::<B, L>(&name).expect("the table is there");
        body(&table).expect("nothing fails");
        0
    };
    Fork.fork(&[], run).expect("this process has one thread")
}

fn ended_well(child: &ForkedChild) {
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn grouped_increments_lose_nothing<B: Subject, L: LockMethod<B>>() {
    let name = fresh::<B>();
    let table: ShmTable<B, L> = TableOptions::new().create(&name).unwrap();
    let increment = |table: &ShmTable<B, L>| {
        (0..500).try_for_each(|_| {
            table.group(|group| {
                let old = group.find(1)?.map_or(0, |value| value[0]);
                group.replace(1, &[old + 1])
            })
        })
    };
    let children: Vec<_> = (0..4).map(|_| start::<B, L>(&name, increment)).collect();
    children.iter().for_each(ended_well);
    assert_eq!(table.find(1).unwrap(), Some(vec![2000]));
    assert_eq!(table.length().unwrap(), 1);
}

fn readers_see_whole_groups<B: Subject, L: LockMethod<B>>() {
    let name = fresh::<B>();
    let table: ShmTable<B, L> = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    let write = |table: &ShmTable<B, L>| {
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
    let children: Vec<_> = (0..2).map(|_| start::<B, L>(&name, write)).collect();
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
fn something<B: ShmBackend, L: LockMethod<B>>(
    table: &ShmTable<B, L>,
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

fn a_table_survives_killed_writers<B: Subject, L: LockMethod<B>>() {
    const KILLS: u64 = 150;
    const LATEST: u64 = 20 * KILLS;
    let name = fresh::<B>();
    let table: ShmTable<B, L> = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
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
        start::<B, L>(&name, move |table| {
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

fn observe<B: ShmBackend, L: LockMethod<B>>(table: &ShmTable<B, L>) {
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

fn creators_at_once_get_one_table<L: LockMethod<PosixShm>>() {
    for _ in 0..20 {
        let name = fresh::<PosixShm>();
        let children: Vec<_> = (0..4)
            .map(|number| {
                let name = name.to_os_string();
                let run = move || {
                    let table = TableOptions::new().open_or_create::<PosixShm, L>(&name).unwrap();
                    table.add(number, &[number]).unwrap();
                    0
                };
                Fork.fork(&[], run).unwrap()
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
                table.find_into(1, &mut Vec::new()).map(drop),
                table.get_many(&[1], |_, _| ()),
                table.read_blocks(1, |_| Step::Stop),
                table.write_blocks(1, Announced::Nothing, |_| Answer::STOP),
                table.read_group(|group| group.find(1)).map(drop),
                table.fold((), |(), _, _| ()),
                table.update(1, |_| Some([2])),
                table.retain(|_, _| true).map(drop),
                table.clear(),
                table.stat().map(drop),
                table.check().map(drop),
                table.dump(&mut std::io::sink()),
                table.waiting(Wait::Try).add(1, &[2]),
                table.clone().find(1).map(drop),
                table.chmod(0o600),
                table.chown(None, None),
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
        ended_well(&Fork.fork(&[], run).unwrap());
        if let Ok(table) = TableOptions::new().open::<B, L>(&name) {
            assert_eq!(table.find_all(1).unwrap(), [[1]]);
        }
    }
    refused::<PosixShm, Futex>();
    refused::<PosixShm, Fcntl>();
    refused::<File, Ofd>();
    refused::<File, Futex>();
    refused::<File, NoLock>();
    refused::<Heap, NoLock>();
}

/// Two pipes' ends: a process says something, and waits for an answer.
struct Dialogue {
    says: OwnedFd,
    answer: OwnedFd,
}

/// Begins a process that does something in a group, says so, and ends the group when it is answered.
fn in_a_group(
    name: &OsStr,
    body: impl FnOnce(&mut Group<'_, PosixShm>) -> Result<(), TableError> + Send + 'static,
) -> (ForkedChild, Dialogue) {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
    let ((says, say), (question, answer)) = (pipe(), pipe());
    let (say, question) = (Arc::new(say), Arc::new(question));
    let (of_child, name) = ((Arc::clone(&say), Arc::clone(&question)), name.to_owned());
    let run = move || {
        let table = ShmTable::open(&name).unwrap();
        let done: Result<(), TableError> = table.group(|group| {
            body(group)?;
            rustix::io::write(&*of_child.0, b"!").unwrap();
            assert_eq!(rustix::io::read(&*of_child.1, &mut [0; 1]), Ok(1));
            Ok(())
        });
        done.unwrap();
        0
    };
    let child = Fork.fork(&[say.as_fd(), question.as_fd()], run).unwrap();
    drop(say);
    assert_eq!(rustix::io::read(&says, &mut [0; 1]), Ok(1));
    (child, Dialogue { says, answer })
}

/// Each process takes from one table and gives to the next, in a group of both; in the first round, all have taken before
/// any gives.
fn groups_in_a_cycle<L: LockMethod<PosixShm>, const TABLES: usize>() {
    const ROUNDS: i32 = 100;
    const START: i32 = 1000;
    let names = [(); TABLES].map(|()| fresh::<PosixShm>());
    let tables = names.each_ref().map(|name| TableOptions::new().create::<PosixShm, L>(name).unwrap());
    tables.iter().for_each(|table| table.add(1, &[START]).unwrap());
    let meeting = fresh::<PosixShm>();
    let met = PosixShm::open(&meeting, Open::CreateNew { mode: 0o600 }).unwrap();
    met.grow(4 * 2 * TABLES as u64).unwrap();
    let process = |number: usize| {
        let [from, to] = [number, (number + 1) % TABLES].map(|table| names[table].to_os_string());
        let meeting = meeting.to_os_string();
        let run = move || {
            let [from, to] = [from, to].map(|name| TableOptions::new().open::<PosixShm, L>(name).unwrap());
            let met = PosixShm::open(&meeting, Open::Existing).unwrap();
            let word = |at: usize| met.memory().load(at).unwrap();
            let add = |group: &mut Group<'_, PosixShm>, amount: i32| {
                let old = group.find(1)?.expect("it is always there")[0];
                group.replace(1, &[old + amount])
            };
            let mut refused = 0;
            let mut round = 0;
            while round < ROUNDS {
                let moved = from.group(|from| {
                    add(from, -1)?;
                    met.memory().store(number, 1).unwrap();
                    while (0..TABLES).any(|other| word(other) == 0) {
                        std::thread::yield_now();
                    }
                    to.group(|to| add(to, 1))
                });
                match moved {
                    Ok(()) => round += 1,
                    Err(TableError::Lock(LockError::Deadlock)) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            met.memory().store(TABLES + number, refused).unwrap();
            0
        };
        Fork.fork(&[], run).expect("this process has one thread")
    };
    let children: Vec<_> = (0..TABLES).map(process).collect();
    children.iter().for_each(ended_well);
    for table in &tables {
        assert_eq!((table.find(1).unwrap(), table.length().unwrap()), (Some(vec![START]), 1));
    }
    let refused: u32 = (0..TABLES).map(|number| met.memory().load(TABLES + number).unwrap()).sum();
    assert!(refused > 0, "they never waited for each other");
}

/// Nothing keeps the writers out, but no mixture of states is taken for one.
fn who_cannot_lock_is_told_of_changes() {
    let name = fresh::<PosixShm>();
    let table = ShmTable::create(&name).unwrap();
    (0..50).for_each(|key| table.add(key, &vec![0; key as usize % 3]).unwrap());
    let reading = open_read_only(&name).unwrap();
    type Change = fn(&ShmTable) -> Result<(), TableError>;
    let changes: [Change; 4] = [
        |table| table.replace(1, &[5]),
        |table| table.replace(2, &[5; 2]),
        |table| table.add(100, &[]),
        |table| table.group(|group| group.remove(100).map(drop)),
    ];
    for change in changes {
        let told = |result: Result<(), TableError>| {
            assert!(matches!(result, Err(TableError::Changed { .. })), "{result:?}");
        };
        told(reading.read_group(|group| {
            group.find(1)?;
            change(&table)?;
            group.find(2).map(drop)
        }));
        let mut entries = reading.iter().unwrap();
        entries.next().unwrap().unwrap();
        change(&table).unwrap();
        told(entries.next().unwrap().map(drop));
        assert!(entries.next().is_none());
        let mut seen = 0;
        told(reading.fold((), |(), _, _| {
            seen += 1;
            if seen == 1 {
                change(&table).unwrap();
            }
        }));
        assert_eq!(seen, 1, "what may be of another state was shown");
        // Again, and nobody interferes.
        assert_eq!(reading.iter().unwrap().count(), reading.length().unwrap());
    }
    // Beside a writer all the time: whole groups, or nothing.
    let child = start::<PosixShm, Futex>(&name, |table| {
        (0..2000).try_for_each(|number: i32| {
            table.group(|group| {
                group.replace(1, &[number])?;
                group.replace(2, &[-number])
            })
        })
    });
    let mut whole = 0;
    while child.try_wait().unwrap().is_none() || whole == 0 {
        let both = reading.read_group(|group| Ok((group.find(1)?, group.find(2)?)));
        match both {
            Ok((Some(one), Some(other))) => {
                assert!(one[0] == -other[0] || (one[0], &other[..]) == (5, &[5; 2][..]), "{one:?} {other:?}");
                whole += 1;
            }
            Err(TableError::Changed { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    ended_well(&child);
    assert_eq!(held::kinds(&name), [""; 0]);
    // A group that is not over: who does not want to wait need not.
    table
        .group(|group| {
            group.add(200, &[])?;
            let busy = reading.waiting(Wait::Try).iter().map(drop);
            assert!(matches!(busy, Err(TableError::Lock(LockError::Busy))), "{busy:?}");
            let late = reading.waiting(Wait::AtMost(Duration::from_millis(3))).iter_keys().map(drop);
            assert!(matches!(late, Err(TableError::Lock(LockError::TimedOut))), "{late:?}");
            Ok::<(), TableError>(())
        })
        .unwrap();
}

fn who_does_not_want_to_wait_need_not() {
    let name = fresh::<PosixShm>();
    let table = ShmTable::create(&name).unwrap();
    table.add(1, &[1]).unwrap();
    let (child, dialogue) = in_a_group(&name, |group| group.add(2, &[2; 10]));
    type Change = fn(&ShmTable) -> Result<(), TableError>;
    let changes: [Change; 9] = [
        |table| table.add(1, &[2]),
        |table| table.replace(1, &[2]),
        |table| table.remove(1).map(drop),
        |table| table.update(1, |_| Some([2])),
        |table| table.clear(),
        |table| table.retain(|_, _| true).map(drop),
        |table| table.write_blocks(1, Announced::Nothing, |_| Answer::STOP),
        |table| table.group(|_| Ok(())),
        |table| table.read_group(|_| Ok(())),
    ];
    for change in changes {
        let busy = change(&table.waiting(Wait::Try));
        assert!(matches!(busy, Err(TableError::Lock(LockError::Busy))), "{busy:?}");
        let late = change(&table.waiting(Wait::AtMost(Duration::from_millis(1))));
        assert!(matches!(late, Err(TableError::Lock(LockError::TimedOut))), "{late:?}");
    }
    let busy = table.waiting(Wait::Try).iter().map(drop);
    assert!(matches!(busy, Err(TableError::Lock(LockError::Busy))), "{busy:?}");
    // What the group has added is not seen by those who look without a lock.
    match table.waiting(Wait::Try).find(2) {
        Ok(found) => assert_eq!(found, None),
        Err(error) => assert!(matches!(error, TableError::Lock(LockError::Busy)), "{error:?}"),
    }
    rustix::io::write(&dialogue.answer, b"!").unwrap();
    assert_eq!(rustix::io::read(&dialogue.says, &mut [0; 1]), Ok(0));
    ended_well(&child);
    // The handle that it was made from still waits, and so does what was made from the other.
    let trying = table.waiting(Wait::Try);
    assert_eq!(trying.find_all(2).unwrap(), [[2; 10]]);
    trying.waiting(Wait::Forever).add(3, &[3]).unwrap();
    assert!(trying.remove(3).unwrap() && table.remove(2).unwrap());
    assert_eq!(held::kinds(&name), [""; 0]);
}

fn open_read_only(name: &OsStr) -> Result<ShmTable, TableError> {
    TableOptions::new().read_only(true).open(name)
}

fn writes_are_refused(table: &ShmTable) {
    let results = [
        table.add(1, &[2]),
        table.replace(1, &[2]),
        table.remove(1).map(drop),
        table.update(1, |_| Some([2])),
        table.clear(),
        table.retain(|_, _| true).map(drop),
        table.write_blocks(1, Announced::Nothing, |_| Answer::STOP),
        table.group(|group| group.add(1, &[2])),
        table.waiting(Wait::Try).add(1, &[2]),
    ];
    for (number, result) in results.into_iter().enumerate() {
        assert!(matches!(result, Err(TableError::ReadOnly { .. })), "{number}: {result:?}");
    }
}

fn a_table_can_be_opened_for_reading_only() {
    let name = fresh::<PosixShm>();
    let missing = open_read_only(&name);
    assert!(matches!(missing, Err(TableError::Shm(ShmError::NotFound { .. }))), "{missing:?}");
    let writable: ShmTable = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    writable.add(1, &[1, 2, 3]).unwrap();
    writable.add(1, &[]).unwrap();
    let image = snapshot::<PosixShm>(&name).unwrap();
    let table = open_read_only(&name).unwrap();
    assert_eq!(table.find(1).unwrap(), Some(vec![]));
    assert_eq!(table.find_all(1).unwrap(), [vec![], vec![1, 2, 3]]);
    assert!(table.mem(1).unwrap() && !table.mem(2).unwrap());
    assert_eq!((table.length().unwrap(), table.iter().unwrap().count()), (2, 2));
    assert_eq!(table.read_group(|group| group.find(1)).unwrap(), Some(vec![]));
    table.get_many(&[1], |_, value| assert_eq!(value, Some(&[][..]))).unwrap();
    assert_eq!((table.check().unwrap(), table.stat().unwrap().keys), (vec![], 1));
    writes_are_refused(&table);
    assert_eq!(snapshot::<PosixShm>(&name).unwrap(), image);
    // What another process adds is seen, also where the object has grown.
    let child =
        start::<PosixShm, Futex>(&name, |table| (10..3000).try_for_each(|key| table.add(key, &[key; 9])));
    ended_well(&child);
    assert!((10..3000).all(|key| table.find(key).unwrap() == Some(vec![key; 9])));
    assert_eq!((table.length().unwrap(), table.iter_keys().unwrap().count()), (2992, 2991));
    assert_eq!(held::kinds(&name), [""; 0]);
}

fn who_may_only_read_is_told_of_a_dead_writer() {
    let name = fresh::<PosixShm>();
    let writable: ShmTable = TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    (0..20).for_each(|key| writable.add(key, &[key]).unwrap());
    let early = open_read_only(&name).unwrap();
    let (child, _dialogue) = in_a_group(&name, |group| {
        (0..20).try_for_each(|key| group.remove(key).map(drop))?;
        (0..90).try_for_each(|key| group.add(key, &[-1; 9]))
    });
    child.kill(9).unwrap();
    child.wait().unwrap();
    drop(writable);
    let late = open_read_only(&name);
    let image = snapshot::<PosixShm>(&name).unwrap();
    for table in [Ok(early), late] {
        // Opening may say it already.
        let results = table.map(|table| {
            [
                table.find(1).map(drop),
                table.iter().map(drop),
                table.read_group(|group| group.find(1)).map(drop),
                table.find_all(1).map(drop),
            ]
        });
        let results = results.map_or_else(|error| vec![Err(error)], Vec::from);
        for result in results {
            let error = result.expect_err("it cannot be read before it has been mended");
            assert!(matches!(error, TableError::Interrupted { .. }), "{error:?}");
        }
    }
    assert_eq!(snapshot::<PosixShm>(&name).unwrap(), image, "a reader has written");
    // Somebody who may write mends it by opening it or using it.
    let reading = ShmTable::open(&name).and_then(|table| table.length()).unwrap();
    assert_eq!(reading, 20);
    let table = open_read_only(&name).unwrap();
    assert!((0..20).all(|key| table.find_all(key).unwrap() == [[key]]));
    assert_eq!((table.length().unwrap(), table.check().unwrap()), (20, vec![]));
}

fn permission_to_read_is_enough_for_reading() {
    let name = fresh::<PosixShm>();
    let table: ShmTable = TableOptions::new().mode(0o600).create(&name).unwrap();
    table.add(1, &[1]).unwrap();
    let mode = || std::fs::metadata(held::path(&name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    table.chmod(0o444).unwrap();
    assert_eq!(mode(), 0o444);
    table.chown(None, None).unwrap();
    if !rustix::process::geteuid().is_root() {
        println!("  (only root can become somebody else)");
        return;
    }
    let run = {
        let name = name.to_os_string();
        move || {
            const NOBODY: u32 = 65534;
            nix::unistd::setgid(NOBODY.into()).unwrap();
            nix::unistd::setuid(NOBODY.into()).unwrap();
            let refused = ShmTable::open(&name).unwrap_err();
            let TableError::Shm(ShmError::Io { source, .. }) = &refused else { panic!("{refused:?}") };
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
            let table = open_read_only(&name).unwrap();
            assert_eq!(table.find(1).unwrap(), Some(vec![1]));
            assert_eq!(table.iter().unwrap().count(), 1);
            writes_are_refused(&table);
            assert!(matches!(table.chmod(0o666), Err(TableError::Shm(ShmError::Io { .. }))));
            0
        }
    };
    ended_well(&Fork.fork(&[], run).unwrap());
    table.chown(Some(65534), None).unwrap();
    assert_eq!(std::fs::metadata(held::path(&name)).unwrap().uid(), 65534);
}

/// What is not to be trusted is not opened; what users share on purpose is, if both sides say so.
fn users_who_say_so_share_a_table() {
    const OWNER: u32 = 12_345;
    const MEMBER: u32 = 23_456;
    let name = fresh::<PosixShm>();
    let table: ShmTable = TableOptions::new().mode(0o660).create(&name).unwrap();
    table.add(1, &[1]).unwrap();
    table.chmod(0o660).unwrap();
    // The mode says who may write, whether the table is new or not.
    let closed = TableOptions::new();
    let of_group = TableOptions::new().mode(0o660);
    type Way = fn(&TableOptions, &OsStr) -> Result<ShmTable, TableError>;
    fn refused(options: &TableOptions, name: &OsStr) -> ShmError {
        let ways: [Way; 4] = [
            |options, name| options.open(name),
            |options, name| options.clone().read_only(true).open(name),
            |options, name| options.open_or_create(name),
            |options, name| options.reinitialize(name),
        ];
        let mut refused = ways.map(|open| match open(options, name) {
            Err(TableError::Shm(error)) => error,
            other => panic!("not refused: {other:?}"),
        });
        assert!(refused.iter().all(|error| error.to_string() == refused[0].to_string()));
        std::mem::replace(&mut refused[0], ShmError::NotFound { name: OsString::new() })
    }
    assert!(matches!(refused(&closed, &name), ShmError::WritableByOthers { mode: 0o660, .. }));
    let opened: ShmTable = of_group.open(&name).unwrap();
    assert_eq!(opened.find(1).unwrap(), Some(vec![1]));
    // What is saved comes from such objects as the table that it goes to.
    let into: [ShmTable<Heap, NoLock>; 2] =
        [closed.create_unique("x-XXXXXX"), of_group.create_unique("x-XXXXXX")].map(|table| table.unwrap());
    for table in &into {
        table.unlink().unwrap();
    }
    assert!(matches!(
        into[0].salvage::<PosixShm>(&name),
        Err(TableError::Shm(ShmError::WritableByOthers { .. }))
    ));
    assert_eq!(into[1].salvage::<PosixShm>(&name).unwrap().bindings, 1);
    if !rustix::process::geteuid().is_root() {
        println!("  (only root can become somebody else)");
        return;
    }
    table.chown(Some(OWNER), Some(MEMBER)).unwrap();
    let run = {
        let name = name.to_os_string();
        move || {
            nix::unistd::setgroups(&[]).unwrap();
            nix::unistd::setgid(MEMBER.into()).unwrap();
            nix::unistd::setuid(MEMBER.into()).unwrap();
            for options in [&closed, &of_group, &closed.clone().owners(Owners::User(MEMBER))] {
                assert!(matches!(refused(options, &name), ShmError::Foreign { owner: OWNER, .. }));
            }
            for owners in [Owners::User(OWNER), Owners::Anybody] {
                let shared = closed.clone().owners(owners);
                assert!(matches!(refused(&shared, &name), ShmError::WritableByOthers { .. }));
                let shared = of_group.clone().owners(owners);
                let table: ShmTable = shared.open_or_create(&name).unwrap();
                table.add(2, &[2]).unwrap();
            }
            0
        }
    };
    ended_well(&Fork.fork(&[], run).unwrap());
    assert_eq!((table.length().unwrap(), table.check().unwrap()), (3, vec![]));
}

/// Closing any descriptor of a file releases the process's record locks on it.
fn handles_of_both_kinds_do_not_lose_locks() {
    type ShmTable = manycore::ShmTable<PosixShm, Fcntl>;
    fn open_read_only(name: &OsStr) -> Result<ShmTable, TableError> {
        TableOptions::new().read_only(true).open(name)
    }
    let name = fresh::<PosixShm>();
    let writable: ShmTable = TableOptions::new().create(&name).unwrap();
    writable.add(1, &[1]).unwrap();
    let me = std::process::id();
    let held = |kind: &str| assert_eq!(held::locks(&name), [(kind.to_owned(), me)]);
    let come_and_go = || {
        drop(open_read_only(&name));
        let open = || TableOptions::new().open::<PosixShm, Fcntl>(&name);
        drop(open());
        if let (Ok(one), Ok(other)) = (open_read_only(&name), open()) {
            let _ = (one.find(1), other.find(1), one.iter().map(drop), other.add(1, &[]));
        }
    };
    for first in [0, 1] {
        let read_only = open_read_only(&name).unwrap();
        for table in [&read_only, &writable] {
            let entries = table.iter().unwrap();
            held("READ");
            come_and_go();
            held("READ");
            drop(entries);
            assert_eq!(held::locks(&name), []);
        }
        let both = [read_only.iter().unwrap(), writable.iter().unwrap()];
        held("READ");
        let mut both = both.into_iter().skip(first);
        drop(both.next());
        drop(both);
        assert_eq!(held::locks(&name), []);
        writable
            .group(|group| {
                held("WRITE");
                come_and_go();
                held("WRITE");
                group.replace(1, &[2])
            })
            .unwrap();
        assert_eq!(held::locks(&name), []);
        assert_eq!(read_only.find(1).unwrap(), Some(vec![2]));
    }
    // With the last handle, everything is closed, in whatever order.
    let read_only = open_read_only(&name).unwrap();
    let entries = read_only.iter().unwrap();
    drop(writable);
    held("READ");
    drop(entries);
    TableOptions::new().open::<PosixShm, Fcntl>(&name).unwrap().add(2, &[2]).unwrap();
    assert!(read_only.mem(2).unwrap());
}

fn nothing_is_left_behind() {
    NAMES.with_borrow(|names| {
        assert!(!names.is_empty() || std::env::args().count() > 1);
        for (name, is_there) in names {
            assert!(!is_there(name), "{name:?}");
        }
    });
    assert!(matches!(Fork.fork(&[], || 0).map(|child| child.wait()), Ok(Ok(Exit::Code(0)))));
}
