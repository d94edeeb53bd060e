//! [`ShmMap`]: typed keys and values over a [`ShmTable`].
//!
//! A binding of the map is a binding of the table under the hash of the key, with the words of the key and
//! then those of the value; keys with the same hash are told apart by their words. Users of one map must
//! agree on its types: a value of another type is noticed only if it does not decode.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | the single operations |
//! | `group` | several operations as one |
//! | `iter` | walking over all bindings and keys |
//! | `key` | telling keys with the same hash apart, one or many |
//!
//! # Where everything of Netshm_hashtbl is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | `manage` | [`ShmMap::create`], [`open`](ShmMap::open); of any table: [`From`] |
//! | `add`, `find`, `find_all`, `mem`, `remove`, `replace`, `iter`, `iter_keys`, `fold`, `length` | the same names; what is `Not_found` there is `None` |
//! | `shm_table`, for groups | [`ShmMap::table`]; [`ShmMap::group`] is one of typed operations |
//!
//! This module does not lock, and does not know the format of objects.

mod group;
mod iter;
mod key;

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::marker::PhantomData;

use manycore_backends::lock::Wait;
use manycore_backends::{Futex, LockMethod, PosixShm, ShmBackend};

use crate::codec::{CodecError, Encode, Value};
use crate::table::{Failure, ReadLock, ShmTable, TableError};

use key::{EncodedKey, EncodedKeys};

pub use group::{MapGroup, MapReadGroup};
pub use iter::{Iter, Keys};

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
/// # counts.unlink()?;
/// # Ok::<(), MapError>(())
/// ```
///
/// Cloning a handle gives another one of the same open map.
#[doc(alias("Netshm_hashtbl", "Hashtbl", "HashMap"))]
pub struct ShmMap<K, V, B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    table: ShmTable<B, L>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, B: ShmBackend, L: LockMethod<B>> Clone for ShmMap<K, V, B, L> {
    fn clone(&self) -> Self {
        ShmMap { table: self.table.clone(), types: PhantomData }
    }
}

impl<K, V, B: ShmBackend, L: LockMethod<B>> std::fmt::Debug for ShmMap<K, V, B, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmMap").field("table", &self.table).finish()
    }
}

impl<K: Value, V: Value> ShmMap<K, V> {
    /// Creates the map `name` in POSIX shared memory, with its best lock, [`Futex`]. It must not exist.
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

    /// Opens the map `name` in POSIX shared memory, or creates it; see [`ShmTable::open_or_create`].
    ///
    /// # Errors
    /// As [`TableOptions::open_or_create`](crate::TableOptions::open_or_create).
    pub fn open_or_create(name: impl AsRef<OsStr>) -> Result<ShmMap<K, V>> {
        Ok(ShmTable::open_or_create(name)?.into())
    }

