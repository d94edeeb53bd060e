//! All definitions of a program, by name, without their types.
//!
//! This module starts nothing.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::{Body, Context, Outcome, Worker};
use crate::wire;

/// A definition without its types: from the bytes of an argument to an outcome.
type Erased = Arc<dyn Fn(&mut Context, &[u8]) -> Outcome + Send + Sync>;

/// All definitions of a program, by name.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    workers: BTreeMap<&'static str, Entry>,
}

#[derive(Clone)]
struct Entry {
    erased: Erased,
    /// Where it was defined, and its types: the same definition may come from two crates, and then its
    /// function has two addresses.
    same: (&'static Location<'static>, TypeId, TypeId),
}

impl Registry {
    /// Adds a definition; `false` if another one has its name.
    pub(crate) fn add<A, R>(&mut self, worker: &Worker<A, R>) -> bool
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let body = worker.body;
        let same = (worker.defined, TypeId::of::<A>(), TypeId::of::<R>());
        if let Some(entry) = self.workers.get(worker.name) {
            return entry.same == same;
        }
        let erased: Erased = Arc::new(move |context, argument| {
            let argument = match wire::from_bytes(argument) {
                Ok(argument) => argument,
                Err(message) => return Outcome::BadArgument { message },
            };
            let result = match body {
                Body::Plain(function) => function(context, argument),
                Body::Fallible(function) => match function(context, argument) {
                    Ok(result) => result,
                    Err(failure) => return Outcome::Failed { message: failure.message },
                },
            };
            match wire::to_bytes(&result) {
                Ok(bytes) => Outcome::Returned(ByteBuf::from(bytes)),
                Err(message) => Outcome::Unserializable { message },
            }
        });
        self.workers.insert(worker.name, Entry { erased, same });
        true
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Erased> {
        self.workers.get(name).map(|entry| &entry.erased)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.workers.keys().map(|name| (*name).to_owned()).collect()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.workers.keys()).finish()
    }
}
