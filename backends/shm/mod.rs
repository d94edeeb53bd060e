//! Named memory that grows and that several processes can map: the contract [`ShmBackend`] and its
//! mechanisms.
//!
//! | mechanism | a name is | an object lives | shared between |
//! |---|---|---|---|
//! | [`PosixShm`] | one component, `/counts` | in memory, until unlinked or the system restarts | processes |
//! | [`File`] | a path | in the file system, until unlinked | processes |
//! | [`Heap`] | one component | in this process, until unlinked and dropped | threads |
//!
//! # The contract
//!
//! An object is a run of 32-bit words that only grows.
//!
//! 1. **Opening.** [`Open::Existing`] of a missing object is [`ShmError::NotFound`]; [`Open::CreateNew`] of an
//!    existing one is [`ShmError::AlreadyExists`]; [`Open::Create`] takes either. Of several creators at once
//!    one makes the object and all get the same.
//! 2. **Growing.** A new object has 0 bytes. [`ShmBackend::grow`] adds bytes that read as zero and whose
//!    storage is reserved: touching them later cannot fail. It never shrinks. If it fails, the contents
//!    are as before, and the size too where the system can reserve storage without moving the end; elsewhere
//!    the object may have grown part of the way.
//! 3. **Sharing.** A word stored through one handle is seen through every other handle of the object.
//! 4. **Bounds.** [`Memory::words`] is what this process knows to be there: it changes only by
//!    [`grow`](ShmBackend::grow) and [`size`](ShmBackend::size), and only rises. Any access beyond it is
//!    [`OutOfBounds`]. The memory never moves.
//! 5. **Names** are checked before the system sees them: [`ShmError::Name`].
//! 6. **Unlinking** removes the name at once. Open handles go on working; creating the name again makes
//!    another object.
//! 7. **One object, one descriptor.** All handles of an object in a process share one descriptor, which is
//!    close-on-exec and is closed with the last of them: record locks, which a process loses when it closes
//!    *any* descriptor of a file, survive the dropping of another handle.
//! 8. **Fork.** A handle carried into a forked child refuses with [`ShmError::Forked`], and dropping it there
//!    closes nothing.
//! 9. **Truncation.** If somebody makes an object shorter, accesses beyond its new end read zeros and write
//!    nothing, and [`ShmBackend::intact`] says so from then on: [`ShmError::Truncated`]; so it does when
//!    [`ShmBackend::size`] has found out. (Within the page in which the new end lies nothing else does.)
//! 10. **Reading only.** A handle opened [`Open::ReadOnly`] reads, writes nothing ([`OutOfBounds`]) and does not
//!     grow ([`ShmError::ReadOnly`]); other handles of the object in the process write as ever.
//! 11. **Only plain objects.** What is not a regular object (directory, device, pipe, symbolic link) is
//!     [`ShmError::NotAnObject`].
//! 12. **Only those who are trusted.** An object that exists already is opened only if it belongs to the effective user
//!     or to root ([`ShmError::Foreign`]), nobody else may write to it ([`ShmError::WritableByOthers`]), and it has one
//!     name ([`ShmError::Linked`]); [`Trust`] widens the first two, and the `mode` of [`Open::Create`] the second. That
//!     is asked of the object that was opened, each time that one is opened by name, also if this process has it open
//!     already. A refusal changes nothing, and releases no lock. (Backends whose objects nobody else can reach, as
//!     [`Heap`], have nothing to ask. [`File`] opens and creates nothing in a directory in which everybody may create
//!     files, as in `/tmp`, and which belongs to somebody else than root and those who are trusted.)
//!
//! # Sharing with other users
//!
//! Law 12 is there because names are open to everybody: without it, a stranger who is first to create `/counts` would
//! give all who open it later what to read, and get what they write. Users who share an object on purpose say so on both
//! sides. Its owner gives permission, by the `mode` at its creation or by [`chmod`](ShmBackend::chmod) and
//! [`chown`](ShmBackend::chown); from then on all openers, the owner too, name those who may write
//! ([`Trust::writers`]), and those who are not the owner say whose object they mean ([`Trust::owners`]).
//!
//! # Memory without a name
//!
//! [`Memfd`] is no object of these laws: it has no name, never grows, and is shared with whoever is given its descriptor.
//!
//! This module does not say what the words mean, and does not lock.

mod file;
mod guard;
mod heap;
mod mapping;
mod memfd;
mod object;
mod posix;
mod trust;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::name::{self, NameError};
use crate::random;

pub use crate::sync::after_exchange;
pub use file::File;
pub use heap::{Heap, HeapMemory};
pub use mapping::{Mapped, Mapping};
pub use memfd::Memfd;
pub use posix::PosixShm;
pub use trust::{Owners, Trust};

