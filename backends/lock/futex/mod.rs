//! The robust futex lock: lock words inside the object, and nothing else.
//!
//! * The words are drawn below; how they change is in `word.rs`, the place to read first.
//! * Who holds what, in this process, is here: every thread that locks an object has a *slot* of it, a number
//!   below 1023 by which the words name it, and remembers how it holds the object.
//! * Who is alive is told by the kernel. While a thread has slot `s`, its process has a record lock on byte
//!   2^46 + `s` of the object's file (far beyond its end: no byte is touched). Whoever waits too long for a slot
//!   tries to lock its byte. If it succeeds, that process is gone; and as long as it has the byte nobody else
//!   becomes `s`, so that it can take away the marks of the dead without haste. No process number is ever believed.
//!   The locks are those of an open file that nobody else uses, and that forked children close: they are not lost when
//!   the process opens and closes the file by other means, as POSIX record locks are, and they do not live on in a
//!   child.
//! * Cycles of waiting threads are found by labels that run against the direction of waiting: `deadlock.rs`.
//!
//! An object of this process alone (`Heap`) has no file; there, threads that end give their slots back, and that is all
//! that can die.
//!
//! # The words
//!
//! All places are counted from the start of the [`AREA`].
//!
//! | word | name | contents |
//! |---|---|---|
//! | 0 | lock | see below; 0 if nobody writes, or waits to |
//! | 1 | rows | how many rows of readers are in use; only rises |
//! | 2, 3 | writer's label | for finding deadlocks: what the waiting writer passes on |
//! | 4, 5 | readers' label | the same of the waiting readers |
//! | 16 ... 47 | readers | one bit for each slot: bit `s % 32` of row `s / 32` is set while slot `s` reads |
//!
//! The rest of the area is 0 and free.
//!
//! | bits of the lock word | name | meaning |
//! |---|---|---|
//! | 0-9 | writer | 0, or 1 + the slot that writes, or that keeps new readers out until those inside are gone |
//! | 10-19 | turn | 0, or 1 + the slot that has waited for long: no other writer comes before it |
//! | 20 | draining | the writer sleeps until readers are gone: who stops reading wakes it |
//! | 21 | sleepers | somebody sleeps until the writer is gone: the writer wakes one |
//! | 22-31 | | 0 |
//!
//! # Waiting
//!
//! | when | a waiter |
//! |---|---|
//! | at once | spins for some microseconds |
//! | then | sleeps, until it is woken |
//! | 1 ms after that began, and then every 10 ms, however often it was woken | asks whether those who keep it out are alive; looks for deadlocks; takes the turn |
//!
//! So the death of a holder is noticed within 11 ms by whoever waits, and at once by whoever comes later and has to
//! sleep once.
//!
//! # What it does not do
//!
//! It does not go together with record locks of the process on the same file ([`Fcntl`](super::Fcntl)): those are lost
//! when the file is closed that says who is alive. An object has one protocol, for all.
//!
//! A process that is stopped (`SIGSTOP`, a debugger) in the moment in which it looks after a dead one keeps that one
//! alive until it goes on.
//!
//! It does not protect against those who may write to the object and mean harm: they can hold the lock for ever, or
//! write anything into its words. Mutual exclusion is lost then, memory safety is not.

mod deadlock;
#[cfg(all(test, loom))]
mod models;
mod slots;
mod waiter;
mod word;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use self::slots::{Shared, Slot};
use self::waiter::Waiter;
use self::word::{Begun, Place};
use super::{LockError, LockMethod, Mode, Protocol, Wait};
use crate::generation::Generation;
use crate::sync::global::{Arc, Mutex, Weak, lock};

/// The words of an object that belong to [`Futex`]: nobody else may use them, and they must be 0 in a new object.
pub const AREA: Range<usize> = 256..384;

/// How many slots an object has: so many threads, of all processes together, can have locked it before they end or
/// close it.
pub const SLOTS: u32 = 1023;

/// A backend whose objects [`Futex`] can lock. Implement it for a backend of your own: if several processes can share its
/// objects, all descriptors of one object must be the same file.
#[diagnostic::on_unimplemented(
    message = "`Futex` cannot lock `{Self}`",
    note = "implement `FutexLockable` for the backend, or use another lock method"
)]
pub trait FutexLockable {
    /// The descriptor of the file whose record locks say who is alive; `None` if the object belongs to this process
    /// alone. It is opened once more, by way of `/proc`, and not used otherwise.
    ///
    /// # Errors
    /// [`LockError::Forked`] if the handle was made before a fork, by the parent.
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError>;

    /// Which object it is: the same for all its handles in this process, and for no other that is open.
    fn identity(&self) -> (u64, u64);
}

