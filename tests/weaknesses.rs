//! The weaknesses of the library that this one replaces are not here: one test for each, by its number in the list
//! (W1 to W19).
//!
//! A program without the test harness: it forks.

mod held;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use manycore::codec::{Encode, hash};
use manycore::lock::{LockError, Wait};
use manycore::shm::ShmError;
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::table::{Announced, Answer, Step};
use manycore::{Fcntl, Fork, Heap, NoLock, PosixShm, ShmMap, ShmTable, TableError, TableOptions};
use manycore_backends::testing::faulty::{Fault, Faulty, FaultyLock, plan};
use manycore_backends::testing::recorder::{Recorder, record, restore, snapshot};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::Fresh;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type ForkedChild = ChildProcess;

fn main() {
    run_tests(&[
        ("w01_removing_several_bindings_at_once_leaves_no_lock", w01_removing_several_bindings),
        ("w02_stopping_at_a_later_binding_leaves_no_lock", w02_stopping_at_a_later_binding),
        ("w03_looking_inside_a_callback_does_not_lose_the_lock", w03_looking_inside_a_callback),
        ("w04_churn_over_distinct_keys_does_not_grow_the_object", w04_churn_over_distinct_keys),
        ("w05_reinitializing_leaves_nothing_of_what_was_there", w05_reinitializing),
        ("w06_changing_inside_a_read_callback_is_an_error_and_in_a_group_works", w06_changing_inside),
        ("w07_keys_that_share_a_hash_are_listed_once_each", w07_keys_that_share_a_hash),
        ("w08_creating_opening_and_reinitializing_at_once_gives_one_sound_table", w08_creating_at_once),
        ("w09_a_writer_killed_in_the_middle_leaves_a_whole_table", w09_a_writer_killed),
        ("w09_a_writer_killed_after_clearing_leaves_a_whole_table", w09_a_writer_killed_after_clearing),
        ("w10_growing_does_not_use_up_the_address_space", w10_growing),
        ("w11_no_single_operation_pays_for_the_growth_of_the_table", w11_no_single_operation_pays),
        ("w12_groups_that_read_and_then_write_never_deadlock", w12_groups_never_deadlock),
        ("w13_an_object_of_the_other_byte_order_is_recognised", w13_the_other_byte_order),
        ("w14_single_operations_never_deadlock", w14_single_operations_never_deadlock),
        ("w15_lookups_ask_the_system_for_nothing", w15_lookups_ask_for_nothing),
        ("w16_threads_and_several_openings_and_forks_are_provided_for", w16_threads_openings_and_forks),
        ("w17_what_was_missing_is_there", w17_what_was_missing),
        ("w18_padding_is_zero", w18_padding_is_zero),
        ("w19_a_full_file_system_is_an_error", w19_a_full_file_system),
    ]);
}

/// A new table of small pages, which begins with one bucket.
fn create() -> (Fresh<PosixShm>, ShmTable) {
    let name = Fresh::<PosixShm>::name();
    let table = TableOptions::new().page_size(160).expected(0).seed(7).create(&name).unwrap();
    (name, table)
}

/// Begins a process that does something with the table.
fn start(
    name: &OsStr,
    body: impl FnOnce(&ShmTable) -> Result<(), TableError> + Send + 'static,
) -> ForkedChild {
    let name = name.to_owned();
    let run = move || {
        body(&ShmTable::open(&name).expect("the table is there")).expect("nothing fails");
        0
    };
    Fork.fork(&[], run).expect("this process has one thread")
}

