//! POSIX record locks, which belong to processes. How they are used is in [`record`](super::record).
//!
//! The system finds cycles of waiting processes (`EDEADLK`), but knows nothing of threads: a process whose
//! threads hold and wait for locks of several objects may be told of a deadlock that is none. Cycles within one
//! process are found by the gates.

use super::record::{Owner, Record};
use super::{LockError, LockMethod, Mode, Protocol, RecordLockable, Wait};

/// Locks by POSIX record locks, one system call each way. See the [contract](super) for what that
/// promises; the kernel releases the locks of a dead process, and reports deadlocks between processes.
///
/// A process loses them all when it closes *any* descriptor of the file. The handles of this library share one, so
/// that theirs can be dropped; but whoever opens the file by other means, and closes it again, unlocks it.
#[derive(Debug)]
#[doc(alias("F_SETLKW", "lockf", "Record_locking"))]
pub struct Fcntl(Record);

impl<B: RecordLockable> LockMethod<B> for Fcntl {
    const PROTOCOL: Protocol = Protocol::FCNTL;

    fn attach(object: &B) -> Result<Fcntl, LockError> {
        Record::attach(object, Owner::Process).map(Fcntl)
    }

    fn lock(&self, object: &B, mode: Mode, wait: Wait) -> Result<(), LockError> {
        self.0.lock(object, mode, wait)
    }

    fn unlock(&self, object: &B) -> Result<(), LockError> {
        self.0.unlock(object)
    }

    fn upgrade(&self, object: &B, wait: Wait) -> Result<(), LockError> {
        self.0.upgrade(object, wait)
    }

    fn downgrade(&self, object: &B) -> Result<(), LockError> {
        self.0.downgrade(object)
    }
}
