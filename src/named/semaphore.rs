//! [`Semaphore`]: units that workers take and give.
//!
//! This module does not know what the units stand for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use super::{Caller, Calls, NamedError, Object, Readiness, tell};
use crate::wire::named::{Answer, Condition, OfSemaphore, Operation, Told};
use crate::worker::{Context, Patience, Tell};

/// The definition of a semaphore: its name. The rules are on the [module page](crate::named).
///
/// Who wants many units is not passed by who wants few: the queue is served in order.
///
/// ```
/// use manycore::named::{Semaphore, SemaphoreOptions};
/// use manycore::{Runtime, Worker};
///
/// const SEATS: Semaphore = Semaphore::new("seats");
///
/// const SITS: Worker<(), u64> = Worker::fallible("sits", |context, ()| {
///     SEATS.create_with(context, SemaphoreOptions::new(4).protected())?;
///     let _seats = SEATS.acquire(context, 3)?;
///     Ok(SEATS.get(context)?)
/// });
///
/// assert_eq!(Runtime::new().run(&SITS, ())?, 1);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[doc(alias("Netplex_semaphore", "BoundedSemaphore"))]
pub struct Semaphore {
    name: Cow<'static, str>,
}

/// What a semaphore is from its creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "nothing happens before `create_with`"]
pub struct SemaphoreOptions {
    units: u64,
    maximum: Option<u64>,
    protected: bool,
}

impl SemaphoreOptions {
    /// One with so many units in the beginning, and no maximum but 2^63 - 1. Not protected.
    pub fn new(units: u64) -> SemaphoreOptions {
        SemaphoreOptions { units, maximum: None, protected: false }
    }

    /// It has at most so many units.
    pub fn maximum(mut self, units: u64) -> Self {
        self.maximum = Some(units);
        self
    }

    /// When a worker ends, however it does, what it has done is undone: units that it took more than it gave are there
    /// again; those that it gave more than it took are there no more. If others have taken those, they are missing when
    /// they come back: none is ever made or lost. Of one that is not protected, what a worker has taken is gone with it if it
    /// is killed, also what it holds [permits](Permit) for.
    #[doc(alias = "SEM_UNDO")]
    pub fn protected(mut self) -> Self {
        self.protected = true;
        self
    }
}

impl Semaphore {
    /// The semaphore with this name.
    pub const fn new(name: &'static str) -> Semaphore {
        Semaphore { name: Cow::Borrowed(name) }
    }

