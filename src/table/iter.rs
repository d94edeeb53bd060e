//! Walking over all bindings.
//!
//! This module does not take locks: whoever walks keeps the table locked.

use std::iter::FusedIterator;
use std::slice;

use manycore_backends::ShmBackend;
use manycore_backends::shm::Window;

use super::bindings::{Content, Walk, kind_of, occupied};
use super::error::Result;
use super::layout::*;
use super::view::{Flaw, Look, View};

/// A binding: its key and its value.
pub type Entry = (i32, Vec<i32>);

/// The slots of all keys, bucket by bucket.
struct Cursor<'a, B: ShmBackend> {
    view: View<'a, B>,
    buckets: u32,
    /// The next bucket to look at.
    bucket: u32,
    /// The bucket or overflow block that is being looked at.
    at: u32,
    words: [u32; BUCKET_WORDS as usize],
    /// Its slots that were not visited, by their even bits.
    slots: u32,
    /// Overflow blocks seen so far.
    steps: usize,
    /// The first bucket of a segment that is in use as far as it was asked for, and where that is.
    segment: (u32, u32, u32),
}

impl<'a, B: ShmBackend> Cursor<'a, B> {
    fn new(view: View<'a, B>) -> Look<Cursor<'a, B>> {
        let buckets = view.buckets_to_visit()?;
        Ok(Cursor {
            view,
            buckets,
            bucket: 0,
            at: 0,
            words: [0; BUCKET_WORDS as usize],
            slots: 0,
            steps: 0,
            segment: (0, 0, 0),
        })
    }

    /// The next key, its kind of content, and the word of its slot.
    #[inline]
    fn next(&mut self) -> Look<Option<(i32, u32, u32)>> {
        while self.slots == 0 {
            if !self.advance()? {
                return Ok(None);
            }
        }
        let slot = take_slot(&mut self.slots);
        Ok(Some(self.slot(slot)))
    }

    /// The key in a slot, its kind of content, and the word of the slot.
    #[inline(always)]
    fn slot(&self, slot: u32) -> (i32, u32, u32) {
        let key = self.words[(BUCKET_KEYS + slot) as usize] as i32;
        let kind = kind_of(self.words[BUCKET_KINDS as usize], slot);
        (key, kind, self.words[(BUCKET_VALUES + slot) as usize])
    }

    /// Goes on to the next overflow block or bucket.
    fn advance(&mut self) -> Look<bool> {
        let behind = match self.at {
            0 => None,
            at => self.view.behind(at, self.words[BUCKET_KINDS as usize])?,
        };
        self.at = match behind {
            Some(next) => {
                self.steps += 1;
                self.view.check_steps(self.steps, next)?;
                next
            }
            None if self.bucket == self.buckets => return Ok(false),
            None => self.next_bucket()?,
        };
        self.words = self.view.memory().read_array(self.at as usize)?;
        let kinds = self.words[BUCKET_KINDS as usize];
        self.slots = occupied(kinds);
        // Records lie anywhere: those of a bucket are fetched at the same time.
        let mut records = kinds & kinds >> 1 & 0x1555;
        while records != 0 {
            let slot = take_slot(&mut records);
            self.view.memory().prefetch(self.words[(BUCKET_VALUES + slot) as usize] as usize);
        }
        Ok(true)
    }

    fn next_bucket(&mut self) -> Look<u32> {
        let (first, end, place) = self.segment;
        let bucket = self.bucket;
        self.bucket += 1;
        if bucket < end {
            return Ok(place + (bucket - first) * BUCKET_WORDS);
        }
        let place = self.view.bucket(bucket)?;
        let (segment, _) = segment_of(bucket);
        // The last one must have a place, too.
        let end = bucket + segment_buckets(segment);
        self.view.bucket(end - 1)?;
        self.segment = (bucket, end, place);
        Ok(place)
    }
}

/// Takes the first slot out of those that these even bits stand for. There must be one.
#[inline(always)]
fn take_slot(slots: &mut u32) -> u32 {
    // It is less than seven anyway; this way no index needs to be checked.
    let slot = (slots.trailing_zeros() / 2).min(SLOTS - 1);
    *slots &= slots.wrapping_sub(1);
    slot
}

/// Bindings, key by key.
struct Bindings<'a, B: ShmBackend> {
    cursor: Cursor<'a, B>,
    key: i32,
    /// The next older record of the key that was visited last, or 0.
    older: u32,
    walk: Walk,
}

