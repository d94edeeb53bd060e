//! Starting and joining workers against what the system asks for the same: ratios are what counts, and only
//! those within one run.
//!
//! | line | what it does |
//! |---|---|
//! | `fork` | fork, exit, wait for the end by pidfd: the floor |
//! | `worker` | a worker starts another and joins it, by way of the master, CBOR both ways |
//! | `run` | a whole run: a link, a worker, its result, the end |

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use manycore::spawn::{Child, Fork};
use manycore::{Runtime, Worker};

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

/// Starts and joins `rounds` workers one after the other, and tells how long that took.
const SEQUENCE: Worker<u64, Duration> = Worker::fallible("sequence", |context, rounds| {
    let start = Instant::now();
    for number in 0..rounds {
        let worker = context.start(&SQUARE, number)?;
        assert_eq!(context.join(worker)?, number * number);
    }
    Ok(start.elapsed())
});

/// The same, a hundred at a time.
const HUNDREDS: Worker<u64, Duration> = Worker::fallible("hundreds", |context, rounds| {
    let start = Instant::now();
    let mut left = rounds;
    while left > 0 {
        let count = left.min(100);
        let workers =
            (0..count).map(|number| context.start(&SQUARE, number)).collect::<Result<Vec<_>, _>>()?;
        for worker in workers {
            context.join(worker)?;
        }
        left -= count;
    }
    Ok(start.elapsed())
});

fn start_and_join(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start and join");
    group.sample_size(20);
    group.bench_function("fork", |bencher| {
        bencher.iter(|| Fork.fork(&[], || 0).unwrap().wait().unwrap());
    });
    let run =
        |first: &Worker<u64, Duration>, rounds| Runtime::new().with(&SQUARE).run(first, rounds).unwrap();
    group.bench_function("worker", |bencher| bencher.iter_custom(|rounds| run(&SEQUENCE, rounds)));
    group.bench_function("worker, 100 at a time", |bencher| {
        bencher.iter_custom(|rounds| run(&HUNDREDS, rounds));
    });
    group.bench_function("run", |bencher| {
        bencher.iter(|| Runtime::new().run(&SQUARE, 7).unwrap());
    });
    group.finish();
}

criterion_group!(benches, start_and_join);
criterion_main!(benches);
