//! Changing the index: binding, unbinding and replacing, and taking buckets into use.
//!
//! This module does not know where room comes from.

use manycore_backends::ShmBackend;
use manycore_backends::shm::{ShmError, Window};
use smallvec::SmallVec;

use super::bindings::{Content, Place, Slot, free_slot, kind_of, occupied};
use super::check_length;
use super::error::{TableError, Work};
use super::journal::{Counts, Scope, Transaction};
use super::layout::*;
use super::view::{Record, corrupt};

/// In groups, records with values up to this many words are changed in place, word by word; others go to fresh room, which
/// costs a few journal entries however long they are, and is there again only when the group has happened.
const IN_PLACE: usize = 16;

/// The same where the object would have to be enlarged, in groups or not.
const IN_PLACE_MAX: usize = 128;

/// How many bindings are added together: as many as a processor can fetch at the same time, or a little more.
const BATCH: usize = 16;

/// What to do with a binding that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Leave it, and look at the next older one.
    Next,
    /// Leave it, and stop.
    Stop,
    /// Remove it, and look at the next older one.
    RemoveAndNext,
    /// Remove it, and stop.
    Remove,
    /// Give it the value that was put into the buffer, and stop.
    Replace,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug)]
struct Cell {
    key: u32,
    kind: u32,
    value: u32,
}

/// The cells of one bucket; rarely more than there are slots.
type Cells = SmallVec<[Cell; 16]>;