fn ended_well(child: &ForkedChild) {
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

/// No lock is left, and another process can write to every part of the table without waiting.
#[track_caller]
fn nothing_is_locked(name: &OsStr) {
    assert_eq!(held::kinds(name), [""; 0]);
    let child = start(name, |table| {
        let table = table.waiting(Wait::Try);
        table.add(77, &[1; 100])?;
        (77..100).try_for_each(|key| table.replace(key, &[key; 3]))?;
        (77..100).try_for_each(|key| table.remove(key).map(drop))?;
        table.iter()?.try_for_each(|entry| entry.map(drop))
    });
    ended_well(&child);
}

fn w01_removing_several_bindings() {
    let (name, table) = create();
    (0..4).for_each(|length| table.add(1, &vec![7; 30 * length]).unwrap());
    table
        .write_blocks(1, Announced::Removal, |fragment| match fragment {
            Some(_) => Answer::CONTINUE,
            None => Answer::remove(Step::Continue),
        })
        .unwrap();
    assert_eq!(table.find_all(1).unwrap(), [[0; 0]; 0]);
    nothing_is_locked(&name);
    (0..4).for_each(|_| table.add(2, &[7; 30]).unwrap());
    assert_eq!(table.retain(|key, _| key != 2).unwrap(), 4);
    nothing_is_locked(&name);
}

fn w02_stopping_at_a_later_binding() {
    for last in 0..4 {
        let (name, table) = create();
        (0..4).for_each(|number| table.add(1, &[number; 30]).unwrap());
        let mut binding = 0;
        table
            .write_blocks(1, Announced::Removal, |fragment| match fragment {
                Some(_) if binding == last => Answer::remove(Step::Stop),
                Some(_) => Answer::CONTINUE,
                None => {
                    binding += 1;
                    Answer::CONTINUE
                }
            })
            .unwrap();
        let left: Vec<_> =
            (0..4).rev().filter(|number| *number != 3 - last).map(|number| [number; 30]).collect();
        assert_eq!(table.find_all(1).unwrap(), left);
        nothing_is_locked(&name);
    }
    // What the typed layer does to a key that is not the first with its hash.
    let (first, second) = sharing_a_hash();
    let (name, table) = create();
    let map: ShmMap<u64, u32> = table.into();
    map.add(&first, &1).unwrap();
    map.add(&second, &2).unwrap();
    assert!(map.remove(&first).unwrap());
    assert_eq!((map.find(&first).unwrap(), map.find(&second).unwrap()), (None, Some(2)));
    assert_eq!(held::kinds(&name), [""; 0]);
}

/// Whatever is looked up inside, whoever has the lock has it until the end.
fn w03_looking_inside_a_callback() {
    let (name, table) = create();
    let other = ShmTable::open(&name).unwrap();
    (0..3).for_each(|number| table.add(1, &[number; 50]).unwrap());
    let look = |kind: &str| {
        assert_eq!(held::kinds(&name), [kind], "before");
        for handle in [&table, &other] {
            // Inside of a change, some are errors; that is not what this is about.
            let _ = handle.find(1);
            let _ = handle.mem(2);
            let _ = handle.find_all(1);
            let _ = handle.iter().map(|entries| entries.take(1).count());
            let _ = handle.read_blocks(1, |_| Step::Stop);
            let _ = handle.read_group(|group| group.find(1));
            let _ = handle.add(1, &[]);
        }
        assert_eq!(held::kinds(&name), [kind], "after");
    };
    for _ in table.iter().unwrap() {
        look("READ");
    }
    for _ in table.iter_keys().unwrap() {
        look("READ");
    }
    table
        .read_group(|_| {
            look("READ");
            Ok::<(), TableError>(())
        })
        .unwrap();
    assert_eq!(held::kinds(&name), [""; 0]);
    let mut looks = 0;
    table
        .write_blocks(1, Announced::Removal, |fragment| {
            look("WRITE");
            looks += 1;
            if fragment.is_none() && looks > 3 { Answer::remove(Step::Continue) } else { Answer::CONTINUE }
        })
        .unwrap();
    table
        .update(1, |old| {
            look("WRITE");
            old.map(<[i32]>::to_vec)
        })
        .unwrap();
    table
        .retain(|_, _| {
            look("WRITE");
            true
        })
        .unwrap();
    table
        .group(|group| {
            look("WRITE");
            group.add(5, &[])
        })
        .unwrap();
    nothing_is_locked(&name);
}

fn w04_churn_over_distinct_keys() {
    let (_name, table) = create();
    table.add(-1, &[1; 10]).unwrap();
    let churn = |keys: std::ops::Range<i32>| {
        for key in keys {
            table.add(key, &vec![key; key as usize % 20]).unwrap();
            assert!(table.remove(key).unwrap());
        }
        table.stat().unwrap()
    };
    let first = churn(0..200);
    let last = churn(200..20_000);
    assert_eq!((last.bytes, last.buckets), (first.bytes, first.buckets));
    assert_eq!((last.bindings, last.keys), (1, 1));
    assert_eq!(table.check().unwrap(), []);
}

fn w05_reinitializing() {
    let (name, table) = create();
    for key in 0..500 {
        table.add(key, &vec![key; key as usize % 70]).unwrap();
        table.add(key, &[key]).unwrap();
    }
    for (page_size, expected) in [(160, 0), (4096, 1000), (256, 10)] {
        let options = TableOptions::new().page_size(page_size).expected(expected);
        let again: ShmTable = options.reinitialize(&name).unwrap();
        for handle in [&table, &again] {
            assert_eq!(handle.length().unwrap(), 0);
            assert_eq!(handle.iter().unwrap().count() + handle.iter_keys().unwrap().count(), 0);
            assert!((0..500).all(|key| !handle.mem(key).unwrap()));
            assert_eq!(handle.check().unwrap(), []);
        }
        assert_eq!(again.stat().unwrap().page_size, page_size);
        for key in 0..300 {
            again.add(key, &[-key; 9]).unwrap();
            table.add(key, &[key]).unwrap();
        }
        assert!((0..300).all(|key| again.find_all(key).unwrap() == [vec![key], vec![-key; 9]]));
        assert_eq!(again.check().unwrap(), []);
    }
}

/// (There are no arrays yet; what made them unusable was this.)
fn w06_changing_inside() {
    let (_name, table) = create();
    table.add(1, &[1, 2, 3]).unwrap();
    let refused = |result: Result<(), TableError>| {
        let error = result.expect_err("the table is being read");
        assert!(matches!(error, TableError::Lock(LockError::LockedByCaller)), "{error:?}");
        assert!(error.to_string().contains("use the open group"), "{error}");
    };
    let change = || {
        refused(table.replace(1, &[9]));
        refused(table.add(1, &[9]));
        refused(table.remove(1).map(drop));
        refused(table.clear());
        refused(table.update(1, |_| Some([9])));
        refused(table.write_blocks(1, Announced::Nothing, |_| Answer::STOP));
    };
    for entry in table.iter().unwrap() {
        entry.unwrap();
        change();
    }
    table
        .read_group(|_| {
            change();
            Ok::<(), TableError>(())
        })
        .unwrap();
    assert_eq!(table.find_all(1).unwrap(), [[1, 2, 3]]);
    // Reading and then changing what was read is what groups are for; a word in the middle, what blocks are for.
    table
        .group(|group| {
            let mut value = group.find(1)?.expect("it was added");
            value[1] = 20;
            group.replace(1, &value)
        })
        .unwrap();
    let set = |table: &ShmTable, index: usize, word: i32| {
        table.write_blocks(1, Announced::Nothing, |fragment| {
            if let Some(mut fragment) = fragment {
                fragment.set(index, word).unwrap();
            }
            Answer::STOP
        })
    };
    set(&table, 2, 30).unwrap();
    assert_eq!(table.find_all(1).unwrap(), [[1, 20, 30]]);
}

/// Two different keys whose words have the same hash.
fn sharing_a_hash() -> (u64, u64) {
    let mut seen = HashMap::new();
    // (Keys that differ in one word only never have the same.)
    for key in (0u64..).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
        let mut words = Vec::new();
        key.encode(&mut words).unwrap();
        if let Some(other) = seen.insert(hash(&words), key) {
            return (other, key);
        }
    }
    unreachable!("there are more keys than hashes")
}

