//! [`ShmMutex`]: a value in shared memory that one thread of all processes can change at a time.
//!
//! | word | content |
//! |---|---|
//! | 512 | current: 2 x the number of changes, modulo 2^31, + which of two rooms has the value |
//! | 514, 515 | room 0: where it begins, and how many words it has |
//! | 516, 517 | room 1 |
//! | 528 + 16 c, 529 + 16 c | condition c: how often it was notified, and how many wait for it; c < 8 |
//! | 656 .. | the rooms: the length of the value in words, and the value |
//!
//! Whoever has the lock writes a new value into the room that has it not, and makes it the value by storing word 512: a death
//! before that leaves the old one, and nothing is ever poisoned. A value that is too long for its room gets a new one at the
//! end of the object, twice as long as the value; the old one is left behind.
//!
//! Who only reads takes no lock: it copies the value, and believes it if word 512 is the same before and after.
//!
//! This module does not lock: the [`LockMethod`] does.

use std::fmt;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;
use std::time::Duration;

use manycore_backends::generation::Generation;
use manycore_backends::lock::{FutexLockable, Guard, Mode, Protocol, Wait};
use manycore_backends::shm::{Memory, Window};
use manycore_backends::{Futex, LockMethod, PosixShm, ShmBackend};

use super::condvar::ShmCondvar;
use super::error::{Result, SharedError};
use super::object::{ASKED, BODY, Kind, Plan, Sealed, Shared, forked, locked_by, opening};
use super::scratch::with_words;
use crate::codec::{Value, decode_all};

const CURRENT: usize = BODY;
const ROOMS: usize = BODY + 2;
pub(super) const CONDITIONS: usize = BODY + 16;
/// Conditions of a mutex.
pub(super) const CONDITIONS_MAX: usize = 8;
const FIRST_ROOM: usize = CONDITIONS + 16 * CONDITIONS_MAX;

/// The longest object, in words.
const WORDS_MAX: usize = u32::MAX as usize;

/// Words that a new room has beyond its first value.
const SPARE: usize = 16;

/// A value of so many words is read into the stack.
const SHORT: usize = 8;

/// How often a reader looks before it takes the lock.
const ATTEMPTS: u32 = 100;

/// Where a value can be.
#[derive(Clone, Copy)]
struct Room {
    place: usize,
    words: usize,
}

impl Room {
    fn end(self) -> usize {
        self.place + self.words
    }
}

#[cold]
fn too_long() -> SharedError {
    SharedError::Impossible("a mutex is not longer than 16 GiB")
}

#[cold]
fn no_room() -> SharedError {
    SharedError::Corrupt { at: ROOMS, what: "a value outside of its room" }
}

/// A value of type `T` in shared memory, with its lock.
///
/// The value is a copy: [`MutexGuard::set`] makes another one the value of the mutex, whole or not at all, and at once. A
/// process that is killed, or a thread that panics, with the mutex locked leaves it as it last set it, and unlocked; so
/// whatever must change together is set together.
///
/// ```
/// use manycore::shared::ShmMutex;
///
/// let account: ShmMutex<(i64, String)> =
///     ShmMutex::create_unique("/manycore-doc-mutex-XXXXXX", &(100, "opened".to_owned()))?;
/// account.update(|(balance, last)| {
///     *balance -= 30;
///     *last = "withdrawn".to_owned();
/// })?;
/// let mut locked = account.lock()?;
/// let (balance, _) = &*locked;
/// let doubled = balance * 2;
/// locked.set((doubled, "doubled".to_owned()))?;
/// drop(locked);
/// assert_eq!(account.get()?, (140, "doubled".to_owned()));
/// # account.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
#[doc(alias("Netmcore_mutex", "pthread_mutex_t", "PTHREAD_MUTEX_ROBUST", "Netmcore_ref"))]
pub struct ShmMutex<T, B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    pub(super) object: B,
    method: L,
    generation: Generation,
    value: PhantomData<fn(T) -> T>,
}

impl<T, B: ShmBackend, L: LockMethod<B>> fmt::Debug for ShmMutex<T, B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmMutex").field("object", &self.object).finish_non_exhaustive()
    }
}

impl<T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> Shared for ShmMutex<T, B, L> {
    type Backend = B;
    type Asked = T;
}

impl<T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> Sealed<B, T> for ShmMutex<T, B, L> {
    const KIND: Kind = Kind::Mutex;
    const PROTOCOL: Protocol = L::PROTOCOL;

    fn plan(value: &T) -> Result<Plan> {
        let mut words = Vec::new();
        value.encode(&mut words)?;
        let room = words.len() + 1 + SPARE;
        if FIRST_ROOM + 2 * room > WORDS_MAX {
            return Err(too_long());
        }
        let mut body = vec![0; FIRST_ROOM - BODY];
        let [first, second] = [FIRST_ROOM, FIRST_ROOM + room];
        body[ROOMS - BODY..][..4].copy_from_slice(&[first as u32, room as u32, second as u32, room as u32]);
        body.push(words.len() as u32);
        body.extend(words);
        Ok(Plan { asked: [0; ASKED], words: (second + room) as u64, body })
    }

