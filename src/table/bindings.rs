//! Finding bindings: from a key to its bucket, to its slot, to its records.
//!
//! As [`view`](super::view), on which it stands, this module does not know whether a lock is held.

use std::ops::ControlFlow;

use bytemuck::Pod;
use manycore_backends::ShmBackend;
use manycore_backends::shm::Window;

use super::journal::is_odd;
use super::layout::*;
use super::view::{Flaw, Look, Record, View, corrupt};

/// A slot with a key in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The bucket of the key.
    pub(super) bucket: u32,
    /// That bucket, or the overflow block behind it, which has the slot.
    pub(super) at: u32,
    /// What has the link to `at`; 0 if that is the bucket itself.
    pub(super) before: u32,
    pub(super) index: u32,
    /// The kind of what is in it.
    pub(super) kind: u32,
}

impl Slot {
    /// The place of the slot's value or record.
    pub(super) fn value_place(&self) -> u32 {
        self.at + BUCKET_VALUES + self.index
    }
}

/// Where a binding's value is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Empty,
    Word(u32),
    Record(Record),
}

impl Content {
    /// The record of the next older binding, or 0.
    pub(super) fn older(&self) -> u32 {
        match self {
            Content::Empty | Content::Word(_) => 0,
            Content::Record(record) => record.older,
        }
    }

    /// Words in the value.
    pub(super) fn length(&self) -> usize {
        match self {
            Content::Empty => 0,
            Content::Word(_) => 1,
            Content::Record(record) => record.length as usize,
        }
    }
}

/// A binding, and what leads to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The slot of its key.
    pub(super) slot: Slot,
    /// The word that holds its value or leads to its record: in the slot, or in the record that hides it.
    pub(super) link: u32,
    pub(super) hidden: bool,
    pub(super) content: Content,
}

/// What was read of a bucket for somebody who looks for a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) at: u32,
    pub(super) sequence: u32,
    pub(super) kinds: u32,
    /// The slots that have the key, be there anything in them or not: bit s for slot s.
    candidates: u32,
}

impl Bucket {
    /// Whether there are overflow blocks behind it.
    #[inline(always)]
    pub(super) fn has_more(&self) -> bool {
        self.kinds & LINK != 0
    }

    /// The slot of the key in this bucket, and the kind of what is in it.
    #[inline(always)]
    pub(super) fn slot_of_key(&self) -> Option<(u32, u32)> {
        let mut candidates = self.candidates;
        while candidates != 0 {
            let slot = candidates.trailing_zeros();
            let kind = kind_of(self.kinds, slot);
            if kind != SLOT_NOTHING {
                return Some((slot, kind));
            }
            // What is left of a key that was there; it may be in another slot again.
            candidates &= candidates - 1;
        }
        None
    }

    /// The first slot with nothing in it.
    #[inline(always)]
    pub(super) fn free_slot(&self) -> Option<u32> {
        free_slot(self.kinds)
    }
}

/// What a bucket by itself tells of a key's newest binding, as mostly it does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Glimpse {
    /// There is none.
    Nothing,
    /// There is one, with a value of one word.
    Word(u32),
    /// There is one, whose record is at this place.
    Record(u32),
    /// There may be one.
    Elsewhere,
}

/// What a reader needs of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) sequence: u32,
    buckets: u32,
    seed: u32,
    mask: u32,
}

impl Head {
    /// The number of the bucket to which `key` belongs.
    #[inline(always)]
    fn bucket_of(&self, key: i32) -> u32 {
        masked_bucket_of(hash(key, self.seed), self.buckets, self.mask)
    }

    /// Whether there can be another key beside so many without another bucket.
    #[inline(always)]
    pub(super) fn has_room(&self, keys: u32) -> bool {
        u64::from(keys) < u64::from(LOAD) * u64::from(self.buckets)
    }
}

/// Where the bucket of a key is, as long as the table's sequence word stays what it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    sequence: u32,
    at: u32,
}

