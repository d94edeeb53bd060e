//! Whichever call to the system fails in an operation: the table is as before or as after, nothing stays
//! locked, no descriptor stays open, and the next call works.
//!
//! A program without the test harness: it counts the descriptors of the whole process.

mod accounting;

use std::ffi::OsStr;
use std::fs;

use accounting::Contents;
use manycore::lock::Protocol;
use manycore::shm::ShmError;
use manycore::table::{Announced, Answer, Step};
use manycore::{
    Fcntl, File, Futex, Heap, LockMethod, NoLock, PosixShm, ShmBackend, ShmTable, TableError, TableOptions,
};
use manycore_backends::testing::faulty::{Fault, Faulty, FaultyLock, plan};
use manycore_backends::testing::recorder::snapshot;
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::{Fresh, Subject};

fn main() {
    run_tests(&[
        (
            "a_failing_call_changes_nothing_in_the_heap",
            a_failing_call_changes_nothing::<Heap, NoLock, NoLock>,
        ),
        (
            "a_failing_call_changes_nothing_in_a_file",
            a_failing_call_changes_nothing::<File, FaultyLock<Faulty<File>, Fcntl>, Fcntl>,
        ),
        (
            "a_failing_call_changes_nothing_in_shared_memory",
            a_failing_call_changes_nothing::<PosixShm, FaultyLock<Faulty<PosixShm>, Futex>, Futex>,
        ),
        (
            "a_failing_creation_leaves_nothing_in_the_heap",
            a_failing_creation_leaves_nothing::<Heap, NoLock, NoLock>,
        ),
        (
            "a_failing_creation_leaves_nothing_in_a_file",
            a_failing_creation_leaves_nothing::<File, FaultyLock<Faulty<File>, Fcntl>, Fcntl>,
        ),
        (
            "a_failing_creation_leaves_nothing_in_shared_memory",
            a_failing_creation_leaves_nothing::<PosixShm, FaultyLock<Faulty<PosixShm>, Futex>, Futex>,
        ),
        ("a_change_in_place_that_fails_is_undone", a_change_in_place_that_fails_is_undone),
    ]);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

fn options() -> TableOptions {
    TableOptions::new().page_size(160).expected(0).seed(7)
}

fn contents<B: ShmBackend>(name: &OsStr) -> Contents {
    accounting::check(&snapshot::<B>(name).unwrap())
}

fn prepared<B: Subject, L: LockMethod<Faulty<B>>>() -> (Fresh<B>, ShmTable<Faulty<B>, L>) {
    let name = Fresh::<B>::name();
    let table: ShmTable<Faulty<B>, L> = options().create(&name).unwrap();
    (0..5).for_each(|key| table.add(key, &[key; 2]).unwrap());
    (name, table)
}

/// What is done with the table under test.
type Act<B, L> = fn(&ShmTable<Faulty<B>, L>) -> Result<(), TableError>;

fn operations<B: Subject, L: LockMethod<Faulty<B>>, M: LockMethod<B>>() -> Vec<(&'static str, Act<B, L>)> {
    vec![
        ("open", |table| TableOptions::new().open::<Faulty<B>, L>(table.name()).map(drop)),
        ("open_or_create", |table| {
            TableOptions::new().open_or_create::<Faulty<B>, L>(table.name()).map(drop)
        }),
        ("add", |table| table.add(1, &[1])),
        ("add with growth", |table| table.add(9, &[1; 30_000])),
        ("replace", |table| table.replace(2, &[7])),
        ("replace with growth", |table| table.replace(2, &[7; 30_000])),
        ("add_many", |table| table.add_many((0..200).map(|key| (key, [key; 40])))),
        ("remove", |table| table.remove(3).map(drop)),
        ("find", |table| table.find(3).map(|found| assert!(found.is_some()))),
        ("find_all", |table| table.find_all(3).map(|found| assert_eq!(found.len(), 1))),
        ("mem", |table| table.mem(3).map(|found| assert!(found))),
        ("find_into", |table| table.find_into(3, &mut Vec::new()).map(|found| assert!(found))),
        ("get_many", |table| table.get_many(&[1, 3], |_, value| assert!(value.is_some()))),
        ("length", |table| table.length().map(|length| assert!(length >= 5))),
        ("read_blocks", |table| table.read_blocks(3, |_| Step::Continue)),
        ("read_group", |table| {
            table.read_group(|group| {
                assert_eq!(group.find(3)?, Some(vec![3; 2]));
                group.iter()?.try_for_each(|entry| entry.map(drop))
            })
        }),
        ("check", |table| table.check().map(|problems| assert_eq!(problems, []))),
        ("stat", |table| table.stat().map(|stat| assert!(stat.bindings >= 5))),
        ("dump", |table| table.dump(&mut std::io::sink())),
        ("iter", |table| table.iter()?.try_for_each(|entry| entry.map(drop))),
        ("iter_keys", |table| table.iter_keys()?.try_for_each(|key| key.map(drop))),
        ("fold", |table| table.fold(0, |count, _, _| count + 1).map(|count| assert!(count >= 5))),
        ("clear", |table| table.clear()),
        ("retain", |table| table.retain(|key, _| key > 2).map(drop)),
        ("update", |table| table.update(3, |old| old.map(|value| [value[0]; 7]))),
        ("update that removes", |table| table.update(3, |_| None::<[i32; 0]>)),
        ("update with growth", |table| table.update(3, |_| Some([1; 30_000]))),
        ("write_blocks", |table| {
            table.write_blocks(3, Announced::Nothing, |fragment| {
                if let Some(mut fragment) = fragment {
                    fragment.set(1, 8).expect("inside");
                }
                Answer::CONTINUE
            })
        }),
        ("write_blocks that removes", |table| {
            table.write_blocks(3, Announced::Removal, |fragment| match fragment {
                Some(_) => Answer::CONTINUE,
                None => Answer::remove(Step::Stop),
            })
        }),
        ("salvage", |table| {
            let broken = Fresh::<B>::name();
            let other: ShmTable<B, M> = options().create(&broken).unwrap();
            (100..200).for_each(|key| other.add(key, &[key; 9]).unwrap());
            drop(other);
            let salvaged = table.salvage::<Faulty<B>>(&broken)?;
            assert_eq!((salvaged.bindings, salvaged.problems.len()), (100, 0));
            Ok(())
        }),
        ("reinitialize", |table| options().reinitialize::<Faulty<B>, L>(table.name()).map(drop)),
        ("group of new operations", |table| {
            table.group(|group| {
                group.clear()?;
                (0..50).try_for_each(|key| group.add(key, &[key; 30]))?;
                group.retain(|key, _| key % 3 == 0)?;
                group.update(3, |_| Some([1; 100]))?;
                group.write_blocks(6, Announced::Removal, |_| Answer::remove(Step::Stop))
            })
        }),
        ("group", |table| {
            table.group(|group| {
                group.remove(1)?;
                group.add(10, &[1; 10_000])?;
                (20..150).try_for_each(|key| group.add(key, &[key; 50]))?;
                group.replace(3, &[2; 3])
            })
        }),
        ("group that goes on", |table| {
            table.group(|group| {
                group.remove(1)?;
                // If this fails, the rest happens nevertheless.
                let _ = group.add(1, &[1; 10_000]);
                group.replace(1, &[])?;
                group.replace(3, &[2; 3])
            })
        }),
    ]
}

/// `L` is the lock under test, `M` the same without faults.
fn a_failing_call_changes_nothing<B: Subject, L: LockMethod<Faulty<B>>, M: LockMethod<B>>() {
    let open_at_first = descriptors();
    for (what, act) in operations::<B, L, M>() {
        let after = {
            let (name, table) = prepared::<B, L>();
            act(&table).unwrap();
            contents::<B>(&name)
        };
        for fault in Fault::ALL {
            let mut passing = 0;
            while fails(what, act, &after, passing, fault) {
                passing += 1;
            }
            // Locking, at least, is a call; with no lock only growing and opening are. Lookups do without.
            let lookup = ["find", "find_all", "mem", "find_into", "get_many", "length"].contains(&what);
            let calls = (L::PROTOCOL != Protocol::NONE && !lookup) || what.contains("growth");
            assert!(passing > 0 || !calls, "{what} made no call that could fail");
        }
    }
    assert_eq!(descriptors(), open_at_first);

    /// Whether a call failed.
    fn fails<B: Subject, L: LockMethod<Faulty<B>>>(
        what: &str,
        act: Act<B, L>,
        after: &Contents,
        passing: u64,
        fault: Fault,
    ) -> bool {
        let (name, table) = prepared::<B, L>();
        let before = contents::<B>(&name);
        let open_before = descriptors();
        let (result, failed) = plan(passing, fault, || act(&table));
        let context = format!("{what}, {fault:?} after {passing} calls: {result:?}");
        let found = contents::<B>(&name);
        match &result {
            // With or without a fault: it may have been got around.
            Ok(()) => assert_eq!(&found, after, "{context}"),
            Err(error) => {
                assert!(failed, "{context}");
                assert!(matches!(error, TableError::Shm(_) | TableError::Lock(_)), "{context}");
                assert!(!error.to_string().is_empty());
                // Saving adds one binding after the other.
                let whole = found == before
                    || (what == "salvage" && before.iter().all(|of| found.get(of.0) == Some(of.1)));
                assert!(whole, "{context}: {found:?}");
            }
        }
        assert_eq!(descriptors(), open_before, "{context}");
        // Nothing is locked, for this handle and another one, and both work.
        let other: ShmTable<Faulty<B>, L> = TableOptions::new().open(&name).unwrap();
        other.add(77, &[1]).unwrap();
        act(&table).unwrap();
        other.replace(77, &[2]).unwrap();
        assert!(table.remove(77).unwrap());
        contents::<B>(&name);
        failed
    }
}

/// `L` is the lock under test, `M` the same without faults.
fn a_failing_creation_leaves_nothing<B: Subject, L: LockMethod<Faulty<B>>, M: LockMethod<B>>() {
    type Create<B, L> = fn(&OsStr) -> Result<ShmTable<Faulty<B>, L>, TableError>;
    let creations: [(bool, Create<B, L>); 3] = [
        (true, |name| options().create(name)),
        (true, |name| {
            let mut template = name.to_owned();
            template.push("-XXXXXX");
            options().create_unique(template)
        }),
        (false, |name| options().open_or_create(name)),
    ];
    for (exclusive, create) in creations {
        for fault in Fault::ALL {
            for passing in 0.. {
                let name = Fresh::<B>::name();
                let open_before = descriptors();
                let (result, failed) = plan(passing, fault, || create(&name));
                let context = format!("{fault:?} after {passing} calls: {result:?}");
                match result {
                    Ok(table) => {
                        table.add(1, &[1]).unwrap();
                        assert_eq!(contents::<B>(table.name()), Contents::from([(1, vec![vec![1]])]));
                        table.unlink().unwrap();
                        drop(table);
                        assert_eq!(descriptors(), open_before, "{context}");
                        if !failed {
                            assert!(passing > 0);
                            break;
                        }
                    }
                    Err(_) => {
                        assert!(failed, "{context}");
                        assert_eq!(descriptors(), open_before, "{context}");
                        let there = snapshot::<B>(&name).is_ok();
                        assert!(!(exclusive && there), "{context}");
                        let table = TableOptions::new().open_or_create::<B, M>(&name).unwrap();
                        table.add(1, &[1]).unwrap();
                    }
                }
            }
        }
    }
}

/// Also if the visitor does not care.
fn a_change_in_place_that_fails_is_undone() {
    let mut failures = 0;
    for passing in 0.. {
        // Once the journal has grown, it stays large.
        let (_name, table) = prepared::<Heap, NoLock>();
        table.add(9, &[7; 30_000]).unwrap();
        let change = || {
            table.write_blocks(9, Announced::Nothing, |fragment| {
                if let Some(mut fragment) = fragment {
                    let _ = fragment.copy_from(&vec![8; fragment.len()]);
                }
                Answer::CONTINUE
            })
        };
        let (result, failed) = plan(passing, Fault::NoSpace, change);
        let value = table.find(9).unwrap().unwrap();
        if result.is_ok() {
            assert_eq!(value, [8; 30_000]);
            if !failed {
                break;
            }
        } else {
            failures += 1;
            assert!(matches!(result, Err(TableError::Shm(ShmError::Full { .. }))), "{result:?}");
            assert!(failed && value == [7; 30_000], "half of it");
        }
    }
    assert!(failures > 0);
}
