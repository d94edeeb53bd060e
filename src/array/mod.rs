//! [`ShmArray`]: an array of typed elements over a [`ShmTable`], of which only those that are set take room.
//!
//! # The format
//!
//! The table belongs to the array alone. Its bindings are:
//!
//! | key | value |
//! |---|---|
//! | `i as i32` | the words of element `i`, which is less than the length, if it is set |
//! | -1 | two words: the tag `41525231` (`ARR1`), and the length |
//!
//! No array is longer than `u32::MAX`, so that no element has the key -1. The default is not stored. Users of one
//! array must agree on the type of the elements: another one is noticed only if an element does not decode.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | the single operations |
//! | `group` | several operations as one |
//! | `iter` | walking over the elements that are set |
//!
//! # Where everything of Netshm_array is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | `manage ~init`, `default_value` | [`ShmArray::create`], [`ShmArray::new`]; the default is given to each handle |
//! | `length`, `get`, `set`, `resize`, `shm_table` | [`length`](ShmArray::length), [`get`](ShmArray::get), [`set`](ShmArray::set), [`resize`](ShmArray::resize), [`table`](ShmArray::table) |
//! | `Invalid_argument` outside of the array | [`ArrayError::OutOfBounds`] |
//!
//! This module does not lock, and does not know the format of objects.

mod group;
mod iter;

use std::ffi::OsStr;

use manycore_backends::lock::Wait;
use manycore_backends::{Futex, LockMethod, PosixShm, ShmBackend};

use crate::codec::{CodecError, Encode, Value, decode_all};
use crate::table::{Failure, ReadLock, ShmTable, TableError};

pub use group::{ArrayGroup, ArrayReadGroup};
pub use iter::Iter;

/// Where the length is.
const LENGTH_KEY: i32 = -1;

/// The word before the length: `ARR1`.
const TAG: i32 = i32::from_be_bytes(*b"ARR1");

/// Why an operation on an array failed. Unless said otherwise, the array is as it was before the operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// The table below could not do it.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An element has no encoding, or what was found is of another type: all users must use the type that the array was
    /// filled with.
    #[error(
        "an element of the array is not of its type, or cannot be written: {0}; all users of an array must use the same type"
    )]
    Codec(#[from] CodecError),
    /// There is no such element: the array must be enlarged first.
    #[error("element {index} is outside of an array of length {length}: resize it first")]
    OutOfBounds {
        /// The element asked for.
        index: u32,
        /// How many there are.
        length: u32,
    },
    /// The table contains something else than an array: check the name. It was not changed.
    #[error("the table is not an array: its contents have no length that an array wrote")]
    NotAnArray,
}

type Result<T, E = ArrayError> = std::result::Result<T, E>;

/// An array in shared memory. Elements that were never set read as a default, which each handle brings along, and
/// take no room.
///
/// `B` is where it lives, `L` how it is locked.
///
/// ```
/// use manycore::{ArrayError, ShmArray};
/// # let name = format!("/manycore-doc-array-{}", std::process::id());
///
/// let array = ShmArray::create(&name, 1_000_000, 0.0)?;
/// array.set(7, &1.5)?;
/// array.update(999_999, |old| old - 1.0)?;
/// assert_eq!(array.get_many(&[7, 8, 999_999])?, [1.5, 0.0, -1.0]);
/// assert!(matches!(array.get(1_000_000), Err(ArrayError::OutOfBounds { .. })));
/// # array.unlink()?;
/// # Ok::<(), ArrayError>(())
/// ```
///
/// For any backend and lock method, open or create the table by [`TableOptions`](crate::TableOptions), and take it
/// for an array by [`new`](ShmArray::new).
///
/// Cloning a handle gives another one of the same open array.
#[doc(alias = "Netshm_array")]
pub struct ShmArray<T, B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    table: ShmTable<B, L>,
    default: T,
}

impl<T: Clone, B: ShmBackend, L: LockMethod<B>> Clone for ShmArray<T, B, L> {
    fn clone(&self) -> Self {
        ShmArray { table: self.table.clone(), default: self.default.clone() }
    }
}

