//! [`Mailbox`]: messages from any workers to any.
//!
//! This module keeps no messages: those on their way are with the master.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fingerprint::{fingerprint, written};
use super::{Caller, NamedError, Object, Readiness};
use crate::wire::named::{Answer, Condition, OfMailbox, Operation};
use crate::worker::{Context, Patience};

/// The definition of a mailbox: its name, the type of its messages, and how many it has room for. The rules are on the
/// [module page](crate::named).
///
/// Messages are received in the order in which they were sent, each by one worker. A message is with the master until the
/// worker that is given it has said that it has it, which is the last thing that a `receive` does: if that worker dies
/// before, the message is there for another one.
///
/// ```
/// use manycore::{Mailbox, Runtime, Worker};
///
/// const GREETINGS: Mailbox<String> = Mailbox::with_capacity("greetings", 2);
///
/// const MAIN: Worker<(), usize> = Worker::fallible("main", |context, ()| {
///     GREETINGS.send(context, &"hello".to_owned())?;
///     GREETINGS.send(context, &"world".to_owned())?;
///     assert_eq!(GREETINGS.receive(context)?, "hello");
///     Ok(GREETINGS.length(context)?)
/// });
///
/// assert_eq!(Runtime::new().run(&MAIN, ())?, 1);
/// # Ok::<(), manycore::RunError>(())
/// ```
#[doc(alias("Netplex_mbox", "Make_mbox_type", "Queue", "Pipe"))]
pub struct Mailbox<T> {
    name: Cow<'static, str>,
    capacity: u64,
    message: PhantomData<fn(T) -> T>,
}

impl<T> Mailbox<T> {
    /// The mailbox with this name, which has room for one message.
    pub const fn new(name: &'static str) -> Mailbox<T> {
        Mailbox::with_capacity(name, 1)
    }

    /// The mailbox with this name, which has room for so many messages, at least 1.
    pub const fn with_capacity(name: &'static str, messages: usize) -> Mailbox<T> {
        Mailbox { name: Cow::Borrowed(name), capacity: at_least_one(messages), message: PhantomData }
    }

    /// The mailbox with this name, which need not be known beforehand, and room for so many messages, at least 1.
    pub fn named(name: impl Into<String>, messages: usize) -> Mailbox<T> {
        Mailbox { name: Cow::Owned(name.into()), capacity: at_least_one(messages), message: PhantomData }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    fn object(&self) -> Object<'_> {
        Object { kind: "mailbox", name: &self.name }
    }
}

const fn at_least_one(messages: usize) -> u64 {
    if messages == 0 { 1 } else { messages as u64 }
}

