//! [`Error`]: any error of this library, for the `?` of programs.
//!
//! Functions of the library return the error of their room, which says more; this type only collects them. It adds nothing
//! to what they say.

use manycore_backends::lock::LockError;
use manycore_backends::name::NameError;
use manycore_backends::poll::PollError;
use manycore_backends::posix::PosixError;
use manycore_backends::posix::semaphore::SemaphoreError;
use manycore_backends::shm::{OutOfBounds, ShmError};
use manycore_backends::spawn::SpawnError;
use manycore_backends::transport::TransportError;
use manycore_backends::transport::polypipe::PipeError;
use manycore_backends::transport::polysocket::PolysocketError;

use crate::admin::AdminError;
use crate::array::ArrayError;
use crate::codec::CodecError;
use crate::map::MapError;
use crate::master::{DirectoryError, RunError};
use crate::named::NamedError;
use crate::pool::PoolError;
use crate::resource::ResourceError;
use crate::shared::SharedError;
use crate::table::TableError;
use crate::worker::{JoinError, MasterGone, StartError};

/// Any error of this library, of what it re-exports too, but for the two that give a message back which was not sent: `?`
/// would lose it. Of a [`WriteError`](crate::transport::polypipe::WriteError) `error` becomes one of these, of a
/// [`TrySendError`](crate::transport::TrySendError) what is in `Failed`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[error(transparent)]
pub enum Error {
    /// A run has no result.
    Run(#[from] RunError),
    /// A worker was not started.
    Start(#[from] StartError),
    /// A worker has no result.
    Join(#[from] JoinError),
    /// A pool could not do a task.
    Pool(#[from] PoolError),
    /// An operation on a named object was not done.
    Named(#[from] NamedError),
    /// The master is gone, and the run with it.
    MasterGone(#[from] MasterGone),
    /// An object could not be registered or removed.
    Resource(#[from] ResourceError),
    /// A run cannot have its directory.
    Directory(#[from] DirectoryError),
    /// A run could not be looked at, directed or cleaned up.
    Admin(#[from] AdminError),
    /// A table could not be opened or used.
    Table(#[from] TableError),
    /// A map could not be used.
    Map(#[from] MapError),
    /// An array could not be used.
    Array(#[from] ArrayError),
    /// A queue, mutex or semaphore in shared memory could not be used.
    Shared(#[from] SharedError),
    /// A value has no encoding, or words are no value.
    Codec(#[from] CodecError),
    /// A name of an object was refused.
    Name(#[from] NameError),
    /// A shared object could not be opened or grown.
    Shm(#[from] ShmError),
    /// A shared object has no such words.
    OutOfBounds(#[from] OutOfBounds),
    /// A lock was not granted.
    Lock(#[from] LockError),
    /// A poller failed.
    Poll(#[from] PollError),
    /// A link failed.
    Transport(#[from] TransportError),
    /// Something could not be written to a pipe, or read from it.
    Pipe(#[from] PipeError),
    /// Something could not be done with a client or a server.
    Polysocket(#[from] PolysocketError),
    /// A unit of work could not be begun.
    Spawn(#[from] SpawnError),
    /// The system has refused something.
    Posix(#[from] PosixError),
    /// Something could not be done with a semaphore of the system.
    Semaphore(#[from] SemaphoreError),
}
