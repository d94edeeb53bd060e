//! Reading and changing long values piece by piece, in place.
//!
//! A binding is visited in fragments of at most a page: a view over words in shared memory, which are copied one by
//! one or in runs; no reference leads into the memory. Changes are journalled, as all others are.
//!
//! This module does not know what the words mean.

use manycore_backends::ShmBackend;
use manycore_backends::shm::Window;

use super::bindings::{Content, Place};
use super::error::{Result, TableError, Work};
use super::index::Verdict;
use super::journal::Transaction;
use super::layout::*;
use super::view::View;

/// How to go on after a fragment, or after the end of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("Next", "Break"))]
pub enum Step {
    /// With the next fragment, or after the last with the next binding.
    Continue,
    /// With the next older binding; the rest of this one is not visited.
    Next,
    /// Not at all.
    Stop,
}

/// What a visitor that may change bindings answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ctrl_op")]
pub struct Answer {
    /// How to go on.
    pub step: Step,
    /// Whether the binding is to be removed when it ends; `None` leaves it at what was answered before. A binding
    /// ends after its last fragment, at [`Step::Next`], and at [`Step::Stop`].
    pub remove: Option<bool>,
}

impl Answer {
    /// Go on.
    pub const CONTINUE: Answer = Answer { step: Step::Continue, remove: None };
    /// Go on with the next older binding.
    pub const NEXT: Answer = Answer { step: Step::Next, remove: None };
    /// Stop.
    pub const STOP: Answer = Answer { step: Step::Stop, remove: None };

    /// Remove this binding, and go on like this.
    #[doc(alias = "Remove_binding")]
    pub const fn remove(step: Step) -> Answer {
        Answer { step, remove: Some(true) }
    }

    /// Keep this binding whatever was answered before, and go on like this.
    pub const fn keep(step: Step) -> Answer {
        Answer { step, remove: Some(false) }
    }
}

/// What a visitor says in advance that it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("write_op", "Remove_binding"))]
pub enum Announced {
    /// Only change words.
    Nothing,
    /// Also remove bindings.
    Removal,
}

/// A piece of a value in shared memory, at most a page long.
pub struct Fragment<'v, B: ShmBackend> {
    view: View<'v, B>,
    start: u32,
    words: u32,
}

impl<B: ShmBackend> std::fmt::Debug for Fragment<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fragment").field("len", &self.words).finish_non_exhaustive()
    }
}

impl<B: ShmBackend> Fragment<'_, B> {
    /// Words in the fragment.
    pub fn len(&self) -> usize {
        self.words as usize
    }

    /// Whether it has no words: the only fragment of an empty value.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The word `index`.
    ///
    /// # Errors
    /// [`TableError::OutOfFragment`] if there is none.
    pub fn get(&self, index: usize) -> Result<i32> {
        self.check(index, 1)?;
        Ok(self.view.load(self.start + index as u32)? as i32)
    }

    /// Copies the first words into all of `words`.
    ///
    /// # Errors
    /// [`TableError::OutOfFragment`] if there are not so many.
    pub fn copy_to(&self, words: &mut [i32]) -> Result<()> {
        self.check(0, words.len())?;
        Ok(self.view.memory().read(self.start as usize, bytemuck::cast_slice_mut(words))?)
    }

    fn check(&self, index: usize, count: usize) -> Result<()> {
        match index.checked_add(count) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(TableError::OutOfFragment { index, count, len: self.len() }),
        }
    }
}

/// A piece of a value in shared memory that can be changed.
pub struct FragmentMut<'t, 'a, B: ShmBackend> {
    transaction: &'t mut Transaction<'a, B>,
    /// Why a change failed: then all of them are undone.
    failed: &'t mut Option<TableError>,
    bucket: u32,
    start: u32,
    words: u32,
}

impl<B: ShmBackend> std::fmt::Debug for FragmentMut<'_, '_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FragmentMut").field("len", &self.words).finish_non_exhaustive()
    }
}

