//! Every lock method keeps the laws of `LockMethod` on every backend that it works on.

use manycore_backends::lock::{LockMethod, Mode, Protocol, Wait};
use manycore_backends::shm::Open;
use manycore_backends::testing::lock::all;
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::Fresh;
use manycore_backends::{Fcntl, File, Heap, NoLock, PosixShm, ShmBackend};

fn main() {
    let own = vec![("no_lock_grants_everything", no_lock_grants_everything as fn())];
    run_tests(&[all::<PosixShm, Fcntl>(), all::<File, Fcntl>(), own].concat());
}

fn no_lock_grants_everything() {
    let name = Fresh::<Heap>::name();
    let object = Heap::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    let method = <NoLock as LockMethod<Heap>>::attach(&object).unwrap();
    for mode in [Mode::Read, Mode::Write, Mode::Write] {
        method.lock(&object, mode, Wait::Forever).unwrap();
    }
    method.unlock(&object).unwrap();
    assert_eq!(<NoLock as LockMethod<Heap>>::PROTOCOL, Protocol::NONE);
}
