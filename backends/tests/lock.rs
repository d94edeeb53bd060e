//! Every lock method keeps the laws of `LockMethod` on every backend that it works on.

use std::ffi::OsStr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use manycore_backends::lock::futex::AREA;
use manycore_backends::lock::{Guard, LockError, LockMethod, Mode, Protocol, Wait};
use manycore_backends::shm::{Memory, Open};
use manycore_backends::spawn::{Child, Exit};
use manycore_backends::testing::lock::{
    all, closing_the_file_does_not_release, of_cycles, of_threads, of_threads_of_processes,
};
use manycore_backends::testing::shm::{Fresh, Subject};
use manycore_backends::testing::{TestCase, run_tests};
use manycore_backends::{Fcntl, File, Fork, Futex, Heap, NoLock, Ofd, PosixShm, ShmBackend};

fn main() {
    let own = vec![
        ("no_lock_excludes_nobody_and_notices_asking_twice", no_lock as fn()),
        ("futex_notices_a_death_beside_those_who_come_and_go", futex_notices_a_death_beside_others),
        ("futex_lets_those_in_who_never_sleep_when_a_holder_died", futex_lets_in_who_never_sleeps),
        ("futex_keeps_nobody_out_who_is_woken_too_late_each_time", futex_is_fair_between_processes),
        ("whatever_lock_words_contain_nobody_hangs", scribbled::<Heap>),
        ("whatever_shared_lock_words_contain_nobody_hangs", scribbled::<PosixShm>),
        ("nobody_waits_for_a_reader_who_is_about_to_come_in", about_to_come_in::<Fcntl>),
        ("nobody_waits_for_a_futex_reader_who_is_about_to_come_in", about_to_come_in::<Futex>),
    ];
    let closing: Vec<TestCase> = vec![
        ("closing_the_file_does_not_release_a_futex", closing_the_file_does_not_release::<PosixShm, Futex>),
        ("closing_the_file_does_not_release_an_ofd_lock", closing_the_file_does_not_release::<File, Ofd>),
    ];
    run_tests(
        &[
            own,
            closing,
            all::<PosixShm, Futex>(),
            of_cycles::<PosixShm, Futex>(),
            of_threads_of_processes::<PosixShm, Futex>(),
            all::<File, Futex>(),
            of_cycles::<File, Futex>(),
            of_threads_of_processes::<File, Futex>(),
            of_threads::<Heap, Futex>(),
            all::<PosixShm, Fcntl>(),
            of_cycles::<PosixShm, Fcntl>(),
            all::<File, Fcntl>(),
            of_cycles::<File, Fcntl>(),
            all::<PosixShm, Ofd>(),
            all::<File, Ofd>(),
        ]
        .concat(),
    );
}

fn open(name: &OsStr) -> (PosixShm, Futex) {
    let object = PosixShm::open(name, Open::Existing).unwrap();
    let method = Futex::attach(&object).unwrap();
    (object, method)
}

/// A word of the objects that counts how often something was done.
const DONE: usize = 0;

/// A new object, and what `others` do with it in processes of their own, until they are killed. Each is begun when the
/// one before sleeps, for ever or again and again.
fn beside<const N: usize>(
    others: [fn(&PosixShm, &Futex); N],
) -> (Fresh<PosixShm>, PosixShm, Futex, [impl Child; N]) {
    let name = Fresh::<PosixShm>::name();
    PosixShm::open(&name, Open::CreateNew { mode: 0o600 }).unwrap().grow(4096).unwrap();
    let children = others.map(|other| {
        let child = begin(&name, other);
        wait_until_asleep(&child);
        child
    });
    let (object, method) = open(&name);
    (name, object, method, children)
}

fn begin(name: &OsStr, act: fn(&PosixShm, &Futex)) -> impl Child + use<> {
    let name = name.to_owned();
    let run = move || {
        let (object, method) = open(&name);
        act(&object, &method);
        0
    };
    Fork.fork(&[], run).unwrap()
}

fn wait_until_asleep(child: &impl Child) {
    let path = format!("/proc/{}/stat", child.id());
    let sleeps =
        |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'));
    while !std::fs::read_to_string(&path).is_ok_and(sleeps) {
        std::thread::yield_now();
    }
}

fn kill(child: &impl Child) {
    child.kill(9).unwrap();
    assert!(matches!(child.wait().unwrap(), Exit::Signal { signal: 9, .. }));
}

fn hold(object: &PosixShm, method: &Futex, mode: Mode) {
    let _guard = Guard::lock(method, object, mode, Wait::Forever).unwrap();
    loop {
        std::thread::park();
    }
}

/// Law 5. The waiter is woken all the time, by a reader that takes back its mark. (The test does not end if that keeps it
/// from noticing the death.)
fn futex_notices_a_death_beside_others() {
    /// The bit of the lock word that says that a writer waits for readers to go.
    const DRAINING: u32 = 1 << 20;
    let poll = |object: &PosixShm, method: &Futex| {
        loop {
            drop(Guard::lock(method, object, Mode::Read, Wait::Try));
        }
    };
    let wait = |object: &PosixShm, method: &Futex| {
        drop(Guard::lock(method, object, Mode::Write, Wait::Forever).unwrap());
    };
    let (name, object, _method, [holder]) = beside([|object, method| hold(object, method, Mode::Read)]);
    let (waiter, poller) = (begin(&name, wait), begin(&name, poll));
    while object.memory().load(AREA.start).unwrap() & DRAINING == 0 {
        std::thread::yield_now();
    }
    kill(&holder);
    assert_eq!(waiter.wait().unwrap(), Exit::Code(0));
    kill(&poller);
}

