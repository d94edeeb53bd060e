//! A pool does each task once, or says why not: in order or as results come, on processes and on threads, with workers that
//! panic, fail, exit and are killed; and leaves nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use manycore::poll::{Event, Interest, PollError, Ready, Source};
use manycore::{
    Execed, Failure, Fork, Forked, Futex, JoinError, Platform, Poll, Poller, Polysocket, Pool, PoolError,
    PosixShm, Progress, Ring, RunError, Runtime, Socket, Thread, With, Worker, Workers,
};
use manycore_backends::testing::{TestCase, run_tests};
use serde::{Deserialize, Serialize};

#[path = "census/mod.rs"]
mod census;
#[path = "platforms/mod.rs"]
mod platforms;
use census::leaving_nothing;
use platforms::on_all_platforms;

fn main() {
    workers().enter::<Execed>();
    let mut tests: Vec<TestCase> = on_all_platforms! {
        results_come_in_the_order_of_the_arguments
        results_come_each_once_as_they_come
        results_come_in_order_and_not_all_at_once
        nothing_to_do_starts_nobody
        a_map_ends_with_the_first_failure
        a_broken_off_map_is_followed_by_another
        each_failure_is_told_and_the_others_go_on
        failed_tasks_are_tried_again_by_another
        what_cannot_succeed_is_not_tried_again
        a_killed_worker_is_replaced
        a_worker_that_dies_takes_its_batch_along
        large_arguments_and_results_go_through
        arguments_that_cannot_be_sent_are_told
        tasks_can_start_workers
        progress_is_told
        the_iterator_is_asked_only_as_far_as_there_is_room
        a_task_may_be_done_by_any_worker
        a_pool_whose_workers_cannot_start_says_so
        a_result_that_cannot_be_read_hides_no_other
        an_argument_that_is_not_all_read_hides_no_other
        no_room_at_all_is_an_error
        who_dies_between_two_maps_fails_nothing
        there_are_no_more_members_than_workers_may_run
    };
    tests.push(("forked::who_breaks_the_protocol_is_named", who_breaks_the_protocol_is_named::<Forked>));
    tests.push(("execed::who_breaks_the_protocol_is_named", who_breaks_the_protocol_is_named::<Execed>));
    macro_rules! on_rings {
        ($($test:ident)*) => { $(tests.push((concat!("rings::", stringify!($test)), $test::<OnRings>));)* };
    }
    on_rings! {
        results_come_in_the_order_of_the_arguments
        results_come_each_once_as_they_come
        each_failure_is_told_and_the_others_go_on
        a_killed_worker_is_replaced
        a_worker_that_dies_takes_its_batch_along
        large_arguments_and_results_go_through
        tasks_can_start_workers
    }
    tests.push(("a_poller_that_refuses_leaves_nobody", a_poller_that_refuses_leaves_nobody));
    run_tests(&tests);
}

/// Forked processes whose small messages go through shared memory.
type OnRings = With<PosixShm, Futex, Poll, Ring, Fork>;

fn workers() -> Workers {
    Workers::new()
        .with(&SQUARE)
        .with(&CLUMSY)
        .with(&HOPELESS)
        .with(&ECHO)
        .with(&STARTS)
        .with(&WHO)
        .with(&FLAKY)
        .with(&SUICIDAL)
        .with(&DEEP)
        .with(&LAZY)
        .with(&TALKS_NONSENSE)
        .with(&NUMBER)
        .with(&LINGERS)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::<P>::default().with_all(&workers())
}

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

fn results_come_in_the_order_of_the_arguments<P: Platform>() {
    leaving_nothing(|| {
        for workers in [1, 2, 5] {
            for batch in [0, 1, 7] {
                let mut pool = runtime::<P>().pool(&SQUARE).workers(workers).batch(batch);
                for count in [1, 2, 100, 5000] {
                    let squares = pool.map(0..count).unwrap();
                    assert!(squares.into_iter().eq((0..count).map(|number| number * number)));
                }
            }
        }
    });
}

