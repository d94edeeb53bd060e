//! [`ShmSemaphore`]: a number of units that processes take and give, in shared memory.
//!
//! | word | content |
//! |---|---|
//! | 512 | units, at most 2^31 - 1 |
//! | 528 | who waits for one: an event |
//!
//! It is that of POSIX: a unit belongs to nobody, and whoever likes gives one. So it tells how much there is of something,
//! and a unit that was taken by somebody who is killed is gone. For units that come back then there is
//! [`ShmPermits`](super::ShmPermits).
//!
//! Taking and giving are one compare-and-exchange each, so that no death leaves half of it; a system call is made only to
//! wait, and to wake who waits.

use std::fmt;
use std::time::Duration;

use manycore_backends::generation::Generation;
use manycore_backends::lock::{FutexLockable, Protocol, Wait};
use manycore_backends::patience::CommonPatience;
use manycore_backends::shm::{Memory, Window};
use manycore_backends::{PosixShm, ShmBackend};

use super::error::{Result, SharedError};
use super::event::{Awaited, Ended, Event, wait_for};
use super::object::{ASKED, BODY, Kind, Plan, Sealed, Shared, forked, opening};

const UNITS: usize = BODY;
const WAITING: Event = Event(BODY + 16);
const WORDS: u64 = BODY as u64 + 32;

/// The most units there can be.
const MAX: u32 = i32::MAX as u32;

/// A semaphore in shared memory, as that of POSIX: a number of units, from 0 to 2^31 - 1, that processes take and give. A unit
/// belongs to nobody: what was taken by somebody who is killed is gone. [`ShmPermits`](super::ShmPermits) come back then.
///
/// ```
/// use manycore::shared::{SharedError, ShmSemaphore};
///
/// let semaphore: ShmSemaphore = ShmSemaphore::create_unique("/manycore-doc-semaphore-XXXXXX", &1)?;
/// semaphore.wait()?;
/// assert!(matches!(semaphore.try_wait(), Err(SharedError::Empty)));
/// semaphore.post()?;
/// assert_eq!(semaphore.value()?, 1);
/// # semaphore.unlink()?;
/// # Ok::<(), SharedError>(())
/// ```
#[doc(alias("sem_open", "sem_t", "Netmcore_sem"))]
pub struct ShmSemaphore<B: ShmBackend = PosixShm> {
    object: B,
    generation: Generation,
    patience: CommonPatience,
}

impl<B: ShmBackend> fmt::Debug for ShmSemaphore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmSemaphore").field("object", &self.object).finish_non_exhaustive()
    }
}

impl<B: ShmBackend + FutexLockable> Shared for ShmSemaphore<B> {
    type Backend = B;
    type Asked = u32;
}

impl<B: ShmBackend + FutexLockable> Sealed<B, u32> for ShmSemaphore<B> {
    const KIND: Kind = Kind::Semaphore;
    const PROTOCOL: Protocol = Protocol::NONE;

    fn plan(units: &u32) -> Result<Plan> {
        if *units > MAX {
            return Err(SharedError::Impossible("a semaphore has at most 2^31 - 1 units"));
        }
        Ok(Plan { asked: [0; ASKED], words: WORDS, body: vec![*units] })
    }

    fn attach(object: B, _asked: [u32; ASKED]) -> Result<Self> {
        if (object.memory().words() as u64) < WORDS {
            return Err(SharedError::Corrupt {
                at: BODY,
                what: "a semaphore that is longer than its object",
            });
        }
        Ok(ShmSemaphore { object, generation: Generation::current(), patience: CommonPatience::default() })
    }

    fn check(&self, _units: &u32) -> Result<()> {
        Ok(())
    }
}

impl<B: ShmBackend + FutexLockable> ShmSemaphore<B> {
    opening!(&u32, "semaphore", units);

    /// Takes a unit; waits for one if there is none.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if the object was cut off, or this is a child of who opened it; [`SharedError::Corrupt`].
    #[doc(alias("sem_wait", "decrement", "acquire"))]
    pub fn wait(&self) -> Result<()> {
        self.take(Wait::Forever)
    }

    /// Takes a unit if there is one.
    ///
    /// # Errors
    /// [`SharedError::Empty`] if there is none; else as [`wait`](ShmSemaphore::wait).
    #[doc(alias = "sem_trywait")]
    pub fn try_wait(&self) -> Result<()> {
        self.take(Wait::Try)
    }

    /// Takes a unit; waits for one for so long.
    ///
    /// # Errors
    /// [`SharedError::TimedOut`] if none came; else as [`wait`](ShmSemaphore::wait).
    #[doc(alias = "sem_timedwait")]
    pub fn wait_timeout(&self, limit: Duration) -> Result<()> {
        self.take(Wait::AtMost(limit))
    }

    /// Gives a unit, and wakes somebody who waits for one.
    ///
    /// # Errors
    /// [`SharedError::TooManyUnits`] if there are 2^31 - 1 already; else as [`wait`](ShmSemaphore::wait).
    #[doc(alias("sem_post", "increment", "release"))]
    #[inline]
    pub fn post(&self) -> Result<()> {
        let window = self.window()?;
        let mut units = window.load(UNITS)?;
        loop {
            if units >= MAX {
                return Err(SharedError::TooManyUnits(units));
            }
            match window.compare_exchange(UNITS, units, units + 1)? {
                Ok(_) => break,
                Err(now) => units = now,
            }
        }
        self.object.intact()?;
        WAITING.wake_one(window)
    }

    /// How many units there are just now.
    ///
    /// # Errors
    /// As [`wait`](ShmSemaphore::wait).
    #[doc(alias = "sem_getvalue")]
    pub fn value(&self) -> Result<u32> {
        let units = self.window()?.load(UNITS)?;
        self.object.intact()?;
        Ok(units)
    }

    #[inline(always)]
    fn window(&self) -> Result<<B::Memory as Memory>::Window<'_>> {
        if self.generation.is_current() {
            Ok(self.object.memory().window())
        } else {
            Err(forked(&self.object))
        }
    }

    #[inline]
    fn take(&self, wait: Wait) -> Result<()> {
        let taking = Taking(self.window()?);
        let taken = wait_for(&self.object, WAITING, &self.patience, wait, taking)?;
        self.object.intact()?;
        taken.map_err(|ended| match ended {
            Ended::AtOnce => SharedError::Empty,
            Ended::TimedOut => SharedError::TimedOut,
        })
    }
}

/// Somebody who wants a unit.
struct Taking<W>(W);

impl<W: Window> Awaited for Taking<W> {
    type Output = ();

    #[inline(always)]
    fn attempt(&mut self) -> Result<Option<()>> {
        let mut units = self.0.load(UNITS)?;
        while units != 0 {
            match self.0.compare_exchange(UNITS, units, units - 1)? {
                Ok(_) => return Ok(Some(())),
                Err(now) => units = now,
            }
        }
        Ok(None)
    }

    /// Nobody in particular is waited for.
    fn bury(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn is_more(&self) -> Result<bool> {
        Ok(self.0.load(UNITS)? != 0)
    }
}