impl<T: Serialize + DeserializeOwned + 'static> Mailbox<T> {
    /// Creates it if there is none: true if there was none. Sending, receiving and closing do that, too. Never waits.
    ///
    /// # Errors
    /// [`NamedError::WrongType`] or [`NamedError::OtherCapacity`] if it was created with another type or capacity;
    /// [`NamedError::TooMany`]; [`NamedError::BadName`]; [`NamedError::MasterGone`].
    #[doc(alias("create", "mq_open"))]
    pub fn open(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        match at.calling().0.ask(self.operation(OfMailbox::Open { type_name: written::<T>() })?)? {
            Answer::Created(created) => Ok(created),
            other => Err(self.refused(other)),
        }
    }

    /// Sends a message, waiting until there is room for it. When this returns, it is in the mailbox, or received.
    ///
    /// # Errors
    /// [`NamedError::Closed`], also if it is closed meanwhile; [`NamedError::Destroyed`] if it is deleted meanwhile;
    /// [`NamedError::Stopping`]; [`NamedError::Unserializable`]; [`NamedError::TooBig`]; as [`open`](Mailbox::open). In all
    /// these cases but [`NamedError::MasterGone`] the message is not sent.
    #[doc(alias = "mq_send")]
    pub fn send(&self, context: &mut Context, message: &T) -> Result<(), NamedError> {
        self.send_until(context, message, Patience::ForEver).map(drop)
    }

    /// The same, but waits at most `timeout`: false if there is no room then. The message is not sent then.
    ///
    /// # Errors
    /// As [`send`](Mailbox::send).
    #[doc(alias = "mq_timedsend")]
    pub fn send_timeout(
        &self,
        context: &mut Context,
        message: &T,
        timeout: Duration,
    ) -> Result<bool, NamedError> {
        self.send_until(context, message, Patience::AtMost(timeout))
    }

    /// Sends a message if there is room for it and nobody waits for some: false if not.
    ///
    /// # Errors
    /// As [`send`](Mailbox::send), but nothing of waiting.
    pub fn try_send(&self, at: &mut impl Caller, message: &T) -> Result<bool, NamedError> {
        let message = self.object().encode(message, at.calling().0.limit())?;
        loop {
            let operation = self.operation(OfMailbox::Send { message: message.clone() })?;
            match at.calling().0.ask(operation)? {
                Answer::Missing => drop(self.open(at)?),
                answer => return self.sent(answer),
            }
        }
    }

    /// Receives the oldest message, waiting for one.
    ///
    /// # Errors
    /// [`NamedError::Closed`] when it is closed and no message is left; [`NamedError::Destroyed`] if it is deleted
    /// meanwhile; [`NamedError::Stopping`]; [`NamedError::Unreadable`], where the message is gone; as
    /// [`open`](Mailbox::open).
    #[doc(alias = "mq_receive")]
    pub fn receive(&self, context: &mut Context) -> Result<T, NamedError> {
        let found = self.receive_until(context, Patience::ForEver)?;
        found.ok_or_else(|| self.refused(Answer::WouldWait))
    }

    /// The same, for loops: `None` when it is closed and no message is left.
    ///
    /// # Errors
    /// As [`receive`](Mailbox::receive), without [`NamedError::Closed`].
    pub fn next(&self, context: &mut Context) -> Result<Option<T>, NamedError> {
        match self.receive(context) {
            Err(NamedError::Closed { .. }) => Ok(None),
            received => received.map(Some),
        }
    }

    /// Receives, but waits at most `timeout`: `None` if there is no message then. None is lost by that.
    ///
    /// # Errors
    /// As [`receive`](Mailbox::receive).
    #[doc(alias = "mq_timedreceive")]
    pub fn receive_timeout(&self, context: &mut Context, timeout: Duration) -> Result<Option<T>, NamedError> {
        self.receive_until(context, Patience::AtMost(timeout))
    }

    /// Receives the oldest message if there is one.
    ///
    /// # Errors
    /// As [`receive`](Mailbox::receive), but nothing of waiting.
    pub fn try_receive(&self, at: &mut impl Caller) -> Result<Option<T>, NamedError> {
        loop {
            match at.calling().0.ask(self.operation(OfMailbox::Receive)?)? {
                Answer::Missing => drop(self.open(at)?),
                answer => return self.received(answer),
            }
        }
    }

    /// Messages in it.
    ///
    /// # Errors
    /// As [`open`](Mailbox::open).
    pub fn length(&self, at: &mut impl Caller) -> Result<usize, NamedError> {
        match at.calling().0.ask(self.operation(OfMailbox::Length)?)? {
            Answer::Fill { messages } => Ok(messages as usize),
            Answer::Missing => Ok(0),
            other => Err(self.refused(other)),
        }
    }

    /// Says that nothing more is sent: what is in it is received, and then it is at its end for all. Who waits to send gets
    /// [`NamedError::Closed`]. A message that its receiver did not live to take is there again even so.
    ///
    /// # Errors
    /// As [`open`](Mailbox::open).
    pub fn close(&self, at: &mut impl Caller) -> Result<(), NamedError> {
        loop {
            match at.calling().0.ask(self.operation(OfMailbox::Close)?)? {
                Answer::Missing => drop(self.open(at)?),
                Answer::Done => return Ok(()),
                other => return Err(self.refused(other)),
            }
        }
    }

    /// Deletes it, with all messages in it: true if there was one. Its next use creates it anew.
    ///
    /// # Errors
    /// As [`open`](Mailbox::open).
    #[doc(alias = "mq_unlink")]
    pub fn delete(&self, at: &mut impl Caller) -> Result<bool, NamedError> {
        match at.calling().0.ask(self.operation(OfMailbox::Delete)?)? {
            Answer::Removed(removed) => Ok(removed),
            other => Err(self.refused(other)),
        }
    }

    /// That receiving would not wait, to be waited for with others.
    pub fn receivable(&self) -> Readiness {
        let (name, kind) = (self.name.clone().into_owned(), fingerprint::<T>());
        Readiness::new(Condition::Receivable { name, kind, capacity: self.capacity })
    }

    /// That sending would not wait, to be waited for with others.
    pub fn sendable(&self) -> Readiness {
        let (name, kind) = (self.name.clone().into_owned(), fingerprint::<T>());
        Readiness::new(Condition::Sendable { name, kind, capacity: self.capacity })
    }

    fn send_until(&self, context: &mut Context, message: &T, patience: Patience) -> Result<bool, NamedError> {
        let message = self.object().encode(message, context.identity().message_limit)?;
        loop {
            let operation = self.operation(OfMailbox::Send { message: message.clone() })?;
            match context.call(operation, patience)? {
                Answer::Missing => drop(self.open(context)?),
                answer => return self.sent(answer),
            }
        }
    }

    fn receive_until(&self, context: &mut Context, patience: Patience) -> Result<Option<T>, NamedError> {
        loop {
            match context.call(self.operation(OfMailbox::Receive)?, patience)? {
                Answer::Missing => drop(self.open(context)?),
                answer => return self.received(answer),
            }
        }
    }

    fn sent(&self, answer: Answer) -> Result<bool, NamedError> {
        match answer {
            Answer::Done => Ok(true),
            Answer::WouldWait => Ok(false),
            other => Err(self.refused(other)),
        }
    }

    fn received(&self, answer: Answer) -> Result<Option<T>, NamedError> {
        match answer {
            Answer::Message(message) => self.object().decode(&message).map(Some),
            Answer::WouldWait => Ok(None),
            other => Err(self.refused(other)),
        }
    }

    fn operation(&self, action: OfMailbox) -> Result<Operation, NamedError> {
        let (name, kind) = (self.object().name()?, fingerprint::<T>());
        Ok(Operation::Mailbox { name, kind, capacity: self.capacity, action })
    }

    fn refused(&self, answer: Answer) -> NamedError {
        match answer {
            Answer::OtherCapacity { stored } => {
                NamedError::OtherCapacity { object: self.object().text(), stored, asked: self.capacity }
            }
            other => self.object().refused::<T>(other),
        }
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { name: self.name.clone(), capacity: self.capacity, message: PhantomData }
    }
}

/// By the name, and the capacity that it says.
impl<T> PartialEq for Mailbox<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.capacity) == (&other.name, other.capacity)
    }
}

impl<T> Eq for Mailbox<T> {}

impl<T> Hash for Mailbox<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, self.capacity).hash(state);
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("name", &self.name)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
