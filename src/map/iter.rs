//! Walking over all bindings, and over all keys.
//!
//! This module does not take locks: whoever walks keeps the map locked.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use manycore_backends::ShmBackend;

use super::{MapError, Result};
use crate::codec::{CodecError, Decode, Words};
use crate::table;

/// All bindings of a map; see [`ShmMap::iter`](super::ShmMap::iter). `G` is what keeps the map locked.
#[must_use = "iterators are lazy"]
pub struct Iter<'a, K, V, B: ShmBackend, G> {
    entries: table::Iter<'a, B, G>,
    /// The words of a binding, kept for the next one.
    buffer: Vec<u32>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<'a, K, V, B: ShmBackend, G> Iter<'a, K, V, B, G> {
    pub(super) fn new(entries: table::Iter<'a, B, G>) -> Self {
        Iter { entries, buffer: Vec::new(), types: PhantomData }
    }
}

impl<K: Decode, V: Decode, B: ShmBackend, G> Iter<'_, K, V, B, G> {
    /// What [`ShmMap::fold`](super::ShmMap::fold) does: [`Iterator::fold`] that ends with an error.
    pub(super) fn combine<T>(self, init: T, mut combine: impl FnMut(T, K, V) -> T) -> Result<T> {
        let mut result = init;
        for binding in self {
            let (key, value) = binding?;
            result = combine(result, key, value);
        }
        Ok(result)
    }
}

impl<K, V, B: ShmBackend, G> std::fmt::Debug for Iter<'_, K, V, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<K: Decode, V: Decode, B: ShmBackend, G> Iterator for Iter<'_, K, V, B, G> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.entries.next_words(&mut self.buffer)? {
            return Some(Err(error.into()));
        }
        Some(decode_binding(&self.buffer).map_err(MapError::from))
    }
}

impl<K: Decode, V: Decode, B: ShmBackend, G> FusedIterator for Iter<'_, K, V, B, G> {}

pub(super) fn decode_binding<K: Decode, V: Decode>(binding: &[u32]) -> Result<(K, V), CodecError> {
    let mut words = Words::new(binding);
    let (key, value) = (K::decode(&mut words)?, V::decode(&mut words)?);
    if words.remaining() == 0 { Ok((key, value)) } else { Err(CodecError::TooLongInput) }
}

/// All keys of a map; see [`ShmMap::iter_keys`](super::ShmMap::iter_keys). `G` is what keeps the map locked.
///
/// A key has bindings in one place only, among those of all keys with its hash; there they may be mixed. So it is
/// enough to remember the keys of one hash at a time.
#[must_use = "iterators are lazy"]
pub struct Keys<'a, K, B: ShmBackend, G> {
    entries: table::Iter<'a, B, G>,
    /// The words of a binding, kept for the next one.
    buffer: Vec<u32>,
    /// The hash of the binding that was looked at last.
    hash: Option<i32>,
    /// The words of the keys with that hash, one after the other, and where each ends.
    seen: Vec<u32>,
    ends: Vec<usize>,
    types: PhantomData<fn() -> K>,
}

impl<'a, K, B: ShmBackend, G> Keys<'a, K, B, G> {
    pub(super) fn new(entries: table::Iter<'a, B, G>) -> Self {
        Keys {
            entries,
            buffer: Vec::new(),
            hash: None,
            seen: Vec::new(),
            ends: Vec::new(),
            types: PhantomData,
        }
    }

    /// Whether the binding is of a key that was there before. The encoding of keys is prefix-free, so this takes no
    /// decoding.
    fn is_repeated(&self) -> bool {
        let mut start = 0;
        self.ends.iter().any(|end| {
            let key = &self.seen[start..*end];
            start = *end;
            self.buffer.starts_with(key)
        })
    }
}

impl<K, B: ShmBackend, G> std::fmt::Debug for Keys<'_, K, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl<K: Decode, B: ShmBackend, G> Iterator for Keys<'_, K, B, G> {
    type Item = Result<K>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let hash = match self.entries.next_words(&mut self.buffer)? {
                Ok(hash) => hash,
                Err(error) => return Some(Err(error.into())),
            };
            if self.hash != Some(hash) {
                self.hash = Some(hash);
                self.seen.clear();
                self.ends.clear();
            }
            if self.is_repeated() {
                continue;
            }
            let mut words = Words::new(&self.buffer);
            let key = K::decode(&mut words).map_err(MapError::from);
            if key.is_ok() {
                self.seen.extend_from_slice(&self.buffer[..self.buffer.len() - words.remaining()]);
                self.ends.push(self.seen.len());
            }
            return Some(key);
        }
    }
}

impl<K: Decode, B: ShmBackend, G> FusedIterator for Keys<'_, K, B, G> {}
