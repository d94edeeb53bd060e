//! Every interleaving of a few slots at one lock, of which one may vanish.
//!
//! Time stands still in the models, so that a lock that relied on somebody looking again would hang. Only when a slot
//! has vanished, sleeps end by themselves.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::slots::Slot;
use super::word::{Begun, Blocker, LOCK, Patience, Place, ROWS};
use super::*;
use crate::sync::thread;
use crate::sync::{Condvar, Mutex};

/// Those who sleep: a number for each, the word, and the mask.
#[derive(Default)]
struct Sleepers {
    asleep: Vec<(u32, usize, u32)>,
    next: u32,
    time_passes: bool,
}

/// The words that are used, and a kernel.
struct World {
    lock: AtomicU32,
    rows: AtomicU32,
    readers: AtomicU32,
    sleepers: Mutex<Sleepers>,
    changed: Condvar,
    /// One bit for each slot.
    dead: AtomicU32,
    reading: AtomicUsize,
    writing: AtomicUsize,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            lock: AtomicU32::new(0),
            rows: AtomicU32::new(1),
            readers: AtomicU32::new(0),
            sleepers: Mutex::new(Sleepers::default()),
            changed: Condvar::new(),
            dead: AtomicU32::new(0),
            reading: AtomicUsize::new(0),
            writing: AtomicUsize::new(0),
        })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        match at {
            LOCK => &self.lock,
            ROWS => &self.rows,
            _ => &self.readers,
        }
    }

    fn place(&self, slot: u32) -> Place<'_, World> {
        Place { words: self, slot: Slot(slot) }
    }

    /// The slot does nothing more, and the kernel knows.
    fn vanish(&self, slot: u32) {
        self.dead.fetch_or(1 << slot, Ordering::AcqRel);
        self.sleepers.lock().unwrap().time_passes = true;
        self.changed.notify_all();
    }

    fn write(&self, slot: u32, how: How) -> Result<(), LockError> {
        let place = self.place(slot);
        match place.begin_write() {
            Begun::Held => {}
            begun => place.write(begun, &mut Model { world: self, how })?,
        }
        assert_eq!(self.writing.fetch_add(1, Ordering::AcqRel), 0, "two write");
        assert_eq!(self.reading.load(Ordering::Acquire), 0, "somebody reads");
        self.writing.fetch_sub(1, Ordering::AcqRel);
        assert!(place.end_write());
        Ok(())
    }

    fn read(&self, slot: u32, how: How) -> Result<(), LockError> {
        let place = self.place(slot);
        if !place.begin_read() {
            place.read(&mut Model { world: self, how })?;
        }
        self.reading.fetch_add(1, Ordering::AcqRel);
        assert_eq!(self.writing.load(Ordering::Acquire), 0, "somebody writes");
        self.reading.fetch_sub(1, Ordering::AcqRel);
        assert!(place.end_read());
        Ok(())
    }

    /// Reads, then writes.
    fn upgrade(&self, slot: u32) -> bool {
        let place = self.place(slot);
        if !place.begin_read() {
            place.read(&mut Model { world: self, how: How::Patient }).unwrap();
        }
        match place.upgrade(&mut Model { world: self, how: How::Patient }) {
            Ok(()) => {
                assert_eq!(self.writing.fetch_add(1, Ordering::AcqRel), 0, "two write");
                self.writing.fetch_sub(1, Ordering::AcqRel);
                assert!(place.downgrade());
                assert!(place.end_read());
                true
            }
            Err(LockError::Deadlock) => {
                assert!(place.end_read(), "it reads as before");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn assert_free(&self) {
        assert_eq!(self.readers.load(Ordering::Acquire), 0);
        // It may still say that there are sleepers, but once.
        self.write(0, How::Trying).unwrap();
        assert_eq!(self.lock.load(Ordering::Acquire), 0);
    }
}

impl super::super::FutexLockable for World {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError> {
        Ok(None)
    }

    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }
}

impl LockWords for World {
    fn check_area(&self) -> Result<(), LockError> {
        Ok(())
    }

    fn load(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::Acquire)
    }

    fn store(&self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.word(at).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn wait(&self, at: usize, expected: u32, _: Duration, mask: u32) -> bool {
        let mut sleepers = self.sleepers.lock().unwrap();
        if self.load(at) != expected {
            return true;
        }
        let me = sleepers.next;
        sleepers.next += 1;
        sleepers.asleep.push((me, at, mask));
        while sleepers.asleep.iter().any(|(sleeper, ..)| *sleeper == me) {
            if sleepers.time_passes {
                sleepers.asleep.retain(|(sleeper, ..)| *sleeper != me);
                return false;
            }
            sleepers = self.changed.wait(sleepers).unwrap();
        }
        true
    }

    fn wake(&self, at: usize, count: u32, mask: u32) {
        let mut sleepers = self.sleepers.lock().unwrap();
        let mut left = count;
        sleepers.asleep.retain(|(_, word, sleeper)| {
            let wakes = *word == at && sleeper & mask != 0 && left > 0;
            left -= u32::from(wakes);
            !wakes
        });
        self.changed.notify_all();
    }

    fn again(&self) -> Result<Box<dyn LockWords>, LockError> {
        unreachable!("the models have one handle")
    }
}

/// How a slot waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Patient,
    /// It takes the turn at once.
    Claiming,
    /// It gives up when it would have to sleep.
    Trying,
    /// It gives up after it has slept.
    GivingUp,
}