impl<T, B: ShmBackend, L: LockMethod<B>> std::fmt::Debug for ShmArray<T, B, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmArray").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<T: Value + Clone> ShmArray<T> {
    /// Creates the array `name` in POSIX shared memory, with its best lock, [`Futex`], and with `length` elements that
    /// are not set. It must not exist.
    ///
    /// # Errors
    /// As [`TableOptions::create`](crate::TableOptions::create).
    pub fn create(name: impl AsRef<OsStr>, length: u32, default: T) -> Result<ShmArray<T>> {
        ShmArray::in_new(ShmTable::create(name)?, length, default)
    }

    /// Opens the array `name` in POSIX shared memory.
    ///
    /// # Errors
    /// As [`TableOptions::open`](crate::TableOptions::open) and [`new`](ShmArray::new).
    pub fn open(name: impl AsRef<OsStr>, default: T) -> Result<ShmArray<T>> {
        ShmArray::new(ShmTable::open(name)?, default)
    }

    /// Opens the array `name` in POSIX shared memory, whatever its length, or creates it with `length` elements that are not
    /// set. Of several processes that do so at once, one creates it, and all get the same.
    ///
    /// # Errors
    /// As [`TableOptions::open_or_create`](crate::TableOptions::open_or_create) and [`new`](ShmArray::new).
    pub fn open_or_create(name: impl AsRef<OsStr>, length: u32, default: T) -> Result<ShmArray<T>> {
        ShmArray::with_length(ShmTable::open_or_create(name)?, length, default)
    }

    /// Creates an array in POSIX shared memory under a name that nobody has, with `length` elements that are not set; see
    /// [`ShmTable::create_unique`].
    ///
    /// # Errors
    /// As [`TableOptions::create_unique`](crate::TableOptions::create_unique).
    pub fn create_unique(template: impl AsRef<OsStr>, length: u32, default: T) -> Result<ShmArray<T>> {
        ShmArray::in_new(ShmTable::create_unique(template)?, length, default)
    }

    /// The array in a table that is new; if it does not become one, it is removed.
    fn in_new(table: ShmTable, length: u32, default: T) -> Result<ShmArray<T>> {
        let array = ShmArray::new(table.clone(), default).and_then(|array| {
            array.resize(length)?;
            Ok(array)
        });
        if array.is_err() {
            // The first error is the one to report.
            let _ = table.unlink();
        }
        array
    }
}