impl<B: ShmBackend> FragmentMut<'_, '_, B> {
    fn fragment(&self) -> Fragment<'_, B> {
        Fragment { view: self.transaction.view().again(), start: self.start, words: self.words }
    }

    /// As [`Fragment::len`].
    pub fn len(&self) -> usize {
        self.words as usize
    }

    /// As [`Fragment::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// As [`Fragment::get`].
    ///
    /// # Errors
    /// The same.
    pub fn get(&self, index: usize) -> Result<i32> {
        self.fragment().get(index)
    }

    /// As [`Fragment::copy_to`].
    ///
    /// # Errors
    /// The same.
    pub fn copy_to(&self, words: &mut [i32]) -> Result<()> {
        self.fragment().copy_to(words)
    }

    /// Changes the word `index`.
    ///
    /// # Errors
    /// [`TableError::OutOfFragment`] if there is none; [`TableError::Shm`] if there is no room for the journal. In that
    /// case this is the last fragment, and the whole operation fails in the same way.
    pub fn set(&mut self, index: usize, word: i32) -> Result<()> {
        self.copy_at(index, &[word])
    }

    /// Changes the first words to `words`.
    ///
    /// # Errors
    /// As [`set`](FragmentMut::set).
    pub fn copy_from(&mut self, words: &[i32]) -> Result<()> {
        self.copy_at(0, words)
    }

    fn copy_at(&mut self, index: usize, words: &[i32]) -> Result<()> {
        self.fragment().check(index, words.len())?;
        self.change(self.start + index as u32, words).map_err(|error| {
            let told = error.again();
            *self.failed = Some(*error);
            told
        })
    }

    fn change(&mut self, start: u32, words: &[i32]) -> Work<()> {
        self.transaction.check_generation()?;
        self.transaction.open_bucket(self.bucket)?;
        (start..).zip(words).try_for_each(|(at, word)| self.transaction.put(at, *word as u32))
    }
}

/// Where the words of a binding are: the first, and how many.
fn words_of(place: &Place) -> (u32, u32) {
    match place.content {
        Content::Empty => (place.link, 0),
        Content::Word(_) => (place.link, 1),
        Content::Record(record) => (record.at + RECORD_WORDS, record.length),
    }
}

impl<B: ShmBackend> View<'_, B> {
    /// See [`ShmTable::read_blocks`](super::ShmTable::read_blocks).
    pub(super) fn read_blocks(
        &self,
        key: i32,
        mut visit: impl FnMut(Option<Fragment<'_, B>>) -> Step,
    ) -> Result<()> {
        let page = (self.page_size()? / 4) as u32;
        let mut place = self.newest(&self.bucket_of_key(key)?, key)?;
        let mut walk = self.walk();
        while let Some(binding) = place {
            let (start, length) = words_of(&binding);
            let mut step = Step::Continue;
            for from in (0..length.max(1)).step_by(page as usize) {
                let words = page.min(length - from);
                step = visit(Some(Fragment { view: *self, start: start + from, words }));
                if step != Step::Continue {
                    break;
                }
            }
            if step == Step::Continue {
                step = visit(None);
            }
            if step == Step::Stop {
                break;
            }
            place = self.older(&binding, &mut walk)?;
        }
        Ok(())
    }
}

impl<'a, B: ShmBackend> Transaction<'a, B> {
    /// See [`ShmTable::write_blocks`](super::ShmTable::write_blocks).
    pub(super) fn write_blocks(
        &mut self,
        key: i32,
        announced: Announced,
        mut visit: impl FnMut(Option<FragmentMut<'_, 'a, B>>) -> Answer,
    ) -> Work<()> {
        let page = (self.view().page_size()? / 4) as u32;
        let mut failed = None;
        self.walk_key(key, |transaction, place| {
            let (start, length) = words_of(place);
            let bucket = place.slot.bucket;
            let (mut step, mut remove) = (Step::Continue, false);
            let mut from = 0;
            loop {
                let fragment = (from < length.max(1)).then(|| FragmentMut {
                    transaction: &mut *transaction,
                    failed: &mut failed,
                    bucket,
                    start: start + from,
                    words: page.min(length - from),
                });
                let ended = fragment.is_none();
                let answer = visit(fragment);
                if let Some(error) = failed.take() {
                    return Err(error.into());
                }
                remove = answer.remove.unwrap_or(remove);
                if remove && announced == Announced::Nothing {
                    return Err(TableError::NotAnnounced.into());
                }
                step = if answer.step == Step::Continue { step } else { answer.step };
                if ended || step != Step::Continue {
                    break;
                }
                from += page;
            }
            Ok(match (remove, step) {
                (false, Step::Stop) => Verdict::Stop,
                (false, _) => Verdict::Next,
                (true, Step::Stop) => Verdict::Remove,
                (true, _) => Verdict::RemoveAndNext,
            })
        })?;
        Ok(())
    }
}
