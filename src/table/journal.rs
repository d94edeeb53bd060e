//! The undo journal: what makes an operation or group happen as a whole or not at all.
//!
//! A [`Transaction`] is a writer's view of the object: [`put`](Transaction::put) changes a word that can be
//! reached, [`fill`](Transaction::fill) writes where nobody can look yet. The format and the protocol are in
//! [`layout`](super::layout).
//!
//! This module does not know what the words mean, and does not hold the lock.

use manycore_backends::ShmBackend;
use manycore_backends::generation::Generation;
use manycore_backends::shm::{ShmError, Window};
use smallvec::SmallVec;

use super::bindings::{Bucket, Route};
use super::error::{TableError, Work};
use super::layout::*;
use super::view::{Look, View, corrupt};

/// What a transaction may change, and so which sequence word keeps readers away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// What hangs on one bucket, unless the transaction finds that it needs more.
    Bucket,
    /// Everything.
    Table,
}

/// Changes in progress, undone unless committed.
pub(super) struct Transaction<'a, B: ShmBackend> {
    object: &'a B,
    view: View<'a, B>,
    scope: Scope,
    /// The key that the only operation is about, and the way to its bucket, looked for before the lock was taken.
    route: Option<(i32, Route)>,
    /// The process that holds the lock: a child that it forks meanwhile does not, and changes nothing.
    generation: Generation,
    /// What the transaction word was, and whether it is odd now.
    before: u32,
    begun: bool,
    /// Whether the table's sequence word is odd.
    table_open: bool,
    /// The bucket whose sequence word is odd, or 0, and that word.
    bucket_open: u32,
    bucket_sequence: u32,
    /// The journal block, its capacity, and the entries in it; copies of what the object says, which nobody
    /// else changes while the write lock is held.
    area: u32,
    capacity: u32,
    length: u32,
    /// Something could not be undone: what remains must not be committed.
    broken: bool,
    /// Blocks given up; free when the transaction is committed.
    pub(super) given_up: SmallVec<[u32; 4]>,
}

/// What was counted.
pub(super) struct Counts {
    pub(super) keys: u32,
}

/// A moment in a transaction to which it can be undone.
#[derive(Clone, Copy)]
pub(super) struct Savepoint {
    length: u32,
    given_up: usize,
}

impl<'a, B: ShmBackend> Transaction<'a, B> {
    /// A transaction that is yet to be [started](Transaction::start). The write lock must be held.
    #[inline(always)]
    pub(super) fn new(object: &'a B, generation: Generation, scope: Scope) -> Transaction<'a, B> {
        Transaction {
            object,
            view: View::glance(object),
            scope,
            route: None,
            generation,
            before: 0,
            begun: false,
            table_open: false,
            bucket_open: 0,
            bucket_sequence: 0,
            area: 0,
            capacity: 0,
            length: 0,
            broken: false,
            given_up: SmallVec::new(),
        }
    }

    /// The same for one operation on `key`, whose bucket was looked for already.
    #[inline(always)]
    pub(super) fn on(
        object: &'a B,
        generation: Generation,
        key: i32,
        route: Option<Route>,
    ) -> Transaction<'a, B> {
        let mut transaction = Transaction::new(object, generation, Scope::Bucket);
        transaction.route = route.map(|route| (key, route));
        transaction
    }

    /// Finds out where things are. What a dead writer left undone is undone first.
    #[inline(always)]
    pub(super) fn start(&mut self) -> Work<()> {
        let [before, _, _, area, top] = self.view.memory().read_array(AT_TRANSACTION as usize)?;
        (self.before, self.area) = (before, area);
        if is_odd(before) || !self.view.is_top(top) {
            self.take_over()?;
        }
        self.capacity = capacity(&self.view, self.area)?;
        Ok(())
    }

    /// Learns of what others have added to the object, and ends what a dead writer left.
    #[cold]
    fn take_over(&mut self) -> Work<()> {
        self.view = View::new(self.object)?;
        if is_odd(self.view.load(AT_TRANSACTION)?) {
            // The dead writer may have grown the object and lowered the top again, and words above it are to be put back.
            self.view = View::enlarged(self.object)?;
            recover(&self.view)?;
            // What was undone may be anything, if the journal was not ours.
            self.view = View::new(self.object)?;
        }
        self.before = self.view.load(AT_TRANSACTION)?;
        self.area = self.view.load(AT_JOURNAL)?;
        Ok(())
    }

