//! [`ShmCondvar`]: waiting, with a mutex unlocked meanwhile, until somebody says that its value has changed.
//!
//! A condition has two words in the object of its [`ShmMutex`]: how often it was notified, on which those who wait sleep; and
//! how many they are, which is counted with the mutex locked, so that nobody is told where nobody waits. A waiter that is
//! killed is counted for ever, which costs a system call for each notification, and nothing else.
//!
//! A process that is killed after it has changed the value, and before it has notified, tells nobody. So a waiter looks again
//! after 40 ms at most, whether or not it was notified.

use std::fmt;
use std::time::{Duration, Instant};

use manycore_backends::lock::{FutexLockable, Wait};
use manycore_backends::shm::{Memory, Window};
use manycore_backends::{Futex, LockMethod, PosixShm, ShmBackend};

use super::error::Result;
use super::mutex::{MutexGuard, ShmMutex};
use crate::codec::Value;

/// How long a sleep lasts at most.
const STEP: Duration = Duration::from_millis(40);

/// A condition of a [`ShmMutex`]: see [`ShmMutex::condvar`].
///
/// ```
/// use manycore::Heap;
/// use manycore::shared::ShmMutex;
///
/// let stock: ShmMutex<u32, Heap> = ShmMutex::create_unique("doc-condvar-XXXXXX", &0)?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         stock.update(|units| *units = 5)?;
///         stock.condvar(0).notify_all()
///     });
///     let delivered = stock.condvar(0);
///     let mut locked = delivered.wait_while(stock.lock()?, |units| *units == 0)?;
///     locked.update(|units| *units -= 1)
/// })?;
/// assert_eq!(stock.get()?, 4);
/// # stock.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
#[doc(alias("Netmcore_condition", "pthread_cond_t", "signal", "broadcast"))]
pub struct ShmCondvar<'m, T, B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    mutex: &'m ShmMutex<T, B, L>,
    /// How often it was notified; the next word tells how many wait.
    at: usize,
}

impl<T, B: ShmBackend, L: LockMethod<B>> fmt::Debug for ShmCondvar<'_, T, B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmCondvar").field("of", &self.mutex).field("at", &self.at).finish()
    }
}

impl<'m, T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> ShmCondvar<'m, T, B, L> {
    pub(super) fn new(mutex: &'m ShmMutex<T, B, L>, at: usize) -> Self {
        ShmCondvar { mutex, at }
    }

    /// Unlocks the mutex, waits until somebody notifies, and locks it again. It may also return early, for no reason:
    /// [`wait_while`](ShmCondvar::wait_while) does not.
    ///
    /// # Errors
    /// As [`ShmMutex::lock`]; then the mutex is not locked any more.
    ///
    /// # Panics
    /// If the guard is of another mutex.
    #[doc(alias = "pthread_cond_wait")]
    pub fn wait(&self, guard: MutexGuard<'m, T, B, L>) -> Result<MutexGuard<'m, T, B, L>> {
        self.wait_step(guard, None)
    }

    /// Waits until the condition is no longer true of the value.
    ///
    /// # Errors
    /// As [`wait`](ShmCondvar::wait).
    ///
    /// # Panics
    /// If the guard is of another mutex.
    pub fn wait_while(
        &self,
        mut guard: MutexGuard<'m, T, B, L>,
        mut condition: impl FnMut(&T) -> bool,
    ) -> Result<MutexGuard<'m, T, B, L>> {
        while condition(&guard) {
            guard = self.wait_step(guard, None)?;
        }
        Ok(guard)
    }

    /// Waits until the condition is no longer true of the value, for so long; whether that came.
    ///
    /// # Errors
    /// As [`wait`](ShmCondvar::wait). For the lock it is waited without a limit.
    ///
    /// # Panics
    /// If the guard is of another mutex.
    #[doc(alias("pthread_cond_timedwait", "wait_timeout"))]
    pub fn wait_timeout_while(
        &self,
        mut guard: MutexGuard<'m, T, B, L>,
        limit: Duration,
        mut condition: impl FnMut(&T) -> bool,
    ) -> Result<(MutexGuard<'m, T, B, L>, bool)> {
        let start = Instant::now();
        while condition(&guard) {
            let remaining = limit.saturating_sub(start.elapsed());
            if remaining.is_zero() {
                return Ok((guard, false));
            }
            guard = self.wait_step(guard, Some(remaining))?;
        }
        Ok((guard, true))
    }

    /// Wakes one of those who wait. Whoever changes the value notifies after that, with the mutex locked or not.
    ///
    /// # Errors
    /// [`SharedError::Shm`](super::SharedError::Shm) if the object was cut off, or this is a child of who opened it.
    #[doc(alias("pthread_cond_signal", "signal"))]
    pub fn notify_one(&self) -> Result<()> {
        self.notify(1)
    }

    /// Wakes all who wait.
    ///
    /// # Errors
    /// As [`notify_one`](ShmCondvar::notify_one).
    #[doc(alias("pthread_cond_broadcast", "broadcast"))]
    pub fn notify_all(&self) -> Result<()> {
        self.notify(u32::MAX)
    }

    fn notify(&self, count: u32) -> Result<()> {
        self.mutex.check_generation()?;
        let window = self.mutex.object.memory().window();
        let mut notified = window.load(self.at)?;
        while let Err(now) = window.compare_exchange(self.at, notified, notified.wrapping_add(1))? {
            notified = now;
        }
        if window.load(self.at + 1)? != 0 {
            window.wake(self.at, count, u32::MAX)?;
        }
        Ok(self.mutex.object.intact()?)
    }

    /// One sleep. The value may have changed after it or not.
    fn wait_step(
        &self,
        guard: MutexGuard<'m, T, B, L>,
        limit: Option<Duration>,
    ) -> Result<MutexGuard<'m, T, B, L>> {
        assert!(std::ptr::eq(guard.mutex, self.mutex), "the guard of another mutex");
        self.mutex.check_generation()?;
        let window = self.mutex.object.memory().window();
        let notified = window.load(self.at)?;
        self.count(window, 1)?;
        drop(guard);
        let slept = window.wait(self.at, notified, limit.map_or(STEP, |limit| limit.min(STEP)), u32::MAX);
        let locked = self.mutex.lock_waiting(Wait::Forever);
        slept?;
        // Who cannot lock it any more stays counted: as one who was killed.
        let guard = locked?;
        self.count(window, -1)?;
        Ok(guard)
    }

    /// Changes how many wait; the mutex is locked.
    fn count(&self, window: impl Window, more: i32) -> Result<()> {
        let waiting = window.load(self.at + 1)?;
        Ok(window.store(self.at + 1, waiting.saturating_add_signed(more))?)
    }
}
