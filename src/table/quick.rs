//! The short way of what is done most: adding, replacing, updating and removing the only binding of a key, where
//! nothing but one bucket changes.
//!
//! It does to the object what a [`Transaction`](super::journal::Transaction) does, in the same order, but decides
//! everything by one look at the header and the bucket, before it writes anything. Whatever is out of the ordinary (an
//! overflow block, a full bucket, a bucket to be taken into use, a free block to be used or made, an object to be enlarged,
//! a dead writer, anything that looks wrong) is left to the long way, as if nobody had looked.
//!
//! This module takes no lock, and makes no room.

use std::cell::Cell;

use manycore_backends::ShmBackend;
use manycore_backends::generation::Generation;
use manycore_backends::shm::Window;

use super::bindings::{Bucket, Head, Route};
use super::error::Result;
use super::heap::Deferred;
use super::journal::is_odd;
use super::layout::*;
use super::view::{Look, View};

/// As many journal entries as are needed here, but by [`rewrite`](Ground::rewrite).
const ENTRIES: usize = 8;

/// A bucket in order, in a table in order, as a writer finds them. Nobody else changes them.
struct Ground<'v, 'a, B: ShmBackend> {
    view: &'v View<'a, B>,
    head: Head,
    bucket: Bucket,
    transaction: u32,
    journal: u32,
    top: u32,
    bindings: u32,
    keys: u32,
    deferred: u32,
}

impl<'v, 'a, B: ShmBackend> Ground<'v, 'a, B> {
    /// Looks at where `key` belongs.
    #[inline(always)]
    fn look(view: &'v View<'a, B>, route: &Route, key: i32) -> Look<Option<Ground<'v, 'a, B>>> {
        let head = view.head()?;
        let Some(at) = route.place(&head) else { return Ok(None) };
        let words = view.memory().read_array(AT_TRANSACTION as usize)?;
        let [transaction, _, _, journal, top, bindings, keys, deferred] = words;
        if is_odd(transaction) || !view.is_top(top) {
            return Ok(None);
        }
        let bucket = view.read_bucket(at, key)?;
        if is_odd(bucket.sequence) || bucket.has_more() {
            return Ok(None);
        }
        Ok(Some(Ground { view, head, bucket, transaction, journal, top, bindings, keys, deferred }))
    }

    /// Gives the bucket, from which readers are kept away, these kinds, and the table so many more bindings and keys, and
    /// lets readers in again.
    #[inline(always)]
    fn change(&self, kinds: u32, more: i32) -> Result<()> {
        self.note(self.counted().as_flattened())?;
        self.count(kinds, more)
    }

    /// The entries for what [`count`](Ground::count) changes.
    #[inline(always)]
    fn counted(&self) -> [[u32; 2]; 3] {
        let kinds_at = self.bucket.at + BUCKET_KINDS;
        [[kinds_at, self.bucket.kinds], [AT_BINDINGS, self.bindings], [AT_KEYS, self.keys]]
    }

    /// The same as [`change`](Ground::change), where all that is needed was noted.
    #[inline(always)]
    fn count(&self, kinds: u32, more: i32) -> Result<()> {
        self.view.store(self.bucket.at + BUCKET_KINDS, kinds)?;
        let counts = [self.bindings, self.keys].map(|count| count.wrapping_add_signed(more));
        self.view.memory().write(AT_BINDINGS as usize, &counts)?;
        self.close_bucket()
    }

    /// Keeps readers away from the bucket.
    #[inline(always)]
    fn open_bucket(&self) -> Look<()> {
        let (view, at) = (self.view, self.bucket.at);
        view.memory().write(AT_TRANSACTION as usize, &[self.transaction | 1, 0, at])?;
        view.store(at, self.bucket.sequence | 1)
    }

    /// Fills the journal, which is empty, with these entries.
    #[inline(always)]
    fn note(&self, entries: &[u32]) -> Look<()> {
        self.view.memory().write((self.journal + JOURNAL_WORDS) as usize, entries)?;
        self.view.store(AT_JOURNAL_LENGTH, entries.len() as u32 / 2)
    }

    /// Makes what was done to the bucket happen.
    #[inline(always)]
    fn close_bucket(&self) -> Result<()> {
        // If it is not there any more, whoever takes the lock next undoes it, as after a death.
        self.view.confirm()?;
        self.view.store(AT_JOURNAL_LENGTH, 0)?;
        self.view.store(self.bucket.at, self.bucket.sequence.wrapping_add(2))?;
        Ok(self.view.store(AT_TRANSACTION, self.transaction.wrapping_add(2))?)
    }

