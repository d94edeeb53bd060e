//! Whoever may can look at a run and direct it while it goes on, and whatever visitors do, the run does not care.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use manycore::admin::{self, AdminError, LogLine, ObjectInfo, Run, State, Visitor, Wait, WorkerInfo};
use manycore::named::{Mutex, Semaphore, VarOptions};
use manycore::poll::{Interest, poll_single};
use manycore::shm::PosixShm;
use manycore::spawn::{Child, ChildProcess, Exit, Fork, Spawner};
use manycore::{
    Context, Execed, Failure, Forked, JoinError, Level, Mailbox, Platform, PoolError, Resource, RunError,
    Runtime, SharedVar, ShmTable, TableOptions, Worker, Workers,
};
use manycore_backends::testing::{TestCase, run_tests};
use rustix::process::{Pid, Resource as Limited, Rlimit, getrlimit, prlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[path = "census/mod.rs"]
mod census;
#[path = "platforms/mod.rs"]
mod platforms;
use census::leaving_nothing;
use platforms::on_all_platforms;

fn main() {
    workers().enter::<Execed>();
    let mut tests: Vec<TestCase> = on_all_platforms! {
        a_run_and_its_workers_are_shown
        a_worker_can_look_at_its_own_run
        workers_are_stopped_and_killed_by_their_numbers
        a_run_is_stopped_or_killed_as_a_whole
        a_pool_is_stopped_and_stays_so
        the_log_tells_what_has_happened_and_what_happens
        the_log_is_bounded
        last_words_are_in_the_log
        named_objects_are_shown_with_who_waits
        many_objects_come_in_pages
        many_workers_come_in_pages
        visitors_that_misbehave_stall_nobody
        who_was_quiet_for_longest_makes_room
        a_master_without_descriptors_goes_on
        a_master_that_is_stopped_does_not_answer_and_obeys_nobody_who_has_left
        what_a_dead_run_has_left_is_removed
    };
    let others: [TestCase; 5] = [
        ("runs_are_found_where_they_put_their_directories", runs_are_found_where_they_put_their_directories),
        ("workers_have_no_descriptor_of_a_visitor", workers_have_no_descriptor_of_a_visitor),
        (
            "only_the_same_user_and_the_superuser_may_connect",
            only_the_same_user_and_the_superuser_may_connect,
        ),
        ("where_nobody_runs_is_an_error", where_nobody_runs_is_an_error),
        ("a_master_of_another_version_is_recognised", a_master_of_another_version_is_recognised),
    ];
    tests.extend(others);
    run_tests(&tests);
}

fn workers() -> Workers {
    Workers::new()
        .with(&ADD)
        .with(&WAITS)
        .with(&ASKS)
        .with(&LEADS)
        .with(&LOOKS)
        .with(&JOINS)
        .with(&LEADS_ASKING)
        .with(&LOGS)
        .with(&FLOODS)
        .with(&MANY)
        .with(&LAST_WORDS)
        .with(&HEIR)
        .with(&LOCKS)
        .with(&KEEPS)
        .with(&KEEPS_MANY)
        .with(&WORKS)
        .with(&SOCKETS)
        .with(&HOLDS)
}

/// What the processes of masters exit with when their run was stopped from outside.
const STOPPED: i32 = 70;

/// More than any test takes.
const LONG: Duration = Duration::from_secs(3600);

/// A run with a directory of its own, whose master is a process of its own.
struct Master {
    process: ChildProcess,
    run: Run,
    /// Removed with this value.
    place: tempfile::TempDir,
}

impl Master {
    fn new<P: Platform, A>(first: &'static Worker<A, ()>, argument: impl FnOnce(&Path) -> A) -> Master
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        Runtime<P>: Send,
    {
        Master::with(first, argument, Runtime::<P>::default())
    }

    fn with<P: Platform, A>(
        first: &'static Worker<A, ()>,
        argument: impl FnOnce(&Path) -> A,
        runtime: Runtime<P>,
    ) -> Master
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        Runtime<P>: Send,
    {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        let runtime = runtime.with_all(&workers()).directory(&directory);
        let argument = argument(&directory);
        let process = Fork.fork(&[], move || code(runtime.run(first, argument))).unwrap();
        Master { process, run: Run::at(directory), place }
    }

    fn visit(&self) -> Visitor {
        visit(&self.run)
    }

    fn ended(&self) -> i32 {
        match self.process.wait().unwrap() {
            Exit::Code(code) => code,
            other => panic!("{other}"),
        }
    }
}

/// A test that fails leaves nothing.
impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.process.kill(9);
        let _ = self.process.wait();
    }
}