    fn locked(object: &B, wait: Wait, body: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if L::PROTOCOL == Protocol::FCNTL {
            // What another lock closes would unlock the mutex in other threads.
            locked_by::<B, L>(object, wait, body)
        } else {
            locked_by::<B, Futex>(object, wait, body)
        }
    }

    fn attach(object: B, _asked: [u32; ASKED]) -> Result<Self> {
        if object.memory().words() < FIRST_ROOM {
            return Err(SharedError::Corrupt { at: BODY, what: "a mutex that is longer than its object" });
        }
        let method = L::attach(&object)?;
        Ok(ShmMutex { object, method, generation: Generation::current(), value: PhantomData })
    }

    fn check(&self, _value: &T) -> Result<()> {
        Ok(())
    }
}

impl<T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> ShmMutex<T, B, L> {
    opening!(&T, "mutex", value);

    /// Locks the mutex; waits until nobody else has it.
    ///
    /// # Errors
    /// [`SharedError::Lock`] with [`LockedByCaller`](manycore_backends::lock::LockError::LockedByCaller) if this thread has locked it already, with
    /// [`Deadlock`](manycore_backends::lock::LockError::Deadlock) if others wait for what this thread has, and whatever else the method says;
    /// [`SharedError::Codec`] if the value is of another type; [`SharedError::Shm`] if the object was cut off, or this is a
    /// child of who opened it; [`SharedError::Corrupt`].
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, T, B, L>> {
        self.lock_waiting(Wait::Forever)
    }

    /// Locks the mutex if nobody has it.
    ///
    /// # Errors
    /// [`SharedError::Lock`] with [`Busy`](manycore_backends::lock::LockError::Busy) if somebody has; else as [`lock`](ShmMutex::lock).
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T, B, L>> {
        self.lock_waiting(Wait::Try)
    }

    /// Locks the mutex; waits for so long.
    ///
    /// # Errors
    /// [`SharedError::Lock`] with [`TimedOut`](manycore_backends::lock::LockError::TimedOut) if somebody had it all the time; else as
    /// [`lock`](ShmMutex::lock).
    pub fn lock_timeout(&self, limit: Duration) -> Result<MutexGuard<'_, T, B, L>> {
        self.lock_waiting(Wait::AtMost(limit))
    }

    #[inline(always)]
    pub(super) fn lock_waiting(&self, wait: Wait) -> Result<MutexGuard<'_, T, B, L>> {
        let lock = Guard::lock(&self.method, &self.object, Mode::Write, wait)?;
        // Not every lock method notices.
        self.check_generation()?;
        Ok(MutexGuard { mutex: self, value: self.read()?, lock })
    }

    /// The value, without locking, as somebody has set it last.
    ///
    /// # Errors
    /// As [`lock`](ShmMutex::lock); the lock is taken, and waited for, only if the value changes all the time.
    #[doc(alias = "load")]
    pub fn get(&self) -> Result<T> {
        self.check_generation()?;
        for _ in 0..ATTEMPTS {
            let before = self.object.memory().load(CURRENT)?;
            // Anything may go wrong if somebody writes meanwhile.
            let value = self.read();
            if self.object.memory().load(CURRENT)? == before {
                return value;
            }
            spin_loop();
        }
        Ok(self.lock()?.into_value())
    }

    /// Makes this the value.
    ///
    /// # Errors
    /// As [`lock`](ShmMutex::lock) and [`MutexGuard::set`].
    #[doc(alias = "store")]
    pub fn set(&self, value: T) -> Result<()> {
        self.lock()?.set(value)
    }

    /// Changes the value, with the mutex locked. If `change` panics nothing has changed.
    ///
    /// # Errors
    /// As [`lock`](ShmMutex::lock) and [`MutexGuard::set`]; then nothing has changed.
    #[inline]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.lock()?.update(change)
    }

    /// A condition of this mutex that threads can wait for.
    ///
    /// # Panics
    /// If `number` is not below 8.
    pub fn condvar(&self, number: usize) -> ShmCondvar<'_, T, B, L> {
        assert!(number < CONDITIONS_MAX, "a mutex has 8 conditions");
        ShmCondvar::new(self, CONDITIONS + 16 * number)
    }

    #[inline]
    pub(super) fn check_generation(&self) -> Result<()> {
        if self.generation.is_current() { Ok(()) } else { Err(forked(&self.object)) }
    }

    /// Which change is the current one; the room that has the value, and the other one.
    #[inline(always)]
    fn rooms(&self) -> Result<(u32, [Room; 2])> {
        let [current, _, rooms @ ..]: [u32; 6] = self.object.memory().window().read_array(CURRENT)?;
        let room = |number: u32| {
            let at = 2 * (number & 1) as usize;
            Room { place: rooms[at] as usize, words: rooms[at + 1] as usize }
        };
        Ok((current, [room(current), room(current ^ 1)]))
    }

    /// The value, which nobody changes meanwhile.
    #[inline(always)]
    fn read(&self) -> Result<T> {
        let (_, [room, _]) = self.rooms()?;
        if room.end() > self.object.memory().words() {
            // Others may have made it longer.
            self.object.size()?;
        }
        let window = self.object.memory().window();
        if room.place < FIRST_ROOM || room.end() > window.words() {
            return Err(no_room());
        }
        let length = window.load(room.place)? as usize;
        if length >= room.words {
            return Err(no_room());
        }
        let mut short = [0; SHORT];
        match short.get_mut(..length) {
            Some(words) => {
                window.read(room.place + 1, words)?;
                self.object.intact()?;
                Ok(decode_all(words)?)
            }
            None => with_words(|words| {
                window.append(room.place + 1, length, words)?;
                self.object.intact()?;
                Ok(decode_all(words)?)
            }),
        }
    }

    /// Makes these words the value. The mutex is locked.
    fn write_locked(&self, words: &[u32]) -> Result<()> {
        let (current, [_, Room { mut place, words: room }]) = self.rooms()?;
        if place + room > self.object.memory().words() {
            // Others may have made it longer.
            self.object.size()?;
        }
        let fits = words.len() < room && place >= FIRST_ROOM;
        if !fits || place + room > self.object.memory().words() {
            place = self.move_room((current & 1) ^ 1, words.len())?;
        }
        let window = self.object.memory().window();
        window.store(place, words.len() as u32)?;
        window.write(place + 1, words)?;
        self.object.intact()?;
        Ok(window.store(CURRENT, current.wrapping_add(2) ^ 1)?)
    }

    /// Gives the room which has not the value a new place, for so many words and as many again.
    #[cold]
    fn move_room(&self, number: u32, words: usize) -> Result<usize> {
        self.object.size()?;
        let place = self.object.memory().words();
        let room = words.saturating_mul(2).saturating_add(1 + SPARE);
        let end = place.saturating_add(room);
        if end > WORDS_MAX {
            return Err(too_long());
        }
        self.object.grow(4 * end as u64)?;
        // A death in between leaves no room that is longer than it is.
        let window = self.object.memory().window();
        let at = ROOMS + 2 * number as usize;
        window.store(at + 1, 0)?;
        window.store(at, place as u32)?;
        window.store(at + 1, room as u32)?;
        Ok(place)
    }
}

