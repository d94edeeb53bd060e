//! The laws of [`LockMethod`], as tests: [`all`] those that every method keeps; then those that some keep only,
//! [`of_cycles`], [`of_threads_of_processes`] and [`closing_the_file_does_not_release`].

mod agent;
mod together;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use super::TestCase;
use super::shm::{Fresh, Subject};
use crate::lock::{Guard, LockError, LockMethod, Mode, Wait};
use crate::shm::Open;
use crate::spawn::{Child, Exit, Fork};
use crate::sync::global::{AtomicBool, Ordering};

const NEW: Open = Open::CreateNew { mode: 0o600 };

pub use together::{closing_the_file_does_not_release, of_cycles, of_threads_of_processes};

/// The laws of a method that locks, between threads and between processes. The caller runs them one after the other in
/// a single-threaded program: some of them fork.
pub fn all<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    let own: Vec<TestCase> = vec![
        ("other_handles_do_not_release", other_handles_do_not_release::<B, L>),
        ("a_writer_excludes_other_processes", a_writer_excludes_other_processes::<B, L>),
        ("readers_share_between_processes", readers_share_between_processes::<B, L>),
        ("death_releases", death_releases::<B, L>),
        ("a_child_holds_nothing_and_is_refused", a_child_holds_nothing_and_is_refused::<B, L>),
    ];
    [of_threads::<B, L>(), own, together::of_processes::<B, L>()].concat()
}

/// The laws of a method that locks objects of one process.
pub fn of_threads<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    let own: Vec<TestCase> = vec![
        ("a_writer_excludes_other_threads", a_writer_excludes_other_threads::<B, L>),
        ("readers_share_and_exclude_writers", readers_share_and_exclude_writers::<B, L>),
        ("second_requests_of_a_thread_never_hang", second_requests_of_a_thread_never_hang::<B, L>),
        ("a_timeout_waits_at_least_so_long", a_timeout_waits_at_least_so_long::<B, L>),
        ("a_waiter_gets_the_lock_when_it_is_released", a_waiter_gets_the_lock_when_it_is_released::<B, L>),
        ("increments_by_threads_are_not_lost", increments_by_threads_are_not_lost::<B, L>),
        ("busy_threads_starve_nobody", busy_threads_starve_nobody::<B, L>),
        ("unlocking_what_is_not_held_is_refused", unlocking_what_is_not_held_is_refused::<B, L>),
    ];
    [own, together::of_threads::<B, L>()].concat()
}

fn object<B: Subject, L: LockMethod<B>>() -> (Fresh<B>, B, L) {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(4096).unwrap();
    let method = L::attach(&object).unwrap();
    (name, object, method)
}

/// Opens the object as another process would, and says whether the lock can be had.
fn can_lock<B: Subject, L: LockMethod<B>>(name: &OsStr, mode: Mode) -> bool {
    let object = B::open(name, Open::Existing).unwrap();
    let method = L::attach(&object).unwrap();
    match Guard::lock(&method, &object, mode, Wait::Try) {
        Ok(_) => true,
        Err(LockError::Busy) => false,
        Err(error) => panic!("{error}"),
    }
}

/// The same, asked in a forked child.
fn another_process_can_lock<B: Subject, L: LockMethod<B>>(name: &Fresh<B>, mode: Mode) -> bool {
    let name = name.to_os_string();
    let child = Fork.fork(&[], move || can_lock::<B, L>(&name, mode) as i32).unwrap();
    match child.wait().unwrap() {
        Exit::Code(code @ (0 | 1)) => code == 1,
        exit => panic!("the other process {exit}"),
    }
}

/// The same, asked by another thread.
fn another_thread_can_lock<B: Subject, L: LockMethod<B>>(name: &Fresh<B>, mode: Mode) -> bool {
    std::thread::scope(|scope| scope.spawn(|| can_lock::<B, L>(name, mode)).join().unwrap())
}

