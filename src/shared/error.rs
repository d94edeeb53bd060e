//! Why something in shared memory could not be opened or used.
//!
//! This module has only the words.

use std::ffi::OsString;

use manycore_backends::lock::{LockError, Protocol};
use manycore_backends::shm::{OutOfBounds, ShmError};

use crate::codec::CodecError;

/// Why a queue, mutex, semaphore or set of permits could not be opened, or an operation not be done. Unless said otherwise, it
/// is as it was before the operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// The shared object could not be opened, or not grow.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// The lock was not granted; or it could not be found out who is alive.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A value has no encoding; or what was found is of another type: all users must use the type that it was made with.
    #[error(
        "the value is not of its type, or cannot be written: {0}; all users of an object must use the same type"
    )]
    Codec(#[from] CodecError),
    /// The object is something else than was asked for: check the name. It was not changed.
    #[error("{name:?} is no {wanted}: {found}")]
    NotThis {
        /// The object.
        name: OsString,
        /// What was asked for.
        wanted: &'static str,
        /// What was found instead.
        found: &'static str,
    },
    /// The object is of another version of this library.
    #[error("{name:?} has format {found}, and this library reads format {expected}: make it anew")]
    Format {
        /// The object.
        name: OsString,
        /// The format of this library.
        expected: u32,
        /// The format of the object.
        found: u32,
    },
    /// Whoever created the object has not finished, or died before: create it (anew), or remove it.
    #[error(
        "the creation of {name:?} is not finished: if its creator died, open it for creation, or unlink it"
    )]
    Unfinished {
        /// The object.
        name: OsString,
    },
    /// The object exists already, with another capacity: open it without saying one.
    #[error(
        "{name:?} has room for {messages} messages of {words} words, which is not what was asked for: open it as it is"
    )]
    Capacity {
        /// The object.
        name: OsString,
        /// Messages that it has room for.
        messages: usize,
        /// The longest message that it takes, in words.
        words: usize,
    },
    /// Such an object is not possible.
    #[error("such an object is not possible: {0}")]
    Impossible(&'static str),
    /// The users of the object lock it in another way: choose the same lock method.
    #[error("{name:?} is locked by {found}, and was opened with {expected}: all users must lock alike")]
    Protocol {
        /// The object.
        name: OsString,
        /// The protocol of the lock method asked for.
        expected: Protocol,
        /// The protocol recorded in the object.
        found: Protocol,
    },
    /// The message is longer than the queue takes.
    #[error("a message of {words} words is too long for a queue that takes {max}")]
    TooLong {
        /// Words in the message.
        words: usize,
        /// Words in the longest possible one.
        max: usize,
    },
    /// The message has no such words.
    #[error("there is no word {last} in a message of {words} words")]
    NoSuchWord {
        /// The last word asked for.
        last: usize,
        /// Words in the message.
        words: usize,
    },
    /// There is no room in the queue just now, and waiting was not allowed.
    #[error("the queue is full")]
    Full,
    /// There is nothing in the queue just now, or no unit, and waiting was not allowed.
    #[error("there is nothing just now")]
    Empty,
    /// Nothing came in the time allowed.
    #[error("nothing came in the time allowed")]
    TimedOut,
    /// The queue was closed: nothing can be sent any more, and what was in it has been received.
    #[error("the queue {name:?} was closed")]
    Closed {
        /// The object.
        name: OsString,
    },
    /// The semaphore has as many units as it can have.
    #[error("the semaphore has {0} units, and there cannot be more")]
    TooManyUnits(u32),
    /// The object contradicts itself: somebody else has written to it. Remove it and make it anew.
    #[error("damaged at word {at}: {what}")]
    Corrupt {
        /// Where, in words from the beginning.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

impl From<OutOfBounds> for SharedError {
    #[cold]
    fn from(error: OutOfBounds) -> SharedError {
        SharedError::Corrupt { at: error.at, what: "a place outside of the object" }
    }
}

pub(super) type Result<T, E = SharedError> = std::result::Result<T, E>;
