//! The master: starts workers for whoever asks, watches them, and tells how they ended.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | [`Runtime`]: what may run, and running it |
//! | `jobs` | the supervising loop |
//!
//! The master is the process that calls [`Runtime::run`]; all workers are its children, also those that
//! workers ask for. It does nothing else while the run lasts: one wait over the descriptors of all links and
//! children, in a loop, without threads or signal handlers.
//!
//! This module does not interpret arguments or results.

mod jobs;

use std::marker::PhantomData;
use std::sync::Arc;

use manycore_backends::poll::PollError;
use manycore_backends::spawn::SpawnError;
use manycore_backends::transport::TransportError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::platform::{Forked, Platform};
use crate::wire::ENVELOPE;
use crate::worker::{JoinError, Registry, StartError, Worker, encode_argument};
use jobs::Jobs;

/// A program of many processes, about to run: the workers that it may start, and its limits.
///
/// ```
/// use manycore::{Runtime, Worker};
///
/// const ADD: Worker<(f64, f64), f64> = Worker::new("add", |_, (a, b)| a + b);
/// assert_eq!(Runtime::new().run(&ADD, (3.0, 4.0))?, 7.0);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[doc(alias("Netmcore", "startup"))]
#[must_use = "nothing happens before `run`"]
pub struct Runtime<P: Platform = Forked> {
    registry: Registry,
    duplicate: Option<&'static str>,
    message_limit: usize,
    worker_limit: usize,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> std::fmt::Debug for Runtime<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.registry)
            .field("message_limit", &self.message_limit)
            .field("worker_limit", &self.worker_limit)
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
            registry: Registry::default(),
            duplicate: None,
            message_limit: 64 << 20,
            worker_limit: 10_000,
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
        if !self.registry.add(worker) {
            self.duplicate.get_or_insert(worker.name());
        }
        self
    }

    /// The largest argument or result, in bytes of its CBOR. Default 64 MiB; at most somewhat less than 4 GiB.
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.message_limit = bytes.min(u32::MAX as usize - ENVELOPE);
        self
    }

    /// How many workers may run at once. Default 10 000.
    pub fn worker_limit(mut self, workers: usize) -> Self {
        self.worker_limit = workers;
        self
    }

    /// Runs the program: starts the first worker, serves it and all that are started then, and returns the
    /// first worker's result when all have ended. When the first worker has ended, no more are started.
    ///
    /// If the calling process dies, so do the workers. A program may run several times, one run after the
    /// other.
    ///
    /// # Errors
    /// [`RunError::Join`] if the first worker has no result; [`RunError::Duplicate`], [`RunError::Start`] or
    /// [`RunError::Spawn`] if it could not be started: with the spawner `Fork` the calling process must be
    /// single-threaded. If the master itself fails, the workers are killed first.
    pub fn run<A, R>(mut self, first: &Worker<A, R>, argument: A) -> Result<R, RunError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        if !self.registry.add(first) {
            self.duplicate.get_or_insert(first.name());
        }
        if let Some(name) = self.duplicate {
            return Err(RunError::Duplicate { name });
        }
        let argument = encode_argument(first.name(), &argument, self.message_limit)?;
        let mut jobs = Jobs::<P>::new(Arc::new(self.registry), self.message_limit, self.worker_limit)?;
        jobs.start_first(first.name(), argument)?;
        let ended = jobs.run()?;
        Ok(ended.result()?)
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
    /// The first worker was not started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A worker's process could not be begun or watched.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The first worker has no result.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The master could not wait. All workers were killed.
    #[error("the master cannot go on: {0}")]
    Poll(#[from] PollError),
    /// The master could not make a link. All workers were killed.
    #[error("the master cannot go on: {0}")]
    Transport(#[from] TransportError),
}
