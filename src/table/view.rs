//! Looking at the words of an object, with every place checked: the reader's half of the engine.
//!
//! Contents may be anything: whatever is read is checked against the size that this process knows, walks
//! are bounded by the number of records that could exist, and values are copied out.

use std::ops::ControlFlow;

use manycore_backends::ShmBackend;
use manycore_backends::shm::{Memory, ShmError};

use super::error::{Result, TableError};
use super::layout::*;

/// The least that an object grows by, in bytes.
const GROWTH_MIN: u64 = 16 << 10;

/// The most that an object grows by at once, in bytes.
const GROWTH_MAX: u64 = 4 << 20;

/// An object that holds a table, while a lock is held.
pub(super) struct View<'a, B: ShmBackend> {
    object: &'a B,
}

impl<B: ShmBackend> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: ShmBackend> Copy for View<'_, B> {}

/// The fixed part of a record, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) at: u32,
    pub(super) class: u32,
    pub(super) next: u32,
    pub(super) older: u32,
    pub(super) key: i32,
    pub(super) length: u32,
}

/// A record and the word that leads to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The word that holds `record.at`: a bucket, or the next or older word of another record.
    pub(super) link: u32,
    pub(super) record: Record,
    /// Whether `link` is the older word of a newer record of the same key.
    pub(super) hidden: bool,
}

impl<'a, B: ShmBackend> View<'a, B> {
    /// Looks at the object; what others have added to it becomes reachable.
    #[inline]
    pub(super) fn new(object: &'a B) -> Result<View<'a, B>> {
        let view = View { object };
        view.believe(view.check_top()).map(|()| view)
    }

    #[inline]
    fn check_top(&self) -> Result<()> {
        let mut top = self.load(AT_TOP)?;
        if top as usize > self.memory().words() {
            self.object.size()?;
            top = self.load(AT_TOP)?;
        }
        let corrupt = |what| Err(TableError::Corrupt { at: AT_TOP as usize, what });
        if top as usize > self.memory().words() {
            corrupt("the table says that it is longer than its object")
        } else if top < HEADER_WORDS {
            corrupt("the table says that it is shorter than its header")
        } else {
            Ok(())
        }
    }

    /// The result of an operation, unless what it saw was not there: an object that somebody has cut off reads as
    /// zeros, and looks corrupt.
    #[inline]
    pub(super) fn believe<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => {
                self.object.intact()?;
                Ok(value)
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    #[cold]
    fn explain(&self, error: TableError) -> TableError {
        let intact = self.object.intact().and_then(|()| match error {
            TableError::Corrupt { .. } => self.object.size().map(drop),
            _ => Ok(()),
        });
        match intact {
            Ok(()) => error,
            Err(cause) => cause.into(),
        }
    }

    /// Looks again, after the words have changed.
    pub(super) fn again(self) -> Result<View<'a, B>> {
        View::new(self.object)
    }

    pub(super) fn memory(&self) -> &'a B::Memory {
        self.object.memory()
    }

    #[inline]
    pub(super) fn load(&self, at: u32) -> Result<u32> {
        Ok(self.memory().load(at as usize)?)
    }

    #[inline]
    pub(super) fn store(&self, at: u32, value: u32) -> Result<()> {
        Ok(self.memory().store(at as usize, value)?)
    }

    /// Makes the words below `end` exist, growing the object if it must.
    pub(super) fn reach(&self, end: u32) -> Result<()> {
        let words = self.memory().words() as u64;
        if u64::from(end) <= words {
            return Ok(());
        }
        let page = self.page_size()? as u64;
        let need = (u64::from(end) * 4).div_ceil(page) * page;
        let size = words * 4;
        let generous = (size + (size / 2).clamp(GROWTH_MIN, GROWTH_MAX)).div_ceil(page) * page;
        match self.object.grow(need.max(generous)) {
            // There may be room for just what is needed.
            Err(ShmError::Full { .. } | ShmError::TooLarge { .. }) if generous > need => {
                Ok(self.object.grow(need)?)
            }
            result => Ok(result?),
        }
    }

    pub(super) fn page_size(&self) -> Result<usize> {
        let bytes = self.load(AT_PAGE_SIZE)? as usize;
        if is_page_size(bytes) {
            Ok(bytes)
        } else {
            Err(TableError::Corrupt { at: AT_PAGE_SIZE as usize, what: "impossible page size" })
        }
    }

    pub(super) fn buckets(&self) -> Result<(u32, u32)> {
        let (buckets, base) = (self.load(AT_BUCKETS)?, self.load(AT_BASE)?);
        if buckets == 0 || buckets > 1 << 30 || !base.is_power_of_two() || base > 1 << 30 {
            return Err(TableError::Corrupt {
                at: AT_BUCKETS as usize,
                what: "impossible number of buckets",
            });
        }
        Ok((buckets, base))
    }