impl<'a, B: ShmBackend> Bindings<'a, B> {
    fn new(view: View<'a, B>) -> Look<Bindings<'a, B>> {
        Ok(Bindings { cursor: Cursor::new(view)?, key: 0, older: 0, walk: view.walk() })
    }

    #[inline]
    fn next(&mut self) -> Look<Option<(i32, Content)>> {
        let record = if self.older != 0 {
            self.older
        } else {
            let Some((key, kind, word)) = self.cursor.next()? else { return Ok(None) };
            self.key = key;
            match kind {
                SLOT_EMPTY => return Ok(Some((key, Content::Empty))),
                SLOT_WORD => return Ok(Some((key, Content::Word(word)))),
                _ => record_place(word),
            }
        };
        let record = self.cursor.view.record(record, self.key)?;
        self.walk.pass(&record)?;
        self.older = record.older;
        Ok(Some((self.key, Content::Record(record))))
    }
}

/// Visits all bindings, those of a key from the newest to the oldest.
pub(super) fn visit_all<B: ShmBackend, E: From<Flaw>>(
    view: View<'_, B>,
    mut visit: impl FnMut(i32, &[i32]) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::new(view)?;
    let mut walk = view.walk();
    let mut buffer: Vec<i32> = Vec::new();
    let mut batch = Batch::new();
    while cursor.advance()? {
        if batch.is_full() {
            view.confirm_state()?;
            batch.visit(&mut visit)?;
        }
        if batch.take(&cursor.words) {
            continue;
        }
        // In order: those before it first.
        view.confirm_state()?;
        batch.visit(&mut visit)?;
        let mut slots = cursor.slots;
        while slots != 0 {
            let (key, kind, word) = cursor.slot(take_slot(&mut slots));
            view.confirm_state()?;
            match kind {
                SLOT_WORD => visit(key, &[word as i32])?,
                SLOT_EMPTY => visit(key, &[])?,
                _ => {
                    let mut next = record_place(word);
                    while next != 0 {
                        let record = view.record(next, key)?;
                        walk.pass(&record)?;
                        next = record.older;
                        buffer.clear();
                        view.append(&Content::Record(record), &mut buffer)?;
                        view.confirm_state()?;
                        visit(key, &buffer)?;
                    }
                }
            }
        }
    }
    view.confirm_state()?;
    batch.visit(&mut visit)
}

/// Bindings that were read and are yet to be visited. How many a bucket has is anybody's guess, and a processor that
/// guesses wrong loses as much time as ten visits take: so they are taken from several buckets without asking.
struct Batch {
    /// More than are ever in it, so that its index need not be checked.
    bindings: [(i32, i32); Batch::ROOM],
    count: usize,
}

impl Batch {
    const ROOM: usize = 128;

    fn new() -> Batch {
        Batch { bindings: [(0, 0); Batch::ROOM], count: 0 }
    }

    /// Whether there may be no room for another bucket.
    fn is_full(&self) -> bool {
        self.count > Batch::ROOM - SLOTS as usize
    }

    /// Takes what is in a bucket or overflow block, if that is nothing but values of one word. There must be room.
    #[inline(always)]
    fn take(&mut self, words: &[u32; BUCKET_WORDS as usize]) -> bool {
        // Each kind but nothing and a word has a lower bit, and so has a link.
        const OTHERS: u32 = 0x5555;
        let kinds = words[BUCKET_KINDS as usize];
        if kinds & OTHERS != 0 {
            return false;
        }
        for slot in 0..SLOTS {
            let (key, value) = (words[(BUCKET_KEYS + slot) as usize], words[(BUCKET_VALUES + slot) as usize]);
            self.bindings[self.count % Batch::ROOM] = (key as i32, value as i32);
            self.count += (kinds >> (2 * slot + 1) & 1) as usize;
        }
        true
    }

    /// Visits them.
    #[inline(always)]
    fn visit<E>(&mut self, visit: &mut impl FnMut(i32, &[i32]) -> Result<(), E>) -> Result<(), E> {
        let count = std::mem::take(&mut self.count);
        self.bindings[..count].iter().try_for_each(|(key, value)| visit(*key, slice::from_ref(value)))
    }
}

/// All bindings of a table; see [`ShmTable::iter`](super::ShmTable::iter). `G` is what keeps the table locked.
#[must_use = "iterators are lazy"]
pub struct Iter<'a, B: ShmBackend, G> {
    bindings: Option<Bindings<'a, B>>,
    // Dropped last.
    _guard: G,
}

impl<'a, B: ShmBackend, G> Iter<'a, B, G> {
    pub(super) fn new(guard: G, view: View<'a, B>) -> Result<Self> {
        Ok(Iter { bindings: Some(view.believe(Bindings::new(view))?), _guard: guard })
    }

    /// The next binding: its key, and its value in `value`.
    pub(crate) fn next_words<W: bytemuck::Pod>(&mut self, value: &mut Vec<W>) -> Option<Result<i32>> {
        let bindings = self.bindings.as_mut()?;
        let view = bindings.cursor.view;
        let key = view.believe(advance(bindings, value));
        if !matches!(key, Ok(Some(_))) {
            self.bindings = None;
        }
        key.transpose()
    }
}

fn advance<B: ShmBackend, W: bytemuck::Pod>(
    bindings: &mut Bindings<'_, B>,
    value: &mut Vec<W>,
) -> Look<Option<i32>> {
    let Some((key, content)) = bindings.next()? else { return Ok(None) };
    value.clear();
    value.reserve_exact(content.length());
    bindings.cursor.view.append(&content, value)?;
    Ok(Some(key))
}

impl<B: ShmBackend, G> Iterator for Iter<'_, B, G> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut value = Vec::new();
        let key = self.next_words(&mut value)?;
        Some(key.map(|key| (key, value)))
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
        Ok(Keys { cursor: Some(view.believe(Cursor::new(view))?), _guard: guard })
    }
}

impl<B: ShmBackend, G> Iterator for Keys<'_, B, G> {
    type Item = Result<i32>;

    fn next(&mut self) -> Option<Self::Item> {
        let cursor = self.cursor.as_mut()?;
        let slot = cursor.next();
        let slot = cursor.view.believe(slot).transpose();
        if !matches!(slot, Some(Ok(_))) {
            self.cursor = None;
        }
        slot.map(|slot| slot.map(|(key, ..)| key))
    }
}

impl<B: ShmBackend, G> FusedIterator for Keys<'_, B, G> {}

impl<B: ShmBackend, G> std::fmt::Debug for Keys<'_, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}
