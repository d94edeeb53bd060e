//! [`Readiness`]: waiting for several objects at once.
//!
//! This module takes nothing: that something need not be waited for is news, and another worker may be faster.

use std::time::Duration;

use manycore_backends::transport::TransportError;

use super::NamedError;
use crate::wire::named::Condition;
use crate::worker::{CallError, Context, WorkerId};

/// That an operation on a named object would not wait: made by [`SharedVar::newer_than`](crate::SharedVar::newer_than),
/// [`Mutex::unlocked`](crate::named::Mutex::unlocked), [`Semaphore::available`](crate::named::Semaphore::available),
/// [`Mailbox::receivable`](crate::Mailbox::receivable) and [`Mailbox::sendable`](crate::Mailbox::sendable).
///
/// It is true, too, if the operation would fail at once, as of an object that is missing, closed, or of another type or
/// capacity. It promises nothing: follow it by an operation that does not wait, and if another worker was faster, wait again; those who
/// wait in the object's own queue always are. Mailboxes and mutexes
/// that nobody has used yet are ready to be sent to and locked; a mailbox is ready to be received from, but empty, once,
/// before its first use: [open](crate::Mailbox::open) it before.
///
/// ```
/// use std::time::Duration;
///
/// use manycore::{Mailbox, Runtime, SharedVar, Worker};
///
/// const QUESTIONS: Mailbox<String> = Mailbox::new("questions");
/// const NEWS: SharedVar<String> = SharedVar::new("news");
///
/// const MAIN: Worker<(), usize> = Worker::fallible("main", |context, ()| {
///     QUESTIONS.open(context)?;
///     NEWS.create(context)?;
///     let set = NEWS.set(context, &"rain".to_owned())?;
///     QUESTIONS.send(context, &"why?".to_owned())?;
///     let ready = context.wait_any(&[NEWS.newer_than(set), QUESTIONS.receivable()])?;
///     Ok(ready)
/// });
///
/// assert_eq!(Runtime::new().run(&MAIN, ())?, 1);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub(super) condition: Condition,
}

impl Readiness {
    pub(super) fn new(condition: Condition) -> Readiness {
        Readiness { condition }
    }
}

/// What [`Context::watch_for`] watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watch(u64);

impl<R> WorkerId<R> {
    /// That the worker has ended, or is unknown, to be [waited for](Context::wait_any) together with named objects: who waits
    /// for a message hears so that nobody is left to send it.
    pub fn ended(&self) -> Readiness {
        Readiness::new(Condition::Ended { id: self.number() })
    }
}

impl Context {
    /// Waits until one of these is true, and returns which one of the list; if several are, any of them. With an empty list
    /// it waits until the worker should stop.
    ///
    /// # Errors
    /// [`NamedError::Stopping`]; [`NamedError::MasterGone`].
    pub fn wait_any(&mut self, list: &[Readiness]) -> Result<usize, NamedError> {
        loop {
            if let Some(index) = self.wait_any_until(list, None)? {
                return Ok(index);
            }
        }
    }

    /// The same, but waits at most `timeout`: `None` if none was ready until then. One that is ready already is found also if
    /// `timeout` is zero.
    ///
    /// # Errors
    /// As [`wait_any`](Context::wait_any).
    pub fn wait_any_timeout(
        &mut self,
        list: &[Readiness],
        timeout: Duration,
    ) -> Result<Option<usize>, NamedError> {
        self.wait_any_until(list, Some(timeout))
    }

    fn wait_any_until(
        &mut self,
        list: &[Readiness],
        timeout: Option<Duration>,
    ) -> Result<Option<usize>, NamedError> {
        let mut watches = Vec::with_capacity(list.len());
        for readiness in list {
            watches.push(self.watch_condition(readiness.condition.clone()).map_err(gone)?);
        }
        let found = self.wait_ready(&watches, timeout);
        for (index, watch) in watches.into_iter().enumerate() {
            if !matches!(found, Ok(Some(ready)) if ready == index) {
                self.unwatch_condition(watch).map_err(gone)?;
            }
        }
        Ok(found?)
    }

    /// Has the master tell when this is true: then [`next_ready`](Context::next_ready) returns it, once. The context's
    /// [descriptor](std::os::fd::AsFd) becomes readable when the master tells, but any call may take the news in: ask
    /// `next_ready` before waiting for it. For who waits for other things, too.
    ///
    /// # Errors
    /// [`NamedError::MasterGone`].
    pub fn watch_for(&mut self, readiness: &Readiness) -> Result<Watch, NamedError> {
        let watch = self.watch_condition(readiness.condition.clone()).map_err(gone)?;
        self.awaited_objects.insert(watch);
        Ok(Watch(watch))
    }

    /// Does not watch any more.
    ///
    /// # Errors
    /// [`NamedError::MasterGone`].
    pub fn unwatch(&mut self, watch: Watch) -> Result<(), NamedError> {
        if self.awaited_objects.remove(&watch.0) {
            self.unwatch_condition(watch.0).map_err(gone)?;
        }
        Ok(())
    }

    /// A [watch](Context::watch_for) that is ready, each once, without waiting. `None` if nothing was heard of one.
    ///
    /// # Errors
    /// [`NamedError::MasterGone`].
    pub fn next_ready(&mut self) -> Result<Option<Watch>, NamedError> {
        self.hear_all().map_err(gone)?;
        for watch in &self.awaited_objects {
            if self.ready.remove(watch) {
                let watch = *watch;
                self.watches.remove(&watch);
                self.awaited_objects.remove(&watch);
                return Ok(Some(Watch(watch)));
            }
        }
        Ok(None)
    }
}

fn gone(error: TransportError) -> NamedError {
    CallError::MasterGone(error).into()
}