/// Bytes in a word.
pub const WORD: u64 = 4;

/// Named, growable, mappable memory. The laws are on the [module page](self).
#[doc(alias("shm_open", "mmap", "shm_descr"))]
pub trait ShmBackend: fmt::Debug + Send + Sync + Sized + 'static {
    /// The words of an object.
    type Memory: Memory;

    /// Opens or creates the object `name`. One that exists must belong to this user or to root, and nobody else may be
    /// able to write to it: [`open_trusting`](ShmBackend::open_trusting) opens others.
    ///
    /// # Errors
    /// As [`open_trusting`](ShmBackend::open_trusting).
    fn open(name: &OsStr, how: Open) -> Result<Self, ShmError> {
        Self::open_trusting(name, how, Trust::new())
    }

    /// Opens or creates the object `name`. If it exists, it must be as `trust` says (law 12).
    ///
    /// # Errors
    /// [`ShmError::Name`], [`NotFound`](ShmError::NotFound), [`AlreadyExists`](ShmError::AlreadyExists),
    /// [`NotAnObject`](ShmError::NotAnObject), [`Foreign`](ShmError::Foreign),
    /// [`WritableByOthers`](ShmError::WritableByOthers), [`Linked`](ShmError::Linked), or [`Io`](ShmError::Io) with
    /// what the system said.
    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<Self, ShmError>;

    /// Removes the name.
    ///
    /// # Errors
    /// [`ShmError::NotFound`] if there is none; [`ShmError::Name`], [`ShmError::Io`].
    fn unlink(name: &OsStr) -> Result<(), ShmError>;

    /// Another handle of the same object, which need not have its name any more.
    ///
    /// # Errors
    /// [`ShmError::Forked`].
    fn try_clone(&self) -> Result<Self, ShmError>;

    /// The name under which the object was opened.
    fn name(&self) -> &OsStr;

    /// Asks for the size of the object, in bytes, and makes as much of it reachable.
    ///
    /// # Errors
    /// [`ShmError::Truncated`] if the object has become smaller than was known; [`ShmError::Forked`];
    /// [`ShmError::Io`].
    fn size(&self) -> Result<u64, ShmError>;

    /// Makes the object at least `bytes` long (rounded up to whole words).
    ///
    /// # Errors
    /// [`ShmError::Full`] if there is no room for it, [`ShmError::TooLarge`] if it is more than can be
    /// mapped, [`ShmError::Forked`], [`ShmError::Io`].
    fn grow(&self, bytes: u64) -> Result<(), ShmError>;

    /// Whether what was read since the object was opened can be believed. Cheap enough to be asked after every
    /// operation.
    ///
    /// # Errors
    /// [`ShmError::Truncated`] if an access met a part of the object that somebody has cut off, or its size was found to
    /// be less than was known; from then on, for ever. (Such an access reads zeros, and writes nothing.)
    fn intact(&self) -> Result<(), ShmError>;

    /// The words.
    fn memory(&self) -> &Self::Memory;

    /// Whether the system has such objects at all.
    #[doc(alias = "supported_types")]
    fn supported() -> bool {
        true
    }

    /// Sets the permission bits of the object, such as `0o640`. They matter to those who open it later.
    ///
    /// # Errors
    /// [`ShmError::Io`] with `EPERM` if it belongs to another user; [`ShmError::Forked`].
    #[doc(alias("fchmod", "chmod_shm"))]
    fn chmod(&self, mode: u32) -> Result<(), ShmError>;

    /// Gives the object to another user or group; `None` leaves it.
    ///
    /// # Errors
    /// [`ShmError::Io`] with `EPERM` if this process may not; [`ShmError::Forked`].
    #[doc(alias("fchown", "chown_shm"))]
    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError>;
}

/// How to open an object. `mode` are permission bits, such as `0o600`; the umask applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist.
    Existing,
    /// It must exist, and is only read: permission to read is enough.
    ReadOnly,
    /// Create it if it does not exist.
    Create {
        /// Permission bits of a new object. One that exists may allow writing to whom they do (law 12).
        mode: u32,
    },
    /// Create it; it must not exist.
    CreateNew {
        /// Permission bits of the new object.
        mode: u32,
    },
}

/// Words in shared memory, counted from the start of the object. Every access copies: there are no
/// references into the memory, because others change it at any time.
///
/// What is known of an object is looked at through a [`Window`](Memory::Window); the accessors here open one for each
/// access.
pub trait Memory: Send + Sync + 'static {
    /// The words that were known at some moment.
    type Window<'a>: Window
    where
        Self: 'a;

    /// The words known now (law 4).
    fn window(&self) -> Self::Window<'_>;

    /// As [`Window::words`].
    #[inline]
    fn words(&self) -> usize {
        self.window().words()
    }

    /// As [`Window::load`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        self.window().load(at)
    }

    /// As [`Window::store`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        self.window().store(at, value)
    }

    /// As [`Window::read`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        self.window().read(at, into)
    }

    /// As [`Window::write`].
    ///
    /// # Errors
    /// The same.
    #[inline]
    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        self.window().write(at, from)
    }
}