    /// Does all of `body`, or nothing.
    #[inline(always)]
    pub(super) fn run<T>(&mut self, body: impl FnOnce(&mut Self) -> Work<T>) -> Result<T, TableError> {
        match self.try_run(body) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.fail(*error)),
        }
    }

    #[inline(always)]
    fn try_run<T>(&mut self, body: impl FnOnce(&mut Self) -> Work<T>) -> Work<T> {
        self.start()?;
        let value = body(self)?;
        self.finish()?;
        Ok(value)
    }

    /// Whether this is the process that began: a closure may have forked.
    #[inline]
    pub(super) fn check_generation(&self) -> Result<(), TableError> {
        if self.generation.is_current() {
            Ok(())
        } else {
            Err(ShmError::Forked { name: self.object.name().to_owned() }.into())
        }
    }

    /// Undoes everything; the error to report.
    #[cold]
    pub(super) fn fail(&mut self, error: TableError) -> TableError {
        match self.abandon() {
            Ok(()) => self.view.explain(error),
            Err(worse) => worse,
        }
    }

    #[inline]
    pub(super) fn view(&self) -> &View<'a, B> {
        &self.view
    }

    /// The bucket to which `key` belongs.
    #[inline(always)]
    pub(super) fn bucket_of_key(&self, key: i32) -> Look<Bucket> {
        let route = self.route.as_ref().filter(|(of, _)| *of == key);
        self.view.bucket_by(route.map(|(_, route)| route), key)
    }

    #[inline]
    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Keeps readers away from what hangs on `bucket`, which is about to be changed.
    #[inline(always)]
    pub(super) fn open_bucket(&mut self, bucket: u32) -> Work<()> {
        if self.scope == Scope::Table || (self.bucket_open != 0 && self.bucket_open != bucket) {
            return self.open_table();
        }
        if self.bucket_open == 0 {
            let sequence = self.view.load(bucket)? | 1;
            if self.begun {
                self.view.store(AT_OPEN, bucket)?;
            } else {
                // The transaction word, the journal length and the open bucket, one after the other.
                self.fill(AT_TRANSACTION, &[self.before | 1, 0, bucket])?;
                self.begun = true;
            }
            self.view.store(bucket, sequence)?;
            (self.bucket_open, self.bucket_sequence) = (bucket, sequence);
        }
        Ok(())
    }

    /// Keeps readers away from the whole table.
    pub(super) fn open_table(&mut self) -> Work<()> {
        if !self.table_open {
            self.enter()?;
            let sequence = self.view.load(AT_SEQUENCE)?;
            self.view.store(AT_SEQUENCE, sequence | 1)?;
            self.table_open = true;
        }
        Ok(())
    }

    #[inline(always)]
    fn enter(&mut self) -> Work<()> {
        if !self.begun {
            self.view.store(AT_TRANSACTION, self.before | 1)?;
            self.begun = true;
        }
        Ok(())
    }

    /// Lets readers in again: what they see from here on is how it stays.
    #[inline(always)]
    fn release(&mut self) -> Work<()> {
        if !self.begun {
            return Ok(());
        }
        if self.bucket_open != 0 {
            self.view.store(self.bucket_open, self.bucket_sequence.wrapping_add(1))?;
        }
        if self.table_open {
            make_even(&self.view, AT_SEQUENCE)?;
        }
        self.before = (self.before | 1).wrapping_add(1);
        self.view.store(AT_TRANSACTION, self.before)?;
        (self.begun, self.table_open, self.bucket_open) = (false, false, 0);
        Ok(())
    }

    /// Changes the word `at`, noting what it was.
    #[inline]
    pub(super) fn put(&mut self, at: u32, value: u32) -> Work<()> {
        match self.try_put(at, value) {
            Some(()) => Ok(()),
            None => self.put_after_all(at, value),
        }
    }

    /// The same if all is well and the journal has room, as mostly.
    #[inline(always)]
    fn try_put(&mut self, at: u32, value: u32) -> Option<()> {
        let memory = self.view.memory();
        let old = memory.load(at as usize).ok()?;
        if old == value {
            return Some(());
        }
        if self.length >= self.capacity.saturating_sub(JOURNAL_SPARE) {
            return None;
        }
        debug_assert!(self.begun, "readers are kept away first");
        let entry = self.area + JOURNAL_WORDS + 2 * self.length;
        memory.write(entry as usize, &[at, old]).ok()?;
        let length = self.length + 1;
        memory.store(AT_JOURNAL_LENGTH as usize, length).ok()?;
        self.length = length;
        memory.store(at as usize, value).ok()
    }

    /// The same if the journal must move before, or whatever is wrong is to be told.
    #[cold]
    #[inline(never)]
    fn put_after_all(&mut self, at: u32, value: u32) -> Work<()> {
        let old = self.view.load(at)?;
        if old == value {
            return Ok(());
        }
        self.make_room(1)?;
        self.note(at, old)?;
        Ok(self.view.store(at, value)?)
    }

    /// Changes the word `at` and the numbers of bindings and keys by so many, noting what they were.
    #[inline(always)]
    pub(super) fn put_and_count(&mut self, at: u32, value: u32, bindings: i32, keys: i32) -> Work<Counts> {
        self.make_room(3)?;
        debug_assert!(self.begun, "readers are kept away first");
        let [old_bindings, old_keys] = self.view.memory().read_array(AT_BINDINGS as usize)?;
        let old = self.view.load(at)?;
        let entries = [at, old, AT_BINDINGS, old_bindings, AT_KEYS, old_keys];
        self.fill(self.area + JOURNAL_WORDS + 2 * self.length, &entries)?;
        self.length += 3;
        self.view.store(AT_JOURNAL_LENGTH, self.length)?;
        self.view.store(at, value)?;
        let bindings = old_bindings.wrapping_add_signed(bindings);
        let keys = old_keys.wrapping_add_signed(keys);
        self.fill(AT_BINDINGS, &[bindings, keys])?;
        Ok(Counts { keys })
    }

    /// Notes what the word `at` is, so that it can be changed in any way.
    pub(super) fn keep(&mut self, at: u32) -> Work<()> {
        self.make_room(1)?;
        let old = self.view.load(at)?;
        self.note(at, old)
    }

    /// Counts a change that is one store, for those who look for changes since. It may come too late for them, but only
    /// until the next change.
    #[inline(always)]
    pub(super) fn count_change(&mut self) -> Work<()> {
        if !self.begun {
            self.before = self.before.wrapping_add(2);
            self.view.store(AT_TRANSACTION, self.before)?;
        }
        Ok(())
    }

    /// Makes sure that the next so many entries have room. This may move the journal, and so change the top: what is
    /// computed from the top is computed after it.
    #[inline]
    pub(super) fn make_room(&mut self, entries: u32) -> Work<()> {
        while self.length.saturating_add(entries).saturating_add(JOURNAL_SPARE) > self.capacity {
            self.move_journal()?;
        }
        Ok(())
    }

    /// Makes the words below `end` exist.
    pub(super) fn reach(&mut self, end: u32) -> Work<()> {
        Ok(self.view.reach(end)?)
    }

    /// Writes words that nobody can reach before the transaction links to them.
    #[inline]
    pub(super) fn fill(&self, at: u32, words: &[u32]) -> Work<()> {
        Ok(self.view.memory().write(at as usize, words)?)
    }

    /// The journal block.
    pub(super) fn journal(&self) -> u32 {
        self.area
    }

    /// Makes everything since the beginning happen.
    #[inline(always)]
    pub(super) fn finish(&mut self) -> Work<()> {
        self.check_generation()?;
        if !self.given_up.is_empty() {
            self.dispose()?;
        }
        if self.broken {
            return Err(corrupt(AT_JOURNAL, "a part of the group could not be undone").into());
        }
        self.view.confirm()?;
        if self.length != 0 {
            self.view.store(AT_JOURNAL_LENGTH, 0)?;
            self.length = 0;
        }
        self.release()
    }

    /// Undoes everything since the beginning.
    pub(super) fn abandon(&mut self) -> Result<(), TableError> {
        if !self.begun || !self.generation.is_current() {
            return Ok(());
        }
        let undone = self.undo_all();
        self.view.believe(undone)
    }

    fn undo_all(&mut self) -> Work<()> {
        self.try_undo_to(Savepoint { length: 0, given_up: 0 })?;
        self.release()
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint { length: self.length, given_up: self.given_up.len() }
    }

    /// Undoes everything since `savepoint`. If that fails, the whole transaction will.
    pub(super) fn undo_to(&mut self, savepoint: Savepoint) {
        if self.generation.is_current() {
            self.broken |= self.try_undo_to(savepoint).is_err();
        }
    }

    fn try_undo_to(&mut self, savepoint: Savepoint) -> Work<()> {
        // It is lower in the object if undoing was tried before, and failed in the middle.
        let length = self.view.load(AT_JOURNAL_LENGTH)?.min(self.length);
        undo(&self.view, length, savepoint.length)?;
        self.length = savepoint.length;
        self.given_up.truncate(savepoint.given_up);
        self.area = self.view.load(AT_JOURNAL)?;
        self.capacity = capacity(&self.view, self.area)?;
        Ok(())
    }

    #[inline]
    fn note(&mut self, at: u32, old: u32) -> Work<()> {
        debug_assert!(self.begun, "readers are kept away first");
        let entry = self.area + JOURNAL_WORDS + 2 * self.length;
        self.view.memory().write(entry as usize, &[at, old])?;
        self.length += 1;
        Ok(self.view.store(AT_JOURNAL_LENGTH, self.length)?)
    }

    /// Moves the journal to a block of twice the size, at the top. The spare entries have room for what this
    /// itself changes: the top, and the journal's place.
    #[cold]
    fn move_journal(&mut self) -> Work<()> {
        // A block of g granules has room for 2 g - 1 entries.
        let granules = self.capacity + 1;
        if granules > GRANULES_MAX {
            return Err(TableError::FormatFull.into());
        }
        let top = self.view.load(AT_TOP)?;
        let end = top.checked_add(granules * GRANULE).ok_or(TableError::FormatFull)?;
        self.view.reach(end)?;
        self.open_table()?;
        let old_area = self.area;
        self.note(AT_TOP, top)?;
        self.view.store(AT_TOP, end)?;
        self.note(AT_JOURNAL, old_area)?;
        // Undoing begins with this entry, which leads back to the others.
        self.fill(top + JOURNAL_WORDS + 2 * (self.length - 1), &[AT_JOURNAL, old_area])?;
        self.view.store(top, BlockHead::new(Kind::Journal, granules).word())?;
        self.view.store(top + 1, 0)?;
        self.view.store(AT_JOURNAL, top)?;
        self.area = top;
        self.capacity = capacity(&self.view, top)?;
        self.given_up.push(old_area);
        Ok(())
    }
}

