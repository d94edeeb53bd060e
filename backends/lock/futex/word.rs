//! The state machine of the futex lock: what the words in the object mean, and how they change.
//!
//! The words, and the bits of the lock word, are drawn on the page of [`futex`](super).
//!
//! # How it moves
//!
//! * A writer puts its slot into the lock word (one compare-and-exchange from 0), *then* looks at the rows: if no bit
//!   is set, it writes. Otherwise it waits for the bits to go.
//! * A reader sets its bit, *then* looks at the lock word: if there is no writer, it reads. Otherwise it takes the bit
//!   back and waits. Of a reader and a writer that come at the same time, at least one sees the other.
//! * Leaving is one store each: the lock word, or the bit.
//!
//! So each word says at each moment who is inside, and each mark in it belongs to one slot. Whatever instruction a
//! process dies at, its marks are those of a slot that is known to be dead, and [`forget`](Place::forget) takes them
//! away: there is no count that could be wrong by one.
//!
//! * **Fairness.** New readers stay out as soon as a writer has the lock word, so readers cannot keep writers out.
//!   Whoever has slept for a while takes the *turn*, reader or writer, so that running writers cannot keep it out
//!   either. Until then the lock goes to who comes first, which is what makes it fast. A turn that is not used lapses:
//!   a claimant that is stopped or dead holds up nobody.
//! * **No wake is relied on.** Who sleeps looks again after [`Patience`] says so, whether or not it was woken. So the
//!   death of somebody between leaving and waking costs time, not the lock.
//!
//! This module makes no system call of its own, and does not know who is alive: [`Patience`] does.

use std::time::Duration;

use super::LockWords;
use super::slots::Slot;
use crate::lock::LockError;
use crate::sync::after_exchange;

pub(super) const LOCK: usize = 0;
pub(super) const ROWS: usize = 1;
pub(super) const WRITER_LABEL: usize = 2;
pub(super) const READERS_LABEL: usize = 4;
const READERS: usize = 16;
/// How many rows of readers there can be.
const ROWS_MAX: u32 = 32;

const FIELD: u32 = (1 << 10) - 1;
const TURN_SHIFT: u32 = 10;
const DRAINING: u32 = 1 << 20;
const SLEEPERS: u32 = 1 << 21;

/// Everybody who sleeps; and those who want to read, or to write.
const ALL: u32 = u32::MAX;
const READING: u32 = 0xFFFF_0000;
const WRITING: u32 = 0x0000_FFFF;

/// What the lock word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u32);

impl Word {
    /// A slot writes, and nobody waits.
    fn written_by(slot: Slot) -> Word {
        Word(slot.number() + 1)
    }

    fn writer(self) -> Option<Slot> {
        Slot::new((self.0 & FIELD).checked_sub(1)?)
    }

    fn turn(self) -> Option<Slot> {
        Slot::new((self.0 >> TURN_SHIFT & FIELD).checked_sub(1)?)
    }

    fn is_draining(self) -> bool {
        self.0 & DRAINING != 0
    }

    fn has_sleepers(self) -> bool {
        self.0 & SLEEPERS != 0
    }

    fn with_sleepers(self) -> Word {
        Word(self.0 | SLEEPERS)
    }

    fn with_turn(self, slot: Slot) -> Word {
        Word(self.without_turn().0 | (slot.number() + 1) << TURN_SHIFT)
    }

    fn without_turn(self) -> Word {
        Word(self.0 & !(FIELD << TURN_SHIFT))
    }

    /// Nobody writes; the rest as it is.
    fn without_writer(self) -> Word {
        Word(self.0 & !(FIELD | DRAINING))
    }

    /// What the writer leaves behind: the turn, if somebody has it, and then the sleepers are not told yet.
    fn left(self) -> Word {
        match self.turn() {
            Some(_) => Word(self.0 & (FIELD << TURN_SHIFT | SLEEPERS)),
            None => Word(0),
        }
    }
}