fn results_come_each_once_as_they_come<P: Platform>() {
    leaving_nothing(|| {
        let mut seen = BTreeSet::new();
        let mut pool = runtime::<P>().pool(&SQUARE).workers(3);
        pool.each(0..10_000, |index, square| {
            assert_eq!(square.unwrap(), (index * index) as u64);
            assert!(seen.insert(index));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen.len(), 10_000);
    });
}

fn results_come_in_order_and_not_all_at_once<P: Platform>() {
    leaving_nothing(|| {
        let mut next = 0;
        let taken = Cell::new(0);
        let arguments = (0..200_000_u64).inspect(|_| taken.set(taken.get() + 1));
        runtime::<P>()
            .pool(&SQUARE)
            .workers(2)
            .each_in_order(arguments, |index, square| {
                assert_eq!((index, square.unwrap()), (next, (next * next) as u64));
                next += 1;
                assert!(taken.get() - next <= 1 << 16);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(next, 200_000);
    });
}

fn nothing_to_do_starts_nobody<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().worker_limit(0).pool(&SQUARE);
        assert_eq!(pool.map([]).unwrap(), []);
        assert_eq!(pool.map(std::iter::empty()).unwrap(), []);
        drop(runtime::<P>().pool(&SQUARE));
    });
}

/// Does what the number says: 0 panics, 1 fails, 2 exits, and all others give one less.
const CLUMSY: Worker<u64, u64> = Worker::fallible("clumsy", |context, number| match number {
    0 => panic!("zero"),
    1 => Err(Failure::new("one")),
    2 => context.exit(2),
    more => Ok(more - 1),
});

fn a_map_ends_with_the_first_failure<P: Platform>() {
    leaving_nothing(|| {
        for (bad, told) in [(0, "panicked"), (1, "failed: one"), (2, "exited with code 2")] {
            let mut pool = runtime::<P>().pool(&CLUMSY).workers(2).batch(1);
            let error = pool.map([10, 11, 12, bad, 13, 14]).unwrap_err();
            assert!(matches!(error, PoolError::Task { index: 3, .. }), "{error}");
            assert!(error.to_string().contains(told), "{error}");
            // The pool goes on.
            assert_eq!(pool.map([10, 11]).unwrap(), [9, 10]);
        }
    });
}

fn a_broken_off_map_is_followed_by_another<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().pool(&SQUARE).workers(3);
        for round in 0..20_u64 {
            let mut count = 0;
            pool.each(round.., |index, square| {
                assert_eq!(square.unwrap(), (round + index as u64).pow(2));
                count += 1;
                if count == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            assert_eq!(count, 100);
        }
        assert_eq!(pool.map(3..6).unwrap(), [9, 16, 25]);
        // When the next one begins, the only worker has no room: it has told of a part of its batch only.
        let mut pool = runtime::<P>().pool(&LINGERS).workers(1).batch(4);
        pool.each(0..8, |_, _| ControlFlow::Break(())).unwrap();
        assert_eq!(pool.map([0, 1]).unwrap().len(), 2);
    });
}

/// Has large results, and takes its time for the last of four.
const LINGERS: Worker<u32, String> = Worker::new("lingers", |_, number| {
    if number == 3 {
        for _ in 0..100_000 {
            std::thread::yield_now();
        }
    }
    "x".repeat(400_000)
});

