//! [`SharedVar`]: a value that all workers can read, set, and wait for.
//!
//! This module does not compare values: a variable has changed when it was set.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Weak;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fingerprint::{fingerprint, written};
use super::{Cached, Caller, Calls, NamedError, Object, Readiness, tell};
use crate::wire::named::{Answer, Condition, OfVariable, Operation, Told, VariableOptions};
use crate::worker::{Context, Patience, Tell};

/// The definition of a shared variable: its name, and the type of its values. The rules are on the
/// [module page](crate::named).
///
/// ```
/// use manycore::{Failure, Runtime, SharedVar, Worker};
///
/// const LEVEL: SharedVar<u64> = SharedVar::new("level");
///
/// const WAITS: Worker<(), u64> = Worker::fallible("waits", |context, ()| Ok(LEVEL.wait(context)?));
/// const SETS: Worker<(), u64> = Worker::fallible("sets", |context, ()| {
///     LEVEL.create(context)?;
///     let waits = context.start(&WAITS, ())?;
///     LEVEL.set(context, &7)?;
///     Ok(context.join(waits)?)
/// });
///
/// assert_eq!(Runtime::new().with(&WAITS).run(&SETS, ())?, 7);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[doc(alias("Netplex_sharedvar", "Make_var_type", "Value", "Manager"))]
pub struct SharedVar<T> {
    name: Cow<'static, str>,
    value: PhantomData<fn(T) -> T>,
}

/// Which value a variable has: each time that any variable of a run is set, it gets a higher one than all before. So that
/// of a variable that was deleted and created anew is higher, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// That of a variable that was never set.
    pub const UNSET: Version = Version(0);

    pub(super) fn new(version: u64) -> Version {
        Version(version)
    }
}

/// What a variable is from its creation on. Default: it has no value, all may set it, and it lives as long as the run.
#[derive(Debug)]
#[must_use = "nothing happens before `create_with`"]
pub struct VarOptions<'value, T> {
    options: VariableOptions,
    value: Option<&'value T>,
}

impl<T> Clone for VarOptions<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for VarOptions<'_, T> {}

impl<T> Default for VarOptions<'_, T> {
    fn default() -> Self {
        VarOptions { options: VariableOptions::default(), value: None }
    }
}

impl<'value, T> VarOptions<'value, T> {
    /// The default.
    pub fn new() -> Self {
        VarOptions::default()
    }

    /// It has this value from the beginning.
    pub fn value(self, value: &'value T) -> Self {
        VarOptions { value: Some(value), ..self }
    }

    /// The creator owns it: nobody else may set or delete it, and it is deleted when that worker ends.
    #[doc(alias = "own")]
    pub fn owned(mut self) -> Self {
        self.options.owned = true;
        self
    }

    /// It keeps the first value that its creator gives it, and nobody may change that. Only the creator may delete it. If
    /// that ends without having given it one, it is deleted.
    #[doc(alias = "ro")]
    pub fn read_only(mut self) -> Self {
        self.options.constant = true;
        self
    }

    /// It is deleted when nobody has got or set it, or asked its version, for so long; trying is enough. Who only waits does
    /// not use it, nor does who has its value [at hand](SharedVar::cached); who computes it does.
    #[doc(alias = "timeout")]
    pub fn idle_limit(mut self, limit: Duration) -> Self {
        self.options.idle = Some(limit);
        self
    }
}

impl<T> SharedVar<T> {
    /// The variable with this name.
    pub const fn new(name: &'static str) -> SharedVar<T> {
        SharedVar { name: Cow::Borrowed(name), value: PhantomData }
    }

