//! Finding the bindings of one key among those of all keys with its hash.

use super::Result;
use crate::codec::{CodecError, Decode, Encode, decode_all, hash};
use crate::table::TableError;

/// What a search calls with the words of each binding, until it finds something.
pub(super) type Visit<'v, T> = &'v mut dyn FnMut(&[u32]) -> Result<Option<T>, TableError>;

/// What a search for a value finds: nothing, or what decoding it gave.
pub(super) type Found<V> = Option<Result<V, CodecError>>;

/// A key's words, and their hash as the table's key.
pub(super) struct EncodedKey {
    words: Vec<u32>,
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
