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
//! | `bindings` | from a key to its bucket, slot and records |
//! | `journal` | changing it, so that it can be undone |
//! | `heap` | room for what is added |
//! | `index` | buckets and records |
//! | `clear` | everything away at once |
//! | `lookup` | finding keys, with and without the lock |
//! | `quick` | the short way of changes of single buckets |
//! | `blocks` | long values piece by piece, in place |
//! | `check` | whether everything is in order |
//! | `salvage` | what can be saved of a broken table |
//! | `inspect` | figures and pictures of a table |
//! | `typed` | what maps and arrays share |
//!
//! This module does not interpret values ([`ShmMap`](crate::ShmMap) does), and knows nothing of workers.
//!
//! # Who waits for whom
//!
//! Changes take the write lock; iterating, groups of reads and reading in place take the read lock. Lookups of
//! single keys take none: they read, and read again if somebody wrote there meanwhile, and only after many attempts
//! take the lock. So a reader never delays a writer, and a reader that is killed leaves nothing behind. No lookup sees
//! the middle of an operation or of a group.
//!
//! # What is fast
//!
//! | of many | is done by | because |
//! |---|---|---|
//! | lookups | [`get_many`](ShmTable::get_many) | the processor fetches several from memory at the same time |
//! | lookups one by one | [`find_into`](ShmTable::find_into) | nothing is allocated for the value |
//! | additions | [`add_many`](ShmTable::add_many) | as for lookups; and one lock does for all |
//! | other changes | a [`group`](ShmTable::group) | one lock does for all |
//! | bindings, all of them | [`fold`](ShmTable::fold) | nothing is allocated, and nothing is kept between two of them |
//!
//! Values of no or one word are in the table's buckets; longer ones cost a second way to memory.
//!
//! # Who may use a handle
//!
//! Threads may share a handle or its clones, and a process may open one table several times: the lock method excludes
//! all users from each other. A handle carried into a forked child refuses to work, and so does a group; open the table anew there.
//! A thread that iterates, or is inside a group, must go on through that: changing the table itself is
//! [`LockError::LockedByCaller`](crate::lock::LockError::LockedByCaller), not a hang.
//!
//! # Where everything of Netshm is
//!
//! For those who come from OCamlnet: its names, and ours, or why there is none. The typed layers are [`ShmMap`](crate::ShmMap)
//! (`Netshm_hashtbl`), [`ShmArray`](crate::ShmArray) (`Netshm_array`) and [`codec`](crate::codec) (`Netshm_data`).
//!
//! | there | here |
//! |---|---|
//! | `shm_descr`, `shm_name`, `shm_type`, `shm_type_of_name` | a name, and a type that says what it is the name of: [`PosixShm`], [`File`](crate::File), [`Heap`](crate::Heap) |
//! | `supported_types` | [`ShmBackend::supported`] |
//! | `open_shm` and `manage` | one step: [`TableOptions::open`], [`create`](TableOptions::create), [`open_or_create`](TableOptions::open_or_create), with [`page_size`](TableOptions::page_size) and [`read_only`](TableOptions::read_only) |
//! | `manage ~init` | [`TableOptions::reinitialize`], [`expected`](TableOptions::expected) |
//! | `create_unique_shm` | [`TableOptions::create_unique`]; only the last run of `X` is replaced |
//! | `name_of_shm`, `unlink_shm`, `chmod_shm`, `chown_shm` | [`ShmTable::name`], [`unlink`](ShmTable::unlink), [`chmod`](ShmTable::chmod), [`chown`](ShmTable::chown) |
//! | `close_shm` | dropping the handle and its clones |
//! | `locking_method`, `best_locking_method` | [`LockMethod`], [`Best`](crate::Best) |
//! | `shm_table`, `int32_array` | [`ShmTable`], `&[i32]` and `Vec<i32>` |
//! | `add`, `find`, `find_all`, `mem`, `remove`, `replace`, `length`, `iter`, `iter_keys`, `fold` | the same names; what is `Not_found` there is `None` |
//! | `group` | [`ShmTable::group`], which happens as a whole; only for lookups: [`read_group`](ShmTable::read_group) |
//! | `Next`, `Break` | of blocks: [`Step`]; of `iter`: it is an [`Iterator`] |
//! | `read_blocks`, `write_blocks`, `write_op`, `ctrl_op` | the same names; [`Announced`], [`Answer`] |
//! | `Corrupt_file` | [`TableError::Corrupt`]; what was never a table of this kind: [`NotATable`](TableError::NotATable), [`Format`](TableError::Format), [`PageSize`](TableError::PageSize) |
//! | `Deadlock` | [`LockError::Deadlock`](crate::lock::LockError::Deadlock) |
//! | `dump`, `memory` | [`ShmTable::dump`], [`ShmTable::raw`] |
//! | `bigarray` | left out, because values are slices |
//! | `Netsys_pmanage` | [`Resource`](crate::Resource), [`Context::register`](crate::Context::register) |

