//! Workers are started by whoever asks and joined by whoever likes; why one has no result is always told; and
//! nothing is left of a run: no process, no descriptor, no object.

use std::os::fd::AsFd;

use manycore::shm::PosixShm;
use manycore::{
    Context, Epoll, Failure, Fork, Futex, JoinError, Poll, Poller, RunError, Runtime, Select, ShmBackend,
    ShmTable, Socket, StartError, TableOptions, With, Worker, WorkerId,
};
use manycore_backends::testing::{TestCase, run_tests};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};

#[path = "census/mod.rs"]
mod census;
use census::leaving_nothing;

fn main() {
    let tests: Vec<TestCase> = vec![
        ("a_worker_adds_and_the_master_has_the_sum", a_worker_adds_and_the_master_has_the_sum),
        ("workers_start_workers_that_are_children_of_the_master", workers_start_workers),
        ("every_way_to_have_no_result_is_told", every_way_to_have_no_result_is_told),
        ("the_first_worker_can_fail_in_every_way_too", the_first_worker_can_fail_in_every_way_too),
        ("starts_that_cannot_be_are_refused", starts_that_cannot_be_are_refused),
        ("names_are_unique", names_are_unique),
        ("many_join_one_and_one_joins_often", many_join_one_and_one_joins_often),
        ("joining_can_wait_a_while_or_not_at_all", joining_can_wait_a_while_or_not_at_all),
        ("foreign_numbers_and_types_are_errors", foreign_numbers_and_types_are_errors),
        ("what_was_told_while_waiting_for_else_counts", what_was_told_while_waiting_for_else_counts),
        ("a_circle_of_joins_is_a_deadlock", a_circle_of_joins_is_a_deadlock),
        ("who_was_told_of_a_circle_can_ask_again", who_was_told_of_a_circle_can_ask_again),
        ("results_survive_replies_that_come_too_late", results_survive_replies_that_come_too_late),
        ("garbage_on_the_link_ends_only_the_link", garbage_on_the_link_ends_only_the_link),
        ("a_process_that_holds_the_link_of_a_dead_worker_stops_nobody", a_link_held_by_another_stops_nobody),
        ("the_same_definition_may_come_twice", the_same_definition_may_come_twice),
        ("large_results_reach_several_joiners_at_once", large_results_reach_several_joiners_at_once),
        ("no_worker_starts_after_the_first_has_ended", no_worker_starts_after_the_first_has_ended),
        ("a_hundred_workers_run_at_once_and_leave_nothing", a_hundred_workers_run_at_once_and_leave_nothing),
        ("the_master_can_wait_by_every_poller", the_master_can_wait_by_every_poller),
        ("a_worker_has_only_the_descriptors_it_is_given", a_worker_has_only_the_descriptors_it_is_given),
        ("workers_die_with_their_master", workers_die_with_their_master),
        ("a_process_with_threads_is_refused", a_process_with_threads_is_refused),
        ("a_program_that_has_not_said_where_workers_come_in_is_refused", a_program_without_entry_is_refused),
    ];
    run_tests(&tests);
}

const ADD: Worker<(f64, f64), f64> = Worker::new("add", |_, (a, b)| a + b);

fn a_worker_adds_and_the_master_has_the_sum() {
    for _ in 0..3 {
        let sum = leaving_nothing(|| Runtime::new().run(&ADD, (3.0, 4.0))).unwrap();
        assert_eq!(sum, 7.0);
    }
}

const PARENT: Worker<(), (u32, u32)> =
    Worker::new("parent", |_, ()| (std::process::id(), getppid().unwrap().as_raw_nonzero().get() as u32));

const TREE: Worker<u32, Vec<(u32, u32)>> = Worker::fallible("tree", |context, depth| {
    let child = context.start(&PARENT, ())?;
    let mut family = vec![context.join(child)?];
    if depth > 0 {
        let subtree = context.start(&TREE, depth - 1)?;
        family.extend(context.join(subtree)?);
    }
    Ok(family)
});