/// What keeps somebody out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocker {
    /// The slot that writes, or waits to.
    Writer(Slot),
    /// The slots that read: these bits of a row.
    Readers { row: u32, bits: u32 },
    /// Nobody; but it is another's turn.
    Turn(Slot),
}

/// How somebody waits.
pub(super) trait Patience {
    /// Whether to look again at once. It spins, if it is worth it.
    fn spin(&mut self) -> bool;

    /// How long to sleep at most before looking again. `None` if it is worth to look again at once.
    ///
    /// # Errors
    /// Why to give up.
    fn sleep(&mut self, blocker: Blocker) -> Result<Option<Duration>, LockError>;

    /// A sleep is over, which may have been ended by anything: what one waits for, a signal, somebody who only passed.
    /// Whether the blocker was there for long.
    ///
    /// # Errors
    /// Why to give up.
    fn slept(&mut self, blocker: Blocker, woken: bool) -> Result<bool, LockError>;

    /// Whether it was long enough to take the turn.
    fn may_take_turn(&self) -> bool;

    /// Whether the slot's process or thread is no more. If so, its marks are gone.
    ///
    /// # Errors
    /// If the system does not tell.
    fn is_dead(&mut self, slot: Slot) -> Result<bool, LockError>;
}

/// How far a writer came at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It has the lock.
    Held,
    /// It has the lock word; readers are inside.
    Draining,
    /// Somebody else has the lock word.
    Nothing,
}

/// A slot before the lock of an object.
pub(super) struct Place<'a, W: ?Sized> {
    pub(super) words: &'a W,
    pub(super) slot: Slot,
}