    /// The semaphore with this name, which need not be known beforehand.
    pub fn named(name: impl Into<String>) -> Semaphore {
        Semaphore { name: Cow::Owned(name.into()) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates it, with so many units, if there is none: true if there was none. It is not protected, and has no maximum.
    ///
    /// # Errors
    /// [`NamedError::OverMaximum`] for 2^63 units and more; [`NamedError::TooMany`]; [`NamedError::BadName`];
    /// [`NamedError::MasterGone`].
    #[doc(alias = "sem_open")]
    pub fn create(&self, at: &mut impl Caller, units: u64) -> Result<bool, NamedError> {
        self.create_with(at, SemaphoreOptions::new(units))
    }

    /// The same, of one with these options. If there is one, it stays as it is.
    ///
    /// # Errors
    /// As [`create`](Semaphore::create); [`NamedError::OverMaximum`] for more units than the maximum.
    pub fn create_with(&self, at: &mut impl Caller, options: SemaphoreOptions) -> Result<bool, NamedError> {
        let SemaphoreOptions { units, maximum, protected } = options;
        match at.calling().0.ask(self.operation(OfSemaphore::Create { units, maximum, protected })?)? {
            Answer::Created(created) => Ok(created),
            other => Err(self.refused(other)),
        }
    }

    /// Units that are to be had now.
    ///
    /// # Errors
    /// [`NamedError::Missing`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias = "sem_getvalue")]
    pub fn get(&self, at: &mut impl Caller) -> Result<u64, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfSemaphore::Get)?)?;
        self.units(answer)
    }

    /// Adds units, and returns how many there are then, before those who wait take theirs.
    ///
    /// # Errors
    /// [`NamedError::OverMaximum`] if they would be too many; then none is added. [`NamedError::Missing`];
    /// [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias("sem_post", "release"))]
    pub fn increment(&self, at: &mut impl Caller, by: u64) -> Result<u64, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfSemaphore::Increment { by })?)?;
        self.units(answer)
    }

    /// Takes units, waiting until there are so many, and returns how many are left.
    ///
    /// # Errors
    /// [`NamedError::Destroyed`] if it is destroyed meanwhile; [`NamedError::OverMaximum`] if there can never be so many;
    /// [`NamedError::Stopping`]; [`NamedError::Missing`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias = "sem_wait")]
    pub fn decrement(&self, context: &mut Context, by: u64) -> Result<u64, NamedError> {
        let answer = context.call(self.operation(OfSemaphore::Decrement { by })?, Patience::ForEver)?;
        self.units(answer)
    }

    /// The same, but waits at most `timeout`: `None` if there are not so many then.
    ///
    /// # Errors
    /// As [`decrement`](Semaphore::decrement).
    #[doc(alias = "sem_timedwait")]
    pub fn decrement_timeout(
        &self,
        context: &mut Context,
        by: u64,
        timeout: Duration,
    ) -> Result<Option<u64>, NamedError> {
        let operation = self.operation(OfSemaphore::Decrement { by })?;
        let answer = context.call(operation, Patience::AtMost(timeout))?;
        self.units_if_any(answer)
    }

    /// Takes units if there are so many and nobody waits for some, and returns how many are left; `None` if not.
    ///
    /// # Errors
    /// As [`decrement`](Semaphore::decrement), but nothing of waiting.
    #[doc(alias = "sem_trywait")]
    pub fn try_decrement(&self, at: &mut impl Caller, by: u64) -> Result<Option<u64>, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfSemaphore::Decrement { by })?)?;
        self.units_if_any(answer)
    }

    /// Takes units as [`decrement`](Semaphore::decrement) does, and gives them back when the permit is dropped. (When the
    /// worker ends without that, only a protected semaphore has them again.)
    ///
    /// # Errors
    /// As [`decrement`](Semaphore::decrement).
    pub fn acquire(&self, context: &mut Context, units: u64) -> Result<Permit, NamedError> {
        let answer =
            context.call(self.operation(OfSemaphore::Decrement { by: units })?, Patience::ForEver)?;
        let permit = self.permit(answer, Calls::teller(context), units)?;
        permit.ok_or_else(|| self.refused(Answer::WouldWait))
    }

    /// The same, but waits at most `timeout`: `None` if there are not so many then.
    ///
    /// # Errors
    /// As [`decrement`](Semaphore::decrement).
    pub fn acquire_timeout(
        &self,
        context: &mut Context,
        units: u64,
        timeout: Duration,
    ) -> Result<Option<Permit>, NamedError> {
        let operation = self.operation(OfSemaphore::Decrement { by: units })?;
        let answer = context.call(operation, Patience::AtMost(timeout))?;
        self.permit(answer, Calls::teller(context), units)
    }

    /// The same without waiting: `None` if there are not so many, or others wait for some.
    ///
    /// # Errors
    /// As [`try_decrement`](Semaphore::try_decrement).
    pub fn try_acquire(&self, at: &mut impl Caller, units: u64) -> Result<Option<Permit>, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfSemaphore::Decrement { by: units })?)?;
        self.permit(answer, at.calling().0.teller(), units)
    }

    /// Removes it: true if there was one. Who waits for units gets [`NamedError::Destroyed`].
    ///
    /// # Errors
    /// [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias = "sem_unlink")]
    pub fn destroy(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        match at.calling().0.ask(self.operation(OfSemaphore::Destroy)?)? {
            Answer::Removed(removed) => Ok(removed),
            other => Err(self.refused(other)),
        }
    }

    /// That taking so many units would not wait, to be waited for with others.
    pub fn available(&self, units: u64) -> Readiness {
        Readiness::new(Condition::Available { name: self.name.clone().into_owned(), units })
    }

    fn permit(
        &self,
        answer: Answer,
        teller: Weak<dyn Tell>,
        units: u64,
    ) -> Result<Option<Permit>, NamedError> {
        match answer {
            Answer::Units { since, .. } => Ok(Some(Permit { name: self.name.clone(), units, since, teller })),
            Answer::WouldWait => Ok(None),
            other => Err(self.refused(other)),
        }
    }

    fn object(&self) -> Object<'_> {
        Object { kind: "semaphore", name: &self.name }
    }

    fn operation(&self, action: OfSemaphore) -> Result<Operation, NamedError> {
        Ok(Operation::Semaphore { name: self.object().name()?, action })
    }

    fn units(&self, answer: Answer) -> Result<u64, NamedError> {
        match answer {
            Answer::Units { units, .. } => Ok(units),
            other => Err(self.refused(other)),
        }
    }

    fn units_if_any(&self, answer: Answer) -> Result<Option<u64>, NamedError> {
        match answer {
            Answer::WouldWait => Ok(None),
            answer => self.units(answer).map(Some),
        }
    }

    fn refused(&self, answer: Answer) -> NamedError {
        self.object().refused::<()>(answer)
    }
}

/// Units of a semaphore that this worker has taken. Dropping it gives them back, without waiting for the master (but for
/// room, if very much is said to it and it does not listen); if the semaphore was destroyed meanwhile, nobody gets them.
/// A process that the worker forks by itself does not give them back, nor does a worker that is killed, also if it is a thread
/// and unwinds; see [`protected`](SemaphoreOptions::protected) for that.
#[must_use = "the units are given back when this is dropped"]
pub struct Permit {
    name: Cow<'static, str>,
    units: u64,
    /// Which semaphore of that name it is.
    since: u64,
    teller: Weak<dyn Tell>,
}

impl Permit {
    /// How many there are.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Keeps the units, for who gives them back by [`Semaphore::increment`], or not at all.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name).into_owned();
        tell(&self.teller, Told::Increment { name, by: self.units, since: self.since });
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("name", &self.name).field("units", &self.units).finish_non_exhaustive()
    }
}
