//! Whatever ends a run, nothing is left of it: a signal to the master ends it in order, its death takes the workers along
//! and leaves the rest to the next run, and workers that are killed at any moment are told of exactly.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use manycore::master::DirectoryError;
use manycore::poll::{Interest, poll_single};
use manycore::posix::semaphore::NamedSemaphore;
use manycore::shm::PosixShm;
use manycore::spawn::{Child, ChildProcess, Exit, Fork};
use manycore::{
    Context, Execed, Failure, Forked, JoinError, Platform, Resource, ResourceError, RunError, Runtime,
    ShmBackend, ShmTable, TableOptions, Worker, WorkerId, Workers,
};
use manycore_backends::testing::{TestCase, run_tests};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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
        a_signal_to_the_master_ends_the_run_in_order
        a_signal_gives_workers_that_ask_time_to_tidy_up
        a_second_signal_kills_who_is_left
        the_program_can_keep_its_signals
        after_a_run_signals_do_what_they_did_before
        the_death_of_the_master_ends_all_and_the_next_run_cleans_up
        any_later_run_of_the_user_cleans_up
        registered_objects_are_removed_at_the_end
        objects_can_be_removed_and_released_before
        names_are_unique
        two_runs_cannot_have_one_directory
        workers_killed_at_random_are_told_of_exactly
        a_pool_between_two_maps_heeds_no_signal
        a_signal_during_the_end_is_told
        an_ignored_signal_stays_ignored
    };
    let others: [TestCase; 7] = [
        ("a_file_that_is_no_ledger_is_left_alone", a_file_that_is_no_ledger_is_left_alone),
        (
            "a_ledger_that_cannot_be_written_names_nothing_else",
            a_ledger_that_cannot_be_written_names_nothing_else,
        ),
        ("a_place_that_cannot_be_used_is_passed_over", a_place_that_cannot_be_used_is_passed_over),
        ("a_directory_that_others_can_write_to_is_refused", a_directory_that_others_can_write_to_is_refused),
        (
            "a_directory_is_made_and_removed_or_left_as_it_was",
            a_directory_is_made_and_removed_or_left_as_it_was,
        ),
        (
            "a_worker_that_runs_the_program_anew_has_only_its_link",
            a_worker_that_runs_the_program_anew_has_only_its_link,
        ),
        ("what_a_killed_worker_left_open_stops_nobody", what_a_killed_worker_left_open_stops_nobody),
    ];
    tests.extend(others);
    run_tests(&tests);
}

fn workers() -> Workers {
    Workers::new()
        .with(&ADD)
        .with(&SPINS)
        .with(&HOLDS)
        .with(&TIDIES)
        .with(&DEFIES)
        .with(&REGISTERS)
        .with(&RELEASES)
        .with(&NAMES)
        .with(&WAITS_FOR)
        .with(&CENSUS)
        .with(&CHAOS)
        .with(&RELAY)
        .with(&MAKES)
        .with(&LEAVES_A_CHILD)
        .with(&FILLS)
        .with(&JOINS_LEAVER)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::<P>::default().with_all(&workers())
}

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// A name that no other test has.
fn name(what: &str) -> String {
    use std::time::{SystemTime, UNIX_EPOCH};
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("/supervision-{what}-{}-{now}", std::process::id())
}

/// A table in shared memory for what workers have to tell the test, which is removed with this value.
struct Board {
    name: String,
    table: ShmTable,
}

impl Board {
    fn new() -> Board {
        let name = name("board");
        Board { table: TableOptions::new().create(&name).unwrap(), name }
    }

    /// Waits until there are so many bindings.
    fn wait_for(&self, count: usize) {
        while self.table.length().unwrap() < count {
            std::thread::yield_now();
        }
    }

    fn processes(&self) -> Vec<i32> {
        self.table.iter_keys().unwrap().map(Result::unwrap).collect()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = PosixShm::unlink(self.name.as_ref());
    }
}

fn post(board: &str, key: i32) -> Result<(), Failure> {
    Ok(ShmTable::open(board)?.add(key, &[1])?)
}

fn own_process() -> i32 {
    std::process::id() as i32
}

fn exists(object: &str) -> bool {
    ShmTable::open(object).is_ok()
}

