//! The master: starts workers for whoever asks, watches them, and tells how they ended.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | [`Runtime`]: what may run, and running it |
//! | `jobs` | the supervising loop |
//! | `objects` | what workers ask of named objects |
//! | `circles` | workers that wait for each other |
//! | `starting` | how workers are begun |
//! | `spare` | a unit that is begun ahead |
//! | `stopping` | how workers are made to end |
//! | `finished` | what is left when all have ended |
//! | `visitors` | who looks at the run from outside |
//! | `answers` | what they are told |
//! | `waiting` | how the master waits |
//! | `log` | the last lines of what happened |
//! | `directory` | the run's directory, and cleaning up after dead runs |
//! | `ledger` | the objects that a run must remove |
//!
//! The master is the process that calls [`Runtime::run`]; all workers are its children, also those that
//! workers ask for. It does nothing else while the run lasts: one wait over the descriptors of all links and
//! children, and of the signals that end a run, in a loop, without helper threads.
//!
//! # Where everything of Netmulticore is
//!
//! For those who come from OCamlnet. What Netplex has under a name is in [`named`](crate::named), its `netplex-admin` in
//! [`admin`](crate::admin).
//!
//! | there | here |
//! |---|---|
//! | `Netmcore.run`, `startup`: `first_process`, `extract_result` | [`Runtime::run`], [`Runtime::run_then`] |
//! | `socket_directory` | [`Runtime::directory`], which need not be said |
//! | `pidfile` | left out, because the directory says who lives there: [`admin::runs`](crate::admin::runs) |
//! | `disable_pmanage`, `no_unlink` | [`Context::release`](crate::Context::release) |
//! | `init_ctrl`, `add_plugins` | not needed: named objects are always there |
//! | `def_process`, `fork_point`, `join_point` | [`Worker`], which is a constant, also for joining |
//! | `start`, `inherit_resources` | [`Context::start`](crate::Context::start), [`start_all`](crate::Context::start_all); nothing is inherited: workers open tables by name, and are given descriptors by [`start_with`](crate::Context::start_with) |
//! | `process_id`, `self_process_id` | [`WorkerId`](crate::WorkerId), [`Context::number`](crate::Context::number) |
//! | `join`, `join_nowait` | [`Context::join`](crate::Context::join), also with a time limit, of all, of any; [`try_join`](crate::Context::try_join); in the master, at the end: [`Finished::join`]. As often, and by as many, as like to |
//! | no result (`None`) | [`JoinError`] says why |
//! | `release`, `release_fork_point`, `release_join_point` | [`Context::forget`](crate::Context::forget) of a result; definitions are never released |
//! | arguments and results by `Marshal`, `Netplex_encap` | by serde |
//! | `manage_file`, `manage_shm`, `manage_sem` | [`Context::register`](crate::Context::register) of a [`Resource`] |
//! | `get_file`, `get_shm`, `get_sem` | left out, because a name is an argument like any other |
//! | `create_preallocated_shm`, `Netmcore_mempool` | left out, because tables grow by themselves, and are at any address |
//! | `Netmcore_heap`, `ref`, `buffer` | left out, because pointers in memory that others write to cannot be checked |
//! | `Netmcore_array`, `matrix`, `hashtbl` | [`ShmArray`](crate::ShmArray), [`ShmMap`](crate::ShmMap), [`ShmTable`](crate::ShmTable) |
//! | `Netmcore_queue`, `Netcamlbox`, `Netmcore_camlbox` | [`Mailbox`](crate::Mailbox), which goes through the master; not in shared memory |
//! | `Netmcore_mutex`, `sem`, `condition` | [`named::Mutex`](crate::named::Mutex), [`named::Semaphore`](crate::named::Semaphore), [`SharedVar::wait_newer`](crate::SharedVar::wait_newer); without a master, [`posix::semaphore`](crate::posix::semaphore) |
//! | `destroy_resources` in handlers of signals | not needed: signals end a run in order, and the next run cleans up after one that was killed |
//! | `Netplex_cenv.log`, loggers | [`Context::log`](crate::Context::log); feature `tracing` |
//! | `Netplex_cenv`: `system_shutdown`, `system_restart` | [`Visitor::stop_all`](crate::admin::Visitor::stop_all); restarting is left out, because a run has one first worker |
//! | `Netplex_cenv`: timers, messages to services, levers, container variables | left out, because a worker's function is a loop of its own: [`Mailbox`](crate::Mailbox) and the context's [descriptor](std::os::fd::AsFd) |
//! | configuration files, services, workload managers | left out, because a [`Pool`](crate::Pool) has a number of workers, and no sockets that strangers connect to |
//!
//! This module does not interpret arguments or results.