fn code(result: Result<(), RunError>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(RunError::Stopped) => STOPPED,
        Err(error) => {
            eprintln!("{error}");
            99
        }
    }
}

/// Talks to the run, as soon as it is there.
fn visit(run: &Run) -> Visitor {
    loop {
        match run.connect_within(LONG) {
            Ok(visitor) => return visitor,
            Err(AdminError::NotRunning { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Asks until the workers are as they should be.
fn wait_for(visitor: &mut Visitor, mut are: impl FnMut(&[WorkerInfo]) -> bool) -> Vec<WorkerInfo> {
    loop {
        let workers = visitor.workers().unwrap();
        if are(&workers) {
            return workers;
        }
        std::thread::yield_now();
    }
}

/// Asks until so many lines of the log are this one.
fn wait_for_lines(visitor: &mut Visitor, count: usize, text: &str) {
    while visitor.log(u64::MAX).unwrap().iter().filter(|line| line.text == text).count() < count {
        std::thread::yield_now();
    }
}

const ADD: Worker<(u32, u32), u32> = Worker::new("add", |_, (a, b)| a + b);

/// Never ends, and does not ask whether it should.
const WAITS: Worker<(), ()> = Worker::fallible("waits", |context, ()| wait(context));

fn wait(context: &mut Context) -> Result<(), Failure> {
    loop {
        poll_single(context.as_fd(), Interest::READ, None)?;
        context.next_ended()?;
    }
}

/// Ends when it is asked to.
const ASKS: Worker<(), ()> = Worker::fallible("asks", |context, ()| {
    context.should_stop();
    // That of a thread is made when it is first asked for.
    let _ = context.as_fd();
    context.log(Level::Info, "asking");
    while !context.should_stop() {
        poll_single(context.as_fd(), Interest::READ, None)?;
    }
    context.log(Level::Info, "tidied up");
    Ok(())
});

const LEADS: Worker<(), ()> = Worker::fallible("leads", |context, ()| {
    let first = context.start_in("the group", &WAITS, ())?;
    context.start(&WAITS, ())?;
    Ok(context.join(first)?)
});

fn is_process<P: Platform>() -> bool {
    <P::Spawn as Spawner<manycore::platform::WorkerEnd<P>>>::PROCESSES
}

fn a_run_and_its_workers_are_shown<P: Platform>() {
    leaving_nothing(|| {
        let before = SystemTime::now();
        let master = Master::new::<P, _>(&LEADS, |_| ());
        let mut visitor = master.visit();
        let workers = wait_for(&mut visitor, |workers| workers.len() == 3 && workers[0].waits_for.is_some());
        let info = visitor.refresh().unwrap().clone();
        assert_eq!((info.master, info.processes), (master.process.id(), is_process::<P>()));
        assert_eq!((info.running, info.ended, info.ending), (3, 0, false));
        assert!(!info.name.is_empty());
        assert!(before <= info.started && info.started <= workers[0].started);
        let shown: Vec<_> = workers
            .iter()
            .map(|worker| {
                assert_eq!((worker.thread, worker.member), (!is_process::<P>(), false));
                assert!(worker.started <= SystemTime::now());
                let process = worker.process == info.master;
                (worker.number, worker.name.as_str(), worker.group.as_deref(), worker.state, process)
            })
            .collect();
        let (running, thread) = (State::Running, !is_process::<P>());
        let expected = [
            (0, "leads", None, running, thread),
            (1, "waits", Some("the group"), running, thread),
            (2, "waits", None, running, thread),
        ];
        assert_eq!(shown, expected);
        let waits: Vec<_> = workers.iter().map(|worker| worker.waits_for.clone()).collect();
        assert_eq!(waits, [Some(Wait::Worker(1)), None, None]);
        if is_process::<P>() {
            let processes: BTreeSet<u32> = workers.iter().map(|worker| worker.process).collect();
            assert_eq!(processes.len(), 3);
            assert!(processes.iter().all(|process| Path::new(&format!("/proc/{process}")).exists()));
        }
        let mode = std::fs::metadata(master.run.directory()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        assert_eq!(visitor.kill_all().unwrap(), 3);
        assert_eq!(master.ended(), STOPPED);
        assert!(matches!(visitor.workers(), Err(AdminError::Closed { .. })));
    });
}

const LOOKS: Worker<PathBuf, ()> = Worker::fallible("looks", |context, directory| {
    let mut visitor = Run::at(directory).connect()?;
    assert_eq!(visitor.info().name, context.run());
    let worker = context.start(&ADD, (1, 2))?;
    assert_eq!(context.join(worker)?, 3);
    let info = visitor.refresh()?;
    assert_eq!((info.running, info.ended), (1, 1));
    Ok(())
});

fn a_worker_can_look_at_its_own_run<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&LOOKS, Path::to_owned);
        assert_eq!(master.ended(), 0);
    });
}

const JOINS: Worker<(), ()> = Worker::fallible("joins", |context, ()| {
    let asks = context.start(&ASKS, ())?;
    let waits = context.start(&WAITS, ())?;
    context.join(asks)?;
    match context.join(waits) {
        Err(JoinError::Cancelled { by: manycore::worker::CancelledBy::Command, .. }) => Ok(()),
        other => Err(Failure::new(format!("{other:?}"))),
    }
});

fn workers_are_stopped_and_killed_by_their_numbers<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&JOINS, |_| ());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "asking");
        wait_for(&mut visitor, |workers| workers.len() == 3);
        assert!(matches!(visitor.stop_worker(3, None), Err(AdminError::NoSuchWorker { number: 3 })));
        assert!(matches!(visitor.kill_worker(u64::MAX), Err(AdminError::NoSuchWorker { .. })));
        visitor.stop_worker(1, Some(LONG)).unwrap();
        // It was asked, or is gone already.
        wait_for(&mut visitor, |workers| workers.iter().all(|worker| worker.number != 1));
        assert!(visitor.log(u64::MAX).unwrap().iter().any(|line| line.text == "tidied up"));
        visitor.kill_worker(2).unwrap();
        assert_eq!(master.ended(), 0);
    });
}

