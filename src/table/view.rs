//! Looking at the words of an object, with every place checked: the reader's half of the engine. What the words mean
//! for keys is for [`bindings`](super::bindings).
//!
//! Contents may be anything: whatever is read is checked against the size that this process knows, walks
//! are bounded by what the object has room for, and values are copied out.
//!
//! This module does not know whether a lock is held. What it says is true if nobody writes meanwhile; who looks
//! without a lock finds out afterwards, from the sequence words, and must expect any error until then.

use manycore_backends::ShmBackend;
use manycore_backends::shm::{Memory, OutOfBounds, ShmError, WORD, Window};

use super::error::{Result, TableError};
use super::layout::*;

/// The least that an object grows by, in bytes.
const GROWTH_MIN: u64 = 32 << 10;

/// The most that an object grows by at once, in bytes: reserving storage takes time, which one insertion pays.
const GROWTH_MAX: u64 = 64 << 10;

/// An object that holds a table.
pub(super) struct View<'a, B: ShmBackend> {
    object: &'a B,
    memory: WindowOf<'a, B>,
    /// What the transaction word must stay for what is seen to be of one state; [`NOT_WATCHED`] if a lock sees to that,
    /// or nobody cares.
    watched: u32,
}

/// No state has this transaction word: it is odd.
const NOT_WATCHED: u32 = 1;

type WindowOf<'a, B> = <<B as ShmBackend>::Memory as Memory>::Window<'a>;

impl<B: ShmBackend> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: ShmBackend> Copy for View<'_, B> {}

/// A record's head, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) at: u32,
    pub(super) granules: u32,
    pub(super) length: u32,
    pub(super) older: u32,
    pub(super) key: i32,
}

/// A free block, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeBlock {
    pub(super) before_is_free: bool,
    pub(super) granules: u32,
    pub(super) next: u32,
    pub(super) previous: u32,
}

/// Something that contradicts the format: [`TableError::Corrupt`] while it is found, small enough to cost nothing
/// where nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flaw {
    at: u32,
    what: &'static str,
}

/// What looking gives.
pub(super) type Look<T> = Result<T, Flaw>;

#[cold]
pub(super) fn corrupt(at: u32, what: &'static str) -> Flaw {
    Flaw { at, what }
}

impl From<Flaw> for TableError {
    #[cold]
    fn from(flaw: Flaw) -> TableError {
        TableError::Corrupt { at: flaw.at as usize, what: flaw.what }
    }
}

impl From<Flaw> for Box<TableError> {
    #[cold]
    fn from(flaw: Flaw) -> Box<TableError> {
        Box::new(flaw.into())
    }
}

impl From<OutOfBounds> for Flaw {
    #[cold]
    fn from(error: OutOfBounds) -> Flaw {
        Flaw { at: error.at.min(u32::MAX as usize) as u32, what: "a place outside of the object" }
    }
}

