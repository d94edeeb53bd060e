//! [`ShmPermits`]: units that belong to whoever has taken them, in shared memory, and come back when that one dies.
//!
//! | word | content |
//! |---|---|
//! | 512 | who waits for a permit: an event |
//! | 528 | where somebody found a permit last: where the next one begins to look |
//! | 544 + i | permit i: 0, or 1 + the number of the user who has it |
//!
//! Taking a permit is one compare-and-exchange, which says both that it is taken and whose it is; so there is no moment in
//! which a death could lose it. A user is a handle: see [`Presence`]. Whoever finds none, and waits, asks after 10 ms and then
//! every 40 ms at most whether those who have them are alive, and who only tries asks at once.

use std::fmt;
use std::time::Duration;

use manycore_backends::lock::{FutexLockable, Presence, Protocol, USERS, Wait};
use manycore_backends::patience::CommonPatience;
use manycore_backends::shm::{Memory, Window};
use manycore_backends::{PosixShm, ShmBackend};

use super::error::{Result, SharedError};
use super::event::{Awaited, Ended, Event, wait_for};
use super::object::{ASKED, BODY, Kind, Plan, Sealed, Shared, forked, opening};

const WAITING: Event = Event(BODY);
const HINT: usize = BODY + 16;
const FIRST: usize = BODY + 32;

/// The most permits there can be: looking for one is looking at all, if need be.
const MAX: u32 = 1 << 16;

/// A number of permits in shared memory: so many users may do something at the same time. A permit belongs to the handle by
/// which it was acquired, and comes back when that is dropped, or its process dies: whoever waits finds that out within
/// 50 ms, and whoever only tries at once.
///
/// ```
/// use manycore::shared::ShmPermits;
///
/// let permits: ShmPermits = ShmPermits::create_unique("/manycore-doc-permits-XXXXXX", &2)?;
/// let first = permits.acquire()?;
/// let second = permits.acquire()?;
/// assert!(permits.try_acquire().is_err());
/// drop(first);
/// assert_eq!(permits.available()?, 1);
/// # drop(second);
/// # permits.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
#[doc(alias("Netplex_semaphore", "protected", "SEM_UNDO", "semaphore"))]
pub struct ShmPermits<B: ShmBackend = PosixShm> {
    object: B,
    presence: Presence,
    units: u32,
    patience: CommonPatience,
}

impl<B: ShmBackend> fmt::Debug for ShmPermits<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmPermits")
            .field("object", &self.object)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

impl<B: ShmBackend + FutexLockable> Shared for ShmPermits<B> {
    type Backend = B;
    type Asked = u32;
}

impl<B: ShmBackend + FutexLockable> Sealed<B, u32> for ShmPermits<B> {
    const KIND: Kind = Kind::Permits;
    const PROTOCOL: Protocol = Protocol::NONE;

    fn plan(units: &u32) -> Result<Plan> {
        if !(1..=MAX).contains(units) {
            return Err(SharedError::Impossible("there are 1 to 2^16 permits"));
        }
        let mut asked = [0; ASKED];
        asked[0] = *units;
        Ok(Plan { asked, words: FIRST as u64 + u64::from(*units), body: Vec::new() })
    }

    fn attach(object: B, asked: [u32; ASKED]) -> Result<Self> {
        let units = asked[0];
        if !(1..=MAX).contains(&units) || object.memory().words() < FIRST + units as usize {
            return Err(SharedError::Corrupt { at: 8, what: "more permits than the object has room for" });
        }
        let mut forgotten = Ok(());
        let presence = Presence::enter(&object, |number| {
            forgotten = forget(object.memory().window(), units, number);
        })?;
        forgotten?;
        Ok(ShmPermits { object, presence, units, patience: CommonPatience::default() })
    }

    fn check(&self, _units: &u32) -> Result<()> {
        Ok(())
    }
}

/// Gives back all permits of a user who is dead, and whose number nobody can get meanwhile.
fn forget(window: impl Window, units: u32, number: u32) -> Result<()> {
    for place in FIRST..FIRST + units as usize {
        if window.load(place)? == number + 1 {
            let _ = window.compare_exchange(place, number + 1, 0)?;
        }
    }
    Ok(())
}

impl<B: ShmBackend + FutexLockable> ShmPermits<B> {
    opening!(&u32, "set of permits", units);

    /// How many there are, taken or not.
    pub fn total(&self) -> u32 {
        self.units
    }

