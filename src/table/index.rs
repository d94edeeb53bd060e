//! Changing the index: binding, unbinding and replacing records, and splitting buckets.

use std::ops::ControlFlow;

use manycore_backends::ShmBackend;
use manycore_backends::shm::Memory;

use super::check_length;
use super::error::{Result, TableError};
use super::journal::Transaction;
use super::layout::*;
use super::view::{Place, Record, hash};

/// Values up to this many words are changed in place, word by word; longer ones go to fresh room, which
/// costs two journal entries however long they are.
const IN_PLACE: usize = 16;

/// What to do with a binding that was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    /// Leave it, and look at the next older one.
    Next,
    /// Leave it, and stop.
    Stop,
    /// Remove it, and stop.
    Remove,
    /// Give it the value that was put into the buffer, and stop.
    Replace,
}

impl<B: ShmBackend> Transaction<'_, B> {
    /// Adds a binding, hiding older ones of the key.
    pub(super) fn bind(&mut self, key: i32, value: &[u32]) -> Result<()> {
        let (bucket, newest) = self.view().newest(key)?;
        match newest {
            Some(place) => {
                let at = self.write_record(key, place.record.next, place.record.at, value)?;
                self.put(place.link, at)?;
            }
            None => {
                let first = self.view().load(bucket)?;
                let at = self.write_record(key, first, 0, value)?;
                self.put(bucket, at)?;
                self.add_to(AT_KEYS, 1)?;
            }
        }
        self.add_to(AT_BINDINGS, 1)?;
        if newest.is_none() && self.view().load(AT_KEYS)? > self.view().load(AT_BUCKETS)? {
            self.split()?;
        }
        Ok(())
    }

    /// Removes the binding at `place`.
    pub(super) fn unbind(&mut self, place: &Place) -> Result<()> {
        let record = place.record;
        if place.hidden {
            self.put(place.link, record.older)?;
        } else if record.older != 0 {
            let older = self.view().record(record.older)?;
            self.put(older.at + 1, record.next)?;
            self.put(place.link, older.at)?;
        } else {
            self.put(place.link, record.next)?;
            self.add_to(AT_KEYS, u32::MAX)?;
        }
        self.add_to(AT_BINDINGS, u32::MAX)?;
        self.give_up(record.at, record.class);
        Ok(())
    }

    /// Gives the binding at `place` another value.
    pub(super) fn rebind(&mut self, place: &Place, value: &[u32]) -> Result<()> {
        let record = place.record;
        if value.len() <= IN_PLACE && class_for(RECORD_WORDS + value.len() as u32) == Some(record.class) {
            self.put(record.at + 4, value.len() as u32)?;
            for (at, word) in (record.at + RECORD_WORDS..).zip(value) {
                self.put(at, *word)?;
            }
            return Ok(());
        }
        let at = self.write_record(record.key, record.next, record.older, value)?;
        self.put(place.link, at)?;
        self.give_up(record.at, record.class);
        Ok(())
    }

    /// Walks the bindings of `key`, newest first, as `judge` says, which is given a value and a buffer for
    /// another. Returns whether a binding was changed.
    pub(super) fn judge(
        &mut self,
        key: i32,
        mut judge: impl FnMut(&[u32], &mut Vec<u32>) -> Result<Verdict>,
    ) -> Result<bool> {
        let [mut value, mut replacement] = std::mem::take(&mut self.buffers);
        replacement.clear();
        let view = *self.view();
        let decided = view.bindings(key, |place| {
            view.value(&place.record, &mut value)?;
            Ok(match judge(&value, &mut replacement)? {
                Verdict::Next => ControlFlow::Continue(()),
                verdict => ControlFlow::Break((*place, verdict)),
            })
        })?;
        match decided {
            Some((place, Verdict::Remove)) => self.unbind(&place)?,
            Some((place, Verdict::Replace)) => self.rebind(&place, &replacement)?,
            _ => {}
        }
        self.buffers = [value, replacement];
        Ok(matches!(decided, Some((_, Verdict::Remove | Verdict::Replace))))
    }

    fn write_record(&mut self, key: i32, next: u32, older: u32, value: &[u32]) -> Result<u32> {
        check_length(value.len())?;
        let length = value.len() as u32;
        let block = self.take(RECORD_WORDS + length)?;
        let head = [MARK_RECORD | block.class, next, older, key as u32, length];
        self.fill_block(&block, &head)?;
        self.fill(block.at + RECORD_WORDS, value)?;
        Ok(block.at)
    }

    fn add_to(&mut self, at: u32, difference: u32) -> Result<()> {
        let value = self.view().load(at)?.wrapping_add(difference);
        self.put(at, value)
    }

    /// Takes one more bucket into use: those of its source's records that belong there move over.
    fn split(&mut self) -> Result<()> {
        let (buckets, base) = self.view().buckets()?;
        let (segment, number) = segment_of(buckets, base);
        if number == 0 && self.view().load(AT_SEGMENTS + segment)? == 0 {
            let words = segment_buckets(segment, base).filter(|words| class_for(*words).is_some());
            // The format has no more buckets: chains grow longer from here on.
            let Some(words) = words.filter(|_| segment < SEGMENTS) else { return Ok(()) };
            // It doubles the buckets, and each has a word already.
            if words as usize > self.view().memory().words() {
                return Err(TableError::Corrupt {
                    at: AT_BUCKETS as usize,
                    what: "impossible number of buckets",
                });
            }
            let block = self.take(words)?;
            self.fill_block(&block, &[0, 0])?;
            self.put(AT_SEGMENTS + segment, block.at)?;
        }
        let seed = self.view().load(AT_SEED)?;
        let source = self.view().bucket_word(bucket_of(buckets, buckets), base)?;
        let target = self.view().bucket_word(buckets, base)?;
        let records = self.chain(source)?;
        // The new bucket's word has no meaning yet, so nothing is lost by writing it without journal.
        let mut ends = [source, target];
        for record in &records {
            let side = usize::from(bucket_of(hash(record.key, seed), buckets + 1) == buckets);
            if ends[side] == target {
                self.fill(target, &[record.at])?;
            } else {
                self.put(ends[side], record.at)?;
            }
            ends[side] = record.at + 1;
        }
        for end in ends {
            if end == target {
                self.fill(target, &[0])?;
            } else {
                self.put(end, 0)?;
            }
        }
        self.put(AT_BUCKETS, buckets + 1)
    }

    /// The newest records of the keys in the bucket whose word is `bucket`.
    fn chain(&self, bucket: u32) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut walk = self.view().walk();
        let mut at = self.view().load(bucket)?;
        while at != 0 {
            let record = walk.step(at)?;
            at = record.next;
            records.push(record);
        }
        Ok(records)
    }
}