impl<'a, B: ShmBackend> View<'a, B> {
    /// Looks at the object; what others have added to it becomes reachable.
    #[inline(always)]
    pub(super) fn new(object: &'a B) -> Result<View<'a, B>> {
        let view = View::glance(object);
        if !view.is_top(view.load(AT_TOP)?) {
            return View::enlarged(object);
        }
        object.intact()?;
        Ok(view)
    }

    /// The same where more must become reachable.
    #[cold]
    pub(super) fn enlarged(object: &'a B) -> Result<View<'a, B>> {
        let size = object.size()?;
        let view = View::glance(object);
        let top = view.load(AT_TOP)?;
        if view.is_top(top) {
            object.intact()?;
            return Ok(view);
        }
        let words = view.memory().words();
        if top as usize <= words {
            return view.believe(Err(corrupt(AT_TOP, "impossible end of the heap")));
        }
        let bytes = u64::from(top) * WORD;
        if bytes <= size {
            // It is there, but this process has no address space for it.
            return Err(ShmError::TooLarge {
                name: object.name().to_owned(),
                bytes,
                max: words as u64 * WORD,
            }
            .into());
        }
        view.believe(Err(corrupt(AT_TOP, "the table says that it is longer than its object")))
    }

    /// Looks at the object as far as it is known: for a glance without a lock.
    #[inline]
    pub(super) fn glance(object: &'a B) -> View<'a, B> {
        View { object, memory: object.memory().window(), watched: NOT_WATCHED }
    }

    /// The result of an operation, unless what it saw was not there: an object that somebody has cut off reads as
    /// zeros, and looks corrupt.
    #[inline(always)]
    pub(super) fn believe<T, E: Into<TableError>>(&self, result: Result<T, E>) -> Result<T> {
        match result {
            Ok(value) => {
                self.confirm()?;
                Ok(value)
            }
            Err(error) => Err(self.explain(error.into())),
        }
    }

    /// Whether what was seen so far was there, and of one state.
    #[inline(always)]
    pub(super) fn confirm(&self) -> Result<()> {
        self.object.intact()?;
        if self.watched != NOT_WATCHED { self.confirm_unchanged() } else { Ok(()) }
    }

    /// Whether what was seen is of one state, if no lock sees to that. (Whoever reports a flaw finds out which.)
    #[inline(always)]
    pub(super) fn confirm_state(&self) -> Look<()> {
        if self.watched == NOT_WATCHED || self.load(AT_TRANSACTION)? == self.watched {
            Ok(())
        } else {
            Err(corrupt(AT_TRANSACTION, "it was changed meanwhile"))
        }
    }

    #[cold]
    fn confirm_unchanged(&self) -> Result<()> {
        if self.load(AT_TRANSACTION)? == self.watched {
            Ok(())
        } else {
            Err(TableError::Changed { name: self.object.name().to_owned() })
        }
    }

    /// Looks at a state without a lock, that with this (even) transaction word: what is seen counts only if nobody
    /// changes the table meanwhile.
    pub(super) fn watch(object: &'a B, transaction: u32) -> Result<View<'a, B>> {
        let view = View { watched: transaction, ..View::new(object)? };
        view.confirm()?;
        Ok(view)
    }

    /// Whether what was seen was there.
    #[inline(always)]
    pub(super) fn is_intact(&self) -> bool {
        self.object.intact().is_ok()
    }

    /// Why something went wrong: if the object was cut off, then because of that.
    #[cold]
    pub(super) fn explain(&self, error: TableError) -> TableError {
        let intact = self.object.intact().and_then(|()| match error {
            TableError::Corrupt { .. } => self.object.size().map(drop),
            _ => Ok(()),
        });
        match (intact, self.confirm()) {
            (Err(cause), _) => cause.into(),
            (Ok(()), Err(changed)) => changed,
            (Ok(()), Ok(())) => error,
        }
    }

    /// The same view, made anew: for what is seldom called, so that who calls it need not keep its own in memory.
    #[inline(always)]
    pub(super) fn again(&self) -> View<'_, B> {
        View { watched: self.watched, ..View::glance(self.object) }
    }

    /// Whether the heap may end there, as far as this process knows the object.
    #[inline(always)]
    pub(super) fn is_top(&self, top: u32) -> bool {
        top as usize <= self.memory().words() && top >= HEADER_WORDS && top % GRANULE == 0
    }

    #[inline]
    pub(super) fn memory(&self) -> WindowOf<'a, B> {
        self.memory
    }

    #[inline(always)]
    pub(super) fn load(&self, at: u32) -> Look<u32> {
        Ok(self.memory().load(at as usize)?)
    }

    #[inline(always)]
    pub(super) fn store(&self, at: u32, value: u32) -> Look<()> {
        Ok(self.memory().store(at as usize, value)?)
    }

    /// Makes the words below `end` exist, growing the object if it must.
    pub(super) fn reach(&mut self, end: u32) -> Result<()> {
        let words = self.memory().words() as u64;
        if u64::from(end) <= words {
            return Ok(());
        }
        let grown = self.grow(end, words);
        *self = View::glance(self.object);
        grown
    }

    fn grow(&self, end: u32, words: u64) -> Result<()> {
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

    pub(super) fn page_size(&self) -> Look<usize> {
        let bytes = self.load(AT_PAGE_SIZE)? as usize;
        if is_page_size(bytes) { Ok(bytes) } else { Err(corrupt(AT_PAGE_SIZE, "impossible page size")) }
    }

    /// The head of the block `at`.
    #[inline(always)]
    pub(super) fn block(&self, at: u32) -> Look<BlockHead> {
        if at < HEADER_WORDS || at % GRANULE != 0 {
            return Err(corrupt(at, "a place at which no block can be"));
        }
        let head = BlockHead::from_word(self.load(at)?);
        let Some(head) = head else { return Err(corrupt(at, "a place at which no block begins")) };
        // So that the words of a block can be counted on from here, and its end has a place.
        if at as usize + (head.granules * GRANULE) as usize > self.memory().words().min(u32::MAX as usize) {
            return Err(corrupt(at, "a block reaches beyond the object"));
        }
        Ok(head)
    }

    /// The free block `at`, which some list or neighbour leads to. Its last word, which lies elsewhere in memory, is not
    /// looked at.
    pub(super) fn free_block(&self, at: u32) -> Look<FreeBlock> {
        if at < HEADER_WORDS || at % GRANULE != 0 {
            return Err(corrupt(at, "a place at which no block can be"));
        }
        let [head, next, previous] = self.memory().read_array(at as usize)?;
        let Some(granules) = BlockHead::length_of(Kind::Free, head) else {
            return Err(corrupt(at, "no free block where one should be"));
        };
        if at as usize + (granules * GRANULE) as usize > self.memory().words().min(u32::MAX as usize) {
            return Err(corrupt(at, "a block reaches beyond the object"));
        }
        Ok(FreeBlock { before_is_free: head & BEFORE_IS_FREE != 0, granules, next, previous })
    }

    #[inline(always)]
    pub(super) fn record(&self, at: u32, key: i32) -> Look<Record> {
        if at < HEADER_WORDS || at % GRANULE != 0 {
            return Err(corrupt(at, "a link leads to a place at which no record can be"));
        }
        let [head, length, older, found] = self.memory().read_array(at as usize)?;
        let Some(granules) = BlockHead::length_of(Kind::Record, head) else {
            return Err(corrupt(at, "a link leads to something that is no record"));
        };
        if length > granules * GRANULE - RECORD_WORDS {
            return Err(corrupt(at, "a value is longer than its record"));
        }
        if at as usize + (granules * GRANULE) as usize > self.memory().words().min(u32::MAX as usize) {
            return Err(corrupt(at, "a record reaches beyond the object"));
        }
        if found != key as u32 {
            return Err(corrupt(at, "a record of another key"));
        }
        Ok(Record { at, granules, length, older, key })
    }
}
