//! [`ShmTable`]: a hash table in shared memory, from `i32` keys to arrays of `i32`, with several bindings per
//! key, as OCaml's `Hashtbl` has them: adding hides the older bindings of a key, removing uncovers them.
//!
//! Any number of processes may use a table at once; what they must agree on is recorded in the object. Every
//! operation, and every [`group`](ShmTable::group) as a whole, happens completely or not at all: an error, a
//! panic in the closure, or the death of the process in the middle of it (`kill -9`) leaves the table as it
//! was before. Whoever takes the lock next undoes the rest.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | the single operations |
//! | `open` | opening and creating |
//! | `group` | several operations as one |
//! | `iter` | walking over all bindings |
//! | `layout` | the format of the object, drawn |
//! | `view` | reading it, every place checked |
//! | `journal` | changing it, so that it can be undone |
//! | `pages` | room for what is added |
//! | `index` | buckets and records |
//!
//! This module does not interpret values ([`ShmMap`](crate::ShmMap) does), and knows nothing of workers.
//!
//! # Who may use a handle
//!
//! Threads may share a handle, and a process may open one table several times: the lock method excludes all
//! users from each other. A handle carried into a forked child refuses to work; open the table anew there.
//! A thread that iterates, or is inside a group, must go on through that: calling the table itself is
//! [`LockError::LockedByCaller`](crate::lock::LockError::LockedByCaller), not a hang.

mod error;
mod group;
mod index;
mod iter;
mod journal;
mod layout;
mod open;
mod pages;
mod view;

use std::ffi::OsStr;
use std::ops::ControlFlow;

use manycore_backends::generation::Generation;
use manycore_backends::lock::{Guard, Mode, Wait};
use manycore_backends::shm::ShmError;
use manycore_backends::{Fcntl, LockMethod, PosixShm, ShmBackend};

use error::Result;
use journal::Transaction;
use layout::*;
use view::View;

pub use error::TableError;
pub use group::Group;
pub(crate) use index::Verdict;
pub use iter::{Entry, Iter, Keys};
pub use layout::{PAGE_SIZE_MAX, PAGE_SIZE_MIN, VALUE_MAX};
pub use open::TableOptions;

/// A hash table in shared memory: `i32` keys to arrays of `i32`, several bindings per key.
///
/// `B` is where it lives, `L` how it is locked.
///
/// ```
/// use manycore::ShmTable;
/// # let name = format!("/manycore-doc-table-{}", std::process::id());
///
/// let table = ShmTable::create(&name)?;
/// table.add(7, &[1, 2, 3])?;
/// table.add(7, &[])?; // hides the binding above
/// assert_eq!(table.find(7)?, Some(vec![]));
/// table.remove(7)?; // uncovers it
/// assert_eq!(table.find_all(7)?, [[1, 2, 3]]);
///
/// // Another process opens it by name:
/// assert_eq!(ShmTable::open(&name)?.length()?, 1);
/// table.unlink()?;
/// # Ok::<(), manycore::TableError>(())
/// ```
///
/// Adding one to a number, so that no other process can come in between:
///
/// ```
/// # use manycore::{Heap, NoLock, ShmTable, TableError, TableOptions};
/// # let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?;
/// # table.add(1, &[41])?;
/// table.group(|group| {
///     let old = group.find(1)?.map_or(0, |value| value[0]);
///     group.replace(1, &[old + 1])
/// })?;
/// # assert_eq!(table.find(1)?, Some(vec![42]));
/// # Ok::<(), TableError>(())
/// ```
///
/// A mechanism that cannot lock an object does not compile, such as `ShmTable<Heap, Fcntl>`:
///
/// ```compile_fail,E0277
/// fn f(_: manycore::ShmTable<manycore::Heap, manycore::Fcntl>) {}
/// ```
#[derive(Debug)]
#[doc(alias("shm_table", "Netshm", "Hashtbl"))]
pub struct ShmTable<B: ShmBackend = PosixShm, L: LockMethod<B> = Fcntl> {
    object: B,
    method: L,
    generation: Generation,
}

impl ShmTable {
    /// Creates the table `name` in POSIX shared memory, locked by record locks. It must not exist.
    ///
    /// # Errors
    /// As [`TableOptions::create`].
    pub fn create(name: impl AsRef<OsStr>) -> Result<ShmTable> {
        TableOptions::new().create(name)
    }

