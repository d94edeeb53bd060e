//! Several operations as one.
//!
//! This module does not lock, and undoes nothing itself: the groups of the table do.

use std::borrow::Borrow;
use std::cell::Cell;
use std::marker::PhantomData;

use manycore_backends::ShmBackend;

use super::iter::{Iter, Keys, decode_binding};
use super::key::{EncodedKey, EncodedKeys};
use super::{MapError, Result};
use crate::codec::{Encode, Value, decode_all, hash};
use crate::table::{Failure, Group, ReadGroup, Verdict};

/// The lookups of both kinds of group.
macro_rules! lookups {
    () => {
        /// As [`ShmMap::find`](super::ShmMap::find).
        ///
        /// # Errors
        /// The same.
        pub fn find<Q>(&self, key: &Q) -> Result<Option<V>>
        where
            K: Borrow<Q>,
            Q: Encode + ?Sized,
        {
            EncodedKey::new(key)?.find(|hash, visit| self.group.search(hash, visit))
        }

        /// As [`ShmMap::get_many`](super::ShmMap::get_many), all of one state of the map.
        ///
        /// # Errors
        /// The same.
        pub fn get_many<'q, Q>(&self, keys: impl IntoIterator<Item = &'q Q>) -> Result<Vec<Option<V>>>
        where
            K: Borrow<Q>,
            Q: Encode + ?Sized + 'q,
        {
            EncodedKeys::new(keys)?.find(
                |hashes, visit| self.group.get_many(hashes, visit),
                |hash, visit| self.group.search(hash, visit),
            )
        }

        /// As [`ShmMap::find_all`](super::ShmMap::find_all).
        ///
        /// # Errors
        /// The same.
        pub fn find_all<Q>(&self, key: &Q) -> Result<Vec<V>>
        where
            K: Borrow<Q>,
            Q: Encode + ?Sized,
        {
            EncodedKey::new(key)?.find_all(|hash, visit| self.group.search(hash, visit))
        }

        /// As [`ShmMap::mem`](super::ShmMap::mem).
        ///
        /// # Errors
        /// The same.
        pub fn mem<Q>(&self, key: &Q) -> Result<bool>
        where
            K: Borrow<Q>,
            Q: Encode + ?Sized,
        {
            EncodedKey::new(key)?.mem(|hash, visit| self.group.search(hash, visit))
        }

        /// As [`ShmMap::length`](super::ShmMap::length).
        ///
        /// # Errors
        /// The same.
        pub fn length(&self) -> Result<usize> {
            Ok(self.group.length()?)
        }

        /// As [`ShmMap::iter`](super::ShmMap::iter).
        ///
        /// # Errors
        /// The same.
        pub fn iter(&self) -> Result<Iter<'_, K, V, B, ()>> {
            Ok(Iter::new(self.group.iter()?))
        }

        /// As [`ShmMap::iter_keys`](super::ShmMap::iter_keys).
        ///
        /// # Errors
        /// The same.
        pub fn iter_keys(&self) -> Result<Keys<'_, K, B, ()>> {
            Ok(Keys::new(self.group.iter()?))
        }

        /// As [`ShmMap::fold`](super::ShmMap::fold).
        ///
        /// # Errors
        /// The same.
        pub fn fold<T>(&self, init: T, combine: impl FnMut(T, K, V) -> T) -> Result<T> {
            self.iter()?.combine(init, combine)
        }
    };
}

/// A map inside [`ShmMap::read_group`](super::ShmMap::read_group): the same lookups, all of one state of the map.
pub struct MapReadGroup<'g, 'a, K, V, B: ShmBackend> {
    group: &'g ReadGroup<'a, B>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, B: ShmBackend> std::fmt::Debug for MapReadGroup<'_, '_, K, V, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapReadGroup").finish_non_exhaustive()
    }
}

impl<'g, 'a, K: Value, V: Value, B: ShmBackend> MapReadGroup<'g, 'a, K, V, B> {
    pub(super) fn new(group: &'g ReadGroup<'a, B>) -> Self {
        MapReadGroup { group, types: PhantomData }
    }

    lookups!();
}

/// A map inside [`ShmMap::group`](super::ShmMap::group): the same operations, done as one.
pub struct MapGroup<'g, 'a, K, V, B: ShmBackend> {
    group: &'g mut Group<'a, B>,
    types: PhantomData<fn() -> (K, V)>,
    /// Words of a key and a value, kept for the next operation.
    buffer: Vec<u32>,
}

impl<K, V, B: ShmBackend> std::fmt::Debug for MapGroup<'_, '_, K, V, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapGroup").finish_non_exhaustive()
    }
}

impl<'g, 'a, K: Value, V: Value, B: ShmBackend> MapGroup<'g, 'a, K, V, B> {
    pub(super) fn new(group: &'g mut Group<'a, B>) -> Self {
        MapGroup { group, types: PhantomData, buffer: Vec::new() }
    }

    lookups!();