fn w07_keys_that_share_a_hash() {
    let (first, second) = sharing_a_hash();
    let (_name, table) = create();
    let map: ShmMap<u64, u32> = table.into();
    for (key, value) in [(first, 1), (second, 2), (first, 3), (second, 4), (first, 5)] {
        map.add(&key, &value).unwrap();
    }
    let mut entries: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for entry in map.iter().unwrap() {
        let (key, value) = entry.unwrap();
        entries.entry(key).or_default().push(value);
    }
    assert_eq!(entries, BTreeMap::from([(first, vec![5, 3, 1]), (second, vec![4, 2])]));
    assert_eq!(map.find_all(&first).unwrap(), [5, 3, 1]);
    assert!(map.remove(&second).unwrap());
    assert_eq!(map.find_all(&second).unwrap(), [2]);
    assert_eq!(map.length().unwrap(), 4);
}

fn w08_creating_at_once() {
    for round in 0..20 {
        let name = Fresh::<PosixShm>::name();
        let children: Vec<_> = (0..4)
            .map(|number| {
                let name = name.to_os_string();
                let run = move || {
                    let options = TableOptions::new().page_size(160).expected(0);
                    let again = (number + round) % 4 == 0;
                    let table: ShmTable =
                        if again { options.reinitialize(&name) } else { options.open_or_create(&name) }
                            .unwrap();
                    table.add(number, &[number; 5]).unwrap();
                    assert!(again || table.find(number).unwrap().is_none_or(|value| value == [number; 5]));
                    0
                };
                Fork.fork(&[], run).unwrap()
            })
            .collect();
        children.iter().for_each(ended_well);
        let table = ShmTable::open(&name).unwrap();
        assert_eq!(table.check().unwrap(), []);
        for entry in table.iter().unwrap() {
            let (key, value) = entry.unwrap();
            assert_eq!(value, [key; 5]);
        }
        assert!((1..=4).contains(&table.length().unwrap()));
    }
}

