//! [`Workers`]: the definitions of a program, by name, and where the life of a worker's program begins.
//!
//! This module starts nothing.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use manycore_backends::spawn::{Entry, Spawner};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Body, Context, Outcome, Worker, child};
use crate::platform::{Platform, WorkerEnd};
use crate::wire;

/// A definition without its types: from the bytes of an argument to those of a result, which it appends.
pub(super) type Erased = dyn Fn(&mut Context, &[u8], &mut Vec<u8>) -> Result<(), Outcome> + Send + Sync;

/// Definitions of workers, by name.
///
/// Programs on a platform whose workers are the program run anew ([`Execed`](crate::Execed)) say first in `main` what
/// their workers are, because the new process has to find them:
///
/// ```no_run
/// use manycore::{Execed, Runtime, Worker, Workers};
///
/// const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);
///
/// fn main() -> Result<(), manycore::RunError> {
///     let workers = Workers::new().with(&SQUARE);
///     workers.enter::<Execed>(); // in a worker's process, this does not return
///     println!("{}", Runtime::<Execed>::default().with_all(&workers).run(&SQUARE, 9)?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Default)]
pub struct Workers {
    definitions: BTreeMap<&'static str, Definition>,
    /// The first name that stands for two definitions.
    duplicate: Option<&'static str>,
}

#[derive(Clone)]
struct Definition {
    erased: Arc<Erased>,
    /// Where it was defined, and its types: the same definition may come from two crates, and then its
    /// function has two addresses.
    same: (&'static Location<'static>, TypeId, TypeId),
}

impl Workers {
    /// No definitions.
    pub fn new() -> Workers {
        Workers::default()
    }

    /// These and another one. The same definition may come twice; that two different ones have the same name is told
    /// by whoever runs them: [`RunError::Duplicate`](crate::RunError::Duplicate).
    pub fn with<A, R>(mut self, worker: &Worker<A, R>) -> Workers
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        self.add(worker);
        self
    }

    /// Must be called first in `main` where workers are the program run anew: in the process of a worker it does what the
    /// worker has to do, and does not return. Elsewhere it notes that this was called, and returns. On other platforms it
    /// does nothing, so that a program can choose its platform in one word.
    #[doc(alias("init", "freeze_support"))]
    pub fn enter<P: Platform>(&self) {
        self.enter_by::<P>(Entry::Main);
    }

    /// The same in tests of the standard harness, which has the `main`: to be called by each test that runs such workers,
    /// and by one test that does nothing else, the path of which, as the harness prints it, is `test`. That one is what
    /// the process of a worker runs.
    pub fn enter_by_test<P: Platform>(&self, test: &str) {
        self.enter_by::<P>(Entry::Test(test));
    }

    fn enter_by<P: Platform>(&self, entry: Entry<'_>) {
        let workers = Arc::new(self.clone());
        <P::Spawn as Spawner<WorkerEnd<P>>>::enter(entry, move |link| child::live::<P>(link, workers, None));
    }

    pub(crate) fn add<A, R>(&mut self, worker: &Worker<A, R>)
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let body = worker.body;
        let same = (worker.defined, TypeId::of::<A>(), TypeId::of::<R>());
        if let Some(entry) = self.definitions.get(worker.name) {
            if entry.same != same {
                self.duplicate.get_or_insert(worker.name);
            }
            return;
        }
        let erased: Arc<Erased> = Arc::new(move |context, argument, results| {
            let argument = wire::from_bytes(argument).map_err(|message| Outcome::BadArgument { message })?;
            let result = match body {
                Body::Plain(function) => function(context, argument),
                Body::Fallible(function) => function(context, argument).map_err(|failure| {
                    let (message, causes) = failure.into_parts();
                    Outcome::Failed { message, causes }
                })?,
            };
            wire::append(&result, results).map_err(|message| Outcome::Unserializable { message })
        });
        self.definitions.insert(worker.name, Definition { erased, same });
    }

    pub(crate) fn add_all(&mut self, others: &Workers) {
        self.duplicate = self.duplicate.or(others.duplicate);
        for (name, entry) in &others.definitions {
            match self.definitions.get(name) {
                Some(known) if known.same != entry.same => drop(self.duplicate.get_or_insert(name)),
                Some(_) => {}
                None => drop(self.definitions.insert(name, entry.clone())),
            }
        }
    }

    /// A name that stands for two definitions.
    pub(crate) fn duplicate(&self) -> Option<&'static str> {
        self.duplicate
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Erased> {
        self.definitions.get(name).map(|entry| &*entry.erased)
    }

    /// The name itself, if it is that of a definition.
    pub(crate) fn name(&self, name: &str) -> Option<&'static str> {
        self.definitions.get_key_value(name).map(|(name, _)| *name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.definitions.keys().map(|name| (*name).to_owned()).collect()
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.definitions.keys()).finish()
    }
}
