//! A process may die after any machine instruction of any operation: at each one that has changed a byte of the
//! object, a new process finds the table as it was before or as it is after, and a living one that looks without
//! waiting finds that too, or that the table is busy.
//!
//! The crash tests (`table_crash`) cut between the stores of the source; this one steps through the compiled
//! program, so that it also sees what the compiler has moved. A program without the test harness: it forks.

mod held;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;

use manycore::lock::{LockError, Wait};
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::table::{Announced, Answer, Step};
use manycore::{Fork, Heap, NoLock, PosixShm, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::restore;
use manycore_backends::testing::shm::Fresh;
use manycore_backends::testing::{TestCase, run_tests};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

type ForkedChild = ChildProcess;
type Contents = BTreeMap<i32, Vec<Vec<i32>>>;
/// The word of an object that says how many buckets are in use.
const BUCKETS: usize = 17;

type Act = fn(&ShmTable) -> Result<(), TableError>;

fn main() {
    let quick: &[TestCase] = &[("some_operations_are_whole_at_every_instruction", some_operations)];
    let thorough: &[TestCase] = &[
        ("adding_is_whole_at_every_instruction", adding),
        ("changing_is_whole_at_every_instruction", changing),
        ("removing_is_whole_at_every_instruction", removing),
        ("a_group_is_whole_at_every_instruction", a_group),
        ("whoever_is_killed_at_an_instruction_is_replaced", whoever_is_killed_is_replaced),
    ];
    // An unoptimised program has fifteen times as many instructions, in the order of the source; elsewhere than on
    // this machine a loop of load-exclusive and store-exclusive never ends when it is stepped through.
    run_tests(match (cfg!(target_arch = "x86_64"), cfg!(debug_assertions)) {
        (false, _) => &[],
        (true, true) => quick,
        (true, false) => thorough,
    });
}

fn create(name: &OsStr, prepare: Act) -> ShmTable {
    let table: ShmTable = TableOptions::new().page_size(160).expected(0).seed(7).create(name).unwrap();
    prepare(&table).unwrap();
    table
}

/// A process that does something with the table, from one stop to the next, an instruction at a time.
struct Stepped {
    child: ForkedChild,
    pid: Pid,
}

impl Stepped {
    fn start(name: &OsStr, act: Act) -> Stepped {
        let name = name.to_owned();
        let run = move || {
            let table = ShmTable::open(&name).unwrap();
            // What is done once in a process need not be stepped through.
            table.group(|group| group.mem(0)).unwrap();
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            let result = act(&table);
            raise(Signal::SIGSTOP).unwrap();
            result.unwrap();
            0
        };
        let child = Fork.fork(&[], run).expect("this process has one thread");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
        Stepped { child, pid }
    }

    /// Does one instruction; `false` at the second stop.
    fn step(&self) -> bool {
        ptrace::step(self.pid, None).unwrap();
        match waitpid(self.pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => false,
            status => panic!("{status:?}"),
        }
    }

    fn finish(self) {
        ptrace::detach(self.pid, None).unwrap();
        assert_eq!(self.child.wait().unwrap(), Exit::Code(0));
    }
}

/// Steps through `act`, and judges every state of the object.
fn whole_at_every_instruction(what: &str, prepare: Act, act: Act) {
    let name = Fresh::<PosixShm>::name();
    let table = create(&name, prepare);
    let file = File::open(held::path(&name)).unwrap();
    let before = contents(&table);
    let after = {
        let other = Fresh::<PosixShm>::name();
        let table = create(&other, prepare);
        act(&table).unwrap();
        contents(&table)
    };
    let keys: Vec<i32> = before.keys().chain(after.keys()).copied().chain([1_000_000]).collect();
    let trying = table.waiting(Wait::Try);

    let stepped = Stepped::start(&name, act);
    let (mut last, mut image) = (Vec::new(), Vec::new());
    let (mut states, mut busy, mut happened) = (0, 0, false);
    let mut judge = |image: &[u8], steps: u32| {
        let found = survivor_finds(image);
        assert!(found == before || found == after, "{what}: half of it after {steps} instructions");
        if before != after {
            assert!(found == after || !happened, "{what}: undone after it had happened");
            happened = found == after;
        }
        for key in &keys {
            match trying.find_all(*key) {
                Ok(values) => {
                    let expected = if happened { &after } else { &before };
                    let expected = expected.get(key).map_or(&[][..], Vec::as_slice);
                    assert_eq!(values, expected, "{what}: {key} after {steps} instructions");
                }
                Err(TableError::Lock(LockError::Busy)) => busy += 1,
                Err(error) => panic!("{what}: {error:?} after {steps} instructions"),
            }
        }
        states += 1;
    };
    let mut steps = 0;
    while stepped.step() {
        steps += 1;
        image.resize(file.metadata().unwrap().len() as usize, 0);
        file.read_exact_at(&mut image, 0).unwrap();
        if image != last {
            judge(&image, steps);
            last.clone_from(&image);
        }
    }
    stepped.finish();
    assert!(happened || before == after);
    assert!(contents(&table) == after && table.check().unwrap().is_empty());
    println!("  {what}: {steps} instructions, {states} states, {busy} lookups were told that it is busy");
}

fn contents(table: &ShmTable) -> Contents {
    let mut found = Contents::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    found
}

/// What a new process finds in an object with these bytes. It must be able to work.
fn survivor_finds(image: &[u8]) -> Contents {
    let words: Vec<u32> = image
        .chunks_exact(4)
        .map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
        .collect();
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, &words).unwrap();
    let table: ShmTable<Heap, NoLock> = TableOptions::new().open(&name).unwrap();
    let mut found = Contents::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    assert_eq!(table.check().unwrap(), []);
    let length = table.length().unwrap();
    assert_eq!(length, found.values().map(Vec::len).sum::<usize>());
    table.add(-1, &[1, 2, 3]).unwrap();
    assert_eq!(table.find(-1).unwrap(), Some(vec![1, 2, 3]));
    assert!(table.remove(-1).unwrap());
    assert_eq!(table.check().unwrap(), []);
    found
}