/// The words of an object that were known when it was opened. It stays as it is when the object grows, and the words
/// in it stay where they are.
///
/// A single word is read and written whole. [`load`](Window::load) acquires and [`store`](Window::store)
/// releases: whoever loads a stored value also sees what was written before it. Runs of words are copied
/// word by word, in rising order; they are not atomic as a whole.
pub trait Window: Copy {
    /// How many there are.
    fn words(&self) -> usize;

    /// Reads the word `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`], as for all that follow.
    fn load(&self, at: usize) -> Result<u32, OutOfBounds>;

    /// Writes the word `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`]; nothing of an object that was opened [`ReadOnly`](Open::ReadOnly) is in bounds here.
    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds>;

    /// Fills `into` from the words beginning `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`]; then nothing was read.
    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds>;

    /// Writes `from` to the words beginning `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`]; then nothing was written.
    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds>;

    /// Appends `count` words beginning `at` to `into`.
    ///
    /// # Errors
    /// [`OutOfBounds`]; then nothing was appended.
    #[inline]
    fn append(&self, at: usize, count: usize, into: &mut Vec<u32>) -> Result<(), OutOfBounds> {
        // Checked before room is made for them: a count may be anything.
        match at.checked_add(count) {
            Some(end) if end <= self.words() => {}
            _ => return Err(OutOfBounds { at, count, words: self.words() }),
        }
        let start = into.len();
        into.resize(start + count, 0);
        self.read(at, &mut into[start..])
    }

    /// The `N` words beginning `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    #[inline]
    fn read_array<const N: usize>(&self, at: usize) -> Result<[u32; N], OutOfBounds> {
        let mut words = [0; N];
        self.read(at, &mut words)?;
        Ok(words)
    }

    /// Which of the `N` words beginning `at` are `value`: bit i tells of word `at + i`. `N` is 4 to 8.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    #[inline]
    fn matches<const N: usize>(&self, at: usize, value: u32) -> Result<u32, OutOfBounds> {
        let words: [u32; N] = self.read_array(at)?;
        Ok(words.iter().rev().fold(0, |found, word| found << 1 | u32::from(*word == value)))
    }

    /// Stores `new` into the word `at` if it is `current`, in one step, and says what it was: as
    /// `AtomicU32::compare_exchange`, sequentially consistent.
    ///
    /// # Errors
    /// [`OutOfBounds`], as for [`store`](Window::store).
    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds>;

    /// Sleeps until somebody [wakes](Window::wake) the word `at` with a mask that has a bit in common with `mask`, or
    /// for `limit` at most; not at all if the word is not `expected`. It may also return early, for no reason.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    ///
    /// # Panics
    /// If `mask` is 0.
    #[doc(alias = "FUTEX_WAIT_BITSET")]
    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> Result<Waited, OutOfBounds>;

    /// Wakes at most `count` of those, in any process, who sleep on the word `at` with a mask that has a bit in common
    /// with `mask`.
    ///
    /// # Errors
    /// [`OutOfBounds`].
    ///
    /// # Panics
    /// If `mask` is 0.
    #[doc(alias = "FUTEX_WAKE_BITSET")]
    fn wake(&self, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds>;

    /// Says that the word `at` will be wanted soon, so that it can be on its way meanwhile. Changes nothing.
    #[inline]
    fn prefetch(&self, at: usize) {
        let _ = at;
    }
}

/// How a sleep on a word ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Somebody woke it, or the word was another, or there was no reason.
    Woken,
    /// The time was over.
    Elapsed,
}

/// An access beyond the known end of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("words {at} to {at}+{count} are outside an object of {words} words")]
pub struct OutOfBounds {
    /// The first word asked for.
    pub at: usize,
    /// How many were asked for.
    pub count: usize,
    /// How many words the object is known to have.
    pub words: usize,
}

/// Creates an object under a name that nobody has: `template` with its last run of six or more `X`
/// replaced. `mode` are permission bits.
///
/// # Errors
/// [`NameError::NoTemplate`] inside [`ShmError::Name`]; [`ShmError::AlreadyExists`] after 1 000 collisions;
/// else as [`ShmBackend::open`].
#[doc(alias("create_unique_shm", "mkstemp"))]
pub fn create_unique<B: ShmBackend>(template: &OsStr, mode: u32) -> Result<B, ShmError> {
    let mut tries = 1000;
    loop {
        let random = random::bits().map_err(|source| ShmError::Io {
            op: "getrandom",
            name: template.to_owned(),
            source,
        })?;
        let name = name::instantiate(template, random)?;
        tries -= 1;
        match B::open(&name, Open::CreateNew { mode }) {
            Err(ShmError::AlreadyExists { .. }) if tries > 0 => {}
            result => return result,
        }
    }
}

