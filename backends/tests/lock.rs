//! Every lock method keeps the laws of `LockMethod` on every backend that it works on.

use manycore_backends::lock::{LockError, LockMethod, Mode, Protocol, Wait};
use manycore_backends::shm::Open;
use manycore_backends::testing::lock::{
    all, closing_the_file_does_not_release, of_cycles, of_threads, of_threads_of_processes,
};
use manycore_backends::testing::shm::Fresh;
use manycore_backends::testing::{TestCase, run_tests};
use manycore_backends::{Fcntl, File, Futex, Heap, NoLock, Ofd, PosixShm, ShmBackend};

fn main() {
    let own = vec![("no_lock_excludes_nobody_and_notices_asking_twice", no_lock as fn())];
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