impl<T: Value + Clone, B: ShmBackend, L: LockMethod<B>> ShmArray<T, B, L> {
    /// Takes a table for an array: one that is an array already, or an empty one, which becomes an array of length 0.
    ///
    /// ```
    /// # use manycore::{Heap, NoLock, ShmArray, TableOptions};
    /// let table = TableOptions::new().create_unique("marks-XXXXXX")?;
    /// let marks: ShmArray<bool, Heap, NoLock> = ShmArray::new(table, false)?;
    /// marks.resize(100)?;
    /// marks.set(42, &true)?;
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ArrayError::NotAnArray`] if the table contains something else. As [`ShmTable::read_group`]; if the table
    /// is empty, also as [`ShmTable::add`].
    #[doc(alias = "manage")]
    pub fn new(table: ShmTable<B, L>, default: T) -> Result<Self> {
        ShmArray::with_length(table, 0, default)
    }

    /// The same, where an empty table becomes an array of this length.
    fn with_length(table: ShmTable<B, L>, length: u32, default: T) -> Result<Self> {
        let known = table.read_group(|group| is_array(group.find(LENGTH_KEY)?, group.length()?))?;
        if !known {
            // Another user may have come in between.
            table.group(|group| {
                if !is_array(group.find(LENGTH_KEY)?, group.length()?)? {
                    group.add(LENGTH_KEY, &[TAG, length as i32])?;
                }
                Ok::<(), ArrayError>(())
            })?;
        }
        Ok(ShmArray { table, default })
    }

    /// The table below. Nobody may change it but through arrays.
    #[doc(alias = "shm_table")]
    pub fn table(&self) -> &ShmTable<B, L> {
        &self.table
    }

    /// The name of the object.
    pub fn name(&self) -> &OsStr {
        self.table.name()
    }

    /// Removes the array's name; see [`ShmTable::unlink`].
    ///
    /// # Errors
    /// As [`ShmTable::unlink`].
    pub fn unlink(&self) -> Result<()> {
        Ok(self.table.unlink()?)
    }

    /// The same array, waiting for its lock as said, where this handle waits for ever; see [`ShmTable::waiting`].
    #[doc(alias("try_lock", "timeout"))]
    pub fn waiting(&self, wait: Wait) -> Self {
        ShmArray { table: self.table.waiting(wait), default: self.default.clone() }
    }

    /// How many elements there are, set or not.
    ///
    /// # Errors
    /// As [`ShmTable::find`]; [`ArrayError::NotAnArray`] if somebody changed the table itself.
    #[doc(alias = "len")]
    pub fn length(&self) -> Result<u32> {
        length_in(self.table.find(LENGTH_KEY)?.as_deref())
    }

    /// The element `index`; the default, if it is not set.
    ///
    /// This takes no lock, unless a writer is at work for long, or died.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`]; [`ArrayError::Codec`] if the element is of another type; as
    /// [`length`](ShmArray::length).
    pub fn get(&self, index: u32) -> Result<T> {
        let mut words = Vec::new();
        // Elements that are set lie inside of the array.
        if index < u32::MAX && self.table.find_into(index as i32, &mut words)? {
            return decode(&words);
        }
        let looked = self.table.between_groups(|| {
            check_index(index, self.length()?)?;
            Ok::<_, ArrayError>(self.table.find_into(index as i32, &mut words)?)
        })?;
        match looked {
            Some(true) => decode(&words),
            Some(false) => Ok(self.default.clone()),
            None => self.read_group(|group| group.get(index)),
        }
    }

    /// The elements with these indices, in their order: with a fraction of the time that as many calls of
    /// [`get`](ShmArray::get) take. Each is looked up by itself; for a consistent picture do it in a
    /// [`read_group`](ShmArray::read_group).
    ///
    /// # Errors
    /// As [`get`](ShmArray::get) for any of them.
    pub fn get_many(&self, indices: &[u32]) -> Result<Vec<T>> {
        let looked = self.table.between_groups(|| {
            let length = self.length()?;
            collect(indices, length, &self.default, |keys, visit| self.table.get_many(keys, visit))
        })?;
        match looked {
            Some(elements) => Ok(elements),
            None => self.read_group(|group| group.get_many(indices)),
        }
    }

    /// Sets the element `index`.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`]; [`ArrayError::Codec`] if the value has no encoding; as [`ShmTable::replace`].
    pub fn set(&self, index: u32, value: &T) -> Result<()> {
        let words = encode(value)?;
        // What is set already lies inside of the array, and is replaced without looking at the length.
        if index < u32::MAX && self.table.mem(index as i32)? {
            let mut was_set = false;
            self.table.update(index as i32, |old| {
                was_set = old.is_some();
                old.map(|_| bytemuck::cast_slice(&words))
            })?;
            if was_set {
                return Ok(());
            }
        }
        self.group(|group| group.set_words(index, &words))
    }

    /// Computes the element `index` from what it was, or from the default, in one step: nobody can come in between.
    ///
    /// # Errors
    /// As [`get`](ShmArray::get) and [`set`](ShmArray::set).
    pub fn update(&self, index: u32, change: impl FnOnce(T) -> T) -> Result<()> {
        self.group(|group| group.update(index, change))
    }

    /// Makes the element `index` read as the default again, and gives its room back. Returns whether it was set.
    ///
    /// # Errors
    /// [`ArrayError::OutOfBounds`]; as [`ShmTable::remove`].
    pub fn unset(&self, index: u32) -> Result<bool> {
        self.group(|group| group.unset(index))
    }

    /// Changes the length. Making the array shorter removes the elements beyond; they are not set when it is made longer
    /// again. It happens as a whole or not at all.
    ///
    /// # Errors
    /// As [`ShmTable::group`] and [`ShmTable::replace`].
    #[doc(alias("truncate", "reserve"))]
    pub fn resize(&self, length: u32) -> Result<()> {
        self.group(|group| group.resize(length))
    }

    /// All elements that are set, with their indices, in no order, under one read lock.
    ///
    /// # Errors
    /// As [`ShmTable::iter`] and [`length`](ShmArray::length); an entry may be [`ArrayError::Codec`] if it is of
    /// another type.
    pub fn iter(&self) -> Result<Iter<'_, T, B, ReadLock<'_, B, L>>> {
        // First the lock, so that the length stays what it is.
        let entries = self.table.iter()?;
        Ok(Iter::new(entries, self.length()?))
    }

    /// Does several operations as one: see [`ShmTable::group`].
    ///
    /// ```
    /// # use manycore::{ArrayError, Heap, NoLock, ShmArray, TableOptions};
    /// # let table = TableOptions::new().create_unique("doc-XXXXXX")?;
    /// # let queue: ShmArray<String, Heap, NoLock> = ShmArray::new(table, String::new())?;
    /// let index = queue.group(|group| {
    ///     let index = group.length();
    ///     group.resize(index + 1)?;
    ///     group.set(index, &"next".to_owned())?;
    ///     Ok::<_, ArrayError>(index)
    /// })?;
    /// assert_eq!(queue.get(index)?, "next");
    /// # Ok::<(), manycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmTable::group`] and [`length`](ShmArray::length).
    pub fn group<R, E: From<ArrayError>>(
        &self,
        body: impl FnOnce(&mut ArrayGroup<'_, '_, T, B>) -> Result<R, E>,
    ) -> Result<R, E> {
        Failure::lift::<_, ArrayError>(self.table.group(|group| {
            ArrayGroup::new(group, &self.default)
                .map_err(E::from)
                .and_then(|mut group| body(&mut group))
                .map_err(Failure::Body)
        }))
    }

    /// Does several lookups of one state of the array: see [`ShmTable::read_group`].
    ///
    /// # Errors
    /// What `body` returns, and as [`ShmTable::read_group`] and [`length`](ShmArray::length).
    pub fn read_group<R, E: From<ArrayError>>(
        &self,
        body: impl FnOnce(&ArrayReadGroup<'_, '_, T, B>) -> Result<R, E>,
    ) -> Result<R, E> {
        Failure::lift::<_, ArrayError>(self.table.read_group(|group| {
            ArrayReadGroup::new(group, &self.default)
                .map_err(E::from)
                .and_then(|group| body(&group))
                .map_err(Failure::Body)
        }))
    }
}

