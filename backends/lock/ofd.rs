//! Record locks that belong to open files. How they are used is in [`record`](super::record).
//!
//! This module makes no system call itself, and finds no circles of processes.

use super::record::{Owner, Record};
use super::{LockError, LockMethod, Mode, Protocol, RecordLockable, Wait};

/// Locks by record locks of the open file description, one system call each way. Unlike those of
/// [`Fcntl`](super::Fcntl) they are not lost when the process closes another descriptor of the file. What they lack:
///
/// * **No detection of deadlocks between processes.** The kernel looks for none: a cycle lasts until somebody's
///   [limit](Wait::AtMost) is over. Take locks in one order, or with a limit. (Cycles of threads within a process are
///   found.) Two processes that [upgrade](LockMethod::upgrade) at the same time are such a cycle, too.
/// * **A forked child shares the lock**, as far as the kernel knows: it inherits the descriptor, and the lock is released
///   only when the last copy is closed. If the parent dies while a child lives that did not close it, the lock stays.
///   [`Fork`](crate::Fork) closes what it does not pass on, and `exec` closes it, too.
#[derive(Debug)]
#[doc(alias("F_OFD_SETLKW", "open file description locks"))]
pub struct Ofd(Record);

impl<B: RecordLockable> LockMethod<B> for Ofd {
    const PROTOCOL: Protocol = Protocol::OFD;

    fn attach(object: &B) -> Result<Ofd, LockError> {
        Record::attach(object, Owner::OpenFile).map(Ofd)
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