/// Why an object could not be opened, grown or unlinked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no such object: create it, or check the name.
    #[error("no shared object {name:?}")]
    NotFound {
        /// The name asked for.
        name: OsString,
    },
    /// The object exists already: open it, or choose another name.
    #[error("shared object {name:?} exists already")]
    AlreadyExists {
        /// The name asked for.
        name: OsString,
    },
    /// The name belongs to something else: a directory, device, pipe or symbolic link.
    #[error("{name:?} is not a regular file or shared memory object")]
    NotAnObject {
        /// The name asked for.
        name: OsString,
    },
    /// The object, or the directory in which everybody may create files, belongs to another user, and may have been
    /// planted: choose another name or directory, or say that this is meant, by [`Trust::owners`].
    #[error(
        "{name:?} belongs to user {owner}, who may have planted it: use another name, or trust `Owners::User({owner})` if that is meant"
    )]
    Foreign {
        /// The object or directory.
        name: OsString,
        /// The user, by number.
        owner: u32,
    },
    /// Others than its owner can write to the object: take that permission away, or say that this is meant, by
    /// [`Trust::writers`] (of a table, by its mode).
    #[error(
        "{name:?} can be written to by others (mode {mode:#o}): change that, or open it with this mode if that is meant"
    )]
    WritableByOthers {
        /// The object.
        name: OsString,
        /// Its permission bits.
        mode: u32,
    },
    /// The object has more than one name (hard links), and this one may have been planted: copy it, or remove the
    /// others.
    #[error(
        "{name:?} is one of {names} names of a file, and may have been planted: copy the file, or remove the others"
    )]
    Linked {
        /// The name asked for.
        name: OsString,
        /// How many there are.
        names: u64,
    },
    /// There is no room for a larger object; it is as it was.
    #[error("no room to grow {name:?} to {bytes} bytes: {source}")]
    Full {
        /// The object.
        name: OsString,
        /// The size asked for.
        bytes: u64,
        /// `ENOSPC`, `EDQUOT`, `EFBIG` or `ENOMEM`.
        #[source]
        source: io::Error,
    },
    /// The object would be larger than the address space reserved for it.
    #[error("{name:?} cannot have {bytes} bytes: this process can map {max} bytes of it")]
    TooLarge {
        /// The object.
        name: OsString,
        /// The size asked for.
        bytes: u64,
        /// The largest size here.
        max: u64,
    },
    /// Somebody cut the object off: its contents are lost.
    #[error("{name:?} was truncated from {known} to {found} bytes")]
    Truncated {
        /// The object.
        name: OsString,
        /// Bytes that it had.
        known: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The object was opened for reading only.
    #[error("{name:?} was opened for reading only: open it for writing")]
    ReadOnly {
        /// The object.
        name: OsString,
    },
    /// The handle was made before a fork, by the parent: open the object anew in the child.
    #[error("{name:?} was opened by the parent of this process: open it anew after a fork")]
    Forked {
        /// The object.
        name: OsString,
    },
    /// A system call failed.
    #[error("{op} of {name:?} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The object.
        name: OsString,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

impl ShmError {
    /// The variant that says what the caller can do about `errno`.
    pub(crate) fn from_errno(op: &'static str, name: &OsStr, errno: Errno) -> ShmError {
        let name = name.to_owned();
        match errno {
            Errno::NOENT => ShmError::NotFound { name },
            Errno::EXIST => ShmError::AlreadyExists { name },
            Errno::LOOP | Errno::ISDIR | Errno::NXIO => ShmError::NotAnObject { name },
            errno => ShmError::Io { op, name, source: errno.into() },
        }
    }

    /// The variant for a failed growth to `bytes`.
    pub(crate) fn from_growth(name: &OsStr, bytes: u64, op: &'static str, errno: Errno) -> ShmError {
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM => {
                ShmError::Full { name: name.to_owned(), bytes, source: errno.into() }
            }
            errno => ShmError::from_errno(op, name, errno),
        }
    }
}

/// Whether this process may have a file of so many bytes. Beyond the limit the system would not only refuse, but kill, by
/// `SIGXFSZ`.
fn check_limit(bytes: u64) -> Result<(), Errno> {
    let is_over = getrlimit(Resource::Fsize).current.is_some_and(|limit| bytes > limit);
    if is_over { Err(Errno::FBIG) } else { Ok(()) }
}