mod bindings;
mod blocks;
mod check;
mod clear;
mod error;
mod group;
mod heap;
mod index;
mod inspect;
mod iter;
mod journal;
mod layout;
mod locking;
mod lookup;
mod open;
mod quick;
mod salvage;
mod typed;
mod view;

use std::cell::Cell;
use std::ffi::OsStr;
use std::sync::Arc;

use manycore_backends::generation::Generation;
use manycore_backends::lock::Wait;
use manycore_backends::shm::Trust;
use manycore_backends::{Futex, LockMethod, PosixShm, ShmBackend};

use bindings::{Glimpse, Route};
use error::{Result, Work};
use journal::{Scope, Transaction};
use layout::*;
use quick::Change;
use view::View;

pub use blocks::{Announced, Answer, Fragment, FragmentMut, Step};
pub use check::Problem;
pub use error::TableError;
pub use group::{Group, ReadGroup};
pub(crate) use index::Verdict;
pub use inspect::{Raw, Stat};
pub use iter::{Entry, Iter, Keys};
pub use layout::{PAGE_SIZE_MAX, PAGE_SIZE_MIN, VALUE_MAX};
pub use locking::ReadLock;
pub use open::TableOptions;
pub use salvage::Salvaged;
pub(crate) use typed::Failure;

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
///
/// Cloning a handle gives another one of the same open table.
#[doc(alias("shm_table", "Netshm", "Hashtbl"))]
pub struct ShmTable<B: ShmBackend = PosixShm, L: LockMethod<B> = Futex> {
    shared: Arc<Shared<B, L>>,
    wait: Wait,
}

/// What all clones of a handle share.
#[derive(Debug)]
struct Shared<B, L> {
    object: B,
    method: L,
    generation: Generation,
    read_only: bool,
    /// What it was opened with, for other objects that are opened through it.
    trust: Trust,
}

impl<B: ShmBackend, L: LockMethod<B>> Clone for ShmTable<B, L> {
    fn clone(&self) -> Self {
        ShmTable { shared: Arc::clone(&self.shared), wait: self.wait }
    }
}