fn nothing(_: &ShmTable) -> Result<(), TableError> {
    Ok(())
}

/// Keys of each kind of slot: no word, one word, a record, and hidden ones.
fn some(table: &ShmTable) -> Result<(), TableError> {
    for key in 0..4 {
        table.add(key, &vec![key; key as usize])?;
    }
    table.add(3, &[7; 5])?;
    table.add(2, &[8])
}

fn some_operations() {
    whole_at_every_instruction("a word by a word", some, |table| table.replace(1, &[9]));
    whole_at_every_instruction("as many", some, |table| table.replace(3, &[9; 5]));
    whole_at_every_instruction("uncovering", some, |table| table.remove(2).map(drop));
}

fn adding() {
    whole_at_every_instruction("the first", nothing, |table| table.add(1, &[1]));
    whole_at_every_instruction("hiding", some, |table| table.add(2, &[1, 2, 3]));
    let full: Act = |table| (0..3).try_for_each(|key| table.add(key, &[key; 2]));
    let one_more: Act = |table| {
        let result = table.add(4, &[1; 9]);
        assert_eq!(table.raw().get(BUCKETS), Some(2));
        result
    };
    whole_at_every_instruction("with a bucket taken into use", full, one_more);
}

fn changing() {
    whole_at_every_instruction("a word by a word", some, |table| table.replace(1, &[9]));
    whole_at_every_instruction("a word by many", some, |table| table.replace(1, &[9; 20]));
    whole_at_every_instruction("as many", some, |table| table.replace(3, &[9; 5]));
    whole_at_every_instruction("updating", some, |table| table.update(3, |old| old.map(|old| [old[0]; 6])));
    whole_at_every_instruction("fragments", some, |table| {
        table.write_blocks(3, Announced::Removal, |fragment| match fragment {
            Some(mut fragment) => {
                (0..fragment.len()).for_each(|at| fragment.set(at, 4).expect("inside"));
                Answer::CONTINUE
            }
            None => Answer::remove(Step::Stop),
        })
    });
}

fn removing() {
    whole_at_every_instruction("a word", some, |table| table.remove(1).map(drop));
    whole_at_every_instruction("uncovering", some, |table| table.remove(2).map(drop));
    whole_at_every_instruction("some", some, |table| table.retain(|key, _| key % 2 == 0).map(drop));
    whole_at_every_instruction("all", some, |table| table.clear());
}

fn a_group() {
    whole_at_every_instruction("a group", some, |table| {
        table.group(|group| {
            group.replace(1, &[4; 3])?;
            group.remove(3)?;
            let failed: Result<(), TableError> = group.group(|group| {
                group.add(5, &[])?;
                Err(TableError::FormatFull)
            });
            assert!(failed.is_err());
            group.add(6, &[6])
        })
    });
}

/// With real locks and a real death: the next one gets the lock, mends the table and goes on.
fn whoever_is_killed_is_replaced() {
    let act: Act = |table| {
        table.group(|group| {
            group.add(3, &[1; 7])?;
            group.replace(2, &[5])
        })
    };
    let mut happened = 0;
    let mut at = 100;
    loop {
        let name = Fresh::<PosixShm>::name();
        let table = create(&name, some);
        let before = contents(&table);
        let stepped = Stepped::start(&name, act);
        let ended = !(0..at).all(|_| stepped.step());
        stepped.child.kill(9).unwrap();
        assert!(matches!(stepped.child.wait().unwrap(), Exit::Signal { signal: 9, .. }));
        let found = contents(&table);
        if found != before {
            assert!(found[&3] == [vec![1; 7], vec![7; 5], vec![3; 3]] && found[&2] == [vec![5], vec![2; 2]]);
            happened += 1;
        }
        table.add(10, &[10]).unwrap();
        assert_eq!(table.check().unwrap(), []);
        assert_eq!(held::kinds(&name), [""; 0]);
        if ended {
            assert!(happened > 0);
            break;
        }
        // Few enough to be quick, and never at a multiple of anything.
        at += at / 3 + 7;
    }
}