fn pipe() -> (OwnedFd, Arc<OwnedFd>) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reader, Arc::new(writer))
}

/// Begins a process that says when it is in the middle of a group, and then never goes on.
fn halfway(name: &OsStr) -> ForkedChild {
    let (says, say) = pipe();
    let (name, of_child) = (name.to_owned(), Arc::clone(&say));
    let run = move || {
        let table = ShmTable::open(&name).unwrap();
        let never: Result<(), TableError> = table.group(|group| {
            group.clear()?;
            (0..200).try_for_each(|key| group.add(key, &[-1; 20]))?;
            rustix::io::write(&*of_child, b"!").unwrap();
            loop {
                std::thread::park();
            }
        });
        unreachable!("{never:?}")
    };
    let child = Fork.fork(&[say.as_fd()], run).unwrap();
    drop(say);
    assert_eq!(rustix::io::read(&says, &mut [0; 1]), Ok(1));
    child
}

fn w09_a_writer_killed() {
    let (name, table) = create();
    for key in 0..50 {
        table.add(key, &vec![key; key as usize % 9]).unwrap();
    }
    for round in 0..3 {
        let child = halfway(&name);
        assert_eq!(held::kinds(&name), ["WRITE"]);
        assert!(matches!(table.waiting(Wait::Try).add(1, &[]), Err(TableError::Lock(LockError::Busy))));
        child.kill(9).unwrap();
        child.wait().unwrap();
        // Whoever comes first repairs: somebody who looks, who lists, who writes.
        match round {
            0 => assert_eq!(table.find(7).unwrap(), Some(vec![7; 7])),
            1 => assert_eq!(table.iter().unwrap().count(), 50),
            _ => assert!(table.add(1, &[]).is_ok() && table.remove(1).unwrap()),
        }
        assert_eq!(table.length().unwrap(), 50);
        assert!((0..50).all(|key| table.find_all(key).unwrap() == [vec![key; key as usize % 9]]));
        assert_eq!(table.check().unwrap(), []);
        assert_eq!(held::kinds(&name), [""; 0]);
    }
}

