//! A program is the same on processes that are forked, on processes that run it anew, and on threads: how workers start,
//! end, fail, are cancelled and joined, with the same words; and nothing is left of a run.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context as _;
use manycore::poll::{Interest, poll_single};
use manycore::{
    AtEnd, Context, Execed, Failure, Forked, JoinError, Platform, RunError, Runtime, StartError, Threaded,
    Worker, WorkerId, Workers,
};
use manycore_backends::testing::{TestCase, run_tests};
use serde::de::DeserializeOwned;
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
        every_way_to_have_no_result_is_told
        a_failure_tells_its_causes
        the_first_worker_can_fail_in_every_way_too
        starts_that_cannot_be_are_refused
        a_start_that_the_system_refuses_has_its_errno
        a_thousand_workers_are_joined_by_several_at_once
        one_of_several_is_joined
        ends_of_watched_workers_come_by_a_descriptor
        a_forgotten_result_is_unknown
        a_worker_that_never_asks_is_ended_at_once
        a_worker_that_asks_has_time_to_end
        a_worker_that_waits_for_another_is_told_to_stop
        a_worker_that_asks_and_does_not_stop_is_killed
        a_group_is_terminated_together
        all_others_are_terminated
        what_a_cancelled_worker_has_told_counts
        the_run_can_wait_at_most_so_long
        the_run_can_terminate_who_is_left
        nobody_starts_during_the_end
        what_is_left_can_be_looked_at_in_the_end
        a_worker_can_end_deep_inside
        a_run_goes_on_beside_another_in_the_same_program
        who_asks_much_and_hears_little_does_not_hang
        ends_that_nobody_has_heard_of_stop_no_result
        a_signal_is_a_request_to_who_asks
        who_gave_up_a_join_is_waited_for_by_others
        a_master_in_a_worker_ends_with_it
        many_are_started_at_once_or_none
    };
    tests.push(("the_story_is_the_same_on_all_platforms", the_story_is_the_same_on_all_platforms));
    tests.push(("what_enter_was_not_told_is_said", what_enter_was_not_told_is_said));
    run_tests(&tests);
}

fn workers() -> Workers {
    Workers::new()
        .with(&ADD)
        .with(&PANICS)
        .with(&EXITS)
        .with(&SPINS)
        .with(&FAILS)
        .with(&FAILS_WITH_CAUSES)
        .with(&FAILS_FOR_EVER)
        .with(&LONG_CAUSES)
        .with(&STUBBORN)
        .with(&BIG)
        .with(&COLLECT)
        .with(&JOINS_ALL)
        .with(&THOUSAND)
        .with(&ANY)
        .with(&WATCHES)
        .with(&FORGETS)
        .with(&READY)
        .with(&COOPERATES)
        .with(&JOINS_FOREVER)
        .with(&DEFIES)
        .with(&TERMINATES)
        .with(&GROUPS)
        .with(&OTHERS)
        .with(&TELLS_AND_SPINS)
        .with(&LEAVES_SPINNING)
        .with(&REFUSED)
        .with(&STARTS_MANY)
        .with(&LATE)
        .with(&LEAVES_LATE)
        .with(&NESTED)
        .with(&STARTS_ALL)
        .with(&FLOODS)
        .with(&DEAF)
        .with(&NEST)
        .with(&KILLS_NEST)
        .with(&JOINED_BACK)
        .with(&JOINS_BACK)
        .with(&STOPS_ONE)
        .with(&SIGNALS_ONE)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::<P>::default().with_all(&workers())
}

const ADD: Worker<(f64, f64), f64> = Worker::new("add", |_, (a, b)| a + b);

/// Serialises to an error.
#[derive(Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no way"))
    }
}

const PANICS: Worker<(), ()> = Worker::new("panics", |_, ()| panic!("number {}", 13));
const EXITS: Worker<i32, ()> = Worker::new("exits", |context, code| context.exit(code));
const FAILS: Worker<(), ()> = Worker::fallible("fails", |_, ()| Err(Failure::new("no luck")));
const STUBBORN: Worker<(), Stubborn> = Worker::new("stubborn", |_, ()| Stubborn);
const BIG: Worker<usize, String> = Worker::new("big", |_, size| "x".repeat(size));

/// Runs until it is killed, and never asks whether it should stop.
const SPINS: Worker<(), ()> = Worker::fallible("spins", |context, ()| spin(context));

fn spin(context: &mut Context) -> Result<(), Failure> {
    loop {
        context.next_ended()?;
        std::thread::yield_now();
    }
}

/// The number as the identifier of a worker.
fn id<R>(number: u64) -> WorkerId<R> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&number, &mut bytes).unwrap();
    ciborium::from_reader(&bytes[..]).unwrap()
}

