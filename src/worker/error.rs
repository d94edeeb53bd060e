//! Why a worker was not started. Why one has no result is in [`outcome`](super::outcome).
//!
//! This module looks at no argument and asks for nothing: `start` does.

use crate::wire::Refusal;

/// The master is gone, and the run with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the master is gone: {message}")]
#[non_exhaustive]
pub struct MasterGone {
    /// What the link said.
    pub message: String,
}

/// Why a worker was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No definition of this name was given to the runtime before the run.
    #[error(
        "worker `{name}` is not defined in this run: add `.with(&...)` to the runtime; defined are {}",
        list(known)
    )]
    Undefined {
        /// The name asked for.
        name: String,
        /// The names defined.
        known: Vec<String>,
    },
    /// serde refused to write the argument.
    #[error(
        "the argument of worker `{name}` cannot be serialised: {message}; pass a type that serde can write as CBOR"
    )]
    Unserializable {
        /// The name of the worker.
        name: String,
        /// What serde said.
        message: String,
    },
    /// The argument is larger than a message may be.
    #[error(
        "the argument of worker `{name}` has {size} bytes, and messages are limited to {limit}: pass less, or raise `Runtime::message_limit`"
    )]
    TooBig {
        /// The name of the worker.
        name: String,
        /// Bytes of the encoded argument.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// So many descriptors cannot be given to a worker: pass them over a socket of its own, one by one.
    #[error("worker `{name}` cannot be given {count} descriptors: at most {limit}")]
    TooManyDescriptors {
        /// The name of the worker.
        name: String,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// As many workers run as the runtime allows.
    #[error("{limit} workers run already: join some, or raise `Runtime::worker_limit`")]
    TooMany {
        /// Workers allowed.
        limit: usize,
    },
    /// The first worker has ended, and the run only waits for the others.
    #[error("the run is ending, and starts no more workers")]
    ShuttingDown,
    /// The system did not begin the process.
    #[error("worker `{name}` cannot be started: {message}")]
    Spawn {
        /// The name of the worker.
        name: String,
        /// What failed.
        message: String,
        /// The errno, if it was a system call.
        errno: Option<i32>,
    },
    /// The master is gone, and the run with it.
    #[error("the master is gone: {message}")]
    MasterGone {
        /// What the link said.
        message: String,
    },
}

pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { format!("`{}`", names.join("`, `")) }
}

impl StartError {
    pub(crate) fn refused(name: &str, refusal: Refusal) -> StartError {
        let name = name.to_owned();
        match refusal {
            Refusal::Undefined { known } => StartError::Undefined { name, known },
            Refusal::ShuttingDown => StartError::ShuttingDown,
            Refusal::TooMany { limit } => StartError::TooMany { limit },
            Refusal::Spawn { message, errno } => StartError::Spawn { name, message, errno },
        }
    }
}
