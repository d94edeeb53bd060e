//! [`ShmMap`]: typed keys and values over a [`ShmTable`].
//!
//! A binding of the map is a binding of the table under the hash of the key, with the words of the key and
//! then those of the value; keys with the same hash are told apart by their words. Users of one map must
//! agree on its types: a value of another type is noticed only if it does not decode.
//!
//! This module does not lock, and does not know the format of objects.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::marker::PhantomData;

use manycore_backends::lock::Guard;
use manycore_backends::{Fcntl, LockMethod, PosixShm, ShmBackend};

use crate::codec::{CodecError, Decode, Encode, Value, Words, decode_all, hash};
use crate::table::{self, Group, ShmTable, TableError, Verdict};

/// Why an operation on a map failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The table below could not do it.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A key or value has no encoding, or what was found is of another type: all users must use the types that
    /// the map was filled with.
    #[error(
        "a key or value of the map is not of its type, or cannot be written: {0}; all users of a map must use the same types"
    )]
    Codec(#[from] CodecError),
}

type Result<T, E = MapError> = std::result::Result<T, E>;

/// A hash table in shared memory with typed keys and values, several bindings per key as in
/// [`ShmTable`].
///
/// ```
/// use manycore::{MapError, ShmMap};
/// # let name = format!("/manycore-doc-map-{}", std::process::id());
///
/// let counts: ShmMap<String, u64> = ShmMap::create(&name)?;
/// for word in "the cat and the dog".split(' ') {
///     counts.update(word, |old| old.unwrap_or(0) + 1)?;
/// }
/// assert_eq!(counts.find("the")?, Some(2));
/// assert_eq!(counts.length()?, 4);
/// # counts.table().unlink()?;
/// # Ok::<(), MapError>(())
/// ```
#[doc(alias = "Netshm_hashtbl")]
pub struct ShmMap<K, V, B: ShmBackend = PosixShm, L: LockMethod<B> = Fcntl> {
    table: ShmTable<B, L>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, B: ShmBackend, L: LockMethod<B>> std::fmt::Debug for ShmMap<K, V, B, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmMap").field("table", &self.table).finish()
    }
}

impl<K: Value, V: Value> ShmMap<K, V> {
    /// Creates the map `name` in POSIX shared memory, locked by record locks. It must not exist.
    ///
    /// # Errors
    /// As [`TableOptions::create`](crate::TableOptions::create).
    pub fn create(name: impl AsRef<OsStr>) -> Result<ShmMap<K, V>> {
        Ok(ShmTable::create(name)?.into())
    }

    /// Opens the map `name` in POSIX shared memory.
    ///
    /// # Errors
    /// As [`TableOptions::open`](crate::TableOptions::open).
    pub fn open(name: impl AsRef<OsStr>) -> Result<ShmMap<K, V>> {
        Ok(ShmTable::open(name)?.into())
    }
}

/// The generic way to a map: open or create the table by [`TableOptions`](crate::TableOptions), for any
/// backend and lock method, and take it for a map.
impl<K: Value, V: Value, B: ShmBackend, L: LockMethod<B>> From<ShmTable<B, L>> for ShmMap<K, V, B, L> {
    fn from(table: ShmTable<B, L>) -> Self {
        ShmMap { table, types: PhantomData }
    }
}

impl<K: Value, V: Value, B: ShmBackend, L: LockMethod<B>> ShmMap<K, V, B, L> {
    /// The table below.
    #[doc(alias = "shm_table")]
    pub fn table(&self) -> &ShmTable<B, L> {
        &self.table
    }

    /// Adds a binding; older ones of the key are hidden until it is removed.
    ///
    /// # Errors
    /// As [`ShmTable::add`]; [`MapError::Codec`] if the key or value has no encoding.
    pub fn add<Q>(&self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.group(|group| group.add(key, value))
    }