impl<W: LockWords + ?Sized> Place<'_, W> {
    #[inline(always)]
    fn look(&self) -> Word {
        Word(self.words.load(LOCK))
    }

    /// Changes the lock word, if it is still `from`.
    #[inline(always)]
    fn change(&self, from: Word, to: Word) -> bool {
        self.words.compare_exchange(LOCK, from.0, to.0).is_ok()
    }

    /// Changes the lock word from whatever it is, as long as `change` wants to; returns what it was.
    fn update(&self, change: impl Fn(Word) -> Option<Word>) -> Word {
        loop {
            let word = self.look();
            match change(word) {
                Some(new) if new != word => {
                    if self.change(word, new) {
                        return word;
                    }
                }
                _ => return word,
            }
        }
    }

    fn row(&self) -> usize {
        READERS + (self.slot.number() / 32) as usize
    }

    fn bit(&self) -> u32 {
        1 << (self.slot.number() % 32)
    }

    /// Sets or takes back the bit of this slot; returns whether that was a change.
    #[inline(always)]
    fn mark(&self, reading: bool) -> bool {
        let (row, bit) = (self.row(), self.bit());
        let mut bits = self.words.load(row);
        loop {
            let new = if reading { bits | bit } else { bits & !bit };
            if new == bits {
                return false;
            }
            match self.words.compare_exchange(row, bits, new) {
                Ok(_) => return true,
                Err(now) => bits = now,
            }
        }
    }

    /// The readers of a row but for this slot.
    #[inline(always)]
    fn others(&self, row: u32) -> u32 {
        // The last bit of the last row is of no slot.
        let slots = if row == ROWS_MAX - 1 { u32::MAX >> 1 } else { u32::MAX };
        let row = READERS + row as usize;
        let bits = self.words.load(row) & slots;
        if row == self.row() { bits & !self.bit() } else { bits }
    }

    #[inline(always)]
    fn rows(&self) -> u32 {
        self.words.load(ROWS).min(ROWS_MAX)
    }

    /// Makes the row of this slot count; before the slot is used.
    pub(super) fn reach(&self) {
        let rows = self.slot.number() / 32 + 1;
        loop {
            let now = self.words.load(ROWS);
            if now >= rows || self.words.compare_exchange(ROWS, now, rows).is_ok() {
                return;
            }
        }
    }

    /// Takes the lock for writing, if it is free.
    #[inline(always)]
    pub(super) fn begin_write(&self) -> Begun {
        if !self.change(Word(0), Word::written_by(self.slot)) {
            return Begun::Nothing;
        }
        after_exchange();
        // Mostly nobody reads, and then it need not be asked who.
        let is_free = |row| self.words.load(READERS + row as usize) == 0 || self.others(row) == 0;
        if (0..self.rows()).all(is_free) { Begun::Held } else { Begun::Draining }
    }

    /// Takes the lock for writing, after that did not do.
    pub(super) fn write(&self, begun: Begun, patience: &mut impl Patience) -> Result<(), LockError> {
        if begun == Begun::Nothing {
            self.take_word(patience)?;
        }
        if begun != Begun::Held {
            self.drain(patience).inspect_err(|_| _ = self.end_write())?;
        }
        Ok(())
    }

    /// Waits for the lock word.
    fn take_word(&self, patience: &mut impl Patience) -> Result<(), LockError> {
        let mut slept = false;
        loop {
            let word = self.look();
            let blocker = match (word.writer(), word.turn()) {
                // Nobody else writes this slot, and it does not write: the word was scribbled over.
                (Some(slot), _) if slot == self.slot => {
                    self.change(word, word.without_writer());
                    continue;
                }
                (Some(slot), _) => Blocker::Writer(slot),
                (None, Some(slot)) if slot != self.slot => Blocker::Turn(slot),
                (None, _) => {
                    let mut mine = Word::written_by(self.slot);
                    // Whoever was woken cannot know whether there are others.
                    if slept || word.has_sleepers() {
                        mine = mine.with_sleepers();
                    }
                    if self.change(word, mine) {
                        after_exchange();
                        return Ok(());
                    }
                    continue;
                }
            };
            self.sleep(word, blocker, WRITING, &mut slept, patience)?;
        }
    }

    /// Sleeps until the lock word is worth another look. Somebody who gives up leaves nothing behind.
    fn sleep(
        &self,
        word: Word,
        blocker: Blocker,
        class: u32,
        slept: &mut bool,
        patience: &mut impl Patience,
    ) -> Result<(), LockError> {
        if patience.spin() {
            return Ok(());
        }
        let mut step = || -> Result<(), LockError> {
            let Some(limit) = patience.sleep(blocker)? else { return Ok(()) };
            let mut asleep = word.with_sleepers();
            if word.turn().is_none() && patience.may_take_turn() {
                asleep = asleep.with_turn(self.slot);
            }
            if asleep != word && !self.change(word, asleep) {
                return Ok(());
            }
            *slept = true;
            let woken = self.words.wait(LOCK, asleep.0, limit, mask(self.slot) & class);
            let long = patience.slept(blocker, woken)?;
            if let (Blocker::Turn(_), true) = (blocker, long) {
                // Whose turn it was has had the time.
                self.change(asleep, asleep.without_turn());
            }
            Ok(())
        };
        let result = step();
        if result.is_err() {
            self.give_up(*slept);
        }
        result
    }

    fn give_up(&self, slept: bool) {
        self.give_back_turn();
        if slept && self.look().writer().is_none() {
            // The wake that this one may have had was for another, too.
            self.words.wake(LOCK, 1, ALL);
        }
    }

    /// Takes this slot's turn away, if it has it.
    pub(super) fn give_back_turn(&self) {
        self.update(|word| (word.turn() == Some(self.slot)).then(|| word.without_turn()));
    }

    /// Waits until nobody else reads; this slot has the lock word.
    fn drain(&self, patience: &mut impl Patience) -> Result<(), LockError> {
        for row in 0..self.rows() {
            loop {
                let bits = self.others(row);
                if bits == 0 {
                    break;
                }
                let blocker = Blocker::Readers { row, bits };
                if patience.spin() {
                    continue;
                }
                let Some(limit) = patience.sleep(blocker)? else { continue };
                self.update(|word| Some(Word(word.0 | DRAINING)));
                after_exchange();
                let now = self.words.load(READERS + row as usize);
                let others = self.others(row);
                if others == 0 || others & bits != bits {
                    continue;
                }
                let woken = self.words.wait(READERS + row as usize, now, limit, ALL);
                patience.slept(blocker, woken)?;
            }
        }
        Ok(())
    }

    /// Ends writing, or waiting for readers to go. `false` if somebody else has the lock word, which then stays.
    #[inline(always)]
    pub(super) fn end_write(&self) -> bool {
        let mine = Word::written_by(self.slot);
        (self.look() == mine && self.change(mine, Word(0))) || self.end_write_for_others()
    }

    #[cold]
    #[inline(never)]
    fn end_write_for_others(&self) -> bool {
        let before = self.update(|word| (word.writer() == Some(self.slot)).then(|| word.left()));
        if before.writer() != Some(self.slot) {
            return false;
        }
        self.wake_next(before);
        true
    }

    /// Wakes who comes after a writer: whose turn it is, or anybody. `left` is the lock word that the writer had.
    fn wake_next(&self, left: Word) {
        if left.has_sleepers() {
            match left.turn() {
                Some(slot) => self.words.wake(LOCK, u32::MAX, mask(slot)),
                None => self.words.wake(LOCK, 1, ALL),
            }
        }
    }

    /// Takes the lock for reading, if nobody writes.
    #[inline(always)]
    pub(super) fn begin_read(&self) -> bool {
        self.mark(true);
        after_exchange();
        if self.look().writer().is_none() {
            return true;
        }
        self.end_read();
        false
    }

    /// Takes the lock for reading, after that did not do.
    pub(super) fn read(&self, patience: &mut impl Patience) -> Result<(), LockError> {
        let mut slept = false;
        loop {
            let word = self.look();
            match word.writer() {
                None if self.begin_read() => break,
                None => {}
                Some(slot) if slot == self.slot => _ = self.change(word, word.without_writer()),
                Some(slot) => self.sleep(word, Blocker::Writer(slot), READING, &mut slept, patience)?,
            }
        }
        if slept {
            self.give_back_turn();
            // There may be others who can come in: readers, or a writer that keeps out the next ones.
            self.words.wake(LOCK, u32::MAX, READING);
            self.words.wake(LOCK, 1, WRITING);
        }
        Ok(())
    }

    /// Ends reading.
    #[inline(always)]
    pub(super) fn end_read(&self) -> bool {
        let changed = self.mark(false);
        after_exchange();
        if self.look().is_draining() {
            self.words.wake(self.row(), u32::MAX, ALL);
        }
        changed
    }

    /// Goes from reading to writing; nobody writes in between. If it fails this slot reads as before.
    pub(super) fn upgrade(&self, patience: &mut impl Patience) -> Result<(), LockError> {
        loop {
            let word = self.look();
            match word.writer() {
                // Whoever's turn it is would have to wait for this reader.
                None => {
                    let mine = Word(word.0 | Word::written_by(self.slot).0);
                    if self.change(word, mine) {
                        break;
                    }
                }
                Some(slot) if slot == self.slot => _ = self.change(word, word.without_writer()),
                // It waits for this reader, which would wait for it.
                Some(slot) if !patience.is_dead(slot)? => return Err(LockError::Deadlock),
                Some(_) => {}
            }
        }
        after_exchange();
        self.drain(patience).inspect_err(|_| _ = self.end_write())?;
        self.mark(false);
        Ok(())
    }

    /// Goes from writing to reading; nobody writes in between.
    pub(super) fn downgrade(&self) -> bool {
        self.mark(true);
        let held = self.end_write();
        if !held {
            self.mark(false);
        }
        held
    }

    /// Takes away the marks of this slot, whose owner is dead, and which nobody else can have meanwhile.
    pub(super) fn forget(&self) {
        if self.words.load(self.row()) & self.bit() != 0 {
            self.end_read();
        }
        self.give_back_turn();
        let before = self.update(|word| (word.writer() == Some(self.slot)).then(|| word.without_writer()));
        if before.writer() == Some(self.slot) {
            self.wake_next(before);
        }
    }
}

/// By which bits those of a slot sleep: one as readers, one as writers.
fn mask(slot: Slot) -> u32 {
    let bit = 1 << (slot.number() % 16);
    bit | bit << 16
}
