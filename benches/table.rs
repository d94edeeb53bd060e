//! The table against an in-process hash map behind a lock, which is what a program of threads would use: ratios
//! are what counts, and only those within one run. Whether they keep their targets tells the bench
//! `table_targets`; this one is for comparing a change with the state before (`-- --save-baseline before`).
//!
//! Keys are a random permutation, operations single with their lock unless the name says otherwise. The lines of
//! one benchmark group belong together: `anchor` is `hashbrown` behind `parking_lot::RwLock`.

#[allow(dead_code, reason = "the bench `table_targets` uses the rest")]
#[path = "table_targets/store.rs"]
mod store;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    Bencher, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};

use store::{Subject, keys, shuffled};

/// Keys, and words of each value.
const CASES: [(usize, usize); 4] = [(1_000, 1), (100_000, 1), (1_000_000, 1), (100_000, 64)];
/// Keys in a group.
const GROUP: usize = 1000;

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    (size, words): (usize, usize),
    elements: usize,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("{name}/{size} keys of {words}"));
    group.throughput(Throughput::Elements(elements as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

fn name(subject: Subject) -> BenchmarkId {
    BenchmarkId::from_parameter(subject.name())
}

/// Calls `operation` with one item after the other, round and round.
fn cycle<T>(bencher: &mut Bencher<'_>, items: &[T], mut operation: impl FnMut(&T)) {
    let mut items = items.iter().cycle();
    bencher.iter(|| operation(items.next().expect("there are some")));
}

/// What leaves the keys as they are.
fn visits(criterion: &mut Criterion) {
    for case in CASES {
        let (size, words) = case;
        let all = keys(2 * size);
        let (present, absent) = all.split_at(size);
        let order = shuffled(present);
        let groups: Vec<&[i32]> = order.chunks(GROUP).collect();
        let mut value = vec![7; words];
        let mut buffer = Vec::new();
        let stores = Subject::ALL.map(|subject| (subject, subject.empty()));
        for (_, store) in &stores {
            present.chunks(GROUP).for_each(|keys| store.add_group(keys, &mut value));
        }

        let mut hit = group(criterion, "hit, find", case, 1);
        for (subject, store) in &stores {
            let find = |key: &i32| drop(black_box(store.find(*key).unwrap()));
            hit.bench_function(name(*subject), |bencher| cycle(bencher, &order, find));
        }
        hit.finish();
        let mut hit = group(criterion, "hit, find_into", case, 1);
        for (subject, store) in &stores {
            let mut find = |key: &i32| assert!(store.find_into(*key, &mut buffer));
            hit.bench_function(name(*subject), |bencher| cycle(bencher, &order, &mut find));
        }
        hit.finish();
        let mut miss = group(criterion, "miss", case, 1);
        for (subject, store) in &stores {
            let find = |key: &i32| assert!(store.find(*key).is_none());
            miss.bench_function(name(*subject), |bencher| cycle(bencher, absent, find));
        }
        miss.finish();
        let mut hits = group(criterion, "hit, groups of 1000", case, GROUP);
        for (subject, store) in &stores {
            let mut find = |keys: &&[i32]| assert_eq!(store.find_group(keys, &mut buffer), GROUP);
            hits.bench_function(name(*subject), |bencher| cycle(bencher, &groups, &mut find));
        }
        hits.finish();
        let mut hits = group(criterion, "get_many of 1000", case, GROUP);
        for (subject, store) in &stores {
            let show = |keys: &&[i32]| {
                black_box(store.find_many(keys));
            };
            hits.bench_function(name(*subject), |bencher| cycle(bencher, &groups, show));
        }
        hits.finish();
        let mut iterate = group(criterion, "iterate", case, size);
        for (subject, store) in &stores {
            iterate.bench_function(name(*subject), |bencher| bencher.iter(|| store.sum()));
        }
        iterate.finish();
        let mut replace = group(criterion, "replace", case, 1);
        for (subject, store) in &stores {
            let mut replacement = |key: &i32| {
                value[0] = !*key;
                store.replace(*key, &value);
            };
            replace.bench_function(name(*subject), |bencher| cycle(bencher, &order, &mut replacement));
        }
        replace.finish();
    }
}

/// Inserting all keys into an empty table that grows, and removing them again; per key.
fn growth(criterion: &mut Criterion) {
    for case in CASES {
        let (size, words) = case;
        let keys = keys(size);
        let order = shuffled(&keys);
        let mut value = vec![7; words];
        let mut single = group(criterion, "insert and remove all", case, size);
        for subject in Subject::ALL {
            let mut life = || {
                let store = subject.empty();
                let start = Instant::now();
                for key in &keys {
                    value[0] = *key;
                    store.add(*key, &value);
                }
                order.iter().for_each(|key| assert!(store.remove(*key)));
                start.elapsed()
            };
            single.bench_function(name(subject), |bencher| lives(bencher, &mut life));
        }
        single.finish();
        let mut grouped = group(criterion, "insert all, groups of 1000", case, size);
        for subject in Subject::ALL {
            let mut life = || {
                let store = subject.empty();
                let start = Instant::now();
                keys.chunks(GROUP).for_each(|keys| store.add_group(keys, &mut value));
                start.elapsed()
            };
            grouped.bench_function(name(subject), |bencher| lives(bencher, &mut life));
        }
        grouped.finish();
    }
}

/// Counts what `life` says it took, without making and dropping the table.
fn lives(bencher: &mut Bencher<'_>, mut life: impl FnMut() -> Duration) {
    bencher.iter_custom(|rounds| (0..rounds).map(|_| life()).sum());
}

criterion_group!(benches, visits, growth);
criterion_main!(benches);