/// Law 1.
pub fn a_writer_excludes_other_threads<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
    assert!(!another_thread_can_lock::<B, L>(&name, Mode::Write));
    assert!(!another_thread_can_lock::<B, L>(&name, Mode::Read));
    drop(guard);
    assert!(another_thread_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 2.
pub fn readers_share_and_exclude_writers<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let guard = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    assert!(another_thread_can_lock::<B, L>(&name, Mode::Read));
    assert!(!another_thread_can_lock::<B, L>(&name, Mode::Write));
    drop(guard);
    assert!(another_thread_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 2.
pub fn readers_share_between_processes<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let guard = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    assert!(another_process_can_lock::<B, L>(&name, Mode::Read));
    assert!(!another_process_can_lock::<B, L>(&name, Mode::Write));
    drop(guard);
    assert!(another_process_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 3.
pub fn second_requests_of_a_thread_never_hang<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let refused = |mode| match method.lock(&object, mode, Wait::Forever) {
        Err(LockError::LockedByCaller) => {}
        other => panic!("{other:?}"),
    };
    let write = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
    refused(Mode::Write);
    refused(Mode::Read);
    drop(write);
    let read = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    refused(Mode::Write);
    let again = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    drop(read);
    assert!(!another_thread_can_lock::<B, L>(&name, Mode::Write), "held once more");
    drop(again);
    assert!(another_thread_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 4.
pub fn a_timeout_waits_at_least_so_long<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let limit = Duration::from_millis(30);
    let attempt = &|mode| {
        let object = B::open(&name, Open::Existing).unwrap();
        let method = L::attach(&object).unwrap();
        let start = Instant::now();
        let result = method.lock(&object, mode, Wait::AtMost(limit));
        assert!(matches!(result, Err(LockError::TimedOut)), "{result:?}");
        assert!(start.elapsed() >= limit);
        let result = method.lock(&object, mode, Wait::AtMost(Duration::ZERO));
        assert!(matches!(result, Err(LockError::TimedOut)), "{result:?}");
    };
    let guard = Guard::lock(&method, &object, Mode::Write, Wait::AtMost(Duration::MAX)).unwrap();
    std::thread::scope(|scope| {
        let threads = [Mode::Read, Mode::Write].map(|mode| scope.spawn(move || attempt(mode)));
        let _ = threads.map(|thread| thread.join().unwrap());
    });
    drop(guard);
    assert!(another_thread_can_lock::<B, L>(&name, Mode::Write), "those who gave up hold nothing");
}

/// Law 4.
pub fn a_waiter_gets_the_lock_when_it_is_released<B: Subject, L: LockMethod<B>>() {
    let (_name, object, method) = object::<B, L>();
    for wait in [Wait::Forever, Wait::AtMost(Duration::from_secs(3600))] {
        for mode in [Mode::Read, Mode::Write] {
            let guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
            std::thread::scope(|scope| {
                let (about_to, started) = mpsc::channel();
                let (object, method) = (&object, &method);
                let waiter = scope.spawn(move || {
                    about_to.send(()).unwrap();
                    drop(Guard::lock(method, object, mode, wait).unwrap());
                });
                started.recv().unwrap();
                drop(guard);
                waiter.join().unwrap();
            });
        }
    }
}

/// Law 1, under load.
pub fn increments_by_threads_are_not_lost<B: Subject, L: LockMethod<B>>() {
    use crate::shm::Memory;
    let (name, object, _method) = object::<B, L>();
    std::thread::scope(|scope| {
        let increment = || {
            let object = B::open(&name, Open::Existing).unwrap();
            let method = L::attach(&object).unwrap();
            for _ in 0..500 {
                let _guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
                let value = object.memory().load(0).unwrap();
                object.memory().store(0, value + 1).unwrap();
            }
        };
        let threads = [(); 4].map(|()| scope.spawn(increment));
        let _ = threads.map(|thread| thread.join().unwrap());
    });
    assert_eq!(object.memory().load(0), Ok(2000));
}

/// Law 4: who waits for ever gets the lock in the end, also beside threads that take it again and again. (The
/// test does not end if not.)
pub fn busy_threads_starve_nobody<B: Subject, L: LockMethod<B>>() {
    let (_name, object, method) = object::<B, L>();
    for (busy, patient) in [(Mode::Write, Mode::Read), (Mode::Read, Mode::Write), (Mode::Write, Mode::Write)]
    {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let work = || {
                while !done.load(Ordering::Relaxed) {
                    drop(Guard::lock(&method, &object, busy, Wait::Forever).unwrap());
                }
            };
            let threads = [(); 3].map(|()| scope.spawn(work));
            let wait = || {
                for _ in 0..10 {
                    drop(Guard::lock(&method, &object, patient, Wait::Forever).unwrap());
                }
            };
            scope.spawn(wait).join().unwrap();
            done.store(true, Ordering::Relaxed);
            let _ = threads.map(|thread| thread.join().unwrap());
        });
    }
}

/// Law 9.
pub fn unlocking_what_is_not_held_is_refused<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    assert!(matches!(method.unlock(&object), Err(LockError::NotHeld)));
    let guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| assert!(matches!(method.unlock(&object), Err(LockError::NotHeld))));
        stranger.join().unwrap();
    });
    assert!(!another_thread_can_lock::<B, L>(&name, Mode::Read));
    drop(guard);
}