/// A locked mutex, and a copy of its value. It is unlocked when this is dropped; it stays in the thread that locked it.
#[must_use = "the mutex is unlocked at once if this is not kept"]
pub struct MutexGuard<'m, T, B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    pub(super) mutex: &'m ShmMutex<T, B, L>,
    value: T,
    #[allow(dead_code, reason = "held")]
    lock: Guard<'m, B, L>,
}

impl<T: fmt::Debug, B: ShmBackend, L: LockMethod<B>> fmt::Debug for MutexGuard<'_, T, B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").field("value", &self.value).finish_non_exhaustive()
    }
}

impl<T, B: ShmBackend, L: LockMethod<B>> Deref for MutexGuard<'_, T, B, L> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> MutexGuard<'_, T, B, L> {
    /// Makes this the value of the mutex, for all, at once, and whatever happens then.
    ///
    /// # Errors
    /// [`SharedError::Codec`] if it has no encoding; [`SharedError::Shm`] if there is no room for it, the object was cut off,
    /// or this is a child of who locked the mutex. Then the value is as it was.
    pub fn set(&mut self, value: T) -> Result<()> {
        self.write(&value)?;
        self.value = value;
        Ok(())
    }

    /// Changes the value, and makes it that of the mutex. If `change` panics, the mutex keeps the one that it had.
    ///
    /// # Errors
    /// As [`set`](MutexGuard::set).
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        let changing = Changing { guard: self };
        let outcome = change(&mut changing.guard.value);
        changing.guard.write(&changing.guard.value)?;
        mem::forget(changing);
        Ok(outcome)
    }

    /// Unlocks the mutex; what the value was.
    pub fn into_value(self) -> T {
        self.value
    }

    #[inline]
    fn write(&self, value: &T) -> Result<()> {
        self.mutex.check_generation()?;
        with_words(|words| {
            value.encode(words)?;
            self.mutex.write_locked(words)
        })
    }
}

/// A guard whose value is being changed: if that does not end well, it shows again what the mutex has.
struct Changing<'g, 'm, T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> {
    guard: &'g mut MutexGuard<'m, T, B, L>,
}

impl<T: Value, B: ShmBackend + FutexLockable, L: LockMethod<B>> Drop for Changing<'_, '_, T, B, L> {
    fn drop(&mut self) {
        if let Ok(value) = self.guard.mutex.read() {
            self.guard.value = value;
        }
    }
}