/// Runs `first` on `P` in a process of its own. Its exit code is the signal that has interrupted the run, or 0, or 99.
fn master<P: Platform, A>(first: &'static Worker<A, ()>, argument: A, runtime: Runtime<P>) -> ChildProcess
where
    A: Serialize + serde::de::DeserializeOwned + Send + 'static,
    Runtime<P>: Send,
{
    Fork.fork(&[], move || match runtime.run(first, argument) {
        Ok(()) => 0,
        Err(RunError::Interrupted { signal }) => signal,
        Err(error) => {
            eprintln!("{error}");
            99
        }
    })
    .unwrap()
}

const ADD: Worker<(f64, f64), f64> = Worker::new("add", |_, (a, b)| a + b);

const SPINS: Worker<String, ()> = Worker::fallible("spins", |context, board| {
    post(&board, own_process())?;
    spin(context)
});

fn spin(context: &mut Context) -> Result<(), Failure> {
    loop {
        context.next_ended()?;
        std::thread::yield_now();
    }
}

/// Registers and creates an object, starts some workers, and never ends.
const HOLDS: Worker<(String, String), ()> = Worker::fallible("holds", |context, (object, board)| {
    context.register(Resource::PosixShm(object.clone().into()))?;
    let _: ShmTable = TableOptions::new().create(&object)?;
    for _ in 0..3 {
        context.start(&SPINS, board.clone())?;
    }
    post(&board, own_process())?;
    spin(context)
});

/// Waits until the processes are gone. The test hangs if they do not go.
fn wait_until_gone(processes: &[i32]) {
    for process in processes {
        // Else it is gone already.
        if let Ok(pidfd) = pidfd_open(Pid::from_raw(*process).unwrap(), PidfdFlags::empty()) {
            poll_single(pidfd.as_fd(), Interest::READ, None).unwrap();
        }
    }
}

fn a_signal_to_the_master_ends_the_run_in_order<P: Platform>() {
    for signal in [SIGTERM, SIGINT] {
        leaving_nothing(|| {
            let board = Board::new();
            let object = name("object");
            let master = master(&HOLDS, (object.clone(), board.name.clone()), runtime::<P>());
            board.wait_for(4);
            assert!(exists(&object));
            master.kill(signal).unwrap();
            assert_eq!(master.wait().unwrap(), Exit::Code(signal));
            assert!(!exists(&object), "it was registered");
            let mut processes = board.processes();
            processes.retain(|process| *process != master.id() as i32);
            for process in processes {
                assert!(!Path::new(&format!("/proc/{process}")).exists(), "the master has waited for it");
            }
        });
    }
}

/// Starts a worker that asks whether it should stop, and asks so itself.
const TIDIES: Worker<(bool, String), ()> = Worker::fallible("tidies", |context, (leads, board)| {
    if leads {
        context.start(&TIDIES, (false, board.clone()))?;
    }
    context.should_stop();
    post(&board, 1)?;
    while !context.should_stop() {
        poll_single(context.as_fd(), Interest::READ, None)?;
    }
    post(&board, 2)
});

/// More than any test takes.
const LONG: Duration = Duration::from_secs(3600);

fn a_signal_gives_workers_that_ask_time_to_tidy_up<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let master = master(&TIDIES, (true, board.name.clone()), runtime::<P>().grace(LONG));
        board.wait_for(2);
        master.kill(SIGTERM).unwrap();
        assert_eq!(master.wait().unwrap(), Exit::Code(SIGTERM));
        assert_eq!(board.table.find_all(2).unwrap().len(), 2, "both have tidied up");
    });
}

/// Says that it was asked to stop, and does not.
const DEFIES: Worker<String, ()> = Worker::fallible("defies", |context, board| {
    context.should_stop();
    post(&board, 1)?;
    while !context.should_stop() {
        std::thread::yield_now();
    }
    post(&board, 2)?;
    spin(context)
});

fn a_second_signal_kills_who_is_left<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let master = master(&DEFIES, board.name.clone(), runtime::<P>().grace(LONG));
        board.wait_for(1);
        master.kill(SIGINT).unwrap();
        board.wait_for(2);
        master.kill(SIGINT).unwrap();
        assert_eq!(master.wait().unwrap(), Exit::Code(SIGINT));
    });
}

fn the_program_can_keep_its_signals<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let master = master(&SPINS, board.name.clone(), runtime::<P>().signals(false));
        board.wait_for(1);
        let workers = board.processes();
        master.kill(SIGTERM).unwrap();
        assert!(matches!(master.wait().unwrap(), Exit::Signal { signal: SIGTERM, .. }));
        wait_until_gone(&workers);
    });
}

