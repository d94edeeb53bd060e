//! The short way of what is done most: adding, replacing, updating and removing a binding whose value is one word, where
//! nothing but one bucket changes.
//!
//! It does to the object what a [`Transaction`](super::journal::Transaction) does, in the same order, but decides
//! everything by one look at the header and the bucket, before it writes anything. Whatever is out of the ordinary (an
//! overflow block, a record, a full bucket, a bucket to be taken into use, a dead writer, anything that looks wrong) is
//! left to the long way, as if nobody had looked.
//!
//! This module takes no lock, and makes no room.

use std::cell::Cell;

use manycore_backends::ShmBackend;
use manycore_backends::generation::Generation;
use manycore_backends::shm::Window;

use super::bindings::{Bucket, Head, Route};
use super::error::Result;
use super::journal::is_odd;
use super::layout::*;
use super::view::{Look, View};

/// A bucket in order, in a table in order, as a writer finds them. Nobody else changes them.
struct Ground<'v, 'a, B: ShmBackend> {
    view: &'v View<'a, B>,
    head: Head,
    bucket: Bucket,
    transaction: u32,
    journal: u32,
    bindings: u32,
    keys: u32,
}

impl<'v, 'a, B: ShmBackend> Ground<'v, 'a, B> {
    /// Looks at where `key` belongs.
    #[inline(always)]
    fn look(view: &'v View<'a, B>, route: &Route, key: i32) -> Look<Option<Ground<'v, 'a, B>>> {
        let head = view.head()?;
        let Some(at) = route.place(&head) else { return Ok(None) };
        let words = view.memory().read_array(AT_TRANSACTION as usize)?;
        let [transaction, _, _, journal, top, bindings, keys] = words;
        if is_odd(transaction) || !view.is_top(top) {
            return Ok(None);
        }
        let bucket = view.read_bucket(at, key)?;
        if is_odd(bucket.sequence) || bucket.has_more() {
            return Ok(None);
        }
        Ok(Some(Ground { view, head, bucket, transaction, journal, bindings, keys }))
    }

    /// Gives the bucket these kinds, and the table so many more bindings and keys. `fill` writes what the kinds will
    /// tell of, where nothing is now.
    #[inline(always)]
    fn change(&self, kinds: u32, more: i32, fill: impl FnOnce() -> Look<()>) -> Result<()> {
        let Ground { view, bucket, transaction, .. } = self;
        let (memory, at) = (view.memory(), bucket.at);
        memory.write(AT_TRANSACTION as usize, &[transaction | 1, 0, at])?;
        view.store(at, bucket.sequence | 1)?;
        fill()?;
        let entries = [at + BUCKET_KINDS, bucket.kinds, AT_BINDINGS, self.bindings, AT_KEYS, self.keys];
        memory.write((self.journal + JOURNAL_WORDS) as usize, &entries)?;
        view.store(AT_JOURNAL_LENGTH, entries.len() as u32 / 2)?;
        view.store(at + BUCKET_KINDS, kinds)?;
        let counts = [self.bindings, self.keys].map(|count| count.wrapping_add_signed(more));
        memory.write(AT_BINDINGS as usize, &counts)?;
        // If it is not there any more, whoever takes the lock next undoes it, as after a death.
        view.confirm()?;
        view.store(AT_JOURNAL_LENGTH, 0)?;
        view.store(at, bucket.sequence.wrapping_add(2))?;
        Ok(view.store(AT_TRANSACTION, transaction.wrapping_add(2))?)
    }

    /// Gives a slot that has a word another one: in one store, which happens or does not, and of which no reader can see
    /// half.
    #[inline(always)]
    fn replace(&self, slot: u32, word: i32) -> Result<()> {
        self.view.store(self.bucket.at + BUCKET_VALUES + slot, word as u32)?;
        self.view.confirm()?;
        Ok(self.view.store(AT_TRANSACTION, self.transaction.wrapping_add(2))?)
    }

    /// Whether the journal is where it should be; as long as it is empty, it has room for what is noted here.
    #[inline(always)]
    fn has_journal(&self) -> bool {
        self.view.block(self.journal).is_ok_and(|head| head.kind == Kind::Journal && head.granules >= 8)
    }

