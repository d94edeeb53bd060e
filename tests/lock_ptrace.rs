//! A process may die after any machine instruction of locking and unlocking: whoever lives gets the lock, and the words
//! in the object are as new.
//!
//! A child is stepped through a way to use the lock, instruction by instruction; others are killed after the first, the
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

/// When a child is to be killed: before it does this instruction for the first, second, ... time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    instruction: u64,
    times: u32,
    /// How many were done before.
    after: u32,
}

/// Steps a child through its act; the last moment is when it has ended. Instructions that are done again and again (a loop
/// that spins) have a moment for the first times only.
fn moments(pid: Pid) -> Vec<Moment> {
    let mut done = BTreeMap::new();
    let mut moments = vec![Moment { instruction: 0, times: 0, after: 0 }];
    let mut after = 0;
    while step(pid) {
        after += 1;
        let instruction = instruction(pid);
        let times = done.entry(instruction).or_insert(0);
        *times += 1;
        if *times <= 2 {
            moments.push(Moment { instruction, times: *times, after });
        }
    }
    // Never, so that it comes to its end.
    moments.push(Moment { instruction: 0, times: u32::MAX, after });
    if cfg!(debug_assertions) {
        // An unoptimised program has many times as many instructions: some of them.
        let last = moments.len() - 1;
        moments = (0..5).map(|number| moments[last * number / 4]).collect();
    }
    moments
}

/// Has a child run until this moment; `false` if it came to its end before. By a breakpoint of the processor, since steps take microseconds
/// each, and a loop that spins has thousands.
fn run_until(pid: Pid, moment: Moment) -> bool {
    if set_breakpoint(pid, moment.instruction).is_err() {
        // There are processors, and systems on systems, without.
        return (0..moment.after).all(|_| step(pid));
    }
    for _ in 0..moment.times {
        ptrace::cont(pid, None).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => assert_eq!(instruction(pid), moment.instruction),
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return false,
            status => panic!("{status:?}"),
        }
    }
    true
}

#[cfg(target_arch = "x86_64")]
fn set_breakpoint(pid: Pid, instruction: u64) -> nix::Result<()> {
    let register = |number: usize| {
        let at = std::mem::offset_of!(libc::user, u_debugreg) + number * size_of::<u64>();
        std::ptr::without_provenance_mut(at)
    };
    ptrace::write_user(pid, register(0), i64::try_from(instruction).unwrap())?;
    // The address in register 0, for this process, when it is to be executed.
    ptrace::write_user(pid, register(7), 1)
}

#[cfg(target_arch = "x86_64")]
fn instruction(pid: Pid) -> u64 {
    ptrace::getregs(pid).unwrap().rip
}

#[cfg(not(target_arch = "x86_64"))]
fn set_breakpoint(_: Pid, _: u64) -> nix::Result<()> {
    unreachable!("no test is run here")
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction(_: Pid) -> u64 {
    unreachable!("no test is run here")
}

/// Kills a child after each instruction of `act`, while this process holds the lock in the mode of `held`.
fn everywhere(what: &str, held: Option<Mode>, act: Act) {
    // The first child is looked at only.
    let mut todo: Option<Vec<Moment>> = None;
    let (mut deaths, mut ends) = (0, 0);
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
                let moment = todo.pop().expect("it is not empty");
                let is_there = run_until(pid, moment);
                ends += u32::from(!is_there);
                moment.after
            }
            None => {
                let found = moments(pid);
                let after = found.last().map_or(0, |last| last.after);
                todo = Some(found);
                after
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
    println!("  {what}: {deaths} deaths, {ends} of them at the end");
    // Where there is time in it, no two runs are the same.
    assert!(ends < deaths / 2, "most children were not killed where they should be");
}
