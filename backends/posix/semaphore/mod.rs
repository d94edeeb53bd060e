//! Semaphores: counters that processes wait for.
//!
//! | kind | found by | lives until |
//! |---|---|---|
//! | [`NamedSemaphore`] | a name of the system | it is unlinked, and everybody has closed it |
//! | [`SemaphoreSet`] | a descriptor, which forked children keep and others are sent | everybody has dropped it |
//!
//! Both lend a [`Semaphore`], which has the operations.
//!
//! ```
//! use manycore_backends::posix::semaphore::{SemaphoreError, SemaphoreSet};
//! use std::time::Duration;
//!
//! let set = SemaphoreSet::new(&[2, 0])?;
//! let places = set.get(0)?;
//! places.wait()?;
//! places.try_wait()?;
//! assert!(matches!(places.try_wait(), Err(SemaphoreError::Busy)));
//! assert!(matches!(places.wait_timeout(Duration::from_millis(1)), Err(SemaphoreError::TimedOut)));
//! places.post()?;
//! assert_eq!(places.value()?, 1);
//! # Ok::<(), SemaphoreError>(())
//! ```
//!
//! # What they are not
//!
//! **Not robust.** A semaphore has no owner. If a process dies between `wait` and `post`, its share is gone for ever, and
//! nobody is told. Who protects something by a semaphore of value 1 wants a lock: those of [`lock`](crate::lock) are
//! released when their holder dies, and tell of deadlocks.
//!
//! **Not fair.** Of several waiters anyone may be next.
//!
//! **Not guarded against their users.** Whoever may write to a semaphore can post as often as it likes, and whoever writes
//! garbage over it can make the others wait for ever, or the C library end their process. It cannot break their memory.
//!
//! This module does not wait for a semaphore and descriptors at once: a semaphore has no descriptor to poll
//! (`rustix::event::eventfd` makes one that counts and has).

mod area;
mod named;
mod raw;
mod set;

use std::ffi::OsString;
use std::io;
use std::time::Duration;

pub use named::NamedSemaphore;
pub use set::SemaphoreSet;

use crate::name::NameError;
use crate::sync::global::AtomicU32;
use area::Area;
use raw::Raw;

/// The highest value of a semaphore.
#[doc(alias("SEM_VALUE_MAX", "sem_value_max"))]
pub const MAX_VALUE: u32 = i32::MAX as u32;

/// Bytes that the C library's semaphore has. (One in a [`SemaphoreSet`] takes a cache line.)
#[doc(alias = "sem_size")]
pub const SIZE: usize = size_of::<libc::sem_t>();

/// A semaphore, lent by its owner: a [`NamedSemaphore`] or a [`SemaphoreSet`].
#[derive(Clone, Copy, Debug)]
#[doc(alias("sem_t", "semaphore", "as_sem"))]
pub struct Semaphore<'a> {
    raw: Raw<'a>,
    /// The mark of one in a set.
    mark: Option<&'a AtomicU32>,
}

impl Semaphore<'_> {
    /// Waits until the value is above zero, and lowers it by one. Signals do not shorten a wait.
    ///
    /// # Errors
    /// [`SemaphoreError::Stale`] if it was destroyed, also while this waits.
    #[doc(alias = "sem_wait")]
    pub fn wait(&self) -> Result<(), SemaphoreError> {
        self.take(|raw| raw.wait())
    }

    /// Lowers the value by one, if it is above zero.
    ///
    /// # Errors
    /// [`SemaphoreError::Busy`] if it is zero; [`SemaphoreError::Stale`] if it was destroyed.
    #[doc(alias = "sem_trywait")]
    pub fn try_wait(&self) -> Result<(), SemaphoreError> {
        self.take(|raw| raw.try_wait())
    }

    /// Waits as [`wait`](Semaphore::wait), but for no longer than `timeout`; if that is zero it only looks.
    ///
    /// Time goes by the monotonic clock (`sem_clockwait`) where the C library can: glibc since 2.30, on 64 bits. Elsewhere
    /// it goes by the time of day, in steps of 200 ms, and is late by up to one step if somebody sets that clock meanwhile.
    ///
    /// # Errors
    /// [`SemaphoreError::TimedOut`] if it stayed at zero; [`SemaphoreError::Stale`] if it was destroyed, also while this
    /// waits.
    #[doc(alias("sem_timedwait", "sem_clockwait"))]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), SemaphoreError> {
        self.take(|raw| raw.wait_timeout(timeout))
    }

    /// Raises the value by one, which wakes a waiter if there is one.
    ///
    /// # Errors
    /// [`SemaphoreError::Overflow`] if it is [`MAX_VALUE`] already; [`SemaphoreError::Stale`] if it was destroyed.
    #[doc(alias = "sem_post")]
    pub fn post(&self) -> Result<(), SemaphoreError> {
        self.fresh()?;
        self.raw.post()
    }

    /// The value, as it was at some moment of the call; 0 if somebody waits.
    ///
    /// # Errors
    /// [`SemaphoreError::Stale`] if it was destroyed.
    #[doc(alias = "sem_getvalue")]
    pub fn value(&self) -> Result<u32, SemaphoreError> {
        self.fresh()?;
        Ok(self.raw.value())
    }

    /// What destroying does first is to set the mark, and then to post. So whoever did not see the mark before waiting is
    /// woken; it sees it then, and passes the post on to the next.
    fn take(&self, how: impl FnOnce(Raw<'_>) -> Result<(), SemaphoreError>) -> Result<(), SemaphoreError> {
        self.fresh()?;
        let result = how(self.raw);
        if let Err(stale) = self.fresh() {
            if result.is_ok() {
                // An overflow says that there are enough for all.
                let _ = self.raw.post();
            }
            return Err(stale);
        }
        result
    }

    fn fresh(&self) -> Result<(), SemaphoreError> {
        match self.mark.map(Area::load) {
            None | Some(set::LIVE) => Ok(()),
            Some(_) => Err(SemaphoreError::Stale),
        }
    }
}

/// Why a semaphore could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SemaphoreError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no semaphore of this name: create it, or check the name.
    #[error("no semaphore {name:?}")]
    NotFound {
        /// The name asked for.
        name: OsString,
    },
    /// There is a semaphore of this name already: open it, or choose another name.
    #[error("semaphore {name:?} exists already")]
    AlreadyExists {
        /// The name asked for.
        name: OsString,
    },
    /// The value is zero.
    #[error("the semaphore is at zero")]
    Busy,
    /// The value was zero all the time.
    #[error("the semaphore stayed at zero until the timeout")]
    TimedOut,
    /// The value is [`MAX_VALUE`] already: somebody posts without anybody waiting.
    #[error("the semaphore is at its highest value")]
    Overflow {
        /// `EOVERFLOW`.
        #[source]
        source: io::Error,
    },
    /// A semaphore cannot begin with this value.
    #[error("a semaphore cannot have the value {value}: at most {MAX_VALUE} is possible")]
    ValueTooLarge {
        /// The value asked for.
        value: u32,
    },
    /// Somebody destroyed the semaphore: nobody can use it any more.
    #[error("the semaphore was destroyed: make a new set")]
    Stale,
    /// The set has no semaphore of this number.
    #[error("the set has {count} semaphores, and so none of number {index}")]
    OutOfRange {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A set has at least one semaphore, and at most so many.
    #[error("a set cannot have {count} semaphores: 1 to {max} are possible")]
    BadCount {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        max: usize,
    },
    /// The descriptor is not that of a [`SemaphoreSet`], or of one made by a program with another C library.
    #[error("the descriptor is not one of a set of semaphores: {what}")]
    NotASemaphoreSet {
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
