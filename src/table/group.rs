//! Several operations as one.

use manycore_backends::ShmBackend;

use super::error::{Result, TableError};
use super::index::Verdict;
use super::iter::{Iter, Keys};
use super::journal::{Savepoint, Transaction};
use super::layout::AT_BINDINGS;
use super::view::View;

/// A table inside [`ShmTable::group`](super::ShmTable::group): the same operations, done as one. An operation
/// that fails leaves the group as it was before that operation, and the group can go on.
pub struct Group<'a, B: ShmBackend> {
    pub(super) transaction: Transaction<'a, B>,
}

impl<B: ShmBackend> std::fmt::Debug for Group<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<B: ShmBackend> Group<'_, B> {
    /// As [`ShmTable::add`](super::ShmTable::add).
    ///
    /// # Errors
    /// The same.
    pub fn add(&mut self, key: i32, value: &[i32]) -> Result<()> {
        self.attempt(|group| group.transaction.bind(key, &super::to_words(value)?))
    }

    /// As [`ShmTable::find`](super::ShmTable::find).
    ///
    /// # Errors
    /// The same.
    pub fn find(&self, key: i32) -> Result<Option<Vec<i32>>> {
        self.view().believe(super::find(self.view(), key))
    }

    /// As [`ShmTable::find_all`](super::ShmTable::find_all).
    ///
    /// # Errors
    /// The same.
    pub fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>> {
        self.view().believe(super::find_all(self.view(), key))
    }

    /// As [`ShmTable::mem`](super::ShmTable::mem).
    ///
    /// # Errors
    /// The same.
    pub fn mem(&self, key: i32) -> Result<bool> {
        self.view().believe(super::mem(self.view(), key))
    }

    /// As [`ShmTable::remove`](super::ShmTable::remove).
    ///
    /// # Errors
    /// The same.
    pub fn remove(&mut self, key: i32) -> Result<bool> {
        self.attempt(|group| super::remove(&mut group.transaction, key))
    }

    /// As [`ShmTable::replace`](super::ShmTable::replace).
    ///
    /// # Errors
    /// The same.
    pub fn replace(&mut self, key: i32, value: &[i32]) -> Result<()> {
        self.attempt(|group| super::replace(&mut group.transaction, key, value))
    }

    /// As [`ShmTable::length`](super::ShmTable::length).
    ///
    /// # Errors
    /// The same.
    pub fn length(&self) -> Result<usize> {
        let bindings = self.view().load(AT_BINDINGS);
        Ok(self.view().believe(bindings)? as usize)
    }

    /// As [`ShmTable::iter`](super::ShmTable::iter).
    ///
    /// # Errors
    /// The same.
    pub fn iter(&self) -> Result<Iter<'_, B, ()>> {
        Iter::new((), *self.view())
    }

    /// As [`ShmTable::iter_keys`](super::ShmTable::iter_keys).
    ///
    /// # Errors
    /// The same.
    pub fn iter_keys(&self) -> Result<Keys<'_, B, ()>> {
        Keys::new((), *self.view())
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
        self.view().believe(super::search(self.view(), key, &mut visit))
    }

    /// Walks the bindings of `key`, newest first, as `judge` says; see [`Verdict`].
    pub(crate) fn judge(
        &mut self,
        key: i32,
        judge: impl FnMut(&[u32], &mut Vec<u32>) -> Result<Verdict>,
    ) -> Result<bool> {
        self.attempt(|group| group.transaction.judge(key, judge))
    }

    /// Adds a binding of words.
    pub(crate) fn add_words(&mut self, key: i32, value: &[u32]) -> Result<()> {
        self.attempt(|group| group.transaction.bind(key, value))
    }

    pub(super) fn view(&self) -> &View<'_, B> {
        self.transaction.view()
    }

    fn attempt<T, E: From<TableError>>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let savepoint = self.transaction.savepoint();
        let attempt = Attempt { group: self, savepoint };
        let value = body(attempt.group)?;
        attempt.group.view().believe(Ok(()))?;
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
