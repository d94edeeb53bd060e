//! Finding the bindings of one key, or of several, among those of all keys with the same hash.
//!
//! This module does not look into tables: who asks passes the lookup of a table or of a group.

use super::Result;
use crate::codec::{CodecError, Decode, Encode, decode_all, hash};
use crate::table::TableError;

/// What a search calls with the words of each binding, until it finds something.
pub(super) type Visit<'v, T> = &'v mut dyn FnMut(&[u32]) -> Result<Option<T>, TableError>;

/// What a search for a value finds: nothing, or what decoding it gave.
pub(super) type Found<V> = Option<Result<V, CodecError>>;

/// What a lookup of several keys calls with the words of the newest binding of each.
pub(super) type VisitMany<'v> = &'v mut dyn FnMut(i32, Option<&[i32]>);

/// A key's words, and their hash as the table's key.
pub(super) struct EncodedKey {
    pub(super) words: Vec<u32>,
    pub(super) hash: i32,
}

impl EncodedKey {
    pub(super) fn new<Q: Encode + ?Sized>(key: &Q) -> Result<EncodedKey> {
        let mut words = Vec::new();
        key.encode(&mut words)?;
        let hash = hash(&words) as i32;
        Ok(EncodedKey { words, hash })
    }

    /// The newest binding; `search` is the table's or the group's.
    pub(super) fn find<V: Decode>(
        &self,
        search: impl FnOnce(i32, Visit<'_, Result<V, CodecError>>) -> Result<Found<V>, TableError>,
    ) -> Result<Option<V>> {
        let found = search(self.hash, &mut |words| Ok(self.value_in(words).map(decode_all)))?;
        Ok(found.transpose()?)
    }

    /// Whether there is a binding.
    pub(super) fn mem(
        &self,
        search: impl FnOnce(i32, Visit<'_, ()>) -> Result<Option<()>, TableError>,
    ) -> Result<bool> {
        Ok(search(self.hash, &mut |words| Ok(self.value_in(words).map(drop)))?.is_some())
    }

    /// All bindings, newest first.
    pub(super) fn find_all<V: Decode>(
        &self,
        search: impl FnOnce(i32, Visit<'_, ()>) -> Result<Option<()>, TableError>,
    ) -> Result<Vec<V>> {
        let mut found = Vec::new();
        search(self.hash, &mut |words| {
            found.extend(self.value_in(words).map(decode_all));
            Ok(None)
        })?;
        Ok(found.into_iter().collect::<Result<_, _>>()?)
    }

    /// The words of the value, if the binding is of this key. The encoding of keys is prefix-free.
    pub(super) fn value_in<'w>(&self, binding: &'w [u32]) -> Option<&'w [u32]> {
        binding.strip_prefix(&self.words[..])
    }
}

/// The words of several keys, one behind the other, and their hashes as keys of the table.
pub(super) struct EncodedKeys {
    words: Vec<u32>,
    /// Where in the words each key ends.
    ends: Vec<usize>,
    hashes: Vec<i32>,
}

impl EncodedKeys {
    pub(super) fn new<'q, Q>(keys: impl IntoIterator<Item = &'q Q>) -> Result<EncodedKeys>
    where
        Q: Encode + ?Sized + 'q,
    {
        let mut encoded = EncodedKeys { words: Vec::new(), ends: Vec::new(), hashes: Vec::new() };
        for key in keys {
            let start = encoded.words.len();
            key.encode(&mut encoded.words)?;
            encoded.ends.push(encoded.words.len());
            encoded.hashes.push(hash(&encoded.words[start..]) as i32);
        }
        Ok(encoded)
    }

    /// The newest binding of each key; `get_many` and `search` are the table's or the group's.
    ///
    /// If the newest binding of a hash is of the key, it is the newest of the key. If it is of another one with the same
    /// hash, which hardly ever happens, that key is searched for by itself.
    pub(super) fn find<V: Decode>(
        &self,
        get_many: impl FnOnce(&[i32], VisitMany<'_>) -> Result<(), TableError>,
        search: impl Fn(i32, Visit<'_, Result<V, CodecError>>) -> Result<Found<V>, TableError>,
    ) -> Result<Vec<Option<V>>> {
        let mut found: Vec<Found<V>> = Vec::with_capacity(self.hashes.len());
        let mut hidden = Vec::new();
        get_many(&self.hashes, &mut |_, binding| {
            let value = binding.and_then(|binding| {
                let value = self.value_in(found.len(), bytemuck::cast_slice(binding));
                if value.is_none() {
                    hidden.push(found.len());
                }
                value.map(decode_all)
            });
            found.push(value);
        })?;
        for index in hidden {
            found[index] =
                search(self.hashes[index], &mut |words| Ok(self.value_in(index, words).map(decode_all)))?;
        }
        Ok(found.into_iter().map(Option::transpose).collect::<Result<_, _>>()?)
    }

    /// The words of the value, if the binding is of the key with this index.
    fn value_in<'w>(&self, index: usize, binding: &'w [u32]) -> Option<&'w [u32]> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        binding.strip_prefix(&self.words[start..self.ends[index]])
    }
}
