//! Workers: units of work of a program, each in a process of its own, started by name with a typed argument
//! and joined for a typed result.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | defining a worker |
//! | `outcome` | how it can end, and what joiners are told |
//! | `workers` | all definitions by name, and where the life of a worker's program begins |
//! | `context` | what a running worker can ask for: terminate, register |
//! | `line` | its end of the link to the master |
//! | `calls` | how it asks for something about named objects |
//! | `start` | asking for other workers |
//! | `join` | waiting for the ends of others |
//! | `level` | how important a line of the log is |
//! | `child` | what runs in the worker's process around its body |
//! | `error` | why a worker was not started |
//! | `failure` | what a worker's function returns if it fails |
//!
//! A definition is a name and a plain function, so that it can be a `const` or `static`, and so that a process
//! that begins anew can find it: nothing is captured that could get lost on the way.
//!
//! This module does not start processes; the [master](crate::master) does, whoever asks.

mod calls;
pub(crate) mod child;
mod context;
mod error;
mod failure;
mod join;
pub(crate) mod level;
mod line;
mod outcome;
mod start;
mod workers;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::panic::Location;

use serde::{Deserialize, Serialize};

pub use crate::wire::{ToMaster, ToWorker};
pub(crate) use calls::{CallError, Patience};
pub(crate) use context::ASKING;
pub use context::Context;
pub use error::{MasterGone, StartError};
pub use failure::Failure;
pub use level::Level;
pub(crate) use line::Tell;
pub use outcome::{CancelledBy, EndedWorker, JoinError};
pub(crate) use outcome::{Outcome, shorten};
pub(crate) use start::{check_descriptors, encode_argument, push_argument};
pub use workers::Workers;

/// The definition of a worker: its name, and the function that it runs. `A` is its argument, `R` its result;
/// both travel as CBOR, as serde writes it. So what CBOR does not tell apart arrives as the same: `Some(())` and
/// `None`, for one. Values nested deeper than 128 levels cannot be read.
///
/// ```
/// use manycore::{Context, Runtime, Worker};
///
/// const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);
/// const SUM: Worker<u64, u64> = Worker::fallible("sum of squares", |context, count| {
///     let workers = context.start_all(&SQUARE, 1..=count)?;
///     Ok(context.join_all(workers)?.into_iter().sum())
/// });
///
/// let sum = Runtime::new().with(&SQUARE).run(&SUM, 10)?;
/// assert_eq!(sum, 385);
/// # Ok::<(), manycore::Error>(())
/// ```
#[doc(alias("Netmcore_process", "def_process", "Process", "fork_point"))]
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

    /// Defines a worker whose function can fail: whoever joins it gets [`JoinError::Failed`] with the message of the error
    /// and those of its causes. `?` takes any [`Error`](std::error::Error); boxed ones, and those of `anyhow` and `eyre`, take
    /// `.map_err(Failure::from_boxed)?`: see [`Failure`].
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

/// The [number](WorkerId::number).
impl<R> fmt::Display for WorkerId<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

impl<R> fmt::Debug for WorkerId<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({})", self.id)
    }
}
