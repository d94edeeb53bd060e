//! Why an operation on a table failed.
//!
//! This module has only the words: what is wrong is found by those who look, and repaired by nobody here.

use std::ffi::OsString;
use std::io;

use manycore_backends::lock::{LockError, Protocol};
use manycore_backends::shm::{OutOfBounds, ShmError};

/// Why a table could not be opened, or an operation not be done. Unless said otherwise, the table is as it
/// was before the operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The shared object could not be opened, or not grow.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// The lock was not granted.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The object is something else than a table: check the name. It was not changed.
    #[error("{name:?} is not a table: {why}")]
    NotATable {
        /// The object.
        name: OsString,
        /// What was found instead.
        why: &'static str,
    },
    /// The table is of another version of this library.
    #[error(
        "{name:?} has table format {found}, and this library reads format {expected}: copy it with the version that wrote it"
    )]
    Format {
        /// The object.
        name: OsString,
        /// The format of this library.
        expected: u32,
        /// The format of the object.
        found: u32,
    },
    /// Whoever created the table has not finished, or died before: create it (anew), or remove the object.
    #[error(
        "the creation of table {name:?} is not finished: wait for its creator; if that one died, open it for creation, or unlink it"
    )]
    Unfinished {
        /// The object.
        name: OsString,
    },
    /// The table has another page size: ask for that one, or for none.
    #[error(
        "{name:?} has pages of {found} bytes, not of {expected}: open it with that page size, or without saying one"
    )]
    PageSize {
        /// The object.
        name: OsString,
        /// The page size asked for, in bytes.
        expected: usize,
        /// The page size of the table, in bytes.
        found: usize,
    },
    /// The users of the table lock it in another way: choose the same lock method.
    #[error("{name:?} is locked by {found}, and was opened with {expected}: all users must lock alike")]
    Protocol {
        /// The object.
        name: OsString,
        /// The protocol of the lock method asked for.
        expected: Protocol,
        /// The protocol recorded in the table.
        found: Protocol,
    },
    /// The table was opened for reading only.
    #[error("{name:?} was opened for reading only: open it for writing")]
    ReadOnly {
        /// The object.
        name: OsString,
    },
    /// A writer died in the middle of a change, and this handle, which only reads, cannot undo it: open the table
    /// for writing, once. A handle that only reads, and cannot lock the table ([`Changed`](TableError::Changed)), says so
    /// also of a writer that was at work for more than a second, if it waits for ever.
    #[error("{name:?} was left in the middle of a change: open it for writing once, which undoes it")]
    Interrupted {
        /// The object.
        name: OsString,
    },
    /// This handle only reads, and its lock method cannot lock without writing ([`Futex`](crate::Futex)): so nothing
    /// kept others from changing the table during an iteration or group of lookups. Do it again, or open the table for
    /// writing.
    #[error("{name:?} was changed while it was looked at through a handle that only reads: look again")]
    Changed {
        /// The object.
        name: OsString,
    },
    /// A visitor of [`write_blocks`](crate::ShmTable::write_blocks) answered that a binding is to be removed:
    /// announce [`Removal`](super::Announced::Removal).
    #[error("removing a binding was not announced to write_blocks")]
    NotAnnounced,
    /// A fragment does not have the words asked for.
    #[error("words {index} to {index}+{count} are outside of a fragment of {len} words")]
    OutOfFragment {
        /// The first word asked for.
        index: usize,
        /// How many were asked for.
        count: usize,
        /// How many there are.
        len: usize,
    },
    /// What [`dump`](crate::ShmTable::dump) writes to did not take it.
    #[error("the dump could not be written: {0}")]
    Dump(#[source] io::Error),
    /// The page size asked for is impossible.
    #[error("page size {0} is impossible: it must be from 160 bytes to 1 MiB and divisible by 4")]
    BadPageSize(usize),
    /// The value is too long for a table.
    #[error("a value of {words} words is too long: at most {max} are possible")]
    ValueTooLong {
        /// Words in the value.
        words: usize,
        /// Words possible.
        max: usize,
    },
    /// The table has as many words as the format allows (2^32), or one group has changed more words than its journal can
    /// have entries (16 million; a binding given up counts for 16): do it in several groups.
    #[error("the table or its journal has reached the limit of the format")]
    FormatFull,
    /// The contents of the object contradict the format: somebody else wrote to it, or it was cut off.
    #[error("the table is corrupt at word {at}: {what}")]
    #[doc(alias = "Corrupt_file")]
    Corrupt {
        /// The place of the contradiction, in words from the beginning of the object.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

impl TableError {
    /// The same error, for another who must be told; of those with which a change of a word can fail.
    #[cold]
    pub(super) fn again(&self) -> TableError {
        let twin = |source: &io::Error| {
            source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error)
        };
        match self {
            TableError::Shm(ShmError::Full { name, bytes, source }) => {
                ShmError::Full { name: name.clone(), bytes: *bytes, source: twin(source) }.into()
            }
            TableError::Shm(ShmError::TooLarge { name, bytes, max }) => {
                ShmError::TooLarge { name: name.clone(), bytes: *bytes, max: *max }.into()
            }
            TableError::Shm(ShmError::Truncated { name, known, found }) => {
                ShmError::Truncated { name: name.clone(), known: *known, found: *found }.into()
            }
            TableError::Shm(ShmError::Io { op, name, source }) => {
                ShmError::Io { op, name: name.clone(), source: twin(source) }.into()
            }
            TableError::Corrupt { at, what } => TableError::Corrupt { at: *at, what },
            _ => TableError::FormatFull,
        }
    }
}

impl From<OutOfBounds> for TableError {
    #[cold]
    fn from(error: OutOfBounds) -> TableError {
        TableError::Corrupt { at: error.at, what: "a place outside of the object" }
    }
}

// Writers hand errors on through many hands; a box is all that each of them has to carry.

impl From<Box<TableError>> for TableError {
    #[cold]
    fn from(error: Box<TableError>) -> TableError {
        *error
    }
}

impl From<OutOfBounds> for Box<TableError> {
    #[cold]
    fn from(error: OutOfBounds) -> Box<TableError> {
        Box::new(error.into())
    }
}

impl From<ShmError> for Box<TableError> {
    #[cold]
    fn from(error: ShmError) -> Box<TableError> {
        Box::new(error.into())
    }
}

/// What one of a writer's steps gives.
pub(super) type Work<T> = std::result::Result<T, Box<TableError>>;

pub(super) type Result<T, E = TableError> = std::result::Result<T, E>;