impl<B: ShmBackend> Drop for Transaction<'_, B> {
    #[inline]
    fn drop(&mut self) {
        // Not committed: an error or a panic. If undoing fails, because the object is corrupt or was cut off,
        // the journal remains and the next writer is told.
        if self.begun && self.generation.is_current() {
            let _ = self.undo_all();
        }
    }
}

#[inline]
pub(super) fn is_odd(word: u32) -> bool {
    word % 2 != 0
}

/// Ends the half-changed state that an odd sequence word tells of.
#[inline(always)]
fn make_even<B: ShmBackend>(view: &View<'_, B>, at: u32) -> Work<()> {
    let word = view.load(at)?;
    if is_odd(word) {
        view.store(at, word.wrapping_add(1))?;
    }
    Ok(())
}

/// Ends the transaction that a writer left when it died: it happened if nothing is left to undo.
fn recover<B: ShmBackend>(view: &View<'_, B>) -> Work<()> {
    let length = view.load(AT_JOURNAL_LENGTH)?;
    if length != 0 {
        undo(view, length, 0)?;
    }
    let bucket = view.load(AT_OPEN)?;
    if bucket != 0 {
        if bucket < HEADER_WORDS || bucket % BUCKET_WORDS != 0 {
            return Err(corrupt(AT_OPEN, "the open bucket is none").into());
        }
        make_even(view, bucket)?;
    }
    make_even(view, AT_SEQUENCE)?;
    make_even(view, AT_TRANSACTION)
}

