//! Saving what can be read of a broken table.
//!
//! The broken object is copied into memory of this process first, so that it cannot change meanwhile and is not
//! changed itself. What is left in its journal is undone in the copy, if that can be done. Then the index is
//! followed as far as it leads; and then the heap is searched for records to which nothing leads any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use manycore_backends::shm::{Memory, Open, Window, create_unique};
use manycore_backends::{Heap, LockMethod, ShmBackend};

use super::ShmTable;
use super::check::Problem;
use super::error::{Result, TableError};
use super::journal::{Scope, Transaction};
use super::layout::*;
use super::view::{Content, Look, View, kind_of};

/// As many problems as are told of.
const PROBLEMS: usize = 100;

/// What [`ShmTable::salvage`] has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Bindings that were added.
    pub bindings: usize,
    /// What was wrong, as far as it was met.
    pub problems: Vec<Problem>,
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// Adds every binding that can be read of the broken table `from`, an object of the backend `F`, to this table:
    /// those that its index leads to, and those of which only the record was found (as older ones of their key). The
    /// broken object is only read, without any lock; nobody should be using it.
    ///
    /// # Errors
    /// [`TableError::Shm`] if `from` cannot be opened or be copied, and as [`add`](ShmTable::add): bindings are added
    /// one by one, and those that were added before an error stay.
    pub fn salvage<F: ShmBackend>(&self, from: impl AsRef<OsStr>) -> Result<Salvaged> {
        let copy = copy_of(&F::open(from.as_ref(), Open::ReadOnly)?)?;
        let mut salvage = Salvage::default();
        salvage.repair(&copy)?;
        let view = View::glance(&copy);
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

#[derive(Default)]
struct Salvage {
    problems: Vec<Problem>,
    /// Bindings, newest first.
    found: BTreeMap<i32, Vec<Vec<i32>>>,
    /// Buckets, overflow blocks and records that were visited.
    visited: BTreeSet<u32>,
}

impl Salvage {
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
        if let Err(error) = Transaction::new(copy, Scope::Table).start() {
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
            let followed = view.bucket(number).and_then(|bucket| self.follow_bucket(view, bucket));
            if let Err(error) = followed {
                self.tell(error);
            }
        }
    }

    fn follow_bucket(&mut self, view: View<'_, Heap>, bucket: u32) -> Look<()> {
        let mut at = bucket;
        while self.visited.insert(at) {
            let words: [u32; BUCKET_WORDS as usize] = view.memory().read_array(at as usize)?;
            let kinds = words[BUCKET_KINDS as usize];
            for slot in 0..SLOTS {
                let key = words[(BUCKET_KEYS + slot) as usize] as i32;
                let value = words[(BUCKET_VALUES + slot) as usize];
                match kind_of(kinds, slot) {
                    SLOT_NOTHING => {}
                    SLOT_EMPTY => self.found.entry(key).or_default().push(Vec::new()),
                    SLOT_WORD => self.found.entry(key).or_default().push(vec![value as i32]),
                    _ => {
                        if let Err(error) = self.follow_records(view, value, key) {
                            self.tell(error);
                        }
                    }
                }
            }
            let Some(next) = view.behind(at, kinds)? else { break };
            at = next;
        }
        Ok(())
    }

    /// Takes the value of the record at `first` and of those behind it, unless they were visited.
    fn follow_records(&mut self, view: View<'_, Heap>, first: u32, key: i32) -> Look<()> {
        let mut at = first;
        while at != 0 {
            let record = view.record(at, key)?;
            if !self.visited.insert(at) {
                break;
            }
            let mut value = Vec::new();
            view.append(&Content::Record(record), &mut value)?;
            self.found.entry(key).or_default().push(value);
            at = record.older;
        }
        Ok(())
    }

    /// Looks for records that were not visited: block by block, and where that leads nowhere, granule by granule.
    fn search_heap(&mut self, view: View<'_, Heap>) {
        let top = view.load(AT_TOP).unwrap_or(0);
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
                    if !self.visited.contains(&at) {
                        orphans.push((at, key));
                        hidden.insert(record.older);
                    }
                    at += record.granules * GRANULE;
                }
                // A record that is not what it says; its length cannot be believed, either.
                _ if head.kind == Kind::Record => at += GRANULE,
                _ => at = at.saturating_add(head.granules * GRANULE),
            }
        }
        // First those that nothing hides: the others are behind them.
        let (last, first): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|(at, _)| hidden.contains(at));
        for (at, key) in first.into_iter().chain(last) {
            if !self.visited.contains(&at) {
                self.tell(TableError::Corrupt { at: at as usize, what: "a record that nothing leads to" });
                if let Err(error) = self.follow_records(view, at, key) {
                    self.tell(error);
                }
            }
        }
    }
}
