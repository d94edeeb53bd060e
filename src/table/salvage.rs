//! Saving what can be read of a broken table.
//!
//! The broken object is copied into memory of this process first, so that it cannot change meanwhile and is not
//! changed itself. What is left in its journal is undone in the copy, if that can be done. Then the index is
//! followed as far as it leads; and then the heap is searched for buckets, overflow blocks and records to which nothing
//! leads any more. (Records that were given up and are deferred look the same. They are left out where the header says
//! which those are, or that nothing else is missing.)

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use manycore_backends::generation::Generation;
use manycore_backends::shm::{Memory, Open, Window, create_unique};
use manycore_backends::{Heap, LockMethod, ShmBackend};
use serde::{Deserialize, Serialize};

use super::ShmTable;
use super::bindings::{Content, Walk, kind_of};
use super::check::Problem;
use super::error::{Result, TableError};
use super::journal::{Scope, Transaction};
use super::layout::*;
use super::view::{Look, View, corrupt};

/// As many problems as are told of.
const PROBLEMS: usize = 100;

/// What [`ShmTable::salvage`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Salvaged {
    /// Bindings that were added.
    pub bindings: usize,
    /// What was wrong, as far as it was met.
    pub problems: Vec<Problem>,
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// Adds every binding that can be read of the broken table `from`, an object of the backend `F`, to this table:
    /// those that its index leads to; those in buckets that nothing leads to any more, if the index has none of their
    /// key; and those of which only the record was found (as older ones of their key). The broken object is only read,
    /// without any lock; nobody should be using it. Whose it may be, and who may write to it, is as this table was opened:
    /// [`TableOptions::owners`](super::TableOptions::owners), [`TableOptions::mode`](super::TableOptions::mode).
    ///
    /// # Errors
    /// [`TableError::Shm`] if `from` cannot be opened or be copied, and as [`add`](ShmTable::add): bindings are added
    /// one by one, and those that were added before an error stay.
    pub fn salvage<F: ShmBackend>(&self, from: impl AsRef<OsStr>) -> Result<Salvaged> {
        let copy = copy_of(&F::open_trusting(from.as_ref(), Open::ReadOnly, self.shared.trust)?)?;
        let view = View::glance(&copy);
        let mut salvage = Salvage::new(view.walk());
        salvage.repair(&copy)?;
        salvage.follow_index(view);
        salvage.search_heap(view);
        let mut bindings = 0;
        for (key, values) in salvage.found {
            for value in values.iter().rev() {
                self.add(key, value)?;
                bindings += 1;
            }
        }
        Ok(Salvaged { bindings, problems: salvage.problems })
    }
}

/// The words of an object, in memory of this process.
fn copy_of<F: ShmBackend>(broken: &F) -> Result<Heap> {
    let bytes = broken.size()?;
    let copy = create_unique::<Heap>(OsStr::new("salvage-XXXXXXXX"), 0o600)?;
    Heap::unlink(copy.name())?;
    copy.grow(bytes.max(u64::from(HEADER_WORDS) * 4))?;
    let mut words = [0; 1024];
    let count = (bytes / 4) as usize;
    for at in (0..count).step_by(words.len()) {
        let words = &mut words[..(count - at).min(1024)];
        broken.memory().read(at, words)?;
        copy.memory().write(at, words)?;
    }
    // What was cut off reads as zeros: the rest can be saved all the same.
    Ok(copy)
}

struct Salvage {
    problems: Vec<Problem>,
    /// Bindings, newest first.
    found: BTreeMap<i32, Vec<Vec<i32>>>,
    /// Buckets and overflow blocks that were visited.
    buckets: BTreeSet<u32>,
    /// Records that were. (One of both kinds at the same place is no contradiction where the index leads astray.)
    records: BTreeSet<u32>,
    /// Buckets that the directory leads to, by number and place, but that are in no segment.
    doubtful: Vec<(u32, u32)>,
    /// Room for the records to come: together they are no larger than the object, or lie within each other.
    walk: Walk,
}

impl Salvage {
    fn new(walk: Walk) -> Salvage {
        let (buckets, records, doubtful) = Default::default();
        Salvage { problems: Vec::new(), found: BTreeMap::new(), buckets, records, doubtful, walk }
    }