/// The capacity of the journal block at `area`, in entries.
#[inline(always)]
fn capacity<B: ShmBackend>(view: &View<'_, B>, area: u32) -> Work<u32> {
    let head = view.block(area)?;
    let capacity = (head.granules * GRANULE - JOURNAL_WORDS) / 2;
    if head.kind != Kind::Journal || capacity < 16 {
        return Err(corrupt(area, "no journal where it should be").into());
    }
    Ok(capacity)
}

/// Whether a journal may have an entry for this word.
fn is_journalled(at: u32) -> bool {
    [AT_BUCKETS, AT_MASK].contains(&at)
        || (AT_JOURNAL..=AT_DEFERRED).contains(&at)
        || (AT_FREE_CLASSES..AT_FREE_CLASSES + CLASSES.div_ceil(32)).contains(&at)
        || (AT_FREE..AT_FREE + CLASSES).contains(&at)
        || (AT_DEFERRED_RECORDS..AT_DEFERRED_RECORDS + DEFERRED_MAX).contains(&at)
        || at >= AT_LEAVES
}

/// Undoes the entries from `length` down to `to`, newest first.
fn undo<B: ShmBackend>(view: &View<'_, B>, length: u32, to: u32) -> Work<()> {
    if length == to {
        return Ok(());
    }
    let mut area = view.load(AT_JOURNAL)?;
    let mut capacity_here = capacity(view, area)?;
    let mut entry = [0; 2];
    for index in (to..length).rev() {
        if index >= capacity_here {
            return Err(corrupt(AT_JOURNAL_LENGTH, "the journal is longer than its block").into());
        }
        view.memory().read((area + JOURNAL_WORDS + 2 * index) as usize, &mut entry)?;
        let [at, old] = entry;
        // Zeros of a journal that was cut off are no entries.
        view.confirm()?;
        if !is_journalled(at) {
            return Err(corrupt(area, "the journal has an entry for a word that never changes").into());
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