struct Model<'a> {
    world: &'a World,
    how: How,
}

impl Model<'_> {
    fn bury(&self, slots: impl Iterator<Item = u32>) -> bool {
        let dead = self.world.dead.load(Ordering::Acquire);
        slots.filter(|slot| dead & 1 << slot != 0).map(|slot| self.world.place(slot).forget()).count() > 0
    }
}

impl Patience for Model<'_> {
    fn spin(&mut self) -> bool {
        false
    }

    fn sleep(&mut self, _: Blocker) -> Result<Option<Duration>, LockError> {
        if self.how == How::Trying { Err(LockError::Busy) } else { Ok(Some(Duration::ZERO)) }
    }

    fn slept(&mut self, blocker: Blocker, woken: bool) -> Result<bool, LockError> {
        if woken {
            return Ok(false);
        }
        if self.how == How::GivingUp {
            return Err(LockError::TimedOut);
        }
        match blocker {
            Blocker::Writer(slot) => self.bury(std::iter::once(slot.number())),
            Blocker::Readers { bits, .. } => self.bury((0..32).filter(|bit| bits & 1 << bit != 0)),
            Blocker::Turn(_) => false,
        };
        thread::yield_now();
        Ok(true)
    }

    fn may_take_turn(&self) -> bool {
        self.how == How::Claiming
    }

    fn is_dead(&mut self, slot: Slot) -> Result<bool, LockError> {
        Ok(self.bury(std::iter::once(slot.number())))
    }
}

/// Two slots run beside the first, which is the model's own thread.
fn beside(world: &Arc<World>, others: [fn(&World); 2], own: fn(&World)) {
    let threads = others.map(|other| {
        let world = Arc::clone(world);
        thread::spawn(move || other(&world))
    });
    own(world);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn writers_exclude_each_other_and_readers() {
    loom::model(|| {
        let world = World::new();
        let (writes, reads): (fn(&World), fn(&World)) =
            (|world| world.write(1, How::Patient).unwrap(), |world| world.read(2, How::Patient).unwrap());
        beside(&world, [writes, reads], |world| world.write(0, How::Patient).unwrap());
        world.assert_free();
    });
}

#[test]
fn three_writers_all_get_in() {
    loom::model(|| {
        let world = World::new();
        let others: [fn(&World); 2] =
            [|world| world.write(1, How::Patient).unwrap(), |world| world.write(2, How::Claiming).unwrap()];
        beside(&world, others, |world| world.write(0, How::Patient).unwrap());
        world.assert_free();
    });
}

#[test]
fn two_readers_and_a_writer_all_get_in() {
    loom::model(|| {
        let world = World::new();
        let others: [fn(&World); 2] =
            [|world| world.read(1, How::Patient).unwrap(), |world| world.read(2, How::Claiming).unwrap()];
        beside(&world, others, |world| world.write(0, How::Patient).unwrap());
        world.assert_free();
    });
}

#[test]
fn whoever_gives_up_leaves_nothing_behind() {
    for how in [How::Trying, How::GivingUp] {
        loom::model(move || {
            let world = World::new();
            let other = Arc::clone(&world);
            // Nobody would wake it: time passes.
            world.sleepers.lock().unwrap().time_passes = how == How::GivingUp;
            let trying = thread::spawn(move || {
                let _ = other.write(1, how);
                let _ = other.read(1, how);
            });
            let _ = world.read(0, How::Patient);
            let _ = world.write(0, How::Patient);
            trying.join().unwrap();
            world.assert_free();
        });
    }
}

#[test]
fn a_writer_that_vanishes_is_followed() {
    loom::model(|| {
        let world = World::new();
        let others: [fn(&World); 2] = [
            |world| {
                if world.place(1).begin_write() != Begun::Nothing {
                    world.vanish(1);
                }
            },
            |world| world.read(2, How::Patient).unwrap(),
        ];
        beside(&world, others, |world| world.write(0, How::Patient).unwrap());
    });
}

#[test]
fn a_reader_that_vanishes_is_counted_out() {
    loom::model(|| {
        let world = World::new();
        let others: [fn(&World); 2] = [
            |world| {
                if world.place(1).begin_read() {
                    world.vanish(1);
                }
            },
            |world| world.write(2, How::Patient).unwrap(),
        ];
        beside(&world, others, |world| world.write(0, How::Patient).unwrap());
    });
}

#[test]
fn of_two_that_upgrade_one_is_refused() {
    loom::model(|| {
        let world = World::new();
        let granted = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let (other, noted) = (Arc::clone(&world), Arc::clone(&granted));
        let thread = thread::spawn(move || noted[1].store(other.upgrade(1), Ordering::Release));
        granted[0].store(world.upgrade(0), Ordering::Release);
        thread.join().unwrap();
        assert!(granted.iter().any(|granted| granted.load(Ordering::Acquire)), "both were refused");
        world.assert_free();
    });
}