/// An error's text without the numbers of processes, which differ, and without the place of a panic.
fn told(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let Some((before, rest)) = text.split_once(" (process ") else { return text };
    let (process, after) = rest.split_once(')').unwrap();
    assert_ne!(process.parse::<u32>().unwrap(), 0);
    let after = match after.split_once(" at tests/workers.rs:") {
        Some((how, place)) => format!("{how} at{}", &place[place.find(": ").unwrap()..]),
        None => after.to_owned(),
    };
    format!("{before}{after}")
}

/// Joins one that ends in each way, and returns what was told.
const COLLECT: Worker<(), Vec<String>> = Worker::fallible("collect", |context, ()| {
    fn story<A: Serialize, R: DeserializeOwned>(
        context: &mut Context,
        worker: &Worker<A, R>,
        argument: A,
        then: impl FnOnce(&mut Context, WorkerId<R>) -> Result<(), Failure>,
    ) -> Result<String, Failure> {
        let worker = context.start(worker, argument)?;
        then(context, worker)?;
        let error = context.join(worker).map(drop).unwrap_err();
        assert_eq!(context.join(worker).map(drop), Err(error.clone()), "told again");
        Ok(told(error))
    }
    let nothing = |_: &mut Context, _| Ok(());
    const MISTAKEN: Worker<String, f64> = Worker::new("add", |_, _| 0.0);
    const MISTAKEN_RESULT: Worker<(f64, f64), String> = Worker::new("add", |_, _| String::new());
    Ok(vec![
        story(context, &PANICS, (), nothing)?,
        story(context, &EXITS, 3, |_, _| Ok(()))?,
        story(context, &EXITS, 256 + 4, |_, _| Ok(()))?,
        story(context, &SPINS, (), |context, worker| {
            assert!(context.signal(worker, 9)?);
            Ok(())
        })?,
        story(context, &SPINS, (), |context, worker| {
            assert!(context.signal(worker, 15)?);
            Ok(())
        })?,
        story(context, &FAILS, (), nothing)?,
        story(context, &STUBBORN, (), |_, _| Ok(()))?,
        story(context, &BIG, 2000, |_, _| Ok(()))?,
        story(context, &MISTAKEN, "text".to_owned(), |_, _| Ok(()))?,
        story(context, &MISTAKEN_RESULT, (1.0, 2.0), |_, _| Ok(()))?,
        story(context, &SPINS, (), |context, worker| {
            assert_eq!(context.terminate(worker, Duration::ZERO)?, 1);
            Ok(())
        })?,
        told(context.join(id::<()>(99)).unwrap_err()),
        told(context.join(id::<()>(0)).unwrap_err()),
    ])
});

const STORIES: [&str; 13] = [
    "worker 1 `panics` panicked at: number 13",
    "worker 2 `exits` exited with code 3 before it had a result",
    "worker 3 `exits` exited with code 4 before it had a result",
    "worker 4 `spins` was killed by signal 9 (SIGKILL)",
    "worker 5 `spins` was killed by signal 15 (SIGTERM)",
    "worker 6 `fails` failed: no luck",
    "the result of worker 7 `stubborn` cannot be serialised: no way; return a type that serde can write as CBOR",
    "the result of worker 8 `big` has 2003 bytes, and messages are limited to 1000: return less, or raise `Runtime::message_limit`",
    "the argument of worker 9 `add` cannot be read: invalid type: string, expected a tuple of size 2",
    "the result of worker 10 `add` is not of the type asked for: invalid type: floating point `3.0`, expected str",
    "worker 11 `spins` was cancelled by worker 0",
    "there is no worker 99 in this run",
    "waiting for worker 0 would never end: it waits for this worker",
];

fn every_way_to_have_no_result_is_told<P: Platform>() {
    let stories = leaving_nothing(|| runtime::<P>().message_limit(1000).run(&COLLECT, ())).unwrap();
    let expected: Vec<&str> = STORIES.iter().map(|story| story.trim_end()).collect();
    // The words of serde are its own.
    for (story, expected) in stories.iter().zip(expected) {
        if expected.contains("invalid type") {
            let (ours, _) = expected.split_once(": ").unwrap();
            assert!(story.starts_with(ours), "{story}");
        } else {
            assert_eq!(story, expected);
        }
    }
    assert_eq!(stories.len(), STORIES.len());
}

/// An error, and what caused it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Because {
    message: String,
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

fn because<const N: usize>(messages: [&str; N]) -> Because {
    let causes = messages.iter().rev().fold(None, |cause: Option<Because>, message| {
        let cause = cause.map(|cause| Box::new(cause) as Box<dyn Error + Send + Sync>);
        Some(Because { message: (*message).to_owned(), cause })
    });
    causes.unwrap()
}