/// The words of the [`AREA`], counted from its beginning, and what else [`Futex`] needs of an object. Every
/// [`FutexLockable`] backend has them.
pub trait LockWords: FutexLockable + Send + Sync + 'static {
    /// Whether they are there, and may be written.
    ///
    /// # Errors
    /// [`LockError::TooSmall`], [`LockError::ReadOnly`].
    fn check_area(&self) -> Result<(), LockError>;

    /// The word, with everything that happened before it was stored.
    fn load(&self, at: usize) -> u32;

    /// Stores the word, after everything before it.
    fn store(&self, at: usize, value: u32);

    /// Stores `new` if the word is `current`; says what it was. Sequentially consistent.
    ///
    /// # Errors
    /// What it was, if that was something else.
    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<u32, u32>;

    /// Sleeps while the word is `expected`, until it is woken by a mask with a common bit. `false` if `limit` passed
    /// before that.
    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> bool;

    /// Wakes so many sleepers whose masks have a bit in common with `mask`.
    fn wake(&self, at: usize, count: u32, mask: u32);

    /// Another handle of the same object.
    ///
    /// # Errors
    /// [`LockError::Forked`], [`LockError::Io`].
    fn again(&self) -> Result<Box<dyn LockWords>, LockError>;
}

/// Locks by words in the object: without a system call when nobody waits, robust against the death of any user at any
/// moment. See the [module page](self).
///
/// It needs to write in order to lock: an object that was opened for reading only cannot be locked at all
/// ([`LockError::ReadOnly`]).
#[derive(Debug)]
#[doc(alias("robust", "pthread_rwlock_t", "PTHREAD_MUTEX_ROBUST"))]
pub struct Futex {
    /// `None` of an object that is only read.
    shared: Option<Arc<Shared>>,
}

/// The objects that are open.
static OBJECTS: Mutex<BTreeMap<(u64, u64), Open>> = Mutex::new(BTreeMap::new());

struct Open {
    shared: Arc<Shared>,
    handles: usize,
}

/// How a thread holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Not,
    /// So often.
    Read(u32),
    Write,
}

/// A thread's slot of an object.
struct Seat {
    id: u64,
    slot: Slot,
    held: Held,
    shared: Weak<Shared>,
}

/// The seats of a thread; given back when it ends.
struct Seats(Vec<Seat>);

impl Drop for Seats {
    fn drop(&mut self) {
        for seat in &self.0 {
            // Of a guard that was forgotten the lock stays held, as long as the process lives.
            if let (Held::Not, Some(shared)) = (seat.held, seat.shared.upgrade()) {
                shared.give_slot_back(seat.slot);
            }
        }
    }
}

thread_local! {
    static SEATS: RefCell<Seats> = const { RefCell::new(Seats(Vec::new())) };
}

/// The seat of the calling thread, if it has one.
#[inline(always)]
fn with_seat<T>(shared: &Shared, body: impl FnOnce(&mut Seat) -> T) -> Result<Option<T>, LockError> {
    SEATS
        .try_with(|seats| {
            let mut seats = seats.borrow_mut();
            seats.0.iter_mut().find(|seat| seat.id == shared.id).map(body)
        })
        .map_err(|_| ending())
}

#[cold]
fn ending() -> LockError {
    LockError::Io { op: "locking in a thread that is ending", source: io::ErrorKind::Other.into() }
}

impl<B: LockWords> LockMethod<B> for Futex {
    const PROTOCOL: Protocol = Protocol::FUTEX;