fn after_a_run_signals_do_what_they_did_before<P: Platform>() {
    leaving_nothing(|| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let program = Fork.fork(&[writer.as_fd()], {
            let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
            move || {
                assert_eq!(runtime::<P>().run(&ADD, (1.0, 2.0)).unwrap(), 3.0);
                std::fs::write(format!("/proc/self/fd/{number}"), "x").unwrap();
                loop {
                    std::thread::park();
                }
            }
        });
        let program = program.unwrap();
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 1);
        program.kill(SIGTERM).unwrap();
        assert!(matches!(program.wait().unwrap(), Exit::Signal { signal: SIGTERM, .. }));
    });
}

/// A directory for a test, which is removed with this value.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn the_death_of_the_master_ends_all_and_the_next_run_cleans_up<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let object = name("object");
        let place = directory();
        let path = place.path().join("run");
        let arguments = (object.clone(), board.name.clone());
        let master = master(&HOLDS, arguments, runtime::<P>().directory(&path));
        board.wait_for(4);
        let workers = board.processes();
        master.kill(SIGKILL).unwrap();
        assert!(matches!(master.wait().unwrap(), Exit::Signal { signal: SIGKILL, .. }));
        wait_until_gone(&workers);
        assert!(exists(&object), "nobody was there to remove it");
        let sum = runtime::<P>().directory(&path).run(&ADD, (1.0, 2.0)).unwrap();
        assert_eq!(sum, 3.0);
        assert!(!exists(&object));
    });
}

fn any_later_run_of_the_user_cleans_up<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let object = name("object");
        let master = master(&HOLDS, (object.clone(), board.name.clone()), runtime::<P>());
        board.wait_for(4);
        // A living run is left alone.
        runtime::<P>().run(&ADD, (1.0, 2.0)).unwrap();
        assert!(exists(&object));
        master.kill(SIGKILL).unwrap();
        master.wait().unwrap();
        wait_until_gone(&board.processes());
        // Another test's run may be at it, too.
        while exists(&object) {
            runtime::<P>().run(&ADD, (1.0, 2.0)).unwrap();
        }
    });
}

/// Objects of each kind, with their names.
#[derive(Clone, Serialize, Deserialize)]
struct Objects {
    shm: String,
    semaphore: String,
    file: PathBuf,
}

impl Objects {
    fn new(place: &tempfile::TempDir) -> Objects {
        let file = place.path().join("odd name\n100%");
        Objects { shm: name("shm"), semaphore: name("semaphore"), file }
    }

    fn resources(&self) -> [Resource; 3] {
        [
            Resource::PosixShm(self.shm.clone().into()),
            Resource::Semaphore(self.semaphore.clone().into()),
            Resource::File(self.file.clone().into()),
        ]
    }

    fn create(&self) -> Result<(), Failure> {
        let _: ShmTable = TableOptions::new().create(&self.shm)?;
        NamedSemaphore::create_new(&self.semaphore, 0o600, 0)?;
        std::fs::write(&self.file, "content")?;
        Ok(())
    }

    /// The name of another shared memory, which is no text.
    fn odd_name(&self) -> OsString {
        OsString::from_vec([self.shm.as_bytes(), b"\xFF"].concat())
    }

    fn are_there(&self) -> [bool; 3] {
        [exists(&self.shm), NamedSemaphore::open(&self.semaphore).is_ok(), self.file.exists()]
    }
}

const REGISTERS: Worker<Objects, ()> = Worker::fallible("registers", |context, objects| {
    for resource in objects.resources() {
        context.register(resource.clone())?;
        context.register(resource)?;
    }
    objects.create()?;
    let relative = Resource::File("relative".into());
    assert_eq!(context.register(relative), Err(ResourceError::Relative("relative".into())));
    // Not to be there at the end is no error.
    context.register(Resource::PosixShm("/supervision-never-created".into()))?;
    // A name need not be text.
    let odd = ShmTable::create(objects.odd_name())?;
    context.register_shm::<PosixShm>(odd.name())?;
    Ok(())
});

