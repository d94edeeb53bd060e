//! Making a table empty at once, however much is in it.
//!
//! The first blocks of the heap never move: the first journal block, the first leaf of the directory and the
//! first segment. Everything behind them is given back, except for a journal block that lies there now.

use manycore_backends::ShmBackend;

use super::error::Work;
use super::journal::Transaction;
use super::layout::*;
use super::view::corrupt;

impl<B: ShmBackend> Transaction<'_, B> {
    /// Removes all bindings. It must be the last thing that a transaction does: what it gives back is not kept for
    /// undoing, but for the words that it changes itself.
    pub(super) fn reset(&mut self) -> Work<()> {
        for (block, kind) in [(FIRST_LEAF, Kind::Leaf), (FIRST_SEGMENT, Kind::Segment)] {
            if self.view().block(block)?.kind != kind {
                return Err(corrupt(block, "one of the first blocks is something else").into());
            }
        }
        self.open_table()?;
        // Its bucket may be given back. No bucket is open now, so that this needs no undoing.
        self.view().store(AT_OPEN, 0)?;
        // The lists' heads and bits, the counters, and as many words as linking each free block there will be can change.
        // The journal must not move after this: where it lies decides what is given back.
        let blocks = self.view().load(AT_TOP)? / (GRANULES_MAX * GRANULE) + 4;
        self.make_room(CLASSES + 16 + 8 * blocks)?;
        for class in 0..CLASSES {
            self.put(AT_FREE + class, 0)?;
        }
        for word in 0..CLASSES.div_ceil(32) {
            self.put(AT_FREE_CLASSES + word, 0)?;
        }
        self.set_buckets(1)?;
        self.put(AT_BINDINGS, 0)?;
        self.put(AT_KEYS, 0)?;
        self.put(AT_DEFERRED, 0)?;
        self.put(first_bucket(FIRST_SEGMENT) + BUCKET_KINDS, 0)?;
        self.set_before_is_free(FIRST_LEAF, false)?;
        self.set_before_is_free(FIRST_SEGMENT, false)?;
        let journal = self.journal();
        if journal == HEADER_WORDS {
            self.put(AT_TOP, FIRST_TOP)?;
        } else {
            if journal < FIRST_TOP {
                return Err(corrupt(AT_JOURNAL, "the journal lies in one of the first blocks").into());
            }
            self.link_run(HEADER_WORDS, FIRST_LEAF)?;
            self.link_run(FIRST_TOP, journal)?;
            let end = journal + self.view().block(journal)?.granules * GRANULE;
            self.put(AT_TOP, end)?;
        }
        // They are given back already.
        self.given_up.clear();
        Ok(())
    }

    /// Makes everything from `start` to the block `end` free.
    fn link_run(&mut self, start: u32, end: u32) -> Work<()> {
        let mut at = start;
        while at < end {
            let granules = ((end - at) / GRANULE).min(GRANULES_MAX);
            self.link(at, granules, at != start)?;
            at += granules * GRANULE;
        }
        self.set_before_is_free(end, start < end)
    }
}