/// Law 6: a process loses its record locks when it closes any descriptor of the file.
pub fn other_handles_do_not_release<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
    drop(B::open(&name, Open::Existing).unwrap());
    let second = B::open(&name, Open::Create { mode: 0o600 }).unwrap();
    drop(L::attach(&second).unwrap());
    drop(second);
    assert!(B::open(&name, NEW).is_err());
    assert!(!another_process_can_lock::<B, L>(&name, Mode::Read));
    drop(guard);
    assert!(another_process_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 1.
pub fn a_writer_excludes_other_processes<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
    assert!(!another_process_can_lock::<B, L>(&name, Mode::Write));
    assert!(!another_process_can_lock::<B, L>(&name, Mode::Read));
    drop(guard);
    assert!(another_process_can_lock::<B, L>(&name, Mode::Write));
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn wait_for_byte(fd: &OwnedFd) {
    assert_eq!(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut [0; 1][..])).unwrap(), 1);
}

fn write_byte(fd: &OwnedFd) {
    assert_eq!(rustix::io::write(fd, b".").unwrap(), 1);
}

/// Law 5.
pub fn death_releases<B: Subject, L: LockMethod<B>>() {
    let (name, _object, _method) = object::<B, L>();
    let (held, holds) = pipe();
    let child = {
        let (name, holds) = (name.to_os_string(), Arc::new(holds));
        let kept = Arc::clone(&holds);
        let run = move || {
            let object = B::open(&name, Open::Existing).unwrap();
            let method = L::attach(&object).unwrap();
            let _guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
            write_byte(&kept);
            loop {
                std::thread::park();
            }
        };
        Fork.fork(&[holds.as_fd()], run).unwrap()
    };
    wait_for_byte(&held);
    assert!(!can_lock::<B, L>(&name, Mode::Read));
    child.kill(9).unwrap();
    assert!(matches!(child.wait().unwrap(), Exit::Signal { signal: 9, .. }));
    assert!(can_lock::<B, L>(&name, Mode::Write));
}

/// Law 8.
pub fn a_child_holds_nothing_and_is_refused<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let (object, method) = (Arc::new(object), Arc::new(method));
    let guard = Guard::lock(&*method, &*object, Mode::Write, Wait::Forever).unwrap();
    let child = {
        let (name, object, method) = (name.to_os_string(), Arc::clone(&object), Arc::clone(&method));
        let run = move || {
            let refused = matches!(method.lock(&object, Mode::Read, Wait::Forever), Err(LockError::Forked))
                && matches!(method.unlock(&object), Err(LockError::Forked));
            (refused && !can_lock::<B, L>(&name, Mode::Read)) as i32
        };
        Fork.fork(&[], run).unwrap()
    };
    assert_eq!(child.wait().unwrap(), Exit::Code(1));
    assert!(!another_process_can_lock::<B, L>(&name, Mode::Read), "the child released the parent's lock");
    drop(guard);
}
