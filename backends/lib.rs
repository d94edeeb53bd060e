//! What the operating system gives to [`manycore`](https://docs.rs/manycore): five contracts, each
//! beside its implementations.
//!
//! | contract | what it promises | implementations | room |
//! |---|---|---|---|
//! | [`ShmBackend`] | named memory that grows and that several processes can map | [`PosixShm`], [`File`], [`Heap`] | [`shm`] |
//! | [`LockMethod`] | who may touch an object, now | [`Fcntl`], [`NoLock`] | [`lock`] |
//! | [`Poller`] | the only place that sleeps on descriptors | [`Poll`] | [`poll`] |
//! | [`Transport`] | ordered messages between two ends, each end `AsFd` | [`Socket`] | [`transport`] |
//! | [`Spawner`] | begin a unit of work and watch its end, each child `AsFd` | [`Fork`] | [`spawn`] |
//!
//! Each room's front page states its contract as numbered laws. With the feature `testing`, the module
//! `testing` holds a generic conformance suite per contract, which a backend written elsewhere can run
//! over itself, the fault injector `Faulty` and the crash recorder `Recorder`.
//!
//! # Architecture invariants
//!
//! * Families do not know each other. They meet in types of std (`AsFd`, `BorrowedFd`, `Duration`,
//!   `OsStr`) and in traits that the caller supplies. Only this file sees all of them.
//! * Nothing here knows what a message, a table or a worker means; there is no serialisation.
//! * Shared bytes are touched in one file only, `shm/mapping.rs`; `shm/guard.rs` replaces pages that are gone.
//! * `unsafe` is denied here and allowed again, file by file, under a `# Safety` heading.
//! * The public interface shows types of std and our own, never those of rustix, libc or memmap2.
//! * Linux only, for now: pidfd, `close_range` and `fallocate` are used where they are the right call.

#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("manycore-backends supports Linux only, for now");

pub mod generation;
pub mod lock;
pub mod name;
pub mod poll;
pub mod shm;
pub mod spawn;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

use std::os::fd::BorrowedFd;

pub use lock::{Best, BestLock, Fcntl, LockMethod, NoLock};
pub use poll::{Poll, Poller};
pub use shm::{File, Heap, PosixShm, ShmBackend};
pub use spawn::{Fork, Spawner};
pub use transport::{Socket, Transport};

// The one place where shm and lock meet. `PosixShm` and `File` are files to the kernel, so that record locks work on
// them; `Heap` is not, and `ShmTable<Heap, Fcntl>` does not compile.
impl lock::RecordLockable for PosixShm {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, lock::LockError> {
        self.handle().current_fd().ok_or(lock::LockError::Forked)
    }
}

impl lock::RecordLockable for File {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, lock::LockError> {
        self.handle().current_fd().ok_or(lock::LockError::Forked)
    }
}

impl lock::BestLock for PosixShm {
    type Lock = Fcntl;
}

impl lock::BestLock for File {
    type Lock = Fcntl;
}

impl lock::BestLock for Heap {
    type Lock = NoLock;
}
