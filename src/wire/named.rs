//! What is said about named objects: variables, mutexes, semaphores and mailboxes.
//!
//! A worker asks one thing at a time, by a [`Call`] with a number of its own, and gets one [`Answer`] with that number;
//! what it only tells ([`Told`]) is not answered. A call that waits ends early by [`Told::Cancel`], which is answered in
//! its place, by [`Answer::Cancelled`] or by what had happened before.
//!
//! This module gives no meaning to any of that: `named` and its registry do.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value in CBOR, shared by all who are told of it. It is written as nothing: what it is [comes last](super) in the
/// message that it is in. There is at most one in a message.
#[derive(Clone, Default)]
pub(crate) struct Bytes(Arc<End>);

/// The end of some memory: that of a message, or all of it.
#[derive(Default)]
struct End {
    memory: Vec<u8>,
    start: usize,
}

impl Bytes {
    /// The last `count` bytes of these, or all; they stay in their memory if they have one of their own.
    pub(crate) fn end_of(bytes: Cow<'_, [u8]>, count: usize) -> Bytes {
        let start = bytes.len().saturating_sub(count);
        Bytes(Arc::new(match bytes {
            Cow::Borrowed(bytes) => End { memory: bytes[start..].to_vec(), start: 0 },
            Cow::Owned(memory) => End { memory, start },
        }))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(memory: Vec<u8>) -> Bytes {
        Bytes(Arc::new(End { memory, start: 0 }))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.memory[self.0.start..]
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        <()>::deserialize(deserializer).map(|()| Bytes::default())
    }
}

/// The value in an operation, if there is one: a reference like that to the operation.
macro_rules! value_of_operation {
    ($operation:expr) => {{
        use $crate::wire::named::{OfMailbox, OfVariable, Operation};
        match $operation {
            Operation::Variable {
                action:
                    OfVariable::Create { value: Some(value), .. }
                    | OfVariable::Set { value, .. }
                    | OfVariable::Computed { value },
                ..
            }
            | Operation::Mailbox { action: OfMailbox::Send { message: value }, .. } => Some(value),
            _ => None,
        }
    }};
}
pub(super) use value_of_operation;

/// The same of an answer.
macro_rules! value_of_answer {
    ($answer:expr) => {
        match $answer {
            $crate::wire::named::Answer::Value { value, .. }
            | $crate::wire::named::Answer::Message(value) => Some(value),
            _ => None,
        }
    };
}
pub(super) use value_of_answer;

/// Something that a worker asks about a named object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) wait: Wait,
    pub(crate) operation: Operation,
}

/// Whether the answer may take its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wait {
    /// No: [`Answer::WouldWait`] instead.
    No,
    /// Until the caller cancels.
    Some,
    /// Yes, and the caller waits for nothing else.
    ForEver,
}

/// What is asked of which object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Operation {
    Variable { name: String, kind: u64, action: OfVariable },
    Mutex { name: String, action: OfMutex },
    Semaphore { name: String, action: OfSemaphore },
    Mailbox { name: String, kind: u64, capacity: u64, action: OfMailbox },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OfVariable {
    /// [`Answer::Created`].
    Create { options: VariableOptions, type_name: String, value: Option<Bytes> },
    /// [`Answer::Value`], also for those below; only if it is newer than that, else [`Answer::WouldWait`].
    Get { newer_than: u64 },
    /// Of a variable that exists; [`Answer::Version`].
    Version,
    /// [`Answer::Version`]. If it is to have a version now and has another one, [`Answer::Changed`].
    Set { value: Bytes, expected: Option<u64> },
    /// [`Answer::Removed`].
    Delete,
    /// [`Answer::Value`], or [`Answer::Compute`] for one at a time.
    GetLazily,
    /// What the one has computed: [`Answer::Value`].
    Computed { value: Bytes },
}