    fn attach(object: &B) -> Result<Futex, LockError> {
        match object.check_area() {
            Ok(()) => {}
            // Then locking is what is refused.
            Err(LockError::ReadOnly) => return Ok(Futex { shared: None }),
            Err(error) => return Err(error),
        }
        let identity = object.identity();
        let generation = Generation::current();
        let mut objects = lock(&OBJECTS);
        if objects.get(&identity).is_some_and(|open| open.shared.generation != generation) {
            // The parent's: what it stands for is not ours to give back.
            std::mem::forget(objects.remove(&identity));
        }
        let open = match objects.entry(identity) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let shared = Arc::new(Shared::new(object, generation)?);
                place.insert(Open { shared, handles: 0 })
            }
        };
        open.handles += 1;
        Ok(Futex { shared: Some(Arc::clone(&open.shared)) })
    }

    #[inline(always)]
    fn lock(&self, object: &B, mode: Mode, wait: Wait) -> Result<(), LockError> {
        let shared = self.shared()?;
        let begun = with_seat(shared, |seat| {
            let place = Place { words: object, slot: seat.slot };
            match (seat.held, mode) {
                (Held::Not, Mode::Write) => {
                    let begun = place.begin_write();
                    if begun == Begun::Held {
                        seat.held = Held::Write;
                    }
                    Ok(begun)
                }
                (Held::Not, Mode::Read) if place.begin_read() => {
                    seat.held = Held::Read(1);
                    Ok(Begun::Held)
                }
                (Held::Not, Mode::Read) => Ok(Begun::Nothing),
                (Held::Read(times), Mode::Read) => {
                    seat.held = Held::Read(times + 1);
                    Ok(Begun::Held)
                }
                _ => Err(LockError::LockedByCaller),
            }
        })?;
        match begun {
            Some(Ok(Begun::Held)) => Ok(()),
            Some(Ok(begun)) => shared.wait(object, begun, mode, wait),
            Some(Err(error)) => Err(error),
            None => {
                shared.sit_down()?;
                self.lock(object, mode, wait)
            }
        }
    }

    #[inline(always)]
    fn unlock(&self, object: &B) -> Result<(), LockError> {
        let released = with_seat(self.shared()?, |seat| {
            let place = Place { words: object, slot: seat.slot };
            match seat.held {
                Held::Not => false,
                Held::Write => {
                    seat.held = Held::Not;
                    place.end_write()
                }
                Held::Read(1) => {
                    seat.held = Held::Not;
                    place.end_read()
                }
                Held::Read(times) => {
                    seat.held = Held::Read(times - 1);
                    true
                }
            }
        })?;
        if released == Some(true) { Ok(()) } else { Err(LockError::NotHeld) }
    }

    fn upgrade(&self, object: &B, wait: Wait) -> Result<(), LockError> {
        let shared = self.shared()?;
        let seat = with_seat(shared, |seat| (seat.slot, seat.held))?;
        let slot = match seat {
            Some((slot, Held::Read(1))) => slot,
            None | Some((_, Held::Not)) => return Err(LockError::NotHeld),
            Some(_) => return Err(LockError::LockedByCaller),
        };
        let place = Place { words: object, slot };
        place.upgrade(&mut Waiter::new(shared, wait))?;
        with_seat(shared, |seat| seat.held = Held::Write).map(drop)
    }

    fn downgrade(&self, object: &B) -> Result<(), LockError> {
        let changed = with_seat(self.shared()?, |seat| {
            let changed = seat.held == Held::Write && Place { words: object, slot: seat.slot }.downgrade();
            if changed {
                seat.held = Held::Read(1);
            }
            changed
        })?;
        if changed == Some(true) { Ok(()) } else { Err(LockError::NotHeld) }
    }
}

impl Futex {
    #[inline(always)]
    fn shared(&self) -> Result<&Arc<Shared>, LockError> {
        match &self.shared {
            Some(shared) if shared.generation.is_current() => Ok(shared),
            Some(_) => Err(LockError::Forked),
            None => Err(LockError::ReadOnly),
        }
    }
}

impl Drop for Futex {
    fn drop(&mut self) {
        let Ok(shared) = self.shared() else { return };
        let mut objects = lock(&OBJECTS);
        let Some(open) = objects.get_mut(&shared.identity) else { return };
        open.handles -= 1;
        if open.handles == 0 {
            // While the table of objects is locked: nobody gets a slot of the object meanwhile.
            shared.retire();
            objects.remove(&shared.identity);
        }
    }
}

impl Shared {
    /// Gets a slot for the calling thread.
    #[cold]
    #[inline(never)]
    fn sit_down(self: &Arc<Shared>) -> Result<(), LockError> {
        let slot = self.take_slot()?;
        let seat = Seat { id: self.id, slot, held: Held::Not, shared: Arc::downgrade(self) };
        let sat = SEATS.try_with(|seats| {
            let mut seats = seats.borrow_mut();
            // Those of objects that are closed are of no use any more.
            seats.0.retain(|seat| seat.shared.strong_count() > 0);
            seats.0.push(seat);
        });
        if sat.is_err() {
            self.give_slot_back(slot);
            return Err(ending());
        }
        Ok(())
    }

    /// Waits for the lock.
    #[cold]
    #[inline(never)]
    fn wait(&self, object: &impl LockWords, begun: Begun, mode: Mode, wait: Wait) -> Result<(), LockError> {
        let Some(slot) = with_seat(self, |seat| seat.slot)? else { return Err(LockError::NotHeld) };
        let place = Place { words: object, slot };
        let mut waiter = Waiter::new(self, wait);
        let held = match mode {
            Mode::Read => {
                place.read(&mut waiter)?;
                Held::Read(1)
            }
            Mode::Write => {
                place.write(begun, &mut waiter)?;
                Held::Write
            }
        };
        with_seat(self, |seat| seat.held = held).map(drop)
    }
}
