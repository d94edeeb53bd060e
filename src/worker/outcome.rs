//! How a worker can end, and what whoever joins it is told.
//!
//! This module does not find out how a worker ended: its process tells, or else the spawner.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::error::list;
use super::failure::with_causes;
use crate::wire::{self, Ended};

/// How a worker's function, or its process, ended; as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Returned(ByteBuf),
    Failed { message: String, causes: Vec<String> },
    Panicked { message: String, location: Option<String> },
    Unserializable { message: String },
    TooBig { size: usize, limit: usize },
    BadArgument { message: String },
    Undefined { known: Vec<String> },
    Exited { code: i32 },
    Killed { signal: i32, core: bool },
    Cancelled { by: CancelledBy },
    Lost { message: String },
}

/// The longest text of an error that travels, in bytes.
const TEXT_MAX: usize = 16 << 10;

impl Outcome {
    /// Makes the outcome fit into a message: a result has at most `limit` bytes, texts are cut.
    pub(super) fn limit(&mut self, limit: usize) {
        match self {
            Outcome::Returned(bytes) if bytes.len() > limit => {
                *self = Outcome::TooBig { size: bytes.len(), limit };
            }
            Outcome::Undefined { known } => shorten(known),
            Outcome::Failed { message, causes } => {
                cut(message);
                shorten(causes);
            }
            Outcome::Panicked { message, .. }
            | Outcome::Unserializable { message }
            | Outcome::BadArgument { message } => cut(message),
            _ => {}
        }
    }
}

/// Makes a text fit into a message.
fn cut(message: &mut String) {
    if message.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" [...]");
    }
}

/// Makes a list of names or texts fit into a message: the last ones are left out.
pub(crate) fn shorten(names: &mut Vec<String>) {
    let mut size = 0;
    let fit = names.iter().take_while(|name| {
        size += name.len();
        size <= TEXT_MAX
    });
    let fit = fit.count();
    if fit < names.len() {
        names.truncate(fit);
        names.push("...".to_owned());
    }
}

/// Who had a worker end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CancelledBy {
    /// The worker with this number, by [`Context::terminate`](super::Context::terminate) or its like.
    Worker(u64),
    /// The run, after the first worker had ended: see [`AtEnd`](crate::AtEnd).
    EndOfRun,
    /// The run, after the master got this signal.
    Signal(i32),
    /// Somebody from outside, by the [`admin`](crate::admin) module or the command `manycore`.
    Command,
}

impl fmt::Display for CancelledBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CancelledBy::Worker(number) => write!(f, "worker {number}"),
            CancelledBy::EndOfRun => f.write_str("the end of the run"),
            CancelledBy::Signal(signal) => write!(f, "signal {signal}{} to the master", named(*signal)),
            CancelledBy::Command => f.write_str("a command from outside"),
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
    #[error("{worker} failed: {}", with_causes(message, causes))]
    Failed {
        /// Which worker.
        worker: EndedWorker,
        /// The error's message.
        message: String,
        /// The messages of its causes, the nearest first: of what its [`source`](std::error::Error::source) was, of the
        /// source of that, and so on.
        causes: Vec<String>,
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
    /// It was [terminated](super::Context::terminate) before it had a result.
    #[error("{worker} was cancelled by {by}")]
    Cancelled {
        /// Which worker.
        worker: EndedWorker,
        /// Who had it end.
        by: CancelledBy,
    },
    /// Its program, which is this one run anew, does not know its definition: pass it to
    /// [`Workers::with`](super::Workers::with), before [`Workers::enter`](super::Workers::enter).
    #[error(
        "{worker} is not among the workers that `enter` was called with: add `.with(&...)` there; known are {}",
        list(known)
    )]
    Undefined {
        /// Which worker.
        worker: EndedWorker,
        /// The names known there.
        known: Vec<String>,
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
    /// The worker that waits [should stop](super::Context::should_stop). It is told so once; it can wait again.
    #[error("this worker was asked to stop while it waited for another")]
    Stopping,
    /// There is nobody to wait for.
    #[error("there is nobody to wait for: the list of workers is empty")]
    Nobody,
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
        let worker = EndedWorker { name: self.name.to_string(), number: self.id, process: self.process };
        match &self.outcome {
            Outcome::Returned(bytes) => {
                wire::from_bytes(bytes).map_err(|message| JoinError::WrongType { worker, message })
            }
            other => Err(other.clone().into_error(worker)),
        }
    }
}

impl Outcome {
    /// Why the worker has no result.
    pub(crate) fn into_error(self, worker: EndedWorker) -> JoinError {
        match self {
            Outcome::Returned(_) => JoinError::WrongType { worker, message: "it has one".to_owned() },
            Outcome::Failed { message, causes } => JoinError::Failed { worker, message, causes },
            Outcome::Panicked { message, location } => JoinError::Panicked { worker, message, location },
            Outcome::Unserializable { message } => JoinError::Unserializable { worker, message },
            Outcome::TooBig { size, limit } => JoinError::TooBig { worker, size, limit },
            Outcome::BadArgument { message } => JoinError::BadArgument { worker, message },
            Outcome::Undefined { known } => JoinError::Undefined { worker, known },
            Outcome::Cancelled { by } => JoinError::Cancelled { worker, by },
            Outcome::Exited { code } => JoinError::Exited { worker, code },
            Outcome::Killed { signal, core } => JoinError::Killed { worker, signal, core },
            Outcome::Lost { message } => JoinError::Lost { worker, message },
        }
    }
}
