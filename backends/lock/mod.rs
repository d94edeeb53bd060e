//! Who may touch an object: the contract [`LockMethod`] and its mechanisms.
//!
//! | mechanism | excludes | works on | cost |
//! |---|---|---|---|
//! | [`Fcntl`] | processes and threads | objects with a descriptor | one system call to lock, one to unlock |
//! | [`NoLock`] | nobody: the user's promise | anything | nothing |
//!
//! # The contract
//!
//! A lock belongs to the object, not to a handle: two handles of one object, in one process or in two,
//! contend with each other. A lock is held by a thread.
//!
//! 1. **Writers exclude.** While a thread holds [`Mode::Write`], no other thread of any process holds anything.
//! 2. **Readers share.** Any number of threads may hold [`Mode::Read`] at once.
//! 3. **Asking twice.** A thread that holds `Read` may take `Read` again, and releases as often. Any other
//!    second request of one thread could never be granted: [`LockError::LockedByCaller`], at once.
//! 4. **Waiting.** [`Wait::Forever`] waits, [`Wait::Try`] gives [`LockError::Busy`], [`Wait::AtMost`] gives
//!    [`LockError::TimedOut`] at that time or later. Signals do not shorten a wait. A failed request leaves
//!    nothing held.
//! 5. **Death.** The locks of a process that dies are released.
//! 6. **Other handles.** Opening and dropping other handles of the object, in any process, does not release.
//! 7. **Deadlock.** Where the system finds a cycle of waiting processes, one of them gets
//!    [`LockError::Deadlock`], and must release what it holds.
//! 8. **Fork.** A child holds nothing; a lock method carried into it refuses: [`LockError::Forked`].
//! 9. **Unlocking** what the thread does not hold is [`LockError::NotHeld`] and changes nothing.
//!
//! `NoLock` keeps law 4 trivially, laws 3 and 9 for one handle, and none of the others.
//!
//! This module does not know what is protected, and repairs nothing: who finds an object that a dead writer
//! left halfway mends it (the table does, from its journal).

mod fcntl;
mod gate;
mod none;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use fcntl::Fcntl;
pub use none::NoLock;

/// A way to lock objects of the backend `B`. The laws are on the [module page](self).
#[doc(alias("locking_method", "flock", "fcntl"))]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lock objects of the backend `{B}`",
    label = "this lock method does not work on this shared memory",
    note = "`Fcntl` needs a backend with a descriptor (`PosixShm`, `File`); use `NoLock` where only one thread uses the object"
)]
pub trait LockMethod<B>: fmt::Debug + Send + Sync + Sized + 'static {
    /// How users of an object must lock it; written into the object, so that all agree.
    const PROTOCOL: Protocol;

    /// Prepares to lock `object`.
    ///
    /// # Errors
    /// [`LockError::Io`] if the system cannot tell which object it is.
    fn attach(object: &B) -> Result<Self, LockError>;

    /// Takes the lock of `object`, the one that was attached.
    ///
    /// # Errors
    /// [`LockError`], by the laws 3, 4, 7 and 8; [`LockError::NoLocks`] if the system's table is full.
    fn lock(&self, object: &B, mode: Mode, wait: Wait) -> Result<(), LockError>;

    /// Releases the lock that this thread took last on `object`.
    ///
    /// # Errors
    /// [`LockError::NotHeld`] if this thread does not hold it.
    fn unlock(&self, object: &B) -> Result<(), LockError>;
}

/// A backend for which one lock method is best, unless there are reasons for another. [`Best`] is that method; code
/// that is generic over backends needs no second parameter then.
///
/// ```
/// use manycore_backends::lock::{Best, BestLock, LockMethod, Protocol};
/// use manycore_backends::{Heap, PosixShm};
///
/// fn protocol<B: BestLock>() -> Protocol {
///     <Best<B> as LockMethod<B>>::PROTOCOL
/// }
/// assert_eq!(protocol::<PosixShm>(), Protocol::FCNTL);
/// assert_eq!(protocol::<Heap>(), Protocol::NONE);
/// ```
#[doc(alias = "best_locking_method")]
#[diagnostic::on_unimplemented(
    message = "no lock method is known to be best for `{Self}`",
    note = "say which one to use, or implement `BestLock` for the backend"
)]
pub trait BestLock: Sized {
    /// The method.
    type Lock: LockMethod<Self>;
}