fn workers_start_workers() {
    let master = std::process::id();
    let family = leaving_nothing(|| Runtime::new().with(&PARENT).run(&TREE, 3)).unwrap();
    assert_eq!(family.len(), 4);
    for (process, parent) in family {
        assert_ne!(process, master);
        assert_eq!(parent, master);
    }
}

/// Serialises to an error.
#[derive(Deserialize)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no way"))
    }
}

const PANICS: Worker<(), ()> = Worker::new("panics", |_, ()| panic!("number {}", 13));
const EXITS: Worker<(), ()> = Worker::new("exits", |_, ()| std::process::exit(3));
const KILLED: Worker<(), ()> = Worker::new("killed", |_, ()| {
    kill_process(getpid(), Signal::KILL).unwrap();
    unreachable!();
});
const FAILS: Worker<(), ()> = Worker::fallible("fails", |_, ()| {
    std::fs::read("/nonexistent")?;
    Ok(())
});
const STUBBORN: Worker<(), Stubborn> = Worker::new("stubborn", |_, ()| Stubborn);
const BIG: Worker<usize, String> = Worker::new("big", |_, size| "x".repeat(size));
const LONG_STORY: Worker<(), ()> =
    Worker::fallible("long story", |_, ()| Err(Failure::new("ä".repeat(100_000))));

/// Joins one of each and returns what was told.
const COLLECT: Worker<(), Vec<String>> = Worker::fallible("collect", |context, ()| {
    fn told<T: serde::de::DeserializeOwned>(context: &mut Context, worker: WorkerId<T>) -> JoinError {
        context.join(worker).map(drop).unwrap_err()
    }
    let mut stories = Vec::new();
    let worker = context.start(&PANICS, ())?;
    match told(context, worker) {
        JoinError::Panicked { worker, message, location } => {
            assert_eq!((worker.name.as_str(), message.as_str()), ("panics", "number 13"));
            assert!(location.unwrap().contains("tests/runtime.rs:"));
        }
        other => panic!("{other}"),
    }
    let worker = context.start(&EXITS, ())?;
    assert!(matches!(told(context, worker), JoinError::Exited { code: 3, .. }));
    let worker = context.start(&KILLED, ())?;
    let error = told(context, worker);
    assert!(matches!(error, JoinError::Killed { signal: 9, core: false, .. }));
    stories.push(error.to_string());
    let worker = context.start(&FAILS, ())?;
    match told(context, worker) {
        JoinError::Failed { message, .. } => assert!(message.contains("No such file")),
        other => panic!("{other}"),
    }
    let worker = context.start(&STUBBORN, ())?;
    match told(context, worker) {
        JoinError::Unserializable { message, .. } => assert_eq!(message, "no way"),
        other => panic!("{other}"),
    }
    let worker = context.start(&BIG, 100_000)?;
    let error = told(context, worker);
    assert!(matches!(error, JoinError::TooBig { size: 100_005, limit: 100_000, .. }), "{error}");
    let worker = context.start(&LONG_STORY, ())?;
    match told(context, worker) {
        JoinError::Failed { message, .. } => assert!(message.len() < 20_000 && message.ends_with("[...]")),
        other => panic!("{other}"),
    }
    // After all that the link still works.
    let worker = context.start(&BIG, 1000)?;
    assert_eq!(context.join(worker)?.len(), 1000);
    Ok(stories)
});

fn runtime() -> Runtime {
    Runtime::new()
        .message_limit(100_000)
        .with(&PANICS)
        .with(&EXITS)
        .with(&KILLED)
        .with(&FAILS)
        .with(&STUBBORN)
        .with(&BIG)
        .with(&LONG_STORY)
}

fn every_way_to_have_no_result_is_told() {
    let stories = leaving_nothing(|| runtime().run(&COLLECT, ())).unwrap();
    assert!(stories[0].starts_with("worker 3 `killed` (process "), "{stories:?}");
    assert!(stories[0].ends_with("was killed by signal 9 (SIGKILL)"), "{stories:?}");
}

