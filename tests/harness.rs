//! In tests of the standard harness, which has threads, programs of many processes run as the program run anew, and as
//! threads, several at once.

use manycore::spawn::SpawnError;
use manycore::{Execed, Failure, Platform, RunError, Runtime, Threaded, Worker, Workers};

fn workers() -> Workers {
    Workers::new().with(&SQUARE).with(&SUM).with(&PROCESS)
}

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

const SUM: Worker<u64, u64> = Worker::fallible("sum", |context, count| {
    let workers = (1..=count).map(|number| context.start(&SQUARE, number)).collect::<Result<Vec<_>, _>>()?;
    workers.into_iter().map(|worker| Ok::<u64, Failure>(context.join(worker)?)).sum()
});

const PROCESS: Worker<(), u32> = Worker::new("process", |_, ()| std::process::id());

/// Where the process of a worker comes in.
#[test]
fn entry() {
    workers().enter_by_test::<Execed>("entry");
}

fn sum<P: Platform>() {
    workers().enter_by_test::<P>("entry");
    for _ in 0..5 {
        assert_eq!(Runtime::<P>::default().with_all(&workers()).run(&SUM, 10).unwrap(), 385);
    }
    let mut pool = Runtime::<P>::default().with_all(&workers()).pool(&SQUARE).workers(2);
    assert!(pool.map(0..1000).unwrap().into_iter().eq((0..1000).map(|number| number * number)));
}

#[test]
fn workers_are_the_test_program_run_anew() {
    sum::<Execed>();
    let process = Runtime::<Execed>::default().with_all(&workers()).run(&PROCESS, ()).unwrap();
    assert_ne!(process, std::process::id());
}

#[test]
fn several_programs_run_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(sum::<Execed>);
            scope.spawn(sum::<Threaded>);
        }
    });
}

#[test]
fn workers_are_threads() {
    sum::<Threaded>();
    let process = Runtime::<Threaded>::default().run(&PROCESS, ()).unwrap();
    assert_eq!(process, std::process::id());
}

#[test]
fn forking_is_refused_and_the_way_out_is_named() {
    let error = Runtime::new().run(&SQUARE, 1).unwrap_err();
    assert!(matches!(error, RunError::Spawn(SpawnError::MultiThreaded { .. })), "{error}");
    assert!(error.to_string().contains("`Exec`"), "{error}");
}
