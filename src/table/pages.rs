//! Room in the object: blocks of size classes, taken from free lists or from the end.
//!
//! Blocks are not joined or split again; a class's free blocks wait for the next binding of that size. This
//! module does not know what the blocks hold.

use manycore_backends::ShmBackend;

use super::error::{Result, TableError};
use super::journal::Transaction;
use super::layout::*;

/// A block that nobody can reach yet.
pub(super) struct Block {
    pub(super) at: u32,
    pub(super) class: u32,
    /// Whether its first two words hold a free list together if this transaction is undone.
    recycled: bool,
}

impl<B: ShmBackend> Transaction<'_, B> {
    /// Takes a block of at least `words` words. What it contains is not defined.
    pub(super) fn take(&mut self, words: u32) -> Result<Block> {
        let class = class_for(words).ok_or(TableError::FormatFull)?;
        let free = self.view().load(AT_FREE + class)?;
        if free != 0 {
            if free < HEADER_WORDS
                || free > u32::MAX - class_words(class)
                || self.view().load(free)? != MARK_FREE | class
            {
                return Err(TableError::Corrupt {
                    at: free as usize,
                    what: "a free list leads to something else than a free block",
                });
            }
            let next = self.view().load(free + 1)?;
            self.put(AT_FREE + class, next)?;
            return Ok(Block { at: free, class, recycled: true });
        }
        self.make_room()?;
        let top = self.view().load(AT_TOP)?;
        let end = top.checked_add(class_words(class)).ok_or(TableError::FormatFull)?;
        self.view().reach(end)?;
        self.put(AT_TOP, end)?;
        Ok(Block { at: top, class, recycled: false })
    }

    /// Writes the beginning of a block that was just taken.
    pub(super) fn fill_block(&mut self, block: &Block, words: &[u32]) -> Result<()> {
        if block.recycled {
            // Noted even if they are the same now: the block's owner may fill them again.
            self.keep(block.at)?;
            self.keep(block.at + 1)?;
        }
        self.fill(block.at, words)
    }

    /// Gives a block up; it becomes free at the end of the transaction.
    pub(super) fn give_up(&mut self, at: u32, class: u32) {
        self.given_up.push((at, class));
    }

    /// Puts the blocks given up on the free lists.
    pub(super) fn dispose(&mut self) -> Result<()> {
        while let Some((at, class)) = self.given_up.pop() {
            let first = self.view().load(AT_FREE + class)?;
            self.put(at, MARK_FREE | class)?;
            self.put(at + 1, first)?;
            self.put(AT_FREE + class, at)?;
        }
        Ok(())
    }
}