    /// Opens the table `name` in POSIX shared memory.
    ///
    /// # Errors
    /// As [`TableOptions::open`].
    pub fn open(name: impl AsRef<OsStr>) -> Result<ShmTable> {
        TableOptions::new().open(name)
    }
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// The name of the object.
    #[doc(alias = "name_of_shm")]
    pub fn name(&self) -> &OsStr {
        self.object.name()
    }

    /// Removes the table's name. Those who have it open, this handle too, can go on using it; it is gone with
    /// the last of them. A table that is not open is removed by its backend: `PosixShm::unlink(name)`.
    ///
    /// # Errors
    /// [`TableError::Shm`] if the name is gone already.
    #[doc(alias = "unlink_shm")]
    pub fn unlink(&self) -> Result<()> {
        Ok(B::unlink(self.name())?)
    }

    /// Adds a binding; older ones of the key are hidden until it is removed.
    ///
    /// # Errors
    /// [`TableError::Shm`] if there is no room, [`TableError::ValueTooLong`], [`TableError::FormatFull`]; as all
    /// operations also [`TableError::Lock`] and [`TableError::Corrupt`].
    pub fn add(&self, key: i32, value: &[i32]) -> Result<()> {
        self.write(|transaction| transaction.bind(key, &to_words(value)?))
    }