    /// Gives a slot that has a word another one: in one store, which happens or does not, and of which no reader can see
    /// half.
    #[inline(always)]
    fn replace(&self, slot: u32, word: i32) -> Result<()> {
        self.view.store(self.bucket.at + BUCKET_VALUES + slot, word as u32)?;
        self.view.confirm()?;
        Ok(self.view.store(AT_TRANSACTION, self.transaction.wrapping_add(2))?)
    }

    /// Whether the journal is where it should be, and has room for so many entries.
    #[inline(always)]
    fn has_journal(&self, entries: usize) -> bool {
        let is_it = |head: BlockHead| {
            let words = (head.granules * GRANULE - JOURNAL_WORDS) as usize;
            head.kind == Kind::Journal && entries + JOURNAL_SPARE as usize <= words / 2
        };
        self.view.block(self.journal).is_ok_and(is_it)
    }

    /// Adds a key that is not there.
    #[inline(always)]
    fn add(&self, key: i32, word: i32) -> Result<Option<()>> {
        let Some(slot) = self.bucket.free_slot() else { return Ok(None) };
        if !self.head.has_room(self.keys) || !self.has_journal(ENTRIES) {
            return Ok(None);
        }
        let (kinds, place) = (self.bucket.kinds | SLOT_WORD << (2 * slot), self.bucket.at + slot);
        self.open_bucket()?;
        self.view.store(place + BUCKET_KEYS, key as u32)?;
        self.view.store(place + BUCKET_VALUES, word as u32)?;
        self.change(kinds, 1)?;
        Ok(Some(()))
    }

    /// The same with a record: where one was given up that was as long, or at the end of the heap.
    fn add_record(&self, key: i32, value: &[i32]) -> Result<Option<()>> {
        let Some(slot) = self.bucket.free_slot() else { return Ok(None) };
        if !self.head.has_room(self.keys) || !self.has_journal(ENTRIES) {
            return Ok(None);
        }
        let at = match room_for(self.view, value) {
            Ok(Some(room)) => self.take(room, key, value)?,
            Ok(None) => match self.room_at_top(value) {
                Ok(Some((head, end))) => self.take_top(head, end, key, value)?,
                _ => return Ok(None),
            },
            Err(_) => return Ok(None),
        };
        self.view.store(self.bucket.at + BUCKET_KEYS + slot, key as u32)?;
        let word = record_word(at, record_granules(value.len()), 0);
        self.view.store(self.bucket.at + BUCKET_VALUES + slot, word)?;
        self.count(self.bucket.kinds | SLOT_RECORD << (2 * slot), 1)?;
        Ok(Some(()))
    }

    /// Puts a record where one was given up, after all is noted that will change.
    fn take(&self, room: Deferred, key: i32, value: &[i32]) -> Result<u32> {
        let place = AT_DEFERRED_RECORDS + room.index;
        let moved = self.view.load(AT_DEFERRED_RECORDS + room.last)?;
        self.open_bucket()?;
        let [kinds, bindings, keys] = self.counted();
        let entries = [kinds, bindings, keys, [AT_DEFERRED, room.last + 1], [place, room.at]];
        self.note(entries.as_flattened())?;
        self.view.store(place, moved)?;
        self.view.store(AT_DEFERRED, room.last)?;
        self.fill_record(room.at, key, value)?;
        Ok(room.at)
    }

    /// The same at the end of the heap.
    fn take_top(&self, head: BlockHead, end: u32, key: i32, value: &[i32]) -> Result<u32> {
        self.open_bucket()?;
        let [kinds, bindings, keys] = self.counted();
        self.note([kinds, bindings, keys, [AT_TOP, self.top]].as_flattened())?;
        self.view.store(self.top, head.word())?;
        self.fill_record(self.top, key, value)?;
        self.view.store(AT_TOP, end)?;
        Ok(self.top)
    }

    /// Writes a record that hides none, but for its first word.
    fn fill_record(&self, at: u32, key: i32, value: &[i32]) -> Result<()> {
        let head = [value.len() as u32, 0, key as u32];
        self.view.memory().write((at + RECORD_LENGTH) as usize, &head)?;
        Ok(self.view.memory().write((at + RECORD_WORDS) as usize, bytemuck::cast_slice(value))?)
    }

