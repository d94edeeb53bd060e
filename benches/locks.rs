//! Pairs of locking and unlocking, by one process: ours beside a robust mutex of the C library in shared memory, and
//! beside bare system calls. Two processes at once, and the targets, are in the bench `table_targets` (section `locks`);
//! this one is for comparing a change with the state before (`-- --save-baseline before`).

use std::ffi::OsStr;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use manycore::lock::{Guard, LockMethod, Mode, Wait};
use manycore::shm::{ShmBackend, create_unique};
use manycore::{Fcntl, Futex, NoLock, Ofd, PosixShm};
use manycore_backends::testing::anchor::{RobustMutex, record_pair};

fn object() -> PosixShm {
    let object: PosixShm = create_unique(OsStr::new("/manycore-bench-lock-XXXXXX"), 0o600).unwrap();
    object.grow(8192).unwrap();
    PosixShm::unlink(object.name()).unwrap();
    object
}

fn pairs<L: LockMethod<PosixShm>>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str) {
    let object = object();
    let lock = L::attach(&object).unwrap();
    for (mode, what) in [(Mode::Write, "write"), (Mode::Read, "read")] {
        group.bench_function(format!("{name}, {what}"), |bencher| {
            bencher.iter(|| drop(Guard::lock(&lock, &object, mode, Wait::Forever).unwrap()));
        });
    }
    group.bench_function(format!("{name}, write, down, up"), |bencher| {
        bencher.iter(|| {
            let mut guard = Guard::lock(&lock, &object, Mode::Write, Wait::Forever).unwrap();
            guard.downgrade().unwrap();
            guard.upgrade(Wait::Forever).unwrap();
        });
    });
}

fn uncontended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended pair");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mutex = RobustMutex::new();
    group.bench_function("anchor: robust mutex", |bencher| bencher.iter(|| mutex.pair()));
    pairs::<Futex>(&mut group, "Futex");
    let object = object();
    group.bench_function("anchor: F_SETLKW", |bencher| bencher.iter(|| record_pair(&object, false)));
    pairs::<Fcntl>(&mut group, "Fcntl");
    group.bench_function("anchor: F_OFD_SETLKW", |bencher| bencher.iter(|| record_pair(&object, true)));
    pairs::<Ofd>(&mut group, "Ofd");
    pairs::<NoLock>(&mut group, "NoLock");
    group.finish();
}

criterion_group!(benches, uncontended);
criterion_main!(benches);
