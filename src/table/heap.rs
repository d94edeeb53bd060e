//! Room in the object: blocks of any length, taken from the free ones or from the end.
//!
//! A block that is given up joins the free ones beside it; a record not at once, but with others, if it is not used
//! again before (*deferred coalescing*, as in the fast bins of many an allocator). The format is in [`layout`](super::layout). This module
//! does not know what the blocks hold.

use manycore_backends::ShmBackend;
use manycore_backends::shm::Window;
use smallvec::SmallVec;

use super::error::{TableError, Work};
use super::journal::Transaction;
use super::layout::*;
use super::view::{FreeBlock, Look, View, corrupt};

/// As many journal entries as taking a block can need, or freeing one.
const ENTRIES: u32 = 16;

/// A deferred record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deferred {
    pub(super) at: u32,
    /// Its number, and that of the last one.
    pub(super) index: u32,
    pub(super) last: u32,
}

/// What is in a free block until the transaction has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// What was there before.
    Stays,
    /// Perhaps something else: it may be taken.
    Changes,
}

/// As many as freeing a deferred record can need, from which a block is taken in the same transaction.
const ENTRIES_TO_JOIN: u32 = 24;

/// As many as joining one more free block beside it can need.
const ENTRIES_TO_ABSORB: u32 = 7;

