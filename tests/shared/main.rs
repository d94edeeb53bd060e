//! What lives in shared memory beside tables: queues, mutexes, conditions, semaphores and permits.
//!
//! A program without the test harness: it forks. `MANYCORE_TORTURE_SECONDS` (default 3) is how long users are killed at
//! random instants.

mod condvar;
mod deaths;
mod mutex;
mod opening;
mod permits;
mod queue;
mod schedules;
mod semaphore;
mod torture;

use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::{File, Fork, Heap, PosixShm};
use manycore_backends::testing::{TestCase, run_tests};

fn main() {
    let mut tests = Vec::new();
    for room in [opening::all, queue::all, semaphore::all, permits::all, mutex::all, condvar::all] {
        tests.extend(room());
    }
    tests.extend(deaths::all());
    tests.extend(schedules::all());
    tests.extend(torture::all());
    run_tests(&tests);
}

/// The same test over each backend.
macro_rules! over_all {
    ($($test:ident),* $(,)?) => {
        vec![$(
            (concat!(module_path!(), "::", stringify!($test), " (PosixShm)"), $test::<manycore::PosixShm> as fn()),
            (concat!(module_path!(), "::", stringify!($test), " (File)"), $test::<manycore::File> as fn()),
            (concat!(module_path!(), "::", stringify!($test), " (Heap)"), $test::<manycore::Heap> as fn()),
        )*]
    };
}

/// A test that needs several processes.
macro_rules! of_processes {
    ($($test:ident),* $(,)?) => {
        vec![$((concat!(module_path!(), "::", stringify!($test)), $test as fn())),*]
    };
}

pub(crate) use {of_processes, over_all};

/// A backend of these tests.
pub(crate) trait Room:
    manycore_backends::testing::shm::Subject + manycore::lock::FutexLockable
{
}

impl Room for PosixShm {}
impl Room for File {}
impl Room for Heap {}

pub(crate) type Tests = Vec<TestCase>;

/// Runs `body` in a child; it must not fail.
pub(crate) fn in_child(body: impl FnOnce() + Send + 'static) {
    assert_eq!(child(body).wait().unwrap(), Exit::Code(0));
}

pub(crate) fn child(body: impl FnOnce() + Send + 'static) -> ChildProcess {
    let run = move || {
        body();
        0
    };
    Fork.fork(&[], run).expect("this process has one thread")
}