fn the_first_worker_can_fail_in_every_way_too() {
    fn told<A, R>(first: &Worker<A, R>, argument: A) -> JoinError
    where
        A: Serialize + serde::de::DeserializeOwned + 'static,
        R: Serialize + serde::de::DeserializeOwned + 'static,
    {
        match leaving_nothing(|| runtime().run(first, argument)) {
            Err(RunError::Join(error)) => error,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it has a result"),
        }
    }
    assert!(matches!(told(&PANICS, ()), JoinError::Panicked { .. }));
    assert!(matches!(told(&EXITS, ()), JoinError::Exited { code: 3, .. }));
    assert!(matches!(told(&KILLED, ()), JoinError::Killed { signal: 9, .. }));
    assert!(matches!(told(&FAILS, ()), JoinError::Failed { .. }));
    assert!(matches!(told(&STUBBORN, ()), JoinError::Unserializable { .. }));
    assert!(matches!(told(&BIG, 200_000), JoinError::TooBig { .. }));
}

const ADD_ONE: Worker<String, usize> = Worker::new("length", |_, text| text.len());
const TAKES_STUBBORN: Worker<Stubborn, ()> = Worker::new("takes stubborn", |_, _| ());

const REFUSED: Worker<(), ()> = Worker::fallible("refused", |context, ()| {
    match context.start(&ADD, (1.0, 2.0)).unwrap_err() {
        StartError::Undefined { name, known } => {
            assert_eq!(name, "add");
            assert_eq!(known, ["length", "refused", "takes stubborn"]);
        }
        other => panic!("{other}"),
    }
    let message = context.start(&ADD, (1.0, 2.0)).unwrap_err().to_string();
    assert!(message.contains("`add` is not defined") && message.contains(".with(&...)"), "{message}");
    match context.start(&TAKES_STUBBORN, Stubborn).unwrap_err() {
        StartError::Unserializable { message, .. } => assert_eq!(message, "no way"),
        other => panic!("{other}"),
    }
    match context.start(&ADD_ONE, "x".repeat(1001)).unwrap_err() {
        StartError::TooBig { limit: 1000, size: 1004, .. } => {}
        other => panic!("{other}"),
    }
    let workers = [context.start(&ADD_ONE, "x".repeat(997))?, context.start(&ADD_ONE, String::new())?];
    assert_eq!(workers.map(|worker| context.join(worker)), [Ok(997), Ok(0)]);
    Ok(())
});

fn starts_that_cannot_be_are_refused() {
    let runtime = || Runtime::new().message_limit(1000).with(&ADD_ONE).with(&TAKES_STUBBORN);
    leaving_nothing(|| runtime().run(&REFUSED, ())).unwrap();
    match runtime().run(&ADD_ONE, "x".repeat(2000)) {
        Err(RunError::Start(StartError::TooBig { .. })) => {}
        other => panic!("{other:?}"),
    }
    const CROWD: Worker<(), ()> =
        Worker::fallible("crowd", |context, ()| match context.start(&ADD_ONE, String::new()) {
            Err(StartError::TooMany { limit: 1 }) => Ok(()),
            other => Err(Failure::new(format!("{other:?}"))),
        });
    leaving_nothing(|| runtime().worker_limit(1).run(&CROWD, ())).unwrap();
}

fn names_are_unique() {
    const OTHER: Worker<(), ()> = Worker::new("add", |_, ()| ());
    let error = Runtime::new().with(&ADD).with(&OTHER).run(&PARENT, ()).unwrap_err();
    assert!(matches!(error, RunError::Duplicate { name: "add" }), "{error}");
    assert!(Runtime::new().with(&ADD).with(&ADD).run(&ADD, (1.0, 2.0)).is_ok());
}

const JOINER: Worker<WorkerId<f64>, f64> =
    Worker::fallible("joiner", |context, worker| Ok(context.join(worker)?));

