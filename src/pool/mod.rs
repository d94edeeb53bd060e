//! Pools: many tasks of one kind, done by a few workers that stay.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | [`Pool`]: choosing, and mapping |
//! | `round` | which worker does which task, one call of a map |
//! | `batch` | tasks that travel together, and how many should |
//!
//! ```
//! use manycore::{Pool, Worker};
//!
//! const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);
//!
//! let squares = Pool::new(&SQUARE).map(1..=5)?;
//! assert_eq!(squares, [1, 4, 9, 16, 25]);
//! # Ok::<(), manycore::PoolError>(())
//! ```
//!
//! The calling process is the master while a map goes on: it takes arguments from the iterator as workers have room for
//! them, and nothing else. Tasks travel in batches, the smaller the longer tasks take; a batch is at most some two
//! milliseconds of work, so that in the end all workers have something to do.
//!
//! This module starts no tasks by itself, and knows no order of tasks but that of their arguments; tasks do not wait for
//! each other.

mod batch;
mod round;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZero;
use std::ops::ControlFlow;

use manycore_backends::poll::PollError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::master::{Jobs, Options, RunError, Runtime};
use crate::platform::{Forked, Platform};
use crate::wire;
use crate::worker::{JoinError, StartError, Worker, Workers, push_argument};
use batch::Pace;
use round::{Member, Round};

/// How many results may wait for one before them in [`Pool::each_in_order`].
const AHEAD: usize = 1 << 16;

/// A few workers that do many tasks of one kind: their arguments go to whichever worker has room, results come back.
///
/// The workers are started with the first task, and stay until the pool is dropped; one that dies is replaced. A task that
/// panics, returns an error or has its worker die is done again, as often as [`retries`](Pool::retries) says; then it has
/// failed.
///
/// What is to be made once and used by many tasks, such as a connection or a model, is kept by each member in a variable of
/// its thread, on every platform; it goes away with the member, and is made anew by the one that replaces it:
///
/// ```
/// use std::cell::RefCell;
/// use std::collections::HashMap;
/// use manycore::{Pool, Worker};
///
/// thread_local! {
///     /// What this member has found out.
///     static KNOWN: RefCell<HashMap<u64, u64>> = RefCell::default();
/// }
///
/// /// Steps until the Collatz sequence is at 1.
/// const STEPS: Worker<u64, u64> = Worker::new("steps", |_, number| KNOWN.with_borrow_mut(|known| steps(known, number)));
///
/// fn steps(known: &mut HashMap<u64, u64>, number: u64) -> u64 {
///     match (number, known.get(&number)) {
///         (1, _) => 0,
///         (_, Some(steps)) => *steps,
///         _ => {
///             let steps = 1 + steps(known, if number % 2 == 0 { number / 2 } else { 3 * number + 1 });
///             known.insert(number, steps);
///             steps
///         }
///     }
/// }
///
/// let steps = Pool::new(&STEPS).workers(2).map(1..=27)?;
/// assert_eq!(steps.last(), Some(&111));
/// # Ok::<(), manycore::PoolError>(())
/// ```
///
/// Between two maps the pool heeds nothing, signals neither: they do what they did before. A pool in a worker is a run of
/// its own, whose master that worker is.
///
/// ```
/// use manycore::{Runtime, Threaded, Worker};
///
/// const LENGTH: Worker<String, usize> = Worker::new("length", |_, text| text.len());
///
/// // On threads, for a test; `Runtime::new()` is on processes.
/// let mut pool = Runtime::<Threaded>::default().pool(&LENGTH).workers(2);
/// let words = "to be or not to be".split(' ').map(str::to_owned);
/// let mut sum = 0;
/// pool.each(words, |_, length| {
///     sum += length.unwrap();
///     std::ops::ControlFlow::Continue(())
/// })?;
/// assert_eq!(sum, 13);
/// # Ok::<(), manycore::PoolError>(())
/// ```
#[doc(alias("ProcessPoolExecutor", "map_reduce", "initializer"))]
pub struct Pool<A, R, P: Platform = Forked> {
    worker: Worker<A, R>,
    crew: Crew<P>,
}

/// All of a pool that knows nothing of the types of its tasks: it is compiled once for each platform.
struct Crew<P: Platform> {
    /// What the workers do.
    name: &'static str,
    setup: Option<(Workers, Options)>,
    jobs: Option<Jobs<P>>,
    members: BTreeMap<u64, Member>,
    settings: Settings,
    pace: Pace,
    /// The number of the next batch.
    next_batch: u64,
    #[allow(clippy::type_complexity)]
    on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    workers: usize,
    retries: u32,
    /// Tasks that travel together; `None` lets the pool find out.
    batch: Option<NonZero<u32>>,
}