impl<B: ShmBackend> Transaction<'_, B> {
    /// Adds a binding, hiding older ones of the key.
    pub(super) fn bind(&mut self, key: i32, value: &[u32]) -> Work<()> {
        let bucket = self.bucket_of_key(key)?;
        let newest = self.view().newest(&bucket, key)?;
        self.bind_at(bucket.at, newest, key, value)
    }

    /// Adds bindings, one after the other.
    pub(super) fn bind_many<V: AsRef<[i32]>>(
        &mut self,
        bindings: impl IntoIterator<Item = (i32, V)>,
    ) -> Work<()> {
        let mut bindings = bindings.into_iter();
        let mut batch: SmallVec<[(i32, V); BATCH]> = SmallVec::new();
        loop {
            batch.extend(bindings.by_ref().take(BATCH));
            if batch.is_empty() {
                return Ok(());
            }
            for (key, _) in &batch {
                // What is on its way may turn out to be the wrong bucket, when buckets are taken into use meanwhile.
                let _ = self.view().route(*key);
            }
            for (key, value) in batch.drain(..) {
                self.bind(key, bytemuck::cast_slice(value.as_ref()))?;
            }
        }
    }

    /// The same, where `newest` is what the key's bucket has for it.
    fn bind_at(&mut self, bucket: u32, newest: Option<Place>, key: i32, value: &[u32]) -> Work<()> {
        check_length(value.len())?;
        self.open_bucket(bucket)?;
        if let Some(place) = newest {
            let older = match place.content {
                Content::Record(record) => record.at,
                Content::Empty => self.write_record(key, 0, &[])?,
                Content::Word(word) => self.write_record(key, 0, &[word])?,
            };
            let record = self.write_record(key, older, value)?;
            self.set_kind(&place.slot, SLOT_RECORD)?;
            self.put_and_count(place.link, record, 1, 0)?;
            return Ok(());
        }
        let (kind, word) = self.write_value(key, 0, value)?;
        let (at, kinds) = self.insert(bucket, Cell { key: key as u32, kind, value: word })?;
        let Counts { keys } = self.put_and_count(at, kinds, 1, 1)?;
        if u64::from(keys) > u64::from(LOAD) * u64::from(self.view().buckets()?) {
            self.split_if_possible()?;
        }
        Ok(())
    }

    /// Removes the binding at `place`.
    pub(super) fn unbind(&mut self, place: &Place) -> Work<()> {
        self.open_bucket(place.slot.bucket)?;
        let older = place.content.older();
        if place.hidden || older != 0 {
            self.put_and_count(place.link, older, -1, 0)?;
        } else {
            let (at, word) = self.vacate(&place.slot)?;
            self.put_and_count(at, word, -1, -1)?;
        }
        self.give_up_content(&place.content);
        Ok(())
    }

    /// Gives the binding at `place`, of `key`, another value.
    pub(super) fn rebind(&mut self, place: &Place, key: i32, value: &[u32]) -> Work<()> {
        check_length(value.len())?;
        match (&place.content, value) {
            // One store: it happens or it does not, and no reader can see half of it.
            (Content::Word(_), [word]) if self.scope() == Scope::Bucket => {
                self.view().store(place.link, *word)?;
                return self.count_change();
            }
            (Content::Record(record), _) if self.stays(record, value.len())? => {
                self.open_bucket(place.slot.bucket)?;
                self.put(record.at + RECORD_LENGTH, value.len() as u32)?;
                for (at, word) in (record.at + RECORD_WORDS..).zip(value) {
                    self.put(at, *word)?;
                }
                return Ok(());
            }
            _ => self.open_bucket(place.slot.bucket)?,
        }
        let older = place.content.older();
        if place.hidden {
            let record = self.write_record(key, older, value)?;
            self.put(place.link, record)?;
        } else {
            let (kind, word) = self.write_value(key, older, value)?;
            self.put(place.link, word)?;
            self.set_kind(&place.slot, kind)?;
        }
        self.give_up_content(&place.content);
        Ok(())
    }

    /// Replaces the newest binding of `key`, or adds one.
    #[inline]
    pub(super) fn replace(&mut self, key: i32, value: &[u32]) -> Work<()> {
        let bucket = self.bucket_of_key(key)?;
        match self.view().newest(&bucket, key)? {
            Some(place) => self.rebind(&place, key, value),
            None => self.bind_at(bucket.at, None, key, value),
        }
    }

    /// Removes the newest binding of `key`; whether there was one.
    #[inline]
    pub(super) fn remove(&mut self, key: i32) -> Work<bool> {
        let bucket = self.bucket_of_key(key)?;
        match self.view().newest(&bucket, key)? {
            Some(place) => self.unbind(&place).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives the newest binding of `key` the value that `change` makes of it, or removes it.
    pub(super) fn update<V: AsRef<[i32]>>(
        &mut self,
        key: i32,
        change: impl FnOnce(Option<&[i32]>) -> Option<V>,
    ) -> Work<()> {
        let bucket = self.bucket_of_key(key)?;
        let Some(place) = self.view().newest(&bucket, key)? else {
            return match change(None) {
                Some(value) => self.bind_at(bucket.at, None, key, bytemuck::cast_slice(value.as_ref())),
                None => Ok(()),
            };
        };
        let changed = match place.content {
            Content::Empty => change(Some(&[])),
            Content::Word(word) => change(Some(&[word as i32])),
            Content::Record(_) => {
                let mut old: Vec<i32> = Vec::new();
                self.view().append(&place.content, &mut old)?;
                change(Some(&old))
            }
        };
        // Before one store may make it happen.
        self.check_generation()?;
        match changed {
            Some(value) => self.rebind(&place, key, bytemuck::cast_slice(value.as_ref())),
            None => self.unbind(&place),
        }
    }

    /// Walks the bindings of `key`, newest first, as `judge` says, which is given a value and a buffer for
    /// another; these are the `buffers`. Returns how many bindings were changed.
    pub(super) fn judge(
        &mut self,
        key: i32,
        [value, replacement]: &mut [Vec<u32>; 2],
        mut judge: impl FnMut(&[u32], &mut Vec<u32>) -> Work<Verdict>,
    ) -> Work<usize> {
        self.walk_key(key, |transaction, place| {
            value.clear();
            replacement.clear();
            transaction.view().append(&place.content, value)?;
            let verdict = judge(value, replacement)?;
            if verdict == Verdict::Replace {
                transaction.rebind(place, key, replacement)?;
            }
            Ok(verdict)
        })
    }

    /// Walks the bindings of `key`, newest first, and removes those of which `visit` says so. It does what else
    /// is to be done with a binding itself. Returns how many bindings were changed.
    pub(super) fn walk_key(
        &mut self,
        key: i32,
        mut visit: impl FnMut(&mut Self, &Place) -> Work<Verdict>,
    ) -> Work<usize> {
        let bucket = self.bucket_of_key(key)?;
        let mut next = self.view().newest(&bucket, key)?;
        let mut walk = self.view().walk();
        let mut changed = 0;
        while let Some(place) = next {
            let verdict = visit(self, &place)?;
            next = self.view().older(&place, &mut walk)?;
            match verdict {
                Verdict::Next => {}
                Verdict::Stop => break,
                Verdict::Replace => return Ok(changed + 1),
                Verdict::Remove | Verdict::RemoveAndNext => {
                    self.unbind(&place)?;
                    changed += 1;
                    if verdict == Verdict::Remove {
                        break;
                    }
                    // What led to this binding leads to the next one now.
                    next = next.map(|older| Place { link: place.link, hidden: place.hidden, ..older });
                }
            }
        }
        Ok(changed)
    }

    /// Removes the bindings of which `judge` says so, of all keys. Returns how many.
    pub(super) fn sweep(
        &mut self,
        mut judge: impl FnMut(&Self, &Place, i32) -> Work<Verdict>,
    ) -> Work<usize> {
        let (mut removed, mut steps) = (0, 0);
        for number in 0..self.view().buckets_to_visit()? {
            let bucket = self.view().bucket(number)?;
            let (cells, blocks) = self.cells(bucket)?;
            steps += blocks.len();
            self.view().check_steps(steps, bucket)?;
            for cell in cells {
                let key = cell.key as i32;
                removed += self.walk_key(key, |transaction, place| judge(transaction, place, key))?;
            }
        }
        Ok(removed)
    }

    /// Takes buckets into use until there are `buckets`, or as many as possible.
    pub(super) fn grow_to(&mut self, buckets: u32) -> Work<()> {
        while self.view().buckets()? < buckets && self.split_if_possible()? {}
        Ok(())
    }

    /// Whether a record is given a value of so many words where it is.
    fn stays(&self, record: &Record, words: usize) -> Work<bool> {
        if words > IN_PLACE_MAX || record_granules(words) != record.granules {
            return Ok(false);
        }
        Ok(words <= IN_PLACE && self.scope() == Scope::Table || !self.has_room(record.granules)?)
    }

    fn write_record(&mut self, key: i32, older: u32, value: &[u32]) -> Work<u32> {
        let at = self.take(Kind::Record, record_granules(value.len()))?;
        self.fill(at + RECORD_LENGTH, &[value.len() as u32, older, key as u32])?;
        self.fill(at + RECORD_WORDS, value)?;
        Ok(at)
    }

    /// The kind and the word of a slot for the newest binding of a key.
    #[inline]
    fn write_value(&mut self, key: i32, older: u32, value: &[u32]) -> Work<(u32, u32)> {
        match (value, older) {
            ([], 0) => Ok((SLOT_EMPTY, 0)),
            ([word], 0) => Ok((SLOT_WORD, *word)),
            _ => {
                let at = self.write_record(key, older, value)?;
                Ok((SLOT_RECORD, record_word(at, record_granules(value.len()), older)))
            }
        }
    }

    fn give_up_content(&mut self, content: &Content) {
        if let Content::Record(record) = content {
            self.give_up(record.at);
        }
    }

    fn set_kind(&mut self, slot: &Slot, kind: u32) -> Work<()> {
        let at = slot.at + BUCKET_KINDS;
        let kinds = self.view().load(at)?;
        self.put(at, kinds & !(3 << (2 * slot.index)) | kind << (2 * slot.index))
    }

    /// Puts a cell into a slot of the bucket, or of an overflow block behind it. Returns which word of kinds must
    /// change for it to be there.
    #[inline(always)]
    fn insert(&mut self, bucket: u32, cell: Cell) -> Work<(u32, u32)> {
        let mut at = bucket;
        let mut steps = 0;
        loop {
            let kinds = self.view().load(at + BUCKET_KINDS)?;
            if let Some(index) = free_slot(kinds) {
                return self.place(at, kinds, index, cell);
            }
            match self.view().behind(at, kinds)? {
                Some(next) => at = next,
                None => return self.overflow(at, kinds, cell),
            }
            steps += 1;
            self.view().check_steps(steps, at)?;
        }
    }

    /// Puts a cell into a slot with nothing in it.
    #[inline]
    fn place(&mut self, at: u32, kinds: u32, index: u32, cell: Cell) -> Work<(u32, u32)> {
        let (key, value) = (at + BUCKET_KEYS + index, at + BUCKET_VALUES + index);
        if self.scope() == Scope::Bucket {
            // It is one operation, and the only one that fills a slot: this one had no meaning before it.
            self.view().store(key, cell.key)?;
            self.view().store(value, cell.value)?;
        } else {
            self.put(key, cell.key)?;
            self.put(value, cell.value)?;
        }
        Ok((at + BUCKET_KINDS, kinds | cell.kind << (2 * index)))
    }

    /// Hangs an overflow block behind the full bucket or overflow block `at`, with its last cell and another.
    fn overflow(&mut self, at: u32, kinds: u32, cell: Cell) -> Work<(u32, u32)> {
        let (key, value) = (at + BUCKET_KEYS + LINK_SLOT, at + BUCKET_VALUES + LINK_SLOT);
        let last = Cell {
            key: self.view().load(key)?,
            kind: kind_of(kinds, LINK_SLOT),
            value: self.view().load(value)?,
        };
        let block = self.write_overflow(&[last, cell])?;
        self.put(key, block)?;
        Ok((at + BUCKET_KINDS, kinds & !(3 << (2 * LINK_SLOT)) | LINK))
    }

    /// Takes what is in a slot out of it; an overflow block that has nothing else goes, too. Returns which word of
    /// kinds, or which link, must change for it to be gone.
    #[inline(always)]
    fn vacate(&mut self, slot: &Slot) -> Work<(u32, u32)> {
        let kinds = self.view().load(slot.at + BUCKET_KINDS)? & !(3 << (2 * slot.index));
        if slot.before == 0 || occupied(kinds) != 0 {
            return Ok((slot.at + BUCKET_KINDS, kinds));
        }
        self.give_up(slot.at);
        match self.view().behind(slot.at, kinds)? {
            Some(next) => Ok((slot.before + BUCKET_KEYS + LINK_SLOT, next)),
            None => {
                let kinds = self.view().load(slot.before + BUCKET_KINDS)?;
                Ok((slot.before + BUCKET_KINDS, kinds & !LINK))
            }
        }
    }

    /// What is in a bucket, and its overflow blocks.
    fn cells(&self, bucket: u32) -> Work<(Cells, SmallVec<[u32; 4]>)> {
        let (mut cells, mut blocks) = (Cells::new(), SmallVec::new());
        let mut at = bucket;
        loop {
            let words: [u32; BUCKET_WORDS as usize] = self.view().memory().read_array(at as usize)?;
            let kinds = words[BUCKET_KINDS as usize];
            for index in 0..SLOTS {
                let kind = kind_of(kinds, index);
                if kind != SLOT_NOTHING {
                    let key = words[(BUCKET_KEYS + index) as usize];
                    let value = words[(BUCKET_VALUES + index) as usize];
                    cells.push(Cell { key, kind, value });
                }
            }
            let Some(next) = self.view().behind(at, kinds)? else { return Ok((cells, blocks)) };
            blocks.push(next);
            self.view().check_steps(blocks.len(), next)?;
            at = next;
        }
    }

    /// Takes one more bucket into use, if there is room for it. If not, chains grow longer. Returns whether it did.
    fn split_if_possible(&mut self) -> Work<bool> {
        let savepoint = self.savepoint();
        let Err(error) = self.split() else { return Ok(true) };
        let no_room = matches!(*error, TableError::Shm(ShmError::Full { .. } | ShmError::TooLarge { .. }));
        if no_room || matches!(*error, TableError::FormatFull) {
            self.undo_to(savepoint);
            return Ok(false);
        }
        Err(error)
    }

    /// Takes bucket N into use: those keys of its source that belong there move over.
    fn split(&mut self) -> Work<()> {
        let buckets = self.view().buckets()?;
        if buckets == BUCKETS_MAX {
            return Err(TableError::FormatFull.into());
        }
        self.open_table()?;
        let target = self.new_bucket(buckets)?;
        let source = self.view().bucket(bucket_of(buckets, buckets))?;
        let seed = self.view().load(AT_SEED)?;
        let moves = |key: u32| bucket_of(hash(key as i32, seed), buckets + 1) == buckets;
        let words: [u32; BUCKET_WORDS as usize] = self.view().memory().read_array(source as usize)?;
        let kinds = words[BUCKET_KINDS as usize];
        let mut moved = [0; BUCKET_WORDS as usize];
        if kinds & LINK == 0 {
            let (mut staying, mut next) = (kinds, 0);
            for slot in 0..SLOTS {
                let kind = kind_of(kinds, slot);
                let key = words[(BUCKET_KEYS + slot) as usize];
                if kind != SLOT_NOTHING && moves(key) {
                    staying &= !(3 << (2 * slot));
                    moved[BUCKET_KINDS as usize] |= kind << (2 * next);
                    moved[BUCKET_KEYS as usize + next] = key;
                    moved[BUCKET_VALUES as usize + next] = words[(BUCKET_VALUES + slot) as usize];
                    next += 1;
                }
            }
            // The new bucket has no meaning yet, so nothing is lost by writing it without journal.
            self.fill(target, &moved)?;
            self.put(source + BUCKET_KINDS, staying)?;
            return self.set_buckets(buckets + 1);
        }
        let (cells, blocks) = self.cells(source)?;
        let (moving, staying): (Cells, Cells) = cells.into_iter().partition(|cell| moves(cell.key));
        moved = self.bucket_words(&moving)?;
        self.fill(target, &moved)?;
        let words = self.bucket_words(&staying)?;
        for (index, word) in words.into_iter().enumerate().skip(BUCKET_KINDS as usize) {
            self.put(source + index as u32, word)?;
        }
        blocks.into_iter().for_each(|block| self.give_up(block));
        self.set_buckets(buckets + 1)
    }

    pub(super) fn set_buckets(&mut self, buckets: u32) -> Work<()> {
        self.put(AT_BUCKETS, buckets)?;
        self.put(AT_MASK, mask_of(buckets))
    }

    /// The words of a bucket with these cells, and with as many fresh overflow blocks behind it as they need.
    fn bucket_words(&mut self, cells: &[Cell]) -> Work<[u32; BUCKET_WORDS as usize]> {
        let mut words = [0; BUCKET_WORDS as usize];
        let here = if cells.len() <= SLOTS as usize { cells.len() } else { LINK_SLOT as usize };
        for (index, cell) in cells[..here].iter().enumerate() {
            words[BUCKET_KINDS as usize] |= cell.kind << (2 * index);
            words[BUCKET_KEYS as usize + index] = cell.key;
            words[BUCKET_VALUES as usize + index] = cell.value;
        }
        if here < cells.len() {
            words[BUCKET_KINDS as usize] |= LINK;
            words[(BUCKET_KEYS + LINK_SLOT) as usize] = self.write_overflow(&cells[here..])?;
        }
        Ok(words)
    }

    /// Writes overflow blocks with these cells, of which there is at least one; returns the first.
    fn write_overflow(&mut self, cells: &[Cell]) -> Work<u32> {
        // The last block first, so that the one before can lead to it.
        let mut next = 0;
        let mut rest = cells;
        while !rest.is_empty() || next == 0 {
            let room = if next == 0 { SLOTS } else { LINK_SLOT } as usize;
            let (before, here) = rest.split_at(rest.len().saturating_sub(room));
            let at = self.take(Kind::Overflow, BUCKET_WORDS / GRANULE)?;
            let mut words = self.bucket_words(here)?;
            if next != 0 {
                words[BUCKET_KINDS as usize] |= LINK;
                words[(BUCKET_KEYS + LINK_SLOT) as usize] = next;
            }
            self.fill(at + BUCKET_KINDS, &words[BUCKET_KINDS as usize..])?;
            (next, rest) = (at, before);
        }
        Ok(next)
    }

    /// The place of bucket `number`, the next to be taken into use.
    fn new_bucket(&mut self, number: u32) -> Work<u32> {
        let (segment, index) = segment_of(number);
        if index != 0 {
            return Ok(self.view().bucket(number)?);
        }
        let leaf_place = AT_LEAVES + segment / LEAF_SEGMENTS;
        if segment % LEAF_SEGMENTS == 0 {
            let leaf = self.take(Kind::Leaf, LEAF_WORDS / GRANULE)?;
            self.fill(leaf + 1, &[0; LEAF_WORDS as usize - 1])?;
            self.put(leaf_place, leaf)?;
        }
        // The buckets so far have their segments; so a corrupt number of them cannot ask for much.
        if number as usize * BUCKET_WORDS as usize > self.view().memory().words() {
            return Err(corrupt(AT_BUCKETS, "impossible number of buckets").into());
        }
        let leaf = self.view().leaf(segment)?;
        if self.view().block(leaf)?.kind != Kind::Leaf {
            return Err(corrupt(leaf_place, "the directory leads to something that is no leaf").into());
        }
        let block = self.take(Kind::Segment, segment_granules(segment))?;
        self.put(leaf + 4 + segment % LEAF_SEGMENTS, first_bucket(block))?;
        Ok(first_bucket(block))
    }
}