fn each_failure_is_told_and_the_others_go_on<P: Platform>() {
    leaving_nothing(|| {
        for batch in [0, 1, 4] {
            let arguments: Vec<u64> =
                (0..300).map(|number| if number % 50 < 3 { number % 50 } else { number }).collect();
            let mut lost = 0;
            let mut seen = BTreeSet::new();
            let mut pool = runtime::<P>().pool(&CLUMSY).workers(2).batch(batch);
            pool.each(arguments.iter().copied(), |index, result| {
                assert!(seen.insert(index));
                match (arguments[index], result) {
                    (0, Err(JoinError::Panicked { message, worker, .. })) => {
                        assert_eq!((message.as_str(), worker.name.as_str()), ("zero", "clumsy"));
                        assert_ne!(worker.process, 0);
                    }
                    (1, Err(JoinError::Failed { message, .. })) => assert_eq!(message, "one"),
                    (2, Err(JoinError::Exited { code: 2, .. })) => {}
                    (number, Ok(less)) => assert_eq!(less, number - 1),
                    // Those that shared a batch with one whose worker has died.
                    (_, Err(JoinError::Exited { code: 2, .. })) => lost += 1,
                    (number, other) => panic!("{number}: {other:?}"),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(seen.len(), 300);
            assert!(batch != 1 || lost == 0, "{lost}");
        }
    });
}

/// Fails in some way, but not for a worker that has done another task before.
const FLAKY: Worker<(u32, u64), u64> = Worker::fallible("flaky", |context, (which, seed)| {
    // Each worker has its own number; tasks fail with every worker of an even one.
    if context.number() % 2 == 0 {
        match which % 3 {
            0 => panic!("flaky"),
            1 => return Err(Failure::new("flaky")),
            _ => context.exit(1),
        }
    }
    Ok(seed)
});

fn failed_tasks_are_tried_again_by_another<P: Platform>() {
    leaving_nothing(|| {
        for batch in [0, 1, 3] {
            let last = Arc::new(Mutex::new(Progress::default()));
            let told = Arc::clone(&last);
            let mut pool = runtime::<P>()
                .pool(&FLAKY)
                .workers(2)
                .retries(1000)
                .batch(batch)
                .on_progress(move |progress| *told.lock().unwrap() = progress);
            let results = pool.map((0..60).map(|number| (number, u64::from(number)))).unwrap();
            assert!(results.into_iter().eq(0..60));
            let last = *last.lock().unwrap();
            assert_eq!((last.done, last.failed, last.total), (60, 0, Some(60)));
            assert!(last.retried > 0, "{last:?}");
        }
        // Once more is not enough where nobody can do it.
        let error = runtime::<P>().pool(&CLUMSY).workers(2).retries(2).map([5, 1]).unwrap_err();
        assert!(matches!(error, PoolError::Task { index: 1, error: JoinError::Failed { .. } }), "{error}");
    });
}

/// Has results that are too big.
const HOPELESS: Worker<usize, String> = Worker::new("hopeless", |_, size| "x".repeat(size));

fn what_cannot_succeed_is_not_tried_again<P: Platform>() {
    leaving_nothing(|| {
        let retried = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&retried);
        let mut pool = runtime::<P>()
            .message_limit(1000)
            .pool(&HOPELESS)
            .retries(5)
            .on_progress(move |progress| told.store(progress.retried, Ordering::Relaxed));
        let mut lengths = Vec::new();
        pool.each_in_order([10, 2000, 20, 997, 998], |_, result| {
            lengths.push(match result {
                Ok(text) => Ok(text.len()),
                Err(JoinError::TooBig { size, limit, .. }) => Err((size, limit)),
                Err(other) => panic!("{other}"),
            });
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(lengths, [Ok(10), Err((2003, 1000)), Ok(20), Ok(997), Err((1001, 1000))]);
        assert_eq!(retried.load(Ordering::Relaxed), 0);
    });
}

/// Kills itself, at the first try.
const SUICIDAL: Worker<(u64, u64), u64> = Worker::fallible("suicidal", |context, (first, number)| {
    if context.number() < first {
        let mut bytes = Vec::new();
        ciborium::into_writer(&context.number(), &mut bytes)?;
        let own: manycore::WorkerId<u64> = ciborium::from_reader(&bytes[..])?;
        context.signal(own, 9)?;
        // A process may be told that it was signalled before it is.
        loop {
            context.should_stop();
        }
    }
    Ok(number)
});

fn a_killed_worker_is_replaced<P: Platform>() {
    leaving_nothing(|| {
        // The first four workers die.
        let mut pool = runtime::<P>().pool(&SUICIDAL).workers(2).retries(4).batch(1);
        let results = pool.map((0..20).map(|number| (4, number))).unwrap();
        assert!(results.into_iter().eq(0..20));
        let mut pool = runtime::<P>().pool(&SUICIDAL).workers(2).batch(1);
        let mut killed = 0;
        pool.each((0..20).map(|number| (4, number)), |index, result| {
            match result {
                Ok(number) => assert_eq!(number, index as u64),
                Err(JoinError::Killed { signal: 9, .. }) => killed += 1,
                Err(other) => panic!("{other}"),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(killed, 4);
    });
}

fn a_worker_that_dies_takes_its_batch_along<P: Platform>() {
    leaving_nothing(|| {
        let told = RefCell::new(Vec::new());
        let mut pool = runtime::<P>().pool(&CLUMSY).workers(1).batch(5);
        pool.each_in_order([10, 11, 2, 12, 13, 14, 15, 16, 17, 18], |_, result| {
            told.borrow_mut().push(result.is_ok());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(told.into_inner(), [[false; 5], [true; 5]].concat());
    });
}

const ECHO: Worker<Vec<u8>, Vec<u8>> = Worker::new("echo", |_, bytes| bytes);

fn large_arguments_and_results_go_through<P: Platform>() {
    leaving_nothing(|| {
        let text = |size: usize| (0..size).map(|at| at as u8).collect::<Vec<u8>>();
        // Encoded, the large ones are more than what travels in one piece.
        let sizes = [0, 1, 700_000, 100, 300_000, 7, 400_000, 0];
        let mut pool = runtime::<P>().pool(&ECHO).workers(2);
        for batch in [0, 4] {
            pool = pool.batch(batch);
            let echoes = pool.map(sizes.iter().map(|size| text(*size))).unwrap();
            assert!(echoes.iter().map(Vec::len).eq(sizes));
            assert_eq!(echoes[2], text(700_000));
        }
    });
}

fn arguments_that_cannot_be_sent_are_told<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().message_limit(1000).pool(&ECHO);
        let error = pool.map([vec![1], vec![2; 2000]]).unwrap_err();
        assert!(matches!(error, PoolError::Argument { index: 1, .. }), "{error}");
        assert_eq!(pool.map([vec![1], vec![2; 400], vec![3; 400], vec![4; 400]]).unwrap().len(), 4);
    });
}

const STARTS: Worker<u64, u64> = Worker::fallible("starts", |context, number| {
    let worker = context.start(&SQUARE, number)?;
    Ok(context.join(worker)? + 1)
});

fn tasks_can_start_workers<P: Platform>() {
    leaving_nothing(|| {
        let results = runtime::<P>().pool(&STARTS).workers(2).map(0..30).unwrap();
        assert!(results.into_iter().eq((0..30).map(|number| number * number + 1)));
    });
}

fn progress_is_told<P: Platform>() {
    leaving_nothing(|| {
        let all = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&all);
        let mut pool = runtime::<P>()
            .pool(&SQUARE)
            .workers(2)
            .batch(1)
            .on_progress(move |now| told.lock().unwrap().push(now));
        pool.map(0..50).unwrap();
        let all = all.lock().unwrap();
        assert!(all.is_sorted_by_key(|progress| progress.done));
        let last = all.last().unwrap();
        assert_eq!((last.done, last.failed, last.retried, last.replaced), (50, 0, 0, 0));
        assert!(all.iter().all(|progress| progress.total == Some(50)));
    });
}

fn the_iterator_is_asked_only_as_far_as_there_is_room<P: Platform>() {
    leaving_nothing(|| {
        let taken = Rc::new(Cell::new(0));
        let count = Rc::clone(&taken);
        let mut done = 0;
        let mut pool = runtime::<P>().pool(&SQUARE).workers(2).batch(1);
        pool.each((0..).inspect(|_| count.set(count.get() + 1)), |_, _| {
            done += 1;
            // Two workers, with 256 tasks under way each.
            assert!(taken.get() <= done + 2 * 256, "{} {done}", taken.get());
            if done == 1000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    });
}

const WHO: Worker<(), u64> = Worker::new("who", |context, ()| context.number());

fn a_task_may_be_done_by_any_worker<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().pool(&WHO).workers(3).batch(1);
        let who: BTreeSet<u64> = pool.map(std::iter::repeat_n((), 3)).unwrap().into_iter().collect();
        assert!(who.iter().all(|number| *number < 3));
        // They stay.
        let who: BTreeSet<u64> = pool.map(std::iter::repeat_n((), 3000)).unwrap().into_iter().collect();
        assert!(who.iter().all(|number| *number < 3), "{who:?}");
    });
}

fn a_pool_whose_workers_cannot_start_says_so<P: Platform>() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    manycore_backends::testing::spawn::in_a_unit(|| {
        let mut pool = runtime::<P>().pool(&SQUARE).workers(100);
        setrlimit(Resource::Nofile, Rlimit { current: Some(5), maximum: Some(40) }).unwrap();
        let error = pool.map(0..10).unwrap_err();
        assert!(matches!(error, PoolError::Run(RunError::Poll(_) | RunError::Directory(_))), "{error:?}");
        setrlimit(Resource::Nofile, Rlimit { current: Some(25), maximum: Some(40) }).unwrap();
        // Not all of them can start, but some.
        assert_eq!(pool.map(0..1000).unwrap().len(), 1000);
    });
}

/// As deep as it is told; 128 levels can be read.
#[derive(Debug, Serialize, Deserialize)]
struct Nest(Vec<Nest>);

fn depth(nest: &Nest) -> usize {
    1 + nest.0.iter().map(depth).max().unwrap_or(0)
}

const DEEP: Worker<usize, Nest> =
    Worker::new("deep", |_, depth| (1..depth).fold(Nest(Vec::new()), |nest, _| Nest(vec![nest])));

fn a_result_that_cannot_be_read_hides_no_other<P: Platform>() {
    leaving_nothing(|| {
        let depths = [3, 200, 5, 6, 7, 8];
        let mut pool = runtime::<P>().pool(&DEEP).workers(1).batch(10);
        let mut told = Vec::new();
        pool.each_in_order(depths, |_, nest| {
            told.push(nest.map(|nest| depth(&nest)));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(matches!(told[1], Err(JoinError::WrongType { .. })), "{told:?}");
        for (told, asked) in told.iter().zip(depths).filter(|(told, _)| told.is_ok()) {
            assert_eq!(*told, Ok(asked));
        }
        assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 5);
    });
}

/// Reads less than it has written.
#[derive(Debug)]
struct Lazy(u64);

impl Serialize for Lazy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0, 1).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Lazy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lazy, D::Error> {
        <(u64,)>::deserialize(deserializer).map(|(number,)| Lazy(number))
    }
}

const LAZY: Worker<Lazy, u64> = Worker::new("lazy", |_, lazy| lazy.0);

fn an_argument_that_is_not_all_read_hides_no_other<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().pool(&LAZY).workers(1).batch(10);
        let mut bad = 0;
        pool.each((0..6).map(Lazy), |_, result| {
            bad += usize::from(matches!(result, Err(JoinError::BadArgument { .. })));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(bad, 6);
    });
}

fn no_room_at_all_is_an_error<P: Platform>() {
    leaving_nothing(|| {
        let error = runtime::<P>().message_limit(0).pool(&SQUARE).map([1]).unwrap_err();
        assert!(matches!(error, PoolError::Argument { index: 0, .. }), "{error}");
    });
}

const NUMBER: Worker<u64, (u64, u32)> =
    Worker::new("number", |context, _| (context.number(), std::process::id()));

fn who_dies_between_two_maps_fails_nothing<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().pool(&NUMBER).workers(1);
        let (_, process) = pool.map([0]).unwrap()[0];
        if process != std::process::id() {
            let process = rustix::process::Pid::from_raw(process as i32).unwrap();
            let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
            rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
            let ended = manycore::poll::poll_single(pidfd.as_fd(), manycore::poll::Interest::READ, None);
            assert!(ended.unwrap().is_readable());
        }
        assert_eq!(pool.map([1, 2]).unwrap().len(), 2);
    });
}