/// How far a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Tasks that have a result.
    pub done: usize,
    /// Tasks that have failed for good.
    pub failed: usize,
    /// Tasks that were given to a worker again.
    pub retried: usize,
    /// Workers that have died and were replaced, or will be when there is something to do.
    pub replaced: usize,
    /// How many tasks there are, if the iterator of their arguments can tell.
    pub total: Option<usize>,
}

/// Why a map was not finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A task has failed, of which [`Pool::map`] makes an error of the whole.
    #[error("task {index} has no result: {error}")]
    Task {
        /// The number of its argument, from 0 on.
        index: usize,
        /// Why.
        #[source]
        error: JoinError,
    },
    /// The argument of a task cannot be sent.
    #[error("task {index}: {error}")]
    Argument {
        /// Its number, from 0 on.
        index: usize,
        /// Why.
        #[source]
        error: StartError,
    },
    /// The pool could not start a single worker, was interrupted by a signal or from outside, or cannot go on.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<PollError> for PoolError {
    fn from(error: PollError) -> PoolError {
        PoolError::Run(error.into())
    }
}

impl<A, R, P: Platform> fmt::Debug for Pool<A, R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("worker", &self.worker.name())
            .field("members", &self.crew.members.len())
            .field("settings", &self.crew.settings)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Runtime<P> {
    /// A pool of workers that do one kind of task: see [`Pool`].
    pub fn pool<A, R>(self, worker: &Worker<A, R>) -> Pool<A, R, P>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let crew = Crew {
            name: worker.name(),
            setup: Some(self.into_parts(worker)),
            jobs: None,
            members: BTreeMap::new(),
            settings: Settings { workers: cores, retries: 0, batch: None },
            pace: Pace::default(),
            next_batch: 0,
            on_progress: None,
        };
        Pool { worker: *worker, crew }
    }
}

impl<A, R> Pool<A, R>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    /// A pool on the default platform, [`Forked`], with as many workers as there are cores. Other platforms, and workers
    /// that tasks can start: [`Runtime::pool`].
    pub fn new(worker: &Worker<A, R>) -> Pool<A, R> {
        Runtime::new().pool(worker)
    }
}

impl<A, R, P: Platform> Pool<A, R, P>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    /// How many workers there are; at least 1. Default: as many as cores.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.crew.settings.workers = workers.max(1);
        self
    }

    /// How often a task that panicked, returned an error, or had its worker die is tried again, by another worker if one has
    /// room. Default 0: a task is begun at most once.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.crew.settings.retries = retries;
        self
    }

    /// How many tasks travel together; 0 (the default) lets the pool find out, by the time that they take. A worker that
    /// dies takes its batch along: all tasks of it that were not done have failed, or are tried again.
    #[must_use]
    #[doc(alias = "chunksize")]
    pub fn batch(mut self, tasks: u32) -> Self {
        self.crew.settings.batch = NonZero::new(tasks);
        self
    }

    /// Calls `tell` whenever something was done.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(Progress) + Send + 'static) -> Self {
        self.crew.on_progress = Some(Box::new(tell));
        self
    }

    /// Does a task for each argument, and returns the results in the order of the arguments.
    ///
    /// # Errors
    /// [`PoolError::Task`] for the first task that failed, as for [`each`](Pool::each) when it breaks off.
    /// [`PoolError::Argument`]; [`PoolError::Run`].
    pub fn map<I>(&mut self, arguments: I) -> Result<Vec<R>, PoolError>
    where
        I: IntoIterator<Item = A>,
    {
        let mut results: Vec<Option<R>> = Vec::new();
        let mut failed = None;
        self.each(arguments, |index, result| match result {
            Ok(result) => {
                if results.len() <= index {
                    results.resize_with(index + 1, || None);
                }
                results[index] = Some(result);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(PoolError::Task { index, error });
                ControlFlow::Break(())
            }
        })?;
        match failed {
            Some(error) => Err(error),
            // All of them are there: each task has either a result or an error.
            None => Ok(results.into_iter().flatten().collect()),
        }
    }

    /// Does a task for each argument, and calls `take` with the number of the argument, from 0 on, and the result, as they
    /// come, until it breaks off. No more tasks are given to workers then; those that they have are done, and their results
    /// dropped. The next map waits for that, dropping the pool does not.
    ///
    /// # Errors
    /// [`PoolError::Argument`]; [`PoolError::Run`].
    #[doc(alias("imap_unordered", "as_completed"))]
    pub fn each<I, F>(&mut self, arguments: I, take: F) -> Result<(), PoolError>
    where
        I: IntoIterator<Item = A>,
        F: FnMut(usize, Result<R, JoinError>) -> ControlFlow<()>,
    {
        self.go_round(arguments.into_iter(), &Cell::new(usize::MAX), take)
    }

    /// The same in the order of the arguments. At most 65 536 results wait for one before them; then no more arguments are
    /// taken.
    ///
    /// # Errors
    /// [`PoolError::Argument`]; [`PoolError::Run`].
    #[doc(alias = "imap")]
    pub fn each_in_order<I, F>(&mut self, arguments: I, mut take: F) -> Result<(), PoolError>
    where
        I: IntoIterator<Item = A>,
        F: FnMut(usize, Result<R, JoinError>) -> ControlFlow<()>,
    {
        let mut early: BTreeMap<usize, Result<R, JoinError>> = BTreeMap::new();
        let mut next = 0;
        let end = Cell::new(AHEAD);
        self.go_round(arguments.into_iter(), &end, |index, result| {
            early.insert(index, result);
            while let Some(result) = early.remove(&next) {
                next += 1;
                end.set(next + AHEAD);
                take(next - 1, result)?;
            }
            ControlFlow::Continue(())
        })
    }

    /// Goes through the arguments with numbers less than `end`.
    fn go_round<I, F>(&mut self, arguments: I, end: &Cell<usize>, take: F) -> Result<(), PoolError>
    where
        I: Iterator<Item = A>,
        F: FnMut(usize, Result<R, JoinError>) -> ControlFlow<()>,
    {
        let total = match arguments.size_hint() {
            (least, Some(most)) if least == most => Some(most),
            _ => None,
        };
        let mut tasks = Typed { name: self.worker.name(), arguments, take, results: PhantomData };
        self.crew.go_round(&mut tasks, total, end)
    }
}