const LEADS_ASKING: Worker<(), ()> = Worker::fallible("leads asking", |context, ()| {
    context.start(&ASKS, ())?;
    wait(context)
});

fn a_run_is_stopped_or_killed_as_a_whole<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&LEADS_ASKING, |_| ());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "asking");
        let log = master.visit().follow(0).unwrap();
        assert_eq!(visitor.stop_all(Some(LONG)).unwrap(), 2);
        let lines: Vec<String> = log.map(|line| line.unwrap().text).collect();
        assert!(lines.iter().any(|line| line == "tidied up"), "{lines:?}");
        assert!(lines.iter().any(|line| line.ends_with("has the run end")), "{lines:?}");
        assert_eq!(master.ended(), STOPPED);

        // With a grace time in which nobody would end.
        let master = Master::with::<P, _>(&LEADS, |_| (), Runtime::default().grace(LONG));
        let mut visitor = master.visit();
        wait_for(&mut visitor, |workers| workers.len() == 3);
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

fn a_pool_is_stopped_and_stays_so<P: Platform>() {
    leaving_nothing(|| {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        let runtime = Runtime::<P>::default().with_all(&workers()).directory(&directory);
        let process = Fork.fork(&[], move || {
            let mut pool = runtime.pool(&WAITS).workers(2);
            for _ in 0..2 {
                let result = pool.map([(), ()]);
                assert!(matches!(result, Err(PoolError::Run(RunError::Stopped))), "{result:?}");
            }
            0
        });
        let process = process.unwrap();
        let mut visitor = visit(&Run::at(&directory));
        let workers = wait_for(&mut visitor, |workers| workers.len() == 2);
        assert!(workers.iter().all(|worker| worker.member));
        assert_eq!(visitor.stop_all(None).unwrap(), 2);
        assert_eq!(process.wait().unwrap(), Exit::Code(0));
    });
}

const LOGS: Worker<(), ()> = Worker::fallible("logs", |context, ()| {
    for (level, text) in [
        (Level::Error, "ä".repeat(10_000)),
        (Level::Warn, "of\ntwo lines".to_owned()),
        (Level::Info, "asking".to_owned()),
    ] {
        context.log(level, text);
    }
    while !context.should_stop() {
        poll_single(context.as_fd(), Interest::READ, None)?;
    }
    context.log(Level::Debug, "tidied up");
    Err(Failure::new("no luck"))
});

