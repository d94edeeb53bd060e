//! Workers: units of work of a program, each in a process of its own, started by name with a typed argument
//! and joined for a typed result.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | defining a worker, and how it can end |
//! | `context` | what a running worker can ask for: start, join |
//! | `child` | what runs in the worker's process around its body |
//!
//! A definition is a name and a plain function, so that it can be a `const` or `static`, and so that a process
//! that begins anew can find it: nothing is captured that could get lost on the way.
//!
//! This module does not start processes; the [master](crate::master) does, whoever asks.

pub(crate) mod child;
mod context;

use std::any::TypeId;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::wire::{self, Ended};

pub(crate) use context::encode_argument;
pub use context::{Context, StartError};

/// The definition of a worker: its name, and the function that it runs. `A` is its argument, `R` its result;
/// both travel as CBOR, as serde writes it. So what CBOR does not tell apart arrives as the same: `Some(())` and
/// `None`, for one. Values nested deeper than 128 levels cannot be read.
///
/// ```
/// use manycore::{Context, Runtime, Worker};
///
/// const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);
/// const SUM: Worker<u64, u64> = Worker::fallible("sum of squares", |context, count| {
///     let workers = (1..=count).map(|number| context.start(&SQUARE, number)).collect::<Result<Vec<_>, _>>()?;
///     workers.into_iter().map(|worker| Ok(context.join(worker)?)).sum()
/// });
///
/// let sum = Runtime::new().with(&SQUARE).run(&SUM, 10)?;
/// assert_eq!(sum, 385);
/// # Ok::<(), manycore::Error>(())
/// ```
#[doc(alias("def_process", "Process", "fork_point"))]
pub struct Worker<A, R> {
    name: &'static str,
    body: Body<A, R>,
    defined: &'static Location<'static>,
}

enum Body<A, R> {
    Plain(fn(&mut Context, A) -> R),
    Fallible(fn(&mut Context, A) -> Result<R, Failure>),
}

impl<A, R> Worker<A, R> {
    /// Defines a worker whose function always gives a result (unless it panics or the process dies).
    #[track_caller]
    pub const fn new(name: &'static str, body: fn(&mut Context, A) -> R) -> Worker<A, R> {
        Worker { name, body: Body::Plain(body), defined: Location::caller() }
    }

    /// Defines a worker whose function can fail: whoever joins it gets [`JoinError::Failed`] with the message.
    #[track_caller]
    pub const fn fallible(
        name: &'static str,
        body: fn(&mut Context, A) -> Result<R, Failure>,
    ) -> Worker<A, R> {
        Worker { name, body: Body::Fallible(body), defined: Location::caller() }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<A, R> Clone for Worker<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Worker<A, R> {}

impl<A, R> Clone for Body<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Body<A, R> {}

impl<A, R> fmt::Debug for Worker<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The error of a [fallible](Worker::fallible) worker: the message of any error, or one of your own. Any
/// [`Error`](std::error::Error) becomes one by `?`.
///
/// It is not itself a [`std::error::Error`], as otherwise not every error could become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A started worker whose result is an `R`. It can be copied, sent to other workers, and joined by any number
/// of them.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
#[doc(alias("process_id", "join_point"))]
pub struct WorkerId<R> {
    id: u64,
    #[serde(skip)]
    result: PhantomData<fn() -> R>,
}

impl<R> WorkerId<R> {
    pub(crate) fn new(id: u64) -> WorkerId<R> {
        WorkerId { id, result: PhantomData }
    }

    /// The number of the worker in this run: 0 is the first worker. It is not the number of its process.
    pub fn number(&self) -> u64 {
        self.id
    }
}

impl<R> Clone for WorkerId<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for WorkerId<R> {}

impl<R> PartialEq for WorkerId<R> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<R> Eq for WorkerId<R> {}

impl<R> PartialOrd for WorkerId<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for WorkerId<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl<R> Hash for WorkerId<R> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<R> fmt::Debug for WorkerId<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({})", self.id)
    }
}

/// How a worker's function, or its process, ended; as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Returned(ByteBuf),
    Failed { message: String },
    Panicked { message: String, location: Option<String> },
    Unserializable { message: String },
    TooBig { size: usize, limit: usize },
    BadArgument { message: String },
    Exited { code: i32 },
    Killed { signal: i32, core: bool },
    Lost { message: String },
}

/// The longest text of an error that travels, in bytes.
const TEXT_MAX: usize = 16 << 10;

impl Outcome {
    /// Makes the outcome fit into a message: a result has at most `limit` bytes, texts are cut.
    fn limit(&mut self, limit: usize) {
        match self {
            Outcome::Returned(bytes) if bytes.len() > limit => {
                *self = Outcome::TooBig { size: bytes.len(), limit };
            }
            Outcome::Failed { message }
            | Outcome::Panicked { message, .. }
            | Outcome::Unserializable { message }
            | Outcome::BadArgument { message }
                if message.len() > TEXT_MAX =>
            {
                let end = (0..=TEXT_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
                message.truncate(end);
                message.push_str(" [...]");
            }
            _ => {}
        }
    }
}

/// A worker that has ended, for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedWorker {
    /// The name of its definition.
    pub name: String,
    /// Its number in the run.
    pub number: u64,
    /// The number of its process, which may be in use again.
    pub process: u32,
}

impl fmt::Display for EndedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} `{}` (process {})", self.number, self.name, self.process)
    }
}

