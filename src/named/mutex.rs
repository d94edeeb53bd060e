//! [`Mutex`]: one worker at a time.
//!
//! This module protects nothing by itself: what is done only by who holds a mutex is an agreement between workers.

use std::borrow::Cow;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use super::{Caller, Calls, NamedError, Object, Readiness, tell};
use crate::wire::named::{Answer, Condition, OfMutex, Operation, Told};
use crate::worker::{Context, Patience, Tell};

/// The definition of a mutex: its name. The rules are on the [module page](crate::named).
///
/// ```
/// use manycore::named::Mutex;
/// use manycore::{Runtime, Worker};
///
/// const PRINTER: Mutex = Mutex::new("printer");
///
/// const PRINTS: Worker<(), u64> = Worker::fallible("prints", |context, ()| {
///     let printing = PRINTER.lock(context)?;
///     if printing.was_abandoned() {
///         // The one before died in the middle: see to what it has left.
///     }
///     Ok(printing.fence())
/// });
///
/// assert_eq!(Runtime::new().run(&PRINTS, ())?, 1);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[doc(alias("Netplex_mutex", "access", "Lock", "pthread_mutex_t"))]
pub struct Mutex {
    name: Cow<'static, str>,
}

impl Mutex {
    /// The mutex with this name.
    pub const fn new(name: &'static str) -> Mutex {
        Mutex { name: Cow::Borrowed(name) }
    }

    /// The mutex with this name, which need not be known beforehand.
    pub fn named(name: impl Into<String>) -> Mutex {
        Mutex { name: Cow::Owned(name.into()) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Locks it, waiting until it is free. It belongs to the worker until the guard is dropped, or the worker ends.
    ///
    /// # Errors
    /// [`NamedError::LockedAlready`] by this worker; [`NamedError::Deadlock`]; [`NamedError::Stopping`];
    /// [`NamedError::TooMany`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    pub fn lock(&self, context: &mut Context) -> Result<MutexGuard, NamedError> {
        let guard = self.lock_until(context, Patience::ForEver)?;
        guard.ok_or_else(|| self.refused(Answer::WouldWait))
    }

    /// The same, but waits at most `timeout`: `None` if it is not free then.
    ///
    /// # Errors
    /// As [`lock`](Mutex::lock), without [`NamedError::Deadlock`].
    pub fn lock_timeout(
        &self,
        context: &mut Context,
        timeout: Duration,
    ) -> Result<Option<MutexGuard>, NamedError> {
        self.lock_until(context, Patience::AtMost(timeout))
    }

    /// Locks it if it is free, and returns `None` if it is not.
    ///
    /// # Errors
    /// [`NamedError::LockedAlready`]; [`NamedError::TooMany`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    pub fn try_lock(&self, at: &mut impl Caller) -> Result<Option<MutexGuard>, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfMutex::Lock)?)?;
        self.guard(answer, at.calling().0.teller())
    }

    /// Unlocks it, if this worker has [leaked](MutexGuard::leak) its guard.
    ///
    /// # Errors
    /// [`NamedError::NotHolder`] if this worker has not locked it; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    pub fn unlock(&self, at: &mut impl Caller) -> Result<(), NamedError> {
        match at.calling().0.ask(self.operation(OfMutex::Unlock)?)? {
            Answer::Done => Ok(()),
            other => Err(self.refused(other)),
        }
    }

    /// Deletes it: true if there was one. Its next use creates it anew; fences go on rising.
    ///
    /// # Errors
    /// [`NamedError::InUse`] if it is locked; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    pub fn delete(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        match at.calling().0.ask(self.operation(OfMutex::Delete)?)? {
            Answer::Removed(removed) => Ok(removed),
            Answer::LockedBy { holder: Some(holder) } => {
                Err(NamedError::InUse { object: self.object().text(), holder })
            }
            other => Err(self.refused(other)),
        }
    }

    /// That locking it would not wait, to be waited for with others.
    pub fn unlocked(&self) -> Readiness {
        Readiness::new(Condition::Lockable { name: self.name.clone().into_owned() })
    }

    fn lock_until(
        &self,
        context: &mut Context,
        patience: Patience,
    ) -> Result<Option<MutexGuard>, NamedError> {
        let answer = context.call(self.operation(OfMutex::Lock)?, patience)?;
        self.guard(answer, Calls::teller(context))
    }

    fn guard(&self, answer: Answer, teller: Weak<dyn Tell>) -> Result<Option<MutexGuard>, NamedError> {
        match answer {
            Answer::Locked { fence, abandoned, .. } => {
                let in_panic = std::thread::panicking();
                Ok(Some(MutexGuard { name: self.name.clone(), fence, abandoned, in_panic, teller }))
            }
            Answer::WouldWait => Ok(None),
            other => Err(self.refused(other)),
        }
    }

    fn object(&self) -> Object<'_> {
        Object { kind: "mutex", name: &self.name }
    }

    fn operation(&self, action: OfMutex) -> Result<Operation, NamedError> {
        Ok(Operation::Mutex { name: self.object().name()?, action })
    }

    fn refused(&self, answer: Answer) -> NamedError {
        self.object().refused::<()>(answer)
    }
}

/// A mutex that this worker has locked. Dropping it unlocks, without waiting for the master (but for room, if very much is
/// said to it and it does not listen). If it is dropped by a panic that began after it was locked, the next holder is told
/// that the mutex was abandoned. A process that the worker forks by itself does not unlock it.
///
/// The holder is the worker, not the thread. But who gives a guard to another thread and then waits for a worker that wants
/// the mutex seems to wait in a circle, and one of them is told so.
#[must_use = "the mutex is unlocked when this is dropped"]
pub struct MutexGuard {
    name: Cow<'static, str>,
    fence: u64,
    abandoned: bool,
    /// Whether it was locked in the middle of a panic.
    in_panic: bool,
    teller: Weak<dyn Tell>,
}

impl MutexGuard {
    /// Whether the holder before ended, or panicked, while it held the mutex: what that protects may be half done. (It is
    /// said, too, of one that was killed from outside at the very moment when it was given the mutex.)
    pub fn was_abandoned(&self) -> bool {
        self.abandoned
    }

    /// A number that is higher than that of all who locked any mutex of the run before. Who gives it along with what it does
    /// elsewhere, such as in a file or a table, can be told from a holder that was stopped, lost the mutex, and goes on.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Leaves the mutex locked, until it is [unlocked](Mutex::unlock) or the worker ends. Returns the
    /// [fence](MutexGuard::fence).
    pub fn leak(self) -> u64 {
        let fence = self.fence;
        std::mem::forget(self);
        fence
    }
}

impl Drop for MutexGuard {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name).into_owned();
        let abandoned = std::thread::panicking() && !self.in_panic;
        tell(&self.teller, Told::Unlock { name, fence: self.fence, abandoned });
    }
}

impl fmt::Debug for MutexGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard")
            .field("name", &self.name)
            .field("fence", &self.fence)
            .field("abandoned", &self.abandoned)
            .finish_non_exhaustive()
    }
}