const FAMILY: Worker<(), f64> = Worker::fallible("family", |context, ()| {
    let worker = context.start(&ADD, (20.0, 22.0))?;
    let joiners = (0..8).map(|_| context.start(&JOINER, worker)).collect::<Result<Vec<_>, _>>()?;
    let mut sum = 0.0;
    for joiner in joiners {
        sum += context.join(joiner)?;
    }
    for _ in 0..2 {
        sum += context.join(worker)?;
        sum += context.try_join(worker)?.unwrap();
    }
    Ok(sum)
});

fn many_join_one_and_one_joins_often() {
    let sum = leaving_nothing(|| Runtime::new().with(&ADD).with(&JOINER).run(&FAMILY, ())).unwrap();
    assert_eq!(sum, 12.0 * 42.0);
}

const WAITS_FOR_TABLE: Worker<String, usize> =
    Worker::fallible("waits for the table", |_, name| Ok(ShmTable::open(name)?.length()?));

const PATIENT: Worker<String, usize> = Worker::fallible("patient", |context, name| {
    let table = ShmTable::open(&name)?;
    let worker = table.group(|group| {
        group.add(1, &[])?;
        // It cannot end before this group does.
        let worker = context.start(&WAITS_FOR_TABLE, name.clone())?;
        assert_eq!(context.try_join(worker)?, None);
        for timeout in [0, 1, 20] {
            assert_eq!(context.join_timeout(worker, std::time::Duration::from_millis(timeout))?, None);
        }
        assert_eq!(context.try_join(worker)?, None);
        Ok::<_, manycore::Error>(worker)
    })?;
    let forever = std::time::Duration::MAX;
    assert_eq!(context.join_timeout(worker, forever)?, Some(1));
    Ok(context.join(worker)?)
});

fn table() -> (String, ShmTable) {
    let table: ShmTable = TableOptions::new().create_unique("/manycore-test-XXXXXX").unwrap();
    (table.name().to_str().unwrap().to_owned(), table)
}

fn joining_can_wait_a_while_or_not_at_all() {
    let (name, table) = table();
    let length = leaving_nothing(|| Runtime::new().with(&WAITS_FOR_TABLE).run(&PATIENT, name));
    table.unlink().unwrap();
    assert_eq!(length.unwrap(), 1);
}

const CONFUSED: Worker<(WorkerId<u64>, WorkerId<u64>), ()> =
    Worker::fallible("confused", |context, (unknown, of_other_type)| {
        assert_eq!(context.join(unknown).unwrap_err(), JoinError::Unknown { number: 99 });
        assert_eq!(context.try_join(unknown).unwrap_err(), JoinError::Unknown { number: 99 });
        let length = context.start(&BIG, 5)?;
        assert_eq!(length.number(), of_other_type.number());
        match context.join(of_other_type).unwrap_err() {
            JoinError::WrongType { worker, .. } => assert_eq!(worker.name, "big"),
            other => panic!("{other}"),
        }
        assert_eq!(context.join(length)?, "xxxxx");
        Ok(())
    });

/// The id that a worker of this number has, as it comes from somewhere else.
fn id(number: u64) -> WorkerId<u64> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&number, &mut bytes).unwrap();
    ciborium::from_reader(&bytes[..]).unwrap()
}

fn foreign_numbers_and_types_are_errors() {
    leaving_nothing(|| Runtime::new().with(&BIG).run(&CONFUSED, (id(99), id(1)))).unwrap();
}

const DISTRACTED: Worker<WorkerId<u64>, ()> = Worker::fallible("distracted", |context, unknown| {
    let now = std::time::Duration::ZERO;
    // The answer to this comes while another is waited for; after that it must not be waited for.
    let _ = context.join_timeout(unknown, now);
    let worker = context.start(&ADD, (1.0, 2.0))?;
    let _ = context.join_timeout(worker, now)?;
    let other = context.start(&ADD, (3.0, 4.0))?;
    assert_eq!(context.join(other)?, 7.0);
    assert_eq!(context.try_join(other)?, Some(7.0));
    assert_eq!(context.join(unknown).unwrap_err(), JoinError::Unknown { number: 99 });
    assert_eq!(context.join(worker)?, 3.0);
    Ok(())
});