    /// Adds a key that is not there.
    #[inline(always)]
    fn add(&self, key: i32, word: i32) -> Result<Option<()>> {
        let Some(slot) = self.bucket.free_slot() else { return Ok(None) };
        if !self.head.has_room(self.keys) || !self.has_journal() {
            return Ok(None);
        }
        let (kinds, place) = (self.bucket.kinds | SLOT_WORD << (2 * slot), self.bucket.at + slot);
        self.change(kinds, 1, || {
            self.view.store(place + BUCKET_KEYS, key as u32)?;
            self.view.store(place + BUCKET_VALUES, word as u32)
        })?;
        Ok(Some(()))
    }
}

/// Adds a binding of a key that has none.
#[inline(always)]
pub(super) fn add<B: ShmBackend>(
    view: &View<'_, B>,
    route: &Route,
    key: i32,
    value: &[i32],
) -> Result<Option<()>> {
    let &[word] = value else { return Ok(None) };
    match Ground::look(view, route, key) {
        Ok(Some(ground)) if ground.bucket.slot_of_key().is_none() => ground.add(key, word),
        _ => Ok(None),
    }
}

/// Replaces the only binding of a key, or adds one if it has none.
#[inline(always)]
pub(super) fn replace<B: ShmBackend>(
    view: &View<'_, B>,
    route: &Route,
    key: i32,
    value: &[i32],
) -> Result<Option<()>> {
    let &[word] = value else { return Ok(None) };
    let Ok(Some(ground)) = Ground::look(view, route, key) else { return Ok(None) };
    let Some((slot, kind)) = ground.bucket.slot_of_key() else { return ground.add(key, word) };
    if kind != SLOT_WORD {
        return Ok(None);
    }
    ground.replace(slot, word)?;
    Ok(Some(()))
}

/// A value that is computed from the one before; once, whichever way is gone then.
pub(super) enum Change<F, V> {
    /// Yet to be computed.
    Asked(F),
    /// What came of it: none is to be there any more.
    Answered(Option<V>),
}

impl<V, F: FnOnce(Option<&[i32]>) -> Option<V>> Change<F, V> {
    pub(super) fn answer(self, old: Option<&[i32]>) -> Option<V> {
        match self {
            Change::Asked(compute) => compute(old),
            Change::Answered(value) => value,
        }
    }
}

/// Replaces the value of a key by what is computed from it, if both have one word. If only the first has, the answer is left
/// in `change`.
#[inline(always)]
pub(super) fn update<B: ShmBackend, V: AsRef<[i32]>, F: FnOnce(Option<&[i32]>) -> Option<V>>(
    view: &View<'_, B>,
    route: &Route,
    key: i32,
    generation: Generation,
    change: &Cell<Option<Change<F, V>>>,
) -> Result<Option<()>> {
    let Ok(Some(ground)) = Ground::look(view, route, key) else { return Ok(None) };
    let Some((slot, SLOT_WORD)) = ground.bucket.slot_of_key() else { return Ok(None) };
    let place = ground.bucket.at + BUCKET_VALUES + slot;
    let Ok(old) = view.load(place) else { return Ok(None) };
    let Some(asked) = change.take() else { return Ok(None) };
    let new = asked.answer(Some(&[old as i32]));
    match new.as_ref().map(AsRef::as_ref) {
        // A child that was forked meanwhile changes nothing.
        Some(&[word]) if generation.is_current() => {
            ground.replace(slot, word)?;
            Ok(Some(()))
        }
        _ => {
            change.set(Some(Change::Answered(new)));
            Ok(None)
        }
    }
}

/// Removes the only binding of a key. Whether there was one.
#[inline(always)]
pub(super) fn remove<B: ShmBackend>(view: &View<'_, B>, route: &Route, key: i32) -> Result<Option<bool>> {
    let Ok(Some(ground)) = Ground::look(view, route, key) else { return Ok(None) };
    let Some((slot, kind)) = ground.bucket.slot_of_key() else {
        view.confirm()?;
        return Ok(Some(false));
    };
    if ![SLOT_EMPTY, SLOT_WORD].contains(&kind) || !ground.has_journal() {
        return Ok(None);
    }
    ground.change(ground.bucket.kinds & !(3 << (2 * slot)), -1, || Ok(()))?;
    Ok(Some(true))
}