/// Whether a table is an array, or empty, judged by what is under the key of the length, and the number of bindings.
fn is_array(length: Option<Vec<i32>>, bindings: usize) -> Result<bool> {
    if bindings == 0 { Ok(false) } else { length_in(length.as_deref()).map(|_| true) }
}

fn length_in(binding: Option<&[i32]>) -> Result<u32> {
    match binding {
        Some([TAG, length]) => Ok(*length as u32),
        _ => Err(ArrayError::NotAnArray),
    }
}

fn check_index(index: u32, length: u32) -> Result<()> {
    if index < length { Ok(()) } else { Err(ArrayError::OutOfBounds { index, length }) }
}

fn encode<T: Encode>(value: &T) -> Result<Vec<u32>> {
    let mut words = Vec::new();
    value.encode(&mut words)?;
    Ok(words)
}

fn decode<T: Value>(words: &[i32]) -> Result<T> {
    Ok(decode_all(bytemuck::cast_slice(words))?)
}

/// What [`ShmTable::get_many`] calls.
type Visit<'v> = &'v mut dyn FnMut(i32, Option<&[i32]>);

/// The elements with these indices; `get_many` is the table's or a group's.
fn collect<T: Value + Clone>(
    indices: &[u32],
    length: u32,
    default: &T,
    get_many: impl FnOnce(&[i32], Visit<'_>) -> Result<(), TableError>,
) -> Result<Vec<T>> {
    indices.iter().try_for_each(|index| check_index(*index, length))?;
    let mut elements = Vec::with_capacity(indices.len());
    get_many(bytemuck::cast_slice(indices), &mut |_, words| {
        elements.push(words.map_or_else(|| Ok(default.clone()), decode));
    })?;
    elements.into_iter().collect()
}