/// The best lock method for objects of the backend `B`; see [`BestLock`].
#[doc(alias = "best_locking_method")]
pub type Best<B> = <B as BestLock>::Lock;

/// A backend whose objects are files to the kernel, so that record locks on its descriptor protect the
/// object. Implement it for a backend of your own if, and only if, all descriptors of one object are the
/// same file, and a process closes none of them while it has handles (see law 7 of
/// [`ShmBackend`](crate::ShmBackend)). For the same reason a user must not duplicate the descriptor: closing
/// the copy releases the locks.
#[diagnostic::on_unimplemented(
    message = "`Fcntl` cannot lock `{Self}`: record locks need an object that is a file to the kernel",
    label = "`{Self}` has no descriptor to lock",
    note = "use `PosixShm` or `File` with `Fcntl`; `Heap` goes with `NoLock`"
)]
pub trait RecordLockable {
    /// The descriptor to lock.
    ///
    /// # Errors
    /// [`LockError::Forked`] if the handle was made before a fork, by the parent: its number may belong to
    /// something else here.
    fn descriptor(&self) -> Result<BorrowedFd<'_>, LockError>;
}

/// How much a lock allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading, beside other readers.
    Read,
    /// Writing, alone.
    Write,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it is granted.
    Forever,
    /// Not at all.
    Try,
    /// At most so long.
    AtMost(Duration),
}

/// How an object is locked, as it is recorded in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(u32);

impl Protocol {
    /// No locking.
    pub const NONE: Protocol = Protocol(0);
    /// POSIX record locks: [`Fcntl`].
    pub const FCNTL: Protocol = Protocol(1);

    /// The protocol with this number, known or not.
    pub const fn from_number(number: u32) -> Protocol {
        Protocol(number)
    }

    /// The number written into objects.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Protocol::NONE => f.write_str("NoLock"),
            Protocol::FCNTL => f.write_str("Fcntl"),
            Protocol(number) => write!(f, "unknown protocol {number}"),
        }
    }
}

/// A held lock, released when it is dropped. It stays in the thread that took it:
///
/// ```compile_fail,E0277
/// use manycore_backends::{Fcntl, PosixShm, lock::Guard};
/// fn send<T: Send>() {}
/// send::<Guard<'static, PosixShm, Fcntl>>();
/// ```
#[must_use = "the lock is released at once if the guard is not kept"]
pub struct Guard<'a, B, L: LockMethod<B>> {
    method: &'a L,
    object: &'a B,
    /// Not `Send`: the thread that took the lock must release it.
    of_this_thread: PhantomData<*const ()>,
}

impl<'a, B, L: LockMethod<B>> Guard<'a, B, L> {
    /// Takes the lock.
    ///
    /// # Errors
    /// As [`LockMethod::lock`].
    pub fn lock(method: &'a L, object: &'a B, mode: Mode, wait: Wait) -> Result<Self, LockError> {
        method.lock(object, mode, wait)?;
        Ok(Guard { method, object, of_this_thread: PhantomData })
    }
}

impl<B, L: LockMethod<B>> Drop for Guard<'_, B, L> {
    fn drop(&mut self) {
        // It was taken by this guard, so it is held, unless the guard was carried through a fork, and then
        // there is nothing to release.
        let _ = self.method.unlock(self.object);
    }
}

impl<B, L: LockMethod<B>> fmt::Debug for Guard<'_, B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("method", self.method).finish_non_exhaustive()
    }
}

/// Why a lock was not granted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The calling thread holds the lock in a way that this request could wait for for ever: end the
    /// iteration or group first, or do the operation through it.
    #[error(
        "the object is locked by the calling thread itself: use the open group, or end the iteration first"
    )]
    LockedByCaller,
    /// Processes wait for each other: release everything held, and start again.
    #[error("deadlock: another process waits for a lock of this one; release it and start again")]
    Deadlock,
    /// Somebody else holds the lock.
    #[error("the object is locked")]
    Busy,
    /// Somebody else held the lock all the time.
    #[error("the object stayed locked until the timeout")]
    TimedOut,
    /// The calling thread does not hold the lock.
    #[error("the calling thread does not hold the lock")]
    NotHeld,
    /// The system's table of locks is full (`ENOLCK`).
    #[error("the system has no room for another lock: {0}")]
    NoLocks(#[source] io::Error),
    /// The method was attached before a fork, by the parent: open the object anew in the child.
    #[error("the lock belongs to the parent of this process: open the object anew after a fork")]
    Forked,
    /// A system call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}
