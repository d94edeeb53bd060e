//! [`Cached`]: a variable with its newest value at hand.
//!
//! The master tells of a new value, once; until then there is none. So looking costs no question to the master, only a look
//! at the link.
//!
//! This module does not keep values of several variables.

use std::fmt;
use std::sync::Weak;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{NamedError, SharedVar, Version};
use crate::wire::named::Told;
use crate::worker::{Context, Tell};

/// A [`SharedVar`] of one worker, with its newest value at hand. Made by [`SharedVar::cached`].
#[doc(alias("VV", "vv_access"))]
pub struct Cached<T> {
    variable: SharedVar<T>,
    found: Option<(T, Version)>,
    /// By which the master tells of a newer one.
    watch: Option<u64>,
    /// Who is told that none is wanted any more.
    teller: Option<Weak<dyn Tell>>,
}

impl<T: Serialize + DeserializeOwned + 'static> Cached<T> {
    pub(super) fn new(variable: SharedVar<T>) -> Cached<T> {
        Cached { variable, found: None, watch: None, teller: None }
    }

    /// Its newest value: that which any `set` gave it that has returned before this is called, or a newer one. (Only a
    /// worker that has not listened to the master for very long may see an older one.) The master is asked only if there is
    /// a newer one.
    ///
    /// # Errors
    /// As [`SharedVar::get`].
    pub fn get(&mut self, context: &mut Context) -> Result<&T, NamedError> {
        let gone = |error| NamedError::from(crate::worker::CallError::MasterGone(error));
        let news = match self.watch {
            Some(watch) => context.take_ready(watch).map_err(gone)?,
            None => true,
        };
        if news || self.found.is_none() {
            if news {
                self.watch = None;
            }
            match self.variable.get_newer(context, self.version()) {
                Ok(Some(newer)) => self.found = Some(newer),
                Ok(None) => {}
                Err(error) => {
                    self.found = None;
                    return Err(error);
                }
            }
            if self.watch.is_none() {
                let condition = self.variable.newer_than(self.version()).condition;
                self.watch = Some(context.watch_condition(condition).map_err(gone)?);
                self.teller.get_or_insert_with(|| context.teller());
            }
        }
        match &self.found {
            Some((value, _)) => Ok(value),
            // What is newer than nothing is something.
            None => Err(NamedError::Unset { object: self.variable.object().text() }),
        }
    }

    /// The version of the value that was got last.
    pub fn version(&self) -> Version {
        self.found.as_ref().map_or(Version::UNSET, |(_, version)| *version)
    }

    /// The variable.
    pub fn variable(&self) -> &SharedVar<T> {
        &self.variable
    }
}

impl<T> Drop for Cached<T> {
    fn drop(&mut self) {
        if let (Some(watch), Some(teller)) = (self.watch, self.teller.as_ref().and_then(Weak::upgrade)) {
            teller.tell_later(Told::Unwatch { watch });
        }
    }
}

impl<T> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("variable", &self.variable).finish_non_exhaustive()
    }
}
