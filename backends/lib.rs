//! What the operating system gives to the crate `manycore`: five contracts, each beside its implementations.
//!
//! | contract | what it promises | implementations | room |
//! |---|---|---|---|
//! | [`ShmBackend`] | named memory that grows and that several processes can map | [`PosixShm`], [`File`], [`Heap`] | [`shm`] |
//! | [`LockMethod`] | who may touch an object, now | [`Futex`], [`Fcntl`], [`Ofd`], [`NoLock`] | [`lock`] |
//! | [`Poller`] | the only place that sleeps on descriptors | [`Poll`], [`Epoll`], [`Select`] | [`poll`] |
//! | [`Transport`] | ordered messages between two ends, each end `AsFd` | [`Socket`], [`Ring`], [`Polysocket`] | [`transport`] |
//! | [`Spawner`] | begin a unit of work and watch its end, each child `AsFd` | [`Fork`], [`Exec`], [`Thread`] | [`spawn`] |
//!
//! Each room's front page states its contract as numbered laws. With the feature `testing`, the module
//! `testing` holds a generic conformance suite per contract, which a backend written elsewhere can run
//! over itself, the fault injector `Faulty` and the crash recorder `Recorder`.
//!
//! The room [`posix`] is no contract: it is what else the system has for such programs, such as semaphores, terminals and
//! users, and a table of where everything is.
//!
//! # Architecture invariants
//!
//! * Families do not know each other. They meet in types of std (`AsFd`, `BorrowedFd`, `Duration`,
//!   `OsStr`) and in traits that the caller supplies. Only this file sees all of them. ([`Fork`] runs
//!   [`posix::post_fork`], where they say what a child forgets.)
//! * Nothing here knows what a message, a table or a worker means; there is no serialisation.
//! * Shared bytes are touched in one file only, `shm/mapping.rs`; `shm/guard.rs` replaces pages that are gone. (Those of
//!   the C library's semaphores are touched in `posix/semaphore/area.rs`.)
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
pub mod patience;
pub mod poll;
mod portable;
pub mod posix;
pub mod random;
pub mod shm;
mod signal;
pub mod spawn;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use lock::futex::AREA;
use shm::{Memory, ShmError, Waited, Window};

pub use lock::{Best, BestLock, Fcntl, Futex, LockMethod, NoLock, Ofd};
pub use poll::{Epoll, Poll, Poller, Select};
pub use portable::Portable;
pub use shm::{File, Heap, PosixShm, ShmBackend};
pub use spawn::{Exec, Fork, Spawner, Thread};
pub use transport::{Polysocket, Ring, Socket, Transport};

// The one place where shm and lock meet (with that of `testing::faulty`). `PosixShm` and `File` are files to the kernel,
// so that record locks work on them; `Heap` is not, and `ShmTable<Heap, Fcntl>` does not compile.
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

impl lock::FutexLockable for PosixShm {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, lock::LockError> {
        lock::RecordLockable::descriptor(self).map(Some)
    }

    fn identity(&self) -> (u64, u64) {
        self.handle().identity()
    }
}

impl lock::FutexLockable for File {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, lock::LockError> {
        lock::RecordLockable::descriptor(self).map(Some)
    }

    fn identity(&self) -> (u64, u64) {
        self.handle().identity()
    }
}

impl lock::FutexLockable for Heap {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, lock::LockError> {
        if self.is_current() { Ok(None) } else { Err(lock::LockError::Forked) }
    }

    /// No device has the number 2^64 - 1.
    fn identity(&self) -> (u64, u64) {
        (u64::MAX, self.address() as u64)
    }
}

// Words of the area were there when the object was attached, and do not go away (law 4 of shared memory); nor does the
// right to write them.
impl<B: ShmBackend + lock::FutexLockable> lock::futex::LockWords for B {
    fn check_area(&self) -> Result<(), lock::LockError> {
        let window = self.memory().window();
        if window.words() < AREA.end {
            return Err(lock::LockError::TooSmall);
        }
        match window.compare_exchange(AREA.end - 1, u32::MAX, u32::MAX) {
            Ok(_) => Ok(()),
            Err(_) => Err(lock::LockError::ReadOnly),
        }
    }

    #[inline(always)]
    fn load(&self, at: usize) -> u32 {
        self.memory().window().load(AREA.start + at).expect(THERE)
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u32) {
        self.memory().window().store(AREA.start + at, value).expect(THERE);
    }

    #[inline(always)]
    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.memory().window().compare_exchange(AREA.start + at, current, new).expect(THERE)
    }

    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> bool {
        self.memory().window().wait(AREA.start + at, expected, limit, mask).expect(THERE) == Waited::Woken
    }

    fn wake(&self, at: usize, count: u32, mask: u32) {
        self.memory().window().wake(AREA.start + at, count, mask).expect(THERE);
    }

    fn again(&self) -> Result<Box<dyn lock::futex::LockWords>, lock::LockError> {
        match self.try_clone() {
            Ok(handle) => Ok(Box::new(handle)),
            Err(ShmError::Forked { .. }) => Err(lock::LockError::Forked),
            Err(error) => Err(lock::LockError::Io {
                op: "another handle of the object",
                source: std::io::Error::other(error),
            }),
        }
    }
}

const THERE: &str = "the lock area was there when the object was attached";

impl lock::BestLock for PosixShm {
    type Lock = Futex;
}

impl lock::BestLock for File {
    type Lock = Futex;
}

impl lock::BestLock for Heap {
    type Lock = Futex;
}