/// Fails with an error that holds others, which comes by itself or in one of several boxes.
const FAILS_WITH_CAUSES: Worker<u8, ()> = Worker::fallible("fails with causes", |_, how| {
    let error = || because(["no dinner: no fire", "no fire", "no wood", "winter"]);
    match how {
        0 => Err(error())?,
        1 => Err::<(), Box<dyn Error + Send + Sync>>(error().into()).map_err(Failure::from_boxed),
        2 => Err::<(), Box<dyn Error>>(error().into()).map_err(Failure::from_boxed),
        3 => Err(because(["no wood", "winter"]))
            .context("no fire")
            .context("no dinner: no fire")
            .map_err(Failure::from_boxed),
        _ => Err(Failure::new("no luck")),
    }
});

/// An error that is its own cause.
#[derive(Debug)]
struct Circle;

impl Display for Circle {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("because")
    }
}

impl Error for Circle {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&Circle)
    }
}

const FAILS_FOR_EVER: Worker<(), ()> = Worker::fallible("fails for ever", |_, ()| Err(Circle)?);

const LONG_CAUSES: Worker<(), ()> = Worker::fallible("long causes", |_, ()| {
    Err(because(["short", &"x".repeat(10_000), &"y".repeat(10_000), "short too"]))?
});

fn a_failure_tells_its_causes<P: Platform>() {
    fn failed<P, A>(worker: &Worker<A, ()>, argument: A) -> (String, Vec<String>, String)
    where
        P: Platform,
        A: Serialize + DeserializeOwned + 'static,
    {
        let error = leaving_nothing(|| runtime::<P>().run(worker, argument)).unwrap_err();
        let text = told(&error);
        match error {
            RunError::Join(JoinError::Failed { message, causes, .. }) => (message, causes, text),
            other => panic!("{other}"),
        }
    }
    for how in 0..4 {
        let (message, causes, text) = failed::<P, _>(&FAILS_WITH_CAUSES, how);
        assert_eq!(
            (message.as_str(), &causes[..]),
            ("no dinner: no fire", &["no fire", "no wood", "winter"].map(String::from)[..])
        );
        assert_eq!(
            text, "worker 0 `fails with causes` failed: no dinner: no fire: no wood: winter",
            "each once"
        );
    }
    let (message, causes, text) = failed::<P, _>(&FAILS_WITH_CAUSES, 4);
    assert_eq!((message.as_str(), &causes[..]), ("no luck", &[][..]));
    assert_eq!(text, "worker 0 `fails with causes` failed: no luck");
    let (message, causes, text) = failed::<P, _>(&FAILS_FOR_EVER, ());
    assert_eq!((message.as_str(), causes.len()), ("because", 64));
    assert_eq!(text, "worker 0 `fails for ever` failed: because");
    let (message, causes, _) = failed::<P, _>(&LONG_CAUSES, ());
    assert_eq!((message.as_str(), causes[0].len(), &causes[1..]), ("short", 10_000, &["...".to_owned()][..]));
}

fn the_story_is_the_same_on_all_platforms() {
    let forked = runtime::<Forked>().message_limit(1000).run(&COLLECT, ()).unwrap();
    let execed = runtime::<Execed>().message_limit(1000).run(&COLLECT, ()).unwrap();
    let threaded = runtime::<Threaded>().message_limit(1000).run(&COLLECT, ()).unwrap();
    assert_eq!(forked, execed);
    assert_eq!(forked, threaded);
}

fn the_first_worker_can_fail_in_every_way_too<P: Platform>() {
    leaving_nothing(|| {
        let told = |error: RunError| told(error);
        assert_eq!(
            told(runtime::<P>().run(&PANICS, ()).unwrap_err()),
            "worker 0 `panics` panicked at: number 13"
        );
        assert_eq!(
            told(runtime::<P>().run(&EXITS, 7).unwrap_err()),
            "worker 0 `exits` exited with code 7 before it had a result"
        );
        assert_eq!(told(runtime::<P>().run(&FAILS, ()).unwrap_err()), "worker 0 `fails` failed: no luck");
        assert!(matches!(
            runtime::<P>().message_limit(10).run(&BIG, 11),
            Err(RunError::Join(JoinError::TooBig { size: 12, limit: 10, .. }))
        ));
        assert!(matches!(
            runtime::<P>().with(&STUBBORN).run(&STUBBORN, ()),
            Err(RunError::Join(JoinError::Unserializable { .. }))
        ));
    });
}