    /// How many are not taken just now. (Those of a user who died count as taken until somebody waits for one.)
    ///
    /// # Errors
    /// As [`acquire`](ShmPermits::acquire).
    pub fn available(&self) -> Result<u32> {
        let window = self.window()?;
        let mut available = 0;
        for place in FIRST..FIRST + self.units as usize {
            available += u32::from(window.load(place)? == 0);
        }
        self.object.intact()?;
        Ok(available)
    }

    /// Takes a permit; waits for one if there is none.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if the object was cut off, or this is a child of who opened it; [`SharedError::Lock`] if the
    /// system does not tell who is alive.
    pub fn acquire(&self) -> Result<Permit<'_, B>> {
        self.acquire_waiting(Wait::Forever)
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    /// [`SharedError::Empty`] if there is none; else as [`acquire`](ShmPermits::acquire).
    pub fn try_acquire(&self) -> Result<Permit<'_, B>> {
        self.acquire_waiting(Wait::Try)
    }

    /// Takes a permit; waits for one for so long.
    ///
    /// # Errors
    /// [`SharedError::TimedOut`] if none came; else as [`acquire`](ShmPermits::acquire).
    pub fn acquire_timeout(&self, limit: Duration) -> Result<Permit<'_, B>> {
        self.acquire_waiting(Wait::AtMost(limit))
    }

    fn acquire_waiting(&self, wait: Wait) -> Result<Permit<'_, B>> {
        let acquiring = Acquiring { permits: self, window: self.window()? };
        let acquired = wait_for(&self.object, WAITING, &self.patience, wait, acquiring)?;
        let permit = acquired.map(|place| Permit { permits: self, place });
        self.object.intact()?;
        permit.map_err(|ended| match ended {
            Ended::AtOnce => SharedError::Empty,
            Ended::TimedOut => SharedError::TimedOut,
        })
    }

    #[inline(always)]
    fn window(&self) -> Result<<B::Memory as Memory>::Window<'_>> {
        if self.presence.is_current() { Ok(self.object.memory().window()) } else { Err(forked(&self.object)) }
    }
}

/// A permit that was taken; given back when it is dropped, or when the process dies.
#[must_use = "it is given back at once if it is not kept"]
pub struct Permit<'p, B: ShmBackend + FutexLockable = PosixShm> {
    permits: &'p ShmPermits<B>,
    place: usize,
}

impl<B: ShmBackend + FutexLockable> fmt::Debug for Permit<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("of", &self.permits).finish_non_exhaustive()
    }
}

impl<B: ShmBackend + FutexLockable> Drop for Permit<'_, B> {
    fn drop(&mut self) {
        // In a child it is the parent's.
        let Ok(window) = self.permits.window() else { return };
        if let Ok(Ok(_)) = window.compare_exchange(self.place, self.permits.presence.number() + 1, 0) {
            let _ = WAITING.wake_one(window);
        }
    }
}

/// Somebody who wants a permit.
struct Acquiring<'p, B: ShmBackend + FutexLockable> {
    permits: &'p ShmPermits<B>,
    window: <B::Memory as Memory>::Window<'p>,
}

impl<B: ShmBackend + FutexLockable> Awaited for Acquiring<'_, B> {
    /// Where the permit is.
    type Output = usize;

    fn attempt(&mut self) -> Result<Option<usize>> {
        let units = self.permits.units;
        let first = self.window.load(HINT)? % units;
        for index in (first..units).chain(0..first) {
            let place = FIRST + index as usize;
            let is_free = self.window.load(place)? == 0;
            if is_free && self.window.compare_exchange(place, 0, self.permits.presence.number() + 1)?.is_ok()
            {
                if index != first {
                    self.window.store(HINT, index)?;
                }
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn bury(&mut self) -> Result<bool> {
        let mut asked = [0u32; USERS.div_ceil(32) as usize];
        let mut any = false;
        for place in FIRST..FIRST + self.permits.units as usize {
            let found = self.window.load(place)?;
            let Some(number) = found.checked_sub(1) else { continue };
            let Some(bits) = asked.get_mut((number / 32) as usize) else {
                // Nobody has a number beyond: it is damage.
                any |= self.window.compare_exchange(place, found, 0)?.is_ok();
                continue;
            };
            let bit = 1 << (number % 32);
            if *bits & bit != 0 {
                continue;
            }
            *bits |= bit;
            let mut forgotten = Ok(());
            let forget = || forgotten = forget(self.window, self.permits.units, number);
            any |= self.permits.presence.is_dead(number, forget)?;
            forgotten?;
        }
        if any {
            WAITING.wake_all(self.window)?;
        }
        Ok(any)
    }

    fn is_more(&self) -> Result<bool> {
        for place in FIRST..FIRST + self.permits.units as usize {
            if self.window.load(place)? == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
