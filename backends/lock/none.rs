//! No locking.

use super::{LockError, LockMethod, Mode, Protocol, Wait};

/// Locks nothing, and costs nothing. The user promises that no two threads of any process use the object
/// at once; if the promise is broken, an object may end up with wrong contents (operations on it then
/// report `Corrupt`), but memory stays safe.
///
/// It opens objects of any protocol, by the same promise: to look at an object that nobody uses any more.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "No_locking")]
pub struct NoLock;

impl<B> LockMethod<B> for NoLock {
    const PROTOCOL: Protocol = Protocol::NONE;

    fn attach(_: &B) -> Result<NoLock, LockError> {
        Ok(NoLock)
    }

    fn lock(&self, _: &B, _: Mode, _: Wait) -> Result<(), LockError> {
        Ok(())
    }

    fn unlock(&self, _: &B) -> Result<(), LockError> {
        Ok(())
    }
}