impl<B: ShmBackend> Transaction<'_, B> {
    /// Takes a block. What it contains, but for its first word, is not defined; the transaction may fill it.
    pub(super) fn take(&mut self, kind: Kind, granules: u32) -> Work<u32> {
        // Whatever happens to the journal happens before the heap is looked at.
        self.make_room(ENTRIES)?;
        if kind == Kind::Record {
            if let Some(deferred) = self.view().deferred_of(granules)? {
                return self.take_deferred(deferred);
            }
        }
        if let Some(class) = self.view().class_with_room(granules)? {
            return self.take_free(kind, granules, class);
        }
        let (mut top, mut end) = self.room_at_top(granules)?;
        if end as usize > self.view().memory().words() && self.view().deferred()? > 0 {
            self.join_deferred()?;
            if let Some(class) = self.view().class_with_room(granules)? {
                return self.take_free(kind, granules, class);
            }
            (top, end) = self.room_at_top(granules)?;
        }
        self.reach(end)?;
        self.put(AT_TOP, end)?;
        self.fill(top, &[BlockHead::new(kind, granules).word()])?;
        Ok(top)
    }

    /// The end of the heap, as it is and as it would be.
    fn room_at_top(&self, granules: u32) -> Work<(u32, u32)> {
        let top = self.view().load(AT_TOP)?;
        let end = granules
            .checked_mul(GRANULE)
            .and_then(|words| top.checked_add(words))
            .filter(|_| granules <= GRANULES_MAX)
            .ok_or(TableError::FormatFull)?;
        Ok((top, end))
    }

    /// Takes a deferred record for another.
    fn take_deferred(&mut self, Deferred { at, index, last }: Deferred) -> Work<u32> {
        self.put(AT_DEFERRED_RECORDS + index, self.view().load(AT_DEFERRED_RECORDS + last)?)?;
        self.put(AT_DEFERRED, last)?;
        Ok(at)
    }

    /// Takes the first free block of the class, or its beginning.
    fn take_free(&mut self, kind: Kind, granules: u32, class: u32) -> Work<u32> {
        let at = self.view().load(AT_FREE + class)?;
        let block = self.view().free_block(at)?;
        if block.granules < granules || class_of(block.granules) != class || block.previous != 0 {
            return Err(corrupt(at, "a free list begins with a block that should not be there").into());
        }
        let end = at + block.granules * GRANULE;
        let top = self.view().load(AT_TOP)?;
        if end >= top {
            return Err(corrupt(at, "a free block reaches the end of the heap").into());
        }
        self.unlink(at, &block)?;
        // The words that make it a free block; what is between them has no meaning.
        for word in [at, at + 1, at + 2, end - 1] {
            self.keep(word)?;
        }
        let rest = at + granules * GRANULE;
        if rest < end {
            self.link(rest, block.granules - granules, false)?;
        } else {
            self.set_before_is_free(end, false)?;
        }
        let head = BlockHead { kind, before_is_free: block.before_is_free, granules };
        self.fill(at, &[head.word()])?;
        Ok(at)
    }

    /// Gives a block up; it becomes free at the end of the transaction.
    pub(super) fn give_up(&mut self, at: u32) {
        self.given_up.push(at);
    }

    /// Frees the blocks given up, or defers them.
    pub(super) fn dispose(&mut self) -> Work<()> {
        // The journal moves now if it must: not to a place that was given back just before, for until the transaction
        // has happened, undoing needs what is there. A journal that moves gives its old block up, too.
        let deferred = self.view().deferred()?;
        loop {
            let blocks = self.given_up.len();
            self.make_room(self.entries_to_free(blocks + deferred as usize, ENTRIES)?)?;
            if self.given_up.len() == blocks {
                break;
            }
        }
        if self.given_up.len() > (DEFERRED_MAX - deferred) as usize {
            self.free_deferred(Content::Stays)?;
        }
        while let Some(at) = self.given_up.pop() {
            let (head, deferred) = (self.view().block(at)?, self.view().deferred()?);
            if head.kind == Kind::Record && head.granules <= DEFERRED_GRANULES_MAX && deferred < DEFERRED_MAX
            {
                self.put(AT_DEFERRED_RECORDS + deferred, at)?;
                self.put(AT_DEFERRED, deferred + 1)?;
            } else {
                self.free(at, Content::Stays)?;
            }
        }
        Ok(())
    }

    /// As many journal entries as freeing so many blocks can need, if each needs so many.
    fn entries_to_free(&self, blocks: usize, each: u32) -> Work<u32> {
        // Beside the end of the heap, many free blocks may join, of which any two are longer than a block can be.
        let pairs = self.view().load(AT_TOP)? / (GRANULES_MAX * GRANULE);
        let blocks = u32::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(each));
        blocks
            .and_then(|entries| entries.checked_add(ENTRIES_TO_ABSORB * (2 * pairs + 1)))
            .ok_or_else(|| TableError::FormatFull.into())
    }

    /// Frees the deferred records before the end of the transaction.
    #[cold]
    fn join_deferred(&mut self) -> Work<()> {
        let deferred = self.view().deferred()?;
        self.make_room(self.entries_to_free(deferred as usize, ENTRIES_TO_JOIN)?.saturating_add(ENTRIES))?;
        self.free_deferred(Content::Changes)
    }

    /// Frees the deferred records.
    fn free_deferred(&mut self, content: Content) -> Work<()> {
        let mut records = SmallVec::<[(u32, BlockHead); DEFERRED_MAX as usize]>::new();
        for index in 0..self.view().deferred()? {
            records.push(self.view().deferred_record(index)?);
        }
        self.view().fetch(&records);
        self.put(AT_DEFERRED, 0)?;
        records.into_iter().try_for_each(|(at, _)| self.free(at, content))
    }

    fn free(&mut self, at: u32, content: Content) -> Work<()> {
        let head = self.view().block(at)?;
        if head.kind == Kind::Free {
            return Err(corrupt(at, "a block was given up twice").into());
        }
        if content == Content::Changes {
            self.keep(at)?;
        }
        let top = self.view().load(AT_TOP)?;
        let (mut start, mut granules, mut before_is_free) = (at, head.granules, head.before_is_free);
        let mut end = at + granules * GRANULE;
        if end > top {
            return Err(corrupt(at, "a block reaches beyond the end of the heap").into());
        }
        if end < top && self.view().block(end)?.kind == Kind::Free {
            let next = self.view().free_block(end)?;
            if granules + next.granules <= GRANULES_MAX {
                self.keep_free(end, &next, content)?;
                self.unlink(end, &next)?;
                granules += next.granules;
                end += next.granules * GRANULE;
            }
        }
        if end > top {
            return Err(corrupt(at, "a free block reaches beyond the end of the heap").into());
        }
        // Beside the end of the heap there may be several, of which any two are longer than a block can be.
        while before_is_free {
            let (before, block) = self.free_block_before(start)?;
            if end != top && granules + block.granules > GRANULES_MAX {
                break;
            }
            self.keep_free(before, &block, content)?;
            self.unlink(before, &block)?;
            start = before;
            granules = granules.saturating_add(block.granules);
            before_is_free = block.before_is_free;
        }
        if end == top {
            return self.put(AT_TOP, start);
        }
        self.link(start, granules, before_is_free)?;
        self.set_before_is_free(end, true)
    }

    /// Notes the words that make it a free block, if they are going to change.
    fn keep_free(&mut self, at: u32, block: &FreeBlock, content: Content) -> Work<()> {
        if content == Content::Changes {
            for word in [at, at + 1, at + 2, at + block.granules * GRANULE - 1] {
                self.keep(word)?;
            }
        }
        Ok(())
    }

    /// Whether a block could be taken without enlarging the object.
    pub(super) fn has_room(&self, granules: u32) -> Work<bool> {
        let view = self.view();
        if view.deferred_of(granules)?.is_some() || view.class_with_room(granules)?.is_some() {
            return Ok(true);
        }
        Ok(self.room_at_top(granules)?.1 as usize <= view.memory().words())
    }

    fn free_block_before(&self, at: u32) -> Work<(u32, FreeBlock)> {
        let granules = self.view().load(at - 1)?;
        let wrong = || corrupt(at, "the block before this one should be free");
        let before = granules
            .checked_mul(GRANULE)
            .and_then(|words| at.checked_sub(words))
            .filter(|before| *before != at)
            .ok_or_else(wrong)?;
        let block = self.view().free_block(before)?;
        if block.granules == granules { Ok((before, block)) } else { Err(wrong().into()) }
    }

    /// Puts a free block into the list of its class. What is at its place has no meaning, but for the words that
    /// are noted here.
    pub(super) fn link(&mut self, at: u32, granules: u32, before_is_free: bool) -> Work<()> {
        let class = class_of(granules);
        let first = self.view().load(AT_FREE + class)?;
        self.put(at, BlockHead { kind: Kind::Free, before_is_free, granules }.word())?;
        self.put(at + 1, first)?;
        self.put(at + 2, 0)?;
        self.put(at + granules * GRANULE - 1, granules)?;
        if first != 0 {
            self.view().free_block(first)?;
            self.put(first + 2, at)?;
        }
        self.put(AT_FREE + class, at)?;
        self.set_class_bit(class, true)
    }

    /// Takes a free block out of its list.
    fn unlink(&mut self, at: u32, block: &FreeBlock) -> Work<()> {
        let class = class_of(block.granules);
        if block.previous != 0 {
            if self.view().free_block(block.previous)?.next != at {
                return Err(corrupt(at, "a free list does not lead back").into());
            }
            self.put(block.previous + 1, block.next)?;
        } else {
            if self.view().load(AT_FREE + class)? != at {
                return Err(corrupt(at, "a free block is in no list").into());
            }
            self.put(AT_FREE + class, block.next)?;
            if block.next == 0 {
                self.set_class_bit(class, false)?;
            }
        }
        if block.next != 0 {
            if self.view().free_block(block.next)?.previous != at {
                return Err(corrupt(at, "a free list does not lead back").into());
            }
            self.put(block.next + 2, block.previous)?;
        }
        Ok(())
    }

    fn set_class_bit(&mut self, class: u32, set: bool) -> Work<()> {
        let at = AT_FREE_CLASSES + class / 32;
        let bit = 1 << (class % 32);
        let word = self.view().load(at)?;
        self.put(at, if set { word | bit } else { word & !bit })
    }

    pub(super) fn set_before_is_free(&mut self, at: u32, free: bool) -> Work<()> {
        let head = self.view().block(at)?;
        self.put(at, BlockHead { before_is_free: free, ..head }.word())
    }
}