fn what_was_told_while_waiting_for_else_counts() {
    for _ in 0..20 {
        leaving_nothing(|| Runtime::new().with(&ADD).run(&DISTRACTED, id(99))).unwrap();
    }
}

/// Joins the worker of the given number, once it has been started, and tells how many were told of a circle.
const JOINS: Worker<WorkerId<u64>, u64> = Worker::fallible("joins", |context, worker| {
    loop {
        match context.join(worker) {
            Err(JoinError::Unknown { .. }) => std::thread::yield_now(),
            Err(JoinError::Deadlock { number }) => {
                assert_eq!(number, worker.number());
                return Ok(1);
            }
            result => return Ok(result?),
        }
    }
});

const CIRCLE: Worker<(), u64> = Worker::fallible("circle", |context, ()| {
    // Numbers are given in order: each of the three joins the next one, and the last one the first.
    let workers = [2, 3, 1].map(|next| context.start(&JOINS, id(next)));
    let mut circles = 0;
    for worker in workers {
        circles += context.join(worker?)?;
    }
    let alone = context.start(&JOINS, id(4))?;
    assert_eq!(alone.number(), 4);
    assert_eq!(context.join(alone)?, 1);
    Ok(circles)
});

fn a_circle_of_joins_is_a_deadlock() {
    // The one who is told of it gives 1 to the others.
    assert_eq!(leaving_nothing(|| Runtime::new().with(&JOINS).run(&CIRCLE, ())).unwrap(), 3);
}

/// Is told of a circle, as a rule, and then kills the other one: its end must still be told.
const FREED: Worker<(), bool> = Worker::fallible("freed", |context, ()| {
    let worker = context.start(&JOINS, id(0))?;
    // While these come and go, it begins to wait for this one.
    for _ in 0..5 {
        let passing = context.start(&PARENT, ())?;
        context.join(passing)?;
    }
    match context.join(worker) {
        Ok(1) => Ok(false),
        Err(JoinError::Deadlock { .. }) => {
            let master = getppid().unwrap().as_raw_nonzero();
            let list = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
            let me = std::process::id().to_string();
            let other = list.split_whitespace().find(|process| *process != me).unwrap().parse().unwrap();
            kill_process(Pid::from_raw(other).unwrap(), Signal::KILL)?;
            match context.join_timeout(worker, std::time::Duration::MAX) {
                Err(JoinError::Killed { signal: 9, .. }) => Ok(true),
                other => Err(Failure::new(format!("{other:?}"))),
            }
        }
        other => Err(Failure::new(format!("{other:?}"))),
    }
});

fn who_was_told_of_a_circle_can_ask_again() {
    let runs = (0..20).map(|_| Runtime::new().with(&JOINS).with(&PARENT).run(&FREED, ()).unwrap());
    // Each run is right; that the circle was met in one of them shows that this was tested.
    assert!(runs.filter(|freed| *freed).count() > 0);
}

/// Asks for the end of another worker, and does not wait for the answer.
const HASTY: Worker<(), u64> = Worker::fallible("hasty", |context, ()| {
    let worker = context.start(&PARENT, ())?;
    let _ = context.join_timeout(worker, std::time::Duration::ZERO)?;
    Ok(7)
});

fn results_survive_replies_that_come_too_late() {
    for _ in 0..300 {
        assert_eq!(Runtime::new().with(&PARENT).run(&HASTY, ()).unwrap(), 7);
    }
}

const TALKS_NONSENSE: Worker<(), ()> = Worker::fallible("talks nonsense", |context, ()| {
    rustix::io::write(&*context, b"\x05\0\0\0junk!")?;
    match context.start(&ADD, (1.0, 2.0)) {
        Err(StartError::MasterGone { .. }) => Ok(()),
        other => Err(Failure::new(format!("{other:?}"))),
    }
});

