//! Why an operation on a named object was not done.
//!
//! This module refuses nothing: the registry does, and this has the words for it.

use super::{Object, Version};
use crate::wire::named::Answer;

/// Why an operation on a named object was not done. `object` is the kind and the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamedError {
    /// The name is empty or too long.
    #[error("the name of a {kind} must have 1 to {limit} bytes, not {length}")]
    BadName {
        /// What kind of object was meant.
        kind: &'static str,
        /// Bytes of the name.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// There is no such object, or not any more: it was not created, or was deleted, or has expired.
    #[error("there is no {object}, or not any more: it is to be created first")]
    Missing {
        /// The object.
        object: String,
    },
    /// The variable was not set yet: [wait](crate::SharedVar::wait) for it.
    #[error("{object} is not set yet")]
    Unset {
        /// The object.
        object: String,
    },
    /// The object was created with another type.
    #[error("{object} is one of `{stored}`, not of `{asked}`")]
    WrongType {
        /// The object.
        object: String,
        /// The type of its creator.
        stored: String,
        /// The type that it was called.
        asked: String,
    },
    /// The variable cannot be changed by this worker, or by any.
    #[error(
        "{object} cannot be changed here: {}",
        owner.map_or_else(|| "it is read-only".to_owned(), |owner| format!("worker {owner} owns it"))
    )]
    NoPermission {
        /// The object.
        object: String,
        /// The worker that owns it. If none does, it is read-only.
        owner: Option<u64>,
    },
    /// The variable has another version than the one that was to be replaced: get it again.
    #[error("{object} has changed meanwhile")]
    Changed {
        /// The object.
        object: String,
        /// Its version now.
        version: Version,
    },
    /// What this worker was to compute was deleted meanwhile, or is computed by another one now.
    #[error("{object} is not to be computed by this worker any more")]
    NotComputing {
        /// The object.
        object: String,
    },
    /// This worker has locked the mutex already.
    #[error("{object} is locked by this worker already")]
    LockedAlready {
        /// The object.
        object: String,
    },
    /// The mutex is not locked by this worker.
    #[error(
        "{object} is not locked by this worker but by {}",
        holder.map_or_else(|| "nobody".to_owned(), |holder| format!("worker {holder}"))
    )]
    NotHolder {
        /// The object.
        object: String,
        /// The worker that has locked it.
        holder: Option<u64>,
    },
    /// The mutex is in use, and cannot be deleted.
    #[error("{object} is locked by worker {holder}")]
    InUse {
        /// The object.
        object: String,
        /// The worker that has locked it.
        holder: u64,
    },
    /// The worker that has what is waited for waits for this one, directly or through others.
    #[error("waiting for {object} would never end: worker {holder}, which has it, waits for this one")]
    Deadlock {
        /// The object.
        object: String,
        /// The worker that has it.
        holder: u64,
    },
    /// The semaphore cannot have so many units.
    #[error("{object} would need {units} units, and has at most {maximum}")]
    OverMaximum {
        /// The object.
        object: String,
        /// Units that it would need.
        units: u64,
        /// Units that it may have.
        maximum: u64,
    },
    /// The object was removed while this worker waited at it.
    #[error("{object} was removed by another worker while this one waited")]
    Destroyed {
        /// The object.
        object: String,
    },
    /// The mailbox is closed: nothing can be sent.
    #[error("{object} is closed")]
    Closed {
        /// The object.
        object: String,
    },
    /// The mailbox was created with another capacity.
    #[error("{object} has room for {stored} messages, not for {asked}")]
    OtherCapacity {
        /// The object.
        object: String,
        /// The capacity of its creator.
        stored: u64,
        /// The capacity that it was said to have.
        asked: u64,
    },
    /// serde refused to write the value.
    #[error(
        "the value for {object} cannot be serialised: {message}; use a type that serde can write as CBOR"
    )]
    Unserializable {
        /// The object.
        object: String,
        /// What serde said.
        message: String,
    },
    /// The value is larger than a message may be.
    #[error(
        "the value for {object} has {size} bytes, and messages are limited to {limit}: make it smaller, or raise `Runtime::message_limit`"
    )]
    TooBig {
        /// The object.
        object: String,
        /// Bytes of the encoded value.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// serde refused to read the value, which was written as the same type.
    #[error("the value of {object} cannot be read: {message}")]
    Unreadable {
        /// The object.
        object: String,
        /// What serde said.
        message: String,
    },
    /// There are as many named objects as may be: delete some, or raise
    /// [`Runtime::object_limit`](crate::Runtime::object_limit).
    #[error("{limit} named objects exist already: delete some, or raise `Runtime::object_limit`")]
    TooMany {
        /// Objects allowed.
        limit: usize,
    },
    /// This worker was asked to stop while it waited.
    #[error("this worker should stop")]
    Stopping,
    /// The master is gone, and the run with it.
    #[error("the master is gone: {message}")]
    MasterGone {
        /// What the link said.
        message: String,
    },
}

impl NamedError {
    pub(super) fn refused(object: Object<'_>, asked: &str, answer: Answer) -> NamedError {
        let asked = asked.to_owned();
        let text = object.text();
        let object = text;
        match answer {
            Answer::Missing => NamedError::Missing { object },
            Answer::Unset => NamedError::Unset { object },
            Answer::WrongType { stored } => NamedError::WrongType { object, stored, asked },
            Answer::NoPermission { owner } => NamedError::NoPermission { object, owner },
            Answer::Changed { version } => NamedError::Changed { object, version: Version::new(version) },
            Answer::NotComputing => NamedError::NotComputing { object },
            Answer::LockedAlready => NamedError::LockedAlready { object },
            Answer::LockedBy { holder } => NamedError::NotHolder { object, holder },
            Answer::Deadlock { holder } => NamedError::Deadlock { object, holder },
            Answer::OverMaximum { units, maximum } => NamedError::OverMaximum { object, units, maximum },
            Answer::Destroyed => NamedError::Destroyed { object },
            Answer::Closed => NamedError::Closed { object },
            Answer::TooMany { limit } => NamedError::TooMany { limit },
            other => NamedError::MasterGone {
                message: format!("it says of {object} what is no answer to that: {other:?}"),
            },
        }
    }
}
