//! Several operations as one.
//!
//! This module takes no lock and changes no bytes itself: the table holds the lock, and its transaction writes.

use manycore_backends::ShmBackend;

use super::blocks::{Announced, Answer, Fragment, FragmentMut, Step};
use super::error::{Result, TableError, Work};
use super::index::Verdict;
use super::iter::{Iter, Keys, visit_all};
use super::journal::{Savepoint, Transaction};
use super::layout::AT_BINDINGS;
use super::view::View;

/// A table inside [`ShmTable::read_group`](super::ShmTable::read_group): the same lookups, all of one state of the
/// table.
pub struct ReadGroup<'a, B: ShmBackend> {
    pub(super) view: View<'a, B>,
}

impl<B: ShmBackend> std::fmt::Debug for ReadGroup<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadGroup").finish_non_exhaustive()
    }
}

/// The lookups of both kinds of group; `$view` is where they look.
macro_rules! lookups {
    ($view:ident => |$group:ident| $from:expr) => {
        /// As [`ShmTable::find`](super::ShmTable::find).
        ///
        /// # Errors
        /// The same.
        pub fn find(&self, key: i32) -> Result<Option<Vec<i32>>> {
            let $group = self;
            let $view = &$from;
            $view.believe($view.bucket_of_key(key).and_then(|bucket| $view.find_in(&bucket, key)))
        }

        /// As [`ShmTable::find_into`](super::ShmTable::find_into).
        ///
        /// # Errors
        /// The same.
        pub fn find_into(&self, key: i32, value: &mut Vec<i32>) -> Result<bool> {
            let $group = self;
            let $view = &$from;
            $view.believe($view.bucket_of_key(key).and_then(|bucket| $view.find_into_in(&bucket, key, value)))
        }

        /// As [`ShmTable::find_all`](super::ShmTable::find_all).
        ///
        /// # Errors
        /// The same.
        pub fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>> {
            let $group = self;
            let $view = &$from;
            $view.believe($view.bucket_of_key(key).and_then(|bucket| $view.find_all_in(&bucket, key)))
        }

        /// As [`ShmTable::mem`](super::ShmTable::mem).
        ///
        /// # Errors
        /// The same.
        pub fn mem(&self, key: i32) -> Result<bool> {
            let $group = self;
            let $view = &$from;
            let slot = $view.bucket_of_key(key).and_then(|bucket| $view.slot(&bucket, key));
            Ok($view.believe(slot)?.is_some())
        }

        /// As [`ShmTable::get_many`](super::ShmTable::get_many).
        ///
        /// # Errors
        /// The same.
        pub fn get_many(&self, keys: &[i32], visit: impl FnMut(i32, Option<&[i32]>)) -> Result<()> {
            let $group = self;
            let $view = &$from;
            $view.believe($view.get_many(keys, visit))
        }

        /// As [`ShmTable::length`](super::ShmTable::length).
        ///
        /// # Errors
        /// The same.
        pub fn length(&self) -> Result<usize> {
            let $group = self;
            let $view = &$from;
            Ok($view.believe($view.load(AT_BINDINGS))? as usize)
        }

        /// As [`ShmTable::iter`](super::ShmTable::iter).
        ///
        /// # Errors
        /// The same.
        pub fn iter(&self) -> Result<Iter<'_, B, ()>> {
            let $group = self;
            let $view = &$from;
            Iter::new((), $view.again())
        }

        /// As [`ShmTable::iter_keys`](super::ShmTable::iter_keys).
        ///
        /// # Errors
        /// The same.
        pub fn iter_keys(&self) -> Result<Keys<'_, B, ()>> {
            let $group = self;
            let $view = &$from;
            Keys::new((), $view.again())
        }

        /// As [`ShmTable::fold`](super::ShmTable::fold).
        ///
        /// # Errors
        /// The same.
        pub fn fold<T>(&self, init: T, mut combine: impl FnMut(T, i32, &[i32]) -> T) -> Result<T> {
            let $group = self;
            let $view = &$from;
            let mut result = Some(init);
            let visited = visit_all(*$view, |key, value| {
                result = result.take().map(|result| combine(result, key, value));
                Ok::<(), TableError>(())
            });
            $view.believe(visited)?;
            Ok(result.expect("it is put back after each step"))
        }

        /// As [`ShmTable::read_blocks`](super::ShmTable::read_blocks).
        ///
        /// # Errors
        /// The same.
        pub fn read_blocks(
            &self,
            key: i32,
            visit: impl FnMut(Option<Fragment<'_, B>>) -> Step,
        ) -> Result<()> {
            let $group = self;
            let $view = &$from;
            $view.believe($view.read_blocks(key, visit))
        }
    };
}

impl<B: ShmBackend> ReadGroup<'_, B> {
    lookups!(view => |group| group.view);

    /// As [`ShmTable::search`](super::ShmTable::search).
    pub(crate) fn search<T>(
        &self,
        key: i32,
        mut visit: impl FnMut(&[u32]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let view = &self.view;
        let mut search = || view.search_in(&view.bucket_of_key(key)?, key, &mut visit);
        view.believe(search())
    }
}

/// A table inside [`ShmTable::group`](super::ShmTable::group): the same operations, done as one. An operation
/// that fails leaves the group as it was before that operation, and the group can go on.
pub struct Group<'a, B: ShmBackend> {
    pub(super) transaction: Transaction<'a, B>,
    /// Room for a value and its replacement, kept for the next operation.
    buffers: [Vec<u32>; 2],
}