fn registered_objects_are_removed_at_the_end<P: Platform>() {
    leaving_nothing(|| {
        let place = directory();
        let objects = Objects::new(&place);
        let finish = |_: &mut manycore::Finished<'_>, result: Result<(), JoinError>| {
            result.unwrap();
            assert!(ShmTable::open(objects.odd_name()).is_ok());
            objects.are_there()
        };
        let there = runtime::<P>().run_then(&REGISTERS, objects.clone(), finish).unwrap();
        assert_eq!(there, [true; 3]);
        assert_eq!(objects.are_there(), [false; 3]);
        assert!(ShmTable::open(objects.odd_name()).is_err());
        // By the program that runs them.
        objects.create().unwrap();
        let runtime = objects.resources().into_iter().fold(runtime::<P>(), Runtime::register);
        runtime.run(&ADD, (1.0, 2.0)).unwrap();
        assert_eq!(objects.are_there(), [false; 3]);
        let error = Runtime::<P>::default().register(Resource::File("x".into())).run(&ADD, (1.0, 2.0));
        assert!(matches!(error, Err(RunError::Resource(ResourceError::Relative(_)))));
    });
}

const RELEASES: Worker<(Objects, Objects), ()> =
    Worker::fallible("releases", |context, (removed, released)| {
        for objects in [&removed, &released] {
            for resource in objects.resources() {
                context.register(resource)?;
            }
            objects.create()?;
        }
        for resource in removed.resources() {
            context.remove(resource)?;
        }
        assert_eq!(removed.are_there(), [false; 3]);
        for resource in released.resources() {
            context.release(resource)?;
        }
        let directory = Resource::File("/".into());
        assert!(matches!(context.remove(directory), Err(ResourceError::Remove { .. })));
        Ok(())
    });

fn objects_can_be_removed_and_released_before<P: Platform>() {
    leaving_nothing(|| {
        let (place, other) = (directory(), directory());
        let (removed, released) = (Objects::new(&place), Objects::new(&other));
        runtime::<P>().run(&RELEASES, (removed, released.clone())).unwrap();
        assert_eq!(released.are_there(), [true; 3], "they outlive the run");
        let runtime = released.resources().into_iter().fold(runtime::<P>(), Runtime::register);
        runtime.run(&ADD, (1.0, 2.0)).unwrap();
        assert_eq!(released.are_there(), [false; 3]);
    });
}

const NAMES: Worker<u32, Vec<String>> = Worker::fallible("names", |context, others| {
    let mut names = vec![context.unique_name("/prefix"), context.unique_name("/prefix")];
    assert!(names[0].starts_with(&format!("/prefix-{}-", context.run())));
    for _ in 0..others {
        let other = context.start(&NAMES, 0)?;
        names.extend(context.join(other)?);
    }
    Ok(names)
});

fn names_are_unique<P: Platform>() {
    let mut names: Vec<String> = (0..3).flat_map(|_| runtime::<P>().run(&NAMES, 3).unwrap()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3 * 8);
}

/// Posts, and waits until somebody posts something else.
const WAITS_FOR: Worker<String, ()> = Worker::fallible("waits for", |context, board| {
    post(&board, 1)?;
    let table: ShmTable = ShmTable::open(&board)?;
    while table.find(2)?.is_none() {
        context.next_ended()?;
        std::thread::yield_now();
    }
    Ok(())
});

fn two_runs_cannot_have_one_directory<P: Platform>() {
    leaving_nothing(|| {
        let place = directory();
        let board = Board::new();
        let first = master(&WAITS_FOR, board.name.clone(), runtime::<P>().directory(place.path()));
        board.wait_for(1);
        let error = runtime::<P>().directory(place.path()).run(&ADD, (1.0, 2.0)).unwrap_err();
        assert!(matches!(error, RunError::Directory(DirectoryError::InUse { .. })), "{error}");
        post(&board.name, 2).unwrap();
        assert_eq!(first.wait().unwrap(), Exit::Code(0));
        runtime::<P>().directory(place.path()).run(&ADD, (1.0, 2.0)).unwrap();
    });
}

