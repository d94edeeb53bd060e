//! Named objects: shared variables, mutexes, semaphores and mailboxes that workers find by name. The master keeps them,
//! and they live as long as the run.
//!
//! | object | what it is for | comes to be |
//! |---|---|---|
//! | [`SharedVar`] | a value that all can read, set, and wait for | by [`create`](SharedVar::create) |
//! | [`Mutex`] | one worker at a time | with its first use, unlocked |
//! | [`Semaphore`] | units that are taken and given | by [`create`](Semaphore::create) |
//! | [`Mailbox`] | messages from any workers to any | with its first use, empty |
//!
//! An object is a name and, for values and messages, a type: a definition like that of a [`Worker`](crate::Worker), which can
//! be a `const`. Each operation is told where it is called from, the worker's [`Context`]; those that never wait can also be
//! called at the [end of a run](crate::Runtime::run_then), from [`Finished`](crate::Finished): both are [`Caller`]s.
//!
//! ```
//! use manycore::{Context, Failure, Mailbox, Runtime, SharedVar, Worker};
//!
//! const NUMBERS: Mailbox<u64> = Mailbox::new("numbers");
//! const SUM: SharedVar<u64> = SharedVar::new("sum");
//!
//! const ADD: Worker<(), ()> = Worker::fallible("add", |context, ()| {
//!     let mut sum = 0;
//!     while let Some(number) = NUMBERS.next(context)? {
//!         sum += number;
//!     }
//!     SUM.create(context)?;
//!     SUM.set(context, &sum)?;
//!     Ok(())
//! });
//!
//! const MAIN: Worker<u64, u64> = Worker::fallible("main", |context, count| {
//!     let adds = context.start(&ADD, ())?;
//!     for number in 1..=count {
//!         NUMBERS.send(context, &number)?;
//!     }
//!     NUMBERS.close(context)?;
//!     context.join(adds)?;
//!     Ok(SUM.get(context)?)
//! });
//!
//! assert_eq!(Runtime::new().with(&ADD).run(&MAIN, 10)?, 55);
//! # Ok::<(), manycore::RunError>(())
//! ```
//!
//! # When workers die
//!
//! Whoever has something that others wait for may be killed at any moment. What it had goes back:
//!
//! | it | then |
//! |---|---|
//! | held a mutex | the next holder has it, and is told that it was [abandoned](MutexGuard::was_abandoned) |
//! | had taken units of a protected semaphore | they are there again |
//! | was given a message that its `receive` had not returned yet | it is in its old place in the mailbox |
//! | owned a variable | it is deleted, and who waits for its value is told that it is missing |
//! | was computing a value | the next one who wants it computes it |
//! | waited for something | the next in the queue is served |
//!
//! The same goes for a worker that is stopped (`SIGSTOP`) only if it is killed; until then others wait for what it has, and
//! for nothing else.
//!
//! # Types
//!
//! With each variable and mailbox its creator writes down the fingerprint of the type: the 64-bit FNV-1a hash of the bytes
//! that [`TypeId`](std::any::TypeId) feeds a hasher and of the bytes of [`type_name`](std::any::type_name). All workers of a
//! run are the same program, where both tell types apart. Who calls it another type gets [`NamedError::WrongType`], which
//! names both. Values travel as CBOR, with the limits and caveats of a worker's argument.
//!
//! # Names
//!
//! A name is any text of 1 to 255 bytes. Each kind of object has its own names.
//!
//! # Waiting
//!
//! Who waits longest is served first. Operations that wait end early with [`NamedError::Stopping`] if the worker is asked to
//! stop, once, as a [join](Context::join) does. Workers that wait for each other in a circle, by mutexes, joins and
//! [values that they compute](SharedVar::get_or_compute), do not hang: the last one of them gets [`NamedError::Deadlock`], a
//! moment later. That is not seen where anybody may come and give what is waited for (semaphores, mailboxes, waiting for a
//! value without wanting to compute it), nor of waits with a time limit and for [any of several](Context::wait_any).
//!
//! Several objects at once, and ends of [workers](crate::WorkerId::ended), are waited for by [`Context::wait_any`], or by the
//! context's [descriptor](std::os::fd::AsFd): see [`Readiness`].
//!
//! A mailbox does not end by itself when those who send to it have ended: somebody [closes](Mailbox::close) it. A run
//! whose first worker fails [waits for the others](crate::AtEnd) by default, who may wait for messages then: such programs
//! choose [`AtEnd::Terminate`](crate::AtEnd::Terminate).
//!
//! | file | concern |
//! |---|---|
//! | `mod` | who calls, names, and values on their way |
//! | `sharedvar` `mutex` `semaphore` `mailbox` | the operations of each kind |
//! | `cached` | a variable whose value is kept at hand |
//! | `readiness` | waiting for several objects at once |
//! | `fingerprint` | types, written down |
//! | `error` | why an operation was not done |
//! | `registry` | the master's side |
//!
//! # Where everything of Netplex is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | plugins | not needed: all of it is always there |
//! | `Netplex_semaphore`: `create ?protected`, `get`, `increment`, `decrement ?wait`, `destroy` | [`Semaphore`]: [`create_with`](Semaphore::create_with), [`get`](Semaphore::get), [`increment`](Semaphore::increment), [`decrement`](Semaphore::decrement) and [`try_decrement`](Semaphore::try_decrement), [`destroy`](Semaphore::destroy); only `create` creates |
//! | `ctrl_increment` | left out, because the master gives back what the dead had |
//! | `Netplex_mutex`: `access`, `lock`, `unlock` | [`Mutex`]: [`named`](Mutex::named), [`lock`](Mutex::lock), which gives a guard, and [`unlock`](Mutex::unlock) for who has leaked it |
//! | `Netplex_sharedvar`: `create_var`, `own`, `ro`, `timeout` | [`SharedVar::create`], [`create_with`](SharedVar::create_with): [`owned`](VarOptions::owned), [`read_only`](VarOptions::read_only), [`idle_limit`](VarOptions::idle_limit) |
//! | `enc`, `Make_var_type` | left out, because all variables are typed |
//! | `ssn` | left out, because the owner is the worker that creates it |
//! | `set_value`, `get_value`, `wait_for_value`, `delete_var`, and those with `enc` | [`SharedVar`]: [`set`](SharedVar::set), [`get`](SharedVar::get), [`wait`](SharedVar::wait), [`delete`](SharedVar::delete) |
//! | `get_lazily` | [`SharedVar::get_or_compute`] |
//! | `vv_access`, `vv_get`, `vv_update`, `vv_version`, `vv_set`, `Make_vv` | [`SharedVar::cached`], [`Cached::get`], [`SharedVar::get_newer`], [`SharedVar::version`], [`SharedVar::set`] |
//! | `dump` | [`Visitor::objects`](crate::admin::Visitor::objects), command `manycore objects` |
//! | `Sharedvar_not_found`, `Sharedvar_type_mismatch`, `Sharedvar_no_permission`, `Sharedvar_null` | [`NamedError`]: [`Missing`](NamedError::Missing), [`WrongType`](NamedError::WrongType), [`NoPermission`](NamedError::NoPermission), [`Unset`](NamedError::Unset) |
//! | `Netplex_mbox`: `Make_mbox_type`, `create`, `send`, `receive` | [`Mailbox`]: [`open`](Mailbox::open), which need not be called, [`send`](Mailbox::send), [`receive`](Mailbox::receive) |
//! | `Netsys_global`, `global_propagator` | left out, because [`SharedVar`] is that |
//!
//! This module shares no memory: values that are large, or that are read very often by many, are better kept in
//! [`ShmMap`](crate::ShmMap).