fn there_are_no_more_members_than_workers_may_run<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().worker_limit(2).pool(&NUMBER).workers(4).batch(1);
        let who: BTreeSet<u64> = pool.map(0..500).unwrap().into_iter().map(|(number, _)| number).collect();
        assert!(who.iter().all(|number| *number < 2), "{who:?}");
        let error = runtime::<P>().worker_limit(0).pool(&SQUARE).map([1]).unwrap_err();
        let limited = PoolError::Run(RunError::Start(manycore::StartError::TooMany { limit: 0 }));
        assert_eq!(error.to_string(), limited.to_string());
    });
}

/// At 0 says, beside the library, that its batch is over.
const TALKS_NONSENSE: Worker<u64, u64> = Worker::fallible("talks nonsense", |context, number| {
    if number == 0 {
        // That a batch of no tasks is done, as postcard writes it: the variant; the batch, a count, no results, no
        // failure, that it was the last piece, and the time.
        let done = [1, 14, 0, 0, 0, 0, 1, 1];
        let message = [&(done.len() as u32).to_le_bytes()[..], &done].concat();
        rustix::io::write(context.as_fd(), &message)?;
    }
    Ok(number)
});

fn who_breaks_the_protocol_is_named<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = runtime::<P>().pool(&TALKS_NONSENSE).workers(1).batch(3);
        let mut lost = 0;
        let mut next = 0;
        pool.each_in_order(0..9, |index, result| {
            assert_eq!(index, next);
            next += 1;
            match result {
                Ok(number) => assert_eq!(number, index as u64),
                Err(JoinError::Lost { message, .. }) => {
                    assert!(message.contains("it told of tasks"), "{message}");
                    lost += 1;
                }
                Err(other) => panic!("{other}"),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((next, lost), (9, 3), "its batch, and no other");
    });
}