fn the_log_tells_what_has_happened_and_what_happens<P: Platform>() {
    leaving_nothing(|| {
        let before = SystemTime::now();
        let master = Master::new::<P, _>(&LOGS, |_| ());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "asking");
        let lines = visitor.log(u64::MAX).unwrap();
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert!(lines[0].text.starts_with("`logs` started"), "{lines:?}");
        assert!(lines.iter().all(|line| line.worker == Some(0)));
        assert!(lines[0].time >= before && lines.is_sorted_by_key(|line| line.time));
        let levels: Vec<Level> = lines.iter().map(|line| line.level).collect();
        assert_eq!(levels, [Level::Debug, Level::Error, Level::Warn, Level::Info]);
        assert!((4080..=4096).contains(&lines[1].text.len()) && lines[1].text.ends_with("ä [...]"));
        assert_eq!(lines[2].text, "of\ntwo lines");
        assert_eq!(visitor.log(1).unwrap(), lines[3..]);
        assert_eq!(visitor.log(0).unwrap(), []);

        let mut log = master.visit().follow(2).unwrap();
        assert_eq!(log.next_line(None).unwrap(), lines[2]);
        assert_eq!(log.next_line(None).unwrap(), lines[3]);
        assert!(matches!(log.next_line(Some(Duration::ZERO)), Err(AdminError::TimedOut { .. })));
        let own = std::process::id();
        visitor.stop_worker(0, Some(LONG)).unwrap();
        let rest: Vec<LogLine> = log.map(Result::unwrap).collect();
        let texts: Vec<&str> = rest.iter().map(|line| line.text.as_str()).collect();
        let expected =
            [format!("process {own} has it end"), "is terminated by a command from outside".into()];
        assert_eq!(texts[..2], expected);
        assert_eq!(texts[2], "tidied up");
        assert!(texts[3].contains("no luck"), "{texts:?}");
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert_eq!(master.ended(), STOPPED_BY_ITSELF);
    });
}

/// What a master exits with when its first worker has failed.
const STOPPED_BY_ITSELF: i32 = 99;

const FLOODS: Worker<(), ()> = Worker::fallible("floods", |context, ()| {
    for number in 0..3000 {
        context.log(Level::Debug, format!("{number}{}", "x".repeat(3000)));
    }
    context.log(Level::Info, "done");
    wait(context)
});

fn the_log_is_bounded<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&FLOODS, |_| ());
        let mut visitor = master.visit();
        // Who does not read misses something, and stops nobody.
        let mut slow = master.visit().follow(0).unwrap();
        wait_for_lines(&mut visitor, 1, "done");
        let lines = visitor.log(u64::MAX).unwrap();
        assert_eq!(lines.len(), 1024);
        assert_eq!((lines[0].number, lines[1023].number), (3002 - 1024, 3001));
        let mut next = None;
        let mut missed = 0;
        loop {
            let line = slow.next_line(None).unwrap();
            missed += line.number - next.unwrap_or(line.number);
            next = Some(line.number + 1);
            if line.text == "done" {
                break;
            }
        }
        assert!(missed > 0, "no socket holds nine megabytes");
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

const LAST_WORDS: Worker<u32, ()> = Worker::new("last words", |context, words| {
    for _ in 0..words {
        context.log(Level::Warn, "word");
    }
    context.exit(3)
});

const HEIR: Worker<(), ()> = Worker::fallible("heir", |context, ()| {
    let worker = context.start(&LAST_WORDS, 500)?;
    assert!(matches!(context.join(worker), Err(JoinError::Exited { code: 3, .. })));
    context.log(Level::Info, "over");
    wait(context)
});

fn last_words_are_in_the_log<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&HEIR, |_| ());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "over");
        let lines = visitor.log(u64::MAX).unwrap();
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts.iter().filter(|text| **text == "word").count(), 500);
        let last = texts.iter().rposition(|text| *text == "word").unwrap();
        assert!(texts[last + 1].contains("exited with code 3"), "{:?}", &texts[last..]);
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

const NUMBER: SharedVar<u64> = SharedVar::new("number");
const LOCK: Mutex = Mutex::new("lock");
const UNITS: Semaphore = Semaphore::new("units");
const POST: Mailbox<String> = Mailbox::with_capacity("post", 4);

const LOCKS: Worker<(), ()> = Worker::fallible("locks", |context, ()| {
    let _guard = LOCK.lock(context)?;
    wait(context)
});

const KEEPS: Worker<(), ()> = Worker::fallible("keeps", |context, ()| {
    NUMBER.create_with(context, VarOptions::new().value(&7).owned().read_only())?;
    UNITS.create(context, 3)?;
    UNITS.decrement(context, 1)?;
    POST.send(context, &"a".to_owned())?;
    POST.send(context, &"b".to_owned())?;
    let _guard = LOCK.lock(context)?;
    context.start(&LOCKS, ())?;
    wait(context)
});