    /// The first word of the block for a value, and where the heap ends if it begins where that ends now, as it must unless
    /// there are free blocks that are long enough, or the object is too short.
    #[inline(always)]
    fn room_at_top(&self, value: &[i32]) -> Look<Option<(BlockHead, u32)>> {
        let granules = record_granules(value.len());
        if class_for(granules).is_none() || self.view.class_with_room(granules)?.is_some() {
            return Ok(None);
        }
        let end = self.top.checked_add(granules * GRANULE).filter(|end| self.view.is_top(*end));
        Ok(end.map(|end| (BlockHead::new(Kind::Record, granules), end)))
    }

    /// The record of the slot, if it is plain, and may be in the heap. It comes from memory, for who will use its room.
    fn plain(&self, slot: u32) -> Look<Option<u32>> {
        let word = self.view.load(self.bucket.at + BUCKET_VALUES + slot)?;
        let at = record_place(word);
        let in_heap = (HEADER_WORDS..self.top).contains(&at) && at % GRANULE == 0;
        self.view.memory().prefetch(at as usize);
        Ok((word != at && in_heap).then_some(at))
    }

    /// Gives a key whose value is in a record another value, in the place of a record that was given up. The old record is
    /// given up in turn.
    fn replace_record(&self, slot: u32, room: Deferred, key: i32, value: &[i32]) -> Result<Option<()>> {
        let Ok(Some(old)) = self.plain(slot) else { return Ok(None) };
        if !self.has_journal(ENTRIES) {
            return Ok(None);
        }
        let (link, place) = (self.bucket.at + BUCKET_VALUES + slot, AT_DEFERRED_RECORDS + room.index);
        self.open_bucket()?;
        self.note([[link, old | PLAIN], [place, room.at]].as_flattened())?;
        self.fill_record(room.at, key, value)?;
        self.view.store(link, record_word(room.at, record_granules(value.len()), 0))?;
        self.view.store(place, old)?;
        self.close_bucket()?;
        Ok(Some(()))
    }

    /// Writes entries for so many words beginning at `at` to `entries`.
    #[inline(always)]
    fn note_words(&self, at: u32, words: u32, entries: u32) -> Look<()> {
        const PIECE: u32 = 16;
        let memory = self.view.memory();
        let whole = words - words % PIECE;
        for from in (0..whole).step_by(PIECE as usize) {
            let mut old = [0; PIECE as usize];
            memory.read((at + from) as usize, &mut old)?;
            let mut notes = [[0; 2]; PIECE as usize];
            for (index, note) in notes.iter_mut().enumerate() {
                *note = [at + from + index as u32, old[index]];
            }
            memory.write((entries + 2 * from) as usize, notes.as_flattened())?;
        }
        for from in whole..words {
            memory.write((entries + 2 * from) as usize, &[at + from, memory.load((at + from) as usize)?])?;
        }
        Ok(())
    }

    /// Gives the record `at` another value, if it has room for just that.
    ///
    /// Its words are changed where they are, because they are on their way from memory anyway; all are noted.
    fn rewrite(&self, at: u32, key: i32, value: &[i32]) -> Result<Option<()>> {
        let (view, words) = (self.view, value.len() as u32);
        if !self.has_journal(value.len() + 1) {
            return Ok(None);
        }
        for line in (BUCKET_WORDS..RECORD_WORDS + words).step_by(BUCKET_WORDS as usize) {
            view.memory().prefetch(at as usize + line as usize);
        }
        let Ok(record) = view.record(at, key) else { return Ok(None) };
        if record.granules != record_granules(value.len()) {
            return Ok(None);
        }
        let (memory, start) = (view.memory(), at + RECORD_WORDS);
        self.open_bucket()?;
        let entries = self.journal + JOURNAL_WORDS;
        memory.write(entries as usize, &[at + RECORD_LENGTH, record.length])?;
        self.note_words(start, words, entries + 2)?;
        view.store(AT_JOURNAL_LENGTH, 1 + words)?;
        view.store(at + RECORD_LENGTH, words)?;
        memory.write(start as usize, bytemuck::cast_slice(value))?;
        self.close_bucket()?;
        Ok(Some(()))
    }

