//! Whether everything in a table is in order: every block accounted for, every link leading where it should, every
//! count right.
//!
//! This module changes nothing. It needs memory for two bits per granule of the object.

use std::collections::HashSet;
use std::fmt;

use manycore_backends::shm::Window;
use manycore_backends::{LockMethod, ShmBackend};
use serde::{Deserialize, Serialize};

use super::ShmTable;
use super::bindings::{kind_of, occupied};
use super::error::{Result, TableError};
use super::journal::is_odd;
use super::layout::*;
use super::view::View;

/// As many problems as are told of.
const PROBLEMS: usize = 100;

/// Something that is wrong in a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, in words from the beginning of the object.
    pub at: usize,
    /// What.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word {}: {}", self.at, self.what)
    }
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// Looks at the whole structure, and tells what is wrong, at most a hundred things; nothing is told of a sound
    /// table. What a dead writer left is undone first. The read lock is held.
    ///
    /// It cannot know what keys and values should be.
    ///
    /// # Errors
    /// [`TableError::Lock`]; [`TableError::Shm`] if the object was cut off.
    pub fn check(&self) -> Result<Vec<Problem>> {
        let (_guard, view) = match self.begin_read() {
            Err(TableError::Corrupt { at, what }) => return Ok(vec![Problem { at, what: what.to_owned() }]),
            begun => begun?,
        };
        let mut check = Check::new(view);
        check.header();
        match check.heap().and_then(|()| check.lists()).and_then(|()| check.index()) {
            Err(TableError::Corrupt { at, what }) => check.tell(at as u32, what),
            result => view.believe(result)?,
        }
        check.lost();
        if !check.problems.is_empty() {
            // What was cut off within a page reads as zeros; only its size tells.
            self.shared.object.size()?;
        }
        view.confirm()?;
        Ok(check.problems)
    }
}

struct Check<'a, B: ShmBackend> {
    view: View<'a, B>,
    problems: Vec<Problem>,
    /// One bit per granule: a block begins here.
    begins: Vec<u64>,
    /// One bit per granule: the block that begins here was found to be in use, or in a list.
    claimed: Vec<u64>,
    top: u32,
}

fn bit(bits: &[u64], at: u32) -> bool {
    let granule = at / GRANULE;
    bits.get(granule as usize / 64).is_some_and(|word| word >> (granule % 64) & 1 != 0)
}

fn set_bit(bits: &mut [u64], at: u32) {
    let granule = at / GRANULE;
    if let Some(word) = bits.get_mut(granule as usize / 64) {
        *word |= 1 << (granule % 64);
    }
}