const REFUSED: Worker<(), Vec<String>> = Worker::fallible("refused", |context, ()| {
    const NOBODY: Worker<(), ()> = Worker::new("nobody", |_, ()| ());
    const STUBBORN_ARGUMENT: Worker<Stubborn, ()> = Worker::new("add", |_, _| ());
    const TEXT: Worker<String, ()> = Worker::new("add", |_, _| ());
    let mut told = vec![
        context.start(&NOBODY, ()).unwrap_err().to_string(),
        context.start(&STUBBORN_ARGUMENT, Stubborn).unwrap_err().to_string(),
        context.start(&TEXT, "x".repeat(2000)).unwrap_err().to_string(),
    ];
    let spins = context.start(&SPINS, ())?;
    told.push(context.start(&SPINS, ()).unwrap_err().to_string());
    context.signal(spins, 9)?;
    Ok(told)
});

fn starts_that_cannot_be_are_refused<P: Platform>() {
    let run = || runtime::<P>().message_limit(1000).worker_limit(2).run(&REFUSED, ());
    let told = leaving_nothing(run).unwrap();
    assert!(told[0].starts_with("worker `nobody` is not defined in this run"), "{told:?}");
    assert!(told[0].contains("`add`, `any`"), "{told:?}");
    assert_eq!(
        told[1],
        "the argument of worker `add` cannot be serialised: no way; pass a type that serde can write as CBOR"
    );
    assert!(told[2].contains("has 2003 bytes, and messages are limited to 1000"), "{told:?}");
    assert!(told[3].starts_with("2 workers run already"), "{told:?}");
}

/// Starts workers until that fails, and returns how many there were and why.
const STARTS_MANY: Worker<(), (usize, Option<i32>)> = Worker::fallible("starts many", |context, ()| {
    let mut workers = Vec::new();
    let errno = loop {
        match context.start(&SPINS, ()) {
            Ok(worker) => workers.push(worker),
            Err(StartError::Spawn { errno, .. }) => break errno,
            Err(error) => return Err(error.into()),
        }
    };
    context.terminate_others(Duration::ZERO)?;
    for worker in &workers {
        assert!(matches!(context.join(*worker), Err(JoinError::Cancelled { .. })));
    }
    // There is room again.
    let worker = context.start(&ADD, (1.0, 2.0))?;
    assert_eq!(context.join(worker)?, 3.0);
    Ok((workers.len(), errno))
});

fn a_start_that_the_system_refuses_has_its_errno<P: Platform>() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    const EMFILE: i32 = 24;
    manycore_backends::testing::spawn::in_a_unit(|| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum: Some(40) }).unwrap();
        let (started, errno) = runtime::<P>().run(&STARTS_MANY, ()).unwrap();
        assert!((3..40).contains(&started), "{started}");
        assert_eq!(errno, Some(EMFILE));
    });
}

const JOINS_ALL: Worker<Vec<WorkerId<f64>>, f64> = Worker::fallible("joins all", |context, workers| {
    workers.into_iter().map(|worker| Ok(context.join(worker)?)).sum()
});

const THOUSAND: Worker<u32, Vec<f64>> = Worker::fallible("thousand", |context, count| {
    let mut workers = Vec::new();
    let mut joiners = Vec::new();
    for number in 1..=count {
        workers.push(context.start(&ADD, (f64::from(number), 0.0))?);
        if number % (count / 4) == 0 {
            joiners.push(context.start(&JOINS_ALL, workers.clone())?);
        }
    }
    joiners.into_iter().map(|joiner| Ok(context.join(joiner)?)).collect()
});

fn a_thousand_workers_are_joined_by_several_at_once<P: Platform>() {
    let count = 1000;
    let sums = leaving_nothing(|| runtime::<P>().run(&THOUSAND, count)).unwrap();
    let expected: Vec<f64> =
        (1..=4).map(|part| f64::from(part * count / 4 * (part * count / 4 + 1) / 2)).collect();
    assert_eq!(sums, expected);
}

const ANY: Worker<(), ()> = Worker::fallible("any", |context, ()| {
    let spins = context.start(&SPINS, ())?;
    let other = context.start(&SPINS, ())?;
    assert!(context.join_any_timeout(&[spins, other], Duration::ZERO)?.is_none());
    context.signal(other, 9)?;
    let (index, result) = context.join_any(&[spins, other])?;
    assert_eq!(index, 1);
    assert!(matches!(result, Err(JoinError::Killed { signal: 9, .. })));
    assert_eq!(context.join_any(&[spins, other])?.0, 1, "as often as it is asked");
    context.signal(spins, 9)?;
    assert_eq!(context.join_any(&[spins])?.0, 0);
    assert_eq!(context.join_any(&[spins, other])?.0, 0, "the first in the list");
    assert_eq!(context.join_any::<()>(&[]).map(drop), Err(JoinError::Nobody));
    assert_eq!(context.join_any(&[id::<()>(99)]).map(drop), Err(JoinError::Unknown { number: 99 }));
    Ok(())
});

fn one_of_several_is_joined<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&ANY, ())).unwrap();
}