mod answers;
mod circles;
mod directory;
mod finished;
mod jobs;
mod ledger;
mod log;
mod objects;
mod spare;
mod starting;
mod stopping;
mod visitors;
mod waiting;

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use manycore_backends::poll::PollError;
use manycore_backends::spawn::SpawnError;
use manycore_backends::transport::TransportError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::platform::{Forked, Platform};
use crate::resource::{Resource, ResourceError};
use crate::wire::ENVELOPE;
use crate::worker::{JoinError, StartError, Worker, Workers, check_descriptors, encode_argument};

pub use directory::DirectoryError;
pub(crate) use directory::{Directory, is_run_name, places};
pub use finished::Finished;
pub(crate) use jobs::{Jobs, News};

/// A program of many processes, about to run: the workers that it may start, and its limits.
///
/// ```
/// use manycore::{Runtime, Worker};
///
/// const ADD: Worker<(f64, f64), f64> = Worker::new("add", |_, (a, b)| a + b);
/// assert_eq!(Runtime::new().run(&ADD, (3.0, 4.0))?, 7.0);
/// # Ok::<(), manycore::RunError>(())
/// ```
///
/// [`run`](Runtime::run) is the master until all is over. A program that has a loop of its own, or a user interface, lets a
/// thread do that, on [`Execed`](crate::Execed) or [`Threaded`](crate::Threaded) (forking would need a process with one
/// thread), and talks to the first worker over a socket that it [gives](Runtime::give) it, which is readable in the loop:
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use std::os::unix::net::UnixStream;
/// use std::thread;
/// use manycore::{Runtime, Threaded, Worker};
///
/// /// Answers line by line, until nobody asks any more.
/// const SERVE: Worker<(), u32> = Worker::fallible("serve", |context, ()| {
///     let stream = context.take_descriptors().into_iter().next().expect("the program gives one");
///     let mut stream = BufReader::new(UnixStream::from(stream));
///     let (mut line, mut answers) = (String::new(), 0);
///     while stream.read_line(&mut line)? > 0 {
///         writeln!(stream.get_mut(), "{} bytes", line.trim_end().len())?;
///         line.clear();
///         answers += 1;
///     }
///     Ok(answers)
/// });
///
/// let (ours, theirs) = UnixStream::pair()?;
/// let running = thread::spawn(|| Runtime::<Threaded>::default().give([theirs.into()]).run(&SERVE, ()));
/// let mut stream = BufReader::new(ours);
/// writeln!(stream.get_mut(), "how long is this?")?;
/// let mut answer = String::new();
/// stream.read_line(&mut answer)?;
/// assert_eq!(answer, "17 bytes\n");
/// drop(stream);
/// assert_eq!(running.join().expect("it does not panic")?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("Netmcore", "startup"))]
#[must_use = "nothing happens before `run`"]
pub struct Runtime<P: Platform = Forked> {
    workers: Workers,
    options: Options,
    /// For the first worker.
    given: Vec<OwnedFd>,
    platform: PhantomData<fn() -> P>,
}

/// What can be chosen of a run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) message_limit: usize,
    worker_limit: usize,
    object_limit: usize,
    at_end: AtEnd,
    grace: Duration,
    signals: bool,
    directory: Option<PathBuf>,
    resources: Vec<Resource>,
}