impl Route {
    /// The place of the bucket, if it is still there. (Whoever moves a bucket changes the sequence word. Under an odd one
    /// places are not to be relied upon.)
    #[inline(always)]
    pub(super) fn place(&self, head: &Head) -> Option<u32> {
        (self.sequence == head.sequence && !is_odd(head.sequence)).then_some(self.at)
    }
}

/// The even bit of each slot that has something in it.
#[inline]
pub(super) fn occupied(kinds: u32) -> u32 {
    (kinds | kinds >> 1) & 0x1555
}

/// The first slot with nothing in it.
#[inline]
pub(super) fn free_slot(kinds: u32) -> Option<u32> {
    let link = if kinds & LINK == 0 { 0 } else { 1 << (2 * LINK_SLOT) };
    let slot = (!(occupied(kinds) | link) & 0x1555).trailing_zeros() / 2;
    (slot < SLOTS).then_some(slot)
}

#[inline]
pub(super) fn kind_of(kinds: u32, slot: u32) -> u32 {
    (kinds >> (2 * slot)) & 3
}

impl<B: ShmBackend> View<'_, B> {
    pub(super) fn buckets(&self) -> Look<u32> {
        let buckets = self.load(AT_BUCKETS)?;
        if buckets.wrapping_sub(1) < BUCKETS_MAX {
            Ok(buckets)
        } else {
            Err(corrupt(AT_BUCKETS, "impossible number of buckets"))
        }
    }

    /// As it is: any number of buckets and any mask lead to a bucket that must still be [looked for](View::bucket).
    #[inline(always)]
    pub(super) fn head(&self) -> Look<Head> {
        // Said once for all that has its place for good, so that the compiler need not ask for each word of it.
        if self.memory().words() < FIRST_TOP as usize {
            return Err(corrupt(0, "the object is shorter than any table"));
        }
        let [sequence, buckets, seed, mask] = self.memory().read_array(AT_SEQUENCE as usize)?;
        Ok(Head { sequence, buckets, seed, mask })
    }

    /// The number of buckets, for who is going to look at each.
    pub(super) fn buckets_to_visit(&self) -> Look<u32> {
        let buckets = self.buckets()?;
        if buckets as usize * BUCKET_WORDS as usize > self.memory().words() {
            return Err(corrupt(AT_BUCKETS, "more buckets than the object has room for"));
        }
        Ok(buckets)
    }

    /// The place of a bucket.
    #[inline(always)]
    pub(super) fn bucket(&self, number: u32) -> Look<u32> {
        /// Lines in the header, and as many as places can tell of, less those of the longest segment.
        const FIRST: u32 = HEADER_WORDS / BUCKET_WORDS;
        const END: u32 = (1 << 28) - SEGMENT_BUCKETS;
        let (segment, index) = segment_of(number);
        let leaf = self.leaf(segment)?;
        let first = self.memory().load(leaf as usize + 4 + (segment % LEAF_SEGMENTS) as usize)?;
        // The number of its line; far too large if it does not begin at one.
        let line = first.rotate_right(BUCKET_WORDS.ilog2());
        if line.wrapping_sub(FIRST) >= END - FIRST {
            return Err(corrupt(leaf, "the directory leads to something that is no segment"));
        }
        Ok((line + index) * BUCKET_WORDS)
    }

    /// The leaf that tells where a segment is. The first one, which has those of a million keys, never moves.
    #[inline(always)]
    pub(super) fn leaf(&self, segment: u32) -> Look<u32> {
        let leaf = segment / LEAF_SEGMENTS;
        if leaf == 0 {
            Ok(FIRST_LEAF)
        } else if leaf < LEAVES {
            self.load(AT_LEAVES + leaf)
        } else {
            Err(corrupt(AT_BUCKETS, "a bucket beyond the directory"))
        }
    }

    /// The way to the bucket of `key`, whose content is fetched from memory meanwhile.
    #[inline(always)]
    pub(super) fn route(&self, key: i32) -> Look<Route> {
        let head = self.head()?;
        let at = self.bucket(head.bucket_of(key))?;
        self.memory().prefetch(at as usize);
        Ok(Route { sequence: head.sequence, at })
    }

    /// The place of the bucket to which `key` belongs, which `route` tells if it is good still.
    #[inline(always)]
    pub(super) fn place_of_key(&self, head: &Head, key: i32, route: Option<&Route>) -> Look<u32> {
        match route.and_then(|route| route.place(head)) {
            Some(at) => Ok(at),
            None => self.bucket(head.bucket_of(key)),
        }
    }

    /// The bucket at this place, read for who looks for `key`.
    #[inline(always)]
    pub(super) fn read_bucket(&self, at: u32, key: i32) -> Look<Bucket> {
        // Said once for the whole line, so that the compiler need not ask for each of its words.
        if at as usize + BUCKET_WORDS as usize > self.memory().words() {
            return Err(corrupt(at, "a bucket outside of the object"));
        }
        let [sequence, kinds] = self.memory().read_array(at as usize)?;
        let keys = at as usize + BUCKET_KEYS as usize;
        let candidates = self.memory().matches::<{ SLOTS as usize }>(keys, key as u32)?;
        Ok(Bucket { at, sequence, kinds, candidates })
    }

    /// What the bucket by itself tells of `key`, which belongs into it.
    #[inline(always)]
    pub(super) fn glimpse(&self, bucket: &Bucket) -> Look<Glimpse> {
        let Some((slot, kind)) = bucket.slot_of_key() else {
            return Ok(if bucket.has_more() { Glimpse::Elsewhere } else { Glimpse::Nothing });
        };
        let value = bucket.at as usize + BUCKET_VALUES as usize + slot as usize;
        Ok(match kind {
            SLOT_WORD => Glimpse::Word(self.memory().load(value)?),
            SLOT_RECORD => Glimpse::Record(record_place(self.memory().load(value)?)),
            _ => Glimpse::Elsewhere,
        })
    }

    /// The bucket to which `key` belongs.
    #[inline(always)]
    pub(super) fn bucket_of_key(&self, key: i32) -> Look<Bucket> {
        self.bucket_by(None, key)
    }

    /// The same, if there is a `route` from before.
    #[inline(always)]
    pub(super) fn bucket_by(&self, route: Option<&Route>, key: i32) -> Look<Bucket> {
        self.read_bucket(self.place_of_key(&self.head()?, key, route)?, key)
    }

    /// The overflow block behind `at`, whose kinds are given, if there is one.
    #[inline(always)]
    pub(super) fn behind(&self, at: u32, kinds: u32) -> Look<Option<u32>> {
        if kinds & LINK == 0 { Ok(None) } else { self.follow(at).map(Some) }
    }

    fn follow(&self, at: u32) -> Look<u32> {
        let next = self.load(at + BUCKET_KEYS + LINK_SLOT)?;
        let head = self.block(next)?;
        if head.kind != Kind::Overflow || head.granules != BUCKET_WORDS / GRANULE {
            return Err(corrupt(next, "a link leads to something that is no overflow block"));
        }
        Ok(next)
    }

    /// The slot of `key`, which belongs into this bucket, if it is there.
    #[inline(always)]
    pub(super) fn slot(&self, bucket: &Bucket, key: i32) -> Look<Option<Slot>> {
        let Some((index, kind)) = bucket.slot_of_key() else {
            return if bucket.has_more() { self.search_chain(bucket.at, key) } else { Ok(None) };
        };
        Ok(Some(Slot { bucket: bucket.at, at: bucket.at, before: 0, index, kind }))
    }

    /// The same, slot by slot, in the bucket and the overflow blocks behind it.
    // It takes a copy, so that whoever seldom comes here can keep what it has in registers.
    #[inline(never)]
    fn search_chain(self, bucket: u32, key: i32) -> Look<Option<Slot>> {
        let (mut at, mut before, mut steps) = (bucket, 0, 0);
        loop {
            let words: [u32; BUCKET_HEAD] = self.memory().read_array(at as usize)?;
            let kinds = words[BUCKET_KINDS as usize];
            let has = |slot: &u32| {
                words[(BUCKET_KEYS + slot) as usize] == key as u32 && kind_of(kinds, *slot) != SLOT_NOTHING
            };
            if let Some(index) = (0..SLOTS).find(has) {
                return Ok(Some(Slot { bucket, at, before, index, kind: kind_of(kinds, index) }));
            }
            let Some(next) = self.behind(at, kinds)? else { return Ok(None) };
            (before, at) = (at, next);
            steps += 1;
            self.check_steps(steps, next)?;
        }
    }

    /// Whether so many overflow blocks can be in one object.
    pub(super) fn check_steps(&self, steps: usize, at: u32) -> Look<()> {
        if steps * BUCKET_WORDS as usize > self.memory().words() {
            return Err(corrupt(at, "a chain of overflow blocks runs in a circle"));
        }
        Ok(())
    }

    /// What is in a slot.
    #[inline(always)]
    pub(super) fn content(&self, slot: &Slot, key: i32) -> Look<Content> {
        let value = self.load(slot.value_place())?;
        Ok(match slot.kind {
            SLOT_EMPTY => Content::Empty,
            SLOT_WORD => Content::Word(value),
            _ => Content::Record(self.record(record_place(value), key)?),
        })
    }

    /// Appends the value to `value`; `W` is `u32` or `i32`.
    #[inline(always)]
    pub(super) fn append<W: Pod>(&self, content: &Content, value: &mut Vec<W>) -> Look<()> {
        match content {
            Content::Empty => {}
            Content::Word(word) => value.push(bytemuck::cast(*word)),
            // Its length was checked against the object: it may be anything.
            Content::Record(record) => {
                let mut words: Vec<u32> = bytemuck::cast_vec(std::mem::take(value));
                let start = (record.at + RECORD_WORDS) as usize;
                let read = self.memory().append(start, record.length as usize, &mut words);
                *value = bytemuck::cast_vec(words);
                read?;
            }
        }
        Ok(())
    }

    /// The newest binding of `key`, which belongs into this bucket.
    #[inline(always)]
    pub(super) fn newest(&self, bucket: &Bucket, key: i32) -> Look<Option<Place>> {
        let Some(slot) = self.slot(bucket, key)? else { return Ok(None) };
        let content = self.content(&slot, key)?;
        Ok(Some(Place { slot, link: slot.value_place(), hidden: false, content }))
    }

    /// The next older binding, if there is one. The records that `walk` passes cannot be larger, together, than the
    /// object; so values collected on the way cannot be either.
    pub(super) fn older(&self, place: &Place, walk: &mut Walk) -> Look<Option<Place>> {
        let Content::Record(newer) = place.content else { return Ok(None) };
        if newer.older == 0 {
            return Ok(None);
        }
        let record = self.record(newer.older, newer.key)?;
        walk.pass(&record)?;
        let link = newer.at + RECORD_OLDER;
        Ok(Some(Place { slot: place.slot, link, hidden: true, content: Content::Record(record) }))
    }

    pub(super) fn walk(&self) -> Walk {
        Walk { words: self.memory().words() }
    }

    /// Walks the bindings of `key`, newest first.
    pub(super) fn bindings<T, E: From<Flaw>>(
        &self,
        bucket: &Bucket,
        key: i32,
        mut visit: impl FnMut(&Place) -> Result<ControlFlow<T>, E>,
    ) -> Result<Option<T>, E> {
        let mut place = self.newest(bucket, key)?;
        let mut walk = self.walk();
        while let Some(binding) = place {
            if let ControlFlow::Break(result) = visit(&binding)? {
                return Ok(Some(result));
            }
            place = self.older(&binding, &mut walk)?;
        }
        Ok(None)
    }
}

/// Following links from record to record, until there must be a circle.
pub(super) struct Walk {
    /// Words left for the records to come.
    words: usize,
}

impl Walk {
    pub(super) fn pass(&mut self, record: &Record) -> Look<()> {
        self.words = self
            .words
            .checked_sub((record.granules * GRANULE) as usize)
            .ok_or_else(|| corrupt(record.at, "a chain of records runs in a circle"))?;
        Ok(())
    }
}