const WATCHES: Worker<(), f64> = Worker::fallible("watches", |context, ()| {
    let mut expected = Vec::new();
    let mut sum = 0.0;
    for number in 1..=20 {
        let worker = context.start(&ADD, (f64::from(number), 0.0))?;
        context.watch(worker)?;
        expected.push(worker);
    }
    while !expected.is_empty() {
        while let Some(number) = context.next_ended()? {
            let index = expected.iter().position(|worker| worker.number() == number).expect("each once");
            let worker = expected.swap_remove(index);
            sum += context.try_join(worker)?.expect("it has ended");
        }
        if !expected.is_empty() {
            assert!(poll_single(context.as_fd(), Interest::READ, None)?.is_readable());
        }
    }
    // One that has ended already is told of, too.
    let worker = context.start(&ADD, (0.0, 0.0))?;
    context.join(worker)?;
    context.watch(worker)?;
    assert_eq!(context.next_ended()?, Some(worker.number()));
    assert_eq!(context.next_ended()?, None);
    Ok(sum)
});

fn ends_of_watched_workers_come_by_a_descriptor<P: Platform>() {
    assert_eq!(leaving_nothing(|| runtime::<P>().run(&WATCHES, ())).unwrap(), 210.0);
}

const FORGETS: Worker<(), ()> = Worker::fallible("forgets", |context, ()| {
    let worker = context.start(&ADD, (1.0, 2.0))?;
    assert_eq!(context.join(worker)?, 3.0);
    context.forget(worker)?;
    assert_eq!(context.join(worker), Err(JoinError::Unknown { number: worker.number() }));
    assert_eq!(context.try_join(worker), Err(JoinError::Unknown { number: worker.number() }));
    let spins = context.start(&SPINS, ())?;
    context.forget(spins)?;
    context.signal(spins, 9)?;
    assert!(
        matches!(context.join(spins), Err(JoinError::Killed { .. })),
        "it ran when it was to be forgotten"
    );
    Ok(())
});

fn a_forgotten_result_is_unknown<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&FORGETS, ())).unwrap();
}

/// That there is a worker of this definition tells that who started it has come so far.
const READY: Worker<(), ()> = Worker::new("ready", |_, ()| ());

/// Waits until there is a worker with this number.
fn await_worker(context: &mut Context, number: u64) -> Result<(), Failure> {
    while context.join(id::<()>(number)) == Err(JoinError::Unknown { number }) {
        std::thread::yield_now();
    }
    Ok(())
}

/// Stops when it is asked to, and is said to be able to.
const COOPERATES: Worker<(), String> = Worker::fallible("cooperates", |context, ()| {
    assert!(!context.should_stop());
    context.start(&READY, ())?;
    while !context.should_stop() {
        poll_single(context.as_fd(), Interest::READ, None)?;
    }
    assert!(context.should_stop(), "as often as it asks");
    // It can still do what it must.
    let worker = context.start(&ADD, (1.0, 2.0))?;
    assert_eq!(context.join(worker)?, 3.0);
    Ok("tidied up".to_owned())
});

/// Waits for a worker that does not end.
const JOINS_FOREVER: Worker<(), String> = Worker::fallible("joins forever", |context, ()| {
    let spins = context.start(&SPINS, ())?;
    assert!(!context.should_stop());
    context.start(&READY, ())?;
    assert_eq!(context.join(spins), Err(JoinError::Stopping));
    assert_eq!(context.join_timeout(spins, Duration::ZERO), Ok(None), "told once");
    assert!(context.should_stop());
    context.signal(spins, 9)?;
    Ok(format!("{:?}", context.join(spins).is_err()))
});

/// Asks whether it should stop, and does not.
const DEFIES: Worker<(), ()> = Worker::fallible("defies", |context, ()| {
    context.should_stop();
    context.start(&READY, ())?;
    loop {
        context.should_stop();
        std::thread::yield_now();
    }
});

/// Starts a worker, terminates it when it says that it is ready, if it does, and tells what came of it.
const TERMINATES: Worker<(String, u64), String> =
    Worker::fallible("terminates", |context, (which, grace)| {
        let (worker, ready) = match which.as_str() {
            "cooperates" => (context.start(&COOPERATES, ())?, Some(2)),
            "joins forever" => (context.start(&JOINS_FOREVER, ())?, Some(3)),
            "defies" => (id(context.start(&DEFIES, ())?.number()), Some(2)),
            _ => (id(context.start(&SPINS, ())?.number()), None),
        };
        if let Some(ready) = ready {
            await_worker(context, ready)?;
        }
        assert_eq!(context.terminate(worker, Duration::from_millis(grace))?, 1);
        let told = match context.join(worker) {
            Ok(text) => text,
            Err(error) => told(error),
        };
        assert_eq!(context.terminate(worker, Duration::ZERO)?, 0, "it is gone");
        Ok(told)
    });