fn a_directory_that_others_can_write_to_is_refused() {
    leaving_nothing(|| {
        let place = directory();
        let run = |path: &Path| Runtime::new().directory(path).run(&ADD, (1.0, 2.0)).map(drop);
        for mode in [0o777, 0o720, 0o702] {
            std::fs::set_permissions(place.path(), PermissionsExt::from_mode(mode)).unwrap();
            let error = run(place.path()).unwrap_err();
            let RunError::Directory(DirectoryError::NotPrivate { mode: found, .. }) = &error else {
                panic!("{error}");
            };
            assert_eq!(*found, mode);
        }
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        run(place.path()).unwrap();
        // What is no directory, or only a way to one.
        let file = place.path().join("file");
        std::fs::write(&file, "").unwrap();
        let link = place.path().join("link");
        std::os::unix::fs::symlink(place.path(), &link).unwrap();
        for path in [file, link, place.path().join("none").join("none")] {
            let error = run(&path).unwrap_err();
            assert!(matches!(error, RunError::Directory(DirectoryError::Io { .. })), "{error}");
        }
        let long = place.path().join("x".repeat(100));
        let error = run(&long).unwrap_err();
        assert!(matches!(error, RunError::Directory(DirectoryError::Io { .. })), "{error}");
        assert!(!long.exists());
    });
}

fn a_directory_is_made_and_removed_or_left_as_it_was() {
    leaving_nothing(|| {
        let place = directory();
        let path = place.path().join("made");
        Runtime::new().directory(&path).run(&ADD, (1.0, 2.0)).unwrap();
        assert!(!path.exists());
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        std::fs::write(path.join("file"), "mine").unwrap();
        Runtime::new().directory(&path).run(&ADD, (1.0, 2.0)).unwrap();
        let left: Vec<OsString> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
    });
}

const CENSUS: Worker<(), Vec<String>> = Worker::new("census", |context, ()| {
    use std::os::fd::AsRawFd;
    let link = context.as_fd().as_raw_fd();
    let open = manycore_backends::testing::spawn::open_descriptors();
    assert!(open.contains(&link));
    let names = open.into_iter().filter(|fd| *fd != link);
    names.map(|fd| fd.to_string()).collect()
});

fn a_worker_that_runs_the_program_anew_has_only_its_link() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    // As a program does that wants its own children to have it.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let board = Board::new();
    let open = leaving_nothing(|| runtime::<Execed>().run(&CENSUS, ())).unwrap();
    assert_eq!(open, ["0", "1", "2"]);
    drop((board, file));
}

/// Leaves a process behind that has the link, and is killed itself.
const LEAVES_A_CHILD: Worker<String, ()> = Worker::fallible("leaves a child", |context, board| {
    let holder = Fork.fork(&[context.as_fd()], || {
        rustix::process::set_parent_process_death_signal(None).unwrap();
        loop {
            std::thread::park();
        }
    })?;
    post(&board, holder.id() as i32)?;
    std::mem::forget(holder);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Ok(())
});

const JOINS_LEAVER: Worker<String, bool> = Worker::fallible("joins leaver", |context, board| {
    let worker = context.start(&LEAVES_A_CHILD, board)?;
    Ok(matches!(context.join(worker), Err(JoinError::Killed { signal: SIGKILL, .. })))
});

fn what_a_killed_worker_left_open_stops_nobody() {
    let board = Board::new();
    assert!(runtime::<Forked>().run(&JOINS_LEAVER, board.name.clone()).unwrap());
    for holder in board.processes() {
        // It may have died with the worker, if that was faster.
        let _ = rustix::process::kill_process(Pid::from_raw(holder).unwrap(), rustix::process::Signal::KILL);
    }
}

/// A process that does what `body` does, and then is told by the returned pipe's end that it may go on.
fn program(body: impl FnOnce(&dyn Fn()) -> i32 + Send + 'static) -> (ChildProcess, std::os::fd::OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
    let program = Fork.fork(&[writer.as_fd()], move || {
        body(&|| std::fs::write(format!("/proc/self/fd/{number}"), "x").unwrap())
    });
    (program.unwrap(), reader)
}

fn wait_for_word(reader: &std::os::fd::OwnedFd) {
    assert_eq!(rustix::io::read(reader, &mut [0; 1]).unwrap(), 1);
}

fn a_pool_between_two_maps_heeds_no_signal<P: Platform>() {
    leaving_nothing(|| {
        let (program, reader) = program(|tell| {
            let mut pool = runtime::<P>().pool(&ADD).workers(2);
            assert_eq!(pool.map([(1.0, 2.0), (3.0, 4.0)]).unwrap(), [3.0, 7.0]);
            tell();
            loop {
                std::thread::park();
            }
        });
        wait_for_word(&reader);
        program.kill(SIGINT).unwrap();
        assert!(matches!(program.wait().unwrap(), Exit::Signal { signal: SIGINT, .. }));
    });
}