const LISTENS: Worker<(), String> = Worker::fallible("listens", |context, ()| {
    let worker = context.start(&TALKS_NONSENSE, ())?;
    let story = context.join(worker).unwrap_err().to_string();
    let other = context.start(&ADD, (1.0, 2.0))?;
    assert_eq!(context.join(other)?, 3.0);
    Ok(story)
});

fn garbage_on_the_link_ends_only_the_link() {
    let story =
        leaving_nothing(|| Runtime::new().with(&ADD).with(&TALKS_NONSENSE).run(&LISTENS, ())).unwrap();
    assert!(story.contains("`talks nonsense`") && story.contains("exited with code"), "{story}");
}

/// Leaves a process behind that keeps the link open until the pipe of its standard input ends.
const LEAVES_A_HOLDER: Worker<(), u32> = Worker::fallible("leaves a holder", |context, ()| {
    use manycore::spawn::{Child, Fork};
    let holder = Fork.fork(&[context.as_fd()], || {
        // Not to die with the worker.
        rustix::process::set_parent_process_death_signal(None).unwrap();
        loop {
            std::thread::park();
        }
    })?;
    let process = holder.id();
    std::mem::forget(holder);
    Ok(process)
});

fn a_link_held_by_another_stops_nobody() {
    let holder = Runtime::new().run(&LEAVES_A_HOLDER, ()).unwrap();
    let holder = Pid::from_raw(holder as i32).unwrap();
    // It may have died with the worker, if that was faster.
    let _ = kill_process(holder, Signal::KILL);
}

fn the_same_definition_may_come_twice() {
    fn twice(runtime: Runtime) -> Runtime {
        runtime.with(&ADD).with(&SAME)
    }
    static SAME: Worker<(), ()> = Worker::new("same", |_, ()| ());
    twice(twice(Runtime::new())).run(&SAME, ()).unwrap();
}

const BIG_JOINER: Worker<WorkerId<String>, usize> =
    Worker::fallible("big joiner", |context, worker| Ok(context.join(worker)?.len()));

const MOVERS: Worker<usize, Vec<usize>> = Worker::fallible("movers", |context, size| {
    let worker = context.start(&BIG, size)?;
    let joiners = (0..3).map(|_| context.start(&BIG_JOINER, worker)).collect::<Result<Vec<_>, _>>()?;
    joiners.into_iter().map(|joiner| Ok(context.join(joiner)?)).collect()
});

fn large_results_reach_several_joiners_at_once() {
    let size = 8 << 20;
    let sizes = leaving_nothing(|| Runtime::new().with(&BIG).with(&BIG_JOINER).run(&MOVERS, size)).unwrap();
    assert_eq!(sizes, [size; 3]);
}

const LATE: Worker<(String, WorkerId<()>), ()> = Worker::fallible("late", |context, (name, first)| {
    context.join(first)?;
    let refused = matches!(context.start(&ADD, (1.0, 2.0)), Err(StartError::ShuttingDown));
    ShmTable::open(name)?.add(1, &[refused as i32])?;
    Ok(())
});

const EARLY: Worker<(String, WorkerId<()>), ()> = Worker::fallible("early", |context, argument| {
    context.start(&LATE, argument)?;
    Ok(())
});

fn no_worker_starts_after_the_first_has_ended() {
    let (name, table) = table();
    let mut bytes = Vec::new();
    ciborium::into_writer(&0u64, &mut bytes).unwrap();
    let first: WorkerId<()> = ciborium::from_reader(&bytes[..]).unwrap();
    let result = leaving_nothing(|| Runtime::new().with(&LATE).with(&ADD).run(&EARLY, (name, first)));
    table.unlink().unwrap();
    result.unwrap();
    assert_eq!(table.find(1).unwrap(), Some(vec![1]), "the run waited for the second worker");
}