/// More than any test takes.
const LONG: u64 = 3_600_000;

fn terminate<P: Platform>(which: &str, grace: u64) -> String {
    leaving_nothing(|| runtime::<P>().run(&TERMINATES, (which.to_owned(), grace))).unwrap()
}

fn a_worker_that_never_asks_is_ended_at_once<P: Platform>() {
    assert_eq!(terminate::<P>("spins", LONG), "worker 1 `spins` was cancelled by worker 0");
}

fn a_worker_that_asks_has_time_to_end<P: Platform>() {
    assert_eq!(terminate::<P>("cooperates", LONG), "tidied up");
}

fn a_worker_that_waits_for_another_is_told_to_stop<P: Platform>() {
    assert_eq!(terminate::<P>("joins forever", LONG), "true");
}

fn a_worker_that_asks_and_does_not_stop_is_killed<P: Platform>() {
    assert_eq!(terminate::<P>("defies", 20), "worker 1 `defies` was cancelled by worker 0");
    assert_eq!(terminate::<P>("defies", 0), "worker 1 `defies` was cancelled by worker 0");
}

const GROUPS: Worker<(), ()> = Worker::fallible("groups", |context, ()| {
    let outside = context.start(&SPINS, ())?;
    let workers =
        (0..5).map(|_| context.start_in("spinning", &SPINS, ())).collect::<Result<Vec<_>, StartError>>()?;
    let other = context.start_in("other", &SPINS, ())?;
    assert_eq!(context.terminate_group("nothing", Duration::ZERO)?, 0);
    assert_eq!(context.terminate_group("spinning", Duration::ZERO)?, 5);
    for worker in workers {
        assert!(matches!(context.join(worker), Err(JoinError::Cancelled { .. })));
    }
    assert_eq!(context.terminate_group("spinning", Duration::ZERO)?, 0);
    assert_eq!(context.try_join(outside)?, None);
    assert_eq!(context.try_join(other)?, None);
    assert_eq!(context.terminate_others(Duration::from_secs(3600))?, 2);
    Ok(())
});

fn a_group_is_terminated_together<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&GROUPS, ())).unwrap();
}

const OTHERS: Worker<(), ()> = Worker::fallible("others", |context, ()| {
    for _ in 0..3 {
        context.start(&COOPERATES, ())?;
        context.start(&SPINS, ())?;
        context.start(&DEFIES, ())?;
    }
    context.terminate_others(Duration::from_millis(20))?;
    for number in 1..=9 {
        // Some are those that say that others are ready.
        let end = context.join(id::<()>(number));
        assert!(!matches!(end, Err(JoinError::Panicked { .. } | JoinError::Killed { .. })), "{end:?}");
    }
    Ok(())
});

fn all_others_are_terminated<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&OTHERS, ())).unwrap();
}