mod cached;
mod error;
mod fingerprint;
mod mailbox;
mod mutex;
mod readiness;
mod registry;
mod semaphore;
mod sharedvar;

use std::fmt;
use std::sync::Weak;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use cached::Cached;
pub use error::NamedError;
pub use mailbox::Mailbox;
pub use mutex::{Mutex, MutexGuard};
pub use readiness::{Readiness, Watch};
pub(crate) use registry::{MASTER, Registry};
pub use semaphore::{Permit, Semaphore, SemaphoreOptions};
pub use sharedvar::{SharedVar, VarOptions, Version};

pub use crate::wire::named::ObjectInfo;

use crate::wire;
use crate::wire::named::{Answer, Bytes, Operation, Told};
use crate::worker::{CallError, Context, Patience, Tell};

/// From where named objects are used: a worker's [`Context`], or [`Finished`](crate::Finished), the end of a run. A type of
/// your own that has one of them can be one, too, by passing that on.
pub trait Caller {
    /// How it calls.
    fn calling(&mut self) -> Calling<'_>;
}

/// How a [`Caller`] calls. Opaque.
pub struct Calling<'caller>(&'caller mut dyn Calls);

pub(crate) trait Calls {
    /// The answer to something that never waits.
    fn ask(&mut self, operation: Operation) -> Result<Answer, NamedError>;
    /// Whom guards tell that they are dropped, as long as this is there.
    fn teller(&self) -> Weak<dyn Tell>;
    /// The largest value, in bytes.
    fn limit(&self) -> usize;
}