fn named_objects_are_shown_with_who_waits<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&KEEPS, |_| ());
        let mut visitor = master.visit();
        let workers = wait_for(&mut visitor, |workers| workers.len() == 2 && workers[1].waits_for.is_some());
        match &workers[1].waits_for {
            Some(Wait::Object { kind, name, .. }) => assert_eq!((&kind[..], &name[..]), ("mutex", "lock")),
            other => panic!("{other:?}"),
        }
        let objects = visitor.objects().unwrap();
        assert_eq!(objects.len(), 4, "{objects:?}");
        match &objects[0] {
            ObjectInfo::Variable { name, type_name, bytes, owner, constant, waiters, .. } => {
                assert_eq!((&name[..], &type_name[..], *bytes), ("number", "u64", Some(1)));
                assert_eq!((*owner, *constant, &waiters[..]), (Some(0), true, &[][..]));
            }
            other => panic!("{other:?}"),
        }
        match &objects[1] {
            ObjectInfo::Mutex { name, holder, waiters, .. } => {
                assert_eq!((&name[..], *holder, &waiters[..]), ("lock", Some(0), &[1][..]));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(&objects[2], ObjectInfo::Semaphore { name, units: 2, .. } if name == "units"));
        assert!(matches!(&objects[3], ObjectInfo::Mailbox { name, messages: 2, .. } if name == "post"));
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

const KEEPS_MANY: Worker<(), ()> = Worker::fallible("keeps many", |context, ()| {
    for number in 0..1000 {
        let name = format!("{number:03}{}", "x".repeat(250));
        SharedVar::<String>::named(name).create(context)?;
    }
    context.log(Level::Info, "done");
    wait(context)
});

fn many_objects_come_in_pages<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&KEEPS_MANY, |_| ());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "done");
        let objects = visitor.objects().unwrap();
        assert_eq!(objects.len(), 1000);
        for (number, object) in objects.iter().enumerate() {
            let prefix = format!("{number:03}x");
            let is_it = |name: &str| name.starts_with(&prefix);
            assert!(matches!(object, ObjectInfo::Variable { name, .. } if is_it(name)), "{object:?}");
        }
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

const MANY: Worker<(), ()> = Worker::fallible("many", |context, ()| {
    let name = "a group with a long name ".repeat(20);
    for _ in 0..150 {
        context.start_in(&name, &WAITS, ())?;
    }
    wait(context)
});

fn many_workers_come_in_pages<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&MANY, |_| ());
        let mut visitor = master.visit();
        let workers = wait_for(&mut visitor, |workers| workers.len() == 151);
        assert!(workers.iter().map(|worker| worker.number).eq(0..151));
        let group = workers[150].group.as_deref().unwrap();
        assert!(group.starts_with("a group with a long name") && group.len() <= 200, "{group}");
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

/// Starts and joins one worker after the other.
const WORKS: Worker<(), ()> = Worker::fallible("works", |context, ()| {
    context.should_stop();
    let mut count = 0;
    while !context.should_stop() {
        match context.start(&ADD, (count, 1)).map(|worker| context.join(worker)) {
            Ok(Ok(sum)) => assert_eq!(sum, count + 1),
            _ if context.should_stop() => {}
            other => panic!("{other:?}"),
        }
        count += 1;
    }
    Ok(())
});

/// Waits until the run has done something since.
fn make_sure_it_works(visitor: &mut Visitor) {
    let ended = visitor.refresh().unwrap().ended;
    while visitor.refresh().unwrap().ended < ended + 3 {
        std::thread::yield_now();
    }
}

/// A connection to the master's socket.
fn raw(master: &Master) -> UnixStream {
    UnixStream::connect(master.run.directory().join("master")).unwrap()
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], payload].concat()
}

/// Waits for something, which is the end.
fn is_hung_up(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        // It had not read all.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// The next answer, as bytes.
fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).unwrap();
    let mut payload = vec![0; u32::from_le_bytes(header) as usize];
    stream.read_exact(&mut payload).unwrap();
    payload
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The question what run this is: version 1, and the text `Run` in CBOR.
const QUESTION: &[u8] = b"\x01\x63Run";