impl<B: ShmBackend> View<'_, B> {
    /// A class with free blocks that are all so long.
    #[inline]
    pub(super) fn class_with_room(&self, granules: u32) -> Look<Option<u32>> {
        class_for(granules).map_or(Ok(None), |class| self.class_with_blocks(class))
    }

    /// The first class from `class` on with free blocks.
    #[inline]
    fn class_with_blocks(&self, class: u32) -> Look<Option<u32>> {
        let mut mask = u32::MAX << (class % 32);
        for index in class / 32..CLASSES.div_ceil(32) {
            let word = self.load(AT_FREE_CLASSES + index)? & mask;
            if word != 0 {
                return Ok(Some(32 * index + word.trailing_zeros()).filter(|class| *class < CLASSES));
            }
            mask = u32::MAX;
        }
        Ok(None)
    }

    /// Fetches from memory what freeing these blocks needs: all that is wanted for the first step of each, and then for the
    /// second, which the first leads to.
    fn fetch(&self, blocks: &[(u32, BlockHead)]) {
        let fetch = |at: u32| self.memory().prefetch(at as usize);
        let end = |at: u32, head: BlockHead| at + head.granules * GRANULE;
        for (at, head) in blocks {
            let end = end(*at, *head);
            [at - 1, end - 1, end].into_iter().for_each(fetch);
        }
        let before = |at: u32, head: BlockHead| {
            let granules = self.load(at - 1).ok().filter(|_| head.before_is_free)?;
            at.checked_sub(granules.checked_mul(GRANULE)?)
        };
        for (at, head) in blocks {
            before(*at, *head).into_iter().for_each(fetch);
        }
        for (at, head) in blocks {
            for beside in [Some(end(*at, *head)), before(*at, *head)].into_iter().flatten() {
                if let Ok(block) = self.free_block(beside) {
                    let end = beside + block.granules * GRANULE;
                    [block.next, block.previous, end].into_iter().for_each(fetch);
                }
            }
        }
    }

    /// How many records are deferred.
    #[inline(always)]
    pub(super) fn deferred(&self) -> Look<u32> {
        let deferred = self.load(AT_DEFERRED)?;
        if deferred <= DEFERRED_MAX {
            Ok(deferred)
        } else {
            Err(corrupt(AT_DEFERRED, "more deferred records than there can be"))
        }
    }

    /// The place and the first word of one of them.
    #[inline(always)]
    pub(super) fn deferred_record(&self, index: u32) -> Look<(u32, BlockHead)> {
        let at = self.load(AT_DEFERRED_RECORDS + index)?;
        let head = self.block(at)?;
        if head.kind == Kind::Record {
            Ok((at, head))
        } else {
            Err(corrupt(at, "no record where a deferred one should be"))
        }
    }

    /// The last of them that is just so long.
    #[inline(always)]
    pub(super) fn deferred_of(&self, granules: u32) -> Look<Option<Deferred>> {
        let deferred = self.deferred()?;
        for index in (0..deferred).rev() {
            let (at, head) = self.deferred_record(index)?;
            if head.granules == granules {
                return Ok(Some(Deferred { at, index, last: deferred - 1 }));
            }
        }
        Ok(None)
    }
}
