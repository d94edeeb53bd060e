//! What a child made by `fork` does before anything else: handlers that forget, or make anew, what belongs to the
//! parent.
//!
//! ```
//! use manycore_backends::posix::post_fork;
//!
//! # fn forget_connections() {}
//! let registration = post_fork::register("connections", forget_connections);
//! // As long as `registration` lives, every unit begun by `Fork` starts without connections.
//! drop(registration);
//! ```
//!
//! | who forks | are the handlers run? |
//! |---|---|
//! | [`Fork`](crate::spawn::Fork) | yes: when the unit's descriptors are closed and its signals reset, before `run` |
//! | code that calls `fork` itself | only if it calls [`run`] in the child |
//! | code that replaces the program (`exec`), such as `std::process::Command` | no: the new program has none |
//!
//! Nothing here is tied to `pthread_atfork`, whose handlers run in the middle of `fork`, where next to nothing is
//! allowed. For what must be known even after a fork that runs no handlers there is
//! [`Generation`](crate::generation::Generation): a handle that remembers its own is refused in a child.
//!
//! A handler runs in a process of one thread. It must not wait for locks that another thread of the parent may have
//! held: [`Fork`](crate::spawn::Fork) refuses a parent with several threads, so that there are none; whoever forks a
//! process with several threads must not call [`run`], because the list of handlers, the allocator or standard error may
//! have been locked by a thread that the child does not have.
//!
//! This module does not fork, and runs nothing in the parent.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::global::{Arc, Mutex, lock};

/// The handlers, by the order of registration.
static HANDLERS: Mutex<Handlers> = Mutex::new(Handlers { next: 0, list: BTreeMap::new() });

struct Handlers {
    next: u64,
    list: BTreeMap<u64, Arc<Handler>>,
}

struct Handler {
    name: String,
    call: Box<dyn Fn() + Send + Sync>,
}

/// Has `handler` called in every child that runs the handlers, until the returned value is dropped.
///
/// The name is what a panic of the handler is reported under. It need not be unique: two registrations are two handlers.
#[doc(alias = "register_post_fork_handler")]
pub fn register(name: impl Into<String>, handler: impl Fn() + Send + Sync + 'static) -> Registration {
    let handler = Arc::new(Handler { name: name.into(), call: Box::new(handler) });
    let mut handlers = lock(&HANDLERS);
    let key = handlers.next;
    handlers.next += 1;
    handlers.list.insert(key, handler);
    Registration { key }
}

/// Calls the handlers in the order in which they were registered. For the child, after a fork.
///
/// The list is not locked meanwhile: a handler may register others, which are not called this time, and remove others,
/// which are not called any more. A handler that panics is reported on standard error, and the next one is called (unless
/// the program is built with `panic = "abort"`).
///
/// [`Fork`](crate::spawn::Fork) does this by itself; see the [module page](self) for who else may.
#[doc(alias = "run_post_fork_handlers")]
pub fn run() {
    let end = lock(&HANDLERS).next;
    let mut last = None;
    loop {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = lock(&HANDLERS)
            .list
            .range((after, Bound::Excluded(end)))
            .next()
            .map(|(key, handler)| (*key, Arc::clone(handler)));
        let Some((key, handler)) = next else { return };
        last = Some(key);
        call(handler);
    }
}

fn call(handler: Arc<Handler>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (handler.call)())) {
        let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (None, Some(text)) => text.as_str(),
            (None, None) => "no message",
        };
        // If it cannot be written there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "post-fork handler {:?} panicked: {message}", handler.name);
        // Dropping it could panic again.
        std::mem::forget(payload);
    }
    // What the handler owns may panic, too, if it was removed meanwhile and this is its last owner.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(handler))) {
        std::mem::forget(payload);
    }
}

/// A handler in the list; dropping this removes it.
///
/// In a child made by `fork` it is a copy, as the list is: dropping it there removes the handler from the child's list.
#[must_use = "the handler is removed at once if this is not kept; `.keep()` leaves it there for ever"]
#[doc(alias("post_fork_handler", "remove_post_fork_handler"))]
pub struct Registration {
    key: u64,
}

impl Registration {
    /// Leaves the handler in the list for as long as the process lives.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let removed = lock(&HANDLERS).list.remove(&self.key);
        // Not under the lock: what the handler owns may want to register or remove others when it is dropped.
        drop(removed);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = lock(&HANDLERS).list.get(&self.key).map(|handler| handler.name.clone());
        f.debug_tuple("Registration").field(&name.unwrap_or_default()).finish()
    }
}