    /// Removes a key with one binding, whose value is in a record.
    fn remove_record(&self, slot: u32) -> Result<Option<bool>> {
        if self.deferred >= DEFERRED_MAX || !self.has_journal(ENTRIES) {
            return Ok(None);
        }
        let Ok(Some(old)) = self.plain(slot) else { return Ok(None) };
        self.open_bucket()?;
        let [kinds, bindings, keys] = self.counted();
        self.note([kinds, bindings, keys, [AT_DEFERRED, self.deferred]].as_flattened())?;
        self.view.store(AT_DEFERRED_RECORDS + self.deferred, old)?;
        self.view.store(AT_DEFERRED, self.deferred + 1)?;
        self.count(self.bucket.kinds & !(3 << (2 * slot)), -1)?;
        Ok(Some(true))
    }
}

/// A deferred record that is as long as the value needs.
#[inline(always)]
fn room_for<B: ShmBackend>(view: &View<'_, B>, value: &[i32]) -> Look<Option<Deferred>> {
    let granules = record_granules(value.len());
    let room = view.deferred_of(granules)?;
    if let Some(Deferred { at, .. }) = room {
        for line in (BUCKET_WORDS..granules * GRANULE).step_by(BUCKET_WORDS as usize) {
            view.memory().prefetch(at as usize + line as usize);
        }
    }
    Ok(room)
}

/// Adds a binding of a key that has none.
#[inline(always)]
pub(super) fn add<B: ShmBackend>(
    view: &View<'_, B>,
    route: &Route,
    key: i32,
    value: &[i32],
) -> Result<Option<()>> {
    let &[word] = value else { return add_record(*view, *route, key, value) };
    match Ground::look(view, route, key) {
        Ok(Some(ground)) if ground.bucket.slot_of_key().is_none() => ground.add(key, word),
        _ => Ok(None),
    }
}

/// Whether a value needs a record, wherever it is to be.
fn needs_record(value: &[i32]) -> bool {
    (2..=VALUE_MAX).contains(&value.len())
}

/// The same if the value needs a record.
// It and its like take copies, so that who does not come here can keep what it has in registers.
#[inline(never)]
fn add_record<B: ShmBackend>(view: View<'_, B>, route: Route, key: i32, value: &[i32]) -> Result<Option<()>> {
    match Ground::look(&view, &route, key) {
        Ok(Some(ground)) if needs_record(value) && ground.bucket.slot_of_key().is_none() => {
            ground.add_record(key, value)
        }
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
    let &[word] = value else { return replace_record(*view, *route, key, value) };
    let Ok(Some(ground)) = Ground::look(view, route, key) else { return Ok(None) };
    let Some((slot, kind)) = ground.bucket.slot_of_key() else { return ground.add(key, word) };
    if kind != SLOT_WORD {
        return Ok(None);
    }
    ground.replace(slot, word)?;
    Ok(Some(()))
}

/// The same if the value needs a record.
#[inline(never)]
fn replace_record<B: ShmBackend>(
    view: View<'_, B>,
    route: Route,
    key: i32,
    value: &[i32],
) -> Result<Option<()>> {
    if !needs_record(value) {
        return Ok(None);
    }
    // Its lines come from memory while the bucket does.
    let room = room_for(&view, value);
    let Ok(Some(ground)) = Ground::look(&view, &route, key) else { return Ok(None) };
    match (ground.bucket.slot_of_key(), room) {
        (None, _) => ground.add_record(key, value),
        (Some((slot, SLOT_RECORD)), Ok(Some(room))) => ground.replace_record(slot, room, key, value),
        // Records of many lengths take turns.
        (Some((slot, SLOT_RECORD)), Ok(None)) if ground.deferred == DEFERRED_MAX => {
            match view.load(ground.bucket.at + BUCKET_VALUES + slot) {
                Ok(word) => ground.rewrite(record_place(word), key, value),
                Err(_) => Ok(None),
            }
        }
        _ => Ok(None),
    }
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
    if kind == SLOT_RECORD {
        return remove_record(*view, *route, key);
    }
    if !ground.has_journal(ENTRIES) {
        return Ok(None);
    }
    ground.open_bucket()?;
    ground.change(ground.bucket.kinds & !(3 << (2 * slot)), -1)?;
    Ok(Some(true))
}

/// The same if its value is in a record.
#[inline(never)]
fn remove_record<B: ShmBackend>(view: View<'_, B>, route: Route, key: i32) -> Result<Option<bool>> {
    match Ground::look(&view, &route, key) {
        Ok(Some(ground)) => match ground.bucket.slot_of_key() {
            Some((slot, SLOT_RECORD)) => ground.remove_record(slot),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}