fn a_signal_during_the_end_is_told<P: Platform>() {
    leaving_nothing(|| {
        let (program, _reader) = program(|_| {
            let result = runtime::<P>().run_then(&ADD, (1.0, 2.0), |_, sum| {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
                    .unwrap();
                sum
            });
            match result {
                Err(RunError::Interrupted { signal }) => signal,
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(program.wait().unwrap(), Exit::Code(SIGTERM));
    });
}

fn an_ignored_signal_stays_ignored<P: Platform>() {
    leaving_nothing(|| {
        let board = Board::new();
        let name = board.name.clone();
        let (program, reader) = program(move |tell| {
            // As a shell has it for what it starts in the background.
            ignore_interrupts();
            tell();
            match runtime::<P>().run(&WAITS_FOR, name) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error}");
                    99
                }
            }
        });
        wait_for_word(&reader);
        board.wait_for(1);
        program.kill(SIGINT).unwrap();
        post(&board.name, 2).unwrap();
        assert_eq!(program.wait().unwrap(), Exit::Code(0));
    });
}

fn ignore_interrupts() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: no handler is installed.
    #[allow(unsafe_code)]
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.unwrap();
}

fn a_file_that_is_no_ledger_is_left_alone() {
    leaving_nothing(|| {
        let place = directory();
        let ledger = place.path().join("ledger");
        let run = || Runtime::new().directory(place.path()).run(&ADD, (1.0, 2.0));
        for content in ["my own accounts\n", "+ file /tmp\n", "manycore ledger 2\n"] {
            std::fs::write(&ledger, content).unwrap();
            let error = run().unwrap_err();
            assert!(matches!(error, RunError::Directory(DirectoryError::Io { .. })), "{error}");
            assert_eq!(std::fs::read_to_string(&ledger).unwrap(), content);
        }
        // What a run has left that was killed in its first write.
        for content in ["", "manycore led", "manycore ledger 1\n", "manycore ledger 1\n+ file /tm"] {
            std::fs::write(&ledger, content).unwrap();
            run().unwrap();
            assert!(!ledger.exists());
        }
    });
}

/// Registers names that are in part too long for the room there is.
const FILLS: Worker<(PathBuf, PathBuf), ()> = Worker::fallible("fills", |context, (short, long)| {
    context.register(Resource::File(short.clone().into()))?;
    assert!(matches!(context.register(Resource::File(long.into())), Err(ResourceError::Ledger { .. })));
    // There is room for this one still.
    context.register(Resource::File(short.with_extension("2").into()))?;
    // The master dies without a word.
    let master = rustix::process::getppid().unwrap();
    rustix::process::kill_process(master, rustix::process::Signal::KILL)?;
    Ok(())
});

fn a_ledger_that_cannot_be_written_names_nothing_else() {
    leaving_nothing(|| {
        let place = directory();
        let precious = place.path().join("precious");
        let (long, path) = (place.path().join("precious-and-what-follows-it"), place.path().join("run"));
        std::fs::write(&precious, "mine").unwrap();
        for room in 0..20 {
            let run_path = path.clone();
            let short = place.path().join("x");
            let long = long.clone();
            let registered = [short.clone(), short.with_extension("2")];
            for path in &registered {
                std::fs::write(path, "to be removed").unwrap();
            }
            let first_line = "manycore ledger 1\n".len();
            let line = |path: &Path| Resource::File(path.into()).to_string().len() + 3;
            let limit = first_line + line(&short) + line(&short) + 2 + room;
            let program = Fork.fork(&[], move || {
                use rustix::process::{Resource as Limited, Rlimit, setrlimit};
                {
                    use nix::sys::signal::{SigHandler, Signal, signal};
                    // SAFETY: no handler is installed.
                    #[allow(unsafe_code)]
                    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
                }
                setrlimit(Limited::Fsize, Rlimit { current: Some(limit as u64), maximum: None }).unwrap();
                drop(Runtime::new().directory(&run_path).run(&FILLS, (short, long)));
                0
            });
            program.unwrap().wait().unwrap();
            drop(Runtime::new().directory(&path).run(&ADD, (1.0, 2.0)));
            assert!(precious.exists(), "with room for {limit} bytes");
            assert!(!registered.iter().any(|path| path.exists()), "with room for {limit} bytes");
        }
    });
}