impl<P: Platform> Crew<P> {
    fn go_round(
        &mut self,
        tasks: &mut dyn Tasks,
        total: Option<usize>,
        end: &Cell<usize>,
    ) -> Result<(), PoolError> {
        if let Some((workers, options)) = self.setup.take() {
            let again = (workers.clone(), options.clone());
            match Jobs::new(workers, options) {
                Ok(jobs) => self.jobs = Some(jobs),
                Err(error) => {
                    self.setup = Some(again);
                    return Err(error.into());
                }
            }
        }
        Round::new(self, tasks, total, end).go()
    }
}

/// Workers that have nothing to do end by themselves, those that do something are killed.
impl<P: Platform> Drop for Crew<P> {
    fn drop(&mut self) {
        if let Some(jobs) = &mut self.jobs {
            let idle = self.members.iter().filter(|(_, member)| member.is_idle()).map(|(id, _)| *id);
            // If the master cannot go on, dropping it kills them.
            let _ = jobs.close(idle);
        }
    }
}

/// Where the arguments of a map come from and its results go to, as bytes.
trait Tasks {
    /// Appends the next argument, of at most `limit` bytes, as a [part](wire::push_part), if there is one.
    fn next_argument(&mut self, limit: usize, arguments: &mut Vec<u8>) -> Option<Result<(), StartError>>;

    /// Takes the result of the task with this number, or says why it is none.
    fn take(&mut self, index: usize, result: &[u8]) -> Result<ControlFlow<()>, String>;

    /// This task has failed.
    fn fail(&mut self, index: usize, error: JoinError) -> ControlFlow<()>;
}

struct Typed<I, R, F> {
    name: &'static str,
    arguments: I,
    take: F,
    results: PhantomData<fn() -> R>,
}

impl<I, R, F> Tasks for Typed<I, R, F>
where
    I: Iterator<Item: Serialize>,
    R: DeserializeOwned,
    F: FnMut(usize, Result<R, JoinError>) -> ControlFlow<()>,
{
    fn next_argument(&mut self, limit: usize, arguments: &mut Vec<u8>) -> Option<Result<(), StartError>> {
        Some(push_argument(self.name, &self.arguments.next()?, limit, arguments))
    }

    fn take(&mut self, index: usize, result: &[u8]) -> Result<ControlFlow<()>, String> {
        let result = wire::from_bytes(result)?;
        Ok((self.take)(index, Ok(result)))
    }

    fn fail(&mut self, index: usize, error: JoinError) -> ControlFlow<()> {
        (self.take)(index, Err(error))
    }
}
