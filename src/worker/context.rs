//! What a running worker can ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore_backends::transport::{Endpoint, TransportError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::{JoinError, Worker, WorkerId};
use crate::wire::{self, Ended, Refusal, Reply, Request, ToMaster, ToWorker};

/// A worker's end of its link to the master, of any transport.
pub(super) trait Link: AsFd + Send {
    fn send(&self, request: Request) -> Result<(), TransportError>;
    fn receive(&self, timeout: Option<Duration>) -> Result<Reply, TransportError>;
}

impl<E: Endpoint<ToMaster, ToWorker>> Link for E {
    fn send(&self, request: Request) -> Result<(), TransportError> {
        Endpoint::send(self, ToMaster(request), None)
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        Endpoint::receive(self, timeout).map(|reply| reply.0)
    }
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

fn list(names: &[String]) -> String {
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

/// A worker's view of the run: who it is, and what it can ask the master for. Every worker's function gets
/// one.
pub struct Context {
    id: u64,
    name: String,
    link: Box<dyn Link>,
    /// The largest argument that the master takes, in bytes.
    message_limit: usize,
    /// Ends that the master has told of.
    ended: BTreeMap<u64, Arc<Ended>>,
    /// Workers whose end the master was asked to tell.
    watched: BTreeSet<u64>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(id: u64, name: String, message_limit: usize, link: Box<dyn Link>) -> Context {
        Context { id, name, link, message_limit, ended: BTreeMap::new(), watched: BTreeSet::new() }
    }

    pub(super) fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// The number of this worker in the run: 0 is the first worker.
    #[doc(alias = "self_process_id")]
    pub fn number(&self) -> u64 {
        self.id
    }

    /// The name of this worker's definition.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts another worker. It is a child of the master, whoever asks; this one can end before it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<A, R>(&mut self, worker: &Worker<A, R>, argument: A) -> Result<WorkerId<R>, StartError>
    where
        A: Serialize,
    {
        let name = worker.name();
        let argument = encode_argument(name, &argument, self.message_limit)?;
        self.link
            .send(Request::Start { name: name.to_owned(), argument })
            .map_err(|error| StartError::MasterGone { message: error.to_string() })?;
        loop {
            match self.link.receive(None) {
                Ok(Reply::Started { id }) => return Ok(WorkerId::new(id)),
                Ok(Reply::Refused { refusal }) => return Err(StartError::refused(name, refusal)),
                Ok(reply) => self.keep(reply),
                Err(error) => return Err(StartError::MasterGone { message: error.to_string() }),
            }
        }
    }

    /// Waits until the worker has ended and its process is gone, and returns its result. Any number of workers
    /// may join one, as often as they like; results are kept until the run ends. Workers that wait for each
    /// other in a circle do not hang: the last one of them gets [`JoinError::Deadlock`].
    ///
    /// # Errors
    /// [`JoinError`] says why there is no result.
    pub fn join<R: DeserializeOwned>(&mut self, worker: WorkerId<R>) -> Result<R, JoinError> {
        loop {
            if let Some(result) = self.join_until(worker, None)? {
                return Ok(result);
            }
        }
    }

    /// Joins, but waits at most `timeout`: `None` if nothing was heard of the worker's end until then.
    ///
    /// # Errors
    /// As [`join`](Context::join).
    pub fn join_timeout<R: DeserializeOwned>(
        &mut self,
        worker: WorkerId<R>,
        timeout: Duration,
    ) -> Result<Option<R>, JoinError> {
        self.join_until(worker, Some(timeout))
    }

    /// The result, if the worker has ended: `None` while it runs.
    ///
    /// # Errors
    /// As [`join`](Context::join).
    #[doc(alias = "join_nowait")]
    pub fn try_join<R: DeserializeOwned>(&mut self, worker: WorkerId<R>) -> Result<Option<R>, JoinError> {
        if let Some(ended) = self.ended.get(&worker.id) {
            return ended.result().map(Some);
        }
        self.link.send(Request::Ask { id: worker.id }).map_err(master_gone)?;
        loop {
            match self.link.receive(None).map_err(master_gone)? {
                Reply::Running { id } if id == worker.id => return Ok(None),
                Reply::Unknown { id } if id == worker.id => return Err(JoinError::Unknown { number: id }),
                reply => self.keep(reply),
            }
            if let Some(ended) = self.ended.get(&worker.id) {
                return ended.result().map(Some);
            }
        }
    }

    fn join_until<R: DeserializeOwned>(
        &mut self,
        worker: WorkerId<R>,
        timeout: Option<Duration>,
    ) -> Result<Option<R>, JoinError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Said again if it is to wait for ever, so that the master can see circles.
        let blocking = timeout.is_none();
        let mut said = false;
        loop {
            if let Some(ended) = self.ended.get(&worker.id) {
                return ended.result().map(Some);
            }
            if self.watched.insert(worker.id) || (blocking && !said) {
                self.link.send(Request::Watch { id: worker.id, blocking }).map_err(master_gone)?;
                said = true;
            }
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.link.receive(remaining) {
                Ok(Reply::Unknown { id }) if id == worker.id => {
                    self.watched.remove(&id);
                    return Err(JoinError::Unknown { number: id });
                }
                Ok(Reply::Deadlock { id }) if id == worker.id => {
                    self.watched.remove(&id);
                    return Err(JoinError::Deadlock { number: id });
                }
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => return Ok(None),
                Err(error) => return Err(master_gone(error)),
            }
        }
    }

    /// Keeps what is told beside the answer that is waited for.
    fn keep(&mut self, reply: Reply) {
        match reply {
            Reply::Ended { ended } => {
                self.watched.remove(&ended.id);
                self.ended.insert(ended.id, ended);
            }
            Reply::Unknown { id } => {
                self.watched.remove(&id);
            }
            _ => {}
        }
    }
}

/// The descriptor of the link to the master: readable when it has told something, such as the end of a worker
/// that [`Context::join_timeout`] waited for in vain.
impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// Encodes an argument of at most `limit` bytes.
pub(crate) fn encode_argument(
    name: &str,
    argument: &impl Serialize,
    limit: usize,
) -> Result<ByteBuf, StartError> {
    match wire::to_bytes(argument) {
        Ok(bytes) if bytes.len() > limit => {
            Err(StartError::TooBig { name: name.to_owned(), size: bytes.len(), limit })
        }
        Ok(bytes) => Ok(ByteBuf::from(bytes)),
        Err(message) => Err(StartError::Unserializable { name: name.to_owned(), message }),
    }
}

fn master_gone(error: TransportError) -> JoinError {
    JoinError::MasterGone { message: error.to_string() }
}