/// What the table was used for before it was cleared does not matter when a writer dies after that.
fn w09_a_writer_killed_after_clearing() {
    let (name, table) = create();
    for last in 0..8 {
        (0..200).for_each(|key| table.add(key, &[key]).unwrap());
        // The last thing that a single operation changes is a bucket that is gone after this.
        table.replace(last, &[1, 2, 3]).unwrap();
        table.clear().unwrap();
        // Odd words wherever there were buckets.
        (0..20).for_each(|key| table.group(|group| group.add(key, &[-1; 1000])).unwrap());
        let child = halfway(&name);
        child.kill(9).unwrap();
        child.wait().unwrap();
        for key in 0..20 {
            let value = table.find(key).unwrap().unwrap();
            assert!(value.len() == 1000 && value.iter().all(|word| *word == -1), "{key}");
        }
        table.clear().unwrap();
    }
}

/// Mappings of the object, and KiB of address space.
fn address_space(name: &OsStr) -> (usize, u64) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let object = held::path(name);
    let mappings = maps.lines().filter(|line| line.ends_with(&*object.to_string_lossy())).count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    (mappings, size.trim().trim_end_matches(" kB").parse().unwrap())
}

fn w10_growing() {
    let (name, table) = create();
    table.add(-1, &[]).unwrap();
    let (mappings, before) = address_space(&name);
    assert!(mappings >= 1);
    // A page at a time: many thousand growths.
    for key in 0..20_000 {
        table.add(key, &[key; 60]).unwrap();
    }
    let grown = table.stat().unwrap().bytes as u64 >> 10;
    assert!(grown > 4000, "{grown} KiB");
    let (mappings_after, after) = address_space(&name);
    assert_eq!(mappings_after, mappings);
    // The object itself, and what an allocator may want meanwhile.
    assert!(after - before <= grown + 4096, "{before} KiB became {after} KiB");
}

fn w11_no_single_operation_pays() {
    let name = Fresh::<Heap>::name();
    let table: ShmTable<Recorder<Heap>, NoLock> = TableOptions::new().expected(0).create(&name).unwrap();
    let most = |keys: std::ops::Range<i32>| {
        keys.map(|key| record(|| table.add(key, &[key; 2]).unwrap()).1.len()).max().unwrap()
    };
    let (small, large) = (most(0..2_000), most(2_000..20_000));
    // With ten times as many keys nothing takes longer, but for the rare new part of the directory.
    println!("  the longest addition: {small} stores while the table is small, {large} later");
    assert!(small < 1000 && large < 1000);
}

fn w12_groups_never_deadlock() {
    let (name, table) = create();
    let count = |table: &ShmTable| {
        (0..2000).try_for_each(|_| {
            table.group(|group| {
                let old = group.find(1)?.map_or(0, |value| value[0]);
                group.replace(1, &[old + 1])
            })
        })
    };
    let children = [start(&name, count), start(&name, count)];
    children.iter().for_each(ended_well);
    assert_eq!(table.find(1).unwrap(), Some(vec![4000]));
}

/// (It is not converted. It is not mistaken for a table either, nor for a new object.)
fn w13_the_other_byte_order() {
    let (name, table) = create();
    table.add(1, &[1]).unwrap();
    let mut image = snapshot::<PosixShm>(&name).unwrap();
    image.iter_mut().for_each(|word| *word = word.swap_bytes());
    let foreign = Fresh::<PosixShm>::name();
    restore::<PosixShm>(&foreign, &image).unwrap();
    for opened in [ShmTable::open(&foreign), TableOptions::new().open_or_create(&foreign)] {
        let error = opened.unwrap_err();
        assert!(matches!(error, TableError::NotATable { .. }), "{error:?}");
        assert!(error.to_string().contains("the other byte order"), "{error}");
    }
    assert_eq!(snapshot::<PosixShm>(&foreign).unwrap(), image);
}

fn w14_single_operations_never_deadlock() {
    let (name, table) = create();
    let children: Vec<_> = (0..3)
        .map(|number| {
            start(&name, move |table| {
                for round in 0..500 {
                    table.add(round % 5, &[number; 20])?;
                    table.iter()?.try_for_each(|entry| entry.map(drop))?;
                    table.replace(round % 5, &[number])?;
                    table.find_all(round % 3)?;
                    assert!(table.remove(round % 5)?);
                }
                Ok(())
            })
        })
        .collect();
    children.iter().for_each(ended_well);
    assert_eq!(table.length().unwrap(), 0);
}

