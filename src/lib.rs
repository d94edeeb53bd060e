//! Programs made of many processes.

#![forbid(unsafe_code)]

pub mod codec;
pub mod map;
pub mod table;

pub use manycore_backends::{
    Fcntl, File, Fork, Heap, LockMethod, NoLock, Poll, Poller, PosixShm, ShmBackend, Socket, Spawner,
    Transport, lock, name, poll, shm, spawn, transport,
};
pub use map::{MapError, ShmMap};
pub use table::{ShmTable, TableError, TableOptions};