fn a_place_that_cannot_be_used_is_passed_over() {
    for runtime_directory in ["/proc", "relative", "/nonexistent"] {
        manycore_backends::testing::spawn::in_a_unit(move || {
            let place = directory();
            let deep = place.path().join("d".repeat(100));
            std::fs::create_dir(&deep).unwrap();
            // SAFETY: this process has one thread.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var("XDG_RUNTIME_DIR", runtime_directory)
            };
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var("TMPDIR", &deep)
            };
            assert_eq!(Runtime::new().run(&ADD, (1.0, 2.0)).unwrap(), 3.0);
            let left: Vec<_> = std::fs::read_dir(&deep).unwrap().flatten().collect();
            let runs: usize = left.iter().map(|place| std::fs::read_dir(place.path()).unwrap().count()).sum();
            assert_eq!(runs, 0, "no directory of a run is left where none can be");
            place.close().unwrap();
        });
    }
}

/// Starts a worker and joins it, as often as it is told.
const RELAY: Worker<u64, f64> = Worker::fallible("relay", |context, rounds| {
    let mut sum = 0.0;
    for _ in 0..rounds {
        let worker = context.start(&ADD, (1.0, 2.0))?;
        match context.join(worker) {
            Ok(three) => sum += three / 3.0,
            Err(JoinError::Killed { signal: SIGKILL, .. }) => sum += 1.0,
            Err(other) => return Err(other.into()),
        }
    }
    Ok(sum)
});

/// Makes an object that is removed with the run, and perhaps an end of itself.
const MAKES: Worker<String, f64> = Worker::fallible("makes", |context, prefix| {
    let name = context.unique_name(&prefix);
    context.register(Resource::PosixShm(name.clone().into()))?;
    let table: ShmTable = TableOptions::new().create(&name)?;
    table.add(1, &[2])?;
    Ok(f64::from(table.find(1)?.ok_or_else(|| Failure::new("lost"))?[0]))
});

/// Starts workers of all kinds, and kills some at random, for so many milliseconds. Returns how many had a result and how
/// many were killed.
const CHAOS: Worker<(u64, u64, String), (u64, u64)> =
    Worker::fallible("chaos", |context, (milliseconds, seed, prefix)| {
        let end = Instant::now() + Duration::from_millis(milliseconds);
        let mut random = seed;
        let mut next = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut running: Vec<WorkerId<f64>> = Vec::new();
        let (mut ended, mut killed) = (0, 0);
        while Instant::now() < end || !running.is_empty() {
            if Instant::now() < end && running.len() < 8 {
                running.push(match next(4) {
                    0 => context.start(&ADD, (1.0, 1.0))?,
                    3 => context.start(&MAKES, prefix.clone())?,
                    1 => context.start(&RELAY, 2)?,
                    _ => context.start_in("relays", &RELAY, 2)?,
                });
            }
            if running.is_empty() {
                continue;
            }
            let at = next(running.len() as u64) as usize;
            let victim = running[at];
            match next(4) {
                // Whatever it is at, or what one of them has started.
                0 => drop(context.signal(victim, SIGKILL)?),
                1 => {
                    let newest: WorkerId<f64> = victim;
                    context.signal(newest, SIGKILL)?;
                    context.watch(newest)?;
                }
                2 => drop(context.terminate_group("relays", Duration::ZERO)?),
                _ => {}
            }
            let found = context.join_any_timeout(&running, Duration::from_micros(next(2000)))?;
            if let Some((index, result)) = found {
                running.swap_remove(index);
                match result {
                    Ok(2.0) => ended += 1,
                    Err(JoinError::Killed { signal: SIGKILL, .. } | JoinError::Cancelled { .. }) => {
                        killed += 1
                    }
                    other => return Err(Failure::new(format!("{other:?}"))),
                }
            }
        }
        Ok((ended, killed))
    });

fn workers_killed_at_random_are_told_of_exactly<P: Platform>() {
    // In the suite all three platforms together have ten seconds.
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
    let milliseconds = seconds.map_or(3400, |seconds: u64| seconds * 1000);
    let seed = u64::from(std::process::id());
    let place = directory();
    let prefix = name("chaos");
    let run = || runtime::<P>().directory(place.path()).run(&CHAOS, (milliseconds, seed, prefix.clone()));
    let (ended, killed) = leaving_nothing(run).unwrap();
    assert!(ended > 0 && killed > 0, "{ended} {killed}");
    let objects = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<OsString> =
        objects.filter(|object| object.to_string_lossy().contains(&prefix[1..])).collect();
    assert_eq!(left, Vec::<OsString>::new());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