impl<B: ShmBackend> std::fmt::Debug for Group<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<'a, B: ShmBackend> Group<'a, B> {
    pub(super) fn new(transaction: Transaction<'a, B>) -> Group<'a, B> {
        Group { transaction, buffers: Default::default() }
    }

    lookups!(view => |group| *group.transaction.view());

    /// As [`ShmTable::add`](super::ShmTable::add).
    ///
    /// # Errors
    /// The same.
    pub fn add(&mut self, key: i32, value: &[i32]) -> Result<()> {
        self.step(|group| group.transaction.bind(key, bytemuck::cast_slice(value)))
    }

    /// As [`ShmTable::add_many`](super::ShmTable::add_many).
    ///
    /// # Errors
    /// The same.
    #[doc(alias("extend", "add_seq"))]
    pub fn add_many<V: AsRef<[i32]>>(&mut self, bindings: impl IntoIterator<Item = (i32, V)>) -> Result<()> {
        self.step(|group| group.transaction.bind_many(bindings))
    }

    /// As [`ShmTable::remove`](super::ShmTable::remove).
    ///
    /// # Errors
    /// The same.
    pub fn remove(&mut self, key: i32) -> Result<bool> {
        self.step(|group| group.transaction.remove(key))
    }

    /// As [`ShmTable::replace`](super::ShmTable::replace).
    ///
    /// # Errors
    /// The same.
    pub fn replace(&mut self, key: i32, value: &[i32]) -> Result<()> {
        self.step(|group| group.transaction.replace(key, bytemuck::cast_slice(value)))
    }

    /// As [`ShmTable::update`](super::ShmTable::update).
    ///
    /// # Errors
    /// The same.
    pub fn update<V: AsRef<[i32]>>(
        &mut self,
        key: i32,
        change: impl FnOnce(Option<&[i32]>) -> Option<V>,
    ) -> Result<()> {
        self.step(|group| group.transaction.update(key, change))
    }

    /// As [`ShmTable::clear`](super::ShmTable::clear); but room that is given up can be used again only after the
    /// group, and the journal must have room for it all.
    ///
    /// # Errors
    /// The same.
    pub fn clear(&mut self) -> Result<()> {
        self.step(|group| {
            group.transaction.sweep(|_, _, _| Ok(Verdict::RemoveAndNext))?;
            Ok(())
        })
    }

    /// As [`ShmTable::retain`](super::ShmTable::retain).
    ///
    /// # Errors
    /// The same.
    pub fn retain(&mut self, mut keep: impl FnMut(i32, &[i32]) -> bool) -> Result<usize> {
        let mut value = Vec::new();
        self.step(|group| {
            group.transaction.sweep(|transaction, place, key| {
                value.clear();
                transaction.view().append(&place.content, &mut value)?;
                Ok(if keep(key, &value) { Verdict::Next } else { Verdict::RemoveAndNext })
            })
        })
    }

    /// As [`ShmTable::write_blocks`](super::ShmTable::write_blocks).
    ///
    /// # Errors
    /// The same.
    pub fn write_blocks(
        &mut self,
        key: i32,
        announced: Announced,
        visit: impl FnMut(Option<FragmentMut<'_, 'a, B>>) -> Answer,
    ) -> Result<()> {
        self.step(|group| group.transaction.write_blocks(key, announced, visit))
    }

    /// A group inside the group: if `body` returns an error or panics, what it did is undone, and the outer
    /// group can go on. (If it cannot be undone, because the table is corrupt, the outer group fails.)
    ///
    /// # Errors
    /// What `body` returns.
    pub fn group<T, E: From<TableError>>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.attempt(body)
    }

    /// As [`ShmTable::search`](super::ShmTable::search).
    pub(crate) fn search<T>(
        &self,
        key: i32,
        mut visit: impl FnMut(&[u32]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let view = self.view();
        let mut search = || view.search_in(&view.bucket_of_key(key)?, key, &mut visit);
        view.believe(search())
    }

    /// Walks the bindings of `key`, newest first, as `judge` says; see [`Verdict`]. Returns whether one was changed.
    pub(crate) fn judge(
        &mut self,
        key: i32,
        mut judge: impl FnMut(&[u32], &mut Vec<u32>) -> Result<Verdict>,
    ) -> Result<bool> {
        let judged = self.step(|group| {
            group
                .transaction
                .judge(key, &mut group.buffers, |value, replacement| Ok(judge(value, replacement)?))
        });
        Ok(judged? != 0)
    }

    /// Adds a binding of words.
    pub(crate) fn add_words(&mut self, key: i32, value: &[u32]) -> Result<()> {
        self.step(|group| group.transaction.bind(key, value))
    }

    pub(super) fn view(&self) -> &View<'a, B> {
        self.transaction.view()
    }

    /// Does one operation, or nothing.
    #[inline]
    fn step<T>(&mut self, body: impl FnOnce(&mut Self) -> Work<T>) -> Result<T> {
        match self.attempt(body) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.view().explain(*error)),
        }
    }

    #[inline]
    fn attempt<T, E: From<TableError>>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction.check_generation()?;
        let savepoint = self.transaction.savepoint();
        let attempt = Attempt { group: self, savepoint };
        let value = body(attempt.group)?;
        attempt.group.view().confirm()?;
        std::mem::forget(attempt);
        Ok(value)
    }
}

/// Undoes, when it is dropped, what was attempted since the savepoint: after an error, and after a panic, which
/// somebody may catch inside the outer group.
struct Attempt<'g, 'a, B: ShmBackend> {
    group: &'g mut Group<'a, B>,
    savepoint: Savepoint,
}

impl<B: ShmBackend> Drop for Attempt<'_, '_, B> {
    fn drop(&mut self) {
        self.group.transaction.undo_to(self.savepoint);
    }
}
