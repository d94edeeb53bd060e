//! The undo journal: what makes an operation or group happen as a whole or not at all.
//!
//! A [`Transaction`] is a writer's view of the object: [`put`](Transaction::put) changes a word that can be
//! reached, [`fill`](Transaction::fill) writes where nobody can look yet. The format and the protocol are in
//! [`layout`](super::layout).
//!
//! This module does not know what the words mean, and does not hold the lock.

use manycore_backends::ShmBackend;
use manycore_backends::shm::Memory;

use super::error::{Result, TableError};
use super::layout::*;
use super::view::View;

/// Changes in progress, undone unless committed.
pub(super) struct Transaction<'a, B: ShmBackend> {
    view: View<'a, B>,
    /// The journal block, its capacity, and the entries in it; copies of what the object says, which nobody
    /// else changes while the write lock is held.
    area: u32,
    capacity: u32,
    length: u32,
    /// Something could not be undone: what remains must not be committed.
    broken: bool,
    /// Blocks given up, with their class; free when the transaction is committed.
    pub(super) given_up: Vec<(u32, u32)>,
    /// Room for a value and its replacement, kept for the next operation.
    pub(super) buffers: [Vec<u32>; 2],
}

/// A moment in a transaction to which it can be undone.
#[derive(Clone, Copy)]
pub(super) struct Savepoint {
    length: u32,
    given_up: usize,
}

impl<'a, B: ShmBackend> Transaction<'a, B> {
    /// Begins a transaction. The write lock must be held; what a dead writer left undone is undone first.
    pub(super) fn begin(view: View<'a, B>) -> Result<Transaction<'a, B>> {
        let length = view.load(AT_JOURNAL_LENGTH)?;
        if length != 0 {
            undo(&view, length, 0)?;
        }
        // What was undone may be anything, if the journal was not ours.
        let view = view.again()?;
        let area = view.load(AT_JOURNAL)?;
        let capacity = capacity(&view, area)?;
        Ok(Transaction {
            view,
            area,
            capacity,
            length: 0,
            broken: false,
            given_up: Vec::new(),
            buffers: Default::default(),
        })
    }

    pub(super) fn view(&self) -> &View<'a, B> {
        &self.view
    }

    /// Changes the word `at`, noting what it was.
    pub(super) fn put(&mut self, at: u32, value: u32) -> Result<()> {
        if self.view.load(at)? == value {
            return Ok(());
        }
        self.keep(at)?;
        self.view.store(at, value)
    }

    /// Notes what the word `at` is, so that it can be changed in any way.
    pub(super) fn keep(&mut self, at: u32) -> Result<()> {
        self.make_room()?;
        let old = self.view.load(at)?;
        self.note(at, old)
    }

    /// Makes sure that the next entry has room. This may move the journal, and so change the top: a change
    /// that is computed from the top begins with this.
    pub(super) fn make_room(&mut self) -> Result<()> {
        if self.length + JOURNAL_SPARE >= self.capacity { self.move_journal() } else { Ok(()) }
    }

    /// Writes words that nobody can reach before the transaction links to them.
    pub(super) fn fill(&self, at: u32, words: &[u32]) -> Result<()> {
        Ok(self.view.memory().write(at as usize, words)?)
    }

    /// Makes everything since the beginning happen.
    pub(super) fn finish(&mut self) -> Result<()> {
        let disposed = self.dispose();
        self.view.believe(disposed)?;
        self.commit()
    }

    /// Undoes everything since the beginning.
    pub(super) fn abandon(&mut self) -> Result<()> {
        let undone = self.try_undo_to(Savepoint { length: 0, given_up: 0 });
        self.view.believe(undone)
    }

    fn commit(&mut self) -> Result<()> {
        debug_assert!(self.given_up.is_empty());
        if self.broken {
            return Err(TableError::Corrupt {
                at: AT_JOURNAL as usize,
                what: "a part of the group could not be undone",
            });
        }
        self.view.believe(Ok(()))?;
        if self.length != 0 {
            self.view.store(AT_JOURNAL_LENGTH, 0)?;
            self.length = 0;
        }
        Ok(())
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint { length: self.length, given_up: self.given_up.len() }
    }

