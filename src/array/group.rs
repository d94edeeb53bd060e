//! Several operations as one.
//!
//! This module does not lock, and undoes nothing itself: the groups of the table do.

use manycore_backends::ShmBackend;

use super::iter::Iter;
use super::{ArrayError, LENGTH_KEY, Result, TAG, check_index, collect, decode, encode, length_in};
use crate::codec::Value;
use crate::table::{Failure, Group, ReadGroup, TableError};

/// The lookups of both kinds of group.
macro_rules! lookups {
    () => {
        /// How many elements there are, set or not.
        pub fn length(&self) -> u32 {
            self.length
        }

        /// As [`ShmArray::get`](super::ShmArray::get).
        ///
        /// # Errors
        /// The same.
        pub fn get(&self, index: u32) -> Result<T> {
            check_index(index, self.length)?;
            self.group.find(index as i32)?.map_or_else(|| Ok(self.default.clone()), |words| decode(&words))
        }

        /// As [`ShmArray::get_many`](super::ShmArray::get_many).
        ///
        /// # Errors
        /// The same.
        pub fn get_many(&self, indices: &[u32]) -> Result<Vec<T>> {
            collect(indices, self.length, self.default, |keys, visit| self.group.get_many(keys, visit))
        }

        /// As [`ShmArray::iter`](super::ShmArray::iter).
        ///
        /// # Errors
        /// The same.
        pub fn iter(&self) -> Result<Iter<'_, T, B, ()>> {
            Ok(Iter::new(self.group.iter()?, self.length))
        }
    };
}

/// An array inside [`ShmArray::read_group`](super::ShmArray::read_group): the same lookups, all of one state of the
/// array.
pub struct ArrayReadGroup<'g, 'a, T, B: ShmBackend> {
    group: &'g ReadGroup<'a, B>,
    default: &'g T,
    length: u32,
}

impl<T, B: ShmBackend> std::fmt::Debug for ArrayReadGroup<'_, '_, T, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrayReadGroup").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<'g, 'a, T: Value + Clone, B: ShmBackend> ArrayReadGroup<'g, 'a, T, B> {
    pub(super) fn new(group: &'g ReadGroup<'a, B>, default: &'g T) -> Result<Self> {
        let length = length_in(group.find(LENGTH_KEY)?.as_deref())?;
        Ok(ArrayReadGroup { group, default, length })
    }

    lookups!();
}

/// An array inside [`ShmArray::group`](super::ShmArray::group): the same operations, done as one. An operation that
/// fails leaves the group as it was before that operation, and the group can go on.
pub struct ArrayGroup<'g, 'a, T, B: ShmBackend> {
    group: &'g mut Group<'a, B>,
    default: &'g T,
    /// As it is in the table, which nobody else can change now.
    length: u32,
}

impl<T, B: ShmBackend> std::fmt::Debug for ArrayGroup<'_, '_, T, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrayGroup").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<'g, 'a, T: Value + Clone, B: ShmBackend> ArrayGroup<'g, 'a, T, B> {
    pub(super) fn new(group: &'g mut Group<'a, B>, default: &'g T) -> Result<Self> {
        let length = length_in(group.find(LENGTH_KEY)?.as_deref())?;
        Ok(ArrayGroup { group, default, length })
    }

    lookups!();

    /// As [`ShmArray::set`](super::ShmArray::set).
    ///
    /// # Errors
    /// The same.
    pub fn set(&mut self, index: u32, value: &T) -> Result<()> {
        self.set_words(index, &encode(value)?)
    }

    /// As [`ShmArray::update`](super::ShmArray::update).
    ///
    /// # Errors
    /// The same.
    pub fn update(&mut self, index: u32, change: impl FnOnce(T) -> T) -> Result<()> {
        let value = change(self.get(index)?);
        self.set(index, &value)
    }

    /// As [`ShmArray::unset`](super::ShmArray::unset).
    ///
    /// # Errors
    /// The same.
    pub fn unset(&mut self, index: u32) -> Result<bool> {
        check_index(index, self.length)?;
        Ok(self.group.remove(index as i32)?)
    }

    /// As [`ShmArray::resize`](super::ShmArray::resize).
    ///
    /// # Errors
    /// The same.
    pub fn resize(&mut self, length: u32) -> Result<()> {
        let before = self.length;
        self.group.group(|group| {
            if length < before {
                remove_elements(group, length, before)?;
            }
            group.replace(LENGTH_KEY, &[TAG, length as i32])
        })?;
        self.length = length;
        Ok(())
    }

    /// A group inside the group: if `body` returns an error or panics, what it did is undone, and the outer group can
    /// go on.
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmArray::group`](super::ShmArray::group).
    pub fn group<R, E: From<ArrayError>>(
        &mut self,
        body: impl FnOnce(&mut ArrayGroup<'_, '_, T, B>) -> Result<R, E>,
    ) -> Result<R, E> {
        let (default, length) = (self.default, self.length);
        let (value, length) = Failure::lift::<_, ArrayError>(self.group.group(|group| {
            let mut inner = ArrayGroup { group, default, length };
            let value = body(&mut inner).map_err(Failure::Body)?;
            Ok((value, inner.length))
        }))?;
        self.length = length;
        Ok(value)
    }

    /// Sets the element `index` to what is encoded already.
    pub(super) fn set_words(&mut self, index: u32, words: &[u32]) -> Result<()> {
        check_index(index, self.length)?;
        Ok(self.group.replace(index as i32, bytemuck::cast_slice(words))?)
    }
}

/// Removes the elements from `start` on; none is beyond `end`.
fn remove_elements<B: ShmBackend>(group: &mut Group<'_, B>, start: u32, end: u32) -> Result<(), TableError> {
    // Whichever is less: those that there may be, or those that are set.
    if ((end - start) as usize) < group.length()? {
        (start..end).try_for_each(|index| group.remove(index as i32).map(drop))
    } else {
        group.retain(|key, _| key == LENGTH_KEY || (key as u32) < start).map(drop)
    }
}