impl<B: ShmBackend, L: LockMethod<B>> std::fmt::Debug for ShmTable<B, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmTable")
            .field("object", &self.shared.object)
            .field("method", &self.shared.method)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl ShmTable {
    /// Creates the table `name` in POSIX shared memory, with its best lock, [`Futex`]. It must not exist.
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

    /// Opens the table `name` in POSIX shared memory, or creates it. Of several processes that do so at once, one creates
    /// it, and all get the same.
    ///
    /// # Errors
    /// As [`TableOptions::open_or_create`].
    pub fn open_or_create(name: impl AsRef<OsStr>) -> Result<ShmTable> {
        TableOptions::new().open_or_create(name)
    }

    /// Creates a table in POSIX shared memory under a name that nobody has: `template`, such as `"/counts-XXXXXX"`, with its
    /// last run of six or more `X` replaced. [`name`](ShmTable::name) tells the name.
    ///
    /// # Errors
    /// As [`TableOptions::create_unique`].
    pub fn create_unique(template: impl AsRef<OsStr>) -> Result<ShmTable> {
        TableOptions::new().create_unique(template)
    }
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// The name of the object.
    #[doc(alias("name_of_shm", "shm_name"))]
    pub fn name(&self) -> &OsStr {
        self.shared.object.name()
    }

    /// Removes the table's name. Those who have it open, this handle too, can go on using it; it is gone with
    /// the last of them. A table that is not open is removed by its backend: `PosixShm::unlink(name)`.
    ///
    /// # Errors
    /// [`TableError::Shm`] if the name is gone already.
    #[doc(alias("unlink_shm", "shm_unlink"))]
    pub fn unlink(&self) -> Result<()> {
        Ok(B::unlink(self.name())?)
    }

    /// Sets the permission bits of the object, such as `0o640`; they matter to those who open it later. If others may
    /// write then, all of those must say so: [`TableOptions::mode`].
    ///
    /// # Errors
    /// [`TableError::Shm`] with `EPERM` if it belongs to another user.
    #[doc(alias = "chmod_shm")]
    pub fn chmod(&self, mode: u32) -> Result<()> {
        Ok(self.shared.object.chmod(mode)?)
    }

    /// Gives the object to another user or group, by their numbers; `None` leaves it. Of a table of another user, all who
    /// open it later must say so: [`TableOptions::owners`].
    ///
    /// # Errors
    /// [`TableError::Shm`] with `EPERM` if this process may not.
    #[doc(alias = "chown_shm")]
    pub fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<()> {
        Ok(self.shared.object.chown(user, group)?)
    }

    /// The same table, waiting for its lock as said, not as this handle does (for ever, unless it was opened
    /// [in another way](TableOptions::waiting)): a handle that tries only, or that gives up after some time.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use manycore::lock::{LockError, Wait};
    /// use manycore::{ShmTable, TableError};
    /// # let name = format!("/manycore-doc-waiting-{}", std::process::id());
    /// # let table = ShmTable::create(&name)?;
    ///
    /// match table.waiting(Wait::Try).replace(7, &[1]) {
    ///     Err(TableError::Lock(LockError::Busy)) => println!("somebody is writing"),
    ///     result => result?,
    /// }
    /// let patient = table.waiting(Wait::AtMost(Duration::from_secs(5)));
    /// patient.group(|group| group.add(8, &[]))?;
    /// # table.unlink()?;
    /// # Ok::<(), TableError>(())
    /// ```
    #[doc(alias("try_lock", "timeout"))]
    pub fn waiting(&self, wait: Wait) -> Self {
        ShmTable { wait, ..self.clone() }
    }

    /// Adds a binding; older ones of the key are hidden until it is removed.
    ///
    /// # Errors
    /// [`TableError::Shm`] if there is no room, [`TableError::ValueTooLong`], [`TableError::FormatFull`]. As all
    /// changes also [`TableError::Lock`], [`TableError::ReadOnly`] and [`TableError::Corrupt`].
    pub fn add(&self, key: i32, value: &[i32]) -> Result<()> {
        self.write(
            key,
            |view, route| quick::add(view, route, key, value),
            |transaction| transaction.bind(key, bytemuck::cast_slice(value)),
        )
    }

    /// The newest binding of the key.
    ///
    /// As all lookups of single keys this takes no lock and writes nothing, unless a writer is at work on the
    /// same part of the table for long, or died there.
    ///
    /// # Errors
    /// As all lookups: [`TableError::Corrupt`], and [`TableError::Lock`] if it comes to the lock.
    #[doc(alias = "get")]
    pub fn find(&self, key: i32) -> Result<Option<Vec<i32>>> {
        match self.look(key, |view, bucket| view.glimpse(bucket))? {
            Glimpse::Nothing => Ok(None),
            Glimpse::Word(word) => Ok(Some(vec![word as i32])),
            _ => self.find_long(key),
        }
    }

    /// Copies the newest binding of the key into `value`, whose memory is used again. Returns whether there is one;
    /// if not, `value` is left empty.
    ///
    /// # Errors
    /// As [`find`](ShmTable::find).
    pub fn find_into(&self, key: i32, value: &mut Vec<i32>) -> Result<bool> {
        self.look(key, |view, bucket| view.find_into_in(bucket, key, value))
    }

    /// All bindings of the key, newest first.
    ///
    /// # Errors
    /// As [`find`](ShmTable::find).
    pub fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>> {
        self.look(key, |view, bucket| view.find_all_in(bucket, key))
    }

    /// Whether the key has a binding.
    ///
    /// # Errors
    /// As [`find`](ShmTable::find).
    #[doc(alias = "contains_key")]
    pub fn mem(&self, key: i32) -> Result<bool> {
        self.look(key, |view, bucket| Ok(view.slot(bucket, key)?.is_some()))
    }

    /// Gives the newest bindings of all `keys` to `visit`, in their order: with the key, and its value if there is
    /// one. Several are fetched from memory at the same time, so that a batch takes a fraction of the time of as many
    /// calls of [`find`](ShmTable::find). Each is looked up by itself; for a consistent picture do it in a
    /// [`read_group`](ShmTable::read_group).
    ///
    /// # Errors
    /// As [`find`](ShmTable::find); then the rest of the keys were not visited.
    pub fn get_many(&self, keys: &[i32], visit: impl FnMut(i32, Option<&[i32]>)) -> Result<()> {
        self.look_up_many(keys, visit)
    }

    /// Adds all these bindings, as [`add`](ShmTable::add) does, or none of them. Several are fetched from memory at the
    /// same time, under one lock, so that this is the fastest way to fill a table.
    ///
    /// They are read from the iterator while the table is locked: it must not use the table itself. If it panics, nothing
    /// was added.
    ///
    /// ```
    /// # use manycore::{Heap, NoLock, ShmTable, TableError, TableOptions};
    /// # let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?;
    /// table.add_many((0..1000).map(|number| (number, [number * number])))?;
    /// assert_eq!(table.find(30)?, Some(vec![900]));
    /// # Ok::<(), TableError>(())
    /// ```
    ///
    /// # Errors
    /// As [`add`](ShmTable::add); then nothing was added.
    #[doc(alias("extend", "add_seq", "bulk_load"))]
    pub fn add_many<V: AsRef<[i32]>>(&self, bindings: impl IntoIterator<Item = (i32, V)>) -> Result<()> {
        self.group(|group| group.add_many(bindings))
    }

    /// Removes the newest binding of the key, which uncovers the one before. Returns whether there was one.
    ///
    /// # Errors
    /// As all changes: [`TableError::Lock`], [`TableError::ReadOnly`], [`TableError::Corrupt`];
    /// [`TableError::Shm`] if there is no room for the journal.
    pub fn remove(&self, key: i32) -> Result<bool> {
        self.write(key, |view, route| quick::remove(view, route, key), |transaction| transaction.remove(key))
    }

    /// Replaces the newest binding of the key, or adds one if there is none. Hidden bindings stay.
    ///
    /// # Errors
    /// As [`add`](ShmTable::add).
    #[doc(alias = "insert")]
    pub fn replace(&self, key: i32, value: &[i32]) -> Result<()> {
        self.write(
            key,
            |view, route| quick::replace(view, route, key, value),
            |transaction| transaction.replace(key, bytemuck::cast_slice(value)),
        )
    }

    /// Computes the newest binding of the key from what it was, in one step: nobody can come in between. `change` is
    /// given the value, or `None` if there was none, and returns the new one, or `None` to remove the binding (or to
    /// leave it at none).
    ///
    /// ```
    /// # use manycore::{Heap, NoLock, ShmTable, TableError, TableOptions};
    /// # let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?;
    /// table.update(7, |old| Some([old.map_or(0, |value| value[0]) + 1]))?;
    /// # assert_eq!(table.find(7)?, Some(vec![1]));
    /// # Ok::<(), TableError>(())
    /// ```
    ///
    /// # Errors
    /// As [`add`](ShmTable::add).
    pub fn update<V: AsRef<[i32]>>(
        &self,
        key: i32,
        change: impl FnOnce(Option<&[i32]>) -> Option<V>,
    ) -> Result<()> {
        let change = Cell::new(Some(Change::Asked(change)));
        self.write(
            key,
            |view, route| quick::update(view, route, key, self.shared.generation, &change),
            |transaction| transaction.update(key, |old| change.take().expect("it is asked once").answer(old)),
        )
    }

    /// Removes all bindings. It takes the same time however many there are; the object keeps its size.
    ///
    /// # Errors
    /// As [`remove`](ShmTable::remove).
    #[doc(alias = "reset")]
    pub fn clear(&self) -> Result<()> {
        self.transact(Scope::Table, Transaction::reset)
    }

    /// Removes the bindings for which `keep` returns `false`; hidden ones are asked for, too. Returns how many
    /// were removed.
    ///
    /// # Errors
    /// As [`remove`](ShmTable::remove); [`TableError::FormatFull`] if about a million values or more are to be removed at
    /// once that are not in buckets: then nothing is, and it must be done in parts.
    #[doc(alias = "filter_map_inplace")]
    pub fn retain(&self, keep: impl FnMut(i32, &[i32]) -> bool) -> Result<usize> {
        self.group(|group| group.retain(keep))
    }

    /// How many bindings there are, hidden ones included.
    ///
    /// # Errors
    /// As [`find`](ShmTable::find).
    #[doc(alias = "len")]
    pub fn length(&self) -> Result<usize> {
        match self.glance_at_length() {
            Some(bindings) => Ok(bindings as usize),
            None => self.read(|view| Ok(view.load(AT_BINDINGS)? as usize)),
        }
    }

    /// All bindings, in no order of the keys, those of a key from the newest to the oldest. The iterator holds
    /// the table's read lock: no other process can change the table meanwhile.
    ///
    /// # Errors
    /// [`TableError::Lock`]; each entry may be [`TableError::Corrupt`], which ends the iteration.
    pub fn iter(&self) -> Result<Iter<'_, B, ReadLock<'_, B, L>>> {
        let (guard, view) = self.begin_read()?;
        Iter::new(guard, view)
    }

    /// All keys, each once, in no order. The iterator holds the table's read lock.
    ///
    /// # Errors
    /// As [`iter`](ShmTable::iter).
    pub fn iter_keys(&self) -> Result<Keys<'_, B, ReadLock<'_, B, L>>> {
        let (guard, view) = self.begin_read()?;
        Keys::new(guard, view)
    }

    /// Combines all bindings, in the order of [`iter`](ShmTable::iter), under one read lock. It is faster, because
    /// no value is allocated.
    ///
    /// # Errors
    /// As [`iter`](ShmTable::iter).
    pub fn fold<T>(&self, init: T, combine: impl FnMut(T, i32, &[i32]) -> T) -> Result<T> {
        self.read_group(|group| group.fold(init, combine))
    }

    /// Visits the bindings of the key, newest first, piece by piece, in place: each as fragments of at most a page,
    /// at least one, and then `None`. `visit` says how to go on. The read lock is held.
    ///
    /// ```
    /// use manycore::table::Step;
    /// # use manycore::{Heap, NoLock, ShmTable, TableError, TableOptions};
    /// # let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("doc-XXXXXX")?;
    /// table.add(7, &(0..1000).collect::<Vec<i32>>())?;
    ///
    /// // The length of the newest value, without copying it.
    /// let mut length = 0;
    /// table.read_blocks(7, |fragment| match fragment {
    ///     Some(words) => {
    ///         length += words.len();
    ///         Step::Continue
    ///     }
    ///     None => Step::Stop,
    /// })?;
    /// assert_eq!(length, 1000);
    /// # Ok::<(), TableError>(())
    /// ```
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn read_blocks(&self, key: i32, visit: impl FnMut(Option<Fragment<'_, B>>) -> Step) -> Result<()> {
        self.read_group(|group| group.read_blocks(key, visit))
    }

    /// The same for changing words in place, and for removing bindings, if that is announced: see [`Answer`]. All
    /// happens as a whole.
    ///
    /// # Errors
    /// As all changes; [`TableError::NotAnnounced`] if `visit` answers that a binding is to be removed, and that was
    /// not announced. [`TableError::Shm`] if there is no room for the journal.
    pub fn write_blocks<'t>(
        &'t self,
        key: i32,
        announced: Announced,
        visit: impl FnMut(Option<FragmentMut<'_, 't, B>>) -> Answer,
    ) -> Result<()> {
        self.transact(Scope::Bucket, |transaction| transaction.write_blocks(key, announced, visit))
    }

    /// Does several operations as one: nobody sees a state in between, and they happen all or not at all. If
    /// `body` returns an error or panics, or the process dies in it, the table is as before.
    ///
    /// The write lock is held from the beginning to the end, so that reading first and writing then cannot
    /// dead-lock two groups. Groups of *several* tables can, if not all users take them in the same order; then one gets
    /// [`LockError::Deadlock`](crate::lock::LockError::Deadlock), what it has done is undone, and it starts again from the outermost group:
    ///
    /// ```
    /// use manycore::lock::LockError;
    /// # use manycore::{Heap, ShmTable, TableError, TableOptions};
    /// # type Table = ShmTable<Heap>;
    /// # let [here, there]: [Table; 2] =
    /// #     [TableOptions::new().create_unique("doc-XXXXXX")?, TableOptions::new().create_unique("doc-XXXXXX")?];
    /// # here.add(7, &[1])?;
    /// fn move_over(here: &Table, there: &Table, key: i32) -> Result<bool, TableError> {
    ///     loop {
    ///         let moved = here.group(|here| {
    ///             let Some(value) = here.find(key)? else { return Ok(false) };
    ///             here.remove(key)?;
    ///             there.group(|there| there.add(key, &value))?;
    ///             Ok(true)
    ///         });
    ///         match moved {
    ///             Err(TableError::Lock(LockError::Deadlock)) => {}
    ///             result => return result,
    ///         }
    ///     }
    /// }
    /// assert!(move_over(&here, &there, 7)?);
    /// # assert_eq!((here.find(7)?, there.find(7)?), (None, Some(vec![1])));
    /// # Ok::<(), TableError>(())
    /// ```
    ///
    /// Each table's group happens as a whole, the inner one first; the two are not one: a process that dies between the
    /// ends of both has done the inner one only.
    ///
    /// # Errors
    /// What `body` returns; [`TableError`] if the lock is not granted or the group cannot be undone.
    pub fn group<T, E: From<TableError>>(
        &self,
        body: impl FnOnce(&mut Group<'_, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _guard = self.lock_for_writing()?;
        let mut group =
            Group::new(Transaction::new(&self.shared.object, self.shared.generation, Scope::Table));
        if let Err(error) = group.transaction.start() {
            return Err(group.transaction.fail(*error).into());
        }
        match body(&mut group) {
            Ok(value) => match group.transaction.finish() {
                Ok(()) => Ok(value),
                Err(error) => Err(group.transaction.fail(*error).into()),
            },
            Err(error) => {
                group.transaction.abandon()?;
                Err(error)
            }
        }
    }

    /// Does several lookups of one state of the table: the read lock is held from the beginning to the end.
    ///
    /// # Errors
    /// What `body` returns; [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn read_group<T, E: From<TableError>>(
        &self,
        body: impl FnOnce(&ReadGroup<'_, B>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (_guard, view) = self.begin_read()?;
        let value = body(&ReadGroup { view })?;
        view.confirm()?;
        Ok(value)
    }

    /// Runs one reading operation under the read lock.
    fn read<T>(&self, body: impl FnOnce(&View<'_, B>) -> Result<T>) -> Result<T> {
        let (_guard, view) = self.begin_read()?;
        view.believe(body(&view))
    }

    /// Runs one writing operation, on `key`: in the short way, if that can do it, else as a transaction of its own.
    ///
    /// What it is going to change is on its way from memory while the lock is taken: behind a lock, a processor begins
    /// nothing before the lock is there.
    #[inline(always)]
    fn write<'t, T>(
        &'t self,
        key: i32,
        quick: impl FnOnce(&View<'t, B>, &Route) -> Result<Option<T>>,
        body: impl FnOnce(&mut Transaction<'t, B>) -> Work<T>,
    ) -> Result<T> {
        let view = View::glance(&self.shared.object);
        let route = view.route(key).ok();
        let _guard = self.lock_for_writing()?;
        if let Some(done) = route.as_ref().map_or(Ok(None), |route| quick(&view, route))? {
            return Ok(done);
        }
        self.write_in_full(key, route, body)
    }

    #[inline(never)]
    fn write_in_full<'t, T>(
        &'t self,
        key: i32,
        route: Option<Route>,
        body: impl FnOnce(&mut Transaction<'t, B>) -> Work<T>,
    ) -> Result<T> {
        Transaction::on(&self.shared.object, self.shared.generation, key, route).run(body)
    }

    /// Runs a whole transaction.
    #[inline(always)]
    fn transact<'t, T>(
        &'t self,
        scope: Scope,
        body: impl FnOnce(&mut Transaction<'t, B>) -> Work<T>,
    ) -> Result<T> {
        let _guard = self.lock_for_writing()?;
        Transaction::new(&self.shared.object, self.shared.generation, scope).run(body)
    }
}

#[inline(always)]
fn check_length(words: usize) -> Work<()> {
    if words > VALUE_MAX { Err(TableError::ValueTooLong { words, max: VALUE_MAX }.into()) } else { Ok(()) }
}
