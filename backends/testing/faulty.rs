//! The fault injector: a backend that fails when it is told to.
//!
//! [`Faulty<B>`] passes every call on to `B`, except the one that a [`plan`] of the calling thread picked:
//! that one fails with an errno, and has no effect. Tests count up: the first call fails, then the second,
//! until the operation succeeds because nothing was left to fail.
//!
//! Accesses to memory do not fail; a system that overcommits kills the process then, and the backends
//! reserve storage so that it does not.

use std::cell::Cell;
use std::ffi::OsStr;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::lock::{FutexLockable, LockError, LockMethod, Mode, Protocol, RecordLockable, Wait};
use crate::shm::{Open, ShmBackend, ShmError, Trust};

/// An error to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `ENOSPC`: the file system is full.
    NoSpace,
    /// `EDQUOT`: the user's quota is used up.
    Quota,
    /// `ENOMEM`: no memory.
    NoMemory,
    /// `EMFILE`: no descriptors left.
    NoDescriptors,
    /// `EACCES`: not allowed.
    Access,
    /// `EDEADLK`: somebody waits for us.
    Deadlock,
    /// `ENOLCK`: the table of locks is full.
    NoLocks,
    /// `EINTR`: a signal came in between.
    Interrupted,
}

impl Fault {
    /// All faults.
    pub const ALL: [Fault; 8] = [
        Fault::NoSpace,
        Fault::Quota,
        Fault::NoMemory,
        Fault::NoDescriptors,
        Fault::Access,
        Fault::Deadlock,
        Fault::NoLocks,
        Fault::Interrupted,
    ];

    fn errno(self) -> Errno {
        match self {
            Fault::NoSpace => Errno::NOSPC,
            Fault::Quota => Errno::DQUOT,
            Fault::NoMemory => Errno::NOMEM,
            Fault::NoDescriptors => Errno::MFILE,
            Fault::Access => Errno::ACCESS,
            Fault::Deadlock => Errno::DEADLK,
            Fault::NoLocks => Errno::NOLCK,
            Fault::Interrupted => Errno::INTR,
        }
    }
}

thread_local! {
    /// Calls to let pass, then the fault.
    static PLAN: Cell<Option<(u64, Fault)>> = const { Cell::new(None) };
}

/// Runs `body` with a plan: of the calls to faulty backends that this thread makes in it, the one after
/// `passing` others fails with `fault`. Returns what `body` returned, and whether a call failed.
pub fn plan<T>(passing: u64, fault: Fault, body: impl FnOnce() -> T) -> (T, bool) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            PLAN.set(None);
        }
    }
    PLAN.set(Some((passing, fault)));
    let _reset = Reset;
    let value = body();
    let failed = PLAN.get().is_none();
    (value, failed)
}

fn due() -> Option<Fault> {
    match PLAN.get() {
        Some((0, fault)) => {
            PLAN.set(None);
            Some(fault)
        }
        Some((passing, fault)) => {
            PLAN.set(Some((passing - 1, fault)));
            None
        }
        None => None,
    }
}

/// `B`, failing as planned.
#[derive(Debug)]
pub struct Faulty<B>(B);

impl<B: ShmBackend> ShmBackend for Faulty<B> {
    type Memory = B::Memory;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<Self, ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("open", name, fault.errno())),
            None => B::open_trusting(name, how, trust).map(Faulty),
        }
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("unlink", name, fault.errno())),
            None => B::unlink(name),
        }
    }

    fn try_clone(&self) -> Result<Self, ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("dup", self.name(), fault.errno())),
            None => self.0.try_clone().map(Faulty),
        }
    }

    fn name(&self) -> &OsStr {
        self.0.name()
    }

    fn size(&self) -> Result<u64, ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("fstat", self.name(), fault.errno())),
            None => self.0.size(),
        }
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_growth(self.name(), bytes, "fallocate", fault.errno())),
            None => self.0.grow(bytes),
        }
    }

    fn intact(&self) -> Result<(), ShmError> {
        self.0.intact()
    }

    fn memory(&self) -> &B::Memory {
        self.0.memory()
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("fchmod", self.name(), fault.errno())),
            None => self.0.chmod(mode),
        }
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        match due() {
            Some(fault) => Err(ShmError::from_errno("fchown", self.name(), fault.errno())),
            None => self.0.chown(user, group),
        }
    }
}

impl<B: AsFd> AsFd for Faulty<B> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<B: RecordLockable> RecordLockable for Faulty<B> {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, LockError> {
        self.0.descriptor()
    }
}

impl<B: FutexLockable> FutexLockable for Faulty<B> {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError> {
        self.0.liveness()
    }

    fn identity(&self) -> (u64, u64) {
        self.0.identity()
    }
}

/// `L`, failing as planned when it locks. Unlocking does not fail: no caller could do anything about it.
pub struct FaultyLock<B, L> {
    method: L,
    of: PhantomData<fn(B)>,
}

impl<B, L: std::fmt::Debug> std::fmt::Debug for FaultyLock<B, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FaultyLock").field(&self.method).finish()
    }
}

impl<B: 'static, L: LockMethod<B>> LockMethod<B> for FaultyLock<B, L> {
    const PROTOCOL: Protocol = L::PROTOCOL;

    fn attach(object: &B) -> Result<Self, LockError> {
        match due() {
            Some(fault) => Err(lock_error("fstat", fault)),
            None => Ok(FaultyLock { method: L::attach(object)?, of: PhantomData }),
        }
    }

    fn lock(&self, object: &B, mode: Mode, wait: Wait) -> Result<(), LockError> {
        match due() {
            Some(fault) => Err(lock_error("fcntl", fault)),
            None => self.method.lock(object, mode, wait),
        }
    }

    fn unlock(&self, object: &B) -> Result<(), LockError> {
        self.method.unlock(object)
    }

    fn upgrade(&self, object: &B, wait: Wait) -> Result<(), LockError> {
        match due() {
            Some(fault) => Err(lock_error("fcntl", fault)),
            None => self.method.upgrade(object, wait),
        }
    }

    fn downgrade(&self, object: &B) -> Result<(), LockError> {
        self.method.downgrade(object)
    }
}

fn lock_error(op: &'static str, fault: Fault) -> LockError {
    let source = fault.errno().into();
    match fault {
        Fault::Deadlock => LockError::Deadlock,
        Fault::NoLocks => LockError::NoLocks(source),
        _ => LockError::Io { op, source },
    }
}