/// What a variable is from its creation on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VariableOptions {
    pub(crate) owned: bool,
    pub(crate) constant: bool,
    pub(crate) idle: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OfMutex {
    /// [`Answer::Locked`].
    Lock,
    /// [`Answer::Done`].
    Unlock,
    /// [`Answer::Removed`].
    Delete,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OfSemaphore {
    /// [`Answer::Created`].
    Create {
        units: u64,
        maximum: Option<u64>,
        protected: bool,
    },
    /// [`Answer::Units`], also for those below.
    Get,
    Increment {
        by: u64,
    },
    Decrement {
        by: u64,
    },
    /// [`Answer::Removed`].
    Destroy,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OfMailbox {
    /// [`Answer::Created`].
    Open { type_name: String },
    /// [`Answer::Done`].
    Send { message: Bytes },
    /// [`Answer::Message`], which [`Told::Confirmed`] confirms.
    Receive,
    /// [`Answer::Fill`].
    Length,
    /// [`Answer::Done`].
    Close,
    /// [`Answer::Removed`].
    Delete,
}

/// What a worker tells of named objects, and hears nothing of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// It does not wait for this answer any more.
    Cancel { call: u64 },
    /// It has what the answer to this call gave it: a message, or a mutex for which it had waited.
    Confirmed { call: u64 },
    /// It gives up the mutex that it got with this fence.
    Unlock { name: String, fence: u64, abandoned: bool },
    /// It gives units back, if the semaphore is the one that it took them from.
    Increment { name: String, by: u64, since: u64 },
    /// It does not compute the variable.
    Uncomputed { name: String },
    /// It wants to be told by `Ready`, once, when the condition is true.
    Watch { watch: u64, condition: Condition },
    /// It does not want that any more.
    Unwatch { watch: u64 },
}

/// What can be waited for at several objects at once: that an operation would not wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Condition {
    Newer {
        name: String,
        kind: u64,
        than: u64,
    },
    Lockable {
        name: String,
    },
    Available {
        name: String,
        units: u64,
    },
    Receivable {
        name: String,
        kind: u64,
        capacity: u64,
    },
    Sendable {
        name: String,
        kind: u64,
        capacity: u64,
    },
    /// A worker has ended.
    Ended {
        id: u64,
    },
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    /// Whether it was there before no more.
    Created(bool),
    Removed(bool),
    /// Nothing was done, as the caller does not wait.
    WouldWait,
    /// Nothing was done, as the caller has cancelled.
    Cancelled,
    Value {
        version: u64,
        value: Bytes,
    },
    Version(u64),
    /// The caller is the one to compute it.
    Compute,
    /// If it is to be confirmed, by [`Told::Confirmed`]: the caller had waited, and might not wait any more.
    Locked {
        fence: u64,
        abandoned: bool,
        confirm: bool,
    },
    /// Of the semaphore that was the how manieth to be made.
    Units {
        units: u64,
        since: u64,
    },
    Message(Bytes),
    Fill {
        messages: u64,
    },

    // What went wrong.
    Missing,
    Unset,
    WrongType {
        stored: String,
    },
    NoPermission {
        owner: Option<u64>,
    },
    Changed {
        version: u64,
    },
    NotComputing,
    /// It is locked by the caller.
    LockedAlready,
    /// It is locked by this one, or by nobody.
    LockedBy {
        holder: Option<u64>,
    },
    Deadlock {
        holder: u64,
    },
    OverMaximum {
        units: u64,
        maximum: u64,
    },
    Destroyed,
    Closed,
    OtherCapacity {
        stored: u64,
    },
    TooMany {
        limit: usize,
    },
}

/// A named object, as the `manycore` command shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObjectInfo {
    /// A [`SharedVar`](crate::SharedVar).
    #[non_exhaustive]
    Variable {
        /// Its name.
        name: String,
        /// The type of its values, as its creator wrote it.
        type_name: String,
        /// How often any variable had been set when this one was: 0 if it never was.
        version: u64,
        /// Bytes of its value's CBOR, if it has one.
        bytes: Option<u64>,
        /// The number of the worker that owns it.
        owner: Option<u64>,
        /// Whether it cannot be changed.
        constant: bool,
        /// Workers that wait for a value.
        waiters: Vec<u64>,
    },
    /// A [mutex](crate::named::Mutex).
    #[non_exhaustive]
    Mutex {
        /// Its name.
        name: String,
        /// The number of the worker that has locked it.
        holder: Option<u64>,
        /// Workers that wait for it, the next one first.
        waiters: Vec<u64>,
    },
    /// A [semaphore](crate::named::Semaphore).
    #[non_exhaustive]
    Semaphore {
        /// Its name.
        name: String,
        /// Units that are to be had.
        units: u64,
        /// Units that it may have.
        maximum: Option<u64>,
        /// Whether workers that end give back what they have taken.
        protected: bool,
        /// Workers that wait for units, the next one first.
        waiters: Vec<u64>,
    },
    /// A [`Mailbox`](crate::Mailbox).
    #[non_exhaustive]
    Mailbox {
        /// Its name.
        name: String,
        /// The type of its messages, as its creator wrote it.
        type_name: String,
        /// Messages in it.
        messages: u64,
        /// Messages that it has room for.
        capacity: u64,
        /// Bytes of the CBOR of all messages in it.
        bytes: u64,
        /// Whether nothing more can be sent.
        closed: bool,
        /// Workers that wait for room, the next one first.
        senders: Vec<u64>,
        /// Workers that wait for messages, the next one first.
        receivers: Vec<u64>,
    },
}