/// What happens to the workers that are left when the first one has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtEnd {
    /// The run waits for them.
    #[default]
    Wait,
    /// The run waits so long, and then terminates them.
    WaitAtMost(Duration),
    /// They are terminated at once.
    Terminate,
}

impl<P: Platform> std::fmt::Debug for Runtime<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.workers)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime on the default platform, [`Forked`]. On another one: `Runtime::<P>::default()`.
    pub fn new() -> Runtime {
        Runtime::default()
    }
}

impl<P: Platform> Default for Runtime<P> {
    fn default() -> Runtime<P> {
        Runtime {
            workers: Workers::default(),
            options: Options {
                message_limit: 64 << 20,
                worker_limit: 10_000,
                object_limit: 1_000_000,
                at_end: AtEnd::default(),
                grace: Duration::from_secs(2),
                signals: true,
                directory: None,
                resources: Vec::new(),
            },
            given: Vec::new(),
            platform: PhantomData,
        }
    }
}

impl<P: Platform> Runtime<P> {
    /// Defines a worker, so that it can be started during the run. The first worker need not be defined here.
    pub fn with<A, R>(mut self, worker: &Worker<A, R>) -> Self
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        self.workers.add(worker);
        self
    }

    /// Defines all these workers.
    pub fn with_all(mut self, workers: &Workers) -> Self {
        self.workers.add_all(workers);
        self
    }

    /// The largest argument or result, in bytes of its CBOR. Default 64 MiB; at most somewhat less than 4 GiB.
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.options.message_limit = bytes.min(u32::MAX as usize - ENVELOPE);
        self
    }

    /// How many workers may run at once. Default 10 000.
    pub fn worker_limit(mut self, workers: usize) -> Self {
        self.options.worker_limit = workers;
        self
    }

    /// How many [named objects](crate::named) there may be at once. Default 1 000 000.
    pub fn object_limit(mut self, objects: usize) -> Self {
        self.options.object_limit = objects;
        self
    }

    /// What happens to the workers that are left when the first one has ended. Default: the run waits for them.
    pub fn at_end(mut self, at_end: AtEnd) -> Self {
        self.options.at_end = at_end;
        self
    }

    /// How long workers that the run terminates, at its end or at a signal, have time to end by themselves before they
    /// are killed. Default 2 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Whether `SIGTERM` and `SIGINT` end the run in order: all workers are terminated, a second signal kills those that
    /// are left, and the run is [`RunError::Interrupted`]. Default: yes. If not, the master is not protected from them, and
    /// the workers die with it.
    pub fn signals(mut self, end_the_run: bool) -> Self {
        self.options.signals = end_the_run;
        self
    }

    /// The directory of the run. It is made if it is not there (and then removed at the end); it must belong to this user,
    /// and nobody else may write to it. Only one run at a time can use it. What a run that was killed has left
    /// [registered](crate::Context::register) there is removed first.
    ///
    /// Default: a fresh one for each run, in `$XDG_RUNTIME_DIR/manycore`, or else in `manycore-` and the number of the user
    /// in the directory for temporary files. Each run cleans up there after all dead ones.
    ///
    /// Its path may have some 90 bytes, as there is a socket in it.
    #[doc(alias = "socket_directory")]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.directory = Some(path.into());
        self
    }

    /// Has an object removed at the end of the run, as [`Context::register`](crate::Context::register) does.
    pub fn register(mut self, resource: Resource) -> Self {
        self.options.resources.push(resource);
        self
    }

    /// Gives the first worker descriptors, at most 253 in all, which it [takes](crate::Context::take_descriptors) in
    /// this order. (The members of a [pool](Runtime::pool) are not given any.)
    #[doc(alias("inherit_resources", "SCM_RIGHTS"))]
    pub fn give(mut self, descriptors: impl IntoIterator<Item = OwnedFd>) -> Self {
        self.given.extend(descriptors);
        self
    }

    /// Runs the program: starts the first worker, serves it and all that are started then, and returns the
    /// first worker's result when all have ended. When the first worker has ended, no more are started.
    ///
    /// If the calling process dies, so do the workers. A program may run several times, one run after the
    /// other, and where workers are not forked, also at the same time.
    ///
    /// # Errors
    /// [`RunError::Join`] if the first worker has no result; [`RunError::Interrupted`] if a signal ended the run,
    /// [`RunError::Stopped`] if somebody from outside did;
    /// [`RunError::Duplicate`], [`RunError::Directory`], [`RunError::Start`] or [`RunError::Spawn`] if it could not
    /// begin: with the spawner [`Fork`](crate::Fork) the calling process must be single-threaded, with
    /// [`Exec`](crate::Exec) it must have called [`Workers::enter`]. If the master itself fails, the workers are killed
    /// first.
    #[doc(alias = "first_process")]
    pub fn run<A, R>(self, first: &Worker<A, R>, argument: A) -> Result<R, RunError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        Ok(self.run_then(first, argument, |_, result| result)??)
    }

    /// The same, and when all workers have ended, before the run's objects are removed, calls `finish` in this process with
    /// what is left and the first worker's result, and returns its value.
    ///
    /// # Errors
    /// As [`run`](Runtime::run), but that the first worker has no result is for `finish` to see.
    #[doc(alias = "extract_result")]
    pub fn run_then<A, R, T>(
        mut self,
        first: &Worker<A, R>,
        argument: A,
        finish: impl FnOnce(&mut Finished<'_>, Result<R, JoinError>) -> T,
    ) -> Result<T, RunError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.workers.add(first);
        let argument = encode_argument(first.name(), &argument, self.options.message_limit)?;
        check_descriptors(first.name(), self.given.len())?;
        let mut jobs = Jobs::<P>::new(self.workers, self.options)?;
        jobs.watch_signals()?;
        let id = jobs.start_first(first.name(), argument, self.given)?;
        jobs.run()?;
        // They do nothing until all is cleaned up.
        let signals = jobs.take_signals();
        let mut finished = Finished::new(&mut jobs);
        let result = finished.join(crate::worker::WorkerId::new(id));
        let value = finish(&mut finished, result);
        drop(finished);
        drop(jobs);
        match signals.left() {
            Some(signal) => Err(RunError::Interrupted { signal }),
            None => Ok(value),
        }
    }

    /// What may run, with another worker defined, and how.
    pub(crate) fn into_parts<A, R>(mut self, worker: &Worker<A, R>) -> (Workers, Options)
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        self.workers.add(worker);
        (self.workers, self.options)
    }
}

