//! No locking.
//!
//! This module excludes nobody and waits for nothing.

use super::{LockError, LockMethod, Mode, Protocol, Wait};
use crate::sync::global::{AtomicU32, Ordering};

/// Locks nothing, and costs nothing. The user promises that no two threads of any process use the object
/// at once; if the promise is broken, an object may end up with wrong contents (operations on it then
/// report `Corrupt`), but memory stays safe.
///
/// One mistake is noticed all the same, because it needs no second thread: asking twice, through the same handle,
/// as by an operation on a table inside a group on it (law 3).
///
/// It opens objects of any protocol, by the same promise: to look at an object that nobody uses any more.
#[derive(Debug)]
#[doc(alias = "No_locking")]
pub struct NoLock {
    /// How often the handle is read-locked, or [`WRITING`]. Only for noticing mistakes of one thread.
    held: AtomicU32,
}

const WRITING: u32 = u32::MAX;

impl<B> LockMethod<B> for NoLock {
    const PROTOCOL: Protocol = Protocol::NONE;

    fn attach(_: &B) -> Result<NoLock, LockError> {
        Ok(NoLock { held: AtomicU32::new(0) })
    }

    #[inline]
    fn lock(&self, _: &B, mode: Mode, _: Wait) -> Result<(), LockError> {
        let held = match (self.held.load(Ordering::Relaxed), mode) {
            (0, Mode::Write) => WRITING,
            (WRITING, _) | (_, Mode::Write) => return Err(LockError::LockedByCaller),
            (readers, Mode::Read) => readers + 1,
        };
        self.held.store(held, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn unlock(&self, _: &B) -> Result<(), LockError> {
        let held = match self.held.load(Ordering::Relaxed) {
            0 => return Err(LockError::NotHeld),
            WRITING => 0,
            readers => readers - 1,
        };
        self.held.store(held, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn upgrade(&self, _: &B, _: Wait) -> Result<(), LockError> {
        match self.held.load(Ordering::Relaxed) {
            1 => {
                self.held.store(WRITING, Ordering::Relaxed);
                Ok(())
            }
            0 => Err(LockError::NotHeld),
            _ => Err(LockError::LockedByCaller),
        }
    }

    #[inline]
    fn downgrade(&self, _: &B) -> Result<(), LockError> {
        match self.held.load(Ordering::Relaxed) {
            WRITING => {
                self.held.store(1, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(LockError::NotHeld),
        }
    }
}