fn visitors_that_misbehave_stall_nobody<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&WORKS, |_| ());
        let mut visitor = master.visit();
        let silent = raw(&master);

        // What is not understood is answered, and the next question is another one.
        let mut odd = raw(&master);
        for (payload, complaint) in [
            (&b"\x02\x63Run"[..], "version 2"),
            (b"", "empty"),
            (b"\x01\xff\xff", "enum"),
            (b"\x01\x63Ran", "Ran"),
        ] {
            odd.write_all(&frame(payload)).unwrap();
            let answer = read_frame(&mut odd);
            assert!(contains(&answer, "NotUnderstood") && contains(&answer, complaint), "{answer:?}");
        }
        odd.write_all(&frame(&[1; 64 << 10])).unwrap();
        assert!(contains(&read_frame(&mut odd), "NotUnderstood"));
        odd.write_all(&frame(QUESTION)).unwrap();
        assert!(contains(&read_frame(&mut odd), "master"));

        // What is announced as too long is not waited for.
        let mut oversized = raw(&master);
        oversized.write_all(&(1_u32 << 20).to_le_bytes()).unwrap();
        assert!(is_hung_up(&mut oversized));

        // A part of a question, and then nothing, or the end.
        let mut partial = raw(&master);
        partial.write_all(&frame(QUESTION)[..6]).unwrap();
        let mut cut = raw(&master);
        cut.write_all(&frame(QUESTION)[..6]).unwrap();
        drop(cut);

        // Who asks and asks and reads nothing is not heard any more, and all that it can fill is its own link.
        let mut deaf = raw(&master);
        deaf.set_nonblocking(true).unwrap();
        let question = frame(QUESTION).repeat(1000);
        let full = (0..10_000).find_map(|_| deaf.write(&question).err());
        assert_eq!(full.map(|error| error.kind()), Some(ErrorKind::WouldBlock));

        make_sure_it_works(&mut visitor);
        assert_eq!(visitor.log(1).unwrap().len(), 1);
        make_sure_it_works(&mut visitor);
        // When it reads, there are its answers, more than were under way.
        deaf.set_nonblocking(false).unwrap();
        for _ in 0..5000 {
            assert!(contains(&read_frame(&mut deaf), "master"));
        }
        drop((silent, partial, deaf));

        visitor.stop_worker(0, Some(LONG)).unwrap();
        assert_eq!(master.ended(), 0);
    });
}

fn who_was_quiet_for_longest_makes_room<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&WORKS, |_| ());
        let mut visitor = master.visit();
        let mut silent: Vec<UnixStream> = Vec::new();
        for _ in 0..40 {
            silent.push(raw(&master));
        }
        // It has asked before.
        visitor.refresh().unwrap();
        for stream in &mut silent[..25] {
            assert!(is_hung_up(stream));
        }
        for stream in &mut silent[25..] {
            stream.write_all(&frame(QUESTION)).unwrap();
            assert!(contains(&read_frame(stream), "master"));
        }
        make_sure_it_works(&mut visitor);
        drop(silent);
        make_sure_it_works(&mut visitor);
        visitor.stop_worker(0, Some(LONG)).unwrap();
        assert_eq!(master.ended(), 0);
    });
}

fn a_master_without_descriptors_goes_on<P: Platform>() {
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&ASKS, |_| ());
        let mut first = master.visit();
        let mut second = master.visit();
        wait_for_lines(&mut first, 1, "asking");
        second.refresh().unwrap();
        let pid = Pid::from_raw(master.process.id() as i32);
        let limit = |current| {
            let limit = Rlimit { current, ..getrlimit(Limited::Nofile) };
            prlimit(pid, Limited::Nofile, limit).unwrap().current
        };
        let before = limit(Some(lowest_free_descriptor(&master)));
        // There is one as soon as somebody has left.
        let mut third = raw(&master);
        third.write_all(&frame(QUESTION)).unwrap();
        assert!(contains(&read_frame(&mut third), "master"));
        assert!(matches!(first.refresh(), Err(AdminError::Closed { .. })));
        second.refresh().unwrap();
        // There is none when all have left: it waits.
        limit(before);
        drop((first, second, third));
        while sockets_of_visitors(&master) > 0 {
            std::thread::yield_now();
        }
        limit(Some(lowest_free_descriptor(&master)));
        let mut fourth = raw(&master);
        fourth.write_all(&frame(QUESTION)).unwrap();
        fourth.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        assert_eq!(fourth.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        fourth.set_read_timeout(None).unwrap();
        limit(before);
        assert!(contains(&read_frame(&mut fourth), "master"));
        master.visit().kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

fn descriptors(master: &Master) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", master.process.id())).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

fn lowest_free_descriptor(master: &Master) -> u64 {
    let taken = descriptors(master);
    (0..).find(|descriptor| !taken.contains(descriptor)).unwrap()
}

/// How many connections the master has at its socket.
fn sockets_of_visitors(master: &Master) -> usize {
    let path = master.run.directory().join("master");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    // State 01 is one that listens, 03 one that is connected; the path is the last word.
    let connected = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.last() == Some(&path.to_str().unwrap()) && words.get(5) == Some(&"03")
    };
    sockets.lines().filter(connected).count()
}