/// Why there is no result of a worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Its function returned an error.
    #[error("{worker} failed: {message}")]
    Failed {
        /// Which worker.
        worker: EndedWorker,
        /// The error's message.
        message: String,
    },
    /// Its function panicked.
    #[error("{worker} panicked{}: {message}", at(location))]
    Panicked {
        /// Which worker.
        worker: EndedWorker,
        /// What it panicked with.
        message: String,
        /// File, line and column, if known.
        location: Option<String>,
    },
    /// Its process exited by itself, without a result.
    #[error("{worker} exited with code {code} before it had a result")]
    Exited {
        /// Which worker.
        worker: EndedWorker,
        /// The exit code.
        code: i32,
    },
    /// A signal killed its process.
    #[error("{worker} was killed by signal {signal}{}{}", named(*signal), if *core { ", core dumped" } else { "" })]
    Killed {
        /// Which worker.
        worker: EndedWorker,
        /// The signal's number.
        signal: i32,
        /// Whether the system wrote a core file.
        core: bool,
    },
    /// serde refused to write its result.
    #[error(
        "the result of {worker} cannot be serialised: {message}; return a type that serde can write as CBOR"
    )]
    Unserializable {
        /// Which worker.
        worker: EndedWorker,
        /// What serde said.
        message: String,
    },
    /// Its result is larger than a message may be.
    #[error(
        "the result of {worker} has {size} bytes, and messages are limited to {limit}: return less, or raise `Runtime::message_limit`"
    )]
    TooBig {
        /// Which worker.
        worker: EndedWorker,
        /// Bytes of the encoded result.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Its argument could not be read: the definitions here and there have different types.
    #[error("the argument of {worker} cannot be read: {message}")]
    BadArgument {
        /// Which worker.
        worker: EndedWorker,
        /// What serde said.
        message: String,
    },
    /// Its result is of another type than the one asked for.
    #[error("the result of {worker} is not of the type asked for: {message}")]
    WrongType {
        /// Which worker.
        worker: EndedWorker,
        /// What serde said.
        message: String,
    },
    /// That worker waits in its own join for this one, directly or through others; or it is this one.
    #[error("waiting for worker {number} would never end: it waits for this worker")]
    Deadlock {
        /// The number asked for.
        number: u64,
    },
    /// Nobody can tell how it ended: something else in the master's process has taken its exit status.
    #[error("{worker} has ended, and how cannot be told: {message}")]
    Lost {
        /// Which worker.
        worker: EndedWorker,
        /// What the system said.
        message: String,
    },
    /// No worker has this number in this run.
    #[error("there is no worker {number} in this run")]
    Unknown {
        /// The number asked for.
        number: u64,
    },
    /// The master is gone, and the run with it.
    #[error("the master is gone: {message}")]
    MasterGone {
        /// What the link said.
        message: String,
    },
}

fn at(location: &Option<String>) -> String {
    location.as_ref().map(|location| format!(" at {location}")).unwrap_or_default()
}

fn named(signal: i32) -> String {
    manycore_backends::spawn::signal_name(signal).map(|name| format!(" ({name})")).unwrap_or_default()
}

impl Ended {
    /// The result, if there is one.
    pub(crate) fn result<R: DeserializeOwned>(&self) -> Result<R, JoinError> {
        let worker = EndedWorker { name: self.name.clone(), number: self.id, process: self.process };
        Err(match self.outcome.clone() {
            Outcome::Returned(bytes) => match wire::from_bytes(&bytes) {
                Ok(value) => return Ok(value),
                Err(message) => JoinError::WrongType { worker, message },
            },
            Outcome::Failed { message } => JoinError::Failed { worker, message },
            Outcome::Panicked { message, location } => JoinError::Panicked { worker, message, location },
            Outcome::Unserializable { message } => JoinError::Unserializable { worker, message },
            Outcome::TooBig { size, limit } => JoinError::TooBig { worker, size, limit },
            Outcome::BadArgument { message } => JoinError::BadArgument { worker, message },
            Outcome::Exited { code } => JoinError::Exited { worker, code },
            Outcome::Killed { signal, core } => JoinError::Killed { worker, signal, core },
            Outcome::Lost { message } => JoinError::Lost { worker, message },
        })
    }
}

/// A definition without its types: from the bytes of an argument to an outcome.
type Erased = Arc<dyn Fn(&mut Context, &[u8]) -> Outcome + Send + Sync>;

/// All definitions of a program, by name.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    workers: BTreeMap<&'static str, Entry>,
}

#[derive(Clone)]
struct Entry {
    erased: Erased,
    /// Where it was defined, and its types: the same definition may come from two crates, and then its
    /// function has two addresses.
    same: (&'static Location<'static>, TypeId, TypeId),
}

impl Registry {
    /// Adds a definition; `false` if another one has its name.
    pub(crate) fn add<A, R>(&mut self, worker: &Worker<A, R>) -> bool
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let body = worker.body;
        let same = (worker.defined, TypeId::of::<A>(), TypeId::of::<R>());
        if let Some(entry) = self.workers.get(worker.name) {
            return entry.same == same;
        }
        let erased: Erased = Arc::new(move |context, argument| {
            let argument = match wire::from_bytes(argument) {
                Ok(argument) => argument,
                Err(message) => return Outcome::BadArgument { message },
            };
            let result = match body {
                Body::Plain(function) => function(context, argument),
                Body::Fallible(function) => match function(context, argument) {
                    Ok(result) => result,
                    Err(failure) => return Outcome::Failed { message: failure.message },
                },
            };
            match wire::to_bytes(&result) {
                Ok(bytes) => Outcome::Returned(ByteBuf::from(bytes)),
                Err(message) => Outcome::Unserializable { message },
            }
        });
        self.workers.insert(worker.name, Entry { erased, same });
        true
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Erased> {
        self.workers.get(name).map(|entry| &entry.erased)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.workers.keys().map(|name| (*name).to_owned()).collect()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.workers.keys()).finish()
    }
}
