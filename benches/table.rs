//! The table against an in-process hash map behind a lock, which is what a program of threads would use: ratios
//! are what counts, and only those within one run.
//!
//! Keys are a random permutation, values one word, operations single with their lock unless the name says
//! `group`. The lines of one benchmark group belong together: `anchor` is `hashbrown` behind
//! `parking_lot::RwLock`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use manycore::{Fcntl, Heap, LockMethod, NoLock, PosixShm, ShmBackend, ShmTable, TableError, TableOptions};
use parking_lot::RwLock;

const SIZES: [usize; 2] = [1_000, 100_000];

/// Distinct keys in no order.
fn keys(count: usize) -> Vec<i32> {
    (0..count as u32).map(|number| number.wrapping_mul(0x9E37_79B1) as i32).collect()
}

struct Scratch<B: ShmBackend, L: LockMethod<B>>(ShmTable<B, L>);

impl<B: ShmBackend, L: LockMethod<B>> Scratch<B, L> {
    fn empty() -> Self {
        Scratch(TableOptions::new().create_unique("/manycore-bench-XXXXXX").unwrap())
    }

    fn filled(keys: &[i32]) -> Self {
        let table = Self::empty();
        table.0.group(|group| keys.iter().try_for_each(|key| group.add(*key, &[*key]))).unwrap();
        table
    }
}

impl<B: ShmBackend, L: LockMethod<B>> Drop for Scratch<B, L> {
    fn drop(&mut self) {
        let _ = self.0.unlink();
    }
}

fn anchor(keys: &[i32]) -> RwLock<HashMap<i32, Vec<i32>>> {
    RwLock::new(keys.iter().map(|key| (*key, vec![*key])).collect())
}

/// Calls `operation` with one key after the other, round and round.
fn cycle(bencher: &mut criterion::Bencher<'_>, keys: &[i32], mut operation: impl FnMut(i32)) {
    let mut next = 0;
    bencher.iter(|| {
        operation(keys[next]);
        next = if next + 1 == keys.len() { 0 } else { next + 1 };
    });
}

fn lookups(criterion: &mut Criterion) {
    for size in SIZES {
        let all = keys(2 * size);
        let (present, absent) = all.split_at(size);
        let map = anchor(present);
        let unlocked = Scratch::<Heap, NoLock>::filled(present);
        let locked = Scratch::<PosixShm, Fcntl>::filled(present);
        for (name, wanted) in [("hit", present), ("miss", absent)] {
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new("anchor", size), |bencher| {
                cycle(bencher, wanted, |key| drop(black_box(map.read().get(&key).cloned())));
            });
            group.bench_function(BenchmarkId::new("NoLock", size), |bencher| {
                cycle(bencher, wanted, |key| drop(black_box(unlocked.0.find(key).unwrap())));
            });
            group.bench_function(BenchmarkId::new("Fcntl", size), |bencher| {
                cycle(bencher, wanted, |key| drop(black_box(locked.0.find(key).unwrap())));
            });
            group.finish();
        }
    }
}

fn changes(criterion: &mut Criterion) {
    for size in SIZES {
        let keys = keys(size);
        let map = anchor(&keys);
        let unlocked = Scratch::<Heap, NoLock>::filled(&keys);
        let locked = Scratch::<PosixShm, Fcntl>::filled(&keys);
        let mut group = criterion.benchmark_group("replace");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("anchor", size), |bencher| {
            cycle(bencher, &keys, |key| drop(map.write().insert(key, vec![!key])));
        });
        group.bench_function(BenchmarkId::new("NoLock", size), |bencher| {
            cycle(bencher, &keys, |key| unlocked.0.replace(key, &[!key]).unwrap());
        });
        group.bench_function(BenchmarkId::new("Fcntl", size), |bencher| {
            cycle(bencher, &keys, |key| locked.0.replace(key, &[!key]).unwrap());
        });
        group.bench_function(BenchmarkId::new("Fcntl group", size), |bencher| {
            bencher.iter_custom(|rounds| grouped(rounds, &locked.0, &keys));
        });
        group.finish();
    }
}

/// Replaces in groups of a thousand.
fn grouped<B: ShmBackend, L: LockMethod<B>>(rounds: u64, table: &ShmTable<B, L>, keys: &[i32]) -> Duration {
    let start = Instant::now();
    let mut left = rounds as usize;
    let mut next = keys.iter().cycle();
    while left > 0 {
        let count = left.min(1000);
        table
            .group(|group| {
                next.by_ref().take(count).try_for_each(|key| group.replace(*key, &[!*key]))?;
                Ok::<_, TableError>(())
            })
            .unwrap();
        left -= count;
    }
    start.elapsed()
}

/// Inserting all keys into an empty table that grows, and removing them again; per key.
fn growth(criterion: &mut Criterion) {
    for size in SIZES {
        let keys = keys(size);
        let mut group = criterion.benchmark_group("insert and remove all");
        group.throughput(Throughput::Elements(size as u64)).sample_size(10);
        group.bench_function(BenchmarkId::new("anchor", size), |bencher| {
            bencher.iter(|| {
                let map = RwLock::new(HashMap::new());
                keys.iter().for_each(|key| drop(map.write().insert(*key, vec![*key])));
                keys.iter().for_each(|key| drop(map.write().remove(key)));
            });
        });
        group.bench_function(BenchmarkId::new("NoLock", size), |bencher| {
            bencher.iter(|| {
                let table = Scratch::<Heap, NoLock>::empty();
                keys.iter().for_each(|key| table.0.add(*key, &[*key]).unwrap());
                keys.iter().for_each(|key| assert!(table.0.remove(*key).unwrap()));
            });
        });
        group.bench_function(BenchmarkId::new("Fcntl", size), |bencher| {
            bencher.iter(|| {
                let table = Scratch::<PosixShm, Fcntl>::empty();
                keys.iter().for_each(|key| table.0.add(*key, &[*key]).unwrap());
                keys.iter().for_each(|key| assert!(table.0.remove(*key).unwrap()));
            });
        });
        group.finish();
    }
}

fn iteration(criterion: &mut Criterion) {
    for size in SIZES {
        let keys = keys(size);
        let map = anchor(&keys);
        let table = Scratch::<PosixShm, Fcntl>::filled(&keys);
        let mut group = criterion.benchmark_group("iterate");
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("anchor", size), |bencher| {
            bencher
                .iter(|| map.read().iter().map(|(key, value)| *key as i64 + value.len() as i64).sum::<i64>());
        });
        group.bench_function(BenchmarkId::new("Fcntl", size), |bencher| {
            bencher.iter(|| {
                table.0.fold(0, |sum, key, value| sum + i64::from(key) + value.len() as i64).unwrap()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, lookups, changes, growth, iteration);
criterion_main!(benches);