    fn tell(&mut self, error: impl Into<TableError>) {
        let problem = match error.into() {
            TableError::Corrupt { at, what } => Problem { at, what: what.to_owned() },
            other => Problem { at: 0, what: other.to_string() },
        };
        if self.problems.len() < PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Undoes what is left in the journal of the copy.
    fn repair(&mut self, copy: &Heap) -> Result<()> {
        let words = copy.memory().words();
        let top = copy.memory().load(AT_TOP as usize)?;
        if top as usize > words || top < HEADER_WORDS || top % GRANULE != 0 {
            self.tell(TableError::Corrupt { at: AT_TOP as usize, what: "impossible end of the heap" });
            let end = (words as u64).min(u64::from(u32::MAX)) as u32;
            copy.memory().store(AT_TOP as usize, end - end % GRANULE)?;
        }
        if let Err(error) = Transaction::new(copy, Generation::current(), Scope::Table).start() {
            self.tell(*error);
        }
        Ok(())
    }

    fn follow_index(&mut self, view: View<'_, Heap>) {
        let buckets = match view.buckets_to_visit() {
            Ok(buckets) => buckets,
            Err(error) => return self.tell(error),
        };
        for number in 0..buckets {
            let followed = view.bucket(number).and_then(|at| self.follow_bucket(view, number, at));
            if let Err(error) = followed {
                self.tell(error);
            }
        }
    }

    fn follow_bucket(&mut self, view: View<'_, Heap>, number: u32, at: u32) -> Look<()> {
        let first = at - segment_of(number).1 * BUCKET_WORDS;
        let is_head = |head: u32| {
            first_bucket(head) == first && view.block(head).is_ok_and(|head| head.kind == Kind::Segment)
        };
        if (first - BUCKET_WORDS..first).step_by(GRANULE as usize).any(is_head) {
            return self.follow_chain(view, at, |_, _| true).map(drop);
        }
        self.doubtful.push((number, at));
        Err(corrupt(at, "a bucket in no segment"))
    }

    /// Takes what is in a bucket or an overflow block, and in those behind it, if they were not visited; of the keys,
    /// those that `may` be there. Returns whether there were any.
    fn follow_chain(
        &mut self,
        view: View<'_, Heap>,
        first: u32,
        may: impl Fn(&Self, i32) -> bool,
    ) -> Look<bool> {
        let (mut at, mut any) = (first, false);
        while self.buckets.insert(at) {
            let words: [u32; BUCKET_WORDS as usize] = view.memory().read_array(at as usize)?;
            let kinds = words[BUCKET_KINDS as usize];
            for slot in 0..SLOTS {
                let key = words[(BUCKET_KEYS + slot) as usize] as i32;
                let value = words[(BUCKET_VALUES + slot) as usize];
                let kind = kind_of(kinds, slot);
                if kind == SLOT_NOTHING || !may(self, key) {
                    continue;
                }
                any = true;
                match kind {
                    SLOT_EMPTY => self.found.entry(key).or_default().push(Vec::new()),
                    SLOT_WORD => self.found.entry(key).or_default().push(vec![value as i32]),
                    _ => {
                        if let Err(error) = self.follow_records(view, record_place(value), key) {
                            self.tell(error);
                        }
                    }
                }
            }
            let Some(next) = view.behind(at, kinds)? else { break };
            at = next;
        }
        Ok(any)
    }

    /// Takes the value of the record at `first` and of those behind it, unless they were visited.
    fn follow_records(&mut self, view: View<'_, Heap>, first: u32, key: i32) -> Look<()> {
        let mut at = first;
        while at != 0 {
            let record = view.record(at, key)?;
            if !self.records.insert(at) {
                break;
            }
            self.walk.pass(&record)?;
            let mut value = Vec::new();
            view.append(&Content::Record(record), &mut value)?;
            self.found.entry(key).or_default().push(value);
            at = record.older;
        }
        Ok(())
    }

    /// Looks for what was not visited: block by block, and where that leads nowhere, granule by granule.
    fn search_heap(&mut self, view: View<'_, Heap>) {
        let top = view.load(AT_TOP).unwrap_or(0);
        let (mut segments, mut overflow) = (Vec::new(), Vec::new());
        let (mut orphans, mut hidden) = (Vec::new(), BTreeSet::new());
        let mut at = HEADER_WORDS;
        while at < top {
            let Ok(head) = view.block(at) else {
                at += GRANULE;
                continue;
            };
            let key = view.load(at + 3).unwrap_or(0) as i32;
            match view.record(at, key) {
                Ok(record) if record_granules(record.length as usize) == record.granules => {
                    if !self.records.contains(&at) {
                        orphans.push((at, key));
                        hidden.insert(record.older);
                    }
                    at += record.granules * GRANULE;
                }
                // A record that is not what it says; its length cannot be believed, either.
                _ if head.kind == Kind::Record => at += GRANULE,
                _ => {
                    match head.kind {
                        Kind::Segment => segments.push((at, head.granules)),
                        Kind::Overflow => overflow.push(at),
                        _ => {}
                    }
                    at = at.saturating_add(head.granules * GRANULE);
                }
            }
        }
        // Their slots lead to records, in order.
        for (at, granules) in segments {
            self.search_segment(view, at, granules);
        }
        for (number, at) in std::mem::take(&mut self.doubtful) {
            // What looks like keys of theirs may be anything.
            if self.misses_some(view) {
                let buckets = view.buckets().unwrap_or(1);
                self.search_chain(view, at, |hash| bucket_of(hash, buckets) == number);
            }
        }
        for at in overflow {
            if self.misses_some(view) {
                self.search_chain(view, at, |_| true);
            }
        }
        let deferred = |index: u32| view.load(AT_DEFERRED_RECORDS + index);
        let deferred = (0..view.deferred().unwrap_or(DEFERRED_MAX)).filter_map(|index| deferred(index).ok());
        let deferred: BTreeSet<u32> = deferred.collect();
        orphans.retain(|(at, _)| !deferred.contains(at));
        let found: usize = self.found.values().map(Vec::len).sum();
        let complete = view.load(AT_KEYS).is_ok_and(|keys| keys as usize == self.found.len())
            && view.load(AT_BINDINGS).is_ok_and(|bindings| bindings as usize == found);
        // First those that nothing hides: the others are behind them.
        let (last, first): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|(at, _)| hidden.contains(at));
        for (at, key) in first.into_iter().chain(last) {
            if !self.records.contains(&at) {
                self.tell(TableError::Corrupt { at: at as usize, what: "a record that nothing leads to" });
                if complete {
                    continue;
                }
                if let Err(error) = self.follow_records(view, at, key) {
                    self.tell(error);
                }
            }
        }
    }