impl From<SpawnError> for RunError {
    fn from(error: SpawnError) -> RunError {
        match error {
            SpawnError::NotEntered => RunError::NotEntered,
            other => RunError::Spawn(other),
        }
    }
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Two workers were defined with the same name: rename one.
    #[error("two different workers are named `{name}`: names must be unique in a run")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// The run cannot have its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// An object could not be registered.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// The first worker was not started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A worker's process could not be begun or watched.
    #[error(transparent)]
    Spawn(SpawnError),
    /// Workers are this program run anew, and it has not said where they come in.
    #[error(
        "workers are this program run anew, and it has not said where they come in: call `Workers::enter` first in `main`, with all workers that are started; in tests of the standard harness, `Workers::enter_by_test`"
    )]
    NotEntered,
    /// The first worker has no result.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A signal to the master ended the run. All workers have ended.
    #[error(
        "the run was ended by signal {signal}{}",
        manycore_backends::spawn::signal_name(*signal).map(|name| format!(" ({name})")).unwrap_or_default()
    )]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// Somebody from outside had the run end, by [`Visitor::stop_all`](crate::admin::Visitor::stop_all) or the command
    /// `manycore`. All workers have ended.
    #[error("the run was ended by a command from outside")]
    Stopped,
    /// The master could not wait. All workers were killed.
    #[error("the master cannot go on: {0}")]
    Poll(#[from] PollError),
    /// The master could not make a link. All workers were killed.
    #[error("the master cannot go on: {0}")]
    Transport(#[from] TransportError),
}