    /// As [`ShmMap::add`](super::ShmMap::add).
    ///
    /// # Errors
    /// The same.
    pub fn add<Q>(&mut self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.buffer.clear();
        key.encode(&mut self.buffer)?;
        let hash = hash(&self.buffer) as i32;
        value.encode(&mut self.buffer)?;
        Ok(self.group.add_words(hash, &self.buffer)?)
    }

    /// As [`ShmMap::add_many`](super::ShmMap::add_many).
    ///
    /// # Errors
    /// The same.
    #[doc(alias("extend", "add_seq"))]
    pub fn add_many<'q, Q>(&mut self, bindings: impl IntoIterator<Item = (&'q Q, &'q V)>) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized + 'q,
        V: 'q,
    {
        let refused = Cell::new(None);
        let encode = |(key, value): (&Q, &V)| {
            let EncodedKey { mut words, hash } = EncodedKey::new(key)?;
            value.encode(&mut words)?;
            Ok((hash, bytemuck::cast_vec::<u32, i32>(words)))
        };
        let encoded = bindings
            .into_iter()
            .map_while(|binding| encode(binding).map_err(|error: MapError| refused.set(Some(error))).ok());
        self.group.group(|group| {
            group.add_many(encoded)?;
            refused.take().map_or(Ok(()), Err)
        })
    }

    /// As [`ShmMap::remove`](super::ShmMap::remove).
    ///
    /// # Errors
    /// The same.
    pub fn remove<Q>(&mut self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        let key = EncodedKey::new(key)?;
        Ok(self.group.judge(key.hash, |words, _| {
            Ok(if key.value_in(words).is_some() { Verdict::Remove } else { Verdict::Next })
        })?)
    }

    /// As [`ShmMap::replace`](super::ShmMap::replace).
    ///
    /// # Errors
    /// The same.
    pub fn replace<Q>(&mut self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.buffer.clear();
        key.encode(&mut self.buffer)?;
        let key_words = self.buffer.len();
        let hash = hash(&self.buffer) as i32;
        value.encode(&mut self.buffer)?;
        let binding = &self.buffer;
        let replaced = self.group.judge(hash, |words, replacement| {
            if !words.starts_with(&binding[..key_words]) {
                return Ok(Verdict::Next);
            }
            replacement.extend_from_slice(binding);
            Ok(Verdict::Replace)
        })?;
        if !replaced {
            self.group.add_words(hash, &self.buffer)?;
        }
        Ok(())
    }

    /// As [`ShmMap::update`](super::ShmMap::update).
    ///
    /// # Errors
    /// The same.
    pub fn update<Q>(&mut self, key: &Q, change: impl FnOnce(Option<V>) -> V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.buffer.clear();
        key.encode(&mut self.buffer)?;
        let key_words = &self.buffer;
        let hash = hash(key_words) as i32;
        let mut change = Some(change);
        let mut failure = None;
        self.group.judge(hash, |words, replacement| {
            let Some(old) = words.strip_prefix(&key_words[..]) else { return Ok(Verdict::Next) };
            let Some(change) = change.take() else { return Ok(Verdict::Stop) };
            let changed = decode_all(old).and_then(|old| {
                replacement.extend_from_slice(key_words);
                change(Some(old)).encode(replacement)
            });
            Ok(match changed {
                Ok(()) => Verdict::Replace,
                Err(error) => {
                    failure = Some(error);
                    Verdict::Stop
                }
            })
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        if let Some(change) = change {
            change(None).encode(&mut self.buffer)?;
            self.group.add_words(hash, &self.buffer)?;
        }
        Ok(())
    }

    /// As [`ShmMap::clear`](super::ShmMap::clear), with the reservations of [`Group::clear`].
    ///
    /// # Errors
    /// The same.
    pub fn clear(&mut self) -> Result<()> {
        Ok(self.group.clear()?)
    }

    /// As [`ShmMap::retain`](super::ShmMap::retain).
    ///
    /// # Errors
    /// The same.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) -> Result<usize> {
        // A group of its own, so that what was removed before a binding of another type was met comes back.
        self.group(|group| {
            let mut failure = None;
            let removed = group.group.retain(|_, binding| {
                failure.is_some()
                    || match decode_binding(bytemuck::cast_slice(binding)) {
                        Ok((key, value)) => keep(&key, &value),
                        Err(error) => {
                            failure = Some(error);
                            true
                        }
                    }
            })?;
            failure.map_or(Ok(removed), |error| Err(error.into()))
        })
    }

    /// A group inside the group: if `body` returns an error, what it did is undone, and the outer group can go on.
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmMap::group`](super::ShmMap::group).
    pub fn group<T, E: From<MapError>>(
        &mut self,
        body: impl FnOnce(&mut MapGroup<'_, '_, K, V, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        Failure::lift::<_, MapError>(
            self.group.group(|group| body(&mut MapGroup::new(group)).map_err(Failure::Body)),
        )
    }
}
