//! [`Error`]: any error of this library, for the `?` of programs.
//!
//! Functions of the library return the error of their room, which says more; this type only collects them.

use manycore_backends::lock::LockError;
use manycore_backends::poll::PollError;
use manycore_backends::shm::ShmError;
use manycore_backends::spawn::SpawnError;
use manycore_backends::transport::TransportError;

use crate::admin::AdminError;
use crate::array::ArrayError;
use crate::codec::CodecError;
use crate::map::MapError;
use crate::master::RunError;
use crate::named::NamedError;
use crate::pool::PoolError;
use crate::resource::ResourceError;
use crate::table::TableError;
use crate::worker::{JoinError, MasterGone, StartError};

/// Any error of this library.
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
    /// A run could not be looked at, directed or cleaned up.
    Admin(#[from] AdminError),
    /// A table could not be opened or used.
    Table(#[from] TableError),
    /// A map could not be used.
    Map(#[from] MapError),
    /// An array could not be used.
    Array(#[from] ArrayError),
    /// A value has no encoding, or words are no value.
    Codec(#[from] CodecError),
    /// A shared object could not be opened or grown.
    Shm(#[from] ShmError),
    /// A lock was not granted.
    Lock(#[from] LockError),
    /// A poller failed.
    Poll(#[from] PollError),
    /// A link failed.
    Transport(#[from] TransportError),
    /// A unit of work could not be begun.
    Spawn(#[from] SpawnError),
}