/// Law 5, of those who ask with no time to wait.
fn futex_lets_in_who_never_sleeps() {
    let (_name, object, method, [holder]) = beside([|object, method| hold(object, method, Mode::Write)]);
    let attempt = || method.lock(&object, Mode::Write, Wait::AtMost(Duration::ZERO));
    assert!(matches!(attempt(), Err(LockError::TimedOut)));
    kill(&holder);
    attempt().unwrap();
}

/// Law 11. Whoever waits is woken each time, and each time the lock is taken again before it gets there: it never
/// sleeps for long, and yet waits for long. It may be overtaken some times, but not by the thousand.
fn futex_is_fair_between_processes() {
    let work = |object: &PosixShm, method: &Futex| {
        loop {
            let _guard = Guard::lock(method, object, Mode::Write, Wait::Forever).unwrap();
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(300) {
                std::hint::spin_loop();
            }
            object.memory().store(DONE, object.memory().load(DONE).unwrap() + 1).unwrap();
        }
    };
    let (name, object, method, []) = beside([]);
    let worker = begin(&name, work);
    let done = || object.memory().load(DONE).unwrap();
    let mut overtaken = 0;
    for mode in [Mode::Read, Mode::Write].repeat(25) {
        let before = done();
        while done() < before + 5 {
            std::thread::yield_now();
        }
        let before = done();
        let guard = Guard::lock(&method, &object, mode, Wait::Forever).unwrap();
        overtaken += done() - before;
        drop(guard);
    }
    kill(&worker);
    assert!(overtaken < 5000, "{overtaken}");
}

/// Somebody wrote anything into the words by which an object is locked. All that they name are dead, or this thread.
fn scribbled<B: Subject>()
where
    Futex: LockMethod<B>,
{
    // What takes time is waiting for owners that are not there: so several at once, each with an object of its own.
    std::thread::scope(|scope| {
        for density in 0..6 {
            scope.spawn(move || scribbled_as_densely::<B>(density));
        }
    });
}

/// With words that have fewer bits the larger `density` is; 0 has all of them.
fn scribbled_as_densely<B: Subject>(density: u32)
where
    Futex: LockMethod<B>,
{
    let name = Fresh::<B>::name();
    let object = B::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    object.grow(4096).unwrap();
    let method = <Futex as LockMethod<B>>::attach(&object).unwrap();
    let lock = |mode, wait| Guard::lock(&method, &object, mode, wait).unwrap();
    let mut random = density + 1;
    for _ in 0..10 {
        for at in AREA {
            let mut word = u32::MAX;
            for _ in 0..density {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                word &= random ^ random >> 16;
            }
            object.memory().store(at, word).unwrap();
        }
        for _ in 0..2 {
            drop(lock(Mode::Write, Wait::Forever));
            let mut guard = lock(Mode::Read, Wait::Try);
            guard.upgrade(Wait::Forever).unwrap();
            guard.downgrade().unwrap();
        }
        assert_eq!(object.memory().load(AREA.start), Ok(0));
    }
}

/// Law 7. Two wait to read; of these the first that comes in asks for what the other has, which is about to come in, too,
/// and will not wait for the first.
fn about_to_come_in<L: LockMethod<PosixShm>>() {
    let make = || {
        let name = Fresh::<PosixShm>::name();
        let object = PosixShm::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
        object.grow(4096).unwrap();
        let method = L::attach(&object).unwrap();
        (name, object, method)
    };
    let ((_, read, reading), (_, written, writing)) = (&make(), &make());
    let (read, written) = (
        |mode| Guard::lock(reading, read, mode, Wait::Forever),
        || Guard::lock(writing, written, Mode::Write, Wait::Forever),
    );
    for _ in 0..200 {
        let first = read(Mode::Write).unwrap();
        let ready = Barrier::new(3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _written = written().unwrap();
                ready.wait();
                drop(read(Mode::Read).unwrap());
            });
            scope.spawn(|| {
                ready.wait();
                let _read = read(Mode::Read).unwrap();
                drop(written().unwrap());
            });
            ready.wait();
            (0..100).for_each(|_| std::thread::yield_now());
            drop(first);
        });
    }
}

fn no_lock() {
    let name = Fresh::<Heap>::name();
    let object = Heap::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    let attach = || <NoLock as LockMethod<Heap>>::attach(&object).unwrap();
    let (one, other) = (attach(), attach());
    let lock = |method: &NoLock, mode| method.lock(&object, mode, Wait::Forever);
    for mode in [Mode::Read, Mode::Write] {
        lock(&one, mode).unwrap();
        lock(&other, Mode::Write).unwrap();
        assert!(matches!(lock(&one, Mode::Write), Err(LockError::LockedByCaller)));
        one.unlock(&object).unwrap();
        other.unlock(&object).unwrap();
        assert!(matches!(one.unlock(&object), Err(LockError::NotHeld)));
    }
    lock(&one, Mode::Read).unwrap();
    lock(&one, Mode::Read).unwrap();
    one.unlock(&object).unwrap();
    assert!(matches!(lock(&one, Mode::Write), Err(LockError::LockedByCaller)));
    one.unlock(&object).unwrap();
    lock(&one, Mode::Write).unwrap();
    assert!(matches!(lock(&one, Mode::Read), Err(LockError::LockedByCaller)));
    one.unlock(&object).unwrap();
    assert_eq!(<NoLock as LockMethod<Heap>>::PROTOCOL, Protocol::NONE);
}
