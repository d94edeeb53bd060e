#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
pub mod array;
pub mod codec;
mod error;
pub mod map;
pub mod master;
pub mod named;
pub mod platform;
pub mod pool;
pub mod resource;
pub mod shared;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod wire;
pub mod worker;

pub use manycore_backends::{
    Best, BestLock, Epoll, Exec, Fcntl, File, Fork, Futex, Heap, LockMethod, NoLock, Ofd, Poll, Poller,
    Polysocket, Portable, PosixShm, Ring, Select, ShmBackend, Socket, Spawner, Thread, Transport, lock, name,
    poll, posix, shm, spawn, transport,
};

#[cfg(feature = "testing")]
pub use manycore_backends::{poll_conformance, transport_conformance};

pub use array::{ArrayError, ShmArray};
pub use error::Error;
pub use map::{MapError, ShmMap};
pub use master::{AtEnd, Finished, RunError, Runtime};
pub use named::{Mailbox, NamedError, SharedVar};
pub use platform::{Execed, Forked, Platform, Threaded, With};
pub use pool::{Pool, PoolError, Progress};
pub use resource::{Resource, ResourceError};
pub use shared::{SharedError, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
pub use table::{ShmTable, TableError, TableOptions};
pub use worker::{Context, Failure, JoinError, Level, MasterGone, StartError, Worker, WorkerId, Workers};