fn a_master_that_is_stopped_does_not_answer_and_obeys_nobody_who_has_left<P: Platform>() {
    const SIGSTOP: i32 = 19;
    const SIGCONT: i32 = 18;
    leaving_nothing(|| {
        let master = Master::new::<P, _>(&LEADS, |_| ());
        let mut visitor = master.visit();
        wait_for(&mut visitor, |workers| workers.len() == 3);
        let moment = Duration::from_millis(20);
        let mut patient = master.run.connect().unwrap();
        let mut brief = master.run.connect_within(moment).unwrap();
        master.process.kill(SIGSTOP).unwrap();
        wait_until_stopped(master.process.id());
        assert!(matches!(brief.kill_all(), Err(AdminError::TimedOut { timeout, .. }) if timeout == moment));
        assert!(matches!(brief.kill_all(), Err(AdminError::Closed { .. })), "it is over");
        assert!(master.run.is_alive());
        assert!(matches!(master.run.connect_within(moment), Err(AdminError::TimedOut { .. })));
        drop(brief);
        master.process.kill(SIGCONT).unwrap();
        for _ in 0..3 {
            assert!(!patient.refresh().unwrap().ending);
        }
        assert_eq!(visitor.workers().unwrap().len(), 3);
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);
    });
}

fn wait_until_stopped(process: u32) {
    let is_stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    while !is_stopped() {
        std::thread::yield_now();
    }
}

const HOLDS: Worker<String, ()> = Worker::fallible("holds", |context, object| {
    context.register(Resource::PosixShm(object.clone().into()))?;
    let _: ShmTable = TableOptions::new().create(&object)?;
    context.log(Level::Info, "holding");
    wait(context)
});

/// A name that no other test has.
fn name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    format!("/admin-{}-{now}", std::process::id())
}

fn what_a_dead_run_has_left_is_removed<P: Platform>() {
    leaving_nothing(|| {
        let object = name();
        let master = Master::new::<P, _>(&HOLDS, |_| object.clone());
        let mut visitor = master.visit();
        wait_for_lines(&mut visitor, 1, "holding");
        let directory = master.run.directory();
        assert!(matches!(admin::leftover(directory), Err(AdminError::Running { .. })));
        assert!(matches!(admin::clean(directory), Err(AdminError::Running { .. })));
        let exists = || ShmTable::<PosixShm>::open(&object).is_ok();
        assert!(exists() && visitor.refresh().is_ok());

        master.process.kill(9).unwrap();
        master.process.wait().unwrap();
        assert!(matches!(visitor.refresh(), Err(AdminError::Closed { .. })));
        assert!(matches!(master.run.connect(), Err(AdminError::NotRunning { .. })));
        assert!(!master.run.is_alive() && exists());
        let leftover = admin::leftover(directory).unwrap();
        assert_eq!(leftover.directory, directory);
        assert_eq!(leftover.resources, [Resource::PosixShm(object.clone().into())]);
        assert!(exists(), "it was only looked at");
        assert_eq!(admin::clean(directory).unwrap(), []);
        assert!(!exists());
        // The directory was chosen by the program.
        assert_eq!(directory.read_dir().unwrap().count(), 0);
        assert!(matches!(admin::clean(directory), Err(AdminError::NothingThere { .. })));
    });
}

fn runs_are_found_where_they_put_their_directories() {
    leaving_nothing(|| {
        let runtime = Runtime::<Forked>::default().with_all(&workers());
        let master = Fork.fork(&[], move || code(runtime.run(&WAITS, ()))).unwrap();
        let is_ours = |run: &Run| {
            // Other tests' masters come and go, or are stopped.
            run.connect_within(Duration::from_millis(20))
                .is_ok_and(|visitor| visitor.info().master == master.id())
        };
        let run = loop {
            if let Some(run) = admin::runs().into_iter().find(is_ours) {
                break run;
            }
        };
        assert!(admin::leftovers().iter().all(|leftover| leftover.directory != run.directory()));
        run.connect().unwrap().kill_all().unwrap();
        assert_eq!(master.wait().unwrap(), Exit::Code(STOPPED));
        assert!(!run.directory().exists());
        assert!(!admin::runs().contains(&run));
        assert_eq!(admin::runs_in(run.directory().join("nowhere")), []);
    });
}