    /// The variable with this name, which need not be known beforehand.
    pub fn named(name: impl Into<String>) -> SharedVar<T> {
        SharedVar { name: Cow::Owned(name.into()), value: PhantomData }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn object(&self) -> Object<'_> {
        Object { kind: "variable", name: &self.name }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> SharedVar<T> {
    /// Creates the variable, without a value, if there is none: true if there was none. All may set it.
    ///
    /// # Errors
    /// [`NamedError::WrongType`] if there is one of another type; [`NamedError::TooMany`]; [`NamedError::BadName`];
    /// [`NamedError::MasterGone`].
    #[doc(alias = "create_var")]
    pub fn create(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        self.create_with(at, VarOptions::new())
    }

    /// The same, of one with these options. If there is one, it stays as it is.
    ///
    /// # Errors
    /// As [`create`](SharedVar::create); [`NamedError::Unserializable`] and [`NamedError::TooBig`] for the value.
    pub fn create_with(&self, at: &mut impl Caller, options: VarOptions<'_, T>) -> Result<bool, NamedError> {
        let value = match options.value {
            Some(value) => Some(self.object().encode(value, at.calling().0.limit())?),
            None => None,
        };
        let action = OfVariable::Create { options: options.options, type_name: written::<T>(), value };
        match at.calling().0.ask(self.operation(action)?)? {
            Answer::Created(created) => Ok(created),
            other => Err(self.refused(other)),
        }
    }

    /// Its value.
    ///
    /// # Errors
    /// [`NamedError::Missing`]; [`NamedError::Unset`]; [`NamedError::WrongType`]; [`NamedError::Unreadable`];
    /// [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias("get_value", "get_enc_value"))]
    pub fn get(&self, at: &mut impl Caller) -> Result<T, NamedError> {
        self.get_versioned(at).map(|(value, _)| value)
    }

    /// Its value, and the version of that.
    ///
    /// # Errors
    /// As [`get`](SharedVar::get).
    pub fn get_versioned(&self, at: &mut impl Caller) -> Result<(T, Version), NamedError> {
        let answer = at.calling().0.ask(self.operation(OfVariable::Get { newer_than: 0 })?)?;
        self.value(answer)?.ok_or_else(|| self.refused(Answer::Unset))
    }

    /// Its value if that is newer than the version, and `None` if not. The value travels only if it is.
    ///
    /// # Errors
    /// As [`get`](SharedVar::get).
    #[doc(alias = "vv_update")]
    pub fn get_newer(&self, at: &mut impl Caller, than: Version) -> Result<Option<(T, Version)>, NamedError> {
        let answer = at.calling().0.ask(self.operation(OfVariable::Get { newer_than: than.0 })?)?;
        self.value(answer)
    }

    /// The version of its value, [`Version::UNSET`] if it has none.
    ///
    /// # Errors
    /// [`NamedError::Missing`]; [`NamedError::WrongType`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias = "vv_version")]
    pub fn version(&self, at: &mut impl Caller) -> Result<Version, NamedError> {
        match at.calling().0.ask(self.operation(OfVariable::Version)?)? {
            Answer::Version(version) => Ok(Version(version)),
            other => Err(self.refused(other)),
        }
    }

    /// Gives it a value, and returns the version of that. When this returns, all who wait for a value, and who
    /// [watch](Context::watch_for) it, have been told.
    ///
    /// # Errors
    /// [`NamedError::Missing`]; [`NamedError::WrongType`]; [`NamedError::NoPermission`] if another worker owns it, or it is
    /// read-only; [`NamedError::Unserializable`]; [`NamedError::TooBig`]; [`NamedError::BadName`];
    /// [`NamedError::MasterGone`].
    #[doc(alias("set_value", "set_enc_value", "vv_set"))]
    pub fn set(&self, at: &mut impl Caller, value: &T) -> Result<Version, NamedError> {
        self.set_expecting(at, None, value)
    }

    /// Gives it a value if it has this version now, [`Version::UNSET`] if it is to have no value yet.
    ///
    /// # Errors
    /// [`NamedError::Changed`] if it has another version; as [`set`](SharedVar::set).
    pub fn compare_and_set(
        &self,
        at: &mut impl Caller,
        expected: Version,
        value: &T,
    ) -> Result<Version, NamedError> {
        self.set_expecting(at, Some(expected.0), value)
    }

    /// Gives it the value that `change` makes of the one that it has, as often as that changes meanwhile, and returns what
    /// it is then.
    ///
    /// # Errors
    /// As [`get`](SharedVar::get) and [`set`](SharedVar::set).
    pub fn update(&self, at: &mut impl Caller, mut change: impl FnMut(T) -> T) -> Result<T, NamedError> {
        loop {
            let (value, version) = self.get_versioned(at)?;
            let value = change(value);
            match self.compare_and_set(at, version, &value) {
                Ok(_) => return Ok(value),
                Err(NamedError::Changed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes it: true if there was one. Who waits for its value gets [`NamedError::Missing`].
    ///
    /// # Errors
    /// [`NamedError::WrongType`]; [`NamedError::NoPermission`] if another worker owns it, or has created it read-only;
    /// [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias = "delete_var")]
    pub fn delete(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        match at.calling().0.ask(self.operation(OfVariable::Delete)?)? {
            Answer::Removed(removed) => Ok(removed),
            other => Err(self.refused(other)),
        }
    }

    /// Its value, waiting until it has one.
    ///
    /// # Errors
    /// [`NamedError::Missing`] if there is no such variable, or it is deleted meanwhile; [`NamedError::Stopping`]; as
    /// [`get`](SharedVar::get).
    #[doc(alias = "wait_for_value")]
    pub fn wait(&self, context: &mut Context) -> Result<T, NamedError> {
        let found = self.wait_until(context, Version::UNSET, Patience::ForEver)?;
        found.map(|(value, _)| value).ok_or_else(|| self.refused(Answer::Unset))
    }

    /// The same, but waits at most `timeout`: `None` if it has no value then.
    ///
    /// # Errors
    /// As [`wait`](SharedVar::wait).
    pub fn wait_timeout(&self, context: &mut Context, timeout: Duration) -> Result<Option<T>, NamedError> {
        let found = self.wait_until(context, Version::UNSET, Patience::AtMost(timeout))?;
        Ok(found.map(|(value, _)| value))
    }

    /// A value that is newer than the version, waiting until there is one. Who calls it again with what it returned sees
    /// the newest value, but not each of them.
    ///
    /// # Errors
    /// As [`wait`](SharedVar::wait).
    pub fn wait_newer(&self, context: &mut Context, than: Version) -> Result<(T, Version), NamedError> {
        let found = self.wait_until(context, than, Patience::ForEver)?;
        found.ok_or_else(|| self.refused(Answer::Unset))
    }

    /// The same, but waits at most `timeout`: `None` if there is none then.
    ///
    /// # Errors
    /// As [`wait`](SharedVar::wait).
    pub fn wait_newer_timeout(
        &self,
        context: &mut Context,
        than: Version,
        timeout: Duration,
    ) -> Result<Option<(T, Version)>, NamedError> {
        self.wait_until(context, than, Patience::AtMost(timeout))
    }

    /// Its value; if it has none, this worker computes it, or waits for another one that does. A variable that is not there
    /// is created, without options. If `compute` fails, panics, or its worker dies, the next one that waits here computes it.
    ///
    /// # Errors
    /// That of `compute`. [`NamedError::Deadlock`] if the worker that computes it waits for this one, or is this one.
    /// [`NamedError::NotComputing`] and [`NamedError::Missing`] if it was deleted meanwhile. [`NamedError::Stopping`]; as
    /// [`get`](SharedVar::get) and [`set`](SharedVar::set).
    #[doc(alias = "get_lazily")]
    pub fn get_or_compute<E: From<NamedError>>(
        &self,
        context: &mut Context,
        compute: impl FnOnce(&mut Context) -> Result<T, E>,
    ) -> Result<T, E> {
        self.get_or_compute_with(context, VarOptions::new(), compute)
    }

    /// The same, of one that is created with these options if it is not there: such as an
    /// [idle limit](VarOptions::idle_limit), for a cache.
    ///
    /// # Errors
    /// As [`get_or_compute`](SharedVar::get_or_compute).
    pub fn get_or_compute_with<E: From<NamedError>>(
        &self,
        context: &mut Context,
        options: VarOptions<'_, T>,
        compute: impl FnOnce(&mut Context) -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            match context.call(self.operation(OfVariable::GetLazily)?, Patience::ForEver) {
                Ok(Answer::Missing) => drop(self.create_with(context, options)?),
                Ok(Answer::Value { value, .. }) => return Ok(self.object().decode(&value)?),
                Ok(Answer::Compute) => break,
                Ok(other) => return Err(self.refused(other).into()),
                Err(error) => return Err(NamedError::from(error).into()),
            }
        }
        let computing = Computing { name: &self.name, teller: Calls::teller(context) };
        let value = compute(context)?;
        let value = self.object().encode(&value, context.identity().message_limit)?;
        let answer = Calls::ask(context, self.operation(OfVariable::Computed { value })?)?;
        // It is told.
        std::mem::forget(computing);
        let found = self.value(answer)?;
        found.map(|(value, _)| value).ok_or_else(|| self.refused(Answer::Unset).into())
    }

    /// The variable with its newest value at hand, without asking the master each time.
    #[doc(alias("Make_vv", "vv_access"))]
    pub fn cached(self) -> Cached<T> {
        Cached::new(self)
    }

    /// That it has a newer value than this one, or is missing, to be waited for with others.
    pub fn newer_than(&self, version: Version) -> Readiness {
        let (name, kind) = (self.name.clone().into_owned(), fingerprint::<T>());
        Readiness::new(Condition::Newer { name, kind, than: version.0 })
    }

    fn set_expecting(
        &self,
        at: &mut impl Caller,
        expected: Option<u64>,
        value: &T,
    ) -> Result<Version, NamedError> {
        let value = self.object().encode(value, at.calling().0.limit())?;
        match at.calling().0.ask(self.operation(OfVariable::Set { value, expected })?)? {
            Answer::Version(version) => Ok(Version(version)),
            other => Err(self.refused(other)),
        }
    }

    fn wait_until(
        &self,
        context: &mut Context,
        than: Version,
        patience: Patience,
    ) -> Result<Option<(T, Version)>, NamedError> {
        let operation = self.operation(OfVariable::Get { newer_than: than.0 })?;
        let answer = context.call(operation, patience)?;
        self.value(answer)
    }

    fn operation(&self, action: OfVariable) -> Result<Operation, NamedError> {
        Ok(Operation::Variable { name: self.object().name()?, kind: fingerprint::<T>(), action })
    }

    /// The value, if there is one that is new enough.
    fn value(&self, answer: Answer) -> Result<Option<(T, Version)>, NamedError> {
        match answer {
            Answer::Value { version, value } => Ok(Some((self.object().decode(&value)?, Version(version)))),
            Answer::WouldWait => Ok(None),
            other => Err(self.refused(other)),
        }
    }

    fn refused(&self, answer: Answer) -> NamedError {
        self.object().refused::<T>(answer)
    }
}

/// A value that this worker is to compute. Dropping it says that it does not.
struct Computing<'name> {
    name: &'name str,
    teller: Weak<dyn Tell>,
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        tell(&self.teller, Told::Uncomputed { name: self.name.to_owned() });
    }
}

impl<T> Clone for SharedVar<T> {
    fn clone(&self) -> Self {
        SharedVar { name: self.name.clone(), value: PhantomData }
    }
}

/// By the name.
impl<T> PartialEq for SharedVar<T> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<T> Eq for SharedVar<T> {}

impl<T> Hash for SharedVar<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl<T> fmt::Debug for SharedVar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedVar").field("name", &self.name).finish_non_exhaustive()
    }
}
