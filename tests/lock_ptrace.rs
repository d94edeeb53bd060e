//! A process may die after any machine instruction of locking and unlocking: whoever lives gets the lock, and the words
//! in the object are as new.
//!
//! A child is stepped through a way to use the lock, instruction by instruction, and killed after the first, the
//! second, ... of them; the parent, which may hold the lock or wait for it, goes on. A program without the test harness:
//! it forks.

use std::collections::BTreeMap;
use std::time::Duration;

use manycore::lock::futex::AREA;
use manycore::lock::{Guard, LockError, LockMethod, Mode, Wait};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, ChildProcess};
use manycore::{Fork, Futex, PosixShm, ShmBackend};
use manycore_backends::testing::shm::Fresh;
use manycore_backends::testing::{TestCase, run_tests};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

type ForkedChild = ChildProcess;

fn main() {
    let quick: &[TestCase] = &[
        ("death_while_writing", || everywhere("writing", None, write)),
        ("death_while_upgrading", || everywhere("upgrading", None, upgrade)),
        ("death_while_following_a_dead_writer", || everywhere("following a writer", None, follow_a_writer)),
    ];
    let thorough: &[TestCase] = &[
        ("death_while_reading", || everywhere("reading", None, read)),
        ("death_while_downgrading", || everywhere("downgrading", None, downgrade)),
        ("death_while_waiting_to_write", || everywhere("waiting to write", Some(Mode::Write), wait_to_write)),
        ("death_while_waiting_to_read", || everywhere("waiting to read", Some(Mode::Write), wait_to_read)),
        ("death_while_waiting_for_readers", || {
            everywhere("waiting for readers", Some(Mode::Read), wait_to_write);
        }),
        ("death_while_counting_out_a_dead_reader", || everywhere("counting out", None, count_out_a_reader)),
        ("death_while_the_lock_is_used_first", || everywhere("first use", None, first_use)),
    ];
    // An unoptimised program has many times as many instructions; elsewhere than on this machine a loop of
    // load-exclusive and store-exclusive never ends when it is stepped through.
    run_tests(&match (cfg!(target_arch = "x86_64"), cfg!(debug_assertions)) {
        (false, _) => vec![],
        (true, true) => quick.to_vec(),
        (true, false) => [quick, thorough].concat(),
    });
}

/// What the child has: the object, and its lock, which it has used before.
struct Context {
    object: PosixShm,
    lock: Futex,
}

type Act = fn(&Context);

const LIMIT: Wait = Wait::AtMost(Duration::from_millis(2));

fn lock(context: &Context, mode: Mode, wait: Wait) -> Result<Guard<'_, PosixShm, Futex>, LockError> {
    Guard::lock(&context.lock, &context.object, mode, wait)
}

fn write(context: &Context) {
    drop(lock(context, Mode::Write, Wait::Forever).unwrap());
}

fn read(context: &Context) {
    drop(lock(context, Mode::Read, Wait::Forever).unwrap());
}

fn upgrade(context: &Context) {
    lock(context, Mode::Read, Wait::Forever).unwrap().upgrade(Wait::Forever).unwrap();
}

fn downgrade(context: &Context) {
    lock(context, Mode::Write, Wait::Forever).unwrap().downgrade().unwrap();
}

fn wait_to_write(context: &Context) {
    assert!(matches!(lock(context, Mode::Write, LIMIT), Err(LockError::TimedOut)));
}

fn wait_to_read(context: &Context) {
    assert!(matches!(lock(context, Mode::Read, LIMIT), Err(LockError::TimedOut)));
}

/// There is a dead writer.
fn follow_a_writer(context: &Context) {
    drop(lock(context, Mode::Write, Wait::Try).unwrap());
}

/// There is a dead reader.
fn count_out_a_reader(context: &Context) {
    let guard = lock(context, Mode::Write, Wait::Try).unwrap();
    drop(guard);
}

/// How somebody is to have died inside before the act.
fn dead_before(act: Act) -> Option<Mode> {
    let is = |other: Act| std::ptr::fn_addr_eq(act, other);
    match () {
        () if is(follow_a_writer) => Some(Mode::Write),
        () if is(count_out_a_reader) => Some(Mode::Read),
        () => None,
    }
}

fn first_use(context: &Context) {
    let other = <Futex as LockMethod<PosixShm>>::attach(&context.object).unwrap();
    drop(Guard::lock(&other, &context.object, Mode::Write, Wait::Forever).unwrap());
}

