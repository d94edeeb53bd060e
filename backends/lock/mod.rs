//! Who may touch an object: the contract [`LockMethod`] and its mechanisms.
//!
//! | mechanism | excludes | works on | cost |
//! |---|---|---|---|
//! | [`Futex`] | processes and threads | objects with lock words | some 20 ns; system calls only to wait |
//! | [`Fcntl`] | processes and threads | objects with a descriptor | one system call to lock, one to unlock |
//! | [`Ofd`] | processes and threads | objects with a descriptor | the same |
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
//!    nothing held. (`Try` may be refused also because somebody else is about to come in, or to go away, just now.)
//! 5. **Death.** The locks of a process that dies are released; whoever waits for them gets them within 50 ms.
//! 6. **Other handles.** Opening and dropping other handles of the object, in any process, does not release.
//! 7. **Deadlock.** Of threads that wait for each other for ever, in one process or in several, one gets
//!    [`LockError::Deadlock`] within a second, and must release what it holds, and start again. ([`Ofd`] finds only
//!    cycles within one process; [`Fcntl`] overlooks those who wait with a limit; nobody finds cycles over objects with
//!    different methods. Those who wait with a limit may be told, too, though time would have helped.)
//! 8. **Fork.** A child holds nothing; a lock method carried into it refuses: [`LockError::Forked`].
//! 9. **Unlocking** what the thread does not hold is [`LockError::NotHeld`] and changes nothing.
//! 10. **Upgrading** goes from `Read` to `Write`, **downgrading** back, and nobody writes in between. An upgrade waits
//!     for the other readers; of two at once one gets [`LockError::Deadlock`], and so does, with [`Futex`], one that comes
//!     when a writer waits for this reader already. If it fails the thread reads as before.
//!     A thread that reads more than once cannot upgrade: [`LockError::LockedByCaller`].
//! 11. **Fairness.** Nobody waits for ever because others come and go, within one process; with [`Futex`], in any.
//!
//! `NoLock` keeps law 4 trivially, laws 3, 9 and 10 for one handle, and none of the others.
//!
//! # Deadlocks
//!
//! Whoever locks several objects should always lock them in the same order. Where that is not possible:
//!
//! ```no_run
//! # use manycore_backends::lock::{Guard, LockError, Mode, Wait};
//! # use manycore_backends::{Futex, LockMethod, PosixShm};
//! # fn transfer() {}
//! # fn f(one: &PosixShm, first: &Futex, other: &PosixShm, second: &Futex) -> Result<(), LockError> {
//! let _guards = loop {
//!     let outer = Guard::lock(first, one, Mode::Write, Wait::Forever)?;
//!     match Guard::lock(second, other, Mode::Write, Wait::Forever) {
//!         Ok(inner) => break (outer, inner),
//!         // Somebody holds the other and waits for this one: let it go first.
//!         Err(LockError::Deadlock) => drop(outer),
//!         Err(error) => return Err(error),
//!     }
//! };
//! transfer();
//! # Ok(())
//! # }
//! ```
//!
//! This module does not know what is protected, and repairs nothing: who finds an object that a dead writer
//! left halfway mends it (the table does, from its journal).

mod fcntl;
pub mod futex;
mod gate;
mod none;
mod ofd;
mod presence;
mod record;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use fcntl::Fcntl;
#[doc(no_inline)]
pub use futex::{Futex, FutexLockable};
pub use none::NoLock;
pub use ofd::Ofd;
pub use presence::{Presence, USERS};

/// A way to lock objects of the backend `B`. The laws are on the [module page](self).
#[doc(alias("locking_method", "flock", "fcntl"))]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lock objects of the backend `{B}`",
    label = "this lock method does not work on this shared memory",
    note = "`Fcntl` and `Ofd` need a backend with a descriptor (`PosixShm`, `File`); `Futex` works on `Heap`, too; `NoLock` is for objects that only one thread uses"
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

    /// Turns this thread's `Read` into `Write`, by law 10.
    ///
    /// # Errors
    /// [`LockError::NotHeld`] if this thread does not read; else as [`lock`](LockMethod::lock).
    fn upgrade(&self, object: &B, wait: Wait) -> Result<(), LockError>;

    /// Turns this thread's `Write` into `Read`. It does not wait.
    ///
    /// # Errors
    /// [`LockError::NotHeld`] if this thread does not write.
    fn downgrade(&self, object: &B) -> Result<(), LockError>;
}

/// A backend for which one lock method is best, unless there are reasons for another. [`Best`] is that method; code
/// that is generic over backends needs no second parameter then.
///
/// ```
/// use manycore_backends::lock::{Best, BestLock, LockMethod, Protocol};
/// use manycore_backends::PosixShm;
///
/// fn protocol<B: BestLock>() -> Protocol {
///     <Best<B> as LockMethod<B>>::PROTOCOL
/// }
/// assert_eq!(protocol::<PosixShm>(), Protocol::FUTEX);
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
    message = "`Fcntl` and `Ofd` cannot lock `{Self}`: record locks need an object that is a file to the kernel",
    label = "`{Self}` has no descriptor to lock",
    note = "use `PosixShm` or `File` with `Fcntl`; `Heap` goes with `Futex` and `NoLock`"
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
    /// Words in the object: [`Futex`].
    pub const FUTEX: Protocol = Protocol(2);
    /// Record locks of open files: [`Ofd`].
    pub const OFD: Protocol = Protocol(3);

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
            Protocol::FUTEX => f.write_str("Futex"),
            Protocol::OFD => f.write_str("Ofd"),
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
    #[inline(always)]
    pub fn lock(method: &'a L, object: &'a B, mode: Mode, wait: Wait) -> Result<Self, LockError> {
        method.lock(object, mode, wait)?;
        Ok(Guard { method, object, of_this_thread: PhantomData })
    }

    /// Goes from reading to writing; nobody writes in between. If it fails, the guard reads as before.
    ///
    /// # Errors
    /// As [`LockMethod::upgrade`].
    pub fn upgrade(&mut self, wait: Wait) -> Result<(), LockError> {
        self.method.upgrade(self.object, wait)
    }

    /// Goes from writing to reading; nobody writes in between.
    ///
    /// # Errors
    /// As [`LockMethod::downgrade`].
    pub fn downgrade(&mut self) -> Result<(), LockError> {
        self.method.downgrade(self.object)
    }
}

impl<B, L: LockMethod<B>> Drop for Guard<'_, B, L> {
    #[inline(always)]
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
    /// Threads or processes wait for each other: release everything held, and start again.
    #[error("deadlock: whoever holds the lock waits for one held here; release that and start again")]
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
    /// The object was opened for reading only, and this method locks by writing to it.
    #[error("the object was opened for reading only, and cannot be locked without writing to it")]
    ReadOnly,
    /// The object has no room for lock words: grow it first.
    #[error("the object is too small to be locked: it has no words for that yet")]
    TooSmall,
    /// So many threads use the object that no more can be told apart.
    #[error("the object is in use by {max} threads, and there is no room for more")]
    TooManyUsers {
        /// How many there can be.
        max: u32,
    },
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