    /// Undoes everything since `savepoint`. If that fails, the whole transaction will.
    pub(super) fn undo_to(&mut self, savepoint: Savepoint) {
        self.broken |= self.try_undo_to(savepoint).is_err();
    }

    fn try_undo_to(&mut self, savepoint: Savepoint) -> Result<()> {
        undo(&self.view, self.length, savepoint.length)?;
        self.length = savepoint.length;
        self.given_up.truncate(savepoint.given_up);
        self.area = self.view.load(AT_JOURNAL)?;
        self.capacity = capacity(&self.view, self.area)?;
        Ok(())
    }

    fn note(&mut self, at: u32, old: u32) -> Result<()> {
        let entry = self.area + 1 + 2 * self.length;
        self.view.memory().write(entry as usize, &[at, old])?;
        self.length += 1;
        self.view.store(AT_JOURNAL_LENGTH, self.length)
    }

    /// Moves the journal to a block of about twice the size. The spare entries have room for what this
    /// itself changes: the top, and the journal's place.
    fn move_journal(&mut self) -> Result<()> {
        let class = class_for(1 + 2 * self.capacity).ok_or(TableError::FormatFull)?;
        let bigger = class + 2;
        if bigger >= CLASSES {
            return Err(TableError::FormatFull);
        }
        let words = class_words(bigger);
        let top = self.view.load(AT_TOP)?;
        let end = top.checked_add(words).ok_or(TableError::FormatFull)?;
        self.view.reach(end)?;
        let old_area = self.area;
        self.note(AT_TOP, top)?;
        self.view.store(AT_TOP, end)?;
        self.note(AT_JOURNAL, old_area)?;
        let mut entry = [0; 2];
        for index in 0..self.length {
            self.view.memory().read((old_area + 1 + 2 * index) as usize, &mut entry)?;
            self.view.memory().write((top + 1 + 2 * index) as usize, &entry)?;
        }
        let capacity = (words - 1) / 2;
        self.view.store(top, capacity)?;
        self.view.store(AT_JOURNAL, top)?;
        self.area = top;
        self.capacity = capacity;
        self.given_up.push((old_area, class));
        Ok(())
    }
}

impl<B: ShmBackend> Drop for Transaction<'_, B> {
    fn drop(&mut self) {
        // Not committed: an error or a panic. If undoing fails, because the object is corrupt or was cut off,
        // the journal remains and the next writer is told.
        if self.length != 0 {
            let _ = undo(&self.view, self.length, 0);
        }
    }
}

/// The capacity of the journal block at `area`, checked.
fn capacity<B: ShmBackend>(view: &View<'_, B>, area: u32) -> Result<u32> {
    let capacity = view.load(area)?;
    let end = u64::from(area) + 1 + 2 * u64::from(capacity);
    if area < HEADER_WORDS
        || capacity <= 2 * JOURNAL_SPARE
        || end > view.memory().words() as u64
        || end > u64::from(u32::MAX)
    {
        return Err(TableError::Corrupt { at: area as usize, what: "the journal does not fit the object" });
    }
    Ok(capacity)
}

/// Undoes the entries from `length` down to `to`, newest first.
fn undo<B: ShmBackend>(view: &View<'_, B>, length: u32, to: u32) -> Result<()> {
    let mut area = view.load(AT_JOURNAL)?;
    let mut capacity_here = capacity(view, area)?;
    let mut entry = [0; 2];
    for index in (to..length).rev() {
        if index >= capacity_here {
            return Err(TableError::Corrupt {
                at: AT_JOURNAL_LENGTH as usize,
                what: "the journal is longer than its block",
            });
        }
        view.memory().read((area + 1 + 2 * index) as usize, &mut entry)?;
        let [at, old] = entry;
        // Zeros of a journal that was cut off are no entries.
        view.believe(Ok(()))?;
        if at < AT_TOP || at == AT_JOURNAL_LENGTH {
            return Err(TableError::Corrupt {
                at: area as usize,
                what: "the journal has an entry for a word that never changes",
            });
        }
        view.store(at, old)?;
        if at == AT_JOURNAL {
            area = old;
            capacity_here = capacity(view, area)?;
        }
        view.store(AT_JOURNAL_LENGTH, index)?;
    }
    Ok(())
}
