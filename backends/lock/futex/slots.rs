//! Slots, and who is alive: what a process has to do with an object that it can lock, whichever of its threads does.
//!
//! This module does not lock anything.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::waiter::STEPS;
use super::word::Place;
use super::{LockWords, SLOTS};
use crate::generation::{Generation, PrivateFd};
use crate::lock::LockError;
use crate::lock::presence::open_again;
use crate::lock::record::{self, Kind};
use crate::sync::global::{AtomicU64, Mutex, Ordering, lock};

/// The byte of the object's file that stands for slot 0.
const FIRST_BYTE: i64 = 1 << 46;

/// A number below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) fn new(number: u32) -> Option<Slot> {
        (number < SLOTS).then_some(Slot(number))
    }

    #[inline(always)]
    pub(super) fn number(self) -> u32 {
        self.0
    }

    fn byte(self) -> i64 {
        FIRST_BYTE + i64::from(self.0)
    }
}

/// What all handles of an object in this process share.
pub(super) struct Shared {
    /// Unlike every other of this process.
    pub(super) id: u64,
    pub(super) identity: (u64, u64),
    pub(super) generation: Generation,
    pub(super) words: Box<dyn LockWords>,
    /// What has the bytes of this process's slots. `None` if the object belongs to this process alone.
    liveness: Option<PrivateFd>,
    /// The slots of this process. `None` when the last handle is gone.
    slots: Mutex<Option<Slots>>,
    /// Whose turn kept somebody out, and since when.
    turn_met: Mutex<Option<(Slot, Instant)>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A set of slots.
struct Slots(Vec<bool>);

impl Slots {
    fn contains(&self, slot: Slot) -> bool {
        self.0.get(slot.number() as usize).is_some_and(|taken| *taken)
    }

    fn set(&mut self, slot: Slot, taken: bool) {
        let number = slot.number() as usize;
        if self.0.len() <= number {
            self.0.resize(number + 1, false);
        }
        self.0[number] = taken;
    }
}

/// What has the bytes of this process. Where the file cannot be opened once more (it belongs to somebody else by now, or
/// `/proc` is not there), a copy of the descriptor must do: then a child that is forked without closing it keeps its
/// parent alive, as far as others can tell, until it ends or runs another program.
fn liveness_of(fd: BorrowedFd<'_>) -> Result<PrivateFd, LockError> {
    open_again(fd).or_else(|_| match fd.try_clone_to_owned() {
        Ok(fd) => Ok(PrivateFd::new(fd)),
        Err(source) => Err(LockError::Io { op: "copying the object's descriptor", source }),
    })
}

impl Shared {
    pub(super) fn new<B: LockWords>(object: &B, generation: Generation) -> Result<Shared, LockError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Ok(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            identity: object.identity(),
            generation,
            liveness: object.liveness()?.map(liveness_of).transpose()?,
            words: object.again()?,
            slots: Mutex::new(Some(Slots(Vec::new()))),
            turn_met: Mutex::new(None),
        })
    }

    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError> {
        match &self.liveness {
            None => Ok(None),
            Some(fd) => fd.get().map(Some).ok_or(LockError::Forked),
        }
    }

    /// Takes a slot that nobody has, and makes it as new.
    pub(super) fn take_slot(&self) -> Result<Slot, LockError> {
        let mut slots = lock(&self.slots);
        let Some(slots) = slots.as_mut() else { return Err(LockError::NotHeld) };
        let fd = self.liveness()?;
        for slot in (0..SLOTS).map(Slot).filter(|slot| !slots.contains(*slot)) {
            match fd.map_or(Ok(()), |fd| record::set_byte(fd, slot.byte(), Kind::Write)) {
                Ok(()) => {}
                Err(LockError::Busy) => continue,
                Err(error) => return Err(error),
            }
            let place = Place { words: &*self.words, slot };
            place.forget();
            place.reach();
            slots.set(slot, true);
            return Ok(slot);
        }
        Err(LockError::TooManyUsers { max: SLOTS })
    }

    pub(super) fn give_slot_back(&self, slot: Slot) {
        if !self.generation.is_current() {
            return;
        }
        if let Some(slots) = lock(&self.slots).as_mut() {
            slots.set(slot, false);
            if let Ok(Some(fd)) = self.liveness() {
                // It cannot fail: there is less to remember.
                let _ = record::set_byte(fd, slot.byte(), Kind::None);
            }
        }
    }

    /// Whether nobody has this slot; if so, what its last owner left is taken away.
    pub(super) fn is_dead(&self, slot: Slot) -> Result<bool, LockError> {
        let slots = lock(&self.slots);
        let Some(slots) = slots.as_ref() else { return Ok(false) };
        // The system would give its byte to any thread of this process.
        if slots.contains(slot) {
            return Ok(false);
        }
        let fd = self.liveness()?;
        match fd.map_or(Ok(()), |fd| record::set_byte(fd, slot.byte(), Kind::Write)) {
            Ok(()) => {}
            Err(LockError::Busy) => return Ok(false),
            Err(error) => return Err(error),
        }
        Place { words: &*self.words, slot }.forget();
        if let Some(fd) = fd {
            let _ = record::set_byte(fd, slot.byte(), Kind::None);
        }
        Ok(true)
    }

    /// Takes the slot's turn away, if somebody of this process who did not want to wait has met it before, long enough ago:
    /// those who only try, again and again, are not kept out for ever by somebody who is stopped.
    pub(super) fn lapse(&self, slot: Slot) -> bool {
        let now = Instant::now();
        let mut met = lock(&self.turn_met);
        match *met {
            Some((known, since)) if known == slot => {
                let lapses = now.saturating_duration_since(since) >= STEPS[1];
                if lapses {
                    *met = None;
                    Place { words: &*self.words, slot }.give_back_turn();
                }
                lapses
            }
            _ => {
                *met = Some((slot, now));
                false
            }
        }
    }

    /// Gives all slots back.
    pub(super) fn retire(&self) {
        let slots = lock(&self.slots).take();
        let (Some(slots), Ok(Some(fd))) = (slots, self.liveness()) else { return };
        for number in (0..).zip(&slots.0).filter(|(_, taken)| **taken).map(|(number, _)| number) {
            let _ = record::set_byte(fd, Slot(number).byte(), Kind::None);
        }
    }
}