    /// Creates a map in POSIX shared memory under a name that nobody has; see [`ShmTable::create_unique`].
    ///
    /// # Errors
    /// As [`TableOptions::create_unique`](crate::TableOptions::create_unique).
    pub fn create_unique(template: impl AsRef<OsStr>) -> Result<ShmMap<K, V>> {
        Ok(ShmTable::create_unique(template)?.into())
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

    /// The name of the object.
    pub fn name(&self) -> &OsStr {
        self.table.name()
    }

    /// Removes the map's name; see [`ShmTable::unlink`].
    ///
    /// # Errors
    /// As [`ShmTable::unlink`].
    pub fn unlink(&self) -> Result<()> {
        Ok(self.table.unlink()?)
    }

    /// The same map, waiting for its lock as said, where this handle waits for ever; see [`ShmTable::waiting`].
    #[doc(alias("try_lock", "timeout"))]
    pub fn waiting(&self, wait: Wait) -> Self {
        self.table.waiting(wait).into()
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

    /// Adds all these bindings, as [`add`](ShmMap::add) does, or none of them; the fastest way to fill a map, as
    /// [`ShmTable::add_many`] is of a table. They are read from the iterator while the map is locked: it must not use the
    /// map itself.
    ///
    /// ```
    /// # use manycore::{Heap, NoLock, ShmMap, ShmTable, TableOptions};
    /// # use std::collections::BTreeMap;
    /// # let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?;
    /// let capitals: ShmMap<String, String, Heap, NoLock> = table.into();
    /// let known = BTreeMap::from([("Chad", "N'Djamena"), ("Peru", "Lima")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    /// capitals.add_many(&known)?;
    /// assert_eq!(capitals.find("Peru")?.as_deref(), Some("Lima"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`add`](ShmMap::add); then nothing was added.
    #[doc(alias("extend", "add_seq", "bulk_load"))]
    pub fn add_many<'q, Q>(&self, bindings: impl IntoIterator<Item = (&'q Q, &'q V)>) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized + 'q,
        V: 'q,
    {
        self.group(|group| group.add_many(bindings))
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

    /// The newest bindings of all keys, in their order, `None` for those that have none. Several are fetched from memory at
    /// the same time, so that it takes less than as many calls of [`find`](ShmMap::find). Each is looked up by itself; for a
    /// consistent picture do it in a [`read_group`](ShmMap::read_group).
    ///
    /// ```
    /// # use manycore::{Heap, MapError, NoLock, ShmMap, TableOptions};
    /// # let stock: ShmMap<String, u32, Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?.into();
    /// stock.add("apples", &3)?;
    /// stock.add("pears", &4)?;
    /// assert_eq!(stock.get_many(["pears", "plums", "apples"])?, [Some(4), None, Some(3)]);
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`find`](ShmMap::find) for any of them; [`MapError::Codec`] if a key has no encoding.
    #[doc(alias = "find_many")]
    pub fn get_many<'q, Q>(&self, keys: impl IntoIterator<Item = &'q Q>) -> Result<Vec<Option<V>>>
    where
        K: Borrow<Q>,
        Q: Encode + ?Sized + 'q,
    {
        EncodedKeys::new(keys)?.find(
            |hashes, visit| self.table.get_many(hashes, visit),
            |hash, visit| self.table.search(hash, visit),
        )
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
        EncodedKey::new(key)?.mem(|hash, visit| self.table.search(hash, visit))
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

    /// Removes all bindings. It takes the same time however many there are; the object keeps its size.
    ///
    /// # Errors
    /// As [`ShmTable::clear`].
    #[doc(alias = "reset")]
    pub fn clear(&self) -> Result<()> {
        Ok(self.table.clear()?)
    }

    /// Removes the bindings for which `keep` returns `false`; hidden ones are asked for, too. Returns how many
    /// were removed.
    ///
    /// ```
    /// # use manycore::{Heap, MapError, NoLock, ShmMap, TableOptions};
    /// # let stock: ShmMap<String, u32, Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?.into();
    /// stock.add("apples", &3)?;
    /// stock.add("pears", &0)?;
    /// assert_eq!(stock.retain(|_, count| *count > 0)?, 1);
    /// assert!(!stock.mem("pears")?);
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ShmTable::retain`]; [`MapError::Codec`] if a binding is of another type, and then all stay.
    #[doc(alias = "filter_map_inplace")]
    pub fn retain(&self, keep: impl FnMut(&K, &V) -> bool) -> Result<usize> {
        self.group(|group| group.retain(keep))
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
    pub fn iter(&self) -> Result<Iter<'_, K, V, B, ReadLock<'_, B, L>>> {
        Ok(Iter::new(self.table.iter()?))
    }

    /// All keys, each once, in no order, under one read lock. Values are not decoded.
    ///
    /// # Errors
    /// As [`iter`](ShmMap::iter).
    pub fn iter_keys(&self) -> Result<Keys<'_, K, B, ReadLock<'_, B, L>>> {
        Ok(Keys::new(self.table.iter()?))
    }

    /// Combines all bindings, in the order of [`iter`](ShmMap::iter), under one read lock.
    ///
    /// ```
    /// # use manycore::{Heap, MapError, NoLock, ShmMap, TableOptions};
    /// # let stock: ShmMap<String, u32, Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?.into();
    /// stock.add("apples", &3)?;
    /// stock.add("pears", &4)?;
    /// assert_eq!(stock.fold(0, |sum, _, count| sum + count)?, 7);
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`iter`](ShmMap::iter); a binding of another type ends it.
    pub fn fold<T>(&self, init: T, combine: impl FnMut(T, K, V) -> T) -> Result<T> {
        self.iter()?.combine(init, combine)
    }

    /// Does several operations as one: see [`ShmTable::group`].
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmTable::group`].
    pub fn group<T, E: From<MapError>>(
        &self,
        body: impl FnOnce(&mut MapGroup<'_, '_, K, V, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        Failure::lift::<_, MapError>(
            self.table.group(|group| body(&mut MapGroup::new(group)).map_err(Failure::Body)),
        )
    }

    /// Does several lookups of one state of the map: see [`ShmTable::read_group`].
    ///
    /// ```
    /// # use manycore::{Heap, MapError, NoLock, ShmMap, TableOptions};
    /// # let account: ShmMap<String, i64, Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?.into();
    /// # account.add("alice", &30)?;
    /// # account.add("bob", &12)?;
    /// // However busily others move money, the sum is right.
    /// let sum = account.read_group(|group| {
    ///     Ok::<_, MapError>(group.find("alice")?.unwrap_or(0) + group.find("bob")?.unwrap_or(0))
    /// })?;
    /// assert_eq!(sum, 42);
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmTable::read_group`].
    pub fn read_group<T, E: From<MapError>>(
        &self,
        body: impl FnOnce(&MapReadGroup<'_, '_, K, V, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        Failure::lift::<_, MapError>(
            self.table.read_group(|group| body(&MapReadGroup::new(group)).map_err(Failure::Body)),
        )
    }
}