impl<'a, B: ShmBackend> Check<'a, B> {
    fn new(view: View<'a, B>) -> Check<'a, B> {
        let words = view.memory().words().div_ceil(64 * GRANULE as usize);
        Check { view, problems: Vec::new(), begins: vec![0; words], claimed: vec![0; words], top: 0 }
    }

    fn tell(&mut self, at: u32, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS {
            self.problems.push(Problem { at: at as usize, what: what.into() });
        }
    }

    fn must(&mut self, holds: bool, at: u32, what: &str) {
        if !holds {
            self.tell(at, what);
        }
    }

    fn header(&mut self) {
        let mut header = [0; HEADER_WORDS as usize];
        if self.view.memory().read(0, &mut header).is_err() {
            return self.tell(0, "there is no header");
        }
        let word = |at: u32| header[at as usize];
        self.top = word(AT_TOP);
        self.must(header[..2] == MAGIC, AT_MAGIC, "wrong magic words");
        self.must(word(AT_FORMAT) == FORMAT, AT_FORMAT, "wrong format");
        self.must(word(AT_BYTE_ORDER) == BYTE_ORDER, AT_BYTE_ORDER, "wrong byte order");
        self.must(is_page_size(word(AT_PAGE_SIZE) as usize), AT_PAGE_SIZE, "impossible page size");
        self.must(word(AT_STATE) == STATE_READY, AT_STATE, "creation is not finished");
        self.must(!is_odd(word(AT_SEQUENCE)), AT_SEQUENCE, "the table's sequence word is odd");
        self.must(word(AT_JOURNAL_LENGTH) == 0, AT_JOURNAL_LENGTH, "the journal is not empty");
        let mask = self.view.buckets().map(mask_of);
        self.must(mask.is_ok_and(|mask| word(AT_MASK) == mask), AT_MASK, "not the mask for so many buckets");
        self.must(
            word(AT_LEAVES) == FIRST_LEAF,
            AT_LEAVES,
            "the first leaf of the directory is not in its place",
        );
        let leaves = self.leaves_needed();
        let used = |at: u32| {
            at <= AT_STATE
                || (AT_SEQUENCE..=AT_MASK).contains(&at)
                || (AT_TRANSACTION..=AT_DEFERRED).contains(&at)
                || (AT_FREE_CLASSES..AT_FREE_CLASSES + CLASSES.div_ceil(32)).contains(&at)
                || (AT_FREE..AT_FREE + CLASSES).contains(&at)
                || (AT_LOCKS..AT_LOCKS_END).contains(&at)
                || (AT_DEFERRED_RECORDS..AT_DEFERRED_RECORDS + DEFERRED_MAX).contains(&at)
                || at >= AT_LEAVES
        };
        for at in (0..HEADER_WORDS).filter(|at| !used(*at) && word(*at) != 0) {
            self.tell(at, "an unused word is not 0");
        }
        let last = AT_FREE_CLASSES + CLASSES / 32;
        self.must(word(last) >> (CLASSES % 32) == 0, last, "a bit for a class that there is not");
        for leaf in 0..leaves.min(LEAVES) {
            self.must(word(AT_LEAVES + leaf) != 0, AT_LEAVES + leaf, "a leaf of the directory is missing");
        }
    }

    fn leaves_needed(&self) -> u32 {
        self.view.buckets().map_or(0, |buckets| segment_of(buckets - 1).0 / LEAF_SEGMENTS + 1)
    }

    /// Walks the blocks one after the other.
    fn heap(&mut self) -> Result<()> {
        let (mut at, mut before) = (HEADER_WORDS, None::<BlockHead>);
        while at < self.top {
            let head = self.view.block(at)?;
            let before_free = before.filter(|head| head.kind == Kind::Free);
            let is_free = head.kind == Kind::Free;
            self.must(
                head.before_is_free == before_free.is_some(),
                at,
                "a block is wrong about the one before it",
            );
            if let (true, Some(before)) = (is_free, before_free) {
                self.must(
                    before.granules + head.granules > GRANULES_MAX,
                    at,
                    "two free blocks lie beside each other",
                );
            }
            set_bit(&mut self.begins, at);
            at = at.saturating_add(head.granules * GRANULE);
            before = Some(head);
        }
        self.must(at == self.top, AT_TOP, "the last block does not end at the top");
        let ends_free = before.is_some_and(|head| head.kind == Kind::Free);
        self.must(!ends_free, AT_TOP, "the last block is free");
        Ok(())
    }

    /// Notes that something leads to this block. Only once may it.
    fn claim(&mut self, at: u32, kind: Kind) -> bool {
        let what = match self.view.block(at) {
            Ok(head) if bit(&self.begins, at) && head.kind == kind => {
                if !bit(&self.claimed, at) {
                    set_bit(&mut self.claimed, at);
                    return true;
                }
                "two links lead here"
            }
            _ => "a link leads here, but there is no such block",
        };
        self.tell(at, format!("{what} ({kind:?})"));
        false
    }

    fn lists(&mut self) -> Result<()> {
        self.claim(self.view.load(AT_JOURNAL)?, Kind::Journal);
        for index in 0..self.view.deferred()? {
            let (at, head) = self.view.deferred_record(index)?;
            self.claim(at, Kind::Record);
            self.must(head.granules <= DEFERRED_GRANULES_MAX, at, "a record too long to be deferred");
        }
        for class in 0..CLASSES {
            let mut at = self.view.load(AT_FREE + class)?;
            let bit = self.view.load(AT_FREE_CLASSES + class / 32)? >> (class % 32) & 1;
            self.must((at != 0) == (bit != 0), AT_FREE + class, "a list and its bit disagree");
            let mut previous = 0;
            while at != 0 && self.claim(at, Kind::Free) {
                let block = self.view.free_block(at)?;
                let last = at + block.granules * GRANULE - 1;
                self.must(
                    self.view.load(last)? == block.granules,
                    last,
                    "a free block ends with a wrong length",
                );
                self.must(block.previous == previous, at, "a free list does not lead back");
                self.must(class_of(block.granules) == class, at, "a free block in the list of another class");
                (previous, at) = (at, block.next);
            }
        }
        Ok(())
    }

    fn index(&mut self) -> Result<()> {
        let buckets = self.view.buckets_to_visit()?;
        let seed = self.view.load(AT_SEED)?;
        for leaf in 0..self.leaves_needed() {
            let at = self.view.load(AT_LEAVES + leaf)?;
            self.claim(at, Kind::Leaf);
        }
        let (mut bindings, mut keys) = (0, 0);
        // A recovery writes to it.
        let open = self.view.load(AT_OPEN)?;
        let mut open_is_bucket = open == 0;
        for number in 0..buckets {
            let (_, index) = segment_of(number);
            let bucket = self.view.bucket(number)?;
            open_is_bucket |= bucket == open;
            if index == 0 {
                self.claim_segment(bucket);
            }
            self.must(!is_odd(self.view.load(bucket)?), bucket, "a bucket's sequence word is odd");
            self.bucket(number, bucket, (buckets, seed), (&mut bindings, &mut keys))?;
        }
        self.must(open_is_bucket, AT_OPEN, "the open bucket is none in use");
        self.must(self.view.load(AT_BINDINGS)? == bindings, AT_BINDINGS, "wrong number of bindings");
        self.must(self.view.load(AT_KEYS)? == keys, AT_KEYS, "wrong number of keys");
        Ok(())
    }

    /// Claims the segment block whose first bucket is at `bucket`.
    fn claim_segment(&mut self, bucket: u32) {
        let begins = |at: &u32| {
            bit(&self.begins, *at)
                && first_bucket(*at) == bucket
                && self.view.block(*at).is_ok_and(|head| head.kind == Kind::Segment)
        };
        let block = (bucket.saturating_sub(BUCKET_WORDS)..bucket).step_by(GRANULE as usize).find(begins);
        self.claim(block.unwrap_or(bucket), Kind::Segment);
    }

    fn bucket(
        &mut self,
        number: u32,
        bucket: u32,
        (buckets, seed): (u32, u32),
        (bindings, keys): (&mut u32, &mut u32),
    ) -> Result<()> {
        let mut at = bucket;
        let mut here = HashSet::new();
        loop {
            let words: [u32; BUCKET_WORDS as usize] = self.view.memory().read_array(at as usize)?;
            let kinds = words[BUCKET_KINDS as usize];
            self.must(kinds & KINDS_UNUSED == 0, at + BUCKET_KINDS, "unused bits are not 0");
            let link = kinds & LINK != 0;
            self.must(
                !link || kind_of(kinds, LINK_SLOT) == SLOT_NOTHING,
                at + BUCKET_KINDS,
                "a slot has both a link and a key",
            );
            self.must(at == bucket || occupied(kinds) != 0, at, "an overflow block with no key");
            for slot in (0..SLOTS).filter(|slot| kind_of(kinds, *slot) != SLOT_NOTHING) {
                let key = words[(BUCKET_KEYS + slot) as usize] as i32;
                self.must(
                    bucket_of(hash(key, seed), buckets) == number,
                    at + BUCKET_KEYS + slot,
                    "a key in the wrong bucket",
                );
                self.must(here.insert(key), at + BUCKET_KEYS + slot, "a key has two slots");
                *keys += 1;
                *bindings += match kind_of(kinds, slot) {
                    SLOT_RECORD => self.records(words[(BUCKET_VALUES + slot) as usize], key)?,
                    _ => 1,
                };
            }
            match self.view.behind(at, kinds)? {
                Some(next) if self.claim(next, Kind::Overflow) => at = next,
                _ => return Ok(()),
            }
        }
    }

    /// The records of a key; how many.
    fn records(&mut self, newest: u32, key: i32) -> Result<u32> {
        let (mut at, mut count) = (record_place(newest), 0);
        loop {
            if !self.claim(at, Kind::Record) {
                return Ok(count);
            }
            let record = self.view.record(at, key)?;
            self.must(
                record_granules(record.length as usize) == record.granules,
                at,
                "a record is longer than its value needs",
            );
            count += 1;
            let is_plain = record_word(at, record.granules, record.older) != at;
            self.must(newest != at | PLAIN || is_plain, at, "a record is said to be plain, and is not");
            at = record.older;
            if at == 0 {
                return Ok(count);
            }
        }
    }

    /// Tells of blocks that nothing leads to.
    fn lost(&mut self) {
        if !self.problems.is_empty() {
            // Much would only be a consequence.
            return;
        }
        let mut at = HEADER_WORDS;
        while at < self.top {
            let Ok(head) = self.view.block(at) else { return };
            if !bit(&self.claimed, at) {
                self.tell(at, format!("a block that nothing leads to ({:?})", head.kind));
            }
            at = at.saturating_add(head.granules * GRANULE);
        }
    }
}