const TELLS_AND_SPINS: Worker<(), ()> = Worker::fallible("tells and spins", |context, ()| {
    // What this has told of its result is heard before its end is.
    let worker = context.start(&ADD, (1.0, 2.0))?;
    loop {
        context.terminate(worker, Duration::ZERO)?;
        match context.try_join(worker) {
            Ok(None) => {}
            Ok(Some(sum)) => return if sum == 3.0 { Ok(()) } else { Err(Failure::new("wrong")) },
            Err(JoinError::Cancelled { .. }) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
    }
});

fn what_a_cancelled_worker_has_told_counts<P: Platform>() {
    for _ in 0..20 {
        leaving_nothing(|| runtime::<P>().run(&TELLS_AND_SPINS, ())).unwrap();
    }
}

/// Ends, and leaves some behind that would not.
const LEAVES_SPINNING: Worker<(), u64> = Worker::fallible("leaves spinning", |context, ()| {
    context.start(&SPINS, ())?;
    context.start(&DEFIES, ())?;
    await_worker(context, 3)?;
    Ok(7)
});

fn the_run_can_wait_at_most_so_long<P: Platform>() {
    let at_most = AtEnd::WaitAtMost(Duration::from_millis(20));
    let run = || runtime::<P>().at_end(at_most).grace(Duration::from_millis(10)).run(&LEAVES_SPINNING, ());
    assert_eq!(leaving_nothing(run).unwrap(), 7);
}

fn the_run_can_terminate_who_is_left<P: Platform>() {
    for grace in [Duration::ZERO, Duration::from_millis(10)] {
        let run = || runtime::<P>().at_end(AtEnd::Terminate).grace(grace).run(&LEAVES_SPINNING, ());
        assert_eq!(leaving_nothing(run).unwrap(), 7);
    }
}

/// Starts workers until it is told that none are started any more.
const LATE: Worker<(), u64> = Worker::fallible("late", |context, ()| {
    let mut count = 0;
    loop {
        match context.start(&ADD, (1.0, 2.0)) {
            Ok(worker) => assert_eq!(context.join(worker)?, 3.0),
            Err(StartError::ShuttingDown) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
        count += 1;
    }
});

const LEAVES_LATE: Worker<(), Vec<WorkerId<u64>>> = Worker::fallible("leaves late", |context, ()| {
    let workers = (0..3).map(|_| context.start(&LATE, ())).collect::<Result<Vec<_>, _>>()?;
    // Meanwhile they begin.
    for _ in 0..3 {
        let ready = context.start(&READY, ())?;
        context.join(ready)?;
    }
    Ok(workers)
});

fn nobody_starts_during_the_end<P: Platform>() {
    let run = || {
        runtime::<P>().run_then(&LEAVES_LATE, (), |finished, workers| {
            workers.unwrap().into_iter().map(|worker| finished.join(worker).unwrap()).sum::<u64>()
        })
    };
    let _started = leaving_nothing(run).unwrap();
}

fn what_is_left_can_be_looked_at_in_the_end<P: Platform>() {
    let run = || {
        runtime::<P>().message_limit(1000).run_then(&COLLECT, (), |finished, stories| {
            assert_eq!(stories.unwrap().len(), STORIES.len());
            assert!(matches!(finished.join(id::<()>(1)), Err(JoinError::Panicked { .. })));
            assert!(matches!(finished.join(id::<()>(99)), Err(JoinError::Unknown { number: 99 })));
            assert_eq!(finished.join(id::<f64>(10)), Ok(3.0));
            "looked at"
        })
    };
    assert_eq!(leaving_nothing(run).unwrap(), "looked at");
    let failed = runtime::<P>().run_then(&PANICS, (), |_, result| result.unwrap_err());
    assert!(matches!(failed, Ok(JoinError::Panicked { .. })));
}

fn a_worker_can_end_deep_inside<P: Platform>() {
    let error = leaving_nothing(|| runtime::<P>().run(&EXITS, -1)).unwrap_err();
    assert!(matches!(error, RunError::Join(JoinError::Exited { code: 255, .. })), "{error}");
}

/// A worker that is itself the master of a run.
const NESTED: Worker<(), f64> =
    Worker::fallible("nested", |_, ()| Ok(Runtime::<Threaded>::default().run(&ADD, (1.0, 2.0))?));

fn a_run_goes_on_beside_another_in_the_same_program<P: Platform>() {
    assert_eq!(leaving_nothing(|| runtime::<P>().run(&NESTED, ())).unwrap(), 3.0);
}

const UNKNOWN_THERE: Worker<(), ()> = Worker::new("unknown there", |_, ()| ());

fn what_enter_was_not_told_is_said() {
    let error = leaving_nothing(|| runtime::<Execed>().run(&UNKNOWN_THERE, ())).unwrap_err();
    assert!(matches!(error, RunError::Join(JoinError::Undefined { .. })), "{error}");
    assert!(error.to_string().contains("`enter`") && error.to_string().contains("`add`"), "{error}");
}

/// Asks for very many things at once, before it hears of any.
const FLOODS: Worker<u64, ()> = Worker::fallible("floods", |context, count| {
    // Each is asked for, and each is answered.
    let nobody: Vec<WorkerId<()>> = (0..count).map(|number| id(1_000_000 + number)).collect();
    assert!(matches!(context.join_any(&nobody), Err(JoinError::Unknown { .. })));
    // What else was told meanwhile is no answer to this.
    let worker = context.start(&ADD, (1.0, 2.0))?;
    assert_eq!(context.join(worker)?, 3.0);
    Ok(())
});

fn who_asks_much_and_hears_little_does_not_hang<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&FLOODS, 20_000)).unwrap();
}

/// Has the ends of very many workers told, hears of none, and has a large result.
const DEAF: Worker<u32, Vec<u8>> = Worker::fallible("deaf", |context, count| {
    for _ in 0..count {
        let worker = context.start(&READY, ())?;
        context.watch(worker)?;
    }
    Ok(vec![7; 300_000])
});

fn ends_that_nobody_has_heard_of_stop_no_result<P: Platform>() {
    assert_eq!(leaving_nothing(|| runtime::<P>().run(&DEAF, 1500)).unwrap().len(), 300_000);
}

/// Sends a worker that waits for another a signal, instead of terminating it.
const SIGNALS_ONE: Worker<(), String> = Worker::fallible("signals one", |context, ()| {
    let worker = context.start(&JOINS_FOREVER, ())?;
    await_worker(context, 3)?;
    assert!(context.signal(worker, 15)?);
    Ok(context.join(worker)?)
});