/// Refuses the add whose number is in [`REFUSED`].
#[derive(Debug)]
struct Refusing(Poll, AtomicUsize);

static REFUSED: AtomicUsize = AtomicUsize::new(0);

impl Poller for Refusing {
    const ALWAYS_TOLD: Ready = <Poll as Poller>::ALWAYS_TOLD;

    fn new() -> Result<Refusing, PollError> {
        Ok(Refusing(Poll::new()?, AtomicUsize::new(0)))
    }

    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError> {
        if self.1.fetch_add(1, Ordering::Relaxed) == REFUSED.load(Ordering::Relaxed) {
            return Err(PollError::AlreadyExists(key));
        }
        self.0.add(key, source, interest)
    }

    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError> {
        self.0.modify(key, interest)
    }

    fn remove(&self, key: u64) -> Result<Source, PollError> {
        self.0.remove(key)
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError> {
        self.0.wait(events, timeout)
    }

    fn notify(&self) -> Result<(), PollError> {
        self.0.notify()
    }
}

fn a_poller_that_refuses_leaves_nobody() {
    fn check<P: Platform>() {
        let mut went_well = 0;
        for refused in 0..10 {
            REFUSED.store(refused, Ordering::Relaxed);
            leaving_nothing(|| {
                let mut pool = Runtime::<P>::default().pool(&SQUARE).workers(2);
                match pool.map(0..30) {
                    Ok(squares) => {
                        assert_eq!(squares.len(), 30);
                        went_well += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, PoolError::Run(RunError::Poll(_))), "{error}");
                        // It refuses once.
                        assert_eq!(pool.map(0..30).unwrap().len(), 30);
                    }
                }
            });
        }
        assert!((1..10).contains(&went_well));
    }
    check::<With<PosixShm, Futex, Refusing, Socket, Fork>>();
    check::<With<PosixShm, Futex, Refusing, Polysocket, Thread>>();
}

#[allow(dead_code, reason = "the types say that a pool is made on the default platform")]
fn default() -> Pool<u64, u64> {
    Pool::new(&SQUARE)
}