    /// The newest binding of the key. A key may be given in any borrowed form that is encoded as `K` is, such as
    /// a `str` for a `String`.
    ///
    /// # Errors
    /// As [`ShmTable::find`]; [`MapError::Codec`] if the binding is of another type.
    #[doc(alias = "get")]
    pub fn find<Q>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        EncodedKey::new(key)?.find(|hash, visit| self.table.search(hash, visit))
    }

    /// All bindings of the key, newest first.
    ///
    /// # Errors
    /// As [`find`](ShmMap::find).
    pub fn find_all<Q>(&self, key: &Q) -> Result<Vec<V>>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        EncodedKey::new(key)?.find_all(|hash, visit| self.table.search(hash, visit))
    }

    /// Whether the key has a binding.
    ///
    /// # Errors
    /// As [`ShmTable::mem`].
    #[doc(alias = "contains_key")]
    pub fn mem<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        let key = EncodedKey::new(key)?;
        Ok(self.table.search(key.hash, |words| Ok(key.value_in(words).map(drop)))?.is_some())
    }

    /// Removes the newest binding of the key, which uncovers the one before. Returns whether there was one.
    ///
    /// # Errors
    /// As [`ShmTable::remove`].
    pub fn remove<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.group(|group| group.remove(key))
    }

    /// Replaces the newest binding of the key, or adds one if there is none. Hidden bindings stay.
    ///
    /// # Errors
    /// As [`add`](ShmMap::add).
    #[doc(alias = "insert")]
    pub fn replace<Q>(&self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.group(|group| group.replace(key, value))
    }

    /// Computes the newest binding of the key from what it was (`None` if there was none), in one step: nobody
    /// can come in between.
    ///
    /// # Errors
    /// As [`replace`](ShmMap::replace).
    pub fn update<Q>(&self, key: &Q, change: impl FnOnce(Option<V>) -> V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        self.group(|group| group.update(key, change))
    }

    /// How many bindings there are, hidden ones included.
    ///
    /// # Errors
    /// As [`ShmTable::length`].
    #[doc(alias = "len")]
    pub fn length(&self) -> Result<usize> {
        Ok(self.table.length()?)
    }

    /// All bindings, in no order of the keys, those of a key from the newest to the oldest, under one read lock.
    ///
    /// # Errors
    /// As [`ShmTable::iter`]; an entry may be [`MapError::Codec`] if it is of another type.
    pub fn iter(&self) -> Result<Iter<'_, K, V, B, Guard<'_, B, L>>> {
        Ok(Iter { entries: self.table.iter()?, buffer: Vec::new(), types: PhantomData })
    }

    /// Does several operations as one: see [`ShmTable::group`].
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmTable::group`].
    pub fn group<T, E: From<MapError>>(
        &self,
        body: impl FnOnce(&mut MapGroup<'_, '_, K, V, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        Failure::lift(self.table.group(|group| {
            body(&mut MapGroup { group, types: PhantomData, buffer: Vec::new() }).map_err(Failure::Body)
        }))
    }
}

/// A group fails by its body's error or by the table's.
enum Failure<E> {
    Body(E),
    Table(TableError),
}

impl<E: From<MapError>> Failure<E> {
    fn lift<T>(result: Result<T, Failure<E>>) -> Result<T, E> {
        result.map_err(|failure| match failure {
            Failure::Body(error) => error,
            Failure::Table(error) => MapError::from(error).into(),
        })
    }
}

impl<E> From<TableError> for Failure<E> {
    fn from(error: TableError) -> Failure<E> {
        Failure::Table(error)
    }
}

/// A map inside [`ShmMap::group`]: the same operations, done as one.
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

impl<K: Value, V: Value, B: ShmBackend> MapGroup<'_, '_, K, V, B> {
    /// As [`ShmMap::add`].
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

    /// As [`ShmMap::find`].
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

    /// As [`ShmMap::find_all`].
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

    /// As [`ShmMap::mem`].
    ///
    /// # Errors
    /// The same.
    pub fn mem<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized,
    {
        let key = EncodedKey::new(key)?;
        Ok(self.group.search(key.hash, |words| Ok(key.value_in(words).map(drop)))?.is_some())
    }

    /// As [`ShmMap::remove`].
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

    /// As [`ShmMap::replace`].
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

    /// As [`ShmMap::update`].
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

    /// As [`ShmMap::length`].
    ///
    /// # Errors
    /// The same.
    pub fn length(&self) -> Result<usize> {
        Ok(self.group.length()?)
    }

    /// As [`ShmMap::iter`].
    ///
    /// # Errors
    /// The same.
    pub fn iter(&self) -> Result<Iter<'_, K, V, B, ()>> {
        Ok(Iter { entries: self.group.iter()?, buffer: Vec::new(), types: PhantomData })
    }

    /// A group inside the group: if `body` returns an error, what it did is undone, and the outer group can go on.
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmMap::group`].
    pub fn group<T, E: From<MapError>>(
        &mut self,
        body: impl FnOnce(&mut MapGroup<'_, '_, K, V, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        Failure::lift(self.group.group(|group| {
            body(&mut MapGroup { group, types: PhantomData, buffer: Vec::new() }).map_err(Failure::Body)
        }))
    }
}

/// What a search calls with the words of each binding, until it finds something.
type Visit<'v, T> = &'v mut dyn FnMut(&[u32]) -> Result<Option<T>, TableError>;

/// What a search for a value finds: nothing, or what decoding it gave.
type Found<V> = Option<Result<V, CodecError>>;

/// A key's words, and their hash as the table's key.
struct EncodedKey {
    words: Vec<u32>,
    hash: i32,
}

impl EncodedKey {
    fn new<Q: Encode + ?Sized>(key: &Q) -> Result<EncodedKey> {
        let mut words = Vec::new();
        key.encode(&mut words)?;
        let hash = hash(&words) as i32;
        Ok(EncodedKey { words, hash })
    }

    /// The newest binding; `search` is the table's or the group's.
    fn find<V: Decode>(
        &self,
        search: impl FnOnce(i32, Visit<'_, Result<V, CodecError>>) -> Result<Found<V>, TableError>,
    ) -> Result<Option<V>> {
        let found = search(self.hash, &mut |words| Ok(self.value_in(words).map(decode_all)))?;
        Ok(found.transpose()?)
    }

    /// All bindings, newest first.
    fn find_all<V: Decode>(
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
    fn value_in<'w>(&self, binding: &'w [u32]) -> Option<&'w [u32]> {
        binding.strip_prefix(&self.words[..])
    }
}

/// All bindings of a map; see [`ShmMap::iter`].
#[must_use = "iterators are lazy"]
pub struct Iter<'a, K, V, B: ShmBackend, G> {
    entries: table::Iter<'a, B, G>,
    /// The words of a binding, kept for the next one.
    buffer: Vec<u32>,
    types: PhantomData<fn() -> (K, V)>,
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

fn decode_binding<K: Decode, V: Decode>(binding: &[u32]) -> Result<(K, V), CodecError> {
    let mut words = Words::new(binding);
    let (key, value) = (K::decode(&mut words)?, V::decode(&mut words)?);
    if words.remaining() == 0 { Ok((key, value)) } else { Err(CodecError::TooLongInput) }
}