impl fmt::Debug for Calling<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").finish_non_exhaustive()
    }
}

impl<'caller> Calling<'caller> {
    pub(crate) fn new(caller: &'caller mut dyn Calls) -> Calling<'caller> {
        Calling(caller)
    }
}

impl Caller for Context {
    fn calling(&mut self) -> Calling<'_> {
        Calling(self)
    }
}

impl Calls for Context {
    fn ask(&mut self, operation: Operation) -> Result<Answer, NamedError> {
        Ok(self.call(operation, Patience::No)?)
    }

    fn teller(&self) -> Weak<dyn Tell> {
        Context::teller(self)
    }

    fn limit(&self) -> usize {
        self.identity().message_limit
    }
}

impl From<CallError> for NamedError {
    fn from(error: CallError) -> NamedError {
        match error {
            CallError::Stopping => NamedError::Stopping,
            CallError::MasterGone(error) => NamedError::MasterGone { message: error.to_string() },
        }
    }
}

/// Tells what a guard has to tell. If nobody is there any more, nobody cares.
fn tell(teller: &Weak<dyn Tell>, told: Told) {
    if let Some(teller) = teller.upgrade() {
        teller.tell(told);
    }
}

/// Bytes that a name may have.
const NAME_MAX: usize = 255;

/// A kind of object and a name, for calls and for the texts of errors.
#[derive(Clone, Copy)]
struct Object<'name> {
    kind: &'static str,
    name: &'name str,
}

impl Object<'_> {
    /// The name, if it can be one.
    fn name(self) -> Result<String, NamedError> {
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            return Err(NamedError::BadName { kind: self.kind, length: self.name.len(), limit: NAME_MAX });
        }
        Ok(self.name.to_owned())
    }

    /// The kind and the name.
    fn text(self) -> String {
        format!("{} `{}`", self.kind, self.name)
    }

    fn encode(self, value: &impl Serialize, limit: usize) -> Result<Bytes, NamedError> {
        let mut bytes = Vec::new();
        wire::append(value, &mut bytes)
            .map_err(|message| NamedError::Unserializable { object: self.text(), message })?;
        if bytes.len() > limit {
            return Err(NamedError::TooBig { object: self.text(), size: bytes.len(), limit });
        }
        Ok(Bytes::from(bytes))
    }

    fn decode<T: DeserializeOwned>(self, bytes: &Bytes) -> Result<T, NamedError> {
        wire::from_bytes(bytes).map_err(|message| NamedError::Unreadable { object: self.text(), message })
    }

    /// Why an operation was not done.
    fn refused<T: ?Sized>(self, answer: Answer) -> NamedError {
        NamedError::refused(self, std::any::type_name::<T>(), answer)
    }
}
