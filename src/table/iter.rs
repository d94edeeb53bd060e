//! Walking over all bindings.

use std::iter::FusedIterator;

use manycore_backends::ShmBackend;
use manycore_backends::shm::Memory;

use super::error::Result;
use super::from_words;
use super::layout::{segment_buckets, segment_of};
use super::view::{Record, View, Walk};

/// A binding: its key and its value.
pub type Entry = (i32, Vec<i32>);

/// The newest records of all keys, bucket by bucket.
struct Cursor<'a, B: ShmBackend> {
    view: View<'a, B>,
    buckets: u32,
    base: u32,
    /// The first bucket that was not looked at.
    bucket: u32,
    /// First records of the buckets before that, the next one last.
    ahead: Vec<u32>,
    /// The next record, or 0.
    at: u32,
    walk: Walk<'a, B>,
}

/// How many buckets are looked at together. Their first records are touched without waiting for one before
/// the next, so that the memory fetches them at the same time.
const AHEAD: usize = 32;

impl<'a, B: ShmBackend> Cursor<'a, B> {
    fn new(view: View<'a, B>) -> Result<Cursor<'a, B>> {
        let (buckets, base) = view.buckets()?;
        Ok(Cursor {
            view,
            buckets,
            base,
            bucket: 0,
            ahead: Vec::with_capacity(AHEAD),
            at: 0,
            walk: view.walk(),
        })
    }

    fn next(&mut self) -> Result<Option<Record>> {
        while self.at == 0 {
            match self.ahead.pop() {
                Some(at) => self.at = at,
                None if self.bucket == self.buckets => return Ok(None),
                None => self.look_ahead()?,
            }
        }
        let record = self.walk.step(self.at)?;
        self.at = record.next;
        Ok(Some(record))
    }

    fn look_ahead(&mut self) -> Result<()> {
        let (segment, number) = segment_of(self.bucket, self.base);
        let in_segment = segment_buckets(segment, self.base).map_or(1, |buckets| buckets - number);
        let count = (AHEAD as u32).min(self.buckets - self.bucket).min(in_segment) as usize;
        let mut firsts = [0; AHEAD];
        let at = self.view.bucket_word(self.bucket, self.base)?;
        self.view.memory().read(at as usize, &mut firsts[..count])?;
        self.bucket += count as u32;
        for first in firsts[..count].iter().rev().filter(|first| **first != 0) {
            self.view.load(*first)?;
            self.ahead.push(*first);
        }
        Ok(())
    }
}

/// All bindings of a table; see [`ShmTable::iter`](super::ShmTable::iter). `G` is what keeps the table locked.
#[must_use = "iterators are lazy"]
pub struct Iter<'a, B: ShmBackend, G> {
    cursor: Option<Cursor<'a, B>>,
    /// The next older binding of the key that was visited last, or 0.
    older: u32,
    // Dropped last.
    _guard: G,
}

impl<'a, B: ShmBackend, G> Iter<'a, B, G> {
    pub(super) fn new(guard: G, view: View<'a, B>) -> Result<Self> {
        Ok(Iter { cursor: Some(Cursor::new(view)?), older: 0, _guard: guard })
    }

    /// The next binding: its key, and its value as words in `value`.
    pub(crate) fn next_words(&mut self, value: &mut Vec<u32>) -> Option<Result<i32>> {
        let view = self.cursor.as_ref()?.view;
        let key = view.believe(self.advance(value));
        if key.is_err() {
            self.cursor = None;
        }
        key.transpose()
    }

    fn advance(&mut self, value: &mut Vec<u32>) -> Result<Option<i32>> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        let record = if self.older != 0 { Some(cursor.walk.step(self.older)?) } else { cursor.next()? };
        let Some(record) = record else {
            self.cursor = None;
            return Ok(None);
        };
        self.older = record.older;
        cursor.view.value(&record, value)?;
        Ok(Some(record.key))
    }
}

impl<B: ShmBackend, G> Iterator for Iter<'_, B, G> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut value = Vec::new();
        let key = self.next_words(&mut value)?;
        Some(key.map(|key| (key, from_words(value))))
    }
}

impl<B: ShmBackend, G> FusedIterator for Iter<'_, B, G> {}

impl<B: ShmBackend, G> std::fmt::Debug for Iter<'_, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

/// All keys of a table; see [`ShmTable::iter_keys`](super::ShmTable::iter_keys). `G` is what keeps the table
/// locked.
#[must_use = "iterators are lazy"]
pub struct Keys<'a, B: ShmBackend, G> {
    cursor: Option<Cursor<'a, B>>,
    // Dropped last.
    _guard: G,
}

impl<'a, B: ShmBackend, G> Keys<'a, B, G> {
    pub(super) fn new(guard: G, view: View<'a, B>) -> Result<Self> {
        Ok(Keys { cursor: Some(Cursor::new(view)?), _guard: guard })
    }
}

impl<B: ShmBackend, G> Iterator for Keys<'_, B, G> {
    type Item = Result<i32>;

    fn next(&mut self) -> Option<Self::Item> {
        let cursor = self.cursor.as_mut()?;
        let record = cursor.next();
        let record = cursor.view.believe(record).transpose();
        if !matches!(record, Some(Ok(_))) {
            self.cursor = None;
        }
        record.map(|record| record.map(|record| record.key))
    }
}

impl<B: ShmBackend, G> FusedIterator for Keys<'_, B, G> {}

impl<B: ShmBackend, G> std::fmt::Debug for Keys<'_, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