    /// The word of a bucket.
    pub(super) fn bucket_word(&self, bucket: u32, base: u32) -> Result<u32> {
        let (segment, number) = segment_of(bucket, base);
        let at = self.load(AT_SEGMENTS + segment)?;
        if at < HEADER_WORDS {
            return Err(TableError::Corrupt {
                at: (AT_SEGMENTS + segment) as usize,
                what: "a segment of the bucket array is missing",
            });
        }
        at.checked_add(number)
            .ok_or(TableError::Corrupt { at: at as usize, what: "a segment is outside of the object" })
    }

    pub(super) fn record(&self, at: u32) -> Result<Record> {
        let mut words = [0; RECORD_WORDS as usize];
        let corrupt = |what| TableError::Corrupt { at: at as usize, what };
        if at < HEADER_WORDS {
            return Err(corrupt("a link leads into the header"));
        }
        if at > u32::MAX - class_words(0) {
            return Err(corrupt("a link leads beyond the last place"));
        }
        self.memory().read(at as usize, &mut words)?;
        let [mark, next, older, key, length] = words;
        let class = mark & !MARK;
        if mark & MARK != MARK_RECORD || class >= CLASSES {
            return Err(corrupt("a link leads to something that is no record"));
        }
        if length > class_words(class) - RECORD_WORDS {
            return Err(corrupt("a value is longer than its record"));
        }
        if at.checked_add(class_words(class)).is_none() {
            return Err(corrupt("a record ends beyond the last place"));
        }
        Ok(Record { at, class, next, older, key: key as i32, length })
    }

    /// Reads the value of a record into `value`.
    pub(super) fn value(&self, record: &Record, value: &mut Vec<u32>) -> Result<()> {
        let start = (record.at + RECORD_WORDS) as usize;
        // Checked before room is made for it: a length may be anything.
        if start + record.length as usize > self.memory().words() {
            return Err(TableError::Corrupt {
                at: record.at as usize,
                what: "a value outside of the object",
            });
        }
        value.clear();
        value.resize(record.length as usize, 0);
        Ok(self.memory().read(start, value)?)
    }

    /// Begins to follow links.
    pub(super) fn walk(self) -> Walk<'a, B> {
        Walk { view: self, words: self.memory().words() }
    }

    /// The word that leads to the newest record of `key`, and that record if there is one; else the word
    /// that ends the chain is not looked for: it is the bucket's.
    pub(super) fn newest(&self, key: i32) -> Result<(u32, Option<Place>)> {
        let hash = hash(key, self.load(AT_SEED)?);
        let (buckets, base) = self.buckets()?;
        let bucket = self.bucket_word(bucket_of(hash, buckets), base)?;
        let mut link = bucket;
        let mut walk = self.walk();
        loop {
            let at = self.load(link)?;
            if at == 0 {
                return Ok((bucket, None));
            }
            let record = walk.step(at)?;
            if record.key == key {
                return Ok((bucket, Some(Place { link, record, hidden: false })));
            }
            link = at + 1;
        }
    }

    /// Walks the bindings of `key`, newest first.
    pub(super) fn bindings<T>(
        &self,
        key: i32,
        mut visit: impl FnMut(&Place) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        let Some(mut place) = self.newest(key)?.1 else { return Ok(None) };
        let mut walk = self.walk();
        loop {
            if let ControlFlow::Break(result) = visit(&place)? {
                return Ok(Some(result));
            }
            let older = place.record.older;
            if older == 0 {
                return Ok(None);
            }
            place = Place { link: place.record.at + 2, record: walk.step(older)?, hidden: true };
        }
    }
}

/// Following links from record to record, until there must be a circle: the records that it passes cannot be
/// larger, together, than the object. So values collected on the way cannot be either.
pub(super) struct Walk<'a, B: ShmBackend> {
    view: View<'a, B>,
    /// Words left for the records to come.
    words: usize,
}

impl<B: ShmBackend> Walk<'_, B> {
    /// The record `at`, to which a link led.
    pub(super) fn step(&mut self, at: u32) -> Result<Record> {
        let record = self.view.record(at)?;
        self.words = self
            .words
            .checked_sub(class_words(record.class) as usize)
            .ok_or(TableError::Corrupt { at: at as usize, what: "a chain runs in a circle" })?;
        Ok(record)
    }
}

/// The hash of a key in a table: the finalizer of MurmurHash3 over the key and the table's seed.
pub(super) fn hash(key: i32, seed: u32) -> u32 {
    let mut hash = key as u32 ^ seed;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}