const HUNDRED: Worker<(), f64> = Worker::fallible("hundred", |context, ()| {
    let workers = (1..=100)
        .map(|number| context.start(&ADD, (f64::from(number), 0.0)))
        .collect::<Result<Vec<_>, _>>()?;
    workers.into_iter().map(|worker| Ok(context.join(worker)?)).sum()
});

fn a_hundred_workers_run_at_once_and_leave_nothing() {
    let sum = leaving_nothing(|| Runtime::new().with(&ADD).run(&HUNDRED, ())).unwrap();
    assert_eq!(sum, 5050.0);
}

/// One word, and the program does the same.
fn the_master_can_wait_by_every_poller() {
    fn check<P: Poller>() {
        type Platform<P> = With<PosixShm, Futex, P, Socket, Fork>;
        let sum = leaving_nothing(|| Runtime::<Platform<P>>::default().with(&ADD).run(&HUNDRED, ()));
        assert_eq!(sum.unwrap(), 5050.0);
    }
    check::<Poll>();
    check::<Select>();
    check::<Epoll>();
}

const CENSUS: Worker<(), Vec<i32>> = Worker::new("census", |context, ()| {
    use std::os::fd::AsRawFd;
    let mut open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    open.sort_unstable();
    // That of the directory itself is closed again.
    open.retain(|fd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap_or(false));
    let link = context.as_fd().as_raw_fd();
    assert!(open.contains(&link));
    open.retain(|fd| *fd != link);
    open
});

fn a_worker_has_only_the_descriptors_it_is_given() {
    let (_, table) = table();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let open = leaving_nothing(|| Runtime::new().run(&CENSUS, ())).unwrap();
    table.unlink().unwrap();
    drop(file);
    assert_eq!(open, [0, 1, 2]);
}

const HANGS: Worker<String, ()> = Worker::fallible("hangs", |_, name| {
    ShmTable::open(name)?.add(std::process::id() as i32, &[])?;
    loop {
        std::thread::park();
    }
});

const BROOD: Worker<String, ()> = Worker::fallible("brood", |context, name| {
    for _ in 0..3 {
        context.start(&HANGS, name.clone())?;
    }
    ShmTable::open(name)?.add(std::process::id() as i32, &[])?;
    loop {
        std::thread::park();
    }
});

fn workers_die_with_their_master() {
    use manycore::spawn::{Child, Exit, Fork};
    let (name, table) = table();
    let run_name = name.clone();
    let master =
        Fork.fork(&[], move || Runtime::new().with(&HANGS).run(&BROOD, run_name).is_ok() as i32).unwrap();
    while table.length().unwrap() < 4 {
        std::thread::yield_now();
    }
    let workers: Vec<_> = table
        .iter_keys()
        .unwrap()
        .map(|pid| pidfd_open(Pid::from_raw(pid.unwrap()).unwrap(), PidfdFlags::empty()).unwrap())
        .collect();
    master.kill(9).unwrap();
    assert!(matches!(master.wait().unwrap(), Exit::Signal { signal: 9, .. }));
    for worker in &workers {
        // Readable when the process has ended; the test hangs if it does not.
        let mut fds = [rustix::event::PollFd::new(worker, rustix::event::PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None)).unwrap();
    }
    PosixShm::unlink(name.as_ref()).unwrap();
}

fn a_process_with_threads_is_refused() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = stopped.recv();
    });
    let error = leaving_nothing(|| Runtime::new().run(&ADD, (1.0, 2.0))).unwrap_err();
    drop(stop);
    thread.join().unwrap();
    assert!(error.to_string().contains("2 threads"), "{error}");
    assert!(error.to_string().contains("before any thread"), "{error}");
    assert!(matches!(error, RunError::Spawn(_)));
}

fn a_program_without_entry_is_refused() {
    let run = || Runtime::<manycore::Execed>::default().run(&ADD, (1.0, 2.0));
    let error = leaving_nothing(run).unwrap_err();
    assert!(matches!(error, RunError::NotEntered), "{error}");
    assert!(error.to_string().contains("`Workers::enter` first in `main`"), "{error}");
}