/// Begins a child that stops before and after `act`.
fn start(name: &std::ffi::OsStr, act: Act) -> (ForkedChild, Pid) {
    let name = name.to_owned();
    let run = move || {
        let object = PosixShm::open(&name, Open::Existing).unwrap();
        let lock = <Futex as LockMethod<PosixShm>>::attach(&object).unwrap();
        let context = Context { object, lock };
        // What is done once in a thread need not be stepped through, unless it is what this is about.
        if !std::ptr::fn_addr_eq(act, first_use as Act) {
            let used = context.lock.lock(&context.object, Mode::Read, Wait::Try);
            if used.is_ok() {
                context.lock.unlock(&context.object).unwrap();
            }
        }
        ptrace::traceme().unwrap();
        raise(Signal::SIGSTOP).unwrap();
        act(&context);
        raise(Signal::SIGSTOP).unwrap();
        0
    };
    let child = Fork.fork(&[], run).expect("this process has one thread");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    (child, pid)
}

/// Does one instruction; `false` at the second stop.
fn step(pid: Pid) -> bool {
    ptrace::step(pid, None).unwrap();
    match waitpid(pid, None).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
        WaitStatus::Stopped(_, Signal::SIGSTOP) => false,
        status => panic!("{status:?}"),
    }
}

/// A process that locks the object and dies.
fn die_inside(name: &std::ffi::OsStr, mode: Mode) {
    let name = name.to_owned();
    let run = move || {
        let object = PosixShm::open(&name, Open::Existing).unwrap();
        let lock = <Futex as LockMethod<PosixShm>>::attach(&object).unwrap();
        lock.lock(&object, mode, Wait::Forever).unwrap();
        raise(Signal::SIGKILL).unwrap();
        unreachable!("it is dead")
    };
    let child = Fork.fork(&[], run).expect("this process has one thread");
    child.wait().unwrap();
}

/// After how many instructions a child is to be killed: after each, but of those that are done again and again (a loop
/// that spins) after the first times only.
fn moments(pid: Pid) -> Vec<u32> {
    let mut done = BTreeMap::new();
    let mut moments = vec![0];
    for at in 1.. {
        if !step(pid) {
            // The one that has ended, too.
            moments.push(at);
            break;
        }
        let times = done.entry(instruction(pid)).or_insert(0);
        *times += 1;
        if *times <= 2 {
            moments.push(at);
        }
    }
    if cfg!(debug_assertions) {
        // An unoptimised program has many times as many instructions: some of them.
        let last = moments.len() - 1;
        moments = (0..5).map(|number| moments[last * number / 5]).collect();
    }
    moments
}

#[cfg(target_arch = "x86_64")]
fn instruction(pid: Pid) -> u64 {
    ptrace::getregs(pid).unwrap().rip
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction(_: Pid) -> u64 {
    unreachable!("no test is run here")
}

/// Kills a child after each instruction of `act`, while this process holds the lock in the mode of `held`.
fn everywhere(what: &str, held: Option<Mode>, act: Act) {
    // The first child is looked at only.
    let mut todo: Option<Vec<u32>> = None;
    let mut deaths = 0;
    while todo.as_ref().is_none_or(|todo| !todo.is_empty()) {
        let name = Fresh::<PosixShm>::name();
        let object = PosixShm::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
        object.grow(4096).unwrap();
        let lock = <Futex as LockMethod<PosixShm>>::attach(&object).unwrap();
        drop(Guard::lock(&lock, &object, Mode::Write, Wait::Forever).unwrap());
        let (child, pid) = start(&name, act);
        if let Some(mode) = dead_before(act) {
            die_inside(&name, mode);
        }
        let guard = held.map(|mode| Guard::lock(&lock, &object, mode, Wait::Forever).unwrap());
        let at = match &mut todo {
            Some(todo) => {
                let at = todo.pop().expect("it is not empty");
                let _ = (0..at).all(|_| step(pid));
                at
            }
            None => {
                todo = Some(moments(pid));
                0
            }
        };
        child.kill(9).unwrap();
        child.wait().unwrap();
        drop(guard);
        // Generous, because nothing here may depend on speed; a lock that hangs takes longer.
        let after = Guard::lock(&lock, &object, Mode::Write, Wait::AtMost(Duration::from_secs(20)));
        drop(after.unwrap_or_else(|error| panic!("{what}: {error} after a death at instruction {at}")));
        drop(Guard::lock(&lock, &object, Mode::Write, Wait::Try).unwrap());
        let word = |at: usize| object.memory().load(AREA.start + at).unwrap();
        assert_eq!(word(0), 0, "{what}: the lock word after a death at instruction {at}");
        assert!((16..48).all(|row| word(row) == 0), "{what}: readers after a death at instruction {at}");
        deaths += 1;
    }
    println!("  {what}: {deaths} deaths");
}
