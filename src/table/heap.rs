//! Room in the object: blocks of any length, taken from the free ones or from the end.
//!
//! A block that is given up joins the free ones beside it. The format is in [`layout`](super::layout). This module
//! does not know what the blocks hold.

use manycore_backends::ShmBackend;

use super::error::{TableError, Work};
use super::journal::Transaction;
use super::layout::*;
use super::view::{FreeBlock, Look, View, corrupt};

/// As many journal entries as taking a block can need, or freeing one.
const ENTRIES: u32 = 16;

impl<B: ShmBackend> Transaction<'_, B> {
    /// Takes a block. What it contains, but for its first word, is not defined; the transaction may fill it.
    pub(super) fn take(&mut self, kind: Kind, granules: u32) -> Work<u32> {
        // Whatever happens to the journal happens before the heap is looked at.
        self.make_room(ENTRIES)?;
        let with_blocks = |class| self.view().class_with_blocks(class);
        if let Some(class) = class_for(granules).map_or(Ok(None), with_blocks)? {
            return self.take_free(kind, granules, class);
        }
        let top = self.view().load(AT_TOP)?;
        let end = granules
            .checked_mul(GRANULE)
            .and_then(|words| top.checked_add(words))
            .filter(|_| granules <= GRANULES_MAX)
            .ok_or(TableError::FormatFull)?;
        self.reach(end)?;
        self.put(AT_TOP, end)?;
        self.fill(top, &[BlockHead::new(kind, granules).word()])?;
        Ok(top)
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

    /// Frees the blocks given up.
    pub(super) fn dispose(&mut self) -> Work<()> {
        // The journal moves now if it must: not to a place that was given back just before, for until the transaction
        // has happened, undoing needs what is there. A journal that moves gives its old block up, too.
        loop {
            let blocks = self.given_up.len();
            self.make_room(self.entries_to_free(blocks)?)?;
            if self.given_up.len() == blocks {
                break;
            }
        }
        while let Some(at) = self.given_up.pop() {
            self.free(at)?;
        }
        Ok(())
    }

    /// As many journal entries as freeing so many blocks can need.
    fn entries_to_free(&self, blocks: usize) -> Work<u32> {
        // Beside the end of the heap, many free blocks may join, of which any two are longer than a block can be.
        let pairs = self.view().load(AT_TOP)? / (GRANULES_MAX * GRANULE);
        let blocks = u32::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(ENTRIES));
        blocks
            .and_then(|entries| entries.checked_add(3 * (2 * pairs + 1)))
            .ok_or_else(|| TableError::FormatFull.into())
    }

    fn free(&mut self, at: u32) -> Work<()> {
        let head = self.view().block(at)?;
        if head.kind == Kind::Free {
            return Err(corrupt(at, "a block was given up twice").into());
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
    /// The first class from `class` on with free blocks.
    #[inline]
    pub(super) fn class_with_blocks(&self, class: u32) -> Look<Option<u32>> {
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
}