    /// The newest binding of the key.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn find(&self, key: i32) -> Result<Option<Vec<i32>>> {
        self.read(|view| find(view, key))
    }

    /// All bindings of the key, newest first.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>> {
        self.read(|view| find_all(view, key))
    }

    /// Whether the key has a binding.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    #[doc(alias = "contains_key")]
    pub fn mem(&self, key: i32) -> Result<bool> {
        self.read(|view| mem(view, key))
    }

    /// Removes the newest binding of the key, which uncovers the one before. Returns whether there was one.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`]; [`TableError::Shm`] if there is no room for the journal.
    pub fn remove(&self, key: i32) -> Result<bool> {
        self.write(|transaction| remove(transaction, key))
    }

    /// Replaces the newest binding of the key, or adds one if there is none. Hidden bindings stay.
    ///
    /// # Errors
    /// As [`add`](ShmTable::add).
    pub fn replace(&self, key: i32, value: &[i32]) -> Result<()> {
        self.write(|transaction| replace(transaction, key, value))
    }

    /// How many bindings there are, hidden ones included.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    #[doc(alias = "len")]
    pub fn length(&self) -> Result<usize> {
        self.read(|view| Ok(view.load(AT_BINDINGS)? as usize))
    }

    /// All bindings, in no order of the keys, those of a key from the newest to the oldest. The iterator holds
    /// the table's read lock: no other process can change the table meanwhile.
    ///
    /// # Errors
    /// [`TableError::Lock`]; each entry may be [`TableError::Corrupt`], which ends the iteration.
    pub fn iter(&self) -> Result<Iter<'_, B, Guard<'_, B, L>>> {
        let (guard, view) = self.begin_read()?;
        Iter::new(guard, view)
    }

    /// All keys, each once, in no order. The iterator holds the table's read lock.
    ///
    /// # Errors
    /// As [`iter`](ShmTable::iter).
    pub fn iter_keys(&self) -> Result<Keys<'_, B, Guard<'_, B, L>>> {
        let (guard, view) = self.begin_read()?;
        Keys::new(guard, view)
    }

    /// Combines all bindings, in the order of [`iter`](ShmTable::iter), under one read lock.
    ///
    /// # Errors
    /// As [`iter`](ShmTable::iter).
    pub fn fold<T>(&self, init: T, mut combine: impl FnMut(T, i32, &[i32]) -> T) -> Result<T> {
        let mut result = init;
        for entry in self.iter()? {
            let (key, value) = entry?;
            result = combine(result, key, &value);
        }
        Ok(result)
    }

    /// Does several operations as one: nobody sees a state in between, and they happen all or not at all. If
    /// `body` returns an error or panics, or the process dies in it, the table is as before.
    ///
    /// The write lock is held from the beginning to the end, so that reading first and writing then cannot
    /// dead-lock two groups. Groups of *several* tables can; then one gets
    /// [`LockError::Deadlock`](crate::lock::LockError::Deadlock) and starts again from the outermost group.
    ///
    /// # Errors
    /// What `body` returns; [`TableError`] if the lock is not granted or the group cannot be undone.
    pub fn group<T, E: From<TableError>>(
        &self,
        body: impl FnOnce(&mut Group<'_, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (_guard, transaction) = self.begin_write()?;
        let mut group = Group { transaction };
        match body(&mut group) {
            Ok(value) => {
                group.transaction.finish()?;
                Ok(value)
            }
            Err(error) => {
                group.transaction.abandon()?;
                Err(error)
            }
        }
    }

    /// Looks at the values of the key's bindings, newest first, until `visit` finds what it looks for.
    pub(crate) fn search<T>(
        &self,
        key: i32,
        mut visit: impl FnMut(&[u32]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.read(|view| search(view, key, &mut visit))
    }

    /// Runs one reading operation under the read lock.
    fn read<T>(&self, body: impl FnOnce(&View<'_, B>) -> Result<T>) -> Result<T> {
        let (_guard, view) = self.begin_read()?;
        view.believe(body(&view))
    }

    /// Runs one writing operation as a transaction of its own.
    fn write<T>(&self, body: impl FnOnce(&mut Transaction<'_, B>) -> Result<T>) -> Result<T> {
        let (_guard, mut transaction) = self.begin_write()?;
        match body(&mut transaction) {
            Ok(value) => {
                transaction.finish()?;
                Ok(value)
            }
            Err(error) => {
                transaction.abandon()?;
                transaction.view().believe(Err(error))
            }
        }
    }

    fn begin_read(&self) -> Result<(Guard<'_, B, L>, View<'_, B>)> {
        loop {
            let guard = self.lock(Mode::Read)?;
            let view = View::new(&self.object)?;
            if view.load(AT_JOURNAL_LENGTH)? == 0 {
                return Ok((guard, view));
            }
            // A writer died. Undo what it left, as a writer, and look again.
            drop(guard);
            drop(self.begin_write()?);
        }
    }

    /// Takes the lock, unless this handle is of no use here.
    fn lock(&self, mode: Mode) -> Result<Guard<'_, B, L>> {
        let guard = Guard::lock(&self.method, &self.object, mode, Wait::Forever)?;
        // Not every lock method notices.
        if self.generation.is_current() {
            Ok(guard)
        } else {
            Err(ShmError::Forked { name: self.name().to_owned() }.into())
        }
    }

    fn begin_write(&self) -> Result<(Guard<'_, B, L>, Transaction<'_, B>)> {
        let guard = self.lock(Mode::Write)?;
        let view = View::new(&self.object)?;
        let transaction = view.believe(Transaction::begin(view))?;
        Ok((guard, transaction))
    }
}

fn find<B: ShmBackend>(view: &View<'_, B>, key: i32) -> Result<Option<Vec<i32>>> {
    view.bindings(key, |place| {
        let mut value = Vec::new();
        view.value(&place.record, &mut value)?;
        Ok(ControlFlow::Break(from_words(value)))
    })
}

fn find_all<B: ShmBackend>(view: &View<'_, B>, key: i32) -> Result<Vec<Vec<i32>>> {
    let mut values = Vec::new();
    view.bindings(key, |place| {
        let mut value = Vec::new();
        view.value(&place.record, &mut value)?;
        values.push(from_words(value));
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    Ok(values)
}

fn search<B: ShmBackend, T>(
    view: &View<'_, B>,
    key: i32,
    visit: &mut impl FnMut(&[u32]) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut value = Vec::new();
    view.bindings(key, |place| {
        view.value(&place.record, &mut value)?;
        Ok(match visit(&value)? {
            Some(found) => ControlFlow::Break(found),
            None => ControlFlow::Continue(()),
        })
    })
}

fn mem<B: ShmBackend>(view: &View<'_, B>, key: i32) -> Result<bool> {
    Ok(view.newest(key)?.1.is_some())
}

fn remove<B: ShmBackend>(transaction: &mut Transaction<'_, B>, key: i32) -> Result<bool> {
    match transaction.view().newest(key)?.1 {
        Some(place) => transaction.unbind(&place).map(|()| true),
        None => Ok(false),
    }
}

fn replace<B: ShmBackend>(transaction: &mut Transaction<'_, B>, key: i32, value: &[i32]) -> Result<()> {
    let words = to_words(value)?;
    match transaction.view().newest(key)?.1 {
        Some(place) => transaction.rebind(&place, &words),
        None => transaction.bind(key, &words),
    }
}

fn to_words(value: &[i32]) -> Result<Vec<u32>> {
    check_length(value.len())?;
    Ok(value.iter().map(|word| *word as u32).collect())
}

fn check_length(words: usize) -> Result<()> {
    if words > VALUE_MAX { Err(TableError::ValueTooLong { words, max: VALUE_MAX }) } else { Ok(()) }
}

fn from_words(value: Vec<u32>) -> Vec<i32> {
    value.into_iter().map(|word| word as i32).collect()
}