fn w15_lookups_ask_for_nothing() {
    type Unlucky = ShmTable<Faulty<PosixShm>, FaultyLock<Faulty<PosixShm>, Fcntl>>;
    let name = Fresh::<PosixShm>::name();
    let table: Unlucky = TableOptions::new().create(&name).unwrap();
    for key in 0..100 {
        table.add(key, &vec![key; key as usize]).unwrap();
        table.add(key, &[key]).unwrap();
    }
    type Lookup = fn(&Unlucky) -> Result<(), TableError>;
    let lookups: [Lookup; 6] = [
        |table| table.find(3).map(|found| assert_eq!(found, Some(vec![3]))),
        |table| table.find_into(3, &mut Vec::new()).map(|found| assert!(found)),
        |table| table.find_all(3).map(|found| assert_eq!(found, [vec![3], vec![3; 3]])),
        |table| table.mem(200).map(|found| assert!(!found)),
        |table| table.get_many(&[1, 2, 300], |key, value| assert_eq!(value.is_some(), key < 100)),
        |table| table.length().map(|length| assert_eq!(length, 200)),
    ];
    for (number, lookup) in lookups.into_iter().enumerate() {
        let (result, asked) = plan(0, Fault::NoLocks, || lookup(&table));
        result.unwrap();
        assert!(!asked, "lookup {number} made a call");
    }
    // That the plan would have been met:
    let (result, asked) = plan(0, Fault::NoLocks, || table.add(1, &[]));
    assert!(result.is_err() && asked);
}

fn w16_threads_openings_and_forks() {
    let (name, table) = create();
    let child = start(&name, |table| {
        // Threads share one handle, and have several.
        let other = ShmTable::open(table.name())?;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let handle = if thread % 2 == 0 { table } else { &other };
                scope.spawn(move || {
                    for _ in 0..300 {
                        let increment = |old: Option<&[i32]>| Some([old.map_or(0, |value| value[0]) + 1]);
                        handle.update(1, increment).unwrap();
                    }
                });
            }
        });
        // Dropping one of them releases no lock of the others.
        let entries = table.iter()?;
        drop(other);
        assert_eq!(held::kinds(table.name()).len(), 1);
        drop(entries);
        assert_eq!(held::kinds(table.name()).len(), 0);
        Ok(())
    });
    ended_well(&child);
    assert_eq!(table.find(1).unwrap(), Some(vec![1200]));
    // After a fork, the handle is refused, and another one works.
    let carried = table.clone();
    let run = move || {
        let error = carried.find(1).unwrap_err();
        assert!(
            matches!(error, TableError::Lock(LockError::Forked) | TableError::Shm(ShmError::Forked { .. })),
            "{error:?}"
        );
        let anew = ShmTable::open(carried.name()).unwrap();
        assert_eq!(anew.find(1).unwrap(), Some(vec![1200]));
        0
    };
    ended_well(&Fork.fork(&[], run).unwrap());
}

fn w17_what_was_missing() {
    let (name, table) = create();
    let fill = || (0..300).for_each(|key| (0..3).for_each(|number| table.add(key, &[number; 7]).unwrap()));
    fill();
    // All bindings of one key; all bindings; and the room of what is gone serves again.
    assert_eq!(table.retain(|key, _| key != 5).unwrap(), 3);
    assert!(!table.mem(5).unwrap());
    let bytes = table.stat().unwrap().bytes;
    table.clear().unwrap();
    assert_eq!(table.length().unwrap(), 0);
    fill();
    assert_eq!(table.stat().unwrap().bytes, bytes);
    // Changing in one step.
    table.update(1, |old| old.map(|value| [value.len() as i32])).unwrap();
    assert_eq!(table.find(1).unwrap(), Some(vec![7]));
    // A part of the keys.
    let mut found = Vec::new();
    table.get_many(&[1, 1000, 2], |key, value| found.push((key, value.map(<[i32]>::len)))).unwrap();
    assert_eq!(found, [(1, Some(1)), (1000, None), (2, Some(7))]);
    // Step by step, and ending early.
    assert_eq!(table.iter().unwrap().skip(10).take(5).filter(Result::is_ok).count(), 5);
    // Not waiting, or not for long.
    let child = halfway(&name);
    let busy = table.waiting(Wait::Try).remove(1);
    assert!(matches!(busy, Err(TableError::Lock(LockError::Busy))), "{busy:?}");
    let late = table.waiting(Wait::AtMost(Duration::from_millis(2))).remove(1);
    assert!(matches!(late, Err(TableError::Lock(LockError::TimedOut))), "{late:?}");
    child.kill(9).unwrap();
    child.wait().unwrap();
    assert!(table.waiting(Wait::Try).remove(1).unwrap());
}