/// Says how many sockets it has.
const SOCKETS: Worker<(), usize> = Worker::new("sockets", |_, ()| {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
});

fn workers_have_no_descriptor_of_a_visitor() {
    fn on<P: Platform>() {
        let starts = Worker::<PathBuf, usize>::fallible("starts sockets", |context, directory| {
            let visitor = Run::at(directory).connect()?;
            let worker = context.start(&SOCKETS, ())?;
            let count = context.join(worker)?;
            drop(visitor);
            Ok(count)
        });
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        let runtime = Runtime::<P>::default().with_all(&workers()).directory(&directory);
        assert_eq!(runtime.run(&starts, directory).unwrap(), 1, "its link");
    }
    leaving_nothing(on::<Forked>);
}

/// The exit code of what `body` finds out as another user.
fn as_nobody(body: impl FnOnce() -> i32 + Send + 'static) -> ChildProcess {
    Fork.fork(&[], move || {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(NOBODY.into()).unwrap();
        nix::unistd::setuid(NOBODY.into()).unwrap();
        body()
    })
    .unwrap()
}

const NOBODY: u32 = 65534;

fn only_the_same_user_and_the_superuser_may_connect() {
    if !nix::unistd::geteuid().is_root() {
        println!("only the superuser can try");
        return;
    }
    leaving_nothing(|| {
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let master = Master::new::<Forked, _>(&WAITS, |_| ());
        let mut visitor = master.visit();
        open(master.place.path(), 0o755);
        let look = |run: Run| {
            as_nobody(move || match run.connect() {
                Ok(_) => 1,
                Err(AdminError::NotAllowed { .. }) => 2,
                Err(AdminError::Closed { .. }) => 3,
                Err(error) => {
                    eprintln!("{error}");
                    4
                }
            })
        };
        assert_eq!(look(master.run.clone()).wait().unwrap(), Exit::Code(2), "the directory is closed");
        // If that were not so, the master would look who is there.
        open(master.run.directory(), 0o755);
        open(&master.run.directory().join("master"), 0o777);
        assert_eq!(look(master.run.clone()).wait().unwrap(), Exit::Code(3), "the master hangs up");
        assert!(!visitor.refresh().unwrap().ending);
        visitor.kill_all().unwrap();
        assert_eq!(master.ended(), STOPPED);

        // The superuser looks at a run of somebody else.
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let directory = place.path().join("run");
        let runtime = Runtime::<Forked>::new().with_all(&workers()).directory(&directory);
        let master = as_nobody(move || code(runtime.run(&WAITS, ())));
        visit(&Run::at(directory)).kill_all().unwrap();
        assert_eq!(master.wait().unwrap(), Exit::Code(STOPPED));
    });
}

fn where_nobody_runs_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    for directory in [place.path().to_owned(), place.path().join("nowhere"), place.path().join("a/b")] {
        let run = Run::at(&directory);
        assert!(!run.is_alive());
        assert!(matches!(run.connect(), Err(AdminError::NotRunning { directory: d }) if d == directory));
        assert!(matches!(admin::leftover(&directory), Err(AdminError::NothingThere { .. })));
        assert!(matches!(admin::clean(&directory), Err(AdminError::NothingThere { .. })));
    }
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Run::at(&file).connect(), Err(AdminError::NotRunning { .. })));
    // Something with the name of a ledger is not touched.
    std::fs::write(place.path().join("ledger"), "of mine\n").unwrap();
    assert!(matches!(admin::clean(place.path()), Err(AdminError::Directory(_))));
    assert_eq!(std::fs::read(place.path().join("ledger")).unwrap(), b"of mine\n");
}

fn a_master_of_another_version_is_recognised() {
    leaving_nothing(|| {
        let place = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(place.path().join("master")).unwrap();
        let visitor = Fork.fork(&[], {
            let run = Run::at(place.path());
            move || match run.connect() {
                Err(AdminError::Version { theirs: 2, ours: 1, .. }) => 0,
                other => {
                    eprintln!("{other:?}");
                    1
                }
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(b"\x02something new")).unwrap();
        assert_eq!(visitor.unwrap().wait().unwrap(), Exit::Code(0));
    });
}