    /// Looks into the buckets of a segment to which nothing leads. (Of one to which something leads, the rest is not in
    /// use, unless there are more keys than the buckets in use would have.)
    fn search_segment(&mut self, view: View<'_, Heap>, at: u32, granules: u32) {
        let of = |segment| (segment_granules(segment) == granules).then_some(segment_buckets(segment));
        let Some(buckets) = of(0).or(of(SMALL_SEGMENTS)) else { return };
        let place = |index: u32| first_bucket(at) + index * BUCKET_WORDS;
        let led_to = (0..buckets).any(|index| self.buckets.contains(&place(index)));
        let fuller = |keys| u64::from(keys) > u64::from(LOAD) * u64::from(view.buckets().unwrap_or(0));
        if !self.misses_some(view) || led_to && !view.load(AT_KEYS).is_ok_and(fuller) {
            return;
        }
        for index in 0..buckets {
            // Bits of the number of the bucket, as far as the segment tells it, are bits of the hashes.
            let mask = if at == FIRST_SEGMENT { (index + 1).next_power_of_two() - 1 } else { buckets - 1 };
            if !self.buckets.contains(&place(index)) {
                self.search_chain(view, place(index), |hash| hash & mask == index);
            }
        }
    }

    /// Takes what is in a bucket or overflow block to which nothing leads, unless its keys were found elsewhere: a key
    /// has only one slot.
    fn search_chain(&mut self, view: View<'_, Heap>, at: u32, may: impl Fn(u32) -> bool) {
        let seed = view.load(AT_SEED).unwrap_or(0);
        let may = |salvage: &Self, key: i32| may(hash(key, seed)) && !salvage.found.contains_key(&key);
        match self.follow_chain(view, at, may) {
            Ok(false) => {}
            Ok(true) => self.tell(corrupt(at, "keys that nothing leads to")),
            Err(error) => self.tell(error),
        }
    }

    /// Whether less was found than the table says it has; both counts must say so, as one may be damaged.
    fn misses_some(&self, view: View<'_, Heap>) -> bool {
        let found: usize = self.found.values().map(Vec::len).sum();
        view.load(AT_KEYS).is_ok_and(|keys| self.found.len() < keys as usize)
            && view.load(AT_BINDINGS).is_ok_and(|bindings| found < bindings as usize)
    }
}