fn a_signal_is_a_request_to_who_asks<P: Platform>() {
    assert_eq!(leaving_nothing(|| runtime::<P>().run(&SIGNALS_ONE, ())).unwrap(), "true");
}

/// Is joined by the worker that it joins, after it was told to stop.
const JOINED_BACK: Worker<(), u64> = Worker::fallible("joined back", |context, ()| {
    assert!(!context.should_stop());
    let other = context.start(&JOINS_BACK, ())?;
    assert_eq!(context.join(other), Err(JoinError::Stopping));
    // Does what it still has to do, and says nothing to the master meanwhile.
    for _ in 0..20_000 {
        std::thread::yield_now();
    }
    Ok(7)
});

const JOINS_BACK: Worker<(), u64> = Worker::fallible("joins back", |context, ()| {
    // That the first worker has asked for the other's end is told by another.
    await_worker(context, 3)?;
    Ok(context.join(id::<u64>(1))?)
});

const STOPS_ONE: Worker<(), u64> = Worker::fallible("stops one", |context, ()| {
    let worker = context.start(&JOINED_BACK, ())?;
    await_worker_begun(context, 2)?;
    context.terminate(worker, Duration::from_millis(LONG))?;
    let ready = context.start(&READY, ())?;
    context.join(ready)?;
    assert_eq!(context.join(worker)?, 7);
    Ok(context.join(id::<u64>(2))?)
});

/// Waits until there is a worker with this number, which need not have ended.
fn await_worker_begun(context: &mut Context, number: u64) -> Result<(), Failure> {
    while context.try_join(id::<u64>(number)) == Err(JoinError::Unknown { number }) {
        std::thread::yield_now();
    }
    Ok(())
}

fn who_gave_up_a_join_is_waited_for_by_others<P: Platform>() {
    assert_eq!(leaving_nothing(|| runtime::<P>().run(&STOPS_ONE, ())).unwrap(), 7);
}

/// Is the master of a run that does not end.
const NEST: Worker<(), ()> = Worker::fallible("nest", |context, ()| {
    context.start(&READY, ())?;
    Ok(Runtime::<Threaded>::default().run(&SPINS, ())?)
});

const KILLS_NEST: Worker<u64, ()> = Worker::fallible("kills nest", |context, grace| {
    let nest = context.start(&NEST, ())?;
    await_worker(context, 2)?;
    context.terminate(nest, Duration::from_millis(grace))?;
    match context.join(nest) {
        Err(JoinError::Cancelled { .. }) => Ok(()),
        // It was faster than the signal, and its run was interrupted by that.
        Err(JoinError::Failed { message, .. }) if message.contains("SIGTERM") => Ok(()),
        other => Err(Failure::new(format!("{other:?}"))),
    }
});

fn a_master_in_a_worker_ends_with_it<P: Platform>() {
    for grace in [0, LONG] {
        leaving_nothing(|| runtime::<P>().run(&KILLS_NEST, grace)).unwrap();
    }
}

const STARTS_ALL: Worker<u32, f64> = Worker::fallible("starts all", |context, count| {
    let workers = context.start_all(&ADD, (1..=count).map(|number| (f64::from(number), 0.0)))?;
    assert!(workers.windows(2).all(|pair| pair[0] < pair[1]));
    let sum = context.join_all(workers)?.into_iter().sum();
    assert_eq!(context.start_all(&ADD, [])?, []);
    // There is room for five beside this one.
    assert_eq!(context.start_all(&SPINS, [(); 6]), Err(StartError::TooMany { limit: 6 }));
    let first = u64::from(count) + 1;
    for number in first..first + 5 {
        assert!(matches!(context.join(id::<()>(number)), Err(JoinError::Cancelled { .. })));
    }
    let spins = context.start_all(&SPINS, [(); 5])?;
    context.terminate_others(Duration::ZERO)?;
    assert!(matches!(context.join_all(spins), Err(JoinError::Cancelled { .. })));
    Ok(sum)
});

fn many_are_started_at_once_or_none<P: Platform>() {
    let sum = leaving_nothing(|| runtime::<P>().worker_limit(6).run(&STARTS_ALL, 5)).unwrap();
    assert_eq!(sum, 15.0);
    let sum = leaving_nothing(|| {
        let starts = Worker::<u32, f64>::fallible("starts many at once", |context, count| {
            let workers = context.start_all(&ADD, (1..=count).map(|number| (f64::from(number), 0.0)))?;
            Ok(context.join_all(workers)?.into_iter().sum())
        });
        Runtime::<Threaded>::default().with(&ADD).run(&starts, 300)
    });
    assert_eq!(sum.unwrap(), f64::from(300 * 301 / 2));
}
