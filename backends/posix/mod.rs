//! What else the system has for programs of many processes: terminals and process groups, users, semaphores, advice about
//! files, I/O priorities, the system's log, and what a child forgets after `fork`. Thin, typed and complete.
//!
//! | module | what it is for |
//! |---|---|
//! | [`post_fork`] | handlers that a forked child runs before anything else |
//! | [`process`] | process groups, sessions, users, the limit of open files |
//! | [`terminal`] | foreground process group, names of terminals |
//! | [`semaphore`] | semaphores between processes, with names and in shared memory, with timeouts |
//! | [`file`](mod@file) | advice about reading, room reserved for writing |
//! | [`io_priority`] | whose reads and writes go first |
//! | [`syslog`] | the system's log |
//!
//! All of it is functions and small types of this system, not a contract with several implementations as the other rooms
//! are. There is nothing here that std has, and no second name for what rustix has and does well: those who need that
//! use rustix itself. The types of these crates do not occur in the interface.
//!
//! This module does not start processes ([`spawn`](crate::spawn) does), waits for descriptors ([`poll`](crate::poll)) or
//! maps memory for anything but semaphores ([`shm`](crate::shm)).

pub mod file;
pub mod io_priority;
pub mod post_fork;
pub mod process;
pub mod semaphore;
pub mod syslog;
pub mod terminal;

use std::io;

use rustix::io::Errno;

/// Why the system, or this module before it was asked, refused. (Semaphores have an error of their own:
/// [`SemaphoreError`](semaphore::SemaphoreError).)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PosixError {
    /// There is no such process, group or user with processes, or none that may be meant here: it may have ended.
    #[error("{op} failed: no such process, or group of processes")]
    NoSuchProcess {
        /// The call.
        op: &'static str,
        /// `ESRCH`.
        #[source]
        source: io::Error,
    },
    /// This process has not the right: ask as another user, or with a capability.
    #[error("{op} failed: not permitted: {source}")]
    NotPermitted {
        /// The call.
        op: &'static str,
        /// `EPERM` or `EACCES`.
        #[source]
        source: io::Error,
    },
    /// The descriptor is of something else than a terminal, or of one that does not control this process.
    #[error("{op} failed: not a terminal, or not the one of this session")]
    NotATerminal {
        /// The call.
        op: &'static str,
        /// `ENOTTY`.
        #[source]
        source: io::Error,
    },
    /// There is no room for it: make some, or do with less.
    #[error("{op} failed: no room: {source}")]
    NoRoom {
        /// The call.
        op: &'static str,
        /// `ENOSPC`, `EDQUOT` or `EFBIG`.
        #[source]
        source: io::Error,
    },
    /// What was asked for makes no sense, in any state of the system. It was not asked.
    #[error("{op}: {what}")]
    Invalid {
        /// The call that was not made.
        op: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

impl PosixError {
    /// The system's number of the error, `EPERM` and so on; of [`Invalid`](PosixError::Invalid) it is `EINVAL`.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            PosixError::NoSuchProcess { source, .. }
            | PosixError::NotPermitted { source, .. }
            | PosixError::NotATerminal { source, .. }
            | PosixError::NoRoom { source, .. }
            | PosixError::Io { source, .. } => source.raw_os_error(),
            PosixError::Invalid { .. } => Some(libc::EINVAL),
        }
    }

    fn from_errno(op: &'static str, errno: Errno) -> PosixError {
        PosixError::from_io(op, errno.into())
    }

    /// The error that the C library has just reported to this thread.
    fn last(op: &'static str) -> PosixError {
        PosixError::from_io(op, io::Error::last_os_error())
    }

    /// The variant that says what the caller can do about it.
    fn from_io(op: &'static str, source: io::Error) -> PosixError {
        match source.raw_os_error() {
            Some(libc::ESRCH) => PosixError::NoSuchProcess { op, source },
            Some(libc::EPERM | libc::EACCES) => PosixError::NotPermitted { op, source },
            Some(libc::ENOTTY) => PosixError::NotATerminal { op, source },
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => PosixError::NoRoom { op, source },
            _ => PosixError::Io { op, source },
        }
    }
}