fn w18_padding_is_zero() {
    let (_name, table) = create();
    let map: ShmMap<String, String> = table.into();
    // Where padding would be, there was something else before.
    let texts = ["", "x", "xy", "xyz", "wxyz", "vwxyz"];
    for text in texts {
        map.table().add(1, &[-1; 40]).unwrap();
        assert!(map.table().remove(1).unwrap());
        map.add(text, &text.to_owned()).unwrap();
    }
    for entry in map.table().iter().unwrap() {
        let (_, words) = entry.unwrap();
        let mut rest = words.as_slice();
        for part in ["key", "value"] {
            let length = rest[0] as usize;
            let bytes: Vec<u8> =
                rest[1..=length.div_ceil(4)].iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!(texts.iter().any(|text| text.as_bytes() == &bytes[..length]), "{part}");
            assert!(bytes[length..].iter().all(|byte| *byte == 0), "padding of a {part}: {bytes:?}");
            rest = &rest[1 + length.div_ceil(4)..];
        }
        assert!(rest.is_empty());
    }
}

fn w19_a_full_file_system() {
    // The system refuses a larger file.
    let (name, table) = create();
    table.add(1, &[1]).unwrap();
    let bytes = || table.stat().unwrap().bytes as u64;
    let limits = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes() + 1000), maximum: limits.maximum }).unwrap();
    let refused = table.add(2, &[2; 10_000]);
    let small = table.add(3, &[3; 3]);
    setrlimit(Resource::Fsize, limits).unwrap();
    assert!(matches!(refused, Err(TableError::Shm(ShmError::Full { .. }))), "{refused:?}");
    small.unwrap();
    assert_eq!((table.length().unwrap(), table.check().unwrap()), (2, vec![]));
    table.add(2, &[2; 10_000]).unwrap();

    // And it refuses each operation that needs room, again and again; the others go on.
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes() + 20_000), maximum: limits.maximum }).unwrap();
    let fill = (10..).find(|key| table.add(*key, &[*key; 30]).is_err()).unwrap();
    let image = snapshot::<PosixShm>(&name).unwrap();
    type Growing = fn(&ShmTable) -> Result<(), TableError>;
    let growing: [Growing; 5] = [
        |table| table.add(5, &[5; 3000]),
        |table| table.replace(10, &[5; 3000]),
        |table| table.update(10, |_| Some([5; 3000])),
        |table| table.group(|group| group.add(5, &[]).and_then(|()| group.add(6, &[6; 3000]))),
        |table| {
            table.group(|group| {
                group.remove(10)?;
                (1000..3000).try_for_each(|key| group.add(key, &[key; 3]))
            })
        },
    ];
    for (number, grow) in growing.into_iter().enumerate() {
        let refused = grow(&table);
        assert!(matches!(refused, Err(TableError::Shm(ShmError::Full { .. }))), "{number}: {refused:?}");
        assert_eq!((table.length().unwrap(), table.check().unwrap()), (fill as usize - 7, vec![]));
        assert!(!table.mem(fill).unwrap() && table.find(10).unwrap() == Some(vec![10; 30]));
    }
    assert_eq!(snapshot::<PosixShm>(&name).unwrap().len(), image.len());
    assert!(table.remove(10).unwrap());
    table.add(fill, &[fill; 30]).unwrap();
    setrlimit(Resource::Fsize, limits).unwrap();
    table.add(10, &[10; 3000]).unwrap();
    assert_eq!(table.check().unwrap(), []);
}
